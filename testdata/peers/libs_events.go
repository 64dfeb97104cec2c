package main

import (
	"context"
	"net/http"

	"example.com/websocket"
)

var oursEvents = library{
	name:      "ours-events",
	module:    "example.com/websocket",
	style:     "Handler, OnMessage: no goroutine per idle connection",
	handler:   oursEventsHandler,
	dial:      oursEventsDial,
	broadcast: oursBroadcast,
	ownLock:   true,
	utf8:      true,
	compress:  true,
	takeover:  true,
}

func oursEventsHandler(o options, ev *events) http.Handler {
	return websocket.Handler(oursOptions(o), func(c *websocket.Conn, _ *http.Request) { oursDeliver(c, ev) })
}

func oursEventsDial(url string, o options, ev *events) (conn, error) {
	c, err := websocket.Dial(background, url, oursOptions(o))
	if err != nil {
		return nil, err
	}
	oursDeliver(c, ev)
	return oursConn{c, ev}, nil
}

func oursDeliver(c *websocket.Conn, ev *events) {
	var oc conn = oursConn{c, ev}
	ev.open(oc)
	c.OnMessage(func(m websocket.Message, err error) {
		if err != nil {
			ev.closed(oc, oursCode(context.Cause(c.Context())))
			return
		}
		ev.message(oc, m.Type == websocket.TextMessage, m.Data)
	})
}
