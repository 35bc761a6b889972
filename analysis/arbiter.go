package analysis

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/cespare/xxhash/v2"

	"castdeck/format"
)

// ArbiterOptions of a merge of redundant lines. The zero value joins streams of the
// same destination by their payloads.
type ArbiterOptions struct {
	// Destination, where not nil, says to which destination of the output a datagram
	// for dst in an input belongs.
	Destination func(input int, dst netip.AddrPort) netip.AddrPort
	// Sources of the output's destinations, of which the first stands for all others. A
	// destination without any keeps the source of each datagram.
	Sources map[netip.AddrPort][]netip.AddrPort
	// Numbers, where given, tell which datagrams are copies, also of the same line.
	// Datagrams without a number are told by their payload.
	Numbers Numbers
	// Window is how many datagrams, all streams together, wait for their copies: default
	// 130,000, at most 2^24. It bounds the memory, about 140 bytes each.
	Window int
	// Time is how much later than the first a copy may come, by the times of the inputs:
	// default 500 ms, that of ST 2022-7 class C three times.
	Time time.Duration
}

// MaxLines is how many lines a stream can have.
const MaxLines = 16

const (
	arbiterWindow = 130_000 // below 2^17, so that the ring stays at that
	arbiterWait   = 500 * time.Millisecond
)

// Line is what one input had of a stream, under one destination.
type Line struct {
	Input       int
	Destination netip.AddrPort
	// Datagrams that were read. First were so before those of any other line, the
	// copies came Behind the first one by so much, in ns; nil without a copy, and for lines past the first 256.
	// Duplicates are copies on the same line, told by their numbers.
	// Datagrams = First + copies + Duplicates.
	Datagrams, First, Duplicates uint64
	Behind                       *hdrhistogram.Histogram
	// Lost are datagrams that another line had and this one had not.
	Lost uint64
	// Changed are copies with the same number as the first one and other bytes.
	Changed uint64
}

// MergedStream is a stream of the output and what its lines had of it.
type MergedStream struct {
	Destination netip.AddrPort
	// Datagrams of the output.
	Datagrams uint64
	Lines     []Line // by input
}

// Arbiter reads redundant lines as one: of each datagram the copy that came first, in
// the order of time. It implements format.BatchReader and is not safe for concurrent
// use.
//
// A copy is a datagram of another line, of the same stream and with the same payload,
// within the window of time. A payload that comes again on the same line is another
// datagram; where that happens, copies are those that come as much later as the line
// does otherwise, to 10 ms. In doubt a datagram comes twice in the output, and none is
// left out.
type Arbiter struct {
	o       ArbiterOptions
	inputs  []*arbiterInput
	open    int // inputs that are not at their end
	table   format.InterfaceTable
	streams map[netip.AddrPort]*mergedStream
	list    []*mergedStream
	queue   queue // waiting[0] of the payloads; peer is the set of lines, othersRun the first, late the content's hash
	pay     payloads
	now     int64
	// histograms counts the lines that have one.
	histograms int
	notUDP     uint64
	forced     uint64
}

type arbiterInput struct {
	format.MergeSource
	ifaces *format.InterfaceMap
	batch  format.Batch
	next   int
	key    int64 // latest time up to and including the next datagram's
	done   bool
	damage format.DamageLog
	behind *hdrhistogram.Histogram
	lines  format.StreamTable[lineOf]
}

// lineOf is what becomes of the datagrams of one source in one input.
type lineOf struct {
	line *lineState
	src  netip.AddrPort // in the output
}

type mergedStream struct {
	id   uint32
	dst  netip.AddrPort
	ifc  uint16 // of its first datagram
	sent uint64
	line []*lineState
}

type lineState struct {
	Line
	stream *mergedStream
	number int
	skew   int64  // ns behind the stream's line 0
	known  bool   // skew is; that of line 0 is 0
	heard  uint64 // datagrams of the output
}

// MergeResult is what came of a merge.
type MergeResult struct {
	// Streams in the order in which they appeared.
	Streams []MergedStream
	// Datagrams of the output.
	Datagrams uint64
	// NotUDP counts packets that were left out.
	NotUDP uint64
	// Forced datagrams stopped waiting for copies before their time, because more than
	// Window waited: a copy that came later is in the output a second time.
	Forced uint64
	// Damage of each input, and the Line.Behind of all its lines together.
	Damage []*format.DamageLog
	Behind []*hdrhistogram.Histogram
}

// Result is what came of the merge, at the end. It shares memory with the arbiter.
func (a *Arbiter) Result() *MergeResult {
	r := &MergeResult{NotUDP: a.notUDP, Forced: a.forced}
	for _, s := range a.list {
		m := MergedStream{Destination: s.dst, Datagrams: s.sent}
		for _, l := range s.line {
			l.Lost = s.sent - l.heard
			m.Lines = append(m.Lines, l.Line)
		}
		slices.SortStableFunc(m.Lines, func(x, y Line) int { return cmp.Compare(x.Input, y.Input) })
		r.Datagrams += s.sent
		r.Streams = append(r.Streams, m)
	}
	for _, in := range a.inputs {
		r.Damage = append(r.Damage, &in.damage)
		r.Behind = append(r.Behind, in.behind)
	}
	return r
}

