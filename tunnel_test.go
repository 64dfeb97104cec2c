package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type dialContext = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialTransports are the ways in which a Transport uses a dial function, each with a URL for which it does.
var dialTransports = []struct {
	name, url string
	http2     bool
	transport func(dial dialContext) *http.Transport
}{
	{"DialContext", "ws://example.com", false, func(d dialContext) *http.Transport { return &http.Transport{DialContext: d} }},
	//lint:ignore SA1019 callers may still set it
	{"Dial", "ws://example.com", false, func(d dialContext) *http.Transport { return &http.Transport{Dial: ignoringContext(d)} }},
	{"DialContext and TLS", "wss://example.com", false, func(d dialContext) *http.Transport { return &http.Transport{DialContext: d} }},
	{"DialTLSContext", "wss://example.com", false, func(d dialContext) *http.Transport { return &http.Transport{DialTLSContext: d} }},
	//lint:ignore SA1019 callers may still set it
	{"DialTLS", "wss://example.com", false, func(d dialContext) *http.Transport { return &http.Transport{DialTLS: ignoringContext(d)} }},
	{"HTTP proxy", "ws://example.com", false, func(d dialContext) *http.Transport {
		return &http.Transport{DialContext: d, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy"})}
	}},
	{"SOCKS proxy", "ws://example.com", false, func(d dialContext) *http.Transport {
		return &http.Transport{DialContext: d, Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: "proxy"})}
	}},
	{"HTTP/2", "wss://example.com", true, func(d dialContext) *http.Transport { return &http.Transport{DialContext: d} }},
}

func ignoringContext(dial dialContext) func(network, addr string) (net.Conn, error) {
	return func(network, addr string) (net.Conn, error) { return dial(nil, network, addr) }
}

// Dial uses the Transport's dial function and returns its error. A dial function that returns nil and no error is an
// error too.
func TestDial_CallsTheDialFunction(t *testing.T) {
	tcp, secure := startTCP(t, Handler(nil, echoMessages)), startTLS(t, Handler(nil, echoMessages))
	_, cfg := certified()
	refused := errors.New("not to that address")
	for _, tt := range dialTransports {
		t.Run(tt.name, func(t *testing.T) {
			through := func(dial dialContext) *Options {
				tr := tt.transport(dial)
				tr.TLSClientConfig = cfg
				return &Options{HTTPClient: &http.Client{Transport: tr}, HTTP2: tt.http2}
			}
			dialFails(t, soon(t), tt.url, through(func(context.Context, string, string) (net.Conn, error) { return nil, nil }))
			e := dialFails(t, soon(t), tt.url, through(func(context.Context, string, string) (net.Conn, error) { return nil, refused }))
			wantError(t, "Dial", e, refused)
			if strings.Contains(tt.name, "proxy") {
				return
			}
			addr := tcp.Listener.Addr().String()
			if strings.HasPrefix(tt.url, "wss") {
				addr = secure.Listener.Addr().String()
			}
			dialed(t, tt.url, through(func(_ context.Context, network, _ string) (net.Conn, error) {
				nc, err := net.Dial(network, addr)
				if err == nil && strings.HasPrefix(tt.name, "DialTLS") {
					return tls.Client(nc, cfg), nil
				}
				return nc, err
			}))
		})
	}
}

// The dial function sees the earlier deadline of ctx and Timeout, and the end of ctx. A net.Dialer divides the time
// until the deadline among the addresses of a host.
func TestDial_PassesTheDeadlineOn(t *testing.T) {
	for _, tt := range dialTransports {
		if tt.name == "Dial" || tt.name == "DialTLS" {
			continue
		}
		for _, timeout := range []time.Duration{0, time.Minute} {
			inBubbleIn(t, fmt.Sprint(tt.name, " Timeout ", timeout), func(t *testing.T) {
				want, seen := time.Now().Add(time.Minute), make(chan error, 1)
				tr := tt.transport(func(ctx context.Context, _, _ string) (net.Conn, error) {
					if d, ok := ctx.Deadline(); !ok || !d.Equal(want) {
						t.Errorf("the deadline is %v, %t, want %v", d, ok, want)
					}
					<-ctx.Done()
					seen <- ctx.Err()
					return nil, ctx.Err()
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute+timeout)
				defer cancel()
				e := dialFails(t, ctx, tt.url, &Options{HTTPClient: &http.Client{Transport: tr, Timeout: timeout}, HTTP2: tt.http2})
				wantError(t, "Dial", e, context.DeadlineExceeded)
				wantError(t, "the context of the dial function", <-seen, context.DeadlineExceeded)
			})
		}
	}
}

func TestDial_NobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l.Close()
	addr := l.Addr().String()
	e := dialFails(t, soon(t), "ws://"+addr, nil)
	if op := new(net.OpError); !errors.As(e, &op) {
		t.Errorf("the cause of %v is hidden", e)
	}
	for _, scheme := range []string{"http", "https", "socks5"} {
		if e := dialFails(t, soon(t), "ws://example.com/", &Options{HTTPClient: through(t, scheme+"://"+addr, nil)}); !strings.Contains(e.Error(), "the proxy "+addr) {
			t.Error(e)
		}
	}
}

