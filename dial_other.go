//go:build !js

package websocket

import "context"

// dial is Dial with options that are not nil. dial_js.go has the other version.
func dial(ctx context.Context, url string, opts *Options) (*Conn, error) {
	return dialHTTP(ctx, url, opts)
}
