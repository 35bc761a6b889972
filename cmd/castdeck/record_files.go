package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"

	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/recorder"
)

// fileFlags are the flags of record that say what is written where, and when.
type fileFlags struct {
	outputs     []string
	rotate      rotateValue
	keep        keepValue
	minFree     sizeValue
	maxSize     sizeValue
	onFull      string
	onSegment   string
	hookTimeout durationValue
	startAt     timeValue
	ring        ringValue
	trigger     string
	stuckAfter  time.Duration // a test sets it
}

// storeFrom is the pressure from which chunks are stored: what waits for more than a moment
// has left the processor's cache and takes longer yet, and a small queue is full soon.
func storeFrom(queue int64) float64 { return min(16<<20/float64(queue), 0.25) }

const (
	// minRotate is some chunks: a file ends behind the chunk that fills it.
	minRotate = minSplitSize
	// maxSegments bounds the segments in the summary.
	maxSegments = 10_000
	// joinAhead is how long before --start-at groups are joined, so that routers and
	// switches forward them by then.
	joinAhead = time.Second
	// stuckAfter is how long the end waits for a disk on which nothing moves.
	stuckAfter = 30 * time.Second
)

func (f *fileFlags) addFlags(fl *pflag.FlagSet) {
	f.minFree = sizeValue{max: 1 << 60}
	f.maxSize = sizeValue{max: 1 << 60}
	f.hookTimeout = durationValue{Duration: time.Minute, min: time.Second, max: 24 * time.Hour}
	f.stuckAfter = stuckAfter
	fl.StringArrayVarP(&f.outputs, "output", "o", nil, "`FILE` to write: *.pcapng.zst, *.pcapng.gz, *.pcapng or *.pcap; its name can hold a time (%Y%m%d-%H%M%S, UTC); may be repeated")
	fl.Var(&f.rotate, "rotate", "begin a new file when `LIMITS` are reached, such as 1GB,1h,5000000datagrams; times are whole hours and so on, UTC")
	fl.Var(&f.keep, "keep", "delete the oldest sealed files beyond `LIMITS`, such as 100GB,7d,100segments; also those of earlier runs")
	fl.Var(&f.minFree, "min-free", "the disk counts as full with less than `SIZE` free; see --on-full")
	fl.StringVar(&f.onFull, "on-full", "", "when the disk is full: `stop|delete-oldest|pause` (default delete-oldest with --min-free and files to choose from, else stop)")
	fl.Var(&f.maxSize, "max-size", "stop when this much is on disk, behind the chunk that reaches it")
	fl.StringVar(&f.onSegment, "on-segment", "", "run `CMD` PATH for each sealed file, without a shell; CASTDECK_SEGMENT, CASTDECK_DATAGRAMS and so on are in its environment")
	fl.Var(&f.hookTimeout, "on-segment-timeout", "end a command of --on-segment after this long")
	fl.Var(&f.startAt, "start-at", "record datagrams from `TIME` on, and join a second before: RFC 3339, seconds or ns since 1970, or +10s from now")
	fl.Var(&f.ring, "ring", "write nothing before --trigger, and then also the last `TIME[,SIZE]`, such as 30s,1GiB (default size 256MiB, in memory)")
	fl.StringVar(&f.trigger, "trigger", "SIGUSR2", "the `SIGNAL` that --ring waits for")
}

// limits are a size, a time and a count, as --rotate and --keep take them.
type limits struct {
	bytes int64
	span  time.Duration
	count uint64
}

