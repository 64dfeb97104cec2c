package websocket

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Shutdown closes every connection with its code and reason. The Group is empty when it returns.
func TestGroup_Shutdown_OfAll(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g, other Group
		for i := range 10 {
			c, p := connectRaw(t, i%2 == 0)
			g.Add(c)
			other.Add(c)
			c.Send(TextMessage, []byte("last words"))
			go func() {
				p.expect(frameHex(0x81, []byte("last words")), closeHex(1001, "see you"))
				p.send(closeHex(1001, ""))
				p.expectEnd()
			}()
		}
		members := slices.Collect(g.All())
		start := time.Now()
		wantOK(t, "Shutdown", g.Shutdown(t.Context(), StatusGoingAway, "see you"))
		took(t, "Shutdown", start, 0)
		wantMembers(t, &g)
		wantMembers(t, &other)
		for _, c := range members {
			wantError(t, "Context", context.Cause(c.Context()), net.ErrClosed)
			if g.Add(c) {
				t.Error("Add after Shutdown")
			}
		}
		late, lp := connectRaw(t, true)
		if g.Add(late) || !other.Add(late) {
			t.Error("the group that was shut down takes one, or the other does not")
		}
		lp.quiet()
		wantOK(t, "a second Shutdown", g.Shutdown(t.Context(), StatusGoingAway, ""))
	})
}

// Connections to silent peers are closed in parallel, within one CloseTimeout, whatever they are doing.
func TestGroup_Shutdown_OfSilentPeers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const each = 100
		states := map[string]func(server *Conn){
			"Idle":    func(server *Conn) {},
			"Reads":   func(server *Conn) { go server.Read(t.Context()) },
			"Blocked": func(server *Conn) { go server.Write(t.Context(), BinaryMessage, make([]byte, 100<<10)) },
			"Pending": func(server *Conn) { server.Send(BinaryMessage, make([]byte, 100<<10)) },
			"Streams": func(server *Conn) { server.Writer(t.Context(), BinaryMessage) },
			"Closing": func(server *Conn) { go server.Close(StatusNormalClosure, "") },
			"Failing": func(server *Conn) {
				server.Send(BinaryMessage, make([]byte, 100<<10))
				server.end.fail(&ProtocolError{StatusPolicyViolation, ""})
			},
			"SlowConsumer": func(server *Conn) {
				var g Group
				g.Add(server)
				for g.Broadcast(prepare(t, make([]byte, 800<<10))) == 1 {
				}
			},
		}
		var g Group
		for _, enter := range states {
			for range each {
				server, client := Pipe(&Options{Group: &g, KeepAlive: -1}, nil)
				defer client.CloseNow()
				enter(server)
			}
		}
		synctest.Wait()
		members := slices.Collect(g.All())
		start := time.Now()
		both := background(func() error { return g.Shutdown(t.Context(), StatusServiceRestart, "") })
		wantOK(t, "Shutdown", g.Shutdown(t.Context(), StatusGoingAway, ""))
		if d := time.Since(start); d > testCloseTimeout+10*time.Millisecond {
			t.Errorf("Shutdown of %d silent peers took %v", len(members), d)
		}
		wantOK(t, "Shutdown at the same time", <-both)
		synctest.Wait()
		wantMembers(t, &g)
		for _, c := range members {
			if c.Context().Err() == nil || c.Stats().Pending != 0 {
				t.Fatalf("a connection has not ended, or has %d bytes pending", c.Stats().Pending)
			}
		}
	})
}

