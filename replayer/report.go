package replayer

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"castdeck/internal/sock"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what a Run did. For every datagram of the source that was read:
//
//	read + Impaired.By[ImpairDuplicate] = Datagrams + SendErrors + DroppedLate + Skipped.Total() + Impaired.Dropped()
//	                                + those read ahead or held back when it was stopped or somebody sought
type Report struct {
	// Datagrams and Bytes (UDP payload; with Options.Raw whole frames) that the kernel took and its queue did not
	// drop.
	Datagrams, Bytes uint64
	// SendErrors counts datagrams that the kernel refused; none of them left. Their
	// causes by errno, such as "ENOBUFS": the queue of the interface was full.
	SendErrors uint64
	Causes     map[string]uint64
	// LateErrors counts what came back by ICMP for datagrams that had left, at
	// least: a unicast destination where nobody listens. They are among Datagrams.
	LateErrors uint64
	// DroppedLate counts datagrams that were left out for being late (Drop), Shifts how
	// often the schedule was moved for it (Shift), by Shifted together.
	DroppedLate, Shifts uint64
	Shifted             time.Duration
	// Skipped are datagrams that were not meant to be sent, by cause.
	Skipped Skipped
	// Impaired and Rewritten tell what Options.Impair and Rewrite did.
	Impaired  Impaired
	Rewritten Rewritten
	// Damaged counts the places of the source that could not be read, and Damage
	// holds the first 100 of them: *format.CorruptError, or what wraps it.
	Damaged uint64
	Damage  []error
	// RecordedDrops counts datagrams that were lost when the recording was made,
	// as far as it says so.
	RecordedDrops uint64
	// PortsNotKept counts recorded source ports, for each IP version, whose
	// datagrams left from another port: see Options.MaxSockets.
	PortsNotKept uint64
	// Segmented counts those of Datagrams that left as parts of Runs; see
	// Options.NoSegmentation. SegmentationRefused is why the kernel stopped taking
	// runs, nil where it did not.
	Segmented, Runs     uint64
	SegmentationRefused error
	// Regrouped counts datagrams that were put at another place of what was read at once,
	// so that runs form: at full speed only, and never within a destination.
	Regrouped uint64
	// Duration is the time from when the first datagram was due until the last had
	// left. Recorded is the recorded time between the first and the latest datagram
	// that was sent or refused by the kernel; gaps that MaxGap shortened count in
	// full.
	Duration, Recorded time.Duration
	// Paused is the part of Duration for which it was paused.
	Paused time.Duration
	// RealtimeRefused is why Options.Realtime could not be had in full; nil where it
	// could, or was not asked for.
	RealtimeRefused error
	// ShortenedGaps counts the gaps that MaxGap shortened, by GapsRemoved together;
	// like Skipped, Damaged and RecordedDrops it includes what was read ahead when
	// the replay was stopped.
	ShortenedGaps uint64
	GapsRemoved   time.Duration
	// RatePPS is Datagrams over Duration without Paused, in datagrams per second; 0
	// where there was only one moment.
	RatePPS float64
	// Lateness is the time at which datagrams had left minus the time they were
	// due; empty with Pacing.Max, where nothing has a time of its own. Datagrams sent
	// by Step are not in it.
	Lateness Lateness
	// IntervalError is by how much the distance in time to the datagram before it, to
	// the same destination, was another than due.
	IntervalError Lateness
	// History is how it went over time; nil without Options.History.
	History *History
	// Destinations are what went where and how, in order of address; after the first
	// 65,536 the rest is counted together under the zero AddrPort, as is what is not UDP.
	Destinations []DestinationReport
}

// Skipped counts datagrams that were not meant to be sent.
type Skipped struct {
	NotUDP    uint64 // packets that are not UDP, or have no destination
	Truncated uint64 // datagrams that were not recorded whole
	Filtered  uint64 // not among Options.Only
}

// Total is the sum of all causes.
func (s Skipped) Total() uint64 { return s.NotUDP + s.Truncated + s.Filtered }

