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

// An outcome is all that a stream of frames comes to.
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

// An oracle is the receiving side once more, written from the RFC for a stream that is in memory as a whole.
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

// judge returns the outcome on a stream.
func judge(stream []byte, server bool, limit uint64) *oracle {
	o := &oracle{rest: stream, server: server, limit: limit}
	for o.outcome.code == 0 {
		o.frame()
	}
	return o
}

// frame takes one frame, or sets the outcome.
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

// length reads the payload length, as far as it is there.
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

// payload takes the bytes of a payload that have arrived.
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

// textSoFar reports whether p is UTF-8 or, before the end, may become UTF-8.
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

// cut cuts a stream into pieces, all of one byte for the seed 1, or a single one for 0.
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

// observe has a Conn read a stream in the given pieces, and returns the outcome.
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

// checkAnswers demands well-formed frames, pongs and at most one close frame, after which nothing comes.
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

// streamSeeds are streams of frames, given unmasked.
var streamSeeds = [][]string{
	{"81 05 48656c6c6f"},
	{"01 03 48656c", "80 02 6c6f", "88 02 03e8"},
	{"01 03 48656c", "89 02 6869", "8a 00", "80 02 6c6f", "82 00", "88 00"},
	{"01 00", "00 00", "80 00", "88 05 0fa0 627965", "82 01 00"},
	{"81 03 e282ac", "01 01 e2", "00 01 82", "80 01 ac"},
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

// FuzzFrames compares messages, outcome and answers with the oracle's, however the stream is cut into pieces.
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

// Mostly valid frames, which the fuzzer rarely finds.
func TestConn_Reads_RandomStreams(t *testing.T) {
	r := rand.New(rand.NewPCG(6455, 1))
	for range 2000 {
		server := r.IntN(2) == 0
		checkStream(t, randomStream(r, server), server, r.Uint64())
	}
}

// randomStream returns frames of which about one in twenty is wrong in some way.
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
