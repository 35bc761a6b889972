package sidebyside

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/internal/sock"
	"castdeck/replayer"
)

// recorderTool is a program that records, and how it is asked to.
type recorderTool struct {
	name, program string
	// one: it takes one group at a time.
	one bool
	// raw: its file holds payloads one behind the other.
	raw bool
	// file that it writes; where there is none it prints how many datagrams it received.
	file string
	args func(r recordJob) []string
}

type recordJob struct {
	iface, dir string
	path       string // in dir, of the file
	groups     int
	size       int
	buffer     int64
}

func (j recordJob) group() string { return groupsOf(1)[0].String() }

func (j recordJob) castdeck(args ...string) []string {
	all := groupsOf(j.groups)
	spec := all[0].String()
	if len(all) > 1 {
		spec = fmt.Sprintf("%s-%s", all[0].Addr(), all[len(all)-1])
	}
	return append([]string{"record", spec, "-i", j.iface, "-o", j.path, "--buffer", fmt.Sprintf("%dB", j.buffer), "--force"}, args...)
}

func (j recordJob) filter() string { return fmt.Sprintf("udp port %d", port) }

// recorders are the tools, castdeck's ways first.
var recorders = []recorderTool{
	{name: "castdeck socket, none", file: "a.pcapng", args: func(j recordJob) []string { return j.castdeck() }},
	{name: "castdeck socket, zstd", file: "a.pcapng.zst", args: func(j recordJob) []string { return j.castdeck() }},
	{name: "castdeck packet, none", file: "a.pcapng", args: func(j recordJob) []string { return j.castdeck("--source", "packet") }},
	{name: "castdeck packet, zstd", file: "a.pcapng.zst", args: func(j recordJob) []string { return j.castdeck("--source", "packet") }},
	{name: "tcpdump", program: "tcpdump", file: "a.pcap", args: func(j recordJob) []string {
		return []string{"-i", j.iface, "-n", "-Z", "root", "-B", strconv.FormatInt(j.buffer>>10, 10),
			"--time-stamp-precision", "nano", "-w", j.path, j.filter()}
	}},
	{name: "dumpcap", program: "dumpcap", file: "a.pcapng", args: func(j recordJob) []string {
		return []string{"-q", "-i", j.iface, "-B", strconv.FormatInt(j.buffer>>20, 10), "-f", j.filter(), "-w", j.path}
	}},
	{name: "netsniff-ng", program: "netsniff-ng", file: "a.pcap", args: func(j recordJob) []string {
		return []string{"--in", j.iface, "--out", j.path, "--silent", "-T", "0xa1b23c4d", "--no-hwtimestamp",
			"--ring-size", fmt.Sprintf("%dMiB", j.buffer>>20), j.filter()}
	}},
	{name: "multicat", program: "multicat", one: true, raw: true, file: "a.raw", args: func(j recordJob) []string {
		return []string{"-u", "-U", "-m", strconv.Itoa(j.size), "@" + j.group() + "/ifindex=" + strconv.Itoa(indexOf(j.iface)), j.path}
	}},
	{name: "socat", program: "socat", one: true, raw: true, file: "a.raw", args: func(j recordJob) []string {
		g := groupsOf(1)[0]
		return []string{"-u", fmt.Sprintf("UDP4-RECV:%d,bind=%s,ip-add-membership=%s:%s,rcvbuf-late=%d,reuseaddr", port, g.Addr(), g.Addr(), j.iface, j.buffer/2),
			"OPEN:" + j.path + ",creat,trunc"}
	}},
	{name: "C loop, no file", program: "udpreceive", one: true, args: func(j recordJob) []string {
		g := groupsOf(1)[0]
		return []string{g.Addr().String(), strconv.Itoa(port), j.iface, strconv.FormatInt(j.buffer, 10)}
	}},
}

func (t recorderTool) title() string { return t.name }
func (t recorderTool) needs() string { return t.program }

// Recorders are the names of the tools that Record knows.
func Recorders() []string { return titles(recorders) }

// Missing are the tools among those asked for that are not installed.
func (o RecordOptions) Missing() []string { return missing(recorders, o.Tools) }

