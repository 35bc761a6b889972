package replayer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// Mapping sends what was recorded for one destination to another, perhaps by another
// interface or with another TTL or DSCP. The zero value maps nothing. It is a value;
// ParseMapping makes it.
type Mapping struct {
	text      string // as it was given
	input     int    // number of the input that it is about, from 1; 0: all
	old       addresses
	oldPorts  ports
	new       netip.Addr // that old.first becomes; invalid: the address is kept
	newPort   uint16     // that oldPorts.first becomes, or all where that is 0; 0: the port is kept
	iface     string     // "": the replay's
	ttl, dscp int        // 0, -1: the replay's
}

// addresses are those from first to last, both included; the zero value is any.
type addresses struct {
	first, last netip.Addr
	masked      bool // written as a prefix or with *
}

func (r addresses) any() bool { return !r.first.IsValid() }

// contains never holds for an address of the other IP version: those of one stand
// together in the order of netip.Addr.
func (r addresses) contains(a netip.Addr) bool {
	return r.any() || a.BitLen() == r.first.BitLen() && r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
}

// ports are those from first to last; 0 is any.
type ports struct{ first, last uint16 }

func (r ports) contains(p uint16) bool { return r.first == 0 || r.first <= p && p <= r.last }

// ParseMapping reads OLD=NEW:
//
//	239.1.1.1:5000=239.2.1.1:6000   one destination
//	239.1.1.1=239.2.1.1             all ports of a group; each keeps its port
//	239.1.1.1:5000=239.2.1.1        one destination, which keeps its port
//	239.1.1.1=239.2.1.1:6000        all ports of a group go to one
//	239.1.0.0/16=239.2.0.0/16       a prefix; the bits behind it are kept
//	239.1.*.*=239.2.*.*             the same
//	239.1.1.1-239.1.1.16=239.2.1.1-239.2.1.16   a range to one of the same length
//	239.1.1.1-239.1.1.16=239.2.1.1  the same: NEW may name the first of a range alone
//	239.1.1.1:5000-5003=239.2.1.1:6000          ports 6000 to 6003
//	:5000=:6000                     a port, whatever the address
//	*=*                             every destination is kept
//
// IPv6 addresses with a port are written in brackets. NEW may be unicast; the
// guard then wants it to be allowed by name. OLD and NEW may be of different IP
// versions where they are single addresses.
//
// Behind NEW may stand what is different from the rest of the replay: %IFACE, ,ttl=N
// and ,dscp=N (239.1.1.1=239.2.1.1%eth2,ttl=4,dscp=46). Before OLD, inN: limits the
// mapping to the N-th input, as Options tell (in2:239.1.1.1=239.2.1.1).
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

func parseMapping(s string) (Mapping, error) {
	m := Mapping{text: s, dscp: -1}
	left, right, ok := strings.Cut(s, "=")
	if !ok {
		return m, errors.New("no = in it; write OLD=NEW, such as 239.1.1.1:5000=239.2.1.1:5000")
	}
	var err error
	if m.input, left, err = CutInput(left); err != nil {
		return m, err
	}
	if i := strings.IndexAny(right, "%,"); i >= 0 {
		if err := m.parseWay(right[i:]); err != nil {
			return m, err
		}
		right = right[:i]
	}
	if strings.Contains(right, "=") {
		return m, errors.New("more than one = in it; write one OLD=NEW at a time")
	}
	if m.old, m.oldPorts, err = parseTarget(left); err != nil {
		return m, fmt.Errorf("the recorded side, %q: %w", shorten(left), err)
	}
	to, toPorts, err := parseTarget(right)
	if err != nil {
		return m, fmt.Errorf("the new side, %q: %w", shorten(right), err)
	}
	m.new, m.newPort = to.first, toPorts.first
	if err := m.checkAddresses(to); err != nil {
		return m, err
	}
	return m, m.checkPorts(toPorts)
}

// CutInput takes the prefix inN: from a text; the number is 0 where there is none.
// Addresses never begin with "in".
func CutInput(s string) (number int, rest string, err error) {
	digits, ok := strings.CutPrefix(s, "in")
	if !ok {
		return 0, s, nil
	}
	digits, rest, ok = strings.Cut(digits, ":")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || n == 0 {
		return 0, s, fmt.Errorf("%q: an input is written in1:, in2: and so on, in the order in which they were named", shorten(s))
	}
	return int(n), rest, nil
}

