package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"castdeck/internal/netnstest"
)

// serviceManager is a NOTIFY_SOCKET and what came to it.
type serviceManager struct {
	path string
	said lockedBuffer
}

func newServiceManager(t *testing.T, ready func()) *serviceManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // a short path: a socket's has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	m := &serviceManager{path: filepath.Join(dir, "s")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); os.RemoveAll(dir) })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			if strings.HasPrefix(string(b[:n]), "READY=1\n") {
				ready()
			}
			fmt.Fprintf(&m.said, "%s\n--\n", b[:n])
		}
	}()
	return m
}

// TestServiceManager: systemd hears READY when the group is joined and the file open,
// the watchdog's pings, and that it stops.
func TestServiceManager(t *testing.T) {
	netnstest.Require(t)
	const group = "239.92.1.1:5000"
	path := filepath.Join(t.TempDir(), "feed.pcapng.zst")
	m := newServiceManager(t, func() {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("READY before the file: %v", err)
		}
		if is, err := joined(netip.MustParseAddrPort(group).Addr()); !is {
			t.Errorf("READY before the group is joined: %v", err)
		}
	})
	cmd := exec.Command("castdeck", "record", group, "-i", "lo", "-o", path)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=60000")
	p := startProcess(t, "", cmd)
	count := func(what string) int { return strings.Count(m.said.String(), what) }
	eventually(t, "READY", func() bool { return count("READY=1\nSTATUS=recording 1 group\n") == 1 })
	eventually(t, "the watchdog's pings", func() bool { return count("WATCHDOG=1\n") > 5 })
	newSender(t, group).send(10, 100)
	eventually(t, "a status", func() bool { return count("STATUS=10 datagrams, 1.0 kB payload in ") > 0 })
	if count("STOPPING=1") != 0 {
		t.Error("STOPPING too early")
	}
	p.signal(syscall.SIGTERM)
	if code, _ := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.err.String())
	}
	eventually(t, "STOPPING", func() bool { return count("STOPPING=1\n") > 0 })

	// It is ready while it waits for its time, and says for which.
	m = newServiceManager(t, func() {})
	at := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	cmd = exec.Command("castdeck", "record", group, "-i", "lo", "-o", path+".2.pcapng.zst", "--start-at", at)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path)
	p = startProcess(t, "", cmd)
	eventually(t, "READY", func() bool { return count("READY=1\nSTATUS=recording begins at "+at+"\n") == 1 })
	p.signal(syscall.SIGTERM)
	if code, _ := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.err.String())
	}
	if count("WATCHDOG") != 0 {
		t.Error("pings that nobody asked for")
	}
}

// TestUnit: the unit that is shipped keeps the score that is stated.
func TestUnit(t *testing.T) {
	unit := filepath.Join("..", "..", "contrib", "castdeck-record@.service")
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skipf("systemd-analyze: %v", err)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", unit).CombinedOutput()
	if strings.Contains(string(out), "unrecognized option") {
		t.Skip("systemd-analyze is older than 250")
	}
	if err != nil || !strings.Contains(string(out), "Overall exposure level") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestExampleConfig: the configuration that is shipped with the unit is one.
func TestExampleConfig(t *testing.T) {
	netnstest.Require(t)
	example, err := filepath.Abs(filepath.Join("..", "..", "contrib", "example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("castdeck", "record", "--config", example, "-i", "lo", "--count", "1", "--min-free", "1MB")
	cmd.Dir = t.TempDir()
	p := startProcess(t, "239.1.1.16:5000", cmd)
	newSender(t, "239.1.1.16:5000").send(1, 100)
	if code, _ := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.err.String())
	}
}

// TestRunningPage: the names of metrics on the page exist, and none is missing there.
func TestRunningPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "RUNNING.md"))
	if err != nil {
		t.Fatal(err)
	}
	described := make(chan *prometheus.Desc, 100)
	newMetrics(new(monitor), 1).Describe(described)
	close(described)
	exists := map[string]bool{}
	for d := range described {
		name := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]
		exists[name] = true
		if !regexp.MustCompile("`" + name + `\b`).Match(page) {
			t.Errorf("%s is not described", name)
		}
	}
	for _, name := range regexp.MustCompile(`\bcastdeck_\w+`).FindAllString(string(page), -1) {
		if !exists[name] {
			t.Errorf("there is no %s", name)
		}
	}
}
