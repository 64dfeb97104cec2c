package websocket

import (
	"bytes"
	"compress/flate"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// deflateBytes is bytes in hex, with gaps at the fields.
func deflateBytes(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// inflateBy inflates a message in pieces of piece bytes, with room for so many at a time.
func inflateBy(d *decompressor, payload []byte, piece, room int) ([]byte, error) {
	var dst []byte
	for i, done := 0, false; !done; {
		dst = append(make([]byte, 0, len(dst)+room), dst...)
		src := payload[i:min(len(payload), i+piece)]
		var rest []byte
		var err error
		dst, rest, err = d.inflate(dst, src)
		if i += len(src) - len(rest); err == nil && i == len(payload) {
			dst, done, err = d.finish(dst)
		}
		if err != nil {
			return nil, err
		}
		if len(rest) > 0 && len(dst) < cap(dst) {
			return nil, errors.New("stopped with input and room")
		}
	}
	return dst, nil
}

func inflateAll(d *decompressor, payload []byte) ([]byte, error) {
	return inflateBy(d, payload, len(payload)+1, 4096)
}

func newTestDecompressor(takeover bool) *decompressor {
	return newDecompressor(&deflateParams{recvTakeover: takeover, recvBits: 15})
}

// stdInflate is the verdict of compress/flate. The payload is whole if it ends with a final block, or if the four bytes
// of RFC 7692, section 7.2.2, complete it: another stream and a stored block can then follow.
func stdInflate(payload, history []byte) ([]byte, bool) {
	if out, ok := stdInflateStreams(payload, "", history); ok {
		return out, true
	}
	out, ok := stdInflateStreams(payload, "\x00\x00\xff\xff"+"\x01\x00\x00\xff\xff", history)
	out2, ok2 := stdInflateStreams(payload, "\x00\x00\xff\xff"+"\x01\x01\x00\xfe\xff"+"A", history)
	return out, ok && ok2 && string(out2) == string(out)+"A"
}

// stdInflateStreams inflates stream after stream (RFC 7692, section 7.2.3.4) up to the end of payload and tail.
func stdInflateStreams(payload []byte, tail string, history []byte) ([]byte, bool) {
	r := bytes.NewReader(append(bytes.Clone(payload), tail...))
	var out []byte
	for r.Len() > 0 {
		got, err := io.ReadAll(flate.NewReaderDict(r, append(bytes.Clone(history), out...)))
		if out = append(out, got...); err != nil {
			return out, false
		}
	}
	return out, true
}

// stdDeflate is what compress/flate makes of p in messages that end where it is flushed, every piece bytes.
func stdDeflate(t testing.TB, level int, p []byte, piece int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	for ; len(p) > piece; p = p[piece:] {
		w.Write(p[:piece])
		w.Flush()
	}
	w.Write(p)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), deflateTail)
}

func wantInflated(t *testing.T, d *decompressor, payload, want []byte) {
	t.Helper()
	if got, err := inflateAll(d, payload); err != nil || !bytes.Equal(got, want) {
		t.Errorf("% x inflated to %q, %v; want %q", payload, got, err, want)
	}
}

func wantInvalid(t *testing.T, d *decompressor, payload []byte) {
	t.Helper()
	got, err := inflateAll(d, payload)
	if !errors.Is(err, StatusInvalidFramePayloadData) {
		t.Errorf("% x inflated to %q, %v; want 1007", payload, got, err)
	}
}

// The examples of RFC 7692, section 7.2.3.
func TestInflate_ExamplesOfTheRFC(t *testing.T) {
	for _, tt := range []struct{ name, payload, want string }{
		{"7.2.3.1 one block", "f2 48 cd c9 c9 07 00", "Hello"},
		{"B32 7.2.3.3 stored", "00 0500 faff 48656c6c6f 00", "Hello"},
		{"B30 7.2.3.4 BFINAL", "f3 48 cd c9 c9 07 00 00", "Hello"},
		{"7.2.3.4 BFINAL without the empty block after it", "f3 48 cd c9 c9 07 00", "Hello"},
		{"B33 7.2.3.5 two blocks", "f2 48 05 00 00 00 ff ff ca c9 c9 07 00", "Hello"},
		{"B34 7.2.3.6 empty", "00", ""},
		{"B34 no byte at all", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantInflated(t, newTestDecompressor(false), deflateBytes(t, tt.payload), []byte(tt.want))
		})
	}
}

