package websocket

// The grammar of HTTP fields, as far as the handshake needs it. The functions take linear time and only parse: they do
// not know which fields exist. An attacker chooses their input.

import (
	"iter"
	"strconv"
	"strings"
)

// tokenChars is the bit set of the bytes that a token may contain (RFC 9110, section 5.6.2).
var tokenChars = func() (set [4]uint64) {
	const chars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for i := range len(chars) {
		set[chars[i]>>6] |= 1 << (chars[i] & 63)
	}
	return set
}()

// isTokenChar reports whether a token may contain b.
func isTokenChar(b byte) bool { return tokenChars[b>>6]>>(b&63)&1 != 0 }

// isToken reports whether s is a token. An empty string is not.
func isToken(s string) bool { return s != "" && tokenLen(s) == len(s) }

// tokenLen returns the length of the token at the beginning of s.
func tokenLen(s string) int {
	for i := range len(s) {
		if !isTokenChar(s[i]) {
			return i
		}
	}
	return len(s)
}

// isFieldValue reports whether s is valid as a field's value: it has no control characters except tabs (RFC 9110,
// section 5.5).
func isFieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// isDecimal reports whether s is an unsigned decimal number that fits into the given number of bits and has no leading
// zeros.
func isDecimal(s string, bits int) bool {
	n, err := strconv.ParseUint(s, 10, bits)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// equalFold compares strings without regard to the case of ASCII letters. RFC 6455 has names "treated as an ASCII
// case-insensitive value", whereas strings.EqualFold folds other letters too.
func equalFold(s, t string) bool {
	if len(s) != len(t) {
		return false
	}
	for i := range len(s) {
		if lower(s[i]) != lower(t[i]) {
			return false
		}
	}
	return true
}

// lower returns b in lower case if it is an ASCII letter.
func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

// whitespace has the characters of optional whitespace (RFC 9110, section 5.6.3).
const whitespace = " \t"

// elements returns the elements of a list that is spread over any number of fields, without the empty ones: "A
// recipient MUST parse and ignore a reasonable number of empty list elements" (RFC 9110, section 5.6.1.2). The list
// must not have quoted strings.
func elements(values []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, v := range values {
			for s := range strings.SplitSeq(v, ",") {
				if s = strings.Trim(s, whitespace); s != "" && !yield(s) {
					return
				}
			}
		}
	}
}

// hasToken reports whether a list has an element, in upper or lower case.
func hasToken(values []string, token string) bool {
	for s := range elements(values) {
		if equalFold(s, token) {
			return true
		}
	}
	return false
}

// isTokenList reports whether a field is absent or is a list of at least one token and nothing else.
func isTokenList(values []string) bool {
	n := 0
	for s := range elements(values) {
		if !isToken(s) {
			return false
		}
		n++
	}
	return n > 0 || len(values) == 0
}

// maxParams is how many parameters of an extension are kept. permessage-deflate defines four, so one of five must be
// unknown or repeated, and the extension is declined anyway.
const maxParams = 5

// parseExtensions parses Sec-WebSocket-Extensions (RFC 6455, section 9.1):
//
//	extension-list  = 1#extension
//	extension       = token *( ";" extension-param )
//	extension-param = token [ "=" (token | quoted-string) ]
//
// It returns the extensions whose name is only, or all extensions if only is "".
func parseExtensions(values []string, only string) (kept []extension, ok bool) {
	n := 0
	for _, v := range values {
		p := listParser{rest: v}
		for p.nextElement() {
			e, ok := p.extension()
			if !ok {
				return nil, false
			}
			if n++; only == "" || equalFold(e.name, only) {
				kept = append(kept, e)
			}
		}
		if p.rest != "" {
			return nil, false
		}
	}
	return kept, n > 0 || len(values) == 0
}

// A listParser parses the value of one field, from left to right. Its methods report false if the value does not follow
// the grammar, or if it does not continue with the element that they parse.
type listParser struct {
	rest  string // not parsed yet
	begun bool   // whether an element was parsed, so that the next one needs a comma
}

// skipSpace skips optional whitespace.
func (p *listParser) skipSpace() { p.rest = strings.TrimLeft(p.rest, whitespace) }

// consume skips b and the whitespace around it, and reports whether b came next.
func (p *listParser) consume(b byte) bool {
	p.skipSpace()
	if p.rest == "" || p.rest[0] != b {
		return false
	}
	p.rest = p.rest[1:]
	p.skipSpace()
	return true
}

// nextElement advances to the next element that is not empty. It returns false at the end of the list, or if something
// other than a comma follows an element; rest is then not empty.
func (p *listParser) nextElement() bool {
	comma := !p.begun
	p.begun = true
	for p.consume(',') {
		comma = true
	}
	return comma && p.rest != ""
}

// token consumes a token and returns it.
func (p *listParser) token() (string, bool) {
	n := tokenLen(p.rest)
	s := p.rest[:n]
	p.rest = p.rest[n:]
	return s, n > 0
}

// extension consumes an extension with its parameters. It keeps the first maxParams parameters.
func (p *listParser) extension() (e extension, ok bool) {
	if e.name, ok = p.token(); !ok {
		return e, false
	}
	for p.consume(';') {
		param, ok := p.param()
		if !ok {
			return e, false
		}
		if len(e.params) < maxParams {
			e.params = append(e.params, param)
		}
	}
	return e, true
}

// param consumes a parameter: a name, or a name and a value.
func (p *listParser) param() (param extensionParam, ok bool) {
	if param.name, ok = p.token(); !ok || !p.consume('=') {
		return param, ok
	}
	param.hasValue = true
	if strings.HasPrefix(p.rest, `"`) {
		param.value, ok = p.quoted()
	} else {
		param.value, ok = p.token()
	}
	return param, ok
}

// quoted consumes a quoted-string. "When using the quoted-string syntax variant, the value after quoted-string
// unescaping MUST conform to the 'token' ABNF" (RFC 6455, section 9.1).
func (p *listParser) quoted() (string, bool) {
	var b []byte
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return string(b), isToken(string(b))
		case c == '\\' && i+1 < len(p.rest):
			i++
		}
		b = append(b, p.rest[i])
	}
	return "", false
}
