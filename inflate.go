package websocket

import (
	"encoding/binary"
	"sync"
)

// The receiving half of DEFLATE (RFC 1951). The inflater writes straight into the caller's message and can stop
// at any bit: when the input is used up, and when the message has no room.

// huffmanTables is what a block with dynamic codes needs; it is held from the first such block of a message to
// the message's end.
type huffmanTables struct {
	lit  litTable
	dist distTable // the code length code too, before the distances are known
	lens [maxLitCodes + maxDistCodes]uint8
}

var tablesPool = sync.Pool{New: func() any { return new(huffmanTables) }}

// An inflater is a DEFLATE decoder in the middle of a message. In step it has what to do next; a step returns
// false when it is blocked, by the input, by the room (full is set) or by an error.
type inflater struct {
	step func(*inflater) bool
	out  []byte // during a call
	src  []byte // during a call
	err  error
	full bool // the last step lacked room in out

	bits  uint64 // taken from src and not used yet; zero above nbits
	nbits uint

	between  bool // no block has begun
	final    bool // the block is the last of its stream
	length   int  // of the match under way, or what is left of the stored block
	distance int
	nlit     int // codes announced in a dynamic block's header
	ndist    int
	npre     int
	nlens    int // code lengths read so far

	tables *huffmanTables // nil until a dynamic block needs them
	lit    *litTable
	dist   *distTable
	hist   *history // what came before the message; nil: nothing
}

// run inflates from src behind out until the one is used up or the other full.
func (f *inflater) run(out, src []byte) ([]byte, []byte, error) {
	f.out, f.src, f.full = out, src, false
	for f.err == nil && f.step(f) {
	}
	out, src = f.out, f.src
	f.out, f.src = nil, nil
	return out, src, f.err
}

// restart makes f ready for the first block of a message.
func (f *inflater) restart() {
	if f.tables != nil {
		tablesPool.Put(f.tables)
	}
	*f = inflater{step: (*inflater).blockHeader, hist: f.hist}
}

// atBoundary reports that f stands exactly between two blocks.
func (f *inflater) atBoundary() bool { return f.between && f.nbits == 0 }

func (f *inflater) fail(reason string) bool {
	f.err = &ProtocolError{Code: StatusInvalidFramePayloadData, Reason: reason}
	return false
}

func (f *inflater) room() int { return cap(f.out) - len(f.out) }

// refill takes at least a byte from src, if there is one. There must be room for it in bits.
func (f *inflater) refill() bool {
	switch {
	case len(f.src) >= 8:
		n := max(1, (63-f.nbits)/8)
		f.bits |= binary.LittleEndian.Uint64(f.src) << f.nbits
		f.nbits += 8 * n
		f.bits &= 1<<f.nbits - 1
		f.src = f.src[n:]
	case len(f.src) > 0:
		f.bits |= uint64(f.src[0]) << f.nbits
		f.nbits += 8
		f.src = f.src[1:]
	default:
		return false
	}
	return true
}

// need makes n bits available, at most 57.
func (f *inflater) need(n uint) bool {
	for f.nbits < n {
		if !f.refill() {
			return false
		}
	}
	return true
}

// take uses n bits that are available.
func (f *inflater) take(n uint) int {
	v := f.bits & (1<<n - 1)
	f.bits >>= n
	f.nbits -= n
	return int(v)
}

// peek finds the entry of the next symbol and makes its code and extra bits available, without using them.
func (f *inflater) peek(table []uint32, bits uint) (uint32, bool) {
	for {
		e := table[f.bits&(1<<bits-1)]
		if e&entrySubtable != 0 {
			e = table[uint64(e>>16)+f.bits>>bits&(1<<(e>>8&15)-1)]
		}
		if uint(e&63+e>>8&15) <= f.nbits {
			return e, true
		}
		if !f.refill() {
			return 0, false
		}
	}
}

