// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"cmp"
	"math/bits"
	"slices"
)

// maxByteFields is how many different fields of byte matches are indexed. Of
// flows that differ in others only, one after the other is looked at.
const maxByteFields = 8

// byteIndex finds the flows whose byte matches accept a packet, by the values
// of the fields they look at.
type byteIndex struct {
	plain  flowRow // flows without byte matches
	fields []byteField
}

// byteField is a place and mask that several flows look at.
type byteField struct {
	at     byteMatch          // its value is 0
	values map[uint32]flowRow // the flows that want this value there, and other
	other  flowRow            // the flows that do not look there
}

func makeByteIndex(rows *bitRows, flows []*flow) byteIndex {
	x := byteIndex{plain: allFlows}
	users := make(map[byteMatch][]int)
	for i, f := range flows {
		for _, m := range f.match {
			m.value = 0
			if u := users[m]; len(u) == 0 || u[len(u)-1] != i {
				users[m] = append(u, i)
			}
		}
	}
	if len(users) == 0 {
		return x
	}
	x.plain = rows.clone(noFlows)
	for i, f := range flows {
		if f.match == nil {
			rows.set(x.plain, i)
		}
	}
	var fields []byteMatch
	for m, u := range users {
		if len(u) > 1 { // of one flow it is as fast to look at the flow
			fields = append(fields, m)
		}
	}
	slices.SortFunc(fields, func(a, b byteMatch) int {
		return cmp.Or(cmp.Compare(len(users[b]), len(users[a])), cmp.Compare(a.String(), b.String()))
	})
	for _, m := range fields[:min(len(fields), maxByteFields)] {
		x.fields = append(x.fields, makeByteField(rows, flows, m, users[m]))
	}
	return x
}

func makeByteField(rows *bitRows, flows []*flow, at byteMatch, users []int) byteField {
	f := byteField{at: at, values: make(map[uint32]flowRow), other: rows.clone(noFlows)}
	uses := make([]bool, len(flows))
	wanted := make(map[uint32][]int)
	for _, i := range users {
		uses[i] = true
		for _, m := range flows[i].match {
			value := m.value
			if m.value = 0; m == at {
				// A flow that wants two values is in both sets. It is not
				// taken: every flow found is looked at itself.
				wanted[value] = append(wanted[value], i)
			}
		}
	}
	for i := range flows {
		if !uses[i] {
			rows.set(f.other, i)
		}
	}
	for value, list := range wanted {
		row := rows.clone(f.other)
		for _, i := range list {
			rows.set(row, i)
		}
		f.values[value] = rows.done(row)
	}
	return f
}

// matchBytes is the first flow in all sets whose byte matches, if it has any,
// accept the packet; -1 if there is none.
func (x *index) matchBytes(sets []flowRow, l3 []byte, p *Packet) int {
	var all [5 + maxByteFields + 1]flowRow
	n := copy(all[:], sets)
	if off, proto, ok := transport(l3, p); !ok {
		all[n] = x.bytes.plain
		n++
	} else {
		for i := range x.bytes.fields {
			if f := &x.bytes.fields[i]; f.at.proto == proto {
				all[n] = f.other
				if row, ok := f.values[f.at.read(l3[off:])]; ok {
					all[n] = row
				}
				n++
			}
		}
	}
	sets = all[:n]
	r := x.rows
	for _, one := range sets {
		if one&oneFlow == 0 {
			continue
		}
		i := int(one &^ oneFlow)
		for _, row := range sets {
			if !r.has(row, i) {
				return -1
			}
		}
		if m := x.list[i].match; m != nil && !matchBytes(m, l3, p) {
			return -1
		}
		return i
	}
	for s := range r.sums {
		sum := ^uint64(0)
		for _, row := range sets {
			sum &= r.sum[int(row)*r.sums+s]
		}
		for ; sum != 0; sum &= sum - 1 {
			w := s*64 + bits.TrailingZeros64(sum)
			v := ^uint64(0)
			for _, row := range sets {
				v &= r.word(row, w)
			}
			for ; v != 0; v &= v - 1 {
				i := w*64 + bits.TrailingZeros64(v)
				if m := x.list[i].match; m == nil || matchBytes(m, l3, p) {
					return i
				}
			}
		}
	}
	return -1
}
