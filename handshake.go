package websocket

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"time"
)

// Options configures either end of a connection. nil and the zero value are all defaults. The package does
// not change it; a caller must not change it while it is in use, but may use one for any number of
// connections. A value out of its range is an error of [Dial], and of [Upgrade] (HTTP status 500).
type Options struct {
	// Subprotocols are tokens in order of preference (RFC 6455, section 1.9). A client offers them all; a
	// server takes its own first choice among those offered, and none when they have none in common. Either
	// end finds the one agreed on in [Conn.Subprotocol]; that there is none is no error.
	Subprotocols []string

	// Header is added to the request (Dial; "Host" sets the host of the request) or to the response
	// (Upgrade). Names that the handshake needs for itself are an error: Upgrade, Connection,
	// Sec-WebSocket-*, Content-Length, Transfer-Encoding, Trailer. So are names and values that HTTP has not.
	Header http.Header

	// MaxMessageSize is the limit, in bytes, of a received message after inflation. A message that passes
	// it fails the connection with [StatusMessageTooBig]. 0 is 1 MiB; negative is no limit: memory then
	// still follows the bytes that arrived, not those announced.
	MaxMessageSize int64

	// KeepAlive is how long the peer may be silent before it is sent a ping, and how long again before
	// the connection is given up. Any byte is a sign of life. It is suspended while no read is at work.
	// 0 is 30 s; negative is none.
	KeepAlive time.Duration

	// CloseTimeout bounds the whole closing handshake (RFC 6455, section 7), whatever the peer sends in
	// the meantime. 0 is 5 s.
	CloseTimeout time.Duration

	// WriteTimeout is the longest time that the socket may take nothing of what is being written; the
	// connection has then failed. It bounds the writing of the server's handshake too. 0 is 30 s; negative
	// is none.
	WriteTimeout time.Duration

	// MaxPending is the number of bytes that may wait to be sent: beyond it Send refuses with [ErrBacklog]
	// and Write blocks. It is no limit on a single message. 0 is 1 MiB.
	MaxPending int

	// Compression offers (Dial) or accepts (Upgrade) permessage-deflate. nil is off.
	Compression *Compression

	// Group is joined by the connection. A Group that has been shut down refuses: Upgrade answers 503 with
	// a Retry-After, Dial fails.
	Group *Group

	// Origins are the origins that Upgrade accepts beside the request's own host, each as
	// [scheme://]host[:port], compared without case. "*.example.com" is any depth below example.com, not
	// example.com itself. Without a scheme http and https are meant, without a port the scheme's default;
	// ":*" is any port. A pattern that matches nothing a browser sends is an error, and so is "*": see CheckOrigin. A
	// request without an Origin header is not a browser's and is accepted.
	Origins []string

	// CheckOrigin replaces the check of the origin in Upgrade, which then answers 403 where it returns
	// false. nil is the request's own host or one of Origins. A function that always returns true lets any
	// web page that a user visits act on this server with the user's cookies (RFC 6455, section 10.2).
	CheckOrigin func(*http.Request) bool

	// ErrorLog is told of refused handshakes and of panics by [Handler] and [Serve]. nil is the ErrorLog of the
	// http.Server, or the logger of package log, for panics, and nothing for refusals.
	ErrorLog *log.Logger

	// HTTPClient is the client that Dial sends its request with; see there. nil takes the proxy from the
	// environment, follows no redirects and reads a response header of at most 64 KiB.
	HTTPClient *http.Client

	// HTTP2 makes Dial open the connection as a stream of an HTTP/2 connection (RFC 8441) instead of by an
	// HTTP/1.1 upgrade; see Dial.
	HTTP2 bool
}

const (
	defaultKeepAlive    = 30 * time.Second
	defaultCloseTimeout = 5 * time.Second
	defaultWriteTimeout = 30 * time.Second
	defaultMaxPending   = 1 << 20
)

