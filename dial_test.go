package websocket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// RFC 6455, sections 3 and 4.1. Control characters must not reach the request.
func TestDial_RefusesURLs(t *testing.T) {
	for _, u := range []string{
		"ftp://example.com/", "//example.com/", "/chat", "example.com:80", "ws:///chat", "ws://:80/", "ws:example.com", "",
		"ws://example.com/#x", "ws://example.com/#",
		"ws://ex\xffample.com/", "ws://exa mple.com/", "ws://[::1/", "ws://example.com:http/",
		"ws://example.com/a\r\nX: y", "ws://example.com/\x00", "ws://example.com\r\nX: y/",
	} {
		t.Run(u, func(t *testing.T) {
			if e := dialFails(t, soon(t), u, &Options{HTTPClient: noDial(t)}); e.StatusCode != 0 || e.Err == nil {
				t.Errorf("%#v", e)
			}
		})
	}
}

// A connection joins its Group before Dial returns. Dial fails if the Group is shut down before or during the
// handshake.
func TestDial_JoinsItsGroup(t *testing.T) {
	s := startTCP(t, Handler(nil, echoMessages))
	for _, http2 := range []bool{false, true} {
		var g Group
		dialed(t, s.URL, &Options{Group: &g, HTTP2: http2})
		wantEqual(t, "members", g.Len(), 1)
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			g.Shutdown(ctx, StatusGoingAway, "")
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}}
		for _, client := range []*http.Client{client, noDial(t)} {
			e := dialFails(t, soon(t), s.URL, &Options{HTTPClient: client, Group: &g, HTTP2: http2})
			if !strings.Contains(e.Reason, "group") {
				t.Error(e)
			}
		}
	}
}

// RFC 6455, section 4.1: the request, line by line.
func TestDial_Request(t *testing.T) {
	for _, tt := range []struct {
		name, url string
		opts      Options
		target    string
		host      string
		fields    []string // beside those that every request has
	}{
		{"ws", "ws://a.example/chat", Options{}, "/chat", "a.example", nil},
		{"http", "http://a.example/chat", Options{}, "/chat", "a.example", nil},
		{"WS", "WS://a.example/chat", Options{}, "/chat", "a.example", nil},
		{"no path", "ws://a.example", Options{}, "/", "a.example", nil},
		{"no path but a query", "ws://a.example?a=b", Options{}, "/?a=b", "a.example", nil},
		{"query", "ws://a.example/a%2Fb/?q=%C3%A4&&x==+%zz?/", Options{}, "/a%2Fb/?q=%C3%A4&&x==+%zz?/", "a.example", nil},
		{"query with bytes of no URL", "ws://a.example/\u00e4 ?q=\u00e4 b", Options{}, "/%C3%A4%20?q=%C3%A4%20b", "a.example", nil},
		{"default port", "ws://a.example:80/", Options{}, "/", "a.example", nil},
		{"empty port", "ws://a.example:/", Options{}, "/", "a.example", nil},
		{"port of wss", "ws://a.example:443/", Options{}, "/", "a.example:443", nil},
		{"IPv6 address", "ws://[::1]:80/", Options{}, "/", "[::1]", nil},
		{"host in punycode", "ws://B\u00dcCHER.example:81/", Options{}, "/", "xn--bcher-kva.example:81", nil},
		{"user and password", "ws://user:p%20w@a.example/", Options{}, "/", "a.example", []string{"Authorization: Basic dXNlcjpwIHc="}},
		{"host of the options", "ws://a.example/", Options{Header: http.Header{"Host": {"b.example"}}}, "/", "b.example", nil},
		{"header of the options", "ws://a.example/", Options{Header: http.Header{"Origin": {"http://a"}, "x": {"y"}}}, "/", "a.example", []string{"Origin: http://a", "X: y"}},
		{"subprotocols", "ws://a.example/", Options{Subprotocols: []string{"b", "a"}}, "/", "a.example", []string{"Sec-WebSocket-Protocol: b, a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := make(chan string, 1)
			tt.opts.HTTPClient = pipedTo(func(nc net.Conn) { requests <- answerWith(nc, goodResponse) })
			dialed(t, tt.url, &tt.opts)
			checkRequest(t, <-requests, "GET "+tt.target+" HTTP/1.1", append(tt.fields, "Host: "+tt.host))
		})
	}
}

