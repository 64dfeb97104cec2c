//go:build !(js && websocket_nohttp)

package websocket

// WebSockets over HTTP/2 (RFC 8441): the handshakes of both roles, and the connections that calls of Dial share. An
// extended CONNECT opens a stream, whose DATA frames carry the bytes; h2conn.go makes a net.Conn of it.

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// protocolField is the name that net/http gives the pseudo-header field of an extended CONNECT.
const protocolField = ":protocol"

// isExtendedConnect reports whether r is an extended CONNECT of HTTP/2.
func isExtendedConnect(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Method == http.MethodConnect && r.Header[protocolField] != nil
}

// checkConnect checks the fields that replace Upgrade, Connection, Sec-WebSocket-Key and Host in HTTP/2. RFC 8441,
// section 5: "The :protocol pseudo-header field MUST be included in the CONNECT request, and it MUST have a value of
// 'websocket' to initiate a WebSocket connection on an HTTP/2 stream."
func checkConnect(r *http.Request) *refusal {
	if p := r.Header[protocolField]; len(p) != 1 || p[0] != "websocket" {
		return refuse(http.StatusNotImplemented, "the only :protocol here is websocket")
	}
	if r.Host == "" {
		return refuse(http.StatusBadRequest, "the request lacks an :authority")
	}
	return nil
}

