package websocket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// goodRequest is the example of RFC 6455, section 1.2.
const goodRequest = "GET /chat?x=1 HTTP/1.1\r\n" + inHost + inUpgrade + inConnection + inKey + inOrigin + inProtocol + inVersion + "\r\n"

// The parts of goodRequest that a test replaces.
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

const goodAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

// edited replaces a part of goodRequest.
func edited(t *testing.T, old, new string) string {
	t.Helper()
	if !strings.Contains(goodRequest, old) {
		t.Fatalf("%q is not in the request", old)
	}
	return strings.Replace(goodRequest, old, new, 1)
}

func goodHTTPRequest() *http.Request { return httpRequest(goodRequest) }

func httpRequest(raw string) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		panic(err)
	}
	return r
}

// upgrading returns a handler that upgrades and waits until the client closes.
func upgrading(t *testing.T, opts *Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Upgrade(w, r, opts)
		if err == nil {
			c.Read(context.Background())
			c.CloseNow()
			return
		}
		var e *HandshakeError
		if c != nil || !errors.As(err, &e) || e.StatusCode < 400 || e.Reason == "" {
			t.Errorf("Upgrade returned %v, %v", c, err)
		}
	})
}

// ask sends bytes to the server and returns the response and the connection.
func ask(t *testing.T, s *httptest.Server, raw string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	return askAt(t, s.Listener.Addr(), raw)
}

func askAt(t *testing.T, addr net.Addr, raw string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", addr.String())
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(nc, raw) // the server may answer before it has read everything
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, nil)
	must(t, err)
	return resp, nc, br
}

// wantRefusal checks that err is a *HandshakeError with that status and returns it.
func wantRefusal(t *testing.T, err error, status int) *HandshakeError {
	t.Helper()
	var e *HandshakeError
	if !errors.As(err, &e) || e.StatusCode != status {
		t.Fatalf("%v, want a *HandshakeError with the status %d", err, status)
	}
	return e
}

// wantAnswer reads a response, which must have that status.
func wantAnswer(t *testing.T, r *bufio.Reader, status int) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != status {
		t.Fatalf("%v, %v, want status %d", resp, err, status)
	}
	return resp
}

// A hijacker is a ResponseWriter whose connection is nc.
type hijacker struct {
	http.ResponseWriter
	nc     net.Conn
	rw     *bufio.ReadWriter
	before func() // if not nil, called by Hijack
}

func hijackable(nc net.Conn) hijacker { return hijacker{httptest.NewRecorder(), nc, nil, nil} }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if h.before != nil {
		h.before()
	}
	return h.nc, h.rw, nil
}

// upgradePipe upgrades a request on a pipe and returns its other end.
func upgradePipe(t *testing.T, raw string, opts *Options, set http.Header) (*Conn, net.Conn) {
	t.Helper()
	w := httptest.NewRecorder()
	for name, values := range set {
		w.Header()[name] = values
	}
	near, far := memPipe()
	c, err := Upgrade(hijacker{w, near, nil, nil}, httpRequest(raw), opts)
	must(t, err)
	return c, far
}

