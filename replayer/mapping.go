package replayer

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Mapping sends what was recorded for one destination to another. The zero value
// maps nothing. It is a value; ParseMapping makes it.
type Mapping struct {
	old, new netip.Prefix // invalid: any address, and the address is kept
	// 0: any port, and the port is kept.
	oldPort, newPort uint16
}

// ParseMapping reads OLD=NEW:
//
//	239.1.1.1:5000=239.2.1.1:6000   one destination
//	239.1.1.1=239.2.1.1             all ports of a group; each keeps its port
//	239.1.1.1:5000=239.2.1.1        one destination, which keeps its port
//	239.1.1.1=239.2.1.1:6000        all ports of a group go to one
//	239.1.0.0/16=239.2.0.0/16       a prefix; the bits behind it are kept
//	:5000=:6000                     a port, whatever the address
//
// IPv6 addresses with a port are written in brackets. NEW may be unicast; the
// guard then wants it to be allowed by name. OLD and NEW may be of different IP
// versions where they are single addresses.
func ParseMapping(s string) (Mapping, error) {
	m, err := parseMapping(s)
	if err != nil {
		return Mapping{}, fmt.Errorf("mapping %q: %w", shorten(s), err)
	}
	return m, nil
}

// shorten keeps what is quoted in a message readable.
func shorten(s string) string {
	const limit = 200
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}

func parseMapping(s string) (m Mapping, err error) {
	left, right, ok := strings.Cut(s, "=")
	switch {
	case !ok:
		return m, errors.New("no = in it; write OLD=NEW, such as 239.1.1.1:5000=239.2.1.1:5000")
	case strings.Contains(right, "="):
		return m, errors.New("more than one = in it; write one OLD=NEW at a time")
	}
	if m.old, m.oldPort, err = parseTarget(left); err != nil {
		return m, fmt.Errorf("the recorded side, %q: %w", shorten(left), err)
	}
	if m.new, m.newPort, err = parseTarget(right); err != nil {
		return m, fmt.Errorf("the new side, %q: %w", shorten(right), err)
	}
	switch {
	case m.old.IsValid() != m.new.IsValid():
		return m, errors.New("one side has an address and the other has none; write group:port=group:port, group=group or :port=:port")
	case !m.old.IsValid(): // :port=:port
		return m, nil
	case m.old.IsSingleIP() && m.new.IsSingleIP():
		return m, nil
	case m.old.Addr().Is4() != m.new.Addr().Is4():
		return m, errors.New("prefixes of IPv4 and IPv6 cannot be mapped to one another")
	case m.old.Bits() != m.new.Bits():
		return m, fmt.Errorf("prefixes of /%d and /%d; both sides need the same length", m.old.Bits(), m.new.Bits())
	}
	return m, nil
}

// parseTarget reads an address, an address:port, a :port or a prefix. A single
// address comes back as a prefix of its full length, no address as the zero
// prefix, no port as 0.
func parseTarget(s string) (p netip.Prefix, port uint16, err error) {
	host := s
	switch {
	case s == "":
		return p, 0, errors.New("it is empty")
	case strings.ContainsAny(s, "%"):
		return p, 0, errors.New("interfaces have no place in a mapping; everything leaves by the replay's interface")
	case strings.Contains(s, "/"):
		if p, err = netip.ParsePrefix(s); err != nil {
			return p, 0, errors.New("not a prefix such as 239.1.0.0/16 (a prefix has no port)")
		}
		if p.Addr().Is4In6() {
			return p, 0, errors.New("an IPv4 address inside IPv6; write it as plain IPv4")
		}
		if p != p.Masked() {
			return p, 0, fmt.Errorf("bits are set behind the prefix; write %s", p.Masked())
		}
		return p, 0, nil
	case s[0] == '[':
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return p, 0, errors.New("no ] behind the address")
		}
		host = s[1:end]
		if rest := s[end+1:]; rest != "" {
			if rest[0] != ':' {
				return p, 0, errors.New("only :port may stand behind the ]")
			}
			if port, err = parsePort(rest[1:]); err != nil {
				return p, 0, err
			}
		}
		if !strings.Contains(host, ":") {
			return p, 0, errors.New("only IPv6 addresses stand in brackets")
		}
	case strings.Count(s, ":") == 1:
		host, s, _ = strings.Cut(s, ":")
		if port, err = parsePort(s); err != nil {
			return p, 0, err
		}
		if host == "" {
			return p, port, nil
		}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return p, 0, fmt.Errorf("%q is not an IP address (names are not looked up)", shorten(host))
	}
	if a.Is4In6() {
		return p, 0, errors.New("an IPv4 address inside IPv6; write it as plain IPv4")
	}
	if a.IsUnspecified() {
		return p, 0, fmt.Errorf("%s is not a destination", a)
	}
	return netip.PrefixFrom(a, a.BitLen()), port, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", shorten(s))
	}
	return uint16(n), nil
}

// Apply returns where a datagram recorded for dst goes, and whether the mapping
// is about it at all.
func (m *Mapping) Apply(dst netip.AddrPort) (netip.AddrPort, bool) {
	a, port := dst.Addr(), dst.Port()
	switch {
	case !m.old.IsValid() && m.oldPort == 0, // the zero Mapping
		m.oldPort != 0 && m.oldPort != port,
		m.old.IsValid() && !m.old.Contains(a):
		return dst, false
	}
	if m.newPort != 0 {
		port = m.newPort
	}
	if m.new.IsValid() {
		a = graft(m.new, a)
	}
	return netip.AddrPortFrom(a, port), true
}

// graft returns p's bits with those of a behind them.
func graft(p netip.Prefix, a netip.Addr) netip.Addr {
	if p.IsSingleIP() {
		return p.Addr()
	}
	head, tail := p.Addr().AsSlice(), a.AsSlice()
	for i := range head {
		// keep is how many bits of this byte are the prefix's.
		keep := min(max(p.Bits()-8*i, 0), 8)
		mask := byte(0xFF) >> keep
		head[i] |= tail[i] & mask
	}
	out, _ := netip.AddrFromSlice(head)
	return out
}

// String is the mapping as ParseMapping reads it.
func (m Mapping) String() string {
	if !m.old.IsValid() && m.oldPort == 0 {
		return ""
	}
	return target(m.old, m.oldPort) + "=" + target(m.new, m.newPort)
}

func target(p netip.Prefix, port uint16) string {
	switch {
	case !p.IsValid():
		return fmt.Sprintf(":%d", port)
	case !p.IsSingleIP():
		return p.String()
	case port == 0:
		return p.Addr().String()
	}
	return netip.AddrPortFrom(p.Addr(), port).String()
}

// MapDestination applies the first mapping that is about dst.
func MapDestination(mappings []Mapping, dst netip.AddrPort) netip.AddrPort {
	for i := range mappings {
		if to, ok := mappings[i].Apply(dst); ok {
			return to
		}
	}
	return dst
}
