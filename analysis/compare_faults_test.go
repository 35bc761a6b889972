package analysis

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"castdeck/format"
)

func mustCompare(t testing.TB, a, b format.BatchReader, o CompareOptions) *Result {
	t.Helper()
	r, err := Compare(a, b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append([]*Comparison{r.Total}, r.Streams...) {
		if c.Changed > min(c.OnlyA, c.OnlyB) || c.Reordered > c.Matched {
			t.Errorf("%v: %d changed, %d reordered of %+v", c.StreamKey, c.Changed, c.Reordered, c)
		}
	}
	return r
}

// faults are what a path did to a feed, with the numbers that a comparison must tell.
type faults struct {
	lost, duplicated, changed, reordered uint64
}

// TestCompareFaults: what a path did is told exactly, whatever the sizes of batches.
func TestCompareFaults(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		a := numbered(one, 3000)
		sent := append([]format.Datagram(nil), a...)
		b, f := damaged(rnd, sent, 1+rnd.IntN(200))
		for _, per := range []int{1, 13, 512} {
			r := mustCompare(t, &list{ds: a, per: per}, &list{ds: b, per: 1 + rnd.IntN(700)}, CompareOptions{})
			c := r.Total
			got := faults{c.OnlyA - c.Changed, c.DuplicatesB, c.Changed, c.Reordered}
			if got != f || c.OnlyB != c.Changed || c.DuplicatesA != 0 {
				t.Errorf("seed %d, %d a batch: %+v, want %+v (%+v)", seed, per, got, f, c)
			}
			if n := c.Latency.Count(); uint64(n) != c.Matched {
				t.Errorf("%d latencies of %d matched", n, c.Matched)
			}
		}
	}
}

// damaged sends ds over a made-up path: each datagram is at most one of lost,
// doubled, changed and late by some places, and those around it arrive.
func damaged(rnd *rand.Rand, ds []format.Datagram, permille int) (out []format.Datagram, f faults) {
	var late *format.Datagram
	due, quiet := 0, 0 // datagrams before quiet arrive unharmed
	for i, d := range ds {
		d.Time += 50_000
		if late != nil && i == due {
			late.Time = d.Time
			out, late, quiet = append(out, *late), nil, i+2
			f.reordered++
		}
		harm := i > 1 && i < len(ds)-50 && i >= quiet && late == nil && rnd.IntN(1000) < permille
		if !harm {
			out = append(out, d)
			continue
		}
		switch rnd.IntN(4) {
		case 0:
			f.lost++
			quiet = i + 2
		case 1:
			out = append(out, d, d)
			f.duplicated++
		case 2:
			d.Payload = append([]byte("changed"), d.Payload...)
			d.Length += 7
			out = append(out, d)
			f.changed++
			quiet = i + 2
		default:
			late, due = &d, i+2+rnd.IntN(20)
		}
	}
	return out, f
}

// heartbeats puts a payload that never changes behind every n-th datagram.
func heartbeats(ds []format.Datagram, n int) (out []format.Datagram) {
	for i, d := range ds {
		out = append(out, d)
		if i%n == 0 {
			d.Payload, d.Length = []byte("heartbeat"), 9
			d.Time++
			out = append(out, d)
		}
	}
	return out
}

func later(ds []format.Datagram, by int64) (out []format.Datagram) {
	for _, d := range ds {
		d.Time += by
		out = append(out, d)
	}
	return out
}

func spaced(n int, every int64) []format.Datagram {
	ds := numbered(one, n)
	for i := range ds {
		ds[i].Time = int64(i) * every
	}
	return ds
}

