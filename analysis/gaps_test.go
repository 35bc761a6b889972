package analysis

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"castdeck/format"
)

// builders make the datagram of a protocol with count numbers from seq on, in its first
// numbering, or another one.
var builders = map[Protocol]func(seq uint64, count int, other bool) []byte{
	MoldUDP64: func(seq uint64, count int, other bool) []byte {
		p := []byte("SESSION001")
		if other {
			p = []byte("SESSION002")
		}
		p = be.AppendUint16(be.AppendUint64(p, seq), uint16(count))
		for range count {
			p = append(be.AppendUint16(p, 5), "hello"...)
		}
		return p
	},
	MDP3: func(seq uint64, count int, _ bool) []byte {
		p := le.AppendUint64(le.AppendUint32(nil, uint32(seq)), 1_700_000_000_000_000_000)
		p = le.AppendUint16(p, 14) // message size, then the SBE header
		for _, v := range []uint16{4, 46, 1, 9, 7, 7} {
			p = le.AppendUint16(p, v)
		}
		return p
	},
	Pitch: func(seq uint64, count int, other bool) []byte {
		unit := byte(1)
		if other {
			unit = 2
		}
		p := le.AppendUint32([]byte{byte(8 + 6*count), 0, byte(count), unit}, uint32(seq))
		for range count {
			p = append(p, 6, 0x20, 1, 2, 3, 4)
		}
		return p
	},
	EOBI: func(seq uint64, count int, other bool) []byte {
		p := le.AppendUint16(le.AppendUint16(nil, 32), 13005)
		p = le.AppendUint32(le.AppendUint32(p, 0xFFFFFFFF), uint32(seq))
		segment := uint32(688)
		if other {
			segment = 689
		}
		p = append(le.AppendUint32(p, segment), make([]byte, 16)...)
		p = le.AppendUint16(le.AppendUint16(p, 16), 13001)
		return append(p, make([]byte, 12)...)
	},
	IEXTP: func(seq uint64, count int, other bool) []byte {
		session := uint32(1234)
		if other {
			session = 1235
		}
		p := le.AppendUint32(le.AppendUint32([]byte{1, 0, 3, 0x80}, 1), session)
		p = le.AppendUint16(le.AppendUint16(p, uint16(5*count)), uint16(count))
		p = le.AppendUint64(le.AppendUint64(le.AppendUint64(p, 77), seq), 1_700_000_000_000_000_000)
		for range count {
			p = append(p, 3, 0, 'Q', 1, 2)
		}
		return p
	},
	XDP: func(seq uint64, count int, _ bool) []byte {
		p := le.AppendUint32([]byte{byte(16 + 6*count), 0, 11, byte(count)}, uint32(seq))
		if count == 0 {
			p[2] = 1
		}
		p = le.AppendUint32(le.AppendUint32(p, 1_700_000_000), 999)
		for range count {
			p = append(p, 6, 0, 100, 0, 1, 2)
		}
		return p
	},
	Memoir: func(seq uint64, count int, other bool) []byte {
		session := uint64(0x5553453164e486c8)
		if other {
			session++
		}
		p := be.AppendUint64(be.AppendUint64([]byte{2, 18}, session), seq)
		if count == 0 {
			p[0] = 0
			return p
		}
		p = be.AppendUint16(p, uint16(count))
		for range count {
			p = append(p, 0, 3, 1, 2, 3)
		}
		return p
	},
	IMpact: func(seq uint64, count int, other bool) []byte {
		session := uint16(10784)
		if other {
			session++
		}
		p := be.AppendUint32(be.AppendUint16(nil, session), uint32(seq))
		p = be.AppendUint64(be.AppendUint16(p, uint16(count)), 1_700_000_000_000)
		for range count {
			p = append(p, 'M', 0, 2, 1, 2)
		}
		return p
	},
	UMDF: func(seq uint64, count int, other bool) []byte {
		version := uint16(1333)
		if other {
			version++
		}
		p := le.AppendUint32(le.AppendUint16([]byte{50, 1}, version), uint32(seq))
		p = le.AppendUint64(p, 1_700_000_000_000_000_000)
		return append(p, 12, 0, 0x50, 0xEB, 0, 0, 1, 0, 2, 0, 5, 0)
	},
	Deribit: func(seq uint64, count int, other bool) []byte {
		channel := uint16(21)
		if other {
			channel++
		}
		p := le.AppendUint32(le.AppendUint16(le.AppendUint16(nil, 16), channel), uint32(seq))
		return append(p, 4, 0, 0xF0, 3, 1, 0, 2, 0, 0, 0, 0, 0, 1, 2, 3, 4)
	},
	RTP: func(seq uint64, count int, other bool) []byte {
		ssrc := uint32(0xCAFE0001)
		if other {
			ssrc++
		}
		p := be.AppendUint16([]byte{0x80, 96}, uint16(seq))
		p = be.AppendUint32(be.AppendUint32(p, uint32(seq*48)), ssrc)
		return append(p, "samples"...)
	},
	PTP: func(seq uint64, count int, other bool) []byte {
		p := make([]byte, 44)
		p[1], p[3] = 2, 44
		if other {
			p[0] = 1 // Delay_Req
		}
		be.PutUint64(p[20:], 0x001122FFFE334455)
		be.PutUint16(p[28:], 1)
		be.PutUint16(p[30:], uint16(seq))
		return p
	},
	Custom: func(seq uint64, count int, _ bool) []byte {
		return append(le.AppendUint32([]byte("head"), uint32(seq)), "tail"...)
	},
}

