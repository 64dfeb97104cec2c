package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The examples of section 5.7.
func TestConn_Reads_ExamplesOfTheRFC(t *testing.T) {
	for _, row := range []struct {
		name string
		wire string
		typ  MessageType
		data string
	}{
		{"Server/Masked", "81 85 37fa213d 7f9f4d5158", TextMessage, "Hello"},
		{"Client/Unmasked", "81 05 48656c6c6f", TextMessage, "Hello"},
		{"Client/Fragmented", "01 03 48656c  80 02 6c6f", TextMessage, "Hello"},
		{"Client/256Bytes", "82 7e 0100" + strings.Repeat("ab", 256), BinaryMessage, strings.Repeat("\xab", 256)},
		{"Client/64KiB", "82 7f 0000000000010000" + strings.Repeat("cd", 65536), BinaryMessage, strings.Repeat("\xcd", 65536)},
	} {
		inBubbleIn(t, row.name, func(t *testing.T) {
			c, p := connectRaw(t, strings.HasPrefix(row.name, "Server"))
			go p.nc.Write(wireHex(row.wire))
			wantRead(t, c, row.typ, row.data)
		})
	}
}

// forbidden has frames that must be refused by their header, without a payload. Each row has a similar frame that is
// valid, and the messages that the valid frames make.
var forbidden = []struct {
	name     string
	bad      []string
	code     StatusCode
	good     []string
	messages []string
}{
	{"RSV1", []string{"c1 05"}, 1002, []string{"81 05 48656c6c6f"}, []string{"Hello"}},
	{"RSV2", []string{"a2 05"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"RSV3", []string{"91 05"}, 1002, []string{"81 05 48656c6c6f"}, []string{"Hello"}},
	{"RSV1OfPing", []string{"c9 00"}, 1002, []string{"89 00", "82 01 61"}, []string{"a"}},
	{"RSV1OfContinuation", []string{"01 01 61", "c0 01"}, 1002, []string{"01 01 61", "80 01 62"}, []string{"ab"}},
	{"Opcode3", []string{"83 05"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"Opcode4", []string{"84 00"}, 1002, []string{"82 00"}, []string{""}},
	{"Opcode5", []string{"85 00"}, 1002, []string{"81 00"}, []string{""}},
	{"Opcode6", []string{"86 00"}, 1002, []string{"82 00"}, []string{""}},
	{"Opcode7", []string{"07 00"}, 1002, []string{"02 00", "80 00"}, []string{""}},
	{"OpcodeB", []string{"8b 00"}, 1002, []string{"8a 00", "82 00"}, []string{""}},
	{"OpcodeC", []string{"8c 00"}, 1002, []string{"89 00", "82 00"}, []string{""}},
	{"OpcodeD", []string{"8d 00"}, 1002, []string{"89 00", "82 00"}, []string{""}},
	{"OpcodeE", []string{"8e 00"}, 1002, []string{"8a 00", "82 00"}, []string{""}},
	{"OpcodeF", []string{"8f 00"}, 1002, []string{"8a 00", "82 00"}, []string{""}},
	{"OpcodeBInMessage", []string{"01 01 61", "8b 00"}, 1002, []string{"01 01 61", "8a 00", "80 00"}, []string{"a"}},
	{"Opcode3BeforeLimit", []string{"83 7f 000000007fffffff"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"RSV2BeforeLimit", []string{"a2 7f 7fffffffffffffff"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"ContinuationBeforeLimit", []string{"80 7f 7fffffffffffffff"}, 1002, []string{"82 00"}, []string{""}},
	{"TopBit", []string{"82 7f 8000000000000000"}, 1002, []string{"82 7e 007e" + strings.Repeat("61", 126)}, []string{strings.Repeat("a", 126)}},
	{"TopBitAnd5", []string{"82 7f 8000000000000005"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"AllBits", []string{"82 7f ffffffffffffffff"}, 1002, []string{"82 00"}, []string{""}},
	{"TopBitAnd65536", []string{"82 7f 8000000000010000"}, 1002, []string{"82 00"}, []string{""}},
	{"1In16Bits", []string{"82 7e 0001"}, 1002, []string{"82 01 61"}, []string{"a"}},
	{"125In64Bits", []string{"82 7f 000000000000007d"}, 1002, []string{"82 00"}, []string{""}},
	{"126In64Bits", []string{"82 7f 000000000000007e"}, 1002, []string{"82 00"}, []string{""}},
	{"125In16Bits", []string{"82 7e 007d"}, 1002, []string{"82 7d" + strings.Repeat("61", 125)}, []string{strings.Repeat("a", 125)}},
	{"0In16Bits", []string{"82 7e 0000"}, 1002, []string{"82 00"}, []string{""}},
	{"0In64Bits", []string{"82 7f 0000000000000000"}, 1002, []string{"82 00"}, []string{""}},
	{"65535In64Bits", []string{"82 7f 000000000000ffff"}, 1002, []string{"82 7e ffff" + strings.Repeat("61", 65535)}, []string{strings.Repeat("a", 65535)}},
	{"FragmentedPing", []string{"09 00"}, 1002, []string{"89 00", "81 01 61"}, []string{"a"}},
	{"FragmentedPong", []string{"0a 00"}, 1002, []string{"8a 00", "81 01 61"}, []string{"a"}},
	{"FragmentedClose", []string{"08 00"}, 1002, []string{"81 01 61"}, []string{"a"}},
	{"ContinuationFirst", []string{"80 05"}, 1002, []string{"81 05 48656c6c6f"}, []string{"Hello"}},
	{"ContinuationFirstUnfinished", []string{"00 05"}, 1002, []string{"01 05 48656c6c6f", "80 00"}, []string{"Hello"}},
	{"ContinuationAfterMessage", []string{"01 00", "80 00", "80 00"}, 1002, []string{"01 00", "80 00", "82 00"}, []string{"", ""}},
	{"TextInMessage", []string{"01 01 61", "81 01"}, 1002, []string{"01 01 61", "80 01 62"}, []string{"ab"}},
	{"BinaryInMessage", []string{"01 01 61", "02 01"}, 1002, []string{"01 01 61", "00 01 62", "80 00"}, []string{"ab"}},
	{"SameTypeInMessage", []string{"02 00", "82 00"}, 1002, []string{"02 00", "80 00", "82 01 62"}, []string{"", "b"}},
	{"PingOf126", []string{"89 7e 007e"}, 1002, []string{"89 7d" + strings.Repeat("61", 125), "82 00"}, []string{""}},
	{"PongOf126", []string{"8a 7e 007e"}, 1002, []string{"8a 7d" + strings.Repeat("61", 125), "82 00"}, []string{""}},
	{"CloseOf126", []string{"88 7e 007e"}, 1002, []string{"82 00"}, []string{""}},
	{"PingOf64Bits", []string{"89 7f 0000000000010000"}, 1002, []string{"82 00"}, []string{""}},
	{"PingOf2To63", []string{"89 7f 7fffffffffffffff"}, 1002, []string{"82 00"}, []string{""}},
	{"LimitAnd1", []string{"82 7f 0000000000100001"}, 1009, []string{frameHex(0x82, make([]byte, 1<<20))}, []string{string(make([]byte, 1<<20))}},
	{"LimitAnd1InFragments", []string{frameHex(2, make([]byte, 1<<20)), "80 01"}, 1009, []string{frameHex(2, make([]byte, 1<<20)), "80 00"}, []string{string(make([]byte, 1<<20))}},
	{"SumPast2To63", []string{"02 02 6162", "80 7f 7fffffffffffffff"}, 1009, []string{"02 02 6162", "80 01 63"}, []string{"abc"}},
	{"2To62", []string{"82 7f 4000000000000000"}, 1009, []string{"82 01 63"}, []string{"c"}},
}

func TestConn_Refuses_ForbiddenFrames(t *testing.T) {
	for _, row := range forbidden {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			sent := background(func() error { p.send(row.bad...); return nil })
			r := readOne(patience(t), c)
			for r.err == nil {
				r = readOne(patience(t), c)
			}
			wantFailure(t, "Read", r.err, row.code)
			wantSticky(t, c, r.err)
			wantFailed(t, p, row.code)
			<-sent
		})
		eachConnIn(t, row.name+"/Neighbour", func(t *testing.T, c *Conn, p *rawPeer) {
			go p.trySend(row.good...)
			for _, want := range row.messages {
				if r := readOne(patience(t), c); r.err != nil || r.data != want {
					t.Fatalf("Read: %v, want %.64q", r, want)
				}
			}
		})
	}
}

// Section 5.1: the mask bit of every kind of frame, after a valid frame.
func TestConn_Refuses_WrongMaskBit(t *testing.T) {
	for _, frame := range []string{"81 01 61", "82 00", "89 00", "8a 01 61", "88 00", "01 00", "82 7e 007e"} {
		eachConnIn(t, strings.ReplaceAll(frame, " ", "_"), func(t *testing.T, c *Conn, p *rawPeer) {
			p.send("82 01 7a")
			p.sendBytes(towards(!p.server, frame))
			wantRead(t, c, BinaryMessage, "z")
			wantFailure(t, "Read", readOne(patience(t), c).err, StatusProtocolError)
			wantFailed(t, p, StatusProtocolError)
		})
	}
}

// Section 5.4: "Control frames MAY be injected in the middle of a fragmented message." A ping is answered before the
// message ends.
func TestConn_Reads_ControlFramesBetweenFragments(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		got := background(func() readResult { return readOne(patience(t), c) })
		p.send("01 03 48656c", "89 02 6869")
		p.expect("8a 02 6869")
		p.send("8a 00", "00 01 6c", "89 00")
		p.expect("8a 00")
		pending(t, "Read", got)
		p.send("80 01 6f")
		wantEqual(t, "Read", <-got, readResult{TextMessage, "Hello", nil})
	})
}

// A connection that ends after any byte without a close frame is lost.
func TestConn_Reads_EndAtEveryByte(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		stream := towards(server, frameHex(0x82, make([]byte, 130)), "01 02 6162", "89 01 63", "80 01 64")
		for k := range len(stream) + 1 {
			c, p := connectRaw(t, server)
			p.sendBytes(stream[:k])
			p.closeWrite()
			err := error(nil)
			for err == nil {
				_, _, err = c.Read(patience(t))
			}
			wantLost(t, fmt.Sprintf("after %d bytes", k), err)
			wantError(t, "Read", err, io.ErrUnexpectedEOF)
			if again := readOne(patience(t), c); again.err != err {
				t.Errorf("a later Read: %v, want %v", again, err)
			}
			c.CloseNow()
		}
	})
}

