package websocket

// The compressing half of DEFLATE (RFC 1951), made for messages: a connection holds at most its window and a small hash
// table, where compress/flate holds more than a megabyte. It first collects the sequences of a block (fast, thorough),
// and then writes a stored, a fixed or a dynamic block, whichever is smallest (block).

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
)

const (
	tableBits    = 12 // a hash table has at most 4096 positions of 2 bytes each
	minMatch     = 4  // bytes that are hashed
	hashPrime    = 0x9e3779b1
	maxSequences = 4096      // in a block
	maxBlock     = 1<<16 - 1 // bytes of a stored block
	minDynamic   = 64        // bytes; the codes of a shorter block rarely pay for their description
)

// A sequence is a run of literals followed by a match. The last sequence of a block has no match.
type sequence struct {
	literals         uint16 // number of literals
	length, distance uint16 // of the match; 0 if there is none
}

// A text is the data in which matches are searched: earlier messages, if a window is kept, followed by the bytes to
// compress. It lives for one call of the compressor.
type text struct {
	buf    []byte
	origin uint16   // position of buf[0]; positions are modulo 65536
	table  []uint16 // positions by hash; a stale position is detected by comparing the bytes
	reach  int      // largest distance of a match
	effort effort
}

// A window holds the last size bytes of the messages sent so far, to which the next message may refer. Its buffer is a
// quarter larger, so that the bytes are not moved for each message. It belongs to one compressor.
type window struct {
	buf    []byte
	table  []uint16 // see text
	origin uint16   // see text
	size   int
}

// windowPools has the free windows, by window bits.
var windowPools [maxWindowBits + 1]sync.Pool

// newWindow returns an empty window, from a pool if possible.
func newWindow(windowBits int) *window {
	if w, ok := windowPools[windowBits].Get().(*window); ok {
		return w
	}
	return &window{size: 1 << windowBits, table: make([]uint16, 1<<min(windowBits, tableBits))}
}

// free empties the window and returns it to the pool.
func (w *window) free() {
	w.buf, w.origin = w.buf[:0], 0
	clear(w.table)
	windowPools[bits.Len(uint(w.size))-1].Put(w)
}

// limit returns the largest size of the buffer.
func (w *window) limit() int { return w.size + w.size/4 }

// stage copies the beginning of p to the free space after the window's bytes and returns the number of bytes copied. It
// does not add them to the window.
func (w *window) stage(p []byte) int {
	if len(w.buf)+len(p) > w.limit() {
		w.drop(len(w.buf) - w.size)
	}
	n := min(len(p), w.limit()-len(w.buf))
	w.buf = growWithin(w.buf, n, w.limit())
	copy(w.buf[len(w.buf):cap(w.buf)], p[:n])
	return n
}

// drop removes the oldest n bytes, if n is positive.
func (w *window) drop(n int) {
	if n > 0 {
		w.buf = w.buf[:copy(w.buf, w.buf[n:])]
		w.origin += uint16(n)
	}
}

// growWithin returns buf with room for n more bytes and a capacity of at most limit.
func growWithin(buf []byte, n, limit int) []byte {
	need := len(buf) + n
	if need <= cap(buf) {
		return buf
	}
	grown := make([]byte, len(buf), min(max(need, 2*cap(buf)), limit))
	copy(grown, buf)
	return grown
}

// add appends p, which must have been staged.
func (w *window) add(p []byte) {
	n := min(len(p), w.limit()-len(w.buf))
	w.buf = w.buf[:len(w.buf)+n]
	if p = p[n:]; len(p) > w.size {
		w.origin += uint16(len(p) - w.size)
		p = p[len(p)-w.size:]
	}
	if len(p) > 0 {
		w.drop(len(w.buf) + len(p) - w.size)
		w.buf = append(growWithin(w.buf, len(p), w.limit()), p...)
	}
}

// text returns a text of the window and the n bytes staged after it.
func (w *window) text(n int, e effort) text {
	return text{buf: w.buf[:len(w.buf)+n], origin: w.origin, table: w.table, reach: w.size, effort: e}
}

// An effort determines how thoroughly matches are searched.
type effort struct {
	ways uint8  // base-2 logarithm of the positions kept for each hash
	lazy bool   // whether to prefer a longer match at the next byte
	nice uint16 // stop searching at a match of this length
}

