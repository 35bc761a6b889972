package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"castdeck/format"
	"castdeck/recorder"
)

const (
	// maxGroupSeries bounds the label values; groups beyond count together as "other".
	maxGroupSeries = 1000
	// maxScrapers bounds the connections; more wait.
	maxScrapers = 32
)

// metrics are the counts of a recording, read when somebody asks.
type metrics struct {
	m     *monitor
	host  *hostMeter
	queue int64 // its limit in bytes
	start time.Time
	// series has the labels of each group's, and of which subscription is which.
	series [][]string
	member []int

	built, healthy, started                                   *prometheus.Desc
	received, receivedBytes, written, writtenBytes            *prometheus.Desc
	lost, passed, truncated, foreign, notUDP, joined          *prometheus.Desc
	calls, wakeups, failures                                  *prometheus.Desc
	queueBytes, queueLimit, pressure, buffer, sockets         *prometheus.Desc
	files, sealed, deleted, paused, slow                      *prometheus.Desc
	hostLost, nic                                             *prometheus.Desc
	groupReceived, groupBytes, groupLost, groupLast, groupAll *prometheus.Desc
}

func newMetrics(m *monitor, queue int64) *metrics {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("castdeck_"+name, help, labels, nil)
	}
	group := []string{"group", "source", "interface", "name"}
	return &metrics{
		m: m, queue: queue, start: time.Now(),
		built:         d("build_info", "The version of castdeck; always 1.", "version"),
		healthy:       d("healthy", "1 while recording, with everything written as it should be; /healthz has the reason otherwise."),
		started:       d("start_time_seconds", "When this recording was started, in seconds since 1970."),
		received:      d("received_datagrams_total", "Datagrams received for the groups."),
		receivedBytes: d("received_bytes_total", "Payload received for the groups."),
		written:       d("written_datagrams_total", "Datagrams in the files of the output that has the least."),
		writtenBytes:  d("written_bytes_total", "Payload in the files of the output that has the least."),
		lost:          d("lost_datagrams_total", "Datagrams for the groups that are not in the files: dropped by the kernel on our sockets, or received and not written.", "cause"),
		passed:        d("passed_datagrams_total", "Datagrams received and not written, because they came before --start-at or the trigger of --ring, or after --max-size; no loss."),
		truncated:     d("truncated_datagrams_total", "Datagrams that are in the files, but not all of their payload."),
		foreign:       d("foreign_datagrams_total", "Datagrams on sockets of several groups that were for none of them; not recorded."),
		notUDP:        d("other_packets_total", "Packets recorded with --source packet that are no whole UDP datagram."),
		joined:        d("joined_packets_total", "Packets of several datagrams (GSO, GRO) that were taken apart."),
		calls:         d("receive_calls_total", "Calls of recvmmsg, or looks at a ring, that returned something."),
		wakeups:       d("receive_wakeups_total", "Times that the receiving thread woke; stands still if it is stuck."),
		failures:      d("receive_errors_total", "Errors of receiving, each tried again."),
		queueBytes:    d("queue_bytes", "What was received and waits to be written."),
		queueLimit:    d("queue_limit_bytes", "The most that may wait, see --queue."),
		pressure:      d("pressure_ratio", "How full the queue or the fullest receive buffer is; at 1 datagrams are about to be lost."),
		buffer:        d("receive_buffer_bytes", "The receive buffer, or ring, that the kernel granted; the least one."),
		sockets:       d("sockets", "Sockets of this recording."),
		files:         d("file_bytes_total", "Bytes written to files, also of those deleted since."),
		sealed:        d("sealed_files_total", "Files that were ended and sealed."),
		deleted:       d("deleted_files_total", "Files that were deleted by --keep or for want of room."),
		paused:        d("paused", "1 while nothing is written for want of room."),
		slow:          d("disk_slow_seconds_total", "How long writes took that took half a second or more."),
		hostLost:      d("host_lost_packets_total", "What this host lost before it reached a socket, for all programs, since the start.", "cause"),
		nic:           d("interface_lost_packets_total", "What the interface lost, for all programs, since the start.", "interface", "cause"),
		groupReceived: d("group_datagrams_total", "Datagrams received for a group.", group...),
		groupBytes:    d("group_bytes_total", "Payload received for a group.", group...),
		groupLost:     d("group_lost_datagrams_total", "Datagrams dropped by the kernel for a group.", group...),
		groupLast:     d("group_last_datagram_timestamp_seconds", "When the last datagram of a group came, in seconds since 1970; 0 where none has.", group...),
		groupAll:      d("groups", "Groups that are recorded."),
	}
}

// begin gives each subscription its series, before the monitor begins. Their order is
// that of the command line, so that it is always the same groups that count together.
func (c *metrics) begin(host *hostMeter, subs []recorder.Subscription, interfaces []format.Interface) {
	c.host = host
	if len(subs) == 0 { // a filter says what
		for _, i := range interfaces {
			subs = append(subs, recorder.Subscription{Interface: i.Name})
		}
	}
	found := map[string]int{}
	for _, s := range subs {
		labels := []string{"", "", oneLine(s.Interface), oneLine(s.Name)}
		if s.Group.IsValid() {
			labels[0] = s.Group.String()
		}
		if s.Source.IsValid() {
			labels[1] = s.Source.String()
		}
		key := strings.Join(labels, "\x00")
		if _, ok := found[key]; !ok && len(c.series) >= maxGroupSeries {
			labels = []string{"other", "", "", ""}
			key = strings.Join(labels, "\x00")
		}
		n, ok := found[key]
		if !ok {
			n = len(c.series)
			found[key] = n
			c.series = append(c.series, labels)
		}
		c.member = append(c.member, n)
	}
}

