package format

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// script is a source that plays what it was given: batches, and errors between them.
type script struct {
	steps  []any // []Datagram, []InterfaceStats or error
	ifaces []Interface
	// reveal is how many interfaces are known before the first batch; each batch
	// reveals one more.
	reveal int
	reads  int
	stay   error // what comes at the end instead of io.EOF
}

func (s *script) ReadBatch(b *Batch) error {
	b.Reset()
	s.reads++
	if len(s.steps) == 0 {
		if s.stay != nil {
			return s.stay
		}
		return io.EOF
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	s.reveal = min(s.reveal+1, len(s.ifaces))
	switch x := step.(type) {
	case []Datagram:
		b.Datagrams = append(b.Datagrams, x...)
	case []Event:
		b.Events = append(b.Events, x...)
	case []InterfaceStats:
		b.Stats = append(b.Stats, x...)
	case error:
		return x
	}
	return nil
}

func (s *script) source() MergeSource {
	return MergeSource{Reader: s, Interfaces: func() []Interface { return s.ifaces[:s.reveal] }}
}

// merged reads everything: copies of the datagrams, the statistics, and the damage
// with the number of datagrams before it.
func merged(t *testing.T, m *Merge) (ds []Datagram, stats []InterfaceStats, damage map[string]int) {
	t.Helper()
	damage = map[string]int{}
	var b Batch
	for {
		err := m.ReadBatch(&b)
		var c *CorruptError
		switch {
		case errors.Is(err, io.EOF):
			return ds, stats, damage
		case errors.As(err, &c):
			damage[c.Reason] = len(ds)
		case err != nil:
			t.Fatal(err)
		case b.Empty():
			t.Fatal("an empty batch")
		}
		for _, d := range b.Datagrams {
			d.Payload, d.Frame = bytes.Clone(d.Payload), bytes.Clone(d.Frame)
			ds = append(ds, d)
		}
		stats = append(stats, b.Stats...)
	}
}

// TestMergeEvents: every event comes once, with the interface that it has in the whole.
func TestMergeEvents(t *testing.T) {
	a := &script{ifaces: []Interface{{Name: "a"}}, reveal: 1, steps: []any{
		at(1, 5), []Event{{Time: 6, Interface: 0}}, at(7), []Event{{Time: 8, Interface: NoInterface}}}}
	b := &script{ifaces: []Interface{{Name: "b"}, {Name: "c"}}, reveal: 2, steps: []any{
		[]Event{{Time: 2, Interface: 1}}, at(3, 9)}}
	m := NewMerge(a.source(), b.source())
	got := map[int64]int32{}
	n := 0
	for batch := new(Batch); m.ReadBatch(batch) == nil; {
		for _, e := range batch.Events {
			got[e.Time] = e.Interface
			n++
		}
	}
	if want := map[int64]int32{6: 0, 8: NoInterface, 2: 2}; n != 3 || !maps.Equal(got, want) {
		t.Errorf("%d events, %v; want %v", n, got, want)
	}
	m = NewMerge((&script{ifaces: []Interface{{Name: "a"}}, reveal: 1, steps: []any{[]Event{{Interface: 1}}}}).source())
	if err := m.ReadBatch(new(Batch)); err == nil {
		t.Error("an event of an interface that nobody described is taken")
	}
}

// TestMergeOrder compares random sources with the definition: sorted by the running
// maximum of each source's times, then by source, then by place in the source.
func TestMergeOrder(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 9))
		type keyed struct {
			Datagram
			key      int64
			src, nth int
			came     Interface
		}
		var want []keyed
		var sources []MergeSource
		scripts := make([]*script, 1+r.IntN(9))
		var total uint64
		for i := range scripts {
			s := &script{}
			for k := range 1 + r.IntN(4) {
				s.ifaces = append(s.ifaces, Interface{Name: fmt.Sprintf("s%d-%d", i, k), LinkType: 1})
			}
			s.reveal = r.IntN(len(s.ifaces) + 1)
			now, nth := r.Int64N(1000)-100, 0
			first := int64(0)
			key := int64(-1 << 62)
			known := s.reveal
			for range r.IntN(8) {
				known = min(known+1, len(s.ifaces))
				if r.IntN(5) == 0 {
					total++
					s.steps = append(s.steps, []InterfaceStats{{Dropped: total, Interface: uint16(r.IntN(known))}})
					continue
				}
				var ds []Datagram
				for range 1 + r.IntN(20) {
					now += r.Int64N(40)
					at := now
					if r.IntN(10) == 0 {
						at -= r.Int64N(300) // earlier than the one before it
					}
					d := Datagram{Time: at, Interface: uint16(r.IntN(known))}
					payload := []byte(fmt.Sprintf("%d/%d", i, nth))
					switch r.IntN(3) {
					case 0:
						d.Frame = append([]byte("header"), payload...)
						d.Payload = d.Frame[6:]
					case 1:
						d.Frame = append(append([]byte("header"), payload...), "trailer"...)
						d.Payload = d.Frame[6 : 6+len(payload)]
					default:
						d.Payload = payload
					}
					if nth == 0 {
						first = at
					}
					key = max(key, at)
					ds = append(ds, d)
					want = append(want, keyed{Datagram: d, key: key, src: i, nth: nth, came: s.ifaces[d.Interface]})
					nth++
				}
				s.steps = append(s.steps, ds)
			}
			scripts[i] = s
			o := s.source()
			if r.IntN(2) == 0 {
				o.NotBefore = first
			}
			sources = append(sources, o)
		}
		slices.SortStableFunc(want, func(a, b keyed) int {
			return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.src, b.src), cmp.Compare(a.nth, b.nth))
		})
		m := NewMerge(sources...)
		got, stats, _ := merged(t, m)
		if len(got) != len(want) || len(stats) != int(total) {
			t.Fatalf("seed %d: %d datagrams and %d statistics of %d and %d", seed, len(got), len(stats), len(want), total)
		}
		for i := range got {
			g, w := &got[i], &want[i]
			if g.Time != w.Time || !bytes.Equal(g.Payload, w.Payload) || !bytes.Equal(g.Frame, w.Frame) {
				t.Fatalf("seed %d: datagram %d is %q of time %d, want %q of time %d", seed, i, g.Payload, g.Time, w.Payload, w.Time)
			}
			if have := m.Interfaces()[g.Interface]; have != w.came {
				t.Fatalf("seed %d: datagram %d came on %v, want %v", seed, i, have, w.came)
			}
		}
	}
}

