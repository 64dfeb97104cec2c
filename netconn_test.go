package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestStream_Writes_OneMessagePerWrite(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		for typ, b0 := range map[MessageType]byte{TextMessage: 0x81, BinaryMessage: 0x82} {
			s := c.Stream(typ)
			if s.LocalAddr() != c.LocalAddr() || s.RemoteAddr() != c.RemoteAddr() || c.LocalAddr() == nil {
				t.Errorf("the addresses are %v and %v, want %v and %v", s.LocalAddr(), s.RemoteAddr(), c.LocalAddr(), c.RemoteAddr())
			}
			for _, data := range []string{"Hello", "", "κόσμε", strings.Repeat("x", 30000)} {
				if n, err := io.WriteString(s, data); n != len(data) || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				p.expect(frameHex(b0, []byte(data)))
			}
		}
		_, err := c.Stream(TextMessage).Write([]byte("\xff"))
		wantError(t, "Write of a text that is not UTF-8", err, errNotUTF8)
	})
}

func TestStream_Reads_AcrossMessages(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		s := c.Stream(BinaryMessage)
		p.send("82 03 616263", "82 00", "02 01 64", "89 00", "00 00", "80 02 6566", "82 00", "82 01 67", closeHex(1000, ""))
		b := make([]byte, 2)
		if n, err := io.ReadFull(s, b); n != 2 || err != nil || string(b) != "ab" {
			t.Errorf("%d, %v, %q", n, err, b)
		}
		if n, err := s.Read(nil); n != 0 || err != nil {
			t.Errorf("a Read of no bytes: %d, %v", n, err)
		}
		if rest, err := io.ReadAll(s); string(rest) != "cdefg" || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
		if n, err := s.Read(b); n != 0 || err != io.EOF {
			t.Errorf("a Read after the end: %d, %v", n, err)
		}
	})
}

// A Stream does not return a message that another read of the connection has begun or skipped.
func TestStream_Reads_BesideOtherReads(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		s := c.Stream(BinaryMessage)
		p.send("82 02 6162", "82 02 6364", "82 02 6566", "82 02 6768")
		wantPipeRead(t, s, "a")
		wantRead(t, c, BinaryMessage, "cd")
		wantPipeRead(t, s, "e")
		wantPipeRead(t, c.Stream(BinaryMessage), "gh")
	})
}

// Read "returns io.EOF when Messages would end without an error".
func TestStream_Reads_TheEnd(t *testing.T) {
	for name, row := range connectionEnds {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			s := c.Stream(BinaryMessage)
			p.send("82 01 61")
			wantPipeRead(t, s, "a")
			go row.end(c, p)
			n, err := s.Read(make([]byte, 1))
			if row.quiet {
				row.want = io.EOF
			}
			wantPipeError(t, n, err, row.want)
		})
	}
}

func TestStream_Refuses_Text(t *testing.T) {
	for _, frame := range []string{"81 01 61", "81 00"} {
		eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
			p.send("82 01 61", frame)
			b, err := io.ReadAll(c.Stream(BinaryMessage))
			wantEqual(t, "the bytes", string(b), "a")
			wantFailure(t, "Read", err, StatusUnsupportedData)
			p.expectClose(StatusUnsupportedData)
		})
	}
}

// A deadline that passes inside a message or a frame header loses nothing.
func TestStream_Reads_AfterDeadlines(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		s := c.Stream(BinaryMessage)
		var got []byte
		b := make([]byte, 10)
		for i, x := range towards(p.server, "02 02 6162", "80 03 636465") {
			set := s.SetReadDeadline
			if i%3 == 0 {
				set = s.SetDeadline
			}
			set(time.Now().Add(time.Second))
			start := time.Now()
			n, err := s.Read(b)
			got = append(got, b[:n]...)
			var timeout net.Error
			if n == 0 && (!errors.As(err, &timeout) || !timeout.Timeout() || time.Since(start) != time.Second) {
				t.Errorf("Read after %v: %v", time.Since(start), err)
			}
			p.sendBytes([]byte{x})
		}
		s.SetReadDeadline(time.Time{})
		wantPipeRead(t, s, "abcde"[len(got):])
		if !strings.HasPrefix("abcde", string(got)) {
			t.Errorf("the first bytes are %q", got)
		}
	})
}

func TestStream_Reads_WhileItsDeadlineMoves(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		s := c.Stream(BinaryMessage)
		read := func() error { _, err := s.Read(make([]byte, 1)); return err }
		got, second := background(read), background(read)
		pending(t, "Read", got)
		s.SetReadDeadline(time.Now().Add(time.Hour))
		pass(time.Minute)
		pending(t, "Read", got)
		s.SetReadDeadline(time.Now().Add(time.Minute))
		pass(time.Second)
		pending(t, "Read", got)
		s.SetReadDeadline(time.Unix(1, 0))
		wantError(t, "Read", <-got, os.ErrDeadlineExceeded)
		wantError(t, "a Read that waits for it", <-second, os.ErrDeadlineExceeded)
		wantError(t, "Read", read(), os.ErrDeadlineExceeded)
		s.SetReadDeadline(time.Now().Add(time.Second))
		p.send("82 01 61")
		wantOK(t, "Read", read())
	})
}

