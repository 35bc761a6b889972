package analysis

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/cespare/xxhash/v2"

	"castdeck/format"
)

// GapOptions of a sequence analysis. The zero value recognises the protocol of each
// stream by itself.
type GapOptions struct {
	// Protocol of all streams, where it is not Unknown.
	Protocol Protocol
	// Field is where numbers stand, where Protocol is Custom.
	Field Field
}

// Numbering is how one numbering of a stream went: of most protocols a stream has one.
type Numbering struct {
	format.StreamID
	Protocol Protocol
	// Channel names the numbering where a stream may have several: a session, unit, SSRC
	// or PID.
	Channel string
	// Confidence from 0 to 1 that the protocol is the one that was recognised; 1 where
	// it was given.
	Confidence float64
	Counts
	// Datagrams that bear on it. Of a stream without any numbering all datagrams.
	Datagrams uint64
	// Ended says that the sender told the end of it.
	Ended bool
	// Missing ranges: the first 1,000 of Counts.Ranges, in the order of their numbers, or
	// fewer where many numberings have many.
	Gaps []Range
}

// GapResult of a sequence analysis.
type GapResult struct {
	// Numberings by destination, source and channel. A stream of an unknown protocol has
	// one with nothing in it.
	Numberings []Numbering
	// Total of all numberings.
	Total Counts
	// Datagrams that were looked at.
	Datagrams uint64
	// Plain datagrams belong to their protocol and have no number. Odd ones do not, of
	// streams whose protocol is known: they are left out.
	Plain, Odd uint64
	// Unknown counts streams whose protocol was not recognised.
	Unknown int
	// Uncounted datagrams are of streams or numberings past the bound of 32,768.
	Uncounted uint64
	// Dropped is what the recording itself says it lost.
	Dropped uint64
}

// Gaps looks for missing numbers. Its memory is bounded for any input. It is not safe
// for concurrent use.
type Gaps struct {
	o       GapOptions
	streams format.StreamTable[gapStream]
	loss    losses
	result  GapResult

	channels []*channel
	byKey    map[channelKey]*channel
	// recent are the numberings of the latest datagrams, so that the map is hardly ever
	// asked.
	recent [1024]*channel
	budget int // of ranges
	held   int // bytes of streams that are not recognised yet
}

// gapStream is what is kept for a stream.
type gapStream struct {
	index    uint32
	protocol Protocol
	decided  bool
	// lost is the interface's losses at the last datagram.
	lost       uint64
	confidence float64
	datagrams  uint64
	last       *channel
	samples    *samples // until the protocol is known
	ts         *tsSeen
}

type channelKey struct {
	stream uint32
	hi, lo uint64
}

// channel is one numbering.
type channel struct {
	channelKey
	sequence
	datagrams uint64
	ended     bool
	ts        tsState
}

// maxNumberings bounds the streams, and the numberings of all of them together.
const maxNumberings = 1 << 15

// NewGaps begins an analysis.
func NewGaps(o GapOptions) *Gaps {
	g := &Gaps{o: o, byKey: map[channelKey]*channel{}, budget: maxRanges}
	g.streams.Limit = maxNumberings
	return g
}

// Add takes a batch, in which each loss is told once: InterfaceStats.Dropped are not
// totals, but losses since the last record of the interface that no datagram tells. In
// steady state it allocates nothing.
func (g *Gaps) Add(b *format.Batch) {
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		g.loss.add(d.Interface, d.Drops)
		if d.Flags&format.FlagNotUDP == 0 {
			g.add(d)
		}
	}
	for i := range b.Stats {
		g.loss.add(b.Stats[i].Interface, b.Stats[i].Dropped)
	}
}

func (g *Gaps) add(d *format.Datagram) {
	g.result.Datagrams++
	e, fresh := g.streams.Find(d)
	if e == nil {
		g.result.Uncounted++
		return
	}
	s := &e.Value
	lost := g.loss.on(d.Interface)
	if fresh {
		s.index, s.lost = uint32(len(g.streams.Entries())-1), lost
		if s.protocol = g.o.Protocol; s.protocol != Unknown {
			s.decided, s.confidence = true, 1
		}
	}
	s.datagrams++
	noted := lost - s.lost
	s.lost = lost
	if !s.decided {
		g.sample(e, d, noted)
		return
	}
	g.take(s, d.Payload, d.Time, noted)
}

