package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"syscall/js"
	"testing"
	"time"
)

// A fakeObject is a WebSocket object without a browser. It records the calls, and the tests make its events.
type fakeObject struct {
	js.Value
	conn   *browserConn
	sent   []string // what send was called with
	closed []string // what close was called with
}

func newFakeObject(t *testing.T) *fakeObject {
	t.Helper()
	f := &fakeObject{Value: js.Global().Get("Object").New()}
	f.Set("bufferedAmount", 0)
	method := func(call func([]js.Value)) js.Func {
		fn := js.FuncOf(func(_ js.Value, args []js.Value) any {
			call(args)
			return nil
		})
		t.Cleanup(fn.Release)
		return fn
	}
	f.Set("send", method(func(args []js.Value) {
		if args[0].Type() == js.TypeString {
			f.sent = append(f.sent, "text "+args[0].String())
			return
		}
		p := make([]byte, args[0].Length())
		js.CopyBytesToGo(p, args[0])
		f.sent = append(f.sent, "binary "+string(p))
	}))
	f.Set("close", method(func(args []js.Value) {
		call := "close"
		for _, a := range args {
			call += " " + js.Global().Get("String").Invoke(a).String()
		}
		f.closed = append(f.closed, call)
	}))
	replaceObject(t, func() js.Value { return f.Value })
	conn, err := newBrowserConn("ws://example.com", nil)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	f.conn = conn
	return f
}

// replaceObject makes newObject the constructor of WebSocket objects until the test ends.
func replaceObject(t *testing.T, newObject func() js.Value) {
	before := js.Global().Get("WebSocket")
	constructor := js.FuncOf(func(js.Value, []js.Value) any { return newObject() })
	js.Global().Set("WebSocket", constructor)
	t.Cleanup(func() {
		js.Global().Set("WebSocket", before)
		constructor.Release()
	})
}

// fire calls the handler of an event with the given fields, if there is one.
func (f *fakeObject) fire(name string, fields map[string]any) {
	if handler := f.Get("on" + name); handler.Type() == js.TypeFunction {
		event := js.ValueOf(fields)
		event.Set("type", name)
		handler.Invoke(event)
	}
}

func TestBrowserConn_IsNotOpenedInVain(t *testing.T) {
	replaceObject(t, func() js.Value {
		t.Error("the browser was asked to open a connection")
		return js.Null()
	})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var g Group
	g.Shutdown(context.Background(), StatusGoingAway, "")
	for _, test := range []struct {
		ctx  context.Context
		url  string
		opts *Options
	}{
		{ended, "ws://example.com", nil},
		{nil, "ws://example.com", nil},
		{context.Background(), "example.com", nil},
		{context.Background(), "ws://example.com", &Options{Group: &g}},
		{context.Background(), "ws://example.com", &Options{HTTP2: true}},
		{context.Background(), "ws://example.com", &Options{MaxPending: -1}},
	} {
		_, err := Dial(test.ctx, test.url, test.opts)
		if e := (*HandshakeError)(nil); !errors.As(err, &e) {
			t.Errorf("Dial: %v", err)
		}
	}
}

// clientFrame is a frame as a client under GOOS=js writes it.
func clientFrame(fin bool, op opcode, payload string) []byte {
	return appendFrame(nil, &header{fin: fin, opcode: op}, []byte(payload))
}

func TestBrowserConn_Sends_FramesCutAnywhere(t *testing.T) {
	long := strings.Repeat("0123456789", 30)
	frames := slices.Concat(
		clientFrame(true, opText, "Wörld"),
		clientFrame(true, opText, "\ufeffa mark"),
		clientFrame(true, opBinary, ""),
		clientFrame(false, opText, "W\xc3"),
		clientFrame(true, opPing, "in between"),
		clientFrame(false, opContinuation, ""),
		clientFrame(true, opContinuation, "\xb6rld"),
		clientFrame(false, opBinary, "\xff"),
		clientFrame(true, opContinuation, long),
		clientFrame(true, opPong, ""),
		clientFrame(true, opBinary, long),
	)
	want := []string{"text Wörld", "text \ufeffa mark", "binary ", "text Wörld", "binary \xff" + long, "binary " + long}
	for _, size := range []int{1, 2, 3, 7, 100, len(frames)} {
		f := newFakeObject(t)
		for piece := range slices.Chunk(frames, size) {
			if n, err := f.conn.tryWrite(piece); n != len(piece) || err != nil {
				t.Fatalf("pieces of %d bytes: took %d, %v", size, n, err)
			}
		}
		if !slices.Equal(f.sent, want) {
			t.Errorf("pieces of %d bytes: sent %.30q", size, f.sent)
		}
		pong := make([]byte, 100)
		if n, err := f.conn.Read(pong); string(pong[:n]) != "\x8a\x0ain between" || err != nil {
			t.Errorf("pieces of %d bytes: the ping was answered %q, %v", size, pong[:n], err)
		}
	}
}

