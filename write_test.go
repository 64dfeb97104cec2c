package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func TestConn_Writes_Types(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		for _, row := range []struct {
			typ  MessageType
			data []byte
			want string
		}{
			{TextMessage, []byte("Hello"), "81 05 48656c6c6f"}, {BinaryMessage, []byte("\xff"), "82 01 ff"},
			{TextMessage, []byte{}, "81 00"}, {BinaryMessage, []byte{}, "82 00"}, {BinaryMessage, nil, "82 00"},
			{TextMessage | Uncompressed, []byte("a"), "81 01 61"}, {BinaryMessage | Uncompressed, []byte{}, "82 00"},
		} {
			for _, name := range wholeWays {
				if err := waysToWrite[name](patience(t), c, row.typ, row.data); err != nil {
					t.Errorf("%s of type %d: %v", name, row.typ, err)
				}
				p.expect(row.want)
			}
		}
	})
}

// An invalid type is an error: nothing is sent and the connection stays usable.
func TestConn_Writes_NoOtherType(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		for _, typ := range []MessageType{0, 3, 8, 9, 10, 0x11, 0x41, Uncompressed, Uncompressed | 3, 0xff} {
			for name, write := range waysToWrite {
				if err := write(patience(t), c, typ, []byte("a")); err == nil {
					t.Errorf("%s of type %#x", name, typ)
				}
			}
		}
		p.quiet()
		wantAlive(t, c, p)
	})
}

// A TextMessage that is not UTF-8 is an error and nothing is sent.
func TestConn_Writes_Text(t *testing.T) {
	eachText(t, func(t *testing.T, text string, valid bool) {
		eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
			for _, way := range wholeWays {
				for _, typ := range []MessageType{TextMessage, TextMessage | Uncompressed} {
					if err := waysToWrite[way](patience(t), c, typ, []byte(text)); valid != (err == nil) {
						t.Errorf("%s: %v", way, err)
					}
					if valid {
						p.expect(frameHex(0x81, []byte(text)))
					}
				}
			}
			wantOK(t, "Write of a binary message", c.Write(patience(t), BinaryMessage, []byte(text)))
			p.expect(frameHex(0x82, []byte(text)))
		})
	})
}

// contextWrites are the ways to write that take a context.
var contextWrites = map[string]func(ctx context.Context, c *Conn) error{
	"Write":     func(ctx context.Context, c *Conn) error { return c.Write(ctx, BinaryMessage, []byte("a")) },
	"WriteJSON": func(ctx context.Context, c *Conn) error { return c.WriteJSON(ctx, 1) },
	"WritePrepared": func(ctx context.Context, c *Conn) error {
		return waysToWrite["WritePrepared"](ctx, c, BinaryMessage, nil)
	},
	"Writer": func(ctx context.Context, c *Conn) error { _, err := c.Writer(ctx, BinaryMessage); return err },
}

// The error of a write whose ctx ended, before the call or while it waited for a Writer, matches ctx.Err() and
// context.Cause(ctx). The write sends nothing.
func TestConn_Writes_UntilContextEndsWithCause(t *testing.T) {
	for name, write := range contextWrites {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			w := openWriter(t, patience(t), c, BinaryMessage)
			ctx, cancel := context.WithCancelCause(t.Context())
			waits := background(func() error { return write(ctx, c) })
			pending(t, name, waits)
			cancel(errEnough)
			wantError(t, name, returned(t, name, waits), context.Canceled, errEnough)
			wantOK(t, "Close", w.Close())
			p.expect("82 00")
			wantError(t, name+" of an ended context", write(ctx, c), context.Canceled, errEnough)
			p.quiet()
			wantAlive(t, c, p)
		})
	}
}

