package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// startServe runs Serve on a TCP port until the test ends.
func startServe(t *testing.T, opts *Options, serve func(*Conn, *http.Request)) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
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

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) mustDial(t *testing.T) net.Conn {
	t.Helper()
	nc, err := l.dial(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func TestServe_Echoes(t *testing.T) {
	requests := make(chan *http.Request, 1)
	addr := startServe(t, &Options{Subprotocols: []string{"b"}, Compression: &Compression{}}, func(c *Conn, r *http.Request) {
		requests <- r
		echoMessages(c, r)
	})
	c, err := Dial(testContext(t), "ws://"+addr.String()+"/path?x=1", &Options{
		Subprotocols: []string{"a", "b"}, Compression: &Compression{}, Header: http.Header{"X": {"y"}, "Host": {"example.com"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	r := <-requests
	if r.URL.Path != "/path" || r.URL.RawQuery != "x=1" || r.RequestURI != "/path?x=1" || r.Header.Get("X") != "y" || r.Host != "example.com" ||
		r.RemoteAddr != c.LocalAddr().String() || r.TLS != nil || r.Context().Err() != nil || r.Body != http.NoBody {
		t.Errorf("the request is %+v", r)
	}
	if c.Subprotocol() != "b" || c.agreed.deflate == nil {
		t.Errorf("agreed on %q, %v", c.Subprotocol(), c.agreed.deflate)
	}
	text := strings.Repeat("hello ", 100)
	if err := c.Write(testContext(t), TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if typ, p, err := c.Read(testContext(t)); typ != TextMessage || string(p) != text || err != nil {
		t.Errorf("%v, %.20q, %v", typ, p, err)
	}
	if err := c.Close(StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func TestServe_OverTLS(t *testing.T) {
	pair := httptest.NewUnstartedServer(nil)
	pair.StartTLS() // for its certificate
	defer pair.Close()
	var logged logBuffer
	ln := newPipeListener()
	states := make(chan *tls.ConnectionState, 1)
	opts := &Options{ErrorLog: log.New(&logged, "", 0)}
	done := background(func() error {
		return Serve(tls.NewListener(ln, pair.TLS), opts, func(c *Conn, r *http.Request) { states <- r.TLS; echoMessages(c, r) })
	})
	client := pair.Client()
	client.Transport.(*http.Transport).DialContext = ln.dial
	c, err := Dial(testContext(t), "wss://example.com/", &Options{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if state := <-states; state == nil || !state.HandshakeComplete || state.ServerName != "example.com" {
		t.Errorf("the state is %+v", state)
	}
	nc := ln.mustDial(t)
	io.WriteString(nc, goodRequest)
	io.Copy(io.Discard, nc)
	if got := logged.await("\n"); !strings.Contains(got, "TLS") || strings.Count(got, "\n") != 1 {
		t.Errorf("logged %q", got)
	}
	ln.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v", err)
	}
}

// The bytes that come with the request are the first frames.
func TestServe_KeepsTheFramesBehindTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, done := serveInBubble(&Options{MaxMessageSize: 1 << 20}, echoMessages)
		frame := "\x82\x85\x00\x00\x00\x00hello"
		for _, n := range []int{0, 1, 3, 2000} {
			nc := ln.mustDial(t)
			sent := background(func() error {
				_, err := io.WriteString(nc, edited(t, inOrigin, "")+strings.Repeat(frame, n))
				return err
			})
			br := bufio.NewReader(nc)
			if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
				t.Fatal(resp, err)
			}
			want := strings.Repeat("\x82\x05hello", n)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(br, got); err != nil || string(got) != want || <-sent != nil {
				t.Errorf("%d frames: %.40q, %v", n, got, err)
			}
			nc.Close()
		}
		ln.Close()
		<-done
	})
}

// After a refusal the connection ends, and the response arrives whole although the client sent more than was read.
func TestServe_ClosesAfterARefusal(t *testing.T) {
	addr := startServe(t, nil, echoMessages)
	for _, tt := range []struct {
		name, raw string
		status    int
	}{
		{"no handshake", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 426},
		{"malformed", "GET / HTTP/1.1\nHost: a\n\n", 400},
		{"too large", headOf(20 << 10), 431},
		{"more behind it", "POST / HTTP/1.1\r\nHost: a\r\n\r\n" + strings.Repeat("x", 100<<10), 405},
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
				t.Errorf("behind the refusal: %v", err)
			}
		})
	}
}

// RFC 9110, section 7.8: who sends Upgrade must also send it as an option of Connection.
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
	synctest.Test(t, func(t *testing.T) {
		ln, done := serveInBubble(nil, echoMessages)
		nc := ln.mustDial(t)
		io.WriteString(nc, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
		answer, err := io.ReadAll(nc)
		if head := "HTTP/1.1 405 Method Not Allowed\r\n"; err != nil || !bytes.HasPrefix(answer, []byte(head)) || !bytes.HasSuffix(answer, []byte("\r\n\r\n")) {
			t.Errorf("answered %q, %v", answer, err)
		}
		nc.Close()
		ln.Close()
		<-done
	})
}

// A request has WriteTimeout to arrive in, whatever of it has arrived; a refused peer that does not close has a second.
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
		{"behind a refusal", 0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logged logBuffer
				ln, done := serveInBubble(&Options{WriteTimeout: tt.timeout, ErrorLog: log.New(&logged, "", 0)}, echoMessages)
				nc := ln.mustDial(t)
				start := time.Now()
				io.WriteString(nc, tt.sent)
				for err := error(nil); err == nil; _, err = nc.Write([]byte("A")) {
					time.Sleep(time.Second)
				}
				if got := time.Since(start).Round(time.Second); got > tt.want+time.Second || got < tt.want {
					t.Errorf("closed after %v, want %v", got, tt.want)
				}
				synctest.Wait()
				if got := logged.String(); strings.Count(got, "\n") != 1 {
					t.Errorf("logged %q", got)
				}
				nc.Close()
				ln.Close()
				<-done
			})
		})
	}
}

