package websocket

import (
	"context"
	"fmt"
	"io"
)

// Frames become messages here. All state is in the Conn, so that a read that was cancelled, at whatever byte, is
// continued by the next.

const (
	directRead    = 4 << 10  // payload from here on is read into its message without a buffer between
	historySize   = 32 << 10 // the largest window of DEFLATE
	scratchSize   = 64 << 10 // of a message that is inflated as a stream
	firstCapacity = 16 << 10 // of a message whose bytes have not arrived yet
	manyRead      = 16 << 10 // of a read buffer, where more comes than fits the usual one
	maxReadSize   = 1 << 20  // of any
)

// An inMessage is the message under way.
type inMessage struct {
	open       bool // its first header was read, and its end was not handed out
	fin        bool // the frame under way is its last
	compressed bool
	streamed   bool // a Reader has it
	finished   bool // the end of the compressed message was inflated
	typ        MessageType
	utf8       utf8State
	checked    int // bytes that were judged before they were taken
	number     uint64
	size       uint64 // of its payload as announced or, compressed, as inflated

	data   []byte  // what was assembled; of a streamed and compressed message at least the last 32 KiB
	pooled *buffer // where data stands; nil if it is to be the caller's
	taken  int     // of data, by a Reader
	src    []byte  // of a streamed and compressed message: what stands in the read buffer and was not inflated yet
}

// startMessage reads the header of the next message, or goes on with one whose read was cancelled.
func (c *Conn) startMessage(ctx context.Context) (MessageType, error) {
	var err error
	if c.msg.open && c.msg.streamed {
		err = c.skip(ctx)
	}
	if err == nil && !c.msg.open {
		err = c.nextFrame(ctx)
	}
	return c.msg.typ, err
}

