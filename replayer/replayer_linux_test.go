package replayer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/internal/netnstest"

	"github.com/vishvananda/netlink"
)

// dgram is a datagram recorded at ns behind an ordinary epoch.
func dgram(ns int64, src, dst, payload string) format.Datagram {
	return format.Datagram{
		Time: 1_700_000_000*second + ns, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
		Payload: []byte(payload), Length: uint32(len(payload)), TTL: 9,
	}
}

// pattern is a payload of n bytes that no other seed has, from a few bytes on.
func pattern(n, seed int) string {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8 + seed)
	}
	return string(p)
}

func newTestReplayer(t testing.TB, o Options) *Replayer {
	t.Helper()
	r, err := New(o)
	must(t, err)
	t.Cleanup(func() {
		for range 2 { // idempotent
			if err := r.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	return r
}

// run plays batches and wants no error.
func run(t testing.TB, o Options, steps ...any) Report {
	t.Helper()
	report, err := newTestReplayer(t, o).Run(context.Background(), &source{steps: steps})
	if err != nil {
		t.Fatalf("%v (%s)", err, report)
	}
	return report
}

var versions = []struct{ name, src, a, b string }{
	{"IPv4", "10.1.1.1:40001", "239.8.1.1:5001", "239.8.1.2:5002"},
	{"IPv6", "[2001:db8::1]:40001", "[ff15::8:1]:5001", "[ff15::8:2]:5002"},
}

func TestReplayArrivesAsRecorded(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			tx, rx := netnstest.Veth(t)
			tapA, tapB := newTap(t, v.a, rx), newTap(t, v.b, rx)
			// The empty datagram, the smallest, the largest that is not fragmented on
			// Ethernet, a jumbo, the largest of all; to two groups, from two ports.
			type sent struct {
				payload string
				port    uint16
			}
			var wantA, wantB []sent
			var steps []any
			ports := []string{":40001", ":40002"}
			host := strings.TrimSuffix(v.src, ":40001")
			n := 0
			for range 20 {
				var batch []format.Datagram
				for _, size := range []int{0, 1, 1472, 8972, 65507, 12} {
					payload, port := pattern(size, n), uint16(40001+n/3%2)
					src := host + ports[n/3%2]
					if n%4 == 3 {
						batch = append(batch, dgram(int64(n)*10_000, src, v.b, payload))
						wantB = append(wantB, sent{payload, port})
					} else {
						batch = append(batch, dgram(int64(n)*10_000, src, v.a, payload))
						wantA = append(wantA, sent{payload, port})
					}
					n++
				}
				steps = append(steps, batch)
			}
			report := run(t, Options{Interface: tx, TTL: 5}, steps...)
			for _, c := range []struct {
				tap  *tap
				want []sent
			}{{tapA, wantA}, {tapB, wantB}} {
				for i, want := range c.want {
					got := c.tap.next()
					if got.payload != want.payload {
						t.Fatalf("datagram %d: %d bytes arrived, want %d, or others", i, len(got.payload), len(want.payload))
					}
					if got.from.Port() != want.port || got.ttl != 5 {
						t.Fatalf("datagram %d: from %s with TTL %d, want port %d and TTL 5", i, got.from, got.ttl, want.port)
					}
				}
				c.tap.none("more than was sent")
			}
			if report.Datagrams != uint64(n) || report.SendErrors != 0 || report.PortsNotKept != 0 || report.Skipped.Total() != 0 {
				t.Errorf("%s", report)
			}
			if len(report.Destinations) != 2 || report.Destinations[0].Destination.String() != v.a ||
				report.Destinations[0].Datagrams != uint64(len(wantA)) || report.Destinations[1].Datagrams != uint64(len(wantB)) {
				t.Errorf("destinations: %+v", report.Destinations)
			}
			if report.Bytes != report.Destinations[0].Bytes+report.Destinations[1].Bytes {
				t.Errorf("%d bytes, by destination %+v", report.Bytes, report.Destinations)
			}
		})
	}
}

// The zero options: TTL 1, and members on the sending host hear nothing.
func TestReplayDefaultsStayNear(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			tx, rx := netnstest.Veth(t)
			near, far := newTap(t, v.a, tx), newTap(t, v.a, rx)
			run(t, Options{Interface: tx}, []format.Datagram{dgram(0, v.src, v.a, "x")})
			if got := far.next(); got.ttl != 1 {
				t.Errorf("TTL %d, want 1", got.ttl)
			}
			near.none("loopback is off")
			run(t, Options{Interface: tx, Loopback: true}, []format.Datagram{dgram(0, v.src, v.a, "x")})
			near.next()
		})
	}
}

