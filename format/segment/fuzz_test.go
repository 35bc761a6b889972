package segment

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"castdeck/format"
)

// FuzzChunk: chunks with a right checksum and anything in them. Whatever is delivered
// names interfaces that are known, and memory has its bounds.
func FuzzChunk(f *testing.F) {
	d := feed(1, 1)[0]
	packet := format.AppendEPB(nil, &d)
	f.Add(packet, uint32(1))
	f.Add(format.AppendISB(packet, format.InterfaceStats{Interface: 3, Dropped: 7}), uint32(9))
	f.Add(format.AppendNumberedIDB(packet, format.Interface{Name: "eth7", LinkType: 1}, 7), uint32(0))
	f.Add(format.AppendEvent(packet, format.UUID{}, 0, 0, &format.Event{Kind: format.EventLinkDown, Interface: 2}), uint32(1<<31))
	f.Fuzz(func(t *testing.T, blocks []byte, packets uint32) {
		raw := format.AppendIDB(format.AppendSHB(nil, format.Section{}), format.Interface{LinkType: 1})
		file := format.AppendSegmentBlock(raw, &format.SegmentInfo{})
		for n := range uint32(2) {
			chunk := append(format.BeginChunk(nil), blocks...)
			format.FinishChunk(chunk, &format.ChunkHeader{Number: n, Packets: packets, Datagrams: packets})
			file = append(file, chunk...)
		}
		r, err := NewReader(bytes.NewReader(file), int64(len(file)), "x", ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var b format.Batch
		for reads := 0; ; reads++ {
			err := r.ReadBatch(&b)
			if errors.Is(err, io.EOF) {
				break
			}
			if reads > len(file) {
				t.Fatal("more reads than bytes")
			}
			known := len(r.Interfaces())
			for i := range b.Datagrams {
				if int(b.Datagrams[i].Interface) >= known {
					t.Fatalf("interface %d of %d", b.Datagrams[i].Interface, known)
				}
			}
			for i := range b.Stats {
				if int(b.Stats[i].Interface) >= known {
					t.Fatalf("statistics of interface %d of %d", b.Stats[i].Interface, known)
				}
			}
			for i := range b.Events {
				if int(b.Events[i].Interface) >= known {
					t.Fatalf("event of interface %d of %d", b.Events[i].Interface, known)
				}
			}
			if len(b.Datagrams) > format.MaxChunkPackets || known > format.MaxInterfaces {
				t.Fatalf("%d datagrams, %d interfaces", len(b.Datagrams), known)
			}
		}
		if _, _, err := r.Verify(); err != nil {
			t.Fatal(err)
		}
	})
}
