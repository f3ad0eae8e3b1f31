// SPDX-License-Identifier: Apache-2.0

// Relations: first the protocols whose bytes are read must be there, then the
// arithmetic is done. So "tcp[13] != 2" is false for UDP.

package filter

import (
	"fmt"

	"golang.org/x/net/bpf"
)

func (g *generator) relation(n relation) *predicate {
	if g.networkOnly && g.link.reg < 0 && (readsLink(n.l) || readsLink(n.r)) {
		return never
	}
	cond := map[string]bpf.JumpTest{"=": bpf.JumpEqual, ">": bpf.JumpGreaterThan, ">=": bpf.JumpGreaterOrEqual}[n.op]
	var p *predicate
	l, r := simplify(n.l), simplify(n.r)
	ln, lConst := l.(number)
	rn, rConst := r.(number)
	switch {
	case lConst && rConst:
		p = never
		if n.op == "=" && ln == rn || n.op == ">" && ln > rn || n.op == ">=" && ln >= rn {
			p = always
		}
	case rConst:
		p = compare(g.arithmetic(l, 0), cond, uint32(rn))
	default:
		code := append(g.arithmetic(r, 0), bpf.StoreScratch{Src: bpf.RegA, N: 0})
		code = append(code, g.arithmetic(l, 1)...)
		code = append(code, bpf.LoadScratch{Dst: bpf.RegX, N: 0})
		p = &predicate{op: 't', test: &test{code: code, key: fmt.Sprint(code), cond: cond, useX: true}}
	}
	if n.negated {
		p = negate(p)
	}
	return and(g.present(n.l), g.present(n.r), p)
}

// present is that the protocols a's bytes are in are there.
func (g *generator) present(a arith) *predicate {
	switch a := a.(type) {
	case negative:
		return g.present(a.x)
	case operation:
		// libpcap asks only for the protocols of the left operand: with it,
		// "ip[8] + tcp[0]" reads that byte of UDP too.
		return g.present(a.l)
	case bytesAt:
		index := g.present(a.index)
		switch {
		case a.p == ether:
			return index
		case a.p == icmp6:
			return and(index, g.etherType(typeIPv6), equal(load(g.network, 6, 1), ipProtocols[icmp6].number))
		case etherTypes[a.p] != 0:
			return and(index, g.protocolName(a.p))
		}
		return and(g.etherType(typeIPv4), index, g.protocolName(a.p), g.notLaterFragment())
	}
	return always
}

// arithmetic computes a into A; scratch registers from temp up are free.
func (g *generator) arithmetic(a arith, temp int) []bpf.Instruction {
	switch a := a.(type) {
	case number:
		return []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegA, Val: uint32(a)}}
	case frameLength:
		return []bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtLen}}
	case negative: // two's complement
		return append(g.arithmetic(a.x, temp),
			bpf.ALUOpConstant{Op: bpf.ALUOpXor, Val: 0xffffffff}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 1})
	case bytesAt:
		return g.bytesAt(a, temp)
	}
	b := a.(operation)
	op := map[byte]bpf.ALUOp{
		'+': bpf.ALUOpAdd, '-': bpf.ALUOpSub, '*': bpf.ALUOpMul, '/': bpf.ALUOpDiv, '%': bpf.ALUOpMod,
		'&': bpf.ALUOpAnd, '|': bpf.ALUOpOr, '^': bpf.ALUOpXor, 'l': bpf.ALUOpShiftLeft, 'r': bpf.ALUOpShiftRight,
	}[b.op]
	if n, ok := b.r.(number); ok && (n != 0 || op != bpf.ALUOpDiv && op != bpf.ALUOpMod) {
		return append(g.arithmetic(b.l, temp), bpf.ALUOpConstant{Op: op, Val: uint32(n)})
	}
	code := append(g.arithmetic(b.r, temp), bpf.StoreScratch{Src: bpf.RegA, N: temp})
	code = append(code, g.arithmetic(b.l, temp+1)...)
	return append(code, bpf.LoadScratch{Dst: bpf.RegX, N: temp}, bpf.ALUOpX{Op: op})
}

func (g *generator) bytesAt(a bytesAt, temp int) []bpf.Instruction {
	base, extra := g.network, uint32(0)
	transport := false
	switch {
	case a.p == ether:
		base = g.link
	case a.p == icmp6:
		extra = 40
	case etherTypes[a.p] == 0:
		transport = true
	}
	if n, ok := a.index.(number); ok {
		if transport {
			return g.transport(false, uint32(n), a.size)
		}
		return load(base, extra+uint32(n), a.size)
	}
	code := g.arithmetic(a.index, temp)
	switch {
	case transport && base.reg < 0: // does not touch A
		code = append(append(code, g.behindIPv4()...), bpf.ALUOpX{Op: bpf.ALUOpAdd})
	case transport:
		code = append(code, bpf.StoreScratch{Src: bpf.RegA, N: temp})
		code = append(append(code, g.behindIPv4()...),
			bpf.LoadScratch{Dst: bpf.RegA, N: temp}, bpf.ALUOpX{Op: bpf.ALUOpAdd})
	case base.reg >= 0:
		code = append(code, bpf.LoadScratch{Dst: bpf.RegX, N: base.reg}, bpf.ALUOpX{Op: bpf.ALUOpAdd})
	}
	return append(code, bpf.TAX{}, bpf.LoadIndirect{Off: base.k + extra, Size: a.size})
}

func readsLink(a arith) bool {
	switch a := a.(type) {
	case negative:
		return readsLink(a.x)
	case operation:
		return readsLink(a.l) || readsLink(a.r)
	case bytesAt:
		return a.p == ether || readsLink(a.index)
	}
	return false
}

// simplify drops what a multiplication or mask by zero makes irrelevant: as in
// libpcap the bytes are then not read and cannot reject the packet.
func simplify(a arith) arith {
	switch a := a.(type) {
	case negative:
		x := simplify(a.x)
		if n, ok := x.(number); ok {
			return -n
		}
		return negative{x}
	case bytesAt:
		a.index = simplify(a.index)
		return a
	case operation:
		a.l, a.r = simplify(a.l), simplify(a.r)
		l, lConst := a.l.(number)
		r, rConst := a.r.(number)
		if (a.op == '*' || a.op == '&') && (lConst && l == 0 || rConst && r == 0) {
			return number(0)
		}
		if lConst && rConst && !(r == 0 && (a.op == '/' || a.op == '%')) {
			return fold(a.op, l, r)
		}
		return a
	}
	return a
}

// needsScratch is how many scratch registers a relation's arithmetic takes.
func needsScratch(n relation) int {
	if _, ok := n.r.(number); ok {
		return temporaries(n.l)
	}
	return max(temporaries(n.r), 1+temporaries(n.l))
}

func temporaries(a arith) int {
	switch a := a.(type) {
	case negative:
		return temporaries(a.x)
	case operation:
		if _, ok := a.r.(number); ok {
			return temporaries(a.l)
		}
		return max(temporaries(a.r), 1+temporaries(a.l))
	case bytesAt:
		return max(temporaries(a.index), 1)
	}
	return 0
}
