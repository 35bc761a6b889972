package recorder

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"castdeck/format"
	"castdeck/internal/sock"
)

const (
	// directSockets is the number of sockets up to which a pass tries each, at 150 ns
	// for an empty one; beyond it asks the poller which have something.
	directSockets = 4
	// passCalls bounds the calls in a pass, so that a flood on one group does not
	// keep the loop from the others, and what waits for its place in the order of
	// time stays below maxHeld batches. Each socket has its share.
	passCalls = 64
	// batchAge is how long a datagram waits for its batch to fill, in ns; up to
	// maxBatchAge where the writer may hold back five times as long anyway: each batch
	// wakes the writing goroutine.
	batchAge    = 20e6
	maxBatchAge = 100e6
	// publishAge is how old published counts may be, in ns.
	publishAge = 20e6
	// maxFailures in a row on one socket, less than failureMemory apart, end the
	// recording: with the back-off, which doubles from 1 ms to maxBackOff, after some
	// 5 s.
	maxFailures   = 60
	failureMemory = 1e9 // ns
	maxBackOff    = 100 * time.Millisecond
	// yieldAge is the longest time in ns without a call of the scheduler. A goroutine
	// that only ever sleeps by system call looks to the runtime like one that has run
	// on for 10 ms: its monitor then takes the processor away in each sleep and wakes
	// every 20 us to do so, which costs as much as the receiving (3.3 us of CPU a
	// datagram at 20,000 a second, 2.1 us with the yield; 1.6 and 1.3 at 100,000).
	yieldAge = 6e6
	// Up to calmRate datagrams a second the loop looks at its sockets every l.resting,
	// between minRest and maxRest, instead of waiting for each: see rest.
	calmRate = 4000
	minRest  = 5 * time.Millisecond
	maxRest  = 60 * time.Millisecond
	// restAfter is for how long little must have come, in ns: between two bursts of a feed
	// that fills its processor, a pass that finds nothing says little.
	restAfter = 200e6
	// restPeak, datagrams a second, is what a burst out of nothing may bring without a
	// loss: 10 Gbit/s of full Ethernet frames are 812,000. 500,000 would let the loop rest
	// twice as long with the default buffer; that saved 0.03 and 0.15 % of a core at 1,000
	// datagrams a second (socket, ring), which is not worth the first loss.
	restPeak = 1_000_000
	// ringSleep is the longest time between two looks at rings while more than that comes:
	// a block a millisecond, as 10 Gbit/s fill them, is then 5 of 64.
	ringSleep = 5 * time.Millisecond
	// The program is calm while it uses less than calmShare of one processor, and until it
	// uses more than busyShare, by spans of loadAge; calmAfter, all in ns, is when the loop
	// says so. Where a writer lags by crowdedQueue batches, or a buffer is filled to
	// crowdedBuffer, it ends at once.
	calmShare, busyShare = 0.3, 0.5
	loadAge              = 100e6
	calmAfter            = 500e6
	crowdedQueue         = 6
	crowdedBuffer        = 0.2
	// settling is how long before a pass a datagram must have been stamped to be
	// certainly in its socket's queue, in ns: the kernel stamps first and queues
	// later, from a soft interrupt (net.core.netstamp_prequeue), which a busy machine
	// puts off for milliseconds.
	settling = 10e6
	// clockStep is the least setting of the clock that is noticed, in ns. Slewing by
	// NTP does not reach it between two passes.
	clockStep = 5e6
	// maxSlew: NTP makes the clock run by at most one part in so many faster or slower
	// (500 ppm, adjtimex(2)).
	maxSlew = 2000
	// clockAge is how often to look at the clock where the order does not need it, in ns.
	clockAge = 20e6
)

