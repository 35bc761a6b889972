package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"castdeck/bench/probe"
	"castdeck/internal/netns"
)

type benchPathFlags struct {
	probeFlags
	loadFlags
	from, to string
	private  bool
}

// defaultProbeGroup and defaultReturnGroup are where a path inside of one host is
// measured.
const (
	defaultProbeGroup  = "239.77.1.1:5077"
	defaultReturnGroup = "239.77.9.1:5078"
)

// probeHelp is what the measuring commands' help has in common.
const probeHelp = `Latency is one-way: from right before the system call that sends to the kernel's
stamp at the receiver; between two hosts it is as good as their clocks agree, and
--above-min shows what does not depend on them. LATE counts reordered datagrams
(RFC 4737), TWICE copies, BURSTS losses in a row; jitter is that of RFC 3550. What
the receiver's own socket lost is told apart from what the path lost.`

func benchPathCmd() *cobra.Command {
	f := &benchPathFlags{}
	cmd := &cobra.Command{
		Use:   "path [GROUP...] -i IFACE --receive-interface IFACE",
		Short: "Measure the path between two interfaces of this host",
		Long: `Send numbered datagrams out of one interface and receive them on another: loss,
copies, order, latency and jitter at a rate, or with --ramp the highest rate without
loss. With --private the path is a pair of virtual interfaces in a network namespace
of its own: what this machine itself can do.

` + probeHelp + `

--echo has each datagram sent back (by the group of --return, default ` + defaultReturnGroup + `),
--ping-pong waits for it before the next one. A host takes what comes from itself
only where sysctl accept_local is 1 and rp_filter 0 for the interface.

Exit code 3 where more was lost than --loss, or with --ramp no rate was found.`,
		Example: `  castdeck bench path --private
  castdeck bench path --private --ramp --sizes 64,256,1400
  castdeck bench path --private --ping-pong --count 10000
  castdeck bench path -i eth1 --receive-interface eth2 --pps 100kpps,200kpps --groups 16 --duration 60s
  castdeck bench path -i eth1 --receive-interface eth2 --ramp --duration 60s --loss 0.001% --json`,
		Args: argsN(0, -1, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.start(cmd, args); err != nil {
				return err
			}
			if f.private && !insideNamespace() {
				return inNamespace(cmdArgs(), func(err error) error {
					return fmt.Errorf("--private needs a network namespace: %w; run it as root, or name two interfaces", err)
				})
			}
			return f.session(cmd, func(ctx context.Context) error { return f.run(ctx, args) })
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.from, "interface", "i", "", "network interface to send out of: name, index or own address")
	fl.StringVar(&f.to, "receive-interface", "", "network interface to receive on")
	fl.BoolVar(&f.private, "private", false, "between two virtual interfaces in a network namespace of its own")
	f.probeFlags.add(fl)
	f.loadFlags.add(fl)
	fl.StringArrayVar(&f.allow, "allow", nil, "let datagrams go to this `GROUP` although a guard is against it (repeatable)")
	return cmd
}

// start checks the flags.
func (f *benchPathFlags) start(cmd *cobra.Command, args []string) error {
	switch {
	case f.private && (f.from != "" || f.to != ""):
		return usagef("--private makes its own interfaces; leave out -i and --receive-interface")
	case !f.private && (f.from == "" || f.to == ""):
		return usagef("bench path: from which interface to which? add -i IFACE --receive-interface IFACE (have %s), or --private", interfaceNames())
	}
	if err := f.probeFlags.check(); err != nil {
		return err
	}
	if _, err := f.destinations(args, defaultProbeGroup); err != nil {
		return err
	}
	return f.loadFlags.check(cmd)
}

// privatePair makes the interfaces of --private. Like a network, they carry runs of
// datagrams cut.
func (f *benchPathFlags) privatePair() error {
	const tx, rx, number = "bench-tx", "bench-rx", 200
	if err := netns.Prepare(); err != nil {
		return err
	}
	if _, err := netns.Veth(tx, rx, number); err != nil { // it ends with the namespace
		return err
	}
	f.from, f.to = tx, rx
	return netns.CutRuns(tx)
}

func (f *benchPathFlags) run(ctx context.Context, args []string) error {
	if f.private {
		if err := f.privatePair(); err != nil {
			return err
		}
	}
	groups, err := f.destinations(args, defaultProbeGroup)
	if err != nil {
		return err
	}
	if f.echo && !f.returnAddr.IsValid() {
		f.returnAddr = netip.MustParseAddrPort(defaultReturnGroup)
	}
	if err := f.guardReturn(f.to); err != nil {
		return err
	}
	send := f.loadFlags.options(&f.probeFlags, f.from, groups)
	p, err := probe.OpenPath(ctx, send, probe.ReceiveOptions{
		Interface: f.to, Groups: groups, Buffer: int(f.buffer.bytes), Echo: f.echo, Return: f.returnAddr, Silent: !f.echo, TTL: f.ttl.n,
		Every: f.interval.Duration, OnInterval: f.received,
	}, f.wait.Duration)
	switch {
	case err != nil && ctx.Err() != nil:
		return lossy // interrupted before anything was sent
	case err != nil:
		return explainProbeGuard(err)
	}
	j := f.here(groups)
	j.Run = runName(p.Sender.Run())
	j.Sender, j.Receiver = describeInterface(f.from), describeInterface(f.to)
	j.BufferAsked, j.Buffer = f.buffer.bytes, p.Receiver.Buffer()
	j.Equivalent = f.equivalent(j.Groups)
	f.begin(j)
	stop := f.sending(p.Sender)
	o, err := f.measure(ctx, &f.probeFlags, func(ctx context.Context, st probe.Step, _ bool) (probeLine, error) {
		var sent probe.Sent
		var a probe.Arrived
		var err error
		if f.pingPong {
			sent, a, err = p.PingPong(ctx, st, echoPatience)
		} else {
			sent, a, err = p.Step(ctx, st)
		}
		return probeLine{sent, []arrived{{Arrived: a}}}, err
	})
	stop()
	if cerr := p.Close(); err == nil {
		err = cerr
	}
	f.probeFlags.end(o, p.Receiver.Counts().Ignored)
	if err != nil {
		return err
	}
	return o.result(&f.probeFlags)
}

// equivalent are the commands that measure the same between two hosts.
func (f *benchPathFlags) equivalent(groups []string) []string {
	spec := strings.Join(groups, " ")
	if len(groups) > 1 && f.groups > 0 {
		spec = fmt.Sprintf("%s --groups %d", groups[0], len(groups))
	}
	receive, send := "castdeck bench receive "+spec+" -i "+f.to, "castdeck bench send "+spec+" -i "+f.from
	if f.echo {
		receive += " --echo"
	}
	if f.buffer.bytes != 64<<20 {
		receive += " --buffer " + formatSize(f.buffer.bytes)
	}
	for _, flag := range []struct {
		given bool
		text  string
	}{
		{f.ttl.n != 1, fmt.Sprintf(" --ttl %d", f.ttl.n)}, {f.bitrate.value > 0, " --bitrate " + f.bitrate.text},
		{f.bitrate.value == 0 && !(f.pingPong && f.pps[0] == 0), " --pps " + strings.Join(f.rates, ",")}, {true, " --sizes " + ints(f.sizes)},
		{true, " --duration " + f.duration.Duration.String()}, {f.loadFlags.count > 0, " --count " + f.loadFlags.count.String()},
		{f.dscp > 0, fmt.Sprintf(" --dscp %d", f.dscp)}, {f.gso == "off", " --gso off"}, {f.pingPong, " --ping-pong"},
		{f.echo && !f.pingPong, " --echo"}, {f.ramp, " --ramp"}, {f.ramp && f.mostPPS.value > 0, " --max-pps " + f.mostPPS.text},
		{f.tolerance.share > 0, " --loss " + f.tolerance.text},
	} {
		if flag.given {
			send += flag.text
		}
	}
	return []string{receive, send}
}

func ints(all []int) string { return strings.Trim(strings.ReplaceAll(fmt.Sprint(all), " ", ","), "[]") }
