// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"net/netip"

	"waymark/bpf"
)

const (
	maxServing = 8192
	// servingAge is how long an answer says that TCP passes: twice the time between
	// two probes of cilium-health.
	servingAge = 120e9 // ns
)

// servingKey is an address, and a namespace that an answer from it came by.
type servingKey struct {
	netns uint32
	addr  netip.Addr
}

// serving remembers which addresses took a TCP connection, and when last: who drops
// echo requests to such a one filters ICMP alone.
type serving struct {
	at   map[servingKey]uint64 // boot clock ns
	ring []servingKey
	next int
}

// note takes a record; true: it is the first answer from there.
func (s *serving) note(r *bpf.Record) bool {
	if r.Proto != protoTCP || r.TcpFlags&(flagSYN|flagACK) != flagSYN|flagACK || r.Netns == 0 || bpf.Hook(r.Hook) == bpf.HookKfreeSkb {
		return false
	}
	k := servingKey{r.Netns, r.SrcAddr()}
	if s.at == nil {
		s.at = map[servingKey]uint64{}
	}
	_, known := s.at[k]
	if !known {
		if len(s.ring) < maxServing {
			s.ring = append(s.ring, k)
		} else {
			delete(s.at, s.ring[s.next])
			s.ring[s.next] = k
			s.next = (s.next + 1) % maxServing
		}
	}
	s.at[k] = r.TimeNs
	return !known
}

// servesTCP tells whether the packet's destination took a TCP connection about then,
// by the drop's namespace.
func (f *dropFacts) servesTCP() bool {
	at, ok := f.b.s.serving.at[servingKey{f.netns, f.dst}]
	return ok && max(at, f.rec.TimeNs)-min(at, f.rec.TimeNs) <= servingAge
}
