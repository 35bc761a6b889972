package replayer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"castdeck/format"
	"castdeck/internal/mcast"
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
	// Map changes destinations; the first that fits is applied.
	Map []Mapping
	// Only are patterns of recorded destinations, as mcast.NewMatcher reads them;
	// what fits none of them is skipped. None selects everything.
	Only []string
	// Allow are patterns of destinations (after Map) that may be sent to although
	// a guard is against it: unicast, broadcast, control groups. None allows none.
	Allow []string
	// TTL is the IPv4 time to live and IPv6 hop limit, 1 to 255; 0 means 1, which
	// no router forwards. The recorded TTL is not used.
	TTL int
	// Loopback delivers to members on this host too; without it they hear nothing,
	// nor does anybody on the interface lo.
	Loopback bool
	// At is the moment (wall clock) at which the first datagram is due, for a start
	// on several hosts at once; the zero Time is at once.
	At time.Time
	// SendBuffer is SO_SNDBUF in bytes for each socket; 0 leaves the kernel's
	// default.
	SendBuffer int
	// MaxSockets bounds how many recorded source ports are kept, IPv4 and IPv6
	// together: one socket each, 1024 by default. Datagrams of further source ports
	// leave from a port that the kernel chose; Report.PortsNotKept counts them.
	MaxSockets int
	// NoSegmentation sends every datagram by itself. Otherwise neighbours that are due
	// together, of one length and to one destination, go to the kernel as a run
	// (UDP_SEGMENT, five times as many a second at full speed), except where a queue
	// of the interface cuts runs itself (tbf, netem, cake): there a part of a run
	// could be dropped without an error. See Report.Segmented.
	NoSegmentation bool
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
)

// ErrRunning is the error of a Run that begins while another goes on.
var ErrRunning = errors.New("this replayer is already running")

// Replayer sends datagrams out of one interface. Run may be called again after it
// returned. Stats may be called from any goroutine at any time.
type Replayer struct {
	options Options
	clock   Clock
	ahead   int
	iface   *net.Interface
	policy  *policy

	running sync.Mutex // held by Run and Close
	closed  bool
	sender  *sock.Sender
	stats   stats
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
	iface, err := mcast.Interface(o.Interface)
	if err != nil {
		return nil, err
	}
	p, err := newPolicy(&o, iface)
	if err != nil {
		return nil, err
	}
	s, err := sock.NewSender(sock.SenderOptions{
		Interface: iface, TTL: o.TTL, Loopback: o.Loopback, SendBuffer: o.SendBuffer, MaxSockets: o.MaxSockets,
		Segmentation: !o.NoSegmentation && !cutsRuns(iface),
		// The guard has refused every broadcast address that nobody allowed.
		Broadcast: len(o.Allow) > 0,
	})
	if err != nil {
		return nil, err
	}
	r := &Replayer{options: o, clock: o.Clock, ahead: o.Ahead, iface: iface, policy: p, sender: s}
	if r.clock == nil {
		r.clock = machineClock{}
	}
	if r.ahead == 0 {
		r.ahead = defaultAhead
	}
	return r, nil
}

func (o *Options) check() error {
	if err := o.Pacing.check(); err != nil {
		return err
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
	return r.sender.Close()
}

// Run sends what src yields until its end. The report is right whatever the
// error: it tells what was done until then.
//
//   - nil: the source was read to its end. Report.Damaged, SendErrors and Skipped
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

	var stopped atomic.Bool
	cancel := context.AfterFunc(ctx, func() { stopped.Store(true) })
	defer cancel()

	ring := newRing(r.ahead)
	feed := &feeder{src: src, ring: ring, policy: r.policy, sender: r.sender, iface: r.iface,
		schedule: schedule{Pacing: r.options.Pacing}}
	feed.prepare()
	out := newOutlet(r.sender, &pacer{clock: r.clock, guard: minGuard, stopped: &stopped}, &r.stats, !r.options.Max)

	reverted, late := r.sender.Reverted(), r.sender.Late()
	segmented, runs, _ := r.sender.Segmented()
	go feed.run()
	err := out.run(ctx, ring, r.options.At)
	// The feeder is done when it has closed the ring.
	close(ring.quit)
	for range ring.full {
	}
	report := out.report(feed)
	report.PortsNotKept = r.sender.Reverted() - reverted
	report.LateErrors = r.sender.Late() - late
	report.Segmented, report.Runs, report.SegmentationRefused = r.sender.Segmented()
	report.Segmented -= segmented
	report.Runs -= runs
	if err == nil {
		err = feed.err
	}
	return report, err
}

// run sends what the ring holds until it is closed and empty, or the pacer is
// stopped. It locks the goroutine to its thread: timer slack and the time that a
// thread needs to wake are a thread's own.
func (o *outlet) run(ctx context.Context, ring *ring, at time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Without it sleeps are up to 50 us late, which the guard then makes up for.
	if sock.SetTimerSlack(1) == nil {
		defer sock.SetTimerSlack(0)
	}
	o.pacer.calibrate()
	first := true
	for {
		var s *slot
		var ok bool
		select {
		case s, ok = <-ring.full:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !ok {
			return nil
		}
		if first {
			first = false
			o.warm(s)
			if err := o.setAnchor(at); err != nil {
				return err
			}
		}
		o.send(s)
		if o.pacer.stopped.Load() {
			return ctx.Err()
		}
		ring.free <- s // never blocks: it has room for every slot
	}
}
