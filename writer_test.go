package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
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

// Section 5.3: "A masking key is a 32-bit value chosen at random by the client": each frame has a new one.
// TestMaskKey_NoRepeatsBeyondChance judges how they are chosen.
func TestClient_Writes_NewMaskingKeys(t *testing.T) {
	s := &scriptConn{}
	c := newConn(s, testConfig(false))
	defer c.CloseNow()
	const frames = 10_000 // one pair of them is expected to be equal in 86 runs
	seen := make(map[[4]byte]bool)
	for range frames {
		must(t, c.Write(context.Background(), BinaryMessage, nil))
		f, err := readFrame(&s.out, false)
		must(t, err)
		seen[f.key] = true
	}
	if len(seen) < frames-3 {
		t.Errorf("%d frames have %d keys", frames, len(seen))
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
			wantEqual(t, fmt.Sprint("writes of ", n, " bytes"), counting.writes-before, 1)
		}
	})
}

// While the read buffer holds more complete messages, answers are queued. They are sent together, at the latest when
// the reader waits.
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
			must(t, err)
			must(t, c.Write(patience(t), typ, b))
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
		wantOK(t, "Write", <-wrote)
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
		eachWireIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
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
		wantOK(t, "Write", <-wrote)
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
			wantEqual(t, "a later Write", c.Write(patience(t), BinaryMessage, nil), err)
		}
		if err := <-read; err == nil {
			t.Error("a Read after the connection failed")
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

// A ctx that ends after its Write has returned leaves no deadline behind that would fail a later write of the
// connection beneath, such as the answer of TLS 1.3 to a KeyUpdate.
func TestConn_Writes_ThenContextEndsBeforeKeyUpdate(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		near, far := memPipe()
		c, p := connectOver(t, &renewingConn{Conn: near}, far, server)
		for _, n := range []int{1, 20 << 10} {
			ctx, cancel := context.WithCancel(t.Context())
			must(t, c.Write(ctx, BinaryMessage, pattern(n)))
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
		eachWireIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
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
			wantOK(t, "the calls", errors.Join(<-blocked, returned(t, "the last Write", last)))
			if ctx.spun() {
				t.Errorf("%s spins", name)
			}
		}, smallPending, deflating(true))
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
	wantOK(t, "Write", c.Write(soon(t), BinaryMessage, nil))
}

// Send does not block. Beyond MaxPending it returns ErrBacklog, queues nothing and leaves the connection open.
func TestConn_Sends_UpToMaxPending(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		blocked := block(t, c)
		var want []string
		n := 0
		for ; n < 1000; n++ {
			b := pattern(90 + n)
			err := c.Send(BinaryMessage, b)
			if err != nil {
				wantError(t, "Send", err, ErrBacklog)
				break
			}
			want = append(want, frameHex(0x82, b))
		}
		if n == 0 || n > 12 {
			t.Errorf("%d messages of 90 bytes and more were queued within 1000", n)
		}
		for range 100 {
			wantError(t, "Send", c.Send(BinaryMessage, make([]byte, 1000)), ErrBacklog)
		}
		if got := c.Stats().Pending; got > 1000+14+300<<10 {
			t.Errorf("%d bytes are pending", got)
		}
		p.next()
		wantOK(t, "the blocked Write", <-blocked)
		p.expect(want...)
		p.quiet()
		wantOK(t, "Send when all is out", c.Send(BinaryMessage, []byte("a")))
		p.expect("82 01 61")
		wantPending(t, c, 0)
	}, smallPending)
}

// MaxPending does not limit a single message: while nothing is pending, Send accepts one of any size.
func TestConn_Sends_MoreThanMaxPendingAtOnce(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		data := pattern(500 << 10)
		for range 3 {
			start := time.Now()
			must(t, c.Send(BinaryMessage, data))
			took(t, "Send", start, 0)
			wantError(t, "Send of more", c.Send(BinaryMessage, data), ErrBacklog)
			p.expect(frameHex(0x82, data))
			synctest.Wait() // until the message counts as sent
		}
	}, smallPending)
}

// Beyond MaxPending, Write waits until there is room; one of more than MaxPending, until nothing else is pending. A
// Write that is cancelled meanwhile sends nothing.
func TestConn_Writes_BeyondMaxPending(t *testing.T) {
	for _, row := range []struct {
		name            string
		before          int // messages of 100 bytes that are pending beside the one that is being sent
		cancelled, late int // bytes of two calls of Write
	}{{"NoRoom", 9, 901, 900}, {"MoreThanAll", 1, 5000, 4000}, {"MoreThanAllAlone", 0, 5000, 4000}} {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			block(t, c)
			var want []string
			for range row.before {
				must(t, c.Send(BinaryMessage, pattern(100)))
				want = append(want, frameHex(0x82, pattern(100)))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			wantError(t, "Write", c.Write(ctx, BinaryMessage, make([]byte, row.cancelled)), context.DeadlineExceeded)
			wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, row.late)) })
			pending(t, "Write beyond MaxPending", wrote)
			p.next()
			p.expect(append(want, frameHex(0x82, make([]byte, row.late)))...)
			wantOK(t, "Write", <-wrote)
			p.quiet()
		}, smallPending)
	}
}