// At full speed equal datagrams go out in runs, but not where a queue would cut
// them: part of one might be dropped there, unseen.
func TestReplaySegmentation(t *testing.T) {
	const n = 1000
	batch := make([]format.Datagram, n)
	for i := range batch {
		batch[i] = dgram(int64(i)*second, "10.1.1.1:40001", "239.8.1.1:5001", pattern(200, i))
	}
	for _, c := range []struct {
		name string
		off  bool
		tbf  bool
		runs bool
	}{{"runs", false, false, true}, {"asked not to", true, false, false}, {"a queue cuts", false, true, false}} {
		t.Run(c.name, func(t *testing.T) {
			tx, rx := netnstest.Veth(t)
			if c.tbf {
				link, err := netlink.LinkByName(tx)
				must(t, err)
				err = netlink.QdiscAdd(&netlink.Tbf{
					QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
					Rate:       1 << 30, Limit: 1 << 20, Buffer: netlink.Xmittime(1<<30, 1<<20),
				})
				if err != nil {
					t.Skipf("no tbf queue here: %v", err)
				}
			}
			tap := newTap(t, "239.8.1.1:5001", rx)
			report := run(t, Options{Interface: tx, NoSegmentation: c.off, Pacing: Pacing{Max: true}}, batch)
			if report.Datagrams != n || (report.Segmented == n) != c.runs || (report.Segmented == 0) == c.runs || (report.Runs == 0) == c.runs {
				t.Errorf("%d sent, %d in %d runs", report.Datagrams, report.Segmented, report.Runs)
			}
			for i := range n {
				// What a queue held back may overtake on another processor.
				if got := tap.next(); len(got.payload) != 200 || !c.tbf && got.payload != pattern(200, i) {
					t.Fatalf("datagram %d: %d bytes, or others", i, len(got.payload))
				}
			}
		})
	}
}

func TestReplayMapsAndSelects(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	mapped, kept := newTap(t, "239.80.1.1:6000", rx), newTap(t, "239.8.2.1:5000", rx)
	m, err := ParseMapping("239.8.1.1:5000=239.80.1.1:6000")
	must(t, err)
	report := run(t, Options{Interface: tx, Map: []Mapping{m}, Only: []string{"239.8.1.1", "239.8.2.0/24"}}, []format.Datagram{
		dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "mapped"),
		dgram(1, "10.1.1.1:40001", "239.8.3.1:5000", "not selected"),
		dgram(2, "10.1.1.1:40001", "239.8.2.1:5000", "kept"),
		// Not selected, so that nothing is sent to it and nothing has to be refused.
		dgram(3, "10.1.1.1:40001", "224.0.0.18:112", "not selected"),
	})
	if got := mapped.next(); got.payload != "mapped" || got.from.Port() != 40001 {
		t.Errorf("got %+v", got)
	}
	if got := kept.next(); got.payload != "kept" {
		t.Errorf("got %+v", got)
	}
	if report.Datagrams != 2 || report.Skipped != (Skipped{Filtered: 2}) {
		t.Errorf("%s", report)
	}
	if len(report.Destinations) != 2 || report.Destinations[1].Destination.String() != "239.80.1.1:6000" {
		t.Errorf("%+v", report.Destinations)
	}
}

func TestReplayGuardRefuses(t *testing.T) {
	for _, dst := range []string{"224.0.0.18:112", "224.0.1.129:319", "10.77.0.9:5000", "255.255.255.255:5000", "[ff02::5]:89", "[fe80::9]:5000"} {
		t.Run(dst, func(t *testing.T) {
			tx, _ := netnstest.Veth(t)
			sniffer := newSniffer(t, tx)
			src := "10.1.1.1:40001"
			if dst[0] == '[' {
				src = "[2001:db8::1]:40001"
			}
			r := newTestReplayer(t, Options{Interface: tx})
			report, err := r.Run(context.Background(), &source{steps: []any{
				[]format.Datagram{dgram(0, src, dst, "harm"), dgram(1, "10.1.1.1:40001", "239.8.1.1:5000", "behind it")},
			}})
			var refused *GuardError
			if !errors.As(err, &refused) || refused.Destination.String() != dst {
				t.Fatalf("error %v, want a GuardError about %s", err, dst)
			}
			if report.Datagrams != 0 {
				t.Errorf("%s", report)
			}
			// A datagram that may be sent, to see that the sniffer sees.
			if _, err := r.Run(context.Background(), &source{steps: []any{[]format.Datagram{dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "x")}}}); err != nil {
				t.Fatal(err)
			}
			if n := sniffer.udp(); n != 1 {
				t.Errorf("the interface saw %d datagrams, want the allowed one only", n)
			}
		})
	}
}

