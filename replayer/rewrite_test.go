package replayer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rewriter applies flags to the payloads of one stream.
func rewriter(t testing.TB, flags ...string) func(payload []byte, round int) Rewritten {
	t.Helper()
	var o Options
	for _, f := range flags {
		w, err := ParseRewrite(f)
		if err != nil {
			t.Fatal(err)
		}
		o.Rewrite = append(o.Rewrite, w)
	}
	w, err := newRewriting(&o)
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.MustParseAddrPort("239.1.1.1:5000")
	l := w.lane(netip.MustParseAddrPort("10.1.1.1:40000"), dst)
	return func(payload []byte, round int) Rewritten {
		w.apply(l, payload, round)
		return w.did
	}
}

// rounds plays a recording several times and returns what came out; the recording stays
// as it is.
func rounds(t testing.TB, n int, recording [][]byte, flags ...string) (out [][]byte, did Rewritten) {
	t.Helper()
	do := rewriter(t, flags...)
	for round := range n {
		for _, p := range recording {
			p = bytes.Clone(p)
			did = do(p, round)
			out = append(out, p)
		}
	}
	return out, did
}

func TestRewriteSequence(t *testing.T) {
	for _, c := range []struct {
		name  string
		flag  string
		width int
		order binary.ByteOrder
		in    []uint64
		want  []uint64 // of three rounds
	}{
		{"two bytes", "seq@3:2:be", 2, binary.BigEndian, []uint64{7, 8, 9}, []uint64{7, 8, 9, 10, 11, 12, 13, 14, 15}},
		{"little", "seq@3:4:le", 4, binary.LittleEndian, []uint64{7, 8}, []uint64{7, 8, 9, 10, 11, 12}},
		{"eight bytes", "seq@0:8:be", 8, binary.BigEndian, []uint64{1 << 40, 1<<40 + 1}, []uint64{1 << 40, 1<<40 + 1, 1<<40 + 2, 1<<40 + 3, 1<<40 + 4, 1<<40 + 5}},
		{"eight bytes at their end", "seq@0:8:be", 8, binary.BigEndian, []uint64{1<<64 - 2, 1<<64 - 1}, []uint64{1<<64 - 2, 1<<64 - 1, 0, 1, 2, 3}},
		{"a step of 10", "seq@3:2:be:10", 2, binary.BigEndian, []uint64{10, 20}, []uint64{10, 20, 30, 40, 50, 60}},
		{"it wraps between rounds", "seq@3:2:be", 2, binary.BigEndian, []uint64{65533, 65534}, []uint64{65533, 65534, 65535, 0, 1, 2}},
		{"it wraps within a round", "seq@3:2:be", 2, binary.BigEndian, []uint64{65535, 0, 1}, []uint64{65535, 0, 1, 2, 3, 4, 5, 6, 7}},
		{"recorded out of order at both ends", "seq@3:2:be", 2, binary.BigEndian, []uint64{2, 1, 4, 3}, []uint64{2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11}},
		{"with a gap", "seq@3:2:be", 2, binary.BigEndian, []uint64{1, 5}, []uint64{1, 5, 6, 10, 11, 15}},
		{"one alone", "seq@3:2:be", 2, binary.BigEndian, []uint64{5}, []uint64{5, 6, 7}},
		{"a duplicate", "seq@3:2:be", 2, binary.BigEndian, []uint64{5, 5, 6}, []uint64{5, 5, 6, 7, 7, 8, 9, 9, 10}},
	} {
		var recording [][]byte
		offset := strings.IndexByte("012345678", c.flag[4])
		put := func(p []byte, v uint64) {
			switch c.width {
			case 2:
				c.order.PutUint16(p[offset:], uint16(v))
			case 4:
				c.order.PutUint32(p[offset:], uint32(v))
			case 8:
				c.order.PutUint64(p[offset:], v)
			}
		}
		for _, v := range c.in {
			p := bytes.Repeat([]byte{0xEE}, 20)
			put(p, v)
			recording = append(recording, p)
		}
		got, did := rounds(t, 3, recording, c.flag)
		for i, v := range c.want {
			want := bytes.Repeat([]byte{0xEE}, 20)
			put(want, v)
			if !bytes.Equal(got[i], want) {
				t.Errorf("%s: datagram %d is %x, want %x", c.name, i, got[i], want)
			}
		}
		if did.LeftAlone != 0 || did.Datagrams != uint64(len(got)) {
			t.Errorf("%s: %+v", c.name, did)
		}
	}
}

