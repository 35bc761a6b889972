package analysis

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"castdeck/format"
)

// TestTimeline holds the cells of bursty traffic against slow ones, of all together and
// of the streams, and the seconds that are kept in full against the traffic itself.
func TestTimeline(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	var times []int64
	at := int64(1_700_000_000_000_000_000)
	for range 30_000 {
		switch rnd.IntN(200) {
		case 0:
			at += rnd.Int64N(3e9)
		case 1, 2, 3:
			at += rnd.Int64N(5e6)
		default:
			at += rnd.Int64N(20_000)
		}
		times = append(times, at)
	}
	size := func(i int) uint32 { return uint32(100 + i%7) }
	r := statsOf(t, StatsOptions{Timeline: true}, 2, times, size)
	line := r.Timeline
	cellOf := func(at int64) int { return int((at - line.Rate.Start) / line.Rate.Width) }
	want := make([]RateCell, len(line.Rate.Cells))
	for i, at := range times {
		c := &want[cellOf(at)]
		c.Datagrams++
		c.Bytes += uint64(size(i))
		if i > 0 {
			c.Pause = max(c.Pause, at-times[i-1])
		}
		for w, length := range Windows {
			var n uint32
			var bytes uint64
			for j := i; j >= 0 && at-times[j] < int64(length); j-- {
				n++
				bytes += uint64(size(j))
			}
			c.Peaks[w], c.PeakBytes[w] = max(c.Peaks[w], n), max(c.PeakBytes[w], bytes)
		}
	}
	if !slices.Equal(line.Rate.Cells, want) {
		t.Error("the cells are not those of the traffic")
	}
	if n := len(line.Rate.Cells); n > maxRateCells || n < maxRateCells/5-1 {
		t.Errorf("%d cells", n)
	}
	// The fullest millisecond of all is in a cell, and in a second that is kept.
	best := r.Total.Bursts[0]
	if !slices.ContainsFunc(line.Rate.Cells, func(c RateCell) bool { return uint64(c.Peaks[0]) == best.Datagrams }) {
		t.Error("the fullest millisecond is in no cell")
	}
	if !slices.ContainsFunc(line.Seconds, func(s Second) bool { return s.Bursts[0] == best }) {
		t.Error("the fullest millisecond is in no second")
	}
	if len(line.Seconds) != fineSeconds {
		t.Errorf("%d seconds", len(line.Seconds))
	}
	for i, s := range line.Seconds {
		if i > 0 && s.Start <= line.Seconds[i-1].Start {
			t.Error("seconds out of order")
		}
		var ms, bytes [1000]uint32
		for j, at := range times {
			if at >= s.Start && at < s.Start+1e9 {
				ms[(at-s.Start)/1e6]++
				bytes[(at-s.Start)/1e6] += size(j)
			}
		}
		if ms != s.Datagrams || bytes != s.Bytes {
			t.Errorf("second %d is not that of the traffic", s.Start)
		}
	}
	// No second that was left out had a fuller millisecond than one that was kept.
	least := slices.MinFunc(line.Seconds, func(a, b Second) int { return int(a.Bursts[0].Datagrams) - int(b.Bursts[0].Datagrams) })
	kept := map[int64]bool{}
	for _, s := range line.Seconds {
		kept[s.Start] = true
	}
	for i := range times {
		if kept[floor(times[i], 1e9)] {
			continue
		}
		n := uint64(0)
		for j := i; j >= 0 && times[i]-times[j] < 1e6; j-- {
			n++
		}
		if n > least.Bursts[0].Datagrams {
			t.Fatalf("a millisecond of %d was left out, one of %d kept", n, least.Bursts[0].Datagrams)
		}
	}
	for _, s := range r.Streams {
		sum, bytes := uint64(0), uint64(0)
		for _, c := range s.Rate.Cells {
			sum += c.Datagrams
			bytes += c.Bytes
		}
		if sum != s.Datagrams || bytes != s.Bytes || len(s.Rate.Cells) > maxStreamCells {
			t.Errorf("%v: %d datagrams, %d bytes in %d cells", s.StreamID, sum, bytes, len(s.Rate.Cells))
		}
	}
}

// TestTimelineLosses: losses stand at their time and interface; those of more interfaces
// than have a place are together.
func TestTimelineLosses(t *testing.T) {
	s := NewStats(StatsOptions{Timeline: true})
	b := &format.Batch{}
	for i := range 100 {
		b.Datagrams = append(b.Datagrams, format.Datagram{
			Time: int64(i) * 1e9, Interface: uint16(i), Drops: uint64(i), Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("239.1.1.1:1"),
		})
	}
	b.Stats = []format.InterfaceStats{{Time: 200e9, Interface: 1, Dropped: 7}}
	if err := s.Add(b); err != nil {
		t.Fatal(err)
	}
	r, err := s.Finish()
	if err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for _, l := range r.Timeline.Losses {
		n := LossCell(0)
		for _, c := range l.Lost.Cells {
			n += c
		}
		if uint64(n) != l.Total {
			t.Errorf("interface %d: %d in cells, %d in all", l.Interface, n, l.Total)
		}
		sum += l.Total
	}
	if one := r.Timeline.Losses[0]; one.Interface != 1 || one.Total != 8 {
		t.Errorf("%+v, want 8 of interface 1", one)
	}
	last := r.Timeline.Losses[len(r.Timeline.Losses)-1]
	if len(r.Timeline.Losses) != maxLossTables || last.Interface != -1 || sum != r.Dropped {
		t.Errorf("%d tables, the last of interface %d, %d of %d", len(r.Timeline.Losses), last.Interface, sum, r.Dropped)
	}
}

func BenchmarkStatsTimeline(b *testing.B) {
	s := NewStats(StatsOptions{Timeline: true})
	batch := format.NewBatch(1000, 0)
	for i := range 1000 {
		batch.Datagrams = append(batch.Datagrams, format.Datagram{
			Length: 100, Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(i % 32)}), 5000),
		})
	}
	at := int64(1_700_000_000_000_000_000)
	b.ReportAllocs()
	for b.Loop() {
		for i := range batch.Datagrams {
			at += 10_000
			batch.Datagrams[i].Time = at
		}
		if err := s.Add(batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/datagram")
}

// TestStatsStreams: of the streams past those that are told apart the datagrams are
// counted, in the totals and over time.
func TestStatsStreams(t *testing.T) {
	times := make([]int64, 100)
	for i := range times {
		times[i] = int64(i) * 1e6
	}
	r := statsOf(t, StatsOptions{Streams: 2, Timeline: true}, 5, times, func(int) uint32 { return 7 })
	over := uint64(0)
	for _, c := range r.Timeline.Rate.Cells {
		over += c.Datagrams
	}
	if len(r.Streams) != 2 || r.Others.Datagrams != 60 || r.Total.Datagrams != 100 || over != 100 {
		t.Errorf("%d streams, %d others, %d in all, %d over time", len(r.Streams), r.Others.Datagrams, r.Total.Datagrams, over)
	}
}