// If its ctx ends, Shutdown cuts the other connections as CloseNow does and returns ctx's error with the cause.
func TestGroup_Shutdown_UntilContextEnds(t *testing.T) {
	for name, limit := range map[string]time.Duration{"Second": time.Second, "NoTime": 0} {
		eachWireIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			var g Group
			g.Add(c)
			quick, qp := connectRaw(t, p.server)
			g.Add(quick)
			go func() {
				if f, err := qp.tryNext(); err == nil {
					qp.isClose(f, StatusGoingAway)
					qp.trySend(closeHex(1001, ""))
				}
			}()
			read := reads(t, c)
			ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errEnough)
			defer cancel()
			start := time.Now()
			wantError(t, "Shutdown", g.Shutdown(ctx, StatusGoingAway, ""), context.DeadlineExceeded, errEnough)
			took(t, "Shutdown", start, limit)
			wantError(t, "Read", <-read, net.ErrClosed)
			wantError(t, "CloseNow", c.CloseNow(), net.ErrClosed)
			wantMembers(t, &g)
			if g.Add(c) {
				t.Error("Add after Shutdown")
			}
			if limit > 0 { // or else the end may have been faster
				p.expectClose(StatusGoingAway)
			}
			for f, err := p.tryNext(); err == nil; f, err = p.tryNext() {
				p.isClose(f, StatusGoingAway)
			}
		})
	}
}

// A code or a reason that may not be sent is an error, and nothing is done.
func TestGroup_Shutdown_WithWhatMayNotBeSent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		c, p := connectRaw(t, true)
		g.Add(c)
		wrong := []CloseError{{StatusGoingAway, strings.Repeat("a", 124)}, {StatusGoingAway, "\xff"}}
		for _, code := range []StatusCode{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535} {
			wrong = append(wrong, CloseError{Code: code})
		}
		for _, row := range wrong {
			if err := g.Shutdown(t.Context(), row.Code, row.Reason); err == nil {
				t.Errorf("Shutdown with %d %.10q: no error", row.Code, row.Reason)
			}
		}
		wantMembers(t, &g, c)
		p.quiet()
		other, _ := connectRaw(t, true)
		if !g.Add(other) {
			t.Error("the group takes nobody")
		}
		wantTaken(t, &g, prepare(t, []byte("a")), 2)
		p.expect("82 01 61")
		for _, code := range []StatusCode{1000, 1012, 3000, 4999} {
			var g Group
			c, p := connectRaw(t, true)
			g.Add(c)
			go p.send(closeHex(code, ""))
			if err := g.Shutdown(t.Context(), code, strings.Repeat("a", 123)); err != nil {
				t.Errorf("Shutdown with %d: %v", code, err)
			}
		}
	})
}

// http.Server.Shutdown does not know of the connections. With Group.Shutdown it drains the whole server.
func TestGroup_Shutdown_WithServer(t *testing.T) {
	var g Group
	s := startTCP(t, Handler(&Options{Group: &g}, echoMessages))
	shut := make(chan error, 1)
	s.Config.RegisterOnShutdown(func() { shut <- g.Shutdown(testContext(t), StatusGoingAway, "deploy") })
	var ends []<-chan error
	for range 20 {
		ends = append(ends, reads(t, dialed(t, s.URL, nil)))
	}
	wantOK(t, "Shutdown of the http.Server", s.Config.Shutdown(testContext(t)))
	wantOK(t, "Shutdown of the group", <-shut)
	for _, end := range ends {
		wantClosed(t, "a client's Read", <-end, StatusGoingAway, "deploy")
	}
	wantMembers(t, &g)
}

// While Shutdown waits, Upgrade answers 503 with Retry-After.
func TestGroup_Shutdown_RefusesUpgrades(t *testing.T) {
	var g Group
	s := startTCP(t, Handler(&Options{Group: &g, CloseTimeout: time.Hour}, echoMessages))
	resp, silent, br := ask(t, s, goodRequest)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	silent.Write(towards(true, "81 01 61"))
	p := &rawPeer{t: t, nc: silent, server: true, in: br}
	p.expect("81 01 61")
	shut := background(func() error { return g.Shutdown(testContext(t), StatusGoingAway, "") })
	p.expectClose(StatusGoingAway)
	e := dialFails(t, testContext(t), s.URL, nil)
	if e.StatusCode != http.StatusServiceUnavailable || e.Header.Get("Retry-After") == "" {
		t.Errorf("answered %d with Retry-After %q", e.StatusCode, e.Header.Get("Retry-After"))
	}
	select {
	case err := <-shut:
		t.Errorf("Shutdown returned %v before the connection had ended", err)
	default:
	}
	p.send(closeHex(1001, ""))
	wantOK(t, "Shutdown", <-shut)
}

