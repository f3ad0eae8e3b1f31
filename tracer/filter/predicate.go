// SPDX-License-Identifier: Apache-2.0

// Predicates: tests of packet bytes joined by and, or, not. A leaf is a bit of
// classic BPF that leaves a value in A, and one comparison of it. Order is
// meaning: a load past the end of the packet rejects it, whatever an "or"
// further on would have said.

package filter

import (
	"fmt"

	"golang.org/x/net/bpf"
)

type predicate struct {
	op   byte // 'c' constant, 't' test, '&', '|', '!'
	val  bool // of 'c'
	l, r *predicate
	test *test
}

type test struct {
	code []bpf.Instruction // ends with the value in A
	key  string            // equal keys, equal values; empty: never compared
	cond bpf.JumpTest
	k    uint32
	useX bool // compare with X instead of k
}

var always, never = &predicate{op: 'c', val: true}, &predicate{op: 'c'}

func and(ps ...*predicate) *predicate { return chain('&', ps) }
func or(ps ...*predicate) *predicate  { return chain('|', ps) }

func chain(op byte, ps []*predicate) *predicate {
	out := ps[0]
	for _, p := range ps[1:] {
		out = &predicate{op: op, l: out, r: p}
	}
	return out
}

func negate(p *predicate) *predicate { return &predicate{op: '!', l: p} }

// tests counts p's leaves.
func (p *predicate) tests() int {
	switch p.op {
	case 'c':
		return 0
	case 't':
		return 1
	case '!':
		return p.l.tests()
	}
	return p.l.tests() + p.r.tests()
}

// compare is "the value code computes, cond k".
func compare(code []bpf.Instruction, cond bpf.JumpTest, k uint32) *predicate {
	return &predicate{op: 't', test: &test{code: code, key: fmt.Sprint(code), cond: cond, k: k}}
}

func equal(code []bpf.Instruction, k uint32) *predicate {
	return compare(code, bpf.JumpEqual, k)
}

// maskedEqual drops the load where nothing of it counts: then it cannot reject.
func maskedEqual(code []bpf.Instruction, mask, k uint32) *predicate {
	switch mask {
	case 0:
		if k == 0 {
			return always
		}
		return never
	case 0xffffffff:
		return equal(code, k)
	}
	return equal(append(code[:len(code):len(code)], bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask}), k)
}
