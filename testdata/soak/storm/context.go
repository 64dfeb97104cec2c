package storm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"example.com/websocket"
)

var errReason = errors.New("the reason of the context")

// forever is a context that could end and never does, as that of a server's main function.
var forever, _ = context.WithCancel(context.Background())

// context returns the context of a call, which ends at any moment if the actor is hasty, and never while all wait.
func (a *actor) context() (context.Context, context.CancelFunc) {
	nothing := func() {}
	if a.rand.Float64() >= a.haste || a.pair.round.gate.isQuiet() {
		return [...]context.Context{context.Background(), forever, a.c.Context()}[a.rand.IntN(3)], nothing
	}
	soon := time.Duration(a.rand.IntN([...]int{1, 50, 500, 5000}[a.rand.IntN(4)])) * time.Microsecond
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
	if a.own == nil || a.own.Err() != nil {
		a.own, a.cancel = context.WithTimeout(context.Background(), 10*soon)
	}
	return a.own, nothing
}

// A result says what the error of a call means for its message and its caller.
type result uint8

const (
	succeeded result = iota
	gaveUp           // the context ended first; nothing happened and the connection lives
	backlog          // Send took nothing
	ended            // the connection has ended
)

// errNothing is the result of a call that has promised to have no effect.
var errNothing = errors.New("storm: nothing was sent")

// judge classifies the error of a call that was given ctx, and compares it with what the documentation promises.
func (a *actor) judge(what string, ctx context.Context, err error) result {
	switch {
	case err == nil:
		return succeeded
	case errors.Is(err, websocket.ErrBacklog) && !isEnd(err):
		return backlog
	case err == errNothing:
		return gaveUp
	case err == errEnded || err == errPanicked || isEnd(err):
		return ended
	case ctx.Err() == nil || !errors.Is(err, ctx.Err()):
		a.pair.fail("error", "%s: %s: unexpected error: %v", a.name, what, err)
		return ended
	case ctx == a.c.Context():
		a.pair.fail("verdict", "%s: %s with c.Context() returned %v instead of the connection's error, %v", a.name, what, err, context.Cause(ctx))
		return ended
	case !errors.Is(err, context.Cause(ctx)):
		a.pair.fail("cause", "%s: %s returned %v, which hides the context's cause", a.name, what, err)
	}
	return gaveUp
}

// isEnd reports whether err is one that a connection ends with.
func isEnd(err error) bool {
	var closed *websocket.CloseError
	var protocol *websocket.ProtocolError
	return errors.Is(err, net.ErrClosed) || errors.As(err, &closed) || errors.As(err, &protocol) ||
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
