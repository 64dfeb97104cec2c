package websocket

// Pooled memory for everything that a connection holds only while bytes move: received bytes, frames to be sent, and
// messages. An idle connection holds none.

import "sync"

// A buffer is pooled memory. The holder of the pointer owns it until it calls free. After that, neither the pointer nor
// the bytes may be used.
type buffer struct {
	b     []byte // its length is the part in use; its capacity never changes
	class int    // index of its pool; -1 if it is too large to be kept
}

// classSizes are the capacities of pooled buffers. Each but the first is a power of two with room for frame headers.
var classSizes = [...]int{4 << 10, 18 << 10, 72 << 10, 264 << 10, 1032 << 10}

// pools has the free buffers of each class.
var pools [len(classSizes)]sync.Pool

// getBuffer returns an empty buffer with a capacity of at least n bytes. Its bytes beyond the length may have any
// value. A buffer larger than the largest class is allocated and not pooled.
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
	return &buffer{b: make([]byte, 0, classSizes[class]), class: class}
}

// free returns b to its pool. If b is nil, free does nothing.
func (b *buffer) free() {
	if b == nil || b.class < 0 {
		return
	}
	b.b = b.b[:0]
	pools[b.class].Put(b)
}
