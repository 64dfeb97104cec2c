package websocket

// The writer turns messages into frames and sends them. This file decides which goroutine sends and when. queue.go holds
// waiting frames, put.go encodes and writes them, control.go has the control frames and the end of the sending, and
// write.go has the methods of Conn.
//
// A frame comes in through submit (Write and Writer, which may wait), enqueue (Send, which never waits) or offer
// (Broadcast, which leaves the sending to others). Control frames come in through pong, sendPing and finalize. The
// owner of the socket sends frames with drive, or with sendOnly if there is only one.

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A writer turns messages into frames and sends them. A frame joins the queue under a short lock. The goroutine that
// finds the socket free becomes its owner (busy). It sends its own frame, and then sends the frames that have joined
// the queue meanwhile or leaves them to another goroutine. The others return when their frame is queued. Goroutines
// that write at the same time therefore share a system call, and none waits for a lock across I/O.
//
// mu guards the fields that follow it, except for the atomics and the fields that never change. The last two fields
// belong to the owner of the socket and need no lock.
//
// A writer calls ending.writeFailed, and asks the ending for the verdict (failure, errorOf).
type writer struct {
	c *Conn

	mu      sync.Mutex // guards the queues and who may send; never held across I/O
	err     error      // why no more messages are accepted; nil while they are
	muted   bool       // the connection is cut: control frames are no longer sent either
	busy    bool       // a goroutine owns the socket
	kicked  bool       // a goroutine was started that will send the queue
	pingDue bool
	closes  bool  // our close frame is the last entry, or was sent
	gone    bool  // our close frame was sent, or dropped when the connection was cut
	waiting int32 // calls that wait in queue or for the end of stream

	waits    atomic.Bool // the owner waits for the peer
	more     atomic.Bool // the reader holds a complete frame after the message that it has just returned
	deferred atomic.Bool // frames wait for flushDeferred
	tries    bool        // nc can try a write; never changes
	soft     bool        // see hasSoftDeadlines; never changes

	queue   queue
	sending int            // the size of the entry that is being sent
	stream  *messageWriter // the Writer that has begun, which alone sends messages; or nil

	messages, bytes, payload uint64 // for Stats

	pongDue *pongPayload // one slot: a ping of the peer never waits, and a flood of pings takes no memory
	flushed signal       // fired with gone

	compress *compressor // made for the first compressed message
	watch    watch       // of the context of the last write that waited
}

const (
	deferLimit = 64 << 10 // bytes that may wait until the reader has handled the frames it holds
	maxRun     = 64       // small prepared frames that wait uncopied

	// maxYields is the number of times that a Send lets the owner of the socket run before it sleeps instead.
	maxYields = 100

	// maxRounds is how many entries a goroutine that must not block sends before it leaves the rest to another.
	maxRounds = 8
)

var (
	errWouldBlock  = errors.New("websocket: the socket would block")
	errInterrupted = errors.New("websocket: the context of the call has ended") // the rest can still be written
)

// init prepares the writer of a new connection. If held is set, nothing is sent until begin: the socket has an owner,
// the goroutine that still has to write the response of the handshake.
func (w *writer) init(c *Conn, held bool) {
	w.c, w.busy, w.soft = c, held, hasSoftDeadlines(c.nc)
	w.waits.Store(held)
	_, w.tries = c.nc.(tryWriter)
	w.tries = w.tries || c.sock != nil
}

// begin frees the socket of a connection that was made with config.held, and sends what was queued since.
func (w *writer) begin() {
	w.mu.Lock()
	w.busy = false
	w.sendAndUnlock()
}

// lock locks mu for a call that writes. It returns an error, and does not lock mu, if the call may not write: because
// its context has ended, or because the connection is closing or has failed.
func (w *writer) lock(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	ended := ctx.Done() != nil && ctx.Err() != nil
	w.mu.Lock()
	err := w.err
	if err == nil && !ended {
		return nil
	}
	w.mu.Unlock()
	if err == nil {
		err = w.c.end.errorOf(ctx)
	}
	return err
}

