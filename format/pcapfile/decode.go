package pcapfile

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"castdeck/format"
)

// Link types (https://www.tcpdump.org/linktypes.html) that are taken apart.
const (
	linkNull     = 0
	linkEthernet = format.LinkTypeEthernet
	linkPPP      = 9
	linkRawBSD   = 12 // DLT_RAW of most systems, found in files by mistake
	linkRawOpen  = 14 // DLT_RAW of OpenBSD, likewise
	linkPPPHDLC  = 50
	linkRaw      = 101
	linkCHDLC    = 104
	link80211    = 105
	linkLoop     = 108
	linkSLL      = 113
	linkRadiotap = 127
	linkPPI      = 192
	linkIPv4     = 228
	linkIPv6     = 229
	linkSLL2     = 276
)

// EtherTypes.
const (
	etherIPv4  = 0x0800
	etherVLAN  = 0x8100
	etherIPv6  = 0x86DD
	etherQinQ  = 0x88A8
	etherQinQ1 = 0x9100 // before 802.1ad
	etherLLC   = 1      // ours: an 802.2 header follows
)

// outcome of decoding.
type outcome uint8

const (
	isOther    outcome = iota // FlagNotUDP
	isUDP                     // addresses and payload are set
	isFragment                // FlagNotUDP, and Decoder.fragment describes it
)

// Decoder is the format.FrameDecoder for every link type that castdeck knows:
// Ethernet with 802.1Q and 802.1ad tags and SNAP, Linux cooked (SLL, SLL2), raw IP,
// BSD loopback, PPP, Cisco HDLC, 802.11 with and without radiotap, and PPI around
// any of these. Others, and everything that is not IP, come out as FlagNotUDP.
// What is inside of a tunnel (VXLAN, GRE, GTP) stays there: the outer datagram is
// the one that was on the wire.
//
// The lengths that count are those in the IP and UDP headers, never the captured
// length: Ethernet pads, switches append. A datagram whose headers state more than
// was on the wire, or a UDP length that IP cannot hold, is FlagNotUDP as it would
// be dropped by any receiver; one that the capture cut is FlagTruncated. Neither
// checksum is looked at: a host that computes them in its network card captures
// wrong ones.
//
// A length that gopacket would refuse is refused before: its errors are made anew,
// in new memory, for each packet.
//
// gopacket's layers do Ethernet, tags, LLC, loopback, IPv4, IPv6 extensions and
// UDP. The rest of its layers is not used: LinuxSLL, PPP and RadioTap panic on
// short packets, RadioTap writes into the packet, Dot11 and the IPv6 options
// allocate for each packet, and SLL2, PPI and the IPv6 fragment header have no
// decoder of that kind at all.
//
// The zero value is not usable; a Decoder is for one goroutine. Decoding UDP
// allocates nothing.
type Decoder struct {
	eth      layers.Ethernet
	vlan     layers.Dot1Q
	llc      layers.LLC
	snap     layers.SNAP
	loopback layers.Loopback
	ip4      layers.IPv4
	ext      layers.IPv6ExtensionSkipper
	udp      layers.UDP
	fragment fragment
}

var _ format.FrameDecoder = (*Decoder)(nil)

// NewDecoder makes a Decoder.
func NewDecoder() *Decoder { return &Decoder{} }

// Decode finds the UDP datagram in d.Frame. It sets Src, Dst, TTL, Length, Payload
// (which points into Frame), FlagTruncated and FlagNotUDP, and leaves the other
// flags and fields as they are. A fragment is FlagNotUDP here: only Reader joins
// them. It never panics, whatever the frame holds.
func (c *Decoder) Decode(linkType uint16, d *format.Datagram) { c.decode(linkType, d) }

func (c *Decoder) decode(linkType uint16, d *format.Datagram) outcome {
	if linkType == linkEthernet && format.DecodePlain(d) {
		return isUDP
	}
	what := isOther
	if proto, off := c.link(linkType, d.Frame); off <= len(d.Frame) {
		what = c.network(proto, off, d)
	}
	if what != isUDP {
		d.Src, d.Dst, d.TTL, d.Length, d.Payload = netip.AddrPort{}, netip.AddrPort{}, 0, 0, nil
		d.Flags = d.Flags&^format.FlagTruncated | format.FlagNotUDP
		if uint32(len(d.Frame)) < d.FrameLength {
			d.Flags |= format.FlagTruncated
		}
	}
	return what
}

