package replayer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/internal/netnstest"
)

// places is a source of n datagrams, a millisecond apart, each with its number as
// payload, from which one can read at any place.
type places struct {
	n, next int
	sought  []int64
}

const placesStart = 1_700_000_000 * second

func (p *places) at(i int) int64 { return placesStart + int64(i)*1_000_000 }

func (p *places) ReadBatch(b *format.Batch) error {
	b.Reset()
	if p.next >= p.n {
		return io.EOF
	}
	for range min(7, p.n-p.next) {
		b.Datagrams = append(b.Datagrams, dgram(int64(p.next)*1_000_000, "10.1.1.1:40001", "239.8.1.1:5000", fmt.Sprint(p.next)))
		p.next++
	}
	return nil
}

func (p *places) SeekTime(t int64) error {
	p.sought = append(p.sought, t)
	p.next = int(min(max((t-placesStart+999_999)/1_000_000, 0), int64(p.n)))
	return nil
}

// playing is a Run that goes on.
type playing struct {
	t    *testing.T
	r    *Replayer
	tap  *tap
	done chan error
	rep  Report
}

func play(t *testing.T, src format.BatchReader, before func(*Replayer)) *playing {
	t.Helper()
	tx, rx := netnstest.Veth(t)
	p := &playing{t: t, tap: newTap(t, "239.8.1.1:5000", rx), r: newTestReplayer(t, Options{Interface: tx}), done: make(chan error, 1)}
	before(p.r)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		var err error
		p.rep, err = p.r.Run(ctx, src)
		p.done <- err
	}()
	return p
}

// expect wants datagrams with these numbers, and then none.
func (p *playing) expect(why string, from, to int) {
	p.t.Helper()
	for i := from; i <= to; i++ {
		if got := p.tap.next(); got.payload != fmt.Sprint(i) {
			p.t.Fatalf("%s: %s arrived, want %d", why, got.payload, i)
		}
	}
}

