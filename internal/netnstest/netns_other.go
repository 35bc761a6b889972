//go:build !linux

package netnstest

import (
	"os"
	"testing"
)

// Main runs the tests as they are: only Linux has network namespaces.
func Main(m interface{ Run() int }) { os.Exit(m.Run()) }

func missing() string { return "only Linux has them" }

// Veth skips the test.
func Veth(t testing.TB) (tx, rx string) {
	t.Helper()
	Require(t)
	return "", ""
}
