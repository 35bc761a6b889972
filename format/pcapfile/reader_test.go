package pcapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"castdeck/format"
)

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t testing.TB, b []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, append([]zstd.EOption{zstd.WithEncoderConcurrency(1)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func lz4ed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := lz4.NewWriter(&out)
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sameFlow compares what was read with the packets of flow.
func sameFlow(t *testing.T, got []format.Datagram, want []packet) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d datagrams, want %d", len(got), len(want))
	}
	for i := range got {
		d, p := &got[i], want[i]
		if d.Time != p.time || !bytes.Equal(d.Frame, p.frame) || d.Src != source4 || d.Dst != group4 || d.TTL != 7 ||
			!bytes.Equal(d.Payload, p.frame[42:]) || int(d.Length) != len(p.frame)-42 || int(d.FrameLength) != len(p.frame) || d.Flags != 0 {
			t.Fatalf("datagram %d is %+v, want the frame %x at %d", i, d, p.frame, p.time)
		}
	}
}

func TestClassicKinds(t *testing.T) {
	little, big := binary.LittleEndian, binary.BigEndian
	for name, k := range map[string]pcapKind{
		"micro, little":     {magic: magicMicro, order: little, link: linkEthernet, snapLen: 65535},
		"micro, big":        {magic: magicMicro, order: big, link: linkEthernet, snapLen: 65535},
		"nano, little":      {magic: magicNano, order: little, link: linkEthernet},
		"nano, big":         {magic: magicNano, order: big, link: linkEthernet},
		"modified, little":  {magic: magicModified, order: little, link: linkEthernet},
		"modified, big":     {magic: magicModified, order: big, link: linkEthernet},
		"frame check bits":  {magic: magicMicro, order: little, link: 0x14000000 | linkEthernet},
		"2.2, lengths swap": {magic: magicMicro, order: little, link: linkEthernet, minor: 2},
		"snap length lies":  {magic: magicMicro, order: little, link: linkEthernet, snapLen: 20},
	} {
		t.Run(name, func(t *testing.T) {
			want := flow(1000)
			if k.magic == magicNano {
				for i := range want {
					want[i].time += int64(i % 1000)
				}
			}
			c := read(t, k.file(want...))
			sameFlow(t, c.datagrams, want)
			if len(c.damage) != 0 || c.kind != "pcap" {
				t.Errorf("format %s, damage %v", c.kind, c.damage)
			}
			if len(c.ifaces) != 1 || c.ifaces[0].LinkType != linkEthernet || c.ifaces[0].SnapLen != k.snapLen {
				t.Errorf("interfaces %+v", c.ifaces)
			}
		})
	}
}

func TestCompression(t *testing.T) {
	want := flow(3000)
	plain := littleMicro.file(want...)
	blocks := benchNG(want)
	half := len(plain) / 2
	skippable := append([]byte{0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0}, "skip"...)
	for _, c := range []struct {
		name, kind string
		data       []byte
	}{
		{"none", "pcap", plain},
		{"gzip", "pcap.gz", gzipped(t, plain)},
		{"gzip in two members", "pcap.gz", append(gzipped(t, plain[:half]), gzipped(t, plain[half:])...)},
		{"zstd", "pcap.zst", zstandard(t, plain)},
		{"zstd in two frames", "pcap.zst", append(zstandard(t, plain[:half]), zstandard(t, plain[half:])...)},
		{"zstd behind a skippable frame", "pcap.zst", append(skippable, zstandard(t, plain)...)},
		{"lz4", "pcap.lz4", lz4ed(t, plain)},
		{"lz4 in two frames", "pcap.lz4", append(lz4ed(t, plain[:half]), lz4ed(t, plain[half:])...)},
		{"pcapng", "pcapng", blocks},
		{"pcapng in gzip", "pcapng.gz", gzipped(t, blocks)},
		{"pcapng in zstd", "pcapng.zst", zstandard(t, blocks)},
		{"pcapng in lz4", "pcapng.lz4", lz4ed(t, blocks)},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r },
			"halves":  iotest.HalfReader, "byte by byte": iotest.OneByteReader, "end with data": iotest.DataErrReader,
		} {
			t.Run(c.name+", "+how, func(t *testing.T) {
				r, err := NewReader(wrap(bytes.NewReader(c.data)), "built")
				if err != nil {
					t.Fatal(err)
				}
				got := readAll(t, r)
				if got.kind != c.kind || len(got.damage) != 0 {
					t.Errorf("format %s, want %s; damage %v", got.kind, c.kind, got.damage)
				}
				sameFlow(t, got.datagrams, want)
			})
		}
	}
}

