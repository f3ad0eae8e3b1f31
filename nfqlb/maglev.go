// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"math"
	"math/bits"
)

// MaxM is the largest size of a lookup table that nfqlb takes, 997².
const MaxM = 994009

// Table is a Maglev lookup table: it spreads hashes evenly over the active
// targets and moves few of them when a target comes or goes. It never changes
// after it was built; a target change builds another one.
type Table struct {
	lookup []int32 // by hash mod M: index into active, -1 if no target is active
	active []int32 // by index: the target's mark, -1 if inactive
	divide uint64  // 2⁶⁴/M rounded up, to divide by M without a division
}

// NewTable builds the table of size m, a prime, for at most n targets. active
// holds each index's mark, -1 for inactive; missing ones at the end are
// inactive.
func NewTable(m, n int, active []int) (*Table, error) {
	if err := checkSize(m, n); err != nil {
		return nil, err
	}
	if len(active) > n {
		return nil, fmt.Errorf("%d targets in a table for %d: make it with a larger N", len(active), n)
	}
	t := &Table{lookup: make([]int32, m), active: make([]int32, n), divide: math.MaxUint64/uint64(m) + 1}
	for i := range t.active {
		t.active[i] = -1
		if i < len(active) && active[i] >= 0 {
			t.active[i] = int32(active[i])
		}
	}
	t.populate()
	return t, nil
}

func checkSize(m, n int) error {
	if m < 3 || m > MaxM || PrimeBelow(m) != m {
		return fmt.Errorf("table size M=%d is no prime from 3 to %d", m, MaxM)
	}
	if n < 1 || n > m {
		return fmt.Errorf("number of targets N=%d is not between 1 and M=%d", n, m)
	}
	return nil
}

// populate lets the active targets take turns, each taking the next free slot
// of its own permutation of the table, until no slot is free (the Maglev
// paper, NSDI 2016, section 3.4).
func (t *Table) populate() {
	m := int32(len(t.lookup))
	for i := range t.lookup {
		t.lookup[i] = -1
	}
	rows := permutations(len(t.lookup), len(t.active))
	turn := rows[:0]
	for i, r := range rows {
		if t.active[i] >= 0 {
			turn = append(turn, r)
		}
	}
	if len(turn) == 0 {
		return
	}
	for left := m; ; {
		for i := range turn {
			r := &turn[i]
			at := r.next
			for t.lookup[at] >= 0 {
				if at += r.skip; at >= m {
					at -= m
				}
			}
			t.lookup[at] = r.index
			r.next = at
			if left--; left == 0 {
				return
			}
		}
	}
}

// row is one target's permutation: next, next+skip, next+2·skip, … modulo M.
type row struct{ index, next, skip int32 }

// permutations are the first n rows for a table of size m: two random numbers
// each, always the same ones.
func permutations(m, n int) []row {
	g := newGlibcRand()
	rows := make([]row, n)
	for i := range rows {
		offset := g.next() % uint32(m)
		skip := g.next()%uint32(m-1) + 1
		rows[i] = row{int32(i), int32(offset), int32(skip)}
	}
	return rows
}

// M is the size of the lookup table.
func (t *Table) M() int { return len(t.lookup) }

// N is the number of targets it can hold.
func (t *Table) N() int { return len(t.active) }

// Lookup is the decision for a hash: the slot of the lookup table, the index
// of the target in it and the target's mark. index and mark are -1 if no target
// is active.
func (t *Table) Lookup(hash uint32) (slot, index, mark int) {
	s := t.slot(hash)
	i := t.lookup[s]
	if i < 0 {
		return int(s), -1, -1
	}
	return int(s), int(i), int(t.active[i])
}

// slot is hash modulo M (Lemire, Kaser, Kurz: Faster Remainder by Direct
// Computation, 2019; exact for all 32-bit numbers).
func (t *Table) slot(hash uint32) uint64 {
	s, _ := bits.Mul64(t.divide*uint64(hash), uint64(len(t.lookup)))
	return s
}

// PrimeBelow is the largest prime not above n, and not above MaxM; n itself
// below 4. It is the size nfqlb gives a table that was asked to have size n.
func PrimeBelow(n int) int {
	n = min(n, MaxM)
	if n < 4 {
		return n
	}
	if n%2 == 0 {
		n--
	}
	for !oddPrime(n) {
		n -= 2
	}
	return n
}

func oddPrime(n int) bool {
	for d := 3; d*d <= n; d += 2 {
		if n%d == 0 {
			return false
		}
	}
	return true
}
