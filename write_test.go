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
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// Sending: frames as they stand on the wire, whole messages and streams, turns, cancelling, timeouts.

// A51, A53, A58, A60, A63, A93: what stands on the wire at the boundaries of the length; readFrame judges it.
func TestSendsLengths(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
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
				t.Errorf("A63: Write changed the %d bytes it was given", n)
			}
		}
	})
}

// pattern returns n bytes that are told from those at any other place.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// A94 and the types.
func TestSendsTypes(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, row := range []struct {
			typ  MessageType
			data string
			want string
		}{
			{TextMessage, "Hello", "81 05 48656c6c6f"}, {BinaryMessage, "\xff", "82 01 ff"}, {TextMessage, "", "81 00"},
			{BinaryMessage, "", "82 00"}, {TextMessage | Uncompressed, "a", "81 01 61"}, {BinaryMessage | Uncompressed, "", "82 00"},
		} {
			if err := c.Write(patience(t), row.typ, []byte(row.data)); err != nil {
				t.Errorf("Write of type %d: %v", row.typ, err)
			}
			p.expect(row.want)
			if err := c.Send(row.typ, []byte(row.data)); err != nil {
				t.Errorf("Send of type %d: %v", row.typ, err)
			}
			p.expect(row.want)
		}
		if err := c.Write(patience(t), BinaryMessage, nil); err != nil {
			t.Error(err)
		}
		p.expect("82 00")
	})
}

// A type that is none is an error; nothing is sent and the connection lives.
func TestSendsNoOtherType(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, typ := range []MessageType{0, 3, 8, 9, 10, 0x11, 0x41, Uncompressed, Uncompressed | 3, 0xff} {
			if err := c.Write(patience(t), typ, []byte("a")); err == nil {
				t.Errorf("Write of type %#x", typ)
			}
			if err := c.Send(typ, []byte("a")); err == nil {
				t.Errorf("Send of type %#x", typ)
			}
			if _, err := c.Writer(patience(t), typ); err == nil {
				t.Errorf("Writer of type %#x", typ)
			}
			if _, err := NewPreparedMessage(typ, []byte("a")); err == nil {
				t.Errorf("NewPreparedMessage of type %#x", typ)
			}
		}
		p.quiet()
		if err := c.Write(patience(t), BinaryMessage, []byte("a")); err != nil {
			t.Error(err)
		}
		p.expect("82 01 61")
	})
}

// A92: "Write and Send of a TextMessage that is not UTF-8 return an error and send nothing."
func TestSendsNoTextThatIsNotUTF8(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, row := range textRows {
			text := []byte(row.text)
			_, prepErr := NewPreparedMessage(TextMessage, text)
			for _, err := range []error{
				c.Write(patience(t), TextMessage, text),
				c.Write(patience(t), TextMessage|Uncompressed, text),
				c.Send(TextMessage, text),
				prepErr,
			} {
				if row.ok != (err == nil) {
					t.Errorf("%s: %v", row.name, err)
				}
			}
			if !row.ok {
				p.quiet()
				if err := c.Write(patience(t), BinaryMessage, text); err != nil {
					t.Errorf("%s, as a binary message: %v", row.name, err)
				}
				p.expect(frameHex(0x82, text))
				continue
			}
			p.expect(frameHex(0x81, text), frameHex(0x81, text), frameHex(0x81, text))
		}
	})
}

// "p is not kept": it may be changed as soon as the call has returned, also when the socket is not free.
func TestSendsWhatWasGiven(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		blocked := block(t, c)
		var want []string
		for i := range 40 {
			b := []byte(fmt.Sprintf("message %d", i))
			want = append(want, frameHex(0x81, b))
			if err := c.Send(TextMessage, b); err != nil {
				t.Fatal(err)
			}
			clear(b)
		}
		p.next()
		if err := <-blocked; err != nil {
			t.Error(err)
		}
		p.expect(want...)
	})
}

