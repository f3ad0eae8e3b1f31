// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"waymark/bpf"
)

// IP protocol numbers (IANA) that are named in output.
const (
	protoICMP   = 1
	protoIGMP   = 2
	protoIPIP   = 4
	protoTCP    = 6
	protoUDP    = 17
	protoIPv6   = 41
	protoGRE    = 47
	protoESP    = 50
	protoICMPv6 = 58
	protoSCTP   = 132
)

var protoNames = map[uint8]string{
	protoICMP: "icmp", protoIGMP: "igmp", protoIPIP: "ipip", protoTCP: "tcp", protoUDP: "udp", protoIPv6: "ipv6",
	protoGRE: "gre", protoESP: "esp", protoICMPv6: "icmp6", protoSCTP: "sctp",
}

// Packet is what a person needs to recognise a packet.
type Packet struct {
	Proto    string     `json:"proto"` // tcp, udp, icmp, icmp6, sctp, arp, ...; else proto-N or ethertype-0xN
	Src      netip.Addr `json:"src,omitzero"`
	SPort    uint16     `json:"sport,omitempty"`
	Dst      netip.Addr `json:"dst,omitzero"`
	DPort    uint16     `json:"dport,omitempty"`
	Len      uint32     `json:"len"`                 // bytes from the network header on
	TCPFlags string     `json:"tcp_flags,omitempty"` // as tcpdump writes them: S, S., P., F., R, .
	IPID     uint16     `json:"ip_id,omitempty"`
	TTL      uint8      `json:"ttl,omitempty"`
	ICMPType *uint8     `json:"icmp_type,omitempty"`
	ICMPCode *uint8     `json:"icmp_code,omitempty"`
	ICMPID   *uint16    `json:"icmp_id,omitempty"`  // echo only
	ICMPSeq  *uint16    `json:"icmp_seq,omitempty"` // echo only
	FragOff  uint16     `json:"frag_off,omitempty"` // bytes
	MoreFrag bool       `json:"more_frags,omitempty"`
	VLAN     uint16     `json:"vlan,omitempty"`
	VXLAN    *uint32    `json:"vxlan,omitempty"` // it is a VXLAN packet, of this network
	Inner    *Packet    `json:"inner,omitempty"` // the packet an ICMP error is about
}

// tuple is a five-tuple that can be compared and used as a key. For ICMP echo
// both ports are the echo id, so that request and reply are each other's
// reverse.
type tuple struct {
	src, dst     netip.Addr
	sport, dport uint16
	proto        uint8
}

func (t tuple) reverse() tuple {
	return tuple{src: t.dst, dst: t.src, sport: t.dport, dport: t.sport, proto: t.proto}
}

// String is the five-tuple as a filter takes it, and for ICMP the echo id.
func (t tuple) String() string {
	if (t.proto == protoICMP || t.proto == protoICMPv6) && t.sport != 0 {
		return fmt.Sprintf("%s %s %s id %d", protoName(t.proto), t.src, t.dst, t.sport)
	}
	b := append(append([]byte(protoName(t.proto)), ' '), endpoint(t.src, t.sport)...)
	return string(append(append(b, ' '), endpoint(t.dst, t.dport)...))
}

func recordTuple(r *bpf.Record) tuple {
	t := tuple{src: r.SrcAddr(), dst: r.DstAddr(), sport: r.SrcPort(), dport: r.DstPort(), proto: r.Proto}
	if icmpEcho(r.Proto, r.IcmpType) {
		t.sport = uint16(r.Seq >> 16)
		t.dport = t.sport
	}
	return t
}

// icmpEcho tells an echo request or reply (RFC 792, RFC 4443).
func icmpEcho(proto, typ uint8) bool {
	return proto == protoICMP && (typ == 8 || typ == 0) || proto == protoICMPv6 && (typ == 128 || typ == 129)
}