// A Dial that is cancelled at any stage returns ctx's error and leaves no descriptor open.
func TestDial_CancelledAtEveryStage(t *testing.T) {
	silent := listen(t, func(nc net.Conn) { io.Copy(io.Discard, nc) }).String()
	stopping := func(response string) string {
		return listen(t, func(nc net.Conn) {
			answerWith(nc, response)
			io.Copy(io.Discard, nc)
		}).String()
	}
	stuck := make(chan struct{})
	defer close(stuck)
	never := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		<-stuck
		return nil, errors.New("too late")
	}}}
	connected := stopping("HTTP/1.1 200 OK\r\n\r\n")
	for _, tt := range []struct {
		name, url string
		opts      Options
	}{
		{"dial function that ignores ctx", "ws://example.com", Options{HTTPClient: never}},
		{"TLS", "wss://" + silent, Options{}},
		{"no response", "ws://" + silent, Options{}},
		{"no response, RoundTripper", "ws://" + silent, Options{HTTPClient: &http.Client{Transport: roundTripper(http.DefaultTransport.RoundTrip)}}},
		{"half a response", "ws://" + stopping(goodResponse[:40]), Options{}},
		{"half a body", "ws://" + stopping("HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nabc"), Options{}},
		{"HTTP proxy", "ws://example.com", Options{HTTPClient: through(t, "http://"+silent, nil)}},
		{"HTTP proxy refuses", "ws://example.com", Options{HTTPClient: through(t, "http://"+stopping("HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nabc"), nil)}},
		{"HTTPS proxy", "wss://example.com", Options{HTTPClient: through(t, "https://"+silent, nil)}},
		{"TLS through a proxy", "wss://example.com", Options{HTTPClient: through(t, "http://"+connected, nil)}},
		{"SOCKS proxy", "ws://example.com", Options{HTTPClient: through(t, "socks5://"+silent, nil)}},
		{"h2c", "ws://" + silent, Options{HTTP2: true}},
		{"HTTP/2", "wss://" + silent, Options{HTTP2: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := openFiles(t)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			defer cancel()
			if e := dialFails(t, ctx, tt.url, &tt.opts); !errors.Is(e, context.DeadlineExceeded) {
				t.Errorf("%v is not %v", e, ctx.Err())
			}
			awaitFiles(t, before)
		})
	}
}

// A server that has stopped reading blocks the alert with which TLS closes a connection.
func TestDial_Cancelled_DoesNotWaitForTheAlert(t *testing.T) {
	ofServer, ofClient := certified()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go http.ReadRequest(bufio.NewReader(tls.Server(far, ofServer)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		dialFails(t, ctx, "wss://example.com/", &Options{HTTPClient: &http.Client{Transport: &http.Transport{
			TLSClientConfig: ofClient,
			DialContext:     func(context.Context, string, string) (net.Conn, error) { return near, nil },
		}}})
		took(t, "the call", start, time.Second)
	})
}

func TestDial_Cancelled_ClosesALateConnection(t *testing.T) {
	near, far := net.Pipe()
	release := make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		cancel(errEnough)
		<-release
		return near, nil
	}}}
	e := dialFails(t, ctx, "ws://example.com", &Options{HTTPClient: client})
	wantError(t, "Dial", e, context.Canceled, errEnough)
	close(release)
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
}

