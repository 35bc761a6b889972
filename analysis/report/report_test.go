package report

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"castdeck/analysis"
	"castdeck/format"
	"castdeck/internal/series"
	"castdeck/replayer"
)

const began = 1_700_000_000_123_456_789

func source() *Source {
	return &Source{
		MadeBy: "castdeck test", Title: "feed.pcapng.zst", Facts: []Fact{{"File", "feed.pcapng.zst"}},
		Interface: func(int) string { return "eth0" },
	}
}

// page writes the page, and checks that what the policy allows is what is on it.
func page(t testing.TB, d *Document) string {
	t.Helper()
	var b bytes.Buffer
	if err := d.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	html := b.String()
	policy := strings.ReplaceAll(regexp.MustCompile(`Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(html)[1], "&#39;", "'")
	policy = strings.ReplaceAll(policy, "&#43;", "+")
	found := 0
	for _, m := range regexp.MustCompile(`(?s)<(script|style)>(.*?)</(?:script|style)>`).FindAllStringSubmatch(html, -1) {
		found++
		if !strings.Contains(policy, hash(m[2])) {
			t.Errorf("the policy does not allow a %s of the page: %.60s", m[1], m[2])
		}
	}
	if found != 3 || !strings.HasPrefix(policy, "default-src 'none'; script-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("%d parts, policy %s", found, policy)
	}
	return html
}

// data is the document that is on the page.
func data(t testing.TB, html string) (d Document) {
	t.Helper()
	m := regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`).FindStringSubmatch(html)
	if err := json.Unmarshal([]byte(m[1]), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// measure makes the document of datagrams; each is told its number.
func measure(t testing.TB, n int, fill func(i int, d *format.Datagram)) *Document {
	t.Helper()
	s, g := analysis.NewStats(analysis.StatsOptions{Timeline: true}), analysis.NewGaps(analysis.GapOptions{Protocol: analysis.MDP3})
	b := format.NewBatch(1000, 0)
	payload := make([]byte, 1000*16)
	for i := 0; i < n; {
		b.Datagrams = b.Datagrams[:0]
		for ; i < n && len(b.Datagrams) < 1000; i++ {
			at := len(b.Datagrams) * 16
			d := format.Datagram{Payload: payload[at : at+16], Length: 16, Src: netip.MustParseAddrPort("10.0.0.1:4000"), Dst: netip.MustParseAddrPort("239.1.1.1:5000")}
			fill(i, &d)
			b.Datagrams = append(b.Datagrams, d)
		}
		g.Add(b)
		if err := s.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return FromRecording(source(), r, g.Finish())
}

// TestHours: of hours with one burst of a millisecond in them, the burst is in the cells
// in full and there by the millisecond, and gaps are where they were.
func TestHours(t *testing.T) {
	const seconds, perSecond, burst = 3 * 3600, 20, 500
	at := int64(began)
	seq := uint32(0)
	d := measure(t, seconds*perSecond+burst, func(i int, d *format.Datagram) {
		switch {
		case i > 100_000 && i <= 100_000+burst:
			at += 1000
		default:
			at += 1e9 / perSecond
		}
		if seq++; i == 150_000 {
			seq += 7
		}
		d.Time = at
		d.Payload[0], d.Payload[1], d.Payload[2], d.Payload[3] = byte(seq), byte(seq>>8), byte(seq>>16), byte(seq>>24)
	})
	d = ptr(data(t, page(t, d)))
	r := d.Recording
	if r.Rate.WidthNS < 1e6 || len(r.Rate.Datagrams) > 1<<15 {
		t.Errorf("%d cells of %d ns", len(r.Rate.Datagrams), r.Rate.WidthNS)
	}
	most := uint32(0)
	for _, n := range r.Rate.Peaks[0] {
		most = max(most, n)
	}
	if most != burst+1 {
		t.Errorf("the fullest millisecond of the cells has %d, want %d", most, burst+1)
	}
	if b := r.Bursts[0]; b.Datagrams[0] != burst+1 || b.AtNS[0] != 100_000*(1e9/perSecond) {
		t.Errorf("the worst burst: %+v", b)
	}
	sum := uint64(0)
	for _, n := range r.Rate.Datagrams {
		sum += n
	}
	if sum != r.Datagrams || sum != seconds*perSecond+burst {
		t.Errorf("%d datagrams in cells, %d in all", sum, r.Datagrams)
	}
	fine := uint32(0)
	for _, s := range r.Seconds {
		for _, n := range s.Datagrams {
			fine = max(fine, n)
		}
	}
	if fine < burst/2 { // of two milliseconds of the clock one holds half
		t.Errorf("the fullest millisecond of the clock has %d", fine)
	}
	want := [5]int64{(149_999 - burst) * (1e9 / perSecond), (150_000 - burst) * (1e9 / perSecond), 7, 0, 1}
	want[0] += burst * 1000
	want[1] += burst * 1000
	if len(r.Lanes) != 1 || len(r.Lanes[0].Marks) != 1 || r.Lanes[0].Marks[0] != want {
		t.Errorf("lanes %+v, want a mark %d", r.Lanes, want)
	}
	if d.Verdicts[0] != (Verdict{"bad", "7 numbers missing, 7 of them lost before the recorder"}) {
		t.Errorf("%+v", d.Verdicts)
	}
}

func ptr[T any](v T) *T { return &v }

// TestPageSize: a page at all its bounds, of nine hours of a million datagrams a second
// in more streams than it holds, all of them with gaps.
func TestPageSize(t *testing.T) {
	const hours, pps = 9, 1_000_000
	s := &analysis.StatsResult{Timeline: &analysis.Timeline{Rate: &analysis.Series[analysis.RateCell]{Start: began, Width: 1e9}}}
	for i := range uint64(hours * 3600) {
		s.Timeline.Rate.Cells = append(s.Timeline.Rate.Cells, analysis.RateCell{
			Datagrams: pps + i, Bytes: (pps + i) * 300, Peaks: [3]uint32{uint32(3000 + i), uint32(20_000 + i), uint32(150_000 + i)},
			PeakBytes: [3]uint64{900_000 + i, 6_000_000 + i, 45_000_000 + i}, Pause: int64(30_000 + i),
		})
	}
	for i := range int64(64) {
		second := analysis.Second{Start: began + i*100e9}
		for ms := range second.Datagrams {
			second.Datagrams[ms], second.Bytes[ms] = uint32(1000+ms), uint32(300_000+ms)
		}
		s.Timeline.Seconds = append(s.Timeline.Seconds, second)
	}
	for i := range 64 {
		l := analysis.InterfaceLosses{Interface: i, Total: 512, Lost: &analysis.Series[analysis.LossCell]{Start: began, Width: 120e9}}
		for range 512 {
			l.Lost.Cells = append(l.Lost.Cells, 1000)
		}
		s.Timeline.Losses = append(s.Timeline.Losses, l)
	}
	arrivals := hdrhistogram.New(1, math.MaxInt64/2, 2)
	for i := range int64(10_000_000) / 100 {
		_ = arrivals.RecordValues(i*i, 100)
	}
	traffic := analysis.Traffic{
		Datagrams: hours * 3600 * pps, Bytes: hours * 3600 * pps * 300, First: began, Last: began + hours*3600e9, Arrivals: arrivals, Longest: math.MaxInt64 / 2,
	}
	s.Total = traffic
	g := &analysis.GapResult{}
	for i := range 2000 {
		id := format.StreamID{
			Src: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, byte(i >> 8), byte(i)}), 40000),
			Dst: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xff, 0x3e, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, byte(i >> 8), byte(i)}), 50000),
		}
		st := analysis.StreamTraffic{StreamID: id, Traffic: traffic, Rate: &analysis.Series[analysis.StreamCell]{Start: began, Width: 120e9}}
		for range 512 {
			st.Rate.Cells = append(st.Rate.Cells, analysis.StreamCell{Datagrams: 123456, Bytes: 37036800})
		}
		s.Streams = append(s.Streams, st)
		n := analysis.Numbering{StreamID: id, Protocol: analysis.MoldUDP64, Channel: "0123456789", Counts: analysis.Counts{Missing: 100_000, Ranges: 1000, Received: 1e12}}
		for k := range int64(1000) {
			n.Gaps = append(n.Gaps, analysis.Range{Count: 100, Since: began + k*30e9, Time: began + k*30e9 + 12_345_678})
		}
		g.Numberings = append(g.Numberings, n)
	}
	src := source()
	for range 1000 {
		src.Events = append(src.Events, format.Event{Time: began, Kind: format.EventHost, Text: strings.Repeat("lost ", 200), Interface: format.NoInterface})
		src.Damage = append(src.Damage, strings.Repeat("damaged ", 30))
	}
	html := page(t, FromRecording(src, s, g))
	t.Logf("%.2f MB", float64(len(html))/1e6)
	if len(html) > 5_000_000 {
		t.Errorf("%d bytes", len(html))
	}
	if d := data(t, html); len(d.Notes) < 4 || len(d.Recording.Streams) != maxRows || len(d.Recording.Lanes) != maxLanes {
		t.Errorf("%d streams, %d lanes, notes %q", len(d.Recording.Streams), len(d.Recording.Lanes), d.Notes)
	}
}

