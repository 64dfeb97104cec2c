package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// startServe runs Serve on a TCP port until the test ends.
func startServe(t *testing.T, opts *Options, serve func(*Conn, *http.Request)) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := background(func() error { return Serve(ln, opts, serve) })
	t.Cleanup(func() {
		ln.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return ln.Addr()
}

// serveInBubble runs Serve on pipes and returns its listener and its result.
func serveInBubble(opts *Options, serve func(*Conn, *http.Request)) (*pipeListener, <-chan error) {
	ln := newPipeListener()
	return ln, background(func() error { return Serve(ln, opts, serve) })
}

// servedBubble runs f in a bubble in which Serve runs until f returns.
func servedBubble(t *testing.T, opts *Options, serve func(*Conn, *http.Request), f func(t *testing.T, ln *pipeListener)) {
	t.Helper()
	inBubble(t, func(t *testing.T) {
		ln, done := serveInBubble(opts, serve)
		f(t, ln)
		pending(t, "Serve", done)
		ln.Close()
		wantError(t, "Serve", <-done, net.ErrClosed)
	})
}

// logged adds an ErrorLog to opts and returns its output.
func logged(opts Options) (*Options, *logBuffer) {
	b := new(logBuffer)
	opts.ErrorLog = log.New(b, "", 0)
	return &opts, b
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// open returns a connection to the listener, until the test ends.
func (l *pipeListener) open(t *testing.T) net.Conn {
	t.Helper()
	nc, err := l.dial(t.Context(), "", "")
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	return nc
}

func TestServe_Echoes(t *testing.T) {
	requests := make(chan *http.Request, 1)
	addr := startServe(t, &Options{Subprotocols: []string{"b"}, Compression: &Compression{}}, func(c *Conn, r *http.Request) {
		requests <- r
		echoMessages(c, r)
	})
	c := dialed(t, "ws://"+addr.String()+"/path?x=1", &Options{
		Subprotocols: []string{"a", "b"}, Compression: &Compression{}, Header: http.Header{"X": {"y"}, "Host": {"example.com"}}})
	r := <-requests
	if r.URL.Path != "/path" || r.URL.RawQuery != "x=1" || r.RequestURI != "/path?x=1" || r.Header.Get("X") != "y" || r.Host != "example.com" ||
		r.RemoteAddr != c.LocalAddr().String() || r.TLS != nil || r.Context().Err() != nil || r.Body != http.NoBody {
		t.Errorf("the request is %+v", r)
	}
	if c.Subprotocol() != "b" || c.agreed.deflate == nil {
		t.Errorf("agreed on %q, %v", c.Subprotocol(), c.agreed.deflate)
	}
	checkInterruptedEcho(t, c)
	wantOK(t, "Close", c.Close(StatusNormalClosure, ""))
}

func TestServe_OverTLS(t *testing.T) {
	ofServer, ofClient := certified()
	opts, log := logged(Options{})
	ln := newPipeListener()
	defer ln.Close()
	states := make(chan *tls.ConnectionState, 1)
	go Serve(tls.NewListener(ln, ofServer), opts, func(c *Conn, r *http.Request) {
		states <- r.TLS
		echoMessages(c, r)
	})
	dialed(t, "wss://example.com/", &Options{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: ln.dial, TLSClientConfig: ofClient}}})
	if state := <-states; state == nil || !state.HandshakeComplete || state.ServerName != "example.com" {
		t.Errorf("the state is %+v", state)
	}
	nc := ln.open(t)
	io.WriteString(nc, goodRequest)
	io.Copy(io.Discard, nc)
	if got := log.await("\n"); !strings.Contains(got, "TLS") || strings.Count(got, "\n") != 1 {
		t.Errorf("logged %q", got)
	}
}

