package replayer

import (
	"context"
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
	// histogramMax is the largest value that a histogram tells apart, in ns: an hour.
	histogramMax = 3_600_000_000_000

	// limitSlice is the part of a second that may go out at once under a ceiling: 1/5000,
	// 200 us.
	limitSlice = 5000
	// headerBytes are counted with a payload against the ceiling: Ethernet with its
	// checksum, IPv4 and UDP. What makes a gap on the wire is not.
	headerBytes = 14 + 20 + 8 + checksumBytes
	// checksumBytes are those of Ethernet, behind a frame.
	checksumBytes = 4

	defaultLateAfter = 1_000_000 // ns

	// maxErrno bounds the error numbers that are counted apart; Linux has 133.
	maxErrno = 256
)

// outlet sends slots on time. One goroutine uses it.
type outlet struct {
	senders []*sock.Sender // by entry.way
	pacer   *pacer
	stats   *stats
	control *control
	ring    *ring
	pacing  Pacing
	late    LatePolicy
	after   int64 // ns of lateness at which the policy acts
	limit   int64 // ceiling in bits a second; 0 is none
	headers int64 // bytes that are counted with each entry against the ceiling

	wall         func() int64 // ns since the Unix epoch
	ahead, asked int64        // ns of the wall clock ahead of the pacer's, and when that was

	paced    bool // false: everything is due at once, and lateness means nothing
	timeline timeline
	paused   bool
	steps    int    // datagrams to send although paused
	rebase   bool   // the next datagram leaves now, and due times count from it
	sought   uint64 // number of the seekRequest in force
	speed    float64
	position int64 // recorded time of the datagram that is next, or was last
	free     int64 // moment from which the ceiling lets more out
	left     int   // datagrams to go

	begun            int64 // moment at which the first datagram was due
	held, heldSince  int64 // ns paused, and since when; 0 where it is not
	datagrams, bytes uint64
	errors           uint64
	byErrno          [maxErrno]uint64
	dropped          uint64 // for being late
	shifts           uint64
	shifted          int64 // ns
	lastSent         int64 // ns of the pacer's clock; 0 before the first
	tried            bool  // a datagram was sent or failed; only then are first and latest valid
	first, latest    int64 // recorded times of those, ns since the Unix epoch
	lateness         *hdrhistogram.Histogram
	intervals        *hdrhistogram.Histogram // errors of the distances between datagrams to one destination
	maxLateness      int64
	maxInterval      int64
	history          *history // nil without
	realtimeRefused  error
}

func newOutlet(s []*sock.Sender, p *pacer, st *stats, c *control, r *ring, o *Options) *outlet {
	out := &outlet{
		senders: s, pacer: p, stats: st, control: c, ring: r, pacing: o.Pacing, late: o.Late, after: int64(o.LateAfter), limit: int64(o.Limit), headers: headerBytes,
		wall:  func() int64 { return time.Now().UnixNano() },
		paced: !o.Max, timeline: timeline{factor: 1}, speed: 1, lateness: newHistogram(3), intervals: newHistogram(3),
	}
	if o.Raw {
		out.headers = checksumBytes
	}
	if o.History {
		out.history = newHistory()
	}
	if o.Speed != 0 {
		out.speed = o.Speed
	}
	out.left = math.MaxInt
	if o.Count > 0 {
		out.left = int(min(o.Count, math.MaxInt))
	}
	if out.after == 0 {
		out.after = defaultLateAfter
	}
	return out
}

// newHistogram tells values apart to so many digits: three take 270 kB, two 35 kB.
func newHistogram(digits int) *hdrhistogram.Histogram {
	return hdrhistogram.New(1, histogramMax, digits)
}

// warm goes the way of the first datagram without sending: the kernel's path to
// its destination, and the histogram. A cold first datagram leaves 30 to 45 us
// late.
func (o *outlet) warm(s *slot) {
	o.senders[s.entries[0].way].Warm(int(s.entries[0].socket), s.messages, 0)
	o.lateness.RecordValue(1)
	o.lateness.Reset()
	o.intervals.RecordValue(1)
	o.intervals.Reset()
}

