package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// gapsOf runs castdeck gaps --json.
func gapsOf(t *testing.T, args ...string) (code int, lines []gapsJSON, sum gapSummaryJSON) {
	t.Helper()
	code, out, talk := command(t, append([]string{"gaps", "--json"}, args...)...)
	all := strings.Split(strings.TrimSpace(out), "\n")
	for i, line := range all {
		var g gapsJSON
		err := json.Unmarshal([]byte(line), &g)
		if i == len(all)-1 {
			err = json.Unmarshal([]byte(line), &sum)
		} else {
			lines = append(lines, g)
		}
		if err != nil {
			t.Fatalf("%v: %s%s", err, out, talk)
		}
	}
	return code, lines, sum
}

// realNumbers is what captures of real traffic hold: the numbers that tshark shows where
// it has the protocol (moldudp64, rtp, ptp), or that stand where the specification says.
// One datagram is rarely enough to recognise a protocol by; where it is, auto says so.
var realNumbers = []struct {
	path, protocol, channel        string
	first, last, received, missing uint64
	auto                           bool
}{
	{"omi-data-packets/Asx/Ntp.Itch.v1.05/TradeExecutedMessage.pcap", "moldudp64", "session 1567326030", 3781390, 3781397, 8, 0, false},
	{"omi-data-packets/Jnx/JnxEquities.Pts.Itch.v1.6/OrderDeletedMessage.pcap", "moldudp64", "session 1670788904", 25211, 25211, 1, 0, false},
	{"omi-data-packets/Nasdaq/Bx.Equities.TotalView.Itch.v5.0/AddOrderNoMpidAttributionMessage.pcap", "moldudp64", "session 000010059D", 1621717, 1621717, 1, 0, false},
	{"omi-data-packets/Nasdaq/Nasdaq.Equities.TotalView.Itch.v5.0/OrderDeleteMessage.pcap", "moldudp64", "session 000010059B", 14757722, 14757722, 1, 0, false},
	{"omi-data-packets/Nasdaq/Uqdf.Output.Utp.v1.5/QuoteShortFormMessage.pcap", "moldudp64", "session 000007527Q", 19819341, 19819341, 1, 0, false},
	{"omi-data-packets/B3/BinaryUmdf.v1.5/SequenceReset.pcap", "umdf", "channel 50 version 1333", 0, 0, 1, 0, false},
	{"omi-data-packets/B3/BinaryUmdf.v1.8/Sequence.pcap", "umdf", "channel 50 version 5599", 0, 0, 1, 0, false},
	{"omi-data-packets/Cboe/Byx.Equities.DepthOfBook.Pitch.v2.41/ModifyOrderShortMessage.pcap", "pitch", "unit 11", 121843, 121843, 1, 0, false},
	{"omi-data-packets/Cboe/Futures.DepthOfBook.Pitch.v1.1.6/TradingStatusMessage.pcap", "pitch", "unit 1", 35934, 35949, 16, 0, false},
	{"omi-data-packets/Cme/Mdp3.Sbe.v1.5/MdInstrumentDefinitionSpread.pcap", "mdp3", "", 2, 2, 1, 0, true},
	{"omi-data-packets/Cme/Mdp3.Sbe.v1.8/MdIncrementalRefreshTradeSummary.pcap", "mdp3", "", 17349477, 17349477, 1, 0, true},
	{"omi-data-packets/Cme/Mdp3.Sbe.v1.9/MdIncrementalRefreshOrderBook.pcap", "mdp3", "", 911525, 911525, 1, 0, true},
	{"omi-data-packets/Eurex/Eobi.T7.v3.0/Heartbeat.pcap", "eobi", "market segment 7194 partition 6", 1196002, 1196002, 1, 0, true},
	{"omi-data-packets/Eurex/Eobi.T7.v6.0/Heartbeat.pcap", "eobi", "market segment 12399 partition 6", 528688, 528688, 1, 0, true},
	{"omi-data-packets/Ice/Mdf.iMpact.v1.1.24/OpenPriceMessage.pcap", "impact", "session 7971", 4493, 4493, 1, 0, false},
	{"omi-data-packets/Ice/Mdf.iMpact.v1.1.33/MarketSnapshotOrderMessage.pcap", "impact", "session 6289", 538704, 538712, 9, 0, false},
	{"omi-data-packets/Iex/Deep.IexTp.v1.0/PriceLevelSellUpdateMessage.pcap", "iex-tp", "channel 1 session 1222443008", 355282, 355282, 1, 0, true},
	{"omi-data-packets/Iex/DeepPlus.IexTp.1.0.2/R_OrderDelete.pcap", "iex-tp", "channel 1 session 1310523392", 47151, 47151, 1, 0, true},
	{"omi-data-packets/Iex/Tops.IexTp.v1.5/SecurityDirectoryMessage.pcap", "iex-tp", "channel 1 session 1150681088", 34110, 34161, 52, 0, true},
	{"omi-data-packets/Memx/Equities.MemiorDepth.v1.3/MultipleMessages.pcap", "memoir", "session 0x5553453164e486c8", 5421722, 5421774, 53, 0, false},
	{"omi-data-packets/Nyse/ImbalancesFeed.Xdp.v2.1.f/ImbalanceMessage.pcap", "xdp", "", 11603, 11603, 1, 0, false},
	{"omi-data-packets/Nyse/IntegratedFeed.Pillar.v2.5/SourceTimeReferenceMessage.pcap", "xdp", "", 10985, 10985, 1, 0, false},
	{"iex-go-iex/testdata/TOPS16.pcapng.gz", "iex-tp", "channel 1 session 1137508352", 1, 57674, 57674, 0, true},
	{"deribit-sbe-multicast/pcaps/price_index.pcapng", "deribit", "channel 0", 0, 1101, 1102, 0, true},
	{"deribit-sbe-multicast/pcaps/combo_legs.pcapng", "deribit", "channel 101", 5, 14, 4, 6, true},
	{"ebu-pi-list/sample_data/pcap/ptp/PTP_clock.pcap", "ptp", "Sync domain 0 clock 28993affff267e2b port 20", 46019, 46020, 2, 0, true},
	{"ndpi/tests/cfgs/default/pcap/mpegts.pcap", "mpeg-ts", "pid 0x0101", 7, 11, 5, 0, true},
	{"ebu-pi-list/sample_data/pcap/st2110/2022-7/ST2022-7-Audio_dropped_in_both.pcap", "rtp", "ssrc 0x01020304", 24883, 25082, 189, 11, true},
}

