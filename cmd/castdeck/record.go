package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"castdeck/format"
	"castdeck/internal/hoststat"
	"castdeck/internal/mcast"
	"castdeck/recorder"
)

type recordFlags struct {
	iface       string
	groupsFiles []string
	sourceFlags
	fileFlags

	compress string
	sync     string
	duration durationValue
	interval durationValue
	flush    durationValue
	silence  durationValue
	count    countValue
	buffer   sizeValue
	queue    sizeValue
	force    bool
	json     bool

	failLoss bool

	view    string
	metrics string

	meter   *hostMeter
	host    hoststat.Losses // as it was read last
	monitor monitor
	service *service
	console *console

	asked chan os.Signal // USR1 and SIGWINCH

	stdin          io.Reader
	stdout, stderr io.Writer // nobody waits for whoever reads these
}

func recordCmd() *cobra.Command {
	f := &recordFlags{
		duration: durationValue{min: time.Millisecond, max: forever},
		interval: durationValue{Duration: time.Second, min: 10 * time.Millisecond, max: time.Hour},
		flush:    durationValue{Duration: time.Second, min: time.Millisecond, max: time.Hour},
		silence:  durationValue{Duration: 10 * time.Second, max: 24 * time.Hour},
		buffer:   sizeValue{bytes: 64 << 20, min: 4 << 10, max: 1 << 30},
		queue:    sizeValue{bytes: 256 << 20, min: 4 << 20, max: 1 << 40},
	}
	cmd := &cobra.Command{
		Use:   "record [GROUP...] -i IFACE -o PATH",
		Short: "Join multicast groups and record them",
		Long: `Join multicast groups and record every datagram with the kernel's timestamp,
until --duration or --count is reached or a signal (INT, TERM) asks for the end;
what the kernel still holds then is recorded too, and the file is sealed.

GROUP is [source@]group:port[%iface], an address or port range such as
239.1.1.1-239.1.1.16:5000-5003, [ff3e::1]:5000%eth0, or udp:// and rtp:// URLs;
with several sources 10.0.0.1,10.0.0.2@232.1.1.1:5000. Unicast and broadcast to
this machine: udp://0.0.0.0:5000, one own address, or 255.255.255.255:5000; a
unicast port must be free, because two programs cannot both have its datagrams.

With --source packet the frames are recorded as they came, VLAN tags, fragments
and all; what the host itself sends is not, but on lo. A datagram in fragments is
several packets there, and one with a wrong UDP checksum is recorded.

A --groups-file has a GROUP a line, with # comments, or is YAML. A --config file
is YAML with a key for each long flag, and groups.

With --rotate, or a time in the name, it writes one file after the other; HUP
begins the next one. Without, HUP ends the recording.

What the kernel dropped because castdeck could not keep up is counted, in the
file and in the summary; exit code 3 then. A recording that is cut off (kill -9,
power) is readable up to its last whole chunk, without repair.`,
		Example: `  castdeck record 239.1.1.1:5000 -i eth0 -o feed.pcapng.zst
  castdeck record 239.1.1.1-239.1.1.16:5000 -i eth0 -o morning.pcapng.zst --duration 10m
  castdeck record 10.0.0.1@232.1.1.1:5000 -i eth0 -o one.pcap --count 1000 --json
  castdeck record --groups-file feeds.txt -i eth0 -o feeds.pcapng.zst
  castdeck record -i eth0 --source packet --filter 'udp or igmp' -o all.pcapng.zst
  castdeck record 239.1.1.1:5000 -i eth0 -o 'feed-%Y%m%d-%H.pcapng.zst' --rotate 1h --keep 7d --min-free 10GB
  castdeck record --config production.yaml`,
		Args: argsN(0, -1, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := newTalker(cmd.OutOrStdout(), func(n int) []byte { return fmt.Appendf(nil, "{\"event\":\"omitted\",\"lines\":%d}\n", n) })
			f.console = newConsole(cmd.ErrOrStderr(), f.view, f.json && isTerminal(cmd.OutOrStdout()))
			f.stdin, f.stdout, f.stderr = cmd.InOrStdin(), out, f.console
			if limit, ok := hoststat.MemoryLimit(); ok {
				f.fitMemory(limit, cmd.Flags().Changed("queue"))
			}
			ctx, stop := endOn(cmd.Context(), syscall.SIGINT, syscall.SIGTERM) // HUP: see recordFiles.work
			defer stop()
			defer f.watchSignals()()
			err := f.run(ctx, args)
			switch terr := out.close(f.stuckAfter); {
			case errors.Is(terr, errNobodyReads):
				fmt.Fprintf(f.stderr, "castdeck: standard output has not been read for %s; what was said last is lost\n", f.stuckAfter)
			case err == nil:
				err = terr
			}
			if terr := f.console.close(f.stuckAfter); err == nil && !errors.Is(terr, errNobodyReads) {
				err = terr
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.iface, "interface", "i", "", "network interface to join on: name, index or own address")
	fl.StringArrayVar(&f.groupsFiles, "groups-file", nil, "read more groups from this `FILE`: one a line, or YAML; - is stdin (repeatable)")
	f.fileFlags.addFlags(fl)
	fl.StringVar(&f.compress, "compress", "", "`zstd|gzip|none|auto`; auto goes by the file's name, else zstd; under pressure chunks are stored whatever it says")
	fl.StringVar(&f.sync, "sync", "segment", "make data durable: `none|segment|interval` (at the end, or at each flush too)")
	fl.Var(&f.duration, "duration", "stop after this long, such as 10m")
	fl.Var(&f.count, "count", "stop after exactly this many datagrams")
	fl.Var(&f.buffer, "buffer", "receive buffer to ask the kernel for, per socket; with --source packet the ring of each interface")
	fl.Var(&f.queue, "queue", "memory between receiving and writing")
	fl.Var(&f.flush, "flush-interval", "write what was received at least this often")
	fl.Var(&f.silence, "silence", "report a group that nothing came for in so long, once, with what to check; 0 is never")
	fl.Var(&f.interval, "interval", "how often to report statistics")
	f.sourceFlags.add(fl)
	fl.BoolVar(&f.force, "force", false, "overwrite the output file")
	fl.BoolVar(&f.failLoss, "fail-on-loss", false, "exit code 3 also where the host lost something before our sockets, for whatever program: wrong checksums, failed reassembly, rp_filter, full backlog, interface errors")
	fl.StringVar(&f.view, "view", "auto", "`auto|full|line|off`: what a terminal shows meanwhile; auto is full where there is room, else line")
	fl.StringVar(&f.metrics, "metrics", "", "answer Prometheus on this `ADDRESS`, such as 127.0.0.1:9464: /metrics and /healthz")
	fl.BoolVar(&f.json, "json", false, "print statistics and the summary as JSON lines")
	return cmd
}

// subscriptions reads the GROUP arguments and appends them to groups; each multicast group has an interface
// afterwards.
func subscriptions(args []string, groups []mcast.Group, iface string) ([]recorder.Subscription, error) {
	for _, a := range args {
		more, err := mcast.Parse(a)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		groups = append(groups, more...)
	}
	var subs []recorder.Subscription
	seen := map[recorder.Subscription]bool{}
	names := map[string]string{} // of interfaces, as they are written
	for _, g := range groups {
		if g.Interface == "" {
			g.Interface = iface
		}
		if g.Interface == "" && g.Group.Addr().IsMulticast() {
			return nil, usagef("%s: on which interface? add -i IFACE (have %s)", g, interfaceNames())
		}
		if g.Interface != "" && names[g.Interface] == "" {
			dev, err := mcast.Interface(g.Interface)
			if err != nil {
				return nil, err
			}
			names[g.Interface] = dev.Name
		}
		g.Interface = names[g.Interface] // one name, however it was written
		s := recorder.Subscription(g)
		s.Name = "" // a group that stands twice has the name that it has first
		if !seen[s] {
			seen[s] = true
			subs = append(subs, recorder.Subscription(g))
		}
	}
	return subs, nil
}

func interfaceNames() string {
	list, _ := net.Interfaces()
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return strings.Join(names, ", ")
}

func (f *recordFlags) run(ctx context.Context, args []string) error {
	if err := f.sourceFlags.check(); err != nil {
		return err
	}
	switch f.view {
	case "auto", "full", "line", "off":
	default:
		return usagef("--view %s: write auto, full, line or off", f.view)
	}
	if len(args)+len(f.groupsFiles) == 0 && !f.byFilter() {
		return usagef("record: name one or more groups, such as 239.1.1.1:5000, or a --groups-file")
	}
	var groups []mcast.Group
	for _, path := range f.groupsFiles {
		more, err := readGroups(path, f.stdin)
		if err != nil {
			return err
		}
		groups = append(groups, more...)
	}
	subs, err := subscriptions(args, groups, f.iface)
	if err != nil {
		return err
	}
	f.service = newService(&f.monitor)
	defer f.service.run()()
	var exposed *metrics
	if f.metrics != "" {
		l, err := listenMetrics(f.metrics)
		if err != nil {
			return err
		}
		exposed = newMetrics(&f.monitor, f.queue.bytes)
		defer exposed.serve(l)()
		if _, port, _ := net.SplitHostPort(f.metrics); port == "0" {
			fmt.Fprintf(f.stderr, "castdeck: metrics at http://%s/metrics\n", l.Addr())
		}
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	files, err := f.newFiles(subs, end)
	if err != nil {
		return err
	}
	defer files.work()()
	from, err := f.startTime(time.Now())
	if err != nil {
		files.Close()
		return err
	}
	if from != 0 {
		f.monitor.enter(waiting)
		f.service.ready("recording begins at " + time.Unix(0, from).UTC().Format(time.RFC3339))
		waitUntil(ctx, from)
	}
	o := recorder.Options{
		Buffer: int(f.buffer.bytes), Queue: f.queue.bytes, Count: uint64(f.count), FlushInterval: f.flush.Duration,
		Silence: f.silence.Duration, GiveWay: files.compress(),
		Calm: func(calm bool) {
			n := processors
			if calm {
				n = 1
			}
			runtime.GOMAXPROCS(n)
		},
	}
	if err := f.sourceFlags.apply(&o, len(subs), f.iface); err != nil {
		files.Close()
		return err
	}
	f.meter = meterOf(subs)
	rec, err := recorder.Listen(subs, o)
	if err != nil {
		files.Close()
		return err
	}
	if err := files.begin(rec, from, func() {
		if f.duration.Duration > 0 {
			time.AfterFunc(f.duration.Duration, end)
		}
	}); err != nil {
		rec.Close()
		files.Close()
		return err
	}
	if exposed != nil {
		exposed.begin(f.meter, subs, rec.Interfaces())
	}
	f.monitor.begin(rec, files)
	f.service.ready("recording " + f.what(subs))
	f.greet(rec, subs)
	return f.record(ctx, rec, files)
}

// segmentInfo says where and how the recording was made.
func segmentInfo(subs []recorder.Subscription) format.SegmentInfo {
	host, _ := os.Hostname()
	i := format.SegmentInfo{
		Host: host, Start: time.Now().UnixNano(),
	}
	for _, s := range subs {
		i.Subscriptions = append(i.Subscriptions, mcast.Group(s).String())
	}
	return i
}

func (f *recordFlags) greet(rec *recorder.Recorder, subs []recorder.Subscription) {
	if granted := rec.Stats().BufferBytes; int64(granted) < f.buffer.bytes {
		fmt.Fprintf(f.stderr, "castdeck: receive buffer: asked for %s, the kernel granted %s; raise the sysctl net.core.rmem_max or give castdeck CAP_NET_ADMIN\n",
			formatSize(f.buffer.bytes), formatSize(int64(granted)))
	}
	groups := make([]mcast.Group, len(subs))
	for i, s := range subs {
		groups[i] = mcast.Group(s)
	}
	for _, w := range groupWarnings(groups) {
		fmt.Fprintf(f.stderr, "castdeck: %s\n", w)
		if f.json {
			_ = json.NewEncoder(f.stdout).Encode(warningJSON{"warning", w})
		}
	}
	warned := map[string]bool{"": true}
	for _, s := range subs {
		if dev, err := mcast.Interface(s.Interface); err == nil && !warned[dev.Name] {
			warned[dev.Name] = true
			if err := mcast.Usable(dev); err != nil {
				fmt.Fprintf(f.stderr, "castdeck: nothing will arrive for now: %v\n", err)
			}
		}
	}
	if f.console.terminal() {
		fmt.Fprintf(f.stderr, "recording %s to %s; stop with ctrl-C\n", f.what(subs), oneLine(strings.Join(f.outputs, ", ")))
	}
}

// what is recorded, for people.
func (f *recordFlags) what(subs []recorder.Subscription) string {
	if len(subs) == 0 {
		return "what meets the filter"
	}
	return plural(len(subs), "group")
}

func (f *recordFlags) record(ctx context.Context, rec *recorder.Recorder, files *recordFiles) error {
	start := time.Now()
	defer context.AfterFunc(ctx, f.ending)()
	stop := sync.OnceFunc(f.report(ctx, rec, files, start))
	names := rec.Interfaces()
	say := &announcer{files, func(events []format.Event) { f.announce(events, names) }}
	err, stuck := files.runRecorder(ctx, rec, say, func() error {
		f.ending()
		stop()
		f.host = f.meter.read()
		return files.WriteBatch(&format.Batch{Events: []format.Event{hostEvent(&f.host)}})
	})
	if !stuck {
		rec.Close()
	}
	stop()
	s := stats(rec)
	// What a writer held when it failed is lost too.
	t := files.totals()
	s.Dropped.Writer = s.Datagrams - min(t.Datagrams+t.Passed, s.Datagrams)
	s.Datagrams, s.Bytes = t.Datagrams, t.Bytes
	for _, w := range []io.Writer{f.stdout, f.stderr} {
		if t, ok := w.(interface{ takeAll() }); ok {
			t.takeAll()
		}
	}
	if werr := f.summary(s, files, time.Since(start)); err == nil && !errors.Is(werr, syscall.EPIPE) {
		err = werr // that nobody reads our output takes nothing from the recording
	}
	if err == nil && (s.Dropped.Kernel+s.Dropped.Writer+s.Dropped.Truncated > 0 || f.failLoss && f.host.Lost() > 0) {
		return lossy
	}
	return err
}

// ending says so to whom it may concern.
func (f *recordFlags) ending() {
	f.monitor.enter(ending)
	f.service.stopping()
}

// recordJSON has the fixed keys of record --json.
type recordJSON struct {
	Event           string         `json:"event"`
	Datagrams       uint64         `json:"datagrams"`
	Bytes           uint64         `json:"bytes"`
	Dropped         recordDropJSON `json:"dropped"`
	Segments        []segmentJSON  `json:"segments,omitempty"`
	DurationSeconds float64        `json:"duration_seconds"`
	BufferBytes     int            `json:"buffer_bytes"`
	QueueBytes      int64          `json:"queue_bytes"`
	NotUDP          uint64         `json:"packets_not_udp"`
	Joined          uint64         `json:"packets_joined"`
	Host            *hostJSON      `json:"host"`
	// SegmentsOmitted are left out of Segments, the oldest ones.
	SegmentsOmitted int     `json:"segments_omitted,omitempty"`
	SegmentsDeleted int     `json:"segments_deleted,omitempty"`
	PassedBy        *uint64 `json:"passed_by,omitempty"`
	HookFailures    *uint64 `json:"on_segment_failures,omitempty"`
}

type warningJSON struct {
	Event   string `json:"event"`
	Warning string `json:"warning"`
}

type recordDropJSON struct {
	Kernel    uint64 `json:"kernel"`
	Writer    uint64 `json:"writer"`
	Truncated uint64 `json:"truncated"`
	// The kernel's by cause, as far as that can be told; they add up to Kernel.
	KernelBuffer   uint64 `json:"kernel_buffer"`
	KernelChecksum uint64 `json:"kernel_checksum"`
	KernelOpen     uint64 `json:"kernel_open"`
}

type segmentJSON struct {
	Path      string `json:"path"`
	Datagrams uint64 `json:"datagrams"`
	Bytes     uint64 `json:"bytes"`
	FileBytes int64  `json:"file_bytes"`
	Deleted   bool   `json:"deleted,omitempty"` // since, by --keep or for want of room
	Unsealed  bool   `json:"unsealed,omitempty"`
}

func (f *recordFlags) toJSON(event string, s recorder.Stats, elapsed time.Duration) recordJSON {
	k := f.causes(s.Dropped.Kernel)
	return recordJSON{
		Event: event, Datagrams: s.Datagrams, Bytes: s.Bytes,
		Dropped:         recordDropJSON{s.Dropped.Kernel, s.Dropped.Writer, s.Dropped.Truncated, k.buffer, k.checksum, k.open},
		DurationSeconds: elapsed.Seconds(), BufferBytes: s.BufferBytes, QueueBytes: s.QueueBytes,
		NotUDP: s.NotUDP, Joined: s.Joined,
		Host: toHostJSON(&f.host),
	}
}

func (f *recordFlags) summary(s recorder.Stats, files *recordFiles, elapsed time.Duration) error {
	if f.json {
		j := f.toJSON("summary", s, elapsed)
		files.addTo(&j)
		return json.NewEncoder(f.stdout).Encode(j)
	}
	for _, line := range hostLines(&f.host) {
		fmt.Fprintf(f.stderr, "castdeck: this host meanwhile, for all programs: %s\n", oneLine(line))
	}
	for _, line := range sourceLines(s) {
		fmt.Fprintf(f.stderr, "castdeck: %s\n", line)
	}
	lost := "0 lost"
	if d := s.Dropped; d.Kernel+d.Writer+d.Truncated > 0 {
		parts := f.causes(d.Kernel).lines()
		for _, p := range []struct {
			n    uint64
			what string
		}{
			{d.Writer, "received and not written"},
			{d.Truncated, "cut short"},
		} {
			if p.n > 0 {
				parts = append(parts, count(p.n)+" "+p.what)
			}
		}
		lost = "LOST: " + strings.Join(parts, ", ")
	}
	if s.Datagrams+s.NotUDP+s.Dropped.Kernel == 0 && elapsed > time.Second {
		fmt.Fprintf(f.stderr, "castdeck: nothing arrived: are group, port and interface those of the sender, does the switch forward it here (IGMP), is a firewall or rp_filter in the way?\n")
	}
	files.explain()
	_, err := fmt.Fprintf(f.stderr, "castdeck: %s: %s, %s payload, %s on disk, %.1f s, %s\n",
		oneLine(files.path()), plural(s.Datagrams, "datagram"), size(s.Bytes), size(files.size()), elapsed.Seconds(), lost)
	return err
}