// counted are the protocols of which a datagram has as many numbers as messages, and
// whose heartbeats give the number due.
var counted = map[Protocol]bool{MoldUDP64: true, Pitch: true, IEXTP: true, XDP: true, Memoir: true}

// batchOf makes a batch of payloads of one stream, a millisecond apart.
func batchOf(t testing.TB, payloads ...[]byte) *format.Batch {
	t.Helper()
	size := 0
	for _, p := range payloads {
		size += len(p)
	}
	b := format.NewBatch(len(payloads), size)
	for i, p := range payloads {
		if !b.Append(&format.Datagram{
			Time: int64(i) * 1e6, Src: netip.MustParseAddrPort("10.0.0.1:4000"), Dst: netip.MustParseAddrPort("239.1.1.1:319"),
			Length: uint32(len(p)), Payload: p,
		}) {
			t.Fatal("the batch is too small")
		}
	}
	return b
}

func optionsFor(p Protocol) GapOptions {
	return GapOptions{Protocol: p, Field: Field{Offset: 4, Width: 4, Step: 1}}
}

// only is the one numbering of a stream.
func only(t *testing.T, r *GapResult) Numbering {
	t.Helper()
	if len(r.Numberings) != 1 {
		t.Fatalf("%d numberings, want 1: %+v", len(r.Numberings), r.Numberings)
	}
	return r.Numberings[0]
}

// TestInjectedFaults: what is reported is exactly what was done to the traffic: for each
// protocol, given and recognised, over a wrap and a reset.
func TestInjectedFaults(t *testing.T) {
	for p := MoldUDP64; p <= Custom; p++ {
		build := builders[p]
		if build == nil {
			if p != SoupBin && p != MPEGTS { // they have tests of their own
				t.Errorf("%v: no builder", p)
			}
			continue
		}
		bits := layouts[p].bits
		if p == Custom {
			bits = 32
		}
		each := uint64(1)
		if counted[p] {
			each = 3
		}
		for _, auto := range []bool{false, true} {
			if auto && p == Custom {
				continue
			}
			t.Run(fmt.Sprintf("%v/auto=%v", p, auto), func(t *testing.T) {
				mask := ^uint64(0) >> (64 - bits)
				start := mask - 1500*each + 1
				wraps := uint64(1)
				if p == Pitch { // 0 is no number
					start, wraps = 10, 0
				}
				var payloads [][]byte
				want := Counts{First: start, Resets: 1, Wraps: wraps}
				var gaps []Range
				number := func(i int) uint64 { return (start + uint64(i)*each) & mask }
				var held []byte
				lost := func(i int) bool { return i == 60 || i >= 200 && i < 210 || i == 1500 || i == 1502 }
				for i := range 3000 {
					d := build(number(i), int(each), false)
					switch {
					case lost(i):
						want.Missing += each
						if !lost(i - 1) {
							gaps = append(gaps, Range{From: number(i), Since: int64(len(payloads)-1) * 1e6})
						}
						g := &gaps[len(gaps)-1]
						g.Count += each
						g.To = (number(i+1) - 1) & mask
						g.Time = int64(len(payloads)) * 1e6
						continue
					case i == 700 || i == 2000: // late by 1 and by 20
						held = d
						want.Reordered += each
					case i == 702 || i == 2021:
						payloads = append(payloads, held, d)
					case i == 800 || i == 1300 || i == 1301: // twice, three times
						payloads = append(payloads, d, d)
						want.Duplicates += each
					case i == 2500: // a repetition from before, far behind
						payloads = append(payloads, d, build(number(2100), int(each), false))
						want.Duplicates += each
					default:
						payloads = append(payloads, d)
					}
					want.Received += each
				}
				// Begins anew, at a number that nothing could have led to.
				again := uint64(1)
				if bits == 16 {
					again = (number(3000) + 40000) & mask
				}
				for i := range 500 {
					if i == 100 {
						want.Missing += each
						at := again + 100*each
						gaps = append(gaps, Range{From: at & mask, To: (at + each - 1) & mask, Count: each, Since: int64(len(payloads)-1) * 1e6, Time: int64(len(payloads)) * 1e6})
						continue
					}
					payloads = append(payloads, build((again+uint64(i)*each)&mask, int(each), false))
					want.Received += each
				}
				want.Last = (again + 500*each - 1) & mask
				want.Ranges = uint64(len(gaps))

				o := optionsFor(p)
				if auto {
					o = GapOptions{}
				}
				g := NewGaps(o)
				g.Add(batchOf(t, payloads...))
				got := only(t, g.Finish())
				if got.Counts != want {
					t.Errorf("got  %+v\nwant %+v", got.Counts, want)
				}
				if !slices.Equal(got.Gaps, gaps) {
					t.Errorf("got gaps  %+v\nwant gaps %+v", got.Gaps, gaps)
				}
				if got.Protocol != p || got.Confidence < 0.95 || got.Datagrams != uint64(len(payloads)) {
					t.Errorf("%v with confidence %v, %d datagrams of %d", got.Protocol, got.Confidence, got.Datagrams, len(payloads))
				}
			})
		}
	}
}

