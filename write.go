package websocket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
)

// Write sends p as one message. It returns when the message was handed to the operating system or, when
// another goroutine is writing or more received messages stand in the read buffer, when it was queued behind
// the others; an error of sending it is then that of a later call. While Options.MaxPending bytes are queued it
// waits. p is neither kept nor changed. A TextMessage must be UTF-8, or nothing is sent.
//
// When ctx ends before a part of the frame is out, nothing was sent and the connection lives. Later, the
// connection has failed, for a frame cannot be taken back.
func (c *Conn) Write(ctx context.Context, typ MessageType, p []byte) error {
	var f outFrame
	if err := c.dataFrame(&f, typ, p); err != nil {
		return err
	}
	return c.submit(ctx, &f, nil)
}

// Send queues a copy of p as one message and returns at once, whatever the peer does. It returns ErrBacklog
// when the bytes that wait to be sent would pass Options.MaxPending; with none waiting it takes a message of
// any size. Messages leave in the order of the calls of Send and Write.
func (c *Conn) Send(typ MessageType, p []byte) error {
	var f outFrame
	if err := c.dataFrame(&f, typ, p); err != nil {
		return err
	}
	return c.enqueue(&f, nil)
}

// WriteJSON sends v as one text message.
func (c *Conn) WriteJSON(ctx context.Context, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(ctx, TextMessage, p)
}

var (
	errNotUTF8 = errors.New("websocket: the text is not valid UTF-8; nothing was sent")
	errType    = errors.New("websocket: not a message type; use TextMessage or BinaryMessage")
)

// opcode returns that of a message's first frame.
func (t MessageType) opcode() (opcode, error) {
	switch t &^ Uncompressed {
	case TextMessage:
		return opText, nil
	case BinaryMessage:
		return opBinary, nil
	}
	return 0, errType
}

// dataFrame makes f the one frame of a message.
func (c *Conn) dataFrame(f *outFrame, typ MessageType, p []byte) error {
	op, err := typ.opcode()
	if err != nil {
		return err
	}
	if op == opText && !validText(p) {
		return errNotUTF8
	}
	f.opcode, f.fin, f.payload, f.length = op, true, p, len(p)
	f.deflate = c.compresses(typ, len(p))
	f.rsv1 = f.deflate
	return nil
}

// compresses reports whether a message of n bytes goes out compressed, if that makes it shorter.
func (c *Conn) compresses(typ MessageType, n int) bool {
	return c.deflate != nil && typ&Uncompressed == 0 && n >= c.deflate.threshold
}

// submit sends f, or the prepared frame p in its place, and waits its turn where it must.
func (c *Conn) submit(ctx context.Context, f *outFrame, p *preparedFrame) error {
	if ctx.Done() != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	s := &c.out
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return s.err
	}
	if c.mustWait(f) {
		return c.wait(ctx, c.callItem(ctx, f, p), s.lane(f))
	}
	s.count(f)
	if s.busy || c.defers(f) {
		c.queueFrame(f, p)
		c.flushSoon()
		s.mu.Unlock()
		return nil
	}
	if f.kept && c.try == nil { // a write that a deadline cut off could not be resumed, see crypto/tls
		c.queueFrame(f, p)
		it := c.acquire()
		s.mu.Unlock()
		c.driveSoon(it)
		return nil
	}
	mine := c.ownItem(ctx, f, p)
	it := c.acquire()
	s.mu.Unlock()
	if it == mine && c.sendAtOnce(it) {
		return nil
	}
	return c.drive(ctx, it, mine, true)
}

// sendAtOnce is drive for the usual case: there is one item, and the socket takes all of it. It spares the stack of the
// caller, see fill. If false, drive goes on.
func (c *Conn) sendAtOnce(it *item) bool {
	if it.kind != itemFrames || it.note != nil || c.try == nil || !c.soft {
		return false
	}
	n, err := c.try.tryWrite(it.data)
	it.data = it.data[n:]
	it.sent = n > 0
	if err != nil || len(it.data) > 0 {
		return false
	}
	c.out.mu.Lock()
	next := c.done(it)
	c.out.mu.Unlock()
	it.finish(nil)
	c.driveSoon(next)
	return true
}