// Bytes that came with the handshake are read first, and counted.
func TestConn_Reads_BytesThatCameWithTheHandshake(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		stream := towards(server, "81 05 48656c6c6f", "82 03 616263", "89 01 70", frameHex(0x82, make([]byte, 9000)))
		for k := 0; k <= len(stream); k += 1 + k/40*500 {
			early := bytes.Clone(stream[:k])
			c, p := connectRaw(t, server, func(cfg *config) { cfg.early = early })
			clear(early)
			p.sendBytes(stream[k:])
			wantRead(t, c, TextMessage, "Hello")
			wantRead(t, c, BinaryMessage, "abc")
			wantRead(t, c, BinaryMessage, string(make([]byte, 9000)))
			p.expect("8a 01 70")
			if s := c.Stats(); s.BytesRead != uint64(len(stream)) || s.MessagesRead != 3 {
				t.Errorf("%d bytes came early: %+v", k, s)
			}
			c.CloseNow()
		}
	})
}

// cancelledRead checks that a Read that finds nothing ends with its ctx.
func cancelledRead(t *testing.T, c *Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	if r := readOne(ctx, c); !errors.Is(r.err, context.DeadlineExceeded) {
		t.Fatalf("a cancelled Read: %v", r)
	}
	took(t, "a Read cancelled after 1s", start, time.Second)
}

