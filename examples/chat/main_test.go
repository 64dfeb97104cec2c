package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/websocket"
)

// start serves the chat on a free port; stop drains it and returns the error of serve.
func start(t *testing.T) (addr string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln, newHub()); close(done) }()
	stop = func() error { cancel(); return <-done }
	t.Cleanup(func() { stop() })
	return ln.Addr().String(), stop
}

func TestChat_SaysGoingAway_WhenItDrains(t *testing.T) {
	addr, stop := start(t)
	ann, bob := join(t, addr, "lobby", "Ann"), join(t, addr, "cellar", "Bob")
	ann.hears("welcome: Ann")
	bob.hears("welcome: Bob")
	closed := make(chan error, 2)
	for _, g := range []guest{ann, bob} {
		go func() {
			_, _, err := g.Read(context.Background())
			closed <- err
		}()
	}
	if err := stop(); err != nil {
		t.Errorf("drained: %v", err)
	}
	for range 2 {
		if err := <-closed; !errors.Is(err, websocket.StatusGoingAway) {
			t.Errorf("closed with %v, want 1001", err)
		}
	}
	if _, err := dial(t, addr, "lobby", "Eve"); err == nil {
		t.Error("a drained server accepted a connection")
	}
}

func TestChat_Fails_WhenTheListenerFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := serve(t.Context(), ln, newHub()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve: %v, want the listener's error", err)
	}
}

func TestChat_ServesThePage_WithItsPolicy(t *testing.T) {
	addr, _ := start(t)
	for path, typ := range map[string]string{
		"/": "text/html", "/chat.js": "text/javascript", "/chat.css": "text/css", "/icon.svg": "image/svg+xml",
	} {
		res, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || !strings.HasPrefix(got, typ) {
			t.Errorf("%s: status %d, type %q", path, res.StatusCode, got)
		}
		if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'self'") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}
