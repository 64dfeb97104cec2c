//go:build !(js && websocket_nohttp)

package websocket

// HTTP/2 streams, and the bodies of 101 responses, as net.Conns.

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// An h2Conn is the net.Conn of an HTTP/2 stream. A stream has no deadlines, or only final ones, and its Write may block
// for as long as the HTTP/2 connection does. So an h2Conn is one end of an in-memory connection, and what passes its
// other end is copied from and to the stream by other goroutines. Reading, writing, deadlines and Close then work as
// for Pipe, and none of them waits for the stream.
//
// Multiple goroutines may call its methods simultaneously.
type h2Conn struct {
	*pipeEnd
	far           *pipeEnd
	stream        stream
	local, remote net.Addr
	closing       sync.Once
	ending        sync.Once
	written       chan struct{} // closed when nothing more will be written to the stream
}

// maxPiece is how many bytes are written to a stream at a time. It is the usual size of a frame, and how exactly the
// writer of the connection knows whether the peer takes anything.
const maxPiece = 16 << 10

// A stream carries the bytes of an h2Conn. Its Read returns io.EOF if the peer has ended its direction in order.
type stream interface {
	io.Reader
	abort()   // ends both directions, and a Read and a Write that wait; it does not block
	finish()  // runs once, when nothing more will be written
	release() // runs once, when the h2Conn is closed
}

// A writingStream is a stream with a Write, which sends at once. Another one reads the far end of its h2Conn by itself.
type writingStream interface {
	stream
	io.Writer
}

func newH2Conn(s stream) *h2Conn {
	near, far := newPipe()
	return &h2Conn{pipeEnd: near, far: far, stream: s, written: make(chan struct{})}
}

// start begins to copy from the stream and, if it is a writingStream, to the stream.
func (c *h2Conn) start(local, remote net.Addr) *h2Conn {
	c.local, c.remote = local, remote
	if s, ok := c.stream.(writingStream); ok {
		go c.copyTo(s)
	}
	go c.copyFrom()
	return c
}

// copyFrom copies to the far end what arrives.
func (c *h2Conn) copyFrom() {
	_, err := io.CopyBuffer(struct{ io.Writer }{c.far}, struct{ io.Reader }{c.stream}, make([]byte, 4<<10))
	if err == nil {
		err = io.EOF
	}
	c.in.closeWrite(err)
}

// copyTo copies from the far end what was written. While it waits it holds no buffer.
func (c *h2Conn) copyTo(s writingStream) {
	for {
		b := getBuffer(maxPiece)
		n, err := c.far.in.lend(b.b[:maxPiece])
		if n > 0 {
			_, err = s.Write(b.b[:n])
		}
		b.free()
		if err != nil {
			c.endWrite(err)
			return
		}
		if n == 0 {
			<-c.far.in.readable
		}
	}
}

// endWrite ends the stream when nothing more will be written to it, because of err.
func (c *h2Conn) endWrite(err error) {
	c.ending.Do(func() {
		c.out.closeRead(err)
		c.stream.finish()
		close(c.written)
	})
}

// Close ends every Read and Write that waits. If the peer has ended its direction, what was written before is still
// sent. Otherwise Close aborts the stream.
func (c *h2Conn) Close() error {
	err := net.ErrClosed
	c.closing.Do(func() {
		if !c.in.isAtEOF() {
			c.stream.abort()
		}
		err = c.pipeEnd.Close()
		c.stream.release()
	})
	return err
}

// awaitHandler waits until a server's stream is no longer written to, or limit fires. The ResponseWriter must not be
// used after the handler has returned, which it may do after Close and CloseNow. A peer that does not read its HTTP/2
// connection can delay the end of a Write without a limit.
func (c *h2Conn) awaitHandler(limit <-chan time.Time) {
	if _, ok := c.stream.(*serverStream); !ok {
		return
	}
	select {
	case <-c.written:
	case <-limit:
	}
}

func (c *h2Conn) LocalAddr() net.Addr  { return c.local }
func (c *h2Conn) RemoteAddr() net.Addr { return c.remote }

// A serverStream is the stream of a request. It ends with the handler of the request.
type serverStream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
	r  *http.Request

	mu       sync.Mutex // held while abort looks at finished and uses rc
	finished bool       // w and rc are the handler's again
}

func (s *serverStream) Read(p []byte) (int, error) { return s.r.Body.Read(p) }

var errStreamEnded = errors.New("the stream has ended")

