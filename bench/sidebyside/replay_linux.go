package sidebyside

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/internal/netns"
	"castdeck/recorder"
)

// replayTool is a program that replays, and how it is asked to.
type replayTool struct {
	name, program string
	// paced and full say what it can do.
	paced, full bool
	// even: datagrams of one size to one group only.
	even bool
	args func(f replayFiles, full bool) []string
	// rate reads the rate at full speed from what the program said.
	rate func(said string) (float64, error)
}

// replayFiles are one traffic in the forms that the tools read.
type replayFiles struct {
	pcap, loop, raw, size string
}

// replayers are the tools, castdeck's ways first.
var replayers = []replayTool{
	{name: "castdeck", paced: true, full: true, rate: castdeckRate, args: castdeckArgs()},
	{name: "castdeck --realtime", paced: true, args: castdeckArgs("--realtime")},
	{name: "castdeck --gso off", full: true, rate: castdeckRate, args: castdeckArgs("--gso", "off")},
	{name: "castdeck --raw", full: true, rate: castdeckRate, args: castdeckArgs("--raw")},
	{name: "tcpreplay nano", program: "tcpreplay", paced: true, args: tcpreplayArgs("nano")},
	{name: "tcpreplay gtod", program: "tcpreplay", paced: true, args: tcpreplayArgs("gtod")},
	{name: "tcpreplay select", program: "tcpreplay", paced: true, args: tcpreplayArgs("select")},
	{name: "tcpreplay -t", program: "tcpreplay", full: true, args: tcpreplayArgs(""), rate: tcpreplayRate},
	{name: "C loop", program: "udploop", paced: true, full: true, rate: loopRate, args: func(f replayFiles, full bool) []string {
		mode := "pace"
		if full {
			mode = "max"
		}
		return []string{f.loop, stageSource.String(), mode}
	}},
	{name: "C loop, runs", program: "udploop", full: true, even: true, rate: loopRate, args: func(f replayFiles, _ bool) []string {
		return []string{f.loop, stageSource.String(), "runs"}
	}},
	{name: "multicat", program: "multicat", paced: true, even: true, args: func(f replayFiles, _ bool) []string {
		return []string{"-u", "-U", "-m", f.size, f.raw, groupsOf(1)[0].String() + "@" + stageSource.String()}
	}},
}

func castdeckArgs(more ...string) func(replayFiles, bool) []string {
	return func(f replayFiles, full bool) []string {
		args := append([]string{"replay", f.pcap, "-i", stageTx, "--json"}, more...)
		if full {
			args = append(args, "--speed", "max")
		}
		return args
	}
}

func tcpreplayArgs(timer string) func(replayFiles, bool) []string {
	return func(f replayFiles, full bool) []string {
		if full {
			return []string{"-i", stageTx, "-t", "-K", f.pcap}
		}
		return []string{"-i", stageTx, "-K", "--timer", timer, f.pcap}
	}
}

func castdeckRate(said string) (float64, error) {
	for _, line := range strings.Split(said, "\n") {
		var j struct {
			Event string  `json:"event"`
			Rate  float64 `json:"rate_pps"`
		}
		if json.Unmarshal([]byte(line), &j) == nil && j.Event == "summary" {
			return j.Rate, nil
		}
	}
	return 0, errors.New("no summary")
}

var tcpreplayRated = regexp.MustCompile(`Actual: (\d+) packets \(\d+ bytes\) sent in ([0-9.]+) seconds`)

func tcpreplayRate(s string) (float64, error) {
	m := tcpreplayRated.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("it does not say what it sent: %s", said(s))
	}
	return ratio(m[1], m[2])
}

func loopRate(s string) (float64, error) {
	f := strings.Fields(s)
	if len(f) != 2 {
		return 0, fmt.Errorf("it said %q", said(s))
	}
	return ratio(f[0], f[1])
}

func ratio(count, seconds string) (float64, error) {
	n, err1 := strconv.ParseFloat(count, 64)
	s, err2 := strconv.ParseFloat(seconds, 64)
	return n / max(s, 1e-9), errors.Join(err1, err2)
}

func (t replayTool) title() string { return t.name }

func (t replayTool) needs() string { return t.program }

// Replayers are the names of the tools that Replay knows.
func Replayers() []string { return titles(replayers) }

