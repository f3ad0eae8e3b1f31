// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"testing"

	. "waymark/decoder"
)

// A balancer in a tier may give a fragment the mark of another balancer. That
// contradicts nothing.
func TestTierFragmentsAreUnsure(t *testing.T) {
	for _, c := range []struct {
		name       string
		tier       string
		frag       uint16
		mark       uint32
		decided    bool // a decision is shown
		contradict bool
	}{
		{"another balancer's first fragment", "balancers", 1, 203, false, false},
		{"another balancer's later fragment", "balancers", 1480, 203, false, false},
		{"own first fragment", "balancers", 1, markT1, true, false},
		{"no fragment", "balancers", 0, 203, true, true},
		{"no tier", "", 1, 203, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTrench()
			w.balancer.Tier = c.tier
			s := &stream{t: t}
			s.contexts(w.contexts()...)
			p := s.packet(1, 0, client4, vip4, 17)
			p.rec.Sport, p.rec.Dport, p.rec.FragOff, p.rec.IpId = bits16(40000), bits16(5000), c.frag, 77
			p.requestToLB()
			p.rec.Ttl--
			p.mark(c.mark).out(nsLB, lbToPX, 20*us)
			s.contexts(&Context{Time: base + 1e9, Clock: &Clock{}})
			decided, contradict := false, false
			for _, j := range s.run(Options{LB: trenchLB{}}) {
				for _, h := range j.Hops {
					if d, ok := h.Detail.(*LBDetail); ok {
						decided, contradict = true, contradict || d.Contradiction != ""
					}
				}
			}
			if decided != c.decided || contradict != c.contradict {
				t.Fatalf("decision shown %v, contradiction %v; want %v, %v", decided, contradict, c.decided, c.contradict)
			}
		})
	}
}