// set reads one or more limits, separated by commas. count is what is counted.
func (l *limits) set(text, count, example string) error {
	n := *l
	for part := range strings.SplitSeq(text, ",") {
		digits := strings.TrimLeft(part, "0123456789.")
		number, unit := part[:len(part)-len(digits)], strings.TrimSpace(digits)
		twice := false
		switch multiple, ok := countUnit(unit, count); {
		case number == "":
			return fmt.Errorf("%q is no limit; write %s", part, example)
		case unit == "":
			return fmt.Errorf("%q has no unit; write %s", part, example)
		case ok:
			v, err := strconv.ParseUint(number, 10, 64)
			if err != nil || v == 0 || v > 1<<60/multiple {
				return fmt.Errorf("%q is no number of %s; write a whole number from 1 on", part, count)
			}
			twice, n.count = n.count != 0, v*multiple
		case sizeUnits[strings.ToLower(unit)] != 0:
			v, err := parseSize(part)
			if err != nil {
				return err
			}
			if v <= 0 {
				return fmt.Errorf("%q is no limit", part)
			}
			twice, n.bytes = n.bytes != 0, v
		default:
			v, err := parseSpan(part)
			if err != nil {
				return fmt.Errorf("%q is no limit; write %s", part, example)
			}
			twice, n.span = n.span != 0, v
		}
		if twice {
			return fmt.Errorf("%q: there is a limit of this kind already", part)
		}
	}
	*l = n
	return nil
}

// countUnit reads such as datagrams, kdatagrams and Mdatagrams.
func countUnit(unit, count string) (uint64, bool) {
	one := strings.TrimSuffix(count, "s")
	for prefix, n := range map[string]uint64{"": 1, "k": 1e3, "M": 1e6} {
		if unit == prefix+one || unit == prefix+count {
			return n, true
		}
	}
	return 0, false
}

// parseSpan reads a positive duration, also in days.
func parseSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n <= 0 || n > 36500 {
			return 0, fmt.Errorf("%q is no number of days", s)
		}
		return time.Duration(n * 24 * float64(time.Hour)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no duration", s)
	}
	return d, nil
}

func (l *limits) String() string {
	var parts []string
	if l.bytes > 0 {
		parts = append(parts, formatSize(l.bytes))
	}
	if l.span > 0 {
		parts = append(parts, l.span.String())
	}
	if l.count > 0 {
		parts = append(parts, strconv.FormatUint(l.count, 10))
	}
	return strings.Join(parts, ",")
}

func (*limits) Type() string { return "LIMITS" }

type rotateValue struct{ limits }

func (v *rotateValue) Set(s string) error {
	if err := v.set(s, "datagrams", "a size, a time or a number of datagrams, such as 1GB, 1h, 5000000datagrams or several with commas"); err != nil {
		return err
	}
	if v.bytes != 0 && v.bytes < minRotate {
		return fmt.Errorf("%s is too small for a file; the least is %s", formatSize(v.bytes), formatSize(minRotate))
	}
	if v.span != 0 && v.span < time.Millisecond {
		return fmt.Errorf("%s is too short for a file; the least is 1ms", v.span)
	}
	return nil
}

type keepValue struct{ limits }

func (v *keepValue) Set(s string) error {
	return v.set(s, "segments", "a size, an age or a number of segments, such as 100GB, 7d, 100segments or several with commas")
}

// ringValue is --ring: a time, and perhaps a size.
type ringValue struct {
	span  time.Duration
	bytes int64
}

func (v *ringValue) Set(s string) error {
	span, size, given := strings.Cut(s, ",")
	n := ringValue{bytes: 256 << 20}
	var err error
	if n.span, err = parseSpan(span); err != nil {
		return fmt.Errorf("%q is no time; write such as 30s, or 30s,1GiB with the memory it may take", span)
	}
	if given {
		if n.bytes, err = parseSize(size); err != nil {
			return err
		}
		if n.bytes < 1<<20 {
			return fmt.Errorf("%s is too small for a ring; the least is 1MiB", size)
		}
	}
	*v = n
	return nil
}

func (v *ringValue) String() string {
	if v.span == 0 {
		return ""
	}
	return v.span.String() + "," + formatSize(v.bytes)
}

func (*ringValue) Type() string { return "TIME[,SIZE]" }

