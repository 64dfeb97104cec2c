package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// testContext bounds what a test waits for.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// listen serves each connection with the function, until the test ends.
func listen(t testing.TB, serve func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(10 * time.Second))
				serve(nc)
			})
		}
	})
	return l.Addr()
}

// answer reads a request and answers it with the response, in which {accept} stands for the accept key.
func answerWith(nc net.Conn, response string) (request string) {
	var b bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(nc, &b)))
	if err != nil {
		return b.String()
	}
	accept := string(appendAcceptKey(nil, req.Header.Get("Sec-WebSocket-Key")))
	io.WriteString(nc, strings.ReplaceAll(response, "{accept}", accept))
	return b.String()
}

const goodResponse = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"

// dialFails dials and returns the error, which must be a *HandshakeError.
func dialFails(t *testing.T, ctx context.Context, url string, opts *Options) *HandshakeError {
	t.Helper()
	c, err := Dial(ctx, url, opts)
	if err == nil {
		c.CloseNow()
		t.Fatal("dialed")
	}
	var e *HandshakeError
	if c != nil || !errors.As(err, &e) || e.Reason == "" || err != error(e) {
		t.Fatalf("Dial returned %v, %#v", c, err)
	}
	return e
}

// noDial is a client that must not be used.
func noDial(t *testing.T) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("%s was dialed", addr)
		return nil, errors.New("not to be dialed")
	}}}
}

func TestClient_URLsThatAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, url string }{
		{"A1 another scheme", "ftp://example.com/"},
		{"A1 no scheme", "//example.com/"},
		{"A1 a path", "/chat"},
		{"A1 a host and port", "example.com:80"},
		{"A1 no host", "ws:///chat"},
		{"A1 only a port", "ws://:80/"},
		{"A1 opaque", "ws:example.com"},
		{"A1 empty", ""},
		{"A2 fragment", "ws://example.com/#x"},
		{"A2 empty fragment", "ws://example.com/#"},
		{"A5 host that has no punycode", "ws://ex\xffample.com/"},
		{"R42 CR LF in the path", "ws://example.com/a\r\nX: y"},
		{"R42 NUL in the path", "ws://example.com/\x00"},
		{"R42 CR LF in the host", "ws://example.com\r\nX: y/"},
		{"R42 space in the host", "ws://exa mple.com/"},
		{"port that is none", "ws://example.com:http/"},
		{"IPv6 address without an end", "ws://[::1/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := dialFails(t, testContext(t), tt.url, &Options{HTTPClient: noDial(t)})
			if e.StatusCode != 0 || e.Err == nil {
				t.Errorf("%#v", e)
			}
		})
	}
}

// What is wrong with a URL is said without the password in it.
func TestClient_ErrorsHideThePassword(t *testing.T) {
	for _, u := range []string{"ws://me:secret@[::1/", "ws://me:secret@example.com/#x", "ftp://me:secret@example.com/", "ws://me:secret@example.com/"} {
		client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.EOF })}
		if e := dialFails(t, testContext(t), u, &Options{HTTPClient: client}); strings.Contains(e.Error(), "secret") {
			t.Error(e)
		}
	}
}

// A17, A19: options that cannot be used are an error before anything is dialed.
func TestClient_OptionsOutOfRange(t *testing.T) {
	for _, tt := range append(badOptions, []struct {
		name string
		opts Options
	}{
		{"R42 CR LF in a value", Options{Header: http.Header{"X": {"a\r\nY: b"}}}},
		{"R42 CR LF in the host", Options{Header: http.Header{"Host": {"a\r\nY: b"}}}},
		{"R42 LF in a name", Options{Header: http.Header{"X\nY": {"a"}}}},
		{"R42 NUL in a subprotocol", Options{Subprotocols: []string{"a\x00"}}},
	}...) {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.HTTPClient = noDial(t)
			dialFails(t, testContext(t), "ws://example.com/", &tt.opts)
		})
	}
}