// NewArbiter makes an arbiter over inputs, each of which may hold several lines. It
// reads nothing yet. Of a MergeSource NotBefore has no meaning here.
func NewArbiter(o ArbiterOptions, inputs ...format.MergeSource) *Arbiter {
	if o.Window <= 0 {
		o.Window = arbiterWindow
	}
	o.Window = min(o.Window, maxWindow)
	if o.Time <= 0 {
		o.Time = arbiterWait
	}
	a := &Arbiter{
		o: o, streams: map[netip.AddrPort]*mergedStream{}, queue: newQueue(o.Window),
		pay: newPayloads(o.Window + rememberedPayloads), open: len(inputs), now: math.MinInt64,
	}
	for _, s := range inputs {
		in := &arbiterInput{MergeSource: s, ifaces: a.table.Source(s.Recording), key: math.MinInt64}
		_ = in.ifaces.Learn(s.Interfaces()) // a full table is an error of the batch that needs more
		a.inputs = append(a.inputs, in)
	}
	return a
}

// Interfaces of all inputs as far as they are known; see format.Merge.
func (a *Arbiter) Interfaces() []format.Interface { return a.table.Interfaces() }

// A batch of the output without memory of its own gets this much.
const (
	arbiterDatagrams = 1024
	arbiterBytes     = format.MaxPacketSize
)

// ReadBatch reads what comes next. Damage of an input is noted, see Damage, and reading
// goes on. In steady state it allocates nothing.
func (a *Arbiter) ReadBatch(b *format.Batch) error {
	b.Reset()
	if cap(b.Datagrams) == 0 {
		b.Datagrams = make([]format.Datagram, 0, arbiterDatagrams)
	}
	if cap(b.Buf) == 0 {
		b.Buf = make([]byte, 0, arbiterBytes)
	}
	for a.open > 0 {
		in := a.earliest()
		if in.next == len(in.batch.Datagrams) {
			if err := a.fill(in, b); err != nil {
				return err
			}
			continue
		}
		d := &in.batch.Datagrams[in.next]
		if need := len(d.Payload) + len(d.Frame); need > cap(b.Buf)-len(b.Buf) || len(b.Datagrams) == cap(b.Datagrams) {
			if len(b.Datagrams) > 0 {
				return nil
			}
			b.Buf = make([]byte, 0, need)
		}
		a.now = max(a.now, d.Time)
		if err := a.take(in, d, b); err != nil {
			return err
		}
		in.next++
		if in.next < len(in.batch.Datagrams) {
			in.key = max(in.key, in.batch.Datagrams[in.next].Time)
		}
	}
	if !b.Empty() {
		return nil
	}
	return io.EOF
}

// earliest is the input to read next: one whose next datagram is not known, or the one
// with the earliest. There is one.
func (a *Arbiter) earliest() (first *arbiterInput) {
	for _, in := range a.inputs {
		switch {
		case in.done:
		case in.next == len(in.batch.Datagrams):
			return in
		case first == nil || in.key < first.key:
			first = in
		}
	}
	return first
}

func (a *Arbiter) fill(in *arbiterInput, b *format.Batch) error {
	in.next = 0
	err := in.Reader.ReadBatch(&in.batch)
	if err == nil {
		in.damage.Saw(&in.batch)
		if err = in.ifaces.Learn(in.Interfaces()); err == nil {
			err = in.ifaces.Apply(&in.batch)
		}
	}
	switch {
	case err == nil:
		b.Events = append(b.Events, in.batch.Events...)
		if len(in.batch.Datagrams) > 0 {
			in.key = max(in.key, in.batch.Datagrams[0].Time)
		}
		return nil
	case errors.Is(err, io.EOF):
		in.done = true
		a.open--
		err = nil
	case format.Damaged(err):
		in.damage.Note(err)
		err = nil
	}
	in.batch.Reset()
	return err
}

// take decides on a datagram, for which b has room.
func (a *Arbiter) take(in *arbiterInput, d *format.Datagram, b *format.Batch) error {
	if d.Flags&format.FlagNotUDP != 0 {
		a.notUDP++
		return nil
	}
	of, err := a.line(in, d)
	if err != nil {
		return err
	}
	a.expire()
	l := of.line
	l.Datagrams++
	if !a.first(l, d) {
		return nil
	}
	s := l.stream
	s.sent++
	l.First++
	// What one line lost the other may have; what is missing is said by the report.
	d.Drops = 0
	if d.Dst != s.dst || d.Src != of.src {
		d.Src, d.Dst, d.Frame, d.FrameLength = of.src, s.dst, nil, 0 // writers make the headers
	}
	if d.Interface != s.ifc {
		if list := a.Interfaces(); list[d.Interface].LinkType != list[s.ifc].LinkType {
			d.Frame, d.FrameLength = nil, 0
		}
		d.Interface = s.ifc
	}
	b.Append(d)
	return nil
}

