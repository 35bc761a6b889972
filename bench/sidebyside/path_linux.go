package sidebyside

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"castdeck/internal/netns"
)

const (
	pathGroup  = "239.77.1.1"
	pathBuffer = 4 << 20 // SO_RCVBUF of each tool's receiver; the kernel doubles it
	// pathPatience bounds the wait for a receiver to begin, or to say what it measured.
	pathPatience = 10 * time.Second
)

// pathTool is a program that measures a path, as a receiver and a sender.
type pathTool struct {
	name, program string
	kinds         []PathKind
	receiver      func(c PathCase) []string
	sender        func(c PathCase, seconds float64) []string
	// said reads what both said; done says that the receiver has said it all.
	said func(receiver, sender string, r *PathRun) error
	done func(receiver string) bool
}

// addresses of the two ends.
var pathTx, pathRx = fmt.Sprintf("10.77.%d.1", stageNumber), fmt.Sprintf("10.77.%d.2", stageNumber)

// pathTools are the tools, castdeck first.
var pathTools = []pathTool{
	{
		name: "castdeck", kinds: []PathKind{OneWay, PingPong, UnderLoad},
		receiver: func(c PathCase) []string {
			args := []string{"bench", "receive", fmt.Sprintf("%s:%d", pathGroup, port), "-i", stageRx, "--once", "--json", "--buffer", fmt.Sprintf("%dB", 2*pathBuffer)}
			if c.Kind != OneWay {
				args = append(args, "--echo")
			}
			return args
		},
		sender: func(c PathCase, seconds float64) []string {
			args := []string{"bench", "send", fmt.Sprintf("%s:%d", pathGroup, port), "-i", stageTx, "--sizes", strconv.Itoa(c.Size), "--duration", fmt.Sprintf("%gs", seconds),
				"--json", "--gso", "off", "--buffer", fmt.Sprintf("%dB", 2*pathBuffer)}
			switch c.Kind {
			case PingPong:
				return append(args, "--ping-pong")
			case UnderLoad:
				args = append(args, "--echo")
			}
			return append(args, "--pps", fmt.Sprintf("%.0fpps", c.Rate))
		},
		said: castdeckSaid, done: func(s string) bool { return strings.Contains(s, `"summary"`) },
	},
	{
		name: "iperf2", program: "iperf", kinds: []PathKind{OneWay},
		receiver: func(c PathCase) []string {
			return []string{"-s", "-u", "-e", "-B", pathGroup, "-p", strconv.Itoa(port), "-w", strconv.Itoa(pathBuffer), "-l", strconv.Itoa(c.Size)}
		},
		sender: func(c PathCase, seconds float64) []string {
			return []string{"-c", pathGroup, "-u", "-e", "--trip-times", "-B", pathTx, "-T", "1", "-p", strconv.Itoa(port), "-b", fmt.Sprintf("%.0fpps", c.Rate), "-l", strconv.Itoa(c.Size),
				"-t", fmt.Sprintf("%.0f", max(seconds, 1))}
		},
		said: iperfSaid, done: func(s string) bool { return iperfLine.MatchString(s) },
	},
	{
		name: "sockperf", program: "sockperf", kinds: []PathKind{PingPong, UnderLoad},
		receiver: func(PathCase) []string {
			return []string{"server", "-i", pathGroup, "-p", strconv.Itoa(port), "--mc-rx-if", pathRx, "--mc-tx-if", pathRx, "--mc-ttl", "1", "--buffer-size", strconv.Itoa(pathBuffer)}
		},
		sender: func(c PathCase, seconds float64) []string {
			args := []string{"ping-pong"}
			if c.Kind == UnderLoad {
				args = []string{"under-load", "--mps", fmt.Sprintf("%.0f", c.Rate), "--reply-every", "1"}
			}
			return append(args, "-i", pathGroup, "-p", strconv.Itoa(port), "--mc-rx-if", pathTx, "--mc-tx-if", pathTx, "--mc-ttl", "1", "-m", strconv.Itoa(c.Size),
				"--buffer-size", strconv.Itoa(pathBuffer), "--full-rtt", "-t", fmt.Sprintf("%.0f", max(seconds, 1)))
		},
		said: sockperfSaid, done: func(string) bool { return true },
	},
}

func (t pathTool) title() string { return t.name }
func (t pathTool) needs() string { return t.program }

// PathTools are the names of the tools that Path knows.
func PathTools() []string { return titles(pathTools) }

// Missing are the tools among those asked for that are not installed; nft where a case
// needs it.
func (o PathOptions) Missing() []string {
	away := missing(pathTools, o.Tools)
	for _, c := range o.withDefaults().Cases {
		if _, err := exec.LookPath("nft"); err != nil && c.Drop > 0 {
			return append(away, "nft")
		}
	}
	return away
}

