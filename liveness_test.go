package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// Pings, pongs and KeepAlive.

// reads has a read at work until the connection ends, and returns how it ended.
func reads(t *testing.T, c *Conn) <-chan error {
	ctx := patience(t)
	return background(func() error {
		for {
			if _, _, err := c.Read(ctx); err != nil {
				return err
			}
		}
	})
}

// A84: the pong has the payload of the ping, 0 to 125 bytes.
func TestReceivesPings(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		reads(t, c)
		for n := range 126 {
			p.send(frameHex(0x89, pattern(n)))
			p.expect(frameHex(0x8a, pattern(n)))
		}
	})
}

// A84: in the middle of a message too, whose payload does not come on, and before a Read has seen its message.
func TestReceivesPingBeforeMessage(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("89 01 61", "89 01 62", "82 01 7a")
		wantRead(t, c, BinaryMessage, "z")
		frames := p.drain()
		if n := len(frames); n == 0 || n > 2 || string(frames[n-1].payload) != "b" {
			t.Errorf("the peer reads %v, want the answer to the newest ping at least", frames)
		}
	})
}

// A84: "unless it already received a Close frame".
func TestReceivesPingAfterClose(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		reads(t, c)
		p.send("89 01 61", closeHex(1000, ""), "89 01 62")
		if f := p.next(); f.first == 0x8a {
			p.expectClose(StatusNormalClosure)
		} else {
			p.isClose(f, StatusNormalClosure)
		}
		p.expectEnd()
	})
}

// A85, R25: pings of a peer that does not read are no queue: the newest is answered, and few besides.
func TestReceivesPingFlood(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
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
		if err := <-blocked; err != nil {
			t.Error(err)
		}
		pending(t, "Read", ended)
	})
}

// A86: "A Pong frame MAY be sent unsolicited."
func TestReceivesUnsolicitedPongs(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("8a 00", "8a 08 0000000000000001", "8a 7d"+frameHex(0x8a, pattern(125))[4:], "82 01 7a")
		wantRead(t, c, BinaryMessage, "z")
		p.quiet()
		ended := reads(t, c)
		ping := background(func() error { _, err := c.Ping(patience(t)); return err })
		f := p.next()
		p.send("8a 00", frameHex(0x8a, append([]byte("x"), f.payload...)))
		if len(f.payload) > 0 {
			p.send(frameHex(0x8a, bytes.Repeat([]byte{0xff}, len(f.payload))), frameHex(0x8a, make([]byte, len(f.payload))))
			pending(t, "Ping", ping)
		}
		p.send(frameHex(0x8a, f.payload))
		if err := <-ping; err != nil {
			t.Error(err)
		}
		pending(t, "Read", ended)
	})
}

// A87: Ping returns the round trip, and Stats has it.
func TestSendsPing(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		reads(t, c)
		if got := c.Stats().RTT; got != 0 {
			t.Errorf("RTT before any ping: %v", got)
		}
		for _, d := range []time.Duration{3 * time.Second, 0, 2 * time.Minute, time.Millisecond} {
			ping := background(func() time.Duration {
				rtt, err := c.Ping(patience(t))
				if err != nil {
					t.Errorf("Ping: %v", err)
				}
				return rtt
			})
			f := p.next()
			if f.first != 0x89 {
				t.Fatalf("the peer reads %v, want a ping", f)
			}
			pass(d)
			p.send(frameHex(0x8a, f.payload))
			if rtt := <-ping; rtt != d || c.Stats().RTT != d {
				t.Errorf("Ping: %v, RTT: %v, want %v", rtt, c.Stats().RTT, d)
			}
		}
	})
}

// Section 5.5.3: an endpoint may answer only the most recent of several pings; that is an answer to all.
func TestSendsPingsOfWhichTheNewestIsAnswered(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		reads(t, c)
		var all []<-chan error
		var newest wireFrame
		for range 5 {
			all = append(all, background(func() error { _, err := c.Ping(patience(t)); return err }))
			newest = p.next()
		}
		pending(t, "Ping", all[0])
		p.send(frameHex(0x8a, newest.payload))
		for _, ping := range all {
			if err := <-ping; err != nil {
				t.Errorf("Ping: %v", err)
			}
		}
	})
}

// The neighbour: the answer to an earlier ping is none to a later one.
func TestSendsPingsOfWhichTheOldestIsAnswered(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		reads(t, c)
		ping := func() error { _, err := c.Ping(patience(t)); return err }
		first := background(ping)
		oldest := p.next()
		second := background(ping)
		p.next()
		p.send(frameHex(0x8a, oldest.payload))
		if err := <-first; err != nil {
			t.Errorf("Ping: %v", err)
		}
		pending(t, "the second Ping", second)
	})
}

