package replayer

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"castdeck/internal/sock"

	"pgregory.net/rapid"
)

// dose is a datagram of a test: its number is its recorded time.
type dose struct {
	stream int
	due    int64
	size   int
}

// outcome is what an impairer made of doses.
type outcome struct {
	sent []entry // time is the number
	log  []ImpairRecord
	did  Impaired
	most int // bytes held at once
}

// treat runs an impairer without a network; together is how many datagrams make a slot.
func treat(t require, o Options, doses []dose, together, maxBytes int) (out outcome) {
	o.ImpairLog = func(r ImpairRecord) { out.log = append(out.log, r) }
	m := newTestImpairer(t, o)
	if maxBytes > 0 {
		m.maxBytes = maxBytes
	}
	s := &slot{messages: sock.NewMessages(0)}
	empty := func() {
		out.sent = append(out.sent, s.entries...)
		s.entries = s.entries[:0]
		m.reclaim(s)
	}
	lanes := map[int]*lane{}
	for i, d := range doses {
		l := lanes[d.stream]
		if l == nil {
			dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(d.stream)}), 5000)
			l = m.lane(netip.MustParseAddrPort("10.1.1.1:40000"), dst, dst)
			lanes[d.stream] = l
		}
		payload := make([]byte, d.size)
		v := m.judge(l, uint64(i), int64(i), payload)
		flipped := 0
		for _, b := range payload {
			flipped += int(b)
		}
		if (flipped != 0) != v.has(ImpairCorrupt) || v.bit >= 0 && payload[v.bit/8] != 1<<(v.bit%8) {
			t.Fatalf("datagram %d: %+v, payload %x", i, v, payload)
		}
		m.pass(s, l, v, outgoing{entry: entry{due: d.due, time: int64(i), socket: uint16(d.stream), size: int32(d.size)}, bytes: payload, sockaddr: nowhere})
		if out.most = max(out.most, m.bytes); m.bytes > m.maxBytes {
			t.Fatalf("%d bytes held, at most %d", m.bytes, m.maxBytes)
		}
		if (i+1)%together == 0 {
			empty()
		}
	}
	for empty(); m.drain(s, together); empty() {
	}
	if m.bytes != 0 || len(m.queue) != 0 || m.waiting != 0 {
		t.Fatalf("%d bytes, %d datagrams and %d to be reordered are still held", m.bytes, len(m.queue), m.waiting)
	}
	for i := 1; i < len(out.sent); i++ {
		if a, b := out.sent[i-1], out.sent[i]; b.due < a.due {
			t.Fatalf("datagram %d is due at %d, behind one of %d", b.time, b.due, a.due)
		}
	}
	out.did = m.did
	return out
}

var nowhere = sock.NewSockaddr(netip.MustParseAddrPort("239.1.1.1:5000"), &net.Interface{})

