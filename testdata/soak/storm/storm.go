// Package storm calls the methods of WebSocket connections at random, from many goroutines and over every transport,
// and compares the results with a model of what the documentation of package websocket promises.
//
// A storm consists of rounds. A round opens a few connections, chosen by its seed. Actors at both ends read and write
// in every way, with contexts that end at any moment. At some point all actors pause, and the round checks that the
// process is idle. Finally it ends each connection in its own way, and checks that all resources are released.
//
// The model: each message that is read is complete, in the order of its sender, and read only once; no accepted message
// is lost, unless the connection ended, and then only the last ones; a call whose context ended before anything was
// sent has sent nothing; a connection ends only for a reason; and every call returns soon after CloseNow.
package storm

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"example.com/websocket"
)

// A Storm configures a run. Set the exported fields and call Run.
type Storm struct {
	Seed     uint64        // of the first round; each later round adds one
	Same     bool          // all rounds have the first seed
	Duration time.Duration // no round begins later
	Rounds   int           // 0: as many as begin within Duration
	Pairs    int           // connections of a round
	Only     int           // the number of the one pair to run; negative: all
	Wires    []string      // prefixes of the names of transports; none: all
	Patience time.Duration // how long a call that has nothing to wait for may take
	Log      io.Writer

	wires   []*wire
	base    stock
	mu      sync.Mutex // guards the fields below and Log
	classes map[string]int
	broken  bool // a goroutine does not end, so further rounds cannot be judged
}

const mostReports = 2 // findings of each class that are printed in full

// Run runs the storm and returns the number of findings.
func (s *Storm) Run() (findings int, err error) {
	s.classes = make(map[string]int)
	stop, err := s.startWires()
	if err != nil {
		return 0, err
	}
	defer stop()
	s.warmUp()
	begin, rounds := time.Now(), 0
	for ; !s.isBroken() && (s.Rounds == 0 || rounds < s.Rounds) && time.Since(begin) < s.Duration; rounds++ {
		rd := &round{storm: s, seed: s.Seed, conns: make(map[string]weak.Pointer[websocket.Conn])}
		if !s.Same {
			rd.seed += uint64(rounds)
		}
		done := make(chan bool) // on a separate stack, so that it holds no reference when the Conns of the round are looked for
		go func() { rd.run(); done <- true }()
		<-done
		s.settle(rd)
	}
	fmt.Fprintf(s.Log, "%d rounds in %v\n", rounds, time.Since(begin).Round(time.Millisecond))
	for class, n := range s.classes {
		fmt.Fprintf(s.Log, "%d findings of class %q\n", n, class)
		findings += n
	}
	return findings, nil
}

// warmUp makes everything that the process keeps, such as the goroutines of servers, and then takes the first stock.
func (s *Storm) warmUp() {
	for _, w := range s.wires {
		w.dial(context.Background())
	}
	for steady, last := 0, 0; steady < 5; steady++ {
		time.Sleep(20 * time.Millisecond)
		if now := runtime.NumGoroutine(); now != last {
			steady, last = 0, now
		}
	}
	s.base = takeStock()
}

// report prints a finding about a pair, with its history, or about a whole round. The labels of goroutines name the
// pairs.
func (s *Storm) report(class string, rd *round, p *pair, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := class == "hang" || class == "stuck" || class == "busy"
	s.broken = s.broken || waits
	if s.classes[class]++; s.classes[class] > mostReports {
		return
	}
	fmt.Fprintf(s.Log, "\nFINDING %q: -rounds 1 -wires %q -seed %d", class, strings.Join(s.Wires, ","), rd.seed)
	if p == nil {
		fmt.Fprintf(s.Log, ": %s\n", text)
		for _, p := range rd.plans {
			fmt.Fprintf(s.Log, "  %+v\n", p)
		}
	} else {
		fmt.Fprintf(s.Log, " -pair %d: %s\n  %+v\n", p.Number, text, p.plan)
		p.printHistory(s.Log)
	}
	if waits {
		pprof.Lookup("goroutine").WriteTo(s.Log, 1)
	}
}

func (s *Storm) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// A round is a set of concurrent connections.
type round struct {
	storm  *Storm
	seed   uint64
	length time.Duration // of the storm in it
	plans  []plan
	over   atomic.Bool
	quiet  atomic.Pointer[chan struct{}] // nil, or closed when actors may go on
	room   websocket.Group

	mu      sync.Mutex // guards the fields below while the pairs are connected
	pairs   []*pair
	members []member
	conns   map[string]weak.Pointer[websocket.Conn]
}

func (rd *round) run() {
	r := rand.New(rand.NewPCG(rd.seed, 1<<32))
	rd.length = time.Duration(100+r.IntN(400)) * time.Millisecond
	rd.connect()
	var helpers, pairs sync.WaitGroup
	helpers.Go(func() { rd.broadcast(r) })
	helpers.Go(func() { rd.dial(rand.New(rand.NewPCG(rd.seed, 1<<33))) })
	for _, p := range rd.pairs {
		p.start()
		pairs.Go(p.live)
	}
	time.Sleep(rd.length / 2)
	calm := make(chan struct{})
	rd.quiet.Store(&calm)
	rd.checkIdle("while all wait")
	rd.quiet.Store(nil)
	close(calm)
	time.Sleep(rd.length / 2)
	rd.over.Store(true)
	helpers.Wait()
	pairs.Wait()
	for _, p := range rd.pairs {
		p.check()
	}
	rd.pairs, rd.members = nil, nil
}