// setAnchor sets the moment that due times count from: at, or as soon as can be.
func (o *outlet) setAnchor(ctx context.Context, at time.Time) error {
	if at.IsZero() {
		o.begun = o.pacer.clock.Now() + lead
		o.timeline.rebase(o.begun, 0)
		return nil
	}
	// The wall clock may be stepped or slewed while we wait: ask it again until
	// shortly before.
	const shortly = 100 * time.Millisecond
	if late := -time.Until(at); late > 0 {
		return fmt.Errorf("the start at %s has passed, %s ago", at.Format(time.RFC3339Nano), late.Round(time.Millisecond))
	}
	for ctx.Err() == nil {
		now := o.pacer.clock.Now()
		left := time.Until(at.Round(0)) // without its monotonic reading
		if left <= shortly {
			o.begun = now + int64(left)
			o.timeline.rebase(o.begun, 0)
			break
		}
		o.pacer.wait(now + int64(min(left-shortly, shortly)))
		if o.pacer.attention.Load() {
			o.obey(ctx)
		}
	}
	return nil
}

// obey runs the commands that wait.
func (o *outlet) obey(ctx context.Context) {
	for _, do := range o.control.take(ctx) {
		do(o)
	}
	o.stats.paused.Store(o.paused)
}

// hold waits, while paused and without steps to take, for a command that ends that.
func (o *outlet) hold(ctx context.Context) {
	o.heldSince = o.pacer.clock.Now()
	sought := o.sought
	for o.paused && o.steps == 0 && o.sought == sought && ctx.Err() == nil {
		select {
		case <-o.control.wake:
			o.obey(ctx)
		case <-ctx.Done():
		}
	}
	o.held += o.pacer.clock.Now() - o.heldSince
	o.heldSince = 0
}

func (o *outlet) setSpeed(speed float64) {
	configured := 1.0
	if o.pacing.Speed != 0 {
		configured = o.pacing.Speed
	}
	o.speed = speed
	o.timeline.setFactor(o.pacer.clock.Now(), speed/configured)
	o.stats.speed.Store(math.Float64bits(speed))
}

func (o *outlet) seek(t int64) {
	o.sought++
	o.rebase = true
	o.position = t
	o.stats.position.Store(t)
	o.ring.seek.Store(&seekRequest{o.sought, t})
	select {
	case o.ring.nudge <- struct{}{}:
	default:
	}
}

// send sends a slot's datagrams, each at its due time or as soon after it as the
// ones before allow, in order. It returns early when ctx ends or somebody seeks.
//
// Lateness is the time after the system call that carried a datagram, minus the
// due time. For one that shared its call with others this is the time at which
// the last of them left: never flattering.
func (o *outlet) send(ctx context.Context, s *slot) {
	for i := 0; i < len(s.entries) && s.seek == o.sought && o.left > 0; {
		e := &s.entries[i]
		o.position = e.time
		if o.paused && o.steps == 0 {
			if o.hold(ctx); ctx.Err() != nil {
				return
			}
			continue
		}
		stepping := o.paused
		now := o.pacer.clock.Now()
		if !stepping {
			if o.rebase {
				o.rebase = false
				o.timeline.rebase(now, e.due)
			}
			now = o.pacer.wait(max(o.timeline.at(e.due), o.free))
		}
		if o.pacer.attention.Load() {
			if o.obey(ctx); ctx.Err() != nil {
				return
			}
			continue
		}
		if o.paced && !stepping && o.late != CatchUp && o.tooLate(e, now) {
			i++
			continue
		}
		end := o.together(s, i, now, stepping)
		if s.stamping {
			o.stamp(s, i, end, now, stepping)
		}
		sent, err := o.senders[e.way].Send(int(e.socket), s.messages, i, end)
		after := o.pacer.clock.Now()
		if sent > 0 {
			o.account(s.entries[i:i+sent], after, stepping)
			i += sent
			o.left -= sent
			if stepping {
				o.steps -= sent
			}
		}
		if err != nil {
			if err == syscall.EAGAIN {
				continue // no room yet: the same datagram again, unless we were stopped
			}
			o.fail(&s.entries[i], err)
			i++
			o.left--
		}
	}
}

