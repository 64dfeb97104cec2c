package websocket

import (
	"net/http"
	"strings"
	"testing"
)

// By default an origin must have the host of the request, with either scheme. Malformed hosts must not panic.
func TestOrigin_SameHost(t *testing.T) {
	for _, tt := range []struct {
		origin, host string
		ok           bool
	}{
		{"http://example.com", "example.com", true},
		{"https://example.com", "example.com", true}, // a front ended TLS
		{"HTTPS://EXAMPLE.COM", "example.com", true},
		{"http://example.com:8080", "example.com:8080", true},
		{"http://example.com:80", "example.com", true},
		{"https://example.com", "example.com:443", true},
		{"http://example.com", "example.com:80", true},
		{"http://[::1]:8080", "[::1]:8080", true},
		{"http://[::1]", "[::1]", true},
		{"http://127.0.0.1", "127.0.0.1", true},
		{"http://xn--bcher-kva.example", "xn--bcher-kva.example", true},

		{"http://example.com", "example.com:8080", false},
		{"http://example.com:8080", "example.com", false},
		{"http://example.com", "example.com:443", false},
		{"http://sub.example.com", "example.com", false},
		{"http://example.com", "sub.example.com", false},
		{"http://example.com.evil.org", "example.com", false},
		{"http://evilexample.com", "example.com", false},
		{"http://example.com@evil.org", "example.com", false},
		{"http://evil.org/example.com", "example.com", false},
		{"http://evil.org#example.com", "example.com", false},
		{"http://example.com/", "example.com", false},
		{"http://example.com:", "example.com", false},
		{"http://example.com:080", "example.com", false},
		{"http://example.com:99999", "example.com", false},
		{"http://example.com:*", "example.com", false},
		{"http://*.example.com", "example.com", false},
		{"http://\u017fexample.com", "sexample.com", false},
		{"file://example.com", "example.com", false},
		{"chrome-extension://example.com", "example.com", false},
		{"example.com", "example.com", false},
		{"//example.com", "example.com", false},
		{"://example.com", "example.com", false},
		{"http:example.com", "example.com", false},
		{"null", "example.com", false},
		{"null", "null", false},
		{"", "", false},
		{"http://", "", false},
		{"http://[::1", "[::1", false},
		{"http://[::1", "example.com", false},
		{"http://::1", "::1", false},
		{"http://[]", "[]", false},
		{"http://[evil]", "[evil]", false},
		{"http://]", "]", false},
		{"http://:80", ":80", false},
		{"http://example.com", "[::1", false},
	} {
		r := &http.Request{Host: tt.host, Header: http.Header{"Origin": {tt.origin}}}
		if f := checkOrigin(r, nil); (f == nil) != tt.ok {
			t.Errorf("the origin %q at the host %q: %v", tt.origin, tt.host, f)
		}
	}
}

func TestOrigin_Patterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, origin string
		ok              bool
	}{
		{"app.example.com", "https://app.example.com", true},
		{"app.example.com", "http://app.example.com", true},
		{"APP.example.com", "http://app.EXAMPLE.com", true},
		{"app.example.com", "https://app.example.com:443", true},
		{"https://app.example.com", "https://app.example.com", true},
		{"HTTPS://app.example.com:443", "https://app.example.com", true},
		{"app.example.com:8080", "http://app.example.com:8080", true},
		{"app.example.com:*", "http://app.example.com:8080", true},
		{"app.example.com:*", "http://app.example.com", true},
		{"*.example.com", "https://app.example.com", true},
		{"*.example.com", "https://a.b.c.example.com", true},
		{"http://*.example.com:8080", "http://app.example.com:8080", true},
		{"[::1]:*", "http://[::1]:3000", true},
		{"chrome-extension://abcdef", "chrome-extension://abcdef", true},

		{"app.example.com", "ftp://app.example.com", false},
		{"app.example.com", "https://example.com", false},
		{"app.example.com", "https://app.example.com:8443", false},
		{"app.example.com", "https://app.example.com.evil.org", false},
		{"https://app.example.com", "http://app.example.com", false},
		{"https://app.example.com:443", "https://app.example.com:8443", false},
		{"app.example.com:8080", "http://app.example.com", false},
		{"*.example.com", "https://example.com", false},
		{"*.example.com", "https://.example.com", false},
		{"*.example.com", "https://evilexample.com", false},
		{"*.example.com", "https://a.example.com:8443", false},
		{"*.example.com", "null", false},
		{"chrome-extension://abcdef", "chrome-extension://abcdeg", false},
		{"chrome-extension://abcdef", "https://abcdef", false},
	} {
		r := &http.Request{Host: "api.example.org", Header: http.Header{"Origin": {tt.origin}}}
		if f := checkOrigin(r, []string{"other.example.net", tt.pattern}); (f == nil) != tt.ok {
			t.Errorf("the origin %q with the pattern %q: %v", tt.origin, tt.pattern, f)
		}
	}
}

