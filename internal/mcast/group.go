package mcast

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// MaxGroups is the number of groups that one argument may stand for. It covers
// every port of one group or a /16 of groups on one port; a range beyond it is a
// slip of the pen.
const MaxGroups = 65_536

// MaxName is the longest [Group.Name] in bytes.
const MaxName = 64

// Group is one multicast group on one UDP port: what a receiver joins. It may also
// be a port of this machine, without a join, for unicast and broadcast.
type Group struct {
	// Group is an address without a zone and a port that is not 0. An address that
	// is not multicast is one of the machine's own, a broadcast address of one of its
	// networks, 255.255.255.255, or 0.0.0.0 or :: for all of these.
	Group netip.AddrPort
	// Source limits a multicast group to datagrams of one sender (source-specific
	// multicast, RFC 4607); the zero Addr is any source.
	Source netip.Addr
	// Interface is the name, the index or an own IP address of a network
	// interface; see [Interface]. Where it is empty the kernel's routes decide on
	// which one a group is joined, and unicast may come by any.
	Interface string
	// Name is what people call the group, at most MaxName bytes; it selects nothing.
	Name string
}

// String writes the group as [Parse] reads it, without its name:
// [source@]group:port[%interface].
func (g Group) String() string {
	s := g.Group.String()
	if g.Source.IsValid() {
		s = g.Source.String() + "@" + s
	}
	if g.Interface != "" {
		s += "%" + g.Interface
	}
	return s
}

// Parse reads one group, or a range of them, as people write it:
//
//	239.1.1.1:5000                       a group and its UDP port
//	10.0.0.1@232.1.1.1:5000              of one source only
//	10.0.0.1,10.0.0.2@232.1.1.1:5000     of two sources: two Groups
//	239.1.1.1:5000%eth0                  on one interface: name, index or own IP address
//	239.1.1.1-239.1.1.16:5000-5003       16 groups of 4 ports each: 64
//	[ff3e::1]:5000%eth0                  IPv6; [ff02::1%eth0]:5000 is the same
//	[ff3e::1]-[ff3e::10]:5000            an IPv6 range; [ff3e::1-ff3e::10]:5000 too
//	2001:db8::1@[ff3e::1]:5000           an IPv6 source, in brackets or without
//	udp://10.0.0.1@232.1.1.1:5000?iface=eth0
//	rtp://@239.1.1.1:5000                as media players write it
//	udp://0.0.0.0:5000                   a UDP port of this machine, unicast and broadcast; [::]:5000
//	192.168.1.5:5000, 192.168.1.255:5000 unicast to one own address, broadcast to one network
//
// The groups are in the order of their addresses, of the ports of one address,
// and of the sources as they were written, at most [MaxGroups]. The error names what is wrong and what would be
// right, on one line.
func Parse(s string) ([]Group, error) {
	groups, err := parse(s)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", quote(s), err)
	}
	return groups, nil
}

// quote keeps an error on one line of the screen whatever was typed.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strconv.Quote(s)
}

func parse(s string) ([]Group, error) {
	iface, rest, err := cutURL(s)
	if err != nil {
		return nil, err
	}
	source, rest, hasSource := cutSource(rest)
	a, err := cutAddress(rest)
	if err != nil {
		return nil, err
	}
	switch {
	case iface != "" && a.iface != "":
		return nil, fmt.Errorf("names two interfaces, %s and %s", quote(iface), quote(a.iface))
	case a.iface != "":
		iface = a.iface
	}
	if iface != "" {
		if err := checkInterfaceName(iface); err != nil {
			return nil, err
		}
	}
	first, last, err := parseAddrRange(a.host)
	if err != nil {
		return nil, err
	}
	for _, addr := range []netip.Addr{first, last} {
		if err := checkGroup(addr, first != last); err != nil {
			return nil, err
		}
	}
	if !a.hasPort {
		return nil, fmt.Errorf("has no port (want %s)", example(first))
	}
	firstPort, lastPort, err := parsePortRange(a.port)
	if err != nil {
		return nil, err
	}
	sources := []netip.Addr{{}}
	// udp://@239.1.1.1:5000 is how media players write "any source".
	if hasSource && (source != "" || !strings.Contains(s, "://")) {
		if sources, err = parseSources(source, first); err != nil {
			return nil, err
		}
	}
	return expand(first, last, firstPort, lastPort, sources, iface)
}

