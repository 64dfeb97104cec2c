//go:build !js

package websocket

import (
	"crypto/rand"
	"sync"
)

// masks reports whether an end with the given role masks its frames. RFC 6455, section 5.1: "a client MUST mask all
// frames that it sends to the server", "A server MUST NOT mask any frames that it sends to the client."
func masks(server bool) bool { return !server }

// A keyBatch holds unused masking keys, so that one call to crypto/rand, which may be a system call, serves 256 frames.
// The goroutine that gets it from the pool owns it.
type keyBatch struct {
	keys [1024]byte
	left int // unused bytes at the start of keys
}

var keyBatches = sync.Pool{New: func() any { return new(keyBatch) }}

// newMaskKey returns a fresh random key. Section 5.3: "The masking key needs to be unpredictable; thus, the masking key
// MUST be derived from a strong source of entropy". Any goroutine may call it.
func newMaskKey() [4]byte {
	b := keyBatches.Get().(*keyBatch)
	if b.left == 0 {
		rand.Read(b.keys[:]) // never returns an error
		b.left = len(b.keys)
	}
	b.left -= 4
	key := [4]byte(b.keys[b.left:])
	keyBatches.Put(b)
	return key
}
