package websocket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// net/http serves extended CONNECT only in a process that was started with this in its environment.
const extendedConnect = "http2xconnect=1"

// TestMain starts the tests again with HTTP/2's extended CONNECT, where they lack it.
func TestMain(m *testing.M) {
	debug := os.Getenv("GODEBUG")
	if strings.Contains(debug, extendedConnect) || runtime.GOOS == "js" { // which starts no process
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

// testTransports are the transports that whole conversations are tested over.
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

// quiet keeps a server from logging the TLS handshakes that a test has fail.
func quiet(s *http.Server) { s.ErrorLog = log.New(io.Discard, "", 0) }

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

// testContext bounds what a test waits for.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// listen serves each connection with the function, until the test ends.
func listen(t testing.TB, serve func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(10 * time.Second))
				serve(nc)
			})
		}
	})
	return l.Addr()
}

// answer reads a request and answers it with the response, in which {accept} stands for the accept key.
func answerWith(nc net.Conn, response string) (request string) {
	var b bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(nc, &b)))
	if err != nil {
		return b.String()
	}
	accept := string(appendAcceptKey(nil, req.Header.Get("Sec-WebSocket-Key")))
	io.WriteString(nc, strings.ReplaceAll(response, "{accept}", accept))
	return b.String()
}

const goodResponse = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"

// pipedTo returns a client whose connections are pipes to serve, which ends when the client closes its end.
func pipedTo(serve func(net.Conn)) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			serve(far)
		}()
		return near, nil
	}}}
}

// answering returns a client whose requests are answered with response. The server then closes the connection, or waits
// for the client to do so.
func answering(response string, closes bool) *http.Client {
	return pipedTo(func(nc net.Conn) {
		answerWith(nc, response)
		if !closes {
			io.Copy(io.Discard, nc)
		}
	})
}

// dialFails dials and returns the error, which must be a *HandshakeError of one line.
func dialFails(t *testing.T, ctx context.Context, url string, opts *Options) *HandshakeError {
	t.Helper()
	c, err := Dial(ctx, url, opts)
	if err == nil {
		c.CloseNow()
		t.Fatal("dialed")
	}
	var e *HandshakeError
	if c != nil || !errors.As(err, &e) || e.Reason == "" || err != error(e) {
		t.Fatalf("Dial returned %v, %#v", c, err)
	}
	if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("the error is not one line of text: %q", e.Error())
	}
	return e
}

// noDial is a client that must not be used.
func noDial(t *testing.T) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("%s was dialed", addr)
		return nil, errors.New("not to be dialed")
	}}}
}

// A roundTripper is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// failing is a client whose requests fail with err.
func failing(err error) *http.Client {
	return &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })}
}

// hiding wraps the body of a 101, so that nothing but Read, Write and Close can be seen of it.
func hiding(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := rt.RoundTrip(r)
		if err == nil {
			resp.Body = struct{ io.ReadWriteCloser }{resp.Body.(io.ReadWriteCloser)}
		}
		return resp, err
	})
}

// follow is a CheckRedirect that follows.
func follow(*http.Request, []*http.Request) error { return nil }

// checkInterruptedEcho cancels reads and loses nothing by it.
func checkInterruptedEcho(t *testing.T, c *Conn) {
	t.Helper()
	for _, s := range []string{"one", "two"} {
		short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		if _, _, err := c.Read(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		if err := c.Write(testContext(t), TextMessage, []byte(s)); err != nil {
			t.Fatal(err)
		}
		if _, p, err := c.Read(testContext(t)); err != nil || string(p) != s {
			t.Fatalf("got %q, %v", p, err)
		}
	}
}

// openFiles counts the descriptors of the process, where the system tells.
func openFiles(t *testing.T) int {
	if runtime.GOOS != "linux" {
		return 0
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// awaitFiles waits until no more descriptors are open than before: at most 5 s.
func awaitFiles(t *testing.T, before int) {
	t.Helper()
	for limit := time.Now().Add(5 * time.Second); openFiles(t) > before; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("%d descriptors, %d before", openFiles(t), before)
		}
	}
}
