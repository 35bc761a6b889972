package replayer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"castdeck/format"
	"castdeck/internal/sock"
)

var testMAC = [6]byte{0x02, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE}

// frameFeeder prepares frames for an interface that does not exist.
func frameFeeder(t testing.TB, o Options, mappings ...string) *feeder {
	t.Helper()
	o.Raw = true
	for _, s := range mappings {
		m, err := ParseMapping(s)
		if err != nil {
			t.Fatal(err)
		}
		o.Map = append(o.Map, m)
	}
	p, err := newPolicy(&o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.ways {
		p.ways[i].iface = &net.Interface{HardwareAddr: testMAC[:]}
	}
	f := &feeder{policy: p, frames: newFrames(&o), senders: make([]*sock.Sender, len(p.ways))}
	f.prepare()
	return f
}

// testFrame is what frameOf makes a frame of.
type testFrame struct {
	src, dst string
	tags     int    // VLAN tags
	options  int    // bytes of IPv4 options, or of a hop-by-hop header (a multiple of 8)
	payload  string // of IP where more or offset are set
	more     bool
	offset   int // of a fragment, bytes
	noSum    bool
	padding  string
}

// frameOf makes a frame by the book, with the recorded MAC addresses 1 and 2, TTL 9 and
// class 0x21.
func frameOf(c testFrame) []byte {
	src, dst := netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
	b := []byte{1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2}
	for range c.tags {
		b = append(b, 0x81, 0x00, 0x20, 0x07)
	}
	segment := []byte(c.payload)
	if c.offset == 0 {
		udp := binary.BigEndian.AppendUint16(nil, src.Port())
		udp = binary.BigEndian.AppendUint16(udp, dst.Port())
		udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(c.payload)))
		segment = append(append(udp, 0, 0), c.payload...)
		if !c.noSum && !c.more {
			binary.BigEndian.PutUint16(segment[6:], udpSum(src.Addr(), dst.Addr(), segment))
		}
	}
	fragment := c.more || c.offset > 0
	if src.Addr().Is4() {
		b = append(b, 0x08, 0x00)
		ip := make([]byte, 20+c.options)
		ip[0], ip[1], ip[8], ip[9] = byte(0x40|len(ip)/4), 0x21, 9, 17
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(segment)))
		if fragment {
			ip[5] = 77
			binary.BigEndian.PutUint16(ip[6:], uint16(c.offset/8))
			if c.more {
				ip[6] |= 0x20
			}
		}
		s, d := src.Addr().As4(), dst.Addr().As4()
		copy(ip[12:], s[:])
		copy(ip[16:], d[:])
		for i := range c.options {
			ip[20+i] = 1 // no operation
		}
		binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip))
		b = append(b, ip...)
	} else {
		b = append(b, 0x86, 0xDD)
		extensions := []byte{}
		next := byte(17)
		if fragment {
			extensions = append(extensions, next, 0, 0, 0, 0, 0, 0, 77)
			binary.BigEndian.PutUint16(extensions[2:], uint16(c.offset))
			if c.more {
				extensions[3] |= 1
			}
			next = 44
		}
		if c.options > 0 {
			hop := make([]byte, c.options)
			hop[0], hop[1], hop[2], hop[3] = next, byte(c.options/8-1), 1, byte(c.options-4)
			extensions, next = append(hop, extensions...), 0
		}
		ip := make([]byte, 40)
		ip[0], ip[1], ip[6], ip[7] = 0x62, 0x10, next, 9
		binary.BigEndian.PutUint16(ip[4:], uint16(len(extensions)+len(segment)))
		s, d := src.Addr().As16(), dst.Addr().As16()
		copy(ip[8:], s[:])
		copy(ip[24:], d[:])
		b = append(append(b, ip...), extensions...)
	}
	return append(append(b, segment...), c.padding...)
}