// Write writes p and flushes it. If the handler has returned although the connection was open, net/http panics.
func (s *serverStream) Write(p []byte) (n int, err error) {
	defer func() {
		if recover() != nil {
			err = errStreamEnded
		}
	}()
	if s.r.Context().Err() != nil {
		return 0, errStreamEnded
	}
	if n, err = s.w.Write(p); err == nil {
		err = s.rc.Flush()
	}
	return n, err
}

// finish leaves END_STREAM to the return of the handler.
func (s *serverStream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
}

// abort has net/http send RST_STREAM, which it does for a write deadline in the past.
func (s *serverStream) abort() {
	defer func() { _ = recover() }() // see Write
	s.r.Body.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.finished && s.r.Context().Err() == nil {
		s.rc.SetWriteDeadline(past)
	}
}

func (s *serverStream) release() {}

func (s *serverStream) localAddr() net.Addr {
	addr, _ := s.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return addr
}

func (s *serverStream) remoteAddr() net.Addr {
	if ap, err := netip.ParseAddrPort(s.r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return streamAddr(s.r.RemoteAddr)
}

// A clientStream is the stream of an extended CONNECT, and the body of its response. Until take is called, the end of
// the request's context aborts it.
type clientStream struct {
	cancel context.CancelFunc
	nc     *h2Conn // whose far end is the body of the request
	conn   *sharedConn
	body   io.ReadCloser
	stop   func() bool // ends the influence of the request's context
	leave  sync.Once
}

// newClientStream returns a stream and the request that opens it. RFC 8441, section 5: "The scheme of the Target URI
// MUST be 'https' for 'wss'-schemed WebSockets and 'http' for 'ws'-schemed WebSockets."
func newClientStream(req *http.Request) (*clientStream, *http.Request) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(req.Context()))
	s := &clientStream{cancel: cancel}
	r := req.Clone(ctx)
	r.Method, r.Body, r.ContentLength = http.MethodConnect, s.newBody(), -1
	r.Header[protocolField] = []string{"websocket"}
	for _, name := range [...]string{"Upgrade", "Connection", "Sec-Websocket-Key"} {
		delete(r.Header, name)
	}
	again := false
	r.GetBody = func() (io.ReadCloser, error) { // called to repeat a request that was not processed
		if again {
			return nil, errRefused
		}
		again = true
		return s.newBody(), nil
	}
	return s, r
}

func (s *clientStream) newBody() io.ReadCloser {
	s.nc = newH2Conn(s)
	return requestBody{s.nc}
}

// A requestBody is the far end of an h2Conn, from which net/http reads what was written. At io.EOF it sends END_STREAM.
type requestBody struct{ c *h2Conn }

func (b requestBody) Read(p []byte) (int, error) {
	for {
		n, err := b.c.far.in.lend(p[:min(len(p), maxPiece)])
		if err != nil {
			b.c.endWrite(err)
		}
		if n > 0 || err != nil {
			return n, err
		}
		<-b.c.far.in.readable
	}
}

func (b requestBody) Close() error {
	b.c.endWrite(io.ErrClosedPipe)
	return nil
}

func (s *clientStream) Read(p []byte) (int, error) { return s.body.Read(p) }

// take returns the stream as a net.Conn. It returns false if the context of the request has ended.
func (s *clientStream) take() (net.Conn, bool) {
	if !s.stop() {
		s.Close()
		return nil, false
	}
	return s.nc.start(s.conn.nc.LocalAddr(), s.conn.nc.RemoteAddr()), true
}

var errAborted = errors.New("the stream was aborted")

// abort sends RST_STREAM with CANCEL. Closing the body waits for the HTTP/2 connection and so runs on another
// goroutine.
func (s *clientStream) abort() {
	s.cancel()
	s.nc.out.closeRead(errAborted)
	if s.body != nil {
		go s.body.Close()
	}
}

func (s *clientStream) finish() {} // net/http does it

func (s *clientStream) release() { s.leave.Do(func() { s.conn.endStream(false, false) }) }

// Close ends the stream of a response that is not a handshake.
func (s *clientStream) Close() error {
	s.stop()
	s.abort()
	s.release()
	return nil
}

// A streamAddr is the address of an end about which nothing else is known.
type streamAddr string

func (streamAddr) Network() string  { return "websocket" }
func (a streamAddr) String() string { return string(a) }

// A bodyStream is the body of a 101 response that a RoundTripper of the caller returned. It cannot be half-closed.
type bodyStream struct{ io.ReadWriteCloser }

func (s bodyStream) abort()   { s.Close() }
func (s bodyStream) finish()  { s.Close() }
func (s bodyStream) release() {}
