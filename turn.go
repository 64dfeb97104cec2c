package websocket

import (
	"context"
	"sync"
	"sync/atomic"
)

// A turn is a lock that one goroutine holds at a time, also across I/O, and for which others can wait with a context.
// Locking a free one costs a compare-and-swap, a third of what a channel of one costs. The order of those who wait is
// not kept. The zero value is free.
type turn struct {
	held    atomic.Bool
	waiting atomic.Int32

	mu   sync.Mutex    // guards wake while it is made or read
	wake chan struct{} // of capacity 1, allocated on first contention
}

// tryLock takes the turn if it is free.
func (t *turn) tryLock() bool { return t.held.CompareAndSwap(false, true) }

// lock waits for the turn. It returns false if ctx is done or stop is closed first.
func (t *turn) lock(ctx context.Context, stop <-chan struct{}) bool {
	// A waiter increments waiting before its first try, so no wakeup is missed.
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	for !t.tryLock() {
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

// unlock frees the turn and wakes one waiter.
func (t *turn) unlock() {
	t.held.Store(false)
	if t.waiting.Load() > 0 {
		select {
		case t.bell() <- struct{}{}:
		default:
		}
	}
}

// isContended reports whether a goroutine waits for the turn.
func (t *turn) isContended() bool { return t.waiting.Load() > 0 }

// isHeld reports whether a goroutine holds the turn.
func (t *turn) isHeld() bool { return t.held.Load() }

func (t *turn) bell() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake == nil {
		t.wake = make(chan struct{}, 1)
	}
	return t.wake
}

// A signal wakes its waiters once. Its owner's lock guards it, and its owner knows whether it has fired.
type signal struct{ ch chan struct{} } // allocated by the first waiter

// wait returns a channel that is closed once the signal has fired.
func (s *signal) wait(fired bool) <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
		if fired {
			close(s.ch)
		}
	}
	return s.ch
}

// fire wakes the waiters. The owner calls it once.
func (s *signal) fire() {
	if s.ch != nil {
		close(s.ch)
	}
}
