package websocket

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// inflateBy inflates a message in pieces of the given size, with room for a number of bytes at a time.
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

// A message that is cut before its last byte is invalid.
func TestInflate_TruncatedAtEveryByte(t *testing.T) {
	text := jsonText(1, 600)
	for name, payload := range map[string][]byte{
		"fixed":   wireHex("f2 48 cd c9 c9 07 00"),
		"dynamic": stdDeflate(t, 6, text, len(text)),
		"huffman": stdDeflate(t, flate.HuffmanOnly, text, len(text)),
		"final":   wireHex("f3 48 cd c9 c9 07 00 00"),
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

// A message may end with a final block, whatever its pieces and the room for it. The next message may refer to it.
func TestInflate_EndsWithAFinalBlock(t *testing.T) {
	text := jsonText(9, 700)
	for name, payload := range map[string][]byte{
		"fixed":   wireHex("f3 48 cd c9 c9 07 00"),
		"stored":  wireHex("01 0500 faff 48656c6c6f"),
		"dynamic": finalDeflate(t, text),
		"empty":   wireHex("03 00"),
		"second":  wireHex("f2 48 05 00 00 00 ff ff cb c9 c9 07 00"),
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
					again := stdDeflateAfter(t, want, want)
					wantInflated(t, d, again, want)
				}
			}
		}
	}
}

// The capacity of the destination is never exceeded. A message that exactly fits is complete.
func TestInflate_FullDestination(t *testing.T) {
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

func TestInflate_Bomb(t *testing.T) {
	mebibyte := append(stdDeflate(t, 9, make([]byte, 1<<20), 1<<20), deflateTail...)
	payload := bytes.TrimSuffix(bytes.Repeat(mebibyte, 64), deflateTail)
	d := newTestDecompressor(false)
	dst, rest, err := d.inflate(make([]byte, 0, 1<<20), payload)
	if err != nil || len(dst) != 1<<20 || len(rest) < len(payload)*9/10 {
		t.Errorf("%d bytes inflated to %d and left %d, %v", len(payload), len(dst), len(rest), err)
	}
	d.reset()
	wantInflated(t, d, wireHex("f2 48 cd c9 c9 07 00"), []byte("Hello"))
}

// Blocks without output use no memory, and each call consumes all of them.
func TestInflate_EndlessEmptyBlocks(t *testing.T) {
	for name, block := range map[string]string{"stored": "00 0000 ffff", "final": "01 0000 ffff", "fixed": "03 00"} {
		blocks := bytes.Repeat(wireHex(block), 10000)
		d := newTestDecompressor(false)
		allocs := testing.AllocsPerRun(3, func() {
			dst, rest, err := d.inflate(nil, blocks)
			if len(dst) != 0 || len(rest) != 0 || err != nil {
				t.Errorf("%s: inflated to %d bytes and left %d, %v", name, len(dst), len(rest), err)
			}
		})
		if allocs != 0 && !raceEnabled {
			t.Errorf("%s: %v allocations", name, allocs)
		}
		if _, done, err := d.finish(nil); done != (name != "stored") || done != (err == nil) {
			t.Errorf("%s: done %t, %v", name, done, err)
		}
	}
}

// A destination that keeps only the last 32 KiB is enough.
func TestInflate_SlidingDestination(t *testing.T) {
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
		must(t, err)
		if got = append(got, dst[before:]...); len(dst) == cap(dst) {
			dst = dst[:copy(dst, dst[len(dst)-32<<10:])]
		}
	}
	if !bytes.Equal(got, text) {
		t.Error("inflated to something else")
	}
	wantInflated(t, d, stdDeflateAfter(t, text, text[len(text)-5000:]), text[len(text)-5000:])
}

// Messages of compress/flate refer to earlier ones, at every level.
func TestInflate_ContextTakeover(t *testing.T) {
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		d := newTestDecompressor(true)
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, level)
		must(t, err)
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

// A distance may reach back to the beginning of the history but not beyond it.
func TestInflate_DistanceBeyondTheHistory(t *testing.T) {
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

// After an error in a message, reset makes the decompressor usable for the next one.
func TestInflate_ErrorThenReuse(t *testing.T) {
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
	}
}