// TestSequence: cases of one numbering.
func TestSequence(t *testing.T) {
	for _, c := range []struct {
		why  string
		bits uint8
		step uint64
		seqs []uint64
		want Counts
	}{
		{"nothing wrong", 32, 1, []uint64{5, 6, 7}, Counts{First: 5, Last: 7, Received: 3}},
		{"one number", 32, 1, []uint64{5}, Counts{First: 5, Last: 5, Received: 1}},
		{"the first one is late", 32, 1, []uint64{6, 5, 7}, Counts{First: 5, Last: 7, Received: 3, Reordered: 1}},
		{"before the first one, and one between", 32, 1, []uint64{7, 5, 8}, Counts{First: 5, Last: 8, Received: 3, Reordered: 1, Missing: 1, Ranges: 1}},
		{"a late one cuts a gap in two", 32, 1, []uint64{1, 10, 5}, Counts{First: 1, Last: 10, Received: 3, Reordered: 1, Missing: 7, Ranges: 2}},
		{"a gap is filled backwards", 32, 1, []uint64{1, 4, 3, 2}, Counts{First: 1, Last: 4, Received: 4, Reordered: 2}},
		{"late, and then again", 32, 1, []uint64{1, 3, 2, 2}, Counts{First: 1, Last: 3, Received: 3, Reordered: 1, Duplicates: 1}},
		{"8 bits wrap", 8, 1, []uint64{254, 255, 0, 1}, Counts{First: 254, Last: 1, Received: 4, Wraps: 1}},
		{"8 bits wrap within a gap", 8, 1, []uint64{254, 2}, Counts{First: 254, Last: 2, Received: 2, Missing: 3, Ranges: 1, Wraps: 1}},
		{"late across the wrap", 16, 1, []uint64{65534, 0, 65535, 1}, Counts{First: 65534, Last: 1, Received: 4, Reordered: 1, Wraps: 1}},
		{"64 bits wrap", 64, 1, []uint64{1<<64 - 1, 0, 2}, Counts{First: 1<<64 - 1, Last: 2, Received: 3, Missing: 1, Ranges: 1, Wraps: 1}},
		{"steps", 32, 10, []uint64{100, 110, 140, 120}, Counts{First: 100, Last: 140, Received: 4, Reordered: 1, Missing: 1, Ranges: 1}},
		{"steps wrap", 8, 7, []uint64{250, 1, 15}, Counts{First: 250, Last: 15, Received: 3, Missing: 1, Ranges: 1, Wraps: 1}},
		{"off the steps: a stray", 32, 10, []uint64{100, 110, 113, 120}, Counts{First: 100, Last: 120, Received: 3, Strays: 1}},
		{"off the steps, and on from there", 32, 10, []uint64{100, 110, 113, 123}, Counts{First: 100, Last: 123, Received: 4, Resets: 1}},
		{"a wide gap", 32, 1, []uint64{1, 1_000_001, 1_000_002}, Counts{First: 1, Last: 1_000_002, Received: 3, Missing: 999_999, Ranges: 1}},
		{"a very wide gap, believed once it goes on", 32, 1, []uint64{1, 10_000_001, 10_000_002}, Counts{First: 1, Last: 10_000_002, Received: 3, Missing: 9_999_999, Ranges: 1}},
		{"one number far ahead", 32, 1, []uint64{1, 2, 10_000_001, 3}, Counts{First: 1, Last: 3, Received: 3, Strays: 1}},
		{"one number far ahead, the last one", 32, 1, []uint64{1, 2, 10_000_001}, Counts{First: 1, Last: 2, Received: 2, Strays: 1}},
		{"one number far behind", 32, 1, []uint64{1000, 1001, 5, 1002}, Counts{First: 1000, Last: 1002, Received: 3, Strays: 1}},
		{"back to 1 early", 32, 1, []uint64{1, 2, 3, 4, 1, 2, 3}, Counts{First: 1, Last: 3, Received: 7, Resets: 1}},
		{"a reset, each number twice", 32, 1, []uint64{900, 900, 901, 901, 7, 7, 8, 8}, Counts{First: 900, Last: 8, Received: 4, Duplicates: 4, Resets: 1}},
		{"number 1 late", 32, 1, []uint64{2, 3, 4, 5, 6, 1, 7}, Counts{First: 1, Last: 7, Received: 7, Reordered: 1}},
		{"number 1 late into a gap", 32, 1, []uint64{0, 2, 3, 4, 5, 6, 1, 7}, Counts{First: 0, Last: 7, Received: 8, Reordered: 1}},
		{"a reset to numbers that are missing", 32, 1, []uint64{0, 5, 6, 7, 8, 1, 2, 3}, Counts{First: 0, Last: 3, Received: 8, Missing: 4, Ranges: 1, Resets: 1}},
		{"two resets", 32, 1, []uint64{900, 901, 7, 8, 500_000_000, 1, 2}, Counts{First: 900, Last: 2, Received: 6, Resets: 2, Strays: 1}},
	} {
		t.Run(c.why, func(t *testing.T) {
			budget := maxRanges
			s := newSequence(c.bits, c.step, &budget)
			for i, seq := range c.seqs {
				s.add(seq, 1, int64(i)*1e6, 0)
			}
			s.end()
			if s.Counts != c.want {
				t.Errorf("%v\ngot  %+v\nwant %+v", c.seqs, s.Counts, c.want)
			}
			if budget+len(s.ranges) != maxRanges {
				t.Errorf("%d ranges kept, %d of the budget taken", len(s.ranges), maxRanges-budget)
			}
		})
	}
}