// Dial gives up a server or a proxy that sends nothing, even if ctx has no deadline.
func TestDial_TransportTimeouts(t *testing.T) {
	for _, tt := range []struct {
		url, proxy string
		want       error
	}{
		{"ws://example.com", "", os.ErrDeadlineExceeded},
		{"wss://example.com", "", context.DeadlineExceeded},
		{"ws://example.com", "http", os.ErrDeadlineExceeded},
		{"ws://example.com", "socks5", os.ErrDeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			client := pipedTo(func(nc net.Conn) { io.Copy(io.Discard, nc) })
			tr := client.Transport.(*http.Transport)
			tr.ResponseHeaderTimeout, tr.TLSHandshakeTimeout = time.Second, time.Second
			if tt.proxy != "" {
				tr.ResponseHeaderTimeout, tr.TLSHandshakeTimeout = 0, 0
				tr.Proxy = http.ProxyURL(&url.URL{Scheme: tt.proxy, Host: "proxy"})
			}
			wantError(t, tt.url+" "+tt.proxy, dialFails(t, t.Context(), tt.url, &Options{HTTPClient: client}), tt.want)
		})
	}
}

// The Transport's limit replaces the default of 64 KiB, whether it is larger or smaller.
func TestDial_MaxResponseHeaderBytes(t *testing.T) {
	for limit, ok := range map[int64]bool{0: false, 100 << 10: false, 101 << 10: true} {
		client := answering(strings.Replace(goodResponse, "\r\n", "\r\nX: "+strings.Repeat("x", 100<<10)+"\r\n", 1), true)
		client.Transport.(*http.Transport).MaxResponseHeaderBytes = limit
		if err := dialError(t, "ws://example.com", &Options{HTTPClient: client}); (err == nil) != ok {
			t.Errorf("with the limit %d: %v", limit, err)
		}
	}
}

// RFC 6455, section 4.1, step 5: TLS comes before the request and has SNI. Dial fails if the certificate is not
// verified.
func TestDial_TLS(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages), loggingTo(io.Discard))
	pool := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs // knows example.com and 127.0.0.1
	names := make(chan string, 10)
	s.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		if len(h.SupportedProtos) != 1 || h.SupportedProtos[0] != "http/1.1" {
			t.Errorf("ALPN offers %q", h.SupportedProtos)
		}
		return nil, nil
	}
	later := func() time.Time { return time.Now().Add(200 * 365 * 24 * time.Hour) }
	for _, tt := range []struct {
		name, host string
		cfg        *tls.Config
		sni        string
		ok         bool
	}{
		{"trusted, by name", "example.com", &tls.Config{RootCAs: pool}, "example.com", true},
		{"trusted, by address", "127.0.0.1", &tls.Config{RootCAs: pool}, "", true},
		{"not verified, as the caller says", "evil.example", &tls.Config{InsecureSkipVerify: true}, "evil.example", true},
		{"verified for the caller's name", "evil.example", &tls.Config{RootCAs: pool, ServerName: "example.com"}, "example.com", true},
		{"another name", "evil.example", &tls.Config{RootCAs: pool}, "evil.example", false},
		{"unknown authority", "example.com", nil, "example.com", false},
		{"expired", "example.com", &tls.Config{RootCAs: pool, Time: later}, "example.com", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: tt.cfg, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
			}}}
			if err := dialError(t, "wss://"+tt.host+"/", &Options{HTTPClient: client}); (err == nil) != tt.ok {
				t.Error(err)
			}
			wantEqual(t, "SNI", <-names, tt.sni)
		})
	}
}

func TestDial_SpeaksHTTP1(t *testing.T) {
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
	for name, client := range map[string]*http.Client{"by default": client, "by its Protocols": both, "as a RoundTripper": {Transport: roundTripper(client.Transport.RoundTrip)}} {
		resp, err := client.Get(s.URL)
		must(t, err)
		resp.Body.Close()
		if proto.Load() != "HTTP/2.0" {
			t.Fatalf("%s: the client speaks %v", name, proto.Load())
		}
		dialed(t, s.URL, &Options{HTTPClient: client})
		if proto.Load() != "HTTP/1.1" {
			t.Errorf("%s: Dial speaks %v", name, proto.Load())
		}
	}
}

