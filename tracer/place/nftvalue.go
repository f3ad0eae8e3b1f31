// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nftValue is what a register holds.
type nftValue struct {
	what string // "ip daddr"; empty: not known
	kind nftKind
	data []byte // of a constant
	mask []byte // and-ed and xor-ed with what; nil: not
	xor  []byte
}

// nftKind is how values of a field are written.
type nftKind int

const (
	nftUnknown nftKind = iota
	nftAddr
	nftNumber   // big endian, decimal
	nftMark     // host byte order, hexadecimal
	nftIndex    // host byte order, decimal
	nftName     // of a device
	nftProto    // IP protocol
	nftFamily   // NFPROTO_*
	nftCtState  // bits, host byte order
	nftConstant // an immediate
)

// compare is a test of v.
func (v nftValue) compare(op string, data []byte) string {
	zero := len(bytes.Trim(data, "\x00")) == 0
	switch {
	case v.mask == nil:
		return v.what + " " + op + v.literal(data)
	case len(bytes.Trim(v.xor, "\x00")) != 0:
		return nftMore
	case v.kind == nftCtState && zero && op == "!= ":
		return v.what + " " + v.literal(v.mask)
	case v.kind == nftAddr && (op == "" || op == "!= "):
		p, ok := prefixOfMask(data, v.mask)
		if !ok {
			return nftMore
		}
		return v.what + " " + op + p
	case v.kind == nftMark:
		if op == "" {
			op = "== "
		}
		return v.what + " & " + v.literal(v.mask) + " " + op + v.literal(data)
	}
	return nftMore
}

func prefixOfMask(addr, mask []byte) (string, bool) {
	bits := 0
	for bits < len(mask)*8 && mask[bits/8]>>(7-bits%8)&1 == 1 {
		bits++
	}
	for i := bits; i < len(mask)*8; i++ {
		if mask[i/8]>>(7-i%8)&1 == 1 {
			return "", false
		}
	}
	a, ok := netip.AddrFromSlice(addr)
	if !ok || a.BitLen() != len(mask)*8 {
		return "", false
	}
	return netip.PrefixFrom(a, bits).String(), true
}

// literal writes data as a value of the field v.
func (v nftValue) literal(data []byte) string {
	switch v.kind {
	case nftAddr:
		return addrText(v.what, data)
	case nftNumber:
		if n, ok := (nftAttributes{0: data}).number(0); ok {
			return strconv.FormatUint(uint64(n), 10)
		}
	case nftMark:
		if len(data) == 4 {
			return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(data))
		}
	case nftIndex:
		if len(data) == 4 {
			return strconv.FormatUint(uint64(binary.NativeEndian.Uint32(data)), 10)
		}
	case nftName:
		name := unix.ByteSliceToString(data)
		if len(name) == len(data) && len(data) < unix.IFNAMSIZ {
			name += "*" // the end was not compared
		}
		return strconv.Quote(name)
	case nftProto:
		if len(data) == 1 {
			return protoText(data[0])
		}
	case nftFamily:
		if len(data) == 1 {
			switch data[0] {
			case unix.NFPROTO_IPV4:
				return "ipv4"
			case unix.NFPROTO_IPV6:
				return "ipv6"
			}
		}
	case nftCtState:
		if len(data) == 4 {
			return ctStateText(binary.NativeEndian.Uint32(data))
		}
	}
	return nftMore
}

// computed is what v is, without a constant to write.
func (v nftValue) computed() string {
	switch {
	case v.what == "":
		return nftMore
	case v.mask == nil:
		return v.what
	case v.kind != nftMark || len(v.mask) != 4:
		return nftMore
	}
	mask, xor := binary.NativeEndian.Uint32(v.mask), binary.NativeEndian.Uint32(v.xor)
	switch {
	case mask == ^xor: // sets the bits of xor, keeps the others
		return fmt.Sprintf("%s | %#x", v.what, xor)
	case xor == 0:
		return fmt.Sprintf("%s & %#x", v.what, mask)
	}
	return fmt.Sprintf("%s & %#x ^ %#x", v.what, mask, xor)
}