func TestInflate_B31_SecondMessageRefersToTheFirst(t *testing.T) {
	d := newTestDecompressor(true)
	wantInflated(t, d, deflateBytes(t, "f2 48 cd c9 c9 07 00"), []byte("Hello"))
	wantInflated(t, d, deflateBytes(t, "f2 00 11 00 00"), []byte("Hello"))
}

func TestInflate_B35_ReferenceBeforeTheMessage(t *testing.T) {
	d := newTestDecompressor(false)
	wantInflated(t, d, deflateBytes(t, "f2 48 cd c9 c9 07 00"), []byte("Hello"))
	wantInvalid(t, d, deflateBytes(t, "f2 00 11 00 00"))
}

func TestInflate_B30_BlocksBehindAFinalOne(t *testing.T) {
	for _, tt := range []struct{ name, payload, want string }{
		{"stored behind fixed", "f3 48 cd c9 c9 07 00  00 0100 feff 21 00", "Hello!"},
		{"two final ones", "f3 48 cd c9 c9 07 00  01 0100 feff 21 00", "Hello!"},
		{"the last header is final", "f2 48 cd c9 c9 07 04 00", ""},
		{"the tail is final", "f3 48 cd c9 c9 07 00  01", "Hello"},
		{"a distance across the end", "f3 48 cd c9 c9 07 00  02 13 00 00", "HelloHello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := deflateBytes(t, tt.payload)
			want, ok := stdInflate(payload, nil)
			if got, err := inflateAll(newTestDecompressor(false), payload); (err == nil) != ok || ok && !bytes.Equal(got, want) {
				t.Fatalf("inflated to %q, %v; compress/flate: %q, %t", got, err, want, ok)
			}
			if ok && tt.want != "" && string(want) != tt.want {
				t.Errorf("inflated to %q, want %q", want, tt.want)
			}
		})
	}
}

// Each hostile stream stands beside a neighbour that is right.
func TestInflate_B36_InvalidStreams(t *testing.T) {
	fixed := func(typ, literal, distance int) []byte { // "A", a match, the end of the block
		s := new(bitString).put(0, 1).put(typ, 2).code(0x71, 8)
		return s.code(0xc0+literal-280, 8).code(distance, 5).put(0, 7).put(0, 3).b
	}
	pre := func(symbols ...int) []byte { // code lengths by symbols of 2 bits: 0, 1, 16 with 2 and 18 with 7 bits more
		s := new(bitString).put(0, 1).put(2, 2).put(0, 5).put(0, 5).put(18-4, 4)
		for _, i := range preOrder[:18] {
			s.put(map[uint8]int{0: 2, 1: 2, 16: 2, 18: 2}[i], 3)
		}
		for _, v := range symbols {
			if v >= 100 {
				s.put(v-100, 7)
			} else {
				s.put(v, 2)
			}
		}
		return s.b
	}
	const zero, one, again, zeros = 0, 2, 1, 3 // symbols 0, 1, 16 and 18, with the first bit lowest
	for _, tt := range []struct {
		name           string
		valid, invalid []byte
	}{
		{"block type 3", fixed(1, 285, 0), fixed(3, 285, 0)},
		{"stored length and its complement", deflateBytes(t, "00 0100 feff 41 00"), deflateBytes(t, "00 0100 ffff 41 00")},
		{"literal symbol 286", fixed(1, 285, 0), fixed(1, 286, 0)},
		{"literal symbol 287", fixed(1, 285, 0), fixed(1, 287, 0)},
		{"distance symbol 30", fixed(1, 285, 0), fixed(1, 285, 30)},
		{"distance symbol 31", fixed(1, 285, 0), fixed(1, 285, 31)},
		{"distance 2 behind 1 byte", fixed(1, 285, 0), fixed(1, 285, 1)},
		// 255 lengths of 0 and those of 255, 256 and a distance.
		{"repetition with nothing before it", pre(zeros, 100+127, zeros, 100+106, one, one, one, 0, 2, 0),
			pre(again, 0, zeros, 100+127, zeros, 100+106, one, one, one, 0, 2, 0)},
		{"repetition beyond the end", pre(zeros, 100+127, zeros, 100+106, one, one, zero, 0, 2, 0),
			pre(zeros, 100+127, zeros, 100+106, one, one, zeros, 100, 0, 2, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, ok := stdInflate(tt.valid, nil); !ok {
				t.Error("compress/flate does not take the valid neighbour")
			}
			if _, err := inflateAll(newTestDecompressor(false), tt.valid); err != nil {
				t.Errorf("the valid neighbour: %v", err)
			}
			if got, ok := stdInflate(tt.invalid, nil); ok {
				t.Errorf("compress/flate takes it: %q", got)
			}
			wantInvalid(t, newTestDecompressor(false), tt.invalid)
		})
	}
}