// net/http sets fields of a Transport when it is first used. This is for the race detector.
func TestDial_SharesATransport_ThatIsNew(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages))
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()}}
	defer client.CloseIdleConnections()
	got := background(func() error {
		resp, err := client.Get(s.URL)
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	dialed(t, s.URL, &Options{HTTPClient: client})
	wantOK(t, "Read", <-got)
}

// The client's Timeout and the end of ctx end the handshake but not the connection.
func TestDial_Timeout_IsOfTheHandshake(t *testing.T) {
	for _, wrap := range []func(http.RoundTripper) http.RoundTripper{func(rt http.RoundTripper) http.RoundTripper { return rt }, hiding} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			client := &http.Client{Timeout: time.Second, Transport: wrap(pipedTo(func(nc net.Conn) {
				answerWith(nc, goodResponse)
				time.Sleep(time.Minute)
				nc.Write([]byte("\x81\x05hello"))
				io.Copy(io.Discard, nc)
			}).Transport)}
			c, err := Dial(ctx, "ws://example.com", &Options{HTTPClient: client, KeepAlive: -1})
			must(t, err)
			cancel()
			if _, p, err := c.Read(t.Context()); err != nil || string(p) != "hello" {
				t.Errorf("%q, %v", p, err)
			}
			c.CloseNow()

			client.Transport = wrap(pipedTo(func(nc net.Conn) { io.Copy(io.Discard, nc) }).Transport)
			if e := dialFails(t, t.Context(), "ws://example.com", &Options{HTTPClient: client}); !errors.Is(e, context.DeadlineExceeded) {
				t.Error(e)
			}
		})
	}
	for _, tt := range testTransports {
		t.Run(tt.name, func(t *testing.T) {
			checkInterruptedEcho(t, tt.dial(t, nil, nil, echoMessages)) // dials with a context that it ends
		})
	}
}

func TestDial_ContextIsOverOrNil_ReachesNobody(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errEnough)
	never := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent")
		return nil, io.EOF
	})}
	for _, opts := range []*Options{{HTTPClient: noDial(t)}, {HTTPClient: noDial(t), HTTP2: true}, {HTTPClient: never}} {
		var none context.Context
		wantError(t, "Dial", dialFails(t, none, "ws://example.com", opts), errNilContext)
		for range 100 {
			wantError(t, "Dial", dialFails(t, ctx, "ws://example.com", opts), context.Canceled, errEnough)
		}
	}
}

// An httptrace.ClientTrace in ctx sees the stages of the handshake.
func TestDial_Traces(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages))
	var got []string
	note := func(s string) { got = append(got, s) }
	ctx := httptrace.WithClientTrace(soon(t), &httptrace.ClientTrace{
		ConnectDone:          func(string, string, error) { note("connect") },
		TLSHandshakeStart:    func() { note("start TLS") },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { note("TLS") },
		GotConn:              func(httptrace.GotConnInfo) { note("conn") },
		WroteHeaders:         func() { note("headers") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { note("request") },
		GotFirstResponseByte: func() { note("response") },
	})
	c, err := Dial(ctx, s.URL, &Options{HTTPClient: s.Client()})
	must(t, err)
	defer c.CloseNow()
	if want := []string{"connect", "start TLS", "TLS", "conn", "headers", "request", "response"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A testProxy is an HTTP proxy for CONNECT only. It connects every name to target.
type testProxy struct {
	target string
	user   string // "name:password", or "" for anybody

	mu    sync.Mutex
	asked []*http.Request
}

func (p *testProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r)
	p.mu.Unlock()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.user))
	switch {
	case r.Method != http.MethodConnect:
		http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
		return
	case p.user != "" && r.Header.Get("Proxy-Authorization") != want:
		http.Error(w, "who are you?", http.StatusProxyAuthRequired)
		return
	}
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	from, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
	relay(from, to)
}

// relay copies in both directions until one ends.
func relay(a, b net.Conn) {
	closeBoth := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	go func() {
		io.Copy(a, b)
		closeBoth()
	}()
	io.Copy(b, a)
	closeBoth()
}

