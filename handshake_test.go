package websocket

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// goodRequest is the example of RFC 6455, section 1.2.
const goodRequest = "GET /chat?x=1 HTTP/1.1\r\n" +
	"Host: server.example.com\r\n" +
	"Upgrade: websocket\r\n" +
	"Connection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Origin: http://server.example.com\r\n" +
	"Sec-WebSocket-Protocol: chat, superchat\r\n" +
	"Sec-WebSocket-Version: 13\r\n\r\n"

const goodAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

// edited replaces a part of goodRequest.
func edited(t *testing.T, old, new string) string {
	t.Helper()
	if !strings.Contains(goodRequest, old) {
		t.Fatalf("%q is not in the request", old)
	}
	return strings.Replace(goodRequest, old, new, 1)
}

// upgrading is a handler that upgrades and leaves the connection to be closed by its client.
func upgrading(t *testing.T, opts *Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Upgrade(w, r, opts)
		checkRefused(t, c, err)
		if err == nil {
			c.Read(context.Background())
			c.CloseNow()
		}
	})
}

// checkRefused checks that Upgrade returned a connection, or an error that says what was answered.
func checkRefused(t *testing.T, c *Conn, err error) {
	if err == nil {
		return
	}
	var e *HandshakeError
	if c != nil || !errors.As(err, &e) || e.StatusCode < 400 || e.Reason == "" {
		t.Errorf("Upgrade returned %v, %v", c, err)
	}
}

// ask sends raw bytes to the server and returns the response to them, with the connection.
func ask(t *testing.T, s *httptest.Server, raw string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	return askAt(t, s.Listener.Addr(), raw)
}

func askAt(t *testing.T, addr net.Addr, raw string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(nc, raw); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp, nc, br
}

// The part of a request that a case replaces.
const (
	inMethod     = "GET"
	inProto      = "HTTP/1.1"
	inHost       = "Host: server.example.com\r\n"
	inUpgrade    = "Upgrade: websocket\r\n"
	inConnection = "Connection: Upgrade\r\n"
	inKey        = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	inOrigin     = "Origin: http://server.example.com\r\n"
	inProtocol   = "Sec-WebSocket-Protocol: chat, superchat\r\n"
	inVersion    = "Sec-WebSocket-Version: 13\r\n"
)

