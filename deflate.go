package websocket

// The compressing half of DEFLATE (RFC 1951), designed for messages: a connection holds at most its window and the
// window's index, whereas compress/flate holds more than a megabyte. It collects the symbols of a block (match.go) and
// then writes a stored, a fixed or a dynamic block, whichever is smallest (block).
//
// A block takes three passes over its symbols: the search writes them, count counts them, and emit writes their codes.
// Only the search looks at the text.

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
)

const (
	maxBlock   = 1<<16 - 1 // bytes of a stored block
	minDynamic = 64        // bytes; describing the codes of a shorter block rarely makes it shorter
)

// A deflater holds the state and the scratch memory of one call, and belongs to the caller. Between calls it is in
// deflaterPool.
type deflater struct {
	out   []byte
	bits  uint64 // bits that are not in out yet, the first lowest; zero above nbits
	nbits uint   // at most 31, between calls

	symbols        []symbol           // of the current block, ending with endOfBlock
	runs           []symbol           // the code lengths in the header of a dynamic block, as symbols of pre
	freq           [allSymbols]uint32 // how often each symbol occurs in what was counted last
	codes          codeTable          // of the current block
	lit, dist, pre alphabet           // parts of freq and codes
	npre           int                // number of codes of pre in the header

	index   index  // for a text without a window
	scratch []byte // for window.stage
}

var deflaterPool = sync.Pool{New: func() any {
	d := &deflater{index: newIndex(maxWindowBits, scratchTable, true)}
	d.lit = d.alphabet(0, maxLitCodes, maxCodeBits)
	d.dist = d.alphabet(firstDist, maxDistCodes, maxCodeBits)
	d.pre = d.alphabet(firstPre, len(preOrder), maxPreBits)
	return d
}}

// text returns a text of p alone. It clears the tables, so that the output depends on p alone, and uses no more of them
// than suits the length of p, because clearing all of them takes longer than compressing a short message.
func (d *deflater) text(p []byte, reach int, e effort) text {
	t := text{buf: p, origin: firstPosition, reach: reach, effort: e, index: d.index}
	n := 1 << min(max(bits.Len(uint(len(p))), 6), scratchTable)
	t.newest, t.even = t.newest[:n], t.even[:n]
	clear(t.newest)
	if e.chain > 0 {
		clear(t.even)
	}
	return t
}

// blocks compresses t.buf[from:] in as many blocks as necessary. None of them has BFINAL set, because the message ends
// with the empty block that compressor.deflate begins (RFC 7692, section 7.2.1).
func (d *deflater) blocks(t *text, from int) {
	for from < len(t.buf) {
		end := min(len(t.buf), from+maxBlock)
		d.symbols = append(t.symbols(d.symbols, from, end), endOfBlock)
		d.block(t.buf[from:end])
		from = end
	}
}

// block writes the symbols of src as a block of the smallest kind. It first computes the sizes in bits of all three
// kinds from the frequencies, so that nothing is written twice. Each begins with BFINAL, which is 0, and two bits of
// BTYPE (RFC 1951, section 3.2.3), which header counts for a dynamic block.
func (d *deflater) block(src []byte) {
	d.count(d.symbols)
	d.lit.gather()
	d.dist.gather()
	stored := 3 + -(d.nbits+3)&7 + 32 + 8*uint(len(src)) // with the padding and LEN and NLEN
	fixed := 3 + d.lit.cost(fixedCodes[:]) + d.dist.cost(fixedCodes[firstDist:])
	dynamic := fixed
	if len(src) >= minDynamic {
		dynamic = d.lit.build() + d.dist.build() + d.header()
	}
	switch {
	case stored < min(fixed, dynamic):
		d.stored(src)
	case fixed <= dynamic:
		d.reserve(fixed)
		d.put(1<<1, 3)
		d.emit(d.symbols, &fixedCodes)
	default:
		d.reserve(dynamic)
		d.put(2<<1, 3)
		d.putHeader()
		d.emit(d.symbols, &d.codes)
	}
}

// count sets freq. All alphabets are counted in one array, so the loop has no branch. The mask in index makes checks of
// bounds unnecessary.
func (d *deflater) count(symbols []symbol) {
	clear(d.freq[:])
	for _, t := range symbols {
		d.freq[t.index()]++
	}
}

// reserve makes room for n bits, and for the bytes that emit stores beyond the end.
func (d *deflater) reserve(n uint) { d.out = slices.Grow(d.out, int(n/8)+16) }

// put writes the n low bits of v. n is at most 32.
func (d *deflater) put(v uint, n uint) {
	d.bits |= uint64(v) << d.nbits
	d.nbits += n
	if d.nbits >= 32 {
		d.out = binary.LittleEndian.AppendUint32(d.out, uint32(d.bits))
		d.bits >>= 32
		d.nbits -= 32
	}
}

