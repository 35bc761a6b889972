package replayer

import (
	"container/heap"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"castdeck/internal/mcast"
)

// Impairment is a kind of damage that a replay does on purpose, to see how receivers
// bear it.
type Impairment uint8

// The kinds, in the order in which they are decided for a datagram. The words are those
// of RFC 4737 and tc-netem(8).
const (
	// ImpairDrop loses single datagrams, each with probability P.
	ImpairDrop Impairment = iota
	// ImpairDropBurst loses datagrams in bursts, by Gilbert's model: a link is good or bad, and
	// loses everything while it is bad. P is the share of datagrams lost in the long
	// run, Mean the mean length of a burst in datagrams. So the link turns good with
	// probability r = 1/Mean before each datagram, and bad with p = r*P/(1-P).
	ImpairDropBurst
	// ImpairDuplicate sends a datagram twice, right behind itself, with probability P.
	ImpairDuplicate
	// ImpairCorrupt flips one bit of the payload, anywhere in it, with probability P. The
	// checksum of UDP is right, so that receivers see it.
	ImpairCorrupt
	// ImpairDelay sends later by Delay, or by anything between Delay-Spread and Delay+Spread
	// with equal probability.
	ImpairDelay
	// ImpairJitter sends later by a random time of exponential distribution with the mean
	// Delay, as a queue does; beyond ten times the mean it is cut.
	ImpairJitter
	// ImpairReorder holds a datagram, with probability P, until By later ones of its stream
	// have left, or for the time Delay where By is 0.
	ImpairReorder

	impairments = 7
)

var impairmentNames = [impairments]string{"drop", "drop-burst", "duplicate", "corrupt", "delay", "jitter", "reorder"}

func (k Impairment) String() string {
	if k < impairments {
		return impairmentNames[k]
	}
	return "unknown"
}

// Impair is one impairment and what it is about. The zero value of For is the good
// default; the others belong to the kind. It is a value; ParseImpair makes it.
type Impair struct {
	Kind Impairment
	// For is a pattern of recorded addresses, as mcast.NewMatcher reads it. "" is
	// everything that no other Impair of this kind is for. The first that fits holds.
	// What one Impair is for is one link to it: bursts go over all of its streams.
	For string
	// P is a probability, 0 to 1.
	P float64
	// Mean is a number of datagrams, 1 to 1e6.
	Mean float64
	// By is a number of datagrams, up to 1000.
	By int
	// Delay and Spread are real time, whatever Pacing.Speed is, up to an hour; another speed
	// set while it plays changes them too.
	Delay, Spread time.Duration
}

const (
	maxImpairDelay = time.Hour
	maxBurst       = 1e6
	maxReorder     = 1000
	// jitterCut bounds jitter, in means.
	jitterCut = 10
	// maxHeldBytes and maxHeld bound the copies of datagrams that are held back. What
	// does not fit is sent early.
	maxHeldBytes = 64 << 20
	maxHeld      = 1 << 17
	// maxLanes bounds the streams that are told apart.
	maxLanes = 65536
)

// ParseImpair reads the value of a kind, with the pattern that it is for or without:
//
//	drop, duplicate, corrupt   0.1%
//	drop-burst                 0.1%,5       share lost, mean length of a burst
//	reorder                    1%           behind the next one of its stream
//	                           1%,3         behind the next three
//	                           1%,5ms       later by 5 ms
//	delay                      5ms, 5ms±2ms, 5ms+-2ms
//	jitter                     2ms          the mean
//	any                        239.1.1.1:5000=0.5%
func ParseImpair(kind Impairment, text string) (Impair, error) {
	m, err := parseImpair(kind, text)
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return Impair{}, fmt.Errorf("%q: %w", shorten(text), err)
	}
	return m, nil
}

