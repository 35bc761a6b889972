package recorder

import "castdeck/internal/mcast"

const (
	// ownSocket is the number of subscriptions up to which each has a socket of its
	// own: a receive buffer and a drop counter each, and the kernel sorts.
	ownSocket = 64
	// groupsPerSocket bounds what a socket is shared by: the kernel scans a socket's
	// memberships for every datagram, which costs nothing at 128 and 1.3 us at 512.
	groupsPerSocket = 128
)

// plan deals the subscriptions to sockets and returns the indices for each
// socket. Up to ownSocket subscriptions get one each. Beyond, those without a
// source that agree in address family, port and interface share sockets, at most
// groupsPerSocket each, and for IPv4 at most maxIPv4 (igmp_max_memberships).
// Order is kept, so that neighbours stay together.
func plan(subs []Subscription, maxIPv4 int) [][]int {
	var sockets [][]int
	if len(subs) <= ownSocket {
		for i := range subs {
			sockets = append(sockets, []int{i})
		}
		return sockets
	}
	type kind struct {
		ipv4  bool
		port  uint16
		iface string
	}
	open := map[kind]int{} // the socket that has room
	for i, s := range subs {
		if s.Source.IsValid() {
			sockets = append(sockets, []int{i})
			continue
		}
		k := kind{s.Group.Addr().Is4(), s.Group.Port(), s.Interface}
		limit := groupsPerSocket
		if k.ipv4 {
			limit = min(limit, max(maxIPv4, 1))
		}
		n, ok := open[k]
		if !ok || len(sockets[n]) >= limit {
			n = len(sockets)
			sockets = append(sockets, nil)
			open[k] = n
		}
		sockets[n] = append(sockets[n], i)
	}
	return sockets
}

// String writes the subscription as mcast.Parse reads it.
func (s Subscription) String() string { return mcast.Group(s).String() }
