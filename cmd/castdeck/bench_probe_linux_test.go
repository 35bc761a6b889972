package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"castdeck/internal/netnstest"
)

// probeFaults installs nftables rules for the data datagrams of probes that arrive at rx,
// known by their magic number, version and kind, until the test ends.
func probeFaults(t *testing.T, rx, rules string) (hits func() uint64) {
	t.Helper()
	count := netnstest.Faults(t, rx, "meta l4proto udp @th,64,40 0x4344504201 @th,104,8 1", rules, "hit")
	return func() uint64 { t.Helper(); return count("hit") }
}

// jsonLines are the lines of --json by their event.
func jsonLines(t *testing.T, b []byte) map[string][]json.RawMessage {
	t.Helper()
	all := map[string][]json.RawMessage{}
	for l := range bytes.Lines(b) {
		var e struct{ Event string }
		if err := json.Unmarshal(l, &e); err != nil || e.Event == "" {
			t.Fatalf("%v: %s", err, l)
		}
		all[e.Event] = append(all[e.Event], json.RawMessage(bytes.Clone(l)))
	}
	return all
}

func decode[T any](t *testing.T, b json.RawMessage) (v T) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return v
}

// TestBenchPath: bench path over a path that loses and doubles says what nftables
// counted, by size and group, with its exit code.
func TestBenchPath(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	hits := probeFaults(t, rx, "numgen inc mod 40 7 counter name hit drop")
	var out, talk bytes.Buffer
	hlog := filepath.Join(t.TempDir(), "h.hlog")
	args := []string{"bench", "path", "239.90.1.1:5090", "--groups", "2", "-i", tx, "--receive-interface", rx, "--pps", "20kpps", "--sizes", "64,1000",
		"--count", "2000", "--interval", "20ms", "--gso", "off", "--hlog", hlog, "--json"}
	code := run(context.Background(), args, nil, &out, &talk)
	if code != exitLossy || talk.Len() > 0 {
		t.Fatalf("exit code %d\n%s%s", code, &out, &talk)
	}
	lines := jsonLines(t, out.Bytes())
	if len(lines["start"]) != 1 || len(lines["step"]) != 2 || len(lines["summary"]) != 1 || len(lines["stats"]) < 4 || len(lines) != 4 {
		t.Fatalf("%s", &out)
	}
	start := decode[hereJSON](t, lines["start"][0])
	if len(start.Groups) != 2 || start.Sender.Name != tx || start.Receiver.Name != rx || start.Sender.MTU != 1500 || start.Kernel == "" || start.Machine == "" ||
		start.Buffer == 0 || start.BufferAsked != 64<<20 || len(start.Equivalent) != 2 || start.TTL != 1 {
		t.Errorf("%s", lines["start"][0])
	}
	lost := hits()
	var sum, fromStats uint64
	for i, size := range []int{64, 1000} {
		s := decode[stepJSON](t, lines["step"][i])
		a := s.Arrived[0]
		if a.Drops > 0 {
			t.Skipf("the machine is too busy: %d drops", a.Drops)
		}
		if s.Size != size || s.AskedPPS != 20e3 || s.Sent.Datagrams != 2000 || a.Lost == 0 || a.Unique+a.Lost != 2000 || a.LostOnPath != a.Lost || a.Bursts.Count == 0 ||
			a.OneWay.Count != int64(a.Unique) || a.AboveMin.Min != 0 || len(a.Streams) != 2 || a.Streams[0].Unique+a.Streams[1].Unique != a.Unique || a.Duplicates+a.Reordered != 0 {
			t.Errorf("%s", lines["step"][i])
		}
		sum += a.Lost
	}
	for _, l := range lines["stats"] {
		if s := decode[probeStatsJSON](t, l); s.Side == "sender" {
			fromStats += *s.Sent
		}
	}
	if e := decode[summaryJSON](t, lines["summary"][0]); sum != lost || e.Lost != lost || e.Sent != 4000 || e.Unknown != 0 || fromStats > 4000 || fromStats == 0 {
		t.Errorf("%d were dropped, the steps lost %d, %d sent by the intervals; %s", lost, sum, fromStats, lines["summary"][0])
	}
	log, err := os.ReadFile(hlog)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"one-way-step-1", "delay-variation-step-2", "lateness-step-2"} {
		if !bytes.Contains(log, []byte("Tag="+tag+",")) {
			t.Errorf("no %s in\n%s", tag, log)
		}
	}
	// The same as a table, and what is put up with.
	out.Reset()
	if code := run(context.Background(), append(args[:len(args)-1], "--loss", "5%", "--above-min"), nil, &out, &talk); code != exitOK {
		t.Errorf("exit code %d with --loss 5%%: %s%s", code, &out, &talk)
	}
	for _, want := range []string{"machine ", "64MiB granted of 64MiB", "castdeck bench send 239.90.1.1:5090 --groups 2 -i " + tx, "4,000 sent, 100 lost", "ABOVE MIN"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

// TestBenchSendReceive: two processes that know of each other only by the group; then one
// that is interrupted, and says what it measured until then.
func TestBenchSendReceive(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	group := "239.90.2.1:5090"
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := func(out *bytes.Buffer, args ...string) *exec.Cmd {
		cmd := exec.Command(self, args...)
		cmd.Args[0] = "castdeck"
		cmd.Stdout, cmd.Stderr = out, out
		return cmd
	}
	var heard bytes.Buffer
	receive := command(&heard, "bench", "receive", group, "-i", rx, "--echo", "--json")
	if err := receive.Start(); err != nil {
		t.Fatal(err)
	}
	defer receive.Process.Kill()
	if err := waitJoined(netip.MustParseAddrPort(group).Addr()); err != nil {
		t.Fatal(err)
	}
	var out, talk bytes.Buffer
	code := run(context.Background(), []string{"bench", "send", group, "-i", tx, "--pps", "10kpps,20kpps", "--count", "1000", "--echo", "--json"}, nil, &out, &talk)
	lines := jsonLines(t, out.Bytes())
	if talk.Len() > 0 || len(lines["step"]) != 2 {
		t.Fatalf("exit code %d: %s%s", code, &out, &talk)
	}
	for _, l := range lines["step"] {
		s := decode[stepJSON](t, l)
		if len(s.Arrived) != 1 || s.Arrived[0].Receiver == "" || s.Arrived[0].Unique+s.Arrived[0].Drops != 1000 || s.Sent.RoundTrip == nil || *s.Sent.Echoes > 1000 {
			t.Errorf("%s", l)
		}
	}
	if e := decode[summaryJSON](t, lines["summary"][0]); e.Sent != 2000 || e.Unknown != 0 || (code != exitOK) != (e.Lost > 0) {
		t.Errorf("exit code %d, %s", code, lines["summary"][0])
	}

	var cut bytes.Buffer
	send := command(&cut, "bench", "send", group, "-i", tx, "--duration", "1h", "--interval", "10ms", "--json")
	stdout := &lockedBuffer{}
	send.Stdout = stdout
	if err := send.Start(); err != nil {
		t.Fatal(err)
	}
	defer send.Process.Kill()
	eventually(t, "something is sent", func() bool {
		text := stdout.String()
		for _, l := range jsonLines(t, []byte(text[:strings.LastIndexByte(text, '\n')+1]))["stats"] {
			if s := decode[probeStatsJSON](t, l); s.Side == "sender" && *s.Sent > 0 {
				return true
			}
		}
		return false
	})
	_ = send.Process.Signal(syscall.SIGINT)
	if code, ok := exitCode(send.Wait()); !ok || code != exitLossy {
		t.Errorf("exit code %d after an interrupt: %s", code, &cut)
	}
	lines = jsonLines(t, []byte(stdout.String()))
	e := decode[summaryJSON](t, lines["summary"][0])
	if !e.Interrupted || e.Sent == 0 || e.Received+e.Lost != e.Sent || len(lines["step"]) != 1 {
		t.Errorf("%s", stdout)
	}

	_ = receive.Process.Signal(syscall.SIGINT)
	err = receive.Wait()
	lines = jsonLines(t, heard.Bytes())
	r := decode[summaryJSON](t, lines["summary"][0])
	if r.Steps != 3 || r.Sent != 2000+e.Sent || r.Ignored.Foreign > 0 || (err != nil) != (r.Lost > 0) {
		t.Errorf("%v: %s", err, &heard)
	}
	for _, l := range lines["step"] {
		if s := decode[stepJSON](t, l); !*s.Complete || s.Source == "" || *s.SentSays == 0 {
			t.Errorf("%s", l)
		}
	}
}

// TestBenchRamp: the search through the command, with a path that lets so much through.
func TestBenchRamp(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	probeFaults(t, rx, "limit rate over 3000/second burst 20 packets counter name hit drop")
	var out, talk bytes.Buffer
	code := run(context.Background(), []string{"bench", "path", "-i", tx, "--receive-interface", rx, "--pps", "500pps", "--ramp", "--accuracy", "30%", "--duration", "100ms", "--json"}, nil, &out, &talk)
	e := decode[summaryJSON](t, jsonLines(t, out.Bytes())["summary"][0])
	if len(e.Found) == 1 && e.Found[0].Limit == "sender" {
		t.Skipf("the machine is too busy: %s", &out)
	}
	if len(e.Found) != 1 || e.Found[0].Limit != "path" || e.Found[0].RatePPS >= 3000*1.25 || e.Found[0].TooHighPPS <= e.Found[0].RatePPS {
		t.Fatalf("%+v\n%s%s", e.Found, &out, &talk)
	}
	if want := exitOK; code != want && e.Found[0].RatePPS > 0 {
		t.Errorf("exit code %d", code)
	}
}
