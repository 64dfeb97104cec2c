//go:build !(js && websocket_nohttp)

package websocket

import "net/http"

// A HandshakeError reports an opening handshake that did not lead to a connection. Every error of [Upgrade] and [Dial]
// is a *HandshakeError.
type HandshakeError struct {
	Reason     string      // what was wrong, in words
	StatusCode int         // of the HTTP response that Upgrade sent or Dial received; 0 if there was none
	Header     http.Header // of the response (Dial only)
	Body       []byte      // the start of the response's body, at most 4 KiB (Dial only)
	Err        error       // cause, or nil
}

func statusText(code int) string { return http.StatusText(code) }
