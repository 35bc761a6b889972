package segment

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"castdeck/format"
)

var compressions = []format.Compression{format.Zstd, format.Gzip, format.None}

// feed makes n datagrams of several groups and sizes, repeatable from the seed:
// IPv4 and IPv6, empty ones, losses, truncated and user-stamped ones.
func feed(seed uint64, n int) []format.Datagram {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]format.Datagram, n)
	now := int64(1_700_000_000_000_000_000)
	for i := range out {
		d := &out[i]
		now += r.Int64N(50_000)
		d.Time = now
		g := byte(r.IntN(3))
		d.Interface = uint16(g)
		d.TTL = uint8(1 + r.IntN(64))
		if g == 2 {
			d.Src = netip.MustParseAddrPort("[fe80::1]:4000")
			d.Dst = netip.MustParseAddrPort("[ff3e::10]:5000")
		} else {
			d.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1 + g}), 4000)
			d.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, g}), 5000)
		}
		size := [...]int{0, 1, 64, 200, 1400}[r.IntN(5)]
		d.Payload = make([]byte, size)
		for j := range d.Payload {
			d.Payload[j] = byte(r.IntN(16))
		}
		d.Length = uint32(size)
		switch r.IntN(50) {
		case 0:
			d.Drops = uint64(1 + r.IntN(100))
		case 1:
			d.Flags = format.FlagUserStamp
		case 2:
			d.Length += 100
			d.Flags = format.FlagTruncated
		}
	}
	return out
}

var interfaces = []format.Interface{
	{Name: "eth0", Description: "239.1.1.0:5000 on eth0", LinkType: format.LinkTypeEthernet},
	{Name: "eth0", Description: "239.1.1.1:5000 on eth0", LinkType: format.LinkTypeEthernet},
	{Name: "eth1", Description: "[ff3e::10]:5000 on eth1", LinkType: format.LinkTypeEthernet},
}

func options(c format.Compression) Options {
	return Options{
		Compression: c, ChunkSize: 16 << 10, Interfaces: interfaces, Application: "castdeck test",
		Info: format.SegmentInfo{
			Made: true, Host: "here", Clock: "test clock", Start: 1_700_000_000_000_000_000,
			Subscriptions: []string{"239.1.1.0:5000", "239.1.1.1:5000"},
		},
	}
}

