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

	seqs           []sequence // of the current block
	runs           []lengthRun
	lit, dist, pre alphabet

	nlit, ndist, npre int  // number of codes in the header of a dynamic block
	extra             uint // extra bits of all lengths and distances in the block

	index     index                                 // for a text without a window
	scratch   []byte                                // for window.stage
	sequences [maxSequences]sequence                // memory for seqs
	lengths   [maxLitCodes + maxDistCodes]lengthRun // memory for runs
}

var deflaterPool = sync.Pool{New: func() any {
	return &deflater{index: newIndex(maxWindowBits, scratchTable, true)}
}}

// newDeflater returns a deflater that appends to dst. The caller ends its use with done.
func newDeflater(dst []byte) *deflater {
	d := deflaterPool.Get().(*deflater)
	d.out, d.bits, d.nbits = dst, 0, 0
	return d
}

// done returns the output and puts d back into the pool.
func (d *deflater) done() []byte {
	out := d.out
	d.out = nil
	deflaterPool.Put(d)
	return out
}

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
		d.seqs, end = t.sequences(d.sequences[:0], from, end)
		d.block(t.buf[from:end])
		from = end
	}
}

// flush writes the header of an empty stored block, which ends at a byte boundary. RFC 7692, section 7.2.1, removes
// the rest of that block, 00 00 ff ff, from the end of a message.
func (d *deflater) flush() {
	d.reserve(1)
	d.put(0, 3)
	d.align()
}

// block writes the sequences of src as a block of the smallest kind. It first computes the sizes of all three kinds
// from the counts, so that nothing is written twice.
func (d *deflater) block(src []byte) {
	d.count(src)
	stored := 3 + -(d.nbits+3)&7 + 32 + 8*uint(len(src))
	fixed := 3 + d.extra + d.lit.cost(fixedLitLens[:]) + d.dist.cost(fixedDistLens[:])
	dynamic := fixed
	if len(src) >= minDynamic {
		dynamic = d.extra + d.lit.build(maxLitCodes, maxCodeBits) + d.dist.build(maxDistCodes, maxCodeBits) + d.header()
	}
	switch {
	case stored < min(fixed, dynamic):
		d.stored(src)
	case fixed <= dynamic:
		d.reserve(fixed)
		d.put(1<<1, 3)
		d.symbols(src, &fixedLitCodes, fixedDistCodes[:])
	default:
		d.reserve(dynamic)
		d.put(2<<1, 3)
		d.putHeader()
		d.symbols(src, &d.lit.codes, d.dist.codes[:])
	}
}

