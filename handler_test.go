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
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// A logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await returns what was logged once it has the text, or a while later.
func (l *logBuffer) await(text string) string {
	for limit := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		if got := l.String(); strings.Contains(got, text) || time.Now().After(limit) {
			return got
		}
	}
}

// A110: the end of serve closes the connection, and its panic is logged where net/http logs those of handlers.
func TestHandler_EndOfServe(t *testing.T) {
	for _, tt := range []struct {
		name   string
		serve  func(*Conn)
		code   StatusCode
		logged string
	}{
		{"returns", func(*Conn) {}, StatusNormalClosure, ""},
		{"returns behind a Close", func(c *Conn) { c.Close(4000, "") }, 4000, ""},
		{"panics", func(*Conn) { panic("oh no") }, StatusInternalError, "oh no"},
		{"panics with an error", func(*Conn) { panic(errors.New("oh error")) }, StatusInternalError, "oh error"},
		{"panics with ErrAbortHandler", func(*Conn) { panic(http.ErrAbortHandler) }, StatusInternalError, ""},
		{"panics behind a Close", func(c *Conn) { c.Close(4001, ""); panic("late") }, 4001, "late"},
	} {
		for _, tr := range []struct {
			name  string
			start startFunc
			http2 bool
		}{{"TCP", startTCP, false}, {"TLS", startTLS, false}, {"HTTP2", startTLS, true}, {"h2c", startTCP, true}} {
			t.Run(tt.name+" "+tr.name, func(t *testing.T) {
				var logged logBuffer
				ended := make(chan struct{})
				h := Handler(nil, func(c *Conn, r *http.Request) {
					context.AfterFunc(c.Context(), func() { close(ended) })
					tt.serve(c)
				})
				s := tr.start(t, h, func(s *http.Server) { s.ErrorLog = log.New(&logged, "", 0) })
				c, err := Dial(testContext(t), s.URL, &Options{HTTPClient: s.Client(), HTTP2: tr.http2})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				if _, _, err := c.Read(testContext(t)); !errors.Is(err, tt.code) {
					t.Errorf("closed with %v, want %v", err, tt.code)
				}
				<-ended
				got := logged.await(tt.logged)
				if tt.logged == "" && strings.Contains(got, "panic") {
					t.Errorf("logged %q", got)
				}
				if tt.logged != "" && (!strings.HasPrefix(got, "http: panic serving 127.0.0.1:") || !strings.Contains(got, "handler_test.go")) {
					t.Errorf("logged %q", got)
				}
			})
		}
	}
}

