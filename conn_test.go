package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"reflect"
	"runtime"
	"runtime/debug"
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
		wantOK(t, "TestReader", iotest.TestReader(r, data))
		typ, r, err = c.Reader(patience(t))
		if typ != TextMessage || err != nil {
			t.Fatal(typ, err)
		}
		if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("an empty message: %d, %v", n, err)
		}
	})
}

// A Reader returns bytes as they arrive, before the message ends.
func TestReader_Reads_BytesAsTheyArrive(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("01 7e 03e8 616263")
		r := openReader(t, patience(t), c)
		wantPipeRead(t, r, "abc")
	})
}

// The next read skips the rest of a message whose Reader was not read to its end. It answers the control frames in it,
// and the old Reader returns no byte of a later message.
func TestReader_Reads_NothingOnceAbandoned(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("01 05 48656c6c6f", "89 01 70", "80 01 21", "82 02 6162", "82 01 7a")
		old := openReader(t, patience(t), c)
		wantPipeRead(t, old, "He")
		wantRead(t, c, BinaryMessage, "ab")
		p.expect("8a 01 70")
		next := openReader(t, patience(t), c)
		if n, err := old.Read(make([]byte, 2)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("the old Reader: %d, %v", n, err)
		}
		if p, err := io.ReadAll(next); string(p) != "z" || err != nil {
			t.Errorf("the next Reader: %q, %v", p, err)
		}
	})
}

// A Reader ends with its ctx. The next read skips the rest of its message.
func TestReader_Reads_UntilContextEndsWithCause(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ctx, cancel := context.WithCancelCause(t.Context())
		p.send("01 02 6162")
		r := openReader(t, ctx, c)
		all := background(func() readResult { b, err := io.ReadAll(r); return readResult{0, string(b), err} })
		pending(t, "the Reader", all)
		cancel(errEnough)
		got := returned(t, "the Reader", all)
		wantEqual(t, "the bytes", got.data, "ab")
		_, err := r.Read(make([]byte, 1))
		var v any
		for what, err := range map[string]error{"the Reader": got.err, "the Reader once more": err, "ReadJSON": c.ReadJSON(ctx, &v)} {
			wantError(t, what, err, context.Canceled, errEnough)
		}
		p.send("00 01 63", "80 01 64", "82 01 7a")
		wantRead(t, c, BinaryMessage, "z")
	})
}

// A Reader finds the errors that Read finds. They are also found if the Reader is abandoned and its message skipped.
func TestReader_Refuses_WhatReadRefuses(t *testing.T) {
	for _, row := range []struct {
		name string
		send []string
		code StatusCode
	}{
		{"Text", []string{"01 02 6162", "80 02 63ff"}, StatusInvalidFramePayloadData},
		{"CutCharacter", []string{"01 02 6162", "80 01 e2"}, StatusInvalidFramePayloadData},
		{"Limit", []string{"02 02 6162", "80 7f 0000000000100000"}, StatusMessageTooBig},
		{"Protocol", []string{"02 02 6162", "82 01 63"}, StatusProtocolError},
	} {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			p.send(row.send...)
			r := openReader(t, patience(t), c)
			b, err := io.ReadAll(r)
			if !strings.HasPrefix(string(b), "ab") {
				t.Errorf("the Reader gave %q", b)
			}
			wantFailure(t, "the Reader", err, row.code)
			if _, again := r.Read(make([]byte, 1)); again != err {
				t.Errorf("the Reader once more: %v, want %v", again, err)
			}
			wantFailed(t, p, row.code)
		})
		eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
			p.send(row.send...)
			if _, _, err := c.Reader(patience(t)); err != nil {
				t.Fatal(err)
			}
			wantFailure(t, "Read", readOne(patience(t), c).err, row.code)
		})
	}
}

