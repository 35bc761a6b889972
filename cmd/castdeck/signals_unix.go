//go:build unix

package main

import (
	"os/signal"
	"syscall"
)

// ignoreFatalSignals turns signals that would end the program in the middle of a
// recording into errors of the call at fault: EPIPE when the reader of our output
// went away, EFBIG at the file size limit.
func ignoreFatalSignals() { signal.Ignore(syscall.SIGPIPE, syscall.SIGXFSZ) }
