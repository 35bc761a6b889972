package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"castdeck/format"
)

// diskFS is the system's files with faults: the fail-th operation returns err, and no
// more than room bytes are held at one time.
type diskFS struct {
	mu     sync.Mutex
	fail   int // 1 is the first operation; 0 none
	err    error
	ops    int
	failed string
	room   int64 // 0 is no limit
	used   int64
	sizes  map[string]int64
	opened int
	block  func(op, path string) // called before every operation
}

func (d *diskFS) op(name, path string) error {
	if d.block != nil {
		d.block(name, path)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops++
	if d.ops == d.fail {
		d.failed = name
		return &fs.PathError{Op: name, Path: path, Err: d.err}
	}
	return nil
}

// grow books a file's new size.
func (d *diskFS) grow(path string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	more := size - d.sizes[path]
	if d.room > 0 && d.used+more > d.room && more > 0 {
		return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
	}
	d.used += more
	d.sizes[path] = size
	return nil
}

func (d *diskFS) free(string) (int64, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.room - d.used, d.room, nil
}

func (d *diskFS) setRoom(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = n
}

func (d *diskFS) Create(path string, overwrite bool) (File, error) {
	if err := d.op("open", path); err != nil {
		return nil, err
	}
	f, err := OS.Create(path, overwrite)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sizes == nil {
		d.sizes = make(map[string]int64)
	}
	d.opened++
	return &diskFile{f, d, path}, nil
}

func (d *diskFS) Remove(path string) error {
	if err := d.op("unlink", path); err != nil {
		return err
	}
	_ = d.grow(path, 0)
	return OS.Remove(path)
}

func (d *diskFS) SyncDir(path string) error { return d.op("fsync folder", path) }

type diskFile struct {
	File
	d    *diskFS
	path string
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.d.op("write", f.path); err != nil {
		return 0, err
	}
	if err := f.d.grow(f.path, off+int64(len(p))); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off) // as a full disk does
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f *diskFile) Truncate(size int64) error {
	if err := f.d.op("truncate", f.path); err != nil {
		return err
	}
	_ = f.d.grow(f.path, size)
	return f.File.Truncate(size)
}

func (f *diskFile) Sync() error {
	if f.d.block == nil && f.d.fail == 0 {
		return nil // the machine's disk is not what is tested
	}
	return f.d.op("fdatasync", f.path)
}

func (f *diskFile) Allocate(int64, int64) error    { return f.d.op("fallocate", f.path) }
func (f *diskFile) WriteBehind(int64, int64) error { return nil }

func (f *diskFile) Close() error {
	err := f.File.Close()
	f.d.mu.Lock()
	f.d.opened--
	f.d.mu.Unlock()
	return errors.Join(f.d.op("close", f.path), err)
}

// fakeClock stands still until it is moved.
type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// epoch is 2023-11-14 22:13:20 UTC.
const epoch = 1_700_000_000_000_000_000

// eventLog gathers what a series tells.
type eventLog struct {
	mu   sync.Mutex
	list []Event
}

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *eventLog) of(k EventKind) (list []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.list {
		if e.Kind == k {
			list = append(list, e)
		}
	}
	return list
}

// seriesOptions makes segments of small chunks at dir/name.
func seriesOptions(t testing.TB, dir, name string, numbered bool) (SeriesOptions, *fakeClock, *eventLog) {
	t.Helper()
	n, err := ParseNames(filepath.Join(dir, name), numbered)
	if err != nil {
		t.Fatal(err)
	}
	id, clock, log := NewUUID(), &fakeClock{t: time.Unix(0, epoch)}, &eventLog{}
	return SeriesOptions{
		Names: n, Now: clock.now, Event: log.add, FS: &diskFS{},
		Create: func(path string, number uint32, fs FS) (Part, error) {
			o := options(format.None)
			o.Info.Recording, o.Info.Number, o.FS, o.ChunkSize = id, number, fs, minChunkSize
			return Create(path, o)
		},
	}, clock, log
}

func openSeries(t testing.TB, o SeriesOptions) *Series {
	t.Helper()
	s, err := OpenSeries(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Begin(); err != nil {
		t.Fatal(err)
	}
	return s
}

// sequence makes n datagrams from number first on, step ns apart, with their number as
// payload.
func sequence(first, n int, step int64) []format.Datagram {
	ds := make([]format.Datagram, n)
	for i := range ds {
		k := first + i
		ds[i] = format.Datagram{
			Time: epoch + int64(k)*step, Interface: uint16(k % 2),
			Src:     netip.MustParseAddrPort("10.0.0.1:4000"),
			Dst:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(k % 2)}), 5000),
			Payload: binary.BigEndian.AppendUint64(make([]byte, 0, 64), uint64(k))[:64], Length: 64,
		}
	}
	return ds
}

