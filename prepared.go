package websocket

// Prepared messages are framed once for many connections, and compressed once for each window size.

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// A PreparedMessage is a message to be sent on many connections. It is framed once. It is also compressed once for each
// window size that the connections have negotiated, when the first of them needs it. Multiple goroutines may use it
// simultaneously.
type PreparedMessage struct {
	typ    MessageType
	opcode opcode // 0 if the PreparedMessage was not made by NewPreparedMessage
	plain  preparedFrame

	// mu is held while a frame is compressed, so that each is compressed once. Loads of compressed do not need it.
	mu sync.Mutex

	// compressed is indexed by window bits. The level is that of the first connection that needs the frame. noted has
	// the frames of connections that keep their windows.
	compressed, noted [maxWindowBits - minWindowBits + 1]atomic.Pointer[preparedFrame]
}

// A preparedFrame is a server's frame, ready to be sent on any number of connections. It never changes.
type preparedFrame struct {
	bytes      []byte // the whole frame
	payload    []byte // its payload, a part of bytes
	message    []byte // the payload before compression; nil if it is compressed and no window has to know it
	compressed bool
}

var errNotPrepared = errors.New("websocket: the PreparedMessage was not made by NewPreparedMessage")

// isSmall reports whether p is copied where copying saves a write.
func (p *preparedFrame) isSmall() bool { return len(p.payload) <= copyLimit }

// NewPreparedMessage returns a message of the given type with a copy of p. If typ is TextMessage and p is not UTF-8, it
// returns an error.
func NewPreparedMessage(typ MessageType, p []byte) (*PreparedMessage, error) {
	op, err := typ.opcode()
	if err != nil {
		return nil, err
	}
	if op == opText && !validText(p) {
		return nil, errNotUTF8
	}
	m := &PreparedMessage{typ: typ, opcode: op}
	m.plain = m.frame(p, p, false)
	return m, nil
}

// frame returns a server's frame with the given payload: the message p or, if compressed is set, p compressed.
func (m *PreparedMessage) frame(p, payload []byte, compressed bool) preparedFrame {
	bytes := appendFrame(nil, &header{fin: true, rsv1: compressed, opcode: m.opcode}, payload)
	if !compressed {
		p = bytes[len(bytes)-len(payload):]
	}
	return preparedFrame{bytes: bytes, payload: bytes[len(bytes)-len(payload):], message: p, compressed: compressed}
}

// variant returns the frame for c. It is compressed for the window of c if c compresses messages of this length and
// compression makes the frame shorter.
func (m *PreparedMessage) variant(c *Conn) *preparedFrame {
	p := m.plain.message
	if !c.compresses(m.typ, len(p)) {
		return &m.plain
	}
	at := c.agreed.deflate.sendBits - minWindowBits
	slot := &m.compressed[at]
	if c.agreed.deflate.sendTakeover {
		slot = &m.noted[at]
	}
	if v := slot.Load(); v != nil {
		return v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.compressed[at].Load() == nil {
		m.compressed[at].Store(m.compress(c.agreed.deflate))
	}
	if v := m.compressed[at].Load(); c.agreed.deflate.sendTakeover {
		slot.Store(v.noting(p))
	}
	return slot.Load()
}

// noting returns p for a connection whose window has to know the message.
func (p *preparedFrame) noting(message []byte) *preparedFrame {
	if !p.compressed {
		return p
	}
	noted := *p
	noted.message = message
	return &noted
}

// compress returns the frame compressed with the window and level of params, or the plain frame if compression does not
// make it shorter. The result refers to no earlier message, so any connection with such a window can send it.
func (m *PreparedMessage) compress(params *deflateParams) *preparedFrame {
	alone := *params
	alone.sendTakeover = false
	payload, ok := newCompressor(&alone).message(nil, m.plain.message)
	if !ok {
		return &m.plain
	}
	v := m.frame(nil, payload, true) // may wait for a slow peer, which must not keep the message in memory
	return &v
}

// outFrame sets f to the frame for c and, if c can send a prepared frame as it is, returns that too. A client cannot,
// because it masks every frame with a new key. A client that keeps its window also compresses the message
// itself.
func (m *PreparedMessage) outFrame(c *Conn, f *outFrame) (*preparedFrame, error) {
	if m == nil || m.opcode == 0 {
		return nil, errNotPrepared
	}
	p := m.plain.message
	*f = outFrame{opcode: m.opcode, fin: true, payload: p, length: len(p)}
	if !c.agreed.server && c.agreed.deflate != nil && c.agreed.deflate.sendTakeover {
		f.deflate = c.compresses(m.typ, len(p))
		f.rsv1 = f.deflate
		return nil, nil
	}
	v := m.variant(c)
	f.payload, f.rsv1 = v.payload, v.compressed
	if masks(c.agreed.server) {
		return nil, nil
	}
	return v, nil
}

// WritePrepared is Write for a prepared message. A server sends the frame as it was prepared.
func (c *Conn) WritePrepared(ctx context.Context, m *PreparedMessage) error {
	var f outFrame
	p, err := m.outFrame(c, &f)
	if err != nil {
		return err
	}
	return c.out.submit(ctx, &f, p)
}

// SendPrepared is Send for a prepared message. A server queues the frame as it was prepared, without copying it.
func (c *Conn) SendPrepared(m *PreparedMessage) error {
	var f outFrame
	p, err := m.outFrame(c, &f)
	if err != nil {
		return err
	}
	return c.out.enqueue(&f, p)
}
