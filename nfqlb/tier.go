// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"sync/atomic"
)

// Fragments of one packet can come to different balancers of a tier. So that
// one of them sees them all, each balancer hands a fragment to the one that
// the fragment's addresses choose in a table that the balancers share: it is
// marked with that balancer's mark, to be routed there. A balancer knows itself
// by the table's own mark.

// tier is the table of the balancers. A nil tier has none.
type tier struct {
	name    string
	load    func(name string) (*Shared, error)
	current atomic.Pointer[tierTable]
}

type tierTable struct {
	*Table
	own int
}

// reload reads the table again if it is called name.
func (t *tier) reload(name string) (changed bool, err error) {
	if t == nil || t.name != name {
		return false, nil
	}
	s, err := t.load(name)
	if err != nil {
		return false, err
	}
	table, err := s.Table()
	if err != nil {
		return false, err
	}
	if old := t.current.Load(); old != nil && old.own == s.OwnFWMark && old.same(table) {
		return false, nil
	}
	t.current.Store(&tierTable{table, s.OwnFWMark})
	return true, nil
}

// other is the decision for a fragment that another balancer handles.
func (t *tier) other(k *Key) (d Decision, ok bool) {
	if t == nil {
		return d, false
	}
	table := t.current.Load()
	d = Decision{Hash: k.HashAddresses(), Accept: true, Why: OtherBalancer}
	d.Slot, d.Index, d.Mark = table.Lookup(d.Hash)
	return d, d.Mark >= 0 && d.Mark != table.own
}

// UseTier makes the balancer one of a tier, whose table load finds by name. It
// is called before the first packet.
func (b *Balancer) UseTier(name string, load func(name string) (*Shared, error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &tier{name: name, load: load}
	if _, err := t.reload(name); err != nil {
		return fmt.Errorf("balancers %s: %w", name, err)
	}
	b.tier = t
	return nil
}

// TrackFragments makes the balancer place later fragments as the first one of
// their packet. It is called before the first packet.
func (b *Balancer) TrackFragments(c FragmentConfig) error {
	if err := c.Check(); err != nil {
		return err
	}
	c.injected = b.traceInjected
	b.frags = newFragTable(c)
	return nil
}

// FragStats are the counters of TrackFragments, nil without it.
func (b *Balancer) FragStats() *FragStats {
	if b.frags == nil {
		return nil
	}
	return b.frags.snapshot()
}

// fragment turns the decision about a fragment into the one for its packet.
func (b *Balancer) fragment(l3 []byte, p *Packet, d Decision) Decision {
	if d.Why != Unreadable {
		if other, ok := b.tier.other(&p.Key); ok {
			return other
		}
	}
	if b.frags == nil {
		return d
	}
	return b.frags.decide(l3, p, d)
}

// drop takes the target back.
func (d *Decision) drop(why Reason) {
	if d.Accept {
		d.Index, d.Mark, d.Accept, d.Why = -1, -1, false, why
	}
}