// config returns what the connection needs of the options, defaults applied.
func (o *Options) config(server bool) config {
	return config{
		terms: terms{
			server:       server,
			closeTimeout: orDefault(o.CloseTimeout, defaultCloseTimeout),
			writeTimeout: orDefault(o.WriteTimeout, defaultWriteTimeout),
			maxPending:   orDefault(o.MaxPending, defaultMaxPending),
		},
		maxMessage: orDefault(o.MaxMessageSize, defaultMaxMessage),
		keepAlive:  orDefault(o.KeepAlive, defaultKeepAlive),
	}
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// check reports the first value that is out of its range.
func (o *Options) check() error {
	switch {
	case o.CloseTimeout < 0:
		return errors.New("Options.CloseTimeout is negative")
	case o.MaxPending < 0:
		return errors.New("Options.MaxPending is negative")
	}
	for i, p := range o.Subprotocols {
		if !isToken(p) {
			return fmt.Errorf("Options.Subprotocols: %q is not a token", p)
		}
		for _, q := range o.Subprotocols[:i] {
			if p == q {
				return fmt.Errorf("Options.Subprotocols: %q stands there twice", p)
			}
		}
	}
	for _, p := range o.Origins {
		if err := checkPattern(p); err != nil {
			return fmt.Errorf("Options.Origins: %w", err)
		}
	}
	if o.Compression != nil {
		if err := o.Compression.check(); err != nil {
			return err
		}
	}
	return checkHeader(o.Header)
}

// checkHeader refuses what would break the handshake: names that it needs for itself, and bytes that
// would end a header field and begin another.
func checkHeader(h http.Header) error {
	for name, values := range h {
		switch {
		case !isToken(name):
			return fmt.Errorf("Options.Header: %q is not the name of a header field", name)
		case isReserved(name):
			return fmt.Errorf("Options.Header: %s belongs to the handshake", name)
		case equalFold(name, "Host") && !(len(values) == 1 && isHost(values[0])):
			return fmt.Errorf("Options.Header: Host is not one host: %q", values)
		}
	}
	if name, ok := badValue(h); ok {
		return fmt.Errorf("Options.Header: the value of %s holds a control character", name)
	}
	return nil
}

// badValue returns the name of a header field whose value could not be sent as it is.
func badValue(h http.Header) (string, bool) {
	for name, values := range h {
		for _, v := range values {
			if !isFieldValue(v) {
				return name, true
			}
		}
	}
	return "", false
}

// isHost reports whether s is host[:port].
func isHost(s string) bool {
	host, port, ok := cutPort(s)
	return ok && port != "*" && isHostName(host)
}

// isReserved reports whether a header field is the handshake's own.
func isReserved(name string) bool {
	const ours = "sec-websocket-"
	if len(name) >= len(ours) && equalFold(name[:len(ours)], ours) {
		return true
	}
	for _, s := range [...]string{"upgrade", "connection", "content-length", "transfer-encoding", "trailer", "keep-alive", "proxy-connection", "http2-settings"} {
		if equalFold(name, s) {
			return true
		}
	}
	return false
}

// A refusal is the answer to a request that does not become a connection.
type refusal struct {
	status  int
	reason  string // the peer is told, unless the status is 500
	err     error  // cause, or nil
	version bool   // the response names the version of RFC 6455
}

func refuse(status int, reason string) *refusal { return &refusal{status: status, reason: reason} }

// send answers the request and returns the error for the caller of Upgrade. RFC 6455, section 4.2.2: the
// server "MUST return an HTTP response with an appropriate error code".
func (f *refusal) send(w http.ResponseWriter, r *http.Request) error {
	if f.status == http.StatusUpgradeRequired && r.ProtoMajor > 1 {
		f.status = http.StatusBadRequest // HTTP/2 has no Upgrade field, which a 426 must have
	}
	f.setHeader(w.Header())
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // or net/http would wait for the body before it answers
	}
	http.Error(w, f.text(), f.status)
	return f.error()
}

// setHeader sets the fields that belong to the status.
func (f *refusal) setHeader(h http.Header) {
	switch f.status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", "GET")
	case http.StatusUpgradeRequired:
		// RFC 9110, section 15.5.22: "The server MUST send an Upgrade header field in a 426 response to
		// indicate the required protocol(s)".
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	}
	if f.version {
		h.Set("Sec-WebSocket-Version", "13")
	}
}

// text is what the peer is told: types and values of options are not its business.
func (f *refusal) text() string {
	if f.status == http.StatusInternalServerError {
		return "the server failed to open the WebSocket connection"
	}
	return f.reason
}

func (f *refusal) error() *HandshakeError {
	return &HandshakeError{Reason: f.reason, StatusCode: f.status, Err: f.err}
}

