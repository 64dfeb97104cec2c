package websocket

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// stdInflate returns what compress/flate makes of a payload, and whether the payload is complete: it ends with a final
// block, or the four bytes of RFC 7692, section 7.2.2, complete a block, so that any other can follow.
func stdInflate(payload, history []byte) ([]byte, bool) {
	if out, ok := stdInflateStreams(payload, "", history); ok {
		return out, true
	}
	out, ok := stdInflateStreams(payload, "\x00\x00\xff\xff"+"\x01\x00\x00\xff\xff", history)
	out2, ok2 := stdInflateStreams(payload, "\x00\x00\xff\xff"+"\x01\x01\x00\xfe\xff"+"A", history)
	return out, ok && ok2 && string(out2) == string(out)+"A"
}

// stdInflateStreams decompresses payload and tail, which may consist of several streams (RFC 7692, section 7.2.3.4).
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

// stdDeflate returns p as a message that compress/flate compressed and flushed every piece bytes.
func stdDeflate(t testing.TB, level int, p []byte, piece int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	must(t, err)
	for ; len(p) > piece; p = p[piece:] {
		w.Write(p[:piece])
		w.Flush()
	}
	w.Write(p)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), deflateTail)
}

// stdDeflateAfter returns p as a message that may refer to before.
func stdDeflateAfter(t testing.TB, before, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriterDict(&b, 6, before)
	must(t, err)
	w.Write(p)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), deflateTail)
}

// finalDeflate returns p as a message that ends with a final block.
func finalDeflate(t testing.TB, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, 6)
	must(t, err)
	w.Write(p)
	w.Close()
	return b.Bytes()
}

// noise returns n bytes that do not compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// texts returns a message of each kind that the deflater treats differently.
func texts() map[string][]byte {
	skewed := noise(1, 30000)
	for i, b := range skewed {
		skewed[i] = b & (b >> 3) & 15
	}
	fibonacci := make([]byte, 0, 60000) // frequencies that want codes longer than 15 bits
	for i, a, b := 0, 1, 1; len(fibonacci)+a < cap(fibonacci); i, a, b = i+1, b, a+b {
		fibonacci = append(fibonacci, bytes.Repeat([]byte{byte(i)}, a)...)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(fibonacci), func(i, j int) {
		fibonacci[i], fibonacci[j] = fibonacci[j], fibonacci[i]
	})
	return map[string][]byte{
		"empty": nil, "a byte": {'a'}, "three bytes": []byte("abc"), "four bytes": []byte("aaaa"),
		"zeros": make([]byte, 100<<10), "short zeros": make([]byte, 259),
		"json 60": jsonText(1, 60), "json 200": jsonText(1, 200), "json 2000": jsonText(2, 2000),
		"json 64K": jsonText(3, 64<<10), "json 140K": jsonText(4, 140<<10),
		"noise 100": noise(1, 100), "noise 70000": noise(2, 70000),
		"noise between": slices.Concat(jsonText(5, 9000), noise(3, 9000), jsonText(5, 9000)),
		"skewed":        skewed, "fibonacci": fibonacci,
		"noise repeated": slices.Concat(noise(4, 32<<10), noise(4, 32<<10)),
		"every byte":     bytes.Repeat([]byte("0123456789abcdef\x00\xff"), 300),
	}
}

// A peer inflates the messages of a connection with compress/flate and with this package.
type peer struct {
	history  []byte
	takeover bool
	bits     int
	own      *decompressor
}

func newPeer(takeover bool, bits int) *peer {
	return &peer{takeover: takeover, bits: bits, own: newDecompressor(&deflateParams{recvBits: bits, recvTakeover: takeover})}
}

func (p *peer) wantMessage(t *testing.T, payload, want []byte) {
	t.Helper()
	got, ok := stdInflateStreams(payload, "\x00\x00\xff\xff"+"\x01\x01\x00\xfe\xff"+"A", p.history)
	if same := string(got) == string(want)+"A"; !ok || !same {
		t.Fatalf("compress/flate took it: %t, and it is what was sent: %t", ok, same)
	}
	if got, err := inflateAll(p.own, payload); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("inflated to %d bytes, %v; want %d", len(got), err, len(want))
	}
	if p.takeover {
		p.history = append(p.history, want...)
		p.history = p.history[max(0, len(p.history)-1<<p.bits):]
	}
}

