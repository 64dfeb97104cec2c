//go:build (linux || darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// parkedWires are the connections that the poller waits for.
var parkedWires = map[string]func(t *testing.T) (net.Conn, net.Conn){
	"TCP": func(t *testing.T) (net.Conn, net.Conn) { return tcpEnds(t) },
	"Unix": func(t *testing.T) (net.Conn, net.Conn) {
		return socketEnds(t, "unix", filepath.Join(t.TempDir(), "s"))
	},
	"TLS": func(t *testing.T) (net.Conn, net.Conn) {
		return overTLS(t, func() (net.Conn, net.Conn) { return tcpEnds(t) })
	},
}

// eachParked runs f with a server's Conn that is parked, for each of parkedWires. The calls of its function go to
// calls.
func eachParked(t *testing.T, f func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered), change ...func(*config)) {
	t.Helper()
	for name, ends := range parkedWires {
		t.Run(name, func(t *testing.T) {
			got, calls := deliveries()
			c, p := parked(t, ends, got, change...)
			f(t, c, p, calls)
		})
	}
}

// parked returns a server's Conn that is parked with f, and its peer.
func parked(t *testing.T, ends func(t *testing.T) (net.Conn, net.Conn), f func(Message, error), change ...func(*config)) (*Conn, *rawPeer) {
	t.Helper()
	a, b := ends(t)
	c, p := connectOver(t, a, b, true, change...)
	p.nc.SetDeadline(time.Now().Add(20 * time.Second))
	c.OnMessage(f)
	untilParked(t, c)
	return c, p
}

// untilParked waits until c is parked.
func untilParked(t *testing.T, c *Conn) {
	t.Helper()
	d := c.in.deliver.Load()
	until(t, "the connection is parked", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.state == deliveryParked
	})
}

func wantOnlyCall(t *testing.T, calls chan delivered, want ...error) {
	t.Helper()
	last := returnedSoon(t, "the last call", calls)
	wantError(t, "the last call", last.err, want...)
	wantEqual(t, "the message of the last call", last.data, "")
	pass(10 * time.Millisecond)
	if len(calls) > 0 {
		t.Errorf("after the last call: %v", <-calls)
	}
}

// A parked connection has no goroutine. Messages are delivered in order, whether they wake it or find it awake, and
// pings are answered.
func TestOnMessage_Parked_DeliversInOrder(t *testing.T) {
	eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
		for range 3 {
			stacks := make([]byte, 1<<20)
			until(t, "no goroutine waits for messages", func() bool {
				return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*delivery).run")
			})
			p.send("89 01 61", "81 01 31")
			p.expect("8a 01 61")
			wantCall(t, calls, "1")
			p.send("81 01 32", "01 01 33", "80 01 34", "81 01 35")
			wantCall(t, calls, "2")
			wantCall(t, calls, "34")
			wantCall(t, calls, "5")
			untilParked(t, c)
		}
	})
}

// A message that comes in pieces is delivered, though the connection is parked in the middle of it.
func TestOnMessage_Parked_InTheMiddleOfAMessage(t *testing.T) {
	eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
		message := asClient(wireHex("81 05 68 65 6c 6c 6f"))
		for _, piece := range [][]byte{message[:1], message[1:7], message[7:]} { // in the header, in the payload
			untilParked(t, c)
			p.nc.Write(piece)
		}
		wantCall(t, calls, "hello")
	})
}

// However a parked connection ends, the function gets one last call.
func TestOnMessage_Parked_Ends(t *testing.T) {
	for name, end := range map[string]func(c *Conn, p *rawPeer) error{
		"Close":     func(c *Conn, p *rawPeer) error { go c.Close(StatusNormalClosure, ""); return net.ErrClosed },
		"CloseNow":  func(c *Conn, p *rawPeer) error { c.CloseNow(); return net.ErrClosed },
		"Peer":      func(c *Conn, p *rawPeer) error { p.send(closeHex(1001, "")); return StatusGoingAway },
		"Lost":      func(c *Conn, p *rawPeer) error { p.nc.Close(); return StatusAbnormalClosure },
		"WrongByte": func(c *Conn, p *rawPeer) error { p.send("83 00"); return StatusProtocolError },
		"Expelled":  func(c *Conn, p *rawPeer) error { c.end.expel(); return ErrBacklog },
	} {
		t.Run(name, func(t *testing.T) {
			eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
				wantOnlyCall(t, calls, end(c, p))
				wantOK(t, "the end", returnedSoon(t, "the end", background(func() error { <-c.end.closed(); return nil })))
			}, func(cfg *config) { cfg.closeTimeout = 50 * time.Millisecond })
		})
	}
}

