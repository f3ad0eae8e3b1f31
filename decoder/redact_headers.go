// SPDX-License-Identifier: Apache-2.0

// How far the headers of a packet reach, and which addresses are in them.

package decoder

import (
	"slices"

	"waymark/bpf"
)

// EtherTypes and protocol numbers (IANA) besides those that output names.
const (
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	etherRARP   = 0x8035
	etherTEB    = 0x6558 // a frame in GRE or Geneve
	etherVLAN   = 0x8100
	etherQinQ   = 0x88a8
	etherIPv6   = 0x86dd
	protoHop    = 0
	protoRoute  = 43
	protoFrag   = 44
	protoAH     = 51
	protoDstOpt = 60

	protoUDPLite = 136
)

const (
	icmpRedirect = 5
	portGeneve   = 6081
	portSCTP     = 9899 // SCTP in UDP (RFC 6951)
)

// maxNested bounds packets within packets.
const maxNested = 4

// headers walks the headers of a packet. It keeps
//
//   - the Ethernet header with its tags, of other types than IP and ARP no more,
//   - ARP,
//   - IPv4 with options, IPv6 with extension headers, AH and of ESP the SPI and
//     sequence number,
//   - of the first or only fragment: TCP with options; UDP; the SCTP common
//     header; the first 8 bytes of ICMP, ICMPv6 and IGMP; all of neighbour
//     discovery with the options for addresses, prefixes and MTU; the group of MLD,
//   - the same of the packet that an ICMP error quotes, and of one that IP, GRE,
//     VXLAN or Geneve carries (with their headers), or SCTP in UDP,
//   - of other protocols nothing behind the IP header.
//
// With an Anonymizer it also replaces addresses, and ends before a header in which
// there may be addresses that it does not know of: IPv4 options, routing
// headers, unknown destination options, options of Geneve. Checksums are changed as
// the addresses are: what was right is right, what was wrong stays wrong, what the
// kernel leaves to the network card is completed if the packet is whole.
type headers struct {
	b    []byte // the packet; addresses are replaced in it
	was  []byte // as it was
	anon *Anonymizer
	deep int
	sctp []uint16 // UDP ports that carry SCTP, as balancers' flows tell
}

// learn takes the ports of SCTP in UDP: the balancer looks into it, so replaying has
// to.
func (h *headers) learn(b *Balancer) {
	for i := range b.Flows {
		if port := uint16(b.Flows[i].UDPEncap); port != 0 && !slices.Contains(h.sctp, port) && len(h.sctp) < 64 {
			h.sctp = append(h.sctp, port)
		}
	}
}

// keep returns how many bytes of the snapshot to keep. b is a copy of it, in which
// addresses are replaced.
func (h *headers) keep(r *bpf.Record, snapshot, b []byte, anon *Anonymizer) int {
	h.b, h.was, h.anon, h.deep = b, snapshot, anon, 0
	if r.Flags&bpf.FlagL3 != 0 {
		return h.network(r.L3Proto, 0, len(b))
	}
	return h.ethernet(0, len(b))
}

// cut is where to stop if the header at at is not whole before end: an address
// may be cut in two.
func (h *headers) cut(at, end int) int {
	if h.anon != nil {
		return at
	}
	return end
}

func (h *headers) ethernet(at, end int) int {
	if end-at < 14 {
		return h.cut(at, end)
	}
	if h.anon != nil {
		h.mac(at)
		h.mac(at + 6)
	}
	typ := be16(h.b[at+12:])
	at += 14
	for range 3 {
		if typ != etherVLAN && typ != etherQinQ {
			break
		}
		if end-at < vlanTag {
			return h.cut(at, end)
		}
		typ = be16(h.b[at+2:])
		at += vlanTag
	}
	return h.network(typ, at, end)
}

// network is what an EtherType says. It returns where the headers end.
func (h *headers) network(typ uint16, at, end int) int {
	switch typ {
	case etherIPv4:
		return h.ipv4(at, end)
	case etherIPv6:
		return h.ipv6(at, end)
	case etherARP, etherRARP:
		return h.arp(at, end)
	}
	return at
}

// arp is RFC 826.
func (h *headers) arp(at, end int) int {
	if end-at < 8 {
		return h.cut(at, end)
	}
	b := h.b[at:]
	n := 8 + 2*int(b[4]) + 2*int(b[5])
	if h.anon == nil {
		return min(at+n, end)
	}
	if be16(b) != 1 || be16(b[2:]) != etherIPv4 || n != 28 || end-at < n {
		return at
	}
	h.mac(at + 8)
	h.v4(at + 14)
	h.mac(at + 18)
	h.v4(at + 24)
	return at + n
}

