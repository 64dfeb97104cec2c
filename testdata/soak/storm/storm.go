// Package storm calls the methods of WebSocket connections at random, from many goroutines and over every transport, and
// compares what happens with a model of what the documentation of package websocket promises.
//
// A storm consists of rounds. A round opens a few connections, chosen by its seed, has actors at both ends read and write
// in all ways with contexts that end at any moment, lets all wait for a while to see that none uses the processor, goes on,
// ends each connection in its own way, and finds that everything is given back.
//
// The model: each message that is read is whole, in the order of its sender and not read twice; none that was accepted is
// lost, unless the connection ended, and then only the last ones; a call whose context ended before anything was sent has
// sent nothing; a connection ends for a reason; and every call returns soon after CloseNow.
package storm

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"example.com/websocket"
)

// A Storm is what to run. Set the exported fields and call Run.
type Storm struct {
	Seed     uint64        // of the first round; the following rounds have the following numbers
	Duration time.Duration // no round begins later
	Rounds   int           // 0: as many as begin within Duration
	Same     bool          // all rounds have the seed of the first
	Pairs    int           // connections of a round
	Only     int           // the number of the one pair to run; negative: all
	Wires    []string      // names of Wires, or their beginnings; none: all
	Patience time.Duration // how long a call may take that has nothing to wait for
	Log      io.Writer

	wires   []*wire
	mu      sync.Mutex // guards what follows
	classes map[string]int
	broken  bool // what a connection left behind would disturb further rounds
	dumped  bool
}

// mostReports is how many findings of a class are printed in full.
const mostReports = 2

// Run runs the storm and returns the number of findings.
func (s *Storm) Run() (findings int, err error) {
	s.classes = make(map[string]int)
	wires, stop, err := startWires(s.Wires)
	if err != nil {
		return 0, err
	}
	defer stop()
	s.wires = wires
	base := s.warmUp()
	begin, rounds, conns := time.Now(), 0, 0
	for ; !s.isBroken() && (s.Rounds == 0 || rounds < s.Rounds) && time.Since(begin) < s.Duration; rounds++ {
		conns += s.round(s.seed(rounds), &base)
	}
	fmt.Fprintf(s.Log, "%d rounds with %d connections in %v\n", rounds, conns, time.Since(begin).Round(time.Millisecond))
	for class, n := range s.classes {
		fmt.Fprintf(s.Log, "%d findings of class %q\n", n, class)
		findings += n
	}
	return findings, nil
}

// seed returns that of a round.
func (s *Storm) seed(round int) uint64 {
	if s.Same {
		return s.Seed
	}
	return s.Seed + uint64(round)
}

// warmUp makes what a process keeps, such as the goroutines of servers, before the stock is taken.
func (s *Storm) warmUp() stock {
	for _, w := range s.wires {
		w.warmUp()
	}
	last := 0
	for steady := 0; steady < 5; steady++ {
		time.Sleep(20 * time.Millisecond)
		if now := runtime.NumGoroutine(); now != last {
			steady, last = 0, now
		}
	}
	return takeStock()
}

// report prints a finding with what led to it.
func (s *Storm) report(class string, p *pair, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.classes[class]++
	if s.classes[class] > mostReports {
		return
	}
	fmt.Fprintf(s.Log, "\nFINDING %q: seed %d: %s\n", class, p.round.seed, text)
	fmt.Fprintf(s.Log, "  %v\n  last calls:\n", p)
	p.printHistory(s.Log, 40)
	fmt.Fprintf(s.Log, "  try again: -seed %d -rounds 1, with -pair %d for this connection alone\n\n", p.round.seed, p.number)
}

// leak reports a finding that cannot be laid to one pair. No further round is run.
func (s *Storm) leak(class string, rd *round, text string) {
	s.mu.Lock()
	s.classes[class]++
	fmt.Fprintf(s.Log, "\nFINDING %q: seed %d: %s\n", class, rd.seed, text)
	for _, p := range rd.pairs {
		fmt.Fprintf(s.Log, "  %v\n", p)
	}
	s.mu.Unlock()
	s.dump()
}

