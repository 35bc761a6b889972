// Package analysis answers questions from recordings. It reads batches and knows
// neither files nor sockets.
package analysis

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sort"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/cespare/xxhash/v2"

	"castdeck/format"
	"castdeck/internal/series"
)

// CompareOptions of a comparison. The zero value compares streams as they are.
type CompareOptions struct {
	// Destination, where not nil, says where in b to look for what a holds for dst:
	// the mapping of a replay.
	Destination func(dst netip.AddrPort) netip.AddrPort
	// AnySource makes one stream of all that goes to a destination, whatever its
	// source port: for redundant lines, which are sent from different ports.
	AnySource bool
	// Window is how many datagrams of each side are held while they wait for their
	// match, all streams together: default 131,072, at most 2^24. It bounds the memory,
	// about 140 bytes each, and how far apart in order the two sides may be.
	Window int
	// Time is how far behind the latest match, by the clock of its own side, a
	// datagram waits: default 1 s. It bounds how much later than others a datagram may
	// come and still be reordered instead of lost. The difference of the two
	// sides' clocks is no part of it.
	Time time.Duration
	// Numbers, where given, tell which datagrams were changed: those with the same number
	// and other bytes. Without it that is told by their place.
	Numbers Numbers
	// Clock, where not nil, is taken out of latencies and interval errors: what a
	// comparison before estimated.
	Clock *Clock
	// Timeline keeps how it all went over time.
	Timeline bool
}

const (
	defaultWindow = 1 << 17
	maxWindow     = 1 << 24
	defaultWait   = time.Second
)

// StreamKey names the two sides of a stream: the source's address may differ,
// because a replay leaves from another host, its port and the destination not.
type StreamKey struct {
	SourcePort  uint16 // 0 with AnySource
	Destination netip.AddrPort
}

// Comparison is how one stream, or all of them together, agree. For each side
// Matched + Only + Duplicates is what was read.
type Comparison struct {
	StreamKey
	// SourceA and DestinationA are of the stream's first datagram in a, SourceB and
	// Destination of that in b; invalid where a side has none, and in the total.
	SourceA, DestinationA, SourceB netip.AddrPort
	// Matched datagrams are in both, byte for byte (64-bit hash and length). Payloads
	// that both sides repeat match in the order in which they came.
	Matched uint64
	// OnlyA and OnlyB are in one side only: lost on the way, or made there.
	OnlyA, OnlyB uint64
	// DuplicatesA and DuplicatesB repeat a payload that was matched once. Where both
	// sides repeat it, as heartbeats do, what one has more of is in Only: nobody can
	// tell which one it was.
	DuplicatesA, DuplicatesB uint64
	// Reordered counts matched datagrams that stand in b behind one that stands
	// later in a (RFC 4737, 3.3).
	Reordered uint64
	// Changed counts pairs of OnlyA and OnlyB with the same number, or without
	// CompareOptions.Numbers in the same place of the stream, between the same two matched
	// neighbours.
	Changed uint64
	// Latency is time in b minus time in a of each match.
	Latency *Latency
	// IntervalError holds, for each pair of matched datagrams that follow each
	// other in b, how much their distance in time differs between a and b, in ns.
	// Differences above an hour count as an hour. As Latency it is nil where there is
	// no such pair, and for streams past the first 256, which are in the total's only.
	IntervalError *hdrhistogram.Histogram
}

// Equal says that both sides hold the same datagrams in the same order.
func (c *Comparison) Equal() bool {
	return c.OnlyA+c.OnlyB+c.DuplicatesA+c.DuplicatesB+c.Reordered == 0
}

const hour = 3_600_000_000_000

// Bounds of what a capture with made-up streams can cost.
const (
	maxStreams    = format.MaxStreams
	maxHistograms = 256 // streams; 40 KB for each of two or three
)

