package websocket

// Masking (RFC 6455, section 5.3): the XOR of a payload with a key of four bytes. Every frame that a client sends is
// masked, so that a web page cannot choose the bytes that a proxy sees (section 10.3).
//
// Payloads from vectorMask bytes on are masked by assembly, if the CPU has the instructions.

import (
	"encoding/binary"
	"math/bits"
)

// mask sets dst[i] = src[i] ^ key[(pos+i)&3] for each byte of src, where pos is the position of src[0] in the payload.
// dst must be at least as long as src. It is either src itself or does not overlap it.
//
// Section 5.3: "The same algorithm applies regardless of the direction of the translation, e.g., the same steps are
// applied to mask the data as to unmask the data." So mask also unmasks.
func mask(dst, src []byte, key [4]byte, pos int) {
	dst = dst[:len(src)]
	for vectors && len(src) >= vectorMask {
		n := min(len(src), vectorMost)
		maskVector(&dst[0], &src[0], n, keyAt(key, pos))
		if n == len(src) {
			return
		}
		dst, src = dst[n:], src[n:]
		pos += n
	}
	maskScalar(dst, src, key, pos)
}

const (
	vectorMask = 32       // the shortest payload that maskVector masks: a register of AVX2
	vectorMost = 64 << 10 // the most bytes for one call of the assembly, which the garbage collector cannot interrupt
)

// maskScalar is mask in Go. dst and src have the same length. It masks a word at a time; the word holds the key twice.
// The loops take sixteen words, four and one: without the first, 1 KiB takes a quarter longer.
func maskScalar(dst, src []byte, key [4]byte, pos int) {
	if len(src) < 8 {
		maskShort(dst, src, key, pos)
		return
	}
	// word is the key twice, rotated so that its lowest byte masks src[0].
	half := keyAt(key, pos)
	word := uint64(half)<<32 | uint64(half)
	// One store of a whole word masks the tail. That word overlaps the one before it and dst may be src, so it is
	// computed before anything is written.
	end := len(src) - 8
	last := binary.LittleEndian.Uint64(src[end:]) ^ bits.RotateLeft64(word, -8*(end&3))
	d, s := dst, src
	for len(s) >= 128 && len(d) >= 128 {
		maskBlock((*[128]byte)(d), (*[128]byte)(s), word)
		d, s = d[128:], s[128:]
	}
	for len(s) >= 32 && len(d) >= 32 {
		maskWords((*[32]byte)(d), (*[32]byte)(s), word)
		d, s = d[32:], s[32:]
	}
	for len(s) >= 8 && len(d) >= 8 {
		binary.LittleEndian.PutUint64(d, binary.LittleEndian.Uint64(s)^word)
		d, s = d[8:], s[8:]
	}
	binary.LittleEndian.PutUint64(dst[end:], last)
}

// maskBlock masks sixteen words. The conversions of slices to array pointers check their length once, so that no access
// to the arrays has to.
func maskBlock(d, s *[128]byte, word uint64) {
	maskWords((*[32]byte)(d[0:]), (*[32]byte)(s[0:]), word)
	maskWords((*[32]byte)(d[32:]), (*[32]byte)(s[32:]), word)
	maskWords((*[32]byte)(d[64:]), (*[32]byte)(s[64:]), word)
	maskWords((*[32]byte)(d[96:]), (*[32]byte)(s[96:]), word)
}

// maskWords masks four words.
func maskWords(d, s *[32]byte, word uint64) {
	binary.LittleEndian.PutUint64(d[0:], binary.LittleEndian.Uint64(s[0:])^word)
	binary.LittleEndian.PutUint64(d[8:], binary.LittleEndian.Uint64(s[8:])^word)
	binary.LittleEndian.PutUint64(d[16:], binary.LittleEndian.Uint64(s[16:])^word)
	binary.LittleEndian.PutUint64(d[24:], binary.LittleEndian.Uint64(s[24:])^word)
}

// maskShort masks fewer than 8 bytes: with two overlapping half words, or byte by byte if there are fewer than 4.
func maskShort(dst, src []byte, key [4]byte, pos int) {
	if len(src) < 4 {
		for i, b := range src {
			dst[i] = b ^ key[(pos+i)&3]
		}
		return
	}
	// Both are computed before either is stored, because they may overlap and dst may be src.
	end := len(src) - 4
	first := binary.LittleEndian.Uint32(src) ^ keyAt(key, pos)
	last := binary.LittleEndian.Uint32(src[end:]) ^ keyAt(key, pos+end)
	binary.LittleEndian.PutUint32(dst, first)
	binary.LittleEndian.PutUint32(dst[end:], last)
}

// keyAt returns the key rotated so that the byte for position pos of the payload is the lowest. Section 5.3: octet i is
// masked with octet "i MOD 4" of the key.
func keyAt(key [4]byte, pos int) uint32 {
	return bits.RotateLeft32(binary.LittleEndian.Uint32(key[:]), -8*(pos&3))
}