// through returns a client that uses the proxy and trusts the certificate of httptest.
func through(t *testing.T, proxy string, change func(*http.Transport)) *http.Client {
	u, err := url.Parse(proxy)
	must(t, err)
	_, cfg := certified()
	cfg = cfg.Clone()
	cfg.ServerName = ""
	tr := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: cfg}
	if change != nil {
		change(tr)
	}
	return &http.Client{Transport: tr}
}

// testTargets are servers to reach through a proxy, by the URL that a client dials. The certificate is for example.com.
func testTargets(t *testing.T) map[string]*httptest.Server {
	return map[string]*httptest.Server{
		"ws://example.com:8080/":  startTCP(t, Handler(nil, echoMessages)),
		"wss://example.com:8443/": startTLS(t, Handler(nil, echoMessages)),
	}
}

// ws and wss go through HTTP and HTTPS proxies by CONNECT, with HTTP/1.1 and HTTP/2.
func TestDial_HTTPProxy(t *testing.T) {
	for target, s := range testTargets(t) {
		for _, http2 := range []bool{false, true} {
			for _, kind := range []string{"http", "https"} {
				t.Run(fmt.Sprint(target, " through ", kind, " HTTP2 ", http2), func(t *testing.T) {
					p := &testProxy{target: s.Listener.Addr().String(), user: "name:pass word"}
					proxy := startTCP(t, p)
					if kind == "https" {
						proxy = startTLS(t, p)
					}
					client := through(t, strings.Replace(proxy.URL, "://", "://name:pass%20word@", 1), nil)
					c := dialed(t, target, &Options{HTTPClient: client, HTTP2: http2})
					checkInterruptedEcho(t, c)
					u, _ := url.Parse(target)
					if len(p.asked) != 1 || p.asked[0].RequestURI != u.Host || p.asked[0].Host != u.Host {
						t.Errorf("the proxy was asked for %v", p.asked)
					}
				})
			}
		}
	}
}

// The Transport's fields for the proxy are sent to the proxy and not to the target.
func TestDial_HTTPProxy_Header(t *testing.T) {
	failed := errors.New("no header")
	for _, tt := range []struct {
		name   string
		change func(*http.Transport)
		want   string
		ok     bool
	}{
		{"none", nil, "", true},
		{"ProxyConnectHeader", func(t *http.Transport) { t.ProxyConnectHeader = http.Header{"X-Proxy": {"fixed"}} }, "fixed", true},
		{"GetProxyConnectHeader", func(t *http.Transport) {
			t.ProxyConnectHeader = http.Header{"X-Proxy": {"fixed"}}
			t.GetProxyConnectHeader = func(_ context.Context, proxy *url.URL, target string) (http.Header, error) {
				return http.Header{"X-Proxy": {"for " + target}}, nil
			}
		}, "for example.com:80", true},
		{"GetProxyConnectHeader fails", func(t *http.Transport) {
			t.GetProxyConnectHeader = func(context.Context, *url.URL, string) (http.Header, error) { return nil, failed }
		}, "", false},
		{"CR LF", func(t *http.Transport) { t.ProxyConnectHeader = http.Header{"X": {"a\r\nY: b"}} }, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := make(chan string, 2)
			addr := listen(t, func(nc net.Conn) {
				requests <- answerWith(nc, "HTTP/1.1 204 No Content\r\n\r\n") // any 2xx opens a tunnel
				requests <- answerWith(nc, goodResponse)
			})
			err := dialError(t, "ws://example.com/", &Options{HTTPClient: through(t, "http://a:b@"+addr.String(), tt.change)})
			if !tt.ok {
				if toProxy := <-requests; err == nil || toProxy != "" || tt.name != "CR LF" && !errors.Is(err, failed) {
					t.Errorf("%v; the proxy was sent %q", err, toProxy)
				}
				return
			}
			must(t, err)
			toProxy, toTarget := <-requests, <-requests
			if !strings.Contains(toProxy, "Proxy-Authorization: Basic YTpi\r\n") || strings.Contains(toProxy, "X-Proxy: "+tt.want) != (tt.want != "") {
				t.Errorf("the proxy was sent %q", toProxy)
			}
			if strings.Contains(toTarget, "Proxy") {
				t.Errorf("the target was sent %q", toTarget)
			}
		})
	}
}

