package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// plainTransport is an http.Transport of the test's own.
func plainTransport(t *testing.T) *http.Transport {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// hiding is a RoundTripper around whose body nothing can be seen.
func hiding(t *testing.T) http.RoundTripper {
	tr := plainTransport(t)
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := tr.RoundTrip(r)
		if err == nil {
			resp.Body = struct{ io.ReadWriteCloser }{resp.Body.(io.ReadWriteCloser)}
		}
		return resp, err
	})
}

// A RoundTripper of the caller's is used as it is, and what is beneath its 101 has deadlines.
func TestClient_RoundTrippers(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages))
	for _, tt := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"A func", roundTripper(s.Client().Transport.RoundTrip)},
		{"one that hides the connection", hidingOver(s.Client().Transport)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Dial(testContext(t), s.URL, &Options{HTTPClient: &http.Client{Transport: tt.rt}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			checkInterruptedEcho(t, c)
			if err := c.Close(StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

func hidingOver(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := rt.RoundTrip(r)
		if err == nil {
			resp.Body = struct{ io.ReadWriteCloser }{resp.Body.(io.ReadWriteCloser)}
		}
		return resp, err
	})
}

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

// A body that hides its connection has deadlines all the same: for reads soft ones, for writes final ones.
func TestClient_BodyDeadlines(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := newStreamConn(&bodyStream{near, "example.com"})
	if c.LocalAddr().String() != "local" || c.RemoteAddr().String() != "example.com" || c.RemoteAddr().Network() != "websocket" {
		t.Errorf("%v, %v", c.LocalAddr(), c.RemoteAddr())
	}
	c.SetDeadline(past)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if n, err := c.Write([]byte("lost")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(n, err)
	}
	c.SetDeadline(time.Time{})
	go io.Copy(far, io.LimitReader(far, 5)) // echo
	if n, err := c.Write([]byte("hello")); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	for range 2 {
		if _, err := c.Write([]byte("nobody reads")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(b); err == nil {
		t.Error("the body is still open")
	}
	if err := c.Close(); err != net.ErrClosed {
		t.Error(err)
	}
}

func TestClient_RoundTripperWithoutAWritableBody(t *testing.T) {
	rt := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 101, ProtoMajor: 1, ProtoMinor: 1, Request: r, Body: io.NopCloser(strings.NewReader("")), Header: http.Header{
			"Upgrade": {"websocket"}, "Connection": {"Upgrade"},
			"Sec-Websocket-Accept": {string(appendAcceptKey(nil, r.Header.Get("Sec-WebSocket-Key")))},
		}}, nil
	})
	e := dialFails(t, testContext(t), "ws://example.com/", &Options{HTTPClient: &http.Client{Transport: rt}})
	if e.StatusCode != 101 || !strings.Contains(e.Reason, "nopCloser") {
		t.Error(e)
	}
}

// D5: HTTP/1.1 is spoken by a client that speaks HTTP/2 with the same server.
func TestClient_SpeaksHTTP1(t *testing.T) {
	var proto atomic.Value
	s := startTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto.Store(r.Proto)
		if r.Header.Get("Upgrade") != "" {
			upgrading(t, nil).ServeHTTP(w, r)
		}
	}))
	client := s.Client()
	both := &http.Client{Transport: client.Transport.(*http.Transport).Clone()}
	both.Transport.(*http.Transport).Protocols = new(http.Protocols)
	both.Transport.(*http.Transport).Protocols.SetHTTP2(true)
	for name, client := range map[string]*http.Client{"by default": client, "by its Protocols": both, "beneath a RoundTripper": {Transport: roundTripper(client.Transport.RoundTrip)}} {
		resp, err := client.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if proto.Load() != "HTTP/2.0" {
			t.Fatalf("%s: the client speaks %v", name, proto.Load())
		}
		c, err := Dial(testContext(t), s.URL, &Options{HTTPClient: client})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.CloseNow()
		if proto.Load() != "HTTP/1.1" {
			t.Errorf("%s: Dial speaks %v", name, proto.Load())
		}
	}
}

