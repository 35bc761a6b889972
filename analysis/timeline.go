package analysis

import (
	"cmp"
	"math"
	"slices"

	"castdeck/format"
	"castdeck/internal/series"
)

// Series is what came over time, in cells of equal length without a break.
type Series[C any] = series.Series[C]

// Bounds of a timeline. In all it holds less than 20 MiB.
const (
	// maxRateCells of all streams together, maxStreamCells of each.
	maxRateCells   = 1 << 15
	maxStreamCells = 1 << 9
	// maxTimelines are the streams that have cells of their own, the first ones.
	maxTimelines = 1 << 10
	// maxLossCells of each interface, maxLossTables interfaces.
	maxLossCells  = 1 << 11
	maxLossTables = 1 << 6
	// fineSeconds are kept in full, those with the fullest windows of 1 ms.
	fineSeconds = 64
)

// Timeline is how traffic went over time. What is extreme stays visible at any width:
// each cell holds the fullest windows that ended in it, exactly, and the longest
// pause.
type Timeline struct {
	// Rate of all streams together, at most 32,768 cells.
	Rate *Series[RateCell]
	// Seconds that had the fullest windows of 1 ms, 64 at most, in the order of time.
	Seconds []Second
	// Losses that the recording tells of, by interface.
	Losses []InterfaceLosses
}

// RateCell is what came in one span of time.
type RateCell struct {
	Datagrams, Bytes uint64
	// Peaks are the most datagrams, and PeakBytes the most payload, in windows of the
	// lengths of Windows that ended in the cell, wherever they began.
	Peaks     [len(Windows)]uint32
	PeakBytes [len(Windows)]uint64
	// Pause is the longest time between two datagrams of which the second came in the
	// cell, ns.
	Pause int64
}

func (c *RateCell) Join(o *RateCell) {
	c.Datagrams += o.Datagrams
	c.Bytes += o.Bytes
	for i := range c.Peaks {
		c.Peaks[i] = max(c.Peaks[i], o.Peaks[i])
		c.PeakBytes[i] = max(c.PeakBytes[i], o.PeakBytes[i])
	}
	c.Pause = max(c.Pause, o.Pause)
}

// StreamCell is what came of one stream in one span of time.
type StreamCell struct {
	Datagrams, Bytes uint64
}

func (c *StreamCell) Join(o *StreamCell) {
	c.Datagrams += o.Datagrams
	c.Bytes += o.Bytes
}

// Second is one second of the clock in full.
type Second struct {
	// Start is a whole second, ns since the Unix epoch.
	Start int64
	// Datagrams and Bytes of each millisecond.
	Datagrams, Bytes [1000]uint32
	// Bursts are the fullest Windows that ended in the second.
	Bursts [len(Windows)]Burst
}

// InterfaceLosses are the losses of one interface over time.
type InterfaceLosses struct {
	// Interface, or -1 for all those past the first 63.
	Interface int
	Total     uint64
	Lost      *Series[LossCell]
}

// LossCell counts what was lost in one span of time.
type LossCell uint64

func (c *LossCell) Join(o *LossCell) { *c += *o }

// timeline grows a Timeline.
type timeline struct {
	rate    *series.Builder[RateCell, *RateCell]
	streams int // that have cells
	last    int64
	begun   bool

	open    *Second
	seconds []*Second // a heap, the one with the least peak first
	losses  map[int]*lossSeries
}

type streamSeries = series.Builder[StreamCell, *StreamCell]

type lossSeries struct {
	*series.Builder[LossCell, *LossCell]
	total uint64
}

func newTimeline() *timeline {
	return &timeline{rate: series.New[RateCell](maxRateCells), losses: map[int]*lossSeries{}}
}

// add takes a datagram of a length at a time that is not before the last one; m has
// measured it, and holds what the windows that end with it contain.
func (t *timeline) add(now int64, length uint32, m *meter) {
	c := t.rate.At(now)
	c.Datagrams++
	c.Bytes += uint64(length)
	if t.begun {
		c.Pause = max(c.Pause, int64(min(uint64(now)-uint64(t.last), math.MaxInt64)))
	}
	t.begun, t.last = true, now
	if start := floor(now, 1e9); t.open == nil || start != t.open.Start {
		t.close()
		t.open.Start = start
	}
	o := t.open
	ms := (now - o.Start) / 1e6
	o.Datagrams[ms] = addSat(o.Datagrams[ms], 1)
	o.Bytes[ms] = addSat(o.Bytes[ms], length)
	for i := range m.window.spans {
		s, b := &m.window.spans[i], &o.Bursts[i]
		c.Peaks[i] = max(c.Peaks[i], uint32(min(s.datagrams, math.MaxUint32)))
		c.PeakBytes[i] = max(c.PeakBytes[i], s.bytes)
		if s.datagrams > b.Datagrams {
			b.Datagrams, b.Start = s.datagrams, m.window.at(s.tail).time
		}
		b.Bytes = max(b.Bytes, s.bytes)
	}
}

