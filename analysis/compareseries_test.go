package analysis

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestCompareTimeline: the cells of a comparison add up to its counts, of damage of all
// kinds, and hold the smallest and the largest latency.
func TestCompareTimeline(t *testing.T) {
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		a := spaced(20_000, 100_000)
		b, _ := damaged(rnd, a, 5)
		b = later(b, 3_600e9)
		r := mustCompare(t, &list{ds: a, per: 7}, &list{ds: b, per: 11}, CompareOptions{Timeline: true})
		var sum CompareCell
		for i := range r.Timeline.Cells {
			sum.Join(&r.Timeline.Cells[i])
		}
		c := r.Total
		want := CompareCell{
			Matched: c.Matched, OnlyA: c.OnlyA, OnlyB: c.OnlyB, Duplicates: c.DuplicatesA + c.DuplicatesB, Reordered: c.Reordered, Changed: c.Changed,
			Least: c.Latency.Min(), Most: c.Latency.Max(), Sum: sum.Sum,
		}
		if sum != want {
			t.Errorf("seed %d: %+v, want %+v", seed, sum, want)
		}
		// All within the time of a, although b's clock is an hour ahead.
		if from, to := r.Timeline.Start, r.Timeline.Start+r.Timeline.Width*int64(len(r.Timeline.Cells)); from < a[0].Time-2e9 || to > a[len(a)-1].Time+2e9 {
			t.Errorf("seed %d: from %d to %d, a from %d to %d", seed, from, to, a[0].Time, a[len(a)-1].Time)
		}
	}
}

// TestCompareTimelinePlaces: what is lost stands where it was, and with a clock taken out
// latencies are those behind it.
func TestCompareTimelinePlaces(t *testing.T) {
	a := spaced(1000, 1e6)
	b := later(drop(slices.Clone(a), 500, 501, 502), 5e9)
	r := mustCompare(t, &list{ds: a}, &list{ds: b}, CompareOptions{Timeline: true, Clock: &Clock{Start: a[0].Time, Offset: 5e9 - 300}})
	for i, c := range r.Timeline.Cells {
		at := r.Timeline.Start + int64(i)*r.Timeline.Width
		holds := func(n int) bool { return a[n].Time >= at && a[n].Time < at+r.Timeline.Width }
		lost := uint64(0)
		for n := 500; n < 503; n++ {
			if holds(n) {
				lost++
			}
		}
		if c.OnlyA != lost || c.Matched > 0 && (c.Least != 300 || c.Most != 300) {
			t.Errorf("from %d: %+v, %d lost", at, c, lost)
		}
	}
}