// block has a Write of more than a pipe or socket takes under way.
func block(t *testing.T, c *Conn) <-chan error {
	t.Helper()
	blocked := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 300<<10)) })
	pending(t, "Write to a peer that does not read", blocked)
	return blocked
}

// "Messages leave in the order of the calls, whichever of Write, Send, WritePrepared and SendPrepared made them."
func TestSendsInOrderOfCalls(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, busy := range []bool{false, true} {
			c, p := connectRaw(t, server)
			if busy {
				block(t, c)
			}
			var want []string
			for i := range 60 {
				b := []byte(fmt.Sprint(i))
				want = append(want, frameHex(0x81, b))
				if err := sendSomehow(patience(t), c, i, b); err != nil {
					t.Fatal(err)
				}
			}
			if busy {
				p.next()
			}
			p.expect(want...)
			c.CloseNow()
		}
	})
}

func sendSomehow(ctx context.Context, c *Conn, i int, b []byte) error {
	m, err := NewPreparedMessage(TextMessage, b)
	if err != nil {
		return err
	}
	switch i % 4 {
	case 0:
		return c.Send(TextMessage, b)
	case 1:
		return c.Write(ctx, TextMessage, b)
	case 2:
		return c.SendPrepared(m)
	}
	return c.WritePrepared(ctx, m)
}

// A71: whole messages, whoever writes them; a message that is streamed keeps the others waiting.
func TestSendsConcurrentMessagesWhole(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		const writers, each = 8, 30
		for i := range writers {
			go func() {
				for j := range each {
					streamOrWrite(patience(t), c, j, bytes.Repeat([]byte{byte(i)}, 1+j*97))
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

func streamOrWrite(ctx context.Context, c *Conn, j int, b []byte) {
	if j%3 != 0 {
		c.Write(ctx, BinaryMessage, b)
		return
	}
	w, err := c.Writer(ctx, BinaryMessage)
	if err != nil {
		return
	}
	for part := range bytes.SplitSeq(b, nil) {
		w.Write(part)
	}
	w.Close()
}

// message reads frames to the end of a message.
func (p *rawPeer) message() []byte {
	p.t.Helper()
	f := p.next()
	b := f.payload
	if f.first&0xf == 0 {
		p.t.Fatalf("A67: %v begins a message", f)
	}
	for f.first < 0x80 {
		if f = p.next(); f.first&0xf != 0 {
			p.t.Fatalf("A71: %v inside of a message", f)
		}
		b = append(b, f.payload...)
	}
	return b
}

// "Cancelling a write that waits for its turn changes nothing."
func TestSendsNothingOfCancelledWriteThatWaits(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		w, err := c.Writer(patience(t), TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "first ")
		m, _ := NewPreparedMessage(BinaryMessage, []byte("never"))
		for name, write := range map[string]func(ctx context.Context) error{
			"Write":         func(ctx context.Context) error { return c.Write(ctx, BinaryMessage, make([]byte, testMaxPending+1)) },
			"Writer":        func(ctx context.Context) error { _, err := c.Writer(ctx, BinaryMessage); return err },
			"WritePrepared": func(ctx context.Context) error { return c.WritePrepared(ctx, m) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := write(ctx)
			if name == "Writer" || name == "Write" || err != nil {
				wantError(t, name, err, context.DeadlineExceeded)
			}
			cancel()
		}
		io.WriteString(w, "last")
		if err := w.Close(); err != nil {
			t.Errorf("Close of the Writer: %v", err)
		}
		if got := p.message(); string(got) != "first last" {
			t.Errorf("the message is %q", got)
		}
		c.Write(patience(t), TextMessage, []byte("next"))
		for {
			if got := string(p.message()); got == "next" {
				break
			} else if got != "never" {
				t.Fatalf("a trace of a cancelled Write: %d bytes %.40q", len(got), got)
			}
		}
	})
}

// A ctx that has ended already sends nothing.
func TestSendsNothingWithEndedContext(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		m, _ := NewPreparedMessage(BinaryMessage, []byte("a"))
		_, werr := c.Writer(ctx, BinaryMessage)
		for i, err := range []error{c.Write(ctx, BinaryMessage, []byte("a")), c.WritePrepared(ctx, m), c.WriteJSON(ctx, 1), werr} {
			wantError(t, fmt.Sprint("write ", i), err, context.Canceled)
		}
		p.quiet()
		if err := c.Write(patience(t), BinaryMessage, []byte("b")); err != nil {
			t.Error(err)
		}
		p.expect("82 01 62")
	})
}

// "Once a part of a frame is out, it fails the connection."
func TestSendsPartOfFrameAndIsCancelled(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		reading := background(func() error { return readOne(patience(t), c).err })
		start := time.Now()
		err := c.Write(ctx, BinaryMessage, make([]byte, 300<<10))
		wantError(t, "Write", err, context.DeadlineExceeded)
		if d := time.Since(start); d < time.Second || d > time.Second+testCloseTimeout {
			t.Errorf("Write took %v", d)
		}
		if err := c.Write(patience(t), BinaryMessage, []byte("more")); err == nil {
			t.Error("a Write after a part of a frame")
		}
		if err := <-reading; err == nil {
			t.Error("a Read after the connection failed")
		}
		if c.Context().Err() == nil {
			t.Error("the connection lives")
		}
		if f, err := readFrame(p.in, server); err == nil || isTimeout(err) {
			t.Errorf("the peer reads %v, %v, want a part of a frame and the end", f, err)
		}
	})
}

