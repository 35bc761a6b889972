package analysis

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"castdeck/format"
)

// Windows are the spans over which bursts are looked for, exactly: the fullest one,
// wherever it begins.
var Windows = [...]time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond}

// Buckets are the spans, aligned to multiples of themselves since 1970, over which the
// highest rate is told.
var Buckets = [...]time.Duration{
	time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute,
}

// StatsOptions of a measurement. The zero value makes no series.
type StatsOptions struct {
	// Bucket is the length of the series' buckets, aligned to multiples of it since 1970;
	// 0 makes none.
	Bucket time.Duration
	// Series takes each bucket in which anything came, once nothing more can fall into it:
	// of all streams together with stream nil, then of each. Its error ends Add.
	Series func(stream *format.StreamID, b Bucket) error
	// Timeline keeps how it all went over time, in less than 20 MiB.
	Timeline bool
	// Streams are told apart, the rest is counted together; 0 is 16,384, which is the most.
	Streams int
}

// Bucket is what came in one span of time.
type Bucket struct {
	// Start is ns since the Unix epoch.
	Start            int64
	Datagrams, Bytes uint64
}

// Burst is the fullest window.
type Burst struct {
	// Start is the time of its first datagram, ns since the Unix epoch.
	Start int64
	// Datagrams is the most that came in any window, and Bytes the most payload; the
	// two need not be of the same one, and Start is that of Datagrams.
	Datagrams, Bytes uint64
}

// sizeClasses of payload: 0 bytes, 1, 2 to 3, 4 to 7, … 32,768 to 65,535.
const sizeClasses = 17

// Bounds of the memory.
const (
	// maxStatStreams are told apart; the rest is together.
	maxStatStreams = 1 << 14
	// maxGapHistograms have streams, at 40 KB; the others are in the total's only.
	maxGapHistograms = 256
	// maxMarks and maxStreamMarks are how many times the total, and all streams together,
	// remember for the windows, at 24 bytes. Where these do not suffice,
	// neighbouring times become one, and bursts are told as not exact.
	maxMarks       = 1 << 18
	maxStreamMarks = 1 << 18
)

// Traffic is what came of one stream, or of all.
type Traffic struct {
	Datagrams, Bytes uint64
	// First and Last are times of arrival, ns since the Unix epoch.
	First, Last int64
	// Least and Most payload of a datagram, bytes on the wire.
	Least, Most uint32
	// Sizes counts datagrams by size of payload: class n is from 2^(n-1) to 2^n - 1
	// bytes, class 0 is 0 bytes.
	Sizes [sizeClasses]uint64
	// Bursts by Windows.
	Bursts [len(Windows)]Burst
	// Approximate says that bursts may be told larger than they were, because more
	// came within a window than is remembered.
	Approximate bool
	// Peaks by Buckets; each is the one with the most datagrams.
	Peaks [len(Buckets)]Bucket
	// Arrivals holds the times between datagrams in ns, with an error of 1 % at most (the
	// total: 0.1 %); those above an hour count as an hour. nil where there are none and
	// for streams past the first 256.
	Arrivals *hdrhistogram.Histogram
	// Shortest and Longest time between datagrams, ns, exactly.
	Shortest, Longest int64
	// Backwards counts datagrams that are earlier than the one before: they are taken as
	// of the same time.
	Backwards uint64
}

// StreamTraffic is what came of a stream.
type StreamTraffic struct {
	format.StreamID
	Traffic
	// Rate over time, at most 512 cells; nil without StatsOptions.Timeline, and for streams
	// past the first 1,024.
	Rate *Series[StreamCell]
}

// StatsResult of a measurement.
type StatsResult struct {
	Total Traffic
	// Streams, those with the most bytes first.
	Streams []StreamTraffic
	// Others is what came of the streams past those that are told apart: counts and times
	// only.
	Others Traffic
	// NotUDP counts packets that are left out.
	NotUDP uint64
	// Dropped is what the recording itself says it lost.
	Dropped uint64
	// Timeline is nil without StatsOptions.Timeline.
	Timeline *Timeline
}

// Stats measures rates, bursts and sizes. Its memory is bounded for any input. It is not
// safe for concurrent use.
type Stats struct {
	o          StatsOptions
	streams    format.StreamTable[meter]
	total      meter
	others     meter
	loss       losses
	notUDP     uint64
	histograms int // that streams have
	// marks that the total and the streams may still take.
	totalMarks, marks int
	busy              []*format.StreamEntry[meter] // in the bucket of the series
	timeline          *timeline                    // nil without
}