// Result of a comparison.
type Result struct {
	Total   *Comparison
	Streams []*Comparison // by destination
	// NotCompared counts packets that are not UDP, on both sides.
	NotCompared uint64
	// Damage of the inputs, a and b; reading went on behind it.
	Damage [2]format.DamageLog
	// Timeline is nil without CompareOptions.Timeline; at most 8,192 cells.
	Timeline *Series[CompareCell]

	clock clockFit
}

// Clock estimates how b's clock stands to a's from the differences of the times of
// all matches; false where nothing matched. By their minima the fastest datagrams
// took no time at all; by the median, which is robust where a is not always first,
// the middle one.
func (r *Result) Clock(median bool) (Clock, bool) { return r.clock.fit(median) }

// Compare matches the datagrams of two recordings stream by stream. The error is a
// failure to read.
//
// Both are read once, side by side: next comes the side that is behind, by its time
// since the latest match. As long as nothing matched a quarter of the window is held
// of each, then the side is read on whose clock is behind; so the later one may
// begin anywhere in the earlier one.
func Compare(a, b format.BatchReader, o CompareOptions) (*Result, error) {
	c := newComparer(o)
	readers := [2]format.BatchReader{a, b}
	for !c.sides[0].done || !c.sides[1].done {
		s := c.behind()
		if err := c.step(s, readers[s]); err != nil {
			return nil, err
		}
	}
	return c.finish(), nil
}

type comparer struct {
	o       CompareOptions
	wait    int64 // o.Time in ns
	sides   [2]side
	streams map[StreamKey]*stream
	list    []*stream
	result  *Result
	total   *Comparison
	// histograms counts the streams that have them.
	histograms int
	payloads   payloads
	timeline   *compareSeries // nil without
	sync
}

type side struct {
	queue
	batch format.Batch
	done  bool
	last  int64 // time of the latest datagram that was read
	// streams are those of its addresses, before they are mapped.
	streams format.StreamTable[*stream]
	// given up, by number.
	lone lone
}

type stream struct {
	*Comparison
	id      uint32
	last    [2]uint64 // places of the latest match that is in order on both sides
	highest uint64    // of the places in a of those matches that b is past
	late    int64     // latency of the latest match in b's order
	any     bool
	runs    [2]run
}

// sync is where the two sides stand to each other.
type sync struct {
	anchored bool
	place    [2]uint64 // of a recent match
	time     [2]int64
	start    [2]int64 // times of the first one
	repeats  int      // matches of repeated payloads since
}

func newComparer(o CompareOptions) *comparer {
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	o.Window = min(o.Window, maxWindow)
	if o.Time <= 0 {
		o.Time = defaultWait
	}
	c := &comparer{
		o: o, wait: int64(o.Time), streams: map[StreamKey]*stream{}, result: &Result{}, total: &Comparison{},
		payloads: newPayloads(2*o.Window + rememberedPayloads),
		sides:    [2]side{{queue: newQueue(o.Window)}, {queue: newQueue(o.Window)}},
	}
	if o.Timeline {
		c.timeline = series.New[CompareCell](maxCompareCells)
	}
	return c
}

// behind is the side to read next.
func (c *comparer) behind() int {
	a, b := &c.sides[0], &c.sides[1]
	switch {
	case a.done:
		return 1
	case b.done:
		return 0
	}
	ahead := [2]uint64{a.next - c.place[0], b.next - c.place[1]}
	quarter := uint64(c.o.Window) / 4
	if !c.anchored && (ahead[0] < quarter || ahead[1] < quarter) {
		return boolIndex(ahead[1] < ahead[0])
	}
	progress := [2]float64{float64(a.last), float64(b.last)}
	if c.anchored {
		progress = [2]float64{float64(a.last-c.time[0]) * c.pace(), float64(b.last - c.time[1])}
	}
	s := boolIndex(progress[1] < progress[0] || progress[1] == progress[0] && ahead[1] < ahead[0])
	// Clocks jump: before anything falls out of the window the other side fills a
	// part of its own.
	if ahead[s] > 2*quarter && ahead[1-s] < quarter {
		return 1 - s
	}
	return s
}

