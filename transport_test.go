package websocket

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// net/http serves extended CONNECT only in a process that was started with this in its environment.
const extendedConnect = "http2xconnect=1"

// TestMain starts the tests again with HTTP/2's extended CONNECT, where they lack it.
func TestMain(m *testing.M) {
	debug := os.Getenv("GODEBUG")
	if strings.Contains(debug, extendedConnect) {
		os.Exit(m.Run())
	}
	if debug != "" {
		debug += ","
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), "GODEBUG="+debug+extendedConnect)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	}
	os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(2)
}

// A testTransport connects a client to a server that runs serve, over loopback. Both end with the test.
type testTransport struct {
	name string
	dial func(t *testing.T, server, client *Options, serve func(*Conn, *http.Request)) *Conn
}

// testTransports are what the suites of the package run over (A117).
var testTransports = []testTransport{
	{"TCP", dialTest(startTCP, false)},
	{"TLS", dialTest(startTLS, false)},
	{"HTTP2", dialTest(startTLS, true)},
	{"h2c", dialTest(startTCP, true)},
}

// A startFunc starts a server, whose settings the last functions change, until the test ends.
type startFunc = func(*testing.T, http.Handler, ...func(*http.Server)) *httptest.Server

// startTCP starts a server of HTTP/1.1 and, by prior knowledge, HTTP/2.
func startTCP(t *testing.T, h http.Handler, set ...func(*http.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	for _, f := range set {
		f(s.Config)
	}
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// startTLS starts a server of HTTP/1.1 and HTTP/2 over TLS.
func startTLS(t *testing.T, h http.Handler, set ...func(*http.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	for _, f := range set {
		f(s.Config)
	}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func dialTest(start startFunc, http2 bool) func(*testing.T, *Options, *Options, func(*Conn, *http.Request)) *Conn {
	return func(t *testing.T, server, client *Options, serve func(*Conn, *http.Request)) *Conn {
		t.Helper()
		s := start(t, Handler(server, serve))
		var o Options
		if client != nil {
			o = *client
		}
		o.HTTPClient, o.HTTP2 = s.Client(), http2
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := Dial(ctx, s.URL, &o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.CloseNow() })
		return c
	}
}
