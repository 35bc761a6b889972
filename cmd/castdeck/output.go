package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
)

// output is a capture being written: a segment, a classic pcap, text or a table. Exactly
// one of the four is set.
type output struct {
	path string
	// made is what path named when it was created, nil where it was gone at once;
	// stream says that there is no path.
	made   fs.FileInfo
	stream bool
	seg    *segment.Writer
	pcap   *pcapWriter
	text   *textWriter
	table  *tableWriter
}

// outputKind is what a file name and --compress ask for.
type outputKind struct {
	pcap        bool
	text        textFormat
	parquet     bool
	compression format.Compression
	// keep says that a pcap's frames are of the link type link, not Ethernet.
	keep bool
	link uint16
	// tables of Parquet files, and of a partitioned folder the partition at hand.
	tables *tables
	part   streamKey
}

// isCapture is false for what keeps no frames: text and tables.
func (k *outputKind) isCapture() bool { return k.text == noText && !k.parquet }

const outputNames = "name it *.pcapng.zst, *.pcapng.gz, *.pcapng or *.pcap"

// kindOf decides the container by the end of the name; compress, where it is not
// empty, must agree or decide for a name that says nothing.
func kindOf(path, compress string) (k outputKind, err error) {
	c, named := format.CompressionOf(path)
	switch {
	case strings.HasSuffix(path, ".pcap"):
		if compress != "" && compress != "none" && compress != "auto" {
			return k, usagef("%s: a classic pcap is not compressed; %s, or leave --compress out", path, outputNames)
		}
		return outputKind{pcap: true}, nil
	case compress == "auto" && !named:
		return outputKind{compression: format.Zstd}, nil
	case compress == "" || compress == "auto":
		if !named {
			return k, usagef("%s: the name does not say which format to write; %s", path, outputNames)
		}
		return outputKind{compression: c}, nil
	}
	want, err := format.ParseCompression(compress)
	if err != nil {
		return k, usagef("--compress: %v", err)
	}
	if named && c != want {
		return k, usagef("%s: the name says %s, --compress says %s", path, c, want)
	}
	return outputKind{compression: want}, nil
}

// createOutput makes the file. Everything written to it must be Ethernet frames or
// datagrams without frames, or frames of the link type that k keeps.
func createOutput(path string, k outputKind, o segment.Options) (*output, error) {
	if err := notAFile(path); err != nil {
		return nil, err
	}
	out, err := openOutput(path, k, o)
	if err != nil {
		return nil, explainCreate(path, err)
	}
	out.made, _ = os.Stat(path)
	return out, nil
}

// notAFile refuses a path at which there is something else than a file.
func notAFile(path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return usagef("%s is a folder; name a file in it, such as %s", path, filepath.Join(path, "feed.pcapng.zst"))
	}
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file (%s); name another one", path, st.Mode().Type())
	}
	return nil
}

// streamOutput writes to w from beginning to end, without seeking. Messages name it
// stdout.
func streamOutput(w io.Writer, k outputKind, o segment.Options) (*output, error) {
	o.FS = streamFS{w}
	out, err := openOutput("stdout", k, o)
	if err == nil {
		out.stream = true
	}
	return out, err
}

