package analysis

import (
	"encoding/binary"
	"io"
	"net/netip"
	"runtime"
	"testing"

	"castdeck/format"
)

// list is a BatchReader of datagrams, some to a batch.
type list struct {
	ds  []format.Datagram
	per int
	err error // returned once, before the rest
}

func (l *list) ReadBatch(b *format.Batch) error {
	b.Reset()
	if l.err != nil {
		err := l.err
		l.err = nil
		return err
	}
	if len(l.ds) == 0 {
		return io.EOF
	}
	n := min(max(l.per, 1), len(l.ds))
	b.Datagrams = append(b.Datagrams, l.ds[:n]...)
	l.ds = l.ds[n:]
	return nil
}

var (
	one = netip.MustParseAddrPort("239.1.1.1:5000")
	two = netip.MustParseAddrPort("239.1.1.2:5000")
)

// numbered makes n datagrams a microsecond apart with distinct payloads.
func numbered(dst netip.AddrPort, n int) []format.Datagram {
	var ds []format.Datagram
	for i := range n {
		p := binary.BigEndian.AppendUint64(nil, uint64(i))
		ds = append(ds, format.Datagram{
			Time: int64(i) * 1000, Src: netip.MustParseAddrPort("10.0.0.1:4000"), Dst: dst, Payload: p, Length: uint32(len(p)),
		})
	}
	return ds
}

func drop(ds []format.Datagram, at ...int) []format.Datagram {
	gone := map[int]bool{}
	for _, i := range at {
		gone[i] = true
	}
	var out []format.Datagram
	for i, d := range ds {
		if !gone[i] {
			out = append(out, d)
		}
	}
	return out
}

