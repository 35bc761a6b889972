package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"castdeck/analysis"
	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
	"castdeck/internal/mcast"
)

type converter struct {
	in       []string
	out      string
	name     string              // of all that is read, for messages
	from     *format.SegmentInfo // what is read, where that is one recording
	sources  []os.FileInfo       // the files that are read
	span     timeSpan
	to       string
	compress string
	only     []string
	not      []string
	payload  []string
	skip     countValue
	count    countValue
	split    splitValue
	parts    partitionValue
	numbering
	reshape  reshape
	frames   string
	force    bool
	terminal bool
	stdout   io.Writer
	stderr   io.Writer

	numbers  analysis.Numbers
	numbered bool // by flags
	sel      selection
	read     atomic.Uint64 // datagrams and packets, for the progress line
	wrote    atomic.Uint64
	size     atomic.Int64
	progress atomic.Bool // the line stands on the screen
}

func convertCmd() *cobra.Command {
	c := &converter{}
	cmd := &cobra.Command{
		Use:   "convert IN... OUT",
		Short: "Change the format; cut, filter, merge, split, shift; any captures in",
		Long: `Write captures of any kind as another: OUT's name says which, *.pcapng.zst,
*.pcapng.gz, *.pcapng or *.pcap, or for lines of text *.ndjson (or *.jsonl; the
keys of dump --json) or *.csv, each also with .zst or .gz behind it, and for tables
*.parquet. OUT "-" is stdout, with --to naming the format. Several INs become one,
in the order of their times.

` + strings.Replace(pathsHelp, "PATH is", "IN is", 1) + `

--start, --end, --only, --not and --payload choose datagrams; --skip and --count
then count those that were chosen. Packets that are not UDP are kept unless
--only, --payload, --strip or a text format leaves them out.

Frames: Ethernet frames are kept as they were captured; datagrams of other link
types, and reassembled ones, get Ethernet headers made from their addresses. With
--frames keep each file has the frames of the capture, of whatever one link type
they are; fragments are joined, and a reassembled datagram gets headers of that
link type. With --frames make every datagram gets made Ethernet headers.

--split-by makes a file of each group, stream (source and group), span of time
(counted from 1970, so that files begin at whole minutes or hours), number of
datagrams, or about that many bytes, named OUT with the group, time or number
before its end. Each is a recording of its own. At most 512 groups or streams.

Parquet, for DuckDB, Polars and the like, has the columns of dump --json, the same
time as a timestamp, and the sequence numbers, which are recognised or given by
--protocol or --seq as for gaps. --partition date,group makes a folder OUT of
date=2026-05-04/group=239.1.1.1/port=5000/part-0.parquet; while it works it keeps as
much again in a hidden folder there, compressed. docs/ANALYSIS.md has the columns. A
Parquet file that could not be written to its end is removed. --split-by makes at most
48 Parquet files of groups or streams.

Nothing that is there is overwritten without --force. Interrupted, it seals what
was converted until then. What it says it wrote is on the disk (fdatasync, and fsync
of the folder). Where writing fails, as on a full disk, the file stays as far as it
came, which can be read; the error says how far. Exit code 3 where IN is damaged:
what can be read is converted.`,
		Example: `  castdeck convert morning.pcap morning.pcapng.zst
  castdeck convert recordings/ more.pcap.gz all.pcapng.zst
  castdeck convert --start +10m --end +20m feed.pcapng.zst part.pcapng.zst
  castdeck convert --only 239.1.1.1:5000 feed.pcapng.zst one-group.pcap
  castdeck convert --payload 4:2a/3f --count 1000 feed.pcapng.zst some.csv
  castdeck convert --split-by group feed.pcapng.zst groups/feed.pcapng.zst
  castdeck convert --split-by time=1h --strip 64 feed.pcapng.zst hours.pcapng.zst
  castdeck convert feed.pcapng.zst feed.parquet
  castdeck convert --partition date,group recordings/ tables
  castdeck convert --shift to=2026-05-04T09:30:00Z old.pcap new.pcap
  castdeck convert --to ndjson feed.pcapng.zst - | jq .length
  tcpdump -i eth0 -w - udp | castdeck convert - udp.pcapng.zst`,
		Args: argsN(2, -1, "an input and an output file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.in, c.out = args[:len(args)-1], args[len(args)-1]
			c.stdout, c.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			c.terminal = isTerminal(c.stderr)
			var err error
			if c.numbers, err = c.numbering.numbers(cmd); err != nil {
				return err
			}
			c.numbered = cmd.Flags().Changed("protocol") || cmd.Flags().Changed("seq")
			ctx, stop := orderlyEnd(cmd.Context())
			defer stop()
			return c.run(ctx)
		},
	}
	f := cmd.Flags()
	c.span.addFlags(cmd)
	f.StringVar(&c.to, "to", "", "format to write: `pcapng.zst|pcapng.gz|pcapng|pcap|ndjson|csv|parquet`; default by OUT's name")
	f.StringVar(&c.compress, "compress", "", "`zstd|gzip|none`; default by OUT's name")
	f.StringArrayVar(&c.only, "only", nil, "keep only datagrams of this `GROUP`, such as 239.1.1.1:5000, :5000 or 10.0.0.1@ (repeatable)")
	f.StringArrayVar(&c.not, "not", nil, "leave out the datagrams of this `GROUP` (repeatable)")
	f.StringArrayVar(&c.payload, "payload", nil, "keep only datagrams with these bytes at this place of the payload, `OFFSET:HEX[/MASKHEX]` (repeatable; all must match)")
	f.Var(&c.skip, "skip", "leave out the first N datagrams")
	f.Var(&c.count, "count", "stop after this many datagrams")
	f.Var(&c.split, "split-by", "write several files: group, stream, time=1m, count=100000 or size=1GB")
	f.Var(&c.parts, "partition", "write a folder of Parquet files by `date,group`, or one of the two")
	c.numbering.addFlags(f, "auto", "the `PROTOCOL` of all streams, for the sequence numbers of Parquet; auto recognises that of each")
	f.Var(&c.reshape.shift, "shift", "move all times: +1h, -250ms, or to=TIME for the first datagram")
	f.Var(&c.reshape.strip, "strip", "keep only this many bytes of each payload, and mark the datagram truncated")
	f.StringVar(&c.frames, "frames", "", "`keep|make` frames; default: keep Ethernet ones, make the others")
	f.BoolVar(&c.force, "force", false, "overwrite OUT")
	return cmd
}

