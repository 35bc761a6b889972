// Package pcapfilter turns a subset of the pcap filter language, pcap-filter(7),
// into programs for the kernel's packet filter. What it takes means what it means
// to tcpdump, packet by packet; what it does not take it refuses, by name.
//
//	host, net, port, portrange     with src or dst, and ip, ip6, arp, rarp, tcp, udp, sctp before
//	ether host|src|dst MAC         ether proto, ip proto, ip6 proto, proto NUMBER
//	ip ip6 arp rarp tcp udp sctp icmp icmp6 igmp pim vrrp
//	vlan [ID]                      what stands behind it is looked for within the tag
//	multicast, broadcast           ip multicast, ip6 multicast
//	less N, greater N, len > N
//	udp[4:2] & 0xff00 != 0         one byte test: protocol, offset, size, perhaps a mask
//	and or not && || ! ( )
//
// "and" and "or" bind alike, from the left, as in pcap-filter(7). Addresses and
// ports are numbers: a filter that depends on a name server is none.
package pcapfilter

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
)

const (
	// maxSource is the longest expression in bytes, maxDepth the deepest nesting.
	maxSource = 16 << 10
	maxDepth  = 64
)

// Error is what is wrong with an expression.
type Error struct {
	// Pos is the byte, from 1, at which Word stands; Word is empty at the end.
	Pos    int
	Word   string
	Reason string
}

func (e *Error) Error() string {
	if e.Word == "" {
		return "filter: at the end: " + e.Reason
	}
	word := e.Word
	if len(word) > 40 {
		word = word[:40] + "..."
	}
	return fmt.Sprintf("filter: %q at byte %d: %s", word, e.Pos, e.Reason)
}

// Parse reads an expression. Every error is an *Error.
func Parse(s string) (*Expr, error) {
	if len(s) > maxSource {
		return nil, &Error{maxSource + 1, s[maxSource:], fmt.Sprintf("longer than %d bytes", maxSource)}
	}
	p := parser{words: split(s), end: len(s) + 1}
	e, err := p.expr(0)
	if err != nil {
		return nil, err
	}
	if w := p.peek(); w != "" {
		if w == ")" {
			return nil, p.errorf("no parenthesis is open")
		}
		return nil, p.errorf("want and, or, or the end of the expression")
	}
	return e, nil
}

type word struct {
	text string
	pos  int
}

// split cuts an expression into words and signs.
func split(s string) []word {
	var words []word
	for i := 0; i < len(s); {
		n := 1
		switch c := s[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
			continue
		case strings.IndexByte("!<>=", c) >= 0:
			if i+1 < len(s) && s[i+1] == '=' {
				n = 2
			}
		case c == '&' || c == '|':
			if i+1 < len(s) && s[i+1] == c {
				n = 2
			}
		case strings.IndexByte("()[]", c) >= 0:
		default:
			for i+n < len(s) && strings.IndexByte(" \t\n\r!<>=&|()[]", s[i+n]) < 0 {
				n++
			}
		}
		words = append(words, word{s[i : i+n], i + 1})
		i += n
	}
	return words
}

type parser struct {
	words []word
	next  int
	end   int
	tags  int // of VLAN, that were asked for so far
}

func (p *parser) peek() string { return p.ahead(0) }

func (p *parser) ahead(n int) string {
	if p.next+n < len(p.words) {
		return p.words[p.next+n].text
	}
	return ""
}

func (p *parser) take() string {
	w := p.peek()
	p.next++
	return w
}

// accept takes the next word where it is w.
func (p *parser) accept(w string) bool {
	if p.peek() == w {
		p.next++
		return true
	}
	return false
}

// errorf is about the next word.
func (p *parser) errorf(format string, args ...any) error {
	return p.errorAt(p.next, format, args...)
}

func (p *parser) errorAt(n int, format string, args ...any) error {
	e := &Error{Pos: p.end, Reason: fmt.Sprintf(format, args...)}
	if n < len(p.words) {
		e.Pos, e.Word = p.words[n].pos, p.words[n].text
	}
	return e
}

