// SPDX-License-Identifier: Apache-2.0

// The filter itself: parse, compile, match.

package filter

import (
	"fmt"
	"strings"

	"golang.org/x/net/bpf"
)

// Filter is a compiled filter. It is immutable and safe for concurrent use.
type Filter struct {
	text string
	tree node

	frame   []bpf.Instruction // for frames with an Ethernet header
	network []bpf.Instruction // for packets without: see Splice, filter_l3
	vm      *bpf.VM           // runs frame
	length  bool              // frame reads the packet's length
}

// Parse compiles a filter: no arguments match every packet, three that read as
// PROTO SRC[:PORT] DST[:PORT] are a five-tuple, anything else is joined with
// spaces and read as a pcap-filter(7) expression. What cannot be compiled is
// an *Error that says where.
func Parse(args []string) (*Filter, error) {
	text := strings.Join(args, " ")
	var tree node
	var err error
	if isTuple(args) {
		tree, err = parseTuple(args)
	} else {
		tree, err = parse(text)
	}
	if err != nil {
		return nil, err
	}
	const tooLarge = "too large: use fewer or wider tests, such as a net for many hosts"
	if newGenerator(false).generate(tree).tests() > maxTests {
		return nil, &Error{text, 0, tooLarge}
	}
	f, err := compile(text, tree)
	if err != nil {
		return nil, err
	}
	if len(f.frame) > maxInstructions {
		return nil, &Error{text, 0, tooLarge}
	}
	return f, nil
}

func compile(text string, tree node) (*Filter, error) {
	f := &Filter{text: text, tree: tree, frame: program(tree, false), network: program(tree, true)}
	var err error
	if f.vm, err = bpf.NewVM(f.frame); err != nil {
		return nil, fmt.Errorf("filter: compiling %q: %w", text, err)
	}
	f.length = readsLength(f.frame)
	return f, nil
}

func program(tree node, networkOnly bool) []bpf.Instruction {
	return assemble(newGraph(newGenerator(networkOnly).generate(tree)))
}

func readsLength(prog []bpf.Instruction) bool {
	for _, ins := range prog {
		if _, ok := ins.(bpf.LoadExtension); ok {
			return true
		}
	}
	return false
}

// String is the filter as it was given.
func (f *Filter) String() string { return f.text }

// WithReply matches what f matches and also its answers: the same filter with
// source and destination exchanged wherever it names them. Byte tests such as
// tcp[13] are kept as they are.
func (f *Filter) WithReply() *Filter {
	if _, done := f.tree.(alternative); done {
		return f
	}
	r, err := compile(f.text, alternative{f.tree, mirrored(f.tree)})
	if err != nil {
		panic(err) // both halves compiled before, and size is no matter here
	}
	return r
}

// Match decides about a frame as the kernel does: the reference for tests and
// for reading recordings. wireLen is the frame's length before it was cut, in
// bytes, and is what "len", "less" and "greater" look at.
func (f *Filter) Match(frame []byte, wireLen int) bool {
	vm := f.vm
	if f.length && wireLen != len(frame) {
		fixed := make([]bpf.Instruction, len(f.frame))
		for i, ins := range f.frame {
			if _, ok := ins.(bpf.LoadExtension); ok {
				ins = bpf.LoadConstant{Dst: bpf.RegA, Val: uint32(wireLen)}
			}
			fixed[i] = ins
		}
		var err error
		if vm, err = bpf.NewVM(fixed); err != nil {
			return false // cannot be: f.frame differs in a constant
		}
	}
	n, err := vm.Run(frame)
	return err == nil && n != 0
}
