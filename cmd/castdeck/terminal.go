package main

import (
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// isTerminal says whether people are looking at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// every calls f at each interval, with the time since the call before, until the
// function that it returns is called; that one calls end and waits.
func every(interval time.Duration, f func(now time.Time, since time.Duration), end func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer end()
		tick := time.NewTicker(interval)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-quit:
				return
			case now := <-tick.C:
				f(now, now.Sub(last))
				last = now
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
