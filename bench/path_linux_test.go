package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"castdeck/analysis"
	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
	"castdeck/recorder"
	"castdeck/replayer"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

var groups = []netip.AddrPort{
	netip.MustParseAddrPort("239.7.1.1:7000"), netip.MustParseAddrPort("239.7.1.2:7000"), netip.MustParseAddrPort("239.7.1.3:7001"),
}

// path runs a feed over a veth pair into a segment file and returns its name.
func path(tb testing.TB, o FeedOptions, pacing replayer.Pacing, c format.Compression, record recorder.Options) (string, PathResult) {
	tb.Helper()
	tx, rx := netnstest.Veth(tb)
	po := PathOptions{Send: replayer.Options{Interface: tx, Pacing: pacing}, Record: record}
	for _, g := range o.Groups {
		po.Groups = append(po.Groups, recorder.Subscription{Group: g, Interface: rx})
	}
	name := filepath.Join(tb.TempDir(), "path"+c.Extension())
	var w *segment.Writer
	res, err := Path(tb.Context(), NewFeed(o), po, func(i []format.Interface) (_ format.BatchWriter, err error) {
		w, err = segment.Create(name, segment.Options{Interfaces: i, Compression: c, Info: format.SegmentInfo{Made: true}})
		return w, err
	})
	if w != nil {
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return name, res
}

// TestPath: every datagram of a feed arrives in the file, in order of time over all
// groups, or is counted as lost.
func TestPath(t *testing.T) {
	netnstest.Require(t)
	for name, o := range map[string]recorder.Options{
		"defaults":                     {},
		"flushed at every opportunity": {FlushInterval: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) { testPath(t, o) })
	}
}

