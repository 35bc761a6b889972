package recorder

import (
	"fmt"
	"strings"
	"time"

	"castdeck/format"
)

// batchEvents bounds the events in a batch.
const batchEvents = 1024

// note puts an event into the recording.
func (l *loop) note(e format.Event) {
	if len(l.batch.Events) >= batchEvents {
		l.handOver()
	}
	if l.batch.Empty() {
		l.begun = l.now
	}
	l.batch.Events = append(l.batch.Events, e)
}

func (l *loop) noteUnwatched() {
	if l.unwatched != nil {
		l.note(format.Event{Time: l.realtime(), Monotonic: l.now, Kind: format.EventUnwatched, Interface: format.NoInterface,
			Text: fmt.Sprintf("changes of the interfaces are not noticed, and groups not joined again: %v", l.unwatched)})
	}
}

// noteStep notes that the clock was set, from what it would have said to now.
func (l *loop) noteStep(from, to, mono int64) {
	stamp := func(ns int64) string { return time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000000Z") }
	l.note(format.Event{Time: to, Monotonic: mono, Kind: format.EventClockStep, Interface: format.NoInterface,
		Text: fmt.Sprintf("the system's clock was set by %+v: from %s to %s", time.Duration(to-from), stamp(from), stamp(to))})
}

// listen looks, at a tick, which groups have fallen silent or are heard again: what
// costs nothing while datagrams come.
func (l *loop) listen() {
	for i := range l.subs {
		s := &l.subs[i]
		if s.at == 0 {
			s.at = l.now // the recording begins
		}
		switch came := s.came(); {
		case came != s.seen:
			if s.silent {
				l.noteSilence(i, format.EventResumed, fmt.Sprintf("heard again after %v", l.since(s.at)))
			}
			s.seen, s.at, s.silent = came, l.now, false
		case l.silence != 0 && !s.silent && l.now-s.at >= l.silence:
			s.silent = true
			querier := "IGMP querier (without one a switch forgets a group after 260 s), rp_filter"
			if d := l.interfaces[i].Description; strings.Contains(d, "[") {
				querier = "MLD querier (without one a switch forgets a group after 260 s)"
			}
			l.noteSilence(i, format.EventSilent, fmt.Sprintf("nothing for %v: check the sender, the VLAN, the %s and the firewall", l.since(s.at), querier))
		}
	}
}

func (l *loop) since(then int64) time.Duration {
	return time.Duration(l.now - then).Round(100 * time.Millisecond)
}

func (l *loop) noteSilence(i int, kind, text string) {
	l.note(format.Event{Time: l.realtime(), Monotonic: l.now, Kind: kind, Interface: int32(i), Text: l.interfaces[i].Description + ": " + text})
}
