package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"castdeck/analysis"
	"castdeck/analysis/report"
	"castdeck/format"
	"castdeck/internal/mcast"
	"castdeck/replayer"
)

type comparison struct {
	span timeSpan
	only []string
	maps []string
	numbering
	anySource bool
	align     string
	tolerate  toleranceValue
	window    countValue
	wait      durationValue
	json, csv bool
	page      pageFile
	stdout    io.Writer
	stderr    io.Writer

	matcher  *mcast.Matcher
	mappings []replayer.Mapping
	by       analysis.Numbers
	facts    []report.Fact
	damage   []string
}

func compareCmd() *cobra.Command {
	c := &comparison{wait: durationValue{time.Second, time.Millisecond, time.Hour}, window: 1 << 17}
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "What was lost, doubled, reordered or late between two recordings",
		Long: `Compare two recordings of the same traffic datagram by datagram: before and after a
path, line A and line B, a recording and its replay. Datagrams match by stream
(source port, group and port) and payload. Payloads that come again and again,
as heartbeats do, match in the order in which they came. The two may be of
different days, begin and end apart, and run at different speeds.

` + strings.ReplaceAll(pathsHelp, "PATH is", "A and B are each") + `

Columns: ONLY A is lost on the way to B, or of another content there; ONLY B the
reverse; TWICE repeats a payload that matched; REORDERED stands in B behind one
that stands later in A; CHANGED are those of ONLY A that have one of ONLY B in
their place, between the same two neighbours, or with --protocol or --seq with
their number (see castdeck gaps). LATENCY is the time in B minus the
time in A; INTERVAL ERROR how much the distance to the datagram before differs.

Latency over two clocks is wrong by their difference. --align takes it out: read
twice, by a line through the smallest differences (the fastest datagrams then
took no time at all), or with --align=median through the middle ones. The drift is the
median of all slopes, fitted where the traffic lasts 10 s or more.

Memory is bounded: of each side --window datagrams wait for their match at most,
about 140 bytes each, and none waits longer than --wait behind the latest match.

Exit code 0 when both hold the same datagrams in the same order, or differ no
more than --tolerate says; 3 when they differ, or one of them is damaged. --tolerate
is a list of limits, of all streams together: lost (only in A), extra (only in B),
duplicates, reordered and changed, each a number or a part of A's datagrams;
and latency and interval, the largest one, or latency-p50, latency-p99 and so on.

--report makes a page with pictures too, in one HTML file: latency and what differs over
time, percentiles, streams (see castdeck report).`,
		Example: `  castdeck compare feed.pcapng.zst replayed.pcapng.zst
  castdeck compare --map 239.1.0.0/16=239.2.0.0/16 --any-source line-a.pcap line-b.pcap
  castdeck compare --align --tolerate lost=0.1%,reordered=5,latency-p99=1ms before/ after/
  castdeck compare --align --report compared.html before.pcapng.zst after.pcapng.zst
  castdeck compare --json before.pcapng.zst after.pcapng.zst | jq 'select(.only_a > 0)'`,
		Args: argsN(2, 2, "two recordings"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.stdout, c.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			var err error
			if c.by, err = c.joining(cmd); err != nil {
				return err
			}
			return c.run(cmd.Context(), args)
		},
	}
	f := cmd.Flags()
	c.span.addFlags(cmd)
	f.StringArrayVar(&c.only, "only", nil, "compare only datagrams of this `GROUP`, named as in B (repeatable)")
	f.StringArrayVar(&c.maps, "map", nil, "what A has for OLD is in B for NEW: `OLD=NEW` (repeatable; first match)")
	f.BoolVar(&c.anySource, "any-source", false, "datagrams of any source port to a group are one stream")
	c.addFlags(f, "auto", "datagrams with the same number of this `PROTOCOL` and other bytes are changed; auto: those in the same place")
	f.StringVar(&c.align, "align", "", "take out how the clocks of A and B differ: `min|median` of the differences")
	f.Lookup("align").NoOptDefVal = "min"
	f.Var(&c.tolerate, "tolerate", "differences that are none: lost=0.1%,reordered=5,latency=1ms")
	f.Var(&c.window, "window", "datagrams of each side that wait for their match, 16 to 16777216")
	f.Var(&c.wait, "wait", "how long a datagram waits behind the latest match")
	f.BoolVar(&c.json, "json", false, "print one JSON object per stream, then one of all")
	f.BoolVar(&c.csv, "csv", false, "print a line of CSV per stream, then one of all")
	c.page.addFlags(f)
	return cmd
}

