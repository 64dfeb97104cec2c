package main

import (
	"bytes"
	"compress/flate"
	"errors"
	"net"
	"net/http"

	"github.com/lxzan/gws"
)

var gwsLib = library{
	name:      "gws",
	module:    "github.com/lxzan/gws",
	style:     "event handler, ReadLoop on a goroutine of its own, WriteMessage, Broadcaster",
	handler:   func(o options, ev *events) http.Handler { return gwsHandler(o, ev, false) },
	serve:     gwsServe,
	dial:      gwsDial,
	broadcast: gwsBroadcast,
	ownLock:   true,
	utf8:      true,
	compress:  true,
	takeover:  true,
}

// gwsParallel runs each message on a goroutine of its own.
var gwsParallel = library{
	name:    "gws-parallel",
	module:  "github.com/lxzan/gws",
	style:   "as gws, ParallelEnabled",
	handler: func(o options, ev *events) http.Handler { return gwsHandler(o, ev, true) },
	ownLock: true,
}

// The library's buffer pool keeps buffers up to 256 KiB unless told otherwise.
func init() { gws.SetBufferThreshold(4 << 20) }

type gwsConn struct{ c *gws.Conn }

type gwsEvents struct{ ev *events }

func (g gwsEvents) OnOpen(c *gws.Conn)           { g.ev.open(gwsConn{c}) }
func (g gwsEvents) OnPong(c *gws.Conn, _ []byte) { g.ev.pong(gwsConn{c}) }

func (g gwsEvents) OnPing(c *gws.Conn, payload []byte) {
	_ = c.WritePong(payload)
}

func (g gwsEvents) OnClose(c *gws.Conn, err error) {
	code := codeDropped
	if ce := (*gws.CloseError)(nil); errors.As(err, &ce) {
		code = int(ce.Code)
	}
	g.ev.closed(gwsConn{c}, code)
}

func (g gwsEvents) OnMessage(c *gws.Conn, m *gws.Message) {
	g.ev.message(gwsConn{c}, m.Opcode == gws.OpcodeText, m.Bytes())
	m.Close()
}

func gwsDeflate(o options) gws.PermessageDeflate {
	level := o.Level
	if level == 0 {
		level = flate.BestSpeed
	}
	return gws.PermessageDeflate{
		Enabled: o.Compress, Level: level, Threshold: 1, PoolSize: 8,
		ServerContextTakeover: o.Takeover, ClientContextTakeover: o.Takeover,
		ServerMaxWindowBits: 15, ClientMaxWindowBits: 15,
	}
}

func gwsHandler(o options, ev *events, parallel bool) http.Handler {
	up := gws.NewUpgrader(gwsEvents{ev}, gwsOptions(o, parallel))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r)
		if err != nil {
			return
		}
		go c.ReadLoop()
	})
}

func gwsOptions(o options, parallel bool) *gws.ServerOption {
	return &gws.ServerOption{
		ParallelEnabled:    parallel,
		CheckUtf8Enabled:   o.UTF8,
		ReadMaxPayloadSize: maxMessage, WriteMaxPayloadSize: maxMessage,
		PermessageDeflate: gwsDeflate(o),
	}
}

func gwsServe(l net.Listener, o options, ev *events) {
	srv := gws.NewServer(gwsEvents{ev}, gwsOptions(o, false))
	srv.OnError = func(net.Conn, error) {}
	_ = srv.RunListener(l)
}

func gwsDial(url string, o options, ev *events) (conn, error) {
	c, _, err := gws.NewClient(gwsEvents{ev}, &gws.ClientOption{
		Addr:               url,
		CheckUtf8Enabled:   o.UTF8,
		ReadMaxPayloadSize: maxMessage, WriteMaxPayloadSize: maxMessage,
		PermessageDeflate: gwsDeflate(o),
	})
	if err != nil {
		return nil, err
	}
	go c.ReadLoop()
	return gwsConn{c}, nil
}

func gwsOpcode(text bool) gws.Opcode {
	if text {
		return gws.OpcodeText
	}
	return gws.OpcodeBinary
}

func (g gwsConn) send(text bool, p []byte) error { return g.c.WriteMessage(gwsOpcode(text), p) }

// sendParts: WriteFile cuts segments of its own size.
func (g gwsConn) sendParts(text bool, parts ...[]byte) error {
	return g.c.WriteFile(gwsOpcode(text), bytes.NewReader(bytes.Join(parts, nil)))
}

func (g gwsConn) ping() error { return g.c.WritePing([]byte("ping")) }

func (g gwsConn) shut(code int, reason string) error {
	return g.c.WriteClose(uint16(code), []byte(reason))
}

func gwsBroadcast(cs []conn, p []byte) error {
	b := gws.NewBroadcaster(gws.OpcodeBinary, p)
	defer b.Close()
	for _, c := range cs {
		if err := b.Broadcast(c.(gwsConn).c); err != nil {
			return err
		}
	}
	return nil
}