// A round that begins elsewhere, because somebody sought, beyond a wrap.
func TestRewriteSequenceSought(t *testing.T) {
	do := rewriter(t, "seq@0:2:be")
	for round, numbers := range [][2][]uint16{
		{{65534, 65535, 0, 1}, {65534, 65535, 0, 1}},
		{{0, 1}, {4, 5}},
		{{65534, 65535, 0, 1}, {6, 7, 8, 9}},
	} {
		for i, v := range numbers[0] {
			p := binary.BigEndian.AppendUint16(nil, v)
			do(p, round)
			if got := binary.BigEndian.Uint16(p); got != numbers[1][i] {
				t.Errorf("round %d: %d becomes %d, want %d", round, v, got, numbers[1][i])
			}
		}
	}
}

// The bytes beyond a payload are not there, and nothing of it is touched.
func TestRewriteBeyondThePayload(t *testing.T) {
	for _, flag := range []string{"seq@0:2:be", "seq@5:8:le", "time@0:8:be:ns", "rtp", "mpegts", "moldudp64"} {
		for size := range 25 {
			p := bytes.Repeat([]byte{0x81}, size)
			did := rewriter(t, flag)(p, 0)
			want := map[string]int{"seq@0:2:be": 2, "seq@5:8:le": 13, "time@0:8:be:ns": 8, "rtp": 12, "mpegts": 188, "moldudp64": 20}[flag]
			if (did.LeftAlone == 1) != (size < want) || (did.Datagrams == 1) != (size >= want) {
				t.Errorf("%s in %d bytes: %+v", flag, size, did)
			}
			if size < want && !bytes.Equal(p, bytes.Repeat([]byte{0x81}, size)) {
				t.Errorf("%s in %d bytes: %x", flag, size, p)
			}
		}
	}
}

func rtp(sequence uint16, time, ssrc uint32, payload string) []byte {
	p := make([]byte, 12, 12+len(payload))
	p[0], p[1] = 0x80, 96
	binary.BigEndian.PutUint16(p[2:], sequence)
	binary.BigEndian.PutUint32(p[4:], time)
	binary.BigEndian.PutUint32(p[8:], ssrc)
	return append(p, payload...)
}

func TestRewriteRTP(t *testing.T) {
	// Two senders in one group, RTCP between them, several packets of one timestamp.
	recording := [][]byte{
		rtp(65534, 1<<32-3000, 1, "a"), rtp(65535, 1<<32-3000, 1, "b"), rtp(9, 48, 2, "x"), {0x80, 200, 0, 6, 0, 0, 0, 1, 9, 9, 9, 9},
		rtp(0, 0, 1, "c"), rtp(1, 0, 1, "d"), rtp(10, 96, 2, "y"),
	}
	got, did := rounds(t, 3, recording, "rtp")
	if did.LeftAlone != 3 {
		t.Errorf("%+v, want RTCP left alone", did)
	}
	for round := range uint32(3) {
		want := [][]byte{
			rtp(uint16(65534+4*round), 1<<32-3000+6000*round, 1, "a"), rtp(uint16(65535+4*round), 1<<32-3000+6000*round, 1, "b"),
			rtp(uint16(9+2*round), 48+96*round, 2, "x"), recording[3],
			rtp(uint16(4*round), 6000*round, 1, "c"), rtp(uint16(1+4*round), 6000*round, 1, "d"), rtp(uint16(10+2*round), 96+96*round, 2, "y"),
		}
		for i := range want {
			if at := int(round)*len(want) + i; !bytes.Equal(got[at], want[i]) {
				t.Errorf("round %d: %x, want %x", round, got[at], want[i])
			}
		}
	}
}

func tsPacket(size int, pid uint16, counter byte, payload bool) []byte {
	p := bytes.Repeat([]byte{0x55}, size)
	p[0] = 0x47
	binary.BigEndian.PutUint16(p[1:], pid|0x4000)
	p[3] = 0x20 | counter
	if payload {
		p[3] = 0x10 | counter
	}
	return p
}