// Messages yields the error of its ctx. The next loop continues where this one stopped. So does OnMessage that was
// ended.
func TestMessages_Reads_AfterCancelledLoop(t *testing.T) {
	for way, collect := range waysToCollect {
		eachWireIn(t, way, func(t *testing.T, c *Conn, p *rawPeer) {
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
}

// Messages yields an error once and ends. It ends without an error after 1000, 1001, an empty close frame and our own
// Close or CloseNow. The function of OnMessage gets the error then, too.
func TestMessages_Ends(t *testing.T) {
	for name, row := range connectionEnds {
		for way, collect := range waysToCollect {
			eachConnIn(t, name+"/"+way, func(t *testing.T, c *Conn, p *rawPeer) {
				type result struct {
					got  []string
					errs []error
				}
				p.send("81 01 61")
				all := background(func() result { got, errs := collect(c, patience(t)); return result{got, errs} })
				pending(t, "Messages", all)
				row.end(c, p)
				switch r := <-all; {
				case !slices.Equal(r.got, []string{"1:a"}), row.quiet && r.errs != nil, !row.quiet && len(r.errs) != 1:
					t.Errorf("messages %q, errors %v", r.got, r.errs)
				case !row.quiet:
					wantError(t, "Messages", r.errs[0], row.want)
				}
			})
		}
	}
}

// After a break the connection is usable and the next messages are unread.
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

// The body of the loop may change the Data of its message, append to it and call Read.
func TestMessages_Reads_WhileItsBodyReads(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("81 03 616263", "81 01 62", "82 01 63", "81 01 64", "88 00")
		var got []string
		for m, err := range c.Messages(patience(t)) {
			must(t, err)
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

// The slice that Read returns belongs to the caller: later messages do not change it.
func TestConn_Reads_IntoSliceOfTheCaller(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		var all [][]byte
		for i := range 50 {
			p.send(frameHex(0x82, bytes.Repeat([]byte{byte(i)}, 1+i*7)))
			_, b, err := c.Read(patience(t))
			must(t, err)
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

// Stats counts frames of all kinds, as bytes on the wire and as payload before compression.
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
		wantEqual(t, "Stats", c.Stats(), want)
	})
}

// Messages that arrived together are counted one by one for the loop that handles them, and at the latest when the
// reader waits.
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
		wantOK(t, "Messages", <-read)
	})
}

// The last messages are counted although the connection has ended and lingers.
func TestConn_Stats_OfMessagesReadLast(t *testing.T) {
	for name, last := range map[string]string{"Closed": closeHex(1000, ""), "Failed": "83 00"} {
		eachWireIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
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
	}
}

// Messages and Write do not allocate if ctx is Background or always the same.
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

// checkEcho counts the allocations of an echo. The peer sends a message each time it has received one.
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
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
	got := testing.AllocsPerRun(runs, func() { echo(t, ctx, c, messages, n) })
	if got > messages/20 { // the loop itself, and pools of two processors
		t.Errorf("%s: %d echoes allocate %v times", name, messages, got)
	}
}

// echo answers a number of messages of n bytes.
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

// A pipelined echo defers its answers and allocates per batch, not per message.
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
		defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
		got := testing.AllocsPerRun(runs, func() { echo(t, context.Background(), c, messages, 3) })
		if got > messages/10 {
			t.Errorf("%d echoes allocate %v times", messages, got)
		}
	})
}

// Handling a message takes no more of the stack than a new goroutine has, 2 KiB with what the runtime keeps for itself.
// A stack that has grown stays at 4 KiB, and every idle connection would hold it.
func TestConn_Echoes_OnTheStackOfANewGoroutine(t *testing.T) {
	ctx := context.Background()
	wantNewStacks(t, func(c *Conn) {
		var frames [88]byte // of Handler and of a caller
		for m, err := range c.Messages(ctx) {
			if err != nil || c.Write(ctx, m.Type, m.Data) != nil || escapes(frames[:0]) {
				return
			}
		}
	}, func(p *rawPeer) {
		p.send("82 02 61 62")
		p.expect("82 02 61 62")
	})
}

