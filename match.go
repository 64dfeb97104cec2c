package websocket

// The search for matches is the first half of compression: LZ77, as RFC 1951, section 4, describes it. It turns a text
// into literals and references to earlier text, which deflate.go writes. Level 1 has a search of its own (fast); the
// other levels follow chains of earlier positions (thorough). This file also has the window that a connection keeps
// between messages, and its index.

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
)

const (
	windowTable   = 12      // a window's hash tables have at most 1<<12 positions of 2 bytes each
	scratchTable  = 14      // the same for the tables of a deflater
	firstPosition = 1 << 15 // of a text; the zeros of an empty table are then out of reach

	// DEFLATE has matches of three bytes too, but they rarely save a bit.
	minMatch = 4

	// A hash is the highest bits of a product with one of these primes. The second ends with 24 zero bits, which drop
	// all but the lowest five bytes of the other factor.
	hashPrime  = 0x9e3779b1
	hashPrime5 = 0xb185ebca87000000
)

// A symbol is a symbol of the Huffman codes, in the low 16 bits, with the value of its extra bits above. A literal is
// one symbol. A match is two: its length and its distance (RFC 1951, section 3.2.5). The symbols of all alphabets are
// numbered together; see allSymbols.
//
// A block is a list of symbols and not of runs and matches, because everything that follows is then one short loop
// without a branch that depends on the text.
type symbol uint32

// lengthSymbols holds the symbol of each match length, indexed by the length minus 3.
var lengthSymbols = func() (symbols [256]symbol) {
	for i, base := range lengthBase {
		for n := range 1 << lengthExtra[i] {
			// The code that begins at 227 would include 258, which has a code of its own.
			symbols[min(int(base)-3+n, 255)] = symbol(endOfBlock + 1 + i | n<<16)
		}
	}
	return
}()

// distSymbol returns the symbol of a distance. There are two codes for each number of extra bits, and four without any:
// the place of the highest bit of distance-1 and the bit below it choose the code, the n bits below these are extra
// bits.
func distSymbol(distance int) symbol {
	d := uint(distance - 1)
	n := uint(bits.Len(d|3)-2) & 63
	return symbol(firstDist + 2*n + d>>n | d&(1<<n-1)<<16)
}

// A text is the data to search for matches: earlier messages, if a window is kept, followed by the bytes to compress.
// It lives for one call of the compressor.
type text struct {
	buf    []byte
	origin uint16 // position of buf[0]; positions are modulo 65536
	reach  int    // largest distance of a match, the size of the window that was agreed on
	effort effort
	index
}

// An index finds earlier positions with the same hash. The fast search hashes five bytes, and the search with chains
// hashes four. A position takes two bytes: 65536 positions are enough to tell those in the window from older ones. A
// stale position does no harm, because it is out of reach or the bytes there are compared.
//
// The chains skip odd positions, which halves their memory and their length. An odd position is found from the even
// position next to it, because matches are extended in both directions. A window that is agreed on with 32 KiB has
// 8 KiB of table at level 1, and 16 KiB of tables and 32 KiB of chains above.
type index struct {
	newest []uint16 // the newest position with each hash
	even   []uint16 // the newest even position with each hash; nil without chains
	chain  []uint16 // for each even position, the one before it with the same hash
}

// newIndex returns an index for a window, with hash tables of at most 1<<tableBits positions.
func newIndex(windowBits, tableBits int, chains bool) index {
	table := 1 << min(windowBits, tableBits)
	if !chains {
		return index{newest: make([]uint16, table)}
	}
	return index{make([]uint16, table), make([]uint16, table), make([]uint16, 1<<windowBits/2)}
}

// An effort determines how thorough the search for matches is. Its numbers bound the time spent on each byte of any
// text, so that a peer whose messages are forwarded cannot choose one that takes much longer.
type effort struct {
	chain int // number of earlier positions to compare in one search
	tries int // number of searches for a better match before one is taken
	nice  int // a match of this length is good enough
}

// efforts has the effort of each level. Level 1 uses the fast search, which has no parameters.
var efforts = [10]effort{
	2: {6, 0, 32},
	3: {6, 1, 32},
	4: {8, 1, 64},
	5: {12, 2, 64},
	6: {24, 2, 128},
	7: {48, 3, maxMatch},
	8: {96, 3, maxMatch},
	9: {192, 4, maxMatch},
}

// symbols returns the symbols of t.buf[from:end]. There is at most one for each byte. It uses the memory of symbols.
func (t *text) symbols(symbols []symbol, from, end int) []symbol {
	symbols = slices.Grow(symbols[:0], end-from+1)
	if t.effort.chain == 0 {
		return t.fast(symbols[:end-from], from, end)
	}
	return t.thorough(symbols, from, end)
}