// A Shutdown of connections that are already ending returns when they have ended.
func TestGroup_Shutdown_WhileConnectionsEnd(t *testing.T) {
	for range 2000 {
		var g Group
		server, client := Pipe(&Options{Group: &g}, nil)
		go client.CloseNow()
		go server.Read(context.Background())
		go server.CloseNow()
		if err := g.Shutdown(t.Context(), StatusGoingAway, ""); err != nil || g.Len() != 0 {
			t.Fatalf("%v, %d members are left", err, g.Len())
		}
		<-server.Context().Done() // a connection leaves its group a moment before its context is done
	}
}

// All methods of Groups and of their connections at once, while the connections end in different ways.
func TestGroup_InStorm(t *testing.T) {
	for name, pair := range map[string]func(t testing.TB) (net.Conn, net.Conn){
		"Memory": func(testing.TB) (net.Conn, net.Conn) { return memPipe() }, "TCP": tcpEnds,
	} {
		t.Run(name, func(t *testing.T) { groupStorm(t, pair) })
	}
}

// stormEnds are the ways in which a connection ends in the storm.
var stormEnds = []func(server, client *Conn){
	func(server, client *Conn) { server.Close(StatusGoingAway, "") },
	func(server, client *Conn) { client.Close(4000, "") },
	func(server, client *Conn) { client.CloseNow() },
	func(server, client *Conn) { server.nc.Close() },
	func(server, client *Conn) {
		for range 3 {
			go server.Close(StatusGoingAway, "")
			go client.Close(StatusNormalClosure, "")
		}
		server.Ping(context.Background())
		client.CloseNow()
		server.CloseNow()
	},
}

func groupStorm(t *testing.T, pair func(testing.TB) (net.Conn, net.Conn)) {
	var groups [2]Group
	var conns []*Conn
	for range stormEnds {
		server, client := newPair(pair(t))
		conns = append(conns, server, client)
	}
	var wg sync.WaitGroup
	for i, c := range conns {
		groups[0].Add(c)
		wg.Go(func() {
			for range c.Messages(context.Background()) {
			}
		})
		wg.Go(func() {
			for r := rand.New(rand.NewPCG(52, uint64(i))); c.Context().Err() == nil; {
				groupAct(t, &groups[r.IntN(2)], c, r)
			}
		})
	}
	for i, end := range stormEnds {
		pass(5 * time.Millisecond)
		end(conns[2*i], conns[2*i+1])
	}
	for i := range groups {
		wg.Go(func() { groups[i].Shutdown(testContext(t), StatusGoingAway, "") })
	}
	wg.Wait()
	for _, c := range conns {
		c.CloseNow()
		<-c.Context().Done()
	}
	for i := range groups {
		wantMembers(t, &groups[i])
	}
}

// groupAct calls one method of g or c.
func groupAct(t *testing.T, g *Group, c *Conn, r *rand.Rand) {
	b := bytes.Repeat([]byte{'a'}, r.IntN(1<<r.IntN(15)))
	switch r.IntN(8) {
	case 0:
		g.Add(c)
	case 1:
		g.Remove(c)
	case 2:
		g.Len()
		for range g.All() {
		}
	case 3, 4:
		g.Broadcast(prepare(t, b))
	case 5:
		c.Send(BinaryMessage, b)
	case 6:
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		c.Write(ctx, BinaryMessage, b)
	case 7:
		c.WritePrepared(context.Background(), prepare(t, b))
	}
}
