package websocket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func TestReader_Reads_Stream(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// A Reader returns bytes as they arrive, before the message is finished.
func TestReader_Reads_BytesAsTheyArrive(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// "The next read skips what is left of a message whose Reader was not read to its end", control frames in it are answered,
// and the old Reader gives no byte of a later message.
func TestReader_Reads_NothingOnceAbandoned(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("01 05 48656c6c6f", "89 01 70", "80 01 21", "82 02 6162", "82 01 7a")
		_, old, err := c.Reader(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2)
		io.ReadFull(old, b)
		wantRead(t, c, BinaryMessage, "ab")
		p.expect("8a 01 70")
		_, next, err := c.Reader(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := old.Read(b); n != 0 || err == nil || err == io.EOF {
			t.Errorf("the old Reader: %d, %v", n, err)
		}
		if p, err := io.ReadAll(next); string(p) != "z" || err != nil {
			t.Errorf("the next Reader: %q, %v", p, err)
		}
	})
}

// The rest of an abandoned message is checked all the same.
func TestReader_Refuses_WrongTextOnceAbandoned(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("01 01 61", "80 01 ff", "82 01 7a")
		if _, _, err := c.Reader(patience(t)); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusInvalidFramePayloadData)
	})
}

// "A Reader belongs to its ctx: what is left of its message is skipped by the next read."
func TestReader_Reads_UntilContextEndsWithCause(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ctx, cancel := context.WithCancelCause(t.Context())
		p.send("01 02 6162")
		_, r, err := c.Reader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		all := background(func() readResult { b, err := io.ReadAll(r); return readResult{0, string(b), err} })
		pending(t, "the Reader", all)
		cancel(errEnough)
		got := returned(t, "the Reader", all)
		if got.data != "ab" {
			t.Errorf("the Reader gave %q", got.data)
		}
		_, err = r.Read(make([]byte, 1))
		var v any
		for what, err := range map[string]error{"the Reader": got.err, "the Reader once more": err, "ReadJSON": c.ReadJSON(ctx, &v)} {
			wantError(t, what, err, context.Canceled, errEnough)
		}
		p.send("00 01 63", "80 01 64", "82 01 7a")
		wantRead(t, c, BinaryMessage, "z")
	})
}

