package recorder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"

	"castdeck/format"
	"castdeck/internal/mcast"
	"castdeck/internal/sock"
)

// Recorder receives the groups of its subscriptions. Listen makes it, Run runs
// it, once. Stats, Pressure, Interfaces and Close may be called from any
// goroutine.
type Recorder struct {
	options    Options
	interfaces []format.Interface
	clock      string
	loop       *loop
	queue      *queue
	poller     *sock.Poller
	netlink    *nl.NetlinkSocket // nil where no interface is named

	published struct {
		sync.Mutex
		stats Stats
	}

	state struct {
		sync.Mutex
		started, closed bool
	}
	stop atomic.Bool
	done chan struct{} // closed when Run has returned
}

// receivePerCall is how many datagrams one recvmmsg takes. More gains nothing
// (the wakeup is the cost, not the call), and 64 slots stay in the cache.
const receivePerCall = 64

// writerNice is what GiveWay adds to the nice value of the writing thread: where both want
// one processor the receive loop gets 1.6 times its share. Recordings with zstd from a
// socket, two processors with the sender, in turns: of 1,400 bytes at 350,000 a second 4 of
// 8 lost something without it, 3.6 % of all together, and 2 of 8 with it, 1.6 %; of 256
// bytes at 560,000 13 of 32, and 2 of 24. With 5 the writer keeps up less where there is
// too much to do: datagrams that wait are no longer in a cache.
const writerNice = 2

// Listen opens the sockets and joins all groups, or none: the error names the
// first subscription that failed and why. From then on the kernel queues what
// arrives; it is recorded when Run takes it, and what does not fit until then is
// counted as dropped.
//
// Up to 64 subscriptions have a socket each; beyond, groups on one interface and
// port share sockets as the kernel's limits allow, see SubscriptionStats.Dropped,
// unless another program receives on the port at every address: a shared socket
// would take away its unicast datagrams.
// Subscriptions that would record a datagram twice are refused, such as a group for
// any source and for one: no datagram is recorded twice.
//
// What is not a multicast group is received on sockets that have their port for
// themselves: Listen fails where another program has it, and while the recorder
// runs no other program gets it. A broadcast address is shared with others.
func Listen(subs []Subscription, o Options) (*Recorder, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := check(subs, o); err != nil {
		return nil, err
	}
	r := &Recorder{options: o, done: make(chan struct{})}
	var unwatched error
	// First of all, so that no change is missed of what is looked up and joined.
	if o.Packet != nil || slices.ContainsFunc(subs, func(s Subscription) bool { return s.Interface != "" }) {
		r.netlink, unwatched = subscribe()
	}
	devices, err := r.resolve(subs)
	if err == nil && len(subs) > 0 {
		err = distinct(subs, indices(devices))
	}
	if err == nil {
		r.clock, err = clock(devices, o)
	}
	if err != nil {
		r.release()
		return nil, err
	}
	l := &loop{queue: newQueue(o.Queue, len(devices)), count: o.Count, interval: o.StatsInterval.Nanoseconds(), settling: settling, hardware: o.Hardware, onCalm: o.Calm,
		subs: make([]subscription, len(devices)), publish: r.publish, stop: &r.stop,
		silence: o.Silence.Nanoseconds(), interfaces: r.interfaces, unwatched: unwatched,
		realtime: func() int64 { return time.Now().UnixNano() }, rejoinConn: (*sock.Conn).Rejoin, cpu: sock.ProcessTime,
		batchAge: max(batchAge, min(maxBatchAge, o.FlushInterval.Nanoseconds()/5))}
	r.queue = l.queue
	r.loop = l
	if l.timer, err = sock.NewTimer(); err != nil {
		r.release()
		return nil, err
	}
	open := r.open
	if o.Packet != nil {
		open = r.openRings
	}
	if err := open(subs, devices); err != nil {
		r.release()
		return nil, err
	}
	r.queue.ordered = len(l.inlets) > 1
	r.publish(l)
	return r, nil
}

