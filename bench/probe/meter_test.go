package probe

import (
	"math"
	"net/netip"
	"testing"
)

var someone = netip.MustParseAddrPort("10.0.0.1:1000")

// feed hands a data datagram to the desk.
func feed(d *desk, run uint64, step uint32, stream uint16, seq uint64, sent, arrived int64) {
	b := make([]byte, 100)
	h := header{kind: kindData, run: run, step: step, stream: stream, seq: seq, sent: sent}
	h.put(b)
	d.take(b, &h, someone, arrived, arrived)
}

func feedEnd(d *desk, run uint64, step uint32, stream, streams uint16, sent uint64, flags uint8) {
	b := make([]byte, endSize)
	h := header{kind: kindEnd, flags: flags, run: run, step: step, stream: stream, seq: sent}
	h.put(b)
	(&end{streams: streams, size: 100}).put(b)
	d.take(b, &h, someone, 0, 0)
}

// TestJitter follows the formula of RFC 3550 over times that are known.
func TestJitter(t *testing.T) {
	d := newDesk()
	transits := []int64{1000, 1160, 1160, 1000, 3000}
	for i, tr := range transits {
		feed(d, 1, 1, 0, uint64(i), int64(i)*1e6, int64(i)*1e6+tr)
	}
	feedEnd(d, 1, 1, 0, 1, uint64(len(transits)), 0)
	want, most := 0.0, 0.0
	for i := 1; i < len(transits); i++ {
		want += (math.Abs(float64(transits[i]-transits[i-1])) - want) / 16
		most = max(most, want)
	}
	a := d.recent.arrived()
	if math.Abs(a.Jitter-want) > 1e-9 || math.Abs(a.MaxJitter-most) > 1e-9 {
		t.Errorf("jitter %v, most %v, want %v, %v", a.Jitter, a.MaxJitter, want, most)
	}
	if o := a.OneWay; o.Count != 5 || o.Min != 1000 || o.Max != 3000 || o.P50 < 1159 || o.P50 > 1161 {
		t.Errorf("one way %+v", o)
	}
	if v := a.Variation; v.Count != 4 || v.Min != 0 || v.Max != 2000 {
		t.Errorf("variation %+v", v)
	}
	if a.Sent != 5 || a.Lost != 0 || !a.Complete || a.Size != 100 {
		t.Errorf("%+v", a.Counts)
	}
}

// TestClocksApart: whatever a sender's clock shows, what is above the least time is right
// to three digits.
func TestClocksApart(t *testing.T) {
	for _, offset := range []int64{0, 5e6, -5e6, 3600e9, -86400e9, math.MaxInt64 / 2, math.MinInt64 / 2} {
		l := newLatencies(3)
		for _, above := range []int64{500_000, 100_000, 0, 1_000_000} {
			l.add(difference(1_700_000_000_000_000_000+above, 1_700_000_000_000_000_000-offset))
		}
		s := l.summary()
		a := s.AboveMin()
		if a.Min != 0 || a.Max != 1_000_000 || a.Count != 4 || math.Abs(float64(a.P50-100_000)) > 5_000 {
			if offset > math.MinInt64/2 && offset < math.MaxInt64/2 {
				t.Errorf("offset %d: %+v", offset, a)
			}
		}
	}
}

// TestClockSteps: a sender whose times go down and down makes little work and no wrong
// bounds.
func TestClockSteps(t *testing.T) {
	l := newLatencies(3)
	for i := range 1000 {
		l.add(-int64(i) * 1e9)
	}
	if s := l.summary(); s.Min != -999e9 || s.Max != 0 || s.Count != 1000 || l.rebases > mostRebases || s.P50 < s.Min || s.P50 > s.Max {
		t.Errorf("%+v after %d moves", s, l.rebases)
	}
}

// TestSteps: a step ends with the next one, late datagrams of it are stale, and runs of
// two senders do not disturb each other.
func TestSteps(t *testing.T) {
	d := newDesk()
	var steps []Arrived
	d.onStep = func(a Arrived) { steps = append(steps, a) }
	feed(d, 1, 1, 0, 0, 0, 10)
	feed(d, 1, 1, 1, 1, 0, 11) // 0 of stream 1 is lost
	feed(d, 2, 1, 0, 0, 0, 12)
	feedEnd(d, 1, 1, 0, 2, 3, 0) // two more of stream 0 were lost at the end
	feedEnd(d, 1, 1, 1, 2, 2, 0)
	feed(d, 1, 2, 0, 0, 0, 13)
	if len(steps) != 1 || steps[0].Sent != 5 || steps[0].Unique != 2 || steps[0].Lost != 3 || steps[0].Bursts.Count != 2 || steps[0].Bursts.Longest != 2 || !steps[0].Complete {
		t.Fatalf("%+v", steps)
	}
	feed(d, 1, 1, 0, 2, 0, 14)
	if d.ignored.Stale != 1 {
		t.Errorf("ignored %+v", d.ignored)
	}
	feedEnd(d, 1, 2, 0, 1, 1, flagLast)
	d.tick(quiet+1, 0, 1e18)
	if len(steps) != 2 || steps[1].Step != 2 || steps[1].Lost != 0 || d.finished != 1 || len(d.runs) != 1 {
		t.Errorf("%d steps, %d finished, %d runs", len(steps), d.finished, len(d.runs))
	}
	d.closeAll()
	if len(steps) != 3 || steps[2].Run != 2 || steps[2].Complete {
		t.Errorf("%+v", steps)
	}
}

