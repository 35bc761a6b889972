package probe

import (
	"math"
	"net/netip"
	"time"
)

// Counts are what is known of a step, or of one stream of it.
type Counts struct {
	// Sent is what the sender says; where its end of the step did not arrive, the highest
	// number that did and 1.
	Sent uint64
	// Received are all datagrams that arrived, Unique those with a number that none had
	// before, Bytes the payload of these.
	Received, Unique, Bytes uint64
	// Lost = Sent - Unique. Of the others Duplicates are copies (RFC 5560), TooLate those
	// that came more than 32,768 numbers late, which count as lost.
	Lost, Duplicates, TooLate uint64
	// Reordered are those of Unique that came after one with a higher number (RFC 4737),
	// by Distance numbers at most.
	Reordered, Distance uint64
	// Drops are what the receiver's own socket lost, for want of room mostly; copies and
	// foreign datagrams count there too. What of Lost is not in Drops the path lost.
	Drops  uint64
	Bursts Bursts
	// Jitter is that of RFC 3550 at the end, and MaxJitter its largest value, in ns; of a
	// step the means over its streams, and the largest.
	Jitter, MaxJitter float64
}

// LostOnPath is what the path itself lost, as far as that can be told.
func (c *Counts) LostOnPath() uint64 { return c.Lost - min(c.Drops, c.Lost) }

func (c *Counts) add(o *Counts) {
	c.Sent += o.Sent
	c.Received += o.Received
	c.Unique += o.Unique
	c.Bytes += o.Bytes
	c.Lost += o.Lost
	c.Duplicates += o.Duplicates
	c.TooLate += o.TooLate
	c.Reordered += o.Reordered
	c.Distance = max(c.Distance, o.Distance)
	c.Drops += o.Drops
	c.Bursts.merge(&o.Bursts)
	c.MaxJitter = max(c.MaxJitter, o.MaxJitter)
}

// Arrived is what a receiver measured of one step.
type Arrived struct {
	Counts
	Source netip.AddrPort
	Run    uint64
	Step   uint32
	// Size of the payload in bytes, and the Rate asked for in datagrams a second (0: as
	// fast as can be), Took and Refused as the sender says; 0 where its end of the step
	// did not arrive, and Complete is false.
	Size     int
	Rate     float64
	Took     time.Duration
	Refused  uint64
	Complete bool
	// First and Last are when the first and the last datagram arrived, ns since the epoch.
	First, Last int64
	// OneWay is the time from sending to the kernel's stamp. Variation is the
	// difference of one-way times between datagrams of neighbouring numbers (RFC 3393,
	// IPDV), without its sign.
	OneWay, Variation Latency
	// Unstamped had no time from the kernel: they have the time of reading.
	Unstamped uint64
	Streams   []Counts // by number; nothing was received where Received is 0
}

// Interval is what arrived of a run in about a second.
type Interval struct {
	Source netip.AddrPort
	Run    uint64
	Step   uint32
	Start  int64 // ns since the epoch
	Took   time.Duration
	Received, Unique, Bytes,
	Duplicates, Reordered, Drops uint64
	// Lost is by how much more numbers have become known than datagrams came; where
	// losses of an earlier interval came late it is negative.
	Lost   int64
	OneWay Latency
	Jitter float64 // ns, the mean over the streams now
}

// stream is one stream of the step that goes on.
type stream struct {
	tracker
	received, bytes uint64
	transit         int64 // of the one that came last
	transitSeq      uint64
	has             bool
	jitter, most    float64
	ended           bool
	sent            uint64 // where ended
	drops           uint64
}

// step is the step of a run that goes on at the receiver.
type step struct {
	number            uint32
	streams           []*stream // nil where nothing came
	tracked           int       // not nil
	end               end
	size              int
	ended             int // streams
	first, last       int64
	oneWay, variation *latencies
	unstamped         uint64

	recent *latencies // of the interval that goes on
	before Interval   // totals at its beginning
	highs  uint64     // numbers known then
}

func newStep(number uint32) *step {
	return &step{number: number, oneWay: newLatencies(3), variation: newLatencies(3), recent: newLatencies(2)}
}

// at returns the stream of a number, nil where it has none yet.
func (s *step) at(n uint16) *stream {
	if int(n) < len(s.streams) {
		return s.streams[n]
	}
	return nil
}

