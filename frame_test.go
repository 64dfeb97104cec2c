package websocket

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unicode/utf8"
)

// The examples of section 5.7 and one header of each other form.
var headerExamples = []struct {
	wire string
	want header
}{
	{"81 05", header{fin: true, opcode: opText, length: 5}},
	{"81 85 37fa213d", header{fin: true, opcode: opText, masked: true, key: [4]byte{0x37, 0xfa, 0x21, 0x3d}, length: 5}},
	{"01 03", header{opcode: opText, length: 3}},
	{"80 02", header{fin: true, opcode: opContinuation, length: 2}},
	{"89 05", header{fin: true, opcode: opPing, length: 5}},
	{"8a 85 37fa213d", header{fin: true, opcode: opPong, masked: true, key: [4]byte{0x37, 0xfa, 0x21, 0x3d}, length: 5}},
	{"82 7e 0100", header{fin: true, opcode: opBinary, length: 256}},
	{"82 7f 0000000000010000", header{fin: true, opcode: opBinary, length: 65536}},
	{"00 00", header{opcode: opContinuation}},
	{"88 80 01020304", header{fin: true, opcode: opClose, masked: true, key: [4]byte{1, 2, 3, 4}}},
	{"c1 7d", header{fin: true, rsv1: true, opcode: opText, length: 125}},
	{"21 00", header{rsv2: true, opcode: opText}},
	{"11 00", header{rsv3: true, opcode: opText}},
	{"ff fe ffff 00000000", header{true, true, true, true, true, 0xf, [4]byte{}, 65535}},
	{"82 fe 007e 0a0b0c0d", header{fin: true, opcode: opBinary, masked: true, key: [4]byte{10, 11, 12, 13}, length: 126}},
	{"82 7e ffff", header{fin: true, opcode: opBinary, length: 65535}},
	{"82 7f 0102030405060708", header{fin: true, opcode: opBinary, length: 0x102030405060708}},
	{"82 7f 7fffffffffffffff", header{fin: true, opcode: opBinary, length: math.MaxInt64}},
	{"82 ff 7fffffffffffffff ffffffff", header{fin: true, opcode: opBinary, masked: true, key: [4]byte{255, 255, 255, 255}, length: math.MaxInt64}},
}

func TestFrame_Examples(t *testing.T) {
	for _, ex := range headerExamples {
		wire := wireHex(ex.wire)
		var h header
		n, err := h.parse(append(wireHex(ex.wire), 0xde, 0xad)) // later bytes are ignored
		if h != ex.want || n != len(wire) || err != nil {
			t.Errorf("%s: %+v, %d, %v", ex.wire, h, n, err)
		}
		for i := range wire {
			if n, err := new(header).parse(wire[:i]); n != 0 || err != nil {
				t.Errorf("%x of %s: %d, %v", wire[:i], ex.wire, n, err)
			}
		}
		if got := appendHeader([]byte("before"), &ex.want); string(got) != "before"+string(wire) {
			t.Errorf("%s: %x", ex.wire, got[6:])
		}
	}
}

// Every combination of bits and opcodes, with the lengths at each boundary.
func TestFrame_Parses_WhatItAppends(t *testing.T) {
	lengths := []uint64{0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537,
		math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64 - 1, math.MaxInt64}
	for bits := range 256 {
		for _, length := range lengths {
			for _, masked := range []bool{false, true} {
				h := header{fin: bits&128 != 0, rsv1: bits&64 != 0, rsv2: bits&32 != 0, rsv3: bits&16 != 0,
					opcode: opcode(bits & 15), masked: masked, length: length}
				if masked {
					h.key = [4]byte{1, 2, 3, byte(bits)}
				}
				checkIdentity(t, h)
			}
		}
	}
}

func checkIdentity(t *testing.T, h header) {
	t.Helper()
	b := appendHeader(nil, &h)
	if want := minimalSize(h); len(b) != want {
		t.Errorf("%+v takes %d bytes, want %d", h, len(b), want)
	}
	var got header
	if n, err := got.parse(b); got != h || n != len(b) || err != nil {
		t.Errorf("%+v: %x, then %+v, %d, %v", h, b, got, n, err)
	}
}

func minimalSize(h header) int {
	n := 2
	if h.length > 125 {
		n += 2
	}
	if h.length > 65535 {
		n += 6
	}
	if h.masked {
		n += 4
	}
	return n
}

