package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"castdeck/bench/sidebyside"
)

type benchReplayFlags struct {
	benchFlags
	only  string
	cases []string
	count int
}

func benchReplayCmd() *cobra.Command {
	f := &benchReplayFlags{}
	f.duration = durationValue{min: 100 * time.Millisecond, max: 10 * time.Minute}
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Replayers side by side: lateness, top speed, processor time",
		Long: `Let one replayer after the other play the same traffic, castdeck's own ways and
the installed tools, and say how late datagrams arrived by the kernel's stamps at
the other end, by how much the distances between them were wrong, how many a second
go at full speed, and what it cost. Everything happens between two virtual
interfaces in a network namespace made for it; the runs take turns and the tables
show medians. The datagram that came soonest behind its time counts as in time.

The C loop is the one that people write by hand (absolute clock_nanosleep, sendto);
it is compiled where there is a compiler. Tools that are not installed are left out
and named.`,
		Example: `  castdeck bench compare replay
  castdeck bench compare replay --only lateness --repeat 5
  castdeck bench compare replay --case "20 kpps evenly" --repeat 15
  castdeck bench compare replay --tool castdeck --tool "C loop" --json`,
		Args: argsN(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.stdout, f.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			o, err := f.options()
			if err != nil {
				return err
			}
			return f.start(cmd, o.Missing, func(ctx context.Context) error { return f.run(ctx, o) })
		},
	}
	f.add(cmd, "run only this `REPLAYER`, by its name in the tables (repeatable)", "of the traffic of one run at recorded times; default 3s, at 1 kpps 10s",
		"folder for the traffic, removed again; default the system's for temporary files")
	fl := cmd.Flags()
	fl.StringVar(&f.only, "only", "", "make one table: `lateness|speed`")
	fl.StringArrayVar(&f.cases, "case", nil, "make only this `CASE`, by its name in the tables (repeatable)")
	fl.IntVar(&f.count, "count", 300_000, "datagrams of one run at full speed")
	return cmd
}

func (f *benchReplayFlags) options() (sidebyside.ReplayOptions, error) {
	self, err := os.Executable()
	if err != nil {
		return sidebyside.ReplayOptions{}, err
	}
	o := sidebyside.ReplayOptions{
		Castdeck: self, Tools: f.tools, Repeat: f.repeat, Duration: f.duration.Duration, Count: f.count, Dir: f.dir,
		Shapes: sidebyside.DefaultShapes(), Speeds: sidebyside.DefaultSpeeds(),
	}
	switch f.only {
	case "":
	case "lateness":
		o.Speeds = []sidebyside.Speed{}
	case "speed":
		o.Shapes = []sidebyside.Shape{}
	default:
		return o, usagef("--only %q: lateness or speed", f.only)
	}
	if err := f.choose(&o); err != nil {
		return o, err
	}
	if f.count < 1000 || f.count > 100_000_000 {
		return o, usagef("--count %d: 1000 to 100000000", f.count)
	}
	return o, f.check("replayer", sidebyside.Replayers())
}

// choose leaves the cases that are asked for by name.
func (f *benchReplayFlags) choose(o *sidebyside.ReplayOptions) error {
	if len(f.cases) == 0 {
		return nil
	}
	var names []string
	other := func(c sidebyside.ReplayCase) bool {
		names = append(names, caseName(c))
		return !slices.Contains(f.cases, caseName(c))
	}
	o.Shapes = slices.DeleteFunc(o.Shapes, func(s sidebyside.Shape) bool { return other(sidebyside.ReplayCase{Shape: s}) })
	o.Speeds = slices.DeleteFunc(o.Speeds, func(s sidebyside.Speed) bool { return other(sidebyside.ReplayCase{Speed: s}) })
	for _, c := range f.cases {
		if !slices.Contains(names, c) {
			return usagef("--case %q: no such case (have %s)", c, strings.Join(names, "; "))
		}
	}
	return nil
}

// benchReplayJSON is one run of bench compare replay.
type benchReplayJSON struct {
	Event      string        `json:"event"`
	Tool       string        `json:"tool"`
	Command    []string      `json:"command"`
	RatePPS    float64       `json:"rate_pps,omitempty"`
	Burst      int           `json:"burst,omitempty"`
	Size       int           `json:"size,omitempty"`
	Groups     int           `json:"groups,omitempty"`
	Mixed      bool          `json:"mixed,omitempty"`
	Offload    bool          `json:"offload,omitempty"`
	Sent       uint64        `json:"sent"`
	Arrived    uint64        `json:"arrived"`
	Lateness   *quantileJSON `json:"lateness_ns,omitempty"`
	Interval   *quantileJSON `json:"interval_error_ns,omitempty"`
	FullPPS    float64       `json:"full_speed_pps,omitempty"`
	CPUSeconds float64       `json:"cpu_seconds"`
	Seconds    float64       `json:"seconds"`
	Error      string        `json:"error,omitempty"`
}

