package mcast

import "net/netip"

// Class is what a multicast address is set aside for, by the IANA registries
// "IPv4 Multicast Address Space" and "IPv6 Multicast Address Space" (RFC 5771,
// RFC 4291).
type Class uint8

// The classes. Those marked "control" carry the protocols that keep a network
// running: see [Class.Control].
const (
	NotMulticast        Class = iota
	LocalControl              // control: 224.0.0.0/24, never forwarded by a router
	InternetworkControl       // control: 224.0.1.0/24, such as NTP
	PTP                       // control: 224.0.1.129 to .132, 224.0.0.107, ff0x::181 to ::184, ff02::6b (IEEE 1588)
	AdHoc                     // 224.0.2.0 to 224.0.255.255, 224.3.0.0/16, 224.4.0.0/16, 233.252.0.0/14
	SAP                       // 224.2.0.0/16, sessions announced by SAP and SDP
	SSM                       // 232.0.0.0/8 and ff3x::/32, source-specific (RFC 4607)
	GLOP                      // 233.0.0.0 to 233.251.255.255, by AS number (RFC 3180)
	UnicastPrefix             // 234.0.0.0/8 and other ff3x:, by unicast prefix (RFC 6034, RFC 3306)
	AdministrativeScope       // 239.0.0.0/8, private to an organisation (RFC 2365)
	Reserved                  // not assigned by IANA
	InterfaceLocal            // ff01::/16 and other scope 1: never leaves the machine
	LinkLocal                 // scope 2
	LinkLocalControl          // control: ff02::/16, well known addresses of link scope
	RealmLocal                // scope 3
	AdminLocal                // scope 4
	SiteLocal                 // scope 5
	OrganizationLocal         // scope 8
	Global                    // scope e
	classEnd
)

var classNames = [classEnd]string{
	"not multicast", "local network control", "internetwork control", "precision time protocol", "ad hoc",
	"SDP/SAP", "source-specific", "GLOP", "unicast-prefix-based", "administratively scoped", "reserved",
	"interface-local", "link-local", "link-local control", "realm-local", "admin-local", "site-local", "organization-local", "global",
}

func (c Class) String() string {
	if c < classEnd {
		return classNames[c]
	}
	return "unknown"
}

// Control reports whether the protocols that keep a network running (routing,
// IGMP, time) live in this class, so that datagrams sent there on a whim do harm.
func (c Class) Control() bool {
	switch c {
	case LocalControl, InternetworkControl, PTP, LinkLocalControl:
		return true
	}
	return false
}

// Classify tells the class of an address. An IPv4-mapped IPv6 address is its
// IPv4 address.
func Classify(a netip.Addr) Class {
	a = a.Unmap()
	switch {
	case !a.IsMulticast():
		return NotMulticast
	case a.Is4():
		return classify4(a.As4())
	}
	return classify6(a.As16())
}

func classify4(b [4]byte) Class {
	switch b[0] {
	case 224:
		switch {
		case b == [4]byte{224, 0, 0, 107}: // PTP peer delay
			return PTP
		case b[1] == 0 && b[2] == 0:
			return LocalControl
		case b[1] == 0 && b[2] == 1 && b[3] >= 129 && b[3] <= 132:
			return PTP
		case b[1] == 0 && b[2] == 1:
			return InternetworkControl
		case b[1] == 0, b[1] == 3, b[1] == 4:
			return AdHoc
		case b[1] == 2:
			return SAP
		}
		return Reserved
	case 232:
		return SSM
	case 233:
		if b[1] >= 252 {
			return AdHoc
		}
		return GLOP
	case 234:
		return UnicastPrefix
	case 239:
		return AdministrativeScope
	}
	return Reserved
}

func classify6(b [16]byte) Class {
	// ff, then 4 bits of flags (0RPT) and 4 of scope, RFC 4291 section 2.7.
	const prefixBased = 0x3 // flags P and T
	flags, scope := b[1]>>4, b[1]&0x0F
	zero := true
	for _, v := range b[2:14] {
		zero = zero && v == 0
	}
	if id := uint16(b[14])<<8 | uint16(b[15]); flags == 0 && zero {
		if id >= 0x181 && id <= 0x184 || id == 0x6B && scope == 2 {
			return PTP
		}
	}
	// Transient groups of link scope are applications'; the permanent ones belong
	// to neighbour discovery, routers, mDNS and their like.
	if flags == 0 && scope == 2 {
		return LinkLocalControl
	}
	if flags == prefixBased {
		if b[2] == 0 && b[3] == 0 {
			return SSM
		}
		return UnicastPrefix
	}
	switch scope {
	case 1:
		return InterfaceLocal
	case 2:
		return LinkLocal
	case 3:
		return RealmLocal
	case 4:
		return AdminLocal
	case 5:
		return SiteLocal
	case 8:
		return OrganizationLocal
	case 0xE:
		return Global
	}
	return Reserved
}