func TestServer_HandshakeRequest(t *testing.T) {
	s := httptest.NewServer(upgrading(t, nil))
	defer s.Close()
	servers := map[string]net.Addr{"Upgrade": s.Listener.Addr(), "Serve": startServe(t, nil, echoMessages)}
	for _, tt := range []struct {
		name     string
		old, new string
		status   int
	}{
		{"A42 the example of the RFC", "", "", 101},

		{"A29 method POST", inMethod, "POST", 405},
		{"A29 method PUT", inMethod, "PUT", 405},
		{"A29 method OPTIONS", inMethod, "OPTIONS", 405},
		{"A29 method get", inMethod, "get", 405},
		{"A30 HTTP 1.0", inProto, "HTTP/1.0", 505},

		{"A31 no Host", inHost, "", 400},
		{"A31 empty Host", inHost, "Host:\r\n", 400},
		{"A31 Host with a port", inHost + inUpgrade, "Host: server.example.com:80\r\n" + inUpgrade, 101},

		{"A32 no Upgrade", inUpgrade, "", 426},
		{"A32 empty Upgrade", inUpgrade, "Upgrade:\r\n", 426},
		{"A32 Upgrade to another protocol", inUpgrade, "Upgrade: h2c\r\n", 426},
		{"A32 R40 Upgrade to a longer name", inUpgrade, "Upgrade: websocket2\r\n", 426},
		{"A32 R40 Upgrade to a list", inUpgrade, "Upgrade: h2c, websocket\r\n", 101},
		{"A33 Upgrade in other case", inUpgrade, "Upgrade: WebSocket\r\n", 101},
		{"A33 Upgrade with U+017F", inUpgrade, "Upgrade: web\u017focket\r\n", 426},
		{"A33 Upgrade with U+212A", inUpgrade, "Upgrade: websoc\u212aet\r\n", 426},

		{"A34 no Connection", inConnection, "", 400},
		{"A34 Connection without the token", inConnection, "Connection: keep-alive\r\n", 400},
		{"A34 R40 Connection with a longer token", inConnection, "Connection: upgraded, no-upgrade\r\n", 400},
		{"A34 Connection with a parameter", inConnection, "Connection: upgrade;q=1\r\n", 400},
		{"A34 Connection in other case", inConnection, "Connection: uPGRADE\r\n", 101},
		{"A34 Connection as a list", inConnection, "Connection: keep-alive,\tUpgrade \r\n", 101},
		{"A34 Connection in two fields", inConnection, "Connection: keep-alive\r\nConnection: Upgrade\r\n", 101},
		{"A34 R36 Connection with empty elements", inConnection, "Connection: ,, upgrade ,\r\n", 101},
		{"A34 R36 Connection of commas", inConnection, "Connection: ,,\r\n", 400},

		{"A35 no key", inKey, "", 400},
		{"A35 empty key", inKey, "Sec-WebSocket-Key:\r\n", 400},
		{"A35 R37 key of 15 bytes", inKey, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\r\n", 400},
		{"A35 R37 key of 17 bytes", inKey, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=\r\n", 400},
		{"A35 R37 key of 18 bytes", inKey, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA\r\n", 400},
		{"A35 key without padding", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n", 400},
		{"A35 key with a space", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZS Ub25jZQ==\r\n", 400},
		{"A35 key that is not base64", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZS-ub25jZQ==\r\n", 400},
		{"A35 key twice", inKey, inKey + inKey, 400},
		{"A35 keys in a list", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==\r\n", 400},
		{"A35 key between spaces", inKey, "Sec-WebSocket-Key: \t dGhlIHNhbXBsZSBub25jZQ== \r\n", 101},

		{"A36 no version", inVersion, "", 400},
		{"A36 empty version", inVersion, "Sec-WebSocket-Version:\r\n", 400},
		{"A36 R4 version 8", inVersion, "Sec-WebSocket-Version: 8\r\n", 426},
		{"A36 R4 version 0", inVersion, "Sec-WebSocket-Version: 0\r\n", 426},
		{"A36 version 255", inVersion, "Sec-WebSocket-Version: 255\r\n", 426},
		{"A36 version 256", inVersion, "Sec-WebSocket-Version: 256\r\n", 400},
		{"A36 version 013", inVersion, "Sec-WebSocket-Version: 013\r\n", 400},
		{"A36 version +13", inVersion, "Sec-WebSocket-Version: +13\r\n", 400},
		{"A36 versions in a list", inVersion, "Sec-WebSocket-Version: 13, 8\r\n", 400},
		{"A36 version twice", inVersion, inVersion + inVersion, 400},
		{"A36 version that is a word", inVersion, "Sec-WebSocket-Version: thirteen\r\n", 400},

		{"A37 no Origin", inOrigin, "", 101},
		{"A38 another Origin", inOrigin, "Origin: http://evil.example\r\n", 403},
		{"A38 Origin null", inOrigin, "Origin: null\r\n", 403},
		{"A38 empty Origin", inOrigin, "Origin:\r\n", 403},
		{"A38 two Origins", inOrigin, inOrigin + inOrigin, 403},
		{"A38 list of Origins", inOrigin, "Origin: http://server.example.com http://evil.example\r\n", 403},

		{"A39 no protocols", inProtocol, "", 101},
		{"A39 protocols with empty elements", inProtocol, "Sec-WebSocket-Protocol: , chat,,superchat,\r\n", 101},
		{"A39 R36 empty protocols", inProtocol, "Sec-WebSocket-Protocol:\r\n", 400},
		{"A39 R36 protocols of commas", inProtocol, "Sec-WebSocket-Protocol: ,,\r\n", 400},
		{"A39 protocol with a space", inProtocol, "Sec-WebSocket-Protocol: super chat\r\n", 400},
		{"A39 protocol with a separator", inProtocol, "Sec-WebSocket-Protocol: chat/2\r\n", 400},
		{"A39 protocol with a byte above ASCII", inProtocol, "Sec-WebSocket-Protocol: ch\u00e4t\r\n", 400},
		{"A39 A113 malformed extensions", inProtocol, "Sec-WebSocket-Extensions: ;\r\n", 400},
		{"A39 A113 unknown extensions", inProtocol, "Sec-WebSocket-Extensions: foo; bar=\"baz\", x-y\r\n", 101},

		{"A47 R39 Content-Length above 0", inOrigin, "Content-Length: 3\r\n", 400},
		{"A47 R39 Transfer-Encoding", inOrigin, "Transfer-Encoding: chunked\r\n", 400},
		{"A47 Content-Length 0", inOrigin, "Content-Length: 0\r\n", 101},
	} {
		for name, addr := range servers {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				resp, _, _ := askAt(t, addr, edited(t, tt.old, tt.new))
				if resp.StatusCode != tt.status {
					t.Fatalf("answered %s, want %d", resp.Status, tt.status)
				}
				accept := resp.Header.Values("Sec-WebSocket-Accept")
				if tt.status == 101 && !slices.Equal(accept, []string{goodAccept}) || tt.status != 101 && accept != nil {
					t.Errorf("A49: Sec-WebSocket-Accept is %q", accept)
				}
				checkRefusalHeader(t, resp)
				if v := resp.Header.Get("Sec-WebSocket-Version"); tt.status != 101 && strings.Contains(tt.old, inVersion) && v != "13" {
					t.Errorf("Sec-WebSocket-Version is %q, want 13", v)
				}
			})
		}
	}
}

// checkRefusalHeader checks the fields that belong to a status.
func checkRefusalHeader(t *testing.T, resp *http.Response) {
	t.Helper()
	var want map[string]string
	switch resp.StatusCode {
	case 405:
		want = map[string]string{"Allow": "GET"}
	case 426:
		want = map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-Websocket-Version": "13"}
	case 503:
		want = map[string]string{"Retry-After": "5"}
	}
	for name, value := range want {
		if name == "Connection" && resp.Close {
			continue // net/http removes the field that says close
		}
		if got := resp.Header.Get(name); got != value {
			t.Errorf("%d with %s: %q, want %q", resp.StatusCode, name, got, value)
		}
	}
}

// A42, A45: the response, byte for byte.
func TestServer_HandshakeResponse(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts Options
		set  http.Header
		old  string
		new  string
		want string
	}{
		{"A43 no protocol agreed on", Options{}, nil, "", "", ""},
		{"A43 the server's own first choice", Options{Subprotocols: []string{"v3", "superchat", "chat"}}, nil, "", "",
			"Sec-WebSocket-Protocol: superchat\r\n"},
		{"A43 protocols have case", Options{Subprotocols: []string{"Chat"}}, nil, "", "", ""},
		{"A46 protocols in two fields", Options{Subprotocols: []string{"superchat"}}, nil, "chat, superchat", "chat\r\nSec-WebSocket-Protocol: superchat",
			"Sec-WebSocket-Protocol: superchat\r\n"},
		{"A44 extension that was not offered", Options{Compression: &Compression{}}, nil, "", "", ""},
		{"A44 A112 extension that is off", Options{}, nil, inOrigin, "Sec-WebSocket-Extensions: permessage-deflate\r\n", ""},
		{"field of the options", Options{Header: http.Header{"X-One": {"1", "2"}}}, nil, "", "", "X-One: 1\r\nX-One: 2\r\n"},
		{"field set on w", Options{}, http.Header{"Set-Cookie": {"a=b"}}, "", "", "Set-Cookie: a=b\r\n"},
		{"A45 A49 fields of middleware that have no place there", Options{}, http.Header{
			"Content-Length": {"5"}, "Transfer-Encoding": {"chunked"}, "Connection": {"close"}, "Upgrade": {"h2c"},
			"Sec-Websocket-Accept": {"x"}, "Trailer": {"X"}, http.TrailerPrefix + "X": {"y"},
		}, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for name, values := range tt.set {
					w.Header()[name] = values
				}
				upgrading(t, &tt.opts).ServeHTTP(w, r)
			}))
			defer s.Close()
			want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
				goodAccept + "\r\n" + tt.want + "\r\n"
			if got := askBytes(t, s, edited(t, tt.old, tt.new), len(want)); got != want {
				t.Errorf("answered\n%q, want\n%q", got, want)
			}
		})
	}
}

