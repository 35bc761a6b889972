package pcapfile

import (
	"errors"
	"fmt"
	"io"

	"castdeck/format"
)

// windowSize is the buffer between the (uncompressed) stream and the parsers. It
// holds the largest packet with its header many times over, so that it grows only
// for blocks that no capture tool writes.
const windowSize = 512 << 10

// window is a movable view of a stream: fill makes bytes visible, consume passes
// over them. It grows only as bytes really arrive, never on the word of a length
// field.
type window struct {
	src  *source
	buf  []byte
	from int // buf[from:to] is what was read and not consumed
	to   int
	off  int64 // offset of buf[from] in the uncompressed stream
	err  error // why src gave no more; sticky
	good int64 // bytes of the file, packed as it is, that gave what was read so far
	// short says that the last read of src gave less than asked: the sign of a
	// pipe that has no more at the moment.
	short bool
}

func newWindow(src *source) *window {
	return &window{src: src, buf: make([]byte, windowSize)}
}

// fill returns at least n unconsumed bytes, or all that are left where the stream
// ends or fails before. The slice is valid until the next fill.
func (w *window) fill(n int) []byte {
	for empty := 0; w.to-w.from < n && w.err == nil; {
		if w.from+n > len(w.buf) && w.from > 0 {
			copy(w.buf, w.buf[w.from:w.to])
			w.from, w.to = 0, w.to-w.from
		}
		if w.to == len(w.buf) {
			grown := make([]byte, 2*len(w.buf))
			copy(grown, w.buf[:w.to])
			w.buf = grown
		}
		got, err := w.src.Read(w.buf[w.to:])
		w.short = got < len(w.buf)-w.to
		w.to += got
		if err == nil {
			w.good = w.src.taken()
		}
		if got == 0 && err == nil {
			// io.Reader allows it, but not for ever (bufio has the same limit).
			if empty++; empty == 100 {
				err = io.ErrNoProgress
			}
		}
		w.err = err
	}
	return w.buf[w.from:w.to]
}

// buffered returns what can be had without reading.
func (w *window) buffered() []byte { return w.buf[w.from:w.to] }

func (w *window) consume(n int) {
	w.from += n
	w.off += int64(n)
}

// end is the error for a stream that has nothing left: io.EOF, the error of the
// underlying reader, or, once, a CorruptError for damage in the compression.
func (w *window) end() error {
	switch {
	case w.err == io.EOF:
		return io.EOF
	case w.src.raw.err != nil || w.src.container == "":
		return w.failure()
	}
	packed, behind, err := w.discard()
	if err != nil {
		return err
	}
	e := w.corrupt(w.off, packed, w.compression()+behind)
	w.err = io.EOF
	return e
}

// cut is the error for a stream that stops inside something: what is left over
// counts as unusable and is passed over.
func (w *window) cut(inside string) error {
	if w.err != io.EOF && (w.src.raw.err != nil || w.src.container == "") {
		return w.failure()
	}
	left, packed := w.to-w.from, int64(0)
	reason := fmt.Sprintf("cut off in the middle of %s, %d bytes are left over", inside, left)
	if w.err != io.EOF {
		var behind string
		var err error
		if packed, behind, err = w.discard(); err != nil {
			return err
		}
		reason = fmt.Sprintf("%s in the middle of %s, %d bytes are left over%s", w.compression(), inside, left, behind)
	}
	e := w.corrupt(w.off, int64(left)+packed, reason)
	w.consume(left)
	w.err = io.EOF
	return e
}

// discard passes over what is left of a file whose compression is damaged: n bytes as
// they stand in the file, and behind says so. The compressed block with the damage
// counts as a whole.
func (w *window) discard() (n int64, behind string, err error) {
	if _, err = io.Copy(io.Discard, w.src.packed); err != nil {
		return 0, "", w.failure()
	}
	if n = w.src.raw.n - w.good; n > 0 {
		behind = fmt.Sprintf("; from byte %d of the file on, %d bytes cannot be unpacked", w.good, n)
	}
	return n, behind, nil
}

// atLeastOne says of damage that a packet began there; any other error stays what it is.
func atLeastOne(err error) error {
	var c *format.CorruptError
	if errors.As(err, &c) {
		c.Datagrams = 1
	}
	return err
}

// failure is the error of the underlying reader; it stays.
func (w *window) failure() error {
	err := w.src.raw.err
	if err == nil {
		err = w.err
	}
	return fmt.Errorf("%s: reading at byte %d: %w", w.src.name, w.off, err)
}

func (w *window) compression() string {
	if errors.Is(w.err, io.ErrUnexpectedEOF) {
		return w.src.container + " stream cut off"
	}
	return fmt.Sprintf("%s stream damaged (%s)", w.src.container, w.src.explain(w.err))
}

// corrupt makes the error for length bytes from off on. Offsets count bytes of
// the capture itself; where that is not what the file holds, the reason says so.
func (w *window) corrupt(off, length int64, reason string) *format.CorruptError {
	if w.src.container != "" {
		reason += "; the place counts uncompressed bytes"
	}
	return &format.CorruptError{Path: w.src.name, Offset: off, Length: length, Reason: reason}
}
