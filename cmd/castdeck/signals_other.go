//go:build !unix

package main

import (
	"os"
	"os/exec"
)

func ignoreFatalSignals() {}

var rotateSignal, triggerSignal os.Signal

func ownGroup(*exec.Cmd) {}