// The bytes after the request are the first frames. A deadline that the listener has set does not end the connection.
func TestServe_Reads_FramesAfterTheRequest(t *testing.T) {
	servedBubble(t, &Options{MaxMessageSize: 1 << 20, KeepAlive: -1}, echoMessages, func(t *testing.T, ln *pipeListener) {
		frame := "\x82\x85\x00\x00\x00\x00hello"
		for _, n := range []int{1, 3, 2000} {
			nc, far := memPipe()
			defer nc.Close()
			far.SetDeadline(time.Now().Add(5 * time.Second))
			ln.conns <- far
			sent := background(func() error {
				_, err := io.WriteString(nc, edited(t, inOrigin, "")+strings.Repeat(frame, n))
				return err
			})
			br := bufio.NewReader(nc)
			wantAnswer(t, br, 101)
			wantPipeRead(t, br, strings.Repeat("\x82\x05hello", n))
			wantOK(t, "the client's write", <-sent)
			pass(time.Minute)
			io.WriteString(nc, frame)
			wantPipeRead(t, br, "\x82\x05hello")
		}
	})
}

// After a refusal the connection is closed. The response arrives whole even if the client sent more than was read.
func TestServe_ClosesAfterARefusal(t *testing.T) {
	addr := startServe(t, nil, echoMessages)
	for _, tt := range []struct {
		name, raw string
		status    int
	}{
		{"no handshake", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 426},
		{"malformed", "GET / HTTP/1.1\nHost: a\n\n", 400},
		{"too large", headOf(20 << 10), 431},
		{"more after it", "POST / HTTP/1.1\r\nHost: a\r\n\r\n" + strings.Repeat("x", 100<<10), 405},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, _, br := askAt(t, addr, tt.raw)
			if resp.StatusCode != tt.status || !resp.Close || resp.Header.Get("Date") == "" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("answered %s with %v", resp.Status, resp.Header)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || len(body) == 0 || int64(len(body)) != resp.ContentLength {
				t.Errorf("the body is %q, %v", body, err)
			}
			if _, err := br.ReadByte(); err != io.EOF {
				t.Errorf("after the refusal: %v", err)
			}
		})
	}
}