// abandon has the storm end with this round.
func (s *Storm) abandon() {
	s.dump()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
}

// dump prints all goroutines, once. Their labels name the pairs.
func (s *Storm) dump() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dumped {
		s.dumped = true
		var all strings.Builder
		pprof.Lookup("goroutine").WriteTo(&all, 1)
		for stack := range strings.SplitSeq(all.String(), "\n\n") {
			if !strings.Contains(stack, "Accept") {
				fmt.Fprintf(s.Log, "%s\n\n", stack)
			}
		}
	}
}

func (s *Storm) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// A round is a number of connections at the same time.
type round struct {
	storm   *Storm
	seed    uint64
	rand    *rand.Rand
	length  time.Duration // of the storm in it
	gate    gate
	pairs   []*pair
	room    websocket.Group
	mu      sync.Mutex                              // guards what follows
	conns   map[string]weak.Pointer[websocket.Conn] // by pair and end
	members []*member
}

// round runs one round and returns how many connections it had.
func (s *Storm) round(seed uint64, base *stock) int {
	var conns map[string]weak.Pointer[websocket.Conn]
	done := make(chan bool)
	go func() { // on a stack that is gone when the connections are looked for
		rd := &round{storm: s, seed: seed, rand: rand.New(rand.NewPCG(seed, 1<<32)), conns: make(map[string]weak.Pointer[websocket.Conn])}
		rd.run()
		conns = rd.conns
		s.settle(rd, base)
		done <- true
	}()
	<-done
	return len(conns)
}

func (rd *round) run() {
	rd.length = time.Duration(100+rd.rand.IntN(400)) * time.Millisecond
	rd.gate.set(gateOpen)
	rd.connect()
	var helpers, pairs sync.WaitGroup
	helpers.Go(rd.broadcast)
	helpers.Go(rd.dial)
	for _, p := range rd.pairs {
		p.start()
		pairs.Go(p.live)
	}
	time.Sleep(rd.length / 2)
	rd.gate.set(gateQuiet)
	rd.storm.checkIdle(rd, "while all wait")
	rd.gate.set(gateOpen)
	time.Sleep(rd.length / 2)
	rd.gate.set(gateOver)
	helpers.Wait()
	pairs.Wait()
	for _, p := range rd.pairs {
		p.check()
	}
}

// connect opens the connections, all at the same time.
func (rd *round) connect() {
	var wg sync.WaitGroup
	for n := range rd.storm.Pairs {
		if rd.storm.Only >= 0 && n != rd.storm.Only {
			continue
		}
		p := newPair(rd, n)
		wg.Go(func() {
			if p.connect() {
				rd.mu.Lock()
				defer rd.mu.Unlock()
				rd.pairs = append(rd.pairs, p)
			}
		})
	}
	wg.Wait()
}

// A member is an end in the room, and the ledger of what is broadcast to it. It belongs to broadcast once that runs.
type member struct {
	end    *end
	ledger *ledger
}

// join puts an end into the room and remembers its Conn.
func (rd *round) join(p *pair, e *end) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.conns[fmt.Sprint("of pair ", p.number, " the ", e.name)] = weak.Make(e.c)
	l := e.out.addLedger()
	if p.inRoom {
		rd.room.Add(e.c)
		rd.members = append(rd.members, &member{e, l})
	}
}

// broadcast sends messages to all in the room. Who took one is known only if all did.
func (rd *round) broadcast() {
	for rd.gate.pass(forever) && len(rd.members) > 0 {
		var m message
		length := rd.rand.IntN(1 << (8 + rd.rand.IntN(6)))
		for _, to := range rd.members {
			m = to.ledger.next(length)
		}
		prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, m.body())
		if err != nil {
			panic(err)
		}
		result := accepted
		if rd.room.Broadcast(prepared) < len(rd.members) {
			result = unknown
		}
		for _, to := range rd.members {
			to.ledger.settle(result)
			if result == unknown {
				to.end.out.pair.excuse(excuseExpelled)
			}
		}
		time.Sleep(time.Duration(rd.rand.IntN(3000)) * time.Microsecond)
	}
}

