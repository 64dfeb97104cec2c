package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// Receiving: examples, frames that are refused and those beside them that are not, fragmentation, text, limits.

// The examples of section 5.7, as they stand there (A60, A64, A69, A95).
func TestReceivesExamples(t *testing.T) {
	rows := []struct {
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
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c, p := connectRaw(t, strings.HasPrefix(row.name, "Server"))
				go p.nc.Write(wireHex(row.wire))
				wantRead(t, c, row.typ, row.data)
			})
		})
	}
}

// Each row has frames that are refused, by their header alone: no payload is sent. Beside them stand frames
// as near to them as can be, and the messages that these come to.
var refused = []struct {
	name     string
	bad      []string
	code     StatusCode
	good     []string
	messages []string
}{
	{"A55_RSV1", []string{"c1 05"}, 1002, []string{"81 05 48656c6c6f"}, []string{"Hello"}}, // R14 too
	{"A55_RSV2", []string{"a2 05"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"A55_RSV3", []string{"91 05"}, 1002, []string{"81 05 48656c6c6f"}, []string{"Hello"}},
	{"A55_RSV1OfPing", []string{"c9 00"}, 1002, []string{"89 00", "82 01 61"}, []string{"a"}},
	{"A55_RSV1OfContinuation", []string{"01 01 61", "c0 01"}, 1002, []string{"01 01 61", "80 01 62"}, []string{"ab"}},
	{"A56_Opcode3", []string{"83 05"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"A56_Opcode4", []string{"84 00"}, 1002, []string{"82 00"}, []string{""}},
	{"A56_Opcode5", []string{"85 00"}, 1002, []string{"81 00"}, []string{""}},
	{"A56_Opcode6", []string{"86 00"}, 1002, []string{"82 00"}, []string{""}},
	{"A56_Opcode7", []string{"07 00"}, 1002, []string{"02 00", "80 00"}, []string{""}},
	{"A56_OpcodeB", []string{"8b 00"}, 1002, []string{"8a 00", "82 00"}, []string{""}},
	{"A56_OpcodeC", []string{"8c 00"}, 1002, []string{"89 00", "82 00"}, []string{""}},
	{"A56_OpcodeD", []string{"8d 00"}, 1002, []string{"89 00", "82 00"}, []string{""}},
	{"A56_OpcodeE", []string{"8e 00"}, 1002, []string{"8a 00", "82 00"}, []string{""}},
	{"A56_OpcodeF", []string{"8f 00"}, 1002, []string{"8a 00", "82 00"}, []string{""}},
	{"A56_OpcodeBInMessage", []string{"01 01 61", "8b 00"}, 1002, []string{"01 01 61", "8a 00", "80 00"}, []string{"a"}},
	{"R9_Opcode3BeforeLimit", []string{"83 7f 000000007fffffff"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"R9_RSV2BeforeLimit", []string{"a2 7f 7fffffffffffffff"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"R9_ContinuationBeforeLimit", []string{"80 7f 7fffffffffffffff"}, 1002, []string{"82 00"}, []string{""}},
	{"A57_TopBit", []string{"82 7f 8000000000000000"}, 1002, []string{"82 7e 007e" + strings.Repeat("61", 126)}, []string{strings.Repeat("a", 126)}},
	{"R2_TopBitAnd5", []string{"82 7f 8000000000000005"}, 1002, []string{"82 05 48656c6c6f"}, []string{"Hello"}},
	{"R2_AllBits", []string{"82 7f ffffffffffffffff"}, 1002, []string{"82 00"}, []string{""}},
	{"A59_125In16Bits", []string{"82 7e 007d"}, 1002, []string{"82 7d" + strings.Repeat("61", 125)}, []string{strings.Repeat("a", 125)}},
	{"A59_0In16Bits", []string{"82 7e 0000"}, 1002, []string{"82 00"}, []string{""}},
	{"A59_0In64Bits", []string{"82 7f 0000000000000000"}, 1002, []string{"82 00"}, []string{""}},
	{"A59_65535In64Bits", []string{"82 7f 000000000000ffff"}, 1002, []string{"82 7e ffff" + strings.Repeat("61", 65535)}, []string{strings.Repeat("a", 65535)}},
	{"A66_FragmentedPing", []string{"09 00"}, 1002, []string{"89 00", "81 01 61"}, []string{"a"}},
	{"A66_FragmentedPong", []string{"0a 00"}, 1002, []string{"8a 00", "81 01 61"}, []string{"a"}},
	{"A66_FragmentedClose", []string{"08 00"}, 1002, []string{"81 01 61"}, []string{"a"}},
	{"A67_ContinuationFirst", []string{"80 05"}, 1002, []string{"81 05 48656c6c6f"}, []string{"Hello"}},
	{"A67_ContinuationFirstUnfinished", []string{"00 05"}, 1002, []string{"01 05 48656c6c6f", "80 00"}, []string{"Hello"}},
	{"A67_ContinuationAfterMessage", []string{"01 00", "80 00", "80 00"}, 1002, []string{"01 00", "80 00", "82 00"}, []string{"", ""}},
	{"A68_TextInMessage", []string{"01 01 61", "81 01"}, 1002, []string{"01 01 61", "80 01 62"}, []string{"ab"}},
	{"A68_BinaryInMessage", []string{"01 01 61", "02 01"}, 1002, []string{"01 01 61", "00 01 62", "80 00"}, []string{"ab"}},
	{"A68_SameTypeInMessage", []string{"02 00", "82 00"}, 1002, []string{"02 00", "80 00", "82 01 62"}, []string{"", "b"}},
	{"A74_PingOf126", []string{"89 7e 007e"}, 1002, []string{"89 7d" + strings.Repeat("61", 125), "82 00"}, []string{""}},
	{"A74_PongOf126", []string{"8a 7e 007e"}, 1002, []string{"8a 7d" + strings.Repeat("61", 125), "82 00"}, []string{""}},
	{"A74_CloseOf126", []string{"88 7e 007e"}, 1002, []string{"82 00"}, []string{""}},
	{"A74_PingOf64Bits", []string{"89 7f 0000000000010000"}, 1002, []string{"82 00"}, []string{""}},
	{"A74_PingOf2To63", []string{"89 7f 7fffffffffffffff"}, 1002, []string{"82 00"}, []string{""}},
	{"R10_LimitAnd1", []string{"82 7f 0000000000100001"}, 1009, []string{frameHex(0x82, make([]byte, 1<<20))}, []string{string(make([]byte, 1<<20))}},
	{"R10_LimitAnd1InFragments", []string{frameHex(2, make([]byte, 1<<20)), "80 01"}, 1009, []string{frameHex(2, make([]byte, 1<<20)), "80 00"}, []string{string(make([]byte, 1<<20))}},
	{"R1_SumPast2To63", []string{"02 02 6162", "80 7f 7fffffffffffffff"}, 1009, []string{"02 02 6162", "80 01 63"}, []string{"abc"}},
	{"R1_2To62", []string{"82 7f 4000000000000000"}, 1009, []string{"82 01 63"}, []string{"c"}},
}

func TestReceivesRefused(t *testing.T) {
	for _, row := range refused {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
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

// wantFailed demands the close frame at once, and the end of the connection in bounded time (A99).
func wantFailed(t *testing.T, p *rawPeer, code StatusCode) {
	t.Helper()
	start := time.Now()
	for {
		f := p.next()
		if f.first == 0x8a {
			continue
		}
		p.isClose(f, code)
		break
	}
	if d := time.Since(start); d > 0 {
		t.Errorf("A99: the close frame came after %v", d)
	}
	p.expectEnd()
	if d := time.Since(start); d > testCloseTimeout {
		t.Errorf("A99: the connection was let go after %v", d)
	}
}

// wantSticky demands the same error of every later call: a read "gets the same one each time, quickly", and
// "after a ProtocolError writes return that same error".
func wantSticky(t *testing.T, c *Conn, err error) {
	t.Helper()
	start := time.Now()
	for range 2000 {
		if r := readOne(context.Background(), c); r.err != err {
			t.Fatalf("a later Read: %v, want %v", r, err)
		}
	}
	if werr := c.Write(context.Background(), BinaryMessage, []byte("x")); werr != err {
		t.Errorf("a later Write: %v, want %v", werr, err)
	}
	if d := time.Since(start); d > 0 {
		t.Errorf("later calls took %v", d)
	}
}

func TestReceivesNeighboursOfRefused(t *testing.T) {
	for _, row := range refused {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
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

// A52, A54: the mask bit of every kind of frame, with a payload or without; beside it the frame as it should be.
func TestReceivesMaskDirection(t *testing.T) {
	for _, frame := range []string{"81 01 61", "82 00", "89 00", "8a 01 61", "88 00", "01 00", "82 7e 007e"} {
		t.Run(strings.ReplaceAll(frame, " ", "_"), func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				p.send("82 01 7a")
				p.sendBytes(towards(!server, frame))
				wantRead(t, c, BinaryMessage, "z")
				wantFailure(t, "Read", readOne(patience(t), c).err, StatusProtocolError)
				wantFailed(t, p, StatusProtocolError)
			})
		})
	}
}

// A62: lengths 0 to 64 at every position of the stream, in two pieces cut at every byte.
func TestReceivesUnmasked(t *testing.T) {
	payload := []byte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_")
	for _, server := range []bool{true, false} {
		for n := range len(payload) + 1 {
			stream := towards(server, frameHex(0x82, payload[:n%8]), frameHex(0x82, payload[:n]))
			for k := range stream {
				s := &scriptConn{pieces: [][]byte{stream[:k], stream[k:]}}
				if k == 0 {
					s.pieces = s.pieces[1:]
				}
				c := newConn(s, config{terms: terms{server: server, closeTimeout: time.Second, maxPending: 1000}, maxMessage: 100})
				wantRead(t, c, BinaryMessage, string(payload[:n%8]))
				wantRead(t, c, BinaryMessage, string(payload[:n]))
				c.CloseNow()
			}
		}
	}
}

// A70, A94, R23: messages and fragments of no bytes, anywhere.
func TestReceivesEmpty(t *testing.T) {
	rows := []struct {
		name   string
		frames []string
		typ    MessageType
		data   string
	}{
		{"Text", []string{"81 00"}, TextMessage, ""},
		{"Binary", []string{"82 00"}, BinaryMessage, ""},
		{"First", []string{"01 00", "80 01 61"}, TextMessage, "a"},
		{"Middle", []string{"01 01 61", "00 00", "00 00", "80 01 62"}, TextMessage, "ab"},
		{"Last", []string{"02 01 61", "80 00"}, BinaryMessage, "a"},
		{"All", []string{"02 00", "00 00", "80 00"}, BinaryMessage, ""},
		{"InsideCharacter", []string{"01 02 e282", "00 00", "80 01 ac"}, TextMessage, "€"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				p.send(row.frames...)
				p.send("82 01 7a")
				wantRead(t, c, row.typ, row.data)
				wantRead(t, c, BinaryMessage, "z")
			})
		})
	}
}

// A65: a ping between fragments, and in the middle of the stream of a Reader, is answered before the message ends.
func TestReceivesControlBetweenFragments(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
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

// A88's neighbour and section 5.5.1: a close frame between fragments ends the message unfinished.
func TestReceivesCloseBetweenFragments(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("01 03 48656c", closeHex(1000, ""))
		r := readOne(patience(t), c)
		var ce *CloseError
		if !errors.As(r.err, &ce) || *ce != (CloseError{StatusNormalClosure, ""}) || r.data != "" {
			t.Errorf("Read: %v", r)
		}
		p.expectClose(StatusNormalClosure)
	})
}

// A91: what is UTF-8 and what is not, by RFC 3629.
var textRows = []struct {
	name string
	text string
	ok   bool
}{
	{"NUL", "a\x00b", true}, {"U+7F", "\x7f", true}, {"U+80", "\u0080", true}, {"U+7FF", "\u07ff", true},
	{"U+800", "\u0800", true}, {"U+D7FF", "\ud7ff", true}, {"U+E000", "\ue000", true}, {"U+FFFE", "\ufffe", true},
	{"U+FFFF", "\uffff", true}, {"U+FDD0", "\ufdd0", true}, {"U+10000", "\U00010000", true},
	{"U+1FFFE", "\U0001fffe", true}, {"U+10FFFF", "\U0010ffff", true}, {"U+FFFD", "\ufffd", true},
	{"BOM", "\ufeffa", true}, {"Greek", "κόσμε", true},
	{"Continuation", "\x80", false}, {"LastContinuation", "\xbf", false}, {"Overlong2", "\xc0\xaf", false},
	{"OverlongC1", "\xc1\xbf", false}, {"Overlong3", "\xe0\x80\xaf", false}, {"OverlongE09F", "\xe0\x9f\xbf", false},
	{"Overlong4", "\xf0\x80\x80\xaf", false}, {"OverlongF08F", "\xf0\x8f\xbf\xbf", false},
	{"U+D800", "\xed\xa0\x80", false}, {"U+DFFF", "\xed\xbf\xbf", false}, {"SurrogatePair", "\xed\xa0\x80\xed\xb0\x80", false},
	{"U+110000", "\xf4\x90\x80\x80", false}, {"F5", "\xf5\x80\x80\x80", false}, {"F8", "\xf8\x88\x80\x80\x80", false},
	{"FE", "\xfe", false}, {"FF", "\xff", false}, {"TwoOfTwo", "\xc3\x28", false}, {"Latin1", "caf\xe9 ", false},
	{"CutAfter1", "a\xc3", false}, {"CutAfter2", "a\xe2\x82", false}, {"CutAfter3", "\xf0\x9f\x98", false},
	{"LateInLong", strings.Repeat("a long line of ASCII, and then: ", 50) + "\xff", false},
	{"LongRight", strings.Repeat("a long line of ASCII, and then: ", 50) + "€", true},
}

// A89, A91, R51: in one frame, and in two cut at every byte of the last ones.
func TestReceivesText(t *testing.T) {
	for _, row := range textRows {
		t.Run(row.name, func(t *testing.T) {
			eachRoleByPipe(t, func(t *testing.T, server bool) {
				receiveText(t, server, row.ok, row.text, frameHex(0x81, []byte(row.text)))
				for k := max(0, len(row.text)-6); k <= len(row.text); k++ {
					receiveText(t, server, row.ok, row.text, frameHex(1, []byte(row.text[:k])), frameHex(0x80, []byte(row.text[k:])))
				}
			})
		})
	}
}

func receiveText(t *testing.T, server, ok bool, text string, frames ...string) {
	t.Helper()
	c, p := connectRaw(t, server)
	defer c.CloseNow()
	p.send(frames...)
	switch r := readOne(patience(t), c); {
	case ok:
		if r != (readResult{TextMessage, text, nil}) {
			t.Errorf("%.80q: %v", frames, r)
		}
	case r.err == nil:
		t.Errorf("A91: %.80q: %v", frames, r)
	default:
		wantFailure(t, fmt.Sprintf("%.80q", frames), r.err, StatusInvalidFramePayloadData)
		p.expectClose(StatusInvalidFramePayloadData)
	}
}

// A91's neighbour: the same bytes are right in a binary message.
func TestReceivesBinaryThatIsNoText(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, row := range textRows {
			p.send(frameHex(0x82, []byte(row.text)))
			wantRead(t, c, BinaryMessage, row.text)
		}
	})
}

