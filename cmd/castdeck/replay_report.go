package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"castdeck/replayer"
)

// report shows progress until the function that it returns is called.
func (f *replayFlags) report(r *replayer.Replayer) (stop func()) {
	if !f.terminal {
		return func() {}
	}
	start := time.Now()
	var last replayer.Stats
	return every(f.interval.Duration, func(now time.Time, since time.Duration) {
		s := r.Stats()
		defer func() { last = s }()
		fmt.Fprintf(f.stderr, "\r%s\x1b[K", f.progress(s, last, now.Sub(start), since))
	}, func() { fmt.Fprint(f.stderr, "\r\x1b[K") })
}

// progress is the status on one line.
func (f *replayFlags) progress(s, last replayer.Stats, elapsed, since time.Duration) string {
	line := elapsed.Round(time.Second).String()
	if s.Position != 0 {
		line += "  at " + stamp(s.Position)[:23]
	}
	switch {
	case s.Paused:
		line += "  PAUSED"
	case f.speed.max:
		line += "  full speed"
	default:
		line += fmt.Sprintf("  x%.3g", s.Speed)
		if last.Position != 0 && s.Position > last.Position && f.pps.value == 0 && f.bitrate.value == 0 {
			line += fmt.Sprintf(" (%.3g)", float64(s.Position-last.Position)/float64(since))
		}
	}
	line += fmt.Sprintf("  %s  %s  %s sent", rate(s.Datagrams-last.Datagrams, since), bitrate(s.Bytes-last.Bytes, since), count(s.Datagrams))
	if !f.speed.max {
		line += "  late p99 " + nanos(s.LatenessP99)
	}
	if s.SendErrors > 0 {
		line += "  NOT SENT " + count(s.SendErrors)
	}
	return line
}

// replayJSON has the fixed keys of replay --json.
type replayJSON struct {
	Event           string            `json:"event"`
	Datagrams       uint64            `json:"datagrams"`
	Bytes           uint64            `json:"bytes"`
	SendErrors      uint64            `json:"send_errors"`
	Causes          map[string]uint64 `json:"send_error_causes,omitempty"`
	Skipped         uint64            `json:"skipped"`
	SkippedNotUDP   uint64            `json:"skipped_not_udp"`
	SkippedTrunc    uint64            `json:"skipped_truncated"`
	SkippedFiltered uint64            `json:"skipped_filtered"`
	Damaged         uint64            `json:"damaged_places"`
	RecordedDrops   uint64            `json:"recorded_drops"`
	DurationSeconds float64           `json:"duration_seconds"`
	RecordedSeconds float64           `json:"recorded_seconds"`
	RatePPS         float64           `json:"rate_pps"`
	Sealed          bool              `json:"sealed"`
	Interrupted     bool              `json:"interrupted,omitempty"`
	PausedSeconds   float64           `json:"paused_seconds,omitempty"`
	DroppedLate     uint64            `json:"dropped_late"`
	Shifts          uint64            `json:"schedule_shifts"`
	ShiftedSeconds  float64           `json:"schedule_shifted_seconds"`
	Segmented       uint64            `json:"segmented"`
	Runs            uint64            `json:"runs"`
	Regrouped       uint64            `json:"regrouped"`
	Lateness        latenessJSON      `json:"lateness_ns"`
	IntervalError   latenessJSON      `json:"interval_error_ns"`
	Impaired        *impairedJSON     `json:"impaired,omitempty"`
	Rewritten       *rewrittenJSON    `json:"rewritten,omitempty"`
	// By destination, after the mappings.
	Streams []replayStreamJSON `json:"streams"`
}

// replayStreamJSON is what went to one destination.
type replayStreamJSON struct {
	Group         string        `json:"group"`
	Port          uint16        `json:"port"`
	Datagrams     uint64        `json:"datagrams"`
	Bytes         uint64        `json:"bytes"`
	SendErrors    uint64        `json:"send_errors"`
	DroppedLate   uint64        `json:"dropped_late"`
	Interface     string        `json:"interface"`
	TTL           int           `json:"ttl"`
	DSCP          int           `json:"dscp"`
	Lateness      *latenessJSON `json:"lateness_ns,omitempty"`
	IntervalError *latenessJSON `json:"interval_error_ns,omitempty"`
}

type latenessJSON struct {
	P50  int64 `json:"p50"`
	P90  int64 `json:"p90"`
	P99  int64 `json:"p99"`
	P999 int64 `json:"p999"`
	Max  int64 `json:"max"`
}

// String is what people read of it.
func (l latenessJSON) String() string {
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, p99.9 %s, max %s", nanos(l.P50), nanos(l.P90), nanos(l.P99), nanos(l.P999), nanos(l.Max))
}

