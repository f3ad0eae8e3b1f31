// SPDX-License-Identifier: Apache-2.0

// Classic BPF → eBPF, all but the packet loads: those depend on what a stub
// function is given, and are a reader's.

package filter

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

// Where things live while a filter runs. R0–R5 are free at every instruction
// of the classic program, except what a reader keeps in them.
const (
	regPacket = asm.R6 // where the frame starts
	regA      = asm.R7
	regX      = asm.R8
	regEnd    = asm.R9 // where it ends; a reader's own idea of it
)

// reader emits packet loads. off counts from the Ethernet header as if a VLAN
// tag the kernel took out, or a missing link header, were in the frame. The
// value goes to dst in host order; a load past the end rejects the packet.
type reader interface {
	// absolute loads from a constant offset; reach is how far the frame is
	// known to go, and the result how far it is known to go afterwards.
	absolute(a *assembler, dst asm.Register, off uint32, size int, reach int) int
	// indirect loads from X plus off.
	indirect(a *assembler, dst asm.Register, off uint32, size int)
	// length loads the frame's length on the wire.
	length(a *assembler, dst asm.Register)
	reject() label
}

// scratch gives the scratch registers a program uses stack slots below base.
type scratch struct {
	base int16
	slot map[int]int16
}

func newScratch(base int16, prog []bpf.Instruction) scratch {
	s := scratch{base, map[int]int16{}}
	for _, ins := range prog {
		n := -1
		switch ins := ins.(type) {
		case bpf.LoadScratch:
			n = ins.N
		case bpf.StoreScratch:
			n = ins.N
		}
		if _, ok := s.slot[n]; n >= 0 && !ok {
			s.slot[n] = base - 4*int16(len(s.slot)+1)
		}
	}
	return s
}

// clear sets them to 0, as classic BPF has them: the verifier insists.
func (s scratch) clear(a *assembler) {
	for _, at := range s.slot {
		a.emit(asm.StoreImm(asm.RFP, at, 0, asm.Word))
	}
}

var aluOps = map[bpf.ALUOp]asm.ALUOp{
	bpf.ALUOpAdd: asm.Add, bpf.ALUOpSub: asm.Sub, bpf.ALUOpMul: asm.Mul, bpf.ALUOpDiv: asm.Div, bpf.ALUOpMod: asm.Mod,
	bpf.ALUOpAnd: asm.And, bpf.ALUOpOr: asm.Or, bpf.ALUOpXor: asm.Xor, bpf.ALUOpShiftLeft: asm.LSh, bpf.ALUOpShiftRight: asm.RSh,
}

var jumpOps = map[bpf.JumpTest][2]asm.JumpOp{ // the test and its opposite
	bpf.JumpEqual: {asm.JEq, asm.JNE}, bpf.JumpNotEqual: {asm.JNE, asm.JEq},
	bpf.JumpGreaterThan: {asm.JGT, asm.JLE}, bpf.JumpLessOrEqual: {asm.JLE, asm.JGT},
	bpf.JumpGreaterOrEqual: {asm.JGE, asm.JLT}, bpf.JumpLessThan: {asm.JLT, asm.JGE},
}

// translate emits prog; it returns 1 for a match and jumps to the reader's
// reject otherwise.
func translate(a *assembler, prog []bpf.Instruction, r reader, s scratch) {
	at := make([]label, len(prog)+1)
	reach := make([]int, len(prog)+1)
	for i := range at {
		at[i], reach[i] = a.label(), -1
	}
	reach[0] = 0
	flow := func(to, n int) { // what is known on every way
		if reach[to] < 0 || n < reach[to] {
			reach[to] = n
		}
	}
	for i, ins := range prog {
		a.place(at[i])
		now := reach[i]
		if now < 0 {
			continue // no way leads here, which the verifier refuses
		}
		next := i + 1
		switch ins := ins.(type) {
		case bpf.LoadAbsolute:
			now = r.absolute(a, regA, ins.Off, ins.Size, now)
		case bpf.LoadMemShift:
			now = r.absolute(a, regX, ins.Off, 1, now)
			a.emit(asm.And.Imm32(regX, 0xf), asm.LSh.Imm32(regX, 2))
		case bpf.LoadIndirect:
			r.indirect(a, regA, ins.Off, ins.Size)
		case bpf.LoadExtension: // the length: filters use no other
			r.length(a, regA)
		case bpf.LoadConstant:
			a.constant(register(ins.Dst), ins.Val)
		case bpf.LoadScratch:
			a.emit(asm.LoadMem(register(ins.Dst), asm.RFP, s.slot[ins.N], asm.Word))
		case bpf.StoreScratch:
			a.emit(asm.StoreMem(asm.RFP, s.slot[ins.N], register(ins.Src), asm.Word))
		case bpf.TAX:
			a.emit(asm.Mov.Reg32(regX, regA))
		case bpf.TXA:
			a.emit(asm.Mov.Reg32(regA, regX))
		case bpf.ALUOpConstant:
			a.emit(aluOps[ins.Op].Imm32(regA, int32(ins.Val)))
		case bpf.ALUOpX:
			emitALU(a, ins.Op, r.reject())
		case bpf.Jump:
			next = i + 1 + int(ins.Skip)
			a.goTo(at[next])
		case bpf.JumpIf:
			yes, no := i+1+int(ins.SkipTrue), i+1+int(ins.SkipFalse)
			emitJump(a, ins.Cond, yes, no, i+1, at, func(op asm.JumpOp, to label) { a.when32(op, regA, ins.Val, to) })
			flow(yes, now)
			next = no
		case bpf.JumpIfX:
			yes, no := i+1+int(ins.SkipTrue), i+1+int(ins.SkipFalse)
			emitJump(a, ins.Cond, yes, no, i+1, at, func(op asm.JumpOp, to label) { a.when32Reg(op, regA, regX, to) })
			flow(yes, now)
			next = no
		case bpf.RetConstant:
			if ins.Val == 0 {
				a.goTo(r.reject())
			} else {
				a.ret(1)
			}
			continue
		}
		flow(next, now)
	}
}

func register(r bpf.Register) asm.Register {
	if r == bpf.RegX {
		return regX
	}
	return regA
}

// emitALU keeps two rules that eBPF has otherwise: division by zero rejects,
// and a shift by 32 or more leaves nothing.
func emitALU(a *assembler, op bpf.ALUOp, reject label) {
	switch op {
	case bpf.ALUOpDiv, bpf.ALUOpMod:
		a.when32(asm.JEq, regX, 0, reject)
	case bpf.ALUOpShiftLeft, bpf.ALUOpShiftRight:
		small := a.label()
		a.when32(asm.JLT, regX, 32, small)
		a.constant(regA, 0)
		a.place(small)
	}
	a.emit(aluOps[op].Reg32(regA, regX))
}

func emitJump(a *assembler, cond bpf.JumpTest, yes, no, next int, at []label, when func(asm.JumpOp, label)) {
	ops, ok := jumpOps[cond]
	switch {
	case !ok: // bits set: has no opposite
		when(asm.JSet, at[yes])
		if no != next {
			a.goTo(at[no])
		}
	case yes == next:
		when(ops[1], at[no])
	default:
		when(ops[0], at[yes])
		if no != next {
			a.goTo(at[no])
		}
	}
}