// TestBlocks reads everything that pcapng has in one file.
func TestBlocks(t *testing.T) {
	for name, order := range map[string]byteOrder{"little": binary.LittleEndian, "big": binary.BigEndian} {
		t.Run(name, func(t *testing.T) {
			other := byteOrder(binary.BigEndian)
			if order == other {
				other = binary.LittleEndian
			}
			n := newNG(order)
			n.iface(linkEthernet, 0, n.option(2, []byte("eth0\x00")), n.option(3, []byte("first")), n.option(1, nil))
			n.iface(linkRaw, 96, n.tsresol(9), n.option(0x8001, []byte("unknown option")))
			n.block(format.BlockNRB, []byte("names"))
			n.block(0xBAD, []byte("custom"))
			n.block(0x80001234, []byte("local"))
			n.epb(0, 1_700_000_000_000_001, frame4("zero"), n.option(4, n.u64(5)), n.option(1, []byte("comment")))
			n.epb(1, 1_700_000_000_000_001_002, packet6("one"))
			n.oldPacket(1, 3, 1_700_000_000_000_001_003, packet4("old"))
			n.oldPacket(0, 0xFFFF, 1_700_000_000_000_002, frame4("old drops unknown"))
			n.spb(uint32(len(frame4("simple"))), frame4("simple"))
			n.isb(1, 1_700_000_000_000_002_000, 10, 4)
			n.order = other
			n.section()
			// 2^-10 s, and 100 s later.
			n.iface(linkNull, 0, n.tsresol(0x8A), n.option(14, n.u64(100)))
			n.epb(0, 512, append(n.u32(2), packet4("null")...))
			c := read(t, n.b)
			if len(c.damage) != 0 {
				t.Fatal(c.damage)
			}
			if len(c.ifaces) != 3 || c.ifaces[0].Name != "eth0" || c.ifaces[0].Description != "first" ||
				c.ifaces[1].LinkType != linkRaw || c.ifaces[1].SnapLen != 96 || c.ifaces[2].LinkType != linkNull {
				t.Errorf("interfaces %+v", c.ifaces)
			}
			const base = 1_700_000_000_000_000_000
			for i, want := range []struct {
				payload string
				time    int64
				iface   uint16
				drops   uint64
				flags   format.Flags
			}{
				{"zero", base + 1000, 0, 5, 0},
				{"one", base + 1002, 1, 0, 0},
				{"old", base + 1003, 1, 3, 0},
				{"old drops unknown", base + 2000, 0, 0, 0},
				{"simple", base + 2000, 0, 0, format.FlagNoTime},
				{"null", 100*second + second/2, 2, 0, 0},
			} {
				d := c.datagrams[i]
				if string(d.Payload) != want.payload || d.Time != want.time || d.Interface != want.iface || d.Drops != want.drops || d.Flags != want.flags {
					t.Errorf("datagram %d is %+v (payload %q), want %+v", i, d, d.Payload, want)
				}
			}
			stats := format.InterfaceStats{Time: base + 2000, Received: 6, Dropped: 4, Interface: 1}
			if len(c.stats) != 1 || c.stats[0] != stats {
				t.Errorf("statistics %+v, want %+v", c.stats, stats)
			}
		})
	}
}

func TestInterfacesAreKnownFromTheStart(t *testing.T) {
	n := newNG(binary.LittleEndian).iface(linkEthernet, 0).iface(linkRaw, 0)
	r := open(t, n.epb(0, 0, frame4("x")).b)
	if got := r.Interfaces(); len(got) != 2 || got[1].LinkType != linkRaw {
		t.Errorf("interfaces %+v", got)
	}
}

func TestNotACapture(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "empty"},
		{"text", "time,group,payload\n1,239.1.2.3,00\n", "text"},
		{"snoop", "snoop\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x04", "snoop"},
		{"zeros", strings.Repeat("\x00", 600), "zeros"},
		{"bzip2", "BZh91AY&SY", "bzip2"},
		{"xz", "\xFD7zXZ\x00\x00", "xz"},
		{"short", "\xD4\xC3", "d4 c3"},
		{"half pcapng", "\x0A\x0D\x0D\x0A\x1C\x00\x00\x00\x00\x00\x00\x00", "0a 0d 0d 0a"},
		{"text in gzip", string(gzipped(t, []byte("hello\n"))), "inside gzip, it looks like text"},
		{"nothing in gzip", string(gzipped(t, nil)), "inside gzip, it is empty"},
		{"gzip in gzip", string(gzipped(t, gzipped(t, littleMicro.file()))), "twice"},
		{"old version", "\xD4\xC3\xB2\xA1\x01\x00\x04\x00" + strings.Repeat("\x00", 16), "version 1.4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewReader(strings.NewReader(c.data), "name")
			if !errors.Is(err, format.ErrFormat) || !strings.Contains(err.Error(), c.want) ||
				!strings.HasPrefix(err.Error(), "name: ") || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("want one line with %q that wraps ErrFormat, got %q", c.want, err)
			}
		})
	}
}