// A destination that turns up later stops the replay before its datagram, and all
// before it were sent.
func TestReplayGuardInTheMiddle(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	ok := func(i int) format.Datagram {
		return dgram(int64(i), "10.1.1.1:40001", "239.8.1.1:5000", fmt.Sprint(i))
	}
	r := newTestReplayer(t, Options{Interface: tx})
	report, err := r.Run(context.Background(), &source{steps: []any{
		[]format.Datagram{ok(0), ok(1)},
		[]format.Datagram{ok(2), dgram(3, "10.1.1.1:40001", "224.0.0.18:112", "harm"), ok(4)},
		[]format.Datagram{ok(5)},
	}})
	var refused *GuardError
	if !errors.As(err, &refused) || report.Datagrams != 3 {
		t.Fatalf("%v, %s", err, report)
	}
	for i := range 3 {
		if got := tap.next(); got.payload != fmt.Sprint(i) {
			t.Errorf("datagram %d is %q", i, got.payload)
		}
	}
	tap.none("behind the refused one")
}

func TestReplayToAllowedUnicast(t *testing.T) {
	netnstest.Require(t)
	for _, c := range []struct{ src, dst string }{
		{"10.1.1.1:40001", "127.0.0.1:5600"},
		{"[2001:db8::1]:40001", "[::1]:5600"},
	} {
		tap := newTap(t, c.dst, "lo")
		host := netip.MustParseAddrPort(c.dst).Addr().String()
		report := run(t, Options{Interface: "lo", Allow: []string{host}}, []format.Datagram{dgram(0, c.src, c.dst, "x")})
		if got := tap.next(); got.payload != "x" || got.from.Port() != 40001 || report.Datagrams != 1 {
			t.Errorf("got %+v, %s", got, report)
		}
	}
}

func TestReplayToAllowedBroadcast(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	i, err := net.InterfaceByName(tx)
	must(t, err)
	addresses, err := i.Addrs()
	must(t, err)
	b := netip.MustParsePrefix(addresses[0].String()).Addr().As4()
	b[3] = 255
	dst := netip.AddrPortFrom(netip.AddrFrom4(b), 5600).String()
	tap := newTap(t, dst, rx)
	batch := []format.Datagram{dgram(0, "10.1.1.1:40001", dst, "x")}
	_, err = newTestReplayer(t, Options{Interface: tx}).Run(context.Background(), &source{steps: []any{batch}})
	var refused *GuardError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "broadcast address of 10.77.") {
		t.Errorf("not allowed: %v", err)
	}
	report := run(t, Options{Interface: tx, Allow: []string{dst}}, batch)
	if report.SendErrors != 0 {
		t.Fatalf("%s", report)
	}
	if got := tap.next(); got.payload != "x" {
		t.Errorf("got %+v", got)
	}
}

func TestReplayNeverSendsWhatWasNotRecordedWhole(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	// A slab with more behind each payload, as a reader has it.
	slab := []byte("payloadSECRET")
	d := func() format.Datagram {
		d := dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "")
		d.Payload, d.Length = slab[:7], 7
		return d
	}
	truncated, short, noDestination, noSource, lost := d(), d(), d(), d(), d()
	truncated.Flags, truncated.Length = format.FlagTruncated, 13
	short.Length = 13 // without the flag
	other := format.Datagram{Flags: format.FlagNotUDP, Frame: []byte("an IGMP report")}
	noDestination.Dst = netip.AddrPort{}
	noSource.Src = netip.AddrPort{}
	lost.Drops = 5
	report := run(t, Options{Interface: tx},
		[]format.Datagram{other},
		[]format.Datagram{truncated, short, d(), noDestination, other},
		[]format.Datagram{noSource, lost})
	for range 3 {
		if got := tap.next(); got.payload != "payload" {
			t.Errorf("received %q", got.payload)
		}
	}
	tap.none("more than was recorded whole")
	if report.Datagrams != 3 || report.Skipped != (Skipped{NotUDP: 3, Truncated: 2}) || report.RecordedDrops != 5 {
		t.Errorf("%s", report)
	}
	if report.PortsNotKept != 1 { // the source without a port
		t.Errorf("%d ports not kept, want 1", report.PortsNotKept)
	}
}

