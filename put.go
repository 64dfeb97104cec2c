package websocket

// The part of the writer that only the owner of the socket runs: it encodes frames and writes bytes. If the connection
// can try, a write first tries without waiting, and deadlines and contexts matter only when the socket is full.
//
// The functions call each other in this order:
//
//	sendOnly, transmit     a frame without an entry, or an entry
//	encode, putDirect      its bytes: encoded in a buffer, or straight from a large payload
//	put                    one try
//	putWaiting, persist    the rest, with deadlines

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// copyLimit is the longest payload that is copied together with others, as long as a TLS record. Larger ones go out
	// uncopied, if they belong to a call that waits.
	copyLimit = 16 << 10

	// pieceLimit is the part of a payload that is masked at a time. It is also how many bytes of small frames are worth
	// collecting for one write.
	pieceLimit = 64 << 10

	// splitLimit is the shortest payload of which a server first sends a piece.
	splitLimit = 256 << 10

	// recordSize is how many bytes are written for each deadline, where an expired deadline is final. A peer that does
	// not accept one TLS record within WriteTimeout counts as stalled.
	recordSize = 16 << 10

	// stallSteps is the number of deadlines per WriteTimeout, which show about when the last byte was accepted.
	stallSteps = 16
)

// sendOnly sends f on a connection that has nothing else to send, and then what has joined the queue meanwhile. The
// caller owns the socket. In the usual case the socket accepts all of a small frame. That path needs no entry, and uses
// little of the stack: see reader.fill. For block and the error see drive.
func (w *writer) sendOnly(ctx context.Context, f *outFrame, block bool) error {
	if block && f.isLarge() {
		e := w.callEntry(ctx, f)
		return w.drive(ctx, e, e, true)
	}
	b := w.encodeOnly(f)
	if n, err := w.tryWrite(b.b); n < len(b.b) || err != nil {
		return w.sendRest(ctx, f, b, n, block)
	}
	w.sentOnly(f, b, block)
	return nil
}

// sendRest is sendOnly for f, encoded in b, after the socket has accepted n bytes. A socket that has failed fails
// again. What cannot be sent now gets an entry.
func (w *writer) sendRest(ctx context.Context, f *outFrame, b *buffer, n int, block bool) error {
	m, err := w.put(ctx, b.b[n:], block)
	if err == nil {
		w.sentOnly(f, b, block)
		return nil
	}
	n += m
	e := newEntry()
	e.frame, e.buf, e.data, e.sent = *f, b, b.b[n:], n > 0
	e.accepted = !block || w.isBound(f)
	if f.deflate {
		e.extra = len(b.b)
	}
	return w.unsent(ctx, e, e, err)
}

// sentOnly records that f has been sent, encoded in b, and has what waits sent next: by another goroutine if the call
// may block, because it has no reason to wait for frames of others.
func (w *writer) sentOnly(f *outFrame, b *buffer, block bool) {
	extra := 0
	if f.deflate {
		extra = len(b.b)
	}
	b.free()
	w.mu.Lock()
	w.bytes += uint64(extra)
	if next := w.advance(); block {
		w.driveLater(next)
	} else {
		w.driveSome(next)
	}
}

// encodeOnly encodes f. The result must be freed; for a prepared frame that does nothing.
func (w *writer) encodeOnly(f *outFrame) *buffer {
	if f.prepared != nil {
		return w.prepare(f.prepared)
	}
	b := getBuffer(len(f.payload) + maxHeader)
	b.b = w.encode(b.b, f)
	return b
}

// transmit sends e. If block is false, it returns errWouldBlock when the socket is full. The caller owns the socket.
// Frames that are to be compressed are encoded here and not when they join the queue, because a compressor must see the
// messages in the order in which they are sent.
func (w *writer) transmit(ctx context.Context, e *entry, block bool) error {
	switch {
	case e.data != nil:
	case len(e.run) > 0:
		w.encodeRun(e)
	case len(e.frames) > 0:
		w.encodeCopies(e)
	case !e.call: // encoded when the frames joined the queue
		e.data = e.buf.b
	case e.accepted || !e.frame.isLarge():
		// A kept frame is copied already. Once encoded, another goroutine can continue in the middle of it.
		w.encodeCall(e)
	case block:
		return w.putDirect(ctx, e)
	default: // putDirect waits for the peer
		return errWouldBlock
	}
	n, err := w.put(ctx, e.data, block)
	e.data = e.data[n:]
	e.sent = e.sent || n > 0
	return err
}

