// SPDX-License-Identifier: Apache-2.0

// Ports: only in packets that carry them, so not in later IPv4 fragments, and
// in IPv6 only directly behind the fixed header.

package filter

import "golang.org/x/net/bpf"

func (g *generator) ports(n ports) *predicate {
	transports := []protocol{sctp, tcp, udp}
	if n.transport != anyProtocol {
		transports = []protocol{n.transport}
	}
	v6 := make([]*predicate, len(transports))
	v4 := make([]*predicate, len(transports))
	for i, t := range transports {
		number := ipProtocols[t].number
		v6[i] = and(equal(load(g.network, 6, 1), number), g.portPair(n, true))
		v4[i] = and(equal(load(g.network, 9, 1), number), g.notLaterFragment(), g.portPair(n, false))
	}
	return or(and(g.etherType(typeIPv6), or(v6...)), and(g.etherType(typeIPv4), or(v4...)))
}

func (g *generator) portPair(n ports, v6 bool) *predicate {
	return directed(n.dir, func(d direction) *predicate {
		at := g.transport(v6, pick(d, 0, 2), 2)
		if n.lo == n.hi {
			return equal(at, uint32(n.lo))
		}
		return and(compare(at, bpf.JumpGreaterOrEqual, uint32(n.lo)),
			negate(compare(at, bpf.JumpGreaterThan, uint32(n.hi))))
	})
}

// notLaterFragment is an IPv4 fragment offset of 0.
func (g *generator) notLaterFragment() *predicate {
	return negate(compare(load(g.network, 6, 2), bpf.JumpBitsSet, 0x1fff))
}
