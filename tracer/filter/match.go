// SPDX-License-Identifier: Apache-2.0

// Matching without a kernel: the reference for tests, and for reading
// recordings on any operating system.

package filter

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// reference is a program with the virtual machine that runs it.
type reference struct {
	prog   []bpf.Instruction
	vm     *bpf.VM
	length bool // prog reads the packet's length
}

func newReference(prog []bpf.Instruction) (r reference, err error) {
	r.prog = prog
	for _, ins := range prog {
		if _, ok := ins.(bpf.LoadExtension); ok {
			r.length = true
		}
	}
	r.vm, err = bpf.NewVM(prog)
	return r, err
}

// Match decides about a frame as the kernel does. wireLen is the frame's
// length before it was cut, in bytes, and is what "len", "less" and "greater"
// look at.
func (f *Filter) Match(frame []byte, wireLen int) bool { return f.onFrame.match(frame, wireLen) }

// linkHeader is the length of an Ethernet header, in bytes.
const linkHeader = 14

// MatchNetwork decides about a packet that begins with its network header, of
// type etherType, as the kernel does in filter_l3 (see Splice). wireLen is as
// for Match, without the link header that is not there.
func (f *Filter) MatchNetwork(packet []byte, etherType uint16, wireLen int) bool {
	frame := make([]byte, linkHeader, linkHeader+len(packet))
	binary.BigEndian.PutUint16(frame[linkHeader-2:], etherType)
	return f.onNetwork.match(append(frame, packet...), linkHeader+wireLen)
}

func (r *reference) match(frame []byte, wireLen int) bool {
	vm := r.vm
	if r.length && wireLen != len(frame) {
		fixed := make([]bpf.Instruction, len(r.prog))
		for i, ins := range r.prog {
			if _, ok := ins.(bpf.LoadExtension); ok {
				ins = bpf.LoadConstant{Dst: bpf.RegA, Val: uint32(wireLen)}
			}
			fixed[i] = ins
		}
		var err error
		if vm, err = bpf.NewVM(fixed); err != nil {
			return false // cannot be: it differs from r.prog in a constant
		}
	}
	n, err := vm.Run(frame)
	return err == nil && n != 0
}