func (m *Mapping) checkAddresses(to addresses) error {
	switch {
	case m.old.any() && !to.any():
		if m.oldPorts.first == 0 && to.first == to.last {
			return nil // everything to one address
		}
		fallthrough
	case !m.old.any() && to.any() && m.newPort != 0:
		return errors.New("one side has an address and the other has none; write group:port=group:port, group=group or :port=:port")
	case to.any():
		return nil
	case m.old.first == m.old.last && to.first == to.last:
		return nil
	case m.old.first.Is4() != to.first.Is4():
		return errors.New("ranges of IPv4 and IPv6 cannot be mapped to one another")
	}
	length, oldRange := difference(m.old.first, m.old.last)
	newLength, newRange := difference(to.first, to.last)
	if newRange && length != newLength || !oldRange || m.old.masked && !newRange {
		return errors.New("the sides hold different numbers of addresses; both need the same length")
	}
	if !add(to.first, length).IsValid() {
		return errors.New("the new range would end behind the last address there is")
	}
	return nil
}

func (m *Mapping) checkPorts(to ports) error {
	length := m.oldPorts.last - m.oldPorts.first
	switch {
	case to.first == 0:
		return nil
	case to.first != to.last && (m.oldPorts.first == 0 || to.last-to.first != length):
		return errors.New("the new side is a range of ports of another length; both need the same length")
	case int(to.first)+int(length) > 65535:
		return errors.New("the new range of ports would end behind 65535")
	}
	return nil
}

// parseWay reads %IFACE,ttl=N,dscp=N.
func (m *Mapping) parseWay(s string) (err error) {
	if s[0] == '%' {
		m.iface, s, _ = strings.Cut(s[1:], ",")
		if m.iface == "" || strings.Contains(m.iface, "%") {
			return errors.New("no interface behind %")
		}
		if s == "" {
			return nil
		}
	} else {
		s = s[1:]
	}
	for option := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch n, err := strconv.ParseUint(value, 10, 8); {
		case key == "ttl" && (err != nil || n == 0):
			return fmt.Errorf("ttl=%s: 1 to 255", shorten(value))
		case key == "dscp" && (err != nil || n > maxDSCP):
			return fmt.Errorf("dscp=%s: 0 to %d", shorten(value), maxDSCP)
		case key == "ttl":
			m.ttl = int(n)
		case key == "dscp":
			m.dscp = int(n)
		default:
			return fmt.Errorf("%q behind the new side; write %%IFACE, ttl=N and dscp=N, separated by commas", shorten(option))
		}
	}
	return nil
}

// parseTarget reads addresses, ports, or both.
func parseTarget(s string) (r addresses, p ports, err error) {
	host, port := s, ""
	switch {
	case s == "":
		return r, p, errors.New("it is empty")
	case strings.Contains(s, "%"):
		return r, p, errors.New("interfaces stand behind the new side; what was recorded is not told apart by them")
	case strings.Contains(s, "/"):
		r, err = parsePrefix(s)
		return r, p, err
	case s[0] == '[':
		end := strings.LastIndexByte(s, ']')
		if end < 0 {
			return r, p, errors.New("no ] behind the address")
		}
		host = s[:end+1]
		if rest := s[end+1:]; rest != "" {
			if rest[0] != ':' {
				return r, p, errors.New("only :port may stand behind the ]")
			}
			port = rest[1:]
		}
	default:
		if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || s[:i] == "*") {
			host, port = s[:i], s[i+1:]
		}
	}
	if port != "" || len(host) < len(s) {
		if p, err = parsePorts(port); err != nil {
			return r, p, err
		}
	}
	if host == "*" || host == "" {
		return r, p, nil
	}
	if strings.Contains(host, "*") {
		r, err = parseWildcard(host)
		return r, p, err
	}
	first, last, isRange := strings.Cut(host, "-")
	if r.first, err = parseAddress(first); err != nil {
		return r, p, err
	}
	if r.last = r.first; isRange {
		if r.last, err = parseAddress(last); err != nil {
			return r, p, err
		}
		if r.first.Is4() != r.last.Is4() || r.last.Less(r.first) {
			return r, p, errors.New("a range goes from an address to one behind it, of the same IP version")
		}
	}
	return r, p, nil
}

func parsePrefix(s string) (r addresses, err error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return r, errors.New("not a prefix such as 239.1.0.0/16 (a prefix has no port)")
	case p.Addr().Is4In6():
		return r, errors.New("an IPv4 address inside IPv6; write it as plain IPv4")
	case p != p.Masked():
		return r, fmt.Errorf("bits are set behind the prefix; write %s", p.Masked())
	}
	return prefixRange(p), nil
}