// If a proxy refuses, the *HandshakeError has its status and names the proxy.
func TestDial_HTTPProxy_Refuses(t *testing.T) {
	for _, tt := range []struct {
		name, response string
		status         int
		body           string
		says           string
	}{
		{"407", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 4\r\n\r\nwho?", 407, "who?", "407 Proxy Authentication Required): who?"},
		{"502", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", 502, "", "502"},
		{"302", "HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n", 302, "", "302"},
		{"101", "HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, "", "101"},
		{"body that does not end", "HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nabc", 503, "abc", "503"},
		{"endless header", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 20000), 0, "", "too large"},
		{"not HTTP", "220 smtp.example ESMTP\r\n", 0, "", "malformed"},
		{"nothing, and closed", "", 0, "", "EOF"},
		{"half a header, and closed", "HTTP/1.1 200 OK\r\nX:", 0, "", "EOF"},
	} {
		for _, target := range []string{"ws://example.com/", "wss://example.com/"} {
			inBubbleIn(t, tt.name+" "+target, func(t *testing.T) {
				client := answering(tt.response, tt.status == 0)
				client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy:1"})
				e := dialFails(t, t.Context(), target, &Options{HTTPClient: client})
				if e.StatusCode != tt.status || string(e.Body) != tt.body {
					t.Errorf("status %d, body %q", e.StatusCode, e.Body)
				}
				if s := e.Error(); !strings.Contains(s, "the proxy proxy:1") || !strings.Contains(s, tt.says) {
					t.Errorf("it says %q", s)
				}
			})
		}
	}
}

// Bytes that arrive with a proxy's 200 come from the target.
func TestDial_HTTPProxy_KeepsBytesAfterItsResponse(t *testing.T) {
	addr := listen(t, func(nc net.Conn) {
		// The accept key cannot be right.
		answerWith(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"+strings.Replace(goodResponse, "{accept}", goodAccept, 1))
		io.Copy(io.Discard, nc)
	})
	client := through(t, "http://"+addr.String(), nil)
	if e := dialFails(t, soon(t), "ws://example.com/", &Options{HTTPClient: client}); e.StatusCode != 101 || !strings.Contains(e.Reason, "Sec-WebSocket-Accept") {
		t.Error(e)
	}
	if e := dialFails(t, soon(t), "wss://example.com/", &Options{HTTPClient: client}); !strings.Contains(e.Error(), "TLS") {
		t.Error(e)
	}
}

// Through a proxy, the target's certificate is verified for the target's name and the proxy's for the proxy's.
func TestDial_HTTPProxy_TLS(t *testing.T) {
	target := startTLS(t, Handler(nil, echoMessages), loggingTo(io.Discard))
	pool := target.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	p := &testProxy{target: target.Listener.Addr().String()}
	plain, secure := startTCP(t, p), startTLS(t, p, loggingTo(io.Discard))
	for _, tt := range []struct {
		name, url, proxy string
		cfg              *tls.Config
		ok               bool
	}{
		{"trusted", "wss://example.com/", plain.URL, &tls.Config{RootCAs: pool}, true},
		{"trusted, through TLS", "wss://example.com/", secure.URL, &tls.Config{RootCAs: pool}, true},
		{"caller's name for the target, through TLS", "wss://evil.example/", secure.URL, &tls.Config{RootCAs: pool, ServerName: "example.com"}, true},
		{"another name than the target's", "wss://evil.example/", plain.URL, &tls.Config{RootCAs: pool}, false},
		{"another name than the target's, through TLS", "wss://evil.example/", secure.URL, &tls.Config{RootCAs: pool}, false},
		{"another name than the proxy's", "wss://example.com/", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), &tls.Config{RootCAs: pool}, false},
		{"caller's name for the target, not for the proxy", "wss://example.com/", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), &tls.Config{RootCAs: pool, ServerName: "example.com"}, false},
		{"unknown authority", "wss://example.com/", plain.URL, &tls.Config{}, false},
		{"unknown authority of the proxy", "ws://example.com/", secure.URL, &tls.Config{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := through(t, tt.proxy, func(tr *http.Transport) { tr.TLSClientConfig = tt.cfg })
			if err := dialError(t, tt.url, &Options{HTTPClient: client}); (err == nil) != tt.ok {
				t.Error(err)
			}
		})
	}
}

