package websocket

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Frames on their way out. A frame joins the queue of its connection under a short lock; whoever finds the
// socket free takes it (busy) and sends the queue, the others have done with their frame when it is queued.
// So writers that meet share a system call, and none waits for a lock across I/O.

const (
	copyLimit  = 16 << 10 // frames up to this payload are copied together, larger ones go out as they stand
	deferLimit = 64 << 10 // bytes that may wait for the reader to drain its buffer
	maxRounds  = 8        // items that one sends who must not block, when others add more and more
)

// An outFrame is a frame to be sent.
type outFrame struct {
	opcode  opcode
	fin     bool
	rsv1    bool // of a compressed message's first frame
	deflate bool // the payload is to be compressed
	part    bool // of the message of a Writer
	kept    bool // once a part of it is out, the rest goes out after its call gave up
	payload []byte
	length  int // of the payload, before compression
}

// whole reports whether f is the only frame of its message.
func (f *outFrame) whole() bool { return f.fin && f.opcode != opContinuation }

type itemKind uint8

const (
	itemFrames itemKind = iota // whole frames, as they go out
	itemRaw                    // whole frames, unmasked, of which those with RSV2 are to be compressed
	itemDirect                 // one frame, whose payload belongs to a call that waits until it is out
	itemTurn                   // a Writer that waits for its turn
)

// An item stands in the queue of a sender.
type item struct {
	kind    itemKind
	started bool // somebody is sending it: nothing may be added
	shared  bool // frames of several calls stand in it
	bound   bool // a kept window has seen it: it must be sent
	closing bool // it is our close frame
	next    *item
	buf     *buffer // where data stands; nil where it is a prepared message's
	data    []byte  // what is still to go out
	note    []byte  // the message that a prepared frame carries, where a kept window must know of it
	size    int     // its part of sender.pending
	frame   outFrame
	sent    bool       // a part of it is out
	wire    int        // its bytes, where they are counted when it is out
	done    chan error // where a call waits for it; its capacity is 1
	ctx     context.Context
	head    [maxHeader]byte
	vector  [2][]byte
	rest    net.Buffers // of vector
}

var items = sync.Pool{New: func() any { return new(item) }}

func newItem(kind itemKind) *item {
	it := items.Get().(*item)
	it.kind = kind
	return it
}

// finish tells the call that waits for it, and frees it.
func (it *item) finish(err error) {
	if it.done != nil {
		it.done <- err
	}
	it.buf.free()
	*it = item{}
	items.Put(it)
}

// lost reports whether it cannot be withdrawn, nor sent to its end, when the context of its call has ended.
func (it *item) lost(mine *item) bool {
	return it.sent && !it.shared && (it == mine || it.done != nil)
}

// takes reports whether a frame of n bytes may be added.
func (it *item) takes(kind itemKind, n int) bool {
	return it != nil && !it.started && it.kind == kind && it.buf != nil && cap(it.buf.b)-len(it.buf.b) >= n
}

// A queue is a list of items.
type queue struct{ head, tail *item }

func (q *queue) push(it *item) {
	if q.tail == nil {
		q.head = it
	} else {
		q.tail.next = it
	}
	q.tail = it
}

func (q *queue) pushFront(it *item) {
	front := queue{it, it}
	front.append(q)
	*q = front
}

func (q *queue) pop() *item {
	it := q.head
	q.head, it.next = it.next, nil
	if q.head == nil {
		q.tail = nil
	}
	return it
}

// remove takes the items that match names out and returns them.
func (q *queue) remove(match func(*item) bool) (removed queue) {
	var rest queue
	for q.head != nil {
		if it := q.pop(); match(it) {
			removed.push(it)
		} else {
			rest.push(it)
		}
	}
	*q = rest
	return removed
}

// append moves all of other behind q.
func (q *queue) append(other *queue) {
	if other.head == nil {
		return
	}
	if q.tail == nil {
		q.head = other.head
	} else {
		q.tail.next = other.head
	}
	q.tail = other.tail
	*other = queue{}
}

// A sender is the queue of a Conn and the state of its socket for writing.
type sender struct {
	mu sync.Mutex // guards all below while frames are queued or taken; never held across I/O

	err       error // why no message is accepted any more
	mute      bool  // nor a control frame
	busy      bool  // somebody has the socket, and sends the queue before he lets go
	soon      bool  // a goroutine that will do so was started
	streaming bool  // a Writer has the turn: whole messages wait in held
	pingDue   bool
	waiting   int32 // calls that wait in queue and held
	pending   int   // bytes accepted and not sent yet
	queue     queue

	messages, bytes, payload uint64 // for Stats

	held    queue
	pong    *pong         // the answer to the newest ping, if it is due
	ping    uint64        // number of the newest ping of ours
	flushed chan struct{} // made with the close frame, closed when it is out
}

// count counts an accepted frame, and its message if it ends one.
func (s *sender) count(f *outFrame) {
	if f.fin {
		s.messages++
	}
	s.payload += uint64(f.length)
}

