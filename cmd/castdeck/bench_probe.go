package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"castdeck/bench/probe"
	"castdeck/internal/mcast"
	"castdeck/replayer"
)

// probeFlags are what sending, receiving and both have in common.
type probeFlags struct {
	groups     int
	ttl        ttlValue
	buffer     sizeValue
	returnTo   string
	allow      []string
	interval   durationValue
	tolerance  shareValue
	aboveMin   bool
	json       bool
	hlog       string
	returnAddr netip.AddrPort
	histograms *histogramLog // nil without --hlog

	stdout, stderr io.Writer
	talk           *talker // stdout, which nobody waits for
}

const probePatience = 5 * time.Second

func (f *probeFlags) add(fl *pflag.FlagSet) {
	f.ttl.n = 1
	f.buffer = sizeValue{bytes: 64 << 20, min: 4 << 10, max: 1 << 30}
	f.interval = durationValue{Duration: time.Second, min: 10 * time.Millisecond, max: time.Hour}
	fl.IntVar(&f.groups, "groups", 0, "use `N` groups, counted up from the one that is named")
	fl.Var(&f.ttl, "ttl", "time to live of what is sent, 1 to 255; 1 does not pass a router")
	fl.Var(&f.buffer, "buffer", "receive buffer to ask the kernel for, per socket")
	fl.StringVar(&f.returnTo, "return", "", "the way back (echoes, reports) is this `GROUP`, instead of the sender's address")
	fl.Var(&f.interval, "interval", "how often to report statistics")
	fl.Var(&f.tolerance, "loss", "share of lost datagrams that counts as none, such as 0.01%")
	fl.BoolVar(&f.aboveMin, "above-min", false, "show one-way latencies above the least: the time in queues, whatever the clocks show")
	fl.StringVar(&f.hlog, "hlog", "", "write the histograms of each step to this `FILE`, in HdrHistogram's log format")
	fl.BoolVar(&f.json, "json", false, "print everything as JSON lines: start, stats, step, summary")
}

// check reads what the flags mean.
func (f *probeFlags) check() (err error) {
	if f.ttl.keep {
		return usagef("--ttl keep: nothing was recorded; 1 to 255")
	}
	if f.returnTo != "" {
		all, err := mcast.Parse(f.returnTo)
		if err != nil {
			return usagef("--return: %v", err)
		}
		if len(all) != 1 || all[0].Source.IsValid() || all[0].Interface != "" || !all[0].Group.Addr().IsMulticast() {
			return usagef("--return %s: one multicast group and its port, such as 239.77.9.1:5078", f.returnTo)
		}
		f.returnAddr = all[0].Group
	}
	if _, err := mcast.NewMatcher(f.allow...); len(f.allow) > 0 && err != nil {
		return usagef("--allow: %v", err)
	}
	return nil
}

// guardReturn refuses a way back that nothing may be sent to.
func (f *probeFlags) guardReturn(iface string) error {
	if !f.returnAddr.IsValid() {
		return nil
	}
	return explainProbeGuard(replayer.Check([]replayer.Stream{{Dst: f.returnAddr}}, replayer.Options{Interface: iface, Allow: f.allow}))
}

// explainProbeGuard adds the way out to a refusal.
func explainProbeGuard(err error) error {
	var g *replayer.GuardError
	if errors.As(err, &g) {
		return fmt.Errorf("%w; --allow %s sends it all the same", err, g.Destination.Addr())
	}
	return err
}

// maxProbeGroups bounds --groups and ranges: each has a socket and a stream.
const maxProbeGroups = 1024

// destinations reads the GROUP arguments.
func (f *probeFlags) destinations(args []string, otherwise string) (groups []netip.AddrPort, err error) {
	if len(args) == 0 && otherwise != "" {
		args = []string{otherwise}
	}
	for _, a := range args {
		all, err := mcast.Parse(a)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		for _, g := range all {
			if g.Source.IsValid() || g.Interface != "" {
				return nil, usagef("%s: a measurement names its interface by -i, and takes any source", g)
			}
			if slices.Contains(groups, g.Group) {
				return nil, usagef("%s is named twice", g)
			}
			groups = append(groups, g.Group)
		}
	}
	switch {
	case f.groups < 0 || f.groups > maxProbeGroups || len(groups) > maxProbeGroups:
		return nil, usagef("%d groups: 1 to %d", max(f.groups, len(groups)), maxProbeGroups)
	case f.groups > 0 && len(groups) > 1:
		return nil, usagef("--groups counts up from one group; %d are named", len(groups))
	case f.groups > 0:
		for a := groups[0].Addr().Next(); len(groups) < f.groups; a = a.Next() {
			if !a.IsMulticast() {
				return nil, usagef("--groups %d: there are not so many from %s on", f.groups, groups[0])
			}
			groups = append(groups, netip.AddrPortFrom(a, groups[0].Port()))
		}
	}
	return groups, nil
}

// shareValue is a share in percent.
type shareValue struct {
	share float64
	text  string
}