// checkRequest checks that a request has the given fields, those of every handshake, and no others.
func checkRequest(t *testing.T, request, first string, fields []string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(request, "\r\n\r\n"), "\r\n")
	wantEqual(t, "the request line", lines[0], first)
	want := append(fields, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "User-Agent: Go-http-client/1.1")
	got := slices.DeleteFunc(lines[1:], func(line string) bool {
		key, ok := strings.CutPrefix(line, "Sec-WebSocket-Key: ")
		return ok && isKey(key)
	})
	wantEqual(t, "the fields without one valid key", len(got), len(lines)-2)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the fields are\n%q, want\n%q", got, want)
	}
}

// RFC 6455, section 4.1: "The nonce MUST be selected randomly for each connection."
func TestDial_KeysDiffer(t *testing.T) {
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

// RFC 6455, section 4.1, steps 1 to 6, and section 4.2.2.
func TestDial_ChecksTheResponse(t *testing.T) {
	const head = "HTTP/1.1 101 Switching Protocols\r\n"
	const upgrade, connection, accept = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n", "Sec-WebSocket-Accept: {accept}\r\n"
	const good = head + upgrade + connection + accept
	const extensions, protocol = "Sec-WebSocket-Extensions: ", "Sec-WebSocket-Protocol: "
	protocols := &Options{Subprotocols: []string{"a", "b"}}
	deflate := &Options{Compression: &Compression{}}
	for _, tt := range []struct {
		name     string
		opts     *Options
		response string
		protocol string
		ok       bool
	}{
		{"good", nil, good + "\r\n", "", true},
		{"another reason phrase", nil, strings.Replace(good, "Switching", "Web Socket", 1) + "\r\n", "", true},
		{"after 103 and 100", nil, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + goodResponse, "", true},
		{"more fields", nil, good + "Server: x\r\nDate: y\r\n\r\n", "", true},

		{"200", nil, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "", false},
		{"401", nil, "HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Basic\r\n\r\n", "", false},
		{"302", nil, "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "", false},
		{"404 with the fields of a 101", nil, "HTTP/1.1 404 Not Found\r\n" + upgrade + connection + accept + "\r\n", "", false},
		{"no Upgrade", nil, head + connection + accept + "\r\n", "", false},
		{"another Upgrade", nil, head + "Upgrade: h2c\r\n" + connection + accept + "\r\n", "", false},
		{"a list as Upgrade", nil, head + "Upgrade: websocket, h2c\r\n" + connection + accept + "\r\n", "", false},
		{"Upgrade twice", nil, head + upgrade + upgrade + connection + accept + "\r\n", "", false},
		{"Upgrade with U+017F", nil, head + "Upgrade: web\u017focket\r\n" + connection + accept + "\r\n", "", false},
		{"Upgrade in other case", nil, head + "Upgrade: WEBSOCKET\r\n" + connection + accept + "\r\n", "", true},
		{"no Connection", nil, head + upgrade + accept + "\r\n", "", false},
		{"another Connection", nil, head + upgrade + "Connection: keep-alive\r\n" + accept + "\r\n", "", false},
		{"Connection as a list", nil, head + upgrade + "Connection: keep-alive, UPGRADE\r\n" + accept + "\r\n", "", true},
		{"no accept", nil, head + upgrade + connection + "\r\n", "", false},
		{"wrong accept", nil, head + upgrade + connection + "Sec-WebSocket-Accept: " + goodAccept + "\r\n\r\n", "", false},
		{"longer accept", nil, head + upgrade + connection + "Sec-WebSocket-Accept: {accept}x\r\n\r\n", "", false},
		{"accept twice", nil, good + accept + "\r\n", "", false},
		{"accept between spaces", nil, head + upgrade + connection + "Sec-WebSocket-Accept: \t {accept} \r\n\r\n", "", true},

		{"extension without an offer", nil, good + extensions + "permessage-deflate\r\n\r\n", "", false},
		{"another extension", deflate, good + extensions + "x\r\n\r\n", "", false},
		{"one extension more", deflate, good + extensions + "permessage-deflate, x\r\n\r\n", "", false},
		{"malformed extensions", deflate, good + extensions + "permessage-deflate;\r\n\r\n", "", false},
		{"empty extensions", deflate, good + extensions + "\r\n\r\n", "", false},
		{"extensions twice", deflate, good + extensions + "permessage-deflate\r\n" + extensions + "x\r\n\r\n", "", false},
		{"offered extension", deflate, good + extensions + "permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n", "", true},
		{"no extension", deflate, goodResponse, "", true},

		{"subprotocol without an offer", nil, good + protocol + "a\r\n\r\n", "", false},
		{"another subprotocol", protocols, good + protocol + "c\r\n\r\n", "", false},
		{"subprotocol in other case", protocols, good + protocol + "A\r\n\r\n", "", false},
		{"empty subprotocol", protocols, good + protocol + "\r\n\r\n", "", false},
		{"two subprotocols", protocols, good + protocol + "a, b\r\n\r\n", "", false},
		{"subprotocol twice", protocols, good + protocol + "a\r\n" + protocol + "a\r\n\r\n", "", false},
		{"offered subprotocol", protocols, good + protocol + "b\r\n\r\n", "b", true},
		{"no subprotocol", protocols, goodResponse, "", true},

		{"HTTP/1.0", nil, strings.Replace(good, "1.1", "1.0", 1) + "\r\n", "", false},
		{"not HTTP", nil, "SSH-2.0-OpenSSH_9.6\r\n", "", false},
		{"malformed field", nil, good + "a b c\r\n\r\n", "", false},
		{"endless header", nil, head + strings.Repeat("X-Field: value\r\n", 10000), "", false},
		{"endless line", nil, head + "X-Field: " + strings.Repeat("x", 100<<10), "", false},
		{"endless 103", nil, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10000), "", false},
		{"header below the limit", nil, good + "X-Field: " + strings.Repeat("x", 60<<10) + "\r\n\r\n", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var opts Options
			if tt.opts != nil {
				opts = *tt.opts
			}
			opts.HTTPClient = answering(tt.response, true)
			if !tt.ok {
				if dialError(t, "ws://example.com", &opts) == nil {
					t.Error("dialed")
				}
			} else if c := dialed(t, "ws://example.com", &opts); c.Subprotocol() != tt.protocol {
				t.Errorf("subprotocol %q, want %q", c.Subprotocol(), tt.protocol)
			}
		})
	}
}

