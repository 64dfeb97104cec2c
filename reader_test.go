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
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c, p := connectRaw(t, strings.HasPrefix(row.name, "Server"))
				go p.nc.Write(wireHex(row.wire))
				wantRead(t, c, row.typ, row.data)
			})
		})
	}
}

// forbidden has frames that are refused by their header alone, without a payload. Beside them are frames as near to them
// as can be, and the messages that these come to.
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
		t.Run(row.name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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
		})
	}
}

func TestConn_Reads_NeighboursOfForbiddenFrames(t *testing.T) {
	for _, row := range forbidden {
		t.Run(row.name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
				go p.trySend(row.good...)
				for _, want := range row.messages {
					if r := readOne(patience(t), c); r.err != nil || r.data != want {
						t.Fatalf("Read: %v, want %.64q", r, want)
					}
				}
			})
		})
	}
}

// Section 5.1: the mask bit of every kind of frame, with a payload or without; before it comes a frame as it should be.
func TestConn_Refuses_WrongMaskBit(t *testing.T) {
	for _, frame := range []string{"81 01 61", "82 00", "89 00", "8a 01 61", "88 00", "01 00", "82 7e 007e"} {
		t.Run(strings.ReplaceAll(frame, " ", "_"), func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
				p.send("82 01 7a")
				p.sendBytes(towards(!p.server, frame))
				wantRead(t, c, BinaryMessage, "z")
				wantFailure(t, "Read", readOne(patience(t), c).err, StatusProtocolError)
				wantFailed(t, p, StatusProtocolError)
			})
		})
	}
}

// Section 5.3: lengths 0 to 64 at every position of the stream, in two pieces cut at every byte.
func TestConn_Reads_MaskedPayloadCutAnywhere(t *testing.T) {
	payload := []byte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_")
	for _, server := range []bool{true, false} {
		for n := range len(payload) + 1 {
			stream := towards(server, frameHex(0x82, payload[:n%8]), frameHex(0x82, payload[:n]))
			for k := range stream {
				s := &scriptConn{pieces: [][]byte{stream[:k], stream[k:]}}
				if k == 0 {
					s.pieces = s.pieces[1:]
				}
				c := newConn(s, testConfig(server))
				wantRead(t, c, BinaryMessage, string(payload[:n%8]))
				wantRead(t, c, BinaryMessage, string(payload[:n]))
				c.CloseNow()
			}
		}
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
		if r := <-got; r != (readResult{TextMessage, "Hello", nil}) {
			t.Errorf("Read: %v", r)
		}
	})
}

// A connection that ends without a close frame, after any byte, is lost.
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

// Bytes that came with the handshake are the first to be read, and count.
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

// cancelledRead demands that a Read of nothing that is there ends with its ctx.
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

// "Cancelling a read loses nothing": a conversation that is cut at every byte, with a cancelled Read there.
func TestConn_Reads_AfterCancelledReadAtEveryByte(t *testing.T) {
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

// The same with a cancelled Read between any two bytes.
func TestConn_Reads_AfterCancelledReadsBetweenAllBytes(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		stream := towards(p.server, "01 04 e282ac61", "00 00", "89 02 6869", "80 01 62")
		for _, b := range stream[:len(stream)-1] {
			p.sendBytes([]byte{b})
			cancelledRead(t, c)
		}
		p.expect("8a 02 6869")
		p.sendBytes(stream[len(stream)-1:])
		wantRead(t, c, TextMessage, "€ab")
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

// A read with an ended ctx returns its error and loses nothing; the same ctx may be used again.
func TestConn_Reads_WithEndedContext(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 3 {
			wantError(t, "Read", readOne(ended, c).err, context.Canceled)
		}
		p.send("81 01 61")
		wantRead(t, c, TextMessage, "a")
		for name, read := range waysToRead {
			_, _, err := read(ended, c)
			wantError(t, name, err, context.Canceled)
		}
		p.send("81 01 62")
		wantRead(t, c, TextMessage, "b")
	})
}

// A ctx that ends after its Read has returned does not touch the reads that follow.
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

// The deadline that interrupts a read is not taken for the end of the next one.
func TestConn_Reads_AfterInterruptOverTCP(t *testing.T) {
	near, far := tcpEnds(t)
	c, _ := connectOver(t, near, far, false)
	for range 200 {
		far.Write(wireHex("82 01 61  82")) // a message, and the first byte of a header
		ctx, cancel := context.WithCancel(t.Context())
		first := readOne(ctx, c)
		go cancel()
		if first.data != "a" || first.err != nil {
			t.Fatal(first)
		}
		rest := background(func() error { _, err := far.Write([]byte("\x05hello")); return err })
		wantRead(t, c, BinaryMessage, "hello")
		if err := <-rest; err != nil {
			t.Fatal(err)
		}
	}
}

