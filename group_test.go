package websocket

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
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

// "The zero value is ready."
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

// Broadcast "returns how many took it": one that is closing does not, nor one that has ended.
func TestGroup_Broadcasts_AndCounts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		var peers []*rawPeer
		for i := range 20 {
			c, p := connectRaw(t, i%2 == 0)
			g.Add(c)
			peers = append(peers, p)
		}
		closing, _ := connectRaw(t, true)
		g.Add(closing)
		closed := background(func() error { return closing.Close(StatusNormalClosure, "") })
		pending(t, "Close", closed)
		m := prepare(t, []byte("Hello"))
		for range 3 {
			wantTaken(t, &g, m, 20)
		}
		for _, p := range peers {
			p.expect("82 05 48656c6c6f", "82 05 48656c6c6f", "82 05 48656c6c6f")
			p.quiet()
		}
		<-closed
		wantTaken(t, &g, m, 20)
		if g.Len() != 20 {
			t.Errorf("%d are there", g.Len())
		}
	})
}

// broadcastUntilRefused broadcasts until one of two does not take it. The other reads each message.
func broadcastUntilRefused(t *testing.T, g *Group, quick *rawPeer) {
	t.Helper()
	m := prepare(t, pattern(90))
	start := time.Now()
	for n, took := 0, 2; took == 2; n++ {
		if took = g.Broadcast(m); took < 1 || n > 11 {
			t.Fatalf("message %d of 90 bytes, with a limit of 1000 pending: %d took it", n, took)
		}
		quick.expect(frameHex(0x82, pattern(90)))
	}
	took(t, "the broadcasts", start, 0)
}

// besideQuick returns a group of slow, which is sending a frame that its peer does not read, and of a quick connection.
func besideQuick(t *testing.T, slow *Conn) (g *Group, quick *rawPeer, blocked <-chan error) {
	c, p := connectRaw(t, true, smallPending)
	g = new(Group)
	g.Add(slow)
	g.Add(c)
	return g, p, block(t, slow)
}

// wantLeft demands how many are in g, and that slow has nothing pending.
func wantLeft(t *testing.T, g *Group, slow *Conn, want int) {
	t.Helper()
	wantPending(t, slow, 0)
	if g.Len() != want {
		t.Errorf("%d are in the group, want %d", g.Len(), want)
	}
}

// wantExpelled demands the error of a slow consumer.
func wantExpelled(t *testing.T, what string, err error) {
	t.Helper()
	wantError(t, what, err, ErrBacklog, StatusTryAgainLater)
}

// "A slow consumer of Broadcast: its pending messages are dropped, the frame under way is finished, 1013 follows".
func TestGroup_Broadcasts_ToSlowConsumer(t *testing.T) {
	eachWire(t, func(t *testing.T, slow *Conn, sp *rawPeer) {
		g, qp, blocked := besideQuick(t, slow)
		waits := background(func() error { return slow.Write(patience(t), BinaryMessage, make([]byte, 2000)) })
		pending(t, "a Write beyond MaxPending", waits)
		read := background(func() error { return readOne(patience(t), slow).err })
		pending(t, "Read", read)
		broadcastUntilRefused(t, g, qp)
		wantExpelled(t, "Write that waited", <-waits)
		wantExpelled(t, "Read that waited", <-read)
		wantExpelled(t, "Read", readOne(patience(t), slow).err)
		wantExpelled(t, "Ping", pingError(patience(t), slow))
		for name, write := range waysToWrite {
			wantExpelled(t, name, write(patience(t), slow, BinaryMessage, nil))
		}
		if _, errs := collect(slow, patience(t)); len(errs) != 1 {
			t.Errorf("Messages yields %v", errs)
		} else {
			wantExpelled(t, "Messages", errs[0])
		}
		if err := slow.Close(StatusNormalClosure, ""); err == nil {
			t.Error("Close of a connection that was expelled: no error")
		}
		if f := sp.next(); f.first != 0x82 || len(f.payload) != 300<<10 {
			t.Errorf("the frame under way: %v", f)
		}
		if err := <-blocked; err != nil {
			t.Errorf("the Write of the frame under way: %v", err)
		}
		sp.expectClose(StatusTryAgainLater)
		sp.send(closeHex(1013, ""))
		wantLeft(t, g, slow, 1)
		wantExpelled(t, "context.Cause", context.Cause(slow.Context()))
		sp.expectEnd()
		wantTaken(t, g, prepare(t, []byte("a")), 1)
		qp.expect("82 01 61")
	}, smallPending)
}

// The frame that is being sent may be a broadcast one.
func TestGroup_Broadcasts_LargeMessagesToSlowConsumer(t *testing.T) {
	eachWire(t, func(t *testing.T, slow *Conn, p *rawPeer) {
		var g Group
		g.Add(slow)
		large := prepare(t, pattern(300<<10))
		wantTaken(t, &g, large, 1) // with nothing pending one of any size
		synctest.Wait()
		wantTaken(t, &g, large, 0)
		wantTaken(t, &g, large, 0)
		p.expect(frameHex(0x82, pattern(300<<10)))
		p.expectClose(StatusTryAgainLater)
		p.send(closeHex(1013, ""))
		wantLeft(t, &g, slow, 0)
	}, smallPending)
}

