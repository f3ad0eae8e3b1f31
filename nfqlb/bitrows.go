// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"math/bits"
	"slices"
)

// Sets of flows, one bit per flow in matching order. An index has thousands of
// them that differ in few bits, so they are kept in blocks which equal parts
// of a set and the set it was cloned from share.

// flowRow is a set: the number of its row in bitRows, or if it has one flow
// only, as most have, oneFlow and that flow's place.
type flowRow uint32

const oneFlow flowRow = 1 << 31

// The first two rows of every bitRows.
const (
	noFlows flowRow = iota
	allFlows
)

const blockWords = 8 // a cache line

type flowBlock [blockWords]uint64

// bitRows are the sets. Only the row made last may change.
type bitRows struct {
	sums, refs int // a row's number of words in sum and of entries in ref

	sum    []uint64 // one bit per word of the row, set if the word is not 0
	ref    []uint32 // the row's blocks
	blocks []flowBlock
	shared int // blocks below belong to rows made before the last one
}

// makeBitRows has the rows noFlows and allFlows for n flows.
func makeBitRows(n int) *bitRows {
	words := (n + 63) / 64
	r := &bitRows{sums: (words + 63) / 64, refs: (words + blockWords - 1) / blockWords, blocks: make([]flowBlock, 1)}
	r.sum = make([]uint64, r.sums)
	r.ref = make([]uint32, r.refs)
	all := r.clone(noFlows)
	for i := range n {
		r.set(all, i)
	}
	return r
}

// clone makes a row like from.
func (r *bitRows) clone(from flowRow) flowRow {
	if from&oneFlow != 0 {
		row := r.clone(noFlows)
		r.set(row, int(from&^oneFlow))
		return row
	}
	i, j := int(from)*r.sums, int(from)*r.refs
	row := flowRow(r.rows())
	r.sum = append(r.sum, r.sum[i:i+r.sums]...)
	r.ref = append(r.ref, r.ref[j:j+r.refs]...)
	r.shared = len(r.blocks)
	return row
}

// done is the last row in its shortest form.
func (r *bitRows) done(row flowRow) flowRow {
	flow := -1
	for i, sum := range r.sum[int(row)*r.sums:][:r.sums] {
		if sum == 0 {
			continue
		}
		w := i*64 + bits.TrailingZeros64(sum)
		v := r.word(row, w)
		if flow >= 0 || sum&(sum-1) != 0 || v&(v-1) != 0 {
			return r.orAll(row)
		}
		flow = w*64 + bits.TrailingZeros64(v)
	}
	if flow < 0 {
		return row
	}
	r.drop(row)
	return oneFlow | flowRow(flow)
}

// orAll is allFlows if the last row is the same set, else the row.
func (r *bitRows) orAll(row flowRow) flowRow {
	for i := range r.refs {
		if *r.block(row, i) != *r.block(allFlows, i) {
			return row
		}
	}
	r.drop(row)
	return allFlows
}

// drop takes the last row back.
func (r *bitRows) drop(row flowRow) {
	r.sum = r.sum[:int(row)*r.sums]
	r.ref = r.ref[:int(row)*r.refs]
	r.blocks = r.blocks[:r.shared]
}

func (r *bitRows) rows() int {
	if r.refs == 0 { // no flows: all rows are the same
		return int(allFlows)
	}
	return len(r.ref) / r.refs
}

func (r *bitRows) set(row flowRow, flow int) {
	w := flow / 64
	b := r.own(row, w/blockWords)
	b[w%blockWords] |= 1 << (flow % 64)
	r.sum[int(row)*r.sums+w/64] |= 1 << (w % 64)
}

func (r *bitRows) clear(row flowRow, flow int) {
	w := flow / 64
	b := r.own(row, w/blockWords)
	if b[w%blockWords] &^= 1 << (flow % 64); b[w%blockWords] == 0 {
		r.sum[int(row)*r.sums+w/64] &^= 1 << (w % 64)
	}
}

// own is a block of the last row, which it shares with none afterwards.
func (r *bitRows) own(row flowRow, i int) *flowBlock {
	ref := &r.ref[int(row)*r.refs+i]
	if int(*ref) < r.shared {
		r.blocks = append(r.blocks, r.blocks[*ref])
		*ref = uint32(len(r.blocks) - 1)
	}
	return &r.blocks[*ref]
}

// word is the row's word w.
func (r *bitRows) word(row flowRow, w int) uint64 { return r.block(row, w/blockWords)[w%blockWords] }

// block is the row's block i.
func (r *bitRows) block(row flowRow, i int) *flowBlock {
	return &r.blocks[r.ref[int(row)*r.refs+i]]
}

// has tells whether the flow is in the set.
func (r *bitRows) has(row flowRow, flow int) bool {
	switch {
	case row&oneFlow != 0:
		return row == oneFlow|flowRow(flow)
	case row == allFlows: // what most fields of most packets give
		return true
	}
	return r.word(row, flow/64)>>(flow%64)&1 != 0
}

func (r *bitRows) empty(row flowRow) bool {
	return row&oneFlow == 0 &&
		!slices.ContainsFunc(r.sum[int(row)*r.sums:][:r.sums], func(w uint64) bool { return w != 0 })
}
