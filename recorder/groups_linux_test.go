package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"castdeck/format"
	"castdeck/internal/netns"
	"castdeck/internal/netnstest"
	"castdeck/internal/sock"
)

// addSources gives an interface n addresses to send from.
func addSources(t testing.TB, iface string, n int) (sources []string) {
	t.Helper()
	link, err := netlink.LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		a := netip.MustParseAddr(source(t, iface, false)).As4()
		a[3] = byte(101 + i)
		ip := netip.AddrFrom4(a)
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, ip.String())
	}
	return sources
}

// setSysctl sets a sysctl of the namespace for this test.
func setSysctl(t testing.TB, name, value string) {
	t.Helper()
	old, err := os.ReadFile("/proc/sys/" + name)
	if err == nil {
		err = netns.SetSysctl(name, value)
	}
	if err != nil {
		t.Skipf("sysctl %s of this kernel cannot be set here: %v", name, err)
	}
	t.Cleanup(func() {
		if err := netns.SetSysctl(name, strings.TrimSpace(string(old))); err != nil {
			t.Errorf("setting %s back: %v", name, err)
		}
	})
}

// each sends one datagram to every subscription, or several, checks that each has
// recorded exactly that, and ends the recording.
func each(t *testing.T, r *recording, w *tape, subs []Subscription, send func(s Subscription, payload []byte), rounds int) {
	t.Helper()
	for round := range rounds {
		for i, s := range subs {
			send(s, fmt.Appendf(nil, "%d %d", round, i))
		}
	}
	r.end()
	next := make([]int, len(subs))
	for _, d := range w.datagrams {
		i := int(d.Interface)
		if want := fmt.Sprintf("%d %d", next[i], i); string(d.Payload) != want || d.Dst != subs[i].Group {
			t.Fatalf("%v to %v on subscription %v: %q, want %q", d.Src, d.Dst, subs[i], d.Payload, want)
		}
		next[i]++
	}
	for i, n := range next {
		if n != rounds {
			t.Fatalf("%v: %d datagrams, want %d", subs[i], n, rounds)
		}
	}
	if st := r.Stats(); st.Datagrams != uint64(len(subs)*rounds) || st.Dropped != (Dropped{}) {
		t.Errorf("%+v", st)
	}
}

// TestManySources: 25 sources of one group, of which a socket takes 10, each for
// itself and on sockets shared with other groups.
func TestManySources(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	sources := addSources(t, tx, 26)
	var subs []Subscription
	for _, s := range sources[:25] { // nobody subscribes to the last
		subs = append(subs, sub("232.7.1.1:5000", s, rx))
	}
	talkers := map[string]*talker{}
	for _, s := range sources {
		talkers[s] = newTalker(t, tx, s, 1)
	}
	for _, c := range []struct {
		name    string
		limit   string // igmp_max_msf
		more    []Subscription
		sockets int
	}{
		{"a socket each", "10", nil, 25},
		{"shared", "10", many(100, 5000, rx), 3 + 5},           // igmp_max_memberships is 20
		{"as few as can be", "0", many(100, 5000, rx), 25 + 5}, // the kernel counts from the second on
	} {
		t.Run(c.name, func(t *testing.T) {
			setSysctl(t, "net/ipv4/igmp_max_msf", c.limit)
			all := append(subs[:25:25], c.more...)
			w := &tape{keep: true}
			r := record(t, all, Options{Buffer: 1 << 20}, w)
			if got := r.Stats().Sockets; got != c.sockets {
				t.Errorf("%d sockets, want %d", got, c.sockets)
			}
			each(t, r, w, all, func(s Subscription, p []byte) {
				k := talkers[sources[25]] // groups that anybody may send to
				if s.Source.IsValid() {
					k.send(s.Group, []byte("of another source"))
					k = talkers[s.Source.String()]
				}
				k.send(s.Group, p)
			}, 3)
			if got := r.Stats().Foreign; got != 0 {
				t.Errorf("%d foreign datagrams", got)
			}
		})
	}
}

