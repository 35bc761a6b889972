package sock

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"castdeck/internal/netnstest"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func ifaceOf(t testing.TB, name string) *net.Interface {
	t.Helper()
	iface, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return iface
}

// got is one datagram as a receiver or sniffer saw it.
type got struct {
	payload []byte
	from    netip.AddrPort
	ttl     int
}

// tap receives a group on an interface by plain system calls, so that what is
// tested does not test itself.
type tap struct {
	t  testing.TB
	fd int
}

func newTap(t testing.TB, group netip.AddrPort, iface *net.Interface) *tap {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	family, sa := unix.AF_INET, unix.Sockaddr(nil)
	if group.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(group.Port()), Addr: group.Addr().As16(), ZoneId: uint32(iface.Index)}
	} else {
		sa = &unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	t.Cleanup(func() { unix.Close(fd) })
	must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20))
	// A membership alone does not hold IPv6 to the interface.
	must(unix.BindToDevice(fd, iface.Name))
	must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	if group.Addr().Is4() {
		must(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1))
	} else {
		must(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1))
	}
	must(unix.Bind(fd, sa))
	switch {
	case !group.Addr().IsMulticast():
	case group.Addr().Is4():
		must(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.Addr().As4(), Ifindex: int32(iface.Index)}))
	default:
		must(unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP,
			&unix.IPv6Mreq{Multiaddr: group.Addr().As16(), Interface: uint32(iface.Index)}))
	}
	return &tap{t, fd}
}

// read returns the next datagram, or false where flags hold MSG_DONTWAIT and
// there is none.
func (r *tap) read(flags int) (got, bool) {
	r.t.Helper()
	b, oob := make([]byte, 65536), make([]byte, 128)
	for {
		n, oobn, _, from, err := unix.Recvmsg(r.fd, b, oob, flags)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0 {
			return got{}, false
		}
		if err != nil {
			r.t.Fatalf("receiving: %v", err)
		}
		g := got{payload: b[:n], ttl: -1}
		switch sa := from.(type) {
		case *unix.SockaddrInet4:
			g.from = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			g.from = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		}
		cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			r.t.Fatal(err)
		}
		for _, c := range cmsgs {
			if c.Header.Type == unix.IP_TTL || c.Header.Type == unix.IPV6_HOPLIMIT {
				g.ttl = int(c.Data[0])
			}
		}
		return g, true
	}
}

func (r *tap) next() got {
	r.t.Helper()
	g, _ := r.read(0)
	return g
}

// newSniffer sees every IP packet on an interface, joined or not.
func newSniffer(t testing.TB, iface *net.Interface) *tap {
	t.Helper()
	all := uint16(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: iface.Index}); err != nil {
		t.Fatal(err)
	}
	return &tap{t, fd}
}

// udp counts the UDP packets seen so far to or from a port.
func (r *tap) udp(port uint16) int {
	n := 0
	for {
		g, ok := r.read(unix.MSG_DONTWAIT)
		if !ok {
			return n
		}
		p := g.payload
		at := 20
		switch {
		case len(p) >= 28 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_UDP:
		case len(p) >= 48 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP:
			at = 40
		default:
			continue
		}
		if uint16(p[at])<<8|uint16(p[at+1]) == port || uint16(p[at+2])<<8|uint16(p[at+3]) == port {
			n++
		}
	}
}

func newTestSender(t testing.TB, o SenderOptions) *Sender {
	t.Helper()
	s, err := NewSender(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // idempotent
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	return s
}

// fill makes messages of the payloads to one destination.
func fill(dst *Sockaddr, payloads ...[]byte) *Messages {
	m := NewMessages(len(payloads))
	for i, p := range payloads {
		m.Set(i, p, dst)
	}
	return m
}

func pattern(n, seed int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8 + seed)
	}
	return p
}

