// SPDX-License-Identifier: Apache-2.0

// The history of a packet's fwmark.

package decoder

import (
	"slices"

	"waymark/bpf"
)

// MarkChange is a change of the packet's fwmark, as it was first seen.
type MarkChange struct {
	Hop  int    `json:"hop"` // index in Hops
	From uint32 `json:"from"`
	To   uint32 `json:"to"`
	By   string `json:"by"`  // lb, queue, netfilter, crossing (into another namespace), unknown
	How  string `json:"how"` // set, changed, lost (To is 0), restored (it had that mark before)
}

// What changes marks and how, in MarkChange.
const (
	markByCrossing = "crossing"
	markByUnknown  = "unknown"

	markSet      = "set"
	markChanged  = "changed"
	markRestored = "restored"
	markLost     = "lost"
)

// markState is the mark that one packet of a journey had last.
type markState struct {
	trail, parent uint64 // as in Hop.Trail: 0 is the journey's own
	mark          uint32
	had           []uint32 // until then
	netns         string
	seen          bool
}

// marks fills in j.Marks from the hops.
func (b *builder) marks() {
	if !slices.ContainsFunc(b.j.had, func(m uint32) bool { return m != 0 }) {
		return
	}
	states := make([]markState, 0, len(b.branches))
	for _, br := range b.branches {
		s := markState{trail: br.trail, parent: br.parent}
		if br.root {
			s.trail = 0
		}
		if p := b.branch(br.parent); p.root {
			s.parent = 0
		}
		states = append(states, s)
	}
	for i := range b.j.Hops {
		h := &b.j.Hops[i]
		if h.Mark == nil {
			continue
		}
		s := markStateOf(states, h.Trail)
		if s == nil {
			continue
		}
		if !s.seen && s.trail != 0 { // a copy begins as what it was made of
			if p := markStateOf(states, s.parent); p != nil {
				s.mark, s.had, s.netns = p.mark, slices.Clone(p.had), p.netns
			}
		}
		if *h.Mark != s.mark {
			c := MarkChange{Hop: i, From: s.mark, To: *h.Mark, By: b.markedBy(i, s), How: markHow(s.mark, *h.Mark, s.had)}
			b.j.Marks = append(b.j.Marks, c)
			if c.How == markRestored || c.How == markLost && c.By != markByCrossing { // a crossing always does
				h.markHow = c.How
			}
		}
		if !slices.Contains(s.had, *h.Mark) {
			s.had = append(s.had, *h.Mark)
		}
		s.mark, s.netns, s.seen = *h.Mark, h.Netns, true
	}
}

func markStateOf(states []markState, trail uint64) *markState {
	for i := range states {
		if states[i].trail == trail {
			return &states[i]
		}
	}
	return nil
}

// markedBy is what gave hop i its mark, which the packet had not in s.
func (b *builder) markedBy(i int, s *markState) string {
	h := &b.j.Hops[i]
	switch h.Group {
	case GroupLB, GroupQueue, "netfilter":
		return h.Group
	case GroupDevice:
		// A balancer in the device's TC hook comes before waymark's.
		if i+1 < len(b.j.Hops) && b.j.Hops[i+1].Group == GroupLB && b.j.Hops[i+1].Netns == h.Netns && b.j.Hops[i+1].Mark != nil && *b.j.Hops[i+1].Mark == *h.Mark {
			return GroupLB
		}
		if s.seen && s.netns != h.Netns && *h.Mark == 0 {
			return markByCrossing // skb_scrub_packet, net/core/skbuff.c
		}
	}
	return markByUnknown
}

func markHow(from, to uint32, had []uint32) string {
	switch {
	case to == 0:
		return markLost
	case slices.Contains(had, to):
		return markRestored
	case from == 0:
		return markSet
	}
	return markChanged
}

// had notes the mark of a record. The end of a packet is told by its address
// alone: where ends are missed it may be that of the next one there.
func (b *builder) had(r *bpf.Record) {
	end := r.Hook == uint16(bpf.HookConsumeSkb) || r.Hook == uint16(bpf.HookKfreeSkbmem)
	if end && !b.w.session.ExactFrees || slices.Contains(b.j.had, r.Mark) {
		return
	}
	b.j.had = append(b.j.had, r.Mark)
}

// hadMark tells whether the packet, or a copy of it, had such a mark at any
// point of its way, also where no hop is told of.
func (j *Journey) hadMark(mark, mask uint32) bool {
	for _, m := range j.had {
		if (m^mark)&mask == 0 {
			return true
		}
	}
	return false
}
