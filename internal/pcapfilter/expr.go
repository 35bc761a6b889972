package pcapfilter

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/net/bpf"
)

// Expr is a condition on an Ethernet frame. It is immutable.
type Expr struct {
	op   op
	a, b *Expr
	// load leaves in the accumulator what opTest compares.
	load  []bpf.Instruction
	cond  bpf.JumpTest // JumpEqual, JumpGreaterThan or JumpGreaterOrEqual
	value uint32
	// tags of opVLAN that stand before this one, and its number or -1.
	tags, id int
	// ranges of opRanges: disjoint, in order, of what load leaves.
	ranges []span
}

type op uint8

const (
	opTest op = iota
	opAnd
	opOr
	opNot
	opVLAN
	opRanges
)

// span is a range of values and what has to be true of those in it.
type span struct {
	first, last uint32
	then        *Expr
}

func and(a, b *Expr) *Expr { return &Expr{op: opAnd, a: a, b: b} }
func or(a, b *Expr) *Expr  { return &Expr{op: opOr, a: a, b: b} }
func not(a *Expr) *Expr    { return &Expr{op: opNot, a: a} }

// And is true where both are; nil is true always.
func And(a, b *Expr) *Expr {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return and(a, b)
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherIPv6 = 0x86DD

	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
	protoFrag = 44 // IPv6 fragment header

	etherHeader = 14
	ipv6Header  = 40
)

var (
	transport  = map[string]uint32{"tcp": protoTCP, "udp": protoUDP, "sctp": protoSCTP}
	wireLength = []bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtLen}}
)

type direction uint8

const (
	source direction = iota
	destination
	either
)

// of is the condition for the direction, or for one of both, the source first.
func (d direction) of(f func(direction) *Expr) *Expr {
	if d == either {
		return or(f(source), f(destination))
	}
	return f(d)
}

// frame knows where things are in a frame with so many VLAN tags before them.
// Compile knows how many of them are in the frame and not in its metadata.
type frame struct{ tags int }

// tagUnit is added to an offset for each tag. No other offset comes near it.
const tagUnit = 1 << 20

func (f frame) link() uint32    { return 12 + uint32(f.tags)*tagUnit }
func (f frame) payload() uint32 { return etherHeader + uint32(f.tags)*tagUnit }

func (f frame) test(off uint32, size int, cond bpf.JumpTest, value uint32) *Expr {
	return &Expr{op: opTest, load: []bpf.Instruction{bpf.LoadAbsolute{Off: off, Size: size}}, cond: cond, value: value}
}

func (f frame) equal(off uint32, size int, value uint32) *Expr {
	return f.test(off, size, bpf.JumpEqual, value)
}

func (f frame) masked(off uint32, size int, mask, value uint32) *Expr {
	return &Expr{op: opTest, cond: bpf.JumpEqual, value: value, load: []bpf.Instruction{
		bpf.LoadAbsolute{Off: off, Size: size}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask}}}
}

func (f frame) vlan(id int) *Expr { return &Expr{op: opVLAN, tags: f.tags, id: id} }

func (f frame) mac(off uint32, mac [6]byte) *Expr {
	return and(f.equal(off+2, 4, binary.BigEndian.Uint32(mac[2:])), f.equal(off, 2, uint32(binary.BigEndian.Uint16(mac[:]))))
}

func (f frame) etherType(t uint32) *Expr { return f.equal(f.link(), 2, t) }

// protocol is a protocol's name alone.
func (f frame) protocol(name string) *Expr {
	switch name {
	case "ip":
		return f.etherType(etherIPv4)
	case "ip6":
		return f.etherType(etherIPv6)
	case "arp":
		return f.etherType(etherARP)
	case "rarp":
		return f.etherType(etherRARP)
	case "icmp":
		return f.proto4(1)
	case "igmp":
		return f.proto4(2)
	case "vrrp":
		return f.proto4(112)
	case "icmp6":
		return f.proto6(58)
	case "pim":
		return or(f.proto6(103), f.proto4(103))
	}
	return or(f.proto6(transport[name]), f.proto4(transport[name]))
}

func (f frame) proto4(n uint32) *Expr {
	return and(f.etherType(etherIPv4), f.equal(f.payload()+9, 1, n))
}

// proto6 looks behind a fragment header, and no other.
func (f frame) proto6(n uint32) *Expr {
	next := f.payload() + 6
	fragment := and(f.equal(next, 1, protoFrag), f.equal(f.payload()+ipv6Header, 1, n))
	return and(f.etherType(etherIPv6), or(f.equal(next, 1, n), fragment))
}

