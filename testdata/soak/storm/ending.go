package storm

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"sync"
	"time"

	"example.com/websocket"
)

// An ending is a way to end a connection. Its run reports whether the connection had ended before.
type ending struct {
	name string
	run  func(*pair) (early bool)
}

var endings = []ending{
	{"stay", (*pair).awaitOver},
	{"CloseNow", func(p *pair) bool { return p.atAnyTime((*pair).closeNow) }},
	{"cut", func(p *pair) bool { return p.atAnyTime((*pair).cut) }},
	{"Close", func(p *pair) bool { return p.atAnyTime((*pair).closeOne) }},
	{"all at once", func(p *pair) bool { return p.atAnyTime((*pair).closeAll) }},
	{"return", func(p *pair) bool { return p.atAnyTime((*pair).leave) }},
	{"drain", func(p *pair) bool { return p.whenDrained((*pair).closeOne) }},
}

// hasEnded reports whether the connection has ended at either end.
func (p *pair) hasEnded() bool {
	return p.ends[0].over.Err() != nil || p.ends[1].over.Err() != nil
}

// atAnyTime ends the connection at a moment of the storm.
func (p *pair) atAnyTime(end func(*pair)) (early bool) {
	select {
	case <-time.After(time.Duration(p.rand.Int64N(int64(p.round.length)))):
	case <-p.ends[0].over.Done():
	}
	p.round.pass(p.ends[0].over)
	close(p.begun)
	if early = p.hasEnded(); !early {
		end(p)
	}
	return early
}

// awaitOver waits for the end of the storm.
func (p *pair) awaitOver() (early bool) {
	for p.round.pass(p.ends[0].over) && !p.hasEnded() {
		time.Sleep(time.Millisecond)
	}
	close(p.begun)
	return p.hasEnded()
}

// whenDrained ends the connection when the writers are done and all accepted messages have arrived.
func (p *pair) whenDrained(end func(*pair)) (early bool) {
	if p.awaitOver() {
		return true
	}
	for _, e := range p.ends {
		if e.peer.reading.receives {
			p.await(e, "the end of the storm, whose peer reads", 5*p.patience(), e.writers)
		}
	}
	for limit := time.Now().Add(5 * p.patience()); !p.isDrained() && !p.hasEnded(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			p.fail("stuck", "accepted and not read: %d of %d from the server, %d of %d from the client", p.ends[0].out.left(),
				p.ends[0].out.count(accepted), p.ends[1].out.left(), p.ends[1].out.count(accepted))
			break
		}
	}
	if early = p.hasEnded(); !early {
		p.drained = p.ends[0].out.count(unknown)+p.ends[1].out.count(unknown) == 0
		end(p)
	}
	return early
}

func (p *pair) isDrained() bool {
	for _, e := range p.ends {
		if e.peer.reading.receives && (e.out.count(undecided) > 0 || e.out.left() > 0) {
			return false
		}
	}
	return true
}

func (p *pair) closeNow() {
	e := one(p.rand, p.ends[:]...)
	p.within("CloseNow", p.patience(), func() error { return e.ender.do("CloseNow", 0, e.c.CloseNow) })
	p.await(e, "CloseNow", p.patience(), e.actors)
}

// cut closes the underlying connection without a close frame.
func (p *pair) cut() {
	e := one(p.rand, p.ends[:]...)
	e.ender.do("cut", 0, func() error {
		switch nc := e.c.NetConn().(type) {
		case nil: // over HTTP/2
			return e.c.CloseNow()
		case *tls.Conn:
			return nc.NetConn().Close()
		default:
			return nc.Close()
		}
	})
}

// closeOne closes one end, perhaps while a Writer is open.
func (p *pair) closeOne() {
	e := one(p.rand, p.ends[:]...)
	if !p.drained && e.peer.reading.receives && p.rand.IntN(3) == 0 {
		e.ender.leaveOpen()
	}
	p.close(e)
	p.await(e, "Close", p.patience(), e.actors)
}

// leaveOpen begins a message, sends others after it and does not finish it.
func (a *actor) leaveOpen() {
	m := a.ledger.next(one(a.rand, 0, heldBack-headSize-2, 10_000))
	err := a.pair.within("Writer", 5*a.pair.patience(), func() error {
		return a.do("open Writer", m.size(), func() error {
			w, err := a.c.Writer(forever, m.typ)
			if err == nil {
				_, err = w.Write(m.body()[:m.size()-1])
			}
			return err
		})
	})
	a.ledger.settle(refused)
	if m.size() > heldBack {
		a.end.torn.Store(true)
	}
	if a.judge("Writer", forever, err) == succeeded {
		a.ways = []way{{"Send behind", func(a *actor, _ context.Context, typ websocket.MessageType, p []byte) error { return a.c.Send(typ, p) }}}
		for range 3 {
			a.writeOne()
		}
	}
}

// close closes an end and judges what Close returns.
func (p *pair) close(e *end) {
	limit := e.CloseTimeout
	if limit == 0 {
		limit = 5 * time.Second
	}
	err := p.within("Close", limit+p.patience(), func() error {
		return e.ender.do("Close", 0, func() error { return e.c.Close(4000, "the storm") })
	})
	switch {
	case err == nil:
		e.shaken = true
	case err == errLate:
	case !isEnd(err) && !errors.Is(err, os.ErrDeadlineExceeded):
		p.fail("error", "Close of the %s returned %v", e.name, err)
	case p.drained && e.peer.Reading != "none":
		p.fail("error", "Close of the %s returned %v although the peer reads and all had arrived", e.name, err)
	}
}

// closeAll calls Close and CloseNow concurrently at both ends.
func (p *pair) closeAll() {
	var all sync.WaitGroup
	for _, e := range p.ends {
		for _, f := range [...]func(){func() { p.close(e) }, func() { p.within("CloseNow", p.patience(), e.c.CloseNow) }} {
			delay := time.Duration(p.rand.IntN(one(p.rand, 1, 100, 1000, 10_000))) * time.Microsecond
			if p.rand.IntN(2) == 0 {
				all.Go(func() { time.Sleep(delay); f() })
			}
		}
	}
	all.Wait()
}

// leave makes the server's handler return or panic. Handler then closes the connection, unless OnMessage was called.
func (p *pair) leave() {
	if p.wire.server == nil || !p.Handler {
		p.closeNow()
		return
	}
	p.arrival.letGo()
	if p.Server.Reading == "onMessage" && !p.Panics {
		time.Sleep(time.Millisecond)
		if !p.hasEnded() {
			p.closeOne()
		}
		return
	}
	p.await(p.ends[0], "the return of the handler", p.patience(), p.ends[0].actors)
}
