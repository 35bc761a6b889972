package replayer

import (
	"fmt"
	"net"
	"net/netip"

	"castdeck/internal/mcast"
)

// Stream is what a recording holds from one source to one destination.
type Stream struct {
	Src, Dst         netip.AddrPort
	Datagrams, Bytes uint64
	// Input is format.Datagram.Input of its datagrams.
	Input uint16
}

// Way is how datagrams leave.
type Way struct {
	Interface string // its name; "" where Options have none
	TTL, DSCP int
}

// Planned is what a replay does with a stream.
type Planned struct {
	Stream
	// To is the destination after the mappings, Way how datagrams leave.
	To  netip.AddrPort
	Way Way
	// Selected is false where Options.Only leaves the stream out.
	Selected bool
	// Refused is why nothing may be sent to To; nil where it may, or where the
	// stream is not selected.
	Refused *GuardError
}

// Plan tells what a replay with these options does with each stream, in the same
// order, and sends nothing. Without an Interface in the options it does not know
// the interface's broadcast addresses. The error says that the options are wrong.
func Plan(streams []Stream, o Options) ([]Planned, error) {
	p, err := newPolicy(&o)
	if err != nil {
		return nil, err
	}
	planned := make([]Planned, len(streams))
	for i, s := range streams {
		d := p.decide(s.Input, s.Src, s.Dst)
		planned[i] = Planned{Stream: s, To: d.to, Way: p.ways[d.way].Way, Selected: d.selected, Refused: d.refused}
	}
	return planned, nil
}

// Check returns a *GuardError for the first selected stream that the guard
// refuses: for a recording whose streams are known, before the first datagram.
func Check(streams []Stream, o Options) error {
	planned, err := Plan(streams, o)
	if err != nil {
		return err
	}
	for i := range planned {
		if e := planned[i].Refused; e != nil {
			return e
		}
	}
	return nil
}

// maxWays bounds the combinations of interface, TTL and DSCP: each has sockets of its
// own.
const maxWays = 64

// maxDSCP is the largest value of the six bits that RFC 2474 names so.
const maxDSCP = 63

// way is a Way with what it takes.
type way struct {
	Way
	iface *net.Interface // nil where the options have none
	guard *guard
}

// policy is what the options say about addresses. It does not change once made.
type policy struct {
	only     *mcast.Matcher
	mappings []Mapping
	to       netip.AddrPort // of what no mapping is about; invalid: as recorded
	// ways are all there are: first that of the options, then those of the mappings.
	ways       []way
	wayOf      []uint16 // of each mapping
	keepSource bool
}

func newPolicy(o *Options) (*policy, error) {
	p := &policy{mappings: o.Map, to: o.To, wayOf: make([]uint16, len(o.Map)), keepSource: o.KeepSource}
	var err error
	if p.only, err = mcast.NewMatcher(o.Only...); err != nil {
		return nil, fmt.Errorf("selected groups: %w", err)
	}
	switch {
	case o.TTL < 0 || o.TTL > 255:
		return nil, fmt.Errorf("TTL %d is not between 1 and 255", o.TTL)
	case o.DSCP < 0 || o.DSCP > maxDSCP:
		return nil, fmt.Errorf("DSCP %d is not between 0 and %d", o.DSCP, maxDSCP)
	case o.To.IsValid() && o.To.Port() == 0:
		return nil, fmt.Errorf("destination %s has no port", o.To)
	}
	usual := Way{Interface: o.Interface, TTL: max(o.TTL, 1), DSCP: o.DSCP}
	if _, err = p.way(usual, o); err != nil {
		return nil, err
	}
	for i := range o.Map {
		m, w := &o.Map[i], usual
		if err := m.ForFrames(); o.Raw && err != nil {
			return nil, err
		}
		if m.iface != "" {
			w.Interface = m.iface
		}
		if m.ttl != 0 {
			w.TTL = m.ttl
		}
		if m.text != "" && m.dscp >= 0 {
			w.DSCP = m.dscp
		}
		if p.wayOf[i], err = p.way(w, o); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// way is the number of the way in p.ways, where it is added if need be.
func (p *policy) way(w Way, o *Options) (uint16, error) {
	var iface *net.Interface
	if w.Interface != "" {
		var err error
		if iface, err = mcast.Interface(w.Interface); err != nil {
			return 0, err
		}
		w.Interface = iface.Name
	}
	for i := range p.ways {
		if p.ways[i].Way == w {
			return uint16(i), nil
		}
	}
	if len(p.ways) == maxWays {
		return 0, fmt.Errorf("more than %d combinations of interface, TTL and DSCP", maxWays)
	}
	g, err := newGuard(o, iface)
	if err != nil {
		return 0, err
	}
	p.ways = append(p.ways, way{w, iface, g})
	return uint16(len(p.ways) - 1), nil
}

// decision is what becomes of datagrams from one source to one destination.
type decision struct {
	to       netip.AddrPort
	way      uint16 // of policy.ways
	selected bool
	refused  *GuardError
}

// decide tells where a datagram goes. Only looks at the recorded addresses, the
// guard at those after the mappings.
func (p *policy) decide(input uint16, src, dst netip.AddrPort) (d decision) {
	// Batches hold plain addresses; a guard does not rely on it.
	dst = netip.AddrPortFrom(dst.Addr().Unmap().WithZone(""), dst.Port())
	at, to := findMapping(p.mappings, int(input)+1, dst)
	d.to = to
	switch {
	case at >= 0:
		d.way = p.wayOf[at]
	case p.to.IsValid():
		d.to = p.to
	}
	if d.selected = p.only.Match(src, dst); d.selected {
		d.refused = p.ways[d.way].guard.check(src, dst, d.to)
	}
	return d
}
