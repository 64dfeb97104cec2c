//go:build websocket_nohttp

package websocket

import (
	"cmp"
	"context"
	"log"
	"time"
)

// This file and the constraint !(js && websocket_nohttp) leave out all code that refers to net/http. net/http is half
// of a small program, mostly because of crypto/tls: the linker cannot drop packages that initialize themselves. The
// types here have the names and fields of the other builds, so that a client compiles with or without the build tag.

// Options is the Options of other builds without Header, HTTPClient and CheckOrigin.
type Options struct {
	Subprotocols   []string
	MaxMessageSize int64
	KeepAlive      time.Duration
	CloseTimeout   time.Duration
	WriteTimeout   time.Duration
	MaxPending     int
	Compression    *Compression
	Group          *Group
	Origins        []string // has no effect on a client
	ErrorLog       *log.Logger
	HTTP2          bool // Dial returns an error if it is set
}

func (o *Options) check() error { return o.checkCommon() }

// checkBrowser is check for a client in a browser.
func (o *Options) checkBrowser() error {
	if o.HTTP2 {
		return errBrowserHTTP2
	}
	return o.check()
}

// A HandshakeError is the HandshakeError of other builds without Header.
type HandshakeError struct {
	Reason     string // what was wrong, in words
	StatusCode int    // 0
	Body       []byte // nil
	Err        error  // cause, or nil
}

func statusText(int) string { return "" }

// Dial opens a connection with the WebSocket object of the browser or of Node. The documentation of the package has the
// details.
func Dial(ctx context.Context, url string, opts *Options) (*Conn, error) {
	return dial(ctx, url, cmp.Or(opts, &noOptions))
}