func newTestImpairer(t require, o Options) *impairer {
	t.Helper()
	m, err := newImpairer(&o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

// require is testing.TB or *rapid.T.
type require interface {
	Helper()
	Fatalf(format string, args ...any)
}

func impairs(t require, flags ...string) (all []Impair) {
	t.Helper()
	for _, f := range flags {
		name, value, _ := strings.Cut(f, " ")
		i, err := ParseImpair(Impairment(slices.Index(impairmentNames[:], name)), value)
		if err != nil {
			t.Fatalf("%v", err)
		}
		all = append(all, i)
	}
	return all
}

// steady is n datagrams of one stream, 10 us apart.
func steady(n int) []dose {
	all := make([]dose, n)
	for i := range all {
		all[i] = dose{due: int64(i) * 10_000, size: 100}
	}
	return all
}

// The numbers that a seed gives, within what chance allows (five deviations), and
// exactly what the log says.
func TestImpairShares(t *testing.T) {
	const n = 100_000
	for _, c := range []struct {
		flag string
		kind Impairment
		p    float64
		// clump is by how much bursts widen the deviation.
		clump float64
	}{
		{"drop 1%", ImpairDrop, 0.01, 1},
		{"drop 0.1%", ImpairDrop, 0.001, 1},
		{"drop 0%", ImpairDrop, 0, 1},
		{"drop 100%", ImpairDrop, 1, 1},
		{"drop-burst 2%,10", ImpairDropBurst, 0.02, 20},
		{"drop-burst 50%,1", ImpairDropBurst, 0.5, 2},
		{"duplicate 5%", ImpairDuplicate, 0.05, 1},
		{"corrupt 3%", ImpairCorrupt, 0.03, 1},
		{"reorder 1%", ImpairReorder, 0.01, 1},
	} {
		t.Run(c.flag, func(t *testing.T) {
			got := treat(t, Options{Impair: impairs(t, c.flag), Seed: 1}, steady(n), 100, 0)
			hits := float64(got.did.By[c.kind])
			if far := 5 * math.Sqrt(n*c.p*(1-c.p)*c.clump); math.Abs(hits-n*c.p) > far {
				t.Errorf("%g hit, want %g within %.0f", hits, n*c.p, far)
			}
			logged := 0
			for _, r := range got.log {
				if r.Done == 1<<c.kind && !r.Early {
					logged++
				}
			}
			if logged != int(hits) || len(got.log) != logged+int(got.did.Early) {
				t.Errorf("%d of %d lines in the log are about %g", logged, len(got.log), hits)
			}
			if want := n - got.did.Dropped() + got.did.By[ImpairDuplicate]; uint64(len(got.sent)) != want {
				t.Errorf("%d sent, want %d", len(got.sent), want)
			}
		})
	}
}

// Gilbert's model: the bursts are as long as asked for, on average, and so is the share.
func TestImpairBursts(t *testing.T) {
	for _, mean := range []float64{1, 3, 20} {
		got := treat(t, Options{Impair: impairs(t, fmt.Sprintf("drop-burst 5%%,%g", mean)), Seed: 7}, steady(400_000), 1000, 0)
		bursts, last := 0, uint64(math.MaxUint64)
		for _, r := range got.log {
			if r.Index != last+1 {
				bursts++
			}
			last = r.Index
		}
		lost := float64(got.did.By[ImpairDropBurst])
		if l := lost / float64(bursts); math.Abs(l-mean) > 0.1*mean {
			t.Errorf("bursts of %g: %.2f on average", mean, l)
		}
		if math.Abs(lost-20_000) > 2000 {
			t.Errorf("bursts of %g: %g lost, want 20000", mean, lost)
		}
	}
}

func TestImpairDelays(t *testing.T) {
	const n, ms = 50_000, 1_000_000
	for _, c := range []struct {
		flag             string
		least, most, avg float64 // ms
	}{
		{"delay 5ms", 5, 5, 5},
		{"delay 5ms±2ms", 3, 7, 5},
		{"jitter 2ms", 0, 20, 2},
		{"reorder 100%,3ms", 3, 3, 3},
	} {
		// Datagrams so far apart that keeping the order changes nothing.
		far := steady(n)
		for i := range far {
			far[i].due = int64(i) * 100 * ms
		}
		got := treat(t, Options{Impair: impairs(t, c.flag), Seed: 3}, far, 10, 0)
		sum, least, most := 0.0, math.Inf(1), 0.0
		for i, e := range got.sent {
			late := float64(e.due-far[e.time].due) / ms
			if e.time != int64(i) {
				t.Fatalf("%s: datagram %d leaves as number %d", c.flag, e.time, i)
			}
			sum, least, most = sum+late, min(least, late), max(most, late)
		}
		if avg := sum / n; math.Abs(avg-c.avg) > 0.02*c.avg || least < c.least || most > c.most {
			t.Errorf("%s: %.3f to %.3f, on average %.3f ms", c.flag, least, most, avg)
		}
	}
}

// A delay that all have is none of the memory's business.
func TestImpairEqualDelayHoldsNothing(t *testing.T) {
	got := treat(t, Options{Impair: impairs(t, "delay 10s")}, steady(1000), 10, 0)
	if got.most != 0 || got.sent[999].due != 999*10_000+10*second {
		t.Errorf("%d bytes held, the last is due at %d", got.most, got.sent[999].due)
	}
}

func TestImpairReorderByDatagrams(t *testing.T) {
	for _, by := range []int{1, 3, 50} {
		doses := steady(20_000)
		for i := range doses {
			doses[i].stream = i % 3
		}
		got := treat(t, Options{Impair: impairs(t, fmt.Sprintf("reorder 1%%,%d", by)), Seed: 5}, doses, 7, 0)
		moved := map[int64]bool{}
		for _, r := range got.log {
			if r.Early {
				delete(moved, int64(r.Index))
			} else {
				moved[int64(r.Index)] = true
			}
		}
		if len(moved) < 100 {
			t.Fatalf("%d moved", len(moved))
		}
		at := map[int64]int{}
		for i, e := range got.sent {
			at[e.time] = i
		}
		for number := range moved {
			overtook := 0
			for _, e := range got.sent[:at[number]] {
				if e.time > number && e.socket == got.sent[at[number]].socket && !moved[e.time] {
					overtook++
				}
			}
			if overtook != by {
				t.Errorf("by %d: datagram %d was overtaken by %d", by, number, overtook)
			}
		}
	}
}

// At full speed everything is due at 0: order is all there is.
func TestImpairAtFullSpeed(t *testing.T) {
	doses := make([]dose, 100)
	got := treat(t, Options{Pacing: Pacing{Max: true}, Impair: impairs(t, "reorder 10%,2", "duplicate 10%"), Seed: 2}, doses, 10, 0)
	if got.did.By[ImpairReorder] == 0 || len(got.sent) != 100+int(got.did.By[ImpairDuplicate]) {
		t.Errorf("%+v, %d sent", got.did, len(got.sent))
	}
	sorted := slices.IsSortedFunc(got.sent, func(a, b entry) int { return int(a.time - b.time) })
	if sorted {
		t.Error("nothing changed places")
	}
}

// What holds for any options and any datagrams, also where little may be held.
func TestImpairProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var flags []string
		for _, f := range []string{"drop 10%", "drop-burst 10%,3", "duplicate 10%", "corrupt 10%", "delay 1ms", "delay 239.1.1.1=3ms±3ms",
			"jitter 1ms", "jitter 239.1.1.2=0s", "reorder 10%,3", "reorder 239.1.1.2=10%,2ms", "drop 239.1.1.0=0%"} {
			if rapid.Bool().Draw(t, f) {
				flags = append(flags, f)
			}
		}
		if len(flags) == 0 {
			flags = []string{"drop 50%"}
		}
		o := Options{Impair: impairs(t, flags...), Seed: rapid.Uint64().Draw(t, "seed")}
		doses := make([]dose, rapid.IntRange(0, 300).Draw(t, "n"))
		due := int64(0)
		for i := range doses {
			due += rapid.SampledFrom([]int64{0, 0, 1000, 100_000, 10_000_000}).Draw(t, "gap")
			doses[i] = dose{rapid.IntRange(0, 3).Draw(t, "stream"), due, rapid.SampledFrom([]int{0, 1, 100, 1400, 65507}).Draw(t, "size")}
		}
		maxBytes := rapid.SampledFrom([]int{1, 2048, 100_000, maxHeldBytes}).Draw(t, "bytes")
		got := treat(t, o, doses, rapid.IntRange(1, 50).Draw(t, "together"), maxBytes)

		// The log says how often each was to be sent, and which may leave the order.
		copies, moved := make([]int, len(doses)), make([]bool, len(doses))
		early, delays := map[uint64]bool{}, make([]int64, len(doses))
		for i := range copies {
			copies[i] = 1
		}
		for _, r := range got.log {
			v := verdict{done: r.Done}
			switch {
			case r.Early:
				early[r.Index] = true
			case v.has(ImpairDrop) || v.has(ImpairDropBurst):
				copies[r.Index] = 0
			case v.has(ImpairDuplicate):
				copies[r.Index] = 2
			}
			moved[r.Index], delays[r.Index] = v.has(ImpairReorder), r.Delay
		}
		if uint64(len(early)) != got.did.Early {
			t.Fatalf("%d early, the log has %d", got.did.Early, len(early))
		}
		var latest [4]int64
		for _, e := range got.sent {
			copies[e.time]--
			at := doses[e.time].due + delays[e.time]
			if early[uint64(e.time)] {
				at = doses[e.time].due
			}
			if e.due < at {
				t.Fatalf("datagram %d is due %d ns before its time", e.time, at-e.due)
			}
			if moved[e.time] {
				continue
			}
			if e.time < latest[e.socket] {
				t.Fatalf("stream %d: datagram %d behind %d", e.socket, e.time, latest[e.socket])
			}
			latest[e.socket] = e.time
		}
		for i, n := range copies {
			if n != 0 {
				t.Fatalf("datagram %d was sent %d times too seldom", i, n)
			}
		}
		if uint64(len(got.sent))+got.did.Dropped() != uint64(len(doses))+got.did.By[ImpairDuplicate] {
			t.Fatalf("%d sent of %d, %+v", len(got.sent), len(doses), got.did)
		}

		again := treat(t, o, doses, 17, maxBytes)
		if !slices.Equal(again.sent, got.sent) || !slices.Equal(again.log, got.log) {
			t.Fatalf("the same seed gave something else")
		}
	})
}