func (p *playing) end() Report {
	p.t.Helper()
	select {
	case err := <-p.done:
		if err != nil {
			p.t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		p.t.Fatal("does not end")
	}
	return p.rep
}

func TestPauseStepResume(t *testing.T) {
	p := play(t, &places{n: 20}, (*Replayer).Pause)
	waitFor(t, "the pause", func() bool { return p.r.Stats().Paused })
	p.tap.none("paused")
	p.r.Step(3)
	p.expect("three steps", 0, 2)
	p.r.Step(0) // nothing
	waitFor(t, "three sent", func() bool { return p.r.Stats().Datagrams == 3 })
	p.tap.none("three steps were asked for")
	p.r.Resume()
	p.expect("resumed", 3, 19)
	rep := p.end()
	if rep.Datagrams != 20 || rep.Paused <= 0 || rep.Duration < rep.Paused || rep.Lateness.Count != 17 {
		t.Errorf("%d sent, %s of %s paused, lateness of %d", rep.Datagrams, rep.Paused, rep.Duration, rep.Lateness.Count)
	}
	// What was held is not late for it.
	if rep.Lateness.P50 > int64(rep.Paused) && rep.Lateness.P50 > 50_000_000 {
		t.Errorf("lateness %+v behind a pause of %s", rep.Lateness, rep.Paused)
	}
}

func TestStepPauses(t *testing.T) {
	p := play(t, &places{n: 20}, func(r *Replayer) { r.Step(2) })
	p.expect("two steps", 0, 1)
	waitFor(t, "the pause", func() bool { return p.r.Stats().Paused })
	p.tap.none("two steps were asked for")
	p.r.Step(1000) // more than there are
	p.expect("all steps", 2, 19)
	p.end()
}

func TestSeek(t *testing.T) {
	src := &places{n: 1000}
	p := play(t, src, (*Replayer).Pause)
	waitFor(t, "the pause", func() bool { return p.r.Stats().Paused })
	step := func(why string, from, n int) {
		t.Helper()
		sent := p.r.Stats().Datagrams
		p.r.Step(n)
		p.expect(why, from, from+n-1)
		waitFor(t, why, func() bool { return p.r.Stats().Datagrams == sent+uint64(n) })
	}
	step("the start", 0, 2)
	must(t, p.r.SeekTime(src.at(500)))
	step("forwards", 500, 10)
	must(t, p.r.SeekTime(src.at(20)-1))
	step("backwards, between two", 20, 1)
	must(t, p.r.SeekBy(5_000_000))
	step("by 5 ms from the next one", 21+5, 1)
	must(t, p.r.SeekBy(-3_600_000_000_000))
	step("before the first", 0, 1)
	must(t, p.r.SeekTime(src.at(990)))
	p.r.Resume()
	p.expect("to the end", 990, 999)
	rep := p.end()
	if rep.Datagrams != 2+10+1+1+1+10 {
		t.Errorf("%d sent", rep.Datagrams)
	}
	if err := p.r.SeekTime(0); err != ErrNotSeekable {
		t.Errorf("behind the end of Run: %v", err)
	}
	p.tap.none("behind the end")
}

// Where the source has been read to its end, ahead of the sender, it is still possible
// to go back; and a seek behind the end ends the replay.
func TestSeekBehindTheEnd(t *testing.T) {
	src := &places{n: 10}
	p := play(t, src, (*Replayer).Pause)
	waitFor(t, "the pause", func() bool { return p.r.Stats().Paused })
	p.r.Step(9)
	p.expect("all but one", 0, 8)
	must(t, p.r.SeekTime(src.at(3)))
	p.r.Step(2)
	p.expect("back", 3, 4)
	must(t, p.r.SeekTime(src.at(10)))
	if rep := p.end(); rep.Datagrams != 11 {
		t.Errorf("%d sent", rep.Datagrams)
	}
}

func TestSeekIsRefused(t *testing.T) {
	p := play(t, &source{steps: recordedBatches(10, 1_000_000)}, (*Replayer).Pause)
	waitFor(t, "the pause", func() bool { return p.r.Stats().Paused })
	if err := errors.Join(p.r.SeekTime(0), p.r.SeekBy(1)); !errors.Is(err, ErrNotSeekable) {
		t.Errorf("%v", err)
	}
	p.r.Resume()
	p.end()
}

// A seek while playing: what follows keeps its distances, and is not late for it.
func TestSeekWhilePlaying(t *testing.T) {
	netnstest.Require(t)
	src := &places{n: 2000}
	clock := &fakeClock{step: 100}
	r := newTestReplayer(t, Options{Interface: "lo", Clock: clock})
	sought := false
	clock.onSleep = func(int64) {
		if !sought && r.Stats().Datagrams >= 100 {
			sought = true
			must(t, r.SeekTime(src.at(1900)))
		}
	}
	rep, err := r.Run(context.Background(), src)
	must(t, err)
	if rep.Datagrams < 200 || rep.Datagrams > 202 || rep.Lateness.Max > 10_000 || !slices.Equal(src.sought, []int64{src.at(1900)}) {
		t.Errorf("%s, sought %v", rep, src.sought)
	}
	if want := 199 * time.Millisecond; rep.Duration < want-2*time.Millisecond || rep.Duration > want+4*time.Millisecond {
		t.Errorf("took %s, want about %s", rep.Duration, want)
	}
}

func TestSetSpeed(t *testing.T) {
	netnstest.Require(t)
	const n, interval = 1000, 10_000_000 // 10 s
	for _, c := range []struct {
		name  string
		p     Pacing
		speed float64
		want  time.Duration
	}{
		{"recorded", Pacing{}, 4, 2498 * time.Millisecond},
		{"from another speed", Pacing{Speed: 2}, 0.5, 19980 * time.Millisecond},
		{"constant rate", Pacing{PPS: 1000}, 2, 500 * time.Millisecond},
	} {
		clock := &fakeClock{now: 77, step: 100}
		r := newTestReplayer(t, Options{Interface: "lo", Pacing: c.p, Clock: clock})
		must(t, r.SetSpeed(c.speed))
		rep, err := r.Run(context.Background(), &source{steps: recordedBatches(n, interval)})
		must(t, err)
		// The first datagram is due within lead of the change.
		if off := rep.Duration - c.want; off < -4*lead || off > 4*lead || rep.Datagrams != n || rep.Lateness.Max > 10_000 {
			t.Errorf("%s: %s, want %s", c.name, rep, c.want)
		}
		if s := r.Stats().Speed; s != c.speed {
			t.Errorf("%s: speed %g, want %g", c.name, s, c.speed)
		}
	}
	r := newTestReplayer(t, Options{Interface: "lo"})
	for _, bad := range []float64{0, -1, 0.001, 1001} {
		if r.SetSpeed(bad) == nil {
			t.Errorf("speed %g was taken", bad)
		}
	}
	if newTestReplayer(t, Options{Interface: "lo", Pacing: Pacing{Max: true}}).SetSpeed(2) == nil {
		t.Error("another speed at full speed")
	}
}

// Half as fast half way: the change reaches only what follows.
func TestSetSpeedWhilePlaying(t *testing.T) {
	netnstest.Require(t)
	const n, interval = 1000, 10_000_000
	clock := &fakeClock{step: 100}
	r := newTestReplayer(t, Options{Interface: "lo", Clock: clock})
	changed := false
	clock.onSleep = func(int64) {
		if !changed && r.Stats().Datagrams >= 501 {
			changed = true
			must(t, r.SetSpeed(0.5))
		}
	}
	rep, err := r.Run(context.Background(), &source{steps: recordedBatches(n, interval)})
	must(t, err)
	want := 15 * time.Second
	if off := rep.Duration - want; off < -3*interval || off > 3*interval || rep.Lateness.Max > 10_000 {
		t.Errorf("%s, want %s", rep, want)
	}
}

// Sleeps that end late by 3 ms, datagrams 10 ms apart.
func TestLatePolicies(t *testing.T) {
	netnstest.Require(t)
	const n, interval, oversleep = 100, 10_000_000, 3_000_000
	for _, c := range []struct {
		policy LatePolicy
		after  time.Duration
		sent   uint64
		shifts uint64
		took   time.Duration
	}{
		{CatchUp, 0, n, 0, 993 * time.Millisecond},
		{Shift, 0, n, n, 1293 * time.Millisecond},
		{Shift, 5 * time.Millisecond, n, 0, 993 * time.Millisecond},
		{Drop, 5 * time.Millisecond, n, 0, 993 * time.Millisecond},
		{Drop, 0, 0, 0, 0},
	} {
		clock := &fakeClock{step: 100, oversleep: oversleep}
		r := newTestReplayer(t, Options{Interface: "lo", Clock: clock, Late: c.policy, LateAfter: c.after})
		rep, err := r.Run(context.Background(), &source{steps: recordedBatches(n, interval)})
		must(t, err)
		if rep.Datagrams != c.sent || rep.DroppedLate != n-c.sent {
			t.Errorf("%s after %s: %d sent, %d dropped, want %d", c.policy, c.after, rep.Datagrams, rep.DroppedLate, c.sent)
		}
		if rep.Shifts > c.shifts || rep.Shifts < c.shifts*9/10 || (rep.Shifted > 0) != (c.shifts > 0) {
			t.Errorf("%s after %s: %d shifts by %s, want %d", c.policy, c.after, rep.Shifts, rep.Shifted, c.shifts)
		}
		if off := rep.Duration - c.took; off < -30*time.Millisecond || off > 2*time.Millisecond {
			t.Errorf("%s after %s: took %s, want %s", c.policy, c.after, rep.Duration, c.took)
		}
		var dropped uint64
		for _, d := range rep.Destinations {
			dropped += d.DroppedLate
		}
		if dropped != rep.DroppedLate {
			t.Errorf("%s: %d dropped by destination, %d in all", c.policy, dropped, rep.DroppedLate)
		}
	}
	for _, p := range []LatePolicy{CatchUp, Shift, Drop} {
		if got, err := ParseLatePolicy(p.String()); got != p || err != nil {
			t.Errorf("%s: %v, %v", p, got, err)
		}
	}
	if _, err := ParseLatePolicy("never"); err == nil {
		t.Error("a policy that nobody knows was taken")
	}
}

// The ceiling holds at full speed, for bursts, and where a schedule asks for more.
func TestLimit(t *testing.T) {
	netnstest.Require(t)
	const n, size, limit = 2000, 100, 10e6
	const bits = 8 * (size + headerBytes)
	var batch []format.Datagram
	for i := range n {
		batch = append(batch, dgram(int64(i), "10.1.1.1:40001", "239.8.1.1:5000", pattern(size, i)))
	}
	want := time.Duration(float64(n-1) * bits / limit * 1e9)
	for _, p := range []Pacing{{Max: true}, {}, {PPS: 1e6}} {
		clock := &fakeClock{step: 100}
		rep := run(t, Options{Interface: "lo", Pacing: p, Clock: clock, Limit: limit}, batch)
		// What goes out at once, a slice of 200 us, may come early.
		if off := rep.Duration - want; off < -250*time.Microsecond || off > 5*time.Millisecond || rep.Datagrams != n {
			t.Errorf("%+v: %s, want %s", p, rep.Duration, want)
		}
	}
	// Below the ceiling it changes nothing.
	rep := run(t, Options{Interface: "lo", Clock: &fakeClock{step: 100}, Limit: limit}, recordedBatches(100, 10_000_000)...)
	if rep.Lateness.Max > 10_000 {
		t.Errorf("lateness %+v below the ceiling", rep.Lateness)
	}
}

func TestIntervalError(t *testing.T) {
	netnstest.Require(t)
	// Every second datagram is 2 ms late, by turns of two destinations: their own
	// distances are right but for the first two of each.
	clock := &fakeClock{step: 10}
	var batch []format.Datagram
	for i := range 200 {
		batch = append(batch, dgram(int64(i)*10_000_000, "10.1.1.1:40001", fmt.Sprintf("239.8.1.%d:5000", i%2+1), "x"))
	}
	r := newTestReplayer(t, Options{Interface: "lo", Clock: clock, Histograms: 1})
	clock.onSleep = func(int64) {
		clock.oversleep = 0
		if r.Stats().Datagrams%2 == 1 {
			clock.oversleep = 2_000_000
		}
	}
	rep, err := r.Run(context.Background(), &source{steps: []any{batch}})
	must(t, err)
	if e := rep.IntervalError; e.Count != 198 || e.P90 > 100_000 || rep.Lateness.P90 < 1_500_000 {
		t.Errorf("interval error %+v, lateness %+v", e, rep.Lateness)
	}
	own := 0
	for _, d := range rep.Destinations {
		if d.Lateness != nil {
			own++
			if d.Lateness.TotalCount() != 100 || d.IntervalError.TotalCount() != 99 {
				t.Errorf("%s: %d and %d values", d.Destination, d.Lateness.TotalCount(), d.IntervalError.TotalCount())
			}
		}
	}
	if own != 1 {
		t.Errorf("%d destinations have histograms, want 1", own)
	}
}

func TestRealtime(t *testing.T) {
	netnstest.Require(t)
	r := newTestReplayer(t, Options{Interface: "lo", Realtime: true})
	rep, err := r.Run(context.Background(), &source{steps: recordedBatches(100, 100_000)})
	must(t, err)
	if rep.Datagrams != 100 {
		t.Errorf("%s", rep)
	}
	if rep.RealtimeRefused != nil {
		t.Logf("not allowed here: %v", rep.RealtimeRefused)
	}
}
