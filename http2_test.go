package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
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
		u, _ := url.Parse(s.URL)
		h := &h2transport{s.Client().Transport.(*http.Transport), t.Context()}
		sh := share(h.Transport, u.Scheme, u.Host)
		t.Cleanup(sh.leave)
		if err := sh.dial(h, r); err != nil {
			return nil, err
		}
		return sh.conns.RoundTrip(r)
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
	sharing.mu.Lock()
	defer sharing.mu.Unlock()
	return len(sharing.m)
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
			{"END_STREAM of the client without a close frame", func(_, c *Conn) error { return c.nc.(*streamConn).CloseWrite() }, StatusAbnormalClosure, "unexpected EOF"},
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

// h2Client dials through the given function.
func h2Client(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
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
				c, err := dialH2(t, h2Client(l.dial), time.Minute, Options{Group: &g})
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
