// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nftWriter says in nft(8)'s words what a rule's expressions do: those rules
// use that forward, filter, balance and translate. What it does not understand
// is "…", never a guess. Numbers are those of
// include/uapi/linux/netfilter/nf_tables.h.
type nftWriter struct {
	family uint8 // of the table, NFPROTO_*
	words  []string
	regs   map[uint32]nftValue
	loaded []uint32 // registers that no word has used yet, in their order

	// What the rule has tested, for the names of header fields; the word that
	// said so is left out once a field's name says it as well.
	nfproto, l4proto         byte
	nfprotoWord, l4protoWord int // index in words; -1: none
}

const (
	nftMore       = "…"
	nftaBitwiseOp = 6 // NFTA_BITWISE_OP
)

func newNFTWriter(family uint8) *nftWriter {
	w := &nftWriter{family: family, regs: map[uint32]nftValue{}, nfprotoWord: -1, l4protoWord: -1}
	if family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6 {
		w.nfproto = family
	}
	return w
}

func (w *nftWriter) say(words ...string) { w.words = append(w.words, words...) }

func (w *nftWriter) text() string {
	return strings.Join(slices.Compact(slices.DeleteFunc(w.words, func(s string) bool { return s == "" })), " ")
}

// load notes what a register holds now.
func (w *nftWriter) load(reg uint32, v nftValue) {
	w.regs[reg] = v
	w.loaded = append(slices.DeleteFunc(w.loaded, func(r uint32) bool { return r == reg }), reg)
}

// use is what a register holds, which a word says from now on.
func (w *nftWriter) use(reg uint32) nftValue {
	w.loaded = slices.DeleteFunc(w.loaded, func(r uint32) bool { return r == reg })
	return w.regs[reg]
}

func (w *nftWriter) expression(name string, a nftAttributes) {
	switch name {
	case "meta":
		w.meta(a)
	case "ct":
		w.ct(a)
	case "payload":
		w.payload(a)
	case "bitwise":
		w.bitwise(a)
	case "cmp":
		w.cmp(a)
	case "lookup":
		w.lookup(a)
	case "immediate":
		w.immediate(a)
	case "counter", "notrack":
		w.say(name)
	case "log", "limit", "quota", "connlimit", "objref", "dynset": // they write no register
		w.say(name, nftMore)
	case "queue":
		w.queue(a)
	case "nat":
		w.nat(a)
	case "masq":
		w.translated("masquerade", a, unix.NFTA_MASQ_REG_PROTO_MIN, unix.NFTA_MASQ_REG_PROTO_MAX, unix.NFTA_MASQ_FLAGS)
	case "redir":
		w.translated("redirect", a, unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_REDIR_REG_PROTO_MAX, unix.NFTA_REDIR_FLAGS)
	case "reject":
		w.reject(a)
	case "match":
		w.match(a)
	case "target":
		w.target(a)
	default: // it may have written any register
		clear(w.regs)
		w.loaded = nil
		w.say(name, nftMore)
	}
}

// nftMetaKeys are NFT_META_*.
var nftMetaKeys = map[uint32]nftValue{
	unix.NFT_META_MARK:    {what: "meta mark", kind: nftMark},
	unix.NFT_META_IIF:     {what: "iif", kind: nftIndex},
	unix.NFT_META_OIF:     {what: "oif", kind: nftIndex},
	unix.NFT_META_IIFNAME: {what: "iifname", kind: nftName},
	unix.NFT_META_OIFNAME: {what: "oifname", kind: nftName},
	unix.NFT_META_NFPROTO: {what: "meta nfproto", kind: nftFamily},
	unix.NFT_META_L4PROTO: {what: "meta l4proto", kind: nftProto},
}

func (w *nftWriter) meta(a nftAttributes) {
	key, _ := a.number(unix.NFTA_META_KEY)
	w.property(a, nftMetaKeys[key], unix.NFTA_META_DREG, unix.NFTA_META_SREG)
}

// nftCtKeys are NFT_CT_*.
var nftCtKeys = map[uint32]nftValue{
	unix.NFT_CT_STATE: {what: "ct state", kind: nftCtState},
	unix.NFT_CT_MARK:  {what: "ct mark", kind: nftMark},
}

