package replayer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/internal/netnstest"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// packet waits for the next IP packet with UDP in it that a sniffer sees.
func (r *tap) packet() []byte {
	r.t.Helper()
	for {
		p := []byte(r.next().payload)
		if len(p) >= 28 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_UDP || len(p) >= 48 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP {
			return p
		}
	}
}

// address is the first address of an interface in the network of one IP version.
func address(t testing.TB, iface string, ipv6 bool) netip.Addr {
	t.Helper()
	i, err := net.InterfaceByName(iface)
	must(t, err)
	all, err := i.Addrs()
	must(t, err)
	for _, a := range all {
		if p := netip.MustParsePrefix(a.String()); p.Addr().Is6() == ipv6 && !p.Addr().IsLinkLocalUnicast() {
			return p.Addr()
		}
	}
	t.Fatalf("%s has no address", iface)
	return netip.Addr{}
}

func mappings(t testing.TB, all ...string) (out []Mapping) {
	t.Helper()
	for _, s := range all {
		m, err := ParseMapping(s)
		must(t, err)
		out = append(out, m)
	}
	return out
}

// A mapping has an interface, a TTL and a DSCP of its own.
func TestReplayByWays(t *testing.T) {
	tx1, rx1 := netnstest.Veth(t)
	tx2, rx2 := netnstest.Veth(t)
	sniff1, sniff2 := newSniffer(t, rx1), newSniffer(t, rx2)
	report := run(t, Options{Interface: tx1, TTL: 2, DSCP: 8, Map: mappings(t,
		"239.8.1.2=239.8.2.2%"+tx2+",ttl=5,dscp=46", "[ff15::8:1]:5000=*,dscp=10", "in2:*=*%"+tx2)},
		[]format.Datagram{
			dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "a"),
			dgram(0, "10.1.1.1:40001", "239.8.1.2:5000", "b"),
			dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "c"),
			dgram(0, "[fd00::1]:40001", "[ff15::8:1]:5000", "d"),
			func() format.Datagram {
				d := dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "e")
				d.Input = 1
				return d
			}(),
		})
	check := func(sniffer *tap, dst string, ttl, dscp int, payload string) {
		t.Helper()
		p := sniffer.packet()
		d := netip.MustParseAddr(dst)
		got, gotTTL, class := netip.Addr{}, 0, 0
		if d.Is4() {
			got, gotTTL, class = netip.AddrFrom4([4]byte(p[16:20])), int(p[8]), int(p[1])
		} else {
			got, gotTTL, class = netip.AddrFrom16([16]byte(p[24:40])), int(p[7]), int(p[0]&15)<<4|int(p[1]>>4)
		}
		if got != d || gotTTL != ttl || class != dscp<<2 || !bytes.HasSuffix(p, []byte(payload)) {
			t.Errorf("to %s, TTL %d, class %#x, %q; want %s, %d, DSCP %d, %q", got, gotTTL, class, p[28:], d, ttl, dscp, payload)
		}
	}
	check(sniff1, "239.8.1.1", 2, 8, "a")
	check(sniff1, "239.8.1.1", 2, 8, "c")
	check(sniff1, "ff15::8:1", 2, 10, "d")
	check(sniff2, "239.8.2.2", 5, 46, "b")
	check(sniff2, "239.8.1.1", 2, 8, "e")
	if n := sniff1.udp() + sniff2.udp(); n != 0 {
		t.Errorf("%d packets more than were sent", n)
	}
	want := []DestinationReport{
		{Destination: netip.MustParseAddrPort("239.8.1.1:5000"), Way: Way{tx1, 2, 8}, Datagrams: 2},
		{Destination: netip.MustParseAddrPort("239.8.1.1:5000"), Way: Way{tx2, 2, 8}, Datagrams: 1},
		{Destination: netip.MustParseAddrPort("239.8.2.2:5000"), Way: Way{tx2, 5, 46}, Datagrams: 1},
		{Destination: netip.MustParseAddrPort("[ff15::8:1]:5000"), Way: Way{tx1, 2, 10}, Datagrams: 1},
	}
	if len(report.Destinations) != len(want) {
		t.Fatalf("destinations: %+v", report.Destinations)
	}
	for i, d := range report.Destinations {
		if d.Destination != want[i].Destination || d.Way != want[i].Way || d.Datagrams != want[i].Datagrams {
			t.Errorf("destination %d: %+v, want %+v", i, d, want[i])
		}
	}
}

