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
}

// Planned is what a replay does with a stream.
type Planned struct {
	Stream
	// To is the destination after the mappings.
	To netip.AddrPort
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
	var iface *net.Interface
	if o.Interface != "" {
		var err error
		if iface, err = mcast.Interface(o.Interface); err != nil {
			return nil, err
		}
	}
	p, err := newPolicy(&o, iface)
	if err != nil {
		return nil, err
	}
	planned := make([]Planned, len(streams))
	for i, s := range streams {
		to, selected, refused := p.decide(s.Src, s.Dst)
		planned[i] = Planned{Stream: s, To: to, Selected: selected, Refused: refused}
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

// policy is what the options say about addresses. It does not change once made.
type policy struct {
	only     *mcast.Matcher
	mappings []Mapping
	guard    *guard
}

func newPolicy(o *Options, iface *net.Interface) (*policy, error) {
	p := &policy{mappings: o.Map}
	var err error
	if p.only, err = mcast.NewMatcher(o.Only...); err != nil {
		return nil, fmt.Errorf("selected groups: %w", err)
	}
	if p.guard, err = newGuard(o.Allow, iface); err != nil {
		return nil, err
	}
	return p, nil
}

// decide tells where a datagram goes. Only looks at the recorded addresses, the
// guard at those after the mappings.
func (p *policy) decide(src, dst netip.AddrPort) (to netip.AddrPort, selected bool, refused *GuardError) {
	// Batches hold plain addresses; a guard does not rely on it.
	dst = netip.AddrPortFrom(dst.Addr().Unmap().WithZone(""), dst.Port())
	to = MapDestination(p.mappings, dst)
	if !p.only.Match(src, dst) {
		return to, false, nil
	}
	return to, true, p.guard.check(src, dst, to)
}