func TestBrowserConn_Read_FramesCutAnywhere(t *testing.T) {
	long := strings.Repeat("x", 300)
	mark := js.Global().Get("String").Call("fromCharCode", 0xfeff) // Go would drop it from a string
	var want []byte
	for _, frame := range []struct {
		op      opcode
		payload string
	}{{opText, "Wörld"}, {opBinary, ""}, {opBinary, long}, {opText, "\ufeff"}, {opClose, "\x0f\xa0enough"}} {
		want = appendFrame(want, &header{fin: true, opcode: frame.op}, []byte(frame.payload))
	}
	for _, size := range []int{1, 2, 3, 7, 1000, len(want)} {
		f := newFakeObject(t)
		f.fire("message", map[string]any{"data": "Wörld"})
		f.fire("message", map[string]any{"data": js.Global().Get("ArrayBuffer").New(0)})
		f.fire("message", map[string]any{"data": textEncoder.Call("encode", long).Get("buffer")})
		f.fire("message", map[string]any{"data": textDecoder.Call("decode", textEncoder.Call("encode", mark))})
		f.fire("close", map[string]any{"code": 4000, "reason": "enough"})
		var got []byte
		p := make([]byte, size)
		for {
			n, err := f.conn.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			must(t, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("reads of %d bytes: got %d bytes, %.40q", size, len(got), got)
		}
	}
}

// A large message is passed on at once, and taken at the pace at which the browser sends it.
func TestBrowserConn_TakesMessage_AsBufferFalls(t *testing.T) {
	for _, size := range []int{1000, 200_000, 5 << 20} {
		f := newFakeObject(t)
		frame := clientFrame(true, opBinary, strings.Repeat("x", size))
		f.Set("bufferedAmount", browserWindow+size)
		taken, err := f.conn.tryWrite(frame)
		if taken < 1 || taken >= len(frame) || err != nil {
			t.Fatalf("took %d of %d, %v", taken, len(frame), err)
		}
		if len(f.sent) != 1 {
			t.Fatal("the message was not passed on")
		}
		for _, left := range []int{size, size - size/4, size / 2, size / 100, 1} {
			f.Set("bufferedAmount", browserWindow+left)
			n, err := f.conn.tryWrite(frame[taken:])
			taken += n
			if rest := len(frame) - taken; err != nil || rest < 1 || rest > left+1 {
				t.Errorf("%d of %d bytes are buffered: %d bytes are not taken, %v", left, size, rest, err)
			}
		}
		f.Set("bufferedAmount", browserWindow)
		next := clientFrame(true, opText, "next")
		n, err := f.conn.tryWrite(slices.Concat(frame[taken:], next))
		if n != len(frame)-taken+len(next) || err != nil || len(f.sent) != 2 || f.sent[1] != "text next" {
			t.Errorf("took %d, %v, and sent %.30q", n, err, f.sent)
		}
	}
}

// buffered makes bufferedAmount a function of how often it was looked at.
func (f *fakeObject) buffered(t *testing.T, amount func(look int) int) {
	looks := 0
	get := js.FuncOf(func(js.Value, []js.Value) any {
		looks++
		return amount(looks)
	})
	t.Cleanup(get.Release)
	js.Global().Get("Object").Call("defineProperty", f.Value, "bufferedAmount", map[string]any{"get": get})
}

func (f *fakeObject) newConn(opts *Options) *Conn { return newConn(f.conn, opts.config(false)) }

func TestBrowserConn_SlowBrowserIsNoStall(t *testing.T) {
	const size, looks = 1 << 20, 100
	f := newFakeObject(t)
	f.buffered(t, func(look int) int {
		if len(f.sent) == 0 {
			return 0
		}
		return browserWindow + max(size-size/looks*look, 0)
	})
	c := f.newConn(&Options{WriteTimeout: 20 * time.Millisecond}) // less than as many looks take
	defer c.CloseNow()
	wantOK(t, "Write", c.Write(context.Background(), BinaryMessage, make([]byte, size)))
	if pending := c.Stats().Pending; pending != 0 {
		t.Errorf("%d bytes are pending", pending)
	}
}

func TestBrowserConn_StandstillIsAStall(t *testing.T) {
	f := newFakeObject(t)
	f.buffered(t, func(int) int { return browserWindow + 1000*len(f.sent) })
	c := f.newConn(&Options{WriteTimeout: 20 * time.Millisecond})
	defer c.CloseNow()
	err := c.Write(context.Background(), BinaryMessage, make([]byte, 1000))
	if !errors.Is(err, errStalled) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
}

func TestBrowserConn_BufferedBytesArePending(t *testing.T) {
	f := newFakeObject(t)
	f.buffered(t, func(int) int { return browserWindow + 1000*len(f.sent) })
	c := f.newConn(&Options{MaxPending: 2500})
	defer c.CloseNow()
	for i := range 2 {
		if err := c.Send(BinaryMessage, make([]byte, 1000)); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := c.Send(BinaryMessage, make([]byte, 1000)); err != ErrBacklog {
		t.Errorf("Send: %v", err)
	}
	if len(f.sent) != 1 {
		t.Errorf("the browser was given %d messages", len(f.sent))
	}
}

func TestBrowserConn_ClosesWithCodesOfAPage(t *testing.T) {
	for _, test := range []struct{ payload, want string }{
		{"", "close"},
		{"\x03\xe8", "close 1000 "},
		{"\x03\xe8bye", "close 1000 bye"},
		{"\x03\xe9bye", "close 1000 bye"},
		{"\x03\xf6", "close 1000 "},
		{"\x0b\xb7", "close 1000 "}, // 2999
		{"\x0b\xb8Grüße", "close 3000 Grüße"},
		{"\x13\x87", "close 4999 "},
	} {
		f := newFakeObject(t)
		if _, err := f.conn.Write(clientFrame(true, opClose, test.payload)); err != nil {
			t.Fatal(err)
		}
		if len(f.closed) != 1 || f.closed[0] != test.want {
			t.Errorf("%q: %q, want %q", test.payload, f.closed, test.want)
		}
	}
}

func TestBrowserConn_EndsWithoutCloseFrame(t *testing.T) {
	for _, code := range []int{1006, 1015, 0, 999, 5000} {
		f := newFakeObject(t)
		f.fire("error", map[string]any{"message": "no such luck"})
		f.fire("close", map[string]any{"code": code, "reason": ""})
		if n, err := f.conn.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("code %d: Read: %d, %v", code, n, err)
		}
		if _, err := f.conn.Write(clientFrame(true, opText, "x")); err == nil || err.Error() != "no such luck" {
			t.Errorf("code %d: Write: %v", code, err)
		}
		if !f.Get("onmessage").IsNull() || !f.Get("onclose").IsNull() {
			t.Errorf("code %d: the object still has handlers", code)
		}
	}
}

func TestBrowserConn_ThrowingObjectFailsTheConnection(t *testing.T) {
	f := newFakeObject(t)
	f.Set("send", js.Global().Get("Function").New("throw new RangeError('too large')"))
	c := f.newConn(&Options{})
	err := c.Write(context.Background(), BinaryMessage, make([]byte, 10))
	if !errors.Is(err, StatusAbnormalClosure) || !strings.Contains(err.Error(), "too large") {
		t.Errorf("Write: %v", err)
	}
	if !slices.Contains(f.closed, "close") {
		t.Error("the object was not closed")
	}
}

func TestBrowserConn_DeadlinesCanBeMoved(t *testing.T) {
	f := newFakeObject(t)
	f.conn.SetReadDeadline(past)
	if _, err := f.conn.Read(make([]byte, 1)); err != os.ErrDeadlineExceeded {
		t.Errorf("Read: %v", err)
	}
	f.conn.SetReadDeadline(time.Time{})
	f.fire("message", map[string]any{"data": "x"})
	if n, err := f.conn.Read(make([]byte, 10)); n != 3 || err != nil {
		t.Errorf("Read: %d, %v", n, err)
	}
	f.Set("bufferedAmount", browserWindow+100)
	frame := clientFrame(true, opBinary, "0123456789")
	f.conn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	n, err := f.conn.Write(frame)
	if n < 1 || n == len(frame) || err != os.ErrDeadlineExceeded {
		t.Errorf("Write: %d, %v", n, err)
	}
	f.Set("bufferedAmount", 0)
	f.conn.SetWriteDeadline(time.Time{})
	if m, err := f.conn.Write(frame[n:]); m != len(frame)-n || err != nil || len(f.sent) != 1 {
		t.Errorf("Write: %d, %v, and %d messages were sent", m, err, len(f.sent))
	}
}
