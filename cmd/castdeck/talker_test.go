package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lockedBuffer is a buffer that one writes while another reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines counts them.
func (l *lockedBuffer) lines() int { return strings.Count(l.String(), "\n") }

// valve is a writer that stands still until it is opened.
type valve struct {
	open chan struct{}
	b    lockedBuffer
}

func (v *valve) Write(p []byte) (int, error) {
	<-v.open
	return v.b.Write(p)
}

func leftOut(n int) []byte { return fmt.Appendf(nil, "%d left out\n", n) }

// TestTalkerNeverWaits: whoever writes goes on while nobody reads; memory is bounded,
// and what was left out is told where it is missing.
func TestTalkerNeverWaits(t *testing.T) {
	v := &valve{open: make(chan struct{})}
	talk := newTalker(v, leftOut)
	line := append(bytes.Repeat([]byte("x"), 999), '\n')
	const lines = 5000
	for range lines {
		if n, err := talk.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	talk.mu.Lock()
	held := cap(talk.waiting)
	talk.mu.Unlock()
	if held > 2*maxTalk {
		t.Errorf("%d bytes held", held)
	}
	if talk.idle() {
		t.Error("idle")
	}
	if err := talk.close(10 * time.Millisecond); !errors.Is(err, errNobodyReads) {
		t.Errorf("closed with %v", err)
	}

	// The same with a reader that wakes up.
	v = &valve{open: make(chan struct{})}
	talk = newTalker(v, leftOut)
	for range lines {
		talk.Write(line)
	}
	talk.takeAll()
	talk.Write([]byte("the last\n"))
	close(v.open)
	if err := talk.close(time.Minute); err != nil {
		t.Fatal(err)
	}
	said := v.b.String()
	told := 0 // of those left out, at one place or, where the writer came between, at two
	for _, m := range regexp.MustCompile(`(?m)^(\d+) left out$`).FindAllStringSubmatch(said, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		told += n
	}
	if n := strings.Count(said, "xxx\n"); n+told != lines || told == 0 {
		t.Errorf("%d lines of %d, %d left out", n, lines, told)
	}
	if !strings.HasSuffix(said, "\nthe last\n") {
		t.Errorf("it ends with %q", said[len(said)-60:])
	}
}

func TestTalkerKeepsMessagesWhole(t *testing.T) {
	var b lockedBuffer
	talk := newTalker(&b, leftOut)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				fmt.Fprintf(talk, "%s\n", strings.Repeat(string(rune('a'+i)), 50))
			}
		})
	}
	all.Wait()
	if err := talk.close(time.Minute); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(b.String()) {
		if n++; line != strings.Repeat(line[:1], 50)+"\n" {
			t.Fatalf("%q", line)
		}
	}
	if n != 8*200 {
		t.Errorf("%d lines", n)
	}
}

func TestTalkerErrors(t *testing.T) {
	for _, c := range []struct{ err, want error }{
		{syscall.EPIPE, nil}, // the reader has had enough
		{syscall.ENOSPC, syscall.ENOSPC},
	} {
		r, w := io.Pipe()
		r.CloseWithError(c.err)
		talk := newTalker(w, leftOut)
		talk.Write([]byte("a\n"))
		if err := talk.close(time.Minute); !errors.Is(err, c.want) {
			t.Errorf("%v: closed with %v", c.err, err)
		}
		if _, err := talk.Write([]byte("b\n")); err == nil {
			t.Errorf("%v: it takes more", c.err)
		}
	}
}
