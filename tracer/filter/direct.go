// SPDX-License-Identifier: Apache-2.0

// The fast reader of filter_tc: packet pointers, no helper call. A load that
// reaches past the linear bytes leaves for one shared place, which rejects a
// frame that ends there and starts the copying reader over on one that goes on
// in fragments.

package filter

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

// Offsets in struct __sk_buff (include/uapi/linux/bpf.h).
const (
	skbLen         = 0
	skbVLANPresent = 20
	skbVLANTCI     = 24 // host order
	skbVLANProto   = 28 // as on the wire
	skbData        = 76
	skbDataEnd     = 80
)

const (
	tagAt   = 12 // where a VLAN tag stands in a frame
	tagSize = 4

	// maxDirect bounds offsets from packet pointers: the verifier gives up at
	// 65535 and instructions hold 32767.
	maxDirect = 0x3fff
)

// directReader keeps struct __sk_buff in R1.
type directReader struct {
	tag        bool // the kernel holds a tag: what is behind it stands 4 earlier
	short      label
	slow       label
	rejectedAt label
}

func (d *directReader) reject() label { return d.rejectedAt }

func (d *directReader) length(a *assembler, dst asm.Register) {
	a.emit(asm.LoadMem(dst, asm.R1, skbLen, asm.Word))
	if d.tag {
		a.emit(asm.Add.Imm32(dst, tagSize))
	}
}

func (d *directReader) absolute(a *assembler, dst asm.Register, off uint32, size, reach int) int {
	o := int(off)
	if !d.tag || o+size <= tagAt {
		return d.at(a, dst, o, size, reach)
	}
	if o >= tagAt+tagSize {
		return d.at(a, dst, o-tagSize, size, reach)
	}
	// Some of it is the tag: put together byte by byte.
	if o >= tagAt && o+size <= tagAt+tagSize {
		d.tagBits(a, dst, o-tagAt, size)
		return reach
	}
	reach = d.check(a, max(tagAt, o+size-tagSize), reach)
	a.constant(asm.R4, 0)
	for i := range size {
		switch b := o + i; {
		case b < tagAt:
			a.emit(asm.LoadMem(asm.R5, regPacket, int16(b), asm.Byte))
		case b < tagAt+tagSize:
			d.tagBits(a, asm.R5, b-tagAt, 1)
		default:
			a.emit(asm.LoadMem(asm.R5, regPacket, int16(b-tagSize), asm.Byte))
		}
		a.emit(asm.LSh.Imm32(asm.R4, 8), asm.Or.Reg32(asm.R4, asm.R5))
	}
	a.emit(asm.Mov.Reg32(dst, asm.R4))
	return reach
}

// tagBits puts size bytes of the tag into dst: two of protocol, two of TCI.
func (d *directReader) tagBits(a *assembler, dst asm.Register, at, size int) {
	a.emit(asm.LoadMem(asm.R2, asm.R1, skbVLANProto, asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.LSh.Imm32(asm.R2, 16),
		asm.LoadMem(asm.R3, asm.R1, skbVLANTCI, asm.Word),
		asm.And.Imm32(asm.R3, 0xffff),
		asm.Or.Reg32(asm.R2, asm.R3),
		asm.RSh.Imm32(asm.R2, int32(8*(tagSize-at-size))))
	if size < 4 {
		a.emit(asm.And.Imm32(asm.R2, int32(1)<<(8*size)-1))
	}
	a.emit(asm.Mov.Reg32(dst, asm.R2))
}

func (d *directReader) at(a *assembler, dst asm.Register, off, size, reach int) int {
	reach = d.check(a, off+size, reach)
	a.emit(asm.LoadMem(dst, regPacket, int16(off), sizeOf(size)))
	a.bigEndian(dst, size)
	return reach
}

// check makes sure that end bytes can be read.
func (d *directReader) check(a *assembler, end, reach int) int {
	if end <= reach {
		return reach
	}
	a.emit(asm.Mov.Reg(asm.R2, regPacket), asm.Add.Imm(asm.R2, int32(end)))
	a.whenReg(asm.JGT, asm.R2, regEnd, d.short)
	return end
}

func (d *directReader) indirect(a *assembler, dst asm.Register, off uint32, size int) {
	a.when(asm.JGT, regX, maxDirect, d.slow)
	o := int(off)
	if d.tag {
		if o < tagAt+tagSize { // may lie before or in the tag
			a.when(asm.JLT, regX, int32(tagAt+tagSize-o), d.slow)
		}
		o -= tagSize
	}
	a.emit(asm.Mov.Reg(asm.R2, regPacket), asm.Mov.Reg32(asm.R3, regX))
	if o < 0 { // X is large enough, but the verifier counts from the pointer
		a.emit(asm.Sub.Imm(asm.R3, int32(-o)))
		o = 0
	}
	a.emit(asm.Add.Reg(asm.R2, asm.R3), asm.Mov.Reg(asm.R4, asm.R2), asm.Add.Imm(asm.R4, int32(o+size)))
	a.whenReg(asm.JGT, asm.R4, regEnd, d.short)
	a.emit(asm.LoadMem(dst, asm.R2, int16(o), sizeOf(size)))
	a.bigEndian(dst, size)
}

// suitsDirect reports whether every offset is in the reach of packet pointers.
func suitsDirect(prog []bpf.Instruction) bool {
	for _, ins := range prog {
		var off uint32
		switch ins := ins.(type) {
		case bpf.LoadAbsolute:
			off = ins.Off
		case bpf.LoadIndirect:
			off = ins.Off
		case bpf.LoadMemShift:
			off = ins.Off
		}
		if off > maxDirect {
			return false
		}
	}
	return true
}
