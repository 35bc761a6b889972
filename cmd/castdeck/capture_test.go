package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"castdeck/format"
	"castdeck/internal/netnstest"
)

// captures is the folder of real traffic beside the project; without it the tests
// that read it are skipped.
const captures = "../../../shared/captures"

// replayed are the captures that are replayed, recorded and compared: exchange
// feeds, RTP video and audio, broadcast. All of their folders.
var replayed = []string{"iex-go-iex", "ebu-pi-list", "deribit-sbe-multicast", "libatsc3-atsc3"}

type indexRow struct {
	path                       string
	packets, multicast, groups int
}

// readIndex lists the captures of the folders in replayed.
func readIndex(t *testing.T) (rows []indexRow) {
	t.Helper()
	for _, row := range readWholeIndex(t) {
		for _, folder := range replayed {
			if strings.HasPrefix(row.path, folder+"/") {
				rows = append(rows, row)
			}
		}
	}
	if len(rows) < 14 {
		t.Fatalf("only %d captures in the index", len(rows))
	}
	return rows
}

func readWholeIndex(t *testing.T) []indexRow {
	t.Helper()
	f, err := os.Open(filepath.Join(captures, "INDEX.tsv"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no real captures: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes = '\t', true
	all, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows []indexRow
	num := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, line := range all[1:] {
		rows = append(rows, indexRow{line[0], num(line[3]), num(line[4]), num(line[5])})
	}
	return rows
}

// content is what a capture holds: per stream the payloads in order.
type content struct {
	streams   map[string][]string
	datagrams int
	groups    map[netip.AddrPort]bool
	packets   int
	multicast int
	truncated int
}

func readContent(t *testing.T, path string) *content {
	t.Helper()
	in, err := openInput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	c := &content{streams: map[string][]string{}, groups: map[netip.AddrPort]bool{}}
	err = in.each(func(b *format.Batch) error {
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			c.packets++
			if d.Flags&format.FlagNotUDP != 0 {
				continue
			}
			if !d.Dst.Addr().IsMulticast() {
				continue // only groups are replayed here
			}
			c.multicast++
			if d.Flags&format.FlagTruncated != 0 {
				c.truncated++
				continue
			}
			key := fmt.Sprintf("%d > %s", d.Src.Port(), d.Dst)
			c.streams[key] = append(c.streams[key], string(d.Payload))
			c.groups[d.Dst] = true
			c.datagrams++
		}
		return nil
	}, func(err error) { t.Errorf("%s: %v", path, err) })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRealTraffic replays real captures, records them again, and compares payload
// by payload, in order, source port and group included; the recordings are then
// read with tshark and tcpdump. Every other one is recorded by packet sockets.
func TestRealTraffic(t *testing.T) {
	netnstest.Require(t)
	for i, row := range readIndex(t) {
		t.Run(row.path, func(t *testing.T) {
			path := filepath.Join(captures, row.path)
			want := readContent(t, path)
			if want.packets != row.packets || want.multicast != row.multicast {
				t.Errorf("%d packets, %d of them UDP multicast; the index has %d and %d", want.packets, want.multicast, row.packets, row.multicast)
			}
			if want.datagrams == 0 {
				replayNothing(t, path, want)
				return
			}
			rec := recordReplay(t, path, []string{"socket", "packet"}[i%2], want)
			got := readContent(t, rec)
			compareContent(t, got, want)
			otherToolsAgree(t, rec, got)
		})
	}
}

// replayNothing: of a capture whose datagrams were all cut short, none is sent.
func replayNothing(t *testing.T, path string, want *content) {
	var out, talk bytes.Buffer
	code := run(t.Context(), []string{"replay", path, "-i", "lo", "--loopback", "--speed", "max", "--only", "224.0.0.0/4", "--allow", "224.0.0.0/4", "--json"}, nil, &out, &talk)
	var sum replayJSON
	if err := json.Unmarshal(lastLine(out.Bytes()), &sum); err != nil {
		t.Fatalf("%v: %s%s", err, out.Bytes(), talk.Bytes())
	}
	if code != exitLossy || sum.Datagrams != 0 || sum.SkippedTrunc != uint64(want.truncated) {
		t.Errorf("exit code %d, %+v; want 3, nothing sent, %d truncated", code, sum, want.truncated)
	}
}

// lastLine is the summary of --json.
func lastLine(b []byte) []byte {
	b = bytes.TrimSpace(b)
	return b[bytes.LastIndexByte(b, '\n')+1:]
}

// recordReplay records a full-speed replay of path, which sends what is wanted, and
// returns the recording.
func recordReplay(t *testing.T, path, source string, want *content, flags ...string) string {
	t.Helper()
	rec := filepath.Join(t.TempDir(), "rec.pcapng.zst")
	args := []string{"record", "-i", "lo", "-o", rec, "--json", "--interval", "1h", "--source", source}
	for g := range want.groups {
		args = append(args, g.String())
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, talk bytes.Buffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, args, nil, &out, &talk) }()
	for g := range want.groups {
		if g.Addr().Is4() {
			if err := waitJoined(g.Addr()); err != nil {
				stop()
				<-done
				t.Fatalf("%v: %s", err, talk.Bytes())
			}
		}
	}
	var sent, sentTalk bytes.Buffer
	flags = append([]string{"replay", path, "-i", "lo", "--loopback", "--speed", "max", "--only", "224.0.0.0/4", "--allow", "224.0.0.0/4", "--json"}, flags...)
	code := run(t.Context(), flags, nil, &sent, &sentTalk)
	stop() // what was sent is in the receive buffers, and is still recorded
	recCode := <-done
	if wantCode := map[bool]int{false: exitOK, true: exitLossy}[want.truncated > 0]; code != wantCode || recCode != exitOK {
		t.Fatalf("replay exits with %d, record with %d\n%s%s%s%s", code, recCode, sent.Bytes(), sentTalk.Bytes(), out.Bytes(), talk.Bytes())
	}
	var sum replayJSON
	if err := json.Unmarshal(lastLine(sent.Bytes()), &sum); err != nil {
		t.Fatal(err)
	}
	if sum.Datagrams != uint64(want.datagrams) || sum.SkippedTrunc != uint64(want.truncated) || sum.SendErrors != 0 {
		t.Errorf("the replay reports %+v; want %d sent, %d truncated", sum, want.datagrams, want.truncated)
	}
	return rec
}

func compareContent(t *testing.T, got, want *content) {
	t.Helper()
	if got.datagrams != want.datagrams || len(got.streams) != len(want.streams) {
		t.Errorf("recorded %d datagrams in %d streams, want %d in %d", got.datagrams, len(got.streams), want.datagrams, len(want.streams))
	}
	for key, payloads := range want.streams {
		rec := got.streams[key]
		if len(rec) != len(payloads) {
			t.Errorf("%s: recorded %d datagrams, want %d", key, len(rec), len(payloads))
			continue
		}
		for i := range payloads {
			if rec[i] != payloads[i] {
				t.Errorf("%s: datagram %d differs", key, i)
				break
			}
		}
	}
}

// otherToolsAgree reads a recording with tshark (count and every payload) and
// tcpdump (count).
func otherToolsAgree(t *testing.T, rec string, want *content) {
	t.Helper()
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Log("zstd is not installed: other tools are not asked")
		return
	}
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Log("tshark is not installed")
	} else {
		out := pipe(t, "zstd -dc "+rec+" | tshark -n -r - -T fields -e udp.srcport -e ip.dst -e udp.dstport -e udp.payload")
		got := map[string][]string{}
		for line := range strings.Lines(out) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			if len(f) != 4 {
				t.Fatalf("tshark prints %q", line)
			}
			payload, err := hex.DecodeString(f[3])
			if err != nil {
				t.Fatal(err)
			}
			key := f[0] + " > " + f[1] + ":" + f[2]
			got[key] = append(got[key], string(payload))
		}
		compareContent(t, &content{streams: got, datagrams: want.datagrams}, want)
	}
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Log("tcpdump is not installed")
	} else if out := pipe(t, "zstd -dc "+rec+" | tcpdump -n -r - --count 2>/dev/null"); !strings.HasPrefix(out, fmt.Sprintf("%d packet", want.packets)) {
		t.Errorf("tcpdump counts %q, want %d", out, want.packets)
	}
}

func pipe(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return string(out)
}
