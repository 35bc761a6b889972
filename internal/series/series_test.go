package series

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// extremes is a cell that remembers all that was put into it.
type extremes struct {
	sum  uint64
	most uint64
}

func (c *extremes) Join(o *extremes) {
	c.sum += o.sum
	c.most = max(c.most, o.most)
}

// TestKeepsExtremes: whatever comes at whatever times, each cell holds what came in
// its time and nothing else, sum and maximum, and there are never more than the bound.
func TestKeepsExtremes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(32, 200).Draw(t, "limit")
		s := New[extremes](limit)
		step := rapid.SampledFrom([]int64{1, 1e3, 1e6, 1e9, 3600e9}).Draw(t, "step")
		type event struct {
			at int64
			n  uint64
		}
		var all []event
		at := rapid.Int64Range(-2e18, 2e18).Draw(t, "start")
		for range rapid.IntRange(1, 300).Draw(t, "events") {
			at += rapid.Int64Range(-10, 40).Draw(t, "gap") * step
			e := event{at, rapid.Uint64Range(1, 1000).Draw(t, "n")}
			all = append(all, e)
			c := s.At(e.at)
			c.sum += e.n
			c.most = max(c.most, e.n)
		}
		r := s.Series()
		if len(r.Cells) > limit {
			t.Fatalf("%d cells, the bound is %d", len(r.Cells), limit)
		}
		want := make([]extremes, len(r.Cells))
		for _, e := range all {
			i := (e.at - r.Start) / r.Width
			if e.at < r.Start || i >= int64(len(want)) {
				t.Fatalf("%d is in no cell: from %d on, %d of %d ns", e.at, r.Start, len(want), r.Width)
			}
			want[i].Join(&extremes{e.n, e.n})
		}
		for i := range want {
			if want[i] != r.Cells[i] {
				t.Fatalf("cell %d: %+v, want %+v", i, r.Cells[i], want[i])
			}
		}
	})
}

// TestWholeRange: times at both ends of what there is fit into the smallest bound.
func TestWholeRange(t *testing.T) {
	for _, times := range [][]int64{
		{math.MinInt64, math.MaxInt64}, {math.MaxInt64, math.MinInt64}, {0, math.MinInt64, math.MaxInt64}, {math.MinInt64, math.MinInt64 + 1},
	} {
		s := New[extremes](0)
		for _, at := range times {
			s.At(at).sum++
		}
		sum := uint64(0)
		for _, c := range s.Series().Cells {
			sum += c.sum
		}
		if sum != uint64(len(times)) || len(s.cells) > 32 {
			t.Errorf("%d: %d in %d cells", times, sum, len(s.cells))
		}
	}
}

// TestBackwards: times that go back step by step cost no more than others: the
// cells move as seldom as they would in front.
func TestBackwards(t *testing.T) {
	s := New[extremes](1 << 12)
	moves, first := 0, int64(0)
	for i := range int64(200_000) {
		s.At(-i*1000).sum++
		if s.first != first {
			moves, first = moves+1, s.first
		}
	}
	if moves > 100 {
		t.Errorf("the cells moved %d times", moves)
	}
}

// TestReserve: then not even times that go on, and back, take memory.
func TestReserve(t *testing.T) {
	s := New[extremes](1 << 12).Reserve()
	at := int64(0)
	s.At(0)
	if n := testing.AllocsPerRun(10_000, func() { at += 1777; s.At(at).sum++; s.At(-at).sum++ }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestAtLeast: cells begin with the width of another series.
func TestAtLeast(t *testing.T) {
	s := New[extremes](100).AtLeast(1e9)
	s.At(5).sum++
	s.At(3_999_999_999).sum++
	if r := s.Series(); r.Width != 1e9 || r.Start != 0 || len(r.Cells) != 4 {
		t.Errorf("%+v", r)
	}
}
