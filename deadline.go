package websocket

import (
	"context"
	"os"
	"sync"
	"time"
)

// A deadline is the time at which a wait ends. It can be moved at any time, even after it has passed. The zero value is
// no deadline. Multiple goroutines may call its methods simultaneously.
//
// The deadlines of connections that this package implements are of this type. A wait asks for the context, so a
// deadline that is set and not waited for allocates no more than its timer.
type deadline struct {
	mu    sync.Mutex // guards the fields
	at    time.Time  // the zero time is no deadline
	timer *time.Timer
	ctx   context.Context // done once the deadline has passed; nil until a goroutine asks for it
	end   context.CancelCauseFunc
}

// context returns a context that is done when the deadline passes, with os.ErrDeadlineExceeded as its cause. Moving the
// deadline before it passes keeps the context; moving it later replaces the context.
func (d *deadline) context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil {
		d.ctx, d.end = context.WithCancelCause(context.Background())
		d.check()
	}
	return d.ctx
}

// take locks t for a call that the deadline bounds and returns the context to wait with. After the deadline, it fails
// and does not lock t.
func (d *deadline) take(t *turn) (context.Context, error) {
	ctx := d.context()
	if ctx.Err() != nil || !t.lock(ctx, nil) {
		return nil, os.ErrDeadlineExceeded
	}
	return ctx, nil
}

// set moves the deadline to t. The zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.ctx != nil && d.ctx.Err() != nil {
		d.ctx = nil
	}
	d.at = t
	d.check()
}

// check ends the context if the deadline has passed, and otherwise starts the timer. The caller holds mu.
func (d *deadline) check() {
	if d.at.IsZero() {
		return
	}
	left := time.Until(d.at)
	switch {
	case left <= 0 && d.ctx != nil:
		d.end(os.ErrDeadlineExceeded)
	case left <= 0:
	case d.timer == nil:
		d.timer = time.AfterFunc(left, d.expire)
	default:
		d.timer.Reset(left)
	}
}

// expire runs when the timer fires. If the deadline was moved in the meantime, check starts the timer again.
func (d *deadline) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.check()
}

// A deadlines holds the deadlines of a net.Conn and has the methods that move them. Its fields do not change.
type deadlines struct{ ofRead, ofWrite *deadline }

func (d deadlines) SetDeadline(t time.Time) error {
	d.ofRead.set(t)
	d.ofWrite.set(t)
	return nil
}

func (d deadlines) SetReadDeadline(t time.Time) error {
	d.ofRead.set(t)
	return nil
}

func (d deadlines) SetWriteDeadline(t time.Time) error {
	d.ofWrite.set(t)
	return nil
}
