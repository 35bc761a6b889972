package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Keep limits what a series leaves on the disk. Zero fields are no limit. Only sealed
// segments are deleted, oldest first.
type Keep struct {
	// Bytes of all sealed segments and the open one.
	Bytes int64
	// Age of a segment's last packet.
	Age time.Duration
	// Segments, sealed and open.
	Segments int
}

// OnFull is what to do when the disk is full: a write fails with ENOSPC or EDQUOT, or
// there is less than SeriesOptions.MinFree left.
type OnFull uint8

const (
	// FullStop ends with an error; what was written before is readable.
	FullStop OnFull = iota
	// FullDelete deletes the oldest sealed segment, as often as needed, and writes
	// again; nothing is lost. With none left it is FullStop.
	FullDelete
	// FullPause counts what comes and does not write it, until there is room again.
	FullPause
)

var onFullNames = [...]string{FullStop: "stop", FullDelete: "delete-oldest", FullPause: "pause"}

func (p OnFull) String() string { return onFullNames[p] }

// ParseOnFull reads a name that String gives.
func ParseOnFull(name string) (OnFull, error) {
	if i := slices.Index(onFullNames[:], name); i >= 0 {
		return OnFull(i), nil
	}
	return 0, fmt.Errorf("no such policy %q (have stop, delete-oldest, pause)", name)
}

// IsFull says whether an error means that there is no room on the disk.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// kept is a sealed segment that may be deleted.
type kept struct {
	path  string
	size  int64
	start int64 // for the order, ns
	last  int64 // for the age, ns
	file  fs.FileInfo
	// own says that this series sealed it: it need not be a segment by its content.
	own bool
}

// keeper knows the sealed segments of a series and deletes the oldest. It is safe for
// concurrent use.
type keeper struct {
	fs    FS
	event func(Event)

	mu      sync.Mutex
	changed *sync.Cond
	list    []kept // oldest first
	bytes   int64
	sealing int // segments that are being sealed
	stuck   int // of them, those that wait for room, or for such a one
	deleted atomic.Int64
}

func newKeeper(fs FS, event func(Event)) *keeper {
	k := &keeper{fs: fs, event: event}
	k.changed = sync.NewCond(&k.mu)
	return k
}

// find takes up the sealed segments that earlier runs left under the same names. A
// file counts only where its name is one of the series and its content says that it
// is a segment of castdeck with a footer: all others are never touched.
func (k *keeper) find(n *Names) error {
	entries, err := os.ReadDir(n.folder())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := n.number(e.Name()); !ok || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(n.folder(), e.Name())
		st, err := os.Lstat(path)
		if err != nil {
			continue
		}
		s, err := Inspect(path, ReadOptions{})
		if err != nil || !s.Sealed {
			continue
		}
		f := kept{path: path, size: s.Size, start: s.Info.Start, last: st.ModTime().UnixNano(), file: st}
		if s.Indexed && s.First != 0 {
			f.start, f.last = s.First, s.Last
		}
		k.list = append(k.list, f)
		k.bytes += f.size
	}
	slices.SortStableFunc(k.list, func(a, b kept) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.path, b.path)) })
	return nil
}

// begin and end stand around the sealing of a segment.
func (k *keeper) begin() {
	k.mu.Lock()
	k.sealing++
	k.mu.Unlock()
}

// end takes up what was sealed, nil where that failed.
func (k *keeper) end(f *kept) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sealing--
	if f != nil {
		k.list = append(k.list, *f)
		k.bytes += f.size
	}
	k.changed.Broadcast()
}

// park waits for others, on behalf of a segment that is being sealed.
func (k *keeper) park(wait func()) {
	k.mu.Lock()
	k.stuck++
	k.changed.Broadcast()
	k.mu.Unlock()
	wait()
	k.mu.Lock()
	k.stuck--
	k.mu.Unlock()
}

func (k *keeper) size() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bytes
}

// enforce deletes what is beyond the limits, where open bytes are in a segment that is
// still written (-1: there is none).
func (k *keeper) enforce(limit Keep, open int64, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	others := k.sealing
	if open >= 0 {
		others++
	}
	for len(k.list) > 0 {
		oldest := &k.list[0]
		var why string
		switch {
		case limit.Segments > 0 && len(k.list)+others > limit.Segments:
			why = fmt.Sprintf("more than %d segments", limit.Segments)
		case limit.Bytes > 0 && k.bytes+max(open, 0) > limit.Bytes:
			why = fmt.Sprintf("more than %d bytes", limit.Bytes)
		case limit.Age > 0 && now.UnixNano()-oldest.last > int64(limit.Age):
			why = fmt.Sprintf("older than %s", limit.Age)
		default:
			return
		}
		k.deleteOldest(why)
	}
}

// free deletes the oldest sealed segment. Where there is none but some are just being
// sealed it waits for them; sealing says that the caller is one of these. It returns
// false where there is nothing to delete.
func (k *keeper) free(why string, sealing bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if sealing {
		k.stuck++
		k.changed.Broadcast()
		defer func() { k.stuck-- }()
	}
	for {
		for len(k.list) > 0 {
			if k.deleteOldest(why) {
				return true
			}
		}
		if k.sealing == k.stuck {
			return false
		}
		k.changed.Wait()
	}
}

// deleteOldest takes the oldest off the list, and off the disk where it still is what
// it was.
func (k *keeper) deleteOldest(why string) bool {
	f := k.list[0]
	k.list = k.list[1:]
	k.bytes -= f.size
	st, err := os.Lstat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false // somebody else has moved it
	case err == nil && !os.SameFile(st, f.file):
		return false
	case err == nil && !f.own:
		var s *Segment
		if s, err = Inspect(f.path, ReadOptions{}); err == nil && !s.Sealed {
			return false
		}
	}
	if err == nil {
		err = k.fs.Remove(f.path)
	}
	if err != nil {
		k.event(Event{Kind: EventKept, Path: f.path, FileBytes: f.size, Reason: why, Err: err})
		return false
	}
	k.deleted.Add(1)
	k.event(Event{Kind: EventDeleted, Path: f.path, FileBytes: f.size, Reason: why})
	return true
}

// roomFS is an FS whose files make room by deleting the oldest segments, and write
// again, when the disk is full.
type roomFS struct {
	FS
	k *keeper
}

const noRoom = "the disk is full"

func (r roomFS) Create(path string, overwrite bool) (File, error) {
	for {
		f, err := r.FS.Create(path, overwrite)
		if err == nil {
			return &roomFile{File: f, k: r.k}, nil
		}
		if !IsFull(err) || !r.k.free(noRoom, false) {
			return nil, err
		}
	}
}

// roomFile is a file of roomFS. sealing is set before another goroutine seals it.
type roomFile struct {
	File
	k       *keeper
	sealing bool
}

func (f *roomFile) WriteAt(p []byte, off int64) (int, error) {
	for {
		n, err := f.File.WriteAt(p, off)
		if err == nil || !IsFull(err) || !f.k.free(noRoom, f.sealing) {
			return n, err
		}
	}
}
