package websocket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A stream carries the bytes of a streamConn: a stream of HTTP/2, or the body of a 101 response.
type stream interface {
	io.ReadWriter       // Write sends at once
	finish()            // ends the direction that we write
	abort()             // ends both directions, and every Read and Write that waits
	release()           // is called once, after the last Read, Write, finish and abort
	addrs() [2]net.Addr // local and remote
}

// A streamConn is a net.Conn over a stream, which has no deadlines of its own. Multiple goroutines may call its methods
// simultaneously.
//
// A goroutine reads ahead, up to pipeSize bytes, so that a Read may be repeated after its deadline has passed. A Write
// goes to the stream directly. If its deadline passes while the stream takes nothing, the stream is aborted, because
// nobody can tell how much of the Write was taken. A Write that begins after its deadline takes nothing and does no harm.
type streamConn struct {
	stream
	ahead   net.Conn // the bytes read ahead
	writes  deadline
	writing turn          // held during a Write, and while the stream is finished
	ended   chan struct{} // closed when nothing more will be written

	mu      sync.Mutex      // guards the fields below; held for assignments only
	watched context.Context // the context of writes that has writeLate run when it ends
	bound   context.Context // the one that bounds the Write that is running; nil: none runs
	rerr    error           // the error that follows the bytes read ahead
	werr    error           // the error of every later Write
	closed  bool
}

func newStreamConn(s stream) *streamConn {
	near, far := memPipe()
	c := &streamConn{stream: s, ahead: near, ended: make(chan struct{})}
	go c.readAhead(far)
	return c
}

// readAhead moves bytes from the stream to far until either ends.
func (c *streamConn) readAhead(far net.Conn) {
	defer far.Close()
	b := make([]byte, 4<<10)
	for {
		n, err := c.stream.Read(b)
		if _, e := far.Write(b[:n]); err == nil {
			err = e
		}
		if err == nil {
			continue
		}
		c.mu.Lock()
		c.rerr = err
		late := c.werr == os.ErrDeadlineExceeded
		c.mu.Unlock()
		if late { // the owner learns first from its Write why the stream was aborted
			<-c.ended
		}
		return
	}
}

// Read reads the bytes read ahead and then returns the error of the stream.
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
	ctx, err := c.writes.take(&c.writing)
	if err != nil {
		return 0, err
	}
	defer c.writing.unlock()
	if err := c.beginWrite(ctx); err != nil {
		return 0, err
	}
	n, err := c.stream.Write(p)
	return n, c.endWrite(err)
}

func (c *streamConn) beginWrite(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.werr != nil {
		return c.werr
	}
	if ctx != c.watched {
		context.AfterFunc(ctx, func() { c.writeLate(ctx) })
		c.watched = ctx
	}
	c.bound = ctx
	return nil
}

// endWrite returns the error of a Write. If the Write was aborted, that is the reason for it.
func (c *streamConn) endWrite(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bound = nil
	if err != nil && c.werr == nil {
		c.werr = err
	}
	if err != nil {
		return c.werr
	}
	return nil
}

// writeLate aborts the stream if ctx, which has ended, bounds the Write that is running.
func (c *streamConn) writeLate(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bound == ctx && c.werr == nil {
		c.werr = os.ErrDeadlineExceeded
		go c.abort()
	}
}

func (c *streamConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *streamConn) SetReadDeadline(t time.Time) error { return c.ahead.SetReadDeadline(t) }

func (c *streamConn) SetWriteDeadline(t time.Time) error {
	c.writes.set(t)
	return nil
}

var errWriteClosed = errors.New("the stream was ended")

// CloseWrite ends the direction that we write, after a Write that is running.
func (c *streamConn) CloseWrite() error {
	if _, err := c.writes.take(&c.writing); err != nil {
		return err
	}
	defer c.writing.unlock()
	c.end(errWriteClosed)
	return nil
}

// end finishes the stream, once. Every later Write returns err. The caller holds writing.
func (c *streamConn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.werr == nil {
		c.werr = err
	}
	select {
	case <-c.ended:
	default:
		c.finish()
		close(c.ended)
	}
}

// Close ends every Read and Write that waits. If the peer has ended its direction and we write nothing, the stream ends
// in order, and otherwise it is aborted. Nothing is written after Close has returned.
func (c *streamConn) Close() error {
	c.mu.Lock()
	again, orderly := c.closed, c.rerr == io.EOF && c.bound == nil
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
	c.writing.lock(context.Background(), nil)
	c.end(net.ErrClosed)
	c.writing.unlock()
	c.SetWriteDeadline(time.Time{})
	c.release()
	return c.ahead.Close()
}

// awaitEnd waits until nothing more will be written to a server's stream. It must not be used after the handler of its
// request has returned, so that Close and CloseNow of the Conn, and Handler, call awaitEnd before they return.
func (c *streamConn) awaitEnd() {
	if _, ok := c.stream.(*serverStream); ok {
		<-c.ended
	}
}

func (c *streamConn) LocalAddr() net.Addr  { return c.addrs()[0] }
func (c *streamConn) RemoteAddr() net.Addr { return c.addrs()[1] }

// A streamAddr is the address of an end about which nothing else is known.
type streamAddr string

func (streamAddr) Network() string  { return "websocket" }
func (a streamAddr) String() string { return string(a) }

// A bodyStream is the body of a 101 response that a RoundTripper of the caller returned.
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
