// Package interop tests the package against other implementations: Chromium, Node's ws, nginx.
// Chromium itself is driven over its DevTools protocol through websocket.Dial.
//
// Tests of a peer that is not installed are skipped. With INTEROP=required in the environment they fail.
package interop

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/websocket"
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

// TestMain starts the test binary again with a setting that net/http reads when the process starts. Without it a server
// gets no extended CONNECT (RFC 8441).
func TestMain(m *testing.M) {
	const setting = "http2xconnect=1"
	debug := os.Getenv("GODEBUG")
	if !strings.Contains(debug, setting) {
		os.Setenv("GODEBUG", strings.Trim(debug+","+setting, ","))
		self, err := os.Executable()
		if err == nil {
			err = syscall.Exec(self, os.Args, os.Environ())
		}
		fmt.Fprintln(os.Stderr, "starting again with", setting, "failed:", err)
	}
	os.Exit(m.Run())
}

// find returns the path of the first of the programs that is installed.
func find(t *testing.T, programs ...string) string {
	t.Helper()
	for _, p := range programs {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	missing(t, "%s is not installed", strings.Join(programs, " or "))
	return ""
}

func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("INTEROP") == "required" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receive waits for a value of ch.
func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s in %v", what, patience)
		panic("unreachable")
	}
}

func dial(t *testing.T, url string, opts *websocket.Options) *websocket.Conn {
	t.Helper()
	c, err := websocket.Dial(patient(t), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// An arrival is a connection of the server under test: its request and its end.
type arrival struct {
	request *http.Request
	end     error // of the read loop
}

// A peer is our server for a client of another implementation, with a page for a browser.
//
//	/echo    sends back each message
//	/close   closes with the code and reason of the query
//	/parts   sends "Hel", "lo, " and "Wörld" as fragments of one message, and likewise a binary one
//	/ping    sends its ping's round trip, in nanoseconds, once it is known
type peer struct {
	opts     *websocket.Options
	arrivals chan arrival
}

func newPeer(opts *websocket.Options) *peer {
	return &peer{opts: opts, arrivals: make(chan arrival, 1000)}
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serve := map[string]func(*websocket.Conn, *http.Request) error{
		"/echo": echo, "/close": closeAtOnce, "/parts": sendParts, "/ping": reportPing,
	}[r.URL.Path]
	if serve == nil {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!doctype html><title>interop</title>")
		return
	}
	websocket.Handler(p.opts, func(c *websocket.Conn, r *http.Request) {
		p.arrivals <- arrival{r, serve(c, r)}
	}).ServeHTTP(w, r)
}

func echo(c *websocket.Conn, r *http.Request) error {
	ctx := context.Background()
	for {
		typ, p, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, typ, p); err != nil {
			return err
		}
	}
}

func closeAtOnce(c *websocket.Conn, r *http.Request) error {
	var code websocket.StatusCode
	fmt.Sscan(r.URL.Query().Get("code"), &code)
	return c.Close(code, r.URL.Query().Get("reason"))
}

func sendParts(c *websocket.Conn, r *http.Request) error {
	ctx := context.Background()
	for _, typ := range []websocket.MessageType{websocket.TextMessage, websocket.BinaryMessage} {
		w, err := c.Writer(ctx, typ)
		if err != nil {
			return err
		}
		for _, part := range []string{"Hel", "lo, ", "W\xc3", "\xb6rld"} {
			if _, err := w.Write([]byte(part)); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return echo(c, r)
}

func reportPing(c *websocket.Conn, r *http.Request) error {
	go func() {
		rtt, err := c.Ping(c.Context())
		c.WriteJSON(context.Background(), map[string]any{"rtt": rtt, "failed": err != nil})
	}()
	return echo(c, r)
}