func (p *parser) expr(depth int) (*Expr, error) {
	left, err := p.term(depth)
	for err == nil {
		op := opAnd
		switch p.peek() {
		case "and", "&&":
		case "or", "||":
			op = opOr
		default:
			return left, nil
		}
		p.next++
		var right *Expr
		right, err = p.term(depth)
		left = &Expr{op: op, a: left, b: right}
	}
	return nil, err
}

func (p *parser) term(depth int) (*Expr, error) {
	if depth > maxDepth {
		return nil, p.errorf("nested deeper than %d", maxDepth)
	}
	switch p.peek() {
	case "not", "!":
		p.next++
		e, err := p.term(depth + 1)
		return not(e), err
	case "(":
		p.next++
		e, err := p.expr(depth + 1)
		if err != nil {
			return nil, err
		}
		if !p.accept(")") {
			return nil, p.errorf("want ) here")
		}
		return e, nil
	}
	return p.primitive()
}

// protocols are the words that stand alone or before host, port and the like.
var protocols = map[string]bool{
	"ether": true, "ip": true, "ip6": true, "arp": true, "rarp": true, "tcp": true, "udp": true, "sctp": true,
	"icmp": true, "icmp6": true, "igmp": true, "pim": true, "vrrp": true,
}

func (p *parser) primitive() (*Expr, error) {
	at := p.next
	f := frame{p.tags}
	switch p.peek() {
	case "":
		return nil, p.errorf("a condition is missing, such as udp or host 239.1.1.1")
	case "vlan":
		p.next++
		id := -1
		if w := p.peek(); w != "" && w[0] >= '0' && w[0] <= '9' {
			n, err := p.number(4095, "a VLAN number")
			if err != nil {
				return nil, err
			}
			id = int(n)
		}
		p.tags++
		return f.vlan(id), nil
	case "multicast":
		p.next++
		return f.masked(0, 1, 1, 1), nil
	case "broadcast":
		p.next++
		return f.mac(0, [6]byte{255, 255, 255, 255, 255, 255}), nil
	case "less", "greater":
		cond, negate := bpf.JumpGreaterOrEqual, false
		if p.take() == "less" {
			cond, negate = bpf.JumpGreaterThan, true
		}
		n, err := p.number(math.MaxUint32, "a length")
		if err != nil {
			return nil, err
		}
		return negated(&Expr{op: opTest, load: wireLength, cond: cond, value: n}, negate), nil
	case "len":
		p.next++
		return p.relation(wireLength)
	}
	proto := ""
	if protocols[p.peek()] {
		proto = p.take()
		switch p.peek() {
		case "[":
			return p.bytes(at, proto, f)
		case "multicast", "broadcast":
			return p.cast(at, proto, f)
		}
	}
	dir := either
	switch {
	case p.accept("src"):
		dir = source
	case p.accept("dst"):
		dir = destination
	}
	if (dir != either) && (p.peek() == "or" || p.peek() == "and") {
		return nil, p.errorAt(at, "%s %s is not supported; write both conditions out", p.ahead(-1), p.peek())
	}
	switch p.peek() {
	case "host":
		p.next++
		return p.host(at, proto, dir, f)
	case "net":
		p.next++
		return p.net(at, proto, dir, f)
	case "port", "portrange":
		return p.port(at, proto, dir, f)
	case "proto":
		if dir != either {
			return nil, p.errorf("has no %s", p.ahead(-1))
		}
		p.next++
		return p.proto(at, proto, f)
	}
	if dir != either {
		return p.host(at, proto, dir, f)
	}
	switch proto {
	case "":
		return nil, p.refuse()
	case "ether":
		return nil, p.errorf("want host, src, dst or proto behind ether")
	}
	return f.protocol(proto), nil
}

// refuse says why the next word cannot begin a condition.
func (p *parser) refuse() error {
	w := p.peek()
	if _, err := netip.ParseAddr(w); err == nil || w[0] >= '0' && w[0] <= '9' {
		return p.errorf("a value without its keyword; write host, net or port before each")
	}
	return p.errorf("not supported (have host, net, port, portrange, src, dst, proto, ether, ip, ip6, arp, rarp, tcp, udp, sctp, icmp, icmp6, igmp, pim, vrrp, vlan, multicast, broadcast, less, greater, len, udp[4:2])")
}

