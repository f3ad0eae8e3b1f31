// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// Sets that share blocks behave as sets that share nothing.
func TestBitRowsAreSets(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{1, 64, 65, 5000, 20000} {
		rows := makeBitRows(n)
		sets := map[flowRow]map[int]bool{noFlows: {}}
		made := []flowRow{noFlows}
		last := -1
		for range 300 {
			from := made[r.IntN(len(made))]
			row, set := rows.clone(from), maps.Clone(sets[from])
			for range r.IntN(4) {
				if i := r.IntN(n); r.IntN(3) > 0 {
					rows.set(row, i)
					set[i] = true
					last = i
				} else if last >= 0 {
					rows.clear(row, last)
					delete(set, last)
				}
			}
			row = rows.done(row)
			if len(set) == 1 != (row&oneFlow != 0) {
				t.Fatalf("%d flows are row %x", len(set), row)
			}
			sets[row] = set
			made = append(made, row)
		}
		for row, set := range sets {
			if rows.empty(row) != (len(set) == 0) {
				t.Fatalf("row %x of %d flows: empty %v", row, len(set), rows.empty(row))
			}
			count := 0
			for i := range n {
				if rows.has(row, i) {
					count++
					if !set[i] {
						t.Fatalf("row %x has %d", row, i)
					}
				}
				if !rows.has(allFlows, i) {
					t.Fatalf("not all: %d", i)
				}
			}
			if count != len(set) {
				t.Fatalf("row %x has %d of %d flows", row, count, len(set))
			}
			want := -1
			for i := range set {
				if want < 0 || i < want {
					want = i
				}
			}
			if row&oneFlow == 0 {
				if got := rows.first(row, allFlows, row, allFlows, row); got != want {
					t.Fatalf("row %x: first %d, want %d", row, got, want)
				}
			}
		}
	}
}
