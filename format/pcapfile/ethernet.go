package pcapfile

import (
	"encoding/binary"
	"net/netip"

	"castdeck/format"
)

// Ethernet turns batches of any link types into batches of one, Ethernet, as files
// that hold a single link type need (tcpdump refuses the others).
//
// An Ethernet frame stays as it is. A datagram of another link type loses its
// frame; writers make it Ethernet headers from its addresses. A packet of another
// link type that is not UDP but IP keeps its bytes from the IP header on behind an
// Ethernet header; any other is taken out of the batch and counted in Skipped. It
// is for one goroutine.
type Ethernet struct {
	interfaces func() []format.Interface
	converted  []format.Interface
	plain      int // so many interfaces are Ethernet before the first one that is not
	links      Decoder
	buf        []byte
	skipped    uint64
}

// NewEthernet makes a converter for datagrams of these interfaces, which is asked
// once a batch (Reader.Interfaces fits).
func NewEthernet(interfaces func() []format.Interface) *Ethernet {
	return &Ethernet{interfaces: interfaces}
}

// Interfaces are the interfaces known so far with Ethernet as their link type and
// without a snap length: made frames can be longer than the capture's limit, and
// libpcap refuses a file with a longer packet, and one whose interfaces have
// different limits. The slice is the converter's; a later call may return a longer
// one.
func (e *Ethernet) Interfaces() []format.Interface {
	list := e.interfaces()
	for _, i := range list[min(len(e.converted), len(list)):] {
		i.LinkType, i.SnapLen = format.LinkTypeEthernet, 0
		e.converted = append(e.converted, i)
	}
	return e.converted
}

// Skipped counts the packets that cannot be Ethernet: of another link type and not
// IP, or without any bytes.
func (e *Ethernet) Skipped() uint64 { return e.skipped }

// Convert changes b in place. Frames that it makes are valid until its next call.
func (e *Ethernet) Convert(b *format.Batch) {
	list := e.interfaces()
	for e.plain < len(list) && list[e.plain].LinkType == format.LinkTypeEthernet {
		e.plain++
	}
	if e.plain == len(list) {
		return // as nearly always
	}
	e.buf = e.buf[:0]
	if need := e.need(b, list); cap(e.buf) < need {
		e.buf = make([]byte, 0, need) // frames point into it, so it must not move
	}
	kept := 0
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if d.Frame != nil && int(d.Interface) < len(list) && list[d.Interface].LinkType != format.LinkTypeEthernet {
			if d.Flags&format.FlagNotUDP == 0 {
				d.Frame, d.FrameLength = nil, 0
			} else if start := len(e.buf); e.append(d, list[d.Interface].LinkType) {
				d.Frame = e.buf[start:len(e.buf):len(e.buf)]
			} else {
				e.skipped++
				continue
			}
		}
		if kept != i {
			b.Datagrams[kept] = *d
		}
		kept++
	}
	b.Datagrams = b.Datagrams[:kept]
}

// need is the most bytes that the batch's frames take with Ethernet headers.
func (e *Ethernet) need(b *format.Batch, list []format.Interface) (n int) {
	for i := range b.Datagrams {
		if d := &b.Datagrams[i]; d.Flags&format.FlagNotUDP != 0 && int(d.Interface) < len(list) &&
			list[d.Interface].LinkType != format.LinkTypeEthernet {
			n += len(d.Frame) + etherHeader
		}
	}
	return n
}

const etherHeader = 14

// append adds an Ethernet header and d's IP packet to buf and sets d's length on
// the wire; false where there is no IP packet.
func (e *Ethernet) append(d *format.Datagram, link uint16) bool {
	b, wire := e.links.appendEthernet(e.buf, d, link)
	if wire == 0 {
		return false
	}
	e.buf, d.FrameLength = b, uint32(wire)
	return true
}

// appendEthernet appends an Ethernet header and the IP packet of a frame of another
// link type. Wire is the length on the wire; 0 where the frame holds no IP packet,
// and nothing is appended then.
func (c *Decoder) appendEthernet(dst []byte, d *format.Datagram, link uint16) (frame []byte, wire int) {
	proto, off := c.link(link, d.Frame)
	if proto != etherIPv4 && proto != etherIPv6 || off >= len(d.Frame) {
		return dst, 0
	}
	p := d.Frame[off:]
	var from, to netip.Addr
	switch {
	case proto == etherIPv4 && p[0]>>4 == 4 && len(p) >= ipv4Fixed:
		from, to = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	case proto == etherIPv6 && p[0]>>4 == 6 && len(p) >= ipv6Fixed:
		from, to = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	default:
		return dst, 0
	}
	mac, b := format.MulticastMAC(to), from.As16()
	dst = append(dst, mac[:]...)
	dst = append(dst, 0x02, 0x00)
	dst = append(dst, b[12:]...)
	dst = binary.BigEndian.AppendUint16(dst, proto)
	return append(dst, p...), max(int(d.FrameLength), len(d.Frame)) - off + etherHeader
}