// example shows how a group is written with a port.
func example(a netip.Addr) string { return netip.AddrPortFrom(a, 5000).String() }

// cutURL takes udp:// or rtp:// and the query off s.
func cutURL(s string) (iface, rest string, err error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		if strings.TrimSpace(s) == "" {
			return "", "", fmt.Errorf("is empty (want group:port, such as 239.1.1.1:5000)")
		}
		return "", s, nil
	}
	if l := strings.ToLower(scheme); l != "udp" && l != "rtp" {
		return "", "", fmt.Errorf("scheme %s is not known (want udp:// or rtp://)", quote(scheme))
	}
	rest, query, _ := strings.Cut(rest, "?")
	rest = strings.TrimSuffix(rest, "/")
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", "", fmt.Errorf("what follows the ? is not key=value: %w", err)
	}
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys) // one message for one input
	for _, key := range keys {
		switch {
		case key != "iface":
			return "", "", fmt.Errorf("parameter %s is not known (want ?iface=NAME)", quote(key))
		case len(values[key]) > 1:
			return "", "", fmt.Errorf("gives iface %d times", len(values[key]))
		case values[key][0] == "":
			return "", "", fmt.Errorf("iface is empty (want ?iface=NAME, or nothing)")
		}
		iface = values[key][0]
	}
	return iface, rest, nil
}

func cutSource(s string) (source, rest string, ok bool) {
	if source, rest, ok = strings.Cut(s, "@"); ok {
		return source, rest, true
	}
	return "", s, false
}

// address is host[:port][%iface], cut but not read. The host keeps its brackets.
type address struct {
	host, port, iface string
	hasPort           bool
}

func cutAddress(s string) (a address, err error) {
	switch i := strings.LastIndexByte(s, ']'); {
	case strings.HasPrefix(s, "["):
		if i < 0 {
			return a, fmt.Errorf("has [ without ] (want [ff3e::1]:5000)")
		}
		a.host, s = s[:i+1], s[i+1:]
		var hasInterface bool
		s, a.iface, hasInterface = strings.Cut(s, "%")
		if hasInterface && a.iface == "" {
			return a, errNoInterface
		}
		// Zones inside the brackets are interfaces too, RFC 4007 section 11.
		if err := a.cutZones(); err != nil {
			return a, err
		}
	default:
		var hasInterface bool
		s, a.iface, hasInterface = strings.Cut(s, "%")
		if hasInterface && a.iface == "" {
			return a, errNoInterface
		}
		if strings.Count(s, ":") > 1 {
			return a, fmt.Errorf("looks like IPv6, which needs brackets (want [ff3e::1]:5000)")
		}
		i := strings.IndexByte(s, ':')
		if i < 0 {
			i = len(s)
		}
		a.host, s = s[:i], s[i:]
	}
	switch {
	case s == "":
	case s[0] == ':':
		a.port, a.hasPort = s[1:], true
	default:
		return a, fmt.Errorf("has %s where :port was expected (want [ff3e::1]:5000)", quote(s))
	}
	return a, nil
}

var errNoInterface = fmt.Errorf("has %% without an interface (want 239.1.1.1:5000%%eth0)")

