package analysis

import (
	"math"
	"slices"
)

// widths that the cells of a Series may have, in ns: each is a multiple of the one
// before, so that cells join whole, and people can read them.
var widths = func() (all []int64) {
	const us, ms, s, h = 1e3, 1e6, 1e9, 3600e9
	for _, unit := range []int64{us, 10 * us, 100 * us, ms, 10 * ms, 100 * ms, s, 10 * s} {
		all = append(all, unit, 2*unit)
	}
	return append(all, 60*s, 120*s, 600*s, 1200*s, h, 2*h, 12*h, 24*h, 240*h, 2400*h, 24000*h, 240000*h)
}()

// Series is what came over time, in cells of equal length without a break. Where it would
// take more cells than its bound, neighbours are joined, so that its memory is
// bounded over any time.
type Series[C any] struct {
	// Start of the first cell, ns since the Unix epoch; a multiple of Width.
	Start int64
	// Width of a cell in ns: a round number from 1 us on.
	Width int64
	Cells []C
}

// joiner is a cell that takes in the one behind it.
type joiner[C any] interface {
	*C
	join(next *C)
}

// series grows a Series of at most limit cells, 32 at least: so many hold all times.
type series[C any, P joiner[C]] struct {
	limit int
	level int   // of widths
	first int64 // number of the first cell: its start is first*width
	cells []C
}

func (s *series[C, P]) width() int64 { return widths[s.level] }

// at is the cell of a time, ns since the Unix epoch, valid until the next call. In
// steady state it allocates nothing.
func (s *series[C, P]) at(t int64) *C {
	if len(s.cells) == 0 {
		s.first = floorDiv(t, s.width())
		s.cells = append(s.cells, *new(C))
		return &s.cells[0]
	}
	for {
		n := floorDiv(t, s.width())
		switch place := n - s.first; {
		case place >= 0 && place < int64(len(s.cells)):
			return &s.cells[place]
		case place >= int64(s.limit) || place < int64(len(s.cells)-s.limit):
			s.coarsen()
		case place >= 0:
			s.cells = append(s.cells, make([]C, int(place)+1-len(s.cells))...)
		default:
			// Half as much again as there is, so that times that go back again and again cost
			// no more than those that go on.
			grow := min(max(int(-place), len(s.cells)/2), s.limit-len(s.cells))
			s.cells = slices.Insert(s.cells, 0, make([]C, grow)...)
			s.first -= int64(grow)
		}
	}
}

// coarsen joins cells to those of the next width.
func (s *series[C, P]) coarsen() {
	by := widths[s.level+1] / s.width()
	first := floorDiv(s.first, by)
	n := 0
	for i := range s.cells {
		to := int((s.first + int64(i) - first*by) / by)
		if to == n && i > 0 {
			P(&s.cells[n]).join(&s.cells[i])
		} else {
			n = to
			s.cells[n] = s.cells[i]
		}
	}
	clear(s.cells[n+1:])
	s.cells, s.first, s.level = s.cells[:n+1], first, s.level+1
}

// result is the series so far; it shares the cells.
func (s *series[C, P]) result() *Series[C] {
	return &Series[C]{Start: mulSat(s.first, s.width()), Width: s.width(), Cells: s.cells}
}

// floorDiv is a / b rounded down; unlike floor it stays within the range for all times.
func floorDiv(a, b int64) int64 {
	n := a / b
	if a%b < 0 {
		n--
	}
	return n
}

// mulSat is a product that stays within the range.
func mulSat(a, b int64) int64 {
	if a < math.MinInt64/b {
		return math.MinInt64
	}
	return a * b
}