// Pending exceeds MaxPending by one frame header at most, even with the messages of calls that waited.
func TestConn_Writes_WaitingCallsWithinMaxPending(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		blocked := block(t, c)
		var all []<-chan error
		for range 30 {
			all = append(all, background(func() error { return c.Write(patience(t), BinaryMessage, pattern(600)) }))
			synctest.Wait()
		}
		first := headerSize(300<<10, !p.server) + 300<<10
		if _, err := p.in.Discard(first - pipeSize); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the first message is out, and fills the pipe
		wantOK(t, "the first Write", returned(t, "the first Write", blocked))
		if got := c.Stats().Pending; got > 1000+maxHeader {
			t.Errorf("%d bytes are pending, with a limit of 1000", got)
		}
		if _, err := p.in.Discard(pipeSize); err != nil {
			t.Fatal(err)
		}
		for _, wrote := range all {
			p.expect(frameHex(0x82, pattern(600)))
			wantOK(t, "Write", returned(t, "Write", wrote))
		}
	}, smallPending)
}

// A prepared message counts towards MaxPending as the message that a kept window needs, and not as its compressed bytes.
func TestServer_Writes_PreparedWithinMaxPending(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, _ := connectRaw(t, true, smallPending, deflating(true))
		must(t, c.Write(patience(t), BinaryMessage|Uncompressed, make([]byte, pipeSize-headerSize(pipeSize-1, false))))
		wantOK(t, "Send", c.Send(BinaryMessage|Uncompressed, []byte("a")))
		m := prepare(t, make([]byte, 600))
		for range 3 {
			background(func() error { return c.WritePrepared(patience(t), m) })
			synctest.Wait()
		}
		if got := c.Stats().Pending; got > 1000+maxHeader {
			t.Errorf("%d bytes are pending, with a limit of 1000", got)
		}
		c.CloseNow()
	})
}

// A Write after deferred frames is bounded like one after frames that are being sent.
func TestConn_Writes_BehindDeferredFramesWithinMaxPending(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // or an idle processor sends the deferred frames
	for name, write := range map[string]func(c *Conn, ctx context.Context, b []byte) error{
		"Write": func(c *Conn, ctx context.Context, b []byte) error { return c.Write(ctx, BinaryMessage, b) },
		"Stream.Write": func(c *Conn, _ context.Context, b []byte) error {
			_, err := c.Stream(BinaryMessage).Write(b)
			return err
		},
	} {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			fillPipe(t, c, p)
			p.send("81 01 61", "81 01 62")
			wantRead(t, c, TextMessage, "a")
			for range 4 {
				must(t, c.Write(patience(t), BinaryMessage, pattern(200)))
			}
			wrote := background(func() error { return write(c, patience(t), pattern(900)) })
			pending(t, name, wrote)
			if got := c.Stats().Pending; got > 1000+maxHeader {
				t.Errorf("%d bytes are pending, with a limit of 1000", got)
			}
			p.next()
			for range 4 {
				p.expect(frameHex(0x82, pattern(200)))
			}
			p.expect(frameHex(0x82, pattern(900)))
			wantOK(t, name, returned(t, name, wrote))
		}, smallPending)
	}
}

// Messages are sent in the order of the calls of Write, Send, WritePrepared and SendPrepared. The caller may change p
// as soon as the call has returned, even if the socket is in use.
func TestConn_Sends_InOrderOfCalls(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, busy := range []bool{false, true} {
			c, p := connectRaw(t, server)
			if busy {
				block(t, c)
			}
			var want []string
			for i := range 60 {
				b := fmt.Append(nil, "message ", i)
				want = append(want, frameHex(0x81, b))
				must(t, waysToWrite[wholeWays[i%4]](patience(t), c, TextMessage, b))
				clear(b)
			}
			if busy {
				p.next()
			}
			p.expect(want...)
			c.CloseNow()
		}
	})
}

// Section 5.4: "The fragments of one message MUST NOT be interleaved between the fragments of another message". Writers
// wait while another goroutine's message is streamed.
func TestConn_Sends_MessagesOfManyWhole(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		const writers, each = 8, 30
		ways := []string{"Writer", "Write", "Write"}
		for i := range writers {
			go func() {
				for j := range each {
					waysToWrite[ways[j%3]](patience(t), c, BinaryMessage, bytes.Repeat([]byte{byte(i)}, 1+j*97))
				}
			}()
		}
		count := map[byte]int{}
		for range writers * each {
			b := p.message()
			if len(b) != 1+count[b[0]]*97 || len(bytes.Trim(b, string(b[:1]))) != 0 {
				t.Fatalf("message %d of writer %d: %d bytes %x", count[b[0]], b[0], len(b), b)
			}
			count[b[0]]++
		}
	})
}

