// SPDX-License-Identifier: Apache-2.0

// Splicing: the filter's code in place of the stub functions' bodies.

package filter

import (
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Splice gives the filter to every program in spec that contains one of the
// stub functions, in place; a program without them is left as it is. All
// return nonzero for a match.
//
//	int filter_tc(struct __sk_buff *skb)
//	int filter_l2(unsigned long long data, unsigned int linear, unsigned int wire_len, unsigned int vlan)
//	int filter_l3(unsigned long long data, unsigned int linear, unsigned int wire_len, unsigned int l3_proto)
//
// data is the kernel address of the link header (l2) or network header (l3),
// linear how many bytes may be read there, wire_len the packet's length from
// there on, all in bytes. vlan is 0 or the tag the kernel took out: bits 0–15
// the TCI, bit 16 always set, bit 17 set for 802.1ad. l3_proto is an EtherType
// in host order. A program that calls filter_l2 or filter_l3 must have a
// GPL-compatible license, and 256 bytes of stack at most.
//
// In filter_l3 tests of link addresses and ether[…] are false, as there are
// none, and "len" counts 14 bytes for the absent header. A filter_tc body
// calls no helper that changes the packet: the caller's packet pointers stay
// valid.
func (f *Filter) Splice(spec *ebpf.CollectionSpec) error {
	bodies := map[string][]asm.Instruction{}
	for _, stub := range []struct {
		name string
		make func() ([]asm.Instruction, error)
	}{
		{"filter_tc", func() ([]asm.Instruction, error) { return tcBody(f.frame, suitsDirect(f.frame)) }},
		{"filter_l2", func() ([]asm.Instruction, error) { return l2Body(f.frame) }},
		{"filter_l3", func() ([]asm.Instruction, error) { return l3Body(f.network) }},
	} {
		body, err := stub.make()
		if err != nil {
			return err
		}
		bodies[stub.name] = body
	}
	for name, prog := range spec.Programs {
		insns, err := replace(prog.Instructions, bodies)
		if err != nil {
			return fmt.Errorf("filter: program %s: %w", name, err)
		}
		prog.Instructions = insns
	}
	return nil
}

// replace returns insns with each function named in bodies replaced.
func replace(insns asm.Instructions, bodies map[string][]asm.Instruction) (asm.Instructions, error) {
	var out asm.Instructions
	for start := 0; start < len(insns); {
		end := start + 1
		for end < len(insns) && !startsFunction(insns[end]) {
			end++
		}
		body, ok := bodies[insns[start].Symbol()]
		if !ok {
			out = append(out, insns[start:end]...)
			start = end
			continue
		}
		fn := btf.FuncMetadata(&insns[start])
		if fn == nil {
			return nil, fmt.Errorf("stub %s has no BTF: compile it with -g", insns[start].Symbol())
		}
		if len(out)+len(body) > math.MaxInt32 {
			return nil, fmt.Errorf("stub %s: program too large", insns[start].Symbol())
		}
		at := len(out)
		out = append(out, body...)
		out[at] = btf.WithFuncMetadata(out[at].WithSymbol(insns[start].Symbol()), fn)
		// A program that has line info must have it for every function.
		out[at] = out[at].WithSource(insns[start].Source())
		start = end
	}
	return out, nil
}

// startsFunction: a function has a symbol and BTF; a plain label no BTF.
func startsFunction(ins asm.Instruction) bool {
	return ins.Symbol() != "" && btf.FuncMetadata(&ins) != nil
}
