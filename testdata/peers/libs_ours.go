package main

import (
	"context"
	"errors"
	"net"
	"net/http"

	"example.com/websocket"
)

var ours = library{
	name:      "ours",
	module:    "example.com/websocket",
	style:     "Handler, Messages, Write, Group.Broadcast",
	handler:   oursHandler,
	upgrade:   oursUpgrade,
	serve:     oursServe,
	dial:      oursDial,
	broadcast: oursBroadcast,
	ownLock:   true,
	utf8:      true,
	compress:  true,
	takeover:  true,
}

type oursConn struct {
	c  *websocket.Conn
	ev *events
}

// oursGroup holds the connections of the hub.
var oursGroup websocket.Group

func oursOptions(o options) *websocket.Options {
	opts := &websocket.Options{MaxMessageSize: maxMessage}
	if o.Compress {
		opts.Compression = &websocket.Compression{Level: o.Level, Threshold: -1, ContextTakeover: o.Takeover}
	}
	if o.Hub {
		opts.Group = &oursGroup
	}
	return opts
}

func oursHandler(o options, ev *events) http.Handler {
	return websocket.Handler(oursOptions(o), func(c *websocket.Conn, _ *http.Request) { oursLoop(c, ev) })
}

func oursUpgrade(o options, ev *events) http.Handler {
	opts := oursOptions(o)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Upgrade(w, r, opts)
		if err != nil {
			return
		}
		defer c.CloseNow()
		oursLoop(c, ev)
	})
}

func oursServe(l net.Listener, o options, ev *events) {
	_ = websocket.Serve(l, oursOptions(o), func(c *websocket.Conn, _ *http.Request) { oursLoop(c, ev) })
}

func oursDial(url string, o options, ev *events) (conn, error) {
	c, err := websocket.Dial(background, url, oursOptions(o))
	if err != nil {
		return nil, err
	}
	go oursLoop(c, ev)
	return oursConn{c, ev}, nil
}

func oursLoop(c *websocket.Conn, ev *events) {
	var oc conn = oursConn{c, ev}
	ev.open(oc)
	for m, err := range c.Messages(background) {
		if err != nil {
			break
		}
		ev.message(oc, m.Type == websocket.TextMessage, m.Data)
	}
	ev.closed(oc, oursCode(context.Cause(c.Context())))
}

func oursCode(err error) int {
	if ce := (*websocket.CloseError)(nil); errors.As(err, &ce) {
		return int(ce.Code)
	}
	return codeDropped
}

func oursType(text bool) websocket.MessageType {
	if text {
		return websocket.TextMessage
	}
	return websocket.BinaryMessage
}

func (o oursConn) send(text bool, p []byte) error { return o.c.Write(background, oursType(text), p) }

func (o oursConn) sendParts(text bool, parts ...[]byte) error {
	w, err := o.c.Writer(background, oursType(text))
	if err != nil {
		return err
	}
	return writeParts(w, parts)
}

// ping waits for the pong in the library, so it must not hold up its caller.
func (o oursConn) ping() error {
	go func() {
		if _, err := o.c.Ping(background); err == nil {
			o.ev.pong(o)
		}
	}()
	return nil
}

func (o oursConn) shut(code int, reason string) error {
	return o.c.Close(websocket.StatusCode(code), reason)
}

func oursBroadcast(cs []conn, p []byte) error {
	m, err := websocket.NewPreparedMessage(websocket.BinaryMessage, p)
	if err != nil {
		return err
	}
	if n := oursGroup.Broadcast(m); n != len(cs) {
		return errors.New("a subscriber was lost")
	}
	return nil
}
