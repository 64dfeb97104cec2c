package main

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

var gorilla = library{
	name:      "gorilla",
	module:    "github.com/gorilla/websocket",
	style:     "NextReader into a reused buffer, WriteMessage, WriteBufferPool, PreparedMessage",
	handler:   gorillaHandler,
	dial:      gorillaDial,
	broadcast: gorillaBroadcast,
	compress:  true,
}

type gorillaConn struct{ c *websocket.Conn }

var gorillaPool sync.Pool

func gorillaHandler(o options, ev *events) http.Handler {
	up := &websocket.Upgrader{EnableCompression: o.Compress, WriteBufferPool: &gorillaPool}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		if o.Level != 0 {
			c.SetCompressionLevel(o.Level)
		}
		gorillaLoop(c, o.Lean, ev)
	})
}

func gorillaDial(url string, o options, ev *events) (conn, error) {
	d := websocket.Dialer{EnableCompression: o.Compress, WriteBufferPool: &gorillaPool}
	c, _, err := d.Dial(url, nil)
	if err != nil {
		return nil, err
	}
	go gorillaLoop(c, o.Lean, ev)
	return gorillaConn{c}, nil
}

func gorillaLoop(c *websocket.Conn, lean bool, ev *events) {
	defer c.Close()
	gc := gorillaConn{c}
	c.SetPongHandler(func(string) error { ev.pong(gc); return nil })
	ev.open(gc)
	var buf []byte
	for {
		typ, r, err := c.NextReader()
		if err == nil {
			buf, err = appendAll(buf[:0], r)
		}
		if err != nil {
			ev.closed(gc, gorillaCode(err))
			return
		}
		ev.message(gc, typ == websocket.TextMessage, buf)
		if lean {
			buf = nil
		}
	}
}

func gorillaCode(err error) int {
	if ce := (*websocket.CloseError)(nil); errors.As(err, &ce) {
		return ce.Code
	}
	return codeDropped
}

func gorillaType(text bool) int {
	if text {
		return websocket.TextMessage
	}
	return websocket.BinaryMessage
}

func (g gorillaConn) send(text bool, p []byte) error {
	return g.c.WriteMessage(gorillaType(text), p)
}

// sendParts: the library cuts frames where its write buffer is full, not where a Write ends.
func (g gorillaConn) sendParts(text bool, parts ...[]byte) error {
	w, err := g.c.NextWriter(gorillaType(text))
	if err != nil {
		return err
	}
	return writeParts(w, parts)
}

func (g gorillaConn) ping() error {
	return g.c.WriteControl(websocket.PingMessage, []byte("ping"), time.Now().Add(time.Second))
}

func (g gorillaConn) shut(code int, reason string) error {
	return g.c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(time.Second))
}

func gorillaBroadcast(cs []conn, p []byte) error {
	m, err := websocket.NewPreparedMessage(websocket.BinaryMessage, p)
	if err != nil {
		return err
	}
	for _, c := range cs {
		if err := c.(gorillaConn).c.WritePreparedMessage(m); err != nil {
			return err
		}
	}
	return nil
}
