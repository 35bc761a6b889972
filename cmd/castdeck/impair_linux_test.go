package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/internal/netnstest"
)

// readImpairLog returns the lines of --impair-log by datagram; early ones are left out.
func readImpairLog(t *testing.T, path string) map[uint64]impairJSON {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	log := map[uint64]impairJSON{}
	for line := range bytes.Lines(b) {
		var j impairJSON
		if err := json.Unmarshal(line, &j); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if !j.Early {
			log[j.Index] = j
		} else if len(j.Done) != 1 || j.Done[0] != "reorder" {
			t.Fatalf("sent early, but not at the end: %s", line)
		}
	}
	return log
}

// impaired is what arrives of a capture by an impair log, in order.
func impaired(t *testing.T, path string, log map[uint64]impairJSON) *content {
	t.Helper()
	in, err := openInput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	type waiting struct {
		payload string
		copies  int
		until   int
	}
	passed, back := map[string]int{}, map[string][]waiting{}
	c := &content{streams: map[string][]string{}, groups: map[netip.AddrPort]bool{}}
	leave := func(key, payload string, copies int) {
		for range copies {
			c.streams[key] = append(c.streams[key], payload)
			c.datagrams++
		}
	}
	index := uint64(0)
	err = in.each(func(b *format.Batch) error {
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			key := fmt.Sprintf("%d > %s", d.Src.Port(), d.Dst)
			c.groups[d.Dst] = true
			j := log[index]
			index++
			payload, copies := bytes.Clone(d.Payload), 1
			if slices.Contains(j.Done, "drop") || slices.Contains(j.Done, "drop-burst") {
				continue
			}
			if j.Bit != nil {
				payload[*j.Bit/8] ^= 1 << (*j.Bit % 8)
			}
			if slices.Contains(j.Done, "duplicate") {
				copies = 2
			}
			if slices.Contains(j.Done, "reorder") {
				back[key] = append(back[key], waiting{string(payload), copies, passed[key] + j.By})
				continue
			}
			leave(key, string(payload), copies)
			passed[key]++
			for len(back[key]) > 0 && back[key][0].until == passed[key] {
				leave(key, back[key][0].payload, back[key][0].copies)
				back[key] = back[key][1:]
			}
		}
		return nil
	}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for key, rest := range back { // the end came first
		for _, w := range rest {
			leave(key, w.payload, w.copies)
		}
	}
	return c
}

// TestImpairLogIsWhatArrives: a replay into nowhere tells what its seed does; the same
// again, recorded, is exactly that.
func TestImpairLogIsWhatArrives(t *testing.T) {
	netnstest.Require(t)
	path := filepath.Join(captures, "iex-go-iex/testdata/TOPS16.pcapng.gz")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no real captures: %v", err)
	}
	flags := []string{"--seed", "11", "--drop", "3%", "--drop-burst", "3%,4", "--duplicate", "3%", "--corrupt", "3%", "--reorder", "3%,4"}
	log := filepath.Join(t.TempDir(), "log.ndjson")
	var out, talk bytes.Buffer
	if code := run(t.Context(), append([]string{"replay", path, "-i", "lo", "--speed", "max", "--impair-log", log}, flags...), nil, &out, &talk); code != exitOK {
		t.Fatalf("exit code %d: %s", code, talk.Bytes())
	}
	done := readImpairLog(t, log)
	if len(done) < 1000 {
		t.Fatalf("only %d datagrams hit", len(done))
	}
	want := impaired(t, path, done)
	got := readContent(t, recordReplay(t, path, "socket", want, flags...))
	compareContent(t, got, want)
}

// TestRewriteRealTraffic loops real captures three times with rewriting; own readers,
// and tshark where it is, follow the counters.
func TestRewriteRealTraffic(t *testing.T) {
	netnstest.Require(t)
	const loops = 3
	for _, c := range []struct {
		path, what string
		// check sees all payloads of a stream, and those of the recording.
		check func(t *testing.T, got, recorded []string)
		// decode is what tshark reads it as; "" is nothing.
		decode string
	}{
		{"ebu-pi-list/sample_data/pcap/st2110/2110-30/l16_48000_2ch_1ms.pcap", "rtp", rtpGoesOn, "rtp"},
		{"ebu-pi-list/sample_data/pcap/st2110/2110-22/125mbps-JPEGXS.pcap", "rtp", rtpGoesOn, "rtp"},
		{"ndpi/tests/cfgs/default/pcap/mpegts.pcap", "mpegts", tsGoesOn, "mp2t"},
		{"omi-data-packets/Nasdaq/Nasdaq.Equities.TotalView.Itch.v5.0/OrderDeleteMessage.pcap", "moldudp64", moldGoesOn, ""},
		{"omi-data-packets/Asx/Ntp.Itch.v1.05/TradeExecutedMessage.pcap", "moldudp64", moldGoesOn, ""},
		{"iex-go-iex/testdata/TOPS16.pcapng.gz", "time@32:8:le:ns", iexIsNow, ""},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			path := filepath.Join(captures, c.path)
			if _, err := os.Stat(path); err != nil {
				t.Skipf("no real captures: %v", err)
			}
			recorded := readContent(t, path)
			want := *recorded
			want.datagrams *= loops
			rec := recordReplay(t, path, "socket", &want, "--loop", fmt.Sprint(loops), "--rewrite", "224.0.0.0/4="+c.what)
			got := readContent(t, rec)
			if got.datagrams != want.datagrams || len(got.streams) != len(recorded.streams) {
				t.Fatalf("%d datagrams in %d streams, want %d in %d", got.datagrams, len(got.streams), want.datagrams, len(recorded.streams))
			}
			for key, payloads := range got.streams {
				c.check(t, payloads, recorded.streams[key])
			}
			if c.decode != "" {
				tsharkMissesNothing(t, rec, c.decode, got)
			}
		})
	}
}