// addrText is an address, or a prefix if only its first bytes are given.
func addrText(field string, data []byte) string {
	size := 4
	if strings.HasPrefix(field, "ip6") {
		size = 16
	}
	if len(data) == 0 || len(data) > size {
		return nftMore
	}
	whole := make([]byte, size)
	copy(whole, data)
	a, _ := netip.AddrFromSlice(whole)
	if len(data) < size {
		return netip.PrefixFrom(a, len(data)*8).String()
	}
	return a.String()
}

func protoText(proto byte) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	}
	return strconv.Itoa(int(proto))
}

// ctStates are the bits of NFT_CT_STATE (NF_CT_STATE_*_BIT in
// include/uapi/linux/netfilter/nf_conntrack_common.h).
var ctStates = []struct {
	bit  uint32
	name string
}{{1 << 0, "invalid"}, {1 << 1, "established"}, {1 << 2, "related"}, {1 << 3, "new"}, {1 << 6, "untracked"}}

func ctStateText(bits uint32) string {
	var names []string
	for _, s := range ctStates {
		if bits&s.bit != 0 {
			names = append(names, s.name)
			bits &^= s.bit
		}
	}
	if bits != 0 || names == nil {
		return nftMore
	}
	return strings.Join(names, ",")
}

// as is what v is, to be written into field.
func (v nftValue) as(field nftValue) string {
	if v.kind == nftConstant {
		return field.literal(v.data)
	}
	return v.computed()
}

// networkField knows what RFC 791 and RFC 8200 say. A part of an address is
// compared as a prefix.
func networkField(nfproto byte, offset, size uint32) nftValue {
	type at struct{ offset, size uint32 }
	switch f := (at{offset, size}); {
	case nfproto == unix.NFPROTO_IPV4 && offset == 12 && size <= 4:
		return nftValue{what: "ip saddr", kind: nftAddr}
	case nfproto == unix.NFPROTO_IPV4 && offset == 16 && size <= 4:
		return nftValue{what: "ip daddr", kind: nftAddr}
	case nfproto == unix.NFPROTO_IPV4 && f == at{9, 1}:
		return nftValue{what: "ip protocol", kind: nftProto}
	case nfproto == unix.NFPROTO_IPV4 && f == at{8, 1}:
		return nftValue{what: "ip ttl", kind: nftNumber}
	case nfproto == unix.NFPROTO_IPV6 && offset == 8 && size <= 16:
		return nftValue{what: "ip6 saddr", kind: nftAddr}
	case nfproto == unix.NFPROTO_IPV6 && offset == 24 && size <= 16:
		return nftValue{what: "ip6 daddr", kind: nftAddr}
	case nfproto == unix.NFPROTO_IPV6 && f == at{6, 1}:
		return nftValue{what: "ip6 nexthdr", kind: nftProto}
	case nfproto == unix.NFPROTO_IPV6 && f == at{7, 1}:
		return nftValue{what: "ip6 hoplimit", kind: nftNumber}
	}
	return nftValue{}
}

// anyTransport is nft's word for a transport header of any protocol.
const anyTransport = "th "

func transportField(l4proto byte, offset, size uint32) nftValue {
	proto, ports := anyTransport, true
	switch l4proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		proto = protoText(l4proto) + " "
	case unix.IPPROTO_ICMP:
		proto, ports = "icmp ", false
	case unix.IPPROTO_ICMPV6:
		proto, ports = "icmpv6 ", false
	}
	name := ""
	switch {
	case ports && offset == 0 && size == 2:
		name = "sport"
	case ports && offset == 2 && size == 2:
		name = "dport"
	case !ports && offset == 0 && size == 1:
		name = "type"
	case !ports && offset == 1 && size == 1:
		name = "code"
	default:
		return nftValue{}
	}
	return nftValue{what: proto + name, kind: nftNumber}
}
