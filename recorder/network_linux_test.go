package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"castdeck/format"
	"castdeck/internal/netnstest"
	"castdeck/internal/sock"
)

// noted are the events of a kind so far.
func (w *tape) noted(kind string) (n int) {
	w.Lock()
	defer w.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// flapping records groups of every kind on rx while somebody does something to the
// link n times, and after each time sends datagrams to all of them.
func flapping(t *testing.T, n int, o Options, do func(tx, rx string, round int, w *tape)) (w *tape, r *recording) {
	tx, rx := netnstest.Veth(t)
	ssm := sub("232.7.1.1:5001", source(t, tx, false), rx)
	subs := append(many(70, 5000, rx), ssm, sub("239.7.9.9:5001", "", rx), sub("[ff15::9:1]:5000", "", rx), sub("[ff12::9:2]:5000", "", rx))
	w = &tape{keep: true}
	o.Buffer, o.StatsInterval = 1<<20, 100*time.Millisecond
	r = record(t, subs, o, w)
	until(t, "it runs", func() bool { return r.Stats().Wakeups > 0 })
	before, goroutines := descriptors(t), runtime.NumGoroutine()
	sent := uint64(0)
	for round := range n {
		do(tx, rx, round, w)
		k4, k6 := newTalker(t, tx, source(t, tx, false), 1), newTalker(t, tx, source(t, tx, true), 1)
		for _, s := range subs {
			k := k4
			if s.Group.Addr().Is6() {
				k = k6
			}
			k.send(s.Group, binary.BigEndian.AppendUint64(nil, uint64(round)))
			sent++
		}
		k4.close()
		k6.close()
		until(t, fmt.Sprintf("round %d: %d datagrams", round, sent), func() bool { return w.written() == sent })
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	until(t, "goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= goroutines })
	r.end()
	if s := r.Stats(); s.Datagrams != sent || s.Dropped != (Dropped{}) || s.Foreign != 0 {
		t.Errorf("%d sent: %+v", sent, s)
	}
	perGroup := map[uint16]int{}
	for _, d := range w.datagrams {
		perGroup[d.Interface]++
	}
	for i := range subs {
		if perGroup[uint16(i)] != n {
			t.Errorf("%v: %d datagrams, want %d", subs[i], perGroup[uint16(i)], n)
		}
	}
	for i, e := range w.events {
		if i > 0 && e.Monotonic < w.events[i-1].Monotonic || e.Time == 0 || e.Monotonic == 0 || e.Text == "" {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	return w, r
}

func setDown(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetDown(link)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func rounds(many int) int {
	if testing.Short() {
		return 3
	}
	return many
}

// TestInterfaceMadeAgain deletes the interface and makes one of its name.
func TestInterfaceMadeAgain(t *testing.T) {
	interfaceMadeAgain(t, rounds(20), Options{})
	interfaceMadeAgain(t, 3, packets(Options{Packet: &PacketOptions{Promiscuous: true}}))
}

func interfaceMadeAgain(t *testing.T, n int, o Options) {
	w, _ := flapping(t, n, o, func(tx, rx string, round int, w *tape) {
		was := time.Now()
		netnstest.RemakeVeth(t, tx, rx)
		up := time.Now()
		until(t, "the link is up", func() bool { return w.noted(format.EventLinkUp) == round+1 })
		if d := time.Since(up); d > time.Second {
			t.Errorf("round %d: joined again after %v (made within %v)", round, d, up.Sub(was))
		}
	})
	for kind, want := range map[string]int{
		format.EventInterfaceGone: n, format.EventInterfaceBack: n, format.EventLinkUp: n, format.EventJoinFailed: 0,
	} {
		if got := w.noted(kind); got != want {
			t.Errorf("%d events %s, want %d", got, kind, want)
		}
	}
	if got := w.noted(format.EventRejoined); got < n {
		t.Errorf("joined again %d times, want at least %d", got, n)
	}
}

// TestLinkDownAndUp sets the interface down, and takes its carrier away by setting the
// other end down.
func TestLinkDownAndUp(t *testing.T) {
	for _, c := range []struct {
		why   string
		which func(tx, rx string) string
		text  string
		again int // how often the groups are joined again, at least, each time
	}{
		{"set down", func(tx, rx string) string { return rx }, "was set down", 0},
		{"no carrier", func(tx, rx string) string { return tx }, "no carrier", 1},
	} {
		n := rounds(20)
		w, _ := flapping(t, n, Options{}, func(tx, rx string, round int, w *tape) {
			setDown(t, c.which(tx, rx))
			until(t, "it is down", func() bool { return w.noted(format.EventLinkDown) == round+1 })
			netnstest.RestoreVeth(t, tx, rx)
			until(t, "it is up", func() bool { return w.noted(format.EventLinkUp) == round+1 })
		})
		if i := slices.IndexFunc(w.events, func(e format.Event) bool { return e.Kind == format.EventLinkDown }); i < 0 || !strings.Contains(w.events[i].Text, c.text) {
			t.Errorf("%s: no such event: %+v", c.why, w.events)
		}
		if got := w.noted(format.EventRejoined); got < c.again*n {
			t.Errorf("%s: joined again %d times, want %d", c.why, got, c.again*n)
		}
	}
}

// TestReopen: where the kernel does not let the socket be bound to the new interface,
// another socket takes its place, and the ledger goes on.
func TestReopen(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	s := sub("[ff15::9:1]:5000", "", rx)
	r, err := Listen([]Subscription{s}, Options{Buffer: 4096})
	if err != nil {
		t.Fatal(err)
	}
	r.loop.rejoinConn = func(*sock.Conn, *net.Interface) error { return os.NewSyscallError("setsockopt", syscall.EPERM) }
	w := &tape{}
	const each = 1000
	flood := func() {
		k := newTalker(t, tx, source(t, tx, true), 1)
		for i := range uint64(each) {
			k.sequence(s.Group, i, 1, 64)
		}
		k.close()
	}
	flood() // before anybody reads: most are lost
	rec := start(t, r, w)
	until(t, "it runs", func() bool { return r.Stats().Datagrams > 0 })
	before := descriptors(t)
	sent := uint64(each)
	for round := range 3 {
		netnstest.RemakeVeth(t, tx, rx)
		until(t, "the link is up", func() bool { return w.noted(format.EventLinkUp) == round+1 })
		flood()
		sent += each
	}
	until(t, "all is accounted for", func() bool {
		s := r.Stats()
		return s.Datagrams+s.Dropped.Kernel == sent
	})
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	rec.end()
	st := r.Stats()
	if st.Datagrams+st.Dropped.Kernel != sent || st.Dropped.Kernel == 0 {
		t.Errorf("%d sent: %+v", sent, st)
	}
	if got := w.totals[0]; got.Received != st.Datagrams || got.Dropped != st.Dropped.Kernel || w.drops > got.Dropped {
		t.Errorf("totals %+v, %d placed", got, w.drops)
	}
	if n := w.noted(format.EventRejoined); n < 3 {
		t.Errorf("joined again %d times, want 3: %+v", n, w.events)
	}
}

// TestJoinFails: a join that fails is told once and tried again.
func TestJoinFails(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	r, err := Listen(many(3, 5000, rx), Options{Buffer: 1 << 20, StatsInterval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	fail := 20
	r.loop.rejoinConn = func(c *sock.Conn, dev *net.Interface) error {
		if fail--; fail > 0 {
			return syscall.ENOBUFS
		}
		return c.Rejoin(dev)
	}
	w := &tape{}
	rec := start(t, r, w)
	until(t, "it runs", func() bool { return r.Stats().Wakeups > 0 })
	netnstest.RemakeVeth(t, tx, rx)
	until(t, "the groups are joined again", func() bool { return w.noted(format.EventRejoined) > 0 })
	newTalker(t, tx, source(t, tx, false), 1).send(netip.MustParseAddrPort("239.7.0.2:5000"), make([]byte, 8))
	until(t, "a datagram comes", func() bool { return w.written() == 1 })
	rec.end()
	if n := w.noted(format.EventJoinFailed); n != 1 {
		t.Errorf("%d events that joining failed, want 1", n)
	}
}

// TestLostNews: what messages that were lost would have told is found out.
func TestLostNews(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	r, err := Listen(many(1, 5000, rx), Options{Buffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := r.loop
	l.batch = l.queue.get()
	l.now = sock.Now()
	lost := func() (kinds []string) {
		l.batch.Reset()
		l.inbox.put(news{wall: 1, mono: 1, kind: newsLost})
		l.readNews()
		for _, e := range l.batch.Events {
			kinds = append(kinds, e.Kind)
		}
		return kinds
	}
	if got := lost(); got != nil {
		t.Errorf("nothing has happened: %v", got)
	}
	netnstest.RemakeVeth(t, tx, rx)
	got := lost()
	for _, want := range []string{format.EventInterfaceGone, format.EventInterfaceBack, format.EventRejoined} {
		if !slices.Contains(got, want) {
			t.Errorf("made again: %v, want %s", got, want)
		}
	}
	setDown(t, tx)
	until(t, "no carrier", func() bool { return slices.Equal(lost(), []string{format.EventLinkDown}) })
	netnstest.RestoreVeth(t, tx, rx)
	if got := lost(); !slices.Contains(got, format.EventLinkUp) {
		t.Errorf("up again: %v", got)
	}
	// More than the inbox holds is news that something was lost.
	for range maxNews + 1 {
		l.inbox.put(news{kind: newsAddress})
	}
	if list := l.inbox.take(); len(list) != 1 || list[0].kind != newsLost {
		t.Errorf("%d news in an inbox that was too small", len(list))
	}
}

// TestAddressChanges are noted, each once; the groups are joined again where the
// interface had no address.
func TestAddressChanges(t *testing.T) {
	d := &device{name: "eth0", index: 3, up: true, carrier: true, subs: []int{0}, addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
	q := newQueue(minQueue, 1)
	l := &loop{queue: q, batch: q.get(), devices: []*device{d}, subs: make([]subscription, 1)}
	news4 := func(kind newsKind, addr string) {
		l.inbox.put(news{kind: kind, index: 3, addr: netip.MustParsePrefix(addr)})
	}
	news4(newsAddress, "10.0.0.1/24")   // known
	news4(newsAddress, "fe80::1/64")    // new
	news4(newsAddress, "fe80::1/64")    // prolonged
	news4(newsNoAddress, "10.0.0.1/24") // gone
	news4(newsNoAddress, "10.0.0.7/24") // never known
	news4(newsAddress, "10.0.0.2/24")   // the first IPv4 address
	news4(newsAddress, "10.0.0.3/24")   // a second one
	l.readNews()
	var got []string
	for _, e := range l.batch.Events {
		got = append(got, e.Kind+" "+e.Text)
	}
	want := []string{
		"address-changed eth0: address fe80::1/64 added",
		"address-changed eth0: address 10.0.0.1/24 removed",
		"address-changed eth0: address 10.0.0.2/24 added",
		"rejoined eth0: the groups were joined again: the interface has an address",
		"address-changed eth0: address 10.0.0.3/24 added",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	l.subs[0].Datagrams = 1 // they come: nothing is joined again
	d.addrs, l.batch.Events = nil, nil
	news4(newsAddress, "10.0.0.2/24")
	l.readNews()
	if len(l.batch.Events) != 1 {
		t.Errorf("while datagrams come: %+v", l.batch.Events)
	}
}

// TestSilence: each group is reported once when it falls silent, and when it is heard
// again.
func TestSilence(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	subs := append(many(3, 5000, rx), sub("[ff15::9:1]:5000", "", rx))
	w := &tape{}
	r := record(t, subs, Options{Buffer: 1 << 20, StatsInterval: time.Millisecond, Silence: 50 * time.Millisecond}, w)
	until(t, "all are silent", func() bool { return w.noted(format.EventSilent) == 4 })
	k.send(subs[1].Group, make([]byte, 8))
	until(t, "one is heard, and silent again", func() bool { return w.noted(format.EventSilent) == 5 && w.noted(format.EventResumed) == 1 })
	r.end()
	last := w.events[len(w.events)-1]
	if last.Kind != format.EventSilent || last.Interface != 1 || !strings.Contains(last.Text, "239.7.0.1:5000 on "+rx+": nothing for ") || !strings.Contains(last.Text, "IGMP querier") {
		t.Errorf("%+v", last)
	}
	if i := slices.IndexFunc(w.events, func(e format.Event) bool { return e.Interface == 3 }); !strings.Contains(w.events[i].Text, "MLD querier") {
		t.Errorf("%+v", w.events[i])
	}
}

// TestClockStep sets the clock that the recorder sees, for one socket and for several.
func TestClockStep(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	for _, groups := range []int{1, 3} {
		subs := many(groups, 5000, rx)
		r, err := Listen(subs, Options{Buffer: 1 << 20, StatsInterval: 5 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		step := make(chan int64, 1)
		ahead := int64(0)
		r.loop.realtime = func() int64 {
			select {
			case by := <-step:
				ahead += by
			default:
			}
			return time.Now().UnixNano() + ahead
		}
		w := &tape{}
		rec := start(t, r, w)
		until(t, "it runs", func() bool { return r.Stats().Wakeups > 2 })
		for i, by := range []int64{3600e9, -1800e9, 40e6} {
			step <- by
			until(t, "the step is noted", func() bool {
				k.send(subs[0].Group, make([]byte, 8)) // also while datagrams come
				return w.noted(format.EventClockStep) == i+1
			})
		}
		rec.end()
		var sum time.Duration
		for _, e := range w.events {
			var by, from, to string
			if _, err := fmt.Sscanf(e.Text, "the system's clock was set by %s from %s to %s", &by, &from, &to); err != nil {
				t.Fatalf("%q: %v", e.Text, err)
			}
			d, err1 := time.ParseDuration(strings.TrimSuffix(by, ":"))
			a, err2 := time.Parse(time.RFC3339Nano, from)
			b, err3 := time.Parse(time.RFC3339Nano, to)
			if err := errors.Join(err1, err2, err3); err != nil || (b.Sub(a)-d).Abs() > 2*time.Microsecond {
				t.Errorf("%q: %v", e.Text, err)
			}
			if e.Time/1000 != b.UnixMicro() || e.Monotonic == 0 || e.Interface != format.NoInterface {
				t.Errorf("%+v", e)
			}
			sum += d
		}
		if len(w.events) != 3 || (sum-1800040*time.Millisecond).Abs() > 20*time.Millisecond {
			t.Errorf("%d groups: %d steps, %v together: %+v", groups, len(w.events), sum, w.events)
		}
	}
}

// TestUnwatched: a recorder that may not watch says so in the recording.
func TestUnwatched(t *testing.T) {
	_, rx := netnstest.Veth(t)
	r, err := Listen(many(1, 5000, rx), Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.loop.unwatched = syscall.EAFNOSUPPORT
	w := &tape{}
	rec := start(t, r, w)
	until(t, "it is noted", func() bool { return w.noted(format.EventUnwatched) == 1 })
	rec.end()
}

// FuzzNews: a message of the kernel's is read within its bounds, whatever it says.
func FuzzNews(f *testing.F) {
	f.Add(uint16(syscall.RTM_NEWLINK), make([]byte, 40))
	f.Add(uint16(syscall.RTM_NEWADDR), append(make([]byte, 8), 8, 0, 1, 0, 10, 0, 0, 1))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		if n, ok := parseNews(kind, data); ok && (n.kind == newsAddress || n.kind == newsNoAddress) && !n.addr.Addr().IsValid() {
			t.Errorf("news of no address: %+v", n)
		}
	})
}