// FuzzHeader checks that parsing and appending headers are inverse.
func FuzzHeader(f *testing.F) {
	for _, ex := range headerExamples {
		f.Add(wireHex(ex.wire))
	}
	f.Add(wireHex("82 7e 0001"))
	f.Add(wireHex("82 ff ffffffffffffffff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		n, err := h.parse(b)
		switch {
		case err != nil:
			if !errors.Is(err, StatusProtocolError) || n != 0 {
				t.Fatalf("%x: %d, %v", b, n, err)
			}
		case n == 0:
			if len(b) >= 14 {
				t.Fatalf("%x wants more", b)
			}
		default:
			if got := appendHeader(nil, &h); !bytes.Equal(got, b[:n]) {
				t.Fatalf("%x: %+v encodes to %x", b[:n], h, got)
			}
			checkIdentity(t, h)
		}
	})
}

// An outcome is the result of reading a stream of frames.
type outcome struct {
	messages []string
	code     StatusCode // of our failure or of the peer's close frame; StatusAbnormalClosure: it just ended
	byPeer   bool       // it was the peer's close frame
}

func (v outcome) String() string {
	return fmt.Sprintf("%d messages %.40q, %d, by the peer: %t", len(v.messages), v.messages, v.code, v.byPeer)
}

func (v outcome) equal(w outcome) bool {
	return slices.Equal(v.messages, w.messages) && v.code == w.code && v.byPeer == w.byPeer
}

// An oracle is a second implementation of the receiving side, written from the RFC, for a stream that is in memory.
type oracle struct {
	rest    []byte
	server  bool
	limit   uint64
	message []byte
	open    bool // a message has begun
	text    bool
	outcome outcome
	maybe   bool // the stream ends inside an invalid header, which may be refused already or not
}

// judge returns the oracle after it has read a stream.
func judge(stream []byte, server bool, limit uint64) *oracle {
	o := &oracle{rest: stream, server: server, limit: limit}
	for o.outcome.code == 0 {
		o.frame()
	}
	return o
}

// frame reads one frame or sets the outcome.
func (o *oracle) frame() {
	if len(o.rest) < 2 {
		o.outcome.code = StatusAbnormalClosure
		return
	}
	b0, b1 := o.rest[0], o.rest[1]
	length, size, minimal := o.length()
	wrong := o.wrong(b0, b1) || !minimal
	big := b0&8 == 0 && (length > math.MaxInt64 || length > o.limit-uint64(len(o.message)))
	if o.server {
		size += 4
	}
	switch {
	case len(o.rest) < size:
		o.outcome.code, o.maybe = StatusAbnormalClosure, wrong || big
	case wrong:
		o.outcome.code = StatusProtocolError
	case big:
		o.outcome.code = StatusMessageTooBig
	default:
		payload := o.payload(size, length)
		whole := uint64(len(payload)) == length
		if b0&8 != 0 {
			o.control(b0&15, payload, whole)
		} else {
			o.data(b0, payload, whole)
		}
	}
}

// length reads the payload length as far as it has arrived.
func (o *oracle) length() (length uint64, size int, minimal bool) {
	size = map[byte]int{126: 4, 127: 10}[o.rest[1]&127]
	if size == 0 {
		return uint64(o.rest[1] & 127), 2, true
	}
	if len(o.rest) < size {
		return 0, size, true
	}
	for _, b := range o.rest[2:size] {
		length = length<<8 | uint64(b)
	}
	return length, size, length > 125 && (size == 4 || length > 65535 && length <= math.MaxInt64)
}

// wrong judges the first two bytes of a header.
func (o *oracle) wrong(b0, b1 byte) bool {
	op := b0 & 15
	switch {
	case b0&0x70 != 0, op > 10, op > 2 && op < 8, b1 >= 128 != o.server:
		return true
	case op >= 8:
		return b0 < 128 || b1&127 > 125
	}
	return op == 0 != o.open
}

// payload returns the bytes of a payload that have arrived.
func (o *oracle) payload(size int, length uint64) []byte {
	payload := bytes.Clone(o.rest[size:])
	if uint64(len(payload)) > length {
		payload = payload[:length]
	}
	if o.server {
		for i := range payload {
			payload[i] ^= o.rest[size-4+i%4]
		}
	}
	o.rest = o.rest[size+len(payload):]
	return payload
}

func (o *oracle) control(op byte, payload []byte, whole bool) {
	switch {
	case !whole:
		o.outcome.code = StatusAbnormalClosure
	case op == 8:
		o.outcome.code, o.outcome.byPeer = judgeClose(payload)
	}
}

