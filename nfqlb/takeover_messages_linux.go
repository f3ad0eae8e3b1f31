// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "maps"

// What a balancer leaves to the process that takes it over.

// takeoverOffer is what a new process has to know to prepare.
type takeoverOffer struct {
	Version     int        `json:"version"`
	First       uint16     `json:"first_queue"`
	Last        uint16     `json:"last_queue"`
	Descriptors []string   `json:"descriptors"` // what they are, in their order
	Flows       []FlowSpec `json:"flows"`       // in the order they were set
}

// takeoverState is what changes with each packet.
type takeoverState struct {
	Stats
	Flows     map[string]uint64 `json:"flows"` // matches
	Engine    EngineStats       `json:"engine"`
	Fragments []heldFragments   `json:"fragments"`
}

// takeoverStep says that the new process has come so far.
type takeoverStep struct {
	Step string `json:"step"`
}

const (
	takeoverReady = "ready"
	takeoverTaken = "taken"
	takeoverYours = "yours"
)

// takeoverState is taken while no packets are decided.
func (b *Balancer) takeoverState() takeoverState {
	s := takeoverState{Stats: b.Stats(), Flows: make(map[string]uint64)}
	for _, f := range b.Flows("") {
		s.Flows[f.Name] = f.MatchesCount
	}
	if b.frags != nil {
		s.Fragments = b.frags.held()
	}
	return s
}

// inherit goes on counting where another balancer ended. No packet may have
// been decided yet.
func (b *Balancer) inherit(s *takeoverState) {
	for i := range b.counts {
		b.counts[i].Add(s.Reasons[Reason(i).String()])
	}
	b.mu.Lock()
	for _, f := range b.state.Load().flows {
		f.matches.Add(s.Flows[f.spec.Name])
	}
	for name, hits := range s.Targets {
		if t := b.targets[name]; t != nil {
			for index, n := range maps.All(hits) {
				t.hitBy(index, n)
			}
		}
	}
	b.mu.Unlock()
	if b.frags != nil {
		b.frags = newFragTable(b.frags.config) // the old balancer wrote its shared counters until now
		b.frags.take(s.Fragments)
	}
}
