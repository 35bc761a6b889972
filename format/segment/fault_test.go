package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"testing"

	"castdeck/format"
)

// memFS is a file system in memory whose n-th operation fails.
type memFS struct {
	files map[string]*memFile
	fail  int // 1 is the first operation; 0 none
	err   error
	short bool // a failing write writes half

	ops      int
	failed   string // the operation that failed
	synced   int
	afterBad bool // a sync was tried again after one had failed
}

func (m *memFS) op(name string) error {
	m.ops++
	if m.ops == m.fail {
		m.failed = name
		return &fs.PathError{Op: name, Path: "x", Err: m.err}
	}
	return nil
}

func (m *memFS) Create(path string, overwrite bool) (File, error) {
	if err := m.op("open"); err != nil {
		return nil, err
	}
	f := &memFile{fs: m}
	m.files[path] = f
	return f, nil
}

func (m *memFS) Remove(path string) error {
	delete(m.files, path)
	return m.op("unlink")
}

func (m *memFS) SyncDir(string) error { return m.op("fsync folder") }

type memFile struct {
	fs     *memFS
	data   []byte
	closed bool
	bad    bool
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.fs.op("write")
	if err != nil {
		if !f.fs.short {
			return 0, err
		}
		p = p[:len(p)/2]
	}
	if need := int(off) + len(p); need > len(f.data) {
		f.data = append(f.data, make([]byte, need-len(f.data))...)
	}
	return copy(f.data[off:], p), err
}

func (f *memFile) Truncate(size int64) error {
	if err := f.fs.op("truncate"); err != nil {
		return err
	}
	f.data = append(f.data, make([]byte, max(0, int(size)-len(f.data)))...)[:size]
	return nil
}

func (f *memFile) Sync() error {
	f.fs.afterBad = f.fs.afterBad || f.bad
	if err := f.fs.op("fdatasync"); err != nil {
		f.bad = true
		return err
	}
	f.fs.synced++
	return nil
}

func (f *memFile) Allocate(int64, int64) error { return f.fs.op("fallocate") }

func (f *memFile) WriteBehind(int64, int64) error { return f.fs.op("sync_file_range") }

func (f *memFile) Close() error {
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return f.fs.op("close")
}

// TestEveryOperationFails lets the n-th operation fail, for every n until a run
// succeeds, for several errors: each one surfaces or does no harm, the file is
// closed, and what a batch that was accepted and flushed put into it is readable.
func TestEveryOperationFails(t *testing.T) {
	harmless := map[string]bool{"fallocate": true, "fsync folder": true, "sync_file_range": true}
	ds := feed(21, 400)
	for _, c := range compressions {
		for _, short := range []bool{false, true} {
			for _, cause := range []error{syscall.ENOSPC, syscall.EIO, syscall.EDQUOT, syscall.EFBIG} {
				seen := map[string]bool{}
				for n := 1; ; n++ {
					m := &memFS{files: map[string]*memFile{}, fail: n, err: cause, short: short}
					safe, err := faultRun(m, c, ds)
					if m.failed == "" {
						if err != nil {
							t.Fatalf("no fault, yet %v", err)
						}
						break
					}
					seen[m.failed] = true
					what := fmt.Sprintf("%s: operation %d (%s), %v, short %v", c, n, m.failed, cause, short)
					if harmless[m.failed] != (err == nil) {
						t.Errorf("%s: the run returned %v", what, err)
					}
					if err != nil && !errors.Is(err, cause) {
						t.Errorf("%s: %v does not name the cause", what, err)
					}
					if m.afterBad {
						t.Errorf("%s: fdatasync was tried again", what)
					}
					for _, f := range m.files {
						if !f.closed {
							t.Errorf("%s: the file is left open", what)
						}
						if safe == 0 && len(f.data) == 0 {
							continue
						}
						r, err := NewReader(bytes.NewReader(f.data), int64(len(f.data)), "x", ReadOptions{})
						if err != nil {
							t.Errorf("%s: %v", what, err)
							continue
						}
						got, _ := readAll(t, r)
						if len(got) != safe {
							t.Errorf("%s: %d datagrams readable, the writer counts %d", what, len(got), safe)
						}
						compare(t, got, ds[:len(got)])
					}
				}
				for _, op := range []string{"open", "write", "fallocate", "fdatasync", "truncate", "close"} {
					if !seen[op] {
						t.Errorf("%s never failed", op)
					}
				}
			}
		}
	}
}

// faultRun writes ds and returns how many datagrams the writer says are in the
// file: no fewer than were flushed without an error.
func faultRun(m *memFS, c format.Compression, ds []format.Datagram) (safe int, err error) {
	o := options(c)
	o.FS = m
	w, err := Create("x", o)
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(ds); i += 50 {
		if err = w.WriteBatch(&format.Batch{Datagrams: ds[i : i+50]}); err == nil {
			err = w.Flush()
		}
		if err != nil {
			break
		}
		safe = i + 50
	}
	cerr := w.Close()
	if n, _ := w.Written(); int(n) < safe {
		return safe, fmt.Errorf("%d datagrams written, %d were flushed", n, safe)
	} else {
		safe = int(n)
	}
	if err != nil && !errors.Is(cerr, err) {
		return safe, fmt.Errorf("close forgot %v: %v", err, cerr)
	}
	if again := w.WriteBatch(&format.Batch{Datagrams: ds[:1]}); again == nil {
		return safe, errors.New("a closed or failed writer takes datagrams")
	}
	return safe, cerr
}

func FuzzReader(f *testing.F) {
	for _, c := range compressions {
		m := &memFS{files: map[string]*memFile{}}
		if _, err := faultRun(m, c, feed(22, 50)); err != nil {
			f.Fatal(err)
		}
		f.Add(m.files["x"].data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b), int64(len(b)), "x", ReadOptions{})
		if err != nil {
			return
		}
		var batch format.Batch
		for n := 0; ; n++ {
			err := r.ReadBatch(&batch)
			if err == io.EOF {
				break
			}
			if n > len(b) {
				t.Fatal("more reads than bytes")
			}
		}
		if _, _, err := r.Verify(); err != nil && !errors.Is(err, format.ErrVersion) {
			t.Fatal(err)
		}
		r.SeekTime(0)
	})
}

// FuzzRoundTrip: what the writer takes, the reader gives back.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint64(1), uint16(50), uint8(0), uint16(0))
	f.Add(uint64(2), uint16(700), uint8(1), uint16(60000))
	f.Fuzz(func(t *testing.T, seed uint64, n uint16, which uint8, big uint16) {
		ds := feed(seed, int(n%1000))
		if len(ds) > 0 {
			d := &ds[len(ds)/2]
			d.Payload = make([]byte, min(int(big), format.MaxPayloadIPv4))
			d.Length, d.Flags = uint32(len(d.Payload)), 0
		}
		m := &memFS{files: map[string]*memFile{}}
		o := options(compressions[int(which)%len(compressions)])
		o.FS = m
		w, err := Create("x", o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteBatch(&format.Batch{Datagrams: ds}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		data := m.files["x"].data
		r, err := NewReader(bytes.NewReader(data), int64(len(data)), "x", ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, damage := readAll(t, r)
		if len(damage) > 0 {
			t.Fatal(damage[0])
		}
		compare(t, got, ds)
	})
}
