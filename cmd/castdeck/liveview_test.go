package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"castdeck/recorder"
)

// madeUpView is a view of three groups after three intervals: one steady, one that lost
// some, one that has fallen silent.
func madeUpView() *liveView {
	v := newLiveView("feed.pcapng.zst", []string{"239.1.1.1:5000 on eth0 (A line)", "239.1.1.2:5000 on eth0", "10.0.0.1@232.1.1.1:5000 on eth1"}, 256<<20)
	s := recorder.Stats{BufferBytes: 64 << 20, Subscriptions: make([]recorder.SubscriptionStats, 3)}
	for i := range 4 {
		add := func(group int, n, lost uint64) {
			t := &s.Subscriptions[group]
			t.Datagrams += n
			t.Bytes += n * 125
			t.Dropped += lost
			s.Datagrams += n
			s.Bytes += n * 125
			s.Dropped.Kernel += lost
		}
		add(0, 1000, 0)
		add(1, 20000*uint64(i+1), 7*uint64(i))
		if i == 0 {
			add(2, 5, 0)
		}
		s.QueueBytes = 64 << 20
		now := s
		now.Subscriptions = slices.Clone(s.Subscriptions)
		v.update(now, time.Duration(i+1)*time.Second, time.Second)
	}
	v.hostLost, v.fileBytes, v.pressure = 3, 1_234_567, 0.25
	return v
}

func TestLiveViewFull(t *testing.T) {
	got := strings.Join(madeUpView().render(110, 24, []string{"castdeck: link-down: eth1 has no carrier"}, style{}), "\n")
	want := strings.TrimPrefix(`
castdeck record  4s  3 groups  feed.pcapng.zst
81 k/s  81 Mbit/s  204,005 datagrams  42 lost (host: 3)
queue ███░░░░░░░  25 % of 256MiB  receive buffer 64MiB  pressure  25 %  file 1.2 MB

GROUP                                RATE          BITS      DATAGRAMS     LOST  SILENT  LAST 21s
239.1.1.2:5000 on eth0             80 k/s     80 Mbit/s        200,000       42                           ▂▄▆█
239.1.1.1:5000 on eth0 (A line)     1 k/s      1 Mbit/s          4,000        0                           ████
10.0.0.1@232.1.1.1:5000 on eth1      0 /s       0 bit/s              5        0     3 s                   █

castdeck: link-down: eth1 has no carrier`, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if line := madeUpView().line(); line != "4s  81 k/s  81 Mbit/s  204,005 datagrams  42 lost (host: 3)  file 1.2 MB" {
		t.Errorf("%q", line)
	}
}

// TestLiveViewFits: whatever the size, no line is longer than the terminal is wide and
// there are no more of them than it has rows; the names of groups move nothing.
func TestLiveViewFits(t *testing.T) {
	evil := []string{"a\x1b[2Jb\n\r\tc", strings.Repeat("long ", 100), "\u202egnorw", "ok"}
	for i := len(evil); i < 100; i++ {
		evil = append(evil, fmt.Sprintf("group %d", i))
	}
	v := newLiveView("x\x1b[31m", evil, 1)
	v.trouble = "a\x1b[31mb"
	s := recorder.Stats{QueueBytes: 1 << 40, Subscriptions: make([]recorder.SubscriptionStats, len(evil))}
	for i := range s.Subscriptions {
		s.Subscriptions[i] = recorder.SubscriptionStats{Datagrams: 1 << 63, Bytes: 1 << 63, Dropped: 1 << 63}
	}
	v.update(s, time.Hour*100000, time.Second)
	messages := []string{strings.Repeat("m", 1000), "b", "c", "d", "e", "f", "g"}
	for width := minFullColumns; width < 200; width += 7 {
		for height := minFullRows; height < 60; height += 3 {
			lines := v.render(width, height, messages, style{ascii: true})
			if len(lines) > height {
				t.Fatalf("%dx%d: %d lines", width, height, len(lines))
			}
			groups := 0
			for _, line := range lines {
				if n := len([]rune(line)); n > width {
					t.Fatalf("%dx%d: %d characters: %q", width, height, n, line)
				}
				if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Fatalf("%q", line)
				}
				if strings.HasPrefix(line, "group ") {
					groups++
				}
			}
			if height >= 20 && groups < height/4 {
				t.Errorf("%dx%d: only %d groups", width, height, groups)
			}
		}
	}
	if line := v.line(); strings.ContainsFunc(line, unicode.IsControl) {
		t.Errorf("%q", line)
	}
	// Without groups, as with a filter on an interface that is described.
	newLiveView("x", nil, 1).render(80, 24, nil, style{})
}

// TestLiveViewColors: they come and go with the terminal, and change no text.
func TestLiveViewColors(t *testing.T) {
	v := madeUpView()
	colored := strings.Join(v.render(110, 24, nil, style{color: true}), "\n")
	plain := strings.Join(v.render(110, 24, nil, style{}), "\n")
	if strings.Contains(plain, "\x1b") || !strings.Contains(colored, "\x1b["+red+"m239.1.1.2:5000") || !strings.Contains(colored, "\x1b["+yellow+"m10.0.0.1@") {
		t.Errorf("plain %q, colored %q", plain, colored)
	}
	for _, code := range []string{bold, dim, red, yellow, "0"} {
		colored = strings.ReplaceAll(colored, "\x1b["+code+"m", "")
	}
	if colored != plain {
		t.Errorf("%q, and plain %q", colored, plain)
	}
}

// TestLiveViewSorts: by rate over the last intervals, then as on the command line.
func TestLiveViewSorts(t *testing.T) {
	const n = 300
	names := make([]string, n)
	s := recorder.Stats{Subscriptions: make([]recorder.SubscriptionStats, n)}
	for i := range names {
		names[i] = fmt.Sprint(i)
		s.Subscriptions[i].Datagrams = uint64(i * 7919 % n)
	}
	v := newLiveView("x", names, 1)
	v.update(s, time.Second, time.Second)
	order := slices.Clone(v.busiest())
	if !slices.IsSortedFunc(order, func(a, b int) int {
		return int(s.Subscriptions[b].Datagrams) - int(s.Subscriptions[a].Datagrams)
	}) {
		t.Error("not sorted by rate")
	}
	for range sparks + 5 { // what was long ago does not count
		v.update(s, time.Second, time.Second)
	}
	if order = v.busiest(); !slices.IsSorted(order) {
		t.Error("groups without traffic do not stand in their order")
	}
	lines := v.render(100, 20, nil, style{})
	if last := lines[len(lines)-1]; last != "and 286 more" || len(lines) != 20 {
		t.Errorf("%d lines, the last is %q", len(lines), last)
	}
}

func BenchmarkLiveView(b *testing.B) {
	const n = 2000
	names := make([]string, n)
	s := recorder.Stats{Subscriptions: make([]recorder.SubscriptionStats, n)}
	for i := range names {
		names[i] = fmt.Sprintf("239.1.%d.%d:5000 on eth0", i>>8, i&255)
	}
	v := newLiveView("x", names, 1)
	for b.Loop() {
		for i := range s.Subscriptions {
			s.Subscriptions[i].Datagrams += uint64(i)
		}
		v.update(s, time.Second, time.Second)
		v.render(160, 50, nil, style{color: true})
	}
}
