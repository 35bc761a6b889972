package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"castdeck/analysis"
	"castdeck/analysis/parquetfile"
	"castdeck/format"
	"castdeck/format/segment"
)

const (
	// tablesGather is what the open Parquet files of a conversion gather together, in
	// bytes: then the one that has most writes a row group.
	tablesGather = 8 << 20
	// maxRowGroups of the open Parquet files together: what the end of a file says of each
	// is held until then, about 10 KiB.
	maxRowGroups = 2048
	// tableWrite is about how much of a Parquet file is written at once.
	tableWrite = 256 << 10
	// tablePage is a column's page where there may be many files, in bytes.
	tablePage = 64 << 10
)

// tables is what the Parquet files of one conversion have in common.
type tables struct {
	streams    *parquetfile.Streams
	interfaces []format.Interface // that batches name; whoever writes sets them
	open       []*tableWriter
	most       int // bytes that they gather, together
	gathered   int
	groups     int    // row groups of the open files
	buf        []byte // for what is written at once
	many       bool   // there may be many of them
	parts      partitionValue
	// tell is what each file's metadata say beside what is in it.
	tell func(put func(name, value string))
}

func newTables(o analysis.GapOptions) *tables {
	t := &tables{most: tablesGather}
	t.streams = parquetfile.NewStreams(o, func(i uint16) string { return interfaceName(t.interfaces, i) })
	return t
}

// relieve writes row groups of the files that have gathered most until all together have
// no more than they may.
func (t *tables) relieve() error {
	for t.gathered > t.most {
		most := slices.MaxFunc(t.open, func(a, b *tableWriter) int { return a.w.Gathered() - b.w.Gathered() })
		if err := most.rowGroup(); err != nil {
			return err
		}
	}
	return nil
}

// tableWriter writes datagrams as a Parquet file.
type tableWriter struct {
	f      *appender
	w      *parquetfile.Writer
	shared *tables
	fixed  map[string]string // columns that all rows have the same value of, and the file has not
	tally  format.Tally      // Datagrams, Bytes, NotUDP and Dropped only
	behind uint64            // of Dropped, those that no datagram tells
	groups int
	err    error // sticky

	written, writtenBytes uint64 // in whole row groups
}

func createTable(path string, k outputKind, o segment.Options) (*tableWriter, error) {
	f, err := o.FS.Create(path, o.Overwrite)
	if err != nil {
		return nil, err
	}
	t := &tableWriter{f: newAppender(path, f, o), shared: k.tables, fixed: k.tables.parts.fixed(k.part)}
	p := parquetfile.Options{Compression: k.compression, Streams: k.tables.streams, Application: "castdeck", Version: version}
	for name := range t.fixed {
		p.Omit = append(p.Omit, name)
	}
	switch {
	case k.tables.many:
		p.PageSize = tablePage
	case !k.tables.parts.given():
		p.Room = k.tables.most + format.MaxPayload
	}
	t.w = parquetfile.New(writeFunc(t.gather), p)
	k.tables.open = append(k.tables.open, t)
	return t, nil
}

// writeFunc is a function as an io.Writer.
type writeFunc func(p []byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// gather puts the many small pieces of a row group together.
func (t *tableWriter) gather(p []byte) (int, error) {
	if len(t.shared.buf)+len(p) > tableWrite {
		if err := t.flush(); err != nil {
			return 0, err
		}
	}
	t.shared.buf = append(t.shared.buf, p...)
	return len(p), nil
}

// flush writes what gather has.
func (t *tableWriter) flush() error {
	_, err := t.f.Write(t.shared.buf)
	t.shared.buf = t.shared.buf[:0]
	if cap(t.shared.buf) > 2*tableWrite {
		t.shared.buf = nil // of one large page
	}
	return err
}

func (t *tableWriter) WriteBatch(b *format.Batch) error {
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		t.tally.Dropped += d.Drops
		if d.Flags&format.FlagNotUDP != 0 {
			t.tally.NotUDP++
			t.behind += d.Drops
			continue
		}
		before := t.w.Gathered()
		t.w.Add(d)
		t.shared.gathered += t.w.Gathered() - before
		t.tally.Datagrams++
		t.tally.Bytes += uint64(len(d.Payload))
		if err := t.shared.relieve(); err != nil {
			return err
		}
	}
	for _, s := range b.Stats {
		t.tally.Dropped += s.Dropped // of a splitter: those behind the last datagram
		t.behind += s.Dropped
	}
	return t.err
}

// errRowGroups says that the open files have as many row groups as they may.
var errRowGroups = errors.New("too many row groups")

// rowGroup writes what is gathered.
func (t *tableWriter) rowGroup() error {
	n := t.w.Gathered()
	if t.err == nil && n > 0 && t.shared.groups == maxRowGroups {
		t.err = fmt.Errorf("%s: %w: %s in all that one Parquet file should hold, or several open ones; write more files: --split-by time=1h or size=1GB, or --partition date,group",
			t.f.path, errRowGroups, plural(t.written, "datagram"))
	}
	if t.err == nil {
		t.err = t.w.Flush(!t.shared.many)
	}
	if t.err == nil {
		t.err = t.flush()
	}
	t.shared.buf = t.shared.buf[:0]
	t.shared.gathered -= n
	if t.err != nil {
		t.w.Drop()
		return t.err
	}
	if n > 0 {
		t.groups++
		t.shared.groups++
	}
	t.written, t.writtenBytes = t.tally.Datagrams, t.tally.Bytes
	return nil
}

// Flush does nothing: row groups are written when they are worth it.
func (t *tableWriter) Flush() error { return t.err }

// Close writes the end of the file, unless something of it could not be written.
func (t *tableWriter) Close() error {
	if t.err == nil {
		_ = t.rowGroup() // t.err tells
	}
	t.shared.open = slices.DeleteFunc(t.shared.open, func(o *tableWriter) bool { return o == t })
	t.shared.groups -= t.groups
	t.groups = 0
	if errors.Is(t.err, errRowGroups) {
		t.err = nil // it was told, and what is written is whole
	}
	if t.err == nil {
		t.tell()
		if t.err = t.w.Close(); t.err == nil {
			t.err = t.flush()
		}
		t.shared.buf = t.shared.buf[:0]
	}
	return t.f.close(t.err)
}

// tell writes the metadata.
func (t *tableWriter) tell() {
	put := func(name, value string) {
		if value != "" {
			t.w.Tell("castdeck."+name, value)
		}
	}
	put("version", version)
	put("datagrams", strconv.FormatUint(t.written, 10))
	put("dropped", strconv.FormatUint(t.tally.Dropped, 10))
	put("dropped_after", strconv.FormatUint(t.behind, 10))
	for name, value := range t.fixed {
		put(name, value)
	}
	if t.shared.tell != nil {
		t.shared.tell(put)
	}
}
