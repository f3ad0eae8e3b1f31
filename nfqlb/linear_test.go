// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"math"
	"slices"
)

// The linear scan that the index must agree with: every flow is looked at in
// order until one matches.

// rules are the flows for the linear scan.
type rules struct {
	list       []rule
	dsts, srcs prefixLists
}

// rule is one flow. Its port ranges bound the flow's; only of several ranges
// is more to be asked.
type rule struct {
	dst, src       int32 // place in dsts and srcs; anyAddr: no list
	dports, sports portRange
	protos         protoSet
	encap          bool
	f              *flow
}

const anyAddr = -1

func makeRules(flows []*flow) rules {
	var r rules
	for _, f := range flows {
		r.list = append(r.list, rule{
			dst: r.dsts.add(f.dsts), src: r.srcs.add(f.srcs),
			dports: f.dports.bounds(), sports: f.sports.bounds(),
			protos: f.protos, encap: f.encap != 0, f: f,
		})
	}
	return r
}

// match finds the first flow for p. Without one it says whether any flow has
// the destination.
func (r *rules) match(promiscuousPing bool, l3 []byte, p *Packet) (*flow, Reason) {
	k := &p.Key
	dst := addrIn{lists: r.dsts, hi: binary.BigEndian.Uint64(k[16:]), lo: binary.BigEndian.Uint64(k[24:])}
	src := addrIn{lists: r.srcs, hi: binary.BigEndian.Uint64(k[0:]), lo: binary.BigEndian.Uint64(k[8:])}
	sport, dport, proto := k.SrcPort(), k.DstPort(), k.Proto()
	if promiscuousPing && (proto == protoICMP || proto == protoICMPv6) {
		for i := range r.list {
			if c := &r.list[i]; !c.encap && dst.in(c.dst) && src.in(c.src) {
				return c.f, Decided
			}
		}
		return nil, r.noMatch(&dst)
	}
	bit := bitOf(proto)
	for i := range r.list {
		c := &r.list[i]
		// The cheapest test that mostly fails comes first.
		if !c.dports.contains(dport) || !dst.in(c.dst) || !src.in(c.src) ||
			c.protos != 0 && c.protos&bit == 0 || !c.sports.contains(sport) {
			continue
		}
		f := c.f
		if len(f.dports) > 1 && !f.dports.contains(dport) || len(f.sports) > 1 && !f.sports.contains(sport) {
			continue
		}
		if f.match != nil && !matchBytes(f.match, l3, p) {
			continue
		}
		return f, Decided
	}
	return nil, r.noMatch(&dst)
}

func (r *rules) noMatch(dst *addrIn) Reason {
	for i := range r.list {
		if dst.in(r.list[i].dst) {
			return NoFlow
		}
	}
	return NotVIP
}

// prefixLists are the different lists of prefixes that flows have.
type prefixLists [][]cidr

// add is the place of list, which is added if there is none like it.
func (l *prefixLists) add(list []cidr) int32 {
	if len(list) == 0 {
		return anyAddr
	}
	for i, other := range *l {
		if slices.Equal(other, list) {
			return int32(i)
		}
	}
	*l = append(*l, list)
	return int32(len(*l) - 1)
}

// addrIn asks lists for one address and remembers the answers of the first 64.
// Every address is in anyAddr.
type addrIn struct {
	lists        prefixLists
	hi, lo       uint64
	asked, found uint64
}

func (a *addrIn) in(i int32) bool {
	bit := uint64(1) << uint32(i) // 0 from 64 on, and for anyAddr
	if a.asked&bit != 0 {
		return a.found&bit != 0
	}
	return a.ask(i, bit)
}

func (a *addrIn) ask(i int32, bit uint64) bool {
	if i == anyAddr {
		return true
	}
	a.asked |= bit
	for _, c := range a.lists[i] {
		if c.contains(a.hi, a.lo) {
			a.found |= bit
			return true
		}
	}
	return false
}

// bounds is the range from the lowest to the highest port of s, and all ports
// for an empty set. It says all there is to say about a set of one range.
func (s portSet) bounds() portRange {
	if len(s) == 0 {
		return portRange{0, math.MaxUint16}
	}
	return portRange{s[0].first, s[len(s)-1].last}
}

func (r portRange) contains(port uint16) bool { return port-r.first <= r.last-r.first }
