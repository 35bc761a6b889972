package sock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// realtimePriority is above ordinary threads and below the kernel's own interrupt
// threads (50).
const realtimePriority = 10

// SetRealtime gives the calling thread the scheduling class SCHED_FIFO: it runs as
// soon as it wakes, before all ordinary threads. Call runtime.LockOSThread first.
// undo makes it ordinary again. A thread of that class must sleep now and then.
//
// It needs CAP_SYS_NICE or a limit of real-time priority (ulimit -r), sched(7).
func SetRealtime() (undo func(), err error) {
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return nil, fmt.Errorf("sched_getattr: %w", err)
	}
	want := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: realtimePriority}
	if err := unix.SchedSetAttr(0, &want, 0); err != nil {
		return nil, fmt.Errorf("SCHED_FIFO: %w (it needs CAP_SYS_NICE or ulimit -r %d)", err, realtimePriority)
	}
	return func() { _ = unix.SchedSetAttr(0, before, 0) }, nil
}

// LockMemory keeps every page that the process touches from then on in memory
// (mlockall(2) with MCL_ONFAULT), so that none has to be fetched when a datagram is
// due. It needs CAP_IPC_LOCK or a limit of locked memory that is large enough
// (ulimit -l).
func LockMemory() (undo func(), err error) {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return nil, fmt.Errorf("mlockall: %w (it needs CAP_IPC_LOCK or a larger ulimit -l)", err)
	}
	return func() { _ = unix.Munlockall() }, nil
}

// LowerPriority makes the calling thread give way to others: its nice value grows by so
// much, up to 19, for good. Call runtime.LockOSThread first and never unlock, so that the
// thread ends with its goroutine. Everybody may do it (setpriority(2), where 0 is the
// calling thread on Linux).
func LowerPriority(by int) error {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // the system call has 20 less the nice value
	if err != nil {
		return fmt.Errorf("getpriority: %w", err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-raw+by, 19)); err != nil {
		return fmt.Errorf("setpriority: %w", err)
	}
	return nil
}
