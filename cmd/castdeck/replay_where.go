package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/mcast"
	"castdeck/replayer"
)

// whereFlags say where a replay's datagrams go, and from where.
type whereFlags struct {
	mappings []string
	to       string
	ttl      ttlValue
	dscp     int
	source   string
	raw      bool
	offsets  []string

	input inputOptions
}

// whereHelp is the part of the help on several captures.
const whereHelp = `A mapping can be for one of several PATHs, in the order of the command line, and
so can be an offset in time: --map in2:OLD=NEW, --offset in2:+5ms. OLD and NEW are a
group, group:port, a range, a prefix, 239.1.1.*, :port, or * for everything; behind
NEW may stand another interface, TTL and DSCP: 239.1.1.1=239.2.1.1%eth2,ttl=4,dscp=46.

With --raw the recorded frames are sent (CAP_NET_RAW), with their sources, VLAN tags
and fragments; --map, --ttl and --dscp change them, and checksums are mended.`

// notUDP is what --allow names packets of --raw that are not UDP.
const notUDP = "not-udp"

func (w *whereFlags) add(fl *pflag.FlagSet) {
	w.ttl.n = 1
	fl.StringArrayVar(&w.mappings, "map", nil, "send to other destinations: `OLD=NEW[%IFACE][,ttl=N][,dscp=N]` (repeatable; first match)")
	fl.StringVar(&w.to, "to", "", "send everything that no --map is about to this `HOST:PORT`, such as a test environment's")
	fl.Var(&w.ttl, "ttl", "time to live, 1 to 255; 1 does not pass a router; keep (with --raw): as recorded")
	fl.IntVar(&w.dscp, "dscp", 0, "class of service, 0 to 63 (46 is expedited forwarding); with --raw 0 keeps the recorded one")
	fl.StringVar(&w.source, "source", "own", "`own|keep`: send from the interface's address, or from the recorded one (CAP_NET_ADMIN); with --raw, of the MAC address")
	fl.BoolVar(&w.raw, "raw", false, "send the recorded frames, not just their payloads (CAP_NET_RAW)")
	fl.StringArrayVar(&w.offsets, "offset", nil, "move the N-th PATH in time against the others: `inN:+5ms` (repeatable)")
}

// ttlValue is --ttl.
type ttlValue struct {
	n    int
	keep bool
}