// value uses the symbol that peek found and returns its base plus its extra bits.
func (f *inflater) value(e uint32) int {
	f.take(uint(e & 63))
	return int(e>>16) + f.take(uint(e>>8&15))
}

// blockHeader is the step at the start of a block.
func (f *inflater) blockHeader() bool {
	f.between = true
	if !f.need(3) {
		return false
	}
	f.between = false
	f.final = f.take(1) == 1
	switch f.take(2) {
	case 0:
		f.take(f.nbits & 7)
		f.step = (*inflater).storedHeader
	case 1:
		f.lit, f.dist = &fixedLit, &fixedDist
		f.step = (*inflater).symbols
	case 2:
		f.step = (*inflater).dynamicHeader
	default:
		return f.fail("invalid DEFLATE block type")
	}
	return true
}

// endBlock goes on to the next block. RFC 7692, section 7.2.1: "When any DEFLATE block with the "BFINAL" bit set
// to 1 doesn't end at a byte boundary, an endpoint MUST add minimal padding bits of 0 to make it end at a byte
// boundary. The next DEFLATE block follows the padded data if any."
func (f *inflater) endBlock() bool {
	if f.final {
		f.take(f.nbits & 7)
	}
	f.step = (*inflater).blockHeader
	return true
}

func (f *inflater) storedHeader() bool {
	if !f.need(32) {
		return false
	}
	n, inverse := f.take(16), f.take(16)
	if n != ^inverse&0xffff {
		return f.fail("invalid length of a stored DEFLATE block")
	}
	f.length = n
	f.step = (*inflater).stored
	return true
}

func (f *inflater) stored() bool {
	for f.length > 0 && f.nbits > 0 && f.room() > 0 {
		f.out = append(f.out, byte(f.take(8)))
		f.length--
	}
	n := 0
	if f.nbits == 0 {
		n = min(f.length, len(f.src), f.room())
	}
	f.out = append(f.out, f.src[:n]...)
	f.src = f.src[n:]
	f.length -= n
	if f.length > 0 {
		f.full = f.room() == 0
		return false
	}
	return f.endBlock()
}

func (f *inflater) dynamicHeader() bool {
	if !f.need(14) {
		return false
	}
	f.nlit, f.ndist, f.npre = f.take(5)+257, f.take(5)+1, f.take(4)+4
	if f.nlit > maxLitCodes || f.ndist > maxDistCodes {
		return f.fail("too many DEFLATE codes")
	}
	if f.tables == nil {
		f.tables = tablesPool.Get().(*huffmanTables)
	}
	f.step = (*inflater).preCode
	return true
}

// preCode reads the code that the code lengths are written in.
func (f *inflater) preCode() bool {
	if !f.need(uint(3 * f.npre)) {
		return false
	}
	var lens [19]uint8
	for _, i := range preOrder[:f.npre] {
		lens[i] = uint8(f.take(3))
	}
	if !buildTable(f.tables.dist[:], preBits, lens[:], preEntries[:]) {
		return f.fail("invalid DEFLATE code lengths")
	}
	f.nlens = 0
	f.step = (*inflater).codeLengths
	return true
}

func (f *inflater) codeLengths() bool {
	lens := f.tables.lens[:f.nlit+f.ndist]
	table := (*[1 << preBits]uint32)(f.tables.dist[:])
	for f.nlens < len(lens) {
		if f.nbits < 2*preBits {
			f.need(2 * preBits) // or all there is
		}
		e := table[f.bits&(1<<preBits-1)]
		if uint(e&63+e>>8&15) > f.nbits {
			return false
		}
		if e&entrySpecial != 0 {
			return f.fail("invalid DEFLATE code length")
		}
		if e>>16 < 16 {
			lens[f.nlens] = uint8(f.value(e))
			f.nlens++
		} else if !f.repeatLength(lens, e) {
			return f.fail("invalid repetition of a DEFLATE code length")
		}
	}
	return f.dynamicTables(lens)
}

