package sock

import (
	"net/netip"
	"testing"
)

func TestSockaddrRoundTrip(t *testing.T) {
	for _, c := range []struct {
		in   string
		zone uint32
		want string // "" where it is the same
		n    uint32
	}{
		{in: "239.1.2.3:5000", n: 16},
		{in: "0.0.0.0:0", n: 16},
		{in: "255.255.255.255:65535", n: 16},
		{in: "[ff3e::1]:5000", n: 28},
		{in: "[fe80::1]:1", zone: 7, n: 28},
		{in: "[::]:0", n: 28},
		// The kernel hands mapped addresses to a dual-stack socket; everything
		// above this package knows plain IPv4 only.
		{in: "[::ffff:10.0.0.1]:9", want: "10.0.0.1:9", n: 16},
	} {
		b := [addrSize]byte{}
		for i := range b {
			b[i] = 0xEE // what the last message left there must not shine through
		}
		n := putSockaddr(&b, netip.MustParseAddrPort(c.in), c.zone)
		if n != c.n {
			t.Errorf("%s: length %d, want %d", c.in, n, c.n)
		}
		want := c.in
		if c.want != "" {
			want = c.want
		}
		if got := sockaddr(&b, n); got.String() != want {
			t.Errorf("%s: came back as %s", c.in, got)
		}
		if n == addrSizeIPv6 && b[24] == 0 && b[27] == 0 && c.zone != 0 {
			t.Errorf("%s: zone %d was not written: % x", c.in, c.zone, b[24:])
		}
		if got := sockaddr(&b, n-1); got.IsValid() {
			t.Errorf("%s: cut off by a byte, still read as %s", c.in, got)
		}
	}
}

func TestSockaddrMappedFromKernel(t *testing.T) {
	// A dual-stack socket's sockaddr_in6, port 9, ::ffff:10.0.0.1.
	b := [addrSize]byte{0: familyIPv6, 3: 9, 18: 0xFF, 19: 0xFF, 20: 10, 23: 1}
	if b[0] != familyIPv6 {
		t.Fatal("table is wrong")
	}
	var probe [addrSize]byte
	putSockaddr(&probe, netip.MustParseAddrPort("[::1]:9"), 0)
	copy(b[:2], probe[:2]) // the machine's byte order
	if got := sockaddr(&b, addrSizeIPv6).String(); got != "10.0.0.1:9" {
		t.Errorf("got %s, want 10.0.0.1:9", got)
	}
}

func TestSockaddrRefuses(t *testing.T) {
	var b [addrSize]byte
	if n := putSockaddr(&b, netip.AddrPort{}, 0); n != 0 {
		t.Errorf("the zero address has length %d, want 0", n)
	}
	for n := range uint32(addrSize + 1) {
		if got := sockaddr(&b, n); got.IsValid() { // family 0: AF_UNSPEC
			t.Errorf("%d bytes of no family read as %s", n, got)
		}
	}
}

func TestSockaddrAllocatesNothing(t *testing.T) {
	a4, a6 := netip.MustParseAddrPort("239.1.2.3:5000"), netip.MustParseAddrPort("[ff3e::1]:5000")
	var b [addrSize]byte
	var sink netip.AddrPort
	if n := testing.AllocsPerRun(100, func() {
		sink = sockaddr(&b, putSockaddr(&b, a4, 0))
		sink = sockaddr(&b, putSockaddr(&b, a6, 3))
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if sink != a6 {
		t.Errorf("got %s", sink)
	}
}
