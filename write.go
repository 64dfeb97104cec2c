package websocket

// The ways to write a message: Write, Send, WriteJSON, and Writer with the frames of its message. Each of them makes
// frames and hands them to the writer, in writer.go.

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
)

var (
	errNilContext   = errors.New("websocket: the context is nil")
	errNotUTF8      = errors.New("websocket: the text is not valid UTF-8; nothing was sent")
	errType         = errors.New("websocket: not a message type; use TextMessage or BinaryMessage")
	errWriterClosed = errors.New("websocket: the Writer is closed")
	errCutText      = errors.New("websocket: the text ends in the middle of a character")
)

// Write sends p as one message in one frame. It does not keep or change p. If typ is TextMessage and p is not valid
// UTF-8, Write returns an error and sends nothing.
//
// Write returns when the operating system has accepted the message. If another goroutine is writing, or if more
// received messages are waiting to be read, Write returns when the message is queued. If sending it fails, a later call
// returns the error. While more than Options.MaxPending bytes are queued, Write waits.
//
// If ctx ends before a part of the frame was sent, Write returns its error, nothing is sent and the connection stays
// usable. If ctx ends later, the connection fails, because a frame that was begun cannot be abandoned. Over TLS the
// connection fails whenever ctx ends while the socket is full, and so it does over a net.Conn of a type that this
// package does not know. With ContextTakeover, a message that was compressed before ctx ended is sent all the same, and
// Write returns nil.
func (c *Conn) Write(ctx context.Context, typ MessageType, p []byte) error {
	var f outFrame
	if err := c.dataFrame(&f, typ, p); err != nil {
		return err
	}
	return c.out.submit(ctx, &f)
}

// Send queues a copy of p as one message and returns at once, however slow the peer is. It returns ErrBacklog if more
// than Options.MaxPending bytes would be waiting to be sent; if none are, it accepts a message of any size. Messages
// are sent in the order of the calls to Send and Write.
func (c *Conn) Send(typ MessageType, p []byte) error {
	var f outFrame
	if err := c.dataFrame(&f, typ, p); err != nil {
		return err
	}
	return c.out.enqueue(&f)
}

// WriteJSON sends the JSON encoding of v as one text message in one frame. See [Conn.Write] for ctx.
func (c *Conn) WriteJSON(ctx context.Context, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(ctx, TextMessage, p)
}

// opcode returns the opcode of a message's first frame. The flag Uncompressed does not change it.
func (t MessageType) opcode() (opcode, error) {
	switch t &^ Uncompressed {
	case TextMessage:
		return opText, nil
	case BinaryMessage:
		return opBinary, nil
	}
	return 0, errType
}

// dataFrame makes f the only frame of a message, and checks the message. Section 5.6: "the whole message MUST contain
// valid UTF-8." RFC 7692, section 6: the first frame of a compressed message has RSV1 set.
func (c *Conn) dataFrame(f *outFrame, typ MessageType, p []byte) error {
	op, err := typ.opcode()
	if err != nil {
		return err
	}
	if op == opText && !validText(p) {
		return errNotUTF8
	}
	f.deflate = c.compresses(typ, len(p))
	f.opcode, f.fin, f.rsv1, f.masked = op, true, f.deflate, masks(c.agreed.server)
	f.payload, f.original = p, len(p)
	return nil
}

// compresses reports whether to compress a message of n bytes, provided that this makes it shorter. Compressing a short
// message takes more time than it saves.
func (c *Conn) compresses(typ MessageType, n int) bool {
	return c.agreed.deflate != nil && typ&Uncompressed == 0 && n >= c.agreed.deflate.threshold
}

// A messageWriter sends one message as a stream of frames. Section 5.4: "The primary purpose of fragmentation is to
// allow sending a message that is of unknown size when the message is started without having to buffer that message."
//
// Two mutual exclusions are needed: one for the caller's goroutines, held while a frame is sent, and one for the end of
// ctx, which must not wait for that. If ctx ends between two calls, abandon ends the message; during a call, the writer
// notices it.
type messageWriter struct {
	w    *writer
	ctx  context.Context
	stop func() bool // stops watching ctx; set under both mutexes, so that either is enough to read it

	// token is full while Write, ReadFrom or Close runs, and guards the fields from frame to room.
	token chan struct{}
	frame outFrame // the next one
	text  bool
	utf8  utf8State
	buf   *buffer
	room  int // size of the next buffer

	held queue // frames that wait for the end of the message; the writer's mutex guards it
	open bool  // a frame was accepted, but not the last one; the writer's mutex guards it

	mu         sync.Mutex // guards the fields below, which abandon reads; never held across I/O
	sending    bool       // a frame is being handed to the writer, which watches ctx
	unfinished bool       // a frame was sent, but not the last one
	err        error      // the reason why no more can be written
}