// cutZones moves the zones out of [ff02::1%eth0] to the interface.
func (a *address) cutZones() error {
	for {
		i := strings.IndexByte(a.host, '%')
		if i < 0 {
			return nil
		}
		n := strings.IndexByte(a.host[i:], ']')
		if n < 0 {
			return fmt.Errorf("has [ without ] (want [ff3e::1]:5000)")
		}
		zone := a.host[i+1 : i+n]
		switch {
		case zone == "":
			return errNoInterface
		case a.iface != "" && a.iface != zone:
			return fmt.Errorf("names two interfaces, %s and %s", quote(zone), quote(a.iface))
		}
		a.iface = zone
		a.host = a.host[:i] + a.host[i+n:]
	}
}

func checkInterfaceName(name string) error {
	// A name is at most 15 bytes (IFNAMSIZ, netdevice(7)); the rest is for an IPv6
	// address with its zone.
	const limit = 64
	if len(name) > limit || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7F || r == '/' }) {
		return fmt.Errorf("interface %s cannot exist (want a name, an index or an own IP address)", quote(name))
	}
	return nil
}

// parseAddrRange reads an address or first-last, IPv6 in brackets around each
// address or around both.
func parseAddrRange(host string) (first, last netip.Addr, err error) {
	bare := host
	if strings.HasPrefix(bare, "[") {
		bare = strings.TrimSuffix(bare[1:], "]")
		bare = strings.Replace(bare, "]-[", "-", 1)
	}
	from, to, isRange := strings.Cut(bare, "-")
	if first, err = parseAddr(from); err != nil {
		return first, last, err
	}
	if first.Is4() == strings.HasPrefix(host, "[") {
		if first.Is4() {
			return first, last, fmt.Errorf("has brackets around IPv4 (want %s)", example(first))
		}
		return first, last, fmt.Errorf("looks like IPv6, which needs brackets (want %s)", example(first))
	}
	if !isRange {
		return first, first, nil
	}
	if _, err := strconv.ParseUint(to, 10, 32); err == nil {
		return first, last, fmt.Errorf("ends its range with %s (want a whole address, such as 239.1.1.1-239.1.1.16:5000)", to)
	}
	if last, err = parseAddr(to); err != nil {
		return first, last, err
	}
	switch {
	case first.Is4() != last.Is4():
		return first, last, fmt.Errorf("mixes IPv4 and IPv6 in one range, %s to %s", first, last)
	case last.Less(first):
		return first, last, fmt.Errorf("has its range reversed (want %s-%s)", last, first)
	}
	return first, last, nil
}

// parseAddr reads an IPv4 or IPv6 address without a zone.
func parseAddr(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, fmt.Errorf("has no address (want group:port, such as 239.1.1.1:5000)")
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%s is not an IP address (want group:port, such as 239.1.1.1:5000)", quote(s))
	case a.Is4In6():
		return a, fmt.Errorf("%s is IPv4 dressed as IPv6 (want %s)", s, a.Unmap())
	case a.Zone() != "":
		return a, fmt.Errorf("has the zone %s in an address (want %%%s at the end)", quote(a.Zone()), a.Zone())
	}
	return a, nil
}

// checkGroup refuses what cannot be received on. Whether a unicast address is one
// of this machine's shows when it is bound.
func checkGroup(a netip.Addr, isRange bool) error {
	switch {
	case a.IsMulticast():
		return nil
	case !isRange && !(a.Is4() && a.As4()[0] == 0 && !a.IsUnspecified()):
		return nil
	case a.Is4():
		return fmt.Errorf("%s is not a multicast address (want 224.0.0.0 to 239.255.255.255)", a)
	}
	return fmt.Errorf("%s is not a multicast address (want ff00::/8)", a)
}

// maxSources bounds a list of sources before it is cut up.
const maxSources = 4096