const retryAfter = "5" // seconds, for the clients of a server that is going away

// Upgrade answers the opening handshake of r and takes over its connection (RFC 6455, section 4.2). It
// validates before it hijacks: a request that it refuses has been answered already, the error is a
// *[HandshakeError], and the handler has only to return. Where the server is at fault the client gets status 500
// without details; the error has them. Origins are checked as [Options] says: by
// default a browser's page must come from the same host.
//
// The Hijacker is found through [http.ResponseController], so that Upgrade works under middleware whose
// ResponseWriter has an Unwrap method. Header fields already set on w, such as cookies, are sent in the
// response; opts.Header is added to them. The deadlines of the http.Server are cleared.
//
// Behind a handler that stays until the connection ends, net/http keeps its goroutine and buffers, some
// 10 KB; [Handler] sets them free. The context of r ends with the handler; [Conn.Context] is the
// connection's.
//
// A request of HTTP/2 extended CONNECT (RFC 8441) is answered in the same way, and the connection lives in its
// stream. The handler must not return before the connection has ended: defer c.CloseNow(), or use [Handler].
// There NetConn is nil; reads can be cancelled and deadlines moved as ever, but a write deadline that passes in
// the middle of a write is final; and a connection that is cut is RST_STREAM with INTERNAL_ERROR, for net/http has
// no CANCEL. [http.MaxBytesHandler] and [http.MaxBytesReader] limit the whole of what the stream carries: do not use them
// there, Options.MaxMessageSize limits each message. net/http delivers such requests to a process that was started with GODEBUG=http2xconnect=1 in its
// environment. A GET over HTTP/2 is answered with 400.
func Upgrade(w http.ResponseWriter, r *http.Request, opts *Options) (*Conn, error) {
	if opts == nil {
		opts = &Options{}
	}
	a, f := negotiate(r, opts)
	if name, ok := badValue(w.Header()); ok && f == nil {
		delete(w.Header(), name)
		f = refuse(http.StatusInternalServerError, "the value of the response's "+name+" holds a control character")
	}
	switch {
	case f != nil:
		return nil, f.send(w, r)
	case isExtendedConnect(r):
		return a.accept(w, r, opts)
	}
	return a.upgrade(w, r, opts)
}

// upgrade takes the connection over from net/http and sends the response.
func (a *answer) upgrade(w http.ResponseWriter, r *http.Request, opts *Options) (*Conn, error) {
	nc, early, err := hijack(w)
	if err != nil {
		return nil, cannotTakeOver(w, err).send(w, r)
	}
	return a.open(nc, early, w.Header(), opts)
}

// open makes the connection of nc and sends the response.
func (a *answer) open(nc net.Conn, early []byte, set http.Header, opts *Options) (*Conn, error) {
	a.early, a.held = early, true
	c := newConn(nc, a.config)
	if !enter(c, opts.Group) {
		sendResponse(nc, []byte(goingAway), a.writeTimeout)
		c.CloseNow()
		return nil, &HandshakeError{Reason: shutDown, StatusCode: http.StatusServiceUnavailable}
	}
	b := getBuffer(0)
	defer b.free()
	b.b = a.appendResponse(b.b, set, opts.Header)
	if err := sendResponse(nc, b.b, a.writeTimeout); err != nil {
		c.CloseNow()
		return nil, &HandshakeError{Reason: "the response could not be written", Err: err}
	}
	c.begin()
	return c, nil
}

// enter makes a connection a member of the group of its options. A server does it before it answers, so that a client
// whose Dial has returned is in the group, and one that Shutdown does not see is refused.
func enter(c *Conn, g *Group) bool { return g == nil || g.Add(c) }

const (
	shutDown  = "the server is going away"
	goingAway = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: " + retryAfter + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

// cannotTakeOver names the type that hides the connection.
func cannotTakeOver(w http.ResponseWriter, err error) *refusal {
	reason := fmt.Sprintf("the connection cannot be taken over from a %T", w)
	return &refusal{status: http.StatusInternalServerError, reason: reason, err: err}
}

// hijack takes the connection over from net/http, with the bytes that came behind the request.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	// A server clears its deadlines when it is hijacked, another Hijacker may not.
	nc.SetDeadline(time.Time{})
	if rw == nil || rw.Reader == nil {
		return nc, nil, nil
	}
	return nc, buffered(rw.Reader), nil
}

