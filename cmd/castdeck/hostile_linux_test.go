package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"castdeck/format"
)

// The limits of a command on any file, with default settings.
const (
	mostOverIdle = 64 << 20
	mostTime     = 2 * time.Minute // a bound that a hang reaches, not a measure of speed
)

// outcome is what a castdeck process left.
type outcome struct {
	code   int
	peak   int64 // bytes of memory
	took   time.Duration
	out    *harmless // stdout
	talk   string    // stderr
	killed bool
}

// runProcess runs castdeck as a process of its own.
func runProcess(t *testing.T, stdin io.Reader, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), mostTime)
	defer cancel()
	peak := filepath.Join(t.TempDir(), "peak")
	out, talk := &harmless{}, &harmless{}
	cmd := exec.CommandContext(ctx, "castdeck", args...)
	cmd.Env = append(os.Environ(), peakEnv+"="+peak)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, talk
	cmd.WaitDelay = time.Second
	start := time.Now()
	err := cmd.Run()
	o := outcome{took: time.Since(start), out: out, talk: string(talk.head), killed: ctx.Err() != nil}
	o.code = cmd.ProcessState.ExitCode()
	if o.killed || err != nil && o.code < 0 {
		return o
	}
	status, err := os.ReadFile(peak)
	if err != nil {
		t.Fatalf("castdeck %v: %v: %s", args, err, o.talk)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			o.peak = kb << 10
		}
	}
	if o.bad() == "" && talk.bad != "" {
		o.out.bad = "stderr: " + talk.bad
	}
	return o
}

func (o outcome) bad() string { return o.out.bad }

// harmless takes output for a terminal: it keeps the start and what a terminal would
// obey, or show otherwise than it stands there.
type harmless struct {
	head []byte
	size int64
	bad  string
	part []byte // of a rune
}

func (h *harmless) Write(p []byte) (int, error) {
	n := len(p)
	h.size += int64(n)
	h.head = append(h.head, p[:min(n, max(0, 64<<10-len(h.head)))]...)
	if len(h.part) > 0 {
		p = append(h.part, p...)
		h.part = nil
	}
	for i := 0; i < len(p) && h.bad == ""; {
		if c := p[i]; c >= ' ' && c < 0x7F || c == '\n' || c == '\t' {
			i++
			continue
		}
		if !utf8.FullRune(p[i:]) {
			h.part = bytes.Clone(p[i:])
			break
		}
		r, size := utf8.DecodeRune(p[i:])
		if !unicode.IsPrint(r) || r == utf8.RuneError && size == 1 {
			h.bad = fmt.Sprintf("%q in %q", p[i:i+size], p[max(0, i-40):min(len(p), i+40)])
		}
		i += size
	}
	return n, nil
}

// hostileCommands are run over every hostile file, in this order; %s is the file.
var hostileCommands = []struct{ name, args string }{
	{"info", "info IN"},
	{"dump", "dump IN"},
	{"verify", "verify IN"},
	{"zst", "convert IN OUT.pcapng.zst"},
	{"pcap", "convert IN OUT.pcap"},
	{"repair", "repair IN OUT.pcapng.zst"},
	{"replay", "replay IN --dry-run -i lo"},
	{"info", "info IN --json"},
	{"dump", "dump IN --json"},
	{"gaps", "gaps --json IN"},
	{"stats", "stats --json --bucket 1ms IN"},
	{"report", "report --json IN -o OUT.html"},
	{"compare", "compare --json IN SMALL"},
	{"merge", "merge-lines IN SMALL -o OUT.pcapng.zst"},
	{"parquet", "convert IN OUT.parquet"},
	{"parts", "convert --partition date,group IN OUT"},
}

// hostileFile is one file of the table.
type hostileFile struct {
	name string
	make func(w io.Writer) error
	// want are the exit codes of hostileCommands, a digit each; "-" leaves one out,
	// and what only another command or file can show is left out.
	want string
}

// flood is how many of something cheap a file holds.
const flood = 1_000_000

func hostileFiles() []hostileFile {
	return slices.Concat(bombs(), foreignFiles(), floods(), nativeFiles())
}

