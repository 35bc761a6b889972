package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"

	"castdeck/analysis/report"
)

// pageFile is where a report goes. A file is there whole or not at all: it is written
// under another name beside it and renamed.
type pageFile struct {
	path   string // "-" is stdout
	force  bool
	stdout io.Writer
}

// addFlags are those of a command whose page is beside what it prints.
func (p *pageFile) addFlags(f *pflag.FlagSet) {
	f.StringVar(&p.path, "report", "", "make a page with pictures too: the HTML `FILE` to write")
	f.BoolVar(&p.force, "force", false, "overwrite the report")
}

// wanted says whether there is to be a page.
func (p *pageFile) wanted() bool { return p.path != "" }

// check refuses what cannot be, before anything is read. Inputs are the arguments.
func (p *pageFile) check(stdout io.Writer, inputs ...string) error {
	p.stdout = stdout
	switch {
	case p.path == stdio:
		return usagef("--report -: stdout has what this command prints; name a file")
	case !p.wanted() && p.force:
		return usagef("--force is for --report")
	case !p.wanted():
		return nil
	}
	return p.vacant(inputs...)
}

// make writes the page and says so.
func (p *pageFile) make(d *report.Document, stderr io.Writer) error {
	bytes, err := p.write(d)
	if err == nil {
		fmt.Fprintf(stderr, "castdeck: %s: %s\n", oneLine(p.path), size(bytes))
	}
	return err
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
	_ = os.Remove(beside)                                                 // of a process that was killed; whatever else it is, it is not followed
	f, err := os.OpenFile(beside, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644) // a page holds no payload
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
