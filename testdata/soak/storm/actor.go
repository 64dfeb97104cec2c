package storm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"example.com/websocket"
)

// An actor is a goroutine that calls the methods of one end. It remembers its last calls.
type actor struct {
	name    string
	end     *end
	pair    *pair
	c       *websocket.Conn
	rand    *rand.Rand
	haste   float64         // share of its calls whose context ends soon
	ways    []way           // to send
	ledger  *ledger         // of the messages it sends; nil: it sends none
	tally   *tally          // of the messages it reads
	over    context.Context // of the connection
	late    bool            // the connection had ended before the last call
	done    chan struct{}
	several context.Context // shared by several calls in a row
	cancel  context.CancelFunc

	mu    sync.Mutex // guards the calls, for the actor and for a report
	calls [30]call
	count int
}

type call struct {
	begin, took time.Duration // since the pair was connected
	who, what   string
	size        int
	running     bool
	err         error
}

var errPanicked = errors.New("the call panicked")

// do makes a call and remembers it. A panic is a finding.
func (a *actor) do(what string, size int, f func() error) (err error) {
	begin := time.Since(a.pair.born)
	a.late = a.over.Err() != nil
	a.mu.Lock()
	this := &a.calls[a.count%len(a.calls)]
	*this = call{begin: begin, who: a.name, what: what, size: size, running: true}
	a.count++
	a.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = errPanicked
			a.fail("panic", "%s: %v\n%s", what, p, debug.Stack())
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		this.took, this.err, this.running = time.Since(a.pair.born)-begin, err, false
	}()
	return f()
}

func (a *actor) fail(class, format string, args ...any) {
	a.pair.fail(class, a.name+": "+format, args...)
}

// running names the call that has not returned.
func (a *actor) running() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := a.calls[max(a.count-1, 0)%len(a.calls)]; last.running {
		return fmt.Sprintf("%s: %s, which began %v ago", a.name, last.what, time.Since(a.pair.born)-last.begin)
	}
	return a.name + ", which is between two calls"
}

// printHistory prints the last calls of the pair in the order in which they began, and the counters of its ends.
func (p *pair) printHistory(w io.Writer) {
	for _, e := range p.ends {
		if e.c != nil {
			fmt.Fprintf(w, "  %s: %+v\n", e.name, e.c.Stats())
		}
	}
	var all []call
	for _, a := range p.actors {
		a.mu.Lock()
		all = append(all, a.calls[:min(a.count, len(a.calls))]...)
		a.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b call) int { return int(a.begin - b.begin) })
	for _, c := range all[max(0, len(all)-40):] {
		result := fmt.Sprintf("%v after %v", c.err, c.took)
		if c.running {
			result = "has not returned"
		}
		fmt.Fprintf(w, "    %12v  %-16s %-13s %7d  %s\n", c.begin, c.who, c.what, c.size, result)
	}
}

var errReason = errors.New("the reason of the context")

// forever is a context that could end but never does, like that of a server's main function.
var forever, _ = context.WithCancel(context.Background())

// context returns the context of a call. If the actor is hasty and the storm is not quiet, the context may end at any
// moment.
func (a *actor) context() (context.Context, context.CancelFunc) {
	nothing := func() {}
	soon, hasty := a.soon()
	if !hasty {
		return [...]context.Context{context.Background(), forever, a.over}[a.rand.IntN(3)], nothing
	}
	switch a.rand.IntN(4) {
	case 0:
		return context.WithTimeout(forever, soon)
	case 1:
		return context.WithTimeoutCause(context.Background(), soon, errReason)
	case 2:
		ctx, cancel := context.WithCancelCause(context.Background())
		t := time.AfterFunc(soon, func() { cancel(errReason) })
		return ctx, func() { t.Stop(); cancel(nil) }
	}
	if a.several == nil || a.several.Err() != nil {
		a.several, a.cancel = context.WithTimeout(context.Background(), 10*soon)
	}
	return a.several, nothing
}

// soon returns how long a hasty call may take.
func (a *actor) soon() (d time.Duration, hasty bool) {
	if a.rand.Float64() >= a.haste || a.pair.round.quiet.Load() != nil {
		return 0, false
	}
	return time.Duration(a.rand.IntN([...]int{1, 50, 500, 5000}[a.rand.IntN(4)])) * time.Microsecond, true
}

// deadline returns the deadline for a call of a Stream.
func (a *actor) deadline() time.Time {
	if d, hasty := a.soon(); hasty {
		return time.Now().Add(d)
	}
	return time.Time{}
}

// A result says what the error of a call means to its caller.
type result uint8

const (
	succeeded result = iota
	gaveUp           // the context ended first, or MaxPending was reached: nothing happened and the connection stays usable
	ended            // the connection has ended
)

var (
	errNothing = errors.New("storm: a deadline passed and nothing happened")
	errEnded   = errors.New("storm: the loop over messages has ended")
)

// judge interprets err, the error of a call with ctx, and compares it with the documentation.
func (a *actor) judge(what string, ctx context.Context, err error) result {
	byContext := err != errNothing && !errors.Is(err, websocket.ErrBacklog)
	switch {
	case err == nil:
		return succeeded
	case err == errEnded || err == errPanicked || err == errLate || isEnd(err):
		return ended
	case byContext && (ctx.Err() == nil || !errors.Is(err, ctx.Err())):
		a.fail("error", "%s returned %v, which is no error of the connection or its context", what, err)
		return ended
	case a.late && err != websocket.ErrBacklog || byContext && ctx == a.over:
		a.fail("verdict", "%s returned %v, although the connection has ended by %v", what, err, context.Cause(a.over))
		return ended
	case byContext && !errors.Is(err, context.Cause(ctx)):
		a.fail("cause", "%s returned %v, which hides the context's cause", what, err)
	}
	return gaveUp
}

// isEnd reports whether err is an error with which a connection ends.
func isEnd(err error) bool {
	var closed *websocket.CloseError
	var broke *websocket.ProtocolError
	return errors.Is(err, net.ErrClosed) || errors.As(err, &closed) || errors.As(err, &broke) ||
		errors.Is(err, websocket.StatusAbnormalClosure) || errors.Is(err, websocket.StatusTryAgainLater)
}

// streamError translates an error of a Stream for judge.
func streamError(err error) error {
	switch {
	case err == io.EOF:
		return errEnded
	case errors.Is(err, os.ErrDeadlineExceeded) && !isEnd(err):
		return errNothing
	}
	return err
}