func TestServer_Answers_EachRequest(t *testing.T) {
	s := httptest.NewServer(upgrading(t, nil))
	defer s.Close()
	servers := map[string]net.Addr{"Upgrade": s.Listener.Addr(), "Serve": startServe(t, nil, echoMessages)}
	for _, tt := range []struct {
		name     string
		old, new string
		status   int
	}{
		{"the example of the RFC", "", "", 101},

		{"method POST", inMethod, "POST", 405},
		{"method PUT", inMethod, "PUT", 405},
		{"method OPTIONS", inMethod, "OPTIONS", 405},
		{"method get", inMethod, "get", 405},
		{"HTTP 1.0", inProto, "HTTP/1.0", 505},

		{"no Host", inHost, "", 400},
		{"empty Host", inHost, "Host:\r\n", 400},
		{"Host with a port", inHost + inUpgrade, "Host: server.example.com:80\r\n" + inUpgrade, 101},

		{"no Upgrade", inUpgrade, "", 426},
		{"empty Upgrade", inUpgrade, "Upgrade:\r\n", 426},
		{"Upgrade to another protocol", inUpgrade, "Upgrade: h2c\r\n", 426},
		{"Upgrade to a longer name", inUpgrade, "Upgrade: websocket2\r\n", 426},
		{"Upgrade to a list", inUpgrade, "Upgrade: h2c, websocket\r\n", 101},
		{"Upgrade in other case", inUpgrade, "Upgrade: WebSocket\r\n", 101},
		{"Upgrade with U+017F", inUpgrade, "Upgrade: web\u017focket\r\n", 426},
		{"Upgrade with U+212A", inUpgrade, "Upgrade: websoc\u212aet\r\n", 426},

		{"no Connection", inConnection, "", 400},
		{"Connection without the token", inConnection, "Connection: keep-alive\r\n", 400},
		{"Connection with a longer token", inConnection, "Connection: upgraded, no-upgrade\r\n", 400},
		{"Connection with a parameter", inConnection, "Connection: upgrade;q=1\r\n", 400},
		{"Connection in other case", inConnection, "Connection: uPGRADE\r\n", 101},
		{"Connection as a list", inConnection, "Connection: keep-alive,\tUpgrade \r\n", 101},
		{"Connection in two fields", inConnection, "Connection: keep-alive\r\nConnection: Upgrade\r\n", 101},
		{"Connection with empty elements", inConnection, "Connection: ,, upgrade ,\r\n", 101},
		{"Connection of commas", inConnection, "Connection: ,,\r\n", 400},

		{"no key", inKey, "", 400},
		{"empty key", inKey, "Sec-WebSocket-Key:\r\n", 400},
		{"key of 15 bytes", inKey, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\r\n", 400},
		{"key of 17 bytes", inKey, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=\r\n", 400},
		{"key of 18 bytes", inKey, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA\r\n", 400},
		{"key without padding", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n", 400},
		{"key with a space", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZS Ub25jZQ==\r\n", 400},
		{"key that is not base64", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZS-ub25jZQ==\r\n", 400},
		{"key twice", inKey, inKey + inKey, 400},
		{"keys in a list", inKey, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==\r\n", 400},
		{"key between spaces", inKey, "Sec-WebSocket-Key: \t dGhlIHNhbXBsZSBub25jZQ== \r\n", 101},

		{"no version", inVersion, "", 400},
		{"empty version", inVersion, "Sec-WebSocket-Version:\r\n", 400},
		{"version 8", inVersion, "Sec-WebSocket-Version: 8\r\n", 426},
		{"version 0", inVersion, "Sec-WebSocket-Version: 0\r\n", 426},
		{"version 255", inVersion, "Sec-WebSocket-Version: 255\r\n", 426},
		{"version 256", inVersion, "Sec-WebSocket-Version: 256\r\n", 400},
		{"version 013", inVersion, "Sec-WebSocket-Version: 013\r\n", 400},
		{"version +13", inVersion, "Sec-WebSocket-Version: +13\r\n", 400},
		{"versions in a list", inVersion, "Sec-WebSocket-Version: 13, 8\r\n", 400},
		{"version twice", inVersion, inVersion + inVersion, 400},
		{"version that is a word", inVersion, "Sec-WebSocket-Version: thirteen\r\n", 400},

		{"no Origin", inOrigin, "", 101},
		{"another Origin", inOrigin, "Origin: http://evil.example\r\n", 403},
		{"Origin null", inOrigin, "Origin: null\r\n", 403},
		{"empty Origin", inOrigin, "Origin:\r\n", 403},
		{"two Origins", inOrigin, inOrigin + inOrigin, 403},
		{"list of Origins", inOrigin, "Origin: http://server.example.com http://evil.example\r\n", 403},

		{"no protocols", inProtocol, "", 101},
		{"protocols with empty elements", inProtocol, "Sec-WebSocket-Protocol: , chat,,superchat,\r\n", 101},
		{"empty protocols", inProtocol, "Sec-WebSocket-Protocol:\r\n", 400},
		{"protocols of commas", inProtocol, "Sec-WebSocket-Protocol: ,,\r\n", 400},
		{"protocol with a space", inProtocol, "Sec-WebSocket-Protocol: super chat\r\n", 400},
		{"protocol with a separator", inProtocol, "Sec-WebSocket-Protocol: chat/2\r\n", 400},
		{"protocol with a byte above ASCII", inProtocol, "Sec-WebSocket-Protocol: ch\u00e4t\r\n", 400},
		{"malformed extensions", inProtocol, "Sec-WebSocket-Extensions: ;\r\n", 400},
		{"unknown extensions", inProtocol, "Sec-WebSocket-Extensions: foo; bar=\"baz\", x-y\r\n", 101},

		{"Content-Length above 0", inOrigin, "Content-Length: 3\r\n", 400},
		{"Transfer-Encoding", inOrigin, "Transfer-Encoding: chunked\r\n", 400},
		{"Content-Length 0", inOrigin, "Content-Length: 0\r\n", 101},
	} {
		for name, addr := range servers {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				resp, _, _ := askAt(t, addr, edited(t, tt.old, tt.new))
				if resp.StatusCode != tt.status {
					t.Fatalf("answered %s, want %d", resp.Status, tt.status)
				}
				accept := resp.Header.Values("Sec-WebSocket-Accept")
				if tt.status == 101 && !slices.Equal(accept, []string{goodAccept}) || tt.status != 101 && accept != nil {
					t.Errorf("Sec-WebSocket-Accept is %q", accept)
				}
				checkRefusalHeader(t, resp)
				if v := resp.Header.Get("Sec-WebSocket-Version"); tt.status != 101 && strings.Contains(tt.old, inVersion) && v != "13" {
					t.Errorf("Sec-WebSocket-Version is %q, want 13", v)
				}
			})
		}
	}
}

// checkRefusalHeader checks the fields that a status requires.
func checkRefusalHeader(t *testing.T, resp *http.Response) {
	t.Helper()
	want := map[int]map[string]string{
		405: {"Allow": "GET"},
		426: {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-Websocket-Version": "13"},
		503: {"Retry-After": "5"},
	}[resp.StatusCode]
	for name, value := range want {
		if name == "Connection" && resp.Close {
			continue // net/http removes the field if it contains close
		}
		wantEqual(t, name, resp.Header.Get(name), value)
	}
}

func TestServer_Answers_ByteForByte(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts Options
		set  http.Header
		old  string
		new  string
		want string
	}{
		{"no protocol agreed on", Options{}, nil, "", "", ""},
		{"the server's own first choice", Options{Subprotocols: []string{"v3", "superchat", "chat"}}, nil, "", "",
			"Sec-WebSocket-Protocol: superchat\r\n"},
		{"protocols have case", Options{Subprotocols: []string{"Chat"}}, nil, "", "", ""},
		{"protocols in two fields", Options{Subprotocols: []string{"superchat"}}, nil, "chat, superchat", "chat\r\nSec-WebSocket-Protocol: superchat",
			"Sec-WebSocket-Protocol: superchat\r\n"},
		{"extension that was not offered", Options{Compression: &Compression{}}, nil, "", "", ""},
		{"extension that is off", Options{}, nil, inOrigin, "Sec-WebSocket-Extensions: permessage-deflate\r\n", ""},
		{"field of the options", Options{Header: http.Header{"X-One": {"1", "2"}}}, nil, "", "", "X-One: 1\r\nX-One: 2\r\n"},
		{"field set on w", Options{}, http.Header{"Set-Cookie": {"a=b"}}, "", "", "Set-Cookie: a=b\r\n"},
		{"fields of middleware that have no place there", Options{}, http.Header{
			"Content-Length": {"5"}, "Transfer-Encoding": {"chunked"}, "Connection": {"close"}, "Upgrade": {"h2c"},
			"Sec-Websocket-Accept": {"x"}, "Trailer": {"X"}, http.TrailerPrefix + "X": {"y"},
		}, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, far := upgradePipe(t, edited(t, tt.old, tt.new), &tt.opts, tt.set)
			c.CloseNow()
			want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
				goodAccept + "\r\n" + tt.want + "\r\n"
			if got, err := io.ReadAll(far); string(got) != want {
				t.Errorf("answered\n%q, want\n%q, %v", got, want, err)
			}
		})
	}
}

// The offers of all fields form one list. The server chooses the first acceptable offer.
func TestServer_Answers_FirstAcceptableExtension(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"first acceptable offer", "permessage-deflate; server_max_window_bits=7, permessage-deflate; client_no_context_takeover", "permessage-deflate"},
		{"offers in two fields", "foo\r\nSec-WebSocket-Extensions: permessage-deflate", "permessage-deflate"},
		{"no acceptable offer", "permessage-deflate; x", ""},
		{"unknown extension", "x-webkit-deflate-frame, permessage-bzip2; a=1", ""},
		{"quoted value that is a token", `permessage-deflate; client_max_window_bits="10"`, "permessage-deflate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, far := upgradePipe(t, edited(t, inOrigin, "Sec-WebSocket-Extensions: "+tt.value+"\r\n"), &Options{Compression: &Compression{}}, nil)
			defer c.CloseNow()
			resp := wantAnswer(t, bufio.NewReader(far), 101)
			got := resp.Header.Values("Sec-WebSocket-Extensions")
			if name, _, _ := strings.Cut(strings.Join(got, ""), ";"); name != tt.want || len(got) > 1 {
				t.Errorf("chose %q, want %q", got, tt.want)
			}
		})
	}
}

// After a refusal the HTTP connection serves the next request or is closed. The body of the refused request is never
// taken for a request.
func TestServer_Refuses_AndLeavesHTTPInStep(t *testing.T) {
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

// If the server is at fault, the error of Upgrade has the details, such as the type that hides the http.Hijacker. The
// response has none of them, nor the fields that were set on w.
func TestServer_Refuses_WithoutDetailsForThePeer(t *testing.T) {
	type row struct {
		name   string
		opts   *Options
		set    http.Header
		detail string
	}
	rows := []row{
		{"no Hijacker", nil, nil, "*httptest.ResponseRecorder"},
		{"a subprotocol", &Options{Subprotocols: []string{"s3cret text"}}, nil, "s3cret text"},
		{"an origin", &Options{Origins: []string{"https://s3cret/"}}, nil, "s3cret"},
		{"compression", &Options{Compression: &Compression{Level: 77}}, nil, "77"},
		{"a field without canonical case", nil, http.Header{"x-s3cret": {"a\x00"}}, "x-s3cret"},
	}
	for _, value := range []string{"a\r\nX-Evil: 1", "a\rb", "a\nb", "a\x00b", "a\x7fb"} { // RFC 9110, section 5.5
		rows = append(rows, row{"a value", nil, http.Header{"X-S3cret": {value}}, "X-S3cret"},
			row{"a value of the options", &Options{Header: http.Header{"X-S3cret": {value}}}, nil, "X-S3cret"},
			row{"a name of the options", &Options{Header: http.Header{value: {"x"}}}, nil, "Options.Header"},
			row{"a subprotocol", &Options{Subprotocols: []string{value}}, nil, "Options.Subprotocols"})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			for name, values := range tt.set {
				w.Header()[name] = values
			}
			var rw http.ResponseWriter = w
			if tt.name != "no Hijacker" {
				rw = hijacker{w, nullConn{}, nil, nil}
			}
			_, err := Upgrade(rw, goodHTTPRequest(), tt.opts)
			if e := wantRefusal(t, err, 500); !strings.Contains(e.Reason, tt.detail) {
				t.Errorf("Upgrade returned %v", err)
			}
			if tt.name == "no Hijacker" {
				wantError(t, "Upgrade", err, http.ErrNotSupported)
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

// A shoutingWriter is the ResponseWriter of a middleware that changes the bytes of responses.
type shoutingWriter struct{ http.ResponseWriter }

func (w shoutingWriter) Write(p []byte) (int, error) { return w.ResponseWriter.Write(bytes.ToUpper(p)) }
func (w shoutingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestServer_Upgrades_UnderMiddleware(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			h := Handler(nil, echoMessages)
			s := tr.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Connection", "close")
				w.Header().Set("X-Set", "1")
				h.ServeHTTP(shoutingWriter{shoutingWriter{w}}, r)
			}))
			checkInterruptedEcho(t, dialed(t, s.URL, &Options{HTTPClient: s.Client(), HTTP2: tr.http2}))
		})
	}
}