// A3, A4, A6, A11-A16: the request, byte for byte.
func TestClient_HandshakeRequest(t *testing.T) {
	for _, tt := range []struct {
		name, url string
		opts      Options
		target    string
		host      string
		fields    []string // beside those that every request has
	}{
		{"A1 ws", "ws://{addr}/chat", Options{}, "/chat", "{addr}", nil},
		{"A1 http", "http://{addr}/chat", Options{}, "/chat", "{addr}", nil},
		{"A1 WS", "WS://{addr}/chat", Options{}, "/chat", "{addr}", nil},
		{"A4 no path", "ws://{addr}", Options{}, "/", "{addr}", nil},
		{"A4 no path but a query", "ws://{addr}?a=b", Options{}, "/?a=b", "{addr}", nil},
		{"A4 query", "ws://{addr}/a%2Fb/?q=%C3%A4&&x==+%zz?/", Options{}, "/a%2Fb/?q=%C3%A4&&x==+%zz?/", "{addr}", nil},
		{"A4 query with bytes of no URL", "ws://{addr}/\u00e4 ?q=\u00e4 b", Options{}, "/%C3%A4%20?q=%C3%A4%20b", "{addr}", nil},
		{"A3 default port", "ws://example.com:80/", Options{}, "/", "example.com", nil},
		{"A3 no port", "ws://example.com/", Options{}, "/", "example.com", nil},
		{"A3 empty port", "ws://example.com:/", Options{}, "/", "example.com", nil},
		{"A3 port of wss", "ws://example.com:443/", Options{}, "/", "example.com:443", nil},
		{"A3 IPv6 address", "ws://[::1]:80/", Options{}, "/", "[::1]", nil},
		{"A5 host in punycode", "ws://B\u00dcCHER.example:81/", Options{}, "/", "xn--bcher-kva.example:81", nil},
		{"A6 user and password", "ws://user:p%20w@example.com/", Options{}, "/", "example.com", []string{"Authorization: Basic dXNlcjpwIHc="}},
		{"A12 host of the options", "ws://{addr}/", Options{Header: http.Header{"Host": {"other.example"}}}, "/", "other.example", nil},
		{"A15 origin of the options", "ws://{addr}/", Options{Header: http.Header{"Origin": {"http://a"}}}, "/", "{addr}", []string{"Origin: http://a"}},
		{"A17 subprotocols", "ws://{addr}/", Options{Subprotocols: []string{"b", "a"}}, "/", "{addr}", []string{"Sec-WebSocket-Protocol: b, a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := make(chan string, 1)
			addr := listen(t, func(nc net.Conn) { requests <- answerWith(nc, goodResponse) }).String()
			tt.opts.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr)
			}}}
			c, err := Dial(testContext(t), strings.Replace(tt.url, "{addr}", addr, 1), &tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			host := strings.Replace(tt.host, "{addr}", addr, 1)
			checkRequest(t, <-requests, "GET "+tt.target+" HTTP/1.1", append(tt.fields, "Host: "+host))
		})
	}
}

// checkRequest checks the lines of a request: those given, those of every handshake, and no others.
func checkRequest(t *testing.T, request, first string, fields []string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(request, "\r\n\r\n"), "\r\n")
	if lines[0] != first {
		t.Errorf("it begins with %q, want %q", lines[0], first)
	}
	want := map[string]bool{"Upgrade: websocket": true, "Connection: Upgrade": true, "Sec-WebSocket-Version: 13": true, "User-Agent: Go-http-client/1.1": true}
	for _, f := range fields {
		want[f] = true
	}
	for _, line := range lines[1:] {
		if key, ok := strings.CutPrefix(line, "Sec-WebSocket-Key: "); ok {
			if !isKey(key) {
				t.Errorf("A14: the key is %q", key)
			}
		} else if !want[line] {
			t.Errorf("it has, once too often, %q", line)
		}
		delete(want, line)
	}
	for line := range want {
		t.Errorf("it lacks %q", line)
	}
}

// A roundTripper is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A14, R45: a new key for each connection.
func TestClient_HandshakeKeysDiffer(t *testing.T) {
	seen := make(map[string]bool)
	client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		key := r.Header.Get("Sec-WebSocket-Key")
		if seen[key] || !isKey(key) {
			t.Errorf("the key %q", key)
		}
		seen[key] = true
		return nil, io.EOF
	})}
	for range 10000 {
		dialFails(t, context.Background(), "ws://example.com/", &Options{HTTPClient: client})
	}
}