// One that is reordered leaves behind those that overtake it, and not before its delay.
func TestImpairReorderAndDelay(t *testing.T) {
	doses := steady(5000)
	got := treat(t, Options{Impair: impairs(t, "reorder 10%,2", "jitter 1ms")}, doses, 10, 0)
	at := map[int64]int64{}
	for _, e := range got.sent {
		at[e.time] = e.due
	}
	for _, r := range got.log {
		if due := at[int64(r.Index)]; due < doses[r.Index].due+r.Delay && !r.Early {
			t.Fatalf("datagram %d is due at %d, its delay lasts until %d", r.Index, due, doses[r.Index].due+r.Delay)
		}
	}
}

func TestImpairSeeds(t *testing.T) {
	play := func(seed uint64) []ImpairRecord {
		return treat(t, Options{Impair: impairs(t, "drop 10%"), Seed: seed}, steady(1000), 10, 0).log
	}
	if slices.Equal(play(1), play(2)) {
		t.Error("two seeds, one result")
	}
}

// A seek begins due times anew, and nothing of before comes behind it.
func TestImpairRestart(t *testing.T) {
	m := newTestImpairer(t, Options{Impair: impairs(t, "jitter 1s", "reorder 50%,3")})
	s := &slot{messages: sock.NewMessages(0)}
	dst := netip.MustParseAddrPort("239.1.1.1:5000")
	l := m.lane(dst, dst, dst)
	for i := range 100 {
		m.pass(s, l, m.judge(l, uint64(i), 0, nil), outgoing{entry: entry{due: int64(i), time: 1}, bytes: []byte("x"), sockaddr: nowhere})
	}
	if len(m.queue) == 0 || m.waiting == 0 {
		t.Fatal("nothing is held: the test shows nothing")
	}
	m.restart()
	s.entries = s.entries[:0]
	m.pass(s, l, verdict{bit: -1}, outgoing{entry: entry{due: 0, time: 2}, bytes: []byte("x"), sockaddr: nowhere})
	if m.drain(s, 100); len(s.entries) != 1 || s.entries[0].time != 2 || m.bytes != 0 {
		t.Errorf("%+v, %d bytes held", s.entries, m.bytes)
	}
}