func (v *ttlValue) Set(s string) error {
	if s == "keep" {
		v.keep = true
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n == 0 {
		return fmt.Errorf("%q: 1 to 255, or keep", s)
	}
	*v = ttlValue{n: int(n)}
	return nil
}

func (v *ttlValue) String() string {
	if v.keep {
		return "keep"
	}
	return strconv.Itoa(v.n)
}
func (*ttlValue) Type() string { return "N" }

// apply puts the flags into the options of a replay of so many PATHs.
func (w *whereFlags) apply(ctx context.Context, o *replayer.Options, paths int) error {
	o.TTL, o.KeepTTL, o.DSCP, o.Raw = w.ttl.n, w.ttl.keep, w.dscp, w.raw
	switch w.source {
	case "own":
	case "keep":
		o.KeepSource = true
	default:
		return usagef("--source %q: own or keep", w.source)
	}
	if n := len(o.Allow); n > 0 {
		o.Allow = slices.DeleteFunc(slices.Clone(o.Allow), func(s string) bool { return s == notUDP })
		o.RawNotUDP = len(o.Allow) < n
	}
	switch {
	case w.dscp < 0 || w.dscp > 63:
		return usagef("--dscp %d: 0 to 63", w.dscp)
	case w.ttl.keep && !w.raw:
		return usagef("--ttl keep needs --raw: a socket has one TTL for all")
	case o.RawNotUDP && !w.raw:
		return usagef("--allow %s needs --raw: other packets than UDP are sent as frames only", notUDP)
	case o.RawNotUDP && len(o.Only) > 0:
		return usagef("--allow %s and --only: what is not UDP belongs to no group", notUDP)
	case w.raw && o.Loopback:
		return usagef("--raw and --loopback: frames go out of the interface only (on lo they arrive all the same)")
	case w.raw && w.to != "":
		return usagef("--raw and --to: a frame to a host needs the host's MAC address; leave out --raw")
	}
	for _, s := range w.mappings {
		m, err := replayer.ParseMapping(s)
		if err != nil {
			return usagef("--map: %v", err)
		}
		if err := m.ForFrames(); w.raw && err != nil {
			return usagef("--map: %v", err)
		}
		if m.Input() > paths {
			return usagef("--map %s: there is no PATH number %d", s, m.Input())
		}
		o.Map = append(o.Map, m)
	}
	w.input = inputOptions{keepFragments: w.raw}
	for _, s := range w.offsets {
		if err := w.addOffset(s, paths); err != nil {
			return usagef("--offset %s: %v", s, err)
		}
	}
	if w.to == "" {
		return nil
	}
	var err error
	o.To, err = resolve(ctx, w.to)
	return err
}

// addOffset reads inN:+5ms.
func (w *whereFlags) addOffset(s string, paths int) error {
	n, text, err := replayer.CutInput(s)
	switch {
	case err != nil:
		return err
	case n == 0:
		return errors.New("which PATH? write in1:+5ms, in2:-5ms and so on")
	case n > paths:
		return fmt.Errorf("there is no PATH number %d", n)
	case paths == 1:
		return errors.New("a single PATH cannot be moved against others")
	}
	d, err := time.ParseDuration(text)
	if err != nil || d.Abs() > 100*365*24*time.Hour {
		return errors.New("write a time with its sign and unit, such as in2:+5ms or in2:-1.5s")
	}
	for len(w.input.offsets) < n {
		w.input.offsets = append(w.input.offsets, 0)
	}
	w.input.offsets[n-1] = int64(d)
	return nil
}

// resolve reads HOST:PORT and looks a name up, once; IPv4 goes first.
func resolve(ctx context.Context, s string) (to netip.AddrPort, err error) {
	host, port, err := net.SplitHostPort(s)
	number, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || number == 0 || host == "" {
		return to, usagef("--to %q: write HOST:PORT, such as 10.1.2.3:5000, [2001:db8::1]:5000 or test.example:5000", s)
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		ctx, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return to, fmt.Errorf("--to %s: no address for this name: %w; write the address itself", s, err)
		}
		a = all[0].Unmap()
		if i := slices.IndexFunc(all, func(a netip.Addr) bool { return a.Unmap().Is4() }); i >= 0 {
			a = all[i].Unmap()
		}
	}
	if a = a.Unmap(); a.Zone() != "" {
		return to, usagef("--to %s: leave out %%%s, -i names the interface", s, a.Zone())
	}
	return netip.AddrPortFrom(a, uint16(number)), nil
}

// beingRecorded are patterns of the destinations that a recorder writes into the input
// at the moment.
func (in *input) beingRecorded(streams []format.Stream) (patterns []string, err error) {
	for _, path := range in.unsealed() {
		busy, err := segment.BeingWritten(path)
		if err != nil {
			return nil, err
		}
		if !busy {
			continue
		}
		s, err := segment.Inspect(path, segmentOptions())
		if err != nil {
			return nil, err
		}
		for _, text := range s.Info.Subscriptions {
			groups, err := mcast.Parse(text)
			if err != nil {
				continue // what is recorded by a filter has no groups
			}
			for _, g := range groups {
				patterns = append(patterns, g.Group.String())
			}
		}
		const most = 4096 // that a file keeps
		if n := len(s.Info.Subscriptions); n > 0 && n < most {
			continue
		}
		for _, st := range streams {
			patterns = append(patterns, st.Dst.String())
		}
	}
	slices.Sort(patterns)
	return slices.Compact(patterns), nil
}

// ethernet leaves the frames of other link types out: a datagram is then sent in a
// frame of its own.
type ethernet struct {
	format.BatchReader
	interfaces func() []format.Interface
}

func (e ethernet) ReadBatch(b *format.Batch) error {
	if err := e.BatchReader.ReadBatch(b); err != nil {
		return err
	}
	list := e.interfaces()
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if int(d.Interface) >= len(list) || list[d.Interface].LinkType != format.LinkTypeEthernet {
			d.Frame, d.FrameLength = nil, 0
		}
	}
	return nil
}

// explainWhere adds the way out where a privilege is missing.
func (w *whereFlags) explain(err error) error {
	if err == nil || !errors.Is(err, syscall.EPERM) {
		return err
	}
	switch {
	case w.raw:
		return fmt.Errorf("--raw needs CAP_NET_RAW: run as root, or setcap cap_net_raw+ep on this program (%w)", err)
	case w.source == "keep":
		return fmt.Errorf("--source keep needs CAP_NET_ADMIN or CAP_NET_RAW: run as root, or setcap cap_net_admin+ep on this program (%w)", err)
	}
	return err
}

