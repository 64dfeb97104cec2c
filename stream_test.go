package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The net.Conn adapter, and JSON.

// "One Write is one message", of the type that was asked for.
func TestSendsByStreamAdapter(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for typ, b0 := range map[MessageType]byte{TextMessage: 0x81, BinaryMessage: 0x82} {
			s := c.Stream(typ)
			for _, data := range []string{"Hello", "", "κόσμε", strings.Repeat("x", 30000)} {
				if n, err := io.WriteString(s, data); n != len(data) || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				p.expect(frameHex(b0, []byte(data)))
			}
		}
	})
}

// Reads go over the ends of messages; one of no bytes is nothing to read.
func TestReceivesByStreamAdapter(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
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

// "io.EOF wherever Messages ends quietly", and the error elsewhere.
func TestReceivesEndByStreamAdapter(t *testing.T) {
	for name, row := range map[string]struct {
		end  func(c *Conn, p *rawPeer)
		want error
	}{
		"Close1000":  {func(c *Conn, p *rawPeer) { p.send(closeHex(1000, "")) }, io.EOF},
		"Close1001":  {func(c *Conn, p *rawPeer) { p.send(closeHex(1001, "")) }, io.EOF},
		"CloseEmpty": {func(c *Conn, p *rawPeer) { p.send("88 00") }, io.EOF},
		"Close1002":  {func(c *Conn, p *rawPeer) { p.send(closeHex(1002, "")) }, StatusProtocolError},
		"Close4000":  {func(c *Conn, p *rawPeer) { p.send(closeHex(4000, "")) }, StatusCode(4000)},
		"Malformed":  {func(c *Conn, p *rawPeer) { p.send("83 00") }, StatusProtocolError},
		"Lost":       {func(c *Conn, p *rawPeer) { synctest.Wait(); p.nc.Close() }, StatusAbnormalClosure},
		"TextInIt":   {func(c *Conn, p *rawPeer) { p.send("81 01 61") }, StatusUnsupportedData},
		"EmptyText":  {func(c *Conn, p *rawPeer) { p.send("81 00") }, StatusUnsupportedData},
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				s := c.Stream(BinaryMessage)
				p.send("82 01 61")
				row.end(c, p)
				b, err := io.ReadAll(s)
				if row.want == io.EOF && err == nil {
					err = io.EOF
				}
				if string(b) != "a" {
					t.Errorf("the bytes are %q", b)
				}
				wantError(t, "Read", err, row.want)
				if row.want == StatusUnsupportedData {
					wantFailure(t, "Read", err, StatusUnsupportedData)
					p.expectClose(StatusUnsupportedData)
				}
			})
		})
	}
}

// "A deadline that passed can be moved and reading goes on", also inside of a message.
func TestReceivesByStreamAdapterAfterDeadline(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		s := c.Stream(BinaryMessage)
		stream := towards(server, "02 02 6162", "80 03 636465")
		var got []byte
		b := make([]byte, 10)
		for i, x := range stream {
			if i%3 != 0 {
				s.SetReadDeadline(time.Now().Add(time.Second))
			} else {
				s.SetDeadline(time.Now().Add(time.Second))
			}
			start := time.Now()
			n, err := s.Read(b)
			got = append(got, b[:n]...)
			if n == 0 {
				var ne net.Error
				if !errors.As(err, &ne) || !ne.Timeout() {
					t.Fatalf("Read: %v", err)
				}
				wantError(t, "Read", err, os.ErrDeadlineExceeded)
				if d := time.Since(start); d != time.Second {
					t.Errorf("Read took %v", d)
				}
			}
			if _, err := s.Read(b[:0]); err != nil && n > 0 {
				t.Errorf("a Read of no bytes: %v", err)
			}
			p.sendBytes([]byte{x})
		}
		s.SetReadDeadline(time.Time{})
		for len(got) < 5 {
			n, err := s.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b[:n]...)
		}
		if string(got) != "abcde" {
			t.Errorf("the bytes are %q", got)
		}
	})
}

