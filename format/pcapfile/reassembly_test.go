package pcapfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"castdeck/format"
)

// cutUp cuts the datagram of an Ethernet frame into fragments of at most size bytes
// (a multiple of 8) of the fragmentable part.
func cutUp(f []byte, size int, id uint32) (fragments [][]byte) {
	six := f[12] == 0x86
	fixed := 14 + 20
	if six {
		fixed = 14 + 40
	}
	body := f[fixed:]
	for at := 0; at < len(body); at += size {
		part := body[at:min(len(body), at+size)]
		more := at+size < len(body)
		var g []byte
		if six {
			place := uint16(at)
			if more {
				place |= 1
			}
			h := binary.BigEndian.AppendUint32(cat([]byte{f[20], 0}, be16(place)), id)
			g = cat(f[:fixed], h, part)
			g[20] = protoFragment
			binary.BigEndian.PutUint16(g[18:], uint16(8+len(part)))
		} else {
			g = cat(f[:fixed], part)
			binary.BigEndian.PutUint16(g[16:], uint16(20+len(part)))
			binary.BigEndian.PutUint16(g[18:], uint16(id))
			place := uint16(at / 8)
			if more {
				place |= 0x2000
			}
			binary.BigEndian.PutUint16(g[20:], place)
		}
		fragments = append(fragments, g)
	}
	return fragments
}

// captureOf makes a file of frames, a millisecond apart.
func captureOf(frames ...[]byte) []byte {
	var p []packet
	for i, f := range frames {
		p = append(p, packet{time: stamp(1000 * i), frame: f})
	}
	return littleMicro.file(p...)
}

func TestReassembly(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, group := range []netip.AddrPort{group4, group6} {
		src := source4
		if group.Addr().Is6() {
			src = source6
		}
		for _, c := range []struct{ length, size int }{{1, 8}, {8, 8}, {100, 8}, {100, 40}, {3000, 1480}, {2952, 1480}, {2953, 1480}, {65507, 1480}, {65507, 8}} {
			payload := make([]byte, c.length)
			for i := range payload {
				payload[i] = byte(random.Uint32())
			}
			whole := frame(src, group, payload)
			for name, order := range map[string]func([][]byte){
				"in order": func([][]byte) {},
				"reversed": slices.Reverse[[][]byte],
				"shuffled": func(f [][]byte) { random.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] }) },
			} {
				t.Run(fmt.Sprintf("%v/%d by %d/%s", group.Addr(), c.length, c.size, name), func(t *testing.T) {
					pieces := cutUp(whole, c.size, 77)
					if len(pieces) < 2 {
						t.Fatal("not in fragments")
					}
					order(pieces)
					all := append([][]byte{frame4("before")}, pieces...)
					all = append(all, frame4("after"))
					got := read(t, captureOf(all...))
					if len(got.datagrams) != 3 {
						t.Fatalf("%d datagrams: %+v", len(got.datagrams), got.counts)
					}
					d := got.datagrams[1]
					if !bytes.Equal(d.Payload, payload) || d.Src != src || d.Dst != group || d.TTL != 7 || d.Flags != format.FlagReassembled ||
						d.Frame != nil || d.FrameLength != 0 || int(d.Length) != len(payload) || d.Time != stamp(1000*len(pieces)) {
						t.Errorf("%v", d)
					}
					n := uint64(len(pieces))
					want := Counts{Packets: n + 2, Datagrams: 3, Fragments: n, Joined: n, Reassembled: 1}
					if got.counts != want {
						t.Errorf("counts %+v, want %+v", got.counts, want)
					}
				})
			}
		}
	}
}

