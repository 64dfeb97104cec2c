// Package frameworks tests that Upgrade and Handler work under chi, gin and echo, with middleware that wraps
// the ResponseWriter.
package frameworks

import (
	"bufio"
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/websocket"
)

// A router has two WebSockets: /handler/{room}, which uses Handler, and /upgrade/{room}, which uses Upgrade.
var routers = map[string]func(*websocket.Options) http.Handler{
	"chi": chiRouter, "gin": ginRouter, "echo v4": echo4Router, "echo v5": echo5Router,
}

// echoRoom echoes each message with the room before it.
func echoRoom(c *websocket.Conn, room func() string) {
	ctx := context.Background()
	for m, err := range c.Messages(ctx) {
		if err != nil || c.Write(ctx, m.Type, []byte(room()+": "+string(m.Data))) != nil {
			return
		}
	}
}

// A recorder counts what is written, as middleware for metrics does. Upgrade finds the connection through
// Unwrap. The writers of gin and of chi's Compress, when they wrap a recorder, ask for Hijack.
type recorder struct {
	http.ResponseWriter
	status, bytes int
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.bytes += len(p)
	return r.ResponseWriter.Write(p)
}

func record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(&recorder{ResponseWriter: w}, r) })
}

// A watcher fails the test when net/http has something to complain about, such as a header that is written
// after the connection was taken over.
type watcher struct{ t *testing.T }

func (w watcher) Write(p []byte) (int, error) {
	w.t.Errorf("the server logged %q", p)
	return len(p), nil
}

func start(t *testing.T, h http.Handler) string {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(watcher{t}, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	return strings.Replace(srv.URL, "http", "ws", 1)
}

func forEach(t *testing.T, test func(t *testing.T, url string, all *websocket.Group)) {
	for name, router := range routers {
		for _, way := range []string{"handler", "upgrade"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				var all websocket.Group
				opts := &websocket.Options{Group: &all, Compression: &websocket.Compression{}, Subprotocols: []string{"chat"}}
				test(t, start(t, router(opts))+"/"+way, &all)
			})
		}
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// browser returns options with the header fields of a browser, the one that makes middleware compress responses among them.
func browser(origin string) *websocket.Options {
	return &websocket.Options{
		Subprotocols: []string{"chat"},
		Compression:  &websocket.Compression{},
		Header:       http.Header{"Accept-Encoding": {"gzip, deflate, br"}, "Origin": {origin}},
	}
}

func TestFramework_PassesMessages(t *testing.T) {
	forEach(t, func(t *testing.T, url string, _ *websocket.Group) {
		origin := strings.Replace(strings.TrimSuffix(strings.TrimSuffix(url, "/upgrade"), "/handler"), "ws", "http", 1)
		var conns []*websocket.Conn
		for _, room := range []string{"lobby", "cellar"} {
			c, err := websocket.Dial(soon(t), url+"/"+room, browser(origin))
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			conns = append(conns, c)
		}
		// The second request is over, and its context was used again, before the first connection is used.
		for i, want := range []string{"lobby: hello", "cellar: hello"} {
			c := conns[i]
			if err := c.Write(soon(t), websocket.TextMessage, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, p, err := c.Read(soon(t)); string(p) != want || err != nil {
				t.Errorf("read %q, %v, want %q", p, err, want)
			}
			if c.Subprotocol() != "chat" {
				t.Errorf("subprotocol %q", c.Subprotocol())
			}
			if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	})
}

func TestFramework_SendsTheRefusal(t *testing.T) {
	forEach(t, func(t *testing.T, url string, _ *websocket.Group) {
		_, err := websocket.Dial(soon(t), url+"/lobby", browser("https://evil.example"))
		var refused *websocket.HandshakeError
		if !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
			t.Errorf("%v, want status 403", err)
		}
		res, err := http.Get(strings.Replace(url, "ws", "http", 1) + "/lobby")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("a plain GET: status %d, want 426", res.StatusCode)
		}
	})
}

func TestFramework_Drains(t *testing.T) {
	forEach(t, func(t *testing.T, url string, all *websocket.Group) {
		c, err := websocket.Dial(soon(t), url+"/lobby", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		read := make(chan error, 1)
		go func() {
			_, _, err := c.Read(context.Background())
			read <- err
		}()
		if err := all.Shutdown(soon(t), websocket.StatusGoingAway, ""); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-read; !errors.Is(err, websocket.StatusGoingAway) {
			t.Errorf("read %v, want 1001", err)
		}
	})
}
