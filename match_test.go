package websocket

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

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
