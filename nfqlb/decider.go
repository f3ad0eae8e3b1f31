// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"waymark/decoder"
)

// Decider explains decisions from recorded state: it is this package's
// decoder.LBDecider. The zero value is ready; it is safe for concurrent use.
type Decider struct {
	mu     sync.Mutex
	states map[*decoder.Balancer]stateOrError
	tables map[string]*Table
}

var _ decoder.LBDecider = (*Decider)(nil)

type stateOrError struct {
	state *State
	err   error
}

// A recording has a handful of balancers and one table for each target change.
// Above these the caches start anew.
const (
	maxStates = 256
	maxTables = 256
)

// Decide gives the decision that a balancer in state b takes about p. It uses
// p's snapshot where that is long enough to be parsed, else p's tuple. b must
// not change after it was given here.
func (d *Decider) Decide(b *decoder.Balancer, p *decoder.LBPacket) decoder.LBDecision {
	s, err := d.state(b)
	if err != nil {
		return decoder.LBDecision{Index: -1, Target: -1, Mark: -1, Why: "balancer state cannot be read: " + err.Error()}
	}
	var packet Packet
	dec := Decision{Slot: -1, Index: -1, Mark: -1}
	if err := Parse(p.L3, 0, &packet); err != nil {
		if why, ok := packetOf(p, &packet); !ok {
			dec.Why = why
			return explain(&dec)
		}
	}
	s.decide(p.L3, &packet, &dec)
	return explain(&dec)
}

func explain(d *Decision) decoder.LBDecision {
	return decoder.LBDecision{
		Flow: d.Flow(), Hash: d.Hash, Index: d.Slot, Target: d.Index,
		Mark: d.Mark, Accept: d.Accept, Why: d.Why.String(),
	}
}

// packetOf makes the parsed packet from a tuple. An ICMP error cannot be
// placed by its tuple: its target hangs on the packet it quotes.
func packetOf(p *decoder.LBPacket, out *Packet) (Reason, bool) {
	if !p.Src.IsValid() || !p.Dst.IsValid() {
		return Unreadable, false
	}
	*out = Packet{FragID: uint32(p.FragID)}
	if p.FragLater {
		out.Kind = LaterFragment
		return Decided, true
	}
	if p.FragFirst {
		out.Kind = FirstFragment
	}
	id := uint16(0)
	v6 := p.Dst.Is6() && !p.Dst.Is4In6()
	switch {
	case p.Proto == protoICMP && !v6:
		switch p.ICMPType {
		case icmpUnreachable, icmpSourceQuench, icmpRedirect, icmpTimeExceeded:
			return Unreadable, false
		case icmpEcho:
			id = p.ICMPID
		}
	case p.Proto == protoICMPv6 && v6:
		switch p.ICMPType {
		case icmp6Unreachable, icmp6TooBig:
			return Unreadable, false
		case icmp6Echo:
			id = p.ICMPID
		}
	}
	sport, dport := p.SPort, p.DPort
	if p.Proto != protoTCP && p.Proto != protoUDP && p.Proto != protoSCTP {
		sport, dport = 0, 0
	}
	out.Key = MakeKey(netip.AddrFrom16(p.Src.As16()), netip.AddrFrom16(p.Dst.As16()), p.Proto, id, sport, dport)
	return Decided, true
}

// state compiles b, once.
func (d *Decider) state(b *decoder.Balancer) (*State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := d.states[b]; ok {
		return s.state, s.err
	}
	targets := make(map[string]*Target)
	var firstErr error
	for _, t := range b.Tables {
		table, err := d.table(t)
		if err != nil && firstErr == nil {
			firstErr = err
		}
		if err == nil {
			targets[t.Name] = NewTarget(t.Name, table)
		}
	}
	c := Config{HashMode: HashMode(b.HashMode), PromiscuousPing: b.PromiscuousPing}
	s, err := NewState(c, b.Flows, targets)
	if err == nil {
		err = firstErr
	}
	if d.states == nil || len(d.states) >= maxStates {
		d.states = make(map[*decoder.Balancer]stateOrError)
	}
	d.states[b] = stateOrError{s, err}
	return s, err
}

// table builds a lookup table, once for all balancers with the same targets.
func (d *Decider) table(t decoder.BalancerTable) (*Table, error) {
	key := binary.AppendVarint(binary.AppendVarint(nil, int64(t.M)), int64(t.N))
	for _, mark := range t.Active {
		key = binary.AppendVarint(key, int64(mark))
	}
	if table := d.tables[string(key)]; table != nil {
		return table, nil
	}
	table, err := NewTable(t.M, t.N, t.Active)
	if err != nil {
		return nil, err
	}
	if d.tables == nil || len(d.tables) >= maxTables {
		d.tables = make(map[string]*Table)
	}
	d.tables[string(key)] = table
	return table, nil
}
