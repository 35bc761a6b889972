package analysis

// rememberedPayloads is how many payloads are kept beyond those that datagrams wait
// with: duplicates are recognised as such for so long.
const rememberedPayloads = 1 << 16

// entry is a datagram of one side that is waiting for its match, or matched behind
// one that is.
type entry struct {
	time, late int64  // ns; late is set in b, on its match
	peer       uint64 // place of its match on the other side; 0 without
	number     uint64 // key of its number; 0 without
	// following is the place of the next one that waits with the same payload; once
	// it is matched, with othersRun the run of the other side before the match, where
	// that side came there first.
	following uint64
	othersRun uint32
	payload   uint32 // index
	stream    uint32
}

// queue holds the datagrams of one side in order: those at the places from head to
// before next. Places count from 1.
type queue struct {
	ring       []entry // of 2^n
	head, next uint64
}

func newQueue(most int) queue {
	n := 64
	for n < min(most, 4096) {
		n *= 2
	}
	return queue{ring: make([]entry, n), head: 1, next: 1}
}

func (q *queue) len() int { return int(q.next - q.head) }

// at is valid until the next push.
func (q *queue) at(place uint64) *entry { return &q.ring[place&uint64(len(q.ring)-1)] }

func (q *queue) push(e entry) (place uint64) {
	if q.len() == len(q.ring) {
		grown := queue{ring: make([]entry, 2*len(q.ring))}
		for p := q.head; p < q.next; p++ {
			*grown.at(p) = *q.at(p)
		}
		q.ring = grown.ring
	}
	place = q.next
	q.next++
	*q.at(place) = e
	return place
}

// lone are the numbers of the latest 65,536 or so datagrams of a side that were given up:
// 8 of each that fall together. The zero value is empty.
type lone struct{ sets [][8]uint64 }

const loneSets = 1 << 13

func (l *lone) put(number uint64) {
	if l.sets == nil {
		l.sets = make([][8]uint64, loneSets)
	}
	s := &l.sets[number>>40%loneSets]
	copy(s[1:], s[:7])
	s[0] = number
}

// take removes a number; false where it is not there.
func (l *lone) take(number uint64) bool {
	if l.sets == nil {
		return false
	}
	s := &l.sets[number>>40%loneSets]
	for i, n := range s {
		if n == number {
			s[i] = 0
			return true
		}
	}
	return false
}

// waiting are the places of one side that wait with the same payload, oldest first;
// 0 where there is none.
type waiting struct{ first, last uint64 }

func (w *waiting) append(q *queue, place uint64) {
	if w.first == 0 {
		w.first = place
	} else {
		q.at(w.last).following = place
	}
	w.last = place
}

// remove takes a place out. It is near the front.
func (w *waiting) remove(q *queue, place uint64) {
	before := uint64(0)
	for p := w.first; p != place; p = q.at(p).following {
		before = p
	}
	after := q.at(place).following
	q.at(place).following = 0
	if before == 0 {
		w.first = after
	} else {
		q.at(before).following = after
	}
	if w.last == place {
		w.last = before
	}
}

// payload is what is known of one payload of a stream.
type payload struct {
	hash    uint64
	waiting [2]waiting
	matched uint32 // times
	again   bool   // matched again since it was looked at for removal
}

func (p *payload) idle() bool { return p.waiting[0].first == 0 && p.waiting[1].first == 0 }

// payloads finds payloads by their hash: a table with open addressing, so that in
// steady state nothing is allocated. It forgets the oldest that nothing waits with.
type payloads struct {
	list []payload
	most int      // of list
	hand int      // looked at next for removal
	mask uint32   // of table
	slot []uint64 // upper half of the hash, index+1; 0 is free
}

func newPayloads(most int) payloads {
	const slots = 1 << 10
	return payloads{most: most, slot: make([]uint64, slots), mask: slots - 1}
}

// find is the index of a payload, which is made where it is not there.
func (t *payloads) find(hash uint64) uint32 {
	tag := hash >> 32
	for i := uint32(tag) & t.mask; t.slot[i] != 0; i = (i + 1) & t.mask {
		if n := uint32(t.slot[i]) - 1; t.slot[i]>>32 == tag && t.list[n].hash == hash {
			return n
		}
	}
	n := t.free()
	t.list[n] = payload{hash: hash}
	t.insert(tag, n)
	return n
}

func (t *payloads) insert(tag uint64, n uint32) {
	i := uint32(tag) & t.mask
	for t.slot[i] != 0 {
		i = (i + 1) & t.mask
	}
	t.slot[i] = tag<<32 | uint64(n+1)
}

// free is the index of a payload that is forgotten, or was not there yet.
func (t *payloads) free() uint32 {
	if len(t.list) >= min(rememberedPayloads, t.most) {
		// At most 8 steps while the list may grow; at its limit it is longer than all
		// that can wait, so there is an end.
		for i := 0; i < 8 || len(t.list) >= t.most; i++ {
			if t.hand >= len(t.list) {
				t.hand = 0
			}
			n := t.hand
			t.hand++
			switch p := &t.list[n]; {
			case !p.idle():
			case p.again:
				p.again = false
			default:
				t.remove(p.hash>>32, uint32(n))
				return uint32(n)
			}
		}
	}
	n := len(t.list)
	t.list = append(t.list, payload{})
	if 2*len(t.list) > len(t.slot) {
		t.slot = make([]uint64, 2*len(t.slot))
		t.mask = uint32(len(t.slot) - 1)
		for i := range t.list[:n] {
			t.insert(t.list[i].hash>>32, uint32(i))
		}
	}
	return uint32(n)
}

// remove takes an index out of the table and moves up what stands behind it.
func (t *payloads) remove(tag uint64, n uint32) {
	i := uint32(tag) & t.mask
	for t.slot[i] != tag<<32|uint64(n+1) {
		i = (i + 1) & t.mask
	}
	for j := (i + 1) & t.mask; t.slot[j] != 0; j = (j + 1) & t.mask {
		home := uint32(t.slot[j]>>32) & t.mask
		if (j-home)&t.mask >= (j-i)&t.mask { // its way leads past i
			t.slot[i] = t.slot[j]
			i = j
		}
	}
	t.slot[i] = 0
}