// WriteTimeout is the "longest time the socket may take nothing": a slow peer is no dead one.
func TestSendsSlowlyWithinWriteTimeout(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 300<<10)) })
		pause := testWriteTimeout - time.Second
		if !c.out.soft { // of TLS, a whole record has to be taken
			pause /= 2
		}
		taken, b := 0, make([]byte, 20<<10)
		for taken < 300<<10 {
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

func TestSendsToPeerThatTakesNothing(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		reading := background(func() error { return readOne(patience(t), c).err })
		start := time.Now()
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 300<<10)) })
		pass(20 * time.Second)
		p.in.Discard(30 << 10)
		err := <-wrote
		if d := time.Since(start); d != 20*time.Second+testWriteTimeout {
			t.Errorf("Write took %v", d)
		}
		wantLost(t, "Write", err)
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		for range 100 {
			if again := c.Write(patience(t), BinaryMessage, nil); again != err {
				t.Fatalf("a later Write: %v, want %v", again, err)
			}
		}
		if err := <-reading; err == nil {
			t.Error("a Read after the connection failed")
		}
	})
}

// "After a write error every later write returns it", of every kind.
func TestSendsAfterLostConnection(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.nc.Close()
		var err error
		for i := 0; err == nil && i < 10; i++ {
			synctest.Wait() // the news travels
			err = c.Write(patience(t), BinaryMessage, []byte("a"))
		}
		wantLost(t, "Write", err)
		m, _ := NewPreparedMessage(BinaryMessage, []byte("a"))
		_, werr := c.Writer(patience(t), BinaryMessage)
		_, perr := c.Ping(patience(t))
		for i, again := range []error{c.Write(patience(t), BinaryMessage, nil), c.Send(BinaryMessage, nil), werr, perr,
			c.WritePrepared(patience(t), m), c.SendPrepared(m), c.WriteJSON(patience(t), 1)} {
			if again != err {
				t.Errorf("later write %d: %v, want %v", i, again, err)
			}
		}
	})
}

