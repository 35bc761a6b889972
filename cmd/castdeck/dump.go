package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"castdeck/format"
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
	hex      bool
	json     *json.Encoder // nil for text
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
		Use:   "dump PATH",
		Short: "Print datagrams",
		Long: `Print the datagrams of a capture of any kind, a line each. Packets that are not
UDP are counted on stderr. Exit code 3 where the capture is damaged.`,
		Example: `  castdeck dump feed.pcapng.zst
  castdeck dump -X --only 239.1.1.1:5000 --count 3 feed.pcapng.zst
  castdeck dump --json feed.pcapng.zst | jq .length`,
		Args: argsN(1, 1, "one capture file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := mcast.NewMatcher(only...)
			if err != nil {
				return usagef("--only: %v", err)
			}
			d.only = m
			d.w = bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			if asJSON {
				d.json = json.NewEncoder(d.w)
			}
			d.reported = func(s string) { fmt.Fprintf(cmd.ErrOrStderr(), "castdeck: %s\n", oneLine(s)) }
			return d.run(args[0])
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&d.hex, "hex", "X", false, "print the payload in hexadecimal and ASCII")
	f.BoolVar(&asJSON, "json", false, "print one JSON object per datagram")
	f.StringArrayVar(&only, "only", nil, "print only datagrams of this `GROUP` (repeatable)")
	f.Var(&d.limit, "count", "stop after this many datagrams")
	return cmd
}

func (d *dumper) run(path string) error {
	in, err := openInput(path)
	if err != nil {
		return err
	}
	defer in.Close()
	err = in.each(func(b *format.Batch) error {
		for i := range b.Datagrams {
			if err := d.print(&b.Datagrams[i], in); err != nil {
				return err
			}
		}
		return nil
	}, func(err error) {
		d.damaged++
		d.w.Flush()
		d.reported(fmt.Sprintf("%s: %s", path, describe(err)))
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil {
		err = d.w.Flush()
	}
	if err != nil {
		return err
	}
	if d.notUDP > 0 {
		d.reported(fmt.Sprintf("%s: %s not UDP, not shown", path, plural(d.notUDP, "packet")))
	}
	if in.seg != nil && !in.seg.Sealed() && d.damaged == 0 && (d.limit == 0 || d.printed < uint64(d.limit)) {
		d.reported(path + ": not sealed: still being written, or cut off")
		return lossy
	}
	if d.damaged > 0 {
		return lossy
	}
	return nil
}

func (d *dumper) print(g *format.Datagram, in *input) error {
	if g.Flags&format.FlagNotUDP != 0 {
		d.notUDP++
		return nil
	}
	if !d.only.Match(g.Src, g.Dst) {
		return nil
	}
	if d.limit > 0 && d.printed == uint64(d.limit) {
		return errEnough
	}
	d.printed++
	if d.json != nil {
		return d.json.Encode(dumpJSON{
			TimeNS: g.Time, Source: g.Src.Addr().String(), SourcePort: g.Src.Port(),
			Group: g.Dst.Addr().String(), Port: g.Dst.Port(), Interface: interfaceName(in.interfaces(), g.Interface),
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
