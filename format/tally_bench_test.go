package format

import (
	"net/netip"
	"testing"
)

// BenchmarkTally counts a batch from 8 streams that take turns.
func BenchmarkTally(b *testing.B) {
	batch := NewBatch(512, 512*64)
	for i := range 512 {
		batch.Append(&Datagram{
			Time: int64(i), Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), 4000),
			Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(i % 8)}), uint16(5000+i%8)), Payload: make([]byte, 64),
		})
	}
	var t Tally
	b.ReportAllocs()
	for b.Loop() {
		t.Add(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/datagram")
}