// "... and CloseTimeout later the connection is cut", whether the peer reads and does not answer, or does not read.
func TestGroup_Broadcasts_ToSlowConsumerThatNeverAnswers(t *testing.T) {
	for name, readsAll := range map[string]bool{"ReadsAll": true, "ReadsNothing": false} {
		t.Run(name, func(t *testing.T) {
			eachWire(t, func(t *testing.T, slow *Conn, sp *rawPeer) {
				g, qp, blocked := besideQuick(t, slow)
				start := time.Now()
				broadcastUntilRefused(t, g, qp)
				if readsAll {
					sp.next()
					sp.expectClose(StatusTryAgainLater)
					if err := <-blocked; err != nil {
						t.Error(err)
					}
				}
				pass(testCloseTimeout - time.Millisecond)
				if slow.Context().Err() != nil {
					t.Error("it was cut too early")
				}
				<-slow.Context().Done()
				took(t, "the cut", start, testCloseTimeout)
				if !readsAll {
					wantExpelled(t, "the Write under way", <-blocked)
				}
				wantLeft(t, g, slow, 1)
			}, smallPending)
		})
	}
}

// "What an open Writer holds back does not count": its peer is quick, and gets all of it once the Writer is closed.
func TestGroup_Broadcasts_BesideOpenWriter(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, size := range []int{0, 5000} { // bytes that the Writer has sent
			var g Group
			c, p := connectRaw(t, server, smallPending)
			g.Add(c)
			w := openWriter(t, patience(t), c, BinaryMessage)
			w.Write(pattern(size))
			p.drain()
			var want []string
			for i := range 100 {
				b := fmt.Appendf(nil, "%0100d", i)
				switch n := g.Broadcast(prepare(t, b)); {
				case n == 1:
					want = append(want, frameHex(0x82, b))
				case i < 9:
					t.Fatalf("broadcast %d of 100 bytes was not taken, with a limit of 1000", i)
				}
			}
			synctest.Wait()
			if c.Context().Err() != nil || g.Len() != 1 {
				t.Fatalf("the connection was expelled: %v", context.Cause(c.Context()))
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			for f := p.next(); f.first < 0x80; f = p.next() {
			}
			p.expect(want...)
			p.quiet()
			c.CloseNow()
		}
	})
}

// A member that stays gets every message once and in order, while others come, read a little and end.
func TestGroup_Broadcasts_WhileConnectionsComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const stay = 5
		var g Group
		got := make(chan string, stay)
		for range stay {
			server, client := Pipe(&Options{Group: &g, KeepAlive: -1}, &Options{KeepAlive: -1})
			defer server.CloseNow()
			defer client.CloseNow()
			go func() {
				for m := range client.Messages(t.Context()) {
					got <- string(m.Data)
				}
			}()
		}
		var churn sync.WaitGroup
		for i := range 4 {
			churn.Go(func() { comeAndGo(t, &g, uint64(i)) })
		}
		gone := make(chan struct{})
		go func() { churn.Wait(); close(gone) }()
		for i, running := 0, true; running; i++ {
			select {
			case <-gone:
				running = false
			default:
			}
			if n := g.Broadcast(prepare(t, fmt.Append(nil, i))); n < stay {
				t.Fatalf("message %d: %d of %d that stay took it", i, n, stay)
			}
			for range stay {
				if s := <-got; s != fmt.Sprint(i) {
					t.Fatalf("%q came, want %d", s, i)
				}
			}
		}
		synctest.Wait()
		if g.Len() != stay {
			t.Errorf("%d are in the group, want %d", g.Len(), stay)
		}
	})
}

// comeAndGo joins g again and again. Each connection gets messages without a gap.
func comeAndGo(t *testing.T, g *Group, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 5))
	for range 40 {
		server, client := Pipe(&Options{Group: g, KeepAlive: -1}, &Options{KeepAlive: -1})
		last := -1
		for range r.IntN(8) {
			_, p, err := client.Read(t.Context())
			var i int
			if fmt.Sscan(string(p), &i); err != nil || last >= 0 && i != last+1 {
				t.Errorf("%q came behind %d: %v", p, last, err)
				break
			}
			last = i
		}
		switch r.IntN(4) {
		case 0:
			go server.Close(StatusGoingAway, "")
			for range client.Messages(t.Context()) {
			}
		case 1:
			g.Remove(server)
		case 2:
			client.CloseNow()
			server.Read(t.Context())
		}
		server.CloseNow()
		client.CloseNow()
	}
}

// A connection that ends while Broadcast finds it too slow keeps its own verdict.
func TestGroup_Broadcasts_ToConnectionThatEndsMeanwhile(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, _ := connectRaw(t, server)
		c.CloseNow()
		c.end.expel()
		wantError(t, "Send", c.Send(BinaryMessage, nil), net.ErrClosed)
	})
}
