package sock

import (
	"fmt"
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The clock of pacing is CLOCK_MONOTONIC: no step of the wall clock reaches it,
// and clock_nanosleep takes absolute deadlines of it.
//
// time.Since reads the same clock through the vDSO (about 40 ns, no system call)
// but counts from a base of the runtime's own, so the two differ by a constant.
// calibrate measures it once.
var (
	clockBase   = time.Now()
	clockOffset = calibrate(clockBase)
)

// Now returns CLOCK_MONOTONIC in ns. It does not allocate and makes no system
// call. Readings never go backwards and differ from one another exactly as the
// kernel's do; against the kernel's own value, which SleepUntil compares with,
// they are off by a constant of less than the time of one system call (measured:
// below 100 ns).
func Now() int64 { return int64(time.Since(clockBase)) + clockOffset }

// calibrate returns CLOCK_MONOTONIC minus the time since base. A reading between
// two others is off by at most half of their distance; the closest of a few
// trials was not interrupted.
func calibrate(base time.Time) int64 {
	var offset int64
	closest := int64(math.MaxInt64)
	for range 64 {
		var ts unix.Timespec
		before := int64(time.Since(base))
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			return 0 // CLOCK_MONOTONIC exists on every Linux; see clock_gettime(2)
		}
		after := int64(time.Since(base))
		if d := after - before; d < closest {
			closest = d
			offset = ts.Nano() - before - d/2
		}
	}
	return offset
}

// SleepUntil returns when Now is at or past deadline (ns of CLOCK_MONOTONIC), at
// once where it already is. The thread sleeps in the kernel: it wakes late by the
// timer slack (SetTimerSlack) and what the scheduler takes, never early. A signal
// does not end the sleep: the runtime preempts by SIGURG, and a sleeper that took
// EINTR for the end would send early.
//
// It cannot be cancelled; cut a long sleep into pieces. It does not allocate.
func SleepUntil(deadline int64) {
	if deadline <= 0 {
		return
	}
	ts := unix.NsecToTimespec(deadline)
	for {
		// The deadline is absolute, so a retry neither adds up nor drifts. Unlike a
		// system call of package unix this passes no error value around.
		_, _, errno := unix.Syscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC,
			unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno != unix.EINTR {
			return
		}
	}
}

// SleepHolding sleeps like SleepUntil, but Go's scheduler is not told: the goroutine
// keeps its processor (GOMAXPROCS) while it sleeps. A signal ends the sleep, so it may
// return early: the runtime stops a goroutine by one, and the caller has to come by a
// point where it can be stopped (any call of a function) before it sleeps on.
//
// A goroutine that sleeps by an ordinary system call is one that has run for longer than
// 10 ms, to the runtime: it takes the processor away at each sleep and gives another one
// at each wakeup, with four futex calls for every datagram and a monitor thread that looks
// every 20 us. 200 bytes on a veth pair, medians: at 1 kpps 7.6 % of a processor with
// SleepUntil, 5.4 % with this, at 20 kpps 59 % against 52 %, with 1,000 involuntary
// context switches a second against 130.
func SleepHolding(deadline int64) {
	if deadline <= 0 {
		return
	}
	ts := unix.NsecToTimespec(deadline)
	_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC,
		unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
}

// Sleep sleeps for d like SleepUntil(Now() + d). time.Sleep rounds up to a
// millisecond when the runtime is otherwise idle (golang/go#44343); this does not.
func Sleep(d time.Duration) {
	if d > 0 {
		SleepUntil(Now() + int64(d))
	}
}

// SetTimerSlack lets the kernel delay the sleeps of the calling thread by up to
// ns, to gather wakeups: 50 us by default, 1 for the least, 0 to go back to the
// default (PR_SET_TIMERSLACK, prctl(2)). It holds for one thread: call
// runtime.LockOSThread first, and set it back before unlocking.
func SetTimerSlack(ns int64) error {
	return unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0)
}

// ProcessTime is the processor time, user and kernel, that this process has used so far,
// in ns (getrusage(2)).
func ProcessTime() int64 {
	var u unix.Rusage
	unix.RawSyscall(unix.SYS_GETRUSAGE, unix.RUSAGE_SELF, uintptr(unsafe.Pointer(&u)), 0)
	return u.Utime.Nano() + u.Stime.Nano()
}

// ProcessTimeOf is the processor time, user and kernel, that the threads of another process
// have used so far, those that have ended too, in ns: its clock of that
// (clock_getcpuclockid(3), linux/posix-timers.h). In a virtual machine it may include what
// the host took away meanwhile, which ProcessTime does not.
func ProcessTimeOf(pid int) (int64, error) {
	const ofSchedule = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|ofSchedule), &t); err != nil {
		return 0, fmt.Errorf("the processor time of process %d: %w", pid, err)
	}
	return t.Nano(), nil
}
