package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Section 5.2: frames at the boundaries of the length encodings. readFrame checks them.
func TestConn_Writes_FramesOfEveryLength(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 124, 125, 126, 127, 128, 129, 1000,
			4095, 4096, 16383, 16384, 16385, 65535, 65536, 65537, 1<<20 + 3} {
			data := pattern(n)
			keep := bytes.Clone(data)
			wrote := background(func() error { return c.Write(patience(t), BinaryMessage, data) })
			f := p.next()
			if f.first != 0x82 || !bytes.Equal(f.payload, keep) {
				t.Errorf("%d bytes: %v", n, f)
			}
			if err := <-wrote; err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
			if !bytes.Equal(data, keep) {
				t.Errorf("Write changed the %d bytes it was given", n)
			}
		}
	})
}

// Section 5.3: "A masking key is a 32-bit value chosen at random by the client": a new one for each frame, no more of them
// alike than chance has it.
func TestClient_Writes_MaskingKeysAtRandom(t *testing.T) {
	frames := 1_000_000
	if raceEnabled {
		frames = 100_000
	}
	s := &scriptConn{}
	c := newConn(s, testConfig(false))
	defer c.CloseNow()
	seen := make(map[[4]byte]bool, frames)
	var last [4]byte
	again := 0
	for i := range frames {
		if err := c.Write(context.Background(), BinaryMessage, nil); err != nil {
			t.Fatal(err)
		}
		f, err := readFrame(&s.out, false)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && f.key == last {
			t.Errorf("frames %d and %d have the key %x", i-1, i, f.key)
		}
		if seen[f.key] {
			again++
		}
		seen[f.key], last = true, f.key
	}
	// n*n / 2^33 pairs are expected: 116 of a million, give or take 11.
	if most := 10 + int(1.6*float64(frames)*float64(frames)/(1<<33)); again > most {
		t.Errorf("%d of %d keys came again", again, frames)
	}
}

// Header and payload of a message that is not large go out in one write.
func TestConn_Writes_SmallMessagesInOneWrite(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		counting := &softConn{Conn: a}
		c, p := connectOver(t, counting, b, server)
		for _, n := range []int{0, 5, 125, 126, 4000, 16 << 10} {
			before := counting.writes
			c.Write(patience(t), BinaryMessage, pattern(n))
			p.expect(frameHex(0x82, pattern(n)))
			if got := counting.writes - before; got != 1 {
				t.Errorf("%d bytes went out in %d writes", n, got)
			}
		}
	})
}

// While the read buffer holds more complete messages, answers are queued. They are sent together, at the latest when the
// reader waits.
func TestConn_Writes_DeferredAnswersTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // or an idle processor takes them sooner
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		counting := &softConn{Conn: a}
		c, p := connectOver(t, counting, b, server)
		var frames []string
		for i := range 100 {
			frames = append(frames, frameHex(0x81, fmt.Append(nil, i)))
		}
		p.send(frames...)
		for range frames {
			typ, b, err := c.Read(patience(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Write(patience(t), typ, b); err != nil {
				t.Fatal(err)
			}
		}
		p.expect(frames...)
		if counting.writes > 20 {
			t.Errorf("100 answers took %d writes", counting.writes)
		}
	})
}

func TestConn_Writes_DeferredAnswerWhileCallerBlocks(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("81 01 61", "81 01 62", "81 01 63")
		wantRead(t, c, TextMessage, "a")
		c.Write(patience(t), TextMessage, []byte("answer"))
		start := time.Now()
		p.expect("81 06 616e73776572") // while this goroutine waits for something else
		took(t, "the answer", start, 0)
	})
}

// A deferred answer is sent without a timer while the handler computes, here until the answer has arrived.
func TestConn_Writes_DeferredAnswerWhileCallerComputes(t *testing.T) {
	for _, procs := range []int{1, 2} {
		t.Run(fmt.Sprint(procs, "Processors"), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			near, far := tcpEnds(t)
			c, p := connectOver(t, near, far, true)
			p.send("82 01 61", "82 01 62")
			var arrived atomic.Bool
			handled := background(func() bool {
				typ, b, err := c.Read(context.Background())
				if err != nil || c.Write(context.Background(), typ, b) != nil {
					return false
				}
				for limit := time.Now().Add(10 * time.Second); !arrived.Load() && time.Now().Before(limit); {
				}
				if !arrived.Load() {
					c.CloseNow() // which ends the peer's wait
				}
				return arrived.Load()
			})
			p.expect("82 01 61")
			arrived.Store(true)
			if !<-handled {
				t.Error("the answer was held back until the handler had ended")
			}
		})
	}
}