// OnProxyConnectResponse sees the proxy's response and may refuse it.
func TestDial_HTTPProxy_OnProxyConnectResponse(t *testing.T) {
	refused := errors.New("not that one")
	client := answering("HTTP/1.1 200 OK\r\nX: y\r\n\r\n", true)
	tr := client.Transport.(*http.Transport)
	tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy"})
	tr.OnProxyConnectResponse = func(_ context.Context, u *url.URL, req *http.Request, resp *http.Response) error {
		if u.String() != "http://proxy" || req.Method != "CONNECT" || resp.StatusCode != 200 || resp.Header.Get("X") != "y" {
			t.Errorf("called with %v, %v, %v", u, req, resp)
		}
		return refused
	}
	if e := dialFails(t, soon(t), "ws://example.com/", &Options{HTTPClient: client}); !errors.Is(e, refused) {
		t.Error(e)
	}
}

// The Transport chooses the proxy by the URL with the scheme http or https.
func TestDial_Proxy_OfTheTransport(t *testing.T) {
	s := startTCP(t, Handler(nil, echoMessages))
	p := &testProxy{target: s.Listener.Addr().String()}
	proxy := startTCP(t, p)
	var seen string
	failed := errors.New("no choice")
	choose := func(r *http.Request) (*url.URL, error) {
		seen = r.URL.String()
		switch r.URL.Hostname() {
		case "broken.example":
			return nil, failed
		case "127.0.0.1":
			return nil, nil
		}
		return url.Parse(proxy.URL)
	}
	for _, tt := range []struct {
		url, seen string
		asked     int
		err       error
	}{
		{"ws://example.com/a", "http://example.com/a", 1, nil},
		{s.URL, s.URL, 1, nil},
		{"wss://broken.example/", "https://broken.example/", 1, failed},
	} {
		err := dialError(t, tt.url, &Options{HTTPClient: &http.Client{Transport: &http.Transport{Proxy: choose}}})
		if !errors.Is(err, tt.err) || len(p.asked) != tt.asked || seen != tt.seen {
			t.Errorf("%s: %v; the choice was for %s; the proxy was asked %d times", tt.url, err, seen, len(p.asked))
		}
	}
}

func TestDial_Proxy_Scheme(t *testing.T) {
	for scheme, ok := range map[string]bool{"http": true, "HTTP": true, "hTTps": true, "socks5": true, "SOCKS5": true, "Socks5H": true, "socks5x": false, "socks4": false, "ftp": false, "": false} {
		t.Run(scheme, func(t *testing.T) {
			dialed := errors.New("dialed")
			e := dialFails(t, soon(t), "ws://example.com", &Options{HTTPClient: &http.Client{Transport: &http.Transport{
				Proxy:       http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example"}),
				DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, dialed },
			}}})
			if errors.Is(e, dialed) != ok || !ok && !strings.Contains(e.Error(), fmt.Sprintf("%q", scheme)) {
				t.Error(e)
			}
		})
	}
}

