//go:build linux

package netnstest

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

func TestInsideOfItsOwn(t *testing.T) {
	Require(t)
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if here == os.Getenv(outside) {
		t.Fatalf("still in the machine's namespace %s", here)
	}
	// A child process is where its parent is.
	out, err := exec.Command("readlink", "/proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	if child := strings.TrimSpace(string(out)); child != here {
		t.Errorf("a child is in %s, want %s", child, here)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if want := net.FlagUp | net.FlagMulticast; lo.Flags&want != want {
		t.Errorf("lo has %v, want %v", lo.Flags, want)
	}
}

// receive sends a datagram to group by way of tx ("" leaves it to the routes)
// and expects it on rx.
func receive(t *testing.T, group, tx, rx string) {
	t.Helper()
	dst := netip.MustParseAddrPort(group)
	network := "udp6"
	if dst.Addr().Is4() {
		network = "udp4"
	}
	rxi, err := net.InterfaceByName(rx)
	if err != nil {
		t.Fatal(err)
	}
	in, err := net.ListenMulticastUDP(network, rxi, net.UDPAddrFromAddrPort(dst))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := net.DialUDP(network, nil, net.UDPAddrFromAddrPort(dst))
	if tx != "" {
		out, err = dialFrom(t, network, dst, tx)
	}
	if err != nil {
		t.Fatalf("%s by way of %q: %v", group, tx, err)
	}
	defer out.Close()
	if _, err := out.Write([]byte("hello")); err != nil {
		t.Fatalf("%s by way of %q: %v", group, tx, err)
	}
	in.SetReadDeadline(time.Now().Add(2 * time.Second))
	var b [16]byte
	n, from, err := in.ReadFromUDPAddrPort(b[:])
	if err != nil {
		t.Fatalf("%s by way of %q did not arrive on %s: %v", group, tx, rx, err)
	}
	if string(b[:n]) != "hello" {
		t.Errorf("got %q from %s", b[:n], from)
	}
}

// dialFrom makes a socket whose multicast interface is tx.
func dialFrom(t *testing.T, network string, dst netip.AddrPort, tx string) (*net.UDPConn, error) {
	t.Helper()
	txi, err := net.InterfaceByName(tx)
	if err != nil {
		t.Fatal(err)
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		if err := c.Control(func(fd uintptr) {
			if dst.Addr().Is4() {
				serr = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(txi.Index)})
			} else {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, txi.Index)
			}
		}); err != nil {
			return err
		}
		return serr
	}}
	c, err := d.Dial(network, dst.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

func TestLoopbackCarriesMulticast(t *testing.T) {
	Require(t)
	receive(t, "239.9.9.9:5000", "", "lo")
	receive(t, "[ff15::9]:5000", "", "lo")
}

func TestVethDelivers(t *testing.T) {
	tx, rx := Veth(t)
	receive(t, "239.9.9.9:5000", tx, rx)
	receive(t, "[ff15::9]:5000", tx, rx)
	// The routes still lead to lo.
	receive(t, "239.9.9.9:5001", "", "lo")
	receive(t, "[ff15::9]:5001", "", "lo")
}

func TestVethIsRemoved(t *testing.T) {
	Require(t)
	var names []string
	t.Run("make", func(t *testing.T) {
		tx, rx := Veth(t)
		names = []string{tx, rx}
	})
	for _, name := range names {
		if _, err := net.InterfaceByName(name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

// FuzzInside shows that fuzz workers are in the namespace too.
func FuzzInside(f *testing.F) {
	Require(f)
	f.Fuzz(func(t *testing.T, _ int) {
		Require(t)
		if here, _ := os.Readlink("/proc/self/ns/net"); here == os.Getenv(outside) {
			t.Fatal("a worker is in the machine's namespace")
		}
	})
}

func BenchmarkInside(b *testing.B) {
	Require(b)
	for b.Loop() {
	}
}