// A pattern that does not parse is an error of the options, and so is one that no browser's Origin can match.
func TestOrigin_PatternsThatAreAnError(t *testing.T) {
	for _, tt := range []struct{ pattern, says string }{
		{"", ""}, {"*.", ""}, {"**.example.com", ""}, {"a.*.example.com", ""}, {"*example.com", ""}, {"http://", ""}, {"://a", ""},
		{"a b", ""}, {"a/", ""}, {"http://a/b", ""}, {"a:b", ""}, {"a:", ""}, {"a:*:*", ""}, {"a:65536", ""}, {"a:080", ""},
		{"[::1", ""}, {"::1", ""}, {"http://user@a", ""}, {"a,b", ""}, {"a\x00", ""}, {"a\x7f", ""}, {"a%20b", ""},

		{"*", "CheckOrigin"}, {"*:*", "CheckOrigin"}, {"https://*", "CheckOrigin"}, {"null", "CheckOrigin"},
		{"https://b\u00fccher.example", "xn--"}, {"*.b\u00fccher.example", "xn--"},
		{"*://example.com", "scheme"}, {"1http://example.com", "scheme"}, {"http_://example.com", "scheme"},
		{"ws://example.com", "http"}, {"WSS://example.com", "http"},
		{"[0:0:0:0:0:0:0:1]", "[::1]"}, {"[::01]", "[::1]"}, {"[fe80::1%25eth0]", ""}, {"[1.2.3.4]", "address"}, {"[::g]", ""},
		{"127.1", "address"}, {"1.2.3.04", "address"}, {"1.2.3.4.5", "address"}, {"0x7f000001", "address"}, {"2130706433:80", "address"},
	} {
		err := (&Options{Origins: []string{"app.example.com", tt.pattern}}).check()
		if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "Options.Origins") {
			t.Errorf("%q: %v", tt.pattern, err)
		}
	}
}

func TestOrigin_PatternsBesideThoseInError(t *testing.T) {
	for _, s := range []string{"a", "*.a", "a:*", "a:0", "a:65535", "[::1]", "[2001:DB8::1]:80", "[::ffff:102:304]", "1.2.3.4", "*.xn--bcher-kva.example",
		"x--a_b.example.", "null.example", "web+app-1.0://example.com", "1.2.3.4a", "4chan.example"} {
		if err := (&Options{Origins: []string{s}}).check(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// The refusal quotes both values that were compared, in one line of bounded length.
func TestOrigin_RefusalNamesBothHosts(t *testing.T) {
	r := &http.Request{Host: "api.example.com", Header: http.Header{"Origin": {"https://evil.example/\r\n"}}}
	f := checkOrigin(r, nil)
	if f == nil || f.status != 403 || !strings.Contains(f.reason, `"api.example.com"`) || !strings.Contains(f.reason, `"https://evil.example/\r\n"`) {
		t.Errorf("refused with %v", f)
	}
	r.Header["Origin"] = []string{strings.Repeat("x", 1<<16)}
	if f := checkOrigin(r, nil); f == nil || len(f.reason) > 1000 {
		t.Errorf("refused with %d bytes", len(f.reason))
	}
}

// CheckOrigin alone decides.
func TestOrigin_CheckOriginReplacesTheCheck(t *testing.T) {
	for _, tt := range []struct {
		origin string
		accept bool
	}{{"http://evil.example", true}, {"http://server.example.com", false}} {
		r := goodHTTPRequest()
		r.Header.Set("Origin", tt.origin)
		f := checkPolicy(r, &Options{CheckOrigin: func(q *http.Request) bool { return q == r && tt.accept }})
		if (f == nil) != tt.accept || f != nil && f.status != 403 {
			t.Errorf("%q, %v: %v", tt.origin, tt.accept, f)
		}
	}
}
