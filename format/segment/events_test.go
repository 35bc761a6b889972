package segment

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"castdeck/format"
)

// withEvents makes a sealed segment in which an event of 1 KiB follows every 5
// datagrams: what chunks close on.
func withEvents(t testing.TB, c format.Compression) (path string, ds []format.Datagram, events []format.Event) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "feed"+c.Extension())
	w, err := Create(path, options(c))
	if err != nil {
		t.Fatal(err)
	}
	ds = feed(21, 1000)
	for i := range 200 {
		e := format.Event{Time: ds[5*i].Time, Monotonic: int64(i + 1), Kind: format.EventLinkDown,
			Text: strings.Repeat("x", format.MaxEventText), Interface: int32(i%4) - 1}
		events = append(events, e)
		if err := w.WriteBatch(&format.Batch{Datagrams: ds[5*i : 5*i+5], Events: []format.Event{e}}); err != nil {
			t.Fatal(err)
		}
	}
	alone := format.Event{Kind: format.EventHost, Interface: format.NoInterface}
	events = append(events, alone)
	err = errors.Join(w.Flush(), w.WriteBatch(&format.Batch{Events: []format.Event{alone}}), w.Close())
	if err != nil {
		t.Fatal(err)
	}
	return path, ds, events
}

func TestEvents(t *testing.T) {
	for _, c := range compressions {
		path, ds, events := withEvents(t, c)
		r := open(t, path)
		var got []format.Event
		var all []format.Datagram
		var b format.Batch
		err := r.ReadBatch(&b)
		for ; err == nil; err = r.ReadBatch(&b) {
			got = append(got, b.Events...)
			for i := range b.Datagrams {
				d := b.Datagrams[i]
				d.Payload = bytes.Clone(d.Payload)
				all = append(all, d)
			}
		}
		if err != io.EOF {
			t.Fatal(err)
		}
		compare(t, all, ds)
		if !slices.Equal(got, events) {
			t.Errorf("%s: %d events read, %d written, or others", c, len(got), len(events))
		}
		if x, err := r.Index(); err != nil || int(x.EventCount) != len(events) || !slices.Equal(x.Events, events) {
			t.Errorf("%s: index of %d events, %v", c, x.EventCount, err)
		}
		if _, problems, err := r.Verify(); err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", c, problems, err)
		}
		tool := unpack(c) + " " + path + " | tshark -r - -T fields -e frame.number | wc -l"
		if _, err := exec.LookPath("tshark"); err != nil {
			t.Log("tshark is not installed: not asked")
		} else if out, err := exec.Command("sh", "-c", tool).Output(); err != nil || strings.TrimSpace(string(out)) != "1000" {
			t.Errorf("%s: tshark reads %s packets, %v", c, out, err)
		}
	}
}

// TestEventOfNoInterface: what the file never described is refused before anything is
// written.
func TestEventOfNoInterface(t *testing.T) {
	w, err := Create(filepath.Join(t.TempDir(), "x.pcapng"), options(format.None))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, bad := range []int32{3, -2, 1 << 20} {
		if err := w.WriteBatch(&format.Batch{Events: []format.Event{{Interface: bad}}}); err == nil {
			t.Errorf("an event of interface %d is taken", bad)
		}
	}
	if w.Tally().Events != 0 {
		t.Errorf("%d events", w.Tally().Events)
	}
}

// TestLyingEventTable: an index that tells of other events than the file has.
func TestLyingEventTable(t *testing.T) {
	path, _, _ := withEvents(t, format.None)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := openBytes(t, b)
	r.index.Events[3].Monotonic++
	if _, problems, err := r.Verify(); err != nil || len(problems) != 1 || !strings.Contains(problems[0], "table of events") {
		t.Errorf("%v, %v", problems, err)
	}
}
