package websocket

// The Huffman codes of DEFLATE (RFC 1951, section 3.2), for both directions. For compression, an alphabet builds an
// optimal code with limited lengths from the frequencies of its symbols. For decompression, buildTable makes a lookup
// table from the lengths of the codes, and refuses invalid lengths.

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	litBits  = 9 // index bits of the first table of a literal and length code
	distBits = 8 // of a distance code
	preBits  = 7 // of a code length code, whose codes have at most 7 bits

	// The largest tables that a complete code can need (zlib's enough.c: 286 9 15 and 32 8 15).
	litTableSize  = 852
	distTableSize = 402

	maxLitCodes  = 286
	maxDistCodes = 30
	endOfBlock   = 256

	maxCodeBits = 15
	maxPreBits  = 7
	maxMatch    = 258
)

// The symbols of the three alphabets are numbered together, so that one table has all codes. Literals and lengths have
// the numbers of RFC 1951, section 3.2.5, of which 286 and 287 are unused.
const (
	firstDist  = 288 // the first of the distances, of which the last two are unused
	firstPre   = 320 // the first of the code lengths, with which a header describes the two other codes
	allSymbols = 512 // more than there are: a power of two makes checks of bounds unnecessary
)

// The base values and the extra bits of the length and distance codes (RFC 1951, section 3.2.5).
var (
	lengthBase = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99,
		115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [30]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025,
		1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	distExtra = [30]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12,
		13, 13}

	// preOrder is the order in which a header lists the lengths of the code length code (RFC 1951, section 3.2.7).
	preOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

// fixedLens has the lengths of the fixed codes (RFC 1951, section 3.2.6). The literal and length symbols 286 and 287
// and the distance symbols 30 and 31 "will never actually occur in the compressed data", but "participate in the code
// construction".
var fixedLens = slices.Concat(bytes.Repeat([]byte{8}, 144), bytes.Repeat([]byte{9}, 112), bytes.Repeat([]byte{7}, 24),
	bytes.Repeat([]byte{8}, 8), bytes.Repeat([]byte{5}, 32))

// fixedCodes has the codes of these lengths, for writing. Each length begins with the code that the section gives it.
var fixedCodes = func() (codes codeTable) {
	first := [...]uint16{5: 0, 7: 0, 8: 0b00110000, 9: 0b110010000}
	for i, n := range fixedLens {
		codes[i] = newCode(first[n], uint(n), extraBits[i])
		first[n]++
	}
	return
}()

// extraBits has the number of extra bits of each symbol. Code length symbols use them to repeat lengths (RFC 1951,
// section 3.2.7).
var extraBits = func() (extra [allSymbols]uint8) {
	copy(extra[endOfBlock+1:], lengthExtra[:])
	copy(extra[firstDist:], distExtra[:])
	copy(extra[firstPre+16:], []uint8{2, 3, 7})
	return
}()

// A prefixCode holds the bits of a Huffman code in its low 16 bits, the first bit lowest. The next 8 bits are the
// number of these bits, and the highest 8 bits are this number together with the extra bits of the symbol. A symbol
// that does not occur has the prefixCode 0. One load thus tells emit everything about a symbol.
type prefixCode uint32

// A codeTable has the code of each symbol.
type codeTable [allSymbols]prefixCode

// newCode makes a prefixCode from a canonical code of n bits. Section 3.1.1: "Huffman codes are packed starting with
// the most-significant bit of the code", whereas all other bits begin with the least significant one. So the code is
// reversed here, once for each symbol.
func newCode(canonical uint16, n uint, extra uint8) prefixCode {
	return prefixCode(uint(bits.Reverse16(canonical)>>(16-n)) | n<<16 | (n+uint(extra))<<24)
}

// len returns the number of bits of the code, and size the number including the extra bits.
func (c prefixCode) len() uint  { return uint(c >> 16 & 0xff) }
func (c prefixCode) size() uint { return uint(c >> 24) }

// with returns the bits of the code and the extra bits of t, in the order in which they are written.
func (c prefixCode) with(t symbol) uint64 { return uint64(c&0xffff) | uint64(t>>16)<<(c.len()&63) }

// index returns the index of the symbol in a table. The mask says that it is in bounds.
func (t symbol) index() uint { return uint(t & (allSymbols - 1)) }