// check refuses flags that contradict each other.
func (f *recordFlags) checkFiles() error {
	if len(f.outputs) == 0 {
		return usagef("record: name the file to write with -o, such as -o feed.pcapng.zst")
	}
	if f.ring.span > 0 {
		switch {
		case f.startAt.text != "":
			return usagef("--ring waits for a signal, --start-at for a time; give one of them")
		case f.count > 0:
			return usagef("--count counts what is received, and with --ring most of that is not written; give --duration or --max-size, which begin with the trigger")
		case triggerSignal == nil:
			return usagef("--ring: this system has no signal SIGUSR2")
		}
	}
	if s := strings.TrimPrefix(strings.ToUpper(f.trigger), "SIG"); s != "USR2" {
		return usagef("--trigger %s: the signal is SIGUSR2; the others have another meaning", f.trigger)
	}
	if f.count > 0 && f.startAt.text != "" {
		return usagef("--count counts what is received, and before --start-at that is not written; give --duration or --max-size")
	}
	return nil
}

// recordFiles are all files of a recording: a series for each -o. It implements
// format.BatchWriter and format.Flusher.
type recordFiles struct {
	f     *recordFlags
	sinks []*sink
	gate  *recorder.Gate // nil where everything is written from the start on
	hook  *hook
	subs  []recorder.Subscription
	// interfaces, info and store are known when the first file is made.
	interfaces []format.Interface
	info       format.SegmentInfo
	store      func() bool
	end        func() // ends the recording
	opened     func() // called when the gate opens, if there is one

	mu       sync.Mutex // one call at a time into the series and the gate
	moved    atomic.Uint64
	passed   atomic.Uint64 // by the gate
	closed   bool
	closeErr error

	listing sync.Mutex
	listed  []segmentJSON
	omitted int
}

// sink is one -o.
type sink struct {
	path    string
	several bool
	kind    outputKind
	series  *segment.Series
	err     error                 // it takes no more
	failed  atomic.Pointer[error] // err, for any goroutine
}

// fail is the end of an output.
func (s *sink) fail(err error) {
	s.err = err
	s.failed.Store(&err)
}

// newFiles checks everything that can be checked before the groups are joined.
func (f *recordFlags) newFiles(subs []recorder.Subscription, end func()) (*recordFiles, error) {
	if err := f.checkFiles(); err != nil {
		return nil, err
	}
	durable, err := segment.ParseSync(f.sync)
	if err != nil {
		return nil, usagef("--sync: %v", err)
	}
	r := &recordFiles{f: f, end: end, subs: subs}
	var options []segment.SeriesOptions
	for _, path := range f.outputs {
		kind, err := kindOf(path, f.compress)
		if err != nil {
			return nil, err
		}
		s := &sink{path: path, kind: kind}
		o, err := r.seriesOptions(s, durable)
		if err != nil {
			return nil, err
		}
		r.sinks, options = append(r.sinks, s), append(options, o)
	}
	if f.onSegment != "" {
		if r.hook, err = startHook(f.onSegment, f.hookTimeout.Duration, f.stderr, r.hookFailed); err != nil {
			return nil, err
		}
	}
	for i, s := range r.sinks {
		if s.series, err = segment.OpenSeries(options[i]); err != nil {
			r.Close()
			return nil, explainCreate(s.path, err)
		}
	}
	return r, nil
}

