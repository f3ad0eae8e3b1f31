// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"waymark/decoder"
)

// FlowSpec describes a flow in words, as the control protocol and recordings
// carry it. An empty field means any.
type FlowSpec = decoder.BalancerFlow

// Limits of nfqlb.
const (
	maxFlowName = 1023
	maxCIDRs    = 32
	maxTarget   = 255 // a file name
)

// flow is a FlowSpec ready for matching. It never changes.
type flow struct {
	// What each packet needs comes first, on one cache line.
	target  *Target
	matches *counter
	match   []byteMatch
	// encap is set in the hidden flow that catches the UDP port of a flow
	// with encapsulated SCTP.
	encap  uint16
	protos protoSet

	dsts   []cidr
	srcs   []cidr
	dports portSet
	sports portSet
	spec   FlowSpec
}

// cidr is a prefix in the key's form: IPv4 is mapped, its length grows by 96.
// The words are the address's bytes in network order.
type cidr struct{ hi, lo, maskHi, maskLo uint64 }

func (c cidr) contains(hi, lo uint64) bool {
	return hi&c.maskHi == c.hi && lo&c.maskLo == c.lo
}

// protoSet is a set of the protocols a flow can name; 0 is any protocol.
type protoSet uint8

const (
	setTCP protoSet = 1 << iota
	setUDP
	setSCTP
)

// bitOf is the set of one protocol, empty if a flow cannot name it.
func bitOf(proto uint16) protoSet {
	switch proto {
	case protoTCP:
		return setTCP
	case protoUDP:
		return setUDP
	case protoSCTP:
		return setSCTP
	}
	return 0
}

// compileFlow checks spec and makes the flow. The error says which field is
// wrong.
func compileFlow(spec FlowSpec) (*flow, error) {
	if err := checkName(spec.Name); err != nil {
		return nil, err
	}
	f := &flow{matches: new(counter)}
	var err error
	if f.dsts, err = parseCIDRs(spec.Dests); err != nil {
		return nil, fmt.Errorf("dsts: %w", err)
	}
	if f.srcs, err = parseCIDRs(spec.Srcs); err != nil {
		return nil, fmt.Errorf("srcs: %w", err)
	}
	if f.dports, err = parsePorts(spec.DPorts); err != nil {
		return nil, fmt.Errorf("dports: %w", err)
	}
	if f.sports, err = parsePorts(spec.SPorts); err != nil {
		return nil, fmt.Errorf("sports: %w", err)
	}
	for _, s := range spec.Protocols {
		n, ok := protoNumber(s)
		if !ok {
			return nil, fmt.Errorf("protocols: %q is not tcp, udp or sctp", s)
		}
		f.protos |= bitOf(uint16(n))
	}
	for _, s := range spec.Match {
		m, err := parseByteMatch(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("match: %w", err)
		}
		f.match = append(f.match, m)
	}
	if spec.UDPEncap != 0 && f.protos != setSCTP {
		return nil, fmt.Errorf("udpencap is for a flow with the protocol sctp alone")
	}
	if spec.UDPEncap < 0 || spec.UDPEncap > 65535 {
		return nil, fmt.Errorf("udpencap: %d is no port", spec.UDPEncap)
	}
	f.spec = f.normal(spec)
	return f, nil
}

// normal is spec as it is listed: mapped addresses, merged ports, protocols in
// one order.
func (f *flow) normal(spec FlowSpec) FlowSpec {
	spec.Protocols = f.protos.names()
	spec.Dests, spec.Srcs = cidrStrings(f.dsts), cidrStrings(f.srcs)
	spec.DPorts, spec.SPorts = f.dports.strings(), f.sports.strings()
	spec.Match = nil
	for _, m := range f.match {
		spec.Match = append(spec.Match, m.String())
	}
	return spec
}

// hidden is the flow for the UDP packets around f's SCTP, nil if f has none.
// Its name cannot be set by a user.
func (f *flow) hidden() *flow {
	if f.spec.UDPEncap == 0 {
		return nil
	}
	h := &flow{dsts: f.dsts, srcs: f.srcs, protos: setUDP, encap: uint16(f.spec.UDPEncap), matches: f.matches}
	h.dports = portSet{{h.encap, h.encap}}
	h.spec = h.normal(FlowSpec{Name: "#" + f.spec.Name, Priority: f.spec.Priority, UDPEncap: f.spec.UDPEncap, Target: "NULL"})
	return h
}

// checkName refuses names that nfqlb refuses: others would break its JSON.
func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("the flow has no name")
	}
	if len(name) > maxFlowName {
		return fmt.Errorf("the flow's name is longer than %d bytes", maxFlowName)
	}
	for _, r := range name {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '+', r == '_':
		default:
			return fmt.Errorf("flow name %q: only letters, digits and -+_ are allowed", name)
		}
	}
	return nil
}

func parseCIDRs(list []string) ([]cidr, error) {
	if len(list) > maxCIDRs {
		return nil, fmt.Errorf("%d prefixes, at most %d are possible", len(list), maxCIDRs)
	}
	var out []cidr
	for _, s := range list {
		addr, length, found := strings.Cut(s, "/")
		if !found {
			return nil, fmt.Errorf("%q has no prefix length; write %s/32 or /128 for one address", s, s)
		}
		a, err := netip.ParseAddr(addr)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("%q is no prefix like 10.0.0.0/8 or 2001:db8::/32", s)
		}
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil || int(n) > a.BitLen() {
			return nil, fmt.Errorf("%q: the prefix length is not within 0-%d", s, a.BitLen())
		}
		if a.Is4() {
			n += 96
		}
		out = append(out, makeCIDR(a.As16(), int(n)))
	}
	return out, nil
}

func makeCIDR(a [16]byte, n int) cidr {
	var c cidr
	c.maskHi = ^uint64(0) << (64 - min(n, 64)) // a shift by 64 gives 0
	c.maskLo = ^uint64(0) << (128 - max(n, 64))
	c.hi = binary.BigEndian.Uint64(a[:8]) & c.maskHi
	c.lo = binary.BigEndian.Uint64(a[8:]) & c.maskLo
	return c
}

func cidrStrings(list []cidr) []string {
	var out []string
	for _, c := range list {
		var a [16]byte
		binary.BigEndian.PutUint64(a[:8], c.hi)
		binary.BigEndian.PutUint64(a[8:], c.lo)
		n := 0
		for m := c.maskHi; m != 0; m <<= 1 {
			n++
		}
		for m := c.maskLo; m != 0; m <<= 1 {
			n++
		}
		out = append(out, fmt.Sprintf("%s/%d", netip.AddrFrom16(a), n))
	}
	return out
}

func protoNumber(name string) (uint8, bool) {
	switch strings.ToLower(name) {
	case "tcp":
		return protoTCP, true
	case "udp":
		return protoUDP, true
	case "sctp":
		return protoSCTP, true
	}
	return 0, false
}

func protoName(n uint8) string {
	switch n {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoSCTP:
		return "sctp"
	}
	return strconv.Itoa(int(n))
}

func (s protoSet) names() []string {
	var out []string
	for i, name := range []string{"tcp", "udp", "sctp"} {
		if s&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}