// The error has the status, the header and the beginning of the body, and describes them in one line.
func TestDial_Refused_ErrorHasTheResponse(t *testing.T) {
	long, e := strings.Repeat("x", 5000), strings.Repeat("\u00e9", 250)
	const refused = "the server refused the upgrade (HTTP status "
	for _, tt := range []struct {
		name, response string
		status         int
		field, value   string
		body           string
		says           string
	}{
		{"body", "403 Forbidden\r\nX: y\r\nContent-Length: 4\r\n\r\nno!\n", 403, "X", "y", "no!\n", refused + "403 Forbidden): no!"},
		{"no body", "426 Upgrade Required\r\nSec-WebSocket-Version: 8, 7\r\nContent-Length: 0\r\n\r\n", 426, "Sec-WebSocket-Version", "8, 7", "", refused + "426 Upgrade Required)"},
		{"long body", "500 Oops\r\nContent-Length: 5000\r\n\r\n" + long, 500, "Content-Length", "5000", long[:4096], refused + "500 Internal Server Error): " + long[:200]},
		{"long line of two-byte characters", "500 Oops\r\nContent-Length: 501\r\n\r\nx" + e, 500, "X", "", "x" + e, refused + "500 Internal Server Error): x" + e[:198]},
		{"body in chunks", "500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 500, "X", "", "abc", refused + "500 Internal Server Error): abc"},
		{"body that does not end", "500 Oops\r\nContent-Length: 9\r\n\r\nabc", 500, "X", "", "abc", refused + "500 Internal Server Error): abc"},
		{"body with control characters", "503 X\r\nContent-Length: 18\r\n\r\n\r\n\tone\x1b[1m a\tb\r\ntw", 503, "X", "", "\r\n\tone\x1b[1m a\tb\r\ntw", refused + "503 Service Unavailable): one[1m a b"},
		{"HTML", "503 X\r\nContent-Length: 18\r\n\r\n<html><body>no</b>", 503, "X", "", "<html><body>no</b>", refused + "503 Service Unavailable)"},
		{"binary", "503 X\r\nContent-Length: 4\r\n\r\n\x00\xff\xfea", 503, "X", "", "\x00\xff\xfea", refused + "503 Service Unavailable)"},
		{"a status of its own", "599 \x1b[31mMine\r\nContent-Length: 0\r\n\r\n", 599, "X", "", "", refused + "599)"},
		{"redirect", "302 Found\r\nLocation: /\r\nContent-Length: 2\r\n\r\nhi", 302, "Location", "/", "hi", "the server redirects; set HTTPClient.CheckRedirect to follow (HTTP status 302 Found): hi"},
		{"a 101 that is no handshake", "101 Switching\r\nX: y\r\n\r\nabc", 101, "X", "y", "", "the response lacks Upgrade: websocket (HTTP status 101 Switching Protocols)"},
	} {
		inBubbleIn(t, tt.name, func(t *testing.T) {
			e := dialFails(t, t.Context(), "ws://example.com", &Options{HTTPClient: answering("HTTP/1.1 "+tt.response, false)})
			if e.StatusCode != tt.status || e.Header.Get(tt.field) != tt.value || string(e.Body) != tt.body {
				t.Errorf("%#v", e)
			}
			if want := "websocket: handshake: " + tt.says; e.Error() != want {
				t.Errorf("it says\n%q, want\n%q", e.Error(), want)
			}
		})
	}
}