// What was sent, what failed and what was skipped is all there was.
func TestReplayAccountsForAll(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	link, err := netlink.LinkByName(tx)
	must(t, err)
	err = netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       125_000, Limit: 5000, Buffer: netlink.Xmittime(125_000, 5000), // 1 Mbit/s
	})
	if err != nil {
		t.Skipf("no tbf queue here: %v", err)
	}
	tap := newTap(t, "239.8.1.1:5000", rx)
	const attempted = 600
	var batch []format.Datagram
	for i := range attempted {
		batch = append(batch, dgram(0, fmt.Sprintf("10.1.1.1:%d", 40000+i%3), "239.8.1.1:5000", pattern(200, i)))
	}
	batch = append(batch, dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", strings.Repeat("x", 65527))) // no IPv4 packet holds it
	report := run(t, Options{Interface: tx, Pacing: Pacing{Max: true}}, batch[:300], batch[300:])
	if report.Datagrams+report.SendErrors != attempted+1 || report.Causes["ENOBUFS"] == 0 || report.Causes["EMSGSIZE"] != 1 ||
		report.Causes["ENOBUFS"]+1 != report.SendErrors || report.Destinations[0].SendErrors != report.SendErrors {
		t.Errorf("%s %v", report, report.Causes)
	}
	if report.Datagrams == 0 {
		t.Error("the queue let nothing pass: the test shows half")
	}
	for range report.Datagrams {
		tap.next()
	}
	tap.none("more than was reported")
	if report.Lateness.Count != 0 {
		t.Errorf("%d latenesses at full speed, where nothing has a due time", report.Lateness.Count)
	}
	if !strings.Contains(report.String(), "ENOBUFS:") {
		t.Errorf("%q does not name the cause", report)
	}
}

