package websocket

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	maxReason  = maxControlPayload - 2
	drainLimit = 1 << 20 // bytes of a peer that goes on after the end, read so that it sees our close frame
)

// valid reports whether the code may stand in a close frame (RFC 6455, section 7.4, and the IANA registry).
func (c StatusCode) valid() bool {
	switch {
	case c >= 3000 && c <= 4999:
		// Section 7.4.2: "Status codes in the range 3000-3999 are reserved for use by libraries, frameworks, and
		// applications." and "4000-4999 are reserved for private use".
		return true
	case c == 1004 || c == StatusNoStatusRcvd || c == StatusAbnormalClosure:
		// Section 7.4.1: 1005 and 1006 are "reserved value[s] and MUST NOT be set as a status code in a Close control
		// frame by an endpoint"; 1004 is "Reserved."
		return false
	}
	return c >= StatusNormalClosure && c <= StatusBadGateway
}

// closePayload makes the body of a close frame.
func closePayload(code StatusCode, reason string) ([]byte, error) {
	switch {
	case !code.valid():
		return nil, fmt.Errorf("websocket: status code %d must not be sent", uint16(code))
	case len(reason) > maxReason:
		return nil, fmt.Errorf("websocket: the reason of a close frame is longer than %d bytes", maxReason)
	case !utf8.ValidString(reason):
		return nil, errors.New("websocket: the reason of a close frame is not valid UTF-8")
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...), nil
}

// parseClose reads the body of the peer's close frame.
func parseClose(p []byte) (*CloseError, error) {
	if len(p) == 0 {
		// Section 7.1.5: "If this Close control frame contains no status code, _The WebSocket Connection Close Code_ is
		// considered to be 1005."
		return &CloseError{Code: StatusNoStatusRcvd}, nil
	}
	if len(p) == 1 {
		// Section 5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer".
		return nil, protocolError("close frame with a body of 1 byte")
	}
	code, reason := StatusCode(binary.BigEndian.Uint16(p)), p[2:]
	if !code.valid() {
		return nil, protocolError("close frame with the status code %d", uint16(code))
	}
	if !utf8.Valid(reason) {
		return nil, &ProtocolError{StatusInvalidFramePayloadData, "reason of a close frame that is not valid UTF-8"}
	}
	return &CloseError{code, string(reason)}, nil
}

// A closeState says how far a connection is on its way to its end, a closeEvent takes it further.
type (
	closeState uint8
	closeEvent uint8
)

const (
	stateOpen     closeState = iota
	stateSent                // our close frame is on its way, the peer's has not come
	stateReceived            // the peer's has come, and ours is on its way
	stateFailed              // no close frame is to come; ours, if there is one, is on its way
	stateOver                // the connection beneath is closed
)

const (
	eventClose closeEvent = iota // Close was called
	eventPeer                    // the peer's close frame came
	eventFail                    // the peer broke a rule, or the connection broke
	eventOver                    // the connection beneath was closed
	eventCount = iota
)

// nextState is the closing handshake of section 7.1.
var nextState = [...][eventCount]closeState{
	stateOpen:     {eventClose: stateSent, eventPeer: stateReceived, eventFail: stateFailed, eventOver: stateOver},
	stateSent:     {eventClose: stateSent, eventPeer: stateReceived, eventFail: stateFailed, eventOver: stateOver},
	stateReceived: {eventClose: stateReceived, eventPeer: stateReceived, eventFail: stateReceived, eventOver: stateOver},
	stateFailed:   {eventClose: stateFailed, eventPeer: stateFailed, eventFail: stateFailed, eventOver: stateOver},
	stateOver:     {eventClose: stateOver, eventPeer: stateOver, eventFail: stateOver, eventOver: stateOver},
}

// reached returns the state.
func (c *Conn) reached() closeState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// step takes an event and returns the state before it. The first event that ends the connection sets the verdict.
func (c *Conn) step(event closeEvent, err error) (before closeState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before = c.state
	c.state = nextState[before][event]
	if before == stateOpen {
		c.verdict.Store(&verdict{err})
		c.down.happen()
	}
	return before
}