// icmpError tells an ICMP message that quotes the packet it is about
// (RFC 792: 3, 4, 5, 11, 12; RFC 4443: 1 to 4).
func icmpError(proto, typ uint8) bool {
	if proto == protoICMPv6 {
		return typ >= 1 && typ <= 4
	}
	return proto == protoICMP && (typ >= 3 && typ <= 5 || typ == 11 || typ == 12)
}

// networkHeader returns what snap has from the network header on, given the
// record it belongs to. Tags in the frame are skipped (IEEE 802.1Q, 802.1ad).
func networkHeader(r *bpf.Record, snap []byte) []byte {
	if r.Flags&bpf.FlagL3 != 0 {
		return snap
	}
	off := 12
	for range 3 {
		if len(snap) < off+2 {
			return nil
		}
		switch binary.BigEndian.Uint16(snap[off:]) {
		case 0x8100, 0x88a8:
			off += 4
			continue
		}
		return snap[off+2:]
	}
	return nil
}

// describePacket is the packet of a record in words.
func describePacket(r *bpf.Record, snap []byte) Packet {
	l3 := networkHeader(r, snap)
	p := Packet{Len: r.Len, VLAN: 0}
	if r.Flags&bpf.FlagL3 == 0 && p.Len >= 14 {
		p.Len -= 14 // Ethernet header, which skb->len counts at TC
	}
	if r.Flags&bpf.FlagVLAN != 0 {
		p.VLAN = r.VlanTci & 0xfff
	}
	if r.IpVersion == 0 {
		describeOther(&p, r, l3)
		return p
	}
	p.Proto, p.Src, p.Dst = protoName(r.Proto), r.SrcAddr(), r.DstAddr()
	p.IPID, p.TTL, p.FragOff, p.MoreFrag = r.IpId, r.Ttl, r.FragOff&^7, r.FragOff&1 != 0
	if n := ipLength(l3); n != 0 {
		p.Len = n
	}
	if p.FragOff != 0 {
		return p
	}
	p.SPort, p.DPort = r.SrcPort(), r.DstPort()
	switch r.Proto {
	case protoUDP:
		p.VXLAN = vxlanNetwork(r, snap)
	case protoTCP:
		p.TCPFlags = tcpFlags(r.TcpFlags)
	case protoICMP, protoICMPv6:
		typ, code := r.IcmpType, r.IcmpCode
		p.ICMPType, p.ICMPCode = &typ, &code
		if icmpEcho(r.Proto, typ) {
			id, seq := uint16(r.Seq>>16), uint16(r.Seq)
			p.ICMPID, p.ICMPSeq = &id, &seq
		}
		if icmpError(r.Proto, typ) {
			p.Inner = quotedPacket(l3)
		}
	}
	return p
}

// describeOther is for frames that are not IP: ARP by its addresses (RFC 826),
// the rest by EtherType.
func describeOther(p *Packet, r *bpf.Record, l3 []byte) {
	if r.L3Proto != 0x0806 {
		p.Proto = fmt.Sprintf("ethertype-%#04x", r.L3Proto)
		return
	}
	p.Proto = "arp"
	if len(l3) >= 28 && binary.BigEndian.Uint16(l3[2:]) == 0x0800 {
		p.Src, p.Dst = netip.AddrFrom4([4]byte(l3[14:18])), netip.AddrFrom4([4]byte(l3[24:28]))
	}
}

// ipLength is the length in bytes the IP header claims; 0 if it cannot be read
// (or the packet is a GSO packet too big for the field).
func ipLength(l3 []byte) uint32 {
	switch {
	case len(l3) >= 20 && l3[0]>>4 == 4:
		return uint32(binary.BigEndian.Uint16(l3[2:]))
	case len(l3) >= 40 && l3[0]>>4 == 6:
		if n := binary.BigEndian.Uint16(l3[4:]); n != 0 {
			return uint32(n) + 40
		}
	}
	return 0
}

