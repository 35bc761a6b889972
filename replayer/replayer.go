package replayer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"castdeck/format"
	"castdeck/internal/sock"
)

// Options say what is sent, where to and when. The zero value of every field but
// Interface is the good default.
type Options struct {
	// Interface out of which everything leaves: its name, index or one of its
	// addresses. Required.
	Interface string
	// Pacing says when; by default at the recorded times.
	Pacing
	// Map changes destinations, and by which interface, with which TTL and DSCP datagrams
	// leave; the first that fits is applied. A mapping's inN: is about datagrams whose
	// Input is N-1.
	Map []Mapping
	// To is where everything goes that no mapping is about; the zero AddrPort leaves it
	// as recorded. It is allowed where it is unicast. Not with Raw.
	To netip.AddrPort
	// Only are patterns of recorded destinations, as mcast.NewMatcher reads them;
	// what fits none of them is skipped. None selects everything.
	Only []string
	// Allow are patterns of destinations (after Map) that may be sent to although
	// a guard is against it: unicast, broadcast, control groups. None allows none.
	Allow []string
	// Recorded are patterns of destinations (after Map) that are being recorded into the
	// source at the moment: to send to them would feed the replay with itself, so they are
	// refused unless allowed.
	Recorded []string
	// TTL is the IPv4 time to live and IPv6 hop limit, 1 to 255; 0 means 1, which
	// no router forwards. The recorded TTL is not used, but with Raw and KeepTTL.
	TTL     int
	KeepTTL bool
	// DSCP is the class of service of everything sent, 0 to 63 (RFC 2474). With Raw 0
	// leaves the recorded one.
	DSCP int
	// KeepSource sends from the recorded source addresses and ports (IP_TRANSPARENT: it
	// takes CAP_NET_ADMIN or CAP_NET_RAW); otherwise from the interface's address, and
	// from the recorded port where that is free. With Raw, where the IP header is the
	// recorded one anyway, it keeps the source MAC address.
	KeepSource bool
	// Raw sends the recorded frames, from their Ethernet header on (AF_PACKET: it takes
	// CAP_NET_RAW), with VLAN tags, IP options and fragments as they were. What is changed: addresses
	// and ports as the mappings say, the destination MAC address of a group (RFC 1112,
	// RFC 2464) and the source MAC address, TTL, DSCP and checksums. The source's
	// interfaces must be Ethernet ones, or the datagrams without Frame: those get one as
	// in format.AppendMadeFrame. Mappings lead to groups of the same IP version. Members
	// on this host hear nothing, except on lo.
	Raw bool
	// RawNotUDP sends packets that are not UDP too (IGMP, ARP and their like), with Raw
	// and without Only: the guards know nothing about them.
	RawNotUDP bool
	// Loopback delivers to members on this host too; without it they hear nothing,
	// nor does anybody on the interface lo.
	Loopback bool
	// At is the moment (wall clock) at which the first datagram is due, for a start
	// on several hosts at once; the zero Time is at once.
	At time.Time
	// SendBuffer is SO_SNDBUF in bytes for each socket; 0 leaves the kernel's
	// default.
	SendBuffer int
	// MaxSockets bounds how many recorded source ports are kept for each interface, TTL
	// and DSCP, IPv4 and IPv6 together: one socket each, 1024 by default. Datagrams of
	// further source ports leave from a port that the kernel chose; Report.PortsNotKept
	// counts them. With KeepSource they are an error.
	MaxSockets int
	// Count ends the replay after so many datagrams that were sent or refused by the
	// kernel; 0 is no limit.
	Count uint64
	// Late says what to do about datagrams that are late by more than LateAfter (0 means
	// 1 ms). By default they are sent as soon as can be, in order, until the replay has
	// caught up. It has no meaning at full speed.
	Late      LatePolicy
	LateAfter time.Duration
	// Limit is a ceiling in bits a second that always holds, whatever is due: payload
	// with the headers of UDP, IPv4 and Ethernet. 0 is none, at most 1e12.
	Limit float64
	// Realtime gives the sending thread real-time priority and keeps its memory from
	// being swapped out, where the system allows it; Report.RealtimeRefused says why not.
	// Not at full speed, where the thread would never sleep.
	Realtime bool
	// Histograms is how many destinations get histograms of their own, 70 kB each; 0 is
	// none, at most 4096.
	Histograms int
	// History keeps how the replay goes over time, in 1 MiB: Report.History.
	History bool
	// NoSegmentation sends every datagram by itself. Otherwise neighbours that are due
	// together, of one length and to one destination, go to the kernel as a run
	// (UDP_SEGMENT, five times as many a second at full speed), except where a queue
	// of the interface cuts runs itself (tbf, netem, cake): there a part of a run
	// could be dropped without an error. See Report.Segmented. At full speed, without
	// Count, Impair and Rewrite, datagrams to several destinations are put together for
	// that within each batch of the source: every destination keeps its order,
	// but not the destinations among each other. See Report.Regrouped.
	NoSegmentation bool
	// Impair damages what is sent on purpose, from random numbers that begin with Seed: the
	// same options and the same source give the same result, whatever the machine does.
	// ImpairLog is told, by the goroutine that reads the source, what is done to each
	// datagram; nil is nobody. Of what was read ahead when the replay is stopped it is told
	// too.
	Impair    []Impair
	Seed      uint64
	ImpairLog func(ImpairRecord)
	// Rewrite changes payloads, before Impair does. With Raw a fragment is impaired by itself
	// and has no payload to rewrite or corrupt.
	Rewrite []Rewrite
	// Ahead is how many batches are read and prepared ahead of the sender, 2 to
	// 1024; 0 means 16. Memory: Ahead times what the source puts into a batch, plus up
	// to 170 bytes a datagram.
	Ahead int
	// Clock is for tests; nil is the machine's.
	Clock Clock
}

