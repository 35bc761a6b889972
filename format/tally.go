package format

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// MaxStreams bounds a Tally's table of streams, and with it the memory that a
// capture with made-up addresses can cost (about 10 MB).
const MaxStreams = 1 << 16

// Stream is what is known of one source sending to one group and port on one
// interface.
type Stream struct {
	Src, Dst  netip.AddrPort
	Interface uint16
	// Input is that of the datagrams; it is in no file.
	Input uint16
	// Datagrams and Bytes (of payload kept).
	Datagrams, Bytes uint64
	// First and Last are the earliest and latest times, ns since the Unix epoch.
	First, Last int64
}

type streamKey struct {
	src, dst netip.AddrPort
	ifc      uint16
}

// Tally counts datagrams in total and by stream. The zero value is ready.
type Tally struct {
	// Room is how many more streams this tally and others of the same goroutine may have
	// together; nil is MaxStreams for this one.
	Room *int

	Packets   uint64 // UDP or not
	Datagrams uint64 // UDP
	NotUDP    uint64
	Truncated uint64 // datagrams of which a part is missing
	Bytes     uint64 // UDP payload kept
	// Dropped counts datagrams reported lost: per interface the larger of the sum
	// of Datagram.Drops and of InterfaceStats.Dropped.
	Dropped uint64
	// First and Last are the earliest and latest packet times, meaningful where
	// Packets > 0.
	First, Last int64
	// StreamsCut says that datagrams came from more than MaxStreams streams, or than
	// there was Room for, and those past it are only in the totals.
	StreamsCut bool
	// Events that were counted.
	Events uint64

	events []Event // the last ones

	streams []*Stream
	byKey   map[streamKey]*Stream
	// recent are the streams of the latest datagrams, each at a place that follows
	// from its addresses, so that the map is hardly ever asked.
	recent [256]*Stream
	loss   []lossCount
}

// lossCount reconciles the two ways in which an interface's losses are told.
type lossCount struct{ byDatagram, byStats, counted uint64 }

// Add counts a batch. In steady state it allocates nothing.
func (t *Tally) Add(b *Batch) {
	for i := range b.Datagrams {
		t.add(&b.Datagrams[i])
	}
	for i := range b.Stats {
		s := &b.Stats[i]
		l := t.lossOf(s.Interface)
		l.byStats = max(l.byStats, s.Dropped)
		t.reconcile(l)
	}
	if len(b.Events) > 0 {
		t.Events += uint64(len(b.Events))
		t.events = AppendLastEvents(t.events, b.Events...)
	}
}

// LastEvents are at most MaxEvents of those counted, the last ones; the tally's own.
func (t *Tally) LastEvents() []Event { return t.events[max(0, len(t.events)-MaxEvents):] }

func (t *Tally) add(d *Datagram) {
	if t.Packets == 0 {
		t.First, t.Last = d.Time, d.Time
	}
	t.Packets++
	t.First = min(t.First, d.Time)
	t.Last = max(t.Last, d.Time)
	if d.Drops != 0 {
		l := t.lossOf(d.Interface)
		l.byDatagram += d.Drops
		t.reconcile(l)
	}
	if d.Flags&(FlagNotUDP|FlagTruncated) != 0 {
		if d.Flags&FlagNotUDP != 0 {
			t.NotUDP++
			return
		}
		t.Truncated++
	}
	t.Datagrams++
	t.Bytes += uint64(len(d.Payload))
	if s := t.stream(d); s != nil {
		s.Datagrams++
		s.Bytes += uint64(len(d.Payload))
		s.First = min(s.First, d.Time)
		s.Last = max(s.Last, d.Time)
	}
}

func (t *Tally) stream(d *Datagram) *Stream {
	at := recentSlot(d)
	if s := t.recent[at]; s != nil && s.Dst == d.Dst && s.Src == d.Src && s.Interface == d.Interface {
		return s
	}
	k := streamKey{d.Src, d.Dst, d.Interface}
	s := t.byKey[k]
	if s == nil {
		if len(t.streams) >= MaxStreams || t.Room != nil && *t.Room == 0 {
			t.StreamsCut = true
			return nil
		}
		if t.Room != nil {
			*t.Room--
		}
		if t.byKey == nil {
			t.byKey = make(map[streamKey]*Stream)
		}
		s = &Stream{Src: d.Src, Dst: d.Dst, Interface: d.Interface, First: d.Time, Last: d.Time}
		t.byKey[k] = s
		t.streams = append(t.streams, s)
	}
	t.recent[at] = s
	return s
}

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

func (t *Tally) lossOf(ifc uint16) *lossCount {
	if n := int(ifc) + 1; n > len(t.loss) {
		t.loss = append(t.loss, make([]lossCount, n-len(t.loss))...)
	}
	return &t.loss[ifc]
}

func (t *Tally) reconcile(l *lossCount) {
	now := max(l.byDatagram, l.byStats)
	t.Dropped += now - l.counted
	l.counted = now
}

// DroppedOn is what is known of one interface's losses.
func (t *Tally) DroppedOn(ifc uint16) uint64 { return t.lossOf(ifc).counted }

// Streams are the streams in the order in which they appeared. The tally gives up its
// table of them for the memory: nothing is to be added any more. The slice is the
// caller's.
func (t *Tally) Streams() []Stream {
	t.byKey, t.recent = nil, [len(t.recent)]*Stream{}
	out := make([]Stream, len(t.streams))
	for i, s := range t.streams {
		out[i] = *s
	}
	t.streams = nil
	return out
}

// NotUDP32 is NotUDP as the footer stores it.
func (t *Tally) NotUDP32() uint32 { return uint32(min(t.NotUDP, math.MaxUint32)) }
