package main

import (
	"strings"

	"github.com/spf13/pflag"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/internal/pcapfilter"
	"castdeck/recorder"
)

// sourceFlags say where datagrams and their times come from.
type sourceFlags struct {
	source      string
	filter      string
	timestamps  string
	promiscuous bool
}

func (s *sourceFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&s.source, "source", "socket", "`socket|packet`: UDP sockets, or whole frames as they came (needs CAP_NET_RAW)")
	fl.StringVar(&s.filter, "filter", "", "with --source packet: record only what meets this expression of the pcap filter `LANGUAGE`, such as 'udp and not port 5353'; without a GROUP everything on -i IFACE[,IFACE] that does")
	fl.BoolVar(&s.promiscuous, "promiscuous", false, "with --source packet: receive what is not addressed to this host, too")
	fl.StringVar(&s.timestamps, "timestamps", "kernel", "`kernel|hardware`: the clock that stamps, the kernel's or the network card's")
}

func (s *sourceFlags) packet() bool { return s.source == "packet" }

// byFilter: no groups are needed, the filter says what.
func (s *sourceFlags) byFilter() bool { return s.packet() && s.filter != "" }

func (s *sourceFlags) check() error {
	switch {
	case s.source != "socket" && s.source != "packet":
		return usagef("--source %s: write socket or packet", s.source)
	case s.timestamps != "kernel" && s.timestamps != "hardware":
		return usagef("--timestamps %s: write kernel or hardware", s.timestamps)
	case s.filter != "" && !s.packet():
		return usagef("--filter needs --source packet: a UDP socket would count what a filter leaves out as lost")
	case s.promiscuous && !s.packet():
		return usagef("--promiscuous needs --source packet: a UDP socket has only what is for this host")
	}
	if s.filter != "" {
		if _, err := pcapfilter.Parse(s.filter); err != nil {
			return usagef("--%v", err)
		}
	}
	return nil
}

// apply puts the flags into the options of a recorder of groups, or of none.
func (s *sourceFlags) apply(o *recorder.Options, groups int, iface string) error {
	o.Hardware = s.timestamps == "hardware"
	if !s.packet() {
		return nil
	}
	o.Packet = &recorder.PacketOptions{Filter: s.filter, Promiscuous: s.promiscuous, Decoder: pcapfile.NewDecoder()}
	if groups == 0 {
		if iface == "" {
			return usagef("--filter without a group: on which interface? add -i IFACE (have %s)", interfaceNames())
		}
		o.Packet.Interfaces = strings.Split(iface, ",")
	}
	return nil
}

// info adds to what a file says of its recording.
func (s *sourceFlags) info(i format.SegmentInfo, clock string) format.SegmentInfo {
	i.Clock = clock
	i.Made = !s.packet()
	if s.filter != "" {
		i.Subscriptions = append(i.Subscriptions, "filter: "+s.filter)
	}
	return i
}

// stats are a recorder's, with packets that are not UDP apart from datagrams, as in
// all that castdeck prints.
func stats(rec *recorder.Recorder) recorder.Stats {
	st := rec.Stats()
	st.Datagrams -= min(st.NotUDP, st.Datagrams)
	return st
}

// causes splits what the kernel dropped on our sockets. A ring loses for one cause
// only.
func (f *recordFlags) causes(dropped uint64) kernelDrops {
	if f.packet() {
		return kernelDrops{buffer: dropped}
	}
	return causes(dropped, &f.host)
}

// sourceLines are what people are told at the end.
func sourceLines(s recorder.Stats) (all []string) {
	if s.NotUDP > 0 {
		all = append(all, plural(s.NotUDP, "more packet")+" recorded, which are fragments or not UDP")
	}
	if s.Joined > 0 {
		all = append(all, plural(s.Joined, "packet")+" of several datagrams, joined by the kernel or the card (GSO, GRO), taken apart; of those that were lost each counts as one (ethtool -K switches it off)")
	}
	return all
}
