package segment

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"testing"

	"castdeck/format"
)

// crashFS is a disk that forgets: what was written since the last sync survives a
// power cut in part, sector by sector, and some sectors come back as garbage.
type crashFS struct {
	data   []byte // as the running system sees it
	disk   []byte // as it was at the last sync
	dirty  map[int]bool
	syncs  int
	exists bool
}

const sector = 512

func (c *crashFS) Create(string, bool) (File, error) {
	c.exists = true
	return c, nil
}
func (c *crashFS) Remove(string) error  { return fs.ErrNotExist }
func (c *crashFS) SyncDir(string) error { return nil }

func (c *crashFS) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(c.data) {
		c.data = append(c.data, make([]byte, need-len(c.data))...)
	}
	copy(c.data[off:], p)
	for s := int(off) / sector; s <= (int(off)+len(p)-1)/sector; s++ {
		c.dirty[s] = true
	}
	return len(p), nil
}

func (c *crashFS) Truncate(size int64) error {
	c.data = c.data[:size]
	return nil
}

func (c *crashFS) Sync() error {
	c.disk = bytes.Clone(c.data)
	clear(c.dirty)
	c.syncs++
	return nil
}

func (c *crashFS) Allocate(int64, int64) error    { return nil }
func (c *crashFS) WriteBehind(int64, int64) error { return nil }
func (c *crashFS) Close() error                   { return nil }

// after is what a power cut leaves: the file's length is somewhere between that of
// the last sync and the present one, each dirty sector is old, new or garbage.
func (c *crashFS) after(r *rand.Rand) []byte {
	size := len(c.disk)
	if n := len(c.data) - size; n > 0 {
		size += r.IntN(n + 1)
	}
	out := make([]byte, size)
	copy(out, c.disk)
	for s := range c.dirty {
		lo, hi := s*sector, min((s+1)*sector, size)
		if lo >= size {
			continue
		}
		switch r.IntN(4) {
		case 0, 1:
			copy(out[lo:hi], c.data[lo:])
		case 2: // not written: zeros, or what was there
		case 3:
			for i := max(lo, len(c.disk)); i < hi; i++ {
				out[i] = byte(r.Uint32())
			}
		}
	}
	return out
}

// crash writes a recording up to a random point, cuts the power and reads.
func crash(t *testing.T, seed uint64, sync Sync) (durable, read int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, uint64(sync)))
	disk := &crashFS{dirty: map[int]bool{}}
	o := options(compressions[r.IntN(3)])
	o.FS, o.Sync, o.ChunkSize = disk, sync, 4<<10
	w, err := Create("x", o)
	if err != nil {
		t.Fatal(err)
	}
	ds := feed(seed, 20+r.IntN(80))
	n, stop := 0, r.IntN(len(ds)+1)
	for n < stop {
		k := min(1+r.IntN(20), stop-n)
		if err := w.WriteBatch(&format.Batch{Datagrams: ds[n : n+k]}); err != nil {
			t.Fatal(err)
		}
		n += k
		if r.IntN(3) == 0 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			if sync == SyncInterval {
				durable = n
			}
		}
	}
	if r.IntN(4) == 0 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if sync != SyncNone {
			durable = n
		}
	}
	left := disk.after(r)
	reader, err := NewReader(bytes.NewReader(left), int64(len(left)), "x", ReadOptions{})
	if err != nil {
		if durable > 0 {
			t.Fatalf("seed %d: %d datagrams were durable, the file does not open: %v", seed, durable, err)
		}
		return durable, 0
	}
	got, _ := readAll(t, reader)
	// Whatever is read was written, in the order of writing; what was durable is all
	// there, at the start.
	at := 0
	for i := range got {
		for at < len(ds) && !same(&got[i], &ds[at]) {
			at++
		}
		if at == len(ds) {
			t.Fatalf("seed %d: datagram %d was never written, or not in this order: %+v", seed, i, got[i])
		}
		at++
	}
	if len(got) < durable {
		t.Fatalf("seed %d: %d datagrams read, %d were durable", seed, len(got), durable)
	}
	compare(t, got[:durable], ds[:durable])
	return durable, len(got)
}

func TestPowerCut(t *testing.T) {
	seeds := uint64(10_000)
	if testing.Short() {
		seeds = 300
	}
	for _, sync := range []Sync{SyncSegment, SyncInterval} {
		durable, read := 0, 0
		for seed := range seeds {
			d, r := crash(t, seed, sync)
			durable, read = durable+d, read+r
		}
		// With SyncInterval little is written that is not synced at once.
		if durable == 0 || sync == SyncSegment && read <= durable {
			t.Errorf("%s: %d datagrams were durable, %d read: this test shows nothing", sync, durable, read)
		}
	}
}

// TestPowerCutControl: without a sync the same disk does lose datagrams that the
// writer had flushed; otherwise TestPowerCut would not test anything.
func TestPowerCutControl(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 9))
		disk := &crashFS{dirty: map[int]bool{}}
		o := options(format.None)
		o.FS, o.Sync = disk, SyncNone
		w, err := Create("x", o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteBatch(&format.Batch{Datagrams: feed(seed, 100)}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if disk.syncs != 0 {
			t.Fatal("synced although it should not")
		}
		left := disk.after(r)
		reader, err := NewReader(bytes.NewReader(left), int64(len(left)), "x", ReadOptions{})
		if err != nil {
			lost++
			continue
		}
		if got, _ := readAll(t, reader); len(got) < 100 {
			lost++
		}
	}
	if lost < 40 {
		t.Errorf("only %d of 50 power cuts without sync lost anything", lost)
	}
}

func TestSyncPolicy(t *testing.T) {
	for sync, want := range map[Sync]int{SyncNone: 0, SyncSegment: 1, SyncInterval: 4} {
		disk := &crashFS{dirty: map[int]bool{}}
		o := options(format.Zstd)
		o.FS, o.Sync = disk, sync
		w, err := Create("x", o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := w.WriteBatch(&format.Batch{Datagrams: feed(uint64(i), 10)}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second has nothing to do
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if disk.syncs != want {
			t.Errorf("%s: %d syncs, want %d", sync, disk.syncs, want)
		}
		if got, err := ParseSync(sync.String()); err != nil || got != sync {
			t.Errorf("%s parses as %v, %v", sync, got, err)
		}
	}
	if _, err := ParseSync("always"); err == nil {
		t.Error("a policy that there is not is taken")
	}
}
