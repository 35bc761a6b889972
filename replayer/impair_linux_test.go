package replayer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/internal/netnstest"
)

// forgetful is a source whose batches lose their bytes with the next one, as real ones
// do: n datagrams to two groups, and behind every 50 of them something else.
type forgetful struct {
	n, next int
	groups  [2]string
}

func (f *forgetful) ReadBatch(b *format.Batch) error {
	if f.next == f.n {
		return io.EOF
	}
	b.Reset()
	if cap(b.Buf) == 0 {
		*b = *format.NewBatch(51, 51*20)
	}
	for range 50 {
		d := dgram(int64(f.next)*10_000, "10.1.1.1:40001", f.groups[f.next%2], fmt.Sprintf("%d of %d", f.next, f.n))
		b.Append(&d)
		f.next++
	}
	b.Append(&format.Datagram{Flags: format.FlagNotUDP})
	return nil
}

// What arrives is what the log says, byte for byte, and the report accounts for all.
func TestReplayImpaired(t *testing.T) {
	for _, c := range []struct {
		name  string
		pace  Pacing
		flags []string
	}{
		{"in time", Pacing{}, []string{"drop 5%", "drop-burst 5%,4", "duplicate 5%", "corrupt 5%", "jitter 200us", "delay 1ms+-500us", "reorder 5%,3", "drop 239.8.1.2=20%"}},
		{"at full speed", Pacing{Max: true}, []string{"drop 5%", "duplicate 10%", "corrupt 5%", "reorder 10%,2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tx, rx := netnstest.Veth(t)
			const n = 2000
			groups := [2]string{"239.8.1.1:5000", "239.8.1.2:5000"}
			taps := [2]*tap{newTap(t, groups[0], rx), newTap(t, groups[1], rx)}
			var log []ImpairRecord
			r := newTestReplayer(t, Options{Interface: tx, Pacing: c.pace, Impair: impairs(t, c.flags...), Seed: 42, Ahead: minAhead,
				ImpairLog: func(r ImpairRecord) { log = append(log, r) }})
			report, err := r.Run(t.Context(), &forgetful{n: n, groups: groups})
			must(t, err)

			const read = n + n/50
			if got := report.Datagrams + report.SendErrors + report.DroppedLate + report.Skipped.Total() + report.Impaired.Dropped(); got != read+report.Impaired.By[ImpairDuplicate] {
				t.Errorf("%d of %d read are accounted for: %s %+v", got, read, report, report.Impaired)
			}
			want := map[string]int{} // payload, and how often
			number := 0
			records := map[uint64]ImpairRecord{}
			for _, r := range log {
				records[r.Index] = r
			}
			for i := range read {
				if i%51 == 50 {
					continue
				}
				payload, copies := []byte(fmt.Sprintf("%d of %d", number, n)), 1
				if r, ok := records[uint64(i)]; ok {
					v := verdict{done: r.Done}
					if r.To.String() != groups[number%2] || r.Time != 1_700_000_000*second+int64(number)*10_000 {
						t.Fatalf("the log has %+v for datagram %d", r, number)
					}
					switch {
					case v.has(ImpairDrop) || v.has(ImpairDropBurst):
						copies = 0
					case v.has(ImpairDuplicate):
						copies = 2
					}
					if v.has(ImpairCorrupt) {
						payload[r.Bit/8] ^= 1 << (r.Bit % 8)
					}
				}
				want[string(payload)] += copies
				number++
			}
			for i, tap := range taps {
				for range report.Destinations[i].Datagrams {
					want[tap.next().payload]--
				}
				tap.none("more than was sent")
			}
			for payload, n := range want {
				if n != 0 {
					t.Errorf("%q arrived %d times too seldom", payload, n)
				}
			}
			for kind, n := range report.Impaired.By {
				if asked := slices.ContainsFunc(impairs(t, c.flags...), func(i Impair) bool { return i.Kind == Impairment(kind) }); asked != (n > 0) {
					t.Errorf("%s: %d", Impairment(kind), n)
				}
			}
		})
	}
}

// Lateness is measured from the time at which a datagram is due with its delay.
func TestReplayImpairedLateness(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	const delay = 200 * time.Millisecond
	started := time.Now()
	report := run(t, Options{Interface: tx, Impair: impairs(t, "delay "+delay.String())},
		[]format.Datagram{dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "a"), dgram(1000, "10.1.1.1:40001", "239.8.1.1:5000", "b")})
	if took := time.Since(started); took < delay || time.Duration(report.Lateness.Max) > took-delay {
		t.Errorf("took %s, delay %s: %s", took, delay, report)
	}
	tap.next()
	tap.next()
}

