package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// The three ways of reading: turns, cancelling, what is left behind.

// cancelledRead demands that a Read of nothing that is there ends with its ctx.
func cancelledRead(t *testing.T, c *Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	if r := readOne(ctx, c); !errors.Is(r.err, context.DeadlineExceeded) {
		t.Fatalf("a cancelled Read: %v", r)
	}
	if d := time.Since(start); d != time.Second {
		t.Errorf("a Read cancelled after 1s took %v", d)
	}
}

// "Cancelling a read loses nothing": a conversation that is cut at every byte, with a cancelled Read there.
func TestReceivesAfterCancelledReadAtEveryByte(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		stream := towards(server, "01 04 e282ac61", "89 02 6869", "80 01 62", frameHex(0x82, bytes.Repeat([]byte("z"), 130)))
		for k := range len(stream) {
			c, p := connectRaw(t, server)
			p.sendBytes(stream[:k])
			var got []string
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				r := readOne(ctx, c)
				cancel()
				if r.err != nil {
					wantError(t, fmt.Sprintf("cut at %d", k), r.err, context.DeadlineExceeded)
					break
				}
				got = append(got, r.data)
			}
			p.sendBytes(stream[k:])
			for len(got) < 2 {
				r := readOne(patience(t), c)
				if r.err != nil {
					t.Fatalf("cut at %d: %v", k, r)
				}
				got = append(got, r.data)
			}
			if want := []string{"€ab", strings.Repeat("z", 130)}; !slices.Equal(got, want) {
				t.Errorf("cut at %d: %q", k, got)
			}
			p.expect("8a 02 6869")
			c.CloseNow()
		}
	})
}

// The same with a cancelled Read between any two bytes, and with a new context each time or ever the same.
func TestReceivesAfterCancelledReadsBetweenAllBytes(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		stream := towards(server, "01 04 e282ac61", "00 00", "89 02 6869", "80 01 62")
		for _, b := range stream[:len(stream)-1] {
			p.sendBytes([]byte{b})
			cancelledRead(t, c)
		}
		p.expect("8a 02 6869")
		p.sendBytes(stream[len(stream)-1:])
		wantRead(t, c, TextMessage, "€ab")
	})
}

func TestReceivesLargePayloadAfterCancelledReads(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
		stream := towards(server, frameHex(0x82, data))
		for len(stream) > 30000 {
			p.sendBytes(stream[:30000])
			stream = stream[30000:]
			cancelledRead(t, c)
		}
		p.sendBytes(stream)
		wantRead(t, c, BinaryMessage, string(data))
	})
}

// Messages whose ctx ends yields its error, and the next loop goes on where it stood.
func TestReceivesMessagesAfterCancelledMessages(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		stream := towards(server, "81 01 61", "02 02 6263", "80 01 64")
		p.sendBytes(stream[:len(stream)-2])
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, errs := collect(c, ctx)
		if !slices.Equal(got, []string{"1:a"}) || len(errs) != 1 {
			t.Fatalf("messages %q, errors %v", got, errs)
		}
		wantError(t, "Messages", errs[0], context.DeadlineExceeded)
		p.sendBytes(stream[len(stream)-2:])
		p.send(closeHex(1000, ""))
		if got, errs := collect(c, patience(t)); !slices.Equal(got, []string{"2:bcd"}) || errs != nil {
			t.Errorf("messages %q, errors %v", got, errs)
		}
	})
}

// collect ranges over Messages to the end, and returns messages and errors.
func collect(c *Conn, ctx context.Context) (got []string, errs []error) {
	for m, err := range c.Messages(ctx) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		got = append(got, fmt.Sprintf("%d:%s", m.Type, m.Data))
	}
	return got, errs
}

