package websocket

// The queue of the writer, and what happens under the writer's mutex: frames join the queue or are refused, calls wait
// for their frames or withdraw them, and the owner of the socket takes frames off.
//
// If a peer stops reading, every frame waits here. Each byte counts towards MaxPending, and a short frame takes little
// more memory than its bytes: short frames share a buffer, and all connections share prepared frames.

import (
	"context"
	"slices"
	"sync"
)

// An outFrame is a frame to be sent. It is a plain value on the stack of a call, which fills it in; an entry may hold a
// copy. The payload belongs to the caller until the call returns. An outFrame is kept short because the stack of an
// idle goroutine must not grow.
type outFrame struct {
	opcode   opcode
	fin      bool
	rsv1     bool // first frame of a compressed message
	masked   bool
	deflate  bool // the payload is to be compressed
	part     bool // belongs to the message of a Writer
	kept     bool // once its turn has come, it goes out even if its call gives up
	patient  bool // from Broadcast: may exceed the limit on frames held back by a Writer, while the peer keeps up
	payload  []byte
	original int            // length of the payload before compression
	prepared *preparedFrame // f, encoded already; or nil
}

// isWhole reports whether f is the only frame of its message. Section 5.4: "An unfragmented message consists of a
// single frame with the FIN bit set and an opcode other than 0."
func (f *outFrame) isWhole() bool { return f.fin && f.opcode != opContinuation }

// header returns the header of f without length and key, which appendFrame sets.
func (f *outFrame) header() header {
	return header{fin: f.fin, rsv1: f.rsv1, masked: f.masked, opcode: f.opcode}
}

// wireSize returns the size of f with its header, provided that it is not compressed.
func (f *outFrame) wireSize() int { return headerSize(len(f.payload), f.masked) + len(f.payload) }

// size returns how many bytes of a queue f counts as.
func (f *outFrame) size() int { return f.wireSize() - len(f.payload) + f.held() }

// held returns how many bytes of payload are kept in memory while f waits. MaxPending limits their sum.
func (f *outFrame) held() int {
	if f.prepared != nil {
		return f.prepared.held()
	}
	return len(f.payload)
}

// isLarge reports whether the payload of f goes out directly from the caller's slice. A copy of a shorter one costs
// less than a second buffer in the system call.
func (f *outFrame) isLarge() bool {
	return !f.deflate && f.prepared == nil && len(f.payload) > copyLimit
}

// A copiedFrame is a frame whose payload was copied and is yet to be encoded. It is short, because a message that waits
// may have only a few bytes.
type copiedFrame struct {
	opcode  opcode
	fin     bool
	rsv1    bool
	deflate bool
	length  int // of the payload
}

// An entry is a place in the queue of a writer. It holds one of these:
//   - frames of calls that have returned (buf, and frames if they are yet to be encoded), to which more may be added;
//   - the frame of a call that waits, and that may withdraw it (frame);
//   - prepared frames, which go out together (run);
//   - our close frame (data), or the request of a Writer to begin its message (writer).
//
// The writer's mutex guards an entry in a queue. Once taken off, the entry belongs to the goroutine that took it, which
// is the owner of the socket. The waiting call only receives from done.
type entry struct {
	next     *entry
	buf      *buffer       // holds frames, or the payload of frame if that does not belong to a call
	frames   []copiedFrame // the frames whose payloads buf holds; empty if buf holds encoded frames
	call     bool          // frame is that of a call that waits
	frame    outFrame
	run      []*preparedFrame // to be sent as they are
	size     int              // bytes that count as pending
	accepted bool             // its calls have returned, or will return nil: nothing is withdrawn
	writer   *messageWriter   // the Writer that waits to begin; otherwise nil

	ctx     context.Context // of the call that waits
	done    chan<- error    // receives the result for the call that waits, or nil if none does; of capacity 1
	closing bool            // it is our close frame

	// The goroutine that sends the entry uses these. If the socket is full in the middle of the entry, another
	// goroutine continues at data.
	data  []byte // encoded frames that are still to go out; nil before they are encoded
	extra int    // compressed bytes, which Stats counts when they have been sent
	sent  bool   // a part of it has been sent
}

