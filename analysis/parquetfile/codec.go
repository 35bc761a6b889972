package parquetfile

import (
	"sync"

	kzstd "github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/compress/gzip"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"castdeck/format"
)

// codec compresses the pages. Codecs keep their encoders for all files.
func codec(c format.Compression) compress.Codec {
	switch c {
	case format.Zstd:
		return zstdCodec()
	case format.Gzip:
		return &gzipCodec
	}
	return &parquet.Uncompressed
}

var (
	gzipCodec = gzip.Codec{Level: gzip.DefaultCompression}
	zstdCodec = sync.OnceValue(newPageCodec)
)

// pageCodec is parquet-go's codec with an encoder whose window is that of a page: by
// default it is 8 MiB, of which an encoder keeps two.
type pageCodec struct {
	zstd.Codec
	encoder *kzstd.Encoder
}

func newPageCodec() *pageCodec {
	e, err := kzstd.NewWriter(nil, kzstd.WithEncoderLevel(kzstd.SpeedDefault), kzstd.WithEncoderConcurrency(1), kzstd.WithWindowSize(512<<10))
	if err != nil {
		panic(err) // of options that are constant
	}
	return &pageCodec{encoder: e}
}

// Encode src into dst's memory or what is made for it.
func (c *pageCodec) Encode(dst, src []byte) ([]byte, error) {
	return c.encoder.EncodeAll(src, dst[:0]), nil
}
