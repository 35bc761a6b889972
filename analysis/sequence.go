package analysis

import (
	"slices"
	"sort"
)

// Range is a run of numbers that never came.
type Range struct {
	// From and To are the first and the last of them, as they would stand on the
	// wire; To is below From where the numbers wrapped in between.
	From, To uint64
	// Count of numbers.
	Count uint64
	// Time of the datagram that showed the gap and Since, of the one before it in the
	// numbering: ns since the Unix epoch.
	Time, Since int64
	// Noted is how many datagrams the recording itself says were lost between the two,
	// on the stream's interface: lost by the recorder, not before it.
	Noted uint64
}

// Counts of one numbering. Everything is in numbers, of which a datagram has one, or
// as many as it has messages, or none.
type Counts struct {
	// First and Last number: the lowest that came, before any reset, and the highest
	// since the last reset.
	First, Last uint64
	// Received numbers, each once; Received + Missing is what was sent between the first
	// and the last one.
	Received, Missing uint64
	// Duplicates came before. Reordered came behind higher ones, and filled a gap.
	Duplicates, Reordered uint64
	// Noted is the part of Missing that the recording itself says it lost, at most.
	Noted uint64
	// Resets: the numbers began anew. Wraps: they passed their highest value.
	Resets, Wraps uint64
	// Strays are single numbers far from all others, which nothing followed.
	Strays uint64
	// Ranges of missing numbers there are.
	Ranges uint64
}

// add sums up what can be added; First and Last stay.
func (c *Counts) add(o *Counts) {
	c.Received += o.Received
	c.Missing += o.Missing
	c.Duplicates += o.Duplicates
	c.Reordered += o.Reordered
	c.Noted += o.Noted
	c.Resets += o.Resets
	c.Wraps += o.Wraps
	c.Strays += o.Strays
	c.Ranges += o.Ranges
}

// Bounds of the ranges kept, each about 70 bytes.
const (
	// keptRanges is how many are reported of one numbering, the first ones; the rest is
	// counted.
	keptRanges = 1000
	// openRanges more can still be filled by numbers that come late, the last ones.
	openRanges = 1000
	// maxRanges of all numberings together.
	maxRanges = 1 << 17
)

// Bounds of what is taken for a late or a lost number; the names and the values for 16
// bits are those of RFC 3550, A.1. Beyond them a number must be followed by its next
// one to be believed.
const (
	maxMisorder = 100
	maxDropout  = 3000
	// maxDropoutWide is for numbers of more than 16 bits, in which a gap this wide has
	// one meaning.
	maxDropoutWide = 1 << 20
	// maxGap is the widest gap that is taken for one: above it the numbers began anew.
	maxGap = 1 << 40
	// fewBehind is how far, in datagrams, a number 0 or 1 must lie behind to be taken for
	// a new beginning, once the next one follows.
	fewBehind = 3
)

// sequence follows one numbering: numbers modulo 2^bits that advance by step.
type sequence struct {
	Counts
	bits uint8
	step uint64

	begun  bool
	first  bool   // Counts.First is set
	last   uint64 // number of next-1, as on the wire
	next   int64  // place that is due; places count from the first number, or reset
	low    int64  // lowest place that came
	most   uint64 // numbers in one datagram, at most
	since  int64  // time of the last datagram in order
	start  int64  // time of the first one since the last reset
	placed uint64 // numbers received since the last reset

	suspect suspect
	// ranges by place; those before closed are of before a reset.
	ranges []missing
	closed int
	budget *int // of ranges, shared
}

type missing struct {
	Range
	at int64 // place of From
}

// suspect is a number far from what was due.
type suspect struct {
	on           bool
	seq, n       uint64
	next         uint64 // number that would confirm it
	time         int64
	distance     int64
	onGrid       bool
	again, noted uint64 // how often it came again; losses noted with it
}

func newSequence(bits uint8, step uint64, budget *int) *sequence {
	return &sequence{bits: bits, step: max(step, 1), budget: budget}
}

func (s *sequence) mask() uint64 { return ^uint64(0) >> (64 - s.bits) }

// number is what stands on the wire n places behind seq.
func (s *sequence) number(seq uint64, n int64) uint64 { return (seq + uint64(n)*s.step) & s.mask() }

// distance from the number that is due, in steps; false where seq is none of them.
func (s *sequence) distance(seq uint64) (int64, bool) {
	shift := 64 - s.bits
	d := int64((seq-s.number(s.last, 1))<<shift) >> shift
	if s.step == 1 {
		return d, true
	}
	step := int64(s.step)
	if step <= 0 || d%step != 0 {
		return d, false
	}
	return d / step, true
}

