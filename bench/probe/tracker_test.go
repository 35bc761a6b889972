package probe

import (
	"testing"

	"pgregory.net/rapid"
)

// naive counts what a tracker should, with memory without bounds. It is right where no
// datagram is later than the window.
func naive(seqs []uint64, sent uint64) (c tracker) {
	seen := map[uint64]bool{}
	for _, s := range seqs {
		switch {
		case seen[s]:
			c.duplicates++
		case s < c.next:
			c.reordered++
			c.distance = max(c.distance, c.next-1-s)
			c.unique++
		default:
			c.next = s + 1
			c.unique++
		}
		seen[s] = true
	}
	run := uint64(0)
	for s := range max(sent, c.next) {
		if !seen[s] {
			c.lost++
			run++
			continue
		}
		if run > 0 {
			c.bursts.add(run)
		}
		run = 0
	}
	if run > 0 {
		c.bursts.add(run)
	}
	return c
}

// TestTracker holds the window against the naive count, over losses, copies and
// reordering of all distances that the window bears.
func TestTracker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tr tracker
		var seqs []uint64
		at := uint64(0)
		for range rapid.IntRange(0, 60).Draw(t, "moves") {
			switch rapid.IntRange(0, 3).Draw(t, "move") {
			case 0: // some in order
				for range rapid.IntRange(1, 100).Draw(t, "n") {
					seqs = append(seqs, at)
					at++
				}
			case 1: // a loss, sometimes longer than the window
				at += rapid.Uint64Range(1, 100).Draw(t, "lost")
				if rapid.IntRange(0, 9).Draw(t, "long") == 0 {
					at += rapid.Uint64Range(0, 2*windowBits).Draw(t, "hole")
				}
			default: // one that was sent before: late, or a copy
				if at > 0 && len(seqs) > 0 {
					back := min(rapid.Uint64Range(1, 200).Draw(t, "back"), at)
					seqs = append(seqs, at-back)
				}
			}
		}
		for _, s := range seqs {
			tr.add(s)
		}
		sent := at + rapid.Uint64Range(0, 100).Draw(t, "tail")
		tr.finish(sent)
		want := naive(seqs, sent)
		if tr.tooLate != 0 {
			t.Fatalf("%d too late", tr.tooLate)
		}
		if tr.unique != want.unique || tr.duplicates != want.duplicates || tr.reordered != want.reordered || tr.distance != want.distance ||
			tr.lost != want.lost || tr.bursts != want.bursts || tr.next != want.next {
			t.Errorf("unique %d %d, copies %d %d, reordered %d %d by %d %d, lost %d %d, bursts %v %v", tr.unique, want.unique, tr.duplicates, want.duplicates,
				tr.reordered, want.reordered, tr.distance, want.distance, tr.lost, want.lost, tr.bursts, want.bursts)
		}
		if tr.unique+tr.lost != max(sent, want.next) {
			t.Errorf("%d arrived + %d lost != %d", tr.unique, tr.lost, sent)
		}
	})
}

// TestTrackerBounds: what came too late to be told from a copy, and numbers that lie.
func TestTrackerBounds(t *testing.T) {
	var tr tracker
	tr.add(0)
	tr.add(windowBits + 100)
	if tr.add(1); tr.tooLate != 1 || tr.unique != 2 {
		t.Errorf("%d too late, %d arrived", tr.tooLate, tr.unique)
	}
	if tr.plausible(tr.next+maxJump) || !tr.plausible(tr.next+maxJump-1) || !tr.plausible(0) || tr.plausible(^uint64(0)) {
		t.Error("the bound of a jump")
	}
	jump := tr.next + maxJump - 1
	tr.add(jump)
	tr.finish(0)
	if tr.unique+tr.lost != jump+1 || tr.bursts.Longest < maxJump-windowBits {
		t.Errorf("arrived %d, lost %d, longest %d", tr.unique, tr.lost, tr.bursts.Longest)
	}
}

func TestTrackerAllocates(t *testing.T) {
	var tr tracker
	n := uint64(0)
	if got := testing.AllocsPerRun(1000, func() { tr.add(n); n += 3 }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkTracker(b *testing.B) {
	var tr tracker
	n := uint64(0)
	for b.Loop() {
		tr.add(n)
		n++
	}
}
