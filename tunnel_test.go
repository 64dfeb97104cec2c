package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type dialContext = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialTransports are Transports that open their connections with dial, and the URL that makes them do so.
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

// A dial function may refuse an address that it has resolved.
func TestDial_CallsTheDialFunction(t *testing.T) {
	tcp, secure := startTCP(t, Handler(nil, echoMessages)), startTLS(t, Handler(nil, echoMessages))
	refused := errors.New("not to that address")
	cfg := secure.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.ServerName = "example.com"
	for _, tt := range dialTransports {
		if strings.Contains(tt.name, "proxy") {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			s := tcp
			if strings.HasPrefix(tt.url, "wss") {
				s = secure
			}
			tr := tt.transport(func(_ context.Context, network, _ string) (net.Conn, error) {
				nc, err := net.Dial(network, s.Listener.Addr().String())
				if err == nil && strings.HasPrefix(tt.name, "DialTLS") {
					return tls.Client(nc, cfg), nil
				}
				return nc, err
			})
			tr.TLSClientConfig = cfg
			c, err := Dial(testContext(t), tt.url, &Options{HTTPClient: &http.Client{Transport: tr}, HTTP2: tt.http2})
			if err != nil {
				t.Fatal(err)
			}
			c.CloseNow()
			tr = tt.transport(func(context.Context, string, string) (net.Conn, error) { return nil, refused })
			if e := dialFails(t, testContext(t), tt.url, &Options{HTTPClient: &http.Client{Transport: tr}, HTTP2: tt.http2}); !errors.Is(e, refused) {
				t.Error(e)
			}
		})
	}
}

func TestDial_RefusesAConnectionThatIsNil(t *testing.T) {
	for _, tt := range dialTransports {
		t.Run(tt.name, func(t *testing.T) {
			tr := tt.transport(func(context.Context, string, string) (net.Conn, error) { return nil, nil })
			dialFails(t, testContext(t), tt.url, &Options{HTTPClient: &http.Client{Transport: tr}, HTTP2: tt.http2})
		})
	}
}

// The dial function sees the deadline of ctx, or that of the client's Timeout, and its end.
func TestDial_PassesTheDeadlineOn(t *testing.T) {
	for _, tt := range dialTransports {
		if tt.name == "Dial" || tt.name == "DialTLS" {
			continue
		}
		for _, timeout := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprint(tt.name, " Timeout ", timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					want, seen := time.Now().Add(time.Minute), make(chan error, 1)
					tr := tt.transport(func(ctx context.Context, _, _ string) (net.Conn, error) {
						if d, ok := ctx.Deadline(); !ok || !d.Equal(want) {
							t.Errorf("the deadline is %v, %t, want %v", d, ok, want)
						}
						<-ctx.Done()
						seen <- ctx.Err()
						return nil, ctx.Err()
					})
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute-timeout)
					defer cancel()
					if timeout == 0 {
						ctx, cancel = context.WithTimeout(ctx, time.Minute)
						defer cancel()
					}
					if e := dialFails(t, ctx, tt.url, &Options{HTTPClient: &http.Client{Transport: tr, Timeout: timeout}, HTTP2: tt.http2}); !errors.Is(e, context.DeadlineExceeded) {
						t.Error(e)
					}
					if err := <-seen; err != context.DeadlineExceeded {
						t.Errorf("the dial function sees %v", err)
					}
				})
			})
		}
	}
}

// A net.Dialer that knows the deadline leaves half of the time for the second of two addresses.
func TestDial_PassesTheDeadlineOn_ToEachAddress(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	var left []time.Duration
	dialer := &net.Dialer{
		Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go serveDNS(far, [4]byte{127, 0, 0, 2}, [4]byte{127, 0, 0, 3})
			return near, nil
		}},
		ControlContext: func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
			d, _ := ctx.Deadline()
			left = append(left, time.Until(d).Round(time.Minute))
			return errors.New("unreachable")
		},
	}
	dialFails(t, ctx, "ws://two.example/", &Options{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}})
	if want := []time.Duration{30 * time.Minute, time.Hour}; !slices.Equal(left, want) {
		t.Errorf("the addresses are given %v, want %v", left, want)
	}
}