// An alphabet builds the Huffman code of one alphabet from the frequencies of its symbols: gather, then build. It
// belongs to one deflater, whose arrays it shares. It numbers its own symbols from 0.
type alphabet struct {
	freq   []uint32               // of each symbol, as count has set it
	extra  []uint8                // number of extra bits of each symbol
	codes  []prefixCode           // of each symbol, as build has set it
	limit  int                    // of the lengths of the codes
	used   []uint32               // frequency<<9 | symbol, for each symbol that occurs, ordered by symbol
	sorted []uint32               // the same, ordered by frequency
	arrays [3][maxLitCodes]uint32 // memory for used, sorted and the weights
}

// alphabet returns the alphabet of the n symbols from first on.
func (d *deflater) alphabet(first, n, limit int) alphabet {
	end := first + n
	return alphabet{freq: d.freq[first:end], extra: extraBits[first:end], codes: d.codes[first:end], limit: limit}
}

// gather sets used to the symbols that occur. It adds symbols until there are two, because a code with a single symbol
// is incomplete and some decoders reject it. RFC 1951, section 3.2.7, allows it only for distances.
func (a *alphabet) gather() {
	a.used = a.arrays[0][:0]
	for i, f := range a.freq {
		if f != 0 {
			a.used = append(a.used, f<<9|uint32(i))
		}
	}
	for i := 0; len(a.used) < 2; i++ {
		if a.freq[i] == 0 {
			a.used = slices.Insert(a.used, min(i, len(a.used)), uint32(i))
		}
	}
}

// last returns the largest symbol that has a code.
func (a *alphabet) last() int { return int(a.used[len(a.used)-1] & 511) }

// cost returns the number of bits that the symbols take with the given codes.
func (a *alphabet) cost(codes []prefixCode) (n uint) {
	for _, k := range a.used {
		n += uint(k>>9) * codes[k&511].size()
	}
	return n
}

// sort sets sorted. Most symbols of a message are rare, so it uses a bucket for each small frequency, and sorts only
// the large frequencies by comparison. Symbols of the same frequency remain ordered, which makes the output
// reproducible.
func (a *alphabet) sort() {
	const large = 63
	var next [large + 2]uint16
	for _, k := range a.used {
		next[min(k>>9, large)+1]++
	}
	for i := range large {
		next[i+1] += next[i]
	}
	a.sorted = a.arrays[1][:len(a.used)]
	first := next[large]
	for _, k := range a.used {
		i := &next[min(k>>9, large)]
		a.sorted[*i] = k
		*i++
	}
	slices.Sort(a.sorted[first:])
}

// build sets codes, none longer than limit bits, and returns the number of bits that the symbols take. The code is
// optimal unless limit shortens it. Only the number of codes of each length comes from the tree: the rarest symbols get
// the longest codes, and the codes themselves follow from their lengths (RFC 1951, section 3.2.2).
func (a *alphabet) build() uint {
	a.sort()
	var count [32]uint16
	a.depths(&count)
	limitDepths(&count, a.limit)
	clear(a.codes)
	rest := a.sorted
	for length := a.limit; length > 0; length-- {
		for _, k := range rest[:count[length]] {
			a.codes[k&511] = prefixCode(length << 16)
		}
		rest = rest[count[length]:]
	}
	next := firstCodes(&count)
	for _, k := range a.used {
		i := k & 511
		n := a.codes[i].len()
		a.codes[i] = newCode(next[n], n, a.extra[i])
		next[n]++
	}
	return a.cost(a.codes)
}

// depths counts the leaves of the Huffman tree at each depth. Because the weights are sorted, the inner nodes are
// created in order of weight too, and each overwrites a weight that is no longer needed (Moffat and Katajainen,
// "In-Place Calculation of Minimum-Redundancy Codes", 1995). Depths above 31 are counted as 31; limitDepths shortens
// them anyway.
func (a *alphabet) depths(count *[32]uint16) {
	w := a.arrays[2][:len(a.sorted)]
	for i, k := range a.sorted {
		w[i] = k >> 9
	}
	joinWeights(w)
	// w[i] is now the parent of inner node i. The root is the second to last element.
	w[len(w)-2] = 0
	for i := len(w) - 3; i >= 0; i-- {
		w[i] = w[w[i]] + 1
	}
	// From the root down: the open places at a depth that are not inner nodes are leaves.
	open, node := uint16(1), len(w)-2
	for depth := uint32(0); open > 0; depth++ {
		inner := uint16(0)
		for ; node >= 0 && w[node] == depth; node-- {
			inner++
		}
		count[min(depth, 31)] += open - inner
		open = 2 * inner
	}
}