var bothVersions = []struct{ name, group, other string }{
	{"IPv4", "239.7.1.1:5001", "239.7.1.2:5001"},
	{"IPv6", "[ff15::7:1]:5001", "[ff15::7:2]:5001"},
}

func TestSendArrivesWhole(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			txName, rxName := netnstest.Veth(t)
			tx, rx := ifaceOf(t, txName), ifaceOf(t, rxName)
			group := netip.MustParseAddrPort(v.group)
			r := newTap(t, group, rx)
			s := newTestSender(t, SenderOptions{Interface: tx, TTL: 3})
			socket, kept, err := s.Socket(40001, group.Addr().Is6())
			if err != nil || !kept {
				t.Fatalf("socket of port 40001: kept %v, %v", kept, err)
			}
			// The empty datagram, the smallest, the largest that fits an Ethernet
			// frame, the first that is fragmented, a jumbo, the largest of all.
			var payloads [][]byte
			for i, n := range []int{0, 1, 1472, 1473, 8972, 65507, 0, 5} {
				payloads = append(payloads, pattern(n, i))
			}
			sent, err := s.Send(socket, fill(NewSockaddr(group, tx), payloads...), 0, len(payloads))
			if sent != len(payloads) || err != nil {
				t.Fatalf("sent %d of %d: %v", sent, len(payloads), err)
			}
			for i, want := range payloads {
				g := r.next()
				if !bytes.Equal(g.payload, want) {
					t.Fatalf("datagram %d: %d bytes arrived, %d were sent, or others", i, len(g.payload), len(want))
				}
				if g.from.Port() != 40001 || g.ttl != 3 {
					t.Errorf("datagram %d: from %s with TTL %d, want port 40001, TTL 3", i, g.from, g.ttl)
				}
				if group.Addr().Is4() && g.from.Addr() != s.Source() {
					t.Errorf("datagram %d: source %s, want %s", i, g.from.Addr(), s.Source())
				}
			}
			if _, ok := r.read(unix.MSG_DONTWAIT); ok {
				t.Error("more datagrams arrived than were sent")
			}
		})
	}
}

func TestSendTTLDefaultsTo1(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			txName, rxName := netnstest.Veth(t)
			tx := ifaceOf(t, txName)
			group := netip.MustParseAddrPort(v.group)
			r := newTap(t, group, ifaceOf(t, rxName))
			s := newTestSender(t, SenderOptions{Interface: tx})
			socket, _, err := s.Socket(0, group.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Send(socket, fill(NewSockaddr(group, tx), []byte("x")), 0, 1); err != nil {
				t.Fatal(err)
			}
			if g := r.next(); g.ttl != 1 {
				t.Errorf("TTL is %d, want 1", g.ttl)
			}
		})
	}
}

// A member of the group on the sending interface of the same host hears it only
// with Loopback.
func TestSendLoopback(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			txName, rxName := netnstest.Veth(t)
			tx := ifaceOf(t, txName)
			group := netip.MustParseAddrPort(v.group)
			near, far := newTap(t, group, tx), newTap(t, group, ifaceOf(t, rxName))
			for _, loopback := range []bool{false, true} {
				s := newTestSender(t, SenderOptions{Interface: tx, Loopback: loopback})
				socket, _, err := s.Socket(40002, group.Addr().Is6())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Send(socket, fill(NewSockaddr(group, tx), []byte("x")), 0, 1); err != nil {
					t.Fatal(err)
				}
				// Looping back comes before the interface: once the far end has it, the
				// near end has it or never will.
				far.next()
				if _, heard := near.read(unix.MSG_DONTWAIT); heard != loopback {
					t.Errorf("loopback %v: heard on the sending host %v", loopback, heard)
				}
			}
		})
	}
}