// A parked connection sends a ping when the peer is silent for KeepAlive, and gives it up when it stays silent.
func TestOnMessage_Parked_KeepsAlive(t *testing.T) {
	eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
		p.send(frameHex(0x8a, p.expectPing().payload))
		p.expectPing()
		wantOnlyCall(t, calls, os.ErrDeadlineExceeded)
	}, func(cfg *config) { cfg.keepAlive = 150 * time.Millisecond })
}

// OnMessage(nil) on a parked connection lets the other ways to read work, and another OnMessage parks it again.
func TestOnMessage_Parked_EndedAndReplaced(t *testing.T) {
	eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
		c.OnMessage(nil)
		p.send("81 01 31", "81 01 32")
		wantRead(t, c, TextMessage, "1")
		second, secondCalls := deliveries()
		c.OnMessage(second)
		wantCall(t, secondCalls, "2")
		untilParked(t, c)
		third, thirdCalls := deliveries()
		c.OnMessage(third)
		p.send("81 01 33")
		wantCall(t, thirdCalls, "3")
		untilParked(t, c)
		c.OnMessage(nil)
		c.OnMessage(third)
		untilParked(t, c)
		p.nc.Close()
		wantOnlyCall(t, thirdCalls, StatusAbnormalClosure)
		if len(calls)+len(secondCalls) > 0 {
			t.Error("a function that was replaced was called")
		}
	})
}

// A function that blocks holds up no other connection, and many that are woken at once need few goroutines.
func TestOnMessage_Parked_ManyAtOnce(t *testing.T) {
	const conns, blocked = 200, 20
	release := make(chan struct{})
	defer close(release)
	var peers []*rawPeer
	var busiest atomic.Int64 // goroutines; a mutex would hold up all functions if its holder's thread does not run
	served := make(chan struct{}, conns)
	for i := range conns {
		_, p := parked(t, parkedWires["TCP"], func(m Message, err error) {
			if err != nil {
				return
			}
			if i%(conns/blocked) == 0 {
				<-release
			}
			for now, most := int64(runtime.NumGoroutine()), busiest.Load(); now > most && !busiest.CompareAndSwap(most, now); {
				most = busiest.Load()
			}
			served <- struct{}{}
		})
		peers = append(peers, p)
	}
	pass(sweepEvery) // from here on, a connection that was served is parked again at once
	before := runtime.NumGoroutine()
	for _, p := range peers {
		p.send("81 00")
	}
	for range conns - blocked {
		returnedSoon(t, "a call", served)
	}
	if most := int(busiest.Load()) - before; most > blocked+conns/2 { // some may be in system calls while others run
		t.Errorf("%d goroutines were added for %d functions that block", most, blocked)
	}
}

// Functions that do not return take no worker from connections that wait for one.
func TestOnMessage_Parked_FunctionsThatDoNotReturn(t *testing.T) {
	const conns = 60
	served := make(chan delivered, conns)
	var peers []*rawPeer
	for i := range conns {
		_, p := parked(t, parkedWires["TCP"], func(m Message, err error) {
			switch i % 3 {
			case 0:
				panic("oops")
			case 1:
				runtime.Goexit()
			}
			served <- delivered{string(m.Data), err}
		}, func(cfg *config) { cfg.errorLog = log.New(io.Discard, "", 0) })
		peers = append(peers, p)
	}
	for _, p := range peers {
		p.send("81 01 31")
	}
	for range conns / 3 {
		wantEqual(t, "the call", returnedSoon(t, "a call", served), delivered{"1", nil})
	}
	for i, p := range peers {
		if i%3 < 2 {
			p.expectClose(StatusInternalError)
		}
	}
}