// PEERS 34: cookies are sent and kept, also those of the 101; the jar sees http for ws.
func TestClient_Jar(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("sent"); err != nil || c.Value != "1" {
			t.Errorf("cookies of the request: %v", r.Cookies())
		}
		http.SetCookie(w, &http.Cookie{Name: "kept", Value: "2"})
		upgrading(t, nil).ServeHTTP(w, r)
	}))
	defer s.Close()
	jar, _ := cookiejar.New(nil)
	u, _ := url.Parse(s.URL)
	jar.SetCookies(u, []*http.Cookie{{Name: "sent", Value: "1"}})
	c, err := Dial(testContext(t), "ws://"+u.Host, &Options{HTTPClient: &http.Client{Jar: jar}})
	if err != nil {
		t.Fatal(err)
	}
	c.CloseNow()
	if got := jar.Cookies(u); !slices.ContainsFunc(got, func(c *http.Cookie) bool { return c.Name == "kept" && c.Value == "2" }) {
		t.Errorf("the jar has %v", got)
	}
}

// R47, PEERS 25: redirects.
func TestClient_Redirects(t *testing.T) {
	type seen struct{ host, authorization, cookie, key, kind string }
	var hops []seen
	var target string
	answer := func(kind string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hops = append(hops, seen{r.Host, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("Sec-WebSocket-Key"), kind})
			if r.URL.Path == "/chat" {
				upgrading(t, nil).ServeHTTP(w, r)
				return
			}
			http.Redirect(w, r, target, http.StatusFound)
		})
	}
	tcp, other, secure := startTCP(t, answer("tcp")), startTCP(t, answer("other")), startTLS(t, answer("tls"))
	follow := func(*http.Request, []*http.Request) error { return nil }
	ws := func(s *httptest.Server) string { return "ws" + strings.TrimPrefix(s.URL, "http") }
	for _, tt := range []struct {
		name, from, to string
		follow         func(*http.Request, []*http.Request) error
		hops           int
		kept, ok       bool
	}{
		{"not followed by default", tcp.URL, "/chat", nil, 1, true, false},
		{"refused by the caller", tcp.URL, "/chat", func(*http.Request, []*http.Request) error { return errors.New("no") }, 1, true, false},
		{"last response for the caller", tcp.URL, "/chat", func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, 1, true, false},
		{"on the same host", tcp.URL, "/chat", follow, 2, true, true},
		{"on the same host, with a fragment", tcp.URL, "/chat#top", follow, 2, true, true},
		{"to another host", tcp.URL, other.URL + "/chat", follow, 2, false, true},
		{"to another host, of the scheme ws", tcp.URL, ws(other) + "/chat", follow, 2, false, true},
		{"from ws to wss", tcp.URL, secure.URL + "/chat", follow, 2, false, true},
		{"from wss to wss", secure.URL, "/chat", follow, 2, true, true},
		{"from wss to ws", secure.URL, tcp.URL + "/chat", follow, 1, true, false},
		{"from wss to ws, of the scheme ws", secure.URL, ws(tcp) + "/chat", follow, 1, true, false},
		{"to another scheme", tcp.URL, "ftp://example.com/chat", follow, 1, true, false},
		{"for ever", tcp.URL, "/", follow, 11, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hops, target = nil, tt.to
			client := *secure.Client()
			client.CheckRedirect = tt.follow
			c, err := Dial(testContext(t), tt.from, &Options{HTTPClient: &client, Header: http.Header{"Authorization": {"secret"}, "Cookie": {"a=b"}}})
			if (err == nil) != tt.ok || len(hops) != tt.hops {
				t.Fatalf("%v behind %d requests, want %v behind %d", err, len(hops), tt.ok, tt.hops)
			}
			if err == nil {
				c.CloseNow()
			} else if e := new(HandshakeError); !errors.As(err, &e) || e.StatusCode != 302 {
				t.Errorf("%#v", err)
			}
			last := hops[len(hops)-1]
			if kept := last.authorization == "secret" && last.cookie == "a=b"; kept != tt.kept || !kept && last.authorization+last.cookie != "" {
				t.Errorf("the last request had Authorization %q, Cookie %q", last.authorization, last.cookie)
			}
			if len(hops) > 1 && hops[0].key == last.key {
				t.Error("A14: two requests had the same key")
			}
		})
	}
}