// clock switches hardware stamps on where they are wanted, and says what stamps.
func clock(devices []*net.Interface, o Options) (string, error) {
	switch {
	case !o.Hardware && o.Packet != nil:
		return "the kernel's software receive timestamps (TPACKET_V3, CLOCK_REALTIME)", nil
	case !o.Hardware:
		return "the kernel's software receive timestamps (SO_TIMESTAMPNS, CLOCK_REALTIME)", nil
	}
	first, index := "", 0
	seen := map[int]bool{}
	for _, dev := range devices {
		if dev == nil {
			return "", errors.New("hardware timestamps need an interface for each group")
		}
		if seen[dev.Index] {
			continue
		}
		seen[dev.Index] = true
		phc, err := sock.HardwareClock(dev)
		switch {
		case err != nil:
			return "", err
		case first == "":
			first, index = dev.Name, phc
		case phc != index || phc < 0 && dev.Name != first:
			return "", fmt.Errorf("%s and %s have clocks of their own, whose times cannot stand in one recording; record them one by one, or with the kernel's timestamps", first, dev.Name)
		}
	}
	if index < 0 {
		return fmt.Sprintf("the raw hardware timestamps of %s (a clock without a number)", first), nil
	}
	return fmt.Sprintf("the raw hardware timestamps of %s (PTP hardware clock /dev/ptp%d; not set to UTC unless something does)", first, index), nil
}

// resolve finds the network interface of each subscription, nil where none is
// named, and fills r.interfaces.
func (r *Recorder) resolve(subs []Subscription) ([]*net.Interface, error) {
	if p := r.options.Packet; p != nil && len(p.Interfaces) > 0 {
		return r.resolveInterfaces(p)
	}
	found := map[string]*net.Interface{"": nil}
	devices := make([]*net.Interface, len(subs))
	for i, s := range subs {
		dev, ok := found[s.Interface]
		if !ok {
			var err error
			if dev, err = mcast.Interface(s.Interface); err != nil {
				return nil, err
			}
			found[s.Interface] = dev
		}
		devices[i] = dev
		name := ""
		if dev != nil {
			name = dev.Name
		}
		r.interfaces = append(r.interfaces, describe(s, name))
	}
	return devices, nil
}

// indices of interfaces, 0 where there is none.
func indices(devices []*net.Interface) []int {
	all := make([]int, len(devices))
	for i, dev := range devices {
		if dev != nil {
			all[i] = dev.Index
		}
	}
	return all
}

func (r *Recorder) open(subs []Subscription, devices []*net.Interface) error {
	limit := limits{groups: mcast.MaxMemberships()}
	limit.sources4, limit.sources6 = mcast.MaxSources()
	wildcards := sock.Wildcards()
	sockets := plan(subs, limit, func(p port) bool { return wildcards[sock.Wildcard{IPv4: p.ipv4, Port: p.port}] })
	var err error
	l := r.loop
	if l.receiver, err = sock.NewReceiver(receivePerCall); err != nil {
		return err
	}
	l.recv = l.receiver.Recv
	if r.poller, err = sock.NewPoller(min(len(sockets), 1024)); err != nil {
		return err
	}
	l.poller = r.poller
	l.ready = make([]int, min(len(sockets), 1024))
	for len(sockets) > 0 {
		members := sockets[0]
		config := sock.ListenConfig{Buffer: r.options.Buffer, Hardware: r.options.Hardware}
		for _, i := range members {
			config.Memberships = append(config.Memberships,
				sock.Membership{Group: subs[i].Group, Source: subs[i].Source, Interface: devices[i]})
		}
		conn, err := sock.Listen(config)
		full := errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
		switch {
		case full && len(members) > 1:
			// A limit that the plan does not know, mostly net.core.optmem_max.
			half := len(members) / 2
			sockets[0] = members[half:]
			sockets = append([][]int{members[:half]}, sockets...)
			continue
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			return fmt.Errorf("%d subscriptions need %d sockets, and %d could be opened: %w", len(subs), len(l.inlets)+len(sockets), len(l.inlets), err)
		case err != nil:
			return err
		}
		sockets = sockets[1:]
		s := &socket{conn: conn, config: config, buffer: conn.Buffer()}
		l.inlets = append(l.inlets, s)
		first := subs[members[0]].Group.Addr()
		s.stays = !first.IsMulticast()
		if dev := devices[members[0]]; dev != nil && (s.stays || !first.Is4()) {
			s.device = uint32(dev.Index)
		}
		for _, i := range members {
			s.groups = append(s.groups, groupIndex{subs[i].Group.Addr(), subs[i].Source, uint16(i)})
			l.place(devices[i], i, len(l.inlets)-1)
		}
		slices.SortFunc(s.groups, groupIndex.compare)
		if err := r.poller.Add(conn, len(l.inlets)-1); err != nil {
			return err
		}
		// The plan has these before all others.
		if s.stays {
			if err := conn.SetShared(true); err != nil {
				return err
			}
		}
	}
	return l.share(false)
}

// Interfaces describes the subscriptions, in their order; a datagram's Interface
// is an index into it.
func (r *Recorder) Interfaces() []format.Interface { return slices.Clone(r.interfaces) }

