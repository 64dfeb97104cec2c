//go:build !(js && websocket_nohttp)

package websocket

// WebSockets over HTTP/2 (RFC 8441): the handshakes of both roles, and the connections that Dials share. An extended
// CONNECT opens a stream, whose DATA frames carry the bytes; h2conn.go makes a net.Conn of it.

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// protocolField is where net/http has the pseudo-header field of an extended CONNECT.
const protocolField = ":protocol"

// isExtendedConnect reports whether r is an extended CONNECT of HTTP/2.
func isExtendedConnect(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Method == http.MethodConnect && r.Header[protocolField] != nil
}

// checkConnect checks what HTTP/2 has in place of Upgrade, Connection, Sec-WebSocket-Key and Host. RFC 8441, section 5:
// "The :protocol pseudo-header field MUST be included in the CONNECT request, and it MUST have a value of 'websocket'
// to initiate a WebSocket connection on an HTTP/2 stream."
func checkConnect(r *http.Request) *refusal {
	if p := r.Header[protocolField]; len(p) != 1 || p[0] != "websocket" {
		return refuse(http.StatusNotImplemented, "the only :protocol here is websocket")
	}
	if r.Host == "" {
		return refuse(http.StatusBadRequest, "the request lacks an :authority")
	}
	return nil
}