// Beyond the streams that are told apart nothing gets lost, and memory is bounded.
func TestImpairManyStreams(t *testing.T) {
	m := newTestImpairer(t, Options{Impair: impairs(t, "reorder 50%,2", "jitter 1ms")})
	s := &slot{messages: sock.NewMessages(0)}
	const n = maxLanes + 1000
	for i := range n {
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, byte(i >> 16), byte(i >> 8), byte(i)}), 5000)
		l := m.lane(dst, dst, dst)
		m.pass(s, l, m.judge(l, uint64(i), 0, nil), outgoing{entry: entry{due: int64(i) * 1000}, sockaddr: nowhere})
	}
	m.drain(s, math.MaxInt)
	if len(m.lanes) != maxLanes || len(s.entries) != n {
		t.Errorf("%d streams, %d of %d sent", len(m.lanes), len(s.entries), n)
	}
}

func TestParseImpairRefuses(t *testing.T) {
	for _, c := range []struct {
		kind Impairment
		text string
		want string
	}{
		{ImpairDrop, "", `"" is no share`},
		{ImpairDrop, "0.1", "write 0% to 100%"},
		{ImpairDrop, "101%", "write 0% to 100%"},
		{ImpairDrop, "-1%", "write 0% to 100%"},
		{ImpairDrop, "NaN%", "write 0% to 100%"},
		{ImpairDrop, "=1%", "no pattern before the ="},
		{ImpairDrop, "nowhere=1%", "nowhere"},
		{ImpairDropBurst, "1%", "the mean length of a burst"},
		{ImpairDropBurst, "1%,0.5", "bursts of 0.5 datagrams"},
		{ImpairDropBurst, "90%,5", "83.3% at most"},
		{ImpairReorder, "1%,0", "by 0 datagrams"},
		{ImpairReorder, "1%,5000", "by 5000 datagrams"},
		{ImpairReorder, "1%,-5ms", "how far"},
		{ImpairReorder, "1%,soon", "how far"},
		{ImpairDelay, "5", "write a time"},
		{ImpairDelay, "5ms±6ms", "before its time"},
		{ImpairDelay, "-5ms", "before its time"},
		{ImpairDelay, "2h", "more than 1h"},
		{ImpairJitter, "2ms±1ms", "write the mean"},
	} {
		if _, err := ParseImpair(c.kind, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want %q", c.kind, c.text, err, c.want)
		}
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Impair: impairs(t, "drop 1%", "drop 2%")}, "both for everything"},
		{Options{Pacing: Pacing{Max: true}, Impair: impairs(t, "delay 1ms")}, "at full speed"},
		{Options{Pacing: Pacing{Max: true}, Impair: impairs(t, "reorder 1%,1ms")}, "at full speed"},
		{Options{Impair: []Impair{{Kind: 99}}}, "no such impairment"},
		{Options{Impair: []Impair{{Kind: ImpairReorder, P: 1}}}, "reordering by nothing"},
	} {
		if err := CheckImpair(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.o.Impair, err, c.want)
		}
	}
}

