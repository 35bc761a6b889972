package replayer

import (
	"testing"
	"time"

	"castdeck/format"
	"castdeck/internal/netnstest"
)

// TestHistory: what goes over time adds up to the report, paced, where late datagrams are
// dropped, and at full speed.
func TestHistory(t *testing.T) {
	netnstest.Require(t)
	batch := make([]format.Datagram, 3000)
	for i := range batch {
		batch[i] = dgram(int64(i)*20_000, "10.1.1.1:40001", "239.8.1.1:5001", pattern(100, i))
	}
	for name, o := range map[string]Options{
		"paced":      {},
		"half speed": {Pacing: Pacing{Speed: 0.5}},
		"drop":       {Late: Drop, LateAfter: time.Microsecond},
		"full speed": {Pacing: Pacing{Max: true}},
	} {
		o.Interface, o.History = "lo", true
		before := time.Now()
		r := run(t, o, batch)
		var sum HistoryCell
		for i := range r.History.Cells.Cells {
			sum.Join(&r.History.Cells.Cells[i])
		}
		want := HistoryCell{Due: r.Datagrams + r.DroppedLate, Sent: r.Datagrams, Bytes: r.Bytes, MaxLateness: r.Lateness.Max, LatenessSum: sum.LatenessSum}
		if o.Max {
			want.Due = 0
		}
		if sum != want || r.Datagrams+r.DroppedLate != uint64(len(batch)) {
			t.Errorf("%s: %+v, want %+v", name, sum, want)
		}
		// The first was due at 0, and the last one's cell is where the replay ended.
		s := r.History.Cells
		if !o.Max && (s.Start > 0 || s.Start+s.Width <= 0) {
			t.Errorf("%s: begins with %d", name, s.Start)
		}
		latest := int64(r.Duration)
		if r.DroppedLate > 0 {
			latest = max(latest, int64(len(batch)-1)*20_000) // the last ones may be among them
		}
		if end := s.Start + s.Width*int64(len(s.Cells)); end < int64(r.Duration) || end > latest+s.Width {
			t.Errorf("%s: ends with %d, sent for %v", name, end, r.Duration)
		}
		if began := r.History.Began; began.Before(before) || began.After(time.Now()) {
			t.Errorf("%s: began %v", name, began)
		}
	}
	if r := run(t, Options{Interface: "lo"}, batch[:1]); r.History != nil {
		t.Error("a history that nobody asked for")
	}
}
