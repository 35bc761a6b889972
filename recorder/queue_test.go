package recorder

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"castdeck/format"
)

func TestQueueMemory(t *testing.T) {
	if got := unsafe.Sizeof(format.Datagram{}); got > datagramMemory {
		t.Errorf("a Datagram is %d bytes, the bound reckons with %d", got, datagramMemory)
	}
	if got := unsafe.Sizeof(format.InterfaceStats{}); got != statsMemory {
		t.Errorf("InterfaceStats are %d bytes, the bound reckons with %d", got, statsMemory)
	}
	for _, c := range []struct {
		memory int64
		subs   int
	}{{minQueue, 1}, {defaultQueue, 1}, {defaultQueue, MaxSubscriptions}} {
		q := newQueue(c.memory, c.subs)
		used := int64(0)
		for range cap(q.full) {
			b := q.get()
			used += int64(cap(b.Buf)) + int64(cap(b.Datagrams))*int64(unsafe.Sizeof(format.Datagram{})) +
				int64(cap(b.Stats))*int64(unsafe.Sizeof(format.InterfaceStats{}))
		}
		if used > c.memory || used < c.memory/2 {
			t.Errorf("queue of %d bytes uses %d", c.memory, used)
		}
		if cap(q.free) < cap(q.full) {
			t.Errorf("%d batches, room to give %d back", cap(q.full), cap(q.free))
		}
	}
}

// script is a writer that fails where it is told to.
type script struct {
	writes, flushes   int
	failWrite         int // the n-th, from 1
	failFlush         int
	written           []int // datagrams in each batch
	flushedAt         []int // number of writes at each flush
	wrote             chan int
	released, blocked chan struct{}
}

var errScript = errors.New("disk is gone")

func (s *script) WriteBatch(b *format.Batch) error {
	s.writes++
	if s.blocked != nil {
		close(s.blocked)
		s.blocked = nil
		<-s.released
	}
	if s.writes == s.failWrite {
		return errScript
	}
	s.written = append(s.written, len(b.Datagrams))
	return nil
}

type flushingScript struct{ *script }

func (s flushingScript) Flush() error {
	s.flushes++
	s.flushedAt = append(s.flushedAt, s.writes)
	if s.wrote != nil {
		s.wrote <- s.writes
	}
	if s.flushes == s.failFlush {
		return errScript
	}
	return nil
}

var aDatagram = format.Datagram{
	Time: 1, Src: netip.MustParseAddrPort("10.0.0.1:9"), Dst: netip.MustParseAddrPort("239.1.1.1:5000"), Length: 3, Payload: []byte("abc"),
}

// fill hands over n batches of 1, 2, 3... datagrams.
func fill(q *queue, n int) {
	for i := range n {
		b := q.get()
		for range i + 1 {
			b.Append(&aDatagram)
		}
		q.put(parcel{batch: b})
	}
}

func TestQueueWrites(t *testing.T) {
	for _, c := range []struct {
		name    string
		w       script
		flusher bool
		want    string // written, flushes
		dropped uint64
		err     string
	}{
		{"plain", script{}, false, "[1 2 3] []", 0, ""},
		{"flushes at the end", script{}, true, "[1 2 3] [3]", 0, ""},
		{"second write fails", script{failWrite: 2}, false, "[1] []", 2 + 3, "writing the recording: disk is gone"},
		{"and is not flushed", script{failWrite: 2}, true, "[1] []", 2 + 3, "writing the recording: disk is gone"},
		{"flush fails", script{failFlush: 1}, true, "[1 2 3] [3]", 0, "flushing the recording: disk is gone"},
	} {
		q := newQueue(minQueue, 1)
		fill(q, 3)
		if want := 3 / float64(cap(q.full)-1); q.pressure() != want {
			t.Errorf("%s: pressure %v, want %v", c.name, q.pressure(), want)
		}
		close(q.full)
		var w format.BatchWriter = &c.w
		if c.flusher {
			w = flushingScript{&c.w}
		}
		told := 0
		err := q.write(w, time.Hour, func() { told++ })
		if got := fmt.Sprint(c.w.written, c.w.flushedAt); got != c.want {
			t.Errorf("%s: wrote and flushed %s, want %s", c.name, got, c.want)
		}
		if (err == nil) != (c.err == "") || err != nil && (err.Error() != c.err || !errors.Is(err, errScript)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.err)
		}
		if q.dropped.Load() != c.dropped || q.bytes.Load() != 0 || (told == 1) != (err != nil) || told > 1 {
			t.Errorf("%s: dropped %d, want %d; %d bytes left; told %d times", c.name, q.dropped.Load(), c.dropped, q.bytes.Load(), told)
		}
		if len(q.free) != 3 {
			t.Errorf("%s: %d of 3 batches came back", c.name, len(q.free))
		}
		for range 3 {
			if b := <-q.free; len(b.Datagrams)+len(b.Buf)+len(b.Stats) != 0 {
				t.Errorf("%s: a batch came back with %d datagrams", c.name, len(b.Datagrams))
			}
		}
	}
}