// Lateness are percentiles in ns, exact to three digits, such as of how late
// datagrams left; Max is exact. None is negative. The time is taken when the system call
// that carried a datagram has returned, so it includes that call and is an upper
// bound for all datagrams of a call but the last.
type Lateness struct {
	Count                    int64
	P50, P90, P99, P999, Max int64
	// Histogram holds all values; it belongs to the caller. nil where Count is 0.
	Histogram *hdrhistogram.Histogram
}

// DestinationReport is what went to one destination (after the mappings).
type DestinationReport struct {
	Destination      netip.AddrPort
	Way              Way
	Datagrams, Bytes uint64
	SendErrors       uint64
	DroppedLate      uint64
	MaxLateness      int64 // ns
	// Histograms where Options asks for them, nil otherwise; the caller's.
	Lateness, IntervalError *hdrhistogram.Histogram
}

// report gathers what both sides counted; both have ended.
func (o *outlet) report(f *feeder) Report {
	r := Report{
		Datagrams: o.datagrams, Bytes: o.bytes, SendErrors: o.errors, Causes: map[string]uint64{},
		Skipped: f.skipped, Damaged: f.damaged, Damage: f.damage, RecordedDrops: f.recordedDrops,
		Recorded:      time.Duration(o.recorded()),
		ShortenedGaps: f.schedule.shortened, GapsRemoved: time.Duration(min(f.schedule.gaps(), math.MaxInt64)),
		DroppedLate: o.dropped, Shifts: o.shifts, Shifted: time.Duration(o.shifted), Paused: time.Duration(o.held), RealtimeRefused: o.realtimeRefused,
	}
	if f.impairer != nil {
		r.Impaired = f.impairer.did
	}
	if f.rewriting != nil {
		r.Rewritten = f.rewriting.did
	}
	for n, count := range o.byErrno {
		switch {
		case count == 0:
		case n == 0:
			r.Causes["other"] = count
		default:
			r.Causes[sock.ErrnoName(syscall.Errno(n))] = count
		}
	}
	if o.lastSent != 0 {
		r.Duration = time.Duration(o.lastSent - o.begun)
	}
	if playing := r.Duration - r.Paused; playing > 0 {
		r.RatePPS = float64(r.Datagrams) / playing.Seconds()
	}
	r.Lateness = percentiles(o.lateness, o.maxLateness)
	r.IntervalError = percentiles(o.intervals, o.maxInterval)
	r.History = o.tellHistory()
	all := f.order
	sort.Slice(all, func(i, j int) bool {
		if c := all[i].destination.Compare(all[j].destination); c != 0 {
			return c < 0
		}
		return all[i].way < all[j].way
	})
	if f.other != nil {
		all = append(all, f.other)
	}
	for _, c := range all {
		r.Destinations = append(r.Destinations, DestinationReport{
			Destination: c.destination, Way: f.policy.ways[c.way].Way, Datagrams: c.datagrams, Bytes: c.bytes, SendErrors: c.errors, DroppedLate: c.late, MaxLateness: c.maxLateness,
			Lateness: c.latenesses, IntervalError: c.intervals,
		})
	}
	return r
}

// percentiles of a histogram whose largest value is known. They round up to its
// resolution, but not beyond what happened.
func percentiles(h *hdrhistogram.Histogram, most int64) Lateness {
	if h.TotalCount() == 0 {
		return Lateness{}
	}
	at := func(q float64) int64 { return min(h.ValueAtQuantile(q), most) }
	return Lateness{Count: h.TotalCount(), Max: most, Histogram: h, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9)}
}

