package websocket

// The assembler is the part of the reader that turns data frames into messages. It enforces the limits, inflates, and
// checks text as the bytes arrive. A message is handed out in the read buffer (lend), in memory of its own (own), or
// piece by piece (readSome).

import (
	"context"
	"fmt"
	"io"
	"math"
)

const (
	directRead    = 4 << 10  // payload of at least this size is read directly into its message
	historySize   = 32 << 10 // the largest window of DEFLATE
	scratchSize   = 64 << 10 // of the buffer of a message that is inflated as a stream
	firstCapacity = 16 << 10 // of the buffer of a message whose bytes have not arrived yet
	manyRead      = 16 << 10 // the next read after one that filled its buffer
	maxReadSize   = 1 << 20  // of any read buffer

	defaultMaxMessage = 1 << 20 // Options.MaxMessageSize
)

// Compressed input may be longer than the message it inflates to, because it may contain any number of empty blocks.
// The input of a message is limited to inputFactor times the limit on the message, plus inputSlack.
const (
	inputFactor = 8
	inputSlack  = 64 << 10
)

// An inMessage is the message that is being read, or the last one. The holder of the reader's turn owns it.
type inMessage struct {
	open       bool // its first header has been read, but its end has not been returned
	fin        bool // the current frame is the last one
	compressed bool
	streamed   bool // a Reader or a Stream reads it piece by piece
	finished   bool // the end of the compressed message has been inflated
	typ        MessageType
	utf8       utf8State
	frag       fragmentation // which frames may come next
	checked    int32         // bytes at the start of the buffer whose text was checked before they were taken
	limit      uint64        // on size
	size       uint64        // of the payload: announced or, if compressed, inflated
	input      uint64        // compressed bytes announced

	data   []byte  // the bytes assembled so far; of a streamed compressed message, at least the last 32 KiB
	pooled *buffer // holds data; nil if the caller will own data
	taken  int     // bytes of data that a Reader has returned
}