// The Timeout of the client bounds the handshake, and not the connection.
func TestClient_TimeoutIsOfTheHandshake(t *testing.T) {
	s := startTCP(t, Handler(nil, echoMessages))
	c, err := Dial(testContext(t), s.URL, &Options{HTTPClient: &http.Client{Timeout: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	<-time.After(200 * time.Millisecond)
	checkInterruptedEcho(t, c)

	silent := listen(t, func(nc net.Conn) { io.Copy(io.Discard, nc) })
	e := dialFails(t, testContext(t), "ws://"+silent.String(), &Options{HTTPClient: &http.Client{Timeout: 50 * time.Millisecond}})
	if !errors.Is(e, context.DeadlineExceeded) {
		t.Error(e)
	}
}

// The end of ctx behind the handshake does not touch the connection.
func TestClient_ContextIsOfTheHandshake(t *testing.T) {
	for _, tt := range testTransports {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.dial(t, nil, nil, echoMessages) // dials with a context that it ends
			checkInterruptedEcho(t, c)
		})
	}
}

// A9, A103, PEERS 3: a Dial that is cancelled, at whatever stage, returns soon with ctx's error and leaves nothing behind.
func TestClient_CancelAtEveryStage(t *testing.T) {
	silent := listen(t, func(nc net.Conn) { io.Copy(io.Discard, nc) }).String()
	half := listen(t, func(nc net.Conn) {
		answerWith(nc, goodResponse[:40])
		io.Copy(io.Discard, nc)
	}).String()
	body := listen(t, func(nc net.Conn) {
		answerWith(nc, "HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nabc")
		io.Copy(io.Discard, nc)
	}).String()
	stuck := make(chan struct{})
	defer close(stuck)
	never := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		<-stuck
		return nil, errors.New("too late")
	}}}
	proxied := func(addr string) *http.Client {
		return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}}
	}
	socks := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: silent})}}
	for _, tt := range []struct {
		name, url string
		opts      Options
	}{
		{"before anything", "ws://" + silent, Options{}},
		{"dialing, of a dialer that ignores ctx", "ws://example.com", Options{HTTPClient: never}},
		{"TLS", "wss://" + silent, Options{}},
		{"no response", "ws://" + silent, Options{}},
		{"no response, beneath a RoundTripper", "ws://" + silent, Options{HTTPClient: &http.Client{Transport: roundTripper(http.DefaultTransport.RoundTrip)}}},
		{"half a response", "ws://" + half, Options{}},
		{"half a body", "ws://" + body, Options{}},
		{"proxy", "ws://example.com", Options{HTTPClient: proxied(silent)}},
		{"TLS proxy", "wss://example.com", Options{HTTPClient: &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "https", Host: silent})}}}},
		{"SOCKS proxy", "ws://example.com", Options{HTTPClient: socks}},
		{"h2c", "ws://" + silent, Options{HTTP2: true}},
		{"HTTP/2", "wss://" + silent, Options{HTTP2: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := openFiles(t)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			if tt.name == "before anything" {
				cancel()
			}
			defer cancel()
			start := time.Now()
			e := dialFails(t, ctx, tt.url, &tt.opts)
			if !errors.Is(e, ctx.Err()) && tt.name != "half a body" {
				t.Errorf("%v is not %v", e, ctx.Err())
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
			awaitFiles(t, before)
		})
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

// A connection that a dialer returns too late is closed.
func TestClient_LateConnectionIsClosed(t *testing.T) {
	near, far := net.Pipe()
	dialing, release := make(chan struct{}), make(chan struct{})
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		close(dialing)
		<-release
		return near, nil
	}}}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		<-dialing
		cancel(errors.New("a reason"))
	}()
	e := dialFails(t, ctx, "ws://example.com", &Options{HTTPClient: client})
	if !errors.Is(e, context.Canceled) || !errors.Is(e, context.Cause(ctx)) {
		t.Error(e)
	}
	close(release)
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
}