// write makes a segment of ds and returns its path.
func write(t testing.TB, c format.Compression, ds []format.Datagram, seal bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "feed"+c.Extension())
	w, err := Create(path, options(c))
	if err != nil {
		t.Fatal(err)
	}
	for len(ds) > 0 {
		n := min(len(ds), 37)
		if err := w.WriteBatch(&format.Batch{Datagrams: ds[:n]}); err != nil {
			t.Fatal(err)
		}
		ds = ds[n:]
	}
	if seal {
		err = w.Close()
	} else {
		err = w.Flush()
		w.f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// readAll returns copies of everything readable and the damage met.
func readAll(t testing.TB, r *Reader) (ds []format.Datagram, damage []*format.CorruptError) {
	t.Helper()
	var b format.Batch
	for {
		err := r.ReadBatch(&b)
		var c *format.CorruptError
		switch {
		case err == io.EOF:
			return ds, damage
		case errors.As(err, &c):
			if len(b.Datagrams) != 0 {
				t.Fatal("an error came with datagrams")
			}
			damage = append(damage, c)
		case err != nil:
			t.Fatal(err)
		}
		for _, d := range b.Datagrams {
			d.Payload = bytes.Clone(d.Payload)
			d.Frame = bytes.Clone(d.Frame)
			ds = append(ds, d)
		}
	}
}

func open(t testing.TB, path string) *Reader {
	t.Helper()
	r, err := Open(path, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// openBytes opens a file that is in memory.
func openBytes(t testing.TB, b []byte) *Reader {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b), int64(len(b)), "x", ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func same(a, b *format.Datagram) bool {
	return a.Time == b.Time && a.Src == b.Src && a.Dst == b.Dst && a.Drops == b.Drops && a.Length == b.Length &&
		a.Interface == b.Interface && a.Flags == b.Flags && a.TTL == b.TTL && bytes.Equal(a.Payload, b.Payload)
}

func compare(t testing.TB, got, want []format.Datagram) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("read %d datagrams, wrote %d", len(got), len(want))
	}
	for i := range got {
		if !same(&got[i], &want[i]) {
			t.Fatalf("datagram %d:\nread  %+v\nwrote %+v", i, got[i], want[i])
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range compressions {
		for _, n := range []int{0, 1, 36, 37, 38, 5000} {
			t.Run(fmt.Sprintf("%s/%d", c, n), func(t *testing.T) {
				ds := feed(7, n)
				r := open(t, write(t, c, ds, true))
				if !r.Sealed() || r.IndexError() != nil {
					t.Fatalf("sealed %v, index error %v", r.Sealed(), r.IndexError())
				}
				got, damage := readAll(t, r)
				if len(damage) > 0 {
					t.Fatal(damage[0])
				}
				compare(t, got, ds)
				if f := r.Footer(); f.Datagrams != uint64(n) {
					t.Errorf("footer counts %d datagrams", f.Datagrams)
				}
				if _, problems, err := r.Verify(); err != nil || len(problems) > 0 {
					t.Errorf("verify: %v %v", problems, err)
				}
				if i := r.Info(); i.Host != "here" || !i.Made || len(i.Subscriptions) != 2 {
					t.Errorf("segment block reads as %+v", i)
				}
				if !slices.Equal(r.Interfaces(), interfaces) {
					t.Errorf("interfaces read as %+v", r.Interfaces())
				}
			})
		}
	}
}

func TestIndexAgreesWithScan(t *testing.T) {
	for _, c := range compressions {
		ds := feed(3, 3000)
		path := write(t, c, ds, true)
		sealed := open(t, path)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := sealed.Footer().IndexOffset
		open1, err := NewReader(bytes.NewReader(whole[:n]), n, "x", ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if open1.Sealed() {
			t.Fatal("a file without footer counts as sealed")
		}
		a, err := sealed.Index()
		if err != nil {
			t.Fatal(err)
		}
		b, err := open1.Index()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.Streams, b.Streams) || len(a.Streams) != 3 {
			t.Errorf("%s: streams %v, by scan %v", c, a.Streams, b.Streams)
		}
		if len(a.Chunks) < 10 || !slices.Equal(a.Chunks, b.Chunks) {
			t.Errorf("%s: %d chunks in the index, %d by scan, or they differ", c, len(a.Chunks), len(b.Chunks))
		}
	}
}

func TestSeek(t *testing.T) {
	for _, c := range compressions {
		for _, seal := range []bool{true, false} {
			ds := feed(4, 3000)
			r := open(t, write(t, c, ds, seal))
			for _, at := range []int{0, 1, 1500, 2999} {
				if err := r.SeekTime(ds[at].Time); err != nil {
					t.Fatal(err)
				}
				got, _ := readAll(t, r)
				skip := len(ds) - len(got)
				if skip > at || at-skip > 600 {
					t.Errorf("%s: seek to datagram %d begins at %d", c, at, skip)
				}
				compare(t, got, ds[skip:])
			}
			if err := r.SeekTime(ds[2999].Time + 1); err != nil {
				t.Fatal(err)
			}
			if got, _ := readAll(t, r); len(got) != 0 {
				t.Errorf("%s: %d datagrams behind the end", c, len(got))
			}
		}
	}
}

func TestAddedInterface(t *testing.T) {
	for _, seal := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "x.pcapng.zst")
		w, err := Create(path, options(format.Zstd))
		if err != nil {
			t.Fatal(err)
		}
		ds := feed(9, 400)
		w.WriteBatch(&format.Batch{Datagrams: ds[:200]})
		n, err := w.AddInterface(format.Interface{Name: "late0", LinkType: format.LinkTypeEthernet})
		if err != nil || n != 3 {
			t.Fatal(n, err)
		}
		for i := 200; i < 400; i++ {
			ds[i].Interface = n
		}
		w.WriteBatch(&format.Batch{Datagrams: ds[200:]})
		if seal {
			err = w.Close()
		} else {
			err = w.Flush()
			w.f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		r := open(t, path)
		if err := r.SeekTime(ds[399].Time); err != nil {
			t.Fatal(err)
		}
		if got, damage := readAll(t, r); len(got) == 0 || len(damage) > 0 {
			t.Fatalf("%d datagrams, damage %v", len(got), damage)
		}
		if i := r.Interfaces(); len(i) != 4 || i[3].Name != "late0" {
			t.Errorf("interfaces %+v", i)
		}
		if _, problems, _ := r.Verify(); seal && len(problems) > 0 {
			t.Error(problems)
		}
	}
}

func TestForeignAndMovedChunks(t *testing.T) {
	ds := feed(8, 600)
	path := write(t, format.Zstd, ds, true)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x, err := open(t, path).Index()
	if err != nil {
		t.Fatal(err)
	}
	frame := func(i int) []byte { return whole[x.Chunks[i].Offset:][:x.Chunks[i].Size] }
	head := whole[:x.Chunks[0].Offset]
	all := func(chunks ...[]byte) []byte { return append(slices.Clone(head), bytes.Join(chunks, nil)...) }
	otherPath := write(t, format.Zstd, ds, true)
	other, err := os.ReadFile(otherPath)
	if err != nil {
		t.Fatal(err)
	}
	ox, err := open(t, otherPath).Index()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		file   []byte
		chunks []int // that are read
		reason string
	}{
		{"missing", all(frame(0), frame(2)), []int{0, 2}, "1 chunk(s) missing before chunk 2"},
		{"doubled", all(frame(0), frame(0), frame(1)), []int{0, 1}, "stands here again"},
		{"swapped", all(frame(1), frame(0), frame(2)), []int{1, 0, 2}, "missing before chunk 1"},
		{"far ahead", all(frame(0), frame(9), frame(1), frame(2), frame(9)), []int{0, 9, 1, 2}, "8 chunk(s) missing before chunk 9"},
		{"of another recording", all(frame(0), other[ox.Chunks[1].Offset:][:ox.Chunks[1].Size], frame(1)), []int{0, 1}, "another segment"},
		{"garbage", all(frame(0), bytes.Repeat([]byte("garbage!"), 64), frame(1)), []int{0, 1}, "zstd"},
		{"zeros", all(frame(0), make([]byte, 4096), frame(1)), []int{0, 1}, "zstd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := openBytes(t, tc.file)
			var want []format.Datagram
			for _, i := range tc.chunks {
				first := 0
				for _, k := range x.Chunks[:i] {
					first += int(k.Packets)
				}
				want = append(want, ds[first:first+int(x.Chunks[i].Packets)]...)
			}
			got, damage := readAll(t, r)
			compare(t, got, want)
			if len(damage) == 0 || !strings.Contains(damage[0].Reason, tc.reason) {
				t.Errorf("damage %v, want %q", damage, tc.reason)
			}
		})
	}
}

