package websocket

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

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

// agree checks that net/http reads the same request.
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

// The grammar of RFC 9112, sections 2 to 5: each hostile request is a good one but for one detail.
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
		{"bare LF behind a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
		{"bare LF at the end", "GET / HTTP/1.1\r\n" + host + "\n", 400},
		{"bare CR in the request line", "GET /\r HTTP/1.1\r\n" + host + "\r\n", 400},
		{"bare CR in a value", "GET / HTTP/1.1\r\n" + host + "A: b\rC: d\r\n\r\n", 400},
		{"two CRs", "GET / HTTP/1.1\r\r\n" + host + "\r\n", 400},
		{"no version", "GET /\r\n" + host + "\r\n", 400},
		{"no target", "GET HTTP/1.1\r\n" + host + "\r\n", 400},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"space behind it", "GET / HTTP/1.1 \r\n" + host + "\r\n", 400},
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
			for _, src := range []io.Reader{strings.NewReader(tt.head), iotest.OneByteReader(strings.NewReader(tt.head)), iotest.HalfReader(strings.NewReader(tt.head + "behind"))} {
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

// headOf is a request whose head has n bytes.
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

// What is accepted, net/http accepts and reads likewise, however the bytes arrive.
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
