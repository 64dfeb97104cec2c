//go:build (amd64 || arm64) && !purego && !race

package websocket

import "testing"

// A CPU that lacks the instructions gets the routines in Go.
func TestVectors_Absent(t *testing.T) {
	defer func(v bool) { vectors = v }(vectors)
	vectors = false
	t.Run("mask", TestMask_EveryAlignmentLengthAndPosition)
	t.Run("UTF-8 in pieces", TestUTF8_EverySequenceAtEverySplit)
	t.Run("UTF-8 in long texts", TestUTF8_EverySequenceAtEveryPlace)
}