// A90: at the first wrong byte, while the rest of the frame has not been sent; the character may be cut by fragments.
func TestReceivesTextFailsFast(t *testing.T) {
	rows := []struct {
		name   string
		before []string
		more   string // a wrong byte
	}{
		{"FirstByte", nil, "81 7e 03e8 ff"},
		{"InCharacter", []string{"81 7e 03e8 61e282"}, "28"},
		{"ContinuationFrame", []string{"01 02 61e2"}, "00 7e 03e8 28"},
		{"UnfinishedFrame", []string{"01 7e 03e8 6162e0"}, "80"},
		{"BigFrame", []string{"81 7f 0000000000080000" + strings.Repeat("61", 60000)}, "c0"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) { // a client, so that the bytes need no mask
				c, p := connectRaw(t, false)
				got := background(func() readResult { return readOne(patience(t), c) })
				p.send(row.before...)
				pending(t, "Read", got)
				p.sendBytes(wireHex(row.more))
				wantFailed(t, p, StatusInvalidFramePayloadData)
				wantFailure(t, "Read", (<-got).err, StatusInvalidFramePayloadData)
			})
		})
	}
	inBubble(t, func(t *testing.T) { // and a server
		c, p := connectRaw(t, true)
		p.send("81 7e 03e8 616263 ff")
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusInvalidFramePayloadData)
		wantFailed(t, p, StatusInvalidFramePayloadData)
	})
}