// Two veth pairs: what is sent out of one must not be seen on the other, whatever
// the routes say (they lead to lo), and although both have the source address
// (bind alone leaves by the device that the kernel takes for its owner).
func TestSendLeavesByTheInterface(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			group := netip.MustParseAddrPort(v.group)
			lo := newSniffer(t, ifaceOf(t, "lo"))
			var txs [2]*net.Interface
			var taps, sniffers [2]*tap
			for i := range txs {
				tx, rx := netnstest.Veth(t)
				link, err := netlink.LinkByName(tx)
				if err != nil {
					t.Fatal(err)
				}
				address, err := netlink.ParseAddr("10.88.1.1/24")
				if err != nil {
					t.Fatal(err)
				}
				if err := netlink.AddrAdd(link, address); err != nil {
					t.Fatal(err)
				}
				txs[i], taps[i], sniffers[i] = ifaceOf(t, tx), newTap(t, group, ifaceOf(t, rx)), newSniffer(t, ifaceOf(t, tx))
			}
			for i := range txs {
				s := newTestSender(t, SenderOptions{Interface: txs[i]})
				s.source = netip.MustParseAddr("10.88.1.1")
				socket, _, err := s.Socket(uint16(40003+i), group.Addr().Is6())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Send(socket, fill(NewSockaddr(group, txs[i]), []byte("x")), 0, 1); err != nil {
					t.Fatal(err)
				}
				taps[i].next()
				if n := sniffers[i].udp(group.Port()); n != 1 {
					t.Errorf("%d datagrams left by %s, want 1", n, txs[i].Name)
				}
				if n := sniffers[1-i].udp(group.Port()); n != 0 {
					t.Errorf("sent out of %s: %d datagrams left by %s", txs[i].Name, n, txs[1-i].Name)
				}
			}
			if n := lo.udp(group.Port()); n != 0 {
				t.Errorf("%d datagrams left by lo", n)
			}
		})
	}
}

func TestSendReportsWhichFailed(t *testing.T) {
	netnstest.Require(t)
	lo := ifaceOf(t, "lo")
	s := newTestSender(t, SenderOptions{Interface: lo, Loopback: true})
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			group := netip.MustParseAddrPort(v.group)
			r := newTap(t, group, lo)
			socket, _, err := s.Socket(40004, group.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			const tooLong = 65536
			for _, bad := range [][]int{{0}, {3}, {7}, {0, 1}, {2, 3, 6}} {
				m := NewMessages(8)
				isBad := map[int]bool{}
				for _, i := range bad {
					isBad[i] = true
				}
				for i := range 8 {
					n := 10
					if isBad[i] {
						n = tooLong
					}
					m.Set(i, pattern(n, i), NewSockaddr(group, lo))
				}
				var failed []int
				for next := 0; next < 8; {
					sent, err := s.Send(socket, m, next, 8)
					next += sent
					if err == nil {
						continue
					}
					if err != unix.EMSGSIZE {
						t.Fatalf("message %d: %v, want EMSGSIZE", next, err)
					}
					failed = append(failed, next)
					next++
				}
				if fmt.Sprint(failed) != fmt.Sprint(bad) {
					t.Errorf("failed: %v, want %v", failed, bad)
				}
				for i := range 8 {
					if isBad[i] {
						continue
					}
					if g := r.next(); !bytes.Equal(g.payload, pattern(10, i)) {
						t.Errorf("bad %v: message %d is missing or out of order", bad, i)
					}
				}
			}
			if _, ok := r.read(unix.MSG_DONTWAIT); ok {
				t.Error("a message was sent twice")
			}
		})
	}
}

