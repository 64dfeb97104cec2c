package websocket

// The part of the writer that only the owner of the socket runs: it encodes frames and writes bytes. A write first
// tries without waiting. Deadlines and contexts matter only when the socket is full.

import (
	"context"
	"net"
	"time"
)

// sendOwn sends the frame of a call on a connection that has nothing else to send. The caller owns the socket. In the
// usual case the socket accepts all of a small frame. That path uses little of the stack: see reader.fill.
func (w *writer) sendOwn(ctx context.Context, f *outFrame, p *preparedFrame) error {
	if !w.tries || p != nil || !f.deflate && len(f.payload) > copyLimit {
		e := w.callEntry(ctx, f, p)
		return w.drive(ctx, e, e, true)
	}
	b := w.encodeOne(f)
	n, err := w.tryWrite(b.b)
	if err != nil || n < len(b.b) {
		return w.driveRest(ctx, f, b, n)
	}
	w.sentOwn(f, b)
	return nil
}

// encodeOne encodes f.
func (w *writer) encodeOne(f *outFrame) *buffer {
	b := getBuffer(len(f.payload) + maxHeader)
	b.b = w.encode(b.b, f)
	return b
}

// sentOwn records that f was sent, encoded in b, and has what waits sent next.
func (w *writer) sentOwn(f *outFrame, b *buffer) {
	extra := 0
	if f.deflate {
		extra = len(b.b)
	}
	b.free()
	w.mu.Lock()
	w.bytes += uint64(extra)
	w.driveLater(w.advance())
}

// driveRest is sendOwn for f, encoded in b, after the socket has accepted n bytes.
func (w *writer) driveRest(ctx context.Context, f *outFrame, b *buffer, n int) error {
	e := newEntryOf(f)
	e.buf, e.data, e.sent = b, b.b[n:], n > 0
	if f.deflate {
		e.extra = len(b.b)
		e.accepted = w.isBound(f)
	}
	return w.drive(ctx, e, e, true)
}

// sendLone sends p without an entry, and returns what to send next. Apart from the system call, this saves a third of
// the time.
func (w *writer) sendLone(p *preparedFrame) *entry {
	n, err := w.tryWrite(p.bytes)
	if n == len(p.bytes) && err == nil {
		w.mu.Lock()
		return w.advance()
	}
	e := newRun(p, len(p.bytes))
	w.encodeRun(e)
	e.data, e.sent = e.data[n:], n > 0
	return e
}

// transmit sends e. If block is false, it returns errWouldBlock when the socket is full. The caller owns the socket.
func (w *writer) transmit(ctx context.Context, e *entry, block bool) error {
	if len(e.run) > 0 {
		w.encodeRun(e)
	}
	if e.data == nil && !e.isDirect() {
		w.encodeEntry(e)
	}
	if e.data == nil {
		if !block {
			return errWouldBlock
		}
		return w.putDirect(ctx, e)
	}
	n, err := w.put(ctx, e.data, block)
	e.data = e.data[n:]
	e.sent = e.sent || n > 0
	return err
}

// isDirect reports whether the payload of e is large and goes out directly from the caller's slice.
func (e *entry) isDirect() bool {
	return !e.accepted && !e.frames[0].deflate && len(e.frames[0].payload) > copyLimit
}

// encodeEntry encodes the frames of e.
func (w *writer) encodeEntry(e *entry) {
	size := 0
	for i := range e.frames {
		size += len(e.frames[i].payload) + maxHeader
	}
	b := getBuffer(size)
	for i := range e.frames {
		f := &e.frames[i]
		before := len(b.b)
		b.b = w.encode(b.b, f)
		if f.deflate {
			e.extra += len(b.b) - before
			e.accepted = e.accepted || w.isBound(f)
		}
	}
	e.buf.free()
	e.buf, e.data = b, b.b
}

// encodeRun sets data to the prepared frames of e: a single frame without copying it, or a copy of several frames.
func (w *writer) encodeRun(e *entry) {
	for _, p := range e.run {
		if w.keepsWindowFor(p) {
			w.compressor().addHistory(p.message)
			e.accepted = true
		}
	}
	if len(e.run) > 1 {
		e.copyRun(0)
		return
	}
	e.data, e.run[0] = e.run[0].bytes, nil
	e.run = e.run[:0]
}

