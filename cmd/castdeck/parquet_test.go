package main

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
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

	"github.com/parquet-go/parquet-go"

	"castdeck/analysis/parquetfile"
	"castdeck/format"
	"castdeck/format/segment"
)

// castdeckOK runs a command that must succeed, and returns stdout and stderr.
func castdeckOK(t *testing.T, args ...string) (out, talk string) {
	t.Helper()
	var o, e bytes.Buffer
	if code := run(t.Context(), args, nil, &o, &e); code != exitOK {
		t.Fatalf("castdeck %s: exit code %d: %s", strings.Join(args, " "), code, e.String())
	}
	return o.String(), e.String()
}

func readTable(t *testing.T, path string) (rows []parquetfile.Row, meta func(key string) string) {
	t.Helper()
	rows, err := parquet.ReadFile[parquetfile.Row](path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return rows, func(key string) string { v, _ := f.Lookup("castdeck." + key); return v }
}

// TestParquetOfCaptures: the tables of real captures have what dump --json prints, row by
// row, and as many sequence numbers as gaps counts.
func TestParquetOfCaptures(t *testing.T) {
	numbered := 0
	for _, row := range readIndex(t) {
		path := filepath.Join(captures, row.path)
		out := filepath.Join(t.TempDir(), "x.parquet")
		var talk bytes.Buffer
		if code := run(t.Context(), []string{"convert", path, out}, nil, &talk, &talk); code != exitOK && code != exitLossy {
			t.Fatalf("%s: %d, %s", row.path, code, talk.String())
		}
		rows, meta := readTable(t, out)
		var dump, gaps bytes.Buffer
		run(t.Context(), []string{"dump", "--json", path}, nil, &dump, &talk)
		run(t.Context(), []string{"gaps", "--json", path}, nil, &gaps, &talk)
		n := 0
		for line := range strings.Lines(dump.String()) {
			var d dumpJSON
			if err := json.Unmarshal([]byte(line), &d); err != nil {
				t.Fatal(err)
			}
			r := rows[n]
			got := dumpJSON{
				TimeNS: r.TimeNS, Source: r.Source, SourcePort: r.SourcePort, Group: r.Group, Port: r.Port, Interface: r.Interface,
				TTL: r.TTL, Length: r.Length, Payload: hex.EncodeToString(r.Payload), Flags: r.Flags, Drops: r.Dropped,
			}
			if got != d || r.Time != d.TimeNS || int(r.Captured) != len(r.Payload) || r.Truncated != strings.Contains(d.Flags, "truncated") {
				t.Fatalf("%s: row %d: %+v, dump has %s", row.path, n, r, line)
			}
			n++
		}
		if n != len(rows) || meta("datagrams") != fmt.Sprint(n) {
			t.Errorf("%s: %d rows, said %s; dump prints %d", row.path, len(rows), meta("datagrams"), n)
		}
		count := map[string]uint64{}
		for _, r := range rows {
			if r.Count != nil {
				channel := ""
				if r.Channel != nil {
					channel = *r.Channel
				}
				count[fmt.Sprint(r.Source, r.SourcePort, r.Group, r.Port, *r.Protocol, channel)] += *r.Count
			}
		}
		for line := range strings.Lines(gaps.String()) {
			var g gapsJSON
			if err := json.Unmarshal([]byte(line), &g); err != nil {
				t.Fatal(err)
			}
			if g.Source == "" || g.Protocol == "unknown" || g.Protocol == "mpeg-ts" || g.Protocol == "soupbin" {
				continue
			}
			key := fmt.Sprint(g.Source, g.SourcePort, g.Group, g.Port, g.Protocol, g.Channel)
			if want := g.Received + g.Duplicates + g.Strays; count[key] != want {
				t.Errorf("%s: %s: %d numbers, gaps has %d", row.path, key, count[key], want)
			}
			numbered++
		}
	}
	if numbered < 5 {
		t.Errorf("only %d numberings in all captures", numbered)
	}
}

// tableFeed is a recording of two days, three groups and two sources, with times that no
// microsecond divides, numbers at the start of the payload (MoldUDP64, of which 7 are
// missing), and a loss of 3 before its last datagram but one.
func tableFeed(t *testing.T, path string) (list []format.Datagram) {
	t.Helper()
	start := time.Date(2026, 5, 4, 23, 59, 59, 999_000_001, time.UTC).UnixNano()
	dst := []string{"239.1.1.1:5000", "239.1.1.2:5000", "[ff3e::1:2]:6000"}
	src := []string{"10.0.0.1:40000", "10.0.0.2:40001", "[2001:db8::7]:40002"}
	b := &format.Batch{}
	next := make([]uint64, len(dst))
	for i := range 3000 {
		g := i % 3
		if i == 1500 {
			next[g] += 7
		}
		next[g]++
		p := binary.BigEndian.AppendUint64([]byte("DAY0000001"), next[g])
		p = append(p, 0, 1, 0, byte(i%200))
		p = append(p, bytes.Repeat([]byte{byte(i), 0, 0xFF}, 70)[:i%200]...)
		b.Datagrams = append(b.Datagrams, format.Datagram{
			Time: start + int64(i)*1001, Src: netip.MustParseAddrPort(src[g]), Dst: netip.MustParseAddrPort(dst[g]), TTL: uint8(1 + g), Length: uint32(len(p)), Payload: p,
		})
	}
	b.Datagrams[2998].Drops = 3
	out, err := createOutput(path, outputKind{compression: format.Zstd}, segment.Options{Interfaces: []format.Interface{{Name: "eth0", LinkType: 1}}, Info: format.SegmentInfo{Clock: "some clock"}})
	if err == nil {
		err = out.WriteBatch(b)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Datagrams
}

// TestParquetFolder: the partitions hold every datagram once, in files whose folders say
// what is in them; nothing of another conversion is mixed in, and nothing else is left.
func TestParquetFolder(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.pcapng.zst")
	list := tableFeed(t, in)
	name := func(d *format.Datagram, by string) string {
		date := "date=" + time.Unix(0, d.Time).UTC().Format(time.DateOnly)
		group := fmt.Sprintf("group=%s/port=%d", strings.ReplaceAll(d.Dst.Addr().String(), ":", "%3A"), d.Dst.Port())
		return map[string]string{"date": date, "group": group, "date,group": date + "/" + group, "group,date": group + "/" + date}[by]
	}
	for _, by := range []string{"date", "group", "date,group", "group,date"} {
		out := filepath.Join(dir, by)
		castdeckOK(t, "convert", "--partition", by, in, out)
		want := map[string][]format.Datagram{}
		for i := range list {
			want[name(&list[i], by)] = append(want[name(&list[i], by)], list[i])
		}
		files := 0
		if err := filepath.WalkDir(out, func(path string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				files++
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if hidden, _ := filepath.Glob(filepath.Join(out, ".*")); files != len(want) || len(hidden) > 0 {
			t.Errorf("%s: %d files, want %d; %v", by, files, len(want), hidden)
		}
		for folder, list := range want {
			rows, meta := readTable(t, filepath.Join(out, filepath.FromSlash(folder), "part-0.parquet"))
			if len(rows) != len(list) {
				t.Fatalf("%s: %d rows, want %d", folder, len(rows), len(list))
			}
			for i, r := range rows {
				if d := &list[i]; r.TimeNS != d.Time || !bytes.Equal(r.Payload, d.Payload) || r.Dropped != d.Drops || r.Source != d.Src.Addr().String() {
					t.Fatalf("%s: row %d: %+v", folder, i, r)
				}
			}
			if strings.Contains(by, "group") != (meta("group") == list[0].Dst.Addr().String()) || strings.Contains(by, "date") != (meta("date") != "") || meta("clock") != "some clock" || len(meta("recording")) != 36 {
				t.Errorf("%s: group %q, date %q, clock %q, recording %q", folder, meta("group"), meta("date"), meta("clock"), meta("recording"))
			}
		}
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"convert --partition date IN DIR/date", exitFailed, "tables of two conversions would be read as one; name a new folder"},
		{"convert --partition date --force IN DIR/date", exitUsage, "the folder must be new or empty"},
		{"convert --partition hour IN DIR/new", exitUsage, "write date, group or date,group"},
		{"convert --partition date,date IN DIR/new", exitUsage, "write date, group or date,group"},
		{"convert --partition date --to csv IN DIR/new", exitUsage, "only Parquet is written so"},
		{"convert --partition date IN DIR/new.pcap", exitOK, ""},
		{"convert --partition date IN DIR/new.csv", exitUsage, "only Parquet is written so"},
		{"convert --partition date --split-by group IN DIR/new", exitUsage, "name one"},
		{"convert --partition date --to parquet IN -", exitUsage, "stdout is one stream"},
		{"convert --partition date IN IN", exitFailed, "is a file"},
		{"convert --protocol rtp IN DIR/x.csv", exitUsage, "are for parquet"},
		{"convert --frames keep IN DIR/x.parquet", exitUsage, "tables have no frames"},
		{"convert --compress lz4 IN DIR/x.parquet", exitUsage, "--compress"},
		{"convert IN DIR/x.parquet.zst", exitUsage, "does not say which format"},
	} {
		var out bytes.Buffer
		args := strings.Fields(strings.NewReplacer("IN", in, "DIR", dir).Replace(c.args))
		if code := run(t.Context(), args, nil, &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %d %q", c.args, code, out.String())
		}
	}
}

// TestParquetLosses: each loss is in the table, at its datagram or in the file's metadata.
func TestParquetLosses(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.pcapng.zst"), filepath.Join(dir, "out.parquet")
	list := tableFeed(t, in)
	castdeckOK(t, "convert", in, out)
	rows, meta := readTable(t, out)
	if rows[2998].Dropped != 3 || meta("dropped") != "3" || meta("dropped_after") != "0" || len(rows) != len(list) {
		t.Errorf("row has %d, dropped %s, after %s", rows[2998].Dropped, meta("dropped"), meta("dropped_after"))
	}
	// The group that tells the loss is left out: the next datagram does, or nobody.
	castdeckOK(t, "convert", "--force", "--not", "239.1.1.2", in, out)
	rows, meta = readTable(t, out)
	if last := rows[len(rows)-1]; last.Dropped != 3 || meta("dropped") != "3" || meta("dropped_after") != "0" {
		t.Errorf("the last row has %d, dropped %s, after %s", last.Dropped, meta("dropped"), meta("dropped_after"))
	}
	castdeckOK(t, "convert", "--force", "--only", "239.1.1.1", in, out)
	if _, meta = readTable(t, out); meta("dropped") != "3" || meta("dropped_after") != "3" {
		t.Errorf("dropped %s, after %s; want 3 behind the last row", meta("dropped"), meta("dropped_after"))
	}
}

// duckDB runs SQL on the tables in a folder, by the DuckDB of the npm package
// @duckdb/node-api that is installed below $CASTDECK_DUCKDB.
func duckDB(t *testing.T, dir string, queries ...string) (answers [][][]string) {
	t.Helper()
	home := os.Getenv("CASTDECK_DUCKDB")
	if home == "" {
		t.Skip("no DuckDB: CASTDECK_DUCKDB names no folder in which npm install @duckdb/node-api was run")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skipf("no DuckDB: %v", err)
	}
	const script = `
const { DuckDBInstance } = require('@duckdb/node-api');
(async () => {
  const c = await (await DuckDBInstance.create(':memory:')).connect();
  const all = [];
  for (const q of process.argv.slice(1))
    all.push((await c.runAndReadAll(q)).getRowsJson().map(r => r.map(String)));
  console.log(JSON.stringify(all));
})();`
	cmd := exec.CommandContext(t.Context(), node, append([]string{"-e", script, "--"}, queries...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(home, "node_modules"))
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, talk.String())
	}
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return answers
}

// TestDuckDB: DuckDB reads the tables with the types that are promised, each nanosecond,
// number and byte of them, and of a partitioned folder no more than it must.
func TestDuckDB(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.pcapng.zst")
	list := tableFeed(t, in)
	castdeckOK(t, "convert", in, filepath.Join(dir, "feed.parquet"))
	castdeckOK(t, "convert", "--partition", "date,group", in, filepath.Join(dir, "days"))
	sum := md5.New()
	for i := range list {
		fmt.Fprintf(sum, "%d %s %X\n", list[i].Time, list[i].Dst.Addr(), list[i].Payload)
	}
	const all = `md5(string_agg(time_ns || ' ' || "group" || ' ' || hex(payload) || chr(10), '' ORDER BY time_ns))`
	got := duckDB(t, dir,
		"SELECT column_name, column_type FROM (DESCRIBE FROM 'feed.parquet')",
		"SELECT count(*), count(*) FILTER (epoch_ns(time) = time_ns), min(time)::VARCHAR, "+all+" FROM 'feed.parquet'",
		`SELECT "group", "to" - "from" FROM (SELECT "group", sequence::BIGINT AS "to",
			lag(sequence + sequence_count) OVER (PARTITION BY "group", port, source, channel ORDER BY time_ns)::BIGINT AS "from" FROM 'feed.parquet') WHERE "to" > "from"`,
		"SELECT count(*), "+all+" FROM 'days/**/*.parquet'",
		`SELECT DISTINCT date, "group", port, typeof(date) FROM 'days/**/*.parquet' ORDER BY ALL`,
		`EXPLAIN ANALYZE SELECT count(payload) FROM 'days/**/*.parquet' WHERE "group" = 'ff3e::1:2' AND date = '2026-05-05'`,
		`SELECT sum(dropped_before), any_value(protocol), any_value(channel) FROM 'feed.parquet'`,
	)
	types := "time_ns BIGINT time TIMESTAMP_NS source VARCHAR source_port USMALLINT group VARCHAR port USMALLINT interface VARCHAR ttl UTINYINT " +
		"length UINTEGER captured UINTEGER truncated BOOLEAN flags VARCHAR dropped_before UBIGINT protocol VARCHAR channel VARCHAR sequence UBIGINT sequence_count UBIGINT payload BLOB"
	if have := strings.Join(slices.Concat(got[0]...), " "); have != types {
		t.Errorf("types %s\nwant %s", have, types)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	for _, c := range []struct {
		what string
		got  [][]string
		want string
	}{
		{"one file", got[1], "[[3000 3000 2026-05-04 23:59:59.999000001 " + digest + "]]"},
		{"gaps", got[2], "[[239.1.1.1 7]]"},
		{"folder", got[3], "[[3000 " + digest + "]]"},
		{"partitions", got[4], "[[2026-05-04 239.1.1.1 5000 DATE] [2026-05-04 239.1.1.2 5000 DATE] [2026-05-04 ff3e::1:2 6000 DATE] " +
			"[2026-05-05 239.1.1.1 5000 DATE] [2026-05-05 239.1.1.2 5000 DATE] [2026-05-05 ff3e::1:2 6000 DATE]]"},
		{"rest", got[6], "[[3 moldudp64 session DAY0000001]]"},
	} {
		if have := fmt.Sprint(c.got); have != c.want {
			t.Errorf("%s: %s, want %s", c.what, have, c.want)
		}
	}
	if plan := fmt.Sprint(got[5]); !strings.Contains(plan, "1/6") {
		t.Errorf("not one of six files is scanned: %s", plan)
	}
}
