//go:build !(js && websocket_nohttp)

package websocket

// Serve: connections from a listener, without an http.Server. request.go parses the requests, handshake.go answers
// them.

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// Serve accepts connections from ln, reads the opening handshake of each and calls serve on a new goroutine, as
// [Handler] does but without an http.Server. It is for programs that serve nothing but WebSockets on a port.
//
// Serve closes ln and returns when Accept fails, with its error, or when opts.Group is shut down, with nil. If an
// option is out of range, Serve returns an error at once. It retries after a temporary error of Accept, such as too
// many open files, with a growing delay. Connections stay open when Serve returns: wait for Group.Shutdown, which
// closes them.
//
// A request must arrive within opts.WriteTimeout (30 seconds if that is negative), which includes the TLS handshake. It
// must be HTTP/1.1 and have a header of at most 16 KiB and 100 fields. Serve follows the grammar of RFC 9112 strictly
// and accepts neither folded fields nor a bare CR or LF. It answers malformed requests, and all that Upgrade refuses,
// and then closes the connection. Options.ErrorLog receives the reason.
//
// The request passed to serve has its Method, URL, RequestURI, Proto, Header, Host, RemoteAddr and TLS set. Its context
// is context.Background().
//
// For TLS, pass the listener of [tls.NewListener], with a configuration that does not offer h2. Serve does not limit
// the number of connections; use a listener that does.
func Serve(ln net.Listener, opts *Options, serve func(c *Conn, r *http.Request)) error {
	if runtime.GOOS == "js" {
		return fmt.Errorf("websocket: Serve: %w", errCannotServe)
	}
	defer ln.Close()
	opts = cmp.Or(opts, &noOptions)
	if err := opts.check(); err != nil {
		return fmt.Errorf("websocket: Serve: %w", err)
	}
	s := &server{ln: ln, opts: opts, serve: serve, closing: opts.Group.closing(), accepted: make(chan net.Conn)}
	defer close(s.accepted)
	returned := make(chan struct{})
	defer close(returned)
	go func() {
		select {
		case <-s.closing:
			ln.Close()
		case <-returned:
		}
	}()
	return s.acceptAll()
}

// A server is one call of Serve.
type server struct {
	ln      net.Listener
	opts    *Options
	serve   func(*Conn, *http.Request)
	closing <-chan struct{} // closed when the group is shut down; nil: never

	accepted chan net.Conn // to an idle goroutine; closed when Serve returns
	idle     atomic.Int32  // number of idle goroutines
}

// maxIdleHandshakes is how many idle goroutines wait for the next connection to perform its handshake.
const maxIdleHandshakes = 8

// The delay after a temporary error of Accept doubles from minAcceptDelay to maxAcceptDelay.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// acceptAll accepts connections until the listener fails or the group is shut down.
func (s *server) acceptAll() error {
	delay := minAcceptDelay
	for {
		nc, err := s.ln.Accept()
		switch {
		case s.opts.Group.isClosed():
			if err == nil {
				nc.Close()
			}
			return nil
		case err == nil:
			delay = minAcceptDelay
			s.dispatch(nc)
		case !isTemporary(err):
			return err
		default:
			cmp.Or(s.opts.ErrorLog, log.Default()).Printf("websocket: Accept: %v; trying again in %v", err, delay)
			select {
			case <-time.After(delay):
			case <-s.closing:
			}
			delay = min(2*delay, maxAcceptDelay)
		}
	}
}

// isTemporary reports whether a later Accept may succeed. The method is deprecated, but net/http relies on it too,
// because there is no replacement.
func isTemporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

// dispatch hands nc to an idle goroutine or, if there is none, to a new one. The stack of an idle goroutine has already
// grown; growing it takes a twentieth of the time of a handshake.
func (s *server) dispatch(nc net.Conn) {
	select {
	case s.accepted <- nc:
	default:
		go s.handleAll(nc)
	}
}

// handleAll performs the handshake on nc and on later connections, until enough goroutines are idle or Serve returns.
func (s *server) handleAll(nc net.Conn) {
	for open := true; open; {
		s.handle(nc)
		if s.idle.Add(1) > maxIdleHandshakes {
			s.idle.Add(-1)
			return
		}
		nc, open = <-s.accepted
		s.idle.Add(-1)
	}
}