func TestReader_Refuses_WhatReadRefuses(t *testing.T) {
	for _, row := range []struct {
		name string
		send []string
		want string
		code StatusCode
	}{
		{"Text", []string{"01 02 6162", "80 02 63ff"}, "ab", StatusInvalidFramePayloadData},
		{"CutCharacter", []string{"01 02 6162", "80 01 e2"}, "ab", StatusInvalidFramePayloadData},
		{"Limit", []string{"02 02 6162", "80 7f 0000000000100000"}, "ab", StatusMessageTooBig},
		{"Protocol", []string{"02 02 6162", "82 01 63"}, "ab", StatusProtocolError},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// Messages whose ctx ends yields its error, and the next loop goes on where it was.
func TestMessages_Reads_AfterCancelledLoop(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		stream := towards(p.server, "81 01 61", "02 02 6263", "80 01 64")
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

// "Messages yields an error once and ends. It ends quietly after 1000, 1001, an empty close, and after our own Close or
// CloseNow."
func TestMessages_Ends(t *testing.T) {
	for _, row := range []struct {
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
	} {
		t.Run(row.name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// Breaking out of Messages leaves the connection usable, and the next messages unread.
func TestMessages_Reads_AfterBreak(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// The body of the loop may change the Data of a message, append to it, and call Read.
func TestMessages_Reads_WhileItsBodyReads(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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
func TestConn_Reads_IntoSliceOfTheCaller(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// Stats count frames of all kinds, on the wire and before compression.
func TestConn_Stats_OfAllFrames(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		key := uint64(4)
		if p.server {
			key = 0
		}
		p.send("01 03 616263", "89 01 70", "80 02 6465", "82 00")
		wantRead(t, c, TextMessage, "abcde")
		wantRead(t, c, BinaryMessage, "")
		p.expect("8a 01 70")
		c.Write(patience(t), TextMessage, []byte("Hello"))
		c.Write(patience(t), BinaryMessage, pattern(200))
		p.next()
		p.next()
		want := Stats{MessagesRead: 2, MessagesWritten: 2, PayloadRead: 5, PayloadWritten: 205,
			BytesRead: 5 + 3 + 4 + 2 + 4*(4-key), BytesWritten: 3 + 7 + 204 + 3*key}
		if got := c.Stats(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// Messages that arrived together count one by one for the loop that handles them, and for others while the reader waits.
func TestConn_Stats_OfMessagesAtOnce(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("82 01 61", "82 02 6162", "82 03 616263", "89 00")
		synctest.Wait()
		read := background(func() error {
			n, size := uint64(0), uint64(0)
			for m, err := range c.Messages(patience(t)) {
				if err != nil {
					return err
				}
				n++
				size += uint64(len(m.Data))
				if n == 3 {
					continue
				}
				if got := c.Stats(); got.MessagesRead != n || got.PayloadRead != size {
					t.Errorf("after %d messages of %d bytes: %+v", n, size, got)
				}
			}
			return nil
		})
		synctest.Wait()
		if got := c.Stats(); got.MessagesRead != 3 || got.PayloadRead != 6 {
			t.Errorf("while the reader waits: %+v", got)
		}
		c.CloseNow()
		wantError(t, "Messages", <-read, nil)
	})
}

// The last messages count although the connection has ended and lingers.
func TestConn_Stats_OfMessagesReadLast(t *testing.T) {
	for name, last := range map[string]string{"Closed": closeHex(1000, ""), "Failed": "83 00"} {
		t.Run(name, func(t *testing.T) {
			eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
				for range 20 {
					p.send("82 03 616263")
				}
				p.send(last)
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

// Messages and Write do not allocate, with a ctx that is Background or ever the same.
func TestConn_Echoes_WithoutAllocation(t *testing.T) {
	if raceEnabled {
		return // the detector allocates
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for _, n := range []int{5, 125, 2000, 60000} {
			for name, ctx := range map[string]context.Context{"Background": context.Background(), "SameContext": ctx} {
				a, b := tcpEnds(t)
				checkEcho(t, ctx, fmt.Sprintf("%s over TCP, %d bytes", name, n), a, b, server, n)
				a, b = memPipe()
				checkEcho(t, ctx, fmt.Sprintf("%s in memory, %d bytes", name, n), a, b, server, n)
			}
		}
	})
}

// checkEcho counts the allocations of an echo. The peer sends a message each time that it has got one back.
func checkEcho(t *testing.T, ctx context.Context, name string, a, b net.Conn, server bool, n int) {
	t.Helper()
	const messages, runs = 200, 5
	c := newConn(a, testConfig(server))
	defer b.Close()
	defer c.CloseNow()
	go func() {
		message := towards(server, frameHex(0x81, slices.Repeat([]byte("x"), n)))
		answer := make([]byte, headerSize(n, !server)+n)
		for range messages * (runs + 1) {
			if _, err := b.Write(message); err != nil {
				return
			}
			if _, err := io.ReadFull(b, answer); err != nil {
				return
			}
		}
	}()
	got := testing.AllocsPerRun(runs, func() { echo(t, ctx, c, messages, n) })
	if got > messages/20 { // the loop itself, and a pool that was emptied
		t.Errorf("%s: %d echoes allocate %v times", name, messages, got)
	}
}

// echo answers so many messages of n bytes.
func echo(t *testing.T, ctx context.Context, c *Conn, messages, n int) {
	for m, err := range c.Messages(ctx) {
		if err != nil || len(m.Data) != n || c.Write(ctx, m.Type, m.Data) != nil {
			t.Fatal(len(m.Data), err)
		}
		if messages--; messages == 0 {
			break
		}
	}
}

// A pipelined echo defers its answers, and allocates for a batch of them, not for each.
func TestConn_Echoes_PipelinedWithFewAllocations(t *testing.T) {
	if raceEnabled {
		return // the detector allocates
	}
	eachRoleOutside(t, func(t *testing.T, server bool) {
		const messages, runs = 2000, 5
		a, b := tcpEnds(t)
		c := newConn(a, testConfig(server))
		defer b.Close()
		defer c.CloseNow()
		go func() {
			batch := towards(server, slices.Repeat([]string{"81 03 616263"}, messages)...)
			for range runs + 1 {
				b.Write(batch)
			}
		}()
		go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{b}, make([]byte, 64<<10))
		got := testing.AllocsPerRun(runs, func() { echo(t, context.Background(), c, messages, 3) })
		if got > messages/10 {
			t.Errorf("%d echoes allocate %v times", messages, got)
		}
	})
}

// An idle connection holds little more than its Conn: 640 bytes are a size class of the runtime's, 641 would take 704.
func TestConnFitsItsSizeClass(t *testing.T) {
	const class, header = 640, 8 // the runtime puts a header before each object with pointers of more than 512 bytes
	if size := reflect.TypeFor[Conn]().Size(); size > class-header {
		t.Errorf("a Conn takes %d bytes", size)
	}
}

// endlessConn returns a Conn that reads the same frame for ever, and whose own frames are forgotten.
func endlessConn(server bool, frame []byte) *Conn {
	return newConn(&endless{frame: frame}, testConfig(server, withoutLimit, keepAlive))
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 64 << 10} {
		frame := appendFrame(nil, &header{fin: true, opcode: opBinary, masked: true}, make([]byte, size))
		b.Run(fmt.Sprintf("Messages/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			left := b.N
			for _, err := range endlessConn(true, frame).Messages(context.Background()) {
				if left--; left == 0 || err != nil {
					break
				}
			}
		})
		b.Run(fmt.Sprintf("Read/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			c := endlessConn(true, frame)
			for range b.N {
				c.Read(context.Background())
			}
		})
		b.Run(fmt.Sprintf("Reader/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			c := endlessConn(true, frame)
			for range b.N {
				_, r, _ := c.Reader(context.Background())
				io.Copy(io.Discard, r)
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, server := range []bool{true, false} {
		for _, size := range []int{64, 1 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("server=%t/%d", server, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				c := endlessConn(server, []byte{0})
				p := make([]byte, size)
				for range b.N {
					c.Write(context.Background(), BinaryMessage, p)
				}
			})
		}
	}
}
