package probe

import (
	"errors"
	"math"
)

// SearchOptions of the search for the highest rate without loss.
type SearchOptions struct {
	// Start and Most are rates in datagrams a second. Defaults 1,000 and 10 million.
	Start, Most float64
	// Tolerance is the share of loss that counts as none, 0 to 1.
	Tolerance float64
	// Resolution is by how much, as a share, a rate that is too high may be above the
	// one that is found; default 2 %.
	Resolution float64
}

// Trial is what came of one rate.
type Trial struct {
	// Rate asked for, and what the sender Reached, in datagrams a second.
	Rate, Reached float64
	// Of the datagrams Sent those Lost did not arrive, and of these the receiver's own
	// socket lost Drops. Refused says that the sender's kernel refused some.
	Sent, Lost, Drops uint64
	Refused           bool
}

// Limit is what a rate cannot be exceeded for.
type Limit string

// The limits.
const (
	// LimitPath: above, the path loses some.
	LimitPath Limit = "path"
	// LimitReceiver: above, the receiver's socket loses some, and the path nothing.
	LimitReceiver Limit = "receiver"
	// LimitSender: this sender gets no faster.
	LimitSender Limit = "sender"
	// LimitQueue: above, the queue of the sending interface refuses some.
	LimitQueue Limit = "queue"
	// LimitMost: SearchOptions.Most passed.
	LimitMost Limit = "most"
)

// Found is the end of a search. Rate is the highest that passed (that which the sender
// reached), 0 where even the lowest one tried did not, and TooHigh the lowest that did not, 0 where
// all did.
type Found struct {
	Rate, TooHigh float64
	Limit         Limit
	Trials        int
}

const (
	// lowest rate that is tried, and reached the share of a rate that must be reached.
	lowest, reached = 10, 0.97
	// slowTries is how often a sender may be too slow: this machine may have had something
	// else to do.
	slowTries = 3
)

// Search looks for the highest rate that passes, as RFC 2544 (26.1) does: twice as much
// until one does not pass, then between. Every try is a step of traffic. A sender that
// reaches less than it was asked to, in several tries, ends the search with the most it
// reached. An error of try ends it with what was found so far.
func Search(o SearchOptions, try func(rate float64) (Trial, error)) (f Found, err error) {
	if o.Start <= 0 {
		o.Start = 1000
	}
	if o.Most <= 0 {
		o.Most = 10e6
	}
	if o.Resolution <= 0 {
		o.Resolution = 0.02
	}
	if o.Tolerance < 0 || o.Tolerance >= 1 {
		return f, errors.New("a tolerance that is no share")
	}
	rate, slowly := min(o.Start, o.Most), 0
	for {
		t, err := try(rate)
		if err != nil {
			return f, err
		}
		f.Trials++
		slow := t.Reached < reached*rate
		most := uint64(o.Tolerance * float64(t.Sent))
		if t.Lost <= most && !t.Refused {
			f.Rate = max(f.Rate, min(t.Reached, rate))
			switch {
			case slow:
				if slowly++; slowly == slowTries {
					f.Limit = LimitSender
					return f, nil
				}
				continue
			case f.TooHigh == 0 && rate >= o.Most:
				f.Limit = LimitMost
				return f, nil
			case f.TooHigh == 0:
				rate = min(rate*2, o.Most)
				continue
			}
		} else {
			f.TooHigh = rate
			switch {
			case t.Refused:
				f.Limit = LimitQueue
			case t.Lost-min(t.Drops, t.Lost) > most:
				f.Limit = LimitPath
			default:
				f.Limit = LimitReceiver
			}
			if f.Rate == 0 {
				if rate <= lowest {
					return f, nil
				}
				rate = max(rate/4, lowest)
				continue
			}
		}
		if f.TooHigh <= f.Rate*(1+o.Resolution) {
			return f, nil
		}
		rate = math.Sqrt(f.Rate * f.TooHigh)
	}
}
