//go:build !linux

package sock

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Messages is an array of prepared datagrams.
type Messages struct{ n int }

// NewMessages makes room for n datagrams.
func NewMessages(n int) *Messages { return &Messages{n: n} }

// Len is how many datagrams the array has room for.
func (m *Messages) Len() int { return m.n }

// Grow makes room for n datagrams.
func (m *Messages) Grow(n int) { m.n = max(m.n, n) }

// Set does nothing: there is no Sender to hand the messages to.
func (m *Messages) Set(i int, payload []byte, dst *Sockaddr) {}

// Reorder does nothing.
func (m *Messages) Reorder(order []int32, spare *Messages) {}

// Sender sends datagrams out of one interface. It exists on Linux only.
type Sender struct{}

// NewSender returns an error that wraps errors.ErrUnsupported.
func NewSender(o SenderOptions) (*Sender, error) { return nil, unsupported("sending") }

// NewFrameSender returns an error that wraps errors.ErrUnsupported.
func NewFrameSender(iface *net.Interface, sendBuffer int) (*Sender, error) {
	return nil, unsupported("sending")
}

// Source returns the zero address.
func (s *Sender) Source() netip.Addr { return netip.Addr{} }

// Socket returns an error that wraps errors.ErrUnsupported.
func (s *Sender) Socket(port uint16, ipv6 bool) (socket int, kept bool, err error) {
	return 0, false, unsupported("sending")
}

// SocketFrom returns an error that wraps errors.ErrUnsupported.
func (s *Sender) SocketFrom(src netip.AddrPort) (socket int, err error) {
	return 0, unsupported("sending")
}

// Reverted returns 0.
func (s *Sender) Reverted() uint64 { return 0 }

// Late returns 0.
func (s *Sender) Late() uint64 { return 0 }

// Send returns an error that wraps errors.ErrUnsupported.
func (s *Sender) Send(socket int, m *Messages, from, to int) (sent int, err error) {
	return 0, unsupported("sending")
}

// Hold does nothing.
func (s *Sender) Hold(on bool) {}

// Segmentation returns false.
func (s *Sender) Segmentation() bool { return false }

// Warm does nothing.
func (s *Sender) Warm(socket int, m *Messages, i int) {}

// Close does nothing.
func (s *Sender) Close() error { return nil }

// ErrnoName is the number in words.
func ErrnoName(e syscall.Errno) string { return fmt.Sprintf("errno %d", int(e)) }

// Segmented returns zeros.
func (s *Sender) Segmented() (datagrams, runs uint64, refused error) { return 0, 0, nil }
