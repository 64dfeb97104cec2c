package websocket

// The decompressing half of DEFLATE (RFC 1951). Unlike compress/flate, the inflater writes directly into the caller's
// message. When the input is exhausted or the message is full, it can stop at any bit and continue there later, so no
// goroutine waits for input, and a limit on the message bounds the memory.
//
// The decoder is written twice: as steps, which can stop anywhere, and as the loop fast, which takes what is complete.
// Both use the same tables, and the fuzz targets compare them with compress/flate, whatever the pieces of the input.

import (
	"encoding/binary"
	"sync"
)

// dynamicTables holds the code lengths and the tables of dynamic blocks. An inflater takes one from the pool at the
// first such block of a message, owns it, and returns it at the end of the message.
type dynamicTables struct {
	huffmanTables // before the distances are known, dist is the table of the code length code
	lens          [maxLitCodes + maxDistCodes]uint8
}

var dynamicPool = sync.Pool{New: func() any { return new(dynamicTables) }}

// An inflater is the state of a DEFLATE decoder. The holder of the reader's turn owns it.
//
// step is the function with which decoding continues. A step returns true when it is done and has set the next step. It
// returns false if it cannot continue: because src is exhausted, because out is full (full is then set), or because of
// an error. A step that returns false has removed no bits that it would need when it is called again.
//
//	blockHeader -> storedHeader -> stored ------------------------------------> blockHeader
//	            -> dynamicHeader -> preCode -> codeLengths -> symbols --------> blockHeader
//	            -> symbols -> matchDistance -> match -> symbols
type inflater struct {
	step func(*inflater) bool
	out  []byte // set during run
	src  []byte // set during run
	err  error
	full bool // the last step found no room in out

	bits  uint64 // bits read from src but not used yet; zero above nbits
	nbits uint

	between  bool // no bit of the next block was removed
	final    bool // the current or last block has BFINAL set
	length   int  // bytes left of the match or of the stored block
	distance int  // of the match
	nlit     int  // number of codes in the header of a dynamic block
	ndist    int
	npre     int
	nlens    int // code lengths read so far

	dynamic *dynamicTables // nil until a dynamic block needs it
	tables  *huffmanTables // of the current block
	hist    *history       // earlier messages; nil if none are kept
}

// run inflates src and appends to out until src is exhausted or out is full. It returns out and the rest of src.
func (f *inflater) run(out, src []byte) ([]byte, []byte, error) {
	f.out, f.src, f.full = out, src, false
	for f.err == nil && f.step(f) {
	}
	out, src = f.out, f.src
	f.out, f.src = nil, nil
	return out, src, f.err
}

// restart prepares f for a new message, and returns its tables to their pool. The history remains.
func (f *inflater) restart() {
	if f.dynamic != nil {
		dynamicPool.Put(f.dynamic)
	}
	*f = inflater{step: (*inflater).blockHeader, hist: f.hist}
}

// atBoundary reports whether the input read so far ends exactly between two blocks.
func (f *inflater) atBoundary() bool { return f.between && f.nbits == 0 }

// fail sets the error of f, which ends the connection with StatusInvalidFramePayloadData. RFC 7692 names no close code
// for data that is not DEFLATE; 1007 is for data "not consistent with the type of the message" (RFC 6455, section
// 7.4.1).
func (f *inflater) fail(reason string) bool {
	f.err = &ProtocolError{Code: StatusInvalidFramePayloadData, Reason: reason}
	return false
}

// room returns the number of bytes that still fit into out.
func (f *inflater) room() int { return cap(f.out) - len(f.out) }

// refill reads at least one byte from src, or reports false if there is none. nbits must be at most 56. It reads as
// many bytes as fit, if src has a whole word, and one otherwise.
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

// need makes n bits available, at most 57, or reports false.
func (f *inflater) need(n uint) bool {
	for f.nbits < n {
		if !f.refill() {
			return false
		}
	}
	return true
}

// getBits removes and returns n bits, which must be available.
func (f *inflater) getBits(n uint) int {
	v := f.bits & (1<<n - 1)
	f.bits >>= n
	f.nbits -= n
	return int(v)
}

// peek returns the entry of the next symbol and makes its code and extra bits available, without removing them. bits is
// the number of index bits of table. Missing bits count as zeros, so the entry may be that of another code. It is right
// if nbits covers its length, because then no missing bit was looked at.
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

// value removes the symbol with the entry e, which peek returned, and returns its base plus the value of its extra
// bits.
func (f *inflater) value(e uint32) int {
	f.getBits(uint(e & 63))
	return int(e>>16) + f.getBits(uint(e>>8&15))
}