// TestReassemblyRefuses: what does not become a datagram comes out as it went in.
func TestReassemblyRefuses(t *testing.T) {
	whole := frame(source4, group4, bytes.Repeat([]byte("abcdefgh"), 10))
	f := func() [][]byte { return cutUp(whole, 32, 9) } // 32, 32, 24
	change := func(b []byte, at int, v ...byte) []byte {
		c := bytes.Clone(b)
		copy(c[at:], v)
		return c
	}
	p := f()
	overlap := change(p[1], 20, 0x20, 3) // at 24 instead of 32
	second := cutUp(whole, 32, 10)
	badUDP := f()
	binary.BigEndian.PutUint16(badUDP[0][38:], 2000)
	for _, c := range []struct {
		name   string
		frames [][]byte
		want   Counts
	}{
		{"one missing", [][]byte{p[0], p[2]}, Counts{NotUDP: 2, Fragments: 2, ReassemblyFailed: 1}},
		{"the last missing", [][]byte{p[0], p[1]}, Counts{NotUDP: 2, Fragments: 2, ReassemblyFailed: 1}},
		{"repeated", [][]byte{p[0], p[0], p[1], p[2]}, Counts{Datagrams: 1, NotUDP: 1, Fragments: 4, Joined: 3, Reassembled: 1}},
		{"overlapping", [][]byte{p[0], overlap, p[1], p[2]}, Counts{NotUDP: 4, Fragments: 4, ReassemblyFailed: 1}},
		{"same place, other length", [][]byte{p[0], p[1], change(p[1][:len(p[1])-8], 16, 0, 44), p[2]}, Counts{NotUDP: 4, Fragments: 4, ReassemblyFailed: 1}},
		{"two ends", [][]byte{p[2], change(p[1], 20, 0, 4), p[0]}, Counts{NotUDP: 3, Fragments: 3, ReassemblyFailed: 1}},
		{"behind the end", [][]byte{change(p[1], 20, 0, 4), p[2], p[0]}, Counts{NotUDP: 3, Fragments: 3, ReassemblyFailed: 1}},
		{"not of 8 bytes", [][]byte{change(p[0][:len(p[0])-3], 16, 0, 49), p[1], p[2]}, Counts{NotUDP: 3, Fragments: 3, ReassemblyFailed: 1}},
		{"beyond 65,535", [][]byte{change(p[2], 20, 0x1F, 0xFF)}, Counts{NotUDP: 1, Fragments: 1}},
		{"empty", [][]byte{change(p[1][:34], 16, 0, 20)}, Counts{NotUDP: 1, Fragments: 1}},
		{"UDP length of another", badUDP, Counts{NotUDP: 3, Fragments: 3, ReassemblyFailed: 1}},
		{"two mixed", [][]byte{p[0], second[0], p[1], second[1], p[2], second[2]}, Counts{Datagrams: 2, Fragments: 6, Joined: 6, Reassembled: 2}},
		{"of two sources", [][]byte{p[0], p[1], change(p[2], 26, 10, 99, 0, 2)}, Counts{NotUDP: 3, Fragments: 3, ReassemblyFailed: 2}},
		{"identifiers reused", [][]byte{p[0], p[1], p[2], p[0], p[1], p[2]}, Counts{Datagrams: 2, Fragments: 6, Joined: 6, Reassembled: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := read(t, captureOf(c.frames...))
			c.want.Packets = uint64(len(c.frames))
			if got.counts != c.want {
				t.Errorf("counts %+v, want %+v", got.counts, c.want)
			}
			// Every packet that is in no datagram comes out as it went in, once.
			left := slices.Clone(c.frames)
			for _, d := range got.datagrams {
				if d.Flags&format.FlagReassembled != 0 {
					continue
				}
				i := slices.IndexFunc(left, func(f []byte) bool { return bytes.Equal(f, d.Frame) })
				if i < 0 || d.Flags != format.FlagNotUDP || int(d.FrameLength) != len(d.Frame) {
					t.Fatalf("%+v did not go in", d)
				}
				left = slices.Delete(left, i, i+1)
			}
			if len(left) != int(got.counts.Joined) {
				t.Errorf("%d packets did not come out, %d were joined", len(left), got.counts.Joined)
			}
		})
	}
}

func TestReassemblyOfCutFragments(t *testing.T) {
	p := cutUp(frame(source4, group4, make([]byte, 100)), 64, 1)
	c := read(t, littleMicro.file(packet{time: stamp(0), frame: p[0][:60], wire: len(p[0])}, packet{time: stamp(1), frame: p[1]}))
	want := Counts{Packets: 2, NotUDP: 2, Fragments: 2, ReassemblyFailed: 1, Truncated: 1}
	if c.counts != want || c.datagrams[0].Flags != format.FlagNotUDP|format.FlagTruncated {
		t.Errorf("counts %+v, want %+v", c.counts, want)
	}
}

func TestReassemblyPerInterface(t *testing.T) {
	p := cutUp(frame(source4, group4, make([]byte, 100)), 64, 1)
	n := newNG(binary.LittleEndian).iface(linkEthernet, 0).iface(linkEthernet, 0)
	n.epb(0, 1, p[0], n.option(4, n.u64(2))).epb(1, 2, p[0]).epb(1, 3, p[1], n.option(4, n.u64(1))).epb(0, 4, p[1], n.option(4, n.u64(3)))
	c := read(t, n.b)
	if len(c.datagrams) != 2 || c.datagrams[0].Interface != 1 || c.datagrams[1].Interface != 0 ||
		c.datagrams[0].Drops != 1 || c.datagrams[1].Drops != 5 {
		t.Errorf("%+v", c.datagrams)
	}
}