// say writes a line to stderr; the progress line makes room for it.
func (c *converter) say(f string, a ...any) {
	clearLine := ""
	if c.progress.Swap(false) {
		clearLine = "\r\x1b[K"
	}
	fmt.Fprintf(c.stderr, "%scastdeck: %s\n", clearLine, oneLine(fmt.Sprintf(f, a...)))
}

const stdio = "-"

// convertKind decides the format by --to, OUT's name and --compress, which must
// agree.
func (c *converter) convertKind() (k outputKind, err error) {
	named, known := dataKind(c.out)
	name := c.out
	if c.parts.given() {
		if c.to != "" && c.to != "parquet" || known && !named.parquet {
			return k, usagef("--partition %s: only Parquet is written so; name a folder, and no other format", c.parts.text)
		}
		named, known = outputKind{parquet: true, compression: format.Zstd}, true
	}
	if c.to != "" {
		// The name of a format is the end of the names of its files.
		name = "x." + c.to
		want, isData := dataKind(name)
		if !isData {
			if want, err = kindOf(name, ""); err != nil {
				return k, usagef("--to %s: no such format (have pcapng.zst, pcapng.gz, pcapng, pcap, parquet, ndjson, csv, and .zst or .gz behind the last two)", c.to)
			}
		}
		if !known {
			if byName, err := kindOf(c.out, ""); err == nil {
				named, known = byName, true
			}
		}
		if known && named != want {
			return k, usagef("%s: the name says another format than --to %s", c.out, c.to)
		}
		named, known = want, isData
	}
	if c.out == stdio && c.to == "" {
		return k, usagef("-: a stream has no name that says its format; add --to, such as --to pcapng")
	}
	if known && named.parquet && c.compress != "" {
		if named.compression, err = format.ParseCompression(c.compress); err != nil {
			return k, usagef("--compress: %v", err)
		}
		return named, nil
	}
	if known {
		if c.compress != "" {
			return k, usagef("--compress is for pcapng and parquet; name text *.csv.zst or *.ndjson.gz to compress it")
		}
		return named, nil
	}
	k, err = kindOf(name, c.compress)
	var ex *exitError
	if errors.As(err, &ex) && c.compress == "" {
		return k, usagef("%s: the name does not say which format to write; name it *.pcapng.zst, *.pcapng.gz, *.pcapng, *.pcap, *.parquet, *.ndjson or *.csv, or add --to", c.out)
	}
	return k, err
}