// accept answers an extended CONNECT and opens the connection over its stream. The status is 200, as for every CONNECT,
// and not 101 (RFC 8441, section 5.1). The connection joins its Group before the response, as over HTTP/1.1, and sends
// nothing before it.
func (a *answer) accept(w http.ResponseWriter, r *http.Request, opts *Options) (*Conn, error) {
	w = innermost(w)
	rc := http.NewResponseController(w)
	a.setHeader(w.Header(), opts.Header)
	// The deadlines that the http.Server has set for the request would end the stream.
	for _, clear := range [...]func(time.Time) error{rc.SetReadDeadline, rc.SetWriteDeadline} {
		if err := clear(time.Time{}); err != nil {
			return nil, cannotTakeOver(w, err).send(w, r)
		}
	}
	a.hidden, a.held = true, true
	s := &serverStream{w: w, rc: rc, r: r}
	c := newConn(newH2Conn(s).start(s.localAddr(), s.remoteAddr()), a.config)
	if !enter(c, opts.Group) {
		s.finish() // gives w back, for the refusal
		c.CloseNow()
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

// setHeader completes h, which has the fields that middleware has set, with those of the options and of the handshake.
// It removes the fields that only the handshake may set and the fields that HTTP/2 does not have. RFC 9113, section
// 8.2.2: "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields."
func (a *answer) setHeader(h, added http.Header) {
	maps.DeleteFunc(h, func(name string, _ []string) bool { return isReserved(name) })
	for name, values := range added {
		name = http.CanonicalHeaderKey(name)
		h[name] = append(h[name], values...)
	}
	if a.subprotocol != "" {
		h["Sec-Websocket-Protocol"] = []string{a.subprotocol}
	}
	if a.extensions != "" {
		h["Sec-Websocket-Extensions"] = []string{a.extensions}
	}
}

// innermost returns the ResponseWriter of net/http. Middleware that compresses responses, for example, must not see the
// frames. It does not see the frames of a hijacked connection either.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// awaitStream waits until the stream of c is no longer written to. When the handler returns, net/http takes the
// ResponseWriter back.
func awaitStream(c *Conn) {
	if h, ok := c.nc.(*h2Conn); ok {
		h.awaitHandler(nil)
	}
}

// An h2transport is the http.RoundTripper of one Dial over HTTP/2. It sends each request as an extended CONNECT, over a
// connection that other calls of Dial to the same host share. net/http's own pool cannot be used, because an
// http.Transport refuses the field :protocol.
//
// It has the fields of a tunnel: the settings of the caller's Transport, and the context that bounds the opening of a
// connection and of a stream.
type h2transport tunnel

// RoundTrip sends req over a connection that has room for another stream or, if there is none, over a new one. It tries
// again on another connection if the server has not processed the request, or if a connection that worked before turns
// out to be dead. The body of the response is a *clientStream.
func (t *h2transport) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	proxy, err := proxyOf(t.Transport, req)
	if err != nil {
		return nil, err
	}
	// Two proxies may reach different hosts by the same name, so they share no connection.
	key := h2Key{base: t.Transport, scheme: req.URL.Scheme, addr: hostPort(req.URL)}
	if proxy != nil {
		key.proxy = proxy.String()
	}
	for dials := 0; ; {
		c, err := takeConn(t.ctx, key)
		if err != nil {
			return nil, err
		}
		isNew := c.rt == nil
		if isNew {
			dials++
			err = t.open(c, req.URL, proxy)
		}
		if err == nil {
			resp, err = c.roundTrip(req)
		}
		if err == nil {
			return resp, nil
		}
		refused, lost := isRefused(err), isLost(t.ctx, err)
		c.endStream(refused, lost)
		// A connection that other requests have used may have been dead before this one.
		if retry := refused || lost && !isNew; !retry || dials == maxDials || t.ctx.Err() != nil {
			return nil, explain(err)
		}
	}
}

const (
	maxDials     = 2                      // connections that one request opens, if the first refuses its stream
	dialPatience = 500 * time.Millisecond // how long other requests wait for a connection that is being opened
	closeDelay   = 2 * time.Second        // how long a connection may take to close after its last stream

	// A client that receives nothing for pingAfter sends a ping, and closes the connection if pingTimeout passes before
	// the answer.
	pingAfter   = 10 * time.Second
	pingTimeout = 10 * time.Second
)

// An h2Key holds the settings that must be equal for requests to share a connection.
type h2Key struct {
	base                *http.Transport // compared by address, because some settings are functions
	scheme, addr, proxy string
}

// h2Pools holds the connections for each key, oldest first, including connections that are being opened.
var h2Pools = struct {
	mu sync.Mutex // guards m, and the fields of a sharedConn that change
	m  map[h2Key][]*sharedConn
}{m: make(map[h2Key][]*sharedConn)}

// A sharedConn is an HTTP/2 connection whose streams are WebSocket connections. It enters h2Pools when a request begins
// to open it, and leaves when it is lost or its last stream has ended. While it is being opened, other requests for the
// same key wait, because it will have room for their streams too. After dialPatience, one of them opens another
// connection.
type sharedConn struct {
	key     h2Key
	opening context.Context    // ends when the opening has ended, or after dialPatience
	opened  context.CancelFunc // of opening

	// The request that opens the connection sets these fields.
	nc        net.Conn
	transport *http.Transport   // its HTTP/2 implementation has only this connection
	rt        http.RoundTripper // fails at once if there is no room for another stream

	// h2Pools.mu guards these fields.
	streams int  // open or being opened
	settled bool // other requests may use the connection
	full    bool // a stream was refused after the last one ended
}

// takeConn returns a connection on which the caller opens one stream. If the connection is new, its rt is nil and the
// caller opens the connection first.
func takeConn(ctx context.Context, key h2Key) (*sharedConn, error) {
	for {
		c, opening := tryTakeConn(key)
		if c != nil {
			return c, nil
		}
		select {
		case <-opening:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryTakeConn is takeConn without waiting. If another request is opening a connection, it returns a channel that is
// closed when waiting for that connection is over.
func tryTakeConn(key h2Key) (*sharedConn, <-chan struct{}) {
	h2Pools.mu.Lock()
	defer h2Pools.mu.Unlock()
	conns := h2Pools.m[key]
	if i := slices.IndexFunc(conns, func(c *sharedConn) bool { return c.settled && !c.full }); i >= 0 {
		conns[i].streams++
		return conns[i], nil
	}
	if i := slices.IndexFunc(conns, func(c *sharedConn) bool { return c.opening.Err() == nil }); i >= 0 {
		return nil, conns[i].opening.Done()
	}
	c := &sharedConn{key: key, streams: 1}
	c.opening, c.opened = context.WithTimeout(context.Background(), dialPatience)
	h2Pools.m[key] = append(conns, c)
	return c, nil
}

// settle lets other requests use c, once the server's SETTINGS have arrived. Before that, net/http would open a hundred
// streams, even if the server accepts fewer.
func (c *sharedConn) settle() {
	h2Pools.mu.Lock()
	defer h2Pools.mu.Unlock()
	c.settled = true
	c.opened()
}

// endStream ends a stream, or the attempt to open one. If the connection is lost, no request uses it again. If the
// stream was refused, no request uses it before another stream has ended. After its last stream, net/http closes the
// connection, unless it is still sending the end of a stream, for which it has closeDelay.
func (c *sharedConn) endStream(refused, lost bool) {
	h2Pools.mu.Lock()
	defer h2Pools.mu.Unlock()
	c.full = refused
	c.streams--
	if c.streams == 0 || lost {
		c.leave()
	}
	if c.streams == 0 && c.rt != nil {
		go c.transport.CloseIdleConnections()
		time.AfterFunc(closeDelay, func() { c.nc.Close() })
	}
}

// leave removes c from h2Pools, so that no other request uses it, and wakes the requests that wait for it. The caller
// holds h2Pools.mu.
func (c *sharedConn) leave() {
	c.opened()
	rest := slices.DeleteFunc(h2Pools.m[c.key], func(o *sharedConn) bool { return o == c })
	h2Pools.m[c.key] = rest
	if len(rest) == 0 {
		delete(h2Pools.m, c.key)
	}
}

// open opens the connection c, which is new, and starts HTTP/2 on it. It returns when t.ctx ends. If it fails, the
// caller ends c's stream as after any other failure.
func (t *h2transport) open(c *sharedConn, u, proxy *url.URL) error {
	transport := http2Only(t.Transport)
	nc, err := (&tunnel{transport, t.ctx}).open(u, proxy, "h2", "http/1.1") // a server without HTTP/2 chooses the second
	if err != nil {
		return err
	}
	stop := context.AfterFunc(t.ctx, func() { abort(nc) }) // net/http writes SETTINGS at once and without a deadline
	rt, err := startHTTP2(transport, nc, c.key)
	if !stop() {
		err = context.Cause(t.ctx)
	}
	if err != nil {
		abort(nc)
		return err
	}
	c.nc, c.transport, c.rt = nc, transport, rt
	return nil
}

// http2Only returns a Transport with the settings of base and its own HTTP/2 implementation, which detects dead
// connections with pings. It never closes a connection because it is idle, because streams may be added until endStream
// closes it, and it has the limits that HTTP/1.1 has.
func http2Only(base *http.Transport) *http.Transport {
	t := base.Clone()
	t.TLSNextProto = nil // it would use the HTTP/2 of base
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetUnencryptedHTTP2(true)
	t.DisableKeepAlives = false
	t.DisableCompression = true
	t.IdleConnTimeout = 0
	t.MaxResponseHeaderBytes = headerLimit(base)
	if t.HTTP2 == nil {
		t.HTTP2 = new(http.HTTP2Config)
	}
	t.HTTP2.SendPingTimeout = cmp.Or(t.HTTP2.SendPingTimeout, pingAfter)
	t.HTTP2.PingTimeout = cmp.Or(t.HTTP2.PingTimeout, pingTimeout)
	t.CloseIdleConnections() // installs HTTP/2
	return t
}

// startHTTP2 hands nc to the HTTP/2 implementation of transport, and returns the RoundTripper for its streams. The
// functions in TLSNextProto are the only way to do that: http.Transport hands them the connections that it has dialed
// itself. A function that fails returns a RoundTripper with the error.
func startHTTP2(transport *http.Transport, nc net.Conn, key h2Key) (http.RoundTripper, error) {
	protocol := "h2"
	tc, ok := nc.(*tls.Conn)
	switch {
	case key.scheme == "http":
		protocol, tc = "unencrypted_http2", tls.Client(plainConn{nc}, nil)
	case !ok:
		return nil, &HandshakeError{Reason: fmt.Sprintf("HTTP/2 needs a *tls.Conn, but DialTLS returned a %T", nc)}
	case tc.ConnectionState().NegotiatedProtocol != "h2":
		return nil, &HandshakeError{Reason: "the server does not speak HTTP/2"}
	}
	next, ok := transport.TLSNextProto[protocol]
	if !ok {
		return nil, &HandshakeError{Reason: "the HTTP/2 of net/http is disabled"}
	}
	rt := next(key.addr, tc)
	if e, ok := rt.(interface{ RoundTripErr() error }); ok {
		return rt, e.RoundTripErr()
	}
	return rt, nil
}

// A plainConn is a connection without TLS. net/http expects it inside a *tls.Conn, on which it calls only NetConn, and
// gets the connection from UnencryptedNetConn.
type plainConn struct{ net.Conn }

func (c plainConn) UnencryptedNetConn() net.Conn { return c.Conn }

// roundTrip opens a stream. It belongs to the body of the response, whose Close or whose net.Conn ends it. The server's
// SETTINGS have arrived when net/http has written the request's header: net/http waits for them before an extended
// CONNECT, which they must allow (RFC 8441, section 3).
func (c *sharedConn) roundTrip(req *http.Request) (*http.Response, error) {
	s, r := newClientStream(req)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{WroteHeaders: c.settle}))
	resp, err := c.rt.RoundTrip(r)
	if err != nil {
		s.abort()
		return nil, err
	}
	s.conn, s.body = c, resp.Body
	context.AfterFunc(req.Context(), s.abort)
	resp.Body = s
	return resp, nil
}

// errRefused is the error of a request that a server refuses on two streams of one connection.
var errRefused = errors.New("it was refused twice, without being processed")

// isRefused reports whether the server has not processed the request. RFC 9113, section 8.7: "Any request that was sent
// on the reset stream can be safely retried." net/http repeats such a request once; its other error means that the
// connection takes no more streams, because it is full or the server has sent GOAWAY.
func isRefused(err error) bool {
	_, full := err.(interface{ IsHTTP2NoCachedConnError() })
	return full || err == errRefused
}

// isLost reports whether a request failed because of its connection and not only because of its stream. A connection
// that is silent until the deadline counts as lost, although it may only be slow. Its other streams stay open.
func isLost(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return ctx.Err() == context.DeadlineExceeded
	}
	return !isRefused(err) && !errors.As(err, new(streamError))
}

// A streamError is net/http's error for RST_STREAM. Its type is not exported, but it has an As method that converts it
// to any type with these fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return fmt.Sprintf("stream error %d", e.Code) }

// explain returns a *HandshakeError for the errors that say something about the server, and otherwise err. net/http has
// no error type for the first reason, only a text.
func explain(err error) error {
	switch {
	case strings.Contains(err.Error(), "extended connect not supported"):
		return &HandshakeError{Reason: "the server does not offer WebSockets over HTTP/2 (RFC 8441)", Err: err}
	case isRefused(err):
		return &HandshakeError{Reason: "the server did not accept the stream", Err: err}
	}
	return err
}