// TestHostileNames: whatever names and texts hold, they are text: no element, attribute
// or script comes of them, and they come back as they were.
func TestHostileNames(t *testing.T) {
	evil := `</script><script>alert(1)</script><img src=x onerror=alert(1)>"'><!--` + "\u2028{{.}}${1}\\"
	src := &Source{
		MadeBy: evil, Title: evil, Facts: []Fact{{evil, evil}}, Damage: []string{evil}, Interface: func(int) string { return evil },
		Events: []format.Event{{Time: began, Kind: evil, Text: evil, Interface: 0}},
	}
	s := &analysis.StatsResult{
		Total:    analysis.Traffic{Datagrams: 1, First: began, Last: began},
		Streams:  []analysis.StreamTraffic{{StreamID: format.StreamID{Interface: 3}, Traffic: analysis.Traffic{Datagrams: 1}}},
		Timeline: &analysis.Timeline{Rate: &analysis.Series[analysis.RateCell]{Width: 1000, Cells: make([]analysis.RateCell, 1)}},
	}
	g := &analysis.GapResult{Numberings: []analysis.Numbering{{Protocol: analysis.RTP, Channel: evil}}}
	html := page(t, FromRecording(src, s, g))
	for _, tag := range []string{"<img", "onerror=alert(1)>", "<script>alert", "<!--"} {
		if strings.Contains(html, tag) {
			t.Errorf("%q is on the page", tag)
		}
	}
	if n := strings.Count(html, "<script"); n != 3 {
		t.Errorf("%d scripts", n)
	}
	d := data(t, html)
	if d.Title != evil || d.Recording.Events[0].Text != evil || d.Recording.Streams[0].Interface != evil || d.Recording.Numberings[0].Channel != evil || d.Recording.Damage[0] != evil {
		t.Errorf("names changed: %q", d.Title)
	}
}

