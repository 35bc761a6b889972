package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"

	"castdeck/analysis"
	"castdeck/format"
)

// statsJSON has the keys of a line of stats --json: of a stream, or as the event
// "summary" of all, "others" of the streams that were too many.
type statsJSON struct {
	Event string `json:"event"`
	*streamNameJSON
	Datagrams    uint64             `json:"datagrams"`
	Bytes        uint64             `json:"bytes"`
	StartNS      int64              `json:"start_ns"`
	EndNS        int64              `json:"end_ns"`
	RatePPS      float64            `json:"rate_pps"`
	RateBPS      float64            `json:"rate_bps"`
	Bursts       []burstJSON        `json:"bursts,omitempty"`
	BurstsExact  bool               `json:"bursts_exact"`
	Peaks        []burstJSON        `json:"peaks,omitempty"`
	Interarrival *interarrivalNS    `json:"interarrival_ns,omitempty"`
	Arrivals     []classJSON[int64] `json:"interarrival_histogram,omitempty"`
	SizeMin      uint32             `json:"size_min"`
	SizeMax      uint32             `json:"size_max"`
	Sizes        []classJSON[int]   `json:"size_histogram,omitempty"`
	Backwards    uint64             `json:"out_of_order"`
	*statsEndJSON
}

// statsEndJSON is what only the summary has.
type statsEndJSON struct {
	Streams int    `json:"streams"`
	Dropped uint64 `json:"dropped"`
	NotUDP  uint64 `json:"packets_not_udp"`
}

type streamNameJSON struct {
	Group      string `json:"group"`
	Port       uint16 `json:"port"`
	Source     string `json:"source"`
	SourcePort uint16 `json:"source_port"`
	Interface  string `json:"interface"`
}

// burstJSON is the fullest window: sliding in bursts, aligned in peaks.
type burstJSON struct {
	Seconds   float64 `json:"window_seconds"`
	Datagrams uint64  `json:"datagrams"`
	Bytes     uint64  `json:"bytes"`
	TimeNS    int64   `json:"time_ns"`
}

type interarrivalNS struct {
	Min  int64 `json:"min"`
	P50  int64 `json:"p50"`
	P90  int64 `json:"p90"`
	P99  int64 `json:"p99"`
	P999 int64 `json:"p999"`
	Max  int64 `json:"max"`
}

// classJSON is a class of a histogram, with both ends in it.
type classJSON[T int | int64] struct {
	From      T      `json:"from"`
	To        T      `json:"to"`
	Datagrams uint64 `json:"datagrams"`
}

// bucketJSON is a line of the series: of all streams together where it names none.
type bucketJSON struct {
	Event string `json:"event"`
	*streamNameJSON
	StartNS   int64   `json:"start_ns"`
	Seconds   float64 `json:"seconds"`
	Datagrams uint64  `json:"datagrams"`
	Bytes     uint64  `json:"bytes"`
}

type statsFlags struct {
	analysed
	bucket    durationValue
	perStream bool
	json, csv bool
	top       int
	w         *bufio.Writer
}

