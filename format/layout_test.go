package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestSectionAndInterface(t *testing.T) {
	b := AppendSHB(nil, Section{Hardware: "amd64", OS: "linux", Application: "castdeck test"})
	in := Interface{Name: "eth0", Description: "239.1.1.1:5000 on eth0", LinkType: 1, SnapLen: 96}
	b = AppendIDB(b, in)
	typ, body, rest, swap, err := NextBlock(b, false)
	if err != nil || typ != BlockSHB || swap {
		t.Fatal(typ, swap, err)
	}
	s, _, err := ParseSHB(body)
	if err != nil || s != (Section{"amd64", "linux", "castdeck test"}) {
		t.Errorf("section %+v, %v", s, err)
	}
	_, body, rest, _, err = NextBlock(rest, swap)
	if err != nil || len(rest) != 0 {
		t.Fatal(err)
	}
	i, c, err := ParseIDB(body, swap)
	if err != nil || i != in {
		t.Errorf("interface %+v, %v", i, err)
	}
	if _, ok := InterfaceNumber(body, swap); ok {
		t.Error("an interface has a number that nobody gave it")
	}
	_, numbered, _, _, _ := NextBlock(AppendNumberedIDB(nil, in, 513), false)
	if n, ok := InterfaceNumber(numbered, false); !ok || n != 513 {
		t.Errorf("interface number %d, %v", n, ok)
	}
	if ns, ok := c.Nanoseconds(1_700_000_000_123_456_789); !ok || ns != 1_700_000_000_123_456_789 {
		t.Errorf("clock gives %d", ns)
	}
}

func TestClock(t *testing.T) {
	for _, tc := range []struct {
		why     string
		tsresol uint8
		offset  int64
		raw     uint64
		ns      int64
		ok      bool
	}{
		{"microseconds, the default", 6, 0, 1_700_000_000_000_001, 1_700_000_000_000_001_000, true},
		{"seconds", 0, 0, 5, 5e9, true},
		{"picoseconds round down", 12, 0, 1_999, 1, true},
		{"2^-10 seconds", 0x8A, 0, 1536, 1.5e9, true},
		{"2^-63 seconds, the finest", 0x80 | 63, 0, 1 << 62, 5e8, true},
		{"10^-19 seconds, the finest", 19, 0, 1e19, 1e9, true},
		{"offset", 6, 100, 1, 100e9 + 1000, true},
		{"negative offset", 6, -100, 0, -100e9, true},
		{"past the year 2262", 9, 0, math.MaxUint64, 0, false},
		{"seconds past the year 2262", 0, 0, 1 << 62, 0, false},
		{"offset overflows", 0, math.MaxInt64, 1, 0, false},
		{"offset underflows", 0, math.MinInt64, 1, 0, false},
	} {
		c, err := NewClock(tc.tsresol, tc.offset)
		if err != nil {
			t.Errorf("%s: %v", tc.why, err)
			continue
		}
		if ns, ok := c.Nanoseconds(tc.raw); ok != tc.ok || ok && ns != tc.ns {
			t.Errorf("%s: %d, %v; want %d, %v", tc.why, ns, ok, tc.ns, tc.ok)
		}
	}
	for _, bad := range []uint8{20, 64, 0x80 | 64, 0xFF} {
		if _, err := NewClock(bad, 0); err == nil {
			t.Errorf("resolution %#x is taken", bad)
		}
	}
}

func TestEPBOptions(t *testing.T) {
	d := datagram("10.0.0.1:4000", "239.1.2.3:5000", 33)
	for _, tc := range []struct {
		drops uint64
		flags Flags
	}{{0, 0}, {1, 0}, {0, FlagUserStamp}, {math.MaxUint64, FlagUserStamp | FlagReassembled}} {
		d.Drops, d.Flags, d.Interface, d.Time = tc.drops, tc.flags, 7, -5
		b := AppendEPB(nil, d)
		_, body, rest, _, err := NextBlock(b, false)
		if err != nil || len(rest) != 0 {
			t.Fatal(err)
		}
		var e EPB
		if err := ParseEPB(body, false, &e); err != nil {
			t.Fatal(err)
		}
		if e.Drops != tc.drops || e.Flags != tc.flags || e.Interface != 7 || int64(e.Time) != -5 || len(e.Data) != 42+33 {
			t.Errorf("%+v", e)
		}
	}
}