// TestHostileFiles runs every command over every file: no panic, the right exit code,
// an end, bounded memory and harmless output.
func TestHostileFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	dir := t.TempDir()
	small := filepath.Join(dir, "small.pcap")
	makeFile(t, small, func(w io.Writer) error { _, err := w.Write(pcapOf(packets(3)...)); return err })
	idle := max(runProcess(t, nil, "version").peak, runProcess(t, nil, "info", small).peak)
	if idle == 0 {
		t.Fatal("no peak of memory was read")
	}
	t.Logf("idle: %.1f MiB", mib(idle))
	var table strings.Builder
	worst := int64(0)
	for _, f := range hostileFiles() {
		if only := os.Getenv("HOSTILE"); only != "" && !strings.Contains(f.name, only) {
			continue
		}
		path := filepath.Join(dir, "in")
		makeFile(t, path, f.make)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&table, "\n%-28s %10d B ", f.name, st.Size())
		for i, c := range hostileCommands {
			if i >= len(f.want) || f.want[i] == '-' {
				continue
			}
			out := filepath.Join(dir, "out")
			args := strings.Fields(strings.NewReplacer("IN", path, "OUT", out, "SMALL", small).Replace(c.args))
			o := runProcess(t, nil, args...)
			for again := 0; again < 2 && o.peak-idle > mostOverIdle && !o.killed; again++ {
				// On a loaded machine the collector can come late; what is really held is held every time.
				if err := removeOutputs(out); err != nil {
					t.Fatal(err)
				}
				o = runProcess(t, nil, args...)
			}
			fmt.Fprintf(&table, " %s %d %+.0fM %.1fs", c.name, o.code, mib(o.peak-idle), o.took.Seconds())
			worst = max(worst, o.peak-idle)
			switch {
			case o.killed:
				t.Errorf("%s: %s does not end", f.name, c.name)
			case o.code != int(f.want[i]-'0'):
				t.Errorf("%s: %s: exit code %d, want %c: %s | %s", f.name, c.name, o.code, f.want[i], firstLines(o.talk), firstLines(string(o.out.head)))
			case strings.Contains(o.talk, "goroutine "):
				t.Errorf("%s: %s panics: %s", f.name, c.name, firstLines(o.talk))
			case o.peak-idle > mostOverIdle:
				t.Errorf("%s: %s takes %.1f MiB over idle", f.name, c.name, mib(o.peak-idle))
			case o.bad() != "":
				t.Errorf("%s: %s prints %s", f.name, c.name, o.bad())
			}
			if err := removeOutputs(out); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("exit code, memory over idle, time:%s\nworst: %.1f MiB over idle", table.String(), mib(worst))
}

// endless gives rest and then part over and over; about most bytes in all, 0 is no end.
type endless struct {
	rest, part []byte
	given      int
	most       int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.most > 0 && e.given >= e.most {
		return 0, io.EOF
	}
	if len(e.rest) == 0 {
		e.rest = e.part
	}
	n := copy(p, e.rest)
	e.rest, e.given = e.rest[n:], e.given+n
	return n, nil
}