// A queue that is full drops datagrams. Without IP_RECVERR the kernel says
// success for all of them: sent + ENOBUFS must be exactly what was attempted, and
// sent exactly what arrived.
func TestSendCountsWhatTheQueueDrops(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			txName, rxName := netnstest.Veth(t)
			tx := ifaceOf(t, txName)
			link, err := netlink.LinkByName(txName)
			if err != nil {
				t.Fatal(err)
			}
			// 1 Mbit/s, room for some 15 datagrams.
			err = netlink.QdiscAdd(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
				Rate:       125_000, Limit: 5000, Buffer: netlink.Xmittime(125_000, 5000),
			})
			if err != nil {
				t.Skipf("no tbf queue here: %v", err)
			}
			group := netip.MustParseAddrPort(v.group)
			r := newTap(t, group, ifaceOf(t, rxName))
			s := newTestSender(t, SenderOptions{Interface: tx})
			socket, _, err := s.Socket(40005, group.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			const attempted = 300
			m := NewMessages(attempted)
			dst := NewSockaddr(group, tx)
			for i := range attempted {
				m.Set(i, pattern(200, i), dst)
			}
			sent, dropped := 0, 0
			for next := 0; next < attempted; {
				n, err := s.Send(socket, m, next, attempted)
				sent += n
				next += n
				switch err {
				case nil:
				case unix.ENOBUFS:
					dropped++
					next++
				default:
					t.Fatalf("message %d: %v", next, err)
				}
			}
			if dropped == 0 || sent == 0 {
				t.Errorf("the queue dropped %d and passed %d: the test shows half", dropped, sent)
			}
			if sent+dropped != attempted {
				t.Errorf("%d sent + %d dropped, want %d", sent, dropped, attempted)
			}
			for i := range sent {
				if g := r.next(); len(g.payload) != 200 {
					t.Fatalf("datagram %d of %d sent: %d bytes", i, sent, len(g.payload))
				}
			}
			if _, ok := r.read(unix.MSG_DONTWAIT); ok {
				t.Errorf("more arrived than the %d that were sent", sent)
			}
		})
	}
}

// A unicast destination where nobody listens answers by ICMP. That is about a
// datagram which has left: the next one must not be lost for it.
func TestSendLateErrorsCostNothing(t *testing.T) {
	netnstest.Require(t)
	lo := ifaceOf(t, "lo")
	for _, c := range []struct{ name, nobody, somebody string }{
		{"IPv4", "127.0.0.1:5998", "127.0.0.1:5999"},
		{"IPv6", "[::1]:5998", "[::1]:5999"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTestSender(t, SenderOptions{Interface: lo})
			somebody := netip.MustParseAddrPort(c.somebody)
			r := newTap(t, somebody, lo)
			socket, _, err := s.Socket(40006, somebody.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			m := NewMessages(20)
			for i := range 20 {
				dst := somebody
				if i%2 == 0 {
					dst = netip.MustParseAddrPort(c.nobody)
				}
				m.Set(i, pattern(9, i), NewSockaddr(dst, lo))
			}
			if sent, err := s.Send(socket, m, 0, 20); sent != 20 || err != nil {
				t.Fatalf("sent %d of 20: %v", sent, err)
			}
			for i := 1; i < 20; i += 2 {
				if g := r.next(); !bytes.Equal(g.payload, pattern(9, i)) {
					t.Fatalf("datagram %d is missing", i)
				}
			}
			if s.Late() != 0 {
				t.Errorf("%d late errors seen; all of them came behind a datagram that left", s.Late())
			}
			// One call for each datagram: now the error meets the first of the call.
			for i := range 20 {
				if sent, err := s.Send(socket, m, i, i+1); sent != 1 || err != nil {
					t.Fatalf("datagram %d by itself: sent %d, %v", i, sent, err)
				}
			}
			for i := 1; i < 20; i += 2 {
				if g := r.next(); !bytes.Equal(g.payload, pattern(9, i)) {
					t.Fatalf("datagram %d by itself is missing", i)
				}
			}
			if s.Late() == 0 {
				t.Error("no late error was counted")
			}
		})
	}
}

