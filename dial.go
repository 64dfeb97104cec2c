//go:build !(js && websocket_nohttp)

package websocket

// The client's opening handshake over HTTP/1.1 and HTTP/2: the URL, the request, redirects, and the checks of the
// response. tunnel.go opens connections, and http2.go opens streams.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxRedirects      = 10
	maxResponseHeader = 64 << 10        // bytes, unless the Transport sets a limit
	maxErrorBody      = 4 << 10         // bytes of a HandshakeError's Body
	errorBodyTimeout  = 2 * time.Second // to read them
)

// Dial opens a connection to a URL with the scheme ws or wss; http and https are synonyms. A user name and password in
// the URL are sent as basic authentication.
//
// ctx bounds the whole handshake. The dial function of the Transport sees its deadline. After Dial returns, ctx does
// not affect the connection. If neither ctx nor opts.HTTPClient has a timeout, Dial waits as long as the server is
// silent.
//
// Every error is a *[HandshakeError]. If the server answered but refused, the error has the status, the header and the
// start of the body of the response. Otherwise its Err is the cause, such as the error of ctx. Dial makes every check
// of the response that RFC 6455, section 4.1, requires. It is not an error if the server chooses none of the
// subprotocols.
//
// # HTTP client
//
// Dial sends the request with opts.HTTPClient. It uses the client's CheckRedirect, Jar and Timeout, and the dial
// functions, proxy and TLS settings of its Transport. The Timeout bounds only the handshake. The request is sent over
// HTTP/1.1 on a new connection, even if the Transport prefers HTTP/2. The Jar sees the schemes http and https.
//
// A RoundTripper that is not an *http.Transport works too, if the body of its 101 response is an io.ReadWriteCloser. A
// separate goroutine then reads ahead from that body.
//
// # Redirects
//
// Dial follows redirects only if CheckRedirect is set, at most 10 of them, and never from wss to ws. It never adds a
// Referer field. As long as all requests go to the same host and port, each has the fields of opts.Header and offers
// opts.Subprotocols. The first request to another host, and every later one, lacks them, because both may contain
// secrets. Such a request has only the Origin and User-Agent of opts.Header, the cookies that the Jar has for its host,
// and the fields of the handshake itself. CheckRedirect may add others.
//
// # Proxies
//
// The Proxy function of the Transport chooses the proxy. By default it is taken from the environment. The schemes http,
// https, socks5 and socks5h are supported. Dial asks an HTTP proxy for a tunnel with CONNECT, for ws as well as for wss
// (RFC 6455, section 4.1). The certificate of a wss server must match the host of the URL. If the proxy refuses, the
// error has the status of the proxy's response.
//
// # HTTP/2
//
// If opts.HTTP2 is set, the connection is an HTTP/2 stream (RFC 8441): over TLS with the settings of the Transport for
// wss, by prior knowledge for ws. Connections that are dialed to one host with one Transport and one proxy share a TCP
// connection as long as one of them is open. If a TCP connection is silent for ten seconds, Dial's transport sends an
// HTTP/2 ping, and closes the connection after another ten; the HTTP2 field of the Transport can set other times.
// NetConn returns nil.
//
// # Browsers
//
// Under GOOS=js, Dial uses the WebSocket object of the browser or of Node (before Node 22, set globalThis.WebSocket to
// the class of npm's ws). The Conn works as usual, except where a browser restricts a page:
//
//   - Options.Header, HTTPClient and HTTP2 are errors. The browser adds the page's origin and cookies.
//   - A browser does not tell a page why a connection was refused. The error has no status, header or body.
//   - The browser compresses every message if the server agrees. Options.Compression and Uncompressed have no effect.
//   - The browser answers pings and does not report them. Conn.Ping and the pings of Options.KeepAlive do not reach the
//     server; the package answers them.
//   - A page cannot close with a code below 3000 other than 1000. Close sends 1000 with the reason instead, and so does
//     a connection that fails because the server broke a rule or exceeded a limit.
//   - CloseNow returns at once. The browser closes its connection in the background.
//   - Data that the browser has not sent yet counts as pending, except for the first 64 KiB.
//   - A message of Conn.Writer is sent when it is complete. Unread messages stay in memory, without a limit.
//   - NetConn returns nil.
//
// # Many connections
//
// Dial does not retry. Callers that reconnect should wait for a random time that grows with each failure (RFC 6455,
// section 7.2.3). Dial does not limit how many connections to a host are being opened at the same time, although
// section 4.1 allows only one.
func Dial(ctx context.Context, url string, opts *Options) (*Conn, error) {
	return dial(ctx, url, cmp.Or(opts, &noOptions))
}

