package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Both ends see the same connection: the pseudo-header fields, the fields of RFC 6455 that RFC 8441 keeps, and what
// they agreed on.
func TestUpgrade_HTTP2_Accepts(t *testing.T) {
	for name, start := range map[string]startFunc{"TLS": startTLS, "h2c": startTCP} {
		t.Run(name, func(t *testing.T) {
			got := make(chan *http.Request, 1)
			opts := &Options{Subprotocols: []string{"b", "a"}, Compression: &Compression{}, Header: http.Header{"X-Both": {"1"}}}
			s := start(t, Handler(opts, func(c *Conn, r *http.Request) {
				got <- r
				if c.NetConn() != nil || c.RemoteAddr().String() != r.RemoteAddr || c.LocalAddr().String() != r.Host {
					t.Errorf("the server is %v, %v, %v", c.NetConn(), c.LocalAddr(), c.RemoteAddr())
				}
				echoMessages(c, r)
			}))
			c := dialed(t, s.URL+"/chat?x=1", &Options{HTTP2: true, Subprotocols: []string{"a", "b"}, Compression: &Compression{}, Header: opts.Header, HTTPClient: s.Client()})
			r := <-got
			if r.Method != "CONNECT" || r.Proto != "HTTP/2.0" || r.Header.Get(":protocol") != "websocket" || r.URL.RequestURI() != "/chat?x=1" || r.Host != s.Listener.Addr().String() {
				t.Errorf("the request is %v", r)
			}
			for name, want := range map[string]string{"Sec-Websocket-Version": "13", "Sec-Websocket-Protocol": "a, b", "X-Both": "1",
				"Upgrade": "", "Connection": "", "Sec-Websocket-Key": "", "Accept-Encoding": ""} {
				wantEqual(t, name, r.Header.Get(name), want)
			}
			if c.Subprotocol() != "b" || c.agreed.deflate == nil || c.NetConn() != nil || c.RemoteAddr().String() != r.Host || c.LocalAddr().String() != r.RemoteAddr {
				t.Errorf("the client is %q, %v, %v, %v", c.Subprotocol(), c.NetConn(), c.LocalAddr(), c.RemoteAddr())
			}
			checkInterruptedEcho(t, c)
			wantOK(t, "Close", c.Close(StatusNormalClosure, ""))
		})
	}
}

func TestUpgrade_HTTP2_Refuses(t *testing.T) {
	group := new(Group)
	group.Shutdown(context.Background(), StatusGoingAway, "")
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, tt := range []struct {
		name   string
		opts   *Options
		change func(*http.Request)
		status int
		says   string
	}{
		{"version 8", nil, set("Sec-WebSocket-Version", "8"), 400, "13"},
		{"no version", nil, func(r *http.Request) { r.Header.Del("Sec-WebSocket-Version") }, 400, "13"},
		{"a foreign origin", nil, set("Origin", "http://evil.example"), 403, "evil.example"},
		{"malformed subprotocols", nil, set("Sec-WebSocket-Protocol", "a b"), 400, "Protocol"},
		{"malformed extensions", nil, set("Sec-WebSocket-Extensions", ";"), 400, "Extensions"},
		{"another protocol", nil, set(":protocol", "connect-udp"), 501, "protocol"},
		{"GET", nil, func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "GET", nil, 0
			delete(r.Header, ":protocol")
		}, 400, "extended CONNECT"},
		{"a group that is shut down", &Options{Group: group}, nil, 503, "going away"},
		{"invalid options", &Options{Subprotocols: []string{""}}, nil, 500, "failed to open"},
	} {
		eachHTTP2In(t, tt.name, func(t *testing.T, secure bool) {
			s := serveHTTP2(t, secure, upgrading(t, tt.opts))
			resp := s.ask(t, tt.change)
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
				t.Errorf("answered %s, %q", resp.Status, body)
			}
			if (tt.says == "13") != (resp.Header.Get("Sec-WebSocket-Version") == "13") || resp.Header.Get("Upgrade") != "" {
				t.Errorf("with %v", resp.Header)
			}
		})
	}
}

