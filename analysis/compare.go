// Package analysis answers questions from recordings. It reads batches and knows
// neither files nor sockets.
package analysis

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sort"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/cespare/xxhash/v2"

	"castdeck/format"
)

// CompareOptions of a comparison. The zero value compares streams as they are.
type CompareOptions struct {
	// Destination, where not nil, says where in b to look for what a holds for dst:
	// the mapping of a replay.
	Destination func(dst netip.AddrPort) netip.AddrPort
	// Window is how many datagrams of one stream may wait for their match on either
	// side: default 65,536, which is more than a batch holds. It bounds the memory (about 40 bytes each) and how far
	// apart the two sides may be in order.
	Window int
}

// StreamKey names the two sides of a stream: the source's address may differ,
// because a replay leaves from another host, its port and the destination not.
type StreamKey struct {
	SourcePort  uint16
	Destination netip.AddrPort
}

// Comparison is how one stream, or all of them together, agree.
type Comparison struct {
	StreamKey
	// Matched datagrams are in both, byte for byte (64-bit hash and length).
	Matched uint64
	// OnlyA and OnlyB are in one side only; DuplicatesA and DuplicatesB repeat one
	// that was matched.
	OnlyA, OnlyB             uint64
	DuplicatesA, DuplicatesB uint64
	// Reordered counts matched datagrams that stand in b behind one that stands
	// later in a.
	Reordered uint64
	// IntervalError holds, for each pair of matched datagrams that follow each
	// other, how much their distance in time differs between a and b, in ns.
	// Differences above an hour count as an hour. nil where there is no such pair, and
	// for streams past the first 1,024, which are in the total's only.
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
	maxHistograms = 1024 // at 200 KB
)

// Result of a comparison.
type Result struct {
	Total   *Comparison
	Streams []*Comparison // by destination
	// NotCompared counts packets that are not UDP, on both sides.
	NotCompared uint64
	// Damage of the inputs; reading went on behind it.
	Damage []error
}

// Compare matches the datagrams of two recordings stream by stream. The error is a
// failure to read.
func Compare(a, b format.BatchReader, o CompareOptions) (*Result, error) {
	if o.Window <= 0 {
		o.Window = 1 << 16
	}
	c := newComparer(o)
	sideA, sideB := &side{r: a}, &side{r: b}
	// The side that is behind is read next, so that both windows stay small.
	for !sideA.done || !sideB.done {
		var err error
		if sideB.done || !sideA.done && sideA.read <= sideB.read {
			err = c.step(sideA, true)
		} else {
			err = c.step(sideB, false)
		}
		if err != nil {
			return nil, err
		}
	}
	return c.finish(), nil
}

type side struct {
	r     format.BatchReader
	batch format.Batch
	read  uint64
	done  bool
}

type comparer struct {
	o       CompareOptions
	streams map[StreamKey]*stream
	result  *Result
	total   *hdrhistogram.Histogram // of interval errors
	// histograms counts those that streams have.
	histograms int
}

func (c *comparer) step(s *side, isA bool) error {
	err := s.r.ReadBatch(&s.batch)
	var damage *format.CorruptError
	switch {
	case errors.Is(err, io.EOF):
		s.done = true
		return nil
	case errors.As(err, &damage):
		c.result.Damage = append(c.result.Damage, err)
		return nil
	case err != nil:
		return err
	}
	for i := range s.batch.Datagrams {
		d := &s.batch.Datagrams[i]
		s.read++
		if d.Flags&format.FlagNotUDP != 0 {
			c.result.NotCompared++
			continue
		}
		dst := d.Dst
		if isA && c.o.Destination != nil {
			dst = c.o.Destination(dst)
		}
		st := c.stream(StreamKey{d.Src.Port(), dst})
		if st == nil {
			return fmt.Errorf("more than %d streams; compare a part of them", maxStreams)
		}
		st.add(entry{
			hash: xxhash.Sum64(d.Payload) ^ uint64(d.Length)*0x9E3779B97F4A7C15, time: d.Time,
		}, isA, c.o.Window)
	}
	return nil
}

func newComparer(o CompareOptions) *comparer {
	return &comparer{o: o, streams: map[StreamKey]*stream{}, result: &Result{}, total: hdrhistogram.New(1, hour, 3)}
}

// stream finds a stream or begins one; nil where there are too many.
func (c *comparer) stream(k StreamKey) *stream {
	s := c.streams[k]
	if s == nil && len(c.streams) < maxStreams {
		s = &stream{Comparison: &Comparison{StreamKey: k}, in: c, sides: [2]waiting{newWaiting(), newWaiting()}, matched: map[uint64]struct{}{}}
		c.streams[k] = s
	}
	return s
}