// TestLongOutage: of 16 bits a jump forward is a gap where the time sufficed for it, else
// the numbers began anew.
func TestLongOutage(t *testing.T) {
	for _, c := range []struct {
		pause           int64
		missing, resets uint64
	}{{10_000e6, 10_000, 0}, {1e6, 0, 1}} {
		budget := maxRanges
		s := newSequence(16, 1, &budget)
		time := int64(0)
		for i := range uint64(1000) {
			s.add(i, 1, time, 0)
			time += 1e6
		}
		time += c.pause
		for i := range uint64(1000) {
			s.add(11_000+i, 1, time, 0)
			time += 1e6
		}
		if s.end(); s.Missing != c.missing || s.Resets != c.resets {
			t.Errorf("after %d ns: %d missing, %d resets, want %d, %d", c.pause, s.Missing, s.Resets, c.missing, c.resets)
		}
	}
}

// TestManyRanges: all are counted, however many are kept, and the last ones are filled by
// what comes late.
func TestManyRanges(t *testing.T) {
	for _, budget := range []int{maxRanges, 10, 0} {
		left := budget
		s := newSequence(64, 1, &left)
		const n = 10_000
		for i := range uint64(n) {
			s.add(2*i, 1, int64(i), 0)
		}
		if s.Missing != n-1 || s.Ranges != n-1 {
			t.Errorf("%d missing in %d ranges, want %d", s.Missing, s.Ranges, n-1)
		}
		if len(s.ranges) > keptRanges+2*openRanges || left+len(s.ranges) != budget {
			t.Errorf("%d ranges kept of a budget of %d, %d left", len(s.ranges), budget, left)
		}
		if got := s.reported(nil); budget == maxRanges && (len(got) != keptRanges || got[999].From != 1999) {
			t.Errorf("%d ranges reported, the last one %+v", len(got), got[len(got)-1])
		}
		if s.add(2*n-3, 1, n, 0); budget > 0 && (s.Reordered != 1 || s.Missing != n-2) {
			t.Errorf("a late number: %+v", s.Counts)
		}
	}
}

