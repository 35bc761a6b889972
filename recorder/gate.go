package recorder

import (
	"time"

	"castdeck/format"
)

// GateOptions say when a Gate opens and what it lets through of what came before.
type GateOptions struct {
	// From, in ns since the Unix epoch, is the time of the first datagram that passes.
	// 0 leaves it to Open.
	From int64
	// Keep is how much of what came before Open passes too, by the datagrams' times.
	Keep time.Duration
	// Memory bounds what is held for Keep, in bytes; the oldest goes first. At least
	// two batches of 400 kB are held.
	Memory int64
}

// Gate is a format.BatchWriter that lets nothing through to another one before a
// moment: a time, or a trigger with a pre-trigger. What does not pass is counted as
// passed by; it is no loss. Totals and events wait until the gate is open. It is not
// safe for concurrent use.
type Gate struct {
	w       format.BatchWriter
	o       GateOptions
	open    bool
	held    []*format.Batch // oldest first
	free    []*format.Batch
	most    int
	newest  int64
	passed  uint64
	dropped uint64 // of them, for want of memory
	stats   []format.InterfaceStats
	events  []format.Event
}

// maxGateEvents bounds the events that wait, the latest ones.
const maxGateEvents = 1000

// NewGate makes a closed gate before w.
func NewGate(w format.BatchWriter, o GateOptions) *Gate {
	return &Gate{w: w, o: o, most: int(max(2, o.Memory/(batchBytes+batchDatagrams*datagramMemory)))}
}

// Opened says whether the gate is open.
func (g *Gate) Opened() bool { return g.open }

// PassedBy counts the datagrams that came and did not pass.
func (g *Gate) PassedBy() uint64 { return g.passed }

// Crowded counts those of PassedBy that were too much for Memory, not too old.
func (g *Gate) Crowded() uint64 { return g.dropped }

// WriteBatch writes what passes, and holds what may.
func (g *Gate) WriteBatch(b *format.Batch) error {
	if g.open {
		return g.w.WriteBatch(b)
	}
	g.note(b)
	if g.o.From == 0 {
		g.hold(b.Datagrams)
		return nil
	}
	// Nearly in order of time: behind one whole batch the rest passes.
	n := 0
	for i := range b.Datagrams {
		if b.Datagrams[i].Time >= g.o.From {
			n++
		}
	}
	if n == 0 {
		g.passed += udp(b.Datagrams)
		return nil
	}
	pass := make([]format.Datagram, 0, n)
	for i := range b.Datagrams {
		if b.Datagrams[i].Time >= g.o.From {
			pass = append(pass, b.Datagrams[i])
		}
	}
	g.passed += udp(b.Datagrams) - udp(pass)
	g.open = n == len(b.Datagrams)
	return g.write(pass, true)
}

// note keeps totals and events for later.
func (g *Gate) note(b *format.Batch) {
	for _, s := range b.Stats {
		if n := int(s.Interface) + 1; n > len(g.stats) {
			g.stats = append(g.stats, make([]format.InterfaceStats, n-len(g.stats))...)
		}
		g.stats[s.Interface] = s
	}
	g.events = append(g.events, b.Events...)
	if n := len(g.events) - maxGateEvents; n > 0 {
		g.events = append(g.events[:0], g.events[n:]...)
	}
}

// write passes datagrams on, with what was noted where that is due.
func (g *Gate) write(ds []format.Datagram, noted bool) error {
	b := format.Batch{Datagrams: ds}
	if noted {
		b.Events = g.events
		for i := range g.stats {
			if g.stats[i].Time != 0 {
				b.Stats = append(b.Stats, g.stats[i])
			}
		}
		g.events, g.stats = nil, nil
	}
	return g.w.WriteBatch(&b)
}

// hold copies datagrams into the ring, and lets go what is too old or too much.
func (g *Gate) hold(ds []format.Datagram) {
	for i := range ds {
		d := &ds[i]
		if n := len(g.held); n == 0 || !g.held[n-1].Append(d) {
			g.more().Append(d)
		}
		g.newest = d.Time
	}
	for len(g.held) > 1 && last(g.held[0]) < g.newest-int64(g.o.Keep) {
		g.letGo()
	}
}

func last(b *format.Batch) int64 { return b.Datagrams[len(b.Datagrams)-1].Time }

// more adds an empty batch to the ring.
func (g *Gate) more() *format.Batch {
	if len(g.held) == g.most {
		g.dropped += udp(g.held[0].Datagrams)
		g.letGo()
	}
	var b *format.Batch
	if n := len(g.free); n > 0 {
		b, g.free = g.free[n-1], g.free[:n-1]
	} else {
		b = format.NewBatch(batchDatagrams, batchBytes)
	}
	g.held = append(g.held, b)
	return b
}

// udp counts datagrams, without packets that are none.
func udp(ds []format.Datagram) (n uint64) {
	for i := range ds {
		if ds[i].Flags&format.FlagNotUDP == 0 {
			n++
		}
	}
	return n
}

// letGo forgets the oldest batch.
func (g *Gate) letGo() {
	b := g.held[0]
	g.passed += udp(b.Datagrams)
	b.Reset()
	g.free = append(g.free, b)
	g.held = append(g.held[:0], g.held[1:]...)
}

// Open lets through from now on, and before it what is held and not older than Keep
// before t, in ns since the Unix epoch. Opening again does nothing.
func (g *Gate) Open(t int64) error {
	if g.open {
		return nil
	}
	g.open = true
	from := t - int64(g.o.Keep)
	for _, b := range g.held {
		ds := b.Datagrams
		n := 0
		for n < len(ds) && ds[n].Time < from {
			n++
		}
		g.passed += udp(ds[:n])
		if n == len(ds) {
			continue
		}
		if err := g.write(ds[n:], false); err != nil {
			return err
		}
	}
	g.held, g.free = nil, nil
	if len(g.stats)+len(g.events) == 0 {
		return nil
	}
	return g.write(nil, true)
}

// Held says how far back the ring reaches, as a time of the oldest datagram in ns
// since the Unix epoch; false where there is none.
func (g *Gate) Held() (int64, bool) {
	if len(g.held) == 0 {
		return 0, false
	}
	return g.held[0].Datagrams[0].Time, true
}

// Finish counts what is still held as passed by: the recording ends and the gate did
// not open.
func (g *Gate) Finish() {
	for len(g.held) > 0 {
		g.letGo()
	}
}

// Flush flushes what the gate writes to.
func (g *Gate) Flush() error {
	if f, ok := g.w.(format.Flusher); ok && g.open {
		return f.Flush()
	}
	return nil
}
