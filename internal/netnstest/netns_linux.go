package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"castdeck/internal/netns"
)

// outside is the environment variable by which the inner run knows itself. Its
// value is the namespace that was left, as /proc/self/ns/net shows it: a variable
// that was exported by accident cannot pass for a namespace. The workers of go
// test -fuzz inherit it and stay in their coordinator's namespace.
const outside = "CASTDECK_TEST_OUTSIDE"

// reason tells why the tests are not in a namespace of their own; "" where they
// are. Main sets it before any test runs.
var reason = "TestMain does not call netnstest.Main"

func missing() string { return reason }

// Main runs the tests in a fresh network namespace in which lo is up, carries
// multicast, and is the route of 224.0.0.0/4 and ff00::/8. It does not return. m is
// a *testing.M, or what runs one.
func Main(m interface{ Run() int }) {
	here, err := netns.ID()
	if err != nil {
		reason = err.Error()
		os.Exit(m.Run())
	}
	if left := os.Getenv(outside); left != "" && left != here {
		if err := netns.Prepare(); err != nil {
			fmt.Fprintf(os.Stderr, "netnstest: %v\n", err)
			os.Exit(1)
		}
		reason = ""
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // see netns.Start
	cmd, err := netns.Start(os.Args[1:], outside+"="+here)
	if err != nil {
		reason = err.Error()
		os.Exit(m.Run())
	}
	// go test -timeout and ^C end this process; the inner one prints the stacks.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		code = exit.ExitCode()
	case err != nil: // killed by a signal
		fmt.Fprintf(os.Stderr, "netnstest: the tests inside the namespace: %v\n", err)
		code = 2
	}
	// Not os.Exit: its hooks write coverage data, and the inner run has done that.
	syscall.Exit(code)
}

var pairs atomic.Uint32

// Veth is netns.Veth, with names and numbers of its own for each test: tx has the
// addresses 10.77.n.1/24 and fd77:n::1/64, rx 10.77.n.2/24 and fd77:n::2/64. The
// test's cleanup removes the pair; the test may do so itself.
func Veth(t testing.TB) (tx, rx string) {
	t.Helper()
	Require(t)
	n := pairs.Add(1)
	if n > 250 {
		n = n%250 + 1
	}
	tx, rx = fmt.Sprintf("tx%d", n), fmt.Sprintf("rx%d", n)
	remove, err := netns.Veth(tx, rx, int(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	return tx, rx
}

// RemakeVeth removes a pair that Veth made and makes it again: the names and addresses
// are the same, the indices are others.
func RemakeVeth(t testing.TB, tx, rx string) {
	t.Helper()
	link, err := netlink.LinkByName(tx)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err == nil {
		_, err = netns.Veth(tx, rx, number(t, tx))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// RestoreVeth is netns.RestoreVeth, of a pair that Veth made.
func RestoreVeth(t testing.TB, tx, rx string) {
	t.Helper()
	if err := netns.RestoreVeth(tx, rx, number(t, tx)); err != nil {
		t.Fatal(err)
	}
}

// number of a pair, by the name of its sending end.
func number(t testing.TB, tx string) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(tx, "tx%d", &n); err != nil {
		t.Fatalf("%s: %v", tx, err)
	}
	return n
}