// The poller ends with the last connection. If its event queue fails, goroutines wait instead.
func TestOnMessage_Parked_PollerEndsAndFails(t *testing.T) {
	queue := func() *readiness {
		polling.mu.Lock()
		defer polling.mu.Unlock()
		return polling.ready
	}
	eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
		queue().close()
		until(t, "the poller has failed", func() bool { return queue() == nil })
		p.send("81 01 31")
		wantCall(t, calls, "1")
		c.CloseNow()
		wantOnlyCall(t, calls, net.ErrClosed)
	})
	eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
		c.CloseNow()
		wantOnlyCall(t, calls, net.ErrClosed)
		until(t, "the poller has ended", func() bool { return queue() == nil })
	})
}

// A descriptor that is used again belongs to the new connection.
func TestOnMessage_Parked_DescriptorIsReused(t *testing.T) {
	fd := func(c *Conn) int { return c.in.deliver.Load().fd }
	seen := make(map[int]bool)
	for reused := 0; reused < 10; {
		f, calls := deliveries()
		c, p := parked(t, parkedWires["TCP"], f)
		if seen[fd(c)] {
			reused++
		}
		seen[fd(c)] = true
		p.send("81 01 31")
		wantCall(t, calls, "1")
		c.CloseNow()
		p.nc.Close()
		wantOnlyCall(t, calls, net.ErrClosed)
	}
}

// byHand makes a delivery with f whose run is called by the test.
func byHand(c *Conn, f func(Message, error)) *delivery {
	d := &delivery{r: &c.in, fd: noDescriptor, f: f, state: deliveryWaiting}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enroll()
	d.on.Store(true)
	d.parking.Store(true)
	c.in.deliver.Store(d)
	return d
}

// While a delivery gives up its goroutine, another read takes more than it returns. No event tells of the rest.
func TestOnMessage_Parks_BeforeOthersMayRead(t *testing.T) {
	for name, ends := range parkedWires {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t)
			c, p := connectOver(t, a, b, true)
			f, calls := deliveries()
			byHand(c, func(Message, error) { t.Error("a function that was replaced was called") })
			if _, err := c.in.nextFor(nil, new(Message)); err != errParked {
				t.Fatal(err)
			}
			c.OnMessage(nil)
			p.send("81 01 31", "81 01 32")
			wantRead(t, c, TextMessage, "1")
			c.OnMessage(f)
			if got := returnedSoon(t, "the second message", calls); got.data != "2" {
				t.Errorf("%v", got)
			}
		})
	}
}

// A message that is read after a function was replaced is not delivered to it.
func TestOnMessage_Replaced_WhileAMessageArrives(t *testing.T) {
	a, b := tcpEnds(t)
	c, p := connectOver(t, a, b, true)
	first, firstCalls := deliveries()
	second, secondCalls := deliveries()
	d := byHand(c, first)
	d.parking.Store(false)
	p.send("81 01 31", "81 01 32")
	var m Message
	lent, err := c.in.nextFor(nil, &m)
	if err != nil || !d.call(m, nil) {
		t.Fatal(err)
	}
	wantCall(t, firstCalls, "1")
	if _, err = c.in.nextFor(lent, &m); err != nil {
		t.Fatal(err)
	}
	c.OnMessage(second)
	c.OnMessage(nil)
	d.call(m, nil)
	if len(firstCalls) > 0 || len(secondCalls) != 1 {
		t.Errorf("%d, %d calls, want 0, 1", len(firstCalls), len(secondCalls))
	}
}

// A peer whose answer to a ping has arrived is alive, even if this process was too slow to read it in time.
func TestOnMessage_KeepsAlive_PeerWhoseBytesWait(t *testing.T) {
	for _, answered := range []bool{true, false} {
		eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
			if !c.in.turn.lock(t.Context(), nil) {
				t.Fatal("no turn")
			}
			if answered {
				p.send("81 01 31")
				until(t, "bytes wait", func() bool { return hasArrived(c) })
			}
			c.in.live.pinged, c.in.live.silent = true, time.Hour
			c.in.setDeadline()
			c.in.turn.unlock()
			if answered {
				wantCall(t, calls, "1")
			} else {
				wantOnlyCall(t, calls, os.ErrDeadlineExceeded)
			}
		}, func(cfg *config) { cfg.keepAlive = time.Hour })
	}
}