// link finds the network layer: its EtherType and where it starts; 0 where there
// is none.
func (c *Decoder) link(linkType uint16, f []byte) (proto uint16, off int) {
	switch linkType {
	case linkEthernet:
		if len(f) < 14 || c.eth.DecodeFromBytes(f, gopacket.NilDecodeFeedback) != nil {
			return 0, 0
		}
		proto, off = uint16(c.eth.EthernetType), len(c.eth.Contents)
		if c.eth.EthernetType == layers.EthernetTypeLLC {
			proto = etherLLC
		}
	case linkSLL:
		// 0: packet type, 2: ARPHRD type, 4: address length, 6: address (8), 14: protocol.
		if len(f) < 16 {
			return 0, 0
		}
		proto, off = sllProtocol(binary.BigEndian.Uint16(f[14:])), 16
	case linkSLL2:
		// 0: protocol, 4: interface, 8: ARPHRD type, 10: packet type, 11: address
		// length, 12: address (8).
		if len(f) < 20 {
			return 0, 0
		}
		proto, off = sllProtocol(binary.BigEndian.Uint16(f)), 20
	case linkRaw, linkRawBSD, linkRawOpen:
		return version(f), 0
	case linkIPv4:
		return etherIPv4, 0
	case linkIPv6:
		return etherIPv6, 0
	case linkNull, linkLoop:
		// In either byte order a small number has its zeros in one half.
		if len(f) < 4 || f[0]|f[1] != 0 && f[2]|f[3] != 0 || c.loopback.DecodeFromBytes(f, gopacket.NilDecodeFeedback) != nil {
			return 0, 0
		}
		switch c.loopback.Family {
		case layers.ProtocolFamilyIPv4:
			return etherIPv4, 4
		case layers.ProtocolFamilyIPv6BSD, layers.ProtocolFamilyIPv6FreeBSD, layers.ProtocolFamilyIPv6Darwin,
			layers.ProtocolFamilyIPv6Linux, 23: // 23 is Windows (Npcap)
			return etherIPv6, 4
		}
		return 0, 0
	case linkPPP, linkPPPHDLC:
		return ppp(f)
	case linkCHDLC:
		if len(f) < 4 {
			return 0, 0
		}
		proto, off = binary.BigEndian.Uint16(f[2:]), 4
	case link80211:
		proto, off = wlan(f, false)
	case linkRadiotap:
		proto, off = radiotap(f)
	case linkPPI:
		// 0: version, 1: flags, 2: length (little-endian), 4: link type (likewise).
		if len(f) < 8 {
			return 0, 0
		}
		inner, n := binary.LittleEndian.Uint32(f[4:]), int(binary.LittleEndian.Uint16(f[2:]))
		if n < 8 || n > len(f) || inner == linkPPI || inner > 0xFFFF {
			return 0, 0
		}
		proto, off = c.link(uint16(inner), f[n:])
		return proto, off + n
	default:
		return 0, 0
	}
	return c.tags(proto, off, f)
}

// tags passes over 802.1Q and 802.1ad tags and LLC with SNAP.
func (c *Decoder) tags(proto uint16, off int, f []byte) (uint16, int) {
	for {
		switch proto {
		case etherVLAN, etherQinQ, etherQinQ1:
			if len(f) < off+4 || c.vlan.DecodeFromBytes(f[off:], gopacket.NilDecodeFeedback) != nil {
				return 0, 0
			}
			proto, off = uint16(c.vlan.Type), off+len(c.vlan.Contents)
			if proto < 0x0600 {
				proto = etherLLC // an 802.3 length
			}
		case etherLLC:
			if len(f) < off+4 || c.llc.DecodeFromBytes(f[off:], gopacket.NilDecodeFeedback) != nil ||
				c.llc.DSAP != 0xAA || c.llc.SSAP != 0xAA || c.llc.Control != 3 {
				return 0, 0
			}
			off += len(c.llc.Contents)
			if len(f) < off+5 || c.snap.DecodeFromBytes(f[off:], gopacket.NilDecodeFeedback) != nil {
				return 0, 0
			}
			// 00-00-00 is RFC 1042, 00-00-F8 the bridge tunnel of 802.1H; the type
			// means something else under other codes.
			if o := c.snap.OrganizationalCode; o[0] != 0 || o[1] != 0 || o[2] != 0 && o[2] != 0xF8 {
				return 0, 0
			}
			proto, off = uint16(c.snap.Type), off+len(c.snap.Contents)
			if proto < 0x0600 {
				return 0, 0
			}
		default:
			return proto, off
		}
	}
}

