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

func (h *headers) mac(at int) {
	to := h.anon.mac([6]byte(h.b[at:]))
	copy(h.b[at:], to[:])
}

func (h *headers) v4(at int) { h.anon.inFamily(h.b[at:], familyIPv4) }

func (h *headers) v6(at int) { h.anon.inFamily(h.b[at:], familyIPv6) }