// blockHeader is the step that reads the first three bits of a block: BFINAL and BTYPE (RFC 1951, section 3.2.3).
func (f *inflater) blockHeader() bool {
	f.between = true
	if !f.need(3) {
		return false
	}
	f.between = false
	f.final = f.getBits(1) == 1
	switch f.getBits(2) {
	case 0:
		// Section 3.2.4: "Any bits of input up to the next byte boundary are ignored."
		f.getBits(f.nbits & 7)
		f.step = (*inflater).storedHeader
	case 1:
		f.tables = &fixedTables
		f.step = (*inflater).symbols
	case 2:
		f.step = (*inflater).dynamicHeader
	default:
		// Section 3.2.3: "11 - reserved (error)".
		return f.fail("invalid DEFLATE block type")
	}
	return true
}

// endBlock continues with the next block. RFC 7692, section 7.2.1: "When any DEFLATE block with the "BFINAL" bit set to
// 1 doesn't end at a byte boundary, an endpoint MUST add minimal padding bits of 0 to make it end at a byte boundary.
// The next DEFLATE block follows the padded data if any."
func (f *inflater) endBlock() bool {
	if f.final {
		f.getBits(f.nbits & 7)
	}
	f.step = (*inflater).blockHeader
	return true
}

// storedHeader is the step that reads the length of a stored block. Section 3.2.4: "LEN is the number of data bytes in
// the block. NLEN is the one's complement of LEN."
func (f *inflater) storedHeader() bool {
	if !f.need(32) {
		return false
	}
	n, inverse := f.getBits(16), f.getBits(16)
	if n != ^inverse&0xffff {
		return f.fail("invalid length of a stored DEFLATE block")
	}
	f.length = n
	f.step = (*inflater).stored
	return true
}