// fast finds matches at the newest position with the same hash. The longer it finds none, the longer its steps become:
// noise is passed over quickly. Hashing five bytes gives fewer and longer matches. The function is long because its
// state must stay in registers.
//
// It appends a literal at each byte without a match, and takes literals back when a match extends to the left. So the
// only branches that depend on the text are whether there is a match and how long it is. Comparing four positions in a
// turn makes the former rarer, but takes a tenth to a fifth longer for messages of 20 KB.
func (t *text) fast(symbols []symbol, from, end int) []symbol {
	buf, table, reach, origin := t.buf[:end], t.newest, t.reach, t.origin
	shift := 64 - bits.Len(uint(len(table)-1))
	n, anchor, s := 0, from, from
	for s+minMatch < len(buf) {
		v := load40(buf, s)
		h := hash5(v, shift)
		pos := origin + uint16(s)
		distance := int(pos - table[h])
		table[h] = pos
		if uint(distance-1) >= uint(min(reach, s)) || load32(buf, s-distance) != uint32(v) {
			symbols[n] = symbol(v & 0xff)
			for skip := (s - anchor) >> 5; skip > 0 && s+1 < len(buf); skip-- {
				n++
				s++
				symbols[n] = symbol(buf[s])
			}
			n++
			s++
			continue
		}
		// Four bytes are equal. The match ends at the first difference, and begins after the last one before s.
		length := minMatch + matchLength(buf[s+minMatch:min(len(buf), s+maxMatch)], buf[s-distance+minMatch:])
		back := matchBefore(buf[:s], distance, min(s-anchor, maxMatch-length))
		n -= back
		symbols[n], symbols[n+1] = lengthSymbols[byte(length+back-3)], distSymbol(distance)
		n += 2
		s += length
		anchor = s
		// Of the positions in the match, only the second to last is remembered. More make messages of 20 KB one or two
		// per cent shorter and take longer.
		if i := s - 2; i+minMatch < len(buf) {
			table[hash5(load40(buf, i), shift)] = origin + uint16(i)
		}
	}
	return appendLiterals(symbols[:n], buf[s:])
}

func appendLiterals(symbols []symbol, p []byte) []symbol {
	for _, b := range p {
		symbols = append(symbols, symbol(b))
	}
	return symbols
}

// load40 returns the five bytes of b at i, the first lowest. The bytes above them are unspecified: they are the next
// three bytes of b, if it has them.
func load40(b []byte, i int) uint64 {
	if i <= len(b)-8 {
		return binary.LittleEndian.Uint64(b[i : i+8])
	}
	return uint64(load32(b, i)) | uint64(b[i+4])<<32
}

// hash5 returns the hash of the five lowest bytes of v. The mask of the shift tells the compiler that it needs no code
// for shifts of 64 and more.
func hash5(v uint64, shift int) uint64 { return v * hashPrime5 >> (shift & 63) }

// A match says that the length bytes at start repeat the bytes that begin distance bytes earlier.
type match struct{ start, length, distance int }

// worth estimates, up to a constant, how many bits m saves. A later start leaves more literals.
func (m match) worth() int { return 4*m.length - 2*m.start - bits.Len(uint(m.distance)) }

// thorough does the same as fast, but remembers every position and compares several of them, and looks for a better
// match before it takes one (RFC 1951, section 4, calls this lazy matching).
func (t *text) thorough(symbols []symbol, from, end int) []symbol {
	anchor, s := from, from
	for s+minMatch <= end {
		m := t.search(s, s, anchor, end, match{s, minMatch - 1, 512}) // four distant bytes save nothing
		t.remember(s, s+1)
		if s++; m.length < minMatch {
			continue
		}
		m = t.improve(m, anchor, end)
		symbols = appendLiterals(symbols, t.buf[anchor:m.start])
		symbols = append(symbols, lengthSymbols[m.length-3], distSymbol(m.distance))
		anchor = m.start + m.length
		t.remember(s, min(anchor, end-minMatch+1))
		s = anchor
	}
	return appendLiterals(symbols, t.buf[anchor:end])
}

// improve returns a better match than m that begins at most two bytes later and ends later, or m if it finds none. Such
// a match covers the last three bytes of m and the next one. These four bytes are usually rarer than the four at the
// start of m, so there are few positions to compare.
func (t *text) improve(m match, anchor, end int) match {
	for try := 0; try < t.effort.tries && m.length < t.effort.nice; try++ {
		s := m.start + m.length - minMatch + 1 + try
		if s+minMatch > end {
			break
		}
		if better := t.search(s, m.start+2, anchor, end, m); better != m {
			m, try = better, -1
		}
	}
	return m
}

