package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"castdeck/bench/probe"
)

// echoPatience is after how long without an echo ping-pong goes on.
const echoPatience = time.Second

// cmdArgs are this process's arguments.
func cmdArgs() []string { return os.Args[1:] }

type benchSendFlags struct {
	probeFlags
	loadFlags
	iface   string
	noReply bool
	loop    bool
}

func benchSendCmd() *cobra.Command {
	f := &benchSendFlags{}
	cmd := &cobra.Command{
		Use:   "send GROUP... -i IFACE",
		Short: "Send numbered datagrams for bench receive, and say what arrived",
		Long: `Send numbered datagrams to one group or several, for castdeck bench receive on
other hosts, which answer to this host's address at the end of each step what
arrived: they need no other channel. With --no-reply nobody is asked.

` + probeHelp + `

With several receivers each has its line, and --ramp goes by the one that lost most.
Nothing leaves but through IFACE, with TTL 1 unless --ttl says otherwise; control
groups, broadcast and unicast are refused (exit code 4) unless --allow names them.

Exit code 3 where more was lost than --loss, some could not be sent, or with --ramp
no rate was found; 1 where nobody answered.`,
		Example: `  castdeck bench send 239.1.1.1:5000 -i eth0
  castdeck bench send 239.1.1.1:5000 -i eth0 --groups 16 --pps 100kpps,200kpps --sizes 64,1400 --duration 60s
  castdeck bench send 239.1.1.1:5000 -i eth0 --ramp --duration 60s --json
  castdeck bench send 239.1.1.1:5000 -i eth0 --ping-pong --duration 10s
  castdeck bench send 239.1.1.1:5000 -i eth0 --no-reply --bitrate 1Gbit --duration 1h`,
		Args: argsN(1, -1, "one or more groups, such as 239.1.1.1:5000"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.session(cmd, func(ctx context.Context) error { return f.run(ctx, cmd, args) })
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.iface, "interface", "i", "", "network interface to send out of: name, index or own address")
	f.probeFlags.add(fl)
	f.loadFlags.add(fl)
	fl.BoolVar(&f.loop, "loopback", false, "members on this host hear it too")
	fl.BoolVar(&f.noReply, "no-reply", false, "ask no receiver what arrived")
	fl.StringArrayVar(&f.allow, "allow", nil, "let datagrams go to this `GROUP` although a guard is against it (repeatable)")
	return cmd
}

func (f *benchSendFlags) run(ctx context.Context, cmd *cobra.Command, args []string) error {
	if f.iface == "" {
		return usagef("bench send: out of which interface? add -i IFACE (have %s)", interfaceNames())
	}
	if err := f.probeFlags.check(); err != nil {
		return err
	}
	if err := f.loadFlags.check(cmd); err != nil {
		return err
	}
	if f.noReply && (f.ramp || f.echo) {
		return usagef("--no-reply: --ramp, --echo and --ping-pong need answers")
	}
	groups, err := f.destinations(args, "")
	if err != nil {
		return err
	}
	o := f.loadFlags.options(&f.probeFlags, f.iface, groups)
	o.Replies, o.Loopback = !f.noReply, f.loop
	s, err := probe.NewSender(o)
	if err != nil {
		return explainProbeGuard(err)
	}
	defer s.Close()
	j := f.here(groups)
	j.Run = runName(s.Run())
	j.Sender = describeInterface(f.iface)
	j.BufferAsked, j.Buffer = f.buffer.bytes, s.ReplyBuffer()
	if !f.noReply {
		who, err := s.Call(ctx, f.wait.Duration)
		switch {
		case errors.Is(err, probe.ErrNoReceiver):
			return fmt.Errorf("%w within %s: is castdeck bench receive running there for all groups, do group and port agree, does the network forward them (TTL, IGMP), and may it answer this host (its --allow, a firewall)? --no-reply sends all the same", err, f.wait.Duration)
		case ctx.Err() != nil:
			return lossy // interrupted before anything was sent
		case err != nil:
			return err
		}
		for _, w := range who {
			j.Receivers = append(j.Receivers, w.String())
		}
	}
	f.begin(j)
	stop := f.sending(s)
	var last probe.Sent
	ended := false
	out, err := f.measure(ctx, &f.probeFlags, func(ctx context.Context, st probe.Step, final bool) (l probeLine, err error) {
		if f.pingPong {
			l.sent, err = s.PingPong(ctx, st, echoPatience)
		} else {
			l.sent, err = s.Send(ctx, st)
		}
		if err != nil {
			return l, err
		}
		last, ended = l.sent, final || ctx.Err() != nil
		remotes, err := s.End(context.WithoutCancel(ctx), l.sent, ended)
		for _, m := range remotes {
			a := arrived{receiver: m.Receiver}
			a.Counts, a.OneWay, a.Complete = m.Counts, m.OneWay, true
			if a.OneWay != (probe.Latency{}) {
				a.OneWay.Count = int64(m.Unique)
			}
			l.arrived = append(l.arrived, a)
		}
		return l, err
	})
	stop()
	if err == nil && !ended && last.Number > 0 {
		_, err = s.End(context.WithoutCancel(ctx), last, true)
	}
	f.probeFlags.end(out, probe.Ignored{})
	if err != nil {
		return err
	}
	return out.result(&f.probeFlags)
}
