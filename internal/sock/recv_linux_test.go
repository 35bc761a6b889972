package sock

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"castdeck/internal/netnstest"
)

// talker sends from one interface with one TTL; it is independent of Sender.
type talker struct {
	t    testing.TB
	fd   int
	zone uint32
}

func newTalker(t testing.TB, iface string, ipv6 bool, ttl int) *talker {
	t.Helper()
	i := interfaceOf(t, iface)
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if ipv6 {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, i.Index),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl))
	} else {
		err = errors.Join(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(i.Index)}),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &talker{t: t, fd: fd, zone: uint32(i.Index)}
}

// bind gives the talker a source address.
func (k *talker) bind(addr string) *talker {
	k.t.Helper()
	if err := unix.Bind(k.fd, sockaddrOf(netip.AddrPortFrom(netip.MustParseAddr(addr), 0), 0)); err != nil {
		k.t.Fatalf("%s: %v", addr, err)
	}
	return k
}

func (k *talker) send(dst string, payload []byte) {
	k.t.Helper()
	if err := unix.Sendto(k.fd, payload, 0, sockaddrOf(netip.MustParseAddrPort(dst), k.zone)); err != nil {
		k.t.Fatalf("sending %d bytes to %s: %v", len(payload), dst, err)
	}
}

func sockaddrOf(a netip.AddrPort, zone uint32) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zone}
}