// NewStats begins a measurement.
func NewStats(o StatsOptions) *Stats {
	s := &Stats{o: o, totalMarks: maxMarks, marks: maxStreamMarks}
	s.streams.Limit = maxStatStreams
	if o.Streams > 0 {
		s.streams.Limit = min(o.Streams, maxStatStreams)
	}
	s.total.Arrivals = hdrhistogram.New(1, hour, 3)
	if o.Timeline {
		s.timeline = newTimeline()
	}
	return s
}

// Add takes a batch, in which each loss is told once: InterfaceStats.Dropped are not
// totals, but losses since the last record of the interface that no datagram tells. In
// steady state it allocates nothing. The error is that of Series.
func (s *Stats) Add(b *format.Batch) error {
	if s.timeline != nil {
		s.timeline.addLosses(b)
	}
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		s.loss.add(d.Interface, d.Drops)
		if d.Flags&format.FlagNotUDP != 0 {
			s.notUDP++
			continue
		}
		if err := s.add(d); err != nil {
			return err
		}
	}
	for i := range b.Stats {
		s.loss.add(b.Stats[i].Interface, b.Stats[i].Dropped)
	}
	return nil
}

func (s *Stats) add(d *format.Datagram) error {
	now := s.total.measure(d, &s.totalMarks)
	e, _ := s.streams.Find(d)
	m := &s.others
	if e != nil {
		m = &e.Value
		if m.Datagrams == 1 && m.Arrivals == nil && s.histograms < maxGapHistograms {
			s.histograms++
			m.Arrivals = hdrhistogram.New(1, hour, 2)
		}
		m.measure(d, &s.marks)
	} else {
		m.count(d, max(d.Time, m.Last))
	}
	if s.timeline != nil {
		s.timeline.add(now, d.Length, &s.total)
		if e != nil {
			s.timeline.stream(m.Last, d.Length, m)
		}
	}
	if s.o.Bucket <= 0 {
		return nil
	}
	start := floor(now, int64(s.o.Bucket))
	if start != s.total.series.Start {
		if err := s.closeBucket(); err != nil {
			return err
		}
		s.total.series.Start = start
	}
	s.total.series.add(1, uint64(d.Length))
	if e != nil {
		if m.series.Datagrams == 0 {
			m.series.Start = start
			s.busy = append(s.busy, e)
		}
		m.series.add(1, uint64(d.Length))
	}
	return nil
}

// closeBucket hands the bucket of the series on.
func (s *Stats) closeBucket() error {
	if s.total.series.Datagrams == 0 {
		return nil
	}
	err := s.o.Series(nil, s.total.series)
	s.total.series = Bucket{}
	for _, e := range s.busy {
		if err == nil {
			err = s.o.Series(&e.StreamID, e.Value.series)
		}
		e.Value.series = Bucket{}
	}
	s.busy = s.busy[:0]
	return err
}

// Finish ends the measurement. The error is that of Series.
func (s *Stats) Finish() (*StatsResult, error) {
	err := s.closeBucket()
	r := &StatsResult{NotUDP: s.notUDP, Dropped: s.loss.total, Total: s.total.finish(), Others: s.others.Traffic}
	for _, e := range s.streams.Entries() {
		st := StreamTraffic{StreamID: e.StreamID, Traffic: e.Value.finish()}
		if e.Value.cells != nil {
			st.Rate = e.Value.cells.Series()
		}
		r.Streams = append(r.Streams, st)
	}
	if s.timeline != nil {
		r.Timeline = s.timeline.finish()
	}
	slices.SortStableFunc(r.Streams, func(a, b StreamTraffic) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Datagrams, a.Datagrams), a.Dst.Compare(b.Dst), a.Src.Compare(b.Src))
	})
	return r, err
}

// meter measures one stream.
type meter struct {
	Traffic
	window window
	open   [len(Buckets)]Bucket
	series Bucket
	cells  *streamSeries // of the timeline; nil without
}

// measure takes a datagram and says as of which time. Marks are those that may still be
// taken.
func (m *meter) measure(d *format.Datagram, marks *int) int64 {
	now := d.Time
	if m.Datagrams > 0 {
		if now < m.Last {
			m.Backwards++
			now = m.Last
		}
		// Of times at both ends of what there is, the difference overflows an int64.
		gap := int64(min(uint64(now)-uint64(m.Last), math.MaxInt64))
		if m.Datagrams == 1 {
			m.Shortest = gap
		}
		m.Shortest, m.Longest = min(m.Shortest, gap), max(m.Longest, gap)
		if m.Arrivals != nil {
			_ = m.Arrivals.RecordValue(min(gap, hour)) // in its range
		}
	}
	m.count(d, now)
	m.window.add(now, uint64(d.Length), marks, &m.Bursts)
	if start := floor(now, int64(Buckets[0])); start != m.open[0].Start {
		m.roll(0)
		m.open[0].Start = start
	}
	m.open[0].add(1, uint64(d.Length))
	return now
}

