//go:build !linux

package sock

// Ring is a packet socket with a ring of packets; there is none on this system.
type Ring struct{}

// OpenRing returns an error that wraps errors.ErrUnsupported.
func OpenRing(RingConfig) (*Ring, error) { return nil, unsupported("recording packets") }
