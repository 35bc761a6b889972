package sock

import (
	"encoding/binary"
	"net/netip"
)

// Socket addresses as Linux lays them out in memory, ip(7) and ipv6(7). The family
// and the scope are in the machine's byte order, the rest in network order.
//
//	sockaddr_in           sockaddr_in6
//	 0   2  family 2       0   2  family 10
//	 2   2  port           2   2  port
//	 4   4  address        4   4  flow information
//	 8   8  zero           8  16  address
//	                      24   4  scope: interface index of a link-local address
//
// The numbers are Linux's on every system, so that this file and its tests build
// everywhere; nothing but Linux code hands the bytes to a kernel.
const (
	familyIPv4 = 2
	familyIPv6 = 10

	// addrSize holds either layout.
	addrSize     = 28
	addrSizeIPv4 = 16
	addrSizeIPv6 = 28
)

// putSockaddr writes a to dst and returns the length in bytes that the kernel is
// to be told. zone is the interface index of an IPv6 address with link scope and
// ignored for IPv4. An IPv4-mapped IPv6 address is written as IPv4; an invalid
// address has length 0. It allocates nothing.
func putSockaddr(dst *[addrSize]byte, a netip.AddrPort, zone uint32) uint32 {
	ip := a.Addr().Unmap()
	switch {
	case ip.Is4():
		*dst = [addrSize]byte{}
		binary.NativeEndian.PutUint16(dst[0:], familyIPv4)
		binary.BigEndian.PutUint16(dst[2:], a.Port())
		*(*[4]byte)(dst[4:]) = ip.As4()
		return addrSizeIPv4
	case ip.Is6():
		*dst = [addrSize]byte{}
		binary.NativeEndian.PutUint16(dst[0:], familyIPv6)
		binary.BigEndian.PutUint16(dst[2:], a.Port())
		*(*[16]byte)(dst[8:]) = ip.As16()
		binary.NativeEndian.PutUint32(dst[24:], zone)
		return addrSizeIPv6
	}
	return 0
}

// sockaddr reads the address of n bytes that the kernel left in b: without a
// zone, an IPv4-mapped IPv6 address as plain IPv4. The result is the zero
// AddrPort where b holds no whole IPv4 or IPv6 address. It allocates nothing.
func sockaddr(b *[addrSize]byte, n uint32) netip.AddrPort {
	if n < 2 {
		return netip.AddrPort{}
	}
	switch family := binary.NativeEndian.Uint16(b[0:]); {
	case family == familyIPv4 && n >= addrSizeIPv4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	case family == familyIPv6 && n >= addrSizeIPv6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[2:]))
	}
	return netip.AddrPort{}
}
