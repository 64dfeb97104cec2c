//go:build !(js && websocket_nohttp)

package websocket

// Connections with the settings of an http.Transport: dial functions, TLS, HTTP and SOCKS proxies. RFC 6455, section
// 4.1, has the order: connect to the proxy, do TLS with an HTTPS proxy, ask the proxy for the server, do TLS with the
// server, send the request. A step that fails closes the connection. The end of the context does too, at every step.

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
)

// proxyTimeout bounds the exchange with a proxy, as in net/http.
const proxyTimeout = time.Minute

// A tunnel opens connections with the settings of an http.Transport, and sends each request over a new connection. It
// belongs to one call of Dial. Its fields do not change.
//
// The RoundTrip method of the Transport itself could send the request, but not open the connection as a WebSocket
// client has to:
//   - It hides the deadline of the context from the dial function.
//   - It offers no protocol through ALPN with a request that has Upgrade: websocket.
//   - It sends an HTTP proxy a GET instead of a CONNECT for a ws URL. It drops the header and the body of a proxy's
//     refusal, and the bytes that follow a proxy's 200.
//   - It accepts the certificate of an HTTPS proxy for the ServerName of the TLS settings, which is the target's.
//   - If it is cancelled, it may wait five seconds until a peer that does not read accepts the alert of TLS.
//   - It logs bytes that a server sends before the request, and it hides why a response ended early.
type tunnel struct {
	*http.Transport                 // its settings
	ctx             context.Context // bounds the opening of a connection, and has the deadline for it
}

// RoundTrip sends req over a new connection. The body of the response is a *tunnelBody, which owns the connection. The
// end of req's context closes the connection, at any time.
func (t *tunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := proxyOf(t.Transport, req)
	if err != nil {
		return nil, err
	}
	nc, err := t.open(req.URL, proxy, "http/1.1")
	if err != nil {
		return nil, err
	}
	// Nothing stops this AfterFunc: the context of the request is that of a dialing, which ends only if Dial fails.
	context.AfterFunc(req.Context(), func() { abort(nc) })
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: nc})
	}
	if t.ResponseHeaderTimeout > 0 {
		nc.SetReadDeadline(time.Now().Add(t.ResponseHeaderTimeout))
		defer nc.SetReadDeadline(time.Time{})
	}
	resp, br, err := t.send(nc, spelled(req), math.MaxInt)
	if err != nil {
		abort(nc)
		return nil, err
	}
	resp.Body = &tunnelBody{resp.Body, nc, br}
	return resp, nil
}

// spelled returns req with its field names as RFC 6455 spells them, for servers that compare names with regard to case.
// An http.Header has Sec-Websocket instead, and writes the names that it has.
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

// A tunnelBody is the body of a response, and owns the connection that it came over.
type tunnelBody struct {
	io.Reader // the body as HTTP delimits it
	nc        net.Conn
	ahead     *bufio.Reader // holds bytes read from nc after the header
}

// Close closes the connection.
func (b *tunnelBody) Close() error { return abort(b.nc) }

// proxyOf returns the proxy that t names for req, with its scheme in lower case, or nil. Its errors do not contain the
// URL of the proxy, which may have a password.
func proxyOf(t *http.Transport, req *http.Request) (*url.URL, error) {
	if t.Proxy == nil {
		return nil, nil
	}
	p, err := t.Proxy(req)
	switch {
	case err != nil:
		return nil, &HandshakeError{Reason: "the Proxy function of the Transport failed", Err: withoutURL(err)}
	case p == nil:
		return nil, nil
	}
	proxy := *p
	proxy.Scheme = strings.ToLower(p.Scheme)
	switch proxy.Scheme {
	case "http", "https", "socks5", "socks5h":
		return &proxy, nil
	}
	const reason = "the proxy has the scheme %q; use http, https, socks5 or socks5h"
	return nil, &HandshakeError{Reason: fmt.Sprintf(reason, p.Scheme)}
}

