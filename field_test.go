package websocket

import (
	"bufio"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestField_TokenChars(t *testing.T) {
	for b := range 256 {
		// RFC 9110, section 5.6.2: any VCHAR, except delimiters.
		want := b > ' ' && b < 0x7f && !strings.ContainsRune("\"(),/:;<=>?@[\\]{}", rune(b))
		if isTokenChar(byte(b)) != want {
			t.Errorf("byte %#x: %v, want %v", b, !want, want)
		}
	}
}

// Only ASCII letters have case. In Unicode, U+017F and U+212A fold to s and k.
func TestField_FoldsASCIIOnly(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			want := a == b || a < 0x80 && b < 0x80 && strings.EqualFold(string(rune(a)), string(rune(b)))
			if got := equalFold(string([]byte{byte(a)}), string([]byte{byte(b)})); got != want {
				t.Errorf("%#x and %#x: %v", a, b, got)
			}
		}
	}
	if equalFold("websocket", "web\u017focket") || equalFold("a", "aa") {
		t.Error("letters beyond ASCII, or lengths, are equal")
	}
}

// Empty elements of a list do not count (RFC 9110, section 5.6.1.2).
func TestField_Elements(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   []string
	}{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{","}, nil},
		{[]string{",,", " \t ", ", ,"}, nil},
		{[]string{"a"}, []string{"a"}},
		{[]string{" a ,\tb\t, ,c"}, []string{"a", "b", "c"}},
		{[]string{"a,", ",b"}, []string{"a", "b"}},
		{[]string{"a b"}, []string{"a b"}},
		{[]string{strings.Repeat("a", 64<<10)}, []string{strings.Repeat("a", 64<<10)}},
	} {
		if got := slices.Collect(elements(tt.values)); !slices.Equal(got, tt.want) {
			t.Errorf("%.40q: %.40q, want %.40q", tt.values, got, tt.want)
		}
	}
}

