package pcapfilter

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/bpf"
)

// Group is a UDP destination; Source limits it to one sender, the zero Addr is any.
type Group struct {
	Dst    netip.AddrPort
	Source netip.Addr
}

// limits of the number of address ranges, tried one after another until the program
// fits; 0 is none.
var limits = [...]int{0, 2048, 1024, 256, 32, 1}

// CompileGroups makes the program that takes the datagrams of groups for which
// restrict (nil is true) is true too, and without groups everything for which it is,
// where the outer VLAN tag is in the metadata. Fragments behind the first have no port and are taken by their
// addresses; so is IPv6 with extension headers.
//
// Where so many groups do not fit into a program exact is false: it lets through
// datagrams of other groups too, but never misses one.
func CompileGroups(groups []Group, restrict *Expr) (program []bpf.RawInstruction, exact bool, err error) {
	for _, limit := range limits {
		e, whole := groupsExpr(groups, limit)
		if program, err = Compile(And(e, restrict), TagsInMetadata); err == nil {
			return program, whole, nil
		}
	}
	return nil, false, err
}

// groupsExpr is the condition of CompileGroups, with at most limit ranges of addresses
// of each family; 0 is no limit. It is nil, true always, without groups.
func groupsExpr(groups []Group, limit int) (e *Expr, exact bool) {
	var four, six []Group
	for _, g := range groups {
		if g.Dst.Addr().Is4() {
			four = append(four, g)
		} else {
			six = append(six, g)
		}
	}
	exact = true
	var f frame
	if len(four) > 0 {
		load := []bpf.Instruction{bpf.LoadAbsolute{Off: f.payload() + 16, Size: 4}}
		ranges, whole := coarser(f.spans(four), limit)
		exact = whole
		e = and(f.proto4(protoUDP), &Expr{op: opRanges, load: load, ranges: ranges})
	}
	if len(six) > 0 {
		e6, whole := f.groups6(six, limit)
		exact = exact && whole
		if e == nil {
			return e6, exact
		}
		e = or(e, e6)
	}
	return e, exact
}

// groups6 sorts out the last word of the address among groups whose first three
// words are the same.
func (f frame) groups6(groups []Group, limit int) (*Expr, bool) {
	offset := f.payload() + 24
	type prefix [3]uint32
	prefixOf := func(g Group) prefix {
		w := words4(g.Dst.Addr())
		return prefix(w[:3])
	}
	slices.SortStableFunc(groups, func(a, b Group) int {
		p, q := prefixOf(a), prefixOf(b)
		return slices.Compare(p[:], q[:])
	})
	var any *Expr
	exact, prefixes := true, 0
	for len(groups) > 0 {
		p := prefixOf(groups[0])
		n := slices.IndexFunc(groups, func(g Group) bool { return prefixOf(g) != p })
		if n < 0 {
			n = len(groups)
		}
		load := []bpf.Instruction{bpf.LoadAbsolute{Off: offset + 12, Size: 4}}
		ranges, whole := coarser(f.spans(groups[:n]), limit)
		exact = exact && whole
		e := and(and(f.equal(offset, 4, p[0]), f.equal(offset+4, 4, p[1])), f.equal(offset+8, 4, p[2]))
		e = and(e, &Expr{op: opRanges, load: load, ranges: ranges})
		if any == nil {
			any = e
		} else {
			any = or(any, e)
		}
		groups = groups[n:]
		prefixes++
	}
	if limit > 0 && prefixes > limit {
		any, exact = f.equal(offset, 1, 0xFF), false
	}
	// Hop-by-hop, routing, fragment and destination options may stand before UDP.
	return and(and(f.etherType(etherIPv6), f.anyOf(f.payload()+6, []uint32{protoUDP, 0, 43, protoFrag, 60})), any), exact
}

// spans sorts groups by the last word of their addresses. Neighbours with the same
// sources and ports are one span.
func (f frame) spans(groups []Group) []span {
	last := func(g Group) uint32 { return words4(g.Dst.Addr())[3] }
	groups = slices.Clone(groups)
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(last(a), last(b)), a.Source.Compare(b.Source), cmp.Compare(a.Dst.Port(), b.Dst.Port()))
	})
	var out []span
	shared := map[string]*Expr{} // by sources and ports
	var key strings.Builder
	for len(groups) > 0 {
		addr := last(groups[0])
		key.Reset()
		n := 0
		for n < len(groups) && last(groups[n]) == addr {
			fmt.Fprintf(&key, "%v %d,", groups[n].Source, groups[n].Dst.Port())
			n++
		}
		then, ok := shared[key.String()]
		if !ok {
			then = f.senders(groups[:n])
			shared[key.String()] = then
		}
		if k := len(out) - 1; k >= 0 && out[k].last+1 == addr && out[k].then == then {
			out[k].last = addr
		} else {
			out = append(out, span{addr, addr, then})
		}
		groups = groups[n:]
	}
	return out
}

// senders is true for the ports, and sources, of groups that have one address; they
// are in order of source and port.
func (f frame) senders(groups []Group) *Expr {
	var any *Expr
	for len(groups) > 0 {
		src := groups[0].Source
		is4 := groups[0].Dst.Addr().Is4()
		load := f.port6(destination)
		e := not(f.equal(f.payload()+6, 1, protoUDP))
		if is4 {
			load = f.port4(destination)
			e = not(f.unfragmented())
		}
		for len(groups) > 0 && groups[0].Source == src {
			first, last := groups[0].Dst.Port(), groups[0].Dst.Port()
			for groups = groups[1:]; len(groups) > 0 && groups[0].Source == src && groups[0].Dst.Port() <= last+1 && last < 65535; groups = groups[1:] {
				last = groups[0].Dst.Port()
			}
			e = or(e, within(load, uint32(first), uint32(last)))
		}
		switch {
		case src.IsValid() && is4:
			b := src.As4()
			e = and(f.equal(f.payload()+12, 4, binary.BigEndian.Uint32(b[:])), e)
		case src.IsValid():
			for i, w := range words4(src) {
				e = and(f.equal(f.payload()+8+4*uint32(i), 4, w), e)
			}
		}
		if any == nil {
			any = e
		} else {
			any = or(any, e)
		}
	}
	return any
}

// coarser joins spans over the smallest gaps until there are at most limit. What
// stands for several accepts every port.
func coarser(spans []span, limit int) ([]span, bool) {
	if limit == 0 || len(spans) <= limit {
		return spans, true
	}
	gaps := make([]uint32, len(spans)-1)
	for i := range gaps {
		gaps[i] = spans[i+1].first - spans[i].last
	}
	order := slices.Clone(gaps)
	slices.Sort(order)
	widest := order[len(spans)-limit-1] // gaps up to this one are closed
	out := spans[:1:1]
	for i, s := range spans[1:] {
		if gaps[i] <= widest {
			k := &out[len(out)-1]
			k.last, k.then = s.last, nil
		} else {
			out = append(out, s)
		}
	}
	return out, false
}
