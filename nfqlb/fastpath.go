// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "waymark/bpf"

// The fast path decides packets in the kernel from a copy of the balancer's
// state. This is what of it is the same on any system: how it follows the
// balancer, and its counters.

// fastPath is a fast path in use. The balancer calls it with its lock held.
type fastPath interface {
	// use puts a state in force. nil leaves every packet to the queue.
	use(s *State)
	// fold adds the packets decided since the last time to the counters that
	// Decide counts in.
	fold()
}

// packetTraces are what trace clients can want of packets, and only the queue's
// packets are seen by them.
const packetTraces = TracePacket | TraceFrag | TraceSCTP | TraceFlows

// setFastPath makes f follow the balancer; nil ends that.
func (b *Balancer) setFastPath(f fastPath) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fast = f
	b.refreshFast()
}

// followTracing gives the packets to the queue while somebody traces them.
func (b *Balancer) followTracing() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refreshFast()
}

// refreshFast puts the current state in force in the kernel. b.mu is held.
func (b *Balancer) refreshFast() {
	if b.fast == nil {
		return
	}
	if TraceMask(b.tracing.Load())&packetTraces != 0 {
		b.fast.use(nil)
		return
	}
	b.fast.use(b.state.Load())
}

// foldFast brings the counters up to date.
func (b *Balancer) foldFast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fast != nil {
		b.fast.fold()
	}
}

// FastStats is what the fast path did with the packets that entered by its
// devices.
type FastStats struct {
	Placed     uint64            `json:"placed"`     // got their target's mark, and passed the queue by
	Redirected uint64            `json:"redirected"` // of them, handed straight to the nexthop
	Marked     uint64            `json:"marked"`     // got the mark for packets without flow or target
	Queued     map[string]uint64 `json:"queued"`     // left to the queue, by why
}

// fastOutcomes are the names of why packets are left to the queue.
var fastOutcomes = map[bpf.FastpathFastOutcome]string{
	bpf.FastpathFastOutcomeFAST_OFF:        "off",
	bpf.FastpathFastOutcomeFAST_NOT_IP:     "not IP",
	bpf.FastpathFastOutcomeFAST_NOT_VIP:    "destination that no flow names",
	bpf.FastpathFastOutcomeFAST_HEADER:     "header with options, extensions or cut",
	bpf.FastpathFastOutcomeFAST_FRAGMENT:   "fragment",
	bpf.FastpathFastOutcomeFAST_ICMP_ERROR: "ICMP error",
	bpf.FastpathFastOutcomeFAST_PROTOCOL:   "other protocol",
	bpf.FastpathFastOutcomeFAST_BYTES:      "byte match or encapsulation",
	bpf.FastpathFastOutcomeFAST_UNMARKED:   "no mark",
}

// fastStats sums up what the kernel counted by outcome. Placed packets are
// counted by target, and where some are redirected, the others here.
func fastStats(outcomes []uint64, placed uint64, redirect bool) FastStats {
	s := FastStats{Placed: placed, Queued: make(map[string]uint64)}
	for i, n := range outcomes {
		switch o := bpf.FastpathFastOutcome(i); o {
		case bpf.FastpathFastOutcomeFAST_PLACED:
			if redirect {
				s.Redirected = placed - n
			}
		case bpf.FastpathFastOutcomeFAST_NO_FLOW, bpf.FastpathFastOutcomeFAST_NO_TARGET:
			s.Marked += n
		default:
			if n > 0 {
				s.Queued[fastOutcomes[o]] = n
			}
		}
	}
	return s
}

func (s *FastStats) metrics(m *MetricsText, active bool) {
	m.Single("waymark_lb_fastpath_active", "gauge", "1 while the fast path decides packets, 0 while all go to the queue.", uint64(oneIf(active)))
	m.Family("waymark_lb_fastpath_packets_total", "counter", "Packets that entered by the fast path's devices, by what it did with them.")
	m.Sample("waymark_lb_fastpath_packets_total", s.Placed-s.Redirected, "outcome", "placed")
	m.Sample("waymark_lb_fastpath_packets_total", s.Redirected, "outcome", "redirected")
	m.Sample("waymark_lb_fastpath_packets_total", s.Marked, "outcome", "marked")
	for o := bpf.FastpathFastOutcomeFAST_OFF; o < bpf.FastpathFastOutcomeFAST_OUTCOMES; o++ {
		name := fastOutcomes[o]
		m.Sample("waymark_lb_fastpath_packets_total", s.Queued[name], "outcome", "queue_"+joined(name))
	}
}
