//go:build !websocket_nohttp

package websocket

import "errors"

// checkBrowser is check for a client in a browser.
func (o *Options) checkBrowser() error {
	switch {
	case len(o.Header) > 0:
		return errors.New("Options.Header: a browser does not let a page set header fields of a WebSocket handshake")
	case o.HTTPClient != nil:
		return errors.New("Options.HTTPClient: in a browser the handshake is the browser's own")
	case o.HTTP2:
		return errBrowserHTTP2
	}
	return o.check()
}
