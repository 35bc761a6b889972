package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/internal/hoststat"
	"castdeck/internal/netnstest"
	"castdeck/internal/sock"
)

// recorderProcess is castdeck record in a process of its own.
type recorderProcess struct {
	cmd          *exec.Cmd
	path         string
	stdout, talk bytes.Buffer
}

// startRecorder starts one with --json, and waits until it has joined.
func startRecorder(t *testing.T, group netip.AddrPort, args ...string) *recorderProcess {
	t.Helper()
	return startRecorderBy(t, nil, group, args...)
}

// startRecorderBy starts one by a command that runs what is behind its arguments.
func startRecorderBy(t *testing.T, by []string, group netip.AddrPort, args ...string) *recorderProcess {
	t.Helper()
	p := &recorderProcess{path: filepath.Join(t.TempDir(), "x.pcapng")}
	line := slices.Concat(by, []string{"castdeck", "record", group.String(), "-o", p.path, "--json"}, args)
	p.cmd = exec.Command(line[0], line[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.talk
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	if err := waitJoined(group.Addr()); err != nil {
		t.Fatalf("%v: %s", err, p.talk.Bytes())
	}
	return p
}

func (p *recorderProcess) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// finish asks for the end and returns the summary and the exit code.
func (p *recorderProcess) finish(t *testing.T) (s recordJSON, code int) {
	t.Helper()
	p.signal(t, syscall.SIGINT)
	p.signal(t, syscall.SIGCONT)
	killed := time.AfterFunc(time.Minute, func() { p.cmd.Process.Kill() })
	defer killed.Stop()
	code, _ = exitCode(p.cmd.Wait())
	if err := json.Unmarshal(lastLine(p.stdout.Bytes()), &s); err != nil || s.Event != "summary" {
		t.Fatalf("exit code %d, no summary: %v: %s%s", code, err, p.stdout.Bytes(), p.talk.Bytes())
	}
	return s, code
}

// torrent sends numbered datagrams of one size, 8 bytes at least, to a group by lo, as
// fast as it goes.
type torrent struct {
	t      *testing.T
	sender *sock.Sender
	socket int
	dst    *sock.Sockaddr
	batch  *sock.Messages
	body   [256][]byte
	sent   uint64
}

func newTorrent(t *testing.T, group netip.AddrPort, size int) *torrent {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	f := &torrent{t: t, dst: sock.NewSockaddr(group, lo), batch: sock.NewMessages(256)}
	if f.sender, err = sock.NewSender(sock.SenderOptions{Interface: lo, Loopback: true, Segmentation: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.sender.Close() })
	for i := range f.body {
		f.body[i] = make([]byte, size)
	}
	if f.socket, _, err = f.sender.Socket(0, false); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *torrent) send(n uint64) {
	f.t.Helper()
	for n > 0 {
		k := int(min(n, 256))
		for i := range k {
			binary.BigEndian.PutUint64(f.body[i], f.sent+uint64(i))
			f.batch.Set(i, f.body[i], f.dst)
		}
		for from := 0; from < k; {
			sent, err := f.sender.Send(f.socket, f.batch, from, k)
			if err != nil {
				f.t.Fatalf("sending: %v", err)
			}
			from += sent
		}
		f.sent += uint64(k)
		n -= uint64(k)
	}
}

// quota lets a process run for a fifth of the time, by the kernel's CPU controller
// where we may, else by stopping and continuing it. done ends that.
func quota(t *testing.T, p *recorderProcess) (done func()) {
	t.Helper()
	dir := fmt.Sprintf("/sys/fs/cgroup/cpu/castdeck-test-%d", os.Getpid())
	if err := os.Mkdir(dir, 0o755); err == nil {
		write := func(name, value string) error { return os.WriteFile(filepath.Join(dir, name), []byte(value), 0) }
		err = write("cpu.cfs_period_us", "50000")
		if err == nil {
			err = write("cpu.cfs_quota_us", "10000")
		}
		if err == nil {
			err = write("cgroup.procs", fmt.Sprint(p.cmd.Process.Pid))
		}
		if err == nil {
			t.Cleanup(func() { os.Remove(dir) })
			return func() {
				write("cpu.cfs_quota_us", "-1")
			}
		}
		os.Remove(dir)
	}
	t.Log("no CPU controller to be used: stopping and continuing instead")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			p.cmd.Process.Signal(syscall.SIGSTOP)
			select {
			case <-stop:
				return
			case <-time.After(40 * time.Millisecond):
			}
			p.cmd.Process.Signal(syscall.SIGCONT)
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// TestIdentity provokes losses in every way and holds the books against each other:
// sent = recorded + lost, in the summary, in the totals of the file, and by the numbers
// in the datagrams. The last losses are behind the last datagram that is read.
func TestIdentity(t *testing.T) {
	netnstest.Require(t)
	runs, each := 12, uint64(1_000_000)
	if testing.Short() {
		runs, each = 3, 100_000
	}
	group := netip.MustParseAddrPort("239.6.7.8:6001")
	total, lost := uint64(0), uint64(0)
	for run := range runs {
		way := []string{"stopped", "small buffer", "processor quota"}[run%3]
		buffer := map[string]string{"stopped": "1MiB", "small buffer": "16KiB", "processor quota": "256KiB"}[way]
		host := hoststat.NewMeter(nil)
		p := startRecorder(t, group, "-i", "lo", "--buffer", buffer)
		f := newTorrent(t, group, 8)
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 1))
		switch way {
		case "stopped":
			for f.sent < each*8/10 {
				p.signal(t, syscall.SIGSTOP)
				f.send(1 + random.Uint64N(each/10))
				p.signal(t, syscall.SIGCONT)
				f.send(1 + random.Uint64N(each/20))
			}
		case "small buffer":
			f.send(each * 9 / 10)
		case "processor quota":
			done := quota(t, p)
			f.send(each * 9 / 10)
			done()
		}
		p.signal(t, syscall.SIGSTOP)
		f.send(each - f.sent) // more than the buffer holds: the last ones are lost
		s, code := p.finish(t)

		where := fmt.Sprintf("run %d, %s, seed %d", run, way, seed)
		if s.Datagrams+s.Dropped.Kernel != each || s.Dropped.Writer+s.Dropped.Truncated != 0 || s.Dropped.Kernel == 0 || code != exitLossy {
			t.Errorf("%s: sent %d, recorded %d, lost %d, difference %d; exit code %d, %+v", where, each, s.Datagrams, s.Dropped.Kernel,
				int64(each-s.Datagrams-s.Dropped.Kernel), code, host.Read())
		}
		if d := s.Dropped; d.KernelBuffer != d.Kernel || d.KernelChecksum+d.KernelOpen != 0 {
			t.Errorf("%s: by cause: %+v", where, d)
		}
		if checkNumbers(t, where, p.path, each, s) == each {
			t.Errorf("%s: the last datagram was recorded: nothing was lost behind it", where)
		}
		total, lost = total+each, lost+s.Dropped.Kernel
	}
	t.Logf("%d runs: %d sent, %d recorded, %d lost", runs, total, total-lost, lost)
}

// checkNumbers reads a recording of numbered datagrams: each came once, in order, and
// the file tells of as many losses as there are gaps. It returns the number behind the
// last one.
func checkNumbers(t *testing.T, where, path string, sent uint64, s recordJSON) (next uint64) {
	t.Helper()
	in, err := openFile(inputOptions{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var tally format.Tally
	gaps := uint64(0)
	err = in.each(func(b *format.Batch) error {
		tally.Add(b)
		for i := range b.Datagrams {
			n := binary.BigEndian.Uint64(b.Datagrams[i].Payload)
			if n < next || n >= sent {
				return fmt.Errorf("datagram %d after %d", n, next)
			}
			gaps += n - next
			next = n + 1
		}
		return nil
	}, func(err error) { t.Errorf("%s: %v", where, err) })
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	gaps += sent - next
	if tally.Datagrams != s.Datagrams || tally.Dropped != s.Dropped.Kernel || gaps != tally.Dropped {
		t.Errorf("%s: the file has %d datagrams and tells of %d lost, %d are missing; the summary says %d and %d",
			where, tally.Datagrams, tally.Dropped, gaps, s.Datagrams, s.Dropped.Kernel)
	}
	return next
}

// TestMemoryLimit floods a recorder whose control group allows it 256 MiB, with more than
// that: what it cannot write is lost and counted, and the kernel does not kill it.
func TestMemoryLimit(t *testing.T) {
	netnstest.Require(t)
	if testing.Short() {
		t.Skip("writes hundreds of megabytes")
	}
	const limit = 256 << 20
	dir := fmt.Sprintf("/sys/fs/cgroup/memory/castdeck-test-%d", os.Getpid())
	file, events := "memory.limit_in_bytes", "memory.oom_control"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil { // version 2
		dir = fmt.Sprintf("/sys/fs/cgroup/castdeck-test-%d", os.Getpid())
		file, events = "memory.max", "memory.events"
	}
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		t.Cleanup(func() { os.Remove(dir) })
		err = os.WriteFile(filepath.Join(dir, file), fmt.Append(nil, limit), 0)
	}
	if err != nil {
		t.Skipf("needs a control group of its own: %v", err)
	}
	group := netip.MustParseAddrPort("239.6.7.9:6001")
	enter := []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, dir}
	p := startRecorderBy(t, enter, group, "-i", "lo")
	const sent = 300_000
	f := newTorrent(t, group, 1400)
	f.send(sent)
	s, code := p.finish(t)
	killed, err := os.ReadFile(filepath.Join(dir, events))
	if err != nil || !strings.Contains(string(killed), "oom_kill 0") || code != exitOK && code != exitLossy {
		t.Errorf("exit code %d, %s: %s%v", code, events, killed, err)
	}
	if s.Datagrams+s.Dropped.Kernel != sent || s.Dropped.Writer+s.Dropped.Truncated != 0 {
		t.Errorf("sent %d: %+v", sent, s)
	}
	checkNumbers(t, "256 MiB", p.path, sent, s)
	if talk := p.talk.String(); !strings.Contains(talk, "memory is limited to 268 MB (control group): the queue between receiving and writing has 67 MB") {
		t.Errorf("it does not say that the queue was cut: %s", talk)
	}
	peak, _ := os.ReadFile(filepath.Join(dir, "memory.max_usage_in_bytes"))
	t.Logf("%d recorded, %d lost, at most %s bytes", s.Datagrams, s.Dropped.Kernel, strings.TrimSpace(string(peak)))
}
