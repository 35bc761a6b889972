package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"castdeck/bench/probe"
)

type benchReceiveFlags struct {
	probeFlags
	iface    string
	duration durationValue
	echo     bool
	silent   bool
	once     bool
}

func benchReceiveCmd() *cobra.Command {
	f := &benchReceiveFlags{duration: durationValue{min: time.Millisecond, max: forever}}
	cmd := &cobra.Command{
		Use:   "receive GROUP... -i IFACE",
		Short: "Measure what arrives of bench send",
		Long: `Join groups and measure what castdeck bench send sends to them, of several senders
too, until a signal, --duration or, with --once, the end of a run. What is not such
a datagram is counted and not measured.

` + probeHelp + `

Senders that ask are told what arrived, and with --echo have each datagram back, by
unicast to their address and the port that they name: only to addresses in the
networks of IFACE, and those that --allow names, because anybody can write any
source address into a datagram. --return GROUP answers there instead, --silent
answers nobody.

Exit code 3 where more was lost than --loss.`,
		Example: `  castdeck bench receive 239.1.1.1:5000 -i eth0
  castdeck bench receive 239.1.1.1:5000 --groups 16 -i eth0 --echo
  castdeck bench receive 239.1.1.1:5000 -i eth0 --allow 10.20.0.0/16 --ttl 8
  castdeck bench receive 239.1.1.1:5000 -i eth0 --once --json`,
		Args: argsN(1, -1, "one or more groups, such as 239.1.1.1:5000"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.session(cmd, func(ctx context.Context) error { return f.run(ctx, args) })
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.iface, "interface", "i", "", "network interface to join on: name, index or own address")
	f.probeFlags.add(fl)
	fl.Var(&f.duration, "duration", "stop after this long")
	fl.BoolVar(&f.echo, "echo", false, "send datagrams back where their sender asks for it")
	fl.BoolVar(&f.silent, "silent", false, "answer nobody")
	fl.BoolVar(&f.once, "once", false, "stop at the end of the first run")
	fl.StringArrayVar(&f.allow, "allow", nil, "answer senders with this `ADDRESS` too, or answer to this group although a guard is against it (repeatable)")
	return cmd
}

func (f *benchReceiveFlags) run(ctx context.Context, args []string) error {
	if f.iface == "" {
		return usagef("bench receive: on which interface? add -i IFACE (have %s)", interfaceNames())
	}
	if f.silent && (f.echo || f.returnTo != "") {
		return usagef("--silent: --echo and --return are for answers")
	}
	if err := f.check(); err != nil {
		return err
	}
	groups, err := f.destinations(args, "")
	if err != nil {
		return err
	}
	if err := f.guardReturn(f.iface); err != nil {
		return err
	}
	out := &probeOutcome{}
	r, err := probe.NewReceiver(probe.ReceiveOptions{
		Interface: f.iface, Groups: groups, Buffer: int(f.buffer.bytes), Echo: f.echo, Return: f.returnAddr, Allow: f.allow, TTL: f.ttl.n,
		Silent: f.silent, Every: f.interval.Duration, Once: f.once, OnInterval: f.received, OnStep: func(a probe.Arrived) { f.stepReceived(out, a) },
	})
	if err != nil {
		return err
	}
	defer r.Close()
	j := f.here(groups)
	j.Receiver = describeInterface(f.iface)
	j.BufferAsked, j.Buffer = f.buffer.bytes, r.Buffer()
	f.begin(j)
	if f.duration.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.duration.Duration)
		defer cancel()
	}
	err = r.Run(ctx)
	if isTerminal(f.stderr) {
		fmt.Fprint(f.stderr, "\r\x1b[K")
	}
	c := r.Counts()
	f.end(out, c.Ignored)
	if c.Unanswered > 0 {
		fmt.Fprintf(f.stderr, "castdeck: %s not answered: the sender is in no network of %s (--allow ADDRESS), or sending failed\n", plural(c.Unanswered, "datagram"), f.iface)
	}
	if err != nil {
		return err
	}
	return out.result(&f.probeFlags)
}

// stepReceived prints a step that was received.
func (f *benchReceiveFlags) stepReceived(out *probeOutcome, a probe.Arrived) {
	out.add(&probeLine{probe.Sent{Step: probe.Step{Size: a.Size}, Datagrams: a.Sent, Bytes: a.Sent * uint64(a.Size), Refused: a.Refused}, []arrived{{Arrived: a}}})
	f.keepArrived(&a)
	if f.json {
		f.print(stepJSON{
			Event: "step", Run: runName(a.Run), Source: a.Source.String(), Step: a.Step, Size: a.Size, AskedPPS: a.Rate, Complete: &a.Complete, SentSays: &a.Sent,
			Arrived: []arrivedJSON{toArrivedJSON(&arrived{Arrived: a})},
		})
		return
	}
	if isTerminal(f.stderr) {
		fmt.Fprint(f.stderr, "\r\x1b[K")
	}
	if out.steps == 1 {
		f.row("SIZE", "ASKED", "SENT", "RATE", "PAYLOAD", "LOST", "SHARE", "BURSTS", "TWICE", "LATE", f.latencyTitle(), "p50", "p99", "max", "JITTER", "")
	}
	reached := 0.0
	if span := float64(a.Last-a.First) / 1e9; span > 0 {
		reached = float64(a.Received) / span
	}
	f.arrivedRow(a.Size, a.Rate, a.Sent, reached, &arrived{Arrived: a}, true)
	if !a.Complete {
		fmt.Fprintf(f.stdout, "       the end of this step did not arrive: what was lost behind its last datagram is not known\n")
	}
}