// RFC 9110, section 7.8: "A sender of Upgrade MUST also send an Upgrade connection option".
func TestServe_SaysUpgradeAndClose(t *testing.T) {
	f := &refusal{status: http.StatusUpgradeRequired, reason: "no", version: true}
	got := string(f.response("GET"))
	for _, want := range []string{"HTTP/1.1 426 Upgrade Required\r\n", "\r\nConnection: Upgrade\r\nConnection: close\r\n", "\r\nUpgrade: websocket\r\n", "\r\n\r\nno\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

func TestServe_AnswersHEADWithoutABody(t *testing.T) {
	servedBubble(t, nil, echoMessages, func(t *testing.T, ln *pipeListener) {
		nc := ln.open(t)
		io.WriteString(nc, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
		answer, err := io.ReadAll(nc)
		if head := "HTTP/1.1 405 Method Not Allowed\r\n"; err != nil || !bytes.HasPrefix(answer, []byte(head)) || !bytes.HasSuffix(answer, []byte("\r\n\r\n")) {
			t.Errorf("answered %q, %v", answer, err)
		}
	})
}

// A request must arrive within WriteTimeout. A client that was refused and does not close has one second.
func TestServe_ClosesWhereNothingArrives(t *testing.T) {
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		sent    string
		want    time.Duration
	}{
		{"nothing", 7 * time.Second, "", 7 * time.Second},
		{"half of a request", 7 * time.Second, goodRequest[:100], 7 * time.Second},
		{"nothing, by default", 0, "", 30 * time.Second},
		{"nothing, without a WriteTimeout", -1, "", 30 * time.Second},
		{"after a refusal", 0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts, log := logged(Options{WriteTimeout: tt.timeout})
			servedBubble(t, opts, echoMessages, func(t *testing.T, ln *pipeListener) {
				nc := ln.open(t)
				start := time.Now()
				io.WriteString(nc, tt.sent)
				for err := error(nil); err == nil; _, err = nc.Write([]byte("A")) {
					pass(time.Second)
				}
				if got := time.Since(start).Round(time.Second); got > tt.want+time.Second || got < tt.want {
					t.Errorf("closed after %v, want %v", got, tt.want)
				}
				synctest.Wait()
				if got := log.String(); strings.Count(got, "\n") != 1 {
					t.Errorf("logged %q", got)
				}
			})
		})
	}
}

// A connection without a byte is not logged: it only checks that the port is open.
func TestServe_Logs_NoEmptyConnection(t *testing.T) {
	opts, log := logged(Options{})
	servedBubble(t, opts, echoMessages, func(t *testing.T, ln *pipeListener) {
		ln.open(t).Close()
		synctest.Wait()
		wantEqual(t, "the log", log.String(), "")
		nc := ln.open(t)
		io.WriteString(nc, "GET")
		nc.Close()
		synctest.Wait()
		if got := log.String(); !strings.HasPrefix(got, "websocket: handshake with pipe") || strings.Count(got, "\n") != 1 {
			t.Errorf("logged %q", got)
		}
	})
}

// A flakyListener returns the errors first, one for each Accept.
type flakyListener struct {
	*pipeListener
	errs   []error
	failed []time.Time
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return l.pipeListener.Accept()
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	l.failed = append(l.failed, time.Now())
	return nil, err
}

type temporaryError struct{ error }

func (temporaryError) Temporary() bool { return true }

func TestServe_AcceptsAgainAfterTemporaryErrors(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		opts, log := logged(Options{})
		ln := &flakyListener{pipeListener: newPipeListener()}
		ln.errs = slices.Repeat([]error{&net.OpError{Op: "accept", Err: temporaryError{errors.New("too many open files")}}}, 11)
		done := background(func() error { return Serve(ln, opts, echoMessages) })
		ln.open(t).Close()
		delay := 5 * time.Millisecond
		for i, at := range ln.failed[1:] {
			wantEqual(t, fmt.Sprint("delay ", i), at.Sub(ln.failed[i]), min(delay, time.Second))
			delay *= 2
		}
		if got := log.String(); strings.Count(got, "too many open files") != 11 {
			t.Errorf("logged %q", got)
		}
		pending(t, "Serve", done)
		ln.Close()
		<-done
	})
}

func TestServe_ReturnsWhatEndsIt(t *testing.T) {
	broken := errors.New("broken")
	shut := new(Group)
	shut.Shutdown(context.Background(), StatusGoingAway, "")
	for _, tt := range []struct {
		name string
		opts *Options
		errs []error
		want func(error) bool
	}{
		{"listener", nil, []error{broken}, func(err error) bool { return err == broken }},
		{"options", &Options{Subprotocols: []string{"a b"}}, nil, func(err error) bool { return err != nil && strings.Contains(err.Error(), "Subprotocols") }},
		{"group", &Options{Group: shut}, nil, func(err error) bool { return err == nil }},
		{"group and listener", &Options{Group: shut}, []error{broken}, func(err error) bool { return err == nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln := &flakyListener{pipeListener: newPipeListener(), errs: tt.errs}
			if err := Serve(ln, tt.opts, echoMessages); !tt.want(err) {
				t.Errorf("Serve returned %v", err)
			}
			if _, err := ln.dial(context.Background(), "", ""); err == nil {
				t.Error("the listener is open")
			}
		})
	}
}