// transport finds the protocol and the transport header of an IP packet;
// IPv6 extension headers are walked (RFC 8200). ok is false for later
// fragments and what cannot be read.
func transport(l3 []byte) (src, dst netip.Addr, proto uint8, l4 []byte, ok bool) {
	switch {
	case len(l3) >= 20 && l3[0]>>4 == 4:
		src, dst = netip.AddrFrom4([4]byte(l3[12:16])), netip.AddrFrom4([4]byte(l3[16:20]))
		ihl := int(l3[0]&15) * 4
		if ihl < 20 || len(l3) < ihl || binary.BigEndian.Uint16(l3[6:])&0x1fff != 0 {
			return src, dst, l3[9], nil, false
		}
		return src, dst, l3[9], l3[ihl:], true
	case len(l3) >= 40 && l3[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(l3[8:24])), netip.AddrFrom16([16]byte(l3[24:40]))
		proto, l4 = l3[6], l3[40:]
		for range 8 {
			n := 0
			switch proto {
			case 0, 43, 60: // hop-by-hop, routing, destination options
				if len(l4) < 8 {
					return src, dst, proto, nil, false
				}
				n = 8 + 8*int(l4[1])
			case 44: // fragment
				if len(l4) < 8 || binary.BigEndian.Uint16(l4[2:])&^7 != 0 {
					return src, dst, proto, nil, false
				}
				n = 8
			default:
				return src, dst, proto, l4, true
			}
			if len(l4) < n {
				return src, dst, proto, nil, false
			}
			proto, l4 = l4[0], l4[n:]
		}
	}
	return src, dst, proto, nil, false
}

// quotedPacket reads the packet that an ICMP error quotes after its 8 bytes.
func quotedPacket(l3 []byte) *Packet {
	_, _, _, l4, ok := transport(l3)
	if !ok || len(l4) < 8+20 {
		return nil
	}
	quoted := l4[8:]
	src, dst, proto, inner, ok := transport(quoted)
	if !src.IsValid() {
		return nil
	}
	p := &Packet{Proto: protoName(proto), Src: src, Dst: dst, Len: ipLength(quoted)}
	switch proto {
	case protoTCP, protoUDP, protoSCTP:
		if ok && len(inner) >= 4 {
			p.SPort, p.DPort = binary.BigEndian.Uint16(inner), binary.BigEndian.Uint16(inner[2:])
		}
	case protoICMP, protoICMPv6:
		if ok && len(inner) >= 8 {
			typ, code := inner[0], inner[1]
			p.ICMPType, p.ICMPCode = &typ, &code
			if icmpEcho(proto, typ) {
				id, seq := binary.BigEndian.Uint16(inner[4:]), binary.BigEndian.Uint16(inner[6:])
				p.ICMPID, p.ICMPSeq = &id, &seq
			}
		}
	}
	return p
}

// tuple is the key of a described packet.
func (p *Packet) tuple() tuple {
	t := tuple{src: p.Src, dst: p.Dst, sport: p.SPort, dport: p.DPort, proto: protoNumber(p.Proto)}
	if p.ICMPID != nil {
		t.sport, t.dport = *p.ICMPID, *p.ICMPID
	}
	return t
}

// tcpFlags writes TCP flags as tcpdump does: "S.", "P.", ".", "none".
func tcpFlags(f uint8) string {
	const letters = "FSRP.UEW" // bit 0 to 7; ACK goes last
	var b []byte
	for i := range 8 {
		if f&(1<<i) != 0 && letters[i] != '.' {
			b = append(b, letters[i])
		}
	}
	if f&0x10 != 0 {
		b = append(b, '.')
	}
	if len(b) == 0 {
		return "none"
	}
	return string(b)
}

func protoName(proto uint8) string {
	if n, ok := protoNames[proto]; ok {
		return n
	}
	return "proto-" + strconv.Itoa(int(proto))
}

func protoNumber(name string) uint8 {
	for n, s := range protoNames {
		if s == name {
			return n
		}
	}
	n, _ := strconv.Atoi(name[min(len(name), len("proto-")):])
	return uint8(n)
}

// endpoint is ADDR:PORT, [ADDR]:PORT, or the address alone without a port.
func endpoint(a netip.Addr, port uint16) string {
	switch {
	case !a.IsValid():
		return "-"
	case port == 0:
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}
