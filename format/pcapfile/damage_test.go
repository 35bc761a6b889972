package pcapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"castdeck/format"
)

// ends are the offsets at which a file may stop without being cut off: behind the
// header and behind each record.
func ends(header []byte, records [][]byte) (whole []byte, at []int) {
	whole = bytes.Clone(header)
	at = []int{len(whole)}
	for _, r := range records {
		whole = append(whole, r...)
		at = append(at, len(whole))
	}
	return whole, at
}

// TestCutAnywhere cuts a file at every byte: all whole records come out, and the
// rest is reported, with its length, unless nothing is left over.
func TestCutAnywhere(t *testing.T) {
	want := flow(12)
	var records, blocks [][]byte
	for _, p := range want {
		records = append(records, littleMicro.record(p))
		blocks = append(blocks, (&ng{order: binary.LittleEndian}).epb(0, uint64(p.time/1000), p.frame).b)
	}
	for name, c := range map[string]struct {
		header  []byte
		records [][]byte
		first   []int // more places to cut, within header
	}{
		"pcap":   {littleMicro.header(), records, nil},
		"pcapng": {newNG(binary.LittleEndian).iface(linkEthernet, 0).b, blocks, []int{28}},
	} {
		t.Run(name, func(t *testing.T) {
			whole, at := ends(c.header, c.records)
			for cut := 12; cut <= len(whole); cut++ {
				got := read(t, whole[:cut])
				n, last := 0, 0
				for i, end := range at {
					if end <= cut {
						n, last = i, end
					}
				}
				for _, end := range c.first {
					if end <= cut {
						last = max(last, end)
					}
				}
				sameFlow(t, got.datagrams, want[:n])
				if last == cut {
					if len(got.damage) != 0 {
						t.Fatalf("cut between records at %d: %v", cut, got.damage)
					}
					continue
				}
				if len(got.damage) != 1 || got.damage[0].Offset != int64(last) || got.damage[0].Length != int64(cut-last) {
					t.Fatalf("cut at %d, %d behind the last record: %+v", cut, cut-last, got.damage)
				}
			}
		})
	}
}

// TestCutCompressed cuts the compressed file at some hundred places: never a panic, a prefix
// of the datagrams, and never a word of success.
func TestCutCompressed(t *testing.T) {
	want := flow(300)
	plain := littleMicro.file(want...)
	for name, data := range map[string][]byte{"gzip": gzipped(t, plain), "zstd": zstandard(t, plain), "lz4": lz4ed(t, plain)} {
		t.Run(name, func(t *testing.T) {
			for cut := 4; cut < len(data); cut += 1 + len(data)/300 {
				r, err := NewReader(bytes.NewReader(data[:cut]), "cut")
				if err != nil {
					var damage *format.CorruptError
					if !errors.As(err, &damage) {
						t.Fatalf("cut at %d: %v", cut, err)
					}
					continue
				}
				got := readAll(t, r)
				if len(got.damage) != 1 || !strings.Contains(got.damage[0].Reason, name) || !strings.Contains(got.damage[0].Reason, "uncompressed") {
					t.Fatalf("cut at %d: %v", cut, got.damage)
				}
				sameFlow(t, got.datagrams, want[:len(got.datagrams)])
			}
		})
	}
}

func TestCompressedChecksum(t *testing.T) {
	want := flow(6000) // of several blocks: zstd gives out the last one only checked
	plain := littleMicro.file(want...)
	for name, c := range map[string]struct {
		data []byte
		at   int // from the end: a byte of the checksum
	}{
		"gzip": {gzipped(t, plain), 8}, "zstd": {zstandard(t, plain), 1}, "lz4": {lz4ed(t, plain), 1},
	} {
		t.Run(name, func(t *testing.T) {
			c.data[len(c.data)-c.at] ^= 1
			got := read(t, c.data)
			if len(got.damage) != 1 || !strings.Contains(got.damage[0].Reason, name+" stream damaged") {
				t.Errorf("damage %v", got.damage)
			}
			sameFlow(t, got.datagrams, want[:len(got.datagrams)])
		})
	}
}