// net4 is a network of IPv4 in the headers of ip, arp or rarp.
func (f frame) net4(proto string, dir direction, n netip.Prefix) *Expr {
	offsets := [2]uint32{12, 16}
	if proto != "ip" {
		offsets = [2]uint32{14, 24}
	}
	b := n.Addr().As4()
	if n.Bits() == 0 {
		return f.protocol(proto)
	}
	return dir.of(func(d direction) *Expr {
		return and(f.protocol(proto), f.word(f.payload()+offsets[d], binary.BigEndian.Uint32(b[:]), n.Bits()))
	})
}

// word compares the first bits, at most 32, of the word at off.
func (f frame) word(off, value uint32, bits int) *Expr {
	if bits == 32 {
		return f.equal(off, 4, value)
	}
	return f.masked(off, 4, ^uint32(0)<<(32-bits), value)
}

func (f frame) net6(dir direction, n netip.Prefix) *Expr {
	w := words4(n.Addr())
	return dir.of(func(d direction) *Expr {
		e := f.etherType(etherIPv6)
		for i := range w {
			if bits := min(n.Bits()-32*i, 32); bits > 0 {
				e = and(e, f.word(f.payload()+8+16*uint32(d)+4*uint32(i), w[i], bits))
			}
		}
		return e
	})
}

// unfragmented is true for the first fragment too, which has the ports.
func (f frame) unfragmented() *Expr { return f.masked(f.payload()+6, 2, 0x1FFF, 0) }

// within is a port behind what load puts before it.
func within(load []bpf.Instruction, first, last uint32) *Expr {
	if first == last {
		return &Expr{op: opTest, load: load, cond: bpf.JumpEqual, value: first}
	}
	return and(&Expr{op: opTest, load: load, cond: bpf.JumpGreaterOrEqual, value: first},
		not(&Expr{op: opTest, load: load, cond: bpf.JumpGreaterThan, value: last}))
}

func (f frame) port4(d direction) []bpf.Instruction {
	return []bpf.Instruction{bpf.LoadMemShift{Off: f.payload()}, bpf.LoadIndirect{Off: f.payload() + 2*uint32(d), Size: 2}}
}

func (f frame) port6(d direction) []bpf.Instruction {
	return []bpf.Instruction{bpf.LoadAbsolute{Off: f.payload() + ipv6Header + 2*uint32(d), Size: 2}}
}

func (f frame) ports4(protos []uint32, dir direction, first, last uint32) *Expr {
	ports := and(f.unfragmented(), dir.of(func(d direction) *Expr { return within(f.port4(d), first, last) }))
	return and(f.etherType(etherIPv4), and(f.anyOf(f.payload()+9, protos), ports))
}

func (f frame) ports6(protos []uint32, dir direction, first, last uint32) *Expr {
	ports := dir.of(func(d direction) *Expr { return within(f.port6(d), first, last) })
	return and(f.etherType(etherIPv6), and(f.anyOf(f.payload()+6, protos), ports))
}

func (f frame) anyOf(off uint32, values []uint32) *Expr {
	e := f.equal(off, 1, values[0])
	for _, v := range values[1:] {
		e = or(e, f.equal(off, 1, v))
	}
	return e
}

// Tags says where the outer VLAN tag of a frame is as the program sees it.
type Tags uint8

const (
	// TagsInFrame: all tags are in the frame, as on the wire and in files.
	TagsInFrame Tags = iota
	// TagsInMetadata: Linux has taken the outer tag off before a packet socket's
	// filter runs and tells it beside (skb_vlan_untag, net/core/dev.c); inner tags are
	// in the frame. A condition without vlan before it is then true within a tag too.
	TagsInMetadata
)

// MaxProgram is the kernel's limit of instructions (BPF_MAXINSNS).
const MaxProgram = 4096

// accept is the number of bytes that an accepted packet is cut to: none.
const accept = 256 << 10

var errLong = errors.New("filter: needs more than the 4096 instructions that the kernel takes; shorten it")

// Compile makes the program. The error is that it would be too long.
func Compile(e *Expr, tags Tags) ([]bpf.RawInstruction, error) {
	c := compiler{metadata: tags == TagsInMetadata, hops: map[int]int{}}
	no := c.emit(bpf.RetConstant{Val: 0})
	yes := c.emit(bpf.RetConstant{Val: accept})
	c.expr(e, yes, no)
	if len(c.code) > MaxProgram {
		return nil, errLong
	}
	forward := make([]bpf.Instruction, len(c.code))
	for i, in := range c.code {
		forward[len(c.code)-1-i] = in
	}
	return bpf.Assemble(forward)
}

// compiler writes a program from its end to its beginning, so that the place of
// every target is known when a jump to it is written. A label is the length of the
// code when its instruction was the last one written.
type compiler struct {
	code     []bpf.Instruction
	metadata bool
	hops     map[int]int // by far label, the jump to it that was written last
}

