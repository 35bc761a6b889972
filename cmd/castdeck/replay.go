package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"castdeck/format"
	"castdeck/internal/mcast"
	"castdeck/replayer"
)

type replayFlags struct {
	o        replayer.Options
	pps      rateValue
	bitrate  rateValue
	speed    speedValue
	limit    rateValue
	maxGap   durationValue
	interval durationValue
	duration durationValue
	loopGap  durationValue
	after    durationValue
	worst    durationValue
	count    countValue
	late     string
	gso      string
	at       string
	hlog     string
	page     pageFile
	control  string
	impair   impairFlags
	where    whereFlags
	span     timeSpan
	loop     int
	dryRun   bool
	json     bool

	// name and sealed are the input's, once it was looked at.
	name   string
	sealed bool

	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool
}

func replayCmd() *cobra.Command {
	f := &replayFlags{
		pps:      rateValue{units: ppsUnits, example: "50kpps", max: 1e9},
		bitrate:  rateValue{units: bitUnits, example: "1Gbit", max: 1e12},
		limit:    rateValue{units: bitUnits, example: "5Gbit", max: 1e12},
		maxGap:   durationValue{min: time.Microsecond, max: forever},
		duration: durationValue{min: time.Millisecond, max: forever},
		loopGap:  durationValue{min: time.Microsecond, max: forever},
		after:    durationValue{Duration: time.Millisecond, min: time.Microsecond, max: time.Hour},
		worst:    durationValue{min: time.Microsecond, max: time.Hour},
		interval: durationValue{Duration: time.Second, min: 10 * time.Millisecond, max: time.Hour},
	}
	cmd := &cobra.Command{
		Use:   "replay PATH... -i IFACE",
		Short: "Send a recording again, with its timing",
		Long: `Send the datagrams of a capture of any kind again: at the recorded times, faster,
slower, at a constant rate, or as fast as the interface takes them. Each keeps its
payload, group, port and source port; --map changes where they go.

Nothing leaves but through IFACE. TTL is 1 and members on this host hear nothing
unless --ttl and --loopback say otherwise. Routing, time and discovery groups
(224.0.0.0/24, 224.0.1.0/24 and the like), broadcast and unicast destinations are
refused before the first datagram (exit code 4) unless --allow names them; so is
a group that is being recorded into PATH at the moment. --to allows its destination.

` + pathsHelp + ` Segments of one
recording are read as one, and several captures are merged by time. A replay reads
its input twice, so it cannot come from stdin or a FIFO.

` + whereHelp + `

In a terminal, keys control it:
` + keysHelp + `.
With --control the same goes by HTTP: GET /status; POST /pause, /resume, /step?n=10,
/speed?x=2, /seek?to=TIME or to=-10s, /quit; each answers with the status as JSON.

To see how receivers bear it, --drop, --drop-burst, --duplicate, --corrupt, --delay,
--jitter and --reorder damage what is sent, for everything or for a GROUP (recorded
addresses), and --seed repeats it. --rewrite lets counters go on over --loop, and
times be those of now. docs/IMPAIR.md has the models.

The summary says how late datagrams left, and --report makes a page of it with pictures:
the rate that was asked for and that was sent, lateness over time, percentiles. A replay
that falls behind catches up unless --late says otherwise. At --speed max each
destination keeps its order, but not all among each other; --gso off keeps that too.
Exit code 3 where some could not be sent, were not
recorded whole, could not be read, or left later than --max-lateness.`,
		Example: `  castdeck replay feed.pcapng.zst -i eth1 --dry-run
  castdeck replay feed.pcapng.zst -i eth1 --speed 2 --map 239.1.0.0/16=239.9.0.0/16
  castdeck replay a.pcap b.pcap -i eth1 --map 'in2:*=*%eth2' --offset in2:+5ms   (lines A and B)
  castdeck replay feed.pcapng.zst -i eth1 --to test.example:5000
  castdeck replay feed.pcapng.zst -i eth1 --at 2026-11-22T15:30:00Z --realtime --max-lateness 1ms
  castdeck replay feed.pcapng.zst -i eth1 --speed max --limit 2Gbit --loop 0 --duration 1h
  castdeck replay feed.pcapng.zst -i eth1 --drop-burst 0.1%,5 --jitter 239.1.1.1=2ms --seed 42 --impair-log done.ndjson
  castdeck replay feed.pcapng.zst -i eth1 --pps 50kpps --report replay.html
  castdeck replay feed.pcapng.zst -i eth1 --loop 0 --rewrite 239.1.1.1:5000=rtp,mpegts
  castdeck replay morning.pcap -i lo --loopback --speed max --only 239.1.1.1:5000`,
		Args: argsN(1, -1, "one or more captures"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.stdin, f.stdout, f.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			f.terminal = isTerminal(f.stderr)
			ctx, stop := orderlyEnd(cmd.Context())
			defer stop()
			return f.run(ctx, args)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.o.Interface, "interface", "i", "", "network interface to send out of: name, index or own address")
	fl.Var(&f.speed, "speed", "factor of the recorded rate, 0.01 to 1000, or max")
	fl.Var(&f.pps, "pps", "send at a constant rate, such as 50kpps")
	fl.Var(&f.bitrate, "bitrate", "send at a constant rate of payload, such as 1Gbit")
	fl.Var(&f.maxGap, "max-gap", "shorten pauses of the recording to this")
	f.where.add(fl)
	fl.StringArrayVar(&f.o.Only, "only", nil, "send only datagrams recorded for this `GROUP` (repeatable)")
	fl.StringArrayVar(&f.o.Allow, "allow", nil, "let datagrams go to this `DESTINATION` although a guard is against it (repeatable)")
	f.span.addFlags(cmd)
	fl.Var(&f.duration, "duration", "stop after playing this long, such as 10m")
	fl.Var(&f.count, "count", "stop after this many datagrams")
	fl.IntVar(&f.loop, "loop", 1, "play it `N` times, the pace kept; 0 until interrupted")
	fl.Var(&f.loopGap, "loop-gap", "pause between two rounds; default the mean time between datagrams")
	fl.StringVar(&f.at, "at", "", "send the first datagram at this `TIME` of the wall clock: RFC 3339, seconds since 1970, or +10s from now")
	fl.StringVar(&f.late, "late", "catch-up", "what to do when behind: `catch-up|shift|drop` (shift moves the schedule, drop leaves out)")
	fl.Var(&f.after, "late-after", "lateness from which --late shift and drop act")
	fl.Var(&f.limit, "limit", "never send more than this, headers included, such as 5Gbit")
	fl.BoolVar(&f.o.Realtime, "realtime", false, "real-time priority and locked memory for the sending thread, where allowed")
	fl.StringVar(&f.gso, "gso", "auto", "send equal datagrams that are due together as one run, which at --speed max are put together by destination: `auto|off`")
	fl.BoolVar(&f.o.Loopback, "loopback", false, "members on this host hear it too")
	fl.BoolVar(&f.dryRun, "dry-run", false, "list every destination with counts, send nothing")
	fl.Var(&f.interval, "interval", "how often to report progress")
	f.impair.addFlags(cmd)
	fl.Var(&f.worst, "max-lateness", "exit code 3 where a datagram left later than this")
	fl.StringVar(&f.hlog, "hlog", "", "write the histograms of lateness and interval error to this `FILE`, in HdrHistogram's log format")
	f.page.addFlags(fl)
	fl.StringVar(&f.control, "control", "", "take commands over HTTP on this `ADDRESS` of this host, such as 127.0.0.1:9465")
	fl.BoolVar(&f.json, "json", false, "print the summary as a JSON line, by destination too")
	return cmd
}

// speedValue is --speed: a factor, or max.
type speedValue struct {
	factor float64
	max    bool
}

func (v *speedValue) Set(s string) error {
	if s == "max" {
		*v = speedValue{max: true}
		return nil
	}
	x, err := strconv.ParseFloat(strings.TrimSuffix(s, "x"), 64)
	if err != nil || math.IsNaN(x) || x < 0.01 || x > 1000 {
		return fmt.Errorf("%q: write a factor from 0.01 to 1000, such as 2 for twice the recorded rate, or max", s)
	}
	*v = speedValue{factor: x}
	return nil
}

func (v *speedValue) String() string {
	switch {
	case v.max:
		return "max"
	case v.factor == 0:
		return "1"
	}
	return strconv.FormatFloat(v.factor, 'g', -1, 64)
}
func (*speedValue) Type() string { return "X|max" }

// rateValue is a number per second with a required unit.
type rateValue struct {
	value   float64
	text    string
	units   map[string]float64
	example string
	max     float64
}

var (
	ppsUnits = map[string]float64{"pps": 1, "kpps": 1e3, "Mpps": 1e6}
	bitUnits = map[string]float64{"bit": 1, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
)

func (v *rateValue) Set(s string) error {
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i > 0 {
		unit, known := v.units[s[i:]]
		x, err := strconv.ParseFloat(s[:i], 64)
		if known && err == nil && x > 0 && x*unit <= v.max {
			v.value, v.text = x*unit, s
			return nil
		}
		if strings.HasSuffix(strings.ToLower(s), "bps") {
			return fmt.Errorf("%q: tools disagree on what bps counts; write %s", s, v.example)
		}
	}
	return fmt.Errorf("%q: write a number with its unit, such as %s", s, v.example)
}

func (v *rateValue) String() string { return v.text }
func (v *rateValue) Type() string   { return "RATE" }

func (f *replayFlags) options(ctx context.Context, paths int) (replayer.Options, error) {
	o := f.o
	if o.Interface == "" {
		return o, usagef("replay: out of which interface? add -i IFACE (have %s)", interfaceNames())
	}
	set := 0
	for _, given := range []bool{f.speed.max || f.speed.factor != 0, f.pps.value != 0, f.bitrate.value != 0} {
		if given {
			set++
		}
	}
	if set > 1 {
		return o, usagef("replay: give one of --speed, --pps and --bitrate")
	}
	if err := f.span.check(); err != nil {
		return o, err
	}
	if f.loop < 0 {
		return o, usagef("--loop %d: how often to play it; 0 until interrupted", f.loop)
	}
	if err := f.where.apply(ctx, &o, paths); err != nil {
		return o, err
	}
	o.Speed, o.Max, o.PPS, o.BitsPerSecond, o.MaxGap = f.speed.factor, f.speed.max, f.pps.value, f.bitrate.value, f.maxGap.Duration
	o.Limit, o.Count, o.LateAfter = f.limit.value, uint64(f.count), f.after.Duration
	var err error
	if o.Late, err = replayer.ParseLatePolicy(f.late); err != nil {
		return o, usagef("--late: %v", err)
	}
	switch f.gso {
	case "auto":
	case "off":
		o.NoSegmentation = true
	default:
		return o, usagef("--gso %q: auto or off", f.gso)
	}
	if f.at != "" {
		at, err := parseTime(f.at)
		if err != nil {
			return o, usagef("--at: %v", err)
		}
		if at.relative {
			at.ns += time.Now().UnixNano()
		}
		if o.At = time.Unix(0, at.ns); time.Until(o.At) <= 0 {
			return o, usagef("--at %s has passed", f.at)
		}
	}
	if f.hlog != "" || f.json || f.page.wanted() {
		o.Histograms = 256
	}
	o.History = f.page.wanted()
	if o.Max && (f.worst.Duration > 0 || o.Late != replayer.CatchUp) {
		return o, usagef("--speed max: everything is due at once, so there is no --max-lateness and no --late")
	}
	for _, p := range []struct {
		flag     string
		patterns []string
	}{{"--only", o.Only}, {"--allow", o.Allow}} {
		if _, err := mcast.NewMatcher(p.patterns...); err != nil {
			return o, usagef("%s: %v", p.flag, err)
		}
	}
	return o, f.impair.apply(&o)
}

func (f *replayFlags) run(ctx context.Context, paths []string) error {
	o, err := f.options(ctx, len(paths))
	if err != nil {
		return err
	}
	if f.dryRun && f.page.wanted() {
		return usagef("--dry-run sends nothing, so there is nothing for --report; castdeck report shows a recording")
	}
	if err := f.page.check(f.stdout, paths...); err != nil {
		return err
	}
	streams, whole, err := f.streams(paths, &o)
	if err != nil {
		return err
	}
	if f.dryRun {
		if err := f.plan(paths, o); err != nil || whole {
			return err
		}
		return lossy
	}
	if err := replayer.Check(streams, o); err != nil {
		return explainGuard(err)
	}
	if err := f.impair.open(&o); err != nil {
		return err
	}
	defer f.impair.close()
	r, err := replayer.New(o)
	if err != nil {
		return f.where.explain(err)
	}
	defer r.Close()
	src := &replayer.Repeat{Open: func(from int64) (format.BatchReader, error) { return f.open(paths, from) }, Rounds: f.loop, Pause: f.loopGap.Duration}
	defer src.Close()
	if f.duration.Duration > 0 {
		var cancel context.CancelFunc
		// Counted from the moment at which the first datagram is due.
		ctx, cancel = context.WithTimeout(ctx, f.duration.Duration+max(time.Until(o.At), 0))
		defer cancel()
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	release, err := f.controls(ctx, &deck{r: r, max: f.speed.max, quit: quit})
	if err != nil {
		return err
	}
	stop := f.report(r)
	rep, err := r.Run(ctx, src)
	stop()
	release()
	err = explainGuard(err)
	interrupted := errors.Is(err, context.Canceled)
	if interrupted || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	if lerr := f.impair.close(); err == nil {
		err = lerr
	}
	if f.hlog != "" {
		if herr := writeHistograms(f.hlog, rep); err == nil {
			err = herr
		}
	}
	if serr := f.summary(f.name, rep, f.sealed, interrupted); err == nil {
		err = serr
	}
	if perr := f.makePage(paths, &rep, interrupted); err == nil {
		err = perr
	}
	if err != nil {
		return err
	}
	if f.lossy(rep) || interrupted {
		return lossy
	}
	return nil
}

// controls lets the terminal's keys and --control reach the replay until release is
// called.
func (f *replayFlags) controls(ctx context.Context, d *deck) (release func(), err error) {
	release = func() {}
	if f.control != "" {
		l, err := listenControl(f.control)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(f.stderr, "castdeck: control on http://%s (see castdeck replay -h)\n", l.Addr())
		ctx, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = d.serve(ctx, l)
		}()
		release = func() {
			stop()
			<-done
		}
	}
	in, ok := f.stdin.(*os.File)
	if !f.terminal || !ok || !term.IsTerminal(int(in.Fd())) {
		return release, nil
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return release, nil // no keys then
	}
	fmt.Fprintf(f.stderr, "%s\r\n", keysHelp)
	go d.keys(in) // ends with the process: a read of a terminal cannot be ended
	http := release
	return func() {
		_ = term.Restore(int(in.Fd()), before)
		http()
	}, nil
}

// lossy says whether the replay was not all that was asked for.
func (f *replayFlags) lossy(r replayer.Report) bool {
	return r.SendErrors > 0 || r.Damaged > 0 || r.Skipped.Truncated > 0 || r.DroppedLate > 0 || !f.sealed || f.tooLate(r)
}

func (f *replayFlags) tooLate(r replayer.Report) bool {
	return f.worst.Duration > 0 && r.Lateness.Max > int64(f.worst.Duration)
}

// round is the input of one round of a replay.
type round struct {
	format.BatchReader
	in *input
}

func (r round) Close() error { return r.in.Close() }

// open opens the input; what was recorded before from is left out as far as that saves
// reading.
func (f *replayFlags) open(paths []string, from int64) (format.BatchReader, error) {
	in, err := openInputWith(f.where.input, paths...)
	if err != nil {
		return nil, err
	}
	src, err := f.span.cutFrom(in, from)
	if err != nil {
		in.Close()
		return nil, err
	}
	if f.where.raw {
		src = ethernet{src, in.interfaces}
	}
	return round{src, in}, nil
}

// streams is what the capture holds. whole is false, and what is wrong is said, where
// it is damaged or was cut off. What of it is being recorded goes into the options.
func (f *replayFlags) streams(paths []string, o *replayer.Options) (streams []replayer.Stream, whole bool, err error) {
	// The destinations are checked before the first datagram leaves, so the capture is
	// read twice.
	if path, once := readOnce(paths); once {
		return nil, false, fmt.Errorf("%s is not a regular file; a replay reads its input twice, so save it to a file first", path)
	}
	in, err := openInput(paths...)
	if err != nil {
		return nil, false, err
	}
	defer in.Close()
	s, err := in.summarize(true)
	if err != nil {
		return nil, false, err
	}
	f.name, f.sealed = in.path, in.sealed()
	for _, st := range s.streams {
		streams = append(streams, replayer.Stream{Src: st.Src, Dst: st.Dst, Input: st.Input, Datagrams: st.Datagrams, Bytes: st.Bytes})
	}
	if o.Recorded, err = in.beingRecorded(s.streams); err != nil {
		return nil, false, err
	}
	if f.dryRun {
		const most = 20
		for _, p := range s.problems[:min(len(s.problems), most)] {
			fmt.Fprintf(f.stderr, "castdeck: %s: %s\n", oneLine(in.path), oneLine(p))
		}
	}
	return streams, s.sealed && s.DamagedPlaces == 0, nil
}

// explainGuard adds the way out, in terms of the flags, to a refusal.
func explainGuard(err error) error {
	var g *replayer.GuardError
	if errors.As(err, &g) {
		return fmt.Errorf("%w; --allow %s sends it all the same, --map OLD=NEW elsewhere, --only leaves it out", err, g.Destination.Addr())
	}
	return err
}