// R54: the caller's dialer sees what was resolved, and may refuse.
func TestClient_DialersOfTheCaller(t *testing.T) {
	tcp, secure := startTCP(t, Handler(nil, echoMessages)), startTLS(t, Handler(nil, echoMessages))
	refused := errors.New("not to that address")
	dial := func(s *httptest.Server) func(string, string) (net.Conn, error) {
		return func(network, _ string) (net.Conn, error) { return net.Dial(network, s.Listener.Addr().String()) }
	}
	withContext := func(s *httptest.Server) func(context.Context, string, string) (net.Conn, error) {
		return func(_ context.Context, network, addr string) (net.Conn, error) { return dial(s)(network, addr) }
	}
	cfg := secure.Client().Transport.(*http.Transport).TLSClientConfig
	secureContext := func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(secure)(network, addr)
		if err != nil {
			return nil, err
		}
		c := cfg.Clone()
		c.ServerName = "example.com"
		return tls.Client(nc, c), nil
	}
	for _, tt := range []struct {
		name, url string
		t         *http.Transport
		err       error
	}{
		{"DialContext", "ws://example.com", &http.Transport{DialContext: withContext(tcp)}, nil},
		//lint:ignore SA1019 callers may still set it
		{"Dial", "ws://example.com", &http.Transport{Dial: dial(tcp)}, nil},
		{"DialContext and TLS", "wss://example.com", &http.Transport{DialContext: withContext(secure), TLSClientConfig: cfg}, nil},
		{"DialTLSContext", "wss://example.com", &http.Transport{DialTLSContext: secureContext}, nil},
		//lint:ignore SA1019 callers may still set it
		{"DialTLS", "wss://example.com", &http.Transport{DialTLS: func(network, addr string) (net.Conn, error) {
			return secureContext(context.Background(), network, addr)
		}}, nil},
		{"R54 DialContext that refuses", "ws://example.com", &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, refused
		}}, refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Dial(testContext(t), tt.url, &Options{HTTPClient: &http.Client{Transport: tt.t}})
			if !errors.Is(err, tt.err) {
				t.Fatal(err)
			}
			if c != nil {
				c.CloseNow()
			}
		})
	}
}

// httptrace in ctx sees the stages of the handshake.
func TestClient_Trace(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages))
	var got []string
	note := func(s string) { got = append(got, s) }
	ctx := httptrace.WithClientTrace(testContext(t), &httptrace.ClientTrace{
		ConnectDone:          func(string, string, error) { note("connect") },
		TLSHandshakeStart:    func() { note("start TLS") },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { note("TLS") },
		GotConn:              func(httptrace.GotConnInfo) { note("conn") },
		WroteHeaders:         func() { note("headers") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { note("request") },
		GotFirstResponseByte: func() { note("response") },
	})
	c, err := Dial(ctx, s.URL, &Options{HTTPClient: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if want := []string{"connect", "start TLS", "TLS", "conn", "headers", "request", "response"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestClient_Groups(t *testing.T) {
	s := startTCP(t, Handler(nil, echoMessages))
	var g Group
	c, err := Dial(testContext(t), s.URL, &Options{Group: &g})
	if err != nil || g.Len() != 1 {
		t.Fatal(err, g.Len())
	}
	c.CloseNow()
	g.Shutdown(testContext(t), StatusGoingAway, "")
	dialFails(t, testContext(t), s.URL, &Options{Group: &g, HTTPClient: noDial(t)})
}
