package websocket

// Frames as bytes: the header and its rules, the body of a close frame, and the buffer from which received frames are
// taken. Nothing here does I/O or uses a Conn. Received headers are parsed by header.parse and judged by header.judge
// and fragmentation.next; sent frames are encoded by appendHeader and appendFrame.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// The base framing protocol, RFC 6455, section 5.2:
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-------+-+-------------+-------------------------------+
//	|F|R|R|R| opcode|M| Payload len |    Extended payload length    |
//	|I|S|S|S|  (4)  |A|     (7)     |             (16/64)           |
//	|N|V|V|V|       |S|             |   (if payload len==126/127)   |
//	| |1|2|3|       |K|             |                               |
//	+-+-+-+-+-------+-+-------------+ - - - - - - - - - - - - - - - +
//	|     Extended payload length continued, if payload len == 127  |
//	+ - - - - - - - - - - - - - - - +-------------------------------+
//	|                               |Masking-key, if MASK set to 1  |
//	+-------------------------------+-------------------------------+
//	| Masking-key (continued)       |          Payload Data         |
//	+-------------------------------- - - - - - - - - - - - - - - - +

// An opcode is the type of a frame (RFC 6455, section 5.2).
type opcode byte

const (
	opContinuation opcode = 0x0
	opText         opcode = 0x1
	opBinary       opcode = 0x2
	opClose        opcode = 0x8
	opPing         opcode = 0x9
	opPong         opcode = 0xA
)

// isControl reports whether the most significant bit of the opcode is set (section 5.5).
func (op opcode) isControl() bool { return op&0x8 != 0 }

// known has a bit set for each opcode that RFC 6455 defines.
const known = 1<<opContinuation | 1<<opText | 1<<opBinary | 1<<opClose | 1<<opPing | 1<<opPong

const (
	finBit  = 0x80
	rsv1Bit = 0x40
	rsv2Bit = 0x20
	rsv3Bit = 0x10
	maskBit = 0x80

	maxHeader         = 14  // bytes of the longest header
	maxControlPayload = 125 // section 5.5: "All control frames MUST have a payload length of 125 bytes or less"
	maxReason         = maxControlPayload - 2
)

// A header is the header of one frame. It is a plain value.
type header struct {
	fin, rsv1, rsv2, rsv3, masked bool
	opcode                        opcode
	key                           [4]byte // if masked is set
	length                        uint64  // of the payload
}

// appendHeader appends h to b. The length is encoded in the minimal number of bytes, as section 5.2 requires.
func appendHeader(b []byte, h *header) []byte {
	b0 := byte(h.opcode) | bit(h.fin, finBit) | bit(h.rsv1, rsv1Bit) | bit(h.rsv2, rsv2Bit) | bit(h.rsv3, rsv3Bit)
	b1 := bit(h.masked, maskBit)
	switch {
	case h.length <= 125:
		b = append(b, b0, b1|byte(h.length))
	case h.length <= 0xFFFF:
		b = append(b, b0, b1|126, byte(h.length>>8), byte(h.length))
	default:
		b = append(b, b0, b1|127)
		b = binary.BigEndian.AppendUint64(b, h.length)
	}
	if h.masked {
		b = append(b, h.key[:]...)
	}
	return b
}

// bit returns b if set is true, and otherwise 0.
func bit(set bool, b byte) byte {
	if set {
		return b
	}
	return 0
}

// headerSize returns the length of the header that appendHeader would append.
func headerSize(length int, masked bool) int {
	n := 2
	if length > 0xFFFF {
		n += 8
	} else if length > 125 {
		n += 2
	}
	if masked {
		n += 4
	}
	return n
}