func TestReplayGoesOnBehindDamage(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	one := func(s string) []format.Datagram {
		return []format.Datagram{dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", s)}
	}
	damage := &format.CorruptError{Path: "a.pcapng", Offset: 7, Reason: "a test"}
	steps := []any{damage, one("a"), damage, fmt.Errorf("wrapped: %w", damage), one("b")}
	for range 2 * maxDamage {
		steps = append(steps, damage)
	}
	steps = append(steps, one("c"))
	report := run(t, Options{Interface: tx}, steps...)
	for _, want := range []string{"a", "b", "c"} {
		if got := tap.next(); got.payload != want {
			t.Errorf("received %q, want %q", got.payload, want)
		}
	}
	if report.Damaged != 3+2*maxDamage || len(report.Damage) != maxDamage || report.Damage[0] != damage {
		t.Errorf("%d damages, %d kept", report.Damaged, len(report.Damage))
	}

	// Any other error ends it, behind what was read.
	broken := errors.New("disk on fire")
	report, err := newTestReplayer(t, Options{Interface: tx}).Run(context.Background(), &source{steps: []any{one("d"), broken, one("e")}})
	if err != broken || report.Datagrams != 1 || tap.next().payload != "d" {
		t.Errorf("%v, %s", err, report)
	}
	// And a source that is nothing but damage does not go on for ever.
	report, err = newTestReplayer(t, Options{Interface: tx}).Run(context.Background(), endless{damage})
	if !errors.Is(err, damage) || report.Damaged < maxBarren {
		t.Errorf("%v, %d damages", err, report.Damaged)
	}
	tap.none("behind the error")
}

type endless struct{ err error }

func (e endless) ReadBatch(*format.Batch) error { return e.err }

func TestReplayEmptySource(t *testing.T) {
	netnstest.Require(t)
	report := run(t, Options{Interface: "lo"})
	if report.Datagrams != 0 || report.Duration != 0 || report.RatePPS != 0 || report.Recorded != 0 || report.Lateness.Count != 0 {
		t.Errorf("%+v", report)
	}
	// Batches may hold statistics and nothing else.
	report = run(t, Options{Interface: "lo"}, []format.Datagram{}, []format.Datagram{})
	if report.Datagrams != 0 {
		t.Errorf("%+v", report)
	}
}

// recordedBatches spreads n datagrams over a recorded time, in batches of 10.
func recordedBatches(n int, interval int64) (steps []any) {
	for i := 0; i < n; {
		var batch []format.Datagram
		for range 10 {
			batch = append(batch, dgram(int64(i)*interval, "10.1.1.1:40001", "239.8.1.1:5000", "x"))
			i++
		}
		steps = append(steps, batch)
	}
	return steps
}

// By a clock of the test's own, so that no machine is too slow for it.
func TestReplayKeepsTime(t *testing.T) {
	netnstest.Require(t)
	const n, interval = 1000, 10_000_000 // 10 s less one interval
	const recorded = (n - 1) * interval
	for _, c := range []struct {
		name string
		p    Pacing
		want time.Duration
	}{
		{"recorded", Pacing{}, recorded},
		{"twice as fast", Pacing{Speed: 2}, recorded / 2},
		{"half as fast", Pacing{Speed: 0.5}, recorded * 2},
		{"gaps shortened", Pacing{MaxGap: interval / 10}, recorded / 10},
		{"constant rate", Pacing{PPS: 500}, (n - 1) * 2 * time.Millisecond},
		{"full speed", Pacing{Max: true}, 0},
	} {
		clock := &fakeClock{now: 5 * second, step: 100}
		report := run(t, Options{Interface: "lo", Pacing: c.p, Clock: clock}, recordedBatches(n, interval)...)
		if off := report.Duration - c.want; off < 0 || off > 2*time.Millisecond {
			t.Errorf("%s: took %s, want %s", c.name, report.Duration, c.want)
		}
		if report.Recorded != recorded || report.Datagrams != n {
			t.Errorf("%s: %s", c.name, report)
		}
		if c.p.Max {
			continue
		}
		// Each reading of this clock takes 100 ns.
		if l := report.Lateness; l.Count != n || l.P50 <= 0 || l.Max > 1000 || l.P50 > l.P99 || l.P999 > l.Max {
			t.Errorf("%s: lateness %+v", c.name, l)
		}
		if rate := float64(n) / report.Duration.Seconds(); report.RatePPS != rate {
			t.Errorf("%s: %g per second, want %g", c.name, report.RatePPS, rate)
		}
		if c.p.MaxGap > 0 && (report.ShortenedGaps != n-1 || report.GapsRemoved != recorded-recorded/10) {
			t.Errorf("%s: %d gaps, %s", c.name, report.ShortenedGaps, report.GapsRemoved)
		}
	}
}

// Where sleeps end late, the report says so, and nothing is dropped or reordered.
func TestReplayReportsLateness(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	const oversleep = 3_000_000
	clock := &fakeClock{step: 100, oversleep: oversleep}
	var batch []format.Datagram
	for i := range 100 {
		batch = append(batch, dgram(int64(i)*10_000_000, "10.1.1.1:40001", "239.8.1.1:5000", fmt.Sprint(i)))
	}
	report := run(t, Options{Interface: tx, Clock: clock}, batch)
	for i := range 100 {
		if got := tap.next(); got.payload != fmt.Sprint(i) {
			t.Fatalf("datagram %d is %q", i, got.payload)
		}
	}
	// Up to maxGuard of the oversleep is what the guard expected.
	if l := report.Lateness; l.P50 < oversleep-maxGuard-1000 || l.P50 > oversleep+1000 || l.Max > oversleep+1000 {
		t.Errorf("lateness %+v, want about %d", l, oversleep)
	}
	if d := report.Destinations[0]; d.MaxLateness != report.Lateness.Max {
		t.Errorf("largest lateness %d, by destination %d", report.Lateness.Max, d.MaxLateness)
	}
}

// A repeated recording keeps its pace in every round.
func TestReplayRepeated(t *testing.T) {
	netnstest.Require(t)
	const n, interval = 100, 10_000_000
	clock := &fakeClock{step: 100}
	src := &Repeat{Rounds: 3, Open: func(int64) (format.BatchReader, error) {
		return &source{steps: recordedBatches(n, interval)}, nil
	}}
	report, err := newTestReplayer(t, Options{Interface: "lo", Clock: clock}).Run(context.Background(), src)
	must(t, err)
	want := time.Duration(3*n-1) * interval
	if off := report.Duration - want; off < 0 || off > time.Millisecond || report.Datagrams != 3*n {
		t.Errorf("%s, want %s", report, want)
	}
}

func TestReplayStops(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	r := newTestReplayer(t, Options{Interface: tx})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type result struct {
		Report
		error
	}
	done := make(chan result, 1)
	go func() {
		report, err := r.Run(ctx, &source{steps: []any{[]format.Datagram{
			dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "first"),
			dgram(3600*second, "10.1.1.1:40001", "239.8.1.1:5000", "an hour later"),
		}}})
		done <- result{report, err}
	}()
	tap.next()
	waitFor(t, "the first datagram in Stats", func() bool { return r.Stats().Datagrams == 1 })
	if s := r.Stats(); s.Bytes != 5 || s.Position != 1_700_000_000*second || s.Lateness < 0 || s.MaxLateness < s.Lateness {
		t.Errorf("stats %+v", s)
	}
	if _, err := r.Run(ctx, &source{}); err != ErrRunning {
		t.Errorf("a second Run meanwhile: %v", err)
	}
	start := time.Now()
	cancel()
	select {
	case got := <-done:
		// 100 ms on an idle machine; TestPacerStops has the exact bound.
		if took := time.Since(start); took > time.Second {
			t.Errorf("stopped after %s", took)
		}
		if got.error != context.Canceled || got.Datagrams != 1 || got.Bytes != 5 {
			t.Errorf("%v, %s", got.error, got.Report)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("does not stop")
	}
	if report, err := r.Run(ctx, &source{steps: recordedBatches(10, 0)}); err != context.Canceled || report.Datagrams != 0 {
		t.Errorf("with a context that had ended: %v, %s", err, report)
	}
	tap.none("after the stop")
}

// A queue that does not move blocks the sender in the kernel; it must stop even so.
func TestReplayStopsWhileTheKernelBlocks(t *testing.T) {
	tx, _ := netnstest.Veth(t)
	link, err := netlink.LinkByName(tx)
	must(t, err)
	err = netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       100, Limit: 10 << 20, Buffer: 20_000_000, // 100 bytes a second, a queue that takes all
	})
	if err != nil {
		t.Skipf("no tbf queue here: %v", err)
	}
	r := newTestReplayer(t, Options{Interface: tx, Pacing: Pacing{Max: true}, SendBuffer: 8000})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan Report, 1)
	go func() {
		report, err := r.Run(ctx, &source{steps: recordedBatches(10000, 0)})
		if err != context.Canceled {
			t.Errorf("%v", err)
		}
		done <- report
	}()
	// Blocked: the number stands still for longer than the kernel waits.
	var last uint64
	since := time.Now()
	waitFor(t, "the send buffer to fill", func() bool {
		if n := r.Stats().Datagrams; n != last {
			last, since = n, time.Now()
		}
		return last > 0 && time.Since(since) > 150*time.Millisecond
	})
	start := time.Now()
	cancel()
	select {
	case report := <-done:
		if took := time.Since(start); took > time.Second {
			t.Errorf("stopped after %s", took)
		}
		if report.SendErrors != 0 || report.Datagrams >= 10000 {
			t.Errorf("%s", report)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("does not stop")
	}
}

