package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"castdeck/analysis"
	"castdeck/analysis/report"
	"castdeck/format"
)

// reportStreams are told apart, of which a page shows far fewer: with the analysis of gaps
// beside them more would take more memory than other commands do.
const reportStreams = 1 << 13

type reportFlags struct {
	analysed
	numbering
	page pageFile
	json bool

	facts  []report.Fact
	events []format.Event
	damage []string
}

func reportCmd() *cobra.Command {
	f := &reportFlags{}
	cmd := &cobra.Command{
		Use:   "report PATH... -o FILE.html",
		Short: "A page with pictures: rates, bursts, gaps, times between datagrams",
		Long: `Make one HTML page of captures of any kind: rate over time, to be zoomed from hours to
milliseconds, bursts, gaps of each stream, percentiles of the times between datagrams,
streams, losses and events. The page needs nothing else and fetches nothing: it can be
mailed, and opened anywhere.

It holds at most 32,768 cells over time, whatever the length, and the 64 seconds
with the fullest milliseconds by the millisecond. Each cell keeps the fullest 1, 10 and
100 ms that ended in it and the longest pause, so that no zoom hides them.

Numbers are recognised, or given, as castdeck gaps does. castdeck compare --report and
castdeck replay --report make pages of comparisons and replays.

` + pathsHelp + ` Exit
code 3 where numbers are missing, the recording says that it lost datagrams, or a
capture is damaged or was cut off; the page is made all the same.`,
		Example: `  castdeck report feed.pcapng.zst -o report.html
  castdeck report --start +1m --end +2m --only 239.1.1.1 /data/feed -o minute.html
  castdeck report --seq 0:8:be -o - *.pcap > report.html
  castdeck report --json feed.pcapng.zst | jq '.recording.bursts[0]'`,
		Args: argsN(1, -1, "one or more captures"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.page.path, "output", "o", "", "the `FILE` to write, or - for stdout")
	flags.BoolVar(&f.page.force, "force", false, "overwrite FILE")
	flags.BoolVar(&f.json, "json", false, "print the data of the page as one JSON object; with -o both")
	f.numbering.addFlags(flags, "auto", "the `PROTOCOL` of all streams; auto recognises that of each")
	f.analysed.addFlags(cmd)
	return cmd
}

func (f *reportFlags) run(cmd *cobra.Command, paths []string) error {
	switch {
	case f.page.path == "" && !f.json:
		return usagef("report: name the file to write with -o, such as -o report.html")
	case f.page.path == stdio && f.json:
		return usagef("--json and -o -: both would go to stdout; choose one, or name a file")
	}
	n, err := f.numbers(cmd)
	if err != nil {
		return err
	}
	if f.page.path != "" {
		f.page.stdout = cmd.OutOrStdout()
		if err := f.page.vacant(paths...); err != nil {
			return err
		}
	}
	f.opened = func(in *input) { f.facts = inputFacts(in) }
	f.damagedAt = func(text string) {
		if len(f.damage) < format.MaxDamage {
			f.damage = append(f.damage, oneLine(text))
		}
	}
	s, g := analysis.NewStats(analysis.StatsOptions{Timeline: true, Streams: reportStreams}), analysis.NewGaps(analysis.GapOptions(n))
	damaged, err := f.each(cmd, paths, func(b *format.Batch) error {
		f.events = format.AppendLastEvents(f.events, b.Events...)
		g.Add(b)
		return s.Add(b)
	})
	if err != nil {
		return err
	}
	stats, err := s.Finish()
	if err != nil {
		return err
	}
	gaps := g.Finish()
	d := report.FromRecording(f.source(paths), stats, gaps)
	if f.json {
		if err := printJSON(cmd.OutOrStdout(), d); err != nil {
			return err
		}
	}
	if f.page.path != "" {
		bytes, err := f.page.write(d)
		if err != nil {
			return err
		}
		if f.page.path != stdio {
			f.say("%s: %s of %s, %s", f.page.path, plural(stats.Total.Datagrams, "datagram"), plural(len(stats.Streams), "stream"), size(bytes))
		}
	}
	if f.notUDP > 0 {
		f.say("%s not UDP, left out", plural(f.notUDP, "packet"))
	}
	if damaged || gaps.Total.Missing > 0 || stats.Dropped > 0 {
		return lossy
	}
	return nil
}

// source is what the page tells of the input.
func (f *reportFlags) source(paths []string) *report.Source {
	for _, part := range []struct {
		name  string
		given string
	}{{"Only", strings.Join(f.only, " ")}, {"From", f.span.start.text}, {"Until", f.span.end.text}} {
		if part.given != "" {
			f.facts = append(f.facts, report.Fact{Name: part.name, Value: oneLine(part.given)})
		}
	}
	if f.notUDP > 0 {
		f.facts = append(f.facts, report.Fact{Name: "Left out", Value: plural(f.notUDP, "packet") + " not UDP"})
	}
	for i := range f.events {
		e := &f.events[i]
		e.Kind, e.Text = oneLine(e.Kind), oneLine(e.Text)
	}
	names := f.interfaces
	return &report.Source{
		MadeBy: application, Title: titleOf(paths), Facts: f.facts, Events: f.events, Damage: f.damage,
		Interface: func(i int) string { return interfaceName(names, uint16(i)) },
	}
}

// titleOf is what a page about inputs is called.
func titleOf(paths []string) string {
	title := "stdin"
	if paths[0] != stdinPath {
		title = filepath.Base(paths[0])
	}
	if n := len(paths) - 1; n > 0 {
		title += " and " + count(n) + " more"
	}
	return oneLine(title)
}

// inputFacts are what is known of an input without reading it.
func inputFacts(in *input) (facts []report.Fact) {
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, report.Fact{Name: name, Value: oneLine(value)})
		}
	}
	kind := in.format()
	if in.size > 0 {
		kind += ", " + size(in.size)
	}
	files := 0
	for _, p := range in.parts {
		files += max(len(p.segments), 1)
	}
	if files > 1 {
		kind += ", " + plural(files, "file")
	}
	add("File", in.path)
	add("Format", kind)
	if i := in.info(); i != nil {
		add("Recording", i.Recording.String())
		add("Host", i.Host)
		add("Clock", i.Clock)
		const most = 32
		list := i.Subscriptions[:min(len(i.Subscriptions), most)]
		more := ""
		if n := len(i.Subscriptions) - len(list); n > 0 {
			more = " and " + count(n) + " more"
		}
		add("Joined", strings.Join(list, " ")+more)
	}
	return facts
}
