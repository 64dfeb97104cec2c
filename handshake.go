//go:build !(js && websocket_nohttp)

package websocket

// The server's opening handshake. Upgrade and Serve call negotiate, which checks a request and decides on the answer. A
// refusal becomes an HTTP response and an error; an answer becomes a Conn.

import (
	"bufio"
	"cmp"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"time"
)

// Upgrade answers the opening handshake in r and takes over its connection (RFC 6455, section 4.2).
//
// Upgrade checks the request before it hijacks the connection. If it refuses the request, it sends the response and
// returns a *[HandshakeError] with the reason; the handler should then return. If the server is at fault, for example
// because an option is out of range, the client gets status 500 without details, which are in the error. By default a
// request from a web page must come from the same host: see Options.Origins.
//
// Upgrade finds the [http.Hijacker] through [http.ResponseController], so it works under middleware whose
// ResponseWriter has an Unwrap method. The response has the fields already set on w, such as cookies, and those of
// opts.Header. Upgrade clears the deadlines that the http.Server set on the connection.
//
// The connection may outlive the handler. While the handler runs, net/http keeps its goroutine and buffers, about 10
// KB; [Handler] releases them. The context of r ends when the handler returns, and not when the connection is lost. Use
// [Conn.Context] instead.
//
// # Subprotocols
//
// A browser that offers subprotocols fails the connection if the server chooses none. Set opts.Subprotocols to the
// subprotocols that the server supports.
//
// # HTTP/2
//
// Upgrade also answers an extended CONNECT (RFC 8441), and the connection then uses the HTTP/2 stream. The handler must
// not return before the connection has ended: defer c.CloseNow(), or use Handler. Over HTTP/2, Close and CloseNow wait
// until nothing more is written to the stream. NetConn returns nil. A connection that ends without a closing handshake
// resets its stream with INTERNAL_ERROR, because net/http offers no CANCEL. Do not wrap a WebSocket handler in
// [http.MaxBytesHandler]: it limits the total bytes of a stream, and so ends a connection in the middle of a message.
// Options.MaxMessageSize limits each message.
//
// net/http accepts extended CONNECT only in a process that was started with GODEBUG=http2xconnect=1 in its environment.
// A GET request over HTTP/2 is answered with 400.
//
// Under GOOS=js, Upgrade and [Handler] answer 501 and [Serve] returns an error, because a browser cannot serve.
func Upgrade(w http.ResponseWriter, r *http.Request, opts *Options) (*Conn, error) {
	if runtime.GOOS == "js" {
		return nil, cannotServe(w)
	}
	opts = cmp.Or(opts, &noOptions)
	var a answer
	f := a.negotiate(r, opts)
	if f == nil {
		f = checkResponse(w.Header())
	}
	switch {
	case f != nil:
		return nil, f.send(w, r)
	case isExtendedConnect(r):
		return a.accept(w, r, opts)
	}
	return a.upgrade(w, r, opts)
}

// errCannotServe is the error of Upgrade and Serve under GOOS=js.
var errCannotServe = errors.New("a browser cannot serve WebSockets; it can only dial")

// cannotServe answers a request under GOOS=js.
func cannotServe(w http.ResponseWriter) error {
	if w != nil {
		http.Error(w, errCannotServe.Error(), http.StatusNotImplemented)
	}
	return &HandshakeError{Reason: errCannotServe.Error(), StatusCode: http.StatusNotImplemented}
}

// upgrade takes the connection over from net/http, with the bytes that arrived after the request, and opens it. The
// functions from here to newConn keep their frames small: net/http's goroutine has a stack of 4 KiB, and growing it
// takes a twentieth of the time of a handshake.
func (a *answer) upgrade(w http.ResponseWriter, r *http.Request, opts *Options) (*Conn, error) {
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, cannotTakeOver(w, err).send(w, r)
	}
	var early []byte
	if rw != nil && rw.Reader != nil {
		early = buffered(rw.Reader)
	}
	return a.open(nc, early, w.Header(), opts)
}

// cannotTakeOver refuses a request because w hides the connection.
func cannotTakeOver(w http.ResponseWriter, err error) *refusal {
	reason := fmt.Sprintf("the connection cannot be taken over from a %T", w)
	return &refusal{status: http.StatusInternalServerError, reason: reason, err: err}
}

// buffered returns the bytes that br has read ahead.
func buffered(br *bufio.Reader) []byte {
	p, _ := br.Peek(br.Buffered())
	return p
}

// open makes nc a Conn and sends the response, with the fields in set and in opts.Header.
func (a *answer) open(nc net.Conn, early []byte, set http.Header, opts *Options) (*Conn, error) {
	a.early, a.held = early, true
	nc.SetWriteDeadline(time.Time{}) // a Hijacker or a listener may have set one; newConn sets the read deadline
	c := newConnOf(nc, &a.config)
	if !enter(c, opts.Group) {
		sendResponse(nc, []byte(goingAway), a.writeTimeout)
		c.CloseNow()
		return nil, refuse(http.StatusServiceUnavailable, shutDown).error()
	}
	b := getBuffer(0)
	defer b.free()
	b.b = a.appendResponse(b.b, set, opts.Header)
	if err := a.respond(c, b.b); err != nil {
		c.CloseNow()
		return nil, &HandshakeError{Reason: "the response could not be written", Err: err}
	}
	c.begin()
	return c, nil
}

