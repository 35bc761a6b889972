package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
	"castdeck/internal/mcast"
)

type converter struct {
	in, out  string
	compress string
	only     []string
	force    bool
	warn     func(format string, args ...any)
}

func convertCmd() *cobra.Command {
	c := &converter{}
	cmd := &cobra.Command{
		Use:   "convert IN OUT",
		Short: "Change container or compression, filter; any capture in",
		Long: `Write a capture of any kind as another: OUT's name says which, *.pcapng.zst,
*.pcapng.gz, *.pcapng or *.pcap. Ethernet frames are kept as they were captured;
datagrams of other link types, and reassembled ones, get Ethernet headers made
from their addresses. Packets that are not UDP are kept unless --only leaves them
out. Exit code 3 where IN is damaged: what can be read is converted.`,
		Example: `  castdeck convert morning.pcap morning.pcapng.zst
  castdeck convert --only 239.1.1.1:5000 feed.pcapng.zst one-group.pcap`,
		Args: argsN(2, 2, "an input and an output file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.in, c.out = args[0], args[1]
			c.warn = func(f string, a ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), "castdeck: %s\n", oneLine(fmt.Sprintf(f, a...)))
			}
			ctx, stop := orderlyEnd(cmd.Context())
			defer stop()
			return c.run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.compress, "compress", "", "`zstd|gzip|none`; default by OUT's name")
	f.StringArrayVar(&c.only, "only", nil, "keep only datagrams of this `GROUP` (repeatable)")
	f.BoolVar(&c.force, "force", false, "overwrite OUT")
	return cmd
}

func (c *converter) run(ctx context.Context) error {
	only, err := mcast.NewMatcher(c.only...)
	if err != nil {
		return usagef("--only: %v", err)
	}
	kind, err := kindOf(c.out, c.compress)
	if err != nil {
		return err
	}
	in, err := openInput(c.in)
	if err != nil {
		return err
	}
	defer in.Close()
	if sameFile(c.in, c.out) {
		return usagef("%s: input and output are the same file", c.out)
	}

	o := segment.Options{Overwrite: c.force, Info: format.SegmentInfo{Clock: "as in the capture that was converted"}}
	if in.seg != nil {
		i := *in.seg.Info()
		i.Recording, i.Number = format.UUID{}, 0
		o.Info = i
	}
	ether := pcapfile.NewEthernet(in.interfaces)
	o.Interfaces = ether.Interfaces()
	out, err := createOutput(c.out, kind, o)
	if err != nil {
		return err
	}
	damaged := 0
	err = in.each(func(b *format.Batch) error {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted; %s holds what was converted until then", c.out)
		}
		if out.seg != nil {
			for _, i := range ether.Interfaces()[len(out.seg.Interfaces()):] {
				if _, err := out.seg.AddInterface(i); err != nil {
					return err
				}
			}
		}
		if len(c.only) > 0 {
			keep(b, only)
		}
		ether.Convert(b)
		return out.WriteBatch(b)
	}, func(err error) {
		damaged++
		c.warn("%s: %s", c.in, describe(err))
	})
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if n := ether.Skipped(); n > 0 {
		c.warn("%s: %s neither IP nor Ethernet left out", c.in, plural(n, "packet"))
	}
	if in.seg != nil && !in.seg.Sealed() {
		c.warn("%s: not sealed: still being written, or cut off", c.in)
		damaged++
	}
	c.warn("%s: %s in %s", c.out, plural(out.tally().Datagrams, "datagram"), size(out.size()))
	if damaged > 0 {
		return lossy
	}
	return nil
}

// keep removes the datagrams that the matcher does not name.
func keep(b *format.Batch, m *mcast.Matcher) {
	n := 0
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if d.Flags&format.FlagNotUDP == 0 && m.Match(d.Src, d.Dst) {
			b.Datagrams[n] = *d
			n++
		}
	}
	b.Datagrams = b.Datagrams[:n]
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