// compress/flate inflates messages of each level, window and kind of text, with and without takeover.
func TestDeflate_FlateInflatesIt(t *testing.T) {
	kinds := texts()
	names := slices.Sorted(maps.Keys(kinds))
	for level := 1; level <= 9; level++ {
		windows := []int{8 + level%8}
		if level == 1 {
			windows = []int{8, 9, 12, 15}
		}
		for _, windowBits := range windows {
			for _, takeover := range []bool{false, true} {
				t.Run(fmt.Sprintf("level=%d/bits=%d/takeover=%t", level, windowBits, takeover), func(t *testing.T) {
					c := newCompressor(&deflateParams{level: level, sendBits: windowBits, sendTakeover: takeover})
					p := newPeer(takeover, windowBits)
					for _, name := range slices.Concat(names, names[:5]) {
						before := []byte("before")
						out, ok := c.message(before, kinds[name])
						switch {
						case ok:
							p.wantMessage(t, out[len(before):], kinds[name])
						case !bytes.Equal(out, before):
							t.Errorf("%s did not shrink and is %d bytes long", name, len(out))
						}
						if want := name == "empty" || len(kinds[name]) > 300 && name[:5] != "noise"; want && !ok {
							t.Errorf("%s did not shrink", name)
						}
					}
					c.free()
				})
			}
		}
	}
}

// RFC 7692, section 7.2.3.6: an empty message is a single byte.
func TestDeflate_EmptyMessage(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		c := newCompressor(&deflateParams{level: 1, sendBits: 15, sendTakeover: takeover})
		if out, ok := c.message(nil, nil); !ok || string(out) != "\x00" {
			t.Errorf("takeover %t: % x, %t", takeover, out, ok)
		}
		if out := c.chunk(nil, nil, true); string(out) != "\x00" {
			t.Errorf("takeover %t, streamed: % x", takeover, out)
		}
	}
}

// No distance exceeds the window, within a message and across messages. The inflater shows each match because it has
// room for one more byte at a time.
func TestDeflate_DistanceWithinTheWindow(t *testing.T) {
	for bits := minWindowBits; bits <= maxWindowBits; bits++ {
		for level := 1; level <= 9; level++ {
			c := newCompressor(&deflateParams{level: level, sendBits: bits, sendTakeover: true})
			d := newDecompressor(&deflateParams{recvBits: bits, recvTakeover: true})
			farthest := 0
			for i := range 12 {
				text := slices.Concat(noise(uint64(i%3), 1<<bits/3), jsonText(uint64(i%3), 1<<bits/2+i*100))
				out, ok := c.message(nil, text)
				if !ok {
					continue
				}
				farthest = max(farthest, farthestMatch(t, d, out, text))
			}
			if farthest > 1<<bits || farthest < 1<<bits/3 {
				t.Errorf("level %d: distance %d in a window of %d", level, farthest, 1<<bits)
			}
		}
	}
}

func farthestMatch(t *testing.T, d *decompressor, payload, want []byte) (farthest int) {
	dst := make([]byte, 0, len(want))
	for i, done := 0, false; !done; i++ {
		room := dst[:len(dst):min(i, len(want))]
		var err error
		if room, payload, err = d.inflate(room, payload); err == nil && len(payload) == 0 {
			farthest = max(farthest, d.distance)
			room, done, err = d.finish(room)
		}
		must(t, err)
		farthest = max(farthest, d.distance)
		dst = dst[:len(room)]
	}
	if !bytes.Equal(dst, want) {
		t.Error("inflated to something else")
	}
	return farthest
}

// A message that does not shrink leaves the window unchanged, however long it is.
func TestDeflate_UndoLeavesTheWindow(t *testing.T) {
	for _, bits := range []int{8, 10, 15} {
		for _, n := range []int{1, 5, 200, 5000, 9000, 50000, 200000} {
			c := newCompressor(&deflateParams{level: 1, sendBits: bits, sendTakeover: true})
			p := newPeer(true, bits)
			for i := range 20 {
				text := jsonText(uint64(i%4), 100+i*37)
				if out, ok := c.message(nil, text); ok {
					p.wantMessage(t, out, text)
				}
				if _, ok := c.message(nil, noise(uint64(i), n)); ok {
					t.Fatalf("noise of %d bytes shrank", n)
				}
			}
		}
	}
}

