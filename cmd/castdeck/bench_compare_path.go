package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"castdeck/bench/sidebyside"
)

func benchComparePathCmd() *cobra.Command {
	f := &benchFlags{}
	f.duration = durationValue{Duration: 2 * time.Second, min: 100 * time.Millisecond, max: 10 * time.Minute}
	cmd := &cobra.Command{
		Use:   "path",
		Short: "Measuring tools side by side: do castdeck's figures agree with sockperf's and iperf's?",
		Long: `Let bench send and bench receive, iperf 2 and sockperf measure the same path one
after the other: two network namespaces joined by a pair of virtual interfaces, the
same multicast group, sizes, rates and buffers. Each figure is the median over the
repeats, with the least and the largest: tools agree where these ranges overlap. In
one case nftables drops one datagram of 100, so that the loss is known.

Tools that are not installed are left out and named.`,
		Example: `  castdeck bench compare path
  castdeck bench compare path --repeat 10 --duration 5s
  castdeck bench compare path --tool castdeck --tool iperf2 --json`,
		Args: argsN(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.stdout, f.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o := sidebyside.PathOptions{
				Castdeck: self, Tools: f.tools, Repeat: f.repeat, Duration: f.duration.Duration, Cases: sidebyside.DefaultPathCases(),
			}
			if err := f.check("tool", sidebyside.PathTools()); err != nil {
				return err
			}
			return f.start(cmd, o.Missing, func(ctx context.Context) error { return f.comparePath(ctx, o) })
		},
	}
	f.addRuns(cmd, "run only this `TOOL`, by its name in the tables (repeatable)", "of one run; iperf and sockperf take whole seconds")
	return cmd
}

// benchPathRunJSON is one run of bench compare path.
type benchPathRunJSON struct {
	Event     string        `json:"event"`
	Tool      string        `json:"tool"`
	Kind      string        `json:"kind"`
	Receiver  []string      `json:"receiver_command"`
	Sender    []string      `json:"sender_command"`
	AskedPPS  float64       `json:"asked_pps,omitempty"`
	Size      int           `json:"size"`
	Sent      uint64        `json:"sent"`
	Lost      uint64        `json:"lost"`
	Dropped   uint64        `json:"dropped_on_purpose"`
	RatePPS   float64       `json:"rate_pps"`
	Jitter    float64       `json:"jitter_ns"`
	Least     float64       `json:"one_way_min_ns"`
	Mean      float64       `json:"one_way_mean_ns"`
	Most      float64       `json:"one_way_max_ns"`
	RoundTrip *quantileJSON `json:"round_trip_ns,omitempty"`
	Error     string        `json:"error,omitempty"`
}

func (f *benchFlags) comparePath(ctx context.Context, o sidebyside.PathOptions) error {
	o.Each = func(r sidebyside.PathRun) {
		f.ran(pathCaseName(r.Case), r.Tool, func() any {
			j := benchPathRunJSON{
				Event: "run", Tool: r.Tool, Kind: string(r.Case.Kind), Receiver: r.Receiver, Sender: r.Sender, AskedPPS: r.Case.Rate, Size: r.Case.Size,
				Sent: r.Sent, Lost: r.Lost, Dropped: r.Dropped, RatePPS: r.Rate, Jitter: r.Jitter, Least: r.Least, Mean: r.Mean, Most: r.Most, Error: errorText(r.Err),
			}
			if r.RoundTrip.Max > 0 {
				q := quantileJSON(r.RoundTrip)
				j.RoundTrip = &q
			}
			return j
		})
	}
	runs, err := sidebyside.Path(ctx, o)
	f.clear()
	if !f.json {
		f.pathTables(o, runs)
	}
	return err
}

