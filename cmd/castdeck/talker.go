package main

import (
	"errors"
	"io"
	"sync"
	"syscall"
	"time"
)

// maxTalk bounds what waits for a slow reader, in bytes.
const maxTalk = 1 << 20

// talker writes to a reader that may be slow or asleep: a terminal after ctrl-S, a pipe
// that nobody empties. Who writes to it never waits, because a recording does not wait
// for its listeners; what finds no room is left out, and counted. Each Write is a whole
// message. It is safe for concurrent use.
type talker struct {
	w       io.Writer
	omitted func(n int) []byte // the message that n were left out

	mu      sync.Mutex
	waiting []byte
	busy    bool // in w.Write
	missing int
	all     bool // everything is taken from now on
	moved   int  // how often w.Write has returned
	err     error
	closed  bool
	wake    chan struct{}
	done    chan struct{}
}

func newTalker(w io.Writer, omitted func(n int) []byte) *talker {
	t := &talker{w: w, omitted: omitted, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go t.run()
	return t
}

// Write takes a message, or leaves it out. It returns the first error of the writer
// behind it, which is known only after some time.
func (t *talker) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.err != nil:
		return 0, t.err
	case t.closed:
		return 0, io.ErrClosedPipe
	case !t.all && len(t.waiting)+len(p) > maxTalk:
		t.missing++
		return len(p), nil
	case t.missing > 0:
		t.waiting = append(t.waiting, t.omitted(t.missing)...)
		t.missing = 0
	}
	t.waiting = append(t.waiting, p...)
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// idle says that everything was written.
func (t *talker) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.busy && len(t.waiting) == 0
}

// takeAll leaves nothing out any more: what is said at the end is bounded, and people
// wait for it.
func (t *talker) takeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = true
}

func (t *talker) run() {
	defer close(t.done)
	for {
		t.mu.Lock()
		p, closed := t.waiting, t.closed
		t.waiting, t.busy = nil, len(p) > 0
		t.mu.Unlock()
		if len(p) == 0 {
			if closed {
				return
			}
			<-t.wake
			continue
		}
		_, err := t.w.Write(p)
		t.mu.Lock()
		t.busy = false
		t.moved++
		if t.err == nil {
			t.err = err
		}
		if t.err != nil {
			t.waiting = nil
		}
		t.mu.Unlock()
	}
}

var errNobodyReads = errors.New("nobody reads it")

// close waits until everything was written, but not longer than patience while nobody
// reads: then it returns errNobodyReads, and the write goes on. That a reader went
// away (EPIPE) is no error.
func (t *talker) close(patience time.Duration) error {
	t.mu.Lock()
	t.closed = true
	moved := t.moved
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
	for {
		timer := time.NewTimer(patience)
		select {
		case <-t.done:
			timer.Stop()
			if errors.Is(t.err, syscall.EPIPE) {
				return nil
			}
			return t.err
		case <-timer.C:
		}
		t.mu.Lock()
		still := t.moved == moved
		moved = t.moved
		t.mu.Unlock()
		if still {
			return errNobodyReads
		}
	}
}
