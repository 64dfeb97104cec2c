package websocket

import (
	"bytes"
	"compress/flate"
	"testing"
)

func inflateSeeds(f *testing.F) [][]byte {
	text := jsonText(1, 400)
	seeds := [][]byte{
		nil, deflateBytes(f, "00"),
		deflateBytes(f, "f2 48 cd c9 c9 07 00"),
		deflateBytes(f, "00 0500 faff 48656c6c6f 00"),
		deflateBytes(f, "f3 48 cd c9 c9 07 00 00"),
		deflateBytes(f, "f3 48 cd c9 c9 07 00 02 13 00 00"),
		deflateBytes(f, "f2 48 05 00 00 00 ff ff ca c9 c9 07 00"),
		deflateBytes(f, "f2 00 11 00 00"),
		dynamicBlock(286, 30, map[int]int{'A': 1, 256: 2, 285: 2, 286: 1, 300: 1}).put(0x1b, 5).put(0, 6).b,
		stdDeflate(f, flate.HuffmanOnly, text, 400),
		stdDeflate(f, flate.BestCompression, make([]byte, 1000), 1000),
	}
	for level := flate.NoCompression; level <= flate.BestCompression; level += 3 {
		seeds = append(seeds, stdDeflate(f, level, text, 400), stdDeflate(f, level, text, 90))
	}
	return seeds
}

// B36, B37: on any bytes the inflater and compress/flate agree on accept or reject and on the output.
func FuzzInflate_AgreesWithFlate(f *testing.F) {
	for _, p := range inflateSeeds(f) {
		f.Add(p, []byte("Hello"))
		f.Add(p, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, payload, history []byte) {
		history = history[max(0, len(history)-1<<maxWindowBits):]
		d := newTestDecompressor(true)
		d.hist.add(history)
		got, err := inflateAll(d, payload)
		want, ok := stdInflate(payload, history)
		if ok != (err == nil) || ok && !bytes.Equal(got, want) {
			t.Errorf("%x behind %x: inflated to %x, %v; compress/flate: %x, %t", payload, history, got, err, want, ok)
		}
	})
}

// B38: any split of the input and of the room gives the same verdict and the same message.
func FuzzInflate_AnySplit(f *testing.F) {
	for i, p := range inflateSeeds(f) {
		f.Add(p, uint8(i), uint8(i*7))
	}
	f.Fuzz(func(t *testing.T, payload []byte, piece, room uint8) {
		want, wantErr := inflateAll(newTestDecompressor(false), payload)
		got, err := inflateBy(newTestDecompressor(false), payload, int(piece)+1, int(room)+1)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%x in pieces of %d, room %d: %x, %v; want %x, %v", payload, piece, room, got, err, want, wantErr)
		}
	})
}
