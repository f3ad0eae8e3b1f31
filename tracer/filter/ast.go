// SPDX-License-Identifier: Apache-2.0

// The tree a filter is parsed into. Everything that can be wrong with a filter
// is found while it is built: a tree can always be compiled.

package filter

import "net/netip"

type node interface{ node() }

type (
	everything struct{} // the empty filter
	both       struct{ l, r node }
	either     struct{ l, r node }
	not        struct{ x node }

	// alternative is either of two whole filters: what the first says about
	// VLAN tags and tunnels does not move the second.
	alternative struct{ l, r node }

	// ipv4Host, ipv6Host match an address under a mask; layer says in which
	// protocol: any, ip, arp, rarp or ip6.
	ipv4Host struct {
		layer      protocol
		dir        direction
		addr, mask uint32
	}
	ipv6Host struct {
		dir    direction
		prefix netip.Prefix
	}
	etherHost struct {
		dir direction
		mac [6]byte
	}
	// ports matches lo..hi of one transport, or of each that has ports.
	ports struct {
		transport protocol // any, tcp, udp, sctp
		dir       direction
		lo, hi    uint16
	}
	// protocolName is a bare "tcp", "ip6", "arp".
	protocolName struct{ p protocol }
	// protocolNumber is "[ip|ip6|ether] proto N".
	protocolNumber struct {
		layer  protocol // any, ip, ip6, ether
		number uint32
	}
	broadcast struct{ layer protocol } // ether or ip
	multicast struct{ layer protocol } // ether, ip or ip6
	vlan      struct {
		id    uint16
		hasID bool
	}
	vxlan struct {
		vni    uint32
		hasVNI bool
	}
	// relation is "l op r"; negated turns > into <=, >= into <, = into !=.
	relation struct {
		op      string // ">", ">=", "="
		negated bool
		l, r    arith
	}
)

func (everything) node()     {}
func (both) node()           {}
func (either) node()         {}
func (not) node()            {}
func (alternative) node()    {}
func (ipv4Host) node()       {}
func (ipv6Host) node()       {}
func (etherHost) node()      {}
func (ports) node()          {}
func (protocolName) node()   {}
func (protocolNumber) node() {}
func (broadcast) node()      {}
func (multicast) node()      {}
func (vlan) node()           {}
func (vxlan) node()          {}
func (relation) node()       {}

// arith is a 32-bit unsigned expression.
type arith interface{ arith() }

type (
	number      uint32
	frameLength struct{} // len
	negative    struct{ x arith }
	operation   struct {
		op   byte // + - * / % & | ^, 'l' for <<, 'r' for >>
		l, r arith
	}
	// bytesAt is proto[index:size].
	bytesAt struct {
		p     protocol
		index arith
		size  int // 1, 2 or 4
	}
)

func (number) arith()      {}
func (frameLength) arith() {}
func (negative) arith()    {}
func (operation) arith()   {}
func (bytesAt) arith()     {}

type direction uint8

const (
	srcOrDst direction = iota
	src
	dst
	srcAndDst
)

func (d direction) mirrored() direction {
	switch d {
	case src:
		return dst
	case dst:
		return src
	}
	return d
}

// mirrored is n for the packets that answer those n matches: source and
// destination exchanged where the filter names them, byte tests kept.
func mirrored(n node) node {
	switch n := n.(type) {
	case both:
		return both{mirrored(n.l), mirrored(n.r)}
	case either:
		return either{mirrored(n.l), mirrored(n.r)}
	case alternative:
		return alternative{mirrored(n.l), mirrored(n.r)}
	case not:
		return not{mirrored(n.x)}
	case ipv4Host:
		n.dir = n.dir.mirrored()
		return n
	case ipv6Host:
		n.dir = n.dir.mirrored()
		return n
	case etherHost:
		n.dir = n.dir.mirrored()
		return n
	case ports:
		n.dir = n.dir.mirrored()
		return n
	}
	return n
}