// count determines the frequencies of the symbols in the sequences of src, and the number of their extra bits.
func (d *deflater) count(src []byte) {
	clear(d.lit.freq[:])
	clear(d.dist.freq[:maxDistCodes])
	d.extra = 0
	for _, q := range d.seqs {
		for _, b := range src[:q.literals] {
			d.lit.freq[b]++
		}
		src = src[q.literals+q.length:]
		if q.length != 0 {
			l, c := lengthCodes[q.length-3], distCode(q.distance)
			d.lit.freq[endOfBlock+1+uint(l)]++
			d.dist.freq[c]++
			d.extra += uint(lengthExtra[l]) + uint(distExtra[c])
		}
	}
	d.lit.freq[endOfBlock] = 1
	d.lit.gather(maxLitCodes)
	d.dist.gather(maxDistCodes)
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

// symbols writes the sequences of src and the end of the block. The caller has reserved room for them. Each write
// stores eight bytes and keeps the bits of the last incomplete byte, at most seven, so that three codes of 15 bits or a
// match fit before the next write. The function is long because its state must stay in registers.
func (d *deflater) symbols(src []byte, lit *[maxLitCodes]prefixCode, dist []prefixCode) {
	d.spill()
	out, n := d.out[:cap(d.out)], len(d.out)
	acc, nacc := d.bits, d.nbits
	for _, q := range d.seqs {
		literals := src[:q.literals]
		for ; len(literals) >= 3; literals = literals[3:] {
			c0, c1, c2 := lit[literals[0]], lit[literals[1]], lit[literals[2]]
			acc |= uint64(c0.bits()) << (nacc & 63)
			nacc += c0.len()
			acc |= uint64(c1.bits()) << (nacc & 63)
			nacc += c1.len()
			acc |= uint64(c2.bits()) << (nacc & 63)
			nacc += c2.len()
			binary.LittleEndian.PutUint64(out[n:], acc)
			n += int(nacc >> 3)
			acc >>= nacc &^ 7 & 63
			nacc &= 7
		}
		for _, b := range literals {
			c := lit[b]
			acc |= uint64(c.bits()) << (nacc & 63)
			nacc += c.len()
		}
		src = src[q.literals+q.length:]
		binary.LittleEndian.PutUint64(out[n:], acc)
		n += int(nacc >> 3)
		acc >>= nacc &^ 7 & 63
		nacc &= 7
		if q.length == 0 {
			continue
		}
		// A match takes at most 15, 5, 15 and 13 bits.
		l := lengthCodes[q.length-3]
		c := lit[endOfBlock+1+uint(l)]
		acc |= uint64(c.bits()) << (nacc & 63)
		nacc += c.len()
		acc |= uint64(q.length-lengthBase[l]) << (nacc & 63)
		nacc += uint(lengthExtra[l])
		dc := distCode(q.distance)
		c = dist[dc]
		acc |= uint64(c.bits()) << (nacc & 63)
		nacc += c.len()
		acc |= uint64(q.distance-distBase[dc]) << (nacc & 63)
		nacc += uint(distExtra[dc])
		binary.LittleEndian.PutUint64(out[n:], acc)
		n += int(nacc >> 3)
		acc >>= nacc &^ 7 & 63
		nacc &= 7
	}
	d.out, d.bits, d.nbits = out[:n], acc, nacc
	d.put(lit[endOfBlock].bits(), lit[endOfBlock].len())
}

// A lengthRun is a symbol of the code length alphabet with the value of its extra bits.
type lengthRun struct {
	symbol, extra uint8
}

// preExtra has the number of extra bits of symbols 16, 17 and 18.
var preExtra = [19]uint8{16: 2, 17: 3, 18: 7}

// header prepares the header of a dynamic block (RFC 1951, section 3.2.7) and returns its length in bits. putHeader
// writes it.
func (d *deflater) header() uint {
	d.runs = d.lengths[:0]
	d.nlit, d.ndist = d.lit.last()+1, d.dist.last()+1
	d.runLengths(d.lit.codes[:d.nlit])
	d.runLengths(d.dist.codes[:d.ndist])
	clear(d.pre.freq[:len(preOrder)])
	n := uint(3 + 5 + 5 + 4)
	for _, r := range d.runs {
		d.pre.freq[r.symbol]++
		n += uint(preExtra[r.symbol])
	}
	d.pre.gather(len(preOrder))
	n += d.pre.build(len(preOrder), maxPreBits)
	d.npre = len(preOrder)
	for d.pre.codes[preOrder[d.npre-1]] == 0 {
		d.npre--
	}
	return n + 3*uint(d.npre)
}

// runLengths appends the lengths of codes to runs.
func (d *deflater) runLengths(codes []prefixCode) {
	for i := 0; i < len(codes); {
		length, n := codes[i].len(), 1
		for i+n < len(codes) && codes[i+n].len() == length {
			n++
		}
		i += n
		if length != 0 {
			d.runs = append(d.runs, lengthRun{uint8(length), 0})
			n--
		}
		for n >= 3 {
			n -= d.repeat(length, n)
		}
		for range n {
			d.runs = append(d.runs, lengthRun{uint8(length), 0})
		}
	}
}

// repeat appends one symbol that represents up to n equal lengths, and returns how many it represents.
func (d *deflater) repeat(length uint, n int) int {
	r, least := lengthRun{symbol: 16}, 3
	switch {
	case length != 0:
		n = min(n, 6)
	case n <= 10:
		r.symbol = 17
	default:
		r.symbol, least, n = 18, 11, min(n, 138)
	}
	r.extra = uint8(n - least)
	d.runs = append(d.runs, r)
	return n
}

// putHeader writes the header that header has prepared.
func (d *deflater) putHeader() {
	d.put(uint(d.nlit-257), 5)
	d.put(uint(d.ndist-1), 5)
	d.put(uint(d.npre-4), 4)
	for _, i := range preOrder[:d.npre] {
		d.put(d.pre.codes[i].len(), 3)
	}
	for _, r := range d.runs {
		c := d.pre.codes[r.symbol]
		d.put(c.bits()|uint(r.extra)<<c.len(), c.len()+uint(preExtra[r.symbol]))
	}
}
