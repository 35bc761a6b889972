package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"castdeck/analysis"
	"castdeck/format"
)

// Bounds of what a page holds; what they leave out is said in Document.Notes.
const (
	maxRows       = 600     // of a table
	maxLines      = 48      // streams with a line of their own
	maxLanes      = 200     // numberings with a lane of gaps
	maxMarks      = 12_000  // gaps in all lanes together
	maxLossMarks  = 6_000   // losses of all interfaces together
	maxDamage     = 100     // places
	maxEvents     = 500     // the last ones
	maxTextLength = 300     // of an event
	maxBursts     = 20      // in their table
	millisecond   = 1000000 // ns
)

// Recording is what a page of a recording shows.
type Recording struct {
	Datagrams uint64 `json:"datagrams"`
	Bytes     uint64 `json:"bytes"`
	// WindowsNS are the lengths of the windows in which bursts are looked for.
	WindowsNS []int64 `json:"windows_ns"`
	Rate      Rate    `json:"rate"`
	// Seconds are shown by the millisecond: those with the fullest milliseconds. There
	// are none where Rate is as fine.
	Seconds []Second `json:"seconds"`
	// Bursts are the fullest seconds of the clock, the fullest first.
	Bursts        []Burst      `json:"bursts"`
	Streams       []Stream     `json:"streams"`
	Numberings    []Numbering  `json:"numberings"`
	Lanes         []Lane       `json:"lanes"`
	Losses        []Losses     `json:"losses"`
	Events        []Event      `json:"events"`
	Damage        []string     `json:"damage"`
	Arrivals      Curve        `json:"arrivals"`
	ArrivalCounts []ClassCount `json:"arrival_histogram"`
	SizeCounts    []ClassCount `json:"size_histogram"`
}

// Rate is traffic over time in cells of one width; from FromNS on, without a break.
type Rate struct {
	FromNS    int64    `json:"from_ns"`
	WidthNS   int64    `json:"width_ns"`
	Datagrams []uint64 `json:"datagrams"`
	Bytes     []uint64 `json:"bytes"`
	// Peaks are, for each of WindowsNS, the most datagrams in any window that ended in
	// the cell, PeakBytes the most payload; PausesNS the longest time without any
	// datagram.
	Peaks     [][]uint32 `json:"peaks,omitempty"`
	PeakBytes [][]uint64 `json:"peak_bytes,omitempty"`
	PausesNS  []int64    `json:"pauses_ns,omitempty"`
}

// Second is a second of the clock by the millisecond.
type Second struct {
	FromNS    int64    `json:"from_ns"`
	Datagrams []uint32 `json:"datagrams"`
	Bytes     []uint32 `json:"bytes"`
}

// Burst tells the fullest windows of a second: for each of WindowsNS the datagrams, the
// payload and where it begins.
type Burst struct {
	Datagrams []uint64 `json:"datagrams"`
	Bytes     []uint64 `json:"bytes"`
	AtNS      []int64  `json:"at_ns"`
}

// Name is a stream.
type Name struct {
	Source    string `json:"source"`
	Group     string `json:"group"`
	Interface string `json:"interface"`
}

// Stream is what came of a stream.
type Stream struct {
	Name
	Datagrams  uint64   `json:"datagrams"`
	Bytes      uint64   `json:"bytes"`
	FromNS     int64    `json:"from_ns"`
	ToNS       int64    `json:"to_ns"`
	SizeMin    uint32   `json:"size_min"`
	SizeMax    uint32   `json:"size_max"`
	Bursts     []uint64 `json:"bursts"`
	MissingOf  *uint64  `json:"missing"` // null where there are no numbers
	ArrivalP50 *int64   `json:"interarrival_p50_ns"`
	ArrivalP99 *int64   `json:"interarrival_p99_ns"`
	LongestNS  int64    `json:"interarrival_max_ns"`
	Rate       *Rate    `json:"rate,omitempty"`
	Arrivals   Curve    `json:"arrivals,omitempty"`
}