// A pattern goes before the value for everything, wherever it stands, and the first of
// two patterns before the second.
func TestImpairPatterns(t *testing.T) {
	m := newTestImpairer(t, Options{Impair: impairs(t, "drop 1%", "drop 239.1.1.1:5000=2%", "drop 239.1.1.0/24=3%")})
	src := netip.MustParseAddrPort("10.0.0.1:1")
	for dst, want := range map[string]float64{"239.1.1.1:5000": 0.02, "239.1.1.1:5001": 0.03, "239.1.2.1:5000": 0.01} {
		to := netip.MustParseAddrPort(dst)
		if got := m.lane(src, to, to).rules[ImpairDrop].P; got != want {
			t.Errorf("%s: %g, want %g", dst, got, want)
		}
	}
}

// What a pattern delays delays nothing else.
func TestImpairDelaysOneStream(t *testing.T) {
	doses := steady(1000)
	for i := range doses {
		doses[i].stream = i % 2
	}
	got := treat(t, Options{Impair: impairs(t, "delay 239.1.1.1=5ms")}, doses, 10, 0)
	for _, e := range got.sent {
		if want := doses[e.time].due + int64(e.socket)*5_000_000; e.due != want {
			t.Fatalf("stream %d: due at %d, want %d", e.socket, e.due, want)
		}
	}
}

func FuzzParseImpair(f *testing.F) {
	for _, s := range []string{"0.1%", "239.1.1.1:5000=0.5%", "0.1%,5", "1%,3", "1%,5ms", "5ms±2ms", "5ms+-2ms", "5ms+/-2ms", "[ff3e::1]:5000=1%", "10.0.0.1@=2ms"} {
		for k := range Impairment(impairments) {
			f.Add(uint8(k), s)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, text string) {
		i, err := ParseImpair(Impairment(kind), text)
		if err != nil {
			return
		}
		again, err := ParseImpair(i.Kind, i.String())
		if err != nil || again.String() != i.String() || again.Delay != i.Delay || again.By != i.By || math.Abs(again.P-i.P) > 1e-12 {
			t.Errorf("%q is %+v, written %q, read again %+v (%v)", text, i, i, again, err)
		}
		if i.Delay > time.Hour || i.P > 1 {
			t.Errorf("%q: %+v", text, i)
		}
	})
}

// Once what is held no longer grows, holding takes no memory.
func TestImpairAllocatesNothing(t *testing.T) {
	m := newTestImpairer(t, Options{Impair: impairs(t, "jitter 1ms", "drop 1%", "duplicate 1%", "reorder 1%,3")})
	s := &slot{messages: sock.NewMessages(4000)}
	dst := netip.MustParseAddrPort("239.1.1.1:5000")
	l := m.lane(dst, dst, dst)
	payload := make([]byte, 256)
	due := int64(0)
	play := func() {
		s.entries = s.entries[:0]
		m.reclaim(s)
		for range 1000 {
			due += 10_000
			m.pass(s, l, m.judge(l, 0, 0, payload), outgoing{entry: entry{due: due}, bytes: payload, sockaddr: nowhere})
		}
	}
	for range 100 {
		play()
	}
	if n := testing.AllocsPerRun(100, play); n > 1 { // a new peak of what is held
		t.Errorf("%v allocations for 1000 datagrams", n)
	}
}

func BenchmarkImpair(b *testing.B) {
	for _, flag := range []string{"drop 1%", "jitter 1ms"} {
		b.Run(strings.ReplaceAll(flag, " ", "="), func(b *testing.B) {
			m := newTestImpairer(b, Options{Impair: impairs(b, flag)})
			s := &slot{messages: sock.NewMessages(2000)}
			dst := netip.MustParseAddrPort("239.1.1.1:5000")
			l := m.lane(dst, dst, dst)
			payload := make([]byte, 256)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%1000 == 0 {
					s.entries = s.entries[:0]
					m.reclaim(s)
				}
				m.pass(s, l, m.judge(l, 0, 0, payload), outgoing{entry: entry{due: int64(n) * 1000}, bytes: payload, sockaddr: nowhere})
				n++
			}
		})
	}
}
