// Package netnstest gives the tests of a package a network namespace of their
// own: no datagram of a test can leave by an interface of the machine, no group
// of the machine's network is joined, and ports, sysctls and interfaces are free
// to use.
//
// A package's TestMain calls Main, and each test that needs the network calls
// Require first:
//
//	func TestMain(m *testing.M) { netnstest.Main(m) }
//
//	func TestReceive(t *testing.T) {
//		netnstest.Require(t)
//		tx, rx := netnstest.Veth(t)
//		...
//
// Main runs the whole test binary once more inside the namespace, so every
// goroutine, thread and child process of the tests is in it. (Unsharing one
// thread instead would leave every other goroutine on the machine's network.)
// Flags, exit code, output, profiles, fuzzing and benchmarks are those of the
// inner run. A package's tests share the namespace and run one after another
// unless they say otherwise.
//
// Root makes the namespace directly; anybody else makes a user namespace with
// it, in which the test is root. Where neither is allowed, and on systems other
// than Linux, the tests that call Require are skipped with the reason.
package netnstest

import "testing"

// Require skips the test where Main could not make a network namespace.
func Require(t testing.TB) {
	t.Helper()
	if why := missing(); why != "" {
		t.Skipf("needs a network namespace of its own: %s", why)
	}
}
