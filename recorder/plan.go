package recorder

import (
	"fmt"
	"net/netip"

	"castdeck/internal/mcast"
)

const (
	// ownSocket is the number of subscriptions up to which each has a socket of its
	// own: a receive buffer and a drop counter each, and the kernel sorts.
	ownSocket = 64
	// groupsPerSocket bounds what a socket is shared by: the kernel scans a socket's
	// memberships for every datagram, which costs nothing at 128 and 1.3 us at 512.
	groupsPerSocket = 128
)

// limits are the kernel's, for one socket.
type limits struct {
	groups             int // of IPv4: igmp_max_memberships
	sources4, sources6 int // of one group: igmp_max_msf, mld_max_msf
}

// port is a UDP port of one address family.
type port struct {
	ipv4 bool
	port uint16
}

// plan deals the subscriptions to sockets and returns the indices for each
// socket. Up to ownSocket subscriptions get one each. Beyond, those to groups that
// agree in address family, port and interface share sockets, at most
// groupsPerSocket each, and within the limits. What is no group has a socket for
// itself, and these come first. A shared socket is bound to every address of its port
// and would take away the unicast datagrams of others that are; so groups share none
// where these subscriptions or another program, as taken says, receive on every
// address of the port. Else order is kept, so that neighbours stay together.
func plan(subs []Subscription, limit limits, taken func(port) bool) [][]int {
	var sockets [][]int
	everywhere := map[port]bool{}
	for i, s := range subs {
		if a := s.Group.Addr(); !a.IsMulticast() {
			sockets = append(sockets, []int{i})
			if a.IsUnspecified() {
				everywhere[port{a.Is4(), s.Group.Port()}] = true
			}
		}
	}
	type kind struct {
		port
		iface string
	}
	// open is the socket of a kind that has room, and the sources of each group in it.
	type open struct {
		socket int
		groups map[netip.Addr]int
	}
	opened := map[kind]open{}
	for i, s := range subs {
		a := s.Group.Addr()
		if !a.IsMulticast() {
			continue
		}
		k := kind{port{a.Is4(), s.Group.Port()}, s.Interface}
		if len(subs) <= ownSocket || everywhere[k.port] || taken(k.port) {
			sockets = append(sockets, []int{i})
			continue
		}
		groups, sources := groupsPerSocket, limit.sources6
		if k.ipv4 {
			groups, sources = limit.groups, limit.sources4
		}
		o, ok := opened[k]
		if !ok || len(sockets[o.socket]) >= groupsPerSocket ||
			o.groups[a] == 0 && len(o.groups) >= groups || o.groups[a] >= max(sources, 1) {
			o = open{len(sockets), map[netip.Addr]int{}}
			sockets = append(sockets, nil)
			opened[k] = o
		}
		sockets[o.socket] = append(sockets[o.socket], i)
		o.groups[a]++
	}
	return sockets
}

// distinct refuses subscriptions that would record a datagram twice, or leave open
// which of them gets it. Devices are the indices of their interfaces, 0 where none
// is named; so one interface under two names is found.
func distinct(subs []Subscription, devices []int) error {
	type key struct {
		group  netip.AddrPort
		source netip.Addr
		device int
	}
	seen := make(map[key]int, len(subs))
	// Subscriptions that are no groups: those to every address of a port, and those to
	// one. Each has as many as there are interfaces at most.
	everywhere, single := map[netip.AddrPort][]int{}, map[netip.AddrPort][]int{}
	for i, s := range subs {
		k := key{s.Group, s.Source, devices[i]}
		if _, ok := seen[k]; ok {
			return fmt.Errorf("%v is subscribed to twice", s)
		}
		seen[k] = i
		switch a := s.Group.Addr(); {
		case a.IsMulticast():
		case a.IsUnspecified():
			everywhere[s.Group] = append(everywhere[s.Group], i)
		default:
			single[s.Group] = append(single[s.Group], i)
		}
	}
	overlap := func(i int, others []int) error {
		for _, j := range others {
			if i != j && (devices[i] == devices[j] || devices[i] == 0 || devices[j] == 0) {
				return fmt.Errorf("%v and %v overlap: what both stand for would be recorded twice, or by one of them only (leave one out)", subs[i], subs[j])
			}
		}
		return nil
	}
	for i, s := range subs {
		a := s.Group.Addr()
		if a.IsMulticast() {
			if j, ok := seen[key{s.Group, netip.Addr{}, devices[i]}]; ok && s.Source.IsValid() {
				return fmt.Errorf("%v is a part of %v: its datagrams would be recorded twice (leave one out)", s, subs[j])
			}
			continue
		}
		all := netip.IPv6Unspecified()
		if a.Is4() {
			all = netip.IPv4Unspecified()
		}
		if err := overlap(i, everywhere[netip.AddrPortFrom(all, s.Group.Port())]); err != nil {
			return err
		}
		if err := overlap(i, single[s.Group]); err != nil {
			return err
		}
	}
	return nil
}

// String writes the subscription as mcast.Parse reads it.
func (s Subscription) String() string { return mcast.Group(s).String() }