func (v *shareValue) Set(s string) error {
	x, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || math.IsNaN(x) || x < 0 || x >= 100 || s != "0" && !strings.HasSuffix(s, "%") {
		return fmt.Errorf("%q is no share; write 0%% to less than 100%%, such as 0.1%%", s)
	}
	*v = shareValue{x / 100, s}
	return nil
}

func (v *shareValue) String() string { return v.text }
func (*shareValue) Type() string     { return "P%" }

// loadFlags are what is sent.
type loadFlags struct {
	rates    []string
	bitrate  rateValue
	sizes    []int
	duration durationValue
	count    countValue
	dscp     int
	gso      string
	echo     bool
	pingPong bool
	ramp     bool
	mostPPS  rateValue
	accuracy shareValue
	wait     durationValue

	pps []float64 // rates; 0 is as fast as can be
}

func (l *loadFlags) add(fl *pflag.FlagSet) {
	l.bitrate = rateValue{units: bitUnits, example: "1Gbit", max: 1e12}
	l.mostPPS = rateValue{units: ppsUnits, example: "1Mpps", max: 1e9}
	l.duration = durationValue{Duration: 2 * time.Second, min: 10 * time.Millisecond, max: 24 * time.Hour}
	l.wait = durationValue{Duration: probePatience, min: 10 * time.Millisecond, max: time.Hour}
	l.accuracy = shareValue{0.02, "2%"}
	fl.StringSliceVar(&l.rates, "pps", []string{"10kpps"}, "`RATES` over all groups, a step each: 10kpps,100kpps; max is as fast as can be; with --ramp the first one tried")
	fl.Var(&l.bitrate, "bitrate", "rate of payload instead, such as 1Gbit")
	fl.IntSliceVar(&l.sizes, "sizes", []int{256}, "payload `BYTES`, 64 to 65507, a step each")
	fl.Var(&l.duration, "duration", "of each step, or of each trial of --ramp")
	fl.Var(&l.count, "count", "end each step after this many datagrams")
	fl.IntVar(&l.dscp, "dscp", 0, "class of service, 0 to 63 (46 is expedited forwarding)")
	fl.StringVar(&l.gso, "gso", "auto", "send datagrams of one group that are due together as one run: `auto|off`")
	fl.BoolVar(&l.echo, "echo", false, "ask for every datagram back: round trips by one clock")
	fl.BoolVar(&l.pingPong, "ping-pong", false, "one datagram at a time, the next one when its echo has come: round trips without load")
	fl.BoolVar(&l.ramp, "ramp", false, "search the highest rate without loss, as RFC 2544 does")
	fl.Var(&l.mostPPS, "max-pps", "no higher with --ramp")
	fl.Var(&l.accuracy, "accuracy", "how near the result of --ramp is to the lowest rate that is too high")
	fl.Var(&l.wait, "wait", "how long to wait for the first answer")
}

func (l *loadFlags) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	for _, s := range l.rates {
		if s == "max" {
			l.pps = append(l.pps, 0)
			continue
		}
		v := rateValue{units: ppsUnits, example: "50kpps, or max", max: 1e9}
		if err := v.Set(s); err != nil {
			return usagef("--pps: %v", err)
		}
		l.pps = append(l.pps, v.value)
	}
	for _, n := range l.sizes {
		if n < probe.HeaderSize || n > 65507 {
			return usagef("--sizes %d: %d to 65507 bytes", n, probe.HeaderSize)
		}
	}
	switch {
	case len(l.sizes) == 0 || len(l.pps) == 0:
		return usagef("--sizes and --pps take one value at least")
	case given("bitrate") && given("pps"):
		return usagef("give one of --pps and --bitrate")
	case l.ramp && (len(l.pps) > 1 || l.pps[0] == 0):
		return usagef("--ramp begins with one rate of --pps, and finds the others")
	case l.ramp && l.pingPong:
		return usagef("give one of --ramp and --ping-pong")
	case !l.ramp && (given("max-pps") || given("accuracy")):
		return usagef("--max-pps and --accuracy are for --ramp")
	case l.gso != "auto" && l.gso != "off":
		return usagef("--gso %q: auto or off", l.gso)
	case l.dscp < 0 || l.dscp > 63:
		return usagef("--dscp %d: 0 to 63", l.dscp)
	case l.accuracy.share <= 0:
		return usagef("--accuracy %s: more than 0%%", &l.accuracy)
	}
	if l.pingPong {
		l.echo = true
		if !given("pps") && !given("bitrate") {
			l.pps = []float64{0}
		}
	}
	return nil
}

// options are those of a sender.
func (l *loadFlags) options(f *probeFlags, iface string, groups []netip.AddrPort) probe.SendOptions {
	return probe.SendOptions{
		Interface: iface, Groups: groups, Allow: f.allow, TTL: f.ttl.n, DSCP: l.dscp, Segmentation: l.gso == "auto",
		Echo: l.echo, Return: f.returnAddr, Buffer: int(f.buffer.bytes),
	}
}

// steps are those of one size, without a ramp.
func (l *loadFlags) steps(size int) (all []probe.Step) {
	rates := l.pps
	if l.bitrate.value > 0 {
		rates = []float64{l.bitrate.value / 8 / float64(size)}
	}
	for _, r := range rates {
		all = append(all, probe.Step{Size: size, Rate: r, Duration: l.duration.Duration, Count: uint64(l.count)})
	}
	return all
}

