// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"slices"
	"strings"
)

// maxFlows bounds the flows that are remembered by name, and those that are
// summarised.
const maxFlows = 65536

// flowNames gives journeys the name of their flow: the five-tuple in the
// direction of who spoke first. Tuples that NAT made of a packet name the same
// flow, so that a reply from behind the NAT finds it.
type flowNames struct {
	by   map[tuple]tuple // any tuple of the flow, in its direction → the flow's own
	ring []tuple         // keys of by, in the order they came
	at   int
}

func newFlowNames() flowNames { return flowNames{by: map[tuple]tuple{}} }

// name returns the flow of a journey and whether the journey is a reply in it;
// empty: the packet belongs to no flow.
func (f *flowNames) name(j *Journey) (string, bool) {
	t := j.Packet.tuple()
	if !t.src.IsValid() || !t.dst.IsValid() || j.Packet.Proto == "arp" {
		return "", false
	}
	if j.inner.src.IsValid() {
		// An ICMP error goes with the flow it is about, against the packet it quotes.
		t = j.inner.reverse()
	}
	own, reply, known := f.find(t)
	for i := 0; i < len(j.tuples) && !known; i++ {
		own, reply, known = f.find(j.tuples[i])
	}
	switch {
	case known && j.syn == 1 && own == t.reverse():
		// Who opens the connection gives the direction, even if a late packet of
		// the last connection with these ports came first.
		f.add(t, t)
		own, reply = t, false
	case !known && (j.syn == 2 || j.inner.src.IsValid()):
		own, reply = t.reverse(), true
	case !known:
		own = t
	}
	for _, x := range append([]tuple{t}, j.tuples...) {
		if j.inner.src.IsValid() && x != t {
			continue
		}
		if reply {
			x = x.reverse()
		}
		f.add(x, own)
	}
	return own.String(), reply
}

func (f *flowNames) find(t tuple) (own tuple, reply, ok bool) {
	if own, ok = f.by[t]; ok {
		// Echo with equal ends and the like: the own direction wins.
		return own, false, true
	}
	own, ok = f.by[t.reverse()]
	return own, ok, ok
}

func (f *flowNames) add(t, own tuple) {
	if old, ok := f.by[t]; ok {
		if old != own {
			f.by[t] = own
		}
		return
	}
	if own == t {
		delete(f.by, t.reverse()) // at most one direction of a tuple is a name
	}
	if len(f.ring) < maxFlows {
		f.ring = append(f.ring, t)
	} else {
		delete(f.by, f.ring[f.at])
		f.ring[f.at] = t
		f.at = (f.at + 1) % maxFlows
	}
	f.by[t] = own
}

// FlowSummary is what became of a flow's packets, both directions side by side.
type FlowSummary struct {
	Type     string        `json:"type"` // "flow"
	Node     string        `json:"node,omitempty"`
	Flow     string        `json:"flow"`
	Start    WallTime      `json:"start"`
	Complete bool          `json:"complete"` // false: some journey of it is not
	Forward  FlowDirection `json:"forward"`
	Reply    FlowDirection `json:"reply"`
}

// FlowDirection sums up one direction of a flow.
type FlowDirection struct {
	Journeys int             `json:"journeys"`
	Outcomes map[Outcome]int `json:"outcomes,omitempty"`
	Way      []string        `json:"way,omitempty"`       // NETNS/DEV in order, of most journeys
	Ways     int             `json:"ways,omitempty"`      // how many different ones there were
	WayCount int             `json:"way_count,omitempty"` // journeys that took Way
	P50Ns    uint64          `json:"p50_ns,omitempty"`    // duration, of a sample if there were many
	MaxNs    uint64          `json:"max_ns,omitempty"`
	Drop     *Drop           `json:"drop,omitempty"`    // the latest
	Because  string          `json:"because,omitempty"` // as of the latest journey that nothing came of
	Advice   string          `json:"advice,omitempty"`
	Question string          `json:"question,omitempty"`
}

// Flows groups journeys, those of each node by themselves.
type Flows struct {
	by    map[flowOnNode]*flowState
	order []*flowState
	// Left counts journeys not summarised: no flow, or too many flows.
	Left int
}

type flowOnNode struct{ node, flow string }

