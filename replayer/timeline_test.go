package replayer

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestTimeline(t *testing.T) {
	l := timeline{anchor: 100, factor: 1}
	if got := l.at(50); got != 150 {
		t.Errorf("at speed 1: %d", got)
	}
	l.setFactor(1100, 2) // 1000 were played
	for _, c := range []struct{ due, want int64 }{{1000, 1100}, {2000, 1600}, {1001, 1100}, {0, 600}} {
		if got := l.at(c.due); got != c.want {
			t.Errorf("at speed 2, due %d: %d, want %d", c.due, got, c.want)
		}
	}
	l.rebase(9000, 5000) // a pause, or a seek
	if got := l.at(5010); got != 9005 {
		t.Errorf("behind a pause: %d", got)
	}
	if got := l.at(maxOffset); got < 9000 {
		t.Errorf("the end of time overflows: %d", got)
	}
	l.setFactor(9000, 0.001)
	if got := l.at(maxOffset); got < 9000 {
		t.Errorf("the end of time overflows at low speed: %d", got)
	}
}

// Many changes of speed leave no error behind: the position after them is what was
// played before, each at its speed.
func TestTimelineDoesNotDrift(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	l := timeline{factor: 1}
	now, played, speed := int64(0), 0.0, 1.0
	for range 10_000 {
		step := rnd.Int64N(int64(10 * time.Millisecond))
		now += step
		played += float64(step) * speed
		speed = 0.01 + rnd.Float64()*10
		l.setFactor(now, speed)
	}
	// Each change rounds down by less than a nanosecond.
	if off := played - float64(l.origin); off < -1 || off > 10_001 {
		t.Errorf("%g ns off after 10,000 changes", off)
	}
	if got := l.at(l.origin); got != now {
		t.Errorf("the present is at %d, want %d", got, now)
	}
}