// One Write sends the response, even if a deadline of the hijacked connection has passed.
func TestServer_Writes_TheResponseAtOnce(t *testing.T) {
	near, far := memPipe()
	near.SetDeadline(past)
	writes := 0
	nc := &hookedConn{Conn: near, write: func(p []byte) (int, error) { writes++; return near.Write(p) }}
	c, err := Upgrade(hijackable(nc), goodHTTPRequest(), &Options{Header: http.Header{"X": {"1", "2"}}})
	if err != nil || writes != 1 {
		t.Fatalf("%v, %d writes", err, writes)
	}
	defer c.CloseNow()
	wantAnswer(t, bufio.NewReader(far), 101)
}

// If the response cannot be written within WriteTimeout, the connection is closed.
func TestServer_Closes_WhenTheResponseIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		start := time.Now()
		_, err := Upgrade(hijackable(near), goodHTTPRequest(), &Options{WriteTimeout: 7 * time.Second})
		var e *HandshakeError
		if !errors.As(err, &e) || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 7*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if n, err := far.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes after the end", n)
		}
	})
}

// Upgrade allocates only the connection.
func TestServer_Upgrades_WithoutAllocations(t *testing.T) {
	var w http.ResponseWriter = hijacker{httptest.NewRecorder(), nullConn{}, bufio.NewReadWriter(bufio.NewReader(strings.NewReader("")), nil), nil}
	r, opts := goodHTTPRequest(), &Options{Subprotocols: []string{"superchat"}, Origins: []string{"*.example.net"}}
	conn := testing.AllocsPerRun(100, func() { newConn(nullConn{}, opts.config(true)) })
	got := testing.AllocsPerRun(100, func() {
		if _, err := Upgrade(w, r, opts); err != nil {
			t.Fatal(err)
		}
	})
	if got > conn {
		t.Errorf("%v allocations, and %v of the connection", got, conn)
	}
}

