package report

import (
	"cmp"
	"fmt"
	"slices"

	"castdeck/analysis"
)

// Comparison is what a page of a comparison shows.
type Comparison struct {
	Compared
	// Cells over the time of A.
	Cells ComparedCells `json:"cells"`
	// Streams, those that differ the most first.
	Streams []ComparedStream `json:"streams"`
	// Latencies and IntervalErrors of all streams together.
	Latencies      Curve `json:"latencies"`
	IntervalErrors Curve `json:"interval_errors"`
	// Damage of both.
	Damage []string `json:"damage"`
}

// Compared are the counts of a stream, or of all.
type Compared struct {
	Matched     uint64         `json:"matched"`
	OnlyA       uint64         `json:"only_a"`
	OnlyB       uint64         `json:"only_b"`
	DuplicatesA uint64         `json:"duplicates_a"`
	DuplicatesB uint64         `json:"duplicates_b"`
	Reordered   uint64         `json:"reordered"`
	Changed     uint64         `json:"changed"`
	LatencyNS   *Distribution  `json:"latency_ns"`
	IntervalNS  *IntervalError `json:"interval_error_ns"`
}

// Distribution of times in ns.
type Distribution struct {
	Min int64 `json:"min"`
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

// IntervalError is how much distances in time differ, ns.
type IntervalError struct {
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

// ComparedStream is a stream of both sides.
type ComparedStream struct {
	Source string `json:"source"`
	Group  string `json:"group"`
	Mapped string `json:"mapped,omitempty"` // what it is in B, where that is another one
	Compared
	Latencies      Curve `json:"latencies,omitempty"`
	IntervalErrors Curve `json:"interval_errors,omitempty"`
}

// ComparedCells are a comparison over time; latencies are 0 where nothing matched.
type ComparedCells struct {
	FromNS     int64    `json:"from_ns"`
	WidthNS    int64    `json:"width_ns"`
	Matched    []uint64 `json:"matched"`
	OnlyA      []uint64 `json:"only_a"`
	OnlyB      []uint64 `json:"only_b"`
	Duplicates []uint64 `json:"duplicates"`
	Reordered  []uint64 `json:"reordered"`
	Changed    []uint64 `json:"changed"`
	LeastNS    []int64  `json:"latency_min_ns"`
	MostNS     []int64  `json:"latency_max_ns"`
	MeanNS     []int64  `json:"latency_mean_ns"`
}

// FromComparison makes the page of a comparison with a timeline. Clock is what was taken
// out of it, nil for nothing; differences are those that count, as lines.
func FromComparison(src *Source, r *analysis.Result, clock *analysis.Clock, differences []string) *Document {
	cells := r.Timeline.Cells
	from := slices.IndexFunc(cells, func(c analysis.CompareCell) bool { return c != analysis.CompareCell{} })
	start := int64(0)
	if from >= 0 {
		start = r.Timeline.Start + int64(from)*r.Timeline.Width
		cells = cells[from:]
	}
	d := src.document("comparison", start, start+int64(len(cells))*r.Timeline.Width)
	t := r.Total
	c := &Comparison{
		Compared: compared(t), Cells: comparedCells(cells, r.Timeline.Width), Streams: []ComparedStream{},
		Latencies: latencyCurve(t.Latency), IntervalErrors: intervalCurve(t), Damage: append([]string{}, src.Damage[:min(len(src.Damage), maxDamage)]...),
	}
	d.Comparison = c
	streams := slices.Clone(r.Streams)
	differing := func(s *analysis.Comparison) uint64 {
		return s.OnlyA + s.OnlyB + s.DuplicatesA + s.DuplicatesB + s.Reordered + s.Changed
	}
	slices.SortStableFunc(streams, func(a, b *analysis.Comparison) int {
		return cmp.Or(cmp.Compare(differing(b), differing(a)), cmp.Compare(b.Matched, a.Matched))
	})
	for i, s := range streams[:min(len(streams), maxRows)] {
		c.Streams = append(c.Streams, comparedStream(s, i < maxLines))
	}
	if n := len(streams); n > maxRows {
		d.Notes = append(d.Notes, fmt.Sprintf("The table of streams has the %s of %s that differ the most.", comma(maxRows), comma(uint64(n))))
	}
	d.comparisonFigures(r, clock)
	for _, text := range differences {
		d.say("bad", text)
	}
	if len(src.Damage) > 0 {
		d.say("bad", "damaged, or not whole")
	}
	switch {
	case len(d.Verdicts) > 0:
	case t.Matched == 0:
		d.say("note", "nothing to compare")
	case t.Equal():
		d.say("good", "identical, in the same order")
	default:
		d.say("good", "different within what is tolerated")
	}
	return d
}

func comparedStream(s *analysis.Comparison, curves bool) ComparedStream {
	src, dst := s.SourceA, s.DestinationA
	if !src.IsValid() {
		src, dst = s.SourceB, s.Destination
	}
	row := ComparedStream{Source: src.String(), Group: dst.String(), Compared: compared(s)}
	if dst != s.Destination {
		row.Mapped = s.Destination.String()
	}
	if curves {
		row.Latencies, row.IntervalErrors = latencyCurve(s.Latency), intervalCurve(s)
	}
	return row
}

func compared(s *analysis.Comparison) Compared {
	c := Compared{
		Matched: s.Matched, OnlyA: s.OnlyA, OnlyB: s.OnlyB, DuplicatesA: s.DuplicatesA, DuplicatesB: s.DuplicatesB, Reordered: s.Reordered, Changed: s.Changed,
	}
	if l := s.Latency; l != nil && l.Count() > 0 {
		c.LatencyNS = &Distribution{l.Min(), l.Quantile(50), l.Quantile(99), l.Max()}
	}
	if h := s.IntervalError; h != nil && h.TotalCount() > 0 {
		c.IntervalNS = &IntervalError{h.ValueAtQuantile(50), h.ValueAtQuantile(99), h.Max()}
	}
	return c
}

func intervalCurve(s *analysis.Comparison) Curve {
	if h := s.IntervalError; h != nil && h.TotalCount() > 0 {
		return histogramCurve(h, h.Min(), h.Max())
	}
	return nil
}

func comparedCells(cells []analysis.CompareCell, width int64) (c ComparedCells) {
	c.WidthNS = width
	n := len(cells)
	for _, list := range []*[]uint64{&c.Matched, &c.OnlyA, &c.OnlyB, &c.Duplicates, &c.Reordered, &c.Changed} {
		*list = make([]uint64, n)
	}
	c.LeastNS, c.MostNS, c.MeanNS = make([]int64, n), make([]int64, n), make([]int64, n)
	for i := range cells {
		x := &cells[i]
		c.Matched[i], c.OnlyA[i], c.OnlyB[i], c.Duplicates[i], c.Reordered[i], c.Changed[i] = x.Matched, x.OnlyA, x.OnlyB, x.Duplicates, x.Reordered, x.Changed
		if x.Matched > 0 {
			c.LeastNS[i], c.MostNS[i], c.MeanNS[i] = x.Least, x.Most, int64(x.Sum/float64(x.Matched))
		}
	}
	return c
}

func (d *Document) comparisonFigures(r *analysis.Result, clock *analysis.Clock) {
	t := r.Total
	d.figure("Matched", comma(t.Matched), fmt.Sprintf("in %s", plural(uint64(len(r.Streams)), "stream")))
	d.figure("Only in A", comma(t.OnlyA), "of "+plural(t.Matched+t.OnlyA+t.DuplicatesA, "datagram"))
	d.figure("Only in B", comma(t.OnlyB), "of "+plural(t.Matched+t.OnlyB+t.DuplicatesB, "datagram"))
	d.figure("Twice", comma(t.DuplicatesA+t.DuplicatesB), comma(t.DuplicatesA)+" in A, "+comma(t.DuplicatesB)+" in B")
	d.figure("Reordered", comma(t.Reordered), plural(t.Changed, "datagram")+" changed")
	note := "by the clocks as they are"
	if clock != nil {
		note = "B's clock, " + nanos(clock.Offset) + " ahead, taken out"
		if clock.Drift != 0 {
			note += fmt.Sprintf(", and %+.3f ppm", clock.Drift*1e6)
		}
	}
	if l := t.Latency; l != nil && l.Count() > 0 {
		d.figure("Latency", nanos(l.Quantile(50)), "p99 "+nanos(l.Quantile(99))+", max "+nanos(l.Max())+"; "+note)
	} else {
		d.figure("Latency", "-", note)
	}
	if h := t.IntervalError; h != nil && h.TotalCount() > 0 {
		d.figure("Interval error", nanos(h.ValueAtQuantile(50)), "p99 "+nanos(h.ValueAtQuantile(99))+", max "+nanos(h.Max()))
	}
}