func boolIndex(b bool) int {
	if b {
		return 1
	}
	return 0
}

// pace is how fast b's times run by a's, as with a replay at another speed.
func (s *sync) pace() float64 {
	a, b := s.time[0]-s.start[0], s.time[1]-s.start[1]
	if a < int64(time.Millisecond) || b < 1 {
		return 1
	}
	return min(max(float64(b)/float64(a), 1e-4), 1e4)
}

// near says whether two times, of a and b, are as far apart as those of the latest
// match, give or take within.
func (s *sync) near(a, b, within int64) bool {
	if !s.anchored {
		return true
	}
	return math.Abs(float64(b-s.time[1])-float64(a-s.time[0])*s.pace()) <= float64(within)
}

func (c *comparer) step(n int, r format.BatchReader) error {
	s := &c.sides[n]
	err := r.ReadBatch(&s.batch)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		s.done = true
		return nil
	case format.Damaged(err):
		c.result.Damage[n].Note(err)
		return nil
	default:
		return err
	}
	c.result.Damage[n].Saw(&s.batch)
	for i := range s.batch.Datagrams {
		d := &s.batch.Datagrams[i]
		if d.Flags&format.FlagNotUDP != 0 {
			c.result.NotCompared++
			continue
		}
		st := c.stream(n, d)
		if st == nil {
			return fmt.Errorf("more than %d streams; compare a part of them", maxStreams)
		}
		s.last = d.Time
		c.add(n, st, xxhash.Sum64(d.Payload)^uint64(d.Length)*golden, c.o.Numbers.key(d.Payload), d.Time)
	}
	return nil
}

// golden spreads small numbers: 2^64 divided by the golden ratio.
const golden = 0x9E3779B97F4A7C15

// stream finds d's stream or begins one; nil where there are too many.
func (c *comparer) stream(n int, d *format.Datagram) *stream {
	e, fresh := c.sides[n].streams.Find(d)
	if !fresh {
		if e == nil {
			return nil
		}
		return e.Value
	}
	k := StreamKey{Destination: d.Dst}
	if !c.o.AnySource {
		k.SourcePort = d.Src.Port()
	}
	if n == 0 && c.o.Destination != nil {
		k.Destination = c.o.Destination(d.Dst)
	}
	s := c.streams[k]
	if s == nil {
		if len(c.list) >= maxStreams {
			return nil
		}
		s = &stream{Comparison: &Comparison{StreamKey: k}, id: uint32(len(c.list))}
		c.streams[k] = s
		c.list = append(c.list, s)
	}
	switch {
	case n == 0 && !s.SourceA.IsValid():
		s.SourceA, s.DestinationA = d.Src, d.Dst
	case n == 1 && !s.SourceB.IsValid():
		s.SourceB = d.Src
	}
	e.Value = s
	return s
}

func (c *comparer) finish() *Result {
	for n := range c.sides {
		for c.sides[n].len() > 0 {
			c.retire(n)
			c.settle()
		}
	}
	t, r := c.total, c.result
	for _, s := range c.list {
		t.Matched += s.Matched
		t.OnlyA += s.OnlyA
		t.OnlyB += s.OnlyB
		t.DuplicatesA += s.DuplicatesA
		t.DuplicatesB += s.DuplicatesB
		t.Reordered += s.Reordered
		t.Changed += s.Changed
		r.Streams = append(r.Streams, s.Comparison)
	}
	if t.IntervalError == nil {
		t.IntervalError = hdrhistogram.New(1, hour, 3) // of nothing, for its percentiles
	}
	sort.Slice(r.Streams, func(i, j int) bool {
		a, b := r.Streams[i].StreamKey, r.Streams[j].StreamKey
		if n := a.Destination.Compare(b.Destination); n != 0 {
			return n < 0
		}
		return a.SourcePort < b.SourcePort
	})
	r.Total = t
	if c.timeline != nil {
		r.Timeline = c.timeline.Series()
	}
	return r
}

