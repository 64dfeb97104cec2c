package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Section 5.5.3: a pong has the payload of its ping, 0 to 125 bytes.
func TestConn_Answers_Pings(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		for n := range 126 {
			p.send(frameHex(0x89, pattern(n)))
			p.expect(frameHex(0x8a, pattern(n)))
		}
	})
}

// The newest ping is answered before the message that arrived with it is returned.
func TestConn_Answers_PingsBeforeMessage(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("89 01 61", "89 01 62", "82 01 7a")
		wantRead(t, c, BinaryMessage, "z")
		frames := p.drain()
		if n := len(frames); n == 0 || n > 2 || string(frames[n-1].payload) != "b" {
			t.Errorf("the peer reads %v, want the answer to the newest ping at least", frames)
		}
	})
}

// Answers to a peer that does not read are not queued: the newest ping is answered, and few others.
func TestConn_Answers_FewPingsOfFlood(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ended := reads(t, c)
		blocked := block(t, c)
		for i := range 700 {
			p.send(frameHex(0x89, fmt.Appendf(nil, "%0125d", i)))
		}
		synctest.Wait()
		if got := c.Stats().Pending; got > 300<<10+2*139 {
			t.Errorf("%d bytes are pending", got)
		}
		var pongs []wireFrame
		for _, f := range append([]wireFrame{p.next()}, p.drain()...) {
			if f.first == 0x8a {
				pongs = append(pongs, f)
			}
		}
		if n := len(pongs); n == 0 || n > 2 || string(pongs[n-1].payload) != fmt.Sprintf("%0125d", 699) {
			t.Errorf("%d pongs: %.200v", n, pongs)
		}
		wantOK(t, "Write", <-blocked)
		pending(t, "Read", ended)
	})
}

// Section 5.5.3: "A Pong frame MAY be sent unsolicited."
func TestConn_Reads_UnsolicitedPongs(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("8a 00", "8a 08 0000000000000001", frameHex(0x8a, pattern(125)), "82 01 7a")
		wantRead(t, c, BinaryMessage, "z")
		p.quiet()
		ended := reads(t, c)
		ping := background(func() error { return pingError(patience(t), c) })
		f := p.next()
		p.send("8a 00", frameHex(0x8a, append([]byte("x"), f.payload...)))
		if len(f.payload) > 0 {
			p.send(frameHex(0x8a, bytes.Repeat([]byte{0xff}, len(f.payload))), frameHex(0x8a, make([]byte, len(f.payload))))
			pending(t, "Ping", ping)
		}
		p.send(frameHex(0x8a, f.payload))
		wantOK(t, "Ping", <-ping)
		pending(t, "Read", ended)
	})
}

// Ping returns the round-trip time, and Stats has it.
func TestConn_Pings_AndTimesTheRoundTrip(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		wantEqual(t, "RTT before any ping", c.Stats().RTT, 0)
		for _, d := range []time.Duration{3 * time.Second, 0, 2 * time.Minute, time.Millisecond} {
			ping := background(func() time.Duration {
				rtt, err := c.Ping(patience(t))
				if err != nil {
					t.Errorf("Ping: %v", err)
				}
				return rtt
			})
			f := p.expectPing()
			pass(d)
			p.send(frameHex(0x8a, f.payload))
			if rtt := <-ping; rtt != d || c.Stats().RTT != d {
				t.Errorf("Ping: %v, RTT: %v, want %v", rtt, c.Stats().RTT, d)
			}
		}
	})
}

// Section 5.5.3: an endpoint may answer only the most recent of several pings. Its pong answers all pings up to that
// one.
func TestConn_Pings_AnsweredByAnyLaterPong(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		var all []<-chan error
		var frames []wireFrame
		for range 5 {
			all = append(all, background(func() error { return pingError(patience(t), c) }))
			frames = append(frames, p.next())
		}
		for answered := 0; answered < 5; {
			pending(t, "Ping", all[answered])
			newest := min(answered+2, 4) // the third and the last
			p.send(frameHex(0x8a, frames[newest].payload))
			for ; answered <= newest; answered++ {
				wantOK(t, "Ping", <-all[answered])
			}
		}
	})
}

// Concurrent Pings all return, although only the newest ping is sent once the socket is free.
func TestConn_Pings_ManyAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, c := newPair(memPipe())
		defer s.CloseNow()
		defer c.CloseNow()
		reads(t, s)
		reads(t, c)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 300 {
					if err := pingError(patience(t), c); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	})
}

// A Ping that is cancelled returns the error of its ctx with the cause, and leaves the connection as it is.
func TestConn_Pings_UntilContextEndsWithCause(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ended := reads(t, c)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
		defer cancel()
		wantError(t, "Ping", pingError(ctx, c), context.DeadlineExceeded, errEnough)
		late := p.next()
		wantError(t, "Ping of an ended context", pingError(ctx, c), context.DeadlineExceeded, errEnough)
		p.quiet()
		p.send(frameHex(0x8a, late.payload))
		pending(t, "Read", ended)
	})
}

// KeepAlive sends a ping after 30 s of silence and gives up after another 30 s.
func TestConn_KeepAlive_OfSilentPeer(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		start := time.Now()
		ended := reads(t, c)
		p.expectPing()
		took(t, "the ping", start, 30*time.Second)
		err := <-ended
		took(t, "the end", start, time.Minute)
		wantLost(t, "Read", err)
		wantError(t, "Write", c.Write(patience(t), TextMessage, nil), err)
		wantError(t, "context.Cause", context.Cause(c.Context()), err)
		p.expectCut()
	}, keepAlive)
}