// Numbering is a row of the table of losses.
type Numbering struct {
	Name
	Protocol   string  `json:"protocol"`
	Channel    string  `json:"channel,omitempty"`
	Confidence float64 `json:"confidence"`
	Received   uint64  `json:"received"`
	Missing    uint64  `json:"missing"`
	Gaps       uint64  `json:"gap_count"`
	Noted      uint64  `json:"lost_in_recording"`
	Duplicates uint64  `json:"duplicates"`
	Reordered  uint64  `json:"reordered"`
	Resets     uint64  `json:"resets"`
}

// Lane is the gaps of one numbering over time.
type Lane struct {
	// Label is the group, and the numbering where a stream has several.
	Label  string `json:"label"`
	Source string `json:"source"`
	FromNS int64  `json:"from_ns"`
	ToNS   int64  `json:"to_ns"`
	// Marks are from_ns, to_ns, how many numbers are missing, the part of them that
	// the recorder lost, and of how many gaps it was made.
	Marks [][5]int64 `json:"marks"`
}

// Losses are those that the recording tells of an interface.
type Losses struct {
	Interface string `json:"interface"`
	Total     uint64 `json:"total"`
	// Marks are from_ns, to_ns and the number.
	Marks [][3]int64 `json:"marks"`
}

// Event is something that happened meanwhile.
type Event struct {
	AtNS      int64  `json:"at_ns"`
	Kind      string `json:"kind"`
	Interface string `json:"interface,omitempty"`
	Text      string `json:"text"`
}

// ClassCount is a class of a histogram, both ends in it.
type ClassCount struct {
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	Datagrams uint64 `json:"datagrams"`
}

// FromRecording makes the page of a recording: s was measured with a timeline, g of the
// same datagrams.
func FromRecording(src *Source, s *analysis.StatsResult, g *analysis.GapResult) *Document {
	t := &s.Total
	d := src.document("recording", t.First, t.Last)
	b := &recordingBuilder{src: src, d: d, start: t.First}
	r := &Recording{
		Datagrams: t.Datagrams, Bytes: t.Bytes, Rate: b.rate(s.Timeline.Rate), Seconds: []Second{}, Bursts: []Burst{}, Streams: []Stream{},
		Numberings: []Numbering{}, Lanes: []Lane{}, Losses: []Losses{}, Events: []Event{}, Damage: append([]string{}, src.Damage[:min(len(src.Damage), maxDamage)]...),
		Arrivals: histogramCurve(t.Arrivals, t.Shortest, t.Longest), ArrivalCounts: arrivalClasses(t), SizeCounts: sizeClasses(t),
	}
	for _, w := range analysis.Windows {
		r.WindowsNS = append(r.WindowsNS, int64(w))
	}
	d.Recording = r
	b.seconds(s.Timeline)
	b.streams(s, g)
	b.gaps(s, g)
	b.losses(s.Timeline)
	b.events()
	if n := len(src.Damage); n > maxDamage {
		b.note("The first %s places of damage are listed, of %s at least.", comma(maxDamage), comma(uint64(n)))
	}
	b.figures(s, g)
	return d
}

type recordingBuilder struct {
	src   *Source
	d     *Document
	start int64
}

func (b *recordingBuilder) note(format string, args ...any) {
	b.d.Notes = append(b.d.Notes, fmt.Sprintf(format, args...))
}

func (b *recordingBuilder) rate(s *analysis.Series[analysis.RateCell]) Rate {
	n := len(s.Cells)
	r := Rate{FromNS: s.Start - b.start, WidthNS: s.Width, Datagrams: make([]uint64, n), Bytes: make([]uint64, n), PausesNS: make([]int64, n)}
	for range analysis.Windows {
		r.Peaks, r.PeakBytes = append(r.Peaks, make([]uint32, n)), append(r.PeakBytes, make([]uint64, n))
	}
	for i := range s.Cells {
		c := &s.Cells[i]
		r.Datagrams[i], r.Bytes[i], r.PausesNS[i] = c.Datagrams, c.Bytes, c.Pause
		for w := range analysis.Windows {
			r.Peaks[w][i], r.PeakBytes[w][i] = c.Peaks[w], c.PeakBytes[w]
		}
	}
	return r
}

