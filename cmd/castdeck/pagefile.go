package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"castdeck/analysis/report"
)

// pageFile is where a report goes. A file is there whole or not at all: it is written
// under another name beside it and renamed.
type pageFile struct {
	path   string // "-" is stdout
	force  bool
	stdout io.Writer
}

// vacant says whether the page can be made at its path, before anything is read: it is
// none of the files that the inputs name, and nothing is there that must stay.
func (p *pageFile) vacant(inputs ...string) error {
	if p.path == stdio {
		return nil
	}
	c := converter{in: slices.DeleteFunc(slices.Clone(inputs), func(s string) bool { return s == stdinPath }), force: p.force}
	if err := c.findSources(); err != nil {
		return err
	}
	if err := c.vacant(p.path); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Dir(p.path)); errors.Is(err, fs.ErrNotExist) {
		return explainCreate(p.path, err)
	}
	return nil
}

// write makes the page and says how large it is, in bytes.
func (p *pageFile) write(d *report.Document) (size int64, err error) {
	if p.path == stdio {
		return 0, d.WriteHTML(p.stdout)
	}
	beside := filepath.Join(filepath.Dir(p.path), fmt.Sprintf(".%s.%d.tmp", filepath.Base(p.path), os.Getpid()))
	f, err := os.OpenFile(beside, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644) // one of a process that was killed may be there
	if err != nil {
		return 0, explainCreate(p.path, err)
	}
	defer os.Remove(f.Name()) // of no effect once it is renamed
	if err = d.WriteHTML(f); err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w; nothing was written", p.path, err)
	}
	if _, err := os.Lstat(p.path); err == nil && !p.force {
		return 0, explainCreate(p.path, fs.ErrExist) // it was made meanwhile
	}
	if err := os.Rename(f.Name(), p.path); err != nil {
		return 0, fmt.Errorf("%s: %w; nothing was written", p.path, err)
	}
	return size, nil
}
