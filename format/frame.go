package format

import (
	"encoding/binary"
	"net/netip"
)

// This file makes and takes apart the Ethernet, IP and UDP headers of a datagram
// that was received on a socket and so has no captured frame. The layout:
//
//	Ethernet (14)  destination by RFC 1112 / RFC 2464 from the group, source
//	               02:00 and the IPv4 source address (or the last 4 bytes of the
//	               IPv6 one), type 0800 or 86DD
//	IPv4 (20)      no options, identification 0, don't fragment, the TTL that was
//	               received, a correct header checksum
//	IPv6 (40)      no extension headers, the hop limit that was received
//	UDP (8)        checksum 0 (none) on IPv4; computed on IPv6, where it is
//	               required, and 0 only for a truncated payload
const (
	ethernetHeader = 14
	ipv4Header     = 20
	ipv6Header     = 40
	udpHeader      = 8

	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86DD
	protocolUDP   = 17

	// MaxPayload is the longest UDP payload that IP carries: 65,535 less the UDP
	// header on IPv6; on IPv4 the IP header counts too and 65,507 is the limit.
	MaxPayload     = 65535 - udpHeader
	MaxPayloadIPv4 = MaxPayload - ipv4Header
)

// FrameDecoder finds the UDP datagram in a captured frame: it reads d.Frame and
// d.FrameLength and sets Src, Dst, TTL, Length, Payload (pointing into Frame) and
// the flags, or FlagNotUDP. format/pcapfile has one for every link type.
type FrameDecoder interface {
	Decode(linkType uint16, d *Datagram)
}

// MadeHeaderSize is the number of bytes that AppendMadeFrame puts before the
// payload of a datagram to dst.
func MadeHeaderSize(dst netip.Addr) int {
	if dst.Is4() {
		return ethernetHeader + ipv4Header + udpHeader
	}
	return ethernetHeader + ipv6Header + udpHeader
}

// MulticastMAC is the Ethernet address that a group is sent to (RFC 1112 section
// 6.4, RFC 2464 section 7); for a unicast address 02:00 and its last four bytes,
// for the IPv4 broadcast address ff:ff:ff:ff:ff:ff.
func MulticastMAC(a netip.Addr) (mac [6]byte) {
	if a.Is4() {
		b := a.As4()
		switch {
		case a.IsMulticast():
			return [6]byte{0x01, 0x00, 0x5E, b[1] & 0x7F, b[2], b[3]}
		case b == [4]byte{255, 255, 255, 255}:
			return [6]byte{255, 255, 255, 255, 255, 255}
		}
		return [6]byte{0x02, 0, b[0], b[1], b[2], b[3]}
	}
	b := a.As16()
	if a.IsMulticast() {
		return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
	}
	return [6]byte{0x02, 0, b[12], b[13], b[14], b[15]}
}

// AppendMadeFrame appends the headers described at the top of this file and the
// payload. Src and Dst must be valid and of one family. It allocates nothing
// beyond the growth of dst. wire is the frame's length on the wire: more than was
// appended where the payload is truncated.
func AppendMadeFrame(dst []byte, d *Datagram) (frame []byte, wire int) {
	length := max(int(d.Length), len(d.Payload))
	if d.Dst.Addr().Is4() {
		return appendMade4(dst, d, length), ethernetHeader + ipv4Header + udpHeader + length
	}
	return appendMade6(dst, d, length), ethernetHeader + ipv6Header + udpHeader + length
}

func appendMade4(dst []byte, d *Datagram, length int) []byte {
	s, g := d.Src.Addr().As4(), d.Dst.Addr().As4()
	mac := MulticastMAC(d.Dst.Addr())
	var h [ethernetHeader + ipv4Header + udpHeader]byte
	copy(h[0:], mac[:])
	h[6] = 0x02
	copy(h[8:], s[:])
	binary.BigEndian.PutUint16(h[12:], etherTypeIPv4)
	ip := h[ethernetHeader:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Header+udpHeader+length))
	ip[6] = 0x40 // don't fragment
	ip[8] = d.TTL
	ip[9] = protocolUDP
	copy(ip[12:], s[:])
	copy(ip[16:], g[:])
	binary.BigEndian.PutUint16(ip[10:], ^Fold(Sum(0, ip[:ipv4Header])))
	udp := ip[ipv4Header:]
	binary.BigEndian.PutUint16(udp[0:], d.Src.Port())
	binary.BigEndian.PutUint16(udp[2:], d.Dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+length))
	dst = append(dst, h[:]...)
	return append(dst, d.Payload...)
}