// The panic of a server without an ErrorLog goes to package log.
func TestHandler_PanicWithoutErrorLog(t *testing.T) {
	var logged logBuffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	s := startTCP(t, Handler(nil, func(*Conn, *http.Request) { panic("oh no") }))
	c, err := Dial(testContext(t), s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if _, _, err := c.Read(testContext(t)); !errors.Is(err, StatusInternalError) || !strings.Contains(logged.await("oh no"), "oh no") {
		t.Errorf("closed with %v, logged %q", err, logged.String())
	}
}

// With an ErrorLog of the options nothing goes to that of the http.Server: panics and refused handshakes, each of
// which is one line with the peer's address and the reason.
func TestHandler_ErrorLogOfTheOptions(t *testing.T) {
	for _, tr := range []struct {
		name  string
		start startFunc
		http2 bool
	}{{"TCP", startTCP, false}, {"HTTP2", startTLS, true}} {
		t.Run(tr.name, func(t *testing.T) {
			var logged, servers logBuffer
			opts := &Options{ErrorLog: log.New(&logged, "", 0)}
			s := tr.start(t, Handler(opts, func(*Conn, *http.Request) { panic("oh no") }),
				func(s *http.Server) { s.ErrorLog = log.New(&servers, "", 0) })
			_, err := Dial(testContext(t), s.URL, &Options{HTTPClient: s.Client(), HTTP2: tr.http2, Header: http.Header{"Origin": {"https://evil.example"}}})
			if err == nil {
				t.Fatal("the origin was accepted")
			}
			got := logged.await("\n")
			if !strings.HasPrefix(got, "websocket: handshake with 127.0.0.1:") || strings.Count(got, "\n") != 1 ||
				!strings.Contains(got, "https://evil.example") || !strings.Contains(got, "403") {
				t.Errorf("logged %q", got)
			}
			c, err := Dial(testContext(t), s.URL, &Options{HTTPClient: s.Client(), HTTP2: tr.http2})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			if _, _, err := c.Read(testContext(t)); !errors.Is(err, StatusInternalError) {
				t.Error(err)
			}
			if got := logged.await("oh no"); !strings.Contains(got, "http: panic serving 127.0.0.1:") {
				t.Errorf("logged %q", got)
			}
			if got := servers.String(); strings.Contains(got, "oh no") || strings.Contains(got, "evil") {
				t.Errorf("the http.Server logged %q", got)
			}
		})
	}
}

// Without an ErrorLog of the options a refused handshake is logged nowhere, as net/http logs no 403 either.
func TestHandler_RefusalWithoutErrorLog(t *testing.T) {
	var logged logBuffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	s := startTCP(t, Handler(nil, echoMessages), func(s *http.Server) { s.ErrorLog = log.New(&logged, "", 0) })
	if resp, _, _ := ask(t, s, edited(t, inVersion, "")); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
	s.Close()
	if got := logged.String(); got != "" {
		t.Errorf("logged %q", got)
	}
}

// runtime.Goexit, such as that of t.FailNow, is no return.
func TestHandler_GoexitOfServe(t *testing.T) {
	s := startTCP(t, Handler(nil, func(*Conn, *http.Request) { runtime.Goexit() }))
	c, err := Dial(testContext(t), s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if _, _, err := c.Read(testContext(t)); !errors.Is(err, StatusInternalError) {
		t.Error(err)
	}
}

// ServeHTTP returns while serve is at work, and the request can be collected once serve has done with it.
func TestHandler_LeavesNetHTTP(t *testing.T) {
	type key struct{}
	returned, request, again := make(chan struct{}), make(chan weak.Pointer[http.Request], 1), make(chan struct{})
	h := Handler(nil, func(c *Conn, r *http.Request) {
		request <- weak.Make(r)
		<-again
		if r.Context().Value(key{}) != "value" || r.URL.Path != "/path" || r.Header.Get("X") != "y" {
			t.Errorf("the request is %v", r)
		}
		c.Read(context.Background())
	})
	s := startTCP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
		close(returned)
	}))
	c, err := Dial(testContext(t), s.URL+"/path", &Options{Header: http.Header{"X": {"y"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	r := <-request
	<-returned
	close(again)
	for limit := time.Now().Add(5 * time.Second); r.Value() != nil; runtime.GC() {
		if time.Now().After(limit) {
			t.Fatal("the request is still held")
		}
	}
}

// A hijacker is a ResponseWriter with a connection of the test's own.
type hijacker struct {
	http.ResponseWriter
	nc net.Conn
	rw *bufio.ReadWriter
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.nc, h.rw, nil }

// A countedConn counts the writes of a connection.
type countedConn struct {
	net.Conn
	writes int
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// The 101 is written by one Write, over a connection whose deadlines had passed.
func TestServer_HandshakeIsWrittenAtOnce(t *testing.T) {
	near, far := memPipe()
	near.SetDeadline(past)
	nc := &countedConn{Conn: near}
	c, err := Upgrade(hijacker{httptest.NewRecorder(), nc, nil}, goodHTTPRequest(), &Options{Header: http.Header{"X": {"1", "2"}}})
	if err != nil || nc.writes != 1 {
		t.Fatalf("%v, %d writes", err, nc.writes)
	}
	defer c.CloseNow()
	resp, err := http.ReadResponse(bufio.NewReader(far), nil)
	if err != nil || resp.StatusCode != 101 {
		t.Error(resp, err)
	}
}

// The 101 is written within WriteTimeout, or the connection is closed.
func TestServer_HandshakeWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		start := time.Now()
		_, err := Upgrade(hijacker{httptest.NewRecorder(), near, nil}, goodHTTPRequest(), &Options{WriteTimeout: 7 * time.Second})
		var e *HandshakeError
		if !errors.As(err, &e) || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 7*time.Second {
			t.Errorf("%v behind %v", err, time.Since(start))
		}
		if n, err := far.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes behind the end", n)
		}
	})
}

