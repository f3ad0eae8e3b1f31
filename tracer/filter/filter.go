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

	onFrame, onNetwork reference
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
	if f.onFrame, err = newReference(f.frame); err == nil {
		f.onNetwork, err = newReference(f.network)
	}
	if err != nil {
		return nil, fmt.Errorf("filter: compiling %q: %w", text, err)
	}
	return f, nil
}

func program(tree node, networkOnly bool) []bpf.Instruction {
	return assemble(newGraph(newGenerator(networkOnly).generate(tree)))
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
