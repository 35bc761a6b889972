package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"castdeck/recorder"
)

// sparks is how many intervals a group's picture has.
const sparks = 30

// liveView is a recording as people look at it: counts, their rates, and the rates of
// the last intervals for each group. It belongs to one goroutine.
type liveView struct {
	outputs string
	groups  []string // what each subscription is called, sanitised
	queue   int64    // its limit in bytes

	elapsed, since time.Duration // since the start, and of the last interval
	stats, last    recorder.Stats
	hostLost       uint64
	fileBytes      int64
	pressure       float64
	trouble        string // why something is wrong, if it is

	history []uint32 // datagrams in each of the last intervals, sparks for each group, the newest at position at
	at      int
	quiet   []time.Duration // how long nothing came for the group
	order   []int
}

func newLiveView(outputs string, groups []string, queue int64) *liveView {
	v := &liveView{outputs: oneLine(outputs), queue: queue, history: make([]uint32, len(groups)*sparks),
		quiet: make([]time.Duration, len(groups)), at: sparks - 1}
	for i, g := range groups {
		v.groups = append(v.groups, oneLine(g))
		v.order = append(v.order, i)
	}
	v.last.Subscriptions = make([]recorder.SubscriptionStats, len(groups))
	v.stats.Subscriptions = v.last.Subscriptions
	return v
}

// update takes new counts, an interval after the last ones.
func (v *liveView) update(s recorder.Stats, elapsed, since time.Duration) {
	v.last, v.stats, v.elapsed, v.since = v.stats, s, elapsed, since
	v.at = (v.at + 1) % sparks
	for i := range v.groups {
		d := s.Subscriptions[i].Datagrams - v.last.Subscriptions[i].Datagrams
		v.history[i*sparks+v.at] = uint32(min(d, 1<<32-1))
		if v.quiet[i] += since; d > 0 {
			v.quiet[i] = 0
		}
	}
}

// busiest sorts the groups by their rate over the whole picture, which does not jump
// about as that of one interval does.
func (v *liveView) busiest() []int {
	sum := make([]uint64, len(v.groups))
	for i := range sum {
		for _, n := range v.history[i*sparks : (i+1)*sparks] {
			sum[i] += uint64(n)
		}
	}
	slices.SortFunc(v.order, func(a, b int) int { return cmp.Or(cmp.Compare(sum[b], sum[a]), cmp.Compare(a, b)) })
	return v.order
}

// lost is what should be in the recording and is not.
func (v *liveView) lost() uint64 { return v.stats.Dropped.Kernel + v.stats.Dropped.Writer }

// line is the recording in one line.
func (v *liveView) line() string {
	before := "" // of what was lost before it reached our sockets
	if v.hostLost > 0 {
		before = fmt.Sprintf(" (host: %s)", count(v.hostLost))
	}
	text := fmt.Sprintf("%s  %s  %s  %s datagrams  %s lost%s  file %s", v.elapsed.Round(time.Second),
		rate(v.stats.Datagrams-v.last.Datagrams, v.since), bitrate(v.stats.Bytes-v.last.Bytes, v.since),
		count(v.stats.Datagrams), count(v.lost()), before, size(v.fileBytes))
	if v.trouble != "" {
		text += "  " + oneLine(v.trouble)
	}
	return text
}

// style is what a terminal can show.
type style struct{ color, ascii bool }