// connectionEnds are the ways in which a connection ends, with the error of every later call. If the end is quiet,
// Messages yields no error.
var connectionEnds = map[string]struct {
	end   func(c *Conn, p *rawPeer)
	want  error
	quiet bool
}{
	"Close1000":          {func(c *Conn, p *rawPeer) { p.send(closeHex(1000, "bye")) }, StatusNormalClosure, true},
	"Close1001":          {func(c *Conn, p *rawPeer) { p.send(closeHex(1001, "")) }, StatusGoingAway, true},
	"CloseEmpty":         {func(c *Conn, p *rawPeer) { p.send("88 00") }, StatusNoStatusRcvd, true},
	"OurClose":           {func(c *Conn, p *rawPeer) { go p.trySend("88 02 03e8"); c.Close(StatusNormalClosure, "") }, net.ErrClosed, true},
	"OurCloseUnanswered": {func(c *Conn, p *rawPeer) { c.Close(4000, "") }, net.ErrClosed, true},
	"OurCloseNow":        {func(c *Conn, p *rawPeer) { c.CloseNow() }, net.ErrClosed, true},
	"Close1002":          {func(c *Conn, p *rawPeer) { p.send(closeHex(1002, "")) }, StatusProtocolError, false},
	"Close1011":          {func(c *Conn, p *rawPeer) { p.send(closeHex(1011, "oops")) }, StatusInternalError, false},
	"Close4000":          {func(c *Conn, p *rawPeer) { p.send(closeHex(4000, "oops")) }, StatusCode(4000), false},
	"Failure":            {func(c *Conn, p *rawPeer) { p.send("83 00") }, StatusProtocolError, false},
	"Lost":               {func(c *Conn, p *rawPeer) { p.nc.Close() }, StatusAbnormalClosure, false},
}

// wantVerdict checks that err is the error of the connection, not of its context.
func wantVerdict(t *testing.T, what string, err, want error) {
	t.Helper()
	wantError(t, what, err, want)
	if errors.Is(err, context.Canceled) {
		t.Errorf("%s: %v, the error of the context", what, err)
	}
}

// When the connection ends, every call returns the connection's error. So does a call that was given c.Context(), which
// ends at the same time, and every later call.
func TestConn_Calls_WhenTheConnectionEnds(t *testing.T) {
	for name, row := range connectionEnds {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			ctx := c.Context()
			w := openWriter(t, ctx, c, BinaryMessage)
			calls := map[string]func() error{
				"Ping":              func() error { return pingError(ctx, c) },
				"Ping with its own": func() error { return pingError(patience(t), c) },
				"Read":              func() error { return readOne(ctx, c).err },
				"Reader":            func() error { _, _, err := c.Reader(ctx); return err },
				"Another":           func() error { return readOne(ctx, c).err },
			}
			for what, write := range contextWrites {
				calls[what] = func() error { return write(ctx, c) }
			}
			waits := map[string]<-chan error{}
			for what, call := range calls {
				waits[what] = background(call)
			}
			synctest.Wait()
			start := time.Now()
			ended := background(func() error { row.end(c, p); return nil })
			for what, err := range waits {
				wantVerdict(t, what, returned(t, what, err), row.want)
			}
			took(t, "the end of every call", start, 0)
			_, err := w.Write([]byte("a"))
			wantVerdict(t, "the Writer's Write", err, row.want)
			<-ctx.Done()
			for what, call := range calls {
				wantVerdict(t, "a late "+what, call(), row.want)
			}
			for what, write := range waysToWrite {
				wantVerdict(t, "a late "+what, write(ctx, c, BinaryMessage, nil), row.want)
				if write(ctx, c, 3, nil) == nil || write(ctx, c, TextMessage, []byte("\xff")) == nil {
					t.Errorf("%s: a misuse after the end", what)
				}
			}
			wantVerdict(t, "the Writer's Close", w.Close(), row.want)
			for _, err := range c.Messages(ctx) { // yields none if it ends quietly
				wantVerdict(t, "Messages", err, row.want)
			}
			<-ended
		})
	}
}

