package sock

import (
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// monotonic is the kernel's own reading.
func monotonic(t testing.TB) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}

func TestNowIsTheKernelsClock(t *testing.T) {
	// Now must lie between two readings of the kernel's clock, give or take the
	// constant of the calibration. 20 us is far above it and far below the
	// distance to any other clock.
	const tolerance = 20_000
	for range 1000 {
		before := monotonic(t)
		now := Now()
		after := monotonic(t)
		if now < before-tolerance || now > after+tolerance {
			t.Fatalf("Now is %d, the kernel's clock was between %d and %d", now, before, after)
		}
	}
}

func TestNowNeverGoesBack(t *testing.T) {
	last := Now()
	for range 100_000 {
		now := Now()
		if now < last {
			t.Fatalf("%d after %d", now, last)
		}
		last = now
	}
}

func TestSleepUntilIsNeverEarly(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := SetTimerSlack(1); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := SetTimerSlack(0); err != nil {
			t.Error(err)
		}
	}()
	// Signals in the middle of the sleep, as the runtime's preemption sends them.
	tid, stop, done := unix.Gettid(), make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
				unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
				n++
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	for range 20 {
		deadline := Now() + 2_000_000
		SleepUntil(deadline)
		// The kernel compares with its own clock: allow for the calibration.
		if early := deadline - Now(); early > 1000 {
			t.Errorf("woke %d ns early", early)
		}
	}
	close(stop)
	if n := <-done; n < 20 {
		t.Errorf("%d signals for 20 sleeps: the test did not interrupt them", n)
	}
}

// A goroutine that holds its processor while it sleeps does not hold up a stop of the
// world: the signal that asks for it ends the sleep.
func TestSleepHoldingLetsTheWorldStop(t *testing.T) {
	const long = int64(20 * time.Second)
	var stop atomic.Bool
	begun, done := make(chan int64), make(chan int64)
	go func() {
		start := Now()
		begun <- start
		for !stop.Load() && Now() < start+long {
			SleepHolding(start + long)
		}
		done <- Now()
	}()
	start := <-begun
	for range 5 {
		runtime.GC() // stops the world twice
	}
	if took := Now() - start; took >= long {
		t.Errorf("the collector waited for the sleep, %d ns", took)
	}
	stop.Store(true)
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
			runtime.GC()
		}
	}
}

func TestSleepUntilThePast(t *testing.T) {
	start := Now()
	for _, deadline := range []int64{start - 1, 1, 0, -1, -1 << 63} {
		SleepUntil(deadline)
		SleepHolding(deadline)
	}
	Sleep(0)
	Sleep(-time.Hour)
	if d := Now() - start; d > int64(time.Second) {
		t.Errorf("sleeping until the past took %d ns", d)
	}
}

func TestSetTimerSlackHoldsForTheThread(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	get := func() int {
		n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	was := get()
	if err := SetTimerSlack(1); err != nil {
		t.Fatal(err)
	}
	if got := get(); got != 1 {
		t.Errorf("slack is %d ns, want 1", got)
	}
	if err := SetTimerSlack(0); err != nil {
		t.Fatal(err)
	}
	if got := get(); got != was {
		t.Errorf("slack is %d ns after going back, want %d", got, was)
	}
}

func TestClockAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		SleepUntil(Now() + 1000)
		SleepHolding(Now() + 1000)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// TestProcessTimeOf: what a process used is known while it runs, and nothing of one
// that is gone.
func TestProcessTimeOf(t *testing.T) {
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo; read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	used, err := ProcessTimeOf(cmd.Process.Pid)
	in.Close()
	cmd.Wait()
	if err != nil || used < 1e6 {
		t.Errorf("used %d ns, %v; in the end %s and %s", used, err, cmd.ProcessState.UserTime(), cmd.ProcessState.SystemTime())
	}
	if _, err := ProcessTimeOf(cmd.Process.Pid); err == nil {
		t.Error("the time of a process that is gone")
	}
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		Now()
	}
}