// Shutdown of the Group ends Serve, closes the connections and refuses the handshake that has begun.
func TestServe_EndsWithItsGroup(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		ln, done := serveInBubble(&Options{Group: &g}, echoMessages)
		open, half := ln.open(t), ln.open(t)
		io.WriteString(open, goodRequest)
		io.WriteString(half, goodRequest[:50])
		synctest.Wait()
		wantEqual(t, "members", g.Len(), 1)
		shut := background(func() error { return g.Shutdown(context.Background(), StatusGoingAway, "") })
		wantOK(t, "Serve", <-done)
		if _, err := ln.dial(context.Background(), "", ""); err == nil {
			t.Error("the listener is open")
		}
		io.WriteString(half, goodRequest[50:])
		checkRefusalHeader(t, wantAnswer(t, bufio.NewReader(half), 503))
		half.Close()
		got, err := io.ReadAll(open)
		if _, frames, _ := bytes.Cut(got, []byte("\r\n\r\n")); string(frames) != "\x88\x02\x03\xe9" {
			t.Errorf("the connection got % x, %v", frames, err)
		}
		<-shut
	})
}

// Shutdown ends Serve also while it waits to accept again.
func TestServe_EndsWithItsGroup_WhileItWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		ln := &flakyListener{pipeListener: newPipeListener()}
		ln.errs = slices.Repeat([]error{temporaryError{errors.New("full")}}, 1000)
		opts, _ := logged(Options{Group: &g})
		done := background(func() error { return Serve(ln, opts, echoMessages) })
		pass(10500 * time.Millisecond)
		start := time.Now()
		g.Shutdown(context.Background(), StatusGoingAway, "")
		wantOK(t, "Serve", <-done)
		took(t, "Serve", start, 0)
	})
}

// A panic of serve or of CheckOrigin ends one connection and is logged, by package log if the options have no ErrorLog.
func TestServe_Panics(t *testing.T) {
	standard := standardLog(t)
	withLog, own := logged(Options{})
	for _, tt := range []struct {
		opts Options
		log  *logBuffer
	}{{*withLog, own}, {Options{}, standard}} {
		for _, name := range []string{"serve", "CheckOrigin"} {
			if name == "CheckOrigin" {
				tt.opts.CheckOrigin = func(*http.Request) bool { panic("oh CheckOrigin") }
			}
			servedBubble(t, &tt.opts, func(*Conn, *http.Request) { panic("oh serve") }, func(t *testing.T, ln *pipeListener) {
				nc := ln.open(t)
				io.WriteString(nc, goodRequest)
				got, _ := io.ReadAll(nc)
				if name == "serve" && !bytes.HasSuffix(got, []byte("\x88\x02\x03\xf3")) || name == "CheckOrigin" && len(got) > 0 {
					t.Errorf("%s: the peer got %q", name, got)
				}
				synctest.Wait()
				if got := tt.log.String(); !strings.Contains(got, "http: panic serving pipe: oh "+name) {
					t.Errorf("%s: logged %q", name, got)
				}
			})
		}
	}
}

// A requestConn has a request to read, and discards all bytes written to it.
type requestConn struct {
	nullConn
	strings.Reader
}

func (c *requestConn) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c *requestConn) Write(p []byte) (int, error) { return c.nullConn.Write(p) }
func (c *requestConn) RemoteAddr() net.Addr        { return streamAddr("peer") }

func BenchmarkServe(b *testing.B) {
	s := &server{opts: &Options{Subprotocols: []string{"superchat"}}}
	nc := new(requestConn)
	b.ReportAllocs()
	for b.Loop() {
		nc.Reset(goodRequest)
		if _, _, err := s.handshake(nc); err != nil {
			b.Fatal(err)
		}
	}
}

