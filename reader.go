package websocket

// The reader turns bytes into frames and handles control frames. It waits for bytes, cancels and resumes reads, and
// counts. frame.go parses headers; message.go turns data frames into messages.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A reader turns the bytes of a connection into frames, and frames into messages. fill puts bytes into buf, header
// parses the header of a frame there, control handles a control frame, and startFrame begins a data frame, whose
// payload message.go takes from buf. All of this happens on the goroutine of the caller that reads: no other goroutine
// parses frames, and between reads nothing is read.
//
// The goroutine that holds turn owns all other fields, with these exceptions: c and bare never change, any goroutine
// may use deliver and limit, and any may load the counts. The state of a read lives here and not on a stack, so that
// the next read can resume one that was cancelled at any byte.
//
// A read that waits in fill is told to stop by a read deadline in the past (interrupt). It then asks stopped for the
// reason, which was stored before the interrupt: the verdict, a change of OnMessage, or the end of its context. If
// there is none, the deadline is that of KeepAlive, or the connection is to be parked (rearm).
//
// A reader never waits for the writer. It acts on the other parts of the Conn through ending.fail and
// ending.peerClosed; writer.pong, writer.expectMore and writer.flushDeferred; pings.answered; and Conn.ping.
type reader struct {
	c    *Conn
	turn turn

	buf      readBuffer
	msg      inMessage
	inflater *decompressor  // made for the first compressed message
	stream   *messageReader // the last one, which may be reused for the next message
	live     liveness
	watch    watch            // watches the context of the last read
	small    *[smallRead]byte // receives the first bytes on a connection without a socket
	limit    atomic.Uint64    // on the size of the next message
	counts   readCounts

	deliver atomic.Pointer[delivery] // made by the first OnMessage

	readSize   int32 // of the next read buffer
	idle       uint8 // consecutive reads that returned neither bytes nor a failure
	delivering bool  // the goroutine of delivery.run holds the turn: only parks and stopped differ for it
	discarding bool  // our close frame is queued or sent: messages are skipped until the peer's arrives
	bare       bool  // nc has no deadlines: a context that ends during a read closes nc
}

// smallRead is enough for most control frames. A connection without a socket (Conn.sock) holds a buffer of this size
// while it waits, instead of a pooled buffer of 4 KiB. A message is not handed out in it, because the next read uses it
// again.
const smallRead = 128

// maxIdle limits the reads that return neither bytes nor a failure: consecutive ones or, after the close, all of them.
const maxIdle = 100

// A readCounts counts what was read, for Stats. The holder of the turn counts messages in plain fields, because atomics
// are expensive, and publishes them after the last of several messages that arrived together.
type readCounts struct {
	messages, bytes, payload atomic.Uint64

	newMessages, newPayload uint64 // not published yet
}

// publish adds the unpublished counts to the atomics.
func (r *readCounts) publish() {
	if r.newMessages > 0 {
		r.messages.Add(r.newMessages)
		r.payload.Add(r.newPayload)
		r.newMessages, r.newPayload = 0, 0
	}
}

// init prepares the reader of a new connection.
func (r *reader) init(c *Conn, cfg *config) {
	r.c = c
	r.setLimit(cfg.maxMessage)
	r.bare = c.nc.SetReadDeadline(deadlineAfter(cfg.keepAlive)) != nil
	if !r.bare {
		r.live.init(cfg.keepAlive)
	}
	if c.sock == nil {
		r.small = new([smallRead]byte)
	}
	if n := len(cfg.early); n > 0 {
		b := getBuffer(n)
		b.b = append(b.b, cfg.early...)
		r.buf.adopt(b)
		r.counts.bytes.Add(uint64(n))
	}
}

// next takes back the buffer of the previous message, and returns the next message with the buffer that holds it. The
// stack of a goroutine that waits here must stay small: see fill.
func (r *reader) next(ctx context.Context, lent *buffer, m *Message) (*buffer, error) {
	if ctx == nil || r.deliver.Load() != nil || !r.turn.tryLock() { // wait does the same, but is not inlined
		if err := r.wait(ctx, true); err != nil {
			return nil, err
		}
	}
	lent, err := r.exchange(ctx, lent, m)
	r.unlock()
	return lent, err
}

// exchange is next for the holder of the turn. If it returns an error, m is the zero Message.
func (r *reader) exchange(ctx context.Context, lent *buffer, m *Message) (*buffer, error) {
	r.takeBack(lent)
	err := r.begin(ctx)
	if err == nil && r.atRest() {
		_, err = r.fill(ctx, nil)
	}
	if err == nil && !r.msg.open {
		err = r.nextFrame(ctx) // not through lend, because the answer to a close frame needs the rest of the stack
	}
	if err == nil {
		lent, err = r.lend(ctx, m)
	}
	if err != nil {
		lent, *m = nil, Message{}
	}
	return lent, err
}