// A ctx that has ended already is an error whatever is there, and nothing is lost; the same ctx may come again.
func TestReceivesWithEndedContext(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 3 {
			wantError(t, "Read", readOne(ended, c).err, context.Canceled)
		}
		p.send("81 01 61")
		wantRead(t, c, TextMessage, "a")
		wantError(t, "Read", readOne(ended, c).err, context.Canceled)
		_, _, err := c.Reader(ended)
		wantError(t, "Reader", err, context.Canceled)
		_, errs := collect(c, ended)
		if len(errs) != 1 {
			t.Fatalf("Messages: %v", errs)
		}
		wantError(t, "Messages", errs[0], context.Canceled)
		p.send("81 01 62")
		wantRead(t, c, TextMessage, "b")
	})
}

// A ctx that ends after its Read has returned does not touch the reads that follow.
func TestReceivesWithContextThatEndedBehind(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			p.send("81 01 61")
			if r := readOne(ctx, c); r.data != "a" || r.err != nil {
				t.Fatalf("Read: %v", r)
			}
			next := background(func() readResult { return readOne(patience(t), c) })
			cancel()
			pending(t, "Read", next)
			p.send("81 01 62")
			if r := <-next; r.data != "b" || r.err != nil {
				t.Fatalf("Read: %v", r)
			}
		}
	})
}

// A cause given to the context does not hide its error.
func TestReceivesCancelledWithCause(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, _ := connectRaw(t, server)
		ctx, cancel := context.WithCancelCause(t.Context())
		got := background(func() readResult { return readOne(ctx, c) })
		pending(t, "Read", got)
		cancel(errors.New("enough"))
		wantError(t, "Read", (<-got).err, context.Canceled)
	})
}

// "Messages yields an error once and ends. It ends quietly after 1000, 1001, an empty close, and after our own
// Close or CloseNow."
func TestReceivesMessagesEnd(t *testing.T) {
	rows := []struct {
		name string
		end  func(c *Conn, p *rawPeer)
		err  error // nil: quietly
	}{
		{"Close1000", func(c *Conn, p *rawPeer) { p.send(closeHex(1000, "bye")) }, nil},
		{"Close1001", func(c *Conn, p *rawPeer) { p.send(closeHex(1001, "")) }, nil},
		{"CloseEmpty", func(c *Conn, p *rawPeer) { p.send("88 00") }, nil},
		{"OurClose", func(c *Conn, p *rawPeer) { go p.trySend("88 02 03e8"); c.Close(StatusNormalClosure, "") }, nil},
		{"OurCloseOtherCode", func(c *Conn, p *rawPeer) { go p.trySend("88 02 0fa0"); c.Close(4000, "") }, nil},
		{"OurCloseNow", func(c *Conn, p *rawPeer) { c.CloseNow() }, nil},
		{"Close1002", func(c *Conn, p *rawPeer) { p.send(closeHex(1002, "")) }, StatusProtocolError},
		{"Close1011", func(c *Conn, p *rawPeer) { p.send(closeHex(1011, "oops")) }, StatusInternalError},
		{"Close4000", func(c *Conn, p *rawPeer) { p.send(closeHex(4000, "oops")) }, StatusCode(4000)},
		{"Failure", func(c *Conn, p *rawPeer) { p.send("83 00") }, StatusProtocolError},
		{"Lost", func(c *Conn, p *rawPeer) { p.nc.Close() }, StatusAbnormalClosure},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				type result struct {
					got  []string
					errs []error
				}
				p.send("81 01 61")
				all := background(func() result { got, errs := collect(c, patience(t)); return result{got, errs} })
				pending(t, "Messages", all)
				row.end(c, p)
				switch r := <-all; {
				case !slices.Equal(r.got, []string{"1:a"}), row.err == nil && r.errs != nil, row.err != nil && len(r.errs) != 1:
					t.Errorf("messages %q, errors %v", r.got, r.errs)
				case row.err != nil:
					wantError(t, "Messages", r.errs[0], row.err)
				}
			})
		})
	}
}

// Breaking out of Messages leaves the connection usable, and what was not taken is there.
func TestReceivesAfterBreak(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("81 01 61", "81 01 62", "82 01 63")
		for _, want := range []string{"a", "b"} {
			for m, err := range c.Messages(patience(t)) {
				if string(m.Data) != want || m.Type != TextMessage || err != nil {
					t.Fatalf("%q, %v, want %q", m.Data, err, want)
				}
				break
			}
		}
		wantRead(t, c, BinaryMessage, "c")
	})
}

