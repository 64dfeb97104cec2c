//go:build js

// Ours is the smallest client of this package in WebAssembly.
package main

import (
	"context"
	"fmt"

	"example.com/websocket"
)

func main() {
	ctx := context.Background()
	c, err := websocket.Dial(ctx, "ws://localhost:8080/echo", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(websocket.StatusNormalClosure, "")
	if err := c.Write(ctx, websocket.TextMessage, []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	_, p, err := c.Read(ctx)
	fmt.Println(string(p), err)
}