// Who only looks whether the port is open is no refused handshake.
func TestServe_LogsNoEmptyConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged logBuffer
		ln, done := serveInBubble(&Options{ErrorLog: log.New(&logged, "", 0)}, echoMessages)
		ln.mustDial(t).Close()
		synctest.Wait()
		if got := logged.String(); got != "" {
			t.Errorf("logged %q", got)
		}
		nc := ln.mustDial(t)
		io.WriteString(nc, "GET")
		nc.Close()
		synctest.Wait()
		if got := logged.String(); !strings.HasPrefix(got, "websocket: handshake with pipe") || strings.Count(got, "\n") != 1 {
			t.Errorf("logged %q", got)
		}
		ln.Close()
		<-done
	})
}

// A flakyListener fails with the errors, one after the other, and then is the listener.
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
	synctest.Test(t, func(t *testing.T) {
		var logged logBuffer
		full := &net.OpError{Op: "accept", Err: temporaryError{errors.New("too many open files")}}
		ln := &flakyListener{pipeListener: newPipeListener()}
		for range 11 {
			ln.errs = append(ln.errs, full)
		}
		done := background(func() error { return Serve(ln, &Options{ErrorLog: log.New(&logged, "", 0)}, echoMessages) })
		ln.mustDial(t).Close()
		delay := 5 * time.Millisecond
		for i, at := range ln.failed[1:] {
			if got := at.Sub(ln.failed[i]); got != min(delay, time.Second) {
				t.Errorf("delay %d is %v, want %v", i, got, delay)
			}
			delay *= 2
		}
		if got := logged.String(); strings.Count(got, "too many open files") != 11 {
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

// Shutdown of the group ends Serve, whether it accepts or waits to accept again, closes the connections and refuses the
// handshake that is under way.
func TestServe_EndsWithItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		ln, done := serveInBubble(&Options{Group: &g}, echoMessages)
		open, half := ln.mustDial(t), ln.mustDial(t)
		io.WriteString(open, goodRequest)
		io.WriteString(half, goodRequest[:50])
		synctest.Wait()
		if g.Len() != 1 {
			t.Fatalf("the group has %d connections", g.Len())
		}
		shut := background(func() error { return g.Shutdown(context.Background(), StatusGoingAway, "") })
		if err := <-done; err != nil {
			t.Errorf("Serve returned %v", err)
		}
		if _, err := ln.dial(context.Background(), "", ""); err == nil {
			t.Error("the listener is open")
		}
		io.WriteString(half, goodRequest[50:])
		if resp, err := http.ReadResponse(bufio.NewReader(half), nil); err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("answered %v, %v", resp, err)
		}
		half.Close()
		got, err := io.ReadAll(open)
		if _, frames, _ := bytes.Cut(got, []byte("\r\n\r\n")); string(frames) != "\x88\x02\x03\xe9" {
			t.Errorf("the connection got % x, %v", frames, err)
		}
		<-shut
	})
	synctest.Test(t, func(t *testing.T) {
		var g Group
		ln := &flakyListener{pipeListener: newPipeListener()}
		for range 1000 {
			ln.errs = append(ln.errs, temporaryError{errors.New("full")})
		}
		done := background(func() error {
			return Serve(ln, &Options{Group: &g, ErrorLog: log.New(io.Discard, "", 0)}, echoMessages)
		})
		time.Sleep(10500 * time.Millisecond)
		start := time.Now()
		g.Shutdown(context.Background(), StatusGoingAway, "")
		if err := <-done; err != nil || time.Since(start) != 0 {
			t.Errorf("Serve returned %v after %v", err, time.Since(start))
		}
	})
}

