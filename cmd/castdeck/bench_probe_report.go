package main

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"castdeck/bench/probe"
	"castdeck/internal/mcast"
)

// hereJSON is the line that a measurement begins with: what it runs on, and as what.
type hereJSON struct {
	Event       string     `json:"event"`
	Version     string     `json:"version"`
	Machine     string     `json:"machine"`
	Kernel      string     `json:"kernel"`
	Command     []string   `json:"command"`
	Equivalent  []string   `json:"equivalent,omitempty"` // commands for two hosts
	Run         string     `json:"run,omitempty"`
	Groups      []string   `json:"groups"`
	TTL         int        `json:"ttl"`
	Return      string     `json:"return,omitempty"`
	Sender      *ifaceJSON `json:"sender_interface,omitempty"`
	Receiver    *ifaceJSON `json:"receiver_interface,omitempty"`
	BufferAsked int64      `json:"buffer_asked_bytes,omitempty"`
	Buffer      int        `json:"buffer_bytes,omitempty"`
	Receivers   []string   `json:"receivers,omitempty"`
}

type ifaceJSON struct {
	Name    string   `json:"name"`
	Driver  string   `json:"driver"`
	MTU     int      `json:"mtu"`
	Mbit    int      `json:"speed_mbit,omitempty"`
	Address []string `json:"addresses"`
}

// here describes this run of the program.
func (f *probeFlags) here(groups []netip.AddrPort) hereJSON {
	j := hereJSON{Event: "start", Version: version, Machine: machine(), Kernel: kernel(), Command: os.Args, TTL: f.ttl.n}
	for _, g := range groups {
		j.Groups = append(j.Groups, g.String())
	}
	if f.returnAddr.IsValid() {
		j.Return = f.returnAddr.String()
	}
	return j
}

// describeInterface is what the system says of an interface (Documentation/ABI/testing/sysfs-class-net).
func describeInterface(name string) *ifaceJSON {
	i, err := mcast.Interface(name)
	if err != nil {
		return nil
	}
	j := &ifaceJSON{Name: i.Name, MTU: i.MTU, Driver: "virtual", Address: []string{}}
	dir := filepath.Join("/sys/class/net", i.Name)
	if to, err := os.Readlink(filepath.Join(dir, "device", "driver")); err == nil {
		j.Driver = filepath.Base(to)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "speed")); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
			j.Mbit = n
		}
	}
	all, _ := i.Addrs()
	for _, a := range all {
		j.Address = append(j.Address, a.String())
	}
	return j
}

func (j *ifaceJSON) String() string {
	if j == nil {
		return "-"
	}
	s := fmt.Sprintf("%s (%s), MTU %d", j.Name, j.Driver, j.MTU)
	if j.Mbit > 0 {
		s += fmt.Sprintf(", %d Mbit/s", j.Mbit)
	}
	if len(j.Address) > 0 {
		s += ", " + j.Address[0]
	}
	return s
}

// begin says where and what is measured.
func (f *probeFlags) begin(j hereJSON) {
	if f.json {
		f.print(j)
		return
	}
	say := func(what, text string) {
		if text != "" {
			fmt.Fprintf(f.stdout, "%-10s %s\n", what, oneLine(text))
		}
	}
	say("machine", fmt.Sprintf("%s, %s, castdeck %s", j.Machine, j.Kernel, j.Version))
	groups := j.Groups[0]
	if n := len(j.Groups); n > 1 {
		groups = fmt.Sprintf("%d groups, %s to %s", n, j.Groups[0], j.Groups[n-1])
	}
	say("groups", fmt.Sprintf("%s, ttl %d", groups, j.TTL))
	if j.Sender != nil {
		say("sender", j.Sender.String())
	}
	if j.Receiver != nil {
		say("receiver", j.Receiver.String())
	}
	if j.Buffer > 0 {
		say("buffer", fmt.Sprintf("%s granted of %s", formatSize(int64(j.Buffer)), formatSize(j.BufferAsked)))
	}
	if len(j.Receivers) > 0 {
		say("answered", strings.Join(j.Receivers, ", "))
	}
	say("command", commandLine(j.Command))
	for _, e := range j.Equivalent {
		say("on 2 hosts", e)
	}
	fmt.Fprintln(f.stdout)
}