// together is the end of what goes out in one call with datagram i: what is due too,
// from the same socket, as far as steps and the ceiling let it.
func (o *outlet) together(s *slot, i int, now int64, stepping bool) int {
	most := min(maxTogether, o.left)
	if stepping {
		most = min(most, o.steps)
	}
	var room int64 // bits
	if o.limit > 0 {
		room = max(o.limit/limitSlice, 1)
		o.free = max(o.free, now)
	}
	end := i
	for end < len(s.entries) && end-i < most {
		e := &s.entries[end]
		if first := &s.entries[i]; end > i && (e.socket != first.socket || e.way != first.way || !stepping && o.timeline.at(e.due) > now) {
			break
		}
		if o.limit > 0 {
			bits := 8 * (int64(e.size) + o.headers)
			if room -= bits; room < 0 && end > i {
				break
			}
			o.free += bits * 1e9 / o.limit
		}
		end++
	}
	return end
}

// stamp writes the moments at which datagrams are due into them, by the wall clock; that
// of now where nothing is due at a time of its own.
func (o *outlet) stamp(s *slot, from, end int, now int64, stepping bool) {
	if o.asked == 0 || now-o.asked > askWall {
		o.askWall(now)
	}
	for i := from; i < end; i++ {
		moment := now
		if o.paced && !stepping {
			moment = o.timeline.at(s.entries[i].due)
		}
		s.stamps[i].set(moment + o.ahead)
	}
}

// askWall is how long it is relied upon that the wall clock is not set or slewed, in ns.
const askWall = 1_000_000_000

// askWall finds out how far the wall clock is ahead of the pacer's. The thread may lose
// its processor between the two: the fastest of some tries holds.
func (o *outlet) askWall(now int64) {
	o.asked = now
	for best, i := int64(math.MaxInt64), 0; i < 5; i++ {
		before := o.pacer.clock.Now()
		wall := o.wall()
		if took := o.pacer.clock.Now() - before; took < best {
			best, o.ahead = took, wall-before-took/2
		}
	}
}

// tooLate applies the policy to the datagram that is next; true where it is dropped.
func (o *outlet) tooLate(e *entry, now int64) (drop bool) {
	late := now - o.timeline.at(e.due)
	if late <= o.after {
		return false
	}
	if o.late == Shift {
		o.shifts++
		o.shifted += late
		o.timeline.rebase(now, e.due)
		return false
	}
	o.pass(e)
	o.missed(e)
	o.dropped++
	e.counts.late++
	return true
}

// account counts datagrams that have left by the time after.
func (o *outlet) account(sent []entry, after int64, stepping bool) {
	var bytes uint64
	var late int64
	for i := range sent {
		e := &sent[i]
		o.pass(e)
		bytes += uint64(e.size)
		c := e.counts
		c.datagrams++
		c.bytes += uint64(e.size)
		if !o.paced || stepping {
			continue
		}
		late = after - o.timeline.at(e.due)
		o.lateness.RecordValue(min(late, histogramMax))
		o.maxLateness = max(o.maxLateness, late)
		if c.datagrams > 1 {
			off := late - c.lateness
			if off < 0 {
				off = -off
			}
			o.intervals.RecordValue(min(off, histogramMax))
			o.maxInterval = max(o.maxInterval, off)
			if c.intervals != nil {
				c.intervals.RecordValue(min(off, histogramMax))
			}
		}
		c.lateness = late
		c.maxLateness = max(c.maxLateness, late)
		if c.latenesses != nil {
			c.latenesses.RecordValue(min(late, histogramMax))
		}
	}
	o.datagrams += uint64(len(sent))
	o.bytes += bytes
	o.lastSent = after
	if o.history != nil {
		o.note(sent, after, bytes, stepping)
	}
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
	o.missed(e)
	o.errors++
	e.counts.errors++
	if n, ok := err.(syscall.Errno); ok && n < maxErrno {
		o.byErrno[n]++
	} else {
		o.byErrno[0]++
	}
	o.stats.sendErrors.Store(o.errors)
}