// take follows the numbers of a datagram of a stream whose protocol is decided.
func (g *Gaps) take(s *gapStream, p []byte, time int64, noted uint64) {
	var n number
	var ok bool
	switch s.protocol {
	case Unknown:
		return
	case MPEGTS:
		g.takeTS(s, p, time, noted)
		return
	default:
		n, ok = s.protocol.decode(p, &g.o.Field)
	}
	if !ok {
		g.result.Odd++
		return
	}
	c := s.last
	switch {
	case n.plain && n.count == 0 && !n.ended:
		g.result.Plain++
		return
	case n.plain && c == nil:
		n.seq = 1 // numbers begin with 1 where nothing says more
		fallthrough
	case !n.plain:
		if c == nil || c.hi != n.hi || c.lo != n.lo {
			if c = g.channel(s, n.hi, n.lo); c == nil {
				g.result.Uncounted++
				return
			}
			s.last = c
		}
	default:
		n.seq = c.number(c.sequence.last, 1)
	}
	c.datagrams++
	c.ended = c.ended || n.ended
	c.sequence.add(n.seq, n.count, time, noted)
}

// channel is a numbering of a stream; nil where there are too many.
func (g *Gaps) channel(s *gapStream, hi, lo uint64) *channel {
	k := channelKey{s.index, hi, lo}
	const mix = 0x9E3779B97F4A7C15
	at := ((hi*mix^lo)*mix ^ uint64(k.stream)) * mix >> 54
	if c := g.recent[at]; c != nil && c.channelKey == k {
		return c
	}
	c := g.byKey[k]
	if c == nil {
		if len(g.channels) >= maxNumberings {
			return nil
		}
		bits, step := layouts[s.protocol].bits, uint64(1)
		if s.protocol == Custom {
			bits, step = uint8(8*g.o.Field.Width), g.o.Field.Step
		}
		c = &channel{channelKey: k, sequence: *newSequence(bits, step, &g.budget)}
		g.byKey[k] = c
		g.channels = append(g.channels, c)
	}
	g.recent[at] = c
	return c
}

// Finish ends the analysis.
func (g *Gaps) Finish() *GapResult {
	streams := g.streams.Entries()
	for _, e := range streams {
		if !e.Value.decided {
			g.decide(e)
		}
	}
	r := &g.result
	counted := make([]bool, len(streams))
	r.Numberings = make([]Numbering, 0, max(len(streams), len(g.channels)))
	for _, c := range g.channels {
		c.sequence.end()
		e := streams[c.stream]
		counted[c.stream] = true
		n := Numbering{
			StreamID: e.StreamID, Protocol: e.Value.protocol, Channel: layouts[e.Value.protocol].channel(c.hi, c.lo),
			Confidence: e.Value.confidence, Counts: c.Counts, Datagrams: c.datagrams, Ended: c.ended, Gaps: c.reported(nil),
		}
		r.Total.add(&n.Counts)
		r.Numberings = append(r.Numberings, n)
	}
	for i, e := range streams {
		if e.Value.protocol == Unknown {
			r.Unknown++
		}
		if !counted[i] {
			r.Numberings = append(r.Numberings, Numbering{
				StreamID: e.StreamID, Protocol: e.Value.protocol, Confidence: e.Value.confidence, Datagrams: e.Value.datagrams,
			})
		}
	}
	slices.SortStableFunc(r.Numberings, func(a, b Numbering) int {
		return cmp.Or(compareAddr(a.Dst, b.Dst), compareAddr(a.Src, b.Src), cmp.Compare(a.Interface, b.Interface))
	})
	r.Dropped = g.loss.total
	return r
}

func compareAddr(a, b netip.AddrPort) int { return a.Compare(b) }