// TestCompareApart: the two sides need not begin or go on together.
func TestCompareApart(t *testing.T) {
	const day, ms = int64(24 * hour), int64(1_000_000)
	a := spaced(60_000, ms) // a minute
	beats := heartbeats(a, 100)
	fast := spaced(60_000, ms/1000)
	for i := range fast {
		fast[i].Time += day
	}
	double := spaced(60_000, ms/2)
	jump := later(a, 0)
	for i := 20_000; i < len(jump); i++ {
		jump[i].Time -= 2 * hour
	}
	hole := func(ds []format.Datagram, from, to int) []format.Datagram { return drop(ds, seq(from, to)...) }
	for _, tc := range []struct {
		why          string
		a, b         []format.Datagram
		onlyA, onlyB uint64
	}{
		{"a day later", a, later(a, day), 0, 0},
		{"a day earlier", later(a, day), a, 0, 0},
		{"b begins late", a, hole(a, 0, 50_000), 50_000, 0},
		{"a begins late", hole(a, 0, 50_000), a, 0, 50_000},
		{"a part, replayed the next day", a, later(hole(a, 0, 50_000), day), 50_000, 0},
		{"and the other way round", later(hole(a, 0, 50_000), day), a, 0, 50_000},
		{"b ends early", a, hole(a, 10_000, 60_000), 50_000, 0},
		{"half a minute missing", a, hole(a, 10_000, 40_000), 30_000, 0},
		{"half a minute missing in a", hole(a, 10_000, 40_000), later(a, day), 0, 30_000},
		{"at full speed", a, fast, 0, 0},
		{"at double speed, with a hole", a, hole(double, 10_000, 40_000), 30_000, 0},
		{"the clock of b is set back", a, jump, 0, 0},
		{"the clock of a is set back", jump, a, 0, 0},
		{"heartbeats", beats, later(beats, 30*ms), 0, 0},
		{"heartbeats and a hole", beats, hole(beats, 10_100, 40_400), 30_300, 0},
		{"nothing in common", a, numbered(two, 60_000), 60_000, 60_000},
		{"half of it lost, all along", a, func() (out []format.Datagram) {
			for i := range a {
				if i%2 == 0 {
					out = append(out, a[i])
				}
			}
			return out
		}(), 30_000, 0},
	} {
		for _, per := range []int{100, 512} {
			c := mustCompare(t, &list{ds: tc.a, per: per}, &list{ds: tc.b, per: 512}, CompareOptions{Window: 8192}).Total
			if got := [2]uint64{c.OnlyA, c.OnlyB}; got != [2]uint64{tc.onlyA, tc.onlyB} || c.Matched != uint64(len(tc.a))-tc.onlyA || c.Reordered > 0 {
				t.Errorf("%s, %d a batch: only in a and b %v, want [%d %d]; %d matched, %d reordered, %d and %d duplicates",
					tc.why, per, got, tc.onlyA, tc.onlyB, c.Matched, c.Reordered, c.DuplicatesA, c.DuplicatesB)
			}
		}
	}
}

// TestCompareHeartbeatLost: one lost heartbeat is one lost heartbeat: those behind it
// keep their partners.
func TestCompareHeartbeatLost(t *testing.T) {
	a := heartbeats(spaced(2000, 1_000_000), 10)
	b := later(drop(a, 1101), 20_000) // the 101st heartbeat
	c := mustCompare(t, &list{ds: a, per: 100}, &list{ds: b, per: 100}, CompareOptions{}).Total
	if c.OnlyA != 1 || c.OnlyB+c.DuplicatesA+c.DuplicatesB+c.Reordered != 0 || c.Latency.Max() != 20_000 {
		t.Errorf("%d only in a, %d only in b, %d and %d duplicates, %d reordered, latency up to %d ns",
			c.OnlyA, c.OnlyB, c.DuplicatesA, c.DuplicatesB, c.Reordered, c.Latency.Max())
	}
}

// TestCompareReorderedByRFC4737: one datagram that overtakes n makes n late ones, one
// that is overtaken by n is one; whichever side is read first.
func TestCompareReorderedByRFC4737(t *testing.T) {
	a := numbered(one, 100)
	first := append([]format.Datagram{a[50]}, drop(a, 50)...)
	last := append(drop(a, 50), a[50])
	for _, tc := range []struct {
		why  string
		b    []format.Datagram
		want uint64
	}{{"overtakes", first, 50}, {"is overtaken", last, 1}} {
		for _, per := range [][2]int{{1, 100}, {100, 1}, {7, 7}} {
			if c := mustCompare(t, &list{ds: a, per: per[0]}, &list{ds: tc.b, per: per[1]}, CompareOptions{}).Total; c.Reordered != tc.want || c.Matched != 100 {
				t.Errorf("one %s, batches of %v: %d reordered, want %d", tc.why, per, c.Reordered, tc.want)
			}
		}
	}
}

