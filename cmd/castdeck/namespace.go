package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"

	"castdeck/internal/netns"
)

// outsideNamespace tells an inner run which namespace was left.
const outsideNamespace = "CASTDECK_OUTSIDE"

// insideNamespace says whether this is an inner run of inNamespace. A variable that
// was exported by accident cannot pass for one.
func insideNamespace() bool {
	here, err := netns.ID()
	left := os.Getenv(outsideNamespace)
	return err == nil && left != "" && left != here
}

// inNamespace runs this program again with the arguments, in a network namespace of
// its own in which lo carries multicast, and returns its exit code as an error. Where
// there can be none, it returns what otherwise makes of the cause.
func inNamespace(args []string, otherwise func(error) error) error {
	here, err := netns.ID()
	if err != nil {
		return otherwise(err)
	}
	runtime.LockOSThread() // see netns.Start
	defer runtime.UnlockOSThread()
	child, err := netns.Start(args, outsideNamespace+"="+here)
	if err != nil {
		return otherwise(err)
	}
	// The child gets the terminal's signals itself.
	err = child.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &exitError{code: max(exit.ExitCode(), exitFailed)}
	}
	return err
}
