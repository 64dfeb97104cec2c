package storm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/websocket"
)

// Parked is a soak of idle connections, whose messages OnMessage delivers at both ends. In each round, many connections
// fall silent, come to life and end in all ways. While they are silent there are few goroutines, and afterwards everything
// is given back.
type Parked struct {
	Conns    int           // of a round
	Duration time.Duration // no round begins later
	Seed     uint64
	Log      io.Writer

	options  websocket.Options
	server   *httptest.Server
	room     websocket.Group
	accepted sync.Map // of *parked, by the path of the request
	rand     *rand.Rand
	findings atomic.Int64
}

const (
	fewGoroutines = 64  // of the package, while all connections are silent
	floodMessages = 300 // that are sent without a pause
	parkedWait    = 20 * time.Second
)

// A parked is a connection of the soak.
type parked struct {
	soak    *Parked
	way     *parkedWay
	server  *websocket.Conn
	client  *websocket.Conn
	arrived chan struct{} // the server's end is set

	got     atomic.Uint64 // messages at the server, which are numbers in order
	echoed  atomic.Uint64 // at the client
	last    atomic.Int32  // calls with an error
	current atomic.Int64  // the number of the last OnMessage
}

// A parkedWay is what happens to a connection.
type parkedWay struct {
	name   string
	silent bool // the client does not read
	stays  bool // until Shutdown
	run    func(p *parked) error
}

var parkedWays = []parkedWay{
	{name: "stay", stays: true, run: func(p *parked) error { return nil }},
	{name: "talk", stays: true, run: func(p *parked) error { return p.talk(3) }},
	{name: "flood", stays: true, run: func(p *parked) error { return p.talk(floodMessages) }},
	{name: "replace", stays: true, run: (*parked).replace},
	{name: "abort", run: (*parked).abort},
	{name: "silent", silent: true, run: func(p *parked) error { return nil }},
	{name: "half-close", run: func(p *parked) error { return p.client.NetConn().(*net.TCPConn).CloseWrite() }},
	{name: "close", run: func(p *parked) error { return p.client.Close(websocket.StatusGoingAway, "") }},
	{name: "server closes", run: func(p *parked) error { return p.server.Close(websocket.StatusGoingAway, "") }},
	{name: "server leaves", run: func(p *parked) error { return p.server.CloseNow() }},
}

// Run runs the soak and returns the number of findings.
func (s *Parked) Run() int {
	s.options = websocket.Options{KeepAlive: time.Second, CloseTimeout: 10 * time.Second, Group: &s.room}
	s.rand = rand.New(rand.NewPCG(s.Seed, 0))
	s.server = httptest.NewServer(websocket.Handler(&s.options, s.serve))
	defer s.server.Close()
	s.round(min(s.Conns, 50)) // makes what a process keeps
	time.Sleep(time.Second)
	base := takeStock()
	begin, rounds := time.Now(), 0
	for ; s.findings.Load() == 0 && time.Since(begin) < s.Duration; rounds++ {
		s.round(s.Conns)
		s.settle(base)
	}
	fmt.Fprintf(s.Log, "%d rounds of %d parked connections in %v, seed %d\n", rounds, s.Conns, time.Since(begin).Round(time.Millisecond), s.Seed)
	return int(s.findings.Load())
}

func (s *Parked) fail(format string, args ...any) {
	if s.findings.Add(1) <= 10 {
		fmt.Fprintf(s.Log, "FINDING, seed %d: %s\n", s.Seed, fmt.Sprintf(format, args...))
	}
}

// until waits for a condition.
func (s *Parked) until(what string, ok func() bool) {
	for limit := time.Now().Add(parkedWait); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			s.fail("%s: still not so", what)
			pprof.Lookup("goroutine").WriteTo(s.Log, 1)
			return
		}
	}
}

// serve is the server's end of a connection.
func (s *Parked) serve(c *websocket.Conn, r *http.Request) {
	v, ok := s.accepted.LoadAndDelete(r.URL.Path)
	if !ok {
		c.CloseNow()
		return
	}
	p := v.(*parked)
	p.server = c
	p.set()
	close(p.arrived)
}

// set has the server's messages delivered to a new function.
func (p *parked) set() {
	number := p.current.Add(1)
	p.server.OnMessage(func(m websocket.Message, err error) {
		switch {
		case err != nil:
			p.last.Add(1)
			if now := p.current.Load(); now != number {
				p.soak.fail("%s: the error went to function %d of %d", p.way.name, number, now)
			}
		case len(m.Data) != 8 || binary.BigEndian.Uint64(m.Data) != p.got.Add(1):
			p.soak.fail("%s: message %x after %d", p.way.name, m.Data, p.got.Load())
		default:
			p.server.Send(m.Type, m.Data)
		}
	})
}

