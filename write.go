package websocket

// The ways to write a message: Write, Send, WriteJSON, and Writer with the frames of its message.

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
// connection fails whenever ctx ends while the socket is full.
func (c *Conn) Write(ctx context.Context, typ MessageType, p []byte) error {
	var f outFrame
	if err := c.dataFrame(&f, typ, p); err != nil {
		return err
	}
	return c.out.submit(ctx, &f, nil)
}

// Send queues a copy of p as one message and returns at once, however slow the peer is. It returns ErrBacklog if more
// than Options.MaxPending bytes would be waiting to be sent; if none are, it accepts a message of any size. Messages
// are sent in the order of the calls to Send and Write.
func (c *Conn) Send(typ MessageType, p []byte) error {
	var f outFrame
	if err := c.dataFrame(&f, typ, p); err != nil {
		return err
	}
	return c.out.enqueue(&f, nil)
}

// WriteJSON sends the JSON encoding of v as one text message in one frame. See [Conn.Write] for ctx.
func (c *Conn) WriteJSON(ctx context.Context, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(ctx, TextMessage, p)
}

// opcode returns the opcode of a message's first frame.
func (t MessageType) opcode() (opcode, error) {
	switch t &^ Uncompressed {
	case TextMessage:
		return opText, nil
	case BinaryMessage:
		return opBinary, nil
	}
	return 0, errType
}

// dataFrame makes f the only frame of a message.
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

// compresses reports whether to compress a message of n bytes, provided that this makes it shorter.
func (c *Conn) compresses(typ MessageType, n int) bool {
	return c.agreed.deflate != nil && typ&Uncompressed == 0 && n >= c.agreed.deflate.threshold
}

// A messageWriter sends one message as a stream of frames.
type messageWriter struct {
	w    *writer
	ctx  context.Context
	stop func() bool // stops watching ctx

	// token is full while Write, ReadFrom or Close runs, and guards the fields below.
	token chan struct{}
	frame outFrame // the next one
	text  bool
	utf8  utf8State
	buf   *buffer
	room  int // size of the next buffer

	held queue // frames that wait for the end of the message; the writer's mutex guards it
	open bool  // a frame was accepted, but not the last one; the writer's mutex guards it

	mu      sync.Mutex // guards the fields below, which abandon reads; never held across I/O
	sending bool       // a frame is being handed to the writer, which watches ctx
	begun   bool       // a frame was sent
	done    bool       // the last frame was sent
	err     error      // the reason why no more can be written
}

// Writer begins a message of unknown length and returns an io.WriteCloser for its bytes. Its Close method ends the
// message. Until then, Write and Writer wait, and Send queues messages that are sent afterwards. The bytes are sent in
// frames that grow with the message, from 4 KiB to 64 KiB. The io.WriteCloser is also an io.ReaderFrom.
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
		frame: outFrame{opcode: op, rsv1: deflate, deflate: deflate, part: true},
		text:  op == opText,
		room:  minPart,
	}
	if err := c.out.beginStream(m); err != nil {
		return nil, err
	}
	return m, nil
}

// The sizes of the first and of the longest frame of a Writer.
const (
	minPart = 4 << 10
	maxPart = 64 << 10
)

// beginStream waits until no other Writer is open and no call is waiting, and then lets m send its message.
func (w *writer) beginStream(m *messageWriter) error {
	if m.ctx == nil {
		return errNilContext
	}
	w.mu.Lock()
	if err := w.err; err != nil {
		w.mu.Unlock()
		return err
	}
	if m.ctx.Err() != nil {
		w.mu.Unlock()
		return w.c.end.errorOf(m.ctx)
	}
	if w.stream != nil || w.waiting > 0 {
		q := &w.queue
		if w.stream != nil {
			q = &w.stream.held
		}
		e := newEntry()
		e.writer, e.ctx = m, m.ctx
		if err := w.await(m.ctx, e, q); err != nil {
			return err
		}
		w.mu.Lock()
	}
	w.stream = m
	if !w.muted && m.ctx.Done() != nil {
		m.mu.Lock() // abandon may run at once
		m.stop = context.AfterFunc(m.ctx, m.abandon)
		m.mu.Unlock()
	}
	w.mu.Unlock()
	return nil
}

