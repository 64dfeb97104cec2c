package websocket

import "testing"

// A bitString is a DEFLATE stream that a test writes field by field.
type bitString struct {
	b []byte
	n int
}

// put appends the n low bits of v, the lowest first.
func (s *bitString) put(v, n int) *bitString {
	for ; n > 0; v, n = v>>1, n-1 {
		if s.n%8 == 0 {
			s.b = append(s.b, 0)
		}
		s.b[s.n/8] |= byte(v&1) << (s.n % 8)
		s.n++
	}
	return s
}

// code appends a Huffman code of n bits, whose first bit is the highest.
func (s *bitString) code(v, n int) *bitString {
	for n--; n >= 0; n-- {
		s.put(v>>n, 1)
	}
	return s
}

// dynamicBlock returns the header of a dynamic block with the given code lengths. Its code length code has four bits for
// each length from 0 to 15.
func dynamicBlock(hlit, hdist int, lens map[int]int) *bitString {
	s := new(bitString)
	s.put(0, 1).put(2, 2).put(hlit-257, 5).put(hdist-1, 5).put(19-4, 4)
	for _, i := range preOrder {
		if i < 16 {
			s.put(4, 3)
		} else {
			s.put(0, 3)
		}
	}
	for i := range hlit + hdist {
		n := lens[i]
		s.code(n, 4)
	}
	return s
}

// A code is valid if and only if compress/flate accepts it.
func TestInflate_HuffmanCodes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hlit  int
		hdist int
		lens  map[int]int
		valid bool
	}{
		{"complete", 257, 1, map[int]int{'A': 1, 256: 1}, true},
		{"over-subscribed literals", 257, 1, map[int]int{'A': 1, 'B': 1, 256: 1}, false},
		{"incomplete literals", 257, 1, map[int]int{'A': 2, 256: 1}, false},
		{"complete with three", 257, 1, map[int]int{'A': 2, 'B': 2, 256: 1}, true},
		{"one literal code of one bit", 257, 1, map[int]int{256: 1}, true},
		{"one literal code of two bits", 257, 1, map[int]int{256: 2}, false},
		{"no end of block", 257, 1, map[int]int{'A': 1, 'B': 1}, false},
		{"one distance code of one bit", 257, 1, map[int]int{'A': 1, 256: 1, 257: 1}, true},
		{"one distance code of two bits", 257, 1, map[int]int{'A': 1, 256: 1, 257: 2}, false},
		{"over-subscribed distances", 257, 3, map[int]int{'A': 1, 256: 1, 257: 1, 258: 1, 259: 1}, false},
		{"286 literals", 286, 1, map[int]int{'A': 1, 256: 1}, true},
		{"287 literals", 287, 1, map[int]int{'A': 1, 256: 1}, false},
		{"30 distances", 257, 30, map[int]int{'A': 1, 256: 1}, true},
		{"31 distances", 257, 31, map[int]int{'A': 1, 256: 1}, false},
		{"the longest codes", 286, 1, map[int]int{'A': 1, 'B': 2, 'C': 3, 'D': 4, 'E': 5, 'F': 6, 'G': 7, 'H': 8,
			'I': 9, 'J': 10, 'K': 11, 'L': 12, 'M': 13, 'N': 14, 'O': 15, 256: 15}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := dynamicBlock(tt.hlit, tt.hdist, tt.lens)
			// "A", the end of the block, an empty stored block; or the end of the block and a final stored block
			payload := s.put(0, 1).put(1, 1).put(0, 3).b
			_, ok := stdInflate(payload, nil)
			_, err := inflateAll(newTestDecompressor(false), payload)
			if (err == nil) != ok {
				t.Errorf("inflated with %v, compress/flate: %t", err, ok)
			}
			if ok != tt.valid {
				t.Errorf("compress/flate took it: %t, want %t", ok, tt.valid)
			}
		})
	}
}

// Each invalid stream has a valid neighbour.
func TestInflate_InvalidStreams(t *testing.T) {
	fixed := func(typ, literal, distance int) []byte { // "A", a match, the end of the block
		s := new(bitString).put(0, 1).put(typ, 2).code(0x71, 8)
		return s.code(0xc0+literal-280, 8).code(distance, 5).put(0, 7).put(0, 3).b
	}
	pre := func(symbols ...int) []byte { // code lengths by symbols of 2 bits: 0, 1, 16 with 2 and 18 with 7 bits more
		s := new(bitString).put(0, 1).put(2, 2).put(0, 5).put(0, 5).put(18-4, 4)
		for _, i := range preOrder[:18] {
			s.put(map[uint8]int{0: 2, 1: 2, 16: 2, 18: 2}[i], 3)
		}
		for _, v := range symbols {
			if v >= 100 {
				s.put(v-100, 7)
			} else {
				s.put(v, 2)
			}
		}
		return s.b
	}
	const zero, one, again, zeros = 0, 2, 1, 3 // symbols 0, 1, 16 and 18, with the first bit lowest
	for _, tt := range []struct {
		name           string
		valid, invalid []byte
	}{
		{"block type 3", fixed(1, 285, 0), fixed(3, 285, 0)},
		{"stored length and its complement", deflateBytes(t, "00 0100 feff 41 00"), deflateBytes(t, "00 0100 ffff 41 00")},
		{"literal symbol 286", fixed(1, 285, 0), fixed(1, 286, 0)},
		{"literal symbol 287", fixed(1, 285, 0), fixed(1, 287, 0)},
		{"distance symbol 30", fixed(1, 285, 0), fixed(1, 285, 30)},
		{"distance symbol 31", fixed(1, 285, 0), fixed(1, 285, 31)},
		{"distance 2 after 1 byte", fixed(1, 285, 0), fixed(1, 285, 1)},
		// 255 lengths of 0 and those of 255, 256 and a distance.
		{"repetition with nothing before it", pre(zeros, 100+127, zeros, 100+106, one, one, one, 0, 2, 0),
			pre(again, 0, zeros, 100+127, zeros, 100+106, one, one, one, 0, 2, 0)},
		{"repetition beyond the end", pre(zeros, 100+127, zeros, 100+106, one, one, zero, 0, 2, 0),
			pre(zeros, 100+127, zeros, 100+106, one, one, zeros, 100, 0, 2, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, ok := stdInflate(tt.valid, nil); !ok {
				t.Error("compress/flate does not take the valid neighbour")
			}
			if _, err := inflateAll(newTestDecompressor(false), tt.valid); err != nil {
				t.Errorf("the valid neighbour: %v", err)
			}
			if got, ok := stdInflate(tt.invalid, nil); ok {
				t.Errorf("compress/flate takes it: %q", got)
			}
			wantInvalid(t, newTestDecompressor(false), tt.invalid)
		})
	}
}
