package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"example.com/websocket"
)

// The function passed to Handler may return; the connection stays open and its messages go to the other function.
func ExampleConn_OnMessage() {
	ended := make(chan error)
	srv := httptest.NewServer(websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) {
		c.OnMessage(func(m websocket.Message, err error) {
			if err != nil {
				ended <- err
				return
			}
			c.Write(context.Background(), m.Type, m.Data)
		})
	}))
	defer srv.Close()

	ctx := context.Background()
	c, err := websocket.Dial(ctx, srv.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	c.Write(ctx, websocket.TextMessage, []byte("hello"))
	_, p, err := c.Read(ctx)
	fmt.Println(string(p), err)
	c.Close(websocket.StatusNormalClosure, "")
	fmt.Println(<-ended)
	// Output:
	// hello <nil>
	// websocket: closed by the peer: 1000 (normal closure)
}

// A server that accepts only short messages until the user has logged in.
func ExampleConn_SetReadLimit() {
	server, client := websocket.Pipe(&websocket.Options{MaxMessageSize: 16}, nil)
	ctx := context.Background()
	client.Write(ctx, websocket.TextMessage, []byte("password"))
	client.Write(ctx, websocket.TextMessage, make([]byte, 1000))

	_, p, err := server.Read(ctx)
	fmt.Println(len(p), err)
	server.SetReadLimit(1 << 20)
	_, p, err = server.Read(ctx)
	fmt.Println(len(p), err)
	// Output:
	// 8 <nil>
	// 1000 <nil>
}

func ExampleConn_WriteJSON() {
	type move struct{ From, To string }
	server, client := websocket.Pipe(nil, nil)
	ctx := context.Background()
	client.WriteJSON(ctx, move{"e2", "e4"})
	_, p, err := server.Read(ctx)
	fmt.Println(string(p), err)
	// Output: {"From":"e2","To":"e4"} <nil>
}

// One message for two connections. It is framed once.
func ExampleConn_WritePrepared() {
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, []byte("goal!"))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	for range 2 {
		server, client := websocket.Pipe(nil, nil)
		server.WritePrepared(ctx, m)
		_, p, err := client.Read(ctx)
		fmt.Println(string(p), err)
	}
	// Output:
	// goal! <nil>
	// goal! <nil>
}

// SendPrepared does not wait, however slow the peer is.
func ExampleConn_SendPrepared() {
	server, client := websocket.Pipe(nil, nil)
	m, err := websocket.NewPreparedMessage(websocket.BinaryMessage, []byte{1, 2, 3})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.SendPrepared(m); errors.Is(err, websocket.ErrBacklog) {
		server.CloseNow() // or drop the message
	}
	fmt.Println(client.Read(context.Background()))
	// Output: 2 [1 2 3] <nil>
}

// A text message must be valid UTF-8.
func ExampleNewPreparedMessage() {
	_, err := websocket.NewPreparedMessage(websocket.TextMessage, []byte("caf\xe9"))
	fmt.Println(err != nil)
	_, err = websocket.NewPreparedMessage(websocket.BinaryMessage, []byte("caf\xe9"))
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

// After CloseNow, the error of this end is net.ErrClosed. The peer sees a lost connection.
func ExampleConn_CloseNow() {
	server, client := websocket.Pipe(nil, nil)
	server.CloseNow()
	ctx := context.Background()
	_, _, err := server.Read(ctx)
	fmt.Println(errors.Is(err, net.ErrClosed))
	_, _, err = client.Read(ctx)
	fmt.Println(websocket.CloseStatus(err) == websocket.StatusAbnormalClosure)
	// Output:
	// true
	// true
}

// The context ends other work together with the connection, and its cause says why.
func ExampleConn_Context() {
	server, client := websocket.Pipe(nil, nil)
	query := make(chan error)
	go func() {
		ctx := server.Context()
		<-ctx.Done() // as a query of a database would
		query <- context.Cause(ctx)
	}()
	go server.Read(context.Background())
	client.Close(websocket.StatusGoingAway, "")
	fmt.Println(<-query)
	// Output: websocket: closed by the peer: 1001 (going away)
}

func ExampleConn_Subprotocol() {
	server, client := websocket.Pipe(
		&websocket.Options{Subprotocols: []string{"chat.v2", "chat.v1"}},
		&websocket.Options{Subprotocols: []string{"chat.v1"}})
	fmt.Println(server.Subprotocol(), client.Subprotocol())
	// Output: chat.v1 chat.v1
}

func ExampleConn_Stats() {
	server, client := websocket.Pipe(nil, nil)
	ctx := context.Background()
	client.Write(ctx, websocket.TextMessage, []byte("hello"))
	server.Read(ctx)
	st := server.Stats()
	fmt.Println(st.MessagesRead, st.PayloadRead, st.BytesRead) // a client's frame begins with 6 bytes
	// Output: 1 5 11
}

// The addresses and the connection are those of TCP or TLS.
func ExampleConn_NetConn() {
	srv := httptest.NewServer(websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) {
		c.CloseRead(context.Background())
		<-c.Context().Done()
	}))
	defer srv.Close()
	c, err := websocket.Dial(context.Background(), srv.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseNow()
	if tcp, ok := c.NetConn().(*net.TCPConn); ok {
		fmt.Println(tcp.SetNoDelay(false))
	}
	// Output: <nil>
}

func ExampleConn_RemoteAddr() {
	srv := httptest.NewServer(websocket.Handler(nil, func(*websocket.Conn, *http.Request) {}))
	defer srv.Close()
	c, err := websocket.Dial(context.Background(), srv.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseNow()
	fmt.Println(c.RemoteAddr().String() == srv.Listener.Addr().String())
	// Output: true
}

func ExampleConn_LocalAddr() {
	addr := make(chan net.Addr, 1)
	srv := httptest.NewServer(websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) { addr <- c.LocalAddr() }))
	defer srv.Close()
	c, err := websocket.Dial(context.Background(), srv.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseNow()
	fmt.Println((<-addr).String() == srv.Listener.Addr().String())
	// Output: true
}

// The reason is in the *CloseError. Use errors.Is to test for one code, and CloseStatus for several.
func ExampleCloseError() {
	server, client := websocket.Pipe(nil, nil)
	go server.Close(4001, "log in again")
	_, _, err := client.Read(context.Background())
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		fmt.Println(uint16(closed.Code), closed.Reason)
	}
	fmt.Println(errors.Is(err, websocket.StatusCode(4001)))
	// Output:
	// 4001 log in again
	// true
}

// The message is longer than this end allows. The peer is told so.
func ExampleProtocolError() {
	server, client := websocket.Pipe(&websocket.Options{MaxMessageSize: 16}, nil)
	ctx := context.Background()
	client.Write(ctx, websocket.TextMessage, make([]byte, 17))
	_, _, err := server.Read(ctx)
	var wrong *websocket.ProtocolError
	fmt.Println(errors.As(err, &wrong), errors.Is(err, websocket.ErrMessageTooBig))
	_, _, err = client.Read(ctx)
	fmt.Println(errors.Is(err, websocket.StatusMessageTooBig))
	// Output:
	// true true
	// true
}
