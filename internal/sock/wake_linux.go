package sock

import (
	"sync"

	"golang.org/x/sys/unix"
)

// waker is an eventfd, eventfd(2). The lock keeps set from writing to a
// descriptor that was closed and given to somebody else.
type waker struct {
	mu sync.Mutex
	fd int // -1 once closed
}

func (w *waker) set() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		one := [8]byte{7: 1} // not 0 in either byte order
		// EAGAIN would mean that it has been set more often than it can count.
		unix.Write(w.fd, one[:])
	}
}

func (w *waker) clear() {
	var b [8]byte
	unix.Read(w.fd, b[:])
}

func (w *waker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		unix.Close(w.fd)
		w.fd = -1
	}
}