// TestHostilePaths: names that are no files, files that never end or grow while they are
// read.
func TestHostilePaths(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	good := pcapOf(packets(3)...)
	makeFile(t, name("good.pcap"), bytesOf(good))
	for _, l := range [][2]string{{"good.pcap", "link"}, {"nowhere", "dangling"}, {"loop", "loop"}, {"/dev/zero", "zero"}, {"folder", "up"}} {
		if err := os.Symlink(l[0], name(l[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(name("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	makeFile(t, name("folder/good.pcap"), bytesOf(good))
	if err := os.Symlink("..", name("folder/parent")); err != nil {
		t.Fatal(err)
	}
	for _, fifo := range []string{"fifo", "folder/fifo"} {
		if err := makeFifo(name(fifo)); err != nil {
			t.Fatal(err)
		}
	}
	idle := runProcess(t, nil, "info", name("good.pcap")).peak
	record := pcapRecord(someTime, 1000, make([]byte, 1000))
	wrong := pcapRecord(someTime, math.MaxUint32, make([]byte, 1000))
	zeros := make([]byte, 1<<16)
	var many []byte
	for range 100 {
		many = append(many, pcapRecord(someTime, uint32(len(packetOf(1, 1000))), packetOf(1, 1000))...)
	}
	const long = 128 << 20 // far more than may be held
	out := name("out.pcap")
	for _, c := range []struct {
		args  string
		stdin io.Reader
		want  int
		says  string
	}{
		{"info DIR/link", nil, exitOK, ""},
		{"info DIR/dangling", nil, exitFailed, "dangling"},
		{"info DIR/loop", nil, exitFailed, "loop"},
		{"info DIR/zero", nil, exitFailed, "zero"},
		{"convert /dev/zero OUT", nil, exitFailed, "/dev/zero"},
		{"verify /dev/null", nil, exitFailed, "/dev/null"},
		{"repair /dev/zero OUT.pcapng.zst", nil, exitFailed, "/dev/zero"},
		{"info DIR/folder", nil, exitOK, ""}, // the FIFO in it would hold it up for ever
		{"info DIR/up", nil, exitOK, ""},
		{"dump DIR", nil, exitOK, ""},
		{"convert DIR/good.pcap DIR/fifo --to pcap --force", nil, exitFailed, "not a regular file"},
		{"convert DIR/good.pcap DIR/dangling --to pcap --force", nil, exitFailed, "not a regular file"},
		{"convert DIR/good.pcap DIR/zero --to pcap --force", nil, exitFailed, "not a regular file"},
		{"convert DIR/good.pcap DIR/folder --to pcap --force", nil, exitUsage, "is a folder"},
		{"convert - OUT", &endless{part: zeros}, exitFailed, "stdin"},
		{"info -", &endless{part: []byte("castdeck")}, exitFailed, "stdin"},
		{"info -", &endless{rest: pcapHead(), part: many, most: long}, exitLossy, ""},
		{"dump - --count 5", &endless{rest: pcapHead(), part: many}, exitOK, ""},
		{"convert - OUT --count 100000", &endless{rest: pcapHead(), part: many}, exitOK, ""},
		{"convert --to ndjson - -", &endless{rest: pcapHead(), part: record, most: long}, exitOK, "not UDP"},
		{"verify -", &endless{rest: append(pcapOf(packets(3)...), wrong...), part: zeros, most: long}, exitLossy, "byte 246"},
		{"convert - OUT", &endless{rest: append(pcapOf(packets(3)...), wrong...), part: record, most: long}, exitLossy, "byte 246"},
	} {
		o := runProcess(t, c.stdin, strings.Fields(strings.NewReplacer("DIR", dir, "OUT", out).Replace(c.args))...)
		t.Logf("%s: %d, %+.0f MiB over idle, %.1fs: %s", c.args, o.code, mib(o.peak-idle), o.took.Seconds(), firstLines(o.talk))
		if o.killed || o.code != c.want || o.peak-idle > mostOverIdle || o.bad() != "" || !strings.Contains(o.talk+string(o.out.head), c.says) {
			t.Errorf("%s: exit code %d, want %d; killed %v, %.0f MiB over idle: %s", c.args, o.code, c.want, o.killed, mib(o.peak-idle), firstLines(o.talk))
		}
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
	}

	// A file to which somebody writes until the command is done.
	for _, args := range []string{"info DIR/grows", "dump DIR/grows", "convert DIR/grows OUT"} {
		makeFile(t, name("grows"), bytesOf(pcapHead(), many))
		f, err := os.OpenFile(name("grows"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		done, wrote := make(chan struct{}), make(chan error)
		go func() {
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-done:
					wrote <- nil
					return
				case <-pace.C:
				}
				if _, err := f.Write(many[:len(many)/2+7]); err != nil {
					wrote <- err
					return
				}
				if _, err := f.Write(many[len(many)/2+7:]); err != nil {
					wrote <- err
					return
				}
			}
		}()
		o := runProcess(t, nil, strings.Fields(strings.NewReplacer("DIR", dir, "OUT", out).Replace(args))...)
		close(done)
		if err := errors.Join(<-wrote, f.Close(), os.RemoveAll(out)); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d, %+.0f MiB over idle, %.1fs: %s", args, o.code, mib(o.peak-idle), o.took.Seconds(), firstLines(o.talk))
		if o.killed || o.code != exitOK && o.code != exitLossy || o.peak-idle > mostOverIdle {
			t.Errorf("%s: exit code %d, killed %v, %.0f MiB over idle: %s", args, o.code, o.killed, mib(o.peak-idle), firstLines(o.talk))
		}
	}
}

// TestSplitMemory: however many files --split-by and --partition make, and whatever goes into them,
// memory is bounded.
func TestSplitMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	dir := t.TempDir()
	idle := runProcess(t, nil, "version").peak
	record := func(group, source, size int) []byte {
		d := streamOf(source)
		d.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, byte(group >> 8), byte(group)}), 5000)
		d.Payload = make([]byte, size)
		f, _ := format.AppendMadeFrame(nil, &d)
		return pcapRecord(someTime, uint32(len(f)), f)
	}
	interfaces := func(n int) func(io.Writer) error {
		return repeated(ngSection(), maxOpen*n, func(i int) []byte {
			if i < n {
				return ngInterface(ngOption(2, fmt.Appendf(nil, "interface %d", i)))
			}
			return ngPacket(uint32(i%n), micros, record(i/n, 1, 0)[16:])
		})
	}
	for _, f := range []struct {
		name string
		fill func(io.Writer) error
		outs []string
		want int
	}{
		{"groups in turn", repeated(pcapHead(), maxOpen*70, func(i int) []byte { return record(i%maxOpen, 1, 1000) }),
			[]string{".pcapng.zst", ".pcapng.gz", ".csv.zst", ".parquet"}, exitOK},
		{"bursts", repeated(pcapHead(), 200*16, func(i int) []byte { return record(i/16, 1, 60_000) }),
			[]string{".pcapng.zst", ".pcap", ".ndjson", ".parquet"}, exitOK},
		{"sources", repeated(pcapHead(), maxOpen*600, func(i int) []byte { return record(i%maxOpen, i, 0) }),
			[]string{".pcapng.zst", ".pcap"}, exitOK},
		{"interfaces", interfaces(60), []string{".pcapng.zst"}, exitOK},
		{"too many interfaces", interfaces(200), []string{".pcapng.zst"}, exitFailed},
	} {
		in := filepath.Join(dir, "in")
		makeFile(t, in, zst(f.fill))
		for _, end := range f.outs {
			folder := filepath.Join(dir, "out")
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			how := "--split-by"
			if end == ".parquet" {
				how = "--partition"
			}
			o := runProcess(t, nil, "convert", how, "group", in, filepath.Join(folder, "x"+end))
			t.Logf("%s, %s: %+.1f MiB over idle, %.1fs: %s", f.name, end, mib(o.peak-idle), o.took.Seconds(), firstLines(o.talk))
			if o.code != f.want || o.peak-idle > mostOverIdle {
				t.Errorf("%s, %s: exit code %d, %.1f MiB over idle: %s", f.name, end, o.code, mib(o.peak-idle), firstLines(o.talk))
			}
			if err := os.RemoveAll(folder); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func removeOutputs(out string) error {
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	for _, end := range []string{".pcapng.zst", ".pcap", ".html", ".parquet"} {
		if err := os.Remove(out + end); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func firstLines(s string) string {
	lines := strings.SplitN(s, "\n", 4)
	return strings.Join(lines[:min(len(lines), 3)], " | ")
}

func makeFile(t *testing.T, path string, fill func(w io.Writer) error) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// bytesOf is a file of these bytes.
func bytesOf(parts ...[]byte) func(io.Writer) error {
	return func(w io.Writer) error {
		for _, p := range parts {
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
		return nil
	}
}

// repeated is a file that begins with head and goes on with n parts.
func repeated(head []byte, n int, part func(i int) []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		if _, err := w.Write(head); err != nil {
			return err
		}
		for i := range n {
			if _, err := w.Write(part(i)); err != nil {
				return err
			}
		}
		return nil
	}
}

func packedBy(fill func(io.Writer) error, pack func(io.Writer) (io.WriteCloser, error)) func(io.Writer) error {
	return func(w io.Writer) error {
		z, err := pack(w)
		if err != nil {
			return err
		}
		if err := fill(z); err != nil {
			return err
		}
		return z.Close()
	}
}

func zst(fill func(io.Writer) error) func(io.Writer) error {
	return packedBy(fill, func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	})
}

func gz(fill func(io.Writer) error) func(io.Writer) error {
	return packedBy(fill, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestSpeed) })
}

func lz(fill func(io.Writer) error) func(io.Writer) error {
	return packedBy(fill, func(w io.Writer) (io.WriteCloser, error) { return lz4.NewWriter(w), nil })
}

var le = binary.LittleEndian

const someTime = 1_700_000_000

func pcapHead() []byte {
	b := le.AppendUint32(nil, 0xA1B2C3D4)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(b, 262144)
	return le.AppendUint32(b, 1)
}

func pcapRecord(sec, captured uint32, frame []byte) []byte {
	b := le.AppendUint32(nil, sec)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, captured)
	b = le.AppendUint32(b, captured)
	return append(b, frame...)
}

func pcapOf(frames ...[]byte) []byte {
	b := pcapHead()
	for i, f := range frames {
		b = append(b, pcapRecord(someTime+uint32(i), uint32(len(f)), f)...)
	}
	return b
}

// streamOf is a datagram of stream i, without payload.
func streamOf(i int) format.Datagram {
	return format.Datagram{
		Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 4000),
		Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 2, 3}), 5000), TTL: 1,
	}
}