// A message that does not shrink leaves its positions in the index. Modulo 65536, one of them is just before the next
// text, where there is nothing to compare.
func TestDeflate_PositionBeforeTheText(t *testing.T) {
	text := []byte("wxyz1wxyz2 wxyz1wxyz2 wxyz1wxyz2") // its second wxyz is a match, and xyz2 is searched for a better one
	for level := 1; level <= 9; level++ {
		c := newCompressor(&deflateParams{level: level, sendBits: 15, sendTakeover: true})
		p := newPeer(true, 15)
		left := append(noise(1, 65535), "xyz2......"...)
		if _, ok := c.message(nil, left); ok {
			t.Fatal("noise shrank")
		}
		out, ok := c.message(nil, text)
		if !ok {
			t.Fatalf("level %d: the text did not shrink", level)
		}
		p.wantMessage(t, out, text)
	}
}

// Whatever positions are in the index of a window, they do no harm.
func TestDeflate_AnyIndex(t *testing.T) {
	for level := 1; level <= 9; level++ {
		for seed := range uint64(40) {
			r := rand.New(rand.NewPCG(seed, uint64(level)))
			bits := minWindowBits + r.IntN(maxWindowBits-minWindowBits+1)
			c := newCompressor(&deflateParams{level: level, sendBits: bits, sendTakeover: true})
			c.open(true)
			p := newPeer(true, bits)
			for range 4 {
				for _, positions := range [...][]uint16{c.win.newest, c.win.even, c.win.chain} {
					for i := range positions { // many of them near the start of the text
						positions[i] = [...]uint16{positions[i], uint16(r.Uint32()), c.win.origin + uint16(r.IntN(40)-20)}[r.IntN(3)]
					}
				}
				text := make([]byte, r.IntN(600))
				for i := range text {
					text[i] = 'a' + byte(r.IntN(1+int(seed%4)))
				}
				if out, ok := c.message(nil, text); ok {
					p.wantMessage(t, out, text)
				}
			}
			c.free()
		}
	}
}

// A streamed message is complete with its last part, and each part can be inflated as soon as it has arrived.
func TestDeflate_Chunks(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		for _, bits := range []int{8, 12, 15} {
			c := newCompressor(&deflateParams{level: 1, sendBits: bits, sendTakeover: takeover})
			p := newPeer(takeover, bits)
			for i := range 12 {
				text := jsonText(uint64(i%3), 1+i*2500)
				var payload []byte
				for n := 0; ; n += 1 + i*300 {
					end := min(len(text), n+1+i*300)
					payload = c.chunk(payload, text[n:end], end == len(text))
					if end == len(text) {
						break
					}
					if got, ok := stdInflate(bytes.TrimSuffix(payload, deflateTail), p.history); !ok || !bytes.Equal(got, text[:end]) {
						t.Fatalf("%d of %d bytes cannot be inflated", end, len(text))
					}
				}
				p.wantMessage(t, payload, text)
				if !takeover && c.win != nil {
					t.Fatal("holds a window between messages without takeover")
				}
				if out, ok := c.message(nil, text); ok {
					p.wantMessage(t, out, text)
				}
			}
		}
	}
}

// A message that another compressor made is in the peer's window too.
func TestDeflate_AddHistoryKeepsInStep(t *testing.T) {
	params := &deflateParams{level: 1, sendBits: 9, sendTakeover: true}
	alone := &deflateParams{level: 1, sendBits: 9}
	c := newCompressor(params)
	p := newPeer(true, 9)
	for i := range 20 {
		text := jsonText(uint64(i%3), 150+i*10)
		if out, ok := newCompressor(alone).message(nil, text); ok {
			p.wantMessage(t, out, text)
			c.addHistory(text)
		}
		if out, ok := c.message(nil, text); ok {
			p.wantMessage(t, out, text)
		}
	}
}

// The caller's bytes, and those after them in the same array, are neither kept nor changed.
func TestDeflate_CallersBytes(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		c := newCompressor(&deflateParams{level: 1, sendBits: 8, sendTakeover: takeover})
		buf := append(jsonText(1, 1000), "behind"...)
		whole := bytes.Clone(buf)
		first, _ := c.message(nil, buf[:1000])
		c.chunk(nil, buf[:500], false)
		c.chunk(nil, buf[500:1000], true)
		if !bytes.Equal(buf, whole) {
			t.Errorf("takeover %t: the caller's bytes changed", takeover)
		}
		clear(buf)
		again, _ := newCompressor(c.deflateParams).message(nil, whole[:1000])
		if !bytes.Equal(first, again) {
			t.Errorf("takeover %t: the caller's bytes were kept, or the same message is not the same", takeover)
		}
	}
}

