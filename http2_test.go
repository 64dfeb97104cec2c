package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// http2Transports are those of the package's transports that are HTTP/2.
var http2Transports = []struct {
	name  string
	start startFunc
}{{"HTTP2", startTLS}, {"h2c", startTCP}}

// dialHTTP2 dials the server by HTTP/2.
func dialHTTP2(t *testing.T, s *httptest.Server, opts *Options) (*Conn, error) {
	t.Helper()
	var o Options
	if opts != nil {
		o = *opts
	}
	o.HTTP2 = true
	if o.HTTPClient == nil {
		o.HTTPClient = s.Client()
	}
	c, err := Dial(testContext(t), s.URL+"/chat?x=1", &o)
	if err == nil {
		t.Cleanup(func() { c.CloseNow() })
	}
	return c, err
}

// D2, D3: the request has the pseudo-header fields, and of the fields of RFC 6455 those that RFC 8441 keeps.
func TestHTTP2_Request(t *testing.T) {
	for _, tr := range http2Transports {
		t.Run(tr.name, func(t *testing.T) {
			got := make(chan *http.Request, 1)
			opts := &Options{Subprotocols: []string{"b", "a"}, Compression: &Compression{}, Header: http.Header{"X-Both": {"1"}}}
			s := tr.start(t, Handler(opts, func(c *Conn, r *http.Request) {
				got <- r
				if c.NetConn() != nil || c.RemoteAddr().String() != r.RemoteAddr || c.LocalAddr() == nil {
					t.Errorf("the server is %v, %v, %v", c.NetConn(), c.LocalAddr(), c.RemoteAddr())
				}
				echoMessages(c, r)
			}))
			c, err := dialHTTP2(t, s, &Options{Subprotocols: []string{"a", "b"}, Compression: &Compression{}, Header: opts.Header})
			if err != nil {
				t.Fatal(err)
			}
			r := <-got
			if r.Method != "CONNECT" || r.Proto != "HTTP/2.0" || r.Header.Get(":protocol") != "websocket" || r.URL.RequestURI() != "/chat?x=1" || r.Host != s.Listener.Addr().String() {
				t.Errorf("the request is %v", r)
			}
			for name, want := range map[string]string{"Sec-Websocket-Version": "13", "Sec-Websocket-Protocol": "a, b", "X-Both": "1",
				"Upgrade": "", "Connection": "", "Sec-Websocket-Key": "", "Accept-Encoding": ""} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if c.Subprotocol() != "b" || c.agreed.deflate == nil || c.NetConn() != nil || c.RemoteAddr().String() != s.Listener.Addr().String() {
				t.Errorf("the client is %q, %v, %v, %v", c.Subprotocol(), c.agreed.deflate, c.NetConn(), c.RemoteAddr())
			}
			checkInterruptedEcho(t, c)
			if err := c.Close(StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// D2-D4, A36, A38, A39, A50: refusals are HTTP/2 responses.
func TestHTTP2_Refusals(t *testing.T) {
	group := new(Group)
	group.Shutdown(context.Background(), StatusGoingAway, "")
	for _, tt := range []struct {
		name   string
		opts   *Options
		change func(*http.Request)
		status int
		says   string
	}{
		{"A36 version 8", nil, func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, 400, "13"},
		{"A36 no version", nil, func(r *http.Request) { r.Header.Del("Sec-WebSocket-Version") }, 400, "13"},
		{"A38 origin", nil, func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403, "evil.example"},
		{"A39 protocols", nil, func(r *http.Request) { r.Header.Set("Sec-WebSocket-Protocol", "a b") }, 400, "Protocol"},
		{"A39 extensions", nil, func(r *http.Request) { r.Header.Set("Sec-WebSocket-Extensions", ";") }, 400, "Extensions"},
		{"D2 another protocol", nil, func(r *http.Request) { r.Header.Set(":protocol", "connect-udp") }, 501, "protocol"},
		{"D4 GET", nil, func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "GET", nil, 0
			delete(r.Header, ":protocol")
		}, 400, "extended CONNECT"},
		{"shut down", &Options{Group: group}, nil, 503, "going away"},
		{"options", &Options{Subprotocols: []string{""}}, nil, 500, "failed to open"},
	} {
		for _, tr := range http2Transports {
			t.Run(tt.name+" "+tr.name, func(t *testing.T) {
				s := tr.start(t, upgrading(t, tt.opts))
				resp := askHTTP2(t, s, tt.change)
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
					t.Errorf("answered %s, %q", resp.Status, body)
				}
				if tt.name == "A36 version 8" && resp.Header.Get("Sec-WebSocket-Version") != "13" || resp.Header.Get("Upgrade") != "" {
					t.Errorf("with %v", resp.Header)
				}
			})
		}
	}
}

// askHTTP2 sends an extended CONNECT that was changed.
func askHTTP2(t *testing.T, s *httptest.Server, change func(*http.Request)) *http.Response {
	t.Helper()
	rt := roundTripper(func(r *http.Request) (*http.Response, error) {
		_, r = newClientStream(r)
		r.Header.Set("Sec-WebSocket-Version", "13")
		if change != nil {
			change(r)
		}
		h := &h2transport{s.Client().Transport.(*http.Transport), t.Context()}
		c, err := h.open(r.URL, nil, h2Key{scheme: r.URL.Scheme, addr: r.URL.Host})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.endStream(false, false) })
		return c.rt.RoundTrip(r)
	})
	resp, err := (&http.Client{Transport: rt}).Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// A refusal reaches the client's caller as over HTTP/1.1, and redirects and user names do too.
func TestHTTP2_ClientIsThatOfHTTP1(t *testing.T) {
	for _, tr := range http2Transports {
		t.Run(tr.name, func(t *testing.T) {
			s := tr.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, password, _ := r.BasicAuth(); password != "secret" {
					http.Error(w, "who are you?", http.StatusUnauthorized)
				} else if r.URL.Path != "/chat" {
					http.Redirect(w, r, "/chat", http.StatusFound)
				} else {
					http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
					upgrading(t, nil).ServeHTTP(w, r)
				}
			}))
			_, err := dialHTTP2(t, s, nil)
			var e *HandshakeError
			if !errors.As(err, &e) || e.StatusCode != 401 || string(e.Body) != "who are you?\n" {
				t.Fatalf("%#v", err)
			}
			client := *s.Client()
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
			c, err := Dial(testContext(t), strings.Replace(s.URL, "//", "//me:secret@", 1), &Options{HTTP2: true, HTTPClient: &client})
			if err != nil {
				t.Fatal(err)
			}
			c.CloseNow()
		})
	}
}

