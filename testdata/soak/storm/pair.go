package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/websocket"
)

// A pair is a connection in a storm: both of its ends, the actors there, and the way in which it is to end. Everything
// random about it follows from its seed.
type pair struct {
	round   *round
	number  int
	rand    *rand.Rand
	wire    *wire
	born    time.Time
	arrival arrival
	opts    [2]websocket.Options // of the server and of the client
	ends    [2]*end
	ending  ending
	inRoom  bool
	largest int           // longest filling of a message
	pause   time.Duration // longest one of a writer
	excuses atomic.Uint32
	drained bool        // all that was accepted has arrived before the ending
	early   bool        // the connection had ended before the ending
	hung    atomic.Bool // a call has not returned
	shaken  [2]bool     // Close returned nil
	enders  [2]*actor   // who end the connection
	letGo   func()      // has the server's handler return
}

// An end is one of the two Conns, with its actors.
type end struct {
	name    string
	c       *websocket.Conn
	peer    *end
	out, in *flow
	reading reading
	writers []*actor
	others  []*actor
	torn    atomic.Bool // a message of which a part was sent could not be finished
}

// What may end a connection without a finding, beside the ending that was chosen.
const (
	excuseCancelled uint32 = 1 << iota // the context of a write ended when a part of the message was sent
	excuseExpelled                     // a broadcast found too much pending
	excuseData                         // a data message came after CloseRead
)

func (p *pair) excuse(why uint32) { p.excuses.Or(why) }

func (p *pair) patience() time.Duration { return p.round.storm.Patience }

// reads reports whether an end takes all that is sent to it.
func (p *pair) reads(e *end) bool { return e.reading.receives }

// newPair chooses a connection at random.
func newPair(rd *round, number int) *pair {
	r := rand.New(rand.NewPCG(rd.seed, uint64(number)))
	p := &pair{round: rd, number: number, rand: r, born: time.Now()}
	p.wire = rd.storm.wires[r.IntN(len(rd.storm.wires))]
	p.largest = 1 << [...]int{8, 10, 14, 16, 17, 20}[r.IntN(6)]
	p.pause = []time.Duration{0, 100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond}[r.IntN(4)]
	p.inRoom = r.IntN(3) == 0
	for i := range p.opts {
		p.opts[i] = p.options()
	}
	if p.inRoom {
		p.opts[0].Group = &rd.room
	}
	p.arrival = arrival{opts: &p.opts[0], handled: r.IntN(2) == 0, conn: make(chan *websocket.Conn, 1), leave: make(chan struct{})}
	p.letGo = sync.OnceFunc(func() { close(p.arrival.leave) })
	p.chooseEnds()
	p.chooseEnding()
	return p
}

func (p *pair) options() websocket.Options {
	r := p.rand
	o := websocket.Options{
		MaxMessageSize: 2 * maxSize,
		KeepAlive:      [...]time.Duration{0, -1, time.Second}[r.IntN(3)],
		CloseTimeout:   time.Duration(200+r.IntN(800)) * time.Millisecond,
		MaxPending:     [...]int{0, 0, 1, 1000, 20_000, 100_000}[r.IntN(6)],
	}
	if r.IntN(5) > 0 {
		o.Compression = &websocket.Compression{
			Level:           r.IntN(10),
			Threshold:       [...]int{0, -1, 1000}[r.IntN(3)],
			ContextTakeover: r.IntN(2) == 0,
			WindowBits:      [...]int{0, 8, 9, 12, 15}[r.IntN(5)],
		}
	}
	return o
}

// chooseEnds decides who reads and writes at either end.
func (p *pair) chooseEnds() {
	for i, name := range [...]string{"server", "client"} {
		f := &flow{pair: p, from: name, kind: kind(p.rand.IntN(int(kinds)))}
		if p.inRoom {
			f.kind = quoted // one message is for all
		}
		p.ends[i] = &end{name: name, out: f, reading: readings[[...]int{0, 0, 0, 0, 1, 1, 2, 2, 3, 4}[p.rand.IntN(10)]]}
	}
	s, c := p.ends[0], p.ends[1]
	s.peer, c.peer, s.in, c.in = c, s, c.out, s.out
	s.out.to, c.out.to = c, s
	for _, e := range p.ends {
		e.chooseActors(p)
	}
}