// dataKind decides by the end of a name whether it is text or a table, and how it is
// compressed.
func dataKind(path string) (k outputKind, ok bool) {
	if strings.HasSuffix(path, ".parquet") {
		return outputKind{parquet: true, compression: format.Zstd}, true
	}
	k.compression = format.None
	if s, ok := strings.CutSuffix(path, ".zst"); ok {
		path, k.compression = s, format.Zstd
	} else if s, ok := strings.CutSuffix(path, ".gz"); ok {
		path, k.compression = s, format.Gzip
	}
	switch {
	case strings.HasSuffix(path, ".ndjson"), strings.HasSuffix(path, ".jsonl"):
		k.text = ndjson
	case strings.HasSuffix(path, ".csv"):
		k.text = csvText
	default:
		return outputKind{}, false
	}
	return k, true
}

// prepare reads the flags before any file is touched.
func (c *converter) prepare() (k outputKind, err error) {
	if k, err = c.convertKind(); err != nil {
		return k, err
	}
	if err := c.span.check(); err != nil {
		return k, err
	}
	c.sel = selection{skip: uint64(c.skip), count: uint64(c.count), cuts: c.skip > 0 || c.count > 0}
	if len(c.only) > 0 {
		if c.sel.only, err = mcast.NewMatcher(c.only...); err != nil {
			return k, usagef("--only: %v", err)
		}
	}
	if len(c.not) > 0 {
		if c.sel.not, err = mcast.NewMatcher(c.not...); err != nil {
			return k, usagef("--not: %v", err)
		}
	}
	for _, s := range c.payload {
		p, err := parsePayloadFilter(s)
		if err != nil {
			return k, usagef("--payload: %v", err)
		}
		c.sel.payload = append(c.sel.payload, p)
	}
	c.sel.udpOnly = len(c.only) > 0 || len(c.payload) > 0 || c.reshape.strip.set || !k.isCapture()
	switch {
	case c.frames != "" && c.frames != "keep" && c.frames != "make":
		return k, usagef("--frames %s: write keep or make", c.frames)
	case c.frames != "" && !k.isCapture():
		return k, usagef("--frames %s: text and tables have no frames", c.frames)
	case c.numbered && !k.parquet:
		return k, usagef("--protocol and --seq are for parquet: nothing else has a place for sequence numbers")
	case c.parts.given() && c.split.mode != oneFile:
		return k, usagef("--partition %s and --split-by %s: name one", c.parts.text, c.split.text)
	case c.parts.given() && c.out == stdio:
		return k, usagef("--partition %s: stdout is one stream; name a folder", c.parts.text)
	case c.parts.given() && c.force:
		return k, usagef("--partition %s: the folder must be new or empty, whatever --force says", c.parts.text)
	case c.out == stdio && c.split.mode != oneFile:
		return k, usagef("--split-by %s: stdout is one stream; name a file", c.split.text)
	case c.out == stdio && isTerminal(c.stdout) && (k.text == noText || k.compression != format.None):
		return k, usagef("-: stdout is a terminal, and %s is not for people; redirect it, or use --to ndjson", c.to)
	}
	if c.parts.given() {
		c.split.mode, c.split.text = byPartition, c.parts.text
		c.frames = "make" // in the spool
	}
	return k, nil
}

func (c *converter) run(ctx context.Context) error {
	kind, err := c.prepare()
	if err != nil {
		return err
	}
	in, err := openInput(c.in...)
	if err != nil {
		return err
	}
	c.name, c.from = in.path, in.info()
	if err = c.findSources(); err == nil && c.out != stdio && c.split.mode == oneFile {
		err = c.vacant(c.out)
	}
	if err == nil && c.parts.given() {
		err = emptyFolder(c.out)
	}
	var src format.BatchReader
	table := kind
	switch {
	case c.parts.given():
		kind = outputKind{compression: format.Zstd}
	case kind.parquet:
		kind.tables = c.newTables()
	}
	out := &splitter{how: c.split, kind: kind, parts: &c.parts, keep: c.frames == "keep", path: c.out, create: c.create, o: c.options(in)}
	if err == nil {
		src, err = c.source(in, out)
	}
	if err == nil && c.parts.given() {
		out.spool, err = newSpool(c.out)
	}
	if err != nil {
		in.Close()
		return err
	}

	defer in.Close()
	in.readAhead(ctx)
	stopReport := c.report()
	damaged, err := c.copy(ctx, in, src, out)
	if err == nil {
		rest := c.sel.dropped
		if c.sel.skip > 0 {
			rest = nil // of before the cut
		}
		err = out.finish(rest)
	}
	err = endOf(err, out.Close())
	if out.spool != nil {
		err = c.endSpool(ctx, table, out, err)
	}
	stopReport()
	if err != nil {
		return err
	}
	if cut, ok := src.(*cutter); ok {
		out.unplaced += cut.unplaced
	}
	if !c.enough() {
		for i, path := range in.unsealed() {
			const most = 20
			if i < most {
				c.say("%s: not sealed: still being written, or cut off", path)
			}
			damaged = true
		}
	}
	c.summary(out)
	if damaged {
		return lossy
	}
	return nil
}

