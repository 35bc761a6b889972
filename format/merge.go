package format

import (
	"errors"
	"io"
	"math"
)

// MergeSource is one source of a Merge.
type MergeSource struct {
	Reader BatchReader
	// Interfaces are those that Reader knows by now; the list may grow from batch to
	// batch.
	Interfaces func() []Interface
	// Recording that the source is a part of, zero for none; see
	// InterfaceTable.Source.
	Recording UUID
	// NotBefore is a time, ns since the Unix epoch, that none of the source's
	// datagrams precedes: until then the source is not read, so that a reader that
	// opens its file on the first ReadBatch holds nothing meanwhile. 0 is unknown: it
	// is read at once. Where it is wrong the early datagrams come late, and all come.
	NotBefore int64
	// Offset in ns is added to the times of the source's datagrams, statistics and events; NotBefore
	// is without it. Times stay at the ends of their range.
	Offset int64
	// Input is what its datagrams get as Datagram.Input.
	Input uint16
}

// Merge reads any number of sources as one, in the order of their times. It
// implements BatchReader and is not safe for concurrent use.
//
// Each source keeps its own order: a datagram that is earlier than the one before it
// in the same source comes directly behind that one, or behind datagrams of other
// sources of that same time. Of equal times the source named first comes first.
// Nothing is left out and nothing comes twice.
//
// Damage of a source (*CorruptError, ErrVersion) is an error between batches as
// everywhere, and reading goes on; what the others have for times before it has come
// by then. Any other error of a source is returned, and again by later calls for as
// long as the source returns it.
//
// Memory: one batch for each source that is being read. A source's whole batch is
// handed on without copying where no other source has anything for its time.
type Merge struct {
	table   InterfaceTable
	waiting []*mergeSource // a heap: the source with the next datagram first
}

type mergeSource struct {
	MergeSource
	ifaces *InterfaceMap
	order  int
	batch  Batch
	next   int // of batch.Datagrams
	// key is the time by which the source is sorted: the latest of its times up to
	// and including its next datagram's; before the first one, what is known of it.
	key int64
}

// A batch without memory of its own gets this much.
const (
	mergeDatagrams = 1024
	mergeBytes     = MaxPacketSize
)

// NewMerge merges the sources. It reads nothing yet.
func NewMerge(sources ...MergeSource) *Merge {
	m := &Merge{}
	for i, o := range sources {
		s := &mergeSource{MergeSource: o, ifaces: m.table.Source(o.Recording), order: i, key: o.NotBefore}
		if s.key == 0 {
			s.key = math.MinInt64
		} else {
			s.key = s.moved(s.key)
		}
		// What is known now stands in the table in the order of the sources. A table
		// that is full is an error of the batch that needs more.
		_ = s.ifaces.Learn(s.Interfaces())
		m.waiting = append(m.waiting, s)
	}
	for i := len(m.waiting)/2 - 1; i >= 0; i-- {
		m.sink(i)
	}
	return m
}

// Interfaces of all sources as far as they are known: Datagram.Interface of what
// ReadBatch returns is an index into it. The slice never changes; a later call may
// return a longer one.
func (m *Merge) Interfaces() []Interface { return m.table.Interfaces() }

// ReadBatch reads what comes next. The batch may come back with other memory than it
// was given: memory is exchanged with the sources. In steady state it allocates
// nothing.
func (m *Merge) ReadBatch(b *Batch) error {
	b.Reset()
	for len(m.waiting) > 0 {
		s := m.waiting[0]
		if s.next == len(s.batch.Datagrams) {
			if !b.Empty() {
				return nil // so that an error of the source falls between batches
			}
			if err := m.fill(s, b); err != nil {
				return err
			}
			continue
		}
		n, key := s.run(m.bound(s))
		if n == len(s.batch.Datagrams) && b.Empty() {
			*b, s.batch = s.batch, *b
			s.batch.Reset()
			s.next, s.key = 0, key
			return nil
		}
		full := !s.move(b, n)
		m.sink(0)
		if full {
			return nil
		}
	}
	if !b.Empty() {
		return nil
	}
	return io.EOF
}

// fill reads the next batch of the first source. Statistics and events that come alone go
// into b at once, which is empty.
func (m *Merge) fill(s *mergeSource, b *Batch) error {
	s.next = 0
	err := s.Reader.ReadBatch(&s.batch)
	if err == nil {
		s.mark()
		if err = s.ifaces.Learn(s.Interfaces()); err == nil {
			err = s.ifaces.Apply(&s.batch)
		}
	}
	if err != nil {
		s.batch.Reset()
		if !errors.Is(err, io.EOF) {
			return err
		}
		last := len(m.waiting) - 1
		m.waiting[0] = m.waiting[last]
		m.waiting = m.waiting[:last]
		s.batch = Batch{}
		m.sink(0)
		return nil
	}
	if len(s.batch.Datagrams) == 0 {
		b.Stats = append(b.Stats, s.batch.Stats...)
		b.Events = append(b.Events, s.batch.Events...)
		s.batch.Reset()
		return nil
	}
	s.key = max(s.key, s.batch.Datagrams[0].Time)
	m.sink(0)
	return nil
}