// askBytes returns the first n bytes of the response, or fewer if there are no more after a moment.
func askBytes(t *testing.T, s *httptest.Server, raw string, n int) string {
	t.Helper()
	nc, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, raw)
	nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, n)
	m, _ := io.ReadFull(nc, b)
	return string(b[:m])
}

// A46, A114, R31: offers of all fields are one list in order, and the first acceptable one wins.
func TestServer_HandshakeExtensions(t *testing.T) {
	s := httptest.NewServer(upgrading(t, &Options{Compression: &Compression{}}))
	defer s.Close()
	for _, tt := range []struct{ name, value, want string }{
		{"A114 first acceptable offer", "permessage-deflate; server_max_window_bits=7, permessage-deflate; client_no_context_takeover", "permessage-deflate"},
		{"A46 offers in two fields", "foo\r\nSec-WebSocket-Extensions: permessage-deflate", "permessage-deflate"},
		{"A44 no acceptable offer", "permessage-deflate; x", ""},
		{"A44 R31 unknown extension", "x-webkit-deflate-frame, permessage-bzip2; a=1", ""},
		{"A113 B26 quoted value that is a token", `permessage-deflate; client_max_window_bits="10"`, "permessage-deflate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, _, _ := ask(t, s, edited(t, inOrigin, "Sec-WebSocket-Extensions: "+tt.value+"\r\n"))
			got := resp.Header.Values("Sec-WebSocket-Extensions")
			if resp.StatusCode != 101 || len(got) > 1 {
				t.Fatalf("answered %s with %q", resp.Status, got)
			}
			if name, _, _ := strings.Cut(strings.Join(got, ""), ";"); name != tt.want {
				t.Errorf("chose %q, want %q", got, tt.want)
			}
		})
	}
}