// A source that goes on for ever and of which nothing is sent.
func TestReplayStopsWhileNothingIsSelected(t *testing.T) {
	netnstest.Require(t)
	r := newTestReplayer(t, Options{Interface: "lo", Only: []string{"239.99.0.0/16"}})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	src := &forever{dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "x"), new(atomic.Int64)}
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(ctx, src)
		done <- err
	}()
	waitFor(t, "the source to be read", func() bool { return src.read.Load() > 100 })
	cancel()
	select {
	case err := <-done:
		if err != context.Canceled {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("does not stop")
	}
}

type forever struct {
	d    format.Datagram
	read *atomic.Int64
}

func (f *forever) ReadBatch(b *format.Batch) error {
	b.Reset()
	b.Datagrams = append(b.Datagrams, f.d)
	f.read.Add(1)
	return nil
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestReplayAt(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	start := time.Now().Add(300 * time.Millisecond)
	run(t, Options{Interface: tx, At: start}, []format.Datagram{dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "x")})
	tap.next()
	if off := time.Since(start); off < 0 || off > 5*time.Second {
		t.Errorf("the first datagram left %s after the time set", off)
	}
	_, err := newTestReplayer(t, Options{Interface: tx, At: start}).Run(context.Background(),
		&source{steps: []any{[]format.Datagram{dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "x")}}})
	if err == nil || !strings.Contains(err.Error(), "has passed") {
		t.Errorf("a start in the past: %v", err)
	}
	tap.none("a start in the past")
}