// prepare reads the flags before any file is touched.
func (c *comparison) prepare(args []string) (err error) {
	if err := c.span.check(); err != nil {
		return err
	}
	if len(c.only) > 0 {
		if c.matcher, err = mcast.NewMatcher(c.only...); err != nil {
			return usagef("--only: %v", err)
		}
	}
	for _, s := range c.maps {
		m, err := replayer.ParseMapping(s)
		if err != nil {
			return usagef("--map: %v", err)
		}
		c.mappings = append(c.mappings, m)
	}
	switch {
	case c.json && c.csv:
		return usagef("--json and --csv: choose one")
	case c.window < 16 || c.window > 1<<24:
		return usagef("--window %s is outside 16 to 16777216 datagrams", c.window.String())
	}
	if err := checkAlign(c.align); err != nil {
		return err
	}
	if path, once := readOnce(args); once && c.align != "" {
		return usagef("%s can be read only once and --align reads twice; save it to a file first", path)
	}
	if args[0] == stdinPath && args[1] == stdinPath {
		return usagef("- and -: stdin holds one recording; save the other to a file")
	}
	return c.page.check(c.stdout, args...)
}

func (c *comparison) run(ctx context.Context, args []string) error {
	if err := c.prepare(args); err != nil {
		return err
	}
	var clock *analysis.Clock
	if c.align != "" {
		first, _, err := c.read(ctx, args, nil, false)
		if err != nil {
			return err
		}
		if k, ok := first.Clock(c.align == "median"); ok {
			clock = &k
		}
	}
	r, whole, err := c.read(ctx, args, clock, true)
	if err != nil {
		return err
	}
	beyond := c.tolerate.exceeded(r.Total)
	if err := c.report(args, r, clock, beyond); err != nil {
		return err
	}
	switch {
	case c.json:
		err = c.printJSON(r, clock, beyond)
	case c.csv:
		err = c.printCSV(r)
	default:
		err = c.printText(args, r, clock, beyond)
	}
	if err != nil {
		return err
	}
	if len(beyond) > 0 || !whole {
		return lossy
	}
	return nil
}

// read compares once. The last time whole is false where an input is damaged or cut off,
// which is said.
func (c *comparison) read(ctx context.Context, args []string, clock *analysis.Clock, last bool) (r *analysis.Result, whole bool, err error) {
	o := analysis.CompareOptions{AnySource: c.anySource, Numbers: c.by, Window: int(c.window), Time: c.wait.Duration, Clock: clock,
		Timeline: c.page.wanted() && last}
	if len(c.mappings) > 0 {
		o.Destination = c.mapped
	}
	ins, sources, err := openRecordings(ctx, args, &c.span, func(i int, src format.BatchReader) format.BatchReader {
		if c.matcher == nil {
			return src
		}
		s := &sieve{src: src, only: c.matcher}
		if i == 0 && len(c.mappings) > 0 {
			s.mapped = c.mapped
		}
		return s
	})
	defer closeAll(ins)
	if err != nil {
		return nil, false, err
	}
	if r, err = analysis.Compare(sources[0], sources[1], o); err != nil {
		return nil, false, err
	}
	whole = true
	if !last {
		return r, true, nil
	}
	for i, in := range ins {
		for _, fact := range inputFacts(in) {
			c.facts = append(c.facts, report.Fact{Name: string("AB"[i]) + ": " + fact.Name, Value: fact.Value})
		}
		if !tellDamage(c.stderr, in, &r.Damage[i]) {
			whole = false
			c.damage = append(c.damage, damageLines(in, &r.Damage[i])...)
		}
	}
	return r, whole, nil
}