// pass waits while the storm is quiet, unless ctx ends. It returns false when the round is over. It writes nothing that
// other actors read, so that it does not order their calls.
func (rd *round) pass(ctx context.Context) bool {
	if calm := rd.quiet.Load(); calm != nil {
		select {
		case <-*calm:
		case <-ctx.Done():
		}
	}
	return !rd.over.Load()
}

// connect opens all connections concurrently.
func (rd *round) connect() {
	var wg sync.WaitGroup
	first, end := 0, rd.storm.Pairs
	if n := rd.storm.Only; n >= 0 {
		first, end = n, n+1
	}
	for n := first; n < end; n++ {
		p := newPair(rd, n)
		rd.plans = append(rd.plans, p.plan)
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

// A member is an end in the room, with the ledger of the messages broadcast to it.
type member struct {
	end    *end
	ledger *ledger
}

// enter records a connected end, and adds it to the room if its plan says so.
func (rd *round) enter(e *end) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.conns[fmt.Sprint(e.pair.Number, " ", e.name)] = weak.Make(e.c)
	l := e.out.addLedger()
	if e.pair.Room {
		rd.room.Add(e.c)
		rd.members = append(rd.members, member{e, l})
	}
}

const maxBroadcast = 8 << 10 // bytes of filling in a message

// broadcast sends messages to everybody in the room. It knows who accepted a message only if everybody did.
func (rd *round) broadcast(r *rand.Rand) {
	for len(rd.members) > 0 && rd.pass(forever) {
		var m message
		length := r.IntN(maxBroadcast) >> r.IntN(8)
		for _, to := range rd.members {
			m = to.ledger.next(length)
		}
		fate := accepted
		if rd.room.Broadcast(prepare(websocket.TextMessage, m.body())) < len(rd.members) {
			fate = unknown
		}
		for _, to := range rd.members {
			to.ledger.settle(fate)
			if fate == unknown {
				to.end.pair.excused.Store(true) // it may be closed for being too slow
			}
		}
		time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
	}
}

// dial makes handshakes whose context ends at any moment.
func (rd *round) dial(r *rand.Rand) {
	for rd.pass(forever) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(3000))*time.Microsecond)
		one(r, rd.storm.wires...).dial(ctx)
		cancel()
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
	}
}

// idleWindow is how long to measure the process. An idle process uses the processor for less than a tenth of that time.
const idleWindow = 100 * time.Millisecond

// checkIdle checks that the process becomes idle. It does not judge how soon, because a goroutine that spins never
// stops.
func (rd *round) checkIdle(when string) {
	var used time.Duration
	for limit := time.Now().Add(15 * rd.storm.Patience); time.Now().Before(limit); {
		before := processorTime()
		time.Sleep(idleWindow)
		if used = processorTime() - before; used < idleWindow/10 {
			return
		}
	}
	rd.storm.report("busy", rd, nil, fmt.Sprintf("%s, the process used %v in %v; see %s", when, used, idleWindow, profile(idleWindow)))
}

// profile writes a profile, in which the label "pair" says which pair is busy, and returns the name of the file.
func profile(d time.Duration) string {
	f, err := os.CreateTemp("", "storm-*.pprof")
	if err != nil || pprof.StartCPUProfile(f) != nil {
		return "no profile"
	}
	time.Sleep(d)
	pprof.StopCPUProfile()
	f.Close()
	return f.Name()
}

// A stock counts the resources that the process holds.
type stock struct {
	goroutines, files int
	heap              uint64
}

// heapSlack is the memory that the runtime and the pools may keep.
const heapSlack = 8 << 20

func takeStock() stock {
	runtime.GC()
	runtime.GC() // the contents of a sync.Pool survive one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return stock{runtime.NumGoroutine(), openFiles(), m.HeapAlloc}
}

// settle waits until everything that a round held is released.
func (s *Storm) settle(rd *round) {
	if s.isBroken() {
		return
	}
	rd.checkIdle("after the end of all connections")
	base, now := s.base, stock{}
	for limit := time.Now().Add(4 * s.Patience); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		now = takeStock()
		if now.goroutines <= base.goroutines && now.files <= base.files && now.heap <= base.heap+heapSlack && len(rd.alive()) == 0 && rd.room.Len() == 0 {
			return
		}
	}
	s.base = now
	s.report("leak", rd, nil, fmt.Sprintf("the stock was %+v and is %+v; %d Conns are in the room, and these are not collected: %q",
		base, now, rd.room.Len(), rd.alive()))
}

// alive returns the names of the Conns that were not collected.
func (rd *round) alive() (names []string) {
	for name, c := range rd.conns {
		if c.Value() != nil {
			names = append(names, name)
		}
	}
	return names
}