// TestCrowd: more senders than can be told apart are counted, and one that has been
// silent makes room.
func TestCrowd(t *testing.T) {
	d := newDesk()
	for i := range uint64(maxRuns + 3) {
		feed(d, i, 1, 0, 0, 0, 1)
	}
	if len(d.runs) != maxRuns || d.ignored.Crowded != 3 {
		t.Fatalf("%d runs, %+v", len(d.runs), d.ignored)
	}
	feed(d, 99, 1, 0, 0, 0, silence+10)
	if len(d.runs) != maxRuns || d.ignored.Crowded != 3 || d.recent.key.run != 99 {
		t.Errorf("%d runs, %+v", len(d.runs), d.ignored)
	}
	feed(d, 99, 1, maxStreams, 0, 0, silence+10)
	feed(d, 99, 0, 0, 0, 0, silence+10)
	feed(d, 99, 1, 0, 1<<40, 0, silence+10)
	if d.ignored.Implausible != 3 {
		t.Errorf("%+v", d.ignored)
	}
}

// TestSearchRefused: a queue that is full is not taken for a loss.
func TestSearchRefused(t *testing.T) {
	f, err := Search(SearchOptions{}, func(rate float64) (Trial, error) {
		r := min(rate, 5000)
		return Trial{Rate: rate, Reached: r, Sent: uint64(r), Refused: rate > 5000}, nil
	})
	if err != nil || f.Limit != LimitQueue || f.Rate < 4900 || f.Rate > 5000 || f.TooHigh <= 5000 {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestSearch(t *testing.T) {
	for name, c := range map[string]struct {
		path, receiver, sender float64 // limits in datagrams a second
		o                      SearchOptions
		rate                   float64
		limit                  Limit
	}{
		"the path":                    {100e3, 1e9, 1e9, SearchOptions{}, 100e3, LimitPath},
		"the receiver":                {1e9, 77e3, 1e9, SearchOptions{Start: 10e3}, 77e3, LimitReceiver},
		"the sender":                  {1e9, 1e9, 300e3, SearchOptions{}, 300e3, LimitSender},
		"nothing, up to the most":     {1e9, 1e9, 1e9, SearchOptions{Most: 50e3}, 50e3, LimitMost},
		"far below the start":         {300, 1e9, 1e9, SearchOptions{Start: 100e3}, 300, LimitPath},
		"below the lowest":            {1, 1e9, 1e9, SearchOptions{}, 0, LimitPath},
		"a loss that is put up with":  {100e3, 1e9, 1e9, SearchOptions{Tolerance: 0.5}, 200e3, LimitPath},
		"the path before the sender":  {100e3, 1e9, 90e3, SearchOptions{}, 90e3, LimitSender},
		"the start is above the most": {1e9, 1e9, 1e9, SearchOptions{Start: 20e3, Most: 10e3}, 10e3, LimitMost},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Search(c.o, func(rate float64) (Trial, error) {
				r := min(rate, c.sender)
				p := min(r, c.path)
				got := min(p, c.receiver)
				return Trial{Rate: rate, Reached: r, Sent: uint64(r), Lost: uint64(r) - uint64(got), Drops: uint64(p) - uint64(got)}, nil
			})
			if err != nil || f.Limit != c.limit || f.Rate > c.rate*1.0001 || f.Rate < c.rate*0.975 || f.Trials > 60 {
				t.Errorf("%+v, %v; want %g by %s", f, err, c.rate, c.limit)
			}
			if c.limit != LimitMost && c.limit != LimitSender && (f.TooHigh < c.rate || f.Rate > 0 && f.TooHigh > f.Rate*1.03) {
				t.Errorf("too high %g", f.TooHigh)
			}
		})
	}
}

// TestAskedAgain: a step that was reported is answered for as long as its sender asks,
// and is not taken for a new one; nor are datagrams that come late.
func TestAskedAgain(t *testing.T) {
	d := newDesk()
	var steps []Arrived
	d.onStep = func(a Arrived) { steps = append(steps, a) }
	feed(d, 1, 1, 0, 0, 0, 10)
	feedEnd(d, 1, 1, 0, 1, 2, 0)
	d.tick(quiet+10, 0, 1e18)
	if len(steps) != 1 || steps[0].Unique != 1 || steps[0].Lost != 1 {
		t.Fatalf("%+v", steps)
	}
	b := make([]byte, endSize)
	h := header{kind: kindEnd, flags: flagLast, run: 1, step: 1, seq: 2}
	h.put(b)
	(&end{streams: 1, size: 100}).put(b)
	ru, st, a := d.take(b, &h, someone, 0, quiet+20)
	if a != reportIt || st == nil || ru.step.at(0).counts().Unique != 1 {
		t.Errorf("asked again: %v, %v", st, a)
	}
	feed(d, 1, 1, 0, 1, 0, quiet+30)
	if d.ignored.Stale != 1 {
		t.Errorf("%+v", d.ignored)
	}
	d.tick(3*quiet, 0, 1e18)
	if len(steps) != 1 || d.finished != 1 || len(d.runs) != 0 {
		t.Errorf("%d steps, %d runs finished, %d go on", len(steps), d.finished, len(d.runs))
	}
}

// TestStepFlood: a sender that begins a step with every datagram makes no more work than
// so many steps a second.
func TestStepFlood(t *testing.T) {
	d := newDesk()
	n := 0
	d.onStep = func(Arrived) { n++ }
	for i := range int64(10_000) {
		feed(d, 1, uint32(i+1), 0, 0, 0, 1+i*1000) // in 10 ms
	}
	if n > 2*stepBurst || d.ignored.Crowded < 9_000 {
		t.Errorf("%d steps, %+v", n, d.ignored)
	}
	feed(d, 1, 20_000, 0, 0, 0, 1e9)
	if d.recent.step.number != 20_000 {
		t.Errorf("a step a second later was not taken: %d", d.recent.step.number)
	}
}