// open opens a connection to the host of u, through proxy if it is not nil. If u is an https URL, open does the TLS
// handshake and offers protocols through ALPN, unless a DialTLS function does both. open returns when t.ctx ends; a
// connection that it has returned does not depend on t.ctx. Every error is a *HandshakeError and names the hosts.
func (t *tunnel) open(u, proxy *url.URL, protocols ...string) (nc net.Conn, err error) {
	to := hostPort(u)
	if proxy == nil {
		nc, err = t.openHop(u, "", protocols)
	} else if nc, err = t.openHop(proxy, proxy.Hostname(), []string{"http/1.1"}); err != nil {
		to = "the proxy " + hostPort(proxy)
	} else {
		to += " through the proxy " + hostPort(proxy)
		nc, err = t.pass(nc, u, proxy, protocols)
	}
	if _, ok := err.(*HandshakeError); ok || err == nil {
		return nc, err
	}
	return nil, &HandshakeError{Reason: "no connection to " + to, Err: err}
}

// openHop dials the host of u, which is the server or its proxy, and does the TLS handshake with it if u is an https
// URL. See secure for name and protocols.
func (t *tunnel) openHop(u *url.URL, name string, protocols []string) (net.Conn, error) {
	dial, hasTLS := dialFunc(t.Transport, u.Scheme)
	nc, err := callDial(t.ctx, dial, hostPort(u))
	if err != nil {
		return nil, err
	}
	tc, ok := nc.(*tls.Conn)
	switch {
	case hasTLS && ok:
		return t.handshake(tc) // returns at once if the dial function has done it
	case hasTLS: // the connection of another TLS implementation, or without TLS, as the caller wishes
		return nc, nil
	}
	return t.secure(nc, u, name, protocols)
}

// pass asks the proxy, which is the peer of nc, to connect nc to the host of u, and does the TLS handshake with that
// host if u is an https URL. If it fails, it closes nc.
func (t *tunnel) pass(nc net.Conn, u, proxy *url.URL, protocols []string) (net.Conn, error) {
	if err := t.connect(nc, proxy, hostPort(u)); err != nil {
		abort(nc)
		return nil, err
	}
	return t.secure(nc, u, "", protocols)
}

// hostPort returns the address to dial for the host of u. The port of SOCKS is from RFC 1928, section 3.
func hostPort(u *url.URL) string {
	port := defaultPort(u.Scheme)
	if strings.HasPrefix(u.Scheme, "socks5") {
		port = "1080"
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
}

// A dialer is a dial function of an http.Transport.
type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialFunc returns the function with which t dials a host for a URL with the given scheme, and whether the function
// does TLS as well. The order is that of net/http.
func dialFunc(t *http.Transport, scheme string) (dial dialer, hasTLS bool) {
	//lint:ignore SA1019 callers may still set them
	plain, secure := t.Dial, t.DialTLS
	switch {
	case scheme == "https" && t.DialTLSContext != nil:
		return t.DialTLSContext, true
	case scheme == "https" && secure != nil:
		return withoutContext(secure), true
	case t.DialContext != nil:
		return t.DialContext, false
	case plain != nil:
		return withoutContext(plain), false
	}
	return new(net.Dialer).DialContext, false
}

// withoutContext returns a deprecated dial function as a dialer, which ignores its context.
func withoutContext(dial func(network, addr string) (net.Conn, error)) dialer {
	return func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) }
}

