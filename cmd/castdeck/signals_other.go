//go:build !unix

package main

func ignoreFatalSignals() {}
