// SPDX-License-Identifier: Apache-2.0

// The decision graph: predicates with their short-circuits made explicit.
// Each node tests once and goes on to one of two later nodes. What is known on
// every way into a node is used to skip tests whose outcome is certain; only
// tests of values that were read already are skipped, so no rejection by a
// short packet is lost.

package filter

import "golang.org/x/net/bpf"

const (
	rejectNode = 0
	acceptNode = 1
)

type graphNode struct {
	test *test
	next [2]int // by outcome: false, true
}

type graph struct {
	nodes []graphNode // a node's successors have lower indexes
	start int
	same  map[graphNode]int // so that equal ends are shared
}

func newGraph(p *predicate) *graph {
	g := &graph{nodes: make([]graphNode, 2), same: map[graphNode]int{}}
	g.start = g.add(p, [2]int{rejectNode, acceptNode})
	g.thread()
	return g
}

func (g *graph) add(p *predicate, next [2]int) int {
	switch p.op {
	case 'c':
		return next[outcome(p.val)]
	case '!':
		return g.add(p.l, [2]int{next[1], next[0]})
	case '&':
		r := g.add(p.r, next)
		return g.add(p.l, [2]int{next[0], r})
	case '|':
		r := g.add(p.r, next)
		return g.add(p.l, [2]int{r, next[1]})
	}
	n := graphNode{p.test, next}
	if at, ok := g.same[n]; ok {
		return at
	}
	g.nodes = append(g.nodes, n)
	g.same[n] = len(g.nodes) - 1
	return len(g.nodes) - 1
}

func outcome(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fact is the outcome of one test on the way to a node, and what was known
// before it. The facts of a node are those of the tests that every way to it
// takes: where ways meet, what they have in common is their last common fact.
type fact struct {
	before *fact
	depth  int
	test   *test
	out    bool
}

func (f *fact) with(t *test, out bool) *fact {
	if t.key == "" {
		return f
	}
	n := &fact{before: f, test: t, out: out}
	if f != nil {
		n.depth = f.depth + 1
	}
	return n
}

func (f *fact) common(o *fact) *fact {
	for f != o {
		switch {
		case f == nil || o == nil:
			return nil
		case f.depth >= o.depth:
			f = f.before
		default:
			o = o.before
		}
	}
	return f
}

// decide returns the outcome of t if the facts determine it.
func (f *fact) decide(t *test) (out, known bool) {
	if t == nil || t.key == "" {
		return false, false
	}
	for ; f != nil; f = f.before {
		switch {
		case f.test.key != t.key || f.test.useX != t.useX:
			continue
		case f.test.cond == t.cond && f.test.k == t.k:
			return f.out, true
		case f.test.cond != bpf.JumpEqual || !f.out || t.useX:
			continue
		}
		switch v := f.test.k; t.cond { // the value is known
		case bpf.JumpEqual:
			return v == t.k, true
		case bpf.JumpGreaterThan:
			return v > t.k, true
		case bpf.JumpGreaterOrEqual:
			return v >= t.k, true
		case bpf.JumpBitsSet:
			return v&t.k != 0, true
		}
	}
	return false, false
}

// thread redirects each edge past the tests that the way to it decides.
func (g *graph) thread() {
	in := make([]*fact, len(g.nodes))
	reached := make([]bool, len(g.nodes))
	reached[g.start] = true
	for i := len(g.nodes) - 1; i > acceptNode; i-- {
		if !reached[i] {
			continue // no way leads here any more
		}
		for out := range 2 {
			f := in[i].with(g.nodes[i].test, out == 1)
			to := g.nodes[i].next[out]
			for {
				decided, known := f.decide(g.nodes[to].test)
				if !known {
					break
				}
				to = g.nodes[to].next[outcome(decided)]
			}
			g.nodes[i].next[out] = to
			if reached[to] {
				f = f.common(in[to])
			}
			in[to], reached[to] = f, true
		}
	}
}

// order lists the nodes that can be reached, each before its successors.
func (g *graph) order() []int {
	reached := make([]bool, len(g.nodes))
	reached[g.start] = true
	var out []int
	for i := len(g.nodes) - 1; i > acceptNode; i-- {
		if !reached[i] {
			continue
		}
		out = append(out, i)
		reached[g.nodes[i].next[0]], reached[g.nodes[i].next[1]] = true, true
	}
	return out
}