// Upgrade allocates nothing but the connection.
func TestServer_HandshakeAllocations(t *testing.T) {
	var w http.ResponseWriter = hijacker{httptest.NewRecorder(), nullConn{}, bufio.NewReadWriter(bufio.NewReader(strings.NewReader("")), nil)}
	r, opts := goodHTTPRequest(), &Options{Subprotocols: []string{"superchat"}, Origins: []string{"*.example.net"}}
	conn := testing.AllocsPerRun(100, func() { newConn(nullConn{}, opts.config(true)) })
	got := testing.AllocsPerRun(100, func() {
		if _, err := Upgrade(w, r, opts); err != nil {
			t.Fatal(err)
		}
	})
	if got > conn {
		t.Errorf("%v allocations, and %v of the connection", got, conn)
	}
}

// A nullConn takes what is written.
type nullConn struct{ net.Conn }

func (nullConn) Write(p []byte) (int, error)      { return len(p), nil }
func (nullConn) SetDeadline(time.Time) error      { return nil }
func (nullConn) SetReadDeadline(time.Time) error  { return nil }
func (nullConn) SetWriteDeadline(time.Time) error { return nil }
func (nullConn) Close() error                     { return nil }

func BenchmarkUpgrade(b *testing.B) {
	var w http.ResponseWriter = hijacker{httptest.NewRecorder(), nullConn{}, nil}
	r, opts := goodHTTPRequest(), &Options{Subprotocols: []string{"superchat"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Upgrade(w, r, opts); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDial(b *testing.B) {
	s := httptest.NewServer(Handler(nil, func(c *Conn, r *http.Request) { c.CloseNow() }))
	defer s.Close()
	b.ReportAllocs()
	for b.Loop() {
		c, err := Dial(context.Background(), s.URL, nil)
		if err != nil {
			b.Fatal(err)
		}
		c.CloseNow()
	}
}

// "A Group that is shut down refuses upgrades with 503", also when that happens while a handshake is under way.
func TestServer_HandshakeIntoGroupThatEnds(t *testing.T) {
	var g Group
	near, far := memPipe()
	w := struct {
		http.ResponseWriter
		http.Hijacker
	}{httptest.NewRecorder(), hijackFunc(func() (net.Conn, *bufio.ReadWriter, error) {
		g.Shutdown(context.Background(), StatusGoingAway, "")
		return near, nil, nil
	})}
	c, err := Upgrade(w, goodHTTPRequest(), &Options{Group: &g})
	var e *HandshakeError
	if c != nil || !errors.As(err, &e) || e.StatusCode != http.StatusServiceUnavailable {
		t.Fatal(c, err)
	}
	br := bufio.NewReader(far)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("answered %s with the header %v", resp.Status, resp.Header)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("behind the refusal: %v, want io.EOF", err)
	}
}

// A client whose Dial has returned is in the group, and what was sent to it before the response went out follows it.
func TestServer_HandshakeIntoGroupThatSpeaks(t *testing.T) {
	var g Group
	hello, err := NewPreparedMessage(TextMessage, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	near, far := memPipe()
	w := struct {
		http.ResponseWriter
		http.Hijacker
	}{httptest.NewRecorder(), hijackFunc(func() (net.Conn, *bufio.ReadWriter, error) { return near, nil, nil })}
	took := make(chan int, 1)
	near = speaking{near, func() { took <- g.Broadcast(hello) }}
	if _, err := Upgrade(w, goodHTTPRequest(), &Options{Group: &g}); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(far)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	want := "\x81\x05hello"
	b := make([]byte, len(want))
	if _, err := io.ReadFull(br, b); err != nil || string(b) != want || <-took != 1 {
		t.Errorf("% x, %v", b, err)
	}
	far.Close()
}

// speaking calls before each Write.
type speaking struct {
	net.Conn
	before func()
}

func (s speaking) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "HTTP/1.1 101") {
		s.before()
	}
	return s.Conn.Write(p)
}

type hijackFunc func() (net.Conn, *bufio.ReadWriter, error)

func (f hijackFunc) Hijack() (net.Conn, *bufio.ReadWriter, error) { return f() }

func TestClient_GroupThatEnds(t *testing.T) {
	s := startTCP(t, Handler(nil, echoMessages))
	for _, http2 := range []bool{false, true} {
		var g Group
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			g.Shutdown(context.Background(), StatusGoingAway, "")
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}}
		e := dialFails(t, testContext(t), s.URL, &Options{HTTPClient: client, Group: &g, HTTP2: http2})
		if !strings.Contains(e.Reason, "group") {
			t.Error(e)
		}
	}
}
