package websocket

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Compression in [Options] offers (Dial) or accepts (Upgrade) permessage-deflate, RFC 7692. The zero value
// compresses each message for itself and takes the least memory: a connection holds none between messages.
//
// Compressed together with text that an attacker chooses, a secret can be guessed from the length of what is
// sent, even over TLS (the attacks known as CRIME and BREACH). Send a secret with [Uncompressed] set, and do
// not keep the context where one goes by.
type Compression struct {
	// Level says how hard to search, from 1 to 9 as in compress/flate; 0 is the fastest that is worth it.
	Level int

	// Threshold is the length in bytes below which a message goes uncompressed; 0 means 128 bytes, and
	// negative compresses all. A message that would not become shorter goes uncompressed anyway.
	Threshold int

	// ContextTakeover keeps the compression window from message to message, in both directions if the peer agrees.
	// Small messages that resemble each other become much shorter. It costs a connection up to a window and 24 KiB
	// for sending and another window for receiving.
	//
	// Without it a client still connects to a server that insists on keeping its own window. The connection then
	// holds a window for receiving.
	ContextTakeover bool

	// WindowBits is the base-2 logarithm of the largest window used in either direction: 8 to 15 for 256 bytes to
	// 32 KiB; 0 means 15. Choose at least 9: zlib cannot compress with a window of 256 bytes, and peers that use
	// it break the connection or decline compression. A server that will not limit its window refuses a client
	// that sets WindowBits, and a server cannot limit the window of a client whose offer has no
	// client_max_window_bits (RFC 7692, section 7.1.2).
	WindowBits int
}

const (
	deflateName      = "permessage-deflate"
	minWindowBits    = 8
	maxWindowBits    = 15
	defaultThreshold = 128
)

// An extension is one element of Sec-WebSocket-Extensions; quoted values have lost their quotes.
type extension struct {
	name   string
	params []extensionParam
}

type extensionParam struct {
	name, value string
	hasValue    bool
}

// deflateParams is what was agreed on, resolved for our role.
type deflateParams struct {
	level, threshold           int
	sendTakeover, recvTakeover bool
	sendBits, recvBits         int
}

// windowParams are the parameters of one offer or answer. Bits are 0 where there is no such parameter.
type windowParams struct {
	serverNoTakeover, clientNoTakeover bool
	serverBits, clientBits             int
}

// anyBits is a client_max_window_bits without a value: the client leaves the number to the server.
const anyBits = -1

// check reports values that are out of range.
func (o *Compression) check() error {
	switch {
	case o == nil:
		return nil
	case o.Level < 0 || o.Level > 9:
		return fmt.Errorf("websocket: Compression.Level %d is not from 0 to 9", o.Level)
	case o.WindowBits != 0 && (o.WindowBits < minWindowBits || o.WindowBits > maxWindowBits):
		return fmt.Errorf("websocket: Compression.WindowBits %d is not 0 or from 8 to 15", o.WindowBits)
	}
	return nil
}

// wanted is what o asks for in either role; bits only where they limit.
func (o *Compression) wanted() windowParams {
	w := windowParams{serverNoTakeover: !o.ContextTakeover, clientNoTakeover: !o.ContextTakeover}
	if o.WindowBits != 0 && o.WindowBits != maxWindowBits {
		w.serverBits, w.clientBits = o.WindowBits, o.WindowBits
	}
	return w
}

// offer returns the client's Sec-WebSocket-Extensions, "" for nil.
//
// Some servers refuse the whole handshake over an offer that they cannot accept, such as npm's ws where it is set to
// serverNoContextTakeover: false or to a larger clientMaxWindowBits. RFC 7692, section 5, lets an offer have several
// elements "with the same extension name to offer the possibility to use the same algorithm with different
// configuration parameters", so a second choice without these demands follows. Both have client_max_window_bits: it
// only permits, and a server may insist on it.
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

// accept returns what the server agrees on, for the first offer it can accept, and its answer's header.
//
// RFC 7692, section 7.1: "A server MUST decline an extension negotiation offer for this extension if any of the
// following conditions are met": a parameter is not defined, has an invalid value or comes twice, or the server
// does not support what is asked for, which this one always does.
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

