// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// The netlink library does not tell a rule's action, so rules are read here.

// FRA_* and FR_ACT_* of include/uapi/linux/fib_rules.h; struct fib_rule_hdr is
// 12 bytes.
const (
	fibRuleHeader = 12

	fraDst      = 1
	fraSrc      = 2
	fraIIFName  = 3
	fraPriority = 6
	fraFwmark   = 10
	fraSuppress = 14 // FRA_SUPPRESS_PREFIXLEN
	fraTable    = 15
	fraFwmask   = 16
	fraOIFName  = 17
	fraProtocol = 21 // who made it; says nothing about packets
	fraSupGroup = 13 // FRA_SUPPRESS_IFGROUP
	fraUnspec   = 0
	fraPad      = 18
	fraFlow     = 11

	fibRuleInvert = 0x2
)

// ruleActions are the names of FR_ACT_*.
var ruleActions = map[uint8]string{1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}

// readRules dumps the rules of a family (unix.AF_INET, AF_INET6) of the
// namespace the calling thread is in; ctxFamily is 4 or 6.
func readRules(family, ctxFamily int) ([]decoder.Rule, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	req.AddData(nl.NewRtMsg())
	req.Data[0].(*nl.RtMsg).Family = uint8(family)
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if err != nil {
		return nil, err
	}
	rules := make([]decoder.Rule, 0, len(msgs))
	for _, m := range msgs {
		r, err := parseRule(m, ctxFamily)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

var errShortRule = errors.New("rule message is cut off")

// parseRule parses a RTM_NEWRULE message without its netlink header. A
// selector that waymark does not evaluate sets Unknown.
func parseRule(m []byte, family int) (decoder.Rule, error) {
	r := decoder.Rule{Family: family}
	if len(m) < fibRuleHeader {
		return r, errShortRule
	}
	dstLen, srcLen, tos := int(m[1]), int(m[2]), m[3]
	r.Table = int(m[4])
	r.Unknown = tos != 0
	if r.Action = ruleActions[m[7]]; r.Action == "" {
		r.Action = "other"
	}
	r.Invert = binary.NativeEndian.Uint32(m[8:])&fibRuleInvert != 0
	for at := fibRuleHeader; at < len(m); {
		if len(m)-at < unix.SizeofRtAttr {
			return r, errShortRule
		}
		n := int(binary.NativeEndian.Uint16(m[at:]))
		kind := binary.NativeEndian.Uint16(m[at+2:]) & 0x3fff // without NLA_F_NESTED, NLA_F_NET_BYTEORDER
		if n < unix.SizeofRtAttr || at+n > len(m) {
			return r, errShortRule
		}
		if err := ruleAttribute(&r, kind, m[at+unix.SizeofRtAttr:at+n], dstLen, srcLen); err != nil {
			return r, err
		}
		at += (n + 3) &^ 3
	}
	if r.Mark != 0 && r.MarkMask == 0 {
		r.MarkMask = 0xffffffff
	}
	return r, nil
}

func ruleAttribute(r *decoder.Rule, kind uint16, v []byte, dstLen, srcLen int) (err error) {
	number := func() uint32 {
		if len(v) < 4 {
			err = errShortRule
			return 0
		}
		return binary.NativeEndian.Uint32(v)
	}
	switch kind {
	case fraDst:
		r.Dst, err = prefixOfBytes(v, dstLen)
	case fraSrc:
		r.Src, err = prefixOfBytes(v, srcLen)
	case fraIIFName:
		r.IIF = unix.ByteSliceToString(v)
	case fraOIFName:
		r.OIF = unix.ByteSliceToString(v)
	case fraPriority:
		r.Priority = int(number())
	case fraFwmark:
		r.Mark = number()
	case fraFwmask:
		r.MarkMask = number()
	case fraTable:
		r.Table = int(number())
	case fraSuppress, fraSupGroup:
		r.Unknown = r.Unknown || number() != 0xffffffff // -1: nothing is suppressed
	case fraProtocol, fraUnspec, fraPad, fraFlow:
	default:
		r.Unknown = true // ports, uid range, tunnel id, l3mdev, goto ...
	}
	return err
}

func prefixOfBytes(b []byte, bits int) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok || bits > a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("rule with an address of %d bytes and %d bits", len(b), bits)
	}
	return netip.PrefixFrom(a, bits), nil
}