// sameBut fails where bytes outside of [from, to) are not those of the recording.
func sameBut(t *testing.T, i int, got, recorded string, from, to int) {
	t.Helper()
	if len(got) != len(recorded) || got[:from] != recorded[:from] || got[to:] != recorded[to:] {
		t.Fatalf("datagram %d: other bytes than the counter were changed", i)
	}
}

func rtpGoesOn(t *testing.T, got, recorded []string) {
	sequence := func(i int) uint16 { return binary.BigEndian.Uint16([]byte(got[i][2:])) }
	stamp := func(i int) uint32 { return binary.BigEndian.Uint32([]byte(got[i][4:])) }
	n := len(recorded)
	for i := range got {
		sameBut(t, i, got[i], recorded[i%n], 2, 8)
		if i > 0 && sequence(i) != sequence(i-1)+1 {
			t.Fatalf("datagram %d: sequence number %d behind %d", i, sequence(i), sequence(i-1))
		}
		if i >= n && i%n != 0 && stamp(i)-stamp(i-1) != stamp(i%n)-stamp(i%n-1) {
			t.Fatalf("datagram %d: timestamp %d behind %d", i, stamp(i), stamp(i-1))
		}
		// At a seam: one step of the media clock.
		if i > 0 && i%n == 0 {
			last := uint32(0)
			for k := n - 1; k > 0 && last == 0; k-- {
				last = stamp(k) - stamp(k-1)
			}
			if last == 0 || stamp(i)-stamp(i-1) != last {
				t.Fatalf("round %d begins %d behind the last, want %d", i/n, stamp(i)-stamp(i-1), last)
			}
		}
	}
}

func tsGoesOn(t *testing.T, got, recorded []string) {
	counters := map[uint16]byte{}
	for i, d := range got {
		for at := 0; at < len(d); at += 188 {
			sameBut(t, i, d[at:at+188], recorded[i%len(recorded)][at:at+188], 3, 4)
			pid := binary.BigEndian.Uint16([]byte(d[at+1:])) & 0x1FFF
			if pid == 0x1FFF {
				continue // null packets count nothing
			}
			last, known := counters[pid]
			if d[at+3]&0x10 != 0 {
				last = (last + 1) % 16
			}
			if counter := d[at+3] & 15; known && counter != last {
				t.Fatalf("datagram %d, PID %d: counter %d, want %d", i, pid, counter, last)
			}
			counters[pid] = d[at+3] & 15
		}
	}
}

func moldGoesOn(t *testing.T, got, recorded []string) {
	next := uint64(0)
	for i, d := range got {
		sameBut(t, i, d, recorded[i%len(recorded)], 10, 18)
		sequence := binary.BigEndian.Uint64([]byte(d[10:]))
		if i > 0 && sequence != next {
			t.Fatalf("datagram %d: sequence number %d, want %d", i, sequence, next)
		}
		next = sequence + uint64(binary.BigEndian.Uint16([]byte(d[18:])))
	}
}

// iexIsNow: the sending time of IEX-TP is in the last minutes, and never goes back.
func iexIsNow(t *testing.T, got, recorded []string) {
	last := time.Now().Add(-10 * time.Minute).UnixNano()
	for i, d := range got {
		sameBut(t, i, d, recorded[i%len(recorded)], 32, 40)
		at := int64(binary.LittleEndian.Uint64([]byte(d[32:])))
		if at < last || at > time.Now().UnixNano() {
			t.Fatalf("datagram %d was sent at %d, the one before at %d", i, at, last)
		}
		last = at
	}
}

// tsharkMissesNothing: tshark finds all datagrams, and no loss.
func tsharkMissesNothing(t *testing.T, rec, decode string, want *content) {
	t.Helper()
	for _, tool := range []string{"zstd", "tshark"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Logf("%s is not installed", tool)
			return
		}
	}
	for group := range want.groups {
		how := map[string]string{
			"rtp":  "-q -z rtp,streams",
			"mp2t": "-Y 'mp2t && !mp2t.cc.drop'",
		}[decode]
		out := pipe(t, fmt.Sprintf("zstd -dc %s | tshark -n -r - -d udp.port==%d,%s %s", rec, group.Port(), decode, how))
		fits := strings.Count(out, "\n") == want.datagrams
		if decode == "rtp" {
			fits = strings.Contains(out, fmt.Sprintf(" %d     0 (0.0%%)", want.datagrams))
		}
		if !fits {
			t.Errorf("tshark finds\n%s", out)
		}
	}
}
