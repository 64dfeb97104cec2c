package websocket

import (
	"bytes"
	"syscall"
	"testing"
)

// mask and check read and write only the bytes they are given. The page before these and the page after them cannot be
// accessed, so one byte too many would end the process.
func TestVectors_StayInsideTheirBytes(t *testing.T) {
	page := syscall.Getpagesize()
	all, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(all)
	for _, guard := range [][]byte{all[:page], all[2*page:]} {
		if err := syscall.Mprotect(guard, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
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
