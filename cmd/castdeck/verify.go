package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// verifyJSON has the fixed keys of verify --json.
type verifyJSON struct {
	Path          string   `json:"path"`
	OK            bool     `json:"ok"`
	Sealed        bool     `json:"sealed"`
	Datagrams     uint64   `json:"datagrams"`
	Chunks        int      `json:"chunks"`
	DamagedChunks int      `json:"damaged_chunks"`
	LostBytes     int64    `json:"lost_bytes"`
	Problems      []string `json:"problems"`
	// Lost are the damaged places, at most 1,000.
	Lost []lostJSON `json:"lost"`
}

// lostJSON is what damage at one place costs. Datagrams are all that are lost there
// where Exact, else as many at least. Start and end are the times of the last packet
// before the damage and of the first one behind it, null where there is none.
type lostJSON struct {
	Path      string `json:"path"`
	Offset    int64  `json:"offset"`
	Bytes     int64  `json:"bytes"`
	Datagrams uint64 `json:"datagrams"`
	Exact     bool   `json:"exact"`
	StartNS   *int64 `json:"start_ns"`
	EndNS     *int64 `json:"end_ns"`
	Reason    string `json:"reason"`
}

func verifyCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify PATH...",
		Short: "Read everything and check it; say exactly what is damaged",
		Long: `Read every byte of captures of any kind and check it: checksums, chunk numbers,
and whether index and footer say what the data say. Each damaged place is told with
what it costs: bytes, datagrams where that can be known (the index, the totals behind
it, or a block that is whole tell), and between which datagrams. Exit code 3 where
anything is wrong or missing. Nothing is changed.`,
		Example: `  castdeck verify feed.pcapng.zst
  castdeck verify --json *.pcapng.zst`,
		Args: argsN(1, -1, "one or more capture files"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachPath(cmd, args, func(path string) error {
				return verify(cmd.OutOrStdout(), path, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per file")
	return cmd
}

func verify(w io.Writer, path string, asJSON bool) error {
	in, err := openInput(path)
	if err != nil {
		return err
	}
	defer in.Close()
	s, err := in.summarize(false)
	if err != nil {
		return err
	}
	j := verifyJSON{
		Path: path, OK: len(s.problems) == 0, Sealed: s.sealed, Datagrams: s.tally.Datagrams, Chunks: s.chunks,
		DamagedChunks: s.DamagedChunks, LostBytes: s.LostBytes, Problems: append([]string{}, s.problems...),
		Lost: []lostJSON{},
	}
	for _, d := range s.Damage {
		j.Lost = append(j.Lost, lostJSON{d.Path, d.Offset, d.Length, d.Datagrams, d.Counted, d.Since, d.Until, d.Reason})
	}
	if asJSON {
		err = printJSON(w, j)
	} else {
		err = printVerify(w, in, s)
	}
	if err != nil {
		return err
	}
	if !j.OK {
		return lossy
	}
	return nil
}

func printVerify(w io.Writer, in *input, s *summary) error {
	what := plural(s.tally.Datagrams, "datagram")
	if in.seg != nil {
		what += " in " + plural(s.chunks, "chunk")
	}
	if len(s.problems) == 0 {
		_, err := fmt.Fprintf(w, "%s: ok, %s, %s lost while recording\n", oneLine(in.path), what, count(s.tally.Dropped))
		return err
	}
	_, err := fmt.Fprintf(w, "%s: NOT OK, %s readable, %s cannot be used\n", oneLine(in.path), what, plural(s.LostBytes, "byte"))
	for _, p := range s.problems {
		if err == nil {
			_, err = fmt.Fprintf(w, "  %s\n", oneLine(p))
		}
	}
	return err
}