// probeLine is a step's line in the table: what was sent, and what is known to have arrived.
type probeLine struct {
	sent    probe.Sent
	arrived []arrived
}

// arrived is what one receiver measured.
type arrived struct {
	probe.Arrived
	receiver netip.AddrPort // invalid: this program
}

// worst is the receiver that lost most; false where nothing is known.
func (l *probeLine) worst() (w probe.Arrived, ok bool) {
	for _, a := range l.arrived {
		if !ok || a.Lost > w.Lost {
			w, ok = a.Arrived, true
		}
	}
	return w, ok
}

// measure runs the plan: for each size the steps, or a search. step runs one, last where
// it is known to be the last.
func (l *loadFlags) measure(ctx context.Context, f *probeFlags, step func(context.Context, probe.Step, bool) (probeLine, error)) (*probeOutcome, error) {
	o := &probeOutcome{}
	one := func(st probe.Step, last bool) (probeLine, error) {
		n, err := step(ctx, st, last)
		if err == nil {
			o.add(&n)
			f.step(&n, o.steps)
		}
		return n, err
	}
	for i, size := range l.sizes {
		if l.ramp {
			found, err := probe.Search(probe.SearchOptions{
				Start: l.steps(size)[0].Rate, Most: l.mostPPS.value, Tolerance: f.tolerance.share, Resolution: l.accuracy.share,
			}, func(rate float64) (probe.Trial, error) {
				n, err := one(probe.Step{Size: size, Rate: rate, Duration: l.duration.Duration, Count: uint64(l.count)}, false)
				if err == nil {
					err = ctx.Err() // a trial that was cut short says nothing
				}
				w, _ := n.worst()
				return probe.Trial{Rate: rate, Reached: n.sent.Reached, Sent: n.sent.Datagrams, Lost: w.Lost, Drops: w.Drops, Refused: n.sent.Refused > 0}, err
			})
			if err != nil && ctx.Err() == nil {
				return o, err
			}
			o.found = append(o.found, foundRate{size, found})
		} else {
			for k, st := range l.steps(size) {
				if ctx.Err() != nil {
					break
				}
				if _, err := one(st, i == len(l.sizes)-1 && k == len(l.steps(size))-1); err != nil {
					return o, err
				}
			}
		}
		if ctx.Err() != nil {
			o.interrupted = true
			break
		}
	}
	return o, nil
}

// probeOutcome is what a whole run came to.
type probeOutcome struct {
	steps                         int
	sent, bytes, refused, unknown uint64 // unknown were sent, and nobody said whether they arrived
	counts                        probe.Counts
	found                         []foundRate
	interrupted                   bool
}

type foundRate struct {
	size int
	probe.Found
}

func (o *probeOutcome) add(l *probeLine) {
	o.steps++
	o.sent += l.sent.Datagrams
	o.bytes += l.sent.Bytes
	o.refused += l.sent.Refused
	w, ok := l.worst()
	if !ok {
		o.unknown += l.sent.Datagrams
		return
	}
	o.counts.Sent += l.sent.Datagrams
	o.counts.Lost += w.Lost
	o.counts.Unique += w.Unique
	o.counts.Duplicates += w.Duplicates
	o.counts.Reordered += w.Reordered
	o.counts.Drops += w.Drops
}

// result is the exit code: losses are what a search looks for, and otherwise what nobody
// wants.
func (o *probeOutcome) result(f *probeFlags) error {
	for _, r := range o.found {
		if r.Rate == 0 {
			return lossy
		}
	}
	if o.interrupted || len(o.found) == 0 && (o.refused > 0 || float64(o.counts.Lost) > f.tolerance.share*float64(o.counts.Sent)) {
		return lossy
	}
	return nil
}

// session runs a measurement until its end or a signal, with what it writes to open:
// --hlog, and stdout as one that nobody waits for.
func (f *probeFlags) session(cmd *cobra.Command, run func(context.Context) error) (err error) {
	if f.hlog != "" {
		if f.histograms, err = newHistogramLog(f.hlog); err != nil {
			return err
		}
	}
	f.stderr = cmd.ErrOrStderr()
	f.talk = newTalker(cmd.OutOrStdout(), func(n int) []byte {
		if f.json {
			return fmt.Appendf(nil, "{\"event\":\"omitted\",\"lines\":%d}\n", n)
		}
		return fmt.Appendf(nil, "(%s left out: nobody read them)\n", plural(n, "line"))
	})
	f.stdout = f.talk
	ctx, stop := orderlyEnd(cmd.Context())
	defer stop()
	err = run(ctx)
	f.talk.takeAll()
	if terr := f.talk.close(stuckAfter); err == nil {
		err = terr
	}
	if herr := f.histograms.close(); err == nil {
		err = herr
	}
	return err
}

// print prints v as a JSON line.
func (f *probeFlags) print(v any) { _ = json.NewEncoder(f.stdout).Encode(v) }
