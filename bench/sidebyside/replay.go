package sidebyside

import (
	"time"
)

// ReplayOptions say which replays are compared. The zero value of every field but
// Castdeck is usable.
type ReplayOptions struct {
	// Castdeck is the path of the castdeck command. Required.
	Castdeck string
	// Tools to run, by name (see Replayers); none is all. Those that are not installed
	// are left out, and Missing names them.
	Tools []string
	// Shapes of the traffic that is played at its recorded times; default DefaultShapes.
	// A slice that is not nil and empty leaves that part out.
	Shapes []Shape
	// Speeds are the cases of full speed; default DefaultSpeeds. As with Shapes.
	Speeds []Speed
	// Repeat is how often each is run, default 3; the tools take turns.
	Repeat int
	// Duration of the traffic of one run at recorded times, default 3 s, and 10 s at up to
	// 1000 a second, so that the start of a process is not what its processor time shows.
	Duration time.Duration
	// Count of datagrams of one run at full speed, default 300,000.
	Count int
	// Dir for the files; removed at the end. Default: the system's for temporary files.
	Dir string
	// Each is called after each run. Optional.
	Each func(ReplayRun)
}

// Shape is traffic with times of its own: Rate datagrams a second on average, in
// bursts of Burst due at one time, 200 bytes each.
type Shape struct {
	Rate  float64
	Burst int
}

// Speed is a case of full speed: datagrams of Size bytes of payload, or mixed from 64
// to Size, to so many groups in turn, with somebody receiving them or nobody. Offload: the
// interface cuts runs of datagrams itself, as many network cards do; otherwise the kernel
// does, on the sender's processor.
type Speed struct {
	Size, Groups             int
	Mixed, Receiver, Offload bool
}

// DefaultShapes are even traffic at four rates, and bursts.
func DefaultShapes() []Shape {
	return []Shape{{1e3, 1}, {10e3, 1}, {20e3, 1}, {100e3, 1}, {20e3, 20}}
}

// DefaultSpeeds are three sizes to one group and to 16, mixed sizes, with a receiver, and
// with an interface that cuts runs itself.
func DefaultSpeeds() []Speed {
	return []Speed{
		{Size: 64, Groups: 1}, {Size: 256, Groups: 1}, {Size: 1400, Groups: 1},
		{Size: 64, Groups: 16}, {Size: 256, Groups: 16}, {Size: 1400, Groups: 16},
		{Size: 1400, Groups: 1, Mixed: true}, {Size: 1400, Groups: 16, Mixed: true},
		{Size: 256, Groups: 1, Receiver: true}, {Size: 256, Groups: 16, Receiver: true},
		{Size: 256, Groups: 1, Offload: true}, {Size: 256, Groups: 16, Offload: true},
	}
}

func (o ReplayOptions) withDefaults() ReplayOptions {
	if o.Shapes == nil {
		o.Shapes = DefaultShapes()
	}
	if o.Speeds == nil {
		o.Speeds = DefaultSpeeds()
	}
	if o.Repeat <= 0 {
		o.Repeat = 3
	}
	if o.Count <= 0 {
		o.Count = 300_000
	}
	return o
}

// duration of the traffic of a shape.
func (o ReplayOptions) duration(s Shape) time.Duration {
	switch {
	case o.Duration > 0:
		return o.Duration
	case s.Rate <= 1000:
		return 10 * time.Second
	}
	return 3 * time.Second
}

// ReplayRun is one replay of one tool: at recorded times where Shape.Rate is not 0, at
// full speed otherwise.
type ReplayRun struct {
	Tool    string
	Command []string
	Shape   Shape
	Speed   Speed
	// Sent is what the file holds, Arrived what a receiver at the other end got; 0 where
	// there was none.
	Sent, Arrived uint64
	// Late is how much later than due datagrams arrived, by the kernel's stamps at the
	// receiver, where the one that was fastest counts as in time. Interval is by how much
	// the distance in time of neighbours was another than recorded.
	Late, Interval Quantiles
	// Rate at full speed, in datagrams a second, as the tool itself says.
	Rate float64
	// CPU is the tool's processor time, user and kernel, its start included; Took the
	// time from its start to its end.
	CPU, Took time.Duration
	Err       error
}

// Quantiles are in ns.
type Quantiles struct{ P50, P99, P999, Max float64 }

// ReplayCase is what runs have in common that can be compared.
type ReplayCase struct {
	Shape Shape
	Speed Speed
}

// Case of the run.
func (r ReplayRun) Case() ReplayCase { return ReplayCase{r.Shape, r.Speed} }

// ReplayCell holds medians over the runs of one tool and case.
type ReplayCell struct {
	Runs           int
	Late, Interval Quantiles
	Rate           float64
	CPU            float64 // share of one processor
	CPUPerDatagram float64 // ns of processor time for each datagram of the traffic
	Lost           float64 // share of what was sent, where somebody received
	Err            error
}

// ReplayMedians gathers the runs of a tool and case; ok is false where there are none.
func ReplayMedians(runs []ReplayRun, tool string, c ReplayCase) (cell ReplayCell, ok bool) {
	var of []ReplayRun
	for _, r := range runs {
		if r.Tool == tool && r.Case() == c {
			cell.Runs++
			if r.Err != nil {
				cell.Err = r.Err
			} else {
				of = append(of, r)
			}
		}
	}
	mid := func(f func(ReplayRun) float64) float64 {
		var values []float64
		for _, r := range of {
			values = append(values, f(r))
		}
		return median(values)
	}
	quantiles := func(f func(ReplayRun) Quantiles) Quantiles {
		return Quantiles{
			mid(func(r ReplayRun) float64 { return f(r).P50 }), mid(func(r ReplayRun) float64 { return f(r).P99 }),
			mid(func(r ReplayRun) float64 { return f(r).P999 }), mid(func(r ReplayRun) float64 { return f(r).Max }),
		}
	}
	cell.Late = quantiles(func(r ReplayRun) Quantiles { return r.Late })
	cell.Interval = quantiles(func(r ReplayRun) Quantiles { return r.Interval })
	cell.Rate = mid(func(r ReplayRun) float64 { return r.Rate })
	cell.CPU = mid(func(r ReplayRun) float64 { return r.CPU.Seconds() / max(r.Took.Seconds(), 1e-9) })
	cell.CPUPerDatagram = mid(func(r ReplayRun) float64 { return float64(r.CPU.Nanoseconds()) / float64(max(r.Sent, 1)) })
	cell.Lost = mid(func(r ReplayRun) float64 {
		if r.Arrived == 0 && r.Speed != (Speed{}) && !r.Speed.Receiver {
			return 0
		}
		return max(0, 1-float64(r.Arrived)/float64(max(r.Sent, 1)))
	})
	return cell, cell.Runs > 0
}
