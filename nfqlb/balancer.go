// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrNoFlow says that no flow has the name.
var ErrNoFlow = errors.New("no flow of that name")

// Balancer holds the flows and targets of a running balancer and counts what
// it decides. Configuration calls may come from any goroutine at any time:
// each puts a whole new state in place, and packets never wait for one.
type Balancer struct {
	state   atomic.Pointer[State]
	tracing atomic.Uint32 // TraceMask of all trace clients, beside what every packet reads

	counts [reasons]counter
	frags  *fragTable // nil: later fragments are dropped
	tier   *tier

	mu      sync.Mutex // for the fields below
	flows   []*flow    // in the order they were set
	targets map[string]*Target
	load    func(name string) (*Table, error)
	fast    fastPath                     // nil: all packets come through Decide
	keep    func([]FlowSpec)             // is told each change of the flows; may be nil
	settle  func()                       // waits until no packet is between its decision and its verdict; may be nil
	changed func(name string, err error) // WatchShared's; may be nil

	changes   sync.Mutex     // is held while the flows change, or must not
	takenOver bool           // another process has taken over: changes are its business; with changes held
	offer     func(net.Conn) // answers a process that wants to take over; nil: nothing to offer

	trace tracer
}

// NewBalancer is a balancer without flows. load finds the table of a target
// that a flow names.
func NewBalancer(c Config, load func(name string) (*Table, error)) *Balancer {
	b := &Balancer{targets: make(map[string]*Target), load: load}
	b.state.Store(newState(c, nil))
	return b
}

// FlowStatus is a flow and how many packets matched it.
type FlowStatus struct {
	FlowSpec
	MatchesCount uint64 `json:"matches_count"`
}

// SetFlow adds a flow, or replaces the one of the same name and keeps its
// count. It fails if the spec is wrong or the target's table is not there.
func (b *Balancer) SetFlow(spec FlowSpec) error { return b.SetFlows([]FlowSpec{spec}) }

// SetFlows sets several flows at once. Those that fail are left out.
func (b *Balancer) SetFlows(specs []FlowSpec) error {
	b.changes.Lock()
	defer b.changes.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.takenOver {
		return errTakenOver
	}
	var errs []error
	for _, spec := range specs {
		if err := b.put(spec); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 || len(errs) < len(specs) {
		b.publish()
		b.kept()
	}
	return errors.Join(errs...)
}

var errTakenOver = errors.New("a new process has just taken the balancer over; try again")

// put sets a flow without putting it in force. b.mu is held.
func (b *Balancer) put(spec FlowSpec) error {
	f, err := compileFlow(spec)
	if err != nil {
		return err
	}
	if f.target, err = b.target(spec.Target); err != nil {
		return err
	}
	if i := b.index(spec.Name); i >= 0 {
		f.matches = b.flows[i].matches
		b.flows[i] = f
	} else {
		b.flows = append(b.flows, f)
	}
	return nil
}

// specs are the flows as they were set, in that order. b.mu is held.
func (b *Balancer) specs() []FlowSpec {
	out := make([]FlowSpec, len(b.flows))
	for i, f := range b.flows {
		out[i] = f.spec
	}
	return out
}

func (b *Balancer) kept() {
	if b.keep != nil {
		b.keep(b.specs())
	}
}

// DeleteFlow removes a flow; the error is ErrNoFlow if there is none.
func (b *Balancer) DeleteFlow(name string) error {
	b.changes.Lock()
	defer b.changes.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.takenOver {
		return errTakenOver
	}
	i := b.index(name)
	if i < 0 {
		return ErrNoFlow
	}
	b.flows = slices.Delete(slices.Clone(b.flows), i, i+1)
	b.publish()
	b.kept()
	return nil
}

// Flows lists the flows in matching order, hidden ones (with a # in front)
// among them. A name other than "" picks one.
func (b *Balancer) Flows(name string) []FlowStatus {
	b.foldFast()
	var out []FlowStatus
	for _, f := range b.state.Load().flows {
		if name == "" || f.spec.Name == name {
			out = append(out, FlowStatus{f.spec, f.matches.Load()})
		}
	}
	return out
}

// Targets are the names of the tables in use.
func (b *Balancer) Targets() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name := range b.targets {
		names = append(names, name)
	}
	if b.tier != nil && b.targets[b.tier.name] == nil {
		names = append(names, b.tier.name)
	}
	slices.Sort(names)
	return names
}