// ask sends an extended CONNECT that the caller changes.
func (s *http2Server) ask(t *testing.T, change func(*http.Request)) *http.Response {
	t.Helper()
	u := strings.Replace(s.url, "ws", "http", 1)
	rt := roundTripper(func(r *http.Request) (*http.Response, error) {
		_, r = newClientStream(r)
		r.Header.Set("Sec-WebSocket-Version", "13")
		if change != nil {
			change(r)
		}
		h := &h2transport{s.client.Transport.(*http.Transport), t.Context()}
		c, err := takeConn(t.Context(), h2Key{base: h.Transport, scheme: r.URL.Scheme, addr: hostPort(r.URL)})
		if err == nil {
			err = h.open(c, r.URL, nil)
		}
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.endStream(false, false) })
		return c.rt.RoundTrip(r)
	})
	resp, err := (&http.Client{Transport: rt}).Get(u)
	must(t, err)
	return resp
}

// A ResponseWriter without the methods of an http.ResponseController is refused without a panic.
func TestUpgrade_HTTP2_WithoutController(t *testing.T) {
	r := goodHTTPRequest()
	r.Method, r.ProtoMajor, r.Header[":protocol"] = "CONNECT", 2, []string{"websocket"}
	w := httptest.NewRecorder()
	_, err := Upgrade(w, r, nil)
	if wantRefusal(t, err, 500); w.Code != 500 {
		t.Errorf("Upgrade answered %d", w.Code)
	}
}

func TestDial_HTTP2_FollowsRedirectsAndAuthenticates(t *testing.T) {
	eachHTTP2(t, func(t *testing.T, secure bool) {
		s := serveHTTP2(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, _ := r.BasicAuth(); password != "secret" {
				http.Error(w, "who are you?", http.StatusUnauthorized)
			} else if r.URL.Path == "/chat" {
				http.Redirect(w, r, "/room", http.StatusFound)
			} else {
				http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
				upgrading(t, nil).ServeHTTP(w, r)
			}
		}))
		_, err := dialHTTP2(t, s.url, time.Minute, Options{HTTPClient: s.client})
		if e := wantRefusal(t, err, 401); string(e.Body) != "who are you?\n" {
			t.Fatalf("%#v", err)
		}
		s.url = strings.Replace(s.url, "//", "//me:secret@", 1)
		s.client.CheckRedirect = follow
		wantOK(t, "Close", s.dial(t, Options{}).Close(StatusNormalClosure, ""))
		if n := s.dials.Load(); n < 1 || n > 3 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestDial_HTTP2_ToServersWithoutIt(t *testing.T) {
	only1 := httptest.NewTLSServer(http.NotFoundHandler())
	defer only1.Close()
	plain1 := httptest.NewServer(http.NotFoundHandler())
	defer plain1.Close()
	settingsOnly := listen(t, func(nc net.Conn) {
		nc.Write(appendH2(appendH2(nil, h2Settings, 0, 0), h2Settings, 1, 0))
		io.Copy(io.Discard, nc)
	})
	for _, tt := range []struct {
		name, url string
		client    *http.Client
		says      string
	}{
		{"TLS without h2", only1.URL, only1.Client(), "does not speak HTTP/2"},
		{"TCP without h2c", plain1.URL, plain1.Client(), ""},
		{"HTTP/2 without extended CONNECT", "ws://" + settingsOnly.String(), nil, "does not offer WebSockets over HTTP/2"},
		{"a client without an http.Transport", plain1.URL, &http.Client{Transport: roundTripper(nil)}, "http.Transport"},
		{"no server", "ws://127.0.0.1:1", nil, "no connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := dialFails(t, soon(t), tt.url, &Options{HTTP2: true, HTTPClient: tt.client})
			if s := e.Error(); !strings.Contains(s, tt.says) || e.StatusCode != 0 || strings.Contains(s, "deadline") {
				t.Errorf("it says %q", s)
			}
		})
	}
}

// A caller's DialTLSContext must return a *tls.Conn that has negotiated h2.
func TestDial_HTTP2_WithDialersOfTheCaller(t *testing.T) {
	_, ofClient := certified()
	for _, tt := range []struct {
		name, protocol string
		wrap           func(net.Conn) net.Conn
		says           string // part of the error, or ""
	}{
		{"h2", "h2", func(nc net.Conn) net.Conn { return nc }, ""},
		{"http/1.1", "http/1.1", func(nc net.Conn) net.Conn { return nc }, "does not speak HTTP/2"},
		{"no *tls.Conn", "h2", func(nc net.Conn) net.Conn { return wrappedConn{nc} }, "*tls.Conn"},
	} {
		inBubbleIn(t, tt.name, func(t *testing.T) {
			s := serveHTTP2(t, true, Handler(nil, echoMessages), func(s *http.Server) { s.Protocols.SetHTTP1(true) })
			client := &http.Client{Transport: &http.Transport{DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := s.listener.dial(ctx, network, addr)
				cfg := ofClient.Clone()
				cfg.NextProtos = []string{tt.protocol}
				return tt.wrap(tls.Client(nc, cfg)), err
			}}}
			c, err := dialHTTP2(t, s.url, time.Minute, Options{HTTPClient: client})
			if tt.says == "" && err == nil {
				checkInterruptedEcho(t, c)
			} else if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Error(err)
			}
		})
	}
}

