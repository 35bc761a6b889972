package pcapfile

import (
	"encoding/binary"
	"fmt"

	"castdeck/format"
)

// FrameMaker gives every datagram of a batch a frame of its interface's link type,
// as files need that keep captured frames: a datagram that was put together from
// fragments has none of its own. Captured frames stay as they are. It is for one
// goroutine.
type FrameMaker struct {
	interfaces func() []format.Interface
	buf        []byte
}

// NewFrameMaker makes one for datagrams of these interfaces, which is asked once a
// batch (Reader.Interfaces fits).
func NewFrameMaker(interfaces func() []format.Interface) *FrameMaker {
	return &FrameMaker{interfaces: interfaces}
}

// Convert changes b in place. Datagrams of Ethernet interfaces stay without a
// frame: writers make it. The frames that it makes are valid until its next call.
// The error names a link type for which no frame can be made, such as 802.11.
func (m *FrameMaker) Convert(b *format.Batch) error {
	list := m.interfaces()
	m.buf = m.buf[:0]
	need := 0
	for i := range b.Datagrams {
		if d := &b.Datagrams[i]; m.lacks(d, list) {
			need += maxMade + len(d.Payload)
		}
	}
	if need == 0 {
		return nil
	}
	if cap(m.buf) < need {
		m.buf = make([]byte, 0, need) // frames point into it, so it must not move
	}
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if !m.lacks(d, list) {
			continue
		}
		start := len(m.buf)
		wire := 0
		var err error
		if m.buf, wire, err = appendMade(m.buf, list[d.Interface].LinkType, d); err != nil {
			return err
		}
		d.Frame, d.FrameLength = m.buf[start:len(m.buf):len(m.buf)], uint32(wire)
	}
	return nil
}

// lacks says whether d needs a frame that writers do not make by themselves.
func (m *FrameMaker) lacks(d *format.Datagram, list []format.Interface) bool {
	return d.Frame == nil && int(d.Interface) < len(list) && list[d.Interface].LinkType != linkEthernet
}

// maxMade is the most bytes that appendMade puts before a payload, the Ethernet
// header included that it takes away again.
const maxMade = 20 + etherHeader + ipv6Fixed + udpFixed

// appendMade appends a frame of the link type for a datagram: its link-layer
// header, then IP and UDP headers as in format.AppendMadeFrame, then the payload.
// Wire is its length on the wire.
func appendMade(dst []byte, link uint16, d *format.Datagram) (frame []byte, wire int, err error) {
	start := len(dst)
	proto, family, protoPPP := uint16(etherIPv4), byte(2), uint16(0x0021)
	if d.Dst.Addr().Is6() {
		// 24 is AF_INET6 of NetBSD and OpenBSD, one of three numbers that readers know.
		proto, family, protoPPP = etherIPv6, 24, 0x0057
	}
	from := d.Src.Addr().As16()
	switch link {
	case linkRaw, linkRawBSD, linkRawOpen:
	case linkIPv4, linkIPv6:
		if (link == linkIPv4) != (proto == etherIPv4) {
			return dst, 0, fmt.Errorf("from %v to %v: not of link type %d", d.Src, d.Dst, link)
		}
	case linkNull: // in the order of the machine: ours is little-endian
		dst = append(dst, family, 0, 0, 0)
	case linkLoop: // in network order
		dst = append(dst, 0, 0, 0, family)
	case linkPPP, linkPPPHDLC:
		dst = binary.BigEndian.AppendUint16(append(dst, 0xFF, 0x03), protoPPP)
	case linkCHDLC:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x0F, 0), proto)
	case linkSLL:
		// Packet type, ARPHRD_ETHER, 6 bytes of address in a field of 8, protocol.
		dst = append(dst, 0, packetType(d), 0, 1, 0, 6, 0x02, 0x00)
		dst = append(append(dst, from[12:]...), 0, 0)
		dst = binary.BigEndian.AppendUint16(dst, proto)
	case linkSLL2:
		dst = binary.BigEndian.AppendUint16(dst, proto)
		dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 1, packetType(d), 6, 0x02, 0x00)
		dst = append(append(dst, from[12:]...), 0, 0)
	default:
		return dst, 0, fmt.Errorf("no frame of link type %d can be made for a datagram that was put together from fragments", link)
	}
	header := len(dst) - start
	// AppendMadeFrame begins with an Ethernet header: the link-layer header above
	// takes its place.
	at := len(dst)
	dst, wire = format.AppendMadeFrame(dst, d)
	copy(dst[at:], dst[at+etherHeader:])
	return dst[:len(dst)-etherHeader], wire - etherHeader + header, nil
}

// packetType is what Linux calls the packet (LINUX_SLL_MULTICAST, LINUX_SLL_HOST).
func packetType(d *format.Datagram) byte {
	if d.Dst.Addr().IsMulticast() {
		return 2
	}
	return 0
}
