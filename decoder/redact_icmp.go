// SPDX-License-Identifier: Apache-2.0

// Messages of ICMP, IGMP and neighbour discovery.

package decoder

const icmpRedirect = 5 // type of ICMP (RFC 792)

// icmp is RFC 792.
func (h *headers) icmp(at, end int) int {
	if end-at < 8 {
		return end
	}
	kept := at + 8
	typ := h.b[at]
	if icmpError(protoICMP, typ) {
		if h.anon != nil && typ == icmpRedirect {
			h.v4(at + 4)
		}
		kept = h.inner(etherIPv4, kept, end)
	}
	if h.anon != nil {
		h.fix(at+2, at, kept, 0)
	}
	return kept
}

// igmp is RFC 2236 and RFC 3376.
func (h *headers) igmp(at, end int) int {
	if end-at < 8 {
		return h.cut(at, end)
	}
	const reportV3 = 0x22
	if h.anon != nil && h.b[at] != reportV3 {
		h.v4(at + 4)
		h.fix(at+2, at, at+8, 0)
	}
	return at + 8
}

// icmp6 is RFC 4443, RFC 2710 (MLD) and RFC 4861 (neighbour discovery).
func (h *headers) icmp6(p ipPayload, at, end int) int {
	if end-at < 8 {
		return end
	}
	kept := at + 8
	switch typ := h.b[at]; {
	case icmpError(protoICMPv6, typ):
		kept = h.inner(etherIPv6, kept, end)
	case typ >= 130 && typ <= 132: // group
		kept = h.target(kept, end)
	case typ == 133: // router solicitation
		kept = h.ndOptions(kept, end)
	case typ == 134: // router advertisement
		kept = h.ndOptions(min(kept+8, end), end)
	case typ == 135, typ == 136: // neighbour
		if n := h.target(kept, end); n > kept {
			kept = h.ndOptions(n, end)
		}
	case typ == 137: // redirect: target and destination
		if n := h.target(kept, end); n > kept {
			if kept = h.target(n, end); kept > n {
				kept = h.ndOptions(kept, end)
			}
		}
	}
	if h.anon != nil {
		h.fixTransport(p, at+2, at, kept)
	}
	return kept
}

// target is an IPv6 address at at; its end, or at if it is not whole.
func (h *headers) target(at, end int) int {
	if end-at < 16 {
		return at
	}
	if h.anon != nil {
		h.v6(at)
	}
	return at + 16
}

// ndOptions are those with link-layer addresses, prefixes and MTU (RFC 4861); others
// end it.
func (h *headers) ndOptions(at, end int) int {
	for end-at >= 8 {
		n := 8 * int(h.b[at+1])
		if n == 0 || n > end-at {
			return at
		}
		switch typ := h.b[at]; {
		case (typ == 1 || typ == 2) && n == 8:
			if h.anon != nil {
				h.mac(at + 2)
			}
		case typ == 3 && n == 32:
			if h.anon != nil {
				h.v6(at + 16)
			}
		case typ == 5 && n == 8:
		default:
			return at
		}
		at += n
	}
	return at
}
