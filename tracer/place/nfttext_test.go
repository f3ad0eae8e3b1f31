// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"encoding/binary"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// nftMessage is a NFT_MSG_NEWRULE message: struct nfgenmsg, then attributes.
func nftMessage(t testing.TB, family byte, userData []byte, exprs ...expr.Any) []byte {
	t.Helper()
	var list []byte
	for _, e := range exprs {
		b, err := expr.Marshal(family, e)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, attr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)...)
	}
	m := []byte{family, 0, 0, 0}
	for _, a := range [][]byte{
		attr(unix.NFTA_RULE_TABLE, []byte("kube\x00")),
		attr(unix.NFTA_RULE_CHAIN, []byte("forward\x00")),
		attr(unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, 12)),
		attr(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list),
		attr(unix.NFTA_RULE_USERDATA, userData),
	} {
		m = append(m, a...)
	}
	return m
}

func TestNFTRuleText(t *testing.T) {
	is := func(key expr.MetaKey, data ...byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Register: 1, Data: data}}
	}
	field := func(base expr.PayloadBase, offset, size uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: size}
	}
	const network, transport = expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	mark := &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}
	setMark := &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}
	bits := func(mask, xor uint32) expr.Any {
		return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: u32(mask), Xor: u32(xor)}
	}
	counter, drop := &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}
	all := func(parts ...any) (exprs []expr.Any) {
		for _, p := range parts {
			switch p := p.(type) {
			case expr.Any:
				exprs = append(exprs, p)
			case []expr.Any:
				exprs = append(exprs, p...)
			}
		}
		return exprs
	}
	v4, v6 := is(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV4), is(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV6)
	tcp := is(expr.MetaKeyL4PROTO, unix.IPPROTO_TCP)
	comment := xt.Comment("default/web")
	for want, exprs := range map[string][]expr.Any{
		"ip daddr @ipv4-vips counter queue to 0-3": all(v4, field(network, 16, 4),
			&expr.Lookup{SourceRegister: 1, SetName: "ipv4-vips"}, counter, &expr.Queue{Num: 0, Total: 4}),
		"ip6 saddr != @ipv6-vips queue flags bypass to 2": all(v6, field(network, 8, 16),
			&expr.Lookup{SourceRegister: 1, SetName: "ipv6-vips", Invert: true}, &expr.Queue{Num: 2, Total: 1, Flag: expr.QueueFlagBypass}),
		"counter queue to 0-3":          all(counter, queueTarget()),
		`iifname "load-balan*" notrack`: all(is(expr.MetaKeyIIFNAME, []byte("load-balan")...), &expr.Notrack{}),
		`oifname "eth0" ip daddr != 10.0.0.0/8 counter masquerade`: all(v4, is(expr.MetaKeyOIFNAME, []byte("eth0\x00")...),
			field(network, 16, 1), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{10}}, counter, &expr.Masq{}),
		"ip daddr 10.8.0.10 tcp dport 80 jump p1-4": all(v4, tcp, field(network, 16, 4), &expr.Cmp{Register: 1, Data: []byte{10, 8, 0, 10}},
			field(transport, 2, 2), &expr.Cmp{Register: 1, Data: []byte{0, 80}}, &expr.Verdict{Kind: expr.VerdictJump, Chain: "p1-4"}),
		"ip saddr 10.4.0.0/22 drop": all(v4, field(network, 12, 4),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 255, 252, 0}, Xor: make([]byte, 4)},
			&expr.Cmp{Register: 1, Data: []byte{10, 4, 0, 0}}, drop),
		"meta mark & 0x4000 != 0x0 meta mark set meta mark & 0xffffbfff counter masquerade fully-random": all(mark, bits(0x4000, 0),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: u32(0)}, mark, bits(^uint32(0x4000), 0), setMark, counter, &expr.Masq{FullyRandom: true}),
		"meta mark set meta mark | 0x4000":        all(mark, bits(^uint32(0x4000), 0x4000), setMark),
		"meta mark set meta mark & 0xff ^ 0x4000": all(mark, bits(0xff, 0x4000), setMark),
		"meta mark 0x13b8 meta mark set 0x0 accept": all(mark, &expr.Cmp{Register: 1, Data: u32(5048)},
			&expr.Immediate{Register: 1, Data: u32(0)}, setMark, &expr.Verdict{Kind: expr.VerdictAccept}),
		"meta l4proto udp meta mark @marks drop": all(is(expr.MetaKeyL4PROTO, unix.IPPROTO_UDP), mark, &expr.Lookup{SourceRegister: 1, SetName: "marks"}, drop),
		"ct state established,related accept": all(&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			bits(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: u32(0)},
			&expr.Verdict{Kind: expr.VerdictAccept}),
		"counter dnat to 10.4.0.11:8080": all(counter, &expr.Immediate{Register: 1, Data: []byte{10, 4, 0, 11}},
			&expr.Immediate{Register: 2, Data: []byte{0x1f, 0x90}},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true}),
		"snat to [fd00::1]:1024-2047 persistent": all(&expr.Immediate{Register: 1, Data: append([]byte{0xfd}, append(make([]byte, 14), 1)...)},
			&expr.Immediate{Register: 2, Data: []byte{4, 0}}, &expr.Immediate{Register: 3, Data: []byte{7, 255}},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV6, RegAddrMin: 1, RegProtoMin: 2, RegProtoMax: 3, Persistent: true}),
		"redirect to :8080": all(&expr.Immediate{Register: 1, Data: []byte{0x1f, 0x90}}, &expr.Redir{RegisterProtoMin: 1}),
		"ip saddr . tcp dport @allowed accept": all(v4, tcp, field(network, 12, 4), &expr.Payload{DestRegister: 9, Base: transport, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: 1, SetName: "allowed"}, &expr.Verdict{Kind: expr.VerdictAccept}),
		"meta mark vmap @fwmark-verdict":         all(mark, &expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: "fwmark-verdict"}),
		"tcp dport {…} drop":                     all(tcp, field(transport, 2, 2), &expr.Lookup{SourceRegister: 1, SetName: "__set0"}, drop),
		"icmp type 8 drop":                       all(is(expr.MetaKeyL4PROTO, unix.IPPROTO_ICMP), field(transport, 0, 1), &expr.Cmp{Register: 1, Data: []byte{8}}, drop),
		"meta l4proto tcp reject with tcp reset": all(tcp, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}),
		`comment "default/web" xt match conntrack … drop`: all(&expr.Match{Name: "comment", Info: &comment},
			&expr.Match{Name: "conntrack", Rev: 3, Info: &xt.Unknown{1, 2, 3, 4}}, drop),

		// What is not known.
		"limit … log … drop":       all(&expr.Limit{Rate: 5}, &expr.Log{}, drop),
		"fib … drop":               all(&expr.Fib{Register: 1, FlagSADDR: true, ResultOIF: true}, &expr.Cmp{Register: 1, Data: u32(0)}, drop),
		"meta nfproto ipv4 … drop": all(v4, field(network, 4, 2), &expr.Cmp{Register: 1, Data: []byte{0, 1}}, drop),
		"… drop":                   all(field(network, 16, 4), &expr.Cmp{Register: 1, Data: []byte{10, 0, 0, 1}}, drop), // of either version
		"th dport 53 accept":       all(field(transport, 2, 2), &expr.Cmp{Register: 1, Data: []byte{0, 53}}, &expr.Verdict{Kind: expr.VerdictAccept}),
		"numgen … vmap @endpoints": all(&expr.Numgen{Register: 1, Modulus: 3}, &expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: "endpoints"}),
	} {
		t.Run(want, func(t *testing.T) {
			r, err := parseNFTRule(nftMessage(t, unix.NFPROTO_INET, nil, exprs...))
			if err != nil {
				t.Fatal(err)
			}
			if r.Text != want {
				t.Errorf("got %q", r.Text)
			}
		})
	}
}

