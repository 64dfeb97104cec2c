package websocket

import (
	"context"
	"iter"
	"slices"
	"sync"
)

// A PreparedMessage is a message framed once for many connections and, when the first of them needs it, compressed
// once. It may be used by any goroutine, any number of times.
type PreparedMessage struct {
	typ        MessageType
	opcode     opcode
	plain      preparedFrame
	compressed [maxWindowBits + 1]struct {
		once  sync.Once
		frame preparedFrame
	}
}

// NewPreparedMessage prepares p, which is copied, as one message of the given type. A TextMessage must be UTF-8.
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

// frame makes a server's frame of payload, which p was compressed to or is.
func (m *PreparedMessage) frame(p, payload []byte, compressed bool) preparedFrame {
	bytes := appendFrame(nil, &header{fin: true, rsv1: compressed, opcode: m.opcode}, payload)
	if !compressed {
		p = bytes[len(bytes)-len(payload):]
	}
	return preparedFrame{bytes: bytes, payload: bytes[len(bytes)-len(payload):], message: p, compressed: compressed}
}

// variant returns the frame for c: compressed for its window if it takes that, and if it is shorter.
func (m *PreparedMessage) variant(c *Conn) *preparedFrame {
	p := m.plain.message
	if !c.compresses(m.typ, len(p)) {
		return &m.plain
	}
	v := &m.compressed[c.deflate.sendBits]
	v.once.Do(func() {
		v.frame = m.plain
		alone := *c.deflate
		alone.sendTakeover = false
		if payload, ok := newCompressor(&alone).message(nil, p); ok {
			v.frame = m.frame(p, payload, true)
		}
	})
	return &v.frame
}

// out makes f what c has to send, or returns a frame that goes out as it stands. A client masks each frame anew, and
// one that keeps a window compresses anew.
func (m *PreparedMessage) out(c *Conn, f *outFrame) *preparedFrame {
	p := m.plain.message
	*f = outFrame{opcode: m.opcode, fin: true, payload: p, length: len(p)}
	if !c.server && c.deflate != nil && c.deflate.sendTakeover {
		f.deflate = c.compresses(m.typ, len(p))
		f.rsv1 = f.deflate
		return nil
	}
	v := m.variant(c)
	f.payload, f.rsv1 = v.payload, v.compressed
	if !c.server {
		return nil
	}
	return v
}

// WritePrepared is Write for a prepared message. A server sends the frame as it was prepared.
func (c *Conn) WritePrepared(ctx context.Context, m *PreparedMessage) error {
	var f outFrame
	return c.submit(ctx, &f, m.out(c, &f))
}

// SendPrepared is Send for a prepared message. A server queues the frame as it was prepared, without copying it.
func (c *Conn) SendPrepared(m *PreparedMessage) error {
	var f outFrame
	return c.enqueue(&f, m.out(c, &f))
}

// A Group is a set of connections: a chat room, a topic, a whole server. The zero value is ready. A connection may
// be in many, and leaves them all when it ends. Every method may be called from any goroutine.
type Group struct {
	mu     sync.Mutex    // guards all below for a look-up or a change; taken before the mu of a Conn
	conns  map[*Conn]int // with their places in list
	list   []*Conn       // about in the order of joining, and so of memory: a random one would miss the caches
	lent   bool          // somebody goes through list: what stands in it must not change
	closed bool
	done   chan struct{} // closed by Shutdown; nil until someone asks for it
}

// Add puts c into g. It returns false once g is shut down or c has ended.
func (g *Group) Add(c *Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.conns[c]; ok {
		return true
	}
	if g.closed || !c.join(g) {
		return false
	}
	if g.conns == nil {
		g.conns = make(map[*Conn]int)
	}
	g.conns[c] = len(g.list)
	g.list = append(g.list, c)
	return true
}

// Remove takes c out of g, if it is there. The connection lives.
func (g *Group) Remove(c *Conn) {
	c.quit(g)
	g.drop(c)
}

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

func (g *Group) members() []*Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lent = true
	return g.list
}

// Broadcast queues m on each connection of g, as SendPrepared does, and returns how many took it. It never blocks: a
// connection over its Options.MaxPending is closed with StatusTryAgainLater. Of what such a peer has pending only the
// frame under way is still sent, and after CloseTimeout the connection is cut.
func (g *Group) Broadcast(m *PreparedMessage) (took int) {
	for _, c := range g.members() {
		switch err := c.SendPrepared(m); err {
		case nil:
			took++
		case ErrBacklog:
			c.expel()
		}
	}
	return took
}

// expel closes the connection of a slow consumer, in the background.
func (c *Conn) expel() {
	payload, _ := closePayload(StatusTryAgainLater, "too slow")
	if _, began := c.beginClose(payload, true); began {
		go c.shake()
	}
}

// Shutdown closes all connections of g with the given code and reason, in parallel, each within its CloseTimeout, and
// refuses new ones: Add returns false and Upgrade with this Options.Group answers 503. It returns when all have ended.
// When ctx ends first it cuts the rest and returns ctx's error. A code or reason that may not be sent is an error, and
// nothing is done.
func (g *Group) Shutdown(ctx context.Context, code StatusCode, reason string) error {
	if _, err := closePayload(code, reason); err != nil {
		return err
	}
	g.refuse()
	members := g.members()
	var all sync.WaitGroup
	for _, c := range members {
		all.Go(func() {
			c.Close(code, reason)
			<-c.Context().Done() // somebody else may be at it
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
		c.CloseNow()
	}
	<-ended
	return ctx.Err()
}

// refuse makes Add return false from now on.
func (g *Group) refuse() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done != nil && !g.closed {
		close(g.done)
	}
	g.closed = true
}

// closing returns a channel that is closed once g is shut down; nil, which never is, for a nil Group.
func (g *Group) closing() <-chan struct{} {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done == nil {
		g.done = make(chan struct{})
		if g.closed {
			close(g.done)
		}
	}
	return g.done
}

// isClosed reports whether g was shut down.
func (g *Group) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// join notes that c is in m; false if c has ended.
func (c *Conn) join(m membership) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isEnded {
		c.groups = append(c.groups, m)
	}
	return !c.isEnded
}

// quit is the opposite of join.
func (c *Conn) quit(m membership) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups = slices.DeleteFunc(c.groups, func(g membership) bool { return g == m })
}
