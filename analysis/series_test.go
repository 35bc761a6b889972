package analysis

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

func (c *extremes) join(o *extremes) {
	c.sum += o.sum
	c.most = max(c.most, o.most)
}

// TestSeriesKeepsExtremes: whatever comes at whatever times, each cell holds what came in
// its time and nothing else, sum and maximum, and there are never more than the bound.
func TestSeriesKeepsExtremes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(32, 200).Draw(t, "limit")
		s := series[extremes, *extremes]{limit: limit}
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
			c := s.at(e.at)
			c.sum += e.n
			c.most = max(c.most, e.n)
		}
		r := s.result()
		if len(r.Cells) > limit {
			t.Fatalf("%d cells, the bound is %d", len(r.Cells), limit)
		}
		want := make([]extremes, len(r.Cells))
		for _, e := range all {
			i := (e.at - r.Start) / r.Width
			if e.at < r.Start || i >= int64(len(want)) {
				t.Fatalf("%d is in no cell: from %d on, %d of %d ns", e.at, r.Start, len(want), r.Width)
			}
			want[i].join(&extremes{e.n, e.n})
		}
		for i := range want {
			if want[i] != r.Cells[i] {
				t.Fatalf("cell %d: %+v, want %+v", i, r.Cells[i], want[i])
			}
		}
	})
}

// TestSeriesWholeRange: times at both ends of what there is fit into the smallest bound.
func TestSeriesWholeRange(t *testing.T) {
	for _, times := range [][]int64{
		{math.MinInt64, math.MaxInt64}, {math.MaxInt64, math.MinInt64}, {0, math.MinInt64, math.MaxInt64}, {math.MinInt64, math.MinInt64 + 1},
	} {
		s := series[extremes, *extremes]{limit: 32}
		for _, at := range times {
			s.at(at).sum++
		}
		sum := uint64(0)
		for _, c := range s.result().Cells {
			sum += c.sum
		}
		if sum != uint64(len(times)) || len(s.cells) > 32 {
			t.Errorf("%d: %d in %d cells", times, sum, len(s.cells))
		}
	}
}

// TestSeriesBackwards: times that go back step by step cost no more than others: the
// cells move as seldom as they would in front.
func TestSeriesBackwards(t *testing.T) {
	s := series[extremes, *extremes]{limit: 1 << 12}
	moves, first := 0, int64(0)
	for i := range int64(200_000) {
		s.at(-i*1000).sum++
		if s.first != first {
			moves, first = moves+1, s.first
		}
	}
	if moves > 100 {
		t.Errorf("the cells moved %d times", moves)
	}
}

func TestSeriesAllocates(t *testing.T) {
	s := series[RateCell, *RateCell]{limit: 64}
	at := int64(0)
	for range 1000 {
		at += 1e6
		s.at(at).Datagrams++
	}
	if n := testing.AllocsPerRun(1000, func() { at++; s.at(at).Datagrams++ }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
