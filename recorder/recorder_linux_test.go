package recorder

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"castdeck/format"
	"castdeck/internal/netnstest"
	"castdeck/internal/sock"
)

// talker sends from one interface; it is independent of internal/sock.
type talker struct {
	t  testing.TB
	fd int
}

func newTalker(t testing.TB, iface, source string, ttl int) *talker {
	t.Helper()
	i, err := net.InterfaceByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	ipv6 := strings.Contains(source, ":")
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if ipv6 {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, i.Index),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl))
	} else {
		err = errors.Join(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(i.Index)}),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl))
	}
	if err == nil {
		err = unix.Bind(fd, sockaddrOf(netip.AddrPortFrom(netip.MustParseAddr(source), 0)))
	}
	if err != nil {
		t.Fatalf("%s on %s: %v", source, iface, err)
	}
	k := &talker{t, fd}
	t.Cleanup(k.close)
	return k
}

// close may be called before the test ends.
func (k *talker) close() {
	unix.Close(k.fd)
	k.fd = -1
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func (k *talker) send(dst netip.AddrPort, payload []byte) {
	k.t.Helper()
	if err := unix.Sendto(k.fd, payload, 0, sockaddrOf(dst)); err != nil {
		k.t.Fatalf("sending %d bytes to %v: %v", len(payload), dst, err)
	}
}

// tape is a writer that keeps copies, or only counts.
type tape struct {
	sync.Mutex
	keep      bool
	datagrams []format.Datagram
	count     uint64
	drops     uint64
	unordered int
	last      uint64
	totals    map[uint16]format.InterfaceStats
	events    []format.Event
	fail      int           // the n-th WriteBatch from 1 fails
	gate      chan struct{} // WriteBatch waits for it where it is not nil
	entered   chan struct{} // gets a value as WriteBatch waits
	writes    int
}

func (w *tape) WriteBatch(b *format.Batch) error {
	w.Lock()
	defer w.Unlock()
	w.writes++
	if w.gate != nil {
		select {
		case w.entered <- struct{}{}:
		default:
		}
		<-w.gate
	}
	if w.writes == w.fail {
		return errScript
	}
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		w.count++
		w.drops += d.Drops
		if len(d.Payload) >= 8 {
			seq := binary.BigEndian.Uint64(d.Payload)
			if seq < w.last {
				w.unordered++
			}
			w.last = seq
		}
		if w.keep {
			c := *d
			c.Payload, c.Frame = bytes.Clone(d.Payload), bytes.Clone(d.Frame)
			w.datagrams = append(w.datagrams, c)
		}
	}
	w.events = append(w.events, b.Events...)
	for _, s := range b.Stats {
		if w.totals == nil {
			w.totals = map[uint16]format.InterfaceStats{}
		}
		old := w.totals[s.Interface]
		if s.Received < old.Received || s.Dropped < old.Dropped || s.Time < old.Time && len(w.events) == 0 {
			panic(fmt.Sprintf("totals go backwards: %+v after %+v", s, old))
		}
		w.totals[s.Interface] = s
	}
	return nil
}

// wait returns when the writer waits for the gate.
func (w *tape) wait(t testing.TB) {
	t.Helper()
	select {
	case <-w.entered:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is written")
	}
}

func (w *tape) written() uint64 {
	w.Lock()
	defer w.Unlock()
	return w.count
}

// sums are the datagrams and drops of the last totals of all interfaces.
func (w *tape) sums() (received, dropped uint64) {
	for _, s := range w.totals {
		received += s.Received
		dropped += s.Dropped
	}
	return received, dropped
}

// recording is a Recorder that runs.
type recording struct {
	*Recorder
	t      testing.TB
	cancel context.CancelFunc
	result chan error
}