// source is what is converted of in. Where that is not all, or comes from several files,
// totals of losses become losses of the part.
func (c *converter) source(in *input, out *splitter) (format.BatchReader, error) {
	src, err := c.span.cut(in)
	if err != nil || in.parts == nil && !c.span.given() && c.sel.all() && c.split.mode == oneFile {
		return src, err
	}
	out.placeLosses = true
	return c.span.lossesOnce(in, src), nil
}

// enough says that --count ended it, so that the rest of the input was not looked at.
func (c *converter) enough() bool { return c.sel.count > 0 && c.sel.kept == c.sel.count }

func (c *converter) summary(out *splitter) {
	if c.sel.notUDP > 0 {
		c.say("%s: %s not UDP left out", c.name, plural(c.sel.notUDP, "packet"))
	}
	t := out.written()
	in := size(t.size)
	if c.split.mode != oneFile {
		in = plural(out.made, "file") + ", " + in
	}
	c.say("%s: %s in %s", c.holder(), plural(t.datagrams, "datagram"), in)
	if out.unsaid > 0 {
		c.say("%s: %s that were lost while recording have no place in this format", c.holder(), plural(out.unsaid, "datagram"))
	}
	if out.unplaced > 0 {
		c.say("%s: %s lost while recording could not be placed: not known at what time, or no file has their interface", c.name, plural(out.unplaced, "datagram"))
	}
}

// options are what a recording says of itself: what IN says, where that is one
// recording.
func (c *converter) options(in *input) segment.Options {
	o := segment.Options{Overwrite: c.force, Info: format.SegmentInfo{Clock: "as in the capture that was converted"}}
	if i := in.info(); i != nil {
		o.Info = *i
		o.Info.Recording, o.Info.Number = format.UUID{}, 0
	}
	if c.frames == "make" {
		o.Info.Made = true
	}
	return o
}

// endSpool makes tables of what out has spooled, and counts them as out's; not where
// another cause ended it, but for an interruption.
func (c *converter) endSpool(ctx context.Context, k outputKind, out *splitter, cause error) (err error) {
	defer func() {
		if rerr := out.spool.remove(); err == nil {
			err = rerr
		}
		_ = os.Remove(c.out) // where nothing is in it
	}()
	if cause != nil && ctx.Err() == nil {
		return fmt.Errorf("%w; nothing was written to %s", cause, c.out)
	}
	t, files, terr := c.writeTables(k, out.spool)
	out.done, out.made = t, files
	return cmp.Or(cause, terr)
}

// newTables for what is read next.
func (c *converter) newTables() *tables {
	t := newTables(analysis.GapOptions(c.numbers))
	t.many, t.parts, t.tell = c.split.mode != oneFile && c.split.mode != byPartition, c.parts, c.tell
	if c.split.mode == bySize {
		t.most = int(min(c.split.step, tablesGather))
	}
	return t
}

// tell is what each table says of where it comes from.
func (c *converter) tell(put func(name, value string)) {
	put("packets_not_udp", strconv.FormatUint(c.sel.notUDP, 10))
	if i := c.from; i != nil {
		put("recording", i.Recording.String())
		put("host", oneLine(i.Host))
		put("clock", oneLine(i.Clock))
	}
}

// findSources notes the files that are read: none of them is written to, whatever the
// flags and the name of the output.
func (c *converter) findSources() error {
	for _, arg := range c.in {
		files, _, err := findFiles(arg)
		if err != nil {
			return err
		}
		for _, path := range files {
			if st, err := os.Stat(path); err == nil {
				c.sources = append(c.sources, st)
			}
		}
	}
	return nil
}