// Connections to one host share a TCP connection, even if they are dialed at the same time. It is closed with the last
// of them.
func TestDial_HTTP2_SharesAConnection(t *testing.T) {
	eachHTTP2(t, func(t *testing.T, secure bool) {
		s := serveHTTP2(t, secure, Handler(nil, echoMessages))
		transport := s.client.Transport.(*http.Transport)
		dial, closed := transport.DialContext, make(chan *closeRecorder, 20)
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := dial(ctx, network, addr)
			r := newCloseRecorder(nc)
			closed <- r
			return r, err
		}
		conns := s.dialMany(t, 20)
		wantEqual(t, "TCP connections", s.dials.Load(), 1)
		for _, c := range conns {
			checkInterruptedEcho(t, c)
			wantOK(t, "Close", c.Close(StatusNormalClosure, ""))
		}
		<-(<-closed).closed
		h2Pools.mu.Lock()
		defer h2Pools.mu.Unlock()
		if n := len(h2Pools.m); n > 0 {
			t.Errorf("%d pools are left", n)
		}
	})
}

func TestDial_HTTP2_OpensAnotherConnectionWhenOneIsFull(t *testing.T) {
	eachHTTP2(t, func(t *testing.T, secure bool) {
		s := serveHTTP2(t, secure, Handler(nil, echoMessages), func(s *http.Server) {
			h2 := *smallWindows
			h2.MaxConcurrentStreams = 2
			s.HTTP2 = &h2
		})
		conns := s.dialMany(t, 6)
		for _, c := range conns {
			checkInterruptedEcho(t, c)
		}
		wantEqual(t, "TCP connections", s.dials.Load(), 3)
		conns[0].Close(StatusNormalClosure, "")
		synctest.Wait()
		checkInterruptedEcho(t, s.dial(t, Options{}))
		wantEqual(t, "TCP connections after a stream has ended", s.dials.Load(), 3)
	})
}

func TestDial_HTTP2_SharesNoConnectionOfAnotherProxy(t *testing.T) {
	eachHTTP2(t, func(t *testing.T, secure bool) {
		s := serveHTTP2(t, secure, Handler(nil, echoMessages))
		var dialed []string
		client := http2Client(t, func(_ context.Context, _, addr string) (net.Conn, error) {
			near, far := memPipe()
			dialed = append(dialed, addr)
			go serveConnect(far, s.listener)
			return near, nil
		})
		proxies := 0
		client.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) {
			proxies++
			return &url.URL{Scheme: "http", Host: fmt.Sprintf("proxy%d:1", proxies%2)}, nil
		}
		for range 4 {
			checkInterruptedEcho(t, s.dial(t, Options{HTTPClient: client}))
		}
		wantEqual(t, "the proxies dialed", strings.Join(dialed, " "), "proxy1:1 proxy0:1")
	})
}

// serveConnect is an HTTP proxy that connects to l.
func serveConnect(nc net.Conn, l *pipeListener) {
	if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
		return
	}
	io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\n")
	if to, err := l.dial(context.Background(), "", ""); err == nil {
		relay(nc, to)
	}
}