func testPath(t *testing.T, record recorder.Options) {
	o := FeedOptions{Groups: groups, Count: 30_000, Rate: 30_000, Burst: 16, MinSize: 32, MaxSize: 300, Seed: 3}
	name, res := path(t, o, replayer.Pacing{}, format.Zstd, record)
	if res.Sent.Datagrams != uint64(o.Count) {
		t.Fatalf("sent %s", res.Sent)
	}
	if got := res.Recorded.Datagrams + res.Recorded.Dropped.Kernel; got != uint64(o.Count) {
		t.Errorf("recorded %d, dropped %d, sent %d", res.Recorded.Datagrams, res.Recorded.Dropped.Kernel, o.Count)
	}
	r, err := segment.Open(name, segment.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, problems, err := r.Verify(); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	c, err := analysis.Compare(NewFeed(o), r, analysis.CompareOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Total.OnlyA != res.Recorded.Dropped.Kernel || c.Total.OnlyB+c.Total.DuplicatesA+c.Total.DuplicatesB+c.Total.Reordered != 0 {
		t.Errorf("compared: %+v", c.Total)
	}
	if r, err = segment.Open(name, segment.ReadOptions{}); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b format.Batch
	last := int64(0)
	for back := 0; ; {
		if err := r.ReadBatch(&b); err == io.EOF {
			// On a machine that is too busy for its soft interrupts the kernel may queue a
			// datagram long after it stamped it. Without ordering it is one in 40.
			if back > o.Count/1000 {
				t.Errorf("%d datagrams are earlier than the one before them", back)
			}
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for i := range b.Datagrams {
			if b.Datagrams[i].Time < last {
				back++
			}
			last = b.Datagrams[i].Time
		}
	}
}

func TestFeedRepeats(t *testing.T) {
	o := FeedOptions{Groups: groups, Count: 2000, Rate: 1000, Burst: 8, MinSize: 16, MaxSize: 64, Seed: 5}
	r, err := analysis.Compare(NewFeed(o), NewFeed(o), analysis.CompareOptions{})
	if err != nil || r.Total.Matched != 2000 || !r.Total.Equal() || r.Total.IntervalError.Max() != 0 {
		t.Errorf("the same options make another feed: %+v, %v", r.Total, err)
	}
	o.Seed++
	other, err := analysis.Compare(NewFeed(FeedOptions{Groups: groups, Count: 2000, Rate: 1000, Burst: 8, MinSize: 16, MaxSize: 64, Seed: 5}), NewFeed(o), analysis.CompareOptions{})
	if err != nil || other.Total.Matched == 2000 {
		t.Errorf("another seed makes the same feed, %v", err)
	}
}

// BenchmarkPath is the whole path in one process: feed, replay, veth pair, receive,
// encode, compress, file. ns/op is per datagram at full speed; cpu-ns/datagram is
// everything that this process used, lost% what the kernel dropped (on two
// processors the sender outruns the rest at times; the loss is counted).
func BenchmarkPath(b *testing.B) {
	netnstest.Require(b)
	for _, c := range []format.Compression{format.Zstd, format.None} {
		for _, size := range []int{64, 200, 1400} {
			b.Run(fmt.Sprintf("%s/%d", c, size), func(b *testing.B) {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				cpu := cpuTime()
				_, res := path(b, FeedOptions{Groups: groups[:1], Count: max(b.N, 1), MinSize: size}, replayer.Pacing{Max: true}, c, recorder.Options{})
				runtime.ReadMemStats(&after)
				n := float64(max(res.Sent.Datagrams, 1))
				b.ReportMetric(float64(cpuTime()-cpu)/n, "cpu-ns/datagram")
				b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/datagram")
				b.ReportMetric(100*float64(res.Recorded.Dropped.Kernel)/n, "lost%")
				b.SetBytes(int64(size))
				if res.Recorded.Datagrams+res.Recorded.Dropped.Kernel != res.Sent.Datagrams {
					b.Errorf("sent %d, recorded %d, dropped %d", res.Sent.Datagrams, res.Recorded.Datagrams, res.Recorded.Dropped.Kernel)
				}
			})
		}
	}
}

// cpuTime is what this process has used, in ns.
func cpuTime() int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return r.Utime.Nano() + r.Stime.Nano()
}

// collect gathers the times of what is written.
type collect struct{ times []int64 }

func (c *collect) WriteBatch(b *format.Batch) error {
	for i := range b.Datagrams {
		c.times = append(c.times, b.Datagrams[i].Time)
	}
	return nil
}

// TestBacklogInOrder: a recorder that finds many datagrams waiting on several
// sockets, because the machine was busy or the recording ends, writes them in order
// of time all the same.
func TestBacklogInOrder(t *testing.T) {
	netnstest.Require(t)
	tx, rx := netnstest.Veth(t)
	var subs []recorder.Subscription
	for _, g := range groups {
		subs = append(subs, recorder.Subscription{Group: g, Interface: rx})
	}
	for _, ended := range []bool{true, false} {
		rec, err := recorder.Listen(subs, recorder.Options{Count: 45_000})
		if err != nil {
			t.Fatal(err)
		}
		rep, err := replayer.New(replayer.Options{Interface: tx, Pacing: replayer.Pacing{Max: true}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rep.Run(t.Context(), NewFeed(FeedOptions{Groups: groups, Count: 45_000, MinSize: 32})); err != nil {
			t.Fatal(err)
		}
		rep.Close()
		if rec.Stats().BufferBytes < 32<<20 {
			t.Skip("the kernel grants too small a buffer for a backlog; as root it does")
		}
		ctx, stop := context.WithCancel(t.Context())
		if ended {
			stop()
		}
		var got collect
		if err := rec.Run(ctx, &got); err != nil {
			t.Fatal(err)
		}
		stop()
		rec.Close()
		back := 0
		for i := 1; i < len(got.times); i++ {
			if got.times[i] < got.times[i-1] {
				back++
			}
		}
		if len(got.times) != 45_000 || back > 0 {
			t.Errorf("ended %v: %d datagrams, %d earlier than the one before", ended, len(got.times), back)
		}
	}
}