// Pongs are sent between messages, and messages make progress during a flood of pings.
func TestConn_Writes_BesidePongs(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		reads(t, c)
		var enough atomic.Bool
		wrote := background(func() (err error) {
			for err == nil && !enough.Load() {
				err = c.Write(patience(t), BinaryMessage, pattern(100<<10))
			}
			return errors.Join(err, c.Write(patience(t), TextMessage, []byte("last")))
		})
		messages, pongs := 0, 0
		for f := p.next(); f.first != 0x81; f = p.next() {
			p.send("89 01 70")
			switch {
			case f.first == 0x82 && bytes.Equal(f.payload, pattern(100<<10)):
				messages++
			case f.first == 0x8a && string(f.payload) == "p":
				pongs++
			default:
				t.Fatalf("the peer reads %v", f)
			}
			enough.Store(messages > 20 && pongs > 0)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

// A Write whose context ends after a part of its frame was sent fails the connection. The error has the cause of the
// context.
func TestConn_Writes_PartOfFrameUntilContextEnds(t *testing.T) {
	whole := func(ctx context.Context, c *Conn) error { return c.Write(ctx, BinaryMessage, make([]byte, 300<<10)) }
	for name, write := range map[string]func(ctx context.Context, c *Conn) error{
		"Write": whole,
		"Writer": func(ctx context.Context, c *Conn) error {
			w, err := c.Writer(ctx, BinaryMessage)
			if err != nil {
				return err
			}
			_, err = w.Write(make([]byte, 300<<10))
			return err
		},
		"ReadFrom": func(ctx context.Context, c *Conn) error {
			w, err := c.Writer(ctx, BinaryMessage)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, bytes.NewReader(make([]byte, 300<<10)))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
				read := reads(t, c)
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
				defer cancel()
				start := time.Now()
				wantError(t, name, write(ctx, c), context.DeadlineExceeded, errEnough)
				if d := time.Since(start); d < time.Second || d > time.Second+testCloseTimeout {
					t.Errorf("%s took %v", name, d)
				}
				if err := c.Write(patience(t), BinaryMessage, []byte("more")); err == nil {
					t.Error("a Write after a part of a frame")
				}
				if err := <-read; err == nil {
					t.Error("a Read after the connection failed")
				}
				wantEnded(t, c)
				for f, err := p.tryNext(); err == nil; f, err = p.tryNext() {
					if name == "Write" || f.first >= 0x80 && f.first != 0x88 {
						t.Errorf("the peer reads %v, want a part of a message", f)
					}
				}
			})
		})
	}
}

// WriteTimeout is the "longest time the socket may take nothing": a slow peer is not a dead one.
func TestConn_Writes_SlowlyWithinWriteTimeout(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 300<<10)) })
		pause := testWriteTimeout - time.Second
		if p.wire != "Pipe" { // a whole record has to be taken
			pause /= 2
		}
		b := make([]byte, 20<<10)
		for taken := 0; taken < 300<<10; {
			pass(pause)
			n, err := io.ReadFull(p.in, b)
			if err != nil {
				t.Fatalf("after %d bytes: %v", taken, err)
			}
			taken += n
		}
		if err := <-wrote; err != nil {
			t.Errorf("Write: %v", err)
		}
	})
}

func TestConn_Writes_ToPeerThatTakesNothing(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		read := reads(t, c)
		start := time.Now()
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 300<<10)) })
		pass(20 * time.Second)
		p.in.Discard(30 << 10)
		err := <-wrote
		took(t, "Write", start, 20*time.Second+testWriteTimeout)
		wantLost(t, "Write", err)
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		for range 100 {
			if again := c.Write(patience(t), BinaryMessage, nil); again != err {
				t.Fatalf("a later Write: %v, want %v", again, err)
			}
		}
		if err := <-read; err == nil {
			t.Error("a Read after the connection failed")
		}
	})
}

