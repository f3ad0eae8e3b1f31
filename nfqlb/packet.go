// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"errors"
)

// Kind says how a packet's key was made. The bits are those nfqlb returns from
// its own parser.
type Kind uint8

const (
	FirstFragment Kind = 1 << iota // the ports are there, more fragments follow
	LaterFragment                  // no ports: the key is addresses and fragment id
	Encapsulated                   // SCTP inside UDP: the key is the SCTP packet's
	ICMPError                      // the key is the quoted packet's, turned around
	PlainICMP                      // echo and other ICMP: no ports
	AddressesOnly                  // a protocol without ports
)

// Packet is what Parse finds. Reuse one: nothing in it is allocated.
type Packet struct {
	Key    Key
	Kind   Kind
	FragID uint32 // identification of a fragment, host order

	// l4 is the offset of the outer transport header, for byte matches, and
	// l4proto its protocol; l4 is 0 if the packet has none (later fragments).
	l4      int
	l4proto uint8
}

// Why a packet cannot be parsed.
var (
	ErrTruncated     = errors.New("packet ends inside its headers")
	ErrNotIP         = errors.New("not an IP packet")
	ErrBadHeader     = errors.New("IPv4 header shorter than 20 bytes")
	ErrFragmentedErr = errors.New("fragmented ICMP error")
	ErrQuotedFrag    = errors.New("ICMP error quotes a later fragment")
)

// IPv6 extension headers that are walked over (RFC 8200). AH and ESP are not:
// they count as a protocol without ports.
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extDstOpts  = 60
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	ipv6ExtLen    = 8 // the least; and the fragment header's
)

// Parse reads a packet from its IP header on (an NFQUEUE payload, which may be
// cut) into p. UDP to the port udpencap is taken as encapsulated SCTP (RFC
// 6951); 0 means none is. It never allocates; the errors are the ones above.
func Parse(l3 []byte, udpencap uint16, p *Packet) error {
	*p = Packet{}
	if len(l3) == 0 {
		return ErrTruncated
	}
	switch l3[0] >> 4 {
	case 4:
		return parseIPv4(l3, udpencap, p)
	case 6:
		return parseIPv6(l3, udpencap, p)
	}
	return ErrNotIP
}

// parseIPv4 reads RFC 791 headers.
func parseIPv4(b []byte, udpencap uint16, p *Packet) error {
	if len(b) < ipv4HeaderLen {
		return ErrTruncated
	}
	ihl := int(b[0]&0xf) * 4
	if ihl < ipv4HeaderLen {
		return ErrBadHeader
	}
	p.Key.setIPv4(b[12:16], b[16:20])

	const moreFragments, offsetMask = 0x2000, 0x1fff
	frag := binary.BigEndian.Uint16(b[6:])
	if frag&(moreFragments|offsetMask) != 0 {
		p.FragID = uint32(binary.BigEndian.Uint16(b[4:]))
		if frag&offsetMask != 0 {
			copy(p.Key[32:], b[4:6])
			p.Kind = LaterFragment
			return nil
		}
		p.Kind = FirstFragment
	}
	p.l4, p.l4proto = ihl, b[9]
	if b[9] != protoICMP {
		return parseTransport(b, ihl, b[9], udpencap, p)
	}
	if len(b) < ihl+icmpHeaderLen {
		return ErrTruncated
	}
	switch b[ihl] {
	case icmpUnreachable, icmpSourceQuench, icmpRedirect, icmpTimeExceeded:
		return parseQuoted(b[ihl+icmpHeaderLen:], 4, udpencap, p)
	}
	return parseICMP(b[ihl:], protoICMP, icmpEcho, p)
}

// parseIPv6 reads RFC 8200 headers.
func parseIPv6(b []byte, udpencap uint16, p *Packet) error {
	if len(b) < ipv6HeaderLen {
		return ErrTruncated
	}
	copy(p.Key[:32], b[8:40])
	proto, off, err := skipExtensions(b, p)
	if err != nil {
		return err
	}
	if p.Kind == LaterFragment {
		return nil
	}
	p.l4, p.l4proto = off, proto
	if proto != protoICMPv6 {
		return parseTransport(b, off, proto, udpencap, p)
	}
	if len(b) < off+icmpHeaderLen {
		return ErrTruncated
	}
	switch b[off] {
	case icmp6Unreachable, icmp6TooBig:
		return parseQuoted(b[off+icmpHeaderLen:], 6, udpencap, p)
	}
	return parseICMP(b[off:], protoICMPv6, icmp6Echo, p)
}

// skipExtensions walks the extension headers of b and returns the protocol
// behind them and where it starts. A fragment header sets Kind and FragID; the
// walk ends at a later fragment.
func skipExtensions(b []byte, p *Packet) (proto uint8, off int, err error) {
	proto, off = b[6], ipv6HeaderLen
	for {
		switch proto {
		case extHopByHop, extRouting, extDstOpts, extFragment:
		default:
			return proto, off, nil
		}
		if len(b) < off+ipv6ExtLen {
			return 0, 0, ErrTruncated
		}
		h := b[off : off+ipv6ExtLen]
		if proto == extFragment {
			const offsetMask, moreFragments = 0xfff8, 1
			frag := binary.BigEndian.Uint16(h[2:])
			if frag&offsetMask != 0 {
				p.FragID = binary.BigEndian.Uint32(h[4:])
				copy(p.Key[32:], h[4:8])
				p.Kind = LaterFragment
				return h[0], off + ipv6ExtLen, nil
			}
			// A packet can carry a fragment header and be whole (RFC 6946).
			if frag&moreFragments != 0 {
				p.FragID = binary.BigEndian.Uint32(h[4:])
				p.Kind = FirstFragment
			}
			proto, off = h[0], off+ipv6ExtLen
			continue
		}
		proto, off = h[0], off+(int(h[1])+1)*8
	}
}

// parseTransport fills in protocol and ports of the transport header at off.
func parseTransport(b []byte, off int, proto uint8, udpencap uint16, p *Packet) error {
	if proto != protoTCP && proto != protoUDP && proto != protoSCTP {
		p.Key.setTail(proto, 0)
		p.Kind |= AddressesOnly
		return nil
	}
	if len(b) < off+4 {
		return ErrTruncated
	}
	if udpencap != 0 && proto == protoUDP && binary.BigEndian.Uint16(b[off+2:]) == udpencap {
		off += udpHeaderLen
		if len(b) < off+4 {
			return ErrTruncated
		}
		proto = protoSCTP
		p.Kind |= Encapsulated
	}
	p.Key.setTail(proto, binary.LittleEndian.Uint32(b[off:]))
	return nil
}

const udpHeaderLen = 8
