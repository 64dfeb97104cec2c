package websocket

// UTF-8 validation of text that arrives in pieces (RFC 6455, section 8.1). The standard library validates whole texts
// only.

import (
	"encoding/binary"
	"math/bits"
)

// A utf8State is the state of validation between two pieces of a text: it says which bytes may come next. The zero
// value is the start of a text. A utf8State is a plain value; the owner of the message keeps it.
//
// It is the state of a finite automaton. Its value is the shift that brings the next state to the lowest six bits of a
// byte's entry in utf8Table, so a step is one load and one shift.
type utf8State uint8

const (
	utf8Start   utf8State = 6 * iota // a character may begin, or the text may end
	utf8Tail1                        // one more byte 80..BF must follow
	utf8Tail2                        // two more
	utf8Tail3                        // three more
	utf8AfterE0                      // A0..BF must follow, then one more: lower values are overlong
	utf8AfterED                      // 80..9F must follow, then one more: higher values are surrogates
	utf8AfterF0                      // 90..BF must follow, then two more: lower values are overlong
	utf8AfterF4                      // 80..8F must follow, then two more: higher values are beyond U+10FFFF
	utf8Wrong                        // the text is not UTF-8, whatever follows
)

// utf8Table holds the transitions for each byte: nine next states of six bits each, one per state.
var utf8Table = buildUTF8Table()

// buildUTF8Table returns the table for the grammar of RFC 3629, section 4. Every transition that no rule allows leads
// to utf8Wrong.
func buildUTF8Table() (table [256]uint64) {
	rules := []struct {
		from     utf8State
		low, top int
		to       utf8State
	}{
		{utf8Start, 0x00, 0x7F, utf8Start},
		{utf8Start, 0xC2, 0xDF, utf8Tail1},
		{utf8Start, 0xE0, 0xE0, utf8AfterE0},
		{utf8Start, 0xE1, 0xEC, utf8Tail2},
		{utf8Start, 0xED, 0xED, utf8AfterED},
		{utf8Start, 0xEE, 0xEF, utf8Tail2},
		{utf8Start, 0xF0, 0xF0, utf8AfterF0},
		{utf8Start, 0xF1, 0xF3, utf8Tail3},
		{utf8Start, 0xF4, 0xF4, utf8AfterF4},
		{utf8Tail1, 0x80, 0xBF, utf8Start},
		{utf8Tail2, 0x80, 0xBF, utf8Tail1},
		{utf8Tail3, 0x80, 0xBF, utf8Tail2},
		{utf8AfterE0, 0xA0, 0xBF, utf8Tail1},
		{utf8AfterED, 0x80, 0x9F, utf8Tail1},
		{utf8AfterF0, 0x90, 0xBF, utf8Tail2},
		{utf8AfterF4, 0x80, 0x8F, utf8Tail2},
	}
	for b := range table {
		for from := utf8Start; from <= utf8Wrong; from += 6 {
			table[b] |= uint64(utf8Wrong) << from
		}
		for _, r := range rules {
			if r.low <= b && b <= r.top {
				table[b] ^= uint64(utf8Wrong^r.to) << r.from
			}
		}
	}
	return table
}

// check validates p, the next bytes of the text, and returns the state after it. It returns false as soon as no further
// bytes can make the text valid, even if the wrong byte is in the middle of a character.
func (s utf8State) check(p []byte) (utf8State, bool) {
	if !vectors || len(p) < vectorText {
		return s.checkScalar(p)
	}
	for s != utf8Start && s != utf8Wrong { // in the middle of a character, of which at most three bytes are missing
		s = utf8State(utf8Table[p[0]] >> s & 63)
		p = p[1:]
	}
	if s == utf8Wrong {
		return s, false
	}
	p = p[asciiRun(p[:min(len(p), 128)]):] // for short ASCII, this is faster than the assembly
	for len(p) >= vectorText {
		n := min(len(p), vectorMost)
		if !validVector(&p[0], n) {
			return utf8Wrong, false
		}
		p = p[n-unfinished(p[:n]):]
	}
	return s.checkScalar(p)
}

// vectorText is the shortest text that validVector validates. The last 32 bytes must have at least three others before
// them.
const vectorText = 40

// unfinished returns the length of the incomplete character at the end of p, or 0. The bytes before it are valid.
func unfinished(p []byte) int {
	last := (*[3]byte)(p[len(p)-3:])
	switch {
	case last[2] >= 0xC0:
		return 1
	case last[1] >= 0xE0:
		return 2
	case last[0] >= 0xF0:
		return 3
	}
	return 0
}

// checkScalar is check in Go. ASCII, single characters in it, and runs of long characters are skipped in blocks; other
// bytes take one step of the automaton each.
func (s utf8State) checkScalar(p []byte) (utf8State, bool) {
	text, st := p, uint64(s)
	for len(p) > 32 {
		if st == 0 {
			n := asciiRun(p)
			switch {
			case n > 0 && len(p)-n >= 32:
				n += accent((*[32]byte)(p[n:]))
			case n == 0 && p[0] >= 0xE0:
				n = longRun(p)
			}
			if n > 0 {
				p = p[n:]
				continue
			}
		}
		st = step17((*[17]byte)(p), st)
		if st == uint64(utf8Wrong) {
			return utf8Wrong, false
		}
		p = p[17:]
	}
	for st == 0 && len(p) >= 8 && binary.LittleEndian.Uint64(p)&notASCII == 0 {
		p = p[8:]
	}
	if st == 0 && len(p) < 8 && len(text) >= 8 && binary.LittleEndian.Uint64(text[len(text)-8:])&notASCII == 0 {
		return utf8Start, true // p is the end of these eight bytes
	}
	for _, b := range p {
		st = utf8Table[b] >> (st & 63)
	}
	st &= 63
	return utf8State(st), st != uint64(utf8Wrong)
}

