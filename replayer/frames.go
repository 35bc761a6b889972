package replayer

import (
	"encoding/binary"
	"net/netip"

	"castdeck/format"
	"castdeck/internal/sock"
)

// frames is how recorded frames are changed before they are sent. It belongs to the
// feeder.
type frames struct {
	keepMAC, keepTTL bool
	notUDP           bool // what is not UDP is sent too
	// fragments remembers the ports of datagrams in fragments: all but the first have
	// none. A datagram forgets the one whose place it takes.
	fragments [256]fragmented
}

// fragmented is a datagram of which a first fragment was seen.
type fragmented struct {
	src, dst netip.AddrPort
	id       uint32
}

// frameSockaddr is the destination of a frame: none but the frame's own.
var frameSockaddr sock.Sockaddr

// newFrames is nil where payloads are sent.
func newFrames(o *Options) *frames {
	if !o.Raw {
		return nil
	}
	return &frames{keepMAC: o.KeepSource, keepTTL: o.KeepTTL, notUDP: o.RawNotUDP && len(o.Only) == 0}
}

// makeFrames gives the slot's datagrams that were recorded without a frame one.
func (s *slot) makeFrames() {
	lacks := func(d *format.Datagram) bool {
		return d.Frame == nil && d.Flags&(format.FlagNotUDP|format.FlagTruncated) == 0 && d.Dst.IsValid() &&
			d.Src.Addr().BitLen() == d.Dst.Addr().BitLen() && len(d.Payload) <= longestPayload(d.Dst.Addr())
	}
	need := 0
	for i := range s.batch.Datagrams {
		if d := &s.batch.Datagrams[i]; lacks(d) {
			need += format.MadeHeaderSize(d.Dst.Addr()) + len(d.Payload)
		}
	}
	if s.made = s.made[:0]; cap(s.made) < need {
		s.made = make([]byte, 0, need+need/2) // messages point into it, so it must not move
	}
	for i := range s.batch.Datagrams {
		d := &s.batch.Datagrams[i]
		if !lacks(d) {
			continue
		}
		start := len(s.made)
		var wire int
		s.made, wire = format.AppendMadeFrame(s.made, d)
		d.Frame, d.FrameLength = s.made[start:len(s.made):len(s.made)], uint32(wire)
	}
}

func longestPayload(dst netip.Addr) int {
	if dst.Is4() {
		return format.MaxPayloadIPv4
	}
	return format.MaxPayload
}

// prepareFrame is prepareOne for frames. It changes the frame where it stands: the
// batch is the feeder's.
func (f *feeder) prepareFrame(d *format.Datagram) (*route, []byte, error) {
	switch {
	case d.Flags&format.FlagTruncated != 0 || uint64(len(d.Frame)) < uint64(d.FrameLength):
		f.skipped.Truncated++
		return nil, nil, nil
	case len(d.Frame) < ethernetHeader:
		f.skipped.NotUDP++
		return nil, nil, nil
	}
	h, ok := readHeaders(d.Frame)
	known := ok
	switch {
	case !ok:
	case d.Flags&format.FlagNotUDP != 0:
		// Of UDP only fragments are told so.
		if ok = h.fragment; ok {
			known = f.frames.portsOf(&h)
		}
	default:
		// The guards judge what is in the frame, outermost, and nothing else.
		ok = h.src == d.Src && h.dst == d.Dst
	}
	if !ok {
		return f.prepareOther(d)
	}
	r, err := f.routeOf(d.Input, h.src, h.dst)
	if err != nil && !known {
		// Without its ports a fragment can be refused that was allowed with them.
		f.skipped.NotUDP++
		return nil, nil, nil
	}
	if r == nil || err != nil {
		return nil, nil, err
	}
	// Before the checksums.
	at, end := h.payload(d.Frame)
	f.treat(r, d.Time, d.Frame, at, end)
	w := &f.policy.ways[r.way]
	f.frames.readdress(d.Frame, r.destination.Addr(), w)
	h.change(d.Frame, r.destination, w, f.frames.keepTTL)
	return r, d.Frame, nil
}

