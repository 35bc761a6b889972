package replayer

import (
	"sort"
	"sync/atomic"

	"castdeck/internal/sock"
)

// Clock is the time that a replay runs by. Both methods are called by the sending
// goroutine only.
type Clock interface {
	// Now is a monotonic time in ns; its zero is arbitrary.
	Now() int64
	// SleepUntil returns at deadline or later, for a deadline in the past at once; it
	// may return earlier, for no reason. It is not called with deadlines more than 50 ms
	// ahead.
	SleepUntil(deadline int64)
}

// machineClock is the kernel's CLOCK_MONOTONIC.
type machineClock struct{}

func (machineClock) Now() int64                { return sock.Now() }
func (machineClock) SleepUntil(deadline int64) { sock.SleepUntil(deadline) }

// holdingClock is machineClock for a goroutine that does not give its processor away
// when it sleeps.
type holdingClock struct{ machineClock }

func (holdingClock) SleepUntil(deadline int64) { sock.SleepHolding(deadline) }

// minHolding is the least GOMAXPROCS with which the sending goroutine may keep one
// processor for itself: one for what reads ahead and one for the rest.
const minHolding = 3

const (
	// The guard is the part of a wait that is spun rather than slept, in ns: what
	// a sleep is usually late by, within these bounds. Below 20 us the spin would
	// miss the ordinary wakeup; above 200 us it costs more CPU than it is worth.
	minGuard, maxGuard = 20_000, 200_000
	// guardShare is the part of a wait that may be spun where minGuard is less: 1/64,
	// so that a slow replay does not burn the processor on a machine that wakes late.
	guardShare = 64
	// longestSleep bounds how long a stop waits for the sender, in ns.
	longestSleep = 50_000_000
)

// pacer waits for due times: it sleeps until a guard before, then spins. Without
// real-time priority the guard is at most a share of the wait.
type pacer struct {
	clock Clock
	guard int64 // ns
	// attention ends a wait; another goroutine sets it.
	attention *atomic.Bool

	// setRealtime gives the thread real-time priority or takes it; nil where that is not
	// wanted or not allowed.
	setRealtime func(bool)
	realtime    bool
	// The window that goes on: its start, and how much of it was slept.
	window, slept int64
}

// A thread of real-time priority must sleep now and then: below it nothing runs on its
// processor, the kernel's own threads that send and receive included, and a thread
// that took 950 ms of a second stands still for the other 50 (sched(7),
// sched_rt_runtime_us). Where a schedule leaves less sleep than a tenth, the pacer
// does without the priority until it leaves more.
const (
	dutyWindow = 50_000_000 // ns
	dutyShare  = 10
	// realtimeGuard bounds the guard of a thread of real-time priority, in ns: it wakes
	// sooner.
	realtimeGuard = 60_000
)

// calibrate sets the guard from what short sleeps are late by on this thread now.
// It takes some 5 ms.
func (p *pacer) calibrate() {
	const trials, nap = 31, 100_000
	late := make([]int64, trials)
	for i := range late {
		deadline := p.clock.Now() + nap
		p.clock.SleepUntil(deadline)
		late[i] = p.clock.Now() - deadline
	}
	sort.Slice(late, func(i, j int) bool { return late[i] < late[j] })
	// The ninth decile and half of it again: a stray wakeup says nothing about the
	// usual one, and the spin has to begin before the moment, not at it.
	usual := late[trials*9/10]
	p.guard = min(max(usual+usual/2, minGuard), maxGuard)
}

// Tried for the tails, each on top of a sleep by a plain system call (10 alternating runs
// of 20 kpps, 200 bytes, on two processors of a busy host; p99 and p99.9 in us, 142 and
// 2,141 with that alone): the goroutine not locked to its thread, so that being stopped
// after 10 ms costs no change of thread (165, 2,900); no garbage collection while it plays
// and the ring filled before it begins (123, 2,700); that and a slice of 100 us for the
// sending thread, sched_setattr(2) (169, 2,400). None differs by more than the runs of one
// do. What is left is the machine: a thread that does nothing but read the clock finds gaps
// of 20 to 100 us 250 times a second there, at the timer's tick, and some of milliseconds.

// wait returns the time as soon as it is at or past due, or when attention is asked
// for.
func (p *pacer) wait(due int64) (now int64) {
	began := int64(0) // when the last sleep did
	guard := int64(0) // not known yet
	for {
		now = p.clock.Now()
		if began != 0 {
			p.slept += now - began
			began = 0
		}
		left := due - now
		if left <= 0 || p.attention.Load() {
			if p.setRealtime != nil && now-p.window >= dutyWindow {
				p.duty(now)
			}
			return now
		}
		switch {
		case guard != 0:
		case p.realtime:
			guard = min(p.guard, realtimeGuard)
		default:
			guard = min(p.guard, max(minGuard, left/guardShare))
		}
		if left > guard {
			p.clock.SleepUntil(now + min(left-guard, longestSleep))
			began = now
		}
	}
}

// duty looks back at a window and decides on the priority in the next one.
func (p *pacer) duty(now int64) {
	if want := p.slept >= (now-p.window)/dutyShare; want != p.realtime {
		p.realtime = want
		p.setRealtime(want)
	}
	p.window, p.slept = now, 0
}