// addSat adds and stays within the range.
func addSat(a, b uint32) uint32 {
	if a > math.MaxUint32-b {
		return math.MaxUint32
	}
	return a + b
}

// close puts the open second among those that are kept, where it is one of the fullest,
// and opens an empty one.
func (t *timeline) close() {
	switch {
	case t.open == nil:
		t.open = new(Second)
		return
	case len(t.seconds) < fineSeconds:
		t.seconds = append(t.seconds, t.open)
		t.open = new(Second)
		for i := len(t.seconds) - 1; i > 0 && less(t.seconds[i], t.seconds[(i-1)/2]); i = (i - 1) / 2 {
			t.seconds[i], t.seconds[(i-1)/2] = t.seconds[(i-1)/2], t.seconds[i]
		}
		return
	case less(t.seconds[0], t.open):
		t.seconds[0], t.open = t.open, t.seconds[0]
		for i := 0; ; {
			least := i
			for _, child := range []int{2*i + 1, 2*i + 2} {
				if child < len(t.seconds) && less(t.seconds[child], t.seconds[least]) {
					least = child
				}
			}
			if least == i {
				break
			}
			t.seconds[i], t.seconds[least] = t.seconds[least], t.seconds[i]
			i = least
		}
	}
	*t.open = Second{}
}

// less says that a's fullest millisecond, or where they are equal its fullest 10 or
// 100 ms, is less full than b's. Of equal ones the first is kept.
func less(a, b *Second) bool {
	for i := range a.Bursts {
		if a.Bursts[i].Datagrams != b.Bursts[i].Datagrams {
			return a.Bursts[i].Datagrams < b.Bursts[i].Datagrams
		}
	}
	return false
}

// stream takes a datagram of a stream, whose meter is m.
func (t *timeline) stream(now int64, length uint32, m *meter) {
	if m.cells == nil {
		if t.streams >= maxTimelines {
			return
		}
		t.streams++
		m.cells = series.New[StreamCell](maxStreamCells).AtLeast(t.rate.Width())
	}
	c := m.cells.At(now)
	c.Datagrams++
	c.Bytes += uint64(length)
}

// lost takes in losses of an interface that came to be known at a time.
func (t *timeline) lost(ifc uint16, now int64, n uint64) {
	if n == 0 {
		return
	}
	key := int(ifc)
	l := t.losses[key]
	if l == nil && len(t.losses) >= maxLossTables-1 {
		key = -1
		l = t.losses[key]
	}
	if l == nil {
		l = &lossSeries{Builder: series.New[LossCell](maxLossCells)}
		t.losses[key] = l
	}
	l.total += n
	*l.At(now) += LossCell(n)
}

func (t *timeline) finish() *Timeline {
	r := &Timeline{Rate: t.rate.Series()}
	if t.open != nil {
		t.close()
	}
	for _, s := range t.seconds {
		r.Seconds = append(r.Seconds, *s)
	}
	slices.SortFunc(r.Seconds, func(a, b Second) int { return cmp.Compare(a.Start, b.Start) })
	for ifc, l := range t.losses {
		r.Losses = append(r.Losses, InterfaceLosses{Interface: ifc, Total: l.total, Lost: l.Series()})
	}
	slices.SortFunc(r.Losses, func(a, b InterfaceLosses) int { return cmp.Compare(uint(a.Interface), uint(b.Interface)) })
	return r
}

// addLosses takes in what a batch tells of losses.
func (t *timeline) addLosses(b *format.Batch) {
	for i := range b.Datagrams {
		t.lost(b.Datagrams[i].Interface, b.Datagrams[i].Time, b.Datagrams[i].Drops)
	}
	for i := range b.Stats {
		t.lost(b.Stats[i].Interface, b.Stats[i].Time, b.Stats[i].Dropped)
	}
}