const (
	defaultAhead       = 16
	minAhead, maxAhead = 2, 1024
	maxHistograms      = 4096
)

// LatePolicy is what a replay does that falls behind its schedule.
type LatePolicy uint8

// The policies.
const (
	// CatchUp sends what is late as soon as can be: nothing is lost, intervals shrink.
	CatchUp LatePolicy = iota
	// Shift moves the schedule by the lateness: nothing is lost, intervals are kept, the
	// replay takes longer.
	Shift
	// Drop leaves out what is late: the schedule is kept.
	Drop
)

var latePolicies = [...]string{CatchUp: "catch-up", Shift: "shift", Drop: "drop"}

func (p LatePolicy) String() string {
	if int(p) < len(latePolicies) {
		return latePolicies[p]
	}
	return "unknown"
}

// ParseLatePolicy reads a name that String gives.
func ParseLatePolicy(name string) (LatePolicy, error) {
	if i := slices.Index(latePolicies[:], name); i >= 0 {
		return LatePolicy(i), nil
	}
	return 0, fmt.Errorf("no policy %q (have %s)", name, strings.Join(latePolicies[:], ", "))
}

// ErrRunning is the error of a Run that begins while another goes on.
var ErrRunning = errors.New("this replayer is already running")

// Replayer sends datagrams. Run may be called again after it
// returned. Stats may be called from any goroutine at any time.
type Replayer struct {
	options Options
	clock   Clock // nil is the machine's
	ahead   int
	policy  *policy

	running sync.Mutex // held by Run and Close
	closed  bool
	senders []*sock.Sender // one for each of policy.ways
	control *control
	stats   stats
	// seekable says whether the source of the Run that goes on is a TimeSeeker.
	seekable atomic.Bool
}

// New checks the options, finds the interface and opens its first sockets. It
// starts nothing. The caller must Close.
func New(o Options) (*Replayer, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Interface == "" {
		return nil, errors.New("replaying needs an interface to send from")
	}
	p, err := newPolicy(&o)
	if err != nil {
		return nil, err
	}
	r := &Replayer{options: o, clock: o.Clock, ahead: o.Ahead, policy: p, control: newControl()}
	for i := range p.ways {
		s, err := newSender(&o, &p.ways[i])
		if err != nil {
			r.Close()
			return nil, err
		}
		r.senders = append(r.senders, s)
	}
	if r.ahead == 0 {
		r.ahead = defaultAhead
	}
	return r, nil
}

