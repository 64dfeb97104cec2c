//go:build !(js && websocket_nohttp)

package websocket

// Handler, and the code that runs a serve function for Handler and Serve.

import (
	"cmp"
	"log"
	"net/http"
	"strings"
)

// Handler returns an http.Handler that upgrades each request and then calls serve. Over HTTP/1.1 it calls serve on a
// new goroutine and ServeHTTP returns at once, so that net/http frees its goroutine, stack and buffers: an idle
// connection takes about 4 KB instead of 14, and about 2 KB with [Conn.OnMessage]. Over HTTP/2 ServeHTTP calls serve
// itself, because the stream ends with ServeHTTP.
//
// serve may use the request's URL, header, cookies and the values of its context. Do not use the context itself, which
// is done over HTTP/1.1 as soon as ServeHTTP returns: use [Conn.Context], which lasts as long as the connection, or a
// context of your own. The request has no body.
//
// When serve returns, the connection is closed with [StatusNormalClosure], unless it is already closed. If serve has
// called [Conn.OnMessage], the connection stays open instead, and over HTTP/2 ServeHTTP waits until it ends. If serve
// panics, the connection is closed with [StatusInternalError] and the panic is logged as net/http does, except for
// [http.ErrAbortHandler]; see Options.ErrorLog. Handler answers a refused handshake as [Upgrade] does, and does not
// call serve.
func Handler(opts *Options, serve func(c *Conn, r *http.Request)) http.Handler {
	opts = cmp.Or(opts, &noOptions)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Upgrade(w, r, opts)
		if err != nil {
			opts.logRefusal(r.RemoteAddr, err)
			return
		}
		if r.ProtoMajor == 1 {
			go run(serve, c, r)
			return
		}
		run(serve, c, withoutBody(r))
		if c.in.delivers() {
			<-c.end.closed()
		}
		awaitStream(c)
	})
}

// withoutBody returns a copy of r without its body, which carries the frames of an HTTP/2 stream.
func withoutBody(r *http.Request) *http.Request {
	r = r.WithContext(r.Context())
	r.Body = http.NoBody
	return r
}

// run calls serve. serve waits with this frame on its stack, so the frame is small: a stack that has grown does not
// shrink below 4 KB again. The frame does not hold r while serve runs, so that r can be collected.
func run(serve func(*Conn, *http.Request), c *Conn, r *http.Request) {
	code := StatusInternalError
	defer func() { endServe(c, code, recover()) }()
	serve(c, r)
	code = StatusNormalClosure
}

// endServe closes c after serve has returned, panicked with v or called runtime.Goexit, unless serve returned after it
// had called OnMessage.
func endServe(c *Conn, code StatusCode, v any) {
	if v != nil && v != http.ErrAbortHandler {
		logPanic(c.agreed.errorLog, c.RemoteAddr(), v)
	}
	if code == StatusNormalClosure && c.in.delivers() {
		return
	}
	if c.end.failure() == nil { // otherwise serve has closed the connection, or it was lost
		c.Close(code, "")
	}
}

// logRefusal logs the error of a handshake if it is a HandshakeError, in one line.
func (o *Options) logRefusal(peer string, err error) {
	if e, ok := err.(*HandshakeError); ok && o.ErrorLog != nil {
		o.ErrorLog.Printf("websocket: handshake with %s: %s", peer, strings.TrimPrefix(e.Error(), "websocket: handshake: "))
	}
}

// panicLog returns the logger for a panic of serve; nil means the standard one.
func (o *Options) panicLog(r *http.Request) *log.Logger {
	if o.ErrorLog != nil {
		return o.ErrorLog
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		return s.ErrorLog
	}
	return nil
}