// Missing are the tools among those asked for that are not installed. The C loop
// needs a compiler.
func (o ReplayOptions) Missing() []string { return missing(replayers, o.Tools) }

// Replay runs every tool on every case and returns all runs. A tool that fails is no
// error: its run says so. Cancelling ctx ends between two runs.
func Replay(ctx context.Context, o ReplayOptions) ([]ReplayRun, error) {
	o = o.withDefaults()
	if err := known("replayer", Replayers(), o.Tools); err != nil {
		return nil, err
	}
	runtime.LockOSThread() // the tools live as long as the thread that started them
	defer runtime.UnlockOSThread()
	dir, remove, err := stage(o.Dir)
	if err != nil {
		return nil, err
	}
	defer remove()
	c := &comparison{o: o, dir: dir, tools: present(replayers, o.Tools)}
	if err := compile(c.tools, dir); err != nil {
		return nil, err
	}
	for _, s := range o.Shapes {
		if err := c.all(ctx, ReplayRun{Shape: s}); err != nil {
			return c.runs, err
		}
	}
	for _, s := range o.Speeds {
		if err := c.all(ctx, ReplayRun{Speed: s}); err != nil {
			return c.runs, err
		}
	}
	return c.runs, nil
}

type comparison struct {
	o     ReplayOptions
	dir   string
	tools []replayTool
	runs  []ReplayRun
}

// all runs every tool on one case, in turns.
func (c *comparison) all(ctx context.Context, proto ReplayRun) (err error) {
	full := proto.Shape.Rate == 0
	files, times, err := c.write(proto)
	if err != nil {
		return err
	}
	if proto.Speed.Offload {
		if err := netns.PassRuns(stageTx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, netns.CutRuns(stageTx)) }()
	}
	for range c.o.Repeat {
		for _, t := range c.tools {
			if full && !t.full || !full && !t.paced || t.even && (proto.Speed.Mixed || proto.Speed.Groups > 1) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			r := proto
			r.Tool, r.Sent = t.name, uint64(len(times))
			r.Err = c.one(ctx, t, files, times, &r)
			c.runs = append(c.runs, r)
			if c.o.Each != nil {
				c.o.Each(r)
			}
		}
	}
	return nil
}

// write makes the traffic of a case in all forms. times are when datagrams are due, ns.
func (c *comparison) write(proto ReplayRun) (f replayFiles, times []int64, err error) {
	f = replayFiles{pcap: filepath.Join(c.dir, "a.pcap"), loop: filepath.Join(c.dir, "a.loop"), raw: filepath.Join(c.dir, "a.raw"), size: "200"}
	o := bench.FeedOptions{Groups: groupsOf(max(proto.Speed.Groups, 1)), Start: 1_700_000_000_000_000_000, Seed: 1, MinSize: 200}
	if proto.Shape.Rate > 0 {
		o.Count = int(proto.Shape.Rate * c.o.duration(proto.Shape).Seconds())
		o.Rate = proto.Shape.Rate
	} else {
		o.Count, o.Rate, o.MinSize = c.o.Count, 1e6, proto.Speed.Size
		if proto.Speed.Mixed {
			o.MinSize, o.MaxSize = 64, proto.Speed.Size
		}
	}
	file, err := os.Create(f.pcap)
	if err != nil {
		return f, nil, err
	}
	defer file.Close()
	interfaces := []format.Interface{{Name: stageTx, LinkType: format.LinkTypeEthernet}}
	w, err := pcapfile.NewWriter(file, func() []format.Interface { return interfaces })
	if err != nil {
		return f, nil, err
	}
	var loop, raw, aux bytes.Buffer
	feed := bench.NewFeed(o)
	for b := new(format.Batch); feed.ReadBatch(b) == nil; {
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			if n := int64(proto.Shape.Burst); n > 1 { // exact bursts at one time
				k := int64(len(times)) / n * n
				d.Time = o.Start + int64(float64(k)/o.Rate*1e9)
			}
			d.Src = netip.AddrPortFrom(stageSource, d.Src.Port())
			due := d.Time - o.Start
			times = append(times, due)
			to := d.Dst.Addr().As4()
			loop.Write(binary.NativeEndian.AppendUint64(nil, uint64(due)))
			loop.Write(to[:])
			loop.Write(binary.NativeEndian.AppendUint16(nil, d.Dst.Port()))
			loop.Write(binary.NativeEndian.AppendUint16(nil, uint16(len(d.Payload))))
			loop.Write(d.Payload)
			if proto.Shape.Rate > 0 {
				raw.Write(d.Payload)
				aux.Write(binary.BigEndian.AppendUint64(nil, uint64(float64(due)*27e6/1e9))) // ticks of 27 MHz
			}
		}
		if err := w.WriteBatch(b); err != nil {
			return f, nil, err
		}
	}
	if err := w.Flush(); err != nil {
		return f, nil, err
	}
	return f, times, errors.Join(os.WriteFile(f.loop, loop.Bytes(), 0o600), os.WriteFile(f.raw, raw.Bytes(), 0o600),
		os.WriteFile(multicatTimes(f.raw, 200), aux.Bytes(), 0o600))
}