// tsGaps reads transport packets as a receiver does and returns what does not continue.
func tsGaps(size int, datagrams [][]byte) (gaps []string) {
	type state struct {
		counter byte
		known   bool
	}
	pids := map[uint16]state{}
	for i, d := range datagrams {
		for at := 0; at+size <= len(d); at += size {
			p := d[at : at+size]
			pid := binary.BigEndian.Uint16(p[1:]) & 0x1FFF
			if p[0] != 0x47 {
				return append(gaps, fmt.Sprintf("datagram %d: no packet at %d", i, at))
			}
			if pid == 0x1FFF {
				continue
			}
			s, counter := pids[pid], p[3]&15
			want := s.counter
			if p[3]&0x10 != 0 {
				want = (want + 1) % 16
			}
			if s.known && counter != want {
				gaps = append(gaps, fmt.Sprintf("datagram %d, PID %d: %d, want %d", i, pid, counter, want))
			}
			pids[pid] = state{counter, true}
		}
	}
	return gaps
}

func TestRewriteMPEGTS(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int
		wrapped int // bytes of an RTP header
	}{{"188", 188, 0}, {"204", 204, 0}, {"in RTP", 188, 12}, {"in RTP with CSRCs and an extension", 188, 12 + 8 + 12}} {
		t.Run(c.name, func(t *testing.T) {
			var recording [][]byte
			counters := map[uint16]byte{0: 3, 256: 9, 257: 15}
			for d := range 5 {
				var datagram []byte
				for i := range 7 {
					pid := []uint16{0, 256, 256, 0x1FFF, 257, 256, 257}[i]
					payload := (d+i)%4 != 0
					if payload && pid != 0x1FFF {
						counters[pid] = (counters[pid] + 1) % 16
					}
					datagram = append(datagram, tsPacket(c.size, pid, counters[pid], payload)...)
				}
				switch c.wrapped {
				case 12:
					datagram = append(rtp(uint16(d), 0, 1, ""), datagram...)
				case 32:
					h := rtp(uint16(d), 0, 1, "csrccsrc")
					h[0] |= 0x12                                                            // extension, two CSRCs
					h = append(h, 0xBE, 0xDE, 0, 2, 'e', 'x', 't', 'e', 'n', 's', 'i', 'o') // two words
					datagram = append(h, datagram...)
				}
				recording = append(recording, datagram)
			}
			bare := func(all [][]byte) (out [][]byte) {
				for _, d := range all {
					out = append(out, d[c.wrapped:])
				}
				return out
			}
			if len(tsGaps(c.size, bare(slices.Repeat(recording, 3)))) == 0 {
				t.Fatal("looping makes no gaps: the test shows nothing")
			}
			got, did := rounds(t, 3, recording, "mpegts")
			if gaps := tsGaps(c.size, bare(got)); len(gaps) != 0 || did.LeftAlone != 0 {
				t.Errorf("%v, %+v", gaps, did)
			}
			for i, d := range got {
				// Nothing but counters has changed, and none of the null packets.
				want := recording[i%5]
				for at := range d {
					in := (at - c.wrapped) % c.size
					null := at >= c.wrapped && (at-c.wrapped)/c.size == 3
					if d[at] != want[at] && (at < c.wrapped || in != 3 || null || d[at]&0xF0 != want[at]&0xF0) {
						t.Fatalf("datagram %d, byte %d: %x, was %x", i, at, d[at], want[at])
					}
				}
			}
		})
	}
}

func mold(session string, sequence uint64, messages uint16) []byte {
	p := append([]byte(session + "          ")[:10:10], make([]byte, 10)...)
	binary.BigEndian.PutUint64(p[10:], sequence)
	binary.BigEndian.PutUint16(p[18:], messages)
	return append(p, "payload"...)
}

func TestRewriteMoldUDP64(t *testing.T) {
	recording := [][]byte{
		mold("A", 100, 0), mold("A", 100, 3), mold("B", 1<<50, 10), mold("A", 103, 1), mold("A", 104, 0), mold("A", 104, 0xFFFF), mold("B", 1<<50+10, 2),
	}
	got, did := rounds(t, 3, recording, "moldudp64")
	for round := range uint64(3) {
		a, b := 4*round, 12*round
		want := [][]byte{
			mold("A", 100+a, 0), mold("A", 100+a, 3), mold("B", 1<<50+b, 10), mold("A", 103+a, 1), mold("A", 104+a, 0), mold("A", 104+a, 0xFFFF), mold("B", 1<<50+10+b, 2),
		}
		if !slices.EqualFunc(got[int(round)*7:int(round)*7+7], want, bytes.Equal) {
			t.Errorf("round %d: %x, want %x", round, got[int(round)*7:int(round)*7+7], want)
		}
	}
	if did.LeftAlone != 0 {
		t.Errorf("%+v", did)
	}
}