// TestNumberings: those of one stream go side by side.
func TestNumberings(t *testing.T) {
	for p, build := range builders {
		if p == MDP3 || p == XDP || p == Custom {
			continue // one numbering a stream
		}
		var payloads [][]byte
		for i := range uint64(100) {
			if i != 50 {
				payloads = append(payloads, build(1000+i, 1, false))
			}
			payloads = append(payloads, build(5000+i, 1, true))
		}
		g := NewGaps(GapOptions{})
		g.Add(batchOf(t, payloads...))
		r := g.Finish()
		if len(r.Numberings) != 2 {
			t.Fatalf("%v: %d numberings: %+v", p, len(r.Numberings), r.Numberings)
		}
		a, b := r.Numberings[0], r.Numberings[1]
		if a.Protocol != p || a.Received != 99 || a.Missing != 1 || b.Received != 100 || b.Missing != 0 || a.Channel == b.Channel || a.Channel == "" {
			t.Errorf("%v: %+v\n%+v", p, a, b)
		}
	}
}

// TestHeartbeats: datagrams without numbers show what is missing at the end.
func TestHeartbeats(t *testing.T) {
	for p := range counted {
		build := builders[p]
		g := NewGaps(optionsFor(p))
		g.Add(batchOf(t, build(10, 0, false), build(10, 5, false), build(15, 0, false), build(15, 0, false), build(18, 0, false), build(18, 1, false), build(12, 0, false)))
		got := only(t, g.Finish())
		if want := (Counts{First: 10, Last: 18, Received: 6, Missing: 3, Ranges: 1}); got.Counts != want {
			t.Errorf("%v: got %+v, want %+v", p, got.Counts, want)
		}
	}
	// The end of a session too.
	end := builders[MoldUDP64](13, 0, false)
	end[18], end[19] = 0xFF, 0xFF
	g := NewGaps(optionsFor(MoldUDP64))
	g.Add(batchOf(t, builders[MoldUDP64](10, 2, false), end))
	if got := only(t, g.Finish()); got.Missing != 1 || !got.Ended {
		t.Errorf("end of session: %+v", got)
	}
	// Sequenced units without numbers.
	g = NewGaps(optionsFor(Pitch))
	g.Add(batchOf(t, builders[Pitch](1, 2, false), builders[Pitch](0, 0, false), builders[Pitch](3, 2, false)))
	if r := g.Finish(); r.Plain != 0 && r.Plain != 1 || only(t, r).Received != 4 || r.Total.Missing != 0 {
		t.Errorf("unsequenced: %+v", r)
	}
}

// TestSoupBin: the numbers are those that Login Accepted gave, and count on.
func TestSoupBin(t *testing.T) {
	packet := func(kind byte, body string) []byte {
		return append(append(be.AppendUint16(nil, uint16(1+len(body))), kind), body...)
	}
	login := func(seq int) []byte { return packet('A', fmt.Sprintf("%10s%20d", "ABC", seq)) }
	two := append(packet('S', "one"), packet('S', "two")...)
	payloads := [][]byte{login(100), two, packet('H', ""), packet('S', "three"), login(105), two, packet('Z', "")}
	for _, o := range []GapOptions{{}, {Protocol: SoupBin}} {
		g := NewGaps(o)
		g.Add(batchOf(t, payloads...))
		r := g.Finish()
		got := only(t, r)
		if want := (Counts{First: 100, Last: 106, Received: 5, Missing: 2, Ranges: 1}); got.Counts != want || !got.Ended || r.Plain != 1 || got.Channel != "session ABC" {
			t.Errorf("got %+v, %d plain", got, r.Plain)
		}
	}
}

// ts makes a packet of a transport stream. Control is 1 with payload, 2 with an
// adaptation field, 3 with both.
func ts(pid int, counter, control byte, discontinuity bool, fill uint64) []byte {
	p := make([]byte, tsPacket)
	p[0], p[3] = tsSync, control<<4|counter&0xF
	be.PutUint16(p[1:], uint16(pid))
	if control&2 != 0 {
		p[4] = 1
		if discontinuity {
			p[5] = 0x80
		}
	}
	be.PutUint64(p[170:], fill*0x9E3779B97F4A7C15)
	be.PutUint64(p[178:], fill)
	return p
}