// chooseActors gives the end a few ways to write, which are tried more thoroughly than all together would be.
func (e *end) chooseActors(p *pair) {
	r := p.rand
	some := []way{ways[r.IntN(len(ways)-1)]}
	for range r.IntN(4) {
		some = append(some, ways[r.IntN(len(ways))])
	}
	writers := r.IntN(5)
	if !e.peer.reading.receives && r.IntN(3) > 0 {
		writers = 0
	}
	if e.peer.reading.name == "closeRead" && writers > 0 {
		p.excuse(excuseData)
	}
	haste := [...]float64{0, 0, 0.05, 0.5}[r.IntN(4)]
	for i := range writers {
		a := p.newActor(e, fmt.Sprintf("writer %d", i), haste)
		a.ways = some
		e.writers = append(e.writers, a)
	}
	readers := 1
	if !e.reading.alone {
		readers += r.IntN(3) / 2 * r.IntN(3)
	}
	haste = [...]float64{0, 0.05, 0.5, 0.9}[r.IntN(4)]
	for i := range readers {
		a := p.newActor(e, fmt.Sprintf("reader %d", i), haste)
		a.ways = some
		e.others = append(e.others, a)
	}
}

func (p *pair) newActor(e *end, name string, haste float64) *actor {
	return &actor{name: e.name + " " + name, pair: p, end: e, haste: haste, done: make(chan struct{}),
		rand: rand.New(rand.NewPCG(p.rand.Uint64(), 1))}
}

func (p *pair) allActors() (all []*actor) {
	for i, e := range p.ends {
		all = append(append(all, e.actors()...), p.enders[i])
	}
	return all
}

func (e *end) actors() []*actor {
	return append(e.writers[:len(e.writers):len(e.writers)], e.others...)
}

// outline returns a pair that can be printed and holds no Conn.
func (p *pair) outline() *pair {
	return newPair(&round{storm: p.round.storm, seed: p.round.seed}, p.number)
}

func (p *pair) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pair %d: %s, ending %q, in the room: %t, messages up to %d bytes", p.number, p.wire.name, p.ending.name, p.inRoom, p.largest)
	for i, e := range p.ends {
		o := p.opts[i]
		fmt.Fprintf(&b, "\n    %s: sends %v by %d writers", e.name, e.out.kind, len(e.writers))
		for _, a := range e.writers[:min(1, len(e.writers))] {
			fmt.Fprintf(&b, " (haste %v", a.haste)
			for _, w := range a.ways {
				b.WriteString(", " + w.name)
			}
			b.WriteString(")")
		}
		fmt.Fprintf(&b, ", reads by %s ×%d; MaxPending %d, KeepAlive %v, CloseTimeout %v", e.reading.name, len(e.others), o.MaxPending, o.KeepAlive, o.CloseTimeout)
		if o.Compression != nil {
			fmt.Fprintf(&b, ", Compression %+v", *o.Compression)
		}
	}
	return b.String()
}

func (p *pair) fail(class, format string, args ...any) {
	p.round.storm.report(class, p, fmt.Sprintf(format, args...))
}

// connect opens the connection and starts the actors. It is false if that failed, which is a finding.
func (p *pair) connect() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*p.patience())
	defer cancel()
	s, c, err := p.wire.connect(ctx, &p.arrival, &p.opts[1])
	if err != nil {
		p.fail("connect", "%v", err)
		p.letGo()
		if c != nil {
			c.CloseNow()
		}
		return false
	}
	p.ends[0].c, p.ends[1].c = s, c
	for _, e := range p.ends {
		p.round.join(p, e)
	}
	return true
}

// start starts the actors, which are labeled in profiles of goroutines.
func (p *pair) start() {
	label := pprof.Labels("pair", fmt.Sprint(p.number, " ", p.wire.name))
	pprof.Do(context.Background(), label, func(context.Context) {
		for _, e := range p.ends {
			e.start()
		}
	})
}