func TestTwoRecordingsInOneFile(t *testing.T) {
	for _, c := range compressions {
		a, b := feed(1, 300), feed(2, 300)
		first, err := os.ReadFile(write(t, c, a, true))
		if err != nil {
			t.Fatal(err)
		}
		second, err := os.ReadFile(write(t, c, b, true))
		if err != nil {
			t.Fatal(err)
		}
		both := append(first, second...)
		r := openBytes(t, both)
		got, damage := readAll(t, r)
		if len(damage) > 0 {
			t.Fatal(damage[0])
		}
		for i := range b {
			b[i].Interface += uint16(len(interfaces))
		}
		compare(t, got, append(a, b...))
	}
}

func TestLyingFooterAndIndex(t *testing.T) {
	ds := feed(11, 300)
	path := write(t, format.None, ds, true)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := open(t, path)
	x, f := *good.index, *good.footer
	for name, lie := range map[string]func(x *format.Index, f *format.Footer){
		"more datagrams":    func(_ *format.Index, f *format.Footer) { f.Datagrams++ },
		"offset outside":    func(_ *format.Index, f *format.Footer) { f.IndexOffset = 1 << 60 },
		"offset overflows":  func(_ *format.Index, f *format.Footer) { f.IndexOffset = 1<<63 - 1 },
		"chunk count":       func(_ *format.Index, f *format.Footer) { f.Chunks++ },
		"chunk elsewhere":   func(x *format.Index, _ *format.Footer) { x.Chunks[0].Offset += 4 },
		"stream count":      func(x *format.Index, _ *format.Footer) { x.Streams[0].Datagrams++ },
		"chunk's times":     func(x *format.Index, _ *format.Footer) { x.Chunks[0].First-- },
		"another recording": func(_ *format.Index, f *format.Footer) { f.Recording[0]++ },
	} {
		t.Run(name, func(t *testing.T) {
			lx, lf := x, f
			lx.Chunks, lx.Streams = slices.Clone(x.Chunks), slices.Clone(x.Streams)
			lie(&lx, &lf)
			file := slices.Clone(whole[:f.IndexOffset])
			lx = format.Index{Recording: lx.Recording, Segment: lx.Segment, Chunks: lx.Chunks, Streams: lx.Streams, Interfaces: lx.Interfaces}
			lx.Blocks(func(b []byte) error {
				file = append(file, b...)
				return nil
			})
			file = format.AppendFooter(file, &lf)
			r := openBytes(t, file)
			got, damage := readAll(t, r)
			if len(damage) > 0 {
				t.Error(damage[0])
			}
			compare(t, got, ds)
			if _, problems, err := r.Verify(); err != nil || len(problems) == 0 {
				t.Errorf("verify saw nothing: %v", err)
			}
		})
	}
}

