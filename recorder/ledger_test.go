package recorder

import (
	"testing"
	"time"
)

func TestLedger(t *testing.T) {
	var l ledger
	for i, c := range []struct {
		datagram bool // a datagram with this counter, or a reading of SO_MEMINFO
		counter  uint32
		place    uint64
		total    uint64
	}{
		{true, 0, 0, 0},
		{true, 5, 5, 5}, // lost before the first datagram that says so: ours
		{true, 5, 0, 5},
		{false, 8, 0, 8}, // a tick knows of 3 more
		{true, 5, 0, 8},  // queued before those
		{true, 8, 3, 8},  // the datagram behind them: placed, and not counted again
		{true, 9, 1, 9},
		{true, 7, 0, 9}, // out of order between processors
		{true, 10, 1, 10},
		{false, 10, 0, 10},
		{false, 1 << 31, 0, 1 << 31}, // most of the way round, a reading a second
		{false, 0xFFFFFFFF, 0, 0xFFFFFFFF},
		{false, 2, 0, 0x1_0000_0002}, // the counter wraps, the total does not
		{false, 0xFFFFFFFF, 0, 0x1_0000_0002},
	} {
		var placed uint64
		if c.datagram {
			placed = l.place(c.counter)
		}
		before := l.total
		if grown := l.observe(c.counter); before+grown != l.total {
			t.Errorf("step %d: grew by %d from %d to %d", i, grown, before, l.total)
		}
		if placed != c.place || l.total != c.total {
			t.Errorf("step %d: placed %d, total %d, want %d and %d", i, placed, l.total, c.place, c.total)
		}
	}
	// A wrap between two datagrams.
	l = ledger{placed: 0xFFFFFFF0, known: 0xFFFFFFF0}
	if got := l.place(0x10); got != 0x20 {
		t.Errorf("placed %d across the wrap, want 32", got)
	}
}

// TestLedgerRebase: the counter of another socket goes on where the first one ended,
// also where that had wrapped, and what was lost last and not placed is told once.
func TestLedgerRebase(t *testing.T) {
	l := ledger{placed: 0xFFFFFFF0, known: 0xFFFFFFF0, total: 0xFFFFFFF0}
	l.observe(6) // 22 more, behind the last datagram
	l.rebase()
	if grown := l.observe(0); grown != 0 || l.total != 0x1_0000_0006 {
		t.Errorf("a new socket that has lost nothing: %d more, %d in all", grown, l.total)
	}
	placed, grown := l.place(3), l.observe(3)
	if placed != 22+3 || grown != 3 || l.total != 0x1_0000_0009 {
		t.Errorf("3 lost on the new socket: %d placed, %d more, %d in all", placed, grown, l.total)
	}
	if placed := l.place(3); placed != 0 {
		t.Errorf("%d placed a second time", placed)
	}
}

func TestPacer(t *testing.T) {
	var p pacer
	// Datagrams keep coming and the buffer is nearly empty: the sleep grows.
	last := time.Duration(0)
	for range 20 {
		d := p.next(time.Millisecond, 1e-6)
		if d < last || d < minSleep || d > maxSleep {
			t.Fatalf("slept %v after %v", d, last)
		}
		last = d
	}
	if last != maxSleep {
		t.Errorf("slept %v at most, want %v", last, maxSleep)
	}
	// In 1 ms half a buffer came: a quarter of a buffer takes half a millisecond.
	if d := p.next(time.Millisecond, 0.5); d > 500*time.Microsecond {
		t.Errorf("slept %v where the buffer fills in 2 ms", d)
	}
	// A peak is remembered while it is quiet, and forgotten.
	if d := p.next(time.Millisecond, 1e-6); d > 600*time.Microsecond {
		t.Errorf("slept %v right after a peak", d)
	}
	if d := p.next(2*time.Second, 1e-6); d <= 600*time.Microsecond {
		t.Errorf("slept %v long after the peak", d)
	}
	// However fast it fills, the thread sleeps a little: more wakeups take nothing
	// out of the buffer that this does not.
	if d := p.next(time.Microsecond, 5); d != minSleep {
		t.Errorf("slept %v in a flood, want %v", d, minSleep)
	}
	p.idle()
	p.peak = 0
	if d := p.next(0, 0); d != minSleep {
		t.Errorf("slept %v after a pause, want %v", d, minSleep)
	}
}
