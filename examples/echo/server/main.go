// Server echoes every message at ws://127.0.0.1:8081/, text or binary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/websocket"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8081", "address to listen on; port 0 takes a free one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once

	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("echo: ws://%s/\n", ln.Addr())
	var all websocket.Group
	opts := &websocket.Options{Group: &all, MaxMessageSize: 16 << 20, ErrorLog: log.Default()}
	srv := &http.Server{Handler: websocket.Handler(opts, echo), ReadHeaderTimeout: 5 * time.Second}
	if err := serve(ctx, srv, ln, &all); err != nil {
		log.Fatal(err)
	}
}

func echo(c *websocket.Conn, r *http.Request) {
	ctx := context.Background()
	for m, err := range c.Messages(ctx) {
		if err == nil {
			err = c.Write(ctx, m.Type, m.Data)
		}
		if err != nil {
			log.Printf("%s: %v", r.RemoteAddr, err)
			return
		}
	}
}

// serve runs srv until ctx is done, then closes every connection with 1001 (going away) and waits for them.
func serve(ctx context.Context, srv *http.Server, ln net.Listener, all *websocket.Group) error {
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	srv.RegisterOnShutdown(func() { drained <- all.Shutdown(ctx, websocket.StatusGoingAway, "") })
	err := srv.Shutdown(ctx)
	return errors.Join(err, <-drained)
}
