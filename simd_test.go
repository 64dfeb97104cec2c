//go:build (linux || darwin) && (amd64 || arm64) && !purego && !race

package websocket

import (
	"bytes"
	"syscall"
	"testing"
)

// A CPU that lacks the instructions gets the routines in Go.
func TestVectors_Absent(t *testing.T) {
	defer func(v bool) { vectors = v }(vectors)
	vectors = false
	t.Run("mask", TestMask_EveryAlignmentLengthAndPosition)
	t.Run("UTF-8 in pieces", TestUTF8_EverySequenceAtEverySplit)
	t.Run("UTF-8 in long texts", TestUTF8_EverySequenceAtEveryPlace)
}

// mask and check read and write only the bytes they are given. The page before these and the page after them cannot be
// accessed, so one byte too many would end the process.
func TestVectors_StayInsideTheirBytes(t *testing.T) {
	page := syscall.Getpagesize()
	all, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	must(t, err)
	defer syscall.Munmap(all)
	for _, guard := range [][]byte{all[:page], all[2*page:]} {
		must(t, syscall.Mprotect(guard, syscall.PROT_NONE))
	}
	middle := all[page : 2*page]
	for n := range 301 {
		for _, p := range [][]byte{middle[:n], middle[page-n:]} {
			for _, text := range []string{"a", "é", "中", "🙂"} {
				copy(p, bytes.Repeat([]byte(text), n/len(text)+1))
				if _, ok := utf8Start.check(p); !ok {
					t.Fatalf("%q is refused", p)
				}
			}
			mask(p, p, [4]byte{1, 2, 3, 4}, n)
		}
	}
}