func TestDial_ErrorsAreOneLine(t *testing.T) {
	for _, err := range []error{errors.Join(errors.New("one"), errors.New("two")), errors.New("one\r\n\x1b\x7ftwo")} {
		if e := dialFails(t, soon(t), "ws://example.com", &Options{HTTPClient: failing(err)}); !errors.Is(e, err) {
			t.Error(e)
		}
	}
	ctx, cancel := context.WithCancelCause(soon(t))
	cause, failed := errors.New("a reason"), errors.New("failed")
	client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		cancel(cause)
		return nil, failed
	})}
	e := dialFails(t, ctx, "ws://example.com", &Options{HTTPClient: client})
	if !errors.Is(e, cause) || !errors.Is(e, context.Canceled) || !errors.Is(e, failed) {
		t.Error(e)
	}
}

func TestDial_ErrorsHideUserInformation(t *testing.T) {
	parse := &url.Error{Op: "parse", URL: "http://user:s3cret/x@proxy/", Err: errors.New(`invalid port ":s3cret" after host`)} // of url.Parse
	through := func(p *url.URL, err error) *http.Client {
		return &http.Client{Transport: &http.Transport{
			Proxy:       func(*http.Request) (*url.URL, error) { return p, err },
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF },
		}}
	}
	to := func(location string) *http.Client {
		return &http.Client{CheckRedirect: follow, Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 302, Header: http.Header{"Location": {location}}, Body: http.NoBody}, nil
		})}
	}
	user := url.UserPassword("user", "s3cret")
	for _, tt := range []struct {
		name, url string
		client    *http.Client
		status    int
	}{
		{"slash in the password", "ws://user:s3cret/x@host/", nil, 0},
		{"malformed escape in the password", "ws://user:s3cret%zz@host/", nil, 0},
		{"space in the user name", "ws://us er:s3cret@host/", nil, 0},
		{"malformed port", "ws://user:s3cret@host:s3cret/", nil, 0},
		{"malformed host", "ws://user:s3cret@[::1/", nil, 0},
		{"another scheme", "ftp://user:s3cret@host/", nil, 0},
		{"fragment", "ws://user:s3cret@host/#s3cret", nil, 0},
		{"no answer", "ws://user:s3cret@host/", failing(io.EOF), 0},
		{"RoundTripper's *url.Error", "ws://host/", failing(&url.Error{Op: "Get", URL: "http://user:s3cret@host/", Err: io.EOF}), 0},
		{"Proxy's error", "ws://host/", through(nil, parse), 0},
		{"proxy that cannot be reached", "ws://user:s3cret@host/", through(&url.URL{Scheme: "http", Host: "proxy", User: user}, nil), 0},
		{"unknown kind of proxy", "ws://host/", through(&url.URL{Scheme: "ftp", Host: "proxy", User: user}, nil), 0},
		{"malformed Location", "ws://host/", to("ws://user:s3cret/x@host/"), 302},
		{"Location of another scheme", "ws://host/", to("ftp://user:s3cret@host/"), 302},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := dialFails(t, soon(t), tt.url, &Options{HTTPClient: tt.client})
			if s := e.Error(); strings.Contains(s, "s3cret") || strings.Contains(s, "user") || e.StatusCode != tt.status {
				t.Error(s)
			}
		})
	}
}