// Path runs every tool on every case that it can measure, between two network
// namespaces: that of the calling process, and one that it makes. Cases with losses are left out
// where nftables is missing. A tool that fails is no error: its run says so.
func Path(ctx context.Context, o PathOptions) (runs []PathRun, err error) {
	o = o.withDefaults()
	if err := known("tool", PathTools(), o.Tools); err != nil {
		return nil, err
	}
	runtime.LockOSThread() // the senders live as long as the thread that started them
	defer runtime.UnlockOSThread()
	far, err := netns.NewBeside()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, far.Close()) }()
	remove, err := far.Veth(stageTx, stageRx, stageNumber)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := netns.CutRuns(stageTx); err != nil {
		return nil, err
	}
	for _, c := range o.Cases {
		undo, err := drop(far, c.Drop)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		} else if err != nil {
			return runs, err
		}
		for range o.Repeat {
			for _, t := range present(pathTools, o.Tools) {
				if !t.measures(c.Kind) {
					continue
				}
				if err := ctx.Err(); err != nil {
					return runs, errors.Join(err, undo())
				}
				r := PathRun{Tool: t.name, Case: c}
				before, _ := dropped(far, c.Drop)
				r.Err = t.run(ctx, far, o, &r)
				after, derr := dropped(far, c.Drop)
				if r.Dropped = after - before; r.Err == nil {
					r.Err = derr
				}
				runs = append(runs, r)
				if o.Each != nil {
					o.Each(r)
				}
			}
		}
		if err := undo(); err != nil {
			return runs, err
		}
	}
	return runs, nil
}

func (t pathTool) measures(k PathKind) bool {
	for _, have := range t.kinds {
		if have == k {
			return true
		}
	}
	return false
}

// drop lets nftables drop one of n datagrams that arrive, until undo.
func drop(far *netns.Beside, n int) (undo func() error, err error) {
	if n == 0 {
		return func() error { return nil }, nil
	}
	rules := fmt.Sprintf(`table netdev bench {
	counter dropped {}
	chain in {
		type filter hook ingress device %s priority 0;
		udp dport %d numgen inc mod %d 0 counter name dropped drop
	}
}`, stageRx, port, n)
	if _, err := nft(far, rules, "-f", "-"); err != nil {
		return nil, err
	}
	return func() error {
		_, err := nft(far, "", "delete", "table", "netdev", "bench")
		return err
	}, nil
}

var nftPackets = regexp.MustCompile(`packets (\d+)`)

// dropped is how many datagrams drop has dropped so far.
func dropped(far *netns.Beside, n int) (uint64, error) {
	if n == 0 {
		return 0, nil
	}
	out, err := nft(far, "", "list", "counter", "netdev", "bench", "dropped")
	if err != nil {
		return 0, err
	}
	m := nftPackets.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("nft says no count: %s", said(out))
	}
	return strconv.ParseUint(m[1], 10, 64)
}

func nft(far *netns.Beside, in string, args ...string) (out string, err error) {
	err = far.Do(func() error {
		cmd := exec.Command("nft", args...)
		cmd.Stdin = strings.NewReader(in)
		b, err := cmd.CombinedOutput()
		out = string(b)
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, said(out))
		}
		return nil
	})
	return out, err
}

// run runs the receiver in the far namespace and the sender in this one.
func (t pathTool) run(ctx context.Context, far *netns.Beside, o PathOptions, r *PathRun) error {
	program := executable(t, o.Castdeck, "")
	var heard talk
	receiver := exec.Command(program, t.receiver(r.Case)...)
	receiver.Stdout, receiver.Stderr = &heard, &heard
	receiver.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.Receiver = receiver.Args
	var before int
	if err := far.Do(func() error { before = sockets(); return receiver.Start() }); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- receiver.Wait() }()
	over := false
	defer func() {
		if !over {
			receiver.Process.Kill()
			<-ended
		}
	}()
	if err := await(ended, func() bool {
		var n int
		_ = far.Do(func() error { n = sockets(); return nil })
		return n > before
	}); err != nil {
		over = errors.Is(err, errEnded)
		return fmt.Errorf("%s did not begin to receive: %w: %s", t.name, err, said(heard.String()))
	}
	time.Sleep(300 * time.Millisecond) // for what it does behind opening a socket: joins
	sender := exec.CommandContext(ctx, program, t.sender(r.Case, o.Duration.Seconds())...)
	sender.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.Sender = sender.Args
	var out, talk bytes.Buffer
	sender.Stdout, sender.Stderr = &out, &talk
	if err := sender.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) || t.program != "" || exit.ExitCode() != 3 { // castdeck's code for losses
			return fmt.Errorf("%s: %w: %s", t.name, err, said(out.String()+talk.String()))
		}
	}
	_ = await(ended, func() bool { return t.done(heard.String()) })
	receiver.Process.Signal(syscall.SIGINT)
	select {
	case <-ended:
		over = true
	case <-time.After(pathPatience):
		return fmt.Errorf("%s did not end within %s of SIGINT", t.name, pathPatience)
	}
	return t.said(heard.String(), out.String(), r)
}