// After a write error, every kind of write returns it.
func TestConn_Writes_AfterLostConnection(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.nc.Close()
		var err error
		for i := 0; err == nil && i < 10; i++ {
			synctest.Wait() // the news travels
			err = c.Write(patience(t), BinaryMessage, []byte("a"))
		}
		wantLost(t, "Write", err)
		for name, write := range waysToWrite {
			if again := write(patience(t), c, BinaryMessage, []byte("a")); again != err {
				t.Errorf("a later %s: %v, want %v", name, again, err)
			}
		}
		for name, again := range map[string]error{"Ping": pingError(patience(t), c), "WriteJSON": c.WriteJSON(patience(t), 1)} {
			if again != err {
				t.Errorf("a later %s: %v, want %v", name, again, err)
			}
		}
	})
}

// The error of a caller's own context may be of a kind that cannot be compared.
func TestConn_Writes_UntilContextEndsWithOddError(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, _ *rawPeer) {
		c.Send(BinaryMessage, make([]byte, 60<<10))
		ctx := oddContext{t.Context(), make(chan struct{})}
		wrote := background(func() error { return c.Write(ctx, BinaryMessage, make([]byte, 100<<10)) })
		pending(t, "Write", wrote)
		close(ctx.done)
		if err := <-wrote; err == nil {
			t.Error("a cancelled Write")
		}
	})
}

// A ctx that ends after its Write has returned leaves no deadline behind that would fail a later write of the connection
// beneath, such as the answer of TLS 1.3 to a KeyUpdate.
func TestConn_Writes_ThenContextEndsBeforeKeyUpdate(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		near, far := memPipe()
		c, p := connectOver(t, &renewingConn{Conn: near}, far, server)
		for _, n := range []int{1, 20 << 10} {
			ctx, cancel := context.WithCancel(t.Context())
			if err := c.Write(ctx, BinaryMessage, pattern(n)); err != nil {
				t.Fatal(err)
			}
			cancel()
			synctest.Wait()
			p.expect(frameHex(0x82, pattern(n)))
			p.send("81 01 61")
			wantRead(t, c, TextMessage, "a")
		}
	})
}

// With context takeover, a message that has been compressed must be sent, although the ctx of its call has ended.
func TestConn_Writes_CompressedMessageThatItsContextGivesUp(t *testing.T) {
	data := jsonText(1, 40<<10)
	for _, name := range []string{"Write", "WritePrepared"} {
		t.Run(name, func(t *testing.T) {
			eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
				peer := newConn(p.nc, testConfig(!p.server, deflating(true)))
				defer peer.CloseNow()
				blocked := background(func() error { return c.Write(patience(t), BinaryMessage|Uncompressed, make([]byte, 300<<10)) })
				pending(t, "Write to a peer that does not read", blocked)
				ctx := newAskedContext(t)
				wrote := background(func() error { return waysToWrite[name](ctx, c, TextMessage, data) })
				pending(t, name, wrote)
				ctx.arm()
				wantRead(t, peer, BinaryMessage, string(make([]byte, 300<<10)))
				last := background(func() error { return c.Write(patience(t), TextMessage, data) })
				wantRead(t, peer, TextMessage, string(data))
				if err := returned(t, name, wrote); err == nil {
					wantRead(t, peer, TextMessage, string(data))
				} else {
					wantError(t, name, err, context.Canceled)
				}
				if err := errors.Join(<-blocked, returned(t, "the last Write", last)); err != nil {
					t.Error(err)
				}
				if ctx.spun() {
					t.Errorf("%s spins", name)
				}
			}, smallPending, deflating(true))
		})
	}
}

// A ctx that ends while its Writer is made neither fails the connection nor is lost.
func TestConn_Writes_WriterWhoseContextEndsAsItIsMade(t *testing.T) {
	s, c := Pipe(nil, nil)
	defer s.CloseNow()
	defer c.CloseNow()
	reads(t, s)
	for range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if w, err := c.Writer(ctx, BinaryMessage); err == nil {
			w.Close()
		}
		if c.Context().Err() != nil {
			t.Fatal(context.Cause(c.Context()))
		}
	}
	if err := c.Write(soon(t), BinaryMessage, nil); err != nil {
		t.Error(err)
	}
}