func at(times ...int64) []Datagram {
	var ds []Datagram
	for _, t := range times {
		ds = append(ds, Datagram{Time: t, Payload: []byte{byte(t)}})
	}
	return ds
}

var oneInterface = []Interface{{Name: "eth0", LinkType: 1}}

func TestMergeDamage(t *testing.T) {
	a := &script{ifaces: oneInterface, steps: []any{at(1, 2, 3), error(&CorruptError{Reason: "a"}), at(8, 9)}}
	b := &script{ifaces: oneInterface, steps: []any{error(&CorruptError{Reason: "b"}), at(2, 4, 10), error(&CorruptError{Reason: "end"})}}
	ds, _, damage := merged(t, NewMerge(a.source(), b.source()))
	if len(ds) != 8 {
		t.Fatalf("%d datagrams, want 8", len(ds))
	}
	// Each error comes when everything for earlier times has.
	for reason, least := range map[string]int{"b": 0, "a": 3, "end": 8} {
		if n, ok := damage[reason]; !ok || n < least {
			t.Errorf("damage %q told: %v, behind %d datagrams, want at least %d", reason, ok, n, least)
		}
	}
}

func TestMergeFatalErrorStays(t *testing.T) {
	broken := errors.New("input/output error")
	a := &script{ifaces: oneInterface, steps: []any{at(1, 2)}, stay: broken}
	b := &script{ifaces: oneInterface, steps: []any{at(1, 5)}}
	m := NewMerge(a.source(), b.source())
	var batch Batch
	for range 20 {
		if err := m.ReadBatch(&batch); err != nil {
			if err != broken || m.ReadBatch(&batch) != broken || len(batch.Datagrams) > 0 {
				t.Fatalf("got %v, want %v again and again with an empty batch", err, broken)
			}
			return
		}
	}
	t.Fatal("the error never came")
}

