package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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

// Veth makes a pair of connected interfaces, both up, that the test's cleanup
// removes: a multicast datagram sent out of tx arrives on rx and is delivered to
// the sockets that joined its group there. tx has the addresses 10.77.n.1/24 and
// fd77:n::1/64, rx 10.77.n.2/24 and fd77:n::2/64.
//
// Both ends are in one namespace, so the source of what arrives is an address of
// this very host: the kernel takes that for forged unless accept_local is set and
// rp_filter is 0 (Documentation/networking/ip-sysctl.rst), and so they are.
func Veth(t testing.TB) (tx, rx string) {
	t.Helper()
	Require(t)
	n := pairs.Add(1)
	if n > 250 {
		n = n%250 + 1
	}
	tx, rx = fmt.Sprintf("tx%d", n), fmt.Sprintf("rx%d", n)
	if netns.HasIPv6() {
		// Duplicate address detection would hold the addresses back for a second.
		sysctl(t, "net/ipv6/conf/default/accept_dad", "0")
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: tx}, PeerName: rx}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("veth pair %s, %s: %v", tx, rx, err)
	}
	t.Cleanup(func() {
		// The test may have removed the pair itself.
		if err := netlink.LinkDel(pair); err != nil && !errors.Is(err, unix.ENODEV) {
			t.Errorf("removing %s: %v", tx, err)
		}
	})
	for i, name := range []string{tx, rx} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for key, value := range map[string]string{"accept_local": "1", "rp_filter": "0"} {
			sysctl(t, filepath.Join("net/ipv4/conf", name, key), value)
		}
		addresses := []string{fmt.Sprintf("10.77.%d.%d/24", n, i+1)}
		if netns.HasIPv6() {
			addresses = append(addresses, fmt.Sprintf("fd77:%x::%d/64", n, i+1))
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				t.Fatal(err)
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				t.Fatalf("%s: address %s: %v", name, a, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatalf("%s: up: %v", name, err)
		}
	}
	waitUp(t, tx, rx)
	return tx, rx
}

// waitUp waits until the interfaces carry datagrams. The first end has no carrier
// before the other is up, and the kernel then makes its queue in its own time
// (net/core/link_watch.c); until it has, everything sent is lost without an error.
func waitUp(t testing.TB, names ...string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, name := range names {
		for {
			link, err := netlink.LinkByName(name)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if link.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is %v, and not up", name, link.Attrs().OperState)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func sysctl(t testing.TB, name, value string) {
	t.Helper()
	if err := netns.SetSysctl(name, value); err != nil {
		t.Fatal(err)
	}
}
