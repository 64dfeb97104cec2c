//go:build (amd64 || arm64) && !purego && !race

package websocket

// Assembly for masking and for UTF-8 validation: AVX2 in simd_amd64.s and NEON in simd_arm64.s. The build tag purego
// excludes it. So does the race detector, which does not see what assembly reads and writes.

// vectors says whether the CPU has the instructions that the assembly needs. Tests clear it.
var vectors = hasVectors()

// hasVectors reports whether the CPU has the instructions and the operating system saves the registers.
func hasVectors() bool

// maskVector masks n bytes from src to dst, as mask does. The lowest byte of key masks the first of them. n is at least
// vectorMask.
//
//go:noescape
func maskVector(dst, src *byte, n int, key uint32)

// validVector reports whether the n bytes at p are the start of a valid text. It may miss an error in an incomplete
// character within the last three bytes. n is at least vectorText.
//
//go:noescape
func validVector(p *byte, n int) bool
