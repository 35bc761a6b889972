package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"castdeck/analysis/report"
)

// TestPageIsWholeOrNotThere: where a page cannot be made there is none, and the one that
// was there before stays.
func TestPageIsWholeOrNotThere(t *testing.T) {
	bad := &report.Document{Recording: &report.Recording{Numberings: []report.Numbering{{Confidence: math.NaN()}}}} // which JSON has no word for
	for name, before := range map[string]string{"new.html": "", "old.html": "what was there"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if before != "" {
			if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := pageFile{path: path, force: true}
		if _, err := p.write(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got, _ := os.ReadFile(path); string(got) != before {
			t.Errorf("%s: %q is there", name, got)
		}
		if _, err := p.write(&report.Document{Title: "fine"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if list, _ := os.ReadDir(dir); len(list) != 1 {
			t.Errorf("%s: left behind: %v", name, list)
		}
	}
}
