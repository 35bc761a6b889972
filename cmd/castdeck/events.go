package main

import (
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