// A message of a type that would be refused is refused too when the connection has ended; nothing panics.
func TestSendsAfterCloseNow(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, _ := connectRaw(t, server)
		w, err := c.Writer(patience(t), BinaryMessage)
		if err != nil {
			t.Fatal(err)
		}
		c.CloseNow()
		_, err = w.Write([]byte("a"))
		wantError(t, "Write of the Writer", err, net.ErrClosed)
		wantError(t, "Close of the Writer", w.Close(), net.ErrClosed)
		wantError(t, "Write", c.Write(patience(t), BinaryMessage, nil), net.ErrClosed)
		wantError(t, "Send", c.Send(BinaryMessage, nil), net.ErrClosed)
		wantError(t, "WriteJSON", c.WriteJSON(patience(t), 1), net.ErrClosed)
		if c.Send(3, nil) == nil || c.Write(patience(t), TextMessage, []byte("\xff")) == nil {
			t.Error("a misuse after the end")
		}
	})
}

// countingConn counts the writes on a net.Conn that is no socket.
type countingConn struct {
	net.Conn
	writes, reads int
}

func (c *countingConn) softDeadlines() {}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

func (c *countingConn) Read(p []byte) (int, error) {
	c.reads++
	return c.Conn.Read(p)
}

// One write for header and payload of a message that is not large.
func TestSendsInOneWrite(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		counting := &countingConn{Conn: a}
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

// "When more complete messages are waiting in the read buffer, the frame joins the pending buffer", and is out "at
// the latest when the caller blocks or the read buffer is drained".
func TestSendsAnswersTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // or an idle processor takes them sooner
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		counting := &countingConn{Conn: a}
		c, p := connectOver(t, counting, b, server)
		var in, out []string
		for i := range 100 {
			in = append(in, frameHex(0x81, fmt.Append(nil, i)))
		}
		out = in
		p.send(in...)
		for range in {
			typ, b, err := c.Read(patience(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Write(patience(t), typ, b); err != nil {
				t.Fatal(err)
			}
		}
		p.expect(out...)
		if counting.writes > 20 {
			t.Errorf("100 answers took %d writes", counting.writes)
		}
	})
}

func TestSendsAnswerWhileCallerBlocks(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("81 01 61", "81 01 62", "81 01 63")
		wantRead(t, c, TextMessage, "a")
		c.Write(patience(t), TextMessage, []byte("answer"))
		start := time.Now()
		p.expect("81 06 616e73776572") // while this goroutine waits for something else
		if d := time.Since(start); d > 0 {
			t.Errorf("the answer took %v", d)
		}
	})
}

// R29: a Write that is interrupted by control frames makes progress, and they come between frames.
func TestSendsPongBetweenMessages(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		go func() {
			for c.Context().Err() == nil {
				readOne(patience(t), c)
			}
		}()
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

// iotest's writers and readers find what io.Copy does with a Writer.
func TestSendsStreamFromReader(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"OneByte": iotest.OneByteReader, "Half": iotest.HalfReader, "DataErr": iotest.DataErrReader,
			"Plain": func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
		} {
			c, p := connectRaw(t, server)
			data := strings.Repeat("κόσμε €", 700)
			go func() {
				w, err := c.Writer(patience(t), TextMessage)
				if err == nil {
					_, err = io.Copy(w, wrap(strings.NewReader(data)))
				}
				if err = errors.Join(err, w.Close()); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}()
			if got := string(p.message()); got != data {
				t.Errorf("%s: %d bytes of %d", name, len(got), len(data))
			}
			synctest.Wait()
			c.CloseNow()
		}
	})
}

// takingOver agrees on permessage-deflate with windows that are kept, for messages of any length.
func takingOver(cfg *config) {
	cfg.deflate = &deflateParams{level: 1, threshold: 1, sendTakeover: true, recvTakeover: true, sendBits: 15, recvBits: 15}
}