type flowState struct {
	sum FlowSummary
	dir [2]dirState
}

const (
	maxDurations = 4096 // sampled per direction
	maxWays      = 64   // distinguished per direction
)

type dirState struct {
	durations []uint64
	ways      []wayCount
}

type wayCount struct {
	key   string
	way   []string
	count int
}

// NewFlows returns an empty grouping.
func NewFlows() *Flows { return &Flows{by: map[flowOnNode]*flowState{}} }

// Add counts a journey.
func (f *Flows) Add(j *Journey) {
	if j.Flow == "" {
		f.Left++
		return
	}
	s := f.by[flowOnNode{j.Node, j.Flow}]
	if s == nil {
		if len(f.order) >= maxFlows {
			f.Left++
			return
		}
		s = &flowState{sum: FlowSummary{Type: "flow", Node: j.Node, Flow: j.Flow, Start: j.Start, Complete: true}}
		f.by[flowOnNode{j.Node, j.Flow}] = s
		f.order = append(f.order, s)
	}
	s.sum.Complete = s.sum.Complete && j.Complete
	d, st := &s.sum.Forward, &s.dir[0]
	if j.Reply {
		d, st = &s.sum.Reply, &s.dir[1]
	}
	if d.Outcomes == nil {
		d.Outcomes = map[Outcome]int{}
	}
	d.Outcomes[j.Outcome]++
	d.MaxNs = max(d.MaxNs, j.DurationNs)
	if j.Drop != nil {
		d.Drop = j.Drop
	}
	if j.Because != "" {
		d.Because, d.Advice, d.Question = j.Because, j.Advice, j.Question
	}
	st.duration(d.Journeys, j.DurationNs)
	st.way(j)
	d.Journeys++
}

// duration keeps a sample: all of the first, then ever rarer ones at places
// that follow from the count, so that replay gives the same median.
func (s *dirState) duration(n int, ns uint64) {
	if len(s.durations) < maxDurations {
		s.durations = append(s.durations, ns)
		return
	}
	// Knuth's multiplicative hash spreads n over 0..n (reservoir sampling).
	if i := uint64(n) * 2654435761 % uint64(n+1); i < maxDurations {
		s.durations[i] = ns
	}
}

func (s *dirState) way(j *Journey) {
	w := j.Way()
	key := strings.Join(w, "\n")
	for i := range s.ways {
		if s.ways[i].key == key {
			s.ways[i].count++
			return
		}
	}
	if len(s.ways) < maxWays {
		s.ways = append(s.ways, wayCount{key, w, 1})
	}
}

// Way lists the devices the packet itself passed, as NETNS/DEV.
func (j *Journey) Way() []string {
	var w []string
	for i := range j.Hops {
		h := &j.Hops[i]
		if h.Trail == 0 && (h.Group == GroupDevice || h.Group == GroupDrop && h.Verdict == "drop") {
			p := place(h.Netns, h.Dev)
			if h.Group == GroupDrop {
				p += " (dropped)"
			}
			w = append(w, p)
		}
	}
	return w
}

// Summaries lists the flows in the order of their first journeys.
func (f *Flows) Summaries() []*FlowSummary {
	out := make([]*FlowSummary, 0, len(f.order))
	for _, s := range f.order {
		sum := s.sum
		sum.Forward.finish(&s.dir[0])
		sum.Reply.finish(&s.dir[1])
		out = append(out, &sum)
	}
	return out
}

func (d *FlowDirection) finish(s *dirState) {
	if n := len(s.durations); n > 0 {
		sorted := slices.Sorted(slices.Values(s.durations))
		d.P50Ns = sorted[(n-1)/2]
	}
	d.Ways = len(s.ways)
	for i := range s.ways {
		if w := &s.ways[i]; w.count > d.WayCount {
			d.Way, d.WayCount = w.way, w.count
		}
	}
}

// place is NETNS/DEV, or whichever of the two is known.
func place(netns, dev string) string { return string(appendPlace(nil, netns, dev)) }

func appendPlace(b []byte, netns, dev string) []byte {
	b = append(b, netns...)
	if netns != "" && dev != "" {
		b = append(b, '/')
	}
	return append(b, dev...)
}
