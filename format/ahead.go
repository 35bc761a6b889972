package format

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Damaged says that err is damage: a reader that returned it goes on behind it.
func Damaged(err error) bool {
	var c *CorruptError
	return errors.As(err, &c) || errors.Is(err, ErrVersion)
}

// Ahead reads a source in a goroutine of its own, so that the next batch is read,
// unpacked and decoded while the caller works on the one before. It implements
// BatchReader, with the order and the errors of the source, and is not safe for
// concurrent use. In steady state it allocates nothing.
//
// The goroutine begins with the first ReadBatch and lasts until the source ends or
// Close is called. Until then it uses the source, and nobody else may.
//
// Memory: the batch that waits and the one that is being read, of at most 4 MiB (see
// Batch.Size). Behind a larger one nothing is read until the caller is done with it,
// so that a file of the largest chunks costs no more than without Ahead.
type Ahead struct {
	src        BatchReader
	interfaces func() []Interface
	known      []Interface

	begun, closed bool
	held          bool  // the goroutine waits until the caller is done with a large batch
	err           error // that ended the source; sticky
	items         chan aheadItem
	free          chan *Batch
	again         chan struct{}
	quit          chan struct{}
	done          chan struct{} // closed when the goroutine has ended
}

// aheadItem is a batch with the interfaces known by then, or an error.
type aheadItem struct {
	batch      *Batch
	interfaces []Interface
	err        error
	held       bool
}

const (
	aheadBatches = 2
	aheadSize    = 4 << 20
)

// NewAhead reads src ahead, which knows the interfaces so far when it is asked between
// batches. Nothing is read before the first ReadBatch.
func NewAhead(src BatchReader, interfaces func() []Interface) *Ahead {
	return &Ahead{
		src: src, interfaces: interfaces, known: interfaces(),
		items: make(chan aheadItem, aheadBatches), free: make(chan *Batch, aheadBatches),
		again: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// Interfaces known when the batch that was returned last was read.
func (a *Ahead) Interfaces() []Interface { return a.known }

// ReadBatch is Read without an end.
func (a *Ahead) ReadBatch(b *Batch) error { return a.Read(context.Background(), b) }

// Read returns what the source returns next. The batch comes back with other memory
// than it was given, which is exchanged with the source. An error that ends the source
// is returned again by later calls. When ctx ends so does Read, with its error, even
// where the source waits for a pipe.
func (a *Ahead) Read(ctx context.Context, b *Batch) error {
	b.Reset()
	switch {
	case a.closed:
		return fmt.Errorf("reading ahead: %w", fs.ErrClosed)
	case a.err != nil:
		return a.err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if !a.begun {
		a.begun = true
		for range aheadBatches {
			a.free <- new(Batch)
		}
		go a.run()
	}
	if a.held {
		// The goroutine waits, so all its batches are free. What it reads next goes into
		// the large one.
		a.held = false
		first, second := <-a.free, <-a.free
		*b, *first = *first, *b
		a.free <- first
		a.free <- second
		a.again <- struct{}{}
	}
	var item aheadItem
	select {
	case item = <-a.items:
	case <-ctx.Done():
		return ctx.Err()
	}
	a.known, a.held = item.interfaces, item.held
	*b, *item.batch = *item.batch, *b
	a.free <- item.batch // there is room: it came from there
	if item.err != nil && !Damaged(item.err) {
		a.err = item.err
	}
	return item.err
}

// Idle says that nothing is there that Read would return at once.
func (a *Ahead) Idle() bool { return len(a.items) == 0 }

// Close ends the reading. It waits for a read of the source that is under way, which
// can last where that is a pipe, and does not close the source. Closing again does
// nothing.
func (a *Ahead) Close() error {
	if !a.closed {
		a.closed = true
		close(a.quit)
		if a.begun {
			<-a.done
		}
	}
	return nil
}

func (a *Ahead) run() {
	defer close(a.done)
	for {
		var b *Batch
		select {
		case b = <-a.free:
		case <-a.quit:
			return
		}
		err := a.src.ReadBatch(b)
		if err != nil {
			b.Reset()
		}
		held := b.Size() > aheadSize
		a.items <- aheadItem{b, a.interfaces(), err, held} // there is room for all
		if err != nil && !Damaged(err) {
			return
		}
		if held {
			select {
			case <-a.again:
			case <-a.quit:
				return
			}
		}
	}
}