func (r *recordFiles) seriesOptions(s *sink, durable segment.Sync) (o segment.SeriesOptions, err error) {
	f := r.f
	rotates := f.rotate.limits != limits{}
	names, err := segment.ParseNames(s.path, rotates)
	if err != nil {
		return o, usagef("--output: %v", err)
	}
	s.several = names.Timed() || names.Numbered()
	switch {
	case s.several && f.force:
		return o, usagef("--force: files of %s are never overwritten, because each has a name of its own", s.path)
	case f.keep.limits != limits{} && !s.several:
		return o, usagef("--keep: %s is one file; add --rotate, or a time to the name such as feed-%%Y%%m%%d-%%H%%M%%S.pcapng.zst", s.path)
	}
	o = segment.SeriesOptions{
		Names:    names,
		Rotate:   segment.Rotate{Bytes: f.rotate.bytes, Every: f.rotate.span, Datagrams: f.rotate.count},
		Keep:     segment.Keep{Bytes: f.keep.bytes, Age: f.keep.span, Segments: int(f.keep.count)},
		MinFree:  f.minFree.bytes,
		MaxBytes: f.maxSize.bytes,
		Event:    func(e segment.Event) { r.event(s, e) },
		Lock:     f.ring.span > 0 || f.startAt.text != "", // no file for now
	}
	switch {
	case f.onFull != "":
		if o.OnFull, err = segment.ParseOnFull(f.onFull); err != nil {
			return o, usagef("--on-full: %v", err)
		}
		if o.OnFull == segment.FullDelete && !s.several {
			return o, usagef("--on-full delete-oldest: %s is one file; add --rotate, or a time to the name such as feed-%%Y%%m%%d-%%H%%M%%S.pcapng.zst", s.path)
		}
	case f.minFree.bytes > 0 && s.several:
		o.OnFull = segment.FullDelete
	}
	if !s.several {
		if err := notAFile(s.path); err != nil {
			return o, err
		}
		if _, err := os.Lstat(s.path); err == nil && !f.force {
			return o, explainCreate(s.path, fs.ErrExist)
		}
	}
	base := segment.Options{Overwrite: f.force, Sync: durable}
	recording := segment.NewUUID()
	if f.rotate.bytes > 0 {
		// A file ends with a chunk: small ones have small chunks. 0 is the default.
		if chunk := f.rotate.bytes / 16; chunk < 512<<10 {
			base.ChunkSize = int(chunk)
		}
	}
	o.Create = func(path string, number uint32, fsys segment.FS) (segment.Part, error) {
		o := base
		o.Info, o.FS, o.Interfaces, o.Store = r.info, fsys, r.interfaces, r.store
		o.Info.Recording, o.Info.Number = recording, number
		o.Overwrite = o.Overwrite && path == s.path
		if err := notAFile(path); err != nil {
			return nil, err
		}
		out, err := openOutput(path, s.kind, o)
		switch {
		case errors.Is(err, fs.ErrExist):
			return nil, err
		case err != nil:
			return nil, explainCreate(path, err)
		}
		out.made, _ = os.Stat(path)
		if out.seg != nil {
			return segmentPart{part{out}}, nil
		}
		return part{out}, nil
	}
	return o, nil
}

// part is an output as a series sees it.
type part struct{ *output }

func (p part) Size() int64            { return p.size() }
func (p part) Written() (n, b uint64) { return p.written() }

// segmentPart tells losses too.
type segmentPart struct{ part }

func (p segmentPart) InFile(ifc uint16) (packets, dropped uint64) { return p.seg.InFile(ifc) }

// compress says whether any output does.
func (r *recordFiles) compress() bool {
	return slices.ContainsFunc(r.sinks, func(s *sink) bool { return s.kind.compression != format.None })
}

// begin makes the first files, or the gate before them. rec has joined.
func (r *recordFiles) begin(rec *recorder.Recorder, from int64, opened func()) error {
	r.mu.Lock() // work is under way
	defer r.mu.Unlock()
	r.interfaces, r.opened = rec.Interfaces(), opened
	r.info = r.f.sourceFlags.info(segmentInfo(r.subs), rec.Clock())
	// Losing compression is better than losing datagrams.
	most := storeFrom(r.f.queue.bytes)
	r.store = func() bool { return rec.Pressure() > most }
	switch {
	case r.f.ring.span > 0:
		r.gate = recorder.NewGate(allSinks{r}, recorder.GateOptions{Keep: r.f.ring.span, Memory: r.f.ring.bytes})
	case from != 0:
		r.gate = recorder.NewGate(allSinks{r}, recorder.GateOptions{From: from})
	default:
		for _, s := range r.sinks {
			if err := s.series.Begin(); err != nil {
				return explainCreate(s.path, err)
			}
		}
		opened()
	}
	return nil
}

func (r *recordFiles) WriteBatch(b *format.Batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.moved.Add(1)
	if r.gate == nil {
		return r.write(b)
	}
	before := r.gate.Opened()
	err := r.gate.WriteBatch(b)
	r.passed.Store(r.gate.PassedBy())
	if !before && r.gate.Opened() {
		r.opened()
	}
	return err
}

// allSinks is what stands behind the gate.
type allSinks struct{ r *recordFiles }

func (a allSinks) WriteBatch(b *format.Batch) error { return a.r.write(b) }