// Once a window that is kept has seen a message, the message has to go out, whatever becomes of the ctx of its call.
func TestConn_Writes_WindowHasSeenWhatItsContextGivesUp(t *testing.T) {
	data := jsonText(1, 40<<10)
	eachRole(t, func(t *testing.T, server bool) {
		for name, write := range map[string]func(ctx context.Context, c *Conn) error{
			"Write": func(ctx context.Context, c *Conn) error { return c.Write(ctx, TextMessage, data) },
			"WritePrepared": func(ctx context.Context, c *Conn) error {
				m, err := NewPreparedMessage(TextMessage, data)
				if err != nil {
					t.Fatal(err)
				}
				return c.WritePrepared(ctx, m)
			},
		} {
			for _, wrap := range []func(net.Conn) net.Conn{func(nc net.Conn) net.Conn { return nc }, func(nc net.Conn) net.Conn { return wrappedConn{nc} }} {
				near, far := roleEnds(t, server)
				c, peer := connectEnds(t, wrap(near), far, server, smallPending, takingOver)
				blocked := background(func() error { return c.Write(patience(t), BinaryMessage|Uncompressed, make([]byte, 300<<10)) })
				pending(t, "Write to a peer that does not read", blocked)
				ctx := newAskedContext(t)
				wrote := background(func() error { return write(ctx, c) })
				pending(t, name, wrote)
				ctx.arm()
				wantRead(t, peer, BinaryMessage, string(make([]byte, 300<<10)))
				last := background(func() error { return c.Write(patience(t), TextMessage, data) })
				got := []string{returned(t, "Read", background(func() string { return readOne(patience(t), peer).data }))}
				err := returned(t, name, wrote)
				if err == nil {
					got = append(got, readOne(patience(t), peer).data)
				} else {
					wantError(t, name, err, context.Canceled)
				}
				for _, s := range got {
					if s != string(data) {
						t.Fatalf("%s: the peer reads %d bytes %.40q", name, len(s), s)
					}
				}
				for what, err := range map[string]error{"the first Write": <-blocked, "the last Write": returned(t, "the last Write", last)} {
					if err != nil {
						t.Errorf("%s: %v", what, err)
					}
				}
				if ctx.spun() {
					t.Errorf("%s spins", name)
				}
				c.CloseNow()
				peer.CloseNow()
			}
		}
	})
}

// A ctx that ends after its Write has returned does not touch what the connection beneath writes by itself.
func TestConn_Writes_ContextThatEndedBehindBeforeKeyUpdate(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
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

// "Pending may pass MaxPending by one frame header", also with the messages of calls that waited.
func TestConn_Writes_WaitingCallsWithinMaxPending(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, smallPending)
		blocked := block(t, c)
		var all []<-chan error
		for range 30 {
			all = append(all, background(func() error { return c.Write(patience(t), BinaryMessage, pattern(600)) }))
			synctest.Wait()
		}
		first := headerSize(300<<10, !server) + 300<<10
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
	})
}

// A Write behind frames that were deferred counts as one behind frames that are being sent.
func TestConn_Writes_BehindDeferredFramesWithinMaxPending(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // or an idle processor sends what was deferred
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, smallPending)
		filler := pipeSize - headerSize(pipeSize, !server)
		if err := c.Write(patience(t), BinaryMessage, make([]byte, filler)); err != nil {
			t.Fatal(err)
		}
		p.send("81 01 61", "81 01 62")
		wantRead(t, c, TextMessage, "a")
		for range 4 {
			if err := c.Write(patience(t), BinaryMessage, pattern(200)); err != nil {
				t.Fatal(err)
			}
		}
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, pattern(4000)) })
		pending(t, "Write", wrote)
		if got := c.Stats().Pending; got > 1000+maxHeader {
			t.Errorf("%d bytes are pending, with a limit of 1000", got)
		}
		p.next()
		for range 4 {
			p.expect(frameHex(0x82, pattern(200)))
		}
		p.expect(frameHex(0x82, pattern(4000)))
		if err := returned(t, "Write", wrote); err != nil {
			t.Error(err)
		}
	})
}

// contextWrites are the ways to write that take a context.
var contextWrites = map[string]func(ctx context.Context, c *Conn) error{
	"Write":     func(ctx context.Context, c *Conn) error { return c.Write(ctx, BinaryMessage, []byte("a")) },
	"WriteJSON": func(ctx context.Context, c *Conn) error { return c.WriteJSON(ctx, 1) },
	"WritePrepared": func(ctx context.Context, c *Conn) error {
		m, err := NewPreparedMessage(BinaryMessage, []byte("a"))
		if err != nil {
			return err
		}
		return c.WritePrepared(ctx, m)
	},
	"Writer": func(ctx context.Context, c *Conn) error { _, err := c.Writer(ctx, BinaryMessage); return err },
}