func (w *nftWriter) ct(a nftAttributes) {
	key, _ := a.number(unix.NFTA_CT_KEY)
	v := nftCtKeys[key]
	if _, directed := a.number(unix.NFTA_CT_DIRECTION); directed {
		v = nftValue{}
	}
	w.property(a, v, unix.NFTA_CT_DREG, unix.NFTA_CT_SREG)
}

// property loads a register with v or sets v to what one holds.
func (w *nftWriter) property(a nftAttributes, v nftValue, dreg, sreg uint16) {
	if reg, ok := a.number(dreg); ok {
		w.load(reg, v)
		return
	}
	reg, _ := a.number(sreg)
	from := w.use(reg)
	if v.what == "" {
		w.say(nftMore)
		return
	}
	w.say(v.what, "set", from.as(v))
}

// payload loads a field of a header, or writes one.
func (w *nftWriter) payload(a nftAttributes) {
	base, _ := a.number(unix.NFTA_PAYLOAD_BASE)
	offset, _ := a.number(unix.NFTA_PAYLOAD_OFFSET)
	size, _ := a.number(unix.NFTA_PAYLOAD_LEN)
	v := w.field(base, offset, size)
	if reg, ok := a.number(unix.NFTA_PAYLOAD_DREG); ok {
		w.load(reg, v)
		return
	}
	reg, _ := a.number(unix.NFTA_PAYLOAD_SREG)
	from := w.use(reg)
	if v.what == "" {
		w.say("payload set", nftMore)
		return
	}
	w.say(v.what, "set", from.as(v))
}

// field names the header field at an offset, and leaves out the word that told
// which protocol's.
func (w *nftWriter) field(base, offset, size uint32) (v nftValue) {
	switch base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		if v = networkField(w.nfproto, offset, size); v.what != "" {
			w.drop(&w.nfprotoWord)
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if v = transportField(w.l4proto, offset, size); v.what != "" && !strings.HasPrefix(v.what, anyTransport) {
			w.drop(&w.l4protoWord)
		}
	}
	return v
}

// drop leaves out a word that the next one implies.
func (w *nftWriter) drop(word *int) {
	if *word >= 0 {
		w.words[*word] = ""
		*word = -1
	}
}

func (w *nftWriter) bitwise(a nftAttributes) {
	from, _ := a.number(unix.NFTA_BITWISE_SREG)
	to, _ := a.number(unix.NFTA_BITWISE_DREG)
	v := w.use(from)
	mask, xor := nftData(a[unix.NFTA_BITWISE_MASK]), nftData(a[unix.NFTA_BITWISE_XOR])
	// A shift, or with another register, or twice.
	op, _ := a.number(nftaBitwiseOp)
	if op != 0 || len(mask) == 0 || len(mask) != len(xor) || v.mask != nil || v.kind == nftConstant {
		v = nftValue{}
	}
	v.mask, v.xor = mask, xor
	w.load(to, v)
}

// nftData is the value in a nest NFTA_DATA_*.
func nftData(b []byte) []byte {
	a, err := parseAttributes(b)
	if err != nil {
		return nil
	}
	return a[unix.NFTA_DATA_VALUE]
}

// nftOps are NFT_CMP_*; equal is not written.
var nftOps = []string{"", "!= ", "< ", "<= ", "> ", ">= "}

func (w *nftWriter) cmp(a nftAttributes) {
	reg, _ := a.number(unix.NFTA_CMP_SREG)
	op, _ := a.number(unix.NFTA_CMP_OP)
	data := nftData(a[unix.NFTA_CMP_DATA])
	v := w.use(reg)
	if v.what == "" || int(op) >= len(nftOps) || len(data) == 0 {
		w.say(nftMore)
		return
	}
	equal := op == unix.NFT_CMP_EQ
	if equal && v.mask == nil && len(data) == 1 {
		switch v.what {
		case "meta nfproto":
			w.nfproto, w.nfprotoWord = data[0], len(w.words)
		case "meta l4proto", "ip protocol", "ip6 nexthdr":
			w.l4proto, w.l4protoWord = data[0], len(w.words)
		}
	}
	w.say(v.compare(nftOps[op], data))
}