func (r *recordFiles) write(b *format.Batch) error {
	return r.each(func(s *sink) error {
		err := s.series.WriteBatch(b)
		if err == nil && s.series.Reached() {
			r.end()
		}
		return err
	})
}

// each calls f for all that still work. One that fails does not take the others down;
// an error is that none is left.
func (r *recordFiles) each(f func(*sink) error) error {
	var first error
	live := 0
	for _, s := range r.sinks {
		if s.err == nil {
			if err := f(s); err != nil {
				s.fail(err)
				if len(r.sinks) > 1 {
					r.tell(noticeJSON{Event: "output-failed", Path: s.path, Error: s.err.Error()},
						"%v; the recording goes on without %s", s.err, s.path)
				}
			}
		}
		if s.err == nil {
			live++
		} else if first == nil {
			first = s.err
		}
	}
	if live > 0 {
		return nil
	}
	return first
}

func (r *recordFiles) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.moved.Add(1)
	return r.each(func(s *sink) error { return s.series.Flush() })
}

// Rotate begins new files; false where the files are single ones.
func (r *recordFiles) rotate() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	several := false
	if r.each(func(s *sink) error {
		if !s.several {
			return nil
		}
		several = true
		return s.series.Rotate()
	}) != nil {
		r.end()
	}
	return several
}

func (r *recordFiles) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if r.each(func(s *sink) error { return s.series.Tick() }) != nil {
		r.end()
	}
}

// pull opens the gate of --ring.
func (r *recordFiles) pull(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gate == nil || r.f.ring.span == 0 {
		r.tell(noticeJSON{Event: "trigger-ignored"}, "SIGUSR2: there is nothing to trigger, see --ring")
		return
	}
	if r.gate.Opened() {
		r.tell(noticeJSON{Event: "trigger-ignored"}, "SIGUSR2: triggered before; the recording goes on")
		return
	}
	oldest, ok := r.gate.Held()
	reach := time.Duration(0)
	if ok {
		reach = min(now.Sub(time.Unix(0, oldest)), r.f.ring.span)
	}
	short := ""
	if reach < r.f.ring.span && r.gate.Crowded() > 0 {
		short = fmt.Sprintf(", which is all that %s hold", formatSize(r.f.ring.bytes))
	}
	r.tell(noticeJSON{Event: "triggered", Seconds: reach.Seconds()}, "triggered: writing the last %.1f s%s, and what follows", reach.Seconds(), short)
	err := r.gate.Open(now.UnixNano())
	r.passed.Store(r.gate.PassedBy())
	r.opened()
	if err != nil {
		r.end()
	}
}

// work does what is due by the clock and by signals until stop is called.
func (r *recordFiles) work() (stop func()) {
	signals := make(chan os.Signal, 8)
	for _, s := range []os.Signal{rotateSignal, triggerSignal} {
		if s != nil {
			signal.Notify(signals, s)
		}
	}
	quit := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				r.tick()
			case s := <-signals:
				switch s {
				case rotateSignal:
					if !r.rotate() {
						r.end() // there is no name for another file
					}
				case triggerSignal:
					r.pull(time.Now())
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(quit)
	}
}

// Close seals everything and waits for --on-segment. It returns the first error of any
// output. Closing again does nothing.
func (r *recordFiles) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.closeErr
	}
	r.closed = true
	if r.gate != nil {
		r.gate.Finish()
		r.passed.Store(r.gate.PassedBy())
	}
	for _, s := range r.sinks {
		if s.series == nil {
			continue
		}
		if err := s.series.Close(); err != nil && s.err == nil {
			s.fail(err)
		}
		r.moved.Add(1)
		if r.closeErr == nil {
			r.closeErr = s.err
		}
	}
	if r.hook != nil {
		r.hook.close()
	}
	return r.closeErr
}

// totals of the output that has the least, of those that work if there are any. Passed
// counts what came before the gate opened or after --max-size too. It never waits for a
// disk.
func (r *recordFiles) totals() (t segment.SeriesTotals) {
	found, working := false, false
	for _, s := range r.sinks {
		works := s.failed.Load() == nil
		if n := s.series.Totals(); !found || works && !working || works == working && n.Datagrams < t.Datagrams {
			t, found, working = n, true, works
		}
	}
	t.Passed += r.passed.Load()
	return t
}