func TestTransportStream(t *testing.T) {
	for _, c := range []struct {
		why     string
		packets [][]byte // a datagram each
		want    Counts
	}{
		{"in order, over the wrap", [][]byte{ts(256, 14, 1, false, 1), ts(256, 15, 1, false, 2), ts(256, 0, 1, false, 3)}, Counts{First: 14, Last: 0, Received: 3, Wraps: 1}},
		{"three missing", [][]byte{ts(256, 1, 1, false, 1), ts(256, 5, 1, false, 2)}, Counts{First: 1, Last: 5, Received: 2, Missing: 3, Ranges: 1}},
		{"without payload it does not count", [][]byte{ts(256, 1, 1, false, 1), ts(256, 1, 2, false, 2), ts(256, 1, 2, false, 3), ts(256, 2, 3, false, 4)}, Counts{First: 1, Last: 2, Received: 2}},
		{"a packet twice", [][]byte{ts(256, 1, 1, false, 1), ts(256, 1, 1, false, 1), ts(256, 2, 1, false, 2)}, Counts{First: 1, Last: 2, Received: 2, Duplicates: 1}},
		{"the same counter with other bytes: 15 are missing", [][]byte{ts(256, 1, 1, false, 1), ts(256, 1, 1, false, 2)}, Counts{First: 1, Last: 1, Received: 2, Missing: 15, Ranges: 1, Wraps: 1}},
		{"a discontinuity that was told", [][]byte{ts(256, 1, 1, false, 1), ts(256, 9, 3, true, 2), ts(256, 10, 1, false, 3)}, Counts{First: 1, Last: 10, Received: 3, Resets: 1}},
		{"a discontinuity told without payload", [][]byte{ts(256, 1, 1, false, 1), ts(256, 1, 2, true, 2), ts(256, 12, 1, false, 3)}, Counts{First: 1, Last: 12, Received: 2, Resets: 1}},
		{"null packets", [][]byte{ts(256, 1, 1, false, 1), ts(tsNull, 7, 1, false, 2), ts(tsNull, 3, 1, false, 3), ts(256, 2, 1, false, 4)}, Counts{First: 1, Last: 2, Received: 2}},
		{"a packet in error", [][]byte{ts(256, 1, 1, false, 1), ts(0x8000|256, 9, 1, false, 2), ts(256, 2, 1, false, 4)}, Counts{First: 1, Last: 2, Received: 2}},
	} {
		t.Run(c.why, func(t *testing.T) {
			g := NewGaps(GapOptions{Protocol: MPEGTS})
			g.Add(batchOf(t, c.packets...))
			if got := only(t, g.Finish()); got.Counts != c.want {
				t.Errorf("got  %+v\nwant %+v", got.Counts, c.want)
			}
		})
	}

	// Seven packets a datagram of two PIDs: datagrams lost, and one that comes twice.
	var payloads [][]byte
	counters := [2]byte{}
	missing := [2]uint64{}
	for i := range 1000 {
		var d []byte
		for j := range 7 {
			pid := (i + j) % 2
			d = append(d, ts(256+pid, counters[pid], 1, false, uint64(i*7+j))...)
			counters[pid]++
			if i == 300 || i == 301 || i == 600 {
				missing[pid]++
			}
		}
		if i != 300 && i != 301 && i != 600 {
			payloads = append(payloads, d)
		}
		if i == 500 {
			payloads = append(payloads, d)
		}
	}
	g := NewGaps(GapOptions{})
	g.Add(batchOf(t, payloads...))
	r := g.Finish()
	if len(r.Numberings) != 2 || r.Total.Missing != 21 || r.Total.Duplicates != 7 || r.Total.Received != 997*7 || r.Total.Ranges != 4 {
		t.Fatalf("%+v in %d numberings", r.Total, len(r.Numberings))
	}
	for i, n := range r.Numberings {
		if n.Protocol != MPEGTS || n.Missing != missing[i] || n.Channel != fmt.Sprintf("pid 0x%04x", 256+i) {
			t.Errorf("%+v, want %d missing", n, missing[i])
		}
	}
}