// uncount takes back what was counted for the item of a call that was withdrawn.
func (s *sender) uncount(it *item) {
	if it.frame.fin {
		s.messages--
	}
	s.payload -= uint64(it.frame.length)
	s.pending -= it.size
	if it.kind == itemFrames && it.wire == 0 {
		s.bytes -= uint64(len(it.data))
	}
}

// lane returns the queue that f belongs in.
func (s *sender) lane(f *outFrame) *queue {
	if s.streaming && !f.part {
		return &s.held
	}
	return &s.queue
}

// add copies f behind what stands in q.
func (c *Conn) add(q *queue, f *outFrame) {
	kind := itemFrames
	if c.deflate != nil {
		kind = itemRaw
	}
	masked := kind == itemFrames && !c.server
	size := headerSize(len(f.payload), masked) + len(f.payload)
	it := q.tail
	if it.takes(kind, size) {
		it.shared = true
	} else {
		room := size
		if it != nil || c.more.Load() {
			room = max(size, copyLimit)
		}
		it = newItem(kind)
		it.buf = getBuffer(room)
		q.push(it)
	}
	h := f.header(masked)
	h.rsv2 = f.deflate
	it.buf.b = appendFrame(it.buf.b, &h, f.payload)
	it.data = it.buf.b
	it.size += size
	c.out.pending += size
	if kind == itemFrames {
		c.out.bytes += uint64(size)
	}
}

func (f *outFrame) header(masked bool) header {
	return header{fin: f.fin, rsv1: f.rsv1, masked: masked, opcode: f.opcode}
}

// A preparedFrame is a frame that many servers' connections send as it stands.
type preparedFrame struct {
	bytes      []byte
	payload    []byte // of bytes
	message    []byte // the payload before compression
	compressed bool
}

// addPrepared queues a server's prepared frame without copying it.
func (c *Conn) addPrepared(q *queue, p *preparedFrame) {
	it := c.preparedItem(p)
	it.size = len(it.data)
	c.out.pending += it.size
	q.push(it)
}

func (c *Conn) preparedItem(p *preparedFrame) *item {
	it := newItem(itemFrames)
	it.data = p.bytes
	if p.compressed && c.deflate.sendTakeover {
		it.note = p.message
	}
	it.wire = len(it.data)
	return it
}

// flushSoon has the queue sent by another goroutine, if nobody is at it: it runs as soon as the caller's blocks,
// or another processor is idle. The reader, before it waits, may be faster.
func (c *Conn) flushSoon() {
	s := &c.out
	if s.busy || s.soon || s.queue.head == nil {
		return
	}
	s.soon = true
	c.deferred.Store(true)
	go c.flush()
}

func (c *Conn) flush() {
	c.out.mu.Lock()
	c.out.soon = false
	it := c.acquire()
	c.out.mu.Unlock()
	c.drive(context.Background(), it, nil, true)
}

// flushDeferred sends what waits for the reader, who is about to wait himself. It does not block.
func (c *Conn) flushDeferred() {
	if !c.deferred.Load() || c.try == nil {
		return
	}
	c.deferred.Store(false)
	c.out.mu.Lock()
	it := c.acquire()
	c.out.mu.Unlock()
	c.drive(context.Background(), it, nil, false)
}

// acquire takes the socket, if it is free and there is something to send, and returns what goes first; else nil.
func (c *Conn) acquire() *item {
	if c.out.busy {
		return nil
	}
	c.out.busy = true
	return c.take()
}

// begin lets a connection that was held send what was queued since.
func (c *Conn) begin() {
	c.out.mu.Lock()
	it := c.take()
	c.out.mu.Unlock()
	c.drive(context.Background(), it, nil, false)
}

// take returns what is to be sent next, control frames first, or frees the socket.
func (c *Conn) take() *item {
	s := &c.out
	if s.pong != nil || s.pingDue {
		s.queue.pushFront(c.controlItem())
	}
	for s.queue.head != nil && s.queue.head.kind == itemTurn {
		s.grantTurn(s.queue.pop())
	}
	if c.waits(s.queue.head) {
		c.admit()
	}
	it := s.queue.head
	if it == nil {
		s.busy = false
		return nil
	}
	if it.done != nil {
		s.waiting--
		s.count(&it.frame)
	}
	it.started = true
	return it
}

// waits reports whether it is a small frame of a call that waits, which is better copied.
func (c *Conn) waits(it *item) bool {
	return it != nil && it.done != nil && it.kind == itemDirect && len(it.frame.payload) <= copyLimit
}

// admit copies frames of calls that wait at the head of the queue into one item, and lets the calls return.
func (c *Conn) admit() {
	s := &c.out
	var q queue
	for q.head == q.tail && c.waits(s.queue.head) {
		it := s.queue.pop()
		s.waiting--
		s.count(&it.frame)
		c.add(&q, &it.frame)
		it.finish(nil)
	}
	q.append(&s.queue)
	s.queue = q
}

// grantTurn gives the turn to the Writer that waits with it; what is behind is held until the Writer is closed.
func (s *sender) grantTurn(it *item) {
	s.waiting--
	s.streaming = true
	s.held.append(&s.queue)
	it.finish(nil)
}

