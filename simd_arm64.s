//go:build !purego && !race

#include "textflag.h"

// Masking and UTF-8 validation with NEON: 16 bytes in a register. The structure is that of simd_amd64.s.

// func hasVectors() bool
// NEON is a part of the architecture.
TEXT ·hasVectors(SB), NOSPLIT, $0-1
	MOVD $1, R0
	MOVB R0, ret+0(FP)
	RET

// func maskVector(dst, src *byte, n int, key uint32)
// R0 and R1 are the next bytes of dst and src, and R2 is the number of bytes left, minus a constant that makes the test
// of each loop a comparison with 0.
TEXT ·maskVector(SB), NOSPLIT, $0-28
	MOVD  dst+0(FP), R0
	MOVD  src+8(FP), R1
	MOVD  n+16(FP), R2
	MOVWU key+24(FP), R3

	// V0 is the key, repeated.
	VDUP R3, V0.S4

	// V1 is the last 16 bytes, masked. They may overlap the block before them and dst may be src, so they are computed
	// first and stored last, at R5. The key is rotated by n-16 bytes, which is n modulo 4.
	ADD  R1, R2, R4
	SUB  $16, R4
	ADD  R0, R2, R5
	SUB  $16, R5
	LSL  $3, R2, R6
	RORW R6, R3, R3
	VDUP R3, V2.S4
	VLD1 (R4), [V1.B16]
	VEOR V2.B16, V1.B16, V1.B16

	// Blocks of 64 bytes.
	SUBS $64, R2
	BLT  small

large:
	VLD1.P 64(R1), [V2.B16, V3.B16, V4.B16, V5.B16]
	VEOR   V0.B16, V2.B16, V2.B16
	VEOR   V0.B16, V3.B16, V3.B16
	VEOR   V0.B16, V4.B16, V4.B16
	VEOR   V0.B16, V5.B16, V5.B16
	VST1.P [V2.B16, V3.B16, V4.B16, V5.B16], 64(R0)
	SUBS   $64, R2
	BGE    large

	// Blocks of 16 bytes, while more than the last block is left.
small:
	ADDS $(64-16), R2
	BLE  last

next:
	VLD1.P 16(R1), [V2.B16]
	VEOR   V0.B16, V2.B16, V2.B16
	VST1.P [V2.B16], 16(R0)
	SUBS   $16, R2
	BGT    next

last:
	VST1 [V1.B16], (R5)
	RET

// The tables of the rules that two consecutive bytes may break, which simd_amd64.s explains: for the high half of the
// first byte, for its low half, and for the high half of the second byte.
DATA rules<>+0(SB)/8, $0x0202020202020202
DATA rules<>+8(SB)/8, $0x4915012180808080
DATA rules<>+16(SB)/8, $0xCBCBCB8B8383A3E7
DATA rules<>+24(SB)/8, $0xCBCBDBCBCBCBCBCB
DATA rules<>+32(SB)/8, $0x0101010101010101
DATA rules<>+40(SB)/8, $0x01010101BABAAEE6
GLOBL rules<>(SB), RODATA|NOPTR, $48

// func validVector(p *byte, n int) bool
// R0 is the next block, R5 the end of the blocks to check before chunk looks for ASCII again, and V23 collects the
// errors.
TEXT ·validVector(SB), NOSPLIT, $0-17
	MOVD p+0(FP), R0
	MOVD n+8(FP), R1
	ADD  R0, R1       // the end
	SUB  $16, R1, R2  // the last block
	SUB  $64, R1, R3  // the last chunk

	MOVD  $rules<>(SB), R4
	VLD1  (R4), [V16.B16, V17.B16, V18.B16]
	VMOVI $0x0F, V19.B16
	VMOVI $0xE0, V20.B16
	VMOVI $0xF0, V21.B16
	VMOVI $0x80, V22.B16
	VEOR  V23.B16, V23.B16, V23.B16         // the errors

	// V0 is a block; V1, V2 and V3 are the bytes one, two and three before. Zeros come before the first block.
	VLD1 (R0), [V0.B16]
	VEXT $15, V0.B16, V23.B16, V1.B16
	VEXT $14, V0.B16, V23.B16, V2.B16
	VEXT $13, V0.B16, V23.B16, V3.B16
	MOVD R0, R5
	B    lookup

	// Later blocks load the bytes before them from memory. FMOVQ, unlike VLD1, takes an offset.
block:
	FMOVQ (R0), F0
	FMOVQ -1(R0), F1
	FMOVQ -2(R0), F2
	FMOVQ -3(R0), F3

	// V1 becomes the rules that the pairs break. VTBL looks up the halves of 16 bytes at once.
lookup:
	VUSHR $4, V1.B16, V4.B16
	VTBL  V4.B16, [V16.B16], V4.B16
	VAND  V19.B16, V1.B16, V1.B16
	VTBL  V1.B16, [V17.B16], V1.B16
	VAND  V4.B16, V1.B16, V1.B16
	VUSHR $4, V0.B16, V0.B16
	VTBL  V0.B16, [V18.B16], V0.B16
	VAND  V0.B16, V1.B16, V1.B16

	// Two tails must end at a byte exactly if a start of three or four bytes is two before it, or a start of four is
	// three before it. A byte of at least E0 or F0 equals the maximum of both.
	VUMAX V20.B16, V2.B16, V4.B16
	VCMEQ V4.B16, V2.B16, V2.B16
	VUMAX V21.B16, V3.B16, V4.B16
	VCMEQ V4.B16, V3.B16, V3.B16
	VORR  V2.B16, V3.B16, V3.B16
	VAND  V22.B16, V3.B16, V3.B16
	VEOR  V3.B16, V1.B16, V1.B16
	VORR  V1.B16, V23.B16, V23.B16

	ADD $16, R0
	CMP R5, R0
	BLO block

	// A chunk of 64 bytes is skipped if it and the three bytes before it are ASCII.
chunk:
	VMOV  V23.D[0], R6
	VMOV  V23.D[1], R7
	ORR   R7, R6
	CBNZ  R6, done
	CMP   R3, R0
	BHI   tail
	VLD1  (R0), [V0.B16, V1.B16, V2.B16, V3.B16]
	FMOVQ -3(R0), F4
	VORR  V1.B16, V0.B16, V0.B16
	VORR  V3.B16, V2.B16, V2.B16
	VORR  V4.B16, V0.B16, V0.B16
	VORR  V2.B16, V0.B16, V0.B16
	VMOV  V0.D[0], R6
	VMOV  V0.D[1], R7
	ORR   R7, R6
	ADD   $64, R0, R5
	TST   $0x8080808080808080, R6
	BNE   block
	MOVD  R5, R0
	B     chunk

	// Blocks of 16 bytes. The last may overlap the one before it. R6 is 0 here.
tail:
	MOVD R2, R5
	CMP  R2, R0
	BLO  block
	CMP  R1, R0
	BEQ  done
	MOVD R2, R0
	B    block

done:
	CMP  $0, R6
	CSET EQ, R6
	MOVB R6, ret+16(FP)
	RET