func TestCompareChanged(t *testing.T) {
	a := numbered(one, 100)
	change := func(at ...int) []format.Datagram {
		b := append([]format.Datagram(nil), a...)
		for _, i := range at {
			b[i].Payload = []byte{byte(i)}
		}
		return b
	}
	for _, tc := range []struct {
		why  string
		b    []format.Datagram
		want uint64
	}{
		{"one", change(50), 1},
		{"three in a row", change(50, 51, 52), 3},
		{"one of two, the other is lost", drop(change(50, 51), 51), 1},
		{"lost at one place, inserted at another", append(append(append([]format.Datagram(nil), drop(a, 20)[:60]...), change(70)[70]), a[61:]...), 0},
		{"the first: it has no neighbour before it", change(0), 0},
	} {
		if c := mustCompare(t, &list{ds: a, per: 9}, &list{ds: tc.b, per: 10}, CompareOptions{}).Total; c.Changed != tc.want {
			t.Errorf("%s: %d changed, want %d (%d only in a, %d only in b)", tc.why, c.Changed, tc.want, c.OnlyA, c.OnlyB)
		}
	}
}

// TestCompareChangedByNumber: with numbers a datagram that was changed is known wherever
// it stands, and one that was lost beside one that was added is none.
func TestCompareChangedByNumber(t *testing.T) {
	a := numbered(one, 2000)
	var b []format.Datagram
	for i, d := range a {
		switch {
		case i%100 == 7: // lost
			continue
		case i%100 == 50:
			d.Payload = append(append([]byte(nil), d.Payload...), 'x')
		}
		b = append(b, d)
	}
	b[0].Payload = append(append([]byte(nil), b[0].Payload...), 'x') // has no neighbour before it
	b[7].Payload = []byte("what stands where one was lost has another number")
	c := mustCompare(t, &list{ds: a, per: 30}, &list{ds: b, per: 7}, CompareOptions{
		Numbers: Numbers{Custom, Field{Width: 8, BigEndian: true, Step: 1}},
	}).Total
	if c.Changed != 21 || c.OnlyA-c.Changed != 21 || c.OnlyB-c.Changed != 1 {
		t.Errorf("%d changed of %d and %d", c.Changed, c.OnlyA, c.OnlyB)
	}
}

func TestCompareAnySource(t *testing.T) {
	a, b := numbered(one, 100), numbered(two, 100)
	for i := range b {
		b[i].Src = netip.MustParseAddrPort("10.0.0.2:4999")
	}
	r := mustCompare(t, &list{ds: a}, &list{ds: b}, CompareOptions{
		AnySource: true, Destination: func(netip.AddrPort) netip.AddrPort { return two },
	})
	s := r.Streams[0]
	if !r.Total.Equal() || len(r.Streams) != 1 || s.SourceA != a[0].Src || s.SourceB != b[0].Src || s.DestinationA != one || s.Destination != two {
		t.Errorf("%+v: %+v", r.Total, s)
	}
}

// TestCompareClock: offset and drift of another clock are found, in spite of jitter and
// of datagrams that are very late, and taken out.
func TestCompareClock(t *testing.T) {
	const offset, ppm = 86_400_000_000_000, 25
	rnd := rand.New(rand.NewPCG(3, 3))
	a := spaced(60_000, 1_000_000)
	var b []format.Datagram
	for _, d := range a {
		late := int64(20_000) + rnd.Int64N(30_000)
		if rnd.IntN(50) == 0 {
			late += rnd.Int64N(3_000_000)
		}
		d.Time += offset + d.Time*ppm/1_000_000 + late
		b = append(b, d)
	}
	read := func(o CompareOptions) *Result {
		return mustCompare(t, &list{ds: a, per: 512}, &list{ds: b, per: 512}, o)
	}
	plain := read(CompareOptions{})
	if got := plain.Total.Latency.Min(); got < offset+20_000 || got > offset+22_000 {
		t.Errorf("smallest difference %d", got)
	}
	for _, tc := range []struct {
		median       bool
		min, p50, p9 int64 // within 3 us of jitter
	}{{false, 0, 15_000, 30_000}, {true, -15_000, 0, 15_000}} {
		c, ok := plain.Clock(tc.median)
		if !ok || math.Abs(c.Drift*1e6-ppm) > 0.1 {
			t.Fatalf("median %v: drift %.3f ppm, want %d", tc.median, c.Drift*1e6, ppm)
		}
		l := read(CompareOptions{Clock: &c}).Total.Latency
		for q, want := range map[float64]int64{0: tc.min, 50: tc.p50, 95: tc.p9} {
			if got := l.Quantile(q); got < want-3000 || got > want+3000 {
				t.Errorf("median %v: p%g %d ns, want %d", tc.median, q, got, want)
			}
		}
	}
	if c, ok := mustCompare(t, &list{}, &list{}, CompareOptions{}).Clock(false); ok {
		t.Errorf("a clock without a match: %+v", c)
	}
	short := mustCompare(t, &list{ds: a[:100]}, &list{ds: b[:100]}, CompareOptions{})
	if c, ok := short.Clock(true); !ok || c.Drift != 0 {
		t.Errorf("a tenth of a second: %+v", c)
	}
}