// The grammar of RFC 6455, section 9.1.
func TestField_Extensions(t *testing.T) {
	none := []extensionParam(nil)
	for _, tt := range []struct {
		name  string
		value []string
		want  []extension
		ok    bool
	}{
		{"absent", nil, nil, true},
		{"one", []string{"foo"}, []extension{{"foo", none}}, true},
		{"two", []string{"foo,bar"}, []extension{{"foo", none}, {"bar", none}}, true},
		{"two in two fields", []string{"foo", "bar"}, []extension{{"foo", none}, {"bar", none}}, true},
		{"empty elements", []string{", foo,,\tbar ,"}, []extension{{"foo", none}, {"bar", none}}, true},
		{"a field of empty elements beside another", []string{",", "foo"}, []extension{{"foo", none}}, true},
		{"parameter", []string{"foo;bar"}, []extension{{"foo", []extensionParam{{"bar", "", false}}}}, true},
		{"value", []string{"foo;bar=baz"}, []extension{{"foo", []extensionParam{{"bar", "baz", true}}}}, true},
		{"quoted value", []string{`foo;bar="baz"`}, []extension{{"foo", []extensionParam{{"bar", "baz", true}}}}, true},
		{"quoted value with an escape", []string{`foo;bar="b\az"`}, []extension{{"foo", []extensionParam{{"bar", "baz", true}}}}, true},
		{"spaces", []string{" foo ; bar = baz ; x , y "}, []extension{{"foo", []extensionParam{{"bar", "baz", true}, {"x", "", false}}}, {"y", none}}, true},
		{"the example of the RFC", []string{"mux; max-channels=4; flow-control, deflate-stream"}, []extension{
			{"mux", []extensionParam{{"max-channels", "4", true}, {"flow-control", "", false}}}, {"deflate-stream", none}}, true},

		{"empty", []string{""}, nil, false},
		{"spaces only", []string{" \t"}, nil, false},
		{"commas only", []string{",,"}, nil, false},
		{"semicolon", []string{";"}, nil, false},
		{"no parameter after a semicolon", []string{"foo;"}, nil, false},
		{"two semicolons", []string{"foo;;bar"}, nil, false},
		{"no comma", []string{"foo bar"}, nil, false},
		{"no comma after a quoted value", []string{`foo;a="b"c`}, nil, false},
		{"value without a name", []string{"foo;=x"}, nil, false},
		{"value of an extension", []string{"foo=x"}, nil, false},
		{"empty value", []string{"foo;bar="}, nil, false},
		{"empty quoted value", []string{`foo;bar=""`}, nil, false},
		{"quoted value that is not a token", []string{`foo;bar="a b"`}, nil, false},
		{"quoted value with an escaped quote", []string{`foo;bar="a\"b"`}, nil, false},
		{"quoted value without an end", []string{`foo;bar="baz`}, nil, false},
		{"quoted value with an escaped end", []string{`foo;bar="baz\`}, nil, false},
		{"quoted name", []string{`"foo"`}, nil, false},
		{"byte above ASCII", []string{"f\u00f6o"}, nil, false},
		{"malformed after a good one", []string{"foo", "bar;"}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseExtensions(tt.value, "")
			if ok != tt.ok || ok && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%q: %v, %v; want %v, %v", tt.value, got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestField_ExtensionsOfOneName(t *testing.T) {
	got, ok := parseExtensions([]string{"foo, Bar;x, baz, bar"}, "bar")
	want := []extension{{"Bar", []extensionParam{{"x", "", false}}}, {"bar", nil}}
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, ok, want)
	}
}

// longLists are 64 KiB each.
var longLists = func() []string {
	const size = 64 << 10
	repeat := func(s string) string { return strings.Repeat(s, size/len(s)) }
	return []string{
		repeat("a, "), repeat(","), repeat(" "), repeat("a"), repeat("\t,"), "a" + repeat(";a"), "a" + repeat(";a=b"), "a" + repeat(`;a="b"`),
		`a;b="` + repeat("a"), `a;b="` + repeat(`\a`) + `"`, repeat(`"`), repeat("="), repeat(";"), repeat(`\`), repeat("permessage-deflate,"),
	}
}()

// Long lists are parsed, and the memory that is kept for them is bounded by their length.
func TestField_LongLists(t *testing.T) {
	for _, s := range longLists {
		got, _ := parseExtensions([]string{s}, "permessage-deflate")
		for _, e := range got {
			if len(e.params) > maxParams {
				t.Errorf("%.20q: %d parameters were kept", s, len(e.params))
			}
		}
		if len(got) > len(s)/len("permessage-deflate") {
			t.Errorf("%.20q: %d elements were kept", s, len(got))
		}
		hasToken([]string{s}, "upgrade")
		isTokenList([]string{s})
	}
}

// FuzzFieldList checks that a list is the same after it is written and parsed again. A list without quotes has the
// elements that a plain split finds.
func FuzzFieldList(f *testing.F) {
	for _, s := range []string{"", ",", "foo", "foo;bar=baz", `foo;bar="baz", x`, "a , b;c ; d=\"e\\f\"", "foo;", `a;b="`, "a b", "permessage-deflate; client_max_window_bits"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, ok := parseExtensions([]string{s}, "")
		if !ok {
			return
		}
		again, ok := parseExtensions([]string{written(list)}, "")
		if !ok || !reflect.DeepEqual(list, again) {
			t.Errorf("%q: %v, and written again %v", s, list, again)
		}
		if !strings.ContainsAny(s, "\";") {
			if want := slices.Collect(elements([]string{s})); len(want) != len(list) || list[0].name != want[0] {
				t.Errorf("%q: %v, and split %q", s, list, want)
			}
		}
		checkByMIME(t, list)
	})
}

// written returns a list as its sender would write it.
func written(list []extension) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(e.name)
		for _, p := range e.params {
			b.WriteString("; " + p.name)
			if p.hasValue {
				b.WriteString(`="` + p.value + `"`)
			}
		}
		b.WriteString(", ")
	}
	return b.String()
}

// checkByMIME compares the parameters with those of package mime, which refuses repeated parameters.
func checkByMIME(t *testing.T, list []extension) {
	for _, e := range list {
		s := "a/b"
		for _, p := range e.params {
			if !p.hasValue || strings.Contains(p.name, "*") {
				return
			}
			s += "; " + p.name + "=" + p.value
		}
		_, params, err := mime.ParseMediaType(s)
		if err != nil {
			return
		}
		for _, p := range e.params {
			if params[strings.ToLower(p.name)] != p.value {
				t.Errorf("%q: %v, and in package mime %v", s, e.params, params)
			}
		}
	}
}

// readOneRequest reads the head of raw and parses it.
func readOneRequest(src io.Reader) (*http.Request, *refusal, error) {
	b, n, f, err := readHead(src)
	defer b.free()
	if f != nil || err != nil {
		return nil, f, err
	}
	r, f := parseRequest(string(b.b[:n]))
	return r, f, nil
}

