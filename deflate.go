package websocket

// The compressing half of DEFLATE (RFC 1951), designed for messages: a connection holds at most its window and the
// window's index, whereas compress/flate holds more than a megabyte. It collects the sequences of a block (match.go)
// and then writes a stored, a fixed or a dynamic block, whichever is smallest (block).

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
)

const (
	maxBlock   = 1<<16 - 1 // bytes of a stored block
	minDynamic = 64        // bytes; describing the codes of a shorter block rarely pays off
)

// A deflater holds the state and the scratch memory of one call, and belongs to the caller. Between calls it is in
// deflaterPool.
type deflater struct {
	out   []byte
	bits  uint64 // bits that are not in out yet
	nbits uint

	symbols        []symbol           // of the current block
	runs           []symbol           // the code lengths in the header of a dynamic block
	freq           [allSymbols]uint32 // number of symbols with each symbol
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

// text returns a text of p alone, with hash tables whose size suits p.
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

// blocks compresses t.buf[from:] in as many blocks as necessary. None of them is marked final.
func (d *deflater) blocks(t *text, from int) {
	for from < len(t.buf) {
		end := min(len(t.buf), from+maxBlock)
		d.symbols = append(t.symbols(d.symbols, from, end), endOfBlock)
		d.block(t.buf[from:end])
		from = end
	}
}

// block writes the symbols of src as a block of the smallest kind. It first computes the sizes of all three kinds from
// the frequencies, so that nothing is written twice.
func (d *deflater) block(src []byte) {
	d.count(d.symbols)
	d.lit.gather()
	d.dist.gather()
	stored := 3 + -(d.nbits+3)&7 + 32 + 8*uint(len(src))
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

// count sets the frequencies of the symbols of symbols.
func (d *deflater) count(symbols []symbol) {
	clear(d.freq[:])
	for _, t := range symbols {
		d.freq[t.index()]++
	}
}

// reserve makes room for n bits, and for the bytes that symbols writes beyond the end.
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

// align pads the last byte with zeros.
func (d *deflater) align() {
	d.nbits += -d.nbits & 7
	d.spill()
}

// stored writes src as a stored block.
func (d *deflater) stored(src []byte) {
	d.put(0, 3)
	d.align()
	d.out = binary.LittleEndian.AppendUint16(d.out, uint16(len(src)))
	d.out = binary.LittleEndian.AppendUint16(d.out, ^uint16(len(src)))
	d.out = append(d.out, src...)
}

// emit writes symbols. The caller has reserved room for them. A symbol takes at most 28 bits, those of a distance. So
// two symbols fit into a word beside the bits of the last incomplete byte, at most seven, which each turn leaves. The loop
// has no branches that depend on the symbols, because the processor could not predict them.
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

// header prepares the header of a dynamic block (RFC 1951, section 3.2.7) and returns its length in bits. putHeader
// writes it.
func (d *deflater) header() uint {
	d.runs = appendRuns(d.runs[:0], d.lit.codes[:d.lit.last()+1])
	d.runs = appendRuns(d.runs, d.dist.codes[:d.dist.last()+1])
	d.count(d.runs)
	d.pre.gather()
	n := 3 + 5 + 5 + 4 + d.pre.build()
	d.npre = len(preOrder)
	for d.pre.codes[preOrder[d.npre-1]] == 0 {
		d.npre--
	}
	return n + 3*uint(d.npre)
}

// appendRuns appends the lengths of codes to runs.
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

// repeatSymbol returns a symbol that represents up to n equal lengths, and how many it represents.
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
	d.put(uint(d.lit.last()+1-257), 5)
	d.put(uint(d.dist.last()+1-1), 5)
	d.put(uint(d.npre-4), 4)
	for _, i := range preOrder[:d.npre] {
		d.put(d.pre.codes[i].len(), 3)
	}
	d.emit(d.runs, &d.codes)
}
