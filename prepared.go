package websocket

// Prepared messages are framed once for many connections, and compressed once for each window size. A broadcast to many
// members therefore costs each of them a reference and a system call.

import (
	"context"
	"errors"
	"slices"
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

	// compressed is indexed by window bits. The level is that of the first connection that needs the frame.
	compressed [maxWindowBits - minWindowBits + 1]atomic.Pointer[variants]
}

// The variants of a compressed frame have the same bytes. Both are the plain frame if compression does not shorten it.
type variants struct {
	alone *preparedFrame // for connections that compress each message separately
	noted *preparedFrame // has the message, for connections that keep their windows
}

// A preparedFrame is a server's frame, ready to be sent on any number of connections. It never changes, so the queues
// of all connections refer to the same bytes.
type preparedFrame struct {
	whole      buffer // the whole frame; not pooled, so free does nothing
	payload    []byte // its payload, a part of whole
	message    []byte // the payload before compression; nil if it is compressed and no window has to know it
	compressed bool
}

var errNotPrepared = errors.New("websocket: the PreparedMessage was not made by NewPreparedMessage")

// isSmall reports whether p is copied where copying saves a write. Larger frames are always sent from the shared bytes.
func (p *preparedFrame) isSmall() bool { return len(p.payload) <= copyLimit }

// needsWindow reports whether the compressor of the connection needs the message of p, because it keeps its window. The
// peer adds the message to its own, and later messages may refer to it.
func (p *preparedFrame) needsWindow() bool { return p.compressed && p.message != nil }

// held returns how many bytes of payload p keeps in memory: the message, if it is kept for a window.
func (p *preparedFrame) held() int { return max(len(p.payload), len(p.message)) }

// size returns how many bytes of a queue p counts as.
func (p *preparedFrame) size() int { return len(p.whole.b) - len(p.payload) + p.held() }

// NewPreparedMessage returns a message of the given type with a copy of p. If typ is TextMessage and p is not UTF-8, it
// returns an error. The message may be sent any number of times, and needs no cleanup.
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

// frame returns a server's frame with the given payload: the message p or, if compressed is set, p compressed. RFC
// 7692, section 6, calls RSV1 the "Per-Message Compressed" bit.
func (m *PreparedMessage) frame(p, payload []byte, compressed bool) preparedFrame {
	b := slices.Clip(appendFrame(nil, &header{fin: true, rsv1: compressed, opcode: m.opcode}, payload))
	payload = b[len(b)-len(payload):]
	if !compressed {
		p = payload
	}
	return preparedFrame{whole: buffer{b: b, class: -1}, payload: payload, message: p, compressed: compressed}
}

// variant returns the frame for c. It is compressed for the window of c if c compresses messages of this length and
// compression makes the frame shorter.
func (m *PreparedMessage) variant(c *Conn) *preparedFrame {
	if !c.compresses(m.typ, len(m.plain.message)) {
		return &m.plain
	}
	params := c.agreed.deflate
	v := m.compressed[params.sendBits-minWindowBits].Load()
	if v == nil {
		v = m.compress(params)
	}
	if params.sendTakeover {
		return v.noted
	}
	return v.alone
}

// compress returns the frame compressed with the window and level of params, unless another goroutine has stored it
// meanwhile. It refers to no earlier message, so any connection with such a window can send it, whether or not the peer
// keeps the window.
func (m *PreparedMessage) compress(params *deflateParams) *variants {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := &m.compressed[params.sendBits-minWindowBits]
	if v := slot.Load(); v != nil {
		return v
	}
	alone := *params
	alone.sendTakeover = false
	v := &variants{&m.plain, &m.plain}
	if payload, ok := newCompressor(&alone).message(nil, m.plain.message); ok {
		// The first variant may wait for a slow peer, which must not keep the message in memory.
		frame := m.frame(nil, payload, true)
		noted := frame
		noted.message = m.plain.message
		v = &variants{&frame, &noted}
	}
	slot.Store(v)
	return v
}

// outFrame sets f to the frame for c. A server sends a prepared frame as it is. A client cannot: section 5.3 says "When
// preparing a masked frame, the client MUST pick a fresh masking key". A client that keeps its window also compresses
// the message itself.
func (m *PreparedMessage) outFrame(c *Conn, f *outFrame) error {
	if m == nil || m.opcode == 0 {
		return errNotPrepared
	}
	p := m.plain.message
	f.opcode, f.fin, f.masked, f.payload, f.original = m.opcode, true, masks(c.agreed.server), p, len(p)
	if !c.agreed.server && c.agreed.deflate != nil && c.agreed.deflate.sendTakeover {
		f.deflate = c.compresses(m.typ, len(p))
		f.rsv1 = f.deflate
		return nil
	}
	v := m.variant(c)
	f.payload, f.rsv1 = v.payload, v.compressed
	if !f.masked {
		f.prepared = v
	}
	return nil
}

// WritePrepared is Write for a prepared message. A server sends the frame as it was prepared. See [Conn.Write] for ctx
// and the error.
func (c *Conn) WritePrepared(ctx context.Context, m *PreparedMessage) error {
	var f outFrame
	if err := m.outFrame(c, &f); err != nil {
		return err
	}
	return c.out.submit(ctx, &f)
}

// SendPrepared is Send for a prepared message. A server queues the frame as it was prepared, without copying it. The
// message counts towards MaxPending as if it were copied.
func (c *Conn) SendPrepared(m *PreparedMessage) error {
	var f outFrame
	if err := m.outFrame(c, &f); err != nil {
		return err
	}
	return c.out.enqueue(&f)
}
