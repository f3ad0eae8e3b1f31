// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// What is traced about packets, in nfqlb's words: people and scripts read it.
// Nothing here allocates, unless a flow has a very long name.

// tracePacket tells the trace clients about the decision d on the packet l3,
// parsed into p.
func (b *Balancer) tracePacket(mask TraceMask, l3 []byte, p *Packet, d *Decision) {
	var room [512]byte
	t := &b.trace
	if d.Why == Unreadable {
		if mask&(TracePacket|TraceLog) != 0 {
			t.emit(TracePacket|TraceLog, appendLine(append(room[:0], "Packet cannot be read, len="...), uint64(len(l3))))
		}
		return
	}
	if p.Kind&LaterFragment != 0 || d.Why == OtherBalancer {
		if mask&TraceFrag != 0 {
			t.emit(TraceFrag, appendFragment(room[:0], d))
		}
		return
	}
	if mask&TraceFlows != 0 {
		var outer Packet
		if f := t.flows.match(l3, &outer); f != nil {
			f.matches.Add(1)
			text := append(append(room[:0], "\nMatch for trace-flow: "...), f.spec.Name...)
			t.emit(TraceFlows, b.appendFlows(append(text, '\n'), l3, &outer, p, d))
		}
	}
	if mask&TraceSCTP != 0 && p.Kind&Encapsulated != 0 {
		t.emit(TraceSCTP, appendEncapsulated(room[:0], l3, d))
	}
	if mask&TraceFrag != 0 && p.Kind&FirstFragment != 0 && (d.Accept || d.Why == NoFragmentRoom) {
		t.emit(TraceFrag, appendFirstFragment(room[:0], d))
	}
	which := TracePacket
	if p.Key.Proto() == protoSCTP && d.flow != nil {
		which |= TraceSCTP
	}
	if mask&which != 0 {
		if text := appendPlaced(room[:0], l3, p, d); len(text) > 0 {
			t.emit(which, text)
		}
	}
}

// appendFlows is the message for a packet that matches a trace-flow, behind its
// first line. outer is the packet as it came, p as it was decided.
func (b *Balancer) appendFlows(text, l3 []byte, outer, p *Packet, d *Decision) []byte {
	text = appendICMP(text, l3, outer)
	k := &outer.Key
	text = append(text, "proto="...)
	text = appendProto(text, k.Proto())
	text = append(text, ", len="...)
	text = strconv.AppendUint(text, packetLen(l3), 10)
	text = append(text, ", "...)
	text = netip.AddrFrom16([16]byte(k[0:16])).AppendTo(text)
	text = append(text, ' ')
	text = strconv.AppendUint(text, uint64(k.SrcPort()), 10)
	text = append(text, " -> "...)
	text = netip.AddrFrom16([16]byte(k[16:32])).AppendTo(text)
	text = append(text, ' ')
	text = appendLine(text, uint64(k.DstPort()))
	if p.Kind&Encapsulated != 0 {
		text = appendLine(append(text, "udpencap="...), uint64(k.DstPort()))
	}
	if d.flow == nil {
		return appendMark(append(text, "NO target"...), d.Mark)
	}
	if d.Why == NoFragmentRoom {
		return append(text, "FAILED: Handle first fragment\n"...)
	}
	if d.Index < 0 {
		text = append(append(text, "NO servers, target="...), d.flow.spec.Target...)
		return appendMark(text, d.Mark)
	}
	return appendMark(append(append(text, "target="...), d.flow.spec.Target...), d.Mark)
}

