package websocket

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Groups: who is in one, broadcasting, slow consumers, shutting down.

// prepare makes a binary message.
func prepare(t testing.TB, p []byte) *PreparedMessage {
	t.Helper()
	m, err := NewPreparedMessage(BinaryMessage, p)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantMembers demands that these, and no others, are in g.
func wantMembers(t *testing.T, g *Group, want ...*Conn) {
	t.Helper()
	got := slices.Collect(g.All())
	missing := slices.DeleteFunc(slices.Clone(want), func(c *Conn) bool { return slices.Contains(got, c) })
	if g.Len() != len(want) || len(got) != len(want) || len(missing) > 0 {
		t.Errorf("the group has %d members and yields %d; want %d, of which %d are missing", g.Len(), len(got), len(want), len(missing))
	}
}

func smallPending(cfg *config) { cfg.maxPending = 1000 }

// "The zero value is ready."
func TestGroup_ZeroValue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		c, _ := connectRaw(t, true)
		wantMembers(t, &g)
		g.Remove(c)
		if n := g.Broadcast(prepare(t, []byte("a"))); n != 0 {
			t.Errorf("Broadcast to nobody: %d took it", n)
		}
		if err := g.Shutdown(t.Context(), StatusGoingAway, ""); err != nil {
			t.Errorf("Shutdown of nobody: %v", err)
		}
		if g.Add(c) {
			t.Error("Add to a group that is shut down")
		}
		if c.failure() != nil {
			t.Errorf("a connection that was refused: %v", c.failure())
		}
	})
}

// A connection may be in many groups, is in each once, and lives on when it is removed.
func TestGroup_Members(t *testing.T) {
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
		if n := g.Broadcast(prepare(t, []byte("g"))); n != 1 {
			t.Errorf("%d took it", n)
		}
		if n := h.Broadcast(prepare(t, []byte("h"))); n != 2 {
			t.Errorf("%d took it", n)
		}
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

// The group may be changed by a loop over it, which goes on with those who were there, and may be left.
func TestGroup_ChangedInLoop(t *testing.T) {
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

// memberEndings are ways in which a connection ends, whoever ends it.
var memberEndings = map[string]func(t *testing.T, c *Conn, p *rawPeer){
	"Close": func(t *testing.T, c *Conn, p *rawPeer) {
		go c.Close(StatusNormalClosure, "")
		p.expectClose(StatusNormalClosure)
		p.send(closeHex(1000, ""))
	},
	"CloseUnanswered": func(t *testing.T, c *Conn, p *rawPeer) { c.Close(StatusNormalClosure, "") },
	"CloseNow":        func(t *testing.T, c *Conn, p *rawPeer) { c.CloseNow() },
	"PeerCloses": func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		p.send(closeHex(1001, "bye"))
	},
	"PeerBreaksRule": func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		p.send("83 00")
	},
	"PeerSendsTooMuch": func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		p.send("82 7f 0000000000100001")
	},
	"PeerVanishes": func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		p.nc.Close()
	},
	"PeerVanishesUnseen": func(t *testing.T, c *Conn, p *rawPeer) {
		p.nc.Close()
		c.Write(patience(t), TextMessage, []byte("are you there?"))
	},
	"PeerIsSilent":     func(t *testing.T, c *Conn, p *rawPeer) { reads(t, c) },
	"PeerTakesNothing": func(t *testing.T, c *Conn, p *rawPeer) { block(t, c) },
	"WriteCutShort": func(t *testing.T, c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.Write(ctx, BinaryMessage, make([]byte, 300<<10))
	},
	"WriterCutShort": func(t *testing.T, c *Conn, p *rawPeer) {
		ctx, cancel := context.WithCancel(t.Context())
		w, _ := c.Writer(ctx, BinaryMessage)
		w.Write(make([]byte, 50<<10))
		cancel()
	},
	"MessageAfterCloseRead": func(t *testing.T, c *Conn, p *rawPeer) {
		c.CloseRead(t.Context())
		p.send("82 00")
	},
	"SlowConsumer": func(t *testing.T, c *Conn, p *rawPeer) {
		var g Group
		g.Add(c)
		block(t, c)
		c.Send(BinaryMessage, make([]byte, testMaxPending))
		g.Broadcast(prepare(t, []byte("one too many")))
	},
	"AnotherGroupIsShutDown": func(t *testing.T, c *Conn, p *rawPeer) {
		var g Group
		g.Add(c)
		g.Shutdown(t.Context(), StatusServiceRestart, "")
	},
}