// Clock says in words what stamps the datagrams, for format.SegmentInfo.
func (r *Recorder) Clock() string { return r.clock }

// Run records until ctx ends, Options.Count datagrams have come, or something
// fails. It then leaves the groups, takes what the kernel still holds (not with
// Count), reads the last drop counters, waits until w has written everything, and
// flushes w where it is a format.Flusher.
//
// It returns the first error of w or of receiving; nil where ctx ended or the
// count was reached; an error that wraps net.ErrClosed after Close. It may be
// called once. Batches belong to w only during WriteBatch. WriteBatch and Flush
// are called by one goroutine; while one of them hangs, so does the end of Run.
func (r *Recorder) Run(ctx context.Context, w format.BatchWriter) error {
	r.state.Lock()
	switch {
	case r.state.closed:
		r.state.Unlock()
		return fmt.Errorf("recorder: %w", net.ErrClosed)
	case r.state.started:
		r.state.Unlock()
		return errors.New("recorder: Run was called before")
	}
	r.state.started = true
	r.state.Unlock()
	defer close(r.done)

	cancel := context.AfterFunc(ctx, r.end)
	defer cancel()
	writer := make(chan error, 1)
	go func() {
		if r.options.GiveWay {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			_ = sock.LowerPriority(writerNice)
		}
		writer <- r.queue.write(w, r.options.FlushInterval, r.end)
	}()

	watched := make(chan struct{})
	if r.netlink != nil {
		go func() {
			r.loop.inbox.watch(r.netlink, r.poller.Wake)
			close(watched)
		}()
	}
	// Not locked to a thread: giving way to other goroutines (yieldAge) would then take four
	// switches of threads each time.
	err := r.loop.run()
	last := r.loop.finish()
	close(r.queue.full)
	if r.netlink != nil {
		r.loop.inbox.stop(r.netlink)
		<-watched
	}
	// The loop fails before the writer does, or ends without an error because the
	// writer has failed.
	err = cmp.Or(err, <-writer, last)
	r.publish(r.loop)
	r.state.Lock()
	defer r.state.Unlock()
	if err == nil && r.state.closed {
		err = fmt.Errorf("recorder: %w", net.ErrClosed)
	}
	return err
}

// end makes the receive loop stop soon.
func (r *Recorder) end() {
	r.stop.Store(true)
	r.poller.Wake()
}

// publish copies the loop's counts to where any goroutine may read them. The
// loop's goroutine calls it.
func (r *Recorder) publish(l *loop) {
	p := &r.published
	p.Lock()
	defer p.Unlock()
	subs := p.stats.Subscriptions
	p.stats = l.stats
	p.stats.Sockets = len(l.inlets)
	for i, s := range l.inlets {
		if i == 0 || s.granted() < p.stats.BufferBytes {
			p.stats.BufferBytes = s.granted()
		}
	}
	if subs == nil {
		subs = make([]SubscriptionStats, len(l.subs))
	}
	for i := range l.subs {
		subs[i] = l.subs[i].SubscriptionStats
	}
	p.stats.Subscriptions = subs
}

// Stats returns the counts as they were last published.
func (r *Recorder) Stats() Stats {
	p := &r.published
	p.Lock()
	s := p.stats
	s.Subscriptions = slices.Clone(s.Subscriptions)
	p.Unlock()
	s.QueueBytes = r.queue.bytes.Load()
	s.Dropped.Writer = r.queue.dropped.Load()
	return s
}

// Pressure is how full the queue to the writer is, or the fullest receive buffer
// where that is more, 0 to 1; at 1 the receive loop waits, or the kernel is about
// to drop datagrams. A writer that compresses had better store from a quarter on,
// and where the queue is large from 16 MiB on. It reads three words and may be called
// at any rate.
func (r *Recorder) Pressure() float64 { return r.queue.pressure() }

// Close ends Run and waits for it, then closes the sockets, which leaves the
// groups. It may be called again, and must be called also where Run never was.
func (r *Recorder) Close() error {
	r.state.Lock()
	first := !r.state.closed
	r.state.closed = true
	started := r.state.started
	r.state.Unlock()
	if started {
		r.end()
		<-r.done
	}
	if !first {
		return nil
	}
	return r.release()
}

func (r *Recorder) release() error {
	var errs []error
	if r.loop != nil {
		for _, s := range r.loop.inlets {
			errs = append(errs, s.close())
		}
		if r.loop.timer != nil {
			errs = append(errs, r.loop.timer.Close())
		}
	}
	if r.netlink != nil {
		r.netlink.Close()
	}
	if r.poller != nil {
		errs = append(errs, r.poller.Close())
	}
	return errors.Join(errs...)
}