// "An error of a call whose ctx ended matches both ctx.Err() and context.Cause(ctx)": of calls that wait for a Writer, and
// of those that come late.
func TestConn_Writes_ContextThatEndsWithCause(t *testing.T) {
	for name, write := range contextWrites {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				w, err := c.Writer(patience(t), BinaryMessage)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				waits := background(func() error { return write(ctx, c) })
				pending(t, name, waits)
				cancel(errEnough)
				wantError(t, name, returned(t, name, waits), context.Canceled, errEnough)
				wantError(t, name+" of an ended context", write(ctx, c), context.Canceled, errEnough)
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				p.expect("82 00")
			})
		})
	}
}

// The same of a frame that is cut, and of a Writer's calls.
func TestConn_Writes_CutByContextThatEndsWithCause(t *testing.T) {
	for name, write := range map[string]func(ctx context.Context, c *Conn) error{
		"Write": func(ctx context.Context, c *Conn) error { return c.Write(ctx, BinaryMessage, make([]byte, 300<<10)) },
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
			eachRole(t, func(t *testing.T, server bool) {
				c, _ := connectRaw(t, server)
				ctx, cancel := context.WithCancelCause(t.Context())
				cut := background(func() error { return write(ctx, c) })
				pending(t, name, cut)
				cancel(errEnough)
				wantError(t, name, returned(t, name, cut), context.Canceled, errEnough)
				wantEnded(t, c)
			})
		})
	}
}

// A Writer whose ctx has ended says so, with the cause.
func TestConn_Writes_WriterWhoseContextEndedWithCause(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithCancelCause(t.Context())
		w, err := c.Writer(ctx, BinaryMessage)
		if err != nil {
			t.Fatal(err)
		}
		cancel(errEnough)
		synctest.Wait()
		_, err = w.Write([]byte("a"))
		wantError(t, "Write", err, context.Canceled, errEnough)
		wantError(t, "Close", w.Close(), context.Canceled, errEnough)
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, []byte("b")) })
		p.expect("82 01 62")
		wantError(t, "a later Write", returned(t, "a later Write", wrote), nil)
	})
}

// A context ends every wait: where a write cannot be interrupted by a deadline, the connection is closed.
func TestConn_Writes_ContextThatEndsWithoutDeadlines(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		c, p := connectOver(t, channelConn{near}, far, server)
		if err := c.Write(patience(t), BinaryMessage, []byte("a")); err != nil {
			t.Fatal(err)
		}
		p.expect("82 01 61")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wrote := background(func() error { return c.Write(ctx, BinaryMessage, make([]byte, 300<<10)) })
		wantError(t, "Write", returned(t, "Write", wrote), context.DeadlineExceeded)
		wantEnded(t, c)
	})
}

// WriteTimeout over connections whose timeouts are no os.ErrDeadlineExceeded.
func TestConn_Writes_TakenByNobodyOverForeignTimeouts(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		c, _ := connectOver(t, foreignConn{near}, far, server)
		start := time.Now()
		err := c.Write(patience(t), BinaryMessage, make([]byte, 300<<10))
		if d := time.Since(start); d != testWriteTimeout {
			t.Errorf("Write took %v", d)
		}
		wantLost(t, "Write", err)
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
	})
}