var entries = sync.Pool{New: func() any { return new(entry) }}

// newEntry returns an empty entry. free puts it back into the pool.
func newEntry() *entry { return entries.Get().(*entry) }

// newRun returns an entry with one prepared frame, to which more can be added: see isJoinedBy.
func newRun(p *preparedFrame) *entry {
	e := newEntry()
	e.run = append(e.run, p)
	e.accepted, e.size = true, p.size()
	return e
}

// finish tells the call that waits for e, if there is one, that e was sent or, if err is not nil, why it was not. It
// never blocks: done has room for the only result. It also frees the buffer.
func (e *entry) finish(err error) {
	if e.done != nil {
		e.done <- err
	}
	e.buf.free()
	e.buf = nil
}

// free finishes e and returns it to the pool.
func (e *entry) free(err error) {
	e.finish(err)
	clear(e.run)
	*e = entry{run: e.run[:0], frames: e.frames[:0]}
	entries.Put(e)
}

// hasRoom reports whether a copy of f, which takes n bytes, can be added to e. The buffer never grows. A frame that is
// to be compressed cannot follow frames that are encoded.
func (e *entry) hasRoom(f *outFrame, n int) bool {
	return e.buf != nil && cap(e.buf.b)-len(e.buf.b) >= n && !e.call && (!f.deflate || len(e.frames) > 0)
}

// addPlain adds a copy of f that is to be encoded when the entry is sent.
func (e *entry) addPlain(f *outFrame) {
	e.frames = append(e.frames, copiedFrame{f.opcode, f.fin, f.rsv1, f.deflate, len(f.payload)})
	e.buf.b = append(e.buf.b, f.payload...)
}

// isJoinedBy reports whether p can be sent together with the run of e. Sending them together requires a copy, so all of
// them must be small.
func (e *entry) isJoinedBy(p *preparedFrame) bool {
	n := len(e.run)
	return n > 0 && n < maxRun && e.run[0].isSmall() && p.isSmall() && e.size+p.size() <= pieceLimit
}

// mayCopyRun reports whether e has a run whose frames may be copied: together they are small, and no window needs their
// messages.
func (e *entry) mayCopyRun() bool {
	return e != nil && len(e.run) > 0 && e.size <= copyLimit &&
		!slices.ContainsFunc(e.run, (*preparedFrame).needsWindow)
}

// copyRun replaces the run of e with a copy of its frames, and leaves room for n more bytes.
func (e *entry) copyRun(n int) {
	e.buf = getBuffer(e.size + n)
	for _, p := range e.run {
		e.buf.b = append(e.buf.b, p.whole.b...)
	}
	clear(e.run)
	e.run = e.run[:0]
}

// isSmallCall reports whether e is a small frame of a waiting call. A prepared frame is not copied, as a window may
// need its message.
func (e *entry) isSmallCall() bool {
	return e != nil && e.call && e.done != nil && e.frame.prepared == nil && len(e.frame.payload) <= copyLimit
}

// A queue is a list of entries. A lone prepared frame waits without an entry, so that a broadcast needs no memory for
// each connection. last and pop give the lone frame an entry; first does not see it. The zero value is empty. The
// writer's mutex guards a queue.
//
// The list is a ring, of which the queue holds the last entry, because that takes one word instead of two in each Conn.
type queue struct {
	tail *entry         // the last one, whose next is the first
	lone *preparedFrame // if not nil, there are no entries
	size int            // in bytes, of everything that waits
}

// isEmpty reports whether nothing waits in q.
func (q queue) isEmpty() bool { return q.tail == nil && q.lone == nil }

// first returns the first entry, or nil if there are none. A lone frame gets no entry.
func (q *queue) first() *entry {
	if q.tail == nil {
		return nil
	}
	return q.tail.next
}

