//go:build unix

package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// ignoreFatalSignals turns signals that would end the program in the middle of a
// recording into errors of the call at fault: EPIPE when the reader of our output
// went away, EFBIG at the file size limit.
func ignoreFatalSignals() { signal.Ignore(syscall.SIGPIPE, syscall.SIGXFSZ) }

// Signals of a recording; nil where the system has none.
var (
	rotateSignal  os.Signal = syscall.SIGHUP
	triggerSignal os.Signal = syscall.SIGUSR2
	statsSignal   os.Signal = syscall.SIGUSR1
	resizeSignal  os.Signal = syscall.SIGWINCH
)

// ownGroup keeps ctrl-C from the command, and ends all of its processes when its time
// is over.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
