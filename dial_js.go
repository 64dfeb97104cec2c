package websocket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall/js"
)

// dial opens a connection with the WebSocket object of the browser or of Node.
func dial(ctx context.Context, url string, opts *Options) (*Conn, error) {
	if err := opts.checkBrowser(); err != nil {
		return nil, &HandshakeError{Reason: "the options are invalid", Err: err}
	}
	url, err := browserURL(url)
	if err != nil {
		return nil, &HandshakeError{Reason: "the URL is invalid", Err: err}
	}
	if opts.Group != nil && opts.Group.isClosed() {
		return nil, &HandshakeError{Reason: "the group is shut down"}
	}
	b, err := openBrowser(ctx, url, opts.Subprotocols)
	if err != nil {
		return nil, err
	}
	cfg := opts.config(false)
	cfg.hidden = true
	if p := b.object.Get("protocol"); p.Type() == js.TypeString {
		cfg.subprotocol = p.String()
	}
	return enterDialed(newConn(b, cfg), opts.Group)
}

var errBrowserHTTP2 = errors.New("Options.HTTP2: in a browser the version of HTTP is the browser's choice")

// browserURL returns the ws or wss URL for s. It checks only the scheme and the fragment; the browser checks the rest.
func browserURL(s string) (string, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	switch scheme = strings.ToLower(scheme); {
	case !ok || scheme != "ws" && scheme != "wss" && scheme != "http" && scheme != "https":
		return "", errors.New("its scheme is not ws or wss")
	case strings.Contains(rest, "#"):
		// RFC 6455, section 3: "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be
		// used on these URIs."
		return "", errors.New("it has a fragment")
	}
	if secure, ok := strings.CutPrefix(scheme, "http"); ok {
		scheme = "ws" + secure
	}
	return scheme + "://" + rest, nil
}

// openBrowser opens a WebSocket of the browser and waits until it is open.
func openBrowser(ctx context.Context, url string, subprotocols []string) (*browserConn, error) {
	if ctx == nil {
		return nil, &HandshakeError{Reason: "the connection was not opened", Err: errNilContext}
	}
	if ctx.Err() != nil {
		return nil, dialContextError(ctx)
	}
	b, err := newBrowserConn(url, subprotocols)
	if err != nil {
		return nil, &HandshakeError{Reason: "the browser refused to open a connection", Err: err}
	}
	select {
	case <-b.opened:
		return b, nil
	case <-b.refused:
		// "User agents must not convey any failure information to scripts in a way that would allow a script to
		// distinguish the following situations" (WHATWG WebSockets, section 4): no such server, a
		// response that is not a handshake, a certificate that cannot be trusted.
		const reason = "the connection could not be opened, and a browser does not let a page know why"
		return nil, &HandshakeError{Reason: reason, Err: b.failure()}
	case <-ctx.Done():
		b.Close()
		return nil, dialContextError(ctx)
	}
}

// dialContextError returns the error of a Dial whose ctx has ended.
func dialContextError(ctx context.Context) error {
	return &HandshakeError{Reason: "the connection was not opened in time", Err: contextError(ctx)}
}

// newObject makes the browser's object. Its constructor throws when the URL has no host, or when a page that was loaded
// over TLS opens a connection without TLS.
func newObject(url string, subprotocols []string) (js.Value, error) {
	constructor := js.Global().Get("WebSocket")
	if constructor.Type() != js.TypeFunction {
		return js.Value{}, errors.New("globalThis has no WebSocket: before version 22 of Node, set it to npm's ws")
	}
	offer := make([]any, len(subprotocols))
	for i, p := range subprotocols {
		offer[i] = p
	}
	var object js.Value
	err := catch(func() { object = constructor.New(url, offer) })
	return object, err
}

// catch calls f and returns the exception that f throws in JavaScript, or nil.
func catch(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			thrown, ok := r.(js.Error)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("JavaScript: %w", thrown)
		}
	}()
	f()
	return nil
}
