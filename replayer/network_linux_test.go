package replayer

import (
	"net"
	"net/netip"
	"testing"

	"castdeck/internal/netnstest"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// arrival is one datagram as a tap heard it.
type arrival struct {
	payload string
	from    netip.AddrPort
	ttl     int
}

// tap receives on an interface by plain system calls.
type tap struct {
	t  testing.TB
	fd int
}

func newTap(t testing.TB, group, iface string) *tap {
	t.Helper()
	g := netip.MustParseAddrPort(group)
	i, err := net.InterfaceByName(iface)
	must(t, err)
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(g.Port())}
	family := unix.AF_INET
	if g.Addr().Is4() {
		sa.(*unix.SockaddrInet4).Addr = g.Addr().As4()
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(g.Port()), Addr: g.Addr().As16(), ZoneId: uint32(i.Index)}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	must(t, unix.BindToDevice(fd, iface))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	if g.Addr().Is4() {
		must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1))
	} else {
		must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1))
	}
	must(t, unix.Bind(fd, sa))
	switch {
	case !g.Addr().IsMulticast():
	case g.Addr().Is4():
		must(t, unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: g.Addr().As4(), Ifindex: int32(i.Index)}))
	default:
		must(t, unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP,
			&unix.IPv6Mreq{Multiaddr: g.Addr().As16(), Interface: uint32(i.Index)}))
	}
	return &tap{t, fd}
}

// read returns the next datagram; false where flags hold MSG_DONTWAIT and there
// is none.
func (r *tap) read(flags int) (arrival, bool) {
	r.t.Helper()
	b, oob := make([]byte, 65536), make([]byte, 128)
	for {
		n, oobn, _, from, err := unix.Recvmsg(r.fd, b, oob, flags)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return arrival{}, false
		case err != nil:
			r.t.Fatalf("receiving: %v", err)
		}
		a := arrival{payload: string(b[:n]), ttl: -1}
		switch sa := from.(type) {
		case *unix.SockaddrInet4:
			a.from = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			a.from = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		}
		cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		must(r.t, err)
		for _, c := range cmsgs {
			if c.Header.Type == unix.IP_TTL || c.Header.Type == unix.IPV6_HOPLIMIT {
				a.ttl = int(c.Data[0])
			}
		}
		return a, true
	}
}

func (r *tap) next() arrival {
	r.t.Helper()
	a, _ := r.read(0)
	return a
}

// none fails the test where a datagram waits.
func (r *tap) none(why string) {
	r.t.Helper()
	if a, ok := r.read(unix.MSG_DONTWAIT); ok {
		r.t.Errorf("%s: received %d bytes %.20q from %s", why, len(a.payload), a.payload, a.from)
	}
}

// newSniffer sees every IP packet that passes an interface, joined or not.
func newSniffer(t testing.TB, iface string) *tap {
	t.Helper()
	i, err := net.InterfaceByName(iface)
	must(t, err)
	all := uint16(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: i.Index}))
	return &tap{t, fd}
}

// udp counts the UDP packets seen so far.
func (r *tap) udp() int {
	n := 0
	for {
		a, ok := r.read(unix.MSG_DONTWAIT)
		if !ok {
			return n
		}
		p := a.payload
		if len(p) >= 28 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_UDP || len(p) >= 48 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP {
			n++
		}
	}
}
