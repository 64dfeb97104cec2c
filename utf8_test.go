package websocket

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// Valid and invalid UTF-8 by RFC 3629, each invalid sequence beside its valid neighbour. wrongAt is the first byte
// after which no continuation makes a text, or -1.
var utf8Cases = []struct {
	name    string
	bytes   string
	wrongAt int
	whole   bool
}{
	{"empty", "", -1, true},
	{"NUL", "\x00", -1, true},
	{"U+007F", "\x7F", -1, true},
	{"tail alone 80", "\x80", 0, false},
	{"tail alone BF", "\xBF", 0, false},
	{"overlong C0 80", "\xC0\x80", 0, false},
	{"overlong C1 BF", "\xC1\xBF", 0, false},
	{"U+0080", "\xC2\x80", -1, true},
	{"U+07FF", "\xDF\xBF", -1, true},
	{"two, cut after 1", "\xDF", -1, false},
	{"two, second below", "\xC2\x7F", 1, false},
	{"two, second above", "\xC2\xC0", 1, false},
	{"two, second is a space", "\xC3\x20", 1, false},
	{"two, FF", "é\xFF", 2, false},
	{"two, one of ASCII, FF", "éa\xFF", 3, false},
	{"two, two of ASCII, FF", "éab\xFF", 4, false},
	{"two, three of ASCII, FF", "éabc\xFF", 5, false},
	{"two, four of ASCII, FF", "éabcd\xFF", 6, false},
	{"overlong E0 9F BF", "\xE0\x9F\xBF", 1, false},
	{"U+0800", "\xE0\xA0\x80", -1, true},
	{"U+0FFF", "\xE0\xBF\xBF", -1, true},
	{"E0, second above", "\xE0\xC0\x80", 1, false},
	{"E0, cut after 2", "\xE0\xA0", -1, false},
	{"U+1000", "\xE1\x80\x80", -1, true},
	{"E1, third below", "\xE1\x80\x7F", 2, false},
	{"E1, third above", "\xE1\x80\xC0", 2, false},
	{"U+CFFF", "\xEC\xBF\xBF", -1, true},
	{"U+D7FF", "\xED\x9F\xBF", -1, true},
	{"surrogate U+D800", "\xED\xA0\x80", 1, false},
	{"surrogate U+DFFF", "\xED\xBF\xBF", 1, false},
	{"U+E000", "\xEE\x80\x80", -1, true},
	{"noncharacter U+FFFE", "\xEF\xBF\xBE", -1, true},
	{"noncharacter U+FFFF", "\xEF\xBF\xBF", -1, true},
	{"three, cut after 1", "\xEF", -1, false},
	{"overlong F0 8F BF BF", "\xF0\x8F\xBF\xBF", 1, false},
	{"U+10000", "\xF0\x90\x80\x80", -1, true},
	{"F0, second above", "\xF0\xC0\x80\x80", 1, false},
	{"U+40000", "\xF1\x80\x80\x80", -1, true},
	{"U+FFFFF", "\xF3\xBF\xBF\xBF", -1, true},
	{"F3, third below", "\xF3\xBF\x7F\xBF", 2, false},
	{"F3, fourth above", "\xF3\xBF\xBF\xC0", 3, false},
	{"four, cut after 3", "\xF3\xBF\xBF", -1, false},
	{"U+10FFFF", "\xF4\x8F\xBF\xBF", -1, true},
	{"U+110000", "\xF4\x90\x80\x80", 1, false},
	{"F4, second below", "\xF4\x7F\x80\x80", 1, false},
	{"F5", "\xF5\x80\x80\x80", 0, false},
	{"FF", "\xFF", 0, false},
	{"FE", "\xFE", 0, false},
	{"five bytes", "\xF8\x88\x80\x80\x80", 0, false},
	{"noncharacter U+FDD0", "\uFDD0", -1, true},
	{"noncharacter U+1FFFE", "\U0001FFFE", -1, true},
	{"U+FFFD itself", "\uFFFD", -1, true},
	{"byte order mark", "\uFEFFa", -1, true},
	{"Latin-1", "caf\xE9 ", 4, false},
	{"surrogate pair", "\xED\xA0\x80\xED\xB0\x80", 1, false},
	{"κόσμε", "κόσμε", -1, true},
	{"κόσμε and a surrogate", "κόσμε\xED\xA0\x80edited", 11, false},
	{"words of many kinds", "Hello-µ@ßöäüàá-UTF-8!! 你好，世界 🙂", -1, true},
}

