//go:build (linux || darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
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

// eachParked runs f with a server's Conn that is parked, for each of parkedWires. The calls of its function go to calls.
func eachParked(t *testing.T, f func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered), change ...func(*config)) {
	t.Helper()
	for name, ends := range parkedWires {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t)
			c, p := connectOver(t, a, b, true, change...)
			p.nc.SetDeadline(time.Now().Add(20 * time.Second))
			got, calls := deliveries()
			c.OnMessage(got)
			untilParked(t, c)
			f(t, c, p, calls)
		})
	}
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
	if last.data != "" {
		t.Errorf("the last call got the message %.40q", last.data)
	}
	pass(10 * time.Millisecond)
	if len(calls) > 0 {
		t.Errorf("after the last call: %v", <-calls)
	}
}

// A parked connection has no goroutine. Messages are delivered in order, whether they wake it or find it awake, and pings
// are answered.
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
				if err := returnedSoon(t, "the end", background(func() error { <-c.end.closed(); return nil })); err != nil {
					t.Error(err)
				}
			}, func(cfg *config) { cfg.closeTimeout = 50 * time.Millisecond })
		})
	}
}

// A parked connection sends a ping when the peer is silent for KeepAlive, and gives it up when it stays silent.
func TestOnMessage_Parked_KeepsAlive(t *testing.T) {
	eachParked(t, func(t *testing.T, c *Conn, p *rawPeer, calls chan delivered) {
		ping := p.next()
		if ping.first != 0x89 {
			t.Fatalf("not a ping: %v", ping)
		}
		p.send(frameHex(0x8a, ping.payload))
		if ping := p.next(); ping.first != 0x89 {
			t.Fatalf("not a ping: %v", ping)
		}
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
		a, b := tcpEnds(t)
		c, p := connectOver(t, a, b, true)
		c.OnMessage(func(m Message, err error) {
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
		untilParked(t, c)
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
		a, b := tcpEnds(t)
		c, p := connectOver(t, a, b, true, func(cfg *config) { cfg.errorLog = log.New(io.Discard, "", 0) })
		c.OnMessage(func(m Message, err error) {
			switch i % 3 {
			case 0:
				panic("oops")
			case 1:
				runtime.Goexit()
			}
			served <- delivered{string(m.Data), err}
		})
		untilParked(t, c)
		peers = append(peers, p)
	}
	for _, p := range peers {
		p.send("81 01 31")
	}
	for range conns / 3 {
		if got := returnedSoon(t, "a call", served); got != (delivered{"1", nil}) {
			t.Errorf("%v", got)
		}
	}
	for i, p := range peers {
		if i%3 < 2 {
			p.nc.SetDeadline(time.Now().Add(20 * time.Second))
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
		a, b := tcpEnds(t)
		c, p := connectOver(t, a, b, true)
		f, calls := deliveries()
		c.OnMessage(f)
		untilParked(t, c)
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
		a, b := tcpEnds(t)
		c, p := connectOver(t, a, b, true, func(cfg *config) { cfg.keepAlive = 500 * time.Millisecond })
		f, _ := deliveries()
		c.OnMessage(f)
		untilParked(t, c)
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

// If the user closes the descriptor of a parked connection, nothing tells. The connection ends when the descriptor is used
// again, at the latest.
func TestOnMessage_Parked_DescriptorIsClosedByTheUser(t *testing.T) {
	for name, ends := range parkedWires {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t)
			c, _ := connectOver(t, a, b, true)
			f, calls := deliveries()
			c.OnMessage(f)
			untilParked(t, c)
			nc := c.NetConn()
			if secure, ok := nc.(*tls.Conn); ok {
				nc = secure.NetConn()
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for reused := false; !reused; {
				if b, err = net.Dial("tcp", l.Addr().String()); err != nil {
					t.Fatal(err)
				}
				nc.Close()
				if a, err = l.Accept(); err != nil {
					t.Fatal(err)
				}
				next, _ := connectOver(t, a, b, true)
				next.OnMessage(func(Message, error) {})
				reused = next.in.deliver.Load().fd == c.in.deliver.Load().fd
			}
			wantOnlyCall(t, calls, StatusAbnormalClosure)
		})
	}
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