// A peer that answers is pinged every 30 s and never given up.
func TestConn_KeepAlive_OfPeerThatAnswers(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ended := reads(t, c)
		for range 100 {
			start := time.Now()
			f := p.expectPing()
			took(t, "the ping", start, 30*time.Second)
			p.send(frameHex(0x8a, f.payload))
		}
		pending(t, "Read", ended)
	}, keepAlive)
}

// Every byte from the peer counts as a sign of life.
func TestConn_KeepAlive_OfAnySignOfLife(t *testing.T) {
	for _, frame := range []string{"8a 00", "8a 01 61", "89 00", "81 01 61", "01 00"} {
		eachConnIn(t, frame[:2], func(t *testing.T, c *Conn, p *rawPeer) {
			ended := reads(t, c)
			start := time.Now()
			p.next()
			pass(29 * time.Second)
			p.send(frame)
			for f := p.next(); f.first != 0x89; f = p.next() {
			}
			took(t, "the next ping", start, 89*time.Second)
			<-ended
			took(t, "the end", start, 119*time.Second)
		}, keepAlive)
	}
}

// So do the bytes of a long message.
func TestConn_KeepAlive_DuringLongMessage(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		got := background(func() readResult { return readOne(patience(t), c) })
		for _, b := range towards(p.server, frameHex(0x82, pattern(300))) {
			p.quiet()
			pass(29 * time.Second)
			p.sendBytes([]byte{b})
		}
		if r := <-got; r.err != nil || r.data != string(pattern(300)) {
			t.Errorf("Read: %v", r)
		}
	}, keepAlive)
}

// While nothing reads, KeepAlive is suspended.
func TestConn_KeepAlive_AfterPause(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("81 01 61")
		wantRead(t, c, TextMessage, "a")
		pass(time.Hour)
		p.quiet()
		start := time.Now()
		ended := reads(t, c)
		p.expectPing()
		if d := time.Since(start); d > 30*time.Second || d == 0 {
			t.Errorf("the ping came after %v", d)
		}
		pass(29 * time.Second)
		p.send("8a 00")
		pending(t, "Read", ended)
	}, keepAlive)
}

// Cancelled reads do not postpone the ping forever: the time they wait adds up. The time between them does not count.
func TestConn_KeepAlive_InShortReads(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		waited := time.Duration(0)
		for err := error(nil); waited < 10*time.Minute; {
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			start := time.Now()
			_, _, err = c.Read(ctx)
			waited += time.Since(start)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				wantLost(t, "Read", err)
				break
			}
			pass(13 * time.Second)
		}
		if waited < time.Minute || waited > 75*time.Second {
			t.Errorf("the Conn gave up after %v of waiting", waited)
		}
		p.expectPing()
	}, keepAlive)
}

// Without KeepAlive the peer may be silent.
func TestConn_KeepAlive_Off(t *testing.T) {
	for _, d := range []time.Duration{0, -1} {
		eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
			ended := reads(t, c)
			pass(20 * time.Hour)
			p.quiet()
			pending(t, "Read", ended)
			p.send("82 01 61")
			pending(t, "Read", ended)
		}, func(cfg *config) { cfg.keepAlive = d })
	}
}

// KeepAlive works in every kind of read.
func TestConn_KeepAlive_InEveryRead(t *testing.T) {
	kinds := map[string]func(ctx context.Context, c *Conn) error{
		"CloseRead": func(ctx context.Context, c *Conn) error {
			<-c.CloseRead(ctx).Done()
			return context.Cause(c.Context())
		},
		"Stream": func(_ context.Context, c *Conn) error {
			_, err := c.Stream(BinaryMessage).Read(make([]byte, 10))
			return err
		},
	}
	for name, read := range waysToRead {
		kinds[name] = func(ctx context.Context, c *Conn) error { _, _, err := read(ctx, c); return err }
	}
	for name, read := range kinds {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			if name == "Reader" {
				p.send("02 00")
			}
			start := time.Now()
			wantLost(t, name, read(patience(t), c))
			took(t, name, start, time.Minute)
		}, keepAlive)
	}
}

// A peer that takes messages but sends nothing is given up.
func TestConn_KeepAlive_BesideWrites(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ended := reads(t, c)
		wrote := background(func() (err error) {
			for ; err == nil; err = c.Write(context.Background(), BinaryMessage, []byte("tick")) {
				pass(time.Second)
			}
			return err
		})
		pings := 0
		for f, err := p.tryNext(); err == nil; f, err = p.tryNext() {
			if f.first == 0x89 {
				pings++
			} else if string(f.payload) != "tick" {
				t.Fatalf("the peer reads %v", f)
			}
		}
		wantEqual(t, "pings", pings, 1)
		wantLost(t, "Read", <-ended)
		wantLost(t, "Write", <-wrote)
	}, keepAlive)
}

// Floods of pings and pongs leave no memory and no goroutines.
func TestConn_Reads_FloodsOfControlFrames(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		n := 1_000_000
		if raceEnabled {
			n = 100_000
		}
		for name, frame := range map[string]string{"Pongs": "8a 04 61626364", "EmptyPongs": "8a 00", "Pings": "89 04 61626364", "PingsOf125": frameHex(0x89, pattern(125))} {
			c := newConn(newSpout(server, "8a 00", int64(n), frame), testConfig(server))
			before := resources()
			_, objects, live := spend(func() { wantLost(t, "Read", readOne(context.Background(), c).err) })
			c.CloseNow()
			if now := resources(); now[0] > before[0]+5 {
				t.Errorf("%s: %d goroutines before, %d after", name, before[0], now[0])
			}
			if live > 256<<10 || frame[:2] == "8a" && objects > 500 {
				t.Errorf("%s: %d frames cost %d objects, %d bytes are still in use", name, n, objects, live)
			}
		}
	})
}