// TestMergeReadsLate: a source whose start is known is not touched before its time.
func TestMergeReadsLate(t *testing.T) {
	a := &script{ifaces: oneInterface, steps: []any{at(1, 2), at(3, 4)}}
	b := &script{ifaces: oneInterface, steps: []any{at(4, 6)}}
	late := b.source()
	late.NotBefore = 4
	m := NewMerge(a.source(), late)
	var batch Batch
	if err := m.ReadBatch(&batch); err != nil || len(batch.Datagrams) != 2 || b.reads != 0 {
		t.Fatalf("first batch: %v, %d datagrams, the late source was read %d times", err, len(batch.Datagrams), b.reads)
	}
	if ds, _, _ := merged(t, m); len(ds) != 4 || b.reads == 0 {
		t.Fatalf("then %d datagrams, want 4", len(ds))
	}
}

// TestMergeOfLiar: a source that begins before it said loses nothing.
func TestMergeOfLiar(t *testing.T) {
	a := &script{ifaces: oneInterface, steps: []any{at(10, 20, 30)}}
	b := &script{ifaces: oneInterface, steps: []any{at(5, 6, 25)}}
	liar := b.source()
	liar.NotBefore = 20
	ds, _, _ := merged(t, NewMerge(a.source(), liar))
	var times []int64
	for _, d := range ds {
		times = append(times, d.Time)
	}
	if want := []int64{10, 20, 5, 6, 25, 30}; !slices.Equal(times, want) {
		t.Errorf("times %v, want %v", times, want)
	}
}

func TestMergeUnknownInterface(t *testing.T) {
	a := &script{ifaces: oneInterface, steps: []any{[]Datagram{{Time: 1, Interface: 1}}}}
	var b Batch
	if err := NewMerge(a.source()).ReadBatch(&b); err == nil || errors.Is(err, io.EOF) || len(b.Datagrams) > 0 {
		t.Errorf("a datagram of an interface that nobody described: %v", err)
	}
}

// TestInterfaceTable: the segments of one recording share their interfaces, twins of
// one description stay two, and nothing else is shared.
func TestInterfaceTable(t *testing.T) {
	eth := Interface{Name: "eth0", LinkType: 1}
	other := Interface{Name: "eth1", LinkType: 1}
	var table InterfaceTable
	learn := func(m *InterfaceMap, known ...Interface) []uint16 {
		if err := m.Learn(known); err != nil {
			t.Fatal(err)
		}
		var out []uint16
		for i := range known {
			at, ok := m.Index(uint16(i))
			if !ok {
				t.Fatalf("interface %d is not known", i)
			}
			out = append(out, at)
		}
		return out
	}
	rec := UUID{1}
	for _, c := range []struct {
		why   string
		rec   UUID
		known []Interface
		want  []uint16
	}{
		{"first segment, with twins", rec, []Interface{eth, eth}, []uint16{0, 1}},
		{"second segment, one more", rec, []Interface{eth, other, eth}, []uint16{0, 2, 1}},
		{"another recording", UUID{2}, []Interface{eth}, []uint16{3}},
		{"no recording", UUID{}, []Interface{eth}, []uint16{4}},
		{"no recording, again", UUID{}, []Interface{eth}, []uint16{5}},
	} {
		if got := learn(table.Source(c.rec), c.known...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.why, got, c.want)
		}
	}
	if n := len(table.Interfaces()); n != 6 {
		t.Errorf("%d interfaces in all, want 6", n)
	}
	m := table.Source(UUID{})
	if err := m.Learn(make([]Interface, MaxInterfaces)); err == nil {
		t.Errorf("more than %d interfaces went into one table", MaxInterfaces)
	}
}