// packetOf is an Ethernet frame of stream i with a payload of zeros.
func packetOf(i, size int) []byte {
	d := streamOf(i)
	d.Payload = make([]byte, size)
	b, _ := format.AppendMadeFrame(nil, &d)
	return b
}

func packets(n int) (all [][]byte) {
	for range n {
		all = append(all, packetOf(1, 16))
	}
	return all
}

func ngHead(options ...[]byte) []byte { return append(ngSection(), ngInterface(options...)...) }

func ngSection() []byte { return format.AppendSHB(nil, format.Section{}) }

func ngBlock(typ uint32, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	body = append(body, make([]byte, -len(body)&3)...)
	b := le.AppendUint32(nil, typ)
	b = le.AppendUint32(b, uint32(len(body)+12))
	return le.AppendUint32(append(b, body...), uint32(len(body)+12))
}

func ngOption(code int, value []byte) []byte {
	b := le.AppendUint16(nil, uint16(code))
	b = le.AppendUint16(b, uint16(len(value)))
	return append(append(b, value...), make([]byte, -len(value)&3)...)
}

// ngInterface has microseconds unless an option says otherwise.
func ngInterface(options ...[]byte) []byte {
	return ngBlock(format.BlockIDB, []byte{1, 0, 0, 0, 0, 0, 0, 0}, bytes.Join(options, nil))
}

func ngPacket(ifc uint32, time uint64, frame []byte, options ...[]byte) []byte {
	h := le.AppendUint32(nil, ifc)
	h = le.AppendUint32(h, uint32(time>>32))
	h = le.AppendUint32(h, uint32(time))
	h = le.AppendUint32(h, uint32(len(frame)))
	h = le.AppendUint32(h, uint32(len(frame)))
	frame = append(bytes.Clone(frame), make([]byte, -len(frame)&3)...)
	return ngBlock(format.BlockEPB, h, frame, bytes.Join(options, nil))
}

const micros = someTime * 1_000_000

// blockLength is a capture with a block whose length is a lie, and packets behind.
func blockLength(typ, length uint32) []byte {
	b := ngHead()
	b = append(b, ngPacket(0, micros, packetOf(1, 16))...)
	lie := ngPacket(0, micros, packetOf(1, 16))
	le.PutUint32(lie, typ)
	le.PutUint32(lie[4:], length)
	b = append(b, lie...)
	for range 5 {
		b = append(b, ngPacket(0, micros, packetOf(1, 16))...)
	}
	return b
}