// Wherever in a text a sequence is, and wherever it is cut, the first impossible byte fails it.
func TestUTF8_EverySequenceAtEverySplit(t *testing.T) {
	for _, c := range utf8Cases {
		t.Run(c.name, func(t *testing.T) {
			for _, before := range []int{0, 1, 15, 16, 31, 32, 33, 64} {
				for _, after := range []int{0, 1, 7, 8, 40} {
					text := strings.Repeat("a", before) + c.bytes + strings.Repeat("z", after)
					checkUTF8(t, text, wrongAt(text))
				}
			}
			wantEqual(t, "the first wrong byte by the reference", wrongAt(c.bytes), c.wrongAt)
			wantEqual(t, "validText", validText([]byte(c.bytes)), c.whole)
		})
	}
}

// The same between long characters, which are checked many at a time.
func TestUTF8_EverySequenceInLongRuns(t *testing.T) {
	for _, long := range []string{"中", "🙂"} {
		for _, c := range utf8Cases {
			for before := range 10 {
				text := strings.Repeat(long, before) + c.bytes + strings.Repeat(long, 12)
				checkUTF8(t, text, wrongAt(text))
			}
		}
	}
}

// Wherever in a long text a sequence is, it is judged right, also when the text ends with it.
func TestUTF8_EverySequenceAtEveryPlace(t *testing.T) {
	for _, filler := range []string{"a", "é", "中", "🙂"} {
		around := strings.Repeat(filler, 300)
		for _, c := range utf8Cases {
			for at := 0; at <= 300; at += len(filler) {
				for _, after := range []int{0, 9, 200} {
					checkWhole(t, around[:at]+c.bytes+around[:after*len(filler)])
				}
			}
		}
	}
}

// The same where one call of the assembly ends and the next begins.
func TestUTF8_EverySequenceBetweenCalls(t *testing.T) {
	long := strings.Repeat("é", vectorMost/2)
	for _, c := range utf8Cases {
		for _, before := range []string{long, long[:vectorMost-4], "a" + long[:vectorMost-4], "a" + long[:vectorMost-2]} {
			checkWhole(t, before+c.bytes+long[:40])
		}
	}
}

// checkWhole checks text in one piece. check and checkScalar must return the same state.
func checkWhole(t *testing.T, text string) {
	t.Helper()
	p := []byte(text)
	s, ok := utf8Start.check(p)
	if want := wrongAt(text) < 0; ok != want || ok && s.complete() != utf8.Valid(p) {
		t.Fatalf("%q is right: %t, want %t; complete: %t", p, ok, want, s.complete())
	}
	if scalar, scalarOK := utf8Start.checkScalar(p); scalar != s || scalarOK != ok {
		t.Fatalf("%q: check returns state %d, %t and checkScalar %d, %t", p, s, ok, scalar, scalarOK)
	}
}

// checkUTF8 checks text in one piece, in two at every split, and byte by byte. wrong is the first impossible byte, or
// -1.
func checkUTF8(t *testing.T, text string, wrong int) {
	t.Helper()
	p := []byte(text)
	if got := validText(p); got != utf8.Valid(p) {
		t.Fatalf("validText(%q) is %t", p, got)
	}
	for i := range len(p) + 1 {
		s, ok := utf8Start.check(p[:i])
		if want := wrong < 0 || i <= wrong; ok != want {
			t.Fatalf("%q is right: %t, want %t", p[:i], ok, want)
		}
		if ok && s.complete() != utf8.Valid(p[:i]) {
			t.Fatalf("%q is complete: %t", p[:i], s.complete())
		}
		if scalar, _ := utf8Start.checkScalar(p[:i]); scalar != s {
			t.Fatalf("%q: check returns state %d, and checkScalar %d", p[:i], s, scalar)
		}
		s, ok = s.check(p[i:])
		if ok != (wrong < 0) || ok && s.complete() != utf8.Valid(p) {
			t.Fatalf("%q then %q is right: %t, complete: %t", p[:i], p[i:], ok, s.complete())
		}
	}
	var s utf8State
	for i := range p {
		var ok bool
		if s, ok = s.check(p[i : i+1]); ok != (wrong < 0 || i < wrong) {
			t.Fatalf("%q byte by byte: byte %d is right: %t", p, i, ok)
		}
	}
}

// wrongAt finds with unicode/utf8 the first byte of s after which no continuation makes a text, or -1.
func wrongAt(s string) int {
	for at := 0; at < len(s); {
		r, n := utf8.DecodeRuneInString(s[at:])
		if r != utf8.RuneError || n != 1 {
			at += n
			continue
		}
		for i := at + 1; i <= len(s); i++ {
			if !completable(s[at:i]) {
				return i - 1
			}
		}
		return -1
	}
	return -1
}

// completable reports whether s is the start of the encoding of one character. It tries the first and the last of the
// bytes that may follow.
func completable(s string) bool {
	for _, tail := range []string{"", "\x80", "\xBF"} {
		for _, more := range []string{"", "\x80", "\x80\x80"} {
			if r, n := utf8.DecodeRuneInString(s + tail + more); n >= len(s) && (r != utf8.RuneError || n == 3) {
				return true
			}
		}
	}
	return false
}

