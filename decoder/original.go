// SPDX-License-Identifier: Apache-2.0

// The packet of a journey as it was when it was first seen, to be sent again.

package decoder

import (
	"encoding/binary"
	"errors"
	"fmt"

	"waymark/bpf"
)

// Original is a packet as a journey's first record has it.
type Original struct {
	// Packet begins with the IP header; it may be cut off.
	Packet []byte
	// Sent: it was seen leaving by a device of the namespace that sent it, and not
	// coming in from one.
	Sent bool
}

// keepOriginal notes what is known of the journey's packet at its beginning.
func (j *Journey) keepOriginal(r *bpf.Record, snapshot []byte) {
	p := networkHeader(r, snapshot)
	if r.IpVersion == 0 || len(p) == 0 {
		return
	}
	j.Original = &Original{Packet: append([]byte(nil), p...), Sent: bpf.Hook(r.Hook) == bpf.HookTCEgress}
}

// Errors of Whole.
var (
	errCutHeader   = errors.New("the recording does not have all of its headers")
	errCutFragment = errors.New("the recording does not have all bytes of the fragment")
	errTooLong     = errors.New("it is longer than one packet may be")
)

// Lengths of headers in bytes, without options.
const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	udpHeader  = 8
	icmpHeader = 8
)

// Whole is the packet with what the recording cut off as zeros, and checksums that
// hold: what is sent is often recorded before a device has made them.
func (o *Original) Whole() ([]byte, error) {
	p := o.Packet
	if len(p) == 0 {
		return nil, errCutHeader
	}
	switch p[0] >> 4 {
	case 4:
		return whole4(p)
	case 6:
		return whole6(p)
	}
	return nil, fmt.Errorf("IP version %d", p[0]>>4)
}

// whole4 is Whole for IPv4 (RFC 791).
func whole4(p []byte) ([]byte, error) {
	if len(p) < ipv4Header {
		return nil, errCutHeader
	}
	head, length := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if head < ipv4Header || length < head || len(p) < head {
		return nil, errCutHeader
	}
	fragment := binary.BigEndian.Uint16(p[6:])&0x3fff != 0 // more of them, or an offset
	if fragment && len(p) < length {
		return nil, errCutFragment
	}
	w := make([]byte, length)
	copy(w, p)
	binary.BigEndian.PutUint16(w[10:], 0)
	binary.BigEndian.PutUint16(w[10:], ^uint16(sum16(w[:head])))
	if fragment {
		return w, nil // the checksum above it is over all of them
	}
	return w, finish(w[head:], w[9], len(p)-head, sum16(w[12:20])+uint32(w[9])+uint32(length-head))
}

// whole6 is Whole for IPv6 (RFC 8200).
func whole6(p []byte) ([]byte, error) {
	const fragmentHeader = 44
	if len(p) < ipv6Header {
		return nil, errCutHeader
	}
	payload := int(binary.BigEndian.Uint16(p[4:]))
	if payload == 0 && len(p) > ipv6Header {
		return nil, errTooLong // RFC 2675
	}
	next := p[6]
	if next == fragmentHeader && len(p) < ipv6Header+payload {
		return nil, errCutFragment
	}
	w := make([]byte, ipv6Header+payload)
	copy(w, p)
	return w, finish(w[ipv6Header:], next, len(p)-ipv6Header, sum16(w[8:40])+uint32(next)+uint32(payload))
}

// finish makes the checksum of what is above the IP header, of which the first had
// bytes are the recording's; pseudo is the sum over the pseudo header (RFC 9293,
// RFC 768, RFC 4443). Other protocols are left as they are.
func finish(b []byte, proto uint8, had int, pseudo uint32) error {
	at, least := 0, 0
	switch proto {
	case protoTCP:
		at, least = 16, tcpHeader
	case protoUDP:
		at, least = 6, udpHeader
	case protoICMP:
		at, least, pseudo = 2, icmpHeader, 0
	case protoICMPv6:
		at, least = 2, icmpHeader
	default:
		return nil
	}
	if proto == protoTCP && len(b) >= least {
		least = max(least, int(b[12]>>4)*4) // with options
	}
	if len(b) < least || had < least {
		return errCutHeader
	}
	binary.BigEndian.PutUint16(b[at:], 0)
	c := ^uint16(fold(sum16(b) + pseudo))
	if proto == protoUDP && c == 0 {
		c = 0xffff // 0 says that there is none
	}
	binary.BigEndian.PutUint16(b[at:], c)
	return nil
}