// buffered returns what was read ahead.
func buffered(br *bufio.Reader) []byte {
	p, _ := br.Peek(br.Buffered())
	return p
}

func sendResponse(nc net.Conn, p []byte, timeout time.Duration) error {
	if timeout > 0 {
		nc.SetWriteDeadline(time.Now().Add(timeout))
		defer nc.SetWriteDeadline(time.Time{})
	}
	_, err := nc.Write(p)
	return err
}

// An answer is a handshake that the server accepts.
type answer struct {
	config
	key        string // the client's Sec-WebSocket-Key
	extensions string // value of Sec-WebSocket-Extensions; empty: none
}

// appendResponse appends the server's handshake, with the header fields that middleware and the options add.
func (a *answer) appendResponse(b []byte, set, added http.Header) []byte {
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = appendAcceptKey(b, a.key)
	b = append(b, "\r\n"...)
	b = appendField(b, "Sec-WebSocket-Protocol", a.subprotocol)
	b = appendField(b, "Sec-WebSocket-Extensions", a.extensions)
	for _, h := range [...]http.Header{set, added} {
		for name, values := range h {
			if isReserved(name) || !isToken(name) {
				continue // such as Connection and http.TrailerPrefix, which middleware may have set
			}
			for _, v := range values {
				b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
			}
		}
	}
	return append(b, "\r\n"...)
}

func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

// appendAcceptKey appends the Sec-WebSocket-Accept for a Sec-WebSocket-Key: "concatenate this with the
// Globally Unique Identifier [...] A SHA-1 hash (160 bits), base64-encoded" (RFC 6455, section 1.3).
func appendAcceptKey(b []byte, key string) []byte {
	var buf [64]byte
	in := append(append(buf[:0], key...), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...)
	sum := sha1.Sum(in)
	return base64.StdEncoding.AppendEncode(b, sum[:])
}

// negotiate judges the client's handshake (RFC 6455, section 4.2.1) and chooses what is to be used.
func negotiate(r *http.Request, opts *Options) (a answer, f *refusal) {
	if err := opts.check(); err != nil {
		return a, refuse(http.StatusInternalServerError, err.Error())
	}
	a.config = opts.config(true)
	if isExtendedConnect(r) {
		f = checkConnect(r)
	} else if f = checkUpgrade(r); f == nil {
		a.key, f = checkKey(r)
	}
	if f == nil {
		f = checkVersion(r)
	}
	if f == nil {
		f = a.choose(r, opts)
	}
	if f == nil {
		f = checkPolicy(r, opts)
	}
	return a, f
}

// checkUpgrade demands "an HTTP/1.1 or higher GET request" with "an |Upgrade| header field containing the
// value "websocket", treated as an ASCII case-insensitive value" and "a |Connection| header field that
// includes the token "Upgrade"" (RFC 6455, section 4.2.1).
func checkUpgrade(r *http.Request) *refusal {
	switch {
	case r.ProtoMajor > 1:
		return refuse(http.StatusBadRequest, fmt.Sprintf("a WebSocket over %s begins with an extended CONNECT, not with %.20q", r.Proto, r.Method))
	case !r.ProtoAtLeast(1, 1):
		return refuse(http.StatusHTTPVersionNotSupported, "a WebSocket needs HTTP/1.1")
	case r.Method != http.MethodGet:
		return refuse(http.StatusMethodNotAllowed, fmt.Sprintf("a WebSocket begins with GET, not with %.20q", r.Method))
	case !hasToken(r.Header["Upgrade"], "websocket"):
		return &refusal{status: http.StatusUpgradeRequired, reason: "this is a WebSocket: the request lacks Upgrade: websocket", version: true}
	case !hasToken(r.Header["Connection"], "upgrade"):
		return refuse(http.StatusBadRequest, "the request lacks Connection: Upgrade; a proxy may have removed it")
	case r.Host == "":
		return refuse(http.StatusBadRequest, "the request lacks a Host")
	case r.ContentLength != 0 || len(r.TransferEncoding) != 0:
		return refuse(http.StatusBadRequest, noBody)
	}
	return nil
}

const noBody = "the request of a WebSocket has no body"

