package websocket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

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
		wantEqual(t, "members", g.Len(), 20)
	})
}

// broadcastUntilRefused broadcasts until one of three does not take it. The quick one reads each message.
func broadcastUntilRefused(t *testing.T, g *Group, quick *rawPeer) {
	t.Helper()
	m := prepare(t, pattern(90))
	start := time.Now()
	for n, took := 0, 3; took == 3; n++ {
		if took = g.Broadcast(m); took < 2 || n > 11 {
			t.Fatalf("message %d of 90 bytes, with a limit of 1000 pending: %d took it", n, took)
		}
		quick.expect(frameHex(0x82, pattern(90)))
	}
	took(t, "the broadcasts", start, 0)
}

// besideQuick returns a group of slow, which is sending a frame that its peer does not read, and of two connections
// whose peers read: quick, and one that needs no attention.
func besideQuick(t *testing.T, slow *Conn) (g *Group, quick *rawPeer, blocked <-chan error) {
	c, p := connectRaw(t, true, smallPending)
	other, op := connectRaw(t, true, smallPending)
	go io.Copy(io.Discard, op.nc)
	g = new(Group)
	for _, c := range []*Conn{slow, c, other} {
		g.Add(c)
	}
	return g, p, block(t, slow)
}

// wantLeft demands how many are in g, and that slow has nothing pending.
func wantLeft(t *testing.T, g *Group, slow *Conn, want int) {
	t.Helper()
	wantPending(t, slow, 0)
	wantEqual(t, "members", g.Len(), want)
}

// wantExpelled demands the error of a slow consumer.
func wantExpelled(t *testing.T, what string, err error) {
	t.Helper()
	wantError(t, what, err, ErrBacklog, StatusTryAgainLater)
}

// Broadcast drops the pending messages of a connection whose peer is too slow. It finishes the frame that is being sent
// and then closes the connection with 1013.
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
		wantOK(t, "the Write of the frame under way", <-blocked)
		sp.expectClose(StatusTryAgainLater)
		sp.send(closeHex(1013, ""))
		wantLeft(t, g, slow, 2)
		wantExpelled(t, "context.Cause", context.Cause(slow.Context()))
		sp.expectEnd()
		wantTaken(t, g, prepare(t, []byte("a")), 2)
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

// A message of which the socket accepts only a part at once arrives whole.
func TestGroup_Broadcasts_InParts(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		g, _ := takingGroup(t, fewMembers) // with more, goroutines of the group send
		g.Add(c)
		must(t, c.Write(patience(t), BinaryMessage, pattern(pipeSize-500)))
		wantTaken(t, g, prepare(t, pattern(1000)), fewMembers+1)
		synctest.Wait()
		p.expect(frameHex(0x82, pattern(pipeSize-500)), frameHex(0x82, pattern(1000)))
	})
}

// A slow consumer is cut after CloseTimeout, whether its peer reads without answering or does not read at all.
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
					wantOK(t, "the blocked Write", <-blocked)
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
				wantLeft(t, g, slow, 2)
			}, smallPending)
		})
	}
}

// Messages that wait for an open Writer do not make its peer a slow one. The peer gets all of them once the Writer is
// closed.
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
			wantOK(t, "Close of the Writer", w.Close())
			for f := p.next(); f.first < 0x80; f = p.next() {
			}
			p.expect(want...)
			p.quiet()
			c.CloseNow()
		}
	})
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

// A takingConn takes all that is written to it at once, and keeps each write.
type takingConn struct {
	scriptConn
	writes [][]byte
	before func() // if not nil, called before each write
}

func (c *takingConn) softDeadlines() {}

func (c *takingConn) tryWrite(p []byte) (int, error) {
	if c.before != nil {
		c.before()
	}
	c.writes = append(c.writes, p)
	return c.Write(p)
}

// takingGroup returns a group of n connections that take everything.
func takingGroup(t *testing.T, n int, change ...func(*config)) (*Group, []*takingConn) {
	g, wires := new(Group), make([]*takingConn, n)
	for i := range wires {
		wires[i] = &takingConn{}
		c := newConn(wires[i], testConfig(true, change...))
		t.Cleanup(func() { c.CloseNow() })
		g.Add(c)
	}
	return g, wires
}

// gate returns a function that waits, each time it is called, until open is closed.
func gate() (wait func(), open chan struct{}) {
	open = make(chan struct{})
	return func() { <-open }, open
}

// wantIdle demands that nobody sends for g.
func wantIdle(t *testing.T, g *Group) {
	t.Helper()
	synctest.Wait()
	if g.senders.running != 0 || len(g.senders.rounds) != 0 {
		t.Errorf("%d goroutines send, with %d rounds to do", g.senders.running, len(g.senders.rounds))
	}
}