// A message that is abandoned at any byte is not part of the history.
func TestInflate_ResetInTheMiddle(t *testing.T) {
	text := jsonText(7, 2000)
	payload := stdDeflate(t, 6, text, 300)
	for n := range payload {
		d := newTestDecompressor(true)
		wantInflated(t, d, wireHex("f2 48 cd c9 c9 07 00"), []byte("Hello"))
		if _, _, err := d.inflate(make([]byte, 0, 4096), payload[:n]); err != nil {
			t.Fatal(err)
		}
		d.reset()
		wantInflated(t, d, wireHex("f2 00 11 00 00"), []byte("Hello"))
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
		if allocs != 0 && !raceEnabled {
			t.Errorf("takeover %t: %v allocations", takeover, allocs)
		}
	}
}

func inflateSeeds(f *testing.F) [][]byte {
	text := jsonText(1, 400)
	seeds := [][]byte{
		nil, wireHex("00"),
		wireHex("f2 48 cd c9 c9 07 00"),
		wireHex("00 0500 faff 48656c6c6f 00"),
		wireHex("f3 48 cd c9 c9 07 00 00"),
		wireHex("f3 48 cd c9 c9 07 00 02 13 00 00"), // a distance across the end of a final block
		wireHex("f2 48 cd c9 c9 07 04 00"),          // the last header is that of a final block
		wireHex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00"),
		wireHex("f2 00 11 00 00"),
		dynamicBlock(286, 30, map[int]int{'A': 1, 256: 2, 285: 2, 286: 1, 300: 1}).put(0x1b, 5).put(0, 6).b,
		stdDeflate(f, flate.HuffmanOnly, text, 400),
		stdDeflate(f, flate.BestCompression, make([]byte, 1000), 1000),
	}
	for _, hello := range []string{"f2 48 cd c9 c9 07 00", "f3 48 cd c9 c9 07 00"} { // and bytes after the end, blocks after a final one
		for _, after := range []string{"ff", "00 00 ff", "00 00 ff ff", "00 00 ff ff 07", "00 0100 feff 21 00", "01 0100 feff 21 00", "01"} {
			seeds = append(seeds, append(wireHex(hello), wireHex(after)...))
		}
	}
	for level := flate.NoCompression; level <= flate.BestCompression; level += 3 {
		seeds = append(seeds, stdDeflate(f, level, text, 400), stdDeflate(f, level, text, 90))
	}
	return seeds
}

// FuzzInflate_AgreesWithFlate checks that the inflater and compress/flate agree on the verdict and the output.
func FuzzInflate_AgreesWithFlate(f *testing.F) {
	for _, p := range inflateSeeds(f) {
		f.Add(p, []byte("Hello"))
		f.Add(p, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, payload, history []byte) {
		history = history[max(0, len(history)-1<<maxWindowBits):]
		d := newTestDecompressor(true)
		d.hist.add(history)
		got, err := inflateAll(d, payload)
		want, ok := stdInflate(payload, history)
		if ok != (err == nil) || ok && !bytes.Equal(got, want) {
			t.Errorf("%x after %x: inflated to %x, %v; compress/flate: %x, %t", payload, history, got, err, want, ok)
		}
	})
}

// FuzzInflate_AnySplit checks that verdict and output do not depend on how input and room are split.
func FuzzInflate_AnySplit(f *testing.F) {
	for i, p := range inflateSeeds(f) {
		f.Add(p, uint8(i), uint8(i*7))
		for _, piece := range []uint8{0, 1, 2, 6, 7, 8, 99, 255} {
			for _, room := range []uint8{0, 1, 2, 8, 255} {
				f.Add(p, piece, room)
			}
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte, piece, room uint8) {
		want, wantErr := inflateAll(newTestDecompressor(false), payload)
		got, err := inflateBy(newTestDecompressor(false), payload, int(piece)+1, int(room)+1)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%x in pieces of %d, room %d: %x, %v; want %x, %v", payload, piece, room, got, err, want, wantErr)
		}
	})
}

// BenchmarkInflate inflates what compress/flate compressed at level 6.
func BenchmarkInflate(b *testing.B) {
	for _, takeover := range []bool{false, true} {
		for _, n := range benchSizes {
			payloads := benchPayloads(b, benchMessages(n), takeover)
			b.Run(fmt.Sprintf("takeover=%t/%d", takeover, n), func(b *testing.B) { benchInflate(b, payloads, n, takeover) })
		}
	}
}

// benchPayloads returns compressed messages. With takeover they must be inflated in order.
func benchPayloads(b *testing.B, msgs [][]byte, takeover bool) [][]byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, 6)
	var payloads [][]byte
	for _, p := range msgs {
		out.Reset()
		if !takeover {
			w.Reset(&out)
		}
		w.Write(p)
		w.Flush()
		payloads = append(payloads, bytes.TrimSuffix(bytes.Clone(out.Bytes()), deflateTail))
	}
	return payloads
}