// submit sends f. It returns when f was sent, or was queued for another goroutine to send. The cases are described in
// CONTRIBUTING.md: wait in the queue, leave the frame to others, send it alone, or send it after deferred frames.
func (w *writer) submit(ctx context.Context, f *outFrame) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	switch {
	case w.mustWait(f):
		// The order of the calls is the order on the wire, so this call must not overtake waiting calls.
		return w.await(ctx, w.callEntry(ctx, f), w.lane(f))
	case w.busy || w.defers(f):
		// Another goroutine sends the copy, in one write with its own frames or with the answers that follow.
		w.accept(f)
		w.flushSoon()
		w.mu.Unlock()
		return nil
	case w.queue.isEmpty() && !f.kept:
		w.busy = true
		w.count(f, 1)
		w.mu.Unlock()
		return w.sendOnly(ctx, f, true)
	}
	// Frames were deferred, and this one is the last of the answers. It goes out with them.
	mine := w.join(ctx, f)
	e := w.acquire()
	w.mu.Unlock()
	if f.kept && !w.soft { // a write that a deadline cut off could not be resumed
		w.driveLater(e)
		return nil
	}
	return w.drive(ctx, e, mine, true)
}

// enqueue queues a copy of f, and sends it if the socket takes it at once. It never waits for the peer. On a free
// socket the frame is not copied first. If sending fails, the connection has failed, which later calls report.
func (w *writer) enqueue(f *outFrame) error {
	w.mu.Lock()
	if w.err == nil && !w.busy && w.stream == nil && w.queue.isEmpty() && !w.defers(f) {
		w.busy, w.sending = true, f.size() // until next, the frame counts as pending
		w.count(f, 1)
		w.mu.Unlock()
		w.sendOnly(context.Background(), f, false)
		return nil
	}
	err := w.take(f, w.c.agreed.maxPending)
	if err == nil && w.defers(f) {
		w.flushSoon()
		w.mu.Unlock()
		return nil
	}
	w.sendAndUnlock()
	return err
}

// offer is enqueue for a caller that calls sendQueued later. It sends only if more bytes wait than are worth sending
// together, so that many broadcasts in a row cost each member few system calls.
func (w *writer) offer(f *outFrame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.take(f, min(pieceLimit, w.c.agreed.maxPending))
}

// take accepts f, or returns why it is refused. If more than limit bytes would wait, take first sends the queue, or
// lets the owner of the socket send it, until there is room or sending would wait for the peer. A peer therefore counts
// as too slow only if its socket accepts no more bytes. mu is held; take releases it while it sends.
func (w *writer) take(f *outFrame, limit int) error {
	for yields := 0; w.err == nil && w.pending() > 0 && w.pending()+f.held() > limit; yields++ {
		// Waiting for an owner that waits for the peer is useless, and if there is room it is unnecessary.
		if w.busy && (w.waits.Load() || !w.isFull(f)) {
			break
		}
		if w.busy {
			w.mu.Unlock()
			yield(yields)
		} else {
			w.sendAndUnlock()
		}
		w.mu.Lock()
	}
	if w.err != nil {
		return w.err
	}
	if w.isFull(f) {
		return ErrBacklog
	}
	w.accept(f)
	return nil
}

// yield lets the owner of the socket run, which does not wait for the peer and only needs a processor. The owner may be
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
	p := w.takeLone()
	if p == nil {
		w.sendAndUnlock() // there are several frames or none, or the socket has an owner
		return
	}
	w.mu.Unlock()
	w.sendOnly(context.Background(), &outFrame{prepared: p}, false)
}

// takeLone takes the socket for a lone frame, if there is nothing else to send. It needs no entry, which saves a third
// of the time that a member of a large Group takes beside the system call. mu is held.
func (w *writer) takeLone() *preparedFrame {
	p := w.queue.lone
	if p != nil {
		if w.busy || w.pongDue != nil || w.pingDue {
			return nil
		}
		w.busy, w.sending, w.queue = true, w.queue.size, queue{}
	}
	return p
}

