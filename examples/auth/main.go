// Auth is a server whose WebSocket is only for users who have logged in. Open the address that it prints.
//
// It accepts a cookie, which browsers send with the WebSocket handshake; a token among the subprotocols, for pages
// without a cookie; or the Authorization header, for programs. It checks them before the upgrade, so a stranger gets a
// plain 401. With -cert and -key it serves https and wss. With -origin it also accepts pages from another server, such
// as a development server on another port:
//
//	go run ./examples/auth -origin http://localhost:5173
package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
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
	addr := flag.String("addr", "127.0.0.1:8082", "address to listen on; port 0 takes a free one")
	cert := flag.String("cert", "", "file with the TLS certificate, for https and wss")
	key := flag.String("key", "", "file with the key of the certificate")
	origin := flag.String("origin", "", "another origin whose pages may connect: http://localhost:5173")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	if err := run(ctx, *addr, *cert, *key, *origin); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr, cert, key, origin string) error {
	password := rand.Text()
	site := newSite(onlyUser("ann", password))
	if origin != "" {
		site.opts.Origins = []string{origin}
	}
	srv := &http.Server{
		Handler:           site.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // of requests; a WebSocket has limits of its own
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
	}
	scheme := "http"
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return err
		}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
		scheme = "https"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("auth: open %s://%s and log in as ann with the password %s\n", scheme, ln.Addr(), password)
	return serve(ctx, srv, ln, &site.everyone)
}

// onlyUser accepts one user. A real site stores a slow hash of each password and limits the number of attempts.
func onlyUser(user, password string) func(user, password string) bool {
	return func(u, p string) bool {
		return subtle.ConstantTimeCompare([]byte(u), []byte(user))&subtle.ConstantTimeCompare([]byte(p), []byte(password)) == 1
	}
}

// serve runs srv until ctx is done, then closes every connection with 1001 (going away) and waits for them.
func serve(ctx context.Context, srv *http.Server, ln net.Listener, all *websocket.Group) error {
	failed := make(chan error, 1)
	go func() {
		if srv.TLSConfig != nil {
			failed <- srv.ServeTLS(ln, "", "")
		} else {
			failed <- srv.Serve(ln)
		}
	}()
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