func (f *replayFlags) summary(path string, r replayer.Report, sealed, interrupted bool) error {
	l, e := r.Lateness, r.IntervalError
	if f.json {
		impaired, rewritten := f.impair.json(&r)
		return json.NewEncoder(f.stdout).Encode(replayJSON{
			Event: "summary", Datagrams: r.Datagrams, Bytes: r.Bytes, SendErrors: r.SendErrors, Causes: r.Causes,
			Skipped: r.Skipped.Total(), SkippedNotUDP: r.Skipped.NotUDP, SkippedTrunc: r.Skipped.Truncated,
			SkippedFiltered: r.Skipped.Filtered, Damaged: r.Damaged, RecordedDrops: r.RecordedDrops,
			DurationSeconds: r.Duration.Seconds(), RecordedSeconds: r.Recorded.Seconds(), RatePPS: r.RatePPS, Sealed: sealed,
			Interrupted: interrupted, PausedSeconds: r.Paused.Seconds(), DroppedLate: r.DroppedLate, Shifts: r.Shifts,
			ShiftedSeconds: r.Shifted.Seconds(), Segmented: r.Segmented, Runs: r.Runs, Regrouped: r.Regrouped,
			Lateness: latenessJSON{l.P50, l.P90, l.P99, l.P999, l.Max}, IntervalError: latenessJSON{e.P50, e.P90, e.P99, e.P999, e.Max},
			Impaired: impaired, Rewritten: rewritten, Streams: streamsJSON(r),
		})
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(f.stderr, "castdeck: %s: %s\n", oneLine(path), oneLine(fmt.Sprintf(format, args...)))
	}
	content := "payload"
	if f.where.raw {
		content = "frames"
	}
	say("%s sent, %s %s, in %.3f s (recorded in %.3f s), %s", plural(r.Datagrams, "datagram"), size(r.Bytes), content,
		r.Duration.Seconds(), r.Recorded.Seconds(), rate(r.Datagrams, r.Duration))
	for _, via := range byWay(r) {
		say("%s", via)
	}
	if l.Count > 0 {
		say("lateness %s", latenessJSON{l.P50, l.P90, l.P99, l.P999, l.Max})
	}
	if e.Count > 0 {
		say("interval error %s", latenessJSON{e.P50, e.P90, e.P99, e.P999, e.Max})
	}
	if f.tooLate(r) {
		say("LATER than --max-lateness %s: %s", f.worst.Duration, nanos(l.Max))
	}
	if r.Shifts > 0 {
		say("fell behind: the schedule was moved %s, by %s together", plural(r.Shifts, "time"), r.Shifted)
	}
	if r.DroppedLate > 0 {
		say("%s NOT SENT for being more than %s late", plural(r.DroppedLate, "datagram"), f.after.Duration)
	}
	if r.RealtimeRefused != nil {
		say("--realtime is not allowed here, played without: %v", r.RealtimeRefused)
	}
	if r.SegmentationRefused != nil {
		say("the kernel takes no runs of datagrams here (UDP_SEGMENT: %v): sent one by one, which is slower at full speed", r.SegmentationRefused)
	}
	if r.Regrouped > 0 {
		say("full speed: each destination in its order, but several put together within what was read at once (--gso off keeps all as recorded)")
	}
	if r.ShortenedGaps > 0 {
		say("%s shortened, by %s together", plural(r.ShortenedGaps, "pause"), r.GapsRemoved)
	}
	f.impair.say(&r, say)
	for cause, n := range r.Causes {
		say("%s NOT SENT: %s", plural(n, "datagram"), cause)
	}
	if s := r.Skipped; s.Total() > 0 {
		say("skipped: %s not UDP, %s not recorded whole, %s left out by --only", count(s.NotUDP), count(s.Truncated), count(s.Filtered))
	}
	if r.RecordedDrops > 0 {
		say("%s were lost when this was recorded", plural(r.RecordedDrops, "datagram"))
	}
	for _, d := range r.Damage {
		say("damaged: %s", describe(d))
	}
	if !sealed {
		say("not sealed: still being written, or cut off; what is behind is missing")
	}
	if interrupted {
		say("interrupted: the rest was not sent")
	}
	return nil
}

// streamsJSON are the destinations of the report, all but the first 4096 left out.
func streamsJSON(r replayer.Report) []replayStreamJSON {
	const most = 4096
	out := []replayStreamJSON{}
	for _, d := range r.Destinations[:min(len(r.Destinations), most)] {
		j := replayStreamJSON{
			Group: d.Destination.Addr().String(), Port: d.Destination.Port(), Interface: d.Way.Interface, TTL: d.Way.TTL, DSCP: d.Way.DSCP, Datagrams: d.Datagrams, Bytes: d.Bytes,
			SendErrors: d.SendErrors, DroppedLate: d.DroppedLate, Lateness: latenessOf(d.Lateness), IntervalError: latenessOf(d.IntervalError),
		}
		if !d.Destination.IsValid() {
			j.Group = "others"
		}
		out = append(out, j)
	}
	return out
}

func latenessOf(h *hdrhistogram.Histogram) *latenessJSON {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	at := h.ValueAtQuantile
	return &latenessJSON{at(50), at(90), at(99), at(99.9), h.Max()}
}

// writeHistograms writes what HdrHistogram's tools read: a line for the lateness and
// one for the interval error of all datagrams, and one of each for every destination.
// Values are ns.
func writeHistograms(path string, r replayer.Report) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := hdrhistogram.NewHistogramLogWriter(f)
	for _, write := range []func() error{
		func() error { return w.OutputComment("castdeck replay: lateness and interval error, ns") },
		w.OutputLogFormatVersion, w.OutputLegend,
	} {
		if err := write(); err != nil {
			return err
		}
	}
	end := time.Now().UnixMilli()
	start := end - r.Duration.Milliseconds()
	put := func(tag string, h *hdrhistogram.Histogram) error {
		if h == nil || h.TotalCount() == 0 {
			return nil
		}
		h.SetTag(tag)
		h.SetStartTimeMs(start)
		h.SetEndTimeMs(end)
		return w.OutputIntervalHistogram(h)
	}
	if err := errors.Join(put("lateness", r.Lateness.Histogram), put("interval-error", r.IntervalError.Histogram)); err != nil {
		return err
	}
	for _, d := range r.Destinations {
		if err := errors.Join(put("lateness-"+d.Destination.String(), d.Lateness), put("interval-error-"+d.Destination.String(), d.IntervalError)); err != nil {
			return err
		}
	}
	return nil
}
