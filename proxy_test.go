package websocket

import (
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
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// A testProxy is an HTTP proxy that knows CONNECT and nothing else. Every name leads to target.
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

// through returns a client that goes through the proxy and trusts the certificate of httptest.
func through(t *testing.T, proxy string, change func(*http.Transport)) *http.Client {
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	_, cfg := certified()
	cfg = cfg.Clone()
	cfg.ServerName = ""
	tr := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: cfg}
	if change != nil {
		change(tr)
	}
	return &http.Client{Transport: tr}
}

// testTargets are servers behind a proxy, with the URL that a client dials: example.com is in the certificate.
func testTargets(t *testing.T) map[string]*httptest.Server {
	return map[string]*httptest.Server{
		"ws://example.com:8080/":  startTCP(t, Handler(nil, echoMessages)),
		"wss://example.com:8443/": startTLS(t, Handler(nil, echoMessages)),
	}
}

// ws and wss go through HTTP and HTTPS proxies by CONNECT, with HTTP/1.1 and HTTP/2 to the target.
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
					c, err := Dial(testContext(t), target, &Options{HTTPClient: client, HTTP2: http2})
					if err != nil {
						t.Fatal(err)
					}
					defer c.CloseNow()
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

// The fields that a Transport has for its proxy are sent to it, and not to the target.
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
			c, err := Dial(testContext(t), "ws://example.com/", &Options{HTTPClient: through(t, "http://a:b@"+addr.String(), tt.change)})
			if !tt.ok {
				if toProxy := <-requests; err == nil || toProxy != "" || tt.name != "CR LF" && !errors.Is(err, failed) {
					t.Errorf("%v; the proxy was sent %q", err, toProxy)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.CloseNow()
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

// The refusal of a proxy is a HandshakeError with its status, and says that it is the proxy's.
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
			t.Run(tt.name+" "+target, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
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
			})
		}
	}
}

// A proxy that says nothing is given up, although ctx has no deadline.
func TestDial_Proxy_Silent(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		synctest.Test(t, func(t *testing.T) {
			client := pipedTo(func(nc net.Conn) { io.Copy(io.Discard, nc) })
			client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy"})
			if e := dialFails(t, t.Context(), "ws://example.com", &Options{HTTPClient: client}); !errors.Is(e, os.ErrDeadlineExceeded) {
				t.Error(e)
			}
		})
	}
}

// The bytes after a proxy's 200 come from the target, even before there is a request.
func TestDial_HTTPProxy_KeepsBytesAfterItsResponse(t *testing.T) {
	addr := listen(t, func(nc net.Conn) {
		// The accept key cannot be right.
		answerWith(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"+strings.Replace(goodResponse, "{accept}", goodAccept, 1))
		io.Copy(io.Discard, nc)
	})
	client := through(t, "http://"+addr.String(), nil)
	if e := dialFails(t, testContext(t), "ws://example.com/", &Options{HTTPClient: client}); e.StatusCode != 101 || !strings.Contains(e.Reason, "Sec-WebSocket-Accept") {
		t.Error(e)
	}
	if e := dialFails(t, testContext(t), "wss://example.com/", &Options{HTTPClient: client}); !strings.Contains(e.Error(), "TLS") {
		t.Error(e)
	}
}

// TLS with the target is verified against its name through a proxy too, and with the proxy against the proxy's.
func TestDial_HTTPProxy_TLS(t *testing.T) {
	target := startTLS(t, Handler(nil, echoMessages), quiet)
	pool := target.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	p := &testProxy{target: target.Listener.Addr().String()}
	plain, secure := startTCP(t, p), startTLS(t, p, quiet)
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
			c, err := Dial(testContext(t), tt.url, &Options{HTTPClient: client})
			if (err == nil) != tt.ok {
				t.Error(err)
			}
			if c != nil {
				c.CloseNow()
			}
		})
	}
}

// OnProxyConnectResponse sees the response of the proxy, and may refuse it.
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
	if e := dialFails(t, testContext(t), "ws://example.com/", &Options{HTTPClient: client}); !errors.Is(e, refused) {
		t.Error(e)
	}
}