// mapped is where in B to look for what A has for dst.
func (c *comparison) mapped(dst netip.AddrPort) netip.AddrPort {
	return replayer.MapDestination(c.mappings, dst)
}

// report makes the page, where one is asked for.
func (c *comparison) report(args []string, r *analysis.Result, clock *analysis.Clock, beyond []differenceJSON) error {
	if !c.page.wanted() {
		return nil
	}
	var differences []string
	for _, d := range beyond {
		differences = append(differences, d.String())
	}
	d := report.FromComparison(&report.Source{
		MadeBy: application, Title: titleOf(args[:1]) + " and " + titleOf(args[1:]), Facts: c.facts, Damage: c.damage,
	}, r, clock, differences)
	return c.page.make(d, c.stderr)
}

// compareJSON has the fixed keys of compare --json.
type compareJSON struct {
	Event         string             `json:"event,omitempty"`
	Source        string             `json:"source,omitempty"`
	SourcePort    uint16             `json:"source_port,omitempty"`
	Group         string             `json:"group,omitempty"`
	Port          uint16             `json:"port,omitempty"`
	MappedGroup   string             `json:"mapped_group,omitempty"`
	MappedPort    uint16             `json:"mapped_port,omitempty"`
	DatagramsA    uint64             `json:"datagrams_a"`
	DatagramsB    uint64             `json:"datagrams_b"`
	Matched       uint64             `json:"matched"`
	OnlyA         uint64             `json:"only_a"`
	OnlyB         uint64             `json:"only_b"`
	DuplicatesA   uint64             `json:"duplicates_a"`
	DuplicatesB   uint64             `json:"duplicates_b"`
	Reordered     uint64             `json:"reordered"`
	Changed       uint64             `json:"changed"`
	Latency       *compareLatency    `json:"latency_ns"`
	IntervalError *latenessJSON      `json:"interval_error_ns"`
	Streams       *int               `json:"streams,omitempty"`
	NotUDP        *uint64            `json:"packets_not_udp,omitempty"`
	Clock         *compareClock      `json:"clock,omitempty"`
	Differences   *[]differenceJSON  `json:"differences,omitempty"`
	Damaged       *map[string]uint64 `json:"damaged_places,omitempty"`
}

type compareLatency struct {
	Min int64 `json:"min"`
	latenessJSON
}

// compareClock is B's clock by A's: at start_ns B shows offset_ns more, and drift_ppm
// more with all that follows.
type compareClock struct {
	StartNS  int64   `json:"start_ns"`
	OffsetNS int64   `json:"offset_ns"`
	DriftPPM float64 `json:"drift_ppm"`
	By       string  `json:"by"`
	TakenOut bool    `json:"taken_out"`
}

// differenceJSON is a limit of --tolerate that does not hold.
type differenceJSON struct {
	What  string `json:"what"`
	Value int64  `json:"value"`
	Limit int64  `json:"limit"`
}

func toCompareJSON(s *analysis.Comparison) compareJSON {
	j := compareJSON{
		DatagramsA: s.Matched + s.OnlyA + s.DuplicatesA, DatagramsB: s.Matched + s.OnlyB + s.DuplicatesB,
		Matched: s.Matched, OnlyA: s.OnlyA, OnlyB: s.OnlyB, DuplicatesA: s.DuplicatesA, DuplicatesB: s.DuplicatesB,
		Reordered: s.Reordered, Changed: s.Changed, IntervalError: latenessOf(s.IntervalError),
	}
	if l := s.Latency; l != nil {
		q := l.Quantile
		j.Latency = &compareLatency{l.Min(), latenessJSON{q(50), q(90), q(99), q(99.9), l.Max()}}
	}
	if s.Destination.IsValid() {
		src, dst := ends(s)
		j.Source, j.SourcePort, j.Group, j.Port = src.Addr().String(), src.Port(), dst.Addr().String(), dst.Port()
		if dst != s.Destination {
			j.MappedGroup, j.MappedPort = s.Destination.Addr().String(), s.Destination.Port()
		}
	}
	return j
}