func TestDial_HTTP2_EndsWithItsContext(t *testing.T) {
	respond := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Sec-WebSocket-Protocol", "unoffered")
			w.WriteHeader(status)
			io.WriteString(w, body)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		status  int
		body    string
	}{
		{"before the response", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, ""},
		{"in the body of a refusal", respond(404, "no"), 404, "no"},
		{"in the body of a redirect", respond(302, "there"), 302, "there"},
		{"after a response that was not asked for", respond(200, ""), 200, ""},
	} {
		eachHTTP2In(t, tt.name, func(t *testing.T, secure bool) {
			s := serveHTTP2(t, secure, tt.handler)
			start := time.Now()
			_, err := dialHTTP2(t, s.url, time.Second, Options{HTTPClient: s.client})
			if e := wantRefusal(t, err, tt.status); string(e.Body) != tt.body {
				t.Errorf("%#v", err)
			}
			tookAtMost(t, "it", start, time.Second)
		})
	}
	inBubbleIn(t, "though the peer reads nothing", func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		client := http2Client(t, func(context.Context, string, string) (net.Conn, error) { return near, nil })
		_, err := dialHTTP2(t, "ws://example.com", time.Second, Options{HTTPClient: client})
		wantError(t, "Dial", err, context.DeadlineExceeded)
	})
}

func TestDial_HTTP2_ReplacesADeadConnection(t *testing.T) {
	for name, patience := range map[string]time.Duration{"in the same call": time.Minute, "in the call after one that timed out": 2 * time.Second} {
		eachHTTP2In(t, name, func(t *testing.T, secure bool) {
			s := serveHTTP2(t, secure, Handler(nil, echoMessages))
			var paths []*freezer
			opts := Options{KeepAlive: -1, HTTPClient: http2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := s.listener.dial(ctx, network, addr)
				paths = append(paths, newFreezer(nc))
				return paths[len(paths)-1], err
			})}
			s.dial(t, opts)
			paths[0].frozen.Store(true)
			c, err := dialHTTP2(t, s.url, patience, opts)
			if err != nil && patience < time.Minute {
				c, err = dialHTTP2(t, s.url, patience, opts)
			}
			must(t, err)
			checkInterruptedEcho(t, c)
			<-paths[0].closed
			wantEqual(t, "TCP connections", len(paths), 2)
		})
	}
}

func TestDial_HTTP2_PassesADialThatHangs(t *testing.T) {
	silent := func(context.Context, string, string) (net.Conn, error) {
		near, far := memPipe()
		go io.Copy(io.Discard, far)
		return near, nil
	}
	for name, hang := range map[string]dialer{
		"before TCP":              func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		"before TLS and SETTINGS": silent,
	} {
		eachHTTP2In(t, name, func(t *testing.T, secure bool) {
			s := serveHTTP2(t, secure, Handler(nil, echoMessages))
			var dials atomic.Int32
			opts := Options{HTTPClient: http2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials.Add(1) == 1 {
					return hang(ctx, network, addr)
				}
				return s.listener.dial(ctx, network, addr)
			})}
			first := background(func() error { _, err := dialHTTP2(t, s.url, time.Hour, opts); return err })
			synctest.Wait()
			for range 3 {
				c, err := dialHTTP2(t, s.url, 5*time.Second, opts)
				must(t, err)
				checkInterruptedEcho(t, c)
			}
			wantEqual(t, "TCP connections, one of which hangs", dials.Load(), 2)
			if err := <-first; err == nil {
				t.Error("the first Dial succeeded")
			}
		})
	}
}

// RFC 9113, section 8.7: "Any request that was sent on the reset stream can be safely retried."
func TestDial_HTTP2_RetriesWhatTheServerDidNotProcess(t *testing.T) {
	for _, tt := range []struct{ answers, dials string }{ // the last answer is that to all further requests
		{"200", "ok"},
		{"REFUSED_STREAM 200", "ok"},
		{"REFUSED_STREAM REFUSED_STREAM 200", "ok"},
		{"GOAWAY 200", "ok"},
		{"200 REFUSED_STREAM 200", "ok ok"},
		{"200 GOAWAY 200", "ok ok"},
		{"200 EOF 200", "ok ok"},
		{"200 INTERNAL_ERROR 200", "ok INTERNAL_ERROR ok"},
		{"EOF", "EOF"},
		{"REFUSED_STREAM", "refused"},
	} {
		inBubbleIn(t, tt.answers, func(t *testing.T) {
			answers := strings.Fields(tt.answers)
			var asked atomic.Int32
			client := http2Client(t, func(context.Context, string, string) (net.Conn, error) {
				near, far := memPipe()
				go serveFrames(far, func(stream uint32) []byte {
					return http2Answers[answers[min(int(asked.Add(1)), len(answers))-1]](stream)
				})
				return near, nil
			})
			for _, want := range strings.Fields(tt.dials) {
				_, err := dialHTTP2(t, "ws://example.com", time.Minute, Options{HTTPClient: client})
				if (err == nil) != (want == "ok") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "GetBody")) {
					t.Errorf("Dial returned %v, want %s", err, want)
				}
			}
			if n := asked.Load(); n > 6 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// eachHTTP2 runs f in a bubble with HTTP/2 over TLS and in one with HTTP/2 by prior knowledge.
func eachHTTP2(t *testing.T, f func(t *testing.T, secure bool)) {
	t.Helper()
	for name, secure := range map[string]bool{"TLS": true, "h2c": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) { f(t, secure) })
		})
	}
}

