package main

import (
	"encoding/json"
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
}

func verifyCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify PATH...",
		Short: "Read everything and check it; say exactly what is damaged",
		Long: `Read every byte of captures and check it: checksums, chunk numbers, and whether
index and footer say what the data say. Exit code 3 where anything is wrong or
missing. Nothing is changed.`,
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
		DamagedChunks: s.damagedChunks, LostBytes: s.lostBytes, Problems: append([]string{}, s.problems...),
	}
	if asJSON {
		err = json.NewEncoder(w).Encode(j)
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
	_, err := fmt.Fprintf(w, "%s: NOT OK, %s readable, %s cannot be used\n", oneLine(in.path), what, plural(s.lostBytes, "byte"))
	for _, p := range s.problems {
		if err == nil {
			_, err = fmt.Fprintf(w, "  %s\n", oneLine(p))
		}
	}
	return err
}