// Writer begins a message of unknown length and returns an io.WriteCloser for its bytes. Its Close method ends the
// message. Until then, Write and Writer wait, and Send queues messages that are sent afterwards. The bytes are sent in
// frames that grow with the message, from 4 KiB to about 64 KiB; a longer slice is a frame of its own. The
// io.WriteCloser is also an io.ReaderFrom.
//
// ctx bounds the whole message. If ctx ends before a frame was sent, the message is dropped. If it ends later, the
// connection fails with StatusInternalError, because the message cannot be finished. The same happens if a TextMessage
// is closed in the middle of a character. If bytes are not valid UTF-8, the call returns an error and sends none of its
// bytes; the message stays open.
func (c *Conn) Writer(ctx context.Context, typ MessageType) (io.WriteCloser, error) {
	op, err := typ.opcode()
	if err != nil {
		return nil, err
	}
	deflate := c.agreed.deflate != nil && typ&Uncompressed == 0
	m := &messageWriter{
		w:     &c.out,
		ctx:   ctx,
		stop:  func() bool { return true },
		token: make(chan struct{}, 1),
		frame: outFrame{opcode: op, rsv1: deflate, masked: masks(c.agreed.server), deflate: deflate, part: true},
		text:  op == opText,
		room:  minPart,
	}
	if err := c.out.beginStream(m); err != nil {
		return nil, err
	}
	return m, nil
}

// The sizes of the first and of the longest frame of a Writer. A longer frame would delay control frames, which are
// sent between frames.
const (
	minPart = 4 << 10
	maxPart = 64 << 10
)

// beginStream waits until no other Writer is open and no call is waiting, and then lets m send its message. A Writer
// therefore takes its place in the order of the calls.
func (w *writer) beginStream(m *messageWriter) error {
	if err := w.lock(m.ctx); err != nil {
		return err
	}
	if w.stream != nil || w.waiting > 0 {
		e := newEntry()
		e.writer, e.ctx = m, m.ctx
		if err := w.await(m.ctx, e, w.lane(new(outFrame))); err != nil {
			return err
		}
		w.mu.Lock()
	}
	w.stream = m
	if !w.muted && m.ctx.Done() != nil {
		m.mu.Lock() // abandon may run at once, and must find stop
		m.stop = context.AfterFunc(m.ctx, m.abandon)
		m.mu.Unlock()
	}
	w.mu.Unlock()
	return nil
}

// endStream ends the message of a Writer and sends the frames that waited for its end. It does not wait for the peer.
func (w *writer) endStream() {
	w.mu.Lock()
	held := &w.stream.held
	w.stream = nil
	w.queue.append(held)
	w.sendAndUnlock()
}

// lock takes the token and unlock puts it back. The holder of the token may wait for the peer.
func (m *messageWriter) lock()   { m.token <- struct{}{} }
func (m *messageWriter) unlock() { <-m.token }