// onesSum is the sum of RFC 1071, byte by byte.
func onesSum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, p := range parts {
		for i, v := range p {
			if i%2 == 0 {
				sum += uint32(v) << 8
			} else {
				sum += uint32(v)
			}
			sum = sum&0xFFFF + sum>>16
		}
	}
	return uint16(sum)
}

func udpSum(src, dst netip.Addr, udp []byte) uint16 {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = append(pseudo, 0, 17, byte(len(udp)>>8), byte(len(udp)))
	if sum := ^onesSum(pseudo, udp); sum != 0 {
		return sum
	}
	return 0xFFFF
}

// recorded is a datagram as a reader gives it.
func recorded(c testFrame) format.Datagram {
	frame := frameOf(c)
	d := format.Datagram{Frame: frame, FrameLength: uint32(len(frame)), Flags: format.FlagNotUDP}
	if !c.more && c.offset == 0 {
		d.Flags, d.Src, d.Dst = 0, netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
		d.Length = uint32(len(c.payload))
	}
	return d
}

// A frame that goes elsewhere is the one that a sender there would have made.
func TestFramesAreMended(t *testing.T) {
	mappings := []string{"239.1.1.0-239.1.1.255:5000=239.200.1.0:6000,ttl=3,dscp=46", "239.1.9.9=239.2.9.9", "ff15::/32=ff18:7::/32", ":7=:8"}
	for _, c := range []struct {
		testFrame
		to        string
		ttl, dscp int // 0: TTL 1, the recorded class
	}{
		{testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: "payload"}, "239.200.1.5:6000", 3, 46},
		{testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: ""}, "239.200.1.5:6000", 3, 46},
		{testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: pattern(1471, 3), tags: 2, options: 8, padding: "padding"}, "239.200.1.5:6000", 3, 46},
		{testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: "payload", noSum: true}, "239.200.1.5:6000", 3, 46},
		{testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5001", payload: "payload"}, "239.1.1.5:5001", 0, 0},
		{testFrame{src: "[fd00::1]:40000", dst: "[ff15::5]:5000", payload: "payload"}, "[ff18:7::5]:5000", 0, 0},
		{testFrame{src: "[fd00::1]:40000", dst: "[ff15::5]:5000", payload: pattern(99, 1), tags: 1, options: 16}, "[ff18:7::5]:5000", 0, 0},
		{testFrame{src: "[fd00::1]:40000", dst: "[ff1e::5]:7", payload: ""}, "[ff1e::5]:8", 0, 0},
	} {
		f := frameFeeder(t, Options{}, mappings...)
		d := recorded(c.testFrame)
		want := frameOf(func() testFrame { w := c.testFrame; w.dst = c.to; return w }())
		r, got, err := f.prepareOne(&d)
		if err != nil || r == nil {
			t.Errorf("%+v: %v, route %v", c, err, r)
			continue
		}
		to := netip.MustParseAddrPort(c.to)
		mac := format.MulticastMAC(to.Addr())
		copy(want, mac[:])
		copy(want[6:], testMAC[:])
		setWay(want[14+4*c.tags:], max(c.ttl, 1), c.dscp)
		if !bytes.Equal(got, want) {
			t.Errorf("%.60s to %s:\n got %x\nwant %x", c.dst, c.to, got, want)
		}
		if r.destination != to || &got[0] != &d.Frame[0] || len(got) != len(d.Frame) {
			t.Errorf("%s: goes to %s in %d bytes", c.dst, r.destination, len(got))
		}
	}
}

// setWay sets TTL and class in an IP header, by the book.
func setWay(ip []byte, ttl, dscp int) {
	if ip[0]>>4 == 6 {
		ip[7] = byte(ttl)
		return // no case changes its class
	}
	ip[8] = byte(ttl)
	if dscp > 0 {
		ip[1] = byte(dscp<<2) | 1
	}
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip[:ip[0]&15*4]))
}

