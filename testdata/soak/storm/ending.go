package storm

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"example.com/websocket"
)

// An ending is a way to end a connection. Its run reports whether the connection had ended before.
type ending struct {
	name string
	run  func(*pair) (early bool)
}

var endings = []ending{
	{"stay", func(p *pair) bool { return p.awaitEnd() }},
	{"CloseNow", func(p *pair) bool { return p.anyTime() || p.closeNow(p.either()) }},
	{"cut", func(p *pair) bool { return p.anyTime() || p.cut() }},
	{"Close", func(p *pair) bool { return p.anyTime() || p.closeOne() }},
	{"Close of both", func(p *pair) bool { return p.anyTime() || p.closeBoth() }},
	{"return", func(p *pair) bool { return p.anyTime() || p.leave() }},
	{"Shutdown", func(p *pair) bool { return p.anyTime() || p.shutDown() }},
	{"drain, Close", func(p *pair) bool { return p.drain() || p.closeOne() }},
	{"drain, garbage", func(p *pair) bool { return p.drain() || p.sendGarbage() }},
}

func (p *pair) chooseEnding() {
	p.ending = endings[p.rand.IntN(len(endings))]
	for i, e := range p.ends {
		if e.peer.reading.name == "none" {
			p.opts[i].KeepAlive = -1 // nobody answers its pings
		} else if strings.HasPrefix(p.ending.name, "drain") {
			p.opts[i].CloseTimeout = 0 // the closing handshake is to succeed
		}
	}
	for i, e := range p.ends {
		p.enders[i] = p.newActor(e, "ender", 0)
	}
}

// either returns one of the ends.
func (p *pair) either() int { return p.rand.IntN(2) }

// hasEnded reports whether the connection has ended at either end.
func (p *pair) hasEnded() bool {
	return p.ends[0].c.Context().Err() != nil || p.ends[1].c.Context().Err() != nil
}

// anyTime waits for a moment of the storm.
func (p *pair) anyTime() (early bool) {
	select {
	case <-time.After(time.Duration(p.rand.Int64N(int64(p.round.length)))):
	case <-p.ends[0].c.Context().Done():
	}
	p.round.gate.pass(p.ends[0].c.Context())
	return p.hasEnded()
}

// awaitEnd waits for the end of the storm.
func (p *pair) awaitEnd() (early bool) {
	for p.round.gate.pass(p.ends[0].c.Context()) && !p.hasEnded() {
		time.Sleep(time.Millisecond)
	}
	return p.hasEnded()
}

// drain waits until the writers have returned and all that was accepted has arrived.
func (p *pair) drain() (early bool) {
	if p.awaitEnd() {
		return true
	}
	for _, e := range p.ends {
		if e.peer.reading.receives {
			p.awaitWriters(e)
		}
	}
	limit := time.Now().Add(5 * p.patience())
	for !p.hasEnded() {
		if p.ends[0].out.isEmpty() && p.ends[1].out.isEmpty() {
			p.drained = !p.hasEnded() && p.ends[0].out.isCertain() && p.ends[1].out.isCertain()
			break
		}
		if time.Now().After(limit) {
			p.fail("stuck", "accepted and not read: %d of %d from the server, %d of %d from the client",
				p.ends[0].out.left(), p.ends[0].out.accepted(), p.ends[1].out.left(), p.ends[1].out.accepted())
			break
		}
		time.Sleep(time.Millisecond)
	}
	return p.hasEnded()
}

// awaitWriters waits for the writers of an end whose peer reads.
func (p *pair) awaitWriters(e *end) {
	limit := time.After(5 * p.patience())
	for _, a := range e.writers {
		select {
		case <-a.done:
			continue
		case <-limit:
		}
		p.fail("stuck", "the peer reads, and a call does not return: %s", a.running())
		p.round.storm.dump()
		return
	}
}

func (p *pair) closeNow(i int) (early bool) {
	a := p.enders[i]
	p.within("CloseNow", p.patience(), func() error { return a.do("CloseNow", 0, a.c.CloseNow) })
	p.awaitActors(p.ends[i], "CloseNow", p.ends[i].actors())
	return false
}

func (p *pair) cut() (early bool) {
	a := p.enders[p.either()]
	a.do("cut", 0, func() error { cut(a.c); return nil })
	return false
}

// closeOne closes one end, behind a Writer that is left open perhaps.
func (p *pair) closeOne() (early bool) {
	i := p.either()
	if !p.drained && p.reads(p.ends[1-i]) && p.rand.IntN(3) == 0 {
		p.enders[i].leaveOpen()
	}
	p.close(i)
	p.awaitActors(p.ends[i], "Close", p.ends[i].actors())
	return false
}

// leaveOpen begins a message, sends others behind it and does not finish it.
func (a *actor) leaveOpen() {
	typ := a.end.out.kind.typ()
	n := [...]int{0, 1, heldBack, 10_000}[a.rand.IntN(4)]
	err := a.pair.within("Writer", 5*a.pair.patience(), func() error {
		return a.do("open Writer", n, func() error {
			w, err := a.c.Writer(forever, typ)
			if err == nil && n > 0 {
				_, err = w.Write(make([]byte, n))
			}
			return err
		})
	})
	if n > heldBack {
		a.end.torn.Store(true)
	}
	if a.judge("Writer", forever, err) != succeeded {
		return
	}
	for range 1 + a.rand.IntN(3) {
		m := a.ledger.next(a.length())
		p := m.body()
		err := a.do("Send", len(p), func() error { return a.c.Send(typ, p) })
		a.ledger.settle([...]fate{succeeded: accepted, backlog: refused, gaveUp: refused, ended: unknown}[a.judge("Send", forever, err)])
	}
}