// bitString packs fields of a DEFLATE stream, each "value:bits" with the lowest bit first.
type bitString struct {
	b []byte
	n int
}

func (s *bitString) put(v, n int) *bitString {
	for ; n > 0; v, n = v>>1, n-1 {
		if s.n%8 == 0 {
			s.b = append(s.b, 0)
		}
		s.b[s.n/8] |= byte(v&1) << (s.n % 8)
		s.n++
	}
	return s
}

// code packs a Huffman code, whose first bit is the highest.
func (s *bitString) code(v, n int) *bitString {
	for n--; n >= 0; n-- {
		s.put(v>>n, 1)
	}
	return s
}

// dynamicBlock is a block header with these code lengths, written in a code of five bits for each length from 0
// to 15 (the code of 16 of them is complete with four).
func dynamicBlock(hlit, hdist int, lens map[int]int) *bitString {
	s := new(bitString)
	s.put(0, 1).put(2, 2).put(hlit-257, 5).put(hdist-1, 5).put(19-4, 4)
	for _, i := range preOrder {
		if i < 16 {
			s.put(4, 3)
		} else {
			s.put(0, 3)
		}
	}
	for i := range hlit + hdist {
		n := lens[i]
		s.code(n, 4)
	}
	return s
}

// B36: codes judged exactly as compress/flate does.
func TestInflate_B36_HuffmanCodes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hlit  int
		hdist int
		lens  map[int]int
		valid bool
	}{
		{"complete", 257, 1, map[int]int{'A': 1, 256: 1}, true},
		{"over-subscribed literals", 257, 1, map[int]int{'A': 1, 'B': 1, 256: 1}, false},
		{"incomplete literals", 257, 1, map[int]int{'A': 2, 256: 1}, false},
		{"complete with three", 257, 1, map[int]int{'A': 2, 'B': 2, 256: 1}, true},
		{"one literal code of one bit", 257, 1, map[int]int{256: 1}, true},
		{"one literal code of two bits", 257, 1, map[int]int{256: 2}, false},
		{"no end of block", 257, 1, map[int]int{'A': 1, 'B': 1}, false},
		{"one distance code of one bit", 257, 1, map[int]int{'A': 1, 256: 1, 257: 1}, true},
		{"one distance code of two bits", 257, 1, map[int]int{'A': 1, 256: 1, 257: 2}, false},
		{"over-subscribed distances", 257, 3, map[int]int{'A': 1, 256: 1, 257: 1, 258: 1, 259: 1}, false},
		{"286 literals", 286, 1, map[int]int{'A': 1, 256: 1}, true},
		{"287 literals", 287, 1, map[int]int{'A': 1, 256: 1}, false},
		{"30 distances", 257, 30, map[int]int{'A': 1, 256: 1}, true},
		{"31 distances", 257, 31, map[int]int{'A': 1, 256: 1}, false},
		{"the longest codes", 286, 1, map[int]int{'A': 1, 'B': 2, 'C': 3, 'D': 4, 'E': 5, 'F': 6, 'G': 7, 'H': 8,
			'I': 9, 'J': 10, 'K': 11, 'L': 12, 'M': 13, 'N': 14, 'O': 15, 256: 15}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := dynamicBlock(tt.hlit, tt.hdist, tt.lens)
			// "A", the end of the block, an empty stored block; or the end of the block and a final stored block
			payload := s.put(0, 1).put(1, 1).put(0, 3).b
			_, ok := stdInflate(payload, nil)
			_, err := inflateAll(newTestDecompressor(false), payload)
			if (err == nil) != ok {
				t.Errorf("inflated with %v, compress/flate: %t", err, ok)
			}
			if ok != tt.valid {
				t.Errorf("compress/flate took it: %t, want %t", ok, tt.valid)
			}
		})
	}
}

