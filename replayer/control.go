package replayer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// ErrNotSeekable is the error of a seek in a source that cannot go back.
var ErrNotSeekable = errors.New("this source cannot be read from another place")

// TimeSeeker is a source that can go on from another place. SeekTime makes the next
// ReadBatch yield the first datagram recorded at or after t, ns since the Unix epoch;
// a t before the first is the start, one behind the last the end. The goroutine that
// reads calls it.
type TimeSeeker interface {
	SeekTime(t int64) error
}

// A command changes a replay that goes on. The sending goroutine runs it.
type command func(*outlet)

// control takes commands from any goroutine to the sending one.
type control struct {
	// attention is read between two datagrams and while waiting: it is set where
	// commands wait, or where the context of the run has ended.
	attention atomic.Bool

	mu       sync.Mutex
	commands []command
	wake     chan struct{} // has room for one
}

func newControl() *control { return &control{wake: make(chan struct{}, 1)} }

// maxCommands bounds those that wait: a caller without end must not fill the memory
// while the sender sleeps in the kernel.
const maxCommands = 1000

// put queues a command. Too many are dropped, the newest first.
func (c *control) put(do command) {
	c.mu.Lock()
	if len(c.commands) < maxCommands {
		c.commands = append(c.commands, do)
	}
	c.attention.Store(true)
	c.mu.Unlock()
	c.nudge()
}

// nudge ends a hold.
func (c *control) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take returns what waits. Attention stays set where ctx has ended.
func (c *control) take(ctx context.Context) (commands []command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	commands, c.commands = c.commands, nil
	c.attention.Store(ctx.Err() != nil)
	return commands
}

// Pause holds the replay before its next datagram. Like Resume, Step, SetSpeed,
// SeekTime and SeekBy it may be called from any goroutine and returns at once; the sender does as it
// is told within some 50 ms. What is asked of a replayer while nothing runs holds for
// the next Run.
func (r *Replayer) Pause() { r.control.put(func(o *outlet) { o.paused, o.steps = true, 0 }) }

// Resume goes on after Pause: the datagram that was held leaves now, what follows at
// its distance from it.
func (r *Replayer) Resume() { r.control.put((*outlet).resume) }

// TogglePause pauses, or resumes where it is paused.
func (r *Replayer) TogglePause() {
	r.control.put(func(o *outlet) {
		if o.paused {
			o.resume()
		} else {
			o.paused, o.steps = true, 0
		}
	})
}

func (o *outlet) resume() {
	if o.paused {
		o.paused, o.steps, o.rebase = false, 0, true
	}
}

// Step sends the next n datagrams at once and then holds, also where the replay was
// not paused. More steps add up.
func (r *Replayer) Step(n int) {
	if n <= 0 {
		return
	}
	r.control.put(func(o *outlet) {
		if !o.paused {
			o.paused, o.steps = true, 0
		}
		o.steps += n
	})
}

// SetSpeed changes the speed from the present on: a factor of the recorded rate, or
// of the constant rate where Pacing asks for one.
func (r *Replayer) SetSpeed(speed float64) error {
	if r.options.Max {
		return errMax
	}
	if !(speed >= minSpeed && speed <= maxSpeed) {
		return fmt.Errorf("speed %g is not between %g and %g", speed, minSpeed, float64(maxSpeed))
	}
	r.control.put(func(o *outlet) { o.setSpeed(speed) })
	return nil
}

var errMax = errors.New("at full speed there is no other speed")

// ScaleSpeed multiplies the speed, within the bounds of SetSpeed.
func (r *Replayer) ScaleSpeed(factor float64) error {
	if r.options.Max {
		return errMax
	}
	if !(factor > 0) {
		return fmt.Errorf("a factor of %g", factor)
	}
	r.control.put(func(o *outlet) { o.setSpeed(min(max(o.speed*factor, minSpeed), maxSpeed)) })
	return nil
}

// SeekTime goes on with the first datagram recorded at or after t, ns since the Unix
// epoch, forwards or backwards; behind the end of the recording the replay ends. It
// is refused where the source of the Run that goes on is no TimeSeeker. What was read
// ahead and not sent is not in the report.
func (r *Replayer) SeekTime(t int64) error {
	if !r.seekable.Load() {
		return ErrNotSeekable
	}
	r.control.put(func(o *outlet) { o.seek(t) })
	return nil
}

// SeekBy goes on ns of recorded time from the present place, backwards where it is
// negative.
func (r *Replayer) SeekBy(ns int64) error {
	if !r.seekable.Load() {
		return ErrNotSeekable
	}
	r.control.put(func(o *outlet) { o.seek(addTime(o.position, ns)) })
	return nil
}
