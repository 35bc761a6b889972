package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"castdeck/format"
)

// eventJSON has the fixed keys of an event, in record, dump and info --json.
type eventJSON struct {
	Event       string `json:"event"`
	TimeNS      int64  `json:"time_ns"`
	MonotonicNS int64  `json:"monotonic_ns,omitempty"`
	Interface   string `json:"interface,omitempty"`
	Text        string `json:"text"`
}

func toEventJSON(e *format.Event, names []format.Interface) eventJSON {
	j := eventJSON{Event: oneLine(e.Kind), TimeNS: e.Time, MonotonicNS: e.Monotonic, Text: oneLine(e.Text)}
	if e.Interface != format.NoInterface {
		j.Interface = interfaceName(names, uint16(e.Interface))
	}
	return j
}

// eventLine is an event as a line for people: when, what, where, and the text.
func eventLine(e *format.Event, names []format.Interface) string {
	parts := []string{stamp(e.Time), oneLine(e.Kind)}
	if e.Interface != format.NoInterface {
		parts = append(parts, interfaceName(names, uint16(e.Interface)))
	}
	return strings.Join(parts, " ") + ": " + oneLine(e.Text)
}

// announcer writes a recording on to the next writer, and tells of the events in it.
type announcer struct {
	recordWriter
	say func([]format.Event)
}

// recordWriter is what a recording is written to.
type recordWriter interface {
	format.BatchWriter
	format.Flusher
}

func (a *announcer) WriteBatch(b *format.Batch) error {
	if len(b.Events) > 0 {
		a.say(b.Events)
	}
	return a.recordWriter.WriteBatch(b)
}

// maxAlike is how many events of a kind are shown at a time: with an interface a
// thousand groups fall silent.
const maxAlike = 5

// announce tells of events as JSON lines, or as lines for people.
func (f *recordFlags) announce(events []format.Event, names []format.Interface) {
	shown := map[string]int{}
	for i := range events {
		e := &events[i]
		if f.json {
			_ = json.NewEncoder(f.stdout).Encode(toEventJSON(e, names))
			continue
		}
		if shown[e.Kind]++; shown[e.Kind] <= maxAlike {
			fmt.Fprintf(f.stderr, "castdeck: %s: %s\n", oneLine(e.Kind), oneLine(e.Text))
		}
	}
	for i := range events {
		if n := shown[events[i].Kind] - maxAlike; n > 0 {
			shown[events[i].Kind] = 0
			fmt.Fprintf(f.stderr, "castdeck: %s: %s more\n", oneLine(events[i].Kind), count(n))
		}
	}
}