// parseSources reads the senders of a source-specific group, separated by commas.
func parseSources(s string, group netip.Addr) ([]netip.Addr, error) {
	if !group.IsMulticast() {
		return nil, fmt.Errorf("has a source, and %s is not a multicast address: only groups are joined by source (want %s)", group, example(group))
	}
	if n := strings.Count(s, ",") + 1; n > maxSources {
		return nil, fmt.Errorf("has %d sources, the limit is %d", n, maxSources)
	}
	var sources []netip.Addr
	seen := map[netip.Addr]bool{}
	for one := range strings.SplitSeq(s, ",") {
		a, err := parseSource(one, group)
		if err != nil {
			return nil, err
		}
		if seen[a] {
			return nil, fmt.Errorf("names source %s twice", a)
		}
		seen[a] = true
		sources = append(sources, a)
	}
	return sources, nil
}

// parseSource reads the sender of a source-specific group.
func parseSource(s string, group netip.Addr) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, fmt.Errorf("has @ without a source (want 10.0.0.1@%s, or no @)", example(group))
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("source %s is not an IP address", quote(s))
	case a.Zone() != "":
		return a, fmt.Errorf("source %s has a zone (want the interface at the end, as in %s@%s%%%s)",
			quote(s), a.WithZone(""), example(group), a.Zone())
	case a.Is4() != group.Is4():
		return a, fmt.Errorf("source %s and group %s are of different families", a, group)
	case a.IsMulticast():
		return a, fmt.Errorf("source %s is a multicast address (want the address of a sender)", a)
	case a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("source %s is no sender's address", a)
	}
	return a, nil
}

func parsePortRange(s string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if first, err = parsePort(from); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = parsePort(to); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("has its ports reversed (want %d-%d)", last, first)
	}
	return first, last, nil
}

func parsePort(s string) (uint16, error) {
	// ParseUint takes a sign of neither kind, and a port has no leading zero that
	// somebody could read as octal.
	n, err := strconv.ParseUint(s, 10, 16)
	switch {
	case s == "":
		return 0, fmt.Errorf("has no port behind the colon (want a number from 1 to 65535)")
	case err != nil || s[0] == '0' && s != "0":
		return 0, fmt.Errorf("port %s is not a number from 1 to 65535", quote(s))
	case n == 0:
		return 0, fmt.Errorf("port 0 cannot be received on (want a number from 1 to 65535)")
	}
	return uint16(n), nil
}

// expand lists a range. The limit is checked before anything is allocated.
func expand(first, last netip.Addr, firstPort, lastPort uint16, sources []netip.Addr, iface string) ([]Group, error) {
	ports := uint64(lastPort-firstPort) + 1
	from := uint64(len(sources))
	addrs, ok := count(first, last)
	switch {
	case !ok:
		return nil, fmt.Errorf("stands for more than 2^64 groups, the limit is %d", MaxGroups)
	case from > 1 && (addrs > MaxGroups || addrs*ports*from > MaxGroups):
		return nil, fmt.Errorf("stands for %d addresses of %d ports from %d sources, the limit is %d groups", addrs, ports, from, MaxGroups)
	case addrs > MaxGroups || addrs*ports > MaxGroups:
		return nil, fmt.Errorf("stands for %d addresses of %d ports, the limit is %d groups", addrs, ports, MaxGroups)
	}
	groups := make([]Group, 0, addrs*ports*from)
	for a := first; ; a = a.Next() {
		for p := uint64(firstPort); p <= uint64(lastPort); p++ {
			for _, source := range sources {
				groups = append(groups, Group{Group: netip.AddrPortFrom(a, uint16(p)), Source: source, Interface: iface})
			}
		}
		if a == last {
			return groups, nil
		}
	}
}

// count is the number of addresses from first to last; not ok where it does not
// fit 64 bits.
func count(first, last netip.Addr) (n uint64, ok bool) {
	a, b := first.As16(), last.As16()
	hi := binary.BigEndian.Uint64(b[:]) - binary.BigEndian.Uint64(a[:])
	x, y := binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:])
	if y < x {
		hi--
	}
	n = y - x + 1
	return n, hi == 0 && n != 0
}