func (t *Traffic) count(d *format.Datagram, now int64) {
	if t.Datagrams == 0 {
		t.First, t.Least = now, d.Length
	}
	t.Datagrams++
	t.Bytes += uint64(d.Length)
	t.Last = now
	t.Least, t.Most = min(t.Least, d.Length), max(t.Most, d.Length)
	t.Sizes[min(bits.Len32(d.Length), sizeClasses-1)]++
}

// roll closes the open bucket of a length and adds it to the one of the next length,
// which is a multiple.
func (m *meter) roll(i int) {
	b := m.open[i]
	m.open[i] = Bucket{}
	if b.Datagrams > m.Peaks[i].Datagrams {
		m.Peaks[i] = b
	}
	if i++; i == len(Buckets) || b.Datagrams == 0 {
		return
	}
	if start := floor(b.Start, int64(Buckets[i])); start != m.open[i].Start {
		m.roll(i)
		m.open[i].Start = start
	}
	m.open[i].add(b.Datagrams, b.Bytes)
}

func (m *meter) finish() Traffic {
	for i := range Buckets {
		m.roll(i)
	}
	m.Approximate = m.window.coarse
	return m.Traffic
}

func (b *Bucket) add(datagrams, bytes uint64) {
	b.Datagrams += datagrams
	b.Bytes += bytes
}

// floor is the highest multiple of by that is not above t.
func floor(t, by int64) int64 {
	r := t % by
	if r < 0 {
		r += by
	}
	return t - r
}

// window holds the times of the latest datagrams, as long as the longest of Windows, in
// a ring of a power of two of marks. Places count on from 0.
type window struct {
	ring   []mark
	end    uint64
	spans  [len(Windows)]span
	coarse bool
}

// mark is when something came.
type mark struct {
	time             int64
	datagrams, bytes uint64
}

// span is what is in one of Windows: the marks from tail on.
type span struct{ tail, datagrams, bytes uint64 }

func (w *window) at(place uint64) *mark { return &w.ring[place&uint64(len(w.ring)-1)] }

// begin is the oldest place that is held.
func (w *window) begin() uint64 { return w.spans[len(Windows)-1].tail }

// add takes a datagram; times do not go back.
func (w *window) add(now int64, bytes uint64, marks *int, bursts *[len(Windows)]Burst) {
	if w.end > w.begin() && w.at(w.end-1).time == now {
		m := w.at(w.end - 1)
		m.datagrams++
		m.bytes += bytes
	} else {
		w.expire(now)
		if w.end-w.begin() == uint64(len(w.ring)) {
			w.makeRoom(marks)
		}
		*w.at(w.end) = mark{now, 1, bytes}
		w.end++
	}
	for i := range w.spans {
		s, b := &w.spans[i], &bursts[i]
		s.datagrams++
		s.bytes += bytes
		if s.datagrams > b.Datagrams {
			b.Datagrams, b.Start = s.datagrams, w.at(s.tail).time
		}
		b.Bytes = max(b.Bytes, s.bytes)
	}
}

// expire drops what is as old as a window is long.
func (w *window) expire(now int64) {
	for i := range w.spans {
		s := &w.spans[i]
		for s.tail < w.end {
			m := w.at(s.tail)
			if uint64(now)-uint64(m.time) < uint64(Windows[i]) {
				break
			}
			s.datagrams -= m.datagrams
			s.bytes -= m.bytes
			s.tail++
		}
	}
}

// makeRoom doubles the ring, or where no more marks can be had makes one of each two:
// as of the later time, so that nothing leaves a window too early.
func (w *window) makeRoom(marks *int) {
	old, begin, n := w.ring, w.begin(), w.end-w.begin()
	size := max(2*len(old), 8)
	if len(old) == 0 || size-len(old) <= *marks {
		*marks -= size - len(old)
		ring := make([]mark, size)
		for p := begin; p < w.end; p++ {
			ring[p&uint64(size-1)] = old[p&uint64(len(old)-1)]
		}
		w.ring = ring
		return
	}
	w.coarse = true
	for i := range w.spans {
		s := &w.spans[i]
		if (s.tail-begin)%2 == 1 && s.tail < w.end { // the other half comes in again
			m := w.at(s.tail - 1)
			s.datagrams += m.datagrams
			s.bytes += m.bytes
		}
		s.tail = begin + (s.tail-begin)/2
	}
	for i := uint64(0); i < n; i += 2 {
		m := *w.at(begin + i)
		if i+1 < n {
			next := w.at(begin + i + 1)
			m = mark{next.time, m.datagrams + next.datagrams, m.bytes + next.bytes}
		}
		*w.at(begin + i/2) = m
	}
	w.end = begin + (n+1)/2
}