func TestBlockLimits(t *testing.T) {
	for _, tc := range []struct {
		why   string
		block []byte
	}{
		{"nothing", nil},
		{"less than a block", make([]byte, 11)},
		{"length 0", block(6, 0, nil)},
		{"length below 12", block(6, 8, nil)},
		{"length not a multiple of 4", block(6, 13, make([]byte, 8))},
		{"length beyond what is there", block(6, 100, nil)},
		{"length beyond the limit", block(6, MaxBlockSize+4, nil)},
		{"length 2^32-1", block(6, math.MaxUint32, nil)},
		{"lengths disagree", append(block(6, 16, nil)[:8], 0, 0, 0, 0, 12, 0, 0, 0)},
		{"section header without magic", block(BlockSHB, 28, make([]byte, 16))},
	} {
		if _, _, _, _, err := NextBlock(tc.block, false); err == nil {
			t.Errorf("%s: taken", tc.why)
		}
	}
	var e EPB
	for _, tc := range []struct {
		why  string
		body []byte
	}{
		{"short", make([]byte, 19)},
		{"captured beyond the block", words(0, 0, 0, 5, 5, 0)},
		{"captured 2^32-1", words(0, 0, 0, math.MaxUint32, math.MaxUint32, 0)},
		{"option beyond the block", words(0, 0, 0, 4, 4, 0, 4|100<<16)},
	} {
		if err := ParseEPB(tc.body, false, &e); err == nil {
			t.Errorf("packet block, %s: taken", tc.why)
		}
	}
}

func block(typ, length uint32, body []byte) []byte {
	b := words(typ, length)
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, length)
}