func TestStream_Writes_NothingAfterItsDeadline(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		s := c.Stream(BinaryMessage)
		s.SetWriteDeadline(time.Now().Add(-time.Second))
		_, err := s.Write([]byte("a"))
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		p.quiet()
		s.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := s.Write([]byte("b")); err != nil {
			t.Errorf("Write: %v", err)
		}
		p.expect("82 01 62")
	})
}

// A Write returns nil only if its message is sent. When its deadline passes, Close may have dropped a message that
// waited.
func TestStream_Writes_UntilItsDeadlineAndCloseMeet(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the Write that waits runs after both
	inBubble(t, func(t *testing.T) {
		c, p := connectRaw(t, true)
		s := c.Stream(BinaryMessage)
		c.Send(BinaryMessage, make([]byte, testMaxPending))
		wrote := background(func() error { _, err := s.Write([]byte("a")); return err })
		synctest.Wait()
		s.SetWriteDeadline(past)
		closed := background(func() error { return c.Close(StatusNormalClosure, "") })
		runtime.Gosched()
		err := <-wrote
		p.next()
		if f := p.next(); (err == nil) != (f.first == 0x82) {
			t.Errorf("Write returned %v, and %v follows", err, f)
		}
		p.send(closeHex(1000, ""))
		<-closed
	})
}

func TestStream_Closes_WithAHandshake(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		s := c.Stream(BinaryMessage)
		got := background(func() error { _, err := s.Read(make([]byte, 1)); return err })
		pending(t, "Read", got)
		closed := background(s.Close)
		p.expectClose(StatusNormalClosure)
		p.send(closeHex(1000, ""))
		p.expectEnd()
		wantOK(t, "Close", <-closed)
		if err := <-got; err == nil {
			t.Error("Read: nil")
		}
		if _, err := s.Write([]byte("a")); err == nil {
			t.Error("Write: nil")
		}
	})
}

// Two Streams carry bytes both ways at once, however they are cut.
func TestStream_Copies_BothWays(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		server, client := Pipe(nil, nil)
		a, b := server.Stream(BinaryMessage), client.Stream(BinaryMessage)
		data := pattern(700 << 10)
		for _, s := range []net.Conn{a, b} {
			go func() {
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 1+len(rest)%70000)
					s.Write(rest[:n])
					rest = rest[n:]
				}
			}()
		}
		got := func(s net.Conn) <-chan []byte {
			return background(func() []byte { p := make([]byte, len(data)); io.ReadFull(s, p); return p })
		}
		gotA, gotB := got(a), got(b)
		if !bytes.Equal(<-gotA, data) || !bytes.Equal(<-gotB, data) {
			t.Error("the bytes are not those that were written")
		}
		closed := background(a.Close)
		if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read: %d, %v", n, err)
		}
		wantOK(t, "Close", <-closed)
		b.Close()
	})
}

// checkDeadline checks whether the context of a deadline is done.
func checkDeadline(t *testing.T, when string, ctx context.Context, passed bool) {
	t.Helper()
	synctest.Wait()
	if done := ctx.Err() != nil; done != passed || passed && context.Cause(ctx) != os.ErrDeadlineExceeded {
		t.Errorf("%s: the context has %v, %v", when, ctx.Err(), context.Cause(ctx))
	}
}

func TestDeadline_MovedBeforeItPasses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d deadline
		ctx := d.context()
		for _, left := range []time.Duration{time.Second, time.Minute, time.Second} {
			d.set(time.Now().Add(left))
			pass(left - 1)
			checkDeadline(t, "before it passes", ctx, false)
		}
		d.set(time.Time{})
		pass(time.Hour)
		checkDeadline(t, "without one", ctx, false)
		d.set(time.Now().Add(time.Second))
		pass(time.Second)
		checkDeadline(t, "afterwards", ctx, true)
	})
}

func TestDeadline_MovedAfterItPassed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d deadline
		for _, at := range []time.Time{time.Now(), time.Unix(1, 0), time.Now().Add(-1)} {
			d.set(at)
			checkDeadline(t, "in the past", d.context(), true)
			old := d.context()
			d.set(time.Now().Add(time.Second))
			checkDeadline(t, "moved on", d.context(), false)
			checkDeadline(t, "moved on, to a goroutine that waits", old, true)
			pass(time.Second)
			checkDeadline(t, "again", d.context(), true)
		}
		d.set(time.Time{})
		checkDeadline(t, "removed", d.context(), false)
	})
}

// A timer may fire just before the deadline is moved and run just after it.
func TestDeadline_MovedWhileItsTimerFires(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d deadline
		ctx := d.context()
		d.set(time.Now().Add(time.Minute))
		d.expire()
		checkDeadline(t, "moved to later", ctx, false)
		d.set(time.Time{})
		d.expire()
		checkDeadline(t, "removed", ctx, false)
		d.set(time.Now().Add(time.Minute))
		d.expire()
		pass(time.Minute)
		checkDeadline(t, "at its time", ctx, true)
	})
}

// A verdict that another call's context caused is not mistaken for the deadline of this Stream.
func TestStream_Writes_AfterConnectionIsLostByAnotherContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(os.ErrDeadlineExceeded) // as a deadline does
	verdict := error(&lostError{"writing", context.Canceled})
	if err := netError(ctx, verdict); err != verdict {
		t.Errorf("%v, want %v", err, verdict)
	}
}