func parseImpair(kind Impairment, text string) (m Impair, err error) {
	m.Kind = kind
	value := text
	if i := strings.LastIndexByte(text, '='); i >= 0 {
		if m.For, value = text[:i], text[i+1:]; m.For == "" {
			return m, errors.New("no pattern before the =; write it as 239.1.1.1:5000=VALUE, or VALUE alone for everything")
		}
	}
	first, second, two := strings.Cut(value, ",")
	switch kind {
	case ImpairDrop, ImpairDuplicate, ImpairCorrupt:
		m.P, err = parseShare(value)
	case ImpairDropBurst:
		if m.P, err = parseShare(first); err != nil {
			return m, err
		}
		if m.Mean, err = strconv.ParseFloat(second, 64); !two || err != nil {
			return m, errors.New("write the share lost and the mean length of a burst, such as 0.1%,5")
		}
	case ImpairReorder:
		if m.P, err = parseShare(first); err != nil {
			return m, err
		}
		m.By = 1
		if two {
			if m.By, err = strconv.Atoi(second); err == nil {
				if m.By < 1 {
					return m, fmt.Errorf("by %d datagrams is not between 1 and %d", m.By, maxReorder)
				}
				break
			}
			m.By = 0
			if m.Delay, err = time.ParseDuration(second); err != nil || m.Delay <= 0 {
				return m, errors.New("write how far, in datagrams or time, such as 1%,3 or 1%,5ms")
			}
		}
	case ImpairDelay:
		middle, spread, around := value, "", false
		for _, sign := range []string{"±", "+-", "+/-"} {
			if middle, spread, around = strings.Cut(value, sign); around {
				break
			}
		}
		if m.Delay, err = time.ParseDuration(middle); err == nil && around {
			m.Spread, err = time.ParseDuration(spread)
		}
		if err != nil {
			return m, errors.New("write a time, such as 5ms or 5ms±2ms (5ms+-2ms)")
		}
	case ImpairJitter:
		if m.Delay, err = time.ParseDuration(value); err != nil {
			return m, errors.New("write the mean, such as 2ms")
		}
	default:
		return m, errors.New("no such impairment")
	}
	return m, err
}

func parseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	p, err := strconv.ParseFloat(number, 64)
	if !percent || err != nil || !(p >= 0 && p <= 100) {
		return 0, fmt.Errorf("%q is no share; write 0%% to 100%%, such as 0.1%%", shorten(s))
	}
	return p / 100, nil
}

// check says what is out of bounds. Comparisons are written so that NaN does not pass.
func (m *Impair) check() error {
	switch {
	case m.Kind >= impairments:
		return errors.New("no such impairment")
	case !(m.P >= 0 && m.P <= 1):
		return fmt.Errorf("a probability of %g is not between 0 and 1", m.P)
	case m.Kind == ImpairDropBurst && !(m.Mean >= 1 && m.Mean <= maxBurst):
		return fmt.Errorf("bursts of %g datagrams are not between 1 and %g", m.Mean, maxBurst)
	case m.Kind == ImpairDropBurst && m.P > m.Mean/(m.Mean+1):
		return fmt.Errorf("bursts of %g datagrams, with one between them at least, are %.3g%% at most", m.Mean, 100*m.Mean/(m.Mean+1))
	case m.Kind == ImpairReorder && (m.By < 0 || m.By > maxReorder):
		return fmt.Errorf("by %d datagrams is not between 1 and %d", m.By, maxReorder)
	case m.Kind == ImpairReorder && m.By == 0 && m.Delay <= 0:
		return errors.New("reordering by nothing; say by how many datagrams or how much time")
	case m.Delay < 0 || m.Spread < 0 || m.Spread > m.Delay:
		return errors.New("nothing can be sent before its time: delays below 0")
	case m.Delay+m.Spread > maxImpairDelay:
		return fmt.Errorf("delays of more than %s", maxImpairDelay)
	}
	_, err := m.matcher()
	return err
}

// matcher is nil where it is for everything.
func (m *Impair) matcher() (*mcast.Matcher, error) {
	if m.For == "" {
		return nil, nil
	}
	return mcast.NewMatcher(m.For)
}

