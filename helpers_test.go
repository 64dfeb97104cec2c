package websocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// returned waits for what runs in the background, for an hour of the bubble.
func returned[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Hour):
		t.Fatalf("%s hangs", what)
		panic("unreachable")
	}
}

// returnedSoon is returned outside of a bubble.
func returnedSoon[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-soon(t).Done():
		t.Fatalf("%s hangs", what)
		panic("unreachable")
	}
}

// wantEnded demands that the connection has ended, or does within an hour of the bubble.
func wantEnded(t *testing.T, c *Conn) {
	t.Helper()
	select {
	case <-c.Context().Done():
	case <-time.After(time.Hour):
		t.Error("the connection has not ended")
	}
}

// connectEnds returns Conns at the two ends of a connection, the second of which is the peer of the first.
func connectEnds(t *testing.T, a, b net.Conn, server bool, change ...func(*config)) (c, peer *Conn) {
	t.Helper()
	c, _ = connectOver(t, a, b, server, change...)
	peer, _ = connectOver(t, b, a, !server, change...)
	return c, peer
}

// roleEnds returns the ends of a connection of the wire that the test runs over, that of the Conn first.
func roleEnds(t *testing.T, server bool) (near, far net.Conn) {
	t.Helper()
	near, far = ends(t)
	if !server {
		near, far = far, near
	}
	return near, far
}

// An askedContext ends, once it is armed, when it is asked whether it has ended. Asked again and again it comes back to
// life, which ends a spin.
type askedContext struct {
	context.Context
	done  chan struct{}
	mu    sync.Mutex // guards what follows
	armed bool
	asked int
	funcs []func()
}

func newAskedContext(t *testing.T) *askedContext {
	return &askedContext{Context: patience(t), done: make(chan struct{})}
}

func (c *askedContext) Done() <-chan struct{} { return c.done }

// AfterFunc is for context.AfterFunc: what it is given runs before Err has returned for the first time.
func (c *askedContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.funcs = append(c.funcs, f)
	return func() bool { return true }
}

func (c *askedContext) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = true
}

func (c *askedContext) Err() error {
	c.mu.Lock()
	if c.armed {
		c.asked++
	}
	asked, funcs := c.asked, c.funcs
	c.mu.Unlock()
	if asked == 0 || asked > spins {
		return nil
	}
	if asked == 1 {
		close(c.done)
		for _, f := range funcs {
			f()
		}
	}
	return context.Canceled
}

// spun reports whether it was asked again and again.
func (c *askedContext) spun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked > spins
}

var errPanicked = errors.New("panicked")

// unpanicked returns a panic of f as an error.
func unpanicked(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errPanicked, v)
		}
	}()
	return f()
}