// loop is the receive loop and all that it counts. It belongs to one goroutine.
type loop struct {
	inlets   []inlet
	subs     []subscription
	receiver *sock.Receiver
	recv     func(*sock.Conn) (int, error) // receiver.Recv, or a fault in a test
	poller   *sock.Poller
	queue    *queue
	publish  func(*loop)
	stop     *atomic.Bool
	count    uint64 // 0 is no limit
	interval int64  // of statistics, ns
	settling int64  // see the constant
	hardware bool   // the network card's times are wanted
	// end is the time of day at which the groups were left, in ns; 0 before.
	end     int64
	silence int64 // after which a group is reported, ns; 0 is never
	// interfaces describe the subscriptions, devices are the network interfaces that
	// they name, and inbox has news of these.
	interfaces []format.Interface
	devices    []*device
	inbox      inbox
	unwatched  error // why there will be none
	// realtime is the system's clock in ns, rejoinConn is sock.Conn.Rejoin; or a fault
	// in a test.
	realtime   func() int64
	rejoinConn func(c *sock.Conn, dev *net.Interface) error

	// Only where the sockets are several: until is the time of day before which
	// everything has been taken, floor what it will be after this pass, and stepped
	// says that the clock was set while the current batch was filled.
	until, floor int64
	stepped      bool
	// latest is the network card's latest time, where hardware.
	latest int64
	// clock is the difference of the time of day to sock.Now, and clockAt when it was
	// looked at.
	clock, clockAt int64

	timer   *sock.Timer
	resting time.Duration // see restFor
	calm    bool          // said to onCalm
	busy    int64         // when there was more than a little to do, of sock.Now
	lively  int64         // when a pass last found more than calmRate, of sock.Now
	onCalm  func(bool)
	cpu     func() int64 // processor time of the program so far, ns
	// What cpu said last, and when, of sock.Now.
	used, usedAt int64
	batchAge     int64 // see the constant
	message      sock.Message
	ready        []int
	batch        *format.Batch
	pacer        pacer
	stats        Stats // without what publish and Recorder.Stats add

	// Of sock.Now, in ns; now is read once a pass.
	now, passed, begun, ticked, published, yielded int64
	// wall is the time of day for datagrams without a stamp; 0 until one of this
	// call needs it.
	wall int64
	// Of this pass: the largest share of its buffer that a socket had filled, and
	// the most failures in a row of one that failed.
	filled  float64
	failing int
	counted bool // Count is reached
}

// inlet is what a pass takes datagrams from: a socket, or the ring of a network
// interface. It belongs to the loop's goroutine.
type inlet interface {
	// drain takes what waits, by at most calls calls or blocks. more is true where it
	// left something behind.
	drain(l *loop, calls int) (n int, more bool, err error)
	// readDrops asks the kernel for the drop counter and books by how much it has grown.
	readDrops(l *loop) (grown uint64, err error)
	// bookRest books losses behind the last datagram on the subscription that it was
	// for.
	bookRest(l *loop)
	// leave ends the memberships: nothing more comes, and what has come can still be
	// taken, by at most calls calls of drain's kind.
	leave() error
	// rejoin joins again, on dev, what was joined on the interface of its name. Key is the
	// inlet's with the poller.
	rejoin(l *loop, key int, dev *net.Interface) error
	calls(l *loop) int
	// granted is the kernel memory in bytes that datagrams wait in, holds how many of full
	// Ethernet frames can wait there.
	granted() int
	holds() int
	close() error
}

// socket is one socket and the subscriptions that it serves.
type socket struct {
	conn   *sock.Conn
	config sock.ListenConfig // conn's
	groups []groupIndex      // by address
	recent int               // index in groups of the last datagram's
	device uint32            // IPv6, and what is no group: interface that a datagram has to come in by; 0 is any
	stays  bool              // no group that could be left
	buffer int
	ledger ledger
	// booked is what has been booked on subscriptions, where several share the
	// socket: only a datagram, or the end, tells on which.
	booked uint64
	// failures in a row of receiving, and when the last was.
	failures int
	failed   int64
}

// groupIndex is a group, of one source or of any, and its subscription.
type groupIndex struct {
	addr, source netip.Addr
	sub          uint16
}

// compare has a group's any source, the zero Addr, before the others.
func (g groupIndex) compare(o groupIndex) int {
	return cmp.Or(g.addr.Compare(o.addr), g.source.Compare(o.source), cmp.Compare(g.sub, o.sub))
}

// takes says that a datagram from src to dst is this group's.
func (g *groupIndex) takes(src, dst netip.Addr) bool {
	return g.addr == dst && (!g.source.IsValid() || g.source == src)
}

type subscription struct {
	SubscriptionStats
	// written is what the last record of totals said.
	written SubscriptionStats
	// seen is how many had come when that was last found to have changed, at; silent
	// says that it was reported since.
	seen   uint64
	at     int64
	silent bool
}

