// SPDX-License-Identifier: Apache-2.0

// Operands: what an address, a number or a name means under its qualifiers.

package filter

import (
	"net/netip"
	"strconv"
	"strings"
)

func (p *parser) leaf(q qualifiers) (node, error) {
	t := p.next()
	switch t.kind {
	case tokMAC:
		if q.proto != ether || q.what != "" && q.what != "host" {
			return nil, p.fail(t.pos, "an Ethernet address needs ether host, ether src or ether dst before it")
		}
		return etherHost{q.dir, parseMAC(t.text)}, nil
	case tokIPv6:
		return p.ipv6(q, t)
	case tokIPv4:
		return p.ipv4(q, t)
	case tokNumber:
		return p.plainNumber(q, t)
	}
	return p.name(q, t)
}

func (p *parser) plainNumber(q qualifiers, t token) (node, error) {
	switch q.what {
	case "port", "portrange":
		if t.num > 65535 {
			return nil, p.fail(t.pos, "port %d is above 65535", t.num)
		}
		return p.portNode(q, t, anyProtocol, uint16(t.num), uint16(t.num))
	case "proto":
		return p.protoNode(q, t, t.num)
	}
	addr, mask := t.num, uint32(0xffffffff)
	if q.what == "net" { // "net 10" is 10.0.0.0/8
		for addr != 0 && addr&0xff000000 == 0 {
			addr, mask = addr<<8, mask<<8
		}
	}
	return p.hostNode(q, t, addr, mask)
}

func (p *parser) ipv4(q qualifiers, t token) (node, error) {
	if q.what == "port" || q.what == "portrange" || q.what == "proto" {
		return nil, p.fail(t.pos, "an address cannot follow %s", q.what)
	}
	addr, mask, err := p.dotted(t)
	if err != nil {
		return nil, err
	}
	var given token
	switch {
	case p.peek().is("/"):
		p.next()
		given = p.next()
		if given.kind != tokNumber || given.num > 32 {
			return nil, p.fail(given.pos, "a prefix length of 0 to 32 is needed")
		}
		mask = ^uint32(0) << (32 - given.num) // a shift by 32 gives 0
	case p.peek().is("mask"):
		p.next()
		given = p.next()
		if given.kind != tokIPv4 {
			return nil, p.fail(given.pos, "a netmask such as 255.255.255.0 is needed")
		}
		if mask, _, err = p.dotted(given); err != nil {
			return nil, err
		}
	}
	if given.text != "" {
		if q.what != "net" {
			return nil, p.fail(t.pos, "an address with a mask needs net before it")
		}
		if addr&^mask != 0 {
			return nil, p.fail(t.pos, "%s has bits set outside its mask", t.text)
		}
	}
	return p.hostNode(q, t, addr, mask)
}

// dotted reads a full or partial dotted address: 10.1 is 10.1.0.0/16.
func (p *parser) dotted(t token) (addr, mask uint32, err error) {
	for part := range strings.SplitSeq(t.text, ".") {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return 0, 0, p.fail(t.pos, "%q is not an IPv4 address", t.text)
		}
		addr, mask = addr<<8|uint32(n), mask>>8|0xff000000
	}
	for m := mask; m&1 == 0; m >>= 8 {
		addr <<= 8
	}
	return addr, mask, nil
}

func (p *parser) hostNode(q qualifiers, t token, addr, mask uint32) (node, error) {
	switch q.proto {
	case anyProtocol, ip, arp, rarp:
		return ipv4Host{q.proto, q.dir, addr, mask}, nil
	}
	return nil, p.notIn(q, t, "an IPv4")
}

func (p *parser) notIn(q qualifiers, t token, what string) error {
	if _, carried := ipProtocols[q.proto]; carried {
		return p.fail(t.pos, `%s address cannot be looked for in %q: write "%s and host …"`, what, q.proto, q.proto)
	}
	return p.fail(t.pos, "%s address cannot be looked for in %q", what, q.proto)
}