// "leaves them all when it ends", and cannot come back. Who stood beside it stays.
func TestGroup_IsLeftAtTheEnd(t *testing.T) {
	for name, end := range memberEndings {
		t.Run(name, func(t *testing.T) {
			eachRoleByPipe(t, func(t *testing.T, server bool) {
				var groups [3]Group
				c, p := connectRaw(t, server, keepAlive)
				other, _ := connectRaw(t, server)
				for i := range groups {
					groups[i].Add(c)
					groups[i].Add(other)
				}
				end(t, c, p)
				<-c.Context().Done()
				synctest.Wait()
				for i := range groups {
					wantMembers(t, &groups[i], other)
					if groups[i].Add(c) {
						t.Error("Add of a connection that has ended")
					}
					wantMembers(t, &groups[i], other)
				}
				pass(time.Minute)
				if n := c.Stats().Pending; n != 0 {
					t.Errorf("%d bytes are pending", n)
				}
			})
		})
	}
}

// Broadcast "returns how many took it": one that is closing does not, nor one that has ended.
func TestGroup_BroadcastCounts(t *testing.T) {
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
		m, _ := NewPreparedMessage(TextMessage, []byte("Hello"))
		for range 3 {
			if n := g.Broadcast(m); n != 20 {
				t.Errorf("%d of 20 took it, beside one that is closing", n)
			}
		}
		for _, p := range peers {
			p.expect("81 05 48656c6c6f", "81 05 48656c6c6f", "81 05 48656c6c6f")
			p.quiet()
		}
		<-closed
		if n := g.Broadcast(m); n != 20 || g.Len() != 20 {
			t.Errorf("%d took it, %d are there", n, g.Len())
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
	if d := time.Since(start); d > 0 {
		t.Errorf("the slow consumer held the others up for %v", d)
	}
}

// slowAndQuick returns a group of two, the first of which has a frame under way that its peer does not read.
func slowAndQuick(t *testing.T, server bool) (g *Group, slow *Conn, sp, qp *rawPeer, blocked <-chan error) {
	g = new(Group)
	slow, sp = connectRaw(t, server, smallPending)
	quick, qp := connectRaw(t, server, smallPending)
	g.Add(slow)
	g.Add(quick)
	return g, slow, sp, qp, block(t, slow)
}

// "A slow consumer of Broadcast: its pending messages are dropped, the frame under way is finished, 1013 follows".
func TestGroup_BroadcastToSlowConsumer(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		g, slow, sp, qp, blocked := slowAndQuick(t, server)
		waits := background(func() error { return slow.Write(patience(t), BinaryMessage, make([]byte, 2000)) })
		pending(t, "a Write beyond MaxPending", waits)
		read := background(func() error { return readOne(patience(t), slow).err })
		pending(t, "Read", read)
		broadcastUntilRefused(t, g, qp)
		wantExpelled(t, "Write that waited", <-waits)
		wantExpelled(t, "Send", slow.Send(BinaryMessage, nil))
		wantExpelled(t, "Read that waited", <-read)
		wantExpelled(t, "Read", readOne(patience(t), slow).err)
		wantExpelled(t, "Ping", pingError(slow))
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
		synctest.Wait()
		wantExpelled(t, "context.Cause", context.Cause(slow.Context()))
		if n := slow.Stats().Pending; n != 0 || g.Len() != 1 {
			t.Errorf("%d bytes are pending, %d are in the group", n, g.Len())
		}
		sp.expectEnd()
		if n := g.Broadcast(prepare(t, []byte("a"))); n != 1 {
			t.Errorf("%d took it", n)
		}
		qp.expect("82 01 61")
	})
}

// wantExpelled demands the error of a slow consumer.
func wantExpelled(t *testing.T, what string, err error) {
	t.Helper()
	wantError(t, what, err, ErrBacklog, StatusTryAgainLater)
}

