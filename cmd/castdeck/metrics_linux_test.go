package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"castdeck/format"
	"castdeck/internal/netnstest"
	"castdeck/recorder"
)

// address of --metrics with port 0.
func (p *child) address() string {
	p.t.Helper()
	var found []string
	eventually(p.t, "the address of the metrics", func() bool {
		found = regexp.MustCompile(`metrics at http://(\S+)/metrics`).FindStringSubmatch(p.err.String())
		return found != nil
	})
	return found[1]
}

// ask gets a page of the recording.
func (p *child) ask(method, path string, header ...string) (code int, body string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.address()+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// healthy waits until /healthz says so.
func (p *child) healthy(code int, reason string) {
	p.t.Helper()
	eventually(p.t, "/healthz: "+reason, func() bool {
		got, body := p.ask("GET", "/healthz")
		return got == code && strings.Contains(body, reason)
	})
}

// metrics are all series of the recording, as they stand in the text format.
func (p *child) metrics() map[string]float64 {
	p.t.Helper()
	code, body := p.ask("GET", "/metrics")
	if code != 200 {
		p.t.Fatalf("/metrics: %d %s", code, body)
	}
	all := map[string]float64{}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			p.t.Fatal(err)
		}
		all[line[:at]] = v
	}
	return all
}

// TestMetrics: what a scrape says is what was sent, and what the summary says.
func TestMetrics(t *testing.T) {
	netnstest.Require(t)
	const group = "239.90.1.1:5000"
	path := filepath.Join(t.TempDir(), "feed.pcapng.zst")
	groups := filepath.Join(t.TempDir(), "groups.yaml")
	if err := os.WriteFile(groups, []byte("- group: 239.90.1.2:5000\n  name: A \"line\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startRecord(t, group, "-o", path, "--metrics", "127.0.0.1:0", "--flush-interval", "10ms", "--groups-file", groups)
	p.healthy(200, "ok")
	s := newSender(t, group)
	s.send(1000, 100)
	var m map[string]float64
	eventually(t, "all counted and written", func() bool {
		m = p.metrics()
		return m["castdeck_received_datagrams_total"] == 1000 && m["castdeck_written_datagrams_total"] == 1000
	})
	for name, want := range map[string]float64{
		"castdeck_received_bytes_total": 100_000, "castdeck_written_bytes_total": 100_000, "castdeck_healthy": 1, "castdeck_groups": 2,
		`castdeck_lost_datagrams_total{cause="kernel"}`: 0, `castdeck_lost_datagrams_total{cause="writer"}`: 0, "castdeck_paused": 0,
		`castdeck_group_datagrams_total{group="239.90.1.1:5000",interface="lo",name="",source=""}`:                           1000,
		`castdeck_group_bytes_total{group="239.90.1.1:5000",interface="lo",name="",source=""}`:                               100_000,
		`castdeck_group_last_datagram_timestamp_seconds{group="239.90.1.2:5000",interface="lo",name="A \"line\"",source=""}`: 0,
		`castdeck_build_info{version="` + version + `"}`:                                                                     1,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s is %v, %v; want %v", name, got, ok, want)
		}
	}
	last := m[`castdeck_group_last_datagram_timestamp_seconds{group="239.90.1.1:5000",interface="lo",name="",source=""}`]
	if d := time.Since(time.UnixMilli(int64(last * 1000))); d < 0 || d > time.Minute {
		t.Errorf("the last datagram was %v ago", d)
	}
	if m["process_resident_memory_bytes"] == 0 || m["castdeck_file_bytes_total"] == 0 || m["castdeck_receive_wakeups_total"] == 0 {
		t.Errorf("%v", m)
	}
	for _, c := range []struct {
		method, path string
		header       []string
		code         int
	}{
		{"GET", "/metrics", []string{"Host", "evil.example"}, 403}, // DNS rebinding
		{"GET", "/healthz", []string{"Origin", "http://evil.example"}, 403},
		{"POST", "/metrics", nil, 405},
		{"GET", "/", nil, 404},
		{"GET", "/debug/pprof/", nil, 404},
	} {
		if code, body := p.ask(c.method, c.path, c.header...); code != c.code {
			t.Errorf("%s %s %v: %d %q, want %d", c.method, c.path, c.header, code, body, c.code)
		}
	}

	// A second one that wants the port says so before it joins or writes anything.
	second := startProcess(t, "", exec.Command("castdeck", "record", "239.90.1.3:5000", "-i", "lo", "-o", path+".2.pcapng.zst", "--metrics", p.address()))
	if code, _ := second.wait(); code != exitFailed || second.err.String() != "castdeck: --metrics "+p.address()+": another program listens there; name another port\n" {
		t.Errorf("exit code %d: %s", code, second.err.String())
	}
	if _, err := os.Stat(path + ".2.pcapng.zst"); err == nil {
		t.Error("it has made a file")
	}
	p.signal(syscall.SIGINT)
	if code, sum := p.wait(); code != exitOK || sum.Datagrams != 1000 {
		t.Errorf("exit code %d, %+v", code, sum)
	}
	if conn, err := net.Dial("tcp", p.address()); err == nil {
		conn.Close()
		t.Error("it still answers")
	}
}

// TestMetricsByFilter: without groups there is a series for each interface.
func TestMetricsByFilter(t *testing.T) {
	netnstest.Require(t)
	p := startProcess(t, "", exec.Command("castdeck", "record", "-i", "lo", "--source", "packet", "--filter", "udp dst port 5001",
		"-o", filepath.Join(t.TempDir(), "feed.pcapng"), "--metrics", "127.0.0.1:0", "--json"))
	p.healthy(200, "ok")
	s := newSender(t, "239.90.5.1:5001")
	s.send(50, 100)
	eventually(t, "all counted", func() bool {
		return p.metrics()[`castdeck_group_datagrams_total{group="",interface="lo",name="",source=""}`] == 50
	})
	p.signal(syscall.SIGINT)
	if code, sum := p.wait(); code != exitOK || sum.Datagrams != 50 {
		t.Errorf("exit code %d, %+v: %s", code, sum, p.err.String())
	}
}

// TestSlowScrapers: clients that send nothing, or a header that never ends, are dropped,
// and do not keep others from the metrics for longer.
func TestSlowScrapers(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for 5 s")
	}
	t.Parallel()
	l, err := listenMetrics("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer newMetrics(new(monitor), 1).serve(l)()
	begin := time.Now()
	var conns []net.Conn
	for i := range 2 * maxScrapers {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
				t.Fatal(err)
			}
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns[:maxScrapers] {
		_ = conn.SetDeadline(begin.Add(30 * time.Second))
		if b, err := io.ReadAll(conn); err != nil {
			t.Fatalf("not dropped: %v, %q", err, b)
		}
	}
	if d := time.Since(begin); d < 4*time.Second {
		t.Errorf("dropped after %v", d)
	}
	res, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 503 || string(b) != "not recording yet\n" {
		t.Errorf("%d %q", res.StatusCode, b)
	}
}

// TestMetricNames: they are as Prometheus wants them, and there are no more series than
// stated, however many groups there are.
func TestMetricNames(t *testing.T) {
	netnstest.Require(t)
	const many = maxGroupSeries + 50
	var subs []recorder.Subscription
	for i := range many {
		subs = append(subs, recorder.Subscription{Group: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 91, byte(i >> 8), byte(i)}), 5000), Interface: "lo", Name: "a\xff\x1b\n"})
	}
	rec, err := recorder.Listen(subs, recorder.Options{Buffer: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Close()
	m := new(monitor)
	c := newMetrics(m, 1<<20)
	c.begin(meterOf(subs), subs, rec.Interfaces())
	m.begin(rec, &recordFiles{f: new(recordFlags)})
	problems, err := testutil.CollectAndLint(c)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "castdeck_") {
			t.Errorf("%s", f.GetName())
		}
		if strings.HasPrefix(f.GetName(), "castdeck_group_") {
			found++
			if n := len(f.Metric); n != maxGroupSeries+1 {
				t.Errorf("%s has %d series", f.GetName(), n)
			}
			if others := f.Metric[maxGroupSeries].String(); !strings.Contains(others, "other") {
				t.Errorf("%s: no series for the others: %v", f.GetName(), others)
			}
		}
	}
	if found != 4 {
		t.Errorf("%d families by group", found)
	}
}