// A cancelled read loses nothing: a stream is cut at one byte or between all bytes, and a read is cancelled after each
// piece.
func TestConn_Reads_AfterCancelledReads(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		stream := towards(p.server, "01 04 e282ac61", "89 02 6869", "00 00", "80 01 62", frameHex(0x82, bytes.Repeat([]byte("z"), 130)))
		cuts := [][][]byte{cut(stream, 1)}
		for k := 1; k < len(stream); k++ {
			cuts = append(cuts, [][]byte{stream[:k], stream[k:]})
		}
		for i, pieces := range cuts {
			var got []string
			for _, piece := range pieces {
				p.sendBytes(piece)
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				r := readOne(ctx, c)
				for ; r.err == nil; r = readOne(ctx, c) {
					got = append(got, r.data)
				}
				cancel()
				wantError(t, fmt.Sprintf("cut %d", i), r.err, context.DeadlineExceeded)
			}
			if want := []string{"€ab", strings.Repeat("z", 130)}; !slices.Equal(got, want) {
				t.Fatalf("cut %d: %q", i, got)
			}
			p.expect("8a 02 6869")
		}
	})
}

func TestConn_Reads_LargePayloadAfterCancelledReads(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
		stream := towards(p.server, frameHex(0x82, data))
		for len(stream) > 30000 {
			p.sendBytes(stream[:30000])
			stream = stream[30000:]
			cancelledRead(t, c)
		}
		p.sendBytes(stream)
		wantRead(t, c, BinaryMessage, string(data))
	})
}

