package mcast

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Matcher selects datagrams by their addresses. The zero value and nil match
// every datagram. It does not change after NewMatcher, so any number of
// goroutines may use it.
type Matcher struct {
	rules []rule
}

// rule is one pattern. An invalid first address means any address.
type rule struct {
	sources, groups     span
	firstPort, lastPort uint16
}

type span struct{ first, last netip.Addr }

func (s *span) contains(a netip.Addr) bool {
	if !s.first.IsValid() {
		return true
	}
	return a.Is4() == s.first.Is4() && s.first.Compare(a) <= 0 && a.Compare(s.last) <= 0
}

// NewMatcher reads patterns, of which a datagram has to match one. No pattern at
// all matches everything. A pattern is
//
//	239.1.1.1                     a destination, any port; IPv6 with or without brackets
//	239.1.1.1:5000                and its port, or ports 5000-5003; IPv6 in brackets
//	239.1.0.0/16                  a prefix; 239.1.0.0/16:5000, [ff3e::]/32:5000
//	239.1.1.1-239.1.1.16:5000     a range
//	:5000                         a port of any destination
//	10.0.0.1@239.1.1.1:5000       from one source, prefix or range of sources
//	10.0.0.0/8@                   from a source to anywhere
//
// Destinations may be unicast: captures of other tools hold such datagrams too.
// The error names what is wrong and what would be right.
func NewMatcher(patterns ...string) (*Matcher, error) {
	m := &Matcher{}
	for _, p := range patterns {
		r, err := parseRule(p)
		if err != nil {
			return nil, fmt.Errorf("pattern %s: %w", quote(p), err)
		}
		m.rules = append(m.rules, r)
	}
	return m, nil
}

// Match reports whether a datagram from src to dst is selected. It allocates
// nothing. Addresses are plain IPv4 or IPv6, as in a datagram.
func (m *Matcher) Match(src, dst netip.AddrPort) bool {
	if m == nil || len(m.rules) == 0 {
		return true
	}
	port := dst.Port()
	for i := range m.rules {
		r := &m.rules[i]
		if r.firstPort <= port && port <= r.lastPort && r.groups.contains(dst.Addr()) && r.sources.contains(src.Addr()) {
			return true
		}
	}
	return false
}

func parseRule(s string) (r rule, err error) {
	r.lastPort = 65535
	if strings.TrimSpace(s) == "" {
		return r, fmt.Errorf("is empty (want group, group:port, group/prefix, :port or source@group)")
	}
	source, rest, hasSource := cutSource(s)
	if hasSource {
		if source == "" {
			return r, fmt.Errorf("has @ without a source")
		}
		if r.sources, err = parseSpan(source); err != nil {
			return r, fmt.Errorf("source: %w", err)
		}
		if rest == "" {
			return r, nil
		}
	}
	if i := strings.IndexByte(rest, '%'); i >= 0 {
		return r, fmt.Errorf("names the interface %s, and datagrams are not selected by interface (leave it out)", quote(rest[i+1:]))
	}
	host, port, hasPort := cutPort(rest)
	if host != "" {
		if r.groups, err = parseSpan(host); err != nil {
			return r, err
		}
	}
	if r.sources.first.IsValid() && r.groups.first.IsValid() && r.sources.first.Is4() != r.groups.first.Is4() {
		return r, fmt.Errorf("source and group are of different families")
	}
	if hasPort {
		if r.firstPort, r.lastPort, err = parsePortRange(port); err != nil {
			return r, err
		}
	}
	return r, nil
}

// cutPort takes :port off a pattern. Only an IPv6 address in brackets has one.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.LastIndexByte(s, ']') > i || strings.Count(s, ":") > 1 && !strings.HasPrefix(s, "[") {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// parseSpan reads an address, a prefix or a range, IPv6 with or without brackets.
func parseSpan(s string) (span, error) {
	bare := strings.NewReplacer("[", "", "]", "").Replace(s)
	if host, bits, ok := strings.Cut(bare, "/"); ok {
		return parsePrefix(host, bits)
	}
	if from, to, ok := strings.Cut(bare, "-"); ok {
		first, err := parseAddr(from)
		if err != nil {
			return span{}, err
		}
		last, err := parseAddr(to)
		switch {
		case err != nil:
			return span{}, err
		case first.Is4() != last.Is4():
			return span{}, fmt.Errorf("mixes IPv4 and IPv6 in one range, %s to %s", first, last)
		case last.Less(first):
			return span{}, fmt.Errorf("has its range reversed (want %s-%s)", last, first)
		}
		return span{first, last}, nil
	}
	a, err := parseAddr(bare)
	return span{a, a}, err
}

func parsePrefix(host, bits string) (span, error) {
	a, err := parseAddr(host)
	if err != nil {
		return span{}, err
	}
	n, err := strconv.ParseUint(bits, 10, 8)
	if err != nil || int(n) > a.BitLen() {
		return span{}, fmt.Errorf("prefix length %s is not a number from 0 to %d", quote(bits), a.BitLen())
	}
	p, err := a.Prefix(int(n))
	if err != nil {
		return span{}, err
	}
	if p.Addr() != a {
		return span{}, fmt.Errorf("%s/%d has bits behind its prefix (want %s)", a, n, p)
	}
	last := a.AsSlice()
	for i := int(n); i < a.BitLen(); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return span{a, end}, nil
}
