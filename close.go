package websocket

// The end of a connection: its states, the closing handshake, and everything between Close and the end of TCP. The
// states and their table come first. Close goes through close, startClose, awaitClose, peerClosed, finish, linger and
// release; fail and cut are shorter ways to the end. No other file sends a close frame.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// drainLimit is how many bytes are read after the end from a peer that keeps sending, so that it sees our close
	// frame.
	drainLimit = 1 << 20

	// lingering is how long a read may wait for the peer's close frame after a write has failed, how long our close
	// frame may take to arrive after CloseNow, and how long a connection that cannot be half-closed waits for a silent
	// peer.
	lingering = time.Second
)

// A closeState says how far the closing of a connection has progressed (section 7.1).
type closeState uint32

const (
	// stateOpen: messages are read and written. A call to Close, the peer's close frame, a broken rule or a lost
	// connection ends this state and sets the verdict, which is the error of every later read and write.
	stateOpen closeState = iota

	// stateCloseSent: Close was called, or Broadcast expelled the connection. Our close frame is queued after the
	// messages already accepted, which an expulsion drops, and no more are accepted. Close discards incoming messages
	// until the peer's close frame arrives. The connection still belongs to its groups, and its context is not done.
	stateCloseSent

	// stateCloseReceived: the peer's close frame has arrived, and ours is queued or sent. The connection has left its
	// groups and its context is done. Once our frame is sent, a server closes TCP and a client waits for the server to
	// do so.
	stateCloseReceived

	// stateFailed: the peer broke a rule, or the connection is lost. If the peer can still be told, our close frame is
	// queued, and incoming bytes are dropped until the peer closes TCP. Otherwise the connection is cut, and so it is
	// if Close was waiting. The connection has left its groups and its context is done.
	stateFailed

	// stateCutting: one goroutine is closing the underlying connection: that of linger, of the timer, of Close or
	// CloseNow, or of the read or write that ended the connection. Nothing more is read or written.
	stateCutting

	// stateClosed: the underlying connection is closed.
	stateClosed
)

// A closeEvent moves a connection toward its end.
type closeEvent uint8

const (
	eventClose     closeEvent = iota // Close was called, or the peer is too slow for Broadcast
	eventPeerClose                   // the peer's close frame arrived
	eventFail                        // the peer broke a rule, or the connection was lost
	eventCut                         // the underlying connection is about to be closed
	eventClosed                      // the underlying connection was closed
	eventCount     = iota
)

// nextState is the transition table of the closing handshake: the state that follows each state and event.
var nextState = [...][eventCount]closeState{
	stateOpen:          {stateCloseSent, stateCloseReceived, stateFailed, stateCutting, stateClosed},
	stateCloseSent:     {stateCloseSent, stateCloseReceived, stateFailed, stateCutting, stateClosed},
	stateCloseReceived: {stateCloseReceived, stateCloseReceived, stateCloseReceived, stateCutting, stateClosed},
	stateFailed:        {stateFailed, stateFailed, stateFailed, stateCutting, stateClosed},
	stateCutting:       {stateCutting, stateCutting, stateCutting, stateCutting, stateClosed},
	stateClosed:        {stateClosed, stateClosed, stateClosed, stateClosed, stateClosed},
}

// An ending takes a connection from open to closed. It holds the state, the verdict, and everything that must be told
// of the end: the groups, the context and the goroutines that wait.
//
// Any goroutine may call its methods, except that only the holder of the reader's turn calls peerClosed. An ending
// calls the writer to send our close frame (finalize) and to drop the queue (abort), and the reader to stop waiting
// (interrupt), to discard messages and to drain the connection.
type ending struct {
	c     *Conn
	state atomic.Uint32 // a closeState; stored with mu held

	closeCalled bool // by the user
	left        bool // the connection has left its groups and its context is done

	// mu guards all fields, except that state may be loaded at any time, and verdict once state has left stateOpen. It
	// is taken after the mutexes of Group and writer.
	mu       sync.Mutex
	verdict  error     // set before state leaves stateOpen, and never changed after that
	closing  *closing  // made by eventClose and by cutWithin
	leftOpen signal    // fired with the verdict
	shut     signal    // fired with stateClosed
	life     *lifetime // made by Context
	groups   *membership
}

// A closing holds what only a connection that is ending needs. The mutex of its ending guards it.
type closing struct {
	outcome error         // of the closing handshake that Close began; decided by the first event after stateCloseSent
	cutAt   time.Duration // when timer fires, by now()
	timer   *time.Timer   // cuts the connection
}

