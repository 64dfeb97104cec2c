//go:build !(js && websocket_nohttp)

package websocket

// HTTP/2 streams, and the bodies of 101 responses, as net.Conns. A server's stream is a request body and a
// ResponseWriter, and a client's is a response body and a request body.

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

// An h2Conn is the net.Conn of an HTTP/2 stream. The deadlines of a stream are final, and its Write blocks as long as
// the HTTP/2 connection does. An h2Conn is therefore one end of an in-memory connection, and other goroutines copy
// between the far end and the stream. Reads, writes, deadlines and Close work as on a Pipe, and none of them waits for
// the stream. Multiple goroutines may call its methods simultaneously.
type h2Conn struct {
	*pipeEnd
	far           *pipeEnd
	stream        stream
	local, remote net.Addr
	closing       sync.Once     // the first call of Close does the work
	ending        sync.Once     // of endWrite
	written       chan struct{} // closed when nothing more will be written to the stream
}

// maxPiece is how many bytes are written to a stream at a time, the usual size of an HTTP/2 frame. A peer that accepts
// fewer bytes in WriteTimeout counts as accepting none.
const maxPiece = 16 << 10

// A stream carries the bytes of an h2Conn. Its Read returns io.EOF if the peer has ended its direction normally. If a
// stream has a Write, that sends at once. Other streams read the far end of their h2Conn.
type stream interface {
	io.Reader
	abort()   // ends both directions and every waiting Read and Write; does not block
	finish()  // called once, when nothing more will be written
	release() // called once, when the h2Conn is closed
}

// newH2Conn returns the h2Conn of s. The caller calls start, or only Close.
func newH2Conn(s stream) *h2Conn {
	near, far := newPipe()
	return &h2Conn{pipeEnd: near, far: far, stream: s, written: make(chan struct{})}
}

// start begins to copy from the stream and, if it is an io.Writer, to the stream. The goroutines end with the stream or
// with Close. start is called once, before the other methods except Close.
func (c *h2Conn) start(local, remote net.Addr) *h2Conn {
	c.local, c.remote = local, remote
	if w, ok := c.stream.(io.Writer); ok {
		go c.copyTo(w)
	}
	go c.copyFrom()
	return c
}

// copyFrom copies from the stream. It hides all other methods of both ends, so that io.CopyBuffer uses the small
// buffer. The error of the stream becomes the error of reads of the h2Conn.
func (c *h2Conn) copyFrom() {
	_, err := io.CopyBuffer(struct{ io.Writer }{c.far}, struct{ io.Reader }{c.stream}, make([]byte, 4<<10))
	if err == nil {
		err = io.EOF
	}
	c.in.closeWrite(err)
}

// copyTo copies to the stream, at most maxPiece at a time. While it waits, it holds no buffer.
func (c *h2Conn) copyTo(w io.Writer) {
	for {
		c.out.await()
		b := getBuffer(maxPiece)
		n, err := c.out.lend(b.b[:maxPiece])
		if err == nil {
			_, err = w.Write(b.b[:n])
		}
		b.free()
		if err != nil {
			c.endWrite(err)
			return
		}
	}
}

// endWrite finishes the stream, because nothing more will be written to it. A later Write of the h2Conn returns err.
func (c *h2Conn) endWrite(err error) {
	c.ending.Do(func() {
		c.out.closeRead(err)
		c.stream.finish()
		close(c.written)
	})
}

// Close ends every waiting Read and Write. If the peer has ended its direction, the bytes written before Close are
// still sent. Otherwise Close aborts the stream. RFC 8441, section 5: "RST exceptions are represented with the
// RST_STREAM frame".
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

// awaitHandler waits until a server's stream is no longer written to. The handler may return only then, because
// net/http reuses the ResponseWriter. A peer that does not read its HTTP/2 connection delays this, so limit ends the
// wait.
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

// A serverStream is the stream of a server: the body of the request and the ResponseWriter. It ends when the handler of
// its request returns. One goroutine reads, one writes, and any may call abort. While its DATA frames wait for the
// peer, net/http sends no WINDOW_UPDATE, so a peer that does not read soon cannot write either.
type serverStream struct {
	w  http.ResponseWriter // from net/http, not from middleware
	rc *http.ResponseController
	r  *http.Request // its body has the bytes from the peer

	mu       sync.Mutex // guards finished and, in abort, rc
	finished bool       // w and rc belong to the handler again
}

func (s *serverStream) Read(p []byte) (int, error) { return s.r.Body.Read(p) }

var errStreamEnded = errors.New("the stream has ended")

// Write sends p at once, in DATA frames. net/http panics if the handler has returned while the connection was open.
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