// skip reads the rest of a message that nobody wants.
func (c *Conn) skip(ctx context.Context) error {
	b := getBuffer(directRead)
	defer b.free()
	for {
		if _, err := c.readSome(ctx, b.b[:cap(b.b)]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// nextFrame reads headers until that of a data frame, and handles the control frames before it.
func (c *Conn) nextFrame(ctx context.Context) error {
	for {
		whole, err := c.header()
		if err != nil {
			return err
		}
		if !whole {
			if _, err = c.fill(ctx, nil); err != nil {
				return err
			}
			continue
		}
		if !c.in.head.opcode.isControl() {
			return c.startFrame()
		}
		if err = c.control(); err != nil {
			return err
		}
	}
}

// header reads the header that stands in the buffer, and judges it as soon as two bytes are there. It reports whether
// the header is whole, and a control frame with it.
func (c *Conn) header() (whole bool, err error) {
	p, h, frag := c.in.buffered(), &c.in.head, c.frag
	n, err := h.parse(p)
	if err == nil && len(p) >= 2 {
		if err = h.judge(c.server, c.deflate != nil); err == nil {
			err = frag.next(h)
		}
	}
	if err != nil {
		return false, c.fail(err)
	}
	if n == 0 || h.opcode.isControl() && len(p)-n < int(h.length) {
		return false, nil
	}
	c.frag = frag
	c.in.begin(n)
	return true, nil
}

// control handles a control frame.
func (c *Conn) control() error {
	payload := c.in.takeInPlace(int(c.in.left))
	switch c.in.head.opcode {
	case opClose:
		return c.peerClosed(payload)
	case opPong:
		c.ponged(payload)
	case opPing:
		// Section 5.5.2: "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in response, unless it
		// already received a Close frame."
		c.pong(payload)
	}
	return nil
}

// startFrame judges a data frame by its length, before a byte of it is read or a buffer grows.
func (c *Conn) startFrame() error {
	m, h := &c.msg, &c.in.head
	if h.opcode != opContinuation {
		typ := BinaryMessage
		if h.opcode == opText {
			typ = TextMessage
		}
		*m = inMessage{open: true, typ: typ, compressed: h.rsv1, number: m.number + 1}
	}
	m.fin = h.fin
	if m.compressed || c.draining {
		return nil
	}
	if h.length > c.maxMessage-m.size {
		return c.tooBig()
	}
	m.size += h.length
	return nil
}

func (c *Conn) tooBig() error {
	return c.fail(&ProtocolError{StatusMessageTooBig, fmt.Sprintf("message of more than %d bytes", c.maxMessage)})
}

// checkText judges bytes of a message that were taken, or its end.
func (c *Conn) checkText(p []byte, end bool) error {
	m := &c.msg
	if m.typ != TextMessage {
		return nil
	}
	k := min(m.checked, len(p))
	m.checked -= k
	return c.judgeText(p[k:], end)
}

// judgeText judges the next bytes of a text.
func (c *Conn) judgeText(p []byte, end bool) error {
	m := &c.msg
	// Section 8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not, in
	// fact, a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_."
	var ok bool
	if m.utf8, ok = m.utf8.check(p); !ok || end && !m.utf8.complete() {
		return c.fail(&ProtocolError{StatusInvalidFramePayloadData, "text that is not valid UTF-8"})
	}
	return nil
}

// endMessage counts a message that was read to its end.
func (c *Conn) endMessage() {
	m := &c.msg
	m.open = false
	c.counts.newMessages++
	c.counts.newPayload += m.size
	c.setMore(startsWhole(c.in.buffered()))
}

// lendMessage reads the next message to its end, and returns the buffer in which it stands, which takeBack wants back.
func (c *Conn) lendMessage(ctx context.Context, msg *Message) (*buffer, error) {
	if c.msg.open && c.msg.streamed {
		if err := c.skip(ctx); err != nil {
			return nil, err
		}
	}
	if !c.msg.open {
		if err := c.nextFrame(ctx); err != nil {
			return nil, err
		}
	}
	for c.growsInPlace() {
		if err := c.checkAhead(); err != nil {
			return nil, err
		}
		if _, err := c.fill(ctx, nil); err != nil {
			return nil, err
		}
	}
	full := c.in.full()
	lent, err := c.lend(ctx, msg)
	if err == nil {
		c.readSize = nextRead(len(msg.Data), full)
	}
	return lent, err
}

// nextRead returns the size of the next read buffer, after a message of n bytes: what the peer has sent once it may
// announce again. Full is whether the buffer was.
func nextRead(n int, full bool) int32 {
	if full {
		n = max(n, manyRead)
	}
	return int32(min(n+maxHeader, maxReadSize))
}

// lend returns the message in place, if the whole of it stands in the read buffer, or else puts it together.
func (c *Conn) lend(ctx context.Context, msg *Message) (lent *buffer, err error) {
	m := &c.msg
	msg.Type = m.typ
	if c.standsWhole() {
		msg.Data, lent = c.in.takeInPlace(int(c.in.left)), c.in.buf
		if err := c.checkText(msg.Data, true); err != nil {
			return nil, err
		}
		c.in.lent = true
		c.endMessage()
		return lent, nil
	}
	if err := c.assemble(ctx, true); err != nil {
		return nil, err
	}
	msg.Data, lent = m.data, m.pooled
	m.data, m.pooled = nil, nil
	return lent, nil
}

// standsWhole reports whether the whole message stands in the read buffer as it is to be handed out.
func (c *Conn) standsWhole() bool {
	m := &c.msg
	return m.fin && !m.compressed && m.data == nil && c.in.buf != nil && uint64(c.in.standing()) == c.in.left
}

// growsInPlace reports whether the message is to be waited for in the read buffer, which grows with what arrives.
func (c *Conn) growsInPlace() bool {
	m := &c.msg
	return m.fin && !m.compressed && m.data == nil && c.in.left <= maxReadSize && c.in.buf != nil && !c.standsWhole()
}

// checkAhead judges text that stands in the read buffer before the rest of its frame has come.
func (c *Conn) checkAhead() error {
	if c.msg.typ != TextMessage {
		return nil
	}
	p := c.in.unmaskAhead()
	c.msg.checked += len(p)
	return c.judgeText(p, false)
}

// ownMessage reads the message to its end and returns it in a slice that is the caller's.
func (c *Conn) ownMessage(ctx context.Context) ([]byte, error) {
	if err := c.assemble(ctx, false); err != nil {
		return nil, err
	}
	p := c.msg.data
	c.msg.data, c.msg.pooled = nil, nil
	c.readSize = 1
	if p == nil {
		p = []byte{}
	}
	return p, nil
}

// assemble reads the message to its end into msg.data.
func (c *Conn) assemble(ctx context.Context, pooled bool) error {
	for {
		var err error
		if c.msg.compressed {
			err = c.inflateFrame(ctx, pooled)
		} else {
			err = c.readFrame(ctx, pooled)
		}
		if err != nil {
			return err
		}
		if c.msg.fin {
			break
		}
		if err := c.nextFrame(ctx); err != nil {
			return err
		}
	}
	if c.msg.compressed {
		if err := c.finishInflating(pooled); err != nil {
			return err
		}
	}
	if err := c.checkText(nil, true); err != nil {
		return err
	}
	c.endMessage()
	return nil
}

// readFrame appends the rest of the frame to msg.data.
func (c *Conn) readFrame(ctx context.Context, pooled bool) error {
	m := &c.msg
	for c.in.left > 0 {
		if len(m.data) == cap(m.data) {
			m.grow(c.capacity(), pooled)
		}
		n, err := c.readPayload(ctx, m.data[len(m.data):cap(m.data)])
		if err != nil {
			return err
		}
		p := m.data[len(m.data) : len(m.data)+n]
		m.data = m.data[:len(m.data)+n]
		if err := c.checkText(p, false); err != nil {
			return err
		}
	}
	return nil
}

// readPayload reads bytes of the frame into dst: those that stand in the buffer, or else new ones.
func (c *Conn) readPayload(ctx context.Context, dst []byte) (int, error) {
	if c.in.left < uint64(len(dst)) {
		dst = dst[:c.in.left]
	}
	for c.in.standing() == 0 {
		if len(dst) >= directRead {
			n, err := c.fill(ctx, dst)
			if n > 0 {
				c.in.unmask(dst[:n], dst[:n])
			}
			return n, err
		}
		if _, err := c.fill(ctx, nil); err != nil {
			return 0, err
		}
	}
	return c.in.take(dst), nil
}

// capacity returns how large msg.data is to become: as large as the rest of the frame asks for, but no more than four
// times what has arrived, and never by so little that many small frames would move it often.
func (c *Conn) capacity() int {
	n := uint64(len(c.msg.data))
	want := min(c.in.left, max(3*n, firstCapacity))
	if !c.msg.fin {
		want = max(want, n, 64)
	}
	return int(n + want)
}

// grow moves data to where it has room for n bytes.
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

// readSome reads bytes of a streamed message into p; io.EOF is its end.
func (c *Conn) readSome(ctx context.Context, p []byte) (int, error) {
	m := &c.msg
	for {
		if m.taken < len(m.data) {
			n := copy(p, m.data[m.taken:])
			m.taken += n
			return n, nil
		}
		switch {
		case m.compressed:
			if more, err := c.inflateSome(ctx); err != nil || more {
				if err != nil {
					return 0, err
				}
				continue
			}
		case c.in.left > 0:
			n, err := c.readPayload(ctx, p)
			if err == nil {
				err = c.checkText(p[:n], false)
			}
			if err != nil {
				return 0, err
			}
			return n, nil
		}
		if m.fin {
			return 0, c.endStream()
		}
		if err := c.nextFrame(ctx); err != nil {
			return 0, err
		}
	}
}

// endStream ends a streamed message.
func (c *Conn) endStream() error {
	if err := c.checkText(nil, true); err != nil {
		return err
	}
	c.msg.pooled.free()
	c.msg.data, c.msg.pooled = nil, nil
	c.endMessage()
	return io.EOF
}

// payload waits for bytes of the frame and returns all that stand in the buffer, unmasked.
func (c *Conn) payload(ctx context.Context) ([]byte, error) {
	for c.in.standing() == 0 {
		if _, err := c.fill(ctx, nil); err != nil {
			return nil, err
		}
	}
	return c.in.takeInPlace(c.in.standing()), nil
}

// decompressor returns that of the connection. The holder of the read turn calls it.
func (c *Conn) decompressor() *decompressor {
	if c.inflater == nil {
		c.inflater = newDecompressor(c.deflate)
	}
	return c.inflater
}

// inflateFrame appends to msg.data what the rest of the frame inflates to.
func (c *Conn) inflateFrame(ctx context.Context, pooled bool) error {
	m := &c.msg
	for c.in.left > 0 {
		src, err := c.payload(ctx)
		if err != nil {
			return err
		}
		for len(src) > 0 || len(m.data) == cap(m.data) {
			c.growInflated(len(src), pooled)
			if src, err = c.inflate(src); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishInflating ends a compressed message and demands that it is whole.
func (c *Conn) finishInflating(pooled bool) error {
	for {
		c.growInflated(0, pooled)
		if done, err := c.finish(); done || err != nil {
			return err
		}
	}
}

// growInflated makes room in msg.data, if it has none, for one byte more than the limit at the most.
func (c *Conn) growInflated(src int, pooled bool) {
	m := &c.msg
	if len(m.data) < cap(m.data) {
		return
	}
	want := max(2*len(m.data), 4*src, 256)
	m.grow(int(min(uint64(want), c.maxMessage+1)), pooled)
}

// inflate decodes src into the room that msg.data has, and returns what is left of src.
func (c *Conn) inflate(src []byte) ([]byte, error) {
	before := len(c.msg.data)
	out, rest, err := c.decompressor().inflate(c.msg.data, src)
	c.msg.data = out
	return rest, c.inflated(out[before:], err)
}

// finish is inflate for the end of the message.
func (c *Conn) finish() (done bool, err error) {
	before := len(c.msg.data)
	out, done, err := c.decompressor().finish(c.msg.data)
	c.msg.data = out
	return done, c.inflated(out[before:], err)
}

// inflated judges the bytes p that came out of the decompressor, and its error.
func (c *Conn) inflated(p []byte, err error) error {
	c.msg.size += uint64(len(p))
	if c.msg.size > c.maxMessage {
		return c.tooBig()
	}
	if terr := c.checkText(p, false); terr != nil {
		return terr
	}
	if err != nil {
		return c.fail(err)
	}
	return nil
}

// inflateSome puts more of a streamed message into msg.data, all of which was taken; false if the frame has no more.
func (c *Conn) inflateSome(ctx context.Context) (more bool, err error) {
	m := &c.msg
	full := len(m.data) == cap(m.data) // and the decompressor may hold more
	if len(m.src) == 0 && !full && c.in.left > 0 {
		if m.src, err = c.payload(ctx); err != nil {
			return false, err
		}
	}
	if full {
		m.slide()
	}
	switch {
	case len(m.src) > 0 || full:
		m.src, err = c.inflate(m.src)
		return true, err
	case m.fin && !m.finished:
		m.finished, err = c.finish()
		return true, err
	}
	return false, nil
}

// slide makes room in the data of a streamed message and keeps what later bytes may refer to.
func (m *inMessage) slide() {
	if cap(m.data) < scratchSize {
		m.grow(scratchSize, true)
		return
	}
	m.data = m.data[:copy(m.data, m.data[len(m.data)-historySize:])]
	m.taken = len(m.data)
}