// enqueue queues f, or the prepared frame p in its place, without waiting.
func (c *Conn) enqueue(f *outFrame, p *preparedFrame) error {
	s := &c.out
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return s.err
	}
	if s.pending > 0 && s.pending+len(f.payload) > c.maxPending {
		s.mu.Unlock()
		return ErrBacklog
	}
	s.count(f)
	var it *item
	defers := c.defers(f)
	c.queueFrame(f, p)
	if defers {
		c.flushSoon()
	} else {
		it = c.acquire()
	}
	s.mu.Unlock()
	if it != nil && !c.sendAtOnce(it) {
		c.drive(context.Background(), it, nil, false)
	}
	return nil
}

// mustWait reports whether a call has to wait with f: behind the message of a Writer, behind other calls that
// wait, or because the peer takes less than is written.
func (c *Conn) mustWait(f *outFrame) bool {
	s := &c.out
	if !f.part && (s.streaming || s.waiting > 0) {
		return true
	}
	return s.busy && s.pending+len(f.payload) > c.maxPending
}

// defers reports whether f shall wait until the messages that stand in the read buffer were handled, so that the
// answers to all of them go out together.
func (c *Conn) defers(f *outFrame) bool {
	return c.more.Load() && c.out.pending+len(f.payload) <= min(deferLimit, c.maxPending)
}

// queueFrame copies f, or refers to p, behind what is queued.
func (c *Conn) queueFrame(f *outFrame, p *preparedFrame) {
	if p != nil {
		c.addPrepared(c.out.lane(f), p)
	} else {
		c.add(c.out.lane(f), f)
	}
}

// ownItem queues the frame of a call that is going to send it itself. The queue may hold frames that were deferred.
func (c *Conn) ownItem(ctx context.Context, f *outFrame, p *preparedFrame) *item {
	q := &c.out.queue
	if !f.kept && (len(f.payload) > copyLimit || f.deflate || p != nil) {
		q.push(c.callItem(ctx, f, p))
	} else {
		c.add(q, f)
		q.tail.frame = *f // of its only call, unless it is shared
		q.tail.frame.payload = nil
	}
	q.tail.shared = q.tail.shared || f.kept
	return q.tail
}

// callItem makes the item of a frame that a call holds until it is out.
func (c *Conn) callItem(ctx context.Context, f *outFrame, p *preparedFrame) *item {
	var it *item
	if p != nil {
		it = c.preparedItem(p)
	} else {
		it = newItem(itemDirect)
	}
	it.frame, it.ctx = *f, ctx
	if f.kept {
		it.frame.payload, it.ctx = bytes.Clone(f.payload), context.Background()
	}
	return it
}

// wait queues the item of a call and waits until it was sent, or ctx ends. It unlocks the sender.
func (c *Conn) wait(ctx context.Context, it *item, q *queue) error {
	s := &c.out
	kept := it.frame.kept
	done := make(chan error, 1)
	it.done = done
	s.waiting++
	q.push(it)
	s.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	waits := func(it *item) bool { return it.done == done && !it.started }
	withdrawn := s.queue.remove(waits).head != nil || s.held.remove(waits).head != nil
	if withdrawn {
		s.waiting--
	}
	s.mu.Unlock()
	if withdrawn {
		return ctx.Err()
	}
	if kept {
		select {
		case err := <-done: // Close may have dropped it
			return err
		default:
			return nil
		}
	}
	return <-done
}

// cook makes whole frames of what has to be compressed or is small.
func (c *Conn) cook(it *item) {
	switch {
	case it.kind == itemRaw:
		c.cookRaw(it)
	case it.kind == itemDirect && (it.frame.deflate || len(it.frame.payload) <= copyLimit):
		it.buf = getBuffer(len(it.frame.payload) + maxHeader)
		it.buf.b = c.encode(it.buf.b, &it.frame)
		it.kind, it.data = itemFrames, it.buf.b
		it.bound = it.frame.deflate && (c.deflate.sendTakeover || !it.frame.whole())
		it.wire = len(it.data)
	}
}