func record(t testing.TB, subs []Subscription, o Options, w format.BatchWriter) *recording {
	t.Helper()
	r, err := Listen(subs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return start(t, r, w)
}

func start(t testing.TB, r *Recorder, w format.BatchWriter) *recording {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	rec := &recording{Recorder: r, t: t, cancel: cancel, result: make(chan error, 1)}
	go func() { rec.result <- r.Run(ctx, w) }()
	return rec
}

// wait returns what Run returned.
func (r *recording) wait() error {
	r.t.Helper()
	select {
	case err := <-r.result:
		return err
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<20)
		r.t.Fatalf("Run does not return:\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

func (r *recording) end() {
	r.t.Helper()
	r.cancel()
	if err := r.wait(); err != nil {
		r.t.Fatalf("Run: %v", err)
	}
}

// until waits for a condition.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func source(t testing.TB, iface string, ipv6 bool) string {
	t.Helper()
	i, err := net.InterfaceByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip := netip.MustParsePrefix(a.String()).Addr(); ip.Is6() == ipv6 && !ip.IsLinkLocalUnicast() {
			return ip.String()
		}
	}
	t.Fatalf("%s has no address", iface)
	return ""
}

func TestRecordOneGroup(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	for _, group := range []string{"239.7.1.1:5000", "[ff15::7:1]:5000"} {
		s := sub(group, "", rx)
		src := source(t, tx, s.Group.Addr().Is6())
		w := &tape{keep: true}
		r := record(t, []Subscription{s}, Options{Buffer: 8 << 20}, w)
		k := newTalker(t, tx, src, 7)
		sizes := []int{0, 1, 1472, 1473, 8972, 65507}
		begin := time.Now().UnixNano()
		for i, n := range sizes {
			k.send(s.Group, bytes.Repeat([]byte{byte(i + 1)}, n))
		}
		r.end()
		if len(w.datagrams) != len(sizes) {
			t.Fatalf("%s: %d datagrams, want %d", group, len(w.datagrams), len(sizes))
		}
		for i, d := range w.datagrams {
			if !bytes.Equal(d.Payload, bytes.Repeat([]byte{byte(i + 1)}, sizes[i])) || int(d.Length) != sizes[i] {
				t.Errorf("%s: datagram %d: %d bytes, length %d, want %d", group, i, len(d.Payload), d.Length, sizes[i])
			}
			if d.Dst != s.Group || d.Src.Addr().String() != src || d.Src.Port() == 0 || d.Interface != 0 || d.TTL != 7 || d.Flags != 0 || d.Drops != 0 || d.Frame != nil {
				t.Errorf("%s: datagram %d: %+v", group, i, d)
			}
			if d.Time < begin || d.Time > time.Now().UnixNano() || i > 0 && d.Time < w.datagrams[i-1].Time {
				t.Errorf("%s: datagram %d: time %d", group, i, d.Time)
			}
		}
		st := r.Stats()
		if st.Datagrams != uint64(len(sizes)) || st.Bytes != 1+1472+1473+8972+65507 || st.Dropped != (Dropped{}) || st.QueueBytes != 0 {
			t.Errorf("%s: %+v", group, st)
		}
		if last := w.datagrams[len(sizes)-1].Time; st.Subscriptions[0] != (SubscriptionStats{Datagrams: st.Datagrams, Bytes: st.Bytes, Last: last}) {
			t.Errorf("%s: %+v", group, st.Subscriptions[0])
		}
		if got := w.totals[0]; got.Received != st.Datagrams || got.Dropped != 0 || got.Time < begin {
			t.Errorf("%s: totals %+v", group, got)
		}
		if got, want := r.Interfaces()[0], (format.Interface{Name: rx, Description: group + " on " + rx, LinkType: 1}); got != want {
			t.Errorf("%s: interface %+v, want %+v", group, got, want)
		}
		// What is granted depends on who runs the test: all of it, or net.core.rmem_max.
		if st.BufferBytes <= 0 || st.BufferBytes > 8<<20 {
			t.Errorf("%s: buffer of %d bytes", group, st.BufferBytes)
		}
	}
}

func TestRecordManyGroups(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	var ports []Subscription
	for i := range 100 {
		ports = append(ports, sub(fmt.Sprintf("239.7.2.1:%d", 6000+i), "", rx))
	}
	ipv6 := v6(100)
	for i := range ipv6 {
		ipv6[i].Interface = rx
	}
	for _, c := range []struct {
		name    string
		subs    []Subscription
		sockets int
	}{
		{"few groups", many(10, 5000, rx), 10},
		{"one port", many(100, 5000, rx), 5}, // igmp_max_memberships = 20
		{"a hundred ports", ports, 100},
		{"IPv6", ipv6, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &tape{keep: true}
			r := record(t, c.subs, Options{Buffer: 1 << 20}, w)
			if got := r.Stats().Sockets; got != c.sockets {
				t.Errorf("%d sockets, want %d", got, c.sockets)
			}
			k := newTalker(t, tx, source(t, tx, c.subs[0].Group.Addr().Is6()), 1)
			const rounds = 20
			var want []uint32
			for round := range rounds {
				for i, s := range c.subs {
					p := fmt.Appendf(nil, "%d %d %v", round, i, s.Group)
					k.send(s.Group, p)
					want = append(want, crc32.ChecksumIEEE(p))
				}
			}
			r.end()
			if len(w.datagrams) != len(want) {
				t.Fatalf("%d datagrams, want %d", len(w.datagrams), len(want))
			}
			next := make([]int, len(c.subs))
			for _, d := range w.datagrams {
				i := int(d.Interface)
				if d.Dst != c.subs[i].Group {
					t.Fatalf("a datagram to %v on subscription %v", d.Dst, c.subs[i])
				}
				if p := fmt.Sprintf("%d %d %v", next[i], i, d.Dst); string(d.Payload) != p {
					t.Fatalf("got %q, want %q", d.Payload, p)
				}
				next[i]++
			}
			for i, s := range r.Stats().Subscriptions {
				if s.Datagrams != rounds || s.Dropped != 0 || w.totals[uint16(i)].Received != rounds {
					t.Errorf("subscription %d: %+v, totals %+v", i, s, w.totals[uint16(i)])
				}
			}
		})
	}
}

