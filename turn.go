package websocket

import (
	"context"
	"sync"
	"sync/atomic"
)

// A turn is held by one goroutine at a time, also across I/O. Taking one that is free costs a compare-and-swap, a third
// of what a channel of one does, and a turn that nobody has waited for holds no channel; those who wait do so at one, and
// may give up. Who comes first is not kept.
type turn struct {
	held    atomic.Bool
	waiting atomic.Int32

	mu   sync.Mutex // guards wake while it is made or looked at
	wake chan struct{}
}

// try takes the turn if it is free.
func (t *turn) try() bool { return t.held.CompareAndSwap(false, true) }

// take waits for the turn, until ctx is done or stop is closed; then it is false.
func (t *turn) take(ctx context.Context, stop <-chan struct{}) bool {
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	for !t.try() {
		select {
		case <-t.bell():
		case <-ctx.Done():
			return false
		case <-stop:
			return false
		}
	}
	return true
}

// give frees the turn, and then wakes one that waits. He has counted himself before he tried.
func (t *turn) give() {
	t.held.Store(false)
	if t.waiting.Load() > 0 {
		select {
		case t.bell() <- struct{}{}:
		default:
		}
	}
}

func (t *turn) bell() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake == nil {
		t.wake = make(chan struct{}, 1)
	}
	return t.wake
}

// A signal tells those who wait of an event, of which its owner knows whether it has happened.
type signal struct{ ch chan struct{} } // made by the first that waits

// wait returns a channel that is closed when it happens.
func (s *signal) wait(happened bool) <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
		if happened {
			close(s.ch)
		}
	}
	return s.ch
}

// happen makes it happen; the owner calls it once.
func (s *signal) happen() {
	if s.ch != nil {
		close(s.ch)
	}
}
