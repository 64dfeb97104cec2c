package websocket

// permessage-deflate (RFC 7692): the option, its negotiation in both roles, and the compression and decompression of
// messages on top of deflate.go and inflate.go.

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
)

// Compression configures permessage-deflate (RFC 7692), which Dial offers and Upgrade accepts. The zero value
// compresses each message separately. It needs the least memory: a connection holds no window between messages.
//
// If a secret is compressed together with text that an attacker chooses, the attacker can guess the secret from the
// length of the result, even over TLS (the CRIME and BREACH attacks). Send secrets with [Uncompressed] set, and do not
// set ContextTakeover on connections that carry them.
type Compression struct {
	// Level is the compression level, from 1 (fastest) to 9 (smallest), as in compress/flate. Zero means 1.
	Level int

	// Threshold is the length in bytes below which a message is sent uncompressed. Zero means 128, and a negative value
	// means that all messages are compressed. A message that compression would not shorten is sent uncompressed.
	Threshold int

	// ContextTakeover keeps the compression window from message to message, in both directions if the peer agrees.
	// Small messages that resemble each other become much shorter. For sending, a connection then holds up to a window
	// and 16 KiB at level 1, and up to two windows and 24 KiB at higher levels. For receiving, it holds a window.
	//
	// A client that does not set ContextTakeover still accepts a server that keeps its own window. The connection then
	// holds a window for receiving.
	ContextTakeover bool

	// WindowBits is the base-2 logarithm of the largest window used in either direction: 8 to 15 for 256 bytes to
	// 32 KiB. Zero means 15. Choose at least 9: zlib cannot compress with a window of 256 bytes, so 8 breaks the
	// connection to a peer that uses zlib.
	//
	// Some servers refuse a client that sets WindowBits, because they cannot limit their own window. A server cannot
	// limit the window of a client whose offer lacks client_max_window_bits (RFC 7692, section 7.1.2.2).
	WindowBits int
}

const (
	deflateName      = "permessage-deflate"
	minWindowBits    = 8
	maxWindowBits    = 15
	defaultThreshold = 128
)

// An extension is an element of Sec-WebSocket-Extensions. Its values are unquoted.
type extension struct {
	name   string
	params []extensionParam
}

// An extensionParam is a parameter of an extension, such as server_max_window_bits=10.
type extensionParam struct {
	name, value string
	hasValue    bool
}

// deflateParams holds the negotiated parameters, from the point of view of this end. They do not change.
type deflateParams struct {
	level, threshold           int
	sendTakeover, recvTakeover bool
	sendBits, recvBits         int
}

// windowParams holds the parameters of an offer or an answer. Bits are 0 if the parameter is absent.
type windowParams struct {
	serverNoTakeover, clientNoTakeover bool
	serverBits, clientBits             int
}

// anyBits represents client_max_window_bits without a value, which leaves the number to the server.
const anyBits = -1

// check reports a value that is out of range. nil is valid.
func (o *Compression) check() error {
	switch {
	case o == nil:
		return nil
	case o.Level < 0 || o.Level > 9:
		return fmt.Errorf("Options.Compression: Level %d is not between 0 and 9", o.Level)
	case o.WindowBits != 0 && (o.WindowBits < minWindowBits || o.WindowBits > maxWindowBits):
		return fmt.Errorf("Options.Compression: WindowBits %d is neither 0 nor between 8 and 15", o.WindowBits)
	}
	return nil
}

// wanted returns the parameters that o requests in either role. Bits are set only if they limit the window.
func (o *Compression) wanted() windowParams {
	w := windowParams{serverNoTakeover: !o.ContextTakeover, clientNoTakeover: !o.ContextTakeover}
	if o.WindowBits != 0 && o.WindowBits != maxWindowBits {
		w.serverBits, w.clientBits = o.WindowBits, o.WindowBits
	}
	return w
}