// Every code point passes, and no surrogate does.
func TestUTF8_EveryCodePoint(t *testing.T) {
	for r := rune(0); r <= utf8.MaxRune; r++ {
		p := utf8.AppendRune(nil, r) // U+FFFD in place of a surrogate
		if !validText(p) || !validText(bytes.Repeat(p, 40)) {
			t.Fatalf("%U, % x, is refused", r, p)
		}
	}
	for r := rune(0xD800); r <= 0xDFFF; r++ {
		p := []byte{0xE0 | byte(r>>12), 0x80 | byte(r>>6)&0x3F, 0x80 | byte(r)&0x3F}
		if _, ok := utf8Start.check(p[:2]); ok {
			t.Fatalf("surrogate %U, % x, passes with its second byte", r, p)
		}
	}
}

// The sequences of three bytes that pass are the sequences that unicode/utf8 accepts.
func TestUTF8_EveryThreeBytes(t *testing.T) {
	var p [3]byte
	for i := range 1 << 24 {
		p[0], p[1], p[2] = byte(i>>16), byte(i>>8), byte(i)
		if validText(p[:]) != utf8.Valid(p[:]) {
			t.Fatalf("validText(% x) is %t", p, validText(p[:]))
		}
	}
}

// In a long text, any two bytes pass where unicode/utf8 accepts them: at the start, in the middle and at the end of a
// character.
func TestUTF8_EveryTwoBytesInALongText(t *testing.T) {
	for _, before := range []string{"", "\xE1", "\xF1", "\xF1\x80"} {
		for _, after := range []string{"", "\x80", "\x80\x80"} {
			long := []byte(strings.Repeat("a", 45) + before + "??" + after + strings.Repeat("a", 31))
			p := long[45:][:len(before)+2+len(after)]
			for i := range 1 << 16 {
				p[len(before)], p[len(before)+1] = byte(i>>8), byte(i)
				want := utf8.Valid(p)
				if _, scalar := utf8Start.checkScalar(long); validText(long) != want || scalar != want {
					t.Fatalf("% x: %t, by checkScalar %t; want %t", p, validText(long), scalar, want)
				}
			}
		}
	}
}

// Once a text is wrong, nothing that follows makes it right.
func TestUTF8_WrongForGood(t *testing.T) {
	s, ok := utf8Start.check([]byte{0xFF})
	if ok || s.complete() {
		t.Fatal("FF passes")
	}
	for b := range 256 {
		if _, ok := s.check([]byte{byte(b)}); ok {
			t.Fatalf("%#x makes a wrong text right", b)
		}
	}
}

func TestUTF8_DoesNotAllocate(t *testing.T) {
	p := []byte(strings.Repeat("text of 文字 ", 50))
	wantEqual(t, "allocations", testing.AllocsPerRun(100, func() { validText(p) }), 0)
}

// FuzzUTF8 compares check and checkScalar with unicode/utf8, for each prefix of a text and from each of its bytes on,
// so that all lengths up to 300 and all alignments come up.
func FuzzUTF8(f *testing.F) {
	for _, c := range utf8Cases {
		f.Add([]byte(c.bytes))
		f.Add([]byte(strings.Repeat("a", 30) + c.bytes + strings.Repeat("文", 20)))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 300 {
			p = p[:300]
		}
		checkUTF8(t, string(p), wrongAt(string(p)))
	})
}

func BenchmarkUTF8(b *testing.B) {
	for _, c := range []struct{ name, sample string }{
		{"ASCII", "The quick brown fox jumps over the lazy dog. "},
		{"Chinese", "我能吞下玻璃而不伤身体。"},
		{"emoji", "🙂🚀🎉👍"},
		{"Korean", "동해물과 백두산이 마르고 닳도록 하느님이 보우하사, "},
		{"Japanese", "いろはにほへと ちりぬるを。ABC, 1-2-3! "},
		{"mixed", "Zażółć gęślą jaźń, and some words between. "},
	} {
		for _, size := range []int{20, 48, 16 << 10} {
			p := []byte(strings.Repeat(c.sample, size/len(c.sample)+1))[:size]
			for name, f := range map[string]func([]byte) bool{"check": checks, "utf8.Valid": utf8.Valid} {
				b.Run(fmt.Sprintf("%s/%s/%d", c.name, name, size), func(b *testing.B) {
					b.SetBytes(int64(size))
					for b.Loop() {
						f(p)
					}
				})
			}
		}
	}
}

func checks(p []byte) bool {
	_, ok := utf8Start.check(p)
	return ok
}
