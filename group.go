package websocket

// A Group lists its members, and the ending of a Conn lists the groups of that Conn. Only Add, Remove and ending.leave
// change these lists. The mutex of the Group is always taken before the mutex of the ending. broadcast.go sends to the
// members.

import (
	"context"
	"iter"
	"slices"
	"sync"
)

// A Group is a set of connections: a chat room, a topic, a whole server. The zero value is an empty Group. A connection
// may be in many groups, and leaves them when it ends. Multiple goroutines may call methods on a Group simultaneously.
//
// The methods take constant time, except for Broadcast, Shutdown, and the first Remove after either of them or All,
// which copies the list of members.
type Group struct {
	mu     sync.Mutex    // guards all below but senders; taken before the mutex of an ending
	conns  map[*Conn]int // the members, with their indexes in list
	list   []*Conn       // roughly in the order of joining: visiting members in random order would miss the caches
	lent   bool          // list was handed out, and must be copied before an element is replaced
	closed bool          // Shutdown was called

	refusing signal // fired by Shutdown
	senders  senders
}

// Add puts c into g. It returns false if g was shut down, or if c is closing or has ended. Adding a member again does
// nothing.
func (g *Group) Add(c *Conn) bool {
	if c == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.conns[c]; ok {
		return true
	}
	if g.closed || !c.end.join(g) { // from here on, the end of c calls drop
		return false
	}
	if g.conns == nil {
		g.conns = make(map[*Conn]int)
	}
	g.conns[c] = len(g.list)
	g.list = append(g.list, c)
	return true
}

// Remove takes c out of g. The connection stays open. If c is not a member, Remove does nothing. A Broadcast that has
// begun may still queue its message on c.
func (g *Group) Remove(c *Conn) {
	if c == nil {
		return
	}
	c.end.quit(g)
	g.drop(c)
}

// drop removes c from the set, in constant time: the last member takes its place in the list. It does not tell the
// ending of c, which calls drop when the connection leaves its groups.
func (g *Group) drop(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, ok := g.conns[c]
	if !ok {
		return
	}
	if g.lent { // a broadcast or a loop may be reading it
		g.list, g.lent = slices.Clone(g.list), false
	}
	last := len(g.list) - 1
	moved := g.list[last]
	g.list[at], g.conns[moved] = moved, at
	g.list[last] = nil
	g.list = g.list[:last]
	delete(g.conns, c)
}

// Len returns the number of connections in g. Connections that have ended are not counted.
func (g *Group) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// All returns the connections that are in g when the loop begins, in no particular order. The loop may add and remove
// members, and may take as long as it likes: it holds no lock.
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
// only appends beyond what was handed out. The caller must not change the result.
func (g *Group) members() []*Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lent = true
	return g.list
}

// Shutdown closes all connections of g with the given code and reason, in parallel and each within its CloseTimeout,
// and returns when all have ended. As soon as Shutdown is called, g refuses new connections: Add returns false, and
// Upgrade with g as Options.Group answers 503.
//
// If ctx ends first, Shutdown closes the remaining connections as CloseNow does and returns ctx's error. If the code or
// the reason cannot be sent in a close frame, Shutdown returns an error and does nothing.
func (g *Group) Shutdown(ctx context.Context, code StatusCode, reason string) error {
	if ctx == nil {
		return errNilContext
	}
	if _, err := closePayload(code, reason); err != nil {
		return err
	}
	g.refuse() // from here on, no member is added
	members := g.members()
	var all sync.WaitGroup
	for _, c := range members {
		all.Go(func() {
			c.Close(code, reason)
			<-c.Context().Done() // Close returns early if another goroutine called it before
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
	for _, c := range members { // each ends the Close above
		go c.CloseNow()
	}
	<-ended
	return contextError(ctx)
}

// refuse makes g refuse new connections. It may be called again: a second Shutdown waits like the first.
func (g *Group) refuse() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		g.refusing.fire()
	}
}

// closing returns a channel that is closed when g is shut down. For a nil Group it returns nil, which is never ready.
func (g *Group) closing() <-chan struct{} {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refusing.wait(g.closed)
}

// isClosed reports whether g was shut down. A nil Group never is. A handshake asks before it accepts a connection for
// g, and Add asks again.
func (g *Group) isClosed() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}