// parse parses the header at the start of b and returns its size. It sets h in place, because copying a header costs
// more than parsing it.
//
// If b is too short for the whole header, n is 0. If b has at least two bytes, h then has the fields of the first two,
// including the 7-bit length, so that judge can reject a frame before the rest of its header arrives. The error reports
// an invalid length.
func (h *header) parse(b []byte) (n int, err error) {
	if len(b) < 2 {
		return 0, nil
	}
	b0, b1 := b[0], b[1]
	h.fin = b0&finBit != 0
	h.rsv1 = b0&rsv1Bit != 0
	h.rsv2 = b0&rsv2Bit != 0
	h.rsv3 = b0&rsv3Bit != 0
	h.opcode = opcode(b0 & 0xF)
	h.masked = b1&maskBit != 0
	h.length = uint64(b1 & 0x7F)
	n = 2
	switch h.length {
	case 126:
		if len(b) < 4 {
			return 0, nil
		}
		h.length, n = uint64(binary.BigEndian.Uint16(b[2:])), 4
		err = checkLength(h.length, 125)
	case 127:
		if len(b) < 10 {
			return 0, nil
		}
		h.length, n = binary.BigEndian.Uint64(b[2:]), 10
		err = checkLength(h.length, 0xFFFF)
	}
	if err != nil {
		return 0, err
	}
	if h.masked {
		if len(b) < n+4 {
			return 0, nil
		}
		h.key = [4]byte(b[n:])
		n += 4
	}
	return n, nil
}

// startsComplete reports whether b starts with a complete frame. It does not judge the frame.
func startsComplete(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	if n := int(b[1] & 0x7F); n < 126 {
		return len(b) >= headerSize(n, b[1]&maskBit != 0)+n
	}
	var h header
	n, err := h.parse(b)
	return n > 0 && err == nil && h.length <= uint64(len(b)-n)
}

// checkLength judges an extended length. A length of at most short fits into a shorter encoding.
func checkLength(length, short uint64) error {
	if length <= short {
		// Section 5.2: "in all cases, the minimal number of bytes MUST be used to encode the length"
		return protocolError("length %d is not encoded in the minimal number of bytes", length)
	}
	if length>>63 != 0 {
		// Section 5.2: "the most significant bit MUST be 0"
		return protocolError("the most significant bit of the length is set")
	}
	return nil
}

// judge returns an error that names the rule that a received frame with the header h breaks, or nil. It looks only at
// the fields in the first two bytes. server says that this end is the server, and deflate that permessage-deflate was
// negotiated, which gives RSV1 a meaning.
func (h *header) judge(server, deflate bool) error {
	switch {
	case h.rsv2 || h.rsv3:
		// Section 5.2: "If a nonzero value is received and none of the negotiated extensions defines the meaning of
		// such a nonzero value, the receiving endpoint MUST _Fail the WebSocket Connection_."
		return protocolError("reserved bit 2 or 3 is set")
	case h.rsv1 && (!deflate || h.opcode.isControl() || h.opcode == opContinuation):
		// RFC 7692, section 6.1: "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and
		// non-first fragments of a data message."
		return protocolError("reserved bit 1 is set")
	case known>>h.opcode&1 == 0:
		// Section 5.2: "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."
		return protocolError("unknown opcode %#x", byte(h.opcode))
	case h.masked != masks(!server):
		// Section 5.1: "The server MUST close the connection upon receiving a frame that is not masked." and "A client
		// MUST close a connection if it detects a masked frame."
		if server {
			return protocolError("unmasked frame from a client")
		}
		return protocolError("masked frame from a server")
	case h.opcode.isControl() && !h.fin:
		// Section 5.5: "All control frames ... MUST NOT be fragmented."
		return protocolError("fragmented control frame")
	case h.opcode.isControl() && h.length > maxControlPayload:
		return protocolError("control frame longer than 125 bytes")
	}
	return nil
}

// protocolError returns a *ProtocolError with StatusProtocolError.
func protocolError(format string, args ...any) error {
	return &ProtocolError{StatusProtocolError, fmt.Sprintf(format, args...)}
}

// A fragmentation is the state of message fragmentation (section 5.4): it is true from the first fragment of a message
// until the last. The reader owns it.
type fragmentation bool

// next returns an error if a frame with the header h may not come now. Otherwise it updates f.
func (f *fragmentation) next(h *header) error {
	switch {
	case h.opcode.isControl():
		// "Control frames MAY be injected in the middle of a fragmented message."
		return nil
	case h.opcode == opContinuation && !bool(*f):
		return protocolError("continuation frame without a message")
	case h.opcode != opContinuation && bool(*f):
		// "The fragments of one message MUST NOT be interleaved between the fragments of another message".
		return protocolError("new message in the middle of a fragmented message")
	}
	*f = fragmentation(!h.fin)
	return nil
}