// expire lets datagrams go that no copy can come for.
func (a *Arbiter) expire() {
	q := &a.queue
	for q.len() > 0 {
		e := q.at(q.head)
		full := q.len() == a.o.Window
		if late := a.now - e.time; late >= 0 && late <= int64(a.o.Time) {
			if !full {
				return
			}
			a.forced++
		}
		w := &a.pay.list[e.payload].waiting[0]
		w.remove(q, q.head)
		q.head++
	}
}

// first says whether d is no copy of a datagram that came before.
func (a *Arbiter) first(l *lineState, d *format.Datagram) bool {
	q := &a.queue
	content := xxhash.Sum64(d.Payload) ^ uint64(d.Length)*golden
	number := a.o.Numbers.key(d.Payload)
	hash := content
	if number != 0 {
		hash = number
	}
	n := a.pay.find(hash ^ uint64(l.stream.id+1)*golden)
	p := &a.pay.list[n]
	bit := uint64(1) << l.number
	w := &p.waiting[0]
	for i, place := 0, w.first; i < scanLimit && place != 0; i++ {
		e := q.at(place)
		if number != 0 && e.peer&bit != 0 && a.within(d.Time-e.time) {
			l.Duplicates++
			return false
		}
		if e.peer&bit == 0 && a.isCopy(l, l.stream.line[e.othersRun], d.Time-e.time, p.matched > 1 && number == 0) {
			e.peer |= bit
			if number != 0 && uint64(e.late) != content {
				l.Changed++
			}
			l.heard++
			a.behind(l, min(max(d.Time-e.time, 0), hour))
			return false
		}
		place = e.following
	}
	if p.matched < math.MaxUint32 {
		p.matched++
	}
	place := q.push(entry{time: d.Time, late: int64(content), peer: bit, othersRun: uint32(l.number), payload: n})
	w.append(q, place)
	l.heard++
	return true
}

// isCopy says whether a datagram of l that came late ns behind one of the line o, with
// the same payload, is its copy.
func (a *Arbiter) isCopy(l, o *lineState, late int64, repeated bool) bool {
	if !a.within(late) {
		return false
	}
	if repeated && l.known && o.known {
		off := late - (l.skew - o.skew)
		return max(off, -off) <= repeatJitter
	}
	if !repeated {
		switch {
		case o.number == 0:
			l.skew, l.known = late, true
		case l.number == 0:
			o.skew, o.known = -late, true
		case o.known:
			l.skew, l.known = o.skew+late, true
		}
	}
	return true
}

// within says whether two times that are ns apart are near enough to be copies.
func (a *Arbiter) within(ns int64) bool { return ns <= int64(a.o.Time) && ns >= -int64(a.o.Time) }

// behind records, in ns, how much a copy of l came behind the first one. It is in the
// histograms' range.
func (a *Arbiter) behind(l *lineState, ns int64) {
	if l.Behind == nil && a.histograms < maxHistograms {
		a.histograms++
		l.Behind = hdrhistogram.New(1, hour, 2)
	}
	if l.Behind != nil {
		_ = l.Behind.RecordValue(ns)
	}
	in := a.inputs[l.Input]
	if in.behind == nil {
		in.behind = hdrhistogram.New(1, hour, 3)
	}
	_ = in.behind.RecordValue(ns)
}

// line finds the line of d or begins one.
func (a *Arbiter) line(in *arbiterInput, d *format.Datagram) (*lineOf, error) {
	e, fresh := in.lines.Find(d)
	if e == nil {
		return nil, errManyStreams
	}
	if !fresh {
		return &e.Value, nil
	}
	number := slices.Index(a.inputs, in)
	dst := d.Dst
	if a.o.Destination != nil {
		dst = a.o.Destination(number, dst)
	}
	s := a.streams[dst]
	if s == nil {
		if len(a.list) >= maxStreams {
			return nil, errManyStreams
		}
		s = &mergedStream{id: uint32(len(a.list)), dst: dst, ifc: d.Interface}
		a.streams[dst] = s
		a.list = append(a.list, s)
	}
	var l *lineState
	for _, have := range s.line {
		if have.Input == number && have.Destination == d.Dst {
			l = have
		}
	}
	if l == nil {
		if len(s.line) >= MaxLines {
			return nil, fmt.Errorf("%s has more than %d lines; merge fewer inputs", dst, MaxLines)
		}
		l = &lineState{Line: Line{Input: number, Destination: d.Dst}, stream: s, number: len(s.line), known: len(s.line) == 0}
		s.line = append(s.line, l)
	}
	src := d.Src
	if of := a.o.Sources[dst]; len(of) > 0 && !slices.Contains(of, src) {
		src = of[0]
	}
	e.Value = lineOf{l, src}
	return &e.Value, nil
}

var errManyStreams = fmt.Errorf("more than %d streams; merge a part of them", maxStreams)