// encodeCopies encodes the frames whose payloads are in the buffer of e.
func (w *writer) encodeCopies(e *entry) {
	b, payloads := getBuffer(len(e.buf.b)+len(e.frames)*maxHeader), e.buf.b
	for _, c := range e.frames {
		f := outFrame{opcode: c.opcode, fin: c.fin, rsv1: c.rsv1, masked: masks(w.c.agreed.server), deflate: c.deflate}
		f.payload, payloads = payloads[:c.length], payloads[c.length:]
		before := len(b.b)
		b.b = w.encode(b.b, &f)
		if f.deflate {
			e.extra += len(b.b) - before
		}
	}
	e.buf.free()
	e.buf, e.data = b, b.b
}

// encodeCall encodes the frame of a call. If a kept window refers to it from now on, it can no longer be withdrawn.
func (w *writer) encodeCall(e *entry) {
	b := w.encodeOnly(&e.frame)
	if e.frame.deflate {
		e.extra = len(b.b)
	}
	e.accepted = e.accepted || w.isBound(&e.frame)
	e.buf.free()
	e.buf, e.data = b, b.b
}

// encodeRun sets data to the prepared frames of e: a single frame without copying it, or a copy of several frames,
// which are small. The copy is made only now, so that frames that wait cost a reference each.
func (w *writer) encodeRun(e *entry) {
	for _, p := range e.run {
		e.data = w.prepare(p).b
	}
	if len(e.run) > 1 {
		e.copyRun(0)
		e.data = e.buf.b
	}
}

// prepare returns the bytes of p, which is sent next. A window that is kept gets the message, as the peer's does.
func (w *writer) prepare(p *preparedFrame) *buffer {
	if p.needsWindow() {
		w.compressor().addHistory(p.message)
	}
	return &p.whole
}

// isBound reports whether f must be sent once it is encoded, because a kept window or the rest of its message refers to
// it.
func (w *writer) isBound(f *outFrame) bool {
	if f.prepared != nil {
		return f.prepared.needsWindow()
	}
	return f.deflate && (w.c.agreed.deflate.sendTakeover || !f.isWhole())
}

// encode appends the frame f to b, with a header of minimal length and a fresh masking key. If f.deflate is set, it
// compresses the payload, unless f is a whole message that compression does not shorten.
func (w *writer) encode(b []byte, f *outFrame) []byte {
	if f.deflate {
		return w.encodeDeflated(b, f) // which needs more stack
	}
	h := f.header()
	return appendFrame(b, &h, f.payload)
}

// encodeDeflated is encode for a frame that is to be compressed. It leaves room for the longest header, because the
// length of the header depends on the result, and then moves the compressed payload next to the header.
//
// RFC 7692, section 6.1: "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and non-first
// fragments of a data message." f.rsv1 is set accordingly, and cleared here if the message goes out as it is.
func (w *writer) encodeDeflated(b []byte, f *outFrame) []byte {
	h := f.header()
	start := len(b)
	b = grow(b, maxHeader)
	if f.isWhole() {
		var ok bool
		if b, ok = w.compressor().message(b, f.payload); !ok {
			h.rsv1 = false
			return appendFrame(b[:start], &h, f.payload)
		}
	} else {
		b = w.compressor().chunk(b, f.payload, f.fin)
	}
	payload := b[start+maxHeader:] // moved below, over the room that the header has left
	h.length = uint64(len(payload))
	if h.masked {
		h.key = newMaskKey()
		mask(payload, payload, h.key, 0)
	}
	at := len(appendHeader(b[:start], &h))
	return b[:at+copy(b[at:], payload)]
}

// compressor returns the compressor of the connection, which it makes on the first call: most connections that
// negotiate compression never send a long message.
func (w *writer) compressor() *compressor {
	if w.compress == nil {
		w.compress = newCompressor(w.c.agreed.deflate)
	}
	return w.compress
}