// Describe implements prometheus.Collector.
func (c *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.built, c.healthy, c.started, c.received, c.receivedBytes, c.written, c.writtenBytes, c.lost, c.passed, c.truncated, c.foreign, c.notUDP,
		c.joined, c.calls, c.wakeups, c.failures, c.queueBytes, c.queueLimit, c.pressure, c.buffer, c.sockets, c.files, c.sealed, c.deleted,
		c.paused, c.slow, c.hostLost, c.nic, c.groupReceived, c.groupBytes, c.groupLost, c.groupLast, c.groupAll,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	yes := func(d *prometheus.Desc, is bool) {
		if is {
			gauge(d, 1)
		} else {
			gauge(d, 0)
		}
	}
	gauge(c.built, 1, version)
	gauge(c.started, float64(c.start.UnixNano())/1e9)
	yes(c.healthy, c.m.trouble(time.Now()) == "")
	rec, files := c.m.subject()
	if rec == nil {
		return
	}
	gauge(c.groupAll, float64(len(c.member)))
	s := stats(rec)
	t := files.totals()
	counter(c.received, s.Datagrams)
	counter(c.receivedBytes, s.Bytes)
	counter(c.written, t.Datagrams)
	counter(c.writtenBytes, t.Bytes)
	counter(c.lost, s.Dropped.Kernel, "kernel")
	counter(c.lost, s.Dropped.Writer+files.lost(), "writer")
	counter(c.passed, t.Passed)
	counter(c.truncated, s.Dropped.Truncated)
	counter(c.foreign, s.Foreign)
	counter(c.notUDP, s.NotUDP)
	counter(c.joined, s.Joined)
	counter(c.calls, s.Calls)
	counter(c.wakeups, s.Wakeups)
	counter(c.failures, s.Errors)
	gauge(c.queueBytes, float64(s.QueueBytes))
	gauge(c.queueLimit, float64(c.queue))
	gauge(c.pressure, rec.Pressure())
	gauge(c.buffer, float64(s.BufferBytes))
	gauge(c.sockets, float64(s.Sockets))
	counter(c.files, uint64(files.size()))
	counts := files.fileCounts()
	counter(c.sealed, uint64(counts.Sealed))
	counter(c.deleted, uint64(counts.Deleted))
	yes(c.paused, counts.Paused)
	ch <- prometheus.MustNewConstMetric(c.slow, prometheus.CounterValue, counts.Slow.Seconds())

	h := c.host.read()
	for _, cause := range []struct {
		name string
		n    uint64
	}{
		{"bad_checksums", h.BadChecksums}, {"full_buffers", h.FullBuffers}, {"no_memory", h.NoMemory}, {"no_socket", h.NoSocket},
		{"reassembly_failures", h.Reassembly}, {"rp_filter", h.ReversePath}, {"softnet_dropped", h.Softnet},
	} {
		counter(c.hostLost, cause.n, cause.name)
	}
	for _, i := range h.Interfaces {
		name := oneLine(i.Name)
		counter(c.nic, i.Errors, name, "errors")
		counter(c.nic, i.Missed, name, "missed")
		counter(c.nic, i.FIFO, name, "fifo")
		counter(c.nic, i.Dropped, name, "dropped")
	}

	sums := make([]recorder.SubscriptionStats, len(c.series))
	for i, sub := range s.Subscriptions {
		t := &sums[c.member[i]]
		t.Datagrams += sub.Datagrams
		t.Bytes += sub.Bytes
		t.Dropped += sub.Dropped
		t.Last = max(t.Last, sub.Last)
	}
	for i, t := range sums {
		labels := c.series[i]
		counter(c.groupReceived, t.Datagrams, labels...)
		counter(c.groupBytes, t.Bytes, labels...)
		counter(c.groupLost, t.Dropped, labels...)
		gauge(c.groupLast, float64(t.Last)/1e9, labels...)
	}
}

// listenMetrics opens the address of --metrics.
func listenMetrics(address string) (net.Listener, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, usagef("--metrics %q: write an address of this host and a port, such as 127.0.0.1:9464, or 0.0.0.0:9464 for everybody who reaches this host", address)
	}
	l, err := net.Listen("tcp", a.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--metrics %s: another program listens there; name another port", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("--metrics %s: this host does not have that address", address)
	case err != nil:
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	return netutil.LimitListener(l, maxScrapers), nil
}

// serve answers on l until stop is called. All of it is read-only.
func (c *metrics) serve(l net.Listener) (stop func()) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(c, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 5 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if why := c.m.trouble(time.Now()); why != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, oneLine(why))
			return
		}
		fmt.Fprintln(w, "ok")
	})
	handler := http.Handler(mux)
	if a, err := netip.ParseAddrPort(l.Addr().String()); err == nil && a.Addr().IsLoopback() {
		handler = guardHost(l.Addr().String(), mux)
	}
	s := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // it complains about clients
	}
	go func() { _ = s.Serve(l) }()
	return func() { s.Close() }
}