// B37: every way to cut a message off, but for the one before its first byte.
func TestInflate_B37_TruncatedAtEveryByte(t *testing.T) {
	text := jsonText(1, 600)
	for name, payload := range map[string][]byte{
		"fixed":   deflateBytes(t, "f2 48 cd c9 c9 07 00"),
		"dynamic": stdDeflate(t, 6, text, len(text)),
		"huffman": stdDeflate(t, flate.HuffmanOnly, text, len(text)),
		"final":   deflateBytes(t, "f3 48 cd c9 c9 07 00 00"),
		"blocks":  stdDeflate(t, 6, text, 50),
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; n <= len(payload); n++ {
				want, ok := stdInflate(payload[:n], nil)
				got, err := inflateAll(newTestDecompressor(false), payload[:n])
				if (err == nil) != ok || ok && !bytes.Equal(got, want) {
					t.Fatalf("%d of %d bytes inflated to %q, %v; compress/flate: %t", n, len(payload), got, err, ok)
				}
				endsWithFinal := name == "final" && n == len(payload)-1
				if name != "blocks" && ok != (n == len(payload) || endsWithFinal) {
					t.Fatalf("%d of %d bytes: %t", n, len(payload), ok)
				}
			}
		})
	}
}

func TestInflate_B37_TrailingGarbage(t *testing.T) {
	for _, hello := range []string{"f2 48 cd c9 c9 07 00", "f3 48 cd c9 c9 07 00"} {
		for _, after := range []string{"ff", "00 00 ff", "00 00 ff ff", "00 00 ff ff 07"} {
			payload := append(deflateBytes(t, hello), deflateBytes(t, after)...)
			got, ok := stdInflate(payload, nil)
			if _, err := inflateAll(newTestDecompressor(false), payload); (err == nil) != ok {
				t.Errorf("% x inflated with %v, compress/flate: %q, %t", payload, err, got, ok)
			}
			if ok {
				t.Errorf("compress/flate takes % x: %q", payload, got)
			}
		}
	}
}

// A message may end with a final block in whatever pieces it arrives and whatever room there is, and the next message
// refers to it.
func TestInflate_EndsWithAFinalBlock(t *testing.T) {
	text := jsonText(9, 700)
	for name, payload := range map[string][]byte{
		"fixed":   deflateBytes(t, "f3 48 cd c9 c9 07 00"),
		"stored":  deflateBytes(t, "01 0500 faff 48656c6c6f"),
		"dynamic": finalDeflate(t, text),
		"empty":   deflateBytes(t, "03 00"),
		"second":  deflateBytes(t, "f2 48 05 00 00 00 ff ff cb c9 c9 07 00"),
	} {
		want, ok := stdInflateStreams(payload, "", nil)
		if !ok {
			t.Fatalf("%s: compress/flate does not take it", name)
		}
		for _, piece := range []int{1, 2, 1000} {
			for _, room := range []int{1, 5, 1000} {
				d := newTestDecompressor(true)
				for range 2 {
					if got, err := inflateBy(d, payload, piece, room); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s in pieces of %d with room for %d inflated to %q, %v", name, piece, room, got, err)
					}
				}
				if name != "empty" {
					again := stdDeflateBehind(t, want, want)
					wantInflated(t, d, again, want)
				}
			}
		}
	}
}

// finalDeflate is p in a stream that compress/flate closed.
func finalDeflate(t testing.TB, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, 6)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(p)
	w.Close()
	return b.Bytes()
}

