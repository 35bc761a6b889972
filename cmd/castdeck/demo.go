package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"castdeck/analysis"
	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netns"
	"castdeck/recorder"
	"castdeck/replayer"
)

func demoCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Record, replay and check a small feed on this machine, by itself",
		Long: `Generate a bursty feed on four groups, record it, replay the recording at its
original rate while recording again, and compare the two recordings datagram by
datagram. It takes some seconds, needs no setup and touches no network: it makes a
network namespace of its own, or where that is not allowed stays on the loopback
interface. Exit code 0 only when everything matched.`,
		Example: `  castdeck demo
  castdeck demo --dir /var/tmp/deck`,
		Args: argsN(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{dir: dir, out: cmd.OutOrStdout()}
			ctx, stop := orderlyEnd(cmd.Context())
			defer stop()
			return d.start(ctx)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the recordings; default a new temporary one")
	return cmd
}

type demo struct {
	dir string
	out io.Writer
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// start runs the demo in a namespace of its own where that is possible.
func (d *demo) start(ctx context.Context) error {
	if insideNamespace() {
		if err := netns.Prepare(); err != nil {
			return err
		}
		return d.run(ctx)
	}
	var err error
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "castdeck-demo-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{demoOriginal, demoReplayed} {
		if _, err := os.Lstat(filepath.Join(d.dir, name)); err == nil {
			return fmt.Errorf("%s holds %s of an earlier demo; name another folder", d.dir, name)
		}
	}
	return inNamespace([]string{"demo", "--dir", d.dir}, func(err error) error {
		d.say("No network namespace (%s): staying on the loopback interface.", oneLine(err.Error()))
		return d.run(ctx)
	})
}

// The files that the demo leaves.
const (
	demoOriginal = "original.pcapng.zst"
	demoReplayed = "replayed.pcapng.zst"
)

// demoGroups are where the demo's feed goes.
var demoGroups = []netip.AddrPort{
	netip.MustParseAddrPort("239.255.77.1:15077"), netip.MustParseAddrPort("239.255.77.2:15077"),
	netip.MustParseAddrPort("239.255.77.3:15077"), netip.MustParseAddrPort("239.255.77.4:15078"),
}

func demoFeed() *bench.Feed {
	return bench.NewFeed(bench.FeedOptions{
		Groups: demoGroups, Count: 40_000, Rate: 10_000, Burst: 32, MinSize: 64, MaxSize: 400, Seed: 1,
	})
}

// run is the demo itself, on lo.
func (d *demo) run(ctx context.Context) error {
	original := filepath.Join(d.dir, demoOriginal)
	again := filepath.Join(d.dir, demoReplayed)

	d.say("1. A made-up feed: 40,000 datagrams to 4 groups, 10,000 a second, bursts of up to 32; recorded meanwhile.")
	r1, err := d.pass(ctx, demoFeed(), original)
	if err != nil {
		return err
	}
	d.say("   sent %s, recorded %s, %s dropped by the kernel\n", count(r1.Sent.Datagrams), count(r1.Recorded.Datagrams), count(r1.Recorded.Dropped.Kernel))

	d.say("2. What is in the recording (castdeck info):")
	if err := info(d.out, original, false); err != nil && err != error(lossy) {
		return err
	}

	d.say("\n3. The recording is replayed at its original rate and recorded again.")
	in, err := openInput(original)
	if err != nil {
		return err
	}
	r2, err := d.pass(ctx, in, again)
	if in.Close(); err != nil {
		return err
	}
	l := r2.Sent.Lateness
	d.say("   sent %s in %.3f s (recorded in %.3f s), recorded %s", count(r2.Sent.Datagrams), r2.Sent.Duration.Seconds(),
		r2.Sent.Recorded.Seconds(), count(r2.Recorded.Datagrams))
	d.say("   lateness: p50 %s, p99 %s, max %s\n", nanos(l.P50), nanos(l.P99), nanos(l.Max))

	d.say("4. Compared, payload by payload, in order, source port and group included:")
	feedOK, err := d.compare("feed and recording", demoFeed(), original)
	if err != nil {
		return err
	}
	first, err := openInput(original)
	if err != nil {
		return err
	}
	defer first.Close()
	replayOK, err := d.compare("recording and replay", first, again)
	if err != nil {
		return err
	}
	d.say("\nThe files are in %s; look at them with castdeck info, castdeck dump -X, or Wireshark.", d.dir)
	if !feedOK || !replayOK {
		d.say("NOT everything matched.")
		return lossy
	}
	d.say("Everything matched.")
	return nil
}

// pass sends what src yields and records it into path at the same time.
func (d *demo) pass(ctx context.Context, src format.BatchReader, path string) (bench.PathResult, error) {
	o := bench.PathOptions{Send: replayer.Options{Interface: "lo", Loopback: true}}
	for _, g := range demoGroups {
		o.Groups = append(o.Groups, recorder.Subscription{Group: g, Interface: "lo"})
	}
	var out *output
	res, err := bench.Path(ctx, src, o, func(i []format.Interface) (format.BatchWriter, error) {
		var err error
		out, err = createOutput(path, outputKind{compression: format.Zstd}, segment.Options{Interfaces: i, Info: segmentInfo(o.Groups)})
		return out, err
	})
	if out != nil {
		err = errors.Join(err, out.Close())
	}
	return res, err
}

// compare reports how two sources agree; the second one is a file.
func (d *demo) compare(what string, a format.BatchReader, path string) (bool, error) {
	b, err := openInput(path)
	if err != nil {
		return false, err
	}
	defer b.Close()
	r, err := analysis.Compare(a, b, analysis.CompareOptions{})
	if err != nil {
		return false, err
	}
	t := r.Total
	verdict := "identical"
	if !t.Equal() {
		verdict = fmt.Sprintf("DIFFERENT: %s only in the first, %s only in the second, %s repeated, %s out of order",
			count(t.OnlyA), count(t.OnlyB), count(t.DuplicatesA+t.DuplicatesB), count(t.Reordered))
	}
	d.say("   %-21s %s datagrams in %s %s; distances in time differ by p50 %s, p99 %s", what+":", count(t.Matched),
		plural(len(r.Streams), "stream"), verdict,
		nanos(t.IntervalError.ValueAtPercentile(50)), nanos(t.IntervalError.ValueAtPercentile(99)))
	return t.Equal(), nil
}