func TestGapsOfRealTraffic(t *testing.T) {
	readIndex(t) // or skip
	for _, c := range realNumbers {
		for _, auto := range []bool{false, true} {
			args := []string{filepath.Join(captures, filepath.FromSlash(c.path))}
			if !auto {
				args = append(args, "--protocol", c.protocol)
			}
			code, lines, _ := gapsOf(t, args...)
			if auto && !c.auto {
				if lines[0].Protocol != "unknown" {
					t.Errorf("%s: taken for %s by one datagram", c.path, lines[0].Protocol)
				}
				continue
			}
			// The first line: by destination.
			g := lines[0]
			if g.Protocol != c.protocol || g.Channel != c.channel || g.FirstSeq != c.first || g.LastSeq != c.last || g.Received != c.received || g.Missing != c.missing {
				t.Errorf("%s: %+v\nwant %+v", c.path, g, c)
			}
			if (code == exitLossy) != slices.ContainsFunc(lines, func(g gapsJSON) bool { return g.Missing > 0 }) {
				t.Errorf("%s: exit code %d", c.path, code)
			}
		}
	}
}

// TestNothingElseIsRecognised: what is not numbered in a known way is not taken for it.
func TestNothingElseIsRecognised(t *testing.T) {
	numbered := regexp.MustCompile(`RTP|ST 2110|ST 2022|PTP|MPEG-TS|IEX-TP|Deribit|exchange feed`)
	index, err := os.ReadFile(filepath.Join(captures, "INDEX.tsv"))
	if err != nil {
		t.Skipf("no real captures: %v", err)
	}
	looked := 0
	for line := range strings.SplitSeq(string(index), "\n") {
		fields := strings.Split(line, "\t")
		if len(fields) < 9 || fields[4] == "0" || fields[0] == "path" || numbered.MatchString(fields[8]) {
			continue
		}
		code, out, _ := command(t, "gaps", "--json", filepath.Join(captures, filepath.FromSlash(fields[0])))
		if code == exitFailed {
			continue // another format, or broken
		}
		looked++
		for l := range strings.SplitSeq(out, "\n") {
			if strings.Contains(l, `"protocol":`) && !strings.Contains(l, `"protocol":"unknown"`) {
				t.Errorf("%s (%s): %s", fields[0], fields[8], l)
			}
		}
	}
	if looked < 20 {
		t.Errorf("only %d captures were there to look at", looked)
	}
}