func TestLatency(t *testing.T) {
	l := newLatency(1000, 3)
	if l.Min()+l.Max()+l.Quantile(50) != 0 {
		t.Error("a latency without values")
	}
	for v := int64(-500); v < 500; v++ {
		l.record(1000 + v)
	}
	l.record(math.MaxInt64)
	for _, tc := range []struct {
		q    float64
		want int64
	}{{0, 500}, {10, 600}, {50, 1000}, {75, 1250}, {99, 1490}, {100, 1000 + hour}} {
		if got := l.Quantile(tc.q); math.Abs(float64(got-tc.want)) > float64(tc.want)/500 {
			t.Errorf("p%g is %d, want %d", tc.q, got, tc.want)
		}
	}
	if l.Min() != 500 || l.Max() != math.MaxInt64 || l.Count() != 1001 {
		t.Errorf("min %d, max %d of %d", l.Min(), l.Max(), l.Count())
	}
}

// endless makes numbered datagrams without end to its memory: every skip-th one is
// missing, and watch is called for each batch.
type endless struct {
	n, until, skip int
	size           int
	watch          func()
}

func (e *endless) ReadBatch(b *format.Batch) error {
	const per = 512
	if e.watch != nil {
		e.watch()
	}
	b.Reset()
	if b.Buf == nil {
		*b = *format.NewBatch(per, per*e.size)
		b.Buf = b.Buf[:cap(b.Buf)]
		b.Datagrams = b.Datagrams[:0]
	}
	b.Buf = b.Buf[:cap(b.Buf)]
	for ; len(b.Datagrams) < per && e.n < e.until; e.n++ {
		if e.skip > 0 && e.n%e.skip == 0 {
			continue
		}
		at := len(b.Datagrams) * e.size
		p := b.Buf[at : at+e.size]
		binary.BigEndian.PutUint64(p, uint64(e.n))
		b.Datagrams = append(b.Datagrams, format.Datagram{Time: int64(e.n) * 1000, Src: source, Dst: one, Payload: p, Length: uint32(e.size)})
	}
	if len(b.Datagrams) == 0 {
		return io.EOF
	}
	return nil
}

var source = netip.MustParseAddrPort("10.0.0.1:4000")