// String is the value as ParseImpair reads it.
func (m Impair) String() string {
	var b strings.Builder
	if m.For != "" {
		b.WriteString(m.For + "=")
	}
	share := strconv.FormatFloat(m.P*100, 'g', -1, 64) + "%"
	switch m.Kind {
	case ImpairDropBurst:
		fmt.Fprintf(&b, "%s,%s", share, strconv.FormatFloat(m.Mean, 'g', -1, 64))
	case ImpairReorder:
		if m.By > 0 {
			fmt.Fprintf(&b, "%s,%d", share, m.By)
		} else {
			fmt.Fprintf(&b, "%s,%s", share, m.Delay)
		}
	case ImpairDelay, ImpairJitter:
		b.WriteString(m.Delay.String())
		if m.Spread > 0 {
			fmt.Fprintf(&b, "±%s", m.Spread)
		}
	default:
		b.WriteString(share)
	}
	return b.String()
}

// Impaired counts what was done on purpose to the datagrams that were read. What was
// read ahead when the replay was stopped is in it.
type Impaired struct {
	// By lists the datagrams by Impairment; one that was dropped counts there only.
	By [impairments]uint64
	// Early counts those that were sent before their time because no more could be held
	// back (64 MiB, 131,072 datagrams), or because too few came behind them to reorder.
	Early uint64
}

// Dropped is how many were not sent.
func (i *Impaired) Dropped() uint64 { return i.By[ImpairDrop] + i.By[ImpairDropBurst] }

// ImpairRecord says what was done to one datagram.
type ImpairRecord struct {
	// Index is the datagram's number among all that were read, from 0 on; it goes on
	// over rounds.
	Index uint64
	// Time as it was recorded (as the source gave it), ns since the Unix epoch.
	Time int64
	// Src and Dst are the recorded addresses, To where it goes.
	Src, Dst, To netip.AddrPort
	// Done has bit 1<<Impairment for all that was done to it.
	Done uint8
	// Delay in ns, by ImpairDelay, ImpairJitter and ImpairReorder together.
	Delay int64
	// By is by how many datagrams it was reordered, Bit which bit of the payload was
	// flipped: byte Bit/8, value 1<<(Bit%8); -1 is none.
	By, Bit int
	// Early says of a datagram that had a record before that it was sent before its
	// time; see Impaired.
	Early bool
}

// process is an Impair at work.
type process struct {
	Impair
	match *mcast.Matcher
	rng   *rand.Rand
	bad   bool // state of ImpairDropBurst
}

func (p *process) hit() bool { return p != nil && p.rng.Float64() < p.P }

// lost moves Gilbert's model on by one datagram.
func (p *process) lost() bool {
	if p == nil {
		return false
	}
	r := 1 / p.Mean
	if u := p.rng.Float64(); p.bad {
		p.bad = u >= r
	} else {
		p.bad = u < r*p.P/(1-p.P)
	}
	return p.bad
}

func (p *process) delay() int64 {
	switch {
	case p == nil:
		return 0
	case p.Kind == ImpairJitter:
		mean := float64(p.Delay)
		return int64(min(p.rng.ExpFloat64()*mean, jitterCut*mean))
	case p.Spread > 0:
		return int64(p.Delay-p.Spread) + p.rng.Int64N(2*int64(p.Spread)+1)
	}
	return int64(p.Delay)
}

// verdict is what is to be done to one datagram.
type verdict struct {
	done  uint8
	index uint64
	delay int64 // ns
	by    int
	bit   int
}

func (v *verdict) has(k Impairment) bool { return v.done&(1<<k) != 0 }

// stream is a source and a destination as recorded, and where that goes.
type stream struct{ src, dst, to netip.AddrPort }

// lane is what is known of a stream.
type lane struct {
	stream
	rules [impairments]*process
	order *order
}

// order keeps the datagrams of a stream in order, whatever their delays.
type order struct {
	last    int64   // latest due time of those that keep the order
	passed  uint64  // datagrams that were not held for reordering
	waiting []*held // for that number to grow, first in first out
}