// What Messages yields may be changed, appended to, and read beside a read in the body of the loop.
func TestReceivesMessagesInWhoseBodyOneReads(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("81 03 616263", "81 01 62", "82 01 63", "81 01 64", "88 00")
		var got []string
		for m, err := range c.Messages(patience(t)) {
			if err != nil {
				t.Fatal(err)
			}
			for i := range m.Data {
				m.Data[i] = 'X'
			}
			_ = append(m.Data, "overwrites what follows"...)
			if r := readOne(patience(t), c); r.err == nil {
				got = append(got, r.data)
			}
		}
		if !slices.Equal(got, []string{"b", "d"}) {
			t.Errorf("the inner reads: %q", got)
		}
	})
}

// The slice that Read returns is the caller's: later messages do not change it.
func TestReceivesSliceOfTheCaller(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		var all [][]byte
		for i := range 50 {
			p.send(frameHex(0x82, bytes.Repeat([]byte{byte(i)}, 1+i*7)))
			_, b, err := c.Read(patience(t))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b)
		}
		for i, b := range all {
			if !bytes.Equal(b, bytes.Repeat([]byte{byte(i)}, 1+i*7)) {
				t.Errorf("message %d is now %x", i, b)
			}
			_ = append(b, 0xff, 0xff, 0xff, 0xff)
		}
	})
}

// Reads take turns: each message goes to one of them, as a whole.
func TestReceivesConcurrentReads(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		const n = 20
		got := make(chan readResult, n)
		for range n {
			go func() { got <- readOne(patience(t), c) }()
		}
		for i := range n {
			s := fmt.Sprintf("%02d", i)
			p.send(frameHex(1, []byte(s[:1])), frameHex(0x80, []byte(s[1:])))
		}
		var all []string
		for range n {
			r := <-got
			if r.err != nil {
				t.Fatal(r)
			}
			all = append(all, r.data)
		}
		slices.Sort(all)
		for i, s := range all {
			if s != fmt.Sprintf("%02d", i) {
				t.Errorf("the messages are %q", all)
				break
			}
		}
	})
}

// A read that waits for its turn can be cancelled.
func TestReceivesCancelledWaitForTurn(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		first := background(func() readResult { return readOne(patience(t), c) })
		pending(t, "Read", first)
		cancelledRead(t, c)
		p.send("81 01 61")
		if r := <-first; r.data != "a" {
			t.Errorf("the first Read: %v", r)
		}
	})
}

func TestReceivesStream(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		data := bytes.Repeat([]byte("0123456789abcdef"), 5000)
		go p.trySend(frameHex(2, data[:100]), "00 00", frameHex(0, data[100:70000]), "89 00", frameHex(0x80, data[70000:]), "81 00")
		typ, r, err := c.Reader(patience(t))
		if typ != BinaryMessage || err != nil {
			t.Fatal(typ, err)
		}
		if err := iotest.TestReader(r, data); err != nil {
			t.Error(err)
		}
		typ, r, err = c.Reader(patience(t))
		if typ != TextMessage || err != nil {
			t.Fatal(typ, err)
		}
		if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("an empty message: %d, %v", n, err)
		}
	})
}

// A Reader gives what has arrived, before the message is finished.
func TestReceivesStreamAsItArrives(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("01 7e 03e8 616263")
		_, r, err := c.Reader(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 3)
		if _, err := io.ReadFull(r, b); err != nil || string(b) != "abc" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// "The next read skips what is left of a message whose Reader was not read to its end", control frames in it are
// answered, and the old Reader gives no byte of the next message.
func TestReceivesAfterAbandonedReader(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("01 05 48656c6c6f", "89 01 70", "80 01 21", "82 02 6162", "82 01 7a")
		_, old, err := c.Reader(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2)
		io.ReadFull(old, b)
		wantRead(t, c, BinaryMessage, "ab")
		p.expect("8a 01 70")
		if n, err := old.Read(b); n != 0 || err == nil || err == io.EOF {
			t.Errorf("the old Reader: %d, %v", n, err)
		}
		wantRead(t, c, BinaryMessage, "z")
	})
}