// Any recording, with losses, duplicates and changes of places, as often as one likes:
// what is missing in one round is missing in every round, and nothing at the seams.
func TestRewriteProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width := rapid.SampledFrom([]int{2, 4, 8}).Draw(t, "width")
		n := rapid.IntRange(1, 60).Draw(t, "n")
		start := rapid.Uint64().Draw(t, "start")
		recording := rapid.SliceOfN(rapid.IntRange(0, n-1), 1, 2*n).Draw(t, "numbers")
		low, high := slices.Min(recording), slices.Max(recording)
		r := rewriteRule{width: width}
		c := &sequenceChange{rule: rewriteRule{width: width, step: 1}}
		mask := ^uint64(0) >> (64 - 8*width)
		for round := range 4 {
			for i, number := range recording {
				p := make([]byte, width)
				r.put(p, start+uint64(number))
				if !c.change(p, round) {
					t.Fatal("left alone")
				}
				want := (start + uint64(number) + uint64(round*(high+1-low))) & mask
				if got := r.get(p); got != want {
					t.Fatalf("round %d, datagram %d: %d, want %d", round, i, got, want)
				}
			}
		}
	})
}

func TestRewriteTimes(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 34, 56, 789_000_001, time.UTC).UnixNano()
	const sinceMidnight = (12*3600+34*60+56)*1_000_000_000 + 789_000_001
	for _, c := range []struct {
		flag string
		ns   int64
		want []byte // at offset 2 of 12 bytes
	}{
		{"time@2:8:be:ns", noon, binary.BigEndian.AppendUint64(nil, uint64(noon))},
		{"time@2:8:le:us:unix", noon, binary.LittleEndian.AppendUint64(nil, uint64(noon/1000))},
		{"time@2:4:be:s", noon, binary.BigEndian.AppendUint32(nil, uint32(noon/1e9))},
		{"time@2:8:be:ns:midnight", noon, binary.BigEndian.AppendUint64(nil, sinceMidnight)},
		{"time@2:4:be:ms:midnight", noon, binary.BigEndian.AppendUint32(nil, sinceMidnight/1_000_000)},
		{"time@2:6:be:ns:midnight", noon, binary.BigEndian.AppendUint64(nil, sinceMidnight)[2:]},
		{"time@2:4:be:ms:midnight", -1, binary.BigEndian.AppendUint32(nil, 86_399_999)},
	} {
		w, err := ParseRewrite(c.flag)
		if err != nil {
			t.Fatal(err)
		}
		p := bytes.Repeat([]byte{0xEE}, 12)
		s := stamp{times: w.rules, payload: p, bit: -1}
		for range 2 { // a datagram that is sent twice
			s.set(c.ns)
		}
		want := append([]byte{0xEE, 0xEE}, c.want...)
		want = append(want, bytes.Repeat([]byte{0xEE}, 12-len(want))...)
		if !bytes.Equal(p, want) {
			t.Errorf("%s: %x, want %x", c.flag, p, want)
		}
		// A bit that was flipped on purpose stays flipped.
		s.bit = 8*2 + 3
		s.set(c.ns)
		want[2] ^= 1 << 3
		if !bytes.Equal(p, want) {
			t.Errorf("%s with a flipped bit: %x, want %x", c.flag, p, want)
		}
	}
}

// Memory is bounded: what has no room is left alone, and said.
func TestRewriteBounds(t *testing.T) {
	do := rewriter(t, "rtp")
	var did Rewritten
	for i := range uint32(perStream + 10) {
		did = do(rtp(1, 1, i, ""), 0)
	}
	if did.LeftAlone != 10 || did.Datagrams != perStream {
		t.Errorf("%+v", did)
	}
	for flag, most := range map[string]int{"mpegts": maxTSStreams, "seq@0:2:be": maxRewriteStates, "moldudp64": maxRewriteStates} {
		w, err := ParseRewrite(flag)
		if err != nil {
			t.Fatal(err)
		}
		m, err := newRewriting(&Options{Rewrite: []Rewrite{w}})
		if err != nil {
			t.Fatal(err)
		}
		const beyond = 5
		for i := range most + beyond {
			dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, byte(i >> 16), byte(i >> 8), byte(i)}), 5000)
			m.apply(m.lane(dst, dst), tsPacket(188, 1, 1, true), 0)
		}
		if m.did.LeftAlone != beyond || m.did.Datagrams != uint64(most) {
			t.Errorf("%s: %+v, want %d left alone", flag, m.did, beyond)
		}
	}
}

func TestParseRewriteRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "is none of rtp",
		"rtcp":                       "is none of rtp",
		"=rtp":                       "no pattern before the =",
		"nowhere=rtp":                "nowhere",
		"rtp,":                       "is none of rtp",
		"seq":                        "is none of rtp",
		"seq@":                       "the offset in the payload",
		"seq@-1:2:be":                "the offset in the payload",
		"seq@70000:2:be":             "0 to 65526",
		"seq@2":                      "the width in bytes",
		"seq@2:9:be":                 "1 to 8",
		"seq@2:2":                    "byte order",
		"seq@2:2:big":                "such as seq@2:2:be",
		"seq@2:2:be:0":               "the step",
		"seq@2:2:be:1:1":             "too much behind the step",
		"time@8:8:be":                "the unit of a time",
		"time@8:8:be:min":            "the unit of a time",
		"time@8:8:be:ns:noon":        "counts from unix",
		"time@8:8:be:ns:midnight:ut": "counts from unix",
	} {
		if _, err := ParseRewrite(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseRewrite(f *testing.F) {
	for _, s := range []string{"rtp", "239.1.1.1:5000=rtp,mpegts", "seq@2:2:be", "seq@0:8:le:10", "time@8:8:be:ns", "time@0:4:le:ms:midnight", "[ff3e::1]:5000=moldudp64"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		w, err := ParseRewrite(text)
		if err != nil {
			return
		}
		again, err := ParseRewrite(w.String())
		if err != nil || again.For != w.For || !slices.Equal(again.rules, w.rules) {
			t.Errorf("%q is %+v, written %q, read again %+v (%v)", text, w, w, again, err)
		}
	})
}

// No payload harms the rewriters, and none of them writes anywhere but into its fields.
func FuzzRewrite(f *testing.F) {
	f.Add(rtp(65535, 1<<32-1, 7, "payload"), 1)
	f.Add(mold("session", 1<<63, 3), 2)
	f.Add(slices.Concat(tsPacket(188, 256, 15, true), tsPacket(188, 8191, 0, false)), 1)
	f.Add(append(rtp(1, 2, 3, ""), tsPacket(188, 1, 1, true)...), 1)
	f.Add([]byte{0x9F, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF}, 1)
	f.Fuzz(func(t *testing.T, payload []byte, round int) {
		for _, c := range []struct {
			flag  string
			field func(at int) bool
		}{
			{"rtp", func(at int) bool { return at >= 2 && at < 8 }},
			{"moldudp64", func(at int) bool { return at >= 10 && at < 18 }},
			{"mpegts", func(at int) bool { return at >= 3 }},
			{"seq@5:3:le", func(at int) bool { return at >= 5 && at < 8 }},
		} {
			do := rewriter(t, c.flag)
			for r := range 3 {
				p := bytes.Clone(payload)
				before := do(nil, 0)
				did := do(p, round*r)
				for at := range p {
					if p[at] != payload[at] && (!c.field(at) || did.Datagrams == before.Datagrams) {
						t.Fatalf("%s: byte %d is %x, was %x", c.flag, at, p[at], payload[at])
					}
				}
				if r == 0 && !bytes.Equal(p, payload) {
					t.Fatalf("%s changes the first round", c.flag)
				}
			}
		}
	})
}

func BenchmarkRewrite(b *testing.B) {
	ts := bytes.Repeat(tsPacket(188, 256, 1, true), 7)
	for _, c := range []struct {
		flag    string
		payload []byte
	}{{"seq@2:2:be", ts}, {"rtp", rtp(1, 1, 1, "payload")}, {"mpegts", ts}, {"moldudp64", mold("A", 1, 1)}} {
		b.Run(c.flag, func(b *testing.B) {
			do := rewriter(b, c.flag)
			b.ReportAllocs()
			for b.Loop() {
				do(c.payload, 0)
			}
		})
	}
}