func BenchmarkUpgrade(b *testing.B) {
	var w http.ResponseWriter = hijackable(nullConn{})
	r, opts := goodHTTPRequest(), &Options{Subprotocols: []string{"superchat"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Upgrade(w, r, opts); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzHandshakeRequest checks that every request gets one answer: a 101 if a second implementation of RFC 6455, section
// 4.2.1, allows it, or a refusal and a *HandshakeError.
func FuzzHandshakeRequest(f *testing.F) {
	f.Add(goodRequest)
	for _, new := range []string{"", "Connection: a, upgrade\r\n", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", "Origin: http://[::1\r\n", "Transfer-Encoding: chunked\r\n"} {
		f.Add(strings.Replace(goodRequest, inOrigin, new, 1))
	}
	f.Add(strings.Replace(goodRequest, inKey, "", 1))
	f.Add(strings.Replace(goodRequest, inVersion, "Sec-WebSocket-Version: 8\r\n", 1))
	f.Add(strings.Replace(goodRequest, "GET", "POST", 1))
	f.Fuzz(func(t *testing.T, raw string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		near, far := memPipe()
		defer far.Close()
		w := httptest.NewRecorder()
		opts := &Options{Subprotocols: []string{"superchat", "chat"}, Compression: &Compression{}, Origins: []string{"*.example.org:*"}}
		c, err := Upgrade(hijacker{w, near, nil, nil}, r, opts)
		if err != nil {
			var e *HandshakeError
			if !errors.As(err, &e) || w.Code < 400 || w.Code != e.StatusCode || w.Header().Get("Sec-WebSocket-Accept") != "" {
				t.Fatalf("%v, answered %d %v", err, w.Code, w.Header())
			}
			return
		}
		defer c.CloseNow()
		if !mayUpgrade(r) {
			t.Fatalf("upgraded %q", raw)
		}
		near.SetDeadline(time.Time{})
		resp, err := http.ReadResponse(bufio.NewReader(far), nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != string(appendAcceptKey(nil, r.Header.Get("Sec-WebSocket-Key"))) {
			t.Fatalf("answered %v, %v", resp, err)
		}
	})
}

// mayUpgrade is a second implementation of section 4.2.1.
func mayUpgrade(r *http.Request) bool {
	has := func(name, token string) bool {
		list := strings.Split(strings.ToLower(strings.Join(r.Header.Values(name), ",")), ",")
		return slices.ContainsFunc(list, func(s string) bool { return strings.Trim(s, " \t") == token })
	}
	return r.Method == "GET" && r.ProtoAtLeast(1, 1) && r.Host != "" && has("Upgrade", "websocket") && has("Connection", "upgrade") &&
		slices.Equal(r.Header.Values("Sec-WebSocket-Version"), []string{"13"}) && len(r.Header.Values("Sec-WebSocket-Key")) == 1 &&
		len(r.Header.Get("Sec-WebSocket-Key")) == 24 && r.ContentLength == 0
}

// badOptions are an error of Upgrade, Serve and Dial. Pipe panics.
var badOptions = []struct {
	name string
	opts Options
}{
	{"Level", Options{Compression: &Compression{Level: 10}}},
	{"WindowBits", Options{Compression: &Compression{WindowBits: 7}}},
	{"origin pattern", Options{Origins: []string{"http://a b"}}},
	{"subprotocol with a space", Options{Subprotocols: []string{"a b"}}},
	{"empty subprotocol", Options{Subprotocols: []string{""}}},
	{"subprotocol twice", Options{Subprotocols: []string{"a", "b", "a"}}},
	{"field of the handshake", Options{Header: http.Header{"Sec-WebSocket-Key": {"x"}}}},
	{"field of the handshake in other case", Options{Header: http.Header{"connection": {"close"}}}},
	{"Upgrade", Options{Header: http.Header{"Upgrade": {"h2c"}}}},
	{"Content-Length", Options{Header: http.Header{"Content-Length": {"3"}}}},
	{"invalid Host", Options{Header: http.Header{"Host": {"a/b"}}}},
	{"two Hosts", Options{Header: http.Header{"Host": {"a", "b"}}}},
	{"empty Host", Options{Header: http.Header{"Host": {""}}}},
	{"Host with a space", Options{Header: http.Header{"Host": {"a b"}}}},
	{"no name", Options{Header: http.Header{"": {"a"}}}},
	{"name with a space", Options{Header: http.Header{"a b": {"a"}}}},
	{"unknown field of the handshake", Options{Header: http.Header{"SEC-WEBSOCKET-FOO": {"a"}}}},
	{"CR LF in the host", Options{Header: http.Header{"Host": {"a\r\nY: b"}}}},
	{"CloseTimeout", Options{CloseTimeout: -1}},
	{"MaxPending", Options{MaxPending: -1}},
}

func TestOptions_OutOfRange(t *testing.T) {
	for _, tt := range badOptions {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			if _, err := Upgrade(hijacker{w, nullConn{}, nil, nil}, goodHTTPRequest(), &tt.opts); err == nil || w.Code != 500 {
				t.Errorf("Upgrade returned %v and answered %d, want 500", err, w.Code)
			}
			if err := Serve(newPipeListener(), &tt.opts, echoMessages); err == nil {
				t.Error("Serve returned nil")
			}
			tt.opts.HTTPClient = noDial(t)
			dialFails(t, soon(t), "ws://example.com/", &tt.opts)
			err := unpanicked(func() error { Pipe(nil, &tt.opts); return nil })
			wantError(t, "Pipe", err, errPanicked)
		})
	}
}

func TestOptions_HeaderInRange(t *testing.T) {
	for _, h := range []http.Header{
		nil, {"X-Any": {"", "a\tb", "\u00e4"}}, {"Host": {"example.com:8080"}}, {"Host": {"[::1]:8080"}}, {"Sec-Websock": {"a"}},
	} {
		if err := checkHeader(h); err != nil {
			t.Errorf("%q: %v", h, err)
		}
	}
}

// By default an origin must have the host of the request, with either scheme. Malformed hosts must not panic.
func TestOrigin_SameHost(t *testing.T) {
	for _, tt := range []struct {
		origin, host string
		ok           bool
	}{
		{"http://example.com", "example.com", true},
		{"https://example.com", "example.com", true}, // a front ended TLS
		{"HTTPS://EXAMPLE.COM", "example.com", true},
		{"http://example.com:8080", "example.com:8080", true},
		{"http://example.com:80", "example.com", true},
		{"https://example.com", "example.com:443", true},
		{"http://example.com", "example.com:80", true},
		{"http://[::1]:8080", "[::1]:8080", true},
		{"http://[::1]", "[::1]", true},
		{"http://127.0.0.1", "127.0.0.1", true},
		{"http://xn--bcher-kva.example", "xn--bcher-kva.example", true},

		{"http://example.com", "example.com:8080", false},
		{"http://example.com:8080", "example.com", false},
		{"http://example.com", "example.com:443", false},
		{"http://sub.example.com", "example.com", false},
		{"http://example.com", "sub.example.com", false},
		{"http://example.com.evil.org", "example.com", false},
		{"http://evilexample.com", "example.com", false},
		{"http://example.com@evil.org", "example.com", false},
		{"http://evil.org/example.com", "example.com", false},
		{"http://evil.org#example.com", "example.com", false},
		{"http://example.com/", "example.com", false},
		{"http://example.com:", "example.com", false},
		{"http://example.com:080", "example.com", false},
		{"http://example.com:99999", "example.com", false},
		{"http://example.com:*", "example.com", false},
		{"http://*.example.com", "example.com", false},
		{"http://\u017fexample.com", "sexample.com", false},
		{"file://example.com", "example.com", false},
		{"chrome-extension://example.com", "example.com", false},
		{"example.com", "example.com", false},
		{"//example.com", "example.com", false},
		{"://example.com", "example.com", false},
		{"http:example.com", "example.com", false},
		{"null", "example.com", false},
		{"null", "null", false},
		{"", "", false},
		{"http://", "", false},
		{"http://[::1", "[::1", false},
		{"http://[::1", "example.com", false},
		{"http://::1", "::1", false},
		{"http://[]", "[]", false},
		{"http://[evil]", "[evil]", false},
		{"http://]", "]", false},
		{"http://:80", ":80", false},
		{"http://example.com", "[::1", false},
	} {
		r := &http.Request{Host: tt.host, Header: http.Header{"Origin": {tt.origin}}}
		if f := checkOrigin(r, nil); (f == nil) != tt.ok {
			t.Errorf("the origin %q at the host %q: %v", tt.origin, tt.host, f)
		}
	}
}

func TestOrigin_Patterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, origin string
		ok              bool
	}{
		{"app.example.com", "https://app.example.com", true},
		{"app.example.com", "http://app.example.com", true},
		{"APP.example.com", "http://app.EXAMPLE.com", true},
		{"app.example.com", "https://app.example.com:443", true},
		{"https://app.example.com", "https://app.example.com", true},
		{"HTTPS://app.example.com:443", "https://app.example.com", true},
		{"app.example.com:8080", "http://app.example.com:8080", true},
		{"app.example.com:*", "http://app.example.com:8080", true},
		{"app.example.com:*", "http://app.example.com", true},
		{"*.example.com", "https://app.example.com", true},
		{"*.example.com", "https://a.b.c.example.com", true},
		{"http://*.example.com:8080", "http://app.example.com:8080", true},
		{"[::1]:*", "http://[::1]:3000", true},
		{"chrome-extension://abcdef", "chrome-extension://abcdef", true},

		{"app.example.com", "ftp://app.example.com", false},
		{"app.example.com", "https://example.com", false},
		{"app.example.com", "https://app.example.com:8443", false},
		{"app.example.com", "https://app.example.com.evil.org", false},
		{"https://app.example.com", "http://app.example.com", false},
		{"https://app.example.com:443", "https://app.example.com:8443", false},
		{"app.example.com:8080", "http://app.example.com", false},
		{"*.example.com", "https://example.com", false},
		{"*.example.com", "https://.example.com", false},
		{"*.example.com", "https://evilexample.com", false},
		{"*.example.com", "https://a.example.com:8443", false},
		{"*.example.com", "null", false},
		{"chrome-extension://abcdef", "chrome-extension://abcdeg", false},
		{"chrome-extension://abcdef", "https://abcdef", false},
	} {
		r := &http.Request{Host: "api.example.org", Header: http.Header{"Origin": {tt.origin}}}
		if f := checkOrigin(r, []string{"other.example.net", tt.pattern}); (f == nil) != tt.ok {
			t.Errorf("the origin %q with the pattern %q: %v", tt.origin, tt.pattern, f)
		}
	}
}