// queueTarget is xtables' NFQUEUE, as package scenarios uses it.
func queueTarget() expr.Any {
	info := make(xt.Unknown, 8)
	binary.NativeEndian.PutUint16(info[2:], 4)
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}

// TestParseNFTRule: names, handle and the comment that nft keeps with a rule.
func TestParseNFTRule(t *testing.T) {
	userData := append([]byte{0, 7}, "closed\x00"...)
	r, err := parseNFTRule(nftMessage(t, unix.NFPROTO_IPV4, userData, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Cmp{Register: 1, Data: []byte{10, 0, 0, 1}}, &expr.Verdict{Kind: expr.VerdictDrop}))
	want := decoder.NetfilterRule{Handle: 12, Table: "kube", Chain: "forward", Text: `ip saddr 10.0.0.1 drop comment "closed"`}
	if err != nil || *r != want {
		t.Errorf("got %+v, %v\nwant %+v", r, err, want)
	}
}

func FuzzParseNFTRule(f *testing.F) {
	f.Add(nftMessage(f, unix.NFPROTO_INET, []byte{0, 3, 'a', 'b', 0}, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: u32(1), Xor: u32(2)}, &expr.Cmp{Register: 1, Data: u32(7)},
		&expr.Lookup{SourceRegister: 1, SetName: "s"}, &expr.Queue{Num: 1}, queueTarget(), &expr.Verdict{Kind: expr.VerdictJump, Chain: "c"}))
	f.Add(nftMessage(f, unix.NFPROTO_IPV6, nil, &expr.Immediate{Register: 1, Data: make([]byte, 16)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV6, RegAddrMin: 1}, &expr.Masq{}, &expr.Reject{}, &expr.Ct{Key: expr.CtKeySTATE, Register: 1}))
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, m []byte) {
		_, _ = parseNFTRule(m)
		_, _ = parseNFTTable(m)
	})
}
