//go:build js && !websocket_nohttp

package wasm

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"example.com/websocket"
)

func TestDial_RefusesOptionsOfHTTP(t *testing.T) {
	for want, opts := range map[string]*websocket.Options{
		"Options.Header":     {Header: http.Header{"Authorization": {"x"}}},
		"Options.HTTPClient": {HTTPClient: &http.Client{}},
	} {
		_, err := websocket.Dial(patient(t), *server+"/echo", opts)
		if he := handshakeError(t, err); he.Header != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Dial: %v", err)
		}
	}
	c := dial(t, "/echo", &websocket.Options{Header: http.Header{}})
	c.CloseNow()
}

func TestServing_IsRefused(t *testing.T) {
	w := new(answer)
	w.header = make(http.Header)
	r := &http.Request{Method: "GET", Header: http.Header{}}
	_, err := websocket.Upgrade(w, r, nil)
	var he *websocket.HandshakeError
	if !errors.As(err, &he) || !strings.Contains(he.Reason, "browser") || w.status != http.StatusNotImplemented {
		t.Errorf("Upgrade answered %d: %v", w.status, err)
	}
	if _, err := websocket.Upgrade(nil, nil, nil); !errors.As(err, &he) {
		t.Errorf("Upgrade: %v", err)
	}
	w.status = 0
	websocket.Handler(nil, func(*websocket.Conn, *http.Request) { t.Error("serve was called") }).ServeHTTP(w, r)
	if w.status != http.StatusNotImplemented {
		t.Errorf("Handler answered %d", w.status)
	}
	if err := websocket.Serve(nil, nil, nil); err == nil || !strings.Contains(err.Error(), "browser") {
		t.Errorf("Serve: %v", err)
	}
}

// An answer is an http.ResponseWriter that keeps the status.
type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
