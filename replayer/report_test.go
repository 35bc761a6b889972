package replayer

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestQuarters(t *testing.T) {
	last := int64(3)
	for i := quarter(4); i <= quarter(math.MaxInt64); i++ { // below 4 ns nothing is told apart
		top := quarterTop(i)
		if quarter(top) != i || quarter(last+1) != i {
			t.Fatalf("place %d holds up to %d: %d is at %d, %d at %d", i, top, top, quarter(top), last+1, quarter(last+1))
		}
		if top < math.MaxInt64/8 && float64(top)/float64(last+1) > 1.25 {
			t.Fatalf("place %d holds %d to %d: more than a quarter", i, last+1, top)
		}
		last = top
	}
	for _, ns := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
		if q := quarter(ns); q < 0 || q >= 64*4 {
			t.Errorf("%d ns is at %d", ns, q)
		}
	}
}

func TestStatsP99(t *testing.T) {
	var s stats
	if got := s.p99(); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	most := int64(0)
	for range 100_000 {
		n := rnd.Int64N(1_000_000)
		most = max(most, n)
		s.publish(1, 1, 1, n, most)
	}
	if got := s.p99(); got < 980_000 || got > most {
		t.Errorf("p99 of 0 to 1,000,000 is %d", got)
	}
}