// tryWrite writes as much of p as the connection accepts without waiting, which is nothing if it cannot try. TLS
// cannot: a part of a record cannot be taken back.
func (w *writer) tryWrite(p []byte) (int, error) {
	switch {
	case w.c.sock != nil:
		return w.c.sock.tryWrite(p)
	case w.tries:
		return w.c.nc.(tryWriter).tryWrite(p)
	}
	return 0, nil
}

// put writes p. If block is false, it does not wait, and returns errWouldBlock when the socket is full. n bytes were
// accepted also if there is an error.
func (w *writer) put(ctx context.Context, p []byte, block bool) (int, error) {
	n, err := w.tryWrite(p)
	switch {
	case n == len(p) || err != nil && !isTimeout(err):
		return n, err
	case !block:
		return n, errWouldBlock
	}
	m, err := w.putWaiting(ctx, p[n:])
	return n + m, err
}

// putDirect writes the frame of e, whose payload is large and belongs to the caller. Section 5.3: "A masked frame MUST
// have the field frame-masked set to 1"; its payload is masked in copies, because the caller's bytes must not change.
func (w *writer) putDirect(ctx context.Context, e *entry) error {
	f := &e.frame
	h := f.header()
	h.length = uint64(len(f.payload))
	switch {
	case h.masked:
		h.key = newMaskKey()
		return w.putMasked(ctx, e, &h)
	case w.c.sock != nil:
		return w.putVectored(ctx, e, &h)
	}
	return w.putInOrder(ctx, e, &h)
}

// A vector holds the buffers of a write from two slices. They are not in an entry because few frames need them. The
// owner of the socket that got it from the pool uses it.
type vector struct {
	head    [maxHeader]byte
	buffers [2][]byte
	rest    net.Buffers // of buffers
}

var vectorPool = sync.Pool{New: func() any { return new(vector) }}

// putVectored writes the frame of e without copying it: one system call takes the header and the payload. Of a large
// frame, it first writes a piece, which the peer handles while the kernel copies the rest. From 512 KiB on, this saves
// a quarter of the time.
func (w *writer) putVectored(ctx context.Context, e *entry, h *header) error {
	first, rest := e.frame.payload, []byte(nil)
	if len(first) >= splitLimit {
		first, rest = first[:pieceLimit], first[pieceLimit:]
	}
	v := vectorPool.Get().(*vector)
	v.buffers = [2][]byte{appendHeader(v.head[:0], h), first}
	v.rest = v.buffers[:]
	n, err := w.persist(ctx, len(v.buffers[0])+len(first), false, func(int) (int, error) {
		n, err := v.rest.WriteTo(w.c.nc)
		return int(n), err
	})
	e.sent = e.sent || n > 0
	v.buffers = [2][]byte{} // the caller's payload must not stay in memory
	vectorPool.Put(v)
	if err != nil || len(rest) == 0 {
		return err
	}
	return w.putPiece(ctx, e, rest)
}

// putInOrder writes the frame of e on a connection that accepts one buffer at a time, such as TLS. The header goes out
// with the first piece of the payload. The rest is not copied.
func (w *writer) putInOrder(ctx context.Context, e *entry, h *header) error {
	p := e.frame.payload
	b := getBuffer(copyLimit)
	defer b.free()
	b.b = appendHeader(b.b, h)
	n := copyLimit - len(b.b) // so that the first write is one TLS record
	b.b = append(b.b, p[:n]...)
	if err := w.putPiece(ctx, e, b.b); err != nil {
		return err
	}
	return w.putPiece(ctx, e, p[n:])
}

// putMasked writes the frame of e in pieces. It masks each piece in a copy, which stays in the CPU's caches. All pieces
// have the one key of the frame.
func (w *writer) putMasked(ctx context.Context, e *entry, h *header) error {
	p := e.frame.payload
	b := getBuffer(min(len(p), pieceLimit) + maxHeader)
	defer b.free()
	b.b = appendHeader(b.b, h)
	for pos := 0; pos < len(p); {
		n, head := min(len(p)-pos, pieceLimit), len(b.b)
		b.b = b.b[:head+n]
		mask(b.b[head:], p[pos:pos+n], h.key, pos)
		if err := w.putPiece(ctx, e, b.b); err != nil {
			return err
		}
		pos += n
		b.b = b.b[:0]
	}
	return nil
}

