// SPDX-License-Identifier: Apache-2.0

// The generator walks the tree in the order it was written and turns each
// primitive into predicates. It carries where the headers are: "vlan" and
// "vxlan" move them for everything written later.

package filter

import "golang.org/x/net/bpf"

// offset is where something starts: a constant, plus a scratch register that
// holds where the inner frame starts once a tunnel primitive has matched. A
// tunnel that did not match leaves 0, the outer frame.
type offset struct {
	reg int // -1: none
	k   uint32
}

type generator struct {
	// networkOnly is for frames without a link header: there the EtherType is
	// known, link addresses are not, and tests of them are false.
	networkOnly bool

	link, linkType, network offset

	tunnels int // scratch registers given to tunnels, from the top
}

// Classic BPF has 16 scratch registers: tunnels take them from the top, a
// relation's intermediate results from the bottom.
const (
	scratchRegisters = 16
	maxTemporaries   = 8
	maxTunnels       = 4 // twice, with WithReply
)

func newGenerator(networkOnly bool) *generator {
	g := &generator{networkOnly: networkOnly}
	g.reset()
	return g
}

func (g *generator) reset() {
	g.link, g.linkType, g.network = offset{-1, 0}, offset{-1, 12}, offset{-1, 14}
}

func (g *generator) generate(n node) *predicate {
	switch n := n.(type) {
	case everything:
		return always
	case both:
		l := g.generate(n.l)
		return and(l, g.generate(n.r))
	case either:
		l := g.generate(n.l)
		return or(l, g.generate(n.r))
	case alternative:
		l := g.generate(n.l)
		g.reset()
		return or(l, g.generate(n.r))
	case not:
		return negate(g.generate(n.x))
	case ipv4Host:
		return g.ipv4Host(n)
	case ipv6Host:
		return g.ipv6Host(n)
	case etherHost:
		return g.etherHost(n)
	case ports:
		return g.ports(n)
	case protocolName:
		return g.protocolName(n.p)
	case protocolNumber:
		return g.protocolNumber(n)
	case broadcast:
		return g.broadcast(n)
	case multicast:
		return g.multicast(n)
	case vlan:
		return g.vlan(n)
	case vxlan:
		return g.vxlan(n)
	case relation:
		return g.relation(n)
	}
	panic("filter: a node without code") // the node types are all above
}

// load reads size bytes (1, 2, 4) at delta behind o into A.
func load(o offset, delta uint32, size int) []bpf.Instruction {
	if o.reg < 0 {
		return []bpf.Instruction{bpf.LoadAbsolute{Off: o.k + delta, Size: size}}
	}
	return []bpf.Instruction{
		bpf.LoadScratch{Dst: bpf.RegX, N: o.reg},
		bpf.LoadIndirect{Off: o.k + delta, Size: size},
	}
}

// behindIPv4 leaves in X what to add to g.network.k for the end of the IPv4
// header, whose length is counted in words (RFC 791).
func (g *generator) behindIPv4() []bpf.Instruction {
	if g.network.reg < 0 {
		return []bpf.Instruction{bpf.LoadMemShift{Off: g.network.k}}
	}
	return append(load(g.network, 0, 1), // X keeps the register
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.TAX{})
}

// transport reads behind the IPv4 header (v6 false) or behind the fixed IPv6
// header, which is as far as tcpdump looks.
func (g *generator) transport(v6 bool, delta uint32, size int) []bpf.Instruction {
	if v6 {
		return load(g.network, 40+delta, size)
	}
	return append(g.behindIPv4(), bpf.LoadIndirect{Off: g.network.k + delta, Size: size})
}

// etherType matches the EtherType, or below 1501 the 802.2 destination SAP of
// a frame whose type field is a length.
func (g *generator) etherType(n uint32) *predicate {
	if n > maxLength8023 {
		return equal(load(g.linkType, 0, 2), n)
	}
	is8023 := negate(compare(load(g.linkType, 0, 2), bpf.JumpGreaterThan, maxLength8023))
	switch n {
	case 0xfe, 0xf0: // OSI, NetBEUI: both SAPs
		return and(is8023, equal(load(g.network, 0, 2), n<<8|n))
	}
	return and(is8023, equal(load(g.network, 0, 1), n))
}