func (p *parser) ipv6(q qualifiers, t token) (node, error) {
	if q.what == "port" || q.what == "portrange" || q.what == "proto" {
		return nil, p.fail(t.pos, "an address cannot follow %s", q.what)
	}
	if q.proto != anyProtocol && q.proto != ip6 {
		return nil, p.notIn(q, t, "an IPv6")
	}
	addr := netip.MustParseAddr(t.text) // the lexer parsed it
	bits := 128
	if _, ok := p.accept("/"); ok {
		n := p.next()
		if n.kind != tokNumber || n.num > 128 {
			return nil, p.fail(n.pos, "a prefix length of 0 to 128 is needed")
		}
		bits = int(n.num)
	}
	if bits != 128 && q.what != "net" {
		return nil, p.fail(t.pos, "an address with a prefix length needs net before it")
	}
	addr = netip.AddrFrom16(addr.As16())
	prefix := netip.PrefixFrom(addr, bits)
	if prefix.Masked().Addr() != addr {
		return nil, p.fail(t.pos, "%s has bits set outside its prefix", t.text)
	}
	return ipv6Host{q.dir, prefix}, nil
}

// portNode checks ports against the transport that was written (q) and the one
// the service name is registered for.
func (p *parser) portNode(q qualifiers, t token, registered protocol, lo, hi uint16) (node, error) {
	switch q.proto {
	case anyProtocol:
		return ports{registered, q.dir, min(lo, hi), max(lo, hi)}, nil
	case tcp, udp, sctp:
		if registered != anyProtocol && registered != q.proto {
			return nil, p.fail(t.pos, "port %s is a %s port", t.text, registered)
		}
		return ports{q.proto, q.dir, min(lo, hi), max(lo, hi)}, nil
	}
	return nil, p.fail(q.pos, "%q has no ports: use tcp, udp or sctp", q.proto)
}

func (p *parser) protoNode(q qualifiers, t token, n uint32) (node, error) {
	switch q.proto {
	case anyProtocol, ip, ip6:
		return protocolNumber{q.proto, n}, nil
	case ether:
		switch n {
		case 0xe0, 0x809b, 0x80f3:
			return nil, p.fail(t.pos, "ether proto %#x (IPX, AppleTalk) is not supported", n)
		}
		return protocolNumber{ether, n}, nil
	}
	return nil, p.fail(q.pos, "%q carries no protocol number", q.proto)
}

func (p *parser) name(q qualifiers, t token) (node, error) {
	switch q.what {
	case "port":
		port, registered, ok := servicePort(t.text)
		if !ok {
			return nil, p.fail(t.pos, "%q is not a service in %s", t.text, servicesFile)
		}
		return p.portNode(q, t, registered, port, port)
	case "portrange":
		return p.portRange(q, t)
	case "proto":
		lookup := protocolByName
		if q.proto == ether {
			lookup = etherTypeByName
		}
		n, ok := lookup(t.text)
		if !ok {
			return nil, p.fail(t.pos, "%q is not a known protocol", t.text)
		}
		return p.protoNode(q, t, n)
	}
	return nil, p.fail(t.pos, "%q is not an address: names are not resolved", t.text)
}

func (p *parser) portRange(q qualifiers, t token) (node, error) {
	// A service name may contain a dash itself: any dash may be the one.
	for i, c := range t.text {
		if c != '-' {
			continue
		}
		lo, a, ok := servicePort(t.text[:i])
		hi, b, ok2 := servicePort(t.text[i+1:])
		if !ok || !ok2 {
			continue
		}
		if a != b { // tcpdump keeps the transport only where both ends agree
			a = anyProtocol
		}
		return p.portNode(q, t, a, lo, hi)
	}
	return nil, p.fail(t.pos, "%q is not a range of ports such as 80-90", t.text)
}