// dialHTTP is Dial on a system with sockets.
func dialHTTP(ctx context.Context, url string, opts *Options) (*Conn, error) {
	u, err := parseURL(url)
	if err != nil {
		return nil, &HandshakeError{Reason: "the URL is invalid", Err: err}
	}
	if err := opts.check(); err != nil {
		return nil, &HandshakeError{Reason: "the options are invalid", Err: err}
	}
	if err := opts.refusesDial(ctx); err != nil {
		return nil, err
	}
	d := &dialing{opts: opts}
	if opts.HTTPClient != nil {
		d.client = *opts.HTTPClient
	}
	return d.dial(ctx, u)
}

// parseURL returns the http or https URL for s, with its host and query in the form that a request needs. Its errors do
// not contain a user name or password.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, withoutURL(err)
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	default:
		return nil, fmt.Errorf("its scheme is %q, not ws or wss", u.Scheme)
	}
	// RFC 6455, section 3: "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be used
	// on these URIs."
	if strings.Contains(s, "#") {
		return nil, errors.New("it has a fragment")
	}
	if u.Host = asciiHost(u.Host); u.Hostname() == "" {
		return nil, errors.New("it has no valid host")
	}
	if p := u.Port(); p == "" || p == defaultPort(u.Scheme) {
		u.Host = strings.TrimSuffix(strings.TrimSuffix(u.Host, p), ":")
	}
	u.RawQuery = escapeQuery(u.RawQuery)
	return u, nil
}

// withoutURL returns the cause of a *url.Error, and removes from err every URL that has a user name or password.
func withoutURL(err error) error {
	u, outer := err.(*url.Error)
	for ; outer || errors.As(err, &u) && strings.Contains(u.URL, "@"); outer = false {
		if err = u.Err; u.Op == "parse" && strings.Contains(u.URL, "@") {
			err = errors.New("it does not parse") // the cause quotes part of the URL
		}
	}
	return err
}

// asciiHost returns host with its name in punycode, as net/http converts it for a request, or "" if it has none.
func asciiHost(host string) string {
	if isASCII(host) {
		return host
	}
	var b bytes.Buffer
	r := &http.Request{Method: "GET", URL: &url.URL{Path: "/"}, Host: strings.ToLower(host)}
	if !utf8.ValidString(host) || r.Write(&b) != nil {
		return ""
	}
	r, err := http.ReadRequest(bufio.NewReader(&b))
	if err != nil || !isASCII(r.Host) {
		return ""
	}
	return r.Host
}

// isASCII reports whether s consists of ASCII characters.
func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// escapeQuery escapes the bytes of a query that a request must not contain, and no others.
func escapeQuery(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// A dialing is one call of Dial. It is also the RoundTripper of its client, which sends the request and its redirects.
// http.Client sends one request at a time, so one goroutine at a time uses a dialing.
type dialing struct {
	opts   *Options
	client http.Client       // a copy of the caller's
	next   http.RoundTripper // sends the requests of client
	sent   *http.Request     // the last request

	// ctx is the context of the requests. It has the values of the caller's context and ends with that context until
	// the handshake has succeeded. After that it stays open, because a RoundTripper may tie the body of a 101 to it.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// dial does the handshake and returns the connection, or an error as a *HandshakeError. Once it has returned a
// connection, the end of ctx no longer affects that connection. If it fails, dial closes everything that it has opened.
func (d *dialing) dial(ctx context.Context, u *url.URL) (*Conn, error) {
	if d.client.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.client.Timeout)
		defer cancel()
	}
	d.ctx, d.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { d.cancel(ctx.Err()) })
	defer stop()
	c, err := d.handshake(ctx, u)
	if err == nil && stop() {
		return enterDialed(c, d.opts.Group)
	}
	if err == nil {
		c.CloseNow()
	}
	d.cancel(context.Canceled)
	return nil, d.failure(ctx, err)
}