func statsCmd() *cobra.Command {
	f := &statsFlags{bucket: durationValue{min: time.Millisecond, max: time.Minute}}
	cmd := &cobra.Command{
		Use:   "stats PATH...",
		Short: "Measure rates, bursts, times between datagrams and sizes",
		Long: `Measure the streams of captures of any kind: rates, bursts, times between
datagrams, sizes. A burst is the fullest window of 1, 10 or 100 ms wherever it begins,
a peak the fullest one of those that are aligned to the clock (1 ms to 1 min). Bytes
are those of payloads on the wire.

--bucket 1ms to 1m prints instead what came in each such span, of all streams
together, with --streams of each too. Exit code 3 where a capture is damaged.

` + pathsHelp,
		Example: `  castdeck stats feed.pcapng.zst
  castdeck stats --bucket 100ms --csv feed.pcapng.zst > rates.csv
  castdeck stats --json --only 239.1.1.1 /data/feed | jq .bursts`,
		Args: argsN(1, -1, "one or more captures"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.Var(&f.bucket, "bucket", "print what came in each span of this length")
	flags.BoolVar(&f.perStream, "streams", false, "with --bucket: of each stream too")
	flags.IntVar(&f.top, "top", 20, "print the `N` streams with the most bytes; 0 is all")
	flags.BoolVar(&f.json, "json", false, "print one JSON object per stream, and a summary; with --bucket one per span before")
	flags.BoolVar(&f.csv, "csv", false, "print a line of comma-separated values per stream, or with --bucket per span")
	f.addFlags(cmd)
	return cmd
}

func (f *statsFlags) run(cmd *cobra.Command, paths []string) error {
	switch {
	case f.json && f.csv:
		return usagef("--json and --csv: choose one")
	case f.perStream && f.bucket.Duration == 0:
		return usagef("--streams is for --bucket")
	case f.top < 0:
		return usagef("--top %d: write 0 or more", f.top)
	}
	f.w = bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	o := analysis.StatsOptions{}
	if f.bucket.Duration > 0 {
		o.Bucket, o.Series = f.bucket.Duration, f.printBucket
		switch {
		case f.csv:
			fmt.Fprintln(f.w, "start_ns,seconds,source,source_port,group,port,datagrams,bytes")
		case !f.json:
			fmt.Fprintln(f.w, "TIME (UTC)                       DATAGRAMS          BYTES         RATE  STREAM")
		}
	}
	s := analysis.NewStats(o)
	damaged, err := f.each(cmd, paths, s.Add)
	if err != nil {
		return err
	}
	r, err := s.Finish()
	if err == nil {
		err = f.print(r)
	}
	if err == nil {
		err = f.w.Flush()
	}
	if err != nil {
		return err
	}
	if r.Others.Datagrams > 0 {
		f.say("%s of more streams than can be told apart are counted together as others", plural(r.Others.Datagrams, "datagram"))
	}
	if f.notUDP > 0 {
		f.say("%s not UDP, left out", plural(f.notUDP, "packet"))
	}
	if damaged {
		return lossy
	}
	return nil
}

// printBucket prints a span of the series.
func (f *statsFlags) printBucket(s *format.StreamID, b analysis.Bucket) error {
	if s != nil && !f.perStream {
		return nil
	}
	switch {
	case f.json:
		return json.NewEncoder(f.w).Encode(bucketJSON{
			Event: "bucket", streamNameJSON: f.name(s), StartNS: b.Start, Seconds: f.bucket.Seconds(), Datagrams: b.Datagrams, Bytes: b.Bytes,
		})
	case f.csv:
		_, err := fmt.Fprintf(f.w, "%d,%v,%s,%d,%d\n", b.Start, f.bucket.Seconds(), csvStream(s), b.Datagrams, b.Bytes)
		return err
	}
	name := ""
	if s != nil {
		name = fmt.Sprintf("  %s > %s", s.Src, s.Dst)
	}
	_, err := fmt.Fprintf(f.w, "%s  %12s  %13s  %11s%s\n", stamp(b.Start), count(b.Datagrams), count(b.Bytes), rate(b.Datagrams, f.bucket.Duration), name)
	return err
}

// csvStream are the four columns of a stream, empty for all together.
func csvStream(s *format.StreamID) string {
	if s == nil {
		return ",,,"
	}
	return fmt.Sprintf("%s,%d,%s,%d", s.Src.Addr(), s.Src.Port(), s.Dst.Addr(), s.Dst.Port())
}

func (f *statsFlags) name(s *format.StreamID) *streamNameJSON {
	if s == nil {
		return nil
	}
	return &streamNameJSON{
		Group: s.Dst.Addr().String(), Port: s.Dst.Port(), Source: s.Src.Addr().String(), SourcePort: s.Src.Port(),
		Interface: interfaceName(f.interfaces, s.Interface),
	}
}

func (f *statsFlags) print(r *analysis.StatsResult) error {
	switch {
	case f.json:
		return f.printJSON(r)
	case f.bucket.Duration > 0:
		return nil // the series is all
	case f.csv:
		return f.printCSV(r)
	}
	return f.printTable(r)
}

func (f *statsFlags) printJSON(r *analysis.StatsResult) error {
	out := json.NewEncoder(f.w) // names went through oneLine
	for i := range r.Streams {
		s := &r.Streams[i]
		if err := out.Encode(toStatsJSON("stream", f.name(&s.StreamID), &s.Traffic)); err != nil {
			return err
		}
	}
	if r.Others.Datagrams > 0 {
		if err := out.Encode(toStatsJSON("others", nil, &r.Others)); err != nil {
			return err
		}
	}
	j := toStatsJSON("summary", nil, &r.Total)
	j.statsEndJSON = &statsEndJSON{Streams: len(r.Streams), Dropped: r.Dropped, NotUDP: f.notUDP}
	return out.Encode(j)
}

func toStatsJSON(event string, name *streamNameJSON, t *analysis.Traffic) statsJSON {
	j := statsJSON{
		Event: event, streamNameJSON: name, Datagrams: t.Datagrams, Bytes: t.Bytes, StartNS: t.First, EndNS: t.Last,
		BurstsExact: !t.Approximate, SizeMin: t.Least, SizeMax: t.Most, Backwards: t.Backwards,
	}
	if d := time.Duration(t.Last - t.First).Seconds(); d > 0 {
		j.RatePPS, j.RateBPS = float64(t.Datagrams)/d, float64(t.Bytes)*8/d
	}
	if t.Bursts[0].Datagrams > 0 { // others have none
		for i, b := range t.Bursts {
			j.Bursts = append(j.Bursts, burstJSON{analysis.Windows[i].Seconds(), b.Datagrams, b.Bytes, b.Start})
		}
		for i, b := range t.Peaks {
			j.Peaks = append(j.Peaks, burstJSON{analysis.Buckets[i].Seconds(), b.Datagrams, b.Bytes, b.Start})
		}
	}
	if h := t.Arrivals; h != nil && h.TotalCount() > 0 {
		j.Interarrival = &interarrivalNS{
			t.Shortest, h.ValueAtQuantile(50), h.ValueAtQuantile(90), h.ValueAtQuantile(99), h.ValueAtQuantile(99.9), t.Longest,
		}
		j.Arrivals = decades(h)
	}
	for i, n := range t.Sizes {
		if n > 0 {
			from, to := sizeClass(i)
			j.Sizes = append(j.Sizes, classJSON[int]{from, to, n})
		}
	}
	return j
}

// sizeClass are the sizes in a class.
func sizeClass(i int) (from, to int) {
	if i == 0 {
		return 0, 0
	}
	return 1 << (i - 1), 1<<i - 1
}

// decades gathers times between datagrams in classes of 1, 2 and 5 by decade; those
// that are empty at either end are left out.
func decades(h *hdrhistogram.Histogram) (classes []classJSON[int64]) {
	from := int64(0)
	for base := int64(1); base <= 1e12; base *= 10 {
		for _, m := range []int64{1, 2, 5} {
			classes = append(classes, classJSON[int64]{From: from, To: m*base - 1})
			from = m * base
		}
	}
	for _, b := range h.Distribution() {
		i, _ := slices.BinarySearchFunc(classes, b.To, func(c classJSON[int64], v int64) int { return cmp.Compare(c.To, v) })
		classes[min(i, len(classes)-1)].Datagrams += uint64(b.Count)
	}
	for len(classes) > 0 && classes[0].Datagrams == 0 {
		classes = classes[1:]
	}
	for len(classes) > 0 && classes[len(classes)-1].Datagrams == 0 {
		classes = classes[:len(classes)-1]
	}
	return classes
}

func (f *statsFlags) printCSV(r *analysis.StatsResult) error {
	fmt.Fprint(f.w, "source,source_port,group,port,interface,datagrams,bytes,start_ns,end_ns,size_min,size_max")
	for _, w := range analysis.Windows {
		fmt.Fprintf(f.w, ",burst_%v", w)
	}
	for _, w := range analysis.Buckets {
		fmt.Fprintf(f.w, ",peak_%s", plainDuration(w))
	}
	fmt.Fprintln(f.w, ",interarrival_p50_ns,interarrival_p99_ns,interarrival_max_ns")
	names := &fieldNames{kind: csvText, list: f.interfaces}
	for i := range r.Streams {
		s := &r.Streams[i]
		fmt.Fprintf(f.w, "%s,%s,%d,%d,%d,%d,%d,%d", csvStream(&s.StreamID), names.of(s.Interface), s.Datagrams, s.Bytes, s.First, s.Last, s.Least, s.Most)
		for _, b := range s.Bursts {
			fmt.Fprintf(f.w, ",%d", b.Datagrams)
		}
		for _, b := range s.Peaks {
			fmt.Fprintf(f.w, ",%d", b.Datagrams)
		}
		if h := s.Arrivals; h != nil && h.TotalCount() > 0 {
			fmt.Fprintf(f.w, ",%d,%d,%d\n", h.ValueAtQuantile(50), h.ValueAtQuantile(99), s.Longest)
		} else {
			fmt.Fprintln(f.w, ",,,")
		}
	}
	return nil
}

// plainDuration is a duration as people write it: 1ms, 10s, 1m.
func plainDuration(d time.Duration) string {
	if d >= time.Minute {
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return d.String()
}

func (f *statsFlags) printTable(r *analysis.StatsResult) error {
	t := &r.Total
	d := time.Duration(t.Last - t.First)
	fmt.Fprintf(f.w, "%s of %s, %s payload in %s: %s, %s\n", plural(t.Datagrams, "datagram"), plural(len(r.Streams), "stream"), size(t.Bytes), d, rate(t.Datagrams, d), bitrate(t.Bytes, d))
	if t.Datagrams == 0 {
		return nil
	}
	if r.Dropped > 0 {
		fmt.Fprintf(f.w, "the recorder itself lost %s\n", plural(r.Dropped, "datagram"))
	}
	fmt.Fprintln(f.w, "\nbursts, the fullest window wherever it begins"+inexact(t))
	for i, b := range t.Bursts {
		w := analysis.Windows[i]
		fmt.Fprintf(f.w, "  %6s  %18s  %12s  %14s  from %s\n", plainDuration(w), plural(b.Datagrams, "datagram"), rate(b.Datagrams, w), bitrate(b.Bytes, w), stamp(b.Start))
	}
	fmt.Fprintln(f.w, "\npeaks, the fullest span of the clock")
	for i, b := range t.Peaks {
		w := analysis.Buckets[i]
		fmt.Fprintf(f.w, "  %6s  %18s  %12s  %14s  from %s\n", plainDuration(w), plural(b.Datagrams, "datagram"), rate(b.Datagrams, w), bitrate(b.Bytes, w), stamp(b.Start))
	}
	if h := t.Arrivals; h.TotalCount() > 0 {
		between := *latenessOf(h)
		between.Max = t.Longest // exactly
		fmt.Fprintf(f.w, "\ntimes between datagrams: %s\n", between)
		for _, c := range decades(h) {
			fmt.Fprintf(f.w, "  %9s to %9s  %s\n", nanos(c.From), nanos(c.To+1), partBar(c.Datagrams, t.Datagrams))
		}
	}
	fmt.Fprintf(f.w, "\nsizes of payload: %d to %d bytes, %d on average\n", t.Least, t.Most, t.Bytes/t.Datagrams)
	for i, n := range t.Sizes {
		if from, to := sizeClass(i); n > 0 {
			fmt.Fprintf(f.w, "  %9d to %9d  %s\n", from, to, partBar(n, t.Datagrams))
		}
	}
	return f.printStreams(r)
}

func inexact(t *analysis.Traffic) string {
	if t.Approximate {
		return " (more came than is remembered: at most this)"
	}
	return ""
}

// partBar shows a part of all.
func partBar(n, all uint64) string {
	const width = 40
	return fmt.Sprintf("%-*s %5.1f %%  %s", width, strings.Repeat("#", int((n*width+all-1)/all)), 100*float64(n)/float64(all), count(n))
}

func (f *statsFlags) printStreams(r *analysis.StatsResult) error {
	shown := r.Streams
	if f.top > 0 {
		shown = shown[:min(len(shown), f.top)]
	}
	fmt.Fprintln(f.w, "\nstreams, those with the most bytes first")
	tw := tabwriter.NewWriter(f.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "  SOURCE\tGROUP\tDATAGRAMS\tPAYLOAD\tRATE\tBITRATE\tIN 1 MS\tIN 10 MS\tIN 100 MS\tPEAK 1 S\tP50 BETWEEN\t")
	for i := range shown {
		if i%tableRows == tableRows-1 {
			if err := tw.Flush(); err != nil {
				return err
			}
		}
		s := &shown[i]
		d := time.Duration(s.Last - s.First)
		between := "-"
		if h := s.Arrivals; h != nil && h.TotalCount() > 0 {
			between = nanos(h.ValueAtQuantile(50))
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", s.Src, s.Dst, count(s.Datagrams), size(s.Bytes), rate(s.Datagrams, d), bitrate(s.Bytes, d),
			count(s.Bursts[0].Datagrams), count(s.Bursts[1].Datagrams), count(s.Bursts[2].Datagrams), count(s.Peaks[3].Datagrams), between)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if n := len(r.Streams) - len(shown); n > 0 {
		fmt.Fprintf(f.w, "  and %s more\n", count(n))
	}
	return nil
}
