package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The streaming Writer.

// A64, A93: first frame with the opcode, last one with FIN, in between continuations; in order.
func TestSendsStream(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		w, err := c.Writer(patience(t), BinaryMessage)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		go func() {
			for n := range 200 {
				if m, err := w.Write(pattern(n * n)); m != n*n || err != nil {
					t.Errorf("Write: %d, %v", m, err)
				}
			}
			if err := w.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}()
		for n := range 200 {
			want = append(want, pattern(n*n)...)
		}
		f := p.next()
		if f.first&0xf != 2 {
			t.Fatalf("the first frame is %v", f)
		}
		got := f.payload
		for f.first < 0x80 {
			if f = p.next(); f.first&0xf != 0 {
				t.Fatalf("a fragment is %v", f)
			}
			got = append(got, f.payload...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("the message has %d bytes, want %d", len(got), len(want))
		}
	})
}

// A94: a stream of nothing is a message of no bytes.
func TestSendsEmptyStream(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, parts := range [][]string{nil, {""}, {"", ""}} {
			w, err := c.Writer(patience(t), TextMessage)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range parts {
				if n, err := io.WriteString(w, s); n != 0 || err != nil {
					t.Errorf("an empty Write: %d, %v", n, err)
				}
			}
			if err := w.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if got := p.message(); len(got) != 0 {
				t.Errorf("the message is %q", got)
			}
		}
	})
}

// A Writer that was closed does nothing more, and its second Close sends nothing.
func TestSendsNothingOfClosedWriter(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		w, err := c.Writer(patience(t), TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "a")
		w.Close()
		p.message()
		if _, err := io.WriteString(w, "b"); err == nil {
			t.Error("a Write after Close")
		}
		w.Close()
		p.quiet()
		next, err := c.Writer(patience(t), TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(next, "next ")
		io.WriteString(w, "never")
		w.Close()
		io.WriteString(next, "message")
		next.Close()
		if got := string(p.message()); got != "next message" {
			t.Errorf("the message is %q", got)
		}
	})
}

// "A Writer that is given an impossible UTF-8 byte returns an error and sends nothing of that call; the message is
// still open."
func TestSendsStreamWithoutImpossibleByte(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		w, err := c.Writer(patience(t), TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("x", 100<<10)
		for _, s := range []string{"one ", "!never\xff", "!\x80", "tw\xe2\x82", "!never", "\xac ", "!" + long + "\xc0", "three"} {
			wrong := strings.HasPrefix(s, "!")
			n, err := io.WriteString(w, s)
			if wrong && (err == nil || n != 0) || !wrong && (err != nil || n != len(s)) {
				t.Errorf("Write of %.20q: %d, %v", s, n, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if got := string(p.message()); got != "one tw€ three" {
			t.Errorf("the message is %.80q", got)
		}
	})
}

// A character may be split over calls at any byte, and in a binary stream any byte goes.
func TestSendsStreamByteByByte(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for typ, data := range map[MessageType]string{TextMessage: "aé€\U0001f600\x00", BinaryMessage: "\xff\xc0\x80"} {
			w, err := c.Writer(patience(t), typ)
			if err != nil {
				t.Fatal(err)
			}
			for i := range len(data) {
				if n, err := w.Write([]byte{data[i]}); n != 1 || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
			}
			if err := w.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if got := string(p.message()); got != data {
				t.Errorf("the message is %q", got)
			}
		}
	})
}

// "Closing it in the middle of a character ... fails the connection with StatusInternalError."
func TestSendsStreamClosedInsideCharacter(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		w, err := c.Writer(patience(t), TextMessage)
		if err != nil {
			t.Fatal(err)
		}
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

// "... or a cancelled ctx after its first frame is out."
func TestSendsStreamCancelledAfterFirstFrame(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithCancel(t.Context())
		w, err := c.Writer(ctx, TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, strings.Repeat("x", 40<<10)); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		_, err = io.WriteString(w, "y")
		wantError(t, "Write", errors.Join(err, w.Close()), context.Canceled)
		p.failedInStream()
	})
}

// A ctx that ends before anything is out takes the message back: the connection lives.
func TestSendsStreamCancelledBeforeFirstFrame(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithCancel(t.Context())
		w, err := c.Writer(ctx, TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		_, err = io.WriteString(w, "y")
		wantError(t, "Write", err, context.Canceled)
		w.Close()
		wrote := background(func() error { return c.Write(patience(t), TextMessage, []byte("z")) })
		p.expect("81 01 7a")
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

// A71, A72: other messages wait while a Writer is open; control frames do not.
func TestSendsControlFramesInsideStream(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		go readOne(patience(t), c)
		w, err := c.Writer(patience(t), BinaryMessage)
		if err != nil {
			t.Fatal(err)
		}
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
		if f := p.next(); f.first != 0x89 {
			t.Errorf("the peer reads %v, want a ping", f)
		}
		w.Close()
		for f := p.next(); ; f = p.next() {
			if f.first >= 0x80 {
				break
			}
		}
		p.expect("81 05 6f74686572")
	})
}

// A Writer that waits for its turn gets it when the one before is closed, or when the connection ends.
func TestSendsStreamsInTurn(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		first, err := c.Writer(patience(t), TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		open := func() (w io.WriteCloser) { w, _ = c.Writer(patience(t), TextMessage); return w }
		second := background(open)
		pending(t, "a second Writer", second)
		io.WriteString(first, "a")
		first.Close()
		w := <-second
		io.WriteString(w, "b")
		third := background(func() error { _, err := c.Writer(patience(t), TextMessage); return err })
		pending(t, "a third Writer", third)
		w.Close()
		if a, b := string(p.message()), string(p.message()); a != "a" || b != "b" {
			t.Errorf("messages %q and %q", a, b)
		}
		if err := <-third; err != nil {
			t.Error(err)
		}
		fourth := background(func() error { _, err := c.Writer(patience(t), TextMessage); return err })
		pending(t, "a fourth Writer", fourth)
		c.CloseNow()
		wantError(t, "Writer", <-fourth, net.ErrClosed)
	})
}

// A78: after our close frame a Writer that was open sends nothing.
func TestSendsNothingOfStreamAfterClose(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		w, err := c.Writer(patience(t), TextMessage)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		closed := background(func() error { return c.Close(StatusGoingAway, "") })
		p.expectClose(StatusGoingAway)
		_, err = io.WriteString(w, "a")
		wantError(t, "Write", err, net.ErrClosed)
		wantError(t, "Close of the Writer", w.Close(), net.ErrClosed)
		p.send("88 02 03e9")
		if err := <-closed; err != nil || time.Since(start) > 0 && server {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		p.expectEnd()
	})
}