// appendFrame appends a whole frame to b. It sets the length of h and, if h.masked is set, a fresh key, with which it
// masks the copy of the payload.
func appendFrame(b []byte, h *header, payload []byte) []byte {
	h.length = uint64(len(payload))
	if h.masked {
		h.key = newMaskKey()
	}
	b = appendHeader(b, h)
	if !h.masked {
		return append(b, payload...)
	}
	n := len(b)
	b = grow(b, len(payload))
	mask(b[n:], payload, h.key, 0)
	return b
}

// grow returns b extended by n bytes, whose values are unspecified.
func grow(b []byte, n int) []byte { return slices.Grow(b, n)[:len(b)+n] }

// valid reports whether a close frame may carry the code (section 7.4, and the IANA registry).
func (c StatusCode) valid() bool {
	switch {
	case c >= 3000 && c <= 4999:
		// Section 7.4.2: "Status codes in the range 3000-3999 are reserved for use by libraries, frameworks, and
		// applications." and "4000-4999 are reserved for private use".
		return true
	case c == 1004 || c == StatusNoStatusRcvd || c == StatusAbnormalClosure:
		// Section 7.4.1: 1005 and 1006 are "reserved value[s] and MUST NOT be set as a status code in a Close control
		// frame by an endpoint"; 1004 is "Reserved."
		return false
	}
	return c >= StatusNormalClosure && c <= StatusBadGateway
}

// closePayload returns the body of a close frame, or an error if the code or the reason may not be sent.
func closePayload(code StatusCode, reason string) ([]byte, error) {
	switch {
	case !code.valid():
		return nil, fmt.Errorf("websocket: status code %d must not be sent", uint16(code))
	case len(reason) > maxReason:
		return nil, fmt.Errorf("websocket: the reason of a close frame is longer than %d bytes", maxReason)
	case !utf8.ValidString(reason):
		return nil, errors.New("websocket: the reason of a close frame is not valid UTF-8")
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...), nil
}

// parseClose parses the body of the peer's close frame. The error is a *ProtocolError.
func parseClose(p []byte) (*CloseError, error) {
	if len(p) == 0 {
		// Section 7.1.5: "If this Close control frame contains no status code, _The WebSocket Connection Close Code_ is
		// considered to be 1005."
		return &CloseError{Code: StatusNoStatusRcvd}, nil
	}
	if len(p) == 1 {
		// Section 5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer".
		return nil, protocolError("close frame with a body of 1 byte")
	}
	code, reason := StatusCode(binary.BigEndian.Uint16(p)), p[2:]
	if !code.valid() {
		return nil, protocolError("close frame with the invalid status code %d", uint16(code))
	}
	if !utf8.Valid(reason) {
		return nil, &ProtocolError{StatusInvalidFramePayloadData, "invalid UTF-8 in the reason of a close frame"}
	}
	return &CloseError{code, string(reason)}, nil
}

// A readBuffer holds received bytes and divides them into headers and payload. It does no I/O: the reader adds bytes at
// the end and takes them from the start, and can stop at any byte. The holder of the reader's turn owns it.
//
//	buf.b:  [ taken | unmasked ahead | unread               ] free
//	          ^ lent  ^ at             ^ at+ahead             ^ len    ^ cap
//
// Bytes before at were taken. While lent is set, a message that was handed out in place lies there, and buf is neither
// moved nor freed. The next left bytes, of which not all may have arrived, are payload of the current frame. The first
// ahead of them are already unmasked, so that text can be checked before the rest of its frame arrives.
type readBuffer struct {
	buf   *buffer // nil while no byte is held
	at    int     // index of the first byte that was not taken
	head  header  // of the current frame
	left  uint64  // bytes of its payload that were not taken, whether they have arrived or not
	ahead int32   // bytes after at that are already unmasked
	lent  bool    // a message that was handed out lies before at
}

// unread returns the bytes that were not taken.
func (f *readBuffer) unread() []byte {
	if f.buf == nil {
		return nil
	}
	return f.buf.b[f.at:]
}

// begin takes the n bytes of the header that was parsed into head. The payload follows.
func (f *readBuffer) begin(n int) {
	f.at += n
	f.left, f.ahead = f.head.length, 0
}

// pos returns the position of the next byte in the payload, modulo 4.
func (f *readBuffer) pos() int { return int(f.head.length-f.left) & 3 }

// full reports whether the buffer has no room at its end.
func (f *readBuffer) full() bool { return f.buf != nil && len(f.buf.b) == cap(f.buf.b) }

