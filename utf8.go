package websocket

import "encoding/binary"

// A utf8State is all that has to be kept of a text whose bytes come in pieces: what may come next. The zero value
// is the start, where a character may begin.
//
// It is the state of a finite automaton, given as the number of bits by which a byte's word in utf8Table has to be
// shifted so that the next state stands in the lowest six bits. A step is then one load and one shift.
type utf8State uint8

const (
	utf8Start   utf8State = 6 * iota
	utf8Tail1             // one more byte 80..BF is to come
	utf8Tail2             // two more
	utf8Tail3             // three more
	utf8AfterE0           // A0..BF, then one more: below is overlong
	utf8AfterED           // 80..9F, then one more: above are the surrogates
	utf8AfterF0           // 90..BF, then two more: below is overlong
	utf8AfterF4           // 80..8F, then two more: above is beyond U+10FFFF
	utf8Wrong             // for good
)

// utf8Table is the grammar of RFC 3629, section 4. Its words hold nine states of six bits.
var utf8Table = buildUTF8Table()

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

// check goes on with p. It is false when p holds a byte with which the text can no longer become UTF-8, whatever
// follows it.
func (s utf8State) check(p []byte) (utf8State, bool) {
	st := uint64(s)
	for len(p) >= 32 {
		if st == 0 {
			n := asciiRun(p)
			if n == 0 && p[0] >= 0xE0 {
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
	for _, b := range p {
		st = utf8Table[b] >> (st & 63)
	}
	st &= 63
	return utf8State(st), st != uint64(utf8Wrong)
}

// complete reports whether no character is under way.
func (s utf8State) complete() bool { return s == utf8Start }

// validText reports whether p is UTF-8 as a whole.
func validText(p []byte) bool {
	s, ok := utf8Start.check(p)
	return ok && s.complete()
}

// notASCII holds the bits that no ASCII character has.
const notASCII = 0x8080808080808080

// asciiRun returns how many bytes p begins with that are ASCII, by the block.
func asciiRun(p []byte) (n int) {
	for ; len(p) >= 32 && asciiBlock((*[32]byte)(p)); p = p[32:] {
		n += 32
	}
	return n
}

func asciiBlock(p *[32]byte) bool {
	return (binary.LittleEndian.Uint64(p[0:])|binary.LittleEndian.Uint64(p[8:])|
		binary.LittleEndian.Uint64(p[16:])|binary.LittleEndian.Uint64(p[24:]))&notASCII == 0
}

// longRun returns how many bytes p begins with that are characters of three bytes, or of four, and need no closer look.
// Chinese and emoji are such runs, in which no step depends on the one before.
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

// allThrees reports whether p holds eight characters of three bytes, none of which begins with E0 or ED, after which
// fewer bytes may come.
func allThrees(p *[24]byte) bool {
	w0 := binary.LittleEndian.Uint64(p[0:])
	w1 := binary.LittleEndian.Uint64(p[8:])
	w2 := binary.LittleEndian.Uint64(p[16:])
	wrong := (w0&0xC0F0C0C0F0C0C0F0 ^ 0x80E08080E08080E0) |
		(w1&0xF0C0C0F0C0C0F0C0 ^ 0xE08080E08080E080) |
		(w2&0xC0C0F0C0C0F0C0C0 ^ 0x8080E08080E08080)
	// The first bytes stand at different places of the three words: their lower halves fit into one. Seven bits overflow
	// into the eighth where a byte is not 0.
	const seven = 0x7F7F7F7F7F7F7F7F
	low := w0&0x000F00000F00000F | w1&0x0F00000F00000F00 | w2&0x00000F00000F0000
	free := (low + seven) & ((low ^ 0x0D0D0D0D0D0D0D0D) + seven) & notASCII
	return wrong == 0 && free == notASCII
}

// step17 takes seventeen steps, unrolled for speed: 17 is prime to 3 and 4, so in the midst of long characters it comes to
// the start of one within four calls, and a long run may begin.
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