// callDial calls dial. If ctx ends first, callDial does not wait for dial, which may ignore ctx, and closes a
// connection that it returns later. A dial function that returns neither a connection nor an error would otherwise make
// a Conn that panics.
func callDial(ctx context.Context, dial dialer, addr string) (net.Conn, error) {
	var nc net.Conn
	var err error
	done := make(chan struct{}) // once it is closed, nc and err do not change
	go func() {
		defer close(done)
		if nc, err = dial(ctx, "tcp", addr); nc == nil && err == nil {
			err = errors.New("the dial function returned neither a connection nor an error")
		}
	}()
	select {
	case <-done:
		return nc, err
	case <-ctx.Done():
		go func() {
			if <-done; err == nil {
				nc.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// secure returns nc, with TLS over it if u is an https URL. The certificate must be for name. If name is empty, it must
// be for the ServerName of the Transport's settings; if that is empty too, for the host of u. For a proxy the caller
// sets name, because the ServerName is that of the server. If the handshake fails, secure closes nc.
//
// RFC 6455, section 4.1: "Clients MUST use the Server Name Indication extension in the TLS handshake". crypto/tls sends
// it unless the name is an address.
func (t *tunnel) secure(nc net.Conn, u *url.URL, name string, protocols []string) (net.Conn, error) {
	if u.Scheme != "https" {
		return nc, nil
	}
	// The Transport itself may be in use, so only the copy is changed.
	cfg := t.TLSClientConfig.Clone()
	if cfg == nil {
		cfg = new(tls.Config)
	}
	cfg.ServerName = cmp.Or(name, cfg.ServerName, u.Hostname())
	cfg.NextProtos = protocols // net/http may have added h2 to the protocols of the settings
	return t.handshake(tls.Client(nc, cfg))
}

// handshake does the TLS handshake of tc, in the time that the Transport allows. If it fails, handshake closes tc,
// which crypto/tls leaves open.
func (t *tunnel) handshake(tc *tls.Conn) (net.Conn, error) {
	ctx := t.ctx
	if t.TLSHandshakeTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.TLSHandshakeTimeout)
		defer cancel()
	}
	// net/http calls these functions for the connections that it opens itself.
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	err := tc.HandshakeContext(ctx)
	if trace != nil && trace.TLSHandshakeDone != nil {
		trace.TLSHandshakeDone(tc.ConnectionState(), err)
	}
	if err != nil {
		abort(tc)
		return nil, fmt.Errorf("the TLS handshake failed: %w", err)
	}
	return tc, nil
}

// connect asks the proxy, which is the peer of nc, to connect to addr. The end of t.ctx closes nc. If t.ctx has no
// deadline, proxyTimeout still ends the exchange with a proxy that is silent.
func (t *tunnel) connect(nc net.Conn, proxy *url.URL, addr string) error {
	stop := context.AfterFunc(t.ctx, func() { abort(nc) })
	defer stop()
	nc.SetDeadline(time.Now().Add(proxyTimeout))
	defer nc.SetDeadline(time.Time{})
	if strings.HasPrefix(proxy.Scheme, "socks5") {
		return connectSOCKS(t.ctx, nc, proxy, addr)
	}
	return t.connectHTTP(nc, proxy, addr)
}

// abort closes nc without the alert of TLS. The alert is written to the network, where a peer that does not read could
// block it for seconds, with the descriptor open.
func abort(nc net.Conn) error {
	for tc, ok := nc.(*tls.Conn); ok; tc, ok = nc.(*tls.Conn) {
		nc = tc.NetConn()
	}
	return nc.Close()
}

// connectSOCKS uses the SOCKS5 client of net/http, which nothing exports: a Transport dials the proxy through it, and
// here the dial function returns nc. Once the proxy has connected to addr, the Transport hands the connection to its
// HTTP/2 implementation, which is a function here that sends nothing. From then on, the Transport does not use nc.
func connectSOCKS(ctx context.Context, nc net.Conn, proxy *url.URL, addr string) error {
	connected := roundTrip(func(*http.Request) (*http.Response, error) { return new(http.Response), nil })
	t := &http.Transport{
		Proxy:       http.ProxyURL(proxy),
		DialContext: func(context.Context, string, string) (net.Conn, error) { return nc, nil },
		Protocols:   new(http.Protocols),
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{
			"h2":                nil, // otherwise net/http installs its own
			"unencrypted_http2": func(string, *tls.Conn) http.RoundTripper { return connected },
		},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr, nil)
	if err != nil {
		return err
	}
	_, err = t.RoundTrip(req)
	return err
}

// A roundTrip is a function that is an http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// connectHTTP opens a tunnel with CONNECT. RFC 6455, section 4.1: "If the user agent is configured to use a proxy when
// using the WebSocket Protocol to connect to host /host/ and port /port/, then the user agent SHOULD connect to that
// proxy and ask it to open a TCP connection to the host given by /host/ and the port given by /port/."
func (t *tunnel) connectHTTP(nc net.Conn, proxy *url.URL, addr string) error {
	h, err := t.connectHeader(proxy, addr)
	if err != nil {
		return err
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: h}
	// Bytes after the header come from addr. Reading one byte at a time leaves them in nc.
	resp, _, err := t.send(nc, req, 1)
	if err != nil {
		return err
	}
	if t.OnProxyConnectResponse != nil {
		if err := t.OnProxyConnectResponse(t.ctx, proxy, req, resp); err != nil {
			return err
		}
	}
	// RFC 9110, section 9.3.6: "Any 2xx (Successful) response indicates that the sender (and all inbound proxies) will
	// switch to tunnel mode immediately after the response header section".
	if resp.StatusCode/100 == 2 {
		return nil
	}
	// The body may say why, but the proxy cannot delay the error by sending it slowly.
	nc.SetDeadline(time.Now().Add(errorBodyTimeout))
	e := refusedBy(resp, "the proxy "+hostPort(proxy)+" refused to connect", nil)
	e.Body, _ = io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	return e
}

// connectHeader returns the header fields for the proxy: the fields that the Transport sets, and the user name and
// password of the proxy's URL (RFC 7617). The server does not see them. A control character in a value could end the
// field and begin another one, so it is an error.
func (t *tunnel) connectHeader(proxy *url.URL, addr string) (http.Header, error) {
	h := t.ProxyConnectHeader
	if t.GetProxyConnectHeader != nil {
		var err error
		if h, err = t.GetProxyConnectHeader(t.ctx, proxy, addr); err != nil {
			return nil, err
		}
	}
	if h = h.Clone(); h == nil {
		h = make(http.Header)
	}
	if name, ok := badValue(h); ok {
		return nil, fmt.Errorf("the value of %s contains a control character", name)
	}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		h.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	return h, nil
}

// headerLimit returns how many bytes the header of a response may have. The default of net/http, 10 MB, is more than a
// handshake needs.
func headerLimit(t *http.Transport) int64 {
	return cmp.Or(max(t.MaxResponseHeaderBytes, 0), maxResponseHeader)
}

// send sends req and reads the header of the response, in reads of at most chunk bytes. br continues after the header.
//
// RFC 9110, section 15.2: "A client MUST be able to parse one or more 1xx responses received prior to a final response,
// even if the client does not expect one." send skips them, except a 101, which is final for a WebSocket. The limit of
// the Transport is for all headers together, so that a server cannot send 1xx responses forever.
func (t *tunnel) send(nc net.Conn, req *http.Request, chunk int) (resp *http.Response, br *bufio.Reader, err error) {
	if err := req.Write(nc); err != nil {
		return nil, nil, err
	}
	in := &headerReader{nc: nc, left: headerLimit(t.Transport), chunk: chunk}
	br = bufio.NewReader(in)
	trace := httptrace.ContextClientTrace(req.Context())
	if _, err := br.Peek(1); err == nil && trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	for err == nil && (resp == nil || resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols) {
		resp, err = http.ReadResponse(br, req)
	}
	if err != nil && in.err != nil {
		err = in.err // the reason why the header does not parse
	}
	in.left = math.MaxInt64 // a body or frames follow, which have limits of their own
	return resp, br, err
}

var errLongHeader = errors.New("the header of the response is too large")

// A headerReader reads at most left bytes of nc, and keeps the error of the last read: net/http reports a header that
// ends early as malformed, whatever the cause.
type headerReader struct {
	nc    net.Conn
	left  int64
	chunk int
	err   error
}

// Read returns errLongHeader once left bytes have been read.
func (r *headerReader) Read(p []byte) (n int, err error) {
	if r.left <= 0 {
		r.err = errLongHeader
		return 0, r.err
	}
	n, err = r.nc.Read(p[:min(int64(len(p)), r.left, int64(r.chunk))])
	r.left -= int64(n)
	if r.err = err; err == io.EOF {
		r.err = io.ErrUnexpectedEOF
	}
	return n, err
}
