// Package series keeps what goes over time in bounded memory.
package series

import "math"

// widths that the cells of a Series may have, in ns: each is a multiple of the one
// before, so that cells join whole, and people can read them.
var widths = func() (all []int64) {
	const us, ms, s, h = 1e3, 1e6, 1e9, 3600e9
	for _, unit := range []int64{us, 10 * us, 100 * us, ms, 10 * ms, 100 * ms, s, 10 * s} {
		all = append(all, unit, 2*unit)
	}
	return append(all, 60*s, 120*s, 600*s, 1200*s, h, 2*h, 12*h, 24*h, 240*h, 2400*h, 24000*h, 240000*h)
}()

// minLimit cells hold all times there are.
const minLimit = 32

// Series is what came over time, in cells of equal length without a break.
type Series[C any] struct {
	// Start of the first cell, ns; a multiple of Width.
	Start int64
	// Width of a cell in ns: a round number from 1 us on.
	Width int64
	Cells []C
}

// Joiner is a pointer to a cell that takes in the cell behind it: sums add up, what is
// extreme stays.
type Joiner[C any] interface {
	*C
	Join(next *C)
}

// Builder makes a Series. Where it would take more cells than the limit, neighbours are
// joined to cells of the next width. It is not safe for concurrent use.
type Builder[C any, P Joiner[C]] struct {
	limit int
	level int   // of widths
	first int64 // number of the first cell: its start is first*width
	cells []C
}

// New begins a series of at most limit cells; fewer than 32 are 32. The memory is taken
// as it is needed.
func New[C any, P Joiner[C]](limit int) *Builder[C, P] {
	return &Builder[C, P]{limit: max(limit, minLimit)}
}

// Reserve takes the memory for all cells now, so that At never does.
func (b *Builder[C, P]) Reserve() *Builder[C, P] {
	b.cells = append(make([]C, 0, b.limit), b.cells...)
	return b
}

// AtLeast makes cells no finer than a width that another Builder has.
func (b *Builder[C, P]) AtLeast(width int64) *Builder[C, P] {
	for b.Width() < width {
		b.coarsen()
	}
	return b
}

// Width of a cell at present, ns.
func (b *Builder[C, P]) Width() int64 { return widths[b.level] }

// At is the cell of a time in ns, valid until the next call.
func (b *Builder[C, P]) At(t int64) *C {
	if len(b.cells) == 0 {
		b.first = floorDiv(t, b.Width())
		b.cells = append(b.cells, *new(C))
		return &b.cells[0]
	}
	for {
		n := len(b.cells)
		switch place := floorDiv(t, b.Width()) - b.first; {
		case place >= 0 && place < int64(n):
			return &b.cells[place]
		case place >= int64(b.limit) || place < int64(n-b.limit):
			b.coarsen()
		case place >= 0:
			b.cells = append(b.cells, make([]C, int(place)+1-n)...)
		default:
			// Half as much again as there is, so that times that go back again and again cost
			// no more than those that go on.
			grow := min(max(int(-place), n/2), b.limit-n)
			b.cells = append(b.cells, make([]C, grow)...)
			copy(b.cells[grow:], b.cells[:n])
			clear(b.cells[:grow])
			b.first -= int64(grow)
		}
	}
}

// coarsen joins cells to those of the next width.
func (b *Builder[C, P]) coarsen() {
	if len(b.cells) == 0 {
		b.level++
		return
	}
	by := widths[b.level+1] / b.Width()
	first := floorDiv(b.first, by)
	n := 0
	for i := range b.cells {
		to := int((b.first + int64(i) - first*by) / by)
		if to == n && i > 0 {
			P(&b.cells[n]).Join(&b.cells[i])
		} else {
			n = to
			b.cells[n] = b.cells[i]
		}
	}
	clear(b.cells[n+1:])
	b.cells, b.first, b.level = b.cells[:n+1], first, b.level+1
}

// Series so far; it shares the cells.
func (b *Builder[C, P]) Series() *Series[C] {
	return &Series[C]{Start: mulSat(b.first, b.Width()), Width: b.Width(), Cells: b.cells}
}

// floorDiv is a / b rounded down.
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