// viaOf is how datagrams leave, as far as it is not by the interface alone.
func viaOf(w replayer.Way) string {
	s := oneLine(w.Interface)
	if w.TTL != 1 {
		s += fmt.Sprintf(" ttl=%d", w.TTL)
	}
	if w.DSCP != 0 {
		s += fmt.Sprintf(" dscp=%d", w.DSCP)
	}
	return s
}

// byWay says how much went which way, where there were several.
func byWay(r replayer.Report) (lines []string) {
	var ways []replayer.Way
	datagrams := make(map[replayer.Way]uint64)
	for _, d := range r.Destinations {
		if !slices.Contains(ways, d.Way) {
			ways = append(ways, d.Way)
		}
		datagrams[d.Way] += d.Datagrams
	}
	if len(ways) < 2 {
		return nil
	}
	for _, w := range ways {
		lines = append(lines, fmt.Sprintf("by %s: %s", viaOf(w), plural(datagrams[w], "datagram")))
	}
	return lines
}

// planJSON is a line of replay --dry-run --json.
type planJSON struct {
	Source      string  `json:"source"`
	Recorded    string  `json:"recorded"`
	Destination string  `json:"destination"`
	Input       int     `json:"input"`
	Interface   string  `json:"interface"`
	TTL         int     `json:"ttl"`
	DSCP        int     `json:"dscp"`
	Datagrams   uint64  `json:"datagrams"`
	Bytes       uint64  `json:"bytes"`
	AveragePPS  float64 `json:"average_pps"`
	PeakPPS     float64 `json:"peak_pps"`
	AverageBits float64 `json:"average_bits_per_second"`
	PeakBits    float64 `json:"peak_bits_per_second"`
	Action      string  `json:"action"`
	Reason      string  `json:"reason,omitempty"`
}

// plan is --dry-run: it reads the input once and lists what would go where.
func (f *replayFlags) plan(paths []string, o replayer.Options) error {
	in, err := f.open(paths, math.MinInt64)
	if err != nil {
		return err
	}
	defer in.(round).Close()
	s, err := replayer.Look(in, o)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(f.stdout, 0, 0, 2, ' ', 0)
	enc := json.NewEncoder(f.stdout)
	if !f.json {
		fmt.Fprintln(tw, "GOES TO\tVIA\tRECORDED FOR\tSOURCE\tDATAGRAMS\tPAYLOAD\tAVERAGE\tPEAK\tACTION")
	}
	several := slices.ContainsFunc(s.Streams, func(p *replayer.Surveyed) bool { return p.Input > 0 })
	for i, p := range s.Streams {
		if i%tableRows == tableRows-1 {
			if err := tw.Flush(); err != nil {
				return err
			}
		}
		l := planJSON{
			p.Src.String(), p.Dst.String(), p.To.String(), int(p.Input) + 1, p.Way.Interface, p.Way.TTL, p.Way.DSCP,
			p.Datagrams, p.Bytes, p.Average.Datagrams, p.Peak.Datagrams, p.Average.Bits, p.Peak.Bits, "send", "",
		}
		via := viaOf(p.Way)
		switch {
		case !p.Selected:
			l.Action, l.Destination, via = "skip", "-", "-"
		case p.Refused != nil:
			l.Action, l.Reason = "refuse", p.Refused.Reason
		}
		if f.json {
			if err := enc.Encode(l); err != nil {
				return err
			}
			continue
		}
		if several {
			l.Recorded = fmt.Sprintf("in%d:%s", l.Input, l.Recorded)
		}
		action := l.Action
		if l.Reason != "" {
			action += ": " + l.Reason
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Destination, via, l.Recorded, l.Source, count(l.Datagrams), size(l.Bytes),
			rateOf(p.Average), rateOf(p.Peak), action)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if s.Others > 0 {
		fmt.Fprintf(f.stderr, "castdeck: %s of further streams are not listed\n", plural(s.Others, "datagram"))
	}
	if s.Refused > 0 {
		return &exitError{exitGuard, fmt.Errorf("%s would be refused; see --allow, --map and --only", plural(s.Refused, "stream"))}
	}
	return nil
}

// rateOf is a rate in words, "-" where there is none.
func rateOf(r replayer.Rate) string {
	if r.Datagrams == 0 {
		return "-"
	}
	return rate(uint64(r.Datagrams*1000), 1000*time.Second) + " " + bitrate(uint64(r.Bits/8*1000), 1000*time.Second)
}
