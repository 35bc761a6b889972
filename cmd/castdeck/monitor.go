package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"castdeck/recorder"
)

// stillAfter is how long nothing may move until the recording counts as stuck.
const stillAfter = 10 * time.Second

// monitor judges whether a recording gets on, for /healthz, the screen and systemd. The
// zero value is one that has not begun. It is safe for concurrent use.
type monitor struct {
	mu    sync.Mutex
	phase phase
	rec   *recorder.Recorder
	files *recordFiles
	// loop and writer are counters of what they did, and when these grew last.
	loop, writer     uint64
	loopAt, writerAt time.Time
}

type phase int

const (
	starting phase = iota
	waiting        // for --start-at
	recording
	ending
)

// begin looks at a recording from now on.
func (m *monitor) begin(rec *recorder.Recorder, files *recordFiles) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.phase, m.rec, m.files, m.loopAt, m.writerAt = recording, rec, files, now, now
}

// subject is what it looks at; nil before begin.
func (m *monitor) subject() (*recorder.Recorder, *recordFiles) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec, m.files
}

func (m *monitor) enter(p phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase = p
}

// look notes what has moved. It must be called every second or so.
func (m *monitor) look(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rec == nil {
		return
	}
	s := m.rec.Stats()
	if n := s.Calls + s.Wakeups; n != m.loop {
		m.loop, m.loopAt = n, now
	}
	if n := m.files.moved.Load(); n != m.writer || s.QueueBytes == 0 {
		m.writer, m.writerAt = n, now
	}
}

// alive says that the receive loop goes round, or waits for a writer that gets on. The
// loop comes round at least once a second, whether or not something arrives. It is
// what systemd's watchdog is about.
func (m *monitor) alive(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != recording || now.Sub(m.loopAt) < stillAfter {
		return true
	}
	return m.rec.Pressure() == 1 && now.Sub(m.writerAt) < stillAfter
}

// trouble says why what is received is not written as it should be, or "".
func (m *monitor) trouble(now time.Time) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.phase {
	case starting:
		return "not recording yet"
	case waiting:
		return ""
	case ending:
		return "the recording ends"
	}
	if text := m.files.trouble(); text != "" {
		return text
	}
	if d := now.Sub(m.writerAt); d >= stillAfter {
		return fmt.Sprintf("the disk has not answered for %s", d.Round(time.Second))
	}
	if d := now.Sub(m.loopAt); d >= stillAfter && m.rec.Pressure() < 1 {
		return fmt.Sprintf("receiving has stood still for %s", d.Round(time.Second))
	}
	return ""
}

// service tells systemd how the recording gets on (sd_notify(3)); where there is none
// that listens it does nothing.
type service struct {
	m        *monitor
	watchdog time.Duration // 0 where none is wanted
	there    bool
}

func newService(m *monitor) *service {
	s := &service{m: m, there: os.Getenv("NOTIFY_SOCKET") != ""}
	s.watchdog, _ = daemon.SdWatchdogEnabled(false)
	return s
}

func (s *service) notify(state string) {
	if s.there {
		_, _ = daemon.SdNotify(false, state)
	}
}

// ready says that everything is joined and open, or waits for its time.
func (s *service) ready(status string) {
	s.notify(daemon.SdNotifyReady + "\nSTATUS=" + oneLine(status))
}

func (s *service) status(text string) { s.notify("STATUS=" + oneLine(text)) }

func (s *service) stopping() {
	s.notify(daemon.SdNotifyStopping + "\nSTATUS=writing what was received")
}

// run looks at the recording, and feeds the watchdog while it is alive, until stop is
// called. While the end takes long and gets on it asks for more time.
func (s *service) run() (stop func()) {
	interval := time.Second
	if s.watchdog > 0 {
		interval = min(interval, s.watchdog/3)
	}
	return every(interval, func(now time.Time, _ time.Duration) {
		s.m.look(now)
		if s.watchdog > 0 && s.m.alive(now) {
			s.notify(daemon.SdNotifyWatchdog)
		}
		s.m.mu.Lock()
		slow := s.m.phase == ending && now.Sub(s.m.writerAt) < stillAfter
		s.m.mu.Unlock()
		if slow {
			s.notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (2 * stillAfter).Microseconds()))
		}
	}, func() {})
}