// confirm returns what the client agrees on with the server's answer, nil if there is no compression.
func (o *Compression) confirm(answer []extension) (*deflateParams, error) {
	switch {
	case len(answer) == 0:
		return nil, nil
	case o == nil:
		return nil, errors.New("an extension that was not offered: " + strconv.Quote(answer[0].name))
	case len(answer) > 1 && answer[1].name == deflateName:
		return nil, errors.New(deflateName + " twice")
	case len(answer) > 1 || answer[0].name != deflateName:
		return nil, errors.New("an extension that was not offered")
	}
	got, err := parseWindowParams(answer[0].params, false)
	if err != nil {
		return nil, err
	}
	own := o.wanted()
	if own.serverBits != 0 && (got.serverBits == 0 || got.serverBits > own.serverBits) {
		return nil, errors.New(deflateName + ": server_max_window_bits was not accepted")
	}
	// Section 7.1.1.2: the parameter in the offer is a hint that, even if the answer lacks it, "the client is not
	// going to use context takeover."
	got.clientNoTakeover = got.clientNoTakeover || own.clientNoTakeover
	// Section 7.1.2.2: a server may ignore the value of the offer. A smaller window than the answer's is always good.
	got.clientBits = smallerBits(got.clientBits, own.clientBits)
	return o.resolve(got, false), nil
}

// parseWindowParams reads the parameters of an offer or of an answer. In an offer client_max_window_bits needs
// no value (RFC 7692, section 7.1.2.2).
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

// parseWindowBits reads "a decimal integer value without leading zeroes between 8 to 15, inclusive" (RFC 7692,
// section 7.1.2.1).
func parseWindowBits(p extensionParam) (int, bool) {
	n, err := strconv.Atoi(p.value)
	return n, p.hasValue && err == nil && n >= minWindowBits && n <= maxWindowBits && strconv.Itoa(n) == p.value
}

func (w windowParams) String() string {
	s := []string{deflateName}
	if w.serverNoTakeover {
		s = append(s, "server_no_context_takeover")
	}
	if w.clientNoTakeover {
		s = append(s, "client_no_context_takeover")
	}
	if w.serverBits != 0 {
		s = append(s, "server_max_window_bits="+strconv.Itoa(w.serverBits))
	}
	switch w.clientBits {
	case 0:
	case anyBits:
		s = append(s, "client_max_window_bits")
	default:
		s = append(s, "client_max_window_bits="+strconv.Itoa(w.clientBits))
	}
	return strings.Join(s, "; ")
}

// answer is the server's answer to the offer w, if the server wants own.
func (w windowParams) answer(own windowParams) windowParams {
	a := windowParams{
		serverNoTakeover: w.serverNoTakeover || own.serverNoTakeover,
		clientNoTakeover: w.clientNoTakeover || own.clientNoTakeover,
		serverBits:       smallerBits(w.serverBits, own.serverBits),
	}
	switch w.clientBits {
	case 0:
		// Section 7.1.2.2: "If a received extension negotiation offer doesn't have the
		// "client_max_window_bits" extension parameter, the corresponding extension negotiation response to
		// the offer MUST NOT include the "client_max_window_bits" extension parameter."
	case anyBits:
		a.clientBits = own.clientBits
	default:
		a.clientBits = smallerBits(w.clientBits, own.clientBits)
	}
	return a
}

// smallerBits is the smaller of two limits, of which 0 is none.
func smallerBits(a, b int) int {
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}

// resolve applies the defaults to what was agreed on.
func (o *Compression) resolve(agreed windowParams, server bool) *deflateParams {
	p := &deflateParams{
		level:        max(o.Level, 1),
		threshold:    max(o.Threshold, 0),
		sendTakeover: !agreed.clientNoTakeover,
		recvTakeover: !agreed.serverNoTakeover,
		sendBits:     smallerBits(agreed.clientBits, maxWindowBits),
		recvBits:     smallerBits(agreed.serverBits, maxWindowBits),
	}
	if o.Threshold == 0 {
		p.threshold = defaultThreshold
	}
	if server {
		p.sendTakeover, p.recvTakeover = p.recvTakeover, p.sendTakeover
		p.sendBits, p.recvBits = p.recvBits, p.sendBits
	}
	return p
}

