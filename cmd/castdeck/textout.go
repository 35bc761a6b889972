package main

import (
	"bytes"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"

	"castdeck/format"
	"castdeck/format/segment"
)

// textFormat is a way to write datagrams as lines.
type textFormat uint8

const (
	noText textFormat = iota
	ndjson            // the lines of dump --json
	csvText
)

// csvHeader names the columns, which are the keys of dump --json.
const csvHeader = "time_ns,source,source_port,group,port,interface,ttl,length,payload\n"

// textFlush is how much text is gathered for one write, and one compression frame,
// unless segment.Options.ChunkSize says otherwise.
const textFlush = 512 << 10

// textWriter writes datagrams as lines, each in one write with the others of its
// frame, so that a full disk leaves whole lines.
type textWriter struct {
	f     *appender
	kind  textFormat
	flush int             // bytes of buf to write it at
	share *segment.Shared // nil where it is the only file
	enc   *format.Encoder // nil where nothing is compressed
	buf   []byte          // lines that are not written yet
	names *fieldNames     // of the interfaces that batches name; whoever writes sets the list
	tally format.Tally    // Datagrams, Bytes, NotUDP and Dropped only
	err   error

	written, writtenBytes uint64 // of these, in the file
}

func createText(path string, k outputKind, o segment.Options) (*textWriter, error) {
	t := &textWriter{kind: k.text, flush: textFlush, share: o.Shared, names: &fieldNames{kind: k.text}}
	if o.ChunkSize > 0 {
		t.flush = o.ChunkSize
	}
	var err error
	if k.compression != format.None {
		if t.enc, err = o.Shared.Encoder(k.compression); err != nil {
			return nil, err
		}
	}
	f, err := o.FS.Create(path, o.Overwrite)
	if err != nil {
		return nil, err
	}
	t.f = newAppender(path, f, o)
	t.share.Join()
	if t.kind == csvText {
		t.buf = append(t.buf, csvHeader...)
	}
	return t, nil
}

func (t *textWriter) WriteBatch(b *format.Batch) error {
	for _, s := range b.Stats {
		t.tally.Dropped += s.Dropped // of a splitter: those behind the last datagram
	}
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		t.tally.Dropped += d.Drops
		if d.Flags&format.FlagNotUDP != 0 {
			t.tally.NotUDP++
			continue
		}
		if t.kind == ndjson {
			t.buf = appendNDJSON(t.buf, d, t.names.of(d.Interface))
		} else {
			t.buf = appendCSV(t.buf, d, t.names.of(d.Interface))
		}
		t.tally.Datagrams++
		t.tally.Bytes += uint64(len(d.Payload))
		if len(t.buf) >= t.share.Limit(t.flush) {
			if err := t.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *textWriter) Flush() error {
	if t.err != nil || len(t.buf) == 0 {
		return t.err
	}
	return t.write()
}

// write writes what is gathered as one frame.
func (t *textWriter) write() error {
	out := t.buf
	if t.enc != nil {
		if out, t.err = t.enc.Frame(t.buf, false); t.err != nil {
			return t.err
		}
	}
	if _, t.err = t.f.Write(out); t.err == nil {
		t.buf = t.share.Spare(t.buf, t.flush)
		t.written, t.writtenBytes = t.tally.Datagrams, t.tally.Bytes
	}
	return t.err
}

func (t *textWriter) Close() error {
	defer t.share.Leave()
	err := t.Flush()
	if err == nil && t.enc != nil && t.f.off == 0 {
		err = t.write() // no line at all, and still a file that unpacks
	}
	return t.f.close(err)
}

// fieldNames are the names of interfaces as they stand in a line, quoted once.
type fieldNames struct {
	kind   textFormat
	list   []format.Interface
	quoted [][]byte
}

// of is the name of interface i, which is the fieldNames' own.
func (n *fieldNames) of(i uint16) []byte {
	if int(i) >= len(n.quoted) {
		n.quoted = append(n.quoted, make([][]byte, int(i)+1-len(n.quoted))...)
	}
	if n.quoted[i] == nil {
		n.quoted[i] = quoteField(n.kind, interfaceName(n.list, i))
	}
	return n.quoted[i]
}

func quoteField(kind textFormat, s string) []byte {
	if kind == ndjson {
		q, _ := json.Marshal(s) // of a string it cannot fail
		return q
	}
	s = spreadsheetSafe(s)
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write([]string{s}) // into memory, and flushed below: it cannot fail
	w.Flush()
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

// spreadsheetSafe is text that no spreadsheet takes for a formula.
func spreadsheetSafe(s string) string {
	if s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}

// appendNDJSON appends the line that dump --json prints for d. A test holds the two
// together.
func appendNDJSON(dst []byte, d *format.Datagram, name []byte) []byte {
	dst = append(dst, `{"time_ns":`...)
	dst = strconv.AppendInt(dst, d.Time, 10)
	dst = append(dst, `,"source":"`...)
	dst = d.Src.Addr().AppendTo(dst)
	dst = append(dst, `","source_port":`...)
	dst = strconv.AppendUint(dst, uint64(d.Src.Port()), 10)
	dst = append(dst, `,"group":"`...)
	dst = d.Dst.Addr().AppendTo(dst)
	dst = append(dst, `","port":`...)
	dst = strconv.AppendUint(dst, uint64(d.Dst.Port()), 10)
	dst = append(dst, `,"interface":`...)
	dst = append(dst, name...)
	dst = append(dst, `,"ttl":`...)
	dst = strconv.AppendUint(dst, uint64(d.TTL), 10)
	dst = append(dst, `,"length":`...)
	dst = strconv.AppendUint(dst, uint64(d.Length), 10)
	dst = append(dst, `,"payload":"`...)
	dst = hex.AppendEncode(dst, d.Payload)
	dst = append(dst, '"')
	if d.Flags != 0 {
		dst = append(dst, `,"flags":"`...)
		dst = append(dst, d.Flags.String()...)
		dst = append(dst, '"')
	}
	if d.Drops != 0 {
		dst = append(dst, `,"dropped_before":`...)
		dst = strconv.AppendUint(dst, d.Drops, 10)
	}
	return append(dst, '}', '\n')
}

// appendCSV appends d's line (RFC 4180, with a bare line feed as encoding/csv has
// it). Only the interface's name can need quotes.
func appendCSV(dst []byte, d *format.Datagram, name []byte) []byte {
	dst = append(strconv.AppendInt(dst, d.Time, 10), ',')
	dst = append(d.Src.Addr().AppendTo(dst), ',')
	dst = append(strconv.AppendUint(dst, uint64(d.Src.Port()), 10), ',')
	dst = append(d.Dst.Addr().AppendTo(dst), ',')
	dst = append(strconv.AppendUint(dst, uint64(d.Dst.Port()), 10), ',')
	dst = append(append(dst, name...), ',')
	dst = append(strconv.AppendUint(dst, uint64(d.TTL), 10), ',')
	dst = append(strconv.AppendUint(dst, uint64(d.Length), 10), ',')
	return append(hex.AppendEncode(dst, d.Payload), '\n')
}