func bombs() []hostileFile {
	big := make([]byte, 65000)
	bomb := func(size int) func(io.Writer) error {
		rec := pcapRecord(someTime, uint32(len(big)), big)
		return repeated(pcapHead(), size/len(rec), func(int) []byte { return rec })
	}
	zeros := func(size int) func(io.Writer) error {
		return repeated(nil, size>>16, func(int) []byte { return make([]byte, 1<<16) })
	}
	frame := func(descriptor byte, rest ...byte) []byte {
		return append([]byte{0x28, 0xB5, 0x2F, 0xFD, descriptor}, rest...)
	}
	// RLE blocks of 128 KiB, each 4 bytes.
	rle := func(n int) []byte {
		b := bytes.Repeat([]byte{0x02, 0x00, 0x10, 0}, n)
		b[len(b)-4] |= 1
		return b
	}
	return []hostileFile{
		{"bomb 4 GiB, zstd", zst(bomb(4 << 30)), "0------"},
		{"bomb, zstd", zst(bomb(128 << 20)), "0000000-----3000"},
		{"bomb, gzip", gz(bomb(128 << 20)), "0--0---"},
		{"bomb, lz4", lz(bomb(128 << 20)), "0--0---"},
		{"zeros 4 GiB, RLE blocks", bytesOf(frame(0, 0x58), rle(4<<30>>17)), "1--1-1-"},
		{"zeros, gzip", gz(zeros(64 << 20)), "1--1-1-"},
		{"zstd in zstd", zst(zst(bytesOf(pcapOf(packets(3)...)))), "1--1-1-"},
		{"zstd of 2^62 bytes", bytesOf(frame(0xE0, 0, 0, 0, 0, 0, 0, 0, 0x40), rle(1)), "1--1-1-"},
		{"zstd window 128 MiB", bytesOf(frame(0, 0x88, 1, 0, 0)), "1--1-1-"},
		{"zstd window 2 TiB", bytesOf(frame(0, 0xFF), rle(10)), "1--1-1-"},
		{"zstd frames in frames", repeated(frame(0, 0x58, 1, 0, 0), 1<<19, func(int) []byte { return frame(0, 0x58, 0xF8, 0x7F, 0x02) }), "1--1-1-"},
	}
}

func foreignFiles() []hostileFile {
	var files []hostileFile
	add := func(name, want string, parts ...[]byte) {
		files = append(files, hostileFile{name, bytesOf(parts...), want})
	}
	for _, n := range []uint32{0, 1, 4, 7, 8, 11, 12, math.MaxInt32, 1 << 31, math.MaxUint32, 16 << 20, 16<<20 + 4} {
		add(fmt.Sprintf("block of %d bytes", n), "3--3-3-", blockLength(format.BlockEPB, n))
	}
	add("interface of 2^32-4 bytes", "3--3-3-", blockLength(format.BlockIDB, math.MaxUint32-3))
	add("section of 16 MiB", "3--3-3-", blockLength(format.BlockSHB, 16<<20))
	p := packetOf(1, 16)
	add("pcap caplen 1 GiB", "33-3-3-", pcapOf(p, p), pcapRecord(someTime, 1<<30, p), pcapOf(p, p, p, p, p)[24:])
	add("pcap caplen 2^32-1", "3--3-3-", pcapOf(p, p), pcapRecord(someTime, math.MaxUint32, p), pcapOf(p, p, p, p, p)[24:])
	lie := ngPacket(0, micros, p)
	le.PutUint32(lie[20:], 1<<30)
	add("EPB caplen 1 GiB", "33-3-3-", ngHead(), ngPacket(0, micros, p), lie, ngPacket(0, micros, p))
	for _, r := range []byte{64, 0x80 | 127, 127, 255} {
		add(fmt.Sprintf("tsresol %d", r), "3--33--", ngHead(ngOption(9, []byte{r})), ngPacket(0, micros, p), ngPacket(0, math.MaxUint64, p))
	}
	add("tsresol 2^-63", "0000000", ngHead(ngOption(9, []byte{0x80 | 63})), ngPacket(0, micros, p), ngPacket(0, math.MaxUint64, p))
	add("tsoffset 2^63-1", "33-3-3-", ngHead(ngOption(14, le.AppendUint64(nil, math.MaxInt64))), ngPacket(0, micros, p))
	add("options of 0 bytes", "0000000", ngHead(bytes.Repeat(ngOption(2, nil), 1<<16)), ngPacket(0, micros, p, bytes.Repeat(ngOption(1, nil), 1<<16)))
	add("option behind its block", "33-3-3-", ngHead(), ngPacket(0, micros, p), ngPacket(0, micros, p, []byte{1, 0, 0xFF, 0xFF}), ngPacket(0, micros, p))
	add("interface option too long", "33-3-3-", ngHead([]byte{2, 0, 0xFF, 0xFF}), ngPacket(0, micros, p))
	names := bytes.Join([][]byte{{1, 0, 12, 0, 10, 0, 0, 1}, []byte("\x1b[2J\x1b]0;\x00"), {0}}, nil)
	add("names with escapes", "0000000", format.AppendSHB(nil, format.Section{Hardware: nasty, OS: nasty, Application: nasty}),
		ngInterface(ngOption(2, []byte(nasty)), ngOption(3, []byte(nasty))), ngBlock(format.BlockNRB, names), ngPacket(0, micros, p, ngOption(1, []byte(nasty))))
	long := bytes.Repeat([]byte("\x1b[31m"), 13000)
	add("names of 64 kB", "0000000", format.AppendSHB(nil, format.Section{Hardware: string(long), OS: string(long), Application: string(long)}),
		ngInterface(ngOption(2, long), ngOption(3, long)), ngPacket(0, micros, p, ngOption(1, long)))
	add("times backwards", "0000000", pcapHead(), pcapRecord(someTime, uint32(len(p)), p), pcapRecord(someTime-9, uint32(len(p)), p), pcapRecord(someTime-99, uint32(len(p)), p))
	add("pcap of 2106", "0000000", pcapHead(), pcapRecord(math.MaxUint32, uint32(len(p)), p), pcapRecord(math.MaxUint32, uint32(len(p)), p))
	add("time behind 2106", "0000100", ngHead(), ngPacket(0, (math.MaxUint32+1)*1_000_000, p))
	add("time 2^63", "33-3-3-", ngHead(ngOption(9, []byte{9})), ngPacket(0, 1<<63, p))
	add("time 2^64-1", "33-3-3-", ngHead(), ngPacket(0, math.MaxUint64, p), ngPacket(0, micros, p))
	add("two pcaps", "33-3-3-", pcapOf(p, p), pcapOf(p, p))
	add("two pcapngs", "0000000", ngHead(), ngPacket(0, micros, p), ngHead(), ngPacket(0, micros, p))
	add("pcap, then pcapng", "33-3-3-", pcapOf(p, p), ngHead(), ngPacket(0, micros, p))
	add("pcapng, then pcap", "33-3-3-", ngHead(), ngPacket(0, micros, p), pcapOf(p, p))
	later := pcapOf(p)
	later[4] = 3
	add("pcap version 3", "1--1-1-", later)
	section := ngSection()
	section[12] = 2
	add("pcapng version 2", "1--1-1-", section, ngPacket(0, micros, p))
	add("bzip2", "1--1-1-", []byte("BZh91AY&SY............"))
	add("xz", "1--1-1-", []byte("\xFD7zXZ\x00............"))
	add("nothing", "1--1-1-")
	add("three bytes", "1--1-1-", []byte{0xD4, 0xC3, 0xB2})
	return files
}