// wantNewStacks serves connections on new goroutines while their peers converse, and demands that no stack has grown.
func wantNewStacks(t *testing.T, serve func(*Conn), converse func(*rawPeer)) {
	t.Helper()
	if raceEnabled {
		return // the detector needs more of the stack
	}
	const conns = 300
	before := stackInUse()
	for range conns {
		a, b := tcpEnds(t)
		c, p := connectOver(t, a, b, true)
		if c.sock == nil {
			return // on systems without one, the methods of net.Conn take more
		}
		go serve(c)
		converse(p)
	}
	if each := (stackInUse() - before) / conns; each > 3<<10 {
		t.Errorf("%d bytes of stack for each connection", each)
	}
}

// stackInUse returns the memory that the stacks of all goroutines take.
func stackInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.StackInuse
}

//go:noinline
func escapes(p []byte) bool { return len(p) > 0 }

// A Conn fits the size class of 640 bytes. The next one has 704.
func TestConnFitsItsSizeClass(t *testing.T) {
	const class, header = 640, 8 // the runtime puts a header before each object with pointers of more than 512 bytes
	if size := reflect.TypeFor[Conn]().Size(); size > class-header {
		t.Errorf("a Conn takes %d bytes", size)
	}
}

// endlessConn returns a Conn that reads the same frame forever and discards what it writes.
func endlessConn(server bool, frame []byte) *Conn {
	return newConn(&endless{frame: frame}, testConfig(server, withoutLimit, keepAlive))
}

func BenchmarkRead(b *testing.B) {
	ways := map[string]func(c *Conn, n int){
		"Messages": func(c *Conn, n int) {
			for _, err := range c.Messages(context.Background()) {
				if n--; n == 0 || err != nil {
					break
				}
			}
		},
		"Read": func(c *Conn, n int) {
			for range n {
				c.Read(context.Background())
			}
		},
		"Reader": func(c *Conn, n int) {
			for range n {
				_, r, _ := c.Reader(context.Background())
				io.Copy(io.Discard, r)
			}
		},
	}
	for _, size := range []int{64, 1 << 10, 64 << 10} {
		frame := appendFrame(nil, &header{fin: true, opcode: opBinary, masked: true}, make([]byte, size))
		for name, read := range ways {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				read(endlessConn(true, frame), b.N)
			})
		}
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

// ReadJSON takes a text or a binary message. If it is not JSON, the connection stays usable.
func TestConn_Reads_JSON(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, "ReadJSON", c.ReadJSON(ctx, new(int)), context.DeadlineExceeded)
		p.send(closeHex(1000, ""))
		wantError(t, "ReadJSON", c.ReadJSON(patience(t), new(int)), StatusNormalClosure)
	})
}

// WriteJSON sends a text message. If the value has no JSON form, nothing is sent.
func TestConn_Writes_JSON(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		for want, v := range map[string]any{
			`{"A":1}`: struct{ A int }{1}, "null": nil, `"€"`: "€", "[1,2]": []int{1, 2}, `"\ufffd"`: "\xff",
		} {
			wantOK(t, "WriteJSON", c.WriteJSON(patience(t), v))
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
		wantAlive(t, c, p)
	})
}

func TestCloseStatus(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want StatusCode
	}{
		{"nil", nil, 0},
		{"close frame", &CloseError{Code: 4001, Reason: "bye"}, 4001},
		{"close frame without a code", &CloseError{Code: StatusNoStatusRcvd}, 1005},
		{"broken protocol", &ProtocolError{Code: StatusMessageTooBig}, 1009},
		{"lost connection", &lostError{"reading", io.ErrUnexpectedEOF}, 1006},
		{"a code itself", StatusGoingAway, 1001},
		{"an error with two causes", errors.Join(ErrBacklog, StatusTryAgainLater), 1013},
		{"our own close", net.ErrClosed, 0},
		{"context", context.Canceled, 0},
		{"backlog", ErrBacklog, 0},
		{"end of a Stream", io.EOF, 0},
		{"another", errors.New("oh no"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantEqual(t, "CloseStatus", CloseStatus(tt.err), tt.want)
			if tt.err == nil {
				return
			}
			wantEqual(t, "CloseStatus of the error, wrapped", CloseStatus(fmt.Errorf("room 7: %w", errors.Join(io.EOF, tt.err))), tt.want)
		})
	}
}
