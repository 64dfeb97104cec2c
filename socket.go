package websocket

// Operations on a net.Conn beyond its methods: reading and writing without waiting, telling a timeout from a failure,
// closing one half, and interrupting I/O when a context ends.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A socket reads and writes the descriptor of a connection directly.
type socket interface {
	tryWriter
	someWriter
	read(p []byte, once bool) (int, error)
	waitRead(b **buffer, size int, once bool) (int, error) // into a pooled buffer, which it gets once there are bytes
	drained(p []byte) bool                                 // whether no byte is waiting; otherwise it reads into p
}

// A tryWriter writes as much of p as the connection accepts at once, which may be nothing. It never blocks.
type tryWriter interface {
	tryWrite(p []byte) (int, error)
}

// A someWriter waits until the connection accepts a part of p.
type someWriter interface {
	writeSome(p []byte) (int, error)
}

// past is a deadline that interrupts I/O at once.
var past = time.Unix(1, 0)

// deadlineAfter returns the instant after d, or no deadline if d is not positive.
func deadlineAfter(d time.Duration) time.Time {
	if d <= 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// errStalled ends a write after Options.WriteTimeout.
var errStalled = fmt.Errorf("the peer accepted no byte for WriteTimeout: %w", os.ErrDeadlineExceeded)

// isTimeout reports whether err means that a deadline has passed. Not every net.Conn returns os.ErrDeadlineExceeded in
// that case. A system call that timed out is a failure of the network instead.
func isTimeout(err error) bool {
	if _, ok := err.(*os.SyscallError); ok || err == io.EOF { // the usual ones; errors.As takes a larger stack
		return false
	}
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

// hasSoftDeadlines reports whether nc stays usable after a write deadline has passed, and an interrupted write returns
// the number of bytes that were accepted. A TLS connection does not: "After a Write has timed out, the TLS state is
// corrupt" (crypto/tls).
func hasSoftDeadlines(nc net.Conn) bool {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn, interface{ softDeadlines() }:
		return true
	}
	return false
}

// beneath returns the connection that nc wraps, or nil. Use it to look for optional methods and to close, not to read
// or write past the wrapper.
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

// closeAbruptly closes nc without waiting. It closes the innermost connection first, because closing a TLS connection
// sends an alert, which blocks while the socket is full.
func closeAbruptly(nc net.Conn) error {
	if inner := beneath(nc); inner != nil {
		closeAbruptly(inner)
	}
	return nc.Close()
}

// A watch interrupts I/O when a context ends. It stays set after the I/O, because the next call often has the same
// context and setting a watch costs more than many writes. The user of the watch owns it.
type watch struct{ on *watched }

// A watched is the context of a watch.
type watched struct {
	done     <-chan struct{}
	stop     func() bool
	finished chan struct{} // closed when the interrupt has finished

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

// set watches ctx instead of the previous context. When set returns, the interrupt of the previous context has been
// prevented or has finished.
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

// unset stops watching the context. When it returns, no interrupt is running.
func (w *watch) unset() {
	if w.on != nil && !w.on.stop() {
		<-w.on.finished
	}
	w.on = nil
}

// setActive sets whether there is I/O to interrupt; set assumes that there is. No interrupt happens after
// setActive(false).
func (w *watch) setActive(active bool) {
	if w.on != nil {
		w.on.mu.Lock()
		w.on.active = active
		w.on.mu.Unlock()
	}
}
