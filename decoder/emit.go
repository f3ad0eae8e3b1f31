// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"container/heap"
	"fmt"
	"slices"

	"waymark/bpf"
)

// waiting are finished journeys, the earliest start first.
type waiting struct{ heap journeyHeap }

type journeyHeap []*Journey

func (h journeyHeap) Len() int           { return len(h) }
func (h journeyHeap) Less(i, j int) bool { return h[i].seq.less(h[j].seq) }
func (h journeyHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *journeyHeap) Push(x any)        { *h = append(*h, x.(*Journey)) }
func (h *journeyHeap) Pop() any {
	old := *h
	j := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return j
}

// spareJourneys are journeys that nobody reads any more: their memory is for
// the next ones.
type spareJourneys []*Journey

// take returns a journey whose slices are empty and whose rest is to be set.
func (s *spareJourneys) take() *Journey {
	n := len(*s)
	if n == 0 {
		return new(Journey)
	}
	j := (*s)[n-1]
	*s = (*s)[:n-1]
	return j
}

func (s *spareJourneys) keep(j *Journey) {
	const spare = 1024
	if len(*s) >= spare || cap(j.Hops) > 64 || cap(j.drops)+cap(j.normal) > 64 {
		return
	}
	clear(j.Hops)
	clear(j.drops)
	clear(j.normal)
	j.Hops, j.tuples, j.drops, j.normal, j.had = j.Hops[:0], j.tuples[:0], j.drops[:0], j.normal[:0], j.had[:0]
	*s = append(*s, j)
}

func (w *waiting) push(j *Journey) { heap.Push(&w.heap, j) }

// emit hands out finished journeys in order. One waits for those that started
// before it and are still open, at most for Linger, and until the losses it may
// have had are told, as long as there is room; all: the stream is over, nothing
// waits.
func (s *Stitcher) emit(all bool) {
	for len(s.wait.heap) > 0 && !s.done {
		j := s.wait.heap[0]
		earlier := s.order.front != nil && s.order.front.key().less(j.seq)
		due := j.closed+uint64(s.opt.Linger) < s.now
		unsure := s.told != 0 && s.told < j.until
		room := len(s.wait.heap) <= s.opt.MaxOpen
		if (earlier && !due || unsure) && room && !all {
			return
		}
		heap.Pop(&s.wait.heap)
		s.hand(j)
		if s.opt.Emit == nil { // nobody has got it
			s.spare.keep(j)
		}
	}
	if s.done {
		s.wait.heap = nil
	}
}

// hand gives one journey to its readers, unless the session's options or the
// reader's are against it.
func (s *Stitcher) hand(j *Journey) {
	se := &s.world.session
	if se.MarkMask != 0 && !j.hadMark(se.Mark, se.MarkMask) {
		return
	}
	s.answered(j)
	s.markLosses(j)
	s.markShed(j)
	// Here, so that what is left out changes nothing about the others: a reader
	// who selects gets some of what is printed without selecting.
	if s.opt.Emit != nil { // drops do not tell their flow
		j.Flow, j.Reply = s.flows.name(j)
	}
	s.handed.journeys++
	wanted := s.opt.wants(j)
	if wanted {
		s.stats.Journeys++
		for i := range j.normal {
			s.stats.Normal += 1 + j.normal[i].more
			j.tell(&j.normal[i], s.opt.EmitNormal)
		}
	}
	for i := range j.drops {
		s.handed.drops += 1 + j.drops[i].more
		if wanted {
			s.stats.Drops += 1 + j.drops[i].more
			j.tell(&j.drops[i], s.opt.EmitDrop)
		}
		if s.opt.Emit == nil && se.Limit > 0 && s.handed.drops >= uint64(se.Limit) {
			s.done = true
			return
		}
	}
	if s.opt.Emit == nil {
		return
	}
	if wanted {
		s.opt.Emit(j)
	}
	s.done = se.Limit > 0 && s.handed.journeys >= uint64(se.Limit)
}