// A116, R10: a message of the limit is read, one of a byte more matches ErrMessageTooBig; a control frame
// does not count.
func TestReceivesLimit(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxMessage = 10 })
		ten := []byte("0123456789")
		p.send(frameHex(0x82, ten), frameHex(1, ten[:4]), frameHex(0x89, make([]byte, 100)), frameHex(0, ten[4:]), "80 00")
		wantRead(t, c, BinaryMessage, "0123456789")
		wantRead(t, c, TextMessage, "0123456789")
		p.send("81 0b 30")
		err := readOne(patience(t), c).err
		wantFailure(t, "Read", err, StatusMessageTooBig)
		wantError(t, "Read", err, ErrMessageTooBig)
		wantFailed(t, p, StatusMessageTooBig)
	})
}

// R5's other half: without a limit a large message is read.
func TestReceivesWithoutLimit(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxMessage = -1 })
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		go p.trySend(frameHex(2, data[:1<<21]), frameHex(0x80, data[1<<21:]))
		wantRead(t, c, BinaryMessage, string(data))
	})
}

// R1: without a limit too, lengths that sum past 2^63-1 are refused by the header.
func TestReceivesSumPast2To63WithoutLimit(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxMessage = -1 })
		p.send("02 02 6162", "80 7f 7fffffffffffffff")
		err := readOne(patience(t), c).err
		var pe *ProtocolError
		if !errors.As(err, &pe) || pe.Code != StatusMessageTooBig && pe.Code != StatusProtocolError {
			t.Fatalf("Read: %v", err)
		}
		wantFailed(t, p, pe.Code)
	})
}

// R7, R8: both ends have a limit of 1 MiB without any configuration.
func TestReceivesDefaultLimit(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, sender := Pipe(nil, nil)
		if !server {
			c, sender = sender, c
		}
		defer sender.CloseNow()
		defer c.CloseNow()
		go func() {
			sender.Write(patience(t), BinaryMessage, make([]byte, 1<<20))
			sender.Write(patience(t), BinaryMessage, make([]byte, 1<<20+1))
		}()
		wantRead(t, c, BinaryMessage, string(make([]byte, 1<<20)))
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusMessageTooBig)
	})
}

// A100, R3: a connection that ends after any byte but without a close frame.
func TestReceivesEndAtEveryByte(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		stream := towards(server, frameHex(0x82, make([]byte, 130)), "01 02 6162", "89 01 63", "80 01 64")
		for k := range len(stream) + 1 {
			c, p := connectRaw(t, server)
			p.sendBytes(stream[:k])
			p.nc.(interface{ CloseWrite() error }).CloseWrite()
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

// Bytes that came behind the handshake are the first to be read (A48).
func TestReceivesEarlyBytes(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
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
			c.CloseNow()
		}
	})
}