// The rest of an abandoned message is checked all the same.
func TestReceivesWrongTextInAbandonedMessage(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("01 01 61", "80 01 ff", "82 01 7a")
		if _, _, err := c.Reader(patience(t)); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusInvalidFramePayloadData)
	})
}

// "A Reader belongs to its ctx: what is left of its message is skipped by the next read."
func TestReceivesAfterCancelledReader(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.send("01 02 6162")
		_, r, err := c.Reader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if string(b) != "ab" {
			t.Errorf("the Reader gave %q", b)
		}
		wantError(t, "the Reader", err, context.DeadlineExceeded)
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the Reader once more: %v", err)
		}
		p.send("00 01 63", "80 01 64", "82 01 7a")
		wantRead(t, c, BinaryMessage, "z")
	})
}

func TestReceivesStreamThatFails(t *testing.T) {
	rows := []struct {
		name string
		send []string
		want string
		code StatusCode
	}{
		{"Text", []string{"01 02 6162", "80 02 63ff"}, "ab", StatusInvalidFramePayloadData},
		{"CutCharacter", []string{"01 02 6162", "80 01 e2"}, "ab", StatusInvalidFramePayloadData},
		{"Limit", []string{"02 02 6162", "80 7f 0000000000100000"}, "ab", StatusMessageTooBig},
		{"Protocol", []string{"02 02 6162", "82 01 63"}, "ab", StatusProtocolError},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				p.send(row.send...)
				_, r, err := c.Reader(patience(t))
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(r)
				if !strings.HasPrefix(string(b), row.want) {
					t.Errorf("the Reader gave %q", b)
				}
				wantFailure(t, "the Reader", err, row.code)
				if _, again := r.Read(make([]byte, 1)); again != err {
					t.Errorf("the Reader once more: %v, want %v", again, err)
				}
				wantFailed(t, p, row.code)
			})
		})
	}
}

// While a Reader is open no read is at work: a ping waits, as a close frame does.
func TestReceivesNothingWhileNobodyReads(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("89 00", "88 00")
		pass(time.Minute)
		p.quiet()
		if err := c.Context().Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
		var ce *CloseError
		if err := readOne(patience(t), c).err; !errors.As(err, &ce) {
			t.Errorf("Read: %v", err)
		}
		p.expect("8a 00", "88 00")
	})
}

// Every read that waits ends with the connection.
func TestReceivesCloseNow(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, _ := connectRaw(t, server)
		var all []<-chan readResult
		for range 5 {
			all = append(all, background(func() readResult { return readOne(patience(t), c) }))
		}
		synctest.Wait()
		c.CloseNow()
		for _, r := range all {
			wantError(t, "Read", (<-r).err, net.ErrClosed)
		}
	})
}

var errEnough = errors.New("enough")

// "An error of a call whose ctx ended matches both ctx.Err() and context.Cause(ctx)", whether it ended before the call or
// while the call waited.
func TestConn_Reads_ContextThatEndsWithCause(t *testing.T) {
	for name, read := range waysToRead {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				ctx, cancel := context.WithCancelCause(t.Context())
				call := func() error { _, _, err := read(ctx, c); return err }
				waits := background(call)
				behind := background(call) // waits for its turn
				pending(t, name, waits)
				cancel(errEnough)
				wantError(t, name, returned(t, name, waits), context.Canceled, errEnough)
				wantError(t, name+" behind another", returned(t, name, behind), context.Canceled, errEnough)
				wantError(t, name+" of an ended context", call(), context.Canceled, errEnough)
				limited, stop := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
				defer stop()
				_, _, err := read(limited, c)
				wantError(t, name+" that is late", err, context.DeadlineExceeded, errEnough)
				p.send("81 01 61")
				wantRead(t, c, TextMessage, "a")
			})
		})
	}
}

