package replayer

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"

	"castdeck/format"
	"castdeck/internal/sock"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// ring carries prepared batches from the feeder to the outlet and empty ones
// back. Its slots are made once: what they hold bounds the memory.
type ring struct {
	free chan *slot
	full chan *slot    // the feeder closes it at its end
	quit chan struct{} // closed when the outlet takes no more
	// seek is where to go on, nil where that was never asked; the outlet sets it and
	// then nudges.
	seek  atomic.Pointer[seekRequest]
	nudge chan struct{} // has room for one
}

// seekRequest asks the feeder to go on from another place. Slots carry the number of
// the request that they follow, 0 before the first.
type seekRequest struct {
	number uint64
	time   int64 // recorded, ns since the Unix epoch
}

func newRing(slots int) *ring {
	r := &ring{free: make(chan *slot, slots), full: make(chan *slot, slots), quit: make(chan struct{}), nudge: make(chan struct{}, 1)}
	for range slots {
		r.free <- &slot{messages: sock.NewMessages(0)}
	}
	return r
}

// slot is one batch with what the outlet needs to send it. Either the feeder or
// the outlet has it.
type slot struct {
	batch    format.Batch
	made     []byte         // frames of datagrams that were recorded without one
	entries  []entry        // of the datagrams that are sent
	seek     uint64         // number of the seekRequest that it follows
	end      bool           // nothing comes behind it, unless somebody seeks; no entries
	messages *sock.Messages // one for each entry
	stamps   []stamp        // one for each entry where times are rewritten, otherwise none
	stamping bool
	held     [][]byte // bytes of entries that were held back
}

// outgoing is a datagram that is ready to be sent, copies times.
type outgoing struct {
	entry    entry
	bytes    []byte
	sockaddr *sock.Sockaddr
	at, end  int // the payload is bytes[at:end]
	stamp    stamp
	copies   int
}

// put adds a datagram behind the others. Its bytes must last as long as the slot's
// contents.
func (s *slot) put(d *outgoing) {
	for range d.copies {
		if len(s.entries) == s.messages.Len() {
			s.messages.Grow(max(64, 2*len(s.entries)))
		}
		s.messages.Set(len(s.entries), d.bytes, d.sockaddr)
		s.entries = append(s.entries, d.entry)
		if s.stamping {
			d.stamp.payload, d.stamp.checksum = d.bytes[d.at:d.end], nil
			if d.at > 0 {
				d.stamp.checksum = d.bytes[d.at-2 : d.at]
			}
			s.stamps = append(s.stamps, d.stamp)
		}
	}
}

// entry is one datagram to send.
type entry struct {
	due    int64 // ns after the anchor
	time   int64 // recorded, ns since the Unix epoch
	counts *counts
	way    uint16 // of policy.ways
	socket uint16 // of the way's sender
	size   int32  // bytes of payload, or of the frame
}

// counts are what the outlet counts for one destination. The feeder makes it, the
// outlet alone writes it, and it is read when both are done.
type counts struct {
	target
	number      uint32 // of first appearance
	datagrams   uint64
	bytes       uint64
	errors      uint64
	late        uint64 // dropped because they were late
	maxLateness int64  // largest lateness, ns
	// lateness of the one before, for the error of the interval between them.
	lateness int64
	// Histograms, of the first destinations only.
	latenesses, intervals *hdrhistogram.Histogram
}

// target is a destination and how its datagrams leave: a number of policy.ways.
type target struct {
	destination netip.AddrPort
	way         uint16
}

// route is what the feeder decided for datagrams of one input, source and destination.
type route struct {
	src, dst netip.AddrPort
	target   // after the mappings
	input    uint16
	socket   uint16
	known    bool
	selected bool
	sockaddr *sock.Sockaddr
	counts   *counts
	lane     *lane        // nil where nothing is impaired
	rewrite  *rewriteLane // nil where nothing is rewritten
}

const (
	// routeCache is the number of routes at hand; a power of two. Streams beyond it
	// cost more time, not more memory.
	routeCache = 2048
	// maxDestinations bounds the destinations with counts of their own. Further ones
	// are counted together.
	maxDestinations = 65536
	// maxDamage bounds the damages that are kept; all are counted.
	maxDamage = 100
	// maxBarren is how many damages in a row without a datagram are taken for a
	// source that does not move on.
	maxBarren = 1 << 20
)

