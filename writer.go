package websocket

// The writer turns messages into frames and sends them. This file decides which goroutine sends, and when, and ends the
// sending. queue.go holds waiting frames, put.go encodes and writes them, and write.go has the methods of Conn.

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A writer turns messages into frames and sends them. A frame joins the queue under a short lock. The goroutine that
// finds the socket free becomes its owner (busy), and sends the queue before it frees the socket. The others return
// when their frame is queued. Goroutines that write at the same time therefore share a system call, and none waits for
// a lock across I/O.
//
// mu guards the fields that follow it, except for the atomics and the fields that never change. The last two fields
// belong to the owner of the socket and need no lock.
//
// A writer calls ending.writeFailed, and asks the ending for the verdict (errorOf).
type writer struct {
	c *Conn

	mu      sync.Mutex // guards the queues and who may send; never held across I/O
	err     error      // why no more messages are accepted; nil while they are
	muted   bool       // control frames are no longer sent either
	busy    bool       // a goroutine owns the socket
	waits   bool       // the owner waits for the peer
	kicked  bool       // a goroutine was started that will send the queue
	pingDue bool
	closes  bool  // our close frame is the last entry, or was sent
	gone    bool  // our close frame was sent, or dropped when the connection was cut
	waiting int32 // calls that wait in queue or for the end of stream

	more     atomic.Bool // the reader holds a complete frame after the message that it has just returned
	deferred atomic.Bool // frames wait for flushDeferred
	tries    bool        // nc can try a write; never changes
	soft     bool        // see hasSoftDeadlines; never changes

	queue   queue
	sending int            // the size of the entry that is being sent
	stream  *messageWriter // the Writer that has begun, which alone sends messages; or nil

	messages, bytes, payload uint64 // for Stats

	pongDue *pongPayload
	flushed signal // fired with gone

	compress *compressor // made for the first compressed message
	watch    watch       // of the context of the last write that waited
}

const (
	copyLimit  = 16 << 10  // payloads up to this size are copied together; larger ones go out uncopied
	deferLimit = 64 << 10  // bytes that may wait for the reader to have handled what it holds
	pieceLimit = 64 << 10  // of a payload that is masked at a time
	splitLimit = 256 << 10 // a frame of this payload begins with a piece of it
	recordSize = 16 << 10  // of TLS: bytes written for each deadline, where an expired deadline is final
	stallSteps = 16        // deadlines per WriteTimeout, which show about when the last byte was taken
	maxYields  = 100       // times that a Send lets the owner of the socket run before it sleeps instead
	maxRounds  = 8         // entries that a goroutine sends if it must not block, while others add more
	maxRun     = 64        // small prepared frames that wait uncopied
)

var (
	errWouldBlock  = errors.New("websocket: the socket would block")
	errInterrupted = errors.New("websocket: the context of the call has ended") // the rest can still be written
)

// init prepares the writer of a new connection. If held is set, nothing is sent until begin.
func (w *writer) init(c *Conn, held bool) {
	w.c, w.busy, w.waits, w.soft = c, held, held, hasSoftDeadlines(c.nc)
	_, w.tries = c.nc.(tryWriter)
	w.tries = w.tries || c.sock != nil
}

// begin sends what was queued since a connection was made with config.held.
func (w *writer) begin() {
	w.mu.Lock()
	e := w.next()
	w.mu.Unlock()
	w.drive(context.Background(), e, nil, false)
}

// submit sends f, or its prepared form p. It returns when the frame was sent or was queued for another goroutine to
// send.
func (w *writer) submit(ctx context.Context, f *outFrame, p *preparedFrame) error {
	if ctx == nil {
		return errNilContext
	}
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return w.err
	}
	if ctx.Done() != nil && ctx.Err() != nil {
		w.mu.Unlock()
		return w.c.end.errorOf(ctx)
	}
	switch {
	case w.mustWait(f):
		return w.await(ctx, w.callEntry(ctx, f, p), w.lane(f))
	case w.busy || w.defers(f):
		w.accept(f, p)
		w.flushSoon()
		w.mu.Unlock()
		return nil
	case w.queue.isEmpty() && !f.kept:
		w.busy = true
		w.count(f, 1)
		w.mu.Unlock()
		return w.sendOwn(ctx, f, p)
	}
	mine := w.join(ctx, f, p)
	e := w.acquire()
	w.mu.Unlock()
	if f.kept && !w.soft { // a write that a deadline cut off could not be resumed
		w.driveLater(e)
		return nil
	}
	return w.drive(ctx, e, mine, true)
}

