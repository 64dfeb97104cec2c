package websocket

import (
	"context"
	"errors"
	"slices"
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
	if n := g.Broadcast(m); n != want {
		t.Errorf("%d took it, want %d", n, want)
	}
}

// The zero value of a Group is an empty group.
func TestGroup_ZeroValue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		c, _ := connectRaw(t, true)
		wantMembers(t, &g)
		g.Remove(c)
		wantTaken(t, &g, prepare(t, []byte("a")), 0)
		if err := g.Shutdown(t.Context(), StatusGoingAway, ""); err != nil {
			t.Errorf("Shutdown of nobody: %v", err)
		}
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
		if seen != 11 {
			t.Errorf("a loop that was left went on")
		}
	})
}

// memberEndings are the ways in which a connection ends.
var memberEndings = map[string]func(c *Conn, p *rawPeer){
	"Close": func(c *Conn, p *rawPeer) {
		go c.Close(StatusNormalClosure, "")
		p.expectClose(StatusNormalClosure)
		p.send(closeHex(1000, ""))
	},
	"CloseUnanswered":  func(c *Conn, p *rawPeer) { c.Close(StatusNormalClosure, "") },
	"CloseNow":         func(c *Conn, p *rawPeer) { c.CloseNow() },
	"PeerCloses":       func(c *Conn, p *rawPeer) { reads(p.t, c); p.send(closeHex(1001, "bye")) },
	"PeerBreaksRule":   func(c *Conn, p *rawPeer) { reads(p.t, c); p.send("83 00") },
	"PeerSendsTooMuch": func(c *Conn, p *rawPeer) { reads(p.t, c); p.send("82 7f 0000000000100001") },
	"PeerVanishes":     func(c *Conn, p *rawPeer) { reads(p.t, c); p.nc.Close() },
	"PeerVanishesUnseen": func(c *Conn, p *rawPeer) {
		p.nc.Close()
		c.Write(patience(p.t), TextMessage, []byte("are you there?"))
	},
	"PeerIsSilent":     func(c *Conn, p *rawPeer) { reads(p.t, c) },
	"PeerTakesNothing": func(c *Conn, p *rawPeer) { block(p.t, c) },
	"WriteCutShort": func(c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(p.t.Context(), time.Second)
		defer cancel()
		c.Write(ctx, BinaryMessage, make([]byte, 300<<10))
	},
	"WriterCutShort": func(c *Conn, p *rawPeer) {
		ctx, cancel := context.WithCancel(p.t.Context())
		w, _ := c.Writer(ctx, BinaryMessage)
		w.Write(make([]byte, 50<<10))
		cancel()
	},
	"MessageAfterCloseRead": func(c *Conn, p *rawPeer) { c.CloseRead(p.t.Context()); p.send("82 00") },
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
	for name, end := range memberEndings {
		t.Run(name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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
		})
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
			if err := g.Shutdown(testContext(t), StatusGoingAway, ""); err != nil {
				t.Fatal(err)
			}
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
			if err := unpanicked(call); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		wantMembers(t, &g, c)
		p.quiet()
		wantTaken(t, &g, prepare(t, []byte("a")), 1)
		p.expect("82 01 61")
	})
}
