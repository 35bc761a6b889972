package probe

import (
	"net/netip"
	"time"
)

const (
	maxRuns    = 8    // at once
	maxStreams = 1024 // of a run
	// quiet is after how long without a datagram a step whose end came is done, in ns;
	// silence is that of one whose end did not, and of a run that may make room for
	// another.
	quiet, silence = 300_000_000, 5_000_000_000
	// stepBurst steps may begin at once, and stepRate a second: each costs memory for
	// histograms, and a line.
	stepBurst, stepRate = 64, 50
)

// Ignored counts datagrams that were received and not measured.
type Ignored struct {
	// Foreign are not a probe's, or of another version of it.
	Foreign uint64
	// Stale belong to a step that is over.
	Stale uint64
	// Implausible say of themselves what cannot be: a stream or number beyond the bounds.
	Implausible uint64
	// Crowded came while as many other runs were measured as can be at once, or of a
	// sender that begins more steps a second than can be.
	Crowded uint64
}

// Total is their sum.
func (i Ignored) Total() uint64 { return i.Foreign + i.Stale + i.Implausible + i.Crowded }

// runKey tells runs apart: two senders may choose one number.
type runKey struct {
	source netip.AddrPort
	run    uint64
}

// run is one sender's run at the receiver.
type run struct {
	key  runKey
	step *step // nil before the first
	// reported says that the step was: only its sender's questions are answered.
	reported bool
	// budget is how many steps may begin, as of filled (monotonic ns).
	budget float64
	filled int64
	heard  int64 // when something came last, monotonic ns
	since  int64 // when the interval that goes on began, monotonic ns
	wall   int64 // the same, ns since the epoch
	over   bool  // the end of its last step came
	calls  map[uint16]bool
	reply  replyTo
}

// answer is what a datagram asks its receiver to do.
type answer uint8

const (
	noAnswer answer = iota
	echoIt
	reportIt
)

// desk sorts what arrives by runs and steps. It knows no sockets.
type desk struct {
	runs     map[runKey]*run
	recent   *run
	ignored  Ignored
	finished int // runs whose last step is done

	onStep     func(Arrived)
	onInterval func(Interval)
}

func newDesk() *desk { return &desk{runs: map[runKey]*run{}} }

// take takes a payload from src that arrived at wall (ns since the epoch) and is looked
// at now (monotonic ns). st is the stream that was measured, nil where none was, and ru
// the run where something is to be answered.
func (d *desk) take(b []byte, h *header, src netip.AddrPort, wall, now int64) (ru *run, st *stream, a answer) {
	if h.get(b) != nil || h.kind != kindData && h.kind != kindEnd {
		d.ignored.Foreign++
		return nil, nil, noAnswer
	}
	var e end
	switch {
	case h.kind == kindEnd && e.get(b) != nil:
		d.ignored.Foreign++
		return nil, nil, noAnswer
	case h.stream >= maxStreams || h.kind == kindData && h.step == 0 || e.streams > maxStreams || h.kind == kindEnd && h.stream >= e.streams:
		d.ignored.Implausible++
		return nil, nil, noAnswer
	}
	ru = d.find(runKey{src, h.run}, now, wall)
	if ru == nil {
		d.ignored.Crowded++
		return nil, nil, noAnswer
	}
	ru.heard = now
	if h.step == 0 {
		ru.calls[h.stream] = true
		return ru, nil, reportIt
	}
	switch s := ru.step; {
	case s == nil || h.step > s.number:
		if !ru.afford(now) {
			d.ignored.Crowded++
			return nil, nil, noAnswer
		}
		d.close(ru)
		ru.step, ru.reported = newStep(h.step), false
		ru.since, ru.wall = now, wall
	case h.step < s.number, ru.reported && h.kind == kindData:
		d.ignored.Stale++
		return nil, nil, noAnswer
	}
	s := ru.step
	if st = s.at(h.stream); st == nil {
		st = s.make(h.stream)
	}
	if h.kind == kindEnd {
		if !st.plausible(h.seq) {
			d.ignored.Implausible++
			return nil, nil, noAnswer
		}
		s.finish(st, e, h.seq)
		if h.flags&flagLast != 0 && !ru.over {
			ru.over = true
			if ru.reported {
				d.finished++
			}
		}
		return ru, st, reportIt
	}
	if !st.plausible(h.seq) {
		d.ignored.Implausible++
		return nil, nil, noAnswer
	}
	s.data(st, h, len(b), wall)
	if h.flags&flagEcho != 0 {
		a = echoIt
	}
	return ru, st, a
}

// afford says whether one more step may begin.
func (ru *run) afford(now int64) bool {
	ru.budget = min(ru.budget+float64(now-ru.filled)*stepRate/1e9, stepBurst)
	ru.filled = now
	if ru.budget < 1 {
		return false
	}
	ru.budget--
	return true
}

// find returns the run, made where it is new and there is room, which the one that has
// been silent for longest may have to make.
func (d *desk) find(k runKey, now, wall int64) *run {
	if ru := d.recent; ru != nil && ru.key == k {
		return ru
	}
	ru := d.runs[k]
	if ru == nil {
		if len(d.runs) >= maxRuns {
			var oldest *run
			for _, o := range d.runs {
				if oldest == nil || o.heard < oldest.heard {
					oldest = o
				}
			}
			if now-oldest.heard < silence {
				return nil
			}
			d.drop(oldest)
		}
		ru = &run{key: k, since: now, wall: wall, budget: stepBurst, filled: now, calls: map[uint16]bool{}}
		d.runs[k] = ru
	}
	d.recent = ru
	return ru
}

// drop forgets a run, and reports its step.
func (d *desk) drop(ru *run) {
	d.close(ru)
	delete(d.runs, ru.key)
	if d.recent == ru {
		d.recent = nil
	}
}

// close reports the step of a run, which is over, unless it was reported.
func (d *desk) close(ru *run) {
	if ru.step == nil || ru.reported {
		return
	}
	ru.reported = true
	if d.onStep != nil {
		d.onStep(ru.arrived())
	}
	if ru.over {
		d.finished++
	}
}

func (ru *run) arrived() Arrived {
	a := ru.step.arrived()
	a.Source, a.Run = ru.key.source, ru.key.run
	if ru.reported {
		a.OneWay, a.Variation = ru.step.oneWay.whole(), ru.step.variation.whole()
	}
	return a
}

// tick reports intervals that are as long as every (ns), and steps that are over.
// Streams that have ended were read to their last datagram before.
func (d *desk) tick(now, wall, every int64) {
	for _, ru := range d.runs {
		idle := now - ru.heard
		if ru.step != nil && !ru.reported && now-ru.since >= every {
			i := ru.step.interval()
			i.Source, i.Run, i.Start, i.Took = ru.key.source, ru.key.run, ru.wall, time.Duration(now-ru.since)
			ru.since, ru.wall = now, wall
			if d.onInterval != nil {
				d.onInterval(i)
			}
		}
		if ru.step != nil && (idle >= silence || idle >= quiet && ru.step.over()) {
			d.close(ru)
		}
		// A step is kept for as long as its sender may ask about it.
		if idle >= silence || idle >= quiet && ru.over && ru.reported {
			d.drop(ru)
		}
	}
}

// closeAll reports every step.
func (d *desk) closeAll() {
	for _, ru := range d.runs {
		d.drop(ru)
	}
}
