package replayer

import (
	"sync/atomic"
	"testing"
)

// fakeClock is a clock of which the test knows everything. Each reading takes
// step ns, so that a spin ends.
type fakeClock struct {
	now  int64
	step int64
	// oversleep is what a sleep is late by.
	oversleep int64

	readings, sleeps, longest int64
	slept                     int64
	onSleep                   func(until int64)
}

func (c *fakeClock) Now() int64 {
	c.now += c.step
	c.readings++
	return c.now
}

func (c *fakeClock) SleepUntil(deadline int64) {
	c.sleeps++
	if d := deadline - c.now; d > 0 {
		c.longest = max(c.longest, d)
		c.slept += d
		c.now = deadline + c.oversleep
	}
	if c.onSleep != nil {
		c.onSleep(deadline)
	}
}

func TestPacerSleepsThenSpins(t *testing.T) {
	c := &fakeClock{now: 1000, step: 50}
	p := &pacer{clock: c, guard: 25_000, attention: new(atomic.Bool)}
	due := c.now + 10*second
	now := p.wait(due)
	if now < due || now > due+c.step {
		t.Errorf("back at %d, want %d", now, due)
	}
	if c.longest > longestSleep {
		t.Errorf("slept %d ns at a stretch: a stop would wait that long", c.longest)
	}
	// All but the guard was slept; the guard was spun.
	if spun := due - 1000 - c.slept; spun < p.guard || spun > p.guard+int64(c.sleeps+2)*c.step {
		t.Errorf("%d ns were not slept, want the guard, %d", spun, p.guard)
	}
}

func TestPacerIsNeverEarly(t *testing.T) {
	for _, ahead := range []int64{-second, -1, 0, 1, 19_999, 20_000, 20_001, 50_000_000, 50_020_000, 50_020_001, 3600 * second} {
		for _, oversleep := range []int64{0, 10_000, 20_000, 1_000_000} {
			c := &fakeClock{now: 77, step: 7, oversleep: oversleep}
			p := &pacer{clock: c, guard: minGuard, attention: new(atomic.Bool)}
			due := c.now + ahead
			if now := p.wait(due); now < due {
				t.Errorf("%d ns ahead: %d ns early", ahead, due-now)
			} else if ahead > 0 && now > due+oversleep+c.step {
				t.Errorf("%d ns ahead, sleeps %d late: %d ns late", ahead, oversleep, now-due)
			}
		}
	}
}

func TestPacerStops(t *testing.T) {
	c := &fakeClock{step: 1}
	p := &pacer{clock: c, guard: minGuard, attention: new(atomic.Bool)}
	c.onSleep = func(until int64) {
		if until > 10*second {
			p.attention.Store(true)
		}
	}
	now := p.wait(3600 * second)
	// Stopped at 10 s: at most the sleep that went on is still slept.
	if now < 10*second || now > 10*second+longestSleep+int64(c.readings) {
		t.Errorf("back at %d ns", now)
	}
	// And a spin stops too: this would not come back otherwise.
	c.step = 0
	p.wait(c.now + 10)
}

func TestPacerCalibratesWithinBounds(t *testing.T) {
	for _, c := range []struct{ oversleep, want int64 }{
		{0, minGuard},
		{10_000, minGuard},
		{40_000, 60_000},
		{1_000_000, maxGuard},
		{second, maxGuard},
	} {
		p := &pacer{clock: &fakeClock{oversleep: c.oversleep}, attention: new(atomic.Bool)}
		p.calibrate()
		if p.guard != c.want {
			t.Errorf("sleeps %d ns late: guard %d, want %d", c.oversleep, p.guard, c.want)
		}
	}
}

// A single late wakeup among many says nothing about the usual one.
func TestPacerCalibrationIgnoresAStray(t *testing.T) {
	c := &fakeClock{oversleep: 2_000}
	c.onSleep = func(int64) {
		c.oversleep = 2_000
		if c.sleeps == 5 {
			c.oversleep = 10_000_000
		}
	}
	p := &pacer{clock: c, attention: new(atomic.Bool)}
	p.calibrate()
	if p.guard != minGuard {
		t.Errorf("guard %d, want %d", p.guard, minGuard)
	}
}

func TestPacerAllocatesNothing(t *testing.T) {
	c := &fakeClock{step: 100}
	p := &pacer{clock: c, guard: minGuard, attention: new(atomic.Bool)}
	if n := testing.AllocsPerRun(100, func() { p.wait(c.now + 100_000) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// On a machine that wakes late, 1,000 datagrams a second cost at most a fiftieth of
// a processor in spinning, a little more with real-time priority.
func TestPacerSpinsAShare(t *testing.T) {
	const interval, n = 1_000_000, 1000
	for _, c := range []struct {
		realtime bool
		want     int64
	}{{false, minGuard}, {true, realtimeGuard}} {
		clock := &fakeClock{step: 100}
		p := &pacer{clock: clock, guard: maxGuard, attention: new(atomic.Bool), realtime: c.realtime}
		for i := range int64(n) {
			p.wait(i * interval)
		}
		if spun := (clock.now - clock.slept) / n; spun < c.want*9/10 || spun > c.want*11/10 {
			t.Errorf("real-time %v: %d ns spun for each datagram, want %d", c.realtime, spun, c.want)
		}
	}
}

// Real-time priority is given back where the schedule leaves no sleep, and taken again
// where it does.
func TestPacerDuty(t *testing.T) {
	clock := &fakeClock{step: 100}
	var set []bool
	p := &pacer{clock: clock, guard: minGuard, attention: new(atomic.Bool), realtime: true, setRealtime: func(on bool) { set = append(set, on) }}
	play := func(interval int64, n int) {
		for range n {
			p.wait(clock.now + interval)
		}
	}
	play(1_000_000, 200) // 200 ms at 1 kpps: nearly all slept
	if len(set) != 0 || !p.realtime {
		t.Fatalf("at 1 kpps: %v", set)
	}
	play(10_000, 20_000) // 100 kpps: all spun
	if len(set) != 1 || set[0] || p.realtime {
		t.Fatalf("at 100 kpps: %v", set)
	}
	play(0, 1000) // late: nothing to wait for
	play(1_000_000, 200)
	if len(set) != 2 || !set[1] || !p.realtime {
		t.Fatalf("back at 1 kpps: %v", set)
	}
}
