//go:build js

// Package wasm tests a client that is compiled to WebAssembly and uses the WebSocket object of Node or of a browser.
// The tests in the parent directory build it, run it and start its server.
package wasm

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/websocket"
)

var server = flag.String("server", "", "`URL` of the server, without a path")

// patience bounds every wait of a test.
const patience = 30 * time.Second

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, path string, opts *websocket.Options) *websocket.Conn {
	t.Helper()
	c, err := websocket.Dial(patient(t), *server+path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// receive reads one message and checks its type.
func receive(t *testing.T, c *websocket.Conn, want websocket.MessageType) []byte {
	t.Helper()
	typ, p, err := c.Read(patient(t))
	if err != nil || typ != want {
		t.Fatalf("read a message of type %d, %v; want type %d", typ, err, want)
	}
	return p
}

// tell asks the server for its report on the connection with the given id.
func tell(t *testing.T, path, id string) string {
	t.Helper()
	c := dial(t, path+"?id="+id, nil)
	return string(receive(t, c, websocket.TextMessage))
}

func TestDial_ExchangesMessages(t *testing.T) {
	c := dial(t, "/echo", &websocket.Options{MaxMessageSize: 32 << 20})
	for _, m := range []websocket.Message{
		{Type: websocket.TextMessage, Data: []byte("Wörld ✓ 👋")},
		{Type: websocket.TextMessage, Data: []byte("\ufeffa byte order mark is a character\x00")},
		{Type: websocket.TextMessage},
		{Type: websocket.BinaryMessage},
		{Type: websocket.BinaryMessage, Data: []byte{0, 1, 0xff, 0xc3, 0x28}},
		{Type: websocket.TextMessage, Data: bytes.Repeat([]byte("x"), 125)},
		{Type: websocket.TextMessage, Data: bytes.Repeat([]byte("y"), 126)},
		{Type: websocket.BinaryMessage, Data: bytes.Repeat([]byte{0xfe}, 65535)},
		{Type: websocket.BinaryMessage, Data: bytes.Repeat([]byte{0xfd}, 65536)},
		{Type: websocket.TextMessage, Data: bytes.Repeat([]byte("é👋"), 1<<19)},
		{Type: websocket.BinaryMessage, Data: bytes.Repeat([]byte("16 MiB of binary"), 1<<20)},
		{Type: websocket.TextMessage, Data: bytes.Repeat([]byte("16 MiB of a text"), 1<<20)},
	} {
		if err := c.Write(patient(t), m.Type, m.Data); err != nil {
			t.Fatalf("%d bytes of type %d: %v", len(m.Data), m.Type, err)
		}
		if p := receive(t, c, m.Type); !bytes.Equal(p, m.Data) {
			t.Fatalf("%d bytes of type %d came back as %d other ones", len(m.Data), m.Type, len(p))
		}
	}
	if st := c.Stats(); st.MessagesRead != 12 || st.MessagesWritten != 12 || st.PayloadRead != st.PayloadWritten {
		t.Errorf("Stats: %+v", st)
	}
}

func TestDial_ReceivesFragments(t *testing.T) {
	c := dial(t, "/parts", nil)
	for _, typ := range []websocket.MessageType{websocket.TextMessage, websocket.BinaryMessage} {
		if p := receive(t, c, typ); string(p) != "Hello, Wörld" {
			t.Errorf("got %q", p)
		}
	}
}

func TestDial_SendsFragments(t *testing.T) {
	c := dial(t, "/echo", nil)
	for _, typ := range []websocket.MessageType{websocket.TextMessage, websocket.BinaryMessage} {
		w, err := c.Writer(patient(t), typ)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		for i := range 40_000 {
			for _, part := range []string{"W\xc3", "\xb6rld", fmt.Sprint(i), ""} {
				want.WriteString(part)
				if _, err := io.WriteString(w, part); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if p := receive(t, c, typ); !bytes.Equal(p, want.Bytes()) {
			t.Errorf("%d bytes came back as %d other ones", want.Len(), len(p))
		}
	}
}

func TestDial_ReadsMessageAsStream(t *testing.T) {
	c := dial(t, "/echo", nil)
	want := strings.Repeat("a stream of ünïcödé ", 20_000)
	if err := c.Send(websocket.TextMessage, []byte(want)); err != nil {
		t.Fatal(err)
	}
	_, r, err := c.Reader(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != want {
		t.Errorf("read %d bytes of %d: %v", len(got), len(want), err)
	}
}

func TestDial_DeliversMessages(t *testing.T) {
	c := dial(t, "/echo", nil)
	got := make(chan string, 10)
	c.OnMessage(func(m websocket.Message, err error) {
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(m.Data)
	})
	for i := range 3 {
		if err := c.Send(websocket.TextMessage, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		if p := <-got; p != fmt.Sprint(i) {
			t.Errorf("got %q", p)
		}
	}
	c.Close(websocket.StatusNormalClosure, "")
	if p := <-got; p != net.ErrClosed.Error() {
		t.Errorf("ended with %q", p)
	}
}

func TestDial_KeepsTheOrderOfSmallMessages(t *testing.T) {
	const count = 10_000
	c := dial(t, "/echo", nil)
	failed := make(chan error, 1)
	go func() {
		for i := range count {
			if err := c.Write(context.Background(), websocket.TextMessage, fmt.Append(nil, i)); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	next := 0
	for m, err := range c.Messages(patient(t)) {
		if err != nil || string(m.Data) != fmt.Sprint(next) {
			t.Fatalf("message %d is %q, %v", next, m.Data, err)
		}
		if next++; next == count {
			break
		}
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

func TestDial_CancelledReadLosesNothing(t *testing.T) {
	c := dial(t, "/echo", nil)
	message := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	cancelled := 0
	for i := range 50 {
		if err := c.Send(websocket.BinaryMessage, message); err != nil {
			t.Fatal(err)
		}
		for {
			ctx, cancel := context.WithTimeout(patient(t), time.Duration(1+i%5)*time.Millisecond)
			_, p, err := c.Read(ctx)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				cancelled++
				continue
			}
			if err != nil || !bytes.Equal(p, message) {
				t.Fatalf("message %d: %d bytes, %v", i, len(p), err)
			}
			break
		}
	}
	if cancelled == 0 {
		t.Error("no read was cancelled")
	}
}

func TestDial_IsClosedByServer(t *testing.T) {
	for _, want := range []websocket.CloseError{
		{Code: 1000}, {Code: 1001, Reason: "bye"}, {Code: 1011}, {Code: 1013, Reason: "later"},
		{Code: 3000, Reason: "Grüße ✓"}, {Code: 4999, Reason: strings.Repeat("x", 123)},
	} {
		query := url.Values{"code": {fmt.Sprint(int(want.Code))}, "reason": {want.Reason}}.Encode()
		c := dial(t, "/close?"+query, nil)
		_, _, err := c.Read(patient(t))
		var got *websocket.CloseError
		if !errors.As(err, &got) || *got != want || !errors.Is(err, want.Code) {
			t.Errorf("closed with %v, want %v", err, want)
		}
		if err := c.Write(patient(t), websocket.TextMessage, nil); !errors.Is(err, want.Code) {
			t.Errorf("Write after %v: %v", want, err)
		}
		<-c.Context().Done()
		if err := context.Cause(c.Context()); !errors.Is(err, want.Code) {
			t.Errorf("cause %v, want %v", err, want)
		}
		if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("Close after %v: %v", want, err)
		}
	}
}

func TestDial_IsClosedByServerWithoutCode(t *testing.T) {
	c := dial(t, "/close", nil)
	for m, err := range c.Messages(patient(t)) {
		t.Errorf("%q, %v; want a quiet end", m.Data, err)
	}
}

func TestDial_WriteTellsThatServerHasClosed(t *testing.T) {
	c := dial(t, "/close?code=4321&reason=enough", nil)
	for {
		err := c.Write(patient(t), websocket.TextMessage, []byte("nobody reads the close frame"))
		if err == nil {
			time.Sleep(time.Millisecond) // let the event come
			continue
		}
		if !errors.Is(err, websocket.StatusCode(4321)) {
			t.Errorf("Write: %v", err)
		}
		break
	}
}

func TestDial_Closes(t *testing.T) {
	for i, test := range []struct {
		code   websocket.StatusCode
		reason string
		want   string
	}{
		{1000, "", "1000"},
		{1000, "all is said", "1000 all is said"},
		{3000, "Grüße ✓", "3000 Grüße ✓"},
		{4999, strings.Repeat("x", 123), "4999 " + strings.Repeat("x", 123)},
		{websocket.StatusGoingAway, "home", "1000 home"}, // a page may not send 1001
	} {
		id := fmt.Sprintf("closes%d", i)
		c := dial(t, "/echo?id="+id, nil)
		if err := c.Write(patient(t), websocket.TextMessage, []byte("goes out before")); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(test.code, test.reason); err != nil {
			t.Errorf("Close(%d): %v", test.code, err)
		}
		if got := tell(t, "/ended", id); got != test.want {
			t.Errorf("Close(%d, %q): the server saw %q, want %q", test.code, test.reason, got, test.want)
		}
		if _, _, err := c.Read(patient(t)); err != net.ErrClosed {
			t.Errorf("Read after Close: %v", err)
		}
		if err := c.Send(websocket.TextMessage, nil); err != net.ErrClosed {
			t.Errorf("Send after Close: %v", err)
		}
		if err := c.Close(test.code, ""); err != net.ErrClosed {
			t.Errorf("second Close: %v", err)
		}
	}
}

func TestDial_WrongCloseChangesNothing(t *testing.T) {
	c := dial(t, "/echo", nil)
	for _, err := range []error{c.Close(1006, ""), c.Close(5000, ""), c.Close(1000, strings.Repeat("x", 124)), c.Close(1000, "\xff")} {
		if err == nil {
			t.Error("Close took what may not be sent")
		}
	}
	if err := c.Write(patient(t), websocket.TextMessage, []byte("alive")); err != nil {
		t.Fatal(err)
	}
	receive(t, c, websocket.TextMessage)
}

func TestDial_CloseNowUnblocksEverything(t *testing.T) {
	c := dial(t, "/echo?id=now", nil)
	reading := make(chan error, 1)
	go func() {
		_, _, err := c.Read(context.Background())
		reading <- err
	}()
	runtime.Gosched()
	if err := c.CloseNow(); err != nil {
		t.Errorf("CloseNow: %v", err)
	}
	if err := <-reading; err != net.ErrClosed {
		t.Errorf("Read: %v", err)
	}
	if err := c.CloseNow(); err != net.ErrClosed {
		t.Errorf("second CloseNow: %v", err)
	}
	if got := tell(t, "/ended", "now"); got != "1005" && got != "lost" {
		t.Errorf("the server saw %q", got)
	}
}

func TestDial_AbruptEnd(t *testing.T) {
	c := dial(t, "/abort", nil)
	if p := receive(t, c, websocket.TextMessage); string(p) != "before" {
		t.Errorf("got %q", p)
	}
	if err := c.Write(patient(t), websocket.TextMessage, []byte("got it")); err != nil {
		t.Errorf("Write: %v", err)
	}
	_, _, err := c.Read(patient(t))
	if !errors.Is(err, websocket.StatusAbnormalClosure) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read: %v", err)
	}
	if _, _, again := c.Read(patient(t)); again != err {
		t.Errorf("second Read: %v, want %v", again, err)
	}
}

// fill sends numbered messages until the connection accepts no more, even after a while, and returns how many it
// accepted.
func fill(t *testing.T, c *websocket.Conn, limit int) (count int) {
	t.Helper()
	message := make([]byte, 10_000)
	for refused := 0; refused < 50; {
		copy(message, fmt.Sprintf("%8d", count))
		switch err := c.Send(websocket.BinaryMessage, message); err {
		case nil:
			count++
			refused = 0
		case websocket.ErrBacklog:
			refused++
			time.Sleep(5 * time.Millisecond) // the browser sends what it has buffered
		default:
			t.Fatal(err)
		}
		if pending := c.Stats().Pending; pending > limit {
			t.Fatalf("%d bytes are pending", pending)
		}
	}
	return count
}

func TestDial_SendToServerThatDoesNotRead(t *testing.T) {
	const limit = 200_000
	c := dial(t, "/deaf?id=deaf", &websocket.Options{MaxPending: limit})
	count := fill(t, c, limit+20)
	if err := c.Send(websocket.BinaryMessage, make([]byte, limit)); err != websocket.ErrBacklog {
		t.Errorf("Send: %v", err)
	}
	ctx, cancel := context.WithTimeout(patient(t), 50*time.Millisecond)
	defer cancel()
	if err := c.Write(ctx, websocket.BinaryMessage, make([]byte, limit)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
	t.Logf("%d messages went into buffers", count)

	tell(t, "/hear", "deaf")
	if err := c.Write(patient(t), websocket.TextMessage, []byte("end")); err != nil {
		t.Fatal(err)
	}
	if got := string(receive(t, c, websocket.TextMessage)); got != fmt.Sprint(count) {
		t.Errorf("%s messages arrived in order, want %d", got, count)
	}
	if pending := c.Stats().Pending; pending != 0 {
		t.Errorf("%d bytes are pending", pending)
	}
}

func TestDial_WriteTimeoutEndsTheWait(t *testing.T) {
	c := dial(t, "/deaf?id=timeout", &websocket.Options{WriteTimeout: 200 * time.Millisecond, MaxPending: 100_000})
	message := make([]byte, 4<<20)
	var err error
	for err == nil {
		err = c.Write(patient(t), websocket.BinaryMessage, message)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, websocket.StatusAbnormalClosure) {
		t.Errorf("Write: %v", err)
	}
	if _, _, again := c.Read(patient(t)); again != err {
		t.Errorf("Read: %v, want %v", again, err)
	}
}

func TestDial_CancelledWriteOfSentMessageFails(t *testing.T) {
	c := dial(t, "/deaf?id=cancel", nil)
	ctx, cancel := context.WithTimeout(patient(t), 50*time.Millisecond)
	defer cancel()
	var err error
	for err == nil {
		err = c.Write(ctx, websocket.BinaryMessage, make([]byte, 4<<20))
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
}

func TestGroup_Of200Connections(t *testing.T) {
	const count = 200
	var g websocket.Group
	got := make(chan error, count)
	for i := range count {
		c := dial(t, fmt.Sprintf("/echo?id=group%d", i), &websocket.Options{Group: &g})
		go func() {
			_, p, err := c.Read(patient(t))
			if err == nil && string(p) != "to all" {
				err = fmt.Errorf("got %q", p)
			}
			got <- err
		}()
	}
	if n := g.Len(); n != count {
		t.Errorf("the group has %d connections", n)
	}
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, []byte("to all"))
	if err != nil {
		t.Fatal(err)
	}
	if n := g.Broadcast(m); n != count {
		t.Errorf("%d connections took the message", n)
	}
	for range count {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if err := g.Shutdown(patient(t), 4000, "closing time"); err != nil {
		t.Error(err)
	}
	for _, i := range []int{0, 99, 199} {
		if got := tell(t, "/ended", fmt.Sprintf("group%d", i)); got != "4000 closing time" {
			t.Errorf("the server saw %q", got)
		}
	}
	if _, err := websocket.Dial(patient(t), *server+"/echo", &websocket.Options{Group: &g}); err == nil {
		t.Error("a connection joined a group that was shut down")
	}
}

func TestDial_MessageTooBig(t *testing.T) {
	c := dial(t, "/echo?id=big", &websocket.Options{MaxMessageSize: 1000})
	if err := c.Write(patient(t), websocket.BinaryMessage, make([]byte, 1001)); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.Read(patient(t))
	if !errors.Is(err, websocket.ErrMessageTooBig) || !errors.Is(err, websocket.StatusMessageTooBig) {
		t.Errorf("Read: %v", err)
	}
	if got := tell(t, "/ended", "big"); !strings.HasPrefix(got, "1000 message") { // a page may not send 1009
		t.Errorf("the server saw %q", got)
	}
}

func TestDial_SendsNoInvalidText(t *testing.T) {
	c := dial(t, "/echo", nil)
	if err := c.Write(patient(t), websocket.TextMessage, []byte("\xff")); err == nil {
		t.Error("Write took text that is not UTF-8")
	}
	if err := c.Write(patient(t), websocket.BinaryMessage, []byte("\xff")); err != nil {
		t.Fatal(err)
	}
	if p := receive(t, c, websocket.BinaryMessage); string(p) != "\xff" {
		t.Errorf("got %q", p)
	}
}

func TestDial_AnswersServersPing(t *testing.T) {
	c := dial(t, "/ping", nil)
	receive(t, c, websocket.TextMessage) // sent after the pong
}

func TestDial_KeepAliveEndsNoSilentConnection(t *testing.T) {
	c := dial(t, "/echo", &websocket.Options{KeepAlive: 10 * time.Millisecond})
	ctx, cancel := context.WithTimeout(patient(t), 200*time.Millisecond)
	defer cancel()
	if _, _, err := c.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Read: %v", err)
	}
	reading := c.CloseRead(patient(t))
	if _, err := c.Ping(reading); err != nil {
		t.Errorf("Ping: %v", err)
	}
}

func TestDial_CarriesStream(t *testing.T) {
	c := dial(t, "/echo", nil)
	s := c.Stream(websocket.BinaryMessage)
	go io.WriteString(s, "bytes of a stream")
	p := make([]byte, 17)
	if _, err := io.ReadFull(s, p); err != nil || string(p) != "bytes of a stream" {
		t.Errorf("read %q, %v", p, err)
	}
	s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := s.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
}

func TestDial_Subprotocol(t *testing.T) {
	c := dial(t, "/echo", &websocket.Options{Subprotocols: []string{"one", "two"}})
	if got := c.Subprotocol(); got != "two" {
		t.Errorf("subprotocol %q", got)
	}
	if nc := c.NetConn(); nc != nil {
		t.Errorf("NetConn returned a %T", nc)
	}
	if local, remote := c.LocalAddr(), c.RemoteAddr(); local.String() == "" || !strings.HasPrefix(remote.String(), *server) {
		t.Errorf("addresses %q and %q", local, remote)
	}
}

func TestDial_TakesURLOfHTTP(t *testing.T) {
	c, err := websocket.Dial(patient(t), strings.Replace(*server, "ws", "HTTP", 1)+"/echo", &websocket.Options{
		Compression: &websocket.Compression{}, // ignored: the browser decides
	})
	if err != nil {
		t.Fatal(err)
	}
	c.CloseNow()
}

// handshakeError checks that err is the error of a handshake and has nothing from a response.
func handshakeError(t *testing.T, err error) *websocket.HandshakeError {
	t.Helper()
	var he *websocket.HandshakeError
	if !errors.As(err, &he) || he.Reason == "" || he.StatusCode != 0 || he.Body != nil {
		t.Fatalf("Dial: %#v", err)
	}
	return he
}

func TestDial_RefusedHandshake(t *testing.T) {
	_, err := websocket.Dial(patient(t), *server+"/refuse", nil)
	if he := handshakeError(t, err); !strings.Contains(he.Reason, "browser") {
		t.Errorf("Dial: %v", err)
	}
}

func TestDial_RefusesBeforeAnythingIsOpened(t *testing.T) {
	for _, test := range []struct {
		name, url, want string
		opts            *websocket.Options
	}{
		{"HTTP/2", *server, "HTTP2", &websocket.Options{HTTP2: true}},
		{"level", *server, "Level", &websocket.Options{Compression: &websocket.Compression{Level: 10}}},
		{"subprotocol", *server, "token", &websocket.Options{Subprotocols: []string{"no token"}}},
		{"scheme", "ftp://127.0.0.1", "scheme", nil},
		{"relative", "/echo", "scheme", nil},
		{"no host", "ws://", "", nil},
		{"fragment", *server + "#x", "fragment", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := websocket.Dial(patient(t), test.url, test.opts)
			if c != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Dial: %v, %v", c, err)
			}
			handshakeError(t, err)
		})
	}
}

func TestDial_EndsWithItsContext(t *testing.T) {
	cause := errors.New("the user went away")
	before, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	during, stop := context.WithTimeoutCause(context.Background(), 50*time.Millisecond, cause)
	defer stop()
	for _, ctx := range []context.Context{before, during} {
		_, err := websocket.Dial(ctx, *server+"/hang", nil)
		handshakeError(t, err)
		if !errors.Is(err, ctx.Err()) || !errors.Is(err, cause) {
			t.Errorf("Dial: %v", err)
		}
	}
	c := func() *websocket.Conn {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		c, err := websocket.Dial(ctx, *server+"/echo", nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}()
	defer c.CloseNow()
	if err := c.Write(patient(t), websocket.TextMessage, []byte("the context bounds the handshake only")); err != nil {
		t.Fatal(err)
	}
	receive(t, c, websocket.TextMessage)
}

func TestPipe_WorksHere(t *testing.T) {
	s, c := websocket.Pipe(nil, &websocket.Options{Compression: &websocket.Compression{}})
	defer s.CloseNow()
	defer c.CloseNow()
	message := make([]byte, 100_000)
	copy(message, base64.StdEncoding.EncodeToString(message[:3000]))
	go c.Write(context.Background(), websocket.BinaryMessage, message)
	if p := receive(t, s, websocket.BinaryMessage); !bytes.Equal(p, message) {
		t.Error("the message came out changed")
	}
}

// Run last: everything that the tests above have opened is closed, and nothing is left of it.
func TestZ_LeavesNoGoroutines(t *testing.T) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if runtime.NumGoroutine() <= 4 {
			return
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left\n%s", runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}
