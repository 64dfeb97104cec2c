package websocket

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// What the tests of the protocol run over. A real socket is no part of a bubble: all of these end in pipes, and
// behaviour_test.go has the loopback.

var bubbleWires = []struct {
	name string
	ends func(t *testing.T) (server, client net.Conn)
}{
	{"Pipe", pipeEnds},
	{"TLS", tlsEnds},
	{"HTTP2", func(t *testing.T) (server, client net.Conn) { return http2Ends(t, true) }},
	{"h2c", func(t *testing.T) (server, client net.Conn) { return http2Ends(t, false) }},
}

// ends makes the connections of connectRaw. The tests that set it are not parallel.
var ends = pipeEnds

func pipeEnds(*testing.T) (server, client net.Conn) { return memPipe() }

// certified returns the settings of a server and a client of TLS, for example.com.
var certified = sync.OnceValues(func() (server, client *tls.Config) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	client = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: s.TLS.Certificates}, client
})

func tlsEnds(t *testing.T) (server, client net.Conn) {
	t.Helper()
	ofServer, ofClient := certified()
	a, b := memPipe()
	s, c := tls.Server(a, ofServer), tls.Client(b, ofClient)
	shaken := background(s.Handshake)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	return s, c
}

// smallWindows let less wait for a reader than the tests write to one that does not read.
var smallWindows = &http.HTTP2Config{MaxReceiveBufferPerStream: 128 << 10, MaxReceiveBufferPerConnection: 128 << 10}

// http2Ends returns the ends of a stream of HTTP/2, which ends with the test.
func http2Ends(t *testing.T, secure bool) (server, client net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	opts := &Options{KeepAlive: -1}
	s := &http.Server{HTTP2: smallWindows, Protocols: new(http.Protocols)}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Upgrade(w, r, opts)
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- c.nc
		awaitStream(c)
	})
	s.Protocols.SetHTTP2(secure)
	s.Protocols.SetUnencryptedHTTP2(!secure)
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	tr := &http.Transport{DialContext: l.dial, HTTP2: smallWindows}
	url := "ws://example.com"
	if secure {
		url = "wss://example.com"
		s.TLSConfig, tr.TLSClientConfig = certified()
		s.TLSConfig = s.TLSConfig.Clone()
		go s.ServeTLS(l, "", "")
	} else {
		go s.Serve(l)
	}
	t.Cleanup(func() { s.Close() })
	c, err := Dial(t.Context(), url, &Options{KeepAlive: -1, HTTP2: true, HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		t.Fatal(err)
	}
	return <-accepted, c.nc
}

// A pipeListener accepts the other ends of the pipes that are dialed.
type pipeListener struct {
	conns  chan net.Conn
	close  sync.Once
	closed chan struct{}
}

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	near, far := memPipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return streamAddr("pipe") }
