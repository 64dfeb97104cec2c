package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	maxRedirects      = 10
	maxResponseHeader = 64 << 10        // unless the Transport says otherwise
	maxErrorBody      = 4 << 10         // of a HandshakeError
	errorBodyTime     = 2 * time.Second // to read it in
)

// Dial opens a connection to a URL whose scheme is ws or wss, or http or https, which mean the same (RFC
// 6455, sections 3 and 4.1). ctx bounds the handshake, at every stage, and the connection does not know it
// afterwards; without a deadline of ctx or a Timeout of opts.HTTPClient, Dial waits for a silent server.
// User and password in the URL are sent as basic authentication.
//
// Every error is a *[HandshakeError]: with the status, header and first bytes of the body of an answer that
// is not the one asked for, or with the cause, such as ctx's error. Every check that RFC 6455, section 4.1,
// demands of the answer is made. That none of the offered subprotocols was chosen is no error.
//
// The request goes through opts.HTTPClient: its Transport's dial functions, proxy and TLS settings, its
// CheckRedirect, Jar and Timeout, which bounds the handshake only. HTTP/1.1 is spoken however capable of
// HTTP/2 it is, on a connection of its own. Redirects are not followed unless CheckRedirect is set; then
// never from wss to ws, at most 10, and without Authorization and Cookie fields once the host changes. The
// jar sees http and https for ws and wss. A RoundTripper that is no *http.Transport is used as it is; the
// response to a 101 must have a Body that is an io.ReadWriteCloser.
//
// Proxies (http, https, socks5, socks5h) are those of the Transport's Proxy function, by default the
// environment's. ws passes through an HTTP proxy by CONNECT too (RFC 6455, section 4.1). TLS is verified
// against the target's name. A proxy's refusal is a HandshakeError with the proxy's status.
//
// With opts.HTTP2 the connection is a stream of HTTP/2 (RFC 8441): for wss over TLS with the settings of the
// Transport, for ws by prior knowledge. Connections of one Transport to one host share a TCP connection while
// one of them is open. NetConn is nil, and a write deadline that passes in the middle of a write is final.
//
// Dial does not limit the number of connections to a host that are being opened at the same time (RFC 6455,
// section 4.1, asks for one at a time), nor does it try again: that, with a growing and random delay
// (section 7.2.3), is the caller's choice.
func Dial(ctx context.Context, url string, opts *Options) (*Conn, error) {
	if opts == nil {
		opts = &Options{}
	}
	u, err := parseURL(url)
	if err != nil {
		return nil, &HandshakeError{Reason: "the URL cannot be dialed", Err: err}
	}
	if err := opts.check(); err != nil {
		return nil, &HandshakeError{Reason: "the options cannot be used", Err: err}
	}
	if opts.Group != nil && opts.Group.isClosed() {
		return nil, &HandshakeError{Reason: "the group has been shut down"}
	}
	d := &dialing{opts: opts}
	if opts.HTTPClient != nil {
		d.client = *opts.HTTPClient
	}
	return d.dial(ctx, u)
}

// parseURL returns the http or https URL that u means.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return nil, e.Err // without the URL, in which there may be a password
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	default:
		return nil, fmt.Errorf("its scheme is not ws or wss but %q", u.Scheme)
	}
	// RFC 6455, section 3: "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST
	// NOT be used on these URIs."
	if strings.Contains(s, "#") {
		return nil, errors.New("it has a fragment")
	}
	return u, normalize(u)
}

// normalize brings the host and the query of u into the form that a request has them in.
func normalize(u *url.URL) error {
	host, err := asciiHost(u.Host)
	if err != nil || u.Hostname() == "" {
		return errors.New("it has no valid host")
	}
	u.Host = host
	if p := u.Port(); p == "" || p == defaultPort(u.Scheme) {
		u.Host = strings.TrimSuffix(strings.TrimSuffix(u.Host, p), ":")
	}
	u.RawQuery = escapeQuery(u.RawQuery)
	return nil
}

// asciiHost returns the host with its name in punycode, which net/http makes when it writes a request.
func asciiHost(host string) (string, error) {
	if isASCII(host) {
		return host, nil
	}
	if !utf8.ValidString(host) {
		return "", errors.New("not UTF-8")
	}
	var b bytes.Buffer
	r := &http.Request{Method: "GET", URL: &url.URL{Path: "/"}, Host: strings.ToLower(host)}
	if err := r.Write(&b); err != nil {
		return "", err
	}
	r, err := http.ReadRequest(bufio.NewReader(&b))
	if err != nil {
		return "", err
	}
	if r.Host == "" || !isASCII(r.Host) {
		return "", errors.New("no host")
	}
	return r.Host, nil
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// escapeQuery keeps a query byte for byte, but for those bytes that may not stand in a request's target.
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

// A dialing is one call of Dial.
type dialing struct {
	opts   *Options
	client http.Client // the caller's, changed for the handshake
	ctx    context.Context
	cancel context.CancelCauseFunc  // ends ctx, and with it every connection that was not handed over
	key    string                   // Sec-WebSocket-Key of the request under way
	host   string                   // that it goes to
	nc     atomic.Pointer[net.Conn] // of the request under way, as httptrace has it; nil: not known
}

// dial makes the handshake. What it opens lives in a context of its own, which follows ctx until the
// handshake is over and is left alone when it succeeded.
func (d *dialing) dial(ctx context.Context, u *url.URL) (*Conn, error) {
	if d.client.Timeout > 0 {
		var done func()
		ctx, done = context.WithTimeout(ctx, d.client.Timeout)
		defer done()
	}
	d.ctx, d.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { d.cancel(ctx.Err()) })
	defer stop()
	c, err := d.handshake(u)
	if err == nil && stop() {
		if !enter(c, d.opts.Group) {
			go c.Close(StatusGoingAway, "")
			return nil, &HandshakeError{Reason: "the group of the options is shut down"}
		}
		return c, nil
	}
	if err == nil {
		c.CloseNow()
	}
	d.cancel(context.Canceled)
	return nil, d.failure(ctx, err)
}

