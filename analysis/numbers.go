package analysis

import "castdeck/format"

// Recogniser tells which numbers datagrams have, by the same rules as Gaps, for those who
// want the numbers themselves. Its memory is bounded for any input. It is not safe for
// concurrent use.
type Recogniser struct {
	o    GapOptions
	held int // bytes of samples of all streams
}

// NewRecogniser makes one. The zero options recognise the protocol of each stream.
func NewRecogniser(o GapOptions) *Recogniser { return &Recogniser{o: o} }

// NumberedStream is what a Recogniser keeps for a stream. The zero value is a stream of
// which nothing is known.
type NumberedStream struct {
	protocol Protocol
	decided  bool
	samples  *samples
	guessed  int // samples that the protocol was guessed from

	// The latest numbering's name.
	hi, lo  uint64
	channel string
}

// Number is what a datagram says of its numbering.
type Number struct {
	// Protocol and Channel, as in Numbering; Unknown and "" where the datagram is not of
	// its stream's protocol.
	Protocol Protocol
	Channel  string
	// First of Count numbers; with a Count of 0 the one that is due. Has says that the
	// datagram has one: heartbeats of some protocols, and packets of a transport stream,
	// have none.
	First, Count uint64
	Has          bool
}

// Look takes a datagram of s into account, before or after others of the stream. In
// steady state it allocates nothing.
func (r *Recogniser) Look(s *NumberedStream, d *format.Datagram) {
	if s.decided {
		return
	}
	if r.o.Protocol != Unknown {
		s.protocol, s.decided = r.o.Protocol, true
		return
	}
	if s.samples == nil {
		s.samples = &samples{}
		r.held += samplesSize
	}
	if s.samples.add(d, 0); s.samples.n < sampleSize && r.held+len(d.Payload) <= maxHeld {
		r.held += len(d.Payload)
		return
	}
	r.held -= samplesSize + len(s.samples.buffer) - len(d.Payload)
	s.protocol, _ = s.samples.recognise(d.Dst.Port())
	s.decided, s.samples = true, nil
}

// Number is that of a datagram of s with this payload. While fewer datagrams were looked
// at than it takes to be sure, it is what these allow to say; dstPort is the stream's.
func (r *Recogniser) Number(s *NumberedStream, payload []byte, dstPort uint16) (n Number) {
	if m := s.samples; m != nil && s.guessed != m.n {
		s.protocol, _ = m.recognise(dstPort)
		s.guessed = m.n
	}
	switch s.protocol {
	case Unknown:
		return n
	case MPEGTS:
		if len(payload) >= tsPacket && payload[0] == tsSync {
			n.Protocol = MPEGTS
		}
		return n
	}
	raw, ok := s.protocol.decode(payload, &r.o.Field)
	if !ok {
		return n
	}
	if raw.hi != s.hi || raw.lo != s.lo || s.channel == "" {
		s.hi, s.lo, s.channel = raw.hi, raw.lo, layouts[s.protocol].channel(raw.hi, raw.lo)
	}
	n = Number{Protocol: s.protocol, Channel: s.channel}
	if !raw.plain {
		n.First, n.Count, n.Has = raw.seq, raw.count, true
	}
	return n
}