// tell tells a drop of j by itself; a nil reader wants none.
func (j *Journey) tell(d *Drop, reader func(*Drop)) {
	if reader == nil {
		return
	}
	alone := *d
	p := j.Packet
	alone.Type, alone.Node, alone.Packet, alone.Journey = "drop", j.Node, &p, j.ID
	reader(&alone)
}

// markLosses notes which lost records could have been the journey's.
func (s *Stitcher) markLosses(j *Journey) {
	var sums []Loss // one of a hook and kind
	for i := range s.world.losses {
		l := &s.world.losses[i]
		// Its first records may be among the lost, where they are of a hook that
		// follows packets it meets: it can have waited that long before it was seen.
		to := l.To
		if begins(l.Hook) {
			to += uint64(s.opt.Linger)
		}
		if l.From > j.until || to < j.seq.start {
			continue
		}
		if j.ends && (l.Hook == uint16(bpf.HookKfreeSkbmem) || l.Hook == uint16(bpf.HookConsumeSkb)) {
			continue // these hooks tell of ends only, and have told of its own
		}
		same := func(o Loss) bool { return o.Hook == l.Hook && o.Kind == l.Kind }
		if i := slices.IndexFunc(sums, same); i >= 0 {
			sums[i].Count += l.Count
		} else {
			sums = append(sums, *l)
		}
	}
	for _, l := range sums {
		j.Complete = false
		var note string
		switch l.Kind {
		case "untracked":
			note = fmt.Sprintf("%d packets could not be followed meanwhile: a copy of this one may be missing", l.Count)
		case "missed":
			note = fmt.Sprintf("the kernel passed by the %s hook %d times meanwhile, as it was interrupted there: a hop may be missing", hookName(l.Hook), l.Count)
		default:
			note = fmt.Sprintf("%d %s records were lost meanwhile: hops may be missing", l.Count, hookName(l.Hook))
		}
		j.Notes = append(j.Notes, note)
	}
}

// begins tells of a hook that a journey may begin at: at the others a packet that is
// not followed leaves no record.
func begins(h uint16) bool {
	switch bpf.Hook(h) {
	case bpf.HookQueueEnter, bpf.HookQueueVerdict, bpf.HookIPVSForward, bpf.HookIPVSReply, bpf.HookNFTChain, bpf.HookIPTTable,
		bpf.HookNAT, bpf.HookConntrack, bpf.HookBridgeForward, bpf.HookBridgeFlood,
		bpf.HookSocketReceive, bpf.HookSocketReset, bpf.HookSocketReject, bpf.HookSocketICMP, bpf.HookConsumeSkb, bpf.HookKfreeSkbmem:
		return false
	}
	return true
}

func hookName(h uint16) string {
	switch bpf.Hook(h) {
	case bpf.HookTCIngress:
		return "ingress"
	case bpf.HookTCEgress:
		return "egress"
	case bpf.HookKfreeSkb:
		return "kfree_skb"
	case bpf.HookConnect:
		return "connect"
	case bpf.HookConsumeSkb:
		return "consume_skb"
	case bpf.HookKfreeSkbmem:
		return "kfree_skbmem"
	case bpf.HookSkbClone:
		return "skb_clone"
	case bpf.HookSkbSegment:
		return "skb_segment"
	case bpf.HookQueueEnter, bpf.HookQueueVerdict:
		return "queue"
	case bpf.HookIPVSForward, bpf.HookIPVSReply:
		return "ipvs"
	case bpf.HookNFTChain, bpf.HookIPTTable, bpf.HookLocalOut:
		return "netfilter"
	case bpf.HookNAT, bpf.HookConntrack:
		return "nat"
	case bpf.HookBridgeForward, bpf.HookBridgeFlood:
		return "bridge"
	case bpf.HookSocketReceive, bpf.HookSocketReset, bpf.HookSocketReject, bpf.HookSocketICMP:
		return "socket"
	case 0:
		return "kernel"
	}
	return fmt.Sprintf("hook %d", h)
}
