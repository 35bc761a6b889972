package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"castdeck/format"
)

// infoJSON has the fixed keys of info --json.
type infoJSON struct {
	Path         string       `json:"path"`
	Format       string       `json:"format"`
	Sealed       bool         `json:"sealed"`
	Datagrams    uint64       `json:"datagrams"`
	Bytes        uint64       `json:"bytes"`
	FileBytes    int64        `json:"file_bytes"`
	StartNS      int64        `json:"start_ns"`
	EndNS        int64        `json:"end_ns"`
	Dropped      uint64       `json:"dropped"`
	PacketsNot   uint64       `json:"packets_not_udp"`
	Truncated    uint64       `json:"truncated"`
	Chunks       int          `json:"chunks"`
	Recording    string       `json:"recording,omitempty"`
	Segments     []string     `json:"segments,omitempty"`
	Host         string       `json:"host,omitempty"`
	Clock        string       `json:"clock,omitempty"`
	Problems     []string     `json:"problems"`
	StreamsAreIn bool         `json:"streams_complete"`
	Streams      []streamJSON `json:"streams"`
	EventCount   uint64       `json:"event_count"`
	Events       []eventJSON  `json:"events,omitempty"`
}

type streamJSON struct {
	Source     string `json:"source"`
	SourcePort uint16 `json:"source_port"`
	Group      string `json:"group"`
	Port       uint16 `json:"port"`
	Interface  string `json:"interface"`
	Datagrams  uint64 `json:"datagrams"`
	Bytes      uint64 `json:"bytes"`
	StartNS    int64  `json:"start_ns"`
	EndNS      int64  `json:"end_ns"`
}

func infoCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info PATH...",
		Short: "Say what is inside: streams, times, rates, losses, sealed or not",
		Long: `Say what is inside of captures of any kind: streams, times, rates, losses.
A sealed recording answers from its index, at once; any other file is read
through. Exit code 3 where a file is damaged or was cut off.

` + pathsHelp + ` Of a folder,
a pattern or a beginning each recording, whatever the number of its segments, and
each other capture is shown by itself.`,
		Example: `  castdeck info feed.pcapng.zst
  castdeck info /data/feed          # feed-0001.pcapng.zst, feed-0002.pcapng.zst ...
  castdeck info --json *.pcap | jq .datagrams`,
		Args: argsN(1, -1, "one or more captures"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachPath(cmd, args, func(path string) error {
				return infoPath(cmd, path, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per file")
	return cmd
}

// eachPath does f for every file, also behind one that failed, whose message goes
// to stderr. The worst outcome is the command's.
func eachPath(cmd *cobra.Command, paths []string, f func(path string) error) error {
	var worst error
	for _, p := range paths {
		err := f(p)
		switch {
		case err == nil:
		case err == error(lossy):
			if worst == nil {
				worst = lossy
			}
		default:
			if msg := err.Error(); msg != "" { // else it has been said
				fmt.Fprintf(cmd.ErrOrStderr(), "castdeck: %s\n", oneLine(msg))
			}
			worst = &exitError{code: exitFailed}
		}
	}
	return worst
}

// infoPath shows everything that a PATH names, also behind a capture that failed.
func infoPath(cmd *cobra.Command, path string, asJSON bool) error {
	if st, err := os.Stat(path); path == stdinPath || err == nil && !st.IsDir() {
		return info(cmd.OutOrStdout(), path, asJSON)
	}
	captures, _, err := findCaptures(path)
	if err != nil {
		return err
	}
	byPath := make(map[string]*capture, len(captures))
	var names []string
	for _, c := range captures {
		name := c.path
		if len(captures) == 1 && len(c.segments) > 1 {
			name = path
		}
		names, byPath[name] = append(names, name), c
	}
	return eachPath(cmd, names, func(name string) error {
		in, err := openCaptures(inputOptions{}, name, []*capture{byPath[name]})
		if err != nil {
			return err
		}
		return infoOf(cmd.OutOrStdout(), in, asJSON)
	})
}

func info(w io.Writer, path string, asJSON bool) error {
	in, err := openInput(path)
	if err != nil {
		return err
	}
	return infoOf(w, in, asJSON)
}

// infoOf shows one input, and closes it.
func infoOf(w io.Writer, in *input, asJSON bool) error {
	defer in.Close()
	s, err := in.summarize(true)
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(w, toInfoJSON(in, s))
	} else {
		err = printInfo(w, in, s)
	}
	if err == nil && (len(s.problems) > 0 || !s.sealed) {
		return lossy
	}
	return err
}

func toInfoJSON(in *input, s *summary) infoJSON {
	t := s.tally
	j := infoJSON{
		Path: in.path, Format: in.format(), Sealed: s.sealed, Datagrams: t.Datagrams, Bytes: t.Bytes,
		FileBytes: in.size, StartNS: t.First, EndNS: t.Last, Dropped: t.Dropped, PacketsNot: t.NotUDP,
		Truncated: t.Truncated, Chunks: s.chunks, Problems: append([]string{}, s.problems...),
		StreamsAreIn: !t.StreamsCut, Streams: make([]streamJSON, 0, len(s.streams)), EventCount: t.Events,
	}
	if i := in.info(); i != nil {
		j.Recording, j.Host, j.Clock = i.Recording.String(), i.Host, i.Clock
	} else {
		j.Sealed = s.DamagedPlaces == 0
	}
	if in.rec != nil {
		for _, s := range in.rec.Segments() {
			j.Segments = append(j.Segments, s.Path)
		}
	}
	names := s.interfaces
	for i := range s.events {
		j.Events = append(j.Events, toEventJSON(&s.events[i], names))
	}
	for _, st := range s.streams {
		j.Streams = append(j.Streams, streamJSON{
			Source: st.Src.Addr().String(), SourcePort: st.Src.Port(),
			Group: st.Dst.Addr().String(), Port: st.Dst.Port(), Interface: interfaceName(names, st.Interface),
			Datagrams: st.Datagrams, Bytes: st.Bytes, StartNS: st.First, EndNS: st.Last,
		})
	}
	return j
}

func interfaceName(names []format.Interface, i uint16) string {
	if int(i) < len(names) && names[i].Name != "" {
		return oneLine(names[i].Name)
	}
	return fmt.Sprintf("#%d", i)
}

func printInfo(w io.Writer, in *input, s *summary) error {
	t := s.tally
	state := ""
	switch {
	case in.info() != nil && s.sealed:
		state = ", sealed"
	case in.info() != nil:
		state = ", not sealed: still being written, or cut off"
	}
	fmt.Fprintf(w, "%s: %s%s\n", oneLine(in.path), in.format(), state)
	if i := in.info(); i != nil {
		which := fmt.Sprintf("segment %d", i.Number)
		if in.rec != nil {
			all := in.rec.Segments()
			which = fmt.Sprintf("segments %d to %d, %s,", i.Number, all[len(all)-1].Info.Number, plural(len(all), "file"))
		}
		fmt.Fprintf(w, "  recording  %s %s%s%s\n", i.Recording, which, prefixed(" on ", i.Host), prefixed(", time from ", i.Clock))
		if len(i.Subscriptions) > 0 {
			const most = 8
			list := i.Subscriptions[:min(len(i.Subscriptions), most)]
			more := ""
			if n := len(i.Subscriptions) - len(list); n > 0 {
				more = fmt.Sprintf(" and %d more", n)
			}
			fmt.Fprintf(w, "  joined     %s%s\n", oneLine(strings.Join(list, " ")), more)
		}
	}
	if t.Packets > 0 {
		fmt.Fprintf(w, "  time       %s to %s UTC, %s\n", stamp(t.First), stamp(t.Last), span(t))
	}
	packed := ""
	if in.size > 0 && t.Bytes > uint64(in.size) {
		packed = fmt.Sprintf(", %.1f times smaller than the payload", float64(t.Bytes)/float64(in.size))
	}
	fmt.Fprintf(w, "  datagrams  %s, %s payload, %s, %s\n", count(t.Datagrams), size(t.Bytes), rate(t.Datagrams, span(t)), bitrate(t.Bytes, span(t)))
	fmt.Fprintf(w, "  file       %s%s\n", size(in.size), packed)
	fmt.Fprintf(w, "  lost       %s\n", lostLine(t))
	if t.NotUDP > 0 {
		fmt.Fprintf(w, "  not UDP    %s\n", plural(t.NotUDP, "packet"))
	}
	const most = 20
	for _, p := range s.problems[:min(len(s.problems), most)] {
		fmt.Fprintf(w, "  damaged    %s\n", oneLine(p))
	}
	if n := s.DamagedPlaces - most; n > 0 {
		fmt.Fprintf(w, "  damaged    %s more\n", plural(n, "place"))
	}
	const mostEvents = 10
	last := s.events[max(0, len(s.events)-mostEvents):]
	if t.Events > uint64(len(last)) {
		fmt.Fprintf(w, "  events     %s, the last ones:\n", count(t.Events))
	}
	for i := range last {
		fmt.Fprintf(w, "  event      %s\n", eventLine(&last[i], s.interfaces))
	}
	return printStreams(w, s)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + oneLine(s)
}

func lostLine(t *format.Tally) string {
	line := count(t.Dropped)
	if t.Dropped == 0 {
		line = "0 reported"
	}
	if t.Truncated > 0 {
		line += fmt.Sprintf("; %s cut short", plural(t.Truncated, "datagram"))
	}
	return line
}

// tableRows is how many rows of a table are put in columns together: all of them are in
// memory for that.
const tableRows = 4096

func printStreams(w io.Writer, s *summary) error {
	if len(s.streams) == 0 && !s.tally.StreamsCut {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "  SOURCE\tGROUP\tINTERFACE\tDATAGRAMS\tPAYLOAD\tRATE\tFROM\tFOR\t")
	names := s.interfaces
	for i, st := range s.streams {
		if i%tableRows == tableRows-1 {
			if err := tw.Flush(); err != nil {
				return err
			}
		}
		d := time.Duration(st.Last - st.First)
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t+%.3fs\t%.3fs\t\n", st.Src, st.Dst, interfaceName(names, st.Interface),
			count(st.Datagrams), size(st.Bytes), rate(st.Datagrams, d),
			time.Duration(st.First-s.tally.First).Seconds(), d.Seconds())
	}
	if s.tally.StreamsCut {
		fmt.Fprintln(tw, "  and more streams, which the table does not hold")
	}
	return tw.Flush()
}

// addrText writes an address that may be invalid.
func addrText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}
