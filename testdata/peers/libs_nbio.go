package main

import (
	"encoding/pem"
	"net"
	"net/http"
	"time"

	"github.com/lesismal/llib/std/crypto/tls"
	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"
)

var nbioStd = library{
	name:     "nbio",
	module:   "github.com/lesismal/nbio",
	style:    "net/http's connection, a blocking read loop, writes from the handler",
	handler:  nbioHandler,
	dial:     nbioDial,
	ownLock:  true,
	utf8:     true,
	compress: true,
	noEmpty:  true,
}

var nbioPoller = library{
	name:     "nbio-poller",
	module:   "github.com/lesismal/nbio",
	style:    "its own engine: epoll, no goroutine per connection",
	listen:   nbioListen,
	ownLock:  true,
	utf8:     true,
	compress: true,
	noEmpty:  true,
}

type nbioConn struct{ c *websocket.Conn }

func init() { logging.SetLevel(logging.LevelNone) }

func nbioUpgrader(o options, ev *events) *websocket.Upgrader {
	up := websocket.NewUpgrader()
	up.KeepaliveTime = 0
	up.BlockingModAsyncWrite = false
	up.MessageLengthLimit = maxMessage
	up.ReleasePayload = true
	up.EnableCompression(o.Compress)
	if o.Level != 0 {
		_ = up.SetCompressionLevel(o.Level)
	}
	up.OnOpen(func(c *websocket.Conn) { ev.open(nbioConn{c}) })
	up.SetPongHandler(func(c *websocket.Conn, _ string) { ev.pong(nbioConn{c}) })
	up.OnMessage(func(c *websocket.Conn, typ websocket.MessageType, p []byte) {
		ev.message(nbioConn{c}, typ == websocket.TextMessage, p)
	})
	up.SetCloseHandler(func(c *websocket.Conn, code int, reason string) {
		ev.closed(nbioConn{c}, code) // OnClose does not know 1000 from a lost connection
		if code == codeNone {
			_ = c.WriteMessage(websocket.CloseMessage, nil)
			return
		}
		_ = c.WriteClose(code, reason)
	})
	up.OnClose(func(c *websocket.Conn, err error) { ev.closed(nbioConn{c}, nbioCode(err)) })
	return up
}

func nbioCode(err error) int {
	if ce, ok := err.(*websocket.CloseError); ok {
		return ce.Code
	}
	return codeDropped
}

func nbioHandler(o options, ev *events) http.Handler {
	up := nbioUpgrader(o, ev)
	up.Engine = nbhttp.NewEngine(nbioConfig()) // for its settings; it need not run
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = up.Upgrade(w, r, nil)
	})
}

func nbioConfig() nbhttp.Config {
	return nbhttp.Config{
		Network: "tcp", MaxLoad: 100_000,
		ReleaseWebsocketPayload: true, MaxWebsocketFramePayloadSize: maxMessage,
	}
}

// nbioListen runs the library's engine, which reveals its listener's address through Listen.
func nbioListen(o options, ev *events) (string, error) {
	var addr string
	cfg := nbioConfig()
	cfg.Handler = nbioHandler(o, ev)
	cfg.Listen = func(network, a string) (net.Listener, error) {
		l, err := net.Listen(network, a)
		if err == nil {
			addr = l.Addr().String()
		}
		return l, err
	}
	if o.TLS {
		cert, err := nbioCertificate()
		if err != nil {
			return "", err
		}
		cfg.AddrsTLS = []string{"127.0.0.1:0"}
		cfg.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	} else {
		cfg.Addrs = []string{"127.0.0.1:0"}
	}
	err := nbhttp.NewEngine(cfg).Start()
	return addr, err
}

// nbioCertificate converts ours for the library's own copy of crypto/tls.
func nbioCertificate() (tls.Certificate, error) {
	std, keyDER, err := selfSigned()
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: std.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// nbioClients is the engine behind all client connections.
var nbioClients *nbhttp.Engine

func nbioDial(url string, o options, ev *events) (conn, error) {
	if nbioClients == nil {
		nbioClients = nbhttp.NewEngine(nbioConfig())
		if err := nbioClients.Start(); err != nil {
			return nil, err
		}
	}
	up := nbioUpgrader(o, ev)
	up.Engine = nbioClients
	d := websocket.Dialer{Engine: nbioClients, Options: up, EnableCompression: o.Compress, DialTimeout: 5 * time.Second}
	c, _, err := d.Dial(url, nil)
	if err != nil {
		return nil, err
	}
	return nbioConn{c}, nil
}

func nbioType(text bool) websocket.MessageType {
	if text {
		return websocket.TextMessage
	}
	return websocket.BinaryMessage
}

func (n nbioConn) send(text bool, p []byte) error { return n.c.WriteMessage(nbioType(text), p) }

func (n nbioConn) sendParts(text bool, parts ...[]byte) error {
	for i, p := range parts {
		if err := n.c.WriteFrame(nbioType(text), i == 0, i == len(parts)-1, p); err != nil {
			return err
		}
	}
	return nil
}

func (n nbioConn) ping() error { return n.c.WriteMessage(websocket.PingMessage, []byte("ping")) }

func (n nbioConn) shut(code int, reason string) error { return n.c.WriteClose(code, reason) }
