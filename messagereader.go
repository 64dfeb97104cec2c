package websocket

// Reading a message piece by piece, for Conn.Reader and Conn.Stream.

import (
	"context"
	"errors"
	"io"
)

const (
	historySize = 32 << 10 // the largest window of DEFLATE
	scratchSize = 64 << 10 // of the buffer of a message that is inflated as a stream
)

var errReaderSkipped = errors.New("websocket: the message of this Reader was skipped by a later read")

// A messageReader reads one message as an io.Reader. It holds no part of the message but src: what has been read of it
// is in reader.msg. A read of the connection that comes before io.EOF drops the rest of the message, and Read then
// returns errReaderSkipped. The holder of the reader's turn owns the fields; Read takes the turn for each call, and
// only ctx belongs to the caller of Read.
type messageReader struct {
	r   *reader
	ctx context.Context
	err error  // of every later Read; after io.EOF the messageReader may be reused for another message
	src []byte // compressed bytes in the read buffer that have not been inflated
}

// newStream returns a messageReader for the message that start has begun. It reuses the last one after io.EOF, so that
// a loop over Reader does not allocate. One that was not read to its end still belongs to its caller.
func (r *reader) newStream(ctx context.Context) *messageReader {
	r.msg.streamed = true
	m := r.stream
	if m == nil || m.err != io.EOF {
		m = &messageReader{r: r}
		r.stream = m
	}
	m.ctx, m.err, m.src = ctx, nil, nil
	return m
}

// resume replaces the context of the reads that follow, for a Stream, whose deadline may be moved in a message.
func (m *messageReader) resume(ctx context.Context) { m.ctx = ctx }

// Read waits for its turn and returns the next bytes of the message, or io.EOF at its end. An error of the context
// leaves the message where it is, so that a later Read with another context continues.
func (m *messageReader) Read(p []byte) (int, error) {
	r := m.r
	if err := r.lock(m.ctx); err != nil {
		return 0, err
	}
	defer r.unlock()
	if m.err != nil || len(p) == 0 {
		return 0, m.err
	}
	n, err := r.readSome(m.ctx, p)
	if err == io.EOF {
		m.err = err
	}
	return n, err
}

// skipMessage reads the rest of a streamed message and drops it. From then on the Reader of the message returns an
// error, even if ctx ends first.
func (r *reader) skipMessage(ctx context.Context) error {
	r.stream.err = errReaderSkipped
	b := getBuffer(directRead)
	defer b.free()
	for {
		if _, err := r.readSome(ctx, b.b[:cap(b.b)]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// readSome reads bytes of a streamed message into p. It returns io.EOF at the end of the message.
func (r *reader) readSome(ctx context.Context, p []byte) (int, error) {
	m := &r.msg
	for {
		if n := copy(p, m.data[m.taken:]); n > 0 {
			m.taken += n
			return n, nil
		}
		if !m.compressed && r.buf.left > 0 {
			return r.readPayload(ctx, p)
		}
		more, err := r.inflateSome(ctx)
		switch {
		case err != nil || more:
		case m.fin:
			err = r.endStream()
		default:
			err = r.nextFrame(ctx)
		}
		if err != nil {
			return 0, err
		}
	}
}

// endStream ends a streamed message. It returns io.EOF unless the text of the message ends in the middle of a
// character.
func (r *reader) endStream() error {
	if err := r.checkText(nil, true); err != nil {
		return err
	}
	r.msg.pooled.free()
	r.msg.data, r.msg.pooled = nil, nil
	r.end()
	return io.EOF
}

// inflateSome inflates more of a streamed message into msg.data, all of which has been taken. It returns false at the
// end of the frame, and for a message that is not compressed.
func (r *reader) inflateSome(ctx context.Context) (more bool, err error) {
	m, s := &r.msg, r.stream
	if !m.compressed {
		return false, nil
	}
	full := len(m.data) == cap(m.data) // and the decompressor may hold more
	if len(s.src) == 0 && !full && r.buf.left > 0 {
		if s.src, err = r.payload(ctx); err != nil {
			return false, err
		}
	}
	if full {
		m.slide()
	}
	switch {
	case len(s.src) > 0 || full:
		s.src, err = r.inflate(s.src)
		return true, err
	case m.fin && !m.finished:
		m.finished, err = r.finish()
		return true, err
	}
	return false, nil
}

// slide makes room in the data of a streamed message, and keeps the 32 KiB of history that later bytes may refer to
// (RFC 1951, section 2). A message of any size is therefore inflated in 64 KiB.
func (m *inMessage) slide() {
	if cap(m.data) < scratchSize {
		m.grow(scratchSize, true)
		return
	}
	m.data = m.data[:copy(m.data, m.data[len(m.data)-historySize:])]
	m.taken = len(m.data)
}
