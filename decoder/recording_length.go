// SPDX-License-Identifier: Apache-2.0

// Length of a packet on the wire, which skb->len is only at some hooks.

package decoder

import (
	"encoding/binary"

	"waymark/bpf"
)

// wireLength is the length in bytes that the packet had where it was seen,
// from the first header in snapshot on; never less than the snapshot.
//
// At TC, skb->len counts from the header the snapshot begins with. Elsewhere
// skb->data may have moved past headers already read (or not yet be past the
// link header), so the IP header knows better; it does not for packets over
// 65535 bytes (BIG TCP writes 0) and for other protocols.
func wireLength(r *bpf.Record, snapshot []byte) uint32 {
	seen := uint32(len(snapshot))
	if h := bpf.Hook(r.Hook); h == bpf.HookTCIngress || h == bpf.HookTCEgress {
		return max(r.Len, seen)
	}
	if r.IpVersion == 0 {
		return max(r.Len, seen)
	}
	link := 0
	if r.Flags&bpf.FlagL3 == 0 {
		link = linkHeaderLength(snapshot)
	}
	if n := toldIPLength(snapshot[link:]); n > 0 {
		return max(uint32(link+n), seen)
	}
	return max(r.Len, seen)
}

// linkHeaderLength is the length of the Ethernet header and its VLAN tags.
func linkHeaderLength(frame []byte) int {
	n := 14
	for len(frame) >= n+vlanTag {
		switch binary.BigEndian.Uint16(frame[n-2:]) {
		case 0x8100, 0x88a8:
			n += vlanTag
			continue
		}
		break
	}
	return min(n, len(frame))
}

// toldIPLength is the length that the IP header at the start of b tells, 0 if it
// tells none (RFC 791, RFC 8200).
func toldIPLength(b []byte) int {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return int(binary.BigEndian.Uint16(b[2:]))
	case len(b) >= 40 && b[0]>>4 == 6:
		if n := int(binary.BigEndian.Uint16(b[4:])); n > 0 {
			return 40 + n
		}
	}
	return 0
}