// enqueue queues f, or its prepared form p, and sends it if the socket takes it at once. It never waits for the peer.
func (w *writer) enqueue(f *outFrame, p *preparedFrame) error {
	w.mu.Lock()
	err := w.take(f, p, w.c.agreed.maxPending)
	var e *entry
	switch {
	case err != nil:
	case w.defers(f):
		w.flushSoon()
	default:
		e = w.acquire()
	}
	w.mu.Unlock()
	w.drive(context.Background(), e, nil, false)
	return err
}

// offer is enqueue for a caller that calls sendQueued later. It sends only if more bytes wait than are worth sending
// together.
func (w *writer) offer(f *outFrame, p *preparedFrame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.take(f, p, min(pieceLimit, w.c.agreed.maxPending))
}

// take accepts f, or its prepared form p, or returns why it is refused. If more than limit bytes would wait, take first
// sends, or lets the owner of the socket send, until sending would wait for the peer. A peer therefore counts as too
// slow only if its socket accepts no more bytes. mu is held; take releases it while it sends.
func (w *writer) take(f *outFrame, p *preparedFrame, limit int) error {
	n := w.heldPayload(f, p)
	for yields := 0; w.err == nil && w.pending() > 0 && w.pending()+n > limit; yields++ {
		if w.busy && (w.waits || !w.isFull(f, n)) {
			break
		}
		e := w.acquire()
		w.mu.Unlock()
		if e != nil {
			w.drive(context.Background(), e, nil, false)
		} else {
			yield(yields)
		}
		w.mu.Lock()
	}
	if w.err != nil {
		return w.err
	}
	if w.isFull(f, n) {
		return ErrBacklog
	}
	w.accept(f, p)
	return nil
}

// yield lets the owner of the socket run, which is not waiting for the peer and only needs a processor. The owner may be
// on a thread that the system does not run, or wait for JavaScript, so yield sleeps after a number of tries.
func yield(tries int) {
	if tries < maxYields {
		runtime.Gosched()
	} else {
		time.Sleep(50 * time.Microsecond)
	}
}

// sendQueued sends as much of the queue as the socket accepts at once. It leaves the rest to another goroutine.
func (w *writer) sendQueued() {
	w.mu.Lock()
	var e *entry
	if p := w.takeLone(); p != nil {
		w.mu.Unlock()
		e = w.sendLone(p)
	} else {
		e = w.acquire()
		w.mu.Unlock()
	}
	w.drive(context.Background(), e, nil, false)
}

// takeLone takes the socket for a lone frame, if there is nothing else to send or to do. mu is held.
func (w *writer) takeLone() *preparedFrame {
	p := w.queue.lone
	if p == nil || w.busy || w.pongDue != nil || w.pingDue || !w.tries || w.keepsWindowFor(p) {
		return nil
	}
	w.busy, w.sending, w.queue = true, w.queue.size, queue{}
	return p
}

// stats adds what was written to st.
func (w *writer) stats(st *Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st.MessagesWritten, st.BytesWritten, st.PayloadWritten = w.messages, w.bytes, w.payload
	st.Pending = w.pending()
	if w.stream != nil {
		st.Pending += w.stream.held.size
	}
}

// acquire takes the socket if it is free, and returns what to send first. It returns nil if another goroutine owns the
// socket or there is nothing to send. mu is held.
func (w *writer) acquire() *entry {
	if w.busy {
		return nil
	}
	w.busy = true
	return w.next()
}