// endTurn takes the turn back from a Writer and returns what is to be sent now, if the caller shall.
func (c *Conn) endTurn() *item {
	s := &c.out
	s.streaming = false
	s.queue.append(&s.held)
	return c.acquire()
}

var (
	errWouldBlock  = errors.New("websocket: the socket takes no more at once")
	errInterrupted = errors.New("websocket: the context of the call has ended") // and the stream is whole
)

// drive sends it and what is behind it until mine is out, or all of it if mine is nil. The caller has the
// socket; it is free again, or another goroutine's, afterwards. Unless block is set, what the socket does not
// take at once is left to another goroutine.
//
// The error is that of mine: ctx's, if nothing of mine was sent, or the one that the connection failed with.
func (c *Conn) drive(ctx context.Context, it, mine *item, block bool) error {
	rounds := 0
	for it != nil {
		wait := ctx
		if it.done != nil {
			wait = it.ctx
		}
		err := c.transmit(wait, it, block)
		switch {
		case err == nil:
		case err == errWouldBlock:
			c.driveSoon(it)
			return nil
		case err == errInterrupted && !it.lost(mine):
			return c.handOver(wait, it, mine)
		case err == errInterrupted:
			return c.broken(it, wait.Err())
		default:
			return c.broken(it, err)
		}
		c.out.mu.Lock()
		next := c.done(it)
		c.out.mu.Unlock()
		own := it == mine
		it.finish(nil)
		if rounds++; own || !block && rounds == maxRounds {
			c.driveSoon(next)
			return nil
		}
		it = next
	}
	if mine != nil {
		return c.out.failure()
	}
	return nil
}

// driveSoon has another goroutine send it and what is behind it.
func (c *Conn) driveSoon(it *item) {
	if it != nil {
		go c.drive(context.Background(), it, nil, true)
	}
}

// done takes the item that was sent off the queue and returns the next.
func (c *Conn) done(it *item) *item {
	s := &c.out
	s.pending -= it.size
	s.bytes += uint64(it.wire)
	if s.queue.head == it {
		s.queue.pop()
	}
	if it.closing {
		close(s.flushed)
	}
	return c.take()
}

// handOver leaves the socket to another goroutine, because ctx, that of a call, has ended. The call's frame is withdrawn
// if it stands alone and no window has seen it; else it was accepted.
func (c *Conn) handOver(ctx context.Context, it, mine *item) error {
	call := mine
	if it.done != nil {
		call = it
	}
	s := &c.out
	s.mu.Lock()
	withdrawn := call != nil && !call.shared && !call.bound && s.queue.remove(func(i *item) bool { return i == call }).head != nil
	if withdrawn {
		s.uncount(call)
		if call == it {
			it = c.take()
		}
	}
	s.mu.Unlock()
	c.driveSoon(it)
	if !withdrawn {
		return nil
	}
	err := ctx.Err()
	call.finish(err)
	return err
}

// broken fails the connection, for it, or a part of it, could not be sent.
func (c *Conn) broken(it *item, err error) error {
	c.writeWatch.unset()
	err = c.writeFailed(err)
	s := &c.out
	s.abort(err)
	s.mu.Lock()
	s.queue.remove(func(i *item) bool { return i == it })
	s.pending -= it.size
	s.mu.Unlock()
	if it.closing {
		close(s.flushed)
	}
	it.finish(err)
	return err
}

// failure returns why nothing is accepted any more.
func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// seal makes frame, our close frame, the last of the queue: "The application MUST NOT send any more data frames
// after sending a Close frame" (section 5.5.1). Pings of a peer that has not sent its own are still answered. Calls that
// wait get err, and so does every later one; what was accepted goes out first, unless drop is set. It returns what the
// caller shall send.
func (c *Conn) seal(err error, frame []byte, drop bool) *item {
	s := &c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil
	}
	s.err = err
	s.pingDue = false
	s.dismiss(&s.held, func(*item) bool { return true })
	s.dismiss(&s.queue, func(it *item) bool { return !it.started && (drop || it.done != nil) })
	it := newItem(itemFrames)
	it.closing, it.shared = true, true
	it.buf = getBuffer(len(frame))
	it.buf.b = append(it.buf.b, frame...)
	it.data = it.buf.b
	s.bytes += uint64(len(frame))
	s.queue.push(it)
	s.flushed = make(chan struct{})
	return c.acquire()
}

// abort drops all that is queued: the connection is gone.
func (s *sender) abort(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.mute, s.pong, s.pingDue = true, nil, false
	s.dismiss(&s.held, func(*item) bool { return true })
	s.dismiss(&s.queue, func(it *item) bool { return !it.started })
}

// dismiss takes the items that match names off q. They do not go back to their pool, for a call may compare with one.
func (s *sender) dismiss(q *queue, match func(*item) bool) {
	gone := q.remove(match)
	for it := gone.head; it != nil; it = it.next {
		s.pending -= it.size
		it.buf.free()
		it.buf = nil
		if it.done != nil {
			s.waiting--
			it.done <- s.err
		}
		if it.closing {
			close(s.flushed)
		}
	}
}