// vacant says whether a file can be made at path: nothing is there that must stay.
func (c *converter) vacant(path string) error {
	if st, err := os.Stat(path); err == nil && slices.ContainsFunc(c.sources, func(s os.FileInfo) bool { return os.SameFile(s, st) }) {
		return usagef("%s: input and output are the same file", path)
	}
	if err := notAFile(path); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil && !c.force {
		return explainCreate(path, fs.ErrExist)
	}
	return nil
}

func (c *converter) create(path string, k outputKind, o segment.Options) (*output, error) {
	if c.out == stdio {
		return streamOutput(c.stdout, k, o)
	}
	if err := c.vacant(path); err != nil {
		return nil, err
	}
	return createOutput(path, k, o)
}

// copy reads, selects, changes and writes until the end of the input.
// Src is in or a part of it.
func (c *converter) copy(ctx context.Context, in *input, src format.BatchReader, out *splitter) (damaged bool, err error) {
	ether, maker := pcapfile.NewEthernet(in.interfaces), pcapfile.NewFrameMaker(in.interfaces)
	b := new(format.Batch)
	for {
		err := src.ReadBatch(b)
		switch {
		case err != nil && ctx.Err() != nil:
			return damaged, fmt.Errorf("interrupted; %s holds what was converted until then", c.holder())
		case errors.Is(err, io.EOF):
			out.describe(c.known(in, ether))
			if n := ether.Skipped(); n > 0 {
				c.say("%s: %s neither IP nor Ethernet left out", c.name, plural(n, "packet"))
			}
			return damaged, nil
		case format.Damaged(err):
			damaged = true
			c.say("%s: %s", c.name, describe(err))
			continue
		case err != nil:
			return damaged, err
		}
		c.read.Add(uint64(len(b.Datagrams)))
		done := c.sel.apply(b)
		if err := c.reshape.apply(b); err != nil {
			if c.parts.given() {
				return damaged, err
			}
			return damaged, fmt.Errorf("%w; %s holds what came before", err, c.holder())
		}
		switch {
		case !out.kind.isCapture():
		case c.frames == "keep":
			err = maker.Convert(b)
		default:
			if c.frames == "make" {
				unframe(b)
			}
			ether.Convert(b)
		}
		out.describe(c.known(in, ether))
		if err == nil && !b.Empty() {
			err = out.WriteBatch(b)
		}
		if err != nil {
			return damaged, err
		}
		t := out.written()
		c.wrote.Store(t.datagrams)
		c.size.Store(t.size)
		if done {
			return damaged, nil
		}
		if c.out == stdio && in.ahead.Idle() {
			// Whoever reads a live stream wants it now.
			if err := out.flushText(); err != nil {
				return damaged, err
			}
		}
	}
}

// known are the interfaces as the output has them.
func (c *converter) known(in *input, ether *pcapfile.Ethernet) []format.Interface {
	if c.frames == "keep" {
		return in.interfaces()
	}
	return ether.Interfaces()
}

// holder names what was written so far.
func (c *converter) holder() string {
	switch {
	case c.out == stdio:
		return "stdout"
	case c.parts.given():
		return c.out
	case c.split.mode != oneFile:
		return splitName(c.out, "X")
	}
	return c.out
}

// unframe takes the frames of datagrams away: writers make Ethernet ones.
func unframe(b *format.Batch) {
	for i := range b.Datagrams {
		if d := &b.Datagrams[i]; d.Flags&format.FlagNotUDP == 0 {
			d.Frame, d.FrameLength = nil, 0
		}
	}
}

// report draws a line on a terminal twice a second, until the function it returns is
// called.
func (c *converter) report() (stop func()) {
	if !c.terminal {
		return func() {}
	}
	start := time.Now()
	last := uint64(0)
	return every(500*time.Millisecond, func(now time.Time, since time.Duration) {
		n := c.read.Load()
		c.progress.Store(true)
		fmt.Fprintf(c.stderr, "\r%s  %s read, %s  %s written, %s\x1b[K", now.Sub(start).Round(time.Second),
			plural(n, "packet"), rate(n-last, since), plural(c.wrote.Load(), "datagram"), size(c.size.Load()))
		last = n
	}, func() {
		if c.progress.Swap(false) {
			fmt.Fprint(c.stderr, "\r\x1b[K")
		}
	})
}

// sameFile says whether two paths name one file.
func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