// nasty is what no terminal may be given.
const nasty = "eth0\x1b[2J\x1b]0;owned\x07\n\r\x00\x7f\u009b31m\u202e\u2066\u200f\u2028end"

func floods() []hostileFile {
	p := packetOf(1, 16)
	fragment := func(id, offset, size int, more bool) []byte {
		f := packetOf(1, size)
		ip := f[14:]
		binary.BigEndian.PutUint16(ip[4:], uint16(id))
		ip[12], ip[13] = byte(id>>24), byte(id>>16)
		binary.BigEndian.PutUint16(ip[6:], uint16(offset/8))
		if more {
			ip[6] |= 0x20
		}
		return f
	}
	record := func(f []byte) []byte { return pcapRecord(someTime, uint32(len(f)), f) }
	numbered := func(i int) []byte {
		f := packetOf(1, 8)
		binary.BigEndian.PutUint64(f[len(f)-8:], uint64(i))
		return f
	}
	long := bytes.Repeat([]byte("n"), 65000)
	return []hostileFile{
		{"interfaces", zst(repeated(ngSection(), flood, func(int) []byte { return ngInterface() })), "33-3-333-"},
		{"interfaces, used", zst(repeated(ngSection(), flood/8, func(i int) []byte {
			return append(ngInterface(ngOption(2, fmt.Appendf(nil, "<%d>", i))), ngPacket(uint32(i), micros, p)...)
		})), "33-3-333333-3131"},
		{"interfaces, long names", zst(repeated(ngSection(), 1000, func(int) []byte { return ngInterface(ngOption(2, long), ngOption(3, long)) })), "00-0-0-00--0"},
		{"sections", zst(repeated(ngSection(), flood, func(int) []byte { return ngSection() })), "0--0-0-"},
		{"sections with interfaces", zst(repeated(ngSection(), flood/8, func(int) []byte { return ngHead() })), "3--3-3-"},
		{"streams", zst(repeated(pcapHead(), flood/3, func(i int) []byte { return record(packetOf(i, 0)) })), "00-0--0000001100"},
		{"payloads, all different", zst(repeated(pcapHead(), flood*2/3, func(i int) []byte { return record(numbered(i)) })), "0-----------3000"},
		{"packets of 0 bytes", zst(repeated(pcapHead(), flood, func(int) []byte { return record(nil) })), "00-00--"},
		{"fragments", zst(repeated(pcapHead(), flood/8, func(i int) []byte { return record(fragment(i, 0, 1400, true)) })), "0--0-00"},
		{"fragments of 8 bytes", zst(repeated(pcapHead(), flood/2, func(i int) []byte { return record(fragment(i>>8, 8*(i&0xFF)*3, 0, true)) })), "0--0---"},
		{"fragments that overlap", zst(repeated(pcapHead(), flood/8, func(i int) []byte { return record(fragment(i>>1, 8*(i&1), 100-92%16, true)) })), "0--0---"},
		{"statistics", zst(repeated(ngHead(), flood/2, func(i int) []byte { return format.AppendISB(nil, format.InterfaceStats{Dropped: uint64(i)}) })), "0-00-0---3033000"},
		{"damage", zst(repeated(ngHead(), flood/100, func(i int) []byte {
			return append(append(ngPacket(0, micros, p), bytes.Repeat([]byte{0xFF}, 8)...), ngPacket(0, micros, p)...)
		})), "3-33-3-3----3333"},
	}
}

// nativeFile makes castdeck's own files, true or not.
type nativeFile struct {
	b      []byte
	enc    *format.Encoder
	c      format.Compression
	index  format.Index
	footer format.Footer
	number uint32
}

var someRecording = format.UUID{1, 2, 3, 4}

