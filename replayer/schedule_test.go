package replayer

import (
	"math"
	"strings"
	"testing"
	"time"
)

const (
	second = int64(time.Second)
	year   = 365 * 24 * 3600 * second
)

func TestScheduleDue(t *testing.T) {
	const epoch = 1_700_000_000 * 1_000_000_000 // an ordinary recording's first time
	for _, c := range []struct {
		name  string
		p     Pacing
		times []int64
		want  []int64
	}{
		{"recorded times", Pacing{}, []int64{epoch, epoch + 1, epoch + second}, []int64{0, 1, second}},
		{"speed 1 is the default", Pacing{Speed: 1}, []int64{epoch, epoch + 12345}, []int64{0, 12345}},
		{"twice as fast", Pacing{Speed: 2}, []int64{epoch, epoch + second, epoch + 3*second}, []int64{0, second / 2, 3 * second / 2}},
		{"half as fast", Pacing{Speed: 0.5}, []int64{epoch, epoch + second}, []int64{0, 2 * second}},
		{"slowest", Pacing{Speed: 0.01}, []int64{epoch, epoch + second}, []int64{0, 100 * second}},
		{"fastest", Pacing{Speed: 1000}, []int64{epoch, epoch + second}, []int64{0, 1_000_000}},
		{"all at once", Pacing{Max: true}, []int64{epoch, epoch + year, epoch - year}, []int64{0, 0, 0}},
		{"equal times", Pacing{}, []int64{epoch, epoch, epoch}, []int64{0, 0, 0}},
		// A clock that was set back: due with the predecessor, and the time until the
		// clock has caught up is not played twice.
		{"backward", Pacing{}, []int64{epoch, epoch + 10, epoch + 5, epoch + 9, epoch + 11}, []int64{0, 10, 10, 10, 11}},
		{"backward from the start", Pacing{}, []int64{epoch, epoch - year, epoch + 7}, []int64{0, 0, 7}},
		{"gap shortened", Pacing{MaxGap: time.Second}, []int64{epoch, epoch + 5*second, epoch + 6*second}, []int64{0, second, 2 * second}},
		{"gap of the limit is kept", Pacing{MaxGap: time.Second}, []int64{epoch, epoch + second}, []int64{0, second}},
		{"gap one longer", Pacing{MaxGap: time.Second}, []int64{epoch, epoch + second + 1, epoch + second + 2}, []int64{0, second, second + 1}},
		{"gap limit is recorded time", Pacing{MaxGap: time.Second, Speed: 2}, []int64{epoch, epoch + 5*second}, []int64{0, second / 2}},
		{"gap behind a step back", Pacing{MaxGap: time.Second}, []int64{epoch, epoch - year, epoch + year}, []int64{0, 0, second}},
		{"a record far in the future", Pacing{MaxGap: time.Second}, []int64{0, math.MaxInt64, math.MaxInt64}, []int64{0, second, second}},
		{"the whole range of int64", Pacing{MaxGap: time.Second}, []int64{math.MinInt64, math.MaxInt64}, []int64{0, second}},
		{"the whole range, gaps kept", Pacing{}, []int64{math.MinInt64, -1, math.MaxInt64}, []int64{0, maxOffset, maxOffset}},
		{"the whole range, slowest", Pacing{Speed: 0.01}, []int64{math.MinInt64, math.MaxInt64}, []int64{0, maxOffset}},
		{"the whole range, fastest", Pacing{Speed: 1000}, []int64{math.MinInt64, math.MaxInt64}, []int64{0, 18446744073709552}},
		{"before 1970", Pacing{}, []int64{-5, -3, 2}, []int64{0, 2, 7}},
		{"100 years", Pacing{}, []int64{0, 100 * year}, []int64{0, 100 * year}},
		{"constant rate", Pacing{PPS: 1000}, []int64{epoch, epoch, epoch + year, epoch - year}, []int64{0, 1_000_000, 2_000_000, 3_000_000}},
		{"slow constant rate", Pacing{PPS: 0.5}, []int64{0, 0}, []int64{0, 2 * second}},
		{"rate of almost nothing", Pacing{PPS: 1e-300}, []int64{0, 0}, []int64{0, maxOffset}},
		{"constant bit rate", Pacing{BitsPerSecond: 8e6}, []int64{0, 0, 0}, []int64{0, 100_000, 200_000}}, // 100 bytes each
	} {
		if err := c.p.check(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		s := schedule{Pacing: c.p}
		for i, at := range c.times {
			if got := s.due(at, 100); got != c.want[i] {
				t.Errorf("%s: datagram %d is due at %d, want %d", c.name, i, got, c.want[i])
			}
		}
	}
}

// Hours at a factor that is no binary fraction: every datagram must be where the
// recorded time says, not where the sum of its predecessors' rounding errors says.
func TestScheduleDoesNotDrift(t *testing.T) {
	const hours, interval = 12, 37_000_003
	for _, speed := range []float64{1, 3, 0.7, 1.1, 1000} {
		s := schedule{Pacing: Pacing{Speed: speed}}
		for at := int64(0); at <= hours*3600*second; at += interval {
			got := s.due(1_700_000_000*second+at, 1)
			if want := float64(at) / speed; math.Abs(float64(got)-want) > 1.5 {
				t.Fatalf("speed %g: after %s %g ns off", speed, time.Duration(at), float64(got)-want)
			}
		}
	}
	s := schedule{Pacing: Pacing{PPS: 30000}}
	for i := range int64(1_000_000) {
		got := s.due(0, 1)
		if want := i * second / 30000; got < want-1 || got > want+1 {
			t.Fatalf("30 kpps: datagram %d is due at %d, want %d", i, got, want)
		}
	}
}

func TestScheduleNeverDecreases(t *testing.T) {
	for _, p := range []Pacing{{}, {Speed: 0.01}, {Speed: 1000}, {Speed: 0.3, MaxGap: 5}, {MaxGap: time.Hour}, {PPS: 7}, {BitsPerSecond: 9}} {
		s := schedule{Pacing: p}
		last := int64(0)
		at := uint64(0x9E3779B97F4A7C15)
		for i := range 100_000 {
			at = at*6364136223846793005 + 1442695040888963407 // any time at all
			due := s.due(int64(at)>>(i%60), i)
			if due < last || due > maxOffset {
				t.Fatalf("%+v: %d after %d", p, due, last)
			}
			last = due
		}
	}
}

func TestScheduleCounts(t *testing.T) {
	s := schedule{Pacing: Pacing{MaxGap: time.Second}}
	for _, at := range []int64{0, 3 * second, 4 * second, 2 * second, 9 * second} {
		s.due(at, 1)
	}
	if s.shortened != 2 || s.removed != uint64(6*second) {
		t.Errorf("%d gaps shortened by %d ns, want 2 by 6 s", s.shortened, s.removed)
	}
}

func TestPacingCheck(t *testing.T) {
	for _, c := range []struct {
		p    Pacing
		want string // in the error; "" where there is none
	}{
		{Pacing{}, ""},
		{Pacing{Speed: 0.01}, ""},
		{Pacing{Speed: 1000}, ""},
		{Pacing{Speed: 0.0099}, "speed 0.0099"},
		{Pacing{Speed: 1000.1}, "speed 1000.1"},
		{Pacing{Speed: -1}, "speed -1"},
		{Pacing{Speed: math.NaN()}, "speed NaN"},
		{Pacing{Speed: math.Inf(1)}, "speed +Inf"},
		{Pacing{PPS: -1}, "-1 datagrams"},
		{Pacing{PPS: math.NaN()}, "NaN datagrams"},
		{Pacing{PPS: 2e9}, "2e+09 datagrams"},
		{Pacing{BitsPerSecond: math.Inf(1)}, "+Inf bits"},
		{Pacing{Speed: 2, Max: true}, "more than one"},
		{Pacing{PPS: 2, BitsPerSecond: 1}, "more than one"},
		{Pacing{MaxGap: -1}, "negative"},
	} {
		err := c.p.check()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c.p, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: error %v does not say %q", c.p, err, c.want)
		}
	}
}

func TestScheduleAllocatesNothing(t *testing.T) {
	s := schedule{Pacing: Pacing{Speed: 1.5, MaxGap: time.Second}}
	at := int64(0)
	if n := testing.AllocsPerRun(1000, func() { at += second / 3; s.due(at, 1) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkSchedule(b *testing.B) {
	s := schedule{Pacing: Pacing{Speed: 1.5}}
	at := int64(0)
	for b.Loop() {
		at += 1000
		s.due(at, 100)
	}
}
