// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "encoding/binary"

// ICMP and ICMPv6 in a balancer: an error must reach the target whose packet
// it is about, so its key is the quoted packet's, turned around; an echo
// request is placed by its id, so that one ping stays on one target.

const icmpHeaderLen = 8

// ICMP types (RFC 792).
const (
	icmpUnreachable  = 3
	icmpSourceQuench = 4
	icmpRedirect     = 5
	icmpEcho         = 8
	icmpTimeExceeded = 11
)

// ICMPv6 types (RFC 4443). Time exceeded (3) is not looked into, as in nfqlb:
// a mixed tier must agree.
const (
	icmp6Unreachable = 1
	icmp6TooBig      = 2
	icmp6Echo        = 128
)

// parseICMP fills in the key of an ICMP packet that is no error. b starts with
// the ICMP header and holds all of it.
func parseICMP(b []byte, proto, echo uint8, p *Packet) error {
	p.Key.setProto(proto)
	if b[0] == echo {
		copy(p.Key[32:34], b[4:6])
	}
	p.Kind |= PlainICMP
	return nil
}

// parseQuoted fills in the key from the packet that an ICMP error quotes. That
// packet was on its way out, so source and destination change places.
func parseQuoted(b []byte, version int, udpencap uint16, p *Packet) error {
	if p.Kind&FirstFragment != 0 {
		return ErrFragmentedErr
	}
	p.Key = Key{}
	p.Kind = ICMPError
	var proto uint8
	var off int
	switch version {
	case 4:
		if len(b) < ipv4HeaderLen {
			return ErrTruncated
		}
		off = int(b[0]&0xf) * 4
		if off < ipv4HeaderLen {
			return ErrBadHeader
		}
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return ErrQuotedFrag
		}
		proto = b[9]
		p.Key.setIPv4(b[16:20], b[12:16])
	case 6:
		if len(b) < ipv6HeaderLen {
			return ErrTruncated
		}
		var quoted Packet
		var err error
		if proto, off, err = skipExtensions(b, &quoted); err != nil {
			return err
		}
		if quoted.Kind == LaterFragment {
			return ErrQuotedFrag
		}
		copy(p.Key[0:16], b[24:40])
		copy(p.Key[16:32], b[8:24])
	}
	p.Key.setProto(proto)
	if proto != protoTCP && proto != protoUDP && proto != protoSCTP {
		p.Kind |= AddressesOnly
		return nil
	}
	if len(b) < off+4 {
		return ErrTruncated
	}
	// The quoted packet left from the encapsulation port.
	if udpencap != 0 && proto == protoUDP && binary.BigEndian.Uint16(b[off:]) == udpencap {
		off += udpHeaderLen
		if len(b) < off+4 {
			return ErrTruncated
		}
		p.Key.setProto(protoSCTP)
		p.Kind |= Encapsulated
	}
	copy(p.Key[36:38], b[off+2:off+4])
	copy(p.Key[38:40], b[off:off+2])
	return nil
}