// last returns the last entry, or nil. A lone frame gets an entry.
func (q *queue) last() *entry {
	if p := q.lone; p != nil {
		*q = queue{}
		q.push(newRun(p))
	}
	return q.tail
}

// push adds e at the end.
func (q *queue) push(e *entry) {
	e.next = e
	q.append(&queue{tail: e, size: e.size})
}

// append moves everything in other to the end of q, in constant time.
func (q *queue) append(other *queue) {
	last, tail := q.last(), other.last()
	if tail == nil {
		return
	}
	if last != nil { // exchanging the successors of two elements joins their rings
		last.next, tail.next = tail.next, last.next
	}
	q.tail = tail
	q.size += other.size
	*other = queue{}
}

// pop returns the first entry, or nil. A lone frame gets an entry.
func (q *queue) pop() *entry {
	last := q.last()
	if last == nil {
		return nil
	}
	e := last.next
	last.next, e.next = e.next, nil
	if e == last {
		q.tail = nil
	}
	q.size -= e.size
	return e
}

// share adds p without copying it. Frames that can be sent together share an entry: see maxRun.
func (q *queue) share(p *preparedFrame) {
	if q.isEmpty() {
		q.lone, q.size = p, p.size()
		return
	}
	if e := q.last(); e.isJoinedBy(p) {
		e.run = append(e.run, p)
		e.size += p.size()
		q.size += p.size()
		return
	}
	q.push(newRun(p))
}

// copy adds a copy of f. It encodes f at once, unless f or a frame before it in the entry is to be compressed: frames
// must be compressed in the order in which they go out.
//
// More frames are likely to follow if more is set or if a copy waits already.
func (q *queue) copy(f *outFrame, more bool) {
	n, e := f.wireSize(), q.tail
	if e == nil || !e.hasRoom(f, n) {
		e = q.makeRoom(f, n, more || e != nil && e.buf != nil)
	}
	if f.deflate || len(e.frames) > 0 {
		e.addPlain(f)
	} else {
		h := f.header()
		b := e.buf
		b.b = appendFrame(b.b, &h, f.payload)
	}
	e.size += n
	q.size += n
}

// makeRoom returns the last entry of q, in which there is now room for a copy of f that takes n bytes. The buffer has
// room for f alone or, if more frames are likely, for copyLimit bytes.
func (q *queue) makeRoom(f *outFrame, n int, more bool) *entry {
	if e := q.last(); e.mayCopyRun() && !f.deflate {
		e.copyRun(n)
		return e
	}
	if more {
		n = max(n, copyLimit)
	}
	e := newEntry()
	e.accepted, e.buf = true, getBuffer(n)
	q.push(e)
	return e
}

// remove takes out the entries that match and returns them. Both queues keep their order.
func (q *queue) remove(match func(*entry) bool) (removed queue) {
	var rest queue
	for e := q.pop(); e != nil; e = q.pop() {
		if match(e) {
			removed.push(e)
		} else {
			rest.push(e)
		}
	}
	*q = rest
	return removed
}

// pending returns the number of bytes that were accepted and have not been sent, except for bytes that a Writer holds
// back.
func (w *writer) pending() int { return w.queue.size + w.sending }

// isFull reports whether Send and Broadcast have to refuse f. If nothing waits, a message of any size is accepted. The
// frames that a Writer holds back have a separate limit.
func (w *writer) isFull(f *outFrame) bool {
	waiting := w.pending()
	if q := w.lane(f); q != &w.queue {
		if f.patient && waiting == 0 {
			return false
		}
		waiting = q.size
	}
	return waiting > 0 && waiting+f.held() > w.c.agreed.maxPending
}