// efforts has the effort of each level. Level 1 uses the fast search, which has no parameters.
var efforts = [10]effort{
	2: {ways: 1, nice: 32},
	3: {ways: 1, nice: 64, lazy: true},
	4: {ways: 2, nice: 64},
	5: {ways: 2, nice: 64, lazy: true},
	6: {ways: 3, nice: 64, lazy: true},
	7: {ways: 3, nice: 258, lazy: true},
	8: {ways: 4, nice: 258, lazy: true},
	9: {ways: 5, nice: 258, lazy: true},
}

// A deflater holds the state and the scratch memory of one call, and belongs to the caller. Between calls it is in a
// pool.
type deflater struct {
	out   []byte
	bits  uint64 // bits that are not in out yet
	nbits uint

	seqs           []sequence // of the current block
	runs           []lengthRun
	lit, dist, pre alphabet

	nlit, ndist, npre int  // number of codes in the header of a dynamic block
	extra             uint // extra bits of all lengths and distances in the block

	table     [1 << tableBits]uint16                // for a text without a window
	sequences [maxSequences]sequence                // memory for seqs
	lengths   [maxLitCodes + maxDistCodes]lengthRun // memory for runs
}

var deflaterPool = sync.Pool{New: func() any { return new(deflater) }}

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

// text returns a text of p alone, with a hash table whose size suits p.
func (d *deflater) text(p []byte, reach int, e effort) text {
	table := d.table[:1<<min(max(bits.Len(uint(len(p))), 6), tableBits)]
	clear(table)
	return text{buf: p, table: table, reach: reach, effort: e}
}

// blocks compresses t.buf[from:] in as many blocks as it takes, none of which is the final one.
func (d *deflater) blocks(t *text, from int) {
	for from < len(t.buf) {
		end := min(len(t.buf), from+maxBlock)
		d.seqs = d.sequences[:0]
		if t.effort.ways == 0 {
			end = d.fast(t, from, end)
		} else {
			end = d.thorough(t, from, end)
		}
		d.block(t.buf[from:end])
		from = end
	}
}

// flush writes the header of an empty stored block, which ends at a byte boundary. The rest of that block, 00 00 ff ff,
// is what RFC 7692, section 7.2.1, removes from the end of a message.
func (d *deflater) flush() {
	d.reserve(1)
	d.put(0, 3)
	d.align()
}

// fast finds the sequences of t.buf[from:end]. It returns the end of the block, which comes earlier if seqs is full.
// The table has one position for each hash, the newest, and steps grow while no match is found. The function is long
// because its state must stay in registers.
func (d *deflater) fast(t *text, from, end int) int {
	buf, table, seqs := t.buf[:end], t.table, d.seqs
	shift := 32 - bits.Len(uint(len(table)-1))
	anchor, s := from, from
	for s+minMatch <= len(buf) {
		v := binary.LittleEndian.Uint32(buf[s:])
		h := v * hashPrime >> shift
		pos := t.origin + uint16(s)
		distance := int(pos - table[h])
		table[h] = pos
		c := s - distance
		if uint(distance-1) >= uint(t.reach) || c < 0 || binary.LittleEndian.Uint32(buf[c:]) != v {
			s += 1 + (s-anchor)>>5
			continue
		}
		for s > anchor && c > 0 && buf[s-1] == buf[c-1] {
			s, c = s-1, c-1
		}
		n := minMatch + matchLength(buf[s+minMatch:min(len(buf), s+maxMatch)], buf[c+minMatch:])
		seqs = append(seqs, sequence{uint16(s - anchor), uint16(n), uint16(distance)})
		s += n
		anchor = s
		if len(seqs) == maxSequences-1 {
			break
		}
		if i := s - 2; i+minMatch <= len(buf) {
			table[binary.LittleEndian.Uint32(buf[i:])*hashPrime>>shift] = t.origin + uint16(i)
		}
	}
	if len(seqs) < maxSequences-1 {
		s = end
	}
	d.seqs = append(seqs, sequence{literals: uint16(s - anchor)})
	return s
}

// matchLength returns the length of the common prefix of a and b. b must not be shorter than a.
func matchLength(a, b []byte) int {
	n := 0
	for len(a)-n >= 8 {
		x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:])
		if x != 0 {
			return n + bits.TrailingZeros64(x)>>3
		}
		n += 8
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}