// A pattern that does not parse, or that no browser's Origin can match, is an error of the options.
func TestOrigin_PatternsThatAreAnError(t *testing.T) {
	for _, tt := range []struct{ pattern, says string }{
		{"", ""}, {"*.", ""}, {"**.example.com", ""}, {"a.*.example.com", ""}, {"*example.com", ""}, {"http://", ""}, {"://a", ""},
		{"a b", ""}, {"a/", ""}, {"http://a/b", ""}, {"a:b", ""}, {"a:", ""}, {"a:*:*", ""}, {"a:65536", ""}, {"a:080", ""},
		{"[::1", ""}, {"::1", ""}, {"http://user@a", ""}, {"a,b", ""}, {"a\x00", ""}, {"a\x7f", ""}, {"a%20b", ""},

		{"*", "CheckOrigin"}, {"*:*", "CheckOrigin"}, {"https://*", "CheckOrigin"}, {"null", "CheckOrigin"},
		{"https://b\u00fccher.example", "xn--"}, {"*.b\u00fccher.example", "xn--"},
		{"*://example.com", "scheme"}, {"1http://example.com", "scheme"}, {"http_://example.com", "scheme"},
		{"ws://example.com", "http"}, {"WSS://example.com", "http"},
		{"[0:0:0:0:0:0:0:1]", "[::1]"}, {"[::01]", "[::1]"}, {"[fe80::1%25eth0]", ""}, {"[1.2.3.4]", "address"}, {"[::g]", ""},
		{"127.1", "address"}, {"1.2.3.04", "address"}, {"1.2.3.4.5", "address"}, {"0x7f000001", "address"}, {"2130706433:80", "address"},
	} {
		err := (&Options{Origins: []string{"app.example.com", tt.pattern}}).check()
		if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "Options.Origins") {
			t.Errorf("%q: %v", tt.pattern, err)
		}
	}
}

