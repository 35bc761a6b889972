package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"castdeck/format"
)

// writeSegment makes segment number n of a recording in dir.
func writeSegment(t testing.TB, dir, name string, id format.UUID, n uint32, ds []format.Datagram, seal bool) string {
	t.Helper()
	o := options(format.Zstd)
	o.Info.Recording, o.Info.Number, o.ChunkSize = id, n, 8<<10
	path := filepath.Join(dir, name)
	w, err := Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := range slices.Chunk(ds, 29) {
		if err := w.WriteBatch(&format.Batch{Datagrams: chunk}); err != nil {
			t.Fatal(err)
		}
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

// segments cuts ds into n sealed segments and returns their paths in order.
func segments(t testing.TB, id format.UUID, n int, ds []format.Datagram) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	each := (len(ds) + n - 1) / n
	for i := range n {
		part := ds[min(i*each, len(ds)):min((i+1)*each, len(ds))]
		paths = append(paths, writeSegment(t, dir, fmt.Sprintf("feed-%03d.pcapng.zst", i), id, uint32(i), part, true))
	}
	return paths
}

// readRecording returns copies of everything readable and the damage met.
func readRecording(t testing.TB, r format.BatchReader) (ds []format.Datagram, damage []*format.CorruptError) {
	t.Helper()
	var b format.Batch
	for {
		err := r.ReadBatch(&b)
		var c *format.CorruptError
		switch {
		case errors.Is(err, io.EOF):
			return ds, damage
		case errors.As(err, &c):
			damage = append(damage, c)
		case err != nil:
			t.Fatal(err)
		}
		for _, d := range b.Datagrams {
			d.Payload, d.Frame = bytes.Clone(d.Payload), bytes.Clone(d.Frame)
			ds = append(ds, d)
		}
	}
}

// counted opens files and counts what is read of them and how many are open.
type counted struct {
	bytes      atomic.Int64
	open, most int
}

type countedFile struct {
	*os.File
	c *counted
}

func (c *counted) openFile(path string) (file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	c.open++
	c.most = max(c.most, c.open)
	return &countedFile{f, c}, nil
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.c.bytes.Add(int64(n))
	return n, err
}

func (f *countedFile) Close() error {
	f.c.open--
	return f.File.Close()
}

func TestRecordingIsOne(t *testing.T) {
	ds := feed(11, 6000)
	paths := segments(t, NewUUID(), 7, ds)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	var c counted
	r, err := openRecording(paths, ReadOptions{}, c.openFile)
	if err != nil {
		t.Fatal(err)
	}
	c.most = 0
	got, damage := readRecording(t, r)
	if len(damage)+len(r.Problems()) > 0 {
		t.Fatal(damage, r.Problems())
	}
	compare(t, got, ds)
	if !slices.Equal(r.Interfaces(), interfaces) {
		t.Errorf("interfaces %v, want those of one segment", r.Interfaces())
	}
	if !r.Sealed() || len(r.Segments()) != 7 {
		t.Errorf("sealed %v, %d segments", r.Sealed(), len(r.Segments()))
	}
	if start, ok := r.Start(); !ok || start != ds[0].Time {
		t.Errorf("start %d %v, want %d", start, ok, ds[0].Time)
	}
	// Segments that follow each other are read one after the other. The time of a
	// segment's last datagram can be that of the next one's first.
	if c.most > 2 || c.open != 0 {
		t.Errorf("%d files open at once, %d left open", c.most, c.open)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if err := r.ReadBatch(&format.Batch{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reading after Close: %v", err)
	}
}

// TestRecordingOverlap: two threads of a recorder, or a clock that was set back, make
// segments whose times overlap.
func TestRecordingOverlap(t *testing.T) {
	ds := feed(12, 4000)
	id, dir := NewUUID(), t.TempDir()
	var even, odd []format.Datagram
	for i, d := range ds {
		if d.Time = ds[0].Time + int64(i)*1000; i%2 == 0 {
			even = append(even, d)
		} else {
			odd = append(odd, d)
		}
		ds[i] = d
	}
	// The last one is not sealed: its end is not known.
	r, err := OpenRecording([]string{
		writeSegment(t, dir, "a.pcapng.zst", id, 0, even, true),
		writeSegment(t, dir, "b.pcapng.zst", id, 1, odd, false),
	}, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, damage := readRecording(t, r)
	if len(damage) > 0 {
		t.Fatal(damage)
	}
	compare(t, got, ds)
	if r.Sealed() {
		t.Error("a recording with an open segment is called sealed")
	}
}

// TestRecordingSeek: opening 100 sealed segments and going anywhere in them reads first
// frames, footers, indexes and the chunks that are needed, and holds at most two files.
func TestRecordingSeek(t *testing.T) {
	ds := feed(13, 60_000)
	paths := segments(t, NewUUID(), 100, ds)
	var total int64
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		total += st.Size()
	}
	var c counted
	begin := time.Now()
	r, err := openRecording(paths, ReadOptions{}, c.openFile)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	opening := c.bytes.Load()
	t.Logf("opened %d segments, %d bytes, in %v; read %d bytes", len(paths), total, time.Since(begin), opening)
	if most := int64(100 * 2 * windowFirst); opening > most {
		t.Errorf("opening read %d bytes, more than %d", opening, most)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		i := rnd.IntN(len(ds))
		j := min(i+rnd.IntN(40), len(ds)-1)
		start, end := ds[i].Time, ds[j].Time
		c.bytes.Store(0)
		c.most = c.open
		begin := time.Now()
		r.SeekTime(start)
		r.EndTime(end)
		got, damage := readRecording(t, r)
		if len(damage) > 0 {
			t.Fatal(damage)
		}
		t.Logf("%d datagrams in %v; read %d bytes", len(got), time.Since(begin), c.bytes.Load())
		want := slices.DeleteFunc(slices.Clone(ds), func(d format.Datagram) bool { return d.Time < start || d.Time >= end })
		got = slices.DeleteFunc(got, func(d format.Datagram) bool { return d.Time < start || d.Time >= end })
		compare(t, got, want)
		// First frame, footer, index and chunk of two segments, each with what a
		// window takes in at the least.
		if n := c.bytes.Load(); n > 2*4*2*windowFirst {
			t.Errorf("read %d bytes for %d datagrams", n, len(want))
		}
		if c.most > 2 {
			t.Errorf("%d files open at once", c.most)
		}
	}
	// Beyond both ends.
	r.EndTime(1 << 62)
	r.SeekTime(ds[len(ds)-1].Time + 1)
	if got, _ := readRecording(t, r); len(got) != 0 {
		t.Errorf("%d datagrams behind the last one", len(got))
	}
	r.SeekTime(0)
	r.EndTime(ds[0].Time)
	if got, _ := readRecording(t, r); len(got) != 0 {
		t.Errorf("%d datagrams before the first one", len(got))
	}
	r.EndTime(1 << 62)
	if got, _ := readRecording(t, r); len(got) != len(ds) {
		t.Errorf("%d datagrams between both ends, want %d", len(got), len(ds))
	}
}

func TestRecordingProblems(t *testing.T) {
	ds := feed(14, 3000)
	id, dir := NewUUID(), t.TempDir()
	write := func(name string, n uint32, part int, seal bool) string {
		return writeSegment(t, dir, name, id, n, ds[part*500:(part+1)*500], seal)
	}
	zero, two := write("0.pcapng.zst", 0, 0, true), write("2.pcapng.zst", 2, 2, true)
	five := write("5.pcapng.zst", 5, 5, true)
	copied := write("copy.pcapng.zst", 2, 2, false)
	seven := writeSegment(t, dir, "foreign.pcapng.zst", NewUUID(), 7, ds[:10], true)
	r, err := OpenRecording([]string{zero, five, copied, two}, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, damage := readRecording(t, r)
	var want []format.Datagram
	for _, part := range []int{0, 2, 5} {
		want = append(want, ds[part*500:(part+1)*500]...)
	}
	compare(t, got, want)
	for i, reason := range []string{
		"segment 1 of the recording is missing before this file",
		"segment 2 of the recording stands twice; 2.pcapng.zst is read, this file is not",
		"segments 3 to 4 of the recording are missing before this file",
	} {
		if len(r.Problems()) != 3 || len(damage) != 3 || damage[i] != r.Problems()[i] || damage[i].Reason != reason {
			t.Fatalf("problem %d: told %v, listed %v, want %q", i, damage, r.Problems(), reason)
		}
	}
	if damage[1].Path != copied || damage[0].Path != two {
		t.Errorf("problems stand at %s and %s", damage[0].Path, damage[1].Path)
	}
	var c *format.CorruptError
	if _, err := OpenRecording([]string{zero, seven}, ReadOptions{}); !errors.As(err, &c) || !strings.Contains(c.Reason, "segment of another recording") {
		t.Errorf("a segment of another recording: %v", err)
	}
	if _, err := OpenRecording([]string{zero, filepath.Join(dir, "none")}, ReadOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := OpenRecording(nil, ReadOptions{}); err == nil {
		t.Error("a recording of no segments")
	}
}

// TestRecordingDamage: damage in one segment costs what it costs there.
func TestRecordingDamage(t *testing.T) {
	ds := feed(15, 3000)
	paths := segments(t, NewUUID(), 3, ds)
	b, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 0xFF
	if err := os.WriteFile(paths[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRecording(paths, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, damage := readRecording(t, r)
	if len(damage) == 0 || damage[0].Path != paths[1] {
		t.Fatalf("damage %v, want some in %s", damage, paths[1])
	}
	if len(got) < 2000 || len(got) >= 3000 {
		t.Fatalf("%d datagrams are left of 3000", len(got))
	}
	compare(t, got[:1000], ds[:1000])
	compare(t, got[len(got)-1000:], ds[2000:])
}

// TestRecordingFileReplaced: between looking and reading the file became another one.
func TestRecordingFileReplaced(t *testing.T) {
	ds := feed(16, 100)
	paths := segments(t, NewUUID(), 1, ds)
	r, err := OpenRecording(paths, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	other := segments(t, NewUUID(), 1, ds)
	if err := os.Rename(other[0], paths[0]); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadBatch(&format.Batch{}); err == nil || !strings.Contains(err.Error(), "was replaced") {
		t.Errorf("read %v", err)
	}
}

// TestRecordingSalvaged: a segment whose first frame is damaged keeps its place in the
// recording, and loses nothing but that frame.
func TestRecordingSalvaged(t *testing.T) {
	for _, seal := range []bool{true, false} {
		ds := feed(17, 900)
		id, dir := NewUUID(), t.TempDir()
		a := writeSegment(t, dir, "a", id, 0, ds[:300], true)
		b := writeSegment(t, dir, "b", id, 1, ds[300:600], seal)
		c := writeSegment(t, dir, "c", id, 2, ds[600:], true)
		whole, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		whole[60] ^= 0xFF
		if err := os.WriteFile(b, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := InspectSalvaged(b, ReadOptions{})
		if err != nil || !s.Salvaged || s.Sealed != seal || s.First != ds[300].Time {
			t.Fatalf("sealed %v: %+v, %v", seal, s, err)
		}
		if again, err := Inspect(b, ReadOptions{}); err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("sealed %v: %+v, %v; want %+v", seal, again, err, s)
		}
		segments := []*Segment{s}
		for _, p := range []string{a, c} {
			s, err := Inspect(p, ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			segments = append(segments, s)
		}
		r, err := NewRecording(segments, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, damage := readRecording(t, r)
		if len(damage) != 1 || damage[0].Path != b || !strings.Contains(damage[0].Reason, "first frame is damaged") {
			t.Errorf("damage %v", damage)
		}
		if len(got) != len(ds) {
			t.Fatalf("sealed %v: %d datagrams, want %d", seal, len(got), len(ds))
		}
		for i := range got {
			if got[i].Time != ds[i].Time || !bytes.Equal(got[i].Payload, ds[i].Payload) {
				t.Fatalf("datagram %d is another one", i)
			}
		}
	}
}