// TestThousandsOfGroups: exactly what was sent to each of 2,000 groups, of both
// families, on two interfaces and several ports.
func TestThousandsOfGroups(t *testing.T) {
	tx1, rx1 := netnstest.Veth(t)
	tx2, rx2 := netnstest.Veth(t)
	senders := map[string][2]*talker{
		rx1: {newTalker(t, tx1, source(t, tx1, false), 1), newTalker(t, tx1, source(t, tx1, true), 1)},
		rx2: {newTalker(t, tx2, source(t, tx2, false), 1), newTalker(t, tx2, source(t, tx2, true), 1)},
	}
	var subs []Subscription
	for i, rx := range []string{rx1, rx2} {
		subs = append(subs, many(600, 5000, rx)...) // the same groups on both
		subs = append(subs, many(200, uint16(5001+i), rx)...)
		ipv6 := v6(200)
		for i := range ipv6 {
			ipv6[i].Interface = rx
		}
		subs = append(subs, ipv6...)
	}
	w := &tape{keep: true}
	r := record(t, subs, Options{Buffer: 1 << 20}, w)
	// 20 IPv4 groups a socket, 128 of IPv6.
	if got, want := r.Stats().Sockets, 2*(30+10+2); got != want {
		t.Errorf("%d sockets, want %d", got, want)
	}
	each(t, r, w, subs, func(s Subscription, p []byte) {
		k := senders[s.Interface]
		if s.Group.Addr().Is4() {
			k[0].send(s.Group, p)
		} else {
			k[1].send(s.Group, p)
		}
	}, 2)
}

// TestLimitsThatCannotBeMet: an error that names the limit, and no socket left; where
// more sockets help, more sockets.
func TestLimitsThatCannotBeMet(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	ports := make([]Subscription, 100)
	for i := range ports {
		ports[i] = sub(fmt.Sprintf("239.7.9.1:%d", 6000+i), "", rx)
	}
	before := descriptors(t)
	fails := func(t *testing.T, subs []Subscription, is error, want ...string) {
		t.Helper()
		r, err := Listen(subs, Options{Buffer: 1 << 16})
		if err == nil {
			r.Close()
			t.Fatalf("no error, want %q", want)
		}
		for _, s := range want {
			if !errors.Is(err, is) || !strings.Contains(err.Error(), s) {
				t.Errorf("%v: want %q", err, s)
			}
		}
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors, %d before", after, before)
		}
	}
	t.Run("memberships", func(t *testing.T) {
		setSysctl(t, "net/ipv4/igmp_max_memberships", "0")
		fails(t, many(100, 5000, rx), syscall.ENOBUFS, "joining 239.7.0.0:5000", "net.ipv4.igmp_max_memberships = 0")
	})
	t.Run("open files", func(t *testing.T) {
		var old unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		low := old
		low.Cur = uint64(before) + 50
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
				t.Error(err)
			}
		}()
		fails(t, ports, syscall.EMFILE, "100 subscriptions need 100 sockets", fmt.Sprintf("the limit of open files is %d", low.Cur))
	})
	t.Run("option memory", func(t *testing.T) {
		// For some 30 of 128 memberships.
		setSysctl(t, "net/core/optmem_max", "2048")
		subs := v6(150)
		for i := range subs {
			subs[i].Interface = rx
		}
		w := &tape{keep: true}
		r := record(t, subs, Options{Buffer: 1 << 20}, w)
		if got := r.Stats().Sockets; got <= 2 || got >= 150 {
			t.Errorf("%d sockets", got)
		}
		k := newTalker(t, tx, source(t, tx, true), 1)
		each(t, r, w, subs, func(s Subscription, p []byte) { k.send(s.Group, p) }, 1)
	})
}