// accept answers an extended CONNECT. The status is 200, as for every CONNECT, and not 101 (RFC 8441, section 5.1).
func (a *answer) accept(w http.ResponseWriter, r *http.Request, opts *Options) (*Conn, error) {
	w = innermost(w)
	rc := http.NewResponseController(w)
	a.setHeader(w.Header(), opts.Header)
	rc.EnableFullDuplex()
	for _, clear := range [...]func(time.Time) error{rc.SetReadDeadline, rc.SetWriteDeadline} {
		if err := clear(time.Time{}); err != nil {
			return nil, cannotTakeOver(w, err).send(w, r)
		}
	}
	a.hidden, a.held = true, true
	s := &serverStream{w: w, rc: rc, r: r}
	c := newConn(newH2Conn(s).start(s.localAddr(), s.remoteAddr()), a.config)
	if !enter(c, opts.Group) {
		s.finish() // w is for the refusal
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

// setHeader adds to h, the fields that middleware has set, those of the options and of the handshake.
func (a *answer) setHeader(h, added http.Header) {
	for name := range h {
		if isReserved(name) {
			delete(h, name)
		}
	}
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

// innermost returns the ResponseWriter of net/http. Middleware that changes what is written, for example by compressing
// it, must not see frames, as it does not see those of a hijacked connection.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// awaitStream keeps a handler until its stream is no longer written to.
func awaitStream(c *Conn) {
	if h, ok := c.nc.(*h2Conn); ok {
		h.awaitHandler(nil)
	}
}

// An h2transport is the http.RoundTripper of a Dial over HTTP/2. It sends each request as an extended CONNECT, over a
// connection that it shares with other Dials to the same host.
type h2transport struct {
	*http.Transport                 // its settings
	ctx             context.Context // bounds the opening of a stream, and has the deadline for it
}

// RoundTrip sends req over a connection that accepts another stream or, if there is none, over a new one. The body of
// the response is a *clientStream.
func (t *h2transport) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := proxyOf(t.Transport, req)
	if err != nil {
		return nil, err
	}
	key := h2Key{base: t.Transport, scheme: req.URL.Scheme, addr: hostPort(req.URL)}
	if proxy != nil {
		key.proxy = proxy.String()
	}
	for dials := 0; ; {
		c, d, err := takeConn(t.ctx, key)
		if err != nil {
			return nil, err
		}
		if d != nil {
			dials++
			if c, err = t.open(req.URL, proxy, key); err != nil {
				d.end(key, nil)
				return nil, err
			}
		}
		resp, err := c.roundTrip(req, d)
		if err == nil {
			return resp, nil
		}
		refused, lost := isRefused(err), isLost(t.ctx, err)
		c.endStream(refused, lost)
		// A request over a connection that others had used before may have failed because that was dead already.
		if retry := refused || lost && d == nil; !retry || dials == maxDials || t.ctx.Err() != nil {
			return nil, explain(err)
		}
	}
}

const (
	maxDials     = 2                      // connections that one request opens, if the first does not accept its stream
	dialPatience = 500 * time.Millisecond // how long other requests wait for a connection that is being opened
	closeDelay   = 2 * time.Second        // how long a connection without streams may take to close

	// A connection that receives nothing for pingAfter is sent a ping. It is closed if there is no answer in
	// pingTimeout.
	pingAfter   = 10 * time.Second
	pingTimeout = 10 * time.Second
)

// An h2Key is all that connections must have in common for a request to use either of them.
type h2Key struct {
	base                *http.Transport
	scheme, addr, proxy string
}

// An h2Pool is the connections for one key.
type h2Pool struct {
	conns []*sharedConn // those that new requests may use, oldest first
	dial  *h2Dial       // the newest; nil if no connection is being opened
}

// h2Pools holds the h2Pools that are not empty.
var h2Pools = struct {
	mu sync.Mutex // guards m, the h2Pools, and the fields of a sharedConn that change
	m  map[h2Key]*h2Pool
}{m: make(map[h2Key]*h2Pool)}

// withPool calls f with the pool for key, while it holds h2Pools.mu.
func withPool(key h2Key, f func(p *h2Pool)) {
	h2Pools.mu.Lock()
	defer h2Pools.mu.Unlock()
	p := h2Pools.m[key]
	if p == nil {
		p = new(h2Pool)
		h2Pools.m[key] = p
	}
	f(p)
	if p.dial == nil && len(p.conns) == 0 {
		delete(h2Pools.m, key)
	}
}

// An h2Dial is the opening of a connection. Other requests wait for it, because the connection will have room for
// them too, but only for dialPatience: then one of them opens a connection of its own.
type h2Dial struct {
	start time.Time
	done  chan struct{} // closed when the connection is open, or will not be
	once  sync.Once
}

// end ends the wait of the others, for c or, if c is nil, without a connection. Calls after the first do nothing, and
// neither do calls on nil.
func (d *h2Dial) end(key h2Key, c *sharedConn) {
	if d == nil {
		return
	}
	d.once.Do(func() {
		withPool(key, func(p *h2Pool) {
			if c != nil {
				p.conns = append(p.conns, c)
			}
			if p.dial == d {
				p.dial = nil
			}
		})
		close(d.done)
	})
}

// takeConn returns a connection to open one stream on, or an h2Dial if the caller has to open the connection.
func takeConn(ctx context.Context, key h2Key) (*sharedConn, *h2Dial, error) {
	for {
		c, d, own := tryTakeConn(key)
		if c != nil || own {
			return c, d, nil
		}
		patience := time.NewTimer(time.Until(d.start.Add(dialPatience)))
		select {
		case <-d.done:
		case <-patience.C:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		patience.Stop()
	}
}

// tryTakeConn is takeConn without the wait: unless own is set, the caller waits for d and tries again.
func tryTakeConn(key h2Key) (c *sharedConn, d *h2Dial, own bool) {
	withPool(key, func(p *h2Pool) {
		if i := slices.IndexFunc(p.conns, func(c *sharedConn) bool { return !c.full }); i >= 0 {
			c = p.conns[i]
			c.streams++
			return
		}
		if p.dial == nil || time.Since(p.dial.start) >= dialPatience {
			p.dial = &h2Dial{start: time.Now(), done: make(chan struct{})}
			own = true
		}
		d = p.dial
	})
	return c, d, own
}

// A sharedConn is a connection whose streams are WebSocket connections.
type sharedConn struct {
	key       h2Key
	nc        net.Conn
	transport *http.Transport   // whose HTTP/2 has this connection and no other
	rt        http.RoundTripper // refuses requests when there is no room for another stream
	streams   int               // that are open or being opened; guarded by h2Pools.mu
	full      bool              // a stream was refused since the last one ended; guarded by h2Pools.mu
}

// open opens a connection, for one stream so far.
func (t *h2transport) open(u, proxy *url.URL, key h2Key) (*sharedConn, error) {
	transport := http2Only(t.Transport)
	nc, err := openConn(t.ctx, transport, u, proxy, "h2")
	if err != nil {
		return nil, err
	}
	c := &sharedConn{key: key, nc: nc, transport: transport, streams: 1}
	stop := context.AfterFunc(t.ctx, func() { nc.Close() }) // net/http writes SETTINGS at once and without a deadline
	err = c.start()
	if !stop() {
		err = context.Cause(t.ctx)
	}
	if err != nil {
		go nc.Close()
		return nil, err
	}
	return c, nil
}

// http2Only returns a Transport with the settings of base and with net/http's HTTP/2, which pings.
func http2Only(base *http.Transport) *http.Transport {
	t := base.Clone()
	t.TLSNextProto = nil // that of base
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

// start hands the connection to net/http.
func (c *sharedConn) start() error {
	protocol, tc := "h2", (*tls.Conn)(nil)
	if c.key.scheme == "https" {
		var ok bool
		if tc, ok = c.nc.(*tls.Conn); !ok {
			return &HandshakeError{Reason: fmt.Sprintf("HTTP/2 needs a *tls.Conn, but DialTLS returned a %T", c.nc)}
		}
		if p := tc.ConnectionState().NegotiatedProtocol; p != "h2" {
			return &HandshakeError{Reason: "the server does not speak HTTP/2"}
		}
	} else {
		protocol, tc = "unencrypted_http2", tls.Client(plainConn{c.nc}, nil)
	}
	next, ok := c.transport.TLSNextProto[protocol]
	if !ok {
		return &HandshakeError{Reason: "the HTTP/2 of net/http is disabled"}
	}
	c.rt = next(c.key.addr, tc)
	if e, ok := c.rt.(interface{ RoundTripErr() error }); ok {
		return e.RoundTripErr()
	}
	return nil
}

// A plainConn is a connection without TLS as net/http expects it: in a *tls.Conn that is not used otherwise.
type plainConn struct{ net.Conn }

func (c plainConn) UnencryptedNetConn() net.Conn { return c.Conn }

// endStream ends a stream of c, or the attempt to open one. If c is lost, no request uses it again. c is closed after
// its last stream.
func (c *sharedConn) endStream(refused, lost bool) {
	withPool(c.key, func(p *h2Pool) {
		c.full = refused
		c.streams--
		if c.streams == 0 || lost {
			p.conns = slices.DeleteFunc(p.conns, func(o *sharedConn) bool { return o == c })
		}
		if c.streams == 0 {
			go c.transport.CloseIdleConnections()
			time.AfterFunc(closeDelay, func() { c.nc.Close() })
		}
	})
}

// roundTrip opens a stream. It ends d, if that is not nil, as soon as the peer is known to accept streams: before its
// SETTINGS arrive, net/http would open a hundred.
func (c *sharedConn) roundTrip(req *http.Request, d *h2Dial) (*http.Response, error) {
	r := req
	if d != nil {
		settled := func() { d.end(c.key, c) }
		r = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{WroteHeaders: settled}))
	}
	s, r := newClientStream(r)
	stop := context.AfterFunc(req.Context(), s.cancel)
	resp, err := c.rt.RoundTrip(r)
	stop()
	if err != nil {
		d.end(c.key, nil)
		s.abort()
		return nil, err
	}
	d.end(c.key, c)
	s.conn, s.body = c, resp.Body
	s.stop = context.AfterFunc(req.Context(), s.abort)
	resp.Body = s
	return resp, nil
}

var errRefused = errors.New("it was refused twice, without being processed")

// isRefused reports whether the server has not processed the request, so that another connection may be used. RFC
// 9113, section 8.7: "Any request that was sent on the reset stream can be safely retried."
func isRefused(err error) bool {
	_, full := err.(interface{ IsHTTP2NoCachedConnError() })
	return full || err == errRefused
}

// isLost reports whether a request failed with its connection, and not only with its stream. A connection that is
// silent until the deadline counts as lost, though a ping may still find it alive.
func isLost(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return ctx.Err() == context.DeadlineExceeded
	}
	return !isRefused(err) && !errors.As(err, new(streamError))
}

// A streamError is the error of net/http for RST_STREAM. errors.As fills a struct with its fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return fmt.Sprintf("stream error %d", e.Code) }

// explain names the reasons that a user can do something about. net/http has no type for the first.
func explain(err error) error {
	reason := "the request was not answered"
	switch {
	case strings.Contains(err.Error(), "extended connect not supported"):
		reason = "the server does not offer WebSockets over HTTP/2 (RFC 8441)"
	case isRefused(err):
		reason = "the server did not accept the stream"
	}
	return &HandshakeError{Reason: reason, Err: err}
}