func TestReplayToOneHost(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	// A host that nobody is, whose MAC address is known: packets to it are seen to leave.
	host := address(t, rx, false).Next()
	link, err := netlink.LinkByName(tx)
	must(t, err)
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: host.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: testMAC[:]}))
	sniffer, home := newSniffer(t, rx), netip.AddrPortFrom(host, 7000)
	o := Options{Interface: tx, To: home, Map: mappings(t, "239.8.1.2=239.9.1.2")}
	group := newTap(t, "239.9.1.2:5000", rx)
	datagrams := []format.Datagram{
		dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "x"),
		dgram(1, "10.1.1.1:40001", "239.8.1.2:5000", "y"),
		dgram(2, "10.1.1.1:40001", "10.9.9.9:5000", "z"), // unicast when recorded; it goes to where all goes
	}
	run(t, o, datagrams)
	for _, want := range []string{"x", "y", "z"} {
		p := sniffer.packet()
		if to := netip.AddrFrom4([4]byte(p[16:20])); (to == host) != (want != "y") || string(p[28:]) != want {
			t.Errorf("%q to %s, want %q", p[28:], to, want)
		}
	}
	if a := group.next(); a.payload != "y" {
		t.Errorf("got %q", a.payload)
	}
	// Another unicast address, and what is worse than unicast, is not allowed by it.
	for _, bad := range []Options{
		{Interface: tx, To: home, Map: mappings(t, "239.8.1.1=10.9.9.9:7000")},
		{Interface: tx, To: netip.MustParseAddrPort("255.255.255.255:7000")},
		{Interface: tx, To: netip.MustParseAddrPort("224.0.0.5:7000")},
	} {
		var refused *GuardError
		if _, err := newTestReplayer(t, bad).Run(context.Background(), &source{steps: []any{datagrams}}); !errors.As(err, &refused) {
			t.Errorf("%+v: %v", bad.To, err)
		}
	}
}

// Recorded sources are kept; those that no packet can have are an error, never another
// source.
func TestReplayKeepsSources(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	sniffer := newSniffer(t, rx)
	o := Options{Interface: tx, KeepSource: true, MaxSockets: 3}
	report := run(t, o, []format.Datagram{
		dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "a"),
		dgram(1, "192.0.2.7:40001", "239.8.1.1:5000", "b"),
		dgram(2, "[2001:db8::9]:53", "[ff15::8:1]:5000", "c"),
		dgram(3, "10.1.1.1:40001", "239.8.1.2:5000", "d"),
	})
	for _, want := range []string{"10.1.1.1:40001", "192.0.2.7:40001", "[2001:db8::9]:53", "10.1.1.1:40001"} {
		p := sniffer.packet()
		h := 20
		a := netip.AddrFrom4([4]byte(p[12:16]))
		if p[0]>>4 == 6 {
			h, a = 40, netip.AddrFrom16([16]byte(p[8:24]))
		}
		if got := netip.AddrPortFrom(a, uint16(p[h])<<8|uint16(p[h+1])); got.String() != want {
			t.Errorf("from %s, want %s", got, want)
		}
	}
	if report.PortsNotKept != 0 || report.SendErrors != 0 {
		t.Errorf("%s", report)
	}
	for _, c := range []struct{ src, dst, want string }{
		{"0.0.0.0:5000", "239.8.1.1:5000", "no sender's address"},
		{"239.1.1.1:5000", "239.8.1.1:5000", "no sender's address"},
		{"255.255.255.255:5000", "239.8.1.1:5000", "no sender's address"},
		{"10.1.1.9:5000", "239.8.9.9:5000", "other IP version"},
	} {
		o.Map = mappings(t, "239.8.9.9=ff15::1")
		_, err := newTestReplayer(t, o).Run(context.Background(), &source{steps: []any{[]format.Datagram{dgram(0, c.src, c.dst, "x")}}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("from %s: %v, want %q", c.src, err, c.want)
		}
	}
	var many []format.Datagram
	for i := range 4 {
		many = append(many, dgram(0, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 1, byte(i)}), 5000).String(), "239.8.1.1:5000", "x"))
	}
	if _, err := newTestReplayer(t, o).Run(context.Background(), &source{steps: []any{many}}); !errors.Is(err, unix.EMFILE) {
		t.Errorf("4 sources in 3 sockets: %v", err)
	}
	if n := sniffer.udp(); n > 3 {
		t.Errorf("%d datagrams left beyond those before an error", n)
	}
}