// B37, THREATS R11: the room is never passed, and a message that just fits is done.
func TestInflate_B40_R11_FullDestination(t *testing.T) {
	text := jsonText(2, 5000)
	for name, payload := range map[string][]byte{
		"stored":  stdDeflate(t, flate.NoCompression, text, len(text)),
		"fixed":   stdDeflate(t, 6, text, 10),
		"dynamic": stdDeflate(t, 6, text, len(text)),
	} {
		for room := len(text) - 2; room <= len(text)+2; room++ {
			d := newTestDecompressor(false)
			dst, rest, err := d.inflate(make([]byte, 0, room), payload)
			if err != nil {
				t.Fatal(name, room, err)
			}
			done := false
			if len(rest) == 0 {
				dst, done, err = d.finish(dst)
			}
			if err != nil || done != (room >= len(text)) || cap(dst) != room {
				t.Errorf("%s with room for %d of %d: done %t, %v", name, room, len(text), done, err)
			}
			if !bytes.Equal(dst, text[:min(room, len(text))]) {
				t.Errorf("%s with room for %d of %d is wrong", name, room, len(text))
			}
		}
	}
}

func TestInflate_R11_Bomb(t *testing.T) {
	mebibyte := append(stdDeflate(t, 9, make([]byte, 1<<20), 1<<20), deflateTail...)
	payload := bytes.TrimSuffix(bytes.Repeat(mebibyte, 64), deflateTail)
	d := newTestDecompressor(false)
	dst, rest, err := d.inflate(make([]byte, 0, 1<<20), payload)
	if err != nil || len(dst) != 1<<20 || len(rest) < len(payload)*9/10 {
		t.Errorf("%d bytes inflated to %d and left %d, %v", len(payload), len(dst), len(rest), err)
	}
	d.reset()
	wantInflated(t, d, deflateBytes(t, "f2 48 cd c9 c9 07 00"), []byte("Hello"))
}

// B36: blocks that add nothing use no memory, and each call gets on with them.
func TestInflate_R11_EndlessEmptyBlocks(t *testing.T) {
	for name, block := range map[string]string{"stored": "00 0000 ffff", "final": "01 0000 ffff", "fixed": "03 00"} {
		blocks := bytes.Repeat(deflateBytes(t, block), 10000)
		d := newTestDecompressor(false)
		allocs := testing.AllocsPerRun(3, func() {
			dst, rest, err := d.inflate(nil, blocks)
			if len(dst) != 0 || len(rest) != 0 || err != nil {
				t.Errorf("%s: inflated to %d bytes and left %d, %v", name, len(dst), len(rest), err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
		if _, done, err := d.finish(nil); done != (name != "stored") || done != (err == nil) {
			t.Errorf("%s: done %t, %v", name, done, err)
		}
	}
}

// B38: any pieces in which a message comes, and any room for it, make the same message.
func TestInflate_B38_AnySplit(t *testing.T) {
	text := jsonText(3, 3000)
	for name, payload := range map[string][]byte{
		"stored":  stdDeflate(t, flate.NoCompression, text, 700),
		"fixed":   stdDeflate(t, 6, text, 20),
		"dynamic": stdDeflate(t, 6, text, 1500),
		"zeros":   stdDeflate(t, 6, make([]byte, 3000), 1500),
	} {
		want, ok := stdInflate(payload, nil)
		for _, piece := range []int{1, 2, 3, 7, 8, 9, 100, 10000} {
			for _, room := range []int{1, 2, 3, 9, 258, 10000} {
				got, err := inflateBy(newTestDecompressor(false), payload, piece, room)
				if !ok || err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s in pieces of %d with room for %d: %v", name, piece, room, err)
				}
			}
		}
	}
}

// A reader of a stream keeps only the last 32 KiB of the message.
func TestInflate_B29_SlidingDestination(t *testing.T) {
	text := append(jsonText(4, 100<<10), jsonText(4, 100<<10)[70<<10:]...)
	payload := stdDeflate(t, 9, text, len(text))
	d := newTestDecompressor(true)
	dst := make([]byte, 0, 40<<10)
	var got []byte
	for src, done := payload, false; !done; {
		var err error
		before := len(dst)
		if dst, src, err = d.inflate(dst, src); err == nil && len(src) == 0 {
			dst, done, err = d.finish(dst)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, dst[before:]...); len(dst) == cap(dst) {
			dst = dst[:copy(dst, dst[len(dst)-32<<10:])]
		}
	}
	if !bytes.Equal(got, text) {
		t.Error("inflated to something else")
	}
	wantInflated(t, d, stdDeflateBehind(t, text, text[len(text)-5000:]), text[len(text)-5000:])
}

// stdDeflateBehind is the message p of a connection on which before went by.
func stdDeflateBehind(t testing.TB, before, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriterDict(&b, 6, before)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(p)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), deflateTail)
}

// B29: what compress/flate writes at every level and flush, in messages that refer to those before.
func TestInflate_B29_B31_ContextTakeover(t *testing.T) {
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		d := newTestDecompressor(true)
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, uint64(level+2)))
		for i := range 60 {
			text := jsonText(uint64(i%7), 1+r.IntN(5000))
			b.Reset()
			w.Write(text)
			w.Flush()
			wantInflated(t, d, bytes.TrimSuffix(b.Bytes(), deflateTail), text)
		}
	}
}