// A48: what comes behind the request is the first frames, in one segment with it or in many.
func TestServer_HandshakeKeepsWhatCameBehind(t *testing.T) {
	s := httptest.NewServer(Handler(nil, echoMessages))
	defer s.Close()
	frame := "\x82\x85\x00\x00\x00\x00hello"
	for _, n := range []int{1, 3, 1000} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			_, nc, br := ask(t, s, edited(t, inOrigin, "")+strings.Repeat(frame, n))
			want := strings.Repeat("\x82\x05hello", n)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
				t.Errorf("%v: got %.40q", err, got)
			}
			nc.Close()
		})
	}
}

func echoMessages(c *Conn, r *http.Request) {
	ctx := context.Background()
	for m, err := range c.Messages(ctx) {
		if err != nil || c.Write(ctx, m.Type, m.Data) != nil {
			return
		}
	}
}

// A49, R39: after a refusal the connection serves the next request, or is closed.
func TestServer_HandshakeRefusalLeavesHTTPWhole(t *testing.T) {
	s := httptest.NewServer(upgrading(t, nil))
	defer s.Close()
	for _, tt := range []struct {
		name, first string
		serves      bool
	}{
		{"without a body", edited(t, inVersion, ""), true},
		{"with a body", edited(t, inOrigin, "Content-Length: 3\r\n") + "abc", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, _, br := ask(t, s, tt.first+goodRequest)
			if resp.StatusCode != 400 || resp.Close == tt.serves {
				t.Fatal(resp.Status, resp.Header)
			}
			io.Copy(io.Discard, resp.Body)
			resp, err := http.ReadResponse(br, nil)
			if tt.serves && (err != nil || resp.StatusCode != 101) || !tt.serves && err == nil {
				t.Errorf("the next request was answered %v, %v", resp, err)
			}
		})
	}
}

// Where nothing can be hijacked the error names the type that hides the Hijacker.
func TestServer_HandshakeWithoutHijacker(t *testing.T) {
	w := httptest.NewRecorder()
	_, err := Upgrade(w, goodHTTPRequest(), nil)
	var e *HandshakeError
	if !errors.As(err, &e) || e.StatusCode != 500 || !strings.Contains(e.Reason, "*httptest.ResponseRecorder") {
		t.Errorf("Upgrade returned %v and answered %d", err, w.Code)
	}
	if !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("the cause of %v is hidden", err)
	}
}

