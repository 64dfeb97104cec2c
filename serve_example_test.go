package websocket_test

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"example.com/websocket"
)

// A server of WebSockets alone, which closes its connections when it is interrupted.
func ExampleServe() {
	ln, err := net.Listen("tcp", "localhost:8080")
	if err != nil {
		log.Fatal(err)
	}
	var all websocket.Group
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		interrupt, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		<-interrupt.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		all.Shutdown(ctx, websocket.StatusGoingAway, "")
	}()
	opts := &websocket.Options{Group: &all, ErrorLog: log.Default()}
	err = websocket.Serve(ln, opts, func(c *websocket.Conn, r *http.Request) {
		ctx := context.Background()
		for m, err := range c.Messages(ctx) {
			if err != nil || c.Write(ctx, m.Type, m.Data) != nil {
				return
			}
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	<-closed // Serve returns as soon as Shutdown begins
}

func ExampleCloseStatus() {
	var c *websocket.Conn // from Dial
	_, _, err := c.Read(context.Background())
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway:
		log.Print("the server is done")
	case websocket.StatusAbnormalClosure, websocket.StatusServiceRestart, websocket.StatusTryAgainLater:
		log.Print("dial again after a while")
	case websocket.StatusPolicyViolation:
		log.Print("sign in again")
	default:
		if !errors.Is(err, net.ErrClosed) {
			log.Print(err)
		}
	}
}
