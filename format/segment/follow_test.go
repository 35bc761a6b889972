package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"castdeck/format"
)

// followed is what a follower in another goroutine has read.
type followed struct {
	ds     []format.Datagram
	damage []*format.CorruptError
	err    error // that ended it
}

// follow starts to follow path. What comes is counted on progress as it comes.
func follow(t *testing.T, ctx context.Context, wait time.Duration, paths ...string) (progress <-chan int, done <-chan followed) {
	t.Helper()
	var segments []*Segment
	for _, p := range paths {
		s, err := Inspect(p, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		segments = append(segments, s)
	}
	f, err := Follow(ctx, segments, FollowOptions{Poll: time.Millisecond, Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	p, d := make(chan int, 1<<16), make(chan followed, 1)
	go func() {
		defer f.Close()
		var out followed
		var b format.Batch
		for {
			err := f.ReadBatch(&b)
			var c *format.CorruptError
			switch {
			case errors.As(err, &c):
				out.damage = append(out.damage, c)
			case err != nil:
				out.err = err
				d <- out
				return
			}
			for _, g := range b.Datagrams {
				g.Payload, g.Frame = bytes.Clone(g.Payload), bytes.Clone(g.Frame)
				out.ds = append(out.ds, g)
			}
			p <- len(out.ds)
		}
	}()
	return p, d
}

// await waits until n datagrams have come.
func await(t *testing.T, progress <-chan int, n int) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case have := <-progress:
			if have >= n {
				return
			}
		case <-deadline:
			t.Fatalf("%d datagrams did not come within 30 s", n)
		}
	}
}

// TestFollow: a writer of three segments and, beside it, a follower that gets each
// flushed chunk while the segment is open, goes on to the next segment and ends when
// the last one is sealed.
func TestFollow(t *testing.T) {
	ds := feed(21, 900)
	dir, id := t.TempDir(), NewUUID()
	create := func(n uint32) *Writer {
		o := options(format.Zstd)
		o.Info.Recording, o.Info.Number = id, n
		w, err := Create(filepath.Join(dir, fmt.Sprintf("f-%d.pcapng.zst", n)), o)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	// Other files in the folder are none of the follower's business.
	writeSegment(t, dir, "another.pcapng.zst", NewUUID(), 1, ds[:10], true)
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := create(0)
	progress, done := follow(t, t.Context(), 200*time.Millisecond, w.Path())
	for n := range uint32(3) {
		for i := range 3 {
			at := int(n)*300 + i*100
			if err := errors.Join(w.WriteBatch(&format.Batch{Datagrams: ds[at : at+100]}), w.Flush()); err != nil {
				t.Fatal(err)
			}
			await(t, progress, at+100)
		}
		last := w
		if n < 2 {
			w = create(n + 1)
		}
		if err := last.Close(); err != nil {
			t.Fatal(err)
		}
	}
	out := <-done
	if out.err != io.EOF || len(out.damage) > 0 {
		t.Fatalf("ended with %v, damage %v", out.err, out.damage)
	}
	compare(t, out.ds, ds)
}

// TestFollowPieces: a file that grows by any number of bytes at a time, as a file that
// comes over a network does, is read without damage.
func TestFollowPieces(t *testing.T) {
	for _, c := range compressions {
		t.Run(c.String(), func(t *testing.T) {
			ds := feed(22, 1500)
			whole, err := os.ReadFile(write(t, c, ds, true))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "copy")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			head := 4 << 10 // more than the first frame
			if _, err := f.Write(whole[:head]); err != nil {
				t.Fatal(err)
			}
			_, done := follow(t, t.Context(), 10*time.Millisecond, path)
			r := rand.New(rand.NewPCG(2, 2))
			for rest := whole[head:]; len(rest) > 0; {
				n := min(1+r.IntN(3000), len(rest))
				if _, err := f.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
				time.Sleep(time.Duration(r.IntN(800)) * time.Microsecond) // any pause will do
			}
			out := <-done
			if out.err != io.EOF || len(out.damage) > 0 {
				t.Fatalf("ended with %v, damage %v", out.err, out.damage)
			}
			compare(t, out.ds, ds)
		})
	}
}

// TestFollowEndsWithContext: nothing more comes, and the wait can be ended.
func TestFollowEndsWithContext(t *testing.T) {
	ds := feed(23, 200)
	path := write(t, format.Zstd, ds, false)
	ctx, cancel := context.WithCancel(t.Context())
	progress, done := follow(t, ctx, time.Minute, path)
	await(t, progress, 200)
	cancel()
	if out := <-done; out.err != context.Canceled {
		t.Errorf("ended with %v, want that the context ended", out.err)
	}
}

// TestFollowDamage: damage does not end it, and what is missing is told.
func TestFollowDamage(t *testing.T) {
	ds := feed(24, 1200)
	dir, id := t.TempDir(), NewUUID()
	a := writeSegment(t, dir, "a", id, 0, ds[:400], true)
	cut := writeSegment(t, dir, "b", id, 2, ds[400:800], false)
	c := writeSegment(t, dir, "c", id, 3, ds[800:], true)
	b, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	// The header of the last chunk's frame, so that its end is not found.
	r := open(t, a)
	x, err := r.Index()
	if err != nil {
		t.Fatal(err)
	}
	last := x.Chunks[len(x.Chunks)-1]
	b[last.Offset+9] ^= 0xFF
	b[last.Offset+10] ^= 0xFF
	b[last.Offset+11] ^= 0xFF
	if err := os.WriteFile(a, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, done := follow(t, t.Context(), 20*time.Millisecond, a, cut, c)
	out := <-done
	if out.err != io.EOF || len(out.ds) != 1200-int(last.Packets) {
		t.Fatalf("ended with %v after %d datagrams, want %d", out.err, len(out.ds), 1200-last.Packets)
	}
	var reasons []string
	for _, d := range out.damage {
		reasons = append(reasons, d.Reason)
	}
	all := strings.Join(reasons, "\n")
	for _, want := range []string{"segment 1 of the recording is missing", "not sealed, and the recording goes on"} {
		if strings.Count(all, want) != 1 {
			t.Errorf("%q is not told once:\n%s", want, all)
		}
	}
	if out.damage[0].Path != a {
		t.Errorf("first damage in %s, want %s", out.damage[0].Path, a)
	}
}

func TestFollowClosed(t *testing.T) {
	s, err := Inspect(write(t, format.None, feed(25, 10), false), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := Follow(t.Context(), []*Segment{s}, FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if err := f.ReadBatch(&format.Batch{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reading after Close: %v", err)
	}
}

// TestFollowOverwritten: a file that is begun anew is another recording.
func TestFollowOverwritten(t *testing.T) {
	path := write(t, format.Zstd, feed(26, 500), false)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	progress, done := follow(t, ctx, time.Minute, path)
	await(t, progress, 500)
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if out := <-done; out.err == nil || !strings.Contains(out.err.Error(), "became shorter") {
		t.Errorf("ended with %v", out.err)
	}
}
