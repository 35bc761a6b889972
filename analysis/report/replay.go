package report

import (
	"cmp"
	"fmt"
	"slices"

	"castdeck/replayer"
)

// Replay is what a page of a replay shows.
type Replay struct {
	Datagrams   uint64 `json:"datagrams"`
	Bytes       uint64 `json:"bytes"`
	SendErrors  uint64 `json:"send_errors"`
	DroppedLate uint64 `json:"dropped_late"`
	// Paced says that datagrams had times at which they were due.
	Paced bool        `json:"paced"`
	Cells ReplayCells `json:"cells"`
	// Destinations, those with the most datagrams first.
	Destinations   []ReplayDestination `json:"destinations"`
	Lateness       Curve               `json:"lateness"`
	IntervalErrors Curve               `json:"interval_errors"`
	Damage         []string            `json:"damage"`
}

// ReplayCells are a replay over time, from the moment at which the first datagram was
// due.
type ReplayCells struct {
	FromNS  int64    `json:"from_ns"`
	WidthNS int64    `json:"width_ns"`
	Due     []uint64 `json:"due"`
	Sent    []uint64 `json:"sent"`
	Bytes   []uint64 `json:"bytes"`
	MeanNS  []int64  `json:"lateness_mean_ns"`
	MaxNS   []int64  `json:"lateness_max_ns"`
}

// ReplayDestination is what went to one destination.
type ReplayDestination struct {
	Group       string `json:"group"`
	Interface   string `json:"interface"`
	Datagrams   uint64 `json:"datagrams"`
	Bytes       uint64 `json:"bytes"`
	SendErrors  uint64 `json:"send_errors"`
	DroppedLate uint64 `json:"dropped_late"`
	MaxNS       int64  `json:"lateness_max_ns"`
	P50NS       *int64 `json:"lateness_p50_ns"`
	P99NS       *int64 `json:"lateness_p99_ns"`
	IntervalP99 *int64 `json:"interval_error_p99_ns"`
	Lateness    Curve  `json:"lateness,omitempty"`
}

// FromReplay makes the page of a replay with a history. Remarks are what went otherwise
// than asked for.
func FromReplay(src *Source, r *replayer.Report, remarks []string) *Document {
	start := r.History.Began.UnixNano()
	d := src.document("replay", start, start+int64(r.Duration))
	p := &Replay{
		Datagrams: r.Datagrams, Bytes: r.Bytes, SendErrors: r.SendErrors, DroppedLate: r.DroppedLate, Paced: r.Lateness.Count > 0, Cells: replayCells(r.History),
		Destinations: []ReplayDestination{}, Damage: append([]string{}, src.Damage[:min(len(src.Damage), maxDamage)]...),
	}
	d.Replay = p
	if h := r.Lateness.Histogram; h != nil {
		p.Lateness = histogramCurve(h, min(h.Min(), r.Lateness.Max), r.Lateness.Max)
	}
	if h := r.IntervalError.Histogram; h != nil {
		p.IntervalErrors = histogramCurve(h, min(h.Min(), r.IntervalError.Max), r.IntervalError.Max)
	}
	list := slices.Clone(r.Destinations)
	slices.SortStableFunc(list, func(a, b replayer.DestinationReport) int { return cmp.Compare(b.Datagrams, a.Datagrams) })
	for i := range list[:min(len(list), maxRows)] {
		p.Destinations = append(p.Destinations, replayDestination(&list[i], i < maxLines))
	}
	if n := len(list); n > maxRows {
		d.Notes = append(d.Notes, fmt.Sprintf("The table has the %s destinations of %s that got the most datagrams.", comma(maxRows), comma(uint64(n))))
	}
	d.replayFigures(r)
	for _, text := range remarks {
		d.say("bad", text)
	}
	if len(remarks) == 0 {
		d.say("good", "all was sent")
	}
	return d
}

func replayCells(h *replayer.History) ReplayCells {
	cells := h.Cells.Cells
	n := len(cells)
	c := ReplayCells{
		FromNS: h.Cells.Start, WidthNS: h.Cells.Width, Due: make([]uint64, n), Sent: make([]uint64, n), Bytes: make([]uint64, n),
		MeanNS: make([]int64, n), MaxNS: make([]int64, n),
	}
	for i := range cells {
		x := &cells[i]
		c.Due[i], c.Sent[i], c.Bytes[i], c.MaxNS[i] = x.Due, x.Sent, x.Bytes, x.MaxLateness
		if x.Sent > 0 {
			c.MeanNS[i] = x.LatenessSum / int64(x.Sent)
		}
	}
	return c
}

func replayDestination(r *replayer.DestinationReport, curves bool) ReplayDestination {
	group := "others"
	if r.Destination.IsValid() {
		group = r.Destination.String()
	}
	row := ReplayDestination{
		Group: group, Interface: r.Way.Interface, Datagrams: r.Datagrams, Bytes: r.Bytes, SendErrors: r.SendErrors, DroppedLate: r.DroppedLate, MaxNS: r.MaxLateness,
	}
	if h := r.Lateness; h != nil && h.TotalCount() > 0 {
		p50, p99 := min(h.ValueAtQuantile(50), r.MaxLateness), min(h.ValueAtQuantile(99), r.MaxLateness)
		row.P50NS, row.P99NS = &p50, &p99
		if curves {
			row.Lateness = histogramCurve(h, min(h.Min(), r.MaxLateness), r.MaxLateness)
		}
	}
	if h := r.IntervalError; h != nil && h.TotalCount() > 0 {
		p99 := h.ValueAtQuantile(99)
		row.IntervalP99 = &p99
	}
	return row
}

func (d *Document) replayFigures(r *replayer.Report) {
	d.figure("Sent", comma(r.Datagrams), fmt.Sprintf("to %s", plural(uint64(len(r.Destinations)), "destination")))
	d.figure("Payload", si(float64(r.Bytes), "B"), si(8*perSecond(r.Bytes, int64(r.Duration-r.Paused)), "bit/s")+" mean")
	d.figure("Time", nanos(int64(r.Duration)), "recorded in "+nanos(int64(r.Recorded)))
	d.figure("Rate", si(r.RatePPS, "/s"), "mean")
	if l := r.Lateness; l.Count > 0 {
		d.figure("Lateness", nanos(l.P50), "p99 "+nanos(l.P99)+", max "+nanos(l.Max))
	} else {
		d.figure("Lateness", "-", "at full speed nothing is due")
	}
	if e := r.IntervalError; e.Count > 0 {
		d.figure("Interval error", nanos(e.P50), "p99 "+nanos(e.P99)+", max "+nanos(e.Max))
	}
	d.figure("Not sent", comma(r.SendErrors+r.DroppedLate), comma(r.SendErrors)+" refused, "+comma(r.DroppedLate)+" dropped as late")
}