// A nil context or a PreparedMessage that NewPreparedMessage has not made is an error: nothing is sent and the
// connection stays usable.
func TestConn_Writes_NothingOnMisuse(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		misuses := map[string]func() error{"Ping without a context": func() error { return pingError(noContext, c) }}
		for name, write := range contextWrites {
			misuses[name+" without a context"] = func() error { return write(noContext, c) }
		}
		for name, m := range map[string]*PreparedMessage{"nil": nil, "zero": new(PreparedMessage)} {
			misuses["WritePrepared of "+name] = func() error { return c.WritePrepared(patience(t), m) }
			misuses["SendPrepared of "+name] = func() error { return c.SendPrepared(m) }
		}
		for name, call := range misuses {
			err := returned(t, name, background(func() error { return unpanicked(call) }))
			if err == nil || errors.Is(err, errPanicked) {
				t.Errorf("%s: error %v", name, err)
			}
		}
		p.quiet()
		wantAlive(t, c, p)
	})
}

// Section 5.4: the first frame has the opcode, the last one FIN, and the others are continuations.
func TestWriter_Writes_Fragments(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		w := openWriter(t, patience(t), c, BinaryMessage)
		var want []byte
		for n := range 200 {
			want = append(want, pattern(n*n)...)
		}
		wrote := background(func() error {
			for n := range 200 {
				if m, err := w.Write(pattern(n * n)); m != n*n || err != nil {
					return fmt.Errorf("%d of %d bytes: %w", m, n*n, err)
				}
			}
			return w.Close()
		})
		if got := p.message(); !bytes.Equal(got, want) {
			t.Errorf("the message has %d bytes, want %d", len(got), len(want))
		}
		wantOK(t, "Write", <-wrote)
	})
}

// A Writer that is closed at once sends an empty message. Once closed it sends nothing.
func TestWriter_Writes_NothingOnceClosed(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		for n := range 3 {
			w := openWriter(t, patience(t), c, TextMessage)
			for range n {
				if n, err := io.WriteString(w, ""); n != 0 || err != nil {
					t.Errorf("an empty Write: %d, %v", n, err)
				}
			}
			wantOK(t, "Close", w.Close())
			if got := p.message(); len(got) != 0 {
				t.Errorf("the message is %q", got)
			}
			if _, err := io.WriteString(w, "b"); err == nil {
				t.Error("a Write after Close")
			}
			w.Close()
			p.quiet()
			next := openWriter(t, patience(t), c, TextMessage)
			io.WriteString(next, "next ")
			io.WriteString(w, "never")
			w.Close()
			io.WriteString(next, "message")
			next.Close()
			wantEqual(t, "the message", string(p.message()), "next message")
		}
	})
}

// A Write of bytes that cannot be UTF-8 returns an error and sends nothing. The message stays open.
func TestWriter_Writes_TextWithoutImpossibleBytes(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		w := openWriter(t, patience(t), c, TextMessage)
		long := strings.Repeat("x", 100<<10)
		for _, s := range []string{"one ", "!never\xff", "!\x80", "tw\xe2\x82", "!never", "\xac ", "!" + long + "\xc0", "three"} {
			wrong := strings.HasPrefix(s, "!")
			n, err := io.WriteString(w, s)
			if wrong && (err == nil || n != 0) || !wrong && (err != nil || n != len(s)) {
				t.Errorf("Write of %.20q: %d, %v", s, n, err)
			}
		}
		wantOK(t, "Close", w.Close())
		wantEqual(t, "the message", string(p.message()), "one tw€ three")
	})
}

// A character may be split over calls at any byte. A binary message takes any byte.
func TestWriter_Writes_ByteByByte(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		for typ, data := range map[MessageType]string{TextMessage: "aé€\U0001f600\x00", BinaryMessage: "\xff\xc0\x80"} {
			w := openWriter(t, patience(t), c, typ)
			for i := range len(data) {
				if n, err := w.Write([]byte{data[i]}); n != 1 || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
			}
			wantOK(t, "Close", w.Close())
			wantEqual(t, "the message", string(p.message()), data)
		}
	})
}

