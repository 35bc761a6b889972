package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File is what the writer needs of a file. Tests put one in its place that fails
// on demand.
type File interface {
	io.WriterAt
	io.Closer
	// Truncate sets the file's length.
	Truncate(size int64) error
	// Sync makes the file's data durable (fdatasync).
	Sync() error
	// Allocate reserves n bytes from off on without changing the file's length. It
	// is a hint: no error of it means that a later write fails.
	Allocate(off, n int64) error
	// WriteBehind asks the system to begin writing n bytes from off on to the disk,
	// so that a later Sync is short. It is a hint: its error means nothing.
	WriteBehind(off, n int64) error
}

// FS makes and removes files for writers.
type FS interface {
	// Create opens a new file for writing, with an exclusive lock that is held until
	// it is closed. With overwrite an existing file is emptied, once the lock is
	// taken; without, it is an error wrapping fs.ErrExist. A symbolic link is never
	// followed.
	Create(path string, overwrite bool) (File, error)
	Remove(path string) error
	// SyncDir makes the entries of the folder durable.
	SyncDir(dir string) error
}

// ErrLocked says that another recorder is writing the file.
var ErrLocked = errors.New("another castdeck is writing it")

// OS is the FS of the operating system.
var OS FS = osFS{}

type osFS struct{}

// Recordings can hold anything that is on the network: no access for others.
const fileMode = 0o640

func (osFS) Create(path string, overwrite bool) (File, error) {
	flags := os.O_RDWR | os.O_CREATE | openFlags
	if !overwrite {
		flags |= os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, fileMode)
	if err != nil {
		return nil, err
	}
	if err := prepare(f, path); err != nil {
		f.Close()
		return nil, err
	}
	return osFile{f}, nil
}

// prepare takes the lock and empties the file.
func prepare(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return &fs.PathError{Op: "create", Path: path, Err: fmt.Errorf("not a regular file (%s)", st.Mode().Type())}
	}
	if err := lock(f); err != nil {
		return &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return f.Truncate(0)
}

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	return syncDir(d)
}

type osFile struct{ *os.File }

func (f osFile) Sync() error                    { return dataSync(f.File) }
func (f osFile) Allocate(off, n int64) error    { return allocate(f.File, off, n) }
func (f osFile) WriteBehind(off, n int64) error { return writeBehind(f.File, off, n) }

// Cause is err without the path and operation that os puts around it, for messages
// that name them themselves.
func Cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// lockSeries takes the lock that keeps a second recorder from the names of a series:
// a hidden file, because between two segments there may be no open one. Close removes
// it. A crash leaves the file, and releases the lock.
func lockSeries(path string) (io.Closer, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|openFlags, fileMode)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		held, err := f.Stat()
		if err == nil {
			// The one before may have removed it just now.
			if there, serr := os.Lstat(path); serr == nil && os.SameFile(held, there) {
				return seriesLock{f}, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

type seriesLock struct{ f *os.File }

func (l seriesLock) Close() error {
	// While it is locked: a file of this name is never another's.
	_ = os.Remove(l.f.Name())
	return l.f.Close()
}
