// Reconnect prints the messages of a server and reconnects whenever the connection is lost. To try it with
// examples/chat:
//
//	go run ./examples/reconnect -url 'ws://127.0.0.1:8080/ws?room=lobby&name=Bot'
//
// The delays follow RFC 6455, section 7.2.3, and the server's Retry-After. The program ends on Ctrl-C, when the server
// closes the connection with 1000, or when it refuses the handshake and another try would not help, such as with 401.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/websocket"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:8081/", "server to listen to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once

	opts := &websocket.Options{MaxMessageSize: 1 << 20, KeepAlive: 20 * time.Second}
	s := &session{
		dial:    func(ctx context.Context) (*websocket.Conn, error) { return websocket.Dial(ctx, *url, opts) },
		receive: func(m websocket.Message) { fmt.Printf("%s\n", m.Data) },
	}
	if err := s.run(ctx); err != nil {
		log.Fatal(err)
	}
}
