package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
)

type repairer struct {
	in, out  string
	compress string
	force    bool
	say      func(format string, args ...any)
}

func repairCmd() *cobra.Command {
	r := &repairer{}
	cmd := &cobra.Command{
		Use:   "repair IN OUT",
		Short: "Write everything that can be read of a damaged capture to a new sealed file",
		Long: `Read all that is whole of a damaged or cut-off capture of any kind and write it to
a new, sealed recording. IN is never changed. What had to be given up is said line
by line; exit code 3 then, 0 where nothing was lost (a recording that was only cut
off between two chunks, say). A recording keeps its identity.

What it says it wrote is on the disk (fdatasync, and fsync of the folder), so that IN
may go. Where writing fails, as on a full disk, OUT stays as far as it came; the error
says how far.`,
		Example: `  castdeck repair cut.pcapng.zst whole.pcapng.zst
  castdeck repair broken.pcap mended.pcapng.zst`,
		Args: argsN(2, 2, "a damaged file and the file to write"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.in, r.out = args[0], args[1]
			r.say = func(f string, a ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), "castdeck: %s\n", oneLine(fmt.Sprintf(f, a...)))
			}
			ctx, stop := orderlyEnd(cmd.Context())
			defer stop()
			return r.run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.compress, "compress", "", "`zstd|gzip|none`; default by OUT's name")
	f.BoolVar(&r.force, "force", false, "overwrite OUT")
	return cmd
}

func (r *repairer) run(ctx context.Context) error {
	kind, err := kindOf(r.out, r.compress)
	if err != nil {
		return err
	}
	if sameFile(r.in, r.out) {
		return usagef("%s: input and output are the same file", r.out)
	}
	in, err := openFile(inputOptions{}, r.in)
	if err != nil {
		return err
	}
	defer in.Close()
	o := segment.Options{Overwrite: r.force, Info: format.SegmentInfo{Clock: "as in the capture that was repaired"}}
	if in.seg != nil {
		o.Info = *in.seg.Info()
	}
	ether := pcapfile.NewEthernet(in.interfaces)
	o.Interfaces = ether.Interfaces()
	out, err := createOutput(r.out, kind, o)
	if err != nil {
		return err
	}
	var lost format.DamageLog
	err = in.each(func(b *format.Batch) error {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted; %s holds what was read until then", r.out)
		}
		lost.Saw(b)
		ether.Convert(b)
		if err := out.describe(ether.Interfaces()); err != nil {
			return err
		}
		return out.WriteBatch(b)
	}, lost.Note)
	if serr := r.givenUp(in, &lost); err == nil {
		err = serr
	}
	err = endOf(err, out.unfinished(out.Close()))
	if err != nil {
		return err
	}
	skipped := ether.Skipped()
	if skipped > 0 {
		r.say("%s: given up: %s neither IP nor Ethernet", r.in, plural(skipped, "packet"))
	}
	datagrams, _ := out.written()
	sealed := ""
	if out.seg != nil {
		sealed = ", sealed" // a classic pcap cannot be
	}
	r.say("%s: %s, %s%s", r.out, plural(datagrams, "datagram"), size(out.size()), sealed)
	if lost.DamagedPlaces > 0 || skipped > 0 {
		return lossy
	}
	return nil
}

// givenUp says what was lost. A recording that is damaged is read once more for that:
// its totals and its index tell how much.
func (r *repairer) givenUp(in *input, lost *format.DamageLog) error {
	if in.seg != nil && lost.DamagedPlaces > 0 {
		s, err := in.seg.Scan()
		if err != nil {
			return err
		}
		lost = &s.DamageLog
	}
	for _, p := range lost.Problems() {
		r.say("%s: given up: %s", r.in, p)
	}
	return nil
}