// eachHTTP2In is eachHTTP2 in a subtest.
func eachHTTP2In(t *testing.T, name string, f func(t *testing.T, secure bool)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { eachHTTP2(t, f) })
}

// An http2Server serves HTTP/2 over pipes in a bubble.
type http2Server struct {
	*http.Server
	listener *pipeListener
	url      string
	client   *http.Client // dials the server; its connections end with the test
	dials    atomic.Int32 // of client
}

// serveHTTP2 starts a server that ends with the test. The last functions change its settings.
func serveHTTP2(t *testing.T, secure bool, h http.Handler, set ...func(*http.Server)) *http2Server {
	t.Helper()
	s := &http2Server{
		Server:   &http.Server{Handler: h, HTTP2: smallWindows, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)},
		listener: newPipeListener(),
		url:      "ws://example.com/chat?x=1",
	}
	for _, f := range set {
		f(s.Server)
	}
	s.Protocols.SetHTTP2(secure)
	s.Protocols.SetUnencryptedHTTP2(!secure)
	s.client = http2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		s.dials.Add(1)
		return s.listener.dial(ctx, network, addr)
	})
	if secure {
		s.url = "wss" + strings.TrimPrefix(s.url, "ws")
		s.TLSConfig, _ = certified()
		s.TLSConfig = s.TLSConfig.Clone()
		go s.ServeTLS(s.listener, "", "")
	} else {
		go s.Serve(s.listener)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// http2Client returns a client that dials with this function. Its connections are closed with the test.
func http2Client(t *testing.T, dial dialer) *http.Client {
	t.Cleanup(func() { pass(2 * closeDelay) })
	_, ofClient := certified()
	return &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: ofClient, HTTP2: smallWindows}}
}

// dial dials the server.
func (s *http2Server) dial(t *testing.T, opts Options) *Conn {
	t.Helper()
	if opts.HTTPClient == nil {
		opts.HTTPClient = s.client
	}
	c, err := dialHTTP2(t, s.url, time.Minute, opts)
	must(t, err)
	return c
}

// dialMany dials n times at the same time.
func (s *http2Server) dialMany(t *testing.T, n int) []*Conn {
	conns := make([]*Conn, n)
	var all sync.WaitGroup
	for i := range conns {
		all.Go(func() { conns[i] = s.dial(t, Options{}) })
	}
	all.Wait()
	return conns
}

// dialHTTP2 dials within d. The connection ends with the test.
func dialHTTP2(t *testing.T, url string, d time.Duration, opts Options) (*Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	opts.HTTP2 = true
	c, err := Dial(ctx, url, &opts)
	if err == nil {
		t.Cleanup(func() { c.CloseNow() })
	}
	return c, err
}

// Types of HTTP/2's frames (RFC 9113, section 6).
const (
	h2Headers  = 1
	h2Reset    = 3
	h2Settings = 4
	h2GoAway   = 7
)

// appendH2 appends a frame.
func appendH2(b []byte, typ, flags byte, stream uint32, payload ...byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), typ, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// http2Answers are answers to the HEADERS frame of a request. A nil answer closes the connection.
var http2Answers = map[string]func(stream uint32) []byte{
	"200":            func(stream uint32) []byte { return appendH2(nil, h2Headers, 4, stream, 0x88) }, // :status 200
	"REFUSED_STREAM": func(stream uint32) []byte { return appendH2(nil, h2Reset, 0, stream, 0, 0, 0, 7) },
	"INTERNAL_ERROR": func(stream uint32) []byte { return appendH2(nil, h2Reset, 0, stream, 0, 0, 0, 2) },
	"GOAWAY":         func(uint32) []byte { return appendH2(nil, h2GoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) },
	"EOF":            func(uint32) []byte { return nil },
}

