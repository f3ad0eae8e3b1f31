// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// byteMatch compares 1, 2 or 4 bytes of a transport header with a value:
// "tcp[2:2] & 0xff00 = 5000".
type byteMatch struct {
	proto       uint8
	offset, len int
	mask, value uint32 // mask 0: all bits
}

var byteMatchSyntax = regexp.MustCompile(`^(sctp|tcp|udp)\[([0-9]+) *: *([124])\](?: *& *(0x[0-9a-f]+))? *= *([0-9]+|0x[0-9a-f]+)$`)

// headerLen is the part of the transport header that a match may look at.
func headerLen(proto uint8) int {
	switch proto {
	case protoTCP:
		return 20
	case protoUDP:
		return 8
	case protoSCTP:
		return 12
	}
	return 0
}

func parseByteMatch(s string) (byteMatch, error) {
	p := byteMatchSyntax.FindStringSubmatch(s)
	if p == nil {
		return byteMatch{}, fmt.Errorf("%q is no byte match; write it like tcp[2:2]&0xff00=0x1300, with 1, 2 or 4 bytes", s)
	}
	var m byteMatch
	m.proto, _ = protoNumber(p[1])
	var err error
	if m.offset, err = strconv.Atoi(p[2]); err != nil {
		return byteMatch{}, fmt.Errorf("%q: offset: %w", s, err)
	}
	m.len = int(p[3][0] - '0')
	if hl := headerLen(m.proto); m.offset > hl-m.len {
		return byteMatch{}, fmt.Errorf("%q looks behind the %s header of %d bytes", s, p[1], hl)
	}
	if p[4] != "" {
		v, err := strconv.ParseUint(p[4], 0, 32)
		if err != nil {
			return byteMatch{}, fmt.Errorf("%q: mask: %w", s, err)
		}
		m.mask = uint32(v)
	}
	// As in C, 0 in front makes a number octal.
	v, err := strconv.ParseUint(p[5], 0, 32)
	if err != nil {
		return byteMatch{}, fmt.Errorf("%q: value: %w", s, err)
	}
	m.value = uint32(v)
	return m, nil
}

func (m byteMatch) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s[%d:%d]", protoName(m.proto), m.offset, m.len)
	if m.mask != 0 {
		fmt.Fprintf(&b, "&0x%x", m.mask)
	}
	fmt.Fprintf(&b, "=0x%x", m.value)
	return b.String()
}

// read is what the match looks at in the transport header h, which holds
// headerLen bytes.
func (m byteMatch) read(h []byte) uint32 {
	var v uint32
	switch h = h[m.offset:]; m.len {
	case 1:
		v = uint32(h[0])
	case 2:
		v = uint32(binary.BigEndian.Uint16(h))
	case 4:
		v = binary.BigEndian.Uint32(h)
	}
	if m.mask != 0 {
		v &= m.mask
	}
	return v
}

func (m byteMatch) matches(h []byte) bool { return m.read(h) == m.value }

// transport is the transport header that byte matches look at, and its
// protocol; not ok if it is cut or there is none.
func transport(l3 []byte, p *Packet) (off int, proto uint8, ok bool) {
	if p.l4 == 0 {
		return 0, 0, false
	}
	off, proto = p.l4, p.l4proto
	if proto == protoUDP && p.Key.Proto() == protoSCTP {
		off, proto = off+udpHeaderLen, protoSCTP
	}
	return off, proto, len(l3) >= off+headerLen(proto)
}

// matchBytes tells whether the packet l3, parsed into p, passes all matches of
// its protocol; those of other protocols do not count. A packet whose
// transport header is cut passes none.
func matchBytes(matches []byteMatch, l3 []byte, p *Packet) bool {
	off, proto, ok := transport(l3, p)
	if !ok {
		return false
	}
	for _, m := range matches {
		if m.proto == proto && !m.matches(l3[off:]) {
			return false
		}
	}
	return true
}