// thorough does the same as fast, but looks at every position and keeps several for each hash.
func (d *deflater) thorough(t *text, from, end int) int {
	anchor, s := from, from
	for s+minMatch <= end && len(d.seqs) < maxSequences-1 {
		n, distance := t.best(s, end)
		if n == 0 {
			s++
			continue
		}
		for t.effort.lazy && n < int(t.effort.nice) && s+1+minMatch <= end {
			n2, distance2 := t.best(s+1, end)
			if n2 <= n {
				break
			}
			s, n, distance = s+1, n2, distance2
		}
		d.seqs = append(d.seqs, sequence{uint16(s - anchor), uint16(n), uint16(distance)})
		anchor = s + n
		for s++; s < anchor; s++ {
			t.remember(s, end)
		}
	}
	if len(d.seqs) < maxSequences-1 {
		s = end
	}
	d.seqs = append(d.seqs, sequence{literals: uint16(s - anchor)})
	return s
}

// bucket returns the positions kept for the hash of v, the newest first.
func (t *text) bucket(v uint32) []uint16 {
	shift := 32 - bits.Len(uint(len(t.table)-1)) + int(t.effort.ways)
	i := v * hashPrime >> shift << t.effort.ways
	return t.table[i:][:1<<t.effort.ways]
}

// remember adds position s to its bucket.
func (t *text) remember(s, end int) {
	if s+minMatch <= end {
		b := t.bucket(binary.LittleEndian.Uint32(t.buf[s:]))
		if pos := t.origin + uint16(s); b[0] != pos {
			copy(b[1:], b)
			b[0] = pos
		}
	}
}

// best returns the longest match at s, and the nearest of several, and then remembers s. n is 0 if there is none.
func (t *text) best(s, end int) (n, distance int) {
	v := binary.LittleEndian.Uint32(t.buf[s:])
	for _, p := range t.bucket(v) {
		back := int(t.origin + uint16(s) - p)
		c := s - back
		if uint(back-1) >= uint(t.reach) || c < 0 || binary.LittleEndian.Uint32(t.buf[c:]) != v {
			continue
		}
		m := matchLength(t.buf[s:min(end, s+maxMatch)], t.buf[c:end])
		if m > n {
			n, distance = m, back
		}
		if n >= int(t.effort.nice) {
			break
		}
	}
	t.remember(s, end)
	return n, distance
}

// block writes the sequences of src as a block of the kind that is smallest. Nothing is written twice: the sizes of all
// three kinds are computed from the counts first.
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

// put writes the n low bits of v, at most 32.
func (d *deflater) put(v uint, n uint) {
	d.bits |= uint64(v) << d.nbits
	d.nbits += n
	if d.nbits >= 32 {
		d.out = binary.LittleEndian.AppendUint32(d.out, uint32(d.bits))
		d.bits >>= 32
		d.nbits -= 32
	}
}

// align pads the last byte with zeros.
func (d *deflater) align() {
	for ; d.nbits > 0; d.nbits -= min(d.nbits, 8) {
		d.out = append(d.out, byte(d.bits))
		d.bits >>= 8
	}
}

// stored writes src as a stored block.
func (d *deflater) stored(src []byte) {
	d.put(0, 3)
	d.align()
	d.out = binary.LittleEndian.AppendUint16(d.out, uint16(len(src)))
	d.out = binary.LittleEndian.AppendUint16(d.out, ^uint16(len(src)))
	d.out = append(d.out, src...)
}

// symbols writes the sequences of src and the end of the block, for which the caller has reserved room. It is long
// because its state must stay in registers.
func (d *deflater) symbols(src []byte, lit *[maxLitCodes]prefixCode, dist []prefixCode) {
	out, n := d.out[:cap(d.out)], len(d.out)
	acc, nacc := d.bits, d.nbits
	for _, q := range d.seqs {
		for _, b := range src[:q.literals] {
			c := lit[b]
			acc |= uint64(c.bits()) << (nacc & 63)
			nacc += c.len()
			if nacc >= 48 {
				binary.LittleEndian.PutUint64(out[n:], acc)
				n += 6
				acc >>= 48
				nacc -= 48
			}
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

// repeat appends one symbol that stands for up to n equal lengths, and returns their number.
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
