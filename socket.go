package websocket

// What the package needs of a net.Conn beyond its methods: to read and write without waiting, to tell a timeout from a
// failure, to close one half, and to interrupt I/O when a context ends.

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// A socket reads and writes the descriptor of a connection itself.
type socket interface {
	tryWriter
	someWriter
	read(p []byte) (int, error)
	waitRead(b **buffer, size int) (int, error) // into a pooled buffer, which is taken once there are bytes
	drained() bool                              // no byte waits to be read
}

// A tryWriter writes as much of p as is taken at once, which may be nothing. It never blocks.
type tryWriter interface {
	tryWrite(p []byte) (int, error)
}

// A someWriter waits until a part of p is taken.
type someWriter interface {
	writeSome(p []byte) (int, error)
}

// past is a deadline that interrupts.
var past = time.Unix(1, 0)

// deadlineAfter returns the instant after d, or no deadline if d is not positive.
func deadlineAfter(d time.Duration) time.Time {
	if d <= 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

var errStalled = &stallError{}

// A stallError says that the peer took nothing for Options.WriteTimeout.
type stallError struct{}

func (*stallError) Error() string   { return "the peer took nothing for WriteTimeout" }
func (*stallError) Timeout() bool   { return true }
func (*stallError) Temporary() bool { return false }
func (*stallError) Unwrap() error   { return os.ErrDeadlineExceeded }

// isTimeout reports whether err is that of a deadline. Not every net.Conn returns os.ErrDeadlineExceeded. A system call
// that timed out tells of the network, not of a deadline.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		return false
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// hasSoftDeadlines reports whether nc is usable after a write deadline has passed, and a write that met one returns how
// much was taken. A TLS connection is not: "After a Write has timed out, the TLS state is corrupt" (crypto/tls).
func hasSoftDeadlines(nc net.Conn) bool {
	switch nc := nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	default:
		_, ok := nc.(interface{ softDeadlines() })
		return ok
	}
}

// beneath returns the connection that nc wraps, or nil. It serves to find abilities, not to go around the wrapper.
func beneath(nc net.Conn) net.Conn {
	switch w := nc.(type) {
	case interface{ NetConn() net.Conn }:
		return w.NetConn()
	case interface{ Unwrap() net.Conn }:
		return w.Unwrap()
	}
	return nil
}

// closeWrite ends our half of the connection. It returns false if nc cannot do that.
func closeWrite(nc net.Conn) bool {
	for ; nc != nil; nc = beneath(nc) {
		if w, ok := nc.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
			return true
		}
	}
	return false
}

// closeAbruptly closes nc without waiting for its goodbye: TLS sends an alert when it is closed, which blocks while the
// socket is full, unless the connection beneath is closed already.
func closeAbruptly(nc net.Conn) error {
	if inner := beneath(nc); inner != nil {
		closeAbruptly(inner)
	}
	return nc.Close()
}

// A watch interrupts I/O when a context ends. It stays set after the I/O, because a context often comes again and
// setting a watch costs more than many writes. Its user owns it.
type watch struct{ on *watched }

// A watched is the context of a watch.
type watched struct {
	done     <-chan struct{}
	stop     func() bool
	finished chan struct{} // closed when the interrupt is over

	mu     sync.Mutex // guards active, and is held during an interrupt
	active bool       // there is I/O to interrupt
}

// is reports whether the watch is set to ctx.
func (w *watch) is(ctx context.Context) bool {
	if w.on == nil {
		return ctx.Done() == nil
	}
	return w.on.done == ctx.Done()
}

// set watches ctx instead of the context before, whose interrupt is prevented or over when set returns.
func (w *watch) set(ctx context.Context, interrupt func()) {
	w.unset()
	if ctx.Done() == nil {
		return
	}
	on := &watched{done: ctx.Done(), finished: make(chan struct{}), active: true}
	on.stop = context.AfterFunc(ctx, func() {
		defer close(on.finished)
		on.mu.Lock()
		defer on.mu.Unlock()
		if on.active {
			interrupt()
		}
	})
	w.on = on
}

func (w *watch) isSet() bool { return w.on != nil }

func (w *watch) unset() {
	if w.on != nil && !w.on.stop() {
		<-w.on.finished
	}
	w.on = nil
}

// setActive says whether there is I/O to interrupt, which set assumes. No interrupt happens after setActive(false).
func (w *watch) setActive(active bool) {
	if w.on != nil {
		w.on.mu.Lock()
		w.on.active = active
		w.on.mu.Unlock()
	}
}