// MPEG transport streams have numbers of 4 bits by PID, ISO/IEC 13818-1 (ITU-T H.222.0),
// section 2.4.3.3: continuity_counter counts the packets with a payload. So many
// numbers are too few to tell what comes late: what is not the next one, and no
// repetition, is missing.
const (
	tsPacket = 188
	tsSync   = 0x47
	tsNull   = 0x1FFF
	// tsRecent is how many datagrams are remembered to know a whole one that comes twice:
	// fewer than the packets in which a counter can come round.
	tsRecent = 8
)

// tsSeen are the hashes of a stream's latest datagrams.
type tsSeen struct {
	hashes [tsRecent]uint64
	n      uint
}

func (t *tsSeen) seen(hash uint64) bool {
	for _, h := range t.hashes[:min(t.n, tsRecent)] {
		if h == hash {
			return true
		}
	}
	t.hashes[t.n%tsRecent] = hash
	t.n++
	return false
}

// tsState is what is known of a PID besides its numbers.
type tsState struct {
	print    uint64 // of the last packet with a payload
	repeated bool   // it came twice
	jump     bool   // a discontinuity was told since
}

// takeTS follows the packets of a datagram, which may have something before the first
// or behind the last one.
func (g *Gaps) takeTS(s *gapStream, p []byte, time int64, noted uint64) {
	if len(p) < tsPacket || p[0] != tsSync {
		g.result.Odd++
		return
	}
	if s.ts == nil {
		s.ts = &tsSeen{}
	}
	again := s.ts.seen(xxhash.Sum64(p))
	for ; len(p) >= tsPacket && p[0] == tsSync; p = p[tsPacket:] {
		pid := be.Uint16(p[1:]) & 0x1FFF
		if pid == tsNull || p[1]&0x80 != 0 { // its counter means nothing; the packet is in error
			continue
		}
		c := s.last
		if c == nil || c.lo != uint64(pid) {
			if c = g.channel(s, 0, uint64(pid)); c == nil {
				g.result.Uncounted++
				continue
			}
			s.last = c
		}
		c.datagrams++
		c.takeTS((*[tsPacket]byte)(p), again, time, noted)
	}
}

func (c *channel) takeTS(p *[tsPacket]byte, again bool, time int64, noted uint64) {
	control := p[3] >> 4 & 3 // 1 payload, 2 adaptation field, 3 both
	if control&2 != 0 && p[4] > 0 && p[5]&0x80 != 0 && !again {
		c.ts.jump = true // discontinuity_indicator
	}
	if control&1 == 0 {
		return
	}
	counter := uint64(p[3] & 0xF)
	if again {
		c.Duplicates++
		return
	}
	print := le.Uint64(p[172:])*0x9E3779B97F4A7C15 ^ le.Uint64(p[180:])
	same := c.begun && counter == c.sequence.last
	switch {
	case same && print == c.ts.print && !c.ts.repeated && !c.ts.jump:
		c.ts.repeated = true
		c.Duplicates++
		return
	case c.ts.jump && c.begun:
		c.ts.jump = false
		if counter != c.number(c.sequence.last, 1) {
			c.Resets++
			c.begin(counter, time)
		}
	}
	c.ts.print, c.ts.repeated, c.ts.jump = print, false, false
	if !c.begun {
		c.begun = true
		c.begin(counter, time)
	}
	if missing := (counter - c.sequence.last - 1) & 0xF; missing > 0 {
		c.lose(int64(missing), time, noted)
	}
	c.advance(1, time)
}

// losses that recordings tell of, by interface.
type losses struct {
	of    []uint64
	total uint64
}

func (l *losses) add(ifc uint16, n uint64) {
	if n == 0 {
		return
	}
	if grow := int(ifc) + 1 - len(l.of); grow > 0 {
		l.of = append(l.of, make([]uint64, grow)...)
	}
	l.of[ifc] += n
	l.total += n
}

func (l *losses) on(ifc uint16) uint64 {
	if int(ifc) < len(l.of) {
		return l.of[ifc]
	}
	return 0
}