// What is held back leaves although nothing comes behind it, also where the source or a
// guard ends the replay.
func TestReplayImpairedEnds(t *testing.T) {
	for _, last := range []any{
		nil,
		fmt.Errorf("the source ends"),
		[]format.Datagram{dgram(9000, "10.1.1.1:40001", "224.0.0.9:520", "refused")},
	} {
		tx, rx := netnstest.Veth(t)
		tap := newTap(t, "239.8.1.1:5000", rx)
		steps := []any{[]format.Datagram{dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", "a"), dgram(1000, "10.1.1.1:40001", "239.8.1.1:5000", "b")}}
		if last != nil {
			steps = append(steps, last)
		}
		r := newTestReplayer(t, Options{Interface: tx, Impair: impairs(t, "reorder 100%,10ms", "drop 10.9.9.9@=1%")})
		report, err := r.Run(t.Context(), &source{steps: steps})
		if (err == nil) != (last == nil) || report.Datagrams != 2 {
			t.Errorf("%v, %s", err, report)
		}
		if a, b := tap.next(), tap.next(); a.payload+b.payload != "ab" {
			t.Errorf("%s %s", a.payload, b.payload)
		}
	}
}

// What is held when somebody seeks is not sent behind that.
func TestReplayImpairedSeek(t *testing.T) {
	const n = 2000
	src := &places{n: n}
	p := play(t, src, func(r *Replayer) {
		r.options.Impair = impairs(t, "reorder 100%,500ms")
		r.Pause()
		r.Step(3)
	})
	p.expect("steps", 0, 2)
	must(t, p.r.SeekTime(src.at(n-300)))
	p.r.Step(300)
	p.expect("sought", n-300, n-1)
	p.r.Resume()
	p.tap.none("sent behind the end")
	if rep := p.end(); rep.Datagrams != 303 {
		t.Errorf("%s", rep)
	}
}

// Times are those at which datagrams are due: between the beginning and the end of the
// replay, and as far from each other as recorded.
func TestReplayRewritesTimes(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	w, err := ParseRewrite("time@1:8:be:ns")
	must(t, err)
	var batch []format.Datagram
	const n, apart = 200, 50_000
	for i := range n {
		batch = append(batch, dgram(int64(i)*apart, "10.1.1.1:40001", "239.8.1.1:5000", fmt.Sprintf("%-12d", i%10)))
	}
	batch = append(batch, dgram(n*apart, "10.1.1.1:40001", "239.8.1.1:5000", "short"))
	started := time.Now().UnixNano()
	flipped := map[int]int{} // datagram to bit
	report := run(t, Options{Interface: tx, Rewrite: []Rewrite{w}, Impair: impairs(t, "duplicate 100%", "corrupt 50%"), ImpairLog: func(r ImpairRecord) {
		if r.Bit >= 0 {
			flipped[int(r.Index)] = r.Bit
		}
	}}, batch)
	ended := time.Now().UnixNano()
	if report.Rewritten != (Rewritten{Datagrams: n, LeftAlone: 1}) {
		t.Errorf("%+v", report.Rewritten)
	}
	var first int64
	for i := range n {
		for range 2 {
			got := []byte(tap.next().payload)
			if bit, ok := flipped[i]; ok {
				got[bit/8] ^= 1 << (bit % 8)
			}
			at := int64(binary.BigEndian.Uint64(got[1:]))
			if i == 0 {
				first = at
			}
			if at < started || at > ended || at-first != int64(i)*apart || string(got[9:]) != "   " || got[0] != byte('0'+i%10) {
				t.Fatalf("datagram %d: %q, %d ns behind the first, %d behind the start", i, got, at-first, at-started)
			}
		}
	}
	if got := tap.next().payload; len(got) != len("short") {
		t.Errorf("%q", got)
	}
	if len(flipped) < n/4 {
		t.Errorf("%d flipped", len(flipped))
	}
}

// Three rounds of a source, with a sequence that goes on.
func TestReplayRewritesRounds(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap := newTap(t, "239.8.1.1:5000", rx)
	w, err := ParseRewrite("239.8.1.1=seq@0:2:be")
	must(t, err)
	const n = 300
	src := &Repeat{Rounds: 3, Open: func(int64) (format.BatchReader, error) {
		var steps []any
		for i := 0; i < n; i += 10 {
			var batch []format.Datagram
			for k := range 10 {
				batch = append(batch, dgram(int64(i+k)*1000, "10.1.1.1:40001", "239.8.1.1:5000", string(binary.BigEndian.AppendUint16(nil, uint16(65500+i+k)))))
			}
			steps = append(steps, batch)
		}
		return &source{steps: steps}, nil
	}}
	report, err := newTestReplayer(t, Options{Interface: tx, Rewrite: []Rewrite{w}}).Run(t.Context(), src)
	must(t, err)
	for i := range 3 * n {
		if got := binary.BigEndian.Uint16([]byte(tap.next().payload)); got != uint16((65500+i)%65536) {
			t.Fatalf("datagram %d has the number %d", i, got)
		}
	}
	if report.Rewritten.Datagrams != 3*n {
		t.Errorf("%+v", report.Rewritten)
	}
}

// Frames are rewritten and impaired as payloads are, with checksums that the kernel at the
// other end takes: times by the sender too, at odd offsets, in odd lengths.
func TestReplayRawRewritesAndImpairs(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	tap4, tap6 := newTap(t, "239.8.1.1:5000", rx), newTap(t, "[ff15::8:1]:5000", rx)
	const n = 300
	at := func(d format.Datagram, i int) format.Datagram {
		d.Time = int64(i) * 20_000
		return d
	}
	var batch []format.Datagram
	for i := range n {
		payload := string(binary.BigEndian.AppendUint16(nil, uint16(i/2))) + pattern(21, i)
		switch i % 4 {
		case 0:
			batch = append(batch, at(recorded(testFrame{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: payload, noSum: i%8 == 0}), i))
		case 2:
			batch = append(batch, at(dgram(0, "10.1.1.1:40001", "239.8.1.1:5000", payload), i)) // its frame is made
		default:
			batch = append(batch, at(recorded(testFrame{src: "[2001:db8::1]:40001", dst: "[ff15::8:1]:5000", payload: payload}), i))
		}
	}
	w, err := ParseRewrite("seq@0:2:be:2,time@3:8:le:ns")
	must(t, err)
	flipped := map[uint64]int{}
	started := time.Now().UnixNano()
	report := run(t, Options{Interface: tx, Raw: true, Rewrite: []Rewrite{w}, Impair: impairs(t, "corrupt 30%", "jitter 100us"),
		ImpairLog: func(r ImpairRecord) {
			if r.Bit >= 0 {
				flipped[r.Index] = r.Bit
			}
		}}, batch)
	if report.Datagrams != n || report.Rewritten != (Rewritten{Datagrams: n}) || len(flipped) < n/10 {
		t.Errorf("%s %+v, %d flipped", report, report.Rewritten, len(flipped))
	}
	ended := time.Now().UnixNano()
	for i := range n {
		tap := tap4
		if i%2 == 1 {
			tap = tap6
		}
		got := []byte(tap.next().payload)
		if bit, ok := flipped[uint64(i)]; ok {
			got[bit/8] ^= 1 << (bit % 8)
		}
		when := int64(binary.LittleEndian.Uint64(got[3:]))
		if recorded := pattern(21, i); binary.BigEndian.Uint16(got) != uint16(i/2) || got[2] != recorded[0] || string(got[11:]) != recorded[9:] || when < started || when > ended {
			t.Fatalf("datagram %d: %x at %d", i, got, when)
		}
	}
}

// Bits that are flipped in a frame are flipped in its payload, and none in a fragment.
func TestRawFragmentsAreImpairedAlone(t *testing.T) {
	f := frameFeeder(t, Options{})
	var log []ImpairRecord
	m, err := newImpairer(&Options{Impair: impairs(t, "corrupt 100%", "duplicate 100%"), ImpairLog: func(r ImpairRecord) { log = append(log, r) }})
	must(t, err)
	r := &route{lane: m.lane(netip.AddrPort{}, netip.AddrPort{}, netip.AddrPort{})}
	f.impairer, f.read = m, 1
	for _, c := range []testFrame{
		{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: pattern(100, 1), more: true},
		{src: "10.1.1.1:40001", dst: "239.8.1.1:5000", payload: pattern(100, 1), offset: 800},
	} {
		d := recorded(c)
		before := bytes.Clone(d.Frame)
		h, ok := readHeaders(d.Frame)
		if !ok {
			t.Fatal("no fragment")
		}
		at, end := h.payload(d.Frame)
		f.treat(r, 0, d.Frame, at, end)
		if !bytes.Equal(d.Frame, before) || !f.treated.has(ImpairDuplicate) || f.treated.has(ImpairCorrupt) {
			t.Errorf("%+v: %+v", c, f.treated)
		}
	}
	if len(log) != 2 {
		t.Errorf("%+v", log)
	}
}
