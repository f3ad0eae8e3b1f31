// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// Random packets of all kinds, right and broken.

// anyPacket is one packet from its IP header on. Most go to a VIP, and most of
// their ports are ones that flows ask for.
func anyPacket(r *rand.Rand) []byte {
	pick := func(list ...uint16) uint16 { return list[r.IntN(len(list))] }
	sport := pick(9899, 1024, 40000, 50000, uint16(r.Uint32()))
	dport := pick(5000, 5001, 5002, 5003, 80, 9899, 6000, uint16(r.Uint32()))
	transport := func() (uint8, []byte) {
		p := ports(sport, dport)
		body := make([]byte, r.IntN(40))
		for i := range body {
			body[i] = byte(r.IntN(4))
		}
		switch r.IntN(10) {
		case 0, 1, 2:
			return protoTCP, join(p, make([]byte, 8), body)
		case 3, 4, 5:
			return protoUDP, join(p[:8], body)
		case 6:
			return protoSCTP, join(p, body)
		case 7:
			return protoUDP, join(ports(sport, 9899)[:8], ports(5000, pick(5001, 6000)))
		case 8:
			return uint8(pick(47, 50, 51, 59, 1, 58, 132, 136, uint16(r.IntN(256)))), body
		}
		return protoTCP, p[:r.IntN(12)]
	}
	var packet []byte
	if r.IntN(2) == 0 {
		packet = anyIPv4(r, transport)
	} else {
		packet = anyIPv6(r, transport)
	}
	if r.IntN(20) == 0 { // cut, with lengths that say so
		packet = packet[:1+r.IntN(len(packet)-1)]
	}
	packet = lengths(packet)
	switch {
	case r.IntN(20) == 0 && len(packet) >= 4: // padding of the link, or data that is no part of the packet
		packet = append(packet, make([]byte, r.IntN(40))...)
	case r.IntN(40) == 0 && len(packet) >= 20: // lengths that lie
		at := 2
		if packet[0]>>4 == 6 {
			at = 4
		}
		binary.BigEndian.PutUint16(packet[at:], uint16(r.IntN(len(packet)+20)))
		packet = checksum(packet)
	case r.IntN(100) == 0:
		packet[0] = byte(r.Uint32())
	}
	return packet
}

func anyIPv4(r *rand.Rand, transport func() (uint8, []byte)) []byte {
	src := netip.AddrFrom4([4]byte{200, byte(100 + r.IntN(2)), byte(r.Uint32()), byte(r.Uint32())})
	dst := vip4
	if r.IntN(10) == 0 {
		dst = netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), byte(r.IntN(4))})
	}
	proto, l4 := transport()
	id, frag := uint16(r.Uint32()), uint16(0)
	switch r.IntN(12) {
	case 0:
		proto, l4 = protoICMP, join(echo(8, id), l4)
	case 1:
		proto, l4 = protoICMP, join(echo(uint8(r.IntN(20)), id), l4)
	case 2:
		proto, quoted := transport()
		inner := ipv4(vip4, src, proto, 1, 0, quoted)
		if len(quoted) >= 4 { // from the VIP's port to the client's
			binary.BigEndian.PutUint32(inner[20:], binary.BigEndian.Uint32(quoted)<<16|binary.BigEndian.Uint32(quoted)>>16)
		}
		inner = inner[:r.IntN(len(inner)+1)]
		l4 = join([]byte{[]byte{3, 4, 5, 11}[r.IntN(4)], 4, 0, 0, 0, 0, 5, 20}, inner)
		return ipv4(netip.AddrFrom4([4]byte{9, 9, 9, 9}), dst, protoICMP, id, 0, l4)
	case 3:
		frag = 0x2000
	case 4:
		frag = uint16(r.IntN(0x2000)) | uint16(r.IntN(2))<<13
	case 5:
		frag = 0x4000 // don't fragment
	}
	packet := ipv4(src, dst, proto, id, frag, l4)
	if r.IntN(12) == 0 { // options, which are no-operations
		words := 1 + r.IntN(10)
		options := make([]byte, 4*words)
		for i := range options {
			options[i] = 1
		}
		packet = join(packet[:20], options, packet[20:])
		packet[0] = 0x45 + byte(words)
	}
	return packet
}

func anyIPv6(r *rand.Rand, transport func() (uint8, []byte)) []byte {
	src := netip.AddrFrom16([16]byte{0x20, byte(r.IntN(2)), 2: byte(r.Uint32()), 15: byte(r.Uint32())})
	dst := vip6
	if r.IntN(10) == 0 {
		dst = netip.AddrFrom16([16]byte{0x10, 15: byte(r.IntN(4))})
	}
	proto, l4 := transport()
	id := uint16(r.Uint32())
	switch r.IntN(10) {
	case 0:
		proto, l4 = protoICMPv6, join(echo(128, id), l4)
	case 1:
		proto, l4 = protoICMPv6, join(echo(uint8(120+r.IntN(20)), id), l4)
	case 2:
		next, quoted := transport()
		inner := ipv6(vip6, src, next, quoted)
		if len(quoted) >= 4 {
			binary.BigEndian.PutUint32(inner[40:], binary.BigEndian.Uint32(quoted)<<16|binary.BigEndian.Uint32(quoted)>>16)
		}
		proto, l4 = protoICMPv6, join([]byte{byte(1 + r.IntN(4)), 0, 0, 0, 0, 0, 5, 20}, inner[:r.IntN(len(inner)+1)])
	}
	for range max(0, r.IntN(8)-5) {
		switch r.IntN(3) {
		case 0:
			l4 = join(frag6(proto, uint16(r.IntN(3))*8*uint16(r.IntN(100)), r.IntN(2) == 0, r.Uint32()), l4)
			proto = extFragment
		case 1:
			l4 = join(ext6(proto, uint8(r.IntN(3))), l4)
			proto = extDstOpts
		case 2: // only the first header may be this one
			options := ext6(proto, uint8(r.IntN(3)))
			// One option to be skipped if not known: the kernel takes 7 bytes of padding at most.
			options[2], options[3] = 0x1e, byte(len(options)-4)
			return ipv6(src, dst, extHopByHop, options, l4)
		}
	}
	return ipv6(src, dst, proto, l4)
}

// lengths makes the header say how long the packet is.
func lengths(p []byte) []byte {
	switch {
	case len(p) >= 40 && p[0]>>4 == 6:
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	case len(p) >= 20 && p[0]>>4 == 4:
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	}
	return checksum(p)
}

// checksum makes an IPv4 header's right.
func checksum(p []byte) []byte {
	if len(p) < 20 || p[0]>>4 != 4 || len(p) < int(p[0]&15)*4 {
		return p
	}
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^sum16(p[:max(20, int(p[0]&15)*4)]))
	return p
}

func sum16(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// received is what of the packet the IP layer keeps and shows to netfilter
// before routing; nil if it drops the packet (net/ipv4/ip_input.c: ip_rcv_core,
// net/ipv6/ip6_input.c: ip6_rcv_core).
func received(p []byte) []byte {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		header, n := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
		if header < 20 || n < header || n > len(p) || sum16(p[:header]) != 0xffff {
			return nil
		}
		return p[:n]
	case len(p) >= 40 && p[0]>>4 == 6:
		n := 40 + int(binary.BigEndian.Uint16(p[4:]))
		if n > len(p) {
			return nil
		}
		p = p[:n]
		if p[6] == extHopByHop && (n < 48 || n < 40+8*(int(p[41])+1)) {
			return nil
		}
		return p
	}
	return nil
}