func TestOrigin_PatternsBesideThoseInError(t *testing.T) {
	for _, s := range []string{"a", "*.a", "a:*", "a:0", "a:65535", "[::1]", "[2001:DB8::1]:80", "[::ffff:102:304]", "1.2.3.4", "*.xn--bcher-kva.example",
		"x--a_b.example.", "null.example", "web+app-1.0://example.com", "1.2.3.4a", "4chan.example"} {
		if err := (&Options{Origins: []string{s}}).check(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// A refusal quotes the two values that were compared, in one line of bounded length.
func TestOrigin_RefusalNamesBothHosts(t *testing.T) {
	r := &http.Request{Host: "api.example.com", Header: http.Header{"Origin": {"https://evil.example/\r\n"}}}
	f := checkOrigin(r, nil)
	if f == nil || f.status != 403 || !strings.Contains(f.reason, `"api.example.com"`) || !strings.Contains(f.reason, `"https://evil.example/\r\n"`) {
		t.Errorf("refused with %v", f)
	}
	r.Header["Origin"] = []string{strings.Repeat("x", 1<<16)}
	if f := checkOrigin(r, nil); f == nil || len(f.reason) > 1000 {
		t.Errorf("refused with %d bytes", len(f.reason))
	}
}

// CheckOrigin replaces the check of the origin.
func TestOrigin_CheckOriginReplacesTheCheck(t *testing.T) {
	for _, tt := range []struct {
		origin string
		accept bool
	}{{"http://evil.example", true}, {"http://server.example.com", false}} {
		r := goodHTTPRequest()
		r.Header.Set("Origin", tt.origin)
		f := checkPolicy(r, &Options{CheckOrigin: func(q *http.Request) bool { return q == r && tt.accept }})
		if (f == nil) != tt.accept || f != nil && f.status != 403 {
			t.Errorf("%q, %v: %v", tt.origin, tt.accept, f)
		}
	}
}
