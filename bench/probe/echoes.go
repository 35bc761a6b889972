package probe

import (
	"net/netip"
	"runtime"
	"sync/atomic"

	"castdeck/internal/sock"
)

// maxReceivers bounds how many receivers' reports are kept.
const maxReceivers = 64

// echoes are what came back of a step. One goroutine uses it.
type echoes struct {
	run                uint64
	step               uint32
	n                  int       // streams
	streams            []tracker // nil where only reports are wanted
	roundTrip, network *latencies
	unique, copies     uint64
	count              *atomic.Uint64

	// By receiver and stream; nil where none has come.
	reports map[netip.AddrPort][]*report
	changed uint64 // grows with each report that differs from the one before
}

func newEchoes(run uint64, step uint32, streams int, count *atomic.Uint64) *echoes {
	return &echoes{
		run: run, step: step, n: streams, streams: make([]tracker, streams), roundTrip: newLatencies(3), network: newLatencies(3), count: count,
	}
}

// newReports collects reports only.
func newReports(run uint64, step uint32, streams int) *echoes {
	return &echoes{run: run, step: step, n: streams, reports: map[netip.AddrPort][]*report{}}
}

// take takes a reply that came from src at stamp (the kernel's, ns since the epoch) and
// is read at clock (monotonic ns).
func (e *echoes) take(b []byte, src netip.AddrPort, stamp, clock int64) {
	var h header
	if h.get(b) != nil || h.run != e.run || h.step != e.step || int(h.stream) >= e.n {
		return
	}
	switch {
	case h.kind == kindEcho && e.streams != nil:
		t := &e.streams[h.stream]
		if !t.plausible(h.seq) {
			return
		}
		if fresh, _ := t.add(h.seq); !fresh {
			e.copies++
			return
		}
		e.unique++
		e.count.Store(e.unique)
		e.roundTrip.add(difference(clock, h.clock))
		if stamp != 0 && h.received != 0 {
			e.network.add(difference(difference(stamp, h.sent), difference(h.returned, h.received)))
		}
	case h.kind == kindReport && e.reports != nil:
		var r report
		if r.get(b) != nil {
			return
		}
		all, ok := e.reports[src]
		if !ok {
			if len(e.reports) >= maxReceivers {
				return
			}
			all = make([]*report, e.n)
			e.reports[src] = all
		}
		if was := all[h.stream]; was == nil || *was != r {
			e.changed++
		}
		all[h.stream] = &r
	}
}

// total is how many echoes came, one for each number.
func (e *echoes) total() uint64 { return e.unique }

func (e *echoes) into(s *Sent) {
	s.RoundTrip, s.Network, s.Echoes, s.EchoCopies = e.roundTrip.whole(), e.network.whole(), e.unique, e.copies
}

// lockThread locks the goroutine to its thread and makes its sleeps exact.
func lockThread() (unlock func()) {
	runtime.LockOSThread()
	_ = sock.SetTimerSlack(1)
	return func() {
		_ = sock.SetTimerSlack(0)
		runtime.UnlockOSThread()
	}
}