func newNative(c format.Compression, info format.SegmentInfo, interfaces ...format.Interface) *nativeFile {
	enc, err := format.NewEncoder(c)
	if err != nil {
		panic(err)
	}
	info.Recording = someRecording
	n := &nativeFile{enc: enc, c: c}
	n.index.Recording, n.index.Interfaces = someRecording, interfaces
	n.footer.Recording = someRecording
	raw := ngSection()
	for _, i := range interfaces {
		raw = format.AppendIDB(raw, i)
	}
	return n.frame(format.AppendSegmentBlock(raw, &info))
}

func (n *nativeFile) frame(raw []byte) *nativeFile {
	b, err := n.enc.AppendFrame(n.b, raw)
	if err != nil {
		panic(err)
	}
	n.b = b
	return n
}

// chunk adds a chunk of these blocks; lie changes its header.
func (n *nativeFile) chunk(lie func(*format.ChunkHeader), datagrams int, blocks ...[]byte) *nativeFile {
	raw := format.BeginChunk(nil)
	for _, b := range blocks {
		raw = append(raw, b...)
	}
	h := format.ChunkHeader{Recording: someRecording, Number: n.number, Packets: uint32(datagrams), Datagrams: uint32(datagrams), First: someTime * 1e9, Last: someTime * 1e9}
	if lie != nil {
		lie(&h)
	}
	format.FinishChunk(raw, &h)
	at := int64(len(n.b))
	n.frame(raw)
	n.index.Chunks = append(n.index.Chunks, format.ChunkEntry{
		Offset: at, Size: uint32(int64(len(n.b)) - at), Raw: uint32(len(raw)), First: h.First, Last: h.Last,
		Packets: h.Packets, Datagrams: h.Datagrams, Bytes: h.Bytes, Dropped: h.Dropped,
	})
	if datagrams == 1 && len(n.index.Streams) == 0 {
		stream := streamOf(1)
		n.index.Streams = []format.Stream{{Src: stream.Src, Dst: stream.Dst, First: h.First, Last: h.Last}}
	}
	if datagrams == 1 {
		n.index.Streams[0].Datagrams++
		n.index.Streams[0].Bytes += 16
	}
	n.number++
	n.footer.Chunks++
	n.footer.Datagrams += uint64(h.Datagrams)
	n.footer.Bytes += h.Bytes
	return n
}

// seal adds index and footer; the functions change what they say.
func (n *nativeFile) seal(lieIndex func(*format.Index), lieBlock func([]byte) []byte, lieFooter func(*format.Footer)) []byte {
	if lieIndex != nil {
		lieIndex(&n.index)
	}
	at, raw := len(n.b), 0
	_ = n.index.Blocks(func(b []byte) error {
		if lieBlock != nil {
			b = lieBlock(bytes.Clone(b))
		}
		raw += len(b)
		n.frame(b)
		return nil
	})
	n.footer.IndexOffset, n.footer.IndexSize, n.footer.IndexRaw = int64(at), uint32(len(n.b)-at), uint32(raw)
	if lieFooter != nil {
		lieFooter(&n.footer)
	}
	b, err := n.enc.AppendStored(n.b, format.AppendFooter(nil, &n.footer))
	if err != nil {
		panic(err)
	}
	return b
}

