package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.com/websocket"
)

// A pair is a connection in a storm, with both of its ends, their actors, and the way in which it is to end.
type pair struct {
	plan
	round   *round
	rand    *rand.Rand
	wire    *wire
	ending  ending
	arrival *arrival
	ends    [2]*end // the server and the client
	actors  []*actor
	born    time.Time
	begun   chan struct{} // closed when the ending begins

	early   bool        // the connection ended before the planned ending
	drained bool        // all accepted messages had arrived before the ending
	excused atomic.Bool // something else may have ended the connection
	hung    atomic.Bool // a call has not returned
}

// A plan holds the random choices for a pair. It is printed with findings.
type plan struct {
	Number                int
	Wire, Ending          string
	Handler, Panics, Room bool
	Largest               int           // message
	Pause                 time.Duration // longest one of a writer
	Server, Client        side
}

type side struct {
	Reading                 string
	Readers, Writers        int
	Sends                   websocket.MessageType
	Ways                    []way
	ReadHaste, WriteHaste   float64
	MaxPending              int
	KeepAlive, CloseTimeout time.Duration
	Compressed              bool
	Compression             websocket.Compression
}

// An end is one of the two Conns.
type end struct {
	*side
	name    string
	pair    *pair
	c       *websocket.Conn
	over    context.Context // of c
	peer    *end
	out, in *flow
	reading reading
	readers []*actor
	writers []*actor
	watcher *actor
	actors  []*actor    // all of these
	ender   *actor      // makes the calls that end the connection, on the goroutine of the pair
	shaken  bool        // Close returned nil
	torn    atomic.Bool // a message that was sent in part could not be finished
}

func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// newPlan chooses a connection at random.
func newPlan(r *rand.Rand, number int) plan {
	p := plan{Number: number, Handler: one(r, true, false), Panics: one(r, true, false), Room: r.IntN(3) == 0, Largest: 1 << one(r, 8, 10, 14, 16, 17, 18)}
	p.Pause = one(r, 0, 100*time.Microsecond, time.Millisecond, 10*time.Millisecond, 300*time.Millisecond) // the last lets connections park
	p.Server, p.Client = newSide(r), newSide(r)
	for _, s := range []*side{&p.Server, &p.Client} {
		if p.Room {
			s.Sends = websocket.TextMessage // the same message is sent to all
		}
		if p.Largest > 1<<14 {
			s.Compression.Level = min(s.Compression.Level, 3) // a higher one takes long with the race detector
		}
	}
	if p.Server.Reading == "none" || p.Client.Reading == "none" {
		p.Server.KeepAlive, p.Client.KeepAlive = -1, -1 // nothing would answer the pings
	}
	return p
}

// keepAlive is the KeepAlive of some connections. It expires while all actors pause.
const keepAlive = time.Second

func newSide(r *rand.Rand) side {
	s := side{
		Reading:      one(r, "steps", "steps", "steps", "messages", "messages", "stream", "stream", "onMessage", "onMessage", "closeRead", "none"),
		Readers:      one(r, 1, 1, 1, 2, 3),
		Writers:      r.IntN(5),
		Sends:        one(r, websocket.TextMessage, websocket.BinaryMessage),
		ReadHaste:    one(r, 0, 0.05, 0.5, 0.9),
		WriteHaste:   one(r, 0, 0, 0.05, 0.5),
		MaxPending:   one(r, 0, 0, 1, 1000, 20_000, 100_000),
		KeepAlive:    one(r, 0, -1, keepAlive),
		CloseTimeout: time.Duration(200+r.IntN(800)) * time.Millisecond,
		Compressed:   r.IntN(5) > 0,
		Compression: websocket.Compression{Level: r.IntN(10), Threshold: one(r, 0, -1, 1000), ContextTakeover: one(r, true, false),
			WindowBits: one(r, 0, 8, 9, 12, 15)},
	}
	for range 1 + r.IntN(4) { // a few ways at a time are tested more thoroughly than all together
		s.Ways = append(s.Ways, one(r, ways...))
	}
	return s
}

func (s *side) options() *websocket.Options {
	o := &websocket.Options{MaxMessageSize: 2 * maxSize, MaxPending: s.MaxPending, KeepAlive: s.KeepAlive, CloseTimeout: s.CloseTimeout}
	if s.Compressed {
		o.Compression = &s.Compression
	}
	return o
}