func (c *Conn) cookRaw(it *item) {
	raw := it.buf
	it.buf = getBuffer(len(it.data))
	for p := it.data; len(p) > 0; {
		var h header
		n, _ := h.parse(p)
		end := n + int(h.length)
		f := outFrame{opcode: h.opcode, fin: h.fin, rsv1: h.rsv1, deflate: h.rsv2, payload: p[n:end]}
		it.buf.b = c.encode(it.buf.b, &f)
		p = p[end:]
	}
	raw.free()
	it.kind, it.data, it.wire = itemFrames, it.buf.b, len(it.buf.b)
}

// encode appends the frame f, compressed if it shall be and a whole message gets shorter by it.
func (c *Conn) encode(b []byte, f *outFrame) []byte {
	h := f.header(!c.server)
	if !f.deflate {
		return appendFrame(b, &h, f.payload)
	}
	start := len(b)
	b = grow(b, maxHeader)
	if f.whole() {
		var ok bool
		if b, ok = c.compressor().message(b, f.payload); !ok {
			h.rsv1 = false
			return appendFrame(b[:start], &h, f.payload)
		}
	} else {
		b = c.compressor().chunk(b, f.payload, f.fin)
	}
	payload := b[start+maxHeader:]
	h.length = uint64(len(payload))
	if h.masked {
		h.key = newMaskKey()
		mask(payload, payload, h.key, 0)
	}
	at := len(appendHeader(b[:start], &h))
	return b[:at+copy(b[at:], payload)]
}

// compressor returns that of the connection. Whoever calls it has the socket.
func (c *Conn) compressor() *compressor {
	if c.comp == nil {
		c.comp = newCompressor(c.deflate)
	}
	return c.comp
}

// A messageWriter is a message sent as a stream of frames.
type messageWriter struct {
	c       *Conn
	ctx     context.Context
	stop    func() bool   // of what watches ctx
	turn    chan struct{} // held by Write, ReadFrom or Close, also while they send
	frame   outFrame      // the next one
	text    bool
	utf8    utf8State
	buf     *buffer
	started bool  // a frame is out
	err     error // why no more can be written
}

var (
	errWriterClosed = errors.New("websocket: the Writer is closed")
	errCutText      = errors.New("websocket: the text ends in the middle of a character")
)

// Writer starts a message of unknown length and returns where to write it; Close ends it. It waits for its turn:
// until the Writer is closed, Write and other Writers wait and Send queues behind it, while control frames pass.
// The bytes go out in frames as they fill a buffer of 4 KiB or come in larger pieces. It is an io.ReaderFrom.
//
// The message belongs to ctx: when ctx ends before a frame is out, the turn is given back; later, the connection is
// failed with StatusInternalError, for the message cannot be finished. The same happens when the text of a
// TextMessage is closed in the middle of a character. Bytes that are no UTF-8 are refused with an error, nothing of
// that call is sent, and the message is still open.
func (c *Conn) Writer(ctx context.Context, typ MessageType) (io.WriteCloser, error) {
	op, err := typ.opcode()
	if err != nil {
		return nil, err
	}
	if err := c.startTurn(ctx); err != nil {
		return nil, err
	}
	deflate := c.deflate != nil && typ&Uncompressed == 0
	w := &messageWriter{
		c:     c,
		ctx:   ctx,
		turn:  make(chan struct{}, 1),
		frame: outFrame{opcode: op, rsv1: deflate, deflate: deflate, part: true},
		text:  op == opText,
		stop:  func() bool { return true },
	}
	if ctx.Done() != nil {
		w.lock() // abandon may run at once
		w.stop = context.AfterFunc(ctx, w.abandon)
		w.unlock()
	}
	return w, nil
}

// startTurn waits until no other Writer has the turn and no call waits.
func (c *Conn) startTurn(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s := &c.out
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return s.err
	}
	if s.streaming || s.waiting > 0 {
		q := &s.queue
		if s.streaming {
			q = &s.held
		}
		return c.wait(ctx, newItem(itemTurn), q)
	}
	s.streaming = true
	s.mu.Unlock()
	return nil
}

