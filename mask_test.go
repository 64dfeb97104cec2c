package websocket

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
)

// maskByBytes is the algorithm of RFC 6455, section 5.3, in its own words:
//
//	j                   = i MOD 4
//	transformed-octet-i = original-octet-i XOR masking-key-octet-j
func maskByBytes(dst, src []byte, key [4]byte, pos int) {
	for i := range src {
		dst[i] = src[i] ^ key[(pos+i)%4]
	}
}

// Octet i is XORed with key octet i mod 4 (section 5.3), whatever the alignment, the length and the position.
func TestMask_EveryAlignmentLengthAndPosition(t *testing.T) {
	lengths := []int{1000, 4099, vectorMost - 1, vectorMost, vectorMost + 1, vectorMost + 33}
	for n := range 301 {
		lengths = append(lengths, n)
	}
	for _, n := range lengths {
		for from := 0; from < 32; from += 1 + n>>12 {
			checkMask(t, n, from, 0)
			checkMask(t, n, from, 5)
			checkMask(t, n, 0, from)
		}
	}
}

// checkMask masks n bytes from offset from of one array to offset to of another, and in place. Nothing else may change:
// neither the source nor the bytes around the destination.
func checkMask(t *testing.T, n, from, to int) {
	t.Helper()
	key := [4]byte{0xA1, 0x02, 0xF3, 0x54}
	whole := pattern(from + n + 8)
	src := whole[from : from+n]
	for pos := range 4 {
		want := bytes.Repeat([]byte{0xEE}, to+n+8)
		maskByBytes(want[to:], src, key, pos)
		for name, f := range map[string]maskFunc{"mask": mask, "maskScalar": maskScalar} {
			got := bytes.Repeat([]byte{0xEE}, to+n+8)
			f(got[to:to+n], src, key, pos)
			if !bytes.Equal(got, want) {
				t.Fatalf("%s: %d bytes from offset %d to %d at position %d: differs", name, n, from, to, pos)
			}
			if !bytes.Equal(whole, pattern(len(whole))) {
				t.Fatalf("%s: %d bytes from offset %d at position %d: the source was changed", name, n, from, pos)
			}
			inPlace := bytes.Clone(whole)
			f(inPlace[from:from+n], inPlace[from:from+n], key, pos)
			if !bytes.Equal(inPlace[from:from+n], want[to:to+n]) || !bytes.Equal(inPlace[from+n:], whole[from+n:]) {
				t.Fatalf("%s: %d bytes at offset %d, position %d, in place: differs", name, n, from, pos)
			}
		}
	}
}

// A maskFunc masks as mask does.
type maskFunc func(dst, src []byte, key [4]byte, pos int)

// A payload that arrives in pieces is unmasked as if it had arrived at once.
func TestMask_GoesOnAtAnySplit(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	src := pattern(300)
	want := make([]byte, len(src))
	maskByBytes(want, src, key, 0)
	for i := range src {
		got := make([]byte, len(src))
		mask(got, src[:i], key, 0)
		mask(got[i:], src[i:], key, i)
		if !bytes.Equal(got, want) {
			t.Fatalf("split at %d: differs", i)
		}
	}
}

// FuzzMask compares mask and maskScalar with the algorithm of the RFC. The payload is masked in two pieces, to an
// offset that makes all alignments come up.
func FuzzMask(f *testing.F) {
	f.Add([]byte{}, uint32(0), 0, 0)
	f.Add([]byte("Hello"), uint32(0x37fa213d), 0, 2)
	f.Add(pattern(300), uint32(0x01020304), 3, 129)
	f.Fuzz(func(t *testing.T, src []byte, k uint32, pos, split int) {
		var key [4]byte
		binary.BigEndian.PutUint32(key[:], k)
		pos = pos & 0xFFFF
		split = min(split&0xFFFF, len(src))
		want := make([]byte, len(src))
		maskByBytes(want, src, key, pos)
		for _, f := range []maskFunc{mask, maskScalar} {
			got := make([]byte, 32+len(src))[pos%32:][:len(src)]
			f(got[:split], src[:split], key, pos)
			f(got[split:], src[split:], key, pos+split)
			if !bytes.Equal(got, want) {
				t.Errorf("masked % x, want % x", got, want)
			}
			f(got, got, key, pos)
			if !bytes.Equal(got, src) {
				t.Errorf("unmasked in place % x, want % x", got, src)
			}
		}
	})
}

// Section 5.3: a key must be unpredictable. Keys differ from frame to frame. Among n random keys of 2^32, about
// n*n/2^33 pairs are equal: 116 here.
func TestMaskKey_NoRepeatsBeyondChance(t *testing.T) {
	const workers, each = 4, 250_000
	keys := make([][4]byte, workers*each)
	var wg sync.WaitGroup
	for part := range workers {
		wg.Go(func() {
			for i := range each {
				keys[part*each+i] = newMaskKey()
			}
		})
	}
	wg.Wait()
	seen := make(map[[4]byte]bool, len(keys))
	for _, k := range keys {
		seen[k] = true
	}
	if pairs := len(keys) - len(seen); pairs > 250 {
		t.Errorf("%d of %d keys were there before; chance makes about 116", pairs, len(keys))
	}
}

// Each bit of the keys is set in half of them, as from a source of entropy.
func TestMaskKey_EachBitIsSetInHalf(t *testing.T) {
	const n = 100_000
	var set [32]int
	for range n {
		key := newMaskKey()
		for bit := range set {
			set[bit] += int(key[bit/8] >> (bit % 8) & 1)
		}
	}
	for bit, count := range set {
		if count < n/2-1500 || count > n/2+1500 {
			t.Errorf("bit %d is set in %d of %d keys", bit, count, n)
		}
	}
}

// BenchmarkMask compares the routines with the alternatives that they were chosen among.
func BenchmarkMask(b *testing.B) {
	key := [4]byte{1, 2, 3, 4}
	for _, size := range []int{16, 64, 125, 1 << 10, 16 << 10, 64 << 10, 1 << 20} {
		src, dst := pattern(size), make([]byte, size)
		table := bytes.Repeat(key[:], size/4+1)[:size]
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					f()
				}
			})
		}
		run("mask", func() { mask(dst, src, key, 1) })
		run("in-place", func() { mask(dst, dst, key, 1) })
		run("scalar", func() { maskScalar(dst, src, key, 1) })
		run("bytes", func() { maskByBytes(dst, src, key, 1) })
		run("XORBytes", func() { subtle.XORBytes(dst, src, table) })
		run("memmove", func() { copy(dst, src) })
	}
}
