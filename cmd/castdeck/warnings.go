package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"castdeck/format"
	"castdeck/internal/mcast"
)

// groupWarnings tells what about these groups is likely to surprise: control groups of
// the local network, source-specific groups without a source, and groups of one
// interface that share an Ethernet address. One line for each kind, with a few
// examples; none of it keeps anybody from joining.
func groupWarnings(groups []mcast.Group) []string {
	var control, sourceless examples
	type mac struct {
		iface string
		mac   [6]byte
	}
	sharing := map[mac][]netip.Addr{}
	var macs []mac // in the order in which a second group came
	for _, g := range groups {
		a := g.Group.Addr()
		if !a.IsMulticast() {
			continue
		}
		switch class := mcast.Classify(a); {
		case a.IsLinkLocalMulticast() && class != mcast.LinkLocal:
			control.add(g.Group.String())
		case class == mcast.SSM && !g.Source.IsValid():
			sourceless.add(g.Group.String())
		}
		k := mac{g.Interface, format.MulticastMAC(a)}
		known := sharing[k]
		if len(known) == 2 || slices.Contains(known, a) {
			continue // two groups are enough of an example
		}
		if sharing[k] = append(known, a); len(known) == 1 {
			macs = append(macs, k)
		}
	}
	var shared examples
	for _, k := range macs {
		m, all := k.mac, sharing[k]
		shared.add(fmt.Sprintf("%v and %v (%02x:%02x:%02x:%02x:%02x:%02x)", all[0], all[1], m[0], m[1], m[2], m[3], m[4], m[5]))
	}
	var lines []string
	if control.count > 0 {
		lines = append(lines, control.String()+": for control protocols of the local network (224.0.0.0/24, ff02::/16); no router forwards it, and switches send it to every port")
	}
	if sourceless.count > 0 {
		lines = append(lines, sourceless.String()+": source-specific (232.0.0.0/8, ff3x::/32) without a source; routers and switches may ignore the join (want SOURCE@GROUP:PORT)")
	}
	if shared.count > 0 {
		lines = append(lines, shared.String()+": groups that share an Ethernet address (RFC 1112); switches and network cards that go by it deliver both to whoever joins one")
	}
	return lines
}

// examples counts things and keeps the first few.
type examples struct {
	first []string
	count int
}

func (e *examples) add(s string) {
	const keep = 3
	if e.count++; len(e.first) < keep {
		e.first = append(e.first, s)
	}
}

// String is "a, b, c and 7 more".
func (e *examples) String() string {
	s := strings.Join(e.first, ", ")
	if n := e.count - len(e.first); n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}
