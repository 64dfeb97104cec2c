package websocket

// The assembler is the part of the reader that turns data frames into messages. It enforces the limits, inflates, and
// checks text as the bytes arrive. A message is handed out in one of three ways:
//
//   - lend returns it in the read buffer if all of it fits there, or in another pooled buffer. Messages, OnMessage and
//     ReadJSON use it; the caller gives the buffer back with takeBack.
//   - own assembles it in memory that the caller of Read then owns.
//   - messageReader.Read returns it piece by piece (messagereader.go).
//
// Each of them can be cancelled while it waits for bytes. The message then stays in reader.msg, and any of the three
// continues it, except that a message of a messageReader is dropped.

import (
	"context"
	"fmt"
	"math"
)

const (
	directRead    = 4 << 10  // payload of at least this size is read directly into its message
	firstCapacity = 16 << 10 // of the buffer of a message whose bytes have not arrived yet
	manyRead      = 16 << 10 // the least size of a read after one that filled its buffer
	maxReadSize   = 1 << 20  // of any read buffer

	defaultMaxMessage = 1 << 20 // Options.MaxMessageSize
)

// Compressed input may be longer than the message it inflates to, because it may contain any number of empty blocks.
// The input of a message is limited to inputFactor times the limit on the message, plus inputSlack.
const (
	inputFactor = 8
	inputSlack  = 64 << 10
)

// An inMessage is the message that is being read, or the last one. The holder of the reader's turn owns it. Between
// messages, open is false and data and pooled are nil; only frag keeps its meaning.
type inMessage struct {
	open       bool // its first header has been read, but its end has not been returned
	fin        bool // the current frame is the last one
	compressed bool
	streamed   bool // a Reader or a Stream reads it piece by piece
	finished   bool // the end of the compressed message has been inflated
	typ        MessageType
	utf8       utf8State
	frag       fragmentation // which frames may come next
	limit      uint64        // on size
	size       uint64        // of the payload: announced or, if compressed, inflated
	input      uint64        // compressed bytes announced

	data   []byte  // the bytes assembled so far; of a streamed compressed message, at least the last 32 KiB
	pooled *buffer // holds data; nil if the caller will own data
	taken  int     // bytes of data that a Reader has returned
}

// start reads the header of the next message, or resumes one whose read was cancelled. After start, r.buf is at the
// payload of a frame of that message.
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

