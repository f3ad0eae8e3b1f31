// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"cmp"
	"math/bits"
	"slices"
)

// prefixIndex finds the flows whose prefixes contain an address: a binary
// search over the lengths that occur, with one hash table for all lengths
// (Waldvogel et al.: Scalable High Speed IP Routing Lookups, SIGCOMM 1997). A
// shorter prefix on the search's path to a longer one is in the table too, as
// a signpost.
type prefixIndex struct {
	other   flowRow // for addresses in no prefix
	lengths []prefixLength
	table   []prefixEntry // open addressing, at most a quarter full; a power of two
	used    int
}

// prefixLength is the mask of a length.
type prefixLength struct{ maskHi, maskLo uint64 }

func (c cidr) length() int { return bits.OnesCount64(c.maskHi) + bits.OnesCount64(c.maskLo) }

// prefixEntry is a prefix, and the flows that contain all of it.
type prefixEntry struct {
	hi, lo uint64
	length uint32 // place in lengths + 1; 0: the entry is free
	row    flowRow
}

// ownedPrefix is a prefix of one flow.
type ownedPrefix struct {
	cidr
	flow int
}

// makePrefixIndex indexes list(flow), where no prefix means every address.
func makePrefixIndex(rows *bitRows, flows []*flow, list func(*flow) []cidr) prefixIndex {
	x := prefixIndex{other: allFlows}
	var prefixes []ownedPrefix
	var limited []bool
	var lengths [129]prefixLength
	for i, f := range flows {
		l := list(f)
		if len(l) == 0 || slices.Contains(l, cidr{}) {
			continue
		}
		if limited == nil {
			limited = make([]bool, len(flows))
		}
		limited[i] = true
		for _, c := range l {
			prefixes = append(prefixes, ownedPrefix{c, i})
			lengths[c.length()] = prefixLength{c.maskHi, c.maskLo}
		}
	}
	if prefixes == nil {
		return x
	}
	for _, m := range lengths {
		if m != (prefixLength{}) {
			x.lengths = append(x.lengths, m)
		}
	}
	x.other = rows.clone(noFlows)
	for i := range flows {
		if !limited[i] {
			rows.set(x.other, i)
		}
	}
	x.fill(rows, prefixes)
	return x
}

// fill visits the prefixes so that each comes right behind the one that
// contains it and what that contains.
func (x *prefixIndex) fill(rows *bitRows, prefixes []ownedPrefix) {
	slices.SortFunc(prefixes, func(a, b ownedPrefix) int {
		return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo), cmp.Compare(a.maskHi, b.maskHi), cmp.Compare(a.maskLo, b.maskLo))
	})
	x.table = make([]prefixEntry, 4)
	type outer struct {
		cidr
		length int
		row    flowRow
	}
	around := []outer{{length: -1, row: x.other}} // all that contain the current one
	for i := 0; i < len(prefixes); {
		c := prefixes[i].cidr
		for len(around) > 1 && !around[len(around)-1].contains(c.hi, c.lo) {
			around = around[:len(around)-1]
		}
		row := rows.clone(around[len(around)-1].row)
		for ; i < len(prefixes) && prefixes[i].cidr == c; i++ {
			rows.set(row, prefixes[i].flow)
		}
		row = rows.done(row)
		own := slices.Index(x.lengths, prefixLength{c.maskHi, c.maskLo})
		around = append(around, outer{c, own, row})

		for lo, hi := 0, len(x.lengths); lo < hi; {
			mid := (lo + hi) / 2
			if mid > own {
				hi = mid
				continue
			}
			best := len(around) - 1
			for around[best].length > mid {
				best--
			}
			m := x.lengths[mid]
			x.put(prefixEntry{c.hi & m.maskHi, c.lo & m.maskLo, uint32(mid) + 1, around[best].row})
			lo = mid + 1
			if mid == own {
				break
			}
		}
	}
}

func (x *prefixIndex) put(e prefixEntry) {
	if x.used*4 >= len(x.table) {
		old := x.table
		x.table, x.used = make([]prefixEntry, 2*len(old)), 0
		for _, o := range old {
			if o.length != 0 {
				x.put(o)
			}
		}
	}
	if at := x.find(e.hi, e.lo, e.length); at.length == 0 {
		*at = e
		x.used++
	}
}

// find is the entry of a prefix, or the free one where it belongs.
func (x *prefixIndex) find(hi, lo uint64, length uint32) *prefixEntry {
	h, l := bits.Mul64(hi^0x9e3779b97f4a7c15+uint64(length), lo^0xc2b2ae3d27d4eb4f)
	for i := h ^ l; ; i++ {
		e := &x.table[i&uint64(len(x.table)-1)]
		if e.lo == lo && e.hi == hi && e.length == length || e.length == 0 {
			return e
		}
	}
}

// flows are those of which a prefix contains the address.
func (x *prefixIndex) flows(hi, lo uint64) flowRow {
	row := x.other
	for from, to := 0, len(x.lengths); from < to; {
		mid := int(uint(from+to) / 2)
		m := &x.lengths[mid]
		if e := x.find(hi&m.maskHi, lo&m.maskLo, uint32(mid)+1); e.length != 0 {
			row, from = e.row, mid+1
		} else {
			to = mid
		}
	}
	return row
}
