package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"castdeck/format"
	"castdeck/format/segment"
)

// lossyFile makes a recording or, with foreign, a capture of another tool: 40 datagrams
// 100 ms apart, of two groups on two interfaces in turn. Told before datagram 12 are 3
// losses, and by totals only: 5 behind datagram 20 and 7 behind the last one, at 4.5 s.
func lossyFile(t *testing.T, path string, foreign bool) {
	t.Helper()
	const start = int64(1_700_000_000_000_000_000)
	interfaces := []format.Interface{{Name: "a", LinkType: 1}, {Name: "b", LinkType: 1}}
	var received [2]uint64
	var b format.Batch
	at := func(i int) int64 { return start + int64(i)*1e8 }
	var totals []format.InterfaceStats // behind the datagram of the same place
	for i := range 40 {
		d := format.Datagram{Time: at(i), Src: someSrc, Dst: someDst, Interface: uint16(i % 2), Length: 100, Payload: make([]byte, 100), TTL: 1}
		if i%2 == 1 {
			d.Dst = netip.MustParseAddrPort("239.1.1.2:5000")
		}
		if i == 12 {
			d.Drops = 3
		}
		received[i%2]++
		s := format.InterfaceStats{Interface: uint16(i % 2), Time: d.Time + 1000, Received: received[i%2]}
		if i%2 == 0 && i >= 12 {
			s.Dropped = 3
		}
		if i%2 == 0 && i >= 20 {
			s.Dropped = 8
		}
		b.Datagrams, totals = append(b.Datagrams, d), append(totals, s)
	}
	end := totals[38]
	end.Time, end.Dropped = at(45), 15
	if foreign {
		buf := format.AppendSHB(nil, format.Section{})
		for _, i := range interfaces {
			buf = format.AppendIDB(buf, i)
		}
		for i := range b.Datagrams {
			d := framed(t, b.Datagrams[i], 1)
			buf = format.AppendEPB(buf, &d)
		}
		writeFile(t, path, format.AppendISB(buf, end)) // as capture tools do: once, at the end
		return
	}
	w, err := segment.Create(path, segment.Options{Interfaces: interfaces, Info: format.SegmentInfo{Made: true}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.Datagrams {
		err := w.WriteBatch(&format.Batch{Datagrams: b.Datagrams[i : i+1], Stats: totals[i : i+1]})
		if err == nil && i%4 == 3 {
			err = w.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteBatch(&format.Batch{Stats: []format.InterfaceStats{end}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConvertPlacesLosses: what only totals tell of losses is in the part of the capture
// where it belongs, or is said.
func TestConvertPlacesLosses(t *testing.T) {
	dir := t.TempDir()
	rec, other := filepath.Join(dir, "rec.pcapng.zst"), filepath.Join(dir, "other.pcapng")
	lossyFile(t, rec, false)
	lossyFile(t, other, true)
	out := filepath.Join(dir, "out.pcapng.zst")
	for _, c := range []struct {
		in   string
		args []string
		want map[string]uint64 // losses by file
		talk string
	}{
		{rec, nil, map[string]uint64{"out": 15}, ""},
		{rec, []string{"--start", "+0s"}, map[string]uint64{"out": 15}, ""},
		{rec, []string{"--end", "+1s"}, map[string]uint64{"out": 0}, ""},
		{rec, []string{"--end", "+1500ms"}, map[string]uint64{"out": 3}, ""},
		{rec, []string{"--start", "+1300ms", "--end", "+2500ms"}, map[string]uint64{"out": 5}, ""},
		{rec, []string{"--start", "+2200ms"}, map[string]uint64{"out": 12}, ""}, // the totals are of 2.2 s, at the chunk's end
		{rec, []string{"--start", "+2300ms"}, map[string]uint64{"out": 7}, ""},
		{rec, []string{"--start", "+3700ms"}, map[string]uint64{"out": 7}, ""},
		{rec, []string{"--end", "+4s"}, map[string]uint64{"out": 8}, "7 datagrams lost while recording could not be placed"},
		{rec, []string{"--start", "+3700ms", "--end", "+5s"}, map[string]uint64{"out": 7}, ""},
		{rec, []string{"--only", "239.1.1.1"}, map[string]uint64{"out": 15}, ""},
		{rec, []string{"--only", "239.1.1.2", "--skip", "2"}, map[string]uint64{"out": 15}, ""},
		{rec, []string{"--skip", "30"}, map[string]uint64{"out": 7}, ""},
		{rec, []string{"--count", "30"}, map[string]uint64{"out": 8}, ""},
		{rec, []string{"--split-by", "group"}, map[string]uint64{"out-239.1.1.1_5000": 15, "out-239.1.1.2_5000": 0}, ""},
		{rec, []string{"--split-by", "count=15"}, map[string]uint64{"out-00001": 3, "out-00002": 5, "out-00003": 7}, ""},
		{rec, []string{"--split-by", "time=1s"}, map[string]uint64{"out-20231114T221320Z": 0, "out-20231114T221321Z": 3, "out-20231114T221322Z": 5, "out-20231114T221323Z": 7}, ""},
		{other, nil, map[string]uint64{"out": 15}, ""},
		{other, []string{"--start", "+2s"}, map[string]uint64{"out": 12}, ""},
		{other, []string{"--end", "+2s"}, map[string]uint64{"out": 3}, "12 datagrams lost while recording could not be placed"},
		{other, []string{"--split-by", "count=15"}, map[string]uint64{"out-00001": 3, "out-00002": 0, "out-00003": 12}, ""},
	} {
		t.Run(fmt.Sprint(filepath.Base(c.in), c.args), func(t *testing.T) {
			code, talk := convert(t, append(slices.Clone(c.args), "--force", c.in, out)...)
			if code != exitOK || !strings.Contains(talk, c.talk) || c.talk == "" && strings.Contains(talk, "lost") {
				t.Errorf("exit code %d: %s", code, talk)
			}
			for name, want := range c.want {
				in, err := openInput(filepath.Join(dir, name+".pcapng.zst"))
				if err != nil {
					t.Fatal(err)
				}
				s, err := in.summarize(false)
				if in.Close(); err != nil || s.tally.Dropped != want || len(s.problems) > 0 {
					t.Errorf("%s: %d lost, want %d, %q, %v", name, s.tally.Dropped, want, s.problems, err)
				}
			}
		})
	}
	// Formats without a place for losses: it is said.
	for _, name := range []string{"out.pcap", "out.csv"} {
		code, talk := convert(t, rec, filepath.Join(dir, name))
		if code != exitOK || !strings.Contains(talk, "15 datagrams that were lost while recording have no place in this format") {
			t.Errorf("%s: exit code %d: %s", name, code, talk)
		}
	}
}
