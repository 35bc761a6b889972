package segment

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const openFlags = unix.O_NOFOLLOW | unix.O_CLOEXEC

// lock takes the advisory lock that keeps two recorders out of one file. It goes
// with the open file, so that a crash releases it.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrLocked
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return nil // a file system without locks
	}
	return err
}

// BeingWritten reports whether a recorder holds the file's lock: what is in it is not all
// that will be. Where files have no locks it says no.
func BeingWritten(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	return errors.Is(err, unix.EWOULDBLOCK), nil
}

// allocate reserves blocks and keeps the length, so that the file never ends in
// zeros that were not written (fallocate(2), FALLOC_FL_KEEP_SIZE).
func allocate(f *os.File, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// writeBehind starts writing without waiting for it (sync_file_range(2)): the final
// fdatasync of a large segment then takes milliseconds instead of a tenth of a
// second, and dirty pages never pile up to where the kernel stops the writer.
func writeBehind(f *os.File, off, n int64) error {
	return unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

func dataSync(f *os.File) error {
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

// diskFree asks how many bytes unprivileged users may still write, and how many there
// are (statfs(2)).
func diskFree(dir string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

func syncDir(d *os.File) error { return d.Sync() }