// Pings that are due on many connections at once, and their answers, need few goroutines.
func TestOnMessage_Parked_ManyPingsAtOnce(t *testing.T) {
	const conns = 200
	var peers []*rawPeer
	for range conns {
		f, _ := deliveries()
		_, p := parked(t, parkedWires["TCP"], f, func(cfg *config) { cfg.keepAlive = 500 * time.Millisecond })
		peers = append(peers, p)
	}
	before := runtime.NumGoroutine()
	pinged := background(func() error {
		for range 2 {
			for _, p := range peers {
				f := p.next()
				if f.first != 0x89 {
					return fmt.Errorf("not a ping: %v", f)
				}
				p.send(frameHex(0x8a, f.payload))
			}
		}
		return nil
	})
	busiest := 0
	for {
		select {
		case err := <-pinged:
			if err != nil {
				t.Error(err)
			}
			if busiest -= before; busiest > conns/4 {
				t.Errorf("%d goroutines were added for %d pings", busiest, conns)
			}
			return
		case <-time.After(time.Millisecond):
			busiest = max(busiest, runtime.NumGoroutine())
		}
	}
}

// If the user closes the descriptor of a parked connection, no event tells the poller. The connection ends at the
// latest when another connection gets the descriptor.
func TestOnMessage_Parked_DescriptorIsClosedByTheUser(t *testing.T) {
	eachParked(t, func(t *testing.T, c *Conn, _ *rawPeer, calls chan delivered) {
		nc := c.NetConn()
		if secure, ok := nc.(*tls.Conn); ok {
			nc = secure.NetConn()
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		for reused := false; !reused; {
			b, err := net.Dial("tcp", l.Addr().String())
			must(t, err)
			nc.Close()
			a, err := l.Accept()
			must(t, err)
			next, _ := connectOver(t, a, b, true)
			next.OnMessage(func(Message, error) {})
			reused = next.in.deliver.Load().fd == c.in.deliver.Load().fd
		}
		wantOnlyCall(t, calls, StatusAbnormalClosure)
	})
}

// The messages of a flood are delivered in runs of at most paceMessages, or paceTime.
func TestPace(t *testing.T) {
	p := pace{since: now() + time.Hour}
	for i := 1; !p.isOver(); i++ {
		if i == paceMessages {
			t.Fatalf("%d messages without a pause", i)
		}
	}
	for range paceMessages - paceStep {
		if p.since = now(); p.isOver() {
			t.Fatalf("a pause after %d messages", p.messages)
		}
	}
	p.since = now() - paceTime
	for i := 1; !p.isOver(); i++ {
		if i == paceStep {
			t.Fatal("no pause after paceTime")
		}
	}
}

// A deliveryModel drives a connection with OnMessage and checks that every message is delivered once and in order, to a
// function that was set when the message was sent or later, and that the last function gets one error. The fuzzer takes
// its steps while the goroutines of the package run.
type deliveryModel struct {
	t    *testing.T
	c    *Conn
	peer *net.UnixConn
	wire []byte // frames that the peer has yet to write
	over bool   // a step has ended the connection

	mu      sync.Mutex // guards all below
	set     int        // the number of the last call of OnMessage
	isSet   bool       // that call set a function
	running int        // functions
	got     []int      // messages, in the order of delivery
	oldest  []int      // for each message sent, the oldest function that may get it
	errors  map[int]int
	reads   bool   // functions read another message now and then
	leave   func() // called by the next function that gets a message, and does not return
	left    int    // the function that called leave
	last    int    // the function that OnMessage(nil) ended last; it may get the message that is being read
}

// deliverySteps are chosen by the lower half of a byte, and the upper half is their argument.
var deliverySteps = [16]func(m *deliveryModel, arg int){
	func(m *deliveryModel, arg int) { m.send(1 + arg) },
	func(m *deliveryModel, arg int) { m.write(len(m.wire)) },
	func(m *deliveryModel, arg int) { m.write(1 + arg) },
	func(m *deliveryModel, arg int) { m.onMessage() },
	func(m *deliveryModel, arg int) { m.end() },
	func(m *deliveryModel, arg int) { m.read() },
	func(m *deliveryModel, arg int) { m.event() },
	func(m *deliveryModel, arg int) { m.sweep() },
	func(m *deliveryModel, arg int) { m.sweep(); m.sweep() },
	func(m *deliveryModel, arg int) { m.settle() },
	func(m *deliveryModel, arg int) { m.sweep(); m.sweep(); m.settle() },
	func(m *deliveryModel, arg int) { m.age() },
	func(m *deliveryModel, arg int) { m.mu.Lock(); m.reads = arg%2 == 0; m.mu.Unlock() },
	func(m *deliveryModel, arg int) { m.c.Stats() },
	func(m *deliveryModel, arg int) { m.send(1); m.write(len(m.wire)); m.settle() },
	(*deliveryModel).finish,
}

// finish ends the connection.
func (m *deliveryModel) finish(arg int) {
	m.over = m.over || arg <= 8
	switch arg {
	case 0:
		go m.c.Close(StatusNormalClosure, "")
	case 1:
		m.c.CloseNow()
	case 2:
		m.peer.Close()
	case 3:
		m.peer.CloseWrite()
	case 4:
		m.wire = append(m.wire, towards(true, closeHex(1001, ""))...)
		m.write(len(m.wire))
	case 5:
		m.c.end.expel()
	case 6:
		m.c.NetConn().Close() // no event tells the poller
	case 7:
		m.setLeave(func() { panic("left") })
	case 8:
		m.setLeave(runtime.Goexit)
	}
}

func (m *deliveryModel) setLeave(leave func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leave = leave
}

// send has the peer make messages, each of which is its number.
func (m *deliveryModel) send(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range n {
		m.wire = append(m.wire, towards(true, frameHex(0x81, []byte(strconv.Itoa(len(m.oldest)))))...)
		m.oldest = append(m.oldest, -1)
	}
}

// write writes up to n bytes of the peer's frames.
func (m *deliveryModel) write(n int) {
	m.mu.Lock()
	for i := len(m.oldest) - 1; i >= 0 && m.oldest[i] < 0; i-- {
		m.oldest[i] = m.set
	}
	m.mu.Unlock()
	n = min(n, len(m.wire))
	m.peer.Write(m.wire[:n])
	m.wire = m.wire[n:]
}

func (m *deliveryModel) onMessage() int {
	defer m.mu.Unlock()
	number := m.set + 1
	m.c.OnMessage(func(msg Message, err error) { m.call(number, msg, err) })
	m.mu.Lock() // messages sent from here on are for the new function
	m.set, m.isSet = number, true
	return number
}

func (m *deliveryModel) end() {
	m.c.OnMessage(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isSet {
		m.set, m.isSet, m.last = m.set+1, false, m.set
	}
}

// call is the function of OnMessage with a number.
func (m *deliveryModel) call(number int, msg Message, err error) {
	m.begin()
	defer m.ended()
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.errors[number]++
		return
	}
	reads, leave := m.note(msg.Data, number)
	if reads {
		if _, p, err := m.c.Read(context.Background()); err == nil {
			m.note(p, math.MaxInt)
		}
	}
	if leave != nil {
		leave()
	}
}

func (m *deliveryModel) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running++; m.running > 1 {
		m.t.Error("two calls at once")
	}
}

