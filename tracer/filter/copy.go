// SPDX-License-Identifier: Apache-2.0

// The copying reader: the first bytes of the frame are copied to the stack
// once, with a VLAN tag or the EtherType put where it belongs, and tests read
// them there. What lies further on is fetched by a helper call each.

package filter

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

// Stack, from the frame pointer down: the wire length, the shift, a value
// being fetched, then the copied bytes, then scratch registers. With all
// scratch registers in use that is 184 bytes, so that a caller may have 256.
const (
	stackLength = -8
	stackShift  = -16
	stackValue  = -24

	maxPrefix = 94
	// The verifier wants stack loads aligned. Two bytes of padding put the
	// network header, 14 bytes into the frame, on a multiple of four.
	padding = 2
)

// fetcher is the helper that reads further bytes.
type fetcher uint8

const (
	fetchKernel fetcher = iota // regPacket is a kernel address
	fetchSKB                   // regPacket is struct __sk_buff
)

type copyReader struct {
	fetch      fetcher
	prefix     int // bytes on the stack
	rejectedAt label
}

// newCopyReader copies as much as prog's constant offsets need.
func newCopyReader(prog []bpf.Instruction, f fetcher, reject label) *copyReader {
	need := tagAt + tagSize + 2
	for _, ins := range prog {
		switch ins := ins.(type) {
		case bpf.LoadAbsolute:
			if end := int(ins.Off) + ins.Size; end <= maxPrefix {
				need = max(need, end)
			}
		case bpf.LoadIndirect:
			need = maxPrefix
		}
	}
	need += (8 - (need+padding)%8) % 8
	return &copyReader{f, need, reject}
}

// bottom is the lowest stack offset the copied bytes take.
func (c *copyReader) bottom() int16 { return stackValue - int16(c.prefix+padding) }

// at is the stack offset of a byte of the frame.
func (c *copyReader) at(off int) int16 { return c.bottom() + padding + int16(off) }

func (c *copyReader) reject() label { return c.rejectedAt }

func (c *copyReader) length(a *assembler, dst asm.Register) {
	a.emit(asm.LoadMem(dst, asm.RFP, stackLength, asm.Word))
}

func (c *copyReader) absolute(a *assembler, dst asm.Register, off uint32, size, reach int) int {
	end := int64(off) + int64(size)
	if end > int64(reach) {
		if end > 1<<30 { // no frame is that long
			a.goToAlways(c.rejectedAt)
		} else {
			a.when(asm.JLT, regEnd, int32(end), c.rejectedAt)
			reach = int(end)
		}
	}
	if end > int64(c.prefix) {
		a.constant(asm.R1, off)
		c.fetchTo(a, dst, size)
		return reach
	}
	o := int(off)
	if (o+padding)%size == 0 {
		a.emit(asm.LoadMem(dst, asm.RFP, c.at(o), sizeOf(size)))
		a.bigEndian(dst, size)
		return reach
	}
	bytewise(a, dst, asm.RFP, c.at(o), size)
	return reach
}

func bytewise(a *assembler, dst, base asm.Register, off int16, size int) {
	for i := range size {
		if i == 0 {
			a.emit(asm.LoadMem(asm.R4, base, off, asm.Byte))
			continue
		}
		a.emit(asm.LoadMem(asm.R5, base, off+int16(i), asm.Byte),
			asm.LSh.Imm32(asm.R4, 8), asm.Or.Reg32(asm.R4, asm.R5))
	}
	a.emit(asm.Mov.Reg32(dst, asm.R4))
}

func (c *copyReader) indirect(a *assembler, dst asm.Register, off uint32, size int) {
	if off > 1<<30 {
		a.goToAlways(c.rejectedAt)
		off = 0
	}
	far, done := a.label(), a.label()
	// Two separate sums: the 6.12 verifier loses the bounds of a register when
	// a copy of it plus a constant is compared.
	a.emit(asm.Mov.Imm(asm.R1, int32(off)), asm.Add.Reg(asm.R1, regX),
		asm.Mov.Imm(asm.R2, int32(off)+int32(size)), asm.Add.Reg(asm.R2, regX))
	a.whenReg(asm.JGT, asm.R2, regEnd, c.rejectedAt)
	a.when(asm.JGT, asm.R1, int32(c.prefix-size), far)
	a.emit(asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Reg(asm.R2, asm.R1))
	bytewise(a, dst, asm.R2, c.at(0), size)
	a.goTo(done)
	a.place(far)
	c.fetchTo(a, dst, size)
	a.place(done)
}

// goToAlways jumps to l in a way that leaves what follows reachable on paper:
// the verifier refuses instructions that no jump leads to.
func (a *assembler) goToAlways(l label) { a.when(asm.JGE, regEnd, 0, l) }

// fetchTo reads size bytes at offset R1, behind the prefix, into dst.
func (c *copyReader) fetchTo(a *assembler, dst asm.Register, size int) {
	if c.fetch == fetchKernel {
		a.emit(asm.Mov.Reg(asm.R3, regPacket), asm.Add.Reg(asm.R3, asm.R1),
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, stackValue),
			asm.Mov.Imm(asm.R2, int32(size)), asm.FnProbeReadKernel.Call())
	} else {
		a.emit(asm.Mov.Reg(asm.R2, asm.R1),
			asm.LoadMem(asm.R1, asm.RFP, stackShift, asm.DWord), asm.Sub.Reg(asm.R2, asm.R1),
			asm.Mov.Reg(asm.R1, regPacket),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, stackValue),
			asm.Mov.Imm(asm.R4, int32(size)), asm.FnSkbLoadBytes.Call())
	}
	a.when(asm.JNE, asm.R0, 0, c.rejectedAt)
	a.emit(asm.LoadMem(dst, asm.RFP, stackValue, sizeOf(size)))
	a.bigEndian(dst, size)
}

// clear zeroes the copied bytes: a helper that may fill only some of them
// wants all of them initialised.
func (c *copyReader) clear(a *assembler) {
	a.zero(stackValue)
	a.zero(stackShift)
	for at := c.bottom(); at < stackValue; at += 8 {
		a.zero(at)
	}
}

// fill copies up to room bytes, of the regEnd-from there are, from offset from
// of the packet to byte to of the frame. Uses R0–R5.
func (c *copyReader) fill(a *assembler, to, from, room int) {
	size := asm.R2
	if c.fetch == fetchSKB {
		size = asm.R4
	}
	fits := a.label()
	a.emit(asm.Mov.Reg(size, regEnd))
	if from > 0 {
		a.emit(asm.Sub.Imm(size, int32(from)))
	}
	a.when(asm.JLE, size, int32(room), fits)
	a.emit(asm.Mov.Imm(size, int32(room)))
	a.place(fits)
	if c.fetch == fetchKernel {
		a.emit(asm.Mov.Reg(asm.R3, regPacket), asm.Add.Imm(asm.R3, int32(from)),
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, int32(c.at(to))), asm.FnProbeReadKernel.Call())
	} else {
		a.emit(asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Imm(asm.R2, int32(from)),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, int32(c.at(to))), asm.FnSkbLoadBytes.Call())
	}
	a.when(asm.JNE, asm.R0, 0, c.rejectedAt)
}
