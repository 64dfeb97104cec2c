package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"example.com/websocket"
)

type server struct {
	url   string
	http  *http.Server
	group *websocket.Group
}

func serverOptions(group *websocket.Group) *websocket.Options {
	return &websocket.Options{
		Group:          group,
		MaxMessageSize: 4 << 20,
		KeepAlive:      patience,
		CloseTimeout:   10 * time.Second,
		Compression:    &websocket.Compression{ContextTakeover: true, WindowBits: 12},
	}
}

// startServer serves /echo in two ways of reading, and /burst, which sends as many messages as it is asked to.
func startServer() *server {
	group := new(websocket.Group)
	mux := http.NewServeMux()
	mux.Handle("/echo", websocket.Handler(serverOptions(group), func(c *websocket.Conn, _ *http.Request) { echo(c) }))
	mux.Handle("/stream", websocket.Handler(serverOptions(group), func(c *websocket.Conn, _ *http.Request) { stream(c) }))
	mux.Handle("/burst", websocket.Handler(serverOptions(group), func(c *websocket.Conn, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		burst(c, n)
	}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	s := &server{
		url:   "ws://" + ln.Addr().String(),
		http:  &http.Server{Handler: mux, ReadHeaderTimeout: patience, ErrorLog: log.New(io.Discard, "", 0)},
		group: group,
	}
	go s.http.Serve(ln)
	return s
}

func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(s.group.Shutdown(ctx, websocket.StatusGoingAway, "end of the soak"), s.http.Shutdown(ctx))
}

func echo(c *websocket.Conn) {
	ctx := context.Background()
	for m, err := range c.Messages(ctx) {
		if err != nil || c.Write(ctx, m.Type, m.Data) != nil {
			return
		}
	}
}

func stream(c *websocket.Conn) {
	ctx := context.Background()
	for {
		typ, r, err := c.Reader(ctx)
		if err != nil {
			return
		}
		w, err := c.Writer(ctx, typ)
		if err != nil {
			return
		}
		if _, err := io.Copy(w, r); err != nil {
			return
		}
		w.Close()
	}
}

const burstSize = 1000

// burst sends n messages that begin with their number, by Send as long as the queue takes them, and waits until the
// client has had them and closes: CloseTimeout is too short for a slow one.
func burst(c *websocket.Conn, n int) {
	ctx := c.CloseRead(context.Background())
	p := make([]byte, burstSize)
	for i := range n {
		binary.BigEndian.PutUint32(p, uint32(i))
		err := c.Send(websocket.BinaryMessage, p)
		if errors.Is(err, websocket.ErrBacklog) {
			err = c.Write(ctx, websocket.BinaryMessage, p)
		}
		if err != nil {
			return
		}
	}
	<-ctx.Done()
}

// warmUp makes what a process that serves HTTP makes once, before the stock is taken.
func warmUp() {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	if resp, err := srv.Client().Get(srv.URL); err == nil {
		resp.Body.Close()
	}
}