// prepareOther sends what is not UDP as it was recorded, where that is wanted.
func (f *feeder) prepareOther(d *format.Datagram) (*route, []byte, error) {
	if !f.frames.notUDP {
		f.skipped.NotUDP++
		return nil, nil, nil
	}
	f.frames.readdress(d.Frame, netip.Addr{}, &f.policy.ways[0])
	f.otherRoute.counts, f.otherRoute.sockaddr = f.others(), &frameSockaddr
	return &f.otherRoute, d.Frame, nil
}

// readdress sets the MAC addresses of a frame to dst; an address that is neither a
// group nor broadcast, or none, keeps the recorded one.
func (f *frames) readdress(frame []byte, dst netip.Addr, w *way) {
	if dst.IsMulticast() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		mac := format.MulticastMAC(dst)
		copy(frame, mac[:])
	}
	if !f.keepMAC {
		var own [6]byte // zeros on lo
		copy(own[:], w.iface.HardwareAddr)
		copy(frame[6:], own[:])
	}
}

// portsOf gives a fragment that is not the first the ports of its datagram; false, and
// ports 0, where the first was not seen.
func (f *frames) portsOf(h *headers) bool {
	a, b := h.src.Addr().As16(), h.dst.Addr().As16()
	hash := h.id*0x9E3779B1 ^ (uint32(a[15])|uint32(a[14])<<8|uint32(b[15])<<16|uint32(b[14])<<24)*0x85EBCA6B
	e := &f.fragments[hash>>24]
	if h.udp > 0 {
		*e = fragmented{h.src, h.dst, h.id}
		return true
	}
	if e.id != h.id || e.src.Addr() != h.src.Addr() || e.dst.Addr() != h.dst.Addr() {
		return false
	}
	h.src, h.dst = e.src, e.dst
	return true
}

const (
	ethernetHeader = 14
	ipv4Header     = 20
	ipv6Header     = 40
	udpHeader      = 8
	protocolUDP    = 17
	// maxTags and maxExtensions bound the VLAN tags and IPv6 extension headers that are
	// looked through.
	maxTags, maxExtensions = 8, 8
)

// headers are the outermost IP and UDP headers of a frame.
type headers struct {
	src, dst netip.AddrPort // ports 0 where there is no UDP header
	ip, udp  int            // where the headers begin; udp is 0 in all fragments but the first
	end      int            // of the IP packet
	fragment bool
	id       uint32 // of the datagram, where it is in fragments
}

// readHeaders finds the headers; false where the frame holds no UDP, not all of its IP
// packet, or an IPv6 routing header, behind which the destination is another.
func readHeaders(frame []byte) (h headers, ok bool) {
	at := ethernetHeader
	for range maxTags {
		if len(frame) < at {
			return h, false
		}
		switch binary.BigEndian.Uint16(frame[at-2:]) {
		case 0x8100, 0x88A8, 0x9100:
			at += 4
			continue
		case 0x0800:
			h.ip = at
			return h, h.readIPv4(frame)
		case 0x86DD:
			h.ip = at
			return h, h.readIPv6(frame)
		}
		return h, false
	}
	return h, false
}

func (h *headers) readIPv4(frame []byte) bool {
	p := frame[h.ip:]
	if len(p) < ipv4Header || p[0]>>4 != 4 || p[9] != protocolUDP {
		return false
	}
	length, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if length < ipv4Header || total < length || total > len(p) {
		return false
	}
	h.end = h.ip + total
	h.src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[12:])), 0)
	h.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[16:])), 0)
	where := binary.BigEndian.Uint16(p[6:]) & 0x3FFF // more fragments, and the offset
	h.fragment, h.id = where != 0, uint32(binary.BigEndian.Uint16(p[4:]))
	return where&0x1FFF != 0 || h.readUDP(frame, h.ip+length)
}

