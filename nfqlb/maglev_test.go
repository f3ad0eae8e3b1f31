// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"slices"
	"testing"
)

// table builds a table whose target i has the mark i+1.
func table(t testing.TB, m, n int, targets ...int) *Table {
	t.Helper()
	active := make([]int, n)
	for i := range active {
		active[i] = -1
	}
	for _, i := range targets {
		active[i] = i + 1
	}
	tab, err := NewTable(m, n, active)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func TestRandIsGlibc(t *testing.T) {
	g := newGlibcRand()
	for _, want := range []uint32{1804289383, 846930886, 1681692777} {
		if got := g.next(); got != want {
			t.Fatalf("rand() = %d, glibc gives %d", got, want)
		}
	}
}

func TestPermutationsAreNfqlbs(t *testing.T) {
	want := []row{{0, 4142, 8927}, {1, 5625, 1376}, {2, 8001, 9512}, {3, 4327, 2785}}
	if got := permutations(9973, 4); !slices.Equal(got, want) {
		t.Fatalf("permutations = %v, nfqlb has %v", got, want)
	}
}

// Lookup tables that `nfqlb show` printed: in the Meridio trouble shooting
// guide, and in nfqlb's test-functions.md for its load balancer tier.
func TestLookupIsNfqlbs(t *testing.T) {
	for _, c := range []struct {
		m, n    int
		targets []int
		want    []int32
	}{
		{9973, 100, []int{47, 57, 66, 89}, []int32{57, 57, 57, 57, 57, 57, 66, 89, 57, 57, 66, 57, 89, 57, 66, 57, 57, 89, 66, 89, 57, 66, 66, 57, 89}},
		{397, 10, []int{0, 1, 2}, []int32{2, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 2, 0, 1, 0, 2, 1, 0, 0, 0, 2, 0}},
	} {
		if got := table(t, c.m, c.n, c.targets...).lookup[:len(c.want)]; !slices.Equal(got, c.want) {
			t.Errorf("M=%d N=%d %v\n got %v\nwant %v", c.m, c.n, c.targets, got, c.want)
		}
	}
}

// What `nfqlb fwmark` printed for 20.0.0.7:40000 → 10.0.0.1:5000.
func TestLookupOfFwmark(t *testing.T) {
	slot, index, mark := table(t, 9973, 100, 47, 57, 66).Lookup(2882910532)
	if slot != 5449 || index != 66 || mark != 67 {
		t.Fatalf("slot %d index %d mark %d, nfqlb gives 5449, 66, 67", slot, index, mark)
	}
}

func TestPrimeBelow(t *testing.T) {
	for n, want := range map[int]int{
		0: 0, 2: 2, 3: 3, 4: 3, 9: 7, 10: 7, 997: 997, 1000: 997, 10000: 9973,
		65537: 65537, 994009: 993997, 5000000: 993997,
	} {
		if p := PrimeBelow(n); p != want {
			t.Errorf("PrimeBelow(%d) = %d, want %d", n, p, want)
		}
	}
}

func TestTableProperties(t *testing.T) {
	for _, c := range []struct{ m, n, active int }{{3, 1, 1}, {3, 3, 3}, {997, 32, 1}, {997, 32, 32}, {9973, 100, 100}, {9973, 100, 7}} {
		var targets []int
		for i := range c.active {
			targets = append(targets, i)
		}
		tab := table(t, c.m, c.n, targets...)
		count := make(map[int32]int)
		for _, i := range tab.lookup {
			count[i]++
		}
		if len(count) != c.active || count[-1] != 0 {
			t.Fatalf("%+v: slots went to %d targets, want %d", c, len(count), c.active)
		}
		for i, n := range count {
			if fair := c.m / c.active; n < fair || n > fair+1 {
				t.Errorf("%+v: target %d has %d slots, fair are %d", c, i, n, fair)
			}
		}
	}
}

func TestTargetChangeMovesFewSlots(t *testing.T) {
	var all []int
	for i := range 100 {
		all = append(all, i)
	}
	before := table(t, 9973, 100, all...)
	after := table(t, 9973, 100, slices.Delete(slices.Clone(all), 42, 43)...)
	moved := 0
	for i, was := range before.lookup {
		if was != 42 && after.lookup[i] != was {
			moved++
		}
	}
	if moved > 300 {
		t.Fatalf("removing 1 of 100 targets moved %d of 9973 slots of the others", moved)
	}
}

func TestSlotIsRemainder(t *testing.T) {
	for _, m := range []int{3, 7, 997, 9973, 65537, 993997} {
		tab := table(t, m, 1, 0)
		for i := range uint64(200000) {
			hash := uint32(i * 2654435761)
			for _, h := range []uint32{hash, hash - hash%uint32(m), hash - hash%uint32(m) - 1, ^hash} {
				if got := tab.slot(h); got != uint64(h%uint32(m)) {
					t.Fatalf("%d mod %d = %d", h, m, got)
				}
			}
		}
	}
}

func TestNoTargets(t *testing.T) {
	if _, index, mark := table(t, 997, 32).Lookup(4711); index != -1 || mark != -1 {
		t.Fatalf("an empty table gave index %d, mark %d", index, mark)
	}
}

func TestNewTableRefuses(t *testing.T) {
	for _, c := range []struct{ m, n int }{{1000, 10}, {2, 1}, {997, 0}, {997, 998}, {-3, 1}, {1 << 30, 1}} {
		if _, err := NewTable(c.m, c.n, nil); err == nil {
			t.Errorf("M=%d N=%d: no error", c.m, c.n)
		}
	}
	if _, err := NewTable(997, 1, []int{1, 2}); err == nil {
		t.Error("two targets in a table for one: no error")
	}
}

func BenchmarkNewTable9973(b *testing.B)  { benchTable(b, 9973) }
func BenchmarkNewTable65537(b *testing.B) { benchTable(b, 65537) }

func benchTable(b *testing.B, m int) {
	active := make([]int, 100)
	for i := range active {
		active[i] = 5000 + i
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewTable(m, 100, active); err != nil {
			b.Fatal(err)
		}
	}
}