// While one member is being written to, broadcasts wait. They then leave in one write for each member.
func TestGroup_Broadcasts_BurstInOneWrite(t *testing.T) {
	for _, n := range []int{0, 20, 128, 900} {
		inBubble(t, func(t *testing.T) {
			const burst = 60
			g, wires := takingGroup(t, 5)
			wait, open := gate()
			wires[0].before = wait
			wantTaken(t, g, prepare(t, pattern(n)), 5)
			synctest.Wait()
			var want []byte
			for i := range burst {
				m := bytes.Repeat([]byte{byte(i)}, n)
				want = append(want, wireHex(frameHex(0x82, m))...)
				wantTaken(t, g, prepare(t, m), 5)
			}
			close(open)
			wantIdle(t, g)
			first := wireHex(frameHex(0x82, pattern(n)))
			for i, wire := range wires {
				writes := 1
				if i == 0 {
					writes = 2
				}
				wantEqual(t, fmt.Sprintf("writes of %d bytes to member %d", n, i), len(wire.writes), writes)
				if !bytes.Equal(wire.out.Bytes(), append(bytes.Clone(first), want...)) {
					t.Errorf("%d bytes: member %d got other bytes", n, i)
				}
			}
		})
	}
}

// Large messages are not copied for each member.
func TestGroup_Broadcasts_LargeMessagesUncopied(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const size = copyLimit + 1
		g, wires := takingGroup(t, 40)
		wait, open := gate()
		wires[0].before = wait
		var all []*PreparedMessage
		for range 3 {
			m := prepare(t, pattern(size))
			all = append(all, m)
			wantTaken(t, g, m, 40)
		}
		close(open)
		wantIdle(t, g)
		for i, wire := range wires {
			if len(wire.writes) != len(all) {
				t.Fatalf("member %d got %d writes, want %d", i, len(wire.writes), len(all))
			}
			for j, p := range wire.writes {
				if &p[0] != &all[j].plain.whole.b[0] {
					t.Errorf("member %d got a copy of message %d", i, j)
				}
			}
		}
	})
}

// A member is too slow only if its peer takes nothing: a burst of more than MaxPending expels nobody whose socket takes
// it, whether Broadcast finds the socket free or in use.
func TestGroup_Broadcasts_MoreThanMaxPendingAtOnce(t *testing.T) {
	for name, before := range map[string]func(){"Free": nil, "InUse": runtime.Gosched} {
		inBubbleIn(t, name, func(t *testing.T) {
			g, wires := takingGroup(t, 20, smallPending)
			for _, wire := range wires {
				wire.before = before
			}
			var want []byte
			for i := range 200 {
				m := bytes.Repeat([]byte{byte(i)}, 300)
				want = append(want, wireHex(frameHex(0x82, m))...)
				wantTaken(t, g, prepare(t, m), 20)
			}
			wantIdle(t, g)
			for i, wire := range wires {
				if !bytes.Equal(wire.out.Bytes(), want) {
					t.Errorf("member %d got %d bytes, want %d", i, wire.out.Len(), len(want))
				}
			}
		})
	}
}

// Messages leave in the order of the calls, whichever group and way they take, over connections that can try a write
// and others.
func TestGroup_Broadcasts_InOrderWithOtherCalls(t *testing.T) {
	for name, s := range settings {
		eachRoleIn(t, name, func(t *testing.T, server bool) {
			var g, h Group
			var members, peers [6]*Conn
			for i := range members {
				a, b := memPipe()
				var near net.Conn = a
				if i%2 == 1 {
					near = wrappedConn{a}
				}
				change := func(cfg *config) {
					if s != nil {
						deflating(s.ContextTakeover)(cfg)
						cfg.deflate.sendBits, cfg.deflate.recvBits = max(9, s.WindowBits), max(9, s.WindowBits)
					}
				}
				members[i] = newConn(near, testConfig(server, change))
				peers[i] = newConn(b, testConfig(!server, change))
				t.Cleanup(func() { members[i].CloseNow(); peers[i].CloseNow() })
				g.Add(members[i])
				h.Add(members[i])
			}
			text := func(i int) []byte { return fmt.Appendf(nil, "%d %s", i, jsonText(uint64(i), i*13%700)) }
			const calls = 60
			for i := range calls {
				switch i % 5 {
				case 0, 1, 2:
					wantTaken(t, &g, prepare(t, text(i)), len(members))
				case 3:
					wantTaken(t, &h, prepare(t, text(i)), len(members))
				default:
					for _, c := range members {
						must(t, waysToWrite[wholeWays[i%4]](patience(t), c, BinaryMessage, text(i)))
					}
				}
			}
			for _, c := range peers {
				for i := range calls {
					wantRead(t, c, BinaryMessage, string(text(i)))
				}
			}
			wantIdle(t, &g)
			wantIdle(t, &h)
		})
	}
}

