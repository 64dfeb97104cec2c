//go:build !(js && websocket_nohttp)

package websocket

import (
	"fmt"
	"log"
	"net/http"
	"slices"
	"time"
)

// Options configures either end of a connection. A nil *Options and the zero value select the defaults.
//
// The package does not change an Options. A caller may use one Options for any number of connections, and must not
// change it while it is in use. [Upgrade], [Dial] and [Serve] report a value that is out of range as an error.
type Options struct {
	// Subprotocols lists subprotocols in order of preference (RFC 6455, section 1.9). Each is an HTTP token. A client
	// offers all of them. A server chooses the first one in its own list that the client offers, and none if the lists
	// have nothing in common. [Conn.Subprotocol] returns the choice at both ends; "" is not an error.
	//
	// A browser that offers subprotocols fails the connection if the server chooses none of them.
	Subprotocols []string

	// Header is added to the request (Dial) or to the response (Upgrade). In a request, "Host" sets the host. Fields
	// that belong to the handshake, such as Upgrade, Connection, Sec-WebSocket-* and Content-Length, are an error, and
	// so are names and values that are not valid in HTTP.
	Header http.Header

	// MaxMessageSize limits the size of a received message, in bytes after decompression. A longer message fails the
	// connection with [StatusMessageTooBig]. Zero means 1 MiB, and a negative value means no limit. With or without a
	// limit, memory use grows with the bytes received, not with the announced length.
	MaxMessageSize int64

	// KeepAlive is how long the peer may be silent before it is sent a ping, and how long it may then stay silent
	// before the connection fails. Any byte received ends the silence. The clock is stopped while nothing reads from
	// the connection. Zero means 30 seconds, and a negative value disables pings.
	KeepAlive time.Duration

	// CloseTimeout bounds the whole closing handshake (RFC 6455, section 7), whatever the peer sends in the meantime.
	// Zero means 5 seconds.
	CloseTimeout time.Duration

	// WriteTimeout is how long a write may wait while the socket accepts no byte. After that the connection fails. It
	// also bounds the server's handshake response, and the time that Serve allows for receiving a request. Zero means
	// 30 seconds, and a negative value means no limit.
	WriteTimeout time.Duration

	// MaxPending is the number of bytes that may wait to be sent. Beyond it, Send returns [ErrBacklog] and Write
	// blocks. It does not limit the size of a single message. Zero means 1 MiB.
	MaxPending int

	// Compression offers (Dial) or accepts (Upgrade) permessage-deflate. nil disables compression.
	Compression *Compression

	// Group, if it is not nil, is the group that a connection joins: with Upgrade before the handshake is answered,
	// with Dial after it. If the Group was shut down, Upgrade answers 503 with a Retry-After, and Dial fails.
	Group *Group

	// Origins lists the origins that Upgrade accepts in addition to the request's own host. A pattern has the form
	// [scheme://]host[:port] and is compared without regard to case. "*.example.com" matches every host below
	// example.com, but not example.com itself. Without a scheme, http and https match; without a port, the scheme's
	// default port matches, and ":*" matches every port. A pattern that cannot match any origin sent by a browser is an
	// error.
	//
	// A request without an Origin field does not come from a web page and is accepted.
	Origins []string

	// CheckOrigin replaces Upgrade's check of the origin. If it returns false, Upgrade answers 403. If CheckOrigin is
	// nil, an origin must have the request's own host or match one of Origins.
	//
	// A CheckOrigin that always returns true lets every web page that a user visits open connections to this server
	// with the user's cookies (RFC 6455, section 10.2).
	CheckOrigin func(*http.Request) bool

	// ErrorLog receives the refused handshakes of [Handler] and [Serve], each with its reason, and the panics of their
	// serve functions and of the functions given to [Conn.OnMessage]. If it is nil, panics go to the ErrorLog of the
	// http.Server or to the standard logger of package log, and refused handshakes are not logged.
	ErrorLog *log.Logger

	// HTTPClient is the client with which Dial sends its request; see [Dial] for the fields that are used. If it is
	// nil, Dial uses the proxy from the environment, follows no redirects and accepts a response header of at most 64
	// KiB.
	HTTPClient *http.Client

	// HTTP2 makes Dial open a stream of an HTTP/2 connection (RFC 8441) instead of upgrading an HTTP/1.1 connection.
	HTTP2 bool
}

// check reports the first option that is out of range.
func (o *Options) check() error {
	if err := o.checkCommon(); err != nil {
		return err
	}
	for _, p := range o.Origins {
		if err := checkPattern(p); err != nil {
			return fmt.Errorf("Options.Origins: %w", err)
		}
	}
	return checkHeader(o.Header)
}

// checkHeader reports fields that would break the handshake: names that it uses itself, and bytes that would end a
// field and begin another.
func checkHeader(h http.Header) error {
	for name, values := range h {
		switch {
		case !isToken(name):
			return fmt.Errorf("Options.Header: %q is not a field name", name)
		case isReserved(name):
			return fmt.Errorf("Options.Header: %s belongs to the handshake", name)
		case equalFold(name, "Host") && !(len(values) == 1 && isHostPort(values[0])):
			return fmt.Errorf("Options.Header: Host is not a single host: %q", values)
		}
	}
	if name, ok := badValue(h); ok {
		return fmt.Errorf("Options.Header: the value of %s contains a control character", name)
	}
	return nil
}

// badValue returns the name of a field whose value is not valid in HTTP, and whether there is one.
func badValue(h http.Header) (string, bool) {
	for name, values := range h {
		if slices.ContainsFunc(values, func(v string) bool { return !isFieldValue(v) }) {
			return name, true
		}
	}
	return "", false
}

// isReserved reports whether the handshake itself sets a field.
func isReserved(name string) bool {
	const ours = "sec-websocket-"
	if len(name) >= len(ours) && equalFold(name[:len(ours)], ours) {
		return true
	}
	return slices.ContainsFunc(reserved, func(s string) bool { return equalFold(name, s) })
}

// reserved lists the fields that describe a connection or a body.
var reserved = []string{"upgrade", "connection", "content-length", "transfer-encoding", "trailer", "keep-alive", "proxy-connection", "http2-settings"}