// A Reader's reads belong to the ctx that it was made with.
func TestConn_Reads_ReaderWhoseContextEndsWithCause(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		ctx, cancel := context.WithCancelCause(t.Context())
		p.send("01 01 61")
		_, r, err := c.Reader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		all := background(func() error { _, err := io.ReadAll(r); return err })
		pending(t, "the Reader", all)
		cancel(errEnough)
		wantError(t, "the Reader", returned(t, "the Reader", all), context.Canceled, errEnough)
		var v any
		wantError(t, "ReadJSON", c.ReadJSON(ctx, &v), context.Canceled, errEnough)
	})
}

// Timeouts that are no os.ErrDeadlineExceeded are timeouts all the same: a cancelled Read loses nothing.
func TestConn_Reads_AfterCancelledReadOverForeignTimeouts(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		c, p := connectOver(t, foreignConn{near}, far, server)
		stream := towards(server, "01 04 e282ac61", "80 01 62")
		for _, b := range stream[:len(stream)-1] {
			p.sendBytes([]byte{b})
			cancelledRead(t, c)
		}
		p.sendBytes(stream[len(stream)-1:])
		wantRead(t, c, TextMessage, "€ab")
	})
}

// A context ends every wait: where a read cannot be interrupted by a deadline, the connection is closed.
func TestConn_Reads_ContextThatEndsWithoutDeadlines(t *testing.T) {
	for name, read := range waysToRead {
		t.Run(name, func(t *testing.T) {
			eachRoleByPipe(t, func(t *testing.T, server bool) {
				near, far := roleEnds(t, server)
				c, p := connectOver(t, channelConn{near}, far, server)
				p.send("81 01 61")
				if _, b, err := read(patience(t), c); string(b) != "a" || err != nil {
					t.Fatalf("%s: %q, %v", name, b, err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				err := returned(t, name, background(func() error { _, _, err := read(ctx, c); return err }))
				wantError(t, name, err, context.DeadlineExceeded)
				if d := time.Since(start); d != time.Second {
					t.Errorf("%s took %v", name, d)
				}
				wantEnded(t, c)
				p.expectEnd()
			})
		})
	}
}

// A read deadline that cannot be moved once it has passed ends the connection, and is not waited for again and again.
func TestConn_Reads_AfterDeadlineThatStaysPassed(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		late := &lateConn{Conn: near}
		c, p := connectOver(t, late, far, server)
		cancelledRead(t, c)
		p.trySend("81 01 61")
		wantLost(t, "Read", returned(t, "Read", background(func() error { return readOne(patience(t), c).err })))
		wantEnded(t, c)
		if late.reads.Load() > spins {
			t.Error("Read spins")
		}
	})
}

// KeepAlive sets the next deadline when one has passed: where that is in vain, it ends the connection and does not spin.
func TestConn_Reads_KeepAliveWithDeadlineThatStaysPassed(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		late := &lateConn{Conn: near}
		c, _ := connectOver(t, late, far, server, keepAlive)
		wantLost(t, "Read", returned(t, "Read", background(func() error { return readOne(patience(t), c).err })))
		wantEnded(t, c)
		if late.reads.Load() > spins {
			t.Error("Read spins")
		}
	})
}

// What was read counts as soon as it was read, also where the connection ends with it and lingers.
func TestConn_Stats_OfMessagesReadLast(t *testing.T) {
	for name, last := range map[string]string{"Closed": closeHex(1000, ""), "Failed": "83 00"} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				stream := slices.Repeat([]string{"82 03 616263"}, 20)
				p.send(append(stream, last)...)
				for range c.Messages(patience(t)) {
				}
				synctest.Wait() // the connection lingers
				if got := c.Stats(); got.MessagesRead != 20 || got.PayloadRead != 60 {
					t.Errorf("%+v, want 20 messages of 60 bytes", got)
				}
			})
		})
	}
}

// noContext is none, which no call takes.
var noContext context.Context

