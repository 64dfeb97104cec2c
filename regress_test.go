package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// What an attack on the core found, each by the name of what it protects.

// pipeBubble runs f in a bubble, for the ends of a Pipe.
func pipeBubble(t *testing.T, f func(t *testing.T, s, c *Conn)) {
	t.Helper()
	inBubble(t, func(t *testing.T) {
		s, c := Pipe(nil, nil)
		defer s.CloseNow()
		defer c.CloseNow()
		f(t, s, c)
	})
}

// A Ping that nobody answers ends with the connection, which has no context yet that somebody asked for.
func TestRegress_PingEndsWithTheConnection(t *testing.T) {
	for name, end := range map[string]func(s, c *Conn){
		"CloseNow":  func(s, c *Conn) { c.CloseNow() },
		"PeerGone":  func(s, c *Conn) { s.CloseNow() },
		"PeerClose": func(s, c *Conn) { go s.Close(StatusNormalClosure, "") },
	} {
		t.Run(name, func(t *testing.T) {
			pipeBubble(t, func(t *testing.T, s, c *Conn) {
				reading(c)
				ping := background(func() error { return pingError(c) })
				pending(t, "Ping", ping)
				end(s, c)
				if err := <-ping; err == nil {
					t.Error("Ping without an answer")
				}
			})
		})
	}
}

// The Write that waits for a Writer's turn is not lost when the socket would block then.
func TestRegress_WriteBehindAWriter(t *testing.T) {
	for _, size := range []int{20 << 10, 100 << 10, 1 << 20} {
		pipeBubble(t, func(t *testing.T, s, c *Conn) {
			w, err := c.Writer(patience(t), BinaryMessage)
			if err != nil {
				t.Fatal(err)
			}
			w.Write([]byte("hello"))
			wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, size)) })
			pending(t, "Write", wrote)
			closed := background(w.Close)
			wantRead(t, s, BinaryMessage, "hello")
			wantRead(t, s, BinaryMessage, string(make([]byte, size)))
			if err := errors.Join(<-closed, <-wrote); err != nil {
				t.Error(err)
			}
		})
	}
}

// R50: what a failed write leaves in the queue is given back once, and does no harm to another connection.
func TestRegress_FailedWriteHarmsNoOtherConnection(t *testing.T) {
	for range 20 {
		inBubble(t, func(t *testing.T) {
			failing, p := connectRaw(t, true)
			reading(failing)
			synctest.Wait()
			p.nc.(*pipeEnd).in.closeRead(io.ErrClosedPipe) // writes fail, reads wait
			if err := failing.Write(patience(t), BinaryMessage, []byte("x")); err == nil {
				t.Fatal("a Write to nobody")
			}
			s, c := Pipe(nil, nil)
			defer s.CloseNow()
			defer c.CloseNow()
			wrote := block(t, c)
			for range 5 {
				c.Send(BinaryMessage, []byte("precious"))
			}
			failing.CloseNow()
			wantRead(t, s, BinaryMessage, string(make([]byte, 300<<10)))
			for range 5 {
				wantRead(t, s, BinaryMessage, "precious")
			}
			if err := <-wrote; err != nil || c.Stats().Pending != 0 {
				t.Errorf("%v, %d bytes are pending", err, c.Stats().Pending)
			}
		})
	}
}

// R52: CloseNow at any moment of Close.
func TestRegress_CloseNowInsideClose(t *testing.T) {
	for range 2000 {
		a, b := memPipe()
		c := newConn(a, config{terms: terms{server: true, maxPending: 1 << 20, closeTimeout: time.Second}, maxMessage: 1 << 20})
		var both sync.WaitGroup
		both.Go(func() { c.Close(StatusNormalClosure, "") })
		both.Go(func() { c.CloseNow() })
		both.Wait()
		b.Close()
	}
}

// wantOver demands what our Close leaves: net.ErrClosed, and Messages that end quietly.
func wantOver(t *testing.T, c *Conn) {
	t.Helper()
	for what, err := range map[string]error{"Read": readOne(patience(t), c).err, "Write": c.Write(patience(t), BinaryMessage, nil)} {
		if err != net.ErrClosed {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	for m, err := range c.Messages(patience(t)) {
		t.Errorf("Messages after Close yields %q, %v", m.Data, err)
	}
}

// A83: whatever came before, with or behind the peer's answer, or when there was none.
func TestRegress_ReadsAfterClose(t *testing.T) {
	for name, frames := range map[string][]string{
		"Answered":           {closeHex(1000, "")},
		"MessageBehindClose": {closeHex(1000, ""), "81 01 78"},
		"MessageBefore":      {"81 01 78", closeHex(1000, "")},
		"NoAnswer":           nil,
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				p.send(frames...)
				go io.Copy(io.Discard, p.nc)
				c.Close(StatusNormalClosure, "")
				wantOver(t, c)
			})
		})
	}
}

