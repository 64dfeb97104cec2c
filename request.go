//go:build !(js && websocket_nohttp)

package websocket

// The requests that Serve reads. The grammar is RFC 9112 without the leniency that it allows a recipient: a line ends
// with CRLF and nothing else, and a field is not folded. net/http accepts every request that this parser accepts, with
// the same result.

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The limits on a request bound the bytes that the server holds and parses before it accepts a client.
const (
	maxRequestHead   = 16 << 10 // bytes
	maxRequestFields = 100
)

// readHead reads the head of a request: the request line, the fields and the empty line. It returns the length of the
// head and a buffer that begins with it, which the caller frees in any case. The refusal is set if the bytes cannot be
// a head, and err is an error of src.
//
// A request usually arrives in one piece. A longer one moves to a larger buffer once, and the search for its end
// continues where the last piece ended: a client that sends single bytes costs no more than one that sends all at once.
func readHead(src io.Reader) (b *buffer, n int, f *refusal, err error) {
	b = getBuffer(4 << 10)
	for line := 0; ; {
		from := len(b.b)
		m, err := src.Read(b.b[from:min(cap(b.b), maxRequestHead)])
		b.b = b.b[:from+m]
		line, n, f = headEnd(b.b, line, from)
		switch {
		case n > 0 || f != nil:
			return b, n, f, nil
		case err != nil:
			return b, 0, nil, err
		case len(b.b) == maxRequestHead:
			return b, 0, refuse(http.StatusRequestHeaderFieldsTooLarge, "the header of the request is too large"), nil
		case len(b.b) == cap(b.b):
			larger := getBuffer(maxRequestHead)
			larger.b = append(larger.b, b.b...)
			b.free()
			b = larger
		}
	}
}

// headEnd searches p for the empty line that ends a head, beginning at from. line is the start of the line that
// contains from. It returns the start of the last incomplete line and, if the head is complete, its length.
func headEnd(p []byte, line, from int) (newLine, n int, f *refusal) {
	for {
		i := bytes.IndexByte(p[from:], '\n')
		if i < 0 {
			return line, 0, nil
		}
		end := from + i
		// RFC 9112, section 2.2, lets a recipient accept a bare LF as the end of a line. A proxy that does not would
		// see another request.
		if end == line || p[end-1] != '\r' {
			return line, 0, malformed("a line does not end with CRLF")
		}
		if end == line+1 {
			return line, end + 1, nil
		}
		line, from = end+1, end+1
	}
}

// malformed refuses a request with status 400.
func malformed(reason string) *refusal {
	return refuse(http.StatusBadRequest, "malformed HTTP request: "+reason)
}

// parseRequest parses a head. The caller sets RemoteAddr and TLS.
func parseRequest(head string) (*http.Request, *refusal) {
	line, rest, _ := strings.Cut(head, "\r\n")
	r, f := parseRequestLine(line)
	if f != nil {
		return nil, f
	}
	if r.Header, f = parseFields(rest); f != nil {
		return nil, f
	}
	if f = cmp.Or(settleHost(r), settleBody(r)); f != nil {
		return nil, f
	}
	// net/http turns Pragma: no-cache into Cache-Control: no-cache, as HTTP/1.1 once required (RFC 7234, section 5.4).
	if p := r.Header["Pragma"]; len(p) > 0 && p[0] == "no-cache" && r.Header["Cache-Control"] == nil {
		r.Header["Cache-Control"] = []string{"no-cache"}
	}
	return r, nil
}

// parseRequestLine parses "method SP request-target SP HTTP-version" (RFC 9112, section 3).
func parseRequestLine(line string) (*http.Request, *refusal) {
	method, rest, _ := strings.Cut(line, " ")
	target, proto, _ := strings.Cut(rest, " ")
	major, minor, ok := http.ParseHTTPVersion(proto)
	if !ok || !isToken(method) {
		return nil, malformed("invalid request line")
	}
	u, ok := parseTarget(target)
	if !ok {
		return nil, malformed("the target is neither a path nor an http URL")
	}
	return &http.Request{
		Method: method, URL: u, RequestURI: target,
		Proto: proto, ProtoMajor: major, ProtoMinor: minor, Body: http.NoBody,
	}, nil
}

