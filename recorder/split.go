package recorder

import "encoding/binary"

// A sender may hand many datagrams of one size to the kernel at once (UDP_SEGMENT,
// udp(7)), and a network card may hand over many as one (GRO). A packet socket sees
// them as one packet, whose headers claim one long datagram. So it is cut into what
// was, or would have been, on the wire.

// joined is where the headers are in such a packet.
type joined struct {
	ip, udp, payload int // offsets in the frame
	ipv4             bool
}

// headers finds the IP and UDP headers behind at most two VLAN tags; false where the
// packet is not plain UDP.
func headers(f []byte) (j joined, ok bool) {
	at := etherType(f)
	if len(f) < at+2 {
		return j, false
	}
	j.ip = at + 2
	switch ip := f[j.ip:]; binary.BigEndian.Uint16(f[at:]) {
	case 0x0800:
		if len(ip) < 20 || ip[9] != 17 {
			return j, false
		}
		j.ipv4, j.udp = true, j.ip+4*int(ip[0]&0x0F)
	case 0x86DD:
		if len(ip) < 40 || ip[6] != 17 {
			return j, false
		}
		j.udp = j.ip + 40
	default:
		return j, false
	}
	j.payload = j.udp + 8
	return j, j.udp >= j.ip+20 && len(f) >= j.payload
}

// etherType is the offset of a frame's type behind at most two VLAN tags.
func etherType(f []byte) int {
	at := 12
	for range 2 {
		if len(f) >= at+4 {
			switch binary.BigEndian.Uint16(f[at:]) {
			case 0x8100, 0x88A8, 0x9100:
				at += 4
			}
		}
	}
	return at
}

// datagram appends the n-th frame with the payload from a to b: lengths, IPv4
// identification and checksums are its own.
func (j joined) datagram(dst, f []byte, n, a, b int) []byte {
	start := len(dst)
	dst = append(append(dst, f[:j.payload]...), f[j.payload+a:j.payload+b]...)
	g := dst[start:]
	ip, udp := g[j.ip:j.udp], g[j.udp:]
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	udp[6], udp[7] = 0, 0
	sum := uint32(17 + len(udp)) // the pseudo header begins with protocol and length
	if j.ipv4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(g)-j.ip))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(n))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
		sum = add(sum, ip[12:20])
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
		sum = add(sum, ip[8:40])
	}
	c := checksum(sum, udp)
	if c == 0 {
		c = 0xFFFF // 0 would say that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], c)
	return dst
}

// add adds b to an Internet checksum (RFC 1071) in progress; b is at most 64 KiB.
func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum&0xFFFF + sum>>16
}

func checksum(sum uint32, b []byte) uint16 {
	sum = add(sum, b)
	for sum > 0xFFFF {
		sum = sum&0xFFFF + sum>>16
	}
	return ^uint16(sum)
}
