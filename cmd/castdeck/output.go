package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
)

// output is a capture file being written: a segment or a classic pcap.
type output struct {
	path string
	made fs.FileInfo // what path named when it was created
	seg  *segment.Writer
	pcap *pcapWriter
}

// outputKind is what a file name and --compress ask for.
type outputKind struct {
	pcap        bool
	compression format.Compression
}

const outputNames = "name it *.pcapng.zst, *.pcapng.gz, *.pcapng or *.pcap"

// kindOf decides the container by the end of the name; compress, where it is not
// empty, must agree or decide for a name that says nothing.
func kindOf(path, compress string) (k outputKind, err error) {
	c, named := format.CompressionOf(path)
	switch {
	case strings.HasSuffix(path, ".pcap"):
		if compress != "" && compress != "none" {
			return k, usagef("%s: a classic pcap is not compressed; %s, or leave --compress out", path, outputNames)
		}
		return outputKind{pcap: true}, nil
	case compress == "":
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
// datagrams without frames.
func createOutput(path string, k outputKind, o segment.Options) (*output, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil, usagef("%s is a folder; name a file in it, such as %s", path, filepath.Join(path, "feed.pcapng.zst"))
	}
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (%s); name another one", path, st.Mode().Type())
	}
	out := &output{path: path}
	var err error
	if k.pcap {
		out.pcap, err = createPcap(path, o)
	} else {
		o.Compression, o.Application = k.compression, application
		out.seg, err = segment.Create(path, o)
	}
	if err == nil {
		if out.made, err = os.Stat(path); err != nil {
			out.Close()
		}
	}
	if err != nil {
		return nil, explainCreate(path, err)
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

func (o *output) WriteBatch(b *format.Batch) error {
	if o.seg != nil {
		return o.seg.WriteBatch(b)
	}
	return o.pcap.WriteBatch(b)
}

// Flush writes what is gathered to the file.
func (o *output) Flush() error {
	if o.seg != nil {
		return o.seg.Flush()
	}
	return o.pcap.Flush()
}

// Close finishes the file: a segment is sealed.
func (o *output) Close() error {
	var err error
	if o.seg != nil {
		err = o.seg.Close()
	} else {
		err = o.pcap.Close()
	}
	if err != nil || o.made == nil {
		return err
	}
	if st, err := os.Stat(o.path); err != nil || !os.SameFile(st, o.made) {
		return fmt.Errorf("%s was removed, renamed or replaced while it was written: what was recorded is not there", o.path)
	}
	return nil
}

// size in bytes that the file has so far.
func (o *output) size() int64 {
	if o.seg != nil {
		return o.seg.Size()
	}
	return o.pcap.f.off
}

// written counts the datagrams and payload bytes that are in the file, also after an
// error.
func (o *output) written() (datagrams, bytes uint64) {
	if o.seg != nil {
		return o.seg.Written()
	}
	return o.pcap.tally.Datagrams, o.pcap.tally.Bytes
}

// tally of what was written.
func (o *output) tally() *format.Tally {
	if o.seg != nil {
		return o.seg.Tally()
	}
	return &o.pcap.tally
}

// pcapWriter puts a classic pcap into a file with the same care for existing files,
// locks and permissions that segments have.
type pcapWriter struct {
	*pcapfile.Writer
	f     *appender
	tally format.Tally
}

func createPcap(path string, o segment.Options) (*pcapWriter, error) {
	f, err := segment.OS.Create(path, o.Overwrite)
	if err != nil {
		return nil, err
	}
	p := &pcapWriter{f: &appender{path: path, f: f}}
	if p.Writer, err = pcapfile.NewWriter(p.f, nil); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return p, nil
}

func (p *pcapWriter) WriteBatch(b *format.Batch) error {
	if err := p.Writer.WriteBatch(b); err != nil {
		return err
	}
	p.tally.Add(b)
	return nil
}

func (p *pcapWriter) Close() error {
	err := p.Writer.Flush()
	if err == nil {
		err = p.f.f.Sync()
	}
	return errors.Join(err, p.f.f.Close())
}

// appender is a file as a stream.
type appender struct {
	path string
	f    segment.File
	off  int64
}

func (a *appender) Write(p []byte) (int, error) {
	n, err := a.f.WriteAt(p, a.off)
	if err != nil {
		// Half a record would make the rest unreadable.
		_ = a.f.Truncate(a.off)
		return 0, fmt.Errorf("%s: writing %d bytes at byte %d: %w; what was written before is readable", a.path, len(p), a.off, segment.Cause(err))
	}
	a.off += int64(n)
	return n, nil
}