// newSender opens the sockets of one way.
func newSender(o *Options, w *way) (*sock.Sender, error) {
	if o.Raw {
		return sock.NewFrameSender(w.iface, o.SendBuffer)
	}
	return sock.NewSender(sock.SenderOptions{
		Interface: w.iface, TTL: w.TTL, DSCP: w.DSCP, Loopback: o.Loopback, SendBuffer: o.SendBuffer, MaxSockets: o.MaxSockets,
		Transparent:  o.KeepSource,
		Segmentation: !o.NoSegmentation && !cutsRuns(w.iface),
		// The guard has refused every broadcast address that nobody allowed.
		Broadcast: len(o.Allow) > 0,
	})
}

func (o *Options) check() error {
	if err := o.Pacing.check(); err != nil {
		return err
	}
	if _, err := newImpairer(o); err != nil {
		return err
	}
	if _, err := newRewriting(o); err != nil {
		return err
	}
	switch {
	case o.LateAfter < 0:
		return fmt.Errorf("late after %s is negative", o.LateAfter)
	case o.Limit != 0 && !(o.Limit >= 1 && o.Limit <= maxBitsPerSecond):
		return fmt.Errorf("a ceiling of %g bits a second is not between 1 and %g", o.Limit, maxBitsPerSecond)
	case o.Histograms < 0 || o.Histograms > maxHistograms:
		return fmt.Errorf("histograms of %d destinations, at most %d", o.Histograms, maxHistograms)
	}
	if !o.Raw && (o.KeepTTL || o.RawNotUDP) {
		return errors.New("a recorded TTL, and packets that are not UDP, are sent with Raw only")
	}
	if o.Raw && (o.Loopback || o.To.IsValid()) {
		return errors.New("raw frames are not looped back, and go to no other destination than a mapping's")
	}
	if o.Ahead != 0 && (o.Ahead < minAhead || o.Ahead > maxAhead) {
		return fmt.Errorf("%d batches ahead is not between %d and %d", o.Ahead, minAhead, maxAhead)
	}
	return nil
}