func (h *headers) readIPv6(frame []byte) bool {
	p := frame[h.ip:]
	if len(p) < ipv6Header || p[0]>>4 != 6 {
		return false
	}
	h.end = h.ip + ipv6Header + int(binary.BigEndian.Uint16(p[4:]))
	if h.end > len(frame) {
		return false
	}
	h.src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[8:])), 0)
	h.dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[24:])), 0)
	if h.src.Addr().Is4In6() || h.dst.Addr().Is4In6() {
		return false
	}
	next, at := p[6], h.ip+ipv6Header
	for range maxExtensions {
		if next == protocolUDP {
			return h.readUDP(frame, at)
		}
		if at+8 > h.end {
			return false
		}
		switch p := frame[at:]; next {
		case 0, 60: // hop-by-hop and destination options
			next, at = p[0], at+8+8*int(p[1])
		case 44: // fragment
			h.fragment, h.id = true, binary.BigEndian.Uint32(p[4:])
			if binary.BigEndian.Uint16(p[2:])&^7 != 0 {
				return p[0] == protocolUDP
			}
			next, at = p[0], at+8
		default:
			return false
		}
	}
	return false
}

func (h *headers) readUDP(frame []byte, at int) bool {
	if at+udpHeader > h.end {
		return false
	}
	h.udp = at
	h.src = netip.AddrPortFrom(h.src.Addr(), binary.BigEndian.Uint16(frame[at:]))
	h.dst = netip.AddrPortFrom(h.dst.Addr(), binary.BigEndian.Uint16(frame[at+2:]))
	return true
}

// payload is where the UDP payload stands; nowhere in a fragment, and where the headers
// disagree.
func (h *headers) payload(frame []byte) (at, end int) {
	if h.udp == 0 || h.fragment {
		return 0, 0
	}
	end = h.udp + int(binary.BigEndian.Uint16(frame[h.udp+4:]))
	if at = h.udp + udpHeader; end < at || end > h.end {
		return 0, 0
	}
	return at, end
}

// change makes the frame go to a destination of the same IP version, and mends its
// checksums.
func (h *headers) change(frame []byte, to netip.AddrPort, w *way, keepTTL bool) {
	var before uint64 // what is changed under the checksum of UDP
	p := frame[h.ip:]
	if to.Addr().Is4() {
		before = format.Sum(0, p[16:20])
		a := to.Addr().As4()
		copy(p[16:], a[:])
		if !keepTTL {
			p[8] = byte(w.TTL)
		}
		if w.DSCP != 0 {
			p[1] = p[1]&3 | byte(w.DSCP)<<2
		}
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^format.Fold(format.Sum(0, p[:int(p[0]&15)*4])))
	} else {
		before = format.Sum(0, p[24:40])
		a := to.Addr().As16()
		copy(p[24:], a[:])
		if !keepTTL {
			p[7] = byte(w.TTL)
		}
		if w.DSCP != 0 {
			binary.BigEndian.PutUint16(p, binary.BigEndian.Uint16(p)&^0x0FC0|uint16(w.DSCP)<<6)
		}
	}
	if h.udp == 0 {
		return
	}
	udp := frame[h.udp:h.end]
	before += uint64(binary.BigEndian.Uint16(udp[2:]))
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	sum := binary.BigEndian.Uint16(udp[6:])
	switch length := int(binary.BigEndian.Uint16(udp[4:])); {
	case sum == 0 && to.Addr().Is4():
		return // none
	case !h.fragment && length >= udpHeader && length <= len(udp):
		// Anew: the host that captured its own datagrams may have left it to its card.
		acc := uint64(length) + protocolUDP
		if to.Addr().Is4() {
			acc = format.Sum(acc, p[12:20])
		} else {
			acc = format.Sum(acc, p[8:40])
		}
		udp[6], udp[7] = 0, 0
		sum = ^format.Fold(format.Sum(acc, udp[:length]))
	default:
		// The rest is elsewhere: by what has changed, RFC 1624.
		after := uint64(to.Port())
		if to.Addr().Is4() {
			after = format.Sum(after, p[16:20])
		} else {
			after = format.Sum(after, p[24:40])
		}
		sum = ^format.Fold(uint64(^sum) + uint64(^format.Fold(before)) + after)
	}
	if sum == 0 {
		sum = 0xFFFF // 0 would say that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
}
