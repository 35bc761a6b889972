package sock

import (
	"net"
	"net/netip"
)

// DefaultBuffer is the receive buffer in bytes that a Conn asks for where its
// ListenConfig says nothing.
const DefaultBuffer = 64 << 20

// Membership is one group that a Conn joins, or an address of this machine that it
// receives on.
type Membership struct {
	// Group is a multicast address and the UDP port to receive on; or a unicast,
	// broadcast or unspecified address, which is not joined, and then the Conn's only
	// one.
	Group netip.AddrPort
	// Source limits a multicast group to one sender; the zero Addr is any source.
	Source netip.Addr
	// Interface to join on; nil leaves the choice to the kernel's routes. Where nothing
	// is joined nil is every interface.
	Interface *net.Interface
}

// String is "[source@]group:port on interface".
func (m Membership) String() string {
	s := m.Group.String()
	if m.Source.IsValid() {
		s = m.Source.String() + "@" + s
	}
	if m.Interface != nil {
		s += " on " + m.Interface.Name
	}
	return s
}

// ListenConfig says what a Conn receives.
type ListenConfig struct {
	// Memberships are the groups, at least one; all of one address family and on
	// one port. A group may stand several times with different sources.
	Memberships []Membership
	// Buffer is the kernel memory in bytes to ask for as receive buffer, as
	// getsockopt reports it, which is twice the number that SO_RCVBUF is set to
	// (socket(7)). It is charged with what a datagram occupies, not with its length:
	// about 640 bytes more. 0 is DefaultBuffer. See Conn.Buffer for what was granted.
	Buffer int
	// Hardware asks for the network card's times, see HardwareClock.
	Hardware bool
	// Shared lets a Conn of a unicast address be bound beside others that allow it; see
	// Conn.SetShared, which ends it.
	Shared bool
}

// Message is one received datagram.
type Message struct {
	// Payload is the UDP payload, in the memory of its Receiver: valid until the
	// next Recv. It may be empty.
	Payload []byte
	// Src is the sender. Dst is the group and port; where the control message with
	// the destination was missing it is the zero AddrPort.
	Src, Dst netip.AddrPort
	// Time is when the kernel received the datagram, in ns since the Unix epoch; 0
	// where the kernel did not say.
	Time int64
	// Length is the payload's length on the wire in bytes; more than len(Payload)
	// where Truncated.
	Length uint32
	// Drops is the number of datagrams that the socket had lost when this one was
	// queued, modulo 2^32; 0 also where HasDrops is false.
	Drops uint32
	// Interface is the index of the interface that the datagram came in by; 0 where
	// that was not asked for, see Conn.
	Interface uint32
	// TTL is the IPv4 time to live or IPv6 hop limit; 0 where the kernel did not say.
	TTL uint8
	// Hardware: Time is the network card's, not the kernel's.
	Hardware bool
	// HasDrops: the kernel sent a drop count. It sends none before the first drop.
	HasDrops  bool
	Truncated bool
}
