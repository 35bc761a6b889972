package replayer

import (
	"errors"
	"io"
	"math"
	"time"

	"castdeck/format"
)

// Repeat is a source that yields another one again and again. Each round's times
// are moved behind the round before, so that the schedule sees one recording that
// goes on: a replayer that starts over at the recorded times takes every datagram
// from the second round on for late, and sends it at full speed.
type Repeat struct {
	// Open opens the source for a round; it is closed behind the round where it is
	// an io.Closer. Required.
	Open func() (format.BatchReader, error)
	// Rounds is how often the source is yielded; 0 is without end.
	Rounds int
	// Pause is the time between a round's last datagram and the next one's first;
	// 0 means the mean time between its datagrams.
	Pause time.Duration

	src   format.BatchReader
	round int
	shift int64 // ns that this round's times are moved by

	first, last int64 // recorded times of this round
	datagrams   int64
}

// ReadBatch yields the next batch; io.EOF after the last round, or behind a round
// without any datagram, because that could go on for ever. Errors in the middle
// of a round are the source's.
func (r *Repeat) ReadBatch(b *format.Batch) error {
	for {
		if r.src == nil {
			if r.Rounds > 0 && r.round == r.Rounds {
				return io.EOF
			}
			src, err := r.Open()
			if err != nil {
				return err
			}
			r.src, r.datagrams = src, 0
		}
		err := r.src.ReadBatch(b)
		if err == nil {
			r.move(b)
			return nil
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if err := r.Close(); err != nil {
			return err
		}
		if r.datagrams == 0 {
			r.round = max(r.round, 1)
			r.Rounds = r.round
			return io.EOF
		}
		r.round++
		span := uint64(r.last) - uint64(r.first)
		pause := uint64(max(r.Pause, 0))
		if pause == 0 {
			pause = span / uint64(max(r.datagrams-1, 1))
		}
		if span > math.MaxInt64/2 || pause > math.MaxInt64/2 || r.shift > math.MaxInt64-int64(span+pause) {
			return errors.New("repeating the source once more takes its times beyond the year 2262")
		}
		r.shift += int64(span + pause)
	}
}

// move adds the shift to a batch's times.
func (r *Repeat) move(b *format.Batch) {
	for i := range b.Datagrams {
		t := b.Datagrams[i].Time
		if r.datagrams == 0 {
			r.first, r.last = t, t
		}
		r.datagrams++
		r.last = max(r.last, t)
		b.Datagrams[i].Time = addTime(t, r.shift)
	}
	for i := range b.Stats {
		b.Stats[i].Time = addTime(b.Stats[i].Time, r.shift)
	}
}

// addTime adds a shift of 0 or more; a time that would pass the end of int64 stays
// there.
func addTime(t, shift int64) int64 {
	if t > math.MaxInt64-shift {
		return math.MaxInt64
	}
	return t + shift
}

// Close closes the source of the round that goes on. ReadBatch opens the next.
func (r *Repeat) Close() error {
	src := r.src
	r.src = nil
	if c, ok := src.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
