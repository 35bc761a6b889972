// Package report makes pages of what analysis found: one HTML file that needs nothing
// else, no network either, with its data in it as JSON.
package report

import (
	"time"

	"castdeck/format"
)

// Document is what a page shows. As JSON it is what the page's script reads, and what
// castdeck report --json prints. One of Recording, Comparison and Replay is set.
//
// Names and texts come from files: whoever makes a Document makes them one line
// without control characters. The page shows them as text whatever they hold.
type Document struct {
	// Kind is "recording", "comparison" or "replay".
	Kind string `json:"kind"`
	// MadeBy names the program and its version.
	MadeBy string `json:"made_by"`
	Title  string `json:"title"`
	// Start is the time from which the fields called at_ns, from_ns and to_ns count, ns
	// since the Unix epoch, and as RFC 3339 with nine decimals.
	StartNS int64  `json:"start_ns"`
	Start   string `json:"start"`
	// SpanNS is how long it all took.
	SpanNS int64 `json:"span_ns"`
	// Verdicts say what was lost or is wrong, or that nothing is.
	Verdicts []Verdict `json:"verdicts"`
	// Figures are the most important numbers, Facts where they come from.
	Figures []Figure `json:"figures"`
	Facts   []Fact   `json:"facts"`
	// Notes say what the page leaves out.
	Notes []string `json:"notes,omitempty"`

	Recording  *Recording  `json:"recording,omitempty"`
	Comparison *Comparison `json:"comparison,omitempty"`
	Replay     *Replay     `json:"replay,omitempty"`
}

// Verdict is a statement on the whole.
type Verdict struct {
	// Level is "good", "bad" or "note".
	Level string `json:"level"`
	Text  string `json:"text"`
}

// Figure is a number with its name and what there is to say of it.
type Figure struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Note  string `json:"note,omitempty"`
}

// Fact is a line of the page's head.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Source is what the caller knows of the input.
type Source struct {
	// MadeBy and Title are those of the Document.
	MadeBy, Title string
	Facts         []Fact
	// Interface names an interface of the input.
	Interface func(i int) string
	// Events of the recording, and Damage: what is wrong with the files.
	Events []format.Event
	Damage []string
}

// document begins one that starts at a time.
func (s *Source) document(kind string, start, end int64) *Document {
	return &Document{
		Kind: kind, MadeBy: s.MadeBy, Title: s.Title, Facts: s.Facts, StartNS: start, SpanNS: max(end-start, 0),
		Start: time.Unix(0, start).UTC().Format("2006-01-02T15:04:05.000000000Z"), Verdicts: []Verdict{}, Figures: []Figure{},
	}
}

func (d *Document) say(level, text string) {
	d.Verdicts = append(d.Verdicts, Verdict{level, text})
}

func (d *Document) figure(name, value, note string) {
	d.Figures = append(d.Figures, Figure{name, value, note})
}
