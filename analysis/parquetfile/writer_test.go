package parquetfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"castdeck/analysis"
	"castdeck/format"
)

func newStreams() *Streams {
	return NewStreams(analysis.GapOptions{}, func(i uint16) string { return []string{"eth0", "eth1"}[i] })
}

// read is what a file holds, by parquet-go.
func read(t *testing.T, file []byte) (*parquet.File, []Row) {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := parquet.Read[Row](bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return f, rows
}

// moldPacket has count messages of no bytes, from number first on.
func moldPacket(first uint64, count uint16) []byte {
	p := binary.BigEndian.AppendUint64([]byte("SESSION001"), first)
	p = binary.BigEndian.AppendUint16(p, count)
	for range count {
		p = append(p, 0, 1, 'x')
	}
	return p
}

// datagrams around every boundary: of lengths, times, flags and losses; one stream is
// numbered.
func someDatagrams() (list []format.Datagram) {
	src, src6 := netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("[2001:db8::1]:65535")
	dst, dst6 := netip.MustParseAddrPort("239.1.1.1:5000"), netip.MustParseAddrPort("[ff3e::1]:1")
	next := uint64(1)
	for i, size := range []int{0, 1, 1472, 8972, 65507, 65527, 0, 100} {
		p := bytes.Repeat([]byte{byte(i), 0xFF, 0}, size/3+1)[:size]
		list = append(list, format.Datagram{Time: int64(i), Src: src6, Dst: dst6, Interface: 1, TTL: uint8(i), Length: uint32(size), Payload: p})
	}
	list[7].Length, list[7].Flags = 65527, format.FlagTruncated|format.FlagUserStamp
	list[3].Drops = math.MaxUint64
	for i := range 3000 {
		count := uint16(i % 4) // 0 is a heartbeat: the number that is due
		p := moldPacket(next, count)
		list = append(list, format.Datagram{Time: math.MaxInt64 - 3000 + int64(i), Src: src, Dst: dst, TTL: 255, Length: uint32(len(p)), Payload: p})
		next += uint64(count)
	}
	return list
}

func want(d *format.Datagram) Row {
	r := Row{
		TimeNS: d.Time, Time: d.Time, Source: d.Src.Addr().String(), SourcePort: d.Src.Port(), Group: d.Dst.Addr().String(), Port: d.Dst.Port(),
		Interface: []string{"eth0", "eth1"}[d.Interface], TTL: d.TTL, Length: d.Length, Captured: uint32(len(d.Payload)),
		Truncated: d.Flags&format.FlagTruncated != 0, Flags: d.Flags.String(), Dropped: d.Drops, Payload: d.Payload,
	}
	if d.Dst.Port() == 5000 {
		protocol, channel := "moldudp64", "session SESSION001"
		first, count := binary.BigEndian.Uint64(d.Payload[10:]), uint64(binary.BigEndian.Uint16(d.Payload[18:]))
		r.Protocol, r.Channel, r.Sequence, r.Count = &protocol, &channel, &first, &count
	}
	return r
}

// TestRoundTrip: what parquet-go reads is what was written, in order, in however many row
// groups, with each compression.
func TestRoundTrip(t *testing.T) {
	list := someDatagrams()
	for _, c := range []format.Compression{format.None, format.Gzip, format.Zstd} {
		for _, each := range []int{1 << 30, 200_000, 1} {
			var file bytes.Buffer
			w := New(&file, Options{Compression: c, Streams: newStreams(), Application: "castdeck", Version: "1.2", PageSize: 16 << 10})
			n, groups := len(list), 0
			if each == 1 {
				n = 40 // a row group for each
			}
			for i := range list[:n] {
				d := list[i]
				p := bytes.Clone(d.Payload)
				d.Payload = p
				w.Add(&d)
				clear(p) // what was added is a copy
				if w.Gathered() >= each {
					if err := w.Flush(each%2 == 0); err != nil {
						t.Fatal(err)
					}
					groups++
				}
			}
			if w.Rows() > 0 {
				groups++
			}
			if err := w.Flush(false); err != nil {
				t.Fatal(err)
			}
			w.Tell("k", "v")
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			f, rows := read(t, file.Bytes())
			if len(f.RowGroups()) != groups || len(rows) != n {
				t.Fatalf("%d row groups, %d rows; want %d and %d", len(f.RowGroups()), len(rows), groups, n)
			}
			if v, _ := f.Lookup("k"); v != "v" || !strings.HasPrefix(f.Metadata().CreatedBy, "castdeck version 1.2") {
				t.Errorf("metadata %q, made by %q", v, f.Metadata().CreatedBy)
			}
			for i := range rows {
				w := want(&list[i])
				if each == 1 && w.Protocol != nil && rows[i].Protocol == nil {
					continue // too few were seen by then
				}
				if rows[i].Payload == nil {
					rows[i].Payload = []byte{}
				}
				if !reflect.DeepEqual(rows[i], w) {
					t.Fatalf("row %d:\n%+v, want\n%+v", i, rows[i], w)
				}
			}
		}
	}
}

// TestColumns: the columns are Row's, with its types; those that are left out are not there.
func TestColumns(t *testing.T) {
	var names []string
	for i, c := range columns {
		names = append(names, c.name)
		if node, ok := parquet.SchemaOf(Row{}).Lookup(c.name); !ok || node.Node.Optional() != c.optional || node.ColumnIndex != i {
			t.Errorf("column %s: %v, optional %v at %d", c.name, ok, node.Node.Optional(), node.ColumnIndex)
		}
	}
	if !slices.Equal(names, Names()) {
		t.Errorf("columns %v, of Row %v", names, Names())
	}
	var file bytes.Buffer
	w := New(&file, Options{Streams: newStreams(), Omit: []string{"group", "port"}})
	d := someDatagrams()[0]
	w.Add(&d)
	if err := errors.Join(w.Flush(false), w.Close()); err != nil {
		t.Fatal(err)
	}
	f, rows := read(t, file.Bytes())
	var left []string
	for _, c := range f.Schema().Columns() {
		left = append(left, c[0])
	}
	if !slices.Equal(left, slices.DeleteFunc(names, func(n string) bool { return n == "group" || n == "port" })) || rows[0].Source != "2001:db8::1" || rows[0].Interface != "eth1" {
		t.Errorf("columns %v; %+v", left, rows[0])
	}
}

// TestManyStreams: of more streams than are followed the rest has its rows too.
func TestManyStreams(t *testing.T) {
	var file bytes.Buffer
	w := New(&file, Options{Streams: newStreams()})
	const n = maxStreams + 100
	for i := range n {
		d := format.Datagram{Time: int64(i), Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1), Dst: netip.MustParseAddrPort("239.1.1.1:1")}
		w.Add(&d)
	}
	if min := n*rowSize + 100*strangerSize; w.Gathered() < min {
		t.Errorf("%d bytes gathered, at least %d", w.Gathered(), min)
	}
	if err := errors.Join(w.Flush(false), w.Close()); err != nil {
		t.Fatal(err)
	}
	_, rows := read(t, file.Bytes())
	if len(rows) != n || rows[n-1].Source != "10.0.64.99" || rows[n-1].TimeNS != n-1 {
		t.Errorf("%d rows, the last %+v", len(rows), rows[len(rows)-1])
	}
}

// TestEmpty: a file of nothing is a file.
func TestEmpty(t *testing.T) {
	var file bytes.Buffer
	w := New(&file, Options{Streams: newStreams()})
	if err := errors.Join(w.Flush(true), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, rows := read(t, file.Bytes()); len(rows) != 0 {
		t.Errorf("%d rows", len(rows))
	}
}

func BenchmarkWriter(b *testing.B) {
	w := New(discard{}, Options{Compression: format.Zstd, Streams: newStreams(), Room: 8 << 20})
	list := someDatagrams()[8:]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Add(&list[i%len(list)])
		if w.Gathered() >= 8<<20-format.MaxPayload {
			if err := w.Flush(true); err != nil {
				b.Fatal(err)
			}
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
