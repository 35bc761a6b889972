package segment

import "io"

// window reads a file through one buffer that moves forward, so that frames can be
// taken from it in place.
type window struct {
	f    io.ReaderAt
	size int64
	buf  []byte
	off  int64 // of buf in the file
	step int   // how many bytes the next read takes in at least
}

// A window that reads on takes more at a time; one that was moved begins small
// again, so that a look at the first frame or a chunk costs little more than that.
const (
	windowFirst = 16 << 10
	windowStep  = 1 << 20
)

// peek is at least n bytes from off on, fewer where the file ends. They are valid
// until the next peek.
func (w *window) peek(off int64, n int) ([]byte, error) {
	n = int(min(int64(n), w.size-off))
	if n <= 0 {
		return nil, nil
	}
	if have := w.off + int64(len(w.buf)) - off; off >= w.off && have >= int64(n) {
		return w.buf[off-w.off:], nil
	}
	keep, ahead := 0, 0
	if end := w.off + int64(len(w.buf)); len(w.buf) > 0 && off >= w.off && off <= end {
		keep = copy(w.buf, w.buf[off-w.off:])
		w.step = min(2*w.step, windowStep)
		// Whoever looks at nearly the same bytes again, a little further on each time,
		// does not move them each time.
		ahead = w.step
	} else {
		w.step = windowFirst
	}
	want := int(min(int64(max(n+ahead, w.step)), w.size-off))
	if cap(w.buf) < want {
		grown := make([]byte, want)
		copy(grown, w.buf[:keep])
		w.buf = grown
	}
	w.buf, w.off = w.buf[:want], off
	m, err := w.f.ReadAt(w.buf[keep:], off+int64(keep))
	w.buf = w.buf[:keep+m]
	if keep+m >= n {
		return w.buf, nil
	}
	if err == nil || err == io.EOF {
		// The file became shorter while it was read.
		w.size = off + int64(keep+m)
		return w.buf, nil
	}
	w.buf = w.buf[:0]
	return nil, err
}