// came counts what was sent to it, also what was lost.
func (s *subscription) came() uint64 { return s.Datagrams + s.Dropped }

// shared says that the socket serves several subscriptions.
func (s *socket) shared() bool { return len(s.groups) > 1 }

// find returns the subscription that a datagram is for. With one group the kernel
// has compared addresses; with several it compares ports only, and with several
// sources of a group it says that it was one of them.
func (s *socket) find(m *sock.Message) (sub uint16, ok bool) {
	if s.device != 0 && m.Interface != s.device {
		return 0, false
	}
	if len(s.groups) == 1 {
		return s.groups[0].sub, true
	}
	src, dst := m.Src.Addr(), m.Dst.Addr()
	if g := &s.groups[s.recent]; g.takes(src, dst) {
		return g.sub, true
	}
	// The last one that is not behind (dst, src): that source, or any source.
	lo, hi := 0, len(s.groups)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if g := &s.groups[mid]; g.addr.Less(dst) || g.addr == dst && g.source.Compare(src) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 || !s.groups[lo-1].takes(src, dst) {
		return 0, false
	}
	s.recent = lo - 1
	return s.groups[lo-1].sub, true
}

// run receives until it is told to stop, the count is reached, or a socket fails
// for good.
func (l *loop) run() error {
	l.now = sock.Now()
	l.passed, l.ticked, l.published = l.now, l.now, l.now
	l.batch = l.queue.get()
	l.noteUnwatched()
	l.resting = maxRest
	for _, in := range l.inlets {
		l.resting = min(l.resting, restFor(in.holds()))
	}
	l.busy, l.usedAt, l.used = l.now, l.now, l.cpu()
	defer l.work()
	for !l.stop.Load() && !l.counted {
		n, more, err := l.pass()
		if err != nil {
			return err
		}
		l.now = sock.Now()
		l.queue.strained(l.filled, l.now)
		l.lookAtLoad(more)
		quiet := l.quiet(n)
		l.keepHouse()
		if l.now-l.yielded >= yieldAge {
			l.yielded = l.now
			runtime.Gosched()
		}
		switch {
		case l.counted:
		case l.failing > 0:
			sock.Sleep(min(time.Millisecond<<min(l.failing, 10), maxBackOff))
			l.stats.Wakeups++
		case more:
		case quiet && l.resting > 0:
			l.rest()
			l.stats.Wakeups++
		case n > 0 && (l.receiver != nil || l.resting > 0):
			l.pause(l.pacer.next(time.Duration(l.now-l.passed), l.filled))
			l.stats.Wakeups++
		default:
			l.pacer.idle()
			if err := l.wait(); err != nil {
				return err
			}
			l.stats.Wakeups++
		}
		l.passed = l.now
	}
	return nil
}

// quiet says that little arrives, and has for a while. A pass found n datagrams.
func (l *loop) quiet(n int) bool {
	if int64(n)*1e9 > calmRate*(l.now-l.passed) {
		l.lively = l.now
	}
	return l.now-l.lively > restAfter
}

// restFor is how long the loop may sleep while little arrives, 0 where that would not
// be worth it: the smallest buffer, which holds so many datagrams, has to do for what comes
// meanwhile if all at once restPeak datagrams a second do.
func restFor(holds int) time.Duration {
	rest := min(maxRest, time.Duration(holds)*time.Second/restPeak)
	if rest < minRest {
		return 0
	}
	return rest
}

// rest sleeps while little arrives. The kernel's stamps make the sleep free; commands
// (Wake) wait for its end.
func (l *loop) rest() {
	l.pacer.idle()
	if l.published < l.now {
		l.publishNow()
	}
	l.timer.Sleep(l.resting)
	l.yielded = sock.Now()
}

// pause sleeps between two passes. With one processor of Go's for all, calm, or for
// milliseconds, the goroutine is parked; else its thread sleeps, which is over sooner.
func (l *loop) pause(d time.Duration) {
	switch {
	case l.receiver == nil:
		l.timer.Sleep(min(d, ringSleep)) // a ring is as good as a pause of 2 ms
	case l.calm:
		l.timer.Sleep(d)
	default:
		sock.Sleep(d)
		return
	}
	l.yielded = sock.Now()
}