// commandLine writes a command as it can be typed.
func commandLine(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if strings.ContainsAny(a, " '\"\\$*?;&|<>()[]{}~#!`") || a == "" {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	if len(quoted) > 0 {
		quoted[0] = filepath.Base(args[0])
	}
	return strings.Join(quoted, " ")
}

// timesJSON are times in ns; null where there are none.
type timesJSON struct {
	Count int64   `json:"count"`
	Min   int64   `json:"min"`
	P50   int64   `json:"p50"`
	P90   int64   `json:"p90"`
	P99   int64   `json:"p99"`
	P999  int64   `json:"p999"`
	Max   int64   `json:"max"`
	Mean  float64 `json:"mean"`
}

func times(l probe.Latency) *timesJSON {
	if l.Count == 0 {
		return nil
	}
	return &timesJSON{l.Count, l.Min, l.P50, l.P90, l.P99, l.P999, l.Max, l.Mean}
}

// sentJSON is what a step sent.
type sentJSON struct {
	Datagrams    uint64            `json:"datagrams"`
	Bytes        uint64            `json:"bytes"`
	Refused      uint64            `json:"refused"`
	Causes       map[string]uint64 `json:"refused_causes,omitempty"`
	RatePPS      float64           `json:"rate_pps"`
	Seconds      float64           `json:"seconds"`
	Segmented    uint64            `json:"segmented"`
	Lateness     *timesJSON        `json:"lateness_ns"`
	RoundTrip    *timesJSON        `json:"round_trip_ns,omitempty"`
	NetworkRound *timesJSON        `json:"network_round_trip_ns,omitempty"`
	Echoes       *uint64           `json:"echoes,omitempty"`
	EchoCopies   *uint64           `json:"echo_copies,omitempty"`
}

// arrivedJSON is what a receiver measured of a step.
type arrivedJSON struct {
	Receiver        string        `json:"receiver,omitempty"`
	Received        uint64        `json:"received"`
	Unique          uint64        `json:"unique"`
	Bytes           uint64        `json:"bytes"`
	Lost            uint64        `json:"lost"`
	LostOnPath      uint64        `json:"lost_on_path"`
	Drops           uint64        `json:"dropped_by_receiver"`
	LostShare       float64       `json:"lost_share"`
	Duplicates      uint64        `json:"duplicates"`
	Reordered       uint64        `json:"reordered"`
	Distance        uint64        `json:"reordered_distance,omitempty"`
	TooLate         uint64        `json:"too_late,omitempty"`
	Bursts          burstsJSON    `json:"loss_bursts"`
	OneWay          *timesJSON    `json:"one_way_ns"`
	AboveMin        *timesJSON    `json:"one_way_above_min_ns"`
	Variation       *timesJSON    `json:"delay_variation_ns,omitempty"`
	Jitter          float64       `json:"jitter_ns"`
	MaxJitter       float64       `json:"jitter_max_ns,omitempty"`
	Unstamped       uint64        `json:"without_kernel_stamp,omitempty"`
	DurationSeconds float64       `json:"duration_seconds,omitempty"`
	Streams         []arrivedJSON `json:"streams,omitempty"` // in the order of groups
}

type burstsJSON struct {
	Count   uint64       `json:"count"`
	Longest uint64       `json:"longest"`
	Lengths []lengthJSON `json:"lengths,omitempty"`
}

type lengthJSON struct {
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Bursts uint64 `json:"bursts"`
}

func countsJSON(c *probe.Counts) arrivedJSON {
	j := arrivedJSON{
		Received: c.Received, Unique: c.Unique, Bytes: c.Bytes, Lost: c.Lost, LostOnPath: c.LostOnPath(), Drops: c.Drops,
		Duplicates: c.Duplicates, Reordered: c.Reordered, Distance: c.Distance, TooLate: c.TooLate,
		Bursts: burstsJSON{Count: c.Bursts.Count, Longest: c.Bursts.Longest}, Jitter: c.Jitter, MaxJitter: c.MaxJitter,
	}
	if c.Sent > 0 {
		j.LostShare = float64(c.Lost) / float64(c.Sent)
	}
	for i, n := range c.Bursts.Lengths {
		if n > 0 {
			j.Bursts.Lengths = append(j.Bursts.Lengths, lengthJSON{1 << i, 2<<i - 1, n})
		}
	}
	return j
}

func toArrivedJSON(a *arrived) arrivedJSON {
	j := countsJSON(&a.Counts)
	if a.receiver.IsValid() {
		j.Receiver = a.receiver.String()
	}
	j.OneWay, j.AboveMin, j.Variation = times(a.OneWay), times(a.OneWay.AboveMin()), times(a.Variation)
	j.Unstamped, j.DurationSeconds = a.Unstamped, float64(a.Last-a.First)/1e9
	if len(a.Streams) > 1 {
		for i := range a.Streams {
			j.Streams = append(j.Streams, countsJSON(&a.Streams[i]))
		}
	}
	return j
}

// stepJSON is one step. Arrived has an element for each receiver that is known of.
type stepJSON struct {
	Event    string        `json:"event"`
	Run      string        `json:"run"`
	Source   string        `json:"source,omitempty"`
	Step     uint32        `json:"step"`
	Size     int           `json:"size"`
	AskedPPS float64       `json:"asked_pps"` // 0: as fast as can be
	Complete *bool         `json:"complete,omitempty"`
	Sent     *sentJSON     `json:"sent,omitempty"`
	SentSays *uint64       `json:"sent_datagrams,omitempty"` // as the sender says
	Arrived  []arrivedJSON `json:"arrived"`
}

func runName(n uint64) string { return fmt.Sprintf("%016x", n) }

// step prints a step, the n-th.
func (f *probeFlags) step(l *probeLine, n int) {
	s := &l.sent
	f.keep(s.Number, "lateness", s.Lateness, s.Took)
	f.keep(s.Number, "round-trip", s.RoundTrip, s.Took)
	f.keep(s.Number, "network-round-trip", s.Network, s.Took)
	for i := range l.arrived {
		f.keepArrived(&l.arrived[i].Arrived)
	}
	if f.json {
		j := stepJSON{Event: "step", Run: runName(s.Run), Step: s.Number, Size: s.Size, AskedPPS: s.Step.Rate, Arrived: []arrivedJSON{}}
		j.Sent = &sentJSON{
			Datagrams: s.Datagrams, Bytes: s.Bytes, Refused: s.Refused, Causes: s.Causes, RatePPS: s.Reached, Seconds: s.Took.Seconds(),
			Segmented: s.Segmented, Lateness: times(s.Lateness), RoundTrip: times(s.RoundTrip), NetworkRound: times(s.Network),
		}
		if s.RoundTrip.Count > 0 || s.EchoCopies > 0 {
			j.Sent.Echoes, j.Sent.EchoCopies = &s.Echoes, &s.EchoCopies
		}
		for i := range l.arrived {
			j.Arrived = append(j.Arrived, toArrivedJSON(&l.arrived[i]))
		}
		f.print(j)
		return
	}
	if n == 1 {
		f.row("SIZE", "ASKED", "SENT", "RATE", "PAYLOAD", "LOST", "SHARE", "BURSTS", "TWICE", "LATE", f.latencyTitle(), "p50", "p99", "max", "JITTER", "")
	}
	all := l.arrived
	if len(all) == 0 {
		all = []arrived{{}}
	}
	for i := range all {
		f.arrivedRow(s.Size, s.Step.Rate, s.Datagrams, s.Reached, &all[i], len(l.arrived) > 0)
	}
	if r := s.RoundTrip; r.Count > 0 || s.Echoes > 0 {
		fmt.Fprintf(f.stdout, "       round trip, program to program: min %s, %s; %s of %s came back\n",
			nanos(r.Min), latenessJSON{r.P50, r.P90, r.P99, r.P999, r.Max}, count(s.Echoes), count(s.Datagrams))
		if w := s.Network; w.Count > 0 {
			fmt.Fprintf(f.stdout, "       of these the network, kernel to kernel: min %s, p50 %s, p99 %s, max %s\n", nanos(w.Min), nanos(w.P50), nanos(w.P99), nanos(w.Max))
		}
	}
	if s.Refused > 0 {
		fmt.Fprintf(f.stdout, "       %s NOT SENT, refused by the kernel: %s\n", plural(s.Refused, "datagram"), causesText(s.Causes))
	}
}

func causesText(causes map[string]uint64) string {
	var parts []string
	for name, n := range causes {
		parts = append(parts, fmt.Sprintf("%s %s", name, count(n)))
	}
	return strings.Join(parts, ", ")
}

func (f *probeFlags) latencyTitle() string {
	if f.aboveMin {
		return "ABOVE MIN"
	}
	return "LATENCY"
}

// row prints cells in columns that stay where they are from line to line.
func (f *probeFlags) row(cells ...string) {
	widths := []int{5, 10, 11, 10, 12, 9, 8, 7, 7, 7, 10, 9, 9, 9, 9, 0}
	var b strings.Builder
	for i, c := range cells {
		if i > 0 {
			b.WriteString("  ")
		}
		fmt.Fprintf(&b, "%*s", widths[i], c)
	}
	fmt.Fprintln(f.stdout, strings.TrimRight(b.String(), " "))
}

// arrivedRow prints what one receiver measured of a step. known is false where nobody
// measured anything.
func (f *probeFlags) arrivedRow(size int, asked float64, sent uint64, reached float64, a *arrived, known bool) {
	cells := []string{strconv.Itoa(size), "max", count(sent), pps(reached), bitsASecond(reached * float64(size))}
	if asked > 0 {
		cells[1] = pps(asked)
	}
	if !known {
		f.row(append(cells, "unknown")...)
		return
	}
	lost := "0"
	if a.Lost > 0 {
		lost = share(float64(a.Lost) / float64(max(a.Sent, 1)))
	}
	w := a.OneWay
	least := nanos(w.Min)
	if f.aboveMin {
		w, least = w.AboveMin(), ""
	}
	note := ""
	if a.Drops > 0 {
		note = fmt.Sprintf("%s lost by the receiver's socket", count(a.Drops))
	}
	if a.receiver.IsValid() {
		note = strings.TrimSpace(note + " " + a.receiver.String())
	}
	cells = append(cells, count(a.Lost), lost, count(a.Bursts.Count), count(a.Duplicates), count(a.Reordered))
	if a.Unique == 0 {
		cells = append(cells, "-", "-", "-", "-", "-")
	} else {
		cells = append(cells, least, nanos(w.P50), nanos(w.P99), nanos(w.Max), nanos(int64(a.Jitter)))
	}
	f.row(append(cells, note)...)
}

// pps writes a rate for people.
func pps(x float64) string { return rate(uint64(math.Round(x)), time.Second) }

// bitsASecond writes bytes a second for people, as bits.
func bitsASecond(bytes float64) string { return bitrate(uint64(math.Round(bytes)), time.Second) }

// summaryJSON is the last line.
type summaryJSON struct {
	Event       string      `json:"event"`
	Steps       int         `json:"steps"`
	Sent        uint64      `json:"sent"`
	Bytes       uint64      `json:"bytes"`
	Refused     uint64      `json:"refused"`
	Unknown     uint64      `json:"unknown"`
	Received    uint64      `json:"unique"`
	Lost        uint64      `json:"lost"`
	LostOnPath  uint64      `json:"lost_on_path"`
	Drops       uint64      `json:"dropped_by_receiver"`
	Duplicates  uint64      `json:"duplicates"`
	Reordered   uint64      `json:"reordered"`
	Found       []foundJSON `json:"found,omitempty"`
	Interrupted bool        `json:"interrupted,omitempty"`
	Ignored     *ignored    `json:"ignored,omitempty"`
}

// foundJSON is the result of --ramp for one size.
type foundJSON struct {
	Size       int     `json:"size"`
	RatePPS    float64 `json:"rate_pps"`
	PayloadBit float64 `json:"payload_bits_per_second"`
	TooHighPPS float64 `json:"too_high_pps,omitempty"`
	Limit      string  `json:"limit"`
	Trials     int     `json:"trials"`
}

type ignored struct {
	Foreign     uint64 `json:"foreign"`
	Stale       uint64 `json:"stale"`
	Implausible uint64 `json:"implausible"`
	Crowded     uint64 `json:"crowded"`
}

func ignoredJSON(i probe.Ignored) *ignored { j := ignored(i); return &j }

func ignoredText(i probe.Ignored) string {
	var parts []string
	for _, p := range []struct {
		n    uint64
		what string
	}{
		{i.Foreign, "no probes"}, {i.Stale, "of a step that was over"}, {i.Implausible, "with numbers that cannot be"}, {i.Crowded, "of more runs than can be told apart"},
	} {
		if p.n > 0 {
			parts = append(parts, count(p.n)+" "+p.what)
		}
	}
	return strings.Join(parts, ", ")
}

// end prints the summary.
func (f *probeFlags) end(o *probeOutcome, i probe.Ignored) {
	c := &o.counts
	if f.json {
		j := summaryJSON{
			Event: "summary", Steps: o.steps, Sent: o.sent, Bytes: o.bytes, Refused: o.refused, Unknown: o.unknown, Received: c.Unique, Lost: c.Lost,
			LostOnPath: c.LostOnPath(), Drops: c.Drops, Duplicates: c.Duplicates, Reordered: c.Reordered, Interrupted: o.interrupted, Ignored: ignoredJSON(i),
		}
		for _, r := range o.found {
			j.Found = append(j.Found, foundJSON{r.size, r.Rate, r.Rate * float64(8*r.size), r.TooHigh, string(r.Limit), r.Trials})
		}
		f.print(j)
		return
	}
	fmt.Fprintln(f.stdout)
	for _, r := range o.found {
		what := map[probe.Limit]string{
			probe.LimitPath: "above, the path loses some", probe.LimitReceiver: "above, the receiver's socket loses some (--buffer)",
			probe.LimitSender: "this sender gets no faster", probe.LimitQueue: "above, the sending interface's queue refuses some", probe.LimitMost: "no higher rate was tried (--max-pps)",
		}[r.Limit]
		if r.Rate == 0 {
			fmt.Fprintf(f.stdout, "%5d bytes: NO RATE without loss was found in %s, down to %s\n", r.size, plural(r.Trials, "trial"), pps(r.TooHigh))
			continue
		}
		fmt.Fprintf(f.stdout, "%5d bytes: %s (%s) without loss in trials of this length; %s\n", r.size, pps(r.Rate), bitsASecond(r.Rate*float64(r.size)), what)
	}
	if len(o.found) == 0 {
		fmt.Fprintf(f.stdout, "%s sent, %s lost", count(o.sent), count(c.Lost))
		if c.Drops > 0 {
			fmt.Fprintf(f.stdout, " (%s by the receiver's socket)", count(min(c.Drops, c.Lost)))
		}
		if o.unknown > 0 {
			fmt.Fprintf(f.stdout, ", of %s nothing is known", count(o.unknown))
		}
		fmt.Fprintln(f.stdout)
	}
	if t := ignoredText(i); t != "" {
		fmt.Fprintf(f.stdout, "received and not measured: %s\n", t)
	}
	if o.interrupted {
		fmt.Fprintln(f.stdout, "interrupted: the rest was not measured")
	}
}

// probeStatsJSON is a second or so, of either side.
type probeStatsJSON struct {
	Event   string  `json:"event"`
	Side    string  `json:"side"`
	Step    uint32  `json:"step"`
	TimeNS  int64   `json:"time_ns"`
	Seconds float64 `json:"seconds"`
	// Of the sender.
	Sent    *uint64 `json:"sent,omitempty"`
	Refused *uint64 `json:"refused,omitempty"`
	Echoes  *uint64 `json:"echoes,omitempty"`
	// Of the receiver.
	Run        string     `json:"run,omitempty"`
	Received   *uint64    `json:"received,omitempty"`
	Lost       *int64     `json:"lost,omitempty"`
	Duplicates *uint64    `json:"duplicates,omitempty"`
	Reordered  *uint64    `json:"reordered,omitempty"`
	Drops      *uint64    `json:"dropped_by_receiver,omitempty"`
	OneWay     *timesJSON `json:"one_way_ns,omitempty"`
	Jitter     *float64   `json:"jitter_ns,omitempty"`
	RatePPS    float64    `json:"rate_pps"`
	PayloadBit float64    `json:"payload_bits_per_second"`
}

// interval prints what arrived in one.
func (f *probeFlags) received(i probe.Interval) {
	s := max(i.Took.Seconds(), 1e-9)
	if f.json {
		f.print(probeStatsJSON{
			Event: "stats", Side: "receiver", Step: i.Step, TimeNS: i.Start, Seconds: s, Run: runName(i.Run), Received: &i.Received, Lost: &i.Lost,
			Duplicates: &i.Duplicates, Reordered: &i.Reordered, Drops: &i.Drops, OneWay: times(i.OneWay), Jitter: &i.Jitter,
			RatePPS: float64(i.Received) / s, PayloadBit: float64(8*i.Bytes) / s,
		})
		return
	}
	if isTerminal(f.stderr) {
		fmt.Fprintf(f.stderr, "\rstep %d: %s, %s lost\x1b[K", i.Step, pps(float64(i.Received)/s), count(max(i.Lost, 0)))
	}
}

// sending prints the sender's side at each interval until the function that it returns is
// called.
func (f *probeFlags) sending(s *probe.Sender) (stop func()) {
	var last probe.Progress
	return every(f.interval.Duration, func(now time.Time, since time.Duration) {
		p := s.Progress()
		if p.Step != last.Step {
			last = probe.Progress{Step: p.Step}
		}
		sent, refused, echoes := p.Datagrams-last.Datagrams, p.Refused-last.Refused, p.Echoes-last.Echoes
		bytes := p.Bytes - last.Bytes
		last = p
		if f.json && p.Step > 0 {
			f.print(probeStatsJSON{
				Event: "stats", Side: "sender", Step: p.Step, TimeNS: now.Add(-since).UnixNano(), Seconds: since.Seconds(), Sent: &sent, Refused: &refused,
				Echoes: &echoes, RatePPS: float64(sent) / since.Seconds(), PayloadBit: float64(8*bytes) / since.Seconds(),
			})
		}
	}, func() {
		if isTerminal(f.stderr) {
			fmt.Fprint(f.stderr, "\r\x1b[K")
		}
	})
}