// serveFrames is an HTTP/2 server that answers each HEADERS frame with the bytes of respond.
func serveFrames(nc net.Conn, respond func(stream uint32) []byte) {
	in := bufio.NewReader(nc)
	in.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	enableConnect := []byte{0, 8, 0, 0, 0, 1}
	nc.Write(appendH2(appendH2(nil, h2Settings, 0, 0, enableConnect...), h2Settings, 1, 0))
	for {
		var h [9]byte
		if _, err := io.ReadFull(in, h[:]); err != nil {
			return
		}
		in.Discard(int(h[0])<<16 | int(h[1])<<8 | int(h[2]))
		if h[3] != h2Headers {
			continue
		}
		answer := respond(binary.BigEndian.Uint32(h[5:]))
		if answer == nil {
			nc.Close()
		}
		nc.Write(answer)
	}
}

// newBodyConn returns an h2Conn over the body of a 101 response, and its peer.
func newBodyConn() (*h2Conn, net.Conn) {
	near, far := net.Pipe()
	return newH2Conn(bodyStream{near}).start(streamAddr("local"), streamAddr("example.com")), far
}

func TestH2Conn_MovesDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, far := newBodyConn()
		defer c.Close()
		if c.LocalAddr().String() != "local" || c.RemoteAddr().String() != "example.com" || c.RemoteAddr().Network() != "websocket" {
			t.Errorf("the addresses are %v and %v", c.LocalAddr(), c.RemoteAddr())
		}
		data := pattern(4 * pipeSize)
		c.SetDeadline(time.Now().Add(time.Second))
		n, err := c.Write(data)
		wantEqual(t, "bytes that Write took", n, pipeSize)
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		_, err = c.Read(make([]byte, 1))
		wantError(t, "Read", err, os.ErrDeadlineExceeded)
		c.SetDeadline(time.Time{})
		rest := background(func() error { _, err := c.Write(data[n:]); return err })
		got := make([]byte, len(data))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the peer read other bytes, %v", err)
		}
		wantOK(t, "Write", <-rest)
		go far.Write([]byte("hello"))
		wantPipeRead(t, c, "hello")
	})
}

func TestH2Conn_Close(t *testing.T) {
	for name, want := range map[string]error{"by us": net.ErrClosed, "by the peer": io.EOF} { // of a Read
		inBubbleIn(t, name, func(t *testing.T) {
			c, far := newBodyConn()
			defer far.Close()
			c.tryWrite(make([]byte, pipeSize))
			synctest.Wait()
			read := background(func() error { _, err := c.Read(make([]byte, 1)); return err })
			wrote := background(func() error { _, err := c.Write(make([]byte, 2*pipeSize)); return err })
			synctest.Wait()
			if want == io.EOF {
				far.Close()
			} else {
				c.Close()
			}
			wantError(t, "Read", <-read, want)
			if err := <-wrote; err == nil {
				t.Error("Write: nil")
			}
			if again := c.Close(); (want == net.ErrClosed) != errors.Is(again, net.ErrClosed) {
				t.Errorf("Close: %v", again)
			}
			if _, err := far.Write([]byte("x")); err != io.ErrClosedPipe {
				t.Errorf("the peer still writes: %v", err)
			}
		})
	}
}

// Close sends what was written before it even if the peer has ended its direction, so that a close frame is answered.
func TestH2Conn_SendsTheRestAfterThePeersEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		near, far := newPipe()
		c := newH2Conn(bodyStream{near}).start(nil, nil)
		far.CloseWrite()
		synctest.Wait()
		c.Write([]byte("goodbye"))
		c.Close()
		if p, err := io.ReadAll(far); string(p) != "goodbye" || err != nil {
			t.Errorf("the peer read %q, %v", p, err)
		}
	})
}