// lookAtLoad finds out whether the program has little to do, and tells whom it concerns.
// With one processor of Go's scheduler instead of several nobody is woken to look for work
// that there is none of: at 100,000 datagrams a second from a ring 209 switches of threads
// a second instead of 606, at 1,000 a second 65 instead of 304.
func (l *loop) lookAtLoad(more bool) {
	if l.receiver != nil && more || l.filled > crowdedBuffer || len(l.queue.full) >= crowdedQueue || l.resting == 0 {
		l.work()
	}
	span := l.now - l.usedAt
	if span < loadAge {
		return
	}
	used := l.cpu()
	most := calmShare
	if l.calm {
		most = busyShare
	}
	if float64(used-l.used) > most*float64(span) {
		l.work()
	}
	l.used, l.usedAt = used, l.now
	if !l.calm && l.now-l.busy >= calmAfter {
		l.calm = true
		if l.onCalm != nil {
			l.onCalm(true)
		}
	}
}

// work notes that there is more than a little to do.
func (l *loop) work() {
	l.busy = l.now
	if l.calm {
		l.calm = false
		if l.onCalm != nil {
			l.onCalm(false)
		}
	}
}

// lookAtClock notes, before a pass, the time up to which the pass will have taken
// everything, and whether the clock was set.
func (l *loop) lookAtClock() {
	var now, wall int64
	for range 2 { // a second look tells a step from a pause between the two clocks
		now, wall = sock.Now(), l.realtime()
		l.floor = wall - l.settling
		moved := wall - now - l.clock
		if most := clockStep + (now-l.clockAt)/maxSlew; moved > -most && moved < most {
			l.clock += moved
			l.clockAt = now
			return
		}
	}
	first := l.clock == 0
	was := l.clock + now
	l.clock, l.clockAt = wall-now, now
	if !first {
		l.stepped = true
		l.until = l.floor
		l.noteStep(was, wall, now)
	}
}

// pass empties every socket that has something. more is true where it left
// something behind for the sake of the others.
func (l *loop) pass() (n int, more bool, err error) {
	if l.queue.ordered {
		l.lookAtClock()
		if l.hardware {
			// The card's clock may be any: it is at least where it was for the last datagram.
			l.floor = l.latest - l.settling
		}
		defer func() { l.until = l.floor }()
	}
	l.filled, l.failing = 0, 0
	calls := max(1, passCalls/len(l.inlets))
	if len(l.inlets) <= directSockets {
		for _, s := range l.inlets {
			k, m, err := s.drain(l, calls)
			n += k
			more = more || m
			if err != nil || l.counted {
				return n, more, err
			}
		}
		return n, more, nil
	}
	found, err := l.poller.Wait(l.ready, 0)
	if found == len(l.ready) && found < len(l.inlets) {
		l.floor = min(l.floor, l.until) // there may be more that have something
	}
	for _, key := range l.ready[:found] {
		k, m, err := l.inlets[key].drain(l, calls)
		n += k
		more = more || m
		if err != nil || l.counted {
			return n, more, err
		}
	}
	return n, more, err
}

// drain takes what waits on a socket, by at most calls calls. A call that comes
// back less than full has emptied it.
func (s *socket) drain(l *loop, calls int) (n int, more bool, err error) {
	charged := 0
	for range calls {
		k, err := l.recv(s.conn)
		if err != nil {
			l.floor = min(l.floor, l.until)
			return n, false, l.failure(s, err)
		}
		s.failures = 0
		if k > 0 {
			l.stats.Calls++
		}
		l.wall = 0
		for i := range k {
			l.receiver.Message(i, &l.message)
			charged += len(l.message.Payload) + skbCharge
			if l.end != 0 && s.stays && !l.hardware && (l.message.Time == 0 || l.message.Time > l.end) {
				return n + i, false, nil // it and all behind it came after the end
			}
			if l.take(s, &l.message); l.counted {
				return n + i + 1, false, nil
			}
		}
		n += k
		if k < l.receiver.Len() {
			l.filled = max(l.filled, float64(charged)/float64(s.buffer))
			return n, false, nil
		}
	}
	if queued, err := s.conn.Queued(); err == nil {
		l.filled = max(l.filled, float64(queued)/float64(s.buffer))
	}
	// What is left behind came later than the last that was taken, if that has a time.
	if l.floor = min(l.floor, l.message.Time); l.message.Time == 0 {
		l.floor = l.until
	}
	return n, true, nil
}

