// Package nettest runs the net.Conn tests of golang.org/x/net/nettest on Conn.Stream.
package nettest

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/net/nettest"

	"example.com/websocket"
)

// TestMain restarts the tests with the setting that net/http's extended CONNECT requires, unless it is already set.
func TestMain(m *testing.M) {
	const setting = "http2xconnect=1"
	if strings.Contains(os.Getenv("GODEBUG"), setting) {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), "GODEBUG="+setting)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if cmd.Run() != nil {
		os.Exit(1)
	}
}

// connect returns the two ends of a connection to a server that start starts.
func connect(t *testing.T, start func(http.Handler) *httptest.Server, opts websocket.Options) (server, client *websocket.Conn, stop func()) {
	accepted := make(chan *websocket.Conn, 1)
	hs := start(websocket.Handler(&opts, func(c *websocket.Conn, _ *http.Request) {
		accepted <- c
		<-c.Context().Done()
	}))
	opts.HTTPClient = hs.Client()
	client, err := websocket.Dial(t.Context(), hs.URL, &opts)
	if err != nil {
		t.Fatal(err)
	}
	return <-accepted, client, hs.Close
}

func pipe(_ *testing.T, opts websocket.Options) (server, client *websocket.Conn, stop func()) {
	server, client = websocket.Pipe(&opts, &opts)
	return server, client, func() {}
}

func overTCP(t *testing.T, opts websocket.Options) (server, client *websocket.Conn, stop func()) {
	return connect(t, httptest.NewServer, opts)
}

func overTLS(t *testing.T, opts websocket.Options) (server, client *websocket.Conn, stop func()) {
	return connect(t, httptest.NewTLSServer, opts)
}

func overHTTP2(t *testing.T, opts websocket.Options) (server, client *websocket.Conn, stop func()) {
	opts.HTTP2 = true
	return connect(t, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.EnableHTTP2 = true
		s.StartTLS()
		return s
	}, opts)
}

// closeBoth does not interrupt a running Close, because nettest would report its error as a failure.
func closeBoth(server, client *websocket.Conn) {
	go server.Close(websocket.StatusNormalClosure, "")
	client.Close(websocket.StatusNormalClosure, "")
	<-server.Context().Done()
	<-client.Context().Done()
}

func TestStream(t *testing.T) {
	transports := map[string]func(*testing.T, websocket.Options) (server, client *websocket.Conn, stop func()){
		"Pipe": pipe, "TCP": overTCP, "TLS": overTLS, "HTTP2": overHTTP2,
	}
	for transport, open := range transports {
		for name, compression := range map[string]*websocket.Compression{"plain": nil, "takeover": {ContextTakeover: true}} {
			t.Run(transport+"/"+name, func(t *testing.T) {
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					server, client, end := open(t, websocket.Options{Compression: compression})
					stop = func() {
						closeBoth(server, client)
						end()
					}
					return server.Stream(websocket.BinaryMessage), client.Stream(websocket.BinaryMessage), stop, nil
				})
			})
		}
	}
}