// connectionEnds are ends of a connection, and what every call says of them.
var connectionEnds = map[string]struct {
	end  func(c *Conn, p *rawPeer)
	want error
}{
	"PeerCloses":     {func(c *Conn, p *rawPeer) { reads(p.t, c); p.send(closeHex(4001, "")) }, StatusCode(4001)},
	"PeerBreaksRule": {func(c *Conn, p *rawPeer) { reads(p.t, c); p.send("83 00") }, StatusProtocolError},
	"PeerGoes":       {func(c *Conn, p *rawPeer) { reads(p.t, c); p.nc.Close() }, StatusAbnormalClosure},
	"Close":          {func(c *Conn, p *rawPeer) { c.Close(StatusNormalClosure, "") }, net.ErrClosed},
	"CloseNow":       {func(c *Conn, p *rawPeer) { c.CloseNow() }, net.ErrClosed},
}

// "A call whose ctx ends because the connection ended (it was given c.Context()) returns the connection's error, not
// ctx's": of calls that come later.
func TestConn_Writes_AfterTheEndWithItsOwnContext(t *testing.T) {
	for name, row := range connectionEnds {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				ctx := c.Context()
				row.end(c, p)
				<-ctx.Done()
				for what, call := range contextWrites {
					wantVerdict(t, what, call(ctx, c), row.want)
				}
				for what, read := range waysToRead {
					if _, _, err := read(ctx, c); err != io.EOF { // Messages ends quietly
						wantVerdict(t, what, err, row.want)
					}
				}
				_, err := c.Ping(ctx)
				wantVerdict(t, "Ping", err, row.want)
			})
		})
	}
}

// The same of calls that wait while the connection ends.
func TestConn_Writes_WaitingAtTheEndWithItsOwnContext(t *testing.T) {
	for name, row := range connectionEnds {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				ctx := c.Context()
				w, err := c.Writer(ctx, BinaryMessage)
				if err != nil {
					t.Fatal(err)
				}
				waits := map[string]<-chan error{"Ping": background(func() error { _, err := c.Ping(ctx); return err })}
				for what, write := range contextWrites {
					waits[what] = background(func() error { return write(ctx, c) })
				}
				for _, what := range []string{"Read", "Read that waits for its turn"} {
					waits[what] = background(func() error { return readOne(ctx, c).err })
				}
				synctest.Wait()
				row.end(c, p)
				for what, err := range waits {
					wantVerdict(t, what, returned(t, what, err), row.want)
				}
				_, err = w.Write([]byte("a"))
				wantVerdict(t, "the Writer's Write", err, row.want)
			})
		})
	}
}

// wantVerdict demands the error of the connection, and not that of its context.
func wantVerdict(t *testing.T, what string, err, want error) {
	t.Helper()
	wantError(t, what, err, want)
	if errors.Is(err, context.Canceled) {
		t.Errorf("%s: %v, the error of the context", what, err)
	}
}

// A source that blocks does not keep the turn of its Writer when the ctx ends: nothing is out, and others may write.
func TestConn_Writes_BesideReadFromWhoseContextEnded(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithCancelCause(t.Context())
		w, err := c.Writer(ctx, BinaryMessage)
		if err != nil {
			t.Fatal(err)
		}
		source, feed := io.Pipe()
		defer feed.Close()
		copied := background(func() error { _, err := io.Copy(w, source); return err })
		feed.Write([]byte("never"))
		pending(t, "ReadFrom", copied)
		wrote := background(func() error { return c.Write(patience(t), TextMessage, []byte("a")) })
		pending(t, "Write behind a Writer", wrote)
		cancel(errEnough)
		if err := returned(t, "Write", wrote); err != nil {
			t.Error(err)
		}
		p.expect("81 01 61")
		feed.Close()
		wantError(t, "ReadFrom", returned(t, "ReadFrom", copied), context.Canceled, errEnough)
		wantError(t, "Close of the Writer", w.Close(), context.Canceled, errEnough)
		if err := c.Write(patience(t), TextMessage, []byte("b")); err != nil {
			t.Error(err)
		}
		p.expect("81 01 62")
	})
}

