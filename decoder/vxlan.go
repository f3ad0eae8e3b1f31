// SPDX-License-Identifier: Apache-2.0

// A packet that travels in VXLAN for a part of its way (RFC 7348). The trail is
// the same all the way; there the records have the headers around the packet.

package decoder

import (
	"encoding/binary"
	"slices"

	"waymark/bpf"
)

// vxlanPorts are IANA's, and Linux's own for who names none (drivers/net/vxlan).
// bpf/parse.h has the same.
var vxlanPorts = []uint16{4789, 8472}

// vxlanNetwork is the identifier in a VXLAN packet; nil: it is none, or a later
// fragment of one.
func vxlanNetwork(r *bpf.Record, snap []byte) *uint32 {
	if r.Proto != protoUDP || !slices.Contains(vxlanPorts, r.DstPort()) {
		return nil
	}
	const (
		udpHeader = 8
		hasID     = 0x08 // flag in the first byte of the VXLAN header
	)
	_, _, proto, l4, ok := transport(networkHeader(r, snap))
	if !ok || proto != protoUDP || len(l4) < udpHeader+8 || l4[udpHeader]&hasID == 0 {
		return nil
	}
	id := binary.BigEndian.Uint32(l4[udpHeader+4:]) >> 8
	return &id
}

func (b *builder) isVXLAN(e *event) bool { return vxlanNetwork(&e.rec, b.o.snapshot(e)) != nil }

// around tells whether e has not the packet's own headers but those of the VXLAN
// packet that carries it.
func (b *builder) around(e *event) bool { return b.j.Packet.VXLAN == nil && b.isVXLAN(e) }

// wrapped tells whether VXLAN was put around the packet between two of its
// records, or taken off: other addresses are no NAT then, and no routing decision
// leads from the ones to the others.
func (b *builder) wrapped(from, to *event) bool { return b.isVXLAN(from) != b.isVXLAN(to) }
