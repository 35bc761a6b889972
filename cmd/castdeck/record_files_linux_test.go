package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
	"castdeck/recorder"
)

// sender sends numbered datagrams to a group on lo.
type sender struct {
	t    testing.TB
	conn net.Conn
	next uint64
}

func newSender(t testing.TB, group string) *sender {
	t.Helper()
	conn, err := net.Dial("udp4", group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &sender{t: t, conn: conn}
}

// send sends n datagrams of size bytes, with a pause of 1 ms after each 50. The
// contents do not compress.
func (s *sender) send(n, size int) {
	s.t.Helper()
	b := make([]byte, size)
	for i := range n {
		x := s.next
		for j := 8; j+8 <= size; j += 8 {
			x = x*6364136223846793005 + 1442695040888963407
			binary.BigEndian.PutUint64(b[j:], x)
		}
		binary.BigEndian.PutUint64(b, s.next)
		if _, err := s.conn.Write(b); err != nil {
			s.t.Fatal(err)
		}
		s.next++
		if i%50 == 49 {
			time.Sleep(time.Millisecond) // a rate, no waiting for anything
		}
	}
}

// child is a castdeck that runs beside the test.
type child struct {
	t        testing.TB
	cmd      *exec.Cmd
	out, err lockedBuffer
	done     chan error
}

// startProcess runs a command and, where group is not empty, waits until it is joined.
func startProcess(t testing.TB, group string, cmd *exec.Cmd) *child {
	t.Helper()
	p := &child{t: t, cmd: cmd, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	if group != "" {
		if err := waitJoined(netip.MustParseAddrPort(group).Addr()); err != nil {
			t.Fatalf("%v: %s", err, p.err.String())
		}
	}
	return p
}

func startRecord(t testing.TB, group string, args ...string) *child {
	t.Helper()
	return startProcess(t, group, exec.Command("castdeck", append([]string{"record", group, "-i", "lo", "--json", "--interval", "1h"}, args...)...))
}

func (p *child) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%v: %v: %s", s, err, p.err.String())
	}
}

// wait returns the exit code and the summary.
func (p *child) wait() (code int, sum recordJSON) {
	p.t.Helper()
	select {
	case err := <-p.done:
		var ok bool
		if err != nil {
			if code, ok = exitCode(err); !ok {
				p.t.Fatal(err)
			}
		}
	case <-time.After(60 * time.Second):
		p.t.Fatalf("still running: %s%s", p.out.String(), p.err.String())
	}
	for line := range strings.Lines(p.out.String()) {
		var j recordJSON
		if json.Unmarshal([]byte(line), &j) == nil && j.Event == "summary" {
			sum = j
		}
	}
	return code, sum
}

// events of a kind that the process has printed so far.
func (p *child) events(kind string) (list []noticeJSON) {
	for line := range strings.Lines(p.out.String()) {
		var j noticeJSON
		if json.Unmarshal([]byte(line), &j) == nil && j.Event == kind {
			list = append(list, j)
		}
	}
	return list
}