// datagrams is a reader of what it holds.
type datagrams []format.Datagram

func (d *datagrams) ReadBatch(b *format.Batch) error {
	b.Reset()
	if len(*d) == 0 {
		return io.EOF
	}
	n := min(len(*d), 500)
	b.Datagrams, *d = append(b.Datagrams, (*d)[:n]...), (*d)[n:]
	return nil
}

// comparedFeed makes the document of a feed and what came of it 20 us later by a clock that
// is 3 s ahead: some datagrams are lost, one comes twice and one late.
func comparedFeed(t testing.TB, differences ...string) *Document {
	t.Helper()
	var a, b datagrams
	for i := range 10_000 {
		d := format.Datagram{
			Time: began + int64(i)*1e6, Payload: []byte{byte(i), byte(i >> 8), 1, 2}, Length: 4,
			Src: netip.MustParseAddrPort("10.0.0.1:4000"), Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(i % 3)}), 5000),
		}
		a = append(a, d)
		d.Time += 3e9 + 20_000 + int64(i%7)*1000
		if i < 5000 || i >= 5100 {
			b = append(b, d)
		}
		if i == 7000 {
			b = append(b, d)
		}
	}
	late := b[100]
	late.Time = b[112].Time + 1
	b = slices.Insert(slices.Delete(b, 100, 101), 112, late)
	r, err := analysis.Compare(&a, &b, analysis.CompareOptions{Timeline: true, Clock: &analysis.Clock{Offset: 3e9}})
	if err != nil {
		t.Fatal(err)
	}
	return FromComparison(source(), r, &analysis.Clock{Offset: 3e9}, differences)
}

