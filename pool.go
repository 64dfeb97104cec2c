package websocket

import "sync"

// A buffer is pooled memory. Whoever holds the pointer owns it, until free.
type buffer struct {
	b     []byte
	class int // index of its pool; -1: too large to be kept
}

// The classes leave room for a header beside a power of two of payload.
var classSizes = [...]int{4 << 10, 18 << 10, 72 << 10, 264 << 10, 1032 << 10}

var pools [len(classSizes)]sync.Pool

// getBuffer returns an empty buffer with a capacity of at least n bytes.
func getBuffer(n int) *buffer {
	class := 0
	for n > classSizes[class] {
		if class++; class == len(classSizes) {
			return &buffer{b: make([]byte, 0, n), class: -1}
		}
	}
	if b, ok := pools[class].Get().(*buffer); ok {
		return b
	}
	return newBuffer(class)
}

func newBuffer(class int) *buffer {
	return &buffer{b: make([]byte, 0, classSizes[class]), class: class}
}

// free gives b back. It may be nil.
func (b *buffer) free() {
	if b == nil || b.class < 0 {
		return
	}
	b.b = b.b[:0]
	pools[b.class].Put(b)
}