// What is kept: MAC address and TTL where asked; a wrong checksum of UDP is made right,
// because a host that captures what it sends records it before the card has made it.
func TestFramesKeep(t *testing.T) {
	d := recorded(testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: "payload"})
	d.Frame[14+20+6] ^= 0x55
	want := frameOf(testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: "payload"})
	mac := format.MulticastMAC(d.Dst.Addr())
	copy(want, mac[:])
	f := frameFeeder(t, Options{KeepSource: true, KeepTTL: true})
	if _, got, err := f.prepareOne(&d); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v\n got %x\nwant %x", err, got, want)
	}
	// IPv6: class 46.
	d = recorded(testFrame{src: "[fd00::1]:40000", dst: "[ff15::5]:5000"})
	f = frameFeeder(t, Options{DSCP: 46, TTL: 7})
	if _, got, err := f.prepareOne(&d); err != nil || got[14] != 0x6B || got[15] != 0x90 || got[14+7] != 7 {
		t.Errorf("%v: %x, want class 0xb9 (the recorded ECN) and hop limit 7", err, got[14:22])
	}
}

// Fragments go where their datagram goes, and the checksum in the first holds for all.
func TestFramesInFragments(t *testing.T) {
	for _, v := range []struct{ src, dst, to, mapping string }{
		{"10.0.0.1:40000", "239.1.1.5:5000", "239.200.1.5:6000", "239.1.1.5:5000=239.200.1.5:6000"},
		{"[fd00::1]:40000", "[ff15::5]:5000", "[ff18::9]:6000", "[ff15::5]:5000=[ff18::9]:6000"},
	} {
		src, dst, to := netip.MustParseAddrPort(v.src), netip.MustParseAddrPort(v.dst), netip.MustParseAddrPort(v.to)
		content := pattern(40, 1)
		f := frameFeeder(t, Options{}, v.mapping)
		first := recorded(testFrame{src: v.src, dst: v.dst, payload: content[:16], more: true})
		rest := recorded(testFrame{src: v.src, dst: v.dst, payload: content[16:], offset: 24})
		udpAt := 14 + 20
		if src.Addr().Is6() {
			udpAt = 14 + 40 + 8
		}
		whole := slices.Concat(first.Frame[udpAt:], []byte(content[16:]))
		binary.BigEndian.PutUint16(first.Frame[udpAt+4:], uint16(len(whole)))
		binary.BigEndian.PutUint16(whole[4:], uint16(len(whole)))
		binary.BigEndian.PutUint16(first.Frame[udpAt+6:], udpSum(src.Addr(), dst.Addr(), whole))
		var joined []byte
		for _, d := range []*format.Datagram{&first, &rest} {
			r, got, err := f.prepareOne(d)
			if err != nil || r == nil || r.destination != to {
				t.Fatalf("%s: %v, %+v", v.dst, err, r)
			}
			if mac := format.MulticastMAC(to.Addr()); !bytes.Equal(got[:6], mac[:]) {
				t.Errorf("%s: goes to MAC address %x", v.dst, got[:6])
			}
			joined = append(joined, got[udpAt:]...)
		}
		sum := binary.BigEndian.Uint16(joined[6:])
		joined[6], joined[7] = 0, 0
		if want := udpSum(src.Addr(), to.Addr(), joined); sum != want || binary.BigEndian.Uint16(joined[2:]) != to.Port() {
			t.Errorf("%s: checksum %#x, want %#x; port %d", v.dst, sum, want, binary.BigEndian.Uint16(joined[2:]))
		}
	}
	// One whose first was not seen: by its address alone.
	f := frameFeeder(t, Options{}, "239.1.1.5:5000=239.200.1.5:6000", "239.1.1.5=239.3.1.5")
	d := recorded(testFrame{src: "10.0.0.1:1", dst: "239.1.1.5:5000", payload: "alone", offset: 24})
	if r, got, err := f.prepareOne(&d); err != nil || r == nil || !bytes.Equal(got[14+16:][:4], []byte{239, 3, 1, 5}) {
		t.Errorf("a fragment alone: %v, %+v", err, r)
	}
}