// A Reader whose message was skipped does not read the next one's.
func TestRegress_StaleReader(t *testing.T) {
	pipeBubble(t, func(t *testing.T, s, c *Conn) {
		c.Send(BinaryMessage, []byte("first"))
		c.Send(BinaryMessage, []byte("second"))
		_, first, err1 := s.Reader(patience(t))
		_, second, err2 := s.Reader(patience(t))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if p, err := io.ReadAll(first); len(p) > 0 || err == nil {
			t.Errorf("the first Reader reads %q, %v", p, err)
		}
		if p, err := io.ReadAll(second); string(p) != "second" || err != nil {
			t.Errorf("the second Reader reads %q, %v", p, err)
		}
	})
}

// A connection that has ended is not held by the context of its reads, which lives on.
func TestRegress_EndedConnIsNotHeldByContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const conns = 50
	var ended []weak.Pointer[Conn]
	for range conns {
		s, c := Pipe(nil, nil)
		ended = append(ended, weak.Make(s))
		c.Send(BinaryMessage, []byte("x"))
		s.Read(ctx)
		go c.Close(StatusNormalClosure, "")
		s.Read(ctx)
		s.CloseNow()
		c.CloseNow()
	}
	until(t, "few of those that ended are held", func() bool {
		runtime.GC()
		held := 0
		for _, c := range ended {
			if c.Value() != nil {
				held++
			}
		}
		return held <= 3
	})
}

// Of Pings at the same time each gets its answer, although only the newest waits for its turn (A85).
func TestRegress_PingsAtOnce(t *testing.T) {
	pipeBubble(t, func(t *testing.T, s, c *Conn) {
		reading(s)
		reading(c)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 300 {
					if _, err := c.Ping(patience(t)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	})
}

// A ctx that ends while its Writer is made neither fails the connection nor is lost.
func TestRegress_WriterCancelledAtBirth(t *testing.T) {
	s, c := Pipe(nil, nil)
	defer s.CloseNow()
	defer c.CloseNow()
	reading(s)
	for range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if w, err := c.Writer(ctx, BinaryMessage); err == nil {
			w.Close()
		}
		if c.failure() != nil {
			t.Fatal(c.failure())
		}
	}
	if err := c.Write(soon(t), BinaryMessage, nil); err != nil {
		t.Error(err)
	}
}

func TestRegress_StatsOfEarlyBytes(t *testing.T) {
	c, _ := connectRaw(t, false, func(cfg *config) { cfg.early = wireHex("81 01 78") })
	wantRead(t, c, TextMessage, "x")
	if s := c.Stats(); s.BytesRead != 3 || s.MessagesRead != 1 {
		t.Errorf("%+v", s)
	}
}

// An oddContext is a caller's own, whose error cannot be compared.
type oddContext struct {
	context.Context
	done chan struct{}
}

type oddError []string

func (oddError) Error() string { return "odd" }

func (c oddContext) Done() <-chan struct{} { return c.done }

func (c oddContext) Err() error {
	select {
	case <-c.done:
		return oddError{"x"}
	default:
		return nil
	}
}

func TestRegress_ErrorThatCannotBeCompared(t *testing.T) {
	pipeBubble(t, func(t *testing.T, s, c *Conn) {
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

// An interrupt of the last read is over before the next one begins: its deadline is not taken for the end of that.
func TestRegress_ReadBehindAnInterrupt(t *testing.T) {
	near, far := tcpEnds(t)
	defer far.Close()
	c := newConn(near, config{terms: terms{maxPending: 1 << 20, closeTimeout: time.Second}, maxMessage: 1 << 20})
	defer c.CloseNow()
	for range 200 {
		far.Write(wireHex("82 01 61  82")) // a message, and the first byte of a header
		ctx, cancel := context.WithCancel(t.Context())
		first := readOne(ctx, c)
		go cancel()
		if first.data != "a" || first.err != nil {
			t.Fatal(first)
		}
		rest := background(func() error { _, err := far.Write([]byte("\x05hello")); return err })
		wantRead(t, c, BinaryMessage, "hello")
		if err := <-rest; err != nil {
			t.Fatal(err)
		}
	}
}

// CloseNow between the two halves of Close's beginning.
func TestRegress_CloseNowAsCloseBegins(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, _ := connectRaw(t, true)
		c.end.step(eventClose, net.ErrClosed)
		c.CloseNow()
		payload, _ := closePayload(StatusNormalClosure, "")
		wantError(t, "Close", c.end.shake(net.ErrClosed, payload), net.ErrClosed)
	})
}

// "Cancelling a write that waits for its turn changes nothing", and counts nothing.
func TestRegress_WithdrawnWriteDoesNotCount(t *testing.T) {
	for _, size := range []int{10, 100 << 10} {
		pipeBubble(t, func(t *testing.T, s, c *Conn) {
			c.out.tryWrite(make([]byte, pipeSize)) // the pipe is full
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			wantError(t, "Write", c.Write(ctx, BinaryMessage, make([]byte, size)), context.DeadlineExceeded)
			if got := c.Stats(); got != (Stats{}) || c.failure() != nil {
				t.Errorf("%+v, %v", got, c.failure())
			}
		})
	}
}

// A Send among others returns at once: it does not send for them for ever.
func TestRegress_SendDoesNotDriveForOthers(t *testing.T) {
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