func (c *comparer) finish() *Result {
	total := &Comparison{IntervalError: c.total}
	for _, s := range c.streams {
		for i := range s.sides {
			for s.sides[i].count > 0 {
				s.giveUp(i)
			}
		}
		total.Matched += s.Matched
		total.OnlyA += s.OnlyA
		total.OnlyB += s.OnlyB
		total.DuplicatesA += s.DuplicatesA
		total.DuplicatesB += s.DuplicatesB
		total.Reordered += s.Reordered
		c.result.Streams = append(c.result.Streams, s.Comparison)
	}
	sort.Slice(c.result.Streams, func(i, j int) bool {
		a, b := c.result.Streams[i].StreamKey, c.result.Streams[j].StreamKey
		if n := a.Destination.Compare(b.Destination); n != 0 {
			return n < 0
		}
		return a.SourcePort < b.SourcePort
	})
	c.result.Total = total
	return c.result
}

type entry struct {
	hash uint64
	time int64
	n    uint64 // place in its side of the stream
}

// waiting are the datagrams of one side that have no match yet, findable by hash
// and in the order in which they came.
type waiting struct {
	order  []entry // from head on; matched ones are skipped by gone
	head   int
	byHash map[uint64][]uint64 // places, oldest first
	gone   map[uint64]struct{} // places matched already
	next   uint64
	count  int
}

func newWaiting() waiting {
	return waiting{byHash: map[uint64][]uint64{}, gone: map[uint64]struct{}{}}
}

func (w *waiting) push(e entry) {
	w.order = append(w.order, e)
	w.byHash[e.hash] = append(w.byHash[e.hash], e.n)
	w.count++
}

// take removes and returns the oldest entry with this hash.
func (w *waiting) take(hash uint64) (entry, bool) {
	places := w.byHash[hash]
	if len(places) == 0 {
		return entry{}, false
	}
	n := places[0]
	if len(places) == 1 {
		delete(w.byHash, hash)
	} else {
		w.byHash[hash] = places[1:]
	}
	w.gone[n] = struct{}{}
	w.count--
	// Places are consecutive but for entries that matched at once, so search.
	i := w.head + sort.Search(len(w.order)-w.head, func(i int) bool { return w.order[w.head+i].n >= n })
	e := w.order[i]
	w.trim()
	return e, true
}

// oldest removes and returns the entry that waits longest.
func (w *waiting) oldest() entry {
	w.trim()
	e := w.order[w.head]
	w.take(e.hash)
	return e
}

// trim drops matched entries from the front.
func (w *waiting) trim() {
	for w.head < len(w.order) {
		if _, ok := w.gone[w.order[w.head].n]; !ok {
			break
		}
		delete(w.gone, w.order[w.head].n)
		w.head++
	}
	if w.head > 4096 && w.head*2 > len(w.order) {
		w.order = append(w.order[:0], w.order[w.head:]...)
		w.head = 0
	}
}

type stream struct {
	*Comparison
	in      *comparer
	sides   [2]waiting // a, b
	matched map[uint64]struct{}
	recent  []uint64 // the hashes in matched, oldest first

	haveLast     bool
	lastA, lastB int64  // times of the latest match
	highest      uint64 // place in a of the latest match in order
	anyMatch     bool
}

func (s *stream) add(e entry, isA bool, window int) {
	mine, other := 1, 0
	if isA {
		mine, other = 0, 1
	}
	e.n = s.sides[mine].next
	s.sides[mine].next++
	if m, ok := s.sides[other].take(e.hash); ok {
		if isA {
			s.match(e, m, window)
		} else {
			s.match(m, e, window)
		}
		return
	}
	s.sides[mine].push(e)
	if s.sides[mine].count > window {
		s.giveUp(mine)
	}
}

func (s *stream) match(a, b entry, window int) {
	s.Matched++
	if s.anyMatch && a.n < s.highest {
		s.Reordered++
	} else {
		s.highest = a.n
	}
	s.anyMatch = true
	if s.haveLast {
		diff := (b.time - s.lastB) - (a.time - s.lastA)
		if diff < 0 {
			diff = -diff
		}
		s.interval(min(max(diff, 0), hour))
	}
	s.haveLast, s.lastA, s.lastB = true, a.time, b.time
	if _, ok := s.matched[a.hash]; !ok {
		s.matched[a.hash] = struct{}{}
		s.recent = append(s.recent, a.hash)
		if len(s.recent) > 2*window {
			for _, h := range s.recent[:window] {
				delete(s.matched, h)
			}
			s.recent = append(s.recent[:0], s.recent[window:]...)
		}
	}
}

// interval records an interval error, which is in the histograms' range.
func (s *stream) interval(ns int64) {
	_ = s.in.total.RecordValue(ns)
	if s.IntervalError == nil && s.in.histograms < maxHistograms {
		s.in.histograms++
		s.IntervalError = hdrhistogram.New(1, hour, 3)
	}
	if s.IntervalError != nil {
		_ = s.IntervalError.RecordValue(ns)
	}
}

// giveUp counts the oldest waiting datagram of a side as unmatched.
func (s *stream) giveUp(i int) {
	e := s.sides[i].oldest()
	_, again := s.matched[e.hash]
	switch {
	case i == 0 && again:
		s.DuplicatesA++
	case i == 0:
		s.OnlyA++
	case again:
		s.DuplicatesB++
	default:
		s.OnlyB++
	}
}