// spill writes the complete bytes.
func (d *deflater) spill() {
	for ; d.nbits >= 8; d.nbits -= 8 {
		d.out = append(d.out, byte(d.bits))
		d.bits >>= 8
	}
}

// align pads the last byte with zeros. It ends the output of each call, because a frame ends with a whole byte.
func (d *deflater) align() {
	d.nbits += -d.nbits & 7
	d.spill()
}

// stored writes src as a stored block (RFC 1951, section 3.2.4): the header, padding, the length and its complement,
// and the bytes.
func (d *deflater) stored(src []byte) {
	d.put(0, 3)
	d.align()
	d.out = binary.LittleEndian.AppendUint16(d.out, uint16(len(src)))
	d.out = binary.LittleEndian.AppendUint16(d.out, ^uint16(len(src)))
	d.out = append(d.out, src...)
}

// emit writes symbols with the given codes. The caller has reserved room for them.
//
// The longest symbol is a distance of 15 bits with 13 extra bits. Two symbols and the at most seven bits of an
// incomplete byte that each turn leaves therefore fit into a word of 64 bits. A turn stores the whole word, and the
// next one overwrites what was not complete. A literal, a length and a distance take the same path, because the
// processor could not predict a branch between them.
func (d *deflater) emit(symbols []symbol, codes *codeTable) {
	d.spill()
	out, n := d.out[:cap(d.out)], len(d.out)
	acc, nacc := d.bits, d.nbits
	for ; len(symbols) >= 2; symbols = symbols[2:] {
		t0, t1 := symbols[0], symbols[1]
		c0, c1 := codes[t0.index()], codes[t1.index()]
		acc |= c0.with(t0) << (nacc & 63)
		nacc += c0.size()
		acc |= c1.with(t1) << (nacc & 63)
		nacc += c1.size()
		binary.LittleEndian.PutUint64(out[n:], acc)
		n += int(nacc >> 3)
		acc >>= nacc &^ 7 & 63
		nacc &= 7
	}
	d.out, d.bits, d.nbits = out[:n], acc, nacc
	for _, t := range symbols {
		c := codes[t.index()]
		d.put(uint(c.with(t)), c.size())
	}
}

// header prepares the header of a dynamic block (RFC 1951, section 3.2.7) and returns its length in bits, with the
// three bits before it. putHeader writes it. The lengths of the two codes are one list: "the code length repeat codes
// can cross from HLIT + 257 to the HDIST + 1 code lengths". This encoder lets no run cross.
//
// It overwrites the frequencies of the block, of which the two alphabets keep a copy.
func (d *deflater) header() uint {
	d.runs = appendRuns(d.runs[:0], d.lit.codes[:d.lit.last()+1])
	d.runs = appendRuns(d.runs, d.dist.codes[:d.dist.last()+1])
	d.count(d.runs)
	d.pre.gather()
	n := 3 + 5 + 5 + 4 + d.pre.build()
	d.npre = len(preOrder) // more than 4 remain, because one of the lengths from 1 to 15 occurs
	for d.pre.codes[preOrder[d.npre-1]] == 0 {
		d.npre--
	}
	return n + 3*uint(d.npre)
}

// appendRuns appends the lengths of codes to runs, as symbols. At least three repetitions of a length, or three zeros,
// share a symbol.
func appendRuns(runs []symbol, codes []prefixCode) []symbol {
	for i := 0; i < len(codes); {
		length, n := codes[i].len(), 1
		for i+n < len(codes) && codes[i+n].len() == length {
			n++
		}
		i += n
		if length != 0 {
			runs = append(runs, symbol(firstPre+length))
			n--
		}
		for n >= 3 {
			t, k := repeatSymbol(length, n)
			runs = append(runs, t)
			n -= k
		}
		for range n {
			runs = append(runs, symbol(firstPre+length))
		}
	}
	return runs
}

// repeatSymbol returns a symbol that represents up to n equal lengths, and how many it represents. Section 3.2.7: 16
// copies "the previous code length 3 - 6 times", 17 repeats "a code length of 0 for 3 - 10 times", and 18 "for 11 - 138
// times".
func repeatSymbol(length uint, n int) (symbol, int) {
	code, least := 16, 3
	switch {
	case length != 0:
		n = min(n, 6)
	case n <= 10:
		code = 17
	default:
		code, least, n = 18, 11, min(n, 138)
	}
	return symbol(firstPre + code | (n-least)<<16), n
}

// putHeader writes the header that header has prepared.
func (d *deflater) putHeader() {
	d.put(uint(d.lit.last()+1-257), 5) // HLIT
	d.put(uint(d.dist.last()+1-1), 5)  // HDIST
	d.put(uint(d.npre-4), 4)           // HCLEN
	for _, i := range preOrder[:d.npre] {
		d.put(d.pre.codes[i].len(), 3)
	}
	d.emit(d.runs, &d.codes)
}