// TestCompareMemory: 10 million datagrams (1 million with -short) on each side take as
// much as the window says, with loss all along.
func TestCompareMemory(t *testing.T) {
	n := 10_000_000
	if testing.Short() {
		n = 1_000_000
	}
	for _, tc := range []struct {
		why  string
		b    int
		skip int
	}{{"loss on both sides", n, 101}, {"nothing on the other side", 0, 0}} {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		before, peak, calls := m.HeapAlloc, uint64(0), 0
		watch := func() {
			if calls++; calls%1000 == 0 {
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
		c := mustCompare(t, &endless{until: n, skip: 103, size: 16, watch: watch}, &endless{until: tc.b, skip: tc.skip, size: 16}, CompareOptions{}).Total
		both := uint64(0) // in neither
		wantA, wantB := uint64(n-(n+102)/103), uint64(0)
		if tc.b > 0 {
			both = uint64((n + 103*101 - 1) / (103 * 101))
			wantA, wantB = uint64((n+100)/101)-both, uint64((n+102)/103)-both
		}
		if c.OnlyA != wantA || c.OnlyB != wantB || c.Reordered+c.DuplicatesA+c.DuplicatesB != 0 {
			t.Errorf("%s: %d and %d only, want %d and %d; %+v", tc.why, c.OnlyA, c.OnlyB, wantA, wantB, c)
		}
		const bound = 64 << 20
		if used := peak - min(before, peak); used > bound || calls < 1000 {
			t.Errorf("%s: %d MiB, want at most %d", tc.why, used>>20, bound>>20)
		} else {
			t.Logf("%s: %d datagrams in a, %d MiB", tc.why, n, used>>20)
		}
	}
}

// TestCompareAllocates nothing for a datagram once its tables have their size.
func TestCompareAllocates(t *testing.T) {
	measure := func(n int) uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		before := m.Mallocs
		mustCompare(t, &endless{until: n, skip: 103, size: 16}, &endless{until: n, skip: 101, size: 16}, CompareOptions{Window: 4096})
		runtime.ReadMemStats(&m)
		return m.Mallocs - before
	}
	short, long := measure(200_000), measure(600_000)
	if long > short+100 {
		t.Errorf("%d allocations for 200,000 datagrams, %d for 600,000", short, long)
	}
}

// FuzzCompare feeds any interleaving of few payloads at any times: no panic, and every
// datagram is counted once.
func FuzzCompare(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, uint8(0), int64(1000))
	f.Add([]byte("aAbBcC-aAbBcC-aabbccAABBCC"), uint8(3), int64(1))
	f.Add([]byte{0, 0, 0, 128, 128, 128, 64, 64, 192, 192, 255, 255}, uint8(40), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, ops []byte, window uint8, step int64) {
		var sides [2][]format.Datagram
		var at [2]int64
		for i, op := range ops {
			n := int(op >> 7)
			at[n] += step >> (op & 3)
			d := format.Datagram{Time: at[n], Src: source, Dst: one, Payload: []byte{op >> 1 & 0xF}, Length: 1}
			if op&0x20 != 0 {
				d.Payload, d.Length = append(d.Payload, byte(i>>1)), 2
			}
			if op&0x40 != 0 {
				d.Dst = two
			}
			sides[n] = append(sides[n], d)
		}
		r := mustCompare(t, &list{ds: sides[0], per: 1 + int(window>>5)}, &list{ds: sides[1], per: 3}, CompareOptions{
			Window: 1 + int(window), Time: 1000,
		})
		c := r.Total
		if a, b := c.Matched+c.OnlyA+c.DuplicatesA, c.Matched+c.OnlyB+c.DuplicatesB; a != uint64(len(sides[0])) || b != uint64(len(sides[1])) {
			t.Fatalf("%d and %d counted of %d and %d", a, b, len(sides[0]), len(sides[1]))
		}
		if c.Latency != nil && uint64(c.Latency.Count()) != c.Matched {
			t.Fatalf("%d latencies, %d matched", c.Latency.Count(), c.Matched)
		}
		_, _ = r.Clock(false)
		_, _ = r.Clock(true)
	})
}

// TestCompareHoldsNoMore than its window and what it remembers, of payloads that repeat.
func TestCompareHoldsNoMore(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	const window = 300
	c := newComparer(CompareOptions{Window: window, Time: time.Millisecond})
	c.payloads.most = 2*window + 1000
	d := format.Datagram{Src: source, Dst: one}
	for i := range 200_000 {
		n := rnd.IntN(2)
		c.add(n, c.stream(n, &d), rnd.Uint64()%5000*golden, 0, int64(i)*100)
	}
	if got := fmt.Sprint(len(c.payloads.list), cap(c.sides[0].ring), cap(c.sides[1].ring), len(c.payloads.slot)); got != "1600 512 512 4096" {
		t.Errorf("payloads, rings and table: %s", got)
	}
	for i, v := range c.payloads.slot {
		if p := uint32(v) - 1; v != 0 && c.payloads.find(c.payloads.list[p].hash) != p {
			t.Fatalf("slot %d is not found", i)
		}
	}
}
