//go:build !purego && !race

#include "textflag.h"

// Masking and UTF-8 validation with AVX2: 32 bytes in a register. Both functions are leaves without a frame. They read
// exactly the bytes they are given: the last register overlaps the one before it, instead of ending beyond the slice.

// func hasVectors() bool
TEXT ·hasVectors(SB), NOSPLIT, $0-1
	MOVB $0, ret+0(FP)

	// Leaf 7, which reports AVX2, must exist.
	XORL AX, AX
	CPUID
	CMPL AX, $7
	JLT  done

	// Leaf 1, ECX: the CPU has AVX (bit 28), and the operating system uses XSAVE (bit 27).
	MOVL $1, AX
	XORL CX, CX
	CPUID
	ANDL $0x18000000, CX
	CMPL CX, $0x18000000
	JNE  done

	// XCR0: the operating system saves the halves of the Y registers (bits 1 and 2).
	XORL CX, CX
	XGETBV
	ANDL $6, AX
	CMPL AX, $6
	JNE  done

	// Leaf 7, EBX: the CPU has AVX2 (bit 5).
	MOVL  $7, AX
	XORL  CX, CX
	CPUID
	TESTL $0x20, BX
	SETNE ret+0(FP)

done:
	RET

// func maskVector(dst, src *byte, n int, key uint32)
// DI and SI are the next bytes of dst and src, and DX is the number of bytes left, minus a constant that makes the test
// of each loop a comparison with 0.
TEXT ·maskVector(SB), NOSPLIT, $0-28
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), DX
	MOVL key+24(FP), AX

	// Y0 is the key, repeated.
	VMOVD        AX, X0
	VPBROADCASTD X0, Y0

	// Y1 is the last 32 bytes, masked. They may overlap the block before them and dst may be src, so they are computed
	// first and stored last, at R8. The key is rotated by n-32 bytes, which is n modulo 4.
	LEAQ         -32(DI)(DX*1), R8
	MOVL         DX, CX
	SHLL         $3, CX
	RORL         CX, AX
	VMOVD        AX, X1
	VPBROADCASTD X1, Y1
	VPXOR        -32(SI)(DX*1), Y1, Y1

	// Blocks of 128 bytes, in four independent registers.
	SUBQ $128, DX
	JLT  small

large:
	VPXOR   (SI), Y0, Y2
	VPXOR   32(SI), Y0, Y3
	VPXOR   64(SI), Y0, Y4
	VPXOR   96(SI), Y0, Y5
	VMOVDQU Y2, (DI)
	VMOVDQU Y3, 32(DI)
	VMOVDQU Y4, 64(DI)
	VMOVDQU Y5, 96(DI)
	ADDQ    $128, SI
	ADDQ    $128, DI
	SUBQ    $128, DX
	JGE     large

	// Blocks of 32 bytes, while more than the last block is left.
small:
	ADDQ $(128-32), DX
	JLE  last

next:
	VPXOR   (SI), Y0, Y2
	VMOVDQU Y2, (DI)
	ADDQ    $32, SI
	ADDQ    $32, DI
	SUBQ    $32, DX
	JGT     next

last:
	VMOVDQU Y1, (R8)
	VZEROUPPER
	RET

// validVector uses the lookup method of John Keiser and Daniel Lemire ("Validating UTF-8 In Less Than One Instruction Per
// Byte", 2020). Each bit below is a rule that two consecutive bytes may break. They break it if all three tables have the
// bit: at the high half of the first byte, at its low half, and at the high half of the second byte.
//
//	01  a character is too short          11...... 0.......  and  11...... 11......
//	02  a tail without a start            0....... 10......
//	04  overlong, three bytes             11100000 100.....
//	08  beyond U+10FFFF                   11110100 1001....  and  11110100 101.....  and from 11110101 on
//	10  surrogate                         11101101 101.....
//	20  overlong, two bytes               1100000. 10......
//	40  overlong, four bytes              11110000 1000....  or beyond U+10FFFF, from 11110101 1000.... on
//	80  two tails: the character must have at least three bytes
DATA firstHigh<>+0(SB)/8, $0x0202020202020202
DATA firstHigh<>+8(SB)/8, $0x4915012180808080
GLOBL firstHigh<>(SB), RODATA|NOPTR, $16
DATA firstLow<>+0(SB)/8, $0xCBCBCB8B8383A3E7
DATA firstLow<>+8(SB)/8, $0xCBCBDBCBCBCBCBCB
GLOBL firstLow<>(SB), RODATA|NOPTR, $16
DATA secondHigh<>+0(SB)/8, $0x0101010101010101
DATA secondHigh<>+8(SB)/8, $0x01010101BABAAEE6
GLOBL secondHigh<>(SB), RODATA|NOPTR, $16