// The connection is lost after each byte of the response.
func TestDial_LostAtEveryByte(t *testing.T) {
	for n := range len(goodResponse) {
		e := dialFails(t, soon(t), "ws://example.com", &Options{HTTPClient: answering(goodResponse[:n], true)})
		wantError(t, fmt.Sprintf("after %d bytes", n), e, io.ErrUnexpectedEOF)
	}
}

// RFC 6455, section 4.1: "Once the client's opening handshake has been sent, the client MUST wait for a response from
// the server before sending any further data."
func TestDial_WaitsForTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := Dial(t.Context(), "ws://example.com", &Options{HTTPClient: pipedTo(func(nc net.Conn) {
			br := bufio.NewReader(nc)
			req, err := http.ReadRequest(br)
			if err != nil {
				t.Error(err)
				return
			}
			nc.SetReadDeadline(time.Now().Add(time.Hour))
			if _, err := br.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a byte before the response, or %v", err)
			}
			accept := string(appendAcceptKey(nil, req.Header.Get("Sec-WebSocket-Key")))
			io.WriteString(nc, strings.Replace(goodResponse, "{accept}", accept, 1))
		})})
		must(t, err)
		c.CloseNow()
	})
}

// Frames may arrive with the response.
func TestDial_KeepsFramesAfterTheResponse(t *testing.T) {
	for _, n := range []int{1, 3, 2000} {
		addr := listen(t, func(nc net.Conn) {
			answerWith(nc, goodResponse+strings.Repeat("\x81\x05hello", n))
			io.Copy(io.Discard, nc)
		})
		for name, rt := range map[string]http.RoundTripper{"Transport": nil, "RoundTripper": roundTripper(http.DefaultTransport.RoundTrip), "hidden body": hiding(http.DefaultTransport)} {
			c := dialed(t, "ws://"+addr.String(), &Options{HTTPClient: &http.Client{Transport: rt}})
			for i := range n {
				if _, p, err := c.Read(soon(t)); err != nil || string(p) != "hello" {
					t.Fatalf("%s: message %d of %d is %q, %v", name, i, n, p, err)
				}
			}
		}
	}
}

// Dial uses a caller's RoundTripper as it is. The connection has deadlines, even if the body of the 101 hides it.
func TestDial_WithRoundTripper(t *testing.T) {
	s := startTLS(t, Handler(nil, echoMessages))
	rt := s.Client().Transport
	for name, rt := range map[string]http.RoundTripper{"function": roundTripper(rt.RoundTrip), "hidden body": hiding(rt)} {
		t.Run(name, func(t *testing.T) {
			c := dialed(t, s.URL, &Options{HTTPClient: &http.Client{Transport: rt}})
			checkInterruptedEcho(t, c)
			if nc := c.NetConn(); name == "hidden body" && (nc.LocalAddr().String() != "local" || nc.RemoteAddr().String() != s.Listener.Addr().String()) {
				t.Errorf("the addresses are %v, %v", nc.LocalAddr(), nc.RemoteAddr())
			}
			wantOK(t, "Close", c.Close(StatusNormalClosure, ""))
		})
	}
}

func TestDial_WithRoundTripper_ThatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name string
		resp *http.Response
		says string
	}{
		{"no response", nil, "nil"},
		{"no body", &http.Response{StatusCode: 302, ContentLength: 5}, "nil"},
		{"no body and no URL", &http.Response{StatusCode: 302, Header: http.Header{"Location": {":"}}}, "invalid"},
		{"body that cannot be written", &http.Response{StatusCode: 101, ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(strings.NewReader("")),
			Header: http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}}, "nopCloser"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rt := roundTripper(func(r *http.Request) (*http.Response, error) {
				if tt.resp != nil && tt.resp.StatusCode == 101 {
					tt.resp.Header.Set("Sec-WebSocket-Accept", string(appendAcceptKey(nil, r.Header.Get("Sec-WebSocket-Key"))))
				}
				return tt.resp, nil
			})
			e := dialFails(t, soon(t), "ws://example.com/", &Options{HTTPClient: &http.Client{Transport: rt}})
			if !strings.Contains(e.Error(), tt.says) {
				t.Error(e)
			}
		})
	}
}