// ends are a stream's addresses in A, or in B where A has none of it.
func ends(s *analysis.Comparison) (src, dst netip.AddrPort) {
	if s.SourceA.IsValid() {
		return s.SourceA, s.DestinationA
	}
	return s.SourceB, s.Destination
}

func (c *comparison) printJSON(r *analysis.Result, clock *analysis.Clock, beyond []differenceJSON) error {
	for _, s := range r.Streams {
		if err := printJSON(c.stdout, toCompareJSON(s)); err != nil {
			return err
		}
	}
	j := toCompareJSON(r.Total)
	n := len(r.Streams)
	if beyond == nil {
		beyond = []differenceJSON{}
	}
	j.Event, j.Streams, j.NotUDP, j.Differences = "summary", &n, &r.NotCompared, &beyond
	j.Damaged = &map[string]uint64{"a": uint64(r.Damage[0].DamagedPlaces), "b": uint64(r.Damage[1].DamagedPlaces)}
	by := c.align
	if by == "" {
		by = "min"
	}
	taken := clock != nil
	if clock == nil {
		if k, ok := r.Clock(by == "median"); ok {
			clock = &k
		}
	}
	if clock != nil {
		j.Clock = toClockJSON(clock, by, taken)
	}
	return printJSON(c.stdout, j)
}

func (c *comparison) printCSV(r *analysis.Result) error {
	w := csv.NewWriter(c.stdout)
	_ = w.Write(strings.Split("source,source_port,group,port,mapped_group,mapped_port,datagrams_a,datagrams_b,matched,only_a,only_b,duplicates_a,duplicates_b,"+
		"reordered,changed,latency_ns_min,latency_ns_p50,latency_ns_p90,latency_ns_p99,latency_ns_p999,latency_ns_max,"+
		"interval_error_ns_p50,interval_error_ns_p90,interval_error_ns_p99,interval_error_ns_p999,interval_error_ns_max", ","))
	for _, s := range append(r.Streams[:len(r.Streams):len(r.Streams)], r.Total) {
		j := toCompareJSON(s)
		row := []string{j.Source, "", j.Group, "", j.MappedGroup, ""}
		if j.Group != "" {
			row[1], row[3] = strconv.Itoa(int(j.SourcePort)), strconv.Itoa(int(j.Port))
		} else {
			row[0] = "total"
		}
		if j.MappedGroup != "" {
			row[5] = strconv.Itoa(int(j.MappedPort))
		}
		for _, n := range []uint64{j.DatagramsA, j.DatagramsB, j.Matched, j.OnlyA, j.OnlyB, j.DuplicatesA, j.DuplicatesB, j.Reordered, j.Changed} {
			row = append(row, strconv.FormatUint(n, 10))
		}
		times := make([]string, 11) // empty where there are none
		put := func(at int, l *latenessJSON) {
			for i, ns := range []int64{l.P50, l.P90, l.P99, l.P999, l.Max} {
				times[at+i] = strconv.FormatInt(ns, 10)
			}
		}
		if l := j.Latency; l != nil {
			times[0] = strconv.FormatInt(l.Min, 10)
			put(1, &l.latenessJSON)
		}
		if j.IntervalError != nil {
			put(6, j.IntervalError)
		}
		_ = w.Write(append(row, times...))
	}
	w.Flush()
	return w.Error()
}

