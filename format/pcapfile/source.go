package pcapfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"castdeck/format"
)

// maxZstdWindow is the largest zstd window that is read: what `zstd -19` and every
// level below need is 8 MiB, and RFC 8878 section 3.1.1.1.2 asks readers for no
// more than that. A frame of 9 bytes can ask for 128 MiB.
const maxZstdWindow = 32 << 20

// rawReader keeps the error of the reader that the caller gave, so that a disk
// that fails is never mistaken for a damaged file.
type rawReader struct {
	r   io.Reader
	n   int64 // bytes read
	err error // never io.EOF
}

func (r *rawReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// source is the stream without its compression.
type source struct {
	io.Reader
	raw       *rawReader
	packed    *bufio.Reader // raw, as far as the decompressor took it
	name      string
	container string // "gzip", "zstd", "lz4" or ""
	suffix    string // of the format's name: ".gz", ".zst", ".lz4" or ""
	release   func()
}

// taken is how many bytes of the file the decompressor has taken.
func (s *source) taken() int64 { return s.raw.n - int64(s.packed.Buffered()) }

// openSource takes the compression off, by content. It starts no goroutine: the
// codecs run in the caller's.
func openSource(r io.Reader, name string) (*source, error) {
	s := &source{raw: &rawReader{r: r}, name: name, release: func() {}}
	// The window reads in pieces larger than this buffer, and bufio then hands
	// them straight through: without compression nothing is copied twice.
	buffered := bufio.NewReaderSize(s.raw, 64<<10)
	s.packed = buffered
	head, _ := buffered.Peek(4)
	var magic uint32
	if len(head) == 4 {
		magic = binary.LittleEndian.Uint32(head)
	}
	switch {
	case magic&0xFFFF == 0x8B1F:
		s.container, s.suffix = "gzip", ".gz"
		z, err := gzip.NewReader(buffered)
		if err != nil {
			if s.raw.err != nil {
				return nil, fmt.Errorf("%s: %w", name, s.raw.err)
			}
			return nil, &format.CorruptError{Path: name, Reason: fmt.Sprintf("gzip header damaged (%v)", err)}
		}
		s.Reader = z
	case magic == 0xFD2FB528 || magic&^0xF == 0x184D2A50:
		// Skippable frames come first in what pzstd writes.
		s.container, s.suffix = "zstd", ".zst"
		// On a stream the memory limit is one of the window, and unlike
		// WithDecoderMaxWindow it holds for single-segment frames too. It does not
		// limit the length of the stream.
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("%s: zstd: %w", name, err)
		}
		s.Reader, s.release = z, z.Close
	case magic == 0x184D2204 || magic == 0x184C2102:
		s.container, s.suffix = "lz4", ".lz4"
		z := lz4.NewReader(buffered)
		if err := z.Apply(lz4.ConcurrencyOption(1)); err != nil {
			return nil, fmt.Errorf("%s: lz4: %w", name, err)
		}
		s.Reader = z
	default:
		s.Reader = buffered
	}
	return s, nil
}

// explain adds the way out to an error of a codec where there is one.
func (s *source) explain(err error) string {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Sprintf("it needs a window above %d MiB: unpack it with zstd -d --long=31 first", maxZstdWindow>>20)
	}
	return err.Error()
}

// foreign are things that people do hand to a capture reader, by their first
// bytes.
var foreign = [...]struct{ prefix, what string }{
	{"snoop\x00\x00\x00", "a Solaris snoop capture; editcap -F pcapng converts it"},
	{"GMBU", "a Microsoft Network Monitor capture; editcap -F pcapng converts it"},
	{"RTSS", "a Microsoft Network Monitor capture; editcap -F pcapng converts it"},
	{"XCP\x00", "a NetXray capture; editcap -F pcapng converts it"},
	{"BZh", "compressed with bzip2; unpack it first"},
	{"\xFD7zXZ\x00", "compressed with xz; unpack it first"},
	{"7z\xBC\xAF\x27\x1C", "a 7-Zip archive; unpack it first"},
	{"PK\x03\x04", "a ZIP archive; unpack it first"},
	{"\x1F\x8B", "compressed twice; unpack it first"},
	{"\x28\xB5\x2F\xFD", "compressed twice; unpack it first"},
	{"\x04\x22\x4D\x18", "compressed twice; unpack it first"},
	{"\x7FELF", "a program"},
}

// headSize is how much of something unknown is looked at.
const headSize = 512

// describe says what the first bytes of something that is not a capture look
// like.
func describe(head []byte) string {
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.prefix)) {
			return "it looks like " + f.what
		}
	}
	switch {
	case len(head) == 0:
		return "it is empty"
	case len(bytes.Trim(head, "\x00")) == 0:
		return "it starts with zeros only"
	case isText(head):
		return "it looks like text"
	case isERF(head):
		return "it looks like an Endace ERF trace; editcap -F pcapng converts it"
	}
	return fmt.Sprintf("it starts with % x", head[:min(len(head), 8)])
}

func isText(head []byte) bool {
	for i := 0; i < len(head); {
		r, n := utf8.DecodeRune(head[i:])
		if r == utf8.RuneError && n == 1 && i < headSize-utf8.UTFMax {
			return false // not just cut at the end of the head
		}
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
		i += n
	}
	return true
}

// isERF looks at two successive ERF records: time (8, little-endian 2^-32 s),
// type (1), flags (1), record length (2, big-endian), lost (2), wire length (2).
func isERF(head []byte) bool {
	const fixed = 16
	if len(head) < fixed {
		return false
	}
	typ, length := head[8]&0x7F, int(binary.BigEndian.Uint16(head[10:]))
	if typ == 0 || typ > 48 || length < fixed || len(head) < length+fixed {
		return false
	}
	next := head[length:]
	return next[8]&0x7F == typ && binary.LittleEndian.Uint32(next[4:])-binary.LittleEndian.Uint32(head[4:]) < 86400
}