// TestNotRecognised: a wrong guess is worse than none.
func TestNotRecognised(t *testing.T) {
	var random [][]byte
	x := uint64(1)
	for range 500 {
		p := make([]byte, 8+x%400)
		for i := range p {
			x = x*6364136223846793005 + 1442695040888963407
			p[i] = byte(x >> 56)
		}
		random = append(random, p)
	}
	zeros, counting, text := [][]byte{}, [][]byte{}, [][]byte{}
	for i := range uint64(100) {
		zeros = append(zeros, make([]byte, 20+i))
		counting = append(counting, be.AppendUint64(nil, i))
		text = append(text, fmt.Appendf(nil, "NOTIFY * HTTP/1.1 %d", i))
	}
	for name, payloads := range map[string][][]byte{
		"random": random, "zeros": zeros, "a counter alone": counting, "text": text, "empty": {nil, nil, nil},
		"one datagram": {builders[MoldUDP64](1, 1, false)}, "two of RTP": {builders[RTP](1, 1, false), builders[RTP](9, 1, true)},
	} {
		g := NewGaps(GapOptions{})
		g.Add(batchOf(t, payloads...))
		r := g.Finish()
		if n := only(t, r); n.Protocol != Unknown || n.Datagrams != uint64(len(payloads)) || r.Unknown != 1 {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

// TestNotedLosses: what the recording says it lost is told apart.
func TestNotedLosses(t *testing.T) {
	build := builders[MDP3]
	b := batchOf(t, build(1, 1, false), build(4, 1, false), build(9, 1, false), build(10, 1, false))
	b.Datagrams[1].Drops = 2 // both
	b.Datagrams[2].Drops = 1 // one of four
	b.Stats = []format.InterfaceStats{{Dropped: 7}}
	g := NewGaps(optionsFor(MDP3))
	g.Add(b)
	r := g.Finish()
	n := only(t, r)
	if n.Missing != 6 || n.Noted != 3 || n.Gaps[0].Noted != 2 || n.Gaps[1].Noted != 1 || r.Dropped != 10 {
		t.Errorf("%+v, %d dropped", n, r.Dropped)
	}
}

func TestParseField(t *testing.T) {
	for _, s := range []string{"0:1:le", "12:8:be", "4:4:le:2", "65519:8:be"} {
		f, err := ParseField(s)
		if err != nil || f.String() != s {
			t.Errorf("%s: %v, %v", s, f, err)
		}
	}
	for _, s := range []string{"", "1:2", "1:0:le", "1:9:le", "-1:2:le", "1:2:xe", "1:1:le:0", "1:1:le:128", "1:2:le:3:4", "65520:8:be", "1:8:be:9223372036854775808"} {
		if f, err := ParseField(s); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("%q: %v, %v", s, f, err)
		}
	}
	f := Field{Offset: 1, Width: 3, Step: 1}
	if n, ok := f.number([]byte{9, 1, 2, 3}); !ok || n.seq != 0x030201 {
		t.Errorf("little endian: %#x", n.seq)
	}
	f.BigEndian = true
	if n, ok := f.number([]byte{9, 1, 2, 3}); !ok || n.seq != 0x010203 {
		t.Errorf("big endian: %#x", n.seq)
	}
	if _, ok := f.number([]byte{9, 1, 2}); ok {
		t.Error("a payload that is too short")
	}
}

// TestGapBounds: streams and numberings past the bounds are counted and cost nothing.
func TestGapBounds(t *testing.T) {
	g := NewGaps(GapOptions{Protocol: RTP})
	p := builders[RTP](1, 1, false)
	b := batchOf(t, p)
	for i := range uint32(maxNumberings + 10) {
		be.PutUint32(b.Datagrams[0].Payload[8:], i)
		g.Add(b)
	}
	if r := g.Finish(); len(r.Numberings) != maxNumberings || r.Uncounted != 10 {
		t.Errorf("%d numberings, %d uncounted", len(r.Numberings), r.Uncounted)
	}
}

func FuzzGaps(f *testing.F) {
	for p, build := range builders {
		f.Add(uint8(p), slices.Concat(build(1, 2, false), []byte{0xFF}, build(3, 2, false)))
	}
	f.Add(uint8(MPEGTS), slices.Concat(ts(1, 1, 1, false, 1), ts(1, 2, 3, true, 1)))
	soup, _ := hex.DecodeString("00015a0001480004536f6e65")
	f.Add(uint8(SoupBin), soup)
	f.Fuzz(func(t *testing.T, protocol uint8, data []byte) {
		// Payloads end with the byte 0xFF, and are taken as they are, too.
		payloads := [][]byte{data}
		for p := range strings.SplitSeq(string(data), "\xff") {
			payloads = append(payloads, []byte(p))
		}
		payloads = payloads[:min(len(payloads), 200)]
		p := Protocol(protocol) % protocols
		for _, e := range payloads {
			if l := &layouts[p]; l.decode != nil {
				n, ok := l.decode(e)
				if ok {
					_ = l.channel(n.hi, n.lo)
				}
				if l.evidence(e, 319) > 0 && !ok {
					t.Errorf("%v: there is evidence for %x, which does not decode", p, e)
				}
			}
		}
		g := NewGaps(GapOptions{Protocol: p, Field: Field{Offset: 3, Width: 1 + len(data)%8, BigEndian: len(data)%2 == 0, Step: 1}})
		b := batchOf(t, payloads...)
		g.Add(b)
		r := g.Finish()
		for _, n := range r.Numberings {
			var in uint64
			for _, x := range n.Gaps {
				in += x.Count
			}
			if n.Ranges <= keptRanges && (in != n.Missing || uint64(len(n.Gaps)) != n.Ranges) {
				t.Errorf("%d missing, %d in %d ranges, of %d", n.Missing, in, len(n.Gaps), n.Ranges)
			}
			if n.Noted > n.Missing {
				t.Errorf("%d of %d missing are noted", n.Noted, n.Missing)
			}
		}
	})
}

// FuzzSequence holds a numbering against a slow one that remembers all.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{1, 1, 1, 3, 0xFE, 1, 1})
	f.Add([]byte{50, 0xD0, 1, 1, 1})
	f.Fuzz(func(t *testing.T, steps []byte) {
		budget := maxRanges
		s := newSequence(64, 1, &budget)
		came := map[uint64]int{}
		at, low, high := uint64(1000), uint64(1000), uint64(999)
		var duplicates, reordered uint64
		for i, d := range steps {
			// Moves of -49 to 50 from the number before: none is taken for a reset.
			at += uint64(int64(d%100) - 49)
			if at+maxMisorder <= high || at < 1000 {
				at = high + 1
			}
			if came[at]++; came[at] > 1 {
				duplicates++
			} else if len(came) > 1 && at < high {
				reordered++
			}
			if i == 0 {
				low = at
			}
			low, high = min(low, at), max(high, at)
			s.add(at, 1, int64(i), 0)
		}
		s.end()
		want := Counts{Received: uint64(len(came)), Duplicates: duplicates, Reordered: reordered}
		if len(came) > 0 {
			want.First, want.Last, want.Missing = low, high, high-low+1-uint64(len(came))
			for n, gap := low, false; n <= high; n++ {
				missing := came[n] == 0
				if missing && !gap {
					want.Ranges++
				}
				gap = missing
			}
		}
		if s.Counts != want {
			t.Errorf("got  %+v\nwant %+v", s.Counts, want)
		}
	})
}

func FuzzParseField(f *testing.F) {
	f.Add("12:8:be")
	f.Add("0:1:le:3")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseField(s)
		if err != nil {
			return
		}
		if again, err := ParseField(p.String()); err != nil || again != p {
			t.Errorf("%q: %v, then %v, %v", s, p, again, err)
		}
		p.number(make([]byte, 100))
	})
}

