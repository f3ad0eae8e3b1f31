// SPDX-License-Identifier: Apache-2.0

// The bodies of the stub functions: what each is given, brought into the form
// its reader wants.

package filter

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

const (
	minFrame = 14 // the Ethernet header: no frame at TC is shorter

	// Bits of filter_l2's vlan argument, above the 16 of the TCI.
	vlanPresent = 1 << 16
	vlan8021ad  = 1 << 17
)

// tcBody is int filter_tc(struct __sk_buff *skb). Without direct all is read
// with helper calls, as it is where offsets are too large for anything else.
func tcBody(prog []bpf.Instruction, direct bool) ([]asm.Instruction, error) {
	a := &assembler{}
	reject, slow, short, tagged := a.label(), a.label(), a.label(), a.label()
	c := newCopyReader(prog, fetchSKB, reject)
	s := newScratch(c.bottom(), prog)
	s.clear(a)
	if direct {
		if readsPacket(prog) {
			a.emit(asm.LoadMem(asm.R2, asm.R1, skbVLANPresent, asm.Word))
			a.emit(asm.LoadMem(regPacket, asm.R1, skbData, asm.Word), asm.LoadMem(regEnd, asm.R1, skbDataEnd, asm.Word))
			a.when(asm.JNE, asm.R2, 0, tagged)
		}
		translate(a, prog, &directReader{false, short, slow, reject}, s)
		if a.isUsed(tagged) {
			a.place(tagged)
			translate(a, prog, &directReader{true, short, slow, reject}, s)
		}
		if a.isUsed(short) {
			a.place(short)
			a.emit(asm.Mov.Reg(asm.R2, regEnd), asm.Sub.Reg(asm.R2, regPacket),
				asm.LoadMem(asm.R3, asm.R1, skbLen, asm.Word))
			a.whenReg(asm.JGE, asm.R2, asm.R3, reject)
		}
	} else {
		a.goTo(slow)
	}
	if a.isUsed(short) || a.isUsed(slow) {
		a.place(slow)
		c.startSKB(a)
		s.clear(a)
		translate(a, prog, c, s)
	}
	if a.isUsed(reject) {
		a.place(reject)
		a.ret(0)
	}
	return a.resolve()
}

func readsPacket(prog []bpf.Instruction) bool {
	for _, ins := range prog {
		switch ins.(type) {
		case bpf.LoadAbsolute, bpf.LoadIndirect, bpf.LoadMemShift, bpf.LoadExtension:
			return true
		}
	}
	return false
}

// startSKB expects struct __sk_buff in R1.
func (c *copyReader) startSKB(a *assembler) {
	plain, body := a.label(), a.label()
	a.emit(asm.Mov.Reg(regPacket, asm.R1), asm.LoadMem(regEnd, asm.R1, skbLen, asm.Word))
	a.when(asm.JLT, regEnd, minFrame, c.rejectedAt)
	c.clear(a)
	a.emit(asm.StoreMem(asm.RFP, stackLength, regEnd, asm.DWord),
		asm.LoadMem(asm.R2, regPacket, skbVLANPresent, asm.Word))
	a.when(asm.JEq, asm.R2, 0, plain)
	c.fill(a, 0, 0, tagAt)
	c.fill(a, tagAt+tagSize, tagAt, c.prefix-tagAt-tagSize)
	a.emit(asm.LoadMem(asm.R1, regPacket, skbVLANProto, asm.Word),
		asm.StoreMem(asm.RFP, c.at(tagAt), asm.R1, asm.Half),
		asm.LoadMem(asm.R1, regPacket, skbVLANTCI, asm.Word),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, c.at(tagAt+2), asm.R1, asm.Half),
		asm.Mov.Imm(asm.R1, tagSize),
		asm.StoreMem(asm.RFP, stackShift, asm.R1, asm.DWord),
		asm.Add.Imm(regEnd, tagSize),
		asm.StoreMem(asm.RFP, stackLength, regEnd, asm.DWord))
	a.goTo(body)
	a.place(plain)
	c.fill(a, 0, 0, c.prefix)
	a.place(body)
}