func benchInflate(b *testing.B, payloads [][]byte, n int, takeover bool) {
	d := newDecompressor(&deflateParams{recvBits: 15, recvTakeover: takeover})
	dst := make([]byte, 0, n)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(payloads) == 0 && takeover {
			d.hist.buf, d.hist.pos = d.hist.buf[:0], 0
		}
		out, _, err := d.inflate(dst, payloads[i%len(payloads)])
		out, done, err2 := d.finish(out)
		if err != nil || err2 != nil || !done || len(out) != n {
			b.Fatal(err, err2, done, len(out))
		}
	}
}

// A bitString is a DEFLATE stream that is written field by field.
type bitString struct {
	b []byte
	n int
}

// put appends the n low bits of v, the lowest first.
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

// code appends a Huffman code of n bits, whose first bit is the highest.
func (s *bitString) code(v, n int) *bitString {
	for n--; n >= 0; n-- {
		s.put(v>>n, 1)
	}
	return s
}

// dynamicBlock returns the header of a dynamic block with these code lengths. Its code length code has four bits for
// each length from 0 to 15.
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

// A code is valid if and only if compress/flate accepts it.
func TestInflate_HuffmanCodes(t *testing.T) {
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
			wantEqual(t, "compress/flate takes it", ok, tt.valid)
		})
	}
}

// Each invalid stream has a valid neighbour.
func TestInflate_InvalidStreams(t *testing.T) {
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
		{"stored length and its complement", wireHex("00 0100 feff 41 00"), wireHex("00 0100 ffff 41 00")},
		{"literal symbol 286", fixed(1, 285, 0), fixed(1, 286, 0)},
		{"literal symbol 287", fixed(1, 285, 0), fixed(1, 287, 0)},
		{"distance symbol 30", fixed(1, 285, 0), fixed(1, 285, 30)},
		{"distance symbol 31", fixed(1, 285, 0), fixed(1, 285, 31)},
		{"distance 2 after 1 byte", fixed(1, 285, 0), fixed(1, 285, 1)},
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

// besideWindows is the memory that an idle end with context takeover may use beside its two windows.
const besideWindows = 24 << 10

// BenchmarkTakeoverMemory reports the memory of an idle end of a connection that keeps its windows, in all and beside
// the two windows. The goroutine that waits for the next message is counted.
func BenchmarkTakeoverMemory(b *testing.B) {
	for _, bits := range []int{9, 12, 15} {
		b.Run(fmt.Sprintf("WindowBits=%d", bits), func(b *testing.B) {
			var ends float64
			for b.Loop() {
				ends = takeoverMemory(b, 1000, bits)
			}
			beside := ends - 2*float64(int(1)<<bits)
			b.ReportMetric(ends, "B/conn")
			b.ReportMetric(beside, "B/conn-beside-windows")
			if beside > besideWindows {
				b.Errorf("%.0f bytes beside the windows, want at most %d", beside, besideWindows)
			}
		})
	}
}

// takeoverMemory returns the bytes that each end of n connections uses.
func takeoverMemory(b *testing.B, n, bits int) float64 {
	o := &Options{Compression: &Compression{ContextTakeover: true, WindowBits: bits}, KeepAlive: -1}
	before := memoryInUse()
	var readers sync.WaitGroup
	var conns []*Conn
	for i := range n {
		server, client := Pipe(o, o)
		for j := range takeoverMessages {
			p := jsonText(uint64(i*takeoverMessages+j), 8<<10)
			for from, to := range map[*Conn]*Conn{server: client, client: server} {
				must(b, from.Write(context.Background(), BinaryMessage, p))
				_, _, err := to.Read(context.Background())
				must(b, err)
			}
		}
		for _, c := range []*Conn{server, client} {
			readers.Go(func() { c.Read(context.Background()) })
		}
		conns = append(conns, server, client)
	}
	used := memoryInUse() - before
	for _, c := range conns {
		c.CloseNow()
	}
	readers.Wait()
	return float64(used) / float64(2*n)
}

// takeoverMessages go each way and fill any window.
const takeoverMessages = 5

// memoryInUse returns the bytes of heap and stacks.
func memoryInUse() int64 {
	runtime.GC()
	runtime.GC() // a sync.Pool holds what it has over one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
