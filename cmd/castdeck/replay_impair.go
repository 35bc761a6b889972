package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"castdeck/replayer"
)

// impairFlags are the flags that change what is sent on purpose.
type impairFlags struct {
	impair  []replayer.Impair
	rewrite []replayer.Rewrite
	seed    seedValue
	logPath string

	log  *bufio.Writer
	file *os.File
	err  error // of the first line that could not be written
}

// impairValue is one of the flags --drop to --reorder.
type impairValue struct {
	kind  replayer.Impairment
	shape string
	f     *impairFlags
}

func (v impairValue) Set(s string) error {
	i, err := replayer.ParseImpair(v.kind, s)
	if err == nil {
		v.f.impair = append(v.f.impair, i)
	}
	return err
}
func (impairValue) String() string { return "" }
func (v impairValue) Type() string { return v.shape }

// rewriteValue is --rewrite.
type rewriteValue struct{ f *impairFlags }

func (v rewriteValue) Set(s string) error {
	w, err := replayer.ParseRewrite(s)
	if err == nil {
		v.f.rewrite = append(v.f.rewrite, w)
	}
	return err
}
func (rewriteValue) String() string { return "" }
func (rewriteValue) Type() string   { return "[GROUP=]WHAT" }

// seedValue is --seed.
type seedValue struct {
	n   uint64
	set bool
}

func (v *seedValue) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return fmt.Errorf("%q: write a whole number, such as the seed of the summary that you want to repeat", s)
	}
	*v = seedValue{n, true}
	return nil
}
func (*seedValue) String() string { return "" }
func (*seedValue) Type() string   { return "N" }

func (f *impairFlags) addFlags(cmd *cobra.Command) {
	fl := cmd.Flags()
	for _, v := range []struct {
		kind        replayer.Impairment
		shape, help string
	}{
		{replayer.ImpairDrop, "[GROUP=]P%", "lose datagrams at random, such as 0.1% or 239.1.1.1:5000=1%"},
		{replayer.ImpairDropBurst, "[GROUP=]P%,MEAN", "lose this share in bursts of this mean length (Gilbert's model), such as 0.1%,5"},
		{replayer.ImpairDuplicate, "[GROUP=]P%", "send datagrams twice"},
		{replayer.ImpairReorder, "[GROUP=]P%[,BY]", "send datagrams behind the next one, or the next BY, or later by the time BY: 1%,3 or 1%,5ms"},
		{replayer.ImpairDelay, "[GROUP=]TIME", "send later, such as 5ms, or evenly spread over 5ms±2ms (5ms+-2ms)"},
		{replayer.ImpairJitter, "[GROUP=]MEAN", "send later by random times of this mean (exponential), each stream in order"},
		{replayer.ImpairCorrupt, "[GROUP=]P%", "flip a bit of the payload; the checksum is right all the same"},
	} {
		fl.Var(impairValue{v.kind, v.shape, f}, v.kind.String(), v.help)
	}
	fl.Var(&f.seed, "seed", "repeat what was done at random with this seed; the summary names it")
	fl.StringVar(&f.logPath, "impair-log", "", "write what was done to which datagram to this `FILE`, as JSON lines")
	fl.Var(rewriteValue{f}, "rewrite", "rewrite fields (repeatable): rtp, mpegts, moldudp64, seq@OFFSET:WIDTH:be|le, time@OFFSET:WIDTH:be|le:UNIT")
}

// apply checks the flags and puts them into the options.
func (f *impairFlags) apply(o *replayer.Options) error {
	if len(f.impair) == 0 && (f.seed.set || f.logPath != "") {
		return usagef("--seed and --impair-log belong to --drop, --drop-burst, --duplicate, --reorder, --delay, --jitter and --corrupt")
	}
	if !f.seed.set {
		f.seed.n = rand.Uint64()
	}
	o.Impair, o.Seed, o.Rewrite = f.impair, f.seed.n, f.rewrite
	if err := replayer.CheckImpair(*o); err != nil {
		return usagef("replay: --%v", err)
	}
	return nil
}

// impairJSON is a line of --impair-log.
type impairJSON struct {
	Index       uint64   `json:"index"`
	TimeNS      int64    `json:"time_ns"`
	Source      string   `json:"source"`
	Recorded    string   `json:"recorded"`
	Destination string   `json:"destination"`
	Done        []string `json:"done"`
	DelayNS     int64    `json:"delay_ns,omitempty"`
	By          int      `json:"by,omitempty"`
	Bit         *int     `json:"bit,omitempty"`
	Early       bool     `json:"early,omitempty"`
}