// start reads the header of the next message, or resumes one whose read was cancelled.
func (r *reader) start(ctx context.Context) (MessageType, error) {
	var err error
	if r.msg.open && r.msg.streamed {
		err = r.skipMessage(ctx)
	}
	if err == nil && !r.msg.open {
		err = r.nextFrame(ctx)
	}
	return r.msg.typ, err
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

// startFrame judges a data frame by its length, before a byte of it is read or a buffer grows.
func (r *reader) startFrame() error {
	m, h := &r.msg, &r.buf.head
	if h.opcode != opContinuation {
		r.startMessage()
	}
	m.fin = h.fin
	switch {
	case r.discarding:
		return nil
	case m.compressed:
		if h.length > maxInput(m.limit)-m.input {
			return r.tooBig("compressed message exceeds %d bytes", maxInput(m.limit))
		}
		m.input += h.length
		return nil
	case h.length > m.limit-m.size:
		return r.tooBig("message exceeds %d bytes", m.limit)
	}
	m.size += h.length
	return nil
}

// startMessage begins the message whose first header was read. It need not clear data, which is nil between messages.
func (r *reader) startMessage() {
	m, h := &r.msg, &r.buf.head
	m.open, m.streamed, m.finished = true, false, false
	m.typ, m.compressed = BinaryMessage, h.rsv1
	if h.opcode == opText {
		m.typ = TextMessage
	}
	m.utf8, m.checked, m.taken = 0, 0, 0
	m.limit, m.size, m.input = r.limit.Load(), 0, 0
}

// maxLength returns the limit for the value n of Options.MaxMessageSize. Even without a limit, a message has to fit
// into memory.
func maxLength(n int64) uint64 {
	const most = uint64(math.MaxInt)
	switch {
	case n == 0:
		return defaultMaxMessage
	case n < 0:
		return most
	}
	return min(uint64(n), most)
}

// maxInput returns the limit on the compressed bytes of a message of up to limit bytes.
func maxInput(limit uint64) uint64 {
	if limit > (math.MaxUint64-inputSlack)/inputFactor {
		return math.MaxUint64
	}
	return inputFactor*limit + inputSlack
}

// tooBig fails the connection because a message exceeds a limit.
func (r *reader) tooBig(format string, limit uint64) error {
	return r.fail(&ProtocolError{StatusMessageTooBig, fmt.Sprintf(format, limit)})
}

// checkText checks p, the next bytes taken from a message, and the end of the message if end is set.
func (r *reader) checkText(p []byte, end bool) error {
	m := &r.msg
	if m.typ != TextMessage {
		return nil
	}
	k := min(int(m.checked), len(p))
	m.checked -= int32(k)
	return r.judgeText(p[k:], end)
}

// judgeText checks p, the next bytes of a text, and the end of the text if end is set.
func (r *reader) judgeText(p []byte, end bool) error {
	m := &r.msg
	// Section 8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not, in
	// fact, a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_."
	var ok bool
	if m.utf8, ok = m.utf8.check(p); !ok || end && !m.utf8.complete() {
		return r.fail(&ProtocolError{StatusInvalidFramePayloadData, "invalid UTF-8 in a text message"})
	}
	return nil
}

// end ends a message that was read completely, and counts it. It tells the writer whether another complete frame is in
// the buffer.
func (r *reader) end() {
	m := &r.msg
	m.open = false
	r.counts.newMessages++
	r.counts.newPayload += m.size
	more := startsComplete(r.buf.unread())
	if !more {
		r.counts.publish()
	}
	r.c.out.expectMore(more)
}

// lend reads the next message and returns the buffer that holds it. The caller returns the buffer with
// readBuffer.takeBack.
func (r *reader) lend(ctx context.Context, msg *Message) (*buffer, error) {
	if r.msg.open && r.msg.streamed {
		if err := r.skipMessage(ctx); err != nil {
			return nil, err
		}
	}
	if !r.msg.open {
		if err := r.nextFrame(ctx); err != nil {
			return nil, err
		}
	}
	for r.growsInPlace() {
		if err := r.checkAhead(); err != nil {
			return nil, err
		}
		if _, err := r.fill(ctx, nil); err != nil {
			return nil, err
		}
	}
	full := r.buf.full()
	lent, err := r.handOut(ctx, msg)
	if err == nil {
		r.readSize = nextRead(len(msg.Data), full)
	}
	return lent, err
}

// nextRead returns the size of the next read buffer after a message of n bytes. A peer that filled the buffer to its
// end is likely to have sent more.
func nextRead(n int, full bool) int32 {
	if full {
		n = max(n, manyRead)
	}
	return int32(min(n+maxHeader, maxReadSize))
}

// handOut returns the message in place if all of it is in the read buffer, and otherwise assembles it.
func (r *reader) handOut(ctx context.Context, msg *Message) (lent *buffer, err error) {
	m := &r.msg
	msg.Type = m.typ
	if r.isInPlace() {
		msg.Data, lent = r.buf.takeInPlace(int(r.buf.left)), r.buf.buf
		if err := r.checkText(msg.Data, true); err != nil {
			return nil, err
		}
		r.buf.lent = true
		r.end()
		return lent, nil
	}
	if err := r.assemble(ctx, true); err != nil {
		return nil, err
	}
	msg.Data, lent = m.data, m.pooled
	m.data, m.pooled = nil, nil
	return lent, nil
}

// isInPlace reports whether the whole message is in the read buffer and needs no inflating or assembling.
func (r *reader) isInPlace() bool {
	m := &r.msg
	return m.fin && !m.compressed && m.data == nil && r.buf.buf != nil && uint64(r.buf.payload()) == r.buf.left
}

// growsInPlace reports whether to wait for the rest of the message in the read buffer, which grows with what arrives.
func (r *reader) growsInPlace() bool {
	m := &r.msg
	return m.fin && !m.compressed && m.data == nil && r.buf.left <= maxReadSize && r.buf.buf != nil && !r.isInPlace()
}

// checkAhead checks the text in the read buffer before the rest of its frame has arrived.
func (r *reader) checkAhead() error {
	if r.msg.typ != TextMessage {
		return nil
	}
	p := r.buf.unmaskAhead()
	r.msg.checked += int32(len(p))
	return r.judgeText(p, false)
}

// own reads the message to its end and returns it in a slice that the caller will own.
func (r *reader) own(ctx context.Context) ([]byte, error) {
	if err := r.assemble(ctx, false); err != nil {
		return nil, err
	}
	p := r.msg.data
	r.msg.data, r.msg.pooled = nil, nil
	r.readSize = 1
	if p == nil {
		p = []byte{}
	}
	return p, nil
}

// assemble reads the message to its end into msg.data.
func (r *reader) assemble(ctx context.Context, pooled bool) error {
	for {
		var err error
		if r.msg.compressed {
			err = r.inflateFrame(ctx, pooled)
		} else {
			err = r.readFrame(ctx, pooled)
		}
		if err != nil {
			return err
		}
		if r.msg.fin {
			break
		}
		if err := r.nextFrame(ctx); err != nil {
			return err
		}
	}
	if r.msg.compressed {
		if err := r.finishInflating(pooled); err != nil {
			return err
		}
	}
	if err := r.checkText(nil, true); err != nil {
		return err
	}
	r.end()
	return nil
}

// readFrame appends the rest of the frame to msg.data.
func (r *reader) readFrame(ctx context.Context, pooled bool) error {
	m := &r.msg
	for r.buf.left > 0 {
		if len(m.data) == cap(m.data) {
			m.grow(r.capacity(), pooled)
		}
		n, err := r.readPayload(ctx, m.data[len(m.data):cap(m.data)])
		if err != nil {
			return err
		}
		p := m.data[len(m.data) : len(m.data)+n]
		m.data = m.data[:len(m.data)+n]
		if err := r.checkText(p, false); err != nil {
			return err
		}
	}
	return nil
}

// readPayload reads payload of the frame into dst: the bytes in the buffer or, if there are none, new ones.
func (r *reader) readPayload(ctx context.Context, dst []byte) (int, error) {
	if r.buf.left < uint64(len(dst)) {
		dst = dst[:r.buf.left]
	}
	for r.buf.payload() == 0 {
		if len(dst) >= directRead {
			n, err := r.fill(ctx, dst)
			if n > 0 {
				r.buf.unmask(dst[:n], dst[:n])
			}
			return n, err
		}
		if _, err := r.fill(ctx, nil); err != nil {
			return 0, err
		}
	}
	return r.buf.take(dst), nil
}

// capacity returns the size for msg.data to grow to: enough for the rest of the frame, but no more than four times what
// has arrived, and enough that many small frames do not move it often.
func (r *reader) capacity() int {
	n := uint64(len(r.msg.data))
	want := min(r.buf.left, max(3*n, firstCapacity))
	if !r.msg.fin {
		want = max(want, n, 64)
	}
	return int(n + want)
}

// grow moves data to memory with room for n bytes.
func (m *inMessage) grow(n int, pooled bool) {
	old, b := m.data, m.pooled
	if pooled {
		m.pooled = getBuffer(n)
		m.data = m.pooled.b
	} else {
		m.pooled = nil
		m.data = make([]byte, 0, n)
	}
	m.data = append(m.data, old...)
	b.free()
}

// readSome reads bytes of a streamed message into p. It returns io.EOF at the end of the message.
func (r *reader) readSome(ctx context.Context, p []byte) (int, error) {
	m := &r.msg
	for {
		if m.taken < len(m.data) {
			n := copy(p, m.data[m.taken:])
			m.taken += n
			return n, nil
		}
		switch {
		case m.compressed:
			if more, err := r.inflateSome(ctx); err != nil || more {
				if err != nil {
					return 0, err
				}
				continue
			}
		case r.buf.left > 0:
			n, err := r.readPayload(ctx, p)
			if err == nil {
				err = r.checkText(p[:n], false)
			}
			if err != nil {
				return 0, err
			}
			return n, nil
		}
		if m.fin {
			return 0, r.endStream()
		}
		if err := r.nextFrame(ctx); err != nil {
			return 0, err
		}
	}
}

// endStream ends a streamed message.
func (r *reader) endStream() error {
	if err := r.checkText(nil, true); err != nil {
		return err
	}
	r.msg.pooled.free()
	r.msg.data, r.msg.pooled = nil, nil
	r.end()
	return io.EOF
}

// payload waits for payload of the frame and returns all of it that is in the buffer, unmasked.
func (r *reader) payload(ctx context.Context) ([]byte, error) {
	for r.buf.payload() == 0 {
		if _, err := r.fill(ctx, nil); err != nil {
			return nil, err
		}
	}
	return r.buf.takeInPlace(r.buf.payload()), nil
}

// decompressor returns the decompressor of the connection.
func (r *reader) decompressor() *decompressor {
	if r.inflater == nil {
		r.inflater = newDecompressor(r.c.agreed.deflate)
	}
	return r.inflater
}

// inflateFrame inflates the rest of the frame and appends it to msg.data.
func (r *reader) inflateFrame(ctx context.Context, pooled bool) error {
	m := &r.msg
	for r.buf.left > 0 {
		src, err := r.payload(ctx)
		if err != nil {
			return err
		}
		for len(src) > 0 || len(m.data) == cap(m.data) {
			r.growInflated(len(src), pooled)
			if src, err = r.inflate(src); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishInflating ends a compressed message, which must be complete.
func (r *reader) finishInflating(pooled bool) error {
	for {
		r.growInflated(0, pooled)
		if done, err := r.finish(); done || err != nil {
			return err
		}
	}
}

// growInflated makes room in msg.data if it is full, for at most one byte more than the limit.
func (r *reader) growInflated(src int, pooled bool) {
	m := &r.msg
	if len(m.data) < cap(m.data) {
		return
	}
	want := max(2*len(m.data), 4*src, 256)
	m.grow(int(min(uint64(want), m.limit+1)), pooled)
}

// inflate inflates src into the free capacity of msg.data and returns the rest of src.
func (r *reader) inflate(src []byte) ([]byte, error) {
	before := len(r.msg.data)
	out, rest, err := r.decompressor().inflate(r.msg.data, src)
	r.msg.data = out
	return rest, r.inflated(out[before:], err)
}

// finish inflates the end of the message, and reports whether that is done.
func (r *reader) finish() (done bool, err error) {
	before := len(r.msg.data)
	out, done, err := r.decompressor().finish(r.msg.data)
	r.msg.data = out
	return done, r.inflated(out[before:], err)
}

// inflated judges p, the output of the decompressor, and its error.
func (r *reader) inflated(p []byte, err error) error {
	m := &r.msg
	m.size += uint64(len(p))
	if m.size > m.limit {
		return r.tooBig("message exceeds %d bytes", m.limit)
	}
	if terr := r.checkText(p, false); terr != nil {
		return terr
	}
	if err != nil {
		return r.fail(err)
	}
	return nil
}

// inflateSome inflates more of a streamed message into msg.data, all of which has been taken. It returns false at the
// end of the frame.
func (r *reader) inflateSome(ctx context.Context) (more bool, err error) {
	m, s := &r.msg, r.stream
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

// slide makes room in the data of a streamed message, and keeps the history that later bytes may refer to.
func (m *inMessage) slide() {
	if cap(m.data) < scratchSize {
		m.grow(scratchSize, true)
		return
	}
	m.data = m.data[:copy(m.data, m.data[len(m.data)-historySize:])]
	m.taken = len(m.data)
}