// held is a datagram that leaves later. It owns its bytes.
type held struct {
	outgoing
	seq     uint64 // among equals of one due time
	until   uint64 // order.passed at which it leaves
	lane    *lane
	verdict verdict
}

// queue is a heap of what is held, the first due at its top.
type queue []*held

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	return a.entry.due < b.entry.due || a.entry.due == b.entry.due && a.seq < b.seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*held)) }
func (q *queue) Pop() any {
	n := len(*q) - 1
	h := (*q)[n]
	(*q)[n] = nil
	*q = (*q)[:n]
	return h
}

// impairer applies Options.Impair. It belongs to the feeder and reads no clock: the same
// seed, source and options give the same result.
//
// Due times change, so what is due later than others behind it is held, as a copy. All
// that comes is due at its schedule's time plus least or later, so what is held until
// then can leave.
type impairer struct {
	kinds [impairments][]*process
	least int64 // ns by which everything is delayed
	log   func(ImpairRecord)

	lanes  map[stream]*lane
	beyond order // of streams beyond maxLanes

	queue    queue
	waiting  int // held by orders
	bytes    int // of all that is held
	maxBytes int
	seq      uint64
	now      int64 // due time up to which all has left
	drained  bool  // the orders' waiting ones are in the queue
	buffers  buffers
	spare    []*held
	did      Impaired
}

// CheckImpair says what is wrong with the impairments of the options; New does too.
func CheckImpair(o Options) error {
	_, err := newImpairer(&o)
	return err
}

// newImpairer is nil where nothing is asked for.
func newImpairer(o *Options) (*impairer, error) {
	if len(o.Impair) == 0 {
		return nil, nil
	}
	m := &impairer{log: o.ImpairLog, lanes: make(map[stream]*lane), maxBytes: maxHeldBytes}
	var general [impairments]*process
	for i := range o.Impair {
		p := &process{Impair: o.Impair[i], rng: rand.New(rand.NewPCG(o.Seed, uint64(i)))}
		err := p.check()
		if err == nil {
			p.match, err = p.matcher()
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s %s: %w", p.Kind, p.Impair, err)
		case o.Max && p.Delay > 0:
			return nil, fmt.Errorf("%s %s: at full speed everything is due at once, so nothing can be delayed", p.Kind, p.Impair)
		case p.For != "":
			m.kinds[p.Kind] = append(m.kinds[p.Kind], p)
		case general[p.Kind] != nil:
			return nil, fmt.Errorf("%s %s and %s are both for everything; give one, or a pattern", p.Kind, general[p.Kind].Impair, p.Impair)
		default:
			general[p.Kind] = p
		}
	}
	for kind, p := range general {
		if p != nil {
			m.kinds[kind] = append(m.kinds[kind], p)
		}
	}
	if general[ImpairDelay] != nil {
		m.least = maxOffset
		for _, p := range m.kinds[ImpairDelay] {
			m.least = min(m.least, int64(p.Delay-p.Spread))
		}
	}
	return m, nil
}

// lane returns what is known of a stream; nil where nothing is done to it.
func (m *impairer) lane(src, dst, to netip.AddrPort) *lane {
	key := stream{src, dst, to}
	if l := m.lanes[key]; l != nil {
		return l
	}
	l := &lane{stream: key, order: &m.beyond}
	for kind, processes := range m.kinds {
		i := slices.IndexFunc(processes, func(p *process) bool { return p.match.Match(src, dst) })
		if i >= 0 {
			l.rules[kind] = processes[i]
		}
	}
	if len(m.lanes) < maxLanes {
		l.order = &order{}
		m.lanes[key] = l
	}
	return l
}