// mustWait reports whether a call that sends f has to wait: for the end of a Writer's message, for other waiting calls,
// or because the peer accepts less than is written. A kept frame is copied, so it also waits for deferred frames if
// they leave no room. A frame of the open Writer is the next in order and waits only for the peer.
func (w *writer) mustWait(f *outFrame) bool {
	if !f.part && (w.stream != nil || w.waiting > 0) {
		return true
	}
	return (w.busy || f.kept && w.pending() > 0) && !w.fits(f)
}

// fits reports whether f can wait in the queue without exceeding MaxPending.
func (w *writer) fits(f *outFrame) bool { return w.pending()+f.held() <= w.c.agreed.maxPending }

// defers reports whether f should wait until the reader has handled the frames it holds, so that the answers to all of
// them go out together.
func (w *writer) defers(f *outFrame) bool {
	return w.more.Load() && w.pending()+len(f.payload) <= deferLimit && w.fits(f)
}

// lane returns the queue for f: the frames that a Writer holds back, or the queue of the socket. Section 5.4: "The
// fragments of one message MUST NOT be interleaved between the fragments of another message unless an extension has
// been negotiated that can interpret the interleaving."
func (w *writer) lane(f *outFrame) *queue {
	if w.stream != nil && !f.part {
		return &w.stream.held
	}
	return &w.queue
}

// count counts a frame that was accepted or, with n = -1, was withdrawn. The size of a compressed frame is known only
// when it is sent: see entry.extra.
func (w *writer) count(f *outFrame, n int) {
	if f.fin {
		w.messages += uint64(n)
	}
	if f.part {
		w.stream.open = n > 0 && !f.fin || n < 0 && f.opcode == opContinuation
	}
	w.payload += uint64(n * f.original)
	if !f.deflate {
		w.bytes += uint64(n * f.wireSize())
	}
}

// accept queues a copy of f or its prepared form. The call then returns: what was accepted is sent even if its context
// ends. mu is held, as in all that follows unless a comment says otherwise.
func (w *writer) accept(f *outFrame) {
	q := w.lane(f)
	copies := f.prepared == nil || q.copies(f, f.prepared)
	w.count(f, 1)
	if copies {
		q.copy(f, w.more.Load())
	} else {
		q.share(f.prepared)
	}
}

// copies reports whether f, whose prepared form is p, is copied: after other copies, and after maxRun small prepared
// frames. If a window needs the message of p, copies changes f so that the message is compressed again.
func (q *queue) copies(f *outFrame, p *preparedFrame) bool {
	e := q.tail
	if e == nil || !p.isSmall() {
		return false
	}
	if p.needsWindow() {
		// As a run it would be a write of its own between the copies, and the next copy would need another buffer.
		again := *f
		again.payload, again.deflate, again.prepared = p.message, true, nil
		if !e.hasRoom(&again, again.wireSize()) {
			return false
		}
		*f = again
		return true
	}
	return e.hasRoom(f, len(p.whole.b)) || len(e.run) == maxRun && e.mayCopyRun()
}

// join queues the frame of a call that will send it itself, after frames that were deferred. A small frame is copied,
// so that all of them share one write; the call still waits until that is done. join returns the entry.
func (w *writer) join(ctx context.Context, f *outFrame) *entry {
	small := f.prepared == nil && !f.deflate && len(f.payload) <= copyLimit && w.fits(f)
	if small || f.kept {
		w.accept(f)
	} else {
		w.count(f, 1)
		w.queue.push(w.callEntry(ctx, f))
	}
	return w.queue.last()
}

// callEntry makes the entry of a frame whose call waits until it is out. The frame refers to the caller's payload,
// except for a kept frame, whose call may return before it is sent.
func (w *writer) callEntry(ctx context.Context, f *outFrame) *entry {
	e := newEntry()
	e.call, e.ctx, e.frame = true, ctx, *f
	if f.kept { // its context ends only the wait for its turn
		e.accepted, e.ctx = true, context.Background()
		e.buf = getBuffer(len(f.payload))
		e.buf.b = append(e.buf.b, f.payload...)
		e.frame.payload = e.buf.b
	}
	return e
}