// The neighbour: with a frame out the message cannot be finished, which the peer is told at once.
func TestConn_Writes_ReadFromWhoseContextEndedAfterItsFirstFrame(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithCancelCause(t.Context())
		w, err := c.Writer(ctx, BinaryMessage)
		if err != nil {
			t.Fatal(err)
		}
		source, feed := io.Pipe()
		defer feed.Close()
		copied := background(func() error { _, err := io.Copy(w, source); return err })
		feed.Write(make([]byte, 40<<10))
		pending(t, "ReadFrom", copied)
		cancel(errEnough)
		start := time.Now()
		p.failedInStream()
		if d := time.Since(start); d > testCloseTimeout {
			t.Errorf("the connection ended after %v", d)
		}
		feed.Close()
		if err := returned(t, "ReadFrom", copied); err == nil {
			t.Error("ReadFrom: no error")
		}
	})
}

// "Stats count frames of all kinds ... when they are accepted": what waits to be sent counts, however it is sent.
func TestConn_Stats_OfWhatWaits(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for name, send := range map[string]func(c *Conn) error{
			"Send":         func(c *Conn) error { return c.Send(BinaryMessage, pattern(100)) },
			"SendPrepared": func(c *Conn) error { return c.SendPrepared(prepare(t, pattern(100))) },
			"Write":        func(c *Conn) error { return c.Write(patience(t), BinaryMessage, pattern(100)) },
			"WritePrepared": func(c *Conn) error {
				return c.WritePrepared(patience(t), prepare(t, pattern(100)))
			},
			"Broadcast": func(c *Conn) error {
				var g Group
				g.Add(c)
				if g.Broadcast(prepare(t, pattern(100))) != 1 {
					return ErrBacklog
				}
				return nil
			},
		} {
			c, p := connectRaw(t, server)
			blocked := block(t, c)
			before := c.Stats()
			if err := send(c); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			size := headerSize(100, !server) + 100
			want := Stats{MessagesWritten: 1, PayloadWritten: 100, BytesWritten: uint64(size), Pending: size}
			after := c.Stats()
			got := Stats{MessagesWritten: after.MessagesWritten - before.MessagesWritten, PayloadWritten: after.PayloadWritten - before.PayloadWritten,
				BytesWritten: after.BytesWritten - before.BytesWritten, Pending: after.Pending - before.Pending}
			if got != want {
				t.Errorf("%s: %+v, want %+v", name, got, want)
			}
			p.next()
			p.expect(frameHex(0x82, pattern(100)))
			<-blocked
			synctest.Wait()
			first := uint64(headerSize(300<<10, !server) + 300<<10)
			if got := c.Stats(); got.MessagesWritten != 2 || got.BytesWritten != first+uint64(size) || got.Pending != 0 {
				t.Errorf("%s: %+v when all is out", name, got)
			}
			c.CloseNow()
		}
	})
}

// A call without a context, or with a PreparedMessage that NewPreparedMessage has not made, is an error: nothing is sent,
// and the connection lives.
func TestConn_Writes_Misuse(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		misuses := map[string]func() error{"Ping without a context": func() error { _, err := c.Ping(noContext); return err }}
		for name, write := range contextWrites {
			misuses[name+" without a context"] = func() error { return write(noContext, c) }
		}
		for name, m := range map[string]*PreparedMessage{"nil": nil, "zero": new(PreparedMessage)} {
			misuses["WritePrepared of "+name] = func() error { return c.WritePrepared(patience(t), m) }
			misuses["SendPrepared of "+name] = func() error { return c.SendPrepared(m) }
		}
		for name, call := range misuses {
			if err := returned(t, name, background(func() error { return unpanicked(call) })); err == nil {
				t.Errorf("%s: no error", name)
			} else if errors.Is(err, errPanicked) {
				t.Errorf("%s: %v", name, err)
			}
		}
		p.quiet()
		wrote := background(func() error { return c.Write(patience(t), TextMessage, []byte("a")) })
		if err := returned(t, "Write", wrote); err != nil {
			t.Error(err)
		}
		p.expect("81 01 61")
		p.send("81 01 62")
		wantRead(t, c, TextMessage, "b")
	})
}