// A Ping that is cancelled leaves the connection as it is.
func TestSendsPingAndIsCancelled(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ended := reads(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Ping(ctx)
		wantError(t, "Ping", err, context.DeadlineExceeded)
		late := p.next()
		_, err = c.Ping(ctx)
		wantError(t, "Ping", err, context.DeadlineExceeded)
		p.quiet()
		p.send(frameHex(0x8a, late.payload))
		pending(t, "Read", ended)
	})
}

// A Ping that waits ends with the connection, however that ends.
func TestSendsPingOnConnectionThatEnds(t *testing.T) {
	for name, row := range map[string]struct {
		end  func(c *Conn, p *rawPeer)
		want error
	}{
		"CloseNow":  {func(c *Conn, p *rawPeer) { c.CloseNow() }, net.ErrClosed},
		"Close":     {func(c *Conn, p *rawPeer) { go c.Close(StatusNormalClosure, "") }, net.ErrClosed},
		"PeerClose": {func(c *Conn, p *rawPeer) { p.send(closeHex(4000, "")) }, StatusCode(4000)},
		"Failure":   {func(c *Conn, p *rawPeer) { p.send("83 00") }, StatusProtocolError},
		"Lost":      {func(c *Conn, p *rawPeer) { p.nc.Close() }, StatusAbnormalClosure},
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				reads(t, c)
				ping := background(func() error { _, err := c.Ping(patience(t)); return err })
				p.next()
				start := time.Now()
				row.end(c, p)
				wantError(t, "Ping", <-ping, row.want)
				if d := time.Since(start); d > 0 {
					t.Errorf("Ping took %v", d)
				}
			})
		})
	}
}

func keepAlive(cfg *config) { cfg.keepAlive = 30 * time.Second }

// "Silence before a ping, and again before giving up": 30 s, then 30 s.
func TestReceivesNothingWithKeepAlive(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, keepAlive)
		start := time.Now()
		ended := reads(t, c)
		if f := p.next(); f.first != 0x89 {
			t.Fatalf("the peer reads %v, want a ping", f)
		}
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("the ping came after %v", d)
		}
		err := <-ended
		if d := time.Since(start); d != time.Minute {
			t.Errorf("the Conn gave up after %v", d)
		}
		wantLost(t, "Read", err)
		wantError(t, "Write", c.Write(patience(t), TextMessage, nil), err)
		wantError(t, "context.Cause", context.Cause(c.Context()), err)
		p.nc.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := readFrame(p.in, server); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection is still there")
		}
	})
}

// A peer that answers lives for ever, and is pinged each 30 s.
func TestReceivesPongsWithKeepAlive(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, keepAlive)
		ended := reads(t, c)
		for range 100 {
			start := time.Now()
			f := p.next()
			if d := time.Since(start); f.first != 0x89 || d != 30*time.Second {
				t.Fatalf("the peer reads %v after %v", f, d)
			}
			p.send(frameHex(0x8a, f.payload))
		}
		pending(t, "Read", ended)
	})
}

// An answer that takes its time is in time, also when it is not a pong: "KeepAlive counts bytes: any byte from the
// peer is a sign of life, also in the middle of a long message."
func TestReceivesAnySignOfLifeWithKeepAlive(t *testing.T) {
	for _, frame := range []string{"8a 00", "8a 01 61", "89 00", "81 01 61", "01 00"} {
		t.Run(frame[:2], func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server, keepAlive)
				ended := reads(t, c)
				start := time.Now()
				p.next()
				pass(29 * time.Second)
				p.send(frame)
				for f := p.next(); f.first != 0x89; f = p.next() {
				}
				if d := time.Since(start); d != 89*time.Second {
					t.Errorf("the next ping came after %v", d)
				}
				<-ended
				if d := time.Since(start); d != 119*time.Second {
					t.Errorf("the Conn gave up after %v", d)
				}
			})
		})
	}
}

func TestReceivesBytesOfLongMessageWithKeepAlive(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, keepAlive)
		got := background(func() readResult { return readOne(patience(t), c) })
		for _, b := range towards(server, frameHex(0x82, pattern(300))) {
			p.quiet()
			pass(29 * time.Second)
			p.sendBytes([]byte{b})
		}
		if r := <-got; r.err != nil || r.data != string(pattern(300)) {
			t.Errorf("Read: %v", r)
		}
	})
}