func (e *end) start() {
	for _, a := range e.out.pair.enders {
		if a.end == e {
			a.c, a.ledger = e.c, e.out.addLedger()
		}
	}
	for _, a := range e.writers {
		l := e.out.addLedger()
		a.probes = e.out.addLedger()
		a.run(func() { a.writeUntilStopped(l) })
	}
	for i, a := range e.others {
		t := e.in.addTally(a)
		if e.name == "server" && e.peer.reading.receives && i == 0 && a.rand.IntN(2) == 0 {
			a.answers, a.probes = e.out.addLedger(), e.out.addLedger()
		}
		a.run(func() {
			e.reading.run(a, t)
			if st := a.c.Stats(); st.MessagesRead < t.whole {
				a.pair.fail("stats", "%s has read %d messages, and Stats counts %d", a.name, t.whole, st.MessagesRead)
			}
		})
	}
	e.startObserver()
}

// run starts the actor.
func (a *actor) run(f func()) {
	a.c = a.end.c
	go func() {
		defer close(a.done)
		f()
		if a.cancel != nil {
			a.cancel()
		}
	}()
}

// startObserver starts an actor that pings and looks at the connection.
func (e *end) startObserver() {
	p := e.out.pair
	a := p.newActor(e, "observer", 0.5)
	e.others = append(e.others, a)
	a.run(func() {
		g := new(websocket.Group)
		for p.round.gate.pass(a.c.Context()) && a.c.Context().Err() == nil {
			a.observe(g)
			time.Sleep(time.Duration(a.rand.IntN(5000)) * time.Microsecond)
		}
		g.Remove(a.c)
	})
}

func (a *actor) observe(g *websocket.Group) {
	ctx, cancel := a.context()
	defer cancel()
	switch a.rand.IntN(4) {
	case 0:
		if ctx.Done() == nil || a.end.reading.name == "none" || a.end.peer.reading.name == "none" {
			return // nobody would read the answer
		}
		err := a.do("Ping", 0, func() error {
			_, err := a.c.Ping(ctx)
			return err
		})
		a.judge("Ping", ctx, err)
	case 1:
		if !g.Add(a.c) {
			<-a.c.Context().Done()
		}
		g.Remove(a.c)
	default:
		a.checkStats()
	}
}

// checkStats compares Stats with what must have been counted by now.
func (a *actor) checkStats() {
	sent, o := uint64(a.end.out.accepted()), a.pair.opts[0]
	if a.end.name == "client" {
		o = a.pair.opts[1]
	}
	st := a.c.Stats()
	if st.MessagesWritten < sent {
		a.pair.fail("stats", "%s: Stats counts %d messages written, and %d were accepted", a.name, st.MessagesWritten, sent)
	}
	limit := max(o.MaxPending, a.pair.largest+headSize+2)
	if o.MaxPending == 0 {
		limit = max(limit, 1<<20)
	}
	if st.Pending > limit+14 {
		a.pair.fail("pending", "%s: %d bytes are pending, and MaxPending is %d, the longest message %d", a.name, st.Pending, o.MaxPending, a.pair.largest)
	}
}

// live waits for the time of the ending and ends the connection.
func (p *pair) live() {
	p.early = p.ending.run(p)
	p.finish()
}

// check compares what happened with the model, once nothing happens any more.
func (p *pair) check() {
	if p.hung.Load() {
		return
	}
	p.checkVerdicts()
	for _, e := range p.ends {
		e.out.check(e.peer.reading.receives && (p.drained || p.endedInOrder(e)))
		p.checkCounts(e)
	}
}

// finish cuts what is left and waits until every call has returned.
func (p *pair) finish() {
	for _, e := range p.ends {
		if err := p.within("CloseNow", p.patience(), e.c.CloseNow); err != nil && !errors.Is(err, net.ErrClosed) {
			p.fail("error", "%s: CloseNow returned %v", e.name, err)
		}
	}
	p.letGo()
	for _, e := range p.ends {
		p.awaitActors(e, "CloseNow", e.actors())
		select {
		case <-e.c.Context().Done():
		case <-time.After(p.patience()):
			p.hang("%s: Context is not done after CloseNow", e.name)
		}
		if !p.hung.Load() {
			p.probe(e)
		}
	}
}

var errLate = errors.New("storm: the call has not returned")