// checkAgainstNetHTTP checks that net/http reads the same request.
func checkAgainstNetHTTP(t *testing.T, raw string, r *http.Request) {
	t.Helper()
	want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatalf("%q: accepted, and net/http: %v", raw, err)
	}
	if r.Method != want.Method || r.RequestURI != want.RequestURI || r.Proto != want.Proto || r.ProtoMajor != want.ProtoMajor ||
		r.ProtoMinor != want.ProtoMinor || r.Host != want.Host || r.ContentLength != want.ContentLength ||
		!reflect.DeepEqual(r.URL, want.URL) || !reflect.DeepEqual(r.Header, want.Header) || want.TransferEncoding != nil {
		t.Errorf("%q:\nread     %+v\nnet/http %+v", raw, r, want)
	}
}

// The grammar of RFC 9112, sections 2 to 5. Each bad request differs from a good one in one detail.
func TestServer_Reads_RequestByTheGrammar(t *testing.T) {
	const host = "Host: a\r\n"
	for _, tt := range []struct {
		name, head string
		status     int // 0: it is read
	}{
		{"shortest", "GET / HTTP/1.1\r\n" + host + "\r\n", 0},
		{"example of RFC 6455", goodRequest, 0},
		{"query", "GET /a%20b?c=d?e&f=/ HTTP/1.1\r\n" + host + "\r\n", 0},
		{"bytes that browsers leave as they are", "GET /a|b?c={d}^`\"<>\\ HTTP/1.1\r\n" + host + "\r\n", 0},
		{"two slashes", "GET //b/c HTTP/1.1\r\n" + host + "\r\n", 0},
		{"absolute target", "GET http://b:80/c?d HTTP/1.1\r\n" + host + "\r\n", 0},
		{"absolute target of IPv6", "GET https://[::1]:80/c HTTP/1.1\r\n" + host + "\r\n", 0},
		{"method in lower case", "get / HTTP/1.1\r\n" + host + "\r\n", 0},
		{"HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", 0},
		{"HTTP/2.0", "GET / HTTP/2.0\r\n" + host + "\r\n", 0},
		{"host with a port", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 0},
		{"field that comes twice", "GET / HTTP/1.1\r\n" + host + "A: 1\r\nB: 2\r\na: 3\r\n\r\n", 0},
		{"spaces around a value", "GET / HTTP/1.1\r\n" + host + "A:\t 1 \t2 \t\r\n\r\n", 0},
		{"empty value", "GET / HTTP/1.1\r\n" + host + "A:\r\n\r\n", 0},
		{"value above ASCII", "GET / HTTP/1.1\r\n" + host + "A: \u00e4\xff\r\n\r\n", 0},
		{"colons in a value", "GET / HTTP/1.1\r\n" + host + "A: b: c\r\n\r\n", 0},
		{"names in any case", "GET / HTTP/1.1\r\nhOST: a\r\nsec-websocket-KEY: b\r\n\r\n", 0},
		{"Pragma", "GET / HTTP/1.1\r\n" + host + "Pragma: no-cache\r\n\r\n", 0},
		{"Pragma and Cache-Control", "GET / HTTP/1.1\r\n" + host + "Pragma: no-cache\r\nCache-Control: max-age=0\r\n\r\n", 0},
		{"Content-Length", "GET / HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\n", 0},

		{"line before it", "\r\nGET / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"bare LF", "GET / HTTP/1.1\n" + host + "\r\n", 400},
		{"bare LF after a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
		{"bare LF at the end", "GET / HTTP/1.1\r\n" + host + "\n", 400},
		{"bare CR in the request line", "GET /\r HTTP/1.1\r\n" + host + "\r\n", 400},
		{"bare CR in a value", "GET / HTTP/1.1\r\n" + host + "A: b\rC: d\r\n\r\n", 400},
		{"two CRs", "GET / HTTP/1.1\r\r\n" + host + "\r\n", 400},
		{"no version", "GET /\r\n" + host + "\r\n", 400},
		{"no target", "GET HTTP/1.1\r\n" + host + "\r\n", 400},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"space after it", "GET / HTTP/1.1 \r\n" + host + "\r\n", 400},
		{"space in the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", 400},
		{"tab in the target", "GET /a\tb HTTP/1.1\r\n" + host + "\r\n", 400},
		{"NUL in the target", "GET /a\x00b HTTP/1.1\r\n" + host + "\r\n", 400},
		{"target above ASCII", "GET /\u00e4 HTTP/1.1\r\n" + host + "\r\n", 400},
		{"fragment", "GET /#a HTTP/1.1\r\n" + host + "\r\n", 400},
		{"escape that is none", "GET /%zz HTTP/1.1\r\n" + host + "\r\n", 400},
		{"relative target", "GET a HTTP/1.1\r\n" + host + "\r\n", 400},
		{"asterisk", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", 400},
		{"authority", "CONNECT b:80 HTTP/1.1\r\n" + host + "\r\n", 400},
		{"absolute target with a user", "GET http://u@b/ HTTP/1.1\r\n" + host + "\r\n", 400},
		{"absolute target without a host", "GET http:///c HTTP/1.1\r\n" + host + "\r\n", 400},
		{"absolute target of another scheme", "GET ftp://b/c HTTP/1.1\r\n" + host + "\r\n", 400},
		{"method that is no token", "G(T / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"another protocol", "GET / HTTPS/1.1\r\n" + host + "\r\n", 400},
		{"long version", "GET / HTTP/1.10\r\n" + host + "\r\n", 400},
		{"TLS", "\x16\x03\x01\x00\n\x01\x00", 400},
		{"folded field", "GET / HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n", 400},
		{"folded first field", "GET / HTTP/1.1\r\n " + host + "\r\n", 400},
		{"space before the colon", "GET / HTTP/1.1\r\n" + host + "A : b\r\n\r\n", 400},
		{"no colon", "GET / HTTP/1.1\r\n" + host + "A\r\n\r\n", 400},
		{"no name", "GET / HTTP/1.1\r\n" + host + ": b\r\n\r\n", 400},
		{"name with a separator", "GET / HTTP/1.1\r\n" + host + "A/B: c\r\n\r\n", 400},
		{"name above ASCII", "GET / HTTP/1.1\r\n" + host + "\u00c4: c\r\n\r\n", 400},
		{"NUL in a value", "GET / HTTP/1.1\r\n" + host + "A: b\x00c\r\n\r\n", 400},
		{"DEL in a value", "GET / HTTP/1.1\r\n" + host + "A: b\x7fc\r\n\r\n", 400},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"no host beside an absolute target", "GET http://b/ HTTP/1.1\r\n\r\n", 400},
		{"two hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", 400},
		{"host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		{"host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
		{"host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
		{"Transfer-Encoding", "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", 400},
		{"Content-Length with a sign", "GET / HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\n", 400},
		{"Content-Length twice", "GET / HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400},
		{"empty Content-Length", "GET / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", 400},

		{"100 fields", "GET / HTTP/1.1\r\n" + host + strings.Repeat("A: b\r\n", 99) + "\r\n", 0},
		{"101 fields", "GET / HTTP/1.1\r\n" + host + strings.Repeat("A: b\r\n", 100) + "\r\n", 431},
		{"16 KiB", headOf(16 << 10), 0},
		{"a byte more", headOf(16<<10 + 1), 431},
		{"one line without an end", strings.Repeat("A", 20<<10), 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, src := range []io.Reader{strings.NewReader(tt.head), iotest.OneByteReader(strings.NewReader(tt.head)), iotest.HalfReader(strings.NewReader(tt.head + "more"))} {
				r, f, err := readOneRequest(src)
				switch {
				case err != nil:
					t.Fatal(err)
				case tt.status == 0 && f != nil:
					t.Fatalf("refused with %d: %s", f.status, f.reason)
				case tt.status == 0:
					checkAgainstNetHTTP(t, tt.head, r)
				case f == nil || f.status != tt.status:
					t.Fatalf("%v, %v, want status %d", r, f, tt.status)
				}
			}
		})
	}
}

// headOf returns a request whose head has n bytes.
func headOf(n int) string {
	head := "GET / HTTP/1.1\r\nHost: a\r\nA: %s\r\n\r\n"
	return fmt.Sprintf(head, strings.Repeat("b", n-len(head)+len("%s")))
}

func TestServer_Reads_RequestThatIsCut(t *testing.T) {
	for n := range len(goodRequest) - 1 {
		r, f, err := readOneRequest(strings.NewReader(goodRequest[:n]))
		if err != io.EOF {
			t.Errorf("%d bytes: %v, %v, %v", n, r, f, err)
		}
	}
}

// FuzzRequest checks that net/http reads every accepted request likewise, and that the result does not depend on how
// the bytes arrive.
func FuzzRequest(f *testing.F) {
	f.Add(goodRequest)
	for _, s := range []string{"GET http://b:80/c?d HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\nContent-Length: 5\r\nTrailer: x\r\n\r\nhello", "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\na: b\r\nA: c\r\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r, refused, err := readOneRequest(strings.NewReader(raw))
		r2, refused2, err2 := readOneRequest(iotest.OneByteReader(strings.NewReader(raw)))
		if (refused == nil) != (refused2 == nil) || err != err2 || !reflect.DeepEqual(r, r2) {
			t.Fatalf("%q: %v, %v, %v, and byte by byte %v, %v, %v", raw, r, refused, err, r2, refused2, err2)
		}
		if refused == nil && err == nil {
			checkAgainstNetHTTP(t, raw, r)
		}
	})
}