func number(d *format.Datagram) int { return int(binary.BigEndian.Uint64(d.Payload)) }

// readSeries reads all files of dir that end in .pcapng as one recording.
func readSeries(t testing.TB, dir string) (ds []format.Datagram, r *Recording) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.pcapng"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	if r, err = OpenRecording(paths, ReadOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	ds, damage := readRecording(t, r)
	if len(damage) > 0 {
		t.Fatal(damage[0])
	}
	return ds, r
}

func writeAll(t testing.TB, s *Series, ds []format.Datagram, batch int) {
	t.Helper()
	for b := range slices.Chunk(ds, batch) {
		if err := s.WriteBatch(&format.Batch{Datagrams: b}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyRotations: 10,000 segments of 10 ms. Descriptors and memory stay flat, and
// no datagram is lost or doubled.
func TestManyRotations(t *testing.T) {
	rotations := 10_000
	if testing.Short() {
		rotations = 500
	}
	dir := t.TempDir()
	o, _, log := seriesOptions(t, dir, "feed.pcapng", true)
	o.Rotate.Every = 10 * time.Millisecond
	disk := o.FS.(*diskFS)
	s := openSeries(t, o)
	const each, step = 5, int64(2 * time.Millisecond)
	var memory [2]uint64
	most := 0
	for i := 0; i < rotations*each; i += 7 { // batches across the cuts
		if err := s.WriteBatch(&format.Batch{Datagrams: sequence(i, min(7, rotations*each-i), step)}); err != nil {
			t.Fatal(err)
		}
		disk.mu.Lock()
		most = max(most, disk.opened)
		disk.mu.Unlock()
		if at := rotations * each; i/7 == at/7/10 || i/7 == at/7*9/10 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			memory[i/7/(at/7/2)] = m.HeapAlloc
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if most > maxSealing+2 {
		t.Errorf("%d files were open at the same time", most)
	}
	if disk.opened != 0 {
		t.Errorf("%d files are left open", disk.opened)
	}
	// The list of what was sealed grows; nothing else does.
	if grown := int64(memory[1]) - int64(memory[0]); grown > int64(rotations)*1024+8<<20 {
		t.Errorf("memory grew from %d to %d bytes", memory[0], memory[1])
	}
	sealed := log.of(EventSealed)
	if len(sealed) != rotations {
		t.Fatalf("%d segments sealed, want %d", len(sealed), rotations)
	}
	for i, e := range sealed {
		if e.Number != uint32(i) || e.Datagrams != each || e.First != epoch+int64(i*each)*step {
			t.Fatalf("segment %d: %+v", i, e)
		}
	}
	got, r := readSeries(t, dir)
	if len(r.Segments()) != rotations || len(got) != rotations*each {
		t.Fatalf("%d segments with %d datagrams, want %d with %d", len(r.Segments()), len(got), rotations, rotations*each)
	}
	for i := range got {
		if number(&got[i]) != i {
			t.Fatalf("datagram %d stands at place %d", number(&got[i]), i)
		}
	}
}

// TestRotateExactly: by count and time the cut is at the datagram.
func TestRotateExactly(t *testing.T) {
	cases := []struct {
		why    string
		rotate Rotate
		want   []int // datagrams of each segment, of 100, 1 s apart from 22:13:20 on
	}{
		{"a count that divides", Rotate{Datagrams: 25}, []int{25, 25, 25, 25}},
		{"a count that does not", Rotate{Datagrams: 30}, []int{30, 30, 30, 10}},
		{"one", Rotate{Datagrams: 1}, slices.Repeat([]int{1}, 100)},
		{"whole minutes, not minutes from the start", Rotate{Every: time.Minute}, []int{40, 60}},
		{"whole hours", Rotate{Every: time.Hour}, []int{100}},
		{"whichever comes first", Rotate{Every: time.Minute, Datagrams: 50}, []int{40, 50, 10}},
		{"a step that divides no minute", Rotate{Every: 7 * time.Second}, slices.Concat([]int{1}, slices.Repeat([]int{7}, 14), []int{1})},
	}
	for _, c := range cases {
		for _, batch := range []int{1, 13, 100} {
			dir := t.TempDir()
			o, _, log := seriesOptions(t, dir, "feed.pcapng", true)
			o.Rotate = c.rotate
			s := openSeries(t, o)
			ds := sequence(0, 100, int64(time.Second))
			writeAll(t, s, ds, batch)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, e := range log.of(EventSealed) {
				got = append(got, int(e.Datagrams))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s, batches of %d: %v, want %v", c.why, batch, got, c.want)
			}
			back, _ := readSeries(t, dir)
			compare(t, back, ds)
		}
	}
}

// TestRotateBySize: a segment ends with the chunk that reaches the size.
func TestRotateBySize(t *testing.T) {
	dir := t.TempDir()
	o, _, log := seriesOptions(t, dir, "feed.pcapng", true)
	o.Rotate.Bytes = 64 << 10
	s := openSeries(t, o)
	ds := sequence(0, 5000, 1000)
	writeAll(t, s, ds, 10)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sealed := log.of(EventSealed)
	if len(sealed) < 5 {
		t.Fatalf("%d segments", len(sealed))
	}
	for _, e := range sealed[:len(sealed)-1] {
		if e.FileBytes < 64<<10 || e.FileBytes > 64<<10+5*minChunkSize {
			t.Errorf("%s has %d bytes", e.Path, e.FileBytes)
		}
	}
	got, _ := readSeries(t, dir)
	compare(t, got, ds)
}

// TestIdleSegmentEnds: a segment whose time is over is sealed by the clock where
// nothing comes any more, and no empty one follows.
func TestIdleSegmentEnds(t *testing.T) {
	dir := t.TempDir()
	o, clock, log := seriesOptions(t, dir, "feed.pcapng", true)
	o.Rotate.Every = time.Minute
	s := openSeries(t, o)
	writeAll(t, s, sequence(0, 10, 1000), 10)
	tick := func(d time.Duration) {
		clock.move(d)
		if err := s.Tick(); err != nil {
			t.Fatal(err)
		}
		s.sealing.Wait()
	}
	tick(39 * time.Second)
	if n := len(log.of(EventSealed)); n != 0 {
		t.Fatal("sealed before its time")
	}
	tick(2 * time.Second)
	if n := len(log.of(EventSealed)); n != 1 {
		t.Fatalf("%d segments sealed after the end of its time", n)
	}
	tick(10 * time.Minute)
	writeAll(t, s, sequence(1_000_000, 10, int64(time.Millisecond)), 10)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(log.of(EventSealed)); n != 2 {
		t.Fatalf("%d segments sealed, want 2", n)
	}
	_, r := readSeries(t, dir)
	if len(r.Problems()) > 0 {
		t.Error(r.Problems()[0])
	}
}

func TestNames(t *testing.T) {
	at := time.Unix(0, epoch+5)
	cases := []struct {
		why, path string
		numbered  bool
		first     string
		third     string
		yes, no   []string
	}{
		{"a plain name", "d/feed.pcapng.zst", false, "d/feed.pcapng.zst", "d/feed-00003.pcapng.zst",
			[]string{"feed.pcapng.zst", "feed-00002.pcapng.zst"}, []string{"feed-2.pcapng.zst", "feed2.pcapng.zst", "feed.pcapng", "xfeed.pcapng.zst"}},
		{"a number", "feed.pcapng", true, "feed-00001.pcapng", "feed-00003.pcapng",
			[]string{"feed-00001.pcapng", "feed-123456.pcapng"}, []string{"feed.pcapng", "feed-1.pcapng", "feed-00001.pcapng.zst", "feed-00001xpcapng", "feed-00000.pcapng"}},
		{"a time", "d/f-%Y%m%d-%H%M%S.pcapng.gz", true, "d/f-20231114-221320.pcapng.gz", "d/f-20231114-221320-00003.pcapng.gz",
			[]string{"f-20231114-221320.pcapng.gz", "f-19700101-000000-00002.pcapng.gz"}, []string{"f-2023-221320.pcapng.gz", "f-%Y%m%d-%H%M%S.pcapng.gz"}},
		{"other verbs, and a percent sign", "100%%-%F_%j_%y_%s.pcap", false, "100%-2023-11-14_318_23_1700000000.pcap",
			"100%-2023-11-14_318_23_1700000000-00003.pcap", []string{"100%-2023-11-14_318_23_1700000000.pcap"}, []string{"100-2023-11-14_318_23_1.pcap"}},
		{"characters that mean something in patterns", "a.b[c](1)+.pcapng", true, "a.b[c](1)+-00001.pcapng", "a.b[c](1)+-00003.pcapng",
			[]string{"a.b[c](1)+-00001.pcapng"}, []string{"axb[c](1)+-00001.pcapng"}},
		{"no known end", "feed.bin", true, "feed-00001.bin", "feed-00003.bin", nil, nil},
	}
	for _, c := range cases {
		n, err := ParseNames(c.path, c.numbered)
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
			continue
		}
		if got := n.Path(at, 1); got != c.first {
			t.Errorf("%s: first name %s, want %s", c.why, got, c.first)
		}
		if got := n.Path(at, 3); got != c.third {
			t.Errorf("%s: third name %s, want %s", c.why, got, c.third)
		}
		for _, name := range c.yes {
			if _, ok := n.number(name); !ok {
				t.Errorf("%s: %s is not known again", c.why, name)
			}
		}
		for _, name := range c.no {
			if _, ok := n.number(name); ok {
				t.Errorf("%s: %s counts as one of the series", c.why, name)
			}
		}
	}
	for _, bad := range []string{"", "d/", "feed-%Q.pcapng", "feed-%.pcapng", "feed%", "%Y/feed.pcapng", "feed-%H:%T.pcapng"} {
		if _, err := ParseNames(bad, false); err == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
}

// TestRestart: a second run goes on behind the first, overwrites nothing, and counts
// the first one's segments in its limits.
func TestRestart(t *testing.T) {
	for _, name := range []string{"feed.pcapng", "feed-%Y%m%d-%H%M.pcapng"} {
		dir := t.TempDir()
		// None of these is a sealed segment of the series, whatever its name says.
		strangers := map[string][]byte{}
		foreign := func(name string, content []byte) {
			strangers[name] = content
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		sealed, err := os.ReadFile(write(t, format.None, feed(1, 100), true))
		if err != nil {
			t.Fatal(err)
		}
		foreign("feed-00000.pcapng", sealed)                             // no number of ours
		foreign("other-00001.pcapng", sealed)                            // another name
		foreign("feed-00007.pcapng", sealed[:len(sealed)-50])            // cut off
		foreign("feed-20200101-0000.pcapng", []byte("a text of mine\n")) // no capture
		foreign("feed-00008.pcapng", nil)

		var all []string
		for run := range 3 {
			o, clock, log := seriesOptions(t, dir, name, true)
			clock.move(time.Duration(run) * time.Hour)
			o.Rotate.Datagrams, o.Keep.Segments = 10, 4
			s := openSeries(t, o)
			ds := sequence(run*40, 40, 1000)
			for i := range ds {
				ds[i].Time += int64(run) * int64(time.Hour)
			}
			writeAll(t, s, ds, 7)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, e := range log.of(EventSealed) {
				if slices.Contains(all, e.Path) {
					t.Errorf("run %d wrote %s again", run, e.Path)
				}
				all = append(all, e.Path)
			}
			for name, content := range strangers {
				got, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || string(got) != string(content) {
					t.Errorf("run %d: %s: %v", run, name, err)
				}
			}
			var there []string
			for _, p := range all {
				if _, err := os.Stat(p); err == nil {
					there = append(there, p)
				}
			}
			if !slices.Equal(there, all[len(all)-4:]) {
				t.Errorf("%s: run %d leaves %v of %v, want the last 4", name, run, there, all)
			}
			if n := s.Totals(); n.Deleted != len(log.of(EventDeleted)) || run > 0 && n.Deleted != 4 {
				t.Errorf("run %d: %d deleted, %d told", run, n.Deleted, len(log.of(EventDeleted)))
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// TestKeep: by size and age too, and never the open segment.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	o, clock, log := seriesOptions(t, dir, "feed.pcapng", true)
	o.Rotate.Datagrams, o.Keep.Bytes = 50, 30<<10
	s := openSeries(t, o)
	for i := 0; i < 1000; i += 10 {
		writeAll(t, s, sequence(i, 10, 1000), 10)
		s.sealing.Wait()
		if err := s.Tick(); err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		files, _ := filepath.Glob(filepath.Join(dir, "feed-*"))
		for _, f := range files {
			if st, err := os.Stat(f); err == nil {
				total += st.Size()
			}
		}
		if total > o.Keep.Bytes {
			t.Fatalf("%d bytes are left after %d datagrams", total, i)
		}
	}
	if len(log.of(EventDeleted)) == 0 {
		t.Fatal("nothing was deleted")
	}
	// Age, of what this run has sealed.
	s.keeper.enforce(Keep{Age: time.Hour}, 0, clock.now())
	before := s.Totals().Deleted
	clock.move(2 * time.Hour)
	s.sealing.Wait() // it looks at the limits
	s.o.Keep = Keep{Age: time.Hour}
	if err := s.Tick(); err != nil {
		t.Fatal(err)
	}
	if s.Totals().Deleted == before {
		t.Error("nothing is too old after 2 h")
	}
	if err := s.Rotate(); err != nil {
		t.Fatal(err)
	}
	writeAll(t, s, sequence(1000, 1, 1000), 1)
	s.sealing.Wait()
	s.o.Keep = Keep{Segments: 1}
	if err := s.Tick(); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "feed-*")); len(files) != 1 {
		t.Errorf("with one to keep, the open one: %v", files)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestSecondRecorder: the names are taken also between two segments.
func TestSecondRecorder(t *testing.T) {
	dir := t.TempDir()
	o, _, _ := seriesOptions(t, dir, "feed.pcapng", true)
	s := openSeries(t, o)
	writeAll(t, s, sequence(0, 1, 1), 1)
	if err := s.Rotate(); err != nil {
		t.Fatal(err)
	}
	s.sealing.Wait() // no file is open now
	if _, err := OpenSeries(o); !errors.Is(err, ErrLocked) {
		t.Errorf("a second recorder gets %v", err)
	}
	other, _, _ := seriesOptions(t, dir, "other.pcapng", true)
	openSeries(t, other)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openSeries(t, o)
}

// TestSeriesEveryOperationFails: over several rotations the n-th operation fails, for
// every n: the error surfaces or does no harm, nothing is left open or locked, and
// what counts as written can be read.
func TestSeriesEveryOperationFails(t *testing.T) {
	ds := sequence(0, 200, 1000)
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for _, policy := range []OnFull{FullStop, FullDelete, FullPause} {
			seen := map[string]bool{}
			step := 1
			if testing.Short() {
				step = 5
			}
			for n := 1; ; n += step {
				dir := t.TempDir()
				o, clock, _ := seriesOptions(t, dir, "feed.pcapng", true)
				o.Rotate.Datagrams, o.OnFull, o.Keep.Segments = 30, policy, 5
				disk := o.FS.(*diskFS)
				disk.fail, disk.err = n, cause
				disk.room = 1 << 40
				o.Free = disk.free
				what := func() string { return fmt.Sprintf("operation %d (%s), %v, %s", n, disk.failed, cause, policy) }
				s, err := OpenSeries(o)
				var totals SeriesTotals
				given := 0
				if err == nil {
					err = s.Begin()
					for b := range slices.Chunk(ds, 20) {
						if err != nil {
							break
						}
						given += len(b)
						if err = s.WriteBatch(&format.Batch{Datagrams: b}); err == nil {
							err = s.Flush()
						}
						s.sealing.Wait() // so that operations come in order
						if err != nil {
							break
						}
						clock.move(2 * time.Second)
						if err = s.Tick(); err != nil {
							break
						}
					}
					cerr := s.Close()
					if err != nil && cerr == nil {
						t.Errorf("%s: close forgot %v", what(), err)
					}
					err = cerr
					totals = s.Totals()
				}
				if disk.opened != 0 {
					t.Errorf("%s: %d files left open", what(), disk.opened)
				}
				if _, err := os.Stat(o.Names.lockPath()); err == nil {
					t.Errorf("%s: the lock is left", what())
				}
				if disk.failed == "" {
					if err != nil {
						t.Fatalf("no fault, yet %v", err)
					}
					break
				}
				seen[disk.failed] = true
				harmless := disk.failed == "fallocate" || disk.failed == "fsync folder" || disk.failed == "unlink"
				retried := cause == syscall.ENOSPC && policy == FullDelete && (disk.failed == "write" || disk.failed == "open")
				lossy := cause == syscall.ENOSPC && policy == FullPause
				switch {
				case harmless && err != nil:
					t.Errorf("%s: %v", what(), err)
				case !harmless && !retried && !lossy && !errors.Is(err, cause):
					t.Errorf("%s: the run returned %v", what(), err)
				}
				if lossy && err == nil && int(totals.Datagrams+totals.Lost) != given {
					t.Errorf("%s: %d written + %d lost, %d given", what(), totals.Datagrams, totals.Lost, given)
				}
				// What is not deleted can be read, and is what was written.
				read := 0
				files, _ := filepath.Glob(filepath.Join(dir, "feed-*"))
				for _, f := range files {
					r, err := Open(f, ReadOptions{})
					if err != nil {
						if st, serr := os.Stat(f); serr == nil && st.Size() == 0 {
							continue
						}
						t.Errorf("%s: %v", what(), err)
						continue
					}
					got, _ := readAll(t, r)
					r.Close()
					read += len(got)
					for i := range got {
						if k := number(&got[i]); !slices.Equal(got[i].Payload, ds[k].Payload) || i > 0 && k <= number(&got[i-1]) {
							t.Fatalf("%s: %s holds %d behind %d", what(), f, k, number(&got[i-1]))
						}
					}
				}
				if totals.Deleted == 0 && read != int(totals.Datagrams) {
					t.Errorf("%s: %d datagrams can be read, %d count as written", what(), read, totals.Datagrams)
				}
			}
			for _, op := range []string{"open", "write", "truncate", "fdatasync", "close", "unlink"} {
				if !seen[op] && !testing.Short() {
					t.Errorf("%s never failed", op)
				}
			}
		}
	}
}

// TestFullDisk: the three policies on a disk with room for a few segments.
func TestFullDisk(t *testing.T) {
	const room = 40 << 10
	run := func(t *testing.T, policy OnFull, n int) (*Series, *diskFS, *fakeClock, *eventLog, string, error) {
		dir := t.TempDir()
		o, clock, log := seriesOptions(t, dir, "feed.pcapng", true)
		disk := o.FS.(*diskFS)
		disk.room = room
		o.Rotate.Datagrams, o.OnFull, o.Free = 50, policy, disk.free
		s := openSeries(t, o)
		for b := range slices.Chunk(sequence(0, n, 1000), 20) {
			if err := s.WriteBatch(&format.Batch{Datagrams: b}); err != nil {
				return s, disk, clock, log, dir, err
			}
		}
		return s, disk, clock, log, dir, nil
	}
	t.Run("stop", func(t *testing.T) {
		s, _, _, _, dir, err := run(t, FullStop, 1000)
		if err == nil {
			err = s.Close()
		} else {
			s.Close()
		}
		if !IsFull(err) || !strings.Contains(err.Error(), "feed-0") {
			t.Fatalf("a full disk gives %v", err)
		}
		got, _ := readSeries(t, dir)
		if n := s.Totals().Datagrams; n == 0 || int(n) != len(got) {
			t.Errorf("%d count as written, %d can be read", n, len(got))
		}
		compare(t, got, sequence(0, len(got), 1000))
	})
	t.Run("delete-oldest", func(t *testing.T) {
		s, disk, _, log, dir, err := run(t, FullDelete, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n := s.Totals(); n.Datagrams != 1000 || n.Lost != 0 || n.Deleted == 0 || n.Deleted != len(log.of(EventDeleted)) {
			t.Errorf("%+v", n)
		}
		if disk.used > room {
			t.Errorf("%d bytes on a disk of %d", disk.used, room)
		}
		got, _ := readSeries(t, dir)
		if len(got) < 200 {
			t.Errorf("only %d datagrams are left", len(got))
		}
		compare(t, got, sequence(1000-len(got), len(got), 1000))
	})
	t.Run("delete-oldest with nothing to delete", func(t *testing.T) {
		o, _, _ := seriesOptions(t, t.TempDir(), "feed.pcapng", true)
		disk := o.FS.(*diskFS)
		disk.room, o.OnFull = room, FullDelete
		s := openSeries(t, o) // one segment that never ends
		var err error
		for i := 0; err == nil && i < 1000; i += 20 {
			err = s.WriteBatch(&format.Batch{Datagrams: sequence(i, 20, 1000)})
		}
		if !IsFull(err) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("pause", func(t *testing.T) {
		s, disk, clock, log, dir, err := run(t, FullPause, 600)
		if err != nil {
			t.Fatal(err)
		}
		sent := uint64(600)
		if !s.Totals().Paused || len(log.of(EventPaused)) != 1 {
			t.Fatalf("not paused: %+v", s.Totals())
		}
		clock.move(2 * time.Second)
		if err := s.Tick(); err != nil || !s.Totals().Paused {
			t.Fatalf("goes on without room: %v", err)
		}
		disk.setRoom(10 * room)
		clock.move(2 * time.Second)
		if err := s.Tick(); err != nil || s.Totals().Paused || len(log.of(EventResumed)) != 1 {
			t.Fatalf("does not go on: %v", err)
		}
		writeAll(t, s, sequence(600, 100, 1000), 20)
		sent += 100
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		n := s.Totals()
		if n.Datagrams+n.Lost != sent || n.Lost == 0 {
			t.Errorf("%d written + %d lost, %d sent", n.Datagrams, n.Lost, sent)
		}
		got, r := readSeries(t, dir)
		dropped := tallied(t, r)
		if uint64(len(got))+dropped != sent || uint64(len(got)) != n.Datagrams {
			t.Errorf("the files hold %d and tell %d lost, %d sent", len(got), dropped, sent)
		}
		if last := number(&got[len(got)-1]); last != 699 {
			t.Errorf("the last one is %d", last)
		}
	})
}

// tallied is what the files of a recording tell of losses, added up.
func tallied(t testing.TB, r *Recording) (dropped uint64) {
	t.Helper()
	for _, s := range r.Segments() {
		var tally format.Tally
		rd := open(t, s.Path)
		var b format.Batch
		for rd.ReadBatch(&b) == nil {
			tally.Add(&b)
		}
		dropped += tally.Dropped
	}
	return dropped
}

// TestMinFree: less than MinFree left is a full disk.
func TestMinFree(t *testing.T) {
	for _, policy := range []OnFull{FullStop, FullDelete, FullPause} {
		dir := t.TempDir()
		o, clock, log := seriesOptions(t, dir, "feed.pcapng", true)
		disk := o.FS.(*diskFS)
		disk.room = 100 << 10
		o.Rotate.Datagrams, o.OnFull, o.Free, o.MinFree = 50, policy, disk.free, 50<<10
		s := openSeries(t, o)
		var err error
		for i := 0; err == nil && i < 1000; i += 20 {
			if err = s.WriteBatch(&format.Batch{Datagrams: sequence(i, 20, 1000)}); err == nil {
				s.sealing.Wait()
				clock.move(6 * time.Second)
				err = s.Tick()
			}
		}
		cerr := s.Close()
		n := s.Totals()
		free, _, _ := disk.free("")
		if free < 40<<10 {
			t.Errorf("%s: %d bytes free at the end", policy, free)
		}
		switch policy {
		case FullStop:
			if err == nil || !strings.Contains(err.Error(), "are free") || cerr == nil || n.Datagrams == 0 {
				t.Errorf("stop: %v, %v, %+v", err, cerr, n)
			}
		case FullDelete:
			if err != nil || cerr != nil || n.Lost > 0 || n.Deleted == 0 || n.Datagrams != 1000 {
				t.Errorf("delete-oldest: %v, %v, %+v", err, cerr, n)
			}
		case FullPause:
			if err != nil || cerr != nil || n.Lost == 0 || n.Datagrams+n.Lost != 1000 || len(log.of(EventPaused)) != 1 {
				t.Errorf("pause: %v, %v, %+v", err, cerr, n)
			}
		}
		_, r := readSeries(t, dir)
		if policy == FullPause && !r.Sealed() {
			t.Error("pause at the limit leaves a segment unsealed")
		}
	}
}

// TestLossesAddUp: whatever is lost and wherever the files are cut, what they hold and
// what they tell as lost is what was sent.
func TestLossesAddUp(t *testing.T) {
	runs := uint64(60)
	if testing.Short() {
		runs = 10
	}
	for seed := range runs {
		r := rand.New(rand.NewPCG(seed, 7))
		dir := t.TempDir()
		o, clock, _ := seriesOptions(t, dir, "feed.pcapng", true)
		disk := o.FS.(*diskFS)
		disk.room = 1 << 40
		o.OnFull, o.Free = FullPause, disk.free
		if r.IntN(2) == 0 {
			o.Rotate.Datagrams = uint64(1 + r.IntN(40))
		}
		s := openSeries(t, o)
		var sent, received, next uint64
		dropped := [2]uint64{} // by interface
		told := [2]uint64{}    // of them, by datagrams
		for range 60 {
			ds := sequence(int(next), r.IntN(40), 1000)
			next += uint64(len(ds))
			sent += uint64(len(ds))
			received += uint64(len(ds))
			for i := range ds {
				ifc := ds[i].Interface
				if r.IntN(8) == 0 {
					n := uint64(r.IntN(5))
					dropped[ifc] += n
					sent += n
				}
				// Totals may have told of it first: datagrams follow.
				if r.IntN(3) == 0 {
					ds[i].Drops = dropped[ifc] - told[ifc]
					told[ifc] = dropped[ifc]
				}
			}
			b := format.Batch{Datagrams: ds}
			if r.IntN(3) == 0 {
				for i := range dropped {
					b.Stats = append(b.Stats, format.InterfaceStats{Interface: uint16(i), Time: epoch, Dropped: dropped[i], KernelDropped: dropped[i]})
				}
			}
			before := slices.Clone(ds)
			stats := slices.Clone(b.Stats)
			if err := s.WriteBatch(&b); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(b.Stats, stats) {
				t.Fatal("the batch's totals were changed")
			}
			for i := range ds {
				if !same(&ds[i], &before[i]) {
					t.Fatal("the batch was changed")
				}
			}
			var err error
			switch r.IntN(8) {
			case 0:
				err = s.Rotate()
			case 1:
				err = s.Flush()
			case 2:
				disk.setRoom(1) // full
			case 3:
				disk.setRoom(1 << 40)
				clock.move(2 * time.Minute)
				err = s.Tick()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		disk.setRoom(1 << 40)
		clock.move(2 * time.Minute)
		s.sealing.Wait()
		for range 3 {
			if err := s.Tick(); err != nil {
				t.Fatal(err)
			}
			clock.move(2 * time.Minute)
		}
		b := format.Batch{}
		for i := range dropped {
			b.Stats = append(b.Stats, format.InterfaceStats{Interface: uint16(i), Time: epoch, Dropped: dropped[i], KernelDropped: dropped[i]})
		}
		if err := s.WriteBatch(&b); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		n := s.Totals()
		if n.Datagrams+n.Lost != received {
			t.Fatalf("seed %d: %d written + %d lost, %d received", seed, n.Datagrams, n.Lost, received)
		}
		got, rec := readSeries(t, dir)
		if d := tallied(t, rec); uint64(len(got))+d != sent {
			t.Fatalf("seed %d: the files hold %d and tell %d lost, %d sent (%d dropped before the series, %d by it)",
				seed, len(got), d, sent, dropped[0]+dropped[1], n.Lost)
		}
	}
}

// TestSealingDoesNotStall: while the disk hangs making segments durable, the next ones
// are written.
func TestSealingDoesNotStall(t *testing.T) {
	dir := t.TempDir()
	o, _, log := seriesOptions(t, dir, "feed.pcapng", true)
	o.Rotate.Datagrams = 10
	release := make(chan struct{})
	o.FS = &diskFS{block: func(op, _ string) {
		if op == "fdatasync" {
			<-release
		}
	}}
	s := openSeries(t, o)
	writeAll(t, s, sequence(0, 10*maxSealing, 1000), 7) // returns
	if n := len(log.of(EventSealed)); n != 0 {
		t.Errorf("%d segments sealed while the disk hangs", n)
	}
	close(release)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, _ := readSeries(t, dir)
	compare(t, got, sequence(0, 10*maxSealing, 1000))
}

// TestMaxBytes: the series takes no more once it has so many bytes.
func TestMaxBytes(t *testing.T) {
	dir := t.TempDir()
	o, _, _ := seriesOptions(t, dir, "feed.pcapng", true)
	o.MaxBytes, o.Rotate.Datagrams = 100<<10, 200
	s := openSeries(t, o)
	writeAll(t, s, sequence(0, 5000, 1000), 10)
	if !s.Reached() {
		t.Error("not reached")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	n := s.Totals()
	if n.Datagrams+n.Passed != 5000 || n.FileBytes < o.MaxBytes || n.FileBytes > o.MaxBytes+3*minChunkSize {
		t.Errorf("%+v", n)
	}
	got, _ := readSeries(t, dir)
	compare(t, got, sequence(0, len(got), 1000))
}

// TestFolderGoesAway: segments so far are told, and the error names the place.
func TestFolderGoesAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	o, _, _ := seriesOptions(t, dir, "feed.pcapng", true)
	o.Rotate.Datagrams = 10
	s := openSeries(t, o)
	writeAll(t, s, sequence(0, 10, 1000), 10)
	if err := s.Rotate(); err != nil {
		t.Fatal(err)
	}
	s.sealing.Wait()
	away := dir + "-away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	err := s.WriteBatch(&format.Batch{Datagrams: sequence(10, 10, 1000)})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	if again := s.WriteBatch(&format.Batch{Datagrams: sequence(20, 1, 1000)}); again == nil {
		t.Error("goes on after an error")
	}
	s.Close()
	got, _ := readSeries(t, away)
	compare(t, got, sequence(0, 10, 1000))
}