func pathCaseName(c sidebyside.PathCase) string {
	s := fmt.Sprintf("%s, %d bytes", c.Kind, c.Size)
	if c.Rate > 0 {
		s += fmt.Sprintf(", %.0f kpps", c.Rate/1e3)
	}
	if c.Drop > 0 {
		s += fmt.Sprintf(", one of %d dropped on purpose", c.Drop)
	}
	return s
}

// pathFigure is a column.
type pathFigure struct {
	name  string
	of    func(sidebyside.PathRun) float64
	scale float64
}

var (
	lossFigures = []pathFigure{
		{"rate, pps", func(r sidebyside.PathRun) float64 { return r.Rate }, 1}, {"lost, %", func(r sidebyside.PathRun) float64 { return 100 * r.LostShare() }, 1},
	}
	oneWayFigures = []pathFigure{
		{"jitter, us", func(r sidebyside.PathRun) float64 { return r.Jitter }, 1e3}, {"one way least, us", func(r sidebyside.PathRun) float64 { return r.Least }, 1e3},
		{"mean, us", func(r sidebyside.PathRun) float64 { return r.Mean }, 1e3}, {"max, us", func(r sidebyside.PathRun) float64 { return r.Most }, 1e3},
	}
	roundTripFigures = []pathFigure{
		{"round trip p50, us", func(r sidebyside.PathRun) float64 { return r.RoundTrip.P50 }, 1e3}, {"p99, us", func(r sidebyside.PathRun) float64 { return r.RoundTrip.P99 }, 1e3},
		{"p99.9, us", func(r sidebyside.PathRun) float64 { return r.RoundTrip.P999 }, 1e3},
	}
)

// pathTables prints Markdown, a table for each case.
func (f *benchFlags) pathTables(o sidebyside.PathOptions, runs []sidebyside.PathRun) {
	fmt.Fprintf(f.stdout, "%s, %s, %s; medians of %s of %s, least and largest in brackets.\n", machine(), kernel(), runtime.Version(), plural(o.Repeat, "run"), o.Duration)
	for _, c := range o.Cases {
		figures := append([]pathFigure{}, lossFigures...)
		if c.Kind == sidebyside.OneWay {
			figures = append(figures, oneWayFigures...)
		} else {
			figures = append(figures, roundTripFigures...)
		}
		tw := tabwriter.NewWriter(f.stdout, 0, 0, 1, ' ', 0)
		rows := 0
		for _, tool := range sidebyside.PathTools() {
			if _, n := sidebyside.PathSpread(runs, tool, c, figures[0].of); n == 0 {
				continue
			}
			if rows++; rows == 1 {
				fmt.Fprintf(f.stdout, "\n%s\n\n", pathCaseName(c))
				fmt.Fprint(tw, "| tool\t")
				for _, g := range figures {
					fmt.Fprintf(tw, "| %s\t", g.name)
				}
				fmt.Fprintf(tw, "|\n%s|\n", strings.Repeat("|---\t", len(figures)+1))
			}
			fmt.Fprintf(tw, "| %s\t", tool)
			for _, g := range figures {
				s, _ := sidebyside.PathSpread(runs, tool, c, g.of)
				fmt.Fprintf(tw, "| %s (%s to %s)\t", figure(s.Median/g.scale), figure(s.Least/g.scale), figure(s.Most/g.scale))
			}
			fmt.Fprint(tw, "|\n")
		}
		tw.Flush()
	}
	told := failures{}
	commands := map[string]bool{}
	for _, r := range runs {
		told.add(f.stderr, r.Tool, r.Err)
		if key := r.Tool + string(r.Case.Kind); r.Sender != nil && !commands[key] {
			if len(commands) == 0 {
				fmt.Fprint(f.stdout, "\n")
			}
			commands[key] = true
			fmt.Fprintf(f.stdout, "%s, %s: `%s` and `%s`\n", r.Tool, r.Case.Kind, commandLine(r.Receiver), commandLine(r.Sender))
		}
	}
}

// figure writes a number with as many digits as can mean something.
func figure(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
