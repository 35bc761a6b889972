package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"castdeck/internal/mcast"
	"castdeck/internal/sock"
	"castdeck/replayer"
)

const (
	// receiveBatch is how many datagrams one system call takes.
	receiveBatch = 256
	// nap is the sleep after a pass that took something: waking is what receiving costs.
	// At 2 million datagrams a second 200 come meanwhile.
	nap = 100 * time.Microsecond
	// direct is up to how many sockets are read without asking which have something.
	direct = 4
	// passCalls bounds the calls on one socket before the others have their turn.
	passCalls = 16
)

// Receiver measures what arrives. Run does so; Heard and Finish may be called from other
// goroutines while it goes on, Counts at any time.
type Receiver struct {
	o       ReceiveOptions
	iface   *net.Interface
	inlets  []*inlet
	poller  *sock.Poller
	receive *sock.Receiver
	ready   []int
	desk    *desk
	replies *sock.Sender // nil where it is silent
	out     *sock.Messages
	slab    []byte // of reports
	local   []netip.Prefix
	allow   *mcast.Matcher

	message sock.Message
	header  header
	counts  Received

	stop      atomic.Bool
	mu        sync.Mutex
	commands  []func()
	pending   atomic.Bool
	published Received // under mu
	done      chan struct{}
	closeOnce sync.Once
}

// inlet is the socket of one group.
type inlet struct {
	conn  *sock.Conn
	seen  uint32 // drop counter
	fresh uint64 // drops that belong to the stream whose datagram comes next
	of    *stream
}

// NewReceiver joins the groups. The caller must Close.
func NewReceiver(o ReceiveOptions) (r *Receiver, err error) {
	if len(o.Groups) == 0 || len(o.Groups) > maxStreams {
		return nil, fmt.Errorf("%d groups is not between 1 and %d", len(o.Groups), maxStreams)
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	r = &Receiver{o: o, desk: newDesk(), done: make(chan struct{}), ready: make([]int, len(o.Groups)), slab: make([]byte, reportSize)}
	r.desk.onStep, r.desk.onInterval = o.OnStep, o.OnInterval
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.iface, err = mcast.Interface(o.Interface); err != nil {
		return nil, err
	}
	if r.receive, err = sock.NewReceiver(receiveBatch); err != nil {
		return nil, err
	}
	if r.poller, err = sock.NewPoller(len(o.Groups)); err != nil {
		return nil, err
	}
	if !o.Silent {
		if err = r.prepareReplies(); err != nil {
			return nil, err
		}
	}
	for i, g := range o.Groups {
		c, err := sock.Listen(sock.ListenConfig{Memberships: []sock.Membership{{Group: g, Interface: r.iface}}, Buffer: o.Buffer})
		if err != nil {
			return nil, err
		}
		r.inlets = append(r.inlets, &inlet{conn: c})
		if err := r.poller.Add(c, i); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// prepareReplies opens the socket of replies and notes who may have some.
func (r *Receiver) prepareReplies() (err error) {
	if r.replies, err = sock.NewSender(sock.SenderOptions{
		Interface: r.iface, TTL: r.o.TTL, Segmentation: !replayer.CutsRuns(r.iface),
	}); err != nil {
		return err
	}
	r.out = sock.NewMessages(receiveBatch)
	if len(r.o.Allow) > 0 {
		if r.allow, err = mcast.NewMatcher(r.o.Allow...); err != nil {
			return err
		}
	}
	addresses, err := r.iface.Addrs()
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", r.iface.Name, err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			r.local = append(r.local, p)
		}
	}
	return nil
}

// Buffer is the least receive buffer in bytes that the kernel granted a socket.
func (r *Receiver) Buffer() int {
	least := r.inlets[0].conn.Buffer()
	for _, in := range r.inlets {
		least = min(least, in.conn.Buffer())
	}
	return least
}

// Counts are at most some 20 ms old while it runs, and exact afterwards.
func (r *Receiver) Counts() Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.published
}

func (r *Receiver) publish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Ignored, r.counts.Runs = r.desk.ignored, r.desk.finished
	r.published = r.counts
}

// Close closes the sockets. Run must have returned, or never have been called.
func (r *Receiver) Close() (err error) {
	r.closeOnce.Do(func() {
		var errs []error
		for _, in := range r.inlets {
			errs = append(errs, in.conn.Close())
		}
		if r.poller != nil {
			errs = append(errs, r.poller.Close())
		}
		if r.replies != nil {
			errs = append(errs, r.replies.Close())
		}
		err = errors.Join(errs...)
	})
	return err
}

