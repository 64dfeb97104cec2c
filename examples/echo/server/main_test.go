package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"

	"example.com/websocket"
)

func start(t *testing.T, ln net.Listener) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		var all websocket.Group
		done <- serve(ctx, &http.Server{Handler: websocket.Handler(&websocket.Options{Group: &all}, echo)}, ln, &all)
	}()
	return func() error { cancel(); return <-done }
}

func TestServer_EchoesAndSaysGoingAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, ln)
	c, err := websocket.Dial(t.Context(), "ws://"+ln.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, typ := range []websocket.MessageType{websocket.TextMessage, websocket.BinaryMessage} {
		if err := c.Write(t.Context(), typ, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		got, p, err := c.Read(t.Context())
		if got != typ || string(p) != "hello" || err != nil {
			t.Errorf("sent %v, got %v %q, %v", typ, got, p, err)
		}
	}

	read := make(chan error, 1)
	go func() {
		_, _, err := c.Read(context.Background())
		read <- err
	}()
	if err := stop(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := <-read; !errors.Is(err, websocket.StatusGoingAway) {
		t.Errorf("closed with %v, want 1001", err)
	}
}

func TestServer_ReturnsTheError_OfItsListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	var all websocket.Group
	if err := serve(t.Context(), &http.Server{}, ln, &all); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve: %v, want the listener's error", err)
	}
}