// Close sends a close frame, waits for the peer's and closes the connection, all within Options.CloseTimeout. What
// was accepted by Write and Send before goes out first; reads and writes that wait return net.ErrClosed; messages
// that still arrive are passed over. The reason is for the logs of the peer, at most 123 bytes of UTF-8.
//
// It returns nil when both close frames were exchanged, whoever began; an error that matches os.ErrDeadlineExceeded
// when the peer did not answer in time; the connection's error when it had failed before; net.ErrClosed when it was
// called before, or CloseNow was. A code that may not be sent, or a wrong reason, is an error and nothing is sent.
func (c *Conn) Close(code StatusCode, reason string) error {
	payload, err := closePayload(code, reason)
	if err != nil {
		return err
	}
	err, began := c.beginClose(payload, false)
	if !began {
		return err
	}
	return c.shake()
}

// beginClose sends the close frame of Close, without waiting, or returns what Close has to say of a connection that
// was ended before. With drop set, what was accepted and is not under way is not sent any more.
func (c *Conn) beginClose(payload []byte, drop bool) (err error, began bool) {
	c.mu.Lock()
	called := c.called
	c.called = true
	c.mu.Unlock()
	if called {
		return net.ErrClosed, false
	}
	if c.step(eventClose, net.ErrClosed) != stateOpen {
		return c.endedBy(), false
	}
	c.cutLater()
	c.interruptRead()
	c.sendClose(net.ErrClosed, payload, drop)
	return nil, true
}

// endedBy returns what Close says of a connection that had ended: nil after both close frames.
func (c *Conn) endedBy() error {
	err := c.failure()
	var closed *CloseError
	if errors.As(err, &closed) {
		return nil
	}
	return err
}

// shake waits for the end of the closing handshake that beginClose began.
func (c *Conn) shake() error {
	err := c.awaitClose()
	if c.reached() == stateReceived {
		c.part()
		c.awaitEnd()
		return nil
	}
	timely := c.cutter != nil && c.cutter.Stop() // there is none if CloseNow was faster
	c.cut()
	<-c.gone()
	switch {
	case c.cutNow.Load():
		return net.ErrClosed
	case !timely:
		return fmt.Errorf("websocket: the peer did not answer the close frame: %w", os.ErrDeadlineExceeded)
	}
	return err
}

// awaitClose reads until the peer's close frame came or the connection broke.
func (c *Conn) awaitClose() error {
	if !c.turn.take(context.Background(), c.gone()) {
		return net.ErrClosed
	}
	defer c.turn.give()
	c.draining = true
	defer func() { c.draining = false }()
	c.in.detach()
	c.nc.SetReadDeadline(time.Time{})
	for c.reached() == stateSent {
		if err := c.passOver(); err != nil {
			return err
		}
		if err := c.nextFrame(context.Background()); err != nil {
			return err
		}
	}
	return c.failure()
}

// passOver reads the rest of the frame under way.
func (c *Conn) passOver() error {
	for {
		c.in.skip()
		if c.in.left == 0 {
			return nil
		}
		if _, err := c.fill(context.Background(), nil); err != nil {
			return err
		}
	}
}

// sendClose sends a close frame behind what was accepted, or as soon as the socket is free. It does not wait.
func (c *Conn) sendClose(err error, payload []byte, drop bool) {
	frame := appendFrame(nil, &header{fin: true, masked: !c.server, opcode: opClose}, payload)
	it := c.seal(err, frame, drop)
	c.drive(context.Background(), it, nil, false)
}

// peerClosed answers the close frame of the peer. It returns the error of the reads to come.
func (c *Conn) peerClosed(payload []byte) error {
	closed, err := parseClose(payload)
	if err != nil {
		return c.fail(err)
	}
	if c.step(eventPeer, closed) != stateOpen {
		return c.failure()
	}
	// Section 5.5.1: "If an endpoint receives a Close frame and did not previously send a Close frame, the endpoint MUST
	// send a Close frame in response. (When sending a Close frame in response, the endpoint typically echos the status
	// code it received.)"
	c.cutLater()
	echo := payload
	if len(payload) > 2 {
		echo = payload[:2]
	}
	c.sendClose(closed, echo, false)
	c.part()
	return closed
}

