package websocket

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Connections that stand in for those that programs bring along: wrapped ones, and ones with odd deadlines.

// A wrappedConn hides every ability of a connection but those of net.Conn, as netutil.LimitListener does.
type wrappedConn struct{ net.Conn }

// A layeredConn is one connection over another, and counts how often it was closed itself.
type layeredConn struct {
	net.Conn
	closes atomic.Int32
}

func (c *layeredConn) NetConn() net.Conn { return c.Conn }

func (c *layeredConn) Close() error {
	c.closes.Add(1)
	return c.Conn.Close()
}

// A closeRecorder knows whether it was closed.
type closeRecorder struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func newCloseRecorder(nc net.Conn) *closeRecorder {
	return &closeRecorder{Conn: nc, closed: make(chan struct{})}
}

func (c *closeRecorder) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A goodbyeConn says goodbye before it closes, as TLS does, to a peer that takes nothing: that ends with the connection
// beneath.
type goodbyeConn struct{ *closeRecorder }

func (c goodbyeConn) NetConn() net.Conn { return c.closeRecorder }

func (c goodbyeConn) Close() error {
	<-c.closed
	return nil
}

// An unwrappingConn shows what it wraps, as some listeners' connections do.
type unwrappingConn struct{ net.Conn }

func (c unwrappingConn) Unwrap() net.Conn { return c.Conn }

// A holdingConn keeps a Write until it is let go, and then takes all of it, whatever happened to the connection.
type holdingConn struct {
	net.Conn
	held chan struct{} // closed when a Write has come
	free chan struct{} // closed to let it go
	once sync.Once
}

func newHoldingConn(nc net.Conn) *holdingConn {
	return &holdingConn{Conn: nc, held: make(chan struct{}), free: make(chan struct{})}
}

func (c *holdingConn) Write(p []byte) (int, error) {
	c.once.Do(func() { close(c.held) })
	<-c.free
	return len(p), nil
}

// A foreignTimeout is a timeout as yamux and gVisor's netstack return it: a net.Error that does not match
// os.ErrDeadlineExceeded.
type foreignTimeout struct{}

func (foreignTimeout) Error() string   { return "i/o timeout" }
func (foreignTimeout) Timeout() bool   { return true }
func (foreignTimeout) Temporary() bool { return true }

// A foreignConn returns a foreignTimeout when a deadline passes.
type foreignConn struct{ net.Conn }

func (c foreignConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, asForeign(err)
}

func (c foreignConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, asForeign(err)
}

func asForeign(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return foreignTimeout{}
	}
	return err
}

// A channelConn has no deadlines, as a channel of SSH.
type channelConn struct{ net.Conn }

var errNoDeadlines = errors.New("deadlines are not supported")

func (channelConn) SetDeadline(time.Time) error      { return errNoDeadlines }
func (channelConn) SetReadDeadline(time.Time) error  { return errNoDeadlines }
func (channelConn) SetWriteDeadline(time.Time) error { return errNoDeadlines }

// A lateConn is one whose read deadline, once it has passed, cannot be moved any more. It counts the reads after it.
type lateConn struct {
	net.Conn
	late  atomic.Bool
	reads atomic.Int32
}

// spins is how often a call is made again before a test says that it is made for ever.
const spins = 1000

func (c *lateConn) Read(p []byte) (int, error) {
	if c.late.Load() {
		if c.reads.Add(1) > spins {
			return 0, io.EOF
		}
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.late.Store(true)
	}
	return n, err
}

// A renewingConn writes while it reads, as TLS 1.3 does to answer a KeyUpdate: with its write deadline passed it fails.
type renewingConn struct {
	net.Conn
	mu    sync.Mutex
	limit time.Time
}

func (c *renewingConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	return c.Conn.SetWriteDeadline(t)
}

func (c *renewingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && !c.limit.IsZero() && !c.limit.After(time.Now()) {
		return 0, &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
	}
	return n, err
}
