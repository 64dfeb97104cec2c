package websocket

// Two small primitives for waiting: a lock that can be held across I/O and waited for with a context, and an event that
// allocates nothing until somebody waits for it.

import (
	"context"
	"sync"
	"sync/atomic"
)

// A turn is a lock that may be held across I/O and that others can wait for with a context. Any goroutine may call its
// methods; only the holder calls unlock. Waiters are served in no particular order. The zero value is free.
//
// Locking a free turn is one compare-and-swap, which costs a third of a channel operation.
type turn struct {
	held    atomic.Bool
	waiting atomic.Int32 // goroutines in lock

	mu   sync.Mutex    // guards the allocation of wake
	wake chan struct{} // of capacity 1, allocated on first contention; holds a token when waiters should try again
}

// tryLock takes the turn if it is free, and reports whether it did.
func (t *turn) tryLock() bool { return t.held.CompareAndSwap(false, true) }

// lock waits for the turn. It returns false if ctx is done or stop is closed first. A free turn is taken even in that
// case.
func (t *turn) lock(ctx context.Context, stop <-chan struct{}) bool {
	// waiting is incremented before the first try. An unlock that happens after a failed try therefore sees the waiter,
	// so no wakeup is missed.
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

// isContended reports whether a goroutine is waiting for the turn.
func (t *turn) isContended() bool { return t.waiting.Load() > 0 }

// isHeld reports whether a goroutine holds the turn.
func (t *turn) isHeld() bool { return t.held.Load() }

// bell returns wake, and allocates it first if necessary.
func (t *turn) bell() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake == nil {
		t.wake = make(chan struct{}, 1)
	}
	return t.wake
}

// A signal is an event that happens once. Its methods are called with the lock of its owner held. The owner also
// records whether the event has happened, so that a signal takes one word.
type signal struct{ ch chan struct{} } // allocated by the first waiter

// wait returns a channel that is closed when the signal fires. If it has fired before, the caller sets fired.
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