// The guards judge the frame itself. What they cannot see through is not sent.
func TestFramesGuarded(t *testing.T) {
	ok := testFrame{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: "x"}
	igmp := frameOf(ok)
	igmp[14+9] = 2
	tunnel := recorded(testFrame{src: "10.0.0.1:40000", dst: "10.0.0.2:4789", payload: "the frame that the reader looked into"})
	tunnel.Src, tunnel.Dst = netip.MustParseAddrPort(ok.src), netip.MustParseAddrPort(ok.dst)
	routed := recorded(testFrame{src: "[fd00::1]:40000", dst: "[ff15::5]:5000", payload: "x", options: 8})
	routed.Frame[14+6] = 43 // routing instead of hop-by-hop
	short := recorded(ok)
	short.Frame = short.Frame[:len(short.Frame)-1]
	longer := recorded(ok)
	binary.BigEndian.PutUint16(longer.Frame[14+2:], uint16(len(longer.Frame)))
	empty := recorded(ok)
	empty.Frame, empty.FrameLength = []byte{}, 0
	for _, c := range []struct {
		name    string
		d       format.Datagram
		skipped Skipped
		allowed bool // RawNotUDP sends it
	}{
		{"IGMP", format.Datagram{Frame: igmp, FrameLength: uint32(len(igmp)), Flags: format.FlagNotUDP}, Skipped{NotUDP: 1}, true},
		{"a tunnel", tunnel, Skipped{NotUDP: 1}, true},
		{"an IPv6 routing header", routed, Skipped{NotUDP: 1}, true},
		{"cut short", short, Skipped{Truncated: 1}, false},
		{"a packet longer than its frame", longer, Skipped{NotUDP: 1}, true},
		{"no frame", empty, Skipped{NotUDP: 1}, false},
		{"a fragment for a host", recorded(testFrame{src: "10.0.0.1:1", dst: "10.0.0.2:1", payload: "x", offset: 8}), Skipped{NotUDP: 1}, false},
	} {
		before := slices.Clone(c.d.Frame)
		f := frameFeeder(t, Options{})
		if r, _, err := f.prepareOne(&c.d); r != nil || err != nil || f.skipped != c.skipped {
			t.Errorf("%s: route %v, %v, %+v", c.name, r, err, f.skipped)
		}
		f = frameFeeder(t, Options{RawNotUDP: true})
		r, got, err := f.prepareOne(&c.d)
		if err != nil || (r != nil) != c.allowed {
			t.Errorf("%s, allowed: route %v, %v", c.name, r, err)
		}
		if copy(before[min(6, len(before)):], testMAC[:]); c.allowed && !bytes.Equal(got, before) {
			t.Errorf("%s is changed: %x, want %x", c.name, got, before)
		}
	}
	for _, dst := range []string{"10.0.0.2:5000", "224.0.0.5:5000", "255.255.255.255:5000"} {
		d := recorded(testFrame{src: ok.src, dst: dst, payload: "x"})
		if _, _, err := frameFeeder(t, Options{RawNotUDP: true}).prepareOne(&d); err == nil {
			t.Errorf("%s is not refused", dst)
		}
		if r, got, err := frameFeeder(t, Options{Allow: []string{dst}}).prepareOne(&d); err != nil || r == nil || dst[0] == '1' && got[0] != 1 || dst[0] == '2' && got[0] == 1 && dst[1] == '5' {
			t.Errorf("%s, allowed: %v, %x", dst, err, got)
		}
	}
	// --only leaves no room for what has no group.
	f := frameFeeder(t, Options{RawNotUDP: true, Only: []string{"239.0.0.0/8"}})
	d := format.Datagram{Frame: igmp, FrameLength: uint32(len(igmp)), Flags: format.FlagNotUDP}
	if r, _, _ := f.prepareOne(&d); r != nil {
		t.Error("IGMP is sent although groups were selected")
	}
}

