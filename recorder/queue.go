package recorder

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"castdeck/format"
)

const (
	// A batch holds this many datagrams or bytes of payload, whichever comes first.
	batchDatagrams = 1024
	batchBytes     = 256 << 10
	// orderPause is how long after the last batch nothing older can come any more: longer
	// than maxBatchAge, maxRest and what a datagram takes to get to its socket.
	orderPause = 250 * time.Millisecond
	// maxHeld bounds the batches that wait for their place in the order of time.
	maxHeld = 16
	// batchStats bounds the records of totals in a batch.
	batchStats = 1024
	// datagramMemory and statsMemory are sizes in bytes for the bound of the queue; a
	// test holds them.
	datagramMemory = 144
	statsMemory    = 40
)

// queue hands batches from the receive loop to the writing goroutine and back.
// The number of batches, and so the memory, is fixed; each is made when it is
// first needed.
type queue struct {
	full chan parcel        // to the writer
	free chan *format.Batch // back
	// ordered makes the writing goroutine put datagrams in order of their times; set
	// where there are several sockets.
	ordered bool
	// stats is the room for totals in each batch.
	stats int
	made  int // batches so far; the receive loop's

	strain   atomic.Uint64 // a float64, 0 to 1
	strainAt int64         // the receive loop's

	bytes   atomic.Int64 // size of what is in full
	dropped atomic.Uint64
	failed  atomic.Bool
}

func newQueue(memory int64, subscriptions int) *queue {
	stats := min(subscriptions, batchStats)
	each := int64(batchBytes + batchDatagrams*datagramMemory + stats*statsMemory)
	n := int(max(memory/each, 2))
	return &queue{full: make(chan parcel, n), free: make(chan *format.Batch, n), stats: stats}
}

// get returns an empty batch and waits for one where all are under way. The
// writing goroutine gives every batch back, also when its writer has failed.
func (q *queue) get() *format.Batch {
	select {
	case b := <-q.free:
		return b
	default:
	}
	if q.made < cap(q.full) {
		q.made++
		b := format.NewBatch(batchDatagrams, batchBytes)
		b.Stats = make([]format.InterfaceStats, 0, q.stats)
		return b
	}
	return <-q.free
}

// put hands a batch over. It never waits: the channel has room for every batch.
func (q *queue) put(p parcel) {
	q.bytes.Add(int64(p.batch.Size()))
	q.full <- p
}

// pressure is 0 where no batch waits for the writer, and 1 where all do but the
// one that it has: then the receive loop waits. Receive buffers that fill count
// too: then the writer takes processor time that the loop needs, before the queue
// has grown.
func (q *queue) pressure() float64 {
	waiting := float64(len(q.full)) / float64(cap(q.full)-1)
	return min(1, max(waiting, math.Float64frombits(q.strain.Load())))
}

// strainMemory is how long a full receive buffer counts, in ns.
const strainMemory = 100e6

// strained notes, at the time now, the largest share of its buffer that a socket
// had filled. Up to a quarter is the pacer's doing. The receive loop calls it.
func (q *queue) strained(filled float64, now int64) {
	strain := max(0, filled-0.25) / 0.75
	if strain >= math.Float64frombits(q.strain.Load()) || now-q.strainAt > strainMemory {
		q.strain.Store(math.Float64bits(strain))
		q.strainAt = now
	}
}

// write hands every batch to w until the queue is closed, and flushes. After the
// first error it calls w no more and counts what still comes; onError is called
// once, at once.
func (q *queue) write(w format.BatchWriter, interval time.Duration, onError func()) (err error) {
	flusher, _ := w.(format.Flusher)
	fail := func(what string, cause error) {
		err = fmt.Errorf("%s: %w", what, cause)
		q.failed.Store(true)
		onError()
	}
	timer := time.NewTimer(interval)
	timer.Stop()
	armed, unflushed := false, false
	deliver := func(b *format.Batch) {
		if err == nil {
			if cause := w.WriteBatch(b); cause != nil {
				fail("writing the recording", cause)
			}
			unflushed = flusher != nil
		}
		if err != nil {
			q.dropped.Add(uint64(len(b.Datagrams)))
		}
	}
	release := func(b *format.Batch) {
		b.Reset()
		q.free <- b
	}
	var latest time.Time // when a parcel came
	order := orderer{deliver: deliver, release: release, limit: min(maxHeld, cap(q.full)/4)}
	flush := func() {
		if unflushed && err == nil {
			if cause := flusher.Flush(); cause != nil {
				fail("flushing the recording", cause)
			}
		}
		armed, unflushed = false, false
	}
	for {
		select {
		case p, ok := <-q.full:
			if !ok {
				order.flush()
				flush()
				return err
			}
			q.bytes.Add(-int64(p.batch.Size()))
			if q.ordered {
				latest = time.Now()
				order.add(p)
			} else {
				deliver(p.batch)
				release(p.batch)
			}
			if !armed && err == nil && (unflushed || order.waiting()) {
				armed = true
				timer.Reset(interval)
			}
		case <-timer.C:
			// While parcels come, the next one brings what is held to its place. Only
			// after a pause there is no next one to wait for.
			if time.Since(latest) > orderPause {
				order.flush()
			}
			flush()
			if order.waiting() && err == nil {
				armed = true
				timer.Reset(max(interval, orderPause))
			}
		}
	}
}
