package websocket

// The queue of the writer, and everything that happens under the writer's mutex: frames join the queue or are refused,
// calls wait for their frames or withdraw them, and the owner of the socket takes frames off.

import (
	"context"
	"net"
	"slices"
	"sync"
)

// An outFrame is a frame to be sent. It is a plain value: a call fills it in, and an entry may hold a copy.
type outFrame struct {
	opcode  opcode
	fin     bool
	rsv1    bool // first frame of a compressed message
	deflate bool // the payload is to be compressed
	part    bool // belongs to the message of a Writer
	kept    bool // once its turn has come, it goes out even if its call gives up
	patient bool // from Broadcast: may exceed the limit on frames held back by a Writer, while the peer keeps up
	payload []byte
	length  int // of the payload before compression
}

// isWhole reports whether f is the only frame of its message.
func (f *outFrame) isWhole() bool { return f.fin && f.opcode != opContinuation }

// header returns the header of f without length and key, which appendFrame sets.
func (f *outFrame) header(masked bool) header {
	return header{fin: f.fin, rsv1: f.rsv1, masked: masked, opcode: f.opcode}
}

// An entry is a place in the queue of a writer. It holds one of these:
//   - encoded bytes that go out together;
//   - prepared frames that go out together;
//   - frames that are encoded when their turn comes, because they will be compressed or the caller owns their payload;
//   - the request of a Writer to begin its message.
//
// The writer's mutex guards an entry in a queue. Once taken off, the entry belongs to the goroutine that took it.
type entry struct {
	next     *entry
	data     []byte           // encoded frames that are still to go out; nil if frames are to be encoded
	frames   []outFrame       // the frames that data holds or will hold
	run      []*preparedFrame // prepared frames that data will hold
	buf      *buffer          // holds data, or the payloads of frames; nil if these are a caller's or a prepared message's
	size     int              // bytes that count as pending
	extra    int              // compressed bytes, which Stats counts when they have been sent
	accepted bool             // the calls that made the frames have returned, or will return nil: nothing is withdrawn
	sent     bool             // a part of it has been sent
	closing  bool             // it is our close frame
	writer   *messageWriter   // the Writer that waits to begin; otherwise nil

	ctx  context.Context // of the call that waits
	done chan error      // receives the result for the call that waits, or nil if none does; of capacity 1

	head   [maxHeader]byte // of a frame that goes out in two buffers
	vector [2][]byte
	rest   net.Buffers // of vector
}

var entries = sync.Pool{New: func() any { return new(entry) }}

// newEntry returns an empty entry. free puts it back into the pool.
func newEntry() *entry { return entries.Get().(*entry) }

// newEntryOf returns an entry with one frame.
func newEntryOf(f *outFrame) *entry {
	e := newEntry()
	e.frames = append(e.frames, *f)
	return e
}

// newRun returns an entry with one prepared frame that counts as size bytes.
func newRun(p *preparedFrame, size int) *entry {
	e := newEntry()
	e.run = append(e.run, p)
	e.accepted, e.size = true, size
	return e
}

// free sends err to the call that waits for e, if any, and returns e to the pool.
func (e *entry) free(err error) {
	if e.done != nil {
		e.done <- err
	}
	e.buf.free()
	clear(e.frames)
	clear(e.run)
	*e = entry{frames: e.frames[:0], run: e.run[:0]}
	entries.Put(e)
}

// isOpen reports whether frames can be added to e, because it was accepted and its bytes are not the close frame's.
func (e *entry) isOpen() bool { return e != nil && e.accepted && e.done == nil && !e.closing }

// hasRoom reports whether a copy of f, which takes n bytes, can be added to e. A frame that is to be compressed cannot
// follow frames that are encoded.
func (e *entry) hasRoom(f *outFrame, n int) bool {
	return e.isOpen() && e.buf != nil && (e.data == nil || !f.deflate) && cap(e.buf.b)-len(e.buf.b) >= n
}