// handle performs the handshake on nc. serve runs on another goroutine, whose stack has not grown.
func (s *server) handle(nc net.Conn) {
	defer func() {
		if v := recover(); v != nil { // CheckOrigin or the listener's connection panicked
			nc.Close()
			logPanic(s.opts.ErrorLog, nc.RemoteAddr(), v)
		}
	}()
	c, r, err := s.handshake(nc)
	if err != nil {
		nc.Close()
		s.opts.logRefusal(nc.RemoteAddr().String(), err)
		return
	}
	go run(s.serve, c, r)
}

// handshake reads a request and answers it.
func (s *server) handshake(nc net.Conn) (*Conn, *http.Request, error) {
	r, early, err := s.readRequest(nc)
	if err != nil {
		return nil, nil, err
	}
	var a answer
	if f := a.negotiate(r, s.opts); f != nil {
		f.write(nc, r.Method)
		return nil, nil, f.error()
	}
	c, err := a.open(nc, early, nil, s.opts)
	return c, r, err
}

// readRequest reads a request within the time limit, and returns it with the bytes that arrived after it. It answers a
// malformed request.
func (s *server) readRequest(nc net.Conn) (r *http.Request, early []byte, err error) {
	timeout := cmp.Or(s.opts.WriteTimeout, defaultWriteTimeout)
	if timeout < 0 {
		timeout = defaultWriteTimeout
	}
	late := closeAfter(timeout, nc)
	state, err := acceptTLS(nc)
	if err != nil {
		return nil, nil, lost(late, "the TLS handshake failed", err)
	}
	b, n, f, err := readHead(nc)
	defer b.free()
	if err != nil {
		if len(b.b) == 0 && err == io.EOF {
			return nil, nil, err // a load balancer checks whether the port is open: nothing to log
		}
		return nil, nil, lost(late, "the request could not be read", err)
	}
	if late != nil {
		late.Stop()
	}
	if f == nil {
		r, f = parseRequest(string(b.b[:n]))
	}
	if f != nil {
		f.write(nc, "")
		return nil, nil, f.error()
	}
	r.RemoteAddr, r.TLS = nc.RemoteAddr().String(), state
	return r, bytes.Clone(b.b[n:]), nil
}

// closeAfter limits the reads of nc to d. If nc supports it, closeAfter sets a read deadline, which is cheaper, and
// returns nil. Otherwise it returns a timer that closes nc.
func closeAfter(d time.Duration, nc net.Conn) *time.Timer {
	if hasSoftDeadlines(nc) && nc.SetReadDeadline(time.Now().Add(d)) == nil {
		return nil
	}
	return time.AfterFunc(d, func() { nc.Close() })
}

// lost returns the error of a connection that ended or timed out before a request had arrived.
func lost(late *time.Timer, reason string, err error) error {
	if late == nil && isTimeout(err) || late != nil && !late.Stop() {
		return &HandshakeError{Reason: "no request arrived in time"}
	}
	return &HandshakeError{Reason: reason, Err: err}
}

// acceptTLS performs the TLS handshake if nc comes from a TLS listener. It returns nil for any other connection.
func acceptTLS(nc net.Conn) (*tls.ConnectionState, error) {
	tc, ok := nc.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	if err := tc.Handshake(); err != nil {
		return nil, err
	}
	state := tc.ConnectionState()
	return &state, nil
}

// After a refusal the peer has refusalTime to close the connection. Up to maxDrained bytes from it are read and
// dropped.
const (
	refusalTime = time.Second
	maxDrained  = 256 << 10
)

// write answers a request on nc, which the caller closes. The method is "" if it is not known.
func (f *refusal) write(nc net.Conn, method string) {
	cut := time.AfterFunc(refusalTime, func() { nc.Close() })
	defer cut.Stop()
	if _, err := nc.Write(f.response(method)); err != nil {
		return
	}
	// Closing a socket with unread bytes resets the connection, and the response may be lost (RFC 9112, section 9.6).
	if closeWrite(nc) {
		io.CopyN(io.Discard, nc, maxDrained)
	}
}

// response returns the HTTP response to a request with the given method, with the fields that net/http would send.
func (f *refusal) response(method string) []byte {
	h := http.Header{
		"Date":                   {time.Now().UTC().Format(http.TimeFormat)},
		"Content-Type":           {"text/plain; charset=utf-8"},
		"X-Content-Type-Options": {"nosniff"},
	}
	f.setHeader(h)
	h.Add("Connection", "close")
	text := f.text() + "\n"
	resp := &http.Response{
		StatusCode: f.status, ProtoMajor: 1, ProtoMinor: 1, Header: h,
		ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
		Request: &http.Request{Method: method}, // the response to a HEAD has no body
	}
	var b bytes.Buffer
	resp.Write(&b)
	return b.Bytes()
}