// A lifetime is the context of a connection.
type lifetime struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// A membership is an element in the list of a connection's groups. The list is never changed in place.
type membership struct {
	group *Group
	next  *membership
}

func (e *ending) init(c *Conn) { e.c = c }

// reached returns the current state.
func (e *ending) reached() closeState { return closeState(e.state.Load()) }

// failure returns the verdict, or nil while the connection is open.
func (e *ending) failure() error {
	if e.reached() == stateOpen {
		return nil
	}
	return e.verdict
}

// errorOf returns the error of a call whose context has ended: the verdict, if there is one, and otherwise the
// context's error.
func (e *ending) errorOf(ctx context.Context) error {
	if err := e.failure(); err != nil {
		return err
	}
	return contextError(ctx)
}

// contextError returns an error that matches ctx.Err() and the cause.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// failing returns a channel that is closed when there is a verdict.
func (e *ending) failing() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leftOpen.wait(e.reached() != stateOpen)
}

// closed returns a channel that is closed when the underlying connection is.
func (e *ending) closed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shut.wait(e.reached() == stateClosed)
}

// step applies an event and returns the state before it. The event that leaves stateOpen sets the verdict to err. The
// event that leaves stateCloseSent sets the outcome of Close.
func (e *ending) step(event closeEvent, err error) (before closeState) {
	before = e.enter(event, err)
	if before == stateOpen {
		e.c.in.ended()
	}
	return before
}

// enter makes the transition for step.
func (e *ending) enter(event closeEvent, err error) (before closeState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before = e.reached()
	after := nextState[before][event]
	switch {
	case after == before:
		return before
	case before == stateOpen:
		e.verdict = err
		if event == eventClose {
			e.closing = new(closing)
		}
		defer e.leftOpen.fire()
	case before == stateCloseSent && event != eventPeerClose:
		e.closing.outcome = err
	}
	e.state.Store(uint32(after))
	if after == stateClosed {
		if e.closing != nil && e.closing.timer != nil {
			e.closing.timer.Stop()
		}
		e.shut.fire()
	}
	return before
}

// Close sends a close frame, waits for the peer's and closes the connection, all within Options.CloseTimeout. Messages
// that Write and Send accepted earlier are sent first. Messages that still arrive are discarded. Blocked reads and
// writes return net.ErrClosed. The reason is for the peer's logs and may have up to 123 bytes of UTF-8.
//
// Close returns
//
//   - nil if both close frames were exchanged, whichever side sent the first
//   - an error that matches os.ErrDeadlineExceeded if the peer did not answer in time
//   - the connection's error if it had failed before
//   - net.ErrClosed if Close or CloseNow was called before
//
// If the code must not be sent or the reason is not valid, Close returns an error, sends nothing and leaves the
// connection open.
//
// Close may return before the underlying connection is closed: a client waits in the background, up to CloseTimeout,
// for the server to close it. Close itself can block for CloseTimeout. If you must not wait, call it on another
// goroutine.
func (c *Conn) Close(code StatusCode, reason string) error {
	payload, err := closePayload(code, reason)
	if err != nil {
		return err
	}
	return c.end.close(payload)
}

// close is Close with the body of our close frame.
func (e *ending) close(payload []byte) error {
	defer e.awaitStream()
	if e.calledBefore() {
		return net.ErrClosed
	}
	if e.step(eventClose, net.ErrClosed) != stateOpen {
		if _, ok := e.failure().(*CloseError); ok {
			return nil // the peer closed the connection, and its close frame was answered
		}
		return e.failure()
	}
	e.startClose(net.ErrClosed, payload, false)
	return e.awaitClose()
}

// startClose sends our close frame. See writer.finalize for drop.
func (e *ending) startClose(verdict error, payload []byte, drop bool) {
	e.cutWithin(e.c.agreed.closeTimeout)
	e.c.in.interrupt()
	e.c.out.finalize(verdict, e.closeFrame(payload), drop)
}

// awaitClose waits for the peer's close frame. It returns the outcome of the closing handshake.
func (e *ending) awaitClose() error {
	e.c.in.discard()
	e.mu.Lock()
	err := e.closing.outcome
	e.mu.Unlock()
	if err != nil {
		e.cut(err)
		<-e.closed()
	}
	return err
}