// Constants, one for each byte of a word.
DATA bytes<>+0(SB)/4, $0x0F0F0F0F
DATA bytes<>+4(SB)/4, $0x60606060
DATA bytes<>+8(SB)/4, $0x70707070
DATA bytes<>+12(SB)/4, $0x80808080
GLOBL bytes<>(SB), RODATA|NOPTR, $16

// func validVector(p *byte, n int) bool
// SI is the next block, DX the end of the blocks to check before chunk looks for ASCII again, and Y15 collects the
// errors, so that a valid text has no branch for each block.
TEXT ·validVector(SB), NOSPLIT, $0-17
	MOVQ p+0(FP), SI
	MOVQ n+8(FP), BX
	ADDQ SI, BX          // the end
	LEAQ -32(BX), R8     // the last block
	LEAQ -128(BX), R9    // the last chunk

	VBROADCASTI128 firstHigh<>(SB), Y8
	VBROADCASTI128 firstLow<>(SB), Y9
	VBROADCASTI128 secondHigh<>(SB), Y10
	VPBROADCASTD   bytes<>+0(SB), Y11
	VPBROADCASTD   bytes<>+4(SB), Y12
	VPBROADCASTD   bytes<>+8(SB), Y13
	VPBROADCASTD   bytes<>+12(SB), Y14
	VPXOR          Y15, Y15, Y15         // the errors

	// Y0 is a block; Y1, Y2 and Y3 are the bytes one, two and three before. Zeros come before the first block.
	VMOVDQU    (SI), Y0
	VPERM2I128 $0x08, Y0, Y0, Y4
	VPALIGNR   $15, Y4, Y0, Y1
	VPALIGNR   $14, Y4, Y0, Y2
	VPALIGNR   $13, Y4, Y0, Y3
	MOVQ       SI, DX
	JMP        lookup

	// Later blocks load the bytes before them from memory, and shift nothing from the block before.
block:
	VMOVDQU (SI), Y0
	VMOVDQU -1(SI), Y1
	VMOVDQU -2(SI), Y2
	VMOVDQU -3(SI), Y3

	// Y1 becomes the rules that the pairs break. VPSHUFB looks up the halves of 32 bytes at once.
lookup:
	VPSRLW  $4, Y1, Y4
	VPAND   Y11, Y4, Y4
	VPSHUFB Y4, Y8, Y4
	VPAND   Y11, Y1, Y1
	VPSHUFB Y1, Y9, Y1
	VPAND   Y4, Y1, Y1
	VPSRLW  $4, Y0, Y0
	VPAND   Y11, Y0, Y0
	VPSHUFB Y0, Y10, Y0
	VPAND   Y0, Y1, Y1

	// Two tails must end at a byte exactly if a start of three or four bytes is two before it, or a start of four is
	// three before it. Subtracting 60 or 70 with saturation leaves bit 80 set only in a byte of at least E0 or F0.
	VPSUBUSB Y12, Y2, Y2
	VPSUBUSB Y13, Y3, Y3
	VPOR     Y2, Y3, Y3
	VPAND    Y14, Y3, Y3
	VPXOR    Y3, Y1, Y1
	VPOR     Y1, Y15, Y15

	ADDQ $32, SI
	CMPQ SI, DX
	JLO  block

	// A chunk of 128 bytes is skipped if it and the three bytes before it are ASCII.
chunk:
	VPTEST  Y15, Y15
	JNZ     done
	CMPQ    SI, R9
	JHI     tail
	VMOVDQU (SI), Y0
	VPOR    32(SI), Y0, Y0
	VMOVDQU 64(SI), Y1
	VPOR    96(SI), Y1, Y1
	VPOR    -3(SI), Y0, Y0
	VPOR    Y1, Y0, Y0
	LEAQ    128(SI), DX
	VPTEST  Y14, Y0
	JNZ     block
	MOVQ    DX, SI
	JMP     chunk

	// Blocks of 32 bytes. The last may overlap the one before it.
tail:
	MOVQ R8, DX
	CMPQ SI, R8
	JLO  block
	CMPQ SI, BX
	JEQ  done
	MOVQ R8, SI
	JMP  block

done:
	VPTEST Y15, Y15
	SETEQ  ret+16(FP)
	VZEROUPPER
	RET