// search returns a match that covers the four bytes at s, is better than best, ends later, and begins between anchor
// and first. It returns best if it finds none.
func (t *text) search(s, first, anchor, end int, best match) match {
	buf, chain := t.buf[:end], t.chain
	// A better match also covers the four bytes at last, the first that best does not cover to their end. They are
	// compared before anything else, because they differ in most candidates.
	last := max(s, best.start+best.length-minMatch+1)
	if max(first, last)+minMatch > end {
		return best
	}
	head, tail := load32(buf, first), load32(buf, last)
	h := t.hash(s)
	p, next := t.newest[h], t.even[h]
	if p == next { // the newest position is even, so the chain begins with it
		next = chain[int(next)>>1&(len(chain)-1)]
	}
	// Neither first-distance nor last-distance is before the text, even if p is stale: first may be after s.
	reach, distance := min(t.reach, first, s), 0
	for n := t.effort.chain; n > 0; n-- {
		before := distance
		distance = int(t.origin + uint16(s) - p)
		if distance <= before || distance > reach {
			break // the rest of the chain has been overwritten by newer positions, or is too far away
		}
		if (load32(buf, last-distance)^tail)|(load32(buf, first-distance)^head) == 0 {
			m := t.extend(first, distance, anchor, end)
			if m.start+m.length >= last+minMatch && m.worth() > best.worth() {
				best, last = m, m.start+m.length-minMatch+1
				if m.length >= t.effort.nice || last+minMatch > end {
					break
				}
				tail = load32(buf, last)
			}
		}
		p, next = next, chain[int(next)>>1&(len(chain)-1)]
	}
	return best
}

// extend returns the longest match at a distance that covers position s and lies between anchor and end.
func (t *text) extend(s, distance, anchor, end int) match {
	length := matchLength(t.buf[s:min(end, s+maxMatch)], t.buf[s-distance:])
	back := matchBefore(t.buf[:s], distance, min(s-anchor, maxMatch-length))
	return match{s - back, back + length, distance}
}

// remember adds the positions from s to end to the index.
func (t *text) remember(s, end int) {
	for ; s < end; s++ {
		h, p := t.hash(s), t.origin+uint16(s)
		t.newest[h] = p
		if p&1 == 0 {
			t.chain[int(p)>>1&(len(t.chain)-1)] = t.even[h]
			t.even[h] = p
		}
	}
}

// hash returns the hash of the four bytes at s.
func (t *text) hash(s int) uint32 {
	return load32(t.buf, s) * hashPrime >> (32 - bits.Len(uint(len(t.newest)-1)))
}

// load32 returns the four bytes of b at i.
func load32(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[i : i+4]) }

// matchLength returns the length of the common prefix of a and b, eight bytes in a turn: the lowest bit that differs is
// in the first byte that differs. b must not be shorter than a.
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

// matchBefore returns how many bytes at the end of p repeat the bytes that lie distance bytes before them. It compares
// at most limit bytes.
func matchBefore(p []byte, distance, limit int) (n int) {
	for end := len(p) - 1; n < min(limit, len(p)-distance) && p[end-n] == p[end-n-distance]; {
		n++
	}
	return n
}

// A window holds the last size bytes of the messages sent so far, to which the next message may refer (RFC 7692,
// section 7.1.1, calls this context takeover). Its buffer is contiguous, because a match may not wrap around, and a
// quarter larger, so that the bytes are not moved for each message. It belongs to one compressor.
type window struct {
	buf    []byte
	origin uint16 // see text
	size   int
	pool   *sync.Pool
	index
}

// windowPools holds the free windows, indexed by whether they have chains and by window bits.
var windowPools [2][maxWindowBits + 1]sync.Pool

// newWindow returns an empty window for a level, from a pool if possible.
func newWindow(windowBits, level int) *window {
	chains := min(level-1, 1)
	pool := &windowPools[chains][windowBits]
	if w, ok := pool.Get().(*window); ok {
		return w
	}
	index := newIndex(windowBits, windowTable, chains > 0)
	return &window{origin: firstPosition, size: 1 << windowBits, pool: pool, index: index}
}

// free empties the window and returns it to the pool. The next connection must not find positions of this one: it could
// not read the bytes, but its output would depend on them.
func (w *window) free() {
	w.buf, w.origin = w.buf[:0], firstPosition
	clear(w.newest)
	clear(w.even)
	w.pool.Put(w)
}

// limit returns the largest size of the buffer.
func (w *window) limit() int { return w.size + w.size/4 }

// stage returns the window's bytes followed by p, or by as much of p as can refer to them. It does not add p to the
// window. If p does not fit into the window's free space, stage copies the bytes to scratch.
func (w *window) stage(p []byte, scratch *[]byte) []byte {
	if len(w.buf)+len(p) > w.limit() {
		w.drop(max(0, len(w.buf)-w.size))
	}
	if len(w.buf)+len(p) > w.limit() {
		*scratch = append(append((*scratch)[:0], w.buf...), p[:min(len(p), w.size)]...)
		return *scratch
	}
	w.buf = growWithin(w.buf, len(p), w.limit())
	return append(w.buf, p...)
}

// drop removes the oldest n bytes. If there are fewer, it removes all, and the caller leaves out as many bytes of the
// next message as were missing.
func (w *window) drop(n int) {
	w.buf = w.buf[:copy(w.buf, w.buf[min(n, len(w.buf)):])]
	w.origin += uint16(n)
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

// add appends p and removes the oldest bytes if there is no room.
func (w *window) add(p []byte) {
	if n := len(w.buf) + len(p); n > w.limit() {
		w.drop(n - w.size)
		p = p[max(0, len(p)-w.size):]
	}
	w.buf = append(growWithin(w.buf, len(p), w.limit()), p...)
}
