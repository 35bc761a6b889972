package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"castdeck/bench/sidebyside"
	"castdeck/internal/netns"
)

func benchCmd() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:   "bench",
		Short: "Measure a path, and castdeck beside other tools",
		Long: `Measure a network path with numbered datagrams (path, send, receive), or castdeck
beside the tools that are installed, in a network namespace of its own (compare).`,
	}, "bench: no %q to measure", "bench: name what to measure")
	compare := parent(&cobra.Command{
		Use:   "compare",
		Short: "castdeck beside the installed tools, on the same traffic",
	}, "bench: no %q to measure", "bench: name what to measure")
	compare.AddCommand(benchRecordCmd(), benchReplayCmd(), benchComparePathCmd())
	cmd.AddCommand(benchPathCmd(), benchSendCmd(), benchReceiveCmd(), compare)
	return cmd
}

// benchFlags are what the comparisons have in common.
type benchFlags struct {
	tools    []string
	repeat   int
	duration durationValue
	dir      string
	json     bool

	stdout, stderr io.Writer
}

// add adds the flags; tool is what a tool is called, dir and duration explain theirs.
func (f *benchFlags) add(cmd *cobra.Command, tool, duration, dir string) {
	f.addRuns(cmd, tool, duration)
	cmd.Flags().StringVar(&f.dir, "dir", "", dir)
}

// addRuns adds those of a comparison that writes no files.
func (f *benchFlags) addRuns(cmd *cobra.Command, tool, duration string) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.tools, "tool", nil, tool)
	fl.IntVar(&f.repeat, "repeat", 3, "runs of each")
	fl.Var(&f.duration, "duration", duration)
	fl.BoolVar(&f.json, "json", false, "print each run as a JSON line")
}

// check refuses what the flags cannot mean; kind is what a tool is, known are those
// there are.
func (f *benchFlags) check(kind string, known []string) error {
	if f.repeat < 1 || f.repeat > 1000 {
		return usagef("--repeat %d: 1 to 1000", f.repeat)
	}
	for _, t := range f.tools {
		if !slices.Contains(known, t) {
			return usagef("--tool %q: no such %s (have %s)", t, kind, strings.Join(known, "; "))
		}
	}
	return nil
}

// start runs this command again in a network namespace of its own, and there compare.
func (f *benchFlags) start(cmd *cobra.Command, missing func() []string, compare func(context.Context) error) error {
	if !insideNamespace() {
		return inNamespace(os.Args[1:], func(err error) error {
			return fmt.Errorf("comparing needs a network namespace of its own: %w; run it as root", err)
		})
	}
	if err := netns.Prepare(); err != nil {
		return err
	}
	for _, name := range missing() {
		fmt.Fprintf(f.stderr, "castdeck: %s is not installed: left out\n", name)
	}
	ctx, stop := orderlyEnd(cmd.Context())
	defer stop()
	err := compare(ctx)
	if errors.Is(err, context.Canceled) {
		return lossy
	}
	return err
}

// ran tells of a run: what it was on a terminal, and line, made where it is wanted, with
// --json.
func (f *benchFlags) ran(what, tool string, line func() any) {
	if isTerminal(f.stderr) {
		fmt.Fprintf(f.stderr, "\r%s: %s\x1b[K", what, tool)
	}
	if f.json {
		_ = json.NewEncoder(f.stdout).Encode(line())
	}
}

// clear ends the line that ran draws on a terminal.
func (f *benchFlags) clear() {
	if isTerminal(f.stderr) {
		fmt.Fprint(f.stderr, "\r\x1b[K")
	}
}

// failures says, once for each tool, why one failed.
type failures map[string]bool

func (told failures) add(w io.Writer, tool string, err error) {
	if err != nil && !told[tool] {
		told[tool] = true
		fmt.Fprintf(w, "castdeck: %s: %s\n", tool, oneLine(err.Error()))
	}
}

// errorText is an error in a JSON line, "" where there is none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

type benchRecordFlags struct {
	benchFlags
	rates  []string
	sizes  []int
	groups []int
	buffer sizeValue
}