// close closes an end and judges what Close returns.
func (p *pair) close(i int) {
	a := p.enders[i]
	limit := p.opts[i].CloseTimeout
	if limit == 0 {
		limit = 5 * time.Second
	}
	code := websocket.StatusCode(4000 + i)
	err := p.within("Close", limit+p.patience(), func() error {
		return a.do("Close", 0, func() error { return a.c.Close(code, "the storm") })
	})
	switch {
	case err == nil:
		p.shaken[i] = true
	case err == errLate:
	case !isEnd(err) && !errors.Is(err, os.ErrDeadlineExceeded):
		p.fail("error", "%s: Close returned %v", a.name, err)
	case p.drained && p.ends[1-i].reading.name != "none":
		p.fail("error", "%s: Close returned %v although the peer reads and all had arrived", a.name, err)
	}
}

func (p *pair) closeBoth() (early bool) {
	done := make(chan bool)
	cuts := p.rand.IntN(2) == 0
	for i := range p.ends {
		go func() { p.close(i); done <- true }()
	}
	time.Sleep(time.Duration(p.rand.IntN(3000)) * time.Microsecond)
	if cuts {
		p.closeNow(p.either())
	}
	<-done
	<-done
	return false
}

// leave has the server's handler return, or panic. Handler closes the connection then.
func (p *pair) leave() (early bool) {
	if p.wire.server == nil || !p.arrival.handled {
		return p.closeNow(0)
	}
	p.arrival.panics = p.rand.IntN(2) == 0
	p.letGo()
	p.awaitActors(p.ends[0], "the return of its handler", p.ends[0].actors())
	return false
}

func (p *pair) shutDown() (early bool) {
	g := new(websocket.Group)
	for _, e := range p.ends {
		g.Add(e.c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(p.rand.IntN(300))*time.Millisecond)
	defer cancel()
	err := p.within("Shutdown", p.patience(), func() error { return p.enders[0].do("Shutdown", 0, func() error { return g.Shutdown(ctx, 1012, "") }) })
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		p.fail("error", "Shutdown returned %v", err)
	}
	if err == nil && (g.Len() > 0 || p.ends[0].c.Context().Err() == nil || p.ends[1].c.Context().Err() == nil) {
		p.fail("group", "Shutdown returned before all had ended")
	}
	return false
}

// wrong holds frames that a server has to refuse.
var wrong = []string{
	"\x81\x05Hello",                        // not masked
	"\x91\x80\x00\x00\x00\x00",             // a reserved bit
	"\x83\x80\x00\x00\x00\x00",             // an unknown opcode
	"\x80\x80\x00\x00\x00\x00",             // a continuation of nothing
	"\x09\x80\x00\x00\x00\x00",             // a fragmented ping
	"\x89\xFE\x00\x7E\x00\x00\x00\x00",     // a ping of 126 bytes
	"\x82\xFE\x00\x01\x00\x00\x00\x00x",    // a length in more bytes than it needs
	"\x82\xFF\x80\x00\x00\x00\x00\x00\x00", // a length with its top bit set
	"\x82\xFF\x00\x00\x00\xFF\x00\x00\x00", // a length beyond the limit
	"\x81\x81\x00\x00\x00\x00\xFF",         // text that is not UTF-8
	"\x88\x81\x00\x00\x00\x00x",            // a close frame of one byte
	"\x88\x82\x00\x00\x00\x00\x03\xED",     // a close code that is never sent
}

// sendGarbage has the client break the protocol, and noise follow.
func (p *pair) sendGarbage() (early bool) {
	s, c := p.ends[0].c, p.ends[1].c
	if c.NetConn() == nil || !p.drained || p.ends[0].reading.name == "none" || p.ends[1].reading.name == "none" {
		return p.closeOne()
	}
	frame := wrong[p.rand.IntN(len(wrong))]
	noise := fillings[binary][:p.rand.IntN(3000)]
	p.enders[1].do("garbage", len(frame), func() error {
		_, err := c.NetConn().Write(append([]byte(frame), noise...))
		return err
	})
	for i, c := range [...]*websocket.Conn{s, c} {
		select {
		case <-c.Context().Done():
		case <-time.After(2 * p.patience()):
			p.fail("hang", "%x did not end the %s", frame, p.ends[i].name)
			return false
		}
	}
	var broke *websocket.ProtocolError
	if err := context.Cause(s.Context()); !errors.As(err, &broke) {
		p.fail("verdict", "%x ended the server with %v", frame, err)
	}
	var closed *websocket.CloseError
	if err := context.Cause(c.Context()); !errors.As(err, &closed) {
		p.fail("verdict", "%x ended the client with %v", frame, err)
	}
	return false
}