// TestResync damages the middle of a file and wants everything behind it.
func TestResync(t *testing.T) {
	want := flow(300)
	var records, blocks [][]byte
	for _, p := range want {
		records = append(records, littleMicro.record(p))
		blocks = append(blocks, (&ng{order: binary.LittleEndian}).epb(0, uint64(p.time/1000), p.frame).b)
	}
	noise := make([]byte, 700_001)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for name, c := range map[string]struct {
		header  []byte
		records [][]byte
		length  int // where a record's length field is
	}{
		"pcap":   {littleMicro.header(), records, 8},
		"pcapng": {newNG(binary.LittleEndian).iface(linkEthernet, 0).b, blocks, 4},
	} {
		whole, at := ends(c.header, c.records)
		const hit = 100
		insert := func(b []byte) []byte {
			return append(append(bytes.Clone(whole[:at[hit]]), b...), whole[at[hit]:]...)
		}
		change := func(offset int, b ...byte) []byte {
			d := bytes.Clone(whole)
			copy(d[at[hit]+offset:], b)
			return d
		}
		for _, d := range []struct {
			what string
			data []byte
			lost int // datagrams that are hit
		}{
			{"length of 1 GiB", change(c.length, 0, 0, 0, 0x40), 1},
			{"length of 0xFFFFFFFF", change(c.length, 0xFF, 0xFF, 0xFF, 0xFF), 1},
			{"length beyond the file", change(c.length, 0, 0, 3, 0), 1},
			{"noise in between", insert(noise), 0},
			{"an odd byte in between", insert(noise[:1]), 0},
			{"zeros in between", insert(append([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, make([]byte, 4096)...)), 0},
			{"bytes removed", append(bytes.Clone(whole[:at[hit]]), whole[at[hit]+7:]...), 1},
			{"noise in the last record's place", append(bytes.Clone(whole[:at[len(at)-2]]), noise[:64]...), -1},
		} {
			t.Run(name+", "+d.what, func(t *testing.T) {
				got := read(t, d.data)
				if len(got.damage) != 1 {
					t.Fatalf("damage %v", got.damage)
				}
				if d.lost < 0 {
					sameFlow(t, got.datagrams, want[:len(want)-1])
					return
				}
				e := got.damage[0]
				if e.Offset != int64(at[hit]) || e.Length == 0 {
					t.Errorf("damage at %d of %d bytes, want at %d", e.Offset, e.Length, at[hit])
				}
				rest := append(append([]packet(nil), want[:hit]...), want[hit+d.lost:]...)
				sameFlow(t, got.datagrams, rest)
			})
		}
	}
}

// atMost reads n bytes at a time.
type atMost struct {
	io.Reader
	n int
}

func (r atMost) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), r.n)]) }

// TestResyncAcrossWindows has the place where reading can go on straddle the end of
// what the search has in memory.
func TestResyncAcrossWindows(t *testing.T) {
	want := flow(300)
	for _, c := range []struct {
		name string
		data []byte
		head int
		span int
	}{{"pcap", littleMicro.file(want...), pcapFileHeader, chainSpan}, {"pcapng", benchNG(want), len(benchNG(nil)), chainBytes}} {
		noise := bytes.Repeat([]byte{0xFF}, 2*c.span-13_000)
		data := cat(c.data[:c.head], noise, c.data[c.head:], make([]byte, 3))
		r, err := NewReader(atMost{bytes.NewReader(data), 4096}, "built")
		if err != nil {
			t.Fatal(err)
		}
		got := readAll(t, r)
		sameFlow(t, got.datagrams, want)
		if len(got.damage) != 2 || got.damage[0].Length != int64(len(noise)) {
			t.Errorf("%s: damage %v", c.name, got.damage)
		}
	}
}