// add takes in the next datagram of side n, with the key of its number.
func (c *comparer) add(n int, st *stream, hash, number uint64, t int64) {
	s := &c.sides[n]
	if s.len() == c.o.Window {
		c.retire(n)
	}
	if number != 0 {
		number ^= uint64(st.id+1) * golden
	}
	p := c.payloads.find(hash ^ uint64(st.id+1)*golden)
	place := s.push(entry{time: t, number: number, payload: p, stream: st.id})
	if peer := c.partner(n, place); peer != 0 {
		c.match(n, place, peer)
	} else {
		c.payloads.list[p].waiting[n].append(&s.queue, place)
	}
	c.settle()
}

// scanLimit bounds the search among datagrams with the same payload.
const scanLimit = 256

// partner is the place on the other side of what the newest datagram of side n
// matches; 0 where it has to wait.
//
// A payload that nobody repeated matches wherever it stands. One that is repeated
// waits for one that keeps the order: what stands before is more likely lost. If
// that was wrong they still match when the window gives one of them up.
func (c *comparer) partner(n int, place uint64) uint64 {
	s, o := &c.sides[n], &c.sides[1-n]
	e := s.at(place)
	p := &c.payloads.list[e.payload]
	w := &p.waiting[1-n]
	if w.first == 0 || p.matched == 0 && w.first == w.last && p.waiting[n].first == 0 {
		return w.first
	}
	st := c.list[e.stream]
	if place <= st.last[n] {
		return 0
	}
	q := w.first
	for i := 0; i < scanLimit && q != 0; i++ {
		f := o.at(q)
		if q > st.last[1-n] && c.nearby(n, e.time, f.time, min(repeatJitter, c.wait)) {
			return q
		}
		q = f.following
	}
	return 0
}

// repeatJitter is how much, in ns, the distance of the two times of a repeated payload
// may differ from the latest one at first: less than heartbeats are apart.
const repeatJitter = 10_000_000

// nearby is near for a time of side n and one of the other.
func (c *comparer) nearby(n int, mine, others, within int64) bool {
	if n == 1 {
		mine, others = others, mine
	}
	return c.near(mine, others, within)
}

// match joins place of side n, which stands in no list of waiting ones, with peer of
// the other side, which does.
func (c *comparer) match(n int, place, peer uint64) {
	o := &c.sides[1-n]
	e, f := c.sides[n].at(place), o.at(peer)
	p := &c.payloads.list[e.payload]
	p.waiting[1-n].remove(&o.queue, peer)
	e.peer, f.peer = peer, place
	if p.matched < math.MaxUint32 {
		p.matched++
	}
	places, a, b := [2]uint64{place, peer}, e, f
	if n == 1 {
		places, a, b = [2]uint64{peer, place}, f, e
	}
	late := b.time - a.time
	c.result.clock.add(a.time, late)
	if c.o.Clock != nil {
		late -= c.o.Clock.At(a.time)
	}
	b.late = late
	st := c.list[e.stream]
	if places[0] < st.last[0] || places[1] < st.last[1] {
		return
	}
	st.last = places
	// Repeated payloads may be matched wrongly, so only where there is nothing else
	// the sides are held together by them.
	if p.matched > 1 {
		p.again = true
		if c.repeats++; c.repeats < 4096 && c.anchored {
			return
		}
	}
	c.repeats, c.place, c.time = 0, places, [2]int64{a.time, b.time}
	if !c.anchored {
		c.anchored, c.start = true, c.time
	}
}