func openOutput(path string, k outputKind, o segment.Options) (out *output, err error) {
	if o.FS == nil {
		o.FS = segment.OS
	}
	out = &output{path: path}
	switch {
	case k.text != noText:
		out.text, err = createText(path, k, o)
	case k.parquet:
		out.table, err = createTable(path, k, o)
	case k.pcap:
		out.pcap, err = createPcap(path, k, o)
	default:
		o.Compression, o.Application = k.compression, application
		out.seg, err = segment.Create(path, o)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// explainCreate names the way out where there is one.
func explainCreate(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists; choose another name, or overwrite it with --force", path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: the folder %s does not exist", path, filepath.Dir(path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: no permission to write in %s", path, filepath.Dir(path))
	}
	return err
}

// writer is the one of the four that is set.
func (o *output) writer() interface {
	format.BatchWriter
	format.Flusher
	io.Closer
} {
	switch {
	case o.seg != nil:
		return o.seg
	case o.pcap != nil:
		return o.pcap
	case o.table != nil:
		return o.table
	}
	return o.text
}

// describe says which interfaces the batches from now on may name: those it was told
// before and perhaps more.
func (o *output) describe(list []format.Interface) error {
	if o.seg == nil {
		return nil
	}
	for _, i := range list[min(len(o.seg.Interfaces()), len(list)):] {
		if _, err := o.seg.AddInterface(i); err != nil {
			return err
		}
	}
	return nil
}

func (o *output) WriteBatch(b *format.Batch) error { return o.writer().WriteBatch(b) }

// Flush writes what is gathered to the file.
func (o *output) Flush() error { return o.writer().Flush() }

// Close finishes the file: a segment is sealed.
func (o *output) Close() error {
	if err := o.writer().Close(); err != nil || o.stream {
		return err
	}
	if st, err := os.Stat(o.path); err != nil || o.made == nil || !os.SameFile(st, o.made) {
		return fmt.Errorf("%s was removed, renamed or replaced while it was written: what was recorded is not there", o.path)
	}
	return nil
}

// endOf is the error of writing a file whose Close returned closed: err came first, and
// closed says more of it where it is the same one.
func endOf(err, closed error) error {
	if err == nil || errors.Is(closed, err) {
		return closed
	}
	return err
}

// size in bytes that the file has so far.
func (o *output) size() int64 {
	if o.seg != nil {
		return o.seg.Size()
	}
	switch {
	case o.pcap != nil:
		return o.pcap.f.off
	case o.table != nil:
		return o.table.f.off
	}
	return o.text.f.off
}

// written counts the datagrams and payload bytes that are in the file, also after an
// error.
func (o *output) written() (datagrams, bytes uint64) {
	switch {
	case o.seg != nil:
		return o.seg.Written()
	case o.text != nil:
		return o.text.written, o.text.writtenBytes
	case o.table != nil:
		return o.table.written, o.table.writtenBytes
	}
	t := o.tally()
	return t.Datagrams, t.Bytes
}

// tally of what was written; of text and tables only some of it.
func (o *output) tally() *format.Tally {
	switch {
	case o.seg != nil:
		return o.seg.Tally()
	case o.text != nil:
		return &o.text.tally
	case o.table != nil:
		return &o.table.tally
	}
	return &o.pcap.tally
}

// droppedOn is what was told of an interface's losses.
func (o *output) droppedOn(ifc uint16) uint64 { return o.tally().DroppedOn(ifc) }

// unsaid are the losses that the file has no place for.
func (o *output) unsaid() uint64 {
	if o.seg != nil || o.table != nil {
		return 0
	}
	return o.tally().Dropped
}

// unfinished adds to the error of Close what there is of the file. It stays: what is in
// it can be read, and only whoever asked for it knows whether that is worth having. But
// for a table, which nobody reads without its end: it is removed.
func (o *output) unfinished(err error) error {
	if err == nil || o.stream {
		return err
	}
	if o.table != nil {
		if st, serr := os.Stat(o.path); serr != nil || o.made == nil || !os.SameFile(st, o.made) {
			return err
		}
		if rerr := os.Remove(o.path); rerr != nil {
			return fmt.Errorf("%w; %s is of no use without its end: remove it", err, o.path)
		}
		return fmt.Errorf("%w; %s was removed: without its end nobody reads it", err, o.path)
	}
	n, _ := o.written()
	return fmt.Errorf("%w; %s is unfinished, with %s in it: remove it, or write it anew with --force", err, o.path, plural(n, "datagram"))
}

// pcapWriter puts a classic pcap into a file with the same care for existing files,
// locks and permissions that segments have.
type pcapWriter struct {
	*pcapfile.Writer
	f     *appender
	tally format.Tally
}

func createPcap(path string, k outputKind, o segment.Options) (*pcapWriter, error) {
	f, err := o.FS.Create(path, o.Overwrite)
	if err != nil {
		return nil, err
	}
	link := uint16(format.LinkTypeEthernet)
	if k.keep {
		link = k.link
	}
	p := &pcapWriter{f: newAppender(path, f, o), tally: format.Tally{Room: new(int)}} // no table of streams
	if p.Writer, err = pcapfile.NewLinkWriter(p.f, link); err != nil {
		f.Close()
		_ = o.FS.Remove(path)
		return nil, err
	}
	p.ShareBuffer(o.Shared.Buffer())
	return p, nil
}

func (p *pcapWriter) WriteBatch(b *format.Batch) error {
	if err := p.Writer.WriteBatch(b); err != nil {
		return err
	}
	p.tally.Add(b)
	return nil
}

func (p *pcapWriter) Flush() error {
	if err := p.Writer.Flush(); err != nil {
		return err
	}
	return p.f.flushed()
}

func (p *pcapWriter) Close() error { return p.f.close(p.Writer.Flush()) }

// appender is a file as a stream, written and made durable as a segment is.
type appender struct {
	path string
	f    segment.File
	sync segment.Sync
	off  int64
	err  error // sticky
}

// newAppender takes over f, which was just made at path.
func newAppender(path string, f segment.File, o segment.Options) *appender {
	if o.Sync != segment.SyncNone {
		_ = o.FS.SyncDir(filepath.Dir(path)) // as segment.Create does
	}
	return &appender{path: path, f: f, sync: o.Sync}
}

func (a *appender) Write(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.f.WriteAt(p, a.off)
	if err != nil {
		// Half a record would make the rest unreadable.
		_ = a.f.Truncate(a.off)
		a.err = fmt.Errorf("%s: writing %d bytes at byte %d: %w; what was written before is readable", a.path, len(p), a.off, segment.Cause(err))
		return 0, a.err
	}
	a.off += int64(n)
	return n, nil
}

// flushed makes what was written durable where that is asked for at each flush.
func (a *appender) flushed() error {
	if a.err == nil && a.sync == segment.SyncInterval {
		a.durable()
	}
	return a.err
}

// durable is not tried again on failure; see segment.Writer.
func (a *appender) durable() {
	if err := a.f.Sync(); err != nil {
		a.err = fmt.Errorf("%s: making it durable: %w; it may be incomplete after a power cut", a.path, segment.Cause(err))
	}
}

// close ends the file; err is that of the last flush. A file that is not whole is only
// released.
func (a *appender) close(err error) error {
	if err == nil && a.err == nil && a.sync != segment.SyncNone {
		a.durable()
	}
	if err == nil {
		err = a.err
	}
	if cerr := a.f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%s: closing: %w", a.path, segment.Cause(cerr))
	}
	return err
}

// streamFS is a segment.FS whose only file is a stream, such as a pipe: what is
// written one after the other goes through, and there is nothing to lock, to cut
// back or to make durable.
type streamFS struct{ w io.Writer }

func (s streamFS) Create(string, bool) (segment.File, error) { return &streamFile{w: s.w}, nil }
func (streamFS) Remove(string) error                         { return nil }
func (streamFS) SyncDir(string) error                        { return nil }

type streamFile struct {
	w   io.Writer
	off int64
}

func (f *streamFile) WriteAt(p []byte, off int64) (int, error) {
	if off != f.off {
		return 0, fmt.Errorf("writing at byte %d of a stream that is at byte %d", off, f.off)
	}
	n, err := f.w.Write(p)
	f.off += int64(n)
	return n, err
}

func (*streamFile) Truncate(int64) error           { return nil }
func (*streamFile) Sync() error                    { return nil }
func (*streamFile) Allocate(int64, int64) error    { return nil }
func (*streamFile) WriteBehind(int64, int64) error { return nil }
func (*streamFile) Close() error                   { return nil }
