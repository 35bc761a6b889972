package format

import (
	"fmt"
	"strings"
)

// Limits of what a reader keeps of the names in a file.
const (
	maxName        = 256     // bytes of Interface.Name
	maxDescription = 1024    // bytes of Interface.Description
	maxTexts       = 2 << 20 // bytes of all of a file
)

// InterfaceTexts bounds the memory for names and descriptions of the interfaces of
// one file, which can be 64 KiB each. The zero value has kept none.
type InterfaceTexts struct{ kept int }

// Keep cuts i's name to 256 bytes and its description to 1,024, makes them
// independent of the memory that they were read from, and leaves them out where those
// before took more than 2 MiB together.
func (t *InterfaceTexts) Keep(i *Interface) {
	i.Name, i.Description = t.keep(i.Name, maxName), t.keep(i.Description, maxDescription)
}

func (t *InterfaceTexts) keep(text string, limit int) string {
	text = cutText(text, limit)
	if t.kept+len(text) > maxTexts {
		return ""
	}
	t.kept += len(text)
	return strings.Clone(text)
}

// InterfaceTable gathers the interfaces of several sources into one list. The zero
// value is an empty table. It is not safe for concurrent use.
type InterfaceTable struct {
	list []Interface
	// places are, by recording, where the interfaces of one description stand in the
	// list, the first one of a source before its second.
	places map[UUID]map[Interface][]uint16
}

// Interfaces are all that the table holds so far. The slice never changes; a later
// call may return a longer one.
func (t *InterfaceTable) Interfaces() []Interface {
	n := len(t.list)
	return t.list[:n:n]
}

// Source makes the map of one more source into the table. Sources of the same
// recording share the interfaces that are described alike, so that the segments of
// a recording count on in the same totals. Sources of different recordings, and
// those of none (the zero UUID), share nothing: two hosts both have an eth0.
func (t *InterfaceTable) Source(recording UUID) *InterfaceMap {
	m := &InterfaceMap{table: t, same: true}
	if recording != (UUID{}) {
		if t.places == nil {
			t.places = make(map[UUID]map[Interface][]uint16)
		}
		if t.places[recording] == nil {
			t.places[recording] = make(map[Interface][]uint16)
		}
		m.places, m.seen = t.places[recording], make(map[Interface]int)
	}
	return m
}

// InterfaceMap turns the interface indexes of one source into those of a table.
type InterfaceMap struct {
	table  *InterfaceTable
	places map[Interface][]uint16 // of the recording; nil where nothing is shared
	seen   map[Interface]int      // how many of a description this source has
	index  []uint16
	same   bool // index[i] == i
}

// Learn takes in the interfaces that the source knows by now: those it was told
// before and perhaps more. The error says that the table is full.
func (m *InterfaceMap) Learn(known []Interface) error {
	for len(m.index) < len(known) {
		i := known[len(m.index)]
		at, err := m.place(i)
		if err != nil {
			return err
		}
		m.same = m.same && int(at) == len(m.index)
		m.index = append(m.index, at)
	}
	return nil
}

func (m *InterfaceMap) place(i Interface) (uint16, error) {
	if m.places != nil {
		n := m.seen[i]
		if p := m.places[i]; n < len(p) {
			m.seen[i]++
			return p[n], nil
		}
	}
	t := m.table
	if len(t.list) >= MaxInterfaces {
		return 0, fmt.Errorf("more than %d interfaces in all sources together", MaxInterfaces)
	}
	at := uint16(len(t.list))
	t.list = append(t.list, i)
	if m.places != nil {
		m.places[i] = append(m.places[i], at)
		m.seen[i]++
	}
	return at, nil
}

// Index is the table's index of the source's interface i; false where the source
// never described it.
func (m *InterfaceMap) Index(i uint16) (uint16, bool) {
	if int(i) >= len(m.index) {
		return 0, false
	}
	return m.index[i], true
}

// Apply puts the table's indexes into a batch of the source. After an error, for an
// interface that was never described, the batch is of no use.
func (m *InterfaceMap) Apply(b *Batch) error {
	n := len(m.index)
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if int(d.Interface) >= n {
			return fmt.Errorf("datagram of interface %d, %d are described", d.Interface, n)
		}
		if !m.same {
			d.Interface = m.index[d.Interface]
		}
	}
	for i := range b.Stats {
		s := &b.Stats[i]
		if int(s.Interface) >= n {
			return fmt.Errorf("statistics of interface %d, %d are described", s.Interface, n)
		}
		s.Interface = m.index[s.Interface]
	}
	for i := range b.Events {
		e := &b.Events[i]
		switch {
		case e.Interface == NoInterface:
		case int(e.Interface) >= n:
			return fmt.Errorf("event of interface %d, %d are described", e.Interface, n)
		default:
			e.Interface = int32(m.index[e.Interface])
		}
	}
	return nil
}
