package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"castdeck/format"
)

// FollowOptions of a Follower. The zero value is usable.
type FollowOptions struct {
	ReadOptions
	// Poll is how often to look whether a file has grown: default 100 ms, from 1 ms to
	// 10 s. (inotify would tell of local writers only, and of each of their writes.)
	Poll time.Duration
	// Wait is how long to look for the next segment after one was sealed, before the
	// recording is taken to have ended: default 2 s, at most a minute.
	Wait time.Duration
}

// Follower reads a recording that is still being written, from its first segment on,
// and waits at its end for more. It implements format.BatchReader; damage is an error
// between batches as everywhere. It goes on to the next segment, by number, in the
// folder of the one before, and ends with io.EOF when a segment was sealed and none
// follows. Segments are read one after the other also where their times overlap. It
// is not safe for concurrent use.
type Follower struct {
	ctx   context.Context
	o     FollowOptions
	id    format.UUID
	table format.InterfaceTable
	known map[uint32]*Segment // by number: found and not left yet
	seen  map[string]int64    // files looked at, with their size then

	r      *Reader // nil between segments
	f      *os.File
	ifaces *format.InterfaceMap
	begun  bool
	number uint32    // of the segment that is or was read, where begun
	last   string    // its path
	grew   time.Time // when there was last something new in it
	closed bool
}

// Follow follows the recording that the segments are of, from the one with the lowest
// number on. When ctx ends, so does a ReadBatch that waits, with ctx's error. It
// starts no goroutine.
func Follow(ctx context.Context, segments []*Segment, o FollowOptions) (*Follower, error) {
	if o.Poll == 0 {
		o.Poll = 100 * time.Millisecond
	}
	if o.Wait == 0 {
		o.Wait = 2 * time.Second
	}
	o.Poll = min(max(o.Poll, time.Millisecond), 10*time.Second)
	o.Wait = min(max(o.Wait, o.Poll), time.Minute)
	// It says which one to read of two with the same number.
	r, err := NewRecording(segments, o.ReadOptions)
	if err != nil {
		return nil, err
	}
	f := &Follower{ctx: ctx, o: o, id: segments[0].Info.Recording, known: make(map[uint32]*Segment), seen: make(map[string]int64)}
	for _, s := range r.Segments() {
		f.known[s.Info.Number] = s
	}
	for _, s := range segments {
		f.seen[s.Path] = s.Size
	}
	return f, f.next()
}

// Interfaces of all segments so far. Interfaces that several segments describe alike
// are one.
func (f *Follower) Interfaces() []format.Interface { return f.table.Interfaces() }

// Close closes the file. Closing again does nothing. To wake up a ReadBatch end the
// context.
func (f *Follower) Close() error {
	f.closed = true
	return f.leave()
}