// Cookies are sent and stored, also those of the 101. The jar gets http for ws.
func TestDial_UsesTheJar(t *testing.T) {
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
	dialed(t, "ws://"+u.Host, &Options{HTTPClient: &http.Client{Jar: jar}})
	if got := jar.Cookies(u); !slices.ContainsFunc(got, func(c *http.Cookie) bool { return c.Name == "kept" && c.Value == "2" }) {
		t.Errorf("the jar has %v", got)
	}
}

func TestDial_Redirect(t *testing.T) {
	var hops []http.Header
	var target string
	redirect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hops = append(hops, r.Header.Clone())
		if r.URL.Path == "/chat" {
			upgrading(t, nil).ServeHTTP(w, r)
		} else {
			http.Redirect(w, r, target, http.StatusFound)
		}
	})
	tcp, other, secure := startTCP(t, redirect), startTCP(t, redirect), startTLS(t, redirect)
	ws := func(s *httptest.Server) string { return "ws" + strings.TrimPrefix(s.URL, "http") }
	answer := func(err error) func(*http.Request, []*http.Request) error {
		return func(*http.Request, []*http.Request) error { return err }
	}
	for _, tt := range []struct {
		name, from, to string
		follow         func(*http.Request, []*http.Request) error
		hops           int
		ok             bool
	}{
		{"not followed by default", tcp.URL, "/chat", nil, 1, false},
		{"refused by the caller", tcp.URL, "/chat", answer(errors.New("no")), 1, false},
		{"last response for the caller", tcp.URL, "/chat", answer(http.ErrUseLastResponse), 1, false},
		{"same host", tcp.URL, "/chat", follow, 2, true},
		{"same host, with a fragment", tcp.URL, "/chat#top", follow, 2, true},
		{"another host", tcp.URL, other.URL + "/chat", follow, 2, true},
		{"another host, scheme ws", tcp.URL, ws(other) + "/chat", follow, 2, true},
		{"from ws to wss", tcp.URL, secure.URL + "/chat", follow, 2, true},
		{"from wss to wss", secure.URL, "/chat", follow, 2, true},
		{"from wss to ws", secure.URL, tcp.URL + "/chat", follow, 1, false},
		{"from wss to ws, scheme ws", secure.URL, ws(tcp) + "/chat", follow, 1, false},
		{"another scheme", tcp.URL, "ftp://example.com/chat", follow, 1, false},
		{"no URL", tcp.URL, "http://[::1", follow, 1, false},
		{"forever", tcp.URL, "/", follow, 11, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hops, target = nil, tt.to
			client := *secure.Client()
			client.CheckRedirect = tt.follow
			err := dialError(t, tt.from, &Options{HTTPClient: &client})
			if (err == nil) != tt.ok || len(hops) != tt.hops {
				t.Fatalf("%v after %d requests, want %t after %d", err, len(hops), tt.ok, tt.hops)
			}
			if e := new(HandshakeError); errors.As(err, &e) && (e.StatusCode != 302 || e.Header.Get("Location") == "") {
				t.Errorf("%#v", err)
			}
			if key := "Sec-Websocket-Key"; len(hops) > 1 && hops[0].Get(key) == hops[1].Get(key) {
				t.Error("two requests had the same key")
			}
		})
	}
}

// Dial itself refuses a redirect to no URL, so it has to close the body, as http.Client does for other redirects.
func TestDial_Redirect_ClosesTheBody(t *testing.T) {
	for _, location := range []string{"ws://[::1", "ftp://example.com"} {
		near, far := net.Pipe()
		far.Close()
		body := newCloseRecorder(near)
		dialFails(t, soon(t), "ws://example.com", &Options{HTTPClient: &http.Client{CheckRedirect: follow, Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 302, Header: http.Header{"Location": {location}}, Body: body}, nil
		})}})
		select {
		case <-body.closed:
		default:
			t.Errorf("the body of the redirect to %s is open", location)
		}
	}
}