// RFC 8441, section 5: "Orderly TCP-level closures are represented as END_STREAM flags". RST_STREAM is an abrupt end.
func TestConn_HTTP2_Ends(t *testing.T) {
	nothing := func(c *Conn) { c.Read(context.Background()) }
	for _, tt := range []struct {
		name           string
		server, client func(*Conn)
		ofServer       bool // whose Read is judged
		code           StatusCode
		text           string
	}{
		{"CloseNow of the client", nothing, func(c *Conn) { c.CloseNow() }, true, StatusAbnormalClosure, "CANCEL"},
		{"END_STREAM of the client", nothing, func(c *Conn) { c.nc.(*h2Conn).CloseWrite() }, true, StatusAbnormalClosure, "unexpected EOF"},
		{"CloseNow of the server", func(c *Conn) { pass(time.Second); c.CloseNow() }, nothing, false, StatusAbnormalClosure, "INTERNAL_ERROR"},
	} {
		eachHTTP2In(t, tt.name, func(t *testing.T, secure bool) {
			servers := make(chan *Conn, 1)
			s := serveHTTP2(t, secure, Handler(nil, func(c *Conn, r *http.Request) {
				servers <- c
				tt.server(c)
			}))
			c := s.dial(t, Options{})
			judged := c
			if tt.ofServer {
				judged = <-servers
			}
			tt.client(c)
			err := readOne(soon(t), judged).err
			if !errors.Is(err, tt.code) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Read returned %v, want %v with %q", err, tt.code, tt.text)
			}
		})
	}
}

// A handler that calls Upgrade may return after CloseNow. The bytes that were written before still arrive.
func TestConn_HTTP2_ClosesBeforeItsHandlerReturns(t *testing.T) {
	eachHTTP2(t, func(t *testing.T, secure bool) {
		s := serveHTTP2(t, secure, upgrading(t, nil))
		for range 20 {
			wantOK(t, "Close", s.dial(t, Options{}).Close(StatusNormalClosure, ""))
		}
	})
}

// A freezer is a connection whose path breaks silently: nothing arrives any more in either direction.
type freezer struct {
	*closeRecorder
	frozen atomic.Bool
}

func newFreezer(nc net.Conn) *freezer { return &freezer{closeRecorder: newCloseRecorder(nc)} }

func (f *freezer) Read(p []byte) (int, error) {
	if f.frozen.Load() {
		<-f.closed
	}
	return f.closeRecorder.Read(p)
}

func (f *freezer) Write(p []byte) (int, error) {
	if f.frozen.Load() {
		return len(p), nil
	}
	return f.closeRecorder.Write(p)
}

// stuckConn returns the server's end of a connection whose peer has stopped reading from TCP, and a Write that is
// blocked. net/http cannot end such a stream.
func stuckConn(t *testing.T, secure bool, g *Group) (c *Conn, wrote <-chan error) {
	t.Helper()
	servers := make(chan *Conn, 1)
	s := serveHTTP2(t, secure, Handler(&Options{Group: g, CloseTimeout: time.Second}, func(c *Conn, r *http.Request) {
		servers <- c
		<-c.Context().Done()
	}))
	var path *freezer
	s.dial(t, Options{HTTPClient: http2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := s.listener.dial(ctx, network, addr)
		path = newFreezer(nc)
		return path, err
	})})
	t.Cleanup(func() { path.Close() })
	path.frozen.Store(true)
	c = <-servers
	wrote = background(func() error { return c.Write(context.Background(), BinaryMessage, make([]byte, 1<<20)) })
	synctest.Wait()
	return c, wrote
}

func TestConn_HTTP2_ClosesThoughTheConnectionIsStuck(t *testing.T) {
	for name, end := range map[string]func(g *Group, c *Conn){
		"CloseNow": func(_ *Group, c *Conn) { c.CloseNow() },
		"Close":    func(_ *Group, c *Conn) { c.Close(StatusNormalClosure, "") },
		"Shutdown": func(g *Group, _ *Conn) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			g.Shutdown(ctx, StatusGoingAway, "")
		},
	} {
		eachHTTP2In(t, name, func(t *testing.T, secure bool) {
			var g Group
			c, wrote := stuckConn(t, secure, &g)
			start := time.Now()
			end(&g, c)
			if err := <-wrote; err == nil {
				t.Error("Write: nil")
			}
			tookAtMost(t, "it", start, 3*time.Second)
		})
	}
}

// The handler may return after Close or CloseNow, so each of them waits for the last write of the stream.
func TestConn_HTTP2_WaitsForTheStreamInEveryClose(t *testing.T) {
	for name, again := range map[string]func(c *Conn){
		"CloseNow": func(c *Conn) { c.CloseNow() },
		"Close":    func(c *Conn) { c.Close(StatusNormalClosure, "") },
	} {
		eachHTTP2In(t, name, func(t *testing.T, secure bool) {
			c, _ := stuckConn(t, secure, nil)
			go c.CloseNow()
			synctest.Wait()
			start := time.Now()
			again(c)
			took(t, "the call", start, lingering)
		})
	}
}
