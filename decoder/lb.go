// SPDX-License-Identifier: Apache-2.0

package decoder

import "net/netip"

// LBDecider recomputes what a balancer decides about a packet from the state
// it published. It must be a pure function of its arguments.
type LBDecider interface {
	Decide(b *Balancer, p *LBPacket) LBDecision
}

// LBPacket is the packet as the balancer gets it from its queue.
type LBPacket struct {
	Src, Dst     netip.Addr
	SPort, DPort uint16 // host order
	Proto        uint8
	ICMPType     uint8
	ICMPID       uint16 // host order
	FragID       uint16 // host order
	FragFirst    bool   // first of several fragments
	FragLater    bool   // fragment that is not the first: no ports
	L3           []byte // from the network header on, as far as it was recorded
}

// LBDecision is what the balancer does with a packet, and why.
type LBDecision struct {
	Flow   string // flow that matched; empty: none did
	Hash   uint32
	Index  int // of the lookup table
	Target int
	Mark   int // fwmark given to the packet; -1: none
	Accept bool
	Why    string // why there is no target; empty: there is one
}
