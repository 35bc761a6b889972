package format

import (
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

// streamCount is what a Tally keeps for a stream.
type streamCount struct {
	datagrams, bytes uint64
	first, last      int64
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

	streams StreamTable[streamCount]
	loss    []lossCount
}

// lossCount reconciles the two ways in which an interface's losses are told.
type lossCount struct{ byDatagram, byStats, counted uint64 }

// Add counts a batch. In steady state it allocates nothing.
func (t *Tally) Add(b *Batch) {
	t.streams.Room = t.Room
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
	e, fresh := t.streams.Find(d)
	if e == nil {
		t.StreamsCut = true
		return
	}
	s := &e.Value
	if fresh {
		s.first, s.last = d.Time, d.Time
	}
	s.datagrams++
	s.bytes += uint64(len(d.Payload))
	s.first = min(s.first, d.Time)
	s.last = max(s.last, d.Time)
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
	entries := t.streams.Entries()
	t.streams = StreamTable[streamCount]{}
	out := make([]Stream, len(entries))
	for i, e := range entries {
		out[i] = Stream{
			Src: e.Src, Dst: e.Dst, Interface: e.Interface,
			Datagrams: e.Value.datagrams, Bytes: e.Value.bytes, First: e.Value.first, Last: e.Value.last,
		}
	}
	return out
}

// NotUDP32 is NotUDP as the footer stores it.
func (t *Tally) NotUDP32() uint32 { return uint32(min(t.NotUDP, math.MaxUint32)) }