func (w *messageWriter) lock()   { w.turn <- struct{}{} }
func (w *messageWriter) unlock() { <-w.turn }

// Write takes p as the next bytes of the message.
func (w *messageWriter) Write(p []byte) (int, error) {
	w.lock()
	defer w.unlock()
	if err := w.check(p); err != nil {
		return 0, err
	}
	return len(p), w.add(p)
}

// ReadFrom takes what r has until io.EOF as the next bytes of the message, without another buffer between.
func (w *messageWriter) ReadFrom(r io.Reader) (n int64, err error) {
	w.lock()
	defer w.unlock()
	for w.err == nil {
		b := w.buffer()
		m, err := r.Read(b.b[len(b.b):cap(b.b)])
		p := b.b[len(b.b) : len(b.b)+m]
		if cerr := w.check(p); cerr != nil {
			return n, cerr
		}
		n += int64(m)
		b.b = b.b[:len(b.b)+m]
		if err == io.EOF {
			return n, nil
		}
		if err == nil && len(b.b) == cap(b.b) {
			err = w.flush(false)
		}
		if err != nil {
			return n, err
		}
	}
	return n, w.err
}

// Close ends the message.
func (w *messageWriter) Close() error {
	w.lock()
	defer w.unlock()
	if w.err != nil {
		return w.err
	}
	if !w.utf8.complete() {
		return w.fail(errCutText)
	}
	if err := w.flush(true); err != nil {
		return err
	}
	w.end(errWriterClosed)
	return nil
}

// check judges p, the next bytes of the message, and takes it into account.
func (w *messageWriter) check(p []byte) error {
	if w.err == nil && w.c.failed() {
		w.fail(w.c.failure())
	}
	if w.err != nil || !w.text {
		return w.err
	}
	next, ok := w.utf8.check(p)
	if !ok {
		return errNotUTF8
	}
	w.utf8 = next
	return nil
}

func (w *messageWriter) buffer() *buffer {
	if w.buf == nil {
		w.buf = getBuffer(1)
	}
	return w.buf
}

// add buffers p, or sends it behind what is buffered.
func (w *messageWriter) add(p []byte) error {
	if b := w.buffer(); len(b.b) > 0 && len(b.b)+len(p) > cap(b.b) {
		if err := w.flush(false); err != nil {
			return err
		}
	}
	b := w.buffer()
	if len(p) > cap(b.b) {
		return w.send(p, false)
	}
	b.b = append(b.b, p...)
	return nil
}

// flush sends what is buffered as a frame.
func (w *messageWriter) flush(fin bool) error {
	b := w.buf
	w.buf = nil
	defer b.free()
	if b == nil {
		return w.send(nil, fin)
	}
	return w.send(b.b, fin)
}

func (w *messageWriter) send(p []byte, fin bool) error {
	f := &w.frame
	f.payload, f.length, f.fin = p, len(p), fin
	if f.whole() && !w.c.compresses(0, len(p)) {
		f.rsv1, f.deflate = false, false
	}
	if err := w.c.submit(w.ctx, f, nil); err != nil {
		return w.fail(err)
	}
	w.started = true
	f.opcode, f.rsv1, f.payload = opContinuation, false, nil
	return nil
}

// fail gives the turn back or, if a frame is out, fails the connection.
func (w *messageWriter) fail(err error) error {
	if w.started && !w.c.failed() {
		w.c.fail(&ProtocolError{StatusInternalError, "a message could not be finished"})
	}
	w.end(err)
	return err
}

func (w *messageWriter) end(err error) {
	w.err = err
	w.stop()
	w.buf.free()
	w.buf = nil
	w.c.out.mu.Lock()
	it := w.c.endTurn()
	w.c.out.mu.Unlock()
	w.c.drive(context.Background(), it, nil, false)
}

// abandon ends the message because its context has ended.
func (w *messageWriter) abandon() {
	w.lock()
	defer w.unlock()
	if w.err == nil {
		w.fail(w.ctx.Err())
	}
}
