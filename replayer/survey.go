package replayer

import (
	"cmp"
	"errors"
	"io"
	"net/netip"
	"slices"
	"time"

	"castdeck/format"
)

// Rate is how much is sent in how much time.
type Rate struct {
	Datagrams float64 // a second
	Bits      float64 // of payload, a second
}

// Surveyed is what a replay does with a stream, and when.
type Surveyed struct {
	Planned
	// Average is over the time of the whole replay, at least surveyStep; Peak over the
	// busiest surveyStep (100 ms, counted from the first datagram). At full speed, where
	// nothing has a time, both are 0.
	Average, Peak Rate
}

// Survey is what a replay would do.
type Survey struct {
	// Streams that are in the source, in order of their destinations after the mappings. Of
	// a source with more than format.MaxStreams the rest is in Others alone.
	Streams []*Surveyed
	Others  uint64 // datagrams
	// Refused counts the streams, and those of Others, that the guard refuses.
	Refused uint64
	// Duration is the time from the first to the last datagram that is sent.
	Duration time.Duration
	// Damaged counts the places of the source that could not be read.
	Damaged uint64
}

// surveyStep is the time over which peaks are taken, in ns.
const surveyStep = 100_000_000

type surveyKey struct {
	src, dst netip.AddrPort
	input    uint16
}

// surveyed is a stream that is being counted.
type surveyed struct {
	Surveyed
	step                     int64 // number of the step that goes on
	datagrams, bytes         uint64
	peakDatagrams, peakBytes uint64
}

// Look reads src to its end and tells what a replay of it with these options would send
// where, and at which rates; it sends nothing. Truncated datagrams and what is not UDP are
// left out. Like Plan it can do without an Interface.
func Look(src format.BatchReader, o Options) (*Survey, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	p, err := newPolicy(&o)
	if err != nil {
		return nil, err
	}
	s := &Survey{}
	streams := make(map[surveyKey]*surveyed)
	when := schedule{Pacing: o.Pacing}
	var b format.Batch
	var last int64
	var barren patience
	for {
		err := src.ReadBatch(&b)
		var corrupt *format.CorruptError
		switch {
		case errors.Is(err, io.EOF):
			s.finish(streams, last, o.Max)
			return s, nil
		case errors.As(err, &corrupt):
			s.Damaged++
			if err := barren.damaged(err); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		barren = 0
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			if d.Flags&(format.FlagNotUDP|format.FlagTruncated) != 0 || !d.Dst.IsValid() {
				continue
			}
			k := surveyKey{d.Src, d.Dst, d.Input}
			c := streams[k]
			if c == nil {
				what := p.decide(d.Input, d.Src, d.Dst)
				c = &surveyed{}
				c.Planned = Planned{Stream: Stream{Src: d.Src, Dst: d.Dst, Input: d.Input}, To: what.to, Way: p.ways[what.way].Way, Selected: what.selected, Refused: what.refused}
				if len(streams) < format.MaxStreams {
					streams[k] = c
				} else {
					s.Others++
					if what.refused != nil {
						s.Refused++
					}
				}
			}
			c.Datagrams++
			c.Bytes += uint64(len(d.Payload))
			if c.Selected {
				last = when.due(d.Time, len(d.Payload))
				c.count(last/surveyStep, len(d.Payload))
			}
		}
	}
}

// count adds a datagram of a step.
func (c *surveyed) count(step int64, size int) {
	if step != c.step {
		c.step, c.datagrams, c.bytes = step, 0, 0
	}
	c.datagrams++
	c.bytes += uint64(size)
	c.peakDatagrams, c.peakBytes = max(c.peakDatagrams, c.datagrams), max(c.peakBytes, c.bytes)
}

func (s *Survey) finish(streams map[surveyKey]*surveyed, last int64, fullSpeed bool) {
	s.Duration = time.Duration(last)
	const second = float64(time.Second)
	s.Streams = make([]*Surveyed, 0, len(streams))
	for _, c := range streams {
		if c.Refused != nil {
			s.Refused++
		}
		if c.Selected && !fullSpeed {
			over := float64(max(last, surveyStep)) / second
			c.Average = Rate{float64(c.Datagrams) / over, float64(8*c.Bytes) / over}
			const step = surveyStep / second
			c.Peak = Rate{max(float64(c.peakDatagrams)/step, c.Average.Datagrams), max(float64(8*c.peakBytes)/step, c.Average.Bits)}
		}
		s.Streams = append(s.Streams, &c.Surveyed)
	}
	slices.SortFunc(s.Streams, func(a, b *Surveyed) int {
		return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.Way.Interface, b.Way.Interface), a.Dst.Compare(b.Dst), a.Src.Compare(b.Src),
			cmp.Compare(a.Input, b.Input))
	})
}