// isJoinedBy reports whether p, which counts as size bytes, can be sent together with the run of e. Sending them
// together requires a copy, so all of them must be small.
func (e *entry) isJoinedBy(p *preparedFrame, size int) bool {
	n := len(e.run)
	return e.isOpen() && n > 0 && n < maxRun && e.run[0].isSmall() && p.isSmall() && e.size+size <= pieceLimit
}

// copyRun replaces the run of e with a copy, with room for n more bytes.
func (e *entry) copyRun(n int) {
	e.buf = getBuffer(e.size + n)
	e.data = e.appendRun(e.buf.b)
	e.buf.b = e.data
}

// appendRun appends the frames of the run to b, and ends the run.
func (e *entry) appendRun(b []byte) []byte {
	for _, p := range e.run {
		b = append(b, p.bytes...)
	}
	clear(e.run)
	e.run = e.run[:0]
	return b
}

// isSmallCall reports whether e is a small frame of a waiting call.
func (e *entry) isSmallCall() bool {
	return e != nil && e.done != nil && e.writer == nil && len(e.run) == 0 && len(e.frames[0].payload) <= copyLimit
}

// A queue is a list of entries. A lone prepared frame waits without an entry, so that a broadcast needs no memory for
// each connection. The writer's mutex guards a queue.
type queue struct {
	tail *entry         // the last one, whose next is the first
	lone *preparedFrame // if not nil, there are no entries
	size int            // in bytes, of everything that waits
}

// isEmpty reports whether nothing waits in q.
func (q queue) isEmpty() bool { return q.tail == nil && q.lone == nil }

// first returns the first entry, or nil if there are none.
func (q queue) first() *entry {
	if q.tail == nil {
		return nil
	}
	return q.tail.next
}

// push adds e at the end.
func (q *queue) push(e *entry) {
	if last := q.last(); last == nil {
		e.next = e
	} else {
		e.next, last.next = last.next, e
	}
	q.tail = e
	q.size += e.size
}