// sllProtocol: values below the EtherTypes are Linux's own (if_ether.h).
func sllProtocol(proto uint16) uint16 {
	if proto == 4 { // ETH_P_802_2
		return etherLLC
	}
	if proto < 0x0600 {
		return 0
	}
	return proto
}

func version(f []byte) uint16 {
	if len(f) > 0 {
		switch f[0] >> 4 {
		case 4:
			return etherIPv4
		case 6:
			return etherIPv6
		}
	}
	return 0
}

// ppp reads a PPP header (RFC 1661, RFC 1662): address and control, which may be
// left out, and a protocol of one or two bytes. Cisco HDLC is told by its address.
func ppp(f []byte) (proto uint16, off int) {
	if len(f) >= 4 && (f[0] == 0x0F || f[0] == 0x8F) && f[1] == 0 {
		return binary.BigEndian.Uint16(f[2:]), 4
	}
	if len(f) >= 2 && f[0] == 0xFF && f[1] == 0x03 {
		off = 2
	}
	if len(f) < off+2 {
		return 0, 0
	}
	code := uint16(f[off])
	off++
	if code&1 == 0 {
		code = code<<8 | uint16(f[off])
		off++
	}
	switch code {
	case 0x0021:
		return etherIPv4, off
	case 0x0057:
		return etherIPv6, off
	}
	return 0, 0
}

// radiotap passes over the header of https://www.radiotap.org: version (1), pad
// (1), length (2, little-endian), bitmaps of what is present (4 each, continued
// where bit 31 is set), fields. Only the flags field matters here: it says whether
// the 802.11 header is padded.
func radiotap(f []byte) (proto uint16, off int) {
	const (
		presentTSFT, presentFlags, presentMore = 1 << 0, 1 << 1, 1 << 31
		flagPadded                             = 0x20
	)
	if len(f) < 8 {
		return 0, 0
	}
	length := int(binary.LittleEndian.Uint16(f[2:]))
	if length < 8 || length > len(f) {
		return 0, 0
	}
	present := binary.LittleEndian.Uint32(f[4:])
	at := 8
	for more := present; more&presentMore != 0; at += 4 {
		if at+4 > length {
			return 0, 0
		}
		more = binary.LittleEndian.Uint32(f[at:])
	}
	if present&presentTSFT != 0 {
		at = (at+7)&^7 + 8
	}
	padded := present&presentFlags != 0 && at < length && f[at]&flagPadded != 0
	proto, off = wlan(f[length:], padded)
	return proto, off + length
}

// wlan passes over an 802.11 header of a data frame. What is encrypted, a fragment
// or an aggregate of several (A-MSDU) is not taken apart. A frame check sequence
// at the end does not matter: IP states its own length.
func wlan(f []byte, padded bool) (proto uint16, off int) {
	if len(f) < 24 {
		return 0, 0
	}
	const (
		toDS, fromDS, moreFragments, protected, order = 0x01, 0x02, 0x04, 0x40, 0x80
		typeData, noData, qos                         = 0x08, 0x40, 0x80
		aggregate                                     = 0x80
	)
	control, flags := f[0], f[1]
	if control&0x0C != typeData || control&noData != 0 || control&0x03 != 0 ||
		flags&(moreFragments|protected) != 0 || f[22]&0x0F != 0 {
		return 0, 0
	}
	off = 24
	if flags&(toDS|fromDS) == toDS|fromDS {
		off += 6
	}
	if control&qos != 0 {
		if len(f) < off+2 || f[off]&aggregate != 0 {
			return 0, 0
		}
		off += 2
		if flags&order != 0 {
			off += 4
		}
	}
	if padded {
		off = (off + 3) &^ 3
	}
	if off > len(f) {
		return 0, 0
	}
	return etherLLC, off
}
