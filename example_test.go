package websocket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"example.com/websocket"
)

// An echo server. Each connection has its own goroutine. The loop ends when the connection does, and the connection is
// closed when the function returns.
func ExampleHandler() {
	ctx := context.Background()
	echo := websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) {
		for m, err := range c.Messages(ctx) {
			if err != nil {
				log.Print(r.RemoteAddr, ": ", err)
				return
			}
			if c.Write(ctx, m.Type, m.Data) != nil {
				return // the loop would end too
			}
		}
	})
	srv := httptest.NewServer(echo)
	defer srv.Close()

	c, err := websocket.Dial(ctx, srv.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(websocket.StatusNormalClosure, "")
	c.Write(ctx, websocket.TextMessage, []byte("hello"))
	_, p, err := c.Read(ctx)
	fmt.Println(string(p), err)
	// Output: hello <nil>
}

// This handler checks the request and sets a cookie before it calls Upgrade.
func ExampleUpgrade() {
	opts := &websocket.Options{Subprotocols: []string{"chat.v2", "chat.v1"}}
	serve := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "seen", Value: "yes"})
		c, err := websocket.Upgrade(w, r, opts)
		if err != nil {
			return // Upgrade has answered the request
		}
		defer c.CloseNow()
		c.Write(r.Context(), websocket.TextMessage, []byte("we speak "+c.Subprotocol()))
		c.Close(websocket.StatusNormalClosure, "")
	}
	srv := httptest.NewServer(http.HandlerFunc(serve))
	defer srv.Close()

	ctx := context.Background()
	c, err := websocket.Dial(ctx, srv.URL, &websocket.Options{
		Subprotocols: []string{"chat.v1", "chat.v2"},
		Header:       http.Header{"Authorization": {"Bearer of news"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseNow()
	_, p, err := c.Read(ctx)
	fmt.Println(string(p), err)
	// Output: we speak chat.v2 <nil>
}

// Origins lists the web pages that may connect, in addition to those of the request's own host.
func ExampleOptions_origins() {
	opts := &websocket.Options{Origins: []string{"https://app.example.com", "*.example.org"}}
	srv := httptest.NewServer(websocket.Handler(opts, func(*websocket.Conn, *http.Request) {}))
	defer srv.Close()

	for _, origin := range []string{"https://app.example.com", "https://www.example.org", "https://evil.example"} {
		c, err := websocket.Dial(context.Background(), srv.URL, &websocket.Options{Header: http.Header{"Origin": {origin}}})
		if err == nil {
			c.CloseNow()
			fmt.Println(origin, "is welcome")
			continue
		}
		var refused *websocket.HandshakeError
		if errors.As(err, &refused) {
			fmt.Println(origin, "is refused with", refused.StatusCode)
		}
	}
	// Output:
	// https://app.example.com is welcome
	// https://www.example.org is welcome
	// https://evil.example is refused with 403
}

// The context bounds the handshake. The connection outlives it.
func ExampleDial() {
	srv := httptest.NewServer(websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) {
		c.Write(context.Background(), websocket.TextMessage, []byte("you asked for "+r.URL.Path))
	}))
	defer srv.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := websocket.Dial(ctx, strings.Replace(srv.URL, "http:", "ws:", 1)+"/news", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseNow()
	_, p, err := c.Read(ctx)
	fmt.Println(string(p), err)
	// Output: you asked for /news <nil>
}

// The error contains the server's response.
func ExampleHandshakeError() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "come back with a ticket", http.StatusForbidden)
	}))
	defer srv.Close()

	_, err := websocket.Dial(context.Background(), srv.URL, nil)
	var refused *websocket.HandshakeError
	if errors.As(err, &refused) {
		fmt.Println(refused.StatusCode, strings.TrimSpace(string(refused.Body)))
	}
	// Output: 403 come back with a ticket
}

// The loop ends without an error if the peer closes normally. Any other end is yielded as an error, once.
func ExampleConn_Messages() {
	ctx := context.Background()
	server, client := websocket.Pipe(nil, nil)
	go func() {
		for _, s := range []string{"one", "two", "three"} {
			server.Write(ctx, websocket.TextMessage, []byte(s))
		}
		server.Close(websocket.StatusNormalClosure, "that was all")
	}()

	for m, err := range client.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(m.Data)) // m.Data is valid until the next iteration
	}
	// Output:
	// one
	// two
	// three
}

