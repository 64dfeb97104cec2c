package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// WebSockets over HTTP/2 (RFC 8441): an extended CONNECT opens a stream, and frames are its DATA.

const (
	protocolField = ":protocol" // where net/http has the pseudo-header field of an extended CONNECT
	sharedIdle    = 2 * time.Second
	sharedTries   = 4 // connections that one dialing makes, if others are faster to take their room
)

// isExtendedConnect reports whether r came over HTTP/2 as an extended CONNECT.
func isExtendedConnect(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Method == http.MethodConnect && r.Header[protocolField] != nil
}

// checkConnect demands a ":protocol pseudo-header field [...] with the value 'websocket'" (RFC 8441, section 5).
// "Upgrade", "Connection", "Sec-WebSocket-Key" and "Sec-WebSocket-Accept" are not used there.
func checkConnect(r *http.Request) *refusal {
	if p := r.Header[protocolField]; len(p) != 1 || p[0] != "websocket" {
		return refuse(http.StatusNotImplemented, "the only :protocol here is websocket")
	}
	if r.Host == "" {
		return refuse(http.StatusBadRequest, "the request lacks an :authority")
	}
	return nil
}

// accept answers an extended CONNECT. RFC 8441, section 5: the successful response is "a 2xx (Successful) status
// code", not a 101.
func (a *answer) accept(w http.ResponseWriter, r *http.Request, opts *Options) (*Conn, error) {
	w = innermost(w)
	rc := http.NewResponseController(w)
	h := w.Header()
	for name := range h {
		if isReserved(name) {
			delete(h, name)
		}
	}
	for name, values := range opts.Header {
		h[http.CanonicalHeaderKey(name)] = append(h[http.CanonicalHeaderKey(name)], values...)
	}
	setField(h, "Sec-Websocket-Protocol", a.subprotocol)
	setField(h, "Sec-Websocket-Extensions", a.extensions)
	rc.EnableFullDuplex()
	for _, clear := range [...]func(time.Time) error{rc.SetReadDeadline, rc.SetWriteDeadline} {
		if err := clear(time.Time{}); err != nil {
			return nil, cannotTakeOver(w, err).send(w, r)
		}
	}
	a.hidden, a.held = true, true
	c := newConn(newStreamConn(&serverStream{w: w, rc: rc, r: r, body: r.Body}), a.config)
	if !enter(c, opts.Group) {
		defer c.CloseNow()
		return nil, refuse(http.StatusServiceUnavailable, shutDown).send(w, r)
	}
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		c.CloseNow()
		return nil, &HandshakeError{Reason: "the response could not be written", Err: err}
	}
	c.begin()
	return c, nil
}

func setField(h http.Header, name, value string) {
	if value != "" {
		h[name] = []string{value}
	}
}

// innermost returns the ResponseWriter beneath those of middleware, which is written to as a hijacked connection
// would be: a middleware that compresses, for one, is to leave frames alone.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// A serverStream is the stream of a request. It lives as long as its handler.
type serverStream struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	r    *http.Request
	body io.ReadCloser

	mu       sync.Mutex
	finished bool
}

func (s *serverStream) Read(p []byte) (int, error) { return s.body.Read(p) }

// Write must not be called behind the end of the handler: net/http panics, or the ResponseWriter is that of another
// stream.
func (s *serverStream) Write(p []byte) (n int, err error) {
	defer func() {
		if recover() != nil {
			err = net.ErrClosed
		}
	}()
	if err := s.r.Context().Err(); err != nil {
		return 0, err
	}
	if n, err = s.w.Write(p); err == nil {
		err = s.rc.Flush()
	}
	return n, err
}

// finish leaves END_STREAM to the end of the handler, which may come at once.
func (s *serverStream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
}

// abort has net/http reset the stream: it does so for a write deadline in the past. Behind finish the ResponseWriter is
// the handler's, which may be over.
func (s *serverStream) abort() {
	defer func() { _ = recover() }() // where a handler did not stay
	s.body.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.finished && s.r.Context().Err() == nil {
		s.rc.SetWriteDeadline(past)
	}
}

func (s *serverStream) release() { s.body.Close() }

func (s *serverStream) addrs() (a [2]net.Addr) {
	a[0], _ = s.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	a[1] = streamAddr(s.r.RemoteAddr)
	if ap, err := netip.ParseAddrPort(s.r.RemoteAddr); err == nil {
		a[1] = net.TCPAddrFromAddrPort(ap)
	}
	return a
}

