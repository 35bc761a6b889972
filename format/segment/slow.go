package segment

import (
	"fmt"
	"sync"
	"time"
)

const (
	// slowWrite is how long making or writing a file may take until the disk counts as
	// slow: a chunk is at most 1 MiB, and the page cache takes that in a millisecond.
	slowWrite = 500 * time.Millisecond
	// slowTold is how often that is told at most.
	slowTold = 10 * time.Second
)

// slowMeter adds up what was slow since that was told last. It is safe for concurrent
// use.
type slowMeter struct {
	now func() time.Time

	mu             sync.Mutex
	times          int
	total, longest time.Duration
	since          time.Time // the first of them began
	path           string    // of the last of them
	told           time.Time
	all            time.Duration // ever
}

// time begins an operation on path; what it returns ends it.
func (m *slowMeter) time(path string) (done func()) {
	start := m.now()
	return func() {
		took := m.now().Sub(start)
		if took < slowWrite {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.times == 0 {
			m.since = start
		}
		m.times++
		m.total += took
		m.all += took
		m.longest = max(m.longest, took)
		m.path = path
	}
}

// take is what there is to tell by now: of which file, and a text; "" where there is
// nothing, or it was just told and this is not the last time.
func (m *slowMeter) take(last bool) (path, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.times == 0 {
		return "", ""
	}
	now := m.now()
	if !last && !m.told.IsZero() && now.Sub(m.told) < slowTold {
		return "", ""
	}
	text = fmt.Sprintf("the disk took %s for a write", m.longest.Round(time.Millisecond))
	if m.times > 1 {
		text = fmt.Sprintf("the disk took %s for %d writes in the last %s, %s at the longest", m.total.Round(time.Millisecond), m.times,
			now.Sub(m.since).Round(time.Second), m.longest.Round(time.Millisecond))
	}
	path, m.told = m.path, now
	m.times, m.total, m.longest = 0, 0, 0
	return path, text
}

func (m *slowMeter) sum() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all
}

// slowFS is an FS that times how long files keep their writer waiting. Making them
// durable is not timed: nobody waits for that.
type slowFS struct {
	FS
	m *slowMeter
}

func (f slowFS) Create(path string, overwrite bool) (File, error) {
	defer f.m.time(path)()
	file, err := f.FS.Create(path, overwrite)
	if err != nil {
		return nil, err
	}
	return &slowFile{file, path, f.m}, nil
}

type slowFile struct {
	File
	path string
	m    *slowMeter
}

func (f *slowFile) WriteAt(p []byte, off int64) (int, error) {
	defer f.m.time(f.path)()
	return f.File.WriteAt(p, off)
}

func (f *slowFile) Allocate(off, n int64) error {
	defer f.m.time(f.path)()
	return f.File.Allocate(off, n)
}