// A20-A27, A118. R48: the accept key is no secret, and compared like any other string.
func TestClient_HandshakeResponse(t *testing.T) {
	const head = "HTTP/1.1 101 Switching Protocols\r\n"
	const upgrade, connection, accept = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n", "Sec-WebSocket-Accept: {accept}\r\n"
	protocols := &Options{Subprotocols: []string{"a", "b"}}
	deflate := &Options{Compression: &Compression{}}
	for _, tt := range []struct {
		name     string
		opts     *Options
		response string
		protocol string
		fails    bool
	}{
		{"good", nil, head + upgrade + connection + accept + "\r\n", "", false},
		{"other reason", nil, "HTTP/1.1 101 Web Socket Protocol Handshake\r\n" + upgrade + connection + accept + "\r\n", "", false},
		{"behind 103 and 100", nil, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + goodResponse, "", false},
		{"other fields", nil, head + "Server: x\r\nDate: y\r\n" + upgrade + connection + accept + "\r\n", "", false},

		{"A20 200", nil, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "", true},
		{"A20 401", nil, "HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Basic\r\n\r\n", "", true},
		{"A20 R47 302", nil, "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "", true},
		{"A20 404 with the fields of a 101", nil, "HTTP/1.1 404 Not Found\r\n" + upgrade + connection + accept + "\r\n", "", true},
		{"A21 no Upgrade", nil, head + connection + accept + "\r\n", "", true},
		{"A21 another Upgrade", nil, head + "Upgrade: h2c\r\n" + connection + accept + "\r\n", "", true},
		{"A21 Upgrade to a list", nil, head + "Upgrade: websocket, h2c\r\n" + connection + accept + "\r\n", "", true},
		{"A21 Upgrade twice", nil, head + upgrade + upgrade + connection + accept + "\r\n", "", true},
		{"A21 Upgrade with U+017F", nil, head + "Upgrade: web\u017focket\r\n" + connection + accept + "\r\n", "", true},
		{"A21 Upgrade in other case", nil, head + "Upgrade: WEBSOCKET\r\n" + connection + accept + "\r\n", "", false},
		{"A22 no Connection", nil, head + upgrade + accept + "\r\n", "", true},
		{"A22 another Connection", nil, head + upgrade + "Connection: keep-alive\r\n" + accept + "\r\n", "", true},
		{"A22 Connection as a list", nil, head + upgrade + "Connection: keep-alive, UPGRADE\r\n" + accept + "\r\n", "", false},
		{"A23 no accept", nil, head + upgrade + connection + "\r\n", "", true},
		{"A23 wrong accept", nil, head + upgrade + connection + "Sec-WebSocket-Accept: " + goodAccept + "\r\n\r\n", "", true},
		{"A23 accept with more behind it", nil, head + upgrade + connection + "Sec-WebSocket-Accept: {accept}x\r\n\r\n", "", true},
		{"A27 accept twice", nil, head + upgrade + connection + accept + accept + "\r\n", "", true},
		{"A23 accept between spaces", nil, head + upgrade + connection + "Sec-WebSocket-Accept: \t {accept} \r\n\r\n", "", false},
		{"A24 extension that was not offered", nil, head + upgrade + connection + accept + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "", true},
		{"A24 another extension than offered", deflate, head + upgrade + connection + accept + "Sec-WebSocket-Extensions: x\r\n\r\n", "", true},
		{"A24 one extension more than offered", deflate, head + upgrade + connection + accept + "Sec-WebSocket-Extensions: permessage-deflate, x\r\n\r\n", "", true},
		{"A113 malformed extensions", deflate, head + upgrade + connection + accept + "Sec-WebSocket-Extensions: permessage-deflate;\r\n\r\n", "", true},
		{"A113 empty extensions", deflate, head + upgrade + connection + accept + "Sec-WebSocket-Extensions:\r\n\r\n", "", true},
		{"A27 extensions twice", deflate, head + upgrade + connection + accept + "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Extensions: x\r\n\r\n", "", true},
		{"A24 extension that was offered", deflate, head + upgrade + connection + accept + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n", "", false},
		{"A24 no extension", deflate, goodResponse, "", false},
		{"A25 protocol without an offer", nil, head + upgrade + connection + accept + "Sec-WebSocket-Protocol: a\r\n\r\n", "", true},
		{"A25 protocol that was not offered", protocols, head + upgrade + connection + accept + "Sec-WebSocket-Protocol: c\r\n\r\n", "", true},
		{"A25 protocol in other case", protocols, head + upgrade + connection + accept + "Sec-WebSocket-Protocol: A\r\n\r\n", "", true},
		{"A25 empty protocol", protocols, head + upgrade + connection + accept + "Sec-WebSocket-Protocol:\r\n\r\n", "", true},
		{"A25 two protocols", protocols, head + upgrade + connection + accept + "Sec-WebSocket-Protocol: a, b\r\n\r\n", "", true},
		{"A27 protocol twice", protocols, head + upgrade + connection + accept + "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n\r\n", "", true},
		{"A25 protocol that was offered", protocols, head + upgrade + connection + accept + "Sec-WebSocket-Protocol: b\r\n\r\n", "b", false},
		{"A26 no protocol", protocols, goodResponse, "", false},
		{"A27 HTTP 1.0", nil, "HTTP/1.0 101 Switching Protocols\r\n" + upgrade + connection + accept + "\r\n", "", true},
		{"A27 not HTTP", nil, "SSH-2.0-OpenSSH_9.6\r\n", "", true},
		{"A27 malformed field", nil, head + upgrade + connection + accept + "a b c\r\n\r\n", "", true},
		{"A102 nothing", nil, "", "", true},
		{"A102 half a header", nil, head + upgrade, "", true},
		{"R33 R34 endless header", nil, head + strings.Repeat("X-Field: value\r\n", 10000), "", true},
		{"R33 R34 endless line", nil, head + "X-Field: " + strings.Repeat("x", 100<<10), "", true},
		{"R34 endless 103", nil, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10000), "", true},
		{"R34 header below the limit", nil, head + "X-Field: " + strings.Repeat("x", 60<<10) + "\r\n" + upgrade + connection + accept + "\r\n", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := listen(t, func(nc net.Conn) {
				answerWith(nc, tt.response)
				nc.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, nc)
			})
			c, err := Dial(testContext(t), "ws://"+addr.String(), tt.opts)
			var e *HandshakeError
			switch {
			case err == nil && tt.fails:
				t.Error("dialed")
			case err != nil && (!tt.fails || !errors.As(err, &e) || c != nil):
				t.Error(err)
			case err == nil && c.Subprotocol() != tt.protocol:
				t.Errorf("subprotocol %q, want %q", c.Subprotocol(), tt.protocol)
			}
			if c != nil {
				c.CloseNow()
			}
		})
	}
}

