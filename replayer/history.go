package replayer

import (
	"time"

	"castdeck/internal/series"
)

// maxHistoryCells of a History, at 40 bytes.
const maxHistoryCells = 1 << 14

// History is how a Run went over time, in at most 16,384 cells of one width.
type History struct {
	// Began is the moment, by the wall clock, at which the first datagram was due: the
	// times of Cells count from it, ns.
	Began time.Time
	Cells *series.Series[HistoryCell]
}

// HistoryCell is what was due, and what left, in one span of time.
type HistoryCell struct {
	// Due counts datagrams by the time at which they were due, those that were dropped for
	// being late or refused by the kernel too; 0 with Pacing.Max. Datagrams sent by
	// Step are not in it.
	Due uint64
	// Sent datagrams and their Bytes (as Report.Bytes), by the time at which they had
	// left.
	Sent, Bytes uint64
	// LatenessSum and MaxLateness of those, ns.
	LatenessSum, MaxLateness int64
}

// Join is for package series.
func (c *HistoryCell) Join(o *HistoryCell) {
	c.Due += o.Due
	c.Sent += o.Sent
	c.Bytes += o.Bytes
	c.LatenessSum += o.LatenessSum
	c.MaxLateness = max(c.MaxLateness, o.MaxLateness)
}

// history takes its memory at the start: the sender allocates nothing.
type history = series.Builder[HistoryCell, *HistoryCell]

func newHistory() *history { return series.New[HistoryCell](maxHistoryCells).Reserve() }

// note takes in datagrams that had left by the time after.
func (o *outlet) note(sent []entry, after int64, bytes uint64, stepping bool) {
	var sum, most int64
	if o.paced && !stepping {
		for i := range sent {
			due := o.timeline.at(sent[i].due)
			o.history.At(due-o.begun).Due++
			sum += after - due
			most = max(most, after-due)
		}
	}
	c := o.history.At(after - o.begun)
	c.Sent += uint64(len(sent))
	c.Bytes += bytes
	c.LatenessSum += sum
	c.MaxLateness = max(c.MaxLateness, most)
}

// missed takes in a datagram that was due and did not leave.
func (o *outlet) missed(e *entry) {
	if o.history != nil && o.paced {
		o.history.At(o.timeline.at(e.due)-o.begun).Due++
	}
}

// tellHistory is the history as it is reported; nil where none was kept.
func (o *outlet) tellHistory() *History {
	if o.history == nil {
		return nil
	}
	return &History{Began: time.Unix(0, o.wall()-(o.pacer.clock.Now()-o.begun)), Cells: o.history.Series()}
}
