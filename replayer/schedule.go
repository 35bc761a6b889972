package replayer

import (
	"errors"
	"fmt"
	"time"
)

// Pacing says when datagrams are due. The zero value is the recorded timing. At
// most one of Speed, Max, PPS and BitsPerSecond may be set.
type Pacing struct {
	// Speed divides the recorded intervals: 2 takes half the time. 0.01 to 1000; 0
	// means 1.
	Speed float64
	// Max makes everything due at once.
	Max bool
	// PPS makes datagrams due at a constant rate, in datagrams per second, whatever
	// the recorded times; 0 is off, at most 1e9.
	PPS float64
	// BitsPerSecond makes datagrams due at a constant rate of UDP payload bits; 0
	// is off, at most 1e12.
	BitsPerSecond float64
	// MaxGap shortens longer gaps to this, in recorded time (before Speed); what
	// comes later moves up. 0 keeps every gap, however long. It has no meaning at a
	// constant rate or with Max.
	MaxGap time.Duration
}

const (
	minSpeed, maxSpeed = 0.01, 1000
	maxPPS             = 1e9
	maxBitsPerSecond   = 1e12

	// maxOffset is the latest due time, in ns after the anchor: 146 years. It
	// leaves room for an anchor without overflow.
	maxOffset = 1 << 62
)

func (p *Pacing) check() error {
	modes := 0
	for _, set := range []bool{p.Speed != 0, p.Max, p.PPS != 0, p.BitsPerSecond != 0} {
		if set {
			modes++
		}
	}
	// Comparisons are written so that NaN does not pass.
	switch {
	case modes > 1:
		return errors.New("more than one of speed, full speed, datagram rate and bit rate is set; choose one")
	case p.Speed != 0 && !(p.Speed >= minSpeed && p.Speed <= maxSpeed):
		return fmt.Errorf("speed %g is not between %g and %g", p.Speed, minSpeed, float64(maxSpeed))
	case p.PPS != 0 && !(p.PPS > 0 && p.PPS <= maxPPS):
		return fmt.Errorf("a rate of %g datagrams a second is not between 0 and %g", p.PPS, maxPPS)
	case p.BitsPerSecond != 0 && !(p.BitsPerSecond > 0 && p.BitsPerSecond <= maxBitsPerSecond):
		return fmt.Errorf("a rate of %g bits a second is not between 0 and %g", p.BitsPerSecond, maxBitsPerSecond)
	case p.MaxGap < 0:
		return fmt.Errorf("a maximum gap of %s is negative", p.MaxGap)
	}
	return nil
}

// schedule turns the recorded times of datagrams, one after another, into due
// times. It reads no clock: the same times always give the same result.
type schedule struct {
	Pacing
	started     bool
	first, last int64  // recorded ns since the Unix epoch; last is the latest so far
	removed     uint64 // ns that MaxGap took out so far
	gone        uint64 // ns that it took out before the last restart
	shortened   uint64 // gaps that MaxGap shortened
	datagrams   uint64 // before the next one
	bytes       uint64
}

// due returns when the datagram recorded at t (ns since the Unix epoch) with size
// bytes of payload is due, in ns after the anchor, 0 to maxOffset. Results never
// decrease: a datagram recorded earlier than one before it is due together with
// it, because order matters more than a clock that was set back.
//
// Every result is computed from the start, not from the result before it, in
// float64: exact to 1 ns up to 104 days (2^53 ns), and at speed 1 always.
func (s *schedule) due(t int64, size int) int64 {
	if !s.started {
		s.started = true
		s.first, s.last = t, t
	}
	if t > s.last {
		// Differences of int64 times fit uint64 whatever the times are.
		gap := uint64(t) - uint64(s.last)
		if limit := uint64(s.MaxGap); limit > 0 && gap > limit {
			s.removed += gap - limit
			s.shortened++
		}
		s.last = t
	}
	datagrams, bytes := s.datagrams, s.bytes
	s.datagrams++
	s.bytes += uint64(size)
	switch {
	case s.Max:
		return 0
	case s.PPS != 0:
		return clampOffset(float64(datagrams) / s.PPS * 1e9)
	case s.BitsPerSecond != 0:
		return clampOffset(float64(bytes) * 8 / s.BitsPerSecond * 1e9)
	}
	since := uint64(s.last) - uint64(s.first) - s.removed
	if s.Speed == 0 || s.Speed == 1 {
		return int64(min(since, maxOffset))
	}
	return clampOffset(float64(since) / s.Speed)
}

// clampOffset converts before it can overflow: float64 to int64 is undefined out
// of range (Go specification, conversions).
func clampOffset(ns float64) int64 {
	if ns >= maxOffset {
		return maxOffset
	}
	return int64(ns)
}

// restart begins anew behind a seek: the next datagram is due at 0. What was shortened
// before stays counted.
func (s *schedule) restart() {
	s.started = false
	s.gone += s.removed
	s.removed, s.datagrams, s.bytes = 0, 0, 0
}

// gaps is what MaxGap took out in all, in ns.
func (s *schedule) gaps() uint64 { return s.gone + s.removed }