func TestReassemblyTimeout(t *testing.T) {
	p := cutUp(frame(source4, group4, make([]byte, 100)), 64, 1)
	at := func(s int64, f []byte) packet { return packet{time: stamp(0) + s*second, frame: f} }
	// In time; too late, and then the lone fragment stands before the packet that
	// showed it; a clock that runs backwards expires nothing.
	c := read(t, littleMicro.file(at(0, p[0]), at(30, p[1])))
	if c.counts.Reassembled != 1 {
		t.Errorf("after 30 s: %+v", c.counts)
	}
	c = read(t, littleMicro.file(at(0, p[0]), at(31, frame4("x")), at(31, p[1])))
	if c.counts.ReassemblyFailed != 2 || !bytes.Equal(c.datagrams[0].Frame, p[0]) || string(c.datagrams[1].Payload) != "x" || c.datagrams[0].Time != stamp(0) {
		t.Errorf("after 31 s: %+v", c.counts)
	}
	c = read(t, littleMicro.file(at(100, p[0]), at(0, p[1])))
	if c.counts.Reassembled != 1 {
		t.Errorf("backwards: %+v", c.counts)
	}
}

// TestReassemblyIsBounded floods with first fragments of datagrams that never end.
func TestReassemblyIsBounded(t *testing.T) {
	for name, c := range map[string]struct{ n, size int }{"many": {3 * maxAssemblies, 8}, "large": {600, 60000}} {
		t.Run(name, func(t *testing.T) {
			payload := make([]byte, c.size+100)
			data := littleMicro.header()
			for i := range c.n {
				src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 5000)
				data = append(data, littleMicro.record(packet{time: stamp(i), frame: cutUp(frame(src, group4, payload), c.size, uint32(i))[0]})...)
			}
			r := open(t, data)
			var b format.Batch
			seen, order := 0, stamp(0)
			for {
				err := r.ReadBatch(&b)
				if err != nil {
					break
				}
				for i := range b.Datagrams {
					if d := &b.Datagrams[i]; d.Time != order || d.Flags != format.FlagNotUDP {
						t.Fatalf("packet %d: %+v", seen, d)
					}
					order += 1000
					seen++
				}
				if r.frags.bytes > maxAssemblySize || r.frags.open > maxAssemblies || len(r.frags.table) != r.frags.open {
					t.Fatalf("%d bytes in %d datagrams are held", r.frags.bytes, r.frags.open)
				}
			}
			if want := (Counts{Packets: uint64(c.n), NotUDP: uint64(c.n), Fragments: uint64(c.n), ReassemblyFailed: uint64(c.n)}); r.Counts() != want {
				t.Errorf("counts %+v, want %+v", r.Counts(), want)
			}
			if r.frags.bytes != 0 || r.frags.open != 0 || r.frags.oldest != nil || r.frags.last != nil {
				t.Errorf("at the end %d bytes in %d datagrams are held", r.frags.bytes, r.frags.open)
			}
		})
	}
}

// TestReassemblyOfOneTooLarge: a datagram that alone exceeds the memory.
func TestReassemblyOfOneTooLarge(t *testing.T) {
	pieces := cutUp(frame(source4, group4, make([]byte, 60_000)), 1480, 1)
	r := open(t, captureOf(pieces...))
	r.frags.limit = 20_000
	c := readAll(t, r)
	if c.counts.NotUDP != uint64(len(pieces)) || c.counts.Reassembled != 0 || c.counts.ReassemblyFailed == 0 || r.frags.bytes != 0 {
		t.Errorf("%+v, %d bytes left", c.counts, r.frags.bytes)
	}
}

// TestReassemblyAllocatesNothing once its memory is there.
func TestReassemblyAllocatesNothing(t *testing.T) {
	data := littleMicro.header()
	whole := frame(source4, group4, make([]byte, 4000))
	for i := range 20_000 {
		for _, f := range cutUp(whole, 1480, uint32(i)) {
			data = append(data, littleMicro.record(packet{time: stamp(i), frame: f})...)
		}
	}
	r := open(t, data)
	var b format.Batch
	for range 10 {
		if err := r.ReadBatch(&b); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := r.ReadBatch(&b); err != nil || b.Datagrams[0].Flags != format.FlagReassembled {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}