// feeder reads the source, decides about every datagram and hands prepared slots
// to the outlet. Its results are valid when ring.full is closed.
type feeder struct {
	src      format.BatchReader
	ring     *ring
	policy   *policy
	senders  []*sock.Sender // one for each of policy.ways
	frames   *frames        // where recorded frames are sent; else nil
	schedule schedule
	number   uint64 // of the seekRequest that is followed
	// impairer and rewriting are nil where nothing is asked for.
	impairer  *impairer
	rewriting *rewriting
	treated   treated
	regrouper *regrouper // nil where datagrams keep their order
	round     int        // of the batch, where the source is a Rounder
	read      uint64     // datagrams of the source so far

	// histograms is how many destinations still get histograms of their own.
	histograms int

	routes       []route
	otherRoute   route // of frames that are not UDP
	destinations map[target]*counts
	order        []*counts // of first appearance
	other        *counts   // beyond maxDestinations

	skipped       Skipped
	recordedDrops uint64
	damage        []error
	damaged       uint64
	err           error // why it ended, nil at the end of the source
}

// prepare makes the tables, so that run does not do it while the first datagram
// waits.
func (f *feeder) prepare() {
	f.routes = make([]route, routeCache)
	f.destinations = make(map[target]*counts)
}

// patience counts the damages in a row without a datagram between them.
type patience int

// damaged counts one more; the error says that the source does not move on.
func (p *patience) damaged(err error) error {
	if *p++; *p > maxBarren {
		return fmt.Errorf("%d damages in a row and nothing between them; the last: %w", *p, err)
	}
	return nil
}

func (f *feeder) run() {
	defer close(f.ring.full)
	rounder, _ := f.src.(Rounder)
	var barren patience
	for {
		s := f.take()
		if s == nil {
			return
		}
		for {
			if err := f.follow(); err != nil {
				f.err = err
				return
			}
			s.seek, s.end = f.number, false
			err := f.src.ReadBatch(&s.batch)
			if err == nil {
				barren = 0
				if rounder != nil {
					f.round = rounder.Round()
				}
				var refused error
				if refused = f.fill(s); len(s.entries) > 0 {
					f.ring.full <- s // never blocks: it has room for every slot
				}
				if refused != nil {
					f.err = refused
					if len(s.entries) > 0 {
						s = nil
					}
					f.drain(s)
					return
				}
				if len(s.entries) > 0 {
					break // on to the next slot
				}
			} else {
				var corrupt *format.CorruptError
				switch {
				case errors.Is(err, io.EOF):
					if s = f.drain(s); s == nil {
						return
					}
					s.end, s.entries = true, s.entries[:0]
					f.ring.full <- s
					if !f.sought() {
						return
					}
				case !errors.As(err, &corrupt):
					f.err = err
					f.drain(s)
					return
				}
				if s.end {
					break // the outlet has the slot
				}
				f.damaged++
				if len(f.damage) < maxDamage {
					f.damage = append(f.damage, err)
				}
				if f.err = barren.damaged(err); f.err != nil {
					return
				}
			}
			select {
			case <-f.ring.quit:
				return
			default:
			}
		}
	}
}

// take waits for an empty slot; nil where the outlet takes no more.
func (f *feeder) take() *slot {
	select {
	case s := <-f.ring.free:
		return s
	case <-f.ring.quit:
		return nil
	}
}

// sought waits, behind the end of the source, until somebody seeks or the outlet takes
// no more.
func (f *feeder) sought() bool {
	for {
		if q := f.ring.seek.Load(); q != nil && q.number != f.number {
			return true
		}
		select {
		case <-f.ring.nudge:
		case <-f.ring.quit:
			return false
		}
	}
}

// follow goes to the place that was asked for last.
func (f *feeder) follow() error {
	q := f.ring.seek.Load()
	if q == nil || q.number == f.number {
		return nil
	}
	f.number = q.number
	f.schedule.restart()
	if f.impairer != nil {
		f.impairer.restart()
	}
	return f.src.(TimeSeeker).SeekTime(q.time)
}