func (m *deliveryModel) ended() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running--
}

// note judges a message that the function with the given number got. It returns whether the function reads another
// message and how it leaves.
func (m *deliveryModel) note(p []byte, number int) (reads bool, leave func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := strconv.Atoi(string(p))
	switch {
	case err != nil || n != len(m.got):
		m.t.Errorf("message %q after %d others", p, len(m.got))
	case number == m.last && m.oldest[n] == number+1:
		m.last = 0
	case number < m.oldest[n]:
		m.t.Errorf("function %d got message %d, which was sent after %d was set", number, n, m.oldest[n])
	}
	m.got = append(m.got, n)
	if number != math.MaxInt && m.leave != nil {
		leave, m.leave, m.left = m.leave, nil, number
	}
	return m.reads && n%2 == 0, leave
}

// read reads for a millisecond, if no function is set.
func (m *deliveryModel) read() {
	m.settle()
	if m.isSet || m.state() != deliveryIdle {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, p, err := m.c.Read(ctx); err == nil {
		m.note(p, math.MaxInt)
	}
}

// event makes the poller report bytes, whether or not there are any.
func (m *deliveryModel) event() {
	if d := m.c.in.deliver.Load(); d != nil {
		polling.report([]int{max(d.fd, 0)})
	}
}

func (m *deliveryModel) sweep() { polling.sweep() }

// age makes the silence of a parked connection long, and the connection due.
func (m *deliveryModel) age() {
	if d := m.c.in.deliver.Load(); d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.since -= time.Hour
		if d.state == deliveryParked {
			polling.setDue(d, d.fd, 1)
		}
	}
}