// TestComparison: what differs is in the cells at its time, and in the table.
func TestComparison(t *testing.T) {
	d := data(t, page(t, comparedFeed(t, "100 lost")))
	c := d.Comparison
	if c.Matched != 9900 || c.OnlyA != 100 || c.DuplicatesB != 1 || c.Reordered != 1 || len(c.Streams) != 3 || d.Verdicts[0] != (Verdict{"bad", "100 lost"}) {
		t.Errorf("%+v, %+v", c.Compared, d.Verdicts)
	}
	lost := uint64(0)
	for i, n := range c.Cells.OnlyA {
		from := d.StartNS + c.Cells.FromNS + int64(i)*c.Cells.WidthNS
		if lost += n; n > 0 && (from+c.Cells.WidthNS <= began+5000e6 || from >= began+5100e6) {
			t.Errorf("%d are lost from %d on", n, from)
		}
		if c.Cells.Matched[i] > 0 && (c.Cells.LeastNS[i] < 20_000 || c.Cells.MeanNS[i] < c.Cells.LeastNS[i] || c.Cells.MostNS[i] < c.Cells.MeanNS[i]) {
			t.Errorf("cell %d: latencies %d, %d, %d", i, c.Cells.LeastNS[i], c.Cells.MeanNS[i], c.Cells.MostNS[i])
		}
	}
	if lost != 100 || c.LatencyNS.Min != 20_000 || c.Latencies[0] != [2]float64{0, 20_000} {
		t.Errorf("%d lost in cells, latency %+v", lost, c.LatencyNS)
	}
	var none datagrams
	r, err := analysis.Compare(&none, &none, analysis.CompareOptions{Timeline: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := data(t, page(t, FromComparison(source(), r, nil, nil))); d.Verdicts[0].Text != "nothing to compare" {
		t.Errorf("%+v", d.Verdicts)
	}
}

// replayed is the report of a replay of a second that stalled for 50 ms.
func replayed() *replayer.Report {
	cells := series.New[replayer.HistoryCell](1000)
	late := hdrhistogram.New(1, 1e12, 3)
	for i := range int64(10_000) {
		due := i * 100_000
		left := due + 3000
		if due > 400e6 && due < 450e6 {
			left = 450e6
		}
		cells.At(due).Due++
		c := cells.At(left)
		c.Sent++
		c.Bytes += 100
		c.LatenessSum += left - due
		c.MaxLateness = max(c.MaxLateness, left-due)
		_ = late.RecordValue(left - due)
	}
	l := replayer.Lateness{Count: 10_000, P50: 3000, P99: 49e6, Max: 49_900_000, Histogram: late}
	return &replayer.Report{
		Datagrams: 10_000, Bytes: 1_000_000, Duration: time.Second, Recorded: time.Second, RatePPS: 10_000, Lateness: l, IntervalError: l,
		History: &replayer.History{Began: time.Unix(0, began), Cells: cells.Series()},
		Destinations: []replayer.DestinationReport{{
			Destination: netip.MustParseAddrPort("239.1.1.1:5000"), Way: replayer.Way{Interface: "eth0"}, Datagrams: 10_000, Bytes: 1_000_000, MaxLateness: l.Max, Lateness: late,
		}},
	}
}

// TestReplayed: what was due and what was sent are apart where it stalled.
func TestReplayed(t *testing.T) {
	d := data(t, page(t, FromReplay(source(), replayed(), nil)))
	c := d.Replay.Cells
	at := func(ns int64) int { return int((ns - c.FromNS) / c.WidthNS) }
	due, sent := uint64(0), uint64(0)
	for i := at(410e6); i < at(440e6); i++ {
		due, sent = due+c.Due[i], sent+c.Sent[i]
	}
	if due != 300 || sent != 0 || c.MaxNS[at(450e6)] != 49_900_000 || d.StartNS != began || d.Verdicts[0].Level != "good" {
		t.Errorf("%d due, %d sent, max %d; %+v", due, sent, c.MaxNS[at(450e6)], d.Verdicts)
	}
	if d := FromReplay(source(), replayed(), []string{"interrupted"}); d.Verdicts[0] != (Verdict{"bad", "interrupted"}) {
		t.Errorf("%+v", d.Verdicts)
	}
}

// TestJoinMarks: as many marks as fit; nothing of what they count is lost.
func TestJoinMarks(t *testing.T) {
	for _, most := range []int{1, 2, 7, 100, 1000} {
		var marks [][5]int64
		for i := range int64(500) {
			marks = append(marks, [5]int64{i * i, i*i + 3, 2, 1, 1})
		}
		joined := joinMarks(marks, most)
		var sum [3]int64
		for i, m := range joined {
			sum[0], sum[1], sum[2] = sum[0]+m[2], sum[1]+m[3], sum[2]+m[4]
			if i > 0 && m[0] < joined[i-1][0] {
				t.Errorf("%d: out of order", most)
			}
		}
		if len(joined) > most || sum != [3]int64{1000, 500, 500} || joined[0][0] != 0 || joined[len(joined)-1][1] != 499*499+3 {
			t.Errorf("%d: %d marks with %d", most, len(joined), sum)
		}
	}
}

// TestCurve: the points rise, begin with the smallest and end with the largest value.
func TestCurve(t *testing.T) {
	h := hdrhistogram.New(1, 1e12, 3)
	for i := range int64(10_000) {
		_ = h.RecordValue(i + 1)
	}
	c := histogramCurve(h, 1, 10_000)
	if c[0] != [2]float64{0, 1} || c[len(c)-1] != [2]float64{4, 10_000} {
		t.Errorf("from %v to %v", c[0], c[len(c)-1])
	}
	for i := 1; i < len(c); i++ {
		if c[i][0] <= c[i-1][0] || c[i][1] < c[i-1][1] {
			t.Errorf("%v behind %v", c[i], c[i-1])
		}
	}
	if p99 := c[20]; p99[0] != 2 || math.Abs(p99[1]-9900) > 10 {
		t.Errorf("99 %%: %v", p99)
	}
	if histogramCurve(nil, 0, 0) != nil || len(curve(1, 5, 5, nil)) != 2 {
		t.Error("of nothing, and of one value")
	}
}

// TestNothing: a capture without a datagram makes a page.
func TestNothing(t *testing.T) {
	d := data(t, page(t, measure(t, 0, nil)))
	if d.SpanNS != 0 || d.Recording.Datagrams != 0 || d.Verdicts[0].Text != "no datagrams" {
		t.Errorf("%+v", d)
	}
}
