package pcapfile

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"castdeck/format"
)

// Limits of reassembly. Linux keeps fragments for 30 s (ipfrag_time) too.
const (
	maxAssemblies   = 4096
	maxAssemblySize = 16 << 20
	assemblyTimeout = 30e9 // ns of capture time

	maxSpare     = 16
	maxSpareSize = 256 << 10

	pieceSize = 72 // about what a piece costs beside its frame
)

// fragmentKey names a datagram in fragments (RFC 791, RFC 8200 section 4.5). The
// interface belongs to it: the same packet seen on two interfaces is two packets.
type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	iface    uint16
	proto    uint8 // 0 for IPv6, whose fragments need not agree on it
}

// piece is one fragment that is held.
type piece struct {
	offset, length  int // within the datagram
	at              int // where its part of the datagram is in assembly.data
	frame, frameEnd int // where its frame is in assembly.data
	time            int64
	drops           uint64
	frameLength     uint32
	flags           format.Flags
}

// assembly is a datagram of which fragments have arrived.
type assembly struct {
	key        fragmentKey
	pieces     []piece // in the order of arrival
	order      []int   // indices of pieces by offset
	data       []byte  // the frames
	total      int     // length of the datagram; -1 until its last fragment is there
	sum        int     // bytes of it that are there
	begun      int64   // time of the first fragment
	proto, ttl uint8   // of the fragment at offset 0
	refused    bool    // it had an overlap: fragments are passed through
	delivered  int     // of pieces, once it failed
	prev, next *assembly
}

// reassembler joins fragments. It holds copies of the frames: maxAssemblySize at
// most, plus what is on its way out.
type reassembler struct {
	table         map[fragmentKey]*assembly
	oldest, last  *assembly // all in the table, in the order they began
	open, bytes   int
	failed, tail  *assembly // to be delivered in pieces, singly linked by next
	spare         []*assembly
	limit, amount int
}

func (r *reassembler) init() {
	r.table = make(map[fragmentKey]*assembly)
	r.limit, r.amount = maxAssemblySize, maxAssemblies
}

// add takes the fragment f with its packet d. It is held where it may still become
// part of a datagram; otherwise the caller delivers it. whole is the datagram that
// it completed: out of the table, the caller's until release or giveUp.
func (r *reassembler) add(f *fragment, d *format.Datagram, n *Counts) (held bool, whole *assembly) {
	end := f.offset + len(f.data)
	if f.cut || len(f.data) == 0 || f.more && len(f.data)%8 != 0 || end > maxIPv4Total {
		return false, nil
	}
	key := fragmentKey{src: f.src, dst: f.dst, id: f.id, iface: d.Interface}
	if f.src.Is4() {
		key.proto = f.proto
	}
	a := r.table[key]
	if a == nil {
		if r.open == r.amount {
			r.fail(r.oldest, n)
		}
		a = r.begin(key, d.Time)
	} else if a.refused {
		return false, nil
	}
	place, found := slices.BinarySearchFunc(a.order, f.offset, func(i, offset int) int { return a.pieces[i].offset - offset })
	if found {
		if a.pieces[a.order[place]].length == len(f.data) {
			return false, nil // repeated: a router or a mirror port did that
		}
		r.refuse(a, n)
		return false, nil
	}
	overlaps := place > 0 && a.pieces[a.order[place-1]].end() > f.offset ||
		place < len(a.order) && a.pieces[a.order[place]].offset < end
	if overlaps || a.total >= 0 && (end > a.total || !f.more) ||
		!f.more && len(a.order) > 0 && a.pieces[a.order[len(a.order)-1]].end() > end {
		r.refuse(a, n)
		return false, nil
	}
	for r.bytes+len(d.Frame)+pieceSize > r.limit {
		victim := r.oldest
		r.fail(victim, n)
		if victim == a {
			return false, nil
		}
	}
	before := cap(a.data)
	at := len(a.data)
	a.data = append(a.data, d.Frame...)
	r.bytes += cap(a.data) - before + pieceSize
	a.order = slices.Insert(a.order, place, len(a.pieces))
	a.pieces = append(a.pieces, piece{
		offset: f.offset, length: len(f.data), frame: at, frameEnd: len(a.data),
		at: at + f.at, time: d.Time, drops: d.Drops, frameLength: d.FrameLength, flags: d.Flags,
	})
	a.sum += len(f.data)
	if f.offset == 0 {
		a.proto, a.ttl = f.proto, f.ttl
	}
	if !f.more {
		a.total = end
	}
	if a.sum == a.total { // no overlaps, so there are no holes
		r.remove(a)
		return true, a
	}
	return true, nil
}

