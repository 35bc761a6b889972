package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"castdeck/bench/probe"
)

// histogramLog is the file of --hlog, which HdrHistogram's tools read: a line for each
// step and figure. Values are ns. What the file held before goes with the first line.
type histogramLog struct {
	f   *os.File
	w   *hdrhistogram.HistogramLogWriter // nil before the first line
	err error
}

func newHistogramLog(path string) (*histogramLog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	return &histogramLog{f: f}, nil
}

func (l *histogramLog) begin() {
	if l.w != nil {
		return
	}
	l.w = hdrhistogram.NewHistogramLogWriter(l.f)
	for _, write := range []func() error{
		func() error {
			if st, err := l.f.Stat(); err != nil || !st.Mode().IsRegular() {
				return err
			}
			return l.f.Truncate(0)
		},
		func() error {
			return l.w.OutputComment("castdeck bench: ns; -above-N are less N, because clocks differ")
		},
		l.w.OutputLogFormatVersion, l.w.OutputLegend,
	} {
		l.err = errors.Join(l.err, write())
	}
}

// close closes the file; of nil it does nothing. It returns the first error of all that
// was written.
func (l *histogramLog) close() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.err, l.f.Close())
}

// keep writes a figure of a step that took so long to --hlog.
func (f *probeFlags) keep(step uint32, what string, l probe.Latency, took time.Duration) {
	if f.histograms == nil || l.Histogram == nil {
		return
	}
	tag := fmt.Sprintf("%s-step-%d", what, step)
	if l.Base != 0 {
		tag += fmt.Sprintf("-above-%d", l.Base)
	}
	f.histograms.begin()
	end := time.Now().UnixMilli()
	l.Histogram.SetTag(tag)
	l.Histogram.SetStartTimeMs(end - took.Milliseconds())
	l.Histogram.SetEndTimeMs(end)
	if err := f.histograms.w.OutputIntervalHistogram(l.Histogram); f.histograms.err == nil {
		f.histograms.err = err
	}
}

// keepArrived writes what a receiver measured.
func (f *probeFlags) keepArrived(a *probe.Arrived) {
	took := time.Duration(a.Last - a.First)
	f.keep(a.Step, "one-way", a.OneWay, took)
	f.keep(a.Step, "delay-variation", a.Variation, took)
}