const (
	shutDown   = "the server is going away"
	goingAway  = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: " + retryAfter + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	retryAfter = "5" // seconds
)

// respond writes p to the connection of c, which sends nothing yet. A new socket accepts a response at once, and
// setting a deadline would cost more than the rest of the function.
func (a *answer) respond(c *Conn, p []byte) error {
	if c.sock != nil {
		n, err := c.sock.tryWrite(p)
		if err != nil || n == len(p) {
			return err
		}
		p = p[n:]
	}
	return sendResponse(c.nc, p, a.writeTimeout)
}

// sendResponse writes p, within timeout if that is positive.
func sendResponse(nc net.Conn, p []byte, timeout time.Duration) error {
	if timeout > 0 {
		nc.SetWriteDeadline(time.Now().Add(timeout))
		defer nc.SetWriteDeadline(time.Time{})
	}
	_, err := nc.Write(p)
	return err
}

// A refusal is the answer to a request that does not become a connection.
type refusal struct {
	status  int
	reason  string // sent to the peer, unless the status is 500, and part of the error
	err     error  // cause, or nil; never sent
	version bool   // whether the response names the supported version
}

func refuse(status int, reason string) *refusal { return &refusal{status: status, reason: reason} }

// send answers the request and returns the error for the caller of Upgrade. RFC 6455, section 4.2.2: the server "MUST
// return an HTTP response with an appropriate error code".
func (f *refusal) send(w http.ResponseWriter, r *http.Request) error {
	if f.status == http.StatusUpgradeRequired && r.ProtoMajor > 1 {
		f.status = http.StatusBadRequest // a 426 needs an Upgrade field, which HTTP/2 does not have
	}
	f.setHeader(w.Header())
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // otherwise net/http waits for the body before it answers
	}
	http.Error(w, f.text(), f.status)
	return f.error()
}

// setHeader sets the fields that the status requires.
func (f *refusal) setHeader(h http.Header) {
	switch f.status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", "GET")
	case http.StatusUpgradeRequired:
		// RFC 9110, section 15.5.22: "The server MUST send an Upgrade header field in a 426 response to indicate the
		// required protocol(s)".
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	}
	if f.version {
		h.Set("Sec-WebSocket-Version", "13")
	}
}

// text returns the body of the response. It hides Go types and the values of options from the peer.
func (f *refusal) text() string {
	if f.status == http.StatusInternalServerError {
		return "the server failed to open the WebSocket connection"
	}
	return f.reason
}

// error returns the error for the caller of Upgrade or for the log of Serve.
func (f *refusal) error() *HandshakeError {
	return &HandshakeError{Reason: f.reason, StatusCode: f.status, Err: f.err}
}

// An answer is the server's side of a handshake that it accepts. The goroutine that performs the handshake owns it.
type answer struct {
	config
	key        string // the client's Sec-WebSocket-Key
	extensions string // value of Sec-WebSocket-Extensions, or ""
}

// appendResponse appends the response, with the fields set by middleware and those added by the options.
func (a *answer) appendResponse(b []byte, set, added http.Header) []byte {
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = appendAcceptKey(b, a.key)
	b = append(b, "\r\n"...)
	if a.subprotocol != "" {
		b = appendField(b, "Sec-WebSocket-Protocol", a.subprotocol)
	}
	if a.extensions != "" {
		b = appendField(b, "Sec-WebSocket-Extensions", a.extensions)
	}
	b = appendFields(appendFields(b, set), added)
	return append(b, "\r\n"...)
}

