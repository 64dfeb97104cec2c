package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestDial_PassesItsDeadlineToTheDialFunction(t *testing.T) {
	proxy := func(scheme string) func(*http.Request) (*url.URL, error) {
		return http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example"})
	}
	type dialFunc = func(context.Context, string, string) (net.Conn, error)
	for _, tt := range []struct {
		name, url string
		http2     bool
		transport func(dial dialFunc) *http.Transport
	}{
		{"ws", "ws://example.com", false, func(d dialFunc) *http.Transport { return &http.Transport{DialContext: d} }},
		{"wss", "wss://example.com", false, func(d dialFunc) *http.Transport { return &http.Transport{DialContext: d} }},
		{"DialTLSContext", "wss://example.com", false, func(d dialFunc) *http.Transport { return &http.Transport{DialTLSContext: d} }},
		{"HTTP proxy", "ws://example.com", false, func(d dialFunc) *http.Transport { return &http.Transport{DialContext: d, Proxy: proxy("http")} }},
		{"SOCKS proxy", "ws://example.com", false, func(d dialFunc) *http.Transport { return &http.Transport{DialContext: d, Proxy: proxy("socks5")} }},
		{"HTTP/2", "wss://example.com", true, func(d dialFunc) *http.Transport { return &http.Transport{DialContext: d} }},
	} {
		for _, timeout := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s timeout %t", tt.name, timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					want := time.Now().Add(time.Minute)
					seen := make(chan error, 1)
					client := &http.Client{Transport: tt.transport(func(ctx context.Context, _, _ string) (net.Conn, error) {
						if d, ok := ctx.Deadline(); !ok || !d.Equal(want) {
							t.Errorf("the deadline is %v, %t, want %v", d, ok, want)
						}
						<-ctx.Done()
						seen <- ctx.Err()
						return nil, ctx.Err()
					})}
					ctx := context.Background()
					if timeout {
						client.Timeout = time.Minute
					} else {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, time.Minute)
						defer cancel()
					}
					if e := dialFails(t, ctx, tt.url, &Options{HTTPClient: client, HTTP2: tt.http2}); !errors.Is(e, context.DeadlineExceeded) {
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

// serveDNS answers one query of net.Resolver's TCP framing with the addresses, and any other type with none.
func serveDNS(nc net.Conn, addrs ...[4]byte) {
	defer nc.Close()
	b := make([]byte, 512)
	if _, err := io.ReadFull(nc, b[:2]); err != nil {
		return
	}
	q := b[2 : 2+int(b[0])<<8+int(b[1])]
	if _, err := io.ReadFull(nc, q); err != nil {
		return
	}
	end := 12
	for q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5 // root label, type, class
	if q[end-3] != 1 {
		addrs = nil
	}
	p := append([]byte{}, q[:end]...)
	copy(p[2:], []byte{0x81, 0x80, 0, 1, 0, byte(len(addrs)), 0, 0, 0, 0}) // a response; one question
	for _, a := range addrs {
		p = append(p, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, a[0], a[1], a[2], a[3])
	}
	nc.Write(append([]byte{byte(len(p) >> 8), byte(len(p))}, p...))
}

// A net.Dialer that knows the deadline leaves half of the time for the second of two addresses.
func TestDial_DividesItsTimeAmongAddresses(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	var left []time.Duration
	dialer := &net.Dialer{
		Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go serveDNS(far, [4]byte{127, 0, 0, 2}, [4]byte{127, 0, 0, 3})
			return near, nil
		}},
		ControlContext: func(ctx context.Context, _, addr string, _ syscall.RawConn) error {
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

func TestDial_FollowsARedirectWithoutSecrets(t *testing.T) {
	var got http.Header
	record := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chat" {
			got = r.Header.Clone()
			upgrading(t, &Options{Subprotocols: []string{"token.s3cret"}, Compression: &Compression{}, CheckOrigin: func(*http.Request) bool { return true }}).ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	})
	here, there := startTCP(t, record), startTCP(t, record)
	opts := &Options{
		Header:       http.Header{"X-Api-Key": {"s3cret"}, "Authorization": {"s3cret"}, "Cookie": {"a=s3cret"}, "Origin": {"http://o"}, "User-Agent": {"u"}, "Accept-Language": {"de"}},
		Subprotocols: []string{"token.s3cret"}, Compression: &Compression{},
		HTTPClient: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return nil }},
	}
	for _, tt := range []struct {
		name string
		to   string
		kept bool
	}{
		{"same host", here.URL + "/chat", true},
		{"other host", there.URL + "/chat", false},
		{"other host and back", there.URL + "/?to=" + url.QueryEscape(here.URL+"/chat"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Dial(testContext(t), here.URL+"/?access_token=s3cret&to="+url.QueryEscape(tt.to), opts)
			if err != nil {
				t.Fatal(err)
			}
			c.CloseNow()
			if got["Referer"] != nil {
				t.Errorf("Referer: %q", got["Referer"])
			}
			for name, values := range got {
				if strings.Contains(fmt.Sprint(values), "s3cret") && !tt.kept {
					t.Errorf("%s: %q", name, values)
				}
			}
			for _, name := range []string{"X-Api-Key", "Authorization", "Cookie", "Accept-Language", "Sec-Websocket-Protocol"} {
				if (got[name] != nil) != tt.kept {
					t.Errorf("%s: %q", name, got[name])
				}
			}
			if got.Get("Origin") != "http://o" || got.Get("User-Agent") != "u" || got["Sec-Websocket-Extensions"] == nil {
				t.Errorf("got %v", got)
			}
			if (c.Subprotocol() == "") == tt.kept {
				t.Errorf("subprotocol %q", c.Subprotocol())
			}
		})
	}
}

