package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// Section 8.1: text in one frame and in two, cut near the end. A binary message may have any bytes.
func TestConn_Reads_Text(t *testing.T) {
	eachText(t, func(t *testing.T, text string, valid bool) {
		eachRole(t, func(t *testing.T, server bool) {
			all := [][]string{{frameHex(0x81, []byte(text))}}
			for k := max(0, len(text)-6); k <= len(text); k++ {
				all = append(all, []string{frameHex(1, []byte(text[:k])), frameHex(0x80, []byte(text[k:]))})
			}
			for _, frames := range all {
				c, p := connectRaw(t, server)
				p.send(frameHex(0x82, []byte(text)))
				wantRead(t, c, BinaryMessage, text)
				p.send(frames...)
				switch r := readOne(patience(t), c); {
				case valid && r != readResult{TextMessage, text, nil}:
					t.Errorf("%.80q: %v", frames, r)
				case !valid:
					wantFailure(t, fmt.Sprintf("%.80q", frames), r.err, StatusInvalidFramePayloadData)
					p.expectClose(StatusInvalidFramePayloadData)
				}
				c.CloseNow()
			}
		})
	})
}

// The connection fails at the first wrong byte, here the last byte sent, before the rest of the frame arrives.
func TestConn_Refuses_WrongTextAtOnce(t *testing.T) {
	for name, frames := range map[string][]string{
		"FirstByte":         {"81 7e 03e8 ff"},
		"InCharacter":       {"81 7e 03e8 61e282 28"},
		"ContinuationFrame": {"01 02 61e2", "00 7e 03e8 28"},
		"UnfinishedFrame":   {"01 7e 03e8 6162e0 80"},
		"BigFrame":          {"81 7f 0000000000080000" + strings.Repeat("61", 60000) + "c0"},
	} {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			stream := towards(p.server, frames...)
			got := background(func() error { return readOne(patience(t), c).err })
			p.sendBytes(stream[:len(stream)-1])
			pending(t, "Read", got)
			p.sendBytes(stream[len(stream)-1:])
			wantFailed(t, p, StatusInvalidFramePayloadData)
			wantFailure(t, "Read", <-got, StatusInvalidFramePayloadData)
		})
	}
}

// wantTooBig checks that the next message is refused for its size.
func wantTooBig(t *testing.T, c *Conn, p *rawPeer) {
	t.Helper()
	err := readOne(patience(t), c).err
	wantFailure(t, "Read", err, StatusMessageTooBig)
	wantError(t, "Read", err, ErrMessageTooBig)
	wantFailed(t, p, StatusMessageTooBig)
}

// A message as long as the limit is read, a longer one is refused. Control frames do not count.
func TestConn_Reads_MessagesUpToTheLimit(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		ten := []byte("0123456789")
		p.send(frameHex(0x82, ten), frameHex(1, ten[:4]), frameHex(0x89, make([]byte, 100)), frameHex(0, ten[4:]), "80 00")
		wantRead(t, c, BinaryMessage, "0123456789")
		wantRead(t, c, TextMessage, "0123456789")
		p.send("81 0b 30")
		wantTooBig(t, c, p)
	}, smallLimit)
}

// Without a limit large messages are read. Lengths whose sum exceeds 2^63-1 are refused by the header.
func TestConn_Reads_MessagesWithoutLimit(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		go p.trySend(frameHex(2, data[:1<<21]), frameHex(0x80, data[1<<21:]), "02 02 6162", "80 7f 7fffffffffffffff")
		wantRead(t, c, BinaryMessage, string(data))
		err := readOne(patience(t), c).err
		var pe *ProtocolError
		if !errors.As(err, &pe) || pe.Code != StatusMessageTooBig && pe.Code != StatusProtocolError {
			t.Fatalf("Read: %v", err)
		}
		wantFailed(t, p, pe.Code)
	}, withoutLimit)
}

// The default limit is 1 MiB at both ends.
func TestConn_Reads_MessagesUpToTheDefaultLimit(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		sender, c := pipeOf(t, !server, nil)
		go func() {
			sender.Write(patience(t), BinaryMessage, make([]byte, 1<<20))
			sender.Write(patience(t), BinaryMessage, make([]byte, 1<<20+1))
		}()
		wantRead(t, c, BinaryMessage, string(make([]byte, 1<<20)))
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusMessageTooBig)
	})
}