// lost is what was not written for want of room so far.
func (r *recordFiles) lost() (n uint64) {
	for _, s := range r.sinks {
		n = max(n, s.series.Totals().Lost)
	}
	return n
}

// size of all files, also of those that were deleted.
func (r *recordFiles) size() (n int64) {
	for _, s := range r.sinks {
		n += s.series.Totals().FileBytes
	}
	return n
}

// trouble says which output does not take what is received, and why, or "". It never
// waits for a disk.
func (r *recordFiles) trouble() string {
	for _, s := range r.sinks {
		switch err := s.failed.Load(); {
		case err != nil:
			return fmt.Sprintf("%s takes no more: %v", s.path, *err)
		case s.series.Totals().Paused:
			return fmt.Sprintf("%s: nothing is written for want of room", s.path)
		}
	}
	return ""
}

// fileCounts are the files of all outputs: how many, whether one is paused, and for how
// long a disk kept them waiting.
func (r *recordFiles) fileCounts() (sum segment.SeriesTotals) {
	for _, s := range r.sinks {
		t := s.series.Totals()
		sum.Sealed, sum.Deleted, sum.Paused, sum.Slow = sum.Sealed+t.Sealed, sum.Deleted+t.Deleted, sum.Paused || t.Paused, sum.Slow+t.Slow
	}
	return sum
}

// path for people.
func (r *recordFiles) path() string {
	n := 0
	for _, s := range r.sinks {
		n += s.series.Totals().Sealed
	}
	name := strings.Join(r.f.outputs, ", ")
	if n > len(r.sinks) {
		name += fmt.Sprintf(" (%s)", plural(n, "file"))
	}
	return name
}

// addTo puts what is known of files into the summary.
func (r *recordFiles) addTo(j *recordJSON) {
	r.listing.Lock()
	defer r.listing.Unlock()
	j.Segments, j.SegmentsOmitted = r.listed, r.omitted
	for _, s := range r.sinks {
		j.SegmentsDeleted += s.series.Totals().Deleted
	}
	if t := r.totals(); r.gate != nil || r.f.maxSize.bytes > 0 {
		j.PassedBy = &t.Passed
	}
	if r.hook != nil {
		n := r.hook.failures.Load()
		j.HookFailures = &n
	}
}

// explain says to people what else there is to say at the end.
func (r *recordFiles) explain() {
	if r.gate == nil {
		return
	}
	if n := r.totals().Passed; n > 0 {
		r.tell(noticeJSON{}, "%s passed by before the recording began or after it had its size; they are no loss", plural(n, "datagram"))
	}
}

// noticeJSON is one event of record --json.
type noticeJSON struct {
	Event     string  `json:"event"`
	Path      string  `json:"path,omitempty"`
	Number    *uint32 `json:"number,omitempty"`
	Datagrams *uint64 `json:"datagrams,omitempty"`
	Bytes     *uint64 `json:"bytes,omitempty"`
	FileBytes *int64  `json:"file_bytes,omitempty"`
	StartNS   int64   `json:"start_ns,omitempty"`
	EndNS     int64   `json:"end_ns,omitempty"`
	Lost      *uint64 `json:"lost,omitempty"`
	Seconds   float64 `json:"seconds,omitempty"`
	Reason    string  `json:"reason,omitempty"`
	Error     string  `json:"error,omitempty"`
}

// tell says something to people and to machines.
func (r *recordFiles) tell(e noticeJSON, format string, args ...any) {
	if format != "" {
		fmt.Fprintf(r.f.stderr, "castdeck: %s\n", oneLine(fmt.Sprintf(format, args...)))
	}
	if r.f.json {
		_ = json.NewEncoder(r.f.stdout).Encode(e)
	}
}

func (r *recordFiles) hookFailed(path string, err error) {
	r.tell(noticeJSON{Event: "on-segment-failed", Path: path, Error: err.Error()}, "--on-segment for %s: %v", path, err)
}