// judge decides about the datagram that comes next in a lane, and flips its bit where it
// is to be corrupted.
func (m *impairer) judge(l *lane, index uint64, time int64, payload []byte) verdict {
	v := verdict{index: index, bit: -1}
	drop, burst := l.rules[ImpairDrop].hit(), l.rules[ImpairDropBurst].lost()
	switch {
	case drop:
		v.done = 1 << ImpairDrop
	case burst:
		v.done = 1 << ImpairDropBurst
	default:
		if l.rules[ImpairDuplicate].hit() {
			v.done |= 1 << ImpairDuplicate
		}
		if p := l.rules[ImpairCorrupt]; p.hit() && len(payload) > 0 {
			v.done |= 1 << ImpairCorrupt
			v.bit = p.rng.IntN(len(payload) * 8)
			payload[v.bit/8] ^= 1 << (v.bit % 8)
		}
		for _, k := range [...]Impairment{ImpairDelay, ImpairJitter} {
			if ns := l.rules[k].delay(); ns > 0 {
				v.done |= 1 << k
				v.delay += ns
			}
		}
		if p := l.rules[ImpairReorder]; p.hit() {
			v.done |= 1 << ImpairReorder
			v.by = p.By
			if p.By == 0 {
				v.delay += int64(p.Delay)
			}
		}
	}
	for done := v.done; done != 0; done &= done - 1 {
		m.did.By[bits.TrailingZeros8(done)]++
	}
	if v.done != 0 && m.log != nil {
		m.log(l.record(&v, time))
	}
	return v
}

func (l *lane) record(v *verdict, time int64) ImpairRecord {
	return ImpairRecord{Index: v.index, Time: time, Src: l.src, Dst: l.dst, To: l.to, Done: v.done, Delay: v.delay, By: v.by, Bit: v.bit}
}

// pass puts what is due by now into the slot, and the datagram, which is due by the
// schedule at d.entry.due, into the slot or among those that are held. l is nil for what
// only keeps its place. The bytes of d belong to the slot.
func (m *impairer) pass(s *slot, l *lane, v verdict, d outgoing) {
	now := min(d.entry.due+m.least, maxOffset)
	m.now = now
	m.release(s, now)
	d.copies = 1
	switch {
	case l == nil:
		d.entry.due = now
		s.put(&d)
		return
	case v.has(ImpairDrop) || v.has(ImpairDropBurst):
		return
	case v.has(ImpairDuplicate):
		d.copies = 2
	}
	o := l.order
	d.entry.due = max(min(d.entry.due+v.delay, maxOffset), o.last)
	if v.by > 0 {
		if h := m.hold(s, l, &v, &d, now); h != nil {
			h.until = o.passed + uint64(v.by)
			o.waiting = append(o.waiting, h)
			m.waiting++
		}
		return
	}
	due := d.entry.due
	if !v.has(ImpairReorder) {
		o.last = due
	}
	if due <= now {
		s.put(&d)
	} else if h := m.hold(s, l, &v, &d, now); h != nil {
		heap.Push(&m.queue, h)
	}
	if !v.has(ImpairReorder) {
		o.passed++
		m.overtaken(s, o, due, now)
	}
}

// overtaken lets those leave, at due, that have been overtaken by as many as they should.
func (m *impairer) overtaken(s *slot, o *order, due, now int64) {
	n := 0
	for n < len(o.waiting) && o.waiting[n].until <= o.passed {
		h := o.waiting[n]
		n++
		h.entry.due = max(h.entry.due, due)
		h.seq = m.seq
		m.seq++
		heap.Push(&m.queue, h)
	}
	if n > 0 {
		m.waiting -= n
		o.waiting = slices.Delete(o.waiting, 0, n)
		m.release(s, now)
	}
}

// hold copies a datagram to leave later. Where it does not fit, those due first are sent
// now, and at last the datagram itself: then it returns nil.
func (m *impairer) hold(s *slot, l *lane, v *verdict, d *outgoing, now int64) *held {
	full := func() bool { return m.bytes+bufferSize(len(d.bytes)) > m.maxBytes || len(m.queue)+m.waiting >= maxHeld }
	for full() && len(m.queue) > 0 {
		m.leave(s, heap.Pop(&m.queue).(*held), now, true)
	}
	var h *held
	if n := len(m.spare); n > 0 {
		h, m.spare = m.spare[n-1], m.spare[:n-1]
	} else {
		h = new(held)
	}
	*h = held{outgoing: *d, seq: m.seq, lane: l, verdict: *v}
	if full() {
		m.early(h)
		d.entry.due = now
		s.put(d)
		return nil
	}
	m.seq++
	h.bytes = append(m.buffers.get(len(d.bytes)), d.bytes...)
	m.bytes += cap(h.bytes)
	return h
}