// The end of serve closes the connection. A panic is logged like the panic of an http.Handler. To exit with
// runtime.Goexit, as t.FailNow does, is not to return.
func TestHandler_Closes_WhenServeEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		serve  func(*Conn)
		code   StatusCode
		logged string
	}{
		{"returns", func(*Conn) {}, StatusNormalClosure, ""},
		{"returns after Close", func(c *Conn) { c.Close(4000, "") }, 4000, ""},
		{"exits", func(*Conn) { runtime.Goexit() }, StatusInternalError, ""},
		{"panics", func(*Conn) { panic("oh no") }, StatusInternalError, "oh no"},
		{"panics with an error", func(*Conn) { panic(errors.New("oh error")) }, StatusInternalError, "oh error"},
		{"panics with ErrAbortHandler", func(*Conn) { panic(http.ErrAbortHandler) }, StatusInternalError, ""},
		{"panics after Close", func(c *Conn) { c.Close(4001, ""); panic("late") }, 4001, "late"},
	} {
		for _, tr := range testTransports {
			t.Run(tt.name+" "+tr.name, func(t *testing.T) {
				log := new(logBuffer)
				ended := make(chan struct{})
				c := tr.dial(t, nil, nil, func(c *Conn, r *http.Request) {
					context.AfterFunc(c.Context(), func() { close(ended) })
					tt.serve(c)
				}, loggingTo(log))
				wantError(t, "Read", readOne(soon(t), c).err, tt.code)
				<-ended
				got := log.await(tt.logged)
				if tt.logged == "" && strings.Contains(got, "panic") {
					t.Errorf("logged %q", got)
				}
				if tt.logged != "" && (!strings.HasPrefix(got, "http: panic serving 127.0.0.1:") || !strings.Contains(got, "serve_test.go")) {
					t.Errorf("logged %q", got)
				}
			})
		}
	}
}

// Without an ErrorLog a panic goes to package log.
func TestHandler_Logs_PanicWithoutErrorLog(t *testing.T) {
	standard := standardLog(t)
	s := startTCP(t, Handler(nil, func(*Conn, *http.Request) { panic("oh no") }))
	wantError(t, "Read", readOne(soon(t), dialed(t, s.URL, nil)).err, StatusInternalError)
	if got := standard.await("oh no"); !strings.Contains(got, "oh no") {
		t.Errorf("logged %q", got)
	}
}

