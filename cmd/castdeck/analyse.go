package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"castdeck/format"
	"castdeck/internal/mcast"
)

// analysed is what an analysis reads: PATH..., --only, --start and --end.
type analysed struct {
	span timeSpan
	only []string
	// say prints a line of talk.
	say func(format string, args ...any)
	// interfaces that the datagrams read so far name.
	interfaces []format.Interface
	notUDP     uint64
	// opened is told of the input before it is read, damagedAt what is wrong with it;
	// nil where nobody asks.
	opened    func(*input)
	damagedAt func(string)

	// first is, for each interface, the first one that is called the same.
	first  []uint16
	called map[format.Interface]uint16
}

func (a *analysed) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&a.only, "only", nil, "look at this `GROUP` only (repeatable)")
	a.span.addFlags(cmd)
}

// each reads everything there is, and tells each loss once. It reports true where a
// capture is damaged or was cut off.
func (a *analysed) each(cmd *cobra.Command, paths []string, f func(*format.Batch) error) (damaged bool, err error) {
	a.say = func(text string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), "castdeck: %s\n", oneLine(fmt.Sprintf(text, args...)))
	}
	if err := a.span.check(); err != nil {
		return false, err
	}
	sel := selection{udpOnly: true}
	if len(a.only) > 0 {
		if sel.only, err = mcast.NewMatcher(a.only...); err != nil {
			return false, usagef("--only: %v", err)
		}
	}
	in, err := openInput(paths...)
	if err != nil {
		return false, err
	}
	defer in.Close()
	if a.opened != nil {
		a.opened(in)
	}
	tell := func(path, what string) {
		damaged = true
		a.say("%s: %s", path, what)
		if a.damagedAt != nil {
			a.damagedAt(path + ": " + what)
		}
	}
	src, err := a.span.cut(in)
	if err != nil {
		return false, err
	}
	src = a.span.lossesOnce(in, src)
	in.readAhead(context.Background())
	err = each(src, func(b *format.Batch) error {
		sel.apply(b)
		a.unite(b, in.interfaces())
		return f(b)
	}, func(err error) { tell(in.path, describe(err)) })
	if err == nil && !damaged {
		for _, p := range in.unsealed() {
			tell(p, "not sealed: still being written, or cut off")
		}
	}
	a.notUDP = sel.notUDP
	return damaged, err
}

// maxUnited is how many interfaces are compared by name; those past it stay apart.
const maxUnited = 4096

// unite makes one of the interfaces that are called the same: a stream goes on from one
// file to the next.
func (a *analysed) unite(b *format.Batch, names []format.Interface) {
	a.interfaces = names
	for i := len(a.first); i < min(len(names), maxUnited); i++ {
		name := format.Interface{Name: names[i].Name, Description: names[i].Description}
		first, known := a.called[name]
		if !known {
			if a.called == nil {
				a.called = map[format.Interface]uint16{}
			}
			first = uint16(i)
			a.called[name] = first
		}
		a.first = append(a.first, first)
	}
	for i := range b.Datagrams {
		if d := &b.Datagrams[i]; int(d.Interface) < len(a.first) {
			d.Interface = a.first[d.Interface]
		}
	}
	for i := range b.Stats {
		if s := &b.Stats[i]; int(s.Interface) < len(a.first) {
			s.Interface = a.first[s.Interface]
		}
	}
}