// offer returns the client's Sec-WebSocket-Extensions, "" for nil.
//
// Some servers refuse the handshake if they cannot accept the offer: npm's ws does if it is configured with
// serverNoContextTakeover: false or with a larger clientMaxWindowBits. A second offer without these demands therefore
// follows. RFC 7692, section 5, allows elements "with the same extension name to offer the possibility to use the same
// algorithm with different configuration parameters". Both offers have client_max_window_bits, which demands nothing
// and which some servers require.
func (o *Compression) offer() string {
	if o == nil {
		return ""
	}
	first := o.wanted()
	if first.clientBits == 0 {
		first.clientBits = anyBits
	}
	second := first
	second.serverNoTakeover, second.clientBits = false, anyBits
	if second == first {
		return first.String()
	}
	return first.String() + ", " + second.String()
}

// accept accepts the first valid offer and returns the parameters and the server's Sec-WebSocket-Extensions. Without a
// valid offer it returns nil and "".
//
// RFC 7692, section 7.1: "A server MUST decline an extension negotiation offer for this extension if any of the
// following conditions are met": a parameter is undefined, has an invalid value or is repeated, or the server does not
// support the configuration. This server supports all of them.
func (o *Compression) accept(offers []extension) (*deflateParams, string) {
	if o == nil {
		return nil, ""
	}
	for _, e := range offers {
		if e.name != deflateName {
			continue
		}
		if offered, err := parseWindowParams(e.params, true); err == nil {
			answer := offered.answer(o.wanted())
			return o.resolve(answer, true), answer.String()
		}
	}
	return nil, ""
}

// confirm checks the server's answer and returns the parameters, which are nil if the server declined. An answer is
// valid if it matches one of the offers.
func (o *Compression) confirm(answer []extension) (*deflateParams, error) {
	switch {
	case len(answer) == 0:
		return nil, nil
	case o == nil:
		return nil, errors.New("extension that was not offered: " + strconv.Quote(answer[0].name))
	case len(answer) > 1 && answer[1].name == deflateName:
		return nil, errors.New(deflateName + " twice")
	case len(answer) > 1 || answer[0].name != deflateName:
		return nil, errors.New("extension that was not offered")
	}
	got, err := parseWindowParams(answer[0].params, false)
	if err != nil {
		return nil, err
	}
	own := o.wanted()
	if own.serverBits != 0 && (got.serverBits == 0 || got.serverBits > own.serverBits) {
		return nil, errors.New(deflateName + ": server_max_window_bits was not accepted")
	}
	// Section 7.1.1.2: the parameter in the offer is a hint that "even if the server doesn't include" it in the answer,
	// "the client is not going to use context takeover."
	got.clientNoTakeover = got.clientNoTakeover || own.clientNoTakeover
	// Section 7.1.2.2: the server may ignore the offered value. A window smaller than the answer allows is always
	// valid.
	got.clientBits = smallerBits(got.clientBits, own.clientBits)
	return o.resolve(got, false), nil
}

// parseWindowParams parses the parameters of an offer or an answer. Only in an offer may client_max_window_bits lack a
// value (RFC 7692, section 7.1.2.2).
func parseWindowParams(params []extensionParam, offer bool) (windowParams, error) {
	var w windowParams
	seen := make(map[string]bool, len(params))
	for _, p := range params {
		if seen[p.name] {
			return w, errors.New(deflateName + ": " + p.name + " twice")
		}
		seen[p.name] = true
		if !w.set(p, offer) {
			return w, errors.New(deflateName + ": invalid parameter " + strconv.Quote(p.name+"="+p.value))
		}
	}
	return w, nil
}

// set sets the parameter p, and reports whether it is valid.
func (w *windowParams) set(p extensionParam, offer bool) (ok bool) {
	switch p.name {
	case "server_no_context_takeover":
		w.serverNoTakeover = true
		return !p.hasValue
	case "client_no_context_takeover":
		w.clientNoTakeover = true
		return !p.hasValue
	case "server_max_window_bits":
		w.serverBits, ok = parseWindowBits(p)
	case "client_max_window_bits":
		if offer && !p.hasValue {
			w.clientBits = anyBits
			return true
		}
		w.clientBits, ok = parseWindowBits(p)
	}
	return ok
}

// parseWindowBits parses "a decimal integer value without leading zeroes between 8 to 15, inclusive" (RFC 7692, section
// 7.1.2.1).
func parseWindowBits(p extensionParam) (int, bool) {
	n, err := strconv.Atoi(p.value)
	return n, p.hasValue && err == nil && n >= minWindowBits && n <= maxWindowBits && strconv.Itoa(n) == p.value
}