// appendICMP is a line about an ICMP packet, nothing for others.
func appendICMP(text, l3 []byte, p *Packet) []byte {
	v6 := l3[0]>>4 == 6
	if p.l4 == 0 || len(l3) < p.l4+icmpHeaderLen || p.l4proto != protoICMP && p.l4proto != protoICMPv6 || v6 != (p.l4proto == protoICMPv6) {
		return text
	}
	h := l3[p.l4 : p.l4+icmpHeaderLen]
	id, seq := uint64(binary.BigEndian.Uint16(h[4:])), uint64(binary.BigEndian.Uint16(h[6:]))
	kind, code := uint64(h[0]), uint64(h[1])
	const fragNeeded = 4 // RFC 792
	switch {
	case v6 && kind == icmp6TooBig:
		return appendLine(append(text, "ICMP6_PACKET_TOO_BIG: mtu="...), uint64(binary.BigEndian.Uint32(h[4:])))
	case v6 && kind == icmp6Echo:
		text = strconv.AppendUint(append(text, "ICMP6_ECHO_REQUEST: id="...), id, 10)
		return appendLine(append(text, ", seq="...), seq)
	case !v6 && kind == icmpUnreachable && code == fragNeeded:
		return appendLine(append(text, "ICMP_DEST_UNREACH/FRAG_NEEDED: mtu="...), seq)
	case !v6 && kind == icmpUnreachable:
		return appendLine(append(text, "ICMP_DEST_UNREACH: code="...), code)
	case !v6 && kind == icmpEcho:
		text = strconv.AppendUint(append(text, "ICMP_ECHO: id="...), id, 10)
		return appendLine(append(text, ", seq="...), seq)
	case v6:
		text = append(text, "ICMP6 "...)
	default:
		text = append(text, "ICMP "...)
	}
	text = append(strconv.AppendUint(text, kind, 10), ", "...)
	return appendLine(text, code)
}

// appendFragment is about a fragment that is placed without its flow.
func appendFragment(text []byte, d *Decision) []byte {
	switch {
	case d.Why == FragmentKept:
		return append(text, "Fragment stored\n"...)
	case d.Why == OtherBalancer:
		text = append(text, "Fragment to LB tier. fw="...)
	case d.Accept:
		text = append(text, "Handle non-first frag locally fwmark="...)
	default:
		return append(text, "Fragment dropped\n"...)
	}
	return append(strconv.AppendInt(text, int64(d.Mark), 10), '\n')
}

// traceInjected is about a kept fragment that was given back to the kernel. rc
// is what write(2) returned.
func (b *Balancer) traceInjected(bytes int, err error) {
	if TraceMask(b.tracing.Load())&TraceFrag == 0 {
		return // formatting would allocate
	}
	rc := bytes
	if err != nil {
		rc = -1
	}
	b.tracef(TraceFrag, "Frag injected, len=%d, rc=%d\n", bytes, rc)
}

func appendFirstFragment(text []byte, d *Decision) []byte {
	text = append(text, "First fragment\n"...)
	if d.Why == NoFragmentRoom {
		text = append(text, "FAILED: Handle first fragment\n"...)
	}
	return text
}

func appendEncapsulated(text, l3 []byte, d *Decision) []byte {
	var outer Packet
	if err := Parse(l3, 0, &outer); err != nil {
		return text // not after it was parsed deeper
	}
	text = appendLine(append(text, "Udp encapsulated sctp packet on port "...), uint64(outer.Key.DstPort()))
	if d.flow == nil {
		text = append(text, "Failed flowLookup for udpencap\n"...)
	}
	return text
}

// appendPlaced says where a packet goes. A packet whose flow has no target is
// passed over, as in nfqlb.
func appendPlaced(text, l3 []byte, p *Packet, d *Decision) []byte {
	if d.flow == nil {
		return append(text, "Failed flowLookup\n"...)
	}
	if d.Index < 0 {
		return text
	}
	text = append(append(text, "Using LB; "...), d.flow.spec.Target...)
	text = strconv.AppendUint(append(text, "\nPacket; proto="...), uint64(p.Key.Proto()), 10)
	text = strconv.AppendUint(append(text, ", len="...), packetLen(l3), 10)
	return appendMark(text, d.Mark)
}

func appendMark(text []byte, mark int) []byte {
	text = strconv.AppendInt(append(text, ", fwmark="...), int64(mark), 10)
	return append(text, '\n')
}

func appendLine(text []byte, n uint64) []byte {
	return append(strconv.AppendUint(text, n, 10), '\n')
}

func appendProto(text []byte, proto uint16) []byte {
	switch proto {
	case protoICMP:
		return append(text, "icmp"...)
	case protoICMPv6:
		return append(text, "icmp6"...)
	}
	return append(text, protoName(uint8(proto))...)
}

// packetLen is the packet's length by its header, bytes: only its beginning is
// copied from the kernel. A length of 0 is that of a packet too long for the
// field.
func packetLen(l3 []byte) uint64 {
	n := 0
	switch l3[0] >> 4 {
	case 4:
		n = int(binary.BigEndian.Uint16(l3[2:]))
	case 6:
		if n = int(binary.BigEndian.Uint16(l3[4:])); n > 0 {
			n += ipv6HeaderLen
		}
	}
	return uint64(max(n, len(l3)))
}
