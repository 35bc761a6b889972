package replayer

import (
	"fmt"
	"net"
	"net/netip"

	"castdeck/internal/mcast"
)

// GuardError says that a destination was not sent to because that could disturb
// a network: Datagrams recorded from routing, time and discovery protocols act on
// whoever hears them again, and unicast or broadcast reaches hosts that never
// joined anything. Nothing was sent to it.
type GuardError struct {
	// Recorded is the destination in the recording, Destination where the mappings
	// lead; often the same.
	Recorded, Destination netip.AddrPort
	// Reason is one line without a trailing full stop.
	Reason string
}

func (e *GuardError) Error() string {
	what := e.Destination.String()
	if e.Recorded != e.Destination {
		what += fmt.Sprintf(" (recorded for %s)", e.Recorded)
	}
	return fmt.Sprintf("refused to send to %s: %s", what, e.Reason)
}

// guard decides which destinations may be sent to. It does not change once made.
type guard struct {
	// allow is nil where nothing is allowed beyond the rule: a nil Matcher matches
	// everything.
	allow *mcast.Matcher
	// local are the IPv4 networks of the interface, whose broadcast addresses look
	// like any other address.
	local []netip.Prefix
	// named is the destination that everything goes to: unicast, it is allowed.
	named netip.AddrPort
	// recorded is what is being recorded into the source at the moment; nil: nothing.
	recorded *mcast.Matcher
}

// newGuard makes the guard of an interface; nil knows no broadcast address but
// 255.255.255.255.
func newGuard(o *Options, iface *net.Interface) (*guard, error) {
	g := &guard{named: o.To}
	for _, list := range []struct {
		what     string
		patterns []string
		matcher  **mcast.Matcher
	}{{"allowed destinations", o.Allow, &g.allow}, {"groups being recorded", o.Recorded, &g.recorded}} {
		if len(list.patterns) == 0 {
			continue
		}
		m, err := mcast.NewMatcher(list.patterns...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", list.what, err)
		}
		*list.matcher = m
	}
	if iface == nil {
		return g, nil
	}
	addresses, err := iface.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", iface.Name, err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			g.local = append(g.local, p)
		}
	}
	return g, nil
}

// check returns nil where a datagram from src, recorded for recorded, may go to
// dst.
func (g *guard) check(src, recorded, dst netip.AddrPort) *GuardError {
	reason := g.reason(dst.Addr())
	if reason == "" || reason == unicast && dst == g.named {
		if g.recorded == nil || !g.recorded.Match(src, dst) {
			return nil
		}
		reason = "it is being recorded into the very recording that is played"
	}
	if g.allow != nil && g.allow.Match(src, dst) && dst.Addr().IsValid() && !dst.Addr().IsUnspecified() {
		return nil
	}
	return &GuardError{Recorded: recorded, Destination: dst, Reason: reason}
}

const unicast = "it is unicast"

// reason tells why an address is not sent to unless it is allowed; "" where it
// is free to use.
func (g *guard) reason(a netip.Addr) string {
	switch {
	case !a.IsValid() || a.IsUnspecified():
		return "it is no destination"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "it is the broadcast address"
	case !a.IsMulticast():
		for _, p := range g.local {
			if isBroadcast(p, a) {
				return fmt.Sprintf("it is the broadcast address of %s", p.Masked())
			}
		}
		return unicast
	}
	class := mcast.Classify(a)
	switch {
	case class.Control():
		return fmt.Sprintf("it is a control group (%s)", class)
	case class == mcast.InterfaceLocal:
		return fmt.Sprintf("its scope ends at the host (%s)", class)
	case discovery[a]:
		return "hosts and devices announce themselves there (SSDP, SLP, SAP)"
	case wellKnown6(a):
		return "it is a well-known group of IPv6 (RFC 2375)"
	}
	return ""
}

// discovery are the groups of IPv4 outside of the control blocks on which hosts and
// devices announce themselves: whoever hears an announcement again believes it.
var discovery = map[netip.Addr]bool{
	netip.AddrFrom4([4]byte{239, 255, 255, 250}): true, // SSDP and WS-Discovery
	netip.AddrFrom4([4]byte{239, 255, 255, 253}): true, // SLP, RFC 2608
	netip.AddrFrom4([4]byte{224, 2, 127, 254}):   true, // SAP of global scope, RFC 2974
	netip.AddrFrom4([4]byte{239, 255, 255, 255}): true, // SAP of local scope
	netip.AddrFrom4([4]byte{239, 195, 255, 255}): true, // SAP of organization-local scope
}

// isBroadcast reports whether a is the last address of an IPv4 network. /31 and
// /32 have none, RFC 3021.
func isBroadcast(p netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || p.Bits() > 30 || !p.Contains(a) {
		return false
	}
	last, b := p.Addr().As4(), a.As4()
	for i := range last {
		keep := min(max(p.Bits()-8*i, 0), 8)
		last[i] |= 0xFF >> keep
	}
	return last == b
}

// wellKnown6 reports whether a is one of the permanent IPv6 groups that exist in
// every scope: routers, mDNS, NTP and their like (ff0x:: with a group number below
// 0x200), and the servers of DHCP (ff05::1:0 to ff05::1:ffff).
func wellKnown6(a netip.Addr) bool {
	if !a.Is6() {
		return false
	}
	b := a.As16()
	if b[1]>>4 != 0 { // flags: transient, prefix-based or rendezvous point
		return false
	}
	for _, v := range b[2:12] {
		if v != 0 {
			return false
		}
	}
	if b[12] != 0 {
		return false
	}
	return b[13] == 0 && b[14] < 2 || b[13] == 1 && b[1] == 5
}
