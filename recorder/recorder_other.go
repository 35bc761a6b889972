//go:build !linux

package recorder

import (
	"context"
	"errors"
	"fmt"

	"castdeck/format"
)

// Recorder receives the groups of its subscriptions; on this system none can be
// made.
type Recorder struct{}

// Listen returns an error that wraps errors.ErrUnsupported.
func Listen(subs []Subscription, o Options) (*Recorder, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := check(subs, o); err != nil {
		return nil, err
	}
	return nil, errUnsupported
}

var errUnsupported = fmt.Errorf("recording from the network needs Linux: %w", errors.ErrUnsupported)

// Interfaces is nil.
func (r *Recorder) Interfaces() []format.Interface { return nil }

// Clock is empty.
func (r *Recorder) Clock() string { return "" }

// Run returns an error that wraps errors.ErrUnsupported.
func (r *Recorder) Run(context.Context, format.BatchWriter) error { return errUnsupported }

// Stats are all zero.
func (r *Recorder) Stats() Stats { return Stats{} }

// Pressure is 0.
func (r *Recorder) Pressure() float64 { return 0 }

// Close does nothing.
func (r *Recorder) Close() error { return nil }
