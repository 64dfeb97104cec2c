package websocket

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// wantMembers demands that these, and no others, are in g.
func wantMembers(t *testing.T, g *Group, want ...*Conn) {
	t.Helper()
	got := slices.Collect(g.All())
	missing := slices.DeleteFunc(slices.Clone(want), func(c *Conn) bool { return slices.Contains(got, c) })
	if g.Len() != len(want) || len(got) != len(want) || len(missing) > 0 {
		t.Errorf("the group has %d members and yields %d; want %d, of which %d are missing", g.Len(), len(got), len(want), len(missing))
	}
}

// wantTaken broadcasts m, and demands how many took it.
func wantTaken(t *testing.T, g *Group, m *PreparedMessage, want int) {
	t.Helper()
	wantEqual(t, "members that took it", g.Broadcast(m), want)
}

// The zero value of a Group is an empty group.
func TestGroup_ZeroValue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		c, _ := connectRaw(t, true)
		wantMembers(t, &g)
		g.Remove(c)
		wantTaken(t, &g, prepare(t, []byte("a")), 0)
		wantOK(t, "Shutdown of nobody", g.Shutdown(t.Context(), StatusGoingAway, ""))
		if g.Add(c) {
			t.Error("Add to a group that is shut down")
		}
		if c.Context().Err() != nil {
			t.Errorf("a connection that was refused: %v", context.Cause(c.Context()))
		}
	})
}

// A connection may be in many groups, is in each once, and lives on when it is removed.
func TestGroup_HasEachMemberOnce(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		var g, h Group
		a, pa := connectRaw(t, server)
		b, pb := connectRaw(t, server)
		for _, c := range []*Conn{a, a, b} {
			if !g.Add(c) || !h.Add(c) {
				t.Fatal("Add is false")
			}
		}
		wantMembers(t, &g, a, b)
		g.Remove(a)
		g.Remove(a)
		wantMembers(t, &g, b)
		wantMembers(t, &h, a, b)
		wantTaken(t, &g, prepare(t, []byte("g")), 1)
		wantTaken(t, &h, prepare(t, []byte("h")), 2)
		pa.expect("82 01 68")
		pb.expect("82 01 67", "82 01 68")
		g.Add(a)
		wantMembers(t, &g, a, b)
		a.CloseNow()
		synctest.Wait()
		wantMembers(t, &g, b)
		wantMembers(t, &h, b)
	})
}

// A loop over a group may change it and may break: it yields the members that the group had when it began.
func TestGroup_All_WhileItChanges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g, h Group
		var first []*Conn
		for range 10 {
			c, _ := connectRaw(t, true)
			g.Add(c)
			first = append(first, c)
		}
		seen := 0
		for c := range g.All() {
			seen++
			g.Remove(c)
			h.Add(c)
			late, _ := connectRaw(t, true)
			g.Add(late)
		}
		if seen != 10 || g.Len() != 10 || h.Len() != 10 {
			t.Errorf("%d seen, %d came, %d went over", seen, g.Len(), h.Len())
		}
		wantMembers(t, &h, first...)
		for range g.All() {
			seen++
			break
		}
		wantEqual(t, "members seen, with a loop that was left", seen, 11)
	})
}

// memberEndings are ways in which a connection ends besides endings. They need a bubble.
var memberEndings = map[string]func(c *Conn, p *rawPeer){
	"PeerVanishesUnseen": func(c *Conn, p *rawPeer) {
		p.nc.Close()
		c.Write(patience(p.t), TextMessage, []byte("are you there?"))
	},
	"PeerIsSilent":     func(c *Conn, p *rawPeer) { reads(p.t, c) },
	"PeerTakesNothing": func(c *Conn, p *rawPeer) { block(p.t, c) },
	"WriterCutShort": func(c *Conn, p *rawPeer) {
		ctx, cancel := context.WithCancel(p.t.Context())
		w, _ := c.Writer(ctx, BinaryMessage)
		w.Write(make([]byte, 50<<10))
		cancel()
	},
	"SlowConsumer": func(c *Conn, p *rawPeer) {
		var g Group
		g.Add(c)
		block(p.t, c)
		c.Send(BinaryMessage, make([]byte, testMaxPending))
		g.Broadcast(prepare(p.t, []byte("one too many")))
	},
	"AnotherGroupIsShutDown": func(c *Conn, p *rawPeer) {
		var g Group
		g.Add(c)
		g.Shutdown(p.t.Context(), StatusServiceRestart, "")
	},
}