// A read that is cancelled, here by a timeout, loses nothing: the next one resumes where it stopped, even in the middle
// of a message.
func ExampleConn_Read() {
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	ctx := context.Background()
	w, err := server.Writer(ctx, websocket.TextMessage)
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(w, strings.Repeat("half", 2000)) // goes out before the message ends

	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, _, err = client.Read(short)
	fmt.Println(err)

	io.WriteString(w, strings.Repeat("half", 2000))
	w.Close()
	typ, p, err := client.Read(ctx)
	fmt.Println(typ == websocket.TextMessage, len(p), err)
	// Output:
	// context deadline exceeded
	// true 16000 <nil>
}

// Reader returns a message as a stream. Its bytes can be used as they arrive, without a buffer for the whole message.
func ExampleConn_Reader() {
	ctx := context.Background()
	server, client := websocket.Pipe(&websocket.Options{MaxMessageSize: 1 << 30}, nil)
	defer client.CloseNow()
	go client.Write(ctx, websocket.TextMessage, []byte(`{"n":1} {"n":2} {"n":3}`))

	_, r, err := server.Reader(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for dec := json.NewDecoder(r); ; {
		var v struct{ N int }
		if err := dec.Decode(&v); err == io.EOF {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		fmt.Println(v.N)
	}
	// Output:
	// 1
	// 2
	// 3
}

// Each message holds one JSON value. If a message is not valid JSON, ReadJSON returns the error and the connection
// stays usable.
func ExampleConn_ReadJSON() {
	type move struct{ From, To string }
	ctx := context.Background()
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	go func() {
		client.WriteJSON(ctx, move{"e2", "e4"})
		client.Write(ctx, websocket.TextMessage, []byte("resign!"))
		client.WriteJSON(ctx, move{"g1", "f3"})
	}()

	for range 3 {
		var m move
		if err := server.ReadJSON(ctx, &m); err != nil {
			fmt.Println("error:", err)
			continue
		}
		fmt.Println(m.From, m.To)
	}
	// Output:
	// e2 e4
	// error: invalid character 'r' looking for beginning of value
	// g1 f3
}

// Any goroutine may write at any time. Messages are never mixed, and those of one goroutine stay in order.
func ExampleConn_Write() {
	ctx := context.Background()
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	for range 10 {
		go server.Write(ctx, websocket.BinaryMessage, make([]byte, 1000))
	}

	total := 0
	for range 10 {
		_, p, err := client.Read(ctx)
		if err != nil {
			log.Fatal(err)
		}
		total += len(p)
	}
	fmt.Println(total)
	err := server.Write(ctx, websocket.TextMessage, []byte("not UTF-8: \xff"))
	fmt.Println(err)
	// Output:
	// 10000
	// websocket: the text is not valid UTF-8; nothing was sent
}

// Writer sends a message of unknown length. Close ends the message.
func ExampleConn_Writer() {
	ctx := context.Background()
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	go func() {
		w, err := server.Writer(ctx, websocket.BinaryMessage)
		if err != nil {
			return
		}
		if _, err := io.Copy(w, strings.NewReader(strings.Repeat("0123456789", 10_000))); err != nil {
			return
		}
		w.Close()
	}()

	typ, p, err := client.Read(ctx)
	fmt.Println(typ == websocket.BinaryMessage, len(p), err)
	// Output: true 100000 <nil>
}

// Send never waits for the peer. If more than MaxPending bytes wait to be sent, it returns ErrBacklog: drop the
// message, wait for a newer state, or close the connection.
func ExampleConn_Send() {
	server, client := websocket.Pipe(&websocket.Options{MaxPending: 64 << 10}, nil)
	defer client.CloseNow()
	update := make([]byte, 1000)
	for { // the client does not read
		if err := server.Send(websocket.BinaryMessage, update); errors.Is(err, websocket.ErrBacklog) {
			fmt.Println(err)
			break
		} else if err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(server.Stats().Pending > 60<<10)
	// Output:
	// websocket: too many bytes are waiting to be sent
	// true
}

// A message to many connections is framed once and, for connections that agreed on compression, compressed once.
func ExampleGroup_Broadcast() {
	var room websocket.Group
	var clients []*websocket.Conn
	for range 3 {
		_, client := websocket.Pipe(&websocket.Options{Group: &room}, nil)
		clients = append(clients, client)
		defer client.CloseNow()
	}

	m, err := websocket.NewPreparedMessage(websocket.TextMessage, []byte("good morning"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("sent to", room.Broadcast(m), "of", room.Len())
	for _, c := range clients {
		_, p, err := c.Read(context.Background())
		fmt.Println(string(p), err)
	}
	// Output:
	// sent to 3 of 3
	// good morning <nil>
	// good morning <nil>
	// good morning <nil>
}

// http.Server.Shutdown does not wait for WebSocket connections. Shutdown of a Group closes them with 1001, so that
// their clients can connect to another server.
func ExampleGroup_Shutdown() {
	var all websocket.Group
	srv := httptest.NewUnstartedServer(websocket.Handler(&websocket.Options{Group: &all},
		func(c *websocket.Conn, r *http.Request) {
			c.Send(websocket.TextMessage, []byte("welcome"))
			for _, err := range c.Messages(context.Background()) {
				if err != nil {
					return
				}
			}
		}))
	drained := make(chan error)
	srv.Config.RegisterOnShutdown(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- all.Shutdown(ctx, websocket.StatusGoingAway, "restarting")
	})
	srv.Start()

	ctx := context.Background()
	c, err := websocket.Dial(ctx, srv.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	_, p, err := c.Read(ctx)
	fmt.Println(string(p), err)
	go srv.Config.Shutdown(ctx)
	_, _, err = c.Read(ctx)
	fmt.Println(err)
	fmt.Println(<-drained, all.Len()) // main returns now
	// Output:
	// welcome <nil>
	// websocket: closed by the peer: 1001 (going away): "restarting"
	// <nil> 0
}

// Something must read from a connection that is only written to: pings need answers, and the peer's close frame must be
// seen. CloseRead does this in the background.
func ExampleConn_CloseRead() {
	server, client := websocket.Pipe(nil, nil)
	go func() {
		client.Read(context.Background())
		client.Close(websocket.StatusNormalClosure, "seen enough")
	}()

	ctx := server.CloseRead(context.Background())
	for tick := 0; ctx.Err() == nil; tick++ {
		if err := server.WriteJSON(ctx, tick); err != nil {
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	fmt.Println(context.Cause(ctx))
	// Output: websocket: closed by the peer: 1000 (normal closure): "seen enough"
}

// Both ends must be reading: the peer reads the ping, and this end reads the answer. KeepAlive sends pings by itself.
func ExampleConn_Ping() {
	ctx := context.Background()
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	client.CloseRead(ctx)
	server.CloseRead(ctx)

	rtt, err := server.Ping(ctx)
	fmt.Println(rtt < time.Minute, err)
	// Output: true <nil>
}

// Close sends a close frame and waits for the peer's, for at most CloseTimeout. It returns nil if both frames were
// exchanged.
func ExampleConn_Close() {
	ctx := context.Background()
	server, client := websocket.Pipe(nil, nil)
	peer := make(chan error)
	go func() {
		_, _, err := client.Read(ctx)
		peer <- err
	}()

	fmt.Println(server.Close(4001, "the game is over"))
	fmt.Println(<-peer)
	err := server.Write(ctx, websocket.TextMessage, []byte("one more"))
	fmt.Println(errors.Is(err, net.ErrClosed))
	// Output:
	// <nil>
	// websocket: closed by the peer: 4001: "the game is over"
	// true
}

// Every read and write after the end returns the connection's error, which is also the cause of its context.
func ExampleStatusCode() {
	ctx := context.Background()
	server, client := websocket.Pipe(nil, nil)
	go client.Close(websocket.StatusGoingAway, "tab closed")
	server.CloseRead(ctx)
	<-server.Context().Done()

	err := server.Write(ctx, websocket.TextMessage, []byte("still there?"))
	var closed *websocket.CloseError
	var broke *websocket.ProtocolError
	switch {
	case errors.Is(err, websocket.StatusNormalClosure), errors.Is(err, websocket.StatusGoingAway):
		fmt.Println("as it should be:", err)
	case errors.As(err, &closed):
		fmt.Println("closed by the peer with", closed.Code, closed.Reason)
	case errors.Is(err, websocket.ErrMessageTooBig):
		fmt.Println("too long a message")
	case errors.As(err, &broke):
		fmt.Println("the peer broke a rule:", broke.Reason)
	case errors.Is(err, websocket.StatusAbnormalClosure):
		fmt.Println("the network broke:", err)
	case errors.Is(err, net.ErrClosed):
		fmt.Println("we closed it")
	}
	fmt.Println(context.Cause(server.Context()) == err)
	// Output:
	// as it should be: websocket: closed by the peer: 1001 (going away): "tab closed"
	// true
}

// Stream carries bytes over messages, for protocols that need a net.Conn. A deadline that passes loses nothing and can
// be moved.
func ExampleConn_Stream() {
	server, client := websocket.Pipe(nil, nil)
	a, b := server.Stream(websocket.BinaryMessage), client.Stream(websocket.BinaryMessage)
	b.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := b.Read(make([]byte, 1))
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
	b.SetReadDeadline(time.Time{})

	go func() {
		fmt.Fprint(a, "many messages, ")
		fmt.Fprint(a, "one stream")
		a.Close()
	}()
	p, err := io.ReadAll(b)
	fmt.Println(string(p), err)
	// Output:
	// true
	// many messages, one stream <nil>
}

// Pipe is for testing code that uses a *Conn, such as greet here. In a testing/synctest bubble, timeouts take no time.
func ExamplePipe() {
	greet := func(c *websocket.Conn) {
		var name string
		if err := c.ReadJSON(context.Background(), &name); err != nil {
			c.Close(websocket.StatusPolicyViolation, "a name was expected")
			return
		}
		c.WriteJSON(context.Background(), "hello, "+name)
		c.Close(websocket.StatusNormalClosure, "")
	}

	server, client := websocket.Pipe(nil, nil)
	go greet(server)
	ctx := context.Background()
	client.WriteJSON(ctx, "Ada")
	var answer string
	err := client.ReadJSON(ctx, &answer)
	fmt.Println(answer, err)
	fmt.Println(client.ReadJSON(ctx, &answer))
	// Output:
	// hello, Ada <nil>
	// websocket: closed by the peer: 1000 (normal closure)
}

// Similar small messages compress best with ContextTakeover, which costs memory. Send secrets uncompressed.
func ExampleCompression() {
	ctx := context.Background()
	opts := &websocket.Options{Compression: &websocket.Compression{ContextTakeover: true, WindowBits: 12}}
	server, client := websocket.Pipe(opts, opts)
	go func() {
		for n := range 100 {
			p := fmt.Sprintf(`{"symbol":"ACME","bid":%d.25,"ask":%d.75,"venue":"Zurich","currency":"CHF","status":"open","delayed":false,"source":"example"}`, 100+n, 101+n)
			server.Write(ctx, websocket.TextMessage, []byte(p))
		}
		server.Write(ctx, websocket.TextMessage|websocket.Uncompressed, []byte("the key to the house"))
		server.Close(websocket.StatusNormalClosure, "")
	}()

	for _, err := range client.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
	}
	st := client.Stats()
	fmt.Println(st.MessagesRead, "messages, a fifth of the bytes or less:", st.BytesRead < st.PayloadRead/5)
	// Output: 101 messages, a fifth of the bytes or less: true
}

// The function passed to Handler may return. The connection then stays open, and its messages go to the function passed
// to OnMessage.
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

// This server accepts only short messages until the user has logged in.
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

// A message for several connections is framed once.
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

// Use the context to stop other work when the connection ends. Its cause says why the connection ended.
func ExampleConn_Context() {
	server, client := websocket.Pipe(nil, nil)
	query := make(chan error)
	go func() {
		ctx := server.Context()
		<-ctx.Done() // as a database query would
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

// NetConn returns the TCP or TLS connection.
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

// The *CloseError holds the reason. Use errors.Is to test for one code, and CloseStatus to test for several.
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

// The message is longer than this end allows. The peer receives the status code.
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

// A connection may be in many groups, here a room and the set of a user's devices.
func ExampleGroup_Add() {
	var lobby, ann websocket.Group
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	fmt.Println(lobby.Add(server), ann.Add(server))
	server.CloseNow()
	fmt.Println(lobby.Len(), ann.Len(), lobby.Add(server)) // it has left both and cannot rejoin
	// Output:
	// true true
	// 0 0 false
}

func ExampleGroup_Remove() {
	var lobby, cellar websocket.Group
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	lobby.Add(server)
	cellar.Add(server)
	lobby.Remove(server)
	fmt.Println(lobby.Len(), cellar.Len())
	// Output: 0 1
}

func ExampleGroup_Len() {
	var all websocket.Group
	for range 3 {
		_, client := websocket.Pipe(&websocket.Options{Group: &all}, nil)
		defer client.CloseNow()
	}
	fmt.Println(all.Len())
	// Output: 3
}

// Use All to send a different message to each member.
func ExampleGroup_All() {
	var all websocket.Group
	_, client := websocket.Pipe(&websocket.Options{Group: &all, Subprotocols: []string{"v2"}}, &websocket.Options{Subprotocols: []string{"v2"}})
	for c := range all.All() {
		c.Send(websocket.TextMessage, []byte("you speak "+c.Subprotocol()))
	}
	_, p, err := client.Read(context.Background())
	fmt.Println(string(p), err)
	// Output: you speak v2 <nil>
}

// A server for WebSocket connections only. A program calls Shutdown when it is interrupted: see signal.NotifyContext.
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