// A Write that is cancelled before its first byte does not count.
func TestConn_Writes_NothingOnceCancelledBeforeFirstByte(t *testing.T) {
	for _, size := range []int{10, 100 << 10} {
		eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
			fillPipe(t, c, p)
			before := c.Stats()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			wantError(t, "Write", c.Write(ctx, BinaryMessage, make([]byte, size)), context.DeadlineExceeded)
			wantEqual(t, "Stats", c.Stats(), before)
			p.next()
			wantAlive(t, c, p)
		})
	}
}

// A Write that waits for a Writer is not lost when the socket would block.
func TestConn_Writes_BehindWriterThatBlocks(t *testing.T) {
	for _, size := range []int{20 << 10, 100 << 10, 1 << 20} {
		eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
			w := openWriter(t, patience(t), c, BinaryMessage)
			w.Write([]byte("hello"))
			wrote := background(func() error { return c.Write(patience(t), BinaryMessage, pattern(size)) })
			pending(t, "Write", wrote)
			closed := background(w.Close)
			p.expect(frameHex(0x82, []byte("hello")), frameHex(0x82, pattern(size)))
			wantOK(t, "the calls", errors.Join(<-closed, <-wrote))
		})
	}
}

// Writes that wait end with the connection. Close, which would end them before CloseNow, is not called here.
func TestConn_Writes_NothingMoreAfterCloseNow(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, _ *rawPeer) {
		all := []<-chan error{block(t, c)}
		for n := range 5 {
			all = append(all, background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 600+n*300)) }))
		}
		pass(time.Second)
		c.CloseNow()
		for i, err := range all {
			if err := returned(t, "Write", err); i == 0 || err != nil {
				wantError(t, fmt.Sprint("Write ", i), err, net.ErrClosed)
			}
		}
	}, smallPending)
}

// The buffers of a failed write are freed once, and do no harm to another connection.
func TestConn_Writes_FailureHarmsNoOtherConnection(t *testing.T) {
	for range 20 {
		inBubble(t, func(t *testing.T) {
			failing, fp := connectRaw(t, true)
			reads(t, failing)
			synctest.Wait()
			fp.nc.(*pipeEnd).in.closeRead(io.ErrClosedPipe) // writes fail, reads wait
			if err := failing.Write(patience(t), BinaryMessage, []byte("x")); err == nil {
				t.Fatal("a Write to nobody")
			}
			c, p := connectRaw(t, false)
			wrote := block(t, c)
			precious := frameHex(0x82, []byte("precious"))
			for range 5 {
				c.Send(BinaryMessage, []byte("precious"))
			}
			failing.CloseNow()
			p.expect(frameHex(0x82, make([]byte, 300<<10)), precious, precious, precious, precious, precious)
			wantOK(t, "Write", <-wrote)
			wantPending(t, c, 0)
		})
	}
}

// A Send returns although other goroutines send all the time: it does not send their messages for ever.
func TestConn_Sends_NotForOthersForEver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, p := connectRaw(t, true)
		done := make(chan struct{})
		go io.Copy(io.Discard, p.nc)
		var others sync.WaitGroup
		for range 4 {
			others.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						c.Send(BinaryMessage, make([]byte, 100))
					}
				}
			})
		}
		for range 1000 { // each of them returns while the others go on
			if err := c.Send(BinaryMessage, bytes.Repeat([]byte("x"), 100)); err != nil && err != ErrBacklog {
				t.Error(err)
			}
		}
		close(done)
		others.Wait()
	})
}

// Stats count a message when it is accepted, before it is sent and whichever call accepted it.
func TestConn_Stats_OfWhatWaits(t *testing.T) {
	broadcast := func(_ context.Context, c *Conn, _ MessageType, p []byte) error {
		var g Group
		g.Add(c)
		if g.Broadcast(prepare(t, p)) != 1 {
			return ErrBacklog
		}
		return nil
	}
	for _, name := range append(wholeWays, "Broadcast") {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			send := waysToWrite[name]
			if send == nil {
				send = broadcast
			}
			blocked := block(t, c)
			before := c.Stats()
			must(t, send(patience(t), c, BinaryMessage, pattern(100)))
			size := headerSize(100, !p.server) + 100
			want := before
			want.MessagesWritten++
			want.PayloadWritten += 100
			want.BytesWritten += uint64(size)
			want.Pending += size
			wantEqual(t, "Stats", c.Stats(), want)
			p.next()
			p.expect(frameHex(0x82, pattern(100)))
			<-blocked
			synctest.Wait()
			first := uint64(headerSize(300<<10, !p.server) + 300<<10)
			if got := c.Stats(); got.MessagesWritten != 2 || got.BytesWritten != first+uint64(size) || got.Pending != 0 {
				t.Errorf("%+v when all is out", got)
			}
		})
	}
}
