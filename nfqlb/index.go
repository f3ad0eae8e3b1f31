// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"math/bits"
)

// index finds the first flow for a packet without looking at the others. Each
// field of the packet gives the set of the flows that accept it, in matching
// order, and the lowest bit that all sets have in common is the flow. Words of
// a set that are 0 are not even read, so the time hardly depends on the number
// of flows; at worst, if every 64th flow accepts each single field but none all
// of them, it grows by a few nanoseconds for every 64 flows. It never changes.
//
// Its size is bounded by the flows': a set of one flow costs nothing, another
// one a reference per 512 flows and a cache line per flow it has more than the
// set it extends.
type index struct {
	list           []*flow
	rows           *bitRows
	dsts, srcs     prefixIndex
	dports, sports *portIndex
	protos         [setSCTP + 1]flowRow // by bitOf
	pings          flowRow              // what promiscuous ping can match
	bytes          byteIndex
}

func makeIndex(flows []*flow) *index {
	x := &index{list: flows, rows: makeBitRows(len(flows))}
	x.dsts = makePrefixIndex(x.rows, flows, func(f *flow) []cidr { return f.dsts })
	x.srcs = makePrefixIndex(x.rows, flows, func(f *flow) []cidr { return f.srcs })
	x.dports = makePortIndex(x.rows, flows, func(f *flow) portSet { return f.dports })
	x.sports = makePortIndex(x.rows, flows, func(f *flow) portSet { return f.sports })
	accepting := func(accepts func(*flow) bool) flowRow {
		row := x.rows.clone(noFlows)
		for i, f := range flows {
			if accepts(f) {
				x.rows.set(row, i)
			}
		}
		return x.rows.orAll(row)
	}
	for _, bit := range []protoSet{0, setTCP, setUDP, setSCTP} {
		x.protos[bit] = accepting(func(f *flow) bool { return f.protos == 0 || f.protos&bit != 0 })
	}
	x.pings = accepting(func(f *flow) bool { return f.encap == 0 })
	x.bytes = makeByteIndex(x.rows, flows)
	return x
}

// match finds the first flow for p. Without one it says whether any flow has
// the destination.
func (x *index) match(promiscuousPing bool, l3 []byte, p *Packet) (*flow, Reason) {
	k := &p.Key
	dst := x.dsts.flows(binary.BigEndian.Uint64(k[16:]), binary.BigEndian.Uint64(k[24:]))
	src := x.srcs.flows(binary.BigEndian.Uint64(k[0:]), binary.BigEndian.Uint64(k[8:]))
	proto := k.Proto()
	ping := promiscuousPing && (proto == protoICMP || proto == protoICMPv6)
	other, dport, sport := x.pings, allFlows, allFlows
	if !ping {
		other, dport, sport = x.protos[bitOf(proto)], x.dports.flows(k.DstPort()), x.sports.flows(k.SrcPort())
	}
	var i int
	if (dst|src|dport|sport)&oneFlow != 0 {
		i = x.rows.only(dst, src, other, dport, sport)
	} else {
		i = x.rows.first(dst, src, other, dport, sport)
	}
	if i >= 0 && x.list[i].match != nil && !ping {
		i = x.matchBytes([]flowRow{dst, src, other, dport, sport}, l3, p)
	}
	if i >= 0 {
		return x.list[i], Decided
	}
	if x.rows.empty(dst) {
		return nil, NotVIP
	}
	return nil, NoFlow
}

// only is first if one of the sets but c is of one flow.
func (r *bitRows) only(a, b, c, d, e flowRow) int {
	one := a
	for _, row := range [...]flowRow{b, d, e} {
		if one&oneFlow == 0 {
			one = row
		}
	}
	i := int(one &^ oneFlow)
	if r.has(a, i) && r.has(b, i) && r.has(c, i) && r.has(d, i) && r.has(e, i) {
		return i
	}
	return -1
}

// first is the first flow that is in all five sets, -1 if none is.
func (r *bitRows) first(a, b, c, d, e flowRow) int {
	for s := range r.sums {
		n := flowRow(r.sums)
		at := flowRow(s)
		sum := r.sum[a*n+at] & r.sum[b*n+at] & r.sum[c*n+at] & r.sum[d*n+at] & r.sum[e*n+at]
		for sum != 0 {
			w := bits.TrailingZeros64(sum)
			block := s*(64/blockWords) + w/blockWords
			ba, bb, bc, bd, be := r.block(a, block), r.block(b, block), r.block(c, block), r.block(d, block), r.block(e, block)
			// In a block that is looked at, words of 0 cost less than to skip.
			for i := w % blockWords; i < blockWords; i++ {
				if v := ba[i] & bb[i] & bc[i] & bd[i] & be[i]; v != 0 {
					return (block*blockWords+i)*64 + bits.TrailingZeros64(v)
				}
			}
			sum &= ^uint64(0) << (w | (blockWords - 1)) << 1
		}
	}
	return -1
}
