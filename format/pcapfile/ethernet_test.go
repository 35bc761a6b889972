package pcapfile

import (
	"bytes"
	"encoding/binary"
	"testing"

	"castdeck/format"
)

// TestEthernet: what the converter makes of each kind of packet, and that it gives
// a writer the same as the writer itself makes of the unconverted batch.
func TestEthernet(t *testing.T) {
	igmp := packet4("igmp")
	igmp[9] = 2
	n := newNG(binary.LittleEndian).iface(linkRaw, 0, (&ng{order: binary.LittleEndian}).option(2, []byte("tun0"))).iface(linkEthernet, 0).iface(189, 0)
	n.epb(0, 1, packet4("raw")).epb(2, 2, []byte("usb")).epb(0, 3, igmp).epb(1, 4, frame4("frame")).epb(0, 5, packet6("six"))
	r := open(t, n.b)
	e := NewEthernet(r.Interfaces)
	var b format.Batch
	if err := r.ReadBatch(&b); err != nil {
		t.Fatal(err)
	}
	var direct, converted bytes.Buffer
	for out, interfaces := range map[*bytes.Buffer]func() []format.Interface{&direct: r.Interfaces, &converted: e.Interfaces} {
		w, err := NewWriter(out, interfaces)
		if err != nil {
			t.Fatal(err)
		}
		c := format.Batch{Datagrams: append([]format.Datagram(nil), b.Datagrams...)}
		if out == &converted {
			e.Convert(&c)
		}
		if err := w.WriteBatch(&c); err != nil || w.Written() != 4 {
			t.Fatal(w.Written(), err)
		}
	}
	if !bytes.Equal(direct.Bytes(), converted.Bytes()) {
		t.Error("converted and then written is not what is written directly")
	}
	if e.Skipped() != 1 {
		t.Errorf("skipped %d", e.Skipped())
	}
	list := e.Interfaces()
	if len(list) != 3 || list[0].LinkType != linkEthernet || list[0].Name != "tun0" || list[2].LinkType != linkEthernet {
		t.Errorf("interfaces %+v", list)
	}
	if r.Interfaces()[0].LinkType != linkRaw {
		t.Error("the reader's interfaces were changed")
	}
	e.Convert(&b)
	if d := b.Datagrams[0]; d.Frame != nil || d.FrameLength != 0 || string(d.Payload) != "raw" {
		t.Errorf("datagram of a raw link: %+v", d)
	}
	if d := b.Datagrams[1]; d.Flags != format.FlagNotUDP || len(d.Frame) != 14+len(igmp) || int(d.FrameLength) != len(d.Frame) {
		t.Errorf("IGMP of a raw link: %+v", d)
	}
	if d := b.Datagrams[2]; !bytes.Equal(d.Frame, frame4("frame")) {
		t.Errorf("Ethernet frame: %+v", d)
	}
}
