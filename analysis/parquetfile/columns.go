package parquetfile

import (
	"math"

	"github.com/parquet-go/parquet-go"

	"castdeck/analysis"
	"castdeck/format"
)

// item is a row as it is written.
type item struct {
	*row
	payload []byte
	number  analysis.Number
}

// column of the table. The value of an optional one may be null.
type column struct {
	name     string
	optional bool
	value    func(*item) parquet.Value
}

// columns are those of Row, in its order; a test holds the two together.
var columns = []column{
	{"time_ns", false, func(r *item) parquet.Value { return parquet.Int64Value(r.time) }},
	{"time", false, func(r *item) parquet.Value { return parquet.Int64Value(r.time) }},
	{"source", false, func(r *item) parquet.Value { return r.stream.source }},
	{"source_port", false, func(r *item) parquet.Value { return r.stream.sourcePort }},
	{"group", false, func(r *item) parquet.Value { return r.stream.group }},
	{"port", false, func(r *item) parquet.Value { return r.stream.groupPort }},
	{"interface", false, func(r *item) parquet.Value { return r.stream.ifc }},
	{"ttl", false, func(r *item) parquet.Value { return parquet.Int32Value(int32(r.ttl)) }},
	{"length", false, func(r *item) parquet.Value { return parquet.Int32Value(int32(r.length)) }},
	{"captured", false, func(r *item) parquet.Value { return parquet.Int32Value(int32(len(r.payload))) }},
	{"truncated", false, func(r *item) parquet.Value { return parquet.BooleanValue(r.flags&format.FlagTruncated != 0) }},
	{"flags", false, func(r *item) parquet.Value { return flagText(r.flags) }},
	{"dropped_before", false, func(r *item) parquet.Value { return parquet.Int64Value(int64(r.drops)) }},
	{"protocol", true, protocolText},
	{"channel", true, func(r *item) parquet.Value { return r.stream.channelText(r.number.Channel) }},
	{"sequence", true, func(r *item) parquet.Value { return numberValue(r, r.number.First) }},
	{"sequence_count", true, func(r *item) parquet.Value { return numberValue(r, r.number.Count) }},
	{"payload", false, func(r *item) parquet.Value { return parquet.ByteArrayValue(r.payload) }},
}

func text(s string) parquet.Value { return parquet.ByteArrayValue([]byte(s)) }

func numberValue(r *item, n uint64) parquet.Value {
	if !r.number.Has {
		return parquet.Value{}
	}
	return parquet.Int64Value(int64(n))
}

// flagTexts and protocolTexts are made once.
var (
	noFlags       = text("")
	protocolTexts = func() (of [math.MaxUint8 + 1]parquet.Value) {
		for _, name := range append(analysis.ProtocolNames(), analysis.Custom.String()) {
			p, err := analysis.ParseProtocol(name)
			if err != nil {
				p = analysis.Custom // which has no name to ask for it by
			}
			of[p] = text(name)
		}
		return of
	}()
)

func flagText(f format.Flags) parquet.Value {
	if f == 0 {
		return noFlags
	}
	return text(f.String())
}

func protocolText(r *item) parquet.Value { return protocolTexts[r.number.Protocol] }
