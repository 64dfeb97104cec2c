package websocket

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

// The examples of section 5.7, and one of each further form.
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

func TestFrame_Parses_Examples(t *testing.T) {
	for _, ex := range headerExamples {
		b := append(wireHex(ex.wire), 0xde, 0xad) // later bytes are ignored
		var h header
		n, err := h.parse(b)
		if h != ex.want || n != len(b)-2 || err != nil {
			t.Errorf("%s: %+v, %d, %v", ex.wire, h, n, err)
		}
	}
}

func TestFrame_Appends_Examples(t *testing.T) {
	for _, ex := range headerExamples {
		got := appendHeader([]byte("before"), &ex.want)
		if want := append([]byte("before"), wireHex(ex.wire)...); !bytes.Equal(got, want) {
			t.Errorf("%s: %x", ex.wire, got[6:])
		}
	}
}

func TestFrame_Parses_NothingOfAnyPrefix(t *testing.T) {
	for _, ex := range headerExamples {
		b := wireHex(ex.wire)
		for i := range b {
			if n, err := new(header).parse(b[:i]); n != 0 || err != nil {
				t.Errorf("%x of %s: %d, %v", b[:i], ex.wire, n, err)
			}
		}
	}
}

// Section 5.2: "the most significant bit MUST be 0", and "the minimal number of bytes MUST be used", on GOARCH=386 too.
func TestFrame_Refuses_Lengths(t *testing.T) {
	for _, s := range []string{
		"82 7e 0000", "82 7e 0001", "82 7e 007d", "82 fe 007d 00000000",
		"82 7f 0000000000000000", "82 7f 000000000000007d", "82 7f 000000000000007e", "82 7f 000000000000ffff",
		"82 7f 8000000000000000", "82 7f 8000000000000001", "82 7f 8000000000010000", "82 7f ffffffffffffffff",
		"82 ff 8000000000000000", "82 ff 8000000000000005", "82 ff ffffffffffffffff", "82 ff ffffffffffffffff ffffffff",
	} {
		n, err := new(header).parse(wireHex(s))
		var pe *ProtocolError
		if !errors.As(err, &pe) || pe.Code != StatusProtocolError || n != 0 {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
}

// Every combination of bits and opcodes with the lengths at each boundary.
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

// FuzzHeader decodes and encodes headers: both directions are inverse to each other.
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
