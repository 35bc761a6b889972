package recorder

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/internal/netnstest"
	"castdeck/internal/sock"
)

// packets are the options of a recorder by packet sockets.
func packets(o Options) Options {
	if o.Packet == nil {
		o.Packet = &PacketOptions{}
	}
	o.Packet.Decoder = pcapfile.NewDecoder()
	return o
}

// injector sends frames as they are.
type injector struct {
	t  testing.TB
	fd int
	to unix.SockaddrLinklayer
}

func newInjector(t testing.TB, iface string) *injector {
	t.Helper()
	i, err := net.InterfaceByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &injector{t, fd, unix.SockaddrLinklayer{Ifindex: i.Index}}
}

func (j *injector) send(frames ...[]byte) {
	j.t.Helper()
	for _, f := range frames {
		if err := unix.Sendto(j.fd, f, 0, &j.to); err != nil {
			j.t.Fatalf("sending a frame of %d bytes: %v", len(f), err)
		}
	}
}

// udpFrame is a frame of a datagram, its payload filled with fill.
func udpFrame(src, dst string, fill byte, size int) []byte {
	d := format.Datagram{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), TTL: 9, Payload: bytes.Repeat([]byte{fill}, size)}
	f, _ := format.AppendMadeFrame(nil, &d)
	return f
}

func withTag(f []byte, tpid, tci uint16) []byte {
	g := bytes.Clone(f[:12])
	g = binary.BigEndian.AppendUint16(g, tpid)
	g = binary.BigEndian.AppendUint16(g, tci)
	return append(g, f[12:]...)
}

// fragments cuts an IPv4 frame into two.
func fragments(f []byte) (first, second []byte) {
	const header, cut = 34, 34 + 64
	first, second = bytes.Clone(f[:cut]), append(bytes.Clone(f[:header]), f[cut:]...)
	first[20], first[21] = 0x20, 0
	second[20], second[21] = 0, 64/8
	for _, g := range [][]byte{first, second} {
		binary.BigEndian.PutUint16(g[16:], uint16(len(g)-14))
	}
	return first, second
}

func TestRingKeepsFrames(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	j := newInjector(t, tx)
	subs := []Subscription{sub("239.8.1.1:5000", "", rx), sub("[ff15::8:1]:5000", "", rx), sub("232.8.1.1:5000", "10.9.9.9", rx)}
	w := &tape{keep: true}
	r := record(t, subs, packets(Options{Buffer: 4 << 20}), w)
	four := udpFrame("10.9.9.9:1000", "239.8.1.1:5000", 1, 200)
	short := append(udpFrame("10.9.9.9:1000", "239.8.1.1:5000", 2, 1), make([]byte, 17)...) // padded by Ethernet
	six := udpFrame("[fd00::9]:1000", "[ff15::8:1]:5000", 3, 100)
	options := slices.Insert(bytes.Clone(four), 34, 1, 1, 1, 0)
	options[14], options[17] = 0x46, options[17]+4
	first, second := fragments(four)
	type want struct {
		frame []byte
		sub   uint16
		fill  byte
		size  int
		flags format.Flags
	}
	wants := []want{
		{four, 0, 1, 200, 0},
		{short, 0, 2, 1, 0},
		{six, 1, 3, 100, 0},
		{withTag(four, 0x8100, 0xA007), 0, 1, 200, 0},
		{withTag(six, 0x88A8, 7), 1, 3, 100, 0},
		{options, 0, 1, 200, 0},
		{first, 0, 0, 0, format.FlagNotUDP},
		{second, 0, 0, 0, format.FlagNotUDP},
		{udpFrame("10.9.9.9:7", "232.8.1.1:5000", 4, 0), 2, 4, 0, 0},
		{udpFrame("10.9.9.9:7", "239.8.1.1:5000", 5, 1400), 0, 5, 1400, 0},
	}
	j.send(udpFrame("10.9.9.9:1000", "239.8.1.1:5001", 1, 20), udpFrame("10.9.9.9:1000", "239.8.1.2:5000", 1, 20),
		udpFrame("10.9.9.8:1000", "232.8.1.1:5000", 1, 20), udpFrame("[fd00::9]:1000", "[ff15::8:2]:5000", 1, 20))
	for _, c := range wants {
		j.send(c.frame)
	}
	r.end()
	if len(w.datagrams) != len(wants) {
		t.Fatalf("%d packets, want %d", len(w.datagrams), len(wants))
	}
	for i, c := range wants {
		d := w.datagrams[i]
		if !bytes.Equal(d.Frame, c.frame) || int(d.FrameLength) != len(c.frame) {
			t.Errorf("packet %d:\ngot  % x\nwant % x", i, d.Frame, c.frame)
		}
		if d.Interface != c.sub || d.Flags != c.flags || int(d.Length) != c.size || !bytes.Equal(d.Payload, bytes.Repeat([]byte{c.fill}, c.size)) {
			t.Errorf("packet %d: %+v", i, d)
		}
		if c.flags == 0 && (d.Dst != subs[c.sub].Group || d.TTL != 9) {
			t.Errorf("packet %d: to %v, ttl %d", i, d.Dst, d.TTL)
		}
		if age := time.Now().UnixNano() - d.Time; age < 0 || age > int64(time.Minute) {
			t.Errorf("packet %d: %d ns old", i, age)
		}
	}
	st := r.Stats()
	if st.NotUDP != 2 || st.Foreign != 0 || st.Joined != 0 || st.Sockets != 1 || st.Dropped != (Dropped{}) || st.BufferBytes != 4<<20 {
		t.Errorf("%+v", st)
	}
	if received, dropped := w.sums(); received != uint64(len(wants)) || dropped != 0 {
		t.Errorf("the recording's totals are %d and %d dropped", received, dropped)
	}
}