func interfaceOf(t testing.TB, name string) *net.Interface {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// member makes a Membership of [source@]group:port.
func member(t testing.TB, s, iface string) Membership {
	t.Helper()
	m := Membership{}
	if source, group, ok := strings.Cut(s, "@"); ok {
		m.Source, s = netip.MustParseAddr(source), group
	}
	m.Group = netip.MustParseAddrPort(s)
	if iface != "" {
		m.Interface = interfaceOf(t, iface)
	}
	return m
}

func listen(t testing.TB, buffer int, members ...Membership) *Conn {
	t.Helper()
	c, err := Listen(ListenConfig{Memberships: members, Buffer: buffer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// take receives exactly n datagrams, within a bound, and hands each to f.
func take(t testing.TB, r *Receiver, c *Conn, n int, f func(m *Message)) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for got := 0; got < n; {
		k, err := r.Recv(c)
		if err != nil {
			t.Fatal(err)
		}
		for i := range k {
			var m Message
			r.Message(i, &m)
			f(&m)
		}
		got += k
		if got > n || time.Now().After(deadline) {
			t.Fatalf("%d datagrams, want %d", got, n)
		}
		if k == 0 {
			Sleep(100 * time.Microsecond)
		}
	}
	if k, err := r.Recv(c); k != 0 || err != nil {
		t.Fatalf("%d datagrams too many, error %v", k, err)
	}
}

func receiver(t testing.TB, n int) *Receiver {
	t.Helper()
	r, err := NewReceiver(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReceive(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	for _, c := range []struct {
		name, group string
		more        string // a second group: the socket is then bound to the port alone
		ttl         int
	}{
		{"IPv4", "239.5.1.1:5000", "", 7},
		{"IPv4 several groups", "239.5.1.2:5000", "239.5.1.3:5000", 1},
		{"IPv6", "[ff15::5:1]:5000", "", 9},
		{"IPv6 several groups", "[ff15::5:2]:5000", "[ff15::5:3]:5000", 255},
		{"IPv6 link scope", "[ff12::5:1]:5000", "", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			members := []Membership{member(t, c.group, rx)}
			if c.more != "" {
				members = append(members, member(t, c.more, rx))
			}
			conn := listen(t, 4<<20, members...)
			group := members[0].Group
			k := newTalker(t, tx, group.Addr().Is6(), c.ttl)
			// 0 is legal; 1472 and 8972 fill an Ethernet frame of 1500 and 9000 bytes, 1473
			// is fragmented; 65,507 is the most that IPv4 carries.
			sizes := []int{0, 1, 1472, 1473, 8972, 65507}
			before := time.Now().UnixNano()
			for i, n := range sizes {
				k.send(c.group, bytes.Repeat([]byte{byte(i + 1)}, n))
			}
			i := 0
			take(t, receiver(t, 4), conn, len(sizes), func(m *Message) {
				if len(m.Payload) != sizes[i] || int(m.Length) != sizes[i] || m.Truncated {
					t.Errorf("datagram %d: %d bytes of %d, truncated %v, want %d", i, len(m.Payload), m.Length, m.Truncated, sizes[i])
				}
				if !bytes.Equal(m.Payload, bytes.Repeat([]byte{byte(i + 1)}, len(m.Payload))) {
					t.Errorf("datagram %d: other bytes than were sent", i)
				}
				if m.Dst != group {
					t.Errorf("datagram %d: destination %v, want %v", i, m.Dst, group)
				}
				if !m.Src.IsValid() || m.Src.Port() == 0 || m.Src.Addr().Is4() != group.Addr().Is4() || m.Src.Addr().Zone() != "" {
					t.Errorf("datagram %d: source %v", i, m.Src)
				}
				if int(m.TTL) != c.ttl {
					t.Errorf("datagram %d: TTL %d, want %d", i, m.TTL, c.ttl)
				}
				if m.Time < before || m.Time > time.Now().UnixNano() {
					t.Errorf("datagram %d: time %d is not between the sending and now", i, m.Time)
				}
				if m.HasDrops || m.Drops != 0 {
					t.Errorf("datagram %d: %d drops", i, m.Drops)
				}
				if group.Addr().Is6() && int(m.Interface) != interfaceOf(t, rx).Index {
					t.Errorf("datagram %d: interface %d", i, m.Interface)
				}
				i++
			})
		})
	}
}

func TestReceiveKernelTime(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k, r := newTalker(t, tx, false, 1), receiver(t, 1)
	// Each round has the only socket with time stamps of this process, and maybe of
	// the machine: the kernel has to switch them on first.
	for range 20 {
		conn := listen(t, 1<<20, member(t, "239.5.2.1:5000", rx))
		k.send("239.5.2.1:5000", nil)
		sent := time.Now().UnixNano()
		// The read comes at least 20 ms after the arrival; its time must not be taken.
		for time.Now().UnixNano() < sent+20e6 {
			Sleep(time.Millisecond)
		}
		take(t, r, conn, 1, func(m *Message) {
			if m.Time > sent+10e6 {
				t.Errorf("time %v after the sending: that of reading", time.Duration(m.Time-sent))
			}
		})
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if stamps.conns != 0 {
		t.Errorf("%d Conns counted after the last was closed", stamps.conns)
	}
}

func TestReceiveOnlyTheGroup(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tx2, rx2 := netnstest.Veth(t)
	// What other sockets join must not leak in, on the same port.
	one := listen(t, 1<<20, member(t, "239.5.3.1:5000", rx))
	two := listen(t, 1<<20, member(t, "239.5.3.1:5000", rx2))
	several := listen(t, 1<<20, member(t, "239.5.3.2:5000", rx), member(t, "239.5.3.3:5000", rx))
	listen(t, 1<<20, member(t, "239.5.3.9:5000", rx))
	one6 := listen(t, 1<<20, member(t, "[ff15::5:3:1]:5000", rx))
	several6 := listen(t, 1<<20, member(t, "[ff15::5:3:2]:5000", rx), member(t, "[ff15::5:3:3]:5000", rx))
	two6 := listen(t, 1<<20, member(t, "[ff15::5:3:1]:5000", rx2))
	listen(t, 1<<20, member(t, "[ff15::5:3:9]:5000", rx))
	for _, dev := range []string{tx, tx2} {
		k, k6 := newTalker(t, dev, false, 1), newTalker(t, dev, true, 1)
		for i := range 10 {
			k.send(fmt.Sprintf("239.5.3.%d:5000", i), []byte(dev))
			k.send(fmt.Sprintf("239.5.3.%d:5001", i), []byte(dev))
			k6.send(fmt.Sprintf("[ff15::5:3:%d]:5000", i), []byte(dev))
		}
	}
	r := receiver(t, 8)
	check := func(c *Conn, from string, want ...string) {
		t.Helper()
		var got []string
		take(t, r, c, len(want), func(m *Message) {
			got = append(got, m.Dst.String())
			if string(m.Payload) != from {
				t.Errorf("a datagram from %s, want %s", m.Payload, from)
			}
		})
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	check(one, tx, "239.5.3.1:5000")
	check(two, tx2, "239.5.3.1:5000")
	check(several, tx, "239.5.3.2:5000", "239.5.3.3:5000")
	check(one6, tx, "[ff15::5:3:1]:5000")
	check(several6, tx, "[ff15::5:3:2]:5000", "[ff15::5:3:3]:5000")
	check(two6, tx2, "[ff15::5:3:1]:5000")
}

func TestReceiveSource(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	i := interfaceOf(t, tx)
	addrs, err := i.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"232.5.4.1:5000", "[ff3e::5:4]:5000"} {
		ipv6 := group[0] == '['
		var source string
		for _, a := range addrs {
			ip := netip.MustParsePrefix(a.String()).Addr()
			if ip.Is6() == ipv6 && !ip.IsLinkLocalUnicast() {
				source = ip.String()
			}
		}
		nobody := "10.99.99.99"
		if ipv6 {
			nobody = "fd99::99"
		}
		conn := listen(t, 1<<20, member(t, source+"@"+group, rx))
		deaf := listen(t, 1<<20, member(t, nobody+"@"+group, rx))
		newTalker(t, tx, ipv6, 1).bind(source).send(group, []byte("x"))
		r := receiver(t, 2)
		take(t, r, conn, 1, func(m *Message) {
			if m.Src.Addr().String() != source {
				t.Errorf("source %v, want %s", m.Src, source)
			}
		})
		take(t, r, deaf, 0, nil)
	}
}

func TestReceiveDrops(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	conn := listen(t, 1, member(t, "239.5.5.1:5000", rx)) // 1 byte: the kernel grants its minimum
	if conn.Buffer() < 1 || conn.Buffer() > 64<<10 {
		t.Errorf("granted %d bytes", conn.Buffer())
	}
	k := newTalker(t, tx, false, 1)
	const first = 100
	for range first {
		k.send("239.5.5.1:5000", make([]byte, 100))
	}
	r := receiver(t, 64)
	received, last := 0, uint32(0)
	drain := func() {
		for {
			n, err := r.Recv(conn)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return
			}
			for i := range n {
				var m Message
				r.Message(i, &m)
				if m.HasDrops {
					last = m.Drops
				}
			}
			received += n
		}
	}
	drain()
	drops, err := conn.Drops()
	if err != nil {
		t.Fatal(err)
	}
	if received == 0 || drops == 0 || received+int(drops) != first {
		t.Fatalf("%d received and %d dropped of %d", received, drops, first)
	}
	if last != 0 {
		t.Errorf("the datagrams before the loss state %d drops", last)
	}
	// The next datagram states them.
	k.send("239.5.5.1:5000", nil)
	drain()
	if last != drops {
		t.Errorf("the datagram after the loss states %d drops, want %d", last, drops)
	}
}

func TestLeaveAll(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k, r := newTalker(t, tx, false, 1), receiver(t, 4)
	for _, members := range [][]Membership{
		{member(t, "239.5.6.1:5000", rx)},
		{member(t, "239.5.6.1:5000", rx), member(t, "239.5.6.2:5000", rx)},
		{member(t, "10.1.1.1@239.5.6.1:5000", rx)},
	} {
		conn := listen(t, 1<<20, members...)
		if !members[0].Source.IsValid() {
			k.send("239.5.6.1:5000", []byte("before"))
		}
		if err := conn.LeaveAll(); err != nil {
			t.Fatal(err)
		}
		k.send("239.5.6.1:5000", []byte("after"))
		want := 1
		if members[0].Source.IsValid() {
			want = 0
		}
		take(t, r, conn, want, func(m *Message) {
			if string(m.Payload) != "before" {
				t.Errorf("got %q", m.Payload)
			}
		})
		if err := conn.LeaveAll(); err != nil {
			t.Errorf("leaving again: %v", err)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	_, rx := netnstest.Veth(t)
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 5999})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var many []Membership
	for i := range 5000 {
		m := member(t, "239.5.7.1:5000", rx)
		m.Group = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 6, byte(i >> 8), byte(i)}), 5000)
		many = append(many, m)
	}
	gone := member(t, "239.5.7.1:5000", "")
	gone.Interface = &net.Interface{Index: 54321, Name: "eth9"}
	before := descriptors(t)
	for _, c := range []struct {
		name    string
		members []Membership
		want    string
		is      error
	}{
		{"none", nil, "no group to join", nil},
		{"no own address", []Membership{member(t, "10.0.0.1:5000", rx)}, "neither a multicast group nor an address of this machine", unix.EADDRNOTAVAIL},
		{"unicast that shares", []Membership{member(t, "239.5.7.1:5000", rx), member(t, "127.0.0.1:5000", rx)}, "127.0.0.1:5000 on " + rx + ": not a multicast address", nil},
		{"unicast from one source", []Membership{{Group: netip.MustParseAddrPort("127.0.0.1:5000"), Source: netip.MustParseAddr("127.0.0.1")}}, "not a multicast address", nil},
		{"families", []Membership{member(t, "239.5.7.1:5000", rx), member(t, "[ff15::1]:5000", rx)}, "one address family", nil},
		{"ports", []Membership{member(t, "239.5.7.1:5000", rx), member(t, "239.5.7.1:5001", rx)}, "one port", nil},
		{"source family", []Membership{{Group: netip.MustParseAddrPort("239.5.7.1:5000"), Source: netip.IPv6Loopback()}}, "different families", nil},
		{"interface gone", []Membership{gone}, "joining 239.5.7.1:5000 on eth9: setsockopt: no such device (the interface is gone)", unix.ENODEV},
		{"port taken", []Membership{member(t, "239.5.7.1:5999", rx), member(t, "239.5.7.2:5999", rx)},
			"bind: address already in use (a program has UDP port 5999 for itself, without SO_REUSEADDR: ss -ulpn sport = :5999)", unix.EADDRINUSE},
		{"link scope", []Membership{member(t, "[ff12::1]:5000", "")}, "needs an interface", unix.EINVAL},
		{"too many", many, "igmp_max_memberships = ", unix.ENOBUFS},
		{"twice", []Membership{many[0], many[0]}, "this socket is a member already", unix.EADDRINUSE},
	} {
		conn, err := Listen(ListenConfig{Memberships: c.members, Buffer: 1 << 16})
		if err == nil {
			conn.Close()
			t.Errorf("%s: no error, want %q", c.name, c.want)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v\nwant %q, errno %v", c.name, err, c.want, c.is)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d open descriptors after the errors, %d before", after, before)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestConnClose(t *testing.T) {
	_, rx := netnstest.Veth(t)
	conn := listen(t, 1<<20, member(t, "239.5.8.1:5000", rx))
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if _, err := receiver(t, 1).Recv(conn); !errors.Is(err, unix.EBADF) {
		t.Errorf("receiving after Close: %v", err)
	}
}

func TestNewReceiverBounds(t *testing.T) {
	for _, n := range []int{-1, 0, MaxReceive + 1} {
		if _, err := NewReceiver(n); err == nil {
			t.Errorf("%d datagrams a call: no error", n)
		}
	}
}

// TestReadControl feeds control messages that this kernel does not send.
func TestReadControl(t *testing.T) {
	put := func(level, typ int32, data []byte) []byte {
		b := make([]byte, unix.CmsgSpace(len(data)))
		word := b
		if unix.SizeofPtr == 8 {
			binary.NativeEndian.PutUint64(word, uint64(unix.CmsgLen(len(data))))
		} else {
			binary.NativeEndian.PutUint32(word, uint32(unix.CmsgLen(len(data))))
		}
		binary.NativeEndian.PutUint32(b[cmsgHeader-8:], uint32(level))
		binary.NativeEndian.PutUint32(b[cmsgHeader-4:], uint32(typ))
		copy(b[cmsgHeader:], data)
		return b
	}
	four := binary.NativeEndian.AppendUint32(nil, 0xFFFFFFFE)
	time16 := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, 1_700_000_000), 999_999_999)
	for _, c := range []struct {
		name string
		in   []byte
		want Message
	}{
		{"none", nil, Message{}},
		{"drops near the wrap", put(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, four), Message{Drops: 0xFFFFFFFE, HasDrops: true}},
		{"time", put(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, time16), Message{Time: 1_700_000_000_999_999_999}},
		{"unknown first", append(put(1, 9999, []byte{1, 2, 3}), put(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, four)...),
			Message{Drops: 0xFFFFFFFE, HasDrops: true}}, // padded to the next
		{"short time", put(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, time16[:8]), Message{}},
		{"short pktinfo", put(unix.IPPROTO_IP, unix.IP_PKTINFO, time16[:8]), Message{}},
		{"cut off", put(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, time16)[:20], Message{}},
		{"length 0", make([]byte, 64), Message{}},
	} {
		buf := make([]uint64, controlSize/8) // aligned like the Receiver's
		b := make([]byte, 0, len(buf)*8)
		b = append(b, c.in...)
		var m Message
		m.readControl(b, 5000)
		if m.Time != c.want.Time || m.Drops != c.want.Drops || m.HasDrops != c.want.HasDrops || m.Dst != c.want.Dst {
			t.Errorf("%s: %+v, want %+v", c.name, m, c.want)
		}
	}
}

func TestPoller(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	p, err := NewPoller(4)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var conns []*Conn
	for i := range 3 {
		c := listen(t, 1<<20, member(t, fmt.Sprintf("239.5.9.%d:5000", i), rx))
		if err := p.Add(c, i); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	ready := make([]int, 4)
	if n, err := p.Wait(ready, 0); n != 0 || err != nil {
		t.Fatalf("nothing sent: %d ready, %v", n, err)
	}
	k := newTalker(t, tx, false, 1)
	k.send("239.5.9.2:5000", []byte("x"))
	for range 2 { // level-triggered: it stays until it is read
		n, err := p.Wait(ready, 5000)
		if err != nil || n != 1 || ready[0] != 2 {
			t.Fatalf("ready %v, %v, want [2]", ready[:n], err)
		}
	}
	take(t, receiver(t, 1), conns[2], 1, func(*Message) {})
	if n, err := p.Wait(ready, 0); n != 0 || err != nil {
		t.Fatalf("all read: %d ready, %v", n, err)
	}
	// Wake ends a Wait for ever, from another goroutine, once.
	go p.Wake()
	if n, err := p.Wait(ready, -1); n != 0 || err != nil {
		t.Fatalf("woken: %d ready, %v", n, err)
	}
	p.Wake()
	if n, err := p.Wait(ready, -1); n != 0 || err != nil {
		t.Fatalf("woken before: %d ready, %v", n, err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	p.Wake() // must not write to somebody else's descriptor
	if _, err := p.Wait(ready, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("Wait after Close: %v", err)
	}
}

func TestReceiveAllocatesNothing(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	p, err := NewPoller(1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, group := range []string{"239.5.10.1:5000", "[ff15::5:10]:5000"} {
		conn := listen(t, 8<<20, member(t, group, rx))
		if err := p.Add(conn, 0); err != nil {
			t.Fatal(err)
		}
		k, r := newTalker(t, tx, group[0] == '[', 1), receiver(t, 8)
		const runs = 50
		for range (runs + 1) * 8 {
			k.send(group, []byte("hello"))
		}
		var m Message
		ready := make([]int, 1)
		received := 0
		if n := testing.AllocsPerRun(runs, func() {
			p.Wait(ready, 0)
			n, _ := r.Recv(conn)
			for i := range n {
				r.Message(i, &m)
			}
			received += n
			conn.Drops()
		}); n != 0 {
			t.Errorf("%s: %v allocations a call, want 0", group, n)
		}
		if received != (runs+1)*8 {
			t.Errorf("%s: received %d, want %d", group, received, (runs+1)*8)
		}
	}
}

// BenchmarkRecv reports the cost of taking datagrams that wait already; the
// sending is not in the time.
func BenchmarkRecv(b *testing.B) {
	tx, rx := netnstest.Veth(b)
	const group, batch, fill = "239.5.11.1:5000", 64, 4096
	conn := listen(b, 64<<20, member(b, group, rx))
	k, r := newTalker(b, tx, false, 1), receiver(b, batch)
	payload := make([]byte, 256)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	var m Message
	left := 0
	for range b.N {
		if left == 0 {
			b.StopTimer()
			for range fill {
				k.send(group, payload)
			}
			left = fill
			b.StartTimer()
		}
		if left%batch == 0 {
			if n, err := r.Recv(conn); n != batch || err != nil {
				b.Fatalf("%d datagrams, %v", n, err)
			}
		}
		left--
		r.Message(left%batch, &m)
	}
}

func TestQueued(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k, r := newTalker(t, tx, false, 1), receiver(t, 1)
	conn := listen(t, 1<<20, member(t, "239.5.20.1:5000", rx))
	for want := range 3 {
		n, err := conn.Queued()
		if err != nil || n < want*1000 || want == 0 && n != 0 || n > conn.Buffer() {
			t.Errorf("%d datagrams of 1000 bytes take %d bytes of %d, %v", want, n, conn.Buffer(), err)
		}
		k.send("239.5.20.1:5000", make([]byte, 1000))
	}
	take(t, r, conn, 3, func(*Message) {})
	if n, err := conn.Queued(); err != nil || n != 0 {
		t.Errorf("an empty queue takes %d bytes, %v", n, err)
	}
}