// parseTarget parses the origin-form and the absolute-form (RFC 9112, section 3.2), the two forms that a GET request
// can have.
func parseTarget(s string) (*url.URL, bool) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }) {
		return nil, false
	}
	u, err := url.ParseRequestURI(s) // which takes s for a path if it begins with a slash
	ok := err == nil && (s[0] == '/' || (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil)
	return u, ok
}

// parseFields parses lines of the form field-name ":" OWS field-value OWS, up to the empty line (RFC 9112, section 5).
func parseFields(lines string) (http.Header, *refusal) {
	n := strings.Count(lines, "\n") - 1
	if n > maxRequestFields {
		return nil, refuse(http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the request has more than %d header fields", maxRequestFields))
	}
	h := make(http.Header, max(n, 0))
	values := make([]string, max(n, 0)) // one allocation for all fields that occur once
	for i := range values {
		line, rest, _ := strings.Cut(lines, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		// Section 5.1: "A server MUST reject, with a response status code of 400 (Bad Request), any received request
		// message that contains whitespace between a header field name and colon." A folded line begins with
		// whitespace, so its name is not a token either.
		if !ok || !isToken(name) || !isFieldValue(value) {
			return nil, malformed("invalid header field")
		}
		value, lines = strings.Trim(value, whitespace), rest
		name = canonicalName(name)
		if h[name] == nil {
			values[i] = value
			h[name] = values[i : i+1 : i+1]
		} else {
			h[name] = append(h[name], value)
		}
	}
	if lines != "\r\n" {
		return nil, malformed("the header does not end with an empty line")
	}
	return h, nil
}

// canonicalName is http.CanonicalHeaderKey, but does not allocate for the names that every handshake has.
func canonicalName(name string) string {
	switch name {
	case "Sec-WebSocket-Key":
		return "Sec-Websocket-Key"
	case "Sec-WebSocket-Version":
		return "Sec-Websocket-Version"
	case "Sec-WebSocket-Extensions":
		return "Sec-Websocket-Extensions"
	case "Sec-WebSocket-Protocol":
		return "Sec-Websocket-Protocol"
	}
	return http.CanonicalHeaderKey(name)
}

// settleHost sets r.Host and deletes the field. RFC 9112, section 3.2: "A server MUST respond with a 400 (Bad Request)
// status code to any HTTP/1.1 request message that lacks a Host header field and to any request message that contains
// more than one Host header field line or a Host header field with an invalid field value." The host of an absolute
// target takes precedence (section 3.2.2).
func settleHost(r *http.Request) *refusal {
	hosts := r.Header["Host"]
	delete(r.Header, "Host")
	if len(hosts) > 1 || len(hosts) == 0 && r.ProtoAtLeast(1, 1) {
		return malformed("Host is missing or repeated")
	}
	r.Host = r.URL.Host
	if r.Host == "" && len(hosts) == 1 {
		r.Host = hosts[0]
	}
	if len(hosts) == 1 && !isHostField(hosts[0]) || !isHostField(r.Host) {
		return malformed("invalid Host")
	}
	return nil
}

// isHostField reports whether all bytes of s may occur in a host and a port (RFC 3986, section 3.2.2).
func isHostField(s string) bool {
	for i := range len(s) {
		if !isTokenChar(s[i]) && strings.IndexByte("[]:%(),;=", s[i]) < 0 || strings.IndexByte("#^`|", s[i]) >= 0 {
			return false
		}
	}
	return true
}

// settleBody sets r.ContentLength. It refuses every Transfer-Encoding, and a Content-Length whose meaning recipients
// may dispute (RFC 9112, section 6.3), so that no recipient takes for a body the bytes that another takes for frames.
func settleBody(r *http.Request) *refusal {
	if r.Header["Transfer-Encoding"] != nil {
		return refuse(http.StatusBadRequest, hasBody)
	}
	lengths := r.Header["Content-Length"]
	if len(lengths) == 0 {
		return nil
	}
	n, err := strconv.ParseUint(lengths[0], 10, 63)
	if err != nil || len(lengths) > 1 {
		return malformed("invalid Content-Length")
	}
	r.ContentLength = int64(n)
	return nil
}
