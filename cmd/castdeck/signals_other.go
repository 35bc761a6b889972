//go:build !unix

package main

import (
	"os"
	"os/exec"
)

func ignoreFatalSignals() {}

var rotateSignal, triggerSignal, statsSignal, resizeSignal os.Signal

func ownGroup(*exec.Cmd) {}