// failure makes err the error of Dial. ctx's error is reachable through it when ctx has ended.
func (d *dialing) failure(ctx context.Context, err error) error {
	var e *HandshakeError
	if !errors.As(err, &e) {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // it would repeat the URL, with http for ws
		}
		e = &HandshakeError{Reason: "the request was not answered", Err: err}
	}
	for _, cause := range []error{ctx.Err(), context.Cause(ctx)} {
		if cause != nil && !errors.Is(e, cause) {
			e.Err = errors.Join(cause, e.Err)
		}
	}
	return e
}

func (d *dialing) handshake(u *url.URL) (*Conn, error) {
	req, err := d.request(u)
	if err != nil {
		return nil, err
	}
	if err := d.prepareClient(); err != nil {
		return nil, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, withResponse(err, resp)
	}
	cfg := d.opts.config(false)
	if e := d.judge(resp, &cfg); e != nil {
		e.StatusCode, e.Header, e.Body = resp.StatusCode, resp.Header, d.startOfBody(resp)
		return nil, e
	}
	return d.take(resp, cfg)
}

// withResponse adds to err the response that http.Client returns with it when a redirect is not followed.
func withResponse(err error, resp *http.Response) error {
	if resp == nil {
		return err
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return &HandshakeError{Reason: "the redirect was not followed", StatusCode: resp.StatusCode, Header: resp.Header, Err: err}
}

// request makes the client's handshake (RFC 6455, section 4.1).
func (d *dialing) request(u *url.URL) (*http.Request, error) {
	ctx := httptrace.WithClientTrace(d.ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { d.nc.Store(&i.Conn) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
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
	d.setKey(req)
	return req, nil
}

// setKey gives req a Sec-WebSocket-Key of its own: "The nonce MUST be selected randomly for each
// connection" (RFC 6455, section 4.1).
func (d *dialing) setKey(req *http.Request) {
	var nonce [16]byte
	rand.Read(nonce[:])
	d.key = base64.StdEncoding.EncodeToString(nonce[:])
	req.Header["Sec-Websocket-Key"] = []string{d.key}
	d.host = req.URL.Host // a RoundTripper need not set Response.Request
}

// prepareClient changes the copy of the caller's client for the handshake.
func (d *dialing) prepareClient() error {
	d.client.Timeout = 0 // it would bound the connection too; ctx has it
	d.client.CheckRedirect = d.checkRedirect(d.client.CheckRedirect)
	rt := d.client.Transport
	if rt == nil {
		rt = http.DefaultTransport
	}
	t, ok := rt.(*http.Transport)
	switch {
	case ok && d.opts.HTTP2:
		rt = &h2transport{transport{t}}
	case ok:
		rt = &transport{t}
	case d.opts.HTTP2:
		return &HandshakeError{Reason: fmt.Sprintf("HTTP/2 needs an *http.Transport, not a %T", rt)}
	}
	d.client.Transport = rt
	return nil
}

// checkRedirect asks the caller's function, where there is one, for what is not refused at once.
func (d *dialing) checkRedirect(ask func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	if ask == nil {
		return func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return func(req *http.Request, via []*http.Request) error {
		req.URL.Fragment, req.URL.RawFragment = "", "" // the browser's business, not the server's
		u, err := parseURL(req.URL.String())
		if err != nil {
			return err
		}
		req.URL = u
		switch last := via[len(via)-1]; {
		case last.URL.Scheme == "https" && u.Scheme != "https":
			return errors.New("redirected from wss to ws")
		case len(via) > maxRedirects:
			return fmt.Errorf("redirected more than %d times", maxRedirects)
		}
		dropCredentials(req, via)
		d.setKey(req)
		return ask(req, via)
	}
}

// dropCredentials removes what was meant for the host that was dialed first, once another was on the way.
func dropCredentials(req *http.Request, via []*http.Request) {
	for _, r := range via {
		if !equalFold(r.URL.Host, req.URL.Host) {
			for _, name := range [...]string{"Authorization", "Cookie", "Proxy-Authorization"} {
				req.Header.Del(name)
			}
		}
	}
}

// judge checks the server's handshake, in the order of RFC 6455, section 4.1, and puts what was agreed on
// into cfg.
func (d *dialing) judge(resp *http.Response, cfg *config) *HandshakeError {
	if d.opts.HTTP2 {
		if resp.StatusCode/100 != 2 {
			return &HandshakeError{Reason: "the server answered " + resp.Status}
		}
	} else if e := d.judgeUpgrade(resp); e != nil {
		return e
	}
	return d.judgeChoices(resp.Header, cfg)
}

func (d *dialing) judgeUpgrade(resp *http.Response) *HandshakeError {
	h := resp.Header
	switch upgrade, accept := h["Upgrade"], h["Sec-Websocket-Accept"]; {
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return &HandshakeError{Reason: "the server answered " + resp.Status}
	case !resp.ProtoAtLeast(1, 1):
		return &HandshakeError{Reason: "the server answered with " + resp.Proto}
	case len(upgrade) != 1 || !equalFold(upgrade[0], "websocket"):
		return &HandshakeError{Reason: "the answer lacks Upgrade: websocket"}
	case !hasToken(h["Connection"], "upgrade"):
		return &HandshakeError{Reason: "the answer lacks Connection: Upgrade"}
	case len(accept) != 1 || accept[0] != string(appendAcceptKey(nil, d.key)):
		return &HandshakeError{Reason: "the answer's Sec-WebSocket-Accept is not that of the key sent"}
	}
	return nil
}

// judgeChoices checks that what the server chose had been offered.
func (d *dialing) judgeChoices(h http.Header, cfg *config) *HandshakeError {
	if p, ok := h["Sec-Websocket-Protocol"]; ok {
		if len(p) != 1 || firstOffered(d.opts.Subprotocols, p) != p[0] || p[0] == "" {
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
		return &HandshakeError{Reason: fmt.Sprintf("the answer's Sec-WebSocket-Extensions is malformed: %q", values)}
	}
	if d.opts.Compression == nil {
		return &HandshakeError{Reason: fmt.Sprintf("the server chose an extension that was not offered: %q", values)}
	}
	var err error
	if cfg.deflate, err = d.opts.Compression.confirm(answer); err != nil {
		return &HandshakeError{Reason: fmt.Sprintf("the server's extensions cannot be used: %q", values), Err: err}
	}
	return nil
}

// startOfBody reads the first bytes of a response that is no handshake, and closes it. ctx's end, and that of
// the time there is for it, closes what it reads from.
func (d *dialing) startOfBody(resp *http.Response) []byte {
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	t := time.AfterFunc(errorBodyTime, func() { d.cancel(context.DeadlineExceeded) })
	defer t.Stop()
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	return p
}

// take makes the connection of what is beneath the response.
func (d *dialing) take(resp *http.Response, cfg config) (*Conn, error) {
	switch body := resp.Body.(type) {
	case *wire:
		if !body.stop() {
			return nil, context.Cause(d.ctx)
		}
		cfg.early = buffered(body.br)
		return newConn(body.Conn, cfg), nil
	case *clientStream:
		body.ends = [2]net.Addr{streamAddr("local"), streamAddr(d.host)}
		if nc := d.nc.Load(); nc != nil {
			body.ends = [2]net.Addr{(*nc).LocalAddr(), (*nc).RemoteAddr()}
		}
		cfg.hidden = true
		return newConn(newStreamConn(body), cfg), nil
	case io.ReadWriteCloser:
		return d.takeBody(body, cfg)
	}
	resp.Body.Close()
	return nil, &HandshakeError{
		Reason:     fmt.Sprintf("the RoundTripper's body of a 101 cannot be written to: %T", resp.Body),
		StatusCode: resp.StatusCode,
		Header:     resp.Header,
	}
}

// takeBody takes the connection beneath the body of a 101 where that is net/http's own, else the body.
func (d *dialing) takeBody(body io.ReadWriteCloser, cfg config) (*Conn, error) {
	nc := d.nc.Load()
	if nc == nil || !isOver(body, *nc) {
		return newConn(newStreamConn(&bodyStream{body, d.host}), cfg), nil
	}
	var err error
	if cfg.early, err = drain(body, *nc); err != nil {
		body.Close()
		return nil, err
	}
	return newConn(*nc, cfg), nil
}

// isOver reports whether the body of a 101 is that of an http.Transport over the very connection that httptrace
// named, and not one that a RoundTripper has put around it. net/http's body embeds the connection.
func isOver(body io.ReadWriteCloser, nc net.Conn) bool {
	v := reflect.ValueOf(body)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct || v.Elem().Type().PkgPath() != "net/http" {
		return false
	}
	f := v.Elem().FieldByName("ReadWriteCloser")
	return f.IsValid() && f.CanInterface() && f.Interface() == any(nc)
}

// drain reads what net/http has buffered of the connection: with a deadline in the past nothing else can be
// read.
func drain(body io.Reader, nc net.Conn) (early []byte, err error) {
	if err := nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	early, err = io.ReadAll(body)
	if e := net.Error(nil); err == nil || !errors.As(err, &e) || !e.Timeout() {
		return nil, fmt.Errorf("the connection ended behind the handshake: %w", err)
	}
	return early, nc.SetDeadline(time.Time{})
}