// newPair makes the pair with a number in a round, before it is connected.
func newPair(rd *round, number int) *pair {
	r := rand.New(rand.NewPCG(rd.seed, uint64(number)))
	p := &pair{round: rd, begun: make(chan struct{}), rand: r, plan: newPlan(r, number), wire: one(r, rd.storm.wires...), ending: one(r, endings...)}
	p.Wire, p.Ending = p.wire.name, p.ending.name
	for i, s := range []*side{&p.Server, &p.Client} {
		e := &end{side: s, name: [...]string{"server", "client"}[i], pair: p}
		e.out = &flow{from: e}
		for _, e.reading = range readings {
			if e.reading.name == s.Reading {
				break
			}
		}
		p.ends[i] = e
	}
	for i, e := range p.ends {
		e.peer = p.ends[1-i]
		e.in, e.out.to = e.peer.out, e.peer
		if !e.peer.reading.receives && r.IntN(3) > 0 {
			e.Writers = 0
		}
		p.excused.Store(p.excused.Load() || e.peer.Reading == "closeRead" && (e.Writers > 0 || p.Room))
		if p.Ending == "drain" {
			e.Readers = 1 // a reader in the middle of a message would wait for another that waits for the next message
		}
		if p.Ending == "drain" && e.peer.Reading != "none" {
			e.CloseTimeout = 0 // the closing handshake must succeed
		}
	}
	p.arrival = &arrival{opts: p.Server.options(), handled: p.Handler, panics: p.Panics && p.Ending == "return",
		conn: make(chan *websocket.Conn, 1), leave: make(chan struct{})}
	if p.Room {
		p.arrival.opts.Group = &rd.room
	}
	return p
}

func (p *pair) patience() time.Duration { return p.round.storm.Patience }

func (p *pair) fail(class, format string, args ...any) {
	p.round.storm.report(class, p.round, p, fmt.Sprintf(format, args...))
}

// connect opens the connection and makes its actors. It returns false if that failed, which is a finding.
func (p *pair) connect() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*p.patience())
	defer cancel()
	p.born = time.Now()
	s, c, err := p.wire.connect(ctx, p.arrival, p.Client.options())
	if err != nil {
		p.fail("connect", "%v", err)
		return false
	}
	p.ends[0].c, p.ends[1].c = s, c
	for _, e := range p.ends {
		e.over = e.c.Context()
		p.round.enter(e) // the first ledger is that of the room
		e.addActors()
	}
	return true
}

func (e *end) addActor(name string, haste float64) *actor {
	a := &actor{name: e.name + " " + name, pair: e.pair, end: e, c: e.c, over: e.over, haste: haste, ways: e.Ways, done: make(chan struct{}),
		rand: rand.New(rand.NewPCG(e.pair.rand.Uint64(), 1))}
	e.pair.actors = append(e.pair.actors, a)
	return a
}

func (e *end) addActors() {
	e.ender, e.watcher = e.addActor("ender", 0), e.addActor("watcher", 0.5)
	e.ender.ledger = e.out.addLedger()
	for i := range e.Writers {
		a := e.addActor(fmt.Sprint("writer ", i), e.WriteHaste)
		a.ledger = e.out.addLedger()
		e.writers = append(e.writers, a)
	}
	for i := range min(e.Readers, e.reading.readers) {
		a := e.addActor(fmt.Sprint("reader ", i), e.ReadHaste)
		if e.name == "server" && e.peer.reading.receives && i == 0 && e.Writers%2 == 0 {
			a.haste, a.ledger = 0, e.out.addLedger()
		}
		a.tally = e.in.addTally(a)
		e.readers = append(e.readers, a)
	}
}

// start starts the actors. Their goroutines are labeled in profiles.
func (p *pair) start() {
	label := pprof.Labels("pair", fmt.Sprint(p.Number, " ", p.Wire))
	pprof.Do(context.Background(), label, func(context.Context) {
		for _, e := range p.ends {
			for _, a := range e.readers {
				a.run(a.read)
			}
			for _, a := range e.writers {
				a.run(a.writeUntilOver)
			}
			e.watcher.run(e.watcher.watch)
			e.actors = append(append(e.readers, e.writers...), e.watcher)
		}
	})
}