func benchRecordCmd() *cobra.Command {
	f := &benchRecordFlags{buffer: sizeValue{bytes: 64 << 20, min: 1 << 20, max: 1 << 30}}
	f.duration = durationValue{Duration: 5 * time.Second, min: 100 * time.Millisecond, max: 10 * time.Minute}
	cmd := &cobra.Command{
		Use:   "record",
		Short: "Recorders side by side: loss, processor time, bytes on disk",
		Long: `Send the same bursty traffic to one recorder after the other, castdeck's own
ways and the installed tools, and say what each lost, what it cost and how large
its file is. Everything happens between two virtual interfaces in a network
namespace made for it; the buffers are equal; the runs take turns and the table
shows medians. CPU is the recorder's own processor time, user and kernel, for each
datagram that it recorded, from before the first one to its end; what it takes to
start is beside it. "C loop, no file" receives with recvmmsg(2) and does nothing
else: the least that a recorder with a UDP socket can cost.

Tools that are not installed are left out and named.`,
		Example: `  castdeck bench compare record
  castdeck bench compare record --rates 200kpps --sizes 256 --groups 1 --repeat 1
  castdeck bench compare record --tool tcpdump --tool "castdeck socket, none" --json`,
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
	f.add(cmd, "run only this `RECORDER`, by its name in the table (repeatable)", "of the traffic of one run",
		"folder for the files that are recorded, and removed again; default the system's for temporary ones")
	fl := cmd.Flags()
	fl.StringSliceVar(&f.rates, "rates", []string{"100kpps", "200kpps", "400kpps", "600kpps"}, "datagrams a second")
	fl.IntSliceVar(&f.sizes, "sizes", []int{64, 256, 1400}, "payload `BYTES`")
	fl.IntSliceVar(&f.groups, "groups", []int{1, 64}, "numbers of groups")
	fl.Var(&f.buffer, "buffer", "kernel memory that each recorder asks for")
	return cmd
}

func (f *benchRecordFlags) options() (sidebyside.RecordOptions, error) {
	self, err := os.Executable()
	if err != nil {
		return sidebyside.RecordOptions{}, err
	}
	o := sidebyside.RecordOptions{
		Castdeck: self, Tools: f.tools, Sizes: f.sizes, Groups: f.groups, Repeat: f.repeat,
		Duration: f.duration.Duration, Buffer: f.buffer.bytes, Dir: f.dir,
	}
	for _, s := range f.rates {
		v := rateValue{units: ppsUnits, example: "200kpps", max: 1e8}
		if err := v.Set(s); err != nil {
			return o, usagef("--rates: %v", err)
		}
		o.Rates = append(o.Rates, v.value)
	}
	for _, n := range f.sizes {
		if n < 16 || n > 65_000 {
			return o, usagef("--sizes %d: 16 to 65000 bytes", n)
		}
	}
	for _, n := range f.groups {
		if n < 1 || n > 2000 {
			return o, usagef("--groups %d: 1 to 2000", n)
		}
	}
	return o, f.check("recorder", sidebyside.Recorders())
}

// benchRunJSON is one run of bench compare record.
type benchRunJSON struct {
	Event          string   `json:"event"`
	Tool           string   `json:"tool"`
	Command        []string `json:"command"`
	RatePPS        float64  `json:"rate_pps"`
	Size           int      `json:"size"`
	Groups         int      `json:"groups"`
	Sent           uint64   `json:"sent"`
	SentRatePPS    float64  `json:"sent_rate_pps"`
	Recorded       uint64   `json:"recorded"`
	FileBytes      int64    `json:"file_bytes"`
	CPUSeconds     float64  `json:"cpu_seconds"`
	StartSeconds   float64  `json:"start_cpu_seconds"`
	CPUPerDatagram float64  `json:"cpu_ns_per_datagram"`
	MaxRSSBytes    int64    `json:"max_rss_bytes"`
	Error          string   `json:"error,omitempty"`
}

func (f *benchRecordFlags) run(ctx context.Context, o sidebyside.RecordOptions) error {
	o.Each = func(r sidebyside.RecordRun) {
		f.ran(fmt.Sprintf("%d bytes, %s, %.3g kpps", r.Size, plural(r.Groups, "group"), r.Rate/1e3), r.Tool, func() any {
			return benchRunJSON{
				Event: "run", Tool: r.Tool, Command: r.Command, RatePPS: r.Rate, Size: r.Size, Groups: r.Groups,
				Sent: r.Sent, SentRatePPS: r.SentRate, Recorded: r.Recorded, FileBytes: r.FileBytes,
				CPUSeconds: r.CPU.Seconds(), StartSeconds: r.Start.Seconds(), CPUPerDatagram: r.CPUPerDatagram(), MaxRSSBytes: r.MaxRSS, Error: errorText(r.Err),
			}
		})
	}
	runs, err := sidebyside.Record(ctx, o)
	f.clear()
	if !f.json {
		f.table(o, runs)
	}
	return err
}

// table prints Markdown, a table for each size and number of groups.
func (f *benchRecordFlags) table(o sidebyside.RecordOptions, runs []sidebyside.RecordRun) {
	fmt.Fprintf(f.stdout, "%s, %s, %s; buffers of %s; medians of %s of %s; CPU in ns for each datagram recorded, and what was lost; start: CPU before the first one.\n",
		machine(), kernel(), runtime.Version(), formatSize(o.Buffer), plural(o.Repeat, "run"), o.Duration)
	rows := sidebyside.Table(runs)
	for _, groups := range o.Groups {
		for _, size := range o.Sizes {
			fmt.Fprintf(f.stdout, "\n%d bytes of payload, %s\n\n", size, plural(groups, "group"))
			tw := tabwriter.NewWriter(f.stdout, 0, 0, 1, ' ', 0)
			fmt.Fprint(tw, "| recorder\t")
			for _, r := range o.Rates {
				fmt.Fprintf(tw, "| %.0f kpps\t", r/1e3)
			}
			fmt.Fprint(tw, "| start\t| without loss\t| bytes on disk\t| memory\t|\n|---\t")
			for range len(o.Rates) + 4 {
				fmt.Fprint(tw, "|---\t")
			}
			fmt.Fprint(tw, "|\n")
			for _, row := range rows {
				f.row(tw, row, o, size, groups)
			}
			tw.Flush()
		}
	}
	told := failures{}
	for _, r := range runs {
		told.add(f.stderr, r.Tool, r.Err)
	}
}

func (f *benchRecordFlags) row(w io.Writer, row sidebyside.RecordRow, o sidebyside.RecordOptions, size, groups int) {
	fmt.Fprintf(w, "| %s\t", row.Tool)
	best, disk, memory := "-", "-", "-"
	var start time.Duration
	for _, rate := range o.Rates {
		c, ok := row.Cells[sidebyside.Case{Size: size, Groups: groups, Rate: rate}]
		switch {
		case c.Lost == 1:
			fmt.Fprint(w, "| all lost\t")
			continue
		case !ok || c.CPUPerDatagram == 0:
			fmt.Fprint(w, "| -\t")
			continue
		case c.Lost == 0:
			fmt.Fprintf(w, "| %.0f", c.CPUPerDatagram)
			best = fmt.Sprintf("%.0f kpps", rate/1e3)
		default:
			fmt.Fprintf(w, "| %.0f, %s lost", c.CPUPerDatagram, share(c.Lost))
		}
		if c.Reached < 0.97 {
			fmt.Fprintf(w, " (at %.0f kpps)", rate*c.Reached/1e3)
		}
		fmt.Fprint(w, "\t")
		start = max(start, c.Start)
		if c.BytesPerRecord > 0 {
			disk = fmt.Sprintf("%.0f", c.BytesPerRecord)
		}
		memory = fmt.Sprintf("%.0f MB", c.MaxRSS/1e6)
	}
	fmt.Fprintf(w, "| %d ms\t| %s\t| %s\t| %s\t|\n", start.Milliseconds(), best, disk, memory)
}

// share is a part of a whole in percent, never rounded to nothing.
func share(x float64) string {
	if x < 0.0001 {
		return "<0.01 %"
	}
	return strconv.FormatFloat(100*x, 'g', 3, 64) + " %"
}

// machine names the processor.
func machine() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(b), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return fmt.Sprintf("%d x %s", runtime.NumCPU(), strings.TrimSpace(v))
		}
	}
	return fmt.Sprintf("%d CPUs (%s)", runtime.NumCPU(), runtime.GOARCH)
}

// kernel names the system.
func kernel() string {
	out, err := exec.Command("uname", "-sr").Output()
	if err != nil {
		return runtime.GOOS
	}
	return strings.TrimSpace(string(out))
}