// A panic of serve or of CheckOrigin ends one connection and is logged, in package log where the options have no log.
func TestServe_Panics(t *testing.T) {
	var standard logBuffer
	log.SetOutput(&standard)
	defer log.SetOutput(os.Stderr)
	var own logBuffer
	for _, tt := range []struct {
		name   string
		opts   *Options
		serve  func()
		logged *logBuffer
	}{
		{"serve", &Options{ErrorLog: log.New(&own, "", 0)}, func() { panic("oh serve") }, &own},
		{"CheckOrigin", &Options{ErrorLog: log.New(&own, "", 0), CheckOrigin: func(*http.Request) bool { panic("oh CheckOrigin") }}, nil, &own},
		{"serve", nil, func() { panic("oh serve") }, &standard},
		{"CheckOrigin", &Options{CheckOrigin: func(*http.Request) bool { panic("oh CheckOrigin") }}, nil, &standard},
	} {
		synctest.Test(t, func(t *testing.T) {
			ln, done := serveInBubble(tt.opts, func(*Conn, *http.Request) { tt.serve() })
			nc := ln.mustDial(t)
			io.WriteString(nc, goodRequest)
			got, _ := io.ReadAll(nc)
			if tt.serve != nil && !bytes.HasSuffix(got, []byte("\x88\x02\x03\xf3")) || tt.serve == nil && len(got) > 0 {
				t.Errorf("%s: the peer got %q", tt.name, got)
			}
			nc.Close()
			synctest.Wait()
			if got := tt.logged.String(); !strings.Contains(got, "http: panic serving pipe: oh "+tt.name) {
				t.Errorf("%s: logged %q", tt.name, got)
			}
			pending(t, "Serve", done)
			ln.Close()
			<-done
		})
	}
}

// A listener that has set deadlines for the handshake does not end the connection by them.
func TestServe_ClearsDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, done := serveInBubble(&Options{KeepAlive: -1}, echoMessages)
		near, far := memPipe()
		far.SetDeadline(time.Now().Add(5 * time.Second))
		ln.conns <- far
		io.WriteString(near, goodRequest)
		br := bufio.NewReader(near)
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		time.Sleep(time.Minute)
		io.WriteString(near, "\x82\x85\x00\x00\x00\x00hello")
		if got, err := br.Peek(7); string(got) != "\x82\x05hello" {
			t.Errorf("%q, %v", got, err)
		}
		near.Close()
		ln.Close()
		<-done
	})
}

// A requestConn has a request to read, and takes what is written.
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