// repeatLength obeys the symbols 16, 17 and 18 of RFC 1951, section 3.2.7.
func (f *inflater) repeatLength(lens []uint8, e uint32) bool {
	var length uint8
	n := f.value(e) - int(e>>16) + 3
	switch e >> 16 {
	case 16:
		if f.nlens == 0 {
			return false
		}
		length = lens[f.nlens-1]
	case 18:
		n += 8
	}
	if n > len(lens)-f.nlens {
		return false
	}
	for i := range n {
		lens[f.nlens+i] = length
	}
	f.nlens += n
	return true
}

func (f *inflater) dynamicTables(lens []uint8) bool {
	t := f.tables
	if !buildTable(t.lit[:], litBits, lens[:f.nlit], litEntries[:]) ||
		!buildTable(t.dist[:], distBits, lens[f.nlit:], distEntries[:]) {
		return f.fail("invalid DEFLATE code")
	}
	f.lit, f.dist = &t.lit, &t.dist
	f.step = (*inflater).symbols
	return true
}

// symbols is the step in a block of literals and matches.
func (f *inflater) symbols() bool {
	for {
		f.fast()
		e, ok := f.peek(f.lit[:], litBits)
		switch {
		case !ok:
			return false
		case e&entryLiteral != 0:
			if f.room() == 0 {
				f.full = true
				return false
			}
			f.take(uint(e & 63))
			f.out = append(f.out, byte(e>>16))
		case e&entryEnd != 0:
			f.take(uint(e & 63))
			return f.endBlock()
		case e&entrySpecial != 0:
			return f.fail("invalid DEFLATE symbol")
		default:
			f.length = f.value(e)
			f.step = (*inflater).matchDistance
			return true
		}
	}
}

func (f *inflater) matchDistance() bool {
	e, ok := f.peek(f.dist[:], distBits)
	if !ok {
		return false
	}
	if e&entrySpecial != 0 {
		return f.fail("invalid DEFLATE distance")
	}
	f.distance = f.value(e)
	if f.distance > len(f.out)+f.hist.len() {
		return f.fail("DEFLATE distance before the beginning")
	}
	f.step = (*inflater).match
	return true
}

func (f *inflater) match() bool {
	n := min(f.length, f.room())
	f.out = f.out[:f.copyMatch(f.out[:cap(f.out)], len(f.out), n, f.distance)]
	f.length -= n
	if f.length > 0 {
		f.full = true
		return false
	}
	f.step = (*inflater).symbols
	return true
}

// copyMatch repeats length bytes from distance before out[n:], which may lie in the messages before this one,
// and returns where they end.
func (f *inflater) copyMatch(out []byte, n, length, distance int) int {
	if before := distance - n; before > 0 {
		m := f.hist.copy(out[n:n+min(length, before)], before)
		n, length = n+m, length-m
	}
	for start := n - distance; length > 0; { // what is repeated doubles
		m := copy(out[n:n+length], out[start:n])
		n, length = n+m, length-m
	}
	return n
}