// await queues the entry of a call and waits until it was sent, or ctx ends. It unlocks mu. If ctx ends before the turn
// of the entry has come, the entry is withdrawn without a trace.
func (w *writer) await(ctx context.Context, e *entry, q *queue) error {
	kept, done := e.accepted, make(chan error, 1)
	e.done = done
	w.waiting++
	q.push(e)
	w.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// The goroutine that took the entry off the queue has the socket, and may be sending it now.
	if w.withdraw(func(e *entry) bool { return e.done == done }) {
		return w.c.end.errorOf(ctx)
	}
	if !kept {
		return <-done // the goroutine that sends it watches ctx
	}
	select { // the frame is copied and goes out without the call, unless the connection has failed already
	case err := <-done:
		return err
	default:
		return nil
	}
}

// withdraw removes the entry of a waiting call, unless a goroutine is sending it. The entry is found by its channel,
// because an entry that was sent may serve another call by now. mu is not held.
func (w *writer) withdraw(match func(*entry) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	removed := w.queue.remove(match)
	if w.stream != nil && removed.isEmpty() {
		removed = w.stream.held.remove(match)
	}
	if removed.isEmpty() {
		return false
	}
	w.waiting--
	return true
}

// next returns what the owner of the socket sends next, or frees the socket. Control frames come first. Section 5.4:
// "Control frames (see Section 5.5) MAY be injected in the middle of a fragmented message."
func (w *writer) next() *entry {
	w.sending = 0
	if w.waits.Load() { // a store costs more than many loads
		w.waits.Store(false)
	}
	if w.pongDue != nil || w.pingDue {
		return w.controlEntry()
	}
	for e := w.queue.first(); e != nil && e.writer != nil; e = w.queue.first() {
		w.grant(w.queue.pop())
	}
	w.admit()
	e := w.queue.pop()
	if e == nil {
		w.busy = w.muted // after the end of the connection, no goroutine gets the socket
		return nil
	}
	if e.done != nil { // admit has left it, so it could be withdrawn until now and is counted only now
		w.waiting--
		w.count(&e.frame, 1)
	}
	w.sending = e.size
	return e
}

// grant lets a Writer begin. All frames after its entry are held back until the Writer is closed.
func (w *writer) grant(e *entry) {
	w.waiting--
	w.stream = e.writer
	w.stream.held.append(&w.queue)
	e.free(nil)
}

// admit copies the small frames of calls at the head of the queue into one entry, as far as MaxPending allows, and lets
// the calls return. Many goroutines that write more than the peer accepts thus share system calls.
func (w *writer) admit() {
	var q queue
	// The loop ends when the buffer is full: the second entry is the last.
	for e := w.queue.first(); e.isSmallCall() && q.first() == q.tail; e = w.queue.first() {
		f := &e.frame
		if q.size+w.queue.size+len(f.payload) > w.c.agreed.maxPending {
			break
		}
		w.queue.pop()
		w.waiting--
		w.count(f, 1)
		q.copy(f, w.more.Load())
		e.free(nil)
	}
	if !q.isEmpty() {
		q.append(&w.queue)
		w.queue = q
	}
}

// dismiss removes the entries of waiting calls from q, or every entry if all is set, and returns w.err to the calls.
// The entries do not return to their pool, because a call may still compare a pointer with one.
func (w *writer) dismiss(q *queue, all bool) {
	if q.isEmpty() {
		return // without the stack that remove takes
	}
	removed := q.remove(func(e *entry) bool { return all || e.done != nil })
	for e := removed.pop(); e != nil; e = removed.pop() {
		if e.done != nil {
			w.waiting--
		}
		if e.closing {
			w.endClose()
		}
		e.finish(w.err)
	}
}

// dismissHeld drops the frames that a Writer holds back.
func (w *writer) dismissHeld() {
	if w.stream != nil {
		w.dismiss(&w.stream.held, true)
	}
}