// Frames arrive as they were recorded, in the kernel's eyes too: a socket has them.
func TestReplayRaw(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tapA, tapB := newTap(t, "239.80.1.1:6000", rx), newTap(t, "[ff15::8:1]:5000", rx)
	fragmented := pattern(1000, 4)
	first := recorded(testFrame{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: fragmented[:800], more: true, noSum: true})
	first.Frame[14+20+4], first.Frame[14+20+5] = 1008>>8, 1008&255
	rest := recorded(testFrame{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: fragmented[800:], offset: 808})
	large := recorded(testFrame{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: pattern(3000, 5)})
	report := run(t, Options{Interface: tx, Raw: true, TTL: 3, Pacing: Pacing{Max: true}, Map: mappings(t, "239.8.1.1:5000=239.80.1.1:6000")}, []format.Datagram{
		recorded(testFrame{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: ""}),
		recorded(testFrame{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: pattern(1472, 1)}),
		recorded(testFrame{src: "[2001:db8::1]:40001", dst: "[ff15::8:1]:5000", payload: pattern(1452, 2)}),
		first, rest,
		large, // longer than the MTU: it does not leave, and is told
		dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "made"),
	})
	for i, want := range []string{"", pattern(1472, 1), fragmented, "made"} {
		if a := tapA.next(); a.payload != want || a.from.String() != "10.1.1.1:40001" || a.ttl != 3 {
			t.Errorf("datagram %d: %d bytes from %s, TTL %d; want %d bytes", i, len(a.payload), a.from, a.ttl, len(want))
		}
	}
	if a := tapB.next(); a.payload != pattern(1452, 2) || a.from.String() != "[2001:db8::1]:40001" {
		t.Errorf("%d bytes from %s", len(a.payload), a.from)
	}
	if report.Datagrams != 6 || report.SendErrors != 1 || report.Causes["EMSGSIZE"] != 1 {
		t.Errorf("%s %+v", report, report.Causes)
	}
}

// What is not UDP leaves only where that is allowed.
func TestReplayRawNotUDP(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	sniffer := newSniffer(t, rx)
	arp := append(frameOf(testFrame{src: "10.0.0.1:1", dst: "239.1.1.1:1"})[:12], 0x08, 0x06)
	arp = append(arp, "an ARP packet that nobody has asked for, ever"...)
	// Something to see the end by.
	all := []format.Datagram{
		{Frame: arp, FrameLength: uint32(len(arp)), Flags: format.FlagNotUDP},
		recorded(testFrame{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: "last"}),
	}
	for _, allowed := range []bool{false, true} {
		seen := 0
		report := run(t, Options{Interface: tx, Raw: true, RawNotUDP: allowed, Pacing: Pacing{Max: true}}, all)
		for {
			p := sniffer.next().payload
			if strings.HasSuffix(p, "last") {
				break
			}
			if strings.HasSuffix(p, "nobody has asked for, ever") {
				seen++
			}
		}
		if want := map[bool]int{true: 1}[allowed]; seen != want || report.Skipped.NotUDP != uint64(1-want) || report.Datagrams != uint64(1+want) {
			t.Errorf("allowed %v: %d seen, %s", allowed, seen, report)
		}
	}
}

func TestOptionsOfWhere(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{TTL: 256}, "TTL 256"},
		{Options{DSCP: 64}, "DSCP 64"},
		{Options{To: netip.MustParseAddrPort("10.0.0.1:0")}, "no port"},
		{Options{KeepTTL: true}, "with Raw only"},
		{Options{RawNotUDP: true}, "with Raw only"},
		{Options{Raw: true, Loopback: true}, "not looped back"},
		{Options{Raw: true, To: netip.MustParseAddrPort("10.0.0.1:1")}, "no other destination"},
		{Options{Raw: true, Map: mappings(t, "239.1.1.1=10.0.0.1")}, "same IP version"},
		{Options{Raw: true, Map: mappings(t, "239.1.1.1=ff15::1")}, "same IP version"},
		{Options{Raw: true, Map: mappings(t, "*=239.1.1.1:1")}, "same IP version"},
		{Options{Map: mappings(t, "239.1.1.1=239.1.1.2%nosuch0")}, "nosuch0"},
	} {
		c.o.Interface = "lo"
		if r, err := New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.want, err)
			if err == nil {
				r.Close()
			}
		}
	}
}

