package probe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"castdeck/internal/sock"
)

// replies is the socket on which a sender hears its receivers. One goroutine at a time
// uses it, except for wake.
type replies struct {
	conn    *sock.Conn
	poller  *sock.Poller
	receive *sock.Receiver
	ready   []int
	message sock.Message
	own     uint16 // port that receivers are told; 0 with a group
}

func newReplies(o *SendOptions, source netip.Addr, iface *net.Interface) (r *replies, err error) {
	r = &replies{ready: make([]int, 1)}
	defer func() {
		if err != nil {
			_ = r.close()
		}
	}()
	if r.receive, err = sock.NewReceiver(receiveBatch); err != nil {
		return nil, err
	}
	if r.poller, err = sock.NewPoller(1); err != nil {
		return nil, err
	}
	if o.Return.IsValid() {
		r.conn, err = sock.Listen(sock.ListenConfig{Memberships: []sock.Membership{{Group: o.Return, Interface: iface}}, Buffer: o.Buffer})
	} else {
		err = r.listen(o, source, iface)
	}
	if err != nil {
		return nil, fmt.Errorf("receiving replies: %w", err)
	}
	return r, r.poller.Add(r.conn, 0)
}

// listen finds a free port.
func (r *replies) listen(o *SendOptions, source netip.Addr, iface *net.Interface) (err error) {
	if o.Groups[0].Addr().Is6() {
		source = netip.IPv6Unspecified()
	}
	const tries, lowest, ports = 32, 49152, 16384 // RFC 6335
	for range tries {
		r.own = uint16(lowest + rand.IntN(ports))
		m := sock.Membership{Group: netip.AddrPortFrom(source, r.own), Interface: iface}
		if r.conn, err = sock.Listen(sock.ListenConfig{Memberships: []sock.Membership{m}, Buffer: o.Buffer}); !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	return err
}

func (r *replies) port() uint16 { return r.own }
func (r *replies) buffer() int  { return r.conn.Buffer() }
func (r *replies) wake()        { r.poller.Wake() }

// read hands what came to e; it waits for the first up to wait, or until wake.
func (r *replies) read(e *echoes, wait time.Duration) (n int, err error) {
	if n, err = r.take(e); n > 0 || err != nil {
		return n, err
	}
	if _, err := r.poller.Wait(r.ready, int((wait+time.Millisecond-1)/time.Millisecond)); err != nil {
		return 0, err
	}
	return r.take(e)
}

func (r *replies) take(e *echoes) (int, error) {
	n, err := r.receive.Recv(r.conn)
	if err != nil {
		if !fatal(err) {
			err = nil
		}
		return 0, err
	}
	clock := sock.Now()
	for i := range n {
		r.receive.Message(i, &r.message)
		e.take(r.message.Payload, r.message.Src, r.message.Time, clock)
	}
	return n, nil
}

func (r *replies) close() error {
	var errs []error
	if r.conn != nil {
		errs = append(errs, r.conn.Close())
	}
	if r.poller != nil {
		errs = append(errs, r.poller.Close())
	}
	return errors.Join(errs...)
}

// fatal says that receiving again is of no use; other errors come once, and the socket
// works on.
func fatal(err error) bool {
	return errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.ENOTSOCK) || errors.Is(err, syscall.EFAULT) || errors.Is(err, syscall.EINVAL)
}