// A connection "leaves them all when it ends", and cannot come back. Another one beside it stays.
func TestGroup_IsLeft_AtTheEndOfTheConnection(t *testing.T) {
	all := maps.Clone(memberEndings)
	maps.Copy(all, endings)
	for name, end := range all {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			var groups [3]Group
			other, _ := connectRaw(t, p.server)
			for i := range groups {
				groups[i].Add(c)
				groups[i].Add(other)
			}
			left := make(chan int, 1)
			context.AfterFunc(c.Context(), func() { left <- groups[0].Len() }) // such as Shutdown
			end(c, p)
			if n := <-left; n != 1 {
				t.Error("the context was done before the connection had left its group")
			}
			synctest.Wait()
			for i := range groups {
				wantMembers(t, &groups[i], other)
				if groups[i].Add(c) {
					t.Error("Add of a connection that has ended")
				}
				wantMembers(t, &groups[i], other)
			}
			pass(time.Minute)
			wantPending(t, c, 0)
		}, keepAlive)
	}
}

func TestGroup_ClosingIsSignalled(t *testing.T) {
	if (*Group)(nil).closing() != nil {
		t.Error("a nil Group is closing")
	}
	for _, askedBefore := range []bool{true, false} {
		var g Group
		if askedBefore {
			select {
			case <-g.closing():
				t.Error("signalled before Shutdown")
			default:
			}
		}
		for range 2 {
			must(t, g.Shutdown(soon(t), StatusGoingAway, ""))
			<-g.closing()
		}
	}
}

// A nil connection is not added, and no member is expelled for an invalid message.
func TestGroup_Misuse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		c, p := connectRaw(t, true)
		g.Add(c)
		orTold := func(ok bool) error {
			if !ok {
				return errors.New("not refused")
			}
			return nil
		}
		for name, call := range map[string]func() error{
			"Add":               func() error { return orTold(!g.Add(nil)) },
			"Remove":            func() error { g.Remove(nil); return nil },
			"Broadcast of nil":  func() error { return orTold(g.Broadcast(nil) == 0) },
			"Broadcast of zero": func() error { return orTold(g.Broadcast(new(PreparedMessage)) == 0) },
			"Shutdown without a context": func() error {
				var g Group
				c, _ := connectRaw(t, true)
				g.Add(c)
				return orTold(g.Shutdown(noContext, StatusGoingAway, "") != nil)
			},
		} {
			wantOK(t, name, unpanicked(call))
		}
		wantMembers(t, &g, c)
		p.quiet()
		wantTaken(t, &g, prepare(t, []byte("a")), 1)
		p.expect("82 01 61")
	})
}

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
		wrong := []CloseError{{0, ""}, {StatusNoStatusRcvd, ""}, {65535, ""}, {StatusGoingAway, strings.Repeat("a", 124)}, {StatusGoingAway, "\xff"}}
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

// http.Server.Shutdown does not know of connections that were hijacked, and waits for the streams of HTTP/2. With
// Group.Shutdown it drains the whole server.
func TestGroup_Shutdown_WithServer(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			var g Group
			s := tr.start(t, Handler(&Options{Group: &g}, echoMessages))
			shut := make(chan error, 1)
			s.Config.RegisterOnShutdown(func() { shut <- g.Shutdown(soon(t), StatusGoingAway, "deploy") })
			var ends []<-chan error
			for range 20 {
				ends = append(ends, reads(t, dialed(t, s.URL, &Options{HTTPClient: s.Client(), HTTP2: tr.http2})))
			}
			wantOK(t, "Shutdown of the http.Server", s.Config.Shutdown(soon(t)))
			wantOK(t, "Shutdown of the group", <-shut)
			for _, end := range ends {
				wantClosed(t, "a client's Read", <-end, StatusGoingAway, "deploy")
			}
			wantMembers(t, &g)
		})
	}
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
	shut := background(func() error { return g.Shutdown(soon(t), StatusGoingAway, "") })
	p.expectClose(StatusGoingAway)
	e := dialFails(t, soon(t), s.URL, nil)
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