// Frames that are made stay where they are while the batch grows.
func TestFramesMade(t *testing.T) {
	f := frameFeeder(t, Options{TTL: 4})
	s := &slot{messages: sock.NewMessages(0)}
	for i := range 100 {
		s.batch.Datagrams = append(s.batch.Datagrams, dgram(int64(i), "10.1.1.1:40001", fmt.Sprintf("239.8.1.%d:5000", i), pattern(i, i)))
	}
	cut := dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "cut")
	cut.Flags, cut.Length = format.FlagTruncated, 9
	mixed := dgram(0, "10.1.1.1:40001", "[ff15::1]:5000", "two versions")
	s.batch.Datagrams = append(s.batch.Datagrams, cut, mixed)
	must(t, f.fill(s))
	if len(s.entries) != 100 || f.skipped != (Skipped{Truncated: 1, NotUDP: 1}) {
		t.Fatalf("%d entries, %+v", len(s.entries), f.skipped)
	}
	for i := range 100 {
		d := dgram(int64(i), "10.1.1.1:40001", fmt.Sprintf("239.8.1.%d:5000", i), pattern(i, i))
		d.TTL = 4
		want, _ := format.AppendMadeFrame(nil, &d)
		copy(want[6:], testMAC[:])
		if got := s.batch.Datagrams[i].Frame; !bytes.Equal(got, want) {
			t.Fatalf("datagram %d: %x, want %x", i, got, want)
		}
	}
	if n := testing.AllocsPerRun(20, func() {
		for i := range s.batch.Datagrams {
			s.batch.Datagrams[i].Frame = nil
		}
		must(t, f.fill(s))
	}); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(s.batch.Datagrams))
	}
}

// FuzzFrames: any bytes, and whatever a reader says about them, make no more than
// header changes in a frame to where the guard lets it.
func FuzzFrames(f *testing.F) {
	for _, c := range []testFrame{
		{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: "payload", tags: 2, options: 8},
		{src: "10.0.0.1:40000", dst: "239.1.1.5:5000", payload: "payload", offset: 8},
		{src: "10.0.0.1:40000", dst: "10.1.1.5:5000", payload: "payload"},
		{src: "[fd00::1]:40000", dst: "[ff15::5]:5000", payload: "payload", options: 16},
		{src: "[fd00::1]:40000", dst: "[ff15::5]:5000", payload: "payload", more: true},
	} {
		d := recorded(c)
		f.Add(d.Frame, uint16(d.Flags))
	}
	f.Fuzz(func(t *testing.T, frame []byte, flags uint16) {
		feed := frameFeeder(t, Options{}, "239.1.0.0/16=239.2.0.0/16", ":5000=:6000")
		frame = slices.Clone(frame)
		d := format.Datagram{Frame: frame, FrameLength: uint32(len(frame)), Flags: format.Flags(flags)}
		if h, ok := readHeaders(frame); ok && d.Flags&format.FlagNotUDP == 0 {
			d.Src, d.Dst = h.src, h.dst
		}
		r, got, err := feed.prepareOne(&d)
		if err != nil || r == nil {
			return
		}
		h, ok := readHeaders(got)
		switch {
		case len(got) != len(frame) || !ok:
			t.Fatalf("%x was made of %x", got, frame)
		case h.dst.Addr() != r.destination.Addr() || !h.dst.Addr().IsMulticast():
			t.Fatalf("goes to %s, %s was decided", h.dst, r.destination)
		}
		if mac := format.MulticastMAC(h.dst.Addr()); !bytes.Equal(got[:6], mac[:]) {
			t.Fatalf("goes to MAC address %x, want %x", got[:6], mac)
		}
	})
}
