package websocket

// Dial under GOOS=js: the options and URLs that a browser allows, and the browser's handshake.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall/js"
)

// dial opens a connection with the WebSocket object of the browser or of Node. The object makes the checks of RFC 6455,
// section 4.1, that dial.go makes elsewhere. The browser's choice of extensions does not matter, because the Conn sees
// whole messages.
func dial(ctx context.Context, url string, opts *Options) (*Conn, error) {
	if err := opts.checkBrowser(); err != nil {
		return nil, &HandshakeError{Reason: "the options are invalid", Err: err}
	}
	url, err := browserURL(url)
	if err != nil {
		return nil, &HandshakeError{Reason: "the URL is invalid", Err: err}
	}
	if err := opts.refusesDial(ctx); err != nil {
		return nil, err
	}
	b, err := openBrowser(ctx, url, opts.Subprotocols)
	if err != nil {
		return nil, err
	}
	cfg := opts.config(false)
	cfg.hidden = true // a browserConn does not carry the bytes of the network
	if p := b.object.Get("protocol"); p.Type() == js.TypeString {
		cfg.subprotocol = p.String()
	}
	return enterDialed(newConn(b, cfg), opts.Group)
}

var errBrowserHTTP2 = errors.New("Options.HTTP2: in a browser the version of HTTP is the browser's choice")

// browserSchemes maps the schemes that Dial accepts to the schemes of a browser's WebSocket.
var browserSchemes = map[string]string{"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

// browserURL returns the ws or wss URL for s. It checks only the scheme and the fragment; the browser checks the rest.
func browserURL(s string) (string, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	scheme = browserSchemes[strings.ToLower(scheme)]
	switch {
	case !ok || scheme == "":
		return "", errors.New("its scheme is not ws or wss")
	case strings.Contains(rest, "#"):
		// RFC 6455, section 3: "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be
		// used on these URIs."
		return "", errors.New("it has a fragment")
	}
	return scheme + "://" + rest, nil
}

// openBrowser opens a WebSocket of the browser and waits until it is open. If ctx ends first, openBrowser closes the
// WebSocket. Every error is a *HandshakeError.
func openBrowser(ctx context.Context, url string, subprotocols []string) (*browserConn, error) {
	b, err := newBrowserConn(url, subprotocols)
	if err != nil {
		return nil, &HandshakeError{Reason: "the browser refused to open a connection", Err: err}
	}
	select {
	case err := <-b.opened:
		if err == nil {
			return b, nil
		}
		// "User agents must not convey any failure information to scripts in a way that would allow a script to
		// distinguish the following situations" (WHATWG WebSockets, section 4): no such server, a response that is not
		// a handshake, a certificate that cannot be trusted.
		const reason = "the connection could not be opened, and a browser does not let a page know why"
		return nil, &HandshakeError{Reason: reason, Err: err}
	case <-ctx.Done():
		b.Close()
		return nil, &HandshakeError{Reason: "the connection was not opened in time", Err: contextError(ctx)}
	}
}

// newObject makes the browser's object, which begins to connect at once. Its constructor throws when the URL has no
// host, or when a page that was loaded over TLS opens a connection without TLS.
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

// catch calls f and returns the exception that f throws in JavaScript, or nil. syscall/js turns an exception into a
// panic with a js.Error. Any other panic is a bug and continues.
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
