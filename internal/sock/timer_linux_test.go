package sock

import (
	"testing"
	"time"
)

func TestTimerIsNeverEarly(t *testing.T) {
	timer, err := NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	defer timer.Close()
	for _, d := range []time.Duration{1, time.Microsecond, time.Millisecond, 3 * time.Millisecond} {
		start := monotonic(t)
		timer.Sleep(d)
		if passed := monotonic(t) - start; passed < int64(d) {
			t.Errorf("slept %v of %v", time.Duration(passed), d)
		}
	}
	timer.Sleep(0)
	timer.Sleep(-time.Hour)
}

func TestTimerAllocatesNothing(t *testing.T) {
	timer, err := NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	defer timer.Close()
	if n := testing.AllocsPerRun(20, func() { timer.Sleep(100 * time.Microsecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A timer that was closed sleeps no more, and closing again is no error.
func TestTimerClosed(t *testing.T) {
	timer, err := NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := timer.Close(); err != nil {
			t.Error(err)
		}
	}
	timer.Sleep(time.Hour)
}

func BenchmarkTimer(b *testing.B) {
	timer, err := NewTimer()
	if err != nil {
		b.Fatal(err)
	}
	defer timer.Close()
	b.ReportAllocs()
	for b.Loop() {
		timer.Sleep(time.Microsecond)
	}
}
