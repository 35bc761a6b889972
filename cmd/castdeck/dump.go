package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/mcast"
)

// dumpJSON has the fixed keys of dump --json.
type dumpJSON struct {
	TimeNS     int64  `json:"time_ns"`
	Source     string `json:"source"`
	SourcePort uint16 `json:"source_port"`
	Group      string `json:"group"`
	Port       uint16 `json:"port"`
	Interface  string `json:"interface"`
	TTL        uint8  `json:"ttl"`
	Length     uint32 `json:"length"`
	Payload    string `json:"payload"`
	Flags      string `json:"flags,omitempty"`
	Drops      uint64 `json:"dropped_before,omitempty"`
}

type dumper struct {
	w        *bufio.Writer
	span     timeSpan
	follow   bool
	hex      bool
	json     *json.Encoder // nil for text
	events   bool
	only     *mcast.Matcher
	limit    countValue
	printed  uint64
	notUDP   uint64
	damaged  int
	reported func(string)
}

var errEnough = errors.New("enough")

func dumpCmd() *cobra.Command {
	d := &dumper{}
	var asJSON bool
	var only []string
	cmd := &cobra.Command{
		Use:   "dump PATH...",
		Short: "Print datagrams",
		Long: `Print the datagrams of captures of any kind, a line each, in the order of time.
Packets that are not UDP are counted on stderr. Exit code 3 where a capture is
damaged.

` + pathsHelp + ` Segments of one
recording are read as one, and several captures are merged by time.

--follow reads a recording that is still being written, and waits for more: it
ends when the recording is sealed and no next segment follows, or with Ctrl-C.`,
		Example: `  castdeck dump feed.pcapng.zst
  castdeck dump --start +1m --end +1m5s /data/feed
  castdeck dump --start 2026-11-22T15:30:09Z line-a.pcap line-b.pcap
  castdeck dump --follow --only 239.1.1.1 feed.pcapng.zst
  zcat capture.gz | castdeck dump -
  castdeck dump -X --only 239.1.1.1:5000 --count 3 feed.pcapng.zst
  castdeck dump --json feed.pcapng.zst | jq .length`,
		Args: argsN(1, -1, "one or more captures"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := mcast.NewMatcher(only...)
			if err != nil {
				return usagef("--only: %v", err)
			}
			if err := d.span.check(); err != nil {
				return err
			}
			d.only = m
			d.w = bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			if asJSON {
				d.json = json.NewEncoder(d.w)
			}
			d.reported = func(s string) { fmt.Fprintf(cmd.ErrOrStderr(), "castdeck: %s\n", oneLine(s)) }
			if d.follow {
				ctx, stop := orderlyEnd(cmd.Context())
				defer stop()
				return d.runFollow(ctx, args)
			}
			return d.run(args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&d.hex, "hex", "X", false, "print the payload in hexadecimal and ASCII")
	f.BoolVar(&asJSON, "json", false, "print one JSON object per datagram")
	f.StringArrayVar(&only, "only", nil, "print only datagrams of this `GROUP` (repeatable)")
	f.Var(&d.limit, "count", "stop after this many datagrams")
	f.BoolVarP(&d.follow, "follow", "f", false, "wait for what is still being written")
	f.BoolVar(&d.events, "events", false, "print what happened while it was recorded too (link down, clock set): lines that begin with --, or {\"event\":...}")
	d.span.addFlags(cmd)
	return cmd
}

func (d *dumper) run(paths []string) error {
	in, err := openInput(paths...)
	if err != nil {
		return err
	}
	defer in.Close()
	src, err := d.span.cut(in)
	if err != nil {
		return err
	}
	in.readAhead(context.Background())
	if err := d.dump(src, in.path, in.interfaces); err != nil {
		return err
	}
	if paths := in.unsealed(); len(paths) > 0 && d.damaged == 0 && !d.enough() {
		for _, p := range paths {
			d.reported(p + ": not sealed: still being written, or cut off")
		}
		return lossy
	}
	if d.damaged > 0 {
		return lossy
	}
	return nil
}

// runFollow prints what is there and what comes, each chunk as soon as it is there.
func (d *dumper) runFollow(ctx context.Context, paths []string) error {
	captures, _, err := findCaptures(paths...)
	if err != nil {
		return err
	}
	if len(captures) != 1 || captures[0].segments == nil {
		return usagef("--follow reads one recording that castdeck writes; %s %s", strings.Join(paths, " "), plainly(captures))
	}
	f, err := segment.Follow(ctx, captures[0].segments, segment.FollowOptions{ReadOptions: segmentOptions()})
	if err != nil {
		return err
	}
	defer f.Close()
	src := format.BatchReader(f)
	if d.span.given() {
		src = &cutter{src: f, span: &d.span}
	}
	err = d.dump(src, paths[0], f.Interfaces)
	if err == nil && d.damaged > 0 {
		return lossy
	}
	return err
}

// plainly says what there is instead of one recording.
func plainly(captures []*capture) string {
	if len(captures) > 1 {
		return "holds " + plural(len(captures), "capture")
	}
	return "is a capture of another tool"
}

// dump prints everything that src has, or as many datagrams as were asked for.
func (d *dumper) dump(src format.BatchReader, path string, interfaces func() []format.Interface) error {
	err := each(src, func(b *format.Batch) error {
		names := interfaces()
		events := b.Events
		for i := range b.Datagrams {
			for len(events) > 0 && events[0].Time <= b.Datagrams[i].Time {
				if err := d.printEvent(&events[0], names); err != nil {
					return err
				}
				events = events[1:]
			}
			if err := d.print(&b.Datagrams[i], names); err != nil {
				return err
			}
		}
		for i := range events {
			if err := d.printEvent(&events[i], names); err != nil {
				return err
			}
		}
		switch {
		case d.follow && d.enough():
			return errEnough // instead of waiting for one that is not wanted
		case d.follow:
			return d.w.Flush()
		}
		return nil
	}, func(err error) {
		d.damaged++
		d.w.Flush()
		d.reported(fmt.Sprintf("%s: %s", path, describe(err)))
	})
	if errors.Is(err, errEnough) || d.follow && errors.Is(err, context.Canceled) {
		err = nil
	}
	if err == nil {
		err = d.w.Flush()
	}
	if err == nil && d.notUDP > 0 {
		d.reported(fmt.Sprintf("%s: %s not UDP, not shown", path, plural(d.notUDP, "packet")))
	}
	return err
}

func (d *dumper) enough() bool { return d.limit > 0 && d.printed >= uint64(d.limit) }

func (d *dumper) printEvent(e *format.Event, names []format.Interface) error {
	if !d.events || d.enough() {
		return nil
	}
	if d.json != nil {
		return d.json.Encode(toEventJSON(e, names))
	}
	_, err := fmt.Fprintf(d.w, "-- %s\n", eventLine(e, names))
	return err
}

func (d *dumper) print(g *format.Datagram, names []format.Interface) error {
	if g.Flags&format.FlagNotUDP != 0 {
		d.notUDP++
		return nil
	}
	if !d.only.Match(g.Src, g.Dst) {
		return nil
	}
	if d.enough() {
		return errEnough
	}
	d.printed++
	if d.json != nil {
		return d.json.Encode(dumpJSON{
			TimeNS: g.Time, Source: g.Src.Addr().String(), SourcePort: g.Src.Port(),
			Group: g.Dst.Addr().String(), Port: g.Dst.Port(), Interface: interfaceName(names, g.Interface),
			TTL: g.TTL, Length: g.Length, Payload: hex.EncodeToString(g.Payload), Flags: g.Flags.String(), Drops: g.Drops,
		})
	}
	if g.Drops > 0 {
		fmt.Fprintf(d.w, "-- %s lost here\n", plural(g.Drops, "datagram"))
	}
	flags := g.Flags.String()
	if flags != "" {
		flags = "  [" + flags + "]"
	}
	_, err := fmt.Fprintf(d.w, "%s  %s > %s  ttl %d  length %d%s\n", stamp(g.Time), addrText(g.Src), addrText(g.Dst), g.TTL, g.Length, flags)
	if err == nil && d.hex && len(g.Payload) > 0 {
		lines := strings.TrimSuffix(hex.Dump(g.Payload), "\n")
		_, err = fmt.Fprintf(d.w, "  %s\n", strings.ReplaceAll(lines, "\n", "\n  "))
	}
	return err
}
