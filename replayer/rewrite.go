package replayer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"castdeck/format"
	"castdeck/internal/mcast"
)

// Rewrite changes fields of payloads, so that receivers take a recording for a live feed.
// It is a value; ParseRewrite makes it.
type Rewrite struct {
	// For is a pattern of recorded addresses, as mcast.NewMatcher reads it; "" is
	// everything. All that fit are applied, in their order.
	For   string
	rules []rewriteRule
}

// rewriteRule is one of a Rewrite's changes.
type rewriteRule struct {
	kind   rewriteKind
	offset int
	width  int // bytes, 1 to 8
	little bool
	step   uint64        // of a sequence number
	unit   time.Duration // of a time
	day    bool          // a time counts from midnight UTC, not from 1970
}

type rewriteKind uint8

const (
	rewriteSequence rewriteKind = iota
	rewriteTime
	rewriteRTP
	rewriteTS
	rewriteMold
)

var (
	rewriteNames = map[string]rewriteKind{"rtp": rewriteRTP, "mpegts": rewriteTS, "moldudp64": rewriteMold}
	rewriteUnits = map[string]time.Duration{"s": time.Second, "ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}
)

// maxRewriteOffset is that of the last byte of the longest payload.
const maxRewriteOffset = 65526

// ParseRewrite reads what is rewritten, several joined by commas, with the pattern of the
// groups before it, as in 239.1.1.1:5000=rtp, or for everything:
//
//	rtp           sequence number and timestamp go on over rounds; SSRC and all else are kept
//	mpegts        continuity counters go on over rounds, for each PID; packets of 188 or 204
//	              bytes, in RTP or not. Times (PCR, PTS, DTS) are kept
//	moldudp64     sequence number goes on over rounds, for each session
//	seq@OFFSET:WIDTH:be|le[:STEP]
//	              an integer of 1 to 8 bytes goes on over rounds; STEP (1) from one to the next
//	time@OFFSET:WIDTH:be|le:s|ms|us|ns[:unix|midnight]
//	              the moment at which the datagram is due by the wall clock, since 1970 or
//	              midnight UTC; at full speed that at which it leaves
//
// Going on means: the first of a round follows the last of the round before. That takes
// a source that is a Rounder.
func ParseRewrite(text string) (Rewrite, error) {
	w, err := parseRewrite(text)
	if err != nil {
		return Rewrite{}, fmt.Errorf("%q: %w", shorten(text), err)
	}
	return w, nil
}

func parseRewrite(text string) (w Rewrite, err error) {
	what := text
	if i := strings.LastIndexByte(text, '='); i >= 0 {
		if w.For, what = text[:i], text[i+1:]; w.For == "" {
			return w, errors.New("no pattern before the =; write it as 239.1.1.1:5000=rtp, or rtp alone for everything")
		}
		if _, err := mcast.NewMatcher(w.For); err != nil {
			return w, err
		}
	}
	for _, s := range strings.Split(what, ",") {
		r, err := parseRewriteRule(s)
		if err != nil {
			return w, err
		}
		w.rules = append(w.rules, r)
	}
	return w, nil
}

func parseRewriteRule(s string) (r rewriteRule, err error) {
	if kind, ok := rewriteNames[s]; ok {
		return rewriteRule{kind: kind}, nil
	}
	name, place, ok := strings.Cut(s, "@")
	if !ok || name != "seq" && name != "time" {
		return r, fmt.Errorf("%q is none of rtp, mpegts, moldudp64, seq@OFFSET:WIDTH:be|le[:STEP] and time@OFFSET:WIDTH:be|le:s|ms|us|ns[:unix|midnight]", shorten(s))
	}
	parts := strings.Split(place, ":")
	number := func(i, least, most int, what string) int {
		n, nerr := 0, error(nil)
		if i < len(parts) {
			n, nerr = strconv.Atoi(parts[i])
		}
		if err == nil && (i >= len(parts) || nerr != nil || n < least || n > most) {
			err = fmt.Errorf("%q: %s is a number from %d to %d", shorten(s), what, least, most)
		}
		return n
	}
	r.offset = number(0, 0, maxRewriteOffset, "the offset in the payload")
	r.width = number(1, 1, 8, "the width in bytes")
	if err != nil {
		return r, err
	}
	if len(parts) < 3 || parts[2] != "be" && parts[2] != "le" {
		return r, fmt.Errorf("%q: the byte order is be or le, such as %s", shorten(s), map[string]string{"seq": "seq@2:2:be", "time": "time@8:8:be:ns"}[name])
	}
	r.little = parts[2] == "le"
	rest := parts[3:]
	if name == "seq" {
		r.step = 1
		if len(rest) > 0 {
			r.step = uint64(number(3, 1, math.MaxInt32, "the step"))
		}
		if err == nil && len(rest) > 1 {
			err = fmt.Errorf("%q: there is too much behind the step", shorten(s))
		}
		return r, err
	}
	r.kind = rewriteTime
	if len(rest) > 0 {
		r.unit = rewriteUnits[rest[0]]
	}
	switch {
	case r.unit == 0:
		return r, fmt.Errorf("%q: the unit of a time is s, ms, us or ns, such as time@8:8:be:ns", shorten(s))
	case len(rest) > 2 || len(rest) == 2 && rest[1] != "unix" && rest[1] != "midnight":
		return r, fmt.Errorf("%q: a time counts from unix (1970) or midnight", shorten(s))
	}
	r.day = len(rest) == 2 && rest[1] == "midnight"
	return r, nil
}

// String is the Rewrite as ParseRewrite reads it.
func (w Rewrite) String() string {
	var names []string
	for i := range w.rules {
		names = append(names, w.rules[i].String())
	}
	s := strings.Join(names, ",")
	if w.For != "" {
		s = w.For + "=" + s
	}
	return s
}

func (r *rewriteRule) String() string {
	for name, kind := range rewriteNames {
		if kind == r.kind {
			return name
		}
	}
	order := "be"
	if r.little {
		order = "le"
	}
	if r.kind == rewriteSequence {
		s := fmt.Sprintf("seq@%d:%d:%s", r.offset, r.width, order)
		if r.step != 1 {
			s += ":" + strconv.FormatUint(r.step, 10)
		}
		return s
	}
	s := fmt.Sprintf("time@%d:%d:%s", r.offset, r.width, order)
	for name, unit := range rewriteUnits {
		if unit == r.unit {
			s += ":" + name
		}
	}
	if r.day {
		s += ":midnight"
	}
	return s
}

// Rounder is a source that yields something again and again: Round is the number of the
// round that the last batch is of. The goroutine that reads calls it.
type Rounder interface {
	Round() int
}

// Rewritten counts what Options.Rewrite did to the datagrams that were read.
type Rewritten struct {
	// Datagrams is how many were changed, or would have been but for an equal value.
	Datagrams uint64
	// LeftAlone counts fields that lie beyond their payload, payloads that are not of
	// the named form, and those of streams, SSRCs and sessions beyond the first 65,536 (of
	// MPEG-TS streams beyond the first 1,024).
	LeftAlone uint64
}

// rewriting applies Options.Rewrite. It belongs to the feeder.
type rewriting struct {
	rules []Rewrite
	match []*mcast.Matcher
	times bool // some rule writes times: slots carry stamps
	// lanes are those of streams with something to rewrite; nil for others.
	lanes map[stream]*rewriteLane
	// budget and tsBudget are how many states may still be made.
	budget, tsBudget int
	did              Rewritten
}

// rewriteLane is what is rewritten in a stream.
type rewriteLane struct {
	changes []change
	times   []rewriteRule
}

// change rewrites one payload in place. It reports false, and leaves the payload as it
// is, where it is not of the form that it knows.
type change interface {
	change(payload []byte, round int) bool
}

const (
	maxRewriteStates = 65536
	maxTSStreams     = 1024
)

// newRewriting is nil where nothing is asked for.
func newRewriting(o *Options) (*rewriting, error) {
	if len(o.Rewrite) == 0 {
		return nil, nil
	}
	w := &rewriting{rules: o.Rewrite, lanes: make(map[stream]*rewriteLane), budget: maxRewriteStates, tsBudget: maxTSStreams}
	for i := range o.Rewrite {
		var m *mcast.Matcher
		if f := o.Rewrite[i].For; f != "" {
			var err error
			if m, err = mcast.NewMatcher(f); err != nil {
				return nil, fmt.Errorf("rewriting: %w", err)
			}
		}
		w.match = append(w.match, m)
		for _, r := range o.Rewrite[i].rules {
			w.times = w.times || r.kind == rewriteTime
		}
	}
	return w, nil
}

// lane returns what is rewritten in a stream; nil where nothing is.
func (w *rewriting) lane(src, dst netip.AddrPort) *rewriteLane {
	key := stream{src: src, dst: dst}
	if l, ok := w.lanes[key]; ok {
		return l
	}
	var l *rewriteLane
	for i, m := range w.match {
		if !m.Match(src, dst) {
			continue
		}
		if l == nil {
			l = &rewriteLane{}
		}
		for _, r := range w.rules[i].rules {
			if r.kind == rewriteTime {
				l.times = append(l.times, r)
				continue
			}
			l.changes = append(l.changes, w.change(r))
		}
	}
	if len(w.lanes) < maxLanes {
		w.lanes[key] = l
	} else if l != nil {
		// Its state would be forgotten with the route.
		for i := range l.changes {
			l.changes[i] = nothing{}
		}
	}
	return l
}

func (w *rewriting) change(r rewriteRule) change {
	switch r.kind {
	case rewriteRTP:
		return &rtpChange{budget: &w.budget}
	case rewriteMold:
		return &moldChange{budget: &w.budget}
	case rewriteTS:
		if w.tsBudget == 0 {
			return nothing{}
		}
		w.tsBudget--
		return &tsChange{}
	}
	if w.budget == 0 {
		return nothing{}
	}
	w.budget--
	return &sequenceChange{rule: r}
}

// apply rewrites a payload, but for its times.
func (w *rewriting) apply(l *rewriteLane, payload []byte, round int) {
	done := false
	for _, c := range l.changes {
		if c.change(payload, round) {
			done = true
		} else {
			w.did.LeftAlone++
		}
	}
	for i := range l.times {
		if l.times[i].within(payload) {
			done = true
		} else {
			w.did.LeftAlone++
		}
	}
	if done {
		w.did.Datagrams++
	}
}

// nothing stands for a change that there is no memory for.
type nothing struct{}

func (nothing) change([]byte, int) bool { return false }

func (r *rewriteRule) within(payload []byte) bool { return r.offset+r.width <= len(payload) }

func (r *rewriteRule) get(payload []byte) (v uint64) {
	for i := range r.width {
		if at := r.offset + i; r.little {
			v |= uint64(payload[at]) << (8 * i)
		} else {
			v = v<<8 | uint64(payload[at])
		}
	}
	return v
}

func (r *rewriteRule) put(payload []byte, v uint64) {
	for i := range r.width {
		at := r.offset + i
		if !r.little {
			at = r.offset + r.width - 1 - i
		}
		payload[at] = byte(v >> (8 * i))
	}
}

// moment is the field's value for a moment in ns since the Unix epoch.
func (r *rewriteRule) moment(ns int64) uint64 {
	if r.day {
		const day = 24 * int64(time.Hour)
		if ns %= day; ns < 0 {
			ns += day
		}
	}
	return uint64(ns / int64(r.unit))
}

// stamp is what is written into a datagram when it leaves.
type stamp struct {
	times    []rewriteRule
	payload  []byte // of what is sent
	checksum []byte // of UDP, before the payload; nil where the kernel makes it
	bit      int    // of the payload that was flipped on purpose; -1 is none
}

// set writes a moment, ns since the Unix epoch. Twice gives the same as once.
func (t *stamp) set(ns int64) {
	for i := range t.times {
		r := &t.times[i]
		if !r.within(t.payload) {
			continue
		}
		// The payload begins at an even offset of what the checksum covers.
		words := t.payload[r.offset&^1 : min((r.offset+r.width+1)&^1, len(t.payload))]
		before := format.Sum(0, words)
		r.put(t.payload, r.moment(ns))
		if at := t.bit / 8; t.bit >= 0 && at >= r.offset && at < r.offset+r.width {
			t.payload[at] ^= 1 << (t.bit % 8)
		}
		if t.checksum != nil {
			t.mend(before, format.Sum(0, words))
		}
	}
}

// mend changes the checksum by what has changed under it (RFC 1624, eqn. 3).
func (t *stamp) mend(before, after uint64) {
	sum := binary.BigEndian.Uint16(t.checksum)
	if sum == 0 {
		return // none
	}
	if sum = ^format.Fold(uint64(^sum) + uint64(^format.Fold(before)) + after); sum == 0 {
		sum = 0xFFFF // 0 would say that there is none
	}
	binary.BigEndian.PutUint16(t.checksum, sum)
}

// continued moves a counter on by the length of a round for each round before.
//
// A round's values are followed beyond the width's wrap (RFC 3550, A.1). Its length
// goes from the lowest to behind the highest, so datagrams that were recorded out of
// order do no harm, and in rounds that are cut by a seek what is known from others
// holds.
type continued struct {
	started   bool
	round     int
	first, at int64 // the first round's first value; the latest
	low, high int64
	added     uint64
	increase  int64 // the last one
}

// next returns the value for v, one of width bits that is followed by v+step.
func (c *continued) next(v uint64, width uint, step int64, round int) uint64 {
	unused := 64 - width
	far := func(from int64) int64 { return int64((v-uint64(from))<<unused) >> unused }
	switch {
	case !c.started:
		c.started, c.round = true, round
		c.first, c.at = int64(v), int64(v)
		c.low, c.high = c.at, c.at
	case round != c.round:
		c.round = round
		c.added += uint64(c.high - c.low)
		c.at = c.first + far(c.first)
	default:
		d := far(c.at)
		if d > 0 {
			c.increase = d
		}
		c.at += d
	}
	if step < 0 {
		step = c.increase
	}
	c.low = min(c.low, c.at)
	c.high = max(c.high, c.at+step)
	return (v + c.added) << unused >> unused
}

// unknownStep is the step of a counter that says it by its values: the last increase.
const unknownStep = -1

// sequenceChange is seq@.
type sequenceChange struct {
	rule rewriteRule
	continued
}

func (c *sequenceChange) change(payload []byte, round int) bool {
	if !c.rule.within(payload) {
		return false
	}
	c.rule.put(payload, c.next(c.rule.get(payload), uint(8*c.rule.width), int64(c.rule.step), round))
	return true
}

// rtpChange continues RTP (RFC 3550):
//
//	0  1  version 2, padding, extension, count of CSRCs
//	1  1  marker, payload type
//	2  2  sequence number
//	4  4  timestamp
//	8  4  SSRC
type rtpChange struct {
	sources []rtpSource
	latest  int
	budget  *int
}

type rtpSource struct {
	ssrc           uint32
	sequence, time continued
}

const rtpHeader = 12

func (c *rtpChange) change(p []byte, round int) bool {
	if !isRTP(p) {
		return false
	}
	ssrc := binary.BigEndian.Uint32(p[8:])
	if c.latest >= len(c.sources) || c.sources[c.latest].ssrc != ssrc {
		if c.latest = find(&c.sources, c.budget, func(s *rtpSource) bool { return s.ssrc == ssrc }); c.latest < 0 {
			c.latest = 0
			return false
		}
		c.sources[c.latest].ssrc = ssrc
	}
	s := &c.sources[c.latest]
	binary.BigEndian.PutUint16(p[2:], uint16(s.sequence.next(uint64(binary.BigEndian.Uint16(p[2:])), 16, 1, round)))
	binary.BigEndian.PutUint32(p[4:], uint32(s.time.next(uint64(binary.BigEndian.Uint32(p[4:])), 32, unknownStep, round)))
	return true
}

// isRTP tells RTP from other payloads, and from RTCP by its types (RFC 5761, 4).
func isRTP(p []byte) bool {
	return len(p) >= rtpHeader && p[0]>>6 == 2 && (p[1] < 192 || p[1] > 223)
}

// perStream bounds the sources or sessions of one stream: they are looked through.
const perStream = 64

// find returns the place of the state that fits, or of a new one; -1 where there is
// no room for it.
func find[T any](states *[]T, budget *int, fits func(*T) bool) int {
	for i := range *states {
		if fits(&(*states)[i]) {
			return i
		}
	}
	if *budget == 0 || len(*states) == perStream {
		return -1
	}
	*budget--
	var zero T
	*states = append(*states, zero)
	return len(*states) - 1
}

// moldChange continues MoldUDP64 (Nasdaq, "MoldUDP64 Protocol Specification" 1.00):
//
//	 0  10  session
//	10   8  sequence number of the first message, or of the next where there is none
//	18   2  messages; 0 is a heartbeat, 65535 the end of the session
type moldChange struct {
	sessions []moldSession
	latest   int
	budget   *int
}

type moldSession struct {
	name [10]byte
	continued
}

const (
	moldHeader = 20
	moldEnd    = 0xFFFF
)

func (c *moldChange) change(p []byte, round int) bool {
	if len(p) < moldHeader {
		return false
	}
	name := [10]byte(p)
	if c.latest >= len(c.sessions) || c.sessions[c.latest].name != name {
		if c.latest = find(&c.sessions, c.budget, func(s *moldSession) bool { return s.name == name }); c.latest < 0 {
			c.latest = 0
			return false
		}
		c.sessions[c.latest].name = name
	}
	messages := binary.BigEndian.Uint16(p[18:])
	if messages == moldEnd {
		messages = 0
	}
	binary.BigEndian.PutUint64(p[10:], c.sessions[c.latest].next(binary.BigEndian.Uint64(p[10:]), 64, int64(messages), round))
	return true
}

// tsChange continues the continuity counters of MPEG transport streams (ISO/IEC
// 13818-1, 2.4.3):
//
//	0  1  0x47
//	1  2  3 flags, PID
//	3  1  2 bits scrambling, adaptation field, payload, 4 bits continuity counter
type tsChange struct {
	pids [8192]tsCounter
}

// tsCounter is a PID's: it counts packets with payload.
type tsCounter struct {
	seen        bool
	last, added uint8 // last as it was written
	round       uint8 // its low bits
}

const (
	tsSync  = 0x47
	tsNull  = 0x1FFF
	tsShort = 188
	tsLong  = 204 // with the Reed-Solomon code behind it
)

func (c *tsChange) change(p []byte, round int) bool {
	size := tsPackets(p)
	if size == 0 && isRTP(p) {
		n := rtpHeader + 4*int(p[0]&15)
		if p[0]&0x10 != 0 && len(p) >= n+4 {
			n += 4 + 4*int(binary.BigEndian.Uint16(p[n+2:]))
		}
		if n < len(p) {
			p = p[n:]
			size = tsPackets(p)
		}
	}
	if size == 0 {
		return false
	}
	for ; len(p) > 0; p = p[size:] {
		pid := binary.BigEndian.Uint16(p[1:]) & 0x1FFF
		if pid == tsNull {
			continue // its counter means nothing
		}
		s := &c.pids[pid]
		v := p[3] & 15
		if s.seen && s.round != uint8(round) {
			next := s.last
			if p[3]&0x10 != 0 {
				next++
			}
			s.added = next - v
		}
		s.seen, s.round = true, uint8(round)
		s.last = (v + s.added) & 15
		p[3] = p[3]&0xF0 | s.last
	}
	return true
}

// tsPackets is the size of the packets that p consists of; 0 where it is no transport
// stream.
func tsPackets(p []byte) int {
	for _, size := range [...]int{tsShort, tsLong} {
		if len(p) == 0 || len(p)%size != 0 {
			continue
		}
		fits := true
		for at := 0; at < len(p); at += size {
			fits = fits && p[at] == tsSync
		}
		if fits {
			return size
		}
	}
	return 0
}