func TestSocketKeepsPortsUpToTheBound(t *testing.T) {
	netnstest.Require(t)
	lo := ifaceOf(t, "lo")
	s := newTestSender(t, SenderOptions{Interface: lo, Loopback: true, MaxSockets: 3})
	group := netip.MustParseAddrPort("239.7.1.3:5003")
	r := newTap(t, group, lo)
	dst := NewSockaddr(group, lo)
	numbers := map[int]bool{}
	for i, port := range []uint16{41000, 41001, 41002, 41003, 41004, 41000, 41003, 0} {
		socket, kept, err := s.Socket(port, false)
		if err != nil {
			t.Fatal(err)
		}
		wantKept := port >= 41000 && port <= 41002
		if kept != wantKept {
			t.Errorf("port %d: kept %v, want %v", port, kept, wantKept)
		}
		numbers[socket] = true
		if _, err := s.Send(socket, fill(dst, []byte{byte(i)}), 0, 1); err != nil {
			t.Fatal(err)
		}
		if g := r.next(); (g.from.Port() == port) != wantKept {
			t.Errorf("port %d: arrived from %s", port, g.from)
		}
	}
	if len(numbers) != 4 { // three and the one without a fixed port
		t.Errorf("%d sockets were used, want 4", len(numbers))
	}
	if s.Reverted() != 3 { // 41003, 41004 and 0, each once
		t.Errorf("%d ports reverted, want 3", s.Reverted())
	}
}

// A receiver on this host has the port, with SO_REUSEADDR (kept) or without (the
// sender takes another one instead of giving up).
func TestSocketPortInUse(t *testing.T) {
	netnstest.Require(t)
	lo := ifaceOf(t, "lo")
	for _, c := range []struct {
		reuse int
		kept  bool
	}{{0, false}, {1, true}} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, c.reuse); err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 41100}); err != nil {
			t.Fatal(err)
		}
		s := newTestSender(t, SenderOptions{Interface: lo})
		if _, kept, err := s.Socket(41100, false); kept != c.kept || err != nil {
			t.Errorf("SO_REUSEADDR %d: kept %v, %v; want %v", c.reuse, kept, err, c.kept)
		}
		unix.Close(fd)
	}
}

func TestWarmSendsNothing(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			txName, rxName := netnstest.Veth(t)
			tx := ifaceOf(t, txName)
			group := netip.MustParseAddrPort(v.group)
			sniffer := newSniffer(t, tx)
			r := newTap(t, group, ifaceOf(t, rxName))
			s := newTestSender(t, SenderOptions{Interface: tx})
			socket, _, err := s.Socket(40007, group.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			dst := NewSockaddr(group, tx)
			m := fill(dst, []byte("real"))
			s.Warm(socket, m, 0)
			// A real one behind it: when that is here, the others would be too.
			if _, err := s.Send(socket, m, 0, 1); err != nil {
				t.Fatal(err)
			}
			if g := r.next(); string(g.payload) != "real" {
				t.Errorf("received %q", g.payload)
			}
			if n := sniffer.udp(group.Port()); n != 1 {
				t.Errorf("the interface saw %d datagrams, want the real one only", n)
			}
		})
	}
}

func TestNewSenderRefuses(t *testing.T) {
	netnstest.Require(t)
	lo := ifaceOf(t, "lo")
	for _, c := range []struct {
		name string
		o    SenderOptions
		want string
	}{
		{"no interface", SenderOptions{}, "needs an interface"},
		{"negative TTL", SenderOptions{Interface: lo, TTL: -1}, "TTL -1"},
		{"TTL of 256", SenderOptions{Interface: lo, TTL: 256}, "TTL 256"},
		{"too many sockets", SenderOptions{Interface: lo, MaxSockets: limitSendSockets + 1}, "sockets"},
		{"negative sockets", SenderOptions{Interface: lo, MaxSockets: -1}, "sockets"},
		{"interface is gone", SenderOptions{Interface: &net.Interface{Index: 99999, Name: "gone0"}}, "gone0"},
	} {
		s, err := NewSender(c.o)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", c.name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.want)
		}
	}
	_, err := NewSender(SenderOptions{Interface: &net.Interface{Index: 99999, Name: "gone0"}})
	if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EADDRNOTAVAIL) && !strings.Contains(fmt.Sprint(err), "no such") {
		t.Errorf("an interface that is gone: %v", err)
	}
}