func (w *nftWriter) lookup(a nftAttributes) {
	source, _ := a.number(unix.NFTA_LOOKUP_SREG)
	flags, _ := a.number(unix.NFTA_LOOKUP_FLAGS)
	// A key of several fields is in registers one after the other.
	regs := slices.Clone(w.loaded)
	if len(regs) < 2 || regs[0] != source {
		regs = []uint32{source}
	}
	var fields []string
	for _, r := range regs {
		fields = append(fields, w.use(r).computed())
	}
	key := strings.Join(fields, " . ")
	if slices.Contains(fields, nftMore) {
		key = nftMore
	}
	set := "@" + unix.ByteSliceToString(a[unix.NFTA_LOOKUP_SET])
	if strings.HasPrefix(set, "@__") { // nft's own name for one without
		set = "{" + nftMore + "}"
	}
	if dest, ok := a.number(unix.NFTA_LOOKUP_DREG); ok {
		if dest != unix.NFT_REG_VERDICT {
			w.load(dest, nftValue{what: key + " map " + set})
			return
		}
		set = "vmap " + set
	}
	if flags&unix.NFT_LOOKUP_F_INV != 0 {
		set = "!= " + set
	}
	w.say(key, set)
}

func (w *nftWriter) immediate(a nftAttributes) {
	reg, _ := a.number(unix.NFTA_IMMEDIATE_DREG)
	data, err := parseAttributes(a[unix.NFTA_IMMEDIATE_DATA])
	if err != nil {
		w.say(nftMore)
		return
	}
	if reg != unix.NFT_REG_VERDICT {
		w.load(reg, nftValue{kind: nftConstant, data: data[unix.NFTA_DATA_VALUE]})
		return
	}
	verdict, err := parseAttributes(data[unix.NFTA_DATA_VERDICT])
	code, ok := verdict.number(unix.NFTA_VERDICT_CODE)
	if err != nil || !ok {
		w.say(nftMore)
		return
	}
	chain := unix.ByteSliceToString(verdict[unix.NFTA_VERDICT_CHAIN])
	switch int32(code) {
	case unix.NFT_RETURN:
		w.say("return")
	case unix.NFT_JUMP:
		w.say("jump " + chain)
	case unix.NFT_GOTO:
		w.say("goto " + chain)
	case unix.NFT_CONTINUE:
		w.say("continue")
	case 0: // NF_DROP
		w.say("drop")
	case 1: // NF_ACCEPT
		w.say("accept")
	default:
		w.say(nftMore)
	}
}

func (w *nftWriter) queue(a nftAttributes) {
	first, ok := a.number(unix.NFTA_QUEUE_NUM)
	total, _ := a.number(unix.NFTA_QUEUE_TOTAL)
	flags, _ := a.number(unix.NFTA_QUEUE_FLAGS)
	if !ok {
		w.say("queue to", nftMore)
		return
	}
	w.say(queueText(first, total, flags&unix.NFT_QUEUE_FLAG_BYPASS != 0, flags&unix.NFT_QUEUE_FLAG_CPU_FANOUT != 0))
}

func queueText(first, total uint32, bypass, fanout bool) string {
	var flags []string
	if bypass {
		flags = append(flags, "bypass")
	}
	if fanout {
		flags = append(flags, "fanout")
	}
	s := "queue "
	if flags != nil {
		s += "flags " + strings.Join(flags, ",") + " "
	}
	s += "to " + strconv.Itoa(int(first))
	if total > 1 {
		s += "-" + strconv.Itoa(int(first+total-1))
	}
	return s
}

