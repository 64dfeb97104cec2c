package websocket

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// inflateBy inflates a message in pieces of piece bytes, with room for room more bytes each time.
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

// The examples of RFC 7692, section 7.2.3.
func TestInflate_ExamplesOfTheRFC(t *testing.T) {
	for _, tt := range []struct{ name, payload, want string }{
		{"7.2.3.1 one block", "f2 48 cd c9 c9 07 00", "Hello"},
		{"7.2.3.3 stored", "00 0500 faff 48656c6c6f 00", "Hello"},
		{"7.2.3.4 BFINAL", "f3 48 cd c9 c9 07 00 00", "Hello"},
		{"7.2.3.4 BFINAL without the empty block after it", "f3 48 cd c9 c9 07 00", "Hello"},
		{"7.2.3.5 two blocks", "f2 48 05 00 00 00 ff ff ca c9 c9 07 00", "Hello"},
		{"7.2.3.6 empty", "00", ""},
		{"no byte at all", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantInflated(t, newTestDecompressor(false), deflateBytes(t, tt.payload), []byte(tt.want))
		})
	}
}

func TestInflate_SecondMessageRefersToTheFirst(t *testing.T) {
	for _, takeover := range []bool{true, false} {
		d := newTestDecompressor(takeover)
		wantInflated(t, d, deflateBytes(t, "f2 48 cd c9 c9 07 00"), []byte("Hello"))
		if again := deflateBytes(t, "f2 00 11 00 00"); takeover {
			wantInflated(t, d, again, []byte("Hello"))
		} else {
			wantInvalid(t, d, again)
		}
	}
}

func TestInflate_BlocksAfterAFinalOne(t *testing.T) {
	for _, tt := range []struct{ name, payload, want string }{
		{"stored after fixed", "f3 48 cd c9 c9 07 00  00 0100 feff 21 00", "Hello!"},
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

// A message that is cut after any byte but the last is invalid.
func TestInflate_TruncatedAtEveryByte(t *testing.T) {
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

func TestInflate_TrailingGarbage(t *testing.T) {
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

// A message may end with a final block, in whatever pieces it arrives and whatever room there is. The next message may
// refer to it.
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
					again := stdDeflateAfter(t, want, want)
					wantInflated(t, d, again, want)
				}
			}
		}
	}
}

// The capacity of the destination is never exceeded, and a message that exactly fits is complete.
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
	wantInflated(t, d, deflateBytes(t, "f2 48 cd c9 c9 07 00"), []byte("Hello"))
}

// Blocks that produce nothing use no memory, and each call consumes all of them.
func TestInflate_EndlessEmptyBlocks(t *testing.T) {
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

// A message is the same in whatever pieces it arrives and whatever room there is for it.
func TestInflate_AnySplit(t *testing.T) {
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

// A Reader keeps only the last 32 KiB of its message.
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
	wantInflated(t, d, stdDeflateAfter(t, text, text[len(text)-5000:]), text[len(text)-5000:])
}

// Messages of compress/flate refer to earlier ones, at every level.
func TestInflate_ContextTakeover(t *testing.T) {
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

// A distance may reach back to the beginning of the history, but not beyond it.
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

// After an error in the middle of a message, reset and the pools leave the next message intact.
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

// A message may be abandoned at any byte. It is then not part of the history.
func TestInflate_ResetInTheMiddle(t *testing.T) {
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

func inflateSeeds(f *testing.F) [][]byte {
	text := jsonText(1, 400)
	seeds := [][]byte{
		nil, deflateBytes(f, "00"),
		deflateBytes(f, "f2 48 cd c9 c9 07 00"),
		deflateBytes(f, "00 0500 faff 48656c6c6f 00"),
		deflateBytes(f, "f3 48 cd c9 c9 07 00 00"),
		deflateBytes(f, "f3 48 cd c9 c9 07 00 02 13 00 00"),
		deflateBytes(f, "f2 48 05 00 00 00 ff ff ca c9 c9 07 00"),
		deflateBytes(f, "f2 00 11 00 00"),
		dynamicBlock(286, 30, map[int]int{'A': 1, 256: 2, 285: 2, 286: 1, 300: 1}).put(0x1b, 5).put(0, 6).b,
		stdDeflate(f, flate.HuffmanOnly, text, 400),
		stdDeflate(f, flate.BestCompression, make([]byte, 1000), 1000),
	}
	for level := flate.NoCompression; level <= flate.BestCompression; level += 3 {
		seeds = append(seeds, stdDeflate(f, level, text, 400), stdDeflate(f, level, text, 90))
	}
	return seeds
}

// For any bytes, the inflater and compress/flate agree on the verdict and on the output.
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

// The verdict and the message do not depend on how input and room are split.
func FuzzInflate_AnySplit(f *testing.F) {
	for i, p := range inflateSeeds(f) {
		f.Add(p, uint8(i), uint8(i*7))
	}
	f.Fuzz(func(t *testing.T, payload []byte, piece, room uint8) {
		want, wantErr := inflateAll(newTestDecompressor(false), payload)
		got, err := inflateBy(newTestDecompressor(false), payload, int(piece)+1, int(room)+1)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%x in pieces of %d, room %d: %x, %v; want %x, %v", payload, piece, room, got, err, want, wantErr)
		}
	})
}

// BenchmarkInflate decompresses what compress/flate wrote at level 6.
func BenchmarkInflate(b *testing.B) {
	for _, takeover := range []bool{false, true} {
		for _, n := range benchSizes {
			name := fmt.Sprintf("takeover=%t/%d", takeover, n)
			payloads := benchPayloads(b, benchMessages(n), takeover)
			b.Run(name+"/ours", func(b *testing.B) { benchInflate(b, payloads, n, takeover) })
			b.Run(name+"/flate", func(b *testing.B) { benchFlateReader(b, payloads, n, takeover) })
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

// benchFlateReader uses one reader for all messages, and resets it for each if there is no takeover.
func benchFlateReader(b *testing.B, payloads [][]byte, n int, takeover bool) {
	var all []byte
	for _, p := range payloads {
		all = append(append(all, p...), deflateTail...)
	}
	stream, one := bytes.NewReader(all), new(bytes.Reader)
	r := flate.NewReader(stream)
	dst := make([]byte, n)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := i % len(payloads)
		if !takeover {
			one.Reset(payloads[k])
			r.(flate.Resetter).Reset(one, nil)
		} else if k == 0 {
			stream.Reset(all)
			r.(flate.Resetter).Reset(stream, nil)
		}
		if m, err := io.ReadFull(r, dst); err != nil {
			b.Fatal(m, err)
		}
	}
}