// A20, A28: what the server said is in the error; of a body the first 4 KiB, and within a bounded time.
func TestClient_HandshakeErrorHasTheResponse(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tt := range []struct {
		name, response string
		status         int
		field, value   string
		body           string
	}{
		{"A28 versions", "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8, 7\r\nContent-Length: 0\r\n\r\n", 426, "Sec-WebSocket-Version", "8, 7", ""},
		{"A20 body", "HTTP/1.1 403 Forbidden\r\nX: y\r\nContent-Length: 4\r\n\r\nno!\n", 403, "X", "y", "no!\n"},
		{"A20 long body", "HTTP/1.1 500 Oops\r\nContent-Length: 5000\r\n\r\n" + long, 500, "Content-Length", "5000", long[:4096]},
		{"A20 body in chunks", "HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 500, "X", "", "abc"},
		{"A20 body that never ends", "HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nabc", 500, "X", "", "abc"},
		{"A23 a 101 that is none", "HTTP/1.1 101 Switching\r\nX: y\r\n\r\nabc", 101, "X", "y", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := listen(t, func(nc net.Conn) {
				answerWith(nc, tt.response)
				io.Copy(io.Discard, nc)
			})
			e := dialFails(t, testContext(t), "ws://"+addr.String(), nil)
			if e.StatusCode != tt.status || e.Header.Get(tt.field) != tt.value || string(e.Body) != tt.body {
				t.Errorf("%#v", e)
			}
		})
	}
}

// A102: the connection is lost behind every byte of the response.
func TestClient_HandshakeLostAtEveryByte(t *testing.T) {
	whole := strings.Replace(goodResponse, "{accept}", goodAccept, 1) // as long as that of any key
	for n := range len(whole) {
		addr := listen(t, func(nc net.Conn) {
			server, client := net.Pipe()
			go answerWith(server, goodResponse)
			go io.Copy(client, nc)
			io.CopyN(nc, client, int64(n))
			client.Close()
			server.Close()
		})
		if e := dialFails(t, testContext(t), "ws://"+addr.String(), nil); !errors.Is(e, io.ErrUnexpectedEOF) {
			t.Errorf("behind %d bytes: %v", n, e)
		}
	}
}