// drive sends e and the entries that follow it until mine is sent or, if mine is nil, until none is left. The caller
// owns the socket; when drive returns, the socket is free or belongs to another goroutine. If block is false, drive
// leaves the bytes that the socket does not accept at once to another goroutine.
//
// The error says what happened to mine: the context's error if no byte of mine was sent, or the error with which the
// connection failed.
func (w *writer) drive(ctx context.Context, e, mine *entry, block bool) error {
	for sent := 0; e != nil; sent++ {
		if !block && sent == maxRounds {
			w.driveLater(e)
			return nil
		}
		wait := ctx
		if e.done != nil {
			wait = e.ctx
		}
		switch err := w.transmit(wait, e, block); {
		case err == nil:
		case err == errWouldBlock:
			w.driveLater(e)
			return nil
		case err == errInterrupted && (!e.sent || e.accepted):
			return w.giveUp(wait, e, mine)
		case err == errInterrupted:
			return w.fail(e, contextError(wait))
		default:
			return w.fail(e, err)
		}
		next, own := w.sent(e), e == mine
		e.free(nil)
		if own {
			w.driveLater(next)
			return nil
		}
		e = next
	}
	if mine != nil {
		return w.failure()
	}
	return nil
}

// driveLater starts a goroutine that sends e and the entries that follow it. The caller owns the socket.
func (w *writer) driveLater(e *entry) {
	if e != nil {
		go w.drive(context.Background(), e, nil, true)
	}
}

// sent records that e has been sent, and returns what to send next.
func (w *writer) sent(e *entry) *entry {
	w.mu.Lock()
	w.bytes += uint64(e.extra)
	if e.closing {
		w.endClose()
	}
	return w.advance()
}

// advance returns what the owner of the socket sends next, or frees the socket. It unlocks mu. The last owner releases
// the context of the last write, which may outlive the connection.
func (w *writer) advance() *entry {
	e := w.next()
	over := e == nil && w.muted
	w.mu.Unlock()
	if over {
		w.watch.unset()
	}
	return e
}

// giveUp ends a drive because ctx, the context of a call, ended before any part of the call's frame was sent. The frame
// is withdrawn, unless it was accepted and no longer belongs to the call. Another goroutine sends the other entries.
func (w *writer) giveUp(ctx context.Context, e, mine *entry) error {
	call, err := mine, w.c.end.errorOf(ctx)
	if e.done != nil {
		call = e
	}
	w.mu.Lock()
	switch {
	case call.accepted:
		err = nil
		if call.done != nil {
			call.done <- nil
			call.done, call.ctx = nil, nil
		}
	case call == e:
		w.count(&call.frames[0], -1)
		e = w.advance()
		w.driveLater(e)
		call.free(err)
		return err
	case !w.queue.remove(func(e *entry) bool { return e == call }).isEmpty():
		w.count(&call.frames[0], -1)
	default: // the connection has failed
		err = w.err
	}
	w.mu.Unlock()
	w.driveLater(e)
	return err
}

// fail fails the connection because e, or a part of it, could not be sent.
func (w *writer) fail(e *entry, err error) error {
	w.watch.unset()
	err = w.c.end.writeFailed(err)
	w.abort(err)
	w.mu.Lock()
	w.sending = 0
	if e.closing {
		w.endClose()
	}
	w.mu.Unlock()
	e.free(err)
	return err
}

// failure returns why no more messages are accepted, or nil.
func (w *writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// finalize queues frame, our close frame, as the last one, and sends it if the socket is free. It does not wait.
// Section 5.5.1: "The application MUST NOT send any more data frames after sending a Close frame." Pings of a peer that
// has not sent its own are still answered. Waiting and later calls return err. Frames that were accepted go out first,
// unless drop is set; then only the rest of the frame that is being sent does.
func (w *writer) finalize(err error, frame []byte, drop bool) {
	e := w.queueClose(err, frame, drop)
	// The usual case goes without drive, so that the stack of a goroutine that only reads does not grow: see reader.fill.
	if e != nil && e.closing && w.c.sock != nil {
		n, _ := w.c.sock.tryWrite(e.data) // drive meets the error again
		e.data, e.sent = e.data[n:], n > 0
		if len(e.data) == 0 {
			w.driveLater(w.sent(e))
			e.free(nil)
			return
		}
	}
	w.drive(context.Background(), e, nil, false)
}

// queueClose queues the close frame for finalize, and returns what to send first.
func (w *writer) queueClose(err error, frame []byte, drop bool) *entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil
	}
	w.err, w.closes, w.pingDue = err, true, false
	if w.stream != nil && !w.stream.open { // its message is complete or will not begin, so it no longer holds frames back
		w.queue.append(&w.stream.held)
	}
	w.dismissHeld()
	w.dismiss(&w.queue, func(e *entry) bool { return drop || e.done != nil })
	e := newEntry()
	e.accepted, e.closing, e.data = true, true, frame
	w.bytes += uint64(len(frame))
	w.queue.push(e)
	return w.acquire()
}

