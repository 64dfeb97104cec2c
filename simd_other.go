//go:build (!amd64 && !arm64) || purego || race

package websocket

// vectors is false: there is no assembly, so mask and utf8State.check use the Go code.
const vectors = false

// maskVector is not called, because vectors is false.
func maskVector(dst, src *byte, n int, key uint32) { panic("websocket: no assembly") }

// validVector is not called, because vectors is false.
func validVector(p *byte, n int) bool { panic("websocket: no assembly") }
