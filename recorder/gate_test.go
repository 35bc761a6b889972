package recorder

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"castdeck/format"
)

// numbers gathers the numbers in payloads, and what came with them.
type numbers struct {
	list   []int
	stats  []format.InterfaceStats
	events []format.Event
	err    error
}

func (n *numbers) WriteBatch(b *format.Batch) error {
	for i := range b.Datagrams {
		n.list = append(n.list, int(binary.BigEndian.Uint64(b.Datagrams[i].Payload)))
	}
	n.stats = append(n.stats, b.Stats...)
	n.events = append(n.events, b.Events...)
	return n.err
}

// numbered makes a batch of n datagrams from number first on, a millisecond apart
// since 1970, of size bytes.
func numbered(first, n, size int) *format.Batch {
	b := format.NewBatch(n, n*size)
	payload := make([]byte, size)
	for i := range n {
		binary.BigEndian.PutUint64(payload, uint64(first+i))
		b.Append(&format.Datagram{Time: int64(first+i) * 1e6, Payload: payload})
	}
	return b
}

// run checks that the numbers are those from first to before end.
func (n *numbers) run(t *testing.T, first, end int) {
	t.Helper()
	if len(n.list) != end-first {
		t.Fatalf("%d datagrams passed, want %d to %d", len(n.list), first, end-1)
	}
	for i, k := range n.list {
		if k != first+i {
			t.Fatalf("place %d holds datagram %d, want %d", i, k, first+i)
		}
	}
}

func feedGate(t *testing.T, g *Gate, first, end, size int) {
	t.Helper()
	for ; first < end; first += 37 {
		if err := g.WriteBatch(numbered(first, min(37, end-first), size)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGateKeeps: the trigger lets through exactly what is not older than Keep.
func TestGateKeeps(t *testing.T) {
	var out numbers
	g := NewGate(&out, GateOptions{Keep: 5 * time.Second, Memory: 1 << 30})
	feedGate(t, g, 0, 60_000, 64)
	if len(out.list) > 0 || g.Flush() != nil {
		t.Fatal("something passed before the trigger")
	}
	if n := len(g.held) + len(g.free); n > 5000/1024+3 {
		t.Errorf("%d batches are held for 5 s of 1,000 datagrams", n)
	}
	if err := g.Open(60_000 * 1e6); err != nil {
		t.Fatal(err)
	}
	feedGate(t, g, 60_000, 61_000, 64)
	if err := g.Open(61_000 * 1e6); err != nil { // a second trigger
		t.Fatal(err)
	}
	out.run(t, 55_000, 61_000)
	if g.PassedBy() != 55_000 || g.Crowded() != 0 {
		t.Errorf("%d passed by, %d for want of memory", g.PassedBy(), g.Crowded())
	}
}

// TestGateIsOld: after a silence the ring holds nothing that is young enough.
func TestGateIsOld(t *testing.T) {
	var out numbers
	g := NewGate(&out, GateOptions{Keep: time.Second, Memory: 1 << 30})
	feedGate(t, g, 0, 1000, 64)
	if err := g.Open(10_000 * 1e6); err != nil {
		t.Fatal(err)
	}
	if len(out.list) > 0 || g.PassedBy() != 1000 {
		t.Errorf("%d passed, %d passed by", len(out.list), g.PassedBy())
	}
}

// TestGateIsBounded: memory limits what is held, and the newest stays.
func TestGateIsBounded(t *testing.T) {
	var out numbers
	g := NewGate(&out, GateOptions{Keep: time.Hour, Memory: 4 << 20})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	feedGate(t, g, 0, 100_000, 1400)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 5<<20 {
		t.Errorf("%d bytes for a ring of 4 MiB", grown)
	}
	if err := g.Open(100_000 * 1e6); err != nil {
		t.Fatal(err)
	}
	if n := len(out.list); n < 1000 || out.list[n-1] != 99_999 {
		t.Fatalf("%d held", n)
	}
	out.run(t, 100_000-len(out.list), 100_000)
	if g.PassedBy()+uint64(len(out.list)) != 100_000 || g.Crowded() != g.PassedBy() {
		t.Errorf("%d passed by, %d of them for want of memory, %d held", g.PassedBy(), g.Crowded(), len(out.list))
	}
}

// TestGateFrom: by time the first datagram is that of the time, and totals and events
// that came before come with it.
func TestGateFrom(t *testing.T) {
	var out numbers
	g := NewGate(&out, GateOptions{From: 500 * 1e6})
	first := &format.Batch{
		Stats:  []format.InterfaceStats{{Interface: 2, Time: 1, Dropped: 7}},
		Events: []format.Event{{Kind: "x"}},
	}
	if err := g.WriteBatch(first); err != nil || len(out.stats) > 0 {
		t.Fatal("totals passed before the time")
	}
	feedGate(t, g, 0, 1000, 64)
	out.run(t, 500, 1000)
	if g.PassedBy() != 500 || len(out.stats) != 1 || out.stats[0].Dropped != 7 || len(out.events) != 1 {
		t.Errorf("%d passed by, %+v, %+v", g.PassedBy(), out.stats, out.events)
	}
}

func TestGateNeverOpens(t *testing.T) {
	var out numbers
	g := NewGate(&out, GateOptions{Keep: time.Hour, Memory: 1 << 20})
	feedGate(t, g, 0, 100, 64)
	g.Finish()
	if g.PassedBy() != 100 || len(out.list) > 0 {
		t.Errorf("%d passed by", g.PassedBy())
	}
}

func TestGateTellsErrors(t *testing.T) {
	out := numbers{err: errors.New("no")}
	g := NewGate(&out, GateOptions{Keep: time.Hour, Memory: 1 << 20})
	feedGate(t, g, 0, 100, 64)
	if err := g.Open(0); !errors.Is(err, out.err) {
		t.Errorf("got %v", err)
	}
}

// TestGateAllocatesNothing: in steady state it copies into memory that it has.
func TestGateAllocatesNothing(t *testing.T) {
	g := NewGate(&numbers{}, GateOptions{Keep: time.Hour, Memory: 2 << 20})
	b := numbered(0, 500, 200)
	for range 100 {
		g.hold(b.Datagrams)
	}
	if n := testing.AllocsPerRun(100, func() { g.hold(b.Datagrams) }); n > 0 {
		t.Errorf("%v allocations a batch", n)
	}
}
