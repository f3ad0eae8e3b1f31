// SPDX-License-Identifier: Apache-2.0

// Internet checksums (RFC 1071) of packets whose addresses are replaced.

package decoder

import "encoding/binary"

// sum16 adds up b in 16-bit words; an odd byte is a word with a zero behind it.
func sum16(b []byte) (sum uint32) {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(be16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	return fold(sum)
}

func fold(sum uint32) uint32 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}

// fix changes the checksum at at by what has changed in the bytes from and to
// that it covers, and by more, which covers what is elsewhere (RFC 1624, eqn. 3).
func (h *headers) fix(at, from, to int, more uint32) {
	was := sum16(h.was[from:to])
	was = fold(was + 0xffff - uint32(be16(h.was[at:]))) // without itself
	now := sum16(h.b[from:to])
	now = fold(now + 0xffff - uint32(be16(h.b[at:])))
	changed := fold(now + 0xffff - was + more)
	field := 0xffff - uint32(be16(h.was[at:]))
	binary.BigEndian.PutUint16(h.b[at:], ^uint16(fold(field+changed)))
}

// fixTransport is fix for a checksum that covers the addresses of the IP header,
// too. from to to is all of the transport's packet that is kept.
func (h *headers) fixTransport(p ipPayload, at, from, to int) {
	was := fold(sum16(h.was[p.src:p.src+p.size]) + sum16(h.was[p.dst:p.dst+p.size]))
	now := fold(sum16(h.b[p.src:p.src+p.size]) + sum16(h.b[p.dst:p.dst+p.size]))
	rest := fold(uint32(p.proto) + uint32(p.total)&0xffff + uint32(p.total)>>16)
	if p.total > 0 && uint32(be16(h.was[at:])) == fold(was+rest) {
		// The pseudo header's alone: the network card is to do the rest.
		h.partial(p, at, from, to, fold(now+rest))
		return
	}
	h.fix(at, from, to, fold(now+0xffff-was))
	if p.proto == protoUDP && be16(h.b[at:]) == 0 {
		binary.BigEndian.PutUint16(h.b[at:], 0xffff) // 0 is none
	}
}

// partial writes the pseudo header's sum, or the whole checksum if all is there.
func (h *headers) partial(p ipPayload, at, from, to int, pseudo uint32) {
	binary.BigEndian.PutUint16(h.b[at:], uint16(pseudo))
	if p.fragment || to-from < p.total {
		return
	}
	sum := ^uint16(sum16(h.b[from:to])) // the field has the pseudo header's sum
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h.b[at:], sum)
}