// take puts a datagram into the current batch, or counts it as foreign. It
// allocates nothing, and waits only where every batch is with the writer.
func (l *loop) take(s *socket, m *sock.Message) {
	sub, ok := s.find(m)
	if !ok {
		l.stats.Foreign++
		return // its drop count will be seen with the next one of ours
	}
	d := format.Datagram{
		Time: m.Time, Src: m.Src, Dst: m.Dst, Length: m.Length,
		Interface: sub, TTL: m.TTL, Payload: m.Payload,
	}
	t := &l.subs[sub]
	if m.HasDrops {
		d.Drops = s.ledger.place(m.Drops)
		grown := s.ledger.observe(m.Drops)
		l.stats.Dropped.Kernel += grown
		if s.shared() {
			grown = d.Drops
			s.booked += grown
		}
		t.Dropped += grown
	}
	switch {
	case m.Time == 0:
		if l.wall == 0 {
			l.wall = l.realtime()
		}
		d.Time = l.wall
		d.Flags |= format.FlagUserStamp
	case l.hardware && !m.Hardware:
		d.Flags |= format.FlagSoftwareStamp
	}
	if m.Truncated {
		d.Flags |= format.FlagTruncated
		l.stats.Dropped.Truncated++
	}
	if !l.batch.Append(&d) {
		l.handOver()
		l.batch.Append(&d) // an empty batch holds the longest datagram
	}
	l.tally(&d)
}

// tally counts the datagram that was appended to the batch last.
func (l *loop) tally(d *format.Datagram) {
	if len(l.batch.Datagrams) == 1 {
		l.begun = l.now
	}
	t := &l.subs[d.Interface]
	t.Datagrams++
	t.Bytes += uint64(len(d.Payload))
	t.Last = d.Time
	if l.hardware && d.Flags&(format.FlagUserStamp|format.FlagSoftwareStamp) == 0 {
		l.latest = max(l.latest, d.Time)
	}
	l.stats.Datagrams++
	l.stats.Bytes += uint64(len(d.Payload))
	l.counted = l.count != 0 && l.stats.Datagrams >= l.count
}

// failure books an error of receiving, and returns it where trying again is of no
// use. The kernel reports what happened to the host or to the interface
// (ENETDOWN, ENOMEM) once, and the socket works on.
func (l *loop) failure(s *socket, err error) error {
	l.stats.Errors++
	if l.now-s.failed > failureMemory {
		s.failures = 0
	}
	s.failures++
	s.failed = l.now
	l.failing = max(l.failing, s.failures)
	fatal := errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.ENOTSOCK) || errors.Is(err, syscall.EFAULT) || errors.Is(err, syscall.EINVAL)
	if fatal || s.failures >= maxFailures {
		return fmt.Errorf("receiving %v: %w", s.groups[0].addr, err)
	}
	return nil
}

// wait blocks until a datagram comes, somebody calls Wake, or there is work to do
// in the house.
func (l *loop) wait() error {
	if l.published < l.now {
		l.publishNow() // nobody knows when the next datagram comes
	}
	due := l.ticked + l.interval
	if !l.batch.Empty() {
		old := l.begun + l.batchAge
		if old <= l.now { // and the writer was busy: look again
			old = l.now + l.batchAge
		}
		due = min(due, old)
	}
	ms := (due - l.now + 999_999) / 1e6
	_, err := l.poller.Wait(l.ready, int(max(ms, 1)))
	return err
}

// keepHouse does what is due by time: totals, handing over, publishing.
func (l *loop) keepHouse() {
	if l.now-l.ticked >= l.interval {
		l.ticked = l.now
		l.readDrops()
		l.writeTotals(false)
		l.listen()
		l.retryJoins()
	}
	if l.inbox.there.Load() {
		l.readNews()
	}
	if !l.queue.ordered && l.now-l.clockAt >= clockAge {
		l.lookAtClock()
	}
	// While the writer has enough to do, the batch had better fill up: the number of
	// batches is bounded.
	if !l.batch.Empty() && l.now-l.begun >= l.batchAge && len(l.queue.full) == 0 {
		l.handOver()
	}
	if l.now-l.published >= publishAge {
		l.publishNow()
	}
}

