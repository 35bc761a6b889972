package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"castdeck/format"
)

// command runs castdeck and returns what it prints.
func command(t *testing.T, args ...string) (code int, out, talk string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, nil, &o, &e)
	return code, o.String(), e.String()
}

func verifyOf(t *testing.T, path string) (code int, v verifyJSON) {
	t.Helper()
	code, out, talk := command(t, "verify", "--json", path)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v: %s%s", err, out, talk)
	}
	return code, v
}

// unit is a packet in a capture: where it stands and where its length does.
type unit struct{ start, end, length int }

// unitsOf finds the packets of a classic pcap or a pcapng that is whole.
func unitsOf(t *testing.T, b []byte) (units []unit) {
	t.Helper()
	order := binary.ByteOrder(binary.LittleEndian)
	next := func(at int) (end, length int, packet bool) { // of a pcapng block
		n := int(order.Uint32(b[at+4:]))
		typ := order.Uint32(b[at:])
		return at + n, at + 4, typ == format.BlockEPB || typ == format.BlockPacket || typ == format.BlockSPB
	}
	at := 0
	switch binary.BigEndian.Uint32(b) {
	case format.BlockSHB:
		if binary.BigEndian.Uint32(b[8:]) == 0x1A2B3C4D {
			order = binary.BigEndian
		}
	default:
		if b[0] == 0xA1 {
			order = binary.BigEndian
		}
		at = 24
		next = func(at int) (end, length int, packet bool) {
			return at + 16 + int(order.Uint32(b[at+8:])), at + 8, true
		}
	}
	for at < len(b) {
		end, length, packet := next(at)
		if end <= at || end > len(b) {
			t.Fatalf("not whole at byte %d", at)
		}
		if packet {
			units = append(units, unit{at, end, length})
		}
		at = end
	}
	return units
}

// containers pack a whole capture as other tools do.
var containers = map[string]func(t *testing.T, b []byte) []byte{
	"": func(_ *testing.T, b []byte) []byte { return b },
	".gz": func(t *testing.T, b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, err := z.Write(b)
		return packed(t, &out, errors.Join(err, z.Close()))
	},
	".zst": func(t *testing.T, b []byte) []byte {
		var out bytes.Buffer
		z, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		_, err = z.Write(b)
		return packed(t, &out, errors.Join(err, z.Close()))
	},
	".lz4": func(t *testing.T, b []byte) []byte {
		var out bytes.Buffer
		z := lz4.NewWriter(&out)
		if err := z.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
			t.Fatal(err)
		}
		_, err := z.Write(b)
		return packed(t, &out, errors.Join(err, z.Close()))
	},
}