// "An error of a call whose ctx ended matches both ctx.Err() and context.Cause(ctx)", whether it ended before the call or
// while the call waited.
func TestConn_Reads_UntilContextEndsWithCause(t *testing.T) {
	for name, read := range waysToRead {
		t.Run(name, func(t *testing.T) {
			eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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

// Reads take turns: each message goes to one of them, as a whole.
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

// A read that waits for its turn can be cancelled.
func TestConn_Reads_CancelledBehindAnotherRead(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		first := background(func() readResult { return readOne(patience(t), c) })
		pending(t, "Read", first)
		cancelledRead(t, c)
		p.send("81 01 61")
		if r := <-first; r.data != "a" {
			t.Errorf("the first Read: %v", r)
		}
	})
}

// "With none at work no ping is answered and no close is seen."
func TestConn_Reads_NothingWhileNobodyReads(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("89 00", "88 00")
		pass(time.Minute)
		p.quiet()
		if err := c.Context().Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
		wantClosed(t, "Read", readOne(patience(t), c).err, StatusNoStatusRcvd, "")
		p.expect("8a 00", "88 00")
	})
}

// A read without a context is an error: it does not panic, loses no message and does not block later reads.
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
		if c.Context().Err() != nil {
			t.Errorf("the connection ended: %v", context.Cause(c.Context()))
		}
	})
}

// Memory follows the bytes that arrived: a header that declares 1 GiB costs less than 64 KiB, with a limit and without
// one, however the message is read.
func TestConn_Reads_DeclaredLengthWithoutItsMemory(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for _, limit := range []int64{-1, 1 << 30} {
			for name, read := range waysToRead {
				c := newConn(newSpout(server, "82 7f 0000000040000000", 0, "82 00"), testConfig(server, func(cfg *config) { cfg.maxMessage = limit }))
				var err error
				got, _, _ := spend(func() { _, _, err = read(context.Background(), c) })
				wantLost(t, name, err)
				if got > 64<<10 {
					t.Errorf("%s: 1 GiB declared costs %d bytes", name, got)
				}
				c.CloseNow()
			}
		}
	})
}

// Frames that are refused by their header cost little memory.
func TestConn_Refuses_FramesWithoutTheirMemory(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for _, frame := range []string{"82 7f 7fffffffffffffff", "82 7f ffffffffffffffff", "83 7f 000000007fffffff", "89 7f 000000007fffffff"} {
			c := newConn(newSpout(server, frame, 0, "82 00"), testConfig(server, func(cfg *config) { cfg.maxMessage = 1 << 40 }))
			var err error
			got, _, _ := spend(func() { err = readOne(context.Background(), c).err })
			if err == nil || got > 64<<10 {
				t.Errorf("%s costs %d bytes: %v", frame, got, err)
			}
			c.CloseNow()
		}
	})
}

// A frame that arrives byte by byte does not cost an object for each byte.
func TestConn_Reads_ByteByByteWithoutMemory(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		stream := towards(server, frameHex(0x82, pattern(50000)))
		s := &scriptConn{}
		for i := range stream {
			s.pieces = append(s.pieces, stream[i:i+1])
		}
		c := newConn(s, testConfig(server))
		defer c.CloseNow()
		got, objects, _ := spend(func() {
			if _, p, err := c.Read(context.Background()); err != nil || !slices.Equal(p, pattern(50000)) {
				t.Errorf("%d bytes, %v", len(p), err)
			}
		})
		if got > 5*50000+64<<10 || objects > 200 {
			t.Errorf("50000 bytes one by one cost %d bytes in %d objects", got, objects)
		}
	})
}

// The context of a read ends nothing once the read has returned, also where no deadline could interrupt it.
func TestConn_Reads_ContextThatEndsAfterReadWithoutDeadlines(t *testing.T) {
	for name, read := range waysToRead {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
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
		})
	}
}

// A Reader whose message was skipped says so, also while no later message has begun.
func TestConn_Reads_ReaderSkippedByCancelledRead(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("01 03 616263", "80 01 64")
		_, r, err := c.Reader(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		cancelledRead(t, c)
		if b, err := io.ReadAll(r); err == nil {
			t.Errorf("the Reader returned %q and then io.EOF, as if the message were read to its end", b)
		}
		p.send("81 01 65")
		wantRead(t, c, TextMessage, "e")
	})
}

// The neighbour: the cancelled read has skipped only a part of the message, and the Reader must not go on after the gap.
func TestConn_Reads_ReaderSkippedInPart(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("01 03 616263", "00 01 64")
		_, r, err := c.Reader(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		cancelledRead(t, c)
		p.send("80 01 65", "81 01 66")
		if b, err := io.ReadAll(r); err == nil || len(b) > 0 {
			t.Errorf("the Reader returned %q, %v, after cd was skipped", b, err)
		}
		wantRead(t, c, TextMessage, "f")
	})
}
