package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
)

// stdinPath names standard input.
const stdinPath = "-"

// pathsHelp is the part of a command's help on what PATH can be.
const pathsHelp = `PATH is a file, a folder, a pattern in quotes, the beginning of file names
(/data/feed for feed-0001.pcapng.zst and so on), or - for stdin.`

// capture is what one or more files hold together: a recording of one or more
// segments, or one capture of another tool.
type capture struct {
	path     string             // of the first file
	input    uint16             // which argument named it first, from 0
	segments []*segment.Segment // nil for other tools' captures
	stream   bool               // can be read only once: stdin, a FIFO
}

// findFiles says which files a PATH argument names. all is false where the files were
// found by looking around, so that those that are no captures are passed over.
func findFiles(arg string) (files []string, all bool, err error) {
	if arg == stdinPath {
		return []string{arg}, true, nil
	}
	st, err := os.Stat(arg)
	switch {
	case err == nil && st.IsDir():
		files, err = filesIn(arg, "")
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("%s: no files in this folder", arg)
		}
		return files, false, err
	case err == nil:
		return []string{arg}, true, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, err
	case strings.ContainsAny(arg, `*?[`):
		matches, gerr := filepath.Glob(arg)
		if gerr != nil {
			return nil, false, fmt.Errorf("%s: %w", arg, gerr)
		}
		files = slices.DeleteFunc(matches, func(m string) bool {
			if name := filepath.Base(m); name[0] == '.' && filepath.Base(arg)[0] != '.' {
				return true // as in a shell
			}
			st, err := os.Stat(m)
			return err != nil || st.IsDir()
		})
		if len(files) == 0 {
			return nil, false, fmt.Errorf("%s: no file matches this pattern", arg)
		}
		return files, true, nil
	}
	dir, prefix := filepath.Split(arg)
	if prefix == "" {
		return nil, false, err
	}
	if files, _ = filesIn(dir, prefix); len(files) == 0 {
		return nil, false, err // no such file
	}
	return files, false, nil
}

// filesIn lists the regular files of a folder whose names begin with prefix, in order
// of their names. Hidden files need to be named.
func filesIn(dir, prefix string) (files []string, err error) {
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			files = append(files, path)
		}
	}
	return files, nil
}

// findCaptures looks at all files that the arguments name, and puts segments of one
// recording together. A file that is named twice counts once. empty are files of no
// bytes that were named beside captures, such as the shell's feed-* finds behind a
// recorder that was killed as it began a segment; alone they are no capture.
func findCaptures(args ...string) (captures []*capture, empty []string, err error) {
	var nothing error // about the first empty file
	recordings := make(map[format.UUID]*capture)
	seen := make(map[string]bool)
	for number, arg := range args {
		files, all, err := findFiles(arg)
		if err != nil {
			return nil, nil, err
		}
		found := false
		for _, path := range files {
			if path != stdinPath {
				path = filepath.Clean(path)
			}
			if seen[path] {
				found = true
				continue
			}
			seen[path] = true
			c, err := look(path)
			if err != nil {
				switch {
				case !errors.Is(err, format.ErrFormat):
					return nil, nil, err
				case !all:
					continue
				case !isEmpty(path):
					return nil, nil, err
				}
				if nothing == nil {
					nothing = err
				}
				found, empty = true, append(empty, path)
				continue
			}
			found = true
			if c.segments != nil {
				id := c.segments[0].Info.Recording
				if r := recordings[id]; r != nil {
					r.segments = append(r.segments, c.segments...)
					continue
				}
				recordings[id] = c
			}
			c.input = uint16(min(number, math.MaxUint16))
			captures = append(captures, c)
		}
		if !found {
			return nil, nil, fmt.Errorf("%s: %w among %s", arg, errNoCapture, plural(len(files), "file"))
		}
	}
	if len(captures) == 0 {
		return nil, nil, nothing
	}
	return captures, empty, nil
}

func isEmpty(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() == 0
}

var errNoCapture = errors.New("no capture")

// look says what a file holds, by its content.
func look(path string) (*capture, error) {
	if path == stdinPath {
		return &capture{path: path, stream: true}, nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return &capture{path: path, stream: true}, nil
	}
	s, err := segment.Inspect(path, segmentOptions())
	if err == nil {
		return &capture{path: path, segments: []*segment.Segment{s}}, nil
	}
	if !errors.Is(err, format.ErrFormat) {
		return nil, err
	}
	r, err := pcapfile.Open(path)
	if err == nil {
		return &capture{path: path}, r.Close()
	}
	if salvageable(path) {
		s, serr := segment.InspectSalvaged(path, segmentOptions())
		if serr == nil {
			return &capture{path: path, segments: []*segment.Segment{s}}, nil
		}
	}
	return nil, err
}

// salvageable looks for a chunk of a recording near the start of a file that nobody
// recognises, in twice as much as a chunk can take: other files of a folder, of any
// size, are not searched through.
func salvageable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false
	}
	n := min(st.Size(), 8<<20)
	_, err = segment.NewSalvage(io.NewSectionReader(f, 0, n), n, path, segment.ReadOptions{})
	return err == nil
}

// readOnce says which of the arguments, if any, can be read only once.
func readOnce(args []string) (string, bool) {
	for _, arg := range args {
		if arg == stdinPath {
			return "stdin", true
		}
		if st, err := os.Stat(arg); err == nil && !st.IsDir() && !st.Mode().IsRegular() {
			return arg, true
		}
	}
	return "", false
}
