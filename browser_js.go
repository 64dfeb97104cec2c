package websocket

// The browser's WebSocket object as a net.Conn: the events of the object, and reading. browserwriter_js.go has the
// writing.

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall/js"
	"time"
)

// A browserConn is a net.Conn over a browser's WebSocket object, which does the handshake and the framing. The Conn on
// top writes frames to it, which become calls of the object's send and close, and reads frames from it, which it makes
// from the object's events. Everything else that a Conn does, such as its limits and its closing handshake, is
// therefore the same as over a socket. Multiple goroutines may call its methods simultaneously.
//
// Events run on the goroutine of the JavaScript event loop, which must not block. Code that holds mu therefore never
// blocks.
type browserConn struct {
	url       string
	object    js.Value
	onMessage js.Func
	onEvent   js.Func    // of every other event
	opened    chan error // capacity 1: nil once the connection is open, or why it could not be opened
	lost      error      // the error of an abrupt end; only events use it

	reads, writes waiter // of Read and of Write
	deadlines            // of reads and of writes

	mu      sync.Mutex     // guards the fields below
	arrived []browserFrame // not read yet
	end     error          // why the connection is over: net.ErrClosed after Close; nil while it is open

	out browserWriter // the holder of writes.turn owns it
}

// A browserFrame is a frame to be read: bytes that begin with its header, and the payload of a message. The payload
// stays in JavaScript's memory until the Conn has judged the length in the header and asks for the bytes.
type browserFrame struct {
	head    []byte
	payload js.Value // a Uint8Array with the unread bytes of the payload
	left    int      // its length
}

// The constructor and the encoder are used for every message.
var (
	uint8Array  = js.Global().Get("Uint8Array")
	textEncoder = js.Global().Get("TextEncoder").New()

	errBrowserLost = errors.New("the browser has lost the connection")
)

// newBrowserConn makes a WebSocket object, which begins its handshake. No event is missed, because none happens before
// the event loop runs.
func newBrowserConn(url string, subprotocols []string) (*browserConn, error) {
	object, err := newObject(url, subprotocols)
	if err != nil {
		return nil, err
	}
	b := &browserConn{
		url:    url,
		object: object,
		opened: make(chan error, 1),
		lost:   errBrowserLost,
		reads:  newWaiter(),
		writes: newWaiter(),
	}
	b.deadlines = deadlines{&b.reads.deadline, &b.writes.deadline}
	b.onMessage = js.FuncOf(b.message)
	b.onEvent = js.FuncOf(b.event)
	object.Set("binaryType", "arraybuffer")
	object.Set("onmessage", b.onMessage)
	for _, name := range [...]string{"onopen", "onerror", "onclose"} {
		object.Set(name, b.onEvent)
	}
	return b, nil
}

// message handles the event of a message. It is separate from event because it is called often, and the type of an
// event would be one more string to convert.
func (b *browserConn) message(_ js.Value, args []js.Value) any {
	var f browserFrame
	err := catch(func() { f = newBrowserFrame(args[0].Get("data")) })
	if err != nil { // the text is too large for the memory of the page
		b.finish(err)
		b.object.Call("close")
		return nil
	}
	b.deliver(f)
	return nil
}

// newBrowserFrame makes a frame of a message, a string or an ArrayBuffer. The browser has joined its fragments, so the
// frame is final.
func newBrowserFrame(data js.Value) browserFrame {
	h := header{fin: true, opcode: opBinary}
	if data.Type() == js.TypeString {
		h.opcode, data = opText, textEncoder.Call("encode", data)
	} else {
		data = uint8Array.New(data)
	}
	size := data.Length()
	h.length = uint64(size)
	return browserFrame{appendHeader(nil, &h), data, size}
}

// newControlFrame makes a control frame. A server's frames are not masked (RFC 6455, section 5.1).
func newControlFrame(op opcode, payload []byte) browserFrame {
	return browserFrame{head: appendFrame(nil, &header{fin: true, opcode: op}, payload)}
}

// deliver gives a frame to the reader. There is no limit, because the object cannot be told to stop reading from the
// network.
func (b *browserConn) deliver(f browserFrame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.arrived = append(b.arrived, f)
		b.reads.notify()
		b.writes.notify() // the connection is active: look at bufferedAmount
	}
}

