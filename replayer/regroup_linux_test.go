package replayer

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"castdeck/format"
	"castdeck/internal/netnstest"
)

// At full speed datagrams to several groups in turn leave in runs, and every group keeps
// its order, whichever of two ports its datagrams come from. Nothing is put together where
// somebody asked for the order, or counts.
func TestReplayRegroups(t *testing.T) {
	const n, groups = 900, 3
	batch := make([]format.Datagram, n)
	want := map[string][]string{} // by group
	for i := range batch {
		group := fmt.Sprintf("239.8.1.%d:5001", 1+i%groups)
		port := 40001 + i/70%2
		payload := make([]byte, 100+i%5/4)
		binary.BigEndian.PutUint32(payload, uint32(i))
		batch[i] = dgram(int64(i)*second, fmt.Sprintf("10.1.1.1:%d", port), group, string(payload))
		want[group] = append(want[group], string(payload))
	}
	for _, c := range []struct {
		name     string
		o        Options
		regroups bool
	}{
		{"full speed", Options{Pacing: Pacing{Max: true}}, true},
		{"no runs", Options{Pacing: Pacing{Max: true}, NoSegmentation: true}, false},
		{"counted", Options{Pacing: Pacing{Max: true}, Count: n}, false},
		{"paced", Options{Pacing: Pacing{PPS: 1e6}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tx, rx := netnstest.Veth(t)
			taps := map[string]*tap{}
			for g := range groups {
				group := fmt.Sprintf("239.8.1.%d:5001", 1+g)
				taps[group] = newTap(t, group, rx)
			}
			c.o.Interface = tx
			report := run(t, c.o, batch)
			if report.Datagrams != n || (report.Regrouped > 0) != c.regroups {
				t.Errorf("%d sent, %d put elsewhere", report.Datagrams, report.Regrouped)
			}
			if c.regroups && report.Segmented < n/2 {
				t.Errorf("%d of %d in %d runs", report.Segmented, n, report.Runs)
			}
			for group, tap := range taps {
				for i, payload := range want[group] {
					if got := tap.next(); got.payload != payload {
						t.Fatalf("%s: datagram %d is another", group, i)
					}
				}
			}
		})
	}
}

// What is put together keeps the order of each destination, and loses nothing,
// whatever the slots hold. (TestReplayRegroups shows that messages stay with their entries.)
func TestRegroupKeepsStreams(t *testing.T) {
	netnstest.Require(t)
	r := newTestReplayer(t, Options{Interface: "lo"})
	rnd := rand.New(rand.NewPCG(1, 2))
	f := &feeder{policy: r.policy, senders: r.senders, regrouper: new(regrouper)}
	f.prepare()
	s := newRing(minAhead).slot(t)
	for _, n := range []int{0, 1, 2, 3, 4, 500, 7, 2000, 500} {
		for _, streams := range []int{1, 2, 60, 3000} {
			s.batch.Datagrams = s.batch.Datagrams[:0]
			for i := range n {
				k := rnd.IntN(streams)
				s.batch.Datagrams = append(s.batch.Datagrams, dgram(int64(i), fmt.Sprintf("10.1.1.1:%d", 40001+k%2), fmt.Sprintf("239.8.%d.%d:5000", k/2%250, k/500), "x"))
			}
			must(t, f.fill(s))
			if len(s.entries) != n {
				t.Fatalf("%d of %d entries", len(s.entries), n)
			}
			last := map[*counts]int64{}
			seen := make([]bool, n)
			for _, e := range s.entries {
				key := e.counts
				if before, ok := last[key]; ok && before >= e.time {
					t.Fatalf("%d datagrams, %d streams: %d behind %d", n, streams, e.time, before)
				}
				last[key] = e.time
				seen[e.time-s.batch.Datagrams[0].Time] = true
			}
			for i, ok := range seen {
				if !ok {
					t.Fatalf("datagram %d is gone", i)
				}
			}
		}
	}
}

func TestRegroupAllocatesNothing(t *testing.T) {
	netnstest.Require(t)
	r := newTestReplayer(t, Options{Interface: "lo"})
	f := &feeder{policy: r.policy, senders: r.senders, regrouper: new(regrouper)}
	f.prepare()
	s := newRing(minAhead).slot(t)
	for i := range 200 {
		s.batch.Datagrams = append(s.batch.Datagrams, dgram(int64(i), "10.1.1.1:40001", fmt.Sprintf("239.8.1.%d:5000", i%50), "x"))
	}
	must(t, f.fill(s))
	if n := testing.AllocsPerRun(50, func() { must(t, f.fill(s)) }); n != 0 {
		t.Errorf("%v allocations for 200 datagrams, want 0", n)
	}
}
