package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
)

// A transport sends one request on a connection of its own, which it makes as its http.Transport says. It is
// simpler than that one: no pool, no goroutines, and at the end the connection is there to be taken.
type transport struct{ *http.Transport }

// RoundTrip returns a response whose Body is a *wire if it is a 101.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	w, err := t.open(req, "http/1.1")
	if err != nil {
		return nil, err
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: w.Conn})
	}
	resp, err := w.exchange(spelled(req), t, t.ResponseHeaderTimeout)
	if err != nil {
		w.Close()
		return nil, &HandshakeError{Reason: "the request was not answered", Err: err}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = w
	} else {
		resp.Body = wireBody{resp.Body, w}
	}
	return resp, nil
}

// spelled returns req with the names of its header fields as RFC 6455 spells them. They have no case, but not
// every server knows that.
func spelled(req *http.Request) *http.Request {
	r := *req
	r.Header = make(http.Header, len(req.Header))
	for name, values := range req.Header {
		if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
			name = "Sec-WebSocket-" + rest
		}
		r.Header[name] = values
	}
	return &r
}

// open makes a connection to the host of req, through its proxy and TLS, in which it agrees on the application
// protocol. The connection is cut when req's context ends.
func (t *transport) open(req *http.Request, protocol string) (*wire, error) {
	ctx := req.Context()
	proxy, err := t.proxyOf(req)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return t.openFirst(ctx, req.URL, protocol, "")
	}
	w, err := t.openFirst(ctx, proxy, "http/1.1", proxy.Hostname())
	if err != nil {
		return nil, inProxy(err, proxy)
	}
	err = w.pass(ctx, t, proxy, hostPort(req.URL))
	if err == nil && req.URL.Scheme == "https" {
		err = w.startTLS(ctx, t, req.URL.Hostname(), protocol, "")
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// openFirst dials the host of u, and makes the TLS handshake with it if its scheme is https.
func (t *transport) openFirst(ctx context.Context, u *url.URL, protocol, name string) (*wire, error) {
	dial, secure := t.dialFunc(u)
	addr := hostPort(u)
	nc, err := callDial(ctx, dial, addr)
	if err != nil {
		return nil, &HandshakeError{Reason: "no connection to " + addr, Err: err}
	}
	w := newWire(ctx, nc)
	if tc, ok := nc.(*tls.Conn); ok && secure {
		err = handshakeTLS(ctx, t, tc)
	} else if u.Scheme == "https" && !secure {
		err = w.startTLS(ctx, t, u.Hostname(), protocol, name)
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// hostPort returns the address of a URL's host.
func hostPort(u *url.URL) string {
	return net.JoinHostPort(u.Hostname(), orString(u.Port(), proxyPort(u.Scheme)))
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialFunc returns the transport's function to dial the host of u with; secure says that it does TLS too.
func (t *transport) dialFunc(u *url.URL) (dial dialFunc, secure bool) {
	switch {
	case u.Scheme == "https" && t.DialTLSContext != nil:
		return t.DialTLSContext, true
	case u.Scheme == "https" && t.DialTLS != nil:
		return withoutContext(t.DialTLS), true
	case t.DialContext != nil:
		return t.DialContext, false
	case t.Dial != nil:
		return withoutContext(t.Dial), false
	}
	return new(net.Dialer).DialContext, false
}

func withoutContext(dial func(network, addr string) (net.Conn, error)) dialFunc {
	return func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
}

// callDial does not wait for a function that ignores ctx, and closes what it returns too late.
func callDial(ctx context.Context, dial dialFunc, addr string) (net.Conn, error) {
	type result struct {
		nc  net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		nc, err := dial(ctx, "tcp", addr)
		done <- result{nc, err}
	}()
	select {
	case r := <-done:
		return r.nc, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.nc.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// A wire is the connection of one request, and the body of its response. Each layer, such as TLS, is put around
// the one before.
type wire struct {
	net.Conn
	in   *limitedReader // of the connection
	br   *bufio.Reader  // of in
	stop func() bool    // ends the watch over the context
}

// newWire returns a wire that is cut when ctx ends.
func newWire(ctx context.Context, nc net.Conn) *wire {
	w := &wire{stop: context.AfterFunc(ctx, func() { nc.Close() })}
	w.put(nc)
	return w
}

// put makes nc the layer that is spoken over.
func (w *wire) put(nc net.Conn) {
	w.Conn, w.in = nc, &limitedReader{r: nc, left: math.MaxInt64}
	w.br = bufio.NewReader(w.in)
}

func (w *wire) Read(p []byte) (int, error) { return w.br.Read(p) }

func (w *wire) Close() error {
	w.stop()
	return w.Conn.Close()
}

// A wireBody is a response's body whose end is that of its connection.
type wireBody struct {
	io.Reader
	io.Closer
}

// exchange sends the request and reads the header of the answer: a bounded number of bytes and, unless timeout is
// 0, in a bounded time.
func (w *wire) exchange(req *http.Request, t *transport, timeout time.Duration) (*http.Response, error) {
	if err := w.send(req); err != nil {
		return nil, err
	}
	if timeout > 0 {
		w.SetReadDeadline(time.Now().Add(timeout))
		defer w.SetReadDeadline(time.Time{})
	}
	w.in.left = maxResponseHeader
	if t.MaxResponseHeaderBytes > 0 {
		w.in.left = t.MaxResponseHeaderBytes
	}
	resp, err := readResponse(w.br, req)
	if err != nil && w.in.err != nil {
		return nil, w.in.err // rather than what could not be parsed for it
	}
	w.in.left = math.MaxInt64
	return resp, err
}

var errLongHeader = errors.New("the header of the response is too large")

// A limitedReader reads a bounded number of bytes, and remembers why there were no more.
type limitedReader struct {
	r    io.Reader
	left int64
	err  error
}

func (l *limitedReader) Read(p []byte) (n int, err error) {
	if l.left <= 0 {
		l.err = errLongHeader
		return 0, l.err
	}
	n, err = l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if l.err = err; err == io.EOF {
		l.err = io.ErrUnexpectedEOF
	}
	return n, err
}

// send writes req at once.
func (w *wire) send(req *http.Request) error {
	var b bytes.Buffer
	if err := req.Write(&b); err != nil {
		return err
	}
	_, err := w.Conn.Write(b.Bytes())
	return err
}

// readResponse reads the header of the final response to req. Those before it (RFC 9110, section 15.2) are
// skipped.
func readResponse(br *bufio.Reader, req *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(req.Context())
	if _, err := br.Peek(1); err == nil && trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	for {
		resp, err := http.ReadResponse(br, req)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}

// startTLS makes the TLS handshake with the host of that name, as the transport's settings say, and offers it an
// application protocol. Those settings are the target's; name replaces the one in them, for a proxy.
func (w *wire) startTLS(ctx context.Context, t *transport, host, protocol, name string) error {
	cfg := new(tls.Config)
	if t.TLSClientConfig != nil {
		cfg = t.TLSClientConfig.Clone()
	}
	cfg.ServerName = orString(name, orString(cfg.ServerName, host))
	cfg.NextProtos = []string{protocol}
	if protocol == "h2" {
		cfg.NextProtos = append(cfg.NextProtos, "http/1.1") // so that a server without it says so
	}
	tc := tls.Client(w.whole(), cfg)
	w.put(tc)
	return handshakeTLS(ctx, t, tc)
}

// whole returns the connection with what was read of it ahead.
func (w *wire) whole() net.Conn {
	if w.br.Buffered() == 0 {
		return w.Conn
	}
	return &prefixed{w.Conn, w.br}
}

// A prefixed is a connection of which something was read already.
type prefixed struct {
	net.Conn
	r io.Reader
}

func (p *prefixed) Read(b []byte) (int, error) { return p.r.Read(b) }

func handshakeTLS(ctx context.Context, t *transport, tc *tls.Conn) error {
	if t.TLSHandshakeTimeout > 0 {
		var done func()
		ctx, done = context.WithTimeout(ctx, t.TLSHandshakeTimeout)
		defer done()
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	err := tc.HandshakeContext(ctx)
	if trace != nil && trace.TLSHandshakeDone != nil {
		trace.TLSHandshakeDone(tc.ConnectionState(), err)
	}
	if err != nil {
		return &HandshakeError{Reason: "the TLS handshake failed", Err: err}
	}
	return nil
}