// isBound reports whether f must be sent once it is compressed, because a kept window or the rest of its message refers
// to it.
func (w *writer) isBound(f *outFrame) bool { return w.c.agreed.deflate.sendTakeover || !f.isWhole() }

// encode appends the frame f to b. If f.deflate is set, it compresses the payload, unless f is a whole message that
// compression does not shorten.
func (w *writer) encode(b []byte, f *outFrame) []byte {
	if f.deflate {
		return w.encodeDeflated(b, f) // which needs more stack
	}
	h := f.header(masks(w.c.agreed.server))
	return appendFrame(b, &h, f.payload)
}

// encodeDeflated is encode for a frame that is to be compressed.
func (w *writer) encodeDeflated(b []byte, f *outFrame) []byte {
	h := f.header(masks(w.c.agreed.server))
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
	payload := b[start+maxHeader:]
	h.length = uint64(len(payload))
	if h.masked {
		h.key = newMaskKey()
		mask(payload, payload, h.key, 0)
	}
	at := len(appendHeader(b[:start], &h))
	return b[:at+copy(b[at:], payload)]
}

// compressor returns the compressor of the connection, which it makes on the first call.
func (w *writer) compressor() *compressor {
	if w.compress == nil {
		w.compress = newCompressor(w.c.agreed.deflate)
	}
	return w.compress
}

// tryWrite writes as much of p as the connection accepts without waiting. It requires writer.tries.
func (w *writer) tryWrite(p []byte) (int, error) {
	if w.c.sock != nil {
		return w.c.sock.tryWrite(p)
	}
	return w.c.nc.(tryWriter).tryWrite(p)
}

// put writes p. If block is false, it does not wait, and returns errWouldBlock when the socket is full.
func (w *writer) put(ctx context.Context, p []byte, block bool) (n int, err error) {
	if w.tries {
		n, err = w.tryWrite(p)
		if n == len(p) || err != nil && !isTimeout(err) {
			return n, err
		}
	}
	if !block {
		return n, errWouldBlock
	}
	m, err := w.putWaiting(ctx, p[n:])
	return n + m, err
}