// awaitStream waits until nothing more is written to nc, if nc is the stream of an HTTP/2 handler, because the handler
// may return after Close or CloseNow. The wait is short unless the HTTP/2 connection is stuck.
func (e *ending) awaitStream() {
	if h, ok := e.c.nc.(interface{ awaitHandler(<-chan time.Time) }); ok {
		h.awaitHandler(time.After(lingering))
	}
}

// calledBefore records a call of Close, and reports whether it is not the first.
func (e *ending) calledBefore() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.closeCalled
	e.closeCalled = true
	return before
}

// closeFrame returns a close frame with the given body.
func (e *ending) closeFrame(payload []byte) []byte {
	h := header{fin: true, masked: masks(e.c.agreed.server), opcode: opClose}
	return appendFrame(make([]byte, 0, maxHeader+len(payload)), &h, payload)
}

// peerClosed handles the peer's close frame and answers it. The holder of the reader's turn calls it. It returns the
// verdict. On a socket that takes the answer at once, everything up to the end of TCP fits on the stack of a goroutine
// that only reads; see reader.fill.
func (e *ending) peerClosed(payload []byte) error {
	closed, err := parseClose(payload)
	if err != nil {
		return e.fail(err)
	}
	before := e.step(eventPeerClose, closed)
	if before == stateOpen {
		// Section 5.5.1: "If an endpoint receives a Close frame and did not previously send a Close frame, the endpoint
		// MUST send a Close frame in response. (When sending a Close frame in response, the endpoint typically echos
		// the status code it received.)"
		e.c.out.finalize(closed, e.closeFrame(payload[:min(len(payload), 2)]), false)
	}
	if before <= stateCloseSent {
		e.finish()
	}
	return e.failure()
}

// fail is the one function that fails a connection (section 7.1.7). It sends the peer the close code that err calls
// for, and cuts the connection if err calls for none. It returns the verdict, which may be an earlier error.
func (e *ending) fail(err error) error {
	if e.step(eventFail, err) != stateOpen {
		return e.failure()
	}
	protocol, ok := err.(*ProtocolError)
	if !ok {
		e.cut(err)
		return err
	}
	payload, perr := closePayload(protocol.Code, protocol.Reason)
	if perr != nil {
		payload, _ = closePayload(protocol.Code, "")
	}
	e.startClose(err, payload, false)
	e.finish()
	return err
}

// expel closes the connection of a peer that is too slow for Broadcast. It does not wait.
func (e *ending) expel() {
	const reason = "too slow"
	err := &ProtocolError{StatusTryAgainLater, reason}
	if e.step(eventClose, err) != stateOpen {
		return
	}
	payload, _ := closePayload(StatusTryAgainLater, reason)
	e.startClose(err, payload, true)
	go e.awaitClose()
}

// writeFailed handles a write that returned err, and returns the error for its caller. If the peer has gone away while
// a read waits, the connection fails only after lingering: the peer's last bytes may be a close frame, which says more
// than err. Otherwise the connection fails at once.
func (e *ending) writeFailed(err error) error {
	if failure := e.failure(); failure != nil {
		return failure
	}
	err = &lostError{"writing", err}
	if e.c.in.isReading() && isReset(err) {
		time.AfterFunc(lingering, func() { e.fail(err) })
		return err
	}
	return e.fail(err)
}