// An h2transport sends each request as an extended CONNECT. Beneath is the HTTP/2 of net/http: its Transport refuses
// ":protocol", the RoundTripper that it makes of a connection does not.
type h2transport struct {
	*http.Transport
	ctx context.Context // bounds the dialing
}

func (t *h2transport) RoundTrip(req *http.Request) (*http.Response, error) {
	s := share(t.Transport, req.URL.Scheme, hostPort(req.URL))
	var got atomic.Pointer[net.Conn]
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { got.Store(&i.Conn) },
	}))
	resp, stream, err := s.roundTrip(t, req)
	if err != nil {
		s.leave()
		return nil, err
	}
	stream.leave = sync.OnceFunc(s.leave)
	stream.ends = [2]net.Addr{streamAddr("local"), streamAddr(req.URL.Host)}
	if nc := got.Load(); nc != nil {
		stream.ends = [2]net.Addr{(*nc).LocalAddr(), (*nc).RemoteAddr()}
	}
	stream.body = resp.Body
	resp.Body = stream
	return resp, nil
}

// A shared is what the dialings to one host have in common: the HTTP/2 of a Transport of their own, which keeps the
// connections, as long as one of them has a stream there.
type shared struct {
	key   sharedKey
	users int // guarded by sharing.mu

	turn  chan struct{} // full while someone dials, or looks at the fields below
	http  *http.Transport
	conns http.RoundTripper // nil before the first connection
	made  int               // connections dialed
}

type sharedKey struct {
	base         *http.Transport
	scheme, addr string
}

var sharing = struct {
	mu sync.Mutex
	m  map[sharedKey]*shared
}{m: make(map[sharedKey]*shared)}

// share joins those who dial the same host through the same Transport.
func share(base *http.Transport, scheme, addr string) *shared {
	key := sharedKey{base, scheme, addr}
	sharing.mu.Lock()
	defer sharing.mu.Unlock()
	s := sharing.m[key]
	if s == nil {
		s = &shared{key: key, turn: make(chan struct{}, 1), http: http2Only(base)}
		sharing.m[key] = s
	}
	s.users++
	return s
}

func (s *shared) leave() {
	sharing.mu.Lock()
	defer sharing.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(sharing.m, s.key)
		s.http.CloseIdleConnections() // one that is not idle yet follows after sharedIdle
	}
}

// http2Only returns a Transport with the settings of base, and net/http's HTTP/2 installed in it.
func http2Only(base *http.Transport) *http.Transport {
	t := base.Clone()
	t.TLSNextProto = nil // of base
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetUnencryptedHTTP2(true)
	t.DisableKeepAlives = false
	t.DisableCompression = true
	t.IdleConnTimeout = sharedIdle
	if t.MaxResponseHeaderBytes <= 0 {
		t.MaxResponseHeaderBytes = maxResponseHeader
	}
	t.CloseIdleConnections() // installs it
	return t
}

// roundTrip opens a stream on a connection that is there, or on a new one. Others wait until the first request is out
// on that: net/http takes a connection whose SETTINGS have not come for one with room for a hundred streams.
func (s *shared) roundTrip(t *h2transport, req *http.Request) (*http.Response, *clientStream, error) {
	for seen, dialed := 0, 0; ; {
		conns, settled, err := s.connect(t, req, &seen)
		if err != nil {
			return nil, nil, err
		}
		r := req
		if settled != nil {
			dialed++
			r = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{WroteHeaders: settled}))
		}
		stream, r := newClientStream(r)
		resp, err := conns.RoundTrip(r)
		if settled != nil {
			settled()
		}
		if err == nil {
			return resp, stream, nil
		}
		stream.abort()
		if !isNoConn(err) || dialed == sharedTries {
			return nil, nil, explain(err)
		}
	}
}

// isNoConn reports whether there was no connection with room for another stream. Where net/http finds that out late, it
// tries again by itself, but has closed the body of the request before.
func isNoConn(err error) bool {
	_, ok := err.(interface{ IsHTTP2NoCachedConnError() })
	return ok || errors.Is(err, io.ErrClosedPipe)
}

// explain names the error that a user will meet most. net/http has no other name for it than its text.
func explain(err error) error {
	reason := "the request was not answered"
	if strings.Contains(err.Error(), "extended connect not supported") {
		reason = "the server does not offer WebSockets over HTTP/2 (RFC 8441)"
	}
	return &HandshakeError{Reason: reason, Err: err}
}

