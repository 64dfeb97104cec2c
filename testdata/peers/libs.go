package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
)

// options of a server or client under test. What a library cannot do it ignores; its library value says so.
type options struct {
	Compress bool
	Takeover bool
	Level    int // 0: the library's own
	UTF8     bool
	TLS      bool
	Hub      bool // the server will broadcast
	Shared   bool // other goroutines write while the read loop answers pings
	Lean     bool // the caller keeps no buffer between messages
	Own      bool // the library's own server, not net/http's
	Upgrade  bool // the library's function for use in the caller's handler
}

// A conn is a connection of any library, at either end, as scenarios use it.
type conn interface {
	send(text bool, p []byte) error
	sendParts(text bool, parts ...[]byte) error // one message, a fragment or more for each part
	ping() error
	shut(code int, reason string) error
}

// events receive the reports of a library's read loop or callbacks. p is valid during the call. Only the first call of
// closed counts.
type events struct {
	open    func(c conn)
	message func(c conn, text bool, p []byte)
	pong    func(c conn)
	closed  func(c conn, code int)
}

// withDefaults sets the events that a scenario leaves nil.
func (ev events) withDefaults() *events {
	if ev.open == nil {
		ev.open = func(conn) {}
	}
	if ev.message == nil {
		ev.message = func(conn, bool, []byte) {}
	}
	if ev.pong == nil {
		ev.pong = func(conn) {}
	}
	if ev.closed == nil {
		ev.closed = func(conn, int) {}
	}
	return &ev
}

// A library is one implementation in its fastest style.
type library struct {
	name   string
	module string
	style  string // how it is driven, for the report

	handler   func(o options, ev *events) http.Handler              // behind net/http
	listen    func(o options, ev *events) (string, error)           // in place of handler: an engine of its own
	upgrade   func(o options, ev *events) http.Handler              // nil: as handler
	serve     func(l net.Listener, o options, ev *events)           // nil: no server of its own
	dial      func(url string, o options, ev *events) (conn, error) // nil: no separate client to measure
	broadcast func(cs []conn, p []byte) error                       // nil: send to each in turn

	ownLock  bool // several goroutines may send without a lock
	utf8     bool // can check text
	compress bool
	takeover bool
	noEmpty  bool // an empty message never reaches the application
}

var libraries = []library{ours, oursEvents, gorilla, coder, gwsLib, gobwasLib, nbioStd, nbioPoller, gwsParallel}

// defaultLibraries are compared unless -libs says otherwise.
const defaultLibraries = "ours,gorilla,coder,gws,gobwas,nbio,nbio-poller"

func findLibrary(name string) (library, bool) {
	for _, l := range libraries {
		if l.name == name {
			return l, true
		}
	}
	return library{}, false
}

const (
	maxMessage  = 64 << 20 // every library accepts messages up to this
	codeNone    = 1005
	codeDropped = 1006
)

var background = context.Background()

// appendAll appends r, to its end, to dst, which a read loop reuses.
func appendAll(dst []byte, r io.Reader) ([]byte, error) {
	if cap(dst) == 0 {
		dst = make([]byte, 0, 512)
	}
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

// label names a library with the options that a comparison varies.
func label(name string, o options) string {
	if o.Level != 0 {
		name += " level " + strconv.Itoa(o.Level)
	}
	if o.Takeover {
		name += " takeover"
	}
	if o.Upgrade {
		name += " Upgrade"
	}
	return name
}

// writeParts writes a message's parts to its Writer and closes it.
func writeParts(w io.WriteCloser, parts [][]byte) error {
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return w.Close()
}