// takeBack takes back the buffer that was lent with a message. The holder of the turn calls it.
func (r *reader) takeBack(lent *buffer) {
	if lent != nil {
		r.buf.takeBack(lent)
	}
}

// stats adds what was read to st.
func (r *reader) stats(st *Stats) {
	if r.turn.tryLock() {
		r.counts.publish()
		r.unlock()
	}
	st.MessagesRead, st.BytesRead, st.PayloadRead = r.counts.messages.Load(), r.counts.bytes.Load(), r.counts.payload.Load()
}

// lock waits for the turn and begins a read. If it returns an error, the caller does not hold the turn.
func (r *reader) lock(ctx context.Context) error {
	if err := r.wait(ctx, false); err != nil {
		return err
	}
	if err := r.begin(ctx); err != nil {
		r.unlock()
		return err
	}
	return nil
}

// wait waits for the turn. alone says that the read must not run inside the function of OnMessage.
func (r *reader) wait(ctx context.Context, alone bool) error {
	if ctx == nil {
		return errNilContext
	}
	if d := r.deliver.Load(); d != nil && (d.stops(false) || alone && d.isSet()) && r.c.end.failure() == nil {
		return errDelivered // instead of waiting for the turn, which delivery.run holds
	}
	if r.turn.tryLock() || r.turn.lock(ctx, r.c.end.failing()) {
		return nil
	}
	return r.c.end.errorOf(ctx)
}

// unlock frees the turn. On a connection without deadlines it first stops watching the context, whose end would close
// the connection. After the end of the connection it does what forget could not do.
func (r *reader) unlock() {
	if r.bare {
		r.watch.unset()
	}
	watched := r.watch.isSet()
	r.turn.unlock()
	if watched && r.c.end.reached() >= stateCutting {
		r.forget()
	}
}

// isReading reports whether a read or the poller is waiting for the peer.
func (r *reader) isReading() bool { return r.turn.isHeld() || r.delivers() }

// begin prepares a read by the holder of the turn. If the last message was lent and is still in use, because its
// receiver reads another, the message keeps its buffer.
func (r *reader) begin(ctx context.Context) error {
	if err := r.stopped(ctx); err != nil { // an interrupt before the deadline was set has left a reason
		return err
	}
	if !r.watch.is(ctx) {
		r.watch.set(ctx, func() { r.interruptFor(ctx) })
	}
	if r.buf.lent {
		r.buf.detach()
	}
	return nil
}

// interrupt wakes a waiting read, which then calls stopped to learn whether to continue. Any goroutine may call it.
func (r *reader) interrupt() error { return r.c.nc.SetReadDeadline(past) }

// interruptFor interrupts a read whose context has ended. It fails a connection without deadlines instead. If nc is
// already closed, the read returns by itself.
func (r *reader) interruptFor(ctx context.Context) {
	if err := r.interrupt(); err != nil && !errors.Is(err, net.ErrClosed) {
		r.c.end.fail(&lostError{"cancelling a read", fmt.Errorf("%w: %w", contextError(ctx), err)})
	}
}

// stopped returns the error with which a read must stop, or nil. The verdict takes precedence over the context. A read
// that changes the deadline calls stopped afterwards, because it may have overwritten an interrupt.
func (r *reader) stopped(ctx context.Context) error {
	if r.discarding {
		return nil
	}
	if err := r.c.end.failure(); err != nil {
		return err
	}
	if d := r.deliver.Load(); d != nil && d.stops(r.delivering) {
		return errDelivered
	}
	select {
	case <-ctx.Done():
		return contextError(ctx)
	default:
		return nil
	}
}

// fail publishes the counts and fails the connection.
func (r *reader) fail(err error) error {
	r.counts.publish()
	return r.c.end.fail(err)
}

// atRest reports whether no byte of the next message has arrived. A read then waits at once, because each function call
// in between would add to the stack of an idle connection.
func (r *reader) atRest() bool { return !r.msg.open && len(r.buf.unread()) == 0 }

// fill waits for bytes from the peer. It puts them into dst or, if dst is nil, at the end of the read buffer, which it
// gets from the pool only once there are bytes. A goroutine's stack starts at 2 KiB, of which its functions may use
// 1,100 bytes, and does not shrink back to 2 KiB once it has grown. Keep the functions called from here, and their
// callers, small.
func (r *reader) fill(ctx context.Context, dst []byte) (int, error) {
	r.beforeFill()
	for {
		r.live.start()
		var n int
		var err error
		if dst == nil && r.buf.buf == nil && r.c.sock != nil {
			n, err = r.c.sock.waitRead(&r.buf.buf, int(r.readSize), r.parks())
		} else {
			n, err = r.receive(dst)
		}
		if n > 0 {
			r.live.heard()
			r.counts.bytes.Add(uint64(n))
			return n, nil
		}
		if err = r.nothing(ctx, err); err != nil {
			return 0, err
		}
	}
}