// A18: nothing is sent behind the request until the server has answered.
func TestClient_HandshakeWaitsForTheResponse(t *testing.T) {
	asked, got := make(chan bool), make(chan string, 1)
	addr := listen(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		asked <- true
		nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err = br.ReadByte()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			got <- fmt.Sprint("a byte before the response, or ", err)
			return
		}
		got <- ""
		nc.SetReadDeadline(time.Time{})
		io.WriteString(nc, strings.Replace(goodResponse, "{accept}", string(appendAcceptKey(nil, req.Header.Get("Sec-WebSocket-Key"))), 1))
		io.Copy(io.Discard, br)
	})
	go func() { <-asked }()
	c, err := Dial(testContext(t), "ws://"+addr.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if s := <-got; s != "" {
		t.Error(s)
	}
}

// What the server sends behind its response is read as the first frames.
func TestClient_HandshakeKeepsWhatCameBehind(t *testing.T) {
	for _, n := range []int{1, 3, 2000} {
		addr := listen(t, func(nc net.Conn) {
			answerWith(nc, goodResponse+strings.Repeat("\x81\x05hello", n))
			io.Copy(io.Discard, nc)
		})
		for name, client := range map[string]*http.Client{
			"direct":                  nil,
			"over a RoundTripper":     {Transport: roundTripper(plainTransport(t).RoundTrip)},
			"over a body that hides":  {Transport: hiding(t)},
			"over TLS-capable client": {Transport: &http.Transport{ForceAttemptHTTP2: true}},
		} {
			c, err := Dial(testContext(t), "ws://"+addr.String(), &Options{HTTPClient: client})
			if err != nil {
				t.Fatal(name, err)
			}
			for i := range n {
				if _, p, err := c.Read(testContext(t)); err != nil || string(p) != "hello" {
					t.Fatalf("%s: message %d of %d is %q, %v", name, i, n, p, err)
				}
			}
			c.CloseNow()
		}
	}
}

// R34: a silent server is waited for as long as the Transport says.
func TestClient_ResponseHeaderTimeout(t *testing.T) {
	addr := listen(t, func(nc net.Conn) { io.Copy(io.Discard, nc) }).String()
	client := &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 50 * time.Millisecond}}
	if e := dialFails(t, testContext(t), "ws://"+addr, &Options{HTTPClient: client}); !errors.Is(e, os.ErrDeadlineExceeded) {
		t.Error(e)
	}
}

// R34: the Transport's limit replaces that of 64 KiB, in both directions.
func TestClient_MaxResponseHeaderBytes(t *testing.T) {
	addr := listen(t, func(nc net.Conn) {
		answerWith(nc, strings.Replace(goodResponse, "\r\n", "\r\nX: "+strings.Repeat("x", 100<<10)+"\r\n", 1))
		io.Copy(io.Discard, nc)
	}).String()
	for limit, ok := range map[int64]bool{0: false, 100 << 10: false, 101 << 10: true} {
		c, err := Dial(testContext(t), "ws://"+addr, &Options{HTTPClient: &http.Client{Transport: &http.Transport{MaxResponseHeaderBytes: limit}}})
		if (err == nil) != ok {
			t.Errorf("with the limit %d: %v", limit, err)
		}
		if c != nil {
			c.CloseNow()
		}
	}
}

// A9: no connection.
func TestClient_NobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	e := dialFails(t, testContext(t), "ws://"+l.Addr().String(), nil)
	var op *net.OpError
	if !errors.As(e, &op) {
		t.Errorf("the cause of %v is hidden", e)
	}
}

// A10, R46: the certificate is checked, and the server is told the name.
func TestClient_TLS(t *testing.T) {
	good := startTLS(t, Handler(nil, echoMessages))
	pool := good.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs // knows example.com and 127.0.0.1
	names := make(chan string, 10)
	good.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		if len(h.SupportedProtos) != 1 || h.SupportedProtos[0] != "http/1.1" {
			t.Errorf("D5: ALPN offers %q", h.SupportedProtos)
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
		{"A10 trusted, by name", "example.com", &tls.Config{RootCAs: pool}, "example.com", true},
		{"A10 trusted, by address", "127.0.0.1", &tls.Config{RootCAs: pool}, "", true},
		{"A10 not checked, as the caller says", "evil.example", &tls.Config{InsecureSkipVerify: true}, "evil.example", true},
		{"A10 checked for the caller's name", "evil.example", &tls.Config{RootCAs: pool, ServerName: "example.com"}, "example.com", true},
		{"R46 another name", "evil.example", &tls.Config{RootCAs: pool}, "evil.example", false},
		{"R46 unknown authority", "example.com", nil, "example.com", false},
		{"R46 expired", "example.com", &tls.Config{RootCAs: pool, Time: later}, "example.com", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: tt.cfg, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, good.Listener.Addr().String())
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