func TestQueueFlushesByTime(t *testing.T) {
	q := newQueue(minQueue, 1)
	s := &script{wrote: make(chan int, 10)}
	done := make(chan error)
	go func() { done <- q.write(flushingScript{s}, time.Millisecond, func() {}) }()
	fill(q, 1)
	select {
	case n := <-s.wrote:
		if n != 1 {
			t.Errorf("flushed after %d writes", n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not flushed")
	}
	close(q.full)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Nothing was written since: nothing to flush.
	if s.flushes != 1 {
		t.Errorf("%d flushes, want 1", s.flushes)
	}
}

func TestCheck(t *testing.T) {
	ok := sub("239.1.1.1:5000", "", "eth0")
	for _, c := range []struct {
		subs []Subscription
		want string
	}{
		{nil, "no group to record"},
		{[]Subscription{{}}, "is no address to receive on"},
		{[]Subscription{sub("10.0.0.1:5000", "", "")}, ""},
		{[]Subscription{sub("10.0.0.1:5000", "10.0.0.2", "")}, "10.0.0.1 is not a multicast address, and only groups are joined by source"},
		{[]Subscription{sub("[::ffff:239.1.1.1]:5000", "", "")}, "no address to receive on"},
		{[]Subscription{sub("239.1.1.1:0", "", "")}, "port 0"},
		{[]Subscription{sub("239.1.1.1:5000", "::1", "")}, "::1@239.1.1.1:5000: source and group are of different families"},
		{make([]Subscription, MaxSubscriptions+1), "at most 65536"},
		{[]Subscription{ok, sub("239.1.1.1:5000", "", "eth1"), sub("239.1.1.1:5000", "10.0.0.1", "eth0")}, ""},
	} {
		err := check(c.subs, Options{})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d subscriptions: %v, want %q", len(c.subs), err, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := Options{Queue: 1}.withDefaults()
	if err != nil || o.Buffer != 64<<20 || o.Queue != 2<<20 || o.FlushInterval != time.Second || o.StatsInterval != time.Second {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []Options{{Buffer: -1}, {Queue: -1}, {FlushInterval: -1}, {StatsInterval: -1}} {
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}

// TestQueueStrain: receive buffers that fill are pressure, for a while, although
// nothing waits for the writer.
func TestQueueStrain(t *testing.T) {
	q := newQueue(minQueue, 1)
	for _, c := range []struct {
		filled float64
		now    int64
		want   float64
	}{
		{0.1, 0, 0},                // the pacer lets a quarter fill
		{0.25, 1, 0},               // just that
		{0.625, 2, 0.5},            // the loop did not wake in time
		{0.1, 3, 0.5},              // and is remembered
		{1, 4, 1},                  // worse
		{0.1, 4 + strainMemory, 1}, // still
		{0.1, 5 + strainMemory, 0}, // over
	} {
		q.strained(c.filled, c.now)
		if got := q.pressure(); got != c.want {
			t.Errorf("filled %v at %d: pressure %v, want %v", c.filled, c.now, got, c.want)
		}
	}
}