// A server's mistake is its own business: the peer learns no type, option or value, and the caller of Upgrade all.
func TestServer_HandshakeFailsWithoutDetailsForThePeer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   *Options
		set    http.Header
		detail string
	}{
		{"no Hijacker", nil, nil, "httptest.ResponseRecorder"},
		{"a subprotocol", &Options{Subprotocols: []string{"s3cret text"}}, nil, "s3cret text"},
		{"an origin", &Options{Origins: []string{"https://s3cret/"}}, nil, "s3cret"},
		{"compression", &Options{Compression: &Compression{Level: 77}}, nil, "77"},
		{"a field set on w", nil, http.Header{"X-S3cret": {"a\x00"}}, "X-S3cret"},
		{"a field set on w without canonical case", nil, http.Header{"x-s3cret": {"a\x00"}}, "x-s3cret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			for name, values := range tt.set {
				w.Header()[name] = values
			}
			_, err := Upgrade(w, goodHTTPRequest(), tt.opts)
			var e *HandshakeError
			if !errors.As(err, &e) || e.StatusCode != 500 || !strings.Contains(e.Reason, tt.detail) {
				t.Errorf("Upgrade returned %v", err)
			}
			if got, want := w.Body.String(), "the server failed to open the WebSocket connection\n"; w.Code != 500 || got != want {
				t.Errorf("answered %d %q, want %q", w.Code, got, want)
			}
			for name := range tt.set {
				if w.Header()[name] != nil {
					t.Errorf("answered with %v", w.Header())
				}
			}
		})
	}
}

func goodHTTPRequest() *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(goodRequest)))
	if err != nil {
		panic(err)
	}
	return r
}

// A wrapped is the ResponseWriter of a middleware.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestServer_HandshakeUnderMiddleware(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrading(t, nil).ServeHTTP(wrapped{wrapped{w}}, r)
	}))
	defer s.Close()
	if resp, _, _ := ask(t, s, goodRequest); resp.StatusCode != 101 {
		t.Error(resp.Status)
	}
}

// A40, A41, A119, R41: Upgrade is a handler's last step. What stands before it answers as it likes.
func TestServer_HandshakeBehindRouterAndAuthentication(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/chat", func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("session"); err != nil || c.Value != "42" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		upgrading(t, nil).ServeHTTP(w, r)
	})
	mux.Handle("/old", http.RedirectHandler("/chat", http.StatusFound))
	s := httptest.NewServer(mux)
	defer s.Close()
	for _, tt := range []struct {
		name, old, new string
		status         int
	}{
		{"A40 not found", "/chat", "/elsewhere", 404},
		{"A41 redirect", "/chat", "/old", 302},
		{"A41 A119 without a cookie", "", "", 401},
		{"A119 with the cookie", inOrigin, inOrigin + "Cookie: session=42\r\n", 101},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if resp, _, _ := ask(t, s, edited(t, tt.old, tt.new)); resp.StatusCode != tt.status {
				t.Errorf("answered %s, want %d", resp.Status, tt.status)
			}
		})
	}
}

// R32: a request with very many header fields is answered.
func TestServer_HandshakeWithThousandsOfFields(t *testing.T) {
	s := httptest.NewServer(upgrading(t, nil))
	defer s.Close()
	for _, tt := range []struct {
		fields int
		status []int
	}{{2000, []int{101}}, {200000, []int{400, 431}}} {
		t.Run(strconv.Itoa(tt.fields), func(t *testing.T) {
			raw := edited(t, inOrigin, strings.Repeat("X-Field: value\r\n", tt.fields))
			nc, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			go io.WriteString(nc, raw) // the server may answer before it has read all
			nc.SetReadDeadline(time.Now().Add(10 * time.Second))
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil || !slices.Contains(tt.status, resp.StatusCode) {
				t.Errorf("answered %v, %v", resp, err)
			}
		})
	}
}

// R42: nothing that a field may not hold is sent, by Upgrade's options or by the response's header.
func TestServer_HandshakeRefusesControlCharacters(t *testing.T) {
	for _, value := range []string{"a\r\nX-Evil: 1", "a\rb", "a\nb", "a\x00b", "a\x7fb"} {
		for _, tt := range []struct {
			name string
			opts *Options
			set  http.Header
		}{
			{"value of the options", &Options{Header: http.Header{"X": {value}}}, nil},
			{"name of the options", &Options{Header: http.Header{value: {"x"}}}, nil},
			{"subprotocol of the options", &Options{Subprotocols: []string{value}}, nil},
			{"value set on w", nil, http.Header{"X": {value}}},
		} {
			t.Run(tt.name+strconv.Quote(value), func(t *testing.T) {
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for name, values := range tt.set {
						w.Header()[name] = values
					}
					upgrading(t, tt.opts).ServeHTTP(w, r)
				}))
				defer s.Close()
				if resp, _, _ := ask(t, s, goodRequest); resp.StatusCode != 500 || resp.Header["X-Evil"] != nil {
					t.Errorf("answered %s, %v", resp.Status, resp.Header)
				}
			})
		}
	}
}