func (b *recordingBuilder) seconds(t *analysis.Timeline) {
	r := b.d.Recording
	byPeak := slices.Clone(t.Seconds)
	slices.SortStableFunc(byPeak, func(x, y analysis.Second) int {
		return cmp.Or(cmp.Compare(y.Bursts[0].Datagrams, x.Bursts[0].Datagrams), cmp.Compare(x.Start, y.Start))
	})
	for i := range byPeak[:min(len(byPeak), maxBursts)] {
		s := &byPeak[i]
		var row Burst
		for _, w := range s.Bursts {
			row.Datagrams, row.Bytes, row.AtNS = append(row.Datagrams, w.Datagrams), append(row.Bytes, w.Bytes), append(row.AtNS, w.Start-b.start)
		}
		r.Bursts = append(r.Bursts, row)
	}
	if t.Rate.Width <= millisecond {
		return
	}
	for i := range t.Seconds {
		s := &t.Seconds[i]
		r.Seconds = append(r.Seconds, Second{FromNS: s.Start - b.start, Datagrams: s.Datagrams[:], Bytes: s.Bytes[:]})
	}
}

func (b *recordingBuilder) name(id *format.StreamID) Name {
	return Name{Source: id.Src.String(), Group: id.Dst.String(), Interface: b.src.Interface(int(id.Interface))}
}

func (b *recordingBuilder) streams(s *analysis.StatsResult, g *analysis.GapResult) {
	missing := map[format.StreamID]*uint64{}
	for i := range g.Numberings {
		if n := &g.Numberings[i]; n.Protocol != analysis.Unknown {
			if missing[n.StreamID] == nil {
				missing[n.StreamID] = new(uint64)
			}
			*missing[n.StreamID] += n.Missing
		}
	}
	r := b.d.Recording
	lines := 0
	for i := range s.Streams[:min(len(s.Streams), maxRows)] {
		t := &s.Streams[i]
		row := Stream{
			Name: b.name(&t.StreamID), Datagrams: t.Datagrams, Bytes: t.Bytes, FromNS: t.First - b.start, ToNS: t.Last - b.start,
			SizeMin: t.Least, SizeMax: t.Most, MissingOf: missing[t.StreamID], LongestNS: t.Longest,
		}
		for _, w := range t.Bursts {
			row.Bursts = append(row.Bursts, w.Datagrams)
		}
		if h := t.Arrivals; h != nil && h.TotalCount() > 0 {
			p50, p99 := min(h.ValueAtQuantile(50), t.Longest), min(h.ValueAtQuantile(99), t.Longest)
			row.ArrivalP50, row.ArrivalP99 = &p50, &p99
		}
		if t.Rate != nil && lines < maxLines {
			lines++
			row.Rate = b.streamRate(t.Rate)
			row.Arrivals = histogramCurve(t.Arrivals, t.Shortest, t.Longest)
		}
		r.Streams = append(r.Streams, row)
	}
	if n := len(s.Streams); n > maxRows {
		b.note("The table of streams has the %s with the most payload of %s.", comma(maxRows), comma(uint64(n)))
	}
	if n := len(s.Streams); n > lines {
		b.note("%s of %s streams have a line of their own.", comma(uint64(lines)), comma(uint64(n)))
	}
	if s.Others.Datagrams > 0 {
		b.note("%s of more streams than can be told apart are in the totals only.", plural(s.Others.Datagrams, "datagram"))
	}
}

func (b *recordingBuilder) streamRate(s *analysis.Series[analysis.StreamCell]) *Rate {
	n := len(s.Cells)
	r := &Rate{FromNS: s.Start - b.start, WidthNS: s.Width, Datagrams: make([]uint64, n), Bytes: make([]uint64, n)}
	for i, c := range s.Cells {
		r.Datagrams[i], r.Bytes[i] = c.Datagrams, c.Bytes
	}
	return r
}

