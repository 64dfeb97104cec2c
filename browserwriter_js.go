package websocket

// The frames that a Conn writes, as calls of the browser's WebSocket object.

import (
	"encoding/binary"
	"syscall/js"
	"time"
)

const (
	// browserWindow is how many bytes the browser may buffer before the Conn has to wait, like the buffer of a socket.
	browserWindow = 64 << 10

	// A browser has no event for bufferedAmount. It is polled after minPoll and, while it stays above the window, at
	// growing intervals of up to maxPoll.
	minPoll = time.Millisecond
	maxPoll = 32 * time.Millisecond
)

// textDecoder keeps a byte order mark, which is a character of the message.
var textDecoder = js.Global().Get("TextDecoder").New("utf-8", map[string]any{"ignoreBOM": true})

// A browserWriter turns the bytes that a Conn writes into calls of a browser's WebSocket object.
//
// The object takes whole messages. To show the Conn how fast the browser sends a large message, the last bytes of the
// message are reported as written only as bufferedAmount falls. The Conn offers these held bytes again, and the
// browserWriter skips them. WriteTimeout, MaxPending and the waiting of Write thus work as with the buffer of a socket.
type browserWriter struct {
	head    []byte // the start of a header that is not complete
	inFrame bool   // the header was complete: payload follows
	frame   header
	left    uint64 // bytes of the payload to come
	control []byte // payload of a control frame

	message js.Value // Uint8Array with room for a message, in JavaScript's memory
	size    int      // how many bytes of the message it has
	text    bool

	held     int // bytes that were passed on but not reported as written
	heldAt   int // held and the excess of bufferedAmount over the window, when the message was passed on
	excessAt int
}

// Write waits until all of p is accepted. If the deadline passes first, Write returns the number of accepted bytes.
func (b *browserConn) Write(p []byte) (int, error) { return b.writeLeast(p, len(p)) }

// writeSome waits until a part of p is accepted.
func (b *browserConn) writeSome(p []byte) (int, error) { return b.writeLeast(p, 1) }

// tryWrite passes frames on until the browser has buffered enough. It accepts nothing while another goroutine writes.
func (b *browserConn) tryWrite(p []byte) (int, error) { return b.writes.tryWrite(p, b.write) }

// writeLeast waits until at least the given number of bytes is accepted. It looks at bufferedAmount when the connection
// is active, and when the poll timer fires.
func (b *browserConn) writeLeast(p []byte, least int) (int, error) {
	wait := minPoll
	poll := time.AfterFunc(wait, b.writes.notify)
	defer poll.Stop()
	return b.writes.write(p, least, func(p []byte) (int, error) {
		n, err := b.write(p)
		if n > 0 {
			wait = minPoll
		}
		poll.Reset(wait)
		wait = min(2*wait, maxPoll)
		return n, err
	})
}

// write passes frames on and returns how many bytes of p are accepted at once. If the browser has buffered more than
// the window after a message, write holds the last bytes of the message, and passes nothing on until they are released.
// The caller holds the turn.
func (b *browserConn) write(p []byte) (n int, err error) {
	if err := b.failure(); err != nil {
		return 0, err
	}
	w := &b.out
	err = catch(func() {
		if w.held > 0 { // p begins with the held bytes
			n = w.release(b.excess())
		}
		for n < len(p) && w.held == 0 {
			m := w.take(b, p[n:])
			n += m
			if excess := b.excess(); excess > 0 {
				// At least one byte is reported, so that the Conn knows that it cannot withdraw the frame.
				w.held = min(excess, m, n-1)
				w.heldAt, w.excessAt = w.held, excess
				n -= w.held
			}
		}
	})
	return n, err
}

// excess returns by how many bytes the browser's buffer exceeds the window.
func (b *browserConn) excess() int { return b.object.Get("bufferedAmount").Int() - browserWindow }

// release returns how many held bytes to report as written, in proportion to the bytes that left the browser's buffer.
// A message that is much larger than its last write then still shows progress as often as its sending does.
func (w *browserWriter) release(excess int) int {
	held := 0
	if excess > 0 {
		held = min(w.held, (w.heldAt*excess+w.excessAt-1)/w.excessAt)
	}
	n := w.held - held
	w.held = held
	return n
}

// take consumes bytes of p up to the end of a frame, and returns their number. The bytes may begin and end anywhere in
// a frame. The Conn has made them, so the header is valid. Under GOOS=js it does not mask them.
func (w *browserWriter) take(b *browserConn, p []byte) (n int) {
	for !w.inFrame {
		if n == len(p) {
			return n
		}
		w.head = append(w.head, p[n])
		n++
		var h header
		if size, _ := h.parse(w.head); size > 0 {
			w.begin(h)
		}
	}
	k := int(min(w.left, uint64(len(p)-n)))
	w.add(p[n : n+k])
	if w.left -= uint64(k); w.left == 0 {
		w.finish(b)
	}
	return n + k
}

// begin begins a frame. The first frame of a message makes room for its payload, which usually is the whole message. A
// message of Conn.Writer has more frames, for which the room at least doubles, so that each byte is copied a bounded
// number of times.
func (w *browserWriter) begin(h header) {
	w.head, w.control = w.head[:0], w.control[:0]
	w.inFrame, w.frame, w.left = true, h, h.length
	if h.opcode.isControl() {
		return
	}
	room := int(h.length) // fits, because the payload is in memory
	if h.opcode == opContinuation {
		room += w.size
		if room <= w.message.Length() {
			return
		}
		room = max(room, 2*w.size)
	} else {
		w.size, w.text = 0, h.opcode == opText
	}
	larger := uint8Array.New(room)
	if w.size > 0 {
		larger.Call("set", w.message.Call("subarray", 0, w.size))
	}
	w.message = larger
}

func (w *browserWriter) add(p []byte) {
	switch {
	case w.frame.opcode.isControl():
		w.control = append(w.control, p...)
	case len(p) > 0:
		rest := w.message
		if w.size > 0 {
			rest = rest.Call("subarray", w.size)
		}
		w.size += js.CopyBytesToJS(rest, p)
	}
}

// finish handles a frame that is complete. The object has no method that sends a ping or a pong. A ping is answered
// here, because KeepAlive would otherwise close a connection whose peer has nothing to say. A pong is dropped.
func (w *browserWriter) finish(b *browserConn) {
	w.inFrame = false
	switch h := w.frame; {
	case h.opcode == opClose:
		b.closeObject(w.control)
	case h.opcode == opPing:
		b.deliver(newControlFrame(opPong, w.control))
	case !h.opcode.isControl() && h.fin:
		b.object.Call("send", w.whole())
	}
}

// whole returns the message in the form that send accepts: a string or a Uint8Array.
func (w *browserWriter) whole() (message js.Value) {
	message, w.message = w.message, js.Value{}
	if w.size < message.Length() {
		message = message.Call("subarray", 0, w.size)
	}
	if w.text {
		message = textDecoder.Call("decode", message)
	}
	return message
}

// closeObject makes the browser send a close frame with the given payload: nothing, or a code and a reason. A code that
// a page may not send becomes 1000. "If code is present, but is neither an integer equal to 1000 nor an integer in the
// range 3000 to 4999, inclusive, throw an InvalidAccessError" (WHATWG WebSockets, section 3).
func (b *browserConn) closeObject(payload []byte) {
	if len(payload) < 2 {
		b.object.Call("close")
		return
	}
	code := StatusCode(binary.BigEndian.Uint16(payload))
	if code < 3000 || code > 4999 {
		code = StatusNormalClosure
	}
	b.object.Call("close", int(code), string(payload[2:]))
}
