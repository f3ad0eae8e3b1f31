// SPDX-License-Identifier: Apache-2.0

// Decision graph → classic BPF. Written from the end, so that every jump's
// distance is known; conditional jumps reach 255 instructions, a plain jump
// behind them the rest.

package filter

import (
	"fmt"
	"strings"

	"golang.org/x/net/bpf"
)

// maxInstructions bounds a filter as it was given, so that with its replies,
// twice as large, it still fits the 16-bit jumps of eBPF.
const maxInstructions = 3000

// maxTests bounds the work of finding out: many tests turn out superfluous.
const maxTests = 2 * maxInstructions

// accept is what a matching packet returns: tcpdump's "all of it".
const accept = 262144

func assemble(g *graph) []bpf.Instruction {
	order := g.order()
	if !accepts(g, order) {
		return []bpf.Instruction{bpf.RetConstant{Val: 0}}
	}
	known := registersOnEntry(g, order)

	// out is the program backwards; at[n] counts the instructions from the
	// beginning of node n to the end.
	out := []bpf.Instruction{bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: accept}}
	at := map[int]int{rejectNode: 1, acceptNode: 2}
	for i := len(order) - 1; i >= 0; i-- {
		n := g.nodes[order[i]]
		var skip [2]uint8
		// The far jump of the true side stands first, so it is written last.
		for side := range 2 {
			far := len(out) - at[n.next[side]]
			if far > 253 {
				out = append(out, bpf.Jump{Skip: uint32(far)})
				at[-1-side] = len(out)
			}
		}
		for side := range 2 {
			target := at[n.next[side]]
			if via, ok := at[-1-side]; ok {
				target = via
				delete(at, -1-side)
			}
			skip[side] = uint8(len(out) - target)
		}
		if n.test.useX {
			out = append(out, bpf.JumpIfX{Cond: n.test.cond, SkipTrue: skip[1], SkipFalse: skip[0]})
		} else {
			out = append(out, bpf.JumpIf{Cond: n.test.cond, Val: n.test.k, SkipTrue: skip[1], SkipFalse: skip[0]})
		}
		code := needed(n.test, known[order[i]])
		for j := len(code) - 1; j >= 0; j-- {
			out = append(out, code[j])
		}
		at[order[i]] = len(out)
	}
	if g.start == acceptNode {
		out = out[1:] // nothing rejects
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// accepts reports whether any packet can match: "tcp and udp" has none.
func accepts(g *graph, order []int) bool {
	for _, i := range order {
		if n := g.nodes[i]; n.next[0] == acceptNode || n.next[1] == acceptNode {
			return true
		}
	}
	return g.start == acceptNode
}

// registers are what A and X hold, as the code that put it there; empty is
// unknown.
type registers struct{ a, x string }

// needed is the test's code without what the registers hold already.
func needed(t *test, r registers) []bpf.Instruction {
	if t.key != "" && t.key == r.a && !t.useX {
		return nil
	}
	if _, ok := t.code[0].(bpf.LoadMemShift); ok && r.x == fmt.Sprint(t.code[0]) {
		return t.code[1:]
	}
	return t.code
}

// registersOnEntry follows both registers along every way.
func registersOnEntry(g *graph, order []int) map[int]registers {
	in := map[int]registers{}
	if len(order) > 0 {
		in[order[0]] = registers{}
	}
	for _, i := range order {
		n := g.nodes[i]
		after := in[i]
		if len(needed(n.test, after)) > 0 {
			after.a = n.test.key
			after.x = holdsX(n.test.code, after.x)
		}
		for _, to := range n.next {
			if before, ok := in[to]; ok {
				if before.a != after.a {
					before.a = ""
				}
				if before.x != after.x {
					before.x = ""
				}
				in[to] = before
			} else {
				in[to] = after
			}
		}
	}
	return in
}

// holdsX is what X holds after code: followed for a header length alone.
func holdsX(code []bpf.Instruction, x string) string {
	for i, ins := range code {
		switch ins := ins.(type) {
		case bpf.LoadMemShift:
			x = ""
			if i == 0 {
				x = fmt.Sprint(ins)
			}
		case bpf.TAX:
			x = ""
		case bpf.LoadScratch:
			if ins.Dst == bpf.RegX {
				x = ""
			}
		case bpf.LoadConstant:
			if ins.Dst == bpf.RegX {
				x = ""
			}
		}
	}
	return x
}

// disassemble is for reading a program in tests and bug reports.
func disassemble(prog []bpf.Instruction) string {
	var s strings.Builder
	for i, ins := range prog {
		fmt.Fprintf(&s, "%3d %v\n", i, ins)
	}
	return s.String()
}