// TestGapsBesideTshark: RTP, packets and losses of each stream as tshark counts them.
func TestGapsBesideTshark(t *testing.T) {
	readIndex(t) // or skip
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("tshark is not installed")
	}
	dir := filepath.Join(captures, "ebu-pi-list/sample_data/pcap/st2110")
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*.pcap"))
	if err != nil || len(paths) < 5 {
		t.Fatalf("%d captures in %s: %v", len(paths), dir, err)
	}
	// start, end, source, port, destination, port, SSRC, payload, packets, lost (%)
	row := regexp.MustCompile(`(?m)^\s*[\d.]+\s+[\d.]+\s+([\d.]+)\s+(\d+)\s+([\d.]+)\s+(\d+)\s+0x([0-9A-F]+)\s+\S+\s+(\d+)\s+(-?\d+) \(`)
	for _, path := range paths {
		_, lines, _ := gapsOf(t, path)
		args := []string{"-n", "-q", "-z", "rtp,streams", "-r", path}
		for _, g := range lines {
			args = append(args, "-d", "udp.port=="+strconv.Itoa(int(g.Port))+",rtp")
		}
		var talk bytes.Buffer
		cmd := exec.Command("tshark", args...)
		cmd.Stderr = &talk
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", cmd, err, talk.Bytes())
		}
		rows := row.FindAllStringSubmatch(string(out), -1)
		if len(rows) != len(lines) {
			t.Errorf("%s: tshark has %d streams, castdeck %d: %s", path, len(rows), len(lines), out)
		}
		for _, r := range rows {
			ssrc, _ := strconv.ParseUint(r[5], 16, 32)
			i := slices.IndexFunc(lines, func(g gapsJSON) bool { return g.Group == r[3] && g.Source == r[1] })
			if i < 0 {
				t.Errorf("%s: no stream %v", path, r)
				continue
			}
			g := lines[i]
			if want := "ssrc 0x" + strings.ToLower(r[5]); g.Channel != want {
				t.Errorf("%s: %s, want %s (%d)", path, g.Channel, want, ssrc)
			}
			if strconv.FormatUint(g.Received+g.Duplicates, 10) != r[6] || strconv.FormatUint(g.Missing, 10) != r[7] {
				t.Errorf("%s: %d received and %d missing, tshark says %s and %s", path, g.Received, g.Missing, r[6], r[7])
			}
		}
	}
}

// TestMoldBesideTshark: sessions and numbers of MoldUDP64 as tshark decodes them.
func TestMoldBesideTshark(t *testing.T) {
	readIndex(t) // or skip
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("tshark is not installed")
	}
	for _, c := range realNumbers {
		if c.protocol != "moldudp64" {
			continue
		}
		path := filepath.Join(captures, filepath.FromSlash(c.path))
		_, lines, _ := gapsOf(t, "--protocol", c.protocol, path)
		g := lines[0]
		cmd := exec.Command("tshark", "-n", "-r", path, "-d", "udp.port=="+strconv.Itoa(int(g.Port))+",moldudp64",
			"-T", "fields", "-e", "moldudp64.session", "-e", "moldudp64.sequence", "-e", "moldudp64.count")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		want := strings.TrimPrefix(g.Channel, "session ") + "\t" + strconv.FormatUint(g.FirstSeq, 10) + "\t" + strconv.FormatUint(g.Received, 10)
		if strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: tshark says %q, castdeck %q", c.path, out, want)
		}
	}
}