// TestMonitor: a disk that hangs, and a receive loop that stands still, by a clock of the
// test's own.
func TestMonitor(t *testing.T) {
	netnstest.Require(t)
	const group = "239.90.2.1:5000"
	ctx, end := context.WithCancel(t.Context())
	files, rec, disk := hungRecording(t, group, end)
	m := new(monitor)
	if why := m.trouble(time.Now()); why != "not recording yet" {
		t.Errorf("before: %q", why)
	}
	m.begin(rec, files)
	// Nobody runs the loop yet.
	now := time.Now()
	m.look(now)
	if why := m.trouble(now); why != "" || !m.alive(now) {
		t.Errorf("at first: %q", why)
	}
	now = now.Add(stillAfter)
	m.look(now)
	if why := m.trouble(now); why != "receiving has stood still for 10s" || m.alive(now) {
		t.Errorf("a loop that does not run: %q, alive %v", why, m.alive(now))
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = files.runRecorder(ctx, rec, files, func() error { return nil })
	}()
	s := newSender(t, group)
	// The loop comes round without traffic too.
	calls := rec.Stats().Wakeups
	eventually(t, "it comes round", func() bool { return rec.Stats().Wakeups >= calls+2 })
	now = now.Add(stillAfter)
	m.look(now)
	if why := m.trouble(now); why != "" || !m.alive(now) {
		t.Errorf("a loop that runs: %q, alive %v", why, m.alive(now))
	}
	caught := func() bool {
		select {
		case <-disk.caught:
			return true
		default:
			return false
		}
	}
	eventually(t, "a queue before a disk that hangs", func() bool { s.send(200, 1000); return caught() && rec.Stats().QueueBytes > 0 })
	m.look(now)
	rounds := rec.Stats().Wakeups
	eventually(t, "it comes round", func() bool { return rec.Stats().Wakeups > rounds })
	now = now.Add(stillAfter + time.Second)
	m.look(now)
	if why := m.trouble(now); !strings.HasPrefix(why, "the disk has not answered for ") || !m.alive(now) {
		t.Errorf("a disk that hangs: %q, alive %v", why, m.alive(now))
	}
	// Whoever asks gets an answer all the same.
	c := newMetrics(m, 1)
	subs := []recorder.Subscription{{Interface: "lo"}}
	c.begin(meterOf(subs), subs, nil)
	if n := testutil.CollectAndCount(c, "castdeck_healthy", "castdeck_written_datagrams_total"); n != 2 {
		t.Errorf("%d series", n)
	}
	m.enter(ending)
	if why := m.trouble(now); why != "the recording ends" {
		t.Errorf("at the end: %q", why)
	}
	end()
	close(disk.free)
	<-done
	if err := rec.Close(); err != nil {
		t.Error(err)
	}
}

