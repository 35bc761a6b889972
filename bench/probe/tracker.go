package probe

import "math/bits"

const (
	// windowBits is how many numbers behind the highest a datagram may come and still be
	// known for new or for a copy.
	windowBits = 1 << 15
	// maxJump is the largest step forward in numbers that is believed; at 10 million
	// datagrams a second it is a silence of seven minutes.
	maxJump = 1 << 32
)

// Bursts are losses in a row: loss periods, as RFC 3357 has it.
type Bursts struct {
	// Count of bursts, and the length of the longest in datagrams.
	Count, Longest uint64
	// Lengths counts bursts by length: element i those of 2^i to 2^(i+1)-1 datagrams.
	Lengths [33]uint64
}

func (b *Bursts) add(length uint64) {
	b.Count++
	b.Longest = max(b.Longest, length)
	b.Lengths[min(bits.Len64(length)-1, len(b.Lengths)-1)]++
}

func (b *Bursts) merge(o *Bursts) {
	b.Count += o.Count
	b.Longest = max(b.Longest, o.Longest)
	for i, n := range o.Lengths {
		b.Lengths[i] += n
	}
}

// tracker follows the numbers of one stream in one step, from 0. Its memory is fixed.
// It allocates nothing, and what an add costs does not depend on the number.
type tracker struct {
	// arrived has a bit for each number from base on, at its remainder; base is a
	// multiple of 64. What is below is decided.
	arrived [windowBits / 64]uint64
	base    uint64
	next    uint64 // the highest number so far and 1: NextExp of RFC 4737

	unique, duplicates uint64
	// reordered are those below next when they came (RFC 4737, Type-P-Reordered), by
	// distance numbers at most.
	reordered, distance uint64
	// tooLate are datagrams so far behind that it is not known whether they are copies.
	// Their numbers stay lost.
	tooLate uint64
	lost    uint64 // of what is decided
	missing uint64 // in a row, up to base
	bursts  Bursts
}

// plausible says whether seq can be the number of the next datagram.
func (t *tracker) plausible(seq uint64) bool { return seq < t.next || seq-t.next < maxJump }

// add takes note of a datagram. fresh is true where it is the first with its number,
// and inOrder where it has the highest so far.
func (t *tracker) add(seq uint64) (fresh, inOrder bool) {
	if seq < t.base {
		t.tooLate++
		return false, false
	}
	if seq >= t.base+windowBits {
		t.decide((seq - windowBits + 64) &^ 63)
	}
	word, bit := &t.arrived[seq/64%uint64(len(t.arrived))], uint64(1)<<(seq%64)
	if *word&bit != 0 {
		t.duplicates++
		return false, false
	}
	*word |= bit
	t.unique++
	if seq < t.next {
		t.reordered++
		t.distance = max(t.distance, t.next-1-seq)
		return true, false
	}
	t.next = seq + 1
	return true, true
}

// decide gives up on what is missing below to, a multiple of 64.
func (t *tracker) decide(to uint64) {
	for range t.arrived {
		if t.base >= to {
			return
		}
		w := &t.arrived[t.base/64%uint64(len(t.arrived))]
		t.count(*w, 64)
		*w = 0
		t.base += 64
	}
	if t.base < to { // nothing of that can have arrived
		t.lost += to - t.base
		t.missing += to - t.base
		t.base = to
	}
}

// count decides the numbers of the lower n bits of a word.
func (t *tracker) count(w uint64, n int) {
	for n > 0 {
		zeros := min(bits.TrailingZeros64(w), n)
		t.missing += uint64(zeros)
		t.lost += uint64(zeros)
		if n -= zeros; n == 0 {
			return
		}
		if t.missing > 0 {
			t.bursts.add(t.missing)
			t.missing = 0
		}
		w >>= zeros
		ones := min(bits.TrailingZeros64(^w), n)
		w >>= ones
		n -= ones
	}
}

// finish decides everything: sent datagrams were sent, or as many as have been seen
// where that is more. Nothing may be added afterwards.
func (t *tracker) finish(sent uint64) {
	sent = max(sent, t.next)
	t.decide(sent &^ 63)
	if sent > t.base {
		t.count(t.arrived[t.base/64%uint64(len(t.arrived))], int(sent-t.base))
	}
	if t.missing > 0 {
		t.bursts.add(t.missing)
		t.missing = 0
	}
}
