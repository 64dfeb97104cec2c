// Chat is a chat server with its page. Open the address that it prints in two tabs.
//
// Each room is a [websocket.Group]. A message is prepared once and broadcast without blocking. On Ctrl-C or SIGTERM the
// server closes every connection with 1001 (going away), and the pages reconnect, after a random delay, to the next
// process that listens there.
//
// /metrics has the server's metrics for Prometheus, and /debug/vars has them for expvar. A server on the Internet
// should serve these two on a separate address.
package main

import (
	"context"
	"embed"
	"errors"
	"expvar"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.com/websocket"
)

//go:generate go run wasm/build.go

//go:embed page
var embedded embed.FS

// drainTime bounds the shutdown: the closing handshakes and the unanswered requests.
const drainTime = 10 * time.Second

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on; port 0 takes a free one")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once

	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("chat: open http://%s in two tabs; Ctrl-C ends it\n", ln.Addr())
	h := newHub()
	expvar.Publish("chat", expvar.Func(h.vars))
	if err := serve(ctx, ln, h); err != nil {
		log.Fatal(err)
	}
}

// serve runs the chat on ln until ctx is done, then drains it.
func serve(ctx context.Context, ln net.Listener, h *hub) error {
	srv := &http.Server{
		Handler:           routes(h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // of requests; a WebSocket has limits of its own
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return drain(srv, h)
	}
}

// drain stops listening, closes every connection with 1001 and waits for them. http.Server.Shutdown alone
// neither closes a WebSocket nor waits for it, because its connection was hijacked.
func drain(srv *http.Server, h *hub) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	drained := make(chan error, 1)
	srv.RegisterOnShutdown(func() {
		drained <- h.everyone.Shutdown(ctx, websocket.StatusGoingAway, "the server restarts")
	})
	err := srv.Shutdown(ctx)
	return errors.Join(err, <-drained)
}

func routes(h *hub) http.Handler {
	page, err := fs.Sub(embedded, "page")
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", h.handler())
	mux.HandleFunc("/metrics", h.servePrometheus)
	mux.Handle("/debug/vars", expvar.Handler())
	mux.Handle("/", secure(http.FileServerFS(page)))
	return mux
}

// secure lets the page load resources from this server only.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		policy := "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"
		if strings.HasPrefix(r.URL.Path, "/wasm/") {
			policy += "; script-src 'self' 'wasm-unsafe-eval'"
		}
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
