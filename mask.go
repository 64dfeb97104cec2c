package websocket

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
	"sync"
)

// mask sets dst[i] = src[i] ^ key[(pos+i)&3] for each byte of src. By RFC 6455, section 5.3, "The same algorithm
// applies regardless of the direction of the translation, e.g., the same steps are applied to mask the data as to
// unmask the data", so it masks and unmasks, copies on the way where dst is not src, and goes on at any position
// pos of the payload. dst must be at least as long as src, and be src itself or apart from it.
func mask(dst, src []byte, key [4]byte, pos int) {
	dst = dst[:len(src)]
	if len(src) < 8 {
		maskShort(dst, src, key, pos)
		return
	}
	if len(src) >= largeMask {
		n := maskLarge(dst, src, key, pos)
		dst, src = dst[n:], src[n:]
		pos += n
	}
	// The key is laid out as the table that the position indexes, two turns of it in a word.
	half := keyAt(key, pos)
	word := uint64(half)<<32 | uint64(half)
	// The last word overlaps those before it, and is read before one of them is written, for dst may be src.
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

// maskBlock masks sixteen words. Array pointers spare it all checks of bounds.
func maskBlock(d, s *[128]byte, word uint64) {
	maskWords((*[32]byte)(d[0:]), (*[32]byte)(s[0:]), word)
	maskWords((*[32]byte)(d[32:]), (*[32]byte)(s[32:]), word)
	maskWords((*[32]byte)(d[64:]), (*[32]byte)(s[64:]), word)
	maskWords((*[32]byte)(d[96:]), (*[32]byte)(s[96:]), word)
}

func maskWords(d, s *[32]byte, word uint64) {
	binary.LittleEndian.PutUint64(d[0:], binary.LittleEndian.Uint64(s[0:])^word)
	binary.LittleEndian.PutUint64(d[8:], binary.LittleEndian.Uint64(s[8:])^word)
	binary.LittleEndian.PutUint64(d[16:], binary.LittleEndian.Uint64(s[16:])^word)
	binary.LittleEndian.PutUint64(d[24:], binary.LittleEndian.Uint64(s[24:])^word)
}

// maskShort masks less than 8 bytes: by two overlapping half words, or one by one below four.
func maskShort(dst, src []byte, key [4]byte, pos int) {
	if len(src) < 4 {
		for i, b := range src {
			dst[i] = b ^ key[(pos+i)&3]
		}
		return
	}
	end := len(src) - 4
	first := binary.LittleEndian.Uint32(src) ^ keyAt(key, pos)
	last := binary.LittleEndian.Uint32(src[end:]) ^ keyAt(key, pos+end)
	binary.LittleEndian.PutUint32(dst, first)
	binary.LittleEndian.PutUint32(dst[end:], last)
}

// From largeMask bytes on it pays to lay out many turns of the key and let crypto/subtle's assembly do the rest.
const largeMask = 8 << 10

// keyTables hold such tables. They are not on the stack, which would grow for it and stay so while the connection
// is idle.
var keyTables = sync.Pool{New: func() any { return new([2048]byte) }}

// maskLarge masks all but the last bytes of src, at least 8, and returns how many it did.
func maskLarge(dst, src []byte, key [4]byte, pos int) (n int) {
	table := keyTables.Get().(*[2048]byte)
	binary.LittleEndian.PutUint32(table[:], keyAt(key, pos))
	for n := 4; n < len(table); n *= 2 {
		copy(table[n:], table[:n])
	}
	for ; len(src)-n >= len(table)+8; n += len(table) {
		subtle.XORBytes(dst[n:], src[n:n+len(table)], table[:])
	}
	keyTables.Put(table) // not deferred, which would take of the stack: see fill
	return n
}

// keyAt returns the key from its octet pos mod 4 on, the first in the lowest byte.
func keyAt(key [4]byte, pos int) uint32 {
	return bits.RotateLeft32(binary.LittleEndian.Uint32(key[:]), -8*(pos&3))
}

// A keyBatch holds masking keys not used yet, so that one call of crypto/rand serves many frames.
type keyBatch struct {
	keys [1024]byte
	left int
}

var keyBatches = sync.Pool{New: func() any { return new(keyBatch) }}

// newMaskKey returns a key by RFC 6455, section 5.3: "The masking key needs to be unpredictable; thus, the masking
// key MUST be derived from a strong source of entropy". It may be called from any goroutine.
func newMaskKey() [4]byte {
	b := keyBatches.Get().(*keyBatch)
	if b.left == 0 {
		rand.Read(b.keys[:]) // it never fails
		b.left = len(b.keys)
	}
	b.left -= 4
	key := [4]byte(b.keys[b.left:])
	keyBatches.Put(b)
	return key
}