// release lets everything leave that is due by now.
func (m *impairer) release(s *slot, now int64) {
	for len(m.queue) > 0 && m.queue[0].entry.due <= now {
		h := heap.Pop(&m.queue).(*held)
		m.leave(s, h, h.entry.due, false)
	}
}

// leave puts what was held into the slot, with its bytes.
func (m *impairer) leave(s *slot, h *held, due int64, early bool) {
	if early {
		m.early(h)
	}
	h.entry.due = due
	m.bytes -= cap(h.bytes)
	s.held = append(s.held, h.bytes)
	s.put(&h.outgoing)
	m.spare = append(m.spare, h)
}

func (m *impairer) early(h *held) {
	m.did.Early++
	if m.log != nil {
		r := h.lane.record(&h.verdict, h.entry.time)
		r.Early = true
		m.log(r)
	}
}

// drain puts up to most of what is held into the slot, behind the end of the source;
// false where nothing is.
func (m *impairer) drain(s *slot, most int) bool {
	if !m.drained {
		m.drained = true
		for _, o := range m.orders() {
			for _, h := range o.waiting {
				h.entry.due = max(h.entry.due, o.last, m.now)
				heap.Push(&m.queue, h)
			}
			o.waiting = nil
		}
		m.waiting = 0
	}
	for range min(most, len(m.queue)) {
		h := heap.Pop(&m.queue).(*held)
		m.leave(s, h, h.entry.due, h.until > h.lane.order.passed)
	}
	return len(s.entries) > 0
}

// orders are those of all streams, in no order.
func (m *impairer) orders() []*order {
	all := []*order{&m.beyond}
	for _, l := range m.lanes {
		all = append(all, l.order)
	}
	return all
}

// restart forgets what is held, when due times begin anew.
func (m *impairer) restart() {
	for _, o := range m.orders() {
		for _, h := range o.waiting {
			m.buffers.put(h.bytes)
		}
		*o = order{}
	}
	for _, h := range m.queue {
		m.buffers.put(h.bytes)
	}
	m.queue, m.waiting, m.bytes, m.now, m.drained = nil, 0, 0, 0, false
}

// reclaim takes back the bytes that a slot held.
func (m *impairer) reclaim(s *slot) {
	for i, b := range s.held {
		m.buffers.put(b)
		s.held[i] = nil
	}
	s.held = s.held[:0]
}

// buffers keeps memory of datagrams for the next ones, by powers of two from 64 bytes on.
type buffers struct {
	free  [12][][]byte
	bytes int
}

// maxBuffers bounds what is kept, in bytes.
const maxBuffers = 16 << 20

func bufferClass(n int) int { return max(bits.Len(uint(max(n, 1)-1)), 6) - 6 }

func bufferSize(n int) int { return 64 << bufferClass(n) }

// get returns an empty slice with room for n bytes.
func (b *buffers) get(n int) []byte {
	c := bufferClass(n)
	if c >= len(b.free) {
		return make([]byte, 0, 64<<c)
	}
	free := b.free[c]
	if len(free) == 0 {
		return make([]byte, 0, 64<<c)
	}
	last := len(free) - 1
	p := free[last]
	free[last] = nil
	b.free[c] = free[:last]
	b.bytes -= cap(p)
	return p[:0]
}

// put takes back what get gave.
func (b *buffers) put(p []byte) {
	c := bufferClass(cap(p))
	if c >= len(b.free) || b.bytes+cap(p) > maxBuffers {
		return
	}
	b.free[c] = append(b.free[c], p)
	b.bytes += cap(p)
}
