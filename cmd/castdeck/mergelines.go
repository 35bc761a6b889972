package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"castdeck/analysis"
	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/internal/mcast"
	"castdeck/replayer"
)

type lineMerger struct {
	out   string
	span  timeSpan
	only  []string
	pairs []string
	maps  []string
	numbering
	compress string
	force    bool
	align    string
	window   durationValue
	hold     countValue
	json     bool
	stdout   io.Writer
	stderr   io.Writer

	paths    []string
	matcher  *mcast.Matcher
	mappings []replayer.Mapping
	paired   map[paired]netip.AddrPort
	clocks   []*analysis.Clock // by input: how they stand to the first one's; nil where they are left
	by       analysis.Numbers
	gaps     *analysis.Gaps
	missing  map[netip.AddrPort]*uint64 // by destination, of streams with numbers
	total    *analysis.GapResult
}

// paired is a stream of one input that is a line of another.
type paired struct {
	input int
	dst   netip.AddrPort
}

func mergeLinesCmd() *cobra.Command {
	m := &lineMerger{window: durationValue{500 * time.Millisecond, time.Microsecond, time.Minute}, hold: 130_000}
	cmd := &cobra.Command{
		Use:   "merge-lines A [B...] -o OUT",
		Short: "One recording without gaps from redundant lines",
		Long: `Make one recording of the recordings of redundant lines (A and B feeds of an
exchange, SMPTE ST 2022-7): each datagram once, the copy that came first, in the
order of time. What one line lost is taken from another. One recording may hold
several lines.

` + strings.ReplaceAll(pathsHelp, "PATH is", "A, B and so on are each") + ` Each is
read twice.

Streams of the same group and port are lines of each other. Others are paired where
their payloads agree in the first 131,072 datagrams, or as --pair and --map say.
OUT has the groups and sources of the first line.

A copy is a datagram of another line with the same payload, at most --window later
by the times of the recordings: the hosts' clocks must agree to that, or --align takes
out how they stand to the first recording's, as compare does (OUT then has the first
recording's time; FIRST and BEHIND are as good as the alignment: with min the fastest
datagrams of all lines took equally long). A payload that
one line repeats is kept as often as that line had it. With --protocol or --seq
a copy has the same sequence number, on any line; CHANGED counts those with other
bytes, and what has no number goes by its payload.

The report says for each line what it LOST that another had, how often it was the
FIRST, and by how much it was BEHIND otherwise. What all lines lost is MISSING:
sequence numbers that are not in OUT, of the protocols that are recognised or
named (see castdeck gaps); - where there are no numbers. Memory is bounded: at most
--hold datagrams wait for their copies, 140 bytes each.

Exit code 3 when numbers are missing, or a recording is damaged.`,
		Example: `  castdeck merge-lines line-a.pcapng.zst line-b.pcapng.zst -o feed.pcapng.zst
  castdeck merge-lines --align host-a.pcapng.zst host-b.pcapng.zst -o feed.pcapng.zst
  castdeck merge-lines --pair 239.1.1.1:5000=239.2.1.1:5000 a.pcap b.pcap -o ab.pcap
  castdeck merge-lines both.pcap -o one.pcapng.zst
  castdeck merge-lines --json /data/a /data/b -o day.pcapng.zst | jq -c '.lines[]?'`,
		Args: argsN(1, analysis.MaxLines, "one or more recordings"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.stdout, m.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			var err error
			if m.by, err = m.joining(cmd); err != nil {
				return err
			}
			ctx, stop := orderlyEnd(cmd.Context())
			defer stop()
			return m.run(ctx, args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&m.out, "output", "o", "", "the `FILE` to write: *.pcapng.zst, *.pcapng.gz, *.pcapng or *.pcap")
	m.span.addFlags(cmd)
	f.StringArrayVar(&m.only, "only", nil, "keep only datagrams of this `GROUP`, named as in OUT (repeatable)")
	f.StringArrayVar(&m.pairs, "pair", nil, "these are lines of one stream, which OUT has as FIRST: `FIRST=SECOND` (repeatable)")
	f.StringArrayVar(&m.maps, "map", nil, "what any recording has for OLD is in OUT for NEW: `OLD=NEW` (repeatable; first match)")
	m.addFlags(f, "auto", "copies have the same number of this `PROTOCOL`; auto: the same payload, and gaps are looked for in what is recognised")
	f.StringVar(&m.compress, "compress", "", "`zstd|gzip|none`; default by OUT's name")
	f.StringVar(&m.align, "align", "", "take out how the clocks of the recordings differ: `min|median` of the differences")
	f.Lookup("align").NoOptDefVal = "min"
	f.Var(&m.window, "window", "how much later than the first a copy may come")
	f.Var(&m.hold, "hold", "datagrams that wait for their copies, 16 to 16777216")
	f.BoolVar(&m.json, "json", false, "print the report as JSON: one object per stream, then one of all")
	f.BoolVar(&m.force, "force", false, "overwrite OUT")
	return cmd
}

// prepare reads the flags before any file is touched.
func (m *lineMerger) prepare(args []string) (k outputKind, err error) {
	m.paths = args
	if m.out == "" {
		return k, usagef("merge-lines: name the file to write with -o")
	}
	if k, err = kindOf(m.out, m.compress); err != nil {
		return k, err
	}
	if err := m.span.check(); err != nil {
		return k, err
	}
	if len(m.only) > 0 {
		if m.matcher, err = mcast.NewMatcher(m.only...); err != nil {
			return k, usagef("--only: %v", err)
		}
	}
	for _, s := range m.pairs {
		first, second, _ := strings.Cut(s, "=")
		p, err := replayer.ParseMapping(second + "=" + first)
		if err != nil {
			return k, usagef("--pair %s: write FIRST=SECOND, such as 239.1.1.1:5000=239.2.1.1:5000", s)
		}
		m.mappings = append(m.mappings, p)
	}
	for _, s := range m.maps {
		p, err := replayer.ParseMapping(s)
		if err != nil {
			return k, usagef("--map: %v", err)
		}
		m.mappings = append(m.mappings, p)
	}
	if err := checkAlign(m.align); err != nil {
		return k, err
	}
	if m.hold < 16 || m.hold > 1<<24 {
		return k, usagef("--hold %s is outside 16 to 16777216 datagrams", m.hold.String())
	}
	if path, once := readOnce(args); once {
		return k, usagef("%s can be read only once and merge-lines reads twice; save it to a file first", path)
	}
	return k, nil
}

func (m *lineMerger) run(ctx context.Context, args []string) error {
	kind, err := m.prepare(args)
	if err != nil {
		return err
	}
	// What convert takes care of: OUT is none of the files that are read, and tells of the
	// first recording.
	c := converter{in: m.paths, out: m.out, force: m.force}
	if err := c.findSources(); err != nil {
		return err
	}
	if err := c.vacant(m.out); err != nil {
		return err
	}
	names, err := m.findLines(ctx)
	if err != nil {
		return err
	}
	if m.align != "" {
		if err := m.alignClocks(ctx); err != nil {
			return err
		}
	}
	ins, readers, err := m.open(ctx)
	defer closeAll(ins)
	if err != nil {
		return err
	}
	var sources []format.MergeSource
	for i, in := range ins {
		s := format.MergeSource{Reader: readers[i], Interfaces: in.interfaces}
		if info := in.info(); info != nil {
			s.Recording = info.Recording
		}
		sources = append(sources, s)
	}
	a := analysis.NewArbiter(analysis.ArbiterOptions{
		Destination: m.destination, Sources: names, Numbers: m.by, Window: int(m.hold), Time: m.window.Duration,
	}, sources...)
	out, err := createOutput(m.out, kind, c.options(ins[0]))
	if err != nil {
		return err
	}
	m.gaps = analysis.NewGaps(analysis.GapOptions{Protocol: m.by.Protocol, Field: m.by.Field})
	err = m.copy(ctx, a, out)
	if err = out.unfinished(endOf(err, out.Close())); err != nil {
		return err
	}
	r := a.Result()
	m.findMissing()
	whole := m.total.Total.Missing == 0
	for i, in := range ins {
		whole = tellDamage(m.stderr, in, r.Damage[i]) && whole
	}
	if err := m.report(r, out.size()); err != nil {
		return err
	}
	if !whole {
		return lossy
	}
	return nil
}

// open opens all recordings, cut to what was asked for, by the first one's clock.
func (m *lineMerger) open(ctx context.Context) (ins []*input, readers []format.BatchReader, err error) {
	return openRecordings(ctx, m.paths, &m.span, func(i int, src format.BatchReader) format.BatchReader {
		if m.matcher != nil {
			src = &sieve{src: src, only: m.matcher, mapped: func(dst netip.AddrPort) netip.AddrPort { return m.destination(i, dst) }}
		}
		if m.clocks != nil && m.clocks[i] != nil {
			src = &aligned{src, m.clocks[i]}
		}
		return src
	})
}

// alignClocks finds how the clock of each recording stands to the first one's.
func (m *lineMerger) alignClocks(ctx context.Context) error {
	clocks := make([]*analysis.Clock, len(m.paths))
	for i := 1; i < len(m.paths); i++ {
		pair := []int{0, i}
		ins, readers, err := openRecordings(ctx, []string{m.paths[0], m.paths[i]}, &m.span, func(k int, src format.BatchReader) format.BatchReader {
			return &renamed{src, func(dst netip.AddrPort) netip.AddrPort { return m.destination(pair[k], dst) }}
		})
		var r *analysis.Result
		if err == nil {
			r, err = analysis.Compare(readers[0], readers[1], analysis.CompareOptions{AnySource: true, Numbers: m.by})
		}
		closeAll(ins)
		if err != nil {
			return err
		}
		if k, ok := r.Clock(m.align == "median"); ok {
			clocks[i] = &k
		} else {
			fmt.Fprintf(m.stderr, "castdeck: %s has nothing in common with %s: its clock is left as it is\n", oneLine(m.paths[i]), oneLine(m.paths[0]))
		}
	}
	m.clocks = clocks
	return nil
}

// findLines pairs streams, unless that was said, and finds the sources that OUT names.
func (m *lineMerger) findLines(ctx context.Context) (sources map[netip.AddrPort][]netip.AddrPort, err error) {
	only := m.matcher
	m.matcher = nil // names groups as OUT has them, which is not known yet
	ins, readers, err := m.open(ctx)
	m.matcher = only
	defer closeAll(ins)
	if err != nil {
		return nil, err
	}
	pairs, sources, err := analysis.FindLines(readers...)
	if err != nil {
		return nil, err
	}
	m.paired = map[paired]netip.AddrPort{}
	if len(m.mappings) == 0 {
		for _, p := range pairs {
			m.paired[paired{p.Input, p.From}] = p.To
			fmt.Fprintf(m.stderr, "castdeck: %s: %s is a line of %s\n", oneLine(m.paths[p.Input]), p.From, p.To)
		}
	}
	return sources, nil
}

// destination in OUT of what an input has for dst.
func (m *lineMerger) destination(input int, dst netip.AddrPort) netip.AddrPort {
	if to, ok := m.paired[paired{input, dst}]; ok {
		return to
	}
	return replayer.MapDestination(m.mappings, dst)
}

func (m *lineMerger) copy(ctx context.Context, a *analysis.Arbiter, out *output) error {
	ether := pcapfile.NewEthernet(a.Interfaces)
	var b format.Batch
	for {
		err := a.ReadBatch(&b)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case err != nil:
			return err
		}
		m.gaps.Add(&b)
		ether.Convert(&b)
		if err := out.describe(ether.Interfaces()); err != nil {
			return err
		}
		if err := out.WriteBatch(&b); err != nil {
			return err
		}
	}
}

// findMissing adds up what is missing of each stream.
func (m *lineMerger) findMissing() {
	m.total = m.gaps.Finish()
	m.missing = map[netip.AddrPort]*uint64{}
	for i := range m.total.Numberings {
		n := &m.total.Numberings[i]
		if n.Protocol == analysis.Unknown {
			continue
		}
		if m.missing[n.Dst] == nil {
			m.missing[n.Dst] = new(uint64)
		}
		*m.missing[n.Dst] += n.Missing
	}
}

// mergeJSON has the fixed keys of merge-lines --json.
type mergeJSON struct {
	Event     string     `json:"event,omitempty"`
	Group     string     `json:"group,omitempty"`
	Port      uint16     `json:"port,omitempty"`
	Datagrams uint64     `json:"datagrams"`
	Missing   *uint64    `json:"missing"` // null where there are no numbers
	Lines     []lineJSON `json:"lines"`
	Path      string     `json:"path,omitempty"`
	FileBytes int64      `json:"file_bytes,omitempty"`
	Streams   *int       `json:"streams,omitempty"`
	NotUDP    *uint64    `json:"packets_not_udp,omitempty"`
	Forced    *uint64    `json:"hold_exceeded,omitempty"`
}

type lineJSON struct {
	Path      string        `json:"path"`
	Group     string        `json:"group,omitempty"`
	Port      uint16        `json:"port,omitempty"`
	Datagrams uint64        `json:"datagrams"`
	Lost      uint64        `json:"lost"`
	First     uint64        `json:"first"`
	Twice     uint64        `json:"duplicates"`
	Changed   uint64        `json:"changed"`
	Behind    *latenessJSON `json:"behind_ns"`
	Clock     *compareClock `json:"clock,omitempty"` // of the summary
}

func (m *lineMerger) toLine(l *analysis.Line) lineJSON {
	j := lineJSON{Path: m.paths[l.Input], Datagrams: l.Datagrams, Lost: l.Lost, First: l.First, Twice: l.Duplicates, Changed: l.Changed, Behind: latenessOf(l.Behind)}
	if l.Destination.IsValid() {
		j.Group, j.Port = l.Destination.Addr().String(), l.Destination.Port()
	}
	return j
}

// totals are the lines of all streams by input, of those that hold a line of the
// stream each once.
func (m *lineMerger) totals(r *analysis.MergeResult) (lines []analysis.Line) {
	lines = make([]analysis.Line, len(m.paths))
	for i := range lines {
		lines[i].Input, lines[i].Behind = i, r.Behind[i]
	}
	for _, s := range r.Streams {
		for _, l := range s.Lines {
			t := &lines[l.Input]
			t.Datagrams += l.Datagrams
			t.Lost += l.Lost
			t.First += l.First
			t.Duplicates += l.Duplicates
			t.Changed += l.Changed
		}
	}
	return lines
}

func (m *lineMerger) report(r *analysis.MergeResult, size int64) error {
	if r.Forced > 0 {
		fmt.Fprintf(m.stderr, "castdeck: %s stopped waiting for copies early: more than --hold %s; a copy that came later is there twice\n", plural(r.Forced, "datagram"), m.hold.String())
	}
	if m.json {
		return m.reportJSON(r, size)
	}
	return m.reportText(r, size)
}

func (m *lineMerger) reportJSON(r *analysis.MergeResult, size int64) error {
	for i := range r.Streams {
		s := &r.Streams[i]
		j := mergeJSON{Group: s.Destination.Addr().String(), Port: s.Destination.Port(), Datagrams: s.Datagrams, Missing: m.missing[s.Destination]}
		for k := range s.Lines {
			j.Lines = append(j.Lines, m.toLine(&s.Lines[k]))
		}
		if err := printJSON(m.stdout, j); err != nil {
			return err
		}
	}
	n := len(r.Streams)
	j := mergeJSON{Event: "summary", Datagrams: r.Datagrams, Path: m.out, FileBytes: size, Streams: &n, NotUDP: &r.NotUDP, Forced: &r.Forced}
	if len(m.missing) > 0 {
		j.Missing = &m.total.Total.Missing
	}
	for _, l := range m.totals(r) {
		line := m.toLine(&l)
		if m.clocks != nil && m.clocks[l.Input] != nil {
			line.Clock = toClockJSON(m.clocks[l.Input], m.align, true)
		}
		j.Lines = append(j.Lines, line)
	}
	return printJSON(m.stdout, j)
}

func (m *lineMerger) reportText(r *analysis.MergeResult, bytes int64) error {
	w := m.stdout
	fmt.Fprintf(w, "%s: %s of %s in %s\n", oneLine(m.out), plural(r.Datagrams, "datagram"), plural(len(r.Streams), "stream"), size(bytes))
	if r.NotUDP > 0 {
		fmt.Fprintf(w, "  %s not UDP left out\n", plural(r.NotUDP, "packet"))
	}
	for i, c := range m.clocks {
		if c != nil {
			fmt.Fprintf(w, "  %s: %s\n", oneLine(m.paths[i]), clockText(c, m.align))
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "  GROUP\tMISSING\tLINE\tIN\tDATAGRAMS\tLOST\tFIRST\tTWICE\tCHANGED\tBEHIND p50\tp99\tp99.9\tmax\t")
	row := func(group, missing string, l *analysis.Line) {
		line := "all"
		if l.Destination.IsValid() {
			line = l.Destination.String()
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", group, missing, line, oneLine(m.paths[l.Input]),
			count(l.Datagrams), count(l.Lost), count(l.First), count(l.Duplicates), count(l.Changed))
		if b := latenessOf(l.Behind); b != nil {
			fmt.Fprintf(tw, "\t%s\t%s\t%s\t%s\t\n", nanos(b.P50), nanos(b.P99), nanos(b.P999), nanos(b.Max))
		} else {
			fmt.Fprint(tw, "\t-\t-\t-\t-\t\n")
		}
	}
	rows := 0
	for i := range r.Streams {
		s := &r.Streams[i]
		group, missing := s.Destination.String(), "-"
		if n := m.missing[s.Destination]; n != nil {
			missing = count(*n)
		}
		for k := range s.Lines {
			if rows++; rows%tableRows == 0 {
				if err := tw.Flush(); err != nil {
					return err
				}
			}
			row(group, missing, &s.Lines[k])
			group, missing = "", ""
		}
	}
	if len(r.Streams) > 1 {
		for _, l := range m.totals(r) {
			row("all", "", &l)
		}
	}
	if err := tw.Flush(); err != nil || m.total.Total.Missing == 0 {
		return err
	}
	_, err := fmt.Fprintf(w, "NOT WHOLE: %s missing\n", plural(m.total.Total.Missing, "sequence number"))
	return err
}
