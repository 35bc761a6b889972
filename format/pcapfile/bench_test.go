package pcapfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"castdeck/format"
)

const benchPackets = 20000

func benchFlow(payload int) (packets []packet) {
	for i := range benchPackets {
		p := bytes.Repeat([]byte{byte(i)}, payload)
		packets = append(packets, packet{time: stamp(i), frame: frame(source4, group4, p)})
	}
	return packets
}

func benchNG(packets []packet) []byte {
	n := newNG(binary.LittleEndian).iface(linkEthernet, 0)
	for _, p := range packets {
		n.epb(0, uint64(p.time/1000), p.frame)
	}
	return n.b
}

func perDatagram(b *testing.B, size int) {
	b.SetBytes(int64(size))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchPackets, "ns/datagram")
}

// BenchmarkRead compares with gopacket's readers and its layers on the same bytes;
// those copy no payload and give no addresses as values.
func BenchmarkRead(b *testing.B) {
	for _, payload := range []int{64, 200, 1400} {
		flow := benchFlow(payload)
		kind := littleMicro
		kind.snapLen = format.MaxPacketSize // pcapgo takes 0 for a limit of 0
		pcap, blocks := kind.file(flow...), benchNG(flow)
		for _, in := range []struct {
			name string
			data []byte
		}{{"pcap", pcap}, {"pcapng", blocks}} {
			b.Run(fmt.Sprintf("castdeck/%s/%d", in.name, payload), func(b *testing.B) {
				var batch format.Batch
				b.ReportAllocs()
				for b.Loop() {
					r, err := NewReader(bytes.NewReader(in.data), "bench")
					if err != nil {
						b.Fatal(err)
					}
					n := 0
					for err = r.ReadBatch(&batch); err == nil; err = r.ReadBatch(&batch) {
						n += len(batch.Datagrams)
					}
					if err != io.EOF || n != benchPackets {
						b.Fatal(n, err)
					}
				}
				perDatagram(b, len(in.data))
			})
			b.Run(fmt.Sprintf("pcapgo/%s/%d", in.name, payload), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					var src gopacket.ZeroCopyPacketDataSource
					var err error
					if in.name == "pcap" {
						src, err = pcapgo.NewReader(bytes.NewReader(in.data))
					} else {
						src, err = pcapgo.NewNgReader(bytes.NewReader(in.data), pcapgo.DefaultNgReaderOptions)
					}
					if err != nil {
						b.Fatal(err)
					}
					if n := pcapgoRead(b, src); n != benchPackets {
						b.Fatal(n)
					}
				}
				perDatagram(b, len(in.data))
			})
		}
	}
}

func pcapgoRead(b *testing.B, src gopacket.ZeroCopyPacketDataSource) (n int) {
	var eth layers.Ethernet
	var ip4 layers.IPv4
	var udp layers.UDP
	var payload gopacket.Payload
	parser := gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &eth, &ip4, &udp, &payload)
	var decoded []gopacket.LayerType
	for {
		data, _, err := src.ZeroCopyReadPacketData()
		if err == io.EOF {
			return n
		}
		if err != nil {
			b.Fatal(err)
		}
		if err := parser.DecodeLayers(data, &decoded); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkDecode is the Decoder without reading, on frames that DecodePlain
// leaves to it.
func BenchmarkDecode(b *testing.B) {
	tagged := append(bytes.Clone(frame4("x")[:12]), 0x81, 0, 0, 5)
	tagged = append(tagged, frame4("0123456789")[12:]...)
	for _, c := range []struct {
		name string
		link uint16
		f    []byte
	}{{"plain", linkEthernet, frame4("0123456789")}, {"802.1Q", linkEthernet, tagged}, {"raw", linkRaw, packet4("0123456789")}} {
		b.Run(c.name, func(b *testing.B) {
			d := NewDecoder()
			var g format.Datagram
			b.ReportAllocs()
			for b.Loop() {
				g = format.Datagram{Frame: c.f, FrameLength: uint32(len(c.f))}
				d.Decode(c.link, &g)
			}
			if g.Flags != 0 {
				b.Fatal(g.Flags)
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, payload := range []int{64, 1400} {
		b.Run(fmt.Sprint(payload), func(b *testing.B) {
			r := open(b, littleMicro.file(benchFlow(payload)[:512]...))
			batch := format.NewBatch(512, 1<<20)
			if err := r.ReadBatch(batch); err != nil {
				b.Fatal(err)
			}
			w, err := NewWriter(io.Discard, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := w.WriteBatch(batch); err != nil {
					b.Fatal(err)
				}
			}
			n := len(batch.Datagrams)
			b.SetBytes(int64(len(w.buf)))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/datagram")
		})
	}
}
