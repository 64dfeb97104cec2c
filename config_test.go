package websocket

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// badOptions are an error of Upgrade, Serve and Dial, and Pipe panics.
var badOptions = []struct {
	name string
	opts Options
}{
	{"Level", Options{Compression: &Compression{Level: 10}}},
	{"WindowBits", Options{Compression: &Compression{WindowBits: 7}}},
	{"origin pattern", Options{Origins: []string{"http://a b"}}},
	{"subprotocol with a space", Options{Subprotocols: []string{"a b"}}},
	{"empty subprotocol", Options{Subprotocols: []string{""}}},
	{"subprotocol twice", Options{Subprotocols: []string{"a", "b", "a"}}},
	{"field of the handshake", Options{Header: http.Header{"Sec-WebSocket-Key": {"x"}}}},
	{"field of the handshake in other case", Options{Header: http.Header{"connection": {"close"}}}},
	{"Upgrade", Options{Header: http.Header{"Upgrade": {"h2c"}}}},
	{"Content-Length", Options{Header: http.Header{"Content-Length": {"3"}}}},
	{"invalid Host", Options{Header: http.Header{"Host": {"a/b"}}}},
	{"two Hosts", Options{Header: http.Header{"Host": {"a", "b"}}}},
	{"CloseTimeout", Options{CloseTimeout: -1}},
	{"MaxPending", Options{MaxPending: -1}},
}

func TestServer_Refuses_OptionsOutOfRange(t *testing.T) {
	for _, tt := range badOptions {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(upgrading(t, &tt.opts))
			defer s.Close()
			if resp, _, _ := ask(t, s, goodRequest); resp.StatusCode != 500 {
				t.Errorf("answered %s, want 500", resp.Status)
			}
			if err := Serve(newPipeListener(), &tt.opts, echoMessages); err == nil {
				t.Error("Serve returned nil")
			}
		})
	}
}

func TestPipe_Panics_OnOptionsOutOfRange(t *testing.T) {
	for _, tt := range badOptions {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("Pipe returned")
				}
			}()
			Pipe(nil, &tt.opts)
		})
	}
}

func TestOptions_Check_Header(t *testing.T) {
	for _, tt := range []struct {
		h  http.Header
		ok bool
	}{
		{nil, true},
		{http.Header{"X-Any": {"", "a\tb", "\u00e4"}}, true},
		{http.Header{"Host": {"example.com:8080"}}, true},
		{http.Header{"Host": {"[::1]:8080"}}, true},
		{http.Header{"Host": {""}}, false},
		{http.Header{"Host": {"a b"}}, false},
		{http.Header{"": {"a"}}, false},
		{http.Header{"a b": {"a"}}, false},
		{http.Header{"SEC-WEBSOCKET-FOO": {"a"}}, false},
		{http.Header{"Sec-Websock": {"a"}}, true},
	} {
		if err := checkHeader(tt.h); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.h, err)
		}
	}
}
