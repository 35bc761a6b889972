//go:build unix

package sock

import "golang.org/x/sys/unix"

// Foreground says that this process is in the group of processes that the terminal
// listens to (tcgetpgrp(3)): one in the background had better not draw on it. Where
// the descriptor is no controlling terminal of ours it is true.
func Foreground(terminal uintptr) bool {
	group, err := unix.IoctlGetInt(int(terminal), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}