// last returns the last entry, or nil. A lone frame gets an entry.
func (q *queue) last() *entry {
	if p := q.lone; p != nil {
		size := q.size
		*q = queue{}
		q.push(newRun(p, size))
	}
	return q.tail
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

// share adds p without copying it. p counts as size bytes.
func (q *queue) share(p *preparedFrame, size int) {
	if q.isEmpty() {
		q.lone, q.size = p, size
		return
	}
	if e := q.last(); e.isJoinedBy(p, size) {
		e.run = append(e.run, p)
		q.grow(size)
		return
	}
	q.push(newRun(p, size))
}

// grow records that n bytes were added to the last entry.
func (q *queue) grow(n int) {
	q.tail.size += n
	q.size += n
}

// remove takes out the entries that match and returns them.
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

// append moves all entries of other to the end of q.
func (q *queue) append(other *queue) {
	for e := other.pop(); e != nil; e = other.pop() {
		q.push(e)
	}
}

// pending returns the number of bytes that were accepted and have not been sent, except for bytes that a Writer holds
// back.
func (w *writer) pending() int { return w.queue.size + w.sending }

// heldPayload returns how many bytes of payload are kept in memory for f, or for its prepared form p. If the window
// needs the uncompressed message, its length counts.
func (w *writer) heldPayload(f *outFrame, p *preparedFrame) int {
	if p != nil && w.keepsWindowFor(p) {
		return len(p.message)
	}
	return len(f.payload)
}

// isFull reports whether Send and Broadcast have to refuse f, with n bytes of payload. The frames that a Writer holds
// back have a separate limit.
func (w *writer) isFull(f *outFrame, n int) bool {
	waiting := w.pending()
	if q := w.lane(f); q != &w.queue {
		if f.patient && waiting == 0 {
			return false
		}
		waiting = q.size
	}
	return waiting > 0 && waiting+n > w.c.agreed.maxPending
}

// mustWait reports whether a call that sends f has to wait: for the end of a Writer's message, for other waiting calls,
// or because the peer accepts less than is written. A frame that is copied also waits for deferred frames.
func (w *writer) mustWait(f *outFrame) bool {
	if !f.part && (w.stream != nil || w.waiting > 0) {
		return true
	}
	return (w.busy || f.kept && w.pending() > 0) && w.pending()+len(f.payload) > w.c.agreed.maxPending
}

// defers reports whether f should wait until the reader has handled the frames it holds, so that the answers to all of
// them go out together.
func (w *writer) defers(f *outFrame) bool {
	return w.more.Load() && w.pending()+len(f.payload) <= min(deferLimit, w.c.agreed.maxPending)
}

// lane returns the queue for f: the frames that a Writer holds back, or the queue of the socket.
func (w *writer) lane(f *outFrame) *queue {
	if w.stream != nil && !f.part {
		return &w.stream.held
	}
	return &w.queue
}

// count counts a frame that was accepted or, with n = -1, was withdrawn.
func (w *writer) count(f *outFrame, n int) {
	if f.fin {
		w.messages += uint64(n)
	}
	if f.part {
		w.stream.open = n > 0 && !f.fin || n < 0 && f.opcode == opContinuation
	}
	w.payload += uint64(n * f.length)
	if !f.deflate {
		w.bytes += uint64(n * w.wireSize(f))
	}
}

// wireSize returns the size of f with its header, if it is not compressed.
func (w *writer) wireSize(f *outFrame) int {
	return headerSize(len(f.payload), masks(w.c.agreed.server)) + len(f.payload)
}

// accept queues a copy of f or, if p is not nil, the prepared form p.
func (w *writer) accept(f *outFrame, p *preparedFrame) {
	q := w.lane(f)
	copies := p == nil || w.copies(q, f, p)
	w.count(f, 1)
	if copies {
		w.copyTo(q, f)
	} else {
		q.share(p, headerSize(len(f.payload), false)+w.heldPayload(f, p))
	}
}

// copies reports whether the prepared frame f is copied: after other copies, and after so many small frames that
// references to them would be larger than the frames. If the window needs the message, it is then compressed again.
func (w *writer) copies(q *queue, f *outFrame, p *preparedFrame) bool {
	e := q.tail
	if e == nil || !p.isSmall() {
		return false
	}
	if w.keepsWindowFor(p) {
		again := *f
		again.payload, again.deflate = p.message, true
		if !e.hasRoom(&again, w.wireSize(&again)) {
			return false
		}
		*f = again
		return true
	}
	return e.hasRoom(f, len(p.bytes)) || len(e.run) == maxRun && w.mayCopyRun(e)
}

// mayCopyRun reports whether the frames of a run may be copied: they are small and no window needs their messages.
func (w *writer) mayCopyRun(e *entry) bool {
	return e.isOpen() && len(e.run) > 0 && e.size <= copyLimit && !slices.ContainsFunc(e.run, w.keepsWindowFor)
}

// copyTo copies f to the end of q. It encodes f at once, unless f or a frame before it has to be compressed: frames are
// compressed in the order in which they go out.
func (w *writer) copyTo(q *queue, f *outFrame) {
	n, e := w.wireSize(f), q.last()
	if w.mayCopyRun(e) && !f.deflate {
		e.copyRun(n)
	}
	if !e.hasRoom(f, n) {
		e = w.newCopies(n, e != nil && e.buf != nil)
		q.push(e)
	}
	if e.data != nil || len(e.frames) == 0 && !f.deflate {
		h := f.header(masks(w.c.agreed.server))
		e.buf.b = appendFrame(e.buf.b, &h, f.payload)
		e.data = e.buf.b
	} else {
		start := len(e.buf.b)
		e.buf.b = append(e.buf.b, f.payload...)
		e.frames = append(e.frames, *f)
		e.frames[len(e.frames)-1].payload = e.buf.b[start:]
	}
	q.grow(n)
}

// newCopies returns an entry with room for a frame of n bytes, and for more frames if they are likely to follow.
func (w *writer) newCopies(n int, more bool) *entry {
	if more || w.more.Load() {
		n = max(n, copyLimit)
	}
	e := newEntry()
	e.accepted, e.buf = true, getBuffer(n)
	return e
}

// join queues the frame of a call that will send it itself, after frames that were deferred.
func (w *writer) join(ctx context.Context, f *outFrame, p *preparedFrame) *entry {
	small := p == nil && !f.deflate && len(f.payload) <= copyLimit && w.pending()+len(f.payload) <= w.c.agreed.maxPending
	if small || f.kept {
		w.accept(f, p)
	} else {
		w.count(f, 1)
		w.queue.push(w.callEntry(ctx, f, p))
	}
	return w.queue.last()
}

// callEntry makes the entry of a frame whose call waits until it is out.
func (w *writer) callEntry(ctx context.Context, f *outFrame, p *preparedFrame) *entry {
	e := newEntryOf(f)
	if p != nil {
		e.run = append(e.run, p)
	}
	e.ctx = ctx
	if f.kept {
		e.accepted, e.ctx = true, context.Background()
		e.buf = getBuffer(len(f.payload))
		e.buf.b = append(e.buf.b, f.payload...)
		e.frames[0].payload = e.buf.b
	}
	return e
}

// keepsWindowFor reports whether the compressor needs the message of p, because it keeps its window.
func (w *writer) keepsWindowFor(p *preparedFrame) bool {
	return p.compressed && w.c.agreed.deflate.sendTakeover
}

// await queues the entry of a call and waits until it was sent, or ctx ends. It unlocks mu.
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
	w.mu.Lock()
	mine := func(e *entry) bool { return e.done == done }
	withdrawn := !w.queue.remove(mine).isEmpty() || w.stream != nil && !w.stream.held.remove(mine).isEmpty()
	if withdrawn {
		w.waiting--
	}
	w.mu.Unlock()
	if withdrawn {
		return w.c.end.errorOf(ctx)
	}
	if kept {
		select {
		case err := <-done:
			return err
		default:
			return nil
		}
	}
	return <-done // the goroutine that sends it watches ctx
}