// hang reports a call that does not return.
func (p *pair) hang(format string, args ...any) {
	p.hung.Store(true)
	p.fail("hang", format, args...)
	p.round.storm.abandon()
}

// within calls f, which must return in time.
func (p *pair) within(what string, limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		p.hang("%s has not returned after %v", what, limit)
		return errLate
	}
}

// awaitActors waits for actors, which have no longer anything to wait for.
func (p *pair) awaitActors(e *end, after string, actors []*actor) {
	limit := time.After(p.patience())
	for _, a := range actors {
		select {
		case <-a.done:
			continue
		case <-limit:
		}
		p.hang("%v after %s of the %s: %s", p.patience(), after, e.name, a.running())
		return
	}
}

// probe sees that every call returns the same error ever after.
func (p *pair) probe(e *end) {
	ctx, c := context.Background(), e.c
	verdict := context.Cause(c.Context())
	for what, call := range map[string]func() error{
		"Read":   func() error { _, _, err := c.Read(ctx); return err },
		"Reader": func() error { _, _, err := c.Reader(ctx); return err },
		"Write":  func() error { return c.Write(ctx, websocket.BinaryMessage, nil) },
		"Writer": func() error { _, err := c.Writer(ctx, websocket.BinaryMessage); return err },
		"Send":   func() error { return c.Send(websocket.BinaryMessage, nil) },
		"Ping":   func() error { _, err := c.Ping(ctx); return err },
	} {
		first := p.within(what, p.patience(), call)
		second := p.within(what, p.patience(), call)
		switch reads := strings.HasPrefix(what, "Read"); {
		case first == errLate || second == errLate:
		case !isEnd(first) || first.Error() != second.Error():
			p.fail("verdict", "%s: %s after the end returned %v, then %v", e.name, what, first, second)
		case reads && first.Error() != verdict.Error():
			p.fail("verdict", "%s: %s after the end returned %v, and the cause of Context is %v", e.name, what, first, verdict)
		}
	}
}

// endedInOrder reports whether the connection ended by a close frame of e that its peer has read: all that e had
// accepted went out before it.
func (p *pair) endedInOrder(e *end) bool {
	var closed *websocket.CloseError
	return errors.As(context.Cause(e.peer.c.Context()), &closed) && closed.Code != websocket.StatusTryAgainLater &&
		context.Cause(e.c.Context()) == net.ErrClosed && !e.torn.Load()
}

// checkVerdicts compares the errors that the two ends ended with.
func (p *pair) checkVerdicts() {
	var verdicts [2]error
	var closed [2]*websocket.CloseError
	for i, e := range p.ends {
		verdicts[i] = context.Cause(e.c.Context())
		errors.As(verdicts[i], &closed[i])
	}
	if p.early && p.excuses.Load() == 0 {
		p.fail("ended", "the connection ended without a reason: the server by %v, the client by %v", verdicts[0], verdicts[1])
	}
	if closed[0] != nil && closed[1] != nil {
		p.fail("verdict", "both ends were closed by their peer: %v, %v", verdicts[0], verdicts[1])
	}
	for i, well := range p.shaken {
		if well && errors.Is(verdicts[1-i], websocket.StatusAbnormalClosure) {
			p.fail("verdict", "Close of the %s returned nil, and the other end ended with %v", p.ends[i].name, verdicts[1-i])
		}
	}
	for i, got := range closed {
		var broke *websocket.ProtocolError
		if errors.As(verdicts[1-i], &broke) && got != nil && got.Code != broke.Code {
			p.fail("verdict", "the %s was closed with %v, and the other end failed with %v", p.ends[i].name, got, broke)
		}
	}
}

// checkCounts compares Stats with the model at the end.
func (p *pair) checkCounts(e *end) {
	var least, most uint64
	for _, l := range e.out.ledgers {
		for _, f := range l.fates {
			if f == accepted {
				least++
			}
			if f != refused {
				most++
			}
		}
	}
	if st := e.c.Stats(); st.MessagesWritten < least || st.MessagesWritten > most {
		p.fail("stats", "%s: Stats counts %d messages written, and %d to %d were", e.name, st.MessagesWritten, least, most)
	}
}
