package sidebyside

import (
	"slices"
	"time"
)

// PathOptions say which measurements of a path are compared. The zero value of every
// field but Castdeck is usable.
type PathOptions struct {
	// Castdeck is the path of the castdeck command. Required.
	Castdeck string
	// Tools to run, by name (see PathTools); none is all. Those that are not installed are
	// left out, and Missing names them.
	Tools []string
	// Cases that are measured; default DefaultPathCases.
	Cases []PathCase
	// Repeat is how often each is run, default 5; the tools take turns.
	Repeat int
	// Duration of one run, default 2 s; iperf and sockperf take whole seconds.
	Duration time.Duration
	// Each is called after each run. Optional.
	Each func(PathRun)
}

// PathKind is what is measured.
type PathKind string

// The kinds.
const (
	// OneWay sends at a rate: what is lost, jitter, the time one way.
	OneWay PathKind = "one way"
	// PingPong sends a datagram, waits for it to come back, and so on.
	PingPong PathKind = "ping-pong"
	// UnderLoad sends at a rate and has each datagram back.
	UnderLoad PathKind = "under load"
)

// PathCase is one measurement, of datagrams of Size bytes, Rate a second (0 for ping-pong). Drop makes
// nftables drop one of so many datagrams at the receiving end; 0 is none.
type PathCase struct {
	Kind PathKind
	Rate float64
	Size int
	Drop int
}

// DefaultPathCases are two rates, one of them with a loss that is known too, and round
// trips with and without load.
func DefaultPathCases() []PathCase {
	return []PathCase{
		{OneWay, 10e3, 256, 0}, {OneWay, 50e3, 256, 0}, {OneWay, 10e3, 256, 100}, {PingPong, 0, 256, 0}, {UnderLoad, 2e3, 256, 0},
	}
}

func (o PathOptions) withDefaults() PathOptions {
	if o.Cases == nil {
		o.Cases = DefaultPathCases()
	}
	if o.Repeat <= 0 {
		o.Repeat = 5
	}
	if o.Duration <= 0 {
		o.Duration = 2 * time.Second
	}
	return o
}

// PathRun is one measurement by one tool. Times are in ns; those that a tool does not
// tell are 0.
type PathRun struct {
	Tool string
	Case PathCase
	// Receiver and Sender are the commands.
	Receiver, Sender []string
	// Sent and Lost are datagrams as the tool counts them; Dropped what nftables says that it
	// dropped of them, greetings and goodbyes of the tools included.
	Sent, Lost, Dropped uint64
	// Rate reached, in datagrams a second.
	Rate float64
	// Jitter is that of RFC 3550, Least, Mean and Most are one-way latencies.
	Jitter, Least, Mean, Most float64
	// RoundTrip from program to program.
	RoundTrip Quantiles
	Err       error
}

// LostShare is Lost of Sent.
func (r PathRun) LostShare() float64 { return float64(r.Lost) / float64(max(r.Sent, 1)) }

// Spread is a figure over the repeats of one tool and case.
type Spread struct{ Least, Median, Most float64 }

// Overlaps says that the repeats of two tools do not lie apart.
func (s Spread) Overlaps(o Spread) bool { return s.Least <= o.Most && o.Least <= s.Most }

// PathSpread gathers a figure over the runs of a tool and case that went well; n is how
// many did.
func PathSpread(runs []PathRun, tool string, c PathCase, figure func(PathRun) float64) (s Spread, n int) {
	var values []float64
	for _, r := range runs {
		if r.Tool == tool && r.Case == c && r.Err == nil {
			values = append(values, figure(r))
		}
	}
	if len(values) == 0 {
		return s, 0
	}
	s.Median = median(values)
	s.Least, s.Most = slices.Min(values), slices.Max(values)
	return s, len(values)
}