// A connCount counts the connections that a server accepts.
type connCount struct{ atomic.Int32 }

func (n *connCount) set(s *http.Server) {
	s.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			n.Add(1)
		}
	}
}

// A7: nothing limits how many are opened at a time. Connections to one host share a TCP connection, also when they are dialed at the same time; with more than it has
// room for there is another. When all are closed, so is it.
func TestHTTP2_SharedConnection(t *testing.T) {
	for _, tr := range http2Transports {
		t.Run(tr.name, func(t *testing.T) {
			var count connCount
			s := tr.start(t, Handler(nil, echoMessages), count.set)
			before := openFiles(t)
			opts := &Options{HTTP2: true, HTTPClient: s.Client()}
			conns := make([]*Conn, 20)
			var all sync.WaitGroup
			for i := range conns {
				all.Go(func() {
					c, err := Dial(testContext(t), s.URL, opts)
					if err != nil {
						t.Error(err)
						return
					}
					conns[i] = c
				})
			}
			all.Wait()
			if t.Failed() {
				return
			}
			for _, c := range conns {
				checkInterruptedEcho(t, c)
			}
			if n := count.Load(); n != 1 {
				t.Errorf("%d TCP connections", n)
			}
			for _, c := range conns {
				if err := c.Close(StatusNormalClosure, ""); err != nil {
					t.Error(err)
				}
			}
			awaitFiles(t, before)
			for limit := time.Now().Add(5 * time.Second); shares() > 0; runtime.Gosched() {
				if time.Now().After(limit) {
					t.Fatalf("%d are still shared", shares())
				}
			}
		})
	}
}

// shares counts the hosts whose connections are shared.
func shares() int {
	h2Pools.mu.Lock()
	defer h2Pools.mu.Unlock()
	return len(h2Pools.m)
}

func TestHTTP2_MoreStreamsThanAConnectionHas(t *testing.T) {
	var count connCount
	s := startTLS(t, Handler(nil, echoMessages), count.set, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2} })
	var conns []*Conn
	for range 5 {
		c, err := dialHTTP2(t, s, nil)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		checkInterruptedEcho(t, c)
		c.CloseNow()
	}
	if n := count.Load(); n < 3 {
		t.Errorf("%d TCP connections", n)
	}
}