// Write adds p to the message. It sends nothing until a frame is full.
func (m *messageWriter) Write(p []byte) (int, error) {
	m.lock()
	defer m.unlock()
	err := m.check(p)
	if err == nil {
		err = m.add(p)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// ReadFrom adds the bytes of r, until io.EOF, to the message. It reads into the buffer of the next frame. If the
// context of the message ends while r blocks, the message ends at once, but ReadFrom returns only after r has.
func (m *messageWriter) ReadFrom(r io.Reader) (n int64, err error) {
	m.lock()
	defer m.unlock()
	for {
		if err := m.failure(); err != nil {
			return n, err
		}
		b := m.buffer()
		k, err := r.Read(b.b[len(b.b):cap(b.b)])
		p := b.b[len(b.b) : len(b.b)+k]
		if cerr := m.check(p); cerr != nil {
			return n, cerr
		}
		n += int64(k)
		b.b = b.b[:len(b.b)+k]
		if err == io.EOF {
			return n, nil
		}
		if err == nil && len(b.b) == cap(b.b) {
			err = m.flush(false)
		}
		if err != nil {
			return n, err
		}
	}
}

// Close ends the message: it sends the buffered bytes as the last frame. An empty message is one empty frame.
func (m *messageWriter) Close() error {
	m.lock()
	defer m.unlock()
	if err := m.failure(); err != nil {
		return err
	}
	if !m.utf8.complete() { // a peer would have to fail the connection with 1007
		return m.end(errCutText, true)
	}
	if err := m.flush(true); err != nil {
		return err
	}
	m.end(errWriterClosed, false)
	return nil
}

// failure returns the reason why no more can be written, or nil. If the connection has failed, the message has too.
func (m *messageWriter) failure() error {
	m.mu.Lock()
	err := m.err
	m.mu.Unlock()
	if err == nil {
		if err = m.w.failure(); err != nil {
			m.end(err, false)
		}
	}
	return err
}

// check judges p, the next bytes of the message. Section 5.6: "Note that a particular text frame might include a
// partial UTF-8 sequence; however, the whole message MUST contain valid UTF-8." After an error, the message is as it
// was before.
func (m *messageWriter) check(p []byte) error {
	if err := m.failure(); err != nil || !m.text {
		return err
	}
	next, ok := m.utf8.check(p)
	if !ok {
		return errNotUTF8
	}
	m.utf8 = next
	return nil
}

// buffer returns the buffer of the next frame. Each is twice as large as the one before, up to a limit: a short message
// takes little memory, and a long one few system calls.
func (m *messageWriter) buffer() *buffer {
	if m.buf == nil {
		m.buf = getBuffer(m.room)
		m.room = min(2*m.room, maxPart)
	}
	return m.buf
}

// add buffers p, or sends it after the buffered bytes. Bytes that exceed the buffer go out as a frame of their own,
// without a copy.
func (m *messageWriter) add(p []byte) error {
	if b := m.buffer(); len(b.b) > 0 && len(b.b)+len(p) > cap(b.b) {
		if err := m.flush(false); err != nil {
			return err
		}
	}
	b := m.buffer()
	if len(p) > cap(b.b) {
		return m.send(p, false)
	}
	b.b = append(b.b, p...)
	return nil
}

// flush sends the buffered bytes as a frame. It returns the buffer even if that fails.
func (m *messageWriter) flush(fin bool) error {
	b := m.buffer()
	m.buf = nil
	defer b.free()
	return m.send(b.b, fin)
}

// send sends p as the next frame, which is the last one if fin is set. It returns when p may be reused. Section 5.4:
// all frames but the first have the opcode of a continuation, and only the last has FIN set.
func (m *messageWriter) send(p []byte, fin bool) error {
	f := &m.frame
	f.payload, f.original, f.fin = p, len(p), fin
	if f.isWhole() && !m.w.c.compresses(0, len(p)) { // the whole message is short
		f.rsv1, f.deflate = false, false
	}
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return m.err
	}
	m.sending = true
	m.mu.Unlock()
	err := m.w.submit(m.ctx, f)
	f.opcode, f.rsv1, f.payload = opContinuation, false, nil
	return m.sent(err, fin)
}

// sent records the result of sending a frame. If ctx ended while the frame was sent, abandon did nothing, so sent ends
// the message instead.
func (m *messageWriter) sent(err error, fin bool) error {
	m.mu.Lock()
	m.sending = false
	if err == nil {
		m.unfinished = !fin
	}
	m.mu.Unlock()
	if err == nil && !fin && m.ctx.Err() != nil {
		err = m.w.c.end.errorOf(m.ctx)
	}
	if err != nil {
		return m.end(err, true)
	}
	return nil
}

// abandon ends the message because its context has ended. It runs on the goroutine that the context starts. If a frame
// is being sent, sent does that instead.
func (m *messageWriter) abandon() {
	m.mu.Lock()
	sending := m.sending
	m.mu.Unlock()
	if !sending {
		m.end(m.w.c.end.errorOf(m.ctx), true)
	}
}

// end ends the message, once, and returns the error of all later calls. If the message is broken and a frame was sent,
// the connection fails, because the message cannot be finished: no frame of another message may come before its last
// one (section 5.4), and the protocol has no way to withdraw the first ones.
func (m *messageWriter) end(err error, broken bool) error {
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return m.err
	}
	m.err = err
	unfinished, stop := m.unfinished, m.stop
	m.mu.Unlock()
	stop()
	if broken && unfinished && m.w.failure() == nil {
		m.w.c.end.fail(&ProtocolError{StatusInternalError, "a message could not be finished"})
	}
	m.w.endStream()
	return err
}
