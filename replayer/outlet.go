package replayer

import (
	"fmt"
	"math"
	"syscall"
	"time"

	"castdeck/internal/sock"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// maxTogether bounds the datagrams of one system call: two full runs (64 datagrams
	// of one length to one destination). More gains nothing measurable (95 ns a
	// datagram at 64, 82 at 1024), and all of a call's datagrams count as left when it
	// returns.
	maxTogether = 128
	// lead is the time between setting the anchor and the first due time, in ns: it
	// lets the first datagram be waited for like every other.
	lead = 1_000_000
	// histogramMax is the largest lateness that the histogram tells apart, in ns: an
	// hour. Three digits take 270 kB.
	histogramMax = 3_600_000_000_000

	// maxErrno bounds the error numbers that are counted apart; Linux has 133.
	maxErrno = 256
)

// outlet sends slots on time. One goroutine uses it.
type outlet struct {
	sender *sock.Sender
	pacer  *pacer
	stats  *stats
	paced  bool  // false: everything is due at once, and lateness means nothing
	anchor int64 // due times count from here, ns of the pacer's clock

	datagrams, bytes uint64
	errors           uint64
	byErrno          [maxErrno]uint64
	lastSent         int64 // ns of the pacer's clock; 0 before the first
	tried            bool  // a datagram was sent or failed; only then are first and latest valid
	first, latest    int64 // recorded times of those, ns since the Unix epoch
	lateness         *hdrhistogram.Histogram
	maxLateness      int64
}

func newOutlet(s *sock.Sender, p *pacer, st *stats, paced bool) *outlet {
	return &outlet{sender: s, pacer: p, stats: st, paced: paced, lateness: hdrhistogram.New(1, histogramMax, 3)}
}

// warm goes the way of the first datagram without sending: the kernel's path to
// its destination, and the histogram. A cold first datagram leaves 30 to 45 us
// late.
func (o *outlet) warm(s *slot) {
	o.sender.Warm(int(s.entries[0].socket), s.messages, 0)
	o.lateness.RecordValue(1)
	o.lateness.Reset()
}

// setAnchor sets the moment that due times count from: at, or as soon as can be.
func (o *outlet) setAnchor(at time.Time) error {
	if at.IsZero() {
		o.anchor = o.pacer.clock.Now() + lead
		return nil
	}
	// The wall clock may be stepped or slewed while we wait: ask it again until
	// shortly before.
	const shortly = 100 * time.Millisecond
	if late := -time.Until(at); late > 0 {
		return fmt.Errorf("the start at %s has passed, %s ago", at.Format(time.RFC3339Nano), late.Round(time.Millisecond))
	}
	for !o.pacer.stopped.Load() {
		now := o.pacer.clock.Now()
		left := time.Until(at.Round(0)) // without its monotonic reading
		if left <= shortly {
			o.anchor = now + int64(left)
			break
		}
		o.pacer.wait(now + int64(min(left-shortly, shortly)))
	}
	return nil
}

// send sends a slot's datagrams, each at its due time or as soon after it as the
// ones before allow, in order. It returns early when the pacer is stopped.
//
// Lateness is the time after the system call that carried a datagram, minus the
// due time. For one that shared its call with others this is the time at which
// the last of them left: never flattering.
func (o *outlet) send(s *slot) {
	for i := 0; i < len(s.entries); {
		e := &s.entries[i]
		now := o.pacer.wait(o.anchor + e.due)
		if o.pacer.stopped.Load() {
			return
		}
		end := i + 1
		for end < len(s.entries) && end-i < maxTogether &&
			s.entries[end].socket == e.socket && s.entries[end].due <= now-o.anchor {
			end++
		}
		sent, err := o.sender.Send(int(e.socket), s.messages, i, end)
		after := o.pacer.clock.Now()
		if sent > 0 {
			o.account(s.entries[i:i+sent], after)
			i += sent
		}
		if err != nil {
			if err == syscall.EAGAIN {
				continue // no room yet: the same datagram again, unless we were stopped
			}
			o.fail(&s.entries[i], err)
			i++
		}
	}
}

// account counts datagrams that have left by the time after.
func (o *outlet) account(sent []entry, after int64) {
	var bytes uint64
	var late int64
	for i := range sent {
		e := &sent[i]
		o.pass(e)
		bytes += uint64(e.size)
		e.counts.datagrams++
		e.counts.bytes += uint64(e.size)
		if o.paced {
			late = after - o.anchor - e.due
			o.lateness.RecordValue(min(late, histogramMax))
			e.counts.maxLateness = max(e.counts.maxLateness, late)
			o.maxLateness = max(o.maxLateness, late)
		}
	}
	o.datagrams += uint64(len(sent))
	o.bytes += bytes
	o.lastSent = after
	o.stats.publish(o.datagrams, o.bytes, sent[len(sent)-1].time, late, o.maxLateness)
}

// pass notes the recorded time of a datagram that was tried.
func (o *outlet) pass(e *entry) {
	if !o.tried {
		o.tried = true
		o.first, o.latest = e.time, e.time
	}
	o.latest = max(o.latest, e.time)
}

// recorded is the recorded time between the first and the latest datagram tried,
// in ns.
func (o *outlet) recorded() int64 {
	return int64(min(uint64(o.latest)-uint64(o.first), math.MaxInt64))
}

// fail counts a datagram that the kernel refused.
func (o *outlet) fail(e *entry, err error) {
	o.pass(e)
	o.errors++
	e.counts.errors++
	if n, ok := err.(syscall.Errno); ok && n < maxErrno {
		o.byErrno[n]++
	} else {
		o.byErrno[0]++
	}
	o.stats.sendErrors.Store(o.errors)
}