func words(w ...uint32) (b []byte) {
	for _, v := range w {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func TestISB(t *testing.T) {
	in := InterfaceStats{Time: 1_700_000_000_000_000_001, Received: 1000, Dropped: 30, KernelDropped: 20, Interface: 3}
	_, body, _, _, err := NextBlock(AppendISB(nil, in), false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseISB(body, false)
	if err != nil {
		t.Fatal(err)
	}
	s.Stats.Time, s.Stats.Interface = int64(s.Time), uint16(s.Interface)
	if s.Stats != in {
		t.Errorf("%+v, want %+v", s.Stats, in)
	}
}

func TestEvent(t *testing.T) {
	long := strings.Repeat("ä", MaxEventText)
	for _, in := range []Event{
		{Time: 1_700_000_000_000_000_001, Monotonic: 17, Kind: EventLinkDown, Text: "eth0: no carrier", Interface: 3},
		{Time: math.MinInt64, Interface: NoInterface},
		{Interface: MaxInterfaces - 1, Kind: strings.Repeat("k", 100), Text: "x" + long},
	} {
		b := AppendEvent(nil, UUID{7}, 3, 9, &in)
		if len(b) > MaxEventBlock {
			t.Errorf("a block of %d bytes, limit %d", len(b), MaxEventBlock)
		}
		typ, body, rest, _, err := NextBlock(b, false)
		if err != nil || typ != BlockEvent || len(rest) != 0 {
			t.Fatal(typ, err)
		}
		want := in
		if len(want.Text) > MaxEventText {
			want.Kind, want.Text = want.Kind[:maxEventKind], "x"+long[:MaxEventText-2] // no half character
		}
		if got, number, err := ParseEvent(body); err != nil || got != want || number != 9 {
			t.Errorf("%+v, number %d, %v; want %+v", got, number, err, want)
		}
		for i := range body {
			c := bytes.Clone(body)
			c[i] ^= 4
			if _, _, err := ParseEvent(c); err == nil {
				t.Errorf("a flipped bit in byte %d is not noticed", i)
			}
			if _, _, err := ParseEvent(body[:i]); err == nil {
				t.Errorf("an event cut at byte %d is taken", i)
			}
		}
	}
	_, body, _, _, _ := NextBlock(AppendEvent(nil, UUID{}, 0, 0, &Event{Interface: MaxInterfaces}), false)
	if _, _, err := ParseEvent(body); err == nil {
		t.Error("an event of an interface that no file can have is taken")
	}
}

// TestLastEvents: of millions of events the last ones are kept.
func TestLastEvents(t *testing.T) {
	var tally Tally
	const n = 10*MaxEvents + 7
	for i := range n {
		tally.Add(&Batch{Events: []Event{{Time: int64(i), Interface: NoInterface}}})
	}
	last := tally.LastEvents()
	if tally.Events != n || len(last) != MaxEvents || last[0].Time != n-MaxEvents || last[MaxEvents-1].Time != n-1 || cap(tally.events) > 4*MaxEvents {
		t.Errorf("%d events, %d kept in room for %d", tally.Events, len(last), cap(tally.events))
	}
	// The index tells how many there were.
	x, back := &Index{Recording: UUID{1}, Events: last, EventCount: n}, &Index{}
	for _, b := range indexBlocks(x) {
		if err := back.AddBlock(b); err != nil {
			t.Fatal(err)
		}
	}
	if back.EventCount != n || !reflect.DeepEqual(back.Events, last) {
		t.Errorf("read back: %d of %d events", len(back.Events), back.EventCount)
	}
	x.Events = append(x.Events[:len(last):len(last)], Event{})
	for _, b := range indexBlocks(x) {
		if err := new(Index).AddBlock(b); b[8+36] == 3 && err == nil {
			t.Error("an index of too many events is taken")
		}
	}
}

func testIndex(chunks, streams, added int) *Index {
	x := &Index{Recording: UUID{1, 2, 3}, Segment: 4}
	for i := range chunks {
		x.Chunks = append(x.Chunks, ChunkEntry{Offset: int64(i) << 33, Size: 100, Raw: 200, First: -5, Last: math.MaxInt64,
			Packets: 3, Datagrams: 2, Bytes: 1 << 40, Dropped: uint64(i)})
	}
	for i := range streams {
		x.Streams = append(x.Streams, Stream{
			Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 4000),
			Dst: netip.MustParseAddrPort("[ff3e::1]:5000"), Interface: math.MaxUint16, Datagrams: uint64(i), Bytes: 1 << 50, First: 1, Last: 2,
		})
	}
	for i := range added {
		x.Interfaces = append(x.Interfaces, Interface{Name: fmt.Sprint("eth", i), Description: strings.Repeat("x", i%300), LinkType: 1})
	}
	for i := range min(added, MaxEvents) {
		x.Events = append(x.Events, Event{Time: int64(i), Kind: EventSilent, Text: strings.Repeat("y", i), Interface: int32(i) - 1})
	}
	x.EventCount = uint32(2 * len(x.Events))
	return x
}

// indexBlocks is the content of each of an index's frames.
func indexBlocks(x *Index) (out [][]byte) {
	x.Blocks(func(b []byte) error {
		out = append(out, bytes.Clone(b))
		return nil
	})
	return out
}

func TestIndexRoundTrip(t *testing.T) {
	for _, n := range [][3]int{{0, 0, 0}, {1, 0, 0}, {0, 0, 1}, {1, 1, 1}, {100_000, 20_000, 3000}, {MaxIndexChunks, 1, 1}} {
		x := testIndex(n[0], n[1], n[2])
		x.StreamsCut = n[0] == 1
		back := &Index{}
		blocks := indexBlocks(x)
		for i, b := range blocks {
			if l, err := FrameLength(None, append(b[:len(b):len(b)], make([]byte, 40)...)); err != nil || l != len(b) {
				t.Errorf("%v: length %d of %d, %v", n, l, len(b), err)
			}
			if len(b) > maxIndexPart {
				t.Errorf("%v: block of %d bytes", n, len(b))
			}
			if back.Complete() {
				t.Fatalf("%v: complete before block %d", n, i)
			}
			if err := back.AddBlock(b); err != nil {
				t.Fatal(n, err)
			}
		}
		if !back.Complete() || back.AddBlock(blocks[0]) == nil {
			t.Errorf("%v: not complete after %d blocks, or takes more", n, len(blocks))
		}
		if back.PerEntry() != 1 || back.ChunkCount() != n[0] {
			t.Errorf("%v: %d chunks, %d an entry", n, back.ChunkCount(), back.PerEntry())
		}
		back.parts, back.complete, back.texts, back.count = 0, false, InterfaceTexts{}, 0
		if !reflect.DeepEqual(back, x) {
			t.Errorf("%v: reads back otherwise", n)
		}
	}
}

// TestIndexIsBounded: what an index may cost, whatever it holds.
func TestIndexIsBounded(t *testing.T) {
	many := &Index{}
	for i := range 5*MaxIndexChunks + 3 {
		many.Chunks = append(many.Chunks, ChunkEntry{Offset: int64(i) * 100, Size: 100, First: int64(i), Last: int64(i) + 5, Packets: 2, Datagrams: 1, Bytes: 7})
	}
	x := &Index{}
	for _, b := range indexBlocks(many) {
		if err := x.AddBlock(b); err != nil {
			t.Fatal(err)
		}
	}
	if x.ChunkCount() != len(many.Chunks) || x.PerEntry() != 8 || len(x.Chunks) != (len(many.Chunks)+7)/8 || cap(x.Chunks) > 2*MaxIndexChunks {
		t.Errorf("%d chunks in %d entries of %d", x.ChunkCount(), len(x.Chunks), x.PerEntry())
	}
	for i, c := range x.Chunks {
		n := min(8, len(many.Chunks)-8*i)
		if want := (ChunkEntry{Offset: int64(i) * 800, Size: uint32(n) * 100, First: int64(i) * 8, Last: int64(i*8+n-1) + 5,
			Packets: uint32(n) * 2, Datagrams: uint32(n), Bytes: uint64(n) * 7}); c != want {
			t.Fatalf("entry %d: %+v, want %+v", i, c, want)
		}
	}
	if x.AddChunk(ChunkEntry{Offset: 5}) == nil || x.AddChunk(ChunkEntry{Offset: math.MaxInt64, Size: 5}) == nil ||
		x.AddChunk(ChunkEntry{Offset: x.Chunks[len(x.Chunks)-1].Offset + 4096, Packets: math.MaxUint32}) == nil {
		t.Error("chunks that cannot be neighbours are joined")
	}
	long := &Index{}
	for range 4000 {
		long.Interfaces = append(long.Interfaces, Interface{Name: strings.Repeat("n", 4000), Description: strings.Repeat("d", 4000)})
	}
	x, kept := &Index{}, 0
	for _, b := range indexBlocks(long) {
		if err := x.AddBlock(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range x.Interfaces {
		kept += len(i.Name) + len(i.Description)
	}
	if len(x.Interfaces) != 4000 || kept > maxTexts || kept < maxTexts/2 {
		t.Errorf("%d bytes of names kept of %d interfaces", kept, len(x.Interfaces))
	}
	_, body, _, _, err := NextBlock(AppendSegmentBlock(nil, &SegmentInfo{Host: strings.Repeat("h", 60000), Subscriptions: make([]string, 2*maxSubscriptions)}), false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSegmentBlock(body)
	if s == nil || len(s.Host) != maxSegmentText || len(s.Subscriptions) != maxSubscriptions {
		t.Errorf("segment block: %v", err)
	}
	chunk := BeginChunk(nil)
	FinishChunk(chunk, &ChunkHeader{Packets: MaxChunkPackets + 1})
	if _, err := CheckChunk(chunk); err == nil {
		t.Error("a chunk of too many packets was taken")
	}
}

// TestZstdBlocksAreBounded: a search looks at every frame that could begin somewhere.
func TestZstdBlocksAreBounded(t *testing.T) {
	frame := []byte{0x28, 0xB5, 0x2F, 0xFD, 0, 0x58}
	if n, err := FrameLength(Zstd, append(slices.Clone(frame), make([]byte, 1<<20)...)); err == nil || errors.Is(err, ErrShort) {
		t.Errorf("empty blocks: %d, %v", n, err)
	}
	if n, err := FrameLength(Zstd, append(slices.Clone(frame), 0x08, 0, 0x10)); err == nil || errors.Is(err, ErrShort) {
		t.Errorf("a block of more than 128 KiB: %d, %v", n, err)
	}
}

func TestIndexDamaged(t *testing.T) {
	for _, b := range indexBlocks(testIndex(3, 3, 3)) {
		for i := range b {
			c := bytes.Clone(b)
			c[i] ^= 1
			if _, _, err := ParseIndexBlock(c); err == nil {
				t.Errorf("a flipped bit in byte %d is not noticed", i)
			}
			if _, _, err := ParseIndexBlock(b[:i]); err == nil {
				t.Errorf("an index cut at byte %d is taken", i)
			}
		}
	}
	x := &Index{}
	if err := x.AddBlock(indexBlocks(testIndex(3, 3, 3))[1]); err == nil {
		t.Error("an index that begins with its second block is taken")
	}
}

func TestFooter(t *testing.T) {
	f := &Footer{Recording: UUID{9}, Segment: 1, IndexOffset: 1 << 40, IndexSize: 2, IndexRaw: 3, Chunks: 4, NotUDP: 5, Datagrams: 6, Bytes: 7, Dropped: 8}
	b := AppendFooter(nil, f)
	if len(b) != FooterSize {
		t.Fatalf("%d bytes, FooterSize is %d", len(b), FooterSize)
	}
	back, err := ParseFooter(b)
	if err != nil || *back != *f {
		t.Errorf("%+v, %v", back, err)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x10
		if _, err := ParseFooter(c); err == nil {
			t.Errorf("a flipped bit in byte %d is not noticed", i)
		}
	}
	newer := bytes.Clone(b)
	newer[16]++
	if _, err := ParseFooter(newer); !errors.Is(err, ErrVersion) {
		t.Errorf("newer version: %v", err)
	}
}

func TestSegmentBlock(t *testing.T) {
	in := &SegmentInfo{Recording: UUID{7}, Number: 3, Made: true, Start: 99, Host: "here", Clock: "clock", Subscriptions: []string{"a", "", "b"}}
	_, body, _, _, err := NextBlock(AppendSegmentBlock(nil, in), false)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseSegmentBlock(body); err != nil || !reflect.DeepEqual(back, in) {
		t.Errorf("%+v, %v", back, err)
	}
	if got := (UUID{0: 0x12, 15: 0xEF}).String(); got != "12000000-0000-0000-0000-0000000000ef" {
		t.Errorf("UUID as text: %s", got)
	}
}

func TestChunk(t *testing.T) {
	raw := AppendEPB(BeginChunk(nil), datagram("10.0.0.1:4000", "239.1.2.3:5000", 20))
	h := ChunkHeader{Recording: UUID{7}, Segment: 3, Number: 9, First: 1, Last: 2, Packets: 1, Datagrams: 1, Bytes: 20, Dropped: 5}
	FinishChunk(raw, &h)
	back, err := CheckChunk(raw)
	if err != nil || back != h || int(back.Length) != len(raw)-ChunkHeaderSize {
		t.Fatalf("%+v, %v", back, err)
	}
	for i := range raw {
		c := bytes.Clone(raw)
		c[i] ^= 4
		if _, err := CheckChunk(c); err == nil {
			t.Errorf("a flipped bit in byte %d is not noticed", i)
		}
	}
}

var codecs = []Compression{Zstd, Gzip, None}

// contents of frames: around the sizes at which the codecs' blocks end.
func contents() [][]byte {
	var out [][]byte
	for _, n := range []int{12, 255, 256, 257, 65535, 65536, 65537, 131071, 131072, 131073, 400_000} {
		b := AppendFooter(nil, &Footer{})[:12]
		for len(b) < n {
			b = append(b, byte(len(b)*7>>3))
		}
		out = append(out, b[:n])
	}
	return out
}

func TestFrames(t *testing.T) {
	tool := map[Compression][]string{Zstd: {"zstd", "-dc"}, Gzip: {"gzip", "-dc"}}
	for _, c := range codecs {
		enc, err := NewEncoder(c)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := NewDecoder(c)
		if err != nil {
			t.Fatal(err)
		}
		var all, raw []byte
		for _, want := range contents() {
			for _, pack := range []func(dst, raw []byte) ([]byte, error){enc.AppendFrame, enc.AppendStored} {
				frame, err := pack([]byte("before"), want)
				if err != nil || !bytes.HasPrefix(frame, []byte("before")) {
					t.Fatal(c, err)
				}
				frame = frame[6:]
				if c != None {
					behind := append(bytes.Clone(frame), 1, 2, 3)
					if n, err := FrameLength(c, behind); err != nil || n != len(frame) {
						t.Errorf("%s, %d bytes: frame of %d is measured as %d, %v", c, len(want), len(frame), n, err)
					}
					for _, n := range []int{0, 1, 5, len(frame) / 2, len(frame) - 1} {
						if _, err := FrameLength(c, frame[:n]); !errors.Is(err, ErrShort) {
							t.Errorf("%s: a frame cut at %d: %v", c, n, err)
						}
					}
				}
				got, err := dec.Decode(nil, frame)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %d bytes: decodes to %d, %v", c, len(want), len(got), err)
				}
				all, raw = append(all, frame...), append(raw, want...)
			}
			if stored, _ := enc.AppendStored(nil, want); len(stored) != StoredSize(c, len(want)) {
				t.Errorf("%s: stored %d bytes take %d, StoredSize says %d", c, len(want), len(stored), StoredSize(c, len(want)))
			}
		}
		if cmd := tool[c]; cmd != nil {
			if _, err := exec.LookPath(cmd[0]); err != nil {
				t.Logf("%s is not installed: its decoder is not asked", cmd[0])
				continue
			}
			run := exec.Command(cmd[0], cmd[1:]...)
			run.Stdin, run.Stderr = bytes.NewReader(all), os.Stderr
			if out, err := run.Output(); err != nil || !bytes.Equal(out, raw) {
				t.Errorf("%s reads %d bytes of %d, %v", cmd[0], len(out), len(raw), err)
			}
		}
	}
}

// TestBombs: what a frame states is checked before memory is taken.
func TestBombs(t *testing.T) {
	zstdDec, _ := NewDecoder(Zstd)
	gzipDec, _ := NewDecoder(Gzip)
	gz, _ := NewEncoder(Gzip)
	bomb, err := gz.AppendFrame(nil, make([]byte, MaxFrameRaw))
	if err != nil {
		t.Fatal(err)
	}
	// One byte more than the limit, with a trailer that lies about it.
	over, err := gz.AppendFrame(nil, make([]byte, MaxFrameRaw))
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(over[len(over)-4:], 5)
	for _, tc := range []struct {
		why   string
		dec   *Decoder
		frame []byte
	}{
		{"128 MiB window in 9 bytes", zstdDec, []byte{0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x88, 0x01, 0x00, 0x00}},
		{"content size 2^62", zstdDec, []byte{0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0, 0}},
		{"content size not stated", zstdDec, []byte{0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x58, 0x01, 0x00, 0x00}},
		{"1 GiB of zeros in RLE blocks, 128 KiB stated", zstdDec, rleBomb()},
		{"wrong size in the trailer", gzipDec, over},
		{"gzip cut off", gzipDec, bomb[:len(bomb)/2]},
	} {
		if got, err := tc.dec.Decode(nil, tc.frame); err == nil {
			t.Errorf("%s: decodes to %d bytes", tc.why, len(got))
		} else if cap(got) > 2*MaxFrameRaw {
			t.Errorf("%s: took %d bytes of memory", tc.why, cap(got))
		}
	}
	if got, err := gzipDec.Decode(nil, bomb); err != nil || len(got) != MaxFrameRaw {
		t.Errorf("a frame of just the limit: %d bytes, %v", len(got), err)
	}
	if _, err := FrameLength(Zstd, rleBomb()); err == nil {
		// 8,192 blocks of 4 bytes are a small frame; its length is not the danger.
		t.Log("the bomb has a plausible length, as it should")
	}
}

// rleBomb is a zstd frame of 8,192 blocks that each repeat a byte 128 KiB times.
func rleBomb() []byte {
	b := []byte{0x28, 0xB5, 0x2F, 0xFD, 0xA0, 0, 0, 2, 0}
	for i := range 8192 {
		head := uint32(128<<10)<<3 | 1<<1
		if i == 8191 {
			head |= 1
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 0)
	}
	return b
}

func TestCompressionNames(t *testing.T) {
	for _, c := range codecs {
		if got, err := ParseCompression(c.String()); err != nil || got != c {
			t.Errorf("%s parses as %v, %v", c, got, err)
		}
		if got, ok := CompressionOf("a.b" + c.Extension()); !ok || got != c {
			t.Errorf("%s: by name %v, %v", c.Extension(), got, ok)
		}
	}
	if _, ok := CompressionOf("x.pcap"); ok {
		t.Error("x.pcap is taken for a segment")
	}
	if _, err := ParseCompression("lz4"); err == nil {
		t.Error("lz4 is taken")
	}
}

func TestTally(t *testing.T) {
	var tally Tally
	a := datagram("10.0.0.1:4000", "239.1.2.3:5000", 10)
	a.Time = 100
	b := datagram("10.0.0.2:4000", "239.1.2.3:5000", 20)
	b.Time, b.Drops = 50, 3
	x := &Datagram{Flags: FlagNotUDP, Time: 200, Frame: []byte{1}}
	tally.Add(&Batch{Datagrams: []Datagram{*a, *b, *a, *x}})
	if tally.Datagrams != 3 || tally.NotUDP != 1 || tally.Bytes != 40 || tally.First != 50 || tally.Last != 200 || tally.Dropped != 3 {
		t.Errorf("%+v", tally)
	}
	s := tally.Streams()
	if len(s) != 2 || s[0].Datagrams != 2 || s[1].Bytes != 20 || s[0].First != 100 {
		t.Errorf("streams %+v", s)
	}
	// Totals tell of losses behind the last datagram; they are not added to those
	// that datagrams told of already.
	tally.Add(&Batch{Stats: []InterfaceStats{{Interface: 0, Dropped: 5}}})
	if tally.Dropped != 5 {
		t.Errorf("%d dropped, want 5", tally.Dropped)
	}
}

func TestFlagNames(t *testing.T) {
	if got := (FlagTruncated | FlagNotUDP | 1<<15).String(); got != "truncated+not-udp+0x8000" {
		t.Error(got)
	}
	for f := Flags(1); f < flagsEnd; f <<= 1 {
		if s := f.String(); s == "" || strings.HasPrefix(s, "0x") {
			t.Errorf("flag %#x has no name", uint16(f))
		}
	}
}

func FuzzBlocks(f *testing.F) {
	d := datagram("10.0.0.1:4000", "239.1.2.3:5000", 33)
	d.Drops = 4
	f.Add(AppendEPB(AppendIDB(AppendSHB(nil, Section{OS: "x"}), Interface{Name: "eth0"}), d), false)
	f.Add(AppendISB(nil, InterfaceStats{Received: 4}), true)
	f.Add(AppendEvent(nil, UUID{1}, 2, 3, &Event{Time: 4, Kind: EventLinkUp, Text: "eth0"}), false)
	for _, b := range indexBlocks(testIndex(2, 2, 2)) {
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, swap bool) {
		x, back := &Index{}, &Index{}
		if x.AddBlock(b) == nil {
			for _, block := range indexBlocks(x) {
				if err := back.AddBlock(block); err != nil {
					t.Fatal("an index that was read does not write back", err)
				}
			}
			if len(back.Chunks) != len(x.Chunks) || len(back.Streams) != len(x.Streams) || len(back.Interfaces) != len(x.Interfaces) || !reflect.DeepEqual(back.Events, x.Events) || back.EventCount != x.EventCount {
				t.Fatal("an index that was read writes back otherwise")
			}
		}
		ParseFooter(b)
		CheckChunk(b)
		for len(b) > 0 {
			_, body, rest, order, err := NextBlock(b, swap)
			if err != nil {
				return
			}
			var e EPB
			for _, parse := range []func() error{
				func() error { return ParseEPB(body, order, &e) },
				func() error { return ParsePacket(body, order, &e) },
				func() error { return ParseSPB(body, order, 64, &e) },
			} {
				if parse() == nil && (len(e.Data) > len(body) || e.Original < uint32(len(e.Data))) {
					t.Fatalf("packet of %d bytes, %d on the wire, in a block of %d", len(e.Data), e.Original, len(body))
				}
			}
			ParseSHB(body)
			ParseISB(body, order)
			ParseSegmentBlock(body)
			if v, n, err := ParseEvent(body); err == nil {
				_, again, _, _, err := NextBlock(AppendEvent(nil, UUID{}, 0, n, &v), false)
				if back, _, err2 := ParseEvent(again); err != nil || err2 != nil || back != v {
					t.Fatalf("event %+v reads back as %+v", v, back)
				}
			}
			if _, c, err := ParseIDB(body, order); err == nil {
				c.Nanoseconds(math.MaxUint64)
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
		}
	})
}

// FuzzSealed: castdeck's own blocks with a right checksum and anything in them.
func FuzzSealed(f *testing.F) {
	kinds := []uint32{BlockSegment, BlockChunk, BlockIndex, BlockFooter, BlockEvent}
	for k, b := range [][]byte{
		AppendSegmentBlock(nil, &SegmentInfo{Host: "h", Clock: "c", Subscriptions: []string{"s"}}),
		append(make([]byte, 8+headSize), make([]byte, 60)...),
		indexBlocks(testIndex(2, 0, 0))[0],
		AppendFooter(nil, &Footer{Chunks: 1}),
		AppendEvent(nil, UUID{}, 0, 0, &Event{Kind: EventLinkDown, Text: "t"}),
	} {
		f.Add(uint8(k), uint16(0), b[8+headSize:len(b)-4])
	}
	for _, b := range indexBlocks(testIndex(1, 2, 2)) {
		f.Add(uint8(2), uint16(indexFlagLast), b[8+headSize:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, kind uint8, flags uint16, rest []byte) {
		if len(rest) > 1<<16 {
			return
		}
		typ := kinds[int(kind)%len(kinds)]
		if typ == BlockChunk {
			chunk := append(BeginChunk(nil), rest...)
			FinishChunk(chunk, &ChunkHeader{Packets: uint32(flags)})
			if c, err := CheckChunk(chunk); (err == nil) != (flags <= MaxChunkPackets) || err == nil && int(c.Length) != len(rest) {
				t.Fatalf("%+v, %v", c, err)
			}
			return
		}
		b, start := beginBlock(nil, typ)
		b = append(appendHead(b, Head{Flags: flags}), rest...)
		b = append(b, make([]byte, -len(b)&3)...)
		b = sealBlock(b, start)
		body := b[8 : len(b)-4]
		switch typ {
		case BlockSegment:
			if s, err := ParseSegmentBlock(body); err == nil {
				block := AppendSegmentBlock(nil, s)
				if again, err := ParseSegmentBlock(block[8 : len(block)-4]); err != nil || !reflect.DeepEqual(again, s) {
					t.Fatalf("%+v writes back as %+v, %v", s, again, err)
				}
			}
		case BlockIndex:
			x, back := &Index{}, &Index{}
			if x.AddBlock(b) != nil {
				return
			}
			if len(x.Chunks) > len(b)/chunkEntrySize || len(x.Streams) > len(b)/streamEntrySize || len(x.Interfaces) > len(b)/20 {
				t.Fatalf("%d chunks, %d streams, %d interfaces of %d bytes", len(x.Chunks), len(x.Streams), len(x.Interfaces), len(b))
			}
			for _, block := range indexBlocks(x) {
				if err := back.AddBlock(block); err != nil {
					t.Fatal("an index that was read does not write back", err)
				}
			}
			if !slices.Equal(back.Chunks, x.Chunks) || !slices.Equal(back.Streams, x.Streams) {
				t.Fatal("an index that was read writes back otherwise")
			}
		case BlockFooter:
			if x, err := ParseFooter(b); err == nil {
				if again, err := ParseFooter(AppendFooter(nil, x)); err != nil || *again != *x {
					t.Fatalf("%+v writes back as %+v, %v", x, again, err)
				}
			}
		case BlockEvent:
			if e, _, err := ParseEvent(body); err == nil && (len(e.Text) > MaxEventText || len(e.Kind) > maxEventKind) {
				t.Fatalf("%+v", e)
			}
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, c := range codecs {
		enc, err := NewEncoder(c)
		if err != nil {
			f.Fatal(err)
		}
		frame, _ := enc.AppendFrame(nil, contents()[1])
		f.Add(uint8(c), frame)
		stored, _ := enc.AppendStored(nil, contents()[0])
		f.Add(uint8(c), stored)
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		c := codecs[int(which)%len(codecs)]
		dec, err := NewDecoder(c)
		if err != nil {
			t.Fatal(err)
		}
		n, err := FrameLength(c, b)
		if err != nil {
			return
		}
		if n <= 0 || n > len(b) {
			t.Fatalf("frame of %d bytes in %d", n, len(b))
		}
		if raw, err := dec.Decode(nil, b[:n]); err == nil && len(raw) > MaxFrameRaw {
			t.Fatalf("decodes to %d bytes", len(raw))
		}
	})
}

func FuzzDecodePlain(f *testing.F) {
	for _, tc := range madeCases[:4] {
		frame, _ := AppendMadeFrame(nil, datagram(tc.src, tc.dst, tc.size))
		f.Add(frame, uint32(len(frame)))
	}
	f.Fuzz(func(t *testing.T, frame []byte, wire uint32) {
		d := Datagram{Frame: frame, FrameLength: max(wire, uint32(len(frame)))}
		if DecodePlain(&d) && (len(d.Payload) > len(frame) || uint32(len(d.Payload)) > d.Length || !d.Dst.IsValid()) {
			t.Fatalf("%+v from %d bytes", d, len(frame))
		}
	})
}
