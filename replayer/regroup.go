package replayer

import "castdeck/internal/sock"

// A run (UDP_SEGMENT) holds neighbours to one destination only, so a feed that goes to
// sixteen groups in turn has none. At full speed, where no datagram has a time of its
// own, the datagrams of a batch are therefore put together by destination before they
// are sent. Each destination keeps its order, whoever the sources are, and no datagram
// leaves the batch that it was read with: some hundred to some thousand. 256 bytes to 16
// groups on a veth pair: 271 thousand a second without, 943 with it.
//
// Mixed sizes gain a fifth (278 and 339): a run has one size, and only its last datagram
// may be shorter; to look for equal sizes would change the order within a destination.

// bunches is how many destinations are told apart; a power of two. Those that meet in
// one place are kept in their common order, which costs runs and nothing else.
const bunches = 4096

// regrouper puts the entries of slots together. The zero value is ready; it belongs to
// the feeder.
type regrouper struct {
	places [bunches]bunch
	slot   uint64  // number of the slot that the bunches in use belong to
	used   []int32 // places of this slot, in order of first appearance
	next   []int32 // entry of the same bunch behind each entry, -1 behind the last
	order  []int32 // old places of the entries, in their new order
	spare  []entry
	unused sock.Messages
	moved  uint64 // datagrams that got another place
}

// bunch is a list of entries.
type bunch struct {
	slot        uint64
	first, last int32
}

// regroup changes the order of a slot's entries and messages. It allocates only where a
// slot is larger than those before it.
func (g *regrouper) regroup(s *slot) {
	n := len(s.entries)
	if n < 3 {
		return
	}
	g.slot++
	g.used, g.next, g.order = g.used[:0], grown(g.next, n), grown(g.order, n)
	for i := range s.entries {
		e := &s.entries[i]
		at := int32(e.counts.number & (bunches - 1))
		b := &g.places[at]
		if b.slot != g.slot {
			*b = bunch{g.slot, int32(i), int32(i)}
			g.used = append(g.used, at)
		} else {
			g.next[b.last] = int32(i)
			b.last = int32(i)
		}
		g.next[i] = -1
	}
	if len(g.used) == 1 {
		return
	}
	to := 0
	for _, at := range g.used {
		for i := g.places[at].first; i >= 0; i = g.next[i] {
			if g.order[to] = i; int(i) != to {
				g.moved++
			}
			to++
		}
	}
	if cap(g.spare) < n {
		g.spare = make([]entry, 0, cap(s.entries))
	}
	g.spare = g.spare[:n]
	for to, from := range g.order {
		g.spare[to] = s.entries[from]
	}
	s.entries, g.spare = g.spare, s.entries
	s.messages.Reorder(g.order, &g.unused)
}

// grown is of with length n; what it held is lost.
func grown(of []int32, n int) []int32 {
	if cap(of) < n {
		return make([]int32, n, n+n/2)
	}
	return of[:n]
}