// settle takes what is decided from the front of both sides.
func (c *comparer) settle() {
	for n := range c.sides {
		s := &c.sides[n]
		for s.len() > 0 {
			e := s.at(s.head)
			if e.peer == 0 && (s.head >= c.place[n] || c.time[n]-e.time <= c.wait) {
				break
			}
			c.retire(n)
		}
	}
}

// retire takes the oldest datagram of side n off. On each side that happens in its
// order.
func (c *comparer) retire(n int) {
	s := &c.sides[n]
	place := s.head
	e := s.at(place)
	st := c.list[e.stream]
	if e.peer == 0 {
		p := &c.payloads.list[e.payload]
		p.waiting[n].remove(&s.queue, place)
		if q := p.waiting[1-n].first; q != 0 && c.nearby(n, e.time, c.sides[1-n].at(q).time, c.wait) {
			c.match(n, place, q)
		} else {
			c.giveUp(n, st, p, e)
		}
	}
	if e.peer != 0 {
		pair := e.peer
		if n == 0 {
			pair = place
		} else {
			c.measure(st, e)
		}
		c.endRun(n, st, pair, e)
	}
	s.head++
}

// giveUp counts a datagram without a match.
func (c *comparer) giveUp(n int, st *stream, p *payload, e *entry) {
	again, number := p.matched == 1, e.number
	switch {
	case n == 0 && again:
		st.DuplicatesA++
	case n == 0:
		st.OnlyA++
	case again:
		st.DuplicatesB++
	default:
		st.OnlyB++
	}
	if c.timeline != nil {
		c.timeline.At(c.timeInA(n, e)).unmatched(n, again)
	}
	switch r := &st.runs[n]; {
	case again:
	case c.o.Numbers.Protocol == Unknown:
		if r.length < math.MaxUint32 {
			r.length++
		}
	case number == 0:
	case c.sides[1-n].lone.take(number):
		c.changed(n, st, e, 1)
	default:
		c.sides[n].lone.put(number)
	}
}

// measure takes in a match, in b's order.
func (c *comparer) measure(st *stream, e *entry) {
	st.Matched++
	late := e.peer < st.highest
	if late {
		st.Reordered++
	} else {
		st.highest = e.peer
	}
	if c.timeline != nil {
		c.timeline.At(c.timeInA(1, e)).match(e.late, late)
	}
	if st.Latency == nil && c.histograms < maxHistograms {
		c.histograms++
		st.Latency = newLatency(e.late, 2)
	}
	if c.total.Latency == nil {
		c.total.Latency = newLatency(e.late, 3)
	}
	c.total.Latency.record(e.late)
	if st.Latency != nil {
		st.Latency.record(e.late)
	}
	if st.any {
		diff := min(max(e.late-st.late, st.late-e.late, 0), hour)
		if c.total.IntervalError == nil {
			c.total.IntervalError = hdrhistogram.New(1, hour, 3)
		}
		_ = c.total.IntervalError.RecordValue(diff) // which is in its range
		if st.Latency != nil {
			if st.IntervalError == nil {
				st.IntervalError = hdrhistogram.New(1, hour, 2)
			}
			_ = st.IntervalError.RecordValue(diff)
		}
	}
	st.any, st.late = true, e.late
}

// run is a number of unmatched datagrams that follow each other in a stream, behind
// the match whose place in a is left; 0 at the beginning.
type run struct {
	left   uint64
	length uint32
}

// endRun ends the run of side n before the match that e, of that side, has with the
// place right in a. Where the other side has a run between the same two, datagrams
// were changed. The side that comes there first leaves its run with the other's entry.
func (c *comparer) endRun(n int, st *stream, right uint64, e *entry) {
	r := st.runs[n]
	st.runs[n] = run{left: right}
	switch o := &c.sides[1-n]; {
	case e.peer >= o.head:
		f := o.at(e.peer)
		f.following, f.othersRun = r.left, r.length
	case e.following == r.left && r.left != 0:
		c.changed(n, st, e, uint64(min(e.othersRun, r.length)))
	}
}