func (l *loop) publishNow() {
	l.published = l.now
	l.publish(l)
}

func (l *loop) put() {
	l.queue.put(parcel{batch: l.batch, until: l.until, asIs: l.stepped})
	l.stepped = false
}

func (l *loop) handOver() {
	l.put()
	if len(l.queue.free) == 0 && l.queue.made == cap(l.queue.full) {
		l.publish(l) // this may take long
	}
	l.batch = l.queue.get()
}

// readDrops asks the kernel for the drop counters.
func (l *loop) readDrops() (grown uint64) {
	for _, s := range l.inlets {
		n, err := s.readDrops(l)
		if err != nil {
			l.stats.Errors++
		}
		grown += n
	}
	return grown
}

// readDrops leaves it open on a shared socket for which subscription a loss was
// until the next datagram comes: the recording would count it there again.
func (s *socket) readDrops(l *loop) (uint64, error) {
	if l.end != 0 && s.stays {
		return 0, nil // this one goes on receiving
	}
	counter, err := s.conn.Drops()
	if err != nil {
		return 0, err
	}
	n := s.ledger.observe(counter)
	if !s.shared() {
		l.subs[s.groups[0].sub].Dropped += n
	}
	l.stats.Dropped.Kernel += n
	return n, nil
}

func (s *socket) bookRest(l *loop) {
	if s.shared() {
		l.subs[s.groups[s.recent].sub].Dropped += s.ledger.total - s.booked
		s.booked = s.ledger.total
	}
}

func (s *socket) leave() error { return s.conn.LeaveAll() }

// calls: what the buffer holds is bounded, where every datagram takes 256 bytes at
// least.
func (s *socket) calls(l *loop) int { return s.buffer / (256 * l.receiver.Len()) }

func (s *socket) granted() int { return s.buffer }
func (s *socket) holds() int   { return s.buffer / skbCharge }

func (s *socket) close() error { return s.conn.Close() }

// writeTotals puts the totals of every subscription that changed into the
// recording, or of all.
func (l *loop) writeTotals(all bool) {
	wall := l.realtime()
	for i := range l.subs {
		t := &l.subs[i]
		if !all && t.SubscriptionStats == t.written {
			continue
		}
		t.written = t.SubscriptionStats
		if len(l.batch.Stats) == cap(l.batch.Stats) {
			l.handOver()
		}
		if l.batch.Empty() {
			l.begun = l.now
		}
		l.batch.Stats = append(l.batch.Stats, format.InterfaceStats{
			Time: wall, Interface: uint16(i),
			Received: t.Datagrams, Dropped: t.Dropped, KernelDropped: t.Dropped,
		})
	}
}

// finish leaves the groups, takes what is queued, and hands over the rest and the
// final totals. Unicast and broadcast cannot be left: of these it takes what had
// come by then. It always runs to its end and returns the first error.
func (l *loop) finish() error {
	var first error
	if !l.counted {
		l.readDrops()
	}
	l.end = time.Now().UnixNano()
	for _, s := range l.inlets {
		if err := s.leave(); err != nil && first == nil {
			first = err
		}
	}
	// After a datagram has passed the check for membership, the kernel may queue it
	// on another processor while we leave: look until a round finds nothing new.
	for range 16 {
		if l.counted {
			break
		}
		// An inlet that could not leave might never be empty. What it holds is bounded.
		passes := 2
		for _, s := range l.inlets {
			passes += s.calls(l)
		}
		n := 0
		for more := true; more && passes > 0 && !l.counted; passes-- {
			var k int
			var err error
			if k, more, err = l.pass(); err != nil && first == nil {
				first = err
			}
			n += k
		}
		// With Count the recording ends with a datagram; what was lost behind it is
		// none of its losses.
		if !l.counted && l.readDrops() == 0 && n == 0 {
			break
		}
	}
	l.now = sock.Now()
	for _, s := range l.inlets {
		s.bookRest(l)
	}
	l.writeTotals(true)
	l.put()
	l.batch = nil
	return first
}
