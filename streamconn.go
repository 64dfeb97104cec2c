package websocket

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A stream is what a streamConn is made of: a stream of HTTP/2, or the body of a 101.
type stream interface {
	io.ReadWriter       // Write sends at once
	finish()            // ends what we write
	abort()             // ends both directions and unblocks Read and Write
	release()           // gives back what is left, once nothing is read or written any more
	addrs() [2]net.Addr // local and remote
}

const (
	tryLimit = 4 << 10               // bytes that are written without waiting for the stream, and
	tryTime  = 20 * time.Millisecond // how long that is waited for all the same
)

// A streamConn makes a net.Conn of a stream.
//
// What can be read is read ahead, a bounded amount, so that a read deadline can pass and be moved. A Write goes to
// the stream at once; a write deadline that passes while it waits there is final, for nobody can tell how much of
// it was taken. One that passed before takes nothing and does no harm.
type streamConn struct {
	stream
	ahead net.Conn      // what was read ahead
	turn  chan struct{} // full while someone writes
	ended chan struct{} // closed when nothing more will be written

	mu     sync.Mutex // a leaf
	timer  *time.Timer
	late   bool  // the write deadline has passed
	busy   bool  // a write is at work
	rerr   error // behind what was read ahead
	werr   error // of every write from now on
	closed bool
}

func newStreamConn(s stream) *streamConn {
	near, far := memPipe()
	c := &streamConn{stream: s, ahead: near, turn: make(chan struct{}, 1), ended: make(chan struct{})}
	go c.readAhead(far)
	return c
}

func (c *streamConn) readAhead(far net.Conn) {
	b := make([]byte, 4<<10)
	for {
		n, err := c.stream.Read(b)
		if _, e := far.Write(b[:n]); err == nil {
			err = e
		}
		if err != nil {
			c.mu.Lock()
			c.rerr = err
			late := c.werr == os.ErrDeadlineExceeded
			c.mu.Unlock()
			if late { // the write that was late is the cause, and is heard first
				select {
				case <-c.ended:
				case <-time.After(tryTime):
				}
			}
			far.Close()
			return
		}
	}
}

// Read returns the error of the stream behind its last byte.
func (c *streamConn) Read(p []byte) (int, error) {
	n, err := c.ahead.Read(p)
	if err != io.EOF {
		return n, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return n, c.rerr
}

func (c *streamConn) Write(p []byte) (int, error) {
	c.turn <- struct{}{}
	return c.write(p)
}

// tryWrite writes what is short. The stream cannot say whether it would block: if it does, the write goes on
// without the caller.
func (c *streamConn) tryWrite(p []byte) (int, error) {
	if len(p) > tryLimit {
		return 0, nil
	}
	select {
	case c.turn <- struct{}{}:
	default:
		return 0, nil
	}
	wrote := make(chan error, 1)
	go func(p []byte) {
		_, err := c.write(p)
		wrote <- err
	}(append([]byte(nil), p...))
	patience := time.NewTimer(tryTime)
	defer patience.Stop()
	select {
	case err := <-wrote:
		if err != nil {
			return 0, err
		}
	case <-patience.C:
	}
	return len(p), nil
}

// write is called by who has the turn, and ends it.
func (c *streamConn) write(p []byte) (n int, err error) {
	defer func() { <-c.turn }()
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	n, err = c.stream.Write(p)
	return n, c.endWrite(err)
}

func (c *streamConn) beginWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.werr != nil {
		return c.werr
	}
	if c.late {
		return os.ErrDeadlineExceeded
	}
	c.busy = true
	return nil
}

// endWrite returns the error of a write; one that was there before it, such as that of a deadline, is its cause.
func (c *streamConn) endWrite(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	if err != nil && c.werr == nil {
		c.werr = err
	}
	if err != nil {
		return c.werr
	}
	return nil
}

func (c *streamConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.late = false
	if t.IsZero() {
		return nil
	}
	if left := time.Until(t); left > 0 {
		c.startTimer(left)
	} else {
		c.deadlinePassed()
	}
	return nil
}

// startTimer is called with mu held. A timer that was replaced while it fired does nothing.
func (c *streamConn) startTimer(left time.Duration) {
	var t *time.Timer
	t = time.AfterFunc(left, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.timer == t {
			c.deadlinePassed()
		}
	})
	c.timer = t
}

// deadlinePassed is called with mu held.
func (c *streamConn) deadlinePassed() {
	c.late = true
	if c.busy && c.werr == nil {
		c.werr = os.ErrDeadlineExceeded
		go c.abort()
	}
}

func (c *streamConn) SetReadDeadline(t time.Time) error { return c.ahead.SetReadDeadline(t) }

func (c *streamConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

var errWriteClosed = errors.New("the stream was ended")

// CloseWrite ends the stream in our direction.
func (c *streamConn) CloseWrite() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.end(errWriteClosed)
	return nil
}

// end lets nothing more be written, and is called by who has the turn.
func (c *streamConn) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.werr == nil {
		c.werr = why
	}
	select {
	case <-c.ended:
	default:
		c.finish()
		close(c.ended)
	}
}

// Close ends the stream and unblocks what waits for it. Where the peer has ended it too, that is an orderly end, else
// an abrupt one. Nothing is written once Close has returned.
func (c *streamConn) Close() error {
	c.mu.Lock()
	again, orderly := c.closed, c.rerr == io.EOF && !c.busy
	c.closed = true
	if c.werr == nil && !orderly {
		c.werr = net.ErrClosed
	}
	c.mu.Unlock()
	if again {
		return net.ErrClosed
	}
	if !orderly {
		c.abort()
	}
	c.turn <- struct{}{}
	c.end(net.ErrClosed)
	<-c.turn
	c.SetWriteDeadline(time.Time{})
	c.release()
	return c.ahead.Close()
}

func (c *streamConn) LocalAddr() net.Addr  { return c.addrs()[0] }
func (c *streamConn) RemoteAddr() net.Addr { return c.addrs()[1] }

// A streamAddr is the address of an end that nothing more is known of.
type streamAddr string

func (streamAddr) Network() string  { return "websocket" }
func (a streamAddr) String() string { return string(a) }

// A bodyStream is the body of a 101 that came from a RoundTripper of the caller's.
type bodyStream struct {
	io.ReadWriteCloser
	host string
}

func (s *bodyStream) finish()  {}
func (s *bodyStream) abort()   { s.Close() }
func (s *bodyStream) release() { s.Close() }
func (s *bodyStream) addrs() [2]net.Addr {
	return [2]net.Addr{streamAddr("local"), streamAddr(s.host)}
}