// endClose records that our close frame was sent or dropped. mu is held.
func (w *writer) endClose() {
	w.gone = true
	w.flushed.fire()
}

// abort drops everything that is queued, because the underlying connection is closed. After that, no goroutine gets the
// socket.
func (w *writer) abort(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.muted, w.pongDue, w.pingDue = true, nil, false
	w.dismissHeld()
	w.dismiss(&w.queue, func(*entry) bool { return true })
	free, stop := !w.busy, func() bool { return true }
	w.busy = true
	if w.stream != nil {
		stop = w.stream.stop
	}
	w.mu.Unlock()
	stop()
	if free {
		w.watch.unset()
	}
}

// flushing returns a channel that is closed when our close frame has been sent, or nil if there is none.
func (w *writer) flushing() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closes {
		return nil
	}
	return w.flushed.wait(w.gone)
}

// isFlushed reports whether our close frame has been sent.
func (w *writer) isFlushed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone
}

// onlyCloses reports whether our close frame has been sent or is all that is left to send.
func (w *writer) onlyCloses() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.queue.first()
	return w.closes && w.queue.size == 0 && w.sending == 0 && (e == nil || e.closing)
}

// expectMore tells the writer whether the reader holds another complete frame. Answers are deferred while it does.
func (w *writer) expectMore(more bool) {
	if w.more.Load() != more {
		w.more.Store(more)
	}
}

// flushSoon starts a goroutine that sends the queue. It runs when the calling goroutine blocks or another processor is
// idle. The reader may send the queue before it, with flushDeferred. mu is held.
func (w *writer) flushSoon() {
	if w.busy || w.kicked || w.queue.isEmpty() {
		return
	}
	w.kicked = true
	w.deferred.Store(true)
	go w.flush()
}

// flush is the goroutine of flushSoon. It may wait for the peer.
func (w *writer) flush() {
	w.mu.Lock()
	w.kicked = false
	e := w.acquire()
	w.mu.Unlock()
	w.drive(context.Background(), e, nil, true)
}

// flushDeferred sends the deferred frames, because the reader is about to wait for bytes. It does not block.
func (w *writer) flushDeferred() {
	if !w.deferred.Load() || !w.tries {
		return
	}
	w.deferred.Store(false)
	w.sendQueued()
}

// A pongPayload is the payload of a pong that is due.
type pongPayload struct {
	b [maxControlPayload]byte
	n int
}

// pong answers a ping. Section 5.5.3: "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in
// response to previous Ping frame(s), the endpoint MAY elect to send a Pong frame for only the most recently
// processed Ping frame."
func (w *writer) pong(payload []byte) {
	w.mu.Lock()
	if w.muted {
		w.mu.Unlock()
		return
	}
	if w.pongDue == nil {
		w.pongDue = new(pongPayload)
	}
	w.pongDue.n = copy(w.pongDue.b[:], payload)
	e := w.acquire()
	w.mu.Unlock()
	w.drive(context.Background(), e, nil, false)
}

// sendPing sends the newest ping. If the socket is busy, its owner sends the ping next.
func (w *writer) sendPing() {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.pingDue = true
	e := w.acquire()
	w.mu.Unlock()
	w.drive(context.Background(), e, nil, false)
}

// controlEntry makes an entry of the pong and the ping that are due. mu is held.
func (w *writer) controlEntry() *entry {
	e := newEntry()
	e.accepted, e.buf = true, getBuffer(1)
	masked := masks(w.c.agreed.server)
	if p := w.pongDue; p != nil {
		e.buf.b = appendFrame(e.buf.b, &header{fin: true, masked: masked, opcode: opPong}, p.b[:p.n])
	}
	if w.pingDue {
		e.buf.b = appendFrame(e.buf.b, &header{fin: true, masked: masked, opcode: opPing}, w.c.pings.Load().payload())
	}
	w.pongDue, w.pingDue = nil, false
	e.data = e.buf.b
	w.bytes += uint64(len(e.data))
	return e
}
