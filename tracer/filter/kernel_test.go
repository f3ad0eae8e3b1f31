// SPDX-License-Identifier: Apache-2.0

// Running a filter in the kernel: programs that call the stubs, as the
// tracer's do, loaded and driven by BPF_PROG_TEST_RUN.

package filter

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

var (
	btfU64   = &btf.Int{Name: "unsigned long long", Size: 8}
	btfU32   = &btf.Int{Name: "unsigned int", Size: 4}
	btfInt   = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	btfSKB   = &btf.Pointer{Target: &btf.Struct{Name: "__sk_buff", Size: 4, Members: []btf.Member{{Name: "len", Type: btfU32}}}}
	forStubs = func(names [4]string) []btf.FuncParam {
		return []btf.FuncParam{{Name: names[0], Type: btfU64}, {Name: names[1], Type: btfU32}, {Name: names[2], Type: btfU32}, {Name: names[3], Type: btfU32}}
	}
)

func function(name string, params []btf.FuncParam, body ...asm.Instruction) asm.Instructions {
	fn := &btf.Func{Name: name, Type: &btf.FuncProto{Return: btfInt, Params: params}, Linkage: btf.GlobalFunc}
	body[0] = btf.WithFuncMetadata(body[0].WithSymbol(name), fn)
	return body
}

// stub is what a compiler leaves of a stub function.
func stub(name string, params []btf.FuncParam) asm.Instructions {
	return function(name, params, asm.Mov.Imm(asm.R0, 0), asm.Return())
}

func call(name string) asm.Instruction {
	return asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoCall, Constant: -1}.WithReference(name)
}

const bufferSize = 4096

// callers is one program per stub, and one that takes a VLAN tag from skb->mark
// and pushes it into the metadata first.
func callers() *ebpf.CollectionSpec {
	skb := []btf.FuncParam{{Name: "skb", Type: btfSKB}}
	l2 := forStubs([4]string{"data", "linear", "wire_len", "vlan"})
	l3 := forStubs([4]string{"data", "linear", "wire_len", "l3_proto"})
	prog := func(name string, main, fn asm.Instructions) *ebpf.ProgramSpec {
		return &ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, License: "GPL", Instructions: append(main, fn...)}
	}
	const skbMark, skbCB = 8, 48
	// restored writes the EtherType in cb[2] into the frame: the kernel does
	// not take cut IPv4 and IPv6 headers that are called so. Keeps R6.
	restored := func() []asm.Instruction {
		return []asm.Instruction{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R2, asm.R6, skbCB+8, asm.Word),
			asm.JEq.Imm(asm.R2, 0, "whole"),
			asm.HostTo(asm.BE, asm.R2, asm.Half),
			asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
			asm.Mov.Imm(asm.R2, 12), asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 2), asm.Mov.Imm(asm.R5, 0),
			asm.FnSkbStoreBytes.Call(),
			asm.JNE.Imm(asm.R0, 0, "fail"),
			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("whole"),
		}
	}
	// copied leaves the address of the frame in the map in R7, as a number, its
	// length there (cb[1]) in R8 and that on the wire (cb[0]) in R9.
	copied := func() []asm.Instruction {
		return []asm.Instruction{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, 0).WithReference("buffer"),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "fail"),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.StoreMem(asm.R7, bufferSize-8, asm.R7, asm.DWord),
			asm.LoadMem(asm.R7, asm.R7, bufferSize-8, asm.DWord),
			asm.LoadMem(asm.R8, asm.R6, skbCB+4, asm.Word),
			asm.LoadMem(asm.R9, asm.R6, skbCB, asm.Word),
		}
	}
	verdict := []asm.Instruction{
		asm.JEq.Imm(asm.R0, 0, "out"), asm.Mov.Imm(asm.R0, 1), asm.Return().WithSymbol("out"),
		asm.Mov.Imm(asm.R0, 99).WithSymbol("fail"), asm.Return(),
	}
	join := func(parts ...[]asm.Instruction) (out []asm.Instruction) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	mainTC := function("main_tc", skb, join(restored(), []asm.Instruction{call("filter_tc")}, verdict)...)
	mainPush := function("main_push", skb, join(restored(), []asm.Instruction{
		asm.LoadMem(asm.R3, asm.R1, skbMark, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R3), asm.RSh.Imm(asm.R2, 16), asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.And.Imm(asm.R3, 0xffff),
		asm.FnSkbVlanPush.Call(),
		asm.JNE.Imm(asm.R0, 0, "fail"),
		asm.Mov.Reg(asm.R1, asm.R6),
		call("filter_tc"),
	}, verdict)...)
	mainL2 := function("main_l2", skb, join(copied(), []asm.Instruction{
		asm.Mov.Reg(asm.R1, asm.R7), asm.Mov.Reg(asm.R2, asm.R8), asm.Mov.Reg(asm.R3, asm.R9),
		asm.LoadMem(asm.R4, asm.R6, skbMark, asm.Word),
		call("filter_l2"),
	}, verdict)...)
	mainL3 := function("main_l3", skb, join(copied(), []asm.Instruction{
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, 14),
		asm.Mov.Reg(asm.R2, asm.R8), asm.Sub.Imm(asm.R2, 14),
		asm.Mov.Reg(asm.R3, asm.R9), asm.Sub.Imm(asm.R3, 14),
		asm.LoadMem(asm.R4, asm.R6, skbMark, asm.Word),
		call("filter_l3"),
	}, verdict)...)
	return &ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{"buffer": {Name: "buffer", Type: ebpf.Array, KeySize: 4, ValueSize: bufferSize, MaxEntries: 1}},
		Programs: map[string]*ebpf.ProgramSpec{
			"main_tc":   prog("main_tc", mainTC, stub("filter_tc", skb)),
			"main_push": prog("main_push", mainPush, stub("filter_tc", skb)),
			"main_l2":   prog("main_l2", mainL2, stub("filter_l2", l2)),
			"main_l3":   prog("main_l3", mainL3, stub("filter_l3", l3)),
		},
	}
}

