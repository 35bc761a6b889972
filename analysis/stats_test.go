package analysis

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"castdeck/format"
)

// statsOf measures datagrams at these times and of these sizes, of streams by turns.
func statsOf(t testing.TB, o StatsOptions, streams int, times []int64, size func(i int) uint32) *StatsResult {
	t.Helper()
	s := NewStats(o)
	b := format.NewBatch(1, 0)
	for i, at := range times {
		b.Datagrams = append(b.Datagrams[:0], format.Datagram{
			Time: at, Length: size(i), Src: netip.MustParseAddrPort("10.0.0.1:1"),
			Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, byte(i % streams >> 8), byte(i % streams)}), 5000),
		})
		if err := s.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fullest is the fullest window of a length, found slowly.
func fullest(times []int64, sizes []uint64, length int64) (b Burst) {
	for i := range times {
		var n, bytes uint64
		for j := i; j < len(times) && times[j]-times[i] < length; j++ {
			n++
			bytes += sizes[j]
		}
		if n > b.Datagrams {
			b.Datagrams, b.Start = n, times[i]
		}
		b.Bytes = max(b.Bytes, bytes)
	}
	return b
}

// TestBursts holds the windows and buckets against slow ones, over traffic with bursts,
// equal times and pauses.
func TestBursts(t *testing.T) {
	for seed := range uint64(5) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var times []int64
		var sizes []uint64
		at := int64(1_700_000_000_000_000_000)
		for range 4000 {
			switch rnd.IntN(20) {
			case 0:
				at += rnd.Int64N(300e6)
			case 1, 2, 3:
			default:
				at += rnd.Int64N(50_000)
			}
			times, sizes = append(times, at), append(sizes, rnd.Uint64N(1500))
		}
		r := statsOf(t, StatsOptions{}, 1, times, func(i int) uint32 { return uint32(sizes[i]) })
		for i, w := range Windows {
			want := fullest(times, sizes, int64(w))
			for _, got := range []Burst{r.Total.Bursts[i], r.Streams[0].Bursts[i]} {
				if got.Datagrams != want.Datagrams || got.Bytes != want.Bytes {
					t.Errorf("seed %d, %v: %+v, want %+v", seed, w, got, want)
				}
				if n := fullest(times[slices.Index(times, got.Start):], sizes, int64(w)); n.Datagrams < got.Datagrams {
					t.Errorf("seed %d, %v: from %d on there are %d", seed, w, got.Start, n.Datagrams)
				}
			}
		}
		for i, w := range Buckets {
			in := map[int64]uint64{}
			for _, at := range times {
				in[at/int64(w)]++
			}
			most := uint64(0)
			for _, n := range in {
				most = max(most, n)
			}
			if got := r.Total.Peaks[i]; got.Datagrams != most || got.Start%int64(w) != 0 || in[got.Start/int64(w)] != most {
				t.Errorf("seed %d, %v: %+v, want %d", seed, w, got, most)
			}
		}
		if r.Total.Approximate {
			t.Error("approximate")
		}
	}
}

// TestCrowdedWindow: more times than can be remembered make bursts too large rather than
// too small, and say so.
func TestCrowdedWindow(t *testing.T) {
	var w window
	var bursts [len(Windows)]Burst
	marks := 64
	times, sizes := make([]int64, 5000), make([]uint64, 5000)
	for i := range times {
		times[i], sizes[i] = int64(i)*7001, 100
		w.add(times[i], sizes[i], &marks, &bursts)
	}
	if !w.coarse || len(w.ring) > 64 || marks < 0 {
		t.Errorf("%d marks, %d left, coarse %v", len(w.ring), marks, w.coarse)
	}
	for i, span := range Windows {
		if want := fullest(times, sizes, int64(span)); bursts[i].Datagrams < want.Datagrams || bursts[i].Bytes != 100*bursts[i].Datagrams {
			t.Errorf("%v: %+v, want at least %+v", span, bursts[i], want)
		}
	}
}

