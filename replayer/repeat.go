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
	// Open opens the source for a round, or for the rest of one: what was recorded
	// before from (ns since the Unix epoch) is not wanted, and may be left out or not;
	// math.MinInt64 is the start. It is closed behind the round where it is an
	// io.Closer. Required.
	Open func(from int64) (format.BatchReader, error)
	// Rounds is how often the source is yielded; 0 is without end.
	Rounds int
	// Pause is the time between a round's last datagram and the next one's first;
	// 0 means the mean time between its datagrams.
	Pause time.Duration

	src   format.BatchReader
	round int
	shift int64 // ns that this round's times are moved by

	before  int64 // shift of the round before
	started bool  // first is known
	first   int64 // recorded time of a round's first datagram
	from    int64 // recorded times before it are left out of this round

	begun, last int64 // recorded times in this round since it began, or somebody sought
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
			if err := r.open(math.MinInt64); err != nil {
				return err
			}
		}
		err := r.src.ReadBatch(b)
		if err == nil {
			if r.move(b); len(b.Datagrams) == 0 && len(b.Stats) == 0 {
				continue // all before the place that was sought
			}
			return nil
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if err := r.Close(); err != nil {
			return err
		}
		if r.datagrams == 0 && r.from == math.MinInt64 {
			r.round = max(r.round, 1)
			r.Rounds = r.round
			return io.EOF
		}
		r.round++
		if !r.started {
			continue // sought to its end before anything was read
		}
		span := uint64(r.last) - uint64(r.first)
		pause := uint64(max(r.Pause, 0))
		if pause == 0 {
			pause = (uint64(r.last) - uint64(r.begun)) / uint64(max(r.datagrams-1, 1))
		}
		if span > math.MaxInt64/2 || pause > math.MaxInt64/2 || r.shift > math.MaxInt64-int64(span+pause) {
			return errors.New("repeating the source once more takes its times beyond the year 2262")
		}
		r.before = r.shift
		r.shift += int64(span + pause)
	}
}

// Round is the number of the round that the last batch is of, from 0 on. See Rounder.
func (r *Repeat) Round() int { return r.round }

func (r *Repeat) open(from int64) error {
	src, err := r.Open(from)
	if err != nil {
		return err
	}
	r.src, r.datagrams, r.from = src, 0, from
	return nil
}

// SeekTime goes on, within the round, from the first datagram whose time, as
// ReadBatch gives it, is at or after t. See TimeSeeker.
func (r *Repeat) SeekTime(t int64) error {
	if r.Rounds > 0 && r.round == r.Rounds { // behind the end: the last round again
		r.round--
		r.shift = r.before
	}
	if err := r.Close(); err != nil {
		return err
	}
	return r.open(addTime(t, -r.shift))
}

// move adds the shift to a batch's times and leaves out what is not wanted.
func (r *Repeat) move(b *format.Batch) {
	kept := 0
	for i := range b.Datagrams {
		t := b.Datagrams[i].Time
		if t < r.from && r.datagrams == 0 {
			continue
		}
		if !r.started {
			r.started = true
			r.first = t
		}
		if r.datagrams == 0 {
			r.begun, r.last = t, t
		}
		r.datagrams++
		r.last = max(r.last, t)
		b.Datagrams[kept] = b.Datagrams[i]
		b.Datagrams[kept].Time = addTime(t, r.shift)
		kept++
	}
	b.Datagrams = b.Datagrams[:kept]
	for i := range b.Stats {
		b.Stats[i].Time = addTime(b.Stats[i].Time, r.shift)
	}
}

// addTime adds a shift; a time that would pass an end of int64 stays there.
func addTime(t, shift int64) int64 {
	switch {
	case shift > 0 && t > math.MaxInt64-shift:
		return math.MaxInt64
	case shift < 0 && t < math.MinInt64-shift:
		return math.MinInt64
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