// SetReadLimit sets the limit of the messages that follow. Its values have the meaning of Options.MaxMessageSize.
func TestConn_Reads_MessagesUpToSetReadLimit(t *testing.T) {
	for _, row := range []struct {
		name          string
		before, limit int64
		most          int // 0: there is no limit
	}{
		{"Raised", 10, 100, 100}, {"Lowered", 100, 10, 10}, {"One", 100, 1, 1}, {"Default", 10, 0, 1 << 20}, {"None", 10, -1, 0}, {"FromNone", -1, 10, 10},
	} {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			c.SetReadLimit(row.limit)
			if row.most == 0 {
				go p.trySend(frameHex(0x82, make([]byte, 3<<20)))
				wantRead(t, c, BinaryMessage, string(make([]byte, 3<<20)))
				return
			}
			go p.trySend(frameHex(0x82, make([]byte, row.most)), frameHex(2, make([]byte, row.most)), "80 01 61")
			wantRead(t, c, BinaryMessage, string(make([]byte, row.most)))
			wantTooBig(t, c, p)
		}, func(cfg *config) { cfg.maxMessage = row.before })
	}
}

// A message keeps the limit that was set when it began.
func TestConn_Reads_SetReadLimitFromTheNextMessageOn(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("02 01 61")
		r := openReader(t, patience(t), c)
		c.SetReadLimit(5)
		p.send(frameHex(0x80, pattern(9)))
		if b, err := io.ReadAll(r); len(b) != 10 || err != nil {
			t.Errorf("the Reader gave %d bytes, %v", len(b), err)
		}
		read := background(func() readResult { return readOne(patience(t), c) })
		pending(t, "Read", read)
		c.SetReadLimit(3) // while a Read waits for its message
		p.send("82 03 616263")
		if r := <-read; r.data != "abc" || r.err != nil {
			t.Errorf("Read: %v", r)
		}
		p.send("02 01 61")
		cancelledRead(t, c)
		c.SetReadLimit(100) // too late for a message of which a frame has come
		p.send("80 03")
		wantTooBig(t, c, p)
	}, smallLimit)
}

