package recorder

import "time"

const (
	minSleep = 50 * time.Microsecond
	maxSleep = 2 * time.Millisecond
	// skbCharge is what a datagram takes from the receive buffer besides its length:
	// a small one in the page fragment of a common driver. On veth it is 640 bytes.
	skbCharge = 2304
	// peakDecay is the time in which the pacer forgets a peak.
	peakDecay = time.Second
)

// pacer says how long to sleep after a pass that emptied the sockets. Waking is
// what receiving costs, so the sleep grows while datagrams keep coming (200,000 a
// second cost 1.1 us each without a sleep of the thread, 0.45 us with 1 ms), up to
// maxSleep and to a quarter of the time in which the fullest buffer would fill at
// the highest rate of the last second or so.
type pacer struct {
	sleep time.Duration
	peak  float64 // share of a buffer that fills in 1 ns
}

// next takes note of a pass: elapsed since the one before, and the largest share
// of its buffer that a socket had filled, 0 to 1.
func (p *pacer) next(elapsed time.Duration, filled float64) time.Duration {
	elapsed = max(elapsed, time.Microsecond)
	p.peak *= max(0, 1-float64(elapsed)/float64(peakDecay))
	p.peak = max(p.peak, filled/float64(elapsed))
	limit := maxSleep
	if p.peak > 0 {
		limit = min(limit, time.Duration(min(0.25/p.peak, float64(maxSleep))))
	}
	p.sleep = max(minSleep, min(p.sleep*2, limit))
	return p.sleep
}

// idle makes the next sleep a short one: after a pause nothing is known of the
// rate.
func (p *pacer) idle() { p.sleep = 0 }