func nativeFiles() []hostileFile {
	var files []hostileFile
	add := func(name, want string, fill func() []byte) {
		files = append(files, hostileFile{name, func(w io.Writer) error { _, err := w.Write(fill()); return err }, want})
	}
	eth := format.Interface{Name: "eth0", LinkType: 1}
	packet := ngPacket(0, someTime*1e9, packetOf(1, 16))
	fresh := func() *nativeFile {
		return newNative(format.Zstd, format.SegmentInfo{}, eth).chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, packet)
	}
	add("native: sound", "0000000", func() []byte { return fresh().seal(nil, nil, nil) })
	add("native: escapes", "0000000", func() []byte {
		i := format.Interface{Name: nasty, Description: nasty, LinkType: 1}
		return newNative(format.Zstd, format.SegmentInfo{Host: nasty, Clock: nasty, Subscriptions: []string{nasty, nasty}}, i).
			chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, packet).seal(nil, nil, nil)
	})
	add("native: opening bomb", "3-33-3-", func() []byte {
		b := append([]byte{0x28, 0xB5, 0x2F, 0xFD, 0, 0x58}, bytes.Repeat([]byte{0x02, 0x00, 0x10, 0}, 1<<15)...)
		b[len(b)-4] |= 1
		return append(b, fresh().b...)
	})
	add("native: chunk bomb", "0333330", func() []byte {
		n := fresh()
		b := append([]byte{0x28, 0xB5, 0x2F, 0xFD, 0, 0x58}, bytes.Repeat([]byte{0x02, 0x00, 0x10, 0}, 1<<15)...)
		b[len(b)-4] |= 1
		n.b = append(n.b, b...)
		return n.chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, packet).seal(nil, nil, nil)
	})
	tiny := ngPacket(0, someTime*1e9, nil)
	add("native: chunks of tiny packets", "0000000", func() []byte {
		n := newNative(format.Zstd, format.SegmentInfo{}, eth)
		const count = format.MaxChunkPackets
		all := bytes.Repeat(tiny, count)
		for range 6 {
			n.chunk(func(h *format.ChunkHeader) { h.Datagrams = 0 }, count, all)
		}
		return n.seal(nil, nil, func(f *format.Footer) { f.NotUDP = uint32(6 * count) })
	})
	add("native: subscriptions", "0000000", func() []byte {
		return newNative(format.Zstd, format.SegmentInfo{Subscriptions: make([]string, flood)}, eth).
			chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, packet).seal(nil, nil, nil)
	})
	add("native: interface 65535", "3--3-03", func() []byte {
		return newNative(format.Zstd, format.SegmentInfo{}, eth).
			chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, ngPacket(65535, someTime*1e9, packetOf(1, 16))).b
	})
	add("native: interfaces, described late", "3--3-03", func() []byte {
		raw := ngPacket(65535, someTime*1e9, packetOf(1, 16))
		for i := range uint16(65535) {
			raw = format.AppendNumberedIDB(raw, format.Interface{Name: strconv.Itoa(int(i)), LinkType: 1}, i)
		}
		return newNative(format.Zstd, format.SegmentInfo{}, eth).chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, raw).b
	})
	add("native: interfaces", "0-00-0-", func() []byte {
		n := newNative(format.Zstd, format.SegmentInfo{}, eth)
		var all []format.Interface
		for range 500 {
			all = append(all, format.Interface{Name: strings.Repeat("n", 65000), Description: strings.Repeat("d", 65000), LinkType: 1})
		}
		return n.chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, packet).seal(func(x *format.Index) { x.Interfaces = all }, nil, nil)
	})
	add("native: chunk counts", "0333330", func() []byte {
		return newNative(format.Zstd, format.SegmentInfo{}, eth).chunk(func(h *format.ChunkHeader) {
			h.Packets, h.Datagrams, h.Bytes, h.Dropped = math.MaxUint32, math.MaxUint32, math.MaxUint64, math.MaxUint64
		}, 1, packet).seal(nil, nil, nil)
	})
	add("native: chunks of nothing", "3-33-0-", func() []byte {
		n := newNative(format.Zstd, format.SegmentInfo{}, eth)
		for range flood / 5 {
			n.chunk(func(h *format.ChunkHeader) { h.First, h.Last = 0, 0 }, 0)
		}
		return n.b
	})
	add("native: many chunks", "0-0----", func() []byte {
		n := newNative(format.Zstd, format.SegmentInfo{}, eth)
		for range flood / 4 {
			n.chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1, packet)
		}
		return n.seal(nil, nil, nil)
	})
	add("native: index of 2^32-1", "3030003", func() []byte {
		return fresh().seal(nil, func(b []byte) []byte { return reseal(b, func(body []byte) { le.PutUint32(body[44:], math.MaxUint32) }) }, nil)
	})
	add("native: index of nothing", "3030000", func() []byte {
		n := fresh()
		return n.seal(func(x *format.Index) { x.Chunks = make([]format.ChunkEntry, flood) }, nil, func(f *format.Footer) { f.Chunks = flood })
	})
	for _, f := range []struct {
		name string
		lie  func(*format.Footer)
	}{
		{"outside", func(f *format.Footer) { f.IndexOffset = 1 << 40 }},
		{"at itself", func(f *format.Footer) { f.IndexOffset, f.IndexSize = f.IndexOffset+int64(f.IndexSize), 0 }},
		{"at 2^63", func(f *format.Footer) { f.IndexOffset = math.MinInt64 }},
		{"size 2^32", func(f *format.Footer) { f.IndexSize = math.MaxUint32 }},
		{"totals", func(f *format.Footer) {
			f.Datagrams, f.Bytes, f.Dropped = math.MaxUint64, math.MaxUint64, math.MaxUint64
		}},
		{"2^32 chunk", func(f *format.Footer) { f.Chunks = math.MaxUint32 }},
	} {
		add("native: footer "+f.name, "303--0-", func() []byte { return fresh().seal(nil, nil, f.lie) })
	}
	add("native: version 2", "1--1-1-", func() []byte {
		raw := format.AppendSegmentBlock(ngSection(), &format.SegmentInfo{Recording: someRecording})
		le.PutUint16(raw[len(ngSection())+16:], 2)
		return raw
	})
	add("native: unknown flags", "0000000", func() []byte {
		return newNative(format.Zstd, format.SegmentInfo{}, eth).chunk(func(h *format.ChunkHeader) { h.Bytes = 16 }, 1,
			ngPacket(0, someTime*1e9, packetOf(1, 16), ngOption(0x8CD1, []byte{0, 0, 0xFF, 0xFF}))).seal(nil, nil, nil)
	})
	add("native: two", "3030000", func() []byte {
		one := fresh().seal(nil, nil, nil)
		return append(bytes.Clone(one), one...)
	})
	add("native: streams", "3-33-03", func() []byte {
		n := newNative(format.Zstd, format.SegmentInfo{}, eth)
		for k := range 4 {
			var raw []byte
			for i := range format.MaxChunkPackets {
				raw = append(raw, ngPacket(0, someTime*1e9, packetOf(k<<15+i, 0))...)
			}
			n.chunk(nil, format.MaxChunkPackets, raw)
		}
		return n.b
	})
	return files
}

// reseal changes the body of one of castdeck's blocks and gives it a right checksum.
func reseal(b []byte, change func(body []byte)) []byte {
	body := b[8 : len(b)-4]
	change(body)
	le.PutUint32(body[12:], 0)
	le.PutUint32(body[12:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return b
}