func TestNewRefuses(t *testing.T) {
	netnstest.Require(t)
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "needs an interface"},
		{Options{Interface: "eth9"}, "eth9: no such interface"},
		{Options{Interface: "lo", TTL: 256}, "TTL 256"},
		{Options{Interface: "lo", Pacing: Pacing{Speed: 5000}}, "speed 5000"},
		{Options{Interface: "lo", Only: []string{"nonsense"}}, "nonsense"},
		{Options{Interface: "lo", Allow: []string{"nonsense"}}, "nonsense"},
		{Options{Interface: "lo", Ahead: 1}, "1 batches"},
	} {
		r, err := New(c.o)
		if err == nil {
			r.Close()
			t.Errorf("%+v: no error", c.o)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %q does not say %q", c.o, err, c.want)
		}
	}
	r, err := New(Options{Interface: "lo"})
	must(t, err)
	must(t, r.Close())
	if _, err := r.Run(context.Background(), &source{}); err != net.ErrClosed {
		t.Errorf("Run behind Close: %v", err)
	}
}

// More destinations than are counted apart, and more streams than the cache of
// routes holds: every datagram is still sent and counted.
func TestReplayManyStreams(t *testing.T) {
	netnstest.Require(t)
	const n = maxDestinations + 5000
	var steps []any
	for i := 0; i < n; {
		var batch []format.Datagram
		for range 1000 {
			d := dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "x")
			d.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, byte(i >> 16), byte(i >> 8), byte(i)}), 5000)
			batch = append(batch, d)
			i++
		}
		steps = append(steps, batch)
	}
	sent := 0
	for _, s := range steps {
		sent += len(s.([]format.Datagram))
	}
	report := run(t, Options{Interface: "lo", Pacing: Pacing{Max: true}}, steps...)
	total := uint64(0)
	for _, d := range report.Destinations {
		total += d.Datagrams
	}
	if report.Datagrams != uint64(sent) || total != report.Datagrams || len(report.Destinations) != maxDestinations+1 {
		t.Fatalf("%d sent of %d, %d in %d destinations", report.Datagrams, sent, total, len(report.Destinations))
	}
	if last := report.Destinations[maxDestinations]; last.Destination.IsValid() || last.Datagrams != uint64(sent-maxDestinations) {
		t.Errorf("the rest: %+v", last)
	}
}

// Sources that share their places in the cache of routes. Each datagram leaves
// from its own port.
func TestReplayManySources(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	const n = 900
	port := func(i int) int { return 2048 + i%n/30 + i%n%30*routeCache } // 30 ports to a place
	var batch []format.Datagram
	for i := range 2 * n {
		batch = append(batch, dgram(0, fmt.Sprintf("10.1.1.1:%d", port(i)), "239.8.1.1:5000", fmt.Sprint(port(i))))
	}
	report := run(t, Options{Interface: tx, Pacing: Pacing{Max: true}}, batch)
	if report.PortsNotKept != 0 || report.Datagrams != 2*n {
		t.Errorf("%d ports not kept, %s", report.PortsNotKept, report)
	}
	for i := range 2 * n {
		if got := tap.next(); got.payload != fmt.Sprint(port(i)) || got.payload != fmt.Sprint(got.from.Port()) {
			t.Fatalf("datagram %d: recorded from port %s, arrived from %d", i, got.payload, got.from.Port())
		}
	}
}

// testOutlet is an outlet with one prepared slot of n datagrams due together.
func testOutlet(t testing.TB, iface string, clock Clock, n, size int) (*outlet, *slot) {
	t.Helper()
	r := newTestReplayer(t, Options{Interface: iface})
	f := &feeder{policy: r.policy, senders: r.senders, histograms: 1}
	f.prepare()
	s := newRing(minAhead).slot(t)
	for i := range n {
		s.batch.Datagrams = append(s.batch.Datagrams, dgram(int64(i), "10.1.1.1:40001", "239.8.1.1:5000", pattern(size, i)))
	}
	must(t, f.fill(s))
	p := &pacer{clock: clock, guard: minGuard, attention: &r.control.attention}
	return newOutlet(r.senders, p, &r.stats, r.control, newRing(minAhead), &Options{Histograms: 1, History: true}), s
}

func (r *ring) slot(t testing.TB) *slot {
	t.Helper()
	return <-r.free
}