func (c *comparison) printText(args []string, r *analysis.Result, clock *analysis.Clock, beyond []differenceJSON) error {
	t := r.Total
	w := c.stdout
	fmt.Fprintf(w, "A  %s: %s\nB  %s: %s\n", oneLine(args[0]), plural(t.Matched+t.OnlyA+t.DuplicatesA, "datagram"),
		oneLine(args[1]), plural(t.Matched+t.OnlyB+t.DuplicatesB, "datagram"))
	if r.NotCompared > 0 {
		fmt.Fprintf(w, "   %s not UDP, not compared\n", plural(r.NotCompared, "packet"))
	}
	if clock != nil {
		fmt.Fprintf(w, "   B's %s\n", clockText(clock, c.align))
	} else if k, ok := r.Clock(true); ok && k.Drift != 0 {
		fmt.Fprintf(w, "   B's times drift by %+.3f ppm; --align takes that out\n", k.Drift*1e6)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "  SOURCE\tGROUP\tMATCHED\tONLY A\tONLY B\tTWICE A\tTWICE B\tREORDERED\tCHANGED\tLATENCY p50\tp99\tmax\tINTERVAL ERROR p99\tmax\t")
	for i, s := range append(r.Streams[:len(r.Streams):len(r.Streams)], t) {
		if i%tableRows == tableRows-1 {
			if err := tw.Flush(); err != nil {
				return err
			}
		}
		source, group := "", "all"
		if s.Destination.IsValid() {
			src, dst := ends(s)
			source, group = src.String(), dst.String()
			if dst != s.Destination {
				group += "=" + s.Destination.String()
			}
		}
		fmt.Fprintf(tw, "  %s\t%s", source, group)
		for _, n := range []uint64{s.Matched, s.OnlyA, s.OnlyB, s.DuplicatesA, s.DuplicatesB, s.Reordered, s.Changed} {
			fmt.Fprintf(tw, "\t%s", count(n))
		}
		if l := s.Latency; l != nil {
			fmt.Fprintf(tw, "\t%s\t%s\t%s", signedNanos(l.Quantile(50)), signedNanos(l.Quantile(99)), signedNanos(l.Max()))
		} else {
			fmt.Fprint(tw, "\t-\t-\t-")
		}
		if l := latenessOf(s.IntervalError); l != nil {
			fmt.Fprintf(tw, "\t%s\t%s\t\n", nanos(l.P99), nanos(l.Max))
		} else {
			fmt.Fprint(tw, "\t-\t-\t\n")
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	var err error
	switch {
	case len(beyond) > 0:
		var what []string
		for _, d := range beyond {
			what = append(what, d.String())
		}
		_, err = fmt.Fprintf(w, "DIFFERENT: %s\n", strings.Join(what, ", "))
	case t.Equal():
		_, err = fmt.Fprintf(w, "identical: %s in %s, in the same order\n", plural(t.Matched, "datagram"), plural(len(r.Streams), "stream"))
	default:
		_, err = fmt.Fprintf(w, "different within --tolerate %s\n", c.tolerate.text)
	}
	return err
}

// signedNanos is nanos of a time that may be negative.
func signedNanos(ns int64) string {
	if ns < 0 && ns != -ns { // -ns is ns for the smallest number
		return "-" + nanos(-ns)
	}
	return nanos(ns)
}

// toleranceValue is the flag --tolerate: limits by name. What it does not name may be
// as late as it likes, and differ in nothing.
type toleranceValue struct {
	text   string
	limits map[string]limit
}

// limit is a number, a part of A's datagrams, or a time in ns.
type limit struct {
	part  float64 // of 1
	value int64
}

// Its measures. Times are without limit unless they are named.
var (
	toleranceCounts = []string{"lost", "extra", "duplicates", "reordered", "changed"}
	toleranceTimes  = []string{"latency", "interval"}
	tolerancePoints = map[string]float64{"-p50": 50, "-p90": 90, "-p99": 99, "-p999": 99.9}
)

const toleranceForms = "write a list such as lost=0.1%,reordered=5,latency-p99=1ms; have lost, extra, duplicates, reordered, changed, and latency and interval, both also with -p50, -p90, -p99 or -p999"

func (v *toleranceValue) Set(s string) error {
	*v = toleranceValue{text: s, limits: map[string]limit{}}
	for _, part := range strings.Split(s, ",") {
		name, value, ok := strings.Cut(part, "=")
		if _, twice := v.limits[name]; twice || !ok {
			return fmt.Errorf("%q: %s", part, toleranceForms)
		}
		l, err := parseLimit(name, value)
		if err != nil {
			return err
		}
		v.limits[name] = l
	}
	return nil
}

func parseLimit(name, value string) (l limit, err error) {
	for _, n := range toleranceCounts {
		if n != name {
			continue
		}
		if p, ok := strings.CutSuffix(value, "%"); ok {
			l.part, err = strconv.ParseFloat(p, 64)
			if err != nil || !(l.part >= 0 && l.part <= 100) {
				return l, fmt.Errorf("%s=%s: write a part of A's datagrams from 0%% to 100%%, or a number", name, value)
			}
			l.part /= 100
			return l, nil
		}
		l.value, err = strconv.ParseInt(value, 10, 64)
		if err != nil || l.value < 0 {
			return l, fmt.Errorf("%s=%s: write a number of datagrams such as 5, or a part of A's such as 0.1%%", name, value)
		}
		return l, nil
	}
	for _, n := range toleranceTimes {
		rest, ok := strings.CutPrefix(name, n)
		if _, known := tolerancePoints[rest]; !ok || rest != "" && !known {
			continue
		}
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return l, fmt.Errorf("%s=%s: write a duration such as 1ms", name, value)
		}
		l.value = int64(d)
		return l, nil
	}
	return l, fmt.Errorf("no measure %q; %s", name, toleranceForms)
}

func (v *toleranceValue) String() string { return v.text }
func (*toleranceValue) Type() string     { return "LIMITS" }

// exceeded are the limits that do not hold.
func (v *toleranceValue) exceeded(t *analysis.Comparison) (beyond []differenceJSON) {
	check := func(name string, value int64, l limit) {
		if l.part > 0 {
			l.value = int64(l.part * float64(t.Matched+t.OnlyA+t.DuplicatesA))
		}
		if value > l.value {
			beyond = append(beyond, differenceJSON{name, value, l.value})
		}
	}
	values := []uint64{t.OnlyA - t.Changed, t.OnlyB - t.Changed, t.DuplicatesA + t.DuplicatesB, t.Reordered, t.Changed}
	for i, name := range toleranceCounts {
		check(name, int64(values[i]), v.limits[name])
	}
	// A latency of -5 s, of clocks that differ, is as far from 0 as one of 5 s.
	size := func(ns int64) int64 { return max(ns, -ns) }
	at := func(name string, largest int64, quantile func(float64) int64) {
		if l, ok := v.limits[name]; ok {
			check(name, largest, l)
		}
		for _, suffix := range []string{"-p50", "-p90", "-p99", "-p999"} {
			if l, ok := v.limits[name+suffix]; ok {
				check(name+suffix, size(quantile(tolerancePoints[suffix])), l)
			}
		}
	}
	if l := t.Latency; l != nil {
		at("latency", max(size(l.Min()), size(l.Max())), l.Quantile)
	}
	if h := t.IntervalError; h != nil {
		at("interval", h.Max(), h.ValueAtQuantile)
	}
	return beyond
}

func (d differenceJSON) String() string {
	if strings.HasPrefix(d.What, "latency") || strings.HasPrefix(d.What, "interval") {
		return fmt.Sprintf("%s %s (limit %s)", d.What, nanos(d.Value), nanos(d.Limit))
	}
	if d.Limit == 0 {
		return fmt.Sprintf("%s %s", count(d.Value), d.What)
	}
	return fmt.Sprintf("%s %s (limit %s)", count(d.Value), d.What, count(d.Limit))
}