// D1: what a client is told of servers that cannot do it.
func TestHTTP2_ServersWithout(t *testing.T) {
	only1 := httptest.NewTLSServer(http.NotFoundHandler())
	defer only1.Close()
	plain1 := httptest.NewServer(http.NotFoundHandler())
	defer plain1.Close()
	noConnect := listen(t, serveSettingsOnly).String()
	for _, tt := range []struct {
		name, url string
		client    *http.Client
		says      string
	}{
		{"TLS without h2", only1.URL, only1.Client(), "does not speak HTTP/2"},
		{"TCP without h2c", plain1.URL, plain1.Client(), ""},
		{"D1 HTTP/2 without extended CONNECT", "ws://" + noConnect, nil, "does not offer WebSockets over HTTP/2"},
		{"not an http.Transport", plain1.URL, &http.Client{Transport: roundTripper(nil)}, "http.Transport"},
		{"nobody", "ws://127.0.0.1:1", nil, "no connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := dialFails(t, testContext(t), tt.url, &Options{HTTP2: true, HTTPClient: tt.client})
			if s := e.Error(); !strings.Contains(s, tt.says) || e.StatusCode != 0 || strings.Contains(s, "deadline") {
				t.Errorf("it says %q", s)
			}
		})
	}
}

// serveSettingsOnly is a server of HTTP/2 whose SETTINGS are empty.
func serveSettingsOnly(nc net.Conn) {
	io.CopyN(io.Discard, nc, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
	nc.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // SETTINGS
	nc.Write([]byte{0, 0, 0, 4, 1, 0, 0, 0, 0}) // SETTINGS, ACK
	io.Copy(io.Discard, nc)
}

// Timeouts of the server are those of requests, not of connections.
func TestHTTP2_ServerTimeouts(t *testing.T) {
	for _, tr := range http2Transports {
		t.Run(tr.name, func(t *testing.T) {
			s := tr.start(t, Handler(nil, echoMessages), func(s *http.Server) {
				s.ReadTimeout, s.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
			})
			c, err := dialHTTP2(t, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(300 * time.Millisecond)
			checkInterruptedEcho(t, c)
		})
	}
}

// D3: END_STREAM is an orderly end, which the other side sees behind the last byte; RST_STREAM is not.
func TestHTTP2_Ends(t *testing.T) {
	for _, tr := range http2Transports {
		for _, tt := range []struct {
			name string
			end  func(server, client *Conn) error
			code StatusCode // that the server's read ends with
			text string
		}{
			{"Close of the client", func(_, c *Conn) error { return c.Close(4000, "bye") }, 4000, "bye"},
			{"CloseNow of the client is RST_STREAM CANCEL", func(_, c *Conn) error { return c.CloseNow() }, StatusAbnormalClosure, "CANCEL"},
			{"END_STREAM of the client without a close frame", func(_, c *Conn) error { return c.nc.(*h2Conn).CloseWrite() }, StatusAbnormalClosure, "unexpected EOF"},
		} {
			t.Run(tt.name+" "+tr.name, func(t *testing.T) {
				ended, servers := make(chan error, 1), make(chan *Conn, 1)
				s := tr.start(t, Handler(nil, func(c *Conn, r *http.Request) {
					servers <- c
					_, _, err := c.Read(context.Background())
					ended <- err
				}))
				c, err := dialHTTP2(t, s, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := tt.end(<-servers, c); err != nil {
					t.Error(err)
				}
				if err := <-ended; !errors.Is(err, tt.code) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("the server read %v, want %v with %q", err, tt.code, tt.text)
				}
			})
		}
		t.Run("CloseNow of the server "+tr.name, func(t *testing.T) {
			s := tr.start(t, Handler(nil, func(c *Conn, r *http.Request) { c.CloseNow() }))
			c, err := dialHTTP2(t, s, nil)
			if err != nil {
				return // the stream ended before the client saw its beginning
			}
			if _, _, err := c.Read(testContext(t)); !errors.Is(err, StatusAbnormalClosure) {
				t.Error(err)
			}
		})
		t.Run("return of serve "+tr.name, func(t *testing.T) {
			s := tr.start(t, Handler(nil, func(c *Conn, r *http.Request) { c.Write(context.Background(), TextMessage, []byte("last")) }))
			c, err := dialHTTP2(t, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, p, err := c.Read(testContext(t)); err != nil || string(p) != "last" {
				t.Fatalf("%q, %v", p, err)
			}
			if _, _, err := c.Read(testContext(t)); !errors.Is(err, StatusNormalClosure) {
				t.Error(err)
			}
		})
	}
}

// D6, A51-A54: masking is as ever. What the client sends is in DATA, masked.
func TestHTTP2_Masking(t *testing.T) {
	got := make(chan []byte, 1)
	s := startTCP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		b := make([]byte, 2+4+5)
		io.ReadFull(r.Body, b)
		got <- b
		w.Write([]byte{0x81, 0x85, 0, 0, 0, 0, 'h', 'e', 'l', 'l', 'o'})
		http.NewResponseController(w).Flush()
		io.Copy(io.Discard, r.Body)
	}))
	c, err := dialHTTP2(t, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Write(testContext(t), TextMessage, []byte("hello"))
	b := <-got
	plain := make([]byte, 5)
	mask(plain, b[6:], [4]byte(b[2:6]), 0)
	if b[0] != 0x81 || b[1] != 0x85 || string(plain) != "hello" {
		t.Errorf("sent % x", b)
	}
	if _, _, err := c.Read(testContext(t)); !errors.Is(err, StatusProtocolError) {
		t.Errorf("a masked frame of the server: %v", err)
	}
}

// A write that the peer does not take ends by WriteTimeout, and is final.
func TestHTTP2_WriteTimeout(t *testing.T) {
	for _, tr := range http2Transports {
		for _, side := range []string{"server", "client"} {
			t.Run(side+" "+tr.name, func(t *testing.T) {
				fill := func(c *Conn) error {
					for {
						if err := c.Write(context.Background(), BinaryMessage, make([]byte, 64<<10)); err != nil {
							return err
						}
					}
				}
				failed, done := make(chan error, 1), make(chan struct{})
				short := &Options{WriteTimeout: 100 * time.Millisecond}
				s := tr.start(t, Handler(short, func(c *Conn, r *http.Request) {
					if side == "server" {
						failed <- fill(c)
					}
					<-done
				}))
				defer close(done)
				c, err := dialHTTP2(t, s, short)
				if err != nil {
					t.Fatal(err)
				}
				if side == "client" {
					failed <- fill(c)
				}
				if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
			})
		}
	}
}

// A handler that upgrades by itself stays as long as the connection lives.
func TestHTTP2_UpgradeInAHandler(t *testing.T) {
	for _, tr := range http2Transports {
		t.Run(tr.name, func(t *testing.T) {
			s := tr.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := Upgrade(w, r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.CloseNow()
				echoMessages(c, r)
			}))
			for range 20 {
				c, err := dialHTTP2(t, s, nil)
				if err != nil {
					t.Fatal(err)
				}
				checkInterruptedEcho(t, c)
				if err := c.Close(StatusNormalClosure, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Middleware that changes what is written stands aside, as it does for a hijacked connection.
func TestHTTP2_UnderMiddleware(t *testing.T) {
	for _, tr := range http2Transports {
		t.Run(tr.name, func(t *testing.T) {
			h := Handler(nil, echoMessages)
			s := tr.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Connection", "close")
				w.Header().Set("X-Set", "1")
				h.ServeHTTP(shouting{w}, r)
			}))
			c, err := dialHTTP2(t, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			checkInterruptedEcho(t, c)
		})
	}
}

// A shouting is the ResponseWriter of a middleware that changes what is written.
type shouting struct{ http.ResponseWriter }

func (w shouting) Write(p []byte) (int, error) { return w.ResponseWriter.Write(bytes.ToUpper(p)) }
func (w shouting) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A ResponseWriter that hides what is needed is refused, without a panic.
func TestHTTP2_WithoutController(t *testing.T) {
	r := goodHTTPRequest()
	r.Method, r.ProtoMajor, r.Header[":protocol"] = "CONNECT", 2, []string{"websocket"}
	w := httptest.NewRecorder()
	_, err := Upgrade(w, r, nil)
	var e *HandshakeError
	if !errors.As(err, &e) || e.StatusCode != 500 || w.Code != 500 {
		t.Errorf("Upgrade returned %v and answered %d", err, w.Code)
	}
}

// http.Server.Shutdown waits for the streams, which a Group ends.
func TestHTTP2_Shutdown(t *testing.T) {
	for _, tr := range http2Transports {
		t.Run(tr.name, func(t *testing.T) {
			var g Group
			s := tr.start(t, Handler(&Options{Group: &g}, echoMessages))
			c, err := dialHTTP2(t, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			read := make(chan error, 1)
			go func() {
				_, _, err := c.Read(context.Background())
				read <- err
			}()
			if err := g.Shutdown(testContext(t), StatusGoingAway, ""); err != nil {
				t.Error(err)
			}
			if err := <-read; !errors.Is(err, StatusGoingAway) {
				t.Error(err)
			}
			if err := s.Config.Shutdown(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A connection that the dialer made to be no *tls.Conn cannot have agreed on HTTP/2.
func TestHTTP2_DialersOfTheCaller(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages))
	base := s.Client().Transport.(*http.Transport)
	secure := func(protocols ...string) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			return (&tls.Dialer{Config: &tls.Config{RootCAs: base.TLSClientConfig.RootCAs, NextProtos: protocols}}).DialContext(ctx, network, addr)
		}
	}
	for _, tt := range []struct {
		name string
		dial func(context.Context, string, string) (net.Conn, error)
		says string
	}{
		{"h2", secure("h2"), ""},
		{"http/1.1", secure("http/1.1"), "does not speak HTTP/2"},
		{"no *tls.Conn", func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := secure("h2")(ctx, network, addr)
			return struct{ net.Conn }{nc}, err
		}, "*tls.Conn"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := dialHTTP2(t, s, &Options{HTTPClient: &http.Client{Transport: &http.Transport{DialTLSContext: tt.dial}}})
			if tt.says == "" && err == nil {
				checkInterruptedEcho(t, c)
			} else if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Error(err)
			}
		})
	}
}

// serveH2 serves h by HTTP/2 on pipes, and returns where to dial it. It is for bubbles.
func serveH2(t *testing.T, h http.Handler) *pipeListener {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := &http.Server{Handler: h, HTTP2: smallWindows, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l
}

// h2Client dials through the given function. At the end of the test, it closes its connections.
func h2Client(t *testing.T, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	t.Cleanup(func() { pass(2 * closeDelay) })
	return &http.Client{Transport: &http.Transport{DialContext: dial, HTTP2: smallWindows}}
}

// dialH2 dials within d.
func dialH2(t *testing.T, client *http.Client, d time.Duration, opts Options) (*Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	opts.HTTP2, opts.HTTPClient = true, client
	c, err := Dial(ctx, "ws://example.com/", &opts)
	if err == nil {
		t.Cleanup(func() { c.CloseNow() })
	}
	return c, err
}

// holdOpen is a serve function that reads nothing and returns when the client has gone.
func holdOpen(_ *Conn, r *http.Request) { <-r.Context().Done() }

func TestSend_OverHTTP2_ReturnsAtOnceWhenThePeerTakesNothing(t *testing.T) {
	m, _ := NewPreparedMessage(BinaryMessage, make([]byte, 1000))
	for name, send := range map[string]func(c *Conn, g *Group) error{
		"Send":         func(c *Conn, _ *Group) error { return c.Send(BinaryMessage, make([]byte, 1000)) },
		"SendPrepared": func(c *Conn, _ *Group) error { return c.SendPrepared(m) },
		"Broadcast": func(_ *Conn, g *Group) error {
			if g.Broadcast(m) == 0 {
				return ErrBacklog
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var g Group
				l := serveH2(t, Handler(nil, holdOpen))
				c, err := dialH2(t, h2Client(t, l.dial), time.Minute, Options{Group: &g})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				for err = nil; err == nil; err = send(c, &g) {
				}
				if d := time.Since(start); err != ErrBacklog || d > 0 {
					t.Errorf("it took %v until %v", d, err)
				}
			})
		})
	}
}

func TestDial_OverHTTP2_EndsWithItsContext(t *testing.T) {
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
		{"before the response", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, ""},
		{"in the body of a refusal", respond(404, "no"), 404, "no"},
		{"behind a response that was not asked for", respond(200, ""), 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := serveH2(t, tt.handler)
				start := time.Now()
				_, err := dialH2(t, h2Client(t, l.dial), time.Second, Options{})
				var e *HandshakeError
				if !errors.As(err, &e) || e.StatusCode != tt.status || string(e.Body) != tt.body {
					t.Errorf("%#v", err)
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

func TestDial_OverHTTP2_EndsWithItsContextThoughThePeerReadsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		client := h2Client(t, func(context.Context, string, string) (net.Conn, error) { return near, nil })
		_, err := dialH2(t, client, time.Second, Options{})
		wantError(t, "Dial", err, context.DeadlineExceeded)
	})
}

// A freezer is a connection whose path can break without a word: nothing arrives any more, either way.
type freezer struct {
	net.Conn
	frozen atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (f *freezer) Read(p []byte) (int, error) {
	if f.frozen.Load() {
		<-f.closed
	}
	return f.Conn.Read(p)
}

func (f *freezer) Write(p []byte) (int, error) {
	if f.frozen.Load() {
		return len(p), nil
	}
	return f.Conn.Write(p)
}

func (f *freezer) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

func TestDial_OverHTTP2_ReplacesADeadConnection(t *testing.T) {
	for name, patience := range map[string]time.Duration{"in the same call": time.Minute, "in the call after one that timed out": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := serveH2(t, Handler(nil, echoMessages))
				var all []*freezer
				client := h2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := l.dial(ctx, network, addr)
					f := &freezer{Conn: nc, closed: make(chan struct{})}
					all = append(all, f)
					return f, err
				})
				keepAlive := Options{KeepAlive: -1}
				if _, err := dialH2(t, client, patience, keepAlive); err != nil {
					t.Fatal(err)
				}
				all[0].frozen.Store(true)
				c, err := dialH2(t, client, patience, keepAlive)
				if err != nil && patience < time.Minute {
					c, err = dialH2(t, client, patience, keepAlive)
				}
				if err != nil {
					t.Fatal(err)
				}
				checkInterruptedEcho(t, c)
				<-all[0].closed
				if len(all) != 2 {
					t.Errorf("%d connections", len(all))
				}
			})
		})
	}
}

