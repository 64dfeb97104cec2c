package websocket

import (
	"context"
	"encoding/binary"
	"time"
)

// epoch makes time.Since a reading of the monotonic clock.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }

// A liveness judges the silence of the peer. Only the time in which a read waits counts, and any byte ends it. The
// holder of the read turn owns it.
type liveness struct {
	period time.Duration // 0: nobody judges
	since  time.Duration // when the wait under way began
	silent time.Duration // what earlier waits lasted, since the last byte
	pinged bool
}

// start begins a wait.
func (l *liveness) start() {
	if l.period > 0 {
		l.since = now()
	}
}

// heard notes that bytes arrived.
func (l *liveness) heard() { l.silent, l.pinged = 0, false }

// pause adds up a wait that ended without a byte.
func (l *liveness) pause() {
	if l.period > 0 {
		at := now()
		l.silent += at - l.since
		l.since = at
	}
}

// due returns how long to go on waiting and, when that is over, whether a ping is to be sent; gone is set when the
// peer has not even answered that.
func (l *liveness) due() (rest time.Duration, ping, gone bool) {
	if l.silent < l.period {
		return l.period - l.silent, false, false
	}
	if l.pinged {
		return 0, false, true
	}
	l.pinged, l.silent = true, 0
	return l.period, true, false
}

// A pings is what our pings wait for. It is made with the first ping.
type pings struct {
	newest  uint64
	sent    time.Duration // when the newest was
	waiting map[uint64]chan struct{}
	rtt     time.Duration
}

// Ping sends a ping and returns the time until the peer answered it. A read must be at work, for the answer is read
// by it. It may be called at any time, by any number of goroutines, and the answer to a later ping answers the
// earlier ones. When the connection ends first, Ping returns why.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err := c.failure(); err != nil {
		return 0, err
	}
	answered := make(chan struct{})
	start := now()
	number := c.ping(answered)
	select {
	case <-answered:
		return now() - start, nil
	case <-ctx.Done():
	case <-c.failing():
	}
	c.mu.Lock()
	delete(c.pings.waiting, number)
	c.mu.Unlock()
	if err := c.failure(); err != nil {
		return 0, err
	}
	return 0, ctx.Err()
}

// ping sends a ping, or has it sent as soon as the socket is free, and returns its number.
func (c *Conn) ping(answered chan struct{}) uint64 {
	c.mu.Lock()
	if c.pings == nil {
		c.pings = &pings{waiting: make(map[uint64]chan struct{})}
	}
	p := c.pings
	p.newest++
	number := p.newest
	p.sent = now()
	if answered != nil {
		p.waiting[number] = answered
	}
	c.mu.Unlock()
	c.sendControl(func(s *sender) { s.ping, s.pingDue = max(s.ping, number), s.err == nil })
	return number
}

// A pong is the payload of one that is due.
type pong struct {
	b [maxControlPayload]byte
	n int
}

// pong answers a ping. Section 5.5.3: "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in
// response to previous Ping frame(s), the endpoint MAY elect to send a Pong frame for only the most recently
// processed Ping frame."
func (c *Conn) pong(payload []byte) {
	c.sendControl(func(s *sender) {
		if s.pong == nil {
			s.pong = new(pong)
		}
		s.pong.n = copy(s.pong.b[:], payload)
	})
}

// sendControl puts a control frame into its slot and sends it, if the socket takes it at once.
func (c *Conn) sendControl(put func(*sender)) {
	s := &c.out
	s.mu.Lock()
	if s.mute {
		s.mu.Unlock()
		return
	}
	put(s)
	it := c.acquire()
	s.mu.Unlock()
	c.drive(context.Background(), it, nil, false)
}

// controlItem makes an item of the pong and the ping that are due.
func (c *Conn) controlItem() *item {
	s := &c.out
	it := newItem(itemFrames)
	it.shared = true
	it.buf = getBuffer(1)
	if p := s.pong; p != nil {
		it.buf.b = appendFrame(it.buf.b, &header{fin: true, masked: !c.server, opcode: opPong}, p.b[:p.n])
	}
	if s.pingDue {
		number := binary.BigEndian.AppendUint64(nil, s.ping)
		it.buf.b = appendFrame(it.buf.b, &header{fin: true, masked: !c.server, opcode: opPing}, number)
	}
	s.pong, s.pingDue = nil, false
	it.data = it.buf.b
	s.bytes += uint64(len(it.data))
	return it
}

// ponged notes the answer to a ping of ours, and with it to all before. "A Pong frame MAY be sent unsolicited ... A
// response to an unsolicited Pong frame is not expected."
func (c *Conn) ponged(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pings
	if p == nil || len(payload) != 8 {
		return
	}
	number := binary.BigEndian.Uint64(payload)
	if number == p.newest {
		p.rtt = now() - p.sent
	}
	if number > p.newest {
		return
	}
	for n, answered := range p.waiting {
		if n <= number {
			close(answered)
			delete(p.waiting, n)
		}
	}
}
