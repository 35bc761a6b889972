package analysis

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"castdeck/format"
)

// merged is everything that an arbiter yields.
func merged(t testing.TB, a *Arbiter) (out []format.Datagram) {
	t.Helper()
	b := format.NewBatch(100, 10_000)
	for {
		switch err := a.ReadBatch(b); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatal(err)
		}
		for _, d := range b.Datagrams {
			d.Payload = append([]byte(nil), d.Payload...)
			out = append(out, d)
		}
	}
}

var oneInterface = []format.Interface{{Name: "eth0", LinkType: format.LinkTypeEthernet}}

func lines(inputs ...[]format.Datagram) (sources []format.MergeSource) {
	for i, ds := range inputs {
		sources = append(sources, format.MergeSource{
			Reader: &list{ds: ds, per: 7 + 50*i}, Interfaces: func() []format.Interface { return oneInterface },
		})
	}
	return sources
}

func moved(ds []format.Datagram, dst netip.AddrPort, by int64) []format.Datagram {
	out := later(ds, by)
	for i := range out {
		out[i].Dst, out[i].Src = dst, netip.MustParseAddrPort("10.9.9.9:4999")
	}
	return out
}

// TestMergeLines: each datagram comes once, from whichever line had it first, and the
// report says what each line lost.
func TestMergeLines(t *testing.T) {
	a := numbered(one, 1000)
	b := moved(a, two, 300)
	three := moved(a, netip.MustParseAddrPort("239.1.1.3:5000"), 100)
	beats := heartbeats(spaced(1000, 1_000_000), 50)
	toOne := func(int, netip.AddrPort) netip.AddrPort { return one }
	for _, tc := range []struct {
		why    string
		inputs [][]format.Datagram
		want   int
		lost   []uint64
		first  []uint64
	}{
		{"two whole lines", [][]format.Datagram{a, b}, 1000, []uint64{0, 0}, []uint64{1000, 0}},
		{"each lost what the other has", [][]format.Datagram{drop(a, 0, 5, 500, 999), drop(b, 6, 7, 400)}, 1000, []uint64{4, 3}, []uint64{996, 4}},
		{"both lost one", [][]format.Datagram{drop(a, 5, 9), drop(b, 9, 20)}, 999, []uint64{1, 1}, []uint64{998, 1}},
		{"one is empty", [][]format.Datagram{a, nil}, 1000, []uint64{0}, []uint64{1000}},
		{"b is first, a began late", [][]format.Datagram{later(drop(a, seq(0, 100)...), 900), b}, 1000, []uint64{100, 0}, []uint64{0, 1000}},
		{"three lines", [][]format.Datagram{drop(a, seq(10, 20)...), drop(b, seq(10, 30)...), drop(three, seq(15, 25)...)}, 995,
			[]uint64{5, 15, 5}, []uint64{990, 0, 5}},
		{"heartbeats", [][]format.Datagram{drop(beats, 52, 700), moved(drop(beats, 0, 103, 1000), two, 40_000)}, len(beats), []uint64{2, 3}, []uint64{uint64(len(beats)) - 2, 2}},
		{"all in one input", [][]format.Datagram{interleave(drop(a, 3), drop(b, 4, 5))}, 1000, []uint64{1, 2}, []uint64{999, 1}},
	} {
		r := NewArbiter(ArbiterOptions{Destination: toOne, Sources: map[netip.AddrPort][]netip.AddrPort{one: {source}}}, lines(tc.inputs...)...)
		out := merged(t, r)
		res := r.Result()
		var lost, first []uint64
		for _, l := range res.Streams[0].Lines {
			lost, first = append(lost, l.Lost), append(first, l.First)
			copies := int64(0)
			if l.Behind != nil {
				copies = l.Behind.TotalCount()
			}
			if l.Datagrams != l.First+uint64(copies) || l.Datagrams+l.Lost != uint64(tc.want) {
				t.Errorf("%s: %+v does not add up to %d", tc.why, l, tc.want)
			}
		}
		if len(out) != tc.want || !slices.Equal(lost, tc.lost) || !slices.Equal(first, tc.first) || res.Datagrams != uint64(tc.want) {
			t.Errorf("%s: %d datagrams, lost %v, first %v; want %d, %v, %v", tc.why, len(out), lost, first, tc.want, tc.lost, tc.first)
		}
		if !slices.IsSortedFunc(out, func(x, y format.Datagram) int { return int(x.Time - y.Time) }) {
			t.Errorf("%s: not in the order of time", tc.why)
		}
		for _, d := range out {
			if d.Dst != one || d.Src != source {
				t.Fatalf("%s: from %s to %s", tc.why, d.Src, d.Dst)
			}
		}
	}
}