func TestDial_RefusesASubprotocolThatARedirectDidNotOffer(t *testing.T) {
	addr := listen(t, func(nc net.Conn) {
		answerWith(nc, strings.Replace(goodResponse, "\r\n\r\n", "\r\nSec-WebSocket-Protocol: a\r\n\r\n", 1))
		io.Copy(io.Discard, nc)
	})
	s := startTCP(t, http.RedirectHandler("http://"+addr.String(), http.StatusFound))
	e := dialFails(t, testContext(t), s.URL, &Options{Subprotocols: []string{"a"},
		HTTPClient: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}})
	if !strings.Contains(e.Reason, "subprotocol") {
		t.Error(e)
	}
}

func TestDial_ErrorsHideUserInformation(t *testing.T) {
	fails := func(err error) *http.Client {
		return &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })}
	}
	_, parse := url.Parse("http://user:s3cret/x@proxy/")
	to := func(location string) *http.Client {
		return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return nil },
			Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 302, Header: http.Header{"Location": {location}}, Body: http.NoBody}, nil
			})}
	}
	for _, tt := range []struct {
		name, url string
		client    *http.Client
		status    int
	}{
		{"slash in the password", "ws://user:s3cret/x@host/", nil, 0},
		{"bad escape in the password", "ws://user:s3cret%zz@host/", nil, 0},
		{"space in the user", "ws://us er:s3cret@host/", nil, 0},
		{"bad port", "ws://user:s3cret@host:s3cret/", nil, 0},
		{"another scheme", "ftp://user:s3cret@host/", nil, 0},
		{"fragment", "ws://user:s3cret@host/#s3cret", nil, 0},
		{"no answer", "ws://user:s3cret@host/", fails(io.EOF), 0},
		{"RoundTripper's *url.Error", "ws://user:s3cret@host/", fails(&url.Error{Op: "Get", URL: "http://user:s3cret@host/", Err: io.EOF}), 0},
		{"Proxy's error", "ws://user:s3cret@host/", &http.Client{Transport: &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return nil, parse }}}, 0},
		{"proxy refuses", "ws://user:s3cret@host/", &http.Client{Transport: &http.Transport{
			Proxy:       http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy", User: url.UserPassword("user", "s3cret")}),
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }}}, 0},
		{"unknown proxy", "ws://user:s3cret@host/", &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyURL(&url.URL{Scheme: "ftp", Host: "proxy", User: url.UserPassword("user", "s3cret")})}}, 0},
		{"Location that does not parse", "ws://host/", to("ws://user:s3cret/x@host/"), 302},
		{"Location of another scheme", "ws://host/", to("ftp://user:s3cret@host/"), 302},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := dialFails(t, testContext(t), tt.url, &Options{HTTPClient: tt.client})
			if s := e.Error(); strings.Contains(s, "s3cret") || strings.Contains(s, "user") {
				t.Error(s)
			}
			if e.StatusCode != tt.status {
				t.Errorf("status %d", e.StatusCode)
			}
		})
	}
}

func TestDial_RefusesANilConnection(t *testing.T) {
	none := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	for _, tt := range []struct {
		name, url string
		http2     bool
		transport *http.Transport
	}{
		{"DialContext", "ws://example.com", false, &http.Transport{DialContext: none}},
		{"Dial", "ws://example.com", false, &http.Transport{Dial: func(string, string) (net.Conn, error) { return nil, nil }}},
		{"DialContext and TLS", "wss://example.com", false, &http.Transport{DialContext: none}},
		{"DialTLSContext", "wss://example.com", false, &http.Transport{DialTLSContext: none}},
		{"DialTLS", "wss://example.com", false, &http.Transport{DialTLS: func(string, string) (net.Conn, error) { return nil, nil }}},
		{"HTTP/2", "wss://example.com", true, &http.Transport{DialContext: none}},
		{"proxy", "ws://example.com", false, &http.Transport{DialContext: none, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy"})}},
		{"SOCKS proxy", "ws://example.com", false, &http.Transport{DialContext: none, Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: "proxy"})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("panic: %v", p)
				}
			}()
			dialFails(t, testContext(t), tt.url, &Options{HTTPClient: &http.Client{Transport: tt.transport}, HTTP2: tt.http2})
		})
	}
}

