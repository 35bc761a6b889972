package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"castdeck/format"
)

// partitionValue is the flag --partition: by what a folder of tables is laid out, as Hive,
// Spark, Arrow and DuckDB read it. A column that stands in a folder's name is not in its
// files, as in theirs; the name has the column's value as it would be in the file.
type partitionValue struct {
	text        string
	by          []string // date and group, in the order of the folders
	date, group bool
}

func (v *partitionValue) Set(s string) error {
	n := partitionValue{text: s}
	for _, by := range strings.Split(s, ",") {
		switch {
		case by == "date" && !n.date:
			n.date = true
		case by == "group" && !n.group:
			n.group = true
		default:
			return fmt.Errorf("%q: write date, group or date,group", s)
		}
		n.by = append(n.by, by)
	}
	*v = n
	return nil
}

func (v *partitionValue) String() string { return v.text }
func (*partitionValue) Type() string     { return "BY" }

func (v *partitionValue) given() bool { return v.text != "" }

// key is d's partition.
func (v *partitionValue) key(d *format.Datagram) (k streamKey) {
	if v.group {
		k.dst = d.Dst
	}
	if v.date {
		const day = int64(24 * time.Hour)
		k.day = d.Time / day
		if d.Time%day < 0 {
			k.day--
		}
	}
	return k
}

// date of a partition, in UTC.
func (k streamKey) date() string {
	return time.Unix(k.day*24*60*60, 0).UTC().Format(time.DateOnly)
}

// fixed are the columns that k's files do not have, and their values.
func (v *partitionValue) fixed(k streamKey) map[string]string {
	m := make(map[string]string)
	if v.date {
		m["date"] = k.date()
	}
	if v.group {
		m["group"], m["port"] = k.dst.Addr().String(), strconv.Itoa(int(k.dst.Port()))
	}
	return m
}

// folder of a partition, below the output's.
func (v *partitionValue) folder(k streamKey) string {
	var names []string
	for _, by := range v.by {
		if by == "date" {
			names = append(names, "date="+k.date())
		} else {
			names = append(names, "group="+groupName(k.dst.Addr()), "port="+strconv.Itoa(int(k.dst.Port())))
		}
	}
	return filepath.Join(names...)
}

// groupName is an address in a folder's name: the colons of IPv6 as the readers of such
// folders decode them, and file systems take them.
func groupName(a netip.Addr) string { return strings.ReplaceAll(a.String(), ":", "%3A") }

// spool is where a partitioned conversion keeps its partitions until all was read: as
// recordings, so that each table is then written at once, in row groups of full size,
// however many partitions there are. It is a hidden folder in the output's.
type spool struct {
	folder string
	order  []streamKey
	paths  map[streamKey][]string
	files  int
}

func newSpool(out string) (*spool, error) {
	if err := os.MkdirAll(out, 0o750); err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(out, ".castdeck-*")
	if err != nil {
		return nil, err
	}
	return &spool{folder: folder, paths: make(map[streamKey][]string)}, nil
}

// next names another file of k.
func (s *spool) next(k streamKey) string {
	if s.paths[k] == nil {
		s.order = append(s.order, k)
	}
	s.files++
	path := filepath.Join(s.folder, fmt.Sprintf("%05d.pcapng.zst", s.files))
	s.paths[k] = append(s.paths[k], path)
	return path
}

func (s *spool) remove() error { return os.RemoveAll(s.folder) }

// makeRoom closes the file that was wanted least lately, where no more can be open: its
// partition goes on in another one.
func (s *splitter) makeRoom() error {
	if len(s.files) < maxOpen {
		return nil
	}
	at := -1
	for i, f := range s.files {
		if f.count == 0 && (at < 0 || f.used < s.files[at].used) {
			at = i
		}
	}
	if at < 0 {
		return errRoom
	}
	f := s.files[at]
	s.files = slices.Delete(s.files, at, at+1)
	delete(s.byKey, f.key)
	if s.last == f {
		s.last = nil
	}
	return s.seal(f)
}

// writeTables makes tables of what was spooled, and returns what they are.
func (c *converter) writeTables(k outputKind, s *spool) (t splitTotals, files int, err error) {
	for _, key := range s.order {
		folder := filepath.Join(c.out, c.parts.folder(key))
		if err := os.MkdirAll(folder, 0o750); err != nil {
			return t, files, err
		}
		n, parts, err := c.writePartition(k, key, folder, s.paths[key])
		t.datagrams += n.datagrams
		t.size += n.size
		files += parts
		if err != nil {
			return t, files, err
		}
		for _, path := range s.paths[key] {
			if err := os.Remove(path); err != nil {
				return t, files, err
			}
		}
	}
	return t, files, nil
}

// writePartition makes part-0.parquet of the recordings in paths, and more where one
// would have too many row groups.
func (c *converter) writePartition(k outputKind, key streamKey, folder string, paths []string) (t splitTotals, files int, err error) {
	in, err := openInput(paths...)
	if err != nil {
		return t, 0, err
	}
	defer in.Close()
	src := (&timeSpan{}).lossesOnce(in, in)
	k.part, k.tables = key, c.newTables()
	var out *splitter
	end := func() error {
		err := out.finish(nil)
		err = endOf(err, out.Close())
		t.datagrams += out.done.datagrams
		t.size += out.done.size
		return err
	}
	for b := new(format.Batch); ; {
		if err := src.ReadBatch(b); errors.Is(err, io.EOF) {
			return t, files, end()
		} else if err != nil {
			return t, files, err // it was written a moment ago
		}
		if out != nil && k.tables.groups > maxRowGroups/2 {
			if err := end(); err != nil {
				return t, files, err
			}
			out = nil
		}
		if out == nil {
			out = &splitter{kind: k, path: filepath.Join(folder, fmt.Sprintf("part-%d.parquet", files)), create: c.create, placeLosses: true}
			files++
		}
		out.describe(in.interfaces())
		if err := out.WriteBatch(b); err != nil {
			return t, files, endOf(err, end())
		}
	}
}

// emptyFolder refuses a folder in which there is something: files of another conversion
// would be read as part of this one.
func emptyFolder(path string) error {
	st, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is a file: --partition writes a folder; name another one", path)
	}
	list, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		return fmt.Errorf("%s: %w, with %s in it: tables of two conversions would be read as one; name a new folder", path, fs.ErrExist, plural(len(list), "file"))
	}
	return nil
}