func (p *piece) end() int { return p.offset + p.length }

func (r *reassembler) begin(key fragmentKey, now int64) *assembly {
	var a *assembly
	if n := len(r.spare); n > 0 {
		a, r.spare = r.spare[n-1], r.spare[:n-1]
	} else {
		a = &assembly{}
	}
	a.key, a.begun, a.total = key, now, -1
	r.bytes += cap(a.data)
	r.table[key] = a
	if a.prev = r.last; a.prev != nil {
		a.prev.next = a
	} else {
		r.oldest = a
	}
	r.last = a
	r.open++
	return a
}

// remove takes a out of the table.
func (r *reassembler) remove(a *assembly) {
	delete(r.table, a.key)
	if a.prev != nil {
		a.prev.next = a.next
	} else {
		r.oldest = a.next
	}
	if a.next != nil {
		a.next.prev = a.prev
	} else {
		r.last = a.prev
	}
	a.prev, a.next = nil, nil
	r.open--
	r.bytes -= cap(a.data) + len(a.pieces)*pieceSize
}

// release keeps the memory of an assembly that is out of the table and done with.
func (r *reassembler) release(a *assembly) {
	if len(r.spare) < maxSpare && cap(a.data) <= maxSpareSize && cap(a.pieces) <= maxSpareSize/pieceSize {
		*a = assembly{pieces: a.pieces[:0], order: a.order[:0], data: a.data[:0]}
		r.spare = append(r.spare, a)
	}
}

// fail gives a up: its pieces go out one by one.
func (r *reassembler) fail(a *assembly, n *Counts) {
	r.remove(a)
	r.giveUp(a, n)
}

// giveUp is fail for an assembly that is out of the table.
func (r *reassembler) giveUp(a *assembly, n *Counts) {
	if len(a.pieces) == 0 {
		r.release(a) // refused before, and counted then
		return
	}
	n.ReassemblyFailed++
	a.next = nil
	if r.failed == nil {
		r.failed = a
	} else {
		r.tail.next = a
	}
	r.tail = a
}

// refuse gives a up because of an overlap (RFC 5722). Its place in the table is
// kept until the timeout, for what is still to come of it.
func (r *reassembler) refuse(a *assembly, n *Counts) {
	key, begun := a.key, a.begun
	r.fail(a, n)
	r.begin(key, begun).refused = true
}

// expire gives up what began more than the timeout before now. Times may run
// backwards; then nothing expires.
func (r *reassembler) expire(now int64, n *Counts) {
	for a := r.oldest; a != nil && now-a.begun > assemblyTimeout && now > a.begun; a = r.oldest {
		r.fail(a, n)
	}
}

func (r *reassembler) failAll(n *Counts) {
	for r.oldest != nil {
		r.fail(r.oldest, n)
	}
}

// join appends the datagram to dst, which has room for it.
func (a *assembly) join(dst []byte) []byte {
	for _, i := range a.order {
		p := &a.pieces[i]
		dst = append(dst, a.data[p.at:p.at+p.length]...)
	}
	return dst
}

// datagram makes d of the joined bytes; false where they are no UDP datagram.
func (a *assembly) datagram(c *Decoder, joined []byte, d *format.Datagram) bool {
	proto := a.proto
	for {
		next, n, ok := c.extension(proto, joined)
		if !ok {
			return false
		}
		if n == 0 {
			break
		}
		if proto == protoFragment {
			return false // fragments of fragments
		}
		proto, joined = next, joined[n:]
	}
	if len(joined) < udpFixed {
		return false
	}
	stated := int(binary.BigEndian.Uint16(joined[4:]))
	if stated < udpFixed || stated > len(joined) {
		return false
	}
	last := &a.pieces[len(a.pieces)-1]
	*d = format.Datagram{
		Time:      last.time,
		Src:       netip.AddrPortFrom(a.key.src, binary.BigEndian.Uint16(joined)),
		Dst:       netip.AddrPortFrom(a.key.dst, binary.BigEndian.Uint16(joined[2:])),
		Length:    uint32(stated - udpFixed),
		Interface: a.key.iface,
		TTL:       a.ttl,
		Flags:     last.flags&^(format.FlagNotUDP|format.FlagTruncated) | format.FlagReassembled,
		Payload:   joined[udpFixed:stated:stated],
	}
	for i := range a.pieces {
		d.Drops += a.pieces[i].drops
	}
	return true
}
