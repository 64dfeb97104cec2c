package main

import (
	"net/http"

	"github.com/coder/websocket"
)

var coder = library{
	name:     "coder",
	module:   "github.com/coder/websocket",
	style:    "Reader into a reused buffer, Write",
	handler:  coderHandler,
	dial:     coderDial,
	ownLock:  true,
	compress: true,
	takeover: true,
}

type coderConn struct{ s *coderState }

type coderState struct {
	c  *websocket.Conn
	ev *events
}

func coderMode(o options) websocket.CompressionMode {
	switch {
	case !o.Compress:
		return websocket.CompressionDisabled
	case o.Takeover:
		return websocket.CompressionContextTakeover
	}
	return websocket.CompressionNoContextTakeover
}

func coderHandler(o options, ev *events) http.Handler {
	opts := &websocket.AcceptOptions{CompressionMode: coderMode(o), CompressionThreshold: 1}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, opts)
		if err != nil {
			return
		}
		coderLoop(coderConn{&coderState{c, ev}}, o.Lean, ev)
	})
}

func coderDial(url string, o options, ev *events) (conn, error) {
	c, _, err := websocket.Dial(background, url, &websocket.DialOptions{CompressionMode: coderMode(o), CompressionThreshold: 1})
	if err != nil {
		return nil, err
	}
	cc := coderConn{&coderState{c, ev}}
	go coderLoop(cc, o.Lean, ev)
	return cc, nil
}

func coderLoop(cc coderConn, lean bool, ev *events) {
	c := cc.s.c
	defer c.CloseNow()
	c.SetReadLimit(maxMessage)
	ev.open(cc)
	var buf []byte
	for {
		typ, r, err := c.Reader(background)
		if err == nil {
			buf, err = appendAll(buf[:0], r)
		}
		if err != nil {
			ev.closed(cc, coderCode(err))
			return
		}
		ev.message(cc, typ == websocket.MessageText, buf)
		if lean {
			buf = nil
		}
	}
}

func coderCode(err error) int {
	if code := websocket.CloseStatus(err); code >= 0 {
		return int(code)
	}
	return codeDropped
}

func coderType(text bool) websocket.MessageType {
	if text {
		return websocket.MessageText
	}
	return websocket.MessageBinary
}

func (cc coderConn) send(text bool, p []byte) error {
	return cc.s.c.Write(background, coderType(text), p)
}

func (cc coderConn) sendParts(text bool, parts ...[]byte) error {
	w, err := cc.s.c.Writer(background, coderType(text))
	if err != nil {
		return err
	}
	return writeParts(w, parts)
}

// ping waits for the pong in the library, so it must not hold up its caller.
func (cc coderConn) ping() error {
	go func() {
		if cc.s.c.Ping(background) == nil {
			cc.s.ev.pong(cc)
		}
	}()
	return nil
}

func (cc coderConn) shut(code int, reason string) error {
	return cc.s.c.Close(websocket.StatusCode(code), reason)
}