// TestRecordUnicastAndBroadcast: what is no group, each kind on a socket of its own,
// beside groups on the same port.
func TestRecordUnicastAndBroadcast(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	own := source(t, rx, false)
	broadcast := strings.TrimSuffix(own, "2") + "255"
	group := netip.MustParseAddrPort("239.7.10.1:5000")
	to := func(addr string, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port))
	}
	// Both ends are on this host: it sends to its own address by lo, on behalf of the
	// address's interface, and hears its own broadcasts, on behalf of the one it sends by.
	local := newTalker(t, "lo", "127.0.0.1", 1)
	local6 := newTalker(t, "lo", "::1", 1)
	wire := newTalker(t, tx, source(t, tx, false), 1)
	if err := errors.Join(unix.SetsockoptInt(wire.fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.SetsockoptString(wire.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, tx)); err != nil {
		t.Fatal(err)
	}
	type datagram struct {
		by  *talker
		dst netip.AddrPort
	}
	for _, c := range []struct {
		name string
		subs []Subscription
		sent []datagram
		want []int // the subscription of each, -1 for none
		echo bool  // the host's own broadcasts are heard too
	}{
		{"every address", []Subscription{sub("0.0.0.0:5000", "", ""), sub("[::]:5000", "", ""), {Group: group, Interface: rx}},
			[]datagram{{local, to("127.0.0.1", 5000)}, {local, to(own, 5000)}, {local6, to("::1", 5000)}, {wire, group},
				{wire, to("255.255.255.255", 5000)}, {wire, to(broadcast, 5000)}, {wire, to("239.7.10.2", 5000)}, {local, to(own, 5001)}},
			[]int{0, 0, 1, 2, 0, 0, -1, -1}, true},
		{"one address", []Subscription{sub("127.0.0.1:5000", "", ""), sub("[::1]:5000", "", "")},
			[]datagram{{local, to("127.0.0.1", 5000)}, {local6, to("::1", 5000)}, {local, to(own, 5000)}, {wire, to(broadcast, 5000)}},
			[]int{0, 1, -1, -1}, false},
		{"broadcast", []Subscription{sub("255.255.255.255:5000", "", rx), sub(broadcast+":5000", "", rx)},
			[]datagram{{wire, to("255.255.255.255", 5000)}, {wire, to(broadcast, 5000)}, {local, to(own, 5000)}},
			[]int{0, 1, -1}, false},
		{"every address of an interface", []Subscription{sub("0.0.0.0:5000", "", rx)},
			[]datagram{{wire, to("255.255.255.255", 5000)}, {local, to("127.0.0.1", 5000)}, {local, to(own, 5000)}},
			[]int{0, -1, 0}, false},
		{"every address of two interfaces", []Subscription{sub("0.0.0.0:5000", "", "lo"), sub("0.0.0.0:5000", "", rx)},
			[]datagram{{wire, to("255.255.255.255", 5000)}, {local, to("127.0.0.1", 5000)}},
			[]int{1, 0}, false},
		{"beside shared sockets", append(many(100, 5000, rx), sub("0.0.0.0:5000", "", "")),
			[]datagram{{local, to(own, 5000)}, {wire, to("239.7.0.3", 5000)}, {wire, to(broadcast, 5000)}},
			[]int{100, 3, 100}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &tape{keep: true}
			r := record(t, c.subs, Options{Buffer: 1 << 20}, w)
			for i, d := range c.sent {
				d.by.send(d.dst, fmt.Appendf(nil, "%d", i))
			}
			r.end()
			got := make([]int, len(c.sent))
			for _, d := range w.datagrams {
				var i int
				if _, err := fmt.Sscan(string(d.Payload), &i); err != nil {
					t.Fatal(err)
				}
				got[i]++
				if c.want[i] != int(d.Interface) || d.Dst != c.sent[i].dst || d.TTL == 0 || d.Flags != 0 {
					t.Errorf("datagram to %v: on subscription %d, to %v, TTL %d; want subscription %d", c.sent[i].dst, d.Interface, d.Dst, d.TTL, c.want[i])
				}
			}
			for i, d := range c.sent {
				want := 0
				if c.want[i] >= 0 {
					want = 1
				}
				if a := d.dst.Addr().String(); c.echo && (a == "255.255.255.255" || a == broadcast) {
					want = 2
				}
				if got[i] != want {
					t.Errorf("the datagram to %v is recorded %d times, want %d", d.dst, got[i], want)
				}
			}
		})
	}
}

// TestUnicastIsNotTaken: a program's datagrams stay its own, whether it allows its
// port to be shared or not, and ours stay ours.
func TestUnicastIsNotTaken(t *testing.T) {
	netnstest.Require(t)
	bind := func(address string, reuse int) (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse); err != nil {
			t.Fatal(err)
		}
		return fd, unix.Bind(fd, sockaddrOf(netip.MustParseAddrPort(address)))
	}
	for _, name := range []string{"0.0.0.0:5000", "127.0.0.1:5000"} {
		for reuse := range 2 {
			fd, err := bind("127.0.0.1:5000", reuse)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Listen([]Subscription{sub(name, "", "")}, Options{})
			if err == nil {
				r.Close()
			}
			const want = "a program receives on UDP port 5000: ss -ulpn sport = :5000"
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, SO_REUSEADDR %d: %v, want %q", name, reuse, err, want)
			}
			unix.Close(fd)
		}
		// Everybody has a broadcast.
		fd, err := bind("0.0.0.0:5000", 1)
		if err != nil {
			t.Fatal(err)
		}
		both := []Subscription{sub("255.255.255.255:5000", "", ""), sub("127.255.255.255:5000", "", "")}
		if r, err := Listen(both, Options{}); err != nil {
			t.Error(err)
		} else {
			r.Close()
		}
		unix.Close(fd)
		w := &tape{}
		r := record(t, []Subscription{sub(name, "", ""), sub("239.7.11.1:5000", "", "lo")}, Options{}, w)
		fd, err = bind("127.0.0.1:5000", 1)
		unix.Close(fd)
		if err != unix.EADDRINUSE {
			t.Errorf("%s: another program takes the recorder's datagrams: %v", name, err)
		}
		r.end()
		r.Close()
	}
}