// open begins the log.
func (f *impairFlags) open(o *replayer.Options) (err error) {
	if f.logPath == "" {
		return nil
	}
	if f.file, err = os.Create(f.logPath); err != nil {
		return err
	}
	f.log = bufio.NewWriterSize(f.file, 256<<10)
	enc := json.NewEncoder(f.log)
	o.ImpairLog = func(r replayer.ImpairRecord) {
		j := impairJSON{
			Index: r.Index, TimeNS: r.Time, Source: r.Src.String(), Recorded: r.Dst.String(), Destination: r.To.String(),
			DelayNS: r.Delay, By: r.By, Early: r.Early,
		}
		for k := range replayer.Impairment(8) {
			if r.Done&(1<<k) != 0 {
				j.Done = append(j.Done, k.String())
			}
		}
		if r.Bit >= 0 {
			j.Bit = &r.Bit
		}
		if err := enc.Encode(j); f.err == nil {
			f.err = err
		}
	}
	return nil
}

// close ends the log. It may be called again.
func (f *impairFlags) close() error {
	if f.file == nil {
		return nil
	}
	err := errors.Join(f.err, f.log.Flush(), f.file.Close())
	f.file = nil
	return err
}

// impairedJSON is what was done, in the summary.
type impairedJSON struct {
	Seed      uint64 `json:"seed"`
	Drop      uint64 `json:"drop"`
	DropBurst uint64 `json:"drop_burst"`
	Duplicate uint64 `json:"duplicate"`
	Corrupt   uint64 `json:"corrupt"`
	Delay     uint64 `json:"delay"`
	Jitter    uint64 `json:"jitter"`
	Reorder   uint64 `json:"reorder"`
	Early     uint64 `json:"early"`
}

type rewrittenJSON struct {
	Datagrams uint64 `json:"datagrams"`
	LeftAlone uint64 `json:"left_alone"`
}

// json is nil where nothing was asked for.
func (f *impairFlags) json(r *replayer.Report) (*impairedJSON, *rewrittenJSON) {
	var i *impairedJSON
	if len(f.impair) > 0 {
		by := &r.Impaired.By
		i = &impairedJSON{
			Seed: f.seed.n, Drop: by[replayer.ImpairDrop], DropBurst: by[replayer.ImpairDropBurst], Duplicate: by[replayer.ImpairDuplicate],
			Corrupt: by[replayer.ImpairCorrupt], Delay: by[replayer.ImpairDelay], Jitter: by[replayer.ImpairJitter],
			Reorder: by[replayer.ImpairReorder], Early: r.Impaired.Early,
		}
	}
	var w *rewrittenJSON
	if len(f.rewrite) > 0 {
		w = &rewrittenJSON{r.Rewritten.Datagrams, r.Rewritten.LeftAlone}
	}
	return i, w
}

// say tells what was done.
func (f *impairFlags) say(r *replayer.Report, say func(format string, args ...any)) {
	if len(f.impair) > 0 {
		var parts []string
		for k, word := range [...]string{
			replayer.ImpairDrop: "dropped", replayer.ImpairDropBurst: "dropped in bursts", replayer.ImpairDuplicate: "duplicated",
			replayer.ImpairCorrupt: "corrupted", replayer.ImpairDelay: "delayed", replayer.ImpairJitter: "jittered", replayer.ImpairReorder: "reordered",
		} {
			if n := r.Impaired.By[k]; n > 0 {
				parts = append(parts, count(n)+" "+word)
			}
		}
		if len(parts) == 0 {
			parts = []string{"nothing was hit"}
		}
		say("on purpose (--seed %d): %s", f.seed.n, strings.Join(parts, ", "))
		if n := r.Impaired.Early; n > 0 {
			say("%s sent early: no more than 64 MiB are held back, and the last ones have none behind them", plural(n, "datagram"))
		}
	}
	if len(f.rewrite) > 0 {
		say("%s rewritten, %s left alone (not in the payload, or not of that form)", plural(r.Rewritten.Datagrams, "datagram"), plural(r.Rewritten.LeftAlone, "field"))
	}
}