// fast decodes symbols as long as a symbol is whole in the input and fits into the room, and leaves everything
// but literals and matches to the steps. It is long because its state must stay in registers.
func (f *inflater) fast() {
	lit, dist := f.lit, f.dist
	src, i := f.src, 0
	out, n := f.out[:cap(f.out)], len(f.out)
	bits, nbits := f.bits, int(f.nbits)
	before := f.hist.len()
	for len(out)-n >= 3 {
		// Above nbits there may be a part of the next byte; to or it in again changes nothing.
		if len(src)-i >= 8 {
			bits |= binary.LittleEndian.Uint64(src[i:]) << (nbits & 63)
			i += (63 - nbits) >> 3
			nbits |= 56
		} else {
			for ; nbits < 56 && i < len(src); i++ {
				bits |= uint64(src[i]) << (nbits & 63)
				nbits += 8
			}
		}
		e := lit[bits&(1<<litBits-1)]
		if e&entryLiteral != 0 && nbits >= 2*litBits {
			out[n] = byte(e >> 16)
			n++
			bits >>= e & 63
			nbits -= int(e & 63)
			e = lit[bits&(1<<litBits-1)]
			if e&entryLiteral != 0 {
				out[n] = byte(e >> 16)
				n++
				bits >>= e & 63
				nbits -= int(e & 63)
				e = lit[bits&(1<<litBits-1)]
			}
		}
		if e&entrySubtable != 0 {
			e = lit[uint64(e>>16)+bits>>litBits&(1<<(e>>8&15)-1)]
		}
		if int(e&63) > nbits || e&entrySpecial != 0 {
			break
		}
		symbol, nsymbol := bits, nbits
		bits >>= e & 63
		nbits -= int(e & 63)
		if e&entryLiteral != 0 {
			out[n] = byte(e >> 16)
			n++
			continue
		}
		extra := e >> 8 & 15
		length := int(e>>16) + int(bits&(1<<extra-1))
		bits >>= extra
		nbits -= int(extra)
		e = dist[bits&(1<<distBits-1)]
		if e&entrySubtable != 0 {
			e = dist[uint64(e>>16)+bits>>distBits&(1<<(e>>8&15)-1)]
		}
		bits >>= e & 63
		extra = e >> 8 & 15
		distance := int(e>>16) + int(bits&(1<<extra-1))
		bits >>= extra
		nbits -= int(e&63 + extra)
		if nbits < 0 || len(out)-n < length+7 || e&entrySpecial != 0 || distance > n+before {
			bits, nbits = symbol, nsymbol
			if nbits < 48 && i < len(src) {
				continue // with all the bits that a match can have
			}
			break
		}
		// Matches go eight bytes at a time, the last ones too far, where that is possible.
		from := out[max(n-distance, 0):]
		if distance > n {
			from = f.hist.from(distance-n, length)
		}
		if distance < 8 || len(from) < length+7 {
			n = f.copyMatch(out, n, length, distance)
			continue
		}
		to := out[n : n+length+7]
		for k := 0; k < length; k += 8 {
			binary.LittleEndian.PutUint64(to[k:], binary.LittleEndian.Uint64(from[k:]))
		}
		n += length
	}
	f.src, f.out = src[i:], out[:n]
	f.bits, f.nbits = bits&(1<<nbits-1), uint(nbits)
}

// A history is the last size bytes of the messages before this one. It grows up to size and is a ring then.
type history struct {
	buf  []byte
	pos  int // where the oldest byte is, once buf is full; the end of buf before
	size int
}

func (h *history) len() int {
	if h == nil {
		return 0
	}
	return len(h.buf)
}

// add appends p and forgets what is too old.
func (h *history) add(p []byte) {
	if len(p) > h.size {
		p = p[len(p)-h.size:]
	}
	n := min(h.size-len(h.buf), len(p))
	h.buf = append(growWithin(h.buf, n, h.size), p[:n]...)
	if p = p[n:]; len(p) == 0 {
		h.pos = (h.pos + n) % h.size
		return
	}
	if n > 0 {
		h.pos = 0
	}
	m := copy(h.buf[h.pos:], p)
	h.pos = (h.pos + m + copy(h.buf, p[m:])) % h.size
}

// from returns what lies in one piece from back before the end, if that is n bytes at least.
func (h *history) from(back, n int) []byte {
	start := h.pos - back
	if start < 0 {
		start += len(h.buf)
	}
	if n > back {
		return nil
	}
	return h.buf[start:]
}

// copy fills dst with the bytes from back before the end, which must be there.
func (h *history) copy(dst []byte, back int) int {
	start := h.pos - back
	if start >= 0 && h.pos > 0 {
		return copy(dst, h.buf[start:h.pos])
	}
	n := copy(dst, h.buf[start+len(h.buf):])
	return n + copy(dst[n:], h.buf[:h.pos])
}