// add takes a datagram with the n numbers from seq on. With n = 0 it says which number
// is due. Noted are the losses that the recording tells of since the datagram before.
func (s *sequence) add(seq, n uint64, time int64, noted uint64) {
	seq &= s.mask()
	s.most = max(s.most, n)
	if !s.begun {
		s.begun = true
		s.begin(seq, time)
	}
	d, onGrid := s.distance(seq)
	if d == 0 && !s.suspect.on { // nearly always
		s.advance(n, time)
		return
	}
	u := &s.suspect
	switch {
	case u.on && seq == u.next && d != 0:
		s.confirm()
		s.add(seq, n, time, noted)
	case onGrid && !s.far(d, seq, n):
		s.dismiss()
		s.place(d, n, time, noted)
	case u.on && seq == u.seq:
		u.again += n
	default:
		s.dismiss()
		*u = suspect{on: true, seq: seq, n: n, next: s.number(seq, int64(n)), time: time, distance: d, onGrid: onGrid, noted: noted}
	}
}

func (s *sequence) begin(seq uint64, time int64) {
	s.last = s.number(seq, -1)
	s.next, s.low, s.placed = 0, 0, 0
	s.start, s.since = time, time
	s.closed = len(s.ranges)
}

// far says that a distance needs another datagram to be believed.
func (s *sequence) far(d int64, seq, n uint64) bool {
	if s.next > 1<<62 || s.low < -1<<62 {
		return d != 0 // hostile: places have nearly run out
	}
	if d > 0 {
		switch {
		case s.bits < 16:
			return false
		case s.bits == 16:
			return d > maxDropout
		}
		return d > maxDropoutWide
	}
	most := int64(max(s.most, 1))
	switch {
	case s.bits < 16:
		return false
	case s.bits >= 32 && seq <= 1 && d < -fewBehind*most:
		return true
	}
	return d < -maxMisorder*most && !s.isMissing(s.next+d, max(n, 1))
}

// confirm believes the suspect: a gap, or a new beginning.
func (s *sequence) confirm() {
	u := s.suspect
	s.suspect = suspect{}
	if u.onGrid && u.distance > 0 && s.believable(&u) {
		s.place(u.distance, u.n, u.time, u.noted)
	} else {
		s.Resets++
		s.begin(u.seq, u.time)
		s.advance(u.n, u.time)
	}
	s.Duplicates += u.again
}

// believable says that as much as the suspect asks for can be lost. Of 16 bits each
// jump forward can be a jump backward too: there the time must have sufficed for what is
// missing, at a quarter of the rate of before at least.
func (s *sequence) believable(u *suspect) bool {
	if s.bits > 16 {
		return u.distance <= maxGap && s.next <= 1<<62
	}
	if s.placed < 2 {
		return false
	}
	each := float64(s.since-s.start) / float64(s.placed)
	return float64(u.time-s.since) >= float64(u.distance)*each/4
}

// dismiss gives up the suspect, which nothing followed.
func (s *sequence) dismiss() {
	u := &s.suspect
	if !u.on {
		return
	}
	u.on = false
	if at := s.next + u.distance; u.onGrid && u.distance < 0 && at >= s.low-maxMisorder*int64(max(s.most, 1)) {
		s.late(at, int64(u.n), u.time)
		s.Duplicates += u.again
	} else {
		s.Strays += u.n + u.again
	}
}

// place puts n numbers at the distance d from the one that is due.
func (s *sequence) place(d int64, n uint64, time int64, noted uint64) {
	if d > 0 {
		s.lose(d, time, noted)
		d = 0
	}
	if d < 0 {
		old := min(uint64(-d), n)
		s.late(s.next+d, int64(old), time)
		n -= old
	}
	if n > 0 || d == 0 {
		s.advance(n, time)
	}
}

// advance takes the n numbers that are due.
func (s *sequence) advance(n uint64, time int64) {
	s.since = time
	if n == 0 {
		return
	}
	if !s.first {
		s.first, s.First = true, s.number(s.last, 1)
	}
	s.forward(int64(n))
	s.Received += n
	s.placed += n
	s.Last = s.last
}

func (s *sequence) forward(n int64) {
	to := s.number(s.last, n)
	if to < s.last && s.next != s.low {
		s.Wraps++
	}
	s.last = to
	s.next += n
}