// ipv4 is RFC 791.
func (h *headers) ipv4(at, end int) int {
	if at < end && h.b[at]>>4 != 4 {
		return at
	}
	if end-at < 20 {
		return h.cut(at, end)
	}
	b := h.b[at:]
	n := 4 * int(b[0]&15)
	if n < 20 {
		return at + 20
	}
	p := ipPayload{proto: b[9], src: 12 + at, dst: 16 + at, size: 4}
	p.total = int(be16(b[2:])) - n
	if total := int(be16(b[2:])); total >= n { // 0 for packets over 64 KiB
		end = min(end, at+total)
	}
	offset := be16(b[6:]) & 0x1fff
	p.fragment = be16(b[6:])&0x3fff != 0
	if h.anon != nil {
		h.v4(p.src)
		h.v4(p.dst)
		h.fix(at+10, at, at+20, 0)
		if n > 20 {
			return at + 20
		}
	}
	if at+n > end {
		return end
	}
	if offset != 0 {
		return at + n
	}
	return h.transport(p, at+n, end)
}

// ipv6 is RFC 8200.
func (h *headers) ipv6(at, end int) int {
	if at < end && h.b[at]>>4 != 6 {
		return at
	}
	if end-at < 40 {
		return h.cut(at, end)
	}
	b := h.b[at:]
	p := ipPayload{proto: b[6], src: 8 + at, dst: 24 + at, size: 16}
	p.total = int(be16(b[4:]))
	if p.total > 0 {
		end = min(end, at+40+p.total)
	}
	if h.anon != nil {
		h.v6(p.src)
		h.v6(p.dst)
	}
	at += 40
	for range 8 {
		n := 0
		switch p.proto {
		case protoHop, protoDstOpt, protoRoute:
			if end-at >= 2 {
				n = 8 + 8*int(h.b[at+1])
			}
		case protoFrag:
			n = 8
		case protoAH:
			if end-at >= 2 {
				n = 8 + 4*int(h.b[at+1])
			}
		default:
			return h.transport(p, at, end)
		}
		if n == 0 || end-at < n {
			return h.cut(at, end)
		}
		if h.anon != nil && (p.proto == protoRoute || p.proto != protoFrag && p.proto != protoAH && !knownOptions(h.b[at+2:at+n])) {
			return at
		}
		if p.proto == protoFrag {
			p.fragment = true
			if be16(h.b[at+2:])&^7 != 0 {
				return at + n
			}
		}
		p.proto = h.b[at]
		p.total -= n
		at += n
	}
	return at
}

// knownOptions tells whether options of IPv6 have no address: padding, tunnel
// encapsulation limit, router alert, jumbo payload (IANA).
func knownOptions(b []byte) bool {
	for len(b) > 0 {
		switch b[0] {
		case 0:
			b = b[1:]
			continue
		case 1, 4, 5, 0xc2:
		default:
			return false
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return false
		}
		b = b[2+int(b[1]):]
	}
	return true
}

// ipPayload is what an IP header says of what is behind it.
type ipPayload struct {
	proto    uint8
	src, dst int // offsets of the addresses
	size     int // of an address in bytes
	total    int // length of the payload as told; 0 or less: not told
	fragment bool
}

func (h *headers) transport(p ipPayload, at, end int) int {
	switch p.proto {
	case protoTCP:
		return h.tcp(p, at, end)
	case protoUDP, protoUDPLite:
		return h.udp(p, at, end)
	case protoSCTP:
		return min(at+12, end)
	case protoICMP:
		return h.icmp(at, end)
	case protoICMPv6:
		return h.icmp6(p, at, end)
	case protoIGMP:
		return h.igmp(at, end)
	case protoESP:
		return min(at+8, end)
	case protoAH: // of IPv4
		n := 0
		if end-at >= 12 {
			n = 8 + 4*int(h.b[at+1])
		}
		if n == 0 || end-at < n {
			return h.cut(at, end)
		}
		p.proto, p.total = h.b[at], p.total-n
		if p.proto == protoAH {
			return at + n
		}
		return h.transport(p, at+n, end)
	case protoIPIP:
		return h.inner(etherIPv4, at, end)
	case protoIPv6:
		return h.inner(etherIPv6, at, end)
	case protoGRE:
		return h.gre(at, end)
	}
	return at
}

// inner is a packet within the packet.
func (h *headers) inner(typ uint16, at, end int) int {
	if h.deep++; h.deep > maxNested {
		return at
	}
	if typ == etherTEB {
		return h.ethernet(at, end)
	}
	return h.network(typ, at, end)
}

// tcp is RFC 9293.
func (h *headers) tcp(p ipPayload, at, end int) int {
	if end-at < 20 {
		return end // no address in it
	}
	n := max(4*int(h.b[at+12]>>4), 20)
	kept := min(at+n, end)
	if h.anon != nil {
		h.tcpOptions(at+20, kept)
		h.fixTransport(p, at+16, at, kept)
	}
	return kept
}

// tcpOptions makes NOPs of options that may have addresses: MPTCP's, and those of
// proxies that tell the client's. What stays is of RFC 9293, 7323 and 2018.
func (h *headers) tcpOptions(at, end int) {
	for at < end {
		kind := h.b[at]
		switch kind {
		case 0:
			clear(h.b[at:end])
			return
		case 1:
			at++
			continue
		}
		n := 2
		if at+1 < end {
			n = max(int(h.b[at+1]), 2)
		}
		next := min(at+n, end)
		if !slices.Contains([]byte{2, 3, 4, 5, 8}, kind) || at+n > end {
			for i := at; i < next; i++ {
				h.b[i] = 1
			}
		}
		at = next
	}
}