// String returns the element of Sec-WebSocket-Extensions.
func (w windowParams) String() string {
	s := deflateName
	if w.serverNoTakeover {
		s += "; server_no_context_takeover"
	}
	if w.clientNoTakeover {
		s += "; client_no_context_takeover"
	}
	if w.serverBits != 0 {
		s += "; server_max_window_bits=" + strconv.Itoa(w.serverBits)
	}
	switch {
	case w.clientBits == anyBits:
		s += "; client_max_window_bits"
	case w.clientBits != 0:
		s += "; client_max_window_bits=" + strconv.Itoa(w.clientBits)
	}
	return s
}

// answer returns the answer to the offer w. own are the parameters that the server wants.
func (w windowParams) answer(own windowParams) windowParams {
	a := windowParams{
		serverNoTakeover: w.serverNoTakeover || own.serverNoTakeover,
		clientNoTakeover: w.clientNoTakeover || own.clientNoTakeover,
		serverBits:       smallerBits(w.serverBits, own.serverBits),
	}
	// Section 7.1.2.2: "If a received extension negotiation offer doesn't have the "client_max_window_bits" extension
	// parameter, the corresponding extension negotiation response to the offer MUST NOT include the
	// "client_max_window_bits" extension parameter."
	if w.clientBits != 0 {
		a.clientBits = smallerBits(w.clientBits, own.clientBits)
	}
	return a
}

// smallerBits returns the smaller of two limits. Zero and anyBits mean no limit; if there is none, the result is 0.
func smallerBits(a, b int) int {
	if a <= 0 || b <= 0 {
		return max(a, b, 0)
	}
	return min(a, b)
}

// resolve returns the negotiated parameters with defaults applied.
func (o *Compression) resolve(agreed windowParams, server bool) *deflateParams {
	p := &deflateParams{
		level:        max(o.Level, 1),
		threshold:    max(cmp.Or(o.Threshold, defaultThreshold), 0),
		sendTakeover: !agreed.clientNoTakeover,
		recvTakeover: !agreed.serverNoTakeover,
		sendBits:     smallerBits(agreed.clientBits, maxWindowBits),
		recvBits:     smallerBits(agreed.serverBits, maxWindowBits),
	}
	if server {
		p.sendTakeover, p.recvTakeover = p.recvTakeover, p.sendTakeover
		p.sendBits, p.recvBits = p.recvBits, p.sendBits
	}
	return p
}

// deflateTail is removed from the end of a compressed message, and appended before decompression (RFC 7692, sections
// 7.2.1 and 7.2.2).
var deflateTail = []byte{0x00, 0x00, 0xff, 0xff}

// A compressor compresses the messages of one connection, or one PreparedMessage. One goroutine uses it at a time: on a
// connection, the owner of the writer's socket.
type compressor struct {
	*deflateParams
	win *window // earlier bytes that may be referred to; nil if there are none
}

// newCompressor returns a compressor, which makes its window when it needs one.
func newCompressor(p *deflateParams) *compressor { return &compressor{deflateParams: p} }

// message compresses a whole message p and appends it to dst. If the result is not shorter than p, message returns dst
// unchanged and false, and the window does not change. An empty message is compressed to a single byte.
func (c *compressor) message(dst, p []byte) (out []byte, ok bool) {
	c.open(c.sendTakeover)
	out = c.deflate(dst, p)
	if len(out)-len(dst) >= max(len(p), 2) {
		return dst, false
	}
	c.add(p)
	return out, true
}

// chunk compresses a part of a streamed message and appends it to dst. The result ends at a byte boundary.
func (c *compressor) chunk(dst, p []byte, last bool) []byte {
	if len(p) == 0 && !last {
		return dst
	}
	c.open(c.sendTakeover || !last)
	dst = c.deflate(dst, p)
	if !last {
		dst = append(dst, deflateTail...)
	} else if !c.sendTakeover {
		c.free()
	}
	c.add(p)
	return dst
}

// addHistory adds p to the window, if it is kept between messages. Call it for messages that another compressor has
// compressed.
func (c *compressor) addHistory(p []byte) {
	c.open(c.sendTakeover)
	c.add(p)
}

