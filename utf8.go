package websocket

// UTF-8 validation of text that arrives in pieces. RFC 6455, section 8.1: "When an endpoint is to interpret a byte
// stream as UTF-8 but finds that the byte stream is not, in fact, a valid UTF-8 stream, that endpoint MUST _Fail the
// WebSocket Connection_." The standard library validates whole texts only. An automaton takes the characters that are
// cut; the bytes between are validated by assembly or by the standard library.

import (
	"encoding/binary"
	"unicode/utf8"
)

// A utf8State is the state of validation between two pieces of a text: it says which bytes may come next. The zero
// value is the start of a text. A utf8State is a plain value; the owner of the message keeps it.
//
// It is the state of a finite automaton. Its value is the shift that brings the next state to the lowest six bits of a
// byte's entry in utf8Table, so a step is one load and one shift, with no branch.
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
		// Every state first leads to utf8Wrong. A rule then exchanges this for its own state.
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
	// Most texts are whole, short and ASCII.
	s, p = s.finish(p)
	if s != utf8Start || len(p) <= shortASCII && ascii(p) {
		return s, s != utf8Wrong
	}
	for vectors && len(p) >= vectorText {
		// The next piece begins with the character that this one cuts, so each piece begins with a whole one.
		n := min(len(p), vectorMost)
		if !validVector(&p[0], n) {
			return utf8Wrong, false
		}
		p = p[n-unfinished(p[:n]):]
	}
	return s.checkScalar(p)
}

const (
	vectorText = 40  // the shortest text for validVector, whose last 32 bytes must have at least three others before them
	shortASCII = 128 // up to this length, ascii is faster than a call of the assembly
)

// checkScalar is check in Go. The standard library validates whole characters. The automaton validates the rest of the
// first character and the beginning of the last. It also validates texts that are too short for validVector: that is as
// fast as the standard library for most scripts.
func (s utf8State) checkScalar(p []byte) (utf8State, bool) {
	s, p = s.finish(p)
	if s == utf8Start && len(p) >= vectorText {
		n := len(p) - unfinished(p)
		if !utf8.Valid(p[:n]) {
			return utf8Wrong, false
		}
		p = p[n:]
	}
	for _, b := range p {
		s = s.next(b)
	}
	return s, s != utf8Wrong
}

// finish validates the rest of a character at the start of p. It returns the bytes after the character and the state
// before them. This is utf8Start, unless p ends first or the character is wrong.
func (s utf8State) finish(p []byte) (utf8State, []byte) {
	for len(p) > 0 && s != utf8Start && s != utf8Wrong {
		s, p = s.next(p[0]), p[1:]
	}
	return s, p
}

// next returns the state after b.
func (s utf8State) next(b byte) utf8State { return utf8State(utf8Table[b] >> s & 63) }

// unfinished returns the length of the incomplete character at the end of p, or 0, if p is valid otherwise. A byte from
// C0 on begins a character of at least two bytes, one from E0 on of three, and one from F0 on of four. If p is not
// valid, the result may be wrong, but then the bytes before the character are not valid or the automaton does not
// accept it. p must have at least three bytes.
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

// complete reports whether the text may end here, that is, not in the middle of a character.
func (s utf8State) complete() bool { return s == utf8Start }

// validText reports whether p is a valid text on its own.
func validText(p []byte) bool {
	s, ok := utf8Start.check(p)
	return ok && s.complete()
}

// notASCII has the bit of each byte of a word that no ASCII character sets.
const notASCII = 0x8080808080808080

// ascii reports whether p is ASCII. The last word overlaps the one before it.
func ascii(p []byte) bool {
	if len(p) < 8 {
		return len(p) == 0
	}
	last := binary.LittleEndian.Uint64(p[len(p)-8:])
	for ; len(p) > 8; p = p[8:] {
		last |= binary.LittleEndian.Uint64(p)
	}
	return last&notASCII == 0
}