func (s *step) make(n uint16) *stream {
	for len(s.streams) <= int(n) {
		s.streams = append(s.streams, nil)
	}
	s.streams[n] = &stream{}
	s.tracked++
	return s.streams[n]
}

// data takes a datagram of st that arrived at time (ns since the epoch).
func (s *step) data(st *stream, h *header, size int, time int64) {
	if s.first == 0 {
		s.first, s.size = time, size
	}
	s.last = max(s.last, time)
	st.received++
	fresh, inOrder := st.add(h.seq)
	if !fresh {
		return
	}
	st.bytes += uint64(size)
	transit := difference(time, h.sent)
	s.oneWay.add(transit)
	s.recent.add(transit)
	if st.has {
		d := math.Abs(float64(transit - st.transit))
		st.jitter += (d - st.jitter) / 16 // RFC 3550, 6.4.1 and A.8
		st.most = max(st.most, st.jitter)
		if inOrder && h.seq == st.transitSeq+1 {
			s.variation.add(int64(d))
		}
	}
	st.has, st.transit, st.transitSeq = true, transit, h.seq
}

// over says that the ends of all streams came.
func (s *step) over() bool { return s.end.streams > 0 && s.ended >= int(s.end.streams) }

// finish sets the end of a stream. It may come again.
func (s *step) finish(st *stream, e end, sent uint64) {
	if !st.ended {
		st.ended = true
		s.ended++
	}
	s.end, st.sent = e, sent
}

// counts of a stream, as if nothing more came.
func (st *stream) counts() Counts {
	t := st.tracker // a copy: more may come
	sent := t.next
	if st.ended {
		sent = max(sent, st.sent)
	}
	t.finish(sent)
	return Counts{
		Sent: sent, Received: st.received, Unique: t.unique, Bytes: st.bytes, Lost: t.lost, Duplicates: t.duplicates,
		TooLate: t.tooLate, Reordered: t.reordered, Distance: t.distance, Drops: st.drops, Bursts: t.bursts,
		Jitter: st.jitter, MaxJitter: st.most,
	}
}

// arrived is the step's result, as if nothing more came.
func (s *step) arrived() Arrived {
	a := Arrived{
		Step: s.number, Size: s.size, Rate: s.end.rate, Took: time.Duration(s.end.took), Refused: s.end.refused, Complete: s.over(),
		First: s.first, Last: s.last, OneWay: s.oneWay.summary(), Variation: s.variation.summary(), Unstamped: s.unstamped,
		Streams: make([]Counts, len(s.streams)),
	}
	if s.end.size > 0 {
		a.Size = int(s.end.size)
	}
	for i, st := range s.streams {
		if st == nil {
			continue
		}
		a.Streams[i] = st.counts()
		a.add(&a.Streams[i])
	}
	a.Jitter = s.jitter()
	return a
}

// jitter is the mean over the streams that have one.
func (s *step) jitter() float64 {
	sum, n := 0.0, 0
	for _, st := range s.streams {
		if st != nil && st.unique > 1 {
			sum += st.jitter
			n++
		}
	}
	return sum / float64(max(n, 1))
}

// totals are those of all streams, and how many numbers are known.
func (s *step) totals() (t Interval, highs uint64) {
	for _, st := range s.streams {
		if st == nil {
			continue
		}
		t.Received += st.received
		t.Unique += st.unique
		t.Bytes += st.bytes
		t.Duplicates += st.duplicates
		t.Reordered += st.reordered
		t.Drops += st.drops
		highs += st.next
	}
	return t, highs
}

// interval ends one and begins the next.
func (s *step) interval() Interval {
	now, highs := s.totals()
	b := &s.before
	i := Interval{
		Step: s.number, Received: now.Received - b.Received, Unique: now.Unique - b.Unique, Bytes: now.Bytes - b.Bytes,
		Duplicates: now.Duplicates - b.Duplicates, Reordered: now.Reordered - b.Reordered, Drops: now.Drops - b.Drops,
		Lost: int64(highs-s.highs) - int64(now.Unique-b.Unique), OneWay: s.recent.summary(), Jitter: s.jitter(),
	}
	s.before, s.highs = now, highs
	s.recent.reset()
	return i
}
