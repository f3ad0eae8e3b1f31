// SPDX-License-Identifier: Apache-2.0

// Selecting: which of the journeys in a stream a reader wants to be told of.

package decoder

import (
	"fmt"
	"slices"
	"strings"

	"waymark/bpf"
)

// OnlyIncomplete, in Options.Only, takes the journeys that are not complete,
// whatever became of them.
const OnlyIncomplete = "incomplete"

// only is what Options.Only may hold.
var only = []string{string(Dropped), string(Delivered), string(Forwarded), string(Consumed), string(Open), OnlyIncomplete}

// CheckOnly refuses what Options.Only cannot hold.
func CheckOnly(names []string) error {
	for _, n := range names {
		if !slices.Contains(only, n) {
			return fmt.Errorf("%q is no outcome: choose from %s", n, strings.Join(only, ", "))
		}
	}
	return nil
}

// PacketBytes is a packet as a record has it, with a VLAN tag that the kernel
// kept beside it put back.
type PacketBytes struct {
	// Data begins with the Ethernet header, or if Network with the network
	// header. It holds what the recording has of the packet, and only during the
	// call.
	Data      []byte
	Network   bool
	EtherType uint16 // of what Data begins with, if Network
	WireLen   int    // bytes on the wire from Data's first on, never less than Data has
}

// packetBytes is what r says about its packet.
func packetBytes(r *bpf.Record, snapshot []byte) PacketBytes {
	p := PacketBytes{Data: snapshot, WireLen: int(wireLength(r, snapshot)), Network: r.Flags&bpf.FlagL3 != 0}
	if p.Network {
		p.EtherType = r.L3Proto
	}
	if hasTagBeside(r, snapshot) {
		p.Data = appendTagged(nil, r, snapshot)
		p.WireLen += vlanTag
	}
	return p
}

// matches tells whether the reader's filter takes the packet of e.
func (s *Stitcher) matches(o *openJourney, e *event) bool {
	snapshot := o.snapshot(e)
	return s.opt.Match != nil && len(snapshot) > 0 && s.opt.Match(packetBytes(&e.rec, snapshot))
}

// wants tells whether j is what the reader selects.
func (o *Options) wants(j *Journey) bool {
	if o.MarkMask != 0 && !j.hadMark(o.Mark, o.MarkMask) || o.Match != nil && !j.matched {
		return false
	}
	return len(o.Only) == 0 || slices.ContainsFunc(o.Only, func(n string) bool {
		return n == string(j.Outcome) || n == OnlyIncomplete && !j.Complete
	})
}