func loadFilter(t testing.TB, f *Filter) *ebpf.Collection {
	t.Helper()
	spec := callers()
	if err := f.Splice(spec); err != nil {
		t.Fatal(err)
	}
	return loadSpec(t, f, spec)
}

func loadSpec(t testing.TB, f *Filter, spec *ebpf.CollectionSpec) *ebpf.Collection {
	t.Helper()
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			t.Fatalf("%q: %+v", f, ve)
		}
		t.Fatalf("%q: %v", f, err)
	}
	t.Cleanup(coll.Close)
	return coll
}

// runnable skips, loudly, where the kernel takes no programs from us.
func runnable(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	unavailable(t, "loading BPF programs needs root")
}

func unavailable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("WAYMARK_CI") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// skbContext is struct __sk_buff as BPF_PROG_TEST_RUN takes it.
type skbContext struct {
	Len, PktType, Mark, QueueMapping uint32
	Protocol, VLANPresent, VLANTCI   uint32
	VLANProto, Priority              uint32
	IngressIfindex, Ifindex, TCIndex uint32
	CB                               [5]uint32
	Rest                             [31]uint32 // up to 192 bytes
}

// runSKB runs a program on the frame; match is its verdict.
func runSKB(t testing.TB, p *ebpf.Program, data []byte, mark uint32) (match bool) {
	t.Helper()
	ctx := skbContext{Mark: mark}
	ctx.CB[2] = uint32(binary.BigEndian.Uint16(data[12:]))
	data = append([]byte{}, data...)
	data[12], data[13] = 0x88, 0xb5 // for experiments; see restored
	return verdict(t, p, data, ctx)
}

// runCopy runs a program on the frame in the map.
func runCopy(t testing.TB, c *ebpf.Collection, prog string, data []byte, mark, wire uint32) (match bool) {
	t.Helper()
	var buffer [bufferSize]byte
	copy(buffer[:], data)
	if err := c.Maps["buffer"].Put(uint32(0), buffer[:]); err != nil {
		t.Fatal(err)
	}
	ctx := skbContext{Mark: mark}
	ctx.CB[0], ctx.CB[1] = wire, uint32(len(data))
	return verdict(t, c.Programs[prog], make([]byte, 64), ctx)
}

func verdict(t testing.TB, p *ebpf.Program, data []byte, ctx skbContext) bool {
	t.Helper()
	ret, err := p.Run(&ebpf.RunOptions{Data: data, Context: ctx, Repeat: 1})
	if err != nil {
		t.Fatalf("%d bytes %x: %v", len(data), data[:14], err)
	}
	if ret == 99 {
		t.Fatal("the calling program failed")
	}
	return ret == 1
}