// deflateTail is removed from the end of a compressed message and appended before it is inflated (RFC 7692,
// sections 7.2.1 and 7.2.2).
var deflateTail = []byte{0x00, 0x00, 0xff, 0xff}

// A compressor is the sending half of a connection. It is not safe for concurrent use.
type compressor struct {
	*deflateParams
	win *window // nil: nothing to refer to
}

func newCompressor(p *deflateParams) *compressor { return &compressor{deflateParams: p} }

// message appends a whole message's payload to dst. If it would not be shorter than p, ok is false, dst is
// returned as it was and the window stands as before. An empty message is a single byte.
func (c *compressor) message(dst, p []byte) (out []byte, ok bool) {
	d := newDeflater(dst)
	if c.sendTakeover && c.win == nil {
		c.win = newWindow(c.sendBits)
	}
	c.write(d, p)
	d.flush()
	if out = d.done(); len(out)-len(dst) >= max(len(p), 2) {
		return dst, false
	}
	if c.win != nil {
		c.win.add(p)
	}
	return out, true
}

// chunk appends a part of a message that is streamed and makes it end on a byte boundary.
func (c *compressor) chunk(dst, p []byte, last bool) []byte {
	if len(p) == 0 && !last {
		return dst
	}
	if c.win == nil && (c.sendTakeover || !last) {
		c.win = newWindow(c.sendBits)
	}
	d := newDeflater(dst)
	c.write(d, p)
	d.flush()
	dst = d.done()
	if last {
		if !c.sendTakeover {
			c.release()
		}
	} else {
		dst = append(dst, deflateTail...)
	}
	if c.win != nil {
		c.win.add(p)
	}
	return dst
}

// note tells a window that is kept of a message that went out compressed without it.
func (c *compressor) note(p []byte) {
	if !c.sendTakeover {
		return
	}
	if c.win == nil {
		c.win = newWindow(c.sendBits)
	}
	c.win.stage(p)
	c.win.add(p)
}

// release gives the window back.
func (c *compressor) release() {
	if c.win != nil {
		c.win.free()
		c.win = nil
	}
}

// write writes p, which may refer to the window if there is one.
func (c *compressor) write(d *deflater, p []byte) {
	if c.win == nil {
		t := d.text(p, 1<<c.sendBits, efforts[c.level])
		d.blocks(&t, 0)
		return
	}
	n := c.win.stage(p)
	t := c.win.text(n, efforts[c.level])
	d.blocks(&t, len(c.win.buf))
	if n < len(p) { // the rest of a long message refers to itself
		t.origin += uint16(len(c.win.buf))
		t.buf = p
		d.blocks(&t, n)
	}
}

// A decompressor is the receiving half of a connection. It is not safe for concurrent use.
type decompressor struct {
	inflater
	tail  int  // bytes of deflateTail that were fed
	begun bool // the message has had a byte
	keep  bool // its end is kept for the next
}

func newDecompressor(p *deflateParams) *decompressor {
	d := &decompressor{keep: p.recvTakeover}
	if d.keep {
		d.hist = &history{size: 1 << p.recvBits}
	}
	d.restart()
	return d
}

// inflate appends to dst, within its capacity, what src inflates to. It returns when src is used up or dst is
// full. The end of dst must be the end of what the message has inflated to so far, all of it or 32 KiB.
func (d *decompressor) inflate(dst, src []byte) (out, rest []byte, err error) {
	d.begun = d.begun || len(src) > 0
	return d.run(dst, src)
}

// finish ends the message. If done is false, dst is full: call finish again with a larger one.
//
// RFC 7692, section 7.2.2: "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the payload of the message."
// A block must end exactly there, or the message was truncated. Some senders end a message with a final block and
// leave out the empty block that section 7.2.3.4 puts after it; such a message is whole without the four octets. A
// message of no octets is an empty one.
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

// inflateTail inflates what is left of the message's payload and then the four octets. It stops where dst is full.
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

// reset forgets the message under way.
func (d *decompressor) reset() {
	d.restart()
	d.tail, d.begun = 0, false
}

// release gives everything back.
func (d *decompressor) release() {
	d.reset()
	d.hist, d.keep = nil, false
}