// The memory that waits for a peer that takes nothing is about MaxPending, however short the messages are, and whether
// they alternate with those of Send.
func TestGroup_Broadcasts_ShortMessagesInLittleMemory(t *testing.T) {
	const maxPending = 256 << 10
	for _, members := range []int{1, 3} {
		for _, size := range []int{0, 20, 200, 2000} {
			for _, beside := range []bool{false, true} {
				for name, compress := range map[string]func(*config){"Plain": func(*config) {}, "Compressed": deflating(false), "Takeover": deflating(true)} {
					inBubbleIn(t, fmt.Sprint(members, "/", size, "/", beside, "/", name), func(t *testing.T) {
						var g Group
						for range members {
							c, p := connectRaw(t, true, compress, func(cfg *config) { cfg.maxPending = maxPending })
							g.Add(c)
							fillPipe(t, c, p)
							c.Send(BinaryMessage|Uncompressed, []byte("more"))
						}
						synctest.Wait()
						_, _, live := spend(func() { fillGroup(t, &g, size, beside) })
						if most := uint64(members * maxPending * 2); live > most {
							t.Errorf("%d bytes are in use, want at most %d", live, most)
						}
					})
				}
			}
		}
	}
}

// fillGroup sends until half of MaxPending waits on every connection.
func fillGroup(t *testing.T, g *Group, size int, beside bool) {
	for i := 0; ; i++ {
		p := make([]byte, size)
		for j := range min(size, 20) { // the rest can be compressed
			p[j] = byte(rand.Uint32())
		}
		wantTaken(t, g, prepare(t, p), g.Len())
		full := true
		for c := range g.All() {
			if beside && c.Send(BinaryMessage, p) != nil {
				t.Fatal("Send was refused")
			}
			full = full && c.Stats().Pending > c.agreed.maxPending/2
		}
		if full || t.Failed() {
			return
		}
	}
}

// Members of several groups get the messages of each in order, once, beside other messages, with and without context
// takeover, while others come and go in every way. All goroutines end with the last Shutdown.
func TestGroup_Broadcasts_ToMembersOfSeveralGroups(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const stay, groups, each = 24, 3, 150
		var gs [groups]Group
		var readers, work sync.WaitGroup
		for i := range stay {
			opts := &Options{KeepAlive: -1}
			if i%2 == 0 {
				opts.Compression = &Compression{ContextTakeover: true, WindowBits: 9, Threshold: -1}
			}
			server, client := Pipe(opts, opts)
			for j := range gs {
				gs[j].Add(server)
			}
			readers.Go(func() {
				next := make([]int, groups)
				readInOrder(t.Context(), t, client, next, math.MaxInt)
				if want := slices.Repeat([]int{each}, groups); !slices.Equal(next, want) {
					t.Errorf("the messages of each group that came are %d, want %d", next, want)
				}
			})
			if i%4 == 0 {
				work.Go(func() {
					for range each {
						server.Write(t.Context(), BinaryMessage, []byte("x"))
						server.Send(BinaryMessage, []byte("x"))
						runtime.Gosched()
					}
				})
			}
		}
		var busy atomic.Bool
		busy.Store(true)
		var churn sync.WaitGroup
		for i := range 3 {
			churn.Go(func() {
				for n := 0; busy.Load(); n++ {
					passThrough(t, gs[:], i+n)
				}
			})
		}
		for j := range gs {
			work.Go(func() {
				for i := range each {
					if n := gs[j].Broadcast(prepare(t, fmt.Appendf(nil, "%d %d %s", j, i, jsonText(uint64(i), i*5)))); n < stay {
						t.Errorf("%d took it, of %d that stay", n, stay)
					}
				}
			})
		}
		work.Wait()
		for j := range gs {
			churn.Go(func() { gs[j].Shutdown(t.Context(), StatusGoingAway, "") })
			churn.Go(func() { gs[j].Broadcast(prepare(t, []byte("late"))) })
		}
		busy.Store(false)
		churn.Wait()
		readers.Wait()
		for j := range gs {
			wantIdle(t, &gs[j])
		}
	})
}

// readInOrder reads up to most messages. It demands that the messages "group number" of each group come in order, from
// next on or, if that is -1, from any one on, and nothing but "x" and "late" besides.
func readInOrder(ctx context.Context, t *testing.T, c *Conn, next []int, most int) {
	for m := range c.Messages(ctx) {
		var group, i int
		switch _, err := fmt.Sscan(string(m.Data), &group, &i); {
		case string(m.Data) == "x" || string(m.Data) == "late":
		case err != nil || next[group] >= 0 && i != next[group]:
			t.Errorf("%q came, want number %d", m.Data, next[group])
			return
		default:
			next[group] = i + 1
		}
		if most--; most == 0 {
			return
		}
	}
}