// "What an open Writer holds back does not count": its peer is quick, and gets all of it once the Writer is closed.
func TestGroup_Broadcasts_BesideOpenWriter(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, size := range []int{0, 5000} { // of what the Writer has sent
			var g Group
			c, p := connectRaw(t, server, smallPending)
			g.Add(c)
			w, err := c.Writer(patience(t), BinaryMessage)
			if err != nil {
				t.Fatal(err)
			}
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

// The neighbour: behind a Writer whose frame the peer does not take, what was accepted before it counts.
func TestGroup_Broadcasts_BeforeOpenWriterOfSlowConsumer(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		g, slow, _, qp, _ := slowAndQuick(t, server)
		broadcastUntilRefused(t, g, qp)
		wantExpelled(t, "Writer", func() error { _, err := slow.Writer(patience(t), BinaryMessage); return err }())
	})
}

// No Group takes what is nil, and nobody is expelled for a message that is none.
func TestGroup_Misuse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		c, p := connectRaw(t, true)
		g.Add(c)
		for name, call := range map[string]func() error{
			"Add": func() error {
				if g.Add(nil) {
					return errors.New("nil was added")
				}
				return nil
			},
			"Remove": func() error { g.Remove(nil); return nil },
			"Broadcast of nil": func() error {
				if n := g.Broadcast(nil); n != 0 {
					return fmt.Errorf("%d took it", n)
				}
				return nil
			},
			"Broadcast of zero": func() error {
				if n := g.Broadcast(new(PreparedMessage)); n != 0 {
					return fmt.Errorf("%d took it", n)
				}
				return nil
			},
			"Shutdown without a context": func() error {
				var g Group
				c, _ := connectRaw(t, true)
				g.Add(c)
				if g.Shutdown(noContext, StatusGoingAway, "") == nil {
					return errors.New("no error")
				}
				return nil
			},
		} {
			if err := unpanicked(call); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		wantMembers(t, &g, c)
		p.quiet()
		if n := g.Broadcast(prepare(t, []byte("a"))); n != 1 {
			t.Errorf("%d took it", n)
		}
		p.expect("82 01 61")
	})
}

// The frame under way may be one that was broadcast.
func TestGroup_BroadcastOfLargeToSlowConsumer(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		var g Group
		slow, p := connectRaw(t, server, smallPending)
		g.Add(slow)
		large := prepare(t, pattern(300<<10))
		if n := g.Broadcast(large); n != 1 {
			t.Fatalf("%d took it: with nothing pending one of any size is taken", n)
		}
		synctest.Wait()
		for range 2 {
			if n := g.Broadcast(large); n != 0 {
				t.Fatalf("%d took it beyond MaxPending", n)
			}
		}
		p.expect(frameHex(0x82, pattern(300<<10)))
		p.expectClose(StatusTryAgainLater)
		p.send(closeHex(1013, ""))
		synctest.Wait()
		if n := slow.Stats().Pending; n != 0 || g.Len() != 0 {
			t.Errorf("%d bytes are pending, %d are in the group", n, g.Len())
		}
	})
}

// "and CloseTimeout later the connection is cut": of one who reads and does not answer, and of one who does not read.
func TestGroup_BroadcastToSlowConsumerThatNeverAnswers(t *testing.T) {
	for name, look := range map[string]func(t *testing.T, p *rawPeer, blocked <-chan error){
		"ReadsAll": func(t *testing.T, p *rawPeer, blocked <-chan error) {
			p.next()
			p.expectClose(StatusTryAgainLater)
			if err := <-blocked; err != nil {
				t.Error(err)
			}
		},
		"ReadsNothing": func(t *testing.T, p *rawPeer, blocked <-chan error) {},
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				g, slow, sp, qp, blocked := slowAndQuick(t, server)
				start := time.Now()
				broadcastUntilRefused(t, g, qp)
				look(t, sp, blocked)
				pass(testCloseTimeout - time.Millisecond)
				if slow.Context().Err() != nil {
					t.Error("it was cut too early")
				}
				<-slow.Context().Done()
				synctest.Wait()
				if d := time.Since(start); d != testCloseTimeout {
					t.Errorf("it was cut after %v", d)
				}
				if name == "ReadsNothing" {
					wantExpelled(t, "the Write under way", <-blocked)
				}
				if n := slow.Stats().Pending; n != 0 || g.Len() != 1 {
					t.Errorf("%d bytes are pending, %d are in the group", n, g.Len())
				}
			})
		})
	}
}

// A member who stays gets every message once and in order, while others come, read a little and end.
func TestGroup_BroadcastWhileConnectionsComeAndGo(t *testing.T) {
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
				t.Fatalf("message %d: %d of %d who stay took it", i, n, stay)
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

// comeAndGo joins g again and again. Whoever is in it gets messages without a gap.
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