func TestServer_HandshakeOptionsOutOfRange(t *testing.T) {
	for _, tt := range badOptions {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(upgrading(t, &tt.opts))
			defer s.Close()
			if resp, _, _ := ask(t, s, goodRequest); resp.StatusCode != 500 {
				t.Errorf("answered %s, want 500", resp.Status)
			}
		})
	}
}

// badOptions are an error of Upgrade, Dial and Pipe.
var badOptions = []struct {
	name string
	opts Options
}{
	{"Level", Options{Compression: &Compression{Level: 10}}},
	{"WindowBits", Options{Compression: &Compression{WindowBits: 7}}},
	{"origin pattern", Options{Origins: []string{"http://a b"}}},
	{"A17 subprotocol with a space", Options{Subprotocols: []string{"a b"}}},
	{"A17 empty subprotocol", Options{Subprotocols: []string{""}}},
	{"A17 subprotocol twice", Options{Subprotocols: []string{"a", "b", "a"}}},
	{"A19 field of the handshake", Options{Header: http.Header{"Sec-WebSocket-Key": {"x"}}}},
	{"A19 field of the handshake in other case", Options{Header: http.Header{"connection": {"close"}}}},
	{"A19 Upgrade", Options{Header: http.Header{"Upgrade": {"h2c"}}}},
	{"A19 Content-Length", Options{Header: http.Header{"Content-Length": {"3"}}}},
	{"Host that is none", Options{Header: http.Header{"Host": {"a/b"}}}},
	{"two Hosts", Options{Header: http.Header{"Host": {"a", "b"}}}},
	{"CloseTimeout", Options{CloseTimeout: -1}},
	{"MaxPending", Options{MaxPending: -1}},
}

func TestServer_HandshakeIntoGroup(t *testing.T) {
	var g Group
	members := make(chan int, 1)
	s := httptest.NewServer(Handler(&Options{Group: &g}, func(c *Conn, r *http.Request) {
		members <- g.Len()
		c.Read(context.Background())
	}))
	defer s.Close()
	if resp, _, _ := ask(t, s, goodRequest); resp.StatusCode != 101 {
		t.Fatalf("answered %s", resp.Status)
	}
	if n := <-members; n != 1 {
		t.Fatalf("the group has %d", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	g.Shutdown(ctx, StatusGoingAway, "")
	resp, _, _ := ask(t, s, goodRequest)
	if resp.StatusCode != 503 {
		t.Errorf("answered %s after Shutdown", resp.Status)
	}
	checkRefusalHeader(t, resp)
}

func TestPipe_PanicsOnOptionsOutOfRange(t *testing.T) {
	for _, tt := range badOptions {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("Pipe returned")
				}
			}()
			Pipe(nil, &tt.opts)
		})
	}
}

func TestPipe_Negotiates(t *testing.T) {
	on := &Compression{ContextTakeover: true}
	for _, tt := range []struct {
		name           string
		server, client *Options
		protocol       string
		compressed     bool
	}{
		{"nothing", nil, nil, "", false},
		{"a subprotocol", &Options{Subprotocols: []string{"b", "a"}}, &Options{Subprotocols: []string{"a", "b"}}, "b", false},
		{"compression", &Options{Compression: on}, &Options{Compression: on}, "", true},
		{"compression at one end", &Options{Compression: on}, nil, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, c := Pipe(tt.server, tt.client)
			defer s.CloseNow()
			defer c.CloseNow()
			if s.Subprotocol() != tt.protocol || c.Subprotocol() != tt.protocol {
				t.Errorf("subprotocols %q and %q", s.Subprotocol(), c.Subprotocol())
			}
			if (s.agreed.deflate != nil) != tt.compressed || (c.agreed.deflate != nil) != tt.compressed {
				t.Errorf("compression %v and %v", s.agreed.deflate, c.agreed.deflate)
			}
		})
	}
}