// mark gives the batch's datagrams their input, and the batch its times.
func (s *mergeSource) mark() {
	if s.Offset == 0 && s.Input == 0 {
		return
	}
	for i := range s.batch.Datagrams {
		d := &s.batch.Datagrams[i]
		d.Input, d.Time = s.Input, s.moved(d.Time)
	}
	for i := range s.batch.Stats {
		s.batch.Stats[i].Time = s.moved(s.batch.Stats[i].Time)
	}
	for i := range s.batch.Events {
		s.batch.Events[i].Time = s.moved(s.batch.Events[i].Time)
	}
}

// moved is a time of the source with its offset; it stays in the range.
func (s *mergeSource) moved(t int64) int64 {
	switch {
	case s.Offset > 0 && t > math.MaxInt64-s.Offset:
		return math.MaxInt64
	case s.Offset < 0 && t < math.MinInt64-s.Offset:
		return math.MinInt64
	}
	return t + s.Offset
}

// bound is the largest key up to which the first source goes before all others.
func (m *Merge) bound(s *mergeSource) int64 {
	if len(m.waiting) == 1 {
		return math.MaxInt64
	}
	o := m.waiting[1]
	if len(m.waiting) > 2 && m.waiting[2].before(o) {
		o = m.waiting[2]
	}
	if s.order < o.order {
		return o.key
	}
	return o.key - 1 // s is before o and later in order, so its key is smaller
}

// run counts the datagrams from next on whose keys are at most bound, and says the
// last of these keys.
func (s *mergeSource) run(bound int64) (n int, key int64) {
	key = s.key
	for i := s.next; i < len(s.batch.Datagrams); i++ {
		k := max(key, s.batch.Datagrams[i].Time)
		if k > bound {
			break
		}
		n, key = n+1, k
	}
	return n, key
}

// move copies n datagrams into b, and the statistics and events behind the last one of the
// source's batch. It reports false where b is full before.
func (s *mergeSource) move(b *Batch, n int) bool {
	if cap(b.Datagrams) == 0 {
		b.Datagrams = make([]Datagram, 0, mergeDatagrams)
	}
	if cap(b.Buf) == 0 {
		b.Buf = make([]byte, 0, mergeBytes)
	}
	whole := true
	for ; n > 0; n-- {
		d := &s.batch.Datagrams[s.next]
		if !b.appendShared(d) {
			if len(b.Datagrams) > 0 {
				whole = false
				break
			}
			b.Buf = make([]byte, 0, len(d.Payload)+len(d.Frame))
			b.appendShared(d)
		}
		s.key = max(s.key, d.Time)
		s.next++
	}
	if s.next < len(s.batch.Datagrams) {
		s.key = max(s.key, s.batch.Datagrams[s.next].Time)
		return whole
	}
	b.Stats = append(b.Stats, s.batch.Stats...)
	b.Events = append(b.Events, s.batch.Events...)
	return whole
}

// appendShared is Append, but a payload that points into the frame does so in the
// copy too instead of being copied a second time.
func (b *Batch) appendShared(d *Datagram) bool {
	at := offsetIn(d.Frame, d.Payload)
	if at < 0 {
		return b.Append(d)
	}
	n := len(b.Datagrams)
	if len(d.Frame) > cap(b.Buf)-len(b.Buf) || n == cap(b.Datagrams) {
		return false
	}
	b.Datagrams = b.Datagrams[:n+1]
	c := &b.Datagrams[n]
	*c = *d
	c.Frame = b.hold(d.Frame)
	c.Payload = c.Frame[at : at+len(d.Payload) : at+len(d.Payload)]
	return true
}

// offsetIn is where part stands in whole, -1 where that is not seen: slices tell
// their start only by their capacity or, as most payloads end with their frame, by
// their length.
func offsetIn(whole, part []byte) int {
	if len(part) == 0 || len(part) > len(whole) {
		return -1
	}
	for _, at := range [...]int{cap(whole) - cap(part), len(whole) - len(part)} {
		if at >= 0 && at+len(part) <= len(whole) && &whole[at] == &part[0] {
			return at
		}
	}
	return -1
}

func (s *mergeSource) before(o *mergeSource) bool {
	return s.key < o.key || s.key == o.key && s.order < o.order
}

// sink restores the heap after the source at i came to a later time.
func (m *Merge) sink(i int) {
	h := m.waiting
	for {
		first := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].before(h[first]) {
				first = c
			}
		}
		if first == i {
			return
		}
		h[i], h[first] = h[first], h[i]
		i = first
	}
}
