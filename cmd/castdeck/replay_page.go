package main

import (
	"maps"
	"slices"
	"strings"

	"castdeck/analysis/report"
	"castdeck/replayer"
)

// makePage writes the page of a replay, where one is asked for.
func (f *replayFlags) makePage(paths []string, r *replayer.Report, interrupted bool) error {
	if !f.page.wanted() {
		return nil
	}
	src := &report.Source{MadeBy: application, Title: "replay of " + titleOf(paths)}
	add := func(name, value string) {
		if value != "" {
			src.Facts = append(src.Facts, report.Fact{Name: name, Value: oneLine(value)})
		}
	}
	add("File", f.name)
	add("Out of", f.o.Interface)
	switch {
	case f.pps.text != "":
		add("Pace", f.pps.text)
	case f.bitrate.text != "":
		add("Pace", f.bitrate.text)
	case f.speed.max:
		add("Pace", "as fast as it goes")
	case f.speed.factor != 0:
		add("Pace", f.speed.String()+" times the recorded one")
	default:
		add("Pace", "as recorded")
	}
	add("Limit", f.limit.text)
	add("Only", strings.Join(f.o.Only, " "))
	if s := r.Skipped; s.Total() > 0 {
		add("Left out", count(s.NotUDP)+" not UDP, "+count(s.Truncated)+" not recorded whole, "+count(s.Filtered)+" by --only")
	}
	if r.Paused > 0 {
		add("Paused", r.Paused.String())
	}
	for _, d := range r.Damage {
		src.Damage = append(src.Damage, oneLine(describe(d)))
	}
	return f.page.make(report.FromReplay(src, r, f.remarks(r, interrupted)), f.stderr)
}

// remarks are why a replay was not all that was asked for.
func (f *replayFlags) remarks(r *replayer.Report, interrupted bool) (all []string) {
	for _, cause := range slices.Sorted(maps.Keys(r.Causes)) {
		all = append(all, plural(r.Causes[cause], "datagram")+" not sent: "+cause)
	}
	for _, m := range []struct {
		is   bool
		text string
	}{
		{r.DroppedLate > 0, plural(r.DroppedLate, "datagram") + " not sent for being late"},
		{r.Skipped.Truncated > 0, plural(r.Skipped.Truncated, "datagram") + " not recorded whole, not sent"},
		{f.tooLate(*r), "later than --max-lateness " + f.worst.Duration.String()},
		{r.Damaged > 0, "the recording is damaged"},
		{!f.sealed, "the recording is not sealed: still being written, or cut off"},
		{interrupted, "interrupted: the rest was not sent"},
	} {
		if m.is {
			all = append(all, m.text)
		}
	}
	return all
}