// finish leaves the stream to the handler. When the handler returns, net/http sends END_STREAM.
func (s *serverStream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
}

// abort makes net/http send RST_STREAM, by setting a write deadline in the past.
func (s *serverStream) abort() {
	defer func() { _ = recover() }() // see Write
	s.r.Body.Close()                 // ends a waiting Read
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.finished && s.r.Context().Err() == nil {
		s.rc.SetWriteDeadline(past)
	}
}

func (s *serverStream) release() {} // the handler of the request ends the stream

// localAddr returns the address of the HTTP/2 connection at this end, or nil if the server did not set it.
func (s *serverStream) localAddr() net.Addr {
	addr, _ := s.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return addr
}

// remoteAddr returns the address of the request, which middleware may have replaced with any text.
func (s *serverStream) remoteAddr() net.Addr {
	if ap, err := netip.ParseAddrPort(s.r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return streamAddr(s.r.RemoteAddr)
}

// A clientStream is the stream of a client, and the body of the response that opened it. The end of the request's
// context aborts it. Its fields do not change after the response has arrived.
type clientStream struct {
	cancel context.CancelFunc // of the request
	nc     *h2Conn            // the far end is the body of the request
	conn   *sharedConn
	body   io.ReadCloser // of the response; nil before it arrives
	leave  sync.Once     // of release
}

// newClientStream returns a stream and the request that opens it. RFC 8441, section 5: "The scheme of the Target URI
// MUST be 'https' for 'wss'-schemed WebSockets and 'http' for 'ws'-schemed WebSockets."
func newClientStream(req *http.Request) (*clientStream, *http.Request) {
	ctx, cancel := context.WithCancel(req.Context())
	s := &clientStream{cancel: cancel}
	r := req.Clone(ctx)
	r.Method, r.Body, r.ContentLength = http.MethodConnect, s.newBody(), -1
	r.Header[protocolField] = []string{"websocket"}
	for _, name := range [...]string{"Upgrade", "Connection", "Sec-Websocket-Key"} {
		delete(r.Header, name)
	}
	// net/http calls GetBody to repeat a request that was not processed. A new body loses nothing, because nothing is
	// written to the connection before the response.
	again := false
	r.GetBody = func() (io.ReadCloser, error) {
		if again {
			return nil, errRefused
		}
		again = true
		return s.newBody(), nil
	}
	return s, r
}

// newBody returns the body of a request, which carries the bytes that are written to a new h2Conn.
func (s *clientStream) newBody() io.ReadCloser {
	s.nc = newH2Conn(s)
	return requestBody{s.nc}
}

// A requestBody is the far end of an h2Conn as net/http reads it. It does so on a goroutine of its own, and sends
// END_STREAM at io.EOF.
type requestBody struct{ c *h2Conn }

// Read waits for bytes that the h2Conn has written. They count as unread until the next Read.
func (b requestBody) Read(p []byte) (int, error) {
	b.c.out.await()
	n, err := b.c.out.lend(p[:min(len(p), maxPiece)])
	if err != nil {
		b.c.endWrite(err)
	}
	return n, err
}

// Close is called when net/http stops sending the request. A Write of the h2Conn then returns an error.
func (b requestBody) Close() error {
	b.c.endWrite(io.ErrClosedPipe)
	return nil
}

func (s *clientStream) Read(p []byte) (int, error) { return s.body.Read(p) }

// start returns the net.Conn of the stream. After that, the stream is no longer used as a body.
func (s *clientStream) start() net.Conn {
	return s.nc.start(s.conn.nc.LocalAddr(), s.conn.nc.RemoteAddr())
}

var errAborted = errors.New("the stream was aborted")

// abort sends RST_STREAM with CANCEL. Closing the body may wait for the HTTP/2 connection, so another goroutine does
// it.
func (s *clientStream) abort() {
	s.cancel()
	s.nc.out.closeRead(errAborted)
	if s.body != nil {
		go s.body.Close()
	}
}

func (s *clientStream) finish() {} // net/http has sent END_STREAM or RST_STREAM

// release frees the stream's place in the connection.
func (s *clientStream) release() { s.leave.Do(func() { s.conn.endStream(false, false) }) }

// Close ends the stream of a response that is not a handshake.
func (s *clientStream) Close() error {
	s.abort()
	s.release()
	return nil
}

// A bodyStream is the body of a 101 response that the caller's RoundTripper returned. It cannot be half-closed, so the
// end of writing closes it.
type bodyStream struct{ io.ReadWriteCloser }

func (s bodyStream) abort()   { s.Close() }
func (s bodyStream) finish()  { s.Close() }
func (s bodyStream) release() {}