// next returns what the owner of the socket sends next, control frames first, or frees the socket. mu is held.
func (w *writer) next() *entry {
	w.sending, w.waits = 0, false
	if w.pongDue != nil || w.pingDue {
		return w.controlEntry()
	}
	for e := w.queue.first(); e != nil && e.writer != nil; e = w.queue.first() {
		w.grant(w.queue.pop())
	}
	if w.queue.isEmpty() {
		w.busy = w.muted // after the end of the connection, no goroutine gets the socket
		return nil
	}
	w.admit()
	e := w.queue.pop()
	if e.done != nil {
		w.waiting--
		w.count(&e.frames[0], 1)
	}
	w.sending = e.size
	return e
}

// grant lets a Writer begin. All later frames are held back until the Writer is closed.
func (w *writer) grant(e *entry) {
	w.waiting--
	w.stream = e.writer
	w.stream.held.append(&w.queue)
	e.free(nil)
}

// admit copies the small frames of calls at the head of the queue into one entry, as far as MaxPending allows, and lets
// the calls return.
func (w *writer) admit() {
	var q queue
	for e := w.queue.first(); e.isSmallCall() && q.first() == q.tail; e = w.queue.first() {
		f := &e.frames[0]
		if q.size+w.queue.size+len(f.payload) > w.c.agreed.maxPending {
			break
		}
		w.queue.pop()
		w.waiting--
		w.count(f, 1)
		w.copyTo(&q, f)
		e.free(nil)
	}
	if !q.isEmpty() {
		q.append(&w.queue)
		w.queue = q
	}
}

// dismiss removes the entries that match from q, and returns w.err to the calls that wait for them. The entries do not
// return to their pool, because a call may still compare a pointer with one. mu is held.
func (w *writer) dismiss(q *queue, match func(*entry) bool) {
	if q.isEmpty() {
		return // without the stack that remove takes
	}
	removed := q.remove(match)
	for e := removed.pop(); e != nil; e = removed.pop() {
		e.buf.free()
		e.buf = nil
		if e.done != nil {
			w.waiting--
			e.done <- w.err
		}
		if e.closing {
			w.endClose()
		}
	}
}

// dismissHeld drops the frames that a Writer holds back. mu is held.
func (w *writer) dismissHeld() {
	if w.stream != nil {
		w.dismiss(&w.stream.held, func(*entry) bool { return true })
	}
}
