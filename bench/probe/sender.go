package probe

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"castdeck/internal/mcast"
	"castdeck/internal/sock"
	"castdeck/replayer"
)

const (
	// together bounds the datagrams of one system call where they can be runs of
	// UDP_SEGMENT, and few where they cannot: all of a call have one send time, and where
	// the sender loses its processor within the call that is too early for the last ones.
	together, few = 128, 8
	// lead is the time before the first datagram of a step is due, in ns.
	lead = 1_000_000
)

// SendOptions say how a Sender sends. Fields without a default must be set.
type SendOptions struct {
	// Interface to send out of: its name, index or one of its addresses.
	Interface string
	// Groups take turns, datagram by datagram; 1 to 1024, of one IP version. What
	// replayer.Options would refuse is refused unless Allow names it.
	Groups []netip.AddrPort
	Allow  []string
	// TTL is 1 to 255, 0 is 1; DSCP 0 to 63.
	TTL, DSCP int
	// Loopback delivers to members on this host too.
	Loopback bool
	// SendBuffer is SO_SNDBUF in bytes; 0 leaves the kernel's default.
	SendBuffer int
	// Segmentation hands datagrams that are due together and go to one group to the kernel as
	// a run (UDP_SEGMENT), except where a queue of the interface cuts runs itself.
	Segmentation bool
	// Replies asks receivers for reports, and Echo for echoes; both come to the
	// interface's address, or to the group Return where that is valid.
	Replies, Echo bool
	Return        netip.AddrPort
	// Buffer is the receive buffer for replies in bytes; 0 is 64 MiB.
	Buffer int
}

// Step is a part of a run. Size is at least HeaderSize.
type Step struct {
	// Size of the payload in bytes, HeaderSize to 65,507.
	Size int
	// Rate in datagrams a second over all groups; 0 is as fast as can be.
	Rate float64
	// Duration of sending, and Count of datagrams; whatever ends first, 0 is no limit. One
	// of them must be set.
	Duration time.Duration
	Count    uint64
}

// Sent is what a step sent.
type Sent struct {
	Step
	Run    uint64
	Number uint32 // of the step
	// Datagrams and Bytes (of payload) that left, Streams the datagrams by group.
	Datagrams, Bytes uint64
	Streams          []uint64
	// Refused are datagrams that the kernel did not take; they have no number, and are
	// among no losses. Causes has them by errno, such as ENOBUFS for a full queue.
	Refused uint64
	Causes  map[string]uint64
	// Took is the time from when the first was due until the last had left, Reached the
	// rate in it.
	Took    time.Duration
	Reached float64
	// Lateness is how long after they were due datagrams had left.
	Lateness Latency
	// Segmented of them left in runs (UDP_SEGMENT).
	Segmented uint64
	// RoundTrip is from right before the system call that sent a datagram until this
	// program read its echo, by one clock. Network is without the time that it spent in
	// the receiver's program and in waking this one: kernel stamps at both ends, each
	// difference taken by one clock (as TWAMP does, RFC 5357). Echoes are those that came
	// first for their number, EchoCopies the others: of a copying path, or of a second receiver.
	RoundTrip, Network Latency
	Echoes, EchoCopies uint64
}

// Progress is where a step is.
type Progress struct {
	Step                      uint32
	Datagrams, Bytes, Refused uint64
	Echoes                    uint64
}

// Sender sends runs. Its methods are called one after another, Progress at any time.
type Sender struct {
	o      SendOptions
	iface  *net.Interface
	sender *sock.Sender
	socket int
	// segments says that datagrams can leave in runs.
	segments bool
	to       []*sock.Sockaddr
	out      *sock.Messages
	slab     []byte
	run      uint64
	step     uint32
	replies  *replies // nil where none are asked for

	progress struct {
		step                              atomic.Uint32
		datagrams, bytes, refused, echoes atomic.Uint64
	}
}