// connect waits for whoever dials, and dials if no connection was added to those seen, which were full. Then nobody else
// gets past here before settled is called, which may be done again.
func (s *shared) connect(t *h2transport, req *http.Request, seen *int) (conns http.RoundTripper, settled func(), err error) {
	select {
	case s.turn <- struct{}{}:
	case <-req.Context().Done():
		return nil, nil, context.Cause(req.Context())
	}
	settled = sync.OnceFunc(func() { <-s.turn })
	if s.made != *seen {
		defer settled()
		*seen = s.made
		return s.conns, nil, nil
	}
	if err := s.dial(t, req); err != nil {
		settled()
		return nil, nil, err
	}
	*seen = s.made
	return s.conns, settled, nil
}

// dial adds a connection. Whoever has the turn calls it.
func (s *shared) dial(t *h2transport, req *http.Request) error {
	proxy, err := proxyOf(t.Transport, req)
	if err != nil {
		return err
	}
	nc, err := openConn(t.ctx, t.Transport, req.URL, proxy, "h2")
	if err != nil {
		return err
	}
	conns, err := s.adopt(nc)
	if err != nil {
		nc.Close()
		return err
	}
	s.conns, s.made = conns, s.made+1
	return nil
}

// adopt gives the connection to net/http.
func (s *shared) adopt(nc net.Conn) (http.RoundTripper, error) {
	protocol, tc := "h2", (*tls.Conn)(nil)
	if s.key.scheme == "https" {
		var ok bool
		if tc, ok = nc.(*tls.Conn); !ok {
			return nil, &HandshakeError{Reason: fmt.Sprintf("HTTP/2 needs a *tls.Conn, not the %T of DialTLS", nc)}
		}
		if p := tc.ConnectionState().NegotiatedProtocol; p != "h2" {
			return nil, &HandshakeError{Reason: "the server does not speak HTTP/2"}
		}
	} else {
		protocol, tc = "unencrypted_http2", tls.Client(plain{nc}, nil)
	}
	next, ok := s.http.TLSNextProto[protocol]
	if !ok {
		return nil, &HandshakeError{Reason: "the HTTP/2 of net/http is switched off"}
	}
	conns := next(s.key.addr, tc)
	if e, ok := conns.(interface{ RoundTripErr() error }); ok { // of this connection, not of those before it
		return nil, e.RoundTripErr()
	}
	return conns, nil
}

// A plain is what net/http looks for beneath a *tls.Conn that is none.
type plain struct{ net.Conn }

func (p plain) UnencryptedNetConn() net.Conn { return p.Conn }

// A clientStream is the stream of an extended CONNECT, and the body of its response.
type clientStream struct {
	out    *io.PipeWriter // the body of the request
	cancel context.CancelFunc
	body   io.ReadCloser
	leave  func()
	ends   [2]net.Addr
}

// newClientStream makes an extended CONNECT of a request. RFC 8441, section 5: "The scheme of the Target URI MUST be
// 'https' for 'wss'-schemed WebSockets and 'http' for 'ws'-schemed WebSockets."
func newClientStream(req *http.Request) (*clientStream, *http.Request) {
	ctx, cancel := context.WithCancel(req.Context())
	in, out := io.Pipe()
	r := req.Clone(ctx)
	r.Method, r.Body, r.ContentLength = http.MethodConnect, in, -1
	r.Header[protocolField] = []string{"websocket"}
	for _, name := range [...]string{"Upgrade", "Connection", "Sec-Websocket-Key"} {
		delete(r.Header, name)
	}
	return &clientStream{out: out, cancel: cancel, leave: func() {}}, r
}

func (s *clientStream) Read(p []byte) (int, error)  { return s.body.Read(p) }
func (s *clientStream) Write(p []byte) (int, error) { return s.out.Write(p) }

// finish sends END_STREAM.
func (s *clientStream) finish() { s.out.Close() }

var errAborted = errors.New("the stream was cut")

// abort sends RST_STREAM with CANCEL. The body is closed by another goroutine, for that waits for the connection.
func (s *clientStream) abort() {
	s.cancel()
	s.out.CloseWithError(errAborted)
	if s.body != nil {
		go s.body.Close()
	}
}

func (s *clientStream) release()           { s.leave() }
func (s *clientStream) addrs() [2]net.Addr { return s.ends }

// Close is for a response that is no handshake.
func (s *clientStream) Close() error {
	s.abort()
	s.leave()
	return nil
}
