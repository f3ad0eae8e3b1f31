// SPDX-License-Identifier: Apache-2.0

// The short form: PROTO SRC[:PORT] DST[:PORT], "-" or "any" for any, IPv6 with
// a port in brackets.

package filter

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// isTuple tells the short form from an unquoted expression such as
// "tcp port 80": its second word begins as an endpoint does.
func isTuple(args []string) bool {
	if len(args) != 3 {
		return false
	}
	proto := args[0]
	if !isAny(proto) && !(isProtocol(proto) && proto != string(ether)) {
		return false
	}
	return looksLikeEndpoint(args[1])
}

func isAny(s string) bool { return s == "-" || s == "any" }

func looksLikeEndpoint(s string) bool {
	return isAny(s) || strings.ContainsAny(s, ":[") || s != "" && s[0] >= '0' && s[0] <= '9'
}

func parseTuple(args []string) (node, error) {
	text := strings.Join(args, " ")
	srcPos := len(args[0]) + 1
	dstPos := srcPos + len(args[1]) + 1
	proto := protocol(args[0])
	if isAny(args[0]) {
		proto = anyProtocol
	}
	var parts []node
	if proto != anyProtocol {
		parts = append(parts, protocolName{proto})
	}
	anyIP := true // no operand said yet that this is IP
	for _, e := range []struct {
		word string
		pos  int
		dir  direction
	}{{args[1], srcPos, src}, {args[2], dstPos, dst}} {
		nodes, problem := endpoint(proto, e.word, e.dir)
		if problem != "" {
			return nil, &Error{text, e.pos, problem}
		}
		anyIP = anyIP && len(nodes) == 0
		parts = append(parts, nodes...)
	}
	if proto == anyProtocol && anyIP {
		return either{protocolName{ip}, protocolName{ip6}}, nil
	}
	n := parts[0]
	for _, p := range parts[1:] {
		n = both{n, p}
	}
	return n, nil
}

// endpoint is ADDRESS, ADDRESS:PORT, any:PORT, [IPv6]:PORT; an address may
// have a prefix length.
func endpoint(proto protocol, word string, dir direction) (nodes []node, problem string) {
	address, port, hasPort := word, "", false
	switch {
	case strings.HasPrefix(word, "["):
		var rest string
		var closed bool
		address, rest, closed = strings.Cut(word[1:], "]")
		if !closed {
			return nil, "a closing ] is missing"
		}
		if rest != "" {
			if port, hasPort = strings.CutPrefix(rest, ":"); !hasPort {
				return nil, "a port behind [address] needs a colon"
			}
		}
	case strings.Count(word, ":") == 1:
		address, port, hasPort = strings.Cut(word, ":")
	}
	if !isAny(address) && !(address == "" && hasPort) {
		n, problem := addressNode(proto, address, dir)
		if problem != "" {
			return nil, problem
		}
		nodes = append(nodes, n)
	}
	if !hasPort || isAny(port) {
		return nodes, ""
	}
	switch proto {
	case anyProtocol, tcp, udp, sctp:
	default:
		return nil, string(proto) + " has no ports"
	}
	number, err := strconv.ParseUint(port, 10, 16)
	registered := protocol(anyProtocol)
	if err != nil {
		n, r, ok := servicePort(port)
		if !ok {
			return nil, strconv.Quote(port) + " is not a port"
		}
		number, registered = uint64(n), r
	}
	if proto != anyProtocol {
		registered = proto
	}
	return append(nodes, ports{registered, dir, uint16(number), uint16(number)}), ""
}

func addressNode(proto protocol, s string, dir direction) (n node, problem string) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return nil, strconv.Quote(s) + " is not an address"
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix.Masked() != prefix {
		return nil, s + " has bits set outside its prefix"
	}
	layer := etherTypes[proto] // of protocols that are not IP's: 0
	if _, over := ipProtocols[proto]; over || proto == anyProtocol {
		layer = 0
	}
	if prefix.Addr().Is4() {
		at := ip
		switch proto {
		case arp, rarp:
			at = proto
		case ip6, icmp6:
			return nil, string(proto) + " has no IPv4 addresses"
		default:
			if layer != 0 && proto != ip {
				return nil, string(proto) + " has no IP addresses"
			}
		}
		a := prefix.Addr().As4()
		mask := ^uint32(0) << (32 - prefix.Bits())
		return ipv4Host{at, dir, binary.BigEndian.Uint32(a[:]), mask}, ""
	}
	if p := ipProtocols[proto]; proto == ip || p.layer == ip || layer != 0 && proto != ip6 {
		return nil, string(proto) + " has no IPv6 addresses"
	}
	return ipv6Host{dir, prefix}, ""
}