// failure returns err as a *HandshakeError. If ctx has ended, the result also matches the error and the cause of ctx.
func (d *dialing) failure(ctx context.Context, err error) error {
	var e *HandshakeError
	if !errors.As(err, &e) {
		e = &HandshakeError{Reason: "the request was not answered", Err: withoutURL(err)}
	}
	for _, cause := range []error{ctx.Err(), context.Cause(ctx)} {
		switch {
		case cause == nil || errors.Is(e, cause):
		case e.Err == nil:
			e.Err = cause
		default:
			e.Err = fmt.Errorf("%w: %w", cause, e.Err)
		}
	}
	return e
}

// handshake sends the request, follows redirects and checks the response. ctx is the caller's context.
func (d *dialing) handshake(ctx context.Context, u *url.URL) (*Conn, error) {
	req, err := d.request(u)
	if err != nil {
		return nil, err
	}
	if err := d.prepareClient(ctx); err != nil {
		return nil, err
	}
	resp, err := d.client.Do(req)
	switch {
	case err != nil && resp != nil:
		return nil, refusedBy(resp, "the redirect was not followed", withoutURL(err))
	case err != nil:
		return nil, err
	}
	cfg := d.opts.config(false)
	if e := d.judge(resp, &cfg); e != nil {
		e.StatusCode, e.Header, e.Body = resp.StatusCode, resp.Header, d.startOfBody(resp)
		return nil, e
	}
	return d.take(resp, cfg)
}

// request returns the client's opening handshake (RFC 6455, section 4.1), without the key.
func (d *dialing) request(u *url.URL) (*http.Request, error) {
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.URL = u
	for name, values := range d.opts.Header {
		req.Header[http.CanonicalHeaderKey(name)] = append(req.Header[http.CanonicalHeaderKey(name)], values...)
	}
	if host := req.Header["Host"]; len(host) > 0 {
		req.Host = host[0]
		delete(req.Header, "Host")
	}
	req.Header["Sec-Websocket-Version"] = []string{"13"}
	if p := d.opts.Subprotocols; len(p) > 0 {
		req.Header["Sec-Websocket-Protocol"] = []string{strings.Join(p, ", ")}
	}
	if c := d.opts.Compression; c != nil {
		req.Header["Sec-Websocket-Extensions"] = []string{c.offer()}
	}
	req.Header["Upgrade"] = []string{"websocket"}
	req.Header["Connection"] = []string{"Upgrade"}
	return req, nil
}

// prepareClient changes the copy of the caller's client for the handshake: it sends requests through d, which gives
// them to a tunnel, to an h2transport or to the caller's RoundTripper.
func (d *dialing) prepareClient(ctx context.Context) error {
	d.next = d.client.Transport
	if d.next == nil {
		d.next = http.DefaultTransport
	}
	t, ok := d.next.(*http.Transport)
	switch {
	case ok && d.opts.HTTP2:
		d.next = &h2transport{t, ctx}
	case ok:
		d.next = &tunnel{t.Clone(), ctx} // t itself may change when it is first used
	case d.opts.HTTP2:
		return &HandshakeError{Reason: fmt.Sprintf("HTTP/2 needs an *http.Transport, not a %T", d.next)}
	}
	d.client.Transport = d
	d.client.Timeout = 0 // ctx has it; here it would limit the connection too
	d.client.CheckRedirect = d.checkRedirect(d.client.CheckRedirect)
	return nil
}

