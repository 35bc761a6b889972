package main

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"castdeck/internal/netnstest"
)

// onTerminal runs a recording with a pseudo-terminal for its stderr, in a session of its
// own, and returns what it writes there.
func onTerminal(t *testing.T, group string, size pty.Winsize, env []string, args ...string) (*child, *os.File, *lockedBuffer) {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := pty.Setsize(master, &size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("castdeck", append([]string{"record", group, "-i", "lo", "--interval", "10ms"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stderr = slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := &child{t: t, cmd: cmd, done: make(chan error, 1)}
	cmd.Stdout = &p.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	t.Cleanup(func() { cmd.Process.Kill() })
	screen := new(lockedBuffer)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(screen, master)
	}()
	go func() {
		err := cmd.Wait()
		<-drained // EIO, when the last process has closed it
		p.done <- err
	}()
	return p, master, screen
}

var utf8Terminal = []string{"TERM=xterm", "LC_ALL=C.UTF-8", "NO_COLOR="}

// TestFullView: a screen of its own, with every group, redrawn; it is left before the
// summary, and what was said meanwhile is printed then.
func TestFullView(t *testing.T) {
	netnstest.Require(t)
	const group = "239.89.1.1:5000"
	p, terminal, screen := onTerminal(t, group, pty.Winsize{Rows: 24, Cols: 100}, utf8Terminal,
		"239.89.1.2:5000", "-o", filepath.Join(t.TempDir(), "feed.pcapng.zst"), "--silence", "20ms")
	s := newSender(t, group)
	eventually(t, "numbers and a picture", func() bool {
		s.send(20, 100)
		said := screen.String()
		return strings.Contains(said, enterFull) && strings.Contains(said, "█") && strings.Contains(said, "castdeck: silent: 239.89.1.2:5000 on lo")
	})
	said := screen.String()
	for _, want := range []string{"\x1b[H\x1b[" + bold + "mcastdeck record  ", "2 groups", "239.89.1.1:5000 on lo", "239.89.1.2:5000 on lo", "0 lost", "receive buffer"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
	// No line is wider than the terminal, no picture higher.
	pictures := strings.Split(said, "\x1b[H")
	for line := range strings.SplitSeq(strings.ReplaceAll(pictures[len(pictures)-2], "\r", ""), "\n") {
		if n := len([]rune(plainText(line))); n > 100 {
			t.Errorf("%d characters: %q", n, line)
		}
	}
	// The terminal gets small, then large: the signal is enough, without an interval.
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 5, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the line", func() bool { return strings.Contains(screen.String(), leaveFull) })
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 30, Cols: 70}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the full view again", func() bool { return strings.Count(screen.String(), enterFull) == 2 })
	p.signal(syscall.SIGINT)
	if code, _ := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	said = screen.String()
	if strings.Count(said, leaveFull) != 2 {
		t.Errorf("left %d times", strings.Count(said, leaveFull))
	}
	end := said[strings.LastIndex(said, leaveFull)+len(leaveFull):]
	if strings.Contains(end, "\x1b") || !strings.Contains(end, " datagrams, ") || !strings.HasSuffix(end, "0 lost\r\n") {
		t.Errorf("behind the view: %q", end)
	}
	if !strings.Contains(said, leaveFull+"castdeck: silent: 239.89.1.2:5000") {
		t.Errorf("what was said is gone: %q", said)
	}
}

// plainText takes escape sequences out.
func plainText(s string) string {
	for {
		before, rest, found := strings.Cut(s, "\x1b[")
		if !found {
			return s
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
		s = before + rest[end+1:]
	}
}

// TestLineView: where a full view has no place, or is not wanted, there is a line; a
// dumb terminal gets no escape sequence.
func TestLineView(t *testing.T) {
	netnstest.Require(t)
	for i, c := range []struct {
		name string
		size pty.Winsize
		env  []string
		args []string
		dumb bool
	}{
		{"small", pty.Winsize{Rows: 24, Cols: 50}, utf8Terminal, nil, false},
		{"wanted", pty.Winsize{Rows: 24, Cols: 100}, utf8Terminal, []string{"--view", "line"}, false},
		{"dumb", pty.Winsize{Rows: 24, Cols: 100}, []string{"TERM=dumb"}, nil, true},
		{"no size", pty.Winsize{}, utf8Terminal, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			group := "239.89.2." + string(rune('1'+i)) + ":5000"
			p, _, screen := onTerminal(t, group, c.size, c.env, append([]string{"-o", filepath.Join(t.TempDir(), "feed.pcapng.zst")}, c.args...)...)
			s := newSender(t, group)
			eventually(t, "a line", func() bool { s.send(10, 100); return strings.Contains(screen.String(), "bit/s") })
			p.signal(syscall.SIGINT)
			if code, _ := p.wait(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			said := screen.String()
			if strings.Contains(said, enterFull) || c.dumb && strings.Contains(said, "\x1b") || !strings.HasSuffix(said, "0 lost\r\n") {
				t.Errorf("%q", said)
			}
			for _, line := range strings.Split(strings.ReplaceAll(said, "\n", ""), "\r") {
				if n := len([]rune(plainText(line))); c.size.Cols > 0 && strings.Contains(line, "bit/s") && n >= int(c.size.Cols) {
					t.Errorf("%d characters in %d columns: %q", n, c.size.Cols, line)
				}
			}
		})
	}
}

// TestNoView: JSON on the same terminal, --view off.
func TestNoView(t *testing.T) {
	netnstest.Require(t)
	const group = "239.89.3.1:5000"
	p, _, screen := onTerminal(t, group, pty.Winsize{Rows: 24, Cols: 100}, utf8Terminal, "-o", filepath.Join(t.TempDir(), "feed.pcapng.zst"), "--view", "off", "--json")
	eventually(t, "some intervals", func() bool { return strings.Count(p.out.String(), `"event":"stats"`) > 10 })
	p.signal(syscall.SIGINT)
	if code, _ := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if said := screen.String(); strings.Contains(said, "\x1b") {
		t.Errorf("%q", said)
	}
}

// TestBackground: a recording in the background does not draw on the shell's terminal.
func TestBackground(t *testing.T) {
	netnstest.Require(t)
	const group = "239.89.4.1:5000"
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	defer master.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "feed.pcapng.zst")
	// set -m puts it into a group of its own, as an interactive shell does.
	cmd := exec.Command("sh", "-c", `set -m; castdeck record `+group+` -i lo --interval 10ms -o "$1" --json > "$1.json" & echo $! > "$1.pid"; wait $!; echo code $?`, "sh", out)
	cmd.Env = append(os.Environ(), utf8Terminal...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	t.Cleanup(func() { cmd.Process.Kill() })
	eventually(t, "some intervals", func() bool {
		lines, _ := os.ReadFile(out + ".json")
		return bytes.Count(lines, []byte(`"event":"stats"`)) > 10
	})
	text, err := os.ReadFile(out + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_, _ = io.Copy(&b, master)
	_ = cmd.Wait()
	if said := b.String(); !strings.Contains(said, "code 0") || strings.Contains(said, "\x1b[H") || strings.Contains(said, enterFull) {
		t.Errorf("%q", said)
	}
}

// TestNobodyListens: a reader of --json that has gone to sleep, and a terminal after
// ctrl-S, hold up neither the recording nor its end.
func TestNobodyListens(t *testing.T) {
	netnstest.Require(t)
	const group = "239.89.5.1:5000"
	// Long names make long lines: more than is kept for a reader.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 200), strings.Repeat("e", 200), strings.Repeat("f", 200))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	er, ew, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer er.Close()
	cmd := exec.Command("castdeck", "record", group, "-i", "lo", "--json", "--interval", "10ms", "-o", filepath.Join(dir, "feed.pcapng.zst"),
		"--rotate", "20datagrams", "--keep", "5segments", "--sync", "none")
	cmd.Stdout, cmd.Stderr = w, ew
	p := &child{t: t, cmd: cmd, done: make(chan error, 1)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ew.Close()
	t.Cleanup(func() { cmd.Process.Kill() })
	go func() { p.done <- cmd.Wait() }()
	if err := waitJoined(netip.MustParseAddrPort(group).Addr()); err != nil {
		t.Fatal(err)
	}
	s := newSender(t, group)
	const segments = 900 // with a line of more than 700 bytes for each, and for each that is deleted
	eventually(t, "many segments", func() bool {
		s.send(200, 100)
		last := 0
		files, _ := filepath.Glob(filepath.Join(dir, "feed-*"))
		for _, f := range files {
			number := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "feed-"), ".pcapng.zst")
			if n, err := strconv.Atoi(number); err == nil {
				last = max(last, n)
			}
		}
		return last > segments
	})
	p.signal(syscall.SIGTERM)
	// It is sealed, whoever listens.
	eventually(t, "all sealed", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "feed-*"))
		in, err := openInput(files...)
		if err != nil {
			return false
		}
		defer in.Close()
		return in.sealed()
	})
	var out bytes.Buffer
	go io.Copy(io.Discard, er)
	_, _ = io.Copy(&out, r) // now somebody does
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("%v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, `{"event":"summary"`) {
		t.Errorf("the last line is %.200q", last)
	}
	if !strings.Contains(out.String(), `{"event":"omitted","lines":`) {
		t.Error("it does not say what was left out")
	}
}