// TestUnicastEnds: a sender that goes on cannot hold up the end; what comes after it
// is neither recorded nor a loss.
func TestUnicastEnds(t *testing.T) {
	netnstest.Require(t)
	k := newTalker(t, "lo", "127.0.0.1", 1)
	r, err := Listen([]Subscription{sub("0.0.0.0:5000", "", "")}, Options{Buffer: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := r.loop
	l.batch = l.queue.get()
	address := netip.MustParseAddrPort("127.0.0.1:5000")
	k.sequence(address, 0, 5, 64)
	l.end = time.Now().UnixNano()
	k.sequence(address, 5, 1000, 64) // more than the buffer holds
	if n, more, err := l.pass(); n != 5 || more || err != nil {
		t.Errorf("%d datagrams and more: %v, %v; want 5 and no more", n, more, err)
	}
	if n, more, err := l.pass(); n != 0 || more || err != nil {
		t.Errorf("then %d datagrams and more: %v, %v", n, more, err)
	}
	if counter, err := l.inlets[0].(*socket).conn.Drops(); counter == 0 || err != nil {
		t.Fatalf("the kernel has dropped none: %v", err)
	}
	if n := l.readDrops(); n != 0 || l.stats.Dropped.Kernel != 0 || l.stats.Datagrams != 5 {
		t.Errorf("%d dropped after the end; %+v", n, l.stats)
	}
}

// program is another program's socket that shares its port.
func program(t *testing.T, address string) (fd int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, sockaddrOf(netip.MustParseAddrPort(address))))
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestSharedSocketsTakeNothing: a program that receives unicast on the groups' port
// goes on receiving it.
func TestSharedSocketsTakeNothing(t *testing.T) {
	_, rx := netnstest.Veth(t)
	k := newTalker(t, "lo", "127.0.0.1", 1)
	for _, start := range []string{"after", "before"} {
		fd := -1
		if start == "before" {
			fd = program(t, "0.0.0.0:5000")
		}
		r := record(t, many(100, 5000, rx), Options{Buffer: 1 << 20}, &tape{})
		if start == "after" {
			fd = program(t, "0.0.0.0:5000")
		}
		k.send(netip.MustParseAddrPort("127.0.0.1:5000"), []byte("theirs"))
		b := make([]byte, 100)
		until(t, "the program that started "+start+" has its datagram", func() bool {
			n, _, err := unix.Recvfrom(fd, b, 0)
			return err == nil && string(b[:n]) == "theirs"
		})
		r.end()
		if n := r.Stats().Foreign; n != 0 {
			t.Errorf("%d datagrams of others", n)
		}
		r.Close()
		unix.Close(fd)
	}
}

// TestReopenUnicast: an interface that is made again, where the kernel does not let a
// socket be bound to the new one: another socket takes over, beside a group of ours on
// the same port, and has the port for itself again.
func TestReopenUnicast(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	all, group := sub("0.0.0.0:5000", "", rx), sub("239.7.13.1:5000", "", rx)
	r, err := Listen([]Subscription{all, group}, Options{Buffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.loop.rejoinConn = func(*sock.Conn, *net.Interface) error { return syscall.EPERM }
	w := &tape{keep: true}
	rec := start(t, r, w)
	until(t, "it runs", func() bool { return r.Stats().Wakeups > 0 })
	netnstest.RemakeVeth(t, tx, rx)
	until(t, "the sockets are open again", func() bool { return w.noted(format.EventRejoined) > 0 })
	k := newTalker(t, tx, source(t, tx, false), 1)
	if err := errors.Join(unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.SetsockoptString(k.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, tx)); err != nil {
		t.Fatal(err)
	}
	k.send(netip.MustParseAddrPort("255.255.255.255:5000"), []byte("0"))
	k.send(group.Group, []byte("1"))
	until(t, "both are recorded", func() bool { return w.written() == 2 })
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, sockaddrOf(netip.MustParseAddrPort("0.0.0.0:5000"))); err != unix.EADDRINUSE {
		t.Errorf("another program is bound to the port: %v", err)
	}
	rec.end()
	for _, d := range w.datagrams {
		if string(d.Payload) != fmt.Sprint(d.Interface) {
			t.Errorf("%q on subscription %d", d.Payload, d.Interface)
		}
	}
}

// TestNothingOfOtherPrograms: another process's groups on our port, joined on any of
// its sockets, never reach ours, however these are bound.
func TestNothingOfOtherPrograms(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	theirs := many(50, 5000, rx)
	for i := range theirs {
		a := theirs[i].Group.Addr().As4()
		a[1] = 200
		theirs[i].Group = netip.AddrPortFrom(netip.AddrFrom4(a), 5000)
	}
	// As most programs do it, with every other option at its default.
	fd := program(t, "0.0.0.0:5000")
	link, err := net.InterfaceByName(rx)
	if err != nil {
		t.Fatal(err)
	}
	join := func(fd int) {
		for _, s := range theirs[:20] { // igmp_max_memberships
			if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: s.Group.Addr().As4(), Ifindex: int32(link.Index)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	join(fd)
	k := newTalker(t, tx, source(t, tx, false), 1)
	for _, c := range []struct {
		n       int
		group   bool // the program is bound to a group, so that the recorder shares sockets
		sockets int
	}{{1, false, 1}, {30, false, 30}, {200, false, 200}, {200, true, 10}} {
		n := c.n
		if c.group {
			unix.Close(fd)
			fd = program(t, theirs[0].Group.String())
			join(fd)
		}
		w := &tape{keep: true}
		subs := many(n, 5000, rx)
		r := record(t, subs, Options{Buffer: 1 << 20}, w)
		if got := r.Stats().Sockets; got != c.sockets {
			t.Errorf("%d groups: %d sockets, want %d", n, got, c.sockets)
		}
		each(t, r, w, subs, func(s Subscription, p []byte) {
			for _, x := range theirs[:20] {
				k.send(x.Group, []byte("theirs"))
			}
			k.send(s.Group, p)
		}, 1)
		if got := r.Stats().Foreign; got != 0 {
			t.Errorf("%d groups: %d foreign datagrams", n, got)
		}
		r.Close()
	}
	unix.Close(fd)
}

// TestDatagramSizes: empty to the longest, in one piece and in fragments.
func TestDatagramSizes(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	for _, name := range []string{tx, rx} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetMTU(link, 9000)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		tx, rx, group string
		longest       int
	}{
		{tx, rx, "239.7.12.1:5000", 65507},
		{tx, rx, "[ff15::7:12:1]:5000", 65527},
		{"lo", "lo", "239.7.12.1:5000", 65507}, // its MTU is 65536
		{"lo", "lo", "[ff15::7:12:1]:5000", 65527},
	} {
		s := sub(c.group, "", c.rx)
		ipv6 := s.Group.Addr().Is6()
		src := map[bool]string{false: "127.0.0.1", true: "::1"}[ipv6]
		if c.tx != "lo" {
			src = source(t, c.tx, ipv6)
		}
		w := &tape{keep: true}
		r := record(t, []Subscription{s}, Options{Buffer: 8 << 20}, w)
		k := newTalker(t, c.tx, src, 1)
		sizes := []int{0, 1, 1472, 8952, 8972, 8973, c.longest}
		for _, n := range sizes {
			k.send(s.Group, bytes.Repeat([]byte{byte(n)}, n))
		}
		r.end()
		if len(w.datagrams) != len(sizes) {
			t.Fatalf("%s on %s: %d datagrams, want %d", c.group, c.rx, len(w.datagrams), len(sizes))
		}
		for i, d := range w.datagrams {
			if n := sizes[i]; !bytes.Equal(d.Payload, bytes.Repeat([]byte{byte(n)}, n)) || int(d.Length) != n || d.Flags != 0 {
				t.Errorf("%s on %s: %d bytes of %d, want %d", c.group, c.rx, len(d.Payload), d.Length, n)
			}
		}
	}
}