// checkVersion obeys RFC 6455, section 4.4: a server that does not support the version "MUST abort the
// WebSocket handshake [...] and instead send an appropriate HTTP error code (such as 426 Upgrade
// Required) and a |Sec-WebSocket-Version| header field indicating the version(s) the server is capable of
// understanding."
func checkVersion(r *http.Request) *refusal {
	v := r.Header["Sec-Websocket-Version"]
	switch {
	case len(v) != 1 || !isVersion(v[0]):
		return &refusal{status: http.StatusBadRequest, reason: "the request needs one Sec-WebSocket-Version: 13", version: true}
	case v[0] != "13":
		return &refusal{status: http.StatusUpgradeRequired, reason: "the only Sec-WebSocket-Version here is 13", version: true}
	}
	return nil
}

// isVersion follows RFC 6455, section 4.3: a number from 0 to 255 without leading zeros.
func isVersion(s string) bool {
	n, err := strconv.ParseUint(s, 10, 8)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// checkKey obeys RFC 6455, section 4.2.1: "a |Sec-WebSocket-Key| header field with a base64-encoded
// value that, when decoded, is 16 bytes in length", which section 11.3.1 allows once.
func checkKey(r *http.Request) (string, *refusal) {
	v := r.Header["Sec-Websocket-Key"]
	if len(v) != 1 || !isKey(v[0]) {
		return "", refuse(http.StatusBadRequest, "the request needs one Sec-WebSocket-Key: 16 bytes in base64")
	}
	return v[0], nil
}

const keyLen = 24 // 16 bytes in base64

func isKey(s string) bool {
	if len(s) != keyLen {
		return false
	}
	var in [keyLen]byte
	var out [keyLen / 4 * 3]byte
	copy(in[:], s)
	n, err := base64.StdEncoding.Decode(out[:], in[:])
	return err == nil && n == 16
}

// choose takes a subprotocol and extensions from those that the request offers. RFC 6455, section 9.1: on
// a value that does not follow the grammar a server "MUST immediately _Fail the WebSocket Connection_".
func (a *answer) choose(r *http.Request, opts *Options) *refusal {
	offered := r.Header["Sec-Websocket-Protocol"]
	if !isTokenList(offered) {
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Protocol is not a list of tokens")
	}
	a.subprotocol = firstOffered(opts.Subprotocols, offered)
	offers, ok := parseExtensions(r.Header["Sec-Websocket-Extensions"], "permessage-deflate")
	if !ok {
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Extensions is malformed")
	}
	if opts.Compression != nil {
		a.deflate, a.extensions = opts.Compression.accept(offers)
	}
	return nil
}

// firstOffered returns the server's first choice among the subprotocols offered, or "".
func firstOffered(choices []string, offered []string) string {
	for _, p := range choices {
		for s := range elements(offered) {
			if s == p {
				return p
			}
		}
	}
	return ""
}

// checkPolicy is what this server does not want, though the handshake is a good one.
func checkPolicy(r *http.Request, opts *Options) *refusal {
	if opts.CheckOrigin != nil {
		if !opts.CheckOrigin(r) {
			return refuse(http.StatusForbidden, "the origin is not accepted here")
		}
	} else if f := checkOrigin(r, opts.Origins); f != nil {
		return f
	}
	if opts.Group != nil && opts.Group.isClosed() {
		return refuse(http.StatusServiceUnavailable, shutDown)
	}
	return nil
}

// Handler returns a handler that upgrades each request and calls serve on a goroutine of its own, so that
// ServeHTTP returns and net/http's goroutine, stack and buffers are freed: an idle connection then costs
// about 4 KB instead of 14. Over HTTP/2 ServeHTTP stays until serve returns, for the stream lives no longer.
//
// The request is there for its URL, header, cookies and the values of its context, which is over; the
// connection's is c.Context(). When serve returns, the connection is closed with [StatusNormalClosure], or
// with [StatusInternalError] when it panicked: the panic is logged to the http.Server's ErrorLog, as
// net/http does, and goes no further. [http.ErrAbortHandler] is not logged. Where the connection is
// closed already, nothing happens.
func Handler(opts *Options, serve func(c *Conn, r *http.Request)) http.Handler {
	if opts == nil {
		opts = &Options{}
	}
	return &handler{opts, serve}
}

type handler struct {
	opts  *Options
	serve func(*Conn, *http.Request)
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := Upgrade(w, r, h.opts)
	if err != nil {
		h.opts.logRefusal(r.RemoteAddr, err) // Upgrade has answered
		return
	}
	s := &serving{serve: h.serve, c: c, r: r, logger: h.opts.errorLog(r), code: StatusInternalError}
	if r.ProtoMajor > 1 {
		s.run()
		c.end.awaitStream()
		return
	}
	go s.run()
}

// A serving is one call of a Handler's serve.
type serving struct {
	serve  func(*Conn, *http.Request)
	c      *Conn
	r      *http.Request // nil once serve has it, so that it can be collected when serve no longer uses it
	logger *log.Logger
	code   StatusCode // to close with
}

// run stands beneath all that serve waits in. Its frame is small: a goroutine whose stack once grew keeps 4 KB.
func (s *serving) run() {
	defer s.end()
	r := s.r
	s.r = nil
	s.serve(s.c, r)
	s.code = StatusNormalClosure
}

// end closes the connection behind serve, which returned, panicked or called runtime.Goexit.
func (s *serving) end() {
	if v := recover(); v != nil {
		logPanic(s.logger, s.c.RemoteAddr(), v)
	}
	s.c.Close(s.code, "")
}

// logPanic reports a panic as net/http does; nil is the standard logger of package log.
func logPanic(logger *log.Logger, peer net.Addr, v any) {
	if v == http.ErrAbortHandler {
		return
	}
	if logger == nil {
		logger = log.Default()
	}
	buf := make([]byte, 64<<10)
	buf = buf[:runtime.Stack(buf, false)]
	logger.Printf("http: panic serving %v: %v\n%s", peer, v, buf)
}

// logRefusal reports that the request of a peer, which has been answered, did not become a connection.
func (o *Options) logRefusal(peer string, err error) {
	var e *HandshakeError
	if o.ErrorLog == nil || !errors.As(err, &e) {
		return
	}
	reason := e.Reason
	if e.StatusCode != 0 {
		reason = strconv.Itoa(e.StatusCode) + ": " + reason
	}
	if e.Err != nil {
		reason += ": " + e.Err.Error()
	}
	o.ErrorLog.Printf("websocket: handshake with %s: %s", peer, reason)
}

// errorLog returns where a panic of serve is logged; nil is package log's standard logger.
func (o *Options) errorLog(r *http.Request) *log.Logger {
	if o.ErrorLog != nil {
		return o.ErrorLog
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		return s.ErrorLog
	}
	return nil
}

// Pipe returns the two ends of an in-memory connection, for tests: what one writes, the other reads, after
// at most 64 KiB in each direction that nobody has read yet. It works in a testing/synctest bubble. The
// subprotocol and the compression are what a handshake between the two Options would have agreed on, and the ends
// join the groups of their Options. Pipe panics where Upgrade or Dial would report that an option is out of its
// range.
func Pipe(server, client *Options) (*Conn, *Conn) {
	if server == nil {
		server = &Options{}
	}
	if client == nil {
		client = &Options{}
	}
	for _, o := range [...]*Options{server, client} {
		if err := o.check(); err != nil {
			panic("websocket: Pipe: " + err.Error())
		}
	}
	s, c := server.config(true), client.config(false)
	s.subprotocol = firstOffered(server.Subprotocols, client.Subprotocols)
	c.subprotocol = s.subprotocol
	s.deflate, c.deflate = agree(server.Compression, client.Compression)
	a, b := memPipe()
	return joined(newConn(a, s), server.Group), joined(newConn(b, c), client.Group)
}

// agree negotiates the compression of a Pipe.
func agree(server, client *Compression) (*deflateParams, *deflateParams) {
	if server == nil || client == nil {
		return nil, nil
	}
	offers, _ := parseExtensions([]string{client.offer()}, "")
	s, value := server.accept(offers)
	if s == nil {
		return nil, nil
	}
	answer, _ := parseExtensions([]string{value}, "")
	c, err := client.confirm(answer)
	if err != nil {
		panic("websocket: Pipe: " + err.Error())
	}
	return s, c
}

// joined closes a connection whose group was shut down: there is no response in which to refuse it.
func joined(c *Conn, g *Group) *Conn {
	if !enter(c, g) {
		go c.Close(StatusGoingAway, "")
	}
	return c
}