func TestOutletAllocatesNothing(t *testing.T) {
	netnstest.Require(t)
	o, s := testOutlet(t, "lo", &fakeClock{step: 10}, 200, 100)
	o.warm(s)
	if n := testing.AllocsPerRun(50, func() {
		o.timeline.rebase(o.pacer.clock.Now(), 0)
		o.send(context.Background(), s)
	}); n != 0 {
		t.Errorf("%v allocations for %d datagrams, want 0", n, len(s.entries))
	}
	if o.datagrams != 51*200 || o.errors != 0 { // AllocsPerRun warms up once
		t.Errorf("%d datagrams, %d errors", o.datagrams, o.errors)
	}
}

func TestFeederAllocatesNothing(t *testing.T) {
	netnstest.Require(t)
	r := newTestReplayer(t, Options{Interface: "lo", Only: []string{"239.0.0.0/8"}})
	f := &feeder{policy: r.policy, senders: r.senders}
	f.prepare()
	s := newRing(minAhead).slot(t)
	for i := range 200 {
		s.batch.Datagrams = append(s.batch.Datagrams, dgram(int64(i), "10.1.1.1:40001", fmt.Sprintf("239.8.1.%d:5000", i%50), "x"))
	}
	if n := testing.AllocsPerRun(50, func() {
		if err := f.fill(s); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for 200 datagrams, want 0", n)
	}
}

func BenchmarkFeeder(b *testing.B) {
	netnstest.Require(b)
	r := newTestReplayer(b, Options{Interface: "lo"})
	f := &feeder{policy: r.policy, senders: r.senders}
	f.prepare()
	s := newRing(minAhead).slot(b)
	for i := range 1000 {
		s.batch.Datagrams = append(s.batch.Datagrams, dgram(int64(i), "10.1.1.1:40001", fmt.Sprintf("239.8.1.%d:5000", i%50), "x"))
	}
	b.ReportAllocs()
	datagrams := 0
	for b.Loop() {
		must(b, f.fill(s))
		datagrams += len(s.entries)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(datagrams), "ns/datagram")
}

func BenchmarkOutlet(b *testing.B) {
	tx, _ := netnstest.Veth(b)
	o, s := testOutlet(b, tx, machineClock{}, 1000, 256)
	b.ReportAllocs()
	datagrams := 0
	for b.Loop() {
		o.timeline.rebase(0, 0) // all due
		o.send(context.Background(), s)
		datagrams += len(s.entries)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(datagrams), "ns/datagram")
	b.ReportMetric(float64(datagrams*256)/1e6/b.Elapsed().Seconds(), "MB/s")
}

// BenchmarkPacing replays 2 s of evenly spaced datagrams and reports how late they
// left.
func BenchmarkPacing(b *testing.B) {
	for _, rate := range []int{1000, 20_000, 100_000} {
		b.Run(fmt.Sprintf("pps=%d", rate), func(b *testing.B) {
			tx, _ := netnstest.Veth(b)
			r := newTestReplayer(b, Options{Interface: tx})
			for b.Loop() {
				src := &generated{n: 2 * rate, interval: second / int64(rate)}
				report, err := r.Run(context.Background(), src)
				must(b, err)
				l := report.Lateness
				b.ReportMetric(float64(l.P50), "p50-ns")
				b.ReportMetric(float64(l.P90), "p90-ns")
				b.ReportMetric(float64(l.P99), "p99-ns")
				b.ReportMetric(float64(l.P999), "p999-ns")
				b.ReportMetric(float64(l.Max), "max-ns")
				b.ReportMetric(report.RatePPS, "datagrams/s")
			}
		})
	}
}

// generated is a source without memory of its own: n datagrams at an interval.
type generated struct {
	n, at    int
	interval int64
}

func (g *generated) ReadBatch(b *format.Batch) error {
	if g.at == g.n {
		return io.EOF
	}
	b.Reset()
	d := format.Datagram{Src: netip.MustParseAddrPort("10.1.1.1:40001"), Dst: netip.MustParseAddrPort("239.8.1.1:5000"), Length: 256}
	if cap(b.Buf) < 256 {
		b.Buf = make([]byte, 256)
	}
	d.Payload = b.Buf[:256]
	for range 1000 {
		if g.at == g.n {
			break
		}
		d.Time = int64(g.at) * g.interval
		b.Datagrams = append(b.Datagrams, d)
		g.at++
	}
	return nil
}