func (l style) paint(code, text string) string {
	if !l.color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

const (
	bold   = "1"
	dim    = "2"
	red    = "1;31"
	yellow = "33"
)

// render is the full view: at most height lines of at most width characters.
func (v *liveView) render(width, height int, messages []string, l style) []string {
	s := &v.stats
	lost := count(v.lost()) + " lost"
	if v.hostLost > 0 {
		lost += fmt.Sprintf(" (host: %s)", count(v.hostLost))
	}
	paintLoss := func(text string) string {
		if v.lost() > 0 {
			return l.paint(red, text)
		}
		return text
	}
	head := fmt.Sprintf("%s  %s  %s datagrams  ", rate(s.Datagrams-v.last.Datagrams, v.since), bitrate(s.Bytes-v.last.Bytes, v.since), count(s.Datagrams))
	queue := float64(s.QueueBytes) / float64(max(v.queue, 1))
	lines := []string{
		l.paint(bold, cutTo(fmt.Sprintf("castdeck record  %s  %s  %s", v.elapsed.Round(time.Second), plural(len(v.groups), "group"), v.outputs), width)),
		cutTo(head, width) + paintLoss(cutTo(lost, max(width-len([]rune(head)), 0))),
		cutTo(fmt.Sprintf("queue %s %3.0f %% of %s  receive buffer %s  pressure %3.0f %%  file %s",
			bar(queue, 10, l), 100*min(queue, 1), formatSize(v.queue), formatSize(int64(s.BufferBytes)), 100*v.pressure, size(v.fileBytes)), width),
	}
	if v.trouble != "" {
		lines = append(lines, l.paint(red, cutTo(oneLine(v.trouble), width)))
	}
	lines = append(lines, "")

	// Messages have what they need, up to a quarter.
	messages = messages[max(0, len(messages)-height/4):]
	room := height - len(lines) - 1 // the table's head
	if len(messages) > 0 {
		room -= len(messages) + 1
	}
	lines = append(lines, v.table(width, max(room, 1), l)...)
	if len(messages) > 0 {
		lines = append(lines, "")
		for _, m := range messages {
			lines = append(lines, cutTo(m, width))
		}
	}
	return lines[:min(len(lines), height)]
}

// table shows as many groups as there are rows.
func (v *liveView) table(width, rows int, l style) []string {
	const (
		minPicture   = 6
		maxGroupName = 60
	)
	const columns = "%10s %13s %14s %8s %7s  "
	all := v.busiest()
	more := ""
	if len(all) > rows {
		all = all[:rows-1]
		more = fmt.Sprintf("and %s more", count(len(v.groups)-rows+1))
	}
	name := len("GROUP")
	for _, i := range all {
		name = max(name, len([]rune(v.groups[i])))
	}
	fixed := len(fmt.Sprintf(columns, "", "", "", "", ""))
	name = min(name, max(width-fixed-minPicture, 16), maxGroupName)
	picture := min(max(width-name-fixed, 0), sparks)
	interval := fmt.Sprintf("LAST %s", (v.since.Round(100*time.Millisecond) * time.Duration(picture)).String())
	out := []string{l.paint(dim, cutTo(pad("GROUP", name)+fmt.Sprintf(columns, "RATE", "BITS", "DATAGRAMS", "LOST", "SILENT")+cutTo(interval, picture), width))}
	for _, i := range all {
		s, was := &v.stats.Subscriptions[i], &v.last.Subscriptions[i]
		quiet := ""
		if q := v.quiet[i]; q >= 2*v.since && q > 0 {
			quiet = shortSpan(q)
		}
		text := cutTo(pad(cutTo(v.groups[i], name), name)+fmt.Sprintf(columns,
			rate(s.Datagrams-was.Datagrams, v.since), bitrate(s.Bytes-was.Bytes, v.since), count(s.Datagrams), count(s.Dropped), quiet)+v.spark(i, picture, l), width)
		switch {
		case s.Dropped > was.Dropped:
			text = l.paint(red, text)
		case quiet != "":
			text = l.paint(yellow, text)
		}
		out = append(out, text)
	}
	if more != "" {
		out = append(out, l.paint(dim, cutTo(more, width)))
	}
	return out
}

// The levels of a spark: nothing, and from little to the most.
var (
	levels      = []rune(" ▁▂▃▄▅▆▇█")
	asciiLevels = []rune(" .:-=+*#@")
)

// spark is a group's picture, the newest interval at the right, as high as its own
// highest.
func (v *liveView) spark(group, width int, l style) string {
	h := v.history[group*sparks : (group+1)*sparks]
	most := uint64(slices.Max(h))
	signs := levels
	if l.ascii {
		signs = asciiLevels
	}
	var b strings.Builder
	for k := width - 1; k >= 0; k-- {
		n := uint64(h[(v.at-k+sparks)%sparks])
		level := 0
		if n > 0 {
			level = max(1, int(n*uint64(len(signs)-1)/most))
		}
		b.WriteRune(signs[level])
	}
	return strings.TrimRight(b.String(), " ")
}

// bar is a share of 1.
func bar(share float64, width int, l style) string {
	n := min(max(int(share*float64(width)+0.5), 0), width)
	full, empty := "█", "░"
	if l.ascii {
		full, empty = "#", "."
	}
	return strings.Repeat(full, n) + strings.Repeat(empty, width-n)
}

// pad fills a text up with blanks.
func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-len([]rune(s)))) }

// shortSpan writes a time in at most six characters: 12 s, 5 m, 3 h, 2 d.
func shortSpan(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f m", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f d", min(d.Hours()/24, 9999))
}
