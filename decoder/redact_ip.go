// SPDX-License-Identifier: Apache-2.0

// The headers of IP with their options and extensions.

package decoder

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
