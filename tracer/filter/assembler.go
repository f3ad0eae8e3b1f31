// SPDX-License-Identifier: Apache-2.0

// A small eBPF assembler: instructions with forward labels, resolved to
// offsets here. Symbolic labels would look like further functions to whoever
// searches the finished program for one.

package filter

import (
	"fmt"
	"math"

	"github.com/cilium/ebpf/asm"
)

type label int

type assembler struct {
	code   []asm.Instruction
	places []int // by label; -1 not placed
	jumps  []struct {
		at int
		to label
	}
	used map[label]bool
}

func (a *assembler) label() label {
	a.places = append(a.places, -1)
	return label(len(a.places) - 1)
}

func (a *assembler) place(l label) { a.places[l] = len(a.code) }

func (a *assembler) isUsed(l label) bool { return a.used[l] }

func (a *assembler) emit(ins ...asm.Instruction) { a.code = append(a.code, ins...) }

func (a *assembler) jump(ins asm.Instruction, to label) {
	if a.used == nil {
		a.used = map[label]bool{}
	}
	a.used[to] = true
	a.jumps = append(a.jumps, struct {
		at int
		to label
	}{len(a.code), to})
	a.emit(ins)
}

func (a *assembler) goTo(to label) {
	a.jump(asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Ja)}, to)
}

// when compares 64 bits with an immediate, which the kernel sign-extends.
func (a *assembler) when(op asm.JumpOp, r asm.Register, imm int32, to label) {
	a.jump(asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(op).SetSource(asm.ImmSource), Dst: r, Constant: int64(imm)}, to)
}

func (a *assembler) whenReg(op asm.JumpOp, r, s asm.Register, to label) {
	a.jump(asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(op).SetSource(asm.RegSource), Dst: r, Src: s}, to)
}

// when32 compares the lower 32 bits.
func (a *assembler) when32(op asm.JumpOp, r asm.Register, imm uint32, to label) {
	a.jump(asm.Instruction{OpCode: asm.OpCode(asm.Jump32Class).SetJumpOp(op).SetSource(asm.ImmSource), Dst: r, Constant: int64(int32(imm))}, to)
}

func (a *assembler) when32Reg(op asm.JumpOp, r, s asm.Register, to label) {
	a.jump(asm.Instruction{OpCode: asm.OpCode(asm.Jump32Class).SetJumpOp(op).SetSource(asm.RegSource), Dst: r, Src: s}, to)
}

// constant sets all 64 bits of r to the unsigned v.
func (a *assembler) constant(r asm.Register, v uint32) { a.emit(asm.Mov.Imm32(r, int32(v))) }

// zero clears eight bytes of stack.
func (a *assembler) zero(at int16) {
	op := asm.OpCode(asm.StClass).SetMode(asm.MemMode).SetSize(asm.DWord)
	a.emit(asm.Instruction{OpCode: op, Dst: asm.RFP, Offset: at})
}

func (a *assembler) ret(v int32) { a.emit(asm.Mov.Imm32(asm.R0, v), asm.Return()) }

func (a *assembler) resolve() ([]asm.Instruction, error) {
	for _, j := range a.jumps {
		off := a.places[j.to] - j.at - 1
		if a.places[j.to] < 0 || off > math.MaxInt16 {
			return nil, fmt.Errorf("filter: a jump over %d instructions does not fit: use fewer tests", off)
		}
		a.code[j.at].Offset = int16(off)
	}
	return a.code, nil
}

func sizeOf(n int) asm.Size {
	switch n {
	case 1:
		return asm.Byte
	case 2:
		return asm.Half
	}
	return asm.Word
}

// bigEndian turns a value as loaded into the one the network means.
func (a *assembler) bigEndian(r asm.Register, size int) {
	if size > 1 {
		a.emit(asm.HostTo(asm.BE, r, sizeOf(size)))
	}
}
