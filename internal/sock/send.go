package sock

import (
	"net"
	"net/netip"
)

const (
	// MaxSendSockets is the default of SenderOptions.MaxSockets.
	MaxSendSockets = 1024
	// limitSendSockets bounds SenderOptions.MaxSockets, because sockets are held in
	// 16 bits.
	limitSendSockets = 16384
	maxDSCP          = 63
)

// SenderOptions say how datagrams leave.
type SenderOptions struct {
	// Interface out of which everything is sent; required. The routing table has
	// no say.
	Interface *net.Interface
	// TTL is the IPv4 time to live and the IPv6 hop limit of everything sent, 1 to
	// 255; 0 means 1: the local network only.
	TTL int
	// DSCP is the class of service, 0 to 63, in the six upper bits of the TOS field or
	// of the traffic class (RFC 2474).
	DSCP int
	// Transparent prepares for SocketFrom; see there.
	Transparent bool
	// Loopback delivers multicast to members on this host too. Default off: a
	// replayer into a group that is recorded on the same host feeds itself.
	Loopback bool
	// Broadcast permits broadcast addresses, which the kernel otherwise refuses
	// with EACCES.
	Broadcast bool
	// SendBuffer is SO_SNDBUF in bytes for each socket; 0 leaves the kernel's
	// default (net.core.wmem_default). The kernel clamps it to net.core.wmem_max
	// and doubles it for its own overhead, socket(7).
	SendBuffer int
	// MaxSockets bounds the sockets that keep a source port, IPv4 and IPv6
	// together; 0 means MaxSendSockets, at most 16,384. Datagrams of further source
	// ports leave from a port that the kernel chose.
	MaxSockets int
	// Segmentation hands neighbouring datagrams of one Send to one destination and
	// of one length to the kernel as a run, which it cuts into datagrams at the end of
	// its path (UDP_SEGMENT, udp(7); Linux 4.18): five times as many a second. Each
	// arrives as a datagram of its own. Where the kernel refuses, datagrams go one by
	// one; see Sender.Segmented. A queue that cuts runs itself (tbf, netem) may drop a
	// part of one without an error: leave it off there.
	Segmentation bool
}

// Sockaddr is a destination in the form that the kernel reads. It is made once
// for each destination and shared by all datagrams to it; it never changes.
type Sockaddr struct {
	b [addrSize]byte
	n uint32
}

// NewSockaddr makes a Sockaddr of a valid address. The interface is the scope of
// an address that is local to a link; others ignore it.
func NewSockaddr(a netip.AddrPort, iface *net.Interface) *Sockaddr {
	s := new(Sockaddr)
	s.n = putSockaddr(&s.b, a, uint32(iface.Index))
	return s
}
