// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"math/bits"
	"net/netip"
	"unsafe"
)

// Record is the fixed header of every kernel record, the Go form of
// struct record in record.h. Addresses and ports are in network byte order,
// everything else in host order.
type Record = WaymarkRecord

// HookStats counts what one hook did on one CPU (struct hook_stats).
type HookStats = WaymarkHookStats

// RecordSize is the size of the header in bytes.
const RecordSize = int(unsafe.Sizeof(Record{}))

// Hook says which hook wrote a record (enum hook).
type Hook = WaymarkHook

// The hooks. Their numbers are stored in recordings.
const (
	HookTCIngress   = WaymarkHookHOOK_TC_INGRESS
	HookTCEgress    = WaymarkHookHOOK_TC_EGRESS
	HookKfreeSkb    = WaymarkHookHOOK_KFREE_SKB
	HookConsumeSkb  = WaymarkHookHOOK_CONSUME_SKB
	HookKfreeSkbmem = WaymarkHookHOOK_KFREE_SKBMEM
	HookSkbClone    = WaymarkHookHOOK_SKB_CLONE
	HookMax         = WaymarkHookHOOK_MAX
)

// What is special about a record (enum record_flags).
const (
	FlagStart  = uint16(WaymarkRecordFlagsRECORD_START)
	FlagEnd    = uint16(WaymarkRecordFlagsRECORD_END)
	FlagL3     = uint16(WaymarkRecordFlagsRECORD_L3)
	FlagVLAN   = uint16(WaymarkRecordFlagsRECORD_VLAN)
	FlagReused = uint16(WaymarkRecordFlagsRECORD_REUSED)
	FlagTrunc  = uint16(WaymarkRecordFlagsRECORD_TRUNC)
)

// Decode fills r from raw, one record as it came from the ring buffer or a
// recording, and returns the packet snapshot, which aliases raw. It allocates
// nothing. It fails if raw is shorter than its own lengths say.
func (r *Record) Decode(raw []byte) (snapshot []byte, err error) {
	if len(raw) < RecordSize {
		return nil, fmt.Errorf("record of %d bytes is shorter than its header of %d", len(raw), RecordSize)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(r)), RecordSize), raw)
	start := RecordSize + int(r.ExtLen)
	end := start + int(r.SnapLen)
	if end > len(raw) {
		return nil, fmt.Errorf("record of %d bytes says it has %d", len(raw), end)
	}
	return raw[start:end:end], nil
}

// Encode returns r followed by snapshot, as the kernel would have written it.
// It sets SnapLen.
func (r *Record) Encode(snapshot []byte) []byte {
	r.SnapLen, r.ExtLen = uint16(len(snapshot)), 0
	raw := make([]byte, RecordSize+len(snapshot))
	copy(raw, unsafe.Slice((*byte)(unsafe.Pointer(r)), RecordSize))
	copy(raw[RecordSize:], snapshot)
	return raw
}

// SrcAddr is the source address, IPv4 as IPv4; invalid if the packet is not IP.
func (r *Record) SrcAddr() netip.Addr { return r.addr(r.Src) }

// DstAddr is the destination address, IPv4 as IPv4; invalid if the packet is not IP.
func (r *Record) DstAddr() netip.Addr { return r.addr(r.Dst) }

// SrcPort is the source port in host order.
func (r *Record) SrcPort() uint16 { return bits.ReverseBytes16(r.Sport) }

// DstPort is the destination port in host order.
func (r *Record) DstPort() uint16 { return bits.ReverseBytes16(r.Dport) }

func (r *Record) addr(a [16]byte) netip.Addr {
	switch r.IpVersion {
	case 4:
		return netip.AddrFrom4([4]byte(a[12:]))
	case 6:
		return netip.AddrFrom16(a)
	}
	return netip.Addr{}
}