// Options.ErrorLog takes the place of the http.Server's. A refused handshake is one line with the peer's address and
// the reason.
func TestHandler_Logs_ToTheErrorLogOfTheOptions(t *testing.T) {
	for http2, start := range map[bool]startFunc{false: startTCP, true: startTLS} {
		t.Run(fmt.Sprint("HTTP2 ", http2), func(t *testing.T) {
			servers := new(logBuffer)
			opts, own := logged(Options{})
			s := start(t, Handler(opts, func(*Conn, *http.Request) { panic("oh no") }), loggingTo(servers))
			evil := http.Header{"Origin": {"https://evil.example"}}
			dialFails(t, soon(t), s.URL, &Options{HTTPClient: s.Client(), HTTP2: http2, Header: evil})
			got := own.await("\n")
			if !strings.HasPrefix(got, "websocket: handshake with 127.0.0.1:") || strings.Count(got, "\n") != 1 ||
				!strings.Contains(got, "https://evil.example") || !strings.Contains(got, "403") {
				t.Errorf("logged %q", got)
			}
			c := dialed(t, s.URL, &Options{HTTPClient: s.Client(), HTTP2: http2})
			wantError(t, "Read", readOne(soon(t), c).err, StatusInternalError)
			if got := own.await("oh no"); !strings.Contains(got, "http: panic serving 127.0.0.1:") {
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
	log := standardLog(t)
	s := startTCP(t, Handler(nil, echoMessages), loggingTo(log))
	if resp, _, _ := ask(t, s, edited(t, inVersion, "")); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
	s.Close()
	wantEqual(t, "the log", log.String(), "")
}

// ServeHTTP returns while serve runs. The request can be collected once serve no longer uses it.
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
	dialed(t, s.URL+"/path", &Options{Header: http.Header{"X": {"y"}}})
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
	s := startTCP(t, Handler(nil, echoMessages))
	for _, n := range []int{1, 3, 1000} {
		_, _, br := ask(t, s, edited(t, inOrigin, "")+strings.Repeat("\x82\x85\x00\x00\x00\x00hello", n))
		wantPipeRead(t, br, strings.Repeat("\x82\x05hello", n))
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

func TestServer_Refuses_GroupThatEndsDuringTheHandshake(t *testing.T) {
	var g Group
	near, far := memPipe()
	w := hijacker{httptest.NewRecorder(), near, nil, func() { g.Shutdown(context.Background(), StatusGoingAway, "") }}
	c, err := Upgrade(w, goodHTTPRequest(), &Options{Group: &g})
	if wantRefusal(t, err, 503); c != nil {
		t.Errorf("Upgrade returned %v", c)
	}
	br := bufio.NewReader(far)
	checkRefusalHeader(t, wantAnswer(t, br, 503))
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("after the refusal: %v, want io.EOF", err)
	}
}

// The connection joins its Group before the response is written. A broadcast in between follows the response.
func TestServer_Joins_GroupBeforeItAnswers(t *testing.T) {
	var g Group
	hello, _ := NewPreparedMessage(TextMessage, []byte("hello"))
	near, far := memPipe()
	took := make(chan int, 1)
	nc := &hookedConn{Conn: near, write: func(p []byte) (int, error) {
		if bytes.HasPrefix(p, []byte("HTTP/1.1 101")) {
			took <- g.Broadcast(hello)
		}
		return near.Write(p)
	}}
	if _, err := Upgrade(hijackable(nc), goodHTTPRequest(), &Options{Group: &g}); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(far)
	wantAnswer(t, br, 101)
	wantPipeRead(t, br, "\x81\x05hello")
	wantEqual(t, "members that took it", <-took, 1)
	far.Close()
}

// The body of an HTTP/2 request carries the frames, which serve must not take from the connection.
func TestHandler_PassesNoBody(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			s := tr.start(t, Handler(nil, func(c *Conn, r *http.Request) {
				p, err := io.ReadAll(r.Body)
				if len(p) > 0 || err != nil {
					t.Errorf("the body of the request: %q, %v", p, err)
				}
				echoMessages(c, r)
			}))
			c := dialed(t, s.URL, &Options{HTTPClient: s.Client(), HTTP2: tr.http2})
			wantOK(t, "Write", c.Write(soon(t), TextMessage, []byte("a")))
			_, p, err := c.Read(soon(t))
			if string(p) != "a" || err != nil {
				t.Errorf("Read: %q, %v", p, err)
			}
		})
	}
}

// If the peer has closed and serve has returned, a later Close by the user still returns nil: both close frames were
// exchanged.
func TestHandler_LeavesCloseToTheUser_WhenThePeerHasClosed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		conns := make(chan *Conn, 1)
		l, _ := serveInBubble(nil, func(c *Conn, r *http.Request) {
			conns <- c
			c.Read(context.Background())
		})
		defer l.Close()
		c := dialed(t, "ws://example.com/", &Options{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: l.dial}}})
		wantOK(t, "the client's Close", c.Close(StatusNormalClosure, ""))
		synctest.Wait()
		wantOK(t, "the server's Close", (<-conns).Close(StatusNormalClosure, ""))
	})
}

// A burst of handshakes leaves few goroutines that wait for another connection, and those end with Serve.
func TestServe_Handshakes_ManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{opts: &Options{KeepAlive: -1}, serve: echoMessages, accepted: make(chan net.Conn)}
		var clients []net.Conn
		for range 4 * maxIdleHandshakes {
			near, far := memPipe()
			s.dispatch(far)
			clients = append(clients, near)
		}
		for range 2 {
			for _, nc := range clients {
				io.WriteString(nc, goodRequest)
			}
			synctest.Wait()
			for i, nc := range clients {
				wantAnswer(t, bufio.NewReader(nc), 101)
				nc.Close()
				near, far := memPipe()
				s.dispatch(far)
				clients[i] = near
				synctest.Wait()
			}
		}
		for _, nc := range clients {
			nc.Close()
		}
		synctest.Wait()
		wantEqual(t, "goroutines that wait", s.idle.Load(), maxIdleHandshakes)
		close(s.accepted)
	})
}
