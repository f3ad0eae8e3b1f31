// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"cmp"
	"fmt"
	"slices"
)

// Reason is why a packet gets no target.
type Reason uint8

const (
	Decided        Reason = iota // it got one
	Unreadable                   // Parse failed
	LaterOfFirst                 // a later fragment; its first one had the ports
	NotVIP                       // no flow has this destination address
	NoFlow                       // flows have the destination, but none matches
	NoTarget                     // the flow's table has no active target
	NoTable                      // the flow's table is not known (recorded state only)
	FragmentKept                 // a later fragment, until its first one comes
	NoFragmentRoom               // a fragment that could not be entered or kept
	OtherBalancer                // a fragment for another balancer of the tier; it gets that one's mark
	reasons        = iota        // how many there are
)

// String is the reason as users read it.
func (r Reason) String() string {
	switch r {
	case Decided:
		return ""
	case Unreadable:
		return "packet cannot be read"
	case LaterOfFirst:
		return "later fragment, its ports went with the first"
	case NotVIP:
		return "address is not a VIP"
	case NoFlow:
		return "no flow matches"
	case NoTarget:
		return "no active target"
	case NoTable:
		return "target table unknown"
	case FragmentKept:
		return "later fragment, kept until the first one comes"
	case NoFragmentRoom:
		return "no room for more fragments"
	case OtherBalancer:
		return "fragment of another balancer"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Config is what decides besides flows and tables. The zero value is a
// balancer as Meridio runs it without --promiscuous_ping.
type Config struct {
	HashMode HashMode
	// PromiscuousPing accepts any ICMP whose addresses match a flow, whatever
	// the flow's protocols and ports.
	PromiscuousPing bool
	// NoFlowMark and NoTargetMark, if above 0, are marks for packets that
	// match no flow or have no target, which are then accepted (to be
	// rejected by a later rule) instead of dropped.
	NoFlowMark, NoTargetMark int
}

// State is everything a decision depends on. It never changes: a new flow
// makes a new state. Only the tables behind the flows' targets are replaced,
// each atomically as a whole.
type State struct {
	Config
	flows []*flow // in matching order
	index *index  // the same, for matching
}

// NewState builds a state from flows; the target of each flow is looked up in
// targets by name. Hidden flows of a listing ("#name") are left out: they
// follow from udpencap.
func NewState(c Config, specs []FlowSpec, targets map[string]*Target) (*State, error) {
	var flows []*flow
	for _, s := range specs {
		if len(s.Name) > 0 && s.Name[0] == '#' {
			continue
		}
		f, err := compileFlow(s)
		if err != nil {
			return nil, fmt.Errorf("flow %q: %w", s.Name, err)
		}
		f.target = targets[s.Target]
		flows = append(flows, f)
	}
	return newState(c, flows), nil
}

func newState(c Config, flows []*flow) *State {
	s := &State{Config: c}
	for _, f := range flows {
		if h := f.hidden(); h != nil {
			s.flows = append(s.flows, h)
		}
		s.flows = append(s.flows, f)
	}
	// nfqlb leaves the order of equal priorities to chance; here the first
	// set comes first.
	slices.SortStableFunc(s.flows, func(a, b *flow) int { return cmp.Compare(b.spec.Priority, a.spec.Priority) })
	s.index = makeIndex(s.flows)
	return s
}

// Decision is what happens to one packet.
type Decision struct {
	Hash   uint32
	Slot   int  // hash modulo M
	Index  int  // of the target, -1 none
	Mark   int  // the packet gets; -1 none
	Accept bool // otherwise drop
	Why    Reason

	flow *flow
}

// Flow is the name of the flow that matched, "" if none did.
func (d *Decision) Flow() string {
	if d.flow == nil {
		return ""
	}
	return d.flow.spec.Name
}

// Decide places the packet l3, given from its IP header on and possibly cut.
// p is scratch memory that holds the parsed packet afterwards. It allocates
// nothing and changes nothing but p.
func Decide(s *State, l3 []byte, p *Packet) (d Decision) {
	d.Slot, d.Index, d.Mark = -1, -1, -1
	if err := Parse(l3, 0, p); err != nil {
		d.Why = Unreadable
		return d
	}
	s.decide(l3, p, &d)
	return d
}

// decide places a parsed packet; l3 may be nil if only the key is known. d has
// no slot, index and mark yet.
func (s *State) decide(l3 []byte, p *Packet, d *Decision) {
	if p.Kind&LaterFragment != 0 {
		d.Why = LaterOfFirst
		return
	}
	d.flow, d.Why = s.index.match(s.PromiscuousPing, l3, p)
	if d.flow != nil && d.flow.encap != 0 {
		if err := Parse(l3, d.flow.encap, p); err != nil {
			d.flow, d.Why = nil, Unreadable
			return
		}
		d.flow, d.Why = s.index.match(s.PromiscuousPing, l3, p)
	}
	d.Hash = p.Key.Hash(s.HashMode)
	if d.flow == nil {
		d.accept(s.NoFlowMark)
		return
	}
	table := d.flow.target.Table()
	if table == nil {
		d.Why = NoTable
		return
	}
	d.Slot, d.Index, d.Mark = table.Lookup(d.Hash)
	if d.Index < 0 {
		d.Why = NoTarget
		d.accept(s.NoTargetMark)
		return
	}
	d.Accept = true
}

// accept lets a packet without a target pass if there is a mark for it.
func (d *Decision) accept(mark int) {
	if mark > 0 {
		d.Mark, d.Accept = mark, true
	}
}
