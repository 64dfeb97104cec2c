package websocket

// Pings: a liveness decides when the reader sends one and when it gives up on a silent peer, and a pings holds the
// callers of Conn.Ping that wait for an answer.

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// epoch makes time.Since read only the monotonic clock.
var epoch = time.Now()

// now returns the time since epoch.
func now() time.Duration { return time.Since(epoch) }

// A liveness measures how long the peer has been silent. Only time during which a read or the poller waits counts, and
// any byte ends the silence. The holder of the reader's turn owns it.
type liveness struct {
	period time.Duration // Options.KeepAlive; not positive: silence is not measured
	since  time.Duration // when the current wait began, by now(); 0 if there is none
	silent time.Duration // the length of earlier waits since the last byte
	pinged bool
}

// init sets the length of silence after which a ping is due.
func (l *liveness) init(period time.Duration) { l.period = period }

// limit returns the length of silence after which a ping is due. It is not positive if KeepAlive is disabled.
func (l *liveness) limit() time.Duration { return l.period }

// judges reports whether KeepAlive is enabled.
func (l *liveness) judges() bool { return l.period > 0 }

// start begins a wait, or continues that of the poller.
func (l *liveness) start() {
	if l.judges() && l.since == 0 {
		l.since = now()
	}
}

// heard records that bytes arrived.
func (l *liveness) heard() { l.since, l.silent, l.pinged = 0, 0, false }

// pause adds a wait that ended without a byte to the silence.
func (l *liveness) pause() {
	if l.since != 0 {
		l.silent += now() - l.since
		l.since = 0
	}
}

// grace is how long a read of a TLS connection that will be parked may wait for bytes.
const grace = 10 * time.Millisecond

// park begins a wait that goes on without a read. It returns the time by now() at which the wait should end.
func (l *liveness) park() time.Duration {
	if !l.judges() {
		return neverDue
	}
	l.start()
	return l.since + l.period - l.silent
}

// isDue reports whether the silence calls for a ping, or for the end.
func (l *liveness) isDue() bool { return l.judges() && l.silent >= l.period }

// due returns how long to keep waiting and whether to send a ping now. It sets expired if the peer has stayed silent
// after a ping, too.
func (l *liveness) due() (rest time.Duration, ping, expired bool) {
	if l.silent < l.period {
		return l.period - l.silent, false, false
	}
	if l.pinged {
		return 0, false, true
	}
	l.pinged, l.silent = true, 0
	return l.period, true, false
}

// A pings holds the number of our newest ping and the callers that wait for answers. Any goroutine may call its
// methods. answered and lastRTT accept a nil receiver.
type pings struct {
	mu      sync.Mutex // guards all below; a leaf
	newest  uint64     // number of the newest ping, which is its payload
	sent    time.Duration
	rtt     time.Duration
	waiting map[uint64]chan struct{} // made by the first Ping
}

// begin numbers a new ping. Its answer closes the channel answered, if that is not nil.
func (p *pings) begin(answered chan struct{}) (number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newest++
	p.sent = now()
	if answered != nil {
		if p.waiting == nil {
			p.waiting = make(map[uint64]chan struct{})
		}
		p.waiting[p.newest] = answered
	}
	return p.newest
}

// giveUp forgets a ping whose caller has stopped waiting.
func (p *pings) giveUp(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, number)
}

// answered handles a pong. The answer to a ping of ours answers all earlier pings too, and any other pong is ignored.
// Section 5.5.3: "A Pong frame MAY be sent unsolicited.  This serves as a unidirectional heartbeat.  A response to an
// unsolicited Pong frame is not expected."
func (p *pings) answered(payload []byte) {
	if p == nil || len(payload) != 8 {
		return
	}
	number := binary.BigEndian.Uint64(payload)
	p.mu.Lock()
	defer p.mu.Unlock()
	if number > p.newest {
		return
	}
	if number == p.newest {
		p.rtt = now() - p.sent
	}
	for n, answered := range p.waiting {
		if n <= number {
			close(answered)
			delete(p.waiting, n)
		}
	}
}

// lastRTT returns the round-trip time of the last ping that was answered before the next one was sent.
func (p *pings) lastRTT() time.Duration {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rtt
}

// payload returns the payload of the newest ping.
func (p *pings) payload() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return binary.BigEndian.AppendUint64(nil, p.newest)
}

// Ping sends a ping and returns the time until the peer answered it. Another goroutine must be reading, because only a
// read receives the answer. Several goroutines may call Ping at the same time; the answer to a later ping also answers
// the earlier ones. If the connection ends first, Ping returns its error.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	if ctx == nil {
		return 0, errNilContext
	}
	if c.end.failure() != nil || ctx.Err() != nil {
		return 0, c.end.errorOf(ctx)
	}
	answered := make(chan struct{})
	start := now()
	number := c.ping(answered)
	select {
	case <-answered:
		return now() - start, nil
	case <-ctx.Done():
	case <-c.end.failing():
	}
	c.pings.Load().giveUp(number)
	return 0, c.end.errorOf(ctx)
}

// ping sends a ping, or leaves it to be sent as soon as the socket is free. It does not wait.
func (c *Conn) ping(answered chan struct{}) (number uint64) {
	if c.pings.Load() == nil {
		c.pings.CompareAndSwap(nil, new(pings))
	}
	number = c.pings.Load().begin(answered)
	c.out.sendPing()
	return number
}