// Neither a short message nor one that is longer than the window makes garbage.
func TestDeflate_DoesNotAllocate(t *testing.T) {
	dst := make([]byte, 0, 16<<10)
	for _, level := range []int{1, 2, 6, 9} {
		for _, n := range []int{100, 2000, 20_000} {
			for _, takeover := range []bool{false, true} {
				c, text := newCompressor(&deflateParams{level: level, sendBits: 12, sendTakeover: takeover}), jsonText(8, n)
				for range 10 {
					c.message(dst, text)
				}
				allocs := testing.AllocsPerRun(20, func() { c.message(dst, text) })
				if allocs != 0 && !raceEnabled { // the race detector empties pools at random
					t.Errorf("level %d, %d bytes, takeover %t: %v allocations", level, n, takeover, allocs)
				}
			}
		}
	}
}

// Many connections share the pools. The race detector finds a buffer that two of them use.
func TestDeflate_PoolsAreShared(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			params := &deflateParams{level: 1 + g, sendBits: 8 + g, recvBits: 8 + g, sendTakeover: g%2 == 0, recvTakeover: g%2 == 0}
			for range 5 {
				c, d := newCompressor(params), newDecompressor(params)
				for i := range 10 {
					text := jsonText(uint64(g+i), 1000*i)
					if out, ok := c.message(nil, text); ok {
						if got, err := inflateAll(d, out); err != nil || !bytes.Equal(got, text) {
							t.Errorf("connection %d, message %d: %v", g, i, err)
						}
					}
				}
				c.chunk(nil, []byte("half a message"), false)
				c.free()
				d.inflate(make([]byte, 0, 10), []byte("half a message"))
				d.reset()
			}
		})
	}
	wg.Wait()
}

// compress/flate inflates what the deflater writes, whatever the parts and windows.
func FuzzDeflate_FlateInflatesIt(f *testing.F) {
	for _, p := range texts() {
		if len(p) < 3000 {
			f.Add(p, uint8(1), uint8(8), true, uint16(100))
			f.Add(p, uint8(7), uint8(15), false, uint16(3))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, level, windowBits uint8, takeover bool, part uint16) {
		params := &deflateParams{level: 1 + int(level%9), sendBits: 8 + int(windowBits%8), sendTakeover: takeover}
		c, p := newCompressor(params), newPeer(takeover, params.sendBits)
		for range 2 {
			if out, ok := c.message(nil, text); ok {
				p.wantMessage(t, out, text)
			}
			var payload []byte
			for rest, n := text, int(part)+1; ; rest = rest[n:] {
				if len(rest) <= n {
					payload = c.chunk(payload, rest, true)
					break
				}
				payload = c.chunk(payload, rest[:n], false)
			}
			p.wantMessage(t, payload, text)
		}
		c.free()
	})
}

var benchSizes = []int{200, 2 << 10, 64 << 10}

// benchMessages returns the messages of a connection: so many that none is repeated within a window.
func benchMessages(n int) [][]byte {
	msgs := make([][]byte, max(64, 256<<10/n))
	for i := range msgs {
		msgs[i] = jsonText(uint64(i), n)
	}
	return msgs
}

// BenchmarkDeflate compresses JSON with this package and with compress/flate at level 1. The ratio is compressed to
// original size.
func BenchmarkDeflate(b *testing.B) {
	for _, takeover := range []bool{false, true} {
		for _, n := range benchSizes {
			name := fmt.Sprintf("takeover=%t/%d", takeover, n)
			msgs := benchMessages(n)
			b.Run(name+"/ours", func(b *testing.B) { benchDeflate(b, msgs, takeover) })
			b.Run(name+"/flate", func(b *testing.B) { benchFlateWriter(b, msgs, takeover) })
		}
	}
}

func benchDeflate(b *testing.B, msgs [][]byte, takeover bool) {
	c := newCompressor(&deflateParams{level: 1, sendBits: 15, sendTakeover: takeover})
	dst := make([]byte, 0, 128<<10)
	total, in := 0, 0
	b.SetBytes(int64(len(msgs[0])))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := msgs[i%len(msgs)]
		out, ok := c.message(dst, p)
		if !ok {
			out = p
		}
		total, in = total+len(out), in+len(p)
	}
	b.ReportMetric(float64(total)/float64(in), "ratio")
}

type countWriter int

func (w *countWriter) Write(p []byte) (int, error) { *w += countWriter(len(p)); return len(p), nil }