// Any goroutine may call SetReadLimit at any time.
func TestConn_Reads_WhileSetReadLimitIsCalled(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, p := connectRaw(t, true)
		done := make(chan struct{})
		go func() {
			for n := int64(0); ; n++ {
				select {
				case <-done:
					return
				default:
					c.SetReadLimit(100 + n%100)
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

// deflated returns a frame with the compressed data.
func deflated(b0 byte, data string) string {
	c := newCompressor(testConfig(true, deflating(false)).deflate)
	defer c.free()
	return frameHex(b0, c.chunk(nil, []byte(data), true))
}

// stored returns a frame with the data in a stored block (RFC 7692, section 7.2.3.3).
func stored(b0 byte, data string) string {
	n := byte(len(data))
	return frameHex(b0, append([]byte{0, n, 0, ^n, 0xff}, data+"\x00"...))
}

const (
	hello = "f248 cdc9 c907 00" // RFC 7692, section 7.2.3.1
	again = "f200 1100 00"      // section 7.2.3.2: the same once more, by reference to the first
)

func thousand(cfg *config) { cfg.maxMessage = 1000 }

// The examples of RFC 7692, section 7.2.3, and other compressed messages.
func TestConn_Reads_CompressedMessages(t *testing.T) {
	for _, row := range []struct {
		name   string
		kept   bool
		frames []string
		want   []string
	}{
		{"Hello", false, []string{"c1 07" + hello}, []string{"Hello"}},
		{"Uncompressed", true, []string{"c1 07" + hello, "81 05 48656c6c6f", "c1 05" + again}, []string{"Hello", "Hello", "Hello"}},
		{"WindowKept", true, []string{"c1 07" + hello, "c1 05" + again}, []string{"Hello", "Hello"}},
		{"Stored", false, []string{stored(0xc1, "Hello")}, []string{"Hello"}},
		{"FinalBlock", false, []string{"c1 08 f348 cdc9 c907 0000", "c1 07" + hello}, []string{"Hello", "Hello"}},
		{"TwoBlocks", false, []string{"c1 0d f248 0500 0000 ffff cac9 c907 00"}, []string{"Hello"}},
		{"Empty", true, []string{"c1 07" + hello, "c1 01 00", "c1 00", "c1 05" + again}, []string{"Hello", "", "", "Hello"}},
		{"Fragments", false, []string{"41 03 f248cd", "00 00", "80 04 c9c90700"}, []string{"Hello"}},
		{"FirstAndLastEmpty", false, []string{"41 00", "00 07" + hello, "80 00"}, []string{"Hello"}},
		{"ControlFramesBetween", true, []string{"89 00", "41 03 f248cd", "8a 01 f2", "80 04 c9c90700", "89 01 f2", "c1 05" + again}, []string{"Hello", "Hello"}},
		{"Text", false, []string{stored(0xc1, "€"), stored(0xc2, "\xff")}, []string{"€", "\xff"}},
		{"Limit", false, []string{deflated(0xc2, strings.Repeat("a", 1000))}, []string{strings.Repeat("a", 1000)}},
	} {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			p.send(row.frames...)
			for _, want := range row.want {
				if r := readOne(patience(t), c); r.err != nil || r.data != want {
					t.Fatalf("Read: %v, want %.64q", r, want)
				}
			}
		}, deflating(row.kept), thousand)
	}
}

func TestConn_Refuses_CompressedMessages(t *testing.T) {
	tooMuch := wireHex(deflated(0xc2, strings.Repeat("a", 1001)))[2:]
	bomb := deflated(0xc2, strings.Repeat("a", 1<<20))
	for _, row := range []struct {
		name   string
		code   StatusCode
		frames []string
	}{
		{"RSV1OfContinuation", 1002, []string{"41 03 f248cd", "c0 04"}},
		{"RSV1OfContinuationOfUncompressed", 1002, []string{"01 01 61", "c0 07"}},
		{"RSV1OfPing", 1002, []string{"c9 00"}},
		{"RSV1OfPong", 1002, []string{"ca 00"}},
		{"RSV1OfClose", 1002, []string{"c8 00"}},
		{"RSV2", 1002, []string{"e1 07"}},
		{"RSV3", 1002, []string{"d1 07"}},
		{"RSV2Alone", 1002, []string{"a1 07"}},
		{"ReferenceBeforeTheMessage", 1007, []string{"c1 07" + hello, "c1 05" + again}},
		{"BlockOfType3", 1007, []string{"c1 02 ffff"}},
		{"Truncated", 1007, []string{"c1 03 f248cd"}},
		{"WrongText", 1007, []string{stored(0xc1, "a\xff")}},
		{"CharacterCut", 1007, []string{stored(0xc1, "a\xe2\x82")}},
		{"OneTooMany", 1009, []string{deflated(0xc2, strings.Repeat("a", 1001))}},
		{"Fragments", 1009, []string{frameHex(0x42, tooMuch[:3]), frameHex(0x80, tooMuch[3:])}},
		{"Bomb", 1009, []string{bomb}},
	} {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			p.send(row.frames...)
			r := readOne(patience(t), c)
			for r.err == nil && r.data == "Hello" {
				r = readOne(patience(t), c)
			}
			wantFailure(t, "Read", r.err, row.code)
			wantFailed(t, p, row.code)
		}, deflating(false), thousand)
	}
}

// inflatingTo returns a compressed payload of the given size that inflates to n bytes: stored blocks of one byte, then
// empty blocks.
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

// inFrames cuts the payload of a compressed message into frames.
func inFrames(payload []byte, each int) (frames []string) {
	first := byte(0x42)
	for ; len(payload) > each; payload, first = payload[each:], 0 {
		frames = append(frames, frameHex(first, payload[:each]))
	}
	return append(frames, frameHex(first|0x80, payload))
}

// Compressed input can be long and inflate to nothing, so it is bounded too: by 8 times the limit of a message plus 64
// KiB.
func TestConn_Reads_CompressedInputUpToItsBound(t *testing.T) {
	const limit = 1000
	const bound = 8*limit + 64<<10
	exact, exactData := inflatingTo(limit, bound)
	more, _ := inflatingTo(limit-4, bound+1)
	many, _ := inflatingTo(0, 5*400_000+1)
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
			eachConnIn(t, row.name+"/"+name, func(t *testing.T, c *Conn, p *rawPeer) {
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
			}, deflating(false), func(cfg *config) { cfg.maxMessage = row.limit })
		}
	}
}

// The bound on compressed input follows SetReadLimit and begins anew with each message.
func TestConn_Reads_CompressedInputUpToSetReadLimit(t *testing.T) {
	const bound = 8*2000 + 64<<10
	exact, data := inflatingTo(2000, bound)
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		c.SetReadLimit(2000)
		go p.trySend(frameHex(0xc2, exact), frameHex(0xc2, exact), frameHex(0x42, exact), "80 05 000000ffff")
		for range 2 {
			wantRead(t, c, BinaryMessage, string(data))
		}
		wantTooBig(t, c, p)
	}, deflating(false), thousand)
}