// NewSender opens the sockets. The caller must Close. Each has a run of its own. The
// error is a *replayer.GuardError where a group must not be sent to.
func NewSender(o SendOptions) (s *Sender, err error) {
	if len(o.Groups) == 0 || len(o.Groups) > maxStreams {
		return nil, fmt.Errorf("%d groups is not between 1 and %d", len(o.Groups), maxStreams)
	}
	streams := make([]replayer.Stream, len(o.Groups))
	for i, g := range o.Groups {
		if g.Addr().Is4() != o.Groups[0].Addr().Is4() {
			return nil, fmt.Errorf("%s and %s: one run takes one IP version", o.Groups[0], g)
		}
		streams[i].Dst = g
	}
	if err := replayer.Check(streams, replayer.Options{Interface: o.Interface, Allow: o.Allow, TTL: o.TTL, DSCP: o.DSCP}); err != nil {
		return nil, err
	}
	s = &Sender{o: o, run: rand.Uint64(), out: sock.NewMessages(max(together, len(o.Groups)))}
	if s.iface, err = mcast.Interface(o.Interface); err != nil {
		return nil, err
	}
	s.segments = o.Segmentation && len(o.Groups) == 1 && !replayer.CutsRuns(s.iface)
	s.sender, err = sock.NewSender(sock.SenderOptions{
		Interface: s.iface, TTL: o.TTL, DSCP: o.DSCP, Loopback: o.Loopback, SendBuffer: o.SendBuffer,
		Segmentation: s.segments, Broadcast: len(o.Allow) > 0,
	})
	if err != nil {
		return nil, err
	}
	if s.socket, _, err = s.sender.Socket(0, o.Groups[0].Addr().Is6()); err == nil && (o.Replies || o.Echo) {
		s.replies, err = newReplies(&o, s.sender.Source(), s.iface)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	for _, g := range o.Groups {
		s.to = append(s.to, sock.NewSockaddr(g, s.iface))
	}
	return s, nil
}

// Close closes the sockets.
func (s *Sender) Close() error {
	err := s.sender.Close()
	if s.replies != nil {
		err = errors.Join(err, s.replies.close())
	}
	return err
}

// Run is the run's number.
func (s *Sender) Run() uint64 { return s.run }

// ReplyBuffer is the receive buffer for replies that the kernel granted, 0 without.
func (s *Sender) ReplyBuffer() int {
	if s.replies == nil {
		return 0
	}
	return s.replies.buffer()
}

// Progress of the step that goes on, or of the last one.
func (s *Sender) Progress() Progress {
	p := &s.progress
	return Progress{p.step.Load(), p.datagrams.Load(), p.bytes.Load(), p.refused.Load(), p.echoes.Load()}
}

// check returns what is wrong with a step.
func (st *Step) check() error {
	switch {
	case st.Size < HeaderSize || st.Size > 65507:
		return fmt.Errorf("%d bytes is not between %d and 65507", st.Size, HeaderSize)
	case st.Rate < 0 || math.IsNaN(st.Rate) || st.Rate > 1e9:
		return fmt.Errorf("%g datagrams a second is not between 0 and 1e9", st.Rate)
	case st.Duration <= 0 && st.Count == 0:
		return errors.New("a step without an end")
	}
	return nil
}

// begin starts the next step.
func (s *Sender) begin(st Step) (*Sent, *echoes) {
	s.step++
	p := &s.progress
	p.step.Store(s.step)
	for _, c := range []*atomic.Uint64{&p.datagrams, &p.bytes, &p.refused, &p.echoes} {
		c.Store(0)
	}
	if need := st.Size * together; len(s.slab) < need {
		s.slab = make([]byte, need)
		fill(s.slab)
	}
	sent := &Sent{Step: st, Run: s.run, Number: s.step, Streams: make([]uint64, len(s.to)), Causes: map[string]uint64{}}
	var e *echoes
	if s.o.Echo {
		e = newEchoes(s.run, s.step, len(s.to), &p.echoes)
	}
	return sent, e
}

// fill writes what stands behind the header: bytes that count up, so that a network that
// packs or mends payloads has little to do and a human sees what is missing.
func fill(b []byte) {
	for i := range b {
		b[i] = byte(i)
	}
}

// header of the next data datagrams.
func (s *Sender) header() header {
	h := header{kind: kindData, run: s.run, step: s.step}
	if s.replies != nil {
		h.reply = s.replies.port()
	}
	if s.o.Echo {
		h.flags = flagEcho
	}
	return h
}

// Send sends a step at its rate. When ctx ends it stops and returns what was done,
// without an error. With Echo it then waits for echoes until none has come for a while.
func (s *Sender) Send(ctx context.Context, st Step) (Sent, error) {
	if err := st.check(); err != nil {
		return Sent{}, err
	}
	sent, e := s.begin(st)
	collect := s.collect(e)
	err := s.send(ctx, sent)
	if cerr := collect(sent.Datagrams); err == nil {
		err = cerr
	}
	if e != nil {
		e.into(sent)
	}
	return *sent, err
}

// collect reads echoes beside the sending until the function that it returns is called,
// and then for as long as some come.
func (s *Sender) collect(e *echoes) func(sent uint64) error {
	if e == nil {
		return func(uint64) error { return nil }
	}
	done := make(chan error, 1)
	var all atomic.Uint64
	var over atomic.Bool
	go func() {
		defer lockThread()()
		last := time.Now()
		for {
			n, err := s.replies.read(e, 20*time.Millisecond)
			if n > 0 {
				last = time.Now()
			}
			if err != nil || over.Load() && (e.total() >= all.Load() || time.Since(last) > echoPatience) {
				done <- err
				return
			}
		}
	}()
	return func(sent uint64) error {
		all.Store(sent)
		over.Store(true)
		s.replies.wake()
		return <-done
	}
}

// echoPatience is how long echoes are waited for when none comes.
const echoPatience = 200 * time.Millisecond

// send is the loop of Send.
func (s *Sender) send(ctx context.Context, sent *Sent) error {
	pacer := replayer.NewPacer()
	defer pacer.Close()
	defer context.AfterFunc(ctx, pacer.Stop)()
	late := newLatencies(3)
	segmented, _, _ := s.sender.Segmented()
	paced, per := sent.Step.Rate > 0, 0.0
	total := sent.Count
	if total == 0 {
		total = math.MaxUint64
	}
	if paced {
		per = 1e9 / sent.Step.Rate
		if sent.Duration > 0 {
			total = min(total, max(uint64(math.Round(sent.Step.Rate*sent.Duration.Seconds())), 1))
		}
	}
	h := s.header()
	s.warm(sent, &h)
	start := sock.Now() + lead
	deadline := int64(math.MaxInt64)
	if !paced && sent.Duration > 0 {
		deadline = start + int64(sent.Duration)
	}
	due := func(slot uint64) int64 { return start + int64(float64(slot)*per) }
	after := start
	for slot := uint64(0); slot < total && ctx.Err() == nil; { // slots count what was refused too
		now := pacer.Wait(due(slot))
		if now >= deadline {
			break
		}
		n := uint64(few)
		if s.segments {
			n = together
		}
		if paced {
			n = min(n, max(uint64(max(float64(now-start)/per, 0)), slot)+1-slot)
		}
		n = min(n, total-slot)
		s.make(sent, &h, int(n))
		s.stamp(sent, int(n))
		k, err := s.sender.Send(s.socket, s.out, 0, int(n))
		after = sock.Now()
		for i := range uint64(k) {
			sent.Streams[(sent.Datagrams+i)%uint64(len(s.to))]++
			if paced {
				late.add(after - due(slot+i))
			}
		}
		sent.Datagrams += uint64(k)
		slot += uint64(k)
		if err != nil && err != syscall.EAGAIN {
			sent.Causes[cause(err)]++
			sent.Refused++
			slot++
			s.progress.refused.Store(sent.Refused)
		}
		s.progress.datagrams.Store(sent.Datagrams)
		s.progress.bytes.Store(sent.Datagrams * uint64(sent.Size))
	}
	sent.Bytes = sent.Datagrams * uint64(sent.Size)
	sent.Took = time.Duration(max(after-start, 0))
	if paced && sent.Datagrams+sent.Refused == total {
		// The last one has its time too: N datagrams take N intervals.
		sent.Took = max(sent.Took, time.Duration(due(total)-start))
	}
	if sent.Took > 0 {
		sent.Reached = float64(sent.Datagrams) / sent.Took.Seconds()
	}
	sent.Lateness = late.whole()
	now, _, _ := s.sender.Segmented()
	sent.Segmented = now - segmented
	return nil
}

// make writes the next n datagrams, but for their time of sending. The number of a
// datagram that is refused afterwards goes to the one behind it.
func (s *Sender) make(sent *Sent, h *header, n int) {
	groups := uint64(len(s.to))
	for i := range n {
		d := sent.Datagrams + uint64(i)
		h.stream, h.seq = uint16(d%groups), d/groups
		p := s.payload(sent, i)
		h.put(p)
		s.out.Set(i, p, s.to[h.stream])
	}
}

// stamp writes the time of sending, now, into the next n datagrams.
func (s *Sender) stamp(sent *Sent, n int) {
	wall, clock := now(), sock.Now()
	for i := range n {
		putTimes(s.payload(sent, i), wall, clock)
	}
}

// payload of message i.
func (s *Sender) payload(sent *Sent, i int) []byte {
	return s.slab[i*sent.Size : (i+1)*sent.Size : (i+1)*sent.Size]
}

// warm goes the way of the first datagram to each group without sending.
func (s *Sender) warm(sent *Sent, h *header) {
	s.make(sent, h, min(together, len(s.to)))
	for i := range min(together, len(s.to)) {
		s.sender.Warm(s.socket, s.out, i)
	}
}

func cause(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return sock.ErrnoName(e)
	}
	return "other"
}