func prefixRange(p netip.Prefix) addresses {
	last := p.Addr().AsSlice()
	for i := range last {
		last[i] |= byte(0xFF) >> min(max(p.Bits()-8*i, 0), 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return addresses{p.Addr(), end, true}
}

// parseWildcard reads 239.1.*.*: a prefix of whole bytes.
func parseWildcard(s string) (r addresses, err error) {
	parts := strings.Split(s, ".")
	stars := 0
	for i := len(parts) - 1; i >= 0 && parts[i] == "*"; i-- {
		parts[i] = "0"
		stars++
	}
	a, err := netip.ParseAddr(strings.Join(parts, "."))
	if err != nil || !a.Is4() {
		return r, errors.New("* stands for the last numbers of an IPv4 address, such as 239.1.1.*, or for every address")
	}
	return prefixRange(netip.PrefixFrom(a, 32-8*stars)), nil
}

func parseAddress(s string) (a netip.Addr, err error) {
	host := s
	if strings.HasPrefix(s, "[") {
		if host = strings.TrimSuffix(s[1:], "]"); !strings.Contains(host, ":") {
			return a, errors.New("only IPv6 addresses stand in brackets")
		}
	}
	if a, err = netip.ParseAddr(host); err != nil {
		return a, fmt.Errorf("%q is not an IP address (names are not looked up)", shorten(host))
	}
	if a.Is4In6() {
		return a, errors.New("an IPv4 address inside IPv6; write it as plain IPv4")
	}
	if a.IsUnspecified() {
		return a, fmt.Errorf("%s is not a destination", a)
	}
	return a, nil
}

func parsePorts(s string) (p ports, err error) {
	first, last, isRange := strings.Cut(s, "-")
	if p.first, err = parsePort(first); err != nil {
		return p, err
	}
	if p.last = p.first; isRange {
		if p.last, err = parsePort(last); err != nil {
			return p, err
		}
		if p.last < p.first {
			return p, errors.New("a range of ports goes from one to one behind it")
		}
	}
	return p, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", shorten(s))
	}
	return uint16(n), nil
}

// Input is the number, from 1, of the input that the mapping is about; 0 is all.
func (m *Mapping) Input() int { return m.input }

// ForFrames tells why the mapping cannot be had with Options.Raw; nil where it can.
func (m *Mapping) ForFrames() error {
	if m.new.IsValid() && (!m.new.IsMulticast() || m.old.any() || m.old.first.Is4() != m.new.Is4()) {
		return fmt.Errorf("mapping %q: a frame can be sent to another group of the same IP version only", shorten(m.text))
	}
	return nil
}

// Apply returns where a datagram recorded for dst goes, and whether the mapping
// is about it at all, whatever the input.
func (m *Mapping) Apply(dst netip.AddrPort) (netip.AddrPort, bool) {
	a, port := dst.Addr(), dst.Port()
	if m.text == "" || !m.oldPorts.contains(port) || !m.old.contains(a) {
		return dst, false
	}
	if m.newPort != 0 {
		if m.oldPorts.first == 0 {
			port = m.newPort
		} else {
			port = m.newPort + port - m.oldPorts.first
		}
	}
	switch {
	case !m.new.IsValid():
	case m.old.any() || m.old.first == m.old.last:
		a = m.new
	default:
		n, _ := difference(m.old.first, a)
		a = add(m.new, n)
	}
	return netip.AddrPortFrom(a, port), true
}

// distance is the number of steps from one address to another.
type distance struct{ high, low uint64 }

// difference is the distance between two addresses of one IP version, and whether
// there is any.
func difference(from, to netip.Addr) (d distance, any bool) {
	f, t := from.As16(), to.As16()
	var borrow uint64
	d.low, borrow = bits.Sub64(binary.BigEndian.Uint64(t[8:]), binary.BigEndian.Uint64(f[8:]), 0)
	d.high, _ = bits.Sub64(binary.BigEndian.Uint64(t[:]), binary.BigEndian.Uint64(f[:]), borrow)
	return d, d != distance{}
}

// add is the address at a distance; the zero Addr behind the last one.
func add(a netip.Addr, d distance) netip.Addr {
	b := a.As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), d.low, 0)
	high, over := bits.Add64(binary.BigEndian.Uint64(b[:]), d.high, carry)
	binary.BigEndian.PutUint64(b[8:], low)
	binary.BigEndian.PutUint64(b[:], high)
	sum := netip.AddrFrom16(b)
	if a.Is4() {
		sum = sum.Unmap()
	}
	if over != 0 || sum.Is4() != a.Is4() {
		return netip.Addr{}
	}
	return sum
}

// String is the mapping as it was given to ParseMapping.
func (m Mapping) String() string { return m.text }

// MapDestination applies the first mapping that is about dst, and about every input.
func MapDestination(mappings []Mapping, dst netip.AddrPort) netip.AddrPort {
	_, to := findMapping(mappings, 0, dst)
	return to
}

// findMapping is the place of the first mapping that is about datagrams of an input
// (from 1) to dst, and where it leads; -1 and dst where there is none.
func findMapping(mappings []Mapping, input int, dst netip.AddrPort) (int, netip.AddrPort) {
	for i := range mappings {
		m := &mappings[i]
		if m.input != 0 && m.input != input {
			continue
		}
		if to, ok := m.Apply(dst); ok {
			return i, to
		}
	}
	return -1, dst
}