// Record runs every recorder on every case and returns all runs. A tool that fails
// is no error: its run says so. Cancelling ctx ends between two runs.
func Record(ctx context.Context, o RecordOptions) ([]RecordRun, error) {
	o = o.withDefaults()
	if err := known("recorder", Recorders(), o.Tools); err != nil {
		return nil, err
	}
	tools := present(recorders, o.Tools)
	runtime.LockOSThread() // the recorders live as long as the thread that started them
	defer runtime.UnlockOSThread()
	dir, remove, err := stage(o.Dir)
	if err != nil {
		return nil, err
	}
	defer remove()
	if err := compile(tools, dir); err != nil {
		return nil, err
	}
	var runs []RecordRun
	round := func(groups, size int, rate float64) error {
		for _, t := range tools {
			if t.one && groups > 1 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			r := RecordRun{Tool: t.name, Rate: rate, Size: size, Groups: groups}
			j := recordJob{iface: stageRx, dir: dir, path: filepath.Join(dir, cmp.Or(t.file, "none")), groups: groups, size: size, buffer: o.Buffer}
			r.Err = t.run(ctx, o, j, &r)
			for _, left := range []string{j.path, multicatTimes(j.path, size)} {
				os.Remove(left)
			}
			runs = append(runs, r)
			if o.Each != nil {
				o.Each(r)
			}
		}
		return nil
	}
	for _, groups := range o.Groups {
		for _, size := range o.Sizes {
			for _, rate := range o.Rates {
				for range o.Repeat {
					if err := round(groups, size, rate); err != nil {
						return runs, err
					}
				}
			}
		}
	}
	return runs, nil
}

// run starts the recorder, sends, ends it, and counts what it recorded.
func (t recorderTool) run(ctx context.Context, o RecordOptions, j recordJob, r *RecordRun) error {
	src, err := newTraffic(groupsOf(j.groups), j.size, r.Rate, int(r.Rate*o.Duration.Seconds()))
	if err != nil {
		return err
	}
	rep, err := replayer.New(replayer.Options{Interface: stageTx})
	if err != nil {
		return err
	}
	defer rep.Close()
	var talk bytes.Buffer
	cmd := exec.Command(executable(t, o.Castdeck, j.dir), t.args(j)...)
	cmd.Stdout, cmd.Stderr = &talk, &talk
	// A recorder must not outlive the comparison.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.Command = cmd.Args
	before := sockets()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	fail := func(err error) error {
		cmd.Process.Kill()
		<-ended
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); sockets() <= before; {
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended at once: %v: %s", t.name, err, said(talk.String()))
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fail(fmt.Errorf("%s did not open a socket within 10 s", t.name))
		}
	}
	time.Sleep(300 * time.Millisecond) // for options that are set behind that
	used, err := sock.ProcessTimeOf(cmd.Process.Pid)
	if err != nil {
		return fail(err)
	}
	r.Start = time.Duration(used)
	sent, err := rep.Run(ctx, src)
	if err != nil {
		return fail(err)
	}
	r.Sent, r.SentRate = sent.Datagrams, sent.RatePPS
	time.Sleep(o.Settle)
	r.MaxRSS = residentPeak(cmd.Process.Pid)
	cmd.Process.Signal(syscall.SIGINT)
	select {
	case err = <-ended:
	case <-time.After(20 * time.Second):
		return fail(fmt.Errorf("%s did not end within 20 s of SIGINT", t.name))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	// An exit code that is not 0 may tell of losses, and some tools end by the signal:
	// the file tells what is in it.
	r.CPU = processorTime(cmd.ProcessState) - r.Start
	if t.file == "" {
		_, err := fmt.Sscan(talk.String(), &r.Recorded)
		return err
	}
	st, err := os.Stat(j.path)
	if err != nil {
		return fmt.Errorf("%w: %s", err, said(talk.String()))
	}
	r.FileBytes = st.Size()
	if t.raw {
		r.Recorded = uint64(st.Size()) / uint64(j.size)
		return nil
	}
	r.Recorded, err = countDatagrams(j.path)
	return err
}

// residentPeak is the largest resident memory of a process so far, in bytes. What
// wait4(2) tells includes that of the parent, whose memory a child has until it
// executes a program.
func residentPeak(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	kB, _ := strconv.ParseInt(f[0], 10, 64)
	return kB << 10
}

// sockets is how many UDP and packet sockets this namespace has: one more says that
// a recorder has begun.
func sockets() int {
	n := 0
	for _, name := range []string{"udp", "packet"} {
		b, _ := os.ReadFile("/proc/thread-self/net/" + name)
		n += bytes.Count(b, []byte("\n"))
	}
	return n
}

// countDatagrams is how many datagrams to the comparison's groups a capture holds.
func countDatagrams(path string) (n uint64, err error) {
	r, err := pcapfile.Open(path)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	var b format.Batch
	for {
		if err := r.ReadBatch(&b); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		for i := range b.Datagrams {
			if b.Datagrams[i].Dst.Port() == port {
				n++
			}
		}
	}
}

// multicatTimes is the file in which multicat keeps the times of datagrams of so many
// bytes that it has in path.
func multicatTimes(path string, size int) string {
	name := strings.TrimSuffix(path, ".raw") + ".aux"
	if size != 1316 { // its default
		name += strconv.Itoa(size)
	}
	return name
}

// said is what a tool said, short enough for a message.
func said(s string) string {
	const limit = 300
	if s = strings.TrimSpace(s); len(s) > limit {
		s = s[:limit] + "..."
	}
	return s
}

// indexOf is the number of an interface, 0 where there is none.
func indexOf(iface string) int {
	if i, err := net.InterfaceByName(iface); err == nil {
		return i.Index
	}
	return 0
}
