package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"castdeck/analysis"
	"castdeck/format"
)

// gapsJSON has the fixed keys of gaps --json: a line for each numbering.
type gapsJSON struct {
	Group      string  `json:"group"`
	Port       uint16  `json:"port"`
	Source     string  `json:"source"`
	SourcePort uint16  `json:"source_port"`
	Interface  string  `json:"interface"`
	Protocol   string  `json:"protocol"`
	Confidence float64 `json:"confidence"`
	Channel    string  `json:"channel,omitempty"`
	FirstSeq   uint64  `json:"first_seq"`
	LastSeq    uint64  `json:"last_seq"`
	Datagrams  uint64  `json:"datagrams"`
	gapCountsJSON
	Ended bool      `json:"ended"`
	Gaps  []gapJSON `json:"gaps"`
}

// gapCountsJSON are the counts of a numbering, or of all.
type gapCountsJSON struct {
	Received   uint64 `json:"received"`
	Missing    uint64 `json:"missing"`
	Duplicates uint64 `json:"duplicates"`
	Reordered  uint64 `json:"reordered"`
	Resets     uint64 `json:"resets"`
	Wraps      uint64 `json:"wraps"`
	Strays     uint64 `json:"strays"`
	Noted      uint64 `json:"lost_in_recording"`
	GapCount   uint64 `json:"gap_count"`
}

// gapJSON is a run of missing numbers: the time of the datagram behind it, and of the
// one before.
type gapJSON struct {
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	Count   uint64 `json:"count"`
	TimeNS  int64  `json:"time_ns"`
	SinceNS int64  `json:"since_ns"`
	Noted   uint64 `json:"lost_in_recording"`
}

// gapSummaryJSON is the last line of gaps --json.
type gapSummaryJSON struct {
	Event string `json:"event"`
	gapCountsJSON
	Datagrams uint64 `json:"datagrams"`
	Dropped   uint64 `json:"dropped"`
	Unknown   int    `json:"streams_unknown"`
	Plain     uint64 `json:"without_number"`
	Odd       uint64 `json:"not_of_protocol"`
	Uncounted uint64 `json:"not_counted"`
	NotUDP    uint64 `json:"packets_not_udp"`
}

type gapsFlags struct {
	analysed
	numbering
	json, csv bool
	most      int
}

