package parquetfile

import (
	"github.com/parquet-go/parquet-go"

	"castdeck/analysis"
	"castdeck/format"
)

// maxStreams bounds the streams whose numbering is followed; the datagrams of others are
// written without.
const maxStreams = 1 << 14

// Streams is what the writers of one conversion know of the streams: how they are
// numbered, and their addresses as text. It is not safe for concurrent use.
type Streams struct {
	recogniser *analysis.Recogniser
	table      format.StreamTable[stream]
	name       func(uint16) string
}

// NewStreams of which nothing is known yet. Name is the name of an interface.
func NewStreams(o analysis.GapOptions, name func(uint16) string) *Streams {
	s := &Streams{recogniser: analysis.NewRecogniser(o), name: name}
	s.table.Limit = maxStreams
	return s
}

// stream is what all of its rows have in common.
type stream struct {
	numbers               analysis.NumberedStream
	known                 bool // numbers are followed
	port                  uint16
	source, group, ifc    parquet.Value
	sourcePort, groupPort parquet.Value
	// The latest numbering's name.
	channel      string
	channelValue parquet.Value
}

// strangerSize is about what a stream takes in bytes that is not in the table.
const strangerSize = 400

// find is d's stream; stranger says that it is the datagram's alone, because the table is
// full.
func (s *Streams) find(d *format.Datagram) (st *stream, stranger bool) {
	e, fresh := s.table.Find(d)
	switch {
	case e == nil:
		st = new(stream)
		s.describe(st, d)
		return st, true
	case fresh:
		s.describe(&e.Value, d)
		e.Value.known = true
	}
	s.recogniser.Look(&e.Value.numbers, d)
	return &e.Value, false
}

func (s *Streams) describe(st *stream, d *format.Datagram) {
	st.port = d.Dst.Port()
	st.source, st.group = text(d.Src.Addr().String()), text(d.Dst.Addr().String())
	st.sourcePort, st.groupPort = parquet.Int32Value(int32(d.Src.Port())), parquet.Int32Value(int32(st.port))
	st.ifc = text(s.name(d.Interface))
}

// number of a datagram of st.
func (s *Streams) number(st *stream, payload []byte) analysis.Number {
	if !st.known {
		return analysis.Number{}
	}
	return s.recogniser.Number(&st.numbers, payload, st.port)
}

// channelText is the name of a numbering of st as a value.
func (st *stream) channelText(name string) parquet.Value {
	if name == "" {
		return parquet.Value{}
	}
	if name != st.channel {
		st.channel, st.channelValue = name, text(name)
	}
	return st.channelValue
}