// beforeFill prepares to wait: it publishes the counts, sends deferred answers and frees an empty buffer.
func (r *reader) beforeFill() {
	r.counts.publish()
	r.c.out.expectMore(false)
	r.c.out.flushDeferred()
	r.buf.release()
	r.idle = 0
}

// receive reads once, from the socket or, if there is none, from the net.Conn. The first bytes of a net.Conn go through
// the small buffer to the read buffer.
func (r *reader) receive(dst []byte) (n int, err error) {
	into := dst
	switch {
	case dst != nil:
	case r.buf.buf == nil:
		into = r.small[:]
	default:
		into = r.buf.space(int(r.readSize))
	}
	if r.c.sock != nil {
		n, err = r.c.sock.read(into, r.parks())
	} else {
		n, err = r.c.nc.Read(into)
	}
	if dst == nil && n > 0 {
		if r.buf.buf == nil {
			r.buf.adopt(getBuffer(max(n, int(r.readSize))))
			copy(r.buf.buf.b[:n], into)
		}
		r.buf.added(n)
	}
	return n, err
}

// nothing handles a read that returned no bytes. It returns nil if reading should continue. err is nil, errWouldBlock
// from a socket that should not wait, a timeout or a failure.
func (r *reader) nothing(ctx context.Context, err error) error {
	r.live.pause()
	switch {
	case err == errWouldBlock:
		return r.rearm(ctx)
	case err != nil && !isTimeout(err):
		return r.lost(err)
	}
	// A faulty connection may return 0 and nil forever, or keep timing out at a deadline that was moved.
	r.idle++
	if d := r.deliver.Load(); d != nil && d.woken.Swap(false) {
		r.idle = 1
	}
	switch {
	case r.idle >= maxIdle:
		return r.lost(io.ErrNoProgress)
	case err == nil:
		return nil
	case r.idle == 1 && r.parks() && !r.live.isDue():
		// The deadline may be that of an earlier wait, and bytes may have arrived.
		r.c.nc.SetReadDeadline(r.lastLook())
		return r.stopped(ctx)
	}
	return r.rearm(ctx)
}

// lastLook returns the deadline of the last read before the connection is parked. A read of a socket does not wait, so
// its deadline is that of a later read that does. A TLS connection, which may hold bytes that the poller does not see,
// can only be read with a wait, which is short.
func (r *reader) lastLook() time.Time {
	if r.c.sock == nil {
		return deadlineAfter(grace)
	}
	return deadlineAfter(r.live.limit())
}

// rearm handles a deadline that has passed, or a socket that would wait. It ends the read, lets the connection be
// parked, or sets the next deadline.
func (r *reader) rearm(ctx context.Context) error {
	if err := r.stopped(ctx); err != nil {
		return err
	}
	parks := r.parks()
	if parks && !r.live.isDue() {
		return errParked
	}
	// setDeadline runs on another goroutine, so that the stack of this one, which will wait for bytes, does not grow.
	done := make(chan struct{})
	go func() {
		r.setDeadline()
		close(done)
	}()
	<-done
	err := r.stopped(ctx) // setDeadline may have overwritten the deadline of an interrupt
	if err == nil && parks {
		err = errParked
	}
	return err
}

// setDeadline sets the deadline of the next wait and sends a ping when it is due. While a connection is parked, the
// poller keeps the time, and the deadline does not matter.
func (r *reader) setDeadline() {
	if r.discarding || !r.live.judges() {
		r.c.nc.SetReadDeadline(time.Time{})
		return
	}
	rest, ping, expired := r.live.due()
	if expired && hasArrived(r.c) { // the peer was not silent; this process was slow
		r.live.heard()
		rest, ping, expired = r.live.due()
	}
	if expired {
		r.fail(&lostError{"waiting for the answer to a ping", errSilent})
		return
	}
	if ping {
		r.c.ping(nil)
	}
	if !r.parks() {
		r.c.nc.SetReadDeadline(time.Now().Add(rest))
	}
}

// lost fails the connection because reading it returned err.
func (r *reader) lost(err error) error {
	if err == io.EOF {
		// Section 7.1.5: "If ... the WebSocket Connection is Closed and no Close control frame was received", the code
		// is 1006. An end without a close frame is unexpected.
		err = io.ErrUnexpectedEOF
	}
	return r.fail(&lostError{"reading", err})
}