func TestNewerVersion(t *testing.T) {
	path := write(t, format.None, feed(1, 100), true)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newer := func(first, n int) (*Reader, error) {
		file := slices.Clone(whole)
		for at, i := 0, 0; i < first+n; i++ {
			at += bytes.Index(file[at:], []byte("CASTDECK")) + 8
			if i >= first {
				file[at]++
			}
		}
		return NewReader(bytes.NewReader(file), int64(len(file)), "x", ReadOptions{})
	}
	blocks := bytes.Count(whole, []byte("CASTDECK"))
	if _, err := newer(0, blocks); !errors.Is(err, format.ErrVersion) {
		t.Errorf("newer file: %v", err)
	}
	// One bit must not make a file one that nobody can read yet.
	r, err := newer(0, 1)
	if err != nil {
		t.Fatalf("newer segment block before chunks of this version: %v", err)
	}
	if got, _ := readAll(t, r); len(got) != 100 || !r.Salvaged() {
		t.Errorf("newer segment block before chunks of this version: %d datagrams", len(got))
	}
	r, err = newer(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, damage := readAll(t, r); len(damage) != 1 || !strings.Contains(damage[0].Reason, "newer version") {
		t.Errorf("newer chunk in a file of version 1: %v", damage)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.pcapng")
	w, err := Create(path, Options{Compression: format.None})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, Options{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("existing file: %v", err)
	}
	if _, err := Create(path, Options{Overwrite: true}); !errors.Is(err, ErrLocked) {
		t.Errorf("file that is being written: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := w.WriteBatch(&format.Batch{}); err == nil {
		t.Error("a closed segment takes datagrams")
	}
	w, err = Create(path, Options{Overwrite: true})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := os.Symlink(path, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(filepath.Join(dir, "link"), Options{Overwrite: true}); err == nil {
		t.Error("a symbolic link was followed")
	}
	if _, err := Create(filepath.Join(dir, "no", "x"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	w, err = Create(filepath.Join(dir, "y"), Options{Interfaces: interfaces})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.WriteBatch(&format.Batch{Datagrams: []format.Datagram{{Interface: 3, Frame: []byte{1}}}}); err == nil {
		t.Error("a datagram of an interface that is not described was taken")
	}
}

// TestOtherTools reads our files with the tools that people have.
func TestOtherTools(t *testing.T) {
	ds := feed(12, 2000)
	want := sha256.New()
	for _, d := range ds {
		fmt.Fprintf(want, "%x\n", d.Payload)
	}
	for _, c := range compressions {
		path := write(t, c, ds, true)
		for _, tool := range []struct {
			name string
			cmd  string // prints a line of hex payload per datagram
		}{
			{"tshark", unpack(c) + " " + path + " | tshark -r - -T fields -e udp.payload"},
			{"tcpdump", unpack(c) + " " + path + " | tcpdump -n -r - 2>/dev/null | sed 's/.*//'"},
		} {
			t.Run(fmt.Sprintf("%s/%s", c, tool.name), func(t *testing.T) {
				if _, err := exec.LookPath(tool.name); err != nil {
					t.Skipf("%s is not installed", tool.name)
				}
				out, err := exec.Command("sh", "-c", tool.cmd).Output()
				if err != nil {
					t.Fatal(err)
				}
				if n := bytes.Count(out, []byte("\n")); n != len(ds) {
					t.Fatalf("%s reads %d packets of %d", tool.name, n, len(ds))
				}
				if tool.name == "tshark" {
					got := sha256.Sum256(out)
					if !bytes.Equal(got[:], want.Sum(nil)) {
						t.Error("tshark reads other payloads")
					}
				}
			})
		}
		t.Run(c.String()+"/test", func(t *testing.T) {
			if c == format.None {
				t.Skip("nothing to test in bare pcapng")
			}
			tool := map[format.Compression]string{format.Zstd: "zstd", format.Gzip: "gzip"}[c]
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("%s is not installed", tool)
			}
			if out, err := exec.Command(tool, "-t", path).CombinedOutput(); err != nil {
				t.Errorf("%s -t: %v\n%s", tool, err, out)
			}
		})
	}
}

func unpack(c format.Compression) string {
	return map[format.Compression]string{format.Zstd: "zstd -dc", format.Gzip: "gzip -dc", format.None: "cat"}[c]
}

func TestStoredUnderPressure(t *testing.T) {
	for _, c := range compressions {
		ds := feed(13, 1000)
		o := options(c)
		n := 0
		o.Store = func() bool { n++; return n%2 == 0 }
		path := filepath.Join(t.TempDir(), "x"+c.Extension())
		w, err := Create(path, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteBatch(&format.Batch{Datagrams: ds}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if n < 10 || (c != format.None) != (w.Stored() > 5) {
			t.Errorf("%s: asked %d times, stored %d chunks", c, n, w.Stored())
		}
		got, damage := readAll(t, open(t, path))
		if len(damage) > 0 {
			t.Fatal(damage[0])
		}
		compare(t, got, ds)
	}
}

// TestWriteDoesNotAllocate: neither for each datagram nor, but for gzip's buffer, for
// each chunk.
func TestWriteDoesNotAllocate(t *testing.T) {
	for _, c := range compressions {
		w, err := Create(filepath.Join(t.TempDir(), "x"), options(c))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		b := &format.Batch{Datagrams: feed(14, 64)}
		for range 50 {
			w.WriteBatch(b)
		}
		w.index.Chunks = slices.Grow(w.index.Chunks, 10000)
		if n := testing.AllocsPerRun(200, func() {
			if err := w.WriteBatch(b); err != nil {
				t.Fatal(err)
			}
		}); n > 1 || n > 0 && c != format.Gzip {
			t.Errorf("%s: %.1f allocations per batch", c, n)
		}
	}
}

// TestReadDoesNotAllocate: a segment, and a recording, ahead too.
func TestReadDoesNotAllocate(t *testing.T) {
	for _, c := range compressions {
		path := write(t, c, feed(15, 8000), true)
		r := open(t, path)
		rec, err := OpenRecording([]string{path}, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer rec.Close()
		ahead := format.NewAhead(open(t, path), r.Interfaces)
		defer ahead.Close()
		for name, r := range map[string]format.BatchReader{"segment": r, "recording": rec, "ahead": ahead} {
			var b format.Batch
			read := func() {
				if err := r.ReadBatch(&b); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				read()
			}
			// A chunk holds tens of datagrams here. What is left is gzip's for each chunk,
			// and zstd's where the race detector makes its pools forget.
			if n := testing.AllocsPerRun(100, read); n > 4 {
				t.Errorf("%s, %s: %.1f allocations per chunk of %d datagrams", c, name, n, len(b.Datagrams))
			}
		}
	}
}

// TestGzipStatedSize: the size in a member's extra field is outside of gzip's own
// checksum. A wrong one cost the next member too.
func TestGzipStatedSize(t *testing.T) {
	ds := feed(6, 600)
	path := write(t, format.Gzip, ds, true)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x, err := open(t, path).Index()
	if err != nil {
		t.Fatal(err)
	}
	whole[x.Chunks[0].Offset+16] ^= 32
	r := openBytes(t, whole)
	got, damage := readAll(t, r)
	compare(t, got, ds[x.Chunks[0].Packets:])
	if len(damage) != 1 {
		t.Errorf("damage %v", damage)
	}
}

// TestLossToldTwice: a loss that totals told of first, and the next datagram again,
// is one loss.
func TestLossToldTwice(t *testing.T) {
	for _, order := range []string{"totals first", "datagram first"} {
		path := filepath.Join(t.TempDir(), "x.pcapng")
		o := options(format.None)
		w, err := Create(path, o)
		if err != nil {
			t.Fatal(err)
		}
		ds := feed(1, 2)
		ds[0].Interface, ds[1].Interface = 0, 0
		ds[0].Drops, ds[1].Drops = 0, 100
		totals := &format.Batch{Stats: []format.InterfaceStats{{Time: ds[0].Time, Received: 1, Dropped: 100, KernelDropped: 100}}}
		batches := []*format.Batch{{Datagrams: ds[:1]}, totals, {Datagrams: ds[1:]}}
		if order == "datagram first" {
			batches[1], batches[2] = batches[2], batches[1]
		}
		for _, b := range batches {
			if err := w.WriteBatch(b); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r := open(t, path)
		s, problems, err := r.Verify()
		if err != nil || len(problems) > 0 || s.Tally.Dropped != 100 || r.Footer().Dropped != 100 {
			t.Errorf("%s: %d lost, footer %d, %v %v", order, s.Tally.Dropped, r.Footer().Dropped, problems, err)
		}
	}
}

// TestRepacked: a recording that was unpacked, or packed again, by another tool is
// whole; its index is not used, and that is no damage.
func TestRepacked(t *testing.T) {
	ds := feed(31, 400)
	whole, err := os.ReadFile(write(t, format.Zstd, ds, true))
	if err != nil {
		t.Fatal(err)
	}
	var bare []byte
	dec, err := format.NewDecoder(format.Zstd)
	if err != nil {
		t.Fatal(err)
	}
	for rest := whole; len(rest) > 0; {
		n, err := format.FrameLength(format.Zstd, rest)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := dec.Decode(nil, rest[:n])
		if err != nil {
			t.Fatal(err)
		}
		bare = append(bare, raw...)
		rest = rest[n:]
	}
	r := openBytes(t, bare)
	if _, problems, err := r.Verify(); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	got, damage := readAll(t, r)
	if len(damage) > 0 {
		t.Error(damage[0])
	}
	compare(t, got, ds)
	if !r.Repacked() {
		t.Errorf("index error %v", r.IndexError())
	}
	// All in one frame it is no segment any more, but a pcapng for readers of those.
	zenc, _ := format.NewEncoder(format.Zstd)
	one, err := zenc.AppendFrame(nil, bare)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewReader(bytes.NewReader(one), int64(len(one)), "x", ReadOptions{}); !errors.Is(err, format.ErrFormat) {
		t.Errorf("all in one frame: %v", err)
	}
}

// TestSalvage: damage to the first frame costs nothing but itself.
func TestSalvage(t *testing.T) {
	for _, c := range compressions {
		ds := feed(32, 400)
		whole, err := os.ReadFile(write(t, c, ds, true))
		if err != nil {
			t.Fatal(err)
		}
		full := openBytes(t, whole)
		for _, seal := range []bool{true, false} {
			file := slices.Clone(whole)
			if !seal {
				file = file[:full.footer.IndexOffset]
			}
			copy(file[:full.start], make([]byte, full.start))
			r, err := NewSalvage(bytes.NewReader(file), int64(len(file)), "x", ReadOptions{})
			if err != nil {
				t.Fatal(c, err)
			}
			got, damage := readAll(t, r)
			if len(damage) != 1 || damage[0].Length != full.start || damage[0].Chunks != 0 {
				t.Errorf("%s: damage %v", c, damage)
			}
			compare(t, got, ds)
			if seal != slices.Equal(r.Interfaces(), interfaces) || len(r.Interfaces()) != 3 {
				t.Errorf("%s, sealed %v: interfaces %+v", c, seal, r.Interfaces())
			}
			s, problems, err := r.Verify()
			if err != nil || len(problems) == 0 || s.DamagedPlaces != 1 || s.Tally.Datagrams != 400 {
				t.Errorf("%s: verify finds %d places, %d datagrams, %v %v", c, s.DamagedPlaces, s.Tally.Datagrams, problems, err)
			}
			if err := r.SeekTime(ds[300].Time); err != nil {
				t.Fatal(err)
			}
			if got, _ := readAll(t, r); len(got) == 0 || len(got) > 200 {
				t.Errorf("%s: %d datagrams behind a seek", c, len(got))
			}
		}
	}
	if _, err := NewSalvage(bytes.NewReader(make([]byte, 5000)), 5000, "x", ReadOptions{}); !errors.Is(err, format.ErrFormat) {
		t.Errorf("zeros: %v", err)
	}
}

// TestLostDescription: the description of an interface is in a chunk; when that is
// lost, later chunks are read all the same, and numbers do not shift.
func TestLostDescription(t *testing.T) {
	for _, seal := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "x.pcapng.zst")
		w, err := Create(path, options(format.Zstd))
		if err != nil {
			t.Fatal(err)
		}
		ds := feed(33, 90)
		for k := range 3 {
			n, err := w.AddInterface(format.Interface{Name: fmt.Sprint("late", k), LinkType: 1})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 30 {
				ds[k*30+i].Interface = n
			}
			if err := w.WriteBatch(&format.Batch{Datagrams: ds[k*30 : k*30+30]}); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		first := w.index.Chunks[0]
		if seal {
			err = w.Close()
		} else {
			err = w.f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file[first.Offset+int64(first.Size)/2] ^= 0xFF
		r := openBytes(t, file)
		s, _, err := r.Verify()
		if err != nil || s.Tally.Datagrams != 60 || s.DamagedChunks != 1 {
			t.Errorf("sealed %v: verify reads %d datagrams, %d chunks damaged, %v", seal, s.Tally.Datagrams, s.DamagedChunks, err)
		}
		got, damage := readAll(t, r)
		if len(damage) != 1 {
			t.Errorf("sealed %v: damage %v", seal, damage)
		}
		compare(t, got, ds[30:])
		if i := r.Interfaces(); len(i) != 6 || i[5].Name != "late2" || (i[3].Name == "late0") != seal {
			t.Errorf("sealed %v: interfaces %+v", seal, i)
		}
	}
}

// TestManyChunks: the index of a long recording does not fit one frame, and is not held
// whole.
func TestManyChunks(t *testing.T) {
	n := 310_000
	if testing.Short() {
		n = 20_000 // still more than one index block
	}
	m := &memFS{files: map[string]*memFile{}}
	w, err := Create("x", Options{FS: m, Compression: format.None, Interfaces: interfaces})
	if err != nil {
		t.Fatal(err)
	}
	b := &format.Batch{Datagrams: feed(34, 1)}
	b.Datagrams[0].Payload, b.Datagrams[0].Flags = nil, 0
	start := b.Datagrams[0].Time
	for range n {
		b.Datagrams[0].Time++
		if err := w.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := m.files["x"].data
	r := openBytes(t, data)
	if !r.Sealed() || r.IndexError() != nil {
		t.Fatalf("sealed %v, %v", r.Sealed(), r.IndexError())
	}
	if s, problems, err := r.Verify(); err != nil || len(problems) > 0 || s.Chunks != n || s.Index.ChunkCount() != n {
		t.Errorf("%d chunks, %v %v", s.Chunks, problems, err)
	}
	if testing.Short() {
		return
	}
	per := r.index.PerEntry()
	if per == 1 {
		t.Fatal("every chunk has an entry")
	}
	var got format.Batch
	for _, at := range []int{1, 2, 3, 1000, n / 2, n - 1, n} {
		if err := r.SeekTime(start + int64(at)); err != nil {
			t.Fatal(err)
		}
		err := r.ReadBatch(&got)
		if first := int(got.Datagrams[0].Time - start); err != nil || first > at || first <= at-per {
			t.Errorf("seeking datagram %d finds %d, %v", at, first, err)
		}
	}
	if err := r.SeekTime(start + int64(n) + 1); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadBatch(&got); err != io.EOF {
		t.Errorf("behind the end: %v", err)
	}
	r.back()
	if err := r.ReadBatch(&got); err != nil || int(got.Datagrams[0].Time-start) <= n-per {
		t.Errorf("before the end: %d, %v", got.Datagrams[0].Time-start, err)
	}

	// A chunk that is lost, and an index that lies.
	lost := r.index.Chunks[100]
	data[lost.Offset+100] ^= 1
	s, problems, err := openBytes(t, data).Verify()
	if err != nil || len(problems) != 4 || s.Lost.Chunks != 1 || s.Lost.Datagrams != 1 || s.Lost.First != lost.First || s.Lost.Last != lost.Last {
		t.Errorf("%+v %v %v", s.Lost, problems, err)
	}
	data[lost.Offset+100] ^= 1
	file := data[:r.footer.IndexOffset]
	w.index.Chunks[200_000].First -= 9
	w.index.Blocks(func(b []byte) error {
		file = append(file, b...)
		return nil
	})
	if _, problems, err := openBytes(t, format.AppendFooter(file, r.footer)).Verify(); err != nil || len(problems) != 1 || !strings.Contains(problems[0], "otherwise") {
		t.Errorf("an index that lies: %v %v", problems, err)
	}
}

// shrinking is a file that becomes shorter while it is read.
type shrinking struct {
	data []byte
	left int // reads until it does
}

func (s *shrinking) ReadAt(p []byte, off int64) (int, error) {
	if s.left--; s.left < 0 {
		s.data = s.data[:min(len(s.data), 20_000)]
	}
	return bytes.NewReader(s.data).ReadAt(p, off)
}

func TestFileBecomesShorter(t *testing.T) {
	whole, err := os.ReadFile(write(t, format.Zstd, feed(35, 20_000), true))
	if err != nil {
		t.Fatal(err)
	}
	for left := range 6 {
		r, err := NewReader(&shrinking{whole, left + 3}, int64(len(whole)), "x", ReadOptions{})
		if err != nil {
			continue
		}
		got, _ := readAll(t, r)
		if len(got) == 0 {
			t.Errorf("after %d reads: nothing is read", left)
		}
	}
}

// TestResyncIsBounded: a file of frames that all reach to its end.
func TestResyncIsBounded(t *testing.T) {
	head, err := os.ReadFile(write(t, format.Zstd, nil, false))
	if err != nil {
		t.Fatal(err)
	}
	file := slices.Clone(head)
	for range 100_000 {
		// A zstd head that states 4 MiB of content, and a raw block of 12 bytes: the next
		// head is its content.
		file = append(file, 0x28, 0xB5, 0x2F, 0xFD, 0xA4, 0, 0, 0x40, 0, 12<<3, 0, 0)
	}
	r := openBytes(t, file)
	if _, damage := readAll(t, r); len(damage) == 0 {
		t.Error("no damage seen")
	}
	if limit := 8*r.size + 64<<20 + 64<<20; r.work > limit {
		t.Errorf("%d bytes of work, limit %d", r.work, limit)
	}
}

// TestUnknownFrame: a kind of frame that this version does not know is passed over.
func TestUnknownFrame(t *testing.T) {
	ds := feed(36, 300)
	path := write(t, format.None, ds, true)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, path)
	at := r.Footer().IndexOffset
	// A footer under another type: checksums do not cover the type.
	other := slices.Clone(whole[len(whole)-format.FooterSize:])
	other[0] = 0x77
	file := slices.Concat(whole[:at], other, whole[at:])
	again := openBytes(t, file)
	got, damage := readAll(t, again)
	if len(damage) > 0 {
		t.Error(damage[0])
	}
	compare(t, got, ds)
}

// TestLostIsTold: of a sealed file it is known exactly what damage costs.
func TestLostIsTold(t *testing.T) {
	for _, c := range compressions {
		ds := feed(37, 600)
		path := write(t, c, ds, true)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		x, err := open(t, path).Index()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{2, 3, 6} {
			whole[x.Chunks[i].Offset+int64(x.Chunks[i].Size)/2] ^= 0xFF
		}
		r := openBytes(t, whole)
		s, problems, err := r.Verify()
		if err != nil {
			t.Fatal(err)
		}
		want := Loss{Chunks: 3, First: x.Chunks[2].First, Last: x.Chunks[6].Last}
		for _, i := range []int{2, 3, 6} {
			want.Datagrams += uint64(x.Chunks[i].Datagrams)
			want.Bytes += x.Chunks[i].Bytes
		}
		if s.Lost != want || s.DamagedChunks != 3 || s.Tally.Datagrams != 600-want.Datagrams {
			t.Errorf("%s: lost %+v, want %+v; %d chunks damaged, %d datagrams read", c, s.Lost, want, s.DamagedChunks, s.Tally.Datagrams)
		}
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, "lost: 3 chunk(s) with ") }) {
			t.Errorf("%s: %q", c, problems)
		}
	}
}

// TestLostPlaces: each damaged place is told with its datagrams, exactly where index or
// totals tell, and between which times.
func TestLostPlaces(t *testing.T) {
	ds := feed(38, 600)
	for _, c := range compressions {
		sealed := write(t, c, ds, true)
		x, err := open(t, sealed).Index()
		if err != nil {
			t.Fatal(err)
		}
		n := len(x.Chunks)
		chunk := func(i int) format.ChunkEntry { return x.Chunks[i] }
		end := func(i int) int64 { return chunk(i).Offset + int64(chunk(i).Size) }
		hit := func(b []byte, i int) { b[chunk(i).Offset+int64(chunk(i).Size)/2] ^= 0xFF }
		sum := func(from, to int) (total uint64) {
			for i := from; i < to; i++ {
				total += uint64(chunk(i).Datagrams)
			}
			return total
		}
		type place struct {
			from, to int // chunks lost
			bytes    int64
			exact    bool
		}
		whole := func(from, to int) place {
			return place{from, to, end(to-1) - chunk(from).Offset, true}
		}
		for _, test := range []struct {
			what   string
			sealed bool
			damage func([]byte) []byte
			want   []place
		}{
			{"two chunks, sealed", true, func(b []byte) []byte { hit(b, 2); hit(b, 4); return b }, []place{whole(2, 3), whole(4, 5)}},
			{"two chunks, open", false, func(b []byte) []byte { hit(b, 2); hit(b, 4); return b }, []place{whole(2, 3), whole(4, 5)}},
			{"neighbours, open", false, func(b []byte) []byte { hit(b, 2); hit(b, 3); return b }, []place{whole(2, 4)}},
			{"first and last, sealed", true, func(b []byte) []byte { hit(b, 0); hit(b, n-1); return b }, []place{whole(0, 1), whole(n-1, n)}},
			{"last, open", false, func(b []byte) []byte { hit(b, n-1); return b }, []place{{n - 1, n, end(n-1) - chunk(n-1).Offset, false}}},
			{"taken out, sealed", true, func(b []byte) []byte { return slices.Delete(b, int(chunk(3).Offset), int(end(4))) }, []place{{3, 5, 0, true}}},
			{"taken out, open", false, func(b []byte) []byte { return slices.Delete(b, int(chunk(3).Offset), int(end(4))) }, []place{{3, 5, 0, true}}},
			{"noise between, open", false, func(b []byte) []byte { return slices.Insert(b, int(chunk(3).Offset), make([]byte, 77)...) }, []place{{3, 3, 77, true}}},
			{"twice, sealed", true, func(b []byte) []byte {
				return slices.Insert(b, int(chunk(3).Offset), b[chunk(2).Offset:end(2)]...)
			}, []place{{3, 3, int64(chunk(2).Size), true}}},
			{"footer, sealed", true, func(b []byte) []byte { b[len(b)-30] ^= 0xFF; return b }, []place{{n, n, int64(format.StoredSize(c, format.FooterSize)), true}}},
		} {
			file, err := os.ReadFile(sealed)
			if err != nil {
				t.Fatal(err)
			}
			if !test.sealed {
				file = file[:end(n-1)]
			}
			s, problems, err := openBytes(t, test.damage(file)).Verify()
			if err != nil {
				t.Fatal(err)
			}
			what := c.String() + ", " + test.what
			if len(s.Damage) != len(test.want) {
				t.Errorf("%s: %q", what, problems)
				continue
			}
			for i, w := range test.want {
				d, lost := s.Damage[i], sum(w.from, w.to)
				if !w.exact {
					lost = 0
				}
				if d.Length != w.bytes || d.Datagrams != lost || d.Counted != w.exact {
					t.Errorf("%s: place %d: %d bytes, %d datagrams, all of them %v; want %d, %d, %v", what, i, d.Length, d.Datagrams, d.Counted, w.bytes, lost, w.exact)
				}
				if since := sum(0, w.from); (d.Since != nil) != (since > 0) || since > 0 && *d.Since != ds[since-1].Time {
					t.Errorf("%s: place %d since %v", what, i, d.Since)
				}
				if until := sum(0, w.to); (d.Until != nil) != (until < 600) || until < 600 && *d.Until != ds[until].Time {
					t.Errorf("%s: place %d until %v", what, i, d.Until)
				}
				if !slices.Contains(problems, d.String()) {
					t.Errorf("%s: %q is not in %q", what, d.String(), problems)
				}
			}
		}
	}
}