func (o *oracle) data(b0 byte, payload []byte, whole bool) {
	if b0&15 != 0 {
		o.text = b0&15 == 1
	}
	o.message = append(o.message, payload...)
	end := whole && b0 >= 128
	switch {
	case o.text && !textSoFar(o.message, end):
		o.outcome.code = StatusInvalidFramePayloadData
	case !whole:
		o.outcome.code = StatusAbnormalClosure
	case end:
		o.outcome.messages = append(o.outcome.messages, string(o.message))
		o.message, o.open = nil, false
	default:
		o.open = true
	}
}

// textSoFar reports whether p is UTF-8 or, before the end, can become UTF-8.
func textSoFar(p []byte, end bool) bool {
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		if r == utf8.RuneError && n == 1 {
			return !end && !utf8.FullRune(p)
		}
		p = p[n:]
	}
	return true
}

// judgeClose judges a close frame by sections 5.5.1 and 7.4.
func judgeClose(payload []byte) (code StatusCode, byPeer bool) {
	if len(payload) == 0 {
		return StatusNoStatusRcvd, true
	}
	if len(payload) == 1 || !mayBeSent(binary.BigEndian.Uint16(payload)) {
		return StatusProtocolError, false
	}
	if !utf8.Valid(payload[2:]) {
		return StatusInvalidFramePayloadData, false
	}
	return StatusCode(binary.BigEndian.Uint16(payload)), true
}

// mayBeSent reports whether a status code may be sent in a close frame.
func mayBeSent(code uint16) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}