func appendMade6(dst []byte, d *Datagram, length int) []byte {
	s, g := d.Src.Addr().As16(), d.Dst.Addr().As16()
	mac := MulticastMAC(d.Dst.Addr())
	var h [ethernetHeader + ipv6Header + udpHeader]byte
	copy(h[0:], mac[:])
	h[6] = 0x02
	copy(h[8:], s[12:])
	binary.BigEndian.PutUint16(h[12:], etherTypeIPv6)
	ip := h[ethernetHeader:]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(udpHeader+length))
	ip[6] = protocolUDP
	ip[7] = d.TTL
	copy(ip[8:], s[:])
	copy(ip[24:], g[:])
	udp := ip[ipv6Header:]
	binary.BigEndian.PutUint16(udp[0:], d.Src.Port())
	binary.BigEndian.PutUint16(udp[2:], d.Dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+length))
	if length == len(d.Payload) {
		// Pseudo header: both addresses, the UDP length, the protocol (RFC 8200
		// section 8.1).
		acc := Sum(uint64(udpHeader+length)+protocolUDP, ip[8:ipv6Header])
		c := ^Fold(Sum(Sum(acc, udp[:udpHeader]), d.Payload))
		if c == 0 {
			c = 0xFFFF // 0 would say that there is no checksum
		}
		binary.BigEndian.PutUint16(udp[6:], c)
	}
	dst = append(dst, h[:]...)
	return append(dst, d.Payload...)
}

// Sum adds b to an Internet checksum (RFC 1071) in progress. b starts at an even
// offset of what is summed.
func Sum(acc uint64, b []byte) uint64 {
	for len(b) >= 4 {
		acc += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		acc += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		acc += uint64(b[0]) << 8
	}
	return acc
}

// Fold makes 16 bits of a sum; a checksum is their complement.
func Fold(acc uint64) uint16 {
	for acc > 0xFFFF {
		acc = acc&0xFFFF + acc>>16
	}
	return uint16(acc)
}

// DecodePlain is the fast path of decoding: an untagged Ethernet frame with an
// IPv4 header without options or an IPv6 header without extensions, not a
// fragment, with a UDP header whose length agrees with IP's. That covers every
// frame AppendMadeFrame makes and most captured ones. It reports false, and
// leaves d as it was, for any other frame; a FrameDecoder then decides. d.Frame
// and d.FrameLength must be set.
//
// The payload's length is the UDP header's, never the captured length: Ethernet
// pads short frames.
func DecodePlain(d *Datagram) bool {
	f := d.Frame
	if len(f) < ethernetHeader+ipv4Header+udpHeader {
		return false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherTypeIPv4:
		ip := f[ethernetHeader:]
		total := int(binary.BigEndian.Uint16(ip[2:]))
		const moreOrOffset = 0x3FFF
		if ip[0] != 0x45 || ip[9] != protocolUDP || binary.BigEndian.Uint16(ip[6:])&moreOrOffset != 0 {
			return false
		}
		if !d.takeUDP(ethernetHeader+ipv4Header, total-ipv4Header) {
			return false
		}
		d.TTL = ip[8]
		d.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), d.Src.Port())
		d.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), d.Dst.Port())
		return true
	case etherTypeIPv6:
		ip := f[ethernetHeader:]
		if len(ip) < ipv6Header+udpHeader || ip[0]>>4 != 6 || ip[6] != protocolUDP {
			return false
		}
		if !d.takeUDP(ethernetHeader+ipv6Header, int(binary.BigEndian.Uint16(ip[4:]))) {
			return false
		}
		d.TTL = ip[7]
		d.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:24])), d.Src.Port())
		d.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:40])), d.Dst.Port())
		return true
	}
	return false
}

// takeUDP reads ports and payload from the UDP header at off in the frame, of which
// IP says that it has ipLength bytes with its payload. It reports false where the
// lengths disagree, or state more than was on the wire.
func (d *Datagram) takeUDP(off, ipLength int) bool {
	udp := d.Frame[off:]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < udpHeader || length != ipLength || off+length > max(int(d.FrameLength), len(d.Frame)) {
		return false
	}
	kept := min(length, len(udp))
	d.Src = netip.AddrPortFrom(netip.Addr{}, binary.BigEndian.Uint16(udp[0:]))
	d.Dst = netip.AddrPortFrom(netip.Addr{}, binary.BigEndian.Uint16(udp[2:]))
	d.Length = uint32(length - udpHeader)
	d.Payload = udp[udpHeader:kept:kept]
	d.Flags &^= FlagTruncated | FlagNotUDP
	if kept < length {
		d.Flags |= FlagTruncated
	}
	return true
}