// dial makes handshakes whose context ends at any moment.
func (rd *round) dial() {
	for rd.gate.pass(forever) {
		rd.storm.wires[rd.rand.IntN(len(rd.storm.wires))].dialBriefly(rd.rand)
		time.Sleep(time.Duration(rd.rand.IntN(20)) * time.Millisecond)
	}
}

// A gate lets actors go on, or wait, or stop. Passing it writes nothing that is shared, so that it orders no two actors.
type gate struct{ state atomic.Pointer[gateState] }

type gateState struct {
	now     gateValue
	changed chan struct{}
}

type gateValue uint8

const (
	gateOpen gateValue = iota
	gateQuiet
	gateOver
)

func (g *gate) set(v gateValue) {
	if old := g.state.Swap(&gateState{v, make(chan struct{})}); old != nil {
		close(old.changed)
	}
}

// pass waits while the gate is quiet, unless ctx ends. It is false when the round is over.
func (g *gate) pass(ctx context.Context) bool {
	for {
		s := g.state.Load()
		if s.now != gateQuiet {
			return s.now == gateOpen
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return true
		}
	}
}

func (g *gate) isQuiet() bool { return g.state.Load().now == gateQuiet }
func (g *gate) isOpen() bool  { return g.state.Load().now == gateOpen }

// checkIdle sees that the process soon uses next to no processor time. How long it takes is not judged: a goroutine that
// spins never stops.
func (s *Storm) checkIdle(rd *round, when string) {
	const window = 100 * time.Millisecond
	var used time.Duration
	for limit := time.Now().Add(3 * s.Patience); time.Now().Before(limit); {
		before := processorTime()
		time.Sleep(window)
		if used = processorTime() - before; used < window/10 {
			return
		}
	}
	s.leak("busy", rd, fmt.Sprintf("%s, the process used %v in %v", when, used, window))
	s.abandon()
}

// A stock is what the process holds.
type stock struct {
	goroutines, files int
	heap              uint64
}

// heapSlack is for what the runtime and the pools may keep.
const heapSlack = 8 << 20

func takeStock() stock {
	runtime.GC()
	runtime.GC() // what a sync.Pool has survives one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return stock{runtime.NumGoroutine(), openFiles(), m.HeapAlloc}
}

// settle waits until all that a round held is given back.
func (s *Storm) settle(rd *round, base *stock) {
	conns, pairs := rd.conns, rd.pairs
	members := rd.room.Len()
	if s.isBroken() {
		return
	}
	s.checkIdle(rd, "after the end of all connections")
	left := &round{storm: s, seed: rd.seed}
	for _, p := range pairs {
		left.pairs = append(left.pairs, p.outline())
	}
	rd, pairs = nil, nil
	var now stock
	for limit := time.Now().Add(4 * s.Patience); time.Now().Before(limit); time.Sleep(50 * time.Millisecond) {
		now = takeStock()
		if now.goroutines <= base.goroutines && now.files <= base.files && now.heap <= base.heap+heapSlack && len(alive(conns)) == 0 && members == 0 {
			return
		}
	}
	s.leak("leak", left, fmt.Sprintf("%d goroutines, %d files, %d KiB of heap and Conns %q are left, %d in the room; at the start: %d, %d, %d KiB",
		now.goroutines, now.files, now.heap>>10, alive(conns), members, base.goroutines, base.files, base.heap>>10))
	*base = now
}

// alive returns the names of the Conns that were not collected.
func alive(conns map[string]weak.Pointer[websocket.Conn]) (names []string) {
	for name, c := range conns {
		if c.Value() != nil {
			names = append(names, name)
		}
	}
	return names
}