func TestSendBufferIsSet(t *testing.T) {
	netnstest.Require(t)
	s := newTestSender(t, SenderOptions{Interface: ifaceOf(t, "lo"), SendBuffer: 40_000})
	n, err := unix.GetsockoptInt(s.fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		t.Fatal(err)
	}
	if n != 80_000 { // doubled, socket(7)
		t.Errorf("SO_SNDBUF is %d, want 80000", n)
	}
}

// Neighbours of one length to one destination leave as a run; every datagram still
// arrives as itself, in order, whatever stands between them.
func TestSendSegmentsRuns(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			txName, rxName := netnstest.Veth(t)
			tx, rx := ifaceOf(t, txName), ifaceOf(t, rxName)
			group, other := netip.MustParseAddrPort(v.group), netip.MustParseAddrPort(v.other)
			r, r2 := newTap(t, group, rx), newTap(t, other, rx)
			s := newTestSender(t, SenderOptions{Interface: tx, TTL: 3, Segmentation: true})
			socket, _, err := s.Socket(40031, group.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			fits := tx.MTU - 28
			if group.Addr().Is6() {
				fits = tx.MTU - 48
			}
			var sizes []int
			add := func(n, size int) {
				for range n {
					sizes = append(sizes, size)
				}
			}
			add(1, 300)
			add(150, 200)    // more than one run
			add(1, 199)      // ends the run, shorter
			add(2, 200)      // a new one
			add(1, 201)      // longer: not in it
			add(3, 0)        // no runs of nothing
			add(60, fits)    // more than fits a packet
			add(3, fits+1)   // fragmented, so no run
			add(1, 65507-20) // a large one on its own
			add(70, 1)
			dst, dst2 := NewSockaddr(group, tx), NewSockaddr(other, tx)
			m := NewMessages(len(sizes) + 4)
			for i, n := range sizes {
				m.Set(i, pattern(n, i), dst)
			}
			for i := range 4 { // same length, another destination in turn
				d := dst
				if i%2 == 0 {
					d = dst2
				}
				m.Set(len(sizes)+i, pattern(1, 7+i), d)
			}
			if sent, err := s.Send(socket, m, 0, m.Len()); sent != m.Len() || err != nil {
				t.Fatalf("sent %d of %d: %v", sent, m.Len(), err)
			}
			datagrams, runs, refused := s.Segmented()
			// The first ends with the shorter one behind it.
			const want = 1 + 150 + 1 + 2 + 60 + 70
			if refused != nil || datagrams != want || runs == 0 {
				t.Errorf("%d datagrams in %d runs, %v; want %d", datagrams, runs, refused, want)
			}
			for i, n := range sizes {
				if g := r.next(); !bytes.Equal(g.payload, pattern(n, i)) || g.ttl != 3 || g.from.Port() != 40031 {
					t.Fatalf("datagram %d of %d bytes: %d bytes arrived, or others (TTL %d, from %s)", i, n, len(g.payload), g.ttl, g.from)
				}
			}
			for i := range 4 {
				from := r
				if i%2 == 0 {
					from = r2
				}
				if g := from.next(); !bytes.Equal(g.payload, pattern(1, 7+i)) {
					t.Errorf("datagram %d of the last four: %d bytes, or others", i, len(g.payload))
				}
			}
			for _, tap := range []*tap{r, r2} {
				if _, ok := tap.read(unix.MSG_DONTWAIT); ok {
					t.Error("more arrived than was sent")
				}
			}
		})
	}
}