func TestCompare(t *testing.T) {
	a := numbered(one, 1000)
	swapped := append([]format.Datagram(nil), a...)
	swapped[10], swapped[11] = swapped[11], swapped[10]
	twice := append(append([]format.Datagram(nil), a...), a[5])
	changed := append([]format.Datagram(nil), a...)
	changed[7].Payload = []byte("somethin")
	longer := append([]format.Datagram(nil), a...)
	longer[7].Length++ // truncated: the same bytes of a longer datagram
	otherPort := append([]format.Datagram(nil), a...)
	for i := range otherPort {
		otherPort[i].Src = netip.MustParseAddrPort("10.0.0.1:4001")
	}
	same := make([]format.Datagram, 500)
	for i := range same {
		same[i] = a[0]
	}
	for _, tc := range []struct {
		why                           string
		a, b                          []format.Datagram
		matched, onlyA, onlyB, da, db uint64
		reordered                     uint64
		window                        int
	}{
		{why: "itself", a: a, b: a, matched: 1000},
		{why: "two streams, interleaved otherwise", a: append(numbered(one, 100), numbered(two, 100)...), b: append(numbered(two, 100), numbered(one, 100)...), matched: 200},
		{why: "nothing at all"},
		{why: "against an empty one", a: a, onlyA: 1000},
		{why: "lost in b", a: a, b: drop(a, 0, 500, 999), matched: 997, onlyA: 3},
		{why: "lost in a", a: drop(a, 1), b: a, matched: 999, onlyB: 1},
		{why: "a burst lost", a: a, b: drop(a, seq(100, 400)...), matched: 700, onlyA: 300},
		{why: "two change places", a: a, b: swapped, matched: 1000, reordered: 1},
		{why: "twice in b", a: a, b: twice, matched: 1000, db: 1},
		{why: "twice in a", a: twice, b: a, matched: 1000, da: 1},
		{why: "another payload", a: a, b: changed, matched: 999, onlyA: 1, onlyB: 1},
		{why: "another length", a: a, b: longer, matched: 999, onlyA: 1, onlyB: 1},
		{why: "another source port is another stream", a: a, b: otherPort, onlyA: 1000, onlyB: 1000},
		{why: "identical payloads", a: same, b: same, matched: 500},
		{why: "identical payloads, some lost", a: same, b: same[:400], matched: 400, onlyA: 100},
		{why: "identical payloads, some lost at first", a: same, b: same[100:], matched: 400, onlyA: 100},
	} {
		for _, per := range []int{1, 7, 5000} {
			r, err := Compare(&list{ds: tc.a, per: per}, &list{ds: tc.b, per: 11}, CompareOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c := r.Total
			got := [6]uint64{c.Matched, c.OnlyA, c.OnlyB, c.DuplicatesA, c.DuplicatesB, c.Reordered}
			if want := [6]uint64{tc.matched, tc.onlyA, tc.onlyB, tc.da, tc.db, tc.reordered}; got != want {
				t.Errorf("%s, %d a batch: matched, only a, only b, twice a, twice b, reordered: %v, want %v", tc.why, per, got, want)
			}
			if c.Equal() != (tc.onlyA+tc.onlyB+tc.da+tc.db+tc.reordered == 0) {
				t.Errorf("%s: Equal is %v", tc.why, c.Equal())
			}
		}
	}
}

func seq(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

func TestCompareTimesAndDestinations(t *testing.T) {
	a := numbered(one, 100)
	b := numbered(two, 100)
	for i := range b {
		b[i].Time += 1e12 // another day
	}
	b[50].Time += 400 // 400 ns late: two intervals are wrong by as much
	r, err := Compare(&list{ds: a, per: 10}, &list{ds: b, per: 10}, CompareOptions{
		Destination: func(d netip.AddrPort) netip.AddrPort { return two },
	})
	if err != nil || !r.Total.Equal() || len(r.Streams) != 1 || r.Streams[0].Destination != two {
		t.Fatalf("%+v, %v", r.Total, err)
	}
	h := r.Total.IntervalError
	if h.TotalCount() != 99 || h.Max() != 400 || h.ValueAtPercentile(97) != 0 {
		t.Errorf("interval errors: %d, max %d, p97 %d", h.TotalCount(), h.Max(), h.ValueAtPercentile(97))
	}
}

func TestCompareDamageAndOthers(t *testing.T) {
	a := append(numbered(one, 10), format.Datagram{Flags: format.FlagNotUDP, Frame: []byte("arp")})
	r, err := Compare(&list{ds: a, err: &format.CorruptError{Reason: "cut"}}, &list{ds: numbered(one, 10)}, CompareOptions{})
	if err != nil || r.Damage[0].DamagedPlaces != 1 || r.Damage[1].DamagedPlaces != 0 || r.NotCompared != 1 || r.Total.Matched != 10 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Compare(&list{ds: a, err: io.ErrUnexpectedEOF}, &list{}, CompareOptions{}); err != io.ErrUnexpectedEOF {
		t.Errorf("a failure to read is %v", err)
	}
}

func BenchmarkCompare(b *testing.B) {
	b.ReportAllocs()
	c := mustCompare(b, &endless{until: b.N, skip: 103, size: 200}, &endless{until: b.N, skip: 101, size: 200}, CompareOptions{}).Total
	if c.Matched == 0 && b.N > 1 {
		b.Fatal("nothing matched")
	}
	b.ReportMetric(float64(2*b.N)/b.Elapsed().Seconds()/1e6, "Mdatagrams/s")
}

// TestCompareManyStreams: streams of their own for each datagram cost little, and
// there is an end to it.
func TestCompareManyStreams(t *testing.T) {
	ds := numbered(one, maxStreams+1)
	for i := range ds {
		ds[i].Dst = netip.AddrPortFrom(one.Addr(), uint16(i))
		ds[i].Src = netip.AddrPortFrom(ds[i].Src.Addr(), uint16(i>>16))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := Compare(&list{ds: ds[:20_000], per: 512}, &list{ds: ds[:20_000], per: 512}, CompareOptions{})
	runtime.ReadMemStats(&after)
	if err != nil || r.Total.Matched != 20_000 || len(r.Streams) != 20_000 {
		t.Fatalf("%+v, %v", r.Total, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d bytes for 20,000 streams", used)
	}
	if _, err := Compare(&list{ds: ds, per: 4096}, &list{}, CompareOptions{}); err == nil {
		t.Error("no end to the number of streams")
	}
}