// stored is the step that copies a stored block: first the bytes that were read into bits, then those in src.
func (f *inflater) stored() bool {
	for f.length > 0 && f.nbits > 0 && f.room() > 0 {
		f.out = append(f.out, byte(f.getBits(8)))
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

// dynamicHeader is the step that reads the number of codes of a dynamic block: HLIT, HDIST and HCLEN (RFC 1951, section
// 3.2.7). The counts are judged before any length is read, so the lengths always fit into their array.
func (f *inflater) dynamicHeader() bool {
	if !f.need(14) {
		return false
	}
	f.nlit, f.ndist, f.npre = f.getBits(5)+257, f.getBits(5)+1, f.getBits(4)+4
	if f.nlit > maxLitCodes || f.ndist > maxDistCodes {
		return f.fail("too many DEFLATE codes")
	}
	if f.dynamic == nil {
		f.dynamic = dynamicPool.Get().(*dynamicTables)
	}
	f.step = (*inflater).preCode
	return true
}

// preCode is the step that reads the code length code.
func (f *inflater) preCode() bool {
	if !f.need(uint(3 * f.npre)) {
		return false
	}
	var lens [19]uint8
	for _, i := range preOrder[:f.npre] {
		lens[i] = uint8(f.getBits(3))
	}
	if !buildTable(f.dynamic.dist[:], preBits, lens[:], symbolEntries[firstPre:]) {
		return f.fail("invalid DEFLATE code lengths")
	}
	f.nlens = 0
	f.step = (*inflater).codeLengths
	return true
}

// codeLengths is the step that reads the lengths of the literal and distance codes. Section 3.2.7: "all code lengths
// form a single sequence of HLIT + HDIST + 258 values", so a repetition may cross from one code to the other.
func (f *inflater) codeLengths() bool {
	lens := f.dynamic.lens[:f.nlit+f.ndist]
	table := (*[1 << preBits]uint32)(f.dynamic.dist[:])
	for f.nlens < len(lens) {
		if f.nbits < 2*preBits {
			f.need(2 * preBits) // or as many as are left
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
	if !f.dynamic.build(lens[:f.nlit], lens[f.nlit:]) {
		return f.fail("invalid DEFLATE code")
	}
	f.tables = &f.dynamic.huffmanTables
	f.step = (*inflater).symbols
	return true
}

// repeatLength handles the symbols 16, 17 and 18 of RFC 1951, section 3.2.7: the length before 3 to 6 times, 0 for 3 to
// 10 times, and 0 for 11 to 138 times. It returns false if there is no length before, or if the repetition is too long.
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

// symbols is the step that decodes literals and the lengths of matches. It decodes one symbol itself only where fast
// has stopped.
func (f *inflater) symbols() bool {
	for {
		f.fast()
		e, ok := f.peek(f.tables.lit[:], litBits)
		switch {
		case !ok:
			return false
		case e&entryLiteral != 0:
			if f.room() == 0 {
				f.full = true
				return false
			}
			f.getBits(uint(e & 63))
			f.out = append(f.out, byte(e>>16))
		case e&entryEnd != 0:
			f.getBits(uint(e & 63))
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

// matchDistance is the step that reads the distance of a match.
func (f *inflater) matchDistance() bool {
	e, ok := f.peek(f.tables.dist[:], distBits)
	if !ok {
		return false
	}
	if e&entrySpecial != 0 {
		return f.fail("invalid DEFLATE distance")
	}
	f.distance = f.value(e)
	// The window has this message and, with context takeover, earlier ones (RFC 7692, section 7.1.1).
	if f.distance > len(f.out)+f.hist.len() {
		return f.fail("DEFLATE distance reaches before the start of the data")
	}
	f.step = (*inflater).match
	return true
}

// match is the step that copies a match, or as much of it as fits. It is called again with the rest.
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

// copyMatch appends to out[:n] the length bytes that begin distance bytes before its end, possibly in an earlier
// message. It returns the new end.
func (f *inflater) copyMatch(out []byte, n, length, distance int) int {
	if before := distance - n; before > 0 { // bytes that lie in the history
		m := f.hist.copy(out[n:n+min(length, before)], before)
		n, length = n+m, length-m
	}
	// Section 3.2.3: "the referenced string may overlap the current position". The bytes from start to n repeat, so
	// each turn copies twice as many as the one before.
	for start := n - distance; length > 0; {
		m := copy(out[n:n+length], out[start:n])
		n, length = n+m, length-m
	}
	return n
}

// fast decodes literals and matches as long as they are complete in the input and fit into out. It leaves everything
// else to the steps: codes cut off by the end of the input, the end of the block, errors, and the last bytes of out.
// The function is long because its state must stay in registers.
//
// Each turn fills bits once. 56 bits are enough for two literals from the first table, of at most litBits each, and a
// third symbol of 15 bits with 5 extra bits; if that is a match whose distance is not complete, it is decoded again in
// the next turn, which begins with it.
func (f *inflater) fast() {
	lit, dist := &f.tables.lit, &f.tables.dist
	src, i := f.src, 0
	out, n := f.out[:cap(f.out)], len(f.out)
	bits, nbits := f.bits, int(f.nbits)
	before := f.hist.len()
	for len(out)-n >= 3 {
		// The bits above nbits may already hold a part of the next byte. ORing it in again changes nothing.
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
		// Up to two literals with short codes. There must be room for three, with the symbol that follows.
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
		symbol, nsymbol := bits, nbits // restored if the match is not complete
		bits >>= e & 63
		nbits -= int(e & 63)
		if e&entryLiteral != 0 {
			out[n] = byte(e >> 16)
			n++
			continue
		}
		// A match. Bits beyond the end of the input count as zeros, and nbits then becomes negative.
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
				continue // with enough bits for the longest match
			}
			break
		}
		// Copy eight bytes at a time, up to seven beyond the end of the match, if both buffers allow it.
		from := out[max(n-distance, 0):]
		if distance > n {
			from = f.hist.from(distance - n)
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

// A history holds the last size bytes of the messages received so far, to which the next message may refer (RFC 7692,
// section 7.1.1). It grows to size and then becomes a ring: unlike the window of a compressor it is only copied from,
// so it needs no spare memory to be contiguous. Its inflater owns it.
type history struct {
	buf  []byte
	pos  int // index of the oldest byte if buf is full, otherwise len(buf)
	size int
}

// len returns the number of bytes held. A nil history holds none.
func (h *history) len() int {
	if h == nil {
		return 0
	}
	return len(h.buf)
}

// add appends p and drops the oldest bytes beyond size.
func (h *history) add(p []byte) {
	p = p[max(0, len(p)-h.size):]
	// As long as the ring is not full, pos is its end.
	n := min(h.size-len(h.buf), len(p))
	h.buf = append(growWithin(h.buf, n, h.size), p[:n]...)
	h.pos = (h.pos + n) % h.size
	for p = p[n:]; len(p) > 0; p = p[n:] { // the ring is full
		n = copy(h.buf[h.pos:], p)
		h.pos = (h.pos + n) % h.size
	}
}

// from returns the bytes that begin back bytes before the end, up to the end of the history or of the ring's memory.
func (h *history) from(back int) []byte {
	if start := h.pos - back; start >= 0 {
		return h.buf[start:h.pos]
	}
	return h.buf[h.pos-back+len(h.buf):]
}

// copy fills dst with the bytes that begin back bytes before the end, and returns their number. The history must hold
// them.
func (h *history) copy(dst []byte, back int) int {
	n := copy(dst, h.from(back))
	return n + copy(dst[n:], h.buf)
}
