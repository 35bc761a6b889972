package replayer

import (
	"net"
	"runtime"
	"sync/atomic"

	"castdeck/internal/sock"
)

// Pacer waits for moments as a replay does: it sleeps until shortly before, by what
// sleeps are usually late on this machine, and then spins. It is for senders that make
// their datagrams as they go. It belongs to one goroutine, but for Stop.
type Pacer struct {
	pacer
	stopped atomic.Bool
}

// NewPacer locks the goroutine to its thread, whose sleeps become as exact as can be, and
// measures them, which takes some 5 ms. Close undoes that.
func NewPacer() *Pacer {
	runtime.LockOSThread()
	_ = sock.SetTimerSlack(1) // without it the guard is longer
	p := &Pacer{}
	p.pacer = pacer{clock: machineClock{}, guard: minGuard, attention: &p.stopped}
	p.calibrate()
	return p
}

// Wait returns the time (ns, monotonic: that of sock.Now) as soon as it is at or past due,
// within 50 ms after Stop.
func (p *Pacer) Wait(due int64) (now int64) { return p.wait(due) }

// Stop ends the wait that goes on and all further ones. It may be called from any
// goroutine.
func (p *Pacer) Stop() { p.stopped.Store(true) }

// Close gives the thread back.
func (p *Pacer) Close() {
	_ = sock.SetTimerSlack(0)
	runtime.UnlockOSThread()
}

// CutsRuns reports whether a queue of the interface cuts runs of datagrams
// (UDP_SEGMENT) itself, so that a part of one could be lost without an error; see
// Options.NoSegmentation. Where that is not known it is true.
func CutsRuns(iface *net.Interface) bool { return cutsRuns(iface) }
