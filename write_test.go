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
		if !c.soft { // of TLS, a whole record has to be taken
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
