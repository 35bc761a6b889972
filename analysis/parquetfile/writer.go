package parquetfile

import (
	"fmt"
	"io"
	"slices"

	"github.com/parquet-go/parquet-go"

	"castdeck/format"
)

// Options of a Writer.
type Options struct {
	// Compression of the columns: None, Gzip or Zstd.
	Compression format.Compression
	// Streams of the conversion; writers of the same goroutine share them.
	Streams *Streams
	// Omit names columns that are left out, such as those that the file's folder tells.
	Omit []string
	// Room is what will be gathered at once, in bytes, where that is known.
	Room int
	// PageSize in bytes that a column gathers for a page, and about what it takes while a
	// row group is written; 0 is 256 KiB.
	PageSize int
	// Application that the file names as its writer, and its version.
	Application, Version string
}

// Writer writes one file. What is added is gathered; each Flush writes it as a row group,
// so that whoever calls it bounds the memory. What the end of the file will say of each
// row group, about 10 KiB, is held until then. It is not safe for concurrent use.
type Writer struct {
	w       *parquet.GenericWriter[any]
	streams *Streams
	columns []*column

	rows []row
	slab []byte // their payloads
	more int    // bytes of streams that only a row holds
	room int

	// Of the rows at hand: what they are beside themselves, and the values of a column.
	run    []item
	values []parquet.Value
}

// row is a datagram that is gathered.
type row struct {
	stream   *stream
	time     int64
	drops    uint64
	from, to uint32 // payload in the slab
	length   uint32
	flags    format.Flags
	ttl      uint8
}

const rowSize = 48 // bytes

// New begins a file that is written to out, one Write for about each page of a column.
func New(out io.Writer, o Options) *Writer {
	if o.PageSize == 0 {
		o.PageSize = parquet.DefaultPageBufferSize
	}
	schema := schemaWithout(o.Omit)
	w := &Writer{streams: o.Streams, room: o.Room}
	w.w = parquet.NewGenericWriter[any](out, schema, parquet.Compression(codec(o.Compression)), parquet.PageBufferSize(o.PageSize),
		parquet.WriteBufferSize(0), parquet.DataPageVersion(1), parquet.CreatedBy(o.Application, o.Version, ""),
		parquet.SkipPageBounds("payload"), parquet.SkipPageStatistics("payload"))
	for i := range columns {
		if !slices.Contains(o.Omit, columns[i].name) {
			w.columns = append(w.columns, &columns[i])
		}
	}
	return w
}

// Add gathers a copy of d, which must be UDP.
func (w *Writer) Add(d *format.Datagram) {
	st, stranger := w.streams.find(d)
	if stranger {
		w.more += strangerSize
	}
	if w.slab == nil {
		w.slab = make([]byte, 0, w.room)
	}
	from := len(w.slab)
	w.slab = append(w.slab, d.Payload...)
	w.rows = append(w.rows, row{
		stream: st, time: d.Time, drops: d.Drops, from: uint32(from), to: uint32(len(w.slab)), length: d.Length, flags: d.Flags, ttl: d.TTL,
	})
}

// Gathered is about how many bytes are gathered for the next row group.
func (w *Writer) Gathered() int { return len(w.rows)*rowSize + len(w.slab) + w.more }

// Rows that are gathered for the next row group.
func (w *Writer) Rows() int { return len(w.rows) }

// Flush writes what is gathered as a row group. Keep says that its memory will be needed
// again.
func (w *Writer) Flush(keep bool) error {
	if len(w.rows) == 0 {
		return nil
	}
	if err := w.write(); err != nil {
		return err
	}
	clear(w.rows) // of streams that only they hold
	w.rows, w.slab, w.more = w.rows[:0], w.slab[:0], 0
	if !keep {
		w.rows, w.slab, w.run, w.values = nil, nil, nil, nil
	}
	return nil
}

// Drop forgets what is gathered.
func (w *Writer) Drop() { w.rows, w.slab, w.more = nil, nil, 0 }

// Values are handed on by so many rows, or payload bytes, at once: a page ends behind
// what was handed on.
const (
	runRows  = 512
	runBytes = 64 << 10
)

func (w *Writer) write() error {
	group := w.w.BeginRowGroup()
	out := group.ColumnWriters()
	for rest := w.rows; len(rest) > 0; {
		n := 1
		for n < min(len(rest), runRows) && rest[n].to-rest[0].from <= runBytes {
			n++
		}
		w.run = w.run[:0]
		for i := range rest[:n] {
			r := &rest[i]
			payload := w.slab[r.from:r.to:r.to]
			w.run = append(w.run, item{r, payload, w.streams.number(r.stream, payload)})
		}
		rest = rest[n:]
		for i, c := range w.columns {
			w.values = w.values[:0]
			for j := range w.run {
				v, defined := c.value(&w.run[j]), 0
				if c.optional && !v.IsNull() {
					defined = 1
				}
				w.values = append(w.values, v.Level(0, defined, i))
			}
			if _, err := out[i].WriteRowValues(w.values); err != nil {
				return fmt.Errorf("column %s: %w", c.name, err)
			}
		}
	}
	_, err := group.Commit()
	return err
}

// Tell puts a key and a value into the file's metadata.
func (w *Writer) Tell(key, value string) { w.w.SetKeyValueMetadata(key, value) }

// Close writes the end of the file, without which nobody reads it, and not what is still
// gathered.
func (w *Writer) Close() error { return w.w.Close() }