// The Transport chooses the proxy by the http or https URL, by default from the environment.
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
		c, err := Dial(testContext(t), tt.url, &Options{HTTPClient: &http.Client{Transport: &http.Transport{Proxy: choose}}})
		if !errors.Is(err, tt.err) || len(p.asked) != tt.asked || seen != tt.seen {
			t.Errorf("%s: %v; the choice was for %s; the proxy was asked %d times", tt.url, err, seen, len(p.asked))
		}
		if c != nil {
			c.CloseNow()
		}
	}
}

func TestDial_Proxy_Scheme(t *testing.T) {
	for scheme, ok := range map[string]bool{"http": true, "HTTP": true, "hTTps": true, "socks5": true, "SOCKS5": true, "Socks5H": true, "socks5x": false, "socks4": false, "ftp": false, "": false} {
		t.Run(scheme, func(t *testing.T) {
			dialed := errors.New("dialed")
			e := dialFails(t, testContext(t), "ws://example.com", &Options{HTTPClient: &http.Client{Transport: &http.Transport{
				Proxy:       http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.example"}),
				DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, dialed },
			}}})
			if errors.Is(e, dialed) != ok || !ok && !strings.Contains(e.Error(), fmt.Sprintf("%q", scheme)) {
				t.Error(e)
			}
		})
	}
}

// The environment names the proxy, in both cases, and exceptions. A process reads it once.
func TestDial_Proxy_OfTheEnvironment(t *testing.T) {
	const dialed = "WEBSOCKET_TEST_DIALED"
	if u := os.Getenv(dialed); u != "" {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !strings.HasPrefix(addr, "127.0.0.1:") {
				return nil, errors.New("dialed without a proxy")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		http.DefaultTransport = tr
		c, err := Dial(testContext(t), u, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.CloseNow()
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
			cmd.Env = append(strings.Fields(tt.env+proxy.URL), dialed+"=ws://example.com:1/", "GODEBUG="+extendedConnect)
			out, err := cmd.CombinedOutput()
			if (err == nil) != tt.ok || len(p.asked) != tt.asked {
				t.Errorf("%v; the proxy was asked %d times\n%s", err, len(p.asked), out)
			}
		})
	}
}

// A socksProxy is a SOCKS5 proxy, byte by byte (RFC 1928, RFC 1929).
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
				c, err := Dial(testContext(t), u.String(), &Options{HTTPClient: through(t, tt.proxy+addr, nil), HTTP2: tt.http2})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
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
		{"empty user", ":y@", socksProxy{user: "me", password: "x"}, "invalid username/password"},
		{"long user", strings.Repeat("u", 256) + ":y@", socksProxy{user: "me", password: "x"}, "invalid username/password"},
		{"connection refused", "", socksProxy{reply: []byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}}, "connection refused"},
		{"unknown code", "", socksProxy{reply: []byte{5, 99, 0, 1, 0, 0, 0, 0, 0, 0}}, "code: 99"},
		{"another version", "", socksProxy{reply: []byte{4, 0, 0, 1, 0, 0, 0, 0, 0, 0}}, "version 4"},
		{"unknown type of address", "", socksProxy{reply: []byte{5, 0, 0, 9, 0, 0, 0, 0, 0, 0}}, "type 9"},
		{"half a reply", "", socksProxy{reply: []byte{5, 0, 0, 1, 0}}, "EOF"},
		{"half an address", "", socksProxy{reply: []byte{5, 0, 0, 3, 200, 0}}, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := listen(t, tt.p.serve).String()
			e := dialFails(t, testContext(t), "ws://example.com/", &Options{HTTPClient: through(t, "socks5://"+tt.user+addr, nil)})
			if s := e.Error(); !strings.Contains(s, "proxy "+addr) || !strings.Contains(s, tt.says) || e.StatusCode != 0 {
				t.Errorf("it says %q", s)
			}
		})
	}
}
