// SPDX-License-Identifier: Apache-2.0

package nfqlb

// glibcRand is rand() of the GNU C library, never seeded: its TYPE_3 additive
// feedback generator (stdlib/random_r.c: degree 31, separation 3, seed 1, the
// first 310 numbers thrown away). nfqlb draws its permutations from it, so
// every balancer on glibc has the same table; so must this one.
type glibcRand struct {
	r [31]uint32
	i int
}

func newGlibcRand() *glibcRand {
	var g glibcRand
	// The state starts as the minimal standard generator, 16807·x mod 2³¹-1.
	const seed, factor, modulus = 1, 16807, 1<<31 - 1
	x := uint64(seed)
	for i := range g.r {
		g.r[i] = uint32(x)
		x = x * factor % modulus
	}
	// Number n is r[n-31] + r[n-3] of the ring; i is n mod 31.
	for range 310 {
		g.next()
	}
	return &g
}

// next is a number in [0, 2³¹).
func (g *glibcRand) next() uint32 {
	// The first output of glibc adds r[3] (front) and r[0] (rear) into r[3].
	f := (g.i + 3) % 31
	g.r[f] += g.r[g.i]
	g.i = (g.i + 1) % 31
	return g.r[f] >> 1
}
