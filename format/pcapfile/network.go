package pcapfile

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"castdeck/format"
)

// IP protocol numbers.
const (
	protoHopByHop    = 0
	protoUDP         = 17
	protoRouting     = 43
	protoFragment    = 44
	protoAuth        = 51
	protoDestination = 60
	protoMobility    = 135
	protoHIP         = 139
	protoShim6       = 140

	maxIPv4Total = 65535
	ipv4Fixed    = 20
	ipv6Fixed    = 40
	udpFixed     = 8
)

// fragment is one IP fragment of what may be a UDP datagram.
type fragment struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8 // next header of the fragmentable part
	ttl      uint8
	more     bool
	cut      bool // the capture kept less than all of it
	offset   int  // bytes, within the fragmentable part
	at       int  // where data is in the frame
	data     []byte
}

// network decodes IP at off of the frame.
func (c *Decoder) network(proto uint16, off int, d *format.Datagram) outcome {
	// What of the packet was on the wire, link-layer trailers included.
	wire := max(int(d.FrameLength), len(d.Frame)) - off
	switch proto {
	case etherIPv4:
		return c.ipv4(d.Frame[off:], wire, d)
	case etherIPv6:
		return c.ipv6(d.Frame[off:], wire, d)
	}
	return isOther
}

func (c *Decoder) ipv4(p []byte, wire int, d *format.Datagram) outcome {
	if len(p) < ipv4Fixed || p[0]>>4 != 4 || p[9] != protoUDP {
		return isOther
	}
	header, total := int(p[0]&0x0F)*4, int(binary.BigEndian.Uint16(p[2:]))
	if total == 0 {
		total = min(wire, maxIPv4Total) // segmentation offload on the sending host
	}
	if header < ipv4Fixed || header > len(p) || header > total || total > wire {
		return isOther
	}
	// Options that make no sense are an error, after the payload was found; they
	// do not matter here.
	c.ip4.Payload = nil
	if c.ip4.DecodeFromBytes(p, gopacket.NilDecodeFeedback) != nil && c.ip4.Payload == nil {
		return isOther
	}
	rest := p[header:min(len(p), total)]
	src, dst := netip.AddrFrom4([4]byte(c.ip4.SrcIP)), netip.AddrFrom4([4]byte(c.ip4.DstIP))
	more := c.ip4.Flags&layers.IPv4MoreFragments != 0
	if more || c.ip4.FragOffset != 0 {
		c.fragment = fragment{src: src, dst: dst, id: uint32(c.ip4.Id), proto: protoUDP, ttl: c.ip4.TTL,
			more: more, cut: len(p) < total, offset: int(c.ip4.FragOffset) * 8,
			at: len(d.Frame) - len(p) + header, data: rest}
		return isFragment
	}
	d.TTL = c.ip4.TTL
	return c.datagram(src, dst, rest, total-header, d)
}

func (c *Decoder) ipv6(p []byte, wire int, d *format.Datagram) outcome {
	if len(p) < ipv6Fixed || p[0]>>4 != 6 {
		return isOther
	}
	// Not gopacket's IPv6: it decodes hop-by-hop options into new memory.
	length, proto := int(binary.BigEndian.Uint16(p[4:])), p[6]
	if length == 0 {
		if proto == protoHopByHop {
			return isOther // a jumbogram, or empty
		}
		length = min(wire-ipv6Fixed, maxIPv4Total)
	}
	if length > wire-ipv6Fixed {
		return isOther
	}
	whole := ipv6Fixed + length
	end := min(len(p), whole)
	rest := p[ipv6Fixed:end]
	src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	for {
		next, n, ok := c.extension(proto, rest)
		if !ok {
			return isOther
		}
		if n == 0 {
			break
		}
		if proto == protoFragment {
			place := binary.BigEndian.Uint16(rest[2:])
			offset, more := int(place&^7), place&1 != 0
			// A first fragment that is the last too is a whole datagram (RFC 6946).
			if more || offset != 0 {
				if next != protoUDP && !extends(next) {
					return isOther
				}
				c.fragment = fragment{src: src, dst: dst, id: binary.BigEndian.Uint32(rest[4:]), proto: next, ttl: p[7],
					more: more, cut: len(p) < whole, offset: offset,
					at: len(d.Frame) - len(p) + end - len(rest) + n, data: rest[n:]}
				return isFragment
			}
		}
		proto, rest, length = next, rest[n:], length-n
	}
	d.TTL = p[7]
	return c.datagram(src, dst, rest, length, d)
}

// extension reads the IPv6 extension header of type proto: what follows it and its
// length; 0 where proto is UDP and so is no extension, not ok for anything else.
func (c *Decoder) extension(proto uint8, p []byte) (next uint8, n int, ok bool) {
	switch {
	case proto == protoUDP:
		return proto, 0, true
	case proto == protoFragment:
		if len(p) < 8 {
			return 0, 0, false
		}
		return p[0], 8, true
	case proto == protoAuth: // counts in words of 4 bytes, less 2 (RFC 4302)
		if len(p) < 2 || len(p) < (int(p[1])+2)*4 {
			return 0, 0, false
		}
		return p[0], (int(p[1]) + 2) * 4, true
	case !extends(proto) || len(p) < 2 || len(p) < int(p[1])*8+8: // spares gopacket the error
		return 0, 0, false
	case c.ext.DecodeFromBytes(p, gopacket.NilDecodeFeedback) != nil:
		return 0, 0, false
	}
	return uint8(c.ext.NextHeader), len(c.ext.Contents), true
}

func extends(proto uint8) bool {
	switch proto {
	case protoHopByHop, protoRouting, protoAuth, protoDestination, protoMobility, protoHIP, protoShim6:
		return true
	}
	return false
}

// datagram reads the UDP header in front of p, of which length bytes were on the
// wire.
func (c *Decoder) datagram(src, dst netip.Addr, p []byte, length int, d *format.Datagram) outcome {
	if len(p) < udpFixed {
		return isOther
	}
	stated := int(binary.BigEndian.Uint16(p[4:]))
	if stated < udpFixed || stated > length || c.udp.DecodeFromBytes(p, gopacket.NilDecodeFeedback) != nil {
		return isOther
	}
	d.Src = netip.AddrPortFrom(src, uint16(c.udp.SrcPort))
	d.Dst = netip.AddrPortFrom(dst, uint16(c.udp.DstPort))
	d.Length = uint32(stated - udpFixed)
	d.Payload = c.udp.Payload[:len(c.udp.Payload):len(c.udp.Payload)]
	d.Flags &^= format.FlagTruncated | format.FlagNotUDP
	if len(d.Payload) < int(d.Length) {
		d.Flags |= format.FlagTruncated
	}
	return isUDP
}