// eventually waits, at most 30 s, for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// readNumbers reads what the paths name as one capture and returns the numbers in the
// payloads.
func readNumbers(t testing.TB, paths ...string) (numbers []uint64, in *input) {
	t.Helper()
	in, err := openInput(paths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	err = in.each(func(b *format.Batch) error {
		for i := range b.Datagrams {
			numbers = append(numbers, binary.BigEndian.Uint64(b.Datagrams[i].Payload))
		}
		return nil
	}, func(err error) { t.Errorf("%v: %v", paths, err) })
	if err != nil {
		t.Fatal(err)
	}
	return numbers, in
}

func checkRun(t testing.TB, numbers []uint64, first, end uint64) {
	t.Helper()
	if uint64(len(numbers)) != end-first {
		t.Fatalf("%d datagrams, want those from %d to %d", len(numbers), first, end-1)
	}
	for i, n := range numbers {
		if n != first+uint64(i) {
			t.Fatalf("place %d holds datagram %d, want %d", i, n, first+uint64(i))
		}
	}
}

// TestRecordRotates: under load, by time, count and signal, into two outputs at once;
// a command is run for every segment.
func TestRecordRotates(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.1.1:5000"
	dir, old := t.TempDir(), t.TempDir()
	log := filepath.Join(t.TempDir(), "log")
	script := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$1|$2|$CASTDECK_SEGMENT|$CASTDECK_DATAGRAMS\" >> "+log+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := startRecord(t, group, "-o", filepath.Join(dir, "feed.pcapng.zst"), "-o", filepath.Join(old, "feed-%Y%m%d-%H%M%S.pcap"),
		"--rotate", "100ms,3000datagrams", "--on-segment", script+" 'two words'")
	s := newSender(t, group)
	for range 10 {
		s.send(2000, 200)
		p.signal(syscall.SIGHUP)
	}
	p.signal(syscall.SIGINT)
	code, sum := p.wait()
	if code != exitOK || sum.Datagrams != s.next || sum.Dropped != (recordDropJSON{}) {
		t.Fatalf("exit code %d, %+v\n%s", code, sum, p.err.String())
	}
	numbers, in := readNumbers(t, dir)
	checkRun(t, numbers, 0, s.next)
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) < 10 || in.rec == nil || len(in.rec.Segments()) != len(files) {
		t.Errorf("%d files are not one recording", len(files))
	}
	pcaps, _ := filepath.Glob(filepath.Join(old, "*.pcap"))
	if len(pcaps) < 10 {
		t.Errorf("%d pcap files", len(pcaps))
	}
	numbers, _ = readNumbers(t, old)
	checkRun(t, numbers, 0, s.next)
	if len(sum.Segments) != len(files)+len(pcaps) {
		t.Errorf("%d segments in the summary, %d files", len(sum.Segments), len(files)+len(pcaps))
	}
	told, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]uint64{}
	for line := range strings.Lines(string(told)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		n, err := strconv.ParseUint(f[3], 10, 64)
		if err != nil || f[0] != "two words" || f[1] != f[2] {
			t.Fatalf("the command got %q", line)
		}
		byPath[f[1]] = n
	}
	for _, seg := range sum.Segments {
		if n, ok := byPath[seg.Path]; !ok || n != seg.Datagrams {
			t.Errorf("%s with %d datagrams: the command was told %d, %v", seg.Path, seg.Datagrams, n, ok)
		}
	}
}