// serveDNS answers a query for addresses of IPv4 with addrs, and any other with none (RFC 1035, section 4).
func serveDNS(nc net.Conn, addrs ...[4]byte) {
	defer nc.Close()
	var size [2]byte
	io.ReadFull(nc, size[:])
	q := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(nc, q); err != nil {
		return
	}
	const header, typeA = 12, 1
	end := header
	for q[end] != 0 { // labels of the name
		end += 1 + int(q[end])
	}
	end += 5 // the empty label, type and class
	if q[end-3] != typeA {
		addrs = nil
	}
	p := append(size[:], q[:end]...)
	copy(p[4:], []byte{0x81, 0x80, 0, 1, 0, byte(len(addrs)), 0, 0, 0, 0}) // response; one question
	for _, a := range addrs {
		p = append(p, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 60, 0, 4, a[0], a[1], a[2], a[3])
	}
	binary.BigEndian.PutUint16(p, uint16(len(p)-2))
	nc.Write(p)
}

func TestDial_NobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	addr := l.Addr().String()
	e := dialFails(t, testContext(t), "ws://"+addr, nil)
	if op := new(net.OpError); !errors.As(e, &op) {
		t.Errorf("the cause of %v is hidden", e)
	}
	for _, scheme := range []string{"http", "https", "socks5"} {
		if e := dialFails(t, testContext(t), "ws://example.com/", &Options{HTTPClient: through(t, scheme+"://"+addr, nil)}); !strings.Contains(e.Error(), "the proxy "+addr) {
			t.Error(e)
		}
	}
}

// A Dial that is cancelled, at whatever stage, returns soon with ctx's error and leaves no descriptor.
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

// A server that reads the request and then nothing more holds up the alert with which TLS closes a connection.
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
		if d := time.Since(start); d != time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

func TestDial_Cancelled_ClosesALateConnection(t *testing.T) {
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
	if e := dialFails(t, ctx, "ws://example.com", &Options{HTTPClient: client}); !errors.Is(e, context.Canceled) || !errors.Is(e, context.Cause(ctx)) {
		t.Error(e)
	}
	close(release)
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
}

// The timeouts of the Transport bound a silent server, without a deadline of ctx.
func TestDial_TransportTimeouts(t *testing.T) {
	for url, want := range map[string]error{"ws://example.com": os.ErrDeadlineExceeded, "wss://example.com": context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			client := pipedTo(func(nc net.Conn) { io.Copy(io.Discard, nc) })
			client.Transport.(*http.Transport).ResponseHeaderTimeout = time.Second
			client.Transport.(*http.Transport).TLSHandshakeTimeout = time.Second
			if e := dialFails(t, t.Context(), url, &Options{HTTPClient: client}); !errors.Is(e, want) {
				t.Error(e)
			}
		})
	}
}

// The limit of the Transport replaces that of 64 KiB, in both directions.
func TestDial_MaxResponseHeaderBytes(t *testing.T) {
	for limit, ok := range map[int64]bool{0: false, 100 << 10: false, 101 << 10: true} {
		client := answering(strings.Replace(goodResponse, "\r\n", "\r\nX: "+strings.Repeat("x", 100<<10)+"\r\n", 1), true)
		client.Transport.(*http.Transport).MaxResponseHeaderBytes = limit
		c, err := Dial(testContext(t), "ws://example.com", &Options{HTTPClient: client})
		if (err == nil) != ok {
			t.Errorf("with the limit %d: %v", limit, err)
		}
		if c != nil {
			c.CloseNow()
		}
	}
}

// RFC 6455, section 4.1, step 5: TLS before the request, with SNI, and failure if the certificate is not verified.
func TestDial_TLS(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages), quiet)
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
			c, err := Dial(testContext(t), "wss://"+tt.host+"/", &Options{HTTPClient: client})
			if (err == nil) != tt.ok {
				t.Error(err)
			}
			if c != nil {
				c.CloseNow()
			}
			if sni := <-names; sni != tt.sni {
				t.Errorf("SNI %q, want %q", sni, tt.sni)
			}
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

// Both read fields of the Transport that net/http sets when it is first used, as the race detector sees.
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
	c, err := Dial(testContext(t), s.URL, &Options{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	c.CloseNow()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// The Timeout of the client and the end of ctx are of the handshake, and not of the connection.
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
			if err != nil {
				t.Fatal(err)
			}
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

func TestDial_ContextIsOver_ReachesNobody(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("a reason")
	cancel(cause)
	never := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent")
		return nil, io.EOF
	})}
	for _, opts := range []*Options{{HTTPClient: noDial(t)}, {HTTPClient: noDial(t), HTTP2: true}, {HTTPClient: never}} {
		for range 100 {
			if e := dialFails(t, ctx, "ws://example.com", opts); !errors.Is(e, cause) || !errors.Is(e, context.Canceled) {
				t.Fatal(e)
			}
		}
	}
}

// An httptrace.ClientTrace in ctx sees the stages of the handshake.
func TestDial_Traces(t *testing.T) {
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
