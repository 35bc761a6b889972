package pcapfile

import (
	"bytes"
	"encoding/binary"
	"testing"

	"castdeck/format"
)

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// be16 is a big-endian number.
func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// withOptions is an IPv4 packet with options put in (a multiple of 4 bytes).
func withOptions(p []byte, options ...byte) []byte {
	q := cat(p[:20], options, p[20:])
	q[0] = 0x40 | byte(5+len(options)/4)
	binary.BigEndian.PutUint16(q[2:], uint16(len(q)))
	return q
}

// withExtension is an IPv6 packet with an extension header put in front of what it
// carries. The header's first byte is overwritten.
func withExtension(p []byte, proto byte, header []byte) []byte {
	q := cat(p[:40], header, p[40:])
	q[40], q[6] = p[6], proto
	binary.BigEndian.PutUint16(q[4:], uint16(len(q)-40))
	return q
}

func TestDecodeLinkTypes(t *testing.T) {
	const payload = "the payload"
	p4, p6 := packet4(payload), packet6(payload)
	macs := frame4("")[:12]
	snap := []byte{0xAA, 0xAA, 3, 0, 0, 0}
	fcs := []byte{1, 2, 3, 4}
	sll := cat(be16(2), be16(1), be16(6), make([]byte, 8))
	sll2 := cat(make([]byte, 2), make([]byte, 4), be16(1), []byte{2, 6}, make([]byte, 8))
	wlanData := cat([]byte{0x08, 0x02}, make([]byte, 22))
	wlanQoS := cat([]byte{0x88, 0x01}, make([]byte, 22), []byte{0, 0})
	wlanWDS := cat([]byte{0x08, 0x03}, make([]byte, 28))
	wlanOrder := cat([]byte{0x88, 0x81}, make([]byte, 22), []byte{0, 0}, make([]byte, 4))
	radio := []byte{0, 0, 8, 0, 0, 0, 0, 0}
	// Time stamp and flags; flags say: padded. Then two bytes more.
	radioPadded := cat([]byte{0, 0, 20, 0, 3, 0, 0, 0}, make([]byte, 8), []byte{0x20, 0, 0, 0})
	// Two more bitmaps; flags behind them.
	radioMore := []byte{0, 0, 20, 0, 2, 0, 0, 0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0x20, 0, 0, 0}
	jumbo := frame(source4, group4, bytes.Repeat([]byte("j"), 65507))
	for _, c := range []struct {
		name string
		link uint16
		f    []byte
	}{
		{"Ethernet", linkEthernet, cat(macs, be16(0x0800), p4)},
		{"Ethernet, IPv6", linkEthernet, cat(macs, be16(0x86DD), p6)},
		{"Ethernet, padded", linkEthernet, cat(macs, be16(0x0800), p4, make([]byte, 20))},
		{"802.1Q", linkEthernet, cat(macs, be16(0x8100), be16(5), be16(0x0800), p4)},
		{"802.1ad", linkEthernet, cat(macs, be16(0x88A8), be16(5), be16(0x8100), be16(6), be16(0x86DD), p6)},
		{"three tags, one of old", linkEthernet, cat(macs, be16(0x9100), be16(5), be16(0x8100), be16(6), be16(0x8100), be16(6), be16(0x0800), p4)},
		{"SNAP", linkEthernet, cat(macs, be16(uint16(8+len(p4))), snap, be16(0x0800), p4)},
		{"SNAP in a tag", linkEthernet, cat(macs, be16(0x8100), be16(5), be16(uint16(8+len(p4))), snap, be16(0x0800), p4)},
		{"SLL", linkSLL, cat(sll, be16(0x0800), p4)},
		{"SLL with a long address", linkSLL, cat(be16(2), be16(32), be16(20), make([]byte, 8), be16(0x0800), p4)},
		{"SLL with a tag", linkSLL, cat(sll, be16(0x8100), be16(5), be16(0x86DD), p6)},
		{"SLL with 802.2", linkSLL, cat(sll, be16(4), snap, be16(0x0800), p4)},
		{"SLL2", linkSLL2, cat(be16(0x0800), sll2[2:], make([]byte, 2), p4)},
		{"SLL2, IPv6", linkSLL2, cat(be16(0x86DD), sll2[2:], make([]byte, 2), p6)},
		{"raw", linkRaw, p4}, {"raw, IPv6", linkRaw, p6}, {"raw 12", linkRawBSD, p4}, {"raw 14", linkRawOpen, p6},
		{"IPv4", linkIPv4, p4}, {"IPv6", linkIPv6, p6},
		{"null, little", linkNull, cat([]byte{2, 0, 0, 0}, p4)}, {"null, big", linkNull, cat([]byte{0, 0, 0, 2}, p4)},
		{"null, FreeBSD IPv6", linkNull, cat([]byte{28, 0, 0, 0}, p6)}, {"null, macOS IPv6", linkNull, cat([]byte{0, 0, 0, 30}, p6)},
		{"null, Windows IPv6", linkNull, cat([]byte{23, 0, 0, 0}, p6)}, {"null, NetBSD IPv6", linkNull, cat([]byte{24, 0, 0, 0}, p6)},
		{"loop", linkLoop, cat([]byte{0, 0, 0, 2}, p4)},
		{"PPP", linkPPP, cat([]byte{0xFF, 3, 0, 0x21}, p4)}, {"PPP, no address", linkPPP, cat([]byte{0, 0x57}, p6)},
		{"PPP, short protocol", linkPPP, cat([]byte{0x21}, p4)},
		{"PPP in HDLC", linkPPPHDLC, cat([]byte{0xFF, 3, 0, 0x21}, p4)}, {"Cisco in HDLC", linkPPPHDLC, cat([]byte{0x0F, 0, 8, 0}, p4)},
		{"Cisco HDLC", linkCHDLC, cat([]byte{0x8F, 0, 8, 0}, p4)},
		{"802.11", link80211, cat(wlanData, snap, be16(0x0800), p4, fcs)},
		{"802.11 QoS", link80211, cat(wlanQoS, snap, be16(0x0800), p4)},
		{"802.11 WDS", link80211, cat(wlanWDS, snap, be16(0x86DD), p6)},
		{"802.11 with HT control", link80211, cat(wlanOrder, snap, be16(0x0800), p4)},
		{"radiotap", linkRadiotap, cat(radio, wlanData, snap, be16(0x0800), p4, fcs)},
		{"radiotap, padded", linkRadiotap, cat(radioPadded, wlanQoS, []byte{0, 0}, snap, be16(0x0800), p4)},
		{"radiotap, more bitmaps, padded", linkRadiotap, cat(radioMore, wlanQoS, []byte{0, 0}, snap, be16(0x0800), p4)},
		{"PPI", linkPPI, cat([]byte{0, 0, 8, 0, 1, 0, 0, 0}, macs, be16(0x0800), p4)},
		{"PPI around 802.11", linkPPI, cat([]byte{0, 0, 12, 0, 105, 0, 0, 0, 9, 9, 9, 9}, wlanData, snap, be16(0x0800), p4)},
		{"router alert", linkRaw, withOptions(p4, 0x94, 4, 0, 0)},
		{"options that make no sense", linkRaw, withOptions(p4, 0x94, 2, 0x55, 40)},
		{"60 bytes of header", linkRaw, withOptions(p4, make([]byte, 40)...)},
		{"hop-by-hop", linkRaw, withExtension(p6, 0, []byte{0, 0, 5, 2, 0, 0, 1, 0})},
		{"four extensions", linkRaw, withExtension(withExtension(withExtension(withExtension(p6,
			60, make([]byte, 8)), 51, []byte{0, 4, 24: 0}[:24]), 43, []byte{0, 1, 16: 0}[:16]), 0, make([]byte, 8))},
		{"a fragment header on a whole packet", linkRaw, withExtension(p6, 44, make([]byte, 8))},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := format.Datagram{Frame: c.f, FrameLength: uint32(len(c.f)), Time: 5, Flags: format.FlagUserStamp}
			before := bytes.Clone(c.f)
			dec := NewDecoder()
			dec.Decode(c.link, &d)
			if !bytes.Equal(before, c.f) {
				t.Error("the frame was changed")
			}
			src, dst := source4, group4
			if d.Dst.Addr().Is6() {
				src, dst = source6, group6
			}
			if string(d.Payload) != payload || d.Length != uint32(len(payload)) || d.Src != src || d.Dst != dst || d.TTL != 7 ||
				d.Flags != format.FlagUserStamp || d.Time != 5 {
				t.Errorf("%+v, payload %q", d, d.Payload)
			}
			if n := testing.AllocsPerRun(10, func() { dec.Decode(c.link, &d) }); n != 0 && c.name != "options that make no sense" {
				t.Errorf("%v allocations", n)
			}
			// Every shorter packet, wholly captured, is something else, and one
			// that the capture cut has what is left of its payload.
			start := bytes.Index(c.f, []byte(payload))
			for n := range start + len(payload) {
				d = format.Datagram{Frame: c.f[:n], FrameLength: uint32(n)}
				dec.Decode(c.link, &d)
				if d.Flags != format.FlagNotUDP || d.Payload != nil || d.Dst.IsValid() {
					t.Fatalf("%d bytes of %d: %+v", n, len(c.f), d)
				}
				d = format.Datagram{Frame: c.f[:n], FrameLength: uint32(len(c.f))}
				dec.Decode(c.link, &d)
				want := format.FlagTruncated
				if n < start {
					want |= format.FlagNotUDP
				}
				if d.Flags != want || n >= start && (string(d.Payload) != payload[:n-start] || int(d.Length) != len(payload)) {
					t.Fatalf("%d bytes kept of %d: %+v", n, len(c.f), d)
				}
			}
		})
	}
	d := format.Datagram{Frame: jumbo, FrameLength: uint32(len(jumbo))}
	NewDecoder().Decode(linkEthernet, &d)
	if d.Length != 65507 || d.Flags != 0 {
		t.Errorf("largest datagram: length %d, flags %v", d.Length, d.Flags)
	}
}