func TestDial_OverHTTP2_PassesAHangingDial(t *testing.T) {
	silent := func(context.Context, string, string) (net.Conn, error) {
		near, far := memPipe()
		go io.Copy(io.Discard, far)
		return near, nil
	}
	for name, hang := range map[string]func(context.Context, string, string) (net.Conn, error){
		"before the connection": func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		"before SETTINGS":       silent,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := serveH2(t, Handler(nil, echoMessages))
				var dials atomic.Int32
				client := h2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
					if dials.Add(1) == 1 {
						return hang(ctx, network, addr)
					}
					return l.dial(ctx, network, addr)
				})
				first := background(func() error { _, err := dialH2(t, client, time.Hour, Options{}); return err })
				synctest.Wait()
				for range 3 {
					c, err := dialH2(t, client, 5*time.Second, Options{})
					if err != nil {
						t.Fatal(err)
					}
					checkInterruptedEcho(t, c)
				}
				if n := dials.Load(); n != 2 {
					t.Errorf("%d connections, want the one that hangs and one for the others", n)
				}
				if err := <-first; err == nil {
					t.Error("the first Dial succeeded")
				}
			})
		})
	}
}

// serveConnect is an HTTP proxy for CONNECT, in front of l.
func serveConnect(nc net.Conn, l *pipeListener) {
	if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
		return
	}
	io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\n")
	to, err := l.dial(context.Background(), "", "")
	if err != nil {
		return
	}
	defer to.Close()
	go func() { io.Copy(to, nc); to.Close() }()
	io.Copy(nc, to)
	nc.Close()
}