func TestRecordSources(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	one := source(t, tx, false)
	link, err := netlink.LinkByName(tx)
	if err != nil {
		t.Fatal(err)
	}
	var sources []string
	for i := range 3 {
		a := netip.MustParseAddr(one).As4()
		a[3] = byte(101 + i)
		ip := netip.AddrFrom4(a)
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, ip.String())
	}
	const group = "232.7.3.1:5000"
	w := &tape{keep: true}
	r := record(t, []Subscription{sub(group, sources[0], rx), sub(group, sources[1], rx)}, Options{Buffer: 1 << 20}, w)
	for _, s := range sources { // nobody subscribed to the third
		newTalker(t, tx, s, 1).send(netip.MustParseAddrPort(group), []byte(s))
	}
	r.end()
	if len(w.datagrams) != 2 {
		t.Fatalf("%d datagrams, want 2", len(w.datagrams))
	}
	for _, d := range w.datagrams {
		if want := sources[d.Interface]; string(d.Payload) != want || d.Src.Addr().String() != want {
			t.Errorf("subscription %d got %q from %v, want %s", d.Interface, d.Payload, d.Src, want)
		}
	}
	if got := r.Interfaces()[1].Description; got != sources[1]+"@"+group+" on "+rx {
		t.Errorf("described as %q", got)
	}
}

func TestRecordNothingForeign(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	foreign := netip.MustParseAddrPort("239.7.250.1:5000")
	other := record(t, []Subscription{{Group: foreign, Interface: rx}}, Options{Buffer: 1 << 20}, &tape{})
	for _, n := range []int{1, 100} { // a socket each, and shared ones
		w := &tape{keep: true}
		subs := many(n, 5000, rx)
		r := record(t, subs, Options{Buffer: 1 << 20}, w)
		k := newTalker(t, tx, source(t, tx, false), 1)
		k.send(foreign, []byte("foreign"))
		// Unicast to the port reaches a socket that is bound to the port alone. It goes
		// by lo, which is how a host reaches its own address.
		unicast := netip.AddrPortFrom(netip.MustParseAddr(source(t, rx, false)), 5000)
		k.send(unicast, []byte("foreign"))
		k.send(subs[n-1].Group, []byte("ours"))
		r.end()
		if len(w.datagrams) != 1 || string(w.datagrams[0].Payload) != "ours" || int(w.datagrams[0].Interface) != n-1 {
			t.Errorf("%d groups: %d datagrams", n, len(w.datagrams))
		}
		want := uint64(0)
		if n > ownSocket {
			want = 1 // the unicast
		}
		if got := r.Stats(); got.Foreign != want || got.Datagrams != 1 {
			t.Errorf("%d groups: %d foreign, want %d", n, got.Foreign, want)
		}
	}
	until(t, "the other recorder has its own", func() bool { return other.Stats().Datagrams == 2 })
}

// sequence sends n datagrams that carry their number.
func (k *talker) sequence(dst netip.AddrPort, from, n uint64, size int) {
	k.t.Helper()
	p := make([]byte, size)
	for i := from; i < from+n; i++ {
		binary.BigEndian.PutUint64(p, i)
		k.send(dst, p)
	}
}

// check compares everything that counts with what was sent.
func (w *tape) check(t *testing.T, sent uint64, st Stats) {
	t.Helper()
	if st.Datagrams+st.Dropped.Kernel != sent {
		t.Errorf("%d received + %d dropped by the kernel = %d, want the %d sent", st.Datagrams, st.Dropped.Kernel, st.Datagrams+st.Dropped.Kernel, sent)
	}
	if w.count+st.Dropped.Writer != st.Datagrams {
		t.Errorf("%d written + %d dropped, want %d received", w.count, st.Dropped.Writer, st.Datagrams)
	}
	if w.unordered != 0 {
		t.Errorf("%d datagrams out of order", w.unordered)
	}
	if st.QueueBytes != 0 {
		t.Errorf("%d bytes left in the queue", st.QueueBytes)
	}
	if st.Dropped.Writer != 0 {
		return // what the writer would have got is not known
	}
	if received, dropped := w.sums(); received != st.Datagrams || dropped != st.Dropped.Kernel {
		t.Errorf("the recording's totals are %d and %d dropped, want %d and %d", received, dropped, st.Datagrams, st.Dropped.Kernel)
	}
	if w.drops > st.Dropped.Kernel {
		t.Errorf("%d drops stated with datagrams, more than the %d in all", w.drops, st.Dropped.Kernel)
	}
}

// overload sends n datagrams and one before them while the writer stands at its gate,
// until the queue is full, and then opens the gate and waits until all are accounted for.
func overload(t *testing.T, r *recording, w *tape, k *talker, group netip.AddrPort, n uint64) {
	t.Helper()
	k.sequence(group, 0, 1, 64)
	w.wait(t)
	k.sequence(group, 1, n, 64)
	until(t, "the queue is full", func() bool { return r.Pressure() == 1 })
	close(w.gate)
	until(t, "all is accounted for", func() bool {
		st := r.Stats()
		return st.Datagrams+st.Dropped.Kernel == n+1
	})
}

