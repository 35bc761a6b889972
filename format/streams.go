package format

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
)

// StreamID is what makes a stream one: a source that sends to a group and port,
// received on one interface.
type StreamID struct {
	Src, Dst  netip.AddrPort
	Interface uint16
}

// StreamEntry is a stream and what is kept for it.
type StreamEntry[T any] struct {
	StreamID
	Value T
}

// StreamTable finds what is kept for a datagram's stream, hardly ever by a hash. The
// zero value is ready and holds MaxStreams.
type StreamTable[T any] struct {
	// Limit of streams, where it is not 0.
	Limit int
	// Room is how many more streams this table and others of the same goroutine may have
	// together, where it is not nil.
	Room *int

	entries []*StreamEntry[T]
	// slots are the entries by the hash of their stream: index + 1, or 0; a power of two of
	// them, at most half full. A map would keep each StreamID, 72 bytes, once more.
	slots []uint32
	seed  maphash.Seed
	// recent are the streams of the latest datagrams, each at a place that follows
	// from its addresses, so that the slots are hardly ever asked.
	recent [256]*StreamEntry[T]
}

// Find is d's stream; fresh says that it was not there before. nil where the table is
// full. In steady state it allocates nothing.
func (t *StreamTable[T]) Find(d *Datagram) (s *StreamEntry[T], fresh bool) {
	at := recentSlot(d)
	if s := t.recent[at]; s != nil && s.Dst == d.Dst && s.Src == d.Src && s.Interface == d.Interface {
		return s, false
	}
	id := StreamID{d.Src, d.Dst, d.Interface}
	slot := t.slot(id)
	if slot >= 0 && t.slots[slot] != 0 {
		s = t.entries[t.slots[slot]-1]
	} else {
		limit := t.Limit
		if limit == 0 {
			limit = MaxStreams
		}
		if len(t.entries) >= limit || t.Room != nil && *t.Room == 0 {
			return nil, false
		}
		if t.Room != nil {
			*t.Room--
		}
		s, fresh = &StreamEntry[T]{StreamID: id}, true
		if t.entries = append(t.entries, s); 2*len(t.entries) > len(t.slots) {
			t.grow()
		} else {
			t.slots[slot] = uint32(len(t.entries))
		}
	}
	t.recent[at] = s
	return s, fresh
}

// slot is where id's entry is, or would be; -1 where there are none yet.
func (t *StreamTable[T]) slot(id StreamID) int {
	if len(t.slots) == 0 {
		return -1
	}
	mask := len(t.slots) - 1
	i := int(maphash.Comparable(t.seed, id)) & mask
	for t.slots[i] != 0 && t.entries[t.slots[i]-1].StreamID != id {
		i = (i + 1) & mask
	}
	return i
}

// grow makes twice as many slots and puts all entries, each of another stream, into them.
func (t *StreamTable[T]) grow() {
	if t.slots == nil {
		t.seed = maphash.MakeSeed() // so that nobody can choose streams that meet
	}
	t.slots = make([]uint32, max(16, 2*len(t.slots)))
	for i, e := range t.entries {
		t.slots[t.slot(e.StreamID)] = uint32(i + 1)
	}
}

// Entries are the streams in the order in which they appeared; the table's own.
func (t *StreamTable[T]) Entries() []*StreamEntry[T] { return t.entries }

// recentSlot is d's place among the recent streams: what groups and sources differ in
// are the last bytes of their addresses and their ports.
func recentSlot(d *Datagram) uint8 {
	const mix = 0x9E3779B1 // 2^32 divided by the golden ratio
	h := lastBytes(d.Dst.Addr()) ^ uint32(d.Dst.Port())<<16 ^ uint32(d.Interface)<<24
	h = (h*mix ^ lastBytes(d.Src.Addr()) ^ uint32(d.Src.Port())<<16) * mix
	return uint8(h >> 24)
}

// lastBytes of an address. As16 would do for both kinds, but it takes 30 ns, As4 one.
func lastBytes(a netip.Addr) uint32 {
	if a.Is4() {
		b := a.As4()
		return binary.BigEndian.Uint32(b[:])
	}
	b := a.As16()
	return binary.BigEndian.Uint32(b[12:])
}
