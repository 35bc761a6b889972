// Package sidebyside runs castdeck beside the tools that people use today, on the
// same traffic and with equal buffers, and says what each recorded, lost and cost.
//
// Everything happens in the network namespace of the calling process, between the
// two ends of a pair of virtual interfaces: call it in a namespace made for that
// (internal/netns), never in the machine's own.
package sidebyside

import (
	"cmp"
	"slices"
	"time"
)

// RecordOptions say which recordings are made. The zero value of every field but
// Castdeck is usable.
type RecordOptions struct {
	// Castdeck is the path of the castdeck command. Required.
	Castdeck string
	// Tools to run, by name (see Recorders); none is all. Those that are not installed
	// are left out, and Missing names them.
	Tools []string
	// Rates in datagrams a second, payload Sizes in bytes and numbers of Groups: each
	// with each. Defaults: 100, 200, 400 and 600 thousand; 64, 256 and 1400; 1 and 64.
	Rates  []float64
	Sizes  []int
	Groups []int
	// Repeat is how often each is run, default 3: the tools take turns, so that what
	// else the machine does meets all of them.
	Repeat int
	// Duration of the traffic of one run, default 5 s.
	Duration time.Duration
	// Settle is how long a tool may take to fetch what is still in its buffers before
	// it is asked to end, default 1.2 s: tcpdump and dumpcap look for that once a
	// second.
	Settle time.Duration
	// Buffer in bytes that every tool is told to ask the kernel for, default 64 MiB.
	Buffer int64
	// Dir for the files that the tools write; they are removed after each run.
	// Default: the system's folder for temporary files.
	Dir string
	// Each is called after each run. Optional.
	Each func(RecordRun)
}

func (o RecordOptions) withDefaults() RecordOptions {
	if len(o.Rates) == 0 {
		o.Rates = []float64{100e3, 200e3, 400e3, 600e3}
	}
	if len(o.Sizes) == 0 {
		o.Sizes = []int{64, 256, 1400}
	}
	if len(o.Groups) == 0 {
		o.Groups = []int{1, 64}
	}
	if o.Repeat <= 0 {
		o.Repeat = 3
	}
	if o.Duration <= 0 {
		o.Duration = 5 * time.Second
	}
	if o.Settle <= 0 {
		o.Settle = 1200 * time.Millisecond
	}
	if o.Buffer <= 0 {
		o.Buffer = 64 << 20
	}
	return o
}

// RecordRun is one recorder's run.
type RecordRun struct {
	Tool    string
	Command []string // as it was started
	// What was asked for: datagrams a second, bytes of payload, groups.
	Rate   float64
	Size   int
	Groups int
	// Sent is what left, at SentRate a second; Recorded is what the tool's file holds.
	Sent, Recorded uint64
	SentRate       float64
	FileBytes      int64
	// CPU is the processor time of the recorder in user and kernel mode, from before the
	// first datagram is sent to its end; Start is what it took until then, MaxRSS its
	// largest resident memory in bytes.
	CPU, Start time.Duration
	MaxRSS     int64
	// Err is why the tool did not run to its end, or left nothing that can be read.
	Err error
}

// Lost is the share of what was sent that is not in the file, 0 to 1.
func (r RecordRun) Lost() float64 {
	if r.Sent == 0 {
		return 0
	}
	return max(0, 1-float64(r.Recorded)/float64(r.Sent))
}

// CPUPerDatagram is the recorder's processor time for each datagram in its file, in
// ns; 0 where there is none.
func (r RecordRun) CPUPerDatagram() float64 {
	if r.Recorded == 0 {
		return 0
	}
	return float64(r.CPU.Nanoseconds()) / float64(r.Recorded)
}

// Case is what runs have in common that can be compared.
type Case struct {
	Size, Groups int
	Rate         float64
}

// Case of the run.
func (r RecordRun) Case() Case { return Case{r.Size, r.Groups, r.Rate} }

// RecordRow is a recorder's line in the table: the medians of its runs, by case.
type RecordRow struct {
	Tool  string
	Cells map[Case]RecordCell
}

// RecordCell holds medians over the runs of one recorder and case.
type RecordCell struct {
	Runs           int
	CPUPerDatagram float64 // ns
	Start          time.Duration
	Lost           float64 // share, 0 to 1
	BytesPerRecord float64 // file bytes for each datagram in it
	MaxRSS         float64 // bytes
	// Reached is the smallest share of the asked rate that the sender reached.
	Reached float64
	Err     error
}

// Table gathers runs to rows, in the order in which the tools first appear.
func Table(runs []RecordRun) []RecordRow {
	var rows []RecordRow
	for _, r := range runs {
		if !slices.ContainsFunc(rows, func(row RecordRow) bool { return row.Tool == r.Tool }) {
			rows = append(rows, RecordRow{r.Tool, map[Case]RecordCell{}})
		}
	}
	for i := range rows {
		byCase := map[Case][]RecordRun{}
		for _, r := range runs {
			if r.Tool == rows[i].Tool {
				byCase[r.Case()] = append(byCase[r.Case()], r)
			}
		}
		for c, all := range byCase {
			rows[i].Cells[c] = cell(all)
		}
	}
	return rows
}

// cell has medians over the runs that did not fail.
func cell(runs []RecordRun) RecordCell {
	of := func(f func(RecordRun) float64) float64 {
		var values []float64
		for _, r := range runs {
			if r.Err == nil {
				values = append(values, f(r))
			}
		}
		return median(values)
	}
	c := RecordCell{
		Runs: len(runs), CPUPerDatagram: of(RecordRun.CPUPerDatagram),
		Start: time.Duration(of(func(r RecordRun) float64 { return float64(r.Start) })), Lost: of(RecordRun.Lost),
		BytesPerRecord: of(func(r RecordRun) float64 { return float64(r.FileBytes) / float64(max(r.Recorded, 1)) }),
		MaxRSS:         of(func(r RecordRun) float64 { return float64(r.MaxRSS) }),
		Reached:        1,
	}
	for _, r := range runs {
		if r.Err != nil {
			c.Err = r.Err
			continue
		}
		c.Reached = min(c.Reached, r.SentRate/r.Rate)
	}
	return c
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.SortFunc(values, cmp.Compare)
	return values[len(values)/2]
}