// fill makes entries and messages of the slot's batch. With an error, those before
// the datagram that it is about are valid.
func (f *feeder) fill(s *slot) error {
	if n := len(s.batch.Datagrams); n > s.messages.Len() {
		// Half more than asked, so that batches that grow slowly do not cost an
		// allocation each.
		n += n / 2
		s.messages = sock.NewMessages(n)
		s.entries = make([]entry, 0, n)
	}
	f.clear(s)
	if f.frames != nil {
		s.makeFrames()
	}
	for i := range s.batch.Datagrams {
		d := &s.batch.Datagrams[i]
		f.read++
		f.recordedDrops += d.Drops
		r, content, err := f.prepareOne(d)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		e := entry{
			due: f.schedule.due(d.Time, len(content)), time: d.Time,
			counts: r.counts, way: r.way, socket: r.socket, size: int32(len(content)),
		}
		if f.impairer == nil && !s.stamping {
			s.messages.Set(len(s.entries), content, r.sockaddr)
			s.entries = append(s.entries, e)
			continue
		}
		f.alter(s, r, outgoing{entry: e, bytes: content, sockaddr: r.sockaddr, copies: 1})
	}
	if f.regrouper != nil {
		f.regrouper.regroup(s)
	}
	return nil
}

// treated is what is done to the datagram that was prepared last, and where its payload
// stands in what is sent of it.
type treated struct {
	verdict
	at, end int
}

// treat rewrites and corrupts the payload, content[at:end], of the datagram that was read
// last, and decides what else is done to it.
func (f *feeder) treat(r *route, time int64, content []byte, at, end int) {
	if r.rewrite == nil && r.lane == nil {
		return
	}
	f.treated = treated{verdict{bit: -1}, at, end}
	payload := content[at:end]
	if r.rewrite != nil {
		f.rewriting.apply(r.rewrite, payload, f.round)
	}
	if r.lane != nil {
		f.treated.verdict = f.impairer.judge(r.lane, f.read-1, time, payload)
	}
}

// prepareOne says where a datagram goes and what is sent of it; no route where it is
// skipped, which it counts.
func (f *feeder) prepareOne(d *format.Datagram) (r *route, content []byte, err error) {
	if f.frames != nil {
		return f.prepareFrame(d)
	}
	switch {
	case d.Flags&format.FlagNotUDP != 0 || !d.Dst.IsValid():
		f.skipped.NotUDP++
		return nil, nil, nil
	case d.Flags&format.FlagTruncated != 0 || uint64(len(d.Payload)) < uint64(d.Length):
		f.skipped.Truncated++
		return nil, nil, nil
	}
	if r, err = f.routeOf(d.Input, d.Src, d.Dst); r != nil {
		f.treat(r, d.Time, d.Payload, 0, len(d.Payload))
	}
	return r, d.Payload, err
}

// routeOf is the route of datagrams; nil where they are not selected, which it counts.
func (f *feeder) routeOf(input uint16, src, dst netip.AddrPort) (*route, error) {
	r := f.route(input, src, dst)
	if !r.known {
		if err := f.decide(r, input, src, dst); err != nil {
			return nil, err
		}
	}
	if !r.selected {
		f.skipped.Filtered++
		return nil, nil
	}
	return r, nil
}

// alter is the way into a slot of datagrams that are impaired or get times.
func (f *feeder) alter(s *slot, r *route, d outgoing) {
	if r.rewrite != nil {
		d.stamp.times = r.rewrite.times
	}
	if r.rewrite != nil || r.lane != nil {
		d.at, d.end, d.stamp.bit = f.treated.at, f.treated.end, f.treated.bit
	}
	if f.impairer == nil {
		s.put(&d)
		return
	}
	f.impairer.pass(s, r.lane, f.treated.verdict, d)
}

// clear empties a slot, but for its batch.
func (f *feeder) clear(s *slot) {
	s.entries, s.stamps = s.entries[:0], s.stamps[:0]
	s.stamping = f.rewriting != nil && f.rewriting.times
	if f.impairer != nil {
		f.impairer.reclaim(s)
		// A pause of the recording lets all leave that was held before it: this much
		// is not needed again.
		if most := s.messages.Len(); most > drainTogether && most > 8*len(s.batch.Datagrams) {
			n := 2 * len(s.batch.Datagrams)
			s.messages, s.entries = sock.NewMessages(n), make([]entry, 0, n)
		}
	}
}

