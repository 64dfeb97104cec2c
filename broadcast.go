package websocket

// Broadcast queues a message on the members of a Group, and the senders of the Group send the queues.
//
// Queueing is separate from sending because a system call takes far longer than queueing a reference. Broadcast returns
// after queueing, and several broadcasts in a row share system calls.

import (
	"runtime"
	"slices"
	"sync"
)

const (
	fewMembers  = 2  // up to this number, Broadcast sends to the members itself
	visitedEach = 16 // members that a goroutine of the senders takes at once
	yieldEach   = 16 // batches that it sends before it lets others run, about a millisecond of work
	maxVisits   = 4  // rounds that may wait; beyond them, Broadcast sends to the members itself
)

// Broadcast queues m on each connection of g, and returns the number of connections that accepted it. It never waits
// for a peer. Messages leave in the order of the calls of Broadcast, Send and Write. Unless the Group is very small, up
// to GOMAXPROCS goroutines send them after Broadcast returns. Messages that are broadcast in the meantime leave
// together. If the members change faster than the goroutines send, Broadcast sends to them itself.
//
// A connection that would exceed its Options.MaxPending fails with an error that matches ErrBacklog and
// StatusTryAgainLater. Its pending messages are dropped, except for the frame that is being sent, and the peer has
// CloseTimeout to accept the close frame. Messages that wait for an open Writer do not count while the peer keeps up;
// only the context of the Writer bounds how many wait.
func (g *Group) Broadcast(m *PreparedMessage) (took int) {
	members := g.members()
	alone := len(members) <= fewMembers
	for _, c := range members {
		switch err := c.broadcast(m, alone); err {
		case nil:
			took++
		case ErrBacklog:
			c.end.expel() // other errors mean that c is ending and about to leave g
		}
	}
	if took > 0 && !alone {
		g.senders.visit(members)
	}
	return took
}

// broadcast is SendPrepared for Broadcast: see outFrame.patient. Unless send is set, the frame is only queued, and the
// caller must see that it is sent. What the call costs beside the system call is mostly the three times that it takes
// and releases the writer's mutex: to queue the frame, to take it, and to free the socket.
func (c *Conn) broadcast(m *PreparedMessage, send bool) error {
	f := outFrame{patient: true}
	if err := m.outFrame(c, &f); err != nil {
		return err
	}
	if send {
		return c.out.enqueue(&f)
	}
	return c.out.offer(&f)
}

// The senders of a Group are the goroutines that send the frames queued by Broadcast. After each Broadcast they visit
// all members and send the queue of each connection. If another goroutine owns the socket, that goroutine sends the
// queue instead. Frames therefore leave in order, and none is forgotten. The goroutines end when there is no member to
// visit.
type senders struct {
	mu      sync.Mutex // guards all below
	rounds  [][]*Conn  // members to be visited. The first round has begun.
	running int        // goroutines
}

// visit adds a round of visits to the members, and starts goroutines for it. If too many rounds wait, because the
// members change with each call, the caller visits them itself: it must not broadcast faster than the members can be
// sent to.
func (s *senders) visit(members []*Conn) {
	if s.schedule(members) {
		return
	}
	for _, c := range members {
		c.out.sendQueued()
	}
}

// schedule adds a round for the goroutines of s. It returns false if too many rounds wait. Two rounds have the same
// members if their lists begin at the same address, because a Group copies its list before it replaces an element: see
// Group.members. A goroutine is worth starting only if there is a batch for it.
func (s *senders) schedule(members []*Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.rounds) - 1
	switch {
	case last >= maxVisits && &s.rounds[last][0] != &members[0]:
		return false
	case last < 0 || &s.rounds[last][0] != &members[0]:
		s.rounds = append(s.rounds, members)
	case len(s.rounds[last]) < len(members): // that round has not begun, and serves for both calls
		s.rounds[last] = members
	}
	for most := min(runtime.GOMAXPROCS(0), (len(members)+visitedEach-1)/visitedEach); s.running < most; s.running++ {
		go s.run()
	}
	return true
}

// run visits members until all were visited. It never waits for a peer: what a socket does not accept at once is left
// to a goroutine of that connection.
func (s *senders) run() {
	for n := 1; ; n++ {
		batch := s.take()
		if batch == nil {
			return
		}
		for _, c := range batch {
			c.out.sendQueued()
		}
		if n%yieldEach == 0 {
			runtime.Gosched() // a round may be long
		}
	}
}

// take returns the members that the calling goroutine visits next. If there are none, the goroutine must end: it is no
// longer counted, and the next Broadcast starts another.
func (s *senders) take() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rounds) == 0 {
		s.running--
		return nil
	}
	round := s.rounds[0]
	n := min(visitedEach, len(round))
	if s.rounds[0] = round[n:]; n == len(round) {
		s.rounds = slices.Delete(s.rounds, 0, 1)
	}
	return round[:n]
}