// lose notes that the n numbers that are due did not come.
func (s *sequence) lose(n int64, time int64, noted uint64) {
	if !s.first {
		s.first, s.First = true, s.number(s.last, 1)
	}
	s.insert(len(s.ranges), missing{at: s.next, Range: Range{
		From: s.number(s.last, 1), To: s.number(s.last, n), Count: uint64(n), Time: time, Since: s.since, Noted: noted,
	}})
	s.Missing += uint64(n)
	s.forward(n)
}

// insert keeps a range at a place of the list, and says where it came to stand: where
// there are too many, others go.
func (s *sequence) insert(i int, m missing) int {
	s.Ranges++
	s.Noted += min(m.Noted, m.Count)
	switch {
	case len(s.ranges) >= keptRanges+2*openRanges:
		// The first ones are reported, the last ones can be filled.
		s.ranges = slices.Delete(s.ranges, keptRanges, keptRanges+openRanges)
		*s.budget += openRanges
		i, s.closed = behindDeleted(i), behindDeleted(s.closed)
	case *s.budget == 0 && len(s.ranges) == 0:
		return i
	case *s.budget == 0:
		at := min(len(s.ranges)/2, keptRanges)
		s.remove(at)
		if i > at {
			i--
		}
	}
	*s.budget--
	s.ranges = slices.Insert(s.ranges, i, m)
	return i
}

// behindDeleted is where index i is when the ranges behind the kept ones are gone.
func behindDeleted(i int) int { return max(min(i, keptRanges), i-openRanges) }

func (s *sequence) remove(i int) {
	s.ranges = slices.Delete(s.ranges, i, i+1)
	*s.budget++
	if i < s.closed {
		s.closed--
	}
}

// find is the first range that ends behind a place.
func (s *sequence) find(at int64) int {
	open := s.ranges[s.closed:]
	return s.closed + sort.Search(len(open), func(i int) bool { return open[i].at+int64(open[i].Count) > at })
}

func (s *sequence) isMissing(at int64, n uint64) bool {
	i := s.find(at)
	return i < len(s.ranges) && s.ranges[i].at < at+int64(n)
}

// late takes n numbers from a place on that lie before the one that is due.
func (s *sequence) late(at, n int64, time int64) {
	if n == 0 {
		return
	}
	if at < s.low { // before the first one
		k := min(n, s.low-at)
		if end := at + k; end < s.low {
			gap := s.low - end
			s.insert(s.closed, missing{at: end, Range: Range{
				From: s.number(s.last, end-s.next+1), To: s.number(s.last, s.low-s.next), Count: uint64(gap), Time: time, Since: time,
			}})
			s.Missing += uint64(gap)
		}
		if s.Resets == 0 {
			s.First = s.number(s.last, at-s.next+1)
		}
		s.low = at
		s.fill(uint64(k))
		at, n = at+k, n-k
	}
	for n > 0 {
		i := s.find(at)
		if i == len(s.ranges) || s.ranges[i].at >= at+n {
			s.Duplicates += uint64(n)
			return
		}
		m := &s.ranges[i]
		if before := m.at - at; before > 0 {
			s.Duplicates += uint64(before)
			at, n = at+before, n-before
		}
		k := min(n, m.at+int64(m.Count)-at)
		s.cut(i, at, k)
		s.Missing -= uint64(k)
		s.fill(uint64(k))
		at, n = at+k, n-k
	}
}

// fill counts numbers that came late.
func (s *sequence) fill(n uint64) {
	s.Received += n
	s.placed += n
	s.Reordered += n
}

// cut takes the k places from at on out of range i, which holds them.
func (s *sequence) cut(i int, at, k int64) {
	m := s.ranges[i]
	s.Noted -= min(m.Noted, m.Count)
	s.Ranges--
	s.remove(i)
	before, behind := m, m
	before.Count = uint64(at - m.at)
	before.To = s.number(m.From, at-m.at-1)
	behind.at = at + k
	behind.From = s.number(m.From, behind.at-m.at)
	behind.Count = m.Count - before.Count - uint64(k)
	if behind.Count > 0 {
		behind.Noted = min(m.Noted, behind.Count)
		i = s.insert(i, behind)
	}
	if before.Count > 0 {
		before.Noted = m.Noted - min(m.Noted, behind.Count)
		s.insert(i, before)
	}
}

// end of the input.
func (s *sequence) end() { s.dismiss() }

// reported are the first ranges that are still missing; the sequence's own memory.
func (s *sequence) reported(dst []Range) []Range {
	for i := range s.ranges[:min(len(s.ranges), keptRanges)] {
		dst = append(dst, s.ranges[i].Range)
	}
	return dst
}