// TestResyncInAnOddFile: a file whose writer breaks a rule in every record is
// sound, and reading goes on behind damage by the same rules.
func TestResyncInAnOddFile(t *testing.T) {
	want := flow(300)
	kind := littleMicro
	kind.snapLen = 20
	data := cat(kind.file(want[:100]...), bytes.Repeat([]byte{0xFF}, 99), kind.file(want[100:]...)[pcapFileHeader:])
	c := read(t, data)
	sameFlow(t, c.datagrams, want)
	if len(c.damage) != 1 || c.damage[0].Length != 99 {
		t.Errorf("damage %v", c.damage)
	}
}

// TestAppended: cat a.pcap b.pcap is a mistake that people make.
func TestAppended(t *testing.T) {
	want := flow(20)
	c := read(t, append(littleMicro.file(want[:10]...), littleMicro.file(want[10:]...)...))
	sameFlow(t, c.datagrams, want)
	if len(c.damage) != 1 || !strings.Contains(c.damage[0].Reason, "appended") || c.damage[0].Length != pcapFileHeader {
		t.Errorf("damage %v", c.damage)
	}
	other := littleMicro
	other.link = linkRaw
	c = read(t, append(littleMicro.file(want...), other.file(packet{time: stamp(0), frame: packet4("raw")})...))
	sameFlow(t, c.datagrams, want)
	if len(c.damage) != 1 || !strings.Contains(c.damage[0].Reason, "link type 101") {
		t.Errorf("damage %v", c.damage)
	}
}

// udp4 is an Ethernet frame whose UDP header says length, as hostile captures do.
func udp4(dst string, length uint16, payload string) []byte {
	f := frame4(payload)
	copy(f[30:], dst)
	binary.BigEndian.PutUint16(f[38:], length)
	return f
}