// joinWeights repeatedly joins the two lightest nodes and stores the parent of each inner node in w. The leaves from
// leaf on and the inner nodes from node to next are not joined yet, and both are ordered by weight.
func joinWeights(w []uint32) {
	leaf, node := 0, 0
	lightest := func(next int) uint32 {
		if leaf < len(w) && (node >= next || w[leaf] <= w[node]) {
			leaf++
			return w[leaf-1]
		}
		v := w[node]
		w[node] = uint32(next)
		node++
		return v
	}
	for next := range len(w) - 1 {
		v := lightest(next)
		w[next] = v + lightest(next)
	}
}

// limitDepths shortens codes longer than limit to limit, and lengthens others until the code is valid again. used is
// the part of the code space that is taken, in codes of limit bits; it may not exceed 1<<limit (Kraft's inequality).
// Each turn of the last loop lengthens the longest code that is shorter than limit, and puts one of limit bits beside
// it.
func limitDepths(count *[32]uint16, limit int) {
	used := 0
	for length := len(count) - 1; length > 0; length-- {
		if length > limit {
			count[limit] += count[length]
			count[length] = 0
			continue
		}
		used += int(count[length]) << (limit - length)
	}
	for ; used > 1<<limit; used-- {
		length := limit - 1
		for count[length] == 0 {
			length--
		}
		count[limit]--
		count[length]--
		count[length+1] += 2
	}
}

// firstCodes returns the first canonical code of each length (RFC 1951, section 3.2.2).
func firstCodes(count *[32]uint16) (first [maxCodeBits + 1]uint16) {
	for n := 1; n < maxCodeBits; n++ {
		first[n+1] = (first[n] + count[n]) << 1
	}
	return
}

// A table for decoding is indexed by the next bits of the input, the first bit lowest. All indices that begin with a
// code have the same entry. A code longer than the index has its entry in a second table, which follows in the same
// array and which is indexed by the bits after the first ones.
//
// A table entry has the length of the code in bits 0 to 5, the number of extra bits that follow it in bits 8 to 11, and
// a value in bits 16 to 31: a literal, or the base of a length or distance. The value of entrySubtable is the index of
// a second table, which its extra bits index.
const (
	entryLiteral  = 1 << 15
	entrySpecial  = 1 << 14 // a subtable, the end of the block, or invalid
	entrySubtable = 1 << 13
	entryEnd      = 1 << 12
	entryInvalid  = entrySpecial
)

// huffmanTables holds the tables of a block.
type huffmanTables struct {
	lit  [litTableSize]uint32
	dist [distTableSize]uint32
}

// fixedTables holds the tables of the fixed codes.
var fixedTables = func() (t huffmanTables) {
	t.build(fixedLens[:firstDist], fixedLens[firstDist:])
	return
}()

// build builds the tables for the given code lengths. It reports whether both codes are valid.
func (t *huffmanTables) build(lit, dist []uint8) bool {
	return buildTable(t.lit[:], litBits, lit, symbolEntries[:]) && buildTable(t.dist[:], distBits, dist, symbolEntries[firstDist:])
}

// symbolEntries has the table entry of each symbol, without the length of its code. Symbols that never occur in valid
// data are invalid.
var symbolEntries = func() (entries [allSymbols]uint32) {
	for i := range entries {
		entries[i] = entryInvalid
	}
	for i := range endOfBlock {
		entries[i] = entryLiteral | uint32(i)<<16
	}
	entries[endOfBlock] = entrySpecial | entryEnd
	setEntries(entries[endOfBlock+1:], lengthBase[:], extraBits[endOfBlock+1:])
	setEntries(entries[firstDist:], distBase[:], extraBits[firstDist:])
	for i := range preOrder {
		entries[firstPre+i] = uint32(i)<<16 | uint32(extraBits[firstPre+i])<<8
	}
	return
}()

// setEntries sets the entries of symbols with the given base values and numbers of extra bits.
func setEntries(entries []uint32, base []uint16, extra []uint8) {
	for i, b := range base {
		entries[i] = uint32(b)<<16 | uint32(extra[i])<<8
	}
}

