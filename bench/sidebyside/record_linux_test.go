package sidebyside

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"castdeck/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// The command itself, built once: what is compared is what people run.
func castdeck(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "castdeck")
	if out, err := exec.Command("go", "build", "-o", path, "castdeck/cmd/castdeck").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestRecord(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the command and runs every tool")
	}
	netnstest.Require(t)
	dir := t.TempDir()
	o := RecordOptions{
		Castdeck: castdeck(t), Rates: []float64{5000}, Sizes: []int{200}, Groups: []int{1}, Repeat: 1,
		Duration: 200 * time.Millisecond, Dir: dir,
	}
	for _, name := range o.Missing() {
		t.Logf("%s is not installed: left out", name)
	}
	runs, err := Record(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range runs {
		seen[r.Tool] = true
		if r.Err != nil {
			t.Errorf("%s: %v", r.Tool, r.Err)
			continue
		}
		if r.Sent != 1000 || r.CPU <= 0 || r.Start <= 0 || r.MaxRSS <= 0 || (r.FileBytes == 0) != (r.Tool == "C loop, no file") {
			t.Errorf("%s: %+v", r.Tool, r)
		}
		// multicat and socat lose on a busy machine, and socat writes late.
		if r.Recorded > r.Sent || r.Recorded < r.Sent && r.Tool != "multicat" && r.Tool != "socat" {
			t.Errorf("%s recorded %d of %d", r.Tool, r.Recorded, r.Sent)
		}
	}
	if !seen["castdeck socket, none"] || !seen["castdeck socket, zstd"] {
		t.Errorf("castdeck itself did not run: %v", seen)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRecordRefuses(t *testing.T) {
	if _, err := Record(context.Background(), RecordOptions{Tools: []string{"nosuch"}}); err == nil {
		t.Error("a tool that nobody knows was taken")
	}
}

func TestTable(t *testing.T) {
	run := func(tool string, recorded uint64, cpu time.Duration, err error) RecordRun {
		return RecordRun{Tool: tool, Rate: 1000, Size: 64, Groups: 1, Sent: 1000, SentRate: 990, Recorded: recorded, FileBytes: 100 * int64(recorded), CPU: cpu, Start: 7 * cpu, Err: err}
	}
	rows := Table([]RecordRun{
		run("b", 1000, 3*time.Millisecond, nil), run("a", 500, time.Millisecond, nil),
		run("b", 900, time.Millisecond, nil), run("b", 1000, 2*time.Millisecond, nil), run("a", 0, 0, errors.New("gone")),
	})
	if len(rows) != 2 || rows[0].Tool != "b" || rows[1].Tool != "a" {
		t.Fatalf("rows %+v", rows)
	}
	b, a := rows[0].Cells[Case{64, 1, 1000}], rows[1].Cells[Case{64, 1, 1000}]
	if b.Runs != 3 || b.CPUPerDatagram != 2000 || b.Lost != 0 || b.BytesPerRecord != 100 || b.Reached != 0.99 || b.Start != 14*time.Millisecond || b.Err != nil {
		t.Errorf("b: %+v", b)
	}
	if a.CPUPerDatagram != 2000 || a.Lost != 0.5 || a.Err == nil {
		t.Errorf("a: %+v", a)
	}
}

func TestReplay(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the command and runs every tool")
	}
	netnstest.Require(t)
	dir := t.TempDir()
	o := ReplayOptions{
		Castdeck: castdeck(t), Shapes: []Shape{{2000, 1}, {2000, 20}}, Speeds: []Speed{{Size: 200, Groups: 2, Mixed: true}, {Size: 200, Groups: 1, Receiver: true}, {Size: 200, Groups: 1, Offload: true}},
		Repeat: 1, Duration: 100 * time.Millisecond, Count: 2000, Dir: dir,
	}
	for _, name := range o.Missing() {
		t.Logf("%s is not installed: left out", name)
	}
	runs, err := Replay(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		paced := r.Shape.Rate > 0
		switch {
		case r.Err != nil:
			t.Errorf("%s: %v", r.Tool, r.Err)
		case r.CPU <= 0 || r.Took <= 0 || paced != (r.Late.Max > 0) || paced == (r.Rate > 0):
			t.Errorf("%s: %+v", r.Tool, r)
		case paced && r.Arrived != 200:
			t.Errorf("%s: %d of 200 arrived", r.Tool, r.Arrived)
		}
		cell, ok := ReplayMedians(runs, r.Tool, r.Case())
		if !ok || cell.Runs != 1 || cell.Rate != r.Rate || cell.Late != r.Late {
			t.Errorf("%s: %+v of %+v", r.Tool, cell, r)
		}
	}
	if len(runs) < 4 {
		t.Errorf("%d runs", len(runs))
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestArrivals(t *testing.T) {
	due := []int64{0, 100, 200, 300, 400}
	a := arrivals{times: []int64{1005, 1100, 1230, 0, 1400}}
	late, interval := a.errors(due)
	// Against the soonest, 1000 behind its time: 5, 0, 30, -, 0.
	if late.Max != 30 || late.P50 != 5 || interval.Max != 30 || interval.P50 != 30 {
		t.Errorf("late %+v, interval %+v", late, interval)
	}
}
