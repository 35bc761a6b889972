package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"castdeck/recorder"
)

const (
	// viewInterval is the longest time between two pictures on a terminal.
	viewInterval = time.Second
	// statusInterval is that between two lines for systemd.
	statusInterval = 5 * time.Second
)

// watchSignals makes USR1 and changes of the terminal's size arrive on f.asked.
func (f *recordFlags) watchSignals() (stop func()) {
	f.asked = make(chan os.Signal, 4)
	for _, s := range []os.Signal{statsSignal, resizeSignal} {
		if s != nil {
			signal.Notify(f.asked, s)
		}
	}
	return func() { signal.Stop(f.asked) }
}

// report tells of the recording until the function that it returns is called: JSON at
// each interval, what the terminal shows, and an answer to each USR1. When ctx ends the
// terminal is as it was.
func (f *recordFlags) report(ctx context.Context, rec *recorder.Recorder, files *recordFiles, start time.Time) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	snapshot := func() recorder.Stats {
		s := stats(rec)
		s.Dropped.Writer += files.lost()
		f.host = f.meter.read()
		return s
	}
	ticker := func(wanted bool, interval time.Duration) (<-chan time.Time, func()) {
		if !wanted {
			return nil, func() {}
		}
		t := time.NewTicker(interval)
		return t.C, t.Stop
	}
	go func() {
		defer close(done)
		defer f.console.leave()
		lines, stopLines := ticker(f.json, f.interval.Duration)
		defer stopLines()
		pictures, stopPictures := ticker(f.console.terminal(), min(f.interval.Duration, viewInterval))
		defer stopPictures()
		status, stopStatus := ticker(f.service.there, statusInterval)
		defer stopStatus()
		var v *liveView
		if f.console.terminal() {
			var groups []string
			for _, i := range rec.Interfaces() {
				groups = append(groups, i.Description)
			}
			v = newLiveView(strings.Join(f.outputs, ", "), groups, f.queue.bytes)
		}
		last := start
		ended := ctx.Done()
		for {
			select {
			case <-quit:
				return
			case <-ended:
				f.console.leave()
				ended = nil
			case now := <-lines:
				f.printStats(snapshot(), now.Sub(start))
			case now := <-pictures:
				v.update(snapshot(), now.Sub(start), now.Sub(last))
				v.hostLost, v.fileBytes, v.pressure, v.trouble = f.host.Lost(), files.size(), rec.Pressure(), f.monitor.trouble(now)
				last = now
				f.console.draw(v)
			case <-status:
				f.service.status(f.line(snapshot(), files, time.Since(start)))
			case s := <-f.asked:
				switch {
				case s == resizeSignal && v == nil:
				case s == resizeSignal:
					f.console.draw(v)
				case f.json:
					f.printStats(snapshot(), time.Since(start))
				default:
					fmt.Fprintf(f.stderr, "castdeck: %s\n", oneLine(f.line(snapshot(), files, time.Since(start))))
				}
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

func (f *recordFlags) printStats(s recorder.Stats, elapsed time.Duration) {
	_ = json.NewEncoder(f.stdout).Encode(f.toJSON("stats", s, elapsed))
}

// line is a recording so far, in words.
func (f *recordFlags) line(s recorder.Stats, files *recordFiles, elapsed time.Duration) string {
	d := s.Dropped
	text := fmt.Sprintf("%s, %s payload in %s, %s on average; %s lost, %s cut short; queue %s of %s, %s on disk", plural(s.Datagrams, "datagram"), size(s.Bytes),
		elapsed.Round(time.Second), rate(s.Datagrams, elapsed), count(d.Kernel+d.Writer), count(d.Truncated), size(s.QueueBytes), formatSize(f.queue.bytes), size(files.size()))
	idle := 0
	for _, sub := range s.Subscriptions {
		if sub.Datagrams == 0 {
			idle++
		}
	}
	if idle > 0 {
		text += fmt.Sprintf("; nothing came for %d of %s", idle, plural(len(s.Subscriptions), "group"))
	}
	if why := f.monitor.trouble(time.Now()); why != "" {
		text += "; " + why
	}
	return text
}
