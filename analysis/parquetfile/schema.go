// Package parquetfile writes datagrams, with the sequence numbers that are recognised in
// them, as Parquet: tables for SQL engines and data frames.
package parquetfile

import (
	"reflect"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// Row is one datagram. The tags are the schema: names are those of dump --json where it
// has the column too, and stay as they are.
//
// Time is both a number and a timestamp, because few tools keep its nanoseconds in the
// same kind of column. The timestamp is UTC and says so in no zone ("local", in Parquet's
// words): DuckDB makes a TIMESTAMP_NS of that, and of one adjusted to UTC a TIMESTAMP
// WITH TIME ZONE, which ends at microseconds.
type Row struct {
	// TimeNS is ns since the Unix epoch, and Time the same as a timestamp.
	TimeNS int64 `parquet:"time_ns,delta"`
	Time   int64 `parquet:"time,timestamp(nanosecond:local),delta"`

	// Source and Group are addresses as text, Interface is the name of where it came in.
	Source     string `parquet:"source,dict"`
	SourcePort uint16 `parquet:"source_port,dict"`
	Group      string `parquet:"group,dict"`
	Port       uint16 `parquet:"port,dict"`
	Interface  string `parquet:"interface,dict"`
	TTL        uint8  `parquet:"ttl,dict"`

	// Length of the payload on the wire and Captured, of which so much is in Payload;
	// Truncated where that is less. Bytes.
	Length    uint32 `parquet:"length"`
	Captured  uint32 `parquet:"captured"`
	Truncated bool   `parquet:"truncated"`

	// Flags as dump names them, "" where none is set. Dropped counts datagrams that were
	// lost between this one and the one before it on its interface.
	Flags   string `parquet:"flags,dict"`
	Dropped uint64 `parquet:"dropped_before"`

	// Protocol and Channel of the numbering, the first number and how many there are; null
	// where the datagram has none.
	Protocol *string `parquet:"protocol,dict"`
	Channel  *string `parquet:"channel,dict"`
	Sequence *uint64 `parquet:"sequence"`
	Count    *uint64 `parquet:"sequence_count"`

	Payload []byte `parquet:"payload"`
}

// Names of the columns, in their order.
func Names() (names []string) {
	for _, c := range parquet.SchemaOf(Row{}).Columns() {
		names = append(names, c[0])
	}
	return names
}

// schemaWithout is Row's without the columns named.
func schemaWithout(omit []string) *parquet.Schema {
	if len(omit) == 0 {
		return parquet.SchemaOf(Row{})
	}
	row := reflect.TypeFor[Row]()
	names := Names()
	var fields []reflect.StructField
	for i := range row.NumField() {
		if !slices.Contains(omit, names[i]) {
			fields = append(fields, row.Field(i))
		}
	}
	return parquet.NewSchema("Row", parquet.SchemaOf(reflect.New(reflect.StructOf(fields)).Interface()))
}
