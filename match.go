package websocket

// The search for matches is the first half of compression. It turns a text into sequences of literals and matches,
// which deflate.go writes. This file also has the window that a connection keeps between messages, and its index.

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

const (
	windowTable   = 12      // a window's hash tables have at most 1<<12 positions of 2 bytes each
	scratchTable  = 14      // the same for the tables of a deflater
	firstPosition = 1 << 15 // of a text; the zeros of an empty table are then out of reach
	minMatch      = 4
	hashPrime     = 0x9e3779b1         // for hashes of four bytes
	hashPrime5    = 0xb185ebca87000000 // for hashes of five bytes
	maxSequences  = 4096               // in a block
)

// A sequence is a run of literals followed by a match. The last sequence of a block has no match.
type sequence struct {
	literals         uint16 // number of literals
	length, distance uint16 // of the match; 0 if there is none
}

// A text is the data to search for matches: earlier messages, if a window is kept, followed by the bytes to compress.
// It lives for one call of the compressor.
type text struct {
	buf    []byte
	origin uint16 // position of buf[0]; positions are modulo 65536
	reach  int    // largest distance of a match
	effort effort
	index
}

// An index finds earlier positions with the same hash. The fast search hashes five bytes, and the search with chains
// hashes four. A stale position does no harm, because the bytes are compared. The chains skip odd positions, which
// halves their memory and their length. An odd position is found from the even position next to it, because matches are
// extended in both directions.
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
// text.
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

// sequences appends the sequences of t.buf[from:end] to seqs and returns where they end: at end, or earlier if there
// are maxSequences.
func (t *text) sequences(seqs []sequence, from, end int) ([]sequence, int) {
	anchor := from
	if t.effort.chain == 0 {
		seqs, anchor = t.fast(seqs, from, end)
	} else {
		seqs, anchor = t.thorough(seqs, from, end)
	}
	if len(seqs) == maxSequences-1 {
		end = anchor
	}
	return append(seqs, sequence{literals: uint16(end - anchor)}), end
}

// fast finds matches at the newest position with the same hash. The longer it finds none, the longer its steps become.
// It returns the end of the last match. Hashing five bytes gives fewer and longer matches. The function is long because
// its state must stay in registers.
func (t *text) fast(seqs []sequence, from, end int) ([]sequence, int) {
	buf, table, reach := t.buf[:end], t.newest, t.reach
	shift := 64 - bits.Len(uint(len(table)-1))
	anchor, s := from, from
	for s+minMatch < len(buf) {
		v := load32(buf, s)
		h := hash5(v, buf[s+4], shift)
		pos := t.origin + uint16(s)
		distance := int(pos - table[h])
		table[h] = pos
		if uint(distance-1) >= uint(min(reach, s)) || load32(buf, s-distance) != v {
			s += 1 + (s-anchor)>>5
			continue
		}
		for s > max(anchor, distance) && buf[s-1] == buf[s-1-distance] {
			s--
		}
		n := minMatch + matchLength(buf[s+minMatch:min(len(buf), s+maxMatch)], buf[s-distance+minMatch:])
		seqs = append(seqs, sequence{uint16(s - anchor), uint16(n), uint16(distance)})
		s += n
		anchor = s
		if len(seqs) == maxSequences-1 {
			break
		}
		if i := s - 2; i+minMatch < len(buf) {
			table[hash5(load32(buf, i), buf[i+4], shift)] = t.origin + uint16(i)
		}
	}
	return seqs, anchor
}

// hash5 returns the hash of the four bytes of v and the next one, in the highest bits of the product.
func hash5(v uint32, next byte, shift int) uint64 {
	return (uint64(v) | uint64(next)<<32) * hashPrime5 >> shift
}

// A match says that the length bytes at start repeat the bytes that begin distance bytes earlier.
type match struct{ start, length, distance int }

// worth estimates, up to a constant, how many bits m saves. A later start leaves more literals.
func (m match) worth() int { return 4*m.length - 2*m.start - bits.Len(uint(m.distance)) }

// thorough does the same as fast, but remembers every position and compares several of them.
func (t *text) thorough(seqs []sequence, from, end int) ([]sequence, int) {
	anchor, s := from, from
	for s+minMatch <= end && len(seqs) < maxSequences-1 {
		m := t.search(s, s, anchor, end, match{s, minMatch - 1, 512}) // four distant bytes save nothing
		t.remember(s, s+1)
		if s++; m.length < minMatch {
			continue
		}
		m = t.improve(m, anchor, end)
		seqs = append(seqs, sequence{uint16(m.start - anchor), uint16(m.length), uint16(m.distance)})
		anchor = m.start + m.length
		t.remember(s, min(anchor, end-minMatch+1))
		s = anchor
	}
	return seqs, anchor
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
	last := max(s, best.start+best.length-minMatch+1)
	if max(first, last)+minMatch > end {
		return best
	}
	head, tail := load32(buf, first), load32(buf, last)
	h := t.hash(s)
	p, next := t.newest[h], t.even[h]
	if p == next {
		next = chain[int(next)>>1&(len(chain)-1)]
	}
	reach, distance := min(t.reach, first), 0
	for n := t.effort.chain; n > 0; n-- {
		before := distance
		distance = int(t.origin + uint16(s) - p)
		if distance <= before || distance > reach {
			break
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
	stop := s + matchLength(t.buf[s:min(end, s+maxMatch)], t.buf[s-distance:])
	for s > max(anchor, distance, stop-maxMatch) && t.buf[s-1] == t.buf[s-1-distance] {
		s--
	}
	return match{s, stop - s, distance}
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

// A window holds the last size bytes of the messages sent so far, to which the next message may refer. Its buffer is a
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

// free empties the window and returns it to the pool.
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
		w.drop(len(w.buf) - w.size)
	}
	if len(w.buf)+len(p) > w.limit() {
		*scratch = append(append((*scratch)[:0], w.buf...), p[:min(len(p), w.size)]...)
		return *scratch
	}
	w.buf = growWithin(w.buf, len(p), w.limit())
	return append(w.buf, p...)
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

// add appends p and removes the oldest bytes if there is no room.
func (w *window) add(p []byte) {
	if n := len(p) - w.size; n > 0 {
		w.origin += uint16(len(w.buf) + n)
		w.buf, p = w.buf[:0], p[n:]
	}
	if len(w.buf)+len(p) > w.limit() {
		w.drop(len(w.buf) + len(p) - w.size)
	}
	w.buf = append(growWithin(w.buf, len(p), w.limit()), p...)
}