// Reload loads a target's table again and tells whether it changed. On an
// error the old table stays in use: targets that are right but old are better
// than none.
func (b *Balancer) Reload(name string) (changed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed, err = b.tier.reload(name)
	t := b.targets[name]
	if t == nil || err != nil {
		return changed, err
	}
	table, err := b.load(name)
	if err != nil {
		return changed, err
	}
	if table.same(t.Table()) {
		return changed, nil
	}
	t.SetTable(table)
	b.refreshFast()
	b.tracef(TraceTarget, "Targets changed; %s\n", name)
	return true, nil
}

// reloadNow reloads a target's table and waits until the new one is in force
// for every packet: none that was placed by the old one is still to leave.
func (b *Balancer) reloadNow(name string) error {
	changed, err := b.Reload(name)
	b.mu.Lock()
	tell, settle := b.changed, b.settle
	b.mu.Unlock()
	if tell != nil && (changed || err != nil) {
		tell(name, err)
	}
	if settle != nil {
		settle() // even if nothing changed: the watch may have been faster
	}
	return err
}

// Decide places a packet as the function Decide does, and counts it.
func (b *Balancer) Decide(l3 []byte, p *Packet) Decision {
	d := Decide(b.state.Load(), l3, p)
	if p.Kind&(FirstFragment|LaterFragment) != 0 {
		d = b.fragment(l3, p, d)
	}
	b.counts[d.Why].Add(1)
	if d.flow != nil {
		if p.Kind&LaterFragment == 0 { // it was placed without looking at flows
			d.flow.matches.Add(1)
		}
		if d.Index >= 0 {
			d.flow.target.hit(d.Index)
		}
	}
	if m := b.tracing.Load(); m != 0 {
		b.tracePacket(TraceMask(m), l3, p, &d)
	}
	return d
}

// Stats are the packets so far.
type Stats struct {
	Reasons map[string]uint64         `json:"reasons"` // by Reason; "" are the placed ones
	Targets map[string]map[int]uint64 `json:"targets"` // by target and index
}

// Stats takes a look at the counters.
func (b *Balancer) Stats() Stats {
	b.foldFast()
	s := Stats{Reasons: make(map[string]uint64), Targets: make(map[string]map[int]uint64)}
	for i := range b.counts {
		if n := b.counts[i].Load(); n > 0 {
			s.Reasons[Reason(i).String()] = n
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, t := range b.targets {
		hits := make(map[int]uint64)
		for i := range *t.hits.Load() {
			if n := (*t.hits.Load())[i].Load(); n > 0 {
				hits[i] = n
			}
		}
		s.Targets[name] = hits
	}
	return s
}

// target finds or loads a target. b.mu is held.
func (b *Balancer) target(name string) (*Target, error) {
	if t := b.targets[name]; t != nil {
		// Whoever sets a flow after changing its targets means the new ones.
		if table, err := b.load(name); err == nil && !table.same(t.Table()) {
			t.SetTable(table)
		}
		b.tracef(TraceTarget, "Found LB; %s\n", name)
		return t, nil
	}
	if name == "" || len(name) > maxTarget {
		return nil, fmt.Errorf("target %q is no name of a table", name)
	}
	b.tracef(TraceTarget, "Creating LB; %s\n", name)
	table, err := b.load(name)
	if err != nil {
		b.tracef(TraceTarget, "Map shm failed; %s\n", name)
		return nil, fmt.Errorf("target %s: %w", name, err)
	}
	t := NewTarget(name, table)
	b.targets[name] = t
	return t, nil
}

// publish puts the flows in force and forgets targets that none uses. b.mu is
// held.
func (b *Balancer) publish() {
	b.state.Store(newState(b.state.Load().Config, b.flows))
	b.refreshFast()
	used := make(map[string]*Target)
	for _, f := range b.flows {
		used[f.target.Name] = f.target
	}
	for name := range b.targets {
		if used[name] == nil {
			b.tracef(TraceTarget, "Delete load-balancer; %s\n", name)
		}
	}
	b.targets = used
}

func (b *Balancer) index(name string) int {
	return slices.IndexFunc(b.flows, func(f *flow) bool { return f.spec.Name == name })
}

func (t *Table) same(o *Table) bool {
	return t.M() == o.M() && slices.Equal(t.active, o.active)
}
