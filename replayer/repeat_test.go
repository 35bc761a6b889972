package replayer

import (
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"time"

	"castdeck/format"
)

// source yields prepared batches and errors, one at a time.
type source struct {
	steps  []any // []format.Datagram or error
	closed *int
}

func (s *source) ReadBatch(b *format.Batch) error {
	b.Reset()
	if len(s.steps) == 0 {
		return io.EOF
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	if err, ok := step.(error); ok {
		return err
	}
	b.Datagrams = append(b.Datagrams, step.([]format.Datagram)...)
	return nil
}

func (s *source) Close() error {
	if s.closed != nil {
		*s.closed++
	}
	return nil
}

func at(times ...int64) []format.Datagram {
	out := make([]format.Datagram, len(times))
	for i := range times {
		out[i].Time = times[i]
	}
	return out
}

// times reads a source to its end.
func times(t *testing.T, r format.BatchReader) (all []int64, errs []error) {
	t.Helper()
	var b format.Batch
	for range 1000 {
		err := r.ReadBatch(&b)
		if err == io.EOF {
			return all, errs
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, d := range b.Datagrams {
			all = append(all, d.Time)
		}
	}
	t.Fatal("no end")
	return nil, nil
}

func TestRepeat(t *testing.T) {
	for _, c := range []struct {
		name   string
		rounds int
		pause  time.Duration
		steps  []any
		want   []int64
	}{
		{"mean pause", 3, 0, []any{at(100, 110), at(120)}, []int64{100, 110, 120, 130, 140, 150, 160, 170, 180}},
		{"given pause", 2, 1000, []any{at(100, 110)}, []int64{100, 110, 1110, 1120}},
		{"one round", 1, 0, []any{at(5)}, []int64{5}},
		{"one datagram", 3, 7, []any{at(5)}, []int64{5, 12, 19}},
		{"set back inside", 2, 10, []any{at(100, 90, 120)}, []int64{100, 90, 120, 130, 120, 150}},
		{"nothing in it", 0, 0, nil, nil}, // would never end
	} {
		opened, closed := 0, 0
		r := &Repeat{Rounds: c.rounds, Pause: c.pause, Open: func(int64) (format.BatchReader, error) {
			opened++
			return &source{steps: c.steps, closed: &closed}, nil
		}}
		got, errs := times(t, r)
		if fmt.Sprint(got) != fmt.Sprint(c.want) || errs != nil {
			t.Errorf("%s: %v %v, want %v", c.name, got, errs, c.want)
		}
		if opened != closed || opened == 0 {
			t.Errorf("%s: %d opened, %d closed", c.name, opened, closed)
		}
		if err := r.ReadBatch(new(format.Batch)); err != io.EOF {
			t.Errorf("%s: behind the end: %v", c.name, err)
		}
	}
}

func TestRepeatPassesErrorsOn(t *testing.T) {
	damage := &format.CorruptError{Reason: "a test"}
	r := &Repeat{Rounds: 2, Pause: 1, Open: func(int64) (format.BatchReader, error) {
		return &source{steps: []any{at(1), damage, at(2)}}, nil
	}}
	got, errs := times(t, r)
	if fmt.Sprint(got) != "[1 2 3 4]" || len(errs) != 2 || errs[0] != damage {
		t.Errorf("%v %v", got, errs)
	}
	gone := errors.New("gone")
	r = &Repeat{Open: func(int64) (format.BatchReader, error) { return nil, gone }}
	if err := r.ReadBatch(new(format.Batch)); err != gone {
		t.Errorf("%v, want %v", err, gone)
	}
}

func TestRepeatEndsBeforeTimeDoes(t *testing.T) {
	for _, steps := range [][]any{
		{at(0, math.MaxInt64)},
		{at(math.MinInt64, math.MaxInt64)},
		{at(0, math.MaxInt64/4)},
	} {
		r := &Repeat{Open: func(int64) (format.BatchReader, error) { return &source{steps: steps}, nil }}
		var b format.Batch
		last := int64(math.MinInt64)
		var err error
		for range 20 {
			if err = r.ReadBatch(&b); err != nil {
				break
			}
			for _, d := range b.Datagrams {
				if d.Time < last {
					t.Fatalf("%v: %d after %d", steps, d.Time, last)
				}
				last = d.Time
			}
		}
		if err == nil || err == io.EOF {
			t.Errorf("%v: goes on for ever (%v)", steps, err)
		}
	}
}

func TestRepeatSeeks(t *testing.T) {
	// Times 100 to 109; two rounds, the second from 110.
	var from []int64
	open := func(f int64) (format.BatchReader, error) {
		from = append(from, f)
		return &source{steps: []any{at(100, 101, 102, 103, 104), at(105, 106, 107, 108, 109)}}, nil
	}
	next := func(r *Repeat, n int) (got []int64) {
		var b format.Batch
		for len(got) < n {
			if err := r.ReadBatch(&b); err != nil {
				return append(got, -1)
			}
			for _, d := range b.Datagrams {
				got = append(got, d.Time)
			}
		}
		return got
	}
	r := &Repeat{Rounds: 2, Open: open}
	for i, c := range []struct {
		seek int64 // 0 is none
		n    int
		want string
	}{
		{0, 5, "[100 101 102 103 104]"},
		{107, 3, "[107 108 109]"},
		{102, 8, "[102 103 104 105 106 107 108 109]"},
		{0, 5, "[110 111 112 113 114]"}, // the second round keeps its place
		{118, 2, "[118 119]"},           // within it
		{0, 1, "[-1]"},                  // the end
		{116, 4, "[116 117 118 119]"},   // and back again
		{1, 5, "[110 111 112 113 114]"}, // before the round: its start
		{500, 1, "[-1]"},                // behind the end
	} {
		if c.seek != 0 {
			if err := r.SeekTime(c.seek); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(next(r, c.n)); got != c.want {
			t.Errorf("step %d: %s, want %s", i, got, c.want)
		}
	}
	if want := "[-9223372036854775808 107 102 -9223372036854775808 108 106 -9 490]"; fmt.Sprint(from) != want {
		t.Errorf("opened from %v, want %s", from, want)
	}
}