// isReset reports whether err says that the peer went away, rather than that it is slow or that this end gave up.
func isReset(err error) bool {
	return !isTimeout(err) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// finish ends a connection after our close frame was queued. It does not wait: if TCP cannot be closed at once, another
// goroutine lingers, so Close may return before TCP is closed. In stateCloseReceived the holder of the reader's turn
// calls it.
func (e *ending) finish() {
	e.leave()
	if e.mayClose() && e.c.out.isFlushed() && e.c.in.drained() {
		e.release(net.ErrClosed, false)
		return
	}
	e.cutWithin(e.c.agreed.closeTimeout)
	go e.linger()
}

// mayClose reports whether this end is the one that closes TCP first. Section 7.1.1: "the underlying TCP connection, in
// most normal cases, SHOULD be closed first by the server".
func (e *ending) mayClose() bool {
	return e.c.agreed.server && e.reached() == stateCloseReceived
}

// linger waits until our close frame is sent. A server then closes its half of the connection. Both ends read until the
// peer has closed its half. Closing a socket with unread bytes resets it, and the peer might never see our close frame.
// The number of bytes is bounded, and so is the time; see cutWithin.
func (e *ending) linger() {
	flushed := e.c.out.flushing()
	if flushed == nil { // nothing more can be written
		e.cut(net.ErrClosed)
		return
	}
	<-flushed // or dropped, when the connection was cut
	switch {
	case !e.c.agreed.server || closeWrite(e.c.nc):
		e.c.in.drain(0)
	case !e.mayClose():
		e.c.in.drain(lingering)
	}
	e.release(net.ErrClosed, false)
}

// cutWithin schedules cut to run after d, unless it is already scheduled to run earlier.
func (e *ending) cutWithin(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.reached() >= stateCutting {
		return
	}
	if e.closing == nil {
		e.closing = new(closing)
	}
	switch c, at := e.closing, now()+d; {
	case c.timer == nil:
		c.cutAt, c.timer = at, time.AfterFunc(d, func() { e.cut(errNoAnswer) })
	case at < c.cutAt:
		c.cutAt = at
		c.timer.Reset(d)
	}
}

// CloseNow closes the connection at once, without a close frame. Every blocked call returns net.ErrClosed, including
// Close. If the connection is already closed, CloseNow returns net.ErrClosed.
//
// It is safe to defer CloseNow. If the connection has failed or the peer has closed it, the close frame that this end
// sends still has up to a second to reach the peer.
func (c *Conn) CloseNow() error {
	defer c.end.awaitStream()
	switch c.end.reached() {
	case stateCutting, stateClosed:
		return net.ErrClosed
	case stateCloseReceived, stateFailed:
		if c.out.onlyCloses() {
			c.end.cutWithin(lingering)
			return nil
		}
	}
	c.end.cut(net.ErrClosed)
	return nil
}

// cut closes the underlying connection at once. If there is no verdict yet, it is err.
func (e *ending) cut(err error) { e.release(err, true) }

// release closes the underlying connection and frees what the Conn holds, once. If there is no verdict yet, it is err.
// See closeAbruptly for abruptly.
func (e *ending) release(err error, abruptly bool) {
	if e.step(eventCut, err) >= stateCutting {
		return
	}
	e.c.out.abort(e.failure()) // before leave, which may end the context of a Writer, and Close, which may block
	e.leave()
	if abruptly {
		closeAbruptly(e.c.nc)
	} else {
		e.c.nc.Close()
	}
	e.c.in.forget()
	e.step(eventClosed, nil)
}

// Context returns a context that is done when the connection has ended; context.Cause returns the error of its reads
// and writes. The context carries no values.
func (c *Conn) Context() context.Context { return c.end.context() }

// context returns the context for Conn.Context, which the first call makes.
func (e *ending) context() context.Context {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.life == nil {
		e.life = new(lifetime)
		e.life.ctx, e.life.cancel = context.WithCancelCause(context.Background())
		if e.left {
			e.life.cancel(e.verdict)
		}
	}
	return e.life.ctx
}

// join adds a group. It returns false if the connection is not open.
func (e *ending) join(g *Group) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	open := e.reached() == stateOpen
	if open {
		e.groups = &membership{g, e.groups}
	}
	return open
}

// quit removes a group.
func (e *ending) quit(g *Group) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var kept *membership
	for m := e.groups; m != nil; m = m.next {
		if m.group != g {
			kept = &membership{m.group, kept}
		}
	}
	e.groups = kept
}

// leave takes the connection out of its groups, and then ends its context.
func (e *ending) leave() {
	e.mu.Lock()
	groups := e.groups
	e.mu.Unlock()
	for m := groups; m != nil; m = m.next {
		m.group.drop(e.c)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.groups, e.left = nil, true
	if e.life != nil {
		e.life.cancel(e.verdict)
	}
}

// CloseRead reads and handles control frames in the background, so that pings are answered and the peer's close frame
// is seen. Call it on connections that are only written to. A data message fails the connection with
// StatusPolicyViolation.
//
// The returned context is done when the connection or ctx ends. When ctx ends, the background read stops and the
// connection stays open.
func (c *Conn) CloseRead(ctx context.Context) context.Context {
	if err := c.in.refuses(ctx); err != nil {
		ended, cancel := context.WithCancelCause(context.Background())
		cancel(err)
		return ended
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		_, _, err := c.Reader(ctx)
		if err == nil {
			err = c.end.fail(&ProtocolError{StatusPolicyViolation, "data message after CloseRead"})
		}
		cancel(err)
	}()
	return ctx
}

var (
	errSilent   = fmt.Errorf("the peer was silent for twice KeepAlive: %w", os.ErrDeadlineExceeded)
	errNoAnswer = fmt.Errorf("websocket: the peer did not answer the close frame: %w", os.ErrDeadlineExceeded)
)
