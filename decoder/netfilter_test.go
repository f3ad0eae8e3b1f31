// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"testing"
	"time"

	"waymark/bpf"
	. "waymark/decoder"
)

// enum nf_inet_hooks and NF_*, include/uapi/linux/netfilter.h.
const (
	prerouting, forward, postrouting = 0, 2, 4
	nfDrop, nfAccept, nfQueue        = 0, 1, 3
)

const tableHandle = 7

// chainExt is a base chain of table inet node, with policy drop.
func chainExt(chain string, hook uint8) bpf.NetfilterExt {
	x := bpf.NetfilterExt{TableHandle: tableHandle, NfHook: hook, Family: 1, Policy: nfDrop}
	copy(x.Table[:], "node")
	copy(x.BaseChain[:], chain)
	if hook != forward {
		x.Policy = nfAccept
	}
	return x
}

// byRule lets the rule of a chain decide; handle 0: it was not found.
func byRule(x bpf.NetfilterExt, chain string, handle uint64) bpf.NetfilterExt {
	x.Flags |= bpf.NetfilterRule
	x.Rule = handle
	copy(x.Chain[:], chain)
	return x
}

// chain notes that a chain of lb has decided.
func (p *packet) chain(x bpf.NetfilterExt, verdict int32) *packet {
	p.ext, p.rec.Verdict = bpf.EncodeExt(x), verdict
	p.after(us).write(bpf.HookNFTChain, nsLB, nsm1)
	p.ext, p.rec.Verdict = nil, 0
	return p
}

// dropping notes what is known of a packet that a chain has dropped and freed.
func (p *packet) dropping(x bpf.NetfilterExt, d time.Duration) *packet {
	const dropped = 1<<16 | 2 // NF_DROP_REASON: EPERM, NF_STOLEN
	r := bpf.Record{
		TimeNs: p.after(d).now, Trail: p.rec.Trail, Skb: p.rec.Skb, Netns: nsLB, Ifindex: nsm1, Mark: p.rec.Mark,
		Hook: uint16(bpf.HookNFTChain), Verdict: dropped,
	}
	p.s.add(r.Encode(bpf.EncodeExt(x), nil))
	return p
}

// legacy notes that a table of iptables-legacy has decided.
func (p *packet) legacy(table string, hook uint8, verdict int32) *packet {
	x := bpf.NetfilterExt{NfHook: hook, Family: 2}
	copy(x.Table[:], table)
	p.ext, p.rec.Verdict = bpf.EncodeExt(x), verdict
	p.after(us).write(bpf.HookIPTTable, nsLB, nsm1)
	p.ext, p.rec.Verdict = nil, 0
	return p
}

// TestNetfilter: chains that let packets pass are told in JSON alone; what was
// decided before them, and is known only later, comes before them.
func TestNetfilter(t *testing.T) {
	s := newStream(t, newTrench())
	s.contexts(&Context{NetfilterRule: &NetfilterRule{
		Netns: nsLB, TableHandle: tableHandle, Handle: 4, Table: "node", Chain: "nfqlb", Text: "ip daddr @ipv4-vips counter queue to 0-3",
	}})
	syn4 := func(trail, at uint64) *packet {
		return s.tcp(trail, at, client4, uint16(40000+trail), vip4, 5000, syn).requestToLB()
	}

	// Queued by a rule, then accepted by policies and by a rule that was not found.
	queued := byRule(chainExt("nfqlb", prerouting), "nfqlb", 4)
	accepted := chainExt("forward", forward)
	accepted.Policy = nfAccept
	unknown := byRule(chainExt("target-hits", postrouting), "", 0)
	syn4(1, 0).chain(chainExt("in", prerouting), nfAccept).chain(queued, nfQueue|2<<16).enqueue(7, 0).mark(markT1).verdict(7, 1).
		chain(markedBefore(accepted, markT1), nfAccept).chain(markedBefore(unknown, markT1), nfAccept).balanced().toTarget()

	// Without the queue's records the balancer's decision still comes first.
	syn4(2, 1_000_000).chain(queued, nfQueue|2<<16).mark(markT1).chain(markedBefore(accepted, markT1), nfAccept).balanced().toTarget()

	// A chain sets the mark itself.
	syn4(3, 2_000_000).mark(markT1).chain(chainExt("mangle", prerouting), nfAccept).balanced().toTarget()

	// A rule in a chain that was jumped to, whose names were cut off in the record.
	const long = "a-name-of-more-than-thirty-one-bytes"
	s.contexts(&Context{NetfilterRule: &NetfilterRule{
		Netns: nsLB, TableHandle: tableHandle, Handle: 9, Table: "node", Chain: long, Text: "tcp dport 5000 accept",
	}})
	syn4(4, 3_000_000).chain(byRule(chainExt("input", 1), long[:31], 9), nfAccept)

	// iptables-legacy.
	syn4(5, 4_000_000).legacy("mangle", prerouting, nfAccept).legacy("filter", forward, nfDrop).
		drop(nsLB, nsm1, us, rNetfilter, atNFTChain)
	golden(t, "netfilter", s.run(Options{}))
}

func markedBefore(x bpf.NetfilterExt, mark uint32) bpf.NetfilterExt {
	x.MarkBefore = mark
	return x
}