type quantileJSON struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func (f *benchReplayFlags) run(ctx context.Context, o sidebyside.ReplayOptions) error {
	o.Each = func(r sidebyside.ReplayRun) {
		f.ran(caseName(r.Case()), r.Tool, func() any {
			j := benchReplayJSON{
				Event: "run", Tool: r.Tool, Command: r.Command, RatePPS: r.Shape.Rate, Burst: r.Shape.Burst, Size: r.Speed.Size,
				Groups: r.Speed.Groups, Mixed: r.Speed.Mixed, Offload: r.Speed.Offload, Sent: r.Sent, Arrived: r.Arrived, FullPPS: r.Rate,
				CPUSeconds: r.CPU.Seconds(), Seconds: r.Took.Seconds(), Error: errorText(r.Err),
			}
			if r.Shape.Rate > 0 {
				l, i := quantileJSON(r.Late), quantileJSON(r.Interval)
				j.Lateness, j.Interval = &l, &i
			}
			return j
		})
	}
	runs, err := sidebyside.Replay(ctx, o)
	f.clear()
	if !f.json {
		f.tables(o, runs)
	}
	return err
}

func caseName(c sidebyside.ReplayCase) string {
	if c.Shape.Rate > 0 {
		even := "evenly"
		if c.Shape.Burst > 1 {
			even = fmt.Sprintf("in bursts of %d", c.Shape.Burst)
		}
		return fmt.Sprintf("%.0f kpps %s", c.Shape.Rate/1e3, even)
	}
	size := fmt.Sprintf("%d bytes", c.Speed.Size)
	if c.Speed.Mixed {
		size = fmt.Sprintf("64 to %d bytes", c.Speed.Size)
	}
	name := fmt.Sprintf("%s, %s", size, plural(c.Speed.Groups, "group"))
	if c.Speed.Receiver {
		name += ", received"
	}
	if c.Speed.Offload {
		name += ", cut by the interface"
	}
	return name
}

// tables prints Markdown.
func (f *benchReplayFlags) tables(o sidebyside.ReplayOptions, runs []sidebyside.ReplayRun) {
	fmt.Fprintf(f.stdout, "%s, %s, %s; medians of %s.\n", machine(), kernel(), runtime.Version(), plural(o.Repeat, "run"))
	for _, s := range o.Shapes {
		c := sidebyside.ReplayCase{Shape: s}
		fmt.Fprintf(f.stdout, "\n%s, 200 bytes: lateness and interval error in us\n\n", caseName(c))
		tw := tabwriter.NewWriter(f.stdout, 0, 0, 1, ' ', 0)
		fmt.Fprint(tw, "| replayer\t| late p50\t| p99\t| p99.9\t| max\t| interval p50\t| p99\t| p99.9\t| CPU\t| lost\t|\n|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
		for _, tool := range sidebyside.Replayers() {
			m, ok := sidebyside.ReplayMedians(runs, tool, c)
			if !ok || m.Late == (sidebyside.Quantiles{}) {
				continue
			}
			us := func(ns float64) string { return fmt.Sprintf("%.1f", ns/1e3) }
			lost := "0"
			if m.Lost > 0 {
				lost = share(m.Lost)
			}
			fmt.Fprintf(tw, "| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t|\n", tool, us(m.Late.P50), us(m.Late.P99), us(m.Late.P999), us(m.Late.Max),
				us(m.Interval.P50), us(m.Interval.P99), us(m.Interval.P999), share(m.CPU), lost)
		}
		tw.Flush()
	}
	if len(o.Speeds) > 0 {
		f.speeds(o, runs)
	}
	told := failures{}
	for _, r := range runs {
		told.add(f.stderr, r.Tool, r.Err)
	}
}

func (f *benchReplayFlags) speeds(o sidebyside.ReplayOptions, runs []sidebyside.ReplayRun) {
	fmt.Fprint(f.stdout, "\nFull speed: thousand datagrams a second, and the processor time of each in ns, start included\n\n")
	var tools []string
	for _, tool := range sidebyside.Replayers() {
		if slices.ContainsFunc(runs, func(r sidebyside.ReplayRun) bool { return r.Tool == tool && r.Rate > 0 }) {
			tools = append(tools, tool)
		}
	}
	tw := tabwriter.NewWriter(f.stdout, 0, 0, 1, ' ', 0)
	fmt.Fprintf(tw, "| payload\t| %s\t|\n|---\t%s|\n", strings.Join(tools, "\t| "), strings.Repeat("|---\t", len(tools)))
	for _, s := range o.Speeds {
		c := sidebyside.ReplayCase{Speed: s}
		fmt.Fprintf(tw, "| %s\t", caseName(c))
		for _, tool := range tools {
			m, ok := sidebyside.ReplayMedians(runs, tool, c)
			switch {
			case !ok || m.Rate == 0:
				fmt.Fprint(tw, "| -\t")
			case m.Lost > 0:
				fmt.Fprintf(tw, "| %.0f, %.0f (%s lost)\t", m.Rate/1e3, m.CPUPerDatagram, share(m.Lost))
			default:
				fmt.Fprintf(tw, "| %.0f, %.0f\t", m.Rate/1e3, m.CPUPerDatagram)
			}
		}
		fmt.Fprintln(tw, "|")
	}
	tw.Flush()
}