func interleave(a, b []format.Datagram) []format.Datagram {
	out := append(append([]format.Datagram(nil), a...), b...)
	slices.SortStableFunc(out, func(x, y format.Datagram) int { return int(x.Time - y.Time) })
	return out
}

// TestMergeLinesKeepsWhatIsAlone: streams of one line only, payloads that one line
// repeats, packets that are too late to be copies.
func TestMergeLinesKeepsWhatIsAlone(t *testing.T) {
	a := numbered(one, 10)
	alone := numbered(two, 5)
	twice := append(append([]format.Datagram(nil), a...), later(a[9:], 2000)...)
	notUDP := format.Datagram{Flags: format.FlagNotUDP, Frame: []byte("arp"), Time: 5}
	r := NewArbiter(ArbiterOptions{}, lines(append(twice, notUDP), append(moved(a, one, 500), alone...))...)
	if out := merged(t, r); len(out) != 16 {
		t.Errorf("%d datagrams, want 10, one twice, and 5", len(out))
	}
	if res := r.Result(); res.NotUDP != 1 || len(res.Streams) != 2 || len(res.Streams[1].Lines) != 1 {
		t.Errorf("%+v", res)
	}
	if n := r.Result().Behind[1].TotalCount(); n != 10 {
		t.Errorf("%d copies in the second input, want 10", n)
	}
	r = NewArbiter(ArbiterOptions{Time: time.Millisecond}, lines(a, later(a, 1_000_001))...)
	if out := merged(t, r); len(out) != 20 {
		t.Errorf("copies that are too late: %d datagrams, want 20", len(out))
	}
	r = NewArbiter(ArbiterOptions{Window: 4}, lines(a, later(a, 8000))...)
	if out := merged(t, r); len(out) != 20 || r.Result().Forced == 0 {
		t.Errorf("more wait than may: %d datagrams, %d forced", len(out), r.Result().Forced)
	}
}

// TestMergeLinesByNumber: with a number a copy may have other bytes, and come twice on
// the same line; numbers begin anew; what has none goes by its payload.
func TestMergeLinesByNumber(t *testing.T) {
	a := append(numbered(one, 100), later(numbered(one, 50), int64(time.Second))...)
	b := later(drop(a, 3, 40), 500)
	b[20].Payload = append(append([]byte(nil), b[20].Payload...), 'x')
	twice := append(append(append([]format.Datagram(nil), a[:30]...), a[10]), a[30:]...)
	short := format.Datagram{Time: 2e9, Src: source, Dst: one, Payload: []byte("hb"), Length: 2}
	r := NewArbiter(ArbiterOptions{Numbers: Numbers{Custom, Field{Width: 8, BigEndian: true, Step: 1}}}, lines(append(twice, short), append(b, short))...)
	out := merged(t, r)
	l := r.Result().Streams[0].Lines
	if len(out) != 151 || l[0].Duplicates != 1 || l[1].Changed != 1 || l[1].Lost != 2 || l[0].Lost != 0 || l[0].Datagrams != 152 {
		t.Errorf("%d datagrams, want 151; %+v", len(out), l)
	}
}

func TestMergeLinesErrors(t *testing.T) {
	a := numbered(one, 10)
	in := lines(a, a)
	in[1].Reader = &list{ds: a, err: &format.CorruptError{Reason: "cut"}}
	r := NewArbiter(ArbiterOptions{}, in...)
	if out := merged(t, r); len(out) != 10 || r.Result().Damage[0].DamagedPlaces != 0 || r.Result().Damage[1].DamagedPlaces != 1 {
		t.Errorf("%d datagrams, %+v", len(out), r.Result())
	}
	in = lines(a, a)
	in[0].Reader = &list{ds: a, err: io.ErrUnexpectedEOF}
	if err := NewArbiter(ArbiterOptions{}, in...).ReadBatch(new(format.Batch)); err != io.ErrUnexpectedEOF {
		t.Errorf("a failure to read is %v", err)
	}
	var many [][]format.Datagram
	for range MaxLines + 1 {
		many = append(many, a)
	}
	if err := NewArbiter(ArbiterOptions{}, lines(many...)...).ReadBatch(new(format.Batch)); err == nil {
		t.Error("no end to the number of lines")
	}
}

