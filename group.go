package websocket

// Many connections: a PreparedMessage is framed once for all of them, and a Group is a set of them. A Group knows its
// members, and an ending knows the groups of its Conn. Only Add, Remove and ending.leave change the two, and the mutex
// of the Group is always taken before that of the ending.

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// A PreparedMessage is a message to be sent on many connections. It is framed once, and compressed once for each size
// of window that the connections have negotiated, when the first of them needs it. Multiple goroutines may use it
// simultaneously.
type PreparedMessage struct {
	typ    MessageType
	opcode opcode // 0 if the PreparedMessage was not made by NewPreparedMessage
	plain  preparedFrame

	// mu is held while a frame is compressed, so that each is compressed once. Loads of compressed do not need it.
	mu sync.Mutex

	// compressed is indexed by window bits. The level is that of the first connection that needs the frame.
	compressed [maxWindowBits - minWindowBits + 1]atomic.Pointer[preparedFrame]
}

// A preparedFrame is a server's frame, ready to be sent on any number of connections. It never changes.
type preparedFrame struct {
	bytes      []byte // the whole frame
	payload    []byte // its payload, a part of bytes
	message    []byte // the payload before compression
	compressed bool
}

var errNotPrepared = errors.New("websocket: the PreparedMessage was not made by NewPreparedMessage")

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

// variant returns the frame for c. It is compressed for the window of c if c compresses messages of this length and the
// frame gets shorter by it.
func (m *PreparedMessage) variant(c *Conn) *preparedFrame {
	p := m.plain.message
	if !c.compresses(m.typ, len(p)) {
		return &m.plain
	}
	slot := &m.compressed[c.agreed.deflate.sendBits-minWindowBits]
	if v := slot.Load(); v != nil {
		return v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slot.Load() == nil {
		slot.Store(m.compress(c.agreed.deflate))
	}
	return slot.Load()
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
	v := m.frame(m.plain.message, payload, true)
	return &v
}

// outFrame sets f to the frame for c and, if c can send a prepared frame as it is, returns that too. A client cannot,
// because it masks every frame with a key of its own. A client that keeps its window also compresses the message
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

// A Group is a set of connections: a chat room, a topic, a whole server. The zero value is an empty Group. A connection
// may be in many groups, and leaves them when it ends. Multiple goroutines may call methods on a Group simultaneously.
type Group struct {
	mu     sync.Mutex    // guards all below; taken before the mutex of an ending
	conns  map[*Conn]int // the members, with their indexes in list
	list   []*Conn       // roughly in the order of joining: visiting members in random order misses the caches
	lent   bool          // list was handed out, and must be copied before an element is replaced
	closed bool          // Shutdown was called

	refusing signal // fired by Shutdown
}

// Add puts c into g. It returns false if g was shut down, or if c is closing or has ended.
func (g *Group) Add(c *Conn) bool {
	if c == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.conns[c]; ok {
		return true
	}
	if g.closed || !c.end.join(g) {
		return false
	}
	if g.conns == nil {
		g.conns = make(map[*Conn]int)
	}
	g.conns[c] = len(g.list)
	g.list = append(g.list, c)
	return true
}

// Remove takes c out of g. The connection stays open. If c is not a member, Remove does nothing.
func (g *Group) Remove(c *Conn) {
	if c == nil {
		return
	}
	c.end.quit(g)
	g.drop(c)
}

// drop removes c from the set. It does not tell the ending of c, which calls it when the connection leaves its groups.
func (g *Group) drop(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, ok := g.conns[c]
	if !ok {
		return
	}
	if g.lent {
		g.list, g.lent = slices.Clone(g.list), false
	}
	last := len(g.list) - 1
	moved := g.list[last]
	g.list[at], g.conns[moved] = moved, at
	g.list[last] = nil
	g.list = g.list[:last]
	delete(g.conns, c)
}

// Len returns the number of connections in g.
func (g *Group) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// All returns the connections that are in g when the loop begins, in no particular order.
func (g *Group) All() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		for _, c := range g.members() {
			if !yield(c) {
				return
			}
		}
	}
}

// members returns the members as they are now, without copying them. drop copies the list if it was handed out, and Add
// only appends beyond what was handed out.
func (g *Group) members() []*Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lent = true
	return g.list
}

// Broadcast queues m on each connection of g, as SendPrepared does, and returns the number of connections that accepted
// it. It never blocks.
//
// A connection that would exceed its Options.MaxPending fails with an error that matches ErrBacklog and
// StatusTryAgainLater. Its pending messages are dropped, except for the frame that is being sent, and the peer has
// CloseTimeout to accept the close frame. Messages that wait for an open Writer do not count while the peer keeps up.
func (g *Group) Broadcast(m *PreparedMessage) (took int) {
	for _, c := range g.members() {
		switch err := c.broadcast(m); err {
		case nil:
			took++
		case ErrBacklog:
			c.end.expel()
		}
	}
	return took
}

// broadcast is SendPrepared for Broadcast: see outFrame.patient.
func (c *Conn) broadcast(m *PreparedMessage) error {
	var f outFrame
	p, err := m.outFrame(c, &f)
	if err != nil {
		return err
	}
	f.patient = true
	return c.out.enqueue(&f, p)
}

// Shutdown closes all connections of g with the given code and reason, in parallel and each within its CloseTimeout,
// and returns when all have ended. From the call on, g refuses new connections: Add returns false, and Upgrade with g
// as Options.Group answers 503.
//
// If ctx ends first, Shutdown closes the remaining connections as CloseNow does and returns ctx's error. If the code or
// the reason may not be sent, Shutdown returns an error and does nothing.
func (g *Group) Shutdown(ctx context.Context, code StatusCode, reason string) error {
	if ctx == nil {
		return errNilContext
	}
	if _, err := closePayload(code, reason); err != nil {
		return err
	}
	g.refuse()
	members := g.members()
	var all sync.WaitGroup
	for _, c := range members {
		all.Go(func() {
			c.Close(code, reason)
			<-c.Context().Done() // another goroutine may have called Close before
		})
	}
	ended := make(chan struct{})
	go func() {
		all.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	for _, c := range members {
		go c.CloseNow()
	}
	<-ended
	return contextError(ctx)
}

// refuse makes g refuse new connections.
func (g *Group) refuse() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		g.refusing.fire()
	}
}

// closing returns a channel that is closed when g is shut down. For a nil Group it returns nil.
func (g *Group) closing() <-chan struct{} {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refusing.wait(g.closed)
}

// isClosed reports whether g was shut down.
func (g *Group) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}
