// SPDX-License-Identifier: Apache-2.0

// Primitives that move the headers for what is written after them.

package filter

import "golang.org/x/net/bpf"

// vlan matches a tag (802.1Q, 802.1ad, or the 0x9100 some switches use) and
// moves everything behind the addresses by its four bytes, matched or not.
func (g *generator) vlan(n vlan) *predicate {
	p := or(g.etherType(0x8100), g.etherType(0x88a8), g.etherType(0x9100))
	if n.hasID {
		p = and(p, maskedEqual(load(g.network, 0, 2), 0x0fff, uint32(n.id)))
	}
	g.linkType.k += 4
	g.network.k += 4
	return p
}

// vxlan matches UDP to port 4789 with the flag that says the VNI is valid
// (RFC 7348), then lets everything after it look at the inner frame.
func (g *generator) vxlan(n vxlan) *predicate {
	g.tunnels++
	reg := scratchRegisters - g.tunnels
	version := func(v6 bool) *predicate {
		etherType, next := uint32(typeIPv4), load(g.network, 9, 1)
		if v6 {
			etherType, next = typeIPv6, load(g.network, 6, 1)
		}
		p := and(g.etherType(etherType), equal(next, ipProtocols[udp].number))
		if !v6 {
			p = and(p, g.notLaterFragment())
		}
		p = and(p, equal(g.transport(v6, 2, 2), portVXLAN),
			compare(g.transport(v6, 8, 1), bpf.JumpBitsSet, 0x08))
		if n.hasVNI {
			p = and(p, maskedEqual(g.transport(v6, 12, 4), 0xffffff00, n.vni<<8))
		}
		return and(p, g.remember(reg, v6))
	}
	p := or(version(false), version(true))
	g.link, g.linkType, g.network = offset{reg, 0}, offset{reg, 12}, offset{reg, 14}
	return p
}

// remember stores where the frame behind UDP and VXLAN (8 bytes each) starts;
// as a predicate it is true.
func (g *generator) remember(reg int, v6 bool) *predicate {
	const headers = 16
	var code []bpf.Instruction
	switch {
	case !v6:
		code = append(g.behindIPv4(), bpf.TXA{},
			bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: g.network.k + headers})
	case g.network.reg < 0:
		code = []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegA, Val: g.network.k + 40 + headers}}
	default:
		code = []bpf.Instruction{
			bpf.LoadScratch{Dst: bpf.RegA, N: g.network.reg},
			bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: g.network.k + 40 + headers},
		}
	}
	code = append(code, bpf.StoreScratch{Src: bpf.RegA, N: reg})
	return &predicate{op: 't', test: &test{code: code, cond: bpf.JumpGreaterOrEqual}}
}