// complete reports whether the text may end here, that is, not in the middle of a character.
func (s utf8State) complete() bool { return s == utf8Start }

// validText reports whether p is a valid text on its own.
func validText(p []byte) bool {
	s, ok := utf8Start.check(p)
	return ok && s.complete()
}

// notASCII is the bit of each byte in a word that no ASCII character sets.
const notASCII = 0x8080808080808080

// asciiRun returns the length of the ASCII blocks of 32 bytes at the start of p. It leaves at least one byte, because
// slicing is cheaper if the result cannot be empty.
func asciiRun(p []byte) int {
	rest := p[:len(p):len(p)]
	for len(rest) > 32 && asciiBlock((*[32]byte)(rest)) {
		rest = rest[32:]
	}
	return len(p) - len(rest)
}

// accent returns the length of the ASCII at the start of p. If a character of two bytes comes next, and four of ASCII
// follow it, accent includes all six. Many accented letters in French and German are like that.
func accent(p *[32]byte) (n int) {
	w := binary.LittleEndian.Uint64(p[:])
	for n < 24 && w&notASCII == 0 {
		n += 8
		w = binary.LittleEndian.Uint64(p[n:])
	}
	n += bits.TrailingZeros64(w&notASCII) / 8
	if n > 24 {
		return n
	}
	// 110xxxxx 10xxxxxx and four times 0xxxxxxx. C0 and C1 would be overlong.
	if w = binary.LittleEndian.Uint64(p[n:]); w&0x80808080C0E0 == 0x80C0 && w&0x1E > 0 {
		return n + 6
	}
	return n
}

// asciiBlock reports whether p is ASCII.
func asciiBlock(p *[32]byte) bool {
	return (binary.LittleEndian.Uint64(p[0:])|binary.LittleEndian.Uint64(p[8:])|
		binary.LittleEndian.Uint64(p[16:])|binary.LittleEndian.Uint64(p[24:]))&notASCII == 0
}

// longRun returns the length of a run of characters at the start of p that all have three bytes, like Chinese, or all
// have four, like emoji. It works on whole blocks, and leaves a block with an unusual character to the automaton. It is
// faster because no step depends on the one before.
func longRun(p []byte) (n int) {
	if p[0] >= 0xF0 {
		for len(p)-n >= 16 && allFours((*[16]byte)(p[n:])) {
			n += 16
		}
		return n
	}
	for len(p)-n >= 24 && allThrees((*[24]byte)(p[n:])) {
		n += 24
	}
	return n
}

// allFours reports whether p holds four characters F0 90..9F 80..BF 80..BF, which are U+10000 to U+1FFFF.
func allFours(p *[16]byte) bool {
	const mask, want = 0xC0C0F0FF_C0C0F0FF, 0x808090F0_808090F0
	return binary.LittleEndian.Uint64(p[0:])&mask == want && binary.LittleEndian.Uint64(p[8:])&mask == want
}

// allThrees reports whether p holds eight characters of three bytes, none of which begins with E0 or ED: these two
// restrict the byte that follows them.
func allThrees(p *[24]byte) bool {
	w0 := binary.LittleEndian.Uint64(p[0:])
	w1 := binary.LittleEndian.Uint64(p[8:])
	w2 := binary.LittleEndian.Uint64(p[16:])
	wrong := (w0&0xC0F0C0C0F0C0C0F0 ^ 0x80E08080E08080E0) |
		(w1&0xF0C0C0F0C0C0F0C0 ^ 0xE08080E08080E080) |
		(w2&0xC0C0F0C0C0F0C0C0 ^ 0x8080E08080E08080)
	// The first bytes of the characters are at different positions in the three words, so the low halves of all eight
	// fit into one word. Adding 7F to a byte of at most seven bits sets its eighth bit unless the byte is 0. So free
	// has all eighth bits set if no half is 0 (E0) and none is D (ED).
	const seven = 0x7F7F7F7F7F7F7F7F
	low := w0&0x000F00000F00000F | w1&0x0F00000F00000F00 | w2&0x00000F00000F0000
	free := (low + seven) & ((low ^ 0x0D0D0D0D0D0D0D0D) + seven) & notASCII
	return wrong == 0 && free == notASCII
}

// step17 takes seventeen steps of the automaton, unrolled for speed. Because 17 is coprime to 3 and 4, a call that
// begins in the middle of a run of long characters reaches the start of one within four calls, and longRun can take
// over.
func step17(p *[17]byte, st uint64) uint64 {
	st = utf8Table[p[0]] >> (st & 63)
	st = utf8Table[p[1]] >> (st & 63)
	st = utf8Table[p[2]] >> (st & 63)
	st = utf8Table[p[3]] >> (st & 63)
	st = utf8Table[p[4]] >> (st & 63)
	st = utf8Table[p[5]] >> (st & 63)
	st = utf8Table[p[6]] >> (st & 63)
	st = utf8Table[p[7]] >> (st & 63)
	st = utf8Table[p[8]] >> (st & 63)
	st = utf8Table[p[9]] >> (st & 63)
	st = utf8Table[p[10]] >> (st & 63)
	st = utf8Table[p[11]] >> (st & 63)
	st = utf8Table[p[12]] >> (st & 63)
	st = utf8Table[p[13]] >> (st & 63)
	st = utf8Table[p[14]] >> (st & 63)
	st = utf8Table[p[15]] >> (st & 63)
	st = utf8Table[p[16]] >> (st & 63)
	return st & 63
}