func (g *generator) protocolName(p protocol) *predicate {
	if n, ok := etherTypes[p]; ok {
		return g.etherType(n)
	}
	return g.protocolNumber(protocolNumber{ipProtocols[p].layer, ipProtocols[p].number})
}

func (g *generator) protocolNumber(n protocolNumber) *predicate {
	switch n.layer {
	case ether:
		return g.etherType(n.number)
	case ip:
		return and(g.etherType(typeIPv4), equal(load(g.network, 9, 1), n.number))
	case ip6:
		next := load(g.network, 6, 1)
		return and(g.etherType(typeIPv6), or(equal(next, n.number),
			and(equal(next, nextFragment), equal(load(g.network, 40, 1), n.number))))
	}
	return or(g.protocolNumber(protocolNumber{ip, n.number}), g.protocolNumber(protocolNumber{ip6, n.number}))
}

// directed joins the test of the source with that of the destination.
func directed(d direction, test func(d direction) *predicate) *predicate {
	switch d {
	case srcOrDst:
		return or(test(src), test(dst))
	case srcAndDst:
		return and(test(src), test(dst))
	}
	return test(d)
}

func pick(d direction, atSrc, atDst uint32) uint32 {
	if d == src {
		return atSrc
	}
	return atDst
}

func (g *generator) ipv4Host(n ipv4Host) *predicate {
	var etherType, atSrc, atDst uint32
	switch n.layer {
	case ip:
		etherType, atSrc, atDst = typeIPv4, 12, 16
	case arp: // sender and target protocol address (RFC 826)
		etherType, atSrc, atDst = typeARP, 14, 24
	case rarp:
		etherType, atSrc, atDst = typeRARP, 14, 24
	default:
		inIP, inARP, inRARP := n, n, n
		inIP.layer, inARP.layer, inRARP.layer = ip, arp, rarp
		return or(g.ipv4Host(inIP), g.ipv4Host(inARP), g.ipv4Host(inRARP))
	}
	return directed(n.dir, func(d direction) *predicate {
		return and(g.etherType(etherType), maskedEqual(load(g.network, pick(d, atSrc, atDst), 4), n.mask, n.addr))
	})
}

func (g *generator) ipv6Host(n ipv6Host) *predicate {
	addr := n.prefix.Addr().As16()
	return directed(n.dir, func(d direction) *predicate {
		p := g.etherType(typeIPv6)
		for i := range 4 {
			bits := min(max(n.prefix.Bits()-32*i, 0), 32)
			mask := ^uint32(0) << (32 - bits)
			word := uint32(addr[4*i])<<24 | uint32(addr[4*i+1])<<16 | uint32(addr[4*i+2])<<8 | uint32(addr[4*i+3])
			p = and(p, maskedEqual(load(g.network, pick(d, 8, 24)+uint32(4*i), 4), mask, word))
		}
		return p
	})
}

// linkLevel is p where there is a link header to test.
func (g *generator) linkLevel(p *predicate) *predicate {
	if g.networkOnly && g.link.reg < 0 {
		return never
	}
	return p
}

func (g *generator) etherHost(n etherHost) *predicate {
	return g.linkLevel(directed(n.dir, func(d direction) *predicate {
		at, m := pick(d, 6, 0), n.mac
		return and( // the end first: it differs where the vendor does not
			equal(load(g.link, at+2, 4), uint32(m[2])<<24|uint32(m[3])<<16|uint32(m[4])<<8|uint32(m[5])),
			equal(load(g.link, at, 2), uint32(m[0])<<8|uint32(m[1])))
	}))
}

// broadcast for IP knows no netmask, as tcpdump reading a file: all ones or
// all zeroes.
func (g *generator) broadcast(n broadcast) *predicate {
	if n.layer == ether {
		return g.etherHost(etherHost{dst, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
	}
	to := load(g.network, 16, 4)
	return and(g.etherType(typeIPv4), or(equal(to, 0), equal(to, 0xffffffff)))
}

func (g *generator) multicast(n multicast) *predicate {
	switch n.layer {
	case ip: // 224 and up, so 255.255.255.255 too
		return and(g.etherType(typeIPv4), compare(load(g.network, 16, 1), bpf.JumpGreaterOrEqual, 224))
	case ip6:
		return and(g.etherType(typeIPv6), equal(load(g.network, 24, 1), 0xff))
	}
	return g.linkLevel(compare(load(g.link, 0, 1), bpf.JumpBitsSet, 1))
}