// fail is the one function that fails a connection (section 7.1.7): it tells the peer the code that err calls for,
// ends the connection, and returns the error of the reads and writes to come, which is an earlier one if there is.
func (c *Conn) fail(err error) error {
	if c.step(eventFail, err) != stateOpen {
		return c.reason(err)
	}
	protocol, ok := err.(*ProtocolError)
	if !ok {
		c.cut()
		return err
	}
	c.cutLater()
	c.interruptRead()
	payload, perr := closePayload(protocol.Code, protocol.Reason)
	if perr != nil {
		payload, _ = closePayload(protocol.Code, "")
	}
	c.sendClose(err, payload, false)
	c.part()
	return err
}

// reason returns the error of reads and writes; while Close waits for the peer, that is err, which is news to it.
func (c *Conn) reason(err error) error {
	if c.draining {
		return err
	}
	return c.failure()
}

// writeFailed fails the connection for an error of writing. A peer that has closed in the meantime may have left a
// close frame, which tells more: a read that is at work gets the time to find it.
func (c *Conn) writeFailed(err error) error {
	if failure := c.failure(); failure != nil {
		return failure
	}
	err = &lostError{"writing", err}
	if c.turn.held.Load() && isReset(err) {
		time.AfterFunc(lingering, func() { c.fail(err) })
		return err
	}
	return c.fail(err)
}

// isReset reports whether err tells that the peer has gone, not that it is slow or that our side gave up.
func isReset(err error) bool {
	return !isTimeout(err) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// lingering is how long a read may look for a close frame after a write has failed, and a close frame of ours may be on
// its way after CloseNow.
const lingering = time.Second

// part ends a connection whose last close frame was queued, without making its caller wait.
func (c *Conn) part() {
	c.ended()
	if c.server && c.reached() == stateReceived && c.out.isFlushed() && c.drained() {
		// Section 7.1.1: the server closes the TCP connection first, and immediately.
		c.release(c.nc.Close)
		return
	}
	go c.linger()
}

// drained reports whether nothing of the peer is left to be read: closing a socket with unread bytes resets it, and
// the peer might never see our close frame.
func (c *Conn) drained() bool {
	return len(c.in.buffered()) == 0 && c.sock != nil && c.sock.drained()
}

// isFlushed reports whether our close frame is out.
func (s *sender) isFlushed() bool {
	select {
	case <-s.flushed:
		return true
	default:
		return false
	}
}

// linger waits until our close frame is out, closes our half of the connection and reads until the peer has closed
// its own. The bytes are bounded, and so is the time: see cutLater.
func (c *Conn) linger() {
	if c.out.flushed == nil { // nothing can be written any more
		c.cut()
		return
	}
	select {
	case <-c.out.flushed:
	case <-c.gone():
		return
	}
	c.turn.take(context.Background(), nil)
	defer c.turn.give()
	if c.server {
		closeWrite(c.nc)
	}
	c.readWatch.unset()
	c.nc.SetReadDeadline(time.Time{})
	c.drain()
	c.release(c.nc.Close)
}

// drain reads what the peer still sends, within bounds.
func (c *Conn) drain() {
	b := getBuffer(directRead)
	defer b.free()
	for n := 0; n < drainLimit; {
		m, err := c.nc.Read(b.b[:cap(b.b)])
		n += m
		if err != nil {
			return
		}
	}
}

// closeWrite tells the peer that nothing more will come, if nc can.
func closeWrite(nc net.Conn) {
	if w, ok := nc.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
}

// cutLater bounds the time until the connection beneath is closed.
func (c *Conn) cutLater() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutter == nil && c.state != stateOver {
		c.cutter = time.AfterFunc(c.closeTimeout, c.cut)
	}
}

