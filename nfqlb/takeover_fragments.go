// SPDX-License-Identifier: Apache-2.0

package nfqlb

// Fragmented packets that are under way when another process takes over: the
// later fragments have to get what the first one got.

// heldFragments is one packet of the fragment table.
type heldFragments struct {
	Key    []byte   `json:"key"`
	Kept   [][]byte `json:"kept,omitempty"`  // later fragments that wait for the first one
	Known  bool     `json:"known,omitempty"` // the first one was seen, and got:
	Accept bool     `json:"accept,omitempty"`
	Mark   int      `json:"mark,omitempty"`
	Why    Reason   `json:"why,omitempty"`
}

// held is the table's content, oldest first. It stays in place.
func (f *fragTable) held() (out []heldFragments) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(f.config.now())
	for i := f.oldest; i != none; i = f.entries[i].newer {
		e := &f.entries[i]
		if e.state == fragLost {
			continue
		}
		h := heldFragments{Key: append([]byte(nil), e.key[:]...)}
		if e.state == fragDecided {
			h.Known, h.Accept, h.Mark, h.Why = true, e.decision.Accept, e.decision.Mark, e.decision.Why
		}
		for at := e.stored; at != none; at = f.store.items[at].next {
			h.Kept = append(h.Kept, append([]byte(nil), f.store.packet(at)...))
		}
		out = append(out, h)
	}
	return out
}

// take enters what another process held.
func (f *fragTable) take(held []heldFragments) {
	for _, h := range held {
		var k fragKey
		if copy(k[:], h.Key) != len(k) {
			continue
		}
		if h.Known && h.Why < reasons {
			f.first(&k, nil, Decision{Slot: -1, Index: -1, Mark: h.Mark, Accept: h.Accept, Why: h.Why})
			continue
		}
		for _, packet := range h.Kept {
			f.later(&k, packet)
		}
	}
}