// TestHostile: what tools fell over. Each is read within 16 MiB.
func TestHostile(t *testing.T) {
	little := byteOrder(binary.LittleEndian)
	group := "\xEF\x01\x02\x03"
	good := udp4(group, 24, strings.Repeat("A", 16))
	at := func(s int64, f []byte) packet { return packet{time: s * second, frame: f} }
	n := func() *ng { return newNG(little) }
	eth := func() *ng { return n().iface(linkEthernet, 0) }
	type result struct{ datagrams, notUDP, damage int }
	manyInterfaces := n()
	for range format.MaxInterfaces + 5000 {
		manyInterfaces.iface(linkEthernet, 0)
	}
	manyInterfaces.epb(0, 0, good).epb(format.MaxInterfaces, 0, good)
	longNames := n()
	for range 200 {
		longNames.iface(linkEthernet, 0, longNames.option(2, bytes.Repeat([]byte("n"), 65000)))
	}
	for _, c := range []struct {
		name string
		data []byte
		want result
	}{
		{"UDP length beyond IP", littleMicro.file(at(1, udp4(group, 2008, strings.Repeat("A", 16)))), result{0, 1, 0}},
		{"UDP length of 7", littleMicro.file(at(1, udp4(group, 7, strings.Repeat("A", 16)))), result{0, 1, 0}},
		{"cut off", littleMicro.file(at(1, good), at(1, good))[:24+2*(16+58)-10], result{1, 0, 1}},
		{"a jump of 65,536 s", littleMicro.file(at(1, good), at(65537, good)), result{2, 0, 0}},
		{"to VRRP and unicast", littleMicro.file(at(1, udp4("\xE0\x00\x00\x12", 24, string(good[42:]))), at(1, udp4("\x0A\x63\x00\x02", 24, string(good[42:])))), result{2, 0, 0}},
		{"time of 2106", littleMicro.file(at(1<<32-1, good)), result{1, 0, 0}},
		{"captured 1 GiB", append(littleMicro.header(), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x40), result{0, 0, 1}},
		{"captured 256 KiB that are not there", append(littleMicro.header(), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0), result{0, 0, 1}},
		{"resolution 10^-64", n().iface(linkEthernet, 0, n().tsresol(64)).epb(0, 1, good).epb(0, 2, good).b, result{2, 0, 1}},
		{"resolution 2^-127", n().iface(linkEthernet, 0, n().tsresol(0xFF)).epb(0, 1, good).b, result{1, 0, 1}},
		{"time of 2^64-1 ns", n().iface(linkEthernet, 0, n().tsresol(9)).epb(0, 1<<64-1, good).epb(0, 1<<64-1, good).epb(0, 5, good).b, result{3, 0, 1}},
		{"options of length 0", eth().epb(0, 0, good, n().option(1, nil), n().option(4, nil), n().option(0xFFFF, nil)).b, result{1, 0, 0}},
		{"option longer than its block", eth().epb(0, 0, good, []byte{1, 0, 0xFF, 0xFF}).epb(0, 0, good).b, result{1, 0, 1}},
		{"total length of 4", append(eth().b, 6, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0), result{0, 0, 1}},
		{"total length of 0", append(eth().b, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), result{0, 0, 1}},
		{"total length of 1 GiB", append(eth().b, 6, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0), result{0, 0, 1}},
		{"total length of 16 MiB", append(eth().b, 6, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0), result{0, 0, 1}},
		{"captured length beyond the block", eth().block(format.BlockEPB, make([]byte, 12), n().u32(1<<30), n().u32(1<<30)).epb(0, 0, good).b, result{1, 0, 1}},
		{"empty packet block", eth().block(format.BlockEPB).epb(0, 0, good).b, result{1, 0, 1}},
		{"packet before any interface", n().epb(0, 0, good).iface(linkEthernet, 0).epb(0, 0, good).b, result{1, 0, 1}},
		{"simple packet without interface", n().spb(100, good).b, result{0, 0, 1}},
		{"simple packet longer than its block", eth().spb(1<<31, good).b, result{0, 0, 1}},
		{"interface description of 4 bytes", n().block(format.BlockIDB, n().u32(1)).epb(0, 0, good).b, result{0, 1, 1}},
		{"interface 2^32-1", eth().epb(1<<32-1, 0, good).b, result{0, 0, 1}},
		{"statistics of no interface", eth().isb(9, 0, 1, 1).epb(0, 0, good).b, result{1, 0, 1}},
		{"more interfaces than can be named", manyInterfaces.b, result{1, 0, 2}},
		{"names of 64 KiB", longNames.epb(199, 0, good).b, result{1, 0, 0}},
		{"empty packet", littleMicro.file(at(1, nil)), result{0, 1, 0}},
		{"only a header", littleMicro.file(), result{}},
		{"only a section", n().b, result{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := open(t, c.data)
			got, err := drain(r)
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			if n := (result{int(got.counts.Datagrams), int(got.counts.NotUDP), len(got.damage)}); n != c.want {
				t.Errorf("%+v, want %+v: %v", n, c.want, got.damage)
			}
			// The interfaces of one case alone take 13 MiB while their list grows.
			limit := uint64(16 << 20)
			if len(got.ifaces) == format.MaxInterfaces {
				limit = 64 << 20
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > limit {
				t.Errorf("%d bytes allocated", used)
			}
		})
	}
}

func TestInterfaceTextIsBounded(t *testing.T) {
	var s interfaces
	long := strings.Repeat("n", 65000)
	kept := 0
	for range 20_000 {
		s.add(format.Interface{Name: long, Description: long}, clock{})
	}
	for _, i := range s.list {
		kept += len(i.Name) + len(i.Description)
	}
	if kept > 2<<20 || kept < 1<<20 || len(s.list[0].Name) != 256 || len(s.list[0].Description) != 1024 {
		t.Errorf("%d bytes of names kept", kept)
	}
}

// repeat is an endless zstd- or gzip-able stream of n zero bytes behind a header.
func bomb(w io.WriteCloser, t *testing.T, n int) {
	t.Helper()
	w.Write(littleMicro.header())
	zeros := make([]byte, 1<<20)
	for range n >> 20 {
		w.Write(zeros)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBombs(t *testing.T) {
	const size = 128 << 20
	for _, name := range []string{"gzip", "zstd"} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if name == "gzip" {
				bomb(gzip.NewWriter(&out), t, size)
			} else {
				z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
				if err != nil {
					t.Fatal(err)
				}
				bomb(z, t, size)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := open(t, out.Bytes())
			var b format.Batch
			n := 0
			var err error
			for err = r.ReadBatch(&b); err == nil; err = r.ReadBatch(&b) {
				n += len(b.Datagrams)
			}
			runtime.ReadMemStats(&after)
			if err != io.EOF || n != size/pcapRecord {
				t.Errorf("%d packets, then %v", n, err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 48<<20 {
				t.Errorf("%d bytes allocated for %d", used, size)
			}
		})
	}
	z, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	whole := z.EncodeAll(make([]byte, 64<<20), nil)
	// Windows and content sizes that nothing is behind of, but for one.
	for name, frame := range map[string][]byte{
		"window of 128 MiB":            {0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x88, 0x01, 0x00, 0x00},
		"single segment of 1 GiB":      {0x28, 0xB5, 0x2F, 0xFD, 0xA0, 0, 0, 0, 0x40, 0x01, 0x00, 0x00},
		"content of 2^62":              {0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0x00, 0x00},
		"a window of all 64 MiB":       whole,
		"a skippable frame of 4 GiB":   {0x50, 0x2A, 0x4D, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0x00},
		"a window behind a good frame": append(zstandard(t, littleMicro.file(flow(3)...)), 0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x88, 0x01, 0x00, 0x00),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := NewReader(bytes.NewReader(frame), "bomb")
			if err == nil {
				var c content
				if c, err = drain(r); err == nil && len(c.damage) == 1 && c.counts.Datagrams == 3 {
					err = c.damage[0]
				}
			}
			runtime.ReadMemStats(&after)
			var damage *format.CorruptError
			if !errors.As(err, &damage) {
				t.Errorf("want a CorruptError, got %v", err)
			}
			if strings.Contains(name, "window") && !strings.Contains(err.Error(), "--long") {
				t.Errorf("no way out in %q", err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
				t.Errorf("%d bytes allocated", used)
			}
		})
	}
}

// TestNoDamageIsSilent flips every bit of a small file: the datagrams that come out
// unharmed are in order, and where one is missing or changed in length there is
// either an error or a packet in its place.
func TestNoDamageIsSilent(t *testing.T) {
	want := flow(6)
	for name, whole := range map[string][]byte{"pcap": littleMicro.file(want...), "pcapng": benchNG(want)} {
		t.Run(name, func(t *testing.T) {
			start := pcapFileHeader
			if name == "pcapng" {
				start = len(benchNG(nil))
			}
			at, next := start, 0
			for bit := start * 8; bit < len(whole)*8; bit++ {
				if name == "pcapng" && bit/8 == at {
					at += int(binary.LittleEndian.Uint32(whole[at+4:]))
					next = bit + 32
				}
				if bit < next {
					continue // another block type is no damage: such blocks are passed over
				}
				data := bytes.Clone(whole)
				data[bit/8] ^= 1 << (bit % 8)
				c := read(t, data)
				if n := len(c.datagrams); n < len(want) && len(c.damage) == 0 {
					t.Fatalf("bit %d: %d packets of %d and no damage", bit, n, len(want))
				}
				if n := len(c.datagrams); n < len(want)-2 {
					t.Fatalf("bit %d: only %d packets of %d: %v", bit, n, len(want), fmt.Sprint(c.damage))
				}
			}
		})
	}
}