// "With none at work ... KeepAlive is then suspended, not expired."
func TestReceivesAfterPauseWithKeepAlive(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, keepAlive)
		p.send("81 01 61")
		wantRead(t, c, TextMessage, "a")
		pass(time.Hour)
		p.quiet()
		start := time.Now()
		ended := reads(t, c)
		if f := p.next(); f.first != 0x89 {
			t.Fatalf("the peer reads %v, want a ping", f)
		}
		if d := time.Since(start); d > 30*time.Second || d == 0 {
			t.Errorf("the ping came after %v", d)
		}
		pass(29 * time.Second)
		p.send("8a 00")
		pending(t, "Read", ended)
	})
}

// Reads that are cancelled do not put off the ping for ever: what they waited adds up, and what lies between does not.
func TestReceivesInShortReadsWithKeepAlive(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, keepAlive)
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
		if f := p.next(); f.first != 0x89 {
			t.Errorf("the peer reads %v, want a ping", f)
		}
	})
}

// Without KeepAlive silence is no fault.
func TestReceivesNothingWithoutKeepAlive(t *testing.T) {
	for _, d := range []time.Duration{0, -1} {
		eachRole(t, func(t *testing.T, server bool) {
			c, p := connectRaw(t, server, func(cfg *config) { cfg.keepAlive = d })
			ended := reads(t, c)
			pass(20 * time.Hour)
			p.quiet()
			pending(t, "Read", ended)
			p.send("82 01 61")
			pending(t, "Read", ended)
		})
	}
}

// KeepAlive is judged in CloseRead and in a Reader's reads as well.
func TestReceivesNothingInOtherReadsWithKeepAlive(t *testing.T) {
	for name, read := range map[string]func(c *Conn) error{
		"CloseRead": func(c *Conn) error { <-c.CloseRead(context.Background()).Done(); return context.Cause(c.Context()) },
		"Reader": func(c *Conn) error {
			_, r, err := c.Reader(context.Background())
			for err == nil {
				_, err = r.Read(make([]byte, 10))
			}
			return err
		},
		"Messages": func(c *Conn) (last error) {
			for _, err := range c.Messages(context.Background()) {
				last = err
			}
			return last
		},
		"Stream": func(c *Conn) error { _, err := c.Stream(BinaryMessage).Read(make([]byte, 10)); return err },
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server, keepAlive)
				if name == "Reader" {
					p.send("02 00")
				}
				start := time.Now()
				wantLost(t, name, read(c))
				if d := time.Since(start); d != time.Minute {
					t.Errorf("the Conn gave up after %v", d)
				}
			})
		})
	}
}

// A busy sender to a peer that takes its data but says nothing is judged all the same.
func TestSendsToSilentPeerWithKeepAlive(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, keepAlive)
		ended := reads(t, c)
		wrote := background(func() (err error) {
			for ; err == nil; err = c.Write(context.Background(), BinaryMessage, []byte("tick")) {
				pass(time.Second)
			}
			return err
		})
		pings := 0
		p.nc.SetReadDeadline(time.Now().Add(time.Hour))
		for {
			f, err := readFrame(p.in, server)
			if err != nil {
				break
			}
			if f.first == 0x89 {
				pings++
			} else if !bytes.Equal(f.payload, []byte("tick")) {
				t.Fatalf("the peer reads %v", f)
			}
		}
		if pings != 1 {
			t.Errorf("%d pings", pings)
		}
		wantLost(t, "Read", <-ended)
		wantLost(t, "Write", <-wrote)
	})
}

// KeepAlive over connections whose timeouts are no os.ErrDeadlineExceeded: the peer is pinged, and lives as long as it
// answers.
func TestConn_KeepAlive_OverForeignTimeouts(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		c, p := connectOver(t, foreignConn{near}, far, server, keepAlive)
		start := time.Now()
		ended := reads(t, c)
		for range 10 {
			f := p.next()
			if f.first != 0x89 {
				t.Fatalf("the peer reads %v, want a ping", f)
			}
			p.send(frameHex(0x8a, f.payload))
		}
		pending(t, "Read", ended)
		wantLost(t, "Read", <-ended)
		if d := time.Since(start); d != 6*time.Minute {
			t.Errorf("the Conn gave up after %v", d)
		}
	})
}

// "An error of a call whose ctx ended matches both ctx.Err() and context.Cause(ctx)."
func TestConn_Pings_ContextThatEndsWithCause(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, _ := connectRaw(t, server)
		ctx, cancel := context.WithCancelCause(t.Context())
		ping := func() error { _, err := c.Ping(ctx); return err }
		waits := background(ping)
		pending(t, "Ping", waits)
		cancel(errEnough)
		wantError(t, "Ping", <-waits, context.Canceled, errEnough)
		wantError(t, "Ping of an ended context", ping(), context.Canceled, errEnough)
	})
}
