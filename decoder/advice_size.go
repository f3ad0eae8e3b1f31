// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"waymark/bpf"
)

// sizeAdvice is what waymark knows about packets that a router's way out is too
// narrow for. The sender learns that by ICMP, unless that message is lost.
var sizeAdvice = []adviceRow{
	{
		question: "M33", functions: verdictFunctions, when: func(f *dropFacts) bool { return laterFragment(f.rec) && f.balancer() != nil },
		because: "it is a fragment that came to the balancer in {netns} before the first one of its packet, which alone has the ports: the kernel there does not put fragments together before the queue",
		advice:  "see whether `nft list table inet meridio-defrag` in {netns} is empty or missing: restarting the load balancer makes the table, and until then `{defragRules}` does as much",
	},
	{
		question: "G7", reasons: []string{"PKT_TOO_BIG"}, when: func(f *dropFacts) bool { return tooBigToForward(f) && f.messageFilter() != nil },
		because: "it has {length} bytes, more than {netns}/{out} takes (MTU {outMTU}), and {src} is not told: chain {messageChain} in {netns} drops the ICMP message about it, by {messageRule}",
		advice:  "accept ICMP \"fragmentation needed\" (type 3 code 4) and ICMPv6 \"packet too big\" (type 2) before that rule in `nft -a list chain {messageChain}` in {netns}, or give the way the same MTU throughout",
	},
	{
		question: "G7", reasons: []string{"PKT_TOO_BIG"}, when: func(f *dropFacts) bool { return tooBigToForward(f) && f.lostMessage() != nil },
		because: "it has {length} bytes, more than {netns}/{out} takes (MTU {outMTU}), and {src} is not told: netfilter in {netns} drops the ICMP message about it",
		advice:  "accept ICMP \"fragmentation needed\" (type 3 code 4) and ICMPv6 \"packet too big\" (type 2) in the output chains of {netns} (`nft list ruleset`, `iptables-save -c`), or give the way the same MTU throughout",
	},
	{
		question: "G7", reasons: []string{"PKT_TOO_BIG"}, when: tooBigToForward,
		because: "it has {length} bytes, more than {netns}/{out} takes (MTU {outMTU}); {netns} tells {src} so by ICMP",
		advice:  "the sender sends less when it is told; if it goes on sending as much, see who drops ICMP \"fragmentation needed\" and ICMPv6 \"packet too big\" on the way to {src}, or give the way the same MTU throughout",
	},
}

// tooBigToForward tells a packet that its way out of a router is too narrow for. A
// load balancer's are explained by its own settings.
func tooBigToForward(f *dropFacts) bool {
	d := f.wayOut()
	return d != nil && d.MTU > 0 && f.ipLen() > d.MTU && !marked(f) && !f.isVIP(f.src) && !f.isVIP(f.dst)
}

// wayOut is the device that the packet's route leads to; nil: it is not known.
func (f *dropFacts) wayOut() *Device {
	r := f.lookup()
	if r == nil || r.Uncertain || r.Type != "unicast" || len(r.Route.Nexthops) == 0 || f.view == nil {
		return nil
	}
	name := r.Route.Nexthops[0].Dev
	for _, v := range f.b.w.viewsOf(f.e.view, f.netns) {
		for _, d := range v.devices {
			if d.Name == name {
				return d
			}
		}
	}
	return nil
}

// Of messages about packets that are too big: how many lost ones are remembered, and
// how long before or after the packet that one is about they can be.
const (
	maxLostMessages  = 1024
	lostMessageRange = 1e9 // ns
)

// messageKey names where messages are lost, and whom they would have told.
type messageKey struct {
	netns uint32
	to    netip.Addr
}

// lostMessages remembers the last message to each that a filter dropped: the kernel
// sends it before it drops the packet itself.
type lostMessages struct {
	last map[messageKey]bpf.Record
	ring []messageKey
	next int
}

// note takes a record; true: it tells of messages that are lost where none were.
func (m *lostMessages) note(r *bpf.Record, w *world) bool {
	if bpf.Hook(r.Hook) != bpf.HookKfreeSkb || !tellsTooBig(r) || r.Netns == 0 || !slices.Contains([]string{"nft_do_chain", "nf_hook_slow"}, function(w.symbol(r.Location))) {
		return false
	}
	k := messageKey{r.Netns, r.DstAddr()}
	if m.last == nil {
		m.last = map[messageKey]bpf.Record{}
	}
	_, known := m.last[k]
	if !known {
		if len(m.ring) < maxLostMessages {
			m.ring = append(m.ring, k)
		} else {
			delete(m.last, m.ring[m.next])
			m.ring[m.next] = k
			m.next = (m.next + 1) % maxLostMessages
		}
	}
	m.last[k] = *r
	return !known
}

// tellsTooBig tells ICMP "fragmentation needed" (RFC 1191) and ICMPv6 "packet too
// big" (RFC 4443).
func tellsTooBig(r *bpf.Record) bool {
	return r.Proto == protoICMP && r.IcmpType == 3 && r.IcmpCode == 4 || r.Proto == protoICMPv6 && r.IcmpType == 2
}

// lostMessage is the one to the packet's sender that was lost about then; nil: none
// was.
func (f *dropFacts) lostMessage() *bpf.Record {
	r, ok := f.b.s.messages.last[messageKey{f.netns, f.src}]
	if !ok || max(r.TimeNs, f.rec.TimeNs)-min(r.TimeNs, f.rec.TimeNs) > lostMessageRange {
		return nil
	}
	return &r
}

// messageFilter is what dropped it; nil: that is not known.
func (f *dropFacts) messageFilter() *NetfilterDetail {
	r := f.lostMessage()
	if r == nil {
		return nil
	}
	m := *f
	m.br, m.rec, m.src, m.dst, m.local = &branch{}, r, r.SrcAddr(), r.DstAddr(), false
	m.fn = function(f.b.w.symbol(r.Location))
	return m.droppedBy()
}

// sizeTexts are the facts that sizeAdvice names.
var sizeTexts = map[string]func(*dropFacts) string{
	// A rule that asks for the state of connections has the kernel reassemble.
	"defragRules": func(*dropFacts) string {
		return "nft 'add table inet meridio-defrag; add chain inet meridio-defrag pre { type filter hook prerouting priority raw; }; " +
			"add rule inet meridio-defrag pre notrack; add rule inet meridio-defrag pre ct state untracked accept'"
	},
	"out":          func(f *dropFacts) string { return f.wayOut().Name },
	"outMTU":       func(f *dropFacts) string { return fmt.Sprint(f.wayOut().MTU) },
	"messageChain": func(f *dropFacts) string { return f.messageFilter().place() },
	"messageRule":  func(f *dropFacts) string { return f.messageFilter().rule() },
}

func init() { maps.Copy(factTexts, sizeTexts) }