func TestDecodeNotUDP(t *testing.T) {
	p4, p6 := packet4("0123456789"), packet6("0123456789")
	change := func(p []byte, at int, b ...byte) []byte {
		q := bytes.Clone(p)
		copy(q[at:], b)
		return q
	}
	macs := frame4("")[:12]
	snap := []byte{0xAA, 0xAA, 3, 0, 0, 0}
	wlan := func(control, flags byte) []byte {
		return cat([]byte{control, flags}, make([]byte, 22), snap, be16(0x0800), p4)
	}
	for _, c := range []struct {
		name string
		link uint16
		f    []byte
		frag bool
	}{
		{"ARP", linkEthernet, cat(macs, be16(0x0806), make([]byte, 28)), false},
		{"TCP", linkRaw, change(p4, 9, 6), false},
		{"IGMP", linkRaw, change(p4, 9, 2), false},
		{"GRE", linkRaw, change(p4, 9, 47), false},
		{"ICMPv6", linkRaw, change(p6, 6, 58), false},
		{"IPv6 without next header", linkRaw, change(p6, 6, 59), false},
		{"IPv5", linkRaw, change(p4, 0, 0x55), false},
		{"IPv6 said to be IPv4", linkIPv4, p6, false},
		{"header of 16 bytes", linkRaw, change(p4, 0, 0x44), false},
		{"total length below the header", linkRaw, change(p4, 2, 0, 19), false},
		{"total length beyond the packet", linkRaw, change(p4, 2, 0xFF, 0xFF), false},
		{"payload length beyond the packet", linkRaw, change(p6, 4, 0xFF, 0xFF), false},
		{"jumbogram", linkRaw, change(withExtension(p6, 0, []byte{0, 0, 0xC2, 4, 0, 1, 0, 0}), 4, 0, 0), false},
		{"UDP length 0", linkRaw, change(p4, 24, 0, 0), false},
		{"UDP length 7", linkRaw, change(p4, 24, 0, 7), false},
		{"UDP length beyond IP", linkRaw, change(p4, 24, 0, 19), false},
		{"UDP length beyond IPv6", linkRaw, change(p6, 44, 0, 19), false},
		{"first fragment", linkRaw, change(p4, 6, 0x20, 0), true},
		{"later fragment", linkRaw, change(p4, 6, 0, 1), true},
		{"fragment of IPv6", linkRaw, withExtension(p6, 44, []byte{0, 0, 0, 1, 0, 0, 0, 9}), true},
		{"extension that never ends", linkRaw, withExtension(p6, 60, []byte{0, 255, 0, 0, 0, 0, 0, 0}), false},
		{"LLC without SNAP", linkEthernet, cat(macs, be16(30), []byte{0x42, 0x42, 3}, make([]byte, 60)), false},
		{"SNAP of Cisco", linkEthernet, cat(macs, be16(60), []byte{0xAA, 0xAA, 3, 0, 0, 0x0C}, be16(0x0800), p4), false},
		{"SLL of netlink", linkSLL, make([]byte, 40), false},
		{"null of AppleTalk", linkNull, cat([]byte{16, 0, 0, 0}, p4), false},
		{"null of nothing", linkNull, cat([]byte{1, 2, 3, 4}, p4), false},
		{"PPP LCP", linkPPP, cat([]byte{0xFF, 3, 0xC0, 0x21}, p4), false},
		{"802.11 beacon", link80211, wlan(0x80, 0), false},
		{"802.11 encrypted", link80211, wlan(0x08, 0x40), false},
		{"802.11 without data", link80211, wlan(0x48, 0), false},
		{"802.11 fragment", link80211, wlan(0x08, 0x04), false},
		{"802.11 last fragment", link80211, change(wlan(0x08, 0), 22, 1), false},
		{"802.11 aggregate", link80211, cat([]byte{0x88, 0}, make([]byte, 22), []byte{0x80, 0}, snap, be16(0x0800), p4), false},
		{"radiotap that is all bitmaps", linkRadiotap, bytes.Repeat([]byte{0, 0, 8, 0x80}, 20), false},
		{"PPI in PPI", linkPPI, cat([]byte{0, 0, 8, 0, 192, 0, 0, 0}, p4), false},
		{"PPI of length 4", linkPPI, cat([]byte{0, 0, 4, 0, 1, 0, 0, 0}, p4), false},
		{"USB", 189, p4, false},
		{"unknown link type", LinkTypeUnknown, p4, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dec := NewDecoder()
			d := format.Datagram{Frame: c.f, FrameLength: uint32(len(c.f)), Src: source4, Dst: group4, TTL: 9, Length: 4, Payload: c.f[:1]}
			what := dec.decode(c.link, &d)
			if d.Flags != format.FlagNotUDP || d.Src.IsValid() || d.Dst.IsValid() || d.TTL != 0 || d.Length != 0 || d.Payload != nil {
				t.Errorf("%+v", d)
			}
			if (what == isFragment) != c.frag {
				t.Errorf("outcome %d", what)
			}
			if n := testing.AllocsPerRun(10, func() { dec.Decode(c.link, &d) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// TestUDPLengthBelowIP: the kernel takes such a datagram and cuts it to UDP's
// length, so do we.
func TestUDPLengthBelowIP(t *testing.T) {
	p := packet4("0123456789")
	binary.BigEndian.PutUint16(p[24:], 8+4)
	d := format.Datagram{Frame: p, FrameLength: uint32(len(p))}
	NewDecoder().Decode(linkRaw, &d)
	if string(d.Payload) != "0123" || d.Length != 4 || d.Flags != 0 {
		t.Errorf("%+v", d)
	}
}

// TestTotalLengthZero: what a sending host captures before its network card cuts
// the packet into segments.
func TestTotalLengthZero(t *testing.T) {
	for _, p := range [][]byte{packet4("0123456789"), packet6("0123456789")} {
		at := 2
		if p[0]>>4 == 6 {
			at = 4
		}
		p[at], p[at+1] = 0, 0
		d := format.Datagram{Frame: p, FrameLength: uint32(len(p))}
		NewDecoder().Decode(linkRaw, &d)
		if string(d.Payload) != "0123456789" || d.Flags != 0 {
			t.Errorf("%+v", d)
		}
	}
}
