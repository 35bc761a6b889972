package probe

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Path is a Sender and a Receiver in one program, at the two ends of the path: of one
// host with two interfaces, or two virtual ones.
type Path struct {
	Sender   *Sender
	Receiver *Receiver

	stop context.CancelFunc
	done chan error
}

// settle is for how long the last datagrams of a step are waited for when none comes.
const settle = 150 * time.Millisecond

// OpenPath opens both ends, begins to receive, and sends greetings until one has come
// through on every group: so interfaces, switches and firewalls are known to be ready. The
// error tells which did not within patience. The caller must Close.
func OpenPath(ctx context.Context, send SendOptions, receive ReceiveOptions, patience time.Duration) (p *Path, err error) {
	p = &Path{done: make(chan error, 1)}
	if p.Receiver, err = NewReceiver(receive); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	go func() { p.done <- p.Receiver.Run(running) }()
	if p.Sender, err = NewSender(send); err == nil {
		err = p.greet(ctx, patience, send.Interface+" to "+receive.Interface)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Path) greet(ctx context.Context, patience time.Duration, way string) error {
	groups := len(p.Sender.to)
	for deadline := time.Now().Add(patience); ; {
		if err := p.Sender.Announce(); err != nil {
			return err
		}
		heard := 0
		for range 10 {
			var err error
			if heard, err = p.Receiver.Heard(ctx, p.Sender.run); err != nil {
				return err
			}
			if heard == groups {
				return nil
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("of %d groups %d get from %s (is the one wired to the other, does a switch forward the groups, is a firewall or rp_filter in the way? a host takes what comes from itself only with accept_local=1 and rp_filter=0)",
				groups, heard, way)
		}
	}
}

// Step sends a step and tells what arrived of it. When ctx ends it stops sending and
// measures what was sent until then.
func (p *Path) Step(ctx context.Context, st Step) (Sent, Arrived, error) {
	sent, err := p.Sender.Send(ctx, st)
	return p.finish(ctx, sent, err)
}

// PingPong is Sender.PingPong, and what arrived.
func (p *Path) PingPong(ctx context.Context, st Step, patience time.Duration) (Sent, Arrived, error) {
	sent, err := p.Sender.PingPong(ctx, st, patience)
	return p.finish(ctx, sent, err)
}

func (p *Path) finish(ctx context.Context, sent Sent, err error) (Sent, Arrived, error) {
	if err != nil {
		return sent, Arrived{}, err
	}
	a, err := p.Receiver.Finish(context.WithoutCancel(ctx), sent, settle)
	return sent, a, err
}

// Close ends the receiving and closes both ends.
func (p *Path) Close() error {
	p.stop()
	err := errors.Join(<-p.done, p.Receiver.Close())
	if p.Sender != nil {
		err = errors.Join(err, p.Sender.Close())
	}
	return err
}