func TestRingLedgerUnderLoss(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	runs := 4
	if testing.Short() {
		runs = 1
	}
	for run := range runs {
		for _, groups := range []int{1, 2} { // of which the second is silent, until the end
			subs := many(groups, 5000, rx)
			group := subs[0].Group
			w := &tape{gate: make(chan struct{}), entered: make(chan struct{}, 1)}
			r := record(t, subs, packets(Options{Buffer: 1, Queue: 1, StatsInterval: 10 * time.Millisecond}), w)
			n := uint64(20_000 + 1000*run)
			overload(t, r, w, k, group, n)
			k.sequence(subs[groups-1].Group, n+1, 100, 64)
			r.end()
			st := r.Stats()
			w.check(t, n+101, st)
			if st.Dropped.Kernel == 0 || w.drops == 0 || w.drops > st.Dropped.Kernel {
				t.Errorf("%d lost, %d stated with packets", st.Dropped.Kernel, w.drops)
			}
			booked := uint64(0)
			for _, s := range st.Subscriptions {
				booked += s.Dropped
			}
			if booked != st.Dropped.Kernel {
				t.Errorf("%d lost, %d booked on subscriptions", st.Dropped.Kernel, booked)
			}
		}
	}
}

// TestRingLossAtTheEnd: what is lost between bind and the first read, behind the
// last packet that has room.
func TestRingLossAtTheEnd(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	subs := many(3, 5000, rx)
	r, err := Listen(subs, packets(Options{Buffer: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const sent = 5000
	k.sequence(subs[2].Group, 0, sent, 64)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := &tape{}
	if err := r.Run(ctx, w); err != nil {
		t.Fatal(err)
	}
	st := r.Stats()
	w.check(t, sent, st)
	if st.Dropped.Kernel == 0 || st.Subscriptions[2].Dropped != st.Dropped.Kernel {
		t.Errorf("%+v", st)
	}
}

// TestRingTakesLoopbackOnce: on lo the kernel shows each packet going out and coming
// in.
func TestRingTakesLoopbackOnce(t *testing.T) {
	netnstest.Require(t)
	k := newTalker(t, "lo", "127.0.0.1", 1)
	s := sub("239.8.2.1:5000", "", "lo")
	w := &tape{}
	r := record(t, []Subscription{s}, packets(Options{Buffer: 1 << 20}), w)
	k.sequence(s.Group, 0, 1000, 300)
	r.end()
	w.check(t, 1000, r.Stats())
}

func TestRingByFilter(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	j := newInjector(t, tx)
	udp, other := udpFrame("10.9.9.9:1000", "239.8.3.1:5000", 1, 50), udpFrame("10.9.9.9:1000", "10.1.2.3:6000", 2, 50)
	arp := make([]byte, 60)
	arp[12], arp[13] = 0x08, 0x06
	frames := [][]byte{udp, other, arp, withTag(udp, 0x8100, 7), withTag(udp, 0x8100, 8), withTag(withTag(udp, 0x8100, 9), 0x8100, 7)}
	for _, c := range []struct {
		filter string
		group  string
		want   []int
	}{
		{"(udp and dst 239.8.3.1) or (arp and less 100 and ether[14] = 0)", "", []int{0, 2, 3, 4}},
		{"vlan 7", "", []int{3, 5}},
		{"vlan 7 and udp", "", []int{3}},
		{"vlan 7 and vlan 9 and dst 239.8.3.1", "", []int{5}},
		{"dst port 6000 and udp[8] = 2", "", []int{1}},
		{"vlan 8", "239.8.3.1:5000", []int{4}},
		{"src 10.9.9.8", "239.8.3.1:5000", nil},
	} {
		o := packets(Options{Buffer: 1 << 20, Packet: &PacketOptions{Filter: c.filter}})
		var subs []Subscription
		if c.group != "" {
			subs = append(subs, sub(c.group, "", rx))
		} else {
			o.Packet.Interfaces = []string{rx}
		}
		w := &tape{keep: true}
		r := record(t, subs, o, w)
		j.send(frames...)
		r.end()
		var got []int
		for _, d := range w.datagrams {
			// The kernel itself sends router solicitations and the like.
			if i := slices.IndexFunc(frames, func(f []byte) bool { return bytes.Equal(f, d.Frame) }); i >= 0 {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: frames %v, want %v", c.filter, got, c.want)
		}
		if want := c.filter + " on " + rx; c.group == "" && r.Interfaces()[0].Description != want {
			t.Errorf("described as %q, want %q", r.Interfaces()[0].Description, want)
		}
	}
}

func TestRingPromiscuous(t *testing.T) {
	_, rx := netnstest.Veth(t)
	mode := func() int {
		link, err := netlink.LinkByName(rx)
		if err != nil {
			t.Fatal(err)
		}
		return link.Attrs().Promisc
	}
	for _, on := range []bool{true, false} {
		r, err := Listen([]Subscription{sub("239.8.4.1:5000", "", rx)}, packets(Options{Buffer: 1, Packet: &PacketOptions{Promiscuous: on}}))
		if err != nil {
			t.Fatal(err)
		}
		if got := mode() == 1; got != on {
			t.Errorf("asked for promiscuous %t, is %t", on, got)
		}
		r.Close()
		if mode() != 0 {
			t.Error("promiscuous after Close")
		}
	}
}

func TestRingManyGroups(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	const n = 2000
	subs := many(n, 5000, rx)
	w := &tape{}
	before := descriptors(t)
	r := record(t, subs, packets(Options{Buffer: 4 << 20}), w)
	joined, err := os.ReadFile("/proc/net/igmp")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(joined), "\n"); lines < n {
		t.Errorf("%d lines in /proc/net/igmp after joining %d groups", lines, n)
	}
	for i, s := range subs {
		k.sequence(s.Group, uint64(i), 1, 64)
	}
	other := netip.AddrPortFrom(subs[0].Group.Addr(), 5001)
	k.sequence(other, n, 10, 64)
	r.end()
	st := r.Stats()
	w.check(t, n, st)
	for i, s := range st.Subscriptions {
		if s.Datagrams != 1 {
			t.Fatalf("group %d has %d datagrams", i, s.Datagrams)
		}
	}
	if st.Foreign != 0 || st.Sockets != 1 {
		t.Errorf("%d foreign, %d sockets", st.Foreign, st.Sockets)
	}
	r.Close()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestRingSortsOut: packets that pass the kernel's filter and are for no group.
func TestRingSortsOut(t *testing.T) {
	s := &ring{groups: []ringGroup{
		{dst: netip.MustParseAddrPort("239.1.1.1:5000"), sub: 0},
		{dst: netip.MustParseAddrPort("239.1.1.1:5001"), sub: 1},
		{dst: netip.MustParseAddrPort("232.1.1.1:5000"), source: netip.MustParseAddr("10.0.0.1"), sub: 2},
		{dst: netip.MustParseAddrPort("232.1.1.1:5000"), source: netip.MustParseAddr("10.0.0.2"), sub: 3},
		{dst: netip.MustParseAddrPort("239.1.1.9:5000"), sub: 4},
		{dst: netip.MustParseAddrPort("239.1.1.9:5000"), source: netip.MustParseAddr("10.0.0.1"), sub: 5},
		{dst: netip.MustParseAddrPort("[ff15::1]:5000"), sub: 6},
	}}
	s.sort()
	for range 2 { // with another last one each
		for _, c := range []struct {
			src, dst string
			want     int
		}{
			{"10.0.0.7:1", "239.1.1.1:5000", 0}, {"10.0.0.8:1", "239.1.1.1:5000", 0}, {"10.0.0.7:1", "239.1.1.1:5001", 1},
			{"10.0.0.1:1", "232.1.1.1:5000", 2}, {"10.0.0.2:1", "232.1.1.1:5000", 3}, {"10.0.0.3:1", "232.1.1.1:5000", -1},
			{"10.0.0.3:1", "239.1.1.9:5000", 4}, {"10.0.0.1:1", "239.1.1.9:5000", 5}, {"10.0.0.3:1", "239.1.1.9:5000", 4},
			{"10.0.0.1:1", "239.1.1.2:5000", -1}, {"10.0.0.1:1", "239.1.1.1:4999", -1}, {"[fd00::1]:1", "[ff15::1]:5000", 6},
			{"[fd00::1]:1", "[ff15::2]:5000", -1},
		} {
			d := format.Datagram{Src: netip.MustParseAddrPort(c.src), Dst: netip.MustParseAddrPort(c.dst)}
			got, ok := s.find(&d)
			if ok != (c.want >= 0) || ok && int(got) != c.want {
				t.Errorf("%s to %s: %d, %t, want %d", c.src, c.dst, got, ok, c.want)
			}
		}
	}
	first, second := fragments(udpFrame("10.0.0.2:1", "232.1.1.1:5000", 1, 200))
	for _, f := range [][]byte{first, second, withTag(second, 0x8100, 5), withTag(withTag(second, 0x8100, 5), 0x88A8, 5)} {
		if got, ok := s.find(&format.Datagram{Flags: format.FlagNotUDP, Frame: f}); !ok || got != 3 {
			t.Errorf("fragment: %d, %t", got, ok)
		}
	}
	for _, f := range [][]byte{nil, first[:30], make([]byte, 60)} {
		if got, ok := s.find(&format.Datagram{Flags: format.FlagNotUDP, Frame: f}); ok {
			t.Errorf("% x is of %d", f, got)
		}
	}
}

func TestJoins(t *testing.T) {
	var groups []ringGroup
	add := func(dst, source string, n int) {
		for i := range n {
			g := ringGroup{dst: netip.MustParseAddrPort(dst)}
			if source != "" {
				g.source = netip.MustParseAddr(source)
				for range i {
					g.source = g.source.Next()
				}
			}
			groups = append(groups, g)
		}
	}
	add("232.1.1.1:5000", "10.0.0.1", 25)
	add("232.1.1.1:5001", "10.0.0.1", 25) // the same memberships
	add("239.1.1.1:5000", "", 1)
	add("239.1.1.1:5000", "10.0.0.1", 1)
	add("[ff15::1]:5000", "", 1)
	for i := range 45 {
		add(fmt.Sprintf("239.2.2.%d:5000", i), "", 1)
	}
	total := 0
	for _, members := range joins(groups, nil, 20) {
		seen := map[netip.Addr]bool{}
		for _, m := range members {
			if a := m.Group.Addr(); seen[a] || a.Is4() != members[0].Group.Addr().Is4() {
				t.Errorf("a socket of %v", members)
			} else {
				seen[a] = true
			}
		}
		if len(members) > 20 {
			t.Errorf("%d memberships on a socket", len(members))
		}
		total += len(members)
	}
	if want := 25 + 2 + 1 + 45; total != want {
		t.Errorf("%d memberships, want %d", total, want)
	}
}

// without runs f on a thread that has lost a capability.
func without(t *testing.T, capability uint, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		t.Fatal(err)
	}
	less := had
	less[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&header, &less[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&header, &had[0]); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

func TestRingRefusals(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	group := sub("239.8.5.1:5000", "", rx)
	refused := func(subs []Subscription, o Options, want string) {
		t.Helper()
		before := descriptors(t)
		r, err := Listen(subs, o)
		if err == nil {
			r.Close()
			t.Errorf("accepted, want %q", want)
			return
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, want)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%v: %d descriptors before, %d after", err, before, after)
		}
	}
	without(t, unix.CAP_NET_RAW, func() {
		refused([]Subscription{group}, packets(Options{}), rx+": packet socket: socket: operation not permitted (needs CAP_NET_RAW: setcap cap_net_raw+ep")
	})
	refused([]Subscription{sub("239.8.5.1:5000", "", "")}, packets(Options{}), "239.8.5.1:5000: a packet socket needs an interface")
	refused([]Subscription{group}, packets(Options{Packet: &PacketOptions{Filter: "gateway x"}}), `filter: "gateway" at byte 1: not supported`)
	refused(nil, packets(Options{Packet: &PacketOptions{Interfaces: []string{rx}}}), "no filter that says what")
	refused(nil, packets(Options{Packet: &PacketOptions{Interfaces: []string{rx, rx}, Filter: "udp"}}), rx+" is there twice")
	refused([]Subscription{group}, packets(Options{Packet: &PacketOptions{Interfaces: []string{rx}, Filter: "udp"}}), "groups name their interfaces")
	refused([]Subscription{group}, Options{Hardware: true}, rx+": no hardware timestamps of what it receives (ethtool -T "+rx+": software-receive")
	refused([]Subscription{group, sub("239.8.5.1:5000", "", tx)}, packets(Options{Hardware: true}), "no hardware timestamps")
	refused([]Subscription{sub("239.8.5.1:5000", "", "")}, Options{Hardware: true}, "hardware timestamps need an interface for each group")
	refused([]Subscription{sub("239.8.5.1:5000", "", "lo")}, Options{Hardware: true}, "lo: no hardware timestamps")

	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "noether"}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Logf("no tun interface to try: %v", err)
		return
	}
	defer netlink.LinkDel(tun)
	if err := netlink.LinkSetUp(tun); err != nil {
		t.Fatal(err)
	}
	refused(nil, packets(Options{Packet: &PacketOptions{Interfaces: []string{"noether"}, Filter: "udp"}}), "no Ethernet header (hardware type 65534)")
}

// TestRingsInOrder: what comes by two interfaces is one recording in the order of
// time.
func TestRingsInOrder(t *testing.T) {
	tx1, rx1 := netnstest.Veth(t)
	tx2, rx2 := netnstest.Veth(t)
	group := netip.MustParseAddrPort("239.8.6.1:5000")
	talkers := []*talker{newTalker(t, tx1, source(t, tx1, false), 1), newTalker(t, tx2, source(t, tx2, false), 1)}
	w := &tape{keep: true}
	r := record(t, []Subscription{{Group: group, Interface: rx1}, {Group: group, Interface: rx2}}, packets(Options{Buffer: 4 << 20}), w)
	const n = 4000
	for i := range uint64(n) {
		talkers[i/7%2].sequence(group, i, 1, 100)
	}
	r.end()
	st := r.Stats()
	w.check(t, n, st)
	if st.Sockets != 2 || st.Subscriptions[0].Datagrams == 0 || st.Subscriptions[1].Datagrams == 0 {
		t.Errorf("%+v", st)
	}
}

// TestRingInterfaceDown: the recording goes on when the interface is up again.
func TestRingInterfaceDown(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	j := newInjector(t, tx)
	w := &tape{}
	r := record(t, []Subscription{sub("239.8.7.1:5000", "", rx)}, packets(Options{Buffer: 1 << 20}), w)
	f := udpFrame("10.9.9.9:1000", "239.8.7.1:5000", 0, 50)
	j.send(f)
	link, err := netlink.LinkByName(rx)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	until(t, "the error is counted", func() bool { return r.Stats().Errors == 1 })
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	until(t, "it records again", func() bool {
		unix.Sendto(j.fd, f, 0, &j.to) // ENETDOWN for a moment
		return w.written() > 1
	})
	r.end()
	if st := r.Stats(); st.Errors != 1 {
		t.Errorf("%d errors", st.Errors)
	}
}

// TestCardsTime: a datagram that the card did not stamp is marked, and says nothing of
// the card's clock.
func TestCardsTime(t *testing.T) {
	l := &loop{hardware: true, realtime: func() int64 { return 5 }, subs: make([]subscription, 1), batch: format.NewBatch(8, 1024)}
	s := &socket{groups: []groupIndex{{addr: netip.MustParseAddr("239.1.1.1")}}}
	for _, m := range []sock.Message{{Time: 37e9, Hardware: true}, {Time: 1e18}, {}} {
		l.take(s, &m)
	}
	d := l.batch.Datagrams
	if d[0].Flags != 0 || d[1].Flags != format.FlagSoftwareStamp || d[2].Flags != format.FlagUserStamp || d[2].Time != 5 {
		t.Errorf("%+v", d)
	}
	if l.latest != 37e9 {
		t.Errorf("the card's latest time is %d", l.latest)
	}
}

func TestRingAllocatesNothing(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	s := sub("239.8.9.1:5000", "", rx)
	r, err := Listen([]Subscription{s}, packets(Options{Buffer: 4 << 20}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := r.loop
	l.batch = l.queue.get()
	const runs, each = 20, 100
	k.sequence(s.Group, 0, (runs+1)*each, 64)
	taken := 0
	n := testing.AllocsPerRun(runs, func() {
		in := l.inlets[0].(*ring)
		for range each {
			for tries := 0; !in.ring.Next(&in.packet); tries++ { // until the kernel hands the block over
				if tries == 2000 {
					t.Fatalf("%d packets came", taken)
				}
				sock.Sleep(10 * time.Millisecond)
			}
			taken++
			in.take(l, &in.packet)
			if taken%256 == 0 {
				l.batch.Reset()
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for %d packets", n, each)
	}
}

func BenchmarkRing(b *testing.B) {
	tx, rx := netnstest.Veth(b)
	k := newTalker(b, tx, source(b, tx, false), 1)
	s := sub("239.8.10.1:5000", "", rx)
	r, err := Listen([]Subscription{s}, packets(Options{Buffer: 64 << 20}))
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	l := r.loop
	l.batch = l.queue.get()
	in := l.inlets[0].(*ring)
	const size, each = 256, 20_000
	b.SetBytes(size)
	for n := 0; n < b.N; {
		b.StopTimer()
		todo := min(each, b.N-n)
		k.sequence(s.Group, 0, uint64(todo), size)
		sock.Sleep(2 * sock.RingPatience) // until the last block is ours
		b.StartTimer()
		for done := 0; done < todo; {
			l.batch.Reset()
			got, _, err := in.drain(l, 1)
			if err != nil {
				b.Fatal(err)
			}
			done += got
			n += got
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/datagram")
}

// TestRingTakesApart: what a sender hands over at once (UDP_SEGMENT) crosses veth and
// lo as one packet.
func TestRingTakesApart(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	for _, c := range []struct{ tx, rx, source, group string }{
		{tx, rx, source(t, tx, false), "239.8.11.1:5000"},
		{tx, rx, source(t, tx, true), "[ff15::8:11]:5000"},
		{"lo", "lo", "127.0.0.1", "239.8.11.1:5000"},
	} {
		s := sub(c.group, "", c.rx)
		k := newTalker(t, c.tx, c.source, 3)
		if err := unix.SetsockoptInt(k.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 100); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, 1050)
		for i := range payload {
			payload[i] = byte(i * 7)
		}
		w := &tape{keep: true}
		r := record(t, []Subscription{s}, packets(Options{Buffer: 1 << 20}), w)
		k.send(s.Group, payload)
		r.end()
		if len(w.datagrams) != 11 {
			t.Fatalf("%s by %s: %d datagrams, want 11", c.group, c.tx, len(w.datagrams))
		}
		var got []byte
		for i, d := range w.datagrams {
			got = append(got, d.Payload...)
			if want := min(100, 1050-100*i); len(d.Payload) != want || d.Flags != 0 || d.TTL != 3 || d.Dst != s.Group || int(d.FrameLength) != len(d.Frame) {
				t.Errorf("%s by %s: datagram %d: %+v", c.group, c.tx, i, d)
			}
			// The sums over all that they cover are 0.
			j, ok := headers(d.Frame)
			if !ok {
				t.Fatal("no headers")
			}
			ip, udp := d.Frame[j.ip:j.udp], d.Frame[j.udp:]
			addresses := ip[len(ip)-8:]
			if !j.ipv4 {
				addresses = ip[8:]
			} else if checksum(0, ip) != 0 {
				t.Errorf("%s: IPv4 checksum of datagram %d", c.group, i)
			}
			if checksum(add(uint32(17+len(udp)), addresses), udp) != 0 {
				t.Errorf("%s: UDP checksum of datagram %d", c.group, i)
			}
		}
		if !bytes.Equal(got, payload) {
			t.Errorf("%s by %s: other payloads", c.group, c.tx)
		}
		if st := r.Stats(); st.Joined != 1 || st.Datagrams != 11 {
			t.Errorf("%+v", st)
		}
	}
}