// TestHookFails: commands that fail, hang or leave children do not hold up anything,
// and are counted.
func TestHookFails(t *testing.T) {
	var mu sync.Mutex
	var failed []string
	run := func(command string, n int) {
		h, err := startHook(command, time.Second, &lockedBuffer{}, func(_ string, err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, err.Error())
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for range n {
			h.add(segment.Event{Path: "x"})
		}
		if d := time.Since(begin); d > 500*time.Millisecond {
			t.Errorf("%s: adding took %s", command, d)
		}
		h.close()
		if int(h.failures.Load()) != len(failed) {
			t.Errorf("%d failures counted, %d told", h.failures.Load(), len(failed))
		}
	}
	run("false", 3)
	if len(failed) != 3 || failed[0] != "exit status 1" {
		t.Errorf("false: %q", failed)
	}
	failed = nil
	run("sh -c 'sleep 1000 & sleep 1000'", 1)
	if len(failed) != 1 || !strings.Contains(failed[0], "stopped after 1s") {
		t.Errorf("a command that hangs: %q", failed)
	}
	failed = nil
	run("sleep 1000", maxHooks+10)
	if len(failed) != maxHooks+10 {
		t.Errorf("%d of %d told", len(failed), maxHooks+10)
	}
}

func TestSplitCommand(t *testing.T) {
	for text, want := range map[string][]string{
		"a":                         {"a"},
		"  a  b\tc ":                {"a", "b", "c"},
		"a 'b c' \"d e\"":           {"a", "b c", "d e"},
		"a '' b":                    {"a", "", "b"},
		`a x'y z'w "it's" '"'`:      {"a", "xy zw", "it's", `"`},
		"a $HOME `b` ; c && d * \\": {"a", "$HOME", "`b`", ";", "c", "&&", "d", "*", `\`},
	} {
		if got, err := splitCommand(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "  ", "a 'b", `"`} {
		if got, err := splitCommand(bad); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

// inTmpfs runs castdeck record in a mount namespace where dir is a tmpfs of 1 MiB with
// ballast bytes in it; what it left there is copied to out. The test sees the tmpfs
// through the process.
func inTmpfs(t *testing.T, group, dir, out string, ballast int, args ...string) *child {
	t.Helper()
	if err := exec.Command("unshare", "-m", "true").Run(); err != nil {
		t.Skipf("no mount namespace: %v", err)
	}
	script := `set -e; d=$1 o=$2; n=$3; shift 3
mount --make-rprivate /; mount -t tmpfs -o size=1m none "$d"; head -c "$n" /dev/zero > "$d/ballast"
set +e; castdeck "$@"; c=$?; rm -f "$d/ballast"; cp -a "$d/." "$o/"; exit $c`
	all := append([]string{"-m", "sh", "-c", script, "sh", dir, out, strconv.Itoa(ballast), "record", group, "-i", "lo", "--json", "--interval", "1h"}, args...)
	return startProcess(t, group, exec.Command("unshare", all...))
}

// TestOnFull: the three policies on a full tmpfs, with a real recorder.
func TestOnFull(t *testing.T) {
	netnstest.Require(t)
	t.Run("stop", func(t *testing.T) {
		const group = "239.88.2.1:5000"
		dir, out := t.TempDir(), t.TempDir()
		p := inTmpfs(t, group, dir, out, 100_000, "-o", filepath.Join(dir, "feed.pcapng"), "--rotate", "200kB", "--flush-interval", "10ms")
		s := newSender(t, group)
		for i := 0; i < 400 && len(p.done) == 0; i++ {
			s.send(10, 1000)
		}
		code, sum := p.wait()
		if code != exitFailed || !strings.Contains(p.err.String(), "no space left on device") || !strings.Contains(p.err.String(), "feed-0000") {
			t.Fatalf("exit code %d: %s", code, p.err.String())
		}
		numbers, _ := readNumbers(t, out)
		if sum.Datagrams == 0 || uint64(len(numbers)) != sum.Datagrams {
			t.Errorf("%d can be read, %+v", len(numbers), sum)
		}
		checkRun(t, numbers, 0, uint64(len(numbers)))
		if got := sum.Datagrams + sum.Dropped.Writer + sum.Dropped.Kernel; got > s.next {
			t.Errorf("recorded + lost = %d, only %d were sent", got, s.next)
		}
	})
	t.Run("delete-oldest", func(t *testing.T) {
		const group = "239.88.2.2:5000"
		dir, out := t.TempDir(), t.TempDir()
		p := inTmpfs(t, group, dir, out, 100_000, "-o", filepath.Join(dir, "feed.pcapng"), "--rotate", "100kB",
			"--on-full", "delete-oldest", "--count", "3000")
		s := newSender(t, group)
		s.send(3000, 1000)
		code, sum := p.wait()
		if code != exitOK || sum.Datagrams != 3000 || sum.SegmentsDeleted == 0 || len(p.events("deleted")) != sum.SegmentsDeleted {
			t.Fatalf("exit code %d, %+v: %s", code, sum, p.err.String())
		}
		numbers, _ := readNumbers(t, out)
		if len(numbers) < 300 {
			t.Errorf("only %d datagrams are left", len(numbers))
		}
		checkRun(t, numbers, 3000-uint64(len(numbers)), 3000)
	})
	t.Run("pause", func(t *testing.T) {
		const group = "239.88.2.3:5000"
		dir, out := t.TempDir(), t.TempDir()
		p := inTmpfs(t, group, dir, out, 700_000, "-o", filepath.Join(dir, "feed.pcapng"), "--rotate", "100kB",
			"--on-full", "pause", "--flush-interval", "10ms", "--metrics", "127.0.0.1:0")
		s := newSender(t, group)
		p.healthy(200, "ok")
		eventually(t, "paused", func() bool { s.send(20, 1000); return len(p.events("paused")) > 0 })
		p.healthy(503, "nothing is written for want of room")
		if n := p.metrics()["castdeck_paused"]; n != 1 {
			t.Errorf("castdeck_paused is %v", n)
		}
		s.send(500, 1000) // lost, and counted
		if err := os.Remove(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "root", dir, "ballast")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "goes on", func() bool { return len(p.events("resumed")) > 0 })
		p.healthy(200, "ok")
		s.send(300, 1000)
		running, err := exec.Command("pgrep", "-P", strconv.Itoa(p.cmd.Process.Pid), "-x", "castdeck").Output()
		if err != nil {
			t.Skipf("pgrep: %v", err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(running)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		code, sum := p.wait()
		if code != exitLossy || sum.Dropped.Writer < 500 || sum.Datagrams+sum.Dropped.Writer+sum.Dropped.Kernel != s.next {
			t.Fatalf("exit code %d, %d sent, %+v: %s", code, s.next, sum, p.err.String())
		}
		numbers, in := readNumbers(t, out)
		if uint64(len(numbers)) != sum.Datagrams || numbers[len(numbers)-1] != s.next-1 {
			t.Errorf("%d can be read, the last is %d of %d", len(numbers), numbers[len(numbers)-1], s.next)
		}
		all, err := in.summarize(false)
		if err != nil {
			t.Fatal(err)
		}
		if all.tally.Datagrams+all.tally.Dropped != s.next {
			t.Errorf("the files hold %d and tell %d lost; %d sent", all.tally.Datagrams, all.tally.Dropped, s.next)
		}
	})
}

// TestRecordKilled: SIGKILL under load costs no sealed segment and nothing that was
// flushed; the next run goes on without being asked to.
func TestRecordKilled(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.3.1:5000"
	dir := t.TempDir()
	args := []string{"-o", filepath.Join(dir, "feed.pcapng.zst"), "--rotate", "50ms", "--flush-interval", "5ms"}
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	paths := 0
	for round := range rounds {
		p := startRecord(t, group, args...)
		s := newSender(t, group)
		eventually(t, "segments", func() bool { s.send(100, 300); return len(p.events("segment")) >= 4 })
		p.signal(syscall.SIGKILL)
		<-p.done
		sealed := p.events("segment")
		files, _ := filepath.Glob(filepath.Join(dir, "feed-*"))
		if len(files) < paths+4 {
			t.Fatalf("round %d: %d files after %d", round, len(files), paths)
		}
		numbers, _ := readQuietly(t, files[paths:]...)
		for i, n := range numbers {
			if n != uint64(i) {
				t.Fatalf("round %d: place %d holds %d", round, i, n)
			}
		}
		told := uint64(0)
		for _, e := range sealed {
			told += *e.Datagrams
		}
		if uint64(len(numbers)) < told {
			t.Errorf("round %d: %d can be read, %d were sealed", round, len(numbers), told)
		}
		paths = len(files)
		if err := waitLeft(netip.MustParseAddrPort(group).Addr()); err != nil {
			t.Fatal(err)
		}
	}
}

// readQuietly is readNumbers of a recording that was cut off.
func readQuietly(t testing.TB, paths ...string) (numbers []uint64, damage int) {
	t.Helper()
	in, err := openInput(paths...)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.each(func(b *format.Batch) error {
		for i := range b.Datagrams {
			numbers = append(numbers, binary.BigEndian.Uint64(b.Datagrams[i].Payload))
		}
		return nil
	}, func(error) { damage++ }); err != nil {
		t.Fatal(err)
	}
	return numbers, damage
}

// TestSecondRecorder: the same names are refused, other names are not.
func TestSecondRecorder(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.4.1:5000"
	dir := t.TempDir()
	p := startRecord(t, group, "-o", filepath.Join(dir, "feed.pcapng.zst"), "--rotate", "1h")
	second := startRecord(t, "239.88.4.2:5000", "-o", filepath.Join(dir, "other.pcapng.zst"), "--rotate", "1h")
	third := startProcess(t, "", exec.Command("castdeck", "record", "239.88.4.3:5000", "-i", "lo", "-o", filepath.Join(dir, "feed.pcapng.zst"), "--rotate", "1h"))
	if code, _ := third.wait(); code != exitFailed || !strings.Contains(third.err.String(), "another castdeck is writing") {
		t.Errorf("exit code %d: %s", code, third.err.String())
	}
	for _, p := range []*child{p, second} {
		p.signal(syscall.SIGTERM)
		if code, _ := p.wait(); code != exitOK {
			t.Errorf("exit code %d: %s", code, p.err.String())
		}
	}
}

// TestNobodyRecords: no privilege is needed; a folder that becomes read-only ends the
// recording at the next file, with what was written before.
func TestNobodyRecords(t *testing.T) {
	netnstest.Require(t)
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	const group = "239.88.5.1:5000"
	base, err := os.MkdirTemp("", "castdeck-nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir := filepath.Join(base, "data")
	self, err := exec.LookPath("castdeck")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(base, "castdeck")
	if err := errors.Join(os.Chmod(base, 0o755), os.Mkdir(dir, 0o755), os.Chown(dir, 65534, 65534), os.WriteFile(copied, program, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "record", group, "-i", "lo", "--json", "--interval", "1h",
		"-o", filepath.Join(dir, "feed.pcapng.zst"), "--rotate", "1000datagrams")
	cmd.Dir = base
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	p := startProcess(t, group, cmd)
	s := newSender(t, group)
	s.send(2500, 200)
	eventually(t, "two segments and a third file", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "feed-*"))
		return len(p.events("segment")) == 2 && len(files) == 3
	})
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 1000 && len(p.done) == 0; i++ {
		s.send(10, 200)
	}
	code, sum := p.wait()
	if code != exitFailed || !strings.Contains(p.err.String(), "no permission to write in "+dir) {
		t.Errorf("exit code %d: %s", code, p.err.String())
	}
	numbers, _ := readNumbers(t, dir)
	if len(numbers) != 3000 || sum.Datagrams != 3000 {
		t.Errorf("%d can be read, %+v", len(numbers), sum)
	}
	checkRun(t, numbers, 0, uint64(len(numbers)))
}

// TestOneOutputFails: it takes the other one not down, and is not kept quiet about.
func TestOneOutputFails(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.6.1:5000"
	dir, other := filepath.Join(t.TempDir(), "data"), t.TempDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := startRecord(t, group, "-o", filepath.Join(dir, "feed.pcapng.zst"), "-o", filepath.Join(other, "feed.pcap"), "--rotate", "500datagrams", "--metrics", "127.0.0.1:0")
	s := newSender(t, group)
	s.send(500, 200)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	s.send(1500, 200)
	eventually(t, "told", func() bool { return len(p.events("output-failed")) == 1 })
	p.healthy(503, "feed.pcapng.zst takes no more: ")
	s.send(500, 200)
	p.signal(syscall.SIGINT)
	code, sum := p.wait()
	if code != exitFailed || sum.Datagrams != s.next || !strings.Contains(p.err.String(), dir) {
		t.Errorf("exit code %d, %+v: %s", code, sum, p.err.String())
	}
	numbers, _ := readNumbers(t, other)
	checkRun(t, numbers, 0, s.next)
}

// TestRing: nothing is written before the signal, and then also what came before it.
func TestRing(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.7.1:5000"
	dir := t.TempDir()
	p := startRecord(t, group, "-o", filepath.Join(dir, "feed.pcapng.zst"), "--ring", "1h,2MiB", "--duration", "2s")
	s := newSender(t, group)
	s.send(4000, 1000) // more than 2 MiB
	if files, _ := filepath.Glob(filepath.Join(dir, "feed*")); len(files) > 0 {
		t.Errorf("before the signal there is %v", files)
	}
	p.signal(syscall.SIGUSR2)
	eventually(t, "triggered", func() bool { return len(p.events("triggered")) == 1 })
	s.send(500, 1000)
	p.signal(syscall.SIGUSR2)
	code, sum := p.wait() // --duration counts from the trigger
	if code != exitOK || sum.PassedBy == nil || *sum.PassedBy == 0 || sum.Datagrams+*sum.PassedBy != s.next || sum.Dropped != (recordDropJSON{}) {
		t.Fatalf("exit code %d, %+v: %s", code, sum, p.err.String())
	}
	numbers, _ := readNumbers(t, dir)
	checkRun(t, numbers, *sum.PassedBy, s.next)
	if len(numbers) < 1000 {
		t.Errorf("only %d datagrams", len(numbers))
	}
	if n := len(p.events("trigger-ignored")); n != 1 {
		t.Errorf("the second signal was told %d times", n)
	}
}

// TestStartAtAndMaxSize: nothing before the time, and an orderly end at the size.
func TestStartAtAndMaxSize(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.8.1:5000"
	dir := t.TempDir()
	at := time.Now().Add(1500 * time.Millisecond)
	p := startRecord(t, group, "-o", filepath.Join(dir, "feed.pcapng"), "--start-at", at.UTC().Format(time.RFC3339Nano), "--max-size", "300kB")
	s := newSender(t, group)
	for i := 0; len(p.done) == 0; i++ {
		if i == 10_000 {
			t.Fatal("does not end")
		}
		s.send(20, 1000)
	}
	code, sum := p.wait()
	if code != exitOK || sum.PassedBy == nil || sum.Dropped != (recordDropJSON{}) || sum.Datagrams == 0 {
		t.Fatalf("exit code %d, %+v: %s", code, sum, p.err.String())
	}
	in, err := openInput(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if first, ok := in.start(); !ok || first < at.UnixNano() {
		t.Errorf("begins %v before the time", time.Duration(at.UnixNano()-first))
	}
	if size := sum.Segments[0].FileBytes; size < 300_000 || size > 1_200_000 {
		t.Errorf("%d bytes on disk", size)
	}
}

// hungDisk does not come back from writing until free is closed; caught is closed when
// that begins.
type hungDisk struct {
	segment.FS
	free, caught chan struct{}
	catch        func()
}

func newHungDisk() *hungDisk {
	d := &hungDisk{FS: segment.OS, free: make(chan struct{}), caught: make(chan struct{})}
	d.catch = sync.OnceFunc(func() { close(d.caught) })
	return d
}

func (d *hungDisk) Create(path string, overwrite bool) (segment.File, error) {
	f, err := d.FS.Create(path, overwrite)
	return hungFile{f, d}, err
}

type hungFile struct {
	segment.File
	d *hungDisk
}

func (f hungFile) WriteAt(p []byte, off int64) (int, error) {
	if off > 0 {
		f.d.catch()
		<-f.d.free
	}
	return f.File.WriteAt(p, off)
}

// hungRecording has joined a group and writes to a disk that hangs.
func hungRecording(t *testing.T, group string, end func()) (files *recordFiles, rec *recorder.Recorder, disk *hungDisk) {
	t.Helper()
	disk = newHungDisk()
	f := &recordFlags{stdout: &lockedBuffer{}, stderr: &lockedBuffer{}, sync: "none", sourceFlags: sourceFlags{source: "socket", timestamps: "kernel"}}
	f.outputs, f.stuckAfter, f.trigger = []string{filepath.Join(t.TempDir(), "feed.pcapng")}, 500*time.Millisecond, "SIGUSR2"
	subs := []recorder.Subscription{{Group: netip.MustParseAddrPort(group), Interface: "lo"}}
	files, err := f.newFiles(subs, end)
	if err != nil {
		t.Fatal(err)
	}
	o, err := files.seriesOptions(files.sinks[0], segment.SyncNone)
	if err != nil {
		t.Fatal(err)
	}
	o.FS = disk
	if files.sinks[0].series, err = segment.OpenSeries(o); err != nil {
		t.Fatal(err)
	}
	if rec, err = recorder.Listen(subs, recorder.Options{FlushInterval: 10 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if err := files.begin(rec, 0, func() {}); err != nil {
		t.Fatal(err)
	}
	return files, rec, disk
}

// TestDiskHangs: receiving goes on while the disk does not answer, and the end does not
// wait for it for ever.
func TestDiskHangs(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.9.1:5000"
	ctx, end := context.WithCancel(t.Context())
	defer end()
	files, rec, disk := hungRecording(t, group, end)
	type result struct {
		err   error
		stuck bool
	}
	done := make(chan result, 1)
	go func() {
		err, stuck := files.runRecorder(ctx, rec, files, func() error { return nil })
		done <- result{err, stuck}
	}()
	s := newSender(t, group)
	s.send(3000, 1000)
	eventually(t, "received while the disk hangs", func() bool { return rec.Stats().Datagrams == s.next })
	end()
	select {
	case r := <-done:
		if !r.stuck || r.err == nil || !strings.Contains(r.err.Error(), "has not answered") {
			t.Errorf("%v, stuck %v", r.err, r.stuck)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the end waits for the disk")
	}
	if n := files.totals(); n.Datagrams != 0 {
		t.Errorf("%d count as written", n.Datagrams)
	}
	close(disk.free)
	if err := rec.Close(); err != nil {
		t.Error(err)
	}
}
