package pcapfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"castdeck/format"
)

// ErrTime says that a time does not fit classic pcap, whose seconds are an
// unsigned 32-bit number: 1970 to 2106.
var ErrTime = errors.New("classic pcap holds times from 1970 to 2106 only; write pcapng instead")

// Writer writes classic pcap with nanoseconds (magic a1b23c4d), little-endian: what
// every tool reads since 2012. It is a format.BatchWriter and, as such, for one
// goroutine.
//
// The link type is Ethernet unless NewLinkWriter was told another one. A captured Ethernet frame is written as it is. A datagram without one, or with
// one of another link type, gets the headers of format.AppendMadeFrame. A packet of
// another link type that is not UDP but IP keeps its bytes from the IP header on
// and gets an Ethernet header; any other cannot be written and is counted in
// Skipped. Statistics, drop counts and interface names have no place in this
// format.
type Writer struct {
	w          io.Writer
	link       uint16
	interfaces func() []format.Interface
	links      Decoder
	buf        []byte  // of the batch at hand
	shared     *[]byte // where buf comes from and goes back to, or nil
	written    uint64
	skipped    uint64
	err        error
}

var (
	_ format.BatchReader = (*Reader)(nil)
	_ format.BatchWriter = (*Writer)(nil)
	_ format.Flusher     = (*Writer)(nil)
)

// NewWriter writes the file header to w. Interfaces is asked once a batch for the
// interfaces that its datagrams name, to know the link type of their frames
// (Reader.Interfaces fits); nil means that all frames are Ethernet.
func NewWriter(w io.Writer, interfaces func() []format.Interface) (*Writer, error) {
	return newWriter(w, linkEthernet, interfaces)
}

// NewLinkWriter is NewWriter for frames of one link type, which are written as they
// are. Where it is not Ethernet every datagram must have a frame of that type
// (FrameMaker makes those that are missing): one without is an error.
func NewLinkWriter(w io.Writer, link uint16) (*Writer, error) { return newWriter(w, link, nil) }

func newWriter(w io.Writer, link uint16, interfaces func() []format.Interface) (*Writer, error) {
	h := binary.LittleEndian.AppendUint32(nil, magicNano)
	h = binary.LittleEndian.AppendUint16(h, 2)
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = binary.LittleEndian.AppendUint64(h, 0)
	h = binary.LittleEndian.AppendUint32(h, format.MaxPacketSize)
	h = binary.LittleEndian.AppendUint32(h, uint32(link))
	if _, err := w.Write(h); err != nil {
		return nil, err
	}
	return &Writer{w: w, link: link, interfaces: interfaces}, nil
}

// ShareBuffer lets writers of one goroutine gather their batches in one buffer.
func (w *Writer) ShareBuffer(b *[]byte) { w.shared = b }

// WriteBatch writes the whole batch with one Write, or nothing of it where a
// datagram cannot be written: its time is outside 1970 to 2106 (ErrTime), it names
// an interface that is not known, or it is larger than readers take. After an error
// of the underlying writer, part of the batch may be in the file; the Writer then
// returns that error for ever, so that nothing follows half a record. It keeps
// nothing of b and allocates nothing per datagram.
func (w *Writer) WriteBatch(b *format.Batch) error {
	if w.err != nil {
		return w.err
	}
	var list []format.Interface
	if w.interfaces != nil {
		list = w.interfaces()
	}
	w.buf = w.buf[:0]
	if w.shared != nil {
		w.buf = (*w.shared)[:0]
		defer func() { *w.shared, w.buf = w.buf, nil }()
	}
	var written, skipped uint64
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		link := w.link
		if w.interfaces != nil && d.Frame != nil {
			if int(d.Interface) >= len(list) {
				return fmt.Errorf("datagram %d names interface %d of %d", i, d.Interface, len(list))
			}
			link = list[d.Interface].LinkType
		}
		ok, err := w.append(d, link)
		if err != nil {
			return fmt.Errorf("datagram %d: %w", i, err)
		}
		if ok {
			written++
		} else {
			skipped++
		}
	}
	if len(w.buf) > 0 {
		if _, w.err = w.w.Write(w.buf); w.err != nil {
			return w.err
		}
	}
	w.written += written
	w.skipped += skipped
	return nil
}

// append adds d's record to buf; false where d cannot be written.
func (w *Writer) append(d *format.Datagram, link uint16) (bool, error) {
	if d.Time < 0 || d.Time/1e9 > math.MaxUint32 {
		return false, fmt.Errorf("time of %d ns: %w", d.Time, ErrTime)
	}
	start := len(w.buf)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(d.Time/1e9))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(d.Time%1e9))
	w.buf = binary.LittleEndian.AppendUint64(w.buf, 0)
	wire := 0
	switch {
	case d.Frame != nil && link == w.link:
		w.buf = append(w.buf, d.Frame...)
		wire = int(d.FrameLength)
	case w.link != linkEthernet:
		w.buf = w.buf[:start]
		return false, fmt.Errorf("no frame of link type %d, the file's", w.link)
	case d.Flags&format.FlagNotUDP != 0:
		if w.buf, wire = w.links.appendEthernet(w.buf, d, link); wire == 0 {
			w.buf = w.buf[:start]
			return false, nil
		}
	default:
		src, dst := d.Src.Addr(), d.Dst.Addr()
		if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() {
			w.buf = w.buf[:start]
			return false, fmt.Errorf("from %v to %v: addresses of two families or none", d.Src, d.Dst)
		}
		w.buf, wire = format.AppendMadeFrame(w.buf, d)
	}
	captured := len(w.buf) - start - pcapRecord
	if captured > format.MaxPacketSize {
		return false, fmt.Errorf("packet of %d bytes, the limit is %d", captured, format.MaxPacketSize)
	}
	binary.LittleEndian.PutUint32(w.buf[start+8:], uint32(captured))
	binary.LittleEndian.PutUint32(w.buf[start+12:], uint32(max(wire, captured)))
	return true, nil
}

// Flush flushes the underlying writer where it can be flushed (bufio.Writer); the
// Writer itself holds nothing back.
func (w *Writer) Flush() error {
	if w.err != nil {
		return w.err
	}
	if f, ok := w.w.(interface{ Flush() error }); ok {
		w.err = f.Flush()
	}
	return w.err
}

// Written is the number of datagrams and packets written.
func (w *Writer) Written() uint64 { return w.written }

// Skipped is the number of packets that cannot be written as Ethernet: of another
// link type and not IP, or without any bytes.
func (w *Writer) Skipped() uint64 { return w.skipped }