func benchFlateWriter(b *testing.B, msgs [][]byte, takeover bool) {
	var out countWriter
	w, _ := flate.NewWriter(&out, flate.BestSpeed)
	in := 0
	b.SetBytes(int64(len(msgs[0])))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if !takeover {
			w.Reset(&out)
		}
		p := msgs[i%len(msgs)]
		w.Write(p)
		w.Flush()
		out -= 4
		in += len(p)
	}
	b.ReportMetric(float64(out)/float64(in), "ratio")
}

// jsonText returns n bytes of an array of small objects, which depend on the seed.
func jsonText(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	names := []string{"anna", "boris", "chloé", "dmitri", "eve", "farid", "grace", "heidi"}
	words := []string{"the", "price", "of", "order", "was", "changed", "when", "market", "opened", "again", "at", "noon"}
	var b bytes.Buffer
	b.WriteByte('[')
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"user":"%s","ts":"2026-03-%02dT%02d:%02d:%02d.%03dZ","price":%d.%02d,"tags":["%s","%s"],"text":"`,
			r.IntN(1e8), names[r.IntN(len(names))], r.IntN(28)+1, r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000),
			r.IntN(5000), r.IntN(100), words[r.IntN(len(words))], words[r.IntN(len(words))])
		for range 4 + r.IntN(8) {
			b.WriteString(words[r.IntN(len(words))] + " ")
		}
		fmt.Fprintf(&b, `","ok":%t},`, r.IntN(2) == 0)
	}
	return b.Bytes()[:n]
}

// proseText returns n bytes of sentences of invented words, of which a few are frequent and most are rare.
func proseText(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 11))
	zipf := rand.NewZipf(r, 1.2, 4, 1500)
	var b strings.Builder
	for b.Len() < n {
		for i := range 6 + r.IntN(12) {
			word := inventedWord(zipf.Uint64())
			if i == 0 {
				word = strings.ToUpper(word[:1]) + word[1:]
			}
			b.WriteString(word + []string{" ", " ", " ", " ", ", "}[r.IntN(5)])
		}
		b.WriteString("and so on. ")
	}
	return []byte(b.String()[:n])
}

func inventedWord(i uint64) string {
	r := rand.New(rand.NewPCG(i, 12))
	word := ""
	for range 1 + i%4 {
		word += []string{"ta", "re", "lin", "so", "der", "ick", "mo", "en", "thu", "pal", "gor", "ne"}[r.IntN(12)]
	}
	return word
}

// htmlText returns n bytes out of a table.
func htmlText(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 13))
	var b strings.Builder
	for b.Len() < n+200 {
		text := proseText(r.Uint64(), 10+r.IntN(60))
		fmt.Fprintf(&b, "  <tr id=\"row-%d\"><td class=\"name\"><a href=\"/items/%x?page=%d\">%s</a></td><td class=\"text %s\">%s</td></tr>\n",
			r.IntN(1e5), r.Uint32(), r.IntN(20), inventedWord(r.Uint64N(400)), []string{"odd", "even", "new"}[r.IntN(3)], text)
	}
	return []byte(b.String()[200:][:n])
}

// deflatedSizes returns the size of 200 KB of messages of n bytes at each level.
func deflatedSizes(text func(seed uint64, n int) []byte, n int, takeover bool) (sizes [10]int) {
	for level := 1; level <= 9; level++ {
		c := newCompressor(&deflateParams{level: level, sendBits: 15, sendTakeover: takeover})
		for i := range 200_000 / n {
			p := text(uint64(i), n)
			if out, ok := c.message(nil, p); ok {
				p = out
			}
			sizes[level] += len(p)
		}
		c.free()
	}
	return sizes
}

// A higher level makes messages shorter. Those of one kind may be longer by a thousandth, because the best match is not
// always the best choice.
func TestDeflate_SizeByLevel(t *testing.T) {
	var all [10]int
	for name, text := range map[string]func(uint64, int) []byte{"JSON": jsonText, "prose": proseText, "HTML": htmlText} {
		for _, n := range []int{100, 1000, 20_000} {
			for _, takeover := range []bool{false, true} {
				sizes := deflatedSizes(text, n, takeover)
				t.Logf("%s of %d bytes, takeover %t: %d", name, n, takeover, sizes[1:])
				for level := range sizes {
					all[level] += sizes[level]
					if level > 1 && sizes[level] > sizes[level-1]+sizes[level-1]/1000 {
						t.Errorf("%s of %d bytes, takeover %t: longer at level %d", name, n, takeover, level)
					}
				}
			}
		}
	}
	for level := 2; level <= 9; level++ {
		if all[level] >= all[level-1] {
			t.Errorf("%d bytes at level %d, %d at level %d", all[level], level, all[level-1], level-1)
		}
	}
}