// endless yields batches of n datagrams, step ns apart, for ever and without
// allocating.
type endless struct {
	n         int
	time, gap int64
	payload   []byte
}

func (e *endless) ReadBatch(b *Batch) error {
	b.Reset()
	if cap(b.Datagrams) < e.n {
		b.Datagrams = make([]Datagram, 0, e.n)
	}
	if cap(b.Buf) < len(e.payload) {
		b.Buf = make([]byte, 0, MaxPacketSize)
	}
	b.Buf = append(b.Buf, e.payload...)
	b.Datagrams = b.Datagrams[:e.n]
	for i := range b.Datagrams {
		b.Datagrams[i] = Datagram{Time: e.time, Length: uint32(len(b.Buf)), Payload: b.Buf}
		e.time += e.gap
	}
	return nil
}

func endlessMerge(n int) *Merge {
	var sources []MergeSource
	for i := range n {
		sources = append(sources, MergeSource{
			Reader:     &endless{n: 512, time: int64(i), gap: int64(n), payload: make([]byte, 200)},
			Interfaces: func() []Interface { return oneInterface },
		})
	}
	return NewMerge(sources...)
}

func TestMergeAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 2, 8} {
		m := endlessMerge(n)
		var b Batch
		read := func() {
			if err := m.ReadBatch(&b); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			read()
		}
		if a := testing.AllocsPerRun(200, read); a != 0 {
			t.Errorf("%d sources: %.1f allocations per batch", n, a)
		}
	}
}

// BenchmarkMerge merges datagrams of 200 bytes that alternate between the sources,
// the worst order there is.
func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{1, 2, 8} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			m := endlessMerge(n)
			var batch Batch
			b.ReportAllocs()
			b.SetBytes(200)
			for done := 0; done < b.N; done += len(batch.Datagrams) {
				if err := m.ReadBatch(&batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/datagram")
		})
	}
}

// TestMergeOffsets: a source's offset moves its times, not its order, and its input
// is in its datagrams.
func TestMergeOffsets(t *testing.T) {
	at := func(times ...int64) *Batch {
		b := &Batch{}
		for _, ns := range times {
			b.Datagrams = append(b.Datagrams, Datagram{Time: ns})
		}
		return b
	}
	source := func(offset int64, input uint16, notBefore int64, times ...int64) MergeSource {
		return MergeSource{
			Reader: &onceReader{b: at(times...)}, Interfaces: func() []Interface { return []Interface{{}} },
			NotBefore: notBefore, Offset: offset, Input: input,
		}
	}
	const most, least = math.MaxInt64, math.MinInt64
	m := NewMerge(source(0, 0, 0, 10, 20, 30), source(15, 1, 1, 1, 10, most), source(-5, 2, 20, 20, 40, least+2))
	type got struct {
		time  int64
		input uint16
	}
	var all []got
	var b Batch
	for m.ReadBatch(&b) == nil {
		for _, d := range b.Datagrams {
			all = append(all, got{d.Time, d.Input})
		}
	}
	want := []got{{10, 0}, {15, 2}, {16, 1}, {20, 0}, {25, 1}, {30, 0}, {35, 2}, {least, 2}, {most, 1}}
	if !slices.Equal(all, want) {
		t.Errorf("got %v, want %v", all, want)
	}
}

// onceReader yields one batch.
type onceReader struct{ b *Batch }

func (r *onceReader) ReadBatch(b *Batch) error {
	if r.b == nil {
		return io.EOF
	}
	*b, r.b = *r.b, nil
	return nil
}