// ReadBatch returns what is there, and waits where nothing is.
func (f *Follower) ReadBatch(b *format.Batch) error {
	b.Reset()
	for {
		if f.closed {
			return fmt.Errorf("recording %s: %w", f.id, fs.ErrClosed)
		}
		if err := f.ctx.Err(); err != nil {
			return err
		}
		if f.r == nil {
			found, err := f.search()
			switch {
			case err != nil:
				return err
			case !found && time.Since(f.grew) >= f.o.Wait:
				return io.EOF
			case !found:
				f.sleep()
			}
			continue
		}
		err := f.read(b)
		if err == nil {
			if err = f.ifaces.Learn(f.r.Interfaces()); err == nil {
				err = f.ifaces.Apply(b)
			}
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		grown, err := f.grow()
		switch {
		case err != nil:
			return err
		case grown:
			f.grew = time.Now()
		case f.r.Sealed():
			f.leave()
			f.grew = time.Now()
		case len(f.known) > 1 && time.Since(f.grew) >= f.o.Wait:
			return f.abandon()
		default:
			f.sleep()
		}
	}
}

// sleep waits for the next time to look, or for the end of the context.
func (f *Follower) sleep() {
	t := time.NewTimer(f.o.Poll)
	defer t.Stop()
	select {
	case <-f.ctx.Done():
	case <-t.C:
	}
}

// read reads the next chunk. What is not whole yet is io.EOF: it is just being
// written, and no damage. Behind a footer nothing comes, so there it is.
func (f *Follower) read(b *format.Batch) error {
	r := f.r
	for r.offset < r.win.size && !r.Sealed() {
		frame, err := r.frameAt(r.offset)
		if err == errCut {
			return io.EOF
		}
		if err == nil {
			b.Buf, err = r.dec.Decode(b.Buf, frame)
		}
		if err == nil {
			err = r.take(b, len(frame))
		}
		var missing *format.CorruptError
		switch {
		case errors.As(err, &missing):
			b.Reset()
			return err
		case err != nil:
			return r.ReadBatch(b) // looks for the end of the damage
		}
		r.offset += int64(len(frame))
		if !b.Empty() {
			return nil
		}
	}
	return r.ReadBatch(b)
}

// grow takes notice of what was written since, and says whether there is any.
func (f *Follower) grow() (bool, error) {
	st, err := f.f.Stat()
	if err != nil {
		return false, err
	}
	r, size := f.r, st.Size()
	switch {
	case size == r.win.size:
		return false, nil
	case size < r.offset:
		return false, fmt.Errorf("%s became shorter while it was followed: overwritten?", r.path)
	case size < r.win.size:
		// A chunk that could not be written whole was taken back.
		r.win.buf = r.win.buf[:0]
	}
	r.size, r.win.size = size, size
	if !r.Sealed() {
		r.readFooter()
	}
	return true, nil
}

// abandon gives up a segment that was cut off, of a recording that goes on.
func (f *Follower) abandon() error {
	at, size := f.r.offset, f.r.win.size
	damage := &format.CorruptError{Path: f.r.path, Offset: at, Length: max(size-at, 0),
		Reason: "not sealed, and the recording goes on in another segment: cut off"}
	f.leave()
	return damage
}

// next opens the segment that follows among those that are known.
func (f *Follower) next() error {
	var s *Segment
	for n, k := range f.known {
		if f.begun && n <= f.number {
			delete(f.known, n)
		} else if s == nil || n < s.Info.Number {
			s = k
		}
	}
	if s == nil {
		return nil
	}
	if f.begun && s.Info.Number > f.number+1 {
		problem := missing(s, f.number)
		f.number = s.Info.Number - 1 // told once
		return problem
	}
	file, err := os.Open(s.Path)
	if err != nil {
		return err
	}
	st, err := file.Stat()
	if err == nil {
		f.r, err = NewReader(file, st.Size(), s.Path, f.o.ReadOptions)
	}
	if err == nil && (f.r.Info().Recording != f.id || f.r.Info().Number != s.Info.Number) {
		err = fmt.Errorf("%s was replaced by another file while the recording was followed", s.Path)
	}
	if err != nil {
		f.r = nil
		file.Close()
		return err
	}
	f.r.c, f.f, f.begun, f.number, f.last, f.grew = file, file, true, s.Info.Number, s.Path, time.Now()
	f.ifaces = f.table.Source(f.id)
	return f.ifaces.Learn(f.r.Interfaces())
}

// search looks for the next segment: among those that are known, then in the folder.
func (f *Follower) search() (bool, error) {
	if err := f.next(); err != nil || f.r != nil {
		return f.r != nil, err
	}
	dir := filepath.Dir(f.last)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		i, err := e.Info()
		if err != nil || !i.Mode().IsRegular() {
			continue // gone again, or nothing that is recorded to
		}
		path := filepath.Join(dir, e.Name())
		if size, ok := f.seen[path]; ok && size == i.Size() {
			continue
		}
		f.seen[path] = i.Size()
		// What cannot be opened is no segment, or not yet one: it will have grown.
		s, err := Inspect(path, f.o.ReadOptions)
		if err == nil && s.Info.Recording == f.id && s.Info.Number > f.number {
			if f.known[s.Info.Number] == nil {
				f.known[s.Info.Number] = s
			}
		}
	}
	err = f.next()
	return f.r != nil, err
}

// leave closes the segment.
func (f *Follower) leave() error {
	if f.r == nil {
		return nil
	}
	r := f.r
	f.r, f.f = nil, nil
	return r.Close()
}