// A deadline that is set while a Read waits is a true one.
func TestReceivesByStreamAdapterWithDeadlineMoved(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		s := c.Stream(BinaryMessage)
		read := func() error { _, err := s.Read(make([]byte, 1)); return err }
		got := background(read)
		pending(t, "Read", got)
		s.SetReadDeadline(time.Now().Add(time.Hour))
		pass(time.Minute)
		pending(t, "Read", got)
		s.SetReadDeadline(time.Now().Add(time.Minute))
		pass(time.Second)
		pending(t, "Read", got)
		s.SetReadDeadline(time.Unix(1, 0))
		wantError(t, "Read", <-got, os.ErrDeadlineExceeded)
		wantError(t, "Read", read(), os.ErrDeadlineExceeded)
		s.SetReadDeadline(time.Now().Add(time.Second))
		p.send("82 01 61")
		if err := read(); err != nil {
			t.Errorf("Read: %v", err)
		}
	})
}

// A write whose deadline passes before a byte is out leaves the connection as it is.
func TestSendsByStreamAdapterAfterDeadline(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
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

// Close is the closing handshake, with 1000; what waits ends.
func TestSendsCloseByStreamAdapter(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		s := c.Stream(BinaryMessage)
		got := background(func() error { _, err := s.Read(make([]byte, 1)); return err })
		pending(t, "Read", got)
		closed := background(s.Close)
		p.expectClose(StatusNormalClosure)
		p.send(closeHex(1000, ""))
		p.expectEnd()
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-got; err == nil {
			t.Error("Read: nil")
		}
		if _, err := s.Write([]byte("a")); err == nil {
			t.Error("Write: nil")
		}
	})
}

func TestStreamAdapterAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, _ := connectRaw(t, true)
		s := c.Stream(TextMessage)
		if s.LocalAddr() != c.LocalAddr() || s.RemoteAddr() != c.RemoteAddr() || c.LocalAddr() == nil {
			t.Errorf("%v and %v, want %v and %v", s.LocalAddr(), s.RemoteAddr(), c.LocalAddr(), c.RemoteAddr())
		}
	})
}

// Two adapters carry bytes both ways at once, whatever the pieces.
func TestStreamAdaptersCopy(t *testing.T) {
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
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
		b.Close()
	})
}

// "ReadJSON takes a text or a binary message. A message that is not JSON is an error; the connection lives."
func TestReceivesJSON(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, row := range []struct {
			b0   byte
			data string
			ok   bool
		}{
			{0x81, `{"a":1}`, true}, {0x82, `{"a":1}`, true}, {0x81, " {\"a\": 1}\n", true}, {0x81, `{"a":1`, false},
			{0x81, "", false}, {0x81, "hello", false}, {0x82, "\xff\x00", false}, {0x81, `{"a":"x"}`, false},
			{0x81, `{"a":1}{"a":2}`, false}, {0x81, `{"a":1} x`, false}, {0x81, `{"a":1,"b":2}`, true},
		} {
			p.send(frameHex(row.b0, []byte(row.data)))
			var v struct{ A int }
			err := c.ReadJSON(patience(t), &v)
			if row.ok != (err == nil) || row.ok && v.A != 1 {
				t.Errorf("%q: %+v, %v", row.data, v, err)
			}
		}
		p.send("81 01 31")
		var n int
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.ReadJSON(ctx, &n); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		wantError(t, "ReadJSON", c.ReadJSON(ctx, &n), context.DeadlineExceeded)
		p.send(closeHex(1000, ""))
		wantError(t, "ReadJSON", c.ReadJSON(patience(t), &n), StatusNormalClosure)
	})
}

// WriteJSON: a text message, one value; what is no JSON is an error and nothing is sent.
func TestSendsJSON(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for want, v := range map[string]any{
			`{"A":1}`: struct{ A int }{1}, "null": nil, `"€"`: "€", "[1,2]": []int{1, 2}, `"\ufffd"`: "\xff",
		} {
			if err := c.WriteJSON(patience(t), v); err != nil {
				t.Errorf("%v: %v", v, err)
			}
			if f := p.next(); f.first != 0x81 || strings.TrimSpace(string(f.payload)) != want {
				t.Errorf("%v: the peer reads %v %q, want %s", v, f, f.payload, want)
			}
		}
		for _, v := range []any{math.NaN(), make(chan int), func() {}} {
			if err := c.WriteJSON(patience(t), v); err == nil {
				t.Errorf("%T: no error", v)
			}
		}
		p.quiet()
		if err := c.WriteJSON(patience(t), 1); err != nil {
			t.Error(err)
		}
		p.expect("81 01 31")
	})
}

// A Write returns nil only if its message is sent: Close, too, may drop what still waits when the deadline passes.
func TestStream_Writes_UntilDeadlineAndCloseMeet(t *testing.T) {
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