func (r *recordFiles) event(s *sink, e segment.Event) {
	r.moved.Add(1)
	switch e.Kind {
	case segment.EventUnsealed:
		r.list(e)
	case segment.EventSealed:
		r.list(e)
		r.tell(noticeJSON{Event: "segment", Path: e.Path, Number: &e.Number, Datagrams: &e.Datagrams, Bytes: &e.Bytes,
			FileBytes: &e.FileBytes, StartNS: e.First, EndNS: e.Last}, "")
		if r.hook != nil {
			r.hook.add(e)
		}
	case segment.EventDeleted:
		r.listing.Lock()
		for i := range r.listed {
			if r.listed[i].Path == e.Path {
				r.listed[i].Deleted = true
				break
			}
		}
		r.listing.Unlock()
		r.tell(noticeJSON{Event: "deleted", Path: e.Path, FileBytes: &e.FileBytes, Reason: e.Reason}, "deleted %s: %s", e.Path, e.Reason)
	case segment.EventKept:
		r.tell(noticeJSON{Event: "delete-failed", Path: e.Path, FileBytes: &e.FileBytes, Reason: e.Reason, Error: e.Err.Error()},
			"cannot delete %s (%s): %v", e.Path, e.Reason, segment.Cause(e.Err))
	case segment.EventPaused:
		r.tell(noticeJSON{Event: "paused", Path: s.path, Lost: &e.Lost, Reason: e.Reason},
			"%s: nothing is written for now: %s; what comes is counted as lost until there is room", s.path, e.Reason)
	case segment.EventResumed:
		r.tell(noticeJSON{Event: "resumed", Path: e.Path, Lost: &e.Lost},
			"%s: there is room again; %s not written so far", e.Path, plural(e.Lost, "datagram"))
	case segment.EventSlow:
		r.tell(noticeJSON{Event: format.EventDiskSlow, Path: e.Path, Reason: e.Reason}, "%s: %s", e.Path, e.Reason)
	}
}

func (r *recordFiles) list(e segment.Event) {
	r.listing.Lock()
	defer r.listing.Unlock()
	if len(r.listed) == maxSegments {
		r.listed = append(r.listed[:0], r.listed[1:]...)
		r.omitted++
	}
	r.listed = append(r.listed, segmentJSON{Path: e.Path, Datagrams: e.Datagrams, Bytes: e.Bytes, FileBytes: e.FileBytes,
		Unsealed: e.Kind == segment.EventUnsealed})
}

// startTime is --start-at as ns since the Unix epoch, 0 where it is not given.
func (f *recordFlags) startTime(now time.Time) (int64, error) {
	if f.startAt.text == "" {
		return 0, nil
	}
	at := f.startAt.at(now.UnixNano())
	if at < now.UnixNano() {
		return 0, usagef("--start-at %s is in the past", f.startAt.text)
	}
	return at, nil
}

// waitUntil returns a second before the time, or when ctx ends.
func waitUntil(ctx context.Context, at int64) {
	t := time.NewTimer(time.Until(time.Unix(0, at)) - joinAhead)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// runRecorder runs rec into w, which stands before the files, calls last and seals
// them. After the end was asked for it
// waits for a slow disk, but not for one on which nothing moves for f.stuckAfter: then
// stuck is true, and rec and files are still at work.
func (r *recordFiles) runRecorder(ctx context.Context, rec *recorder.Recorder, w format.BatchWriter, last func() error) (err error, stuck bool) {
	done := make(chan error, 1)
	go func() {
		err := rec.Run(ctx, w)
		if lerr := last(); err == nil {
			err = lerr
		}
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err, false
	case <-ctx.Done():
	}
	moved, since := r.moved.Load(), time.Now()
	tick := time.NewTicker(min(r.f.stuckAfter/10, time.Second))
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err, false
		case <-tick.C:
		}
		if n := r.moved.Load(); n != moved {
			moved, since = n, time.Now()
		} else if time.Since(since) >= r.f.stuckAfter {
			return fmt.Errorf("%s: the disk has not answered for %s; what it did not take is lost, and the counts may be incomplete",
				strings.Join(r.f.outputs, ", "), r.f.stuckAfter), true
		}
	}
}