// A ctx that ends after its Read has returned does not affect later reads.
func TestConn_Reads_AfterReadWhoseContextEnds(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// The error of a read whose ctx ended, before the call or while it waited, matches ctx.Err() and context.Cause(ctx).
// The read loses nothing, and a read that waits for its turn does not wait for the one before it.
func TestConn_Reads_UntilContextEndsWithCause(t *testing.T) {
	for name, read := range waysToRead {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			ctx, cancel := context.WithCancelCause(t.Context())
			early, cancelEarly := context.WithCancelCause(t.Context())
			call := func(ctx context.Context) error { _, _, err := read(ctx, c); return err }
			waits := background(func() error { return call(ctx) })
			pending(t, name, waits)
			after := background(func() error { return call(early) })
			pending(t, name+" after another", after)
			cancelEarly(errEnough)
			wantError(t, name+" after another", returned(t, name, after), context.Canceled, errEnough)
			pending(t, name, waits)
			cancel(errEnough)
			wantError(t, name, returned(t, name, waits), context.Canceled, errEnough)
			wantError(t, name+" of an ended context", call(ctx), context.Canceled, errEnough)
			limited, stop := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
			defer stop()
			wantError(t, name+" that is late", call(limited), context.DeadlineExceeded, errEnough)
			p.send("81 01 61")
			wantRead(t, c, TextMessage, "a")
		})
	}
}

// Concurrent reads take turns: each message goes to one of them, whole.
func TestConn_Reads_ByManyAtOnce(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		const n = 20
		got := make(chan readResult, n)
		for range n {
			go func() { got <- readOne(patience(t), c) }()
		}
		var want, all []string
		for i := range n {
			s := fmt.Sprintf("%02d", i)
			want = append(want, s)
			p.send(frameHex(1, []byte(s[:1])), frameHex(0x80, []byte(s[1:])))
		}
		for range n {
			r := <-got
			if r.err != nil {
				t.Fatal(r)
			}
			all = append(all, r.data)
		}
		if slices.Sort(all); !slices.Equal(all, want) {
			t.Errorf("the messages are %q", all)
		}
	})
}

// While nothing reads, no ping is answered and no close frame is seen.
func TestConn_Reads_NothingWhileNobodyReads(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("89 00", "88 00")
		pass(time.Minute)
		p.quiet()
		wantOK(t, "the connection ended", c.Context().Err())
		wantClosed(t, "Read", readOne(patience(t), c).err, StatusNoStatusRcvd, "")
		p.expect("8a 00", "88 00")
	})
}

// A read with a nil context is an error: it does not panic, loses no message and does not block later reads.
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
		wantEqual(t, "a later Read", returnedSoon(t, "Read", read), readResult{TextMessage, "a", nil})
		if c.Context().Err() != nil {
			t.Errorf("the connection ended: %v", context.Cause(c.Context()))
		}
	})
}

