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
	"strings"
	"testing"
	"time"
)

// Every request gets one answer: a 101 if another implementation of RFC 6455, section 4.2.1, allows it, or a refusal and a
// *HandshakeError.
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
		c, err := Upgrade(hijacker{w, near, nil}, r, opts)
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

// mayUpgrade implements section 4.2.1 a second time.
func mayUpgrade(r *http.Request) bool {
	has := func(name, token string) bool {
		list := strings.Split(strings.ToLower(strings.Join(r.Header.Values(name), ",")), ",")
		return slices.ContainsFunc(list, func(s string) bool { return strings.Trim(s, " \t") == token })
	}
	return r.Method == "GET" && r.ProtoAtLeast(1, 1) && r.Host != "" && has("Upgrade", "websocket") && has("Connection", "upgrade") &&
		slices.Equal(r.Header.Values("Sec-WebSocket-Version"), []string{"13"}) && len(r.Header.Values("Sec-WebSocket-Key")) == 1 &&
		len(r.Header.Get("Sec-WebSocket-Key")) == 24 && r.ContentLength == 0
}

// Every response leads to a connection or a *HandshakeError in a bounded time, and to a connection only if it has the
// accept key of this handshake.
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
		c, err := Dial(testContext(t), "ws://example.com/", opts)
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
		if err != nil {
			b.Fatal(err)
		}
		c.CloseNow()
	}
}

func TestDial_Refuses_GroupThatEnds(t *testing.T) {
	s := startTCP(t, Handler(nil, echoMessages))
	for _, http2 := range []bool{false, true} {
		var g Group
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			g.Shutdown(context.Background(), StatusGoingAway, "")
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}}
		e := dialFails(t, testContext(t), s.URL, &Options{HTTPClient: client, Group: &g, HTTP2: http2})
		if !strings.Contains(e.Reason, "group") {
			t.Error(e)
		}
	}
}
