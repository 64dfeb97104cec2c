package websocket_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"example.com/websocket"
)

// A server of nothing but WebSockets. A program calls Shutdown when it is interrupted: see signal.NotifyContext.
func ExampleServe() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var all websocket.Group
	opts := &websocket.Options{Group: &all, ErrorLog: log.Default()}
	served := make(chan error)
	go func() {
		served <- websocket.Serve(ln, opts, func(c *websocket.Conn, r *http.Request) {
			ctx := context.Background()
			for m, err := range c.Messages(ctx) {
				if err != nil || c.Write(ctx, m.Type, m.Data) != nil {
					return
				}
			}
		})
	}()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := websocket.Dial(ctx, "ws://"+ln.Addr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	c.Write(ctx, websocket.TextMessage, []byte("hello"))
	_, p, err := c.Read(ctx)
	fmt.Println(string(p), err)

	go c.Read(ctx)                                         // answers the close frame
	err = all.Shutdown(ctx, websocket.StatusGoingAway, "") // Serve returns, and the connections are closed
	fmt.Println(err, <-served)
	// Output:
	// hello <nil>
	// <nil> <nil>
}

func ExampleCloseStatus() {
	server, client := websocket.Pipe(nil, nil)
	go server.Close(websocket.StatusServiceRestart, "")
	_, _, err := client.Read(context.Background())
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway:
		fmt.Println("the server has finished")
	case websocket.StatusAbnormalClosure, websocket.StatusServiceRestart, websocket.StatusTryAgainLater:
		fmt.Println("dial again after a while")
	case websocket.StatusPolicyViolation:
		fmt.Println("log in again")
	default:
		fmt.Println(err)
	}
	// Output: dial again after a while
}
