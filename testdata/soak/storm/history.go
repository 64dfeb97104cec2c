package storm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"example.com/websocket"
)

// An actor is a goroutine that calls the methods of one end. It remembers its last calls.
type actor struct {
	name  string
	pair  *pair
	end   *end
	c     *websocket.Conn
	rand  *rand.Rand
	haste float64 // how many of its calls have a context that ends
	done  chan struct{}

	own     context.Context // a context for several calls
	cancel  context.CancelFunc
	ways    []way   // to write
	ledger  *ledger // of an actor that ends the connection
	probes  *ledger // of probeTurn
	answers *ledger // of a reader that answers

	mu    sync.Mutex // guards the calls, for the actor and for a report
	calls [30]call
	count int
}

type call struct {
	begin, took time.Duration
	who, what   string
	size        int
	running     bool
	err         error
}

var errPanicked = errors.New("the call panicked")

// do makes a call and remembers it. A panic is a finding.
func (a *actor) do(what string, size int, f func() error) (err error) {
	begin := time.Since(a.pair.born)
	a.mu.Lock()
	slot := &a.calls[a.count%len(a.calls)]
	a.count++
	*slot = call{begin: begin, who: a.name, what: what, size: size, running: true}
	a.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = errPanicked
			a.pair.fail("panic", "%s: %s: %v\n%s", a.name, what, p, debug.Stack())
		}
		a.mu.Lock()
		slot.took, slot.err, slot.running = time.Since(a.pair.born)-begin, err, false
		a.mu.Unlock()
	}()
	return f()
}

// running describes the call that has not returned.
func (a *actor) running() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := &a.calls[max(a.count-1, 0)%len(a.calls)]; last.running {
		return fmt.Sprintf("%s: %s for %v", a.name, last.what, (time.Since(a.pair.born) - last.begin).Round(time.Millisecond))
	}
	return a.name + ": between two calls"
}

// printHistory prints the last calls of the pair's actors in the order in which they began.
func (p *pair) printHistory(w io.Writer, most int) {
	var all []call
	for _, a := range p.allActors() {
		a.mu.Lock()
		for _, c := range a.calls[:min(a.count, len(a.calls))] {
			all = append(all, c)
		}
		a.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b call) int { return int(a.begin - b.begin) })
	for _, c := range all[max(0, len(all)-most):] {
		result := fmt.Sprintf("%v after %v", c.err, c.took.Round(time.Microsecond))
		if c.running {
			result = "has not returned"
		}
		fmt.Fprintf(w, "    %10v  %-18s %-14s %7d  %s\n", c.begin.Round(time.Microsecond), c.who, c.what, c.size, result)
	}
}
