package websocket

// The browser's WebSocket object as a net.Conn.

import (
	"cmp"
	"errors"
	"io"
	"net"
	"sync"
	"syscall/js"
	"time"
)

// A browserConn is a net.Conn over a browser's WebSocket object, which does the handshake and the framing. The Conn on
// top writes frames to it, which become calls of the object's send and close, and reads frames from it, which it
// makes from the object's events. Multiple goroutines may call its methods simultaneously.
//
// Events run on the goroutine of the JavaScript event loop, which must not block. Code that holds mu therefore never
// blocks.
type browserConn struct {
	url             string
	object          js.Value
	onMessage       js.Func
	onEvent         js.Func       // of every other event
	opened, refused chan struct{} // one of them is closed when the handshake is over

	reads, writes waiter // of Read and of Write
	deadlines

	mu       sync.Mutex     // guards the fields below
	arrived  []browserFrame // not read yet
	end      error          // why the connection is over: net.ErrClosed after Close
	detail   string         // message of the object's error event; a browser gives none
	detached bool           // the object makes no more calls

	out browserWriter // the holder of writes.turn owns it
}

// A browserFrame is a frame to be read: bytes that begin with its header, and the payload of a message.
type browserFrame struct {
	head    []byte
	payload js.Value // a Uint8Array of the given size
	size    int
	at      int // bytes of payload that were read
}

var (
	uint8Array  = js.Global().Get("Uint8Array")
	textEncoder = js.Global().Get("TextEncoder").New()

	errBrowserLost = errors.New("the browser has lost the connection")
)

// newBrowserConn makes a WebSocket object, which begins its handshake.
func newBrowserConn(url string, subprotocols []string) (*browserConn, error) {
	object, err := newObject(url, subprotocols)
	if err != nil {
		return nil, err
	}
	b := &browserConn{
		url:     url,
		object:  object,
		opened:  make(chan struct{}),
		refused: make(chan struct{}),
		reads:   newWaiter(),
		writes:  newWaiter(),
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

// message handles the event of a message.
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

// newBrowserFrame makes a frame of a message, a string or an ArrayBuffer.
func newBrowserFrame(data js.Value) browserFrame {
	h := header{fin: true, opcode: opBinary}
	if data.Type() == js.TypeString {
		h.opcode, data = opText, textEncoder.Call("encode", data)
	} else {
		data = uint8Array.New(data)
	}
	size := data.Length()
	h.length = uint64(size)
	return browserFrame{head: appendHeader(nil, &h), payload: data, size: size}
}

// newControlFrame makes a control frame.
func newControlFrame(op opcode, payload []byte) browserFrame {
	return browserFrame{head: appendFrame(nil, &header{fin: true, opcode: op}, payload)}
}

// deliver gives a frame to the reader.
func (b *browserConn) deliver(f browserFrame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.arrived = append(b.arrived, f)
		b.reads.notify()
		b.writes.notify() // the connection is active: look at bufferedAmount
	}
}

// event handles every event except messages.
func (b *browserConn) event(_ js.Value, args []js.Value) any {
	switch event := args[0]; event.Get("type").String() {
	case "open":
		close(b.opened)
	case "error":
		if detail := event.Get("message"); detail.Type() == js.TypeString {
			b.mu.Lock()
			b.detail = detail.String()
			b.mu.Unlock()
		}
	case "close":
		b.ended(StatusCode(event.Get("code").Int()), event.Get("reason").String())
	}
	return nil
}

// ended handles the end of the connection. A code that a close frame cannot carry means that no close frame arrived.
func (b *browserConn) ended(code StatusCode, reason string) {
	payload, err := closePayload(code, reason)
	switch {
	case err == nil || code == StatusNoStatusRcvd:
		b.deliver(newControlFrame(opClose, payload))
		b.finish(&CloseError{code, reason})
	default:
		b.finish(errBrowserLost)
	}
	select {
	case <-b.opened:
	default:
		close(b.refused)
	}
}

// finish records why the connection is over, and detaches the object. Frames that have arrived can still be read.
func (b *browserConn) finish(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == errBrowserLost && b.detail != "" {
		err = errors.New(b.detail)
	}
	if b.end == nil {
		b.end = err
	}
	b.detach()
	b.reads.notify()
	b.writes.notify()
}

// detach removes the event handlers from the object. The caller holds mu.
func (b *browserConn) detach() {
	if b.detached {
		return
	}
	b.detached = true
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
func (b *browserConn) Read(p []byte) (n int, err error) {
	late := b.reads.until(func() bool {
		n, err = b.read(p)
		return n > 0 || err != nil || len(p) == 0
	})
	return n, cmp.Or(late, err)
}

// read copies bytes that have arrived to p. If there are none, it returns 0 and no error.
func (b *browserConn) read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == net.ErrClosed {
		return 0, net.ErrClosed
	}
	for n < len(p) && len(b.arrived) > 0 {
		f := &b.arrived[0]
		n += f.read(p[n:])
		if f.isRead() {
			*f = browserFrame{}
			b.arrived = b.arrived[1:]
		}
	}
	if n == 0 && len(b.arrived) == 0 && b.end != nil {
		return 0, io.EOF
	}
	return n, nil
}

// read copies unread bytes of f to p.
func (f *browserFrame) read(p []byte) int {
	n := copy(p, f.head)
	f.head = f.head[n:]
	if n == len(p) || f.at == f.size {
		return n
	}
	rest := f.payload
	if f.at > 0 {
		rest = rest.Call("subarray", f.at)
	}
	m := js.CopyBytesToGo(p[n:], rest)
	f.at += m
	return n + m
}

// isRead reports whether all of f was read.
func (f *browserFrame) isRead() bool { return len(f.head) == 0 && f.at == f.size }

// Close detaches the object and drops unread frames. The browser sends what it has buffered and closes the connection
// in the background.
func (b *browserConn) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == net.ErrClosed {
		return net.ErrClosed
	}
	b.end, b.arrived = net.ErrClosed, nil
	b.detach()
	b.reads.notify()
	b.writes.notify()
	b.SetDeadline(time.Time{}) // a running timer would keep b in memory
	return catch(func() { b.object.Call("close") })
}

// softDeadlines tells the Conn that a Read or Write may be repeated after its deadline has passed.
func (b *browserConn) softDeadlines() {}

func (b *browserConn) LocalAddr() net.Addr  { return streamAddr("browser") }
func (b *browserConn) RemoteAddr() net.Addr { return streamAddr(b.url) }