// B35: a distance may reach back to the beginning of the window that is kept, and not beyond.
func TestInflate_B35_DistanceBeyondTheHistory(t *testing.T) {
	for _, tt := range []struct {
		bits, before int
		valid        bool
	}{
		{8, 256, true}, {8, 255, false}, {8, 300, true}, {15, 256, true}, {15, 255, false},
	} {
		d := newDecompressor(&deflateParams{recvTakeover: true, recvBits: tt.bits})
		before := jsonText(5, tt.before)
		wantInflated(t, d, stdDeflate(t, 6, before, 100), before)
		// A match of 3 at distance 256: symbol 257 (0000001), distance symbol 15 (01111) and 6 extra bits, all set.
		s := new(bitString).put(0, 1).put(1, 2).code(1, 7).code(15, 5).put(63, 6).put(0, 7).put(0, 3)
		if tt.valid {
			wantInflated(t, d, s.b, before[len(before)-256:][:3])
		} else {
			wantInvalid(t, d, s.b)
		}
	}
}

// THREATS R17: an error in the middle of a message, and the pools after it.
func TestInflate_R17_ErrorThenReuse(t *testing.T) {
	text := jsonText(6, 2000)
	payload := stdDeflate(t, 6, text, len(text))
	for i := range payload {
		broken := bytes.Clone(payload)
		broken[i] ^= 0x55
		d := newTestDecompressor(false)
		if _, err := inflateAll(d, broken); err != nil {
			if _, _, again := d.inflate(make([]byte, 0, 10), payload); again != err {
				t.Fatalf("after %v came %v", err, again)
			}
		}
		d.reset()
		wantInflated(t, d, payload, text)
		d.release()
	}
}

// THREATS R18: a message that nobody wants the rest of.
func TestInflate_R18_ResetInTheMiddle(t *testing.T) {
	text := jsonText(7, 2000)
	payload := stdDeflate(t, 6, text, 300)
	for n := range payload {
		d := newTestDecompressor(true)
		wantInflated(t, d, deflateBytes(t, "f2 48 cd c9 c9 07 00"), []byte("Hello"))
		if _, _, err := d.inflate(make([]byte, 0, 4096), payload[:n]); err != nil {
			t.Fatal(err)
		}
		d.reset()
		wantInflated(t, d, deflateBytes(t, "f2 00 11 00 00"), []byte("Hello"))
	}
}

func TestInflate_DoesNotAllocate(t *testing.T) {
	text := jsonText(8, 2000)
	payload, dst := stdDeflate(t, 6, text, len(text)), make([]byte, 0, 4096)
	for _, takeover := range []bool{false, true} {
		d := newTestDecompressor(takeover)
		allocs := testing.AllocsPerRun(100, func() {
			out, _, err := d.inflate(dst, payload)
			if _, done, err2 := d.finish(out); !done || err != nil || err2 != nil {
				t.Error(done, err, err2)
			}
		})
		if allocs != 0 {
			t.Errorf("takeover %t: %v allocations", takeover, allocs)
		}
	}
}
