//go:build !linux

package sock

// Conn is a socket that is a member of groups; there is none on this system.
type Conn struct{}

// Listen returns an error that wraps errors.ErrUnsupported.
func Listen(ListenConfig) (*Conn, error) { return nil, unsupported("recording from the network") }

// Receiver is the memory that datagrams are received into.
type Receiver struct{}

// NewReceiver returns an error that wraps errors.ErrUnsupported.
func NewReceiver(int) (*Receiver, error) { return nil, unsupported("recording from the network") }

// Poller waits for datagrams.
type Poller struct{}

// NewPoller returns an error that wraps errors.ErrUnsupported.
func NewPoller(int) (*Poller, error) { return nil, unsupported("recording from the network") }