// Run measures until ctx ends, or with Once until a run is over; then it takes what
// waits in the buffers, and reports the steps that go on. It is called once.
func (r *Receiver) Run(ctx context.Context) error {
	defer close(r.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = sock.SetTimerSlack(1)
	defer sock.SetTimerSlack(0)
	defer context.AfterFunc(ctx, func() {
		r.stop.Store(true)
		r.poller.Wake()
	})()
	defer r.publish()
	published := sock.Now()
	for !r.stop.Load() && !(r.o.Once && r.desk.finished > 0) {
		n, more, err := r.pass()
		if err != nil {
			return err
		}
		now := sock.Now()
		if r.pending.Load() {
			r.obey()
		}
		r.desk.tick(now, time.Now().UnixNano(), int64(r.o.Every))
		if now-published > 10e6 {
			published = now
			r.publish()
		}
		switch {
		case more, n > 0 && r.o.Echo:
		case n > 0:
			sock.Sleep(nap)
		default:
			r.publish()
			if _, err := r.poller.Wait(r.ready, 20); err != nil {
				return err
			}
		}
	}
	for range 64 { // what waits in the buffers; a sender may go on
		if _, more, err := r.pass(); err != nil || !more {
			break
		}
	}
	r.readDrops()
	r.obey()
	r.desk.closeAll()
	return nil
}

// pass takes what waits; more says that something is left.
func (r *Receiver) pass() (n int, more bool, err error) {
	some := r.inlets
	if len(r.inlets) > direct {
		found, err := r.poller.Wait(r.ready, 0)
		if err != nil {
			return 0, false, err
		}
		for _, i := range r.ready[:found] {
			k, m, err := r.drain(r.inlets[i])
			n += k
			more = more || m
			if err != nil {
				return n, more, err
			}
		}
		return n, more, nil
	}
	for _, in := range some {
		k, m, err := r.drain(in)
		n += k
		more = more || m
		if err != nil {
			return n, more, err
		}
	}
	return n, more, nil
}

// drain takes what waits on a socket, and answers it.
func (r *Receiver) drain(in *inlet) (n int, more bool, err error) {
	for range passCalls {
		k, err := r.receive.Recv(in.conn)
		if err != nil {
			// ENETDOWN and its like come once, and the socket works on.
			return n, false, r.failure(err)
		}
		echoes := 0
		var to *replyTo
		for i := range k {
			r.receive.Message(i, &r.message)
			ru, a := r.take(in, &r.message)
			switch a {
			case echoIt:
				reply := r.replyTo(ru)
				if reply == nil {
					continue
				}
				if to != nil && to != reply {
					r.send(to, echoes, &r.counts.Echoes)
					echoes = 0
				}
				to = reply
				sendBack(r.message.Payload, r.message.Time, time.Now().UnixNano())
				r.out.Set(echoes, r.message.Payload, to.to)
				echoes++
			case reportIt:
				if echoes > 0 { // they stand where the report is going to
					r.send(to, echoes, &r.counts.Echoes)
					echoes = 0
				}
				r.report(ru, in, r.header)
			}
		}
		if echoes > 0 {
			r.send(to, echoes, &r.counts.Echoes)
		}
		n += k
		if k < r.receive.Len() {
			return n, false, nil
		}
	}
	return n, true, nil
}

// failure is err where trying again is of no use.
func (r *Receiver) failure(err error) error {
	if fatal(err) {
		return fmt.Errorf("receiving on %s: %w", r.iface.Name, err)
	}
	return nil
}

// take measures a datagram.
func (r *Receiver) take(in *inlet, m *sock.Message) (*run, answer) {
	r.counts.Datagrams++
	if m.HasDrops {
		r.dropped(in, m.Drops)
	}
	time, stamped := m.Time, true
	if time == 0 {
		time, stamped = now(), false
	}
	ru, st, a := r.desk.take(m.Payload, &r.header, m.Src, time, sock.Now())
	if st != nil {
		in.of = st
		st.drops += in.fresh
		in.fresh = 0
		if !stamped {
			ru.step.unstamped++
		}
	}
	if a == echoIt && !r.o.Echo {
		a = noAnswer
	}
	return ru, a
}

// dropped takes note of a socket's drop counter.
func (r *Receiver) dropped(in *inlet, counter uint32) {
	grown := uint64(counter - in.seen)
	if grown >= 1<<31 {
		return // an older value than the last
	}
	in.seen = counter
	in.fresh += grown
	r.counts.Drops += grown
}

// readDrops books what the sockets lost behind their last datagrams.
func (r *Receiver) readDrops() {
	for _, in := range r.inlets {
		r.readDropsOf(in)
	}
}

func (r *Receiver) readDropsOf(in *inlet) {
	if counter, err := in.conn.Drops(); err == nil {
		r.dropped(in, counter)
	}
	if in.of != nil {
		in.of.drops += in.fresh
		in.fresh = 0
	}
}

// replyTo is where the replies to a run go, nil where there are none.
func (r *Receiver) replyTo(ru *run) *replyTo {
	if r.replies == nil {
		return nil
	}
	t := &ru.reply
	if !t.decided || t.port != r.header.reply {
		*t = replyTo{decided: true, port: r.header.reply}
		to := netip.AddrPortFrom(ru.key.source.Addr(), t.port)
		if r.o.Return.IsValid() {
			to = r.o.Return
		}
		if to.Port() != 0 && (r.o.Return.IsValid() || r.answerable(to)) {
			t.to, t.v6 = sock.NewSockaddr(to, r.iface), to.Addr().Is6()
		}
	}
	if t.to == nil {
		r.counts.Unanswered++
		return nil
	}
	return t
}

// answerable says that a sender may be answered by unicast: whoever asks for replies can
// write any address into a datagram as its source.
func (r *Receiver) answerable(to netip.AddrPort) bool {
	a := to.Addr()
	if !a.IsValid() || a.IsMulticast() || a.IsUnspecified() {
		return false
	}
	for _, p := range r.local {
		if p.Contains(a) {
			return true
		}
	}
	return r.allow != nil && r.allow.Match(to, to)
}

// send sends the first n of r.out.
func (r *Receiver) send(to *replyTo, n int, sent *uint64) {
	socket, _, err := r.replies.Socket(0, to.v6)
	k := 0
	if err == nil {
		k, _ = r.replies.Send(socket, r.out, 0, n)
	}
	*sent += uint64(k)
	r.counts.Unanswered += uint64(n - k)
}

// report answers the end of a step.
func (r *Receiver) report(ru *run, in *inlet, h header) {
	to := r.replyTo(ru)
	if to == nil {
		return
	}
	r.readDropsOf(in)
	var rep report
	if h.step != 0 {
		c := ru.step.at(h.stream).counts()
		l := ru.step.oneWay.summary()
		rep = report{
			c.Received, c.Unique, c.Duplicates, c.Reordered, c.Drops, c.Bursts.Count, c.Bursts.Longest,
			l.Min, l.P50, l.P99, l.Max, int64(c.Jitter),
		}
	}
	h.kind = kindReport
	h.put(r.slab)
	rep.put(r.slab)
	r.out.Set(0, r.slab, to.to)
	r.send(to, 1, &r.counts.Reports)
}

// do runs f on the receiving goroutine.
func (r *Receiver) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	r.mu.Lock()
	r.commands = append(r.commands, func() { f(); close(done) })
	r.pending.Store(true)
	r.mu.Unlock()
	r.poller.Wake()
	select {
	case <-done:
		return nil
	case <-r.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Receiver) obey() {
	r.mu.Lock()
	all := r.commands
	r.commands = nil
	r.pending.Store(false)
	r.mu.Unlock()
	for _, f := range all {
		f()
	}
}

// find is the run of a number, from whatever source.
func (r *Receiver) find(number uint64) *run {
	for k, ru := range r.desk.runs {
		if k.run == number {
			return ru
		}
	}
	return nil
}

// Heard tells on how many streams the ends of step 0 of a run have come.
func (r *Receiver) Heard(ctx context.Context, number uint64) (streams int, err error) {
	err = r.do(ctx, func() {
		if ru := r.find(number); ru != nil {
			streams = len(ru.calls)
		}
	})
	return streams, err
}

// Finish tells what arrived of a step that this program's own sender has sent. It waits
// until all has come, or nothing new has for so long. OnStep is not told.
func (r *Receiver) Finish(ctx context.Context, sent Sent, patience time.Duration) (a Arrived, err error) {
	last, changed := uint64(0), time.Now()
	for {
		var all bool
		var came uint64
		if err := r.do(ctx, func() { came, all = r.progress(&sent) }); err != nil {
			return a, err
		}
		if came != last {
			last, changed = came, time.Now()
		}
		if all || time.Since(changed) >= patience {
			break
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
	err = r.do(ctx, func() { a = r.close(&sent) })
	return a, err
}

// progress tells how many datagrams of a step came or were dropped by our sockets, and
// whether that is all.
func (r *Receiver) progress(sent *Sent) (came uint64, all bool) {
	ru := r.find(sent.Run)
	if ru == nil || ru.step == nil || ru.step.number != sent.Number {
		return 0, sent.Datagrams == 0
	}
	t, _ := ru.step.totals()
	return t.Received, t.Unique >= sent.Datagrams
}

// close ends a step of our own sender.
func (r *Receiver) close(sent *Sent) Arrived {
	r.readDrops()
	ru := r.find(sent.Run)
	if ru == nil || ru.step == nil || ru.step.number != sent.Number {
		// Nothing at all came.
		a := Arrived{Run: sent.Run, Step: sent.Number, Size: sent.Size, Rate: sent.Step.Rate, Took: sent.Took, Refused: sent.Refused, Complete: true}
		for _, n := range sent.Streams {
			st := stream{ended: true, sent: n}
			c := st.counts()
			a.Streams = append(a.Streams, c)
			a.add(&c)
		}
		return a
	}
	s := ru.step
	for i, n := range sent.Streams {
		st := s.at(uint16(i))
		if st == nil {
			st = s.make(uint16(i))
		}
		s.finish(st, end{
			rate: sent.Step.Rate, took: int64(sent.Took), refused: sent.Refused, size: uint32(sent.Size), streams: uint16(len(sent.Streams)),
		}, n)
	}
	ru.reported = true
	return ru.arrived()
}
