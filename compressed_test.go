package websocket

import (
	"strings"
	"testing"
)

// Receiving messages that permessage-deflate compressed: what a Conn makes of RSV1, and of what comes out.

// deflating agrees on permessage-deflate, with the window kept or not.
func deflating(kept bool) func(*config) {
	return func(cfg *config) {
		cfg.maxMessage = 1000
		cfg.deflate = &deflateParams{level: 1, threshold: 1, sendTakeover: kept, recvTakeover: kept, sendBits: 15, recvBits: 15}
	}
}

// deflated returns a frame of the compressed payload of data, with the first byte b0.
func deflated(b0 byte, data string) string {
	cfg := config{}
	deflating(false)(&cfg)
	c := newCompressor(cfg.deflate)
	defer c.free()
	return frameHex(b0, c.chunk(nil, []byte(data), true))
}

// stored returns a frame whose payload is data in a stored block, section 7.2.3.3.
func stored(b0 byte, data string) string {
	n := byte(len(data))
	return frameHex(b0, append([]byte{0, n, 0, ^n, 0xff}, data+"\x00"...))
}

const (
	hello = "f248 cdc9 c907 00" // section 7.2.3.1
	again = "f200 1100 00"      // section 7.2.3.2: the same once more, by reference to the first
)

func TestReceivesCompressed(t *testing.T) {
	rows := []struct {
		name   string
		kept   bool
		frames []string
		want   []string
	}{
		{"B29_Hello", false, []string{"c1 07" + hello}, []string{"Hello"}},
		{"B10_Uncompressed", true, []string{"c1 07" + hello, "81 05 48656c6c6f", "c1 05" + again}, []string{"Hello", "Hello", "Hello"}},
		{"B31_WindowKept", true, []string{"c1 07" + hello, "c1 05" + again}, []string{"Hello", "Hello"}},
		{"B32_Stored", false, []string{stored(0xc1, "Hello")}, []string{"Hello"}},
		{"B30_FinalBlock", false, []string{"c1 08 f348 cdc9 c907 0000", "c1 07" + hello}, []string{"Hello", "Hello"}},
		{"B33_TwoBlocks", false, []string{"c1 0d f248 0500 0000 ffff cac9 c907 00"}, []string{"Hello"}},
		{"B34_Empty", true, []string{"c1 07" + hello, "c1 01 00", "c1 00", "c1 05" + again}, []string{"Hello", "", "", "Hello"}},
		{"B8_B11_B38_A73_Fragments", false, []string{"41 03 f248cd", "00 00", "80 04 c9c90700"}, []string{"Hello"}},
		{"B38_FirstAndLastEmpty", false, []string{"41 00", "00 07" + hello, "80 00"}, []string{"Hello"}},
		{"B7_R15_ControlFramesBetween", true, []string{"89 00", "41 03 f248cd", "8a 01 f2", "80 04 c9c90700", "89 01 f2", "c1 05" + again}, []string{"Hello", "Hello"}},
		{"B39_Text", false, []string{stored(0xc1, "€"), stored(0xc2, "\xff")}, []string{"€", "\xff"}},
		{"B40_R11_Limit", false, []string{deflated(0xc2, strings.Repeat("a", 1000))}, []string{strings.Repeat("a", 1000)}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server, deflating(row.kept))
				p.send(row.frames...)
				for _, want := range row.want {
					if r := readOne(patience(t), c); r.err != nil || r.data != want {
						t.Fatalf("Read: %v, want %.64q", r, want)
					}
				}
			})
		})
	}
}

// The neighbours of TestReceivesCompressed.
func TestReceivesCompressedRefused(t *testing.T) {
	tooMuch := wireHex(deflated(0xc2, strings.Repeat("a", 1001)))[2:]
	bomb := deflated(0xc2, strings.Repeat("a", 1<<20))
	rows := []struct {
		name   string
		code   StatusCode
		frames []string
	}{
		{"B9_RSV1OfContinuation", 1002, []string{"41 03 f248cd", "c0 04"}},
		{"B9_RSV1OfContinuationOfUncompressed", 1002, []string{"01 01 61", "c0 07"}},
		{"B9_RSV1OfPing", 1002, []string{"c9 00"}},
		{"B9_RSV1OfPong", 1002, []string{"ca 00"}},
		{"B9_RSV1OfClose", 1002, []string{"c8 00"}},
		{"B12_RSV2", 1002, []string{"e1 07"}},
		{"B12_RSV3", 1002, []string{"d1 07"}},
		{"B12_RSV2Alone", 1002, []string{"a1 07"}},
		{"B35_ReferenceBeforeTheMessage", 1007, []string{"c1 07" + hello, "c1 05" + again}},
		{"B36_BlockOfType3", 1007, []string{"c1 02 ffff"}},
		{"B37_Truncated", 1007, []string{"c1 03 f248cd"}},
		{"B39_WrongText", 1007, []string{stored(0xc1, "a\xff")}},
		{"B39_CharacterCut", 1007, []string{stored(0xc1, "a\xe2\x82")}},
		{"B40_OneTooMany", 1009, []string{deflated(0xc2, strings.Repeat("a", 1001))}},
		{"B40_Fragments", 1009, []string{frameHex(0x42, tooMuch[:3]), frameHex(0x80, tooMuch[3:])}},
		{"R11_R12_Bomb", 1009, []string{bomb}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server, deflating(false))
				p.send(row.frames...)
				r := readOne(patience(t), c)
				for r.err == nil && r.data == "Hello" {
					r = readOne(patience(t), c)
				}
				wantFailure(t, "Read", r.err, row.code)
				wantFailed(t, p, row.code)
			})
		})
	}
}