// String is the report on one line, for logs and tests.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d datagrams, %d bytes in %s (recorded %s), %.0f/s", r.Datagrams, r.Bytes, r.Duration, r.Recorded, r.RatePPS)
	if r.SendErrors > 0 {
		names := make([]string, 0, len(r.Causes))
		for name := range r.Causes {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintf(&b, ", %d not sent", r.SendErrors)
		for _, name := range names {
			fmt.Fprintf(&b, " %s:%d", name, r.Causes[name])
		}
	}
	if n := r.Skipped.Total(); n > 0 {
		fmt.Fprintf(&b, ", %d skipped (%d not UDP, %d truncated, %d not selected)", n, r.Skipped.NotUDP, r.Skipped.Truncated, r.Skipped.Filtered)
	}
	if r.Damaged > 0 {
		fmt.Fprintf(&b, ", %d damaged places", r.Damaged)
	}
	if l := r.Lateness; l.Count > 0 {
		fmt.Fprintf(&b, ", lateness p50 %s p90 %s p99 %s p99.9 %s max %s", time.Duration(l.P50), time.Duration(l.P90),
			time.Duration(l.P99), time.Duration(l.P999), time.Duration(l.Max))
	}
	return b.String()
}

// Stats is where a Run is.
type Stats struct {
	// Datagrams and Bytes sent so far, and datagrams that the kernel refused.
	Datagrams, Bytes, SendErrors uint64
	// Position is the recorded time of the last datagram sent, ns since the Unix
	// epoch; 0 before the first.
	Position int64
	// Lateness of the last datagram sent, the 99th percentile over all system calls so
	// far (rounded up by at most a quarter), and the largest, in ns.
	Lateness, LatenessP99, MaxLateness int64
	// Speed in force, and whether the replay is paused.
	Speed  float64
	Paused bool
}

// stats are published by the outlet once for each system call.
type stats struct {
	datagrams, bytes, sendErrors    atomic.Uint64
	position, lateness, maxLateness atomic.Int64
	speed                           atomic.Uint64 // a float64
	paused                          atomic.Bool
	// latenesses counts system calls by octave and quarter of their lateness.
	latenesses [64 * 4]atomic.Uint64
}

// quarter is the place of a lateness in stats.latenesses; its top is the largest
// value there.
func quarter(ns int64) int {
	n := uint64(max(ns, 4))
	octave := bits.Len64(n) - 1
	return octave*4 + int(n>>(octave-2)&3)
}

func quarterTop(i int) int64 {
	octave := i / 4
	return int64(5+i%4)<<(octave-2) - 1
}

func (s *stats) p99() int64 {
	var counts [len(s.latenesses)]uint64
	var total uint64
	for i := range counts {
		counts[i] = s.latenesses[i].Load()
		total += counts[i]
	}
	var sum uint64
	for i, n := range counts {
		if sum += n; n > 0 && sum >= total-total/100 {
			return min(quarterTop(i), s.maxLateness.Load())
		}
	}
	return 0
}

func (s *stats) reset() {
	s.datagrams.Store(0)
	s.bytes.Store(0)
	s.sendErrors.Store(0)
	s.position.Store(0)
	s.lateness.Store(0)
	s.maxLateness.Store(0)
	for i := range s.latenesses {
		s.latenesses[i].Store(0)
	}
	s.paused.Store(false)
}

func (s *stats) publish(datagrams, bytes uint64, position, lateness, maxLateness int64) {
	s.datagrams.Store(datagrams)
	s.bytes.Store(bytes)
	s.position.Store(position)
	s.lateness.Store(lateness)
	s.maxLateness.Store(maxLateness)
	s.latenesses[quarter(lateness)].Add(1)
}

// Stats tells where the current Run is, or how the last one ended. Each number is
// right by itself; they are not taken at one moment. Safe for concurrent use.
func (r *Replayer) Stats() Stats {
	return Stats{
		Datagrams: r.stats.datagrams.Load(), Bytes: r.stats.bytes.Load(), SendErrors: r.stats.sendErrors.Load(),
		Position: r.stats.position.Load(), Lateness: r.stats.lateness.Load(), LatenessP99: r.stats.p99(), MaxLateness: r.stats.maxLateness.Load(),
		Speed: math.Float64frombits(r.stats.speed.Load()), Paused: r.stats.paused.Load(),
	}
}
