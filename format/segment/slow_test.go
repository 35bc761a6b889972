package segment

import (
	"testing"
	"time"

	"castdeck/format"
)

// TestSlowDisk: a disk that keeps the writer waiting is told of, at most every ten
// seconds and without leaving any out, and noted in the file.
func TestSlowDisk(t *testing.T) {
	o, clock, log := seriesOptions(t, t.TempDir(), "a.pcapng", false)
	var takes time.Duration
	o.FS = &diskFS{block: func(op, _ string) {
		if op == "write" {
			clock.move(takes)
		}
	}}
	s := openSeries(t, o)
	first := 0
	write := func(d time.Duration) {
		t.Helper()
		takes = d
		if err := s.WriteBatch(&format.Batch{Datagrams: sequence(first, 10, 1000)}); err != nil {
			t.Fatal(err)
		}
		first += 10
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		takes = 0
		if err := s.Tick(); err != nil {
			t.Fatal(err)
		}
	}
	write(slowWrite - 1)
	if told := log.of(EventSlow); len(told) != 0 {
		t.Fatalf("told of what is not slow: %+v", told)
	}
	write(1300 * time.Millisecond)
	write(2 * time.Second)
	write(3 * time.Second)
	if told := log.of(EventSlow); len(told) != 1 || told[0].Reason != "the disk took 1.3s for a write" || told[0].Path != s.part.path {
		t.Fatalf("told %+v", told)
	}
	clock.move(slowTold)
	write(0)
	write(700 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	told := log.of(EventSlow)
	if len(told) != 3 || told[1].Reason != "the disk took 5s for 2 writes in the last 15s, 3s at the longest" || told[2].Reason != "the disk took 700ms for a write" {
		t.Errorf("told %+v", told)
	}
	if got := s.Totals().Slow; got != 7*time.Second {
		t.Errorf("%v in all", got)
	}
	r, err := Open(o.Names.Path(clock.now(), 1), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	noted := 0
	var b format.Batch
	for r.ReadBatch(&b) == nil {
		for _, e := range b.Events {
			if e.Kind == format.EventDiskSlow {
				noted++
			}
		}
	}
	if noted != 2 {
		t.Errorf("%d notes in the file", noted) // the last came when it was closed
	}
}