// nextFrame reads the header of the next data frame, and handles the control frames before it. Section 5.4: "Control
// frames MAY be injected in the middle of a fragmented message."
func (r *reader) nextFrame(ctx context.Context) error {
	for {
		complete, err := r.header()
		if err != nil {
			return err
		}
		if !complete {
			if _, err = r.fill(ctx, nil); err != nil {
				return err
			}
			continue
		}
		if !r.buf.head.opcode.isControl() {
			return r.startFrame()
		}
		if err = r.control(); err != nil {
			return err
		}
	}
}

// header parses the header at the start of the buffer, and judges it as soon as two bytes have arrived. It reports
// whether the header and, in a control frame, the payload are complete.
func (r *reader) header() (complete bool, err error) {
	p, h, frag := r.buf.unread(), &r.buf.head, r.msg.frag
	n, err := h.parse(p)
	if err == nil && len(p) >= 2 {
		if err = h.judge(r.c.agreed.server, r.c.agreed.deflate != nil); err == nil {
			err = frag.next(h)
		}
	}
	if err != nil {
		return false, r.fail(err)
	}
	if n == 0 || h.opcode.isControl() && len(p)-n < int(h.length) {
		return false, nil
	}
	r.msg.frag = frag
	r.buf.begin(n)
	return true, nil
}

// control handles a control frame, all of which is in the buffer.
func (r *reader) control() error {
	payload := r.buf.takeInPlace(int(r.buf.left))
	switch r.buf.head.opcode {
	case opClose:
		r.counts.publish()
		err := r.c.end.peerClosed(payload)
		r.buf.release() // nothing more is read here, and another connection can use the buffer
		return err
	case opPong:
		r.c.pings.Load().answered(payload)
	case opPing:
		// Section 5.5.2: "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in response, unless it
		// already received a Close frame."
		r.c.out.pong(payload)
	}
	return nil
}

// setLimit replaces the limit on the next message. See Options.MaxMessageSize for n.
func (r *reader) setLimit(n int64) { r.limit.Store(maxLength(n)) }

// discard skips incoming messages until the peer's close frame has been handled or the connection has failed. Our own
// close frame is already queued or sent, and the timer of the ending bounds the wait. Frames are judged as in any read.
func (r *reader) discard() {
	if !r.turn.lock(context.Background(), r.c.end.closed()) {
		return
	}
	defer r.unlock()
	r.discarding = true
	defer func() { r.discarding = false }()
	r.counts.publish()
	r.buf.detach()
	r.c.nc.SetReadDeadline(time.Time{})
	for r.c.end.reached() == stateCloseSent {
		if r.skipFrame() != nil || r.nextFrame(context.Background()) != nil {
			return
		}
	}
}

// skipFrame reads and drops the rest of the current frame.
func (r *reader) skipFrame() error {
	for {
		r.buf.skip()
		if r.buf.left == 0 {
			return nil
		}
		if _, err := r.fill(context.Background(), nil); err != nil {
			return err
		}
	}
}

// drain reads and drops what the peer still sends after the last close frame, up to a limit, until the peer ends its
// half of the connection. If quiet is positive, drain also returns once the peer has been silent for that long.
func (r *reader) drain(quiet time.Duration) {
	r.turn.lock(context.Background(), nil)
	defer r.unlock()
	r.counts.publish()
	b := getBuffer(directRead)
	defer b.free()
	for n, idle := 0, 0; n < drainLimit && idle < maxIdle; {
		r.c.nc.SetReadDeadline(deadlineAfter(quiet))
		m, err := r.c.nc.Read(b.b[:cap(b.b)])
		n += m
		if err != nil && (quiet > 0 || !isTimeout(err)) { // without quiet, a timeout is a late interrupt
			return
		}
		if m == 0 {
			idle++
		}
	}
}

// drained reports whether everything that the peer has sent was read. It drops what it finds. The buffer holds the
// peer's close frame, which is no longer needed.
func (r *reader) drained() bool {
	return len(r.buf.unread()) == 0 && r.c.sock != nil && r.c.sock.drained(r.buf.buf.b[:1])
}

// forget releases the context of the last read, which may outlive the connection. If the turn is taken, unlock calls
// forget again. It does not wait: the interrupt of the context, for which unset waits, may be the caller.
func (r *reader) forget() {
	if !r.turn.tryLock() {
		return
	}
	r.counts.publish()
	if !r.watch.isSet() {
		r.turn.unlock()
		return
	}
	go func() {
		r.watch.unset()
		r.turn.unlock()
	}()
}