func TestLedgerUnderLoss(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	group := netip.MustParseAddrPort("239.7.4.1:5000")
	runs := 10
	if testing.Short() {
		runs = 2
	}
	for run := range runs {
		// A writer that does not move, a queue of a few batches and a small receive
		// buffer: everything fills up, and the kernel drops.
		w := &tape{gate: make(chan struct{}), entered: make(chan struct{}, 1)}
		r := record(t, []Subscription{{Group: group, Interface: rx}}, Options{Buffer: 64 << 10, Queue: 1, StatsInterval: 10 * time.Millisecond}, w)
		n := uint64(20_000 + 1000*run)
		overload(t, r, w, k, group, n)
		k.sequence(group, n+1, 100, 64) // so that losses are followed by datagrams
		r.end()
		st := r.Stats()
		w.check(t, n+101, st)
		if st.Dropped.Kernel == 0 || st.Dropped.Writer != 0 {
			t.Fatalf("nothing was lost: %+v", st)
		}
		if w.drops == 0 {
			t.Error("no datagram states the loss before it")
		}
	}
}

func TestLedgerLossBeforeAndAfter(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	for _, n := range []int{1, 100} { // sockets for each group, and shared ones
		subs := many(n, 5000, rx)
		r, err := Listen(subs, Options{Buffer: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		// All of this comes between bind and the first read, and its loss is seen in no
		// datagram: the last one queued came before the first one dropped.
		const sent = 500
		k.sequence(subs[n-1].Group, 0, sent, 64)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		w := &tape{}
		if err := r.Run(ctx, w); err != nil {
			t.Fatal(err)
		}
		st := r.Stats()
		w.check(t, sent, st)
		if st.Dropped.Kernel == 0 || w.drops != 0 {
			t.Errorf("%d dropped, %d of them stated with a datagram; want some and 0", st.Dropped.Kernel, w.drops)
		}
		if len(w.totals) != n {
			t.Errorf("totals of %d subscriptions, want %d", len(w.totals), n)
		}
		if n == 100 && st.Subscriptions[n-1].Dropped != st.Dropped.Kernel {
			t.Errorf("the loss is not booked on the group whose datagrams came: %+v", st.Subscriptions[n-1])
		}
	}
}

func TestTotalsWhileRunning(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	group := netip.MustParseAddrPort("239.7.5.1:5000")
	w := &tape{}
	r := record(t, []Subscription{{Group: group, Interface: rx}}, Options{Buffer: 1 << 20, StatsInterval: 20 * time.Millisecond}, w)
	k.sequence(group, 0, 10, 64)
	until(t, "totals of the 10", func() bool {
		w.Lock()
		defer w.Unlock()
		return w.totals[0].Received == 10
	})
	w.Lock()
	writes := w.writes
	w.Unlock()
	until(t, "statistics are published", func() bool { return r.Stats().Datagrams == 10 })
	// Nothing changes: nothing is written. Four intervals and more must pass.
	ticks := time.Now().Add(100 * time.Millisecond)
	until(t, "time passes", func() bool { return time.Now().After(ticks) })
	w.Lock()
	if w.writes != writes {
		t.Errorf("%d writes while nothing changed", w.writes-writes)
	}
	w.Unlock()
	r.end()
	w.check(t, 10, r.Stats())
}

func TestCountIsExact(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	for _, count := range []uint64{1, 63, 64, 65, 1024, 1025, 3000} { // around a call and a batch
		for _, groups := range []int{1, 6, 100} {
			subs := many(groups, 5000, rx)
			w := &tape{}
			r := record(t, subs, Options{Buffer: 8 << 20, Count: count}, w)
			for i := uint64(0); i < 3100; i++ {
				k.sequence(subs[i%uint64(groups)].Group, i, 1, 16)
			}
			if err := r.wait(); err != nil {
				t.Fatal(err)
			}
			st := r.Stats()
			if received, _ := w.sums(); w.count != count || st.Datagrams != count || received != count || st.Dropped.Kernel != 0 {
				t.Errorf("%d of %d groups: %d written, %d received, %d in the totals", count, groups, w.count, st.Datagrams, received)
			}
			r.Close()
		}
	}
}

func TestCancelDrains(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	for _, groups := range []int{1, 6, 100} {
		subs := many(groups, 5000, rx)
		w := &tape{gate: make(chan struct{}), entered: make(chan struct{}, 1)}
		r := record(t, subs, Options{Buffer: 32 << 20, Queue: 1}, w)
		const sent = 30_000 // more than the queue holds, so the kernel holds a part
		k.sequence(subs[0].Group, 0, 1, 64)
		w.wait(t)
		for i := uint64(1); i < sent; i++ {
			k.sequence(subs[i%uint64(groups)].Group, i, 1, 64)
		}
		r.cancel()
		close(w.gate)
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		if groups > 1 {
			w.unordered = 0 // between sockets there is no order
		}
		w.check(t, sent, r.Stats())
		if w.count != sent && r.Stats().BufferBytes == 32<<20 {
			t.Errorf("%d groups: %d written of %d", groups, w.count, sent)
		}
	}
}

func TestWriterFails(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	group := netip.MustParseAddrPort("239.7.6.1:5000")
	w := &tape{fail: 2}
	r := record(t, []Subscription{{Group: group, Interface: rx}}, Options{Buffer: 32 << 20}, w)
	const sent = 10_000
	k.sequence(group, 0, sent, 64)
	err := r.wait()
	if !errors.Is(err, errScript) || err.Error() != "writing the recording: disk is gone" {
		t.Errorf("Run: %v", err)
	}
	st := r.Stats()
	if st.Dropped.Writer == 0 || w.count+st.Dropped.Writer != st.Datagrams {
		t.Errorf("%d written + %d dropped by the writer, want %d received", w.count, st.Dropped.Writer, st.Datagrams)
	}
}

// TestReceiveErrors injects errors of recvmmsg.
func TestReceiveErrors(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	group := netip.MustParseAddrPort("239.7.7.1:5000")
	for _, c := range []struct {
		errno syscall.Errno
		times int // in a row
		want  string
	}{
		{syscall.ENOMEM, 3, ""},
		{syscall.ENETDOWN, 1, ""},
		{syscall.EINTR, 1, ""},
		{syscall.EBADF, 1, "receiving 239.7.7.1: bad file descriptor"},
	} {
		r, err := Listen([]Subscription{{Group: group, Interface: rx}}, Options{Buffer: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		left := c.times
		r.loop.recv = func(conn *sock.Conn) (int, error) {
			if left > 0 {
				left--
				return 0, c.errno
			}
			return r.loop.receiver.Recv(conn)
		}
		const sent = 2000
		k.sequence(group, 0, sent, 64)
		w := &tape{}
		rec := start(t, r, w)
		if c.want != "" {
			if err := rec.wait(); err == nil || err.Error() != c.want || !errors.Is(err, c.errno) {
				t.Errorf("%v: Run: %v, want %q", c.errno, err, c.want)
			}
		} else {
			until(t, "all is written", func() bool { return w.written() == sent })
			rec.end()
			w.check(t, sent, r.Stats())
			if got := r.Stats().Errors; got != uint64(c.times) {
				t.Errorf("%v: %d errors counted, want %d", c.errno, got, c.times)
			}
		}
		r.Close()
	}
}

func TestReceiveErrorsEnd(t *testing.T) {
	l := &loop{now: 1e18}
	s := &socket{groups: []groupIndex{{addr: netip.MustParseAddr("239.7.7.1")}}}
	for i := 1; i < maxFailures; i++ {
		if err := l.failure(s, syscall.ENOMEM); err != nil {
			t.Fatalf("failure %d ends the recording: %v", i, err)
		}
		l.now += int64(maxBackOff)
	}
	if err := l.failure(s, syscall.ENOMEM); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("failure %d in a row: %v", maxFailures, err)
	}
	// A link that goes down now and then is no reason to end.
	s.failures = 0
	for i := range 3 * maxFailures {
		l.now += failureMemory + 1
		if err := l.failure(s, syscall.ENETDOWN); err != nil {
			t.Fatalf("failure %d, far from the one before: %v", i, err)
		}
	}
}

// TestTake feeds messages that this kernel does not send.
func TestTake(t *testing.T) {
	q := newQueue(minQueue, 2)
	l := &loop{queue: q, batch: q.get(), subs: make([]subscription, 2), publish: func(*loop) {}, realtime: func() int64 { return time.Now().UnixNano() }}
	a, b := netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("239.1.1.2")
	s := &socket{groups: []groupIndex{{addr: a, sub: 1}, {addr: b, sub: 0}}, buffer: 1}
	src := netip.MustParseAddrPort("10.0.0.1:9")
	to := func(addr netip.Addr) sock.Message {
		return sock.Message{Src: src, Dst: netip.AddrPortFrom(addr, 5000), Time: 1, Payload: []byte("abc"), Length: 3}
	}
	plain, unstamped, truncated, foreign, lossy := to(a), to(b), to(b), to(netip.MustParseAddr("239.1.1.3")), to(b)
	unstamped.Time = 0
	truncated.Length, truncated.Truncated = 70000, true
	foreign.HasDrops, foreign.Drops = true, 4
	lossy.HasDrops, lossy.Drops = true, 6
	before := time.Now().UnixNano()
	for _, m := range []sock.Message{plain, unstamped, truncated, foreign, lossy} {
		l.take(s, &m)
	}
	ds := l.batch.Datagrams
	if len(ds) != 4 {
		t.Fatalf("%d datagrams, want 4", len(ds))
	}
	if ds[0].Interface != 1 || ds[0].Flags != 0 || ds[0].Time != 1 {
		t.Errorf("plain: %+v", ds[0])
	}
	if ds[1].Interface != 0 || ds[1].Flags != format.FlagUserStamp || ds[1].Time < before || ds[1].Time > time.Now().UnixNano() {
		t.Errorf("without a kernel time: %+v", ds[1])
	}
	if ds[2].Flags != format.FlagTruncated || ds[2].Length != 70000 || string(ds[2].Payload) != "abc" {
		t.Errorf("truncated: %+v", ds[2])
	}
	if ds[3].Drops != 6 { // the foreign one's 4 too
		t.Errorf("after a loss: %+v", ds[3])
	}
	if l.stats.Foreign != 1 || l.stats.Datagrams != 4 || l.stats.Dropped != (Dropped{Kernel: 6, Truncated: 1}) || l.subs[0].Dropped != 6 || l.subs[1].Datagrams != 1 {
		t.Errorf("%+v, %+v", l.stats, l.subs)
	}
	// IPv6 gives a socket what comes in by another interface, too.
	s6 := &socket{groups: []groupIndex{{addr: a}}, device: 3}
	for device, want := range map[uint32]bool{3: true, 4: false} {
		if _, ok := s6.find(&sock.Message{Interface: device}); ok != want {
			t.Errorf("interface %d: %v, want %v", device, ok, want)
		}
	}
}

func TestFindInSharedSocket(t *testing.T) {
	subs := many(128, 5000, "")
	s := &socket{}
	for i, x := range subs {
		s.groups = append(s.groups, groupIndex{addr: x.Group.Addr(), sub: uint16(i)})
	}
	for _, i := range []int{0, 127, 64, 64, 1, 126} {
		if got, ok := s.find(&sock.Message{Dst: subs[i].Group}); !ok || int(got) != i {
			t.Errorf("group %d found as %d, %v", i, got, ok)
		}
	}
	for _, a := range []string{"239.6.255.255:5000", "239.7.0.128:5000", "224.0.0.1:5000", "[ff15::1]:5000"} {
		if _, ok := s.find(&sock.Message{Dst: netip.MustParseAddrPort(a)}); ok {
			t.Errorf("%s was found", a)
		}
	}
	if _, ok := s.find(&sock.Message{}); ok {
		t.Error("no destination was found")
	}
}

// TestFindSource: a socket of several sources of one group and of groups without.
func TestFindSource(t *testing.T) {
	addr := netip.MustParseAddr
	s := &socket{groups: []groupIndex{
		{addr("232.1.1.1"), addr("10.0.0.9"), 3}, {addr("239.1.1.1"), netip.Addr{}, 0},
		{addr("232.1.1.1"), addr("10.0.0.2"), 2}, {addr("232.1.1.2"), addr("10.0.0.9"), 1},
	}}
	slices.SortFunc(s.groups, groupIndex.compare)
	for _, c := range []struct {
		src, dst string
		want     int // -1 is none
	}{
		{"10.0.0.2", "232.1.1.1", 2}, {"10.0.0.9", "232.1.1.1", 3}, {"10.0.0.9", "232.1.1.2", 1},
		{"10.0.0.1", "232.1.1.1", -1}, {"10.0.0.3", "232.1.1.1", -1}, {"10.0.0.10", "232.1.1.1", -1}, {"10.0.0.2", "232.1.1.2", -1},
		{"10.0.0.1", "239.1.1.1", 0}, {"255.255.255.255", "239.1.1.1", 0}, {"0.0.0.0", "239.1.1.1", 0},
		{"10.0.0.2", "239.1.1.0", -1}, {"10.0.0.2", "239.1.1.2", -1}, {"10.0.0.2", "224.0.0.1", -1},
	} {
		m := &sock.Message{Src: netip.AddrPortFrom(addr(c.src), 9), Dst: netip.AddrPortFrom(addr(c.dst), 5000)}
		got := -1
		if n, ok := s.find(m); ok {
			got = int(n)
		}
		if got != c.want {
			t.Errorf("%s to %s: subscription %d, want %d", c.src, c.dst, got, c.want)
		}
	}
}

func TestListenFailsWhole(t *testing.T) {
	_, rx := netnstest.Veth(t)
	before := descriptors(t)
	for _, c := range []struct {
		subs []Subscription
		want string
	}{
		{append(many(3, 5000, rx), sub("239.7.8.1:5000", "", "eth9")), "eth9: no such interface (have lo, "},
		{append(many(3, 5000, rx), sub("[ff12::1]:5000", "", "")), "needs an interface"},
		{nil, "no group"},
	} {
		r, err := Listen(c.subs, Options{})
		if err == nil {
			r.Close()
			t.Errorf("no error, want %q", c.want)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if _, err := Listen(many(1, 5000, rx), Options{Queue: -1}); err == nil {
		t.Error("a negative queue: no error")
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestCloseAndRunAgain(t *testing.T) {
	_, rx := netnstest.Veth(t)
	before, goroutines := descriptors(t), runtime.NumGoroutine()
	for range 20 {
		never, err := Listen(many(1, 5000, rx), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(never.Close(), never.Close()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := never.Run(context.Background(), &tape{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run after Close: %v", err)
		}
		w := &tape{}
		r := record(t, many(10, 5001, rx), Options{StatsInterval: time.Millisecond}, w)
		until(t, "it runs", func() bool { return r.Stats().Wakeups > 0 })
		if err := r.Run(context.Background(), w); err == nil {
			t.Error("Run twice: no error")
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := r.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
		}
		both.Wait()
		if err := r.wait(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run, closed: %v", err)
		}
		if len(w.totals) != 10 {
			t.Errorf("closed without final totals: %v", w.totals)
		}
	}
	until(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestStatsFromAnywhere(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	subs := many(6, 5000, rx)
	w := &tape{}
	r := record(t, subs, Options{Buffer: 16 << 20}, w)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				st := r.Stats()
				sum := uint64(0)
				for i := range st.Subscriptions {
					sum += st.Subscriptions[i].Datagrams
				}
				if sum != st.Datagrams {
					t.Errorf("subscriptions sum up to %d, want %d", sum, st.Datagrams)
					return
				}
				if p := r.Pressure(); p < 0 || p > 1 {
					t.Errorf("pressure %v", p)
				}
				runtime.Gosched()
			}
		})
	}
	const sent = 6000
	for i := range uint64(sent) {
		k.sequence(subs[i%6].Group, i, 1, 64)
	}
	until(t, "all is published", func() bool { return r.Stats().Datagrams == sent })
	close(stop)
	readers.Wait()
	r.end()
	if st := r.Stats(); st.Calls == 0 || st.Wakeups == 0 || st.Calls > sent {
		t.Errorf("%+v", st)
	}
}

func TestLoopAllocatesNothing(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	for _, groups := range []int{1, 100} {
		subs := many(groups, 5000, rx)
		r, err := Listen(subs, Options{Buffer: 32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		const runs, each = 20, 200
		for i := range (runs + 1) * each {
			k.send(subs[i%groups].Group, []byte("hello"))
		}
		l := r.loop
		// The writing goroutine's part, without a goroutine.
		recycle := func() {
			for len(l.queue.full) > 0 {
				b := (<-l.queue.full).batch
				b.Reset()
				l.queue.free <- b
			}
		}
		for range 3 { // batches that exist already
			l.queue.put(parcel{batch: l.queue.get()})
		}
		recycle()
		l.batch = l.queue.get()
		done := 0
		if n := testing.AllocsPerRun(runs, func() {
			l.now = sock.Now()
			k, _, err := l.pass()
			if err != nil {
				t.Error(err)
			}
			l.keepHouse()
			l.handOver()
			recycle()
			done += k
		}); n != 0 {
			t.Errorf("%d groups: %v allocations a pass, want 0", groups, n)
		}
		if done != (runs+1)*each {
			t.Errorf("%d groups: %d datagrams, want %d", groups, done, (runs+1)*each)
		}
	}
}

// BenchmarkReceive reports the receive path from the kernel's queue into
// batches, without the sending and without sleeps.
func BenchmarkReceive(b *testing.B) {
	for _, groups := range []int{1, 100} {
		for _, size := range []int{64, 256, 1400} {
			b.Run(fmt.Sprintf("groups=%d/size=%d", groups, size), func(b *testing.B) {
				tx, rx := netnstest.Veth(b)
				k := newTalker(b, tx, source(b, tx, false), 1)
				subs := many(groups, 5000, rx)
				r, err := Listen(subs, Options{Buffer: 64 << 20})
				if err != nil {
					b.Fatal(err)
				}
				defer r.Close()
				l := r.loop
				l.batch = l.queue.get()
				payload := make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; {
					b.StopTimer()
					fill := min(b.N-n, 4096)
					for i := range fill {
						k.send(subs[i*groups/fill].Group, payload)
					}
					b.StartTimer()
					for got := 0; got < fill; {
						k, _, err := l.pass()
						if err != nil || k == 0 {
							b.Fatalf("%d datagrams of %d, %v", got, fill, err)
						}
						got += k
						for len(l.queue.full) > 0 {
							done := (<-l.queue.full).batch
							done.Reset()
							l.queue.free <- done
						}
					}
					n += fill
				}
			})
		}
	}
}

// TestTwiceByAnotherName: one subscription under two names of its interface would
// be recorded twice.
func TestTwiceByAnotherName(t *testing.T) {
	netnstest.Require(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"lo", fmt.Sprint(lo.Index), "127.0.0.1"} {
		_, err := Listen([]Subscription{sub("239.1.1.1:5000", "", "lo"), sub("239.1.1.1:5000", "", other)}, Options{})
		if err == nil || !strings.Contains(err.Error(), "is subscribed to twice") {
			t.Errorf("lo and %s: %v", other, err)
		}
	}
}

// tallyWriter counts as a reader of the file will.
type tallyWriter struct{ format.Tally }

func (w *tallyWriter) WriteBatch(b *format.Batch) error {
	w.Add(b)
	return nil
}

// TestSharedSocketLoss: what the recording says of losses is what the kernel
// counted, also where a hundred groups share a socket and the counter is read
// between two datagrams.
func TestSharedSocketLoss(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	k := newTalker(t, tx, source(t, tx, false), 1)
	subs := many(100, 5000, rx)
	r, err := Listen(subs, Options{Buffer: 4096, StatsInterval: time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Stats().Sockets >= len(subs) {
		t.Fatal("no shared socket")
	}
	const sent = 30_000
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	var w tallyWriter
	go func() { done <- r.Run(ctx, &w) }()
	for i := range sent {
		k.send(subs[i*7%len(subs)].Group, []byte("hello"))
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s := r.Stats()
	if s.Dropped.Kernel == 0 || s.Datagrams+s.Dropped.Kernel != sent {
		t.Errorf("%d received, %d dropped, %d sent", s.Datagrams, s.Dropped.Kernel, sent)
	}
	if w.Dropped != s.Dropped.Kernel {
		t.Errorf("the recording states %d lost, the kernel counted %d", w.Dropped, s.Dropped.Kernel)
	}
	var booked uint64
	for _, sub := range s.Subscriptions {
		booked += sub.Dropped
	}
	if booked != s.Dropped.Kernel {
		t.Errorf("%d booked on subscriptions, the kernel counted %d", booked, s.Dropped.Kernel)
	}
}

func TestRestFor(t *testing.T) {
	for _, c := range []struct {
		buffer int // of a socket
		want   time.Duration
	}{
		{212_992, 0}, // what a process without privileges is given: wait for each
		{8 << 20, 0},
		{64 << 20, 29127 * time.Microsecond}, // the default
		{1 << 30, maxRest},
	} {
		if got := restFor((&socket{buffer: c.buffer}).holds()); got != c.want {
			t.Errorf("%d bytes: %s, want %s", c.buffer, got, c.want)
		}
	}
	if got := restFor(64 << 20 / 1700); got != 39475*time.Microsecond {
		t.Errorf("a ring of 64 MiB: %s", got)
	}
}

// TestQuiet: one empty look behind a burst is no calm; a fifth of a second of them is.
func TestQuiet(t *testing.T) {
	const ms = int64(time.Millisecond)
	l := &loop{now: 1000 * ms, passed: 990 * ms}
	for _, c := range []struct {
		at   int64 // ms
		n    int
		want bool
	}{
		{1000, 0, true}, {1030, 100, true}, {1060, 121, false}, // 4,033 a second
		{1061, 0, false}, {1062, 0, false}, {1200, 100, false}, {1259, 1, false}, {1261, 0, true}, {1290, 100, true},
	} {
		l.now = c.at * ms
		if got := l.quiet(c.n); got != c.want {
			t.Errorf("at %d ms, %d datagrams: %v", c.at, c.n, got)
		}
		l.passed = l.now
	}
}

// floodInlet is a socket on which a pass leaves something behind, and the next one finds
// nothing.
type floodInlet struct {
	*socket
	passes int
}

func (f *floodInlet) drain(l *loop, calls int) (n int, more bool, err error) {
	if f.passes++; f.passes == 1 {
		return calls * receivePerCall, true, nil
	}
	l.stop.Store(true)
	return 0, false, nil
}

// TestQuietAfterFlood: a pass that had to leave something behind is remembered too, so that
// the empty one behind it is no calm.
func TestQuietAfterFlood(t *testing.T) {
	netnstest.Require(t)
	r, err := Listen([]Subscription{sub("239.1.1.1:5000", "", "lo")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := r.loop
	l.inlets[0] = &floodInlet{socket: l.inlets[0].(*socket)}
	if err := l.run(); err != nil {
		t.Fatal(err)
	}
	if l.lively == 0 {
		t.Error("a flood is taken for calm")
	}
}

// niceWriter notes the nice value that it is called with.
type niceWriter struct{ nice int }

func (w *niceWriter) WriteBatch(*format.Batch) (err error) {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	w.nice = 20 - raw
	return err
}

// TestWriterGivesWay: with GiveWay the writer runs with a lower priority than what receives,
// and that is over with the recording.
func TestWriterGivesWay(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	netnstest.Require(t)
	for giveWay, want := range map[bool]int{false: 20 - raw, true: min(20-raw+writerNice, 19)} {
		r, err := Listen([]Subscription{sub("239.1.1.1:5000", "", "lo")}, Options{GiveWay: giveWay})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ctx, stop := context.WithCancel(t.Context())
		stop()
		var w niceWriter
		if err := r.Run(ctx, &w); err != nil {
			t.Fatal(err)
		}
		if w.nice != want {
			t.Errorf("%v: nice value %d, want %d", giveWay, w.nice, want)
		}
	}
	// The thread ends a moment after its goroutine, but for the program's first.
	given := func() (tids []int) {
		threads, _ := filepath.Glob("/proc/self/task/*")
		for _, thread := range threads {
			tid, _ := strconv.Atoi(filepath.Base(thread))
			if now, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && now != raw && tid != os.Getpid() {
				tids = append(tids, tid)
			}
		}
		return tids
	}
	for deadline := time.Now().Add(10 * time.Second); len(given()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("threads %v go on with a lower priority", given())
		}
	}
}

// A calm recording says so, a burst ends that at once, and nothing is lost or out of
// order over it.
func TestCalm(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	var mu sync.Mutex
	var said []bool
	calm := func() []bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(said)
	}
	group := netip.MustParseAddrPort("239.4.9.1:5000")
	w := &tape{}
	r := record(t, []Subscription{{Group: group, Interface: rx}}, Options{Calm: func(c bool) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, c)
	}}, w)
	k := newTalker(t, tx, source(t, tx, false), 1)
	k.sequence(group, 0, 3, 64)
	until(t, "calm", func() bool { return slices.Equal(calm(), []bool{true}) })
	const burst = 20_000
	k.sequence(group, 3, burst, 64)
	until(t, "the end of the calm", func() bool { s := calm(); return len(s) > 1 && !s[1] })
	until(t, "all of it", func() bool { return r.Stats().Datagrams == 3+burst })
	until(t, "calm again", func() bool { s := calm(); return len(s) > 2 && s[len(s)-1] })
	r.end()
	w.check(t, 3+burst, r.Stats())
	if s := calm(); s[len(s)-1] {
		t.Error("it ended calm")
	}
}
