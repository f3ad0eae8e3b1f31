// SPDX-License-Identifier: Apache-2.0

// The hops of a packet through the chains of netfilter.

package decoder

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"waymark/bpf"
)

// NetfilterDetail tells what a chain of nftables (netfilter/nft) or a table of
// iptables-legacy (netfilter/iptables) decided.
type NetfilterDetail struct {
	Hook      string `json:"nf_hook"` // prerouting, ...
	Family    string `json:"family"`  // of the table: inet, ip, ip6, bridge, netdev
	Table     string `json:"table"`
	Chain     string `json:"chain"`                // the deciding rule's, else the base chain
	BaseChain string `json:"base_chain,omitempty"` // where that is another one
	Rule      uint64 `json:"rule,omitempty"`       // handle of the rule that gave the verdict
	Text      string `json:"text,omitempty"`       // of that rule; "…" is what waymark cannot say
	Policy    bool   `json:"policy,omitempty"`     // the verdict is the base chain's policy
	Queue     *int   `json:"queue,omitempty"`      // NFQUEUE number of the verdict queue

	changed bool // the chain changed the mark
	byRule  bool // known or not
	legacy  bool // iptables-legacy
}

func (*NetfilterDetail) detail() {}

// nfFamilies are the names of NFPROTO_* (include/uapi/linux/netfilter.h).
var nfFamilies = map[uint8]string{1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

// Families whose hooks are numbered by themselves.
const nfNetdev = 5

// Hooks of netfilter after prerouting, of a packet that came in.
const (
	nfInput = 1 // NF_INET_LOCAL_IN
	nfLast  = 4 // NF_INET_POST_ROUTING
)

// netfilterHook names enum nf_inet_hooks; bridge's are the same, netdev has two.
func netfilterHook(family, hook uint8) string {
	switch {
	case family == nfNetdev && hook == 1:
		return "egress"
	case family == nfNetdev, hook == 5:
		return "ingress"
	}
	return nameAt(nfHooks, int(hook))
}

// nfDecision names what a chain returned. "Stolen" with an errno is a drop that
// is done already (NF_DROP_REASON, include/linux/netfilter.h).
func nfDecision(v int32) string {
	if s := nfVerdict(v); s != "stolen" || uint32(v)>>16 == 0 {
		return s
	}
	return "drop"
}

// zeroEnded is the text before the first zero byte.
func zeroEnded(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

func netfilterDetail(r *bpf.Record, x *bpf.NetfilterExt) *NetfilterDetail {
	family := nfFamilies[x.Family]
	if family == "" {
		family = strconv.Itoa(int(x.Family))
	}
	d := &NetfilterDetail{
		Hook: netfilterHook(x.Family, x.NfHook), Family: family, Table: zeroEnded(x.Table[:]),
		legacy: bpf.Hook(r.Hook) == bpf.HookIPTTable, byRule: x.Flags&bpf.NetfilterRule != 0,
	}
	if nfVerdict(r.Verdict) == "queue" {
		number := int(uint32(r.Verdict) >> 16)
		d.Queue = &number
	}
	if d.legacy {
		d.Chain = d.Hook // as iptables calls it, in capitals
		return d
	}
	d.Chain, d.Rule = zeroEnded(x.BaseChain[:]), x.Rule
	d.Policy = !d.byRule && nfDecision(r.Verdict) == nameAt(nfVerdicts, int(x.Policy))
	if chain := zeroEnded(x.Chain[:]); chain != "" && chain != d.Chain {
		d.Chain, d.BaseChain = chain, d.Chain
	}
	return d
}

// sent notes where a packet that this namespace sends begins: before the chains
// of output, whose hops follow.
func (b *builder) sent(br *branch, e *event) {
	br.sentAt, br.mark = e, e.rec.Mark
	br.last, br.seen = recordTuple(&e.rec), true
	b.j.tuples = append(b.j.tuples, br.last)
}

// filtered is the hop of a packet through a chain.
func (b *builder) filtered(br *branch, e *event) {
	x, err := bpf.DecodeExt[bpf.NetfilterExt](b.o.ext(e))
	if err != nil {
		return // of a recording that is damaged there
	}
	d := netfilterDetail(&e.rec, &x)
	if r := b.w.rules[netfilterRuleID{e.rec.Netns, x.TableHandle, x.Rule}]; r != nil && x.Rule != 0 {
		// Names in the record may be cut off.
		d.Table, d.Text = r.Table, r.Text
		if d.Chain != r.Chain && d.BaseChain != "" {
			d.Chain = r.Chain
		}
	}
	hook := "nft"
	if d.legacy {
		hook = "iptables"
	}
	h := b.hop(br, e, GroupNetfilter, hook)
	h.Verdict, h.Detail = nfDecision(e.rec.Verdict), d
	here := br.dev != nil && br.dev.rec.Netns == e.rec.Netns
	marked := here || br.dev == nil && br.sentAt != nil
	if mark := e.rec.Mark; marked && mark != br.mark && x.MarkBefore == br.mark {
		was := br.mark
		h.Mark, h.markWas, br.mark, d.changed = &mark, &was, mark, true
	}
	br.filter = nil
	if h.Verdict == "drop" {
		br.filter = d
	}
	if here && br.routed == 0 && x.Family != nfNetdev && x.NfHook >= nfInput && x.NfHook <= nfLast {
		br.routed = len(b.j.Hops)
	}
	b.j.Hops = append(b.j.Hops, h)
}

// insert adds a hop that was decided before netfilter's hops for routed packets,
// and is known only now: routing itself, or what a balancer decided before.
func (b *builder) insert(br *branch, h Hop) {
	at := br.routed
	if at == 0 {
		b.j.Hops = append(b.j.Hops, h)
		return
	}
	h.TNs = b.j.Hops[at].TNs
	b.j.Hops = slices.Insert(b.j.Hops, at, h)
	for i := range b.branches {
		for _, index := range []*int{&b.branches[i].routed, &b.branches[i].cutHop} {
			if *index >= at {
				*index++
			}
		}
	}
}

// dull tells that the chain let the packet pass as if it were not there.
func (d *NetfilterDetail) dull(verdict string) bool {
	return verdict == "accept" && !d.byRule && !d.changed
}

// place is the chain as nft(8) names it.
func (d *NetfilterDetail) place() string { return d.Family + " " + d.Table + " " + d.Chain }

// rule names the rule that gave the verdict.
func (d *NetfilterDetail) rule() string {
	switch {
	case d.Rule == 0:
		return "a rule"
	case d.Text == "":
		return fmt.Sprintf("rule %d", d.Rule)
	}
	return fmt.Sprintf("rule %d: %s", d.Rule, d.Text)
}

func (d *NetfilterDetail) text(verdict string) string {
	if d.Queue != nil {
		verdict += " " + strconv.Itoa(*d.Queue)
	}
	s := "netfilter: " + d.Hook + " "
	if d.legacy {
		return s + "iptables " + d.Table + " → " + verdict
	}
	s += d.place() + " → " + verdict
	switch {
	case d.byRule:
		s += " by " + d.rule()
	case d.Policy:
		s += " by policy"
	}
	return s
}