// passThrough joins groups with a connection whose peer reads or does not, and ends it in one of several ways.
func passThrough(t *testing.T, gs []Group, n int) {
	server, client := Pipe(&Options{KeepAlive: -1, MaxPending: 1000}, &Options{KeepAlive: -1})
	for j := range gs {
		gs[j].Add(server)
	}
	if n%2 == 0 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		readInOrder(ctx, t, client, slices.Repeat([]int{-1}, len(gs)), 1+n%8)
		cancel()
	}
	runtime.Gosched()
	switch n % 5 {
	case 0:
		go client.CloseNow()
		server.Close(StatusGoingAway, "")
	case 1:
		client.CloseNow()
		server.Read(t.Context())
	case 2:
		for j := range gs {
			gs[j].Remove(server)
		}
	case 3:
		for c := range gs[0].All() {
			c.SendPrepared(prepare(t, []byte("x")))
		}
		gs[1].Broadcast(prepare(t, []byte("x")))
	}
	server.CloseNow()
	client.CloseNow()
}

// A countingConn takes all that is written to it at once, and counts the writes.
type countingConn struct {
	endless
	writes *atomic.Int64
}

func (c *countingConn) tryWrite(p []byte) (int, error) {
	c.writes.Add(1)
	return len(p), nil
}

// BenchmarkBroadcast measures all but the writes. It counts them.
func BenchmarkBroadcast(b *testing.B) {
	for _, members := range []int{1000, 100_000} {
		for _, burst := range []int{1, 8} {
			b.Run(fmt.Sprintf("members=%d/burst=%d", members, burst), func(b *testing.B) {
				var g Group
				var writes atomic.Int64
				for range members {
					g.Add(newConn(&countingConn{writes: &writes}, testConfig(true)))
				}
				m := prepare(b, make([]byte, 128))
				b.ReportAllocs()
				for b.Loop() {
					for range burst {
						g.Broadcast(m)
					}
					for isSending(&g) {
						runtime.Gosched()
					}
				}
				b.ReportMetric(float64(writes.Load())/float64(b.N*members*burst), "writes/delivery")
			})
		}
	}
}

func isSending(g *Group) bool {
	g.senders.mu.Lock()
	defer g.senders.mu.Unlock()
	return g.senders.running > 0
}

// However often the members change, a Group keeps few of the lists that are to be visited, and no message is forgotten.
func TestGroup_Broadcasts_WhileMembersChangeEachTime(t *testing.T) {
	for _, changes := range []int{3, 100} { // the first three come and stay
		inBubble(t, func(t *testing.T) {
			g, wires := takingGroup(t, 5)
			wait, open := gate()
			wires[0].before = wait
			m := prepare(t, []byte("Hello"))
			wantTaken(t, g, m, 5)
			synctest.Wait()
			for i := range changes {
				wires = append(wires, &takingConn{})
				c := newConn(wires[5+i], testConfig(true))
				defer c.CloseNow()
				g.Add(c)
				wantTaken(t, g, m, min(6+i, 9))
				if i >= 3 {
					g.Remove(c)
				}
			}
			g.senders.mu.Lock()
			if n := len(g.senders.rounds); n > 10 {
				t.Errorf("%d lists of members wait", n)
			}
			g.senders.mu.Unlock()
			close(open)
			wantIdle(t, g)
			for i, wire := range wires {
				want := 1
				if i < 8 {
					want = min(1+changes, 5+changes-i)
				}
				wantEqual(t, fmt.Sprint("messages to member ", i), bytes.Count(wire.out.Bytes(), []byte("Hello")), want)
			}
		})
	}
}

// A compressed message that waits for a peer that takes nothing does not keep its text in memory.
func TestGroup_Broadcasts_CompressedMessagesInLittleMemory(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var g Group
		for range 3 {
			c, _ := connectRaw(t, true, deflating(false))
			g.Add(c)
			c.Send(BinaryMessage|Uncompressed, make([]byte, pipeSize))
		}
		synctest.Wait()
		_, _, live := spend(func() {
			for range 60 {
				p := make([]byte, 300<<10)
				for i := range 500 {
					p[i] = byte(rand.Uint32())
				}
				wantTaken(t, &g, prepare(t, p), 3)
			}
		})
		for c := range g.All() {
			if n := c.Stats().Pending; n < 20<<10 {
				t.Errorf("%d bytes wait", n)
			}
		}
		if live > 2<<20 {
			t.Errorf("%d bytes are in use for messages that take few when they are compressed", live)
		}
		runtime.KeepAlive(&g)
	})
}
