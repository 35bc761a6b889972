package format

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync/atomic"
	"testing"
)

// sized is a source of left batches of size bytes. Reading is called at the start of
// each ReadBatch, with the memory that it was given.
type sized struct {
	left, size int
	reading    func(*Batch)
}

func (s *sized) ReadBatch(b *Batch) error {
	s.reading(b)
	b.Reset()
	if s.left == 0 {
		return io.EOF
	}
	s.left--
	b.Buf = slices.Grow(b.Buf, s.size)[:s.size]
	b.Datagrams = append(b.Datagrams, Datagram{Payload: b.Buf})
	return nil
}

func noInterfaces() []Interface { return nil }

// TestAheadOrder: everything comes in the order of the source, damage between the
// batches, with the interfaces known at each place; what ends the source stays.
func TestAheadOrder(t *testing.T) {
	broken := errors.New("disk broken")
	for _, end := range []error{io.EOF, broken} {
		s := &script{ifaces: make([]Interface, 10), stay: end}
		s.steps = []any{at(1), at(2), &CorruptError{Reason: "first"}, &CorruptError{Reason: "second"}, at(3), ErrVersion, at(4)}
		a := NewAhead(s, s.source().Interfaces)
		var b Batch
		var got []string
		for {
			err := a.ReadBatch(&b)
			if err == nil {
				got = append(got, fmt.Sprintf("%d of %d", b.Datagrams[0].Time, len(a.Interfaces())))
				continue
			}
			if len(b.Datagrams)+len(b.Stats)+len(b.Buf) > 0 {
				t.Errorf("a batch beside %v", err)
			}
			if err == end {
				break
			}
			got = append(got, err.Error())
		}
		want := []string{"1 of 1", "2 of 2", "damaged at byte 0: first", "damaged at byte 0: second", "3 of 5", ErrVersion.Error(), "4 of 7"}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if err := a.ReadBatch(&b); err != end {
			t.Errorf("behind the end: %v", err)
		}
		a.Close()
		if err := a.ReadBatch(&b); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestAheadClose: Close waits for the goroutine, wherever that is; nothing is started
// before the first ReadBatch.
func TestAheadClose(t *testing.T) {
	for reads := range 6 {
		var closed atomic.Bool
		// It waits for room, or until a large batch is done with.
		s := &sized{left: 100, size: 1 + reads%2*aheadSize, reading: func(*Batch) {
			if closed.Load() {
				t.Error("read after Close")
			}
		}}
		a := NewAhead(s, noInterfaces)
		var b Batch
		for range reads {
			if err := a.ReadBatch(&b); err != nil {
				t.Fatal(err)
			}
		}
		a.Close()
		closed.Store(true)
		// The race detector sees a goroutine that goes on.
		if reads == 0 && s.left != 100 {
			t.Errorf("%d batches were read before the first ReadBatch", 100-s.left)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestAheadContext: a source that waits for ever does not keep Read from ending.
func TestAheadContext(t *testing.T) {
	blocked := make(chan struct{})
	waiting := make(chan struct{})
	a := NewAhead(&sized{reading: func(*Batch) { close(waiting); <-blocked }}, noInterfaces)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-waiting; cancel() }()
	var b Batch
	if err := a.Read(ctx, &b); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(blocked)
	if err := a.ReadBatch(&b); err != io.EOF {
		t.Errorf("read on: %v", err)
	}
	a.Close()
}

// TestAheadLarge: nothing is read while the caller has a large batch, and its memory is
// used again: there is one of that size, not three.
func TestAheadLarge(t *testing.T) {
	var inRead atomic.Bool
	n := 0
	s := &sized{left: 10, size: aheadSize + 1, reading: func(b *Batch) {
		if !inRead.Load() {
			t.Errorf("batch %d is read while the caller has one", n)
		}
		if n > 0 && cap(b.Buf) < aheadSize {
			t.Errorf("batch %d is read into new memory", n)
		}
		n++
	}}
	a := NewAhead(s, noInterfaces)
	defer a.Close()
	var b Batch
	for {
		inRead.Store(true)
		err := a.ReadBatch(&b)
		inRead.Store(false)
		if err == io.EOF {
			break
		}
		if err != nil || len(b.Buf) != aheadSize+1 {
			t.Fatal(err, len(b.Buf))
		}
	}
	if n != 11 {
		t.Errorf("%d reads", n)
	}
}

func TestAheadDoesNotAllocate(t *testing.T) {
	a := NewAhead(&endless{n: 16}, noInterfaces)
	defer a.Close()
	var b Batch
	for range 10 {
		a.ReadBatch(&b)
	}
	if n := testing.AllocsPerRun(1000, func() { a.ReadBatch(&b) }); n != 0 {
		t.Errorf("%.2f allocations per batch", n)
	}
}

// BenchmarkAhead is what handing over a batch costs.
func BenchmarkAhead(b *testing.B) {
	a := NewAhead(&endless{n: 16}, noInterfaces)
	defer a.Close()
	var batch Batch
	b.ReportAllocs()
	for b.Loop() {
		a.ReadBatch(&batch)
	}
}