func (a *actor) run(f func()) {
	go func() {
		defer close(a.done)
		f()
	}()
}

func (a *actor) read() {
	t := a.tally
	a.end.reading.run(a, t)
	var whole uint64
	for _, m := range t.got {
		if m.whole {
			whole++
		}
	}
	if a.end.Reading == "stream" && whole > 0 {
		whole-- // its last frame may not have arrived
	}
	for late := 0; len(t.flow.tallies) == 1 && a.c.Stats().MessagesRead < whole; late++ {
		if late == 10 { // the call that ends the connection may be about to count
			a.fail("stats", "%d messages were read to their end, and Stats counts %d", whole, a.c.Stats().MessagesRead)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// watch sends pings and checks the connection.
func (a *actor) watch() {
	g := new(websocket.Group)
	for a.pair.round.pass(a.over) && a.over.Err() == nil {
		switch a.rand.IntN(4) {
		case 0:
			a.ping()
		case 1:
			g.Add(a.c)
			g.Remove(a.c)
		default:
			a.checkStats()
		}
		time.Sleep(time.Duration(a.rand.IntN(5000)) * time.Microsecond)
	}
}

// ping sends a ping, if anything reads the answer.
func (a *actor) ping() {
	if a.end.Reading == "none" || a.end.peer.Reading == "none" {
		return
	}
	ctx, cancel := a.context()
	defer cancel()
	err := a.do("Ping", 0, func() error {
		_, err := a.c.Ping(ctx)
		return err
	})
	a.judge("Ping", ctx, err)
}

// checkStats compares Stats with the events that must have been counted by now.
func (a *actor) checkStats() {
	sent := uint64(a.end.out.count(accepted))
	st := a.c.Stats()
	if st.MessagesWritten < sent {
		a.fail("stats", "%d messages were accepted, and Stats counts %d", sent, st.MessagesWritten)
	}
	limit := max(a.end.MaxPending, max(a.pair.Largest, maxBroadcast)+headSize+2)
	if a.end.MaxPending == 0 {
		limit = max(limit, 1<<20)
	}
	streams := slices.ContainsFunc(a.ways, func(w way) bool { return w.name == "Writer" || w.name == "ReadFrom" })
	if streams {
		limit *= 2 // frames held back by a Writer have a separate limit, and those of a Broadcast none
	}
	if st.Pending > limit+14 && !(streams && a.pair.Room) { // 14 is the longest header
		a.fail("pending", "%d bytes are pending", st.Pending)
	}
}

// live waits for the time of the ending, ends the connection and waits until every call has returned.
func (p *pair) live() {
	p.early = p.ending.run(p)
	for _, e := range p.ends {
		if err := p.within("CloseNow", p.patience(), e.c.CloseNow); err != nil && !errors.Is(err, net.ErrClosed) {
			p.fail("error", "CloseNow of the %s returned %v", e.name, err)
		}
	}
	p.arrival.letGo()
	for _, e := range p.ends {
		p.await(e, "CloseNow", p.patience(), e.actors)
		if p.within("Context", p.patience(), func() error { <-e.over.Done(); return nil }) == nil && !p.hung.Load() {
			p.probe(e)
		}
	}
}

var errLate = errors.New("storm: the call has not returned")

// within makes a call that must return in time.
func (p *pair) within(what string, limit time.Duration, f func() error) error {
	var err error
	done := make(chan struct{})
	go func() { err = f(); close(done) }()
	if p.isLate(done, time.Now().Add(limit)) {
		p.hang("%s has not returned after %v", what, limit)
		return errLate
	}
	return err
}

// await waits for actors that should be returning.
func (p *pair) await(e *end, after string, limit time.Duration, actors []*actor) {
	late := time.Now().Add(limit)
	for _, a := range actors {
		if p.isLate(a.done, late) {
			p.hang("%v after %s of the %s: %s", limit, after, e.name, a.running())
			return
		}
	}
}

// isLate reports whether done is not closed in time. On a busy machine it waits longer, as long as the process is
// working or may be kept from working: a call hangs only if nothing else has happened for a while.
func (p *pair) isLate(done <-chan struct{}, late time.Time) bool {
	for idle := 0; idle < 10; idle++ {
		before := processorTime()
		select {
		case <-done:
			return false
		case <-time.After(idleWindow):
		}
		if time.Now().Before(late) || processorTime()-before > idleWindow/10 && time.Since(late) < 15*p.patience() {
			idle = 0
		}
	}
	return true
}

// hang reports a call that does not return.
func (p *pair) hang(format string, args ...any) {
	p.hung.Store(true)
	p.fail("hang", format, args...)
}

// probe checks that every later call returns the same error.
func (p *pair) probe(e *end) {
	ctx, c := context.Background(), e.c
	verdict := context.Cause(e.over)
	for what, call := range map[string]func() error{
		"Read":   func() error { _, _, err := c.Read(ctx); return err },
		"Reader": func() error { _, _, err := c.Reader(ctx); return err },
		"Write":  func() error { return c.Write(ctx, websocket.BinaryMessage, nil) },
		"Writer": func() error { _, err := c.Writer(ctx, websocket.BinaryMessage); return err },
		"Send":   func() error { return c.Send(websocket.BinaryMessage, nil) },
		"Ping":   func() error { _, err := c.Ping(ctx); return err },
	} {
		first, second := p.within(what, p.patience(), call), p.within(what, p.patience(), call)
		if first == errLate || second == errLate {
			return
		}
		if !isEnd(first) || fmt.Sprint(first) != fmt.Sprint(second) {
			p.fail("verdict", "after the end of the %s, %s returned %v, then %v", e.name, what, first, second)
		} else if strings.HasPrefix(what, "Read") && first.Error() != verdict.Error() {
			p.fail("verdict", "after the end of the %s, %s returned %v, and the cause of Context is %v", e.name, what, first, verdict)
		}
	}
}

// check compares the history with the model, once the pair is over.
func (p *pair) check() {
	if p.hung.Load() {
		return
	}
	p.checkVerdicts()
	for _, e := range p.ends {
		e.out.check(e.peer.reading.receives && (p.drained || e.closedInOrder()))
		least := uint64(e.out.count(accepted))
		most := least + uint64(e.out.count(unknown))
		if st := e.c.Stats(); st.MessagesWritten < least || st.MessagesWritten > most {
			p.fail("stats", "the %s has written %d to %d messages, and Stats counts %d", e.name, least, most, st.MessagesWritten)
		}
	}
}

// closedInOrder reports whether the peer has read a close frame of Close. All accepted messages were sent before it.
func (e *end) closedInOrder() bool {
	var closed *websocket.CloseError
	return errors.As(context.Cause(e.peer.over), &closed) && closed.Code != websocket.StatusTryAgainLater &&
		context.Cause(e.over) == net.ErrClosed && !e.torn.Load()
}

// checkVerdicts compares the errors with which the two ends ended.
func (p *pair) checkVerdicts() {
	var verdicts [2]error
	var closed [2]*websocket.CloseError
	for i, e := range p.ends {
		verdicts[i] = context.Cause(e.over)
		errors.As(verdicts[i], &closed[i])
	}
	slow := time.Since(p.born) > 2*keepAlive && p.Server.KeepAlive+p.Client.KeepAlive > 0 // a busy machine may be silent that long
	if p.early && !p.excused.Load() && !(slow && (errors.Is(verdicts[0], os.ErrDeadlineExceeded) || errors.Is(verdicts[1], os.ErrDeadlineExceeded))) {
		p.fail("ended", "the connection ended without a reason: the server by %v, the client by %v", verdicts[0], verdicts[1])
	}
	if closed[0] != nil && closed[1] != nil {
		p.fail("verdict", "both ends were closed by their peer: %v, %v", verdicts[0], verdicts[1])
	}
	for i, e := range p.ends {
		other := verdicts[1-i]
		var broke *websocket.ProtocolError
		if e.shaken && errors.Is(other, websocket.StatusAbnormalClosure) {
			p.fail("verdict", "Close of the %s returned nil, and the other end ended with %v", e.name, other)
		}
		if errors.As(other, &broke) && closed[i] != nil && closed[i].Code != broke.Code {
			p.fail("verdict", "the %s was closed with %v, and the other end failed with %v", e.name, closed[i], broke)
		}
	}
}