func (b *recordingBuilder) losses(t *analysis.Timeline) {
	for _, l := range t.Losses {
		row := Losses{Interface: "further interfaces", Total: l.Total}
		if l.Interface >= 0 {
			row.Interface = b.src.Interface(l.Interface)
		}
		marks := [][5]int64{}
		for i, n := range l.Lost.Cells {
			if n > 0 {
				from := l.Lost.Start + int64(i)*l.Lost.Width - b.start
				marks = append(marks, [5]int64{from, from + l.Lost.Width, int64(n)})
			}
		}
		for _, m := range joinMarks(marks, maxLossMarks/len(t.Losses)) {
			row.Marks = append(row.Marks, [3]int64(m[:3]))
		}
		b.d.Recording.Losses = append(b.d.Recording.Losses, row)
	}
}

func (b *recordingBuilder) events() {
	list := b.src.Events
	if cut := len(list) - maxEvents; cut > 0 {
		list = list[cut:]
		b.note("Of the events the last %s are listed.", comma(maxEvents))
	}
	for i := range list {
		e := &list[i]
		row := Event{AtNS: e.Time - b.start, Kind: e.Kind, Text: e.Text}
		if len(row.Text) > maxTextLength {
			row.Text = strings.ToValidUTF8(row.Text[:maxTextLength], "") + " ..."
		}
		if e.Interface != format.NoInterface {
			row.Interface = b.src.Interface(int(e.Interface))
		}
		b.d.Recording.Events = append(b.d.Recording.Events, row)
	}
}

// figures are what there is to know first.
func (b *recordingBuilder) figures(s *analysis.StatsResult, g *analysis.GapResult) {
	d, t := b.d, &s.Total
	d.figure("Datagrams", comma(t.Datagrams), si(perSecond(t.Datagrams, d.SpanNS), "/s")+" mean")
	d.figure("Payload", si(float64(t.Bytes), "B"), si(8*perSecond(t.Bytes, d.SpanNS), "bit/s")+" mean")
	d.figure("Time", nanos(d.SpanNS), plural(uint64(len(s.Streams)), "stream"))
	burst := t.Bursts[0]
	exact := ""
	if t.Approximate {
		exact = " at most"
	}
	d.figure("Fullest millisecond", comma(burst.Datagrams), si(float64(burst.Datagrams)*1000, "/s")+", "+si(float64(burst.Bytes)*8000, "bit/s")+exact)
	d.figure("Longest pause", nanos(t.Longest), "between datagrams")
	d.figure("Recorder lost", comma(s.Dropped), "as the recording says")
	numbered := uint64(0)
	for i := range g.Numberings {
		if g.Numberings[i].Protocol != analysis.Unknown {
			numbered++
		}
	}
	if numbered > 0 {
		d.figure("Missing numbers", comma(g.Total.Missing), fmt.Sprintf("in %s of %s", plural(g.Total.Ranges, "gap"), plural(numbered, "numbering")))
	} else {
		d.figure("Missing numbers", "-", "no numbering was recognised")
	}

	if len(b.src.Damage) > 0 {
		d.say("bad", "damaged, or not whole")
	}
	if s.Dropped > 0 {
		d.say("bad", "the recorder lost "+plural(s.Dropped, "datagram"))
	}
	switch before := g.Total.Missing - min(g.Total.Noted, g.Total.Missing); {
	case g.Total.Missing == 0:
	case before == 0:
		d.say("bad", plural(g.Total.Missing, "number")+" missing, at most what the recorder lost")
	default:
		d.say("bad", plural(g.Total.Missing, "number")+" missing, "+comma(before)+" of them lost before the recorder")
	}
	if len(d.Verdicts) == 0 {
		switch {
		case t.Datagrams == 0:
			d.say("note", "no datagrams")
		case numbered > 0:
			d.say("good", "nothing lost: no recorded loss, no missing number")
		default:
			d.say("good", "no recorded loss")
		}
	}
	if g.Unknown > 0 && t.Datagrams > 0 {
		d.say("note", plural(uint64(g.Unknown), "stream")+" without known numbers")
	}
	if t.Backwards > 0 {
		d.say("note", plural(t.Backwards, "datagram")+" earlier than the one before")
	}
}
