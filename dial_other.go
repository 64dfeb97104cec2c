//go:build !js

package websocket

import "context"

func dial(ctx context.Context, url string, opts *Options) (*Conn, error) {
	return dialHTTP(ctx, url, opts)
}