// While a recording is being made, its own groups are refused unless allowed.
func TestGuardAgainstFeedback(t *testing.T) {
	src, group := netip.MustParseAddrPort("10.0.0.1:4000"), netip.MustParseAddrPort("239.1.1.1:5000")
	streams := []Stream{{Src: src, Dst: group}}
	for _, c := range []struct {
		name string
		o    Options
		want bool
	}{
		{"recorded", Options{Recorded: []string{"239.1.1.1:5000"}}, false},
		{"another port", Options{Recorded: []string{"239.1.1.1:5001"}}, true},
		{"mapped away", Options{Recorded: []string{"239.1.1.1:5000"}, Map: mappings(t, ":5000=:5001")}, true},
		{"mapped there", Options{Recorded: []string{"239.1.1.2:5000"}, Map: mappings(t, "239.1.1.1=239.1.1.2")}, false},
		{"allowed", Options{Recorded: []string{"239.1.1.1:5000"}, Allow: []string{"239.1.1.1"}}, true},
		{"sent to by --to", Options{Recorded: []string{"10.0.0.9:7"}, To: netip.MustParseAddrPort("10.0.0.9:7")}, false},
	} {
		var refused *GuardError
		if err := Check(streams, c.o); (err == nil) != c.want || err != nil && (!errors.As(err, &refused) || !strings.Contains(err.Error(), "is being recorded")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Rates of a survey are those of the replay: at its speed, by its mappings.
func TestLook(t *testing.T) {
	var batch []format.Datagram
	for i := range 101 {
		batch = append(batch, dgram(int64(i)*10_000_000, "10.1.1.1:40001", "239.8.1.1:5000", pattern(100, i)))
		if i == 50 {
			for range 19 {
				batch = append(batch, dgram(int64(i)*10_000_000, "10.1.1.1:40001", "239.8.1.2:5000", pattern(1000, i)))
			}
		}
	}
	batch = append(batch, dgram(1_000_000_000, "10.1.1.1:40001", "224.0.0.5:5000", "x"), dgram(1_000_000_000, "10.1.1.1:40001", "239.7.1.1:5000", "x"))
	damage := &format.CorruptError{Reason: "a hole"}
	o := Options{Pacing: Pacing{Speed: 0.5}, Map: mappings(t, "239.8.1.1=239.9.1.1"), Only: []string{"239.8.0.0/16", "224.0.0.5"}}
	s, err := Look(&source{steps: []any{batch, damage}}, o)
	must(t, err)
	if s.Duration != 2*time.Second || s.Damaged != 1 || s.Refused != 1 || s.Others != 0 || len(s.Streams) != 4 {
		t.Fatalf("%+v", s)
	}
	for i, want := range []struct {
		to            string
		datagrams     uint64
		average, peak Rate
	}{
		{"224.0.0.5:5000", 1, Rate{0.5, 4}, Rate{10, 80}},
		{"239.7.1.1:5000", 1, Rate{}, Rate{}}, // not selected
		{"239.8.1.2:5000", 19, Rate{9.5, 76_000}, Rate{190, 1_520_000}},
		{"239.9.1.1:5000", 101, Rate{50.5, 40_400}, Rate{50.5, 40_400}},
	} {
		if got := s.Streams[i]; got.To.String() != want.to || got.Datagrams != want.datagrams || got.Average != want.average || got.Peak != want.peak {
			t.Errorf("stream %d: %+v, want %+v", i, got, want)
		}
	}
	o.Pacing = Pacing{Max: true}
	if s, err = Look(&source{steps: []any{batch}}, o); err != nil || s.Streams[3].Average != (Rate{}) || s.Streams[3].Datagrams != 101 {
		t.Errorf("at full speed: %v, %+v", err, s)
	}
	if _, err = Look(&source{steps: []any{batch, io.ErrUnexpectedEOF}}, o); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source that fails: %v", err)
	}
}

// Without the privilege the error is EPERM, which cmd explains.
func TestPrivilegesMissing(t *testing.T) {
	netnstest.Require(t)
	// Capabilities are the thread's; it is not given back.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
			return
		}
		for _, o := range []Options{{Interface: "lo", KeepSource: true}, {Interface: "lo", Raw: true}} {
			r, err := New(o)
			if !errors.Is(err, unix.EPERM) {
				t.Errorf("%+v: %v", o, err)
			}
			if err == nil {
				r.Close()
			}
		}
	}()
	<-done
}
