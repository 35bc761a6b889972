package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/segment"
)

// TestFirstFrameFlips flips bits of the first frame of recordings, one at a time: such a
// file is read as the recording that it is, and all datagrams come out, nothing else. One
// bit had made a recording a broken zstd stream, of which nothing was read.
func TestFirstFrameFlips(t *testing.T) {
	step := 3
	if testing.Short() {
		step = 61
	}
	for _, c := range []format.Compression{format.Zstd, format.Gzip, format.None} {
		for _, seal := range []bool{true, false} {
			for _, made := range []bool{true, false} {
				if c == format.None && !made && !seal {
					continue // the link type of captured frames stands nowhere else, and without a checksum
				}
				t.Run(fmt.Sprintf("%s/sealed=%v/made=%v", c, seal, made), func(t *testing.T) {
					o := bench.FeedOptions{Groups: []netip.AddrPort{crashGroup}, Count: 100, MinSize: 100}
					path := filepath.Join(t.TempDir(), "x"+c.Extension())
					w, err := segment.Create(path, segment.Options{
						Compression: c, ChunkSize: 4 << 10, Info: format.SegmentInfo{Made: made, Host: "here"},
						Interfaces: []format.Interface{{Name: "eth0", Description: "a feed", LinkType: format.LinkTypeEthernet}},
					})
					if err != nil {
						t.Fatal(err)
					}
					feed := bench.NewFeed(o)
					var want format.Batch
					if err := feed.ReadBatch(&want); err != nil {
						t.Fatal(err)
					}
					if err := w.WriteBatch(&want); err != nil {
						t.Fatal(err)
					}
					if err := w.Flush(); err != nil {
						t.Fatal(err)
					}
					open, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
					file, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					frame, err := format.FrameLength(c, file)
					if err != nil {
						t.Fatal(err)
					}
					if !seal {
						file = open
					}
					for bit := 0; bit < 8*frame; bit += step {
						file[bit/8] ^= 1 << (bit % 8)
						if err := os.WriteFile(path, file, 0o600); err != nil {
							t.Fatal(err)
						}
						if err := readsAll(path, want.Datagrams); err != nil {
							t.Fatalf("bit %d of byte %d of %d: %v", bit%8, bit/8, frame, err)
						}
						file[bit/8] ^= 1 << (bit % 8)
					}
				})
			}
		}
	}
}

func readsAll(path string, want []format.Datagram) error {
	in, err := openInput(path)
	if err != nil {
		return err
	}
	defer in.Close()
	n := 0
	var damage []error
	err = in.each(func(b *format.Batch) error {
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			if n == len(want) || d.Flags != 0 || d.Time != want[n].Time || d.Src != want[n].Src || d.Dst != want[n].Dst || !bytes.Equal(d.Payload, want[n].Payload) {
				return fmt.Errorf("datagram %d: %+v", n, *d)
			}
			n++
		}
		return nil
	}, func(err error) { damage = append(damage, err) })
	if err == nil && n < len(want) {
		err = fmt.Errorf("%d datagrams of %d, %v", n, len(want), damage)
	}
	if err == nil && in.seg == nil {
		err = fmt.Errorf("read as another tool's capture, damage %v", damage)
	}
	return err
}