// endStream ends the message of a Writer and sends the frames that waited for its end.
func (w *writer) endStream() {
	w.mu.Lock()
	held := &w.stream.held
	w.stream = nil
	w.queue.append(held)
	e := w.acquire()
	w.mu.Unlock()
	w.drive(context.Background(), e, nil, false)
}

func (m *messageWriter) lock()   { m.token <- struct{}{} }
func (m *messageWriter) unlock() { <-m.token }

// Write adds p to the message.
func (m *messageWriter) Write(p []byte) (int, error) {
	m.lock()
	defer m.unlock()
	if err := m.check(p); err != nil {
		return 0, err
	}
	if err := m.add(p); err != nil {
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

// Close ends the message.
func (m *messageWriter) Close() error {
	m.lock()
	defer m.unlock()
	if err := m.failure(); err != nil {
		return err
	}
	if !m.utf8.complete() {
		return m.end(errCutText, true)
	}
	if err := m.flush(true); err != nil {
		return err
	}
	m.end(errWriterClosed, false)
	return nil
}

// failure returns the reason why no more can be written, or nil.
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

// check judges p, the next bytes of the message.
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

// buffer returns the buffer of the next frame.
func (m *messageWriter) buffer() *buffer {
	if m.buf == nil {
		m.buf = getBuffer(m.room)
		m.room = min(2*m.room, maxPart)
	}
	return m.buf
}

// add buffers p, or sends it after the buffered bytes.
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

// flush sends the buffered bytes as a frame.
func (m *messageWriter) flush(fin bool) error {
	b := m.buf
	m.buf = nil
	defer b.free()
	if b == nil {
		return m.send(nil, fin)
	}
	return m.send(b.b, fin)
}

// send sends p as the next frame, which is the last one if fin is set. It returns when p may be reused.
func (m *messageWriter) send(p []byte, fin bool) error {
	f := &m.frame
	f.payload, f.length, f.fin = p, len(p), fin
	if f.isWhole() && !m.w.c.compresses(0, len(p)) {
		f.rsv1, f.deflate = false, false
	}
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return m.err
	}
	m.sending = true
	m.mu.Unlock()
	err := m.w.submit(m.ctx, f, nil)
	f.opcode, f.rsv1, f.payload = opContinuation, false, nil
	return m.sent(err, fin)
}

// sent records the result of sending a frame.
func (m *messageWriter) sent(err error, fin bool) error {
	m.mu.Lock()
	m.sending = false
	m.begun = m.begun || err == nil
	m.done = err == nil && fin
	m.mu.Unlock()
	if err == nil && !fin && m.ctx.Err() != nil {
		err = m.w.c.end.errorOf(m.ctx)
	}
	if err != nil {
		return m.end(err, true)
	}
	return nil
}

// abandon ends the message because its context has ended. If a frame is being sent, send does that instead.
func (m *messageWriter) abandon() {
	m.mu.Lock()
	sending := m.sending
	m.mu.Unlock()
	if !sending {
		m.end(m.w.c.end.errorOf(m.ctx), true)
	}
}

// end ends the message, once, and returns the error of all later calls. If the message is broken and a frame was sent,
// the connection fails, because the message cannot be finished.
func (m *messageWriter) end(err error, broken bool) error {
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return m.err
	}
	m.err = err
	unfinished, stop := m.begun && !m.done, m.stop
	m.mu.Unlock()
	stop()
	if broken && unfinished && m.w.failure() == nil {
		m.w.c.end.fail(&ProtocolError{StatusInternalError, "a message could not be finished"})
	}
	m.w.endStream()
	return err
}