// Every level refers to a message far back in the window.
func TestDeflate_RepeatedAfterAGap(t *testing.T) {
	message := jsonText(1, 1000)
	for level := 1; level <= 9; level++ {
		for _, gap := range []int{0, 1000, 6000, 30_000} {
			for name, between := range map[string][]byte{"noise": noise(2, gap), "prose": proseText(2, gap)} {
				c := newCompressor(&deflateParams{level: level, sendBits: 15, sendTakeover: true})
				c.message(nil, message)
				c.chunk(nil, between, true)
				if out, _ := c.message(nil, message); len(out) > 40 {
					t.Errorf("level %d: a repeated message takes %d bytes after %d bytes of %s", level, len(out), gap, name)
				}
				c.free()
			}
		}
	}
}

// A compressor with takeover holds up to a window and 16 KiB at level 1, and up to two windows and 24 KiB at higher
// levels. A small window costs little. Without takeover a compressor holds nothing.
func TestDeflate_WindowMemory(t *testing.T) {
	for level := 1; level <= 9; level++ {
		for windowBits := minWindowBits; windowBits <= maxWindowBits; windowBits++ {
			c := newCompressor(&deflateParams{level: level, sendBits: windowBits, sendTakeover: true})
			for i := range 20 {
				c.message(nil, jsonText(uint64(i), 1+i*i*i*10))
			}
			size := 1 << windowBits
			limit := min(16<<10+size, 4*size)
			if level > 1 {
				limit = min(24<<10+2*size, 7*size)
			}
			w := c.win
			if held := cap(w.buf) + 2*(cap(w.newest)+cap(w.even)+cap(w.chain)); held > limit {
				t.Errorf("level %d: %d bytes for a window of %d, want at most %d", level, held, size, limit)
			}
			alone := newCompressor(&deflateParams{level: level, sendBits: windowBits})
			alone.message(nil, jsonText(1, 1000))
			if alone.win != nil {
				t.Errorf("level %d: holds a window without takeover", level)
			}
			w.free()
		}
	}
}

// Messages for which a search without bounds takes time that grows with the square of their length.
func hostileTexts(n int) map[string][]byte {
	r := rand.New(rand.NewPCG(1, 14))
	prefixes := make([]byte, 0, n) // every position continues a little differently
	for len(prefixes) < n {
		prefixes = append(append(prefixes, bytes.Repeat([]byte("ab"), 20+r.IntN(100))...), byte(r.Uint32()))
	}
	return map[string][]byte{
		"one byte":       make([]byte, n),
		"period of 3":    bytes.Repeat([]byte("abc"), n/3),
		"long prefixes":  prefixes[:n],
		"short prefixes": bytes.Map(func(c rune) rune { return 'a' + c%2 }, bytes.ToValidUTF8(noise(3, n), []byte("a"))),
		"collisions":     collisions(n),
	}
}

// collisions returns groups of four bytes that differ and have the same hash.
func collisions(n int) []byte {
	inverse := uint32(1) // of hashPrime, modulo 1<<32
	for range 5 {
		inverse *= 2 - hashPrime*inverse
	}
	r := rand.New(rand.NewPCG(1, 15))
	var b []byte
	for len(b) < n {
		v := (0x123<<20 | r.Uint32()>>12) * inverse
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	return b[:n]
}

// The time a byte does not depend on the length of the message.
func BenchmarkDeflateHostile(b *testing.B) {
	for _, n := range []int{20_000, 500_000} {
		for name, text := range hostileTexts(n) {
			for _, level := range []int{1, 6, 9} {
				b.Run(fmt.Sprintf("%s/%d/level=%d", name, n, level), func(b *testing.B) {
					c := newCompressor(&deflateParams{level: level, sendBits: 15})
					b.SetBytes(int64(len(text)))
					for b.Loop() {
						c.message(nil, text)
					}
				})
			}
		}
	}
}

func TestDeflate_HostileTexts(t *testing.T) {
	for name, text := range hostileTexts(30_000) {
		for level := 1; level <= 9; level++ {
			t.Run(fmt.Sprintf("%s/level=%d", name, level), func(t *testing.T) {
				p := newPeer(true, 15)
				c := newCompressor(&deflateParams{level: level, sendBits: 15, sendTakeover: true})
				for range 3 {
					p.wantMessage(t, c.chunk(nil, text, true), text)
				}
			})
		}
	}
}
