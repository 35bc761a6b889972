package bench

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"castdeck/format"
	"castdeck/format/segment"
)

// fileDatagrams is how many one file of BenchmarkFile holds.
const fileDatagrams = 32768

// BenchmarkFile writes and reads whole files in the page cache, beside gopacket's
// pcapgo doing the same: ns/datagram, of these cpu-ns/datagram of processors (which a
// busy machine disturbs less), and MB/s of payload. castdeck writes from
// batches, makes the headers, checksums and indexes; pcapgo is handed finished frames
// and writes classic pcap through a buffer, for gzip through the standard library's
// gzip at its fastest. Reading ends at addresses and payload of each datagram on both
// sides; pcapgo does without copies, through gopacket's fastest parser.
func BenchmarkFile(b *testing.B) {
	for _, size := range []int{64, 200, 1400} {
		batches := fileBatches(b, size)
		frames := make([][]byte, 0, fileDatagrams)
		for _, batch := range batches {
			for i := range batch.Datagrams {
				f, _ := format.AppendMadeFrame(nil, &batch.Datagrams[i])
				frames = append(frames, f)
			}
		}
		for _, c := range []format.Compression{format.None, format.Gzip, format.Zstd} {
			path := filepath.Join(b.TempDir(), "castdeck"+c.Extension())
			write, read := func() error { return writeSegment(path, c, batches) }, func() error { return readSegment(path) }
			measure(b, fmt.Sprintf("write/%d/%s/castdeck", size, c), size, write, write)
			measure(b, fmt.Sprintf("read/%d/%s/castdeck", size, c), size, write, read)
			if c == format.Zstd {
				continue
			}
			other := filepath.Join(b.TempDir(), "pcapgo")
			write, read = func() error { return writePcapgo(other, c, batches, frames) }, func() error { return readPcapgo(other, c) }
			measure(b, fmt.Sprintf("write/%d/%s/pcapgo", size, c), size, write, write)
			measure(b, fmt.Sprintf("read/%d/%s/pcapgo", size, c), size, write, read)
		}
	}
}

// measure runs f, which takes fileDatagrams datagrams, behind first.
func measure(b *testing.B, name string, size int, first, f func() error) {
	b.Run(name, func(b *testing.B) {
		if err := first(); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(size) * fileDatagrams)
		cpu := cpuTime()
		for b.Loop() {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		n := float64(b.N) * fileDatagrams
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/datagram")
		b.ReportMetric(float64(cpuTime()-cpu)/n, "cpu-ns/datagram")
	})
}

func fileBatches(b *testing.B, size int) (batches []*format.Batch) {
	feed := NewFeed(FeedOptions{Groups: groups, Count: fileDatagrams, MinSize: size, Start: 1_700_000_000_000_000_000})
	for {
		batch := new(format.Batch)
		switch err := feed.ReadBatch(batch); {
		case errors.Is(err, io.EOF):
			return batches
		case err != nil:
			b.Fatal(err)
		}
		batches = append(batches, batch)
	}
}

func writeSegment(path string, c format.Compression, batches []*format.Batch) error {
	w, err := segment.Create(path, segment.Options{
		Compression: c, Interfaces: []format.Interface{{Name: "eth0", LinkType: format.LinkTypeEthernet}},
		Info: format.SegmentInfo{Made: true}, Sync: segment.SyncNone, Overwrite: true,
	})
	if err != nil {
		return err
	}
	for _, batch := range batches {
		if err := w.WriteBatch(batch); err != nil {
			return err
		}
	}
	return w.Close()
}

func readSegment(path string) error {
	r, err := segment.Open(path, segment.ReadOptions{})
	if err != nil {
		return err
	}
	defer r.Close()
	var batch format.Batch
	n := 0
	for err = r.ReadBatch(&batch); err == nil; err = r.ReadBatch(&batch) {
		n += len(batch.Datagrams)
	}
	return all(n, err)
}

func writePcapgo(path string, c format.Compression, batches []*format.Batch, frames [][]byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 64<<10)
	to := io.Writer(buffered)
	var z *gzip.Writer
	if c == format.Gzip {
		if z, err = gzip.NewWriterLevel(buffered, gzip.BestSpeed); err != nil {
			return err
		}
		to = z
	}
	w := pcapgo.NewWriterNanos(to)
	if err := w.WriteFileHeader(format.MaxPacketSize, layers.LinkTypeEthernet); err != nil {
		return err
	}
	for _, batch := range batches {
		for i := range batch.Datagrams {
			frame := frames[0]
			frames = frames[1:]
			info := gopacket.CaptureInfo{Timestamp: time.Unix(0, batch.Datagrams[i].Time), CaptureLength: len(frame), Length: len(frame)}
			if err := w.WritePacket(info, frame); err != nil {
				return err
			}
		}
	}
	if z != nil {
		if err := z.Close(); err != nil {
			return err
		}
	}
	return errors.Join(buffered.Flush(), f.Close())
}

func readPcapgo(path string, c format.Compression) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	from := io.Reader(bufio.NewReaderSize(f, 64<<10))
	if c == format.Gzip {
		z, err := gzip.NewReader(from)
		if err != nil {
			return err
		}
		from = bufio.NewReaderSize(z, 64<<10)
	}
	r, err := pcapgo.NewReader(from)
	if err != nil {
		return err
	}
	var eth layers.Ethernet
	var ip layers.IPv4
	var udp layers.UDP
	var payload gopacket.Payload
	parser := gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &eth, &ip, &udp, &payload)
	var decoded []gopacket.LayerType
	n := 0
	for {
		data, _, err := r.ZeroCopyReadPacketData()
		if err != nil {
			return all(n, err)
		}
		if err := parser.DecodeLayers(data, &decoded); err != nil {
			return err
		}
		n += len(decoded) / 4 // all four layers
	}
}

// all says whether everything came before the end.
func all(n int, err error) error {
	if !errors.Is(err, io.EOF) || n != fileDatagrams {
		return fmt.Errorf("%d of %d datagrams, then %w", n, fileDatagrams, err)
	}
	return nil
}
