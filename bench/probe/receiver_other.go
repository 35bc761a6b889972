//go:build !linux

package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

var errUnsupported = fmt.Errorf("measuring a path needs Linux: %w", errors.ErrUnsupported)

// Receiver needs Linux.
type Receiver struct{}

// NewReceiver needs Linux.
func NewReceiver(ReceiveOptions) (*Receiver, error) { return nil, errUnsupported }

// Buffer is 0.
func (r *Receiver) Buffer() int { return 0 }

// Counts are none.
func (r *Receiver) Counts() Received { return Received{} }

// Close does nothing.
func (r *Receiver) Close() error { return nil }

// Run needs Linux.
func (r *Receiver) Run(context.Context) error { return errUnsupported }

// Heard needs Linux.
func (r *Receiver) Heard(context.Context, uint64) (int, error) { return 0, errUnsupported }

// Finish needs Linux.
func (r *Receiver) Finish(context.Context, Sent, time.Duration) (Arrived, error) {
	return Arrived{}, errUnsupported
}

// replies need Linux.
type replies struct{}

func newReplies(*SendOptions, netip.Addr, *net.Interface) (*replies, error) {
	return nil, errUnsupported
}

func (r *replies) close() error                             { return nil }
func (r *replies) port() uint16                             { return 0 }
func (r *replies) buffer() int                              { return 0 }
func (r *replies) wake()                                    {}
func (r *replies) read(*echoes, time.Duration) (int, error) { return 0, errUnsupported }
