package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"castdeck/internal/netnstest"
	"castdeck/replayer"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

const testPort = 15088

func testGroups(n int) (groups []netip.AddrPort) {
	for i := range n {
		groups = append(groups, netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 88, 1, byte(i + 1)}), testPort))
	}
	return groups
}

var returnGroup = netip.MustParseAddrPort("239.88.9.1:15089")

// faults installs rules for the data datagrams of probes that arrive at an interface.
func faults(t *testing.T, rx, rules string) (hits func() uint64) {
	t.Helper()
	count := netnstest.Faults(t, rx, fmt.Sprintf("udp dport %d @th,104,8 1", testPort), rules, "hit")
	return func() uint64 { t.Helper(); return count("hit") }
}

// openPath opens a path over a pair of interfaces that the test made.
func openPath(t *testing.T, tx, rx string, groups int, change func(*SendOptions, *ReceiveOptions)) *Path {
	t.Helper()
	s := SendOptions{Interface: tx, Groups: testGroups(groups)}
	r := ReceiveOptions{Interface: rx, Groups: testGroups(groups)}
	if change != nil {
		change(&s, &r)
	}
	p, err := OpenPath(t.Context(), s, r, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestPathWhole: on a path that loses nothing every datagram is accounted for, whatever
// its size and however many groups there are.
func TestPathWhole(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	for _, groups := range []int{1, 3, 9} {
		p := openPath(t, tx, rx, groups, nil)
		for _, st := range []Step{
			{Size: HeaderSize, Rate: 20e3, Count: 2000}, {Size: 1400, Rate: 5e3, Duration: 100 * time.Millisecond}, {Size: 3000, Rate: 1e3, Count: 50},
			{Size: 200, Count: 3000},
		} {
			sent, a, err := p.Step(t.Context(), st)
			if err != nil {
				t.Fatal(err)
			}
			want := st.Count
			if want == 0 {
				want = 500
			}
			sum := uint64(0)
			for _, n := range sent.Streams {
				sum += n
			}
			if sent.Datagrams != want || sum != want || sent.Refused != 0 || sent.Bytes != want*uint64(st.Size) {
				t.Errorf("%d groups, %+v: sent %+v", groups, st, sent)
			}
			if a.Sent != want || a.Unique+a.Drops != want || a.LostOnPath() != 0 || a.Duplicates+a.Reordered > 0 || !a.Complete || a.Size != st.Size || a.Run != p.Sender.Run() {
				t.Errorf("%d groups, %+v: arrived %+v", groups, st, a)
			}
			if a.Drops == 0 && a.Bytes != sent.Bytes || a.OneWay.Count != int64(a.Unique) || a.OneWay.Min < 0 || a.Unstamped > 0 {
				t.Errorf("%d groups, %+v: %d bytes, one way %+v, %d without a stamp", groups, st, a.Bytes, a.OneWay, a.Unstamped)
			}
			if st.Rate > 0 && sent.Lateness.Count != int64(want) || len(a.Streams) != groups {
				t.Errorf("lateness %+v, %d streams", sent.Lateness, len(a.Streams))
			}
		}
	}
}

// TestPathLoss: the losses that nftables makes are found to the datagram, in bursts as
// long as they were.
func TestPathLoss(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	hits := faults(t, rx, "numgen inc mod 100 < 3 counter name hit drop\nnumgen inc mod 97 5 counter name hit drop")
	p := openPath(t, tx, rx, 1, nil)
	const n = 10_000
	_, a, err := p.Step(t.Context(), Step{Size: 100, Rate: 20e3, Count: n})
	if err != nil {
		t.Fatal(err)
	}
	if a.Drops > 0 {
		t.Skipf("the machine is too busy: %d datagrams did not fit into the receive buffer", a.Drops)
	}
	lost := hits()
	if lost < 3*n/100 || a.Lost != lost || a.LostOnPath() != lost || a.Unique != n-lost || a.Sent != n || a.Duplicates+a.Reordered > 0 {
		t.Errorf("%+v; %d were dropped", a.Counts, lost)
	}
	bursts, datagrams := uint64(0), uint64(0)
	for _, c := range a.Bursts.Lengths {
		bursts += c
	}
	for length, c := range a.Bursts.Lengths[:1] {
		datagrams += uint64(length+1) * c
	}
	if a.Bursts.Longest < 3 || a.Bursts.Longest > 4 || bursts != a.Bursts.Count || a.Bursts.Count < n/100 || datagrams > lost-3*n/100 {
		t.Errorf("bursts %+v", a.Bursts)
	}
}

// TestPathCopies: what nftables doubles is counted as copies, and nothing as lost.
func TestPathCopies(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	hits := faults(t, rx, fmt.Sprintf("numgen inc mod 89 3 counter name hit meta mark set %d dup to %s", netnstest.FaultMark, tx))
	p := openPath(t, tx, rx, 2, nil)
	const n = 5000
	_, a, err := p.Step(t.Context(), Step{Size: 100, Rate: 20e3, Count: n})
	if err != nil {
		t.Fatal(err)
	}
	if a.Drops > 0 {
		t.Skipf("the machine is too busy: %d drops", a.Drops)
	}
	if doubled := hits(); doubled < n/100 || a.Duplicates != doubled || a.Received != n+doubled || a.Lost > 0 || a.Unique != n {
		t.Errorf("%+v; %d were doubled", a.Counts, doubled)
	}
}

// TestEcho: round trips over a group for the way back, under load and one by one.
func TestEcho(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	p := openPath(t, tx, rx, 2, func(s *SendOptions, r *ReceiveOptions) {
		s.Echo, s.Return = true, returnGroup
		r.Echo, r.Return = true, returnGroup
	})
	sent, a, err := p.Step(t.Context(), Step{Size: 100, Rate: 5e3, Count: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if sent.Echoes+a.Drops < 1000 || sent.EchoCopies > 0 || sent.RoundTrip.Count != int64(sent.Echoes) || sent.Network.Count != int64(sent.Echoes) {
		t.Errorf("%+v, %+v", sent, a.Counts)
	}
	if sent.RoundTrip.Min <= 0 || sent.Network.P50 > sent.RoundTrip.P50 || a.OneWay.Min > sent.RoundTrip.Max {
		t.Errorf("round trip %+v, of the network %+v, one way %+v", sent.RoundTrip, sent.Network, a.OneWay)
	}
	sent, a, err = p.PingPong(t.Context(), Step{Size: 64, Count: 200}, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if sent.Datagrams != 200 || sent.Echoes != 200 || a.Unique != 200 || sent.RoundTrip.Count != 200 {
		t.Errorf("%+v, %+v", sent, a.Counts)
	}
	c := p.Receiver.Counts()
	if c.Unanswered != 0 {
		t.Errorf("%+v", c)
	}
}

// receiver runs a Receiver until the test ends, and collects its steps.
func receiver(t *testing.T, o ReceiveOptions, before ...func(*Receiver)) (r *Receiver, steps func() []Arrived) {
	t.Helper()
	var mu sync.Mutex
	var all []Arrived
	o.OnStep = func(a Arrived) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, a)
	}
	r, err := NewReceiver(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(r)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	end := sync.OnceFunc(func() {
		stop()
		if err := errors.Join(<-done, r.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return r, func() []Arrived {
		end()
		return all
	}
}

// TestReports: a sender learns from a receiver that it knows only by its replies what
// arrived, with losses in front of it, over several groups.
func TestReports(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	hits := faults(t, rx, "numgen inc mod 50 7 counter name hit drop")
	r, steps := receiver(t, ReceiveOptions{Interface: rx, Groups: testGroups(3)})
	s, err := NewSender(SendOptions{Interface: tx, Groups: testGroups(3), Replies: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	who, err := s.Call(t.Context(), 10*time.Second)
	if err != nil || len(who) != 1 {
		t.Fatal(who, err)
	}
	for i := range 2 {
		before := hits()
		sent, err := s.Send(t.Context(), Step{Size: 128, Rate: 20e3, Count: 3000})
		if err != nil {
			t.Fatal(err)
		}
		remotes, err := s.End(t.Context(), sent, i == 1)
		if err != nil || len(remotes) != 1 {
			t.Fatal(remotes, err)
		}
		m, lost := remotes[0], hits()-before
		if m.Drops > 0 {
			t.Skipf("the machine is too busy: %d drops", m.Drops)
		}
		if m.Sent != 3000 || m.Lost != lost || lost < 50 || m.Unique != 3000-lost || m.Bursts.Longest < 1 || m.OneWay.Max < m.OneWay.Min || m.Receiver != who[0] {
			t.Errorf("%+v, %d were dropped", m, lost)
		}
	}
	all := steps()
	if len(all) != 2 || all[0].Sent != 3000 || all[1].Sent != 3000 || !all[1].Complete || all[0].Lost == 0 {
		t.Errorf("%d steps: %+v", len(all), all)
	}
	if c := r.Counts(); c.Unanswered+c.Ignored.Total() > 0 || c.Reports == 0 || c.Runs != 1 {
		t.Errorf("%+v", c)
	}
}

// TestForeign: what is no probe is counted and measured by nobody, and a sender that may
// not be answered is not.
func TestForeign(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	elsewhere := func(r *Receiver) { r.local = nil } // as if the sender were in another network
	r, steps := receiver(t, ReceiveOptions{Interface: rx, Groups: testGroups(1), Echo: true}, elsewhere)
	s, err := NewSender(SendOptions{Interface: tx, Groups: testGroups(1), Replies: true, Echo: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if who, err := s.Call(t.Context(), 200*time.Millisecond); !errors.Is(err, ErrNoReceiver) {
		t.Fatal(who, err)
	}
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: s.sender.Source().AsSlice()}, net.UDPAddrFromAddrPort(testGroups(1)[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := 0
	for range 10 {
		for _, p := range []string{"", "hello", strings.Repeat("CDPB", 30)} {
			if _, err := c.Write([]byte(p)); err == nil {
				sent++
			}
		}
	}
	if _, err := s.Send(t.Context(), Step{Size: 64, Rate: 10e3, Count: 100}); err != nil {
		t.Fatal(err)
	}
	all := steps()
	n := r.Counts()
	if len(all) != 1 || all[0].Unique != 100 || all[0].Complete || n.Echoes+n.Reports != 0 || n.Unanswered < 101 {
		t.Errorf("%+v, %+v", all, n)
	}
	if got := n.Ignored.Foreign; got > uint64(sent) || n.Datagrams < 100+got {
		t.Errorf("%d of %d are foreign, %d in all", got, sent, n.Datagrams)
	}
}

// TestGuard: what a replay would not be sent to, a probe is not.
func TestGuard(t *testing.T) {
	tx, _ := netnstest.Veth(t)
	for _, g := range []string{"224.0.0.5:5000", "10.0.0.1:5000", "255.255.255.255:5000"} {
		o := SendOptions{Interface: tx, Groups: []netip.AddrPort{netip.MustParseAddrPort(g)}}
		var refused *replayer.GuardError
		if s, err := NewSender(o); !errors.As(err, &refused) {
			t.Errorf("%s: %v, %v", g, s, err)
		}
	}
}

// TestDeadPath: a path that lets nothing through is told from one that loses.
func TestDeadPath(t *testing.T) {
	tx, _ := netnstest.Veth(t)
	_, rx := netnstest.Veth(t)
	_, err := OpenPath(t.Context(), SendOptions{Interface: tx, Groups: testGroups(2)}, ReceiveOptions{Interface: rx, Groups: testGroups(2)}, 100*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "of 2 groups 0 get from "+tx+" to "+rx) {
		t.Error(err)
	}
}

// TestSearchPath: the search finds about the rate that a policer on the way lets through.
func TestSearchPath(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	faults(t, rx, "limit rate over 4000/second burst 20 packets counter name hit drop")
	p := openPath(t, tx, rx, 1, nil)
	f, err := Search(SearchOptions{Start: 500, Most: 64e3, Resolution: 0.2}, func(rate float64) (Trial, error) {
		sent, a, err := p.Step(t.Context(), Step{Size: 100, Rate: rate, Duration: 150 * time.Millisecond})
		return Trial{Rate: rate, Reached: sent.Reached, Sent: a.Sent, Lost: a.Lost, Drops: a.Drops, Refused: sent.Refused > 0}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Limit == LimitSender {
		t.Skipf("the machine is too busy: the sender reaches no more than %.0f a second", f.Rate)
	}
	// A rate above the policer's always loses, once the burst is spent; below it a machine that
	// stands still and catches up may lose too.
	if f.Limit != LimitPath || f.TooHigh == 0 || f.Rate >= 4000*1.2 || f.Rate >= f.TooHigh {
		t.Errorf("%+v", f)
	}
}

// TestIPv6 goes the whole way once more.
func TestIPv6(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	groups := []netip.AddrPort{netip.MustParseAddrPort("[ff15::88:1]:15088")}
	_, steps := receiver(t, ReceiveOptions{Interface: rx, Groups: groups, Return: netip.MustParseAddrPort("[ff15::88:2]:15089")})
	s, err := NewSender(SendOptions{Interface: tx, Groups: groups, Replies: true, Return: netip.MustParseAddrPort("[ff15::88:2]:15089")})
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer s.Close()
	if _, err := s.Call(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	sent, err := s.Send(t.Context(), Step{Size: 64, Rate: 10e3, Count: 500})
	if err != nil {
		t.Fatal(err)
	}
	remotes, err := s.End(t.Context(), sent, true)
	if err != nil || len(remotes) != 1 || remotes[0].Unique+remotes[0].Drops != 500 {
		t.Errorf("%+v, %v", remotes, err)
	}
	if all := steps(); len(all) != 1 || all[0].Sent != 500 {
		t.Errorf("%+v", all)
	}
}

// TestCancel: an interrupted step measures what was sent until then.
func TestCancel(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	p := openPath(t, tx, rx, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for p.Sender.Progress().Datagrams < 100 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	sent, a, err := p.Step(ctx, Step{Size: 64, Rate: 10e3, Duration: time.Hour})
	if err != nil || sent.Datagrams < 100 || a.Sent != sent.Datagrams || a.Unique+a.Drops != sent.Datagrams {
		t.Errorf("%+v, %+v, %v", sent, a.Counts, err)
	}
}
