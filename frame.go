package websocket

import (
	"encoding/binary"
	"fmt"
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

// An opcode says what a frame carries (RFC 6455, section 5.2).
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

// known holds a bit for each opcode that RFC 6455 defines.
const known = 1<<opContinuation | 1<<opText | 1<<opBinary | 1<<opClose | 1<<opPing | 1<<opPong

const (
	finBit  = 0x80
	rsv1Bit = 0x40
	rsv2Bit = 0x20
	rsv3Bit = 0x10
	maskBit = 0x80

	maxHeader         = 14  // bytes of the longest header
	maxControlPayload = 125 // section 5.5: "All control frames MUST have a payload length of 125 bytes or less"
)

// A header is that of one frame.
type header struct {
	fin, rsv1, rsv2, rsv3, masked bool
	opcode                        opcode
	key                           [4]byte
	length                        uint64
}

// appendHeader appends h with the minimal encoding of its length, which section 5.2 demands.
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

// parse reads a header from the start of b, all of it in place, for a copy costs more than the parsing; n is its size.
// While b is too short for the whole of it, n is 0 and, from two bytes on, h has all that stands in these two, the 7 bits
// of the length among them, so that a wrong frame can be refused before the rest of its header is there.
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

// startsComplete reports whether b starts with a complete frame.
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

// checkLength judges an extended length, which the shorter encoding could hold up to short.
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

// judge returns the rule that a frame with the header h breaks, by what stands in its first two bytes.
// server is our role, and deflate is whether permessage-deflate has given RSV1 a meaning.
func (h *header) judge(server, deflate bool) error {
	switch {
	case h.rsv2 || h.rsv3:
		// Section 5.2: "If a nonzero value is received and none of the negotiated extensions defines the meaning
		// of such a nonzero value, the receiving endpoint MUST _Fail the WebSocket Connection_."
		return protocolError("reserved bit 2 or 3 is set")
	case h.rsv1 && (!deflate || h.opcode.isControl() || h.opcode == opContinuation):
		// RFC 7692, section 6.1: "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and
		// non-first fragments of a data message."
		return protocolError("reserved bit 1 is set")
	case known>>h.opcode&1 == 0:
		// Section 5.2: "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."
		return protocolError("unknown opcode %#x", byte(h.opcode))
	case h.masked != server:
		// Section 5.1: "The server MUST close the connection upon receiving a frame that is not masked." and
		// "A client MUST close a connection if it detects a masked frame."
		return protocolError("the mask bit is %t", h.masked)
	case h.opcode.isControl() && !h.fin:
		// Section 5.5: "All control frames ... MUST NOT be fragmented."
		return protocolError("fragmented control frame")
	case h.opcode.isControl() && h.length > maxControlPayload:
		return protocolError("control frame of more than 125 bytes")
	}
	return nil
}

func protocolError(format string, args ...any) error {
	return &ProtocolError{StatusProtocolError, fmt.Sprintf(format, args...)}
}

// fragmentation follows the frames of messages (section 5.4): it is true while the last fragment of a message
// is to come.
type fragmentation bool

// next judges whether a frame may come now, and takes the step.
func (f *fragmentation) next(h *header) error {
	switch {
	case h.opcode.isControl():
		// "Control frames MAY be injected in the middle of a fragmented message."
		return nil
	case h.opcode == opContinuation && !bool(*f):
		return protocolError("continuation frame without a message")
	case h.opcode != opContinuation && bool(*f):
		// "The fragments of one message MUST NOT be interleaved between the fragments of another message".
		return protocolError("new message in the middle of a fragmented one")
	}
	*f = fragmentation(!h.fin)
	return nil
}

// appendFrame appends a whole frame, whose length and key it sets in h; a client's payload is masked on the way.
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

// grow returns b longer by n bytes of any value.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b[:len(b)+n]
	}
	return append(b, make([]byte, n)...)
}