// gapFeed is a batch of 512 datagrams of 200 bytes to 8 groups, numbered by group.
func gapFeed(protocol Protocol) *format.Batch {
	b := format.NewBatch(512, 512*200)
	for i := range 512 {
		p := builders[protocol](uint64(i/8), 1, false)
		p = append(p, make([]byte, 200-len(p))...)
		if protocol == Pitch {
			p[0], p[8] = 200, 192
		}
		b.Append(&format.Datagram{
			Time: int64(i) * 1000, Src: netip.MustParseAddrPort("10.0.0.1:4000"),
			Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(i % 8)}), 5000), Length: 200, Payload: p,
		})
	}
	return b
}

// advanceFeed renumbers the batch, so that it follows on itself.
func advanceFeed(b *format.Batch, at, by uint64) {
	for i := range b.Datagrams {
		p := b.Datagrams[i].Payload
		le.PutUint32(p[at:], le.Uint32(p[at:])+uint32(by))
	}
}

func TestGapsAllocateNothing(t *testing.T) {
	b := gapFeed(Pitch)
	g := NewGaps(GapOptions{Protocol: Pitch})
	g.Add(b)
	if n := testing.AllocsPerRun(100, func() {
		advanceFeed(b, 4, 64)
		g.Add(b)
	}); n > 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

func BenchmarkGaps(b *testing.B) {
	batch := gapFeed(Pitch)
	g := NewGaps(GapOptions{Protocol: Pitch})
	b.ReportAllocs()
	for b.Loop() {
		advanceFeed(batch, 4, 64)
		g.Add(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/datagram")
	if r := g.Finish(); r.Total.Missing > 0 {
		b.Fatalf("%d missing", r.Total.Missing)
	}
}