// Another host gets no field of the options that may be secret, and not the query of the first URL.
func TestDial_Redirect_KeepsSecrets(t *testing.T) {
	var got http.Header
	redirect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chat" {
			got = r.Header.Clone()
			upgrading(t, &Options{Subprotocols: []string{"s3cret"}, Compression: &Compression{}, CheckOrigin: func(*http.Request) bool { return true }}).ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	})
	here, there := startTCP(t, redirect), startTCP(t, redirect)
	opts := &Options{
		Header:       http.Header{"X-Api-Key": {"s3cret"}, "Authorization": {"s3cret"}, "Cookie": {"a=s3cret"}, "Origin": {"http://o"}, "User-Agent": {"u"}},
		Subprotocols: []string{"s3cret"}, Compression: &Compression{}, HTTPClient: &http.Client{CheckRedirect: follow},
	}
	for _, tt := range []struct {
		name, to string
		secrets  int
	}{
		{"same host", here.URL + "/chat", 4},
		{"other host", there.URL + "/chat", 0},
		{"other host and back", there.URL + "/?to=" + url.QueryEscape(here.URL+"/chat"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialed(t, here.URL+"/?access_token=s3cret&to="+url.QueryEscape(tt.to), opts)
			n := 0
			for _, values := range got {
				n += strings.Count(fmt.Sprint(values), "s3cret")
			}
			if n != tt.secrets || got["Referer"] != nil || got.Get("Origin") != "http://o" || got.Get("User-Agent") != "u" || got["Sec-Websocket-Extensions"] == nil {
				t.Errorf("the last request had %v", got)
			}
			if (c.Subprotocol() != "") != (tt.secrets > 0) {
				t.Errorf("subprotocol %q", c.Subprotocol())
			}
		})
	}
}

// A server must not choose a subprotocol that the last request did not offer.
func TestDial_Redirect_OffersNoSubprotocolToAnotherHost(t *testing.T) {
	hop := 0
	e := dialFails(t, soon(t), "ws://a.example", &Options{Subprotocols: []string{"a"}, HTTPClient: &http.Client{CheckRedirect: follow, Transport: pipedTo(func(nc net.Conn) {
		if hop++; hop == 1 {
			answerWith(nc, "HTTP/1.1 302 Found\r\nLocation: ws://b.example\r\nContent-Length: 0\r\n\r\n")
		} else {
			answerWith(nc, strings.Replace(goodResponse, "\r\n\r\n", "\r\nSec-WebSocket-Protocol: a\r\n\r\n", 1))
		}
		io.Copy(io.Discard, nc)
	}).Transport}})
	if !strings.Contains(e.Reason, "subprotocol") {
		t.Error(e)
	}
}

// FuzzHandshakeResponse checks that every response leads to a connection or a *HandshakeError in bounded time, and to a
// connection only with the right accept key.
func FuzzHandshakeResponse(f *testing.F) {
	f.Add(goodResponse)
	f.Add(strings.Replace(goodResponse, "{accept}", goodAccept, 1))
	f.Add(strings.Replace(goodResponse, "\r\n\r\n", "\r\nSec-WebSocket-Protocol: a\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n\x81\x00", 1))
	f.Add("HTTP/1.1 100 Continue\r\n\r\n" + goodResponse)
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
	f.Add("HTTP/1.1 302 Found\r\nLocation: ws://\r\n\r\n")
	f.Fuzz(func(t *testing.T, response string) {
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			near, far := memPipe()
			go func() {
				answerWith(far, response)
				far.(*pipeEnd).CloseWrite()
				io.Copy(io.Discard, far)
				far.Close()
			}()
			return near, nil
		}}}
		opts := &Options{HTTPClient: client, Subprotocols: []string{"a"}, Compression: &Compression{}}
		c, err := Dial(soon(t), "ws://example.com/", opts)
		var e *HandshakeError
		switch {
		case err != nil && (c != nil || !errors.As(err, &e) || len(e.Body) > maxErrorBody || errors.Is(err, context.DeadlineExceeded)):
			t.Errorf("%v, %v", c, err)
		case err == nil && !strings.Contains(response, "{accept}"):
			t.Error("dialed without an accept key")
		}
		if c != nil {
			c.CloseNow()
		}
	})
}

func BenchmarkDial(b *testing.B) {
	s := httptest.NewServer(Handler(nil, func(c *Conn, r *http.Request) { c.CloseNow() }))
	defer s.Close()
	b.ReportAllocs()
	for b.Loop() {
		c, err := Dial(context.Background(), s.URL, nil)
		must(b, err)
		c.CloseNow()
	}
}