// appendFields appends the fields of h, except the fields of the handshake. Middleware may have set fields such as
// Connection and http.TrailerPrefix.
func appendFields(b []byte, h http.Header) []byte {
	for name, values := range h {
		if isReserved(name) || !isToken(name) {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	return b
}

func appendField(b []byte, name, value string) []byte {
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

// appendAcceptKey appends the Sec-WebSocket-Accept for a Sec-WebSocket-Key. RFC 6455, section 1.3: "concatenate this
// with the Globally Unique Identifier [...] A SHA-1 hash (160 bits), base64-encoded".
func appendAcceptKey(b []byte, key string) []byte {
	var buf [64]byte
	in := append(append(buf[:0], key...), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...)
	sum := sha1.Sum(in)
	return base64.StdEncoding.AppendEncode(b, sum[:])
}

// negotiate checks the client's handshake (RFC 6455, section 4.2.1) and chooses a subprotocol and extensions.
func (a *answer) negotiate(r *http.Request, opts *Options) (f *refusal) {
	if err := opts.check(); err != nil {
		return refuse(http.StatusInternalServerError, err.Error())
	}
	a.config = opts.config(true)
	a.errorLog = opts.panicLog(r)
	if isExtendedConnect(r) {
		f = checkConnect(r)
	} else if f = checkUpgrade(r); f == nil {
		a.key, f = checkKey(r)
	}
	if f = cmp.Or(f, checkVersion(r), a.choose(r, opts)); f == nil {
		f = checkPolicy(r, opts) // last, so that CheckOrigin sees only valid requests
	}
	return f
}

// checkResponse refuses to send a field of the response that middleware has set to an invalid value.
func checkResponse(h http.Header) *refusal {
	name, ok := badValue(h)
	if !ok {
		return nil
	}
	delete(h, name)
	return refuse(http.StatusInternalServerError, "the value of the response's "+name+" contains a control character")
}

// checkUpgrade requires "an HTTP/1.1 or higher GET request" with "an |Upgrade| header field containing the value
// "websocket", treated as an ASCII case-insensitive value" and "a |Connection| header field that includes the token
// "Upgrade"" (RFC 6455, section 4.2.1). It refuses a body, which would arrive in place of the first frames.
func checkUpgrade(r *http.Request) *refusal {
	switch {
	case r.ProtoMajor > 1:
		return refuse(http.StatusBadRequest, fmt.Sprintf("over %s a WebSocket begins with an extended CONNECT, not with %.20q", r.Proto, r.Method))
	case !r.ProtoAtLeast(1, 1):
		return refuse(http.StatusHTTPVersionNotSupported, "a WebSocket needs HTTP/1.1")
	case r.Method != http.MethodGet:
		return refuse(http.StatusMethodNotAllowed, fmt.Sprintf("a WebSocket begins with GET, not with %.20q", r.Method))
	case !hasToken(r.Header["Upgrade"], "websocket"):
		return &refusal{status: http.StatusUpgradeRequired, reason: "this is a WebSocket endpoint: the request lacks Upgrade: websocket", version: true}
	case !hasToken(r.Header["Connection"], "upgrade"):
		return refuse(http.StatusBadRequest, "the request lacks Connection: Upgrade; a proxy may have removed it")
	case r.Host == "":
		return refuse(http.StatusBadRequest, "the request lacks a Host")
	case r.ContentLength != 0 || len(r.TransferEncoding) != 0:
		return refuse(http.StatusBadRequest, hasBody)
	}
	return nil
}

// hasBody is the reason for refusing a request with a body.
const hasBody = "a WebSocket handshake must not have a body"

// checkVersion obeys RFC 6455, section 4.4: a server that does not support the version "MUST abort the WebSocket
// handshake [...] and instead send an appropriate HTTP error code (such as 426 Upgrade Required) and a
// |Sec-WebSocket-Version| header field indicating the version(s) the server is capable of understanding."
func checkVersion(r *http.Request) *refusal {
	v := r.Header["Sec-Websocket-Version"]
	switch {
	case len(v) != 1 || !isDecimal(v[0], 8): // RFC 6455, section 4.3: 0 to 255
		return &refusal{status: http.StatusBadRequest, reason: "the request needs one Sec-WebSocket-Version: 13", version: true}
	case v[0] != "13":
		return &refusal{status: http.StatusUpgradeRequired, reason: "the only supported Sec-WebSocket-Version is 13", version: true}
	}
	return nil
}

// checkKey returns the Sec-WebSocket-Key, "a base64-encoded value that, when decoded, is 16 bytes in length" (RFC 6455,
// section 4.2.1). Section 11.3.1 forbids more than one.
func checkKey(r *http.Request) (string, *refusal) {
	v := r.Header["Sec-Websocket-Key"]
	if len(v) != 1 || !isKey(v[0]) {
		return "", refuse(http.StatusBadRequest, "the request needs one Sec-WebSocket-Key: 16 bytes in base64")
	}
	return v[0], nil
}

// isKey reports whether s is 16 bytes in base64.
func isKey(s string) bool {
	if len(s) != 24 {
		return false
	}
	key, err := base64.StdEncoding.AppendDecode(make([]byte, 0, 18), []byte(s))
	return err == nil && len(key) == 16
}

// choose selects a subprotocol and extensions from the request's offers. RFC 6455, section 9.1: on a value that does
// not follow the grammar a server "MUST immediately _Fail the WebSocket Connection_".
func (a *answer) choose(r *http.Request, opts *Options) *refusal {
	offered := r.Header["Sec-Websocket-Protocol"]
	if !isTokenList(offered) {
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Protocol is not a list of tokens")
	}
	a.subprotocol = firstOffered(opts.Subprotocols, offered)
	offers, ok := parseExtensions(r.Header["Sec-Websocket-Extensions"], deflateName)
	if !ok {
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Extensions is malformed")
	}
	if opts.Compression != nil {
		a.deflate, a.extensions = opts.Compression.accept(offers)
	}
	return nil
}

// checkPolicy refuses valid handshakes because of their origin or because the group is shut down.
func checkPolicy(r *http.Request, opts *Options) *refusal {
	if opts.CheckOrigin != nil {
		if !opts.CheckOrigin(r) {
			return refuse(http.StatusForbidden, "the origin is not accepted here")
		}
	} else if f := checkOrigin(r, opts.Origins); f != nil {
		return f
	}
	if opts.Group.isClosed() {
		return refuse(http.StatusServiceUnavailable, shutDown)
	}
	return nil
}