// one runs one tool once.
func (c *comparison) one(ctx context.Context, t replayTool, files replayFiles, times []int64, r *ReplayRun) error {
	full := r.Shape.Rate == 0
	var seen *arrivals
	if !full || r.Speed.Receiver {
		var err error
		if seen, err = receive(max(r.Speed.Groups, 1), len(times)); err != nil {
			return err
		}
		defer seen.close()
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, executable(t, c.o.Castdeck, c.dir), t.args(files, full)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.Command = cmd.Args
	start := time.Now()
	err := cmd.Run()
	r.Took = time.Since(start)
	if err != nil {
		return fmt.Errorf("%w: %s", err, said(out.String()))
	}
	r.CPU = processorTime(cmd.ProcessState)
	if seen != nil {
		if err := seen.end(); err != nil {
			return err
		}
		r.Arrived = seen.count
	}
	if full {
		r.Rate, err = t.rate(out.String())
		return err
	}
	if r.Arrived == 0 {
		return fmt.Errorf("nothing arrived: %s", said(out.String()))
	}
	r.Late, r.Interval = seen.errors(times)
	return nil
}

// arrivals are the kernel's stamps of what arrived, by the number in the payload.
type arrivals struct {
	rec   *recorder.Recorder
	stop  context.CancelFunc
	done  chan error
	times []int64 // 0: did not arrive
	count uint64
}

// receive begins to receive.
func receive(groups, count int) (*arrivals, error) {
	var subs []recorder.Subscription
	for _, g := range groupsOf(groups) {
		subs = append(subs, recorder.Subscription{Group: g, Interface: stageRx})
	}
	rec, err := recorder.Listen(subs, recorder.Options{})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &arrivals{rec: rec, stop: stop, done: make(chan error, 1), times: make([]int64, count)}
	go func() { a.done <- rec.Run(ctx, a) }()
	return a, nil
}

// WriteBatch notes when each datagram came.
func (a *arrivals) WriteBatch(b *format.Batch) error {
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if len(d.Payload) < bench.FeedHeader {
			continue
		}
		a.count++
		if n := binary.BigEndian.Uint64(d.Payload); n < uint64(len(a.times)) {
			a.times[n] = d.Time
		}
	}
	return nil
}

func (a *arrivals) end() error {
	a.stop()
	return <-a.done
}

func (a *arrivals) close() { a.rec.Close() }

// errors compares with the times due. The datagram that came soonest behind its time
// is taken for exact: nobody knows when the sender meant to begin.
func (a *arrivals) errors(due []int64) (late, interval Quantiles) {
	base := int64(math.MaxInt64)
	for i, t := range a.times {
		if t != 0 {
			base = min(base, t-due[i])
		}
	}
	var lates, intervals []float64
	last := int64(-1)
	for i, t := range a.times {
		if t == 0 {
			last = -1
			continue
		}
		l := t - due[i] - base
		lates = append(lates, float64(l))
		if last >= 0 {
			intervals = append(intervals, math.Abs(float64(l-last)))
		}
		last = l
	}
	return quantiles(lates), quantiles(intervals)
}

func quantiles(values []float64) Quantiles {
	if len(values) == 0 {
		return Quantiles{}
	}
	slices.SortFunc(values, cmp.Compare)
	at := func(q float64) float64 { return values[min(int(q*float64(len(values))), len(values)-1)] }
	return Quantiles{at(0.5), at(0.99), at(0.999), values[len(values)-1]}
}