// putPiece writes a part of the frame of e, and records in e that the frame has begun: from then on, the end of a
// context fails the connection.
func (w *writer) putPiece(ctx context.Context, e *entry, p []byte) error {
	n, err := w.put(ctx, p, true)
	e.sent = e.sent || n > 0
	return err
}

// putWaiting writes p and waits for the socket. It gives up when ctx ends or when the socket accepts no byte for
// WriteTimeout. Where possible, it writes through a method that returns as soon as the socket accepts a part.
func (w *writer) putWaiting(ctx context.Context, p []byte) (int, error) {
	if !w.soft {
		return w.persist(ctx, len(p), true, func(at int) (int, error) {
			return w.c.nc.Write(p[at:min(len(p), at+recordSize)])
		})
	}
	s, ok := w.c.nc.(someWriter)
	if w.c.sock != nil {
		s, ok = w.c.sock, true
	}
	return w.persist(ctx, len(p), ok, func(at int) (int, error) {
		if ok {
			return s.writeSome(p[at:])
		}
		return w.c.nc.Write(p[at:])
	})
}

// persist calls put with the number of bytes that the socket has accepted so far, until it has accepted size bytes. It
// gives up when ctx ends or when the socket accepts no byte for WriteTimeout. A peer that accepts one byte in that time
// is slow and not stalled, so any progress restarts the time.
//
// Unless parts is set, put does not return when the socket has accepted a part, so the timeout is divided into steps,
// after each of which put returns.
func (w *writer) persist(ctx context.Context, size int, parts bool, put func(at int) (int, error)) (n int, err error) {
	steps, step := 1, w.c.agreed.writeTimeout
	if !parts {
		steps, step = stallSteps, (step+stallSteps-1)/stallSteps
	}
	w.watchFor(ctx)
	defer w.unwatch()
	for idle := 0; n < size; {
		w.c.nc.SetWriteDeadline(deadlineAfter(step))
		if ctx.Err() != nil { // the deadline may have replaced that of interrupt
			return n, errInterrupted
		}
		m, err := put(n)
		n += m
		if idle++; m > 0 {
			idle = 0
		}
		if err = w.judge(ctx, err, idle == steps); err != nil {
			return n, err
		}
	}
	return n, nil
}

// judge returns the reason to end a write that returned err, or nil if the write should go on. stalled says that the
// socket has accepted no byte for WriteTimeout. On a connection without soft deadlines, an interrupted write is final,
// whatever its error is.
func (w *writer) judge(ctx context.Context, err error, stalled bool) error {
	switch {
	case err == nil:
		return nil
	case !w.soft && ctx.Err() != nil:
		return contextError(ctx)
	case !isTimeout(err):
		return err
	case ctx.Err() != nil:
		return errInterrupted
	case stalled || !w.soft:
		return errStalled
	}
	return nil
}

// watchFor makes the end of ctx interrupt a wait for the socket, until unwatch. It also marks the owner as waiting, so
// that Send and Broadcast do not wait for it: see take.
func (w *writer) watchFor(ctx context.Context) {
	w.waits.Store(true)
	if w.watch.is(ctx) {
		w.watch.setActive(true)
	} else {
		w.watch.set(ctx, w.interrupt)
	}
}

// interrupt ends a wait for the socket. It runs on the goroutine that the context starts when it ends.
func (w *writer) interrupt() {
	if err := w.c.nc.SetWriteDeadline(past); err != nil {
		w.c.nc.Close() // nc does not support deadlines
	}
}

// unwatch ends watchFor. The watch itself stays set: see watch. unwatch clears the deadline, because TLS also writes on
// its own, for example to update keys.
func (w *writer) unwatch() {
	w.watch.setActive(false)
	w.c.nc.SetWriteDeadline(time.Time{})
}