// l2Body is int filter_l2(u64 data, u32 linear, u32 wire_len, u32 vlan).
func l2Body(prog []bpf.Instruction) ([]asm.Instruction, error) {
	a := &assembler{}
	if !readsPacket(prog) {
		return constantBody(a, prog)
	}
	c := newCopyReader(prog, fetchKernel, a.label())
	s := newScratch(c.bottom(), prog)
	plain, short, body := a.label(), a.label(), a.label()
	a.emit(asm.Mov.Reg(regPacket, asm.R1), asm.Mov.Reg32(regEnd, asm.R2), // 32-bit arguments: the upper half is nobody's
		asm.Mov.Reg32(regA, asm.R3), asm.Mov.Reg32(regX, asm.R4))
	c.clear(a)
	s.clear(a)
	a.when32(asm.JSet, regX, vlanPresent, short)
	a.goTo(plain)
	a.place(short)
	a.emit(asm.Add.Imm(regA, tagSize))
	// A tag in a frame that is cut before it cannot be placed.
	a.when(asm.JLT, regEnd, tagAt, plain)
	c.fill(a, 0, 0, tagAt)
	c.fill(a, tagAt+tagSize, tagAt, c.prefix-tagAt-tagSize)
	is8021q := a.label()
	a.constant(asm.R1, 0x8100)
	proto := a.label()
	a.when32(asm.JSet, regX, vlan8021ad, proto)
	a.goTo(is8021q)
	a.place(proto)
	a.constant(asm.R1, 0x88a8)
	a.place(is8021q)
	a.emit(asm.HostTo(asm.BE, asm.R1, asm.Half), asm.StoreMem(asm.RFP, c.at(tagAt), asm.R1, asm.Half),
		asm.HostTo(asm.BE, regX, asm.Half), asm.StoreMem(asm.RFP, c.at(tagAt+2), regX, asm.Half),
		asm.Add.Imm(regEnd, tagSize), asm.Sub.Imm(regPacket, tagSize))
	a.goTo(body)
	a.place(plain)
	c.fill(a, 0, 0, c.prefix)
	a.place(body)
	a.emit(asm.StoreMem(asm.RFP, stackLength, regA, asm.DWord))
	translate(a, prog, c, s)
	if a.isUsed(c.rejectedAt) {
		a.place(c.rejectedAt)
		a.ret(0)
	}
	return a.resolve()
}

// l3Body is int filter_l3(u64 data, u32 linear, u32 wire_len, u32 l3_proto).
// The missing Ethernet header is made up around the EtherType, and its 14
// bytes are counted, so that offsets and lengths mean what they mean in
// filter_l2; prog reads no link address.
func l3Body(prog []bpf.Instruction) ([]asm.Instruction, error) {
	a := &assembler{}
	if !readsPacket(prog) {
		return constantBody(a, prog)
	}
	c := newCopyReader(prog, fetchKernel, a.label())
	s := newScratch(c.bottom(), prog)
	a.emit(asm.Mov.Reg(regPacket, asm.R1), asm.Mov.Reg32(regEnd, asm.R2),
		asm.Mov.Reg32(regA, asm.R3), asm.Mov.Reg32(regX, asm.R4))
	c.clear(a)
	s.clear(a)
	c.fill(a, minFrame, 0, c.prefix-minFrame)
	a.emit(asm.HostTo(asm.BE, regX, asm.Half), asm.StoreMem(asm.RFP, c.at(tagAt), regX, asm.Half),
		asm.Add.Imm(regEnd, minFrame), asm.Sub.Imm(regPacket, minFrame),
		asm.Add.Imm(regA, minFrame), asm.StoreMem(asm.RFP, stackLength, regA, asm.DWord))
	translate(a, prog, c, s)
	if a.isUsed(c.rejectedAt) {
		a.place(c.rejectedAt)
		a.ret(0)
	}
	return a.resolve()
}

// constantBody is a filter that looks at nothing: all packets, or none.
func constantBody(a *assembler, prog []bpf.Instruction) ([]asm.Instruction, error) {
	last := prog[len(prog)-1].(bpf.RetConstant)
	a.ret(int32(min(last.Val, 1)))
	return a.resolve()
}