func (c *compiler) emit(in bpf.Instruction) int {
	c.code = append(c.code, in)
	return len(c.code)
}

// expr writes what goes on at yes or at no, and returns where it begins.
func (c *compiler) expr(e *Expr, yes, no int) int {
	if len(c.code) > MaxProgram {
		return len(c.code) // too long already
	}
	switch e.op {
	case opAnd:
		return c.expr(e.a, c.expr(e.b, yes, no), no)
	case opOr:
		return c.expr(e.a, yes, c.expr(e.b, yes, no))
	case opNot:
		return c.expr(e.a, no, yes)
	case opVLAN:
		return c.vlan(e, yes, no)
	case opRanges:
		then := map[*Expr]int{nil: yes} // written once for all spans that share it
		for _, s := range e.ranges {
			if _, ok := then[s.then]; !ok {
				then[s.then] = c.expr(s.then, yes, no)
			}
		}
		c.search(e.ranges, then, no)
		return c.load(e.load)
	}
	c.jump(e.cond, e.value, yes, no)
	return c.load(e.load)
}

func (c *compiler) load(load []bpf.Instruction) int {
	for i := len(load) - 1; i >= 0; i-- {
		switch in := load[i].(type) {
		case bpf.LoadAbsolute:
			in.Off = c.place(in.Off)
			c.emit(in)
		case bpf.LoadIndirect:
			in.Off = c.place(in.Off)
			c.emit(in)
		case bpf.LoadMemShift:
			in.Off = c.place(in.Off)
			c.emit(in)
		default:
			c.emit(in)
		}
	}
	return len(c.code)
}

// place turns the tags in an offset into the bytes that they take in the frame.
func (c *compiler) place(off uint32) uint32 {
	n := off / tagUnit
	if c.metadata && n > 0 {
		n--
	}
	return off%tagUnit + 4*n
}

func (c *compiler) vlan(e *Expr, yes, no int) int {
	if c.metadata && e.tags == 0 {
		if e.id >= 0 {
			yes = c.expr(&Expr{op: opTest, cond: bpf.JumpEqual, value: uint32(e.id), load: []bpf.Instruction{
				bpf.LoadExtension{Num: bpf.ExtVLANTag}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x0FFF}}}, yes, no)
		}
		present := &Expr{op: opTest, cond: bpf.JumpEqual, value: 0, load: []bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtVLANTagPresent}}}
		return c.expr(present, no, yes)
	}
	f := frame{e.tags}
	tagged := or(or(f.etherType(0x8100), f.etherType(0x88A8)), f.etherType(0x9100))
	if e.id >= 0 {
		tagged = and(tagged, f.masked(f.payload(), 2, 0x0FFF, uint32(e.id)))
	}
	return c.expr(tagged, yes, no)
}

// reach is how far a conditional jump goes for certain: 255 less the jumps that may
// be written before it.
const reach = 250

func (c *compiler) jump(cond bpf.JumpTest, value uint32, yes, no int) {
	yes, no = c.near(yes), c.near(no)
	n := len(c.code)
	c.emit(bpf.JumpIf{Cond: cond, Val: value, SkipTrue: uint8(n - yes), SkipFalse: uint8(n - no)})
}

// near is a label within reach from which the code goes on at label.
func (c *compiler) near(label int) int {
	n := len(c.code)
	if n-label <= reach {
		return label
	}
	if hop, ok := c.hops[label]; ok && n-hop <= reach {
		return hop
	}
	c.hops[label] = c.emit(bpf.Jump{Skip: uint32(n - label)})
	return c.hops[label]
}

// linear is the number of ranges up to which each is tried: a tree costs two
// instructions for each, a list one.
const linear = 8

// search writes a decision tree over ranges of the accumulator.
func (c *compiler) search(ranges []span, then map[*Expr]int, no int) int {
	if len(c.code) > MaxProgram {
		return len(c.code)
	}
	if len(ranges) > linear {
		mid := len(ranges) / 2
		low := c.search(ranges[:mid], then, no)
		high := c.search(ranges[mid:], then, no)
		c.jump(bpf.JumpGreaterOrEqual, ranges[mid].first, high, low)
		return len(c.code)
	}
	next := no
	for i := len(ranges) - 1; i >= 0; i-- {
		s := ranges[i]
		if yes := then[s.then]; s.first == s.last {
			c.jump(bpf.JumpEqual, s.first, yes, next)
		} else {
			c.jump(bpf.JumpGreaterThan, s.last, next, yes)
			c.jump(bpf.JumpGreaterOrEqual, s.first, len(c.code), no)
		}
		next = len(c.code)
	}
	return next
}
