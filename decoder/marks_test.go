// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"slices"
	"testing"

	. "waymark/decoder"
)

// TestMarks: who gave the packet its marks, and where they were lost.
func TestMarks(t *testing.T) {
	const other = 0x42
	for _, tt := range []struct {
		name    string
		world   func(*trench)
		packets func(s *stream)
		want    []MarkChange
	}{
		{
			"never marked", nil, func(s *stream) { s.tcp(1, 0, vip4, 5000, client4, 40000, synAck).reply() }, nil,
		},
		{
			"by the balancer, lost at the crossing", nil, func(s *stream) { s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request() },
			[]MarkChange{{2, 0, markT1, "lb", "set"}, {5, markT1, 0, "crossing", "lost"}},
		},
		{
			"by the balancer behind a queue", nil, func(s *stream) {
				s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().enqueue(7, 0).mark(markT1).verdict(7, 1).balanced()
			},
			[]MarkChange{{3, 0, markT1, "lb", "set"}},
		},
		{
			"by a listener that is no balancer", func(w *trench) { w.balancer = nil }, func(s *stream) {
				s.tcp(1, 0, client4, 40000, vip4, 6000, syn).requestToLB().enqueue(7, 0).mark(other).verdict(7, 1).out(nsLB, lbToPX, us)
			},
			[]MarkChange{{3, 0, other, "queue", "set"}},
		},
		{
			"in the device's TC hook", nil, func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, vip4, 5000, syn)
				p.out(nsGW, ext0, 0).mark(markT1).in(nsLB, nsm1, us)
				p.balanced()
			},
			[]MarkChange{{1, 0, markT1, "lb", "set"}},
		},
		{
			"it came with one", nil, func(s *stream) { s.tcp(1, 0, client4, 40000, vip4, 5000, syn).mark(other).out(nsGW, ext0, 0) },
			[]MarkChange{{0, 0, other, "unknown", "set"}},
		},
		{
			"changed, cleared by somebody, restored", nil, func(s *stream) {
				s.tcp(1, 0, client4, 40000, "10.7.7.7", 80, syn).mark(other).in(nsPX, pxToLB, us).mark(7).in(nsPX, bridge0, us).
					mark(0).out(nsPX, bridge0, us).mark(other).out(nsPX, pxToT1, us)
			},
			[]MarkChange{{0, 0, other, "unknown", "set"}, {1, other, 7, "unknown", "changed"}, {3, 7, 0, "unknown", "lost"}, {4, 0, other, "unknown", "restored"}},
		},
		{
			"of a copy", nil, func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, "10.7.7.7", 80, syn).mark(other).in(nsPX, pxToLB, us)
				c := p.clone(2, nsPX, pxToLB, us)
				c.mark(7).out(nsPX, pxToT1, us)
				p.out(nsPX, pxToT2, 3*us)
			},
			[]MarkChange{{0, 0, other, "unknown", "set"}, {3, other, 7, "unknown", "changed"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newTrench()
			if tt.world != nil {
				tt.world(w)
			}
			s := newStream(t, w)
			tt.packets(s)
			js := s.run(Options{})
			if !slices.Equal(js[0].Marks, tt.want) {
				for i, h := range js[0].Hops {
					t.Logf("hop %d: %s/%s %s mark %v", i, h.Group, h.Hook, h.Netns, h.Mark)
				}
				t.Errorf("marks %+v\nwant %+v", js[0].Marks, tt.want)
			}
		})
	}
}

// TestMarkSelects: a journey is shown if it had the mark anywhere, be it where
// no hop is told of.
func TestMarkSelects(t *testing.T) {
	for _, tt := range []struct {
		mark, mask uint32
		exact      bool // the end of every packet is seen
		want       []string
	}{
		{markT1, ^uint32(0), true, []string{"n1-1", "n1-3"}},
		{0x42, ^uint32(0), true, []string{"n1-3"}},
		{0x42, ^uint32(0), false, nil}, // it may have been another packet's
		{0x3, 0xf, true, nil},
		{markT1 & 0xff00, 0xff00, true, []string{"n1-1", "n1-3"}},
		{0, 0, true, []string{"n1-1", "n1-2", "n1-3"}},
	} {
		// By who looks, and by what the recorded session says.
		for _, recorded := range []bool{false, true} {
			w, o := newTrench(), Options{Mark: tt.mark, MarkMask: tt.mask}
			w.session.ExactFrees = tt.exact
			if recorded {
				w.session.Mark, w.session.MarkMask, o = tt.mark, tt.mask, Options{}
			}
			s := newStream(t, w)
			s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()          // 5048
			s.tcp(2, 1_000_000, vip4, 5000, client4, 40000, synAck).reply() // none
			s.tcp(3, 2_000_000, client4, 40000, vip4, 5000, ack).request().mark(0x42).consumed(us, atConsume)
			var ids []string
			for _, j := range s.run(o) {
				ids = append(ids, j.ID)
			}
			if !slices.Equal(ids, tt.want) {
				t.Errorf("mark %#x/%#x, recorded %v, exact %v: selects %v, want %v", tt.mark, tt.mask, recorded, tt.exact, ids, tt.want)
			}
		}
	}
}
