package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

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
		if err := <-blocked; err != nil {
			t.Error(err)
		}
		p.expect(want...)
		p.quiet()
		if err := c.Send(BinaryMessage, []byte("a")); err != nil {
			t.Errorf("Send when all is out: %v", err)
		}
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
			if err := c.Send(BinaryMessage, data); err != nil {
				t.Fatal(err)
			}
			took(t, "Send", start, 0)
			wantError(t, "Send of more", c.Send(BinaryMessage, data), ErrBacklog)
			p.expect(frameHex(0x82, data))
			synctest.Wait() // until the message counts as sent
		}
	}, smallPending)
}

// Beyond MaxPending, Write blocks until there is room.
func TestConn_Writes_BeyondMaxPending(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		block(t, c)
		for c.Send(BinaryMessage, make([]byte, 100)) == nil {
		}
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 900)) })
		pending(t, "Write beyond MaxPending", wrote)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, "Write", c.Write(ctx, BinaryMessage, make([]byte, 901)), context.DeadlineExceeded)
		for got := 0; got != 900; {
			if got = len(p.next().payload); got == 901 {
				t.Error("the cancelled message was sent")
			}
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		p.quiet()
	}, smallPending)
}

// A Write of more than MaxPending waits until nothing else is pending. If it is cancelled meanwhile, nothing is sent.
func TestConn_Writes_MoreThanMaxPendingInTurn(t *testing.T) {
	for name, before := range map[string][]string{"SomePending": {"before"}, "NonePending": nil} {
		t.Run(name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
				block(t, c)
				var want []string
				for _, s := range before {
					c.Send(BinaryMessage, []byte(s))
					want = append(want, frameHex(0x82, []byte(s)))
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				wantError(t, "Write", c.Write(ctx, BinaryMessage, make([]byte, 5000)), context.DeadlineExceeded)
				wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 4000)) })
				pending(t, "Write of more than MaxPending", wrote)
				p.next()
				p.expect(append(want, frameHex(0x82, make([]byte, 4000)))...)
				if err := <-wrote; err != nil {
					t.Error(err)
				}
				p.quiet()
			}, smallPending)
		})
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
		if err := returned(t, "the first Write", blocked); err != nil {
			t.Error(err)
		}
		if got := c.Stats().Pending; got > 1000+maxHeader {
			t.Errorf("%d bytes are pending, with a limit of 1000", got)
		}
		if _, err := p.in.Discard(pipeSize); err != nil {
			t.Fatal(err)
		}
		for _, wrote := range all {
			p.expect(frameHex(0x82, pattern(600)))
			if err := returned(t, "Write", wrote); err != nil {
				t.Error(err)
			}
		}
	}, smallPending)
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
		t.Run(name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
				fillPipe(t, c, p)
				p.send("81 01 61", "81 01 62")
				wantRead(t, c, TextMessage, "a")
				for range 4 {
					if err := c.Write(patience(t), BinaryMessage, pattern(200)); err != nil {
						t.Fatal(err)
					}
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
				if err := returned(t, name, wrote); err != nil {
					t.Error(err)
				}
			}, smallPending)
		})
	}
}

// Messages are sent in the order of the calls of Write, Send, WritePrepared and SendPrepared. The caller may change p as
// soon as the call has returned, even if the socket is in use.
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
				if err := waysToWrite[wholeWays[i%4]](patience(t), c, TextMessage, b); err != nil {
					t.Fatal(err)
				}
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

// Section 5.4: "The fragments of one message MUST NOT be interleaved between the fragments of another message". Writers wait
// while another goroutine's message is streamed.
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

// A Write that is cancelled while it waits for its turn sends nothing and leaves the connection open.
func TestConn_Writes_NothingOnceCancelledBehindWriter(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		w := openWriter(t, patience(t), c, TextMessage)
		io.WriteString(w, "first ")
		for name, write := range map[string]func(ctx context.Context) error{
			"Write":         func(ctx context.Context) error { return c.Write(ctx, BinaryMessage, make([]byte, testMaxPending+1)) },
			"Writer":        func(ctx context.Context) error { _, err := c.Writer(ctx, BinaryMessage); return err },
			"WritePrepared": func(ctx context.Context) error { return c.WritePrepared(ctx, prepare(t, []byte("never"))) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			wantError(t, name, write(ctx), context.DeadlineExceeded)
			cancel()
		}
		io.WriteString(w, "last")
		if err := w.Close(); err != nil {
			t.Errorf("Close of the Writer: %v", err)
		}
		if got := p.message(); string(got) != "first last" {
			t.Errorf("the message is %q", got)
		}
		wantAlive(t, c, p)
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
			if got := c.Stats(); got != before {
				t.Errorf("%+v, before it %+v", got, before)
			}
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
			if err := errors.Join(<-closed, <-wrote); err != nil {
				t.Error(err)
			}
		})
	}
}

// Writes that wait end with the connection.
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
			if err := <-wrote; err != nil {
				t.Error(err)
			}
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

// Reused buffers never leak bytes of another message of this connection or another.
func TestConn_Sends_OnlyItsOwnBytes(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		r := rand.New(rand.NewPCG(6455, 50))
		var conns []*Conn
		var peers []*rawPeer
		for range 3 {
			c, p := connectRaw(t, server)
			conns, peers = append(conns, c), append(peers, p)
		}
		for i := range 600 {
			k := r.IntN(3)
			b := bytes.Repeat([]byte{byte(i)}, r.IntN(1<<r.IntN(16)))
			if err := sendAnyway(t.Context(), conns[k], r.IntN(5), b); err != nil {
				t.Fatal(err)
			}
			if got := peers[k].message(); !bytes.Equal(got, b) {
				t.Fatalf("message %d of %d bytes %x came as %d bytes %x", i, len(b), byte(i), len(got), got)
			}
		}
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
		t.Run(name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
				send := waysToWrite[name]
				if send == nil {
					send = broadcast
				}
				blocked := block(t, c)
				before := c.Stats()
				if err := send(patience(t), c, BinaryMessage, pattern(100)); err != nil {
					t.Fatal(err)
				}
				size := headerSize(100, !p.server) + 100
				want := before
				want.MessagesWritten++
				want.PayloadWritten += 100
				want.BytesWritten += uint64(size)
				want.Pending += size
				if got := c.Stats(); got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
				p.next()
				p.expect(frameHex(0x82, pattern(100)))
				<-blocked
				synctest.Wait()
				first := uint64(headerSize(300<<10, !p.server) + 300<<10)
				if got := c.Stats(); got.MessagesWritten != 2 || got.BytesWritten != first+uint64(size) || got.Pending != 0 {
					t.Errorf("%+v when all is out", got)
				}
			})
		})
	}
}