func TestNewerVersion(t *testing.T) {
	for name, data := range map[string][]byte{
		"pcap":   append([]byte("\xD4\xC3\xB2\xA1\x03\x00\x00\x00"), make([]byte, 16)...),
		"pcapng": (&ng{order: binary.LittleEndian}).versioned(2).b,
	} {
		if _, err := NewReader(bytes.NewReader(data), name); !errors.Is(err, format.ErrVersion) || errors.Is(err, format.ErrFormat) {
			t.Errorf("%s: want ErrVersion, got %v", name, err)
		}
	}
	// A later section of a newer version is left out, and only that.
	n := newNG(binary.LittleEndian).iface(linkEthernet, 0).epb(0, 0, frame4("one"))
	n.versioned(2).iface(linkEthernet, 0).epb(0, 0, frame4("newer"))
	n.section().iface(linkEthernet, 0).epb(0, 0, frame4("two"))
	c := read(t, n.b)
	if c.versions != 1 || len(c.datagrams) != 2 || string(c.datagrams[1].Payload) != "two" || len(c.damage) != 0 {
		t.Errorf("%d version errors, %d datagrams, damage %v", c.versions, len(c.datagrams), c.damage)
	}
}

// TestUnderlyingError: a disk that fails is not a damaged file, and what was read
// before comes first.
func TestUnderlyingError(t *testing.T) {
	failure := errors.New("input/output error")
	want := flow(3)
	whole := littleMicro.file(want...)
	for cut := range len(whole) + 1 {
		r, err := NewReader(io.MultiReader(bytes.NewReader(whole[:cut]), iotest.ErrReader(failure)), "disk")
		var got []format.Datagram
		for err == nil {
			var b format.Batch
			if err = r.ReadBatch(&b); err == nil {
				got = append(got, b.Datagrams...)
			} else if again := r.ReadBatch(&b); again == nil || again.Error() != err.Error() {
				t.Fatalf("cut at %d: then %v", cut, again)
			}
		}
		if !errors.Is(err, failure) || !strings.HasPrefix(err.Error(), "disk: ") {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n, at := 0, pcapFileHeader
		for n < len(want) && at+pcapRecord+len(want[n].frame) <= cut {
			at += pcapRecord + len(want[n].frame)
			n++
		}
		sameFlow(t, got, want[:n])
	}
	compressed := gzipped(t, whole)
	_, err := NewReader(io.MultiReader(bytes.NewReader(compressed[:5]), iotest.ErrReader(failure)), "disk")
	if !errors.Is(err, failure) {
		t.Errorf("inside a gzip header: %v", err)
	}
}

// TestPipe: what has arrived on a pipe is delivered without waiting for a full
// batch.
func TestPipe(t *testing.T) {
	from, to := io.Pipe()
	defer from.Close()
	want := flow(3)
	go func() {
		to.Write(littleMicro.header())
		for _, p := range want {
			to.Write(littleMicro.record(p))
		}
		// The pipe stays open.
	}()
	got := make(chan int)
	go func() {
		r, err := NewReader(from, "pipe")
		if err != nil {
			got <- -1
			return
		}
		var b format.Batch
		for range want {
			if r.ReadBatch(&b) != nil {
				got <- -1
				return
			}
			got <- len(b.Datagrams)
		}
	}()
	for n := 0; n < len(want); {
		select {
		case k := <-got:
			if k < 1 {
				t.Fatal("reading failed")
			}
			n += k
		case <-time.After(10 * time.Second):
			t.Fatalf("%d datagrams in 10 s, want %d", n, len(want))
		}
	}
}

func TestBatchLimits(t *testing.T) {
	big := frame4(strings.Repeat("x", 60000))
	var packets []packet
	for i := range 20 {
		packets = append(packets, packet{time: stamp(i), frame: big})
	}
	data := littleMicro.file(append(packets, flow(2000)...)...)
	for _, c := range []struct {
		name  string
		batch *format.Batch
		n     int
		size  int
	}{
		{"default", &format.Batch{}, batchDatagrams, batchBytes},
		{"own memory", format.NewBatch(10, 100_000), 10, 100_000},
		{"too small for one packet", format.NewBatch(10, 100), 10, len(big)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := open(t, data)
			total := 0
			for {
				err := r.ReadBatch(c.batch)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				total += len(c.batch.Datagrams)
				if len(c.batch.Datagrams) > c.n || len(c.batch.Buf) > c.size {
					t.Fatalf("%d datagrams in %d bytes", len(c.batch.Datagrams), len(c.batch.Buf))
				}
			}
			if total != 2020 {
				t.Errorf("%d datagrams", total)
			}
		})
	}
}

func TestReadBatchAllocatesNothing(t *testing.T) {
	packets := flow(60_000)
	pcap := littleMicro.file(packets...)
	for name, data := range map[string][]byte{
		"pcap":     pcap,
		"pcapng":   benchNG(packets),
		"pcap.gz":  gzipped(t, pcap),
		"pcap.zst": zstandard(t, pcap),
		"pcap.lz4": lz4ed(t, pcap),
	} {
		r := open(t, data)
		var b format.Batch
		for range 50 { // decompressors grow with the first blocks
			if err := r.ReadBatch(&b); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(50, func() {
			if err := r.ReadBatch(&b); err != nil || len(b.Datagrams) == 0 {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a batch", name, n)
		}
	}
}

func TestClose(t *testing.T) {
	path := t.TempDir() + "/x.pcap"
	if err := os.WriteFile(path, littleMicro.file(flow(1)...), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := r.ReadBatch(&format.Batch{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := Open(path + ".missing"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("missing file: %v", err)
	}
}
