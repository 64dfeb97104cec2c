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
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// A logBuffer is the output of a log that a test reads while it is written.
type logBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed by the next Write; nil if nobody waits
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until the log contains text and returns the log. It gives up after ten seconds.
func (l *logBuffer) await(text string) string {
	for limit := time.After(10 * time.Second); ; {
		l.mu.Lock()
		got := l.b.String()
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		if strings.Contains(got, text) {
			return got
		}
		select {
		case <-changed:
		case <-limit:
			return got
		}
	}
}

// The end of serve closes the connection. A panic is logged where net/http logs those of handlers.
func TestHandler_Closes_WhenServeEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		serve  func(*Conn)
		code   StatusCode
		logged string
	}{
		{"returns", func(*Conn) {}, StatusNormalClosure, ""},
		{"returns after Close", func(c *Conn) { c.Close(4000, "") }, 4000, ""},
		{"panics", func(*Conn) { panic("oh no") }, StatusInternalError, "oh no"},
		{"panics with an error", func(*Conn) { panic(errors.New("oh error")) }, StatusInternalError, "oh error"},
		{"panics with ErrAbortHandler", func(*Conn) { panic(http.ErrAbortHandler) }, StatusInternalError, ""},
		{"panics after Close", func(c *Conn) { c.Close(4001, ""); panic("late") }, 4001, "late"},
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

// Without an ErrorLog a panic goes to package log.
func TestHandler_Logs_PanicWithoutErrorLog(t *testing.T) {
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

// Options.ErrorLog takes the place of the http.Server's. A refused handshake is one line with the peer's address and the
// reason.
func TestHandler_Logs_ToTheErrorLogOfTheOptions(t *testing.T) {
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

// Without Options.ErrorLog a refused handshake is not logged, just as net/http does not log a 403.
func TestHandler_Logs_NoRefusalWithoutErrorLog(t *testing.T) {
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

// runtime.Goexit, for example by t.FailNow, is not a return.
func TestHandler_Closes_WhenServeExits(t *testing.T) {
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

// ServeHTTP returns while serve runs, and the request can be collected as soon as serve no longer uses it.
func TestHandler_Leaves_NetHTTP(t *testing.T) {
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

// The bytes that follow the request are the first frames, whether or not they arrive with it.
func TestHandler_Reads_FramesAfterTheRequest(t *testing.T) {
	s := httptest.NewServer(Handler(nil, echoMessages))
	defer s.Close()
	frame := "\x82\x85\x00\x00\x00\x00hello"
	for _, n := range []int{1, 3, 1000} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			_, nc, br := ask(t, s, edited(t, inOrigin, "")+strings.Repeat(frame, n))
			want := strings.Repeat("\x82\x05hello", n)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
				t.Errorf("%v: got %.40q", err, got)
			}
			nc.Close()
		})
	}
}

func echoMessages(c *Conn, r *http.Request) {
	ctx := context.Background()
	for m, err := range c.Messages(ctx) {
		if err != nil || c.Write(ctx, m.Type, m.Data) != nil {
			return
		}
	}
}

func TestHandler_Joins_Group(t *testing.T) {
	var g Group
	members := make(chan int, 1)
	s := httptest.NewServer(Handler(&Options{Group: &g}, func(c *Conn, r *http.Request) {
		members <- g.Len()
		c.Read(context.Background())
	}))
	defer s.Close()
	if resp, _, _ := ask(t, s, goodRequest); resp.StatusCode != 101 {
		t.Fatalf("answered %s", resp.Status)
	}
	if n := <-members; n != 1 {
		t.Fatalf("the group has %d members", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	g.Shutdown(ctx, StatusGoingAway, "")
	resp, _, _ := ask(t, s, goodRequest)
	if resp.StatusCode != 503 {
		t.Errorf("answered %s after Shutdown", resp.Status)
	}
	checkRefusalHeader(t, resp)
}

// A lateHijacker calls before each Hijack.
type lateHijacker struct {
	hijacker
	before func()
}

func (h lateHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h.before()
	return h.hijacker.Hijack()
}

func TestServer_Refuses_GroupThatEndsDuringTheHandshake(t *testing.T) {
	var g Group
	near, far := memPipe()
	w := lateHijacker{hijacker{httptest.NewRecorder(), near, nil}, func() { g.Shutdown(context.Background(), StatusGoingAway, "") }}
	c, err := Upgrade(w, goodHTTPRequest(), &Options{Group: &g})
	var e *HandshakeError
	if c != nil || !errors.As(err, &e) || e.StatusCode != http.StatusServiceUnavailable {
		t.Fatal(c, err)
	}
	br := bufio.NewReader(far)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("answered %v, %v", resp, err)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("after the refusal: %v, want io.EOF", err)
	}
}

// A client whose Dial has returned is in the group. What the group broadcasts before the response is written follows it.
func TestServer_Joins_GroupBeforeItAnswers(t *testing.T) {
	var g Group
	hello, err := NewPreparedMessage(TextMessage, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	near, far := memPipe()
	took := make(chan int, 1)
	nc := speaking{near, func() { took <- g.Broadcast(hello) }}
	if _, err := Upgrade(hijacker{httptest.NewRecorder(), nc, nil}, goodHTTPRequest(), &Options{Group: &g}); err != nil {
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

// speaking calls before the Write of a handshake's response.
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

// A Close that the user calls after the peer has closed reports that both close frames were exchanged, although serve has
// returned meanwhile.
func TestHandler_LeavesCloseToTheUser_WhenThePeerHasClosed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		conns := make(chan *Conn, 1)
		l, _ := serveInBubble(nil, func(c *Conn, r *http.Request) {
			conns <- c
			c.Read(context.Background())
		})
		defer l.Close()
		client := &http.Client{Transport: &http.Transport{DialContext: l.dial}}
		c, err := Dial(t.Context(), "ws://example.com/", &Options{HTTPClient: client})
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, "the client's Close", c.Close(StatusNormalClosure, ""), nil)
		synctest.Wait()
		wantError(t, "the server's Close", (<-conns).Close(StatusNormalClosure, ""), nil)
	})
}