func (w *nftWriter) nat(a nftAttributes) {
	kind, _ := a.number(unix.NFTA_NAT_TYPE)
	family, _ := a.number(unix.NFTA_NAT_FAMILY)
	s := "dnat to "
	if kind == unix.NFT_NAT_SNAT {
		s = "snat to "
	}
	field := "ip"
	if family == unix.NFPROTO_IPV6 {
		field = "ip6"
	}
	addr := w.span(a, unix.NFTA_NAT_REG_ADDR_MIN, unix.NFTA_NAT_REG_ADDR_MAX, field, nftAddr)
	port := w.span(a, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX, "", nftNumber)
	switch {
	case addr != "" && port != "" && family == unix.NFPROTO_IPV6:
		s += "[" + addr + "]:" + port
	case port != "":
		s += addr + ":" + port
	default:
		s += addr
	}
	w.say(s + natFlags(a, unix.NFTA_NAT_FLAGS))
}

// span is what a register holds, or two; empty: there is none.
func (w *nftWriter) span(a nftAttributes, first, last uint16, field string, kind nftKind) string {
	text := func(attr uint16) string {
		reg, ok := a.number(attr)
		if !ok {
			return ""
		}
		v := w.use(reg)
		return v.as(nftValue{what: field, kind: kind})
	}
	from, to := text(first), text(last)
	if to == "" || to == from {
		return from
	}
	return from + "-" + to
}

// translated writes masquerade and redirect.
func (w *nftWriter) translated(word string, a nftAttributes, first, last, flags uint16) {
	if port := w.span(a, first, last, "", nftNumber); port != "" {
		word += " to :" + port
	}
	w.say(word + natFlags(a, flags))
}

func natFlags(a nftAttributes, kind uint16) string {
	flags, _ := a.number(kind)
	// That an address and a port are given the rest of the rule says.
	flags &^= unix.NF_NAT_RANGE_MAP_IPS | unix.NF_NAT_RANGE_PROTO_SPECIFIED
	var s string
	for _, f := range []struct {
		bit  uint32
		name string
	}{
		{unix.NF_NAT_RANGE_PROTO_RANDOM, " random"},
		{unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY, " fully-random"},
		{unix.NF_NAT_RANGE_PERSISTENT, " persistent"},
	} {
		if flags&f.bit != 0 {
			s += f.name
			flags &^= f.bit
		}
	}
	if flags != 0 {
		s += " " + nftMore
	}
	return s
}

func (w *nftWriter) reject(a nftAttributes) {
	kind, _ := a.number(unix.NFTA_REJECT_TYPE)
	code, _ := a.number(unix.NFTA_REJECT_ICMP_CODE)
	switch kind {
	case unix.NFT_REJECT_TCP_RST:
		w.say("reject with tcp reset")
	case unix.NFT_REJECT_ICMP_UNREACH:
		w.say(fmt.Sprintf("reject with icmp code %d", code))
	default:
		w.say("reject")
	}
}

// match is a match of xtables, as iptables-nft uses where nftables has none.
func (w *nftWriter) match(a nftAttributes) {
	name := unix.ByteSliceToString(a[unix.NFTA_MATCH_NAME])
	if name == "comment" {
		w.say("comment " + strconv.Quote(unix.ByteSliceToString(a[unix.NFTA_MATCH_INFO])))
		return
	}
	w.say("xt match "+name, nftMore)
}

// target is a target of xtables.
func (w *nftWriter) target(a nftAttributes) {
	name := unix.ByteSliceToString(a[unix.NFTA_TARGET_NAME])
	info := a[unix.NFTA_TARGET_INFO]
	if rev, _ := a.number(unix.NFTA_TARGET_REV); name == "NFQUEUE" && rev == 3 && len(info) >= 6 {
		// struct xt_NFQ_info_v3 (include/uapi/linux/netfilter/xt_NFQUEUE.h)
		half := binary.NativeEndian.Uint16
		flags := half(info[4:])
		w.say(queueText(uint32(half(info)), uint32(half(info[2:])), flags&1 != 0, flags&2 != 0))
		return
	}
	w.say("xt target "+name, nftMore)
}

// userData is what nft itself keeps with a rule: a list of type, length, value;
// type 0 is the comment (libnftnl's NFTNL_UDATA_RULE_COMMENT).
func (w *nftWriter) userData(b []byte) {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == 0 {
			w.say("comment " + strconv.Quote(unix.ByteSliceToString(b[2:2+int(b[1])])))
		}
		b = b[2+int(b[1]):]
	}
}