// stats adds what was written to st. Frames that a Writer holds back are pending too.
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

// sendAndUnlock unlocks mu and sends as much of the queue as the socket accepts at once, if it is free.
func (w *writer) sendAndUnlock() {
	e := w.acquire()
	w.mu.Unlock()
	w.driveSome(e)
}

// driveSome sends e and the entries that follow it, as far as the socket accepts them at once. The caller owns the
// socket, unless e is nil.
func (w *writer) driveSome(e *entry) {
	if e != nil {
		w.drive(context.Background(), e, nil, false)
	}
}

// drive sends e and the entries that follow it until mine is sent or, if mine is nil, until none is left. The caller
// owns the socket; when drive returns, the socket is free or belongs to another goroutine. If block is false, drive
// leaves the bytes that the socket does not accept at once to another goroutine.
//
// The error says what happened to mine: the context's error if no byte of mine was sent, or the error with which the
// connection failed. A call does not wait for entries after its own, even if there are many.
func (w *writer) drive(ctx context.Context, e, mine *entry, block bool) error {
	for sent := 0; e != nil; sent++ {
		if !block && sent == maxRounds {
			// Others add frames as fast as they are sent. A call that must not wait cannot send them forever.
			w.driveLater(e)
			return nil
		}
		wait := ctx
		if e.done != nil { // the frame of another call, which may end this write
			wait = e.ctx
		}
		if err := w.transmit(wait, e, block); err != nil {
			return w.unsent(wait, e, mine, err)
		}
		next, own := w.sent(e), e == mine
		e.free(nil)
		if own {
			w.driveLater(next)
			return nil
		}
		e = next
	}
	if mine != nil { // it was dropped, because the connection is closing or has failed
		return w.failure()
	}
	return nil
}

// unsent ends a drive because err kept it from sending all of e. It returns the error of drive. A frame of which a part
// was sent cannot be abandoned, so the connection fails, unless the frame may be finished without the call.
func (w *writer) unsent(ctx context.Context, e, mine *entry, err error) error {
	switch {
	case err == errWouldBlock:
		w.driveLater(e)
		return nil
	case err == errInterrupted && (!e.sent || e.accepted):
		return w.giveUp(ctx, e, mine)
	case err == errInterrupted:
		err = contextError(ctx)
	}
	return w.fail(e, err)
}

// driveLater starts a goroutine that sends e and the entries that follow it. The caller owns the socket, and gives it
// to the goroutine, which may wait for the peer.
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
		if call.done != nil { // the call returns now; the next goroutine sends the frame with its own context
			call.done <- nil
			call.done, call.ctx = nil, nil
		}
	case call == e:
		w.count(&call.frame, -1)
		w.driveLater(w.advance())
		call.free(err)
		return err
	case w.queue.remove(func(e *entry) bool { return e == call }).isEmpty():
		err = w.err // the connection has failed
	default:
		w.count(&call.frame, -1)
	}
	w.mu.Unlock()
	w.driveLater(e)
	return err
}

// fail fails the connection because e, or a part of it, could not be sent. The caller owns the socket, and keeps it:
// after a part of a frame nothing else may follow. It returns the verdict, which is err unless there was one before.
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

// expectMore tells the writer whether the reader holds another complete frame. Answers are deferred while it does.
func (w *writer) expectMore(more bool) {
	if w.more.Load() != more {
		w.more.Store(more)
	}
}

// flushSoon starts a goroutine that sends the queue. The goroutine runs when its caller blocks or another processor is
// idle. The reader may send the queue first, with flushDeferred. Without the goroutine, a deferred frame would wait for
// as long as the caller works on the next message. mu is held.
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
	w.deferred.Store(false) // before the queue is sent, so that a frame that joins now is not forgotten
	w.sendQueued()
}