// Close closes the sockets. It waits for a Run that goes on; cancel its context
// to hurry it. It may be called again.
func (r *Replayer) Close() error {
	r.running.Lock()
	defer r.running.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var errs []error
	for _, s := range r.senders {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Run sends what src yields until its end. The report is right whatever the
// error: it tells what was done until then.
//
//   - nil: the source was read to its end, or to Options.Count. Report.Damaged, SendErrors and Skipped
//     may still say that not all of it was sent.
//   - ctx.Err(): ctx ended. The sender stops within 100 ms. Run returns when a
//     ReadBatch that goes on returns too: where that can block, close the source
//     when ctx ends.
//   - *GuardError: src holds a destination that must not be sent to. Everything
//     before that datagram was sent, nothing from it on. Check finds such a
//     destination beforehand.
//   - anything else: src cannot be read further, or sending is not possible.
//
// A *format.CorruptError of src is none of these: it is noted in the report, and
// reading goes on behind it.
//
// Run uses the calling goroutine's thread for sending. src is used by another
// goroutine, which has ended when Run returns.
func (r *Replayer) Run(ctx context.Context, src format.BatchReader) (Report, error) {
	if !r.running.TryLock() {
		return Report{}, ErrRunning
	}
	defer r.running.Unlock()
	if r.closed {
		return Report{}, net.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	r.stats.reset()

	_, seekable := src.(TimeSeeker)
	r.seekable.Store(seekable)
	defer r.seekable.Store(false)
	cancel := context.AfterFunc(ctx, func() {
		r.control.attention.Store(true)
		r.control.nudge()
	})
	defer cancel()

	ring := newRing(r.ahead)
	feed := &feeder{src: src, ring: ring, policy: r.policy, senders: r.senders, frames: newFrames(&r.options),
		schedule: schedule{Pacing: r.options.Pacing}, histograms: r.options.Histograms}
	feed.prepare()
	// New has seen that they can be made.
	feed.impairer, _ = newImpairer(&r.options)
	feed.rewriting, _ = newRewriting(&r.options)
	out := newOutlet(r.senders, &pacer{clock: r.hold(), guard: minGuard, attention: &r.control.attention}, &r.stats, r.control, ring, &r.options)
	r.stats.speed.Store(math.Float64bits(out.speed))

	if r.regroups() {
		feed.regrouper = new(regrouper)
	}

	before := r.senderCounts()
	go feed.run()
	err := out.run(ctx, &r.options)
	// The feeder is done when it has closed the ring.
	close(ring.quit)
	for range ring.full {
	}
	report := out.report(feed)
	after := r.senderCounts()
	report.PortsNotKept = after.reverted - before.reverted
	report.LateErrors = after.late - before.late
	if feed.regrouper != nil {
		report.Regrouped = feed.regrouper.moved
	}
	report.Segmented, report.Runs, report.SegmentationRefused = after.segmented-before.segmented, after.runs-before.runs, after.refused
	if err == nil {
		err = feed.err
	}
	return report, err
}

// regroups says whether the datagrams of a batch are put together by destination: where
// everything is due at once, a sender makes runs of neighbours, and nothing else depends on the order.
func (r *Replayer) regroups() bool {
	o := &r.options
	return o.Max && o.Count == 0 && len(o.Impair) == 0 && len(o.Rewrite) == 0 &&
		slices.ContainsFunc(r.senders, (*sock.Sender).Segmentation)
}

// hold decides whether the sending goroutine keeps its processor when it sleeps and
// sends, and returns the clock to sleep by.
func (r *Replayer) hold() Clock {
	holds := runtime.GOMAXPROCS(0) >= minHolding
	for _, s := range r.senders {
		s.Hold(holds)
	}
	switch {
	case r.clock != nil:
		return r.clock
	case holds:
		return holdingClock{}
	}
	return machineClock{}
}

// senderCounts are what the senders counted since they were made.
type senderCounts struct {
	reverted, late, segmented, runs uint64
	refused                         error
}

func (r *Replayer) senderCounts() (c senderCounts) {
	for _, s := range r.senders {
		segmented, runs, refused := s.Segmented()
		c.reverted += s.Reverted()
		c.late += s.Late()
		c.segmented += segmented
		c.runs += runs
		if c.refused == nil {
			c.refused = refused
		}
	}
	return c
}

// run sends what the ring holds until its end marker, or until ctx ends. It locks the
// goroutine to its thread: timer slack, priority and the time that a thread needs to
// wake are a thread's own.
func (o *outlet) run(ctx context.Context, options *Options) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Without it sleeps are up to 50 us late, which the guard then makes up for.
	if sock.SetTimerSlack(1) == nil {
		defer sock.SetTimerSlack(0)
	}
	if options.Realtime && o.paced {
		defer o.beRealtime()()
	}
	o.pacer.calibrate()
	first := true
	for {
		var s *slot
		var ok bool
		select {
		case s, ok = <-o.ring.full:
		case <-o.control.wake:
			o.obey(ctx)
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		if !ok || s.end && s.seek == o.sought {
			return nil
		}
		if first && !s.end {
			first = false
			o.warm(s)
			if err := o.setAnchor(ctx, options.At); err != nil {
				return err
			}
		}
		o.send(ctx, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if o.left == 0 {
			return nil
		}
		o.ring.free <- s // never blocks: it has room for every slot
	}
}

// beRealtime asks for real-time priority and locked memory, and notes what was
// refused. undo gives back what was granted.
func (o *outlet) beRealtime() (undo func()) {
	off, err := sock.SetRealtime()
	if err == nil {
		o.pacer.realtime, o.pacer.window = true, o.pacer.clock.Now()
		o.pacer.setRealtime = func(on bool) {
			if off(); on {
				_, _ = sock.SetRealtime() // it was allowed before
			}
		}
	}
	memory, merr := sock.LockMemory()
	o.realtimeRefused = errors.Join(err, merr)
	return func() {
		for _, f := range []func(){off, memory} {
			if f != nil {
				f()
			}
		}
	}
}