// now is the wall clock.
func now() int64 { return time.Now().UnixNano() }

// PingPong sends a datagram, waits for its echo, sends the next, and so on: the round
// trip without load. One that is not answered within patience counts as lost. Rate is
// the most it sends a second; 0 is as the echoes come.
func (s *Sender) PingPong(ctx context.Context, st Step, patience time.Duration) (Sent, error) {
	if err := st.check(); err != nil {
		return Sent{}, err
	}
	if !s.o.Echo {
		return Sent{}, errors.New("ping-pong needs echoes")
	}
	sent, e := s.begin(st)
	pacer := replayer.NewPacer()
	defer pacer.Close()
	defer context.AfterFunc(ctx, func() { pacer.Stop(); s.replies.wake() })()
	h := s.header()
	s.warm(sent, &h)
	start := sock.Now()
	end := int64(math.MaxInt64)
	if st.Duration > 0 {
		end = start + int64(st.Duration)
	}
	for slot := uint64(0); (st.Count == 0 || slot < st.Count) && ctx.Err() == nil && sock.Now() < end; slot++ {
		if st.Rate > 0 {
			if due := start + int64(float64(slot)/st.Rate*1e9); due < end {
				pacer.Wait(due)
			} else {
				break
			}
		}
		s.make(sent, &h, 1)
		s.stamp(sent, 1)
		if _, err := s.sender.Send(s.socket, s.out, 0, 1); err != nil {
			sent.Refused++
			sent.Causes[cause(err)]++
			continue
		}
		sent.Streams[h.stream]++
		sent.Datagrams++
		s.progress.datagrams.Store(sent.Datagrams)
		for before, until := e.total(), sock.Now()+int64(patience); e.total() == before && ctx.Err() == nil; {
			left := until - sock.Now()
			if left <= 0 {
				break
			}
			if _, err := s.replies.read(e, time.Duration(left)); err != nil {
				return *sent, err
			}
		}
	}
	sent.Bytes = sent.Datagrams * uint64(sent.Size)
	if sent.Took = time.Duration(sock.Now() - start); sent.Took > 0 {
		sent.Reached = float64(sent.Datagrams) / sent.Took.Seconds()
	}
	e.into(sent)
	return *sent, nil
}