func TestMetricsAddress(t *testing.T) {
	for _, address := range []string{":9464", "9464", "localhost:9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "unix:/x"} {
		if l, err := listenMetrics(address); err == nil {
			l.Close()
			t.Errorf("%s was taken", address)
		}
	}
	if _, err := listenMetrics("192.0.2.1:9464"); err == nil || err.Error() != "--metrics 192.0.2.1:9464: this host does not have that address" {
		t.Errorf("%v", err)
	}
	// Named explicitly, any address will do, and any name in the request.
	l, err := listenMetrics("0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer newMetrics(new(monitor), 1).serve(l)()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	req, _ := http.NewRequest("GET", "http://127.0.0.1:"+port+"/metrics", nil)
	req.Host = "recorder.example:9464"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 200 || !strings.Contains(string(b), "castdeck_healthy 0\n") {
		t.Errorf("%d %s", res.StatusCode, b)
	}
}

// TestStatisticsOnUSR1: at once, in words or as a line of JSON.
func TestStatisticsOnUSR1(t *testing.T) {
	netnstest.Require(t)
	const group = "239.90.3.1:5000"
	p := startRecord(t, group, "-o", filepath.Join(t.TempDir(), "a.pcapng.zst"))
	s := newSender(t, group)
	s.send(100, 100)
	eventually(t, "statistics", func() bool {
		p.signal(syscall.SIGUSR1)
		list := p.events("stats")
		return len(list) > 0 && *list[len(list)-1].Datagrams == 100
	})
	q := startProcess(t, "239.90.3.2:5000", exec.Command("castdeck", "record", group, "239.90.3.2:5000", "-i", "lo", "-o", filepath.Join(t.TempDir(), "b.pcapng.zst")))
	s.send(200, 100)
	line := regexp.MustCompile(`(?m)^castdeck: 200 datagrams, 20 kB payload in \d+s, \S+ k?/s on average; 0 lost, 0 cut short; queue \S+ k?B of 256MiB, \S+ k?B on disk; nothing came for 1 of 2 groups$`)
	eventually(t, "a line", func() bool { q.signal(syscall.SIGUSR1); return line.MatchString(q.err.String()) })
	for _, c := range []*child{p, q} {
		c.signal(syscall.SIGTERM)
		if code, _ := c.wait(); code != exitOK {
			t.Errorf("exit code %d: %s", code, c.err.String())
		}
	}
}

// TestRecordJSONKeys: every line is an object with an event; statistics and the summary
// have the fixed keys, and the summary is the last line.
func TestRecordJSONKeys(t *testing.T) {
	netnstest.Require(t)
	const group = "239.90.4.1:5000"
	p := startRecord(t, group, "-o", filepath.Join(t.TempDir(), "feed.pcapng.zst"), "--interval", "10ms", "--silence", "10ms", "--rotate", "100datagrams")
	s := newSender(t, group)
	eventually(t, "events", func() bool {
		s.send(150, 100)
		return len(p.events("stats")) > 3 && len(p.events("segment")) > 0
	})
	eventually(t, "silence", func() bool { return len(p.events("silent")) > 0 })
	p.signal(syscall.SIGINT)
	if code, _ := p.wait(); code != exitOK {
		t.Fatalf("exit code %d: %s", code, p.err.String())
	}
	lines := slices.Collect(strings.Lines(p.out.String()))
	for i, line := range lines {
		var j map[string]any
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		event, _ := j["event"].(string)
		if (event == "summary") != (i == len(lines)-1) || event == "" {
			t.Errorf("line %d of %d is %q", i, len(lines), event)
		}
		if event != "stats" && event != "summary" {
			continue
		}
		for _, key := range []string{"datagrams", "bytes", "dropped", "duration_seconds", "buffer_bytes"} {
			if _, ok := j[key]; !ok {
				t.Errorf("no %s in %s", key, line)
			}
		}
		dropped, _ := j["dropped"].(map[string]any)
		for _, key := range []string{"kernel", "writer", "truncated"} {
			if _, ok := dropped[key].(float64); !ok {
				t.Errorf("no dropped.%s in %s", key, line)
			}
		}
		if event == "summary" {
			segments, _ := j["segments"].([]any)
			if len(segments) < 2 {
				t.Fatalf("%s", line)
			}
			for _, key := range []string{"path", "datagrams", "bytes", "file_bytes"} {
				if _, ok := segments[0].(map[string]any)[key]; !ok {
					t.Errorf("no %s in %v", key, segments[0])
				}
			}
		}
	}
}

// TestTotalsKeepTheirOutput: counts that are read while the writer is at work are of the
// output that still works; a counter that shrinks is a reset to Prometheus.
func TestTotalsKeepTheirOutput(t *testing.T) {
	netnstest.Require(t)
	dir := t.TempDir()
	f := &recordFlags{stdout: new(lockedBuffer), stderr: new(lockedBuffer), sync: "none", sourceFlags: sourceFlags{source: "socket", timestamps: "kernel"}}
	f.outputs, f.trigger = []string{filepath.Join(dir, "a.pcap"), filepath.Join(dir, "b.pcap")}, "SIGUSR2"
	subs := []recorder.Subscription{{Group: netip.MustParseAddrPort("239.90.6.1:5000"), Interface: "lo"}}
	files, err := f.newFiles(subs, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	rec, err := recorder.Listen(subs, recorder.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Close()
	if err := files.begin(rec, 0, func() {}); err != nil {
		t.Fatal(err)
	}
	b := &format.Batch{Datagrams: []format.Datagram{{Time: 1e18, Src: netip.MustParseAddrPort("127.0.0.1:1"), Dst: subs[0].Group, Payload: []byte("x"), Length: 1}}}
	write := func() {
		if err := files.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
	}
	write()
	files.sinks[0].fail(errors.New("a test"))
	write()
	if n := files.totals().Datagrams; n != 2 {
		t.Errorf("%d datagrams", n)
	}
	files.mu.Lock() // as during a write
	if n := files.totals().Datagrams; n != 2 {
		t.Errorf("%d datagrams while it is written", n)
	}
	files.mu.Unlock()
}