func TestStats(t *testing.T) {
	times := []int64{100, 200, 150, 1_000_400, 2_000_000}
	sizes := []uint32{0, 1, 255, 256, 65_527}
	type row struct {
		stream string
		Bucket
	}
	var rows []row
	r := statsOf(t, StatsOptions{Bucket: time.Millisecond, Series: func(s *format.StreamID, b Bucket) error {
		name := ""
		if s != nil {
			name = s.Dst.String()
		}
		rows = append(rows, row{name, b})
		return nil
	}}, 2, times, func(i int) uint32 { return sizes[i] })
	a, b := "239.1.0.0:5000", "239.1.0.1:5000"
	if want := []row{
		{"", Bucket{0, 3, 256}}, {a, Bucket{0, 2, 255}}, {b, Bucket{0, 1, 1}},
		{"", Bucket{1e6, 1, 256}}, {b, Bucket{1e6, 1, 256}},
		{"", Bucket{2e6, 1, 65_527}}, {a, Bucket{2e6, 1, 65_527}},
	}; !slices.Equal(rows, want) {
		t.Errorf("got  %v\nwant %v", rows, want)
	}
	x := &r.Total
	if x.Datagrams != 5 || x.Bytes != 66_039 || x.First != 100 || x.Last != 2_000_000 || x.Least != 0 || x.Most != 65_527 || x.Backwards != 1 {
		t.Errorf("%+v", x)
	}
	if x.Sizes != [sizeClasses]uint64{0: 1, 1: 1, 8: 1, 9: 1, 16: 1} {
		t.Errorf("sizes %v", x.Sizes)
	}
	if n := x.Arrivals.TotalCount(); n != 4 || x.Shortest != 0 || x.Longest != 1_000_200 {
		t.Errorf("%d times between datagrams, %d to %d", n, x.Shortest, x.Longest)
	}
	if len(r.Streams) != 2 || r.Streams[0].Dst.String() != a || r.Streams[0].Datagrams != 3 || r.Streams[1].Arrivals.TotalCount() != 1 {
		t.Errorf("%+v", r.Streams)
	}
}

// TestStatsBounds: streams past the bound are together.
func TestStatsBounds(t *testing.T) {
	n := maxStatStreams + 100
	s := NewStats(StatsOptions{})
	b := format.NewBatch(1, 0)
	for i := range n {
		b.Datagrams = append(b.Datagrams[:0], format.Datagram{Time: int64(i), Length: 10, Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(i)), Dst: netip.MustParseAddrPort("239.1.1.1:1")})
		if err := s.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := s.Finish()
	if len(r.Streams) != maxStatStreams || r.Others.Datagrams != 100 || r.Others.Bytes != 1000 || r.Total.Datagrams != uint64(n) {
		t.Errorf("%d streams, others %+v, %d in all", len(r.Streams), r.Others, r.Total.Datagrams)
	}
}

func TestSeriesError(t *testing.T) {
	full := errors.New("full")
	s := NewStats(StatsOptions{Bucket: time.Millisecond, Series: func(*format.StreamID, Bucket) error { return full }})
	b := gapFeed(MDP3)
	b.Datagrams[10].Time = 1e9
	if err := s.Add(b); !errors.Is(err, full) {
		t.Errorf("%v, want %v", err, full)
	}
}

func FuzzStats(f *testing.F) {
	f.Add([]byte{1, 2, 3, 255, 0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := NewStats(StatsOptions{Bucket: time.Millisecond, Series: func(*format.StreamID, Bucket) error { return nil }})
		b := format.NewBatch(1, 0)
		for ; len(data) >= 9; data = data[9:] {
			b.Datagrams = append(b.Datagrams[:0], format.Datagram{Time: int64(le.Uint64(data)), Length: uint32(data[8]) << (data[8] & 7), Src: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(data[8]&3))})
			if err := s.Add(b); err != nil {
				t.Fatal(err)
			}
		}
		r, _ := s.Finish()
		var sum uint64
		for i := range r.Streams {
			sum += r.Streams[i].Datagrams
		}
		if sum != r.Total.Datagrams || r.Total.Datagrams > 0 && r.Total.Bursts[0].Datagrams == 0 {
			t.Errorf("%d of %d in streams, bursts %+v", sum, r.Total.Datagrams, r.Total.Bursts)
		}
	})
}

// statsFeed moves the batch on by a millisecond and measures it.
func statsFeed(t testing.TB, s *Stats, b *format.Batch) {
	for i := range b.Datagrams {
		b.Datagrams[i].Time += 512_000
	}
	if err := s.Add(b); err != nil {
		t.Fatal(err)
	}
}

func TestStatsAllocateNothing(t *testing.T) {
	b := gapFeed(MDP3)
	s := NewStats(StatsOptions{})
	for range 300 { // until the windows are full
		statsFeed(t, s, b)
	}
	if n := testing.AllocsPerRun(100, func() { statsFeed(t, s, b) }); n > 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

func BenchmarkStats(b *testing.B) {
	batch := gapFeed(MDP3)
	s := NewStats(StatsOptions{})
	b.ReportAllocs()
	for b.Loop() {
		statsFeed(b, s, batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/datagram")
}