// RoundTrip sends a copy of req with a new key. It refuses a redirect to a URL that does not parse.
func (d *dialing) RoundTrip(req *http.Request) (*http.Response, error) {
	d.sent = req.Clone(req.Context())
	// RFC 6455, section 4.1: "The nonce MUST be selected randomly for each connection."
	var nonce [16]byte
	rand.Read(nonce[:])
	d.sent.Header["Sec-Websocket-Key"] = []string{base64.StdEncoding.EncodeToString(nonce[:])}
	resp, err := d.next.RoundTrip(d.sent)
	if err != nil || resp == nil || resp.StatusCode/100 != 3 {
		return resp, err
	}
	if _, err := d.sent.URL.Parse(resp.Header.Get("Location")); err != nil {
		if resp.Body != nil {
			resp.Body.Close()
		}
		// http.Client would quote the URL in its error, and the URL may contain a password.
		return nil, refusedBy(resp, "the redirect was not followed", errors.New("its URL is invalid"))
	}
	return resp, nil
}

// A redirectFunc is a CheckRedirect of an http.Client.
type redirectFunc = func(req *http.Request, via []*http.Request) error

// checkRedirect returns the CheckRedirect function of the handshake, which asks the caller's function.
func (d *dialing) checkRedirect(ask redirectFunc) redirectFunc {
	if ask == nil {
		return func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return func(req *http.Request, via []*http.Request) error {
		req.URL.Fragment, req.URL.RawFragment = "", "" // a redirect meant for pages may have one
		u, err := parseURL(req.URL.String())
		if err != nil {
			return err
		}
		req.URL = u
		switch last := via[len(via)-1]; {
		case last.URL.Scheme == "https" && u.Scheme != "https":
			return errors.New("it leads from wss to ws")
		case len(via) > maxRedirects:
			return fmt.Errorf("there were more than %d redirects", maxRedirects)
		}
		keepSecrets(req, via)
		return ask(req, via)
	}
}

// forAnyHost lists the fields of a request that a redirect to another host keeps.
var forAnyHost = []string{
	"Upgrade", "Connection", "Sec-Websocket-Version", "Sec-Websocket-Extensions", "Origin", "User-Agent",
}

// keepSecrets removes the fields that may contain a secret from a redirected request, if an earlier request went to
// another host. It always removes the Referer that http.Client adds, because its query may contain a secret too.
func keepSecrets(req *http.Request, via []*http.Request) {
	if via[0].Header["Referer"] == nil {
		delete(req.Header, "Referer")
	}
	if slices.ContainsFunc(via, func(r *http.Request) bool { return !equalFold(r.URL.Host, req.URL.Host) }) {
		maps.DeleteFunc(req.Header, func(name string, _ []string) bool { return !slices.Contains(forAnyHost, name) })
	}
}

// judge checks the server's handshake, in the order of RFC 6455, section 4.1, and stores the server's choices in cfg.
func (d *dialing) judge(resp *http.Response, cfg *config) *HandshakeError {
	accepted := d.accepted(resp)
	switch {
	case !accepted && resp.StatusCode/100 == 3 && (d.opts.HTTPClient == nil || d.opts.HTTPClient.CheckRedirect == nil):
		return &HandshakeError{Reason: "the server redirects; set HTTPClient.CheckRedirect to follow"}
	case !accepted:
		return &HandshakeError{Reason: "the server refused the upgrade"}
	case !d.opts.HTTP2:
		if e := d.judgeUpgrade(resp); e != nil {
			return e
		}
	}
	return d.judgeChoices(resp.Header, cfg)
}

// accepted reports whether the status means success: 2xx for the CONNECT of HTTP/2 (RFC 8441, section 5), and otherwise
// 101.
func (d *dialing) accepted(resp *http.Response) bool {
	if d.opts.HTTP2 {
		return resp.StatusCode/100 == 2
	}
	return resp.StatusCode == http.StatusSwitchingProtocols
}

// judgeUpgrade checks the fields of an HTTP/1.1 upgrade, all of which the RFC requires.
func (d *dialing) judgeUpgrade(resp *http.Response) *HandshakeError {
	h := resp.Header
	switch upgrade, accept := h["Upgrade"], h["Sec-Websocket-Accept"]; {
	case !resp.ProtoAtLeast(1, 1):
		return &HandshakeError{Reason: "the response has the version " + resp.Proto}
	case len(upgrade) != 1 || !equalFold(upgrade[0], "websocket"):
		return &HandshakeError{Reason: "the response lacks Upgrade: websocket"}
	case !hasToken(h["Connection"], "upgrade"):
		return &HandshakeError{Reason: "the response lacks Connection: Upgrade"}
	case len(accept) != 1 || accept[0] != string(appendAcceptKey(nil, d.sent.Header.Get("Sec-Websocket-Key"))):
		return &HandshakeError{Reason: "the response's Sec-WebSocket-Accept does not match the key"}
	}
	return nil
}

// judgeChoices checks that the last request offered the server's choices.
func (d *dialing) judgeChoices(h http.Header, cfg *config) *HandshakeError {
	if p, ok := h["Sec-Websocket-Protocol"]; ok {
		if len(p) != 1 || p[0] == "" || firstOffered(p, d.sent.Header["Sec-Websocket-Protocol"]) != p[0] {
			return &HandshakeError{Reason: fmt.Sprintf("the server chose a subprotocol that was not offered: %q", p)}
		}
		cfg.subprotocol = p[0]
	}
	values, ok := h["Sec-Websocket-Extensions"]
	if !ok {
		return nil
	}
	answer, ok := parseExtensions(values, "")
	if !ok || len(values) != 1 {
		return &HandshakeError{Reason: fmt.Sprintf("the response's Sec-WebSocket-Extensions is malformed: %q", values)}
	}
	if d.opts.Compression == nil {
		return &HandshakeError{Reason: fmt.Sprintf("the server chose an extension that was not offered: %q", values)}
	}
	var err error
	if cfg.deflate, err = d.opts.Compression.confirm(answer); err != nil {
		return &HandshakeError{Reason: fmt.Sprintf("the server chose extensions that cannot be used: %q", values), Err: err}
	}
	return nil
}

// startOfBody reads the start of the body of a response that is not a handshake, and closes it.
func (d *dialing) startOfBody(resp *http.Response) []byte {
	defer resp.Body.Close()
	if d.accepted(resp) {
		return nil // the body is the connection
	}
	ctx, cancel := context.WithTimeout(d.ctx, errorBodyTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { resp.Body.Close() })()
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	return p
}

// take returns the Conn over the body of a response that judge has accepted. If ctx ends in the meantime, the
// underlying connection is closed, and dial returns the error.
func (d *dialing) take(resp *http.Response, cfg config) (*Conn, error) {
	switch body := resp.Body.(type) {
	case *tunnelBody:
		cfg.early = buffered(body.ahead)
		return newConn(body.nc, cfg), nil
	case *clientStream:
		cfg.hidden = true
		return newConn(body.start(), cfg), nil
	case io.ReadWriteCloser:
		return newConn(newH2Conn(bodyStream{body}).start(streamAddr("local"), streamAddr(d.sent.URL.Host)), cfg), nil
	}
	resp.Body.Close()
	const reason = "the RoundTripper's body of a 101 must be an io.ReadWriteCloser, but it is a %T"
	return nil, refusedBy(resp, fmt.Sprintf(reason, resp.Body), nil)
}

// refusedBy returns the error of a Dial that failed because of resp.
func refusedBy(resp *http.Response, reason string, err error) *HandshakeError {
	return &HandshakeError{Reason: reason, StatusCode: resp.StatusCode, Header: resp.Header, Err: err}
}