func TestFindLines(t *testing.T) {
	a := numbered(one, 100)
	other := numbered(netip.MustParseAddrPort("239.5.5.5:1"), 50)
	for i := range other {
		other[i].Payload = binary.BigEndian.AppendUint64(nil, 1<<40+uint64(i))
	}
	three := netip.MustParseAddrPort("239.1.1.3:5000")
	for _, tc := range []struct {
		why    string
		inputs [][]format.Datagram
		want   []Pairing
	}{
		{"two lines", [][]format.Datagram{a, moved(drop(a, 3, 4), two, 5)}, []Pairing{{1, two, one, 98}}},
		{"three", [][]format.Datagram{a, moved(a, two, 5), moved(a, three, 6)}, []Pairing{{1, two, one, 100}, {2, three, one, 100}}},
		{"in one input", [][]format.Datagram{interleave(a, moved(a, two, 5))}, []Pairing{{0, two, one, 100}}},
		{"the same destination is no pairing", [][]format.Datagram{a, later(a, 5)}, nil},
		{"another feed", [][]format.Datagram{a, other}, nil},
		{"less than half", [][]format.Datagram{a, moved(append(drop(a, seq(40, 100)...), moved(other, two, 0)...), two, 5)}, nil},
		{"too few", [][]format.Datagram{a[:3], moved(a[:3], two, 5)}, nil},
	} {
		var readers []format.BatchReader
		for _, s := range lines(tc.inputs...) {
			readers = append(readers, s.Reader)
		}
		pairs, sources, err := FindLines(readers...)
		if err != nil || !slices.Equal(pairs, tc.want) || !slices.Equal(sources[one], []netip.AddrPort{source}) {
			t.Errorf("%s: %v, want %v; sources %v, %v", tc.why, pairs, tc.want, slices.Collect(maps.Keys(sources)), err)
		}
	}
}

// FuzzMergeLines feeds any interleaving: no panic, no more than there is, nothing that
// a line had alone is missing, every line adds up.
func FuzzMergeLines(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0x41, 0x42, 0x43, 0x81, 0x82, 0x83}, uint8(8), int64(100))
	f.Add([]byte("abcabcABCABC-.-."), uint8(0), int64(-5))
	f.Fuzz(func(t *testing.T, ops []byte, window uint8, step int64) {
		var in [3][]format.Datagram
		var at [3]int64
		most := map[string]int{} // of a payload on any one line
		for i, op := range ops {
			n := int(op>>6) % 3
			at[n] += step >> (op & 7)
			p := []byte{op >> 2 & 7, byte(i) & (op << 7)}
			in[n] = append(in[n], format.Datagram{Time: at[n], Src: source, Dst: one, Payload: p, Length: 2})
		}
		for _, ds := range in {
			c := map[string]int{}
			for _, d := range ds {
				c[string(d.Payload)]++
				most[string(d.Payload)] = max(most[string(d.Payload)], c[string(d.Payload)])
			}
		}
		a := NewArbiter(ArbiterOptions{Window: 1 + int(window), Time: 1000}, lines(in[:]...)...)
		out := map[string]int{}
		total := 0
		for _, d := range merged(t, a) {
			out[string(d.Payload)]++
			total++
		}
		for p, n := range most {
			if out[p] < n {
				t.Fatalf("%x comes %d times, a line had it %d times", p, out[p], n)
			}
		}
		for _, s := range a.Result().Streams {
			for _, l := range s.Lines {
				if l.Datagrams+l.Lost != uint64(total) || l.Datagrams != uint64(len(in[l.Input])) {
					t.Fatalf("%+v of %d", l, total)
				}
			}
		}
	})
}

// TestMergeLinesMemory: bounded, and nothing is allocated for a datagram.
func TestMergeLinesMemory(t *testing.T) {
	measure := func(n int) (mallocs, heap uint64) {
		in := lines(nil, nil)
		in[0].Reader = &endless{until: n, skip: 103, size: 16}
		in[1].Reader = &endless{until: n, skip: 101, size: 16}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		mallocs, heap = m.Mallocs, m.HeapAlloc
		a := NewArbiter(ArbiterOptions{Time: 20 * time.Millisecond}, in...)
		got, b := 0, new(format.Batch)
		for a.ReadBatch(b) == nil {
			got += len(b.Datagrams)
		}
		if both := (n + 103*101 - 1) / (103 * 101); got != n-both {
			t.Errorf("%d datagrams of %d, both lost %d", got, n, both)
		}
		runtime.ReadMemStats(&m)
		return m.Mallocs - mallocs, m.HeapAlloc - min(m.HeapAlloc, heap)
	}
	short, _ := measure(300_000)
	long, heap := measure(1_000_000)
	if long > short+100 || heap > 32<<20 {
		t.Errorf("%d allocations for 300,000 datagrams, %d for a million; %d MiB", short, long, heap>>20)
	}
}

func BenchmarkMergeLines(b *testing.B) {
	b.ReportAllocs()
	in := lines(nil, nil)
	in[0].Reader = &endless{until: b.N, skip: 103, size: 200}
	in[1].Reader = &endless{until: b.N, skip: 101, size: 200}
	a := NewArbiter(ArbiterOptions{}, in...)
	var out format.Batch
	for a.ReadBatch(&out) == nil {
	}
	b.ReportMetric(float64(2*b.N)/b.Elapsed().Seconds()/1e6, "Mdatagrams/s")
}