func (m *deliveryModel) state() deliveryState {
	d := m.c.in.deliver.Load()
	if d == nil {
		return deliveryIdle
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// settle lets the goroutines of the package run until the connection has none, or for a while.
func (m *deliveryModel) settle() {
	for range 200 {
		if s := m.state(); s == deliveryIdle || s == deliveryParked {
			return
		}
		runtime.Gosched()
	}
}

// check ends the connection, unless a step has ended it, and judges the deliveries.
func (m *deliveryModel) check() {
	last := m.onMessage()
	if !m.over {
		m.send(1)
		m.write(len(m.wire))
		until(m.t, "all messages were delivered", func() bool { return m.count(func() int { return len(m.oldest) - len(m.got) }) == 0 })
	}
	m.c.CloseNow()
	d := m.c.in.deliver.Load()
	until(m.t, "the last call has returned", func() bool {
		return m.state() == deliveryIdle && m.count(func() int { return m.running }) == 0
	})
	m.event()
	m.sweep()
	m.settle()
	m.mu.Lock()
	defer m.mu.Unlock()
	for number := range last + 1 {
		switch n := m.errors[number]; {
		case n > 1, n > 0 && number == m.left, n == 0 && number == last && last != m.left:
			m.t.Errorf("function %d of %d got %d errors", number, last, n)
		}
	}
	polling.mu.Lock()
	defer polling.mu.Unlock()
	if polling.holds(d, d.fd) {
		m.t.Error("the poller holds a connection that has ended")
	}
}

func (m *deliveryModel) count(f func() int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f()
}

// socketPair returns the two ends of a unix connection without a name.
func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		nc, err := net.FileConn(file)
		file.Close()
		must(t, err)
		ends[i] = nc.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// FuzzDelivery takes steps at random: bytes and events that come, sweeps, calls of OnMessage, reads, and ends.
func FuzzDelivery(f *testing.F) {
	for _, steps := range []string{
		"\x03\x0a\x0e\x0a\x30\x01\x09\x0a",             // parked, woken by one message, then by several
		"\x03\x0a\x10\x02\x0a\x02\x0a\x12\x09\x0a",     // messages in pieces
		"\x03\x0a\x06\x06\x07\x0b\x06\x0b\x07\x0e",     // events and sweeps without a reason
		"\x03\x0a\x04\x0e\x05\x03\x0e\x04\x30\x01\x05", // ended, read by others, set again
		"\x03\x03\x0a\x03\x0e\x04\x03\x04\x03\x0e\x08", // set again and again
		"\x03\x0c\x0a\x70\x01\x09\x08\x03\x0e",         // reads inside the function
		"\x03\x0a\x0d\x0e\x0d\x08\x0d\x0e",             // Stats takes the turn
		"\x03\x0a\x0f", "\x03\x0a\x1f", "\x03\x0a\x2f\x03", "\x03\x0a\x3f", "\x03\x0a\x4f", "\x03\x0a\x5f", "\x03\x0a\x6f\x03",
		"\x03\x0a\x7f\x0e\x03\x03", "\x03\x0a\x8f\x0e\x03", // what ends a parked connection
		"\x03\x20\x01\x0f", "\x03\x20\x01\x1f\x03", "\x03\x20\x01\x2f\x04", "\x03\x20\x01\x3f", "\x03\x20\x4f\x03", "\x03\x7f\x20\x01\x03",
		"\x1f\x03", "\x03\x04\x2f\x03\x04",
	} {
		f.Add([]byte(steps))
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		a, b := socketPair(t)
		defer b.Close()
		c := newConn(a, testConfig(true, func(cfg *config) { cfg.keepAlive = time.Hour; cfg.errorLog = log.New(io.Discard, "", 0) }))
		m := &deliveryModel{t: t, c: c, peer: b, errors: make(map[int]int)}
		b.SetDeadline(time.Now().Add(10 * time.Second))
		for _, step := range steps[:min(len(steps), 100)] {
			deliverySteps[step%16](m, int(step/16))
		}
		m.check()
		until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() < 100 })
	})
}