// open makes the window if it is needed and there is none.
func (c *compressor) open(needed bool) {
	if needed && c.win == nil {
		c.win = newWindow(c.sendBits, c.level)
	}
}

// add adds p to the window, if there is one.
func (c *compressor) add(p []byte) {
	if c.win != nil {
		c.win.add(p)
	}
}

// free returns the window to its pool.
func (c *compressor) free() {
	if c.win != nil {
		c.win.free()
		c.win = nil
	}
}

// deflate compresses p with references to the window and appends it to dst, up to and including the header of an empty
// stored block. Section 7.2.1 has such a block at the end, and removes the rest of it: "Remove 4 octets (that are 0x00
// 0x00 0xff 0xff) from the tail end."
func (c *compressor) deflate(dst, p []byte) []byte {
	d := deflaterPool.Get().(*deflater)
	d.out, d.bits, d.nbits = dst, 0, 0
	c.write(d, p)
	d.reserve(1)
	d.put(0, 3)
	d.align()
	dst, d.out = d.out, nil
	deflaterPool.Put(d)
	return dst
}

// write writes p in blocks.
func (c *compressor) write(d *deflater, p []byte) {
	if c.win == nil {
		t := d.text(p, 1<<c.sendBits, efforts[c.level])
		d.blocks(&t, 0)
		return
	}
	w := c.win
	buf := w.stage(p, &d.scratch)
	t := text{buf: buf, origin: w.origin, reach: w.size, effort: efforts[c.level], index: w.index}
	d.blocks(&t, len(w.buf))
	if n := len(buf) - len(w.buf); n < len(p) { // the rest of a long message refers only to the message itself
		t.origin += uint16(len(w.buf))
		t.buf = p
		d.blocks(&t, n)
	}
}

// A decompressor decompresses the messages of one connection. The holder of the reader's turn owns it.
type decompressor struct {
	inflater
	tail  int  // bytes of deflateTail read so far
	begun bool // whether the message has any byte
	keep  bool // whether the history is kept from message to message
}

// newDecompressor returns a decompressor, with a history if the peer keeps its window.
func newDecompressor(p *deflateParams) *decompressor {
	d := &decompressor{keep: p.recvTakeover}
	if d.keep {
		d.hist = &history{size: 1 << p.recvBits}
	}
	d.restart()
	return d
}

// inflate decompresses src and appends to dst within its capacity. It returns when src is exhausted or dst is full. dst
// must end with the decompressed bytes of the message so far: with all of them, or with the last 32 KiB.
func (d *decompressor) inflate(dst, src []byte) (out, rest []byte, err error) {
	d.begun = d.begun || len(src) > 0
	return d.run(dst, src)
}

// finish ends the message. If done is false, dst is full: call finish again with a larger one.
//
// RFC 7692, section 7.2.2: "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the payload of the message." A
// block must end exactly there, or the message was truncated. Some senders end a message with a final block and leave
// out the empty block that section 7.2.3.4 puts after it; such a message is complete without the four octets. A message
// without octets is empty.
func (d *decompressor) finish(dst []byte) (out []byte, done bool, err error) {
	if d.begun {
		if dst, err = d.inflateTail(dst); err != nil || d.full {
			return dst, false, err
		}
	}
	if d.keep {
		d.hist.add(dst)
	}
	d.reset()
	return dst, true, nil
}

// inflateTail inflates the rest of the message's payload and then the four octets. It stops when dst is full.
func (d *decompressor) inflateTail(dst []byte) (out []byte, err error) {
	if d.tail == 0 {
		if dst, _, err = d.run(dst, nil); err != nil || d.full || d.final && d.atBoundary() {
			return dst, err
		}
	}
	dst, rest, err := d.run(dst, deflateTail[d.tail:])
	d.tail = len(deflateTail) - len(rest)
	if err == nil && !d.full && !d.atBoundary() {
		d.fail("compressed message ends inside a DEFLATE block")
		err = d.err
	}
	return dst, err
}

// reset discards the current message and returns the tables to their pool.
func (d *decompressor) reset() {
	d.restart()
	d.tail, d.begun = 0, false
}
