package analysis

import (
	"math"

	"castdeck/internal/series"
)

// maxCompareCells of a comparison's timeline, at 72 bytes.
const maxCompareCells = 1 << 13

// CompareCell is what a comparison found in one span of the time of a.
type CompareCell struct {
	// Counts as in Comparison, of all streams. Those of b alone stand at the time that a
	// showed then, as far as matches tell.
	Matched, OnlyA, OnlyB, Duplicates, Reordered, Changed uint64
	// Least and Most latency of the matches, ns, and the Sum of all; 0 without matches.
	Least, Most int64
	Sum         float64
}

type compareSeries = series.Builder[CompareCell, *CompareCell]

func (c *CompareCell) Join(o *CompareCell) {
	switch {
	case c.Matched == 0:
		c.Least, c.Most = o.Least, o.Most
	case o.Matched > 0:
		c.Least, c.Most = min(c.Least, o.Least), max(c.Most, o.Most)
	}
	c.Sum += o.Sum
	c.Matched += o.Matched
	c.OnlyA += o.OnlyA
	c.OnlyB += o.OnlyB
	c.Duplicates += o.Duplicates
	c.Reordered += o.Reordered
	c.Changed += o.Changed
}

// match takes in a match of a latency in ns; late says that it came out of order.
func (c *CompareCell) match(latency int64, late bool) {
	one := CompareCell{Matched: 1, Least: latency, Most: latency, Sum: float64(latency)}
	if late {
		one.Reordered = 1
	}
	c.Join(&one)
}

// unmatched takes in a datagram of side n that has no match, or repeats one.
func (c *CompareCell) unmatched(n int, again bool) {
	switch {
	case again:
		c.Duplicates++
	case n == 0:
		c.OnlyA++
	default:
		c.OnlyB++
	}
}

// changed counts changed datagrams at e of side n.
func (c *comparer) changed(n int, st *stream, e *entry, count uint64) {
	st.Changed += count
	if c.timeline != nil && count > 0 {
		c.timeline.At(c.timeInA(n, e)).Changed += count
	}
}

// timeInA is when an entry of side n was, by the clock of a: of a match of b exactly, but
// for a drift that is taken out, else as the latest match tells.
func (c *comparer) timeInA(n int, e *entry) int64 {
	switch {
	case n == 0 || !c.anchored:
		return e.time
	case e.peer != 0:
		t := e.time - e.late
		if c.o.Clock != nil {
			t -= c.o.Clock.At(t - c.o.Clock.Offset)
		}
		return t
	}
	t := float64(c.time[0]) + float64(e.time-c.time[1])/c.pace()
	return int64(min(max(t, math.MinInt64), math.MaxInt64-1024)) // of what a float64 holds
}