func (p *parser) number(limit uint64, what string) (uint32, error) {
	n, ok := parseNumber(p.peek(), limit)
	if !ok {
		return 0, p.errorf("want %s, a number up to %d", what, limit)
	}
	p.next++
	return n, nil
}

// parseNumber takes decimal and 0x; a leading 0, which is octal to some, is none.
func parseNumber(s string, limit uint64) (uint32, bool) {
	digits, base := s, 10
	if h, ok := strings.CutPrefix(s, "0x"); ok {
		digits, base = h, 16
	} else if len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, base, 32)
	return uint32(n), err == nil && n <= limit
}

func (p *parser) host(at int, proto string, dir direction, f frame) (*Expr, error) {
	w := p.peek()
	if proto == "ether" {
		mac, err := net.ParseMAC(w)
		if err != nil || len(mac) != 6 || strings.Count(w, ":") != 5 {
			return nil, p.errorf("want an Ethernet address, such as 01:00:5e:01:01:01")
		}
		p.next++
		return dir.of(func(d direction) *Expr { return f.mac(6*(1-uint32(d)), [6]byte(mac)) }), nil
	}
	a, err := netip.ParseAddr(w)
	if err != nil || a.Zone() != "" {
		return nil, p.errorf("want an IP address in numbers, such as 239.1.1.1")
	}
	p.next++
	return p.prefix(at, proto, dir, f, netip.PrefixFrom(a, a.BitLen()))
}

func (p *parser) net(at int, proto string, dir direction, f frame) (*Expr, error) {
	prefix, err := netip.ParsePrefix(p.peek())
	if err != nil {
		return nil, p.errorf("want a network with its length, such as 239.1.0.0/16")
	}
	if prefix != prefix.Masked() {
		return nil, p.errorf("has bits set behind its length; %v would be the network", prefix.Masked())
	}
	p.next++
	return p.prefix(at, proto, dir, f, prefix)
}

func (p *parser) prefix(at int, proto string, dir direction, f frame, n netip.Prefix) (*Expr, error) {
	if n.Addr().Is4In6() {
		return nil, p.errorAt(p.next-1, "an IPv4 address in IPv6; write it as IPv4")
	}
	is4 := n.Addr().Is4()
	switch {
	case proto == "" && is4:
		return or(or(f.net4("ip", dir, n), f.net4("arp", dir, n)), f.net4("rarp", dir, n)), nil
	case is4 && (proto == "ip" || proto == "arp" || proto == "rarp"):
		return f.net4(proto, dir, n), nil
	case !is4 && (proto == "" || proto == "ip6"):
		return f.net6(dir, n), nil
	}
	return nil, p.errorAt(at, "%s has no such address", proto)
}

func (p *parser) port(at int, proto string, dir direction, f frame) (*Expr, error) {
	if proto != "" && transport[proto] == 0 {
		return nil, p.errorAt(at, "%s has no ports", proto)
	}
	var first, last uint32
	if p.take() == "port" {
		n, err := p.number(math.MaxUint16, "a port")
		if err != nil {
			return nil, err
		}
		first, last = n, n
	} else {
		a, b, _ := strings.Cut(p.peek(), "-")
		var okA, okB bool
		first, okA = parseNumber(a, math.MaxUint16)
		last, okB = parseNumber(b, math.MaxUint16)
		if !okA || !okB || first > last {
			return nil, p.errorf("want a range of ports, such as 5000-5003")
		}
		p.next++
	}
	list := []uint32{protoTCP, protoUDP, protoSCTP}
	if proto != "" {
		list = []uint32{transport[proto]}
	}
	return or(f.ports6(list, dir, first, last), f.ports4(list, dir, first, last)), nil
}

