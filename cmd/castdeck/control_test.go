package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// slowRecording is a recording that plays for minutes: n datagrams, one a second.
func slowRecording(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slow.pcapng.zst")
	w, err := segment.Create(path, segment.Options{Compression: format.Zstd, ChunkSize: 8 << 10, Interfaces: []format.Interface{{Name: "eth0", LinkType: 1}}})
	ok(t, err)
	feed := bench.NewFeed(bench.FeedOptions{
		Groups: []netip.AddrPort{netip.MustParseAddrPort("239.5.1.1:5000")}, Count: n, Rate: 1, MinSize: 64, Start: 1_700_000_000_000_000_000,
	})
	for b := new(format.Batch); feed.ReadBatch(b) == nil; {
		ok(t, w.WriteBatch(b))
	}
	ok(t, w.Close())
	return path
}

// summaryOf waits for the end of a replay with --json and returns its summary.
func summaryOf(t *testing.T, out io.Reader) (sum replayJSON) {
	t.Helper()
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.Contains(s.Text(), `"event":"summary"`) {
			if err := json.Unmarshal(s.Bytes(), &sum); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sum.Event == "" {
		t.Fatal("no summary")
	}
	return sum
}

func TestControlByHTTP(t *testing.T) {
	netnstest.Require(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "castdeck", "replay", slowRecording(t, 1000), "-i", "lo", "--control", "127.0.0.1:0", "--json", "--interval", "1h")
	stdout, err := cmd.StdoutPipe()
	ok(t, err)
	stderr, err := cmd.StderrPipe()
	ok(t, err)
	ok(t, cmd.Start())
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(stderr).ReadString('\n')
	ok(t, err)
	base := regexp.MustCompile(`http://\S+`).FindString(line)
	if base == "" {
		t.Fatalf("no address in %q", line)
	}
	ask := func(method, path string, header ...string) (status deckStatus, code int) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, method, base+path, nil)
		ok(t, err)
		for i := 0; i+1 < len(header); i += 2 {
			if header[i] == "Host" {
				req.Host = header[i+1]
			}
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		ok(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		ok(t, err)
		if res.StatusCode == 200 {
			ok(t, json.Unmarshal(body, &status))
		}
		return status, res.StatusCode
	}
	until := func(what string, right func(deckStatus) bool) {
		t.Helper()
		for {
			s, code := ask("GET", "/status")
			if code != 200 {
				t.Fatalf("status: %d", code)
			}
			if right(s) {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("waited in vain for %s: %+v", what, s)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	const start = 1_700_000_000_000_000_000
	until("the first datagram", func(s deckStatus) bool { return s.Datagrams == 1 && s.State == "playing" && s.Speed == 1 })
	ask("POST", "/pause")
	until("the pause", func(s deckStatus) bool { return s.State == "paused" })
	ask("POST", "/step?n=3")
	until("three steps", func(s deckStatus) bool { return s.Datagrams == 4 && s.PositionNS == start+3e9 })
	ask("POST", "/seek?to=2023-11-14T22:18:20Z") // start + 300 s
	ask("POST", "/step")
	until("a step behind the seek", func(s deckStatus) bool { return s.Datagrams == 5 && s.PositionNS == start+300e9 })
	ask("POST", "/seek?to=-100s") // from the next one, 301
	ask("POST", "/step")
	until("a step behind a seek back", func(s deckStatus) bool { return s.PositionNS == start+201e9 })
	ask("POST", "/speed?x=1000")
	until("the speed", func(s deckStatus) bool { return s.Speed == 1000 })

	for _, c := range []struct {
		method, path string
		header       []string
		code         int
	}{
		{"POST", "/pause", []string{"Host", "evil.example:80"}, 403},
		{"GET", "/status", []string{"Host", "evil.example"}, 403},
		{"POST", "/resume", []string{"Origin", "http://evil.example"}, 403},
		{"POST", "/resume", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"GET", "/pause", nil, 405},
		{"GET", "/", nil, 404},
		{"POST", "/speed?x=0", nil, 400},
		{"POST", "/speed?x=fast", nil, 400},
		{"POST", "/step?n=-1", nil, 400},
		{"POST", "/seek", nil, 400},
		{"POST", "/seek?to=yesterday", nil, 400},
		{"GET", "/status", []string{"Origin", base}, 200},
	} {
		if _, code := ask(c.method, c.path, c.header...); code != c.code {
			t.Errorf("%s %s %v: %d, want %d", c.method, c.path, c.header, code, c.code)
		}
	}
	until("that none of these did anything", func(s deckStatus) bool { return s.State == "paused" && s.Speed == 1000 })
	ask("POST", "/resume") // 800 s at 1000 times the speed
	go io.Copy(io.Discard, stderr)
	if sum := summaryOf(t, stdout); sum.Interrupted || sum.Datagrams != 4+1+1000-201 || sum.PausedSeconds <= 0 {
		t.Errorf("%+v", sum)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	if _, err := http.Get(base + "/status"); err == nil {
		t.Error("it still answers")
	}
}

func TestControlRefuses(t *testing.T) {
	for _, address := range []string{"0.0.0.0:9465", "192.0.2.1:80", ":9465", "localhost:80", "127.0.0.1", "[::]:1"} {
		if l, err := listenControl(address); err == nil {
			l.Close()
			t.Errorf("%s was taken", address)
		}
	}
}

// Keys through a pseudo-terminal, as somebody at the desk would press them.
func TestControlByKeys(t *testing.T) {
	netnstest.Require(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "castdeck", "replay", slowRecording(t, 1000), "-i", "lo", "--interval", "10ms")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 200})
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	defer terminal.Close()
	defer cmd.Process.Kill()
	lines := make(chan string, 10_000)
	go func() {
		defer close(lines)
		r := bufio.NewReader(terminal)
		for {
			line, err := r.ReadString('\r')
			select {
			case lines <- line:
			default: // nobody reads any more
			}
			if err != nil {
				return
			}
		}
	}()
	var all strings.Builder
	until := func(what string) {
		t.Helper()
		for {
			select {
			case line, open := <-lines:
				all.WriteString(line)
				if strings.Contains(line, what) {
					return
				}
				if !open {
					t.Fatalf("ended before %q; it said %q", what, all.String())
				}
			case <-ctx.Done():
				t.Fatalf("waited in vain for %q; it said %q", what, all.String())
			}
		}
	}
	press := func(keys string) {
		t.Helper()
		_, err := io.WriteString(terminal, keys)
		ok(t, err)
	}
	until("space pause")
	until("1 sent")
	press(" ")
	until("PAUSED")
	press("sss")
	until("4 sent")
	press("b")
	until("14 sent")
	press("\x1b[A\x1b[A\x1b[A\x1b[B\x1b[C\x1b[C\x1b[Ds") // 30 s on, 10 back, 2 on, 1 back: from 14 to 35
	until("at 2023-11-14 22:13:55")
	press("++-")
	press(" ")
	until("x2")
	press("q")
	until("interrupted: the rest was not sent")
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitLossy {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// ^C in raw mode is a key, and ends the replay as the signal does; so does a signal.
func TestReplayEndsByKeyOrSignal(t *testing.T) {
	netnstest.Require(t)
	path := slowRecording(t, 1000)
	for _, how := range []string{"\x03", "INT", "TERM"} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "castdeck", "replay", path, "-i", "lo", "--interval", "10ms")
		terminal, err := pty.Start(cmd)
		if err != nil {
			t.Skipf("no pseudo-terminal here: %v", err)
		}
		r := bufio.NewReader(terminal)
		var said strings.Builder
		pressed := false
		for {
			line, err := r.ReadString('\r')
			said.WriteString(line)
			if err != nil {
				break
			}
			if !pressed && strings.Contains(line, "1 sent") {
				pressed = true
				switch how {
				case "INT":
					err = cmd.Process.Signal(syscall.SIGINT)
				case "TERM":
					err = cmd.Process.Signal(syscall.SIGTERM)
				default:
					_, err = io.WriteString(terminal, how)
				}
				ok(t, err)
			}
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exitLossy || !strings.Contains(said.String(), "interrupted") {
			t.Errorf("%q: exit code %d: %q", how, code, said.String())
		}
		terminal.Close()
	}
}

func TestKeysPassOverNonsense(t *testing.T) {
	d := &deck{quit: func() { t.Error("quit") }}
	for _, b := range []string{"\x1b", "\x1b[", "\x1bOZ", "x", "\x00", "\x1b[Z", "é"} {
		for s := []byte(b); len(s) > 0; {
			n := d.key(s)
			if n < 1 || n > len(s) {
				t.Fatalf("%q: %d bytes of %d", b, n, len(s))
			}
			s = s[n:]
		}
	}
}