// CloseNow closes the connection at once, without a close frame. Everything that waits returns net.ErrClosed, a
// running Close too. It returns net.ErrClosed when the connection was closed already.
//
// It does no harm behind an error of a read: of a connection that has failed, or was closed by the peer, nothing waits
// any more, and a close frame that is on its way to the peer gets up to a second to arrive.
func (c *Conn) CloseNow() error {
	c.cutNow.Store(true)
	before := c.step(eventFail, net.ErrClosed)
	if before == stateOver {
		return net.ErrClosed
	}
	if (before == stateFailed || before == stateReceived) && c.resets() && c.out.onlyCloses() {
		c.cutWithin(lingering)
		c.awaitEnd()
		return nil
	}
	c.cut()
	return nil
}

// awaitEnd waits until nothing more is written to nc, if that belongs to a handler, which may return after Close or
// CloseNow.
func (c *Conn) awaitEnd() {
	if h, ok := c.nc.(interface{ awaitEnd() }); ok {
		h.awaitEnd()
	}
}

// resets reports whether closing nc with unread bytes, or too early, takes our close frame away from the peer.
func (c *Conn) resets() bool {
	_, tls := c.nc.(interface{ NetConn() net.Conn })
	_, stream := c.nc.(interface{ awaitEnd() })
	return tls || stream || c.sock != nil
}

// onlyCloses reports whether our close frame is out, or the next to be sent.
func (s *sender) onlyCloses() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flushed != nil && (s.queue.head == nil || s.queue.head.closing)
}

// cutWithin shortens the time of cutLater.
func (c *Conn) cutWithin(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutter != nil && d < c.closeTimeout && c.cutter.Stop() {
		c.cutter = time.AfterFunc(d, c.cut)
	}
}

// cut closes the connection beneath, whatever is under way.
func (c *Conn) cut() {
	c.step(eventFail, net.ErrClosed)
	c.release(func() error { return abruptly(c.nc) })
}

// abruptly closes nc without a word, which could block.
func abruptly(nc net.Conn) error {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	return nc.Close()
}

// release closes the connection beneath and frees what the Conn holds, once.
func (c *Conn) release(closeConn func() error) {
	if c.step(eventOver, net.ErrClosed) == stateOver {
		return
	}
	c.ended()
	closeConn()
	c.out.abort(c.failure())
	go c.unwatch()
	c.mu.Lock()
	if c.cutter != nil {
		c.cutter.Stop()
	}
	c.isOver = true
	c.over.happen()
	c.mu.Unlock()
}

// unwatch lets go of the contexts of the last read and write, which may outlive the connection. What is at work with
// them ends now, for nc is closed.
func (c *Conn) unwatch() {
	c.turn.take(context.Background(), nil)
	c.readWatch.unset()
	c.turn.give()
	c.out.mu.Lock()
	idle := !c.out.busy
	c.out.busy = true // nothing is sent any more
	c.out.mu.Unlock()
	if idle {
		c.writeWatch.unset()
	}
}

// ended tells those who wait for the end of the connection.
func (c *Conn) ended() {
	c.mu.Lock()
	c.isEnded = true // it joins no group any more
	groups := slices.Clone(c.groups)
	c.mu.Unlock()
	for _, g := range groups {
		g.drop(c)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups, c.hasLeft = nil, true
	if c.life != nil {
		c.life.cancel(c.failure())
	}
}

// failing returns a channel that is closed with the verdict.
func (c *Conn) failing() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down.wait(c.failed())
}

// gone returns a channel that is closed when the connection beneath is.
func (c *Conn) gone() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over.wait(c.isOver)
}

// CloseRead is for those who only write: it reads control frames in the background, so that pings are answered and
// the peer's close frame is seen. A data message fails the connection with StatusPolicyViolation. The context that
// it returns ends with the connection or with ctx; when ctx ends, so does the reading, and the connection lives.
func (c *Conn) CloseRead(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		_, _, err := c.Reader(ctx)
		if err == nil {
			err = c.fail(&ProtocolError{StatusPolicyViolation, "a data message after CloseRead"})
		}
		cancel(err)
	}()
	return ctx
}

var errSilent = fmt.Errorf("the peer was silent for twice KeepAlive: %w", os.ErrDeadlineExceeded)