func packed(t *testing.T, out *bytes.Buffer, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// damagedCaptures are real captures that are damaged here: pcap with microseconds and
// nanoseconds, pcapng of one and of many interfaces, Ethernet and Linux cooked.
var damagedCaptures = []string{
	"deribit-sbe-multicast/pcaps/price_index.pcapng",
	"ebu-pi-list/sample_data/pcap/st2110/2022-7/ST2022-7-Audio_dropped_in_both.pcap",
	"ebu-pi-list/sample_data/pcap/st2110/2110-40/2110-40_5994i.pcap",
	"fpcap/tracefiles/many_interfaces-1.pcapng",
	"libtrace/test/traces/100_sll.pcap",
	"nfstream/tests/pcaps/mdns.pcap",
	"tsduck-test/input/test-107.pcapng",
}

// TestDamagedCaptures: of captures of other tools, packed or not, verify says where the
// damage is, what it costs and between which datagrams, and repair writes all the rest.
func TestDamagedCaptures(t *testing.T) {
	if _, err := os.Stat(captures); err != nil {
		t.Skipf("no real captures: %v", err)
	}
	for _, name := range damagedCaptures {
		path := filepath.Join(captures, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		units, all := unitsOf(t, whole), []packet(nil)
		if all, _ = readPackets(t, path); len(all) != len(units) {
			t.Fatalf("%s: %d packets, %d found here", name, len(all), len(units))
		}
		k, last := len(units)/2, len(units)-1
		hit, end := units[k], units[last]
		for _, test := range []struct {
			what      string
			file      []byte
			from, to  int // packets lost
			bytes     int
			datagrams uint64
		}{
			{"length field", patched(whole, hit.length, 0x7F, 0xFF, 0xFF, 0xFC), k, k + 1, hit.end - hit.start, 0},
			{"noise between", slices.Insert(slices.Clone(whole), hit.start, bytes.Repeat([]byte{0xFF}, 1001)...), k, k, 1001, 0},
			{"cut off", whole[:end.end-5], last, last + 1, end.end - 5 - end.start, 1},
		} {
			for container, pack := range containers {
				t.Run(name+container+"/"+test.what, func(t *testing.T) {
					in := filepath.Join(t.TempDir(), "in")
					writeFile(t, in, pack(t, test.file))
					code, v := verifyOf(t, in)
					if code != exitLossy || v.OK || len(v.Lost) != 1 || len(v.Problems) != 1 {
						t.Fatalf("exit code %d, %+v", code, v)
					}
					got := v.Lost[0]
					if got.Offset != int64(units[test.from].start) || got.Bytes != int64(test.bytes) || v.LostBytes != got.Bytes || got.Datagrams != test.datagrams || got.Exact {
						t.Errorf("%+v, want %d bytes at %d, %d datagrams at least", got, test.bytes, units[test.from].start, test.datagrams)
					}
					if got.StartNS == nil || *got.StartNS != all[test.from-1].time {
						t.Errorf("%+v, the last packet before it came at %d", got, all[test.from-1].time)
					}
					if behind := test.to < len(all); behind != (got.EndNS != nil) || behind && *got.EndNS != all[test.to].time {
						t.Errorf("%+v, the first packet behind it is %d of %d", got, test.to, len(all))
					}
					repairs(t, in, v.Problems, slices.Concat(all[:test.from], all[test.to:]))
				})
			}
		}
		for container, pack := range containers {
			if container == "" || len(whole) < 150<<10 {
				continue // what is small is one compressed block, and all of it gone
			}
			t.Run(name+container+"/packed file cut off", func(t *testing.T) {
				in := filepath.Join(t.TempDir(), "in")
				file := pack(t, whole)
				writeFile(t, in, file[:len(file)*4/5])
				code, v := verifyOf(t, in)
				if code != exitLossy || len(v.Lost) != 1 || v.Lost[0].StartNS == nil || v.Lost[0].EndNS != nil || v.Lost[0].Exact || v.LostBytes == 0 {
					t.Fatalf("exit code %d, %+v", code, v)
				}
				got, _ := readPackets(t, in)
				if n := len(got); n == 0 || n >= len(all) || *v.Lost[0].StartNS != all[n-1].time {
					t.Errorf("%d packets of %d, %+v", n, len(all), v.Lost[0])
				}
				repairs(t, in, v.Problems, got)
			})
			t.Run(name+container+"/packed file damaged", func(t *testing.T) {
				in := filepath.Join(t.TempDir(), "in")
				file := pack(t, whole)
				clear(file[len(file)/2:][:64])
				writeFile(t, in, file)
				code, v := verifyOf(t, in)
				if code != exitLossy || v.LostBytes == 0 || len(v.Lost) == 0 {
					t.Fatalf("exit code %d, %+v", code, v)
				}
				got, _ := readPackets(t, in)
				repairs(t, in, v.Problems, got)
			})
		}
	}
}

func patched(b []byte, at int, with ...byte) []byte {
	b = slices.Clone(b)
	copy(b[at:], with)
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// repairs repairs a damaged file, which stays as it is, and wants these packets in the
// new one and each problem said.
func repairs(t *testing.T, in string, problems []string, want []packet) {
	t.Helper()
	type state struct {
		modified time.Time
		sum      [sha256.Size]byte
	}
	now := func() state {
		st, err := os.Stat(in)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		return state{st.ModTime(), sha256.Sum256(b)}
	}
	before, out := now(), in+".pcapng.zst"
	code, _, talk := command(t, "repair", in, out)
	if code != exitLossy {
		t.Fatalf("repair: exit code %d: %s", code, talk)
	}
	for _, p := range problems {
		if !strings.Contains(talk, in+": given up: "+p+"\n") {
			t.Errorf("repair does not say %q: %s", p, talk)
		}
	}
	if now() != before {
		t.Error("repair changed its input")
	}
	if code, v := verifyOf(t, out); code != exitOK || !v.Sealed || len(v.Lost) != 0 {
		t.Errorf("what repair wrote: exit code %d, %+v", code, v)
	}
	got, _ := readPackets(t, out)
	sameDatagrams(t, "repaired", datagramsOf(got), datagramsOf(want))
}

// TestRepairOntoItself: the input is refused as the output, whatever it is called.
func TestRepairOntoItself(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "in.pcapng")
	writeCapture(t, path, []format.Interface{{LinkType: 1}}, framed(t, format.Datagram{Time: 1e18, Src: someSrc, Dst: someDst}, 1))
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	soft, hard := filepath.Join(dir, "soft.pcapng"), filepath.Join(dir, "hard.pcapng")
	if err := errors.Join(os.Symlink(path, soft), os.Link(path, hard)); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][2]string{{path, path}, {path, soft}, {path, hard}, {soft, path}, {hard, soft}, {dir + "/./in.pcapng", path}} {
		for _, cmd := range []string{"repair", "convert"} {
			code, _, talk := command(t, cmd, "--force", names[0], names[1])
			if got, err := os.ReadFile(path); code != exitUsage || !strings.Contains(talk, "input and output are the same file") || err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s %v: exit code %d: %s (%v)", cmd, names, code, talk, err)
			}
		}
	}
}

func unpacked(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