// payload returns how much of the frame's payload is in the buffer.
func (f *readBuffer) payload() int { return int(min(f.left, uint64(len(f.unread())))) }

// unmaskAhead unmasks in place the payload that is in the buffer, without taking it, and returns the bytes that it
// unmasked.
func (f *readBuffer) unmaskAhead() []byte {
	p := f.buf.b[f.at+int(f.ahead) : f.at+f.payload()]
	if f.head.masked {
		mask(p, p, f.head.key, f.pos()+int(f.ahead))
	}
	f.ahead += int32(len(p))
	return p
}

// take moves payload from the buffer to dst, unmasked, and returns the number of bytes.
func (f *readBuffer) take(dst []byte) int {
	n := min(f.payload(), len(dst))
	f.unmask(dst[:n], f.buf.b[f.at:f.at+n])
	f.at += n
	return n
}

// takeInPlace takes the next n bytes of payload, which must be in the buffer, and returns them there, unmasked. They
// are valid until the buffer is moved or freed.
func (f *readBuffer) takeInPlace(n int) []byte {
	p := f.buf.b[f.at : f.at+n : f.at+n]
	f.unmask(p, p)
	f.at += n
	return p
}

// skip drops the payload that is in the buffer.
func (f *readBuffer) skip() {
	n := f.payload()
	f.at += n
	f.left -= uint64(n)
	f.ahead = 0
}

// unmask copies src, the next bytes of the payload, to dst, unmasked, and counts them as taken. Section 5.3: "Octet i
// of the transformed data ("transformed-octet-i") is the XOR of octet i of the original data ("original-octet-i") with
// octet at index i modulo 4 of the masking key".
func (f *readBuffer) unmask(dst, src []byte) {
	n := len(src)
	if f.head.masked {
		k := min(int(f.ahead), n)
		copy(dst, src[:k])
		mask(dst[k:], src[k:], f.head.key, f.pos()+k)
	} else {
		copy(dst, src)
	}
	f.ahead = int32(max(0, int(f.ahead)-n))
	f.left -= uint64(n)
}

// space returns free room at the end of a buffer of at least the given size. If necessary, it moves the unread bytes to
// the start of the buffer or to a larger one. The caller reads into the room and then calls added.
func (f *readBuffer) space(size int) []byte {
	rest := len(f.buf.b) - f.at
	if rest == cap(f.buf.b) {
		size = max(size, rest+1)
	}
	switch {
	case f.lent && len(f.buf.b) == cap(f.buf.b) || cap(f.buf.b) < size:
		f.move(max(size, rest+1))
	case f.at > 0 && !f.lent:
		f.buf.b = f.buf.b[:copy(f.buf.b, f.buf.b[f.at:])]
		f.at = 0
	}
	return f.buf.b[len(f.buf.b):cap(f.buf.b)]
}

// added extends the unread bytes by the n bytes that the caller has put after the end.
func (f *readBuffer) added(n int) { f.buf.b = f.buf.b[:len(f.buf.b)+n] }

// adopt makes b the buffer. Its bytes are unread.
func (f *readBuffer) adopt(b *buffer) { f.buf, f.at, f.lent = b, 0, false }

// takeBack ends the loan of a buffer in which a message was handed out, and frees it if it is no longer the read
// buffer.
func (f *readBuffer) takeBack(lent *buffer) {
	if lent == f.buf {
		f.lent = false
	} else {
		lent.free()
	}
}

// detach leaves a lent buffer to the holder of the message, and moves the unread bytes to another.
func (f *readBuffer) detach() {
	if rest := len(f.unread()); f.lent && rest > 0 {
		f.move(rest)
	} else {
		f.release()
	}
}

// move copies the unread bytes to a new buffer of at least the given size. A lent buffer is left to takeBack.
func (f *readBuffer) move(size int) {
	old, b := f.buf, getBuffer(size)
	b.b = append(b.b, f.unread()...)
	if !f.lent {
		old.free()
	}
	f.adopt(b)
}

// release frees the buffer if all of it was taken, so that an idle reader holds none.
func (f *readBuffer) release() {
	if f.buf == nil || f.at < len(f.buf.b) {
		return
	}
	if !f.lent {
		f.buf.free()
	}
	f.buf, f.at, f.lent = nil, 0, false
}