// putDirect writes the frame of e, whose payload is large and belongs to the caller.
func (w *writer) putDirect(ctx context.Context, e *entry) error {
	f := &e.frames[0]
	h := f.header(masks(w.c.agreed.server))
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

// putVectored writes the frame of e without copying it. Of a large frame, it first writes a piece, which the peer
// handles while the kernel copies the rest. From 512 KiB on, this saves a quarter of the time.
func (w *writer) putVectored(ctx context.Context, e *entry, h *header) error {
	p, rest := e.frames[0].payload, []byte(nil)
	if len(p) >= splitLimit {
		p, rest = p[:pieceLimit], p[pieceLimit:]
	}
	err := w.putBoth(ctx, e, appendHeader(e.head[:0], h), p)
	if err == nil && rest != nil {
		err = w.putBoth(ctx, e, rest, nil)
	}
	return err
}

// putBoth writes p and then q, with one system call if the socket accepts both.
func (w *writer) putBoth(ctx context.Context, e *entry, p, q []byte) error {
	e.vector = [2][]byte{p, q}
	e.rest = e.vector[:]
	n, err := w.putResumable(ctx, &e.rest)
	e.sent = e.sent || n > 0
	return err
}

// putInOrder writes the frame of e on a connection that accepts one buffer at a time. The header goes out with the
// first piece of the payload. The rest is not copied.
func (w *writer) putInOrder(ctx context.Context, e *entry, h *header) error {
	p := e.frames[0].payload
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

// putMasked writes the frame of e in pieces. It masks each piece in a copy.
func (w *writer) putMasked(ctx context.Context, e *entry, h *header) error {
	p := e.frames[0].payload
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

// putPiece writes a part of the frame of e, and records in e that the frame has begun.
func (w *writer) putPiece(ctx context.Context, e *entry, p []byte) error {
	n, err := w.put(ctx, p, true)
	e.sent = e.sent || n > 0
	return err
}

// putWaiting writes p and waits for the socket. It gives up when ctx ends or when the socket accepts no byte for
// WriteTimeout.
func (w *writer) putWaiting(ctx context.Context, p []byte) (int, error) {
	if !w.soft {
		return w.putFinal(ctx, p)
	}
	if w.c.sock != nil {
		return w.putParts(ctx, w.c.sock, p)
	}
	if s, ok := w.c.nc.(someWriter); ok {
		return w.putParts(ctx, s, p)
	}
	rest := net.Buffers{p}
	n, err := w.putResumable(ctx, &rest)
	return int(n), err
}

// putParts is putWaiting for a connection whose writeSome reports each part that was taken.
func (w *writer) putParts(ctx context.Context, s someWriter, p []byte) (n int, err error) {
	w.watchFor(ctx)
	defer w.unwatch()
	for progress := time.Now(); n < len(p); {
		w.arm(w.c.agreed.writeTimeout)
		if ctx.Err() != nil {
			return n, errInterrupted
		}
		m, err := s.writeSome(p[n:])
		n += m
		if m > 0 {
			progress = time.Now()
		}
		if err = w.judge(ctx, err, progress); err != nil {
			return n, err
		}
	}
	return n, nil
}

// putResumable is putWaiting for buffers that go out together. It knows the time at which the socket last accepted a
// byte only to a sixteenth of WriteTimeout.
func (w *writer) putResumable(ctx context.Context, rest *net.Buffers) (n int64, err error) {
	w.watchFor(ctx)
	defer w.unwatch()
	progress := time.Now()
	for {
		w.arm((w.c.agreed.writeTimeout + stallSteps - 1) / stallSteps)
		if ctx.Err() != nil {
			return n, errInterrupted
		}
		m, err := rest.WriteTo(w.c.nc)
		n += m
		if m > 0 {
			progress = time.Now()
		}
		if err == nil {
			return n, nil
		}
		if err = w.judge(ctx, err, progress); err != nil {
			return n, err
		}
	}
}

// judge returns the reason to end a write that returned err, or nil if the write should go on. progress is when the
// socket last accepted a byte.
func (w *writer) judge(ctx context.Context, err error, progress time.Time) error {
	switch {
	case err == nil || !isTimeout(err):
		return err
	case ctx.Err() != nil:
		return errInterrupted
	case w.c.agreed.writeTimeout > 0 && time.Since(progress) >= w.c.agreed.writeTimeout:
		return errStalled
	}
	return nil
}

// putFinal is putWaiting for a connection on which an expired write deadline is final.
func (w *writer) putFinal(ctx context.Context, p []byte) (n int, err error) {
	w.watchFor(ctx)
	defer w.unwatch()
	for n < len(p) {
		w.arm(w.c.agreed.writeTimeout)
		if ctx.Err() != nil {
			return n, errInterrupted
		}
		m, err := w.c.nc.Write(p[n:min(len(p), n+recordSize)])
		n += m
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return n, contextError(ctx)
		case isTimeout(err):
			return n, errStalled
		default:
			return n, err
		}
	}
	return n, nil
}

// watchFor makes the end of ctx interrupt a wait for the socket, until unwatch.
func (w *writer) watchFor(ctx context.Context) {
	w.mu.Lock()
	w.waits = true
	w.mu.Unlock()
	if w.watch.is(ctx) {
		w.watch.setActive(true)
	} else {
		w.watch.set(ctx, w.interrupt)
	}
}

// interrupt ends a wait for the socket.
func (w *writer) interrupt() {
	if err := w.c.nc.SetWriteDeadline(past); err != nil {
		w.c.nc.Close() // nc does not support deadlines
	}
}

// unwatch ends watchFor. It clears the deadline, because TLS also writes on its own, for example to update keys.
func (w *writer) unwatch() {
	w.watch.setActive(false)
	w.c.nc.SetWriteDeadline(time.Time{})
}

// arm sets the deadline of the next write to d from now.
func (w *writer) arm(d time.Duration) { w.c.nc.SetWriteDeadline(deadlineAfter(d)) }
