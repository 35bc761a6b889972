package analysis

import (
	"math"

	"castdeck/format"
)

// How a protocol is recognised: by evidence in bits over the first datagrams of a
// stream, as many as what is right in them would be right by chance; see layout. A
// wrong guess is worse than none.
const (
	// sampleSize is how many datagrams are looked at.
	sampleSize = 16
	// sureBits is the evidence that is asked for.
	sureBits = 40
	// sureFactor is how much more evidence than any other protocol one must have.
	sureFactor = 1.25
	// maxHeld bounds the bytes of all streams that are not recognised yet: beyond it they
	// are decided by fewer datagrams.
	maxHeld = 8 << 20
	// samplesSize is about what samples take besides the payloads.
	samplesSize = sampleSize*48 + 64
)

// samples are the first datagrams of a stream.
type samples struct {
	n      int
	of     [sampleSize]sample
	buffer []byte
}

type sample struct {
	from, to int // in buffer
	time     int64
	noted    uint64
	whole    bool
}

// sample holds a datagram back until enough are there.
func (g *Gaps) sample(e *format.StreamEntry[gapStream], d *format.Datagram, noted uint64) {
	s := &e.Value
	if s.samples == nil {
		s.samples = &samples{}
		g.held += samplesSize
	}
	s.samples.add(d, noted)
	g.held += len(d.Payload)
	if s.samples.n == sampleSize || g.held > maxHeld {
		g.decide(e)
	}
}

// add keeps a copy of what is needed of a datagram; there must be room.
func (m *samples) add(d *format.Datagram, noted uint64) {
	from := len(m.buffer)
	m.buffer = append(m.buffer, d.Payload...)
	m.of[m.n] = sample{from, len(m.buffer), d.Time, noted, d.Flags&format.FlagTruncated == 0}
	m.n++
}

// decide chooses the protocol of a stream, and takes what was held back.
func (g *Gaps) decide(e *format.StreamEntry[gapStream]) {
	s := &e.Value
	m := s.samples
	s.protocol, s.confidence = m.recognise(e.Dst.Port())
	s.decided, s.samples = true, nil
	g.held -= samplesSize
	for i := range m.of[:m.n] {
		a := &m.of[i]
		g.held -= a.to - a.from
		g.take(s, m.buffer[a.from:a.to], a.time, a.noted)
	}
}

// recognise finds the protocol of the samples, and how sure that is.
func (m *samples) recognise(dstPort uint16) (Protocol, float64) {
	best, second := 0, 0
	choice, sure := Unknown, 0.0
	for p := MoldUDP64; p < Custom; p++ {
		bits, part := m.evidence(p, dstPort)
		switch {
		case bits > best:
			best, second = bits, best
			choice, sure = p, part*(1-math.Exp2(-float64(bits)/8))
		case bits > second:
			second = bits
		}
	}
	if best < sureBits || float64(best) < sureFactor*float64(second) {
		return Unknown, 0
	}
	return choice, sure
}

// evidence for a protocol in bits, and the part of the samples that can be of it: at
// least nine tenths, or there is none.
func (m *samples) evidence(p Protocol, dstPort uint16) (bits int, part float64) {
	l := &layouts[p]
	type due struct{ hi, lo, seq uint64 }
	var of [4]due // numberings
	known, match, whole, near, far := 0, 0, 0, 0, 0
	for i := range m.of[:m.n] {
		a := &m.of[i]
		payload := m.buffer[a.from:a.to]
		if !a.whole {
			continue // lengths say nothing
		}
		whole++
		e := l.evidence(payload, dstPort)
		if e == 0 {
			continue
		}
		match++
		bits += e
		if l.decode == nil {
			continue
		}
		n, ok := l.decode(payload)
		if !ok || n.plain {
			continue
		}
		at := 0
		for at < known && (of[at].hi != n.hi || of[at].lo != n.lo) {
			at++
		}
		if at < known {
			shift := 64 - l.bits
			switch d := int64((n.seq-of[at].seq)<<shift) >> shift; {
			case d == 0:
				bits += l.continuity
				near++
			case d > -maxDropout && d < maxDropout:
				near++
			default:
				far++
			}
		} else if known < len(of) {
			known++
		} else {
			far++ // too many for one stream
			continue
		}
		of[at] = due{n.hi, n.lo, n.seq + n.count}
	}
	if match == 0 || match*10 < whole*9 || far > near+1 {
		return 0, 0
	}
	return bits, float64(match) / float64(whole)
}