// A run that the kernel does not take (here: the MTU has become smaller meanwhile)
// goes out datagram by datagram, and that is told.
func TestSendWithoutSegmentation(t *testing.T) {
	for _, v := range bothVersions {
		t.Run(v.name, func(t *testing.T) {
			txName, rxName := netnstest.Veth(t)
			tx, rx := ifaceOf(t, txName), ifaceOf(t, rxName)
			group := netip.MustParseAddrPort(v.group)
			r := newTap(t, group, rx)
			s := newTestSender(t, SenderOptions{Interface: tx, Segmentation: true})
			link, err := netlink.LinkByName(txName)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetMTU(link, 1300); err != nil {
				t.Fatal(err)
			}
			socket, _, err := s.Socket(40032, group.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			m := NewMessages(100)
			dst := NewSockaddr(group, tx)
			for i := range m.Len() {
				m.Set(i, pattern(1400, i), dst)
			}
			if sent, err := s.Send(socket, m, 0, m.Len()); sent != m.Len() || err != nil {
				t.Fatalf("sent %d of %d: %v", sent, m.Len(), err)
			}
			if n, runs, refused := s.Segmented(); n != 0 || runs != 0 || refused == nil {
				t.Errorf("%d datagrams in %d runs, refused: %v", n, runs, refused)
			}
			for i := range m.Len() {
				if g := r.next(); !bytes.Equal(g.payload, pattern(1400, i)) {
					t.Fatalf("datagram %d: %d bytes arrived, or others", i, len(g.payload))
				}
			}
		})
	}
}

func TestSendAllocatesNothing(t *testing.T) {
	netnstest.Require(t)
	lo := ifaceOf(t, "lo")
	s := newTestSender(t, SenderOptions{Interface: lo, Segmentation: true})
	socket, _, err := s.Socket(40008, false)
	if err != nil {
		t.Fatal(err)
	}
	dst := NewSockaddr(netip.MustParseAddrPort("239.7.1.4:5004"), lo)
	payload, tooLong := pattern(100, 1), make([]byte, 65536)
	m := NewMessages(16)
	if n := testing.AllocsPerRun(100, func() {
		for i := range m.Len() {
			m.Set(i, payload, dst)
		}
		m.Set(7, tooLong, dst)
		if sent, err := s.Send(socket, m, 0, m.Len()); sent != 7 || err != unix.EMSGSIZE {
			t.Fatalf("sent %d, %v", sent, err)
		}
		if sent, err := s.Send(socket, m, 8, m.Len()); sent != 8 || err != nil {
			t.Fatalf("sent %d, %v", sent, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestErrnoName(t *testing.T) {
	if got := ErrnoName(unix.ENOBUFS); got != "ENOBUFS" {
		t.Errorf("got %q", got)
	}
	if got := ErrnoName(9999); got != "errno 9999" {
		t.Errorf("got %q", got)
	}
}

func BenchmarkSend(b *testing.B) {
	netnstest.Require(b)
	txName, _ := netnstest.Veth(b)
	tx := ifaceOf(b, txName)
	for _, c := range []struct {
		n    int
		runs bool
	}{{1, false}, {16, false}, {64, false}, {64, true}, {1024, true}} {
		n := c.n
		b.Run(fmt.Sprintf("batch=%d/segmentation=%v", n, c.runs), func(b *testing.B) {
			s := newTestSender(b, SenderOptions{Interface: tx, Segmentation: c.runs})
			socket, _, err := s.Socket(40009, false)
			if err != nil {
				b.Fatal(err)
			}
			m := NewMessages(n)
			payload, dst := pattern(256, 0), NewSockaddr(netip.MustParseAddrPort("239.7.1.5:5005"), tx)
			for i := range n {
				m.Set(i, payload, dst)
			}
			b.ReportAllocs()
			datagrams := 0
			start := time.Now()
			for b.Loop() {
				if _, err := s.Send(socket, m, 0, n); err != nil {
					b.Fatal(err)
				}
				datagrams += n
			}
			b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(datagrams), "ns/datagram")
		})
	}
}