// By default the environment names the proxy and the exceptions. A process reads it only once.
func TestDial_Proxy_OfTheEnvironment(t *testing.T) {
	const variable = "WEBSOCKET_TEST_DIALED"
	if u := os.Getenv(variable); u != "" {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !strings.HasPrefix(addr, "127.0.0.1:") {
				return nil, errors.New("dialed without a proxy")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		http.DefaultTransport = tr
		dialed(t, u, nil)
		return
	}
	s := startTCP(t, Handler(nil, echoMessages))
	for _, tt := range []struct {
		env   string
		asked int
		ok    bool
	}{
		{"HTTP_PROXY=", 1, true},
		{"http_proxy=", 1, true},
		{"HTTPS_PROXY=", 0, false},
		{"NO_PROXY=example.com HTTP_PROXY=", 0, false},
		{"no_proxy=.com http_proxy=", 0, false},
	} {
		t.Run(tt.env, func(t *testing.T) {
			p := &testProxy{target: s.Listener.Addr().String()}
			proxy := startTCP(t, p)
			cmd := exec.Command(os.Args[0], "-test.run=^TestDial_Proxy_OfTheEnvironment$")
			cmd.Env = append(strings.Fields(tt.env+proxy.URL), variable+"=ws://example.com:1/", "GODEBUG="+extendedConnect)
			out, err := cmd.CombinedOutput()
			if (err == nil) != tt.ok || len(p.asked) != tt.asked {
				t.Errorf("%v; the proxy was asked %d times\n%s", err, len(p.asked), out)
			}
		})
	}
}

// A socksProxy is a SOCKS5 proxy (RFC 1928, RFC 1929).
type socksProxy struct {
	target         string
	user, password string
	reply          []byte // instead of a connection
	asked          string // address type and address of the request
}

func (p *socksProxy) serve(nc net.Conn) {
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(nc, b)
		return b
	}
	methods := read(int(read(2)[1]))
	method := byte(0)
	if p.user != "" {
		method = 2
	}
	if !strings.Contains(string(methods), string(rune(method))) {
		nc.Write([]byte{5, 0xff})
		return
	}
	nc.Write([]byte{5, method})
	if method == 2 {
		user := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(user) != p.user || string(password) != p.password {
			nc.Write([]byte{1, 1})
			return
		}
		nc.Write([]byte{1, 0})
	}
	head := read(4)
	size := map[byte]int{1: 4, 4: 16}[head[3]]
	if head[3] == 3 {
		size = int(read(1)[0])
	}
	host, port := read(size), binary.BigEndian.Uint16(read(2))
	p.asked = fmt.Sprintf("% x %s:%d", head, host, port)
	if p.reply != nil {
		nc.Write(p.reply)
		return
	}
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	nc.Write([]byte{5, 0, 0, 3, 4, 'n', 'a', 'm', 'e', 0, 80})
	relay(nc, to)
}

func TestDial_SOCKSProxy(t *testing.T) {
	for target, s := range testTargets(t) {
		for _, tt := range []struct {
			name           string
			proxy          string
			user, password string
			host, asked    string
			http2          bool
		}{
			{"a name", "socks5://", "", "", "", "05 01 00 03 example.com", false},
			{"a name, socks5h", "socks5h://", "", "", "", "05 01 00 03 example.com", false},
			{"a name, HTTP/2", "socks5://", "", "", "", "05 01 00 03 example.com", true},
			{"with a user", "socks5://me:secret@", "me", "secret", "", "05 01 00 03 example.com", false},
			{"with a user that is not asked for", "socks5://me:secret@", "", "", "", "05 01 00 03 example.com", false},
			{"an IPv4 address", "socks5://", "", "", "127.0.0.1", "05 01 00 01 \x7f\x00\x00\x01", false},
			{"an IPv6 address", "socks5://", "", "", "[::1]", "05 01 00 04 " + strings.Repeat("\x00", 15) + "\x01", false},
		} {
			t.Run(target+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				p := &socksProxy{target: s.Listener.Addr().String(), user: tt.user, password: tt.password}
				addr := listen(t, p.serve).String()
				u, _ := url.Parse(target)
				if tt.host != "" {
					u.Host = tt.host + ":" + u.Port()
				}
				c := dialed(t, u.String(), &Options{HTTPClient: through(t, tt.proxy+addr, nil), HTTP2: tt.http2})
				checkInterruptedEcho(t, c)
				if want := tt.asked + ":" + u.Port(); p.asked != want {
					t.Errorf("asked for %q, want %q", p.asked, want)
				}
			})
		}
	}
}

func TestDial_SOCKSProxy_Refuses(t *testing.T) {
	for _, tt := range []struct {
		name, user string
		p          socksProxy
		says       string
	}{
		{"wants a user", "", socksProxy{user: "me", password: "x"}, "no acceptable authentication methods"},
		{"another password", "me:y@", socksProxy{user: "me", password: "x"}, "authentication failed"},
		{"connection refused", "", socksProxy{reply: []byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}}, "connection refused"},
		{"half a reply", "", socksProxy{reply: []byte{5, 0, 0, 1, 0}}, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := listen(t, tt.p.serve).String()
			e := dialFails(t, soon(t), "ws://example.com/", &Options{HTTPClient: through(t, "socks5://"+tt.user+addr, nil)})
			if s := e.Error(); !strings.Contains(s, "proxy "+addr) || !strings.Contains(s, tt.says) || e.StatusCode != 0 {
				t.Errorf("it says %q", s)
			}
		})
	}
}