// udp is RFC 768, with what it carries.
func (h *headers) udp(p ipPayload, at, end int) int {
	if end-at < 8 {
		return end
	}
	kept := at + 8
	port, data := be16(h.b[at+2:]), h.b[kept:end]
	switch {
	case p.proto != protoUDP:
	case slices.Contains(vxlanPorts, port) && len(data) >= 8 && data[0]&0x08 != 0: // RFC 7348
		kept += 8
		if data[7] == 0 {
			kept = h.inner(etherTEB, kept, end)
		}
	case port == portGeneve && len(data) >= 8 && data[0]>>6 == 0 && data[1]&0x3f == 0: // RFC 8926
		options := 4 * int(data[0]&0x3f)
		switch {
		case len(data) < 8+options:
			kept = h.cut(kept+8, end)
		case options > 0 && h.anon != nil:
			kept += 8
		default:
			kept = h.inner(be16(data[2:]), kept+8+options, end)
		}
	case port == portSCTP || slices.Contains(h.sctp, port):
		kept = min(kept+12, end)
	}
	if h.anon != nil && be16(h.b[at+6:]) != 0 {
		h.fixTransport(p, at+6, at, kept)
	}
	return kept
}

// gre is RFC 2784 and RFC 2890.
func (h *headers) gre(at, end int) int {
	if end-at < 4 {
		return end
	}
	flags, n := be16(h.b[at:]), 4
	if flags&7 != 0 { // PPTP's version
		return at + 4
	}
	for _, f := range []uint16{0x8000, 0x2000, 0x1000} { // checksum, key, sequence number
		if flags&f != 0 {
			n += 4
		}
	}
	if at+n > end {
		return end
	}
	kept := h.inner(be16(h.b[at+2:]), at+n, end)
	if h.anon != nil && flags&0x8000 != 0 {
		h.fix(at+4, at, kept, 0)
	}
	return kept
}

// icmp is RFC 792.
func (h *headers) icmp(at, end int) int {
	if end-at < 8 {
		return end
	}
	kept := at + 8
	typ := h.b[at]
	if icmpError(protoICMP, typ) {
		if h.anon != nil && typ == icmpRedirect {
			h.v4(at + 4)
		}
		kept = h.inner(etherIPv4, kept, end)
	}
	if h.anon != nil {
		h.fix(at+2, at, kept, 0)
	}
	return kept
}

// igmp is RFC 2236 and RFC 3376.
func (h *headers) igmp(at, end int) int {
	if end-at < 8 {
		return h.cut(at, end)
	}
	const reportV3 = 0x22
	if h.anon != nil && h.b[at] != reportV3 {
		h.v4(at + 4)
		h.fix(at+2, at, at+8, 0)
	}
	return at + 8
}

// icmp6 is RFC 4443, RFC 2710 (MLD) and RFC 4861 (neighbour discovery).
func (h *headers) icmp6(p ipPayload, at, end int) int {
	if end-at < 8 {
		return end
	}
	kept := at + 8
	switch typ := h.b[at]; {
	case icmpError(protoICMPv6, typ):
		kept = h.inner(etherIPv6, kept, end)
	case typ >= 130 && typ <= 132: // group
		kept = h.target(kept, end)
	case typ == 133: // router solicitation
		kept = h.ndOptions(kept, end)
	case typ == 134: // router advertisement
		kept = h.ndOptions(min(kept+8, end), end)
	case typ == 135, typ == 136: // neighbour
		if n := h.target(kept, end); n > kept {
			kept = h.ndOptions(n, end)
		}
	case typ == 137: // redirect: target and destination
		if n := h.target(kept, end); n > kept {
			if kept = h.target(n, end); kept > n {
				kept = h.ndOptions(kept, end)
			}
		}
	}
	if h.anon != nil {
		h.fixTransport(p, at+2, at, kept)
	}
	return kept
}

// target is an IPv6 address at at; its end, or at if it is not whole.
func (h *headers) target(at, end int) int {
	if end-at < 16 {
		return at
	}
	if h.anon != nil {
		h.v6(at)
	}
	return at + 16
}

// ndOptions are those with link-layer addresses, prefixes and MTU (RFC 4861); others
// end it.
func (h *headers) ndOptions(at, end int) int {
	for end-at >= 8 {
		n := 8 * int(h.b[at+1])
		if n == 0 || n > end-at {
			return at
		}
		switch typ := h.b[at]; {
		case (typ == 1 || typ == 2) && n == 8:
			if h.anon != nil {
				h.mac(at + 2)
			}
		case typ == 3 && n == 32:
			if h.anon != nil {
				h.v6(at + 16)
			}
		case typ == 5 && n == 8:
		default:
			return at
		}
		at += n
	}
	return at
}

func (h *headers) mac(at int) {
	to := h.anon.mac([6]byte(h.b[at:]))
	copy(h.b[at:], to[:])
}

func (h *headers) v4(at int) { h.anon.inFamily(h.b[at:], familyIPv4) }

func (h *headers) v6(at int) { h.anon.inFamily(h.b[at:], familyIPv6) }