func (p *parser) proto(at int, proto string, f frame) (*Expr, error) {
	if proto == "ether" {
		pos := p.next
		n, err := p.number(math.MaxUint16, "an EtherType")
		if err == nil && (n < 0x600 || n == 0x809B || n == 0x80F3) {
			err = p.errorAt(pos, "an LLC or AppleTalk frame is not supported")
		}
		return f.etherType(n), err
	}
	if proto != "" && proto != "ip" && proto != "ip6" {
		return nil, p.errorAt(at, "%s proto is not supported (have ip proto, ip6 proto, ether proto, proto)", proto)
	}
	n, err := p.number(255, "a protocol")
	if err != nil {
		return nil, err
	}
	switch proto {
	case "ip":
		return f.proto4(n), nil
	case "ip6":
		return f.proto6(n), nil
	}
	return or(f.proto4(n), f.proto6(n)), nil
}

func (p *parser) cast(at int, proto string, f frame) (*Expr, error) {
	switch kind := p.take(); {
	case proto == "ether" && kind == "multicast":
		return f.masked(0, 1, 1, 1), nil
	case proto == "ether":
		return f.mac(0, [6]byte{255, 255, 255, 255, 255, 255}), nil
	case proto == "ip" && kind == "multicast":
		return and(f.etherType(etherIPv4), f.test(f.payload()+16, 1, bpf.JumpGreaterOrEqual, 224)), nil
	case proto == "ip6" && kind == "multicast":
		return and(f.etherType(etherIPv6), f.test(f.payload()+24, 1, bpf.JumpEqual, 255)), nil
	default:
		return nil, p.errorAt(at, "%s %s is not supported", proto, kind)
	}
}

// bytes reads a test of bytes: proto[offset:size] and a relation.
func (p *parser) bytes(at int, proto string, f frame) (*Expr, error) {
	p.next++ // [
	offText, sizeText, sized := strings.Cut(p.peek(), ":")
	off, ok := parseNumber(offText, math.MaxUint16)
	size := uint32(1)
	if sized && ok {
		size, ok = parseNumber(sizeText, 4)
	}
	if !ok || size != 1 && size != 2 && size != 4 {
		return nil, p.errorf("want offset:size, a number and 1, 2 or 4, such as udp[4:2]")
	}
	p.next++
	if !p.accept("]") {
		return nil, p.errorf("want ] here")
	}
	var guard *Expr
	var load []bpf.Instruction
	switch proto {
	case "ether":
		load = []bpf.Instruction{bpf.LoadAbsolute{Off: off, Size: int(size)}}
	case "ip", "ip6", "arp", "rarp":
		guard = f.protocol(proto)
		load = []bpf.Instruction{bpf.LoadAbsolute{Off: f.payload() + off, Size: int(size)}}
	case "icmp6":
		return nil, p.errorAt(at, "bytes of icmp6 are not supported; use ip6[40]")
	default:
		guard = and(and(f.etherType(etherIPv4), f.protocol(proto)), f.unfragmented())
		load = []bpf.Instruction{bpf.LoadMemShift{Off: f.payload()}, bpf.LoadIndirect{Off: f.payload() + off, Size: int(size)}}
	}
	e, err := p.relation(load)
	if err != nil || guard == nil {
		return e, err
	}
	return and(guard, e), nil
}

// relation reads [& mask] op value, for what load leaves in the accumulator.
func (p *parser) relation(load []bpf.Instruction) (*Expr, error) {
	if p.accept("&") {
		mask, err := p.number(math.MaxUint32, "a mask")
		if err != nil {
			return nil, err
		}
		load = append(load[:len(load):len(load)], bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
	}
	cond, negate := bpf.JumpEqual, false
	switch p.peek() {
	case "=", "==":
	case "!=":
		negate = true
	case ">":
		cond = bpf.JumpGreaterThan
	case ">=":
		cond = bpf.JumpGreaterOrEqual
	case "<":
		cond, negate = bpf.JumpGreaterOrEqual, true
	case "<=":
		cond, negate = bpf.JumpGreaterThan, true
	default:
		return nil, p.errorf("want one of = != > >= < <=, and a number")
	}
	p.next++
	n, err := p.number(math.MaxUint32, "a value")
	if err != nil {
		return nil, err
	}
	return negated(&Expr{op: opTest, load: load, cond: cond, value: n}, negate), nil
}

func negated(e *Expr, negate bool) *Expr {
	if negate {
		return not(e)
	}
	return e
}

// words4 are the four words of an IPv6 address.
func words4(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return w
}