// startFrame judges a data frame by its length, before a byte of it is read or a buffer grows.
func (r *reader) startFrame() error {
	m, h := &r.msg, &r.buf.head
	if h.opcode != opContinuation {
		r.startMessage()
	}
	m.fin = h.fin
	switch {
	case r.discarding: // the payload is skipped, not kept
		return nil
	case m.compressed: // its size is known only once it is inflated
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

// startMessage begins the message whose first header was read. Section 5.4: "all fragments of a message are of the same
// type, as set by the first fragment's opcode." RFC 7692, section 6: "A message with the "Per-Message Compressed" bit
// set on the first fragment of the message is called a "compressed message"."
//
// It sets the fields one by one, because assigning a whole inMessage takes longer.
func (r *reader) startMessage() {
	m, h := &r.msg, &r.buf.head
	m.open, m.streamed, m.finished = true, false, false
	m.typ, m.compressed = BinaryMessage, h.rsv1
	if h.opcode == opText {
		m.typ = TextMessage
	}
	m.utf8, m.taken = 0, 0
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

// checkText checks p, the next bytes of a message, and the end of the message if end is set.
func (r *reader) checkText(p []byte, end bool) error {
	m := &r.msg
	if m.typ != TextMessage {
		return nil
	}
	// Section 8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not, in
	// fact, a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_."
	var ok bool
	if m.utf8, ok = m.utf8.check(p); !ok || end && !m.utf8.complete() {
		return r.fail(&ProtocolError{StatusInvalidFramePayloadData, "invalid UTF-8 in a text message"})
	}
	return nil
}

// end ends a message that was read completely, and counts it. It tells the writer whether another complete frame is in
// the buffer: the writer then defers the answer to this message, so that it shares a system call with the next.
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

// lend reads the next message and returns the buffer that holds it, which is the read buffer or another. The caller
// returns the buffer with readBuffer.takeBack.
func (r *reader) lend(ctx context.Context, msg *Message) (*buffer, error) {
	_, err := r.start(ctx)
	for err == nil && r.growsInPlace() {
		if err = r.checkAhead(); err == nil {
			_, err = r.fill(ctx, nil)
		}
	}
	if err != nil {
		return nil, err
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
		checked := r.buf.ahead // by checkAhead
		msg.Data, lent = r.buf.takeInPlace(int(r.buf.left)), r.buf.buf
		if err := r.checkText(msg.Data[checked:], true); err != nil {
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

// growsInPlace reports whether to wait for the rest of the message in the read buffer, which grows with the bytes
// received and not with the announced length. Longer messages are assembled, so that their bytes are not moved each
// time.
func (r *reader) growsInPlace() bool {
	m := &r.msg
	return m.fin && !m.compressed && m.data == nil && r.buf.left <= maxReadSize && r.buf.buf != nil && !r.isInPlace()
}

// checkAhead checks the text in the read buffer before the rest of its frame has arrived, so that the connection fails
// at the first wrong byte. readBuffer.ahead remembers how much was checked.
func (r *reader) checkAhead() error {
	if r.msg.typ != TextMessage {
		return nil
	}
	return r.checkText(r.buf.unmaskAhead(), false)
}

// own reads the message to its end and returns it in a slice that the caller will own. The next read then takes the
// smallest buffer, because payload of any length is read directly into the slice.
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
		if err == nil && !r.msg.fin {
			err = r.nextFrame(ctx)
		} else if err == nil {
			break
		}
		if err != nil {
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
		m.data = m.data[:len(m.data)+n]
	}
	return nil
}

// readPayload reads payload of the frame into dst and checks it: the bytes in the buffer or, if there are none, new
// ones. A long dst gets new bytes without a copy.
func (r *reader) readPayload(ctx context.Context, dst []byte) (n int, err error) {
	if r.buf.left < uint64(len(dst)) {
		dst = dst[:r.buf.left]
	}
	for r.buf.payload() == 0 && len(dst) < directRead {
		if _, err = r.fill(ctx, nil); err != nil {
			return 0, err
		}
	}
	checked := min(int(r.buf.ahead), len(dst)) // by checkAhead
	if r.buf.payload() > 0 {
		n = r.buf.take(dst)
	} else {
		if n, err = r.fill(ctx, dst); err != nil {
			return 0, err
		}
		r.buf.unmask(dst[:n], dst[:n])
	}
	if err = r.checkText(dst[checked:n], false); err != nil {
		return 0, err
	}
	return n, nil
}

// capacity returns the size for msg.data to grow to: enough for the rest of the frame, but no more than 16 KiB or four
// times what has arrived, and enough that many small frames do not move it often.
func (r *reader) capacity() int {
	n := uint64(len(r.msg.data))
	want := min(r.buf.left, max(3*n, firstCapacity))
	if !r.msg.fin {
		want = max(want, n, 64)
	}
	return int(n + want)
}

// grow moves data to memory with room for n bytes, which is pooled unless the caller of Read will own it.
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

// payload waits for payload of the frame and returns all of it that is in the buffer, unmasked. The slice is valid
// until the next call of fill.
func (r *reader) payload(ctx context.Context) ([]byte, error) {
	for r.buf.payload() == 0 {
		if _, err := r.fill(ctx, nil); err != nil {
			return nil, err
		}
	}
	return r.buf.takeInPlace(r.buf.payload()), nil
}

// decompressor returns the decompressor of the connection, which it makes on the first call.
func (r *reader) decompressor() *decompressor {
	if r.inflater == nil {
		r.inflater = newDecompressor(r.c.agreed.deflate)
	}
	return r.inflater
}

// inflateFrame inflates the rest of the frame and, after the last frame, the end of the message, and appends it to
// msg.data.
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
	for done := !m.fin; !done; {
		r.growInflated(0, pooled)
		var err error
		if done, err = r.finish(); err != nil {
			return err
		}
	}
	return nil
}

// growInflated makes room in msg.data if it is full, for at most one byte more than the limit. That byte shows that the
// message is too long, whatever its compressed input promises.
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
	out, rest, err := r.decompressor().inflate(r.msg.data, src)
	return rest, r.inflated(out, err)
}

// finish inflates the end of the message, and reports whether that is done. RFC 7692, section 7.2.2: "Append 4 octets
// of 0x00 0x00 0xff 0xff to the tail end of the payload of the message."
func (r *reader) finish() (done bool, err error) {
	out, done, err := r.decompressor().finish(r.msg.data)
	return done, r.inflated(out, err)
}

// inflated makes out msg.data, which the decompressor has extended, and judges the new bytes and the decompressor's
// error.
func (r *reader) inflated(out []byte, err error) error {
	m := &r.msg
	p := out[len(m.data):]
	m.data = out
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