func gapsCmd() *cobra.Command {
	f := &gapsFlags{}
	cmd := &cobra.Command{
		Use:   "gaps PATH...",
		Short: "Look for missing sequence numbers",
		Long: `Look for numbers that are missing, came twice or came late, in each stream of
captures of any kind. How its datagrams are numbered is recognised, with a stated
confidence, or given by --protocol or --seq. What the recorder itself lost is told
apart from what was lost before it. Exit code 3 where something is missing.

Protocols: ` + strings.Join(analysis.ProtocolNames(), " ") + `.

` + pathsHelp,
		Example: `  castdeck gaps feed.pcapng.zst
  castdeck gaps --protocol rtp --only 239.1.1.1 feed.pcapng.zst
  castdeck gaps --seq 0:8:be --start +1m --end +2m /data/feed
  castdeck gaps --csv /data/feed > gaps.csv
  castdeck gaps --json *.pcap | jq 'select(.missing > 0)'`,
		Args: argsN(1, -1, "one or more captures"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	flags := cmd.Flags()
	f.numbering.addFlags(flags, "auto", "the `PROTOCOL` of all streams; auto recognises that of each")
	flags.IntVar(&f.most, "list", 10, "print the first `N` gaps of each stream")
	flags.BoolVar(&f.json, "json", false, "print one JSON object per stream, and a summary")
	flags.BoolVar(&f.csv, "csv", false, "print a line of CSV per stream, then one of all")
	f.analysed.addFlags(cmd)
	return cmd
}

// options are what the flags say.
func (f *gapsFlags) options(cmd *cobra.Command) (o analysis.GapOptions, err error) {
	if f.json && f.csv {
		return o, usagef("--json and --csv: choose one")
	}
	if f.most < 0 {
		return o, usagef("--list %d: write 0 or more", f.most)
	}
	n, err := f.numbers(cmd)
	return analysis.GapOptions(n), err
}

// numbering is --protocol and --seq.
type numbering struct{ protocol, seq string }

func (f *numbering) addFlags(flags *pflag.FlagSet, otherwise, protocol string) {
	flags.StringVar(&f.protocol, "protocol", otherwise, protocol)
	flags.StringVar(&f.seq, "seq", "", "where the numbers stand: `OFFSET:WIDTH:le|be[:STEP]` in bytes of the payload")
}

// numbers are what the flags say.
func (f *numbering) numbers(cmd *cobra.Command) (n analysis.Numbers, err error) {
	if n.Protocol, err = analysis.ParseProtocol(f.protocol); err != nil {
		return n, usagef("--protocol: %v", err)
	}
	if f.seq == "" {
		return n, nil
	}
	if cmd.Flags().Changed("protocol") {
		return n, usagef("--seq and --protocol both say where the numbers stand; name one")
	}
	if n.Field, err = analysis.ParseField(f.seq); err != nil {
		return n, usagef("--seq: %v", err)
	}
	n.Protocol = analysis.Custom
	return n, nil
}

// joining are the numbers by which datagrams are joined.
func (f *numbering) joining(cmd *cobra.Command) (analysis.Numbers, error) {
	n, err := f.numbers(cmd)
	if err == nil && n.Protocol == analysis.MPEGTS {
		err = usagef("--protocol mpeg-ts: its numbers come again after 16 packets; join by payload, or by RTP's numbers")
	}
	return n, err
}

func (f *gapsFlags) run(cmd *cobra.Command, paths []string) error {
	o, err := f.options(cmd)
	if err != nil {
		return err
	}
	g := analysis.NewGaps(o)
	damaged, err := f.each(cmd, paths, func(b *format.Batch) error {
		g.Add(b)
		return nil
	})
	if err != nil {
		return err
	}
	r := g.Finish()
	w := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	switch {
	case f.json:
		err = f.printJSON(w, r)
	case f.csv:
		err = f.printCSV(w, r)
	default:
		err = f.print(w, r)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	if !f.json {
		f.remarks(r)
	}
	if damaged || r.Total.Missing > 0 || r.Dropped > 0 {
		return lossy
	}
	return nil
}

func toGapCounts(c *analysis.Counts) gapCountsJSON {
	return gapCountsJSON{
		Received: c.Received, Missing: c.Missing, Duplicates: c.Duplicates, Reordered: c.Reordered,
		Resets: c.Resets, Wraps: c.Wraps, Strays: c.Strays, Noted: c.Noted, GapCount: c.Ranges,
	}
}

func (f *gapsFlags) printJSON(w io.Writer, r *analysis.GapResult) error {
	out := json.NewEncoder(w) // names went through oneLine
	for i := range r.Numberings {
		n := &r.Numberings[i]
		j := gapsJSON{
			Group: n.Dst.Addr().String(), Port: n.Dst.Port(), Source: n.Src.Addr().String(), SourcePort: n.Src.Port(),
			Interface: interfaceName(f.interfaces, n.Interface), Protocol: n.Protocol.String(), Channel: oneLine(n.Channel),
			Confidence: math.Round(n.Confidence*1e4) / 1e4, FirstSeq: n.First, LastSeq: n.Last, Datagrams: n.Datagrams,
			gapCountsJSON: toGapCounts(&n.Counts), Ended: n.Ended, Gaps: []gapJSON{},
		}
		for _, g := range n.Gaps {
			j.Gaps = append(j.Gaps, gapJSON{From: g.From, To: g.To, Count: g.Count, TimeNS: g.Time, SinceNS: g.Since, Noted: g.Noted})
		}
		if err := out.Encode(j); err != nil {
			return err
		}
	}
	return out.Encode(gapSummaryJSON{
		Event: "summary", gapCountsJSON: toGapCounts(&r.Total), Datagrams: r.Datagrams, Dropped: r.Dropped,
		Unknown: r.Unknown, Plain: r.Plain, Odd: r.Odd, Uncounted: r.Uncounted, NotUDP: f.notUDP,
	})
}

// printCSV prints a line of each numbering, and one of all, whose source is total.
func (f *gapsFlags) printCSV(w io.Writer, r *analysis.GapResult) error {
	out := csv.NewWriter(w)
	_ = out.Write(strings.Split("source,source_port,group,port,interface,protocol,confidence,channel,first_seq,last_seq,datagrams,"+
		"received,missing,duplicates,reordered,resets,wraps,strays,lost_in_recording,gap_count,ended", ","))
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	counts := func(c *analysis.Counts) []string {
		return []string{number(c.Received), number(c.Missing), number(c.Duplicates), number(c.Reordered), number(c.Resets),
			number(c.Wraps), number(c.Strays), number(c.Noted), number(c.Ranges)}
	}
	for i := range r.Numberings {
		n := &r.Numberings[i]
		row := append(strings.Split(csvStream(&n.StreamID), ","), spreadsheetSafe(interfaceName(f.interfaces, n.Interface)), n.Protocol.String(),
			strconv.FormatFloat(n.Confidence, 'f', 4, 64), spreadsheetSafe(oneLine(n.Channel)), number(n.First), number(n.Last), number(n.Datagrams))
		_ = out.Write(append(append(row, counts(&n.Counts)...), strconv.FormatBool(n.Ended)))
	}
	row := append([]string{"total"}, make([]string, 9)...)
	_ = out.Write(append(append(append(row, number(r.Datagrams)), counts(&r.Total)...), ""))
	out.Flush()
	return out.Error()
}

func (f *gapsFlags) print(w io.Writer, r *analysis.GapResult) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Numberings) > 0 {
		fmt.Fprintln(tw, "SOURCE\tGROUP\tPROTOCOL\tFIRST\tLAST\tRECEIVED\tMISSING\tTWICE\tLATE\tRESETS")
	}
	for i := range r.Numberings {
		if i%tableRows == tableRows-1 {
			if err := tw.Flush(); err != nil {
				return err
			}
		}
		n := &r.Numberings[i]
		if n.Protocol == analysis.Unknown || n.Channel == "" && n.Received == 0 && n.Missing == 0 {
			fmt.Fprintf(tw, "%s\t%s\t%s\t-\t-\t%s\t-\t-\t-\t-\n", n.Src, n.Dst, n.Protocol, plural(n.Datagrams, "datagram"))
			continue
		}
		name := n.Protocol.String()
		if n.Confidence < 1 {
			name += fmt.Sprintf(" (%.1f %% sure)", math.Floor(n.Confidence*1000)/10)
		}
		if n.Channel != "" {
			name += " " + oneLine(n.Channel)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", n.Src, n.Dst, name, n.First, n.Last,
			count(n.Received), count(n.Missing), count(n.Duplicates), count(n.Reordered), count(n.Resets))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for i := range r.Numberings {
		f.printGaps(w, &r.Numberings[i])
	}
	t := &r.Total
	before := t.Missing - min(t.Noted, t.Missing)
	fmt.Fprintf(w, "%s received, %s missing in %s, %s twice, %s late", plural(t.Received, "number"), count(t.Missing), plural(t.Ranges, "gap"), count(t.Duplicates), count(t.Reordered))
	if t.Missing > 0 {
		fmt.Fprintf(w, "; of the missing ones %s lost by the recorder at most, %s before it", count(t.Noted), count(before))
	}
	fmt.Fprintln(w)
	return nil
}

func (f *gapsFlags) printGaps(w io.Writer, n *analysis.Numbering) {
	shown := n.Gaps[:min(len(n.Gaps), f.most)]
	if len(shown) == 0 {
		return
	}
	fmt.Fprintf(w, "missing from %s to %s%s:\n", n.Src, n.Dst, prefixed(", ", n.Channel))
	for _, g := range shown {
		which := fmt.Sprintf("%d", g.From)
		if g.Count > 1 {
			which = fmt.Sprintf("%d to %d, %s", g.From, g.To, count(g.Count))
		}
		noted := ""
		if g.Noted > 0 {
			noted = fmt.Sprintf("; the recorder lost %s then", plural(g.Noted, "datagram"))
		}
		fmt.Fprintf(w, "  %s: before %s UTC, in %s%s\n", which, stamp(g.Time), time.Duration(g.Time-g.Since), noted)
	}
	if more := n.Ranges - uint64(len(shown)); more > 0 {
		fmt.Fprintf(w, "  and %s more\n", count(more))
	}
}

// remarks tell what the numbers do not.
func (f *gapsFlags) remarks(r *analysis.GapResult) {
	if r.Dropped > 0 {
		f.say("the recorder itself lost %s, of these streams or others on their interfaces", plural(r.Dropped, "datagram"))
	}
	if r.Total.Strays > 0 {
		f.say("%s left out, far from all others", plural(r.Total.Strays, "number"))
	}
	if r.Unknown > 0 {
		f.say("%s not recognised; name the protocol by --protocol, or the place of the numbers by --seq", plural(r.Unknown, "stream"))
	}
	if r.Odd > 0 {
		f.say("%s not of the protocol of their stream, left out", plural(r.Odd, "datagram"))
	}
	if r.Uncounted > 0 {
		f.say("%s left out: more streams than can be told apart; choose some by --only", plural(r.Uncounted, "datagram"))
	}
	if f.notUDP > 0 {
		f.say("%s not UDP, left out", plural(f.notUDP, "packet"))
	}
}