// A read without a context is an error; it neither panics, nor loses what is there, nor keeps the turn.
func TestConn_Reads_WithoutContext(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("81 01 61")
		var v any
		misuses := map[string]func() error{"ReadJSON": func() error { return c.ReadJSON(noContext, &v) }}
		for name, read := range waysToRead {
			misuses[name] = func() error { _, _, err := read(noContext, c); return err }
		}
		misuses["CloseRead"] = func() error {
			ctx := c.CloseRead(noContext)
			<-ctx.Done()
			return context.Cause(ctx)
		}
		for name, read := range misuses {
			err := returnedSoon(t, name, background(func() error { return unpanicked(read) }))
			if err == nil || err == io.EOF || errors.Is(err, errPanicked) {
				t.Errorf("%s: %v", name, err)
			}
		}
		read := background(func() readResult { return readOne(soon(t), c) })
		if r := returnedSoon(t, "Read", read); r != (readResult{TextMessage, "a", nil}) {
			t.Errorf("a later Read: %v", r)
		}
		if err := c.Context().Err(); err != nil {
			t.Errorf("the connection ended: %v", context.Cause(c.Context()))
		}
	})
}

// setReadLimit is c.SetReadLimit.
func setReadLimit(t *testing.T, c *Conn, n int64) {
	t.Helper()
	l, ok := any(c).(interface{ SetReadLimit(int64) })
	if !ok {
		t.Fatal("a Conn has no SetReadLimit")
	}
	l.SetReadLimit(n)
}

// SetReadLimit replaces the limit of the messages that follow, and takes what Options.MaxMessageSize takes.
func TestConn_Reads_WithinReadLimit(t *testing.T) {
	for _, row := range []struct {
		name          string
		before, limit int64
		most          int // 0: there is no limit
	}{
		{"Raised", 10, 100, 100}, {"Lowered", 100, 10, 10}, {"One", 100, 1, 1}, {"Default", 10, 0, 1 << 20}, {"None", 10, -1, 0}, {"FromNone", -1, 10, 10},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachRoleByPipe(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server, func(cfg *config) { cfg.maxMessage = row.before })
				setReadLimit(t, c, row.limit)
				if row.most == 0 {
					go p.trySend(frameHex(0x82, make([]byte, 3<<20)))
					wantRead(t, c, BinaryMessage, string(make([]byte, 3<<20)))
					return
				}
				go p.trySend(frameHex(0x82, make([]byte, row.most)), frameHex(2, make([]byte, row.most)), "80 01 61")
				wantRead(t, c, BinaryMessage, string(make([]byte, row.most)))
				wantTooBig(t, c, p)
			})
		})
	}
}

// wantTooBig demands that the next message is refused for its size.
func wantTooBig(t *testing.T, c *Conn, p *rawPeer) {
	t.Helper()
	err := readOne(patience(t), c).err
	wantFailure(t, "Read", err, StatusMessageTooBig)
	wantError(t, "Read", err, ErrMessageTooBig)
	wantFailed(t, p, StatusMessageTooBig)
}

// A message that has begun keeps the limit that it began with.
func TestConn_Reads_ReadLimitFromTheNextMessageOn(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxMessage = 10 })
		p.send("02 01 61")
		_, r, err := c.Reader(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		setReadLimit(t, c, 5)
		p.send(frameHex(0x80, pattern(9)))
		if b, err := io.ReadAll(r); len(b) != 10 || err != nil {
			t.Errorf("the Reader gave %d bytes, %v", len(b), err)
		}
		read := background(func() readResult { return readOne(patience(t), c) })
		pending(t, "Read", read)
		setReadLimit(t, c, 3) // while a Read waits for its message
		p.send("82 03 616263")
		if r := <-read; r.data != "abc" || r.err != nil {
			t.Errorf("Read: %v", r)
		}
		p.send("82 04 61626364")
		wantTooBig(t, c, p)
	})
}

func TestConn_Reads_RaisedReadLimitFromTheNextMessageOn(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxMessage = 10 })
		p.send("02 01 61")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, "Read", readOne(ctx, c).err, context.DeadlineExceeded)
		setReadLimit(t, c, 100)
		p.send("80 0a")
		wantTooBig(t, c, p)
	})
}