// talk sends messages and waits for their echoes.
func (p *parked) talk(n int) error {
	from := p.echoed.Load()
	for i := range n {
		if err := p.client.Write(context.Background(), websocket.BinaryMessage, binary.BigEndian.AppendUint64(nil, from+uint64(i)+1)); err != nil {
			return err
		}
	}
	p.soak.until("the echoes have come", func() bool { return p.echoed.Load() == from+uint64(n) })
	return nil
}

// replace sets the function again, with and without an interruption, while messages come.
func (p *parked) replace() error {
	talked := make(chan error, 1)
	go func() { talked <- p.talk(50) }()
	for i := range 20 {
		if i%2 == 0 {
			p.server.OnMessage(nil)
		}
		runtime.Gosched()
		p.set()
	}
	return <-talked
}

// abort resets the connection.
func (p *parked) abort() error {
	nc := p.client.NetConn().(*net.TCPConn)
	return errors.Join(nc.SetLinger(0), nc.Close())
}

// round connects, lets all fall silent, has something happen to each, lets the rest fall silent again, and ends them.
func (s *Parked) round(n int) {
	before := runtime.NumGoroutine()
	all := s.connect(n)
	if len(all) < n {
		return
	}
	s.awaitFew(before, "after the connections were made")
	s.each(all, func(p *parked) {
		if err := p.way.run(p); err != nil {
			s.fail("%s: %v", p.way.name, err)
		}
	})
	s.until("the connections that ended have told", func() bool {
		for _, p := range all {
			if !p.way.stays && p.last.Load() == 0 {
				return false
			}
		}
		return true
	})
	s.each(all, func(p *parked) {
		if !p.way.stays && !p.way.silent {
			p.client.CloseNow()
		}
	})
	s.awaitFew(before, "after some have ended")
	s.shutDown(all)
}

// shutDown ends the connections that are left.
func (s *Parked) shutDown(all []*parked) {
	ctx, cancel := context.WithTimeout(context.Background(), parkedWait)
	defer cancel()
	if err := s.room.Shutdown(ctx, websocket.StatusGoingAway, "the end of the round"); err != nil {
		s.fail("Shutdown: %v", err)
	}
	for _, p := range all {
		p.client.CloseNow()
	}
	s.until("every function got its error", func() bool {
		for _, p := range all {
			if p.last.Load() == 0 {
				return false
			}
		}
		return true
	})
	for _, p := range all {
		if n := p.last.Load(); n != 1 {
			s.fail("%s: %d calls with an error", p.way.name, n)
		}
	}
	s.room = websocket.Group{}
}

// awaitFew waits until there are few goroutines for some time.
func (s *Parked) awaitFew(before int, when string) {
	quiet := 0
	s.until(fmt.Sprintf("%s, there are few goroutines", when), func() bool {
		if quiet++; runtime.NumGoroutine() > before+fewGoroutines {
			quiet = 0
		}
		return quiet == 200 // samples, in which every connection gets a ping
	})
}

// each calls f for all connections, some at a time.
func (s *Parked) each(all []*parked, f func(*parked)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 50)
	for _, p := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(p)
		})
	}
	wg.Wait()
}

// connect opens connections, which have nothing to say yet.
func (s *Parked) connect(n int) []*parked {
	var all []*parked
	for range n {
		all = append(all, &parked{soak: s, way: &parkedWays[s.rand.IntN(len(parkedWays))], arrived: make(chan struct{})})
	}
	var failed atomic.Bool
	s.each(all, func(p *parked) {
		if err := p.dial(); err != nil && !failed.Swap(true) {
			s.fail("Dial: %v", err)
		}
	})
	if failed.Load() {
		return nil
	}
	return all
}

func (p *parked) dial() (err error) {
	path := fmt.Sprintf("/%p", p)
	p.soak.accepted.Store(path, p)
	ctx, cancel := context.WithTimeout(context.Background(), parkedWait)
	defer cancel()
	p.client, err = websocket.Dial(ctx, strings.Replace(p.soak.server.URL, "http", "ws", 1)+path, &websocket.Options{KeepAlive: -1})
	if err != nil {
		return err
	}
	<-p.arrived
	if !p.way.silent {
		p.client.OnMessage(func(m websocket.Message, err error) {
			if err == nil && binary.BigEndian.Uint64(m.Data) == p.echoed.Load()+1 {
				p.echoed.Add(1)
			}
		})
	}
	return nil
}

// settle waits until all that a round held is given back.
func (s *Parked) settle(base stock) {
	var now stock
	for limit := time.Now().Add(parkedWait); time.Now().Before(limit); time.Sleep(50 * time.Millisecond) {
		now = takeStock()
		if now.goroutines <= base.goroutines && now.files <= base.files && now.heap <= base.heap+heapSlack {
			return
		}
	}
	s.fail("the stock was %+v and is %+v", base, now)
	pprof.Lookup("goroutine").WriteTo(s.Log, 1)
}