func TestDial_OverHTTP2_SharesNoConnectionOfAnotherProxy(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := serveH2(t, Handler(nil, echoMessages))
		var dialed []string
		client := h2Client(t, func(_ context.Context, _, addr string) (net.Conn, error) {
			near, far := memPipe()
			dialed = append(dialed, addr)
			go serveConnect(far, l)
			return near, nil
		})
		var turn int
		client.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) {
			turn++
			return &url.URL{Scheme: "http", Host: []string{"a:1", "b:2"}[turn%2]}, nil
		}
		for range 4 {
			c, err := dialH2(t, client, time.Minute, Options{})
			if err != nil {
				t.Fatal(err)
			}
			checkInterruptedEcho(t, c)
		}
		if got := strings.Join(dialed, " "); got != "b:2 a:1" {
			t.Errorf("dialed %s", got)
		}
	})
}

// Types and codes of HTTP/2's frames (RFC 9113, sections 6 and 7).
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

// serveFrames is a server of HTTP/2 that answers each HEADERS with what respond returns, or closes the connection
// if that is nil.
func serveFrames(nc net.Conn, respond func(stream uint32) []byte) {
	in := bufio.NewReader(nc)
	in.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	hello := appendH2(nil, h2Settings, 0, 0, 0, 8, 0, 0, 0, 1) // SETTINGS_ENABLE_CONNECT_PROTOCOL: 1
	nc.Write(appendH2(hello, h2Settings, 1, 0))
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

// answersH2 are answers to a HEADERS frame.
var answersH2 = map[string]func(stream uint32) []byte{
	"200":            func(stream uint32) []byte { return appendH2(nil, h2Headers, 4, stream, 0x88) }, // :status 200
	"REFUSED_STREAM": func(stream uint32) []byte { return appendH2(nil, h2Reset, 0, stream, 0, 0, 0, 7) },
	"INTERNAL_ERROR": func(stream uint32) []byte { return appendH2(nil, h2Reset, 0, stream, 0, 0, 0, 2) },
	"GOAWAY":         func(uint32) []byte { return appendH2(nil, h2GoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) },
	"the end of TCP": func(uint32) []byte { return nil },
}

// RFC 9113, section 8.7: "Any request that was sent on the reset stream can be safely retried."
func TestDial_OverHTTP2_RetriesWhatTheServerDidNotProcess(t *testing.T) {
	for _, tt := range []struct {
		answers string // to the requests; the last to all that follow
		ends    string // of each Dial
	}{
		{"200", "ok"},
		{"REFUSED_STREAM, 200", "ok"},
		{"REFUSED_STREAM, REFUSED_STREAM, 200", "ok"},
		{"GOAWAY, 200", "ok"},
		{"200, REFUSED_STREAM, 200", "ok, ok"},
		{"200, GOAWAY, 200", "ok, ok"},
		{"200, the end of TCP, 200", "ok, ok"},
		{"200, INTERNAL_ERROR, 200", "ok, INTERNAL_ERROR, ok"},
		{"the end of TCP", "EOF"},
		{"REFUSED_STREAM", "refused"},
	} {
		t.Run(tt.answers, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				answers := strings.Split(tt.answers, ", ")
				var asked atomic.Int32
				respond := func(stream uint32) []byte {
					n := int(asked.Add(1))
					return answersH2[answers[min(n, len(answers))-1]](stream)
				}
				client := h2Client(t, func(context.Context, string, string) (net.Conn, error) {
					near, far := memPipe()
					go serveFrames(far, respond)
					return near, nil
				})
				for _, want := range strings.Split(tt.ends, ", ") {
					_, err := dialH2(t, client, time.Minute, Options{})
					if (err == nil) != (want == "ok") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "GetBody")) {
						t.Errorf("the Dial ended with %v, want %s", err, want)
					}
				}
				if n := asked.Load(); n > 6 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

// A peer that reads nothing of its TCP connection keeps net/http from ending a stream.
func TestServer_OverHTTP2_ClosesThoughTheConnectionIsStuck(t *testing.T) {
	for name, end := range map[string]func(g *Group, c *Conn) error{
		"CloseNow": func(_ *Group, c *Conn) error { return c.CloseNow() },
		"Close":    func(_ *Group, c *Conn) error { c.Close(StatusNormalClosure, ""); return nil },
		"Shutdown": func(g *Group, _ *Conn) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			g.Shutdown(ctx, StatusGoingAway, "")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var g Group
				servers := make(chan *Conn, 1)
				l := serveH2(t, Handler(&Options{Group: &g, CloseTimeout: time.Second}, func(c *Conn, r *http.Request) {
					servers <- c
					<-c.Context().Done()
				}))
				var path *freezer
				client := h2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := l.dial(ctx, network, addr)
					path = &freezer{Conn: nc, closed: make(chan struct{})}
					return path, err
				})
				if _, err := dialH2(t, client, time.Minute, Options{}); err != nil {
					t.Fatal(err)
				}
				defer path.Close()
				path.frozen.Store(true)
				c := <-servers
				wrote := background(func() error { return c.Write(context.Background(), BinaryMessage, make([]byte, 1<<20)) })
				synctest.Wait()
				start := time.Now()
				if err := end(&g, c); err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d > 3*time.Second {
					t.Errorf("it took %v", d)
				}
				if err := <-wrote; err == nil {
					t.Error("Write: nil")
				}
			})
		})
	}
}