var errEnded = errors.New("it ended")

// await waits until cond holds; it gives up where the process ends, whose result it puts
// back, or after pathPatience.
func await(ended chan error, cond func() bool) error {
	for deadline := time.Now().Add(pathPatience); !cond(); {
		select {
		case err := <-ended:
			ended <- err
			return errEnded
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing within %s", pathPatience)
		}
	}
	return nil
}

// talk is what a process says while it runs.
type talk struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *talk) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *talk) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// castdeckSaid reads the step of both sides.
func castdeckSaid(receiver, sender string, r *PathRun) error {
	type quantiles struct {
		Min, P50, P99, P999, Max int64
		Mean                     float64
	}
	type step struct {
		Event string
		Sent  struct {
			Datagrams uint64
			Rate      float64    `json:"rate_pps"`
			RoundTrip *quantiles `json:"round_trip_ns"`
		}
		Arrived []struct {
			Lost   uint64
			Jitter float64    `json:"jitter_ns"`
			OneWay *quantiles `json:"one_way_ns"`
		}
	}
	read := func(text string) (s step, err error) {
		for line := range strings.Lines(text) {
			var one step
			if json.Unmarshal([]byte(line), &one) == nil && one.Event == "step" {
				return one, nil
			}
		}
		return s, fmt.Errorf("castdeck told of no step: %s", said(text))
	}
	s, err := read(sender)
	if err != nil {
		return err
	}
	h, err := read(receiver)
	if err != nil {
		return err
	}
	if len(h.Arrived) != 1 || h.Arrived[0].OneWay == nil {
		return fmt.Errorf("nothing arrived: %s", said(receiver))
	}
	a := h.Arrived[0]
	r.Sent, r.Rate, r.Lost, r.Jitter = s.Sent.Datagrams, s.Sent.Rate, a.Lost, a.Jitter
	r.Least, r.Mean, r.Most = float64(a.OneWay.Min), a.OneWay.Mean, float64(a.OneWay.Max)
	if t := s.Sent.RoundTrip; t != nil {
		r.RoundTrip = Quantiles{float64(t.P50), float64(t.P99), float64(t.P999), float64(t.Max)}
	}
	return nil
}

// iperfLine is the receiver's line of all: seconds, then jitter in ms, lost/total, and
// one-way latencies in ms, mean/least/most/deviation.
var iperfLine = regexp.MustCompile(`-([\d.]+) sec .* ([\d.]+) ms\s+(\d+)/(\d+) \([^)]*\)\s+([\d.]+)/([\d.]+)/([\d.]+)/[\d.]+ ms`)

func iperfSaid(receiver, _ string, r *PathRun) error {
	m := iperfLine.FindStringSubmatch(receiver)
	if m == nil {
		return fmt.Errorf("iperf told of no transfer: %s", said(receiver))
	}
	v := make([]float64, len(m))
	for i, s := range m[1:] {
		v[i+1], _ = strconv.ParseFloat(s, 64) // digits and points
	}
	r.Lost, r.Sent, r.Rate = uint64(v[3]), uint64(v[4]), v[4]/max(v[1], 1e-9)
	r.Jitter, r.Mean, r.Least, r.Most = v[2]*1e6, v[5]*1e6, v[6]*1e6, v[7]*1e6
	return nil
}

var (
	sockperfValid   = regexp.MustCompile(`\[Valid Duration\] RunTime=([\d.]+) sec; SentMessages=(\d+)`)
	sockperfDropped = regexp.MustCompile(`# dropped messages = (\d+)`)
	sockperfAt      = regexp.MustCompile(`percentile ([\d.]+) =\s*([\d.]+)`)
	sockperfMost    = regexp.MustCompile(`<MAX> observation =\s*([\d.]+)`)
)

func sockperfSaid(_, sender string, r *PathRun) error {
	valid, drop, most := sockperfValid.FindStringSubmatch(sender), sockperfDropped.FindStringSubmatch(sender), sockperfMost.FindStringSubmatch(sender)
	if valid == nil || drop == nil || most == nil {
		return fmt.Errorf("sockperf told of no result: %s", said(sender))
	}
	seconds, _ := strconv.ParseFloat(valid[1], 64)
	r.Sent, _ = strconv.ParseUint(valid[2], 10, 64)
	r.Lost, _ = strconv.ParseUint(drop[1], 10, 64)
	r.Rate = float64(r.Sent) / max(seconds, 1e-9)
	us := func(s string) float64 {
		v, _ := strconv.ParseFloat(s, 64)
		return v * 1e3
	}
	r.RoundTrip.Max = us(most[1])
	for _, m := range sockperfAt.FindAllStringSubmatch(sender, -1) {
		switch m[1] {
		case "50.000":
			r.RoundTrip.P50 = us(m[2])
		case "99.000":
			r.RoundTrip.P99 = us(m[2])
		case "99.900":
			r.RoundTrip.P999 = us(m[2])
		}
	}
	return nil
}