// A Writer is an io.ReaderFrom that accepts the readers of testing/iotest.
func TestWriter_Writes_FromReaders(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"OneByte": iotest.OneByteReader, "Half": iotest.HalfReader, "DataErr": iotest.DataErrReader,
			"Plain": func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
		} {
			c, p := connectRaw(t, server)
			data := strings.Repeat("κόσμε €", 700)
			w := openWriter(t, patience(t), c, TextMessage)
			wrote := background(func() error {
				_, err := io.Copy(w, wrap(strings.NewReader(data)))
				return errors.Join(err, w.Close())
			})
			wantEqual(t, name, string(p.message()), data)
			wantOK(t, name, <-wrote)
		}
	})
}

// failedInStream reads unfinished fragments, then a close frame with StatusInternalError, then the end.
func (p *rawPeer) failedInStream() {
	p.t.Helper()
	f := p.next()
	for ; f.first&0x8f < 0x88; f = p.next() {
		if f.first >= 0x80 {
			p.t.Fatalf("the message was finished: %v", f)
		}
	}
	p.isClose(f, StatusInternalError)
	p.expectEnd()
}

// To close a Writer inside a character fails the connection with StatusInternalError.
func TestWriter_Fails_ClosedInsideCharacter(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		w := openWriter(t, patience(t), c, TextMessage)
		io.WriteString(w, strings.Repeat("x", 40<<10)+"\xe2\x82")
		if err := w.Close(); err == nil {
			t.Error("Close in the middle of a character")
		}
		p.failedInStream()
		if err := c.Write(patience(t), TextMessage, nil); err == nil {
			t.Error("a Write after that")
		}
		if c.Context().Err() == nil {
			t.Error("the connection lives")
		}
	})
}

// The end of its ctx ends the message of a Writer, even while the source of ReadFrom blocks. If no frame was sent, the
// connection stays usable. If a frame was sent, the message cannot be finished and the connection fails.
func TestWriter_Writes_UntilContextEndsWithCause(t *testing.T) {
	for name, n := range map[string]int{"BeforeFirstFrame": 5, "AfterFirstFrame": 40 << 10} {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			ctx, cancel := context.WithCancelCause(t.Context())
			w := openWriter(t, ctx, c, BinaryMessage)
			source, feed := io.Pipe()
			defer feed.Close()
			copied := background(func() error { _, err := io.Copy(w, source); return err })
			feed.Write(make([]byte, n))
			pending(t, "ReadFrom", copied)
			wrote := background(func() error { return c.Write(patience(t), TextMessage, []byte("a")) })
			pending(t, "Write beside a Writer", wrote)
			start := time.Now()
			cancel(errEnough)
			err := returned(t, "Write", wrote)
			if name == "BeforeFirstFrame" {
				wantOK(t, "Write", err)
				p.expect("81 01 61")
			} else {
				wantFailure(t, "Write", err, StatusInternalError)
				p.failedInStream()
				tookAtMost(t, "the connection", start, testCloseTimeout)
			}
			feed.Close()
			_, err = w.Write([]byte("y"))
			for what, err := range map[string]error{"ReadFrom": returned(t, "ReadFrom", copied), "Write": err, "Close": w.Close()} {
				wantError(t, what, err, context.Canceled, errEnough)
			}
			if name == "BeforeFirstFrame" {
				wantAlive(t, c, p)
			}
		})
	}
}

// While a Writer is open other messages wait, but control frames are sent.
func TestWriter_Writes_BesideControlFrames(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		go readOne(patience(t), c)
		w := openWriter(t, patience(t), c, BinaryMessage)
		w.Write(make([]byte, 40<<10))
		go c.Write(patience(t), TextMessage, []byte("other"))
		for _, f := range p.drain() {
			if f.first > 2 {
				t.Fatalf("the peer reads %v, want fragments", f)
			}
		}
		p.send("89 01 70")
		p.expect("8a 01 70")
		go c.Ping(patience(t))
		p.expectPing()
		w.Close()
		for f := p.next(); f.first < 0x80; f = p.next() {
		}
		p.expect("81 05 6f74686572")
	})
}