// cut cuts a stream into pieces: one for seed 0, single bytes for seed 1, random ones for others.
func cut(stream []byte, seed uint64) [][]byte {
	if seed == 0 {
		return [][]byte{stream}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	var pieces [][]byte
	for len(stream) > 0 {
		n := 1
		if seed > 1 {
			n = 1 + r.IntN(min(len(stream), 1<<r.IntN(8)))
		}
		pieces = append(pieces, stream[:n])
		stream = stream[n:]
	}
	return pieces
}

const fuzzLimit = 1000

// observe returns the outcome of a Conn that reads a stream in pieces.
func observe(t *testing.T, pieces [][]byte, server bool, way string) outcome {
	t.Helper()
	s := &scriptConn{pieces: pieces, done: make(chan struct{})}
	c := newConn(s, testConfig(server, func(cfg *config) { cfg.maxMessage = fuzzLimit }))
	defer c.CloseNow()
	var v outcome
	for {
		_, message, err := waysToRead[way](context.Background(), c)
		if err == nil {
			v.messages = append(v.messages, string(message))
			continue
		}
		if err == io.EOF { // Messages ended quietly
			err = context.Cause(c.Context())
		}
		v.code, v.byPeer = codeOf(t, err)
		break
	}
	if r := readOne(context.Background(), c); r.err == nil {
		t.Errorf("a message %.40q after the end", r.data)
	}
	checkAnswers(t, s.written(t), server, v)
	return v
}

func codeOf(t *testing.T, err error) (code StatusCode, byPeer bool) {
	t.Helper()
	var ce *CloseError
	var pe *ProtocolError
	switch {
	case errors.As(err, &ce):
		return ce.Code, true
	case errors.As(err, &pe):
		return pe.Code, false
	}
	wantError(t, "Read", err, StatusAbnormalClosure)
	return StatusAbnormalClosure, false
}

// checkAnswers checks that the Conn sent well-formed frames: pongs and at most one close frame, which is the last.
func checkAnswers(t *testing.T, out []byte, server bool, v outcome) {
	t.Helper()
	r := bytes.NewReader(out)
	closes := 0
	for r.Len() > 0 {
		f, err := readFrame(r, server)
		switch {
		case err != nil:
			t.Fatalf("the Conn sent %x: %v", out, err)
		case closes > 0:
			t.Fatalf("a frame after our close frame: %v", f)
		case f.first == 0x88:
			closes++
			if code, ok := judgeClose(f.payload); !ok || code != v.code {
				t.Fatalf("the close frame %v for %d", f, v.code)
			}
		case f.first != 0x8a:
			t.Fatalf("the Conn sent %v", f)
		}
	}
	if want := v.code != StatusAbnormalClosure; want != (closes == 1) {
		t.Fatalf("%d close frames for %d", closes, v.code)
	}
}

// streamSeeds are streams of frames, given unmasked. FuzzFrames reads them in every test run.
var streamSeeds = [][]string{
	{"81 05 48656c6c6f"},
	{"01 03 48656c", "80 02 6c6f", "88 02 03e8"},
	{"01 03 48656c", "89 02 6869", "8a 00", "80 02 6c6f", "82 00", "88 00"},
	{"01 00", "00 00", "80 00", "88 05 0fa0 627965", "82 01 00"},
	{"81 03 e282ac", "01 01 e2", "00 01 82", "80 01 ac"},
	{"81 00", "82 00", "01 00", "80 01 61", "02 01 61", "80 00"},                           // empty messages and fragments,
	{"01 01 61", "00 00", "00 00", "80 01 62", "01 02 e282", "00 00", "80 01 ac", "82 00"}, // also inside of a character
	{"01 03 48656c", "88 02 03e8", "80 02 6c6f"},
	{"81 02 c328"}, {"01 01 e2", "80 01 41"}, {"81 01 e2"}, {"81 7e 0080 c0"},
	{frameHex(0x82, make([]byte, 200)), frameHex(0x82, make([]byte, fuzzLimit))},
	{"82 7e 03e9"}, {"02 7e 03e8 00"}, {"02 01 00", "80 7f 7fffffffffffffff"},
	{"82 7f ffffffffffffffff"}, {"82 7e 0001"}, {"c1 00"}, {"83 00"}, {"80 00"}, {"01 00", "81 00"},
	{"09 00"}, {"89 7e 007e"}, {"88 01 03"}, {"88 02 03ed"}, {"88 03 03e8 ff"}, {"8b 00"},
	{"89 00", "89 01 61", "89 02 6162", "8a 03 616263", "82 01 61"},
}

func checkStream(t *testing.T, stream []byte, server bool, seed uint64) {
	t.Helper()
	want := judge(stream, server, fuzzLimit)
	for way := range waysToRead {
		for _, n := range []uint64{0, 1, seed} {
			got := observe(t, cut(stream, n), server, way)
			if want.maybe && slices.Equal(got.messages, want.outcome.messages) {
				continue
			}
			if !got.equal(want.outcome) {
				t.Fatalf("%s, %s, %x in %d pieces:\n got %v\nwant %v", roleName(server), way, stream, len(cut(stream, n)), got, want.outcome)
			}
		}
	}
}

// FuzzFrames compares messages, outcome and answers with the oracle's, however the stream is cut.
func FuzzFrames(f *testing.F) {
	for i, frames := range streamSeeds {
		for _, server := range []bool{true, false} {
			f.Add(towards(server, frames...), server, uint64(i+2))
			f.Add(towards(!server, frames...), server, uint64(i+2))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, server bool, seed uint64) {
		checkStream(t, stream[:min(len(stream), 1<<14)], server, seed)
	})
}

// Most of these streams are valid. The fuzzer rarely finds such streams.
func TestConn_Reads_RandomStreams(t *testing.T) {
	r := rand.New(rand.NewPCG(6455, 1))
	for range 2000 {
		server := r.IntN(2) == 0
		checkStream(t, randomStream(r, server), server, r.Uint64())
	}
}

// randomStream returns frames, of which about one in twenty is wrong in some way.
func randomStream(r *rand.Rand, server bool) []byte {
	var stream []byte
	open := false
	for range 1 + r.IntN(12) {
		b0, payload := randomFrame(r, &open)
		b := wireHex(frameHex(b0, payload))
		if r.IntN(40) == 0 {
			b[r.IntN(min(len(b), 4))] ^= 1 << r.IntN(8)
		}
		if server != (r.IntN(60) == 0) {
			b = asClient(b)
		}
		stream = append(stream, b...)
	}
	return stream[:len(stream)-min(r.IntN(4), len(stream)-1)]
}

func randomFrame(r *rand.Rand, open *bool) (b0 byte, payload []byte) {
	texts := []string{"", "a", "Hello", "\u00e9", "\u20ac\U0001f600", "κόσμε", "plain and a little longer than eight"}
	text := []byte(texts[r.IntN(len(texts))])
	if op := []byte{9, 10, 9, 0, 0, 0, 0, 0, 0, 8}[r.IntN(10)]; op == 8 && r.IntN(3) == 0 {
		return 0x88, append([]byte{byte(r.IntN(20)), byte(r.IntN(256))}, text...)
	} else if op == 9 || op == 10 {
		return 0x80 | op, text
	}
	if !*open {
		b0 = byte(1 + r.IntN(2))
	}
	if *open = r.IntN(2) == 0; !*open {
		b0 |= 0x80
	}
	if r.IntN(8) == 0 {
		text = bytes.Repeat(text, r.IntN(40))
	}
	return b0, text[:len(text)-min(len(text), r.IntN(2)*r.IntN(2))]
}