// buildTable fills table for the canonical code with the given lengths, using the entries in values. It reports whether
// the lengths describe a complete code. Every index then has an entry, so the tables of earlier blocks need not be
// cleared. An oversubscribed code is refused before anything is written.
//
// Like zlib and compress/flate it also accepts an empty code, and a single code of one bit (RFC 1951, section 3.2.7:
// "If only one distance code is used, it is encoded using one bit, not zero bits; in this case there is a single code
// length of one, with one unused code").
func buildTable(table []uint32, first uint, lens []uint8, values []uint32) bool {
	var count [16]int
	var symbols, sorted [288]uint16
	used := 0
	for i := nextLength(lens, 0); i < len(lens); i = nextLength(lens, i+1) {
		symbols[used] = uint16(i)
		used++
		count[lens[i]]++
	}
	left := 1 // of the code space, in codes of the length that the loop has reached
	for _, n := range count[1:] {
		if left = left<<1 - n; left < 0 {
			return false
		}
	}
	if left > 0 {
		return used < 2 && count[1] == used && shortTable(table[:1<<first], lens, values)
	}
	sortByLength(sorted[:], symbols[:used], lens, &count)
	fillTable(table, first, sorted[:used], count[:], values)
	return true
}

// nextLength returns the index of the first length at or after i that is not 0, or len(lens). Most symbols do not occur
// in a small message, so it looks at eight lengths at a time.
func nextLength(lens []uint8, i int) int {
	for ; i+8 <= len(lens); i += 8 {
		if v := binary.LittleEndian.Uint64(lens[i:]); v != 0 {
			return i + bits.TrailingZeros64(v)>>3
		}
	}
	for i < len(lens) && lens[i] == 0 {
		i++
	}
	return i
}

// shortTable fills table for a code with at most one symbol. The symbol has the code 0; the code 1 is invalid.
func shortTable(table []uint32, lens []uint8, values []uint32) bool {
	even, odd := uint32(entryInvalid), uint32(entryInvalid|1)
	for i, n := range lens {
		if n != 0 {
			even = values[i] | 1
		}
	}
	for i := 0; i < len(table); i += 2 {
		table[i], table[i+1] = even, odd
	}
	return true
}

// sortByLength sorts the symbols, which are ascending, in the order of their canonical codes: by the length of the
// code, and then by value.
func sortByLength(sorted, symbols []uint16, lens []uint8, count *[16]int) {
	var next [16]int
	for n := 2; n < len(next); n++ {
		next[n] = next[n-1] + count[n-1]
	}
	for _, i := range symbols {
		n := lens[i]
		sorted[next[n]] = i
		next[n]++
	}
}

// fillTable fills the first table by doubling it for each code length, and adds a second table for each group of codes
// longer than first. The variable code has its first bit lowest, as in the stream.
func fillTable(table []uint32, first uint, sorted []uint16, count []int, values []uint32) {
	size, length, code := 1, uint(0), uint(0)
	for length < first {
		copy(table[size:], table[:size])
		size, length = size*2, length+1
		for range count[length] {
			table[code] = values[sorted[0]] | uint32(length)
			sorted = sorted[1:]
			code = nextCode(code, length)
		}
	}
	length++
	sub, mask := uint(0), uint(1)<<first-1
	for start, prefix := size, ^uint(0); len(sorted) > 0; sorted = sorted[1:] {
		for count[length] == 0 {
			length++
		}
		if code&mask != prefix {
			prefix = code & mask
			start = size
			sub = subtableBits(count, length, first)
			size += 1 << sub
			table[prefix] = uint32(start)<<16 | entrySpecial | entrySubtable | uint32(sub)<<8 | uint32(first)
		}
		e := values[sorted[0]] | uint32(length)
		for i := code >> first; i < 1<<sub; i += 1 << (length - first) {
			table[uint(start)+i] = e
		}
		code = nextCode(code, length)
		count[length]--
	}
}

// nextCode returns the canonical successor of a code. Both have their first bit lowest.
func nextCode(code, length uint) uint {
	bit := uint(1) << bits.Len(code^(1<<length-1)) >> 1
	return code&(bit-1) | bit
}

// subtableBits returns the index bits of a second table whose first code has the given length: as few as hold the codes
// that follow, which are not shorter, until the table is full.
func subtableBits(count []int, length, first uint) uint {
	sub := length - first
	for used := count[length]; used < 1<<sub; used = used<<1 + count[first+sub] {
		sub++
	}
	return sub
}