// Memory follows the bytes that arrived, not the length that a header declares, the number of frames or the number of
// reads.
func TestConn_Reads_WithTheMemoryOfWhatArrived(t *testing.T) {
	n := 1_000_000
	if raceEnabled {
		n = 100_000
	}
	const little = 64 << 10
	for _, row := range []struct {
		name       string
		first      string // then times the second, and what begins the last frame
		times      int
		again      string
		last       []string
		message    int // bytes of the message; without one the connection is lost
		most, step int // bytes that may be allocated; bytes of each read, or 0
	}{
		{"GibibyteDeclared", "82 7f 0000000040000000", 0, "82 00", nil, 0, little, 0},
		{"2To63Declared", "82 7f 7fffffffffffffff", 0, "82 00", nil, 0, little, 0},
		{"ForbiddenDeclared", "83 7f 000000007fffffff", 0, "82 00", nil, 0, little, 0},
		{"PingDeclared", "89 7f 000000007fffffff", 0, "82 00", nil, 0, little, 0},
		{"FragmentsOfOneByte", "02 00", n, "00 01 61", []string{"80 00"}, n, 4*n + little, 0},
		{"EmptyFragments", "02 00", n / 4, "00 00", nil, 0, little, 0},
		{"ByteByByte", "02 00", 0, "82 00", []string{frameHex(0x80, pattern(50000))}, 50000, 4*50000 + little, 1},
	} {
		for name, read := range waysToRead {
			if row.message > 0 && name != "Read" {
				continue // iotest.HalfReader costs memory itself
			}
			t.Run(row.name+"/"+name, func(t *testing.T) {
				eachRoleOutside(t, func(t *testing.T, server bool) {
					for _, limit := range []int64{-1, 1 << 40} {
						s := newSpout(server, row.first, int64(row.times), row.again, row.last...)
						s.step = row.step
						c := newConn(s, testConfig(server, func(cfg *config) { cfg.maxMessage = limit }))
						var p []byte
						var err error
						got, objects, _ := spend(func() { _, p, err = read(context.Background(), c) })
						if len(p) != row.message || (err == nil) != (row.message > 0) {
							t.Errorf("%d bytes, %v", len(p), err)
						}
						if got > uint64(row.most) || objects > 300 {
							t.Errorf("it costs %d bytes in %d objects", got, objects)
						}
						c.CloseNow()
					}
				})
			})
		}
	}
}

// A Read can be cancelled during endless empty fragments.
func TestConn_Reads_EndlessEmptyFragments(t *testing.T) {
	c := newConn(newSpout(true, "02 00", 1<<60, "00 00"), testConfig(true))
	defer c.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	read := background(func() error { return readOne(ctx, c).err })
	wantError(t, "Read", returnedSoon(t, "Read of endless fragments", read), context.DeadlineExceeded)
}

// The end of a ctx does not close the connection once the read has returned, even if the connection has no deadlines.
func TestConn_Reads_ContextThatEndsAfterReadWithoutDeadlines(t *testing.T) {
	for name, read := range waysToRead {
		eachRoleIn(t, name, func(t *testing.T, server bool) {
			near, far := memPipe()
			c, p := connectOver(t, channelConn{near}, far, server)
			for range 3 {
				p.send("81 01 61")
				ctx, cancel := context.WithCancel(t.Context())
				if _, b, err := read(ctx, c); string(b) != "a" || err != nil {
					t.Fatalf("%s: %q, %v", name, b, err)
				}
				cancel()
				synctest.Wait()
			}
		})
	}
}

// The Reader of a message that a cancelled read has skipped, as a whole or in part, returns an error. It neither ends
// as if the message were read nor goes on after the gap.
func TestConn_Reads_ReaderSkippedByCancelledRead(t *testing.T) {
	for name, frames := range map[string][2]string{"Whole": {"80 01 64", ""}, "InPart": {"00 01 64", "80 01 65"}} {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			p.send("01 03 616263", frames[0])
			r := openReader(t, patience(t), c)
			wantPipeRead(t, r, "ab")
			cancelledRead(t, c)
			if frames[1] != "" {
				p.send(frames[1])
			}
			if b, err := io.ReadAll(r); err == nil || len(b) > 0 {
				t.Errorf("the Reader returned %q, %v, after its message was skipped", b, err)
			}
			p.send("81 01 66")
			wantRead(t, c, TextMessage, "f")
		})
	}
}
