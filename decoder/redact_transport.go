// SPDX-License-Identifier: Apache-2.0

// The headers behind that of IP, with packets that they carry.

package decoder

import "slices"

// Ports of UDP that carry other packets.
const (
	portGeneve = 6081
	portSCTP   = 9899 // SCTP in UDP (RFC 6951)
)

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