func TestDial_KnowsTheSchemesOfProxies(t *testing.T) {
	for _, tt := range []struct {
		scheme string
		known  bool
	}{{"http", true}, {"HTTP", true}, {"hTTps", true}, {"SOCKS5", true}, {"Socks5H", true}, {"socks5x", false}, {"socks4", false}, {"ftp", false}, {"", false}} {
		t.Run(tt.scheme, func(t *testing.T) {
			dialed := errors.New("dialed")
			e := dialFails(t, testContext(t), "ws://example.com", &Options{HTTPClient: &http.Client{Transport: &http.Transport{
				Proxy:       http.ProxyURL(&url.URL{Scheme: tt.scheme, Host: "proxy.example"}),
				DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, dialed },
			}}})
			if errors.Is(e, dialed) != tt.known {
				t.Error(e)
			}
			if !tt.known && !strings.Contains(e.Error(), fmt.Sprintf("%q", tt.scheme)) {
				t.Errorf("%v does not name %q", e, tt.scheme)
			}
		})
	}
}

func TestDial_AfterTheEndOfItsContextReachesNobody(t *testing.T) {
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

func TestDial_ErrorsAreOneLine(t *testing.T) {
	ctx, cancel := context.WithCancelCause(testContext(t))
	defer cancel(nil)
	for _, tt := range []struct {
		name string
		dial func() error
	}{
		{"the dial function's", func() error { return errors.Join(errors.New("one"), errors.New("two")) }},
		{"with CR and ESC", func() error { return errors.New("one\r\n\x1b[31mtwo") }},
		{"and ctx's", func() error { cancel(errors.New("a reason")); return errors.New("one two") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := dialFails(t, ctx, "ws://example.com", &Options{HTTPClient: &http.Client{Transport: &http.Transport{
				DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, tt.dial() },
			}}})
			if s := e.Error(); strings.ContainsAny(s, "\r\n\x1b") {
				t.Errorf("%q", s)
			}
		})
	}
}

func TestHandshakeError_Error(t *testing.T) {
	for _, tt := range []struct {
		name, response, want string
	}{
		{"body", "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno entry\n", "websocket: handshake: the server refused the upgrade (HTTP status 403 Forbidden): no entry"},
		{"no body", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "websocket: handshake: the server refused the upgrade (HTTP status 403 Forbidden)"},
		{"a status of its own", "HTTP/1.1 599 \x1b[31mMine\r\nContent-Length: 0\r\n\r\n", "websocket: handshake: the server refused the upgrade (HTTP status 599)"},
		{"more lines", "HTTP/1.1 503 X\r\nContent-Length: 12\r\n\r\n\r\n\tone\x1b[1m\r\ntw", "websocket: handshake: the server refused the upgrade (HTTP status 503 Service Unavailable): one[1m"},
		{"long line", "HTTP/1.1 503 X\r\nContent-Length: 500\r\n\r\n" + strings.Repeat("é", 250), "websocket: handshake: the server refused the upgrade (HTTP status 503 Service Unavailable): " + strings.Repeat("é", 100)},
		{"HTML", "HTTP/1.1 503 X\r\nContent-Length: 18\r\n\r\n<html><body>no</b>", "websocket: handshake: the server refused the upgrade (HTTP status 503 Service Unavailable)"},
		{"binary", "HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\n\x00\xff\xfea", "websocket: handshake: the server refused the upgrade (HTTP status 503 Service Unavailable)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := listen(t, func(nc net.Conn) {
				answerWith(nc, tt.response)
				io.Copy(io.Discard, nc)
			})
			if e := dialFails(t, testContext(t), "ws://"+addr.String(), nil); e.Error() != tt.want {
				t.Errorf("\n got %q\nwant %q", e.Error(), tt.want)
			}
		})
	}
}

// A server that reads the request and then nothing more holds up the alert with which TLS closes a connection.
func TestDial_CancelledOverTLS_DoesNotWaitForTheAlert(t *testing.T) {
	ofServer, ofClient := certified()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() {
			tc := tls.Server(far, ofServer)
			http.ReadRequest(bufio.NewReader(tc))
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
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

// Both use fields of the Transport that net/http sets when it is first used; the race detector tells.
func TestDial_SharesATransport_ThatIsFirstUsed(t *testing.T) {
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

func TestDial_RefusesWhatARoundTripperMustNotReturn(t *testing.T) {
	for name, resp := range map[string]*http.Response{"nothing": nil, "no body": {StatusCode: 302, ContentLength: 5}, "no body, no URL": {StatusCode: 302, Header: http.Header{"Location": {":"}}}} {
		t.Run(name, func(t *testing.T) {
			dialFails(t, testContext(t), "ws://example.com/", &Options{HTTPClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				return resp, nil
			})}})
		})
	}
}