// event handles every event except messages. An error event is always followed by a close event (WHATWG WebSockets,
// section 4), so only the latter ends the connection.
func (b *browserConn) event(_ js.Value, args []js.Value) any {
	switch event := args[0]; event.Get("type").String() {
	case "open":
		b.opened <- nil
	case "error":
		if m := event.Get("message"); m.Type() == js.TypeString && m.Truthy() { // a browser gives none
			b.lost = errors.New(m.String())
		}
	case "close":
		b.ended(StatusCode(event.Get("code").Int()), event.Get("reason").String())
	}
	return nil
}

// ended handles the end of the connection. A code that a close frame cannot carry means that no close frame arrived:
// 1006 "MUST NOT be set as a status code in a Close control frame by an endpoint" (RFC 6455, section 7.4.1). The
// exception is 1005, which the browser reports for a close frame without a code.
func (b *browserConn) ended(code StatusCode, reason string) {
	payload, err := closePayload(code, reason)
	if err == nil || code == StatusNoStatusRcvd {
		b.deliver(newControlFrame(opClose, payload))
		b.finish(&CloseError{code, reason})
	} else {
		b.finish(b.lost)
	}
	// This is the first value only if the handshake has failed. After the value of the open event, nothing reads it.
	select {
	case b.opened <- b.failure():
	default:
	}
}

// finish records why the connection is over, and detaches the object. Frames that have arrived can still be read.
func (b *browserConn) finish(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.setEnd(err)
	}
}

// setEnd sets the error that ends the connection. The first call detaches the object. The caller holds mu.
func (b *browserConn) setEnd(err error) {
	if b.end == nil {
		b.detach()
	}
	b.end = err
	b.reads.notify()
	b.writes.notify()
}

// detach removes the event handlers from the object and releases them, which frees the memory that JavaScript's
// references to Go functions hold. The caller holds mu.
func (b *browserConn) detach() {
	for _, name := range [...]string{"onmessage", "onopen", "onclose"} {
		b.object.Set(name, js.Null())
	}
	// npm's ws treats an error event without a handler as a bug in the program.
	ignore := js.Global().Get("Function").Get("prototype")
	b.object.Set("onerror", ignore)
	b.onMessage.Release()
	b.onEvent.Release()
}

// failure returns why the connection is over, or nil.
func (b *browserConn) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end
}

// Read waits for the first byte and returns the bytes that are available.
func (b *browserConn) Read(p []byte) (int, error) { return b.reads.read(p, b.read) }

// read moves bytes that have arrived to p. If there are none, it returns 0 and no error as long as more may arrive.
// After the last byte it returns io.EOF, even if the connection was lost: without a close frame before the end, the
// Conn reports a lost connection itself.
func (b *browserConn) read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == net.ErrClosed { // although unread frames may have arrived
		return 0, net.ErrClosed
	}
	for n < len(p) && len(b.arrived) > 0 {
		f := &b.arrived[0]
		n += f.read(p[n:])
		if len(f.head) == 0 && f.left == 0 {
			*f = browserFrame{} // frees the payload
			b.arrived = b.arrived[1:]
		}
	}
	if n == 0 && len(b.arrived) == 0 && b.end != nil {
		return 0, io.EOF
	}
	return n, nil
}

// read moves unread bytes of f to p.
func (f *browserFrame) read(p []byte) int {
	n := copy(p, f.head)
	f.head = f.head[n:]
	if n == len(p) || f.left == 0 {
		return n
	}
	m := js.CopyBytesToGo(p[n:], f.payload)
	f.payload = f.payload.Call("subarray", m)
	f.left -= m
	return n + m
}

// Close detaches the object and drops unread frames. The browser sends what it has buffered and closes the connection
// in the background.
func (b *browserConn) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == net.ErrClosed {
		return net.ErrClosed
	}
	b.arrived = nil
	b.setEnd(net.ErrClosed)
	b.SetDeadline(time.Time{}) // a running timer would keep b in memory
	return catch(func() { b.object.Call("close") })
}

// softDeadlines tells the Conn that a Read or Write may be repeated after its deadline has passed.
func (b *browserConn) softDeadlines() {}

func (b *browserConn) LocalAddr() net.Addr  { return streamAddr("browser") }
func (b *browserConn) RemoteAddr() net.Addr { return streamAddr(b.url) }