// SetReadLimit may be called at any time, by any goroutine.
func TestConn_Reads_ReadLimitThatChangesMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, p := connectRaw(t, true)
		done := make(chan struct{})
		go func() {
			for n := int64(0); ; n++ {
				select {
				case <-done:
					return
				default:
					setReadLimit(t, c, 100+n%100)
				}
			}
		}()
		for range 200 {
			p.send(frameHex(0x82, pattern(100)))
			wantRead(t, c, BinaryMessage, string(pattern(100)))
		}
		close(done)
	})
}

// inflatingTo returns a compressed payload of the given size, which inflates to n bytes: each has a stored block and a
// sync flush of its own, and empty blocks follow.
func inflatingTo(n, size int) (payload, data []byte) {
	for i := range n {
		data = append(data, byte(i))
		payload = append(payload, 0, 1, 0, 0xfe, 0xff, byte(i), 0, 0, 0, 0xff, 0xff)
	}
	payload = append(payload, bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, max(0, size-1-len(payload))/5)...)
	if payload = append(payload, 0); len(payload) != size { // the rest of the last block is not sent, RFC 7692, section 7.2.1
		panic(fmt.Sprintf("no payload of %d bytes for %d", size, n))
	}
	return payload, data
}

// The compressed input of a message has a bound as well, for it can be long and inflate to nothing: 8 times the limit of
// a message, and 64 KiB.
func TestConn_Reads_CompressedInputUpToItsBound(t *testing.T) {
	const limit = 1000
	const bound = 8*limit + 64<<10
	exact, exactData := inflatingTo(limit, bound)
	more, _ := inflatingTo(limit-4, bound+1)
	many, _ := inflatingTo(0, 5*400_000+1)
	// inFrames cuts a payload into frames.
	inFrames := func(payload []byte, each int) (frames []string) {
		for first := byte(0x42); ; first = 0 {
			if len(payload) <= each {
				return append(frames, frameHex(first|0x80, payload))
			}
			frames = append(frames, frameHex(first, payload[:each]))
			payload = payload[each:]
		}
	}
	for _, row := range []struct {
		name   string
		limit  int64
		frames []string
		want   []byte
		ok     bool
	}{
		{"Exactly", limit, inFrames(exact, bound), exactData, true},
		{"ExactlyInFragments", limit, inFrames(exact, 100), exactData, true},
		{"OneMore", limit, inFrames(more, bound+1), nil, false},
		{"OneMoreInFragments", limit, inFrames(more, 100), nil, false},
		{"Announced", limit, []string{"42 01 00", fmt.Sprintf("80 7f %016x", bound)}, nil, false},
		{"Announced2To62", limit, []string{"c2 7f 4000000000000000"}, nil, false},
		{"WithoutLimit", -1, inFrames(many, 1<<20), nil, true},
	} {
		for name, read := range waysToRead {
			t.Run(row.name+"/"+name, func(t *testing.T) {
				eachRoleByPipe(t, func(t *testing.T, server bool) {
					c, p := connectRaw(t, server, deflating(false), func(cfg *config) { cfg.maxMessage = row.limit })
					go p.trySend(row.frames...)
					_, b, err := read(patience(t), c)
					if row.ok {
						if !bytes.Equal(b, row.want) || err != nil {
							t.Errorf("%d bytes, %v", len(b), err)
						}
						return
					}
					wantFailure(t, name, err, StatusMessageTooBig)
					wantError(t, name, err, ErrMessageTooBig)
					wantFailed(t, p, StatusMessageTooBig)
				})
			})
		}
	}
}

// The bound on compressed input follows SetReadLimit, and that of the next message is counted anew.
func TestConn_Reads_CompressedInputWithinReadLimit(t *testing.T) {
	const bound = 8*2000 + 64<<10
	exact, data := inflatingTo(2000, bound)
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, deflating(false))
		setReadLimit(t, c, 2000)
		go p.trySend(frameHex(0xc2, exact), frameHex(0xc2, exact), frameHex(0x42, exact), "80 05 000000ffff")
		for range 2 {
			wantRead(t, c, BinaryMessage, string(data))
		}
		wantTooBig(t, c, p)
	})
}