// drainTogether is how many datagrams a slot takes at the end.
const drainTogether = 16384

// drain hands over what is held, in s and further slots, when nothing comes behind it. s
// may be nil. It returns an empty slot; nil where the outlet takes no more.
func (f *feeder) drain(s *slot) *slot {
	for {
		if s == nil {
			if s = f.take(); s == nil {
				return nil
			}
			s.seek, s.end = f.number, false
		}
		s.batch.Reset()
		f.clear(s)
		if f.impairer == nil || !f.impairer.drain(s, drainTogether) {
			return s
		}
		f.ring.full <- s
		s = nil
	}
}

// route returns the cache's place for the addresses: the route itself where it is
// known, otherwise one for decide to fill. A map would cost more than all the rest
// of a datagram's preparation.
func (f *feeder) route(input uint16, src, dst netip.AddrPort) *route {
	h := (mix(dst) ^ mix(src)*0x9E3779B1 ^ uint32(input)<<24) * 0x85EBCA6B
	r := &f.routes[h>>16&(routeCache-1)]
	if r.known && (r.dst != dst || r.src != src || r.input != input) {
		r.known = false
	}
	return r
}

// mix takes what differs between the streams of one feed: the end of the address
// and the port.
func mix(a netip.AddrPort) uint32 {
	if !a.IsValid() {
		return 0
	}
	b := a.Addr().As16()
	return uint32(b[15]) | uint32(b[14])<<8 | uint32(a.Port())<<16
}

// decide finds out what to do with datagrams from src to dst.
func (f *feeder) decide(r *route, input uint16, src, dst netip.AddrPort) error {
	d := f.policy.decide(input, src, dst)
	if d.refused != nil {
		return d.refused
	}
	*r = route{src: src, dst: dst, input: input, selected: d.selected, target: target{d.to, d.way}}
	if d.selected {
		socket, err := f.socket(src, r.target)
		if err != nil {
			return fmt.Errorf("sending to %s: %w", d.to, err)
		}
		r.socket = uint16(socket)
		r.sockaddr = &frameSockaddr
		if f.frames == nil {
			r.sockaddr = sock.NewSockaddr(d.to, f.policy.ways[d.way].iface)
		}
		r.counts = f.countsOf(r.target)
		if f.impairer != nil {
			r.lane = f.impairer.lane(src, dst, d.to)
		}
		if f.rewriting != nil {
			r.rewrite = f.rewriting.lane(src, dst)
		}
	}
	r.known = true
	return nil
}

// socket is the number of the socket, among those of the target's way, by which
// datagrams from src leave.
func (f *feeder) socket(src netip.AddrPort, to target) (socket int, err error) {
	s, ipv6 := f.senders[to.way], to.destination.Addr().Is6()
	switch {
	case f.frames != nil:
		return 0, nil
	case !f.policy.keepSource:
		socket, _, err = s.Socket(src.Port(), ipv6)
		return socket, err
	case src.Addr().Is6() != ipv6:
		return 0, fmt.Errorf("the recorded source %s is of the other IP version and cannot be kept", src)
	}
	socket, err = s.SocketFrom(src)
	if err != nil {
		err = fmt.Errorf("keeping the recorded source: %w", err)
	}
	return socket, err
}

func (f *feeder) countsOf(to target) *counts {
	if c := f.destinations[to]; c != nil {
		return c
	}
	if len(f.destinations) >= maxDestinations {
		return f.others()
	}
	c := &counts{target: to, number: uint32(len(f.order))}
	if f.histograms > 0 {
		f.histograms--
		c.latenesses, c.intervals = newHistogram(2), newHistogram(2)
	}
	f.destinations[to] = c
	f.order = append(f.order, c)
	return c
}

// others counts what has no counts of its own.
func (f *feeder) others() *counts {
	if f.other == nil {
		f.other = &counts{number: maxDestinations}
	}
	return f.other
}
