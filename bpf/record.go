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

// QueueExt is what records of the queue group carry besides (struct queue_ext).
type QueueExt = WaymarkQueueExt

// RecordSize is the size of the header in bytes.
const RecordSize = int(unsafe.Sizeof(Record{}))

// Hook says which hook wrote a record (enum hook).
type Hook = WaymarkHook

// The hooks. Their numbers are stored in recordings.
const (
	HookTCIngress    = WaymarkHookHOOK_TC_INGRESS
	HookTCEgress     = WaymarkHookHOOK_TC_EGRESS
	HookKfreeSkb     = WaymarkHookHOOK_KFREE_SKB
	HookQueueEnter   = WaymarkHookHOOK_QUEUE_ENTER
	HookQueueVerdict = WaymarkHookHOOK_QUEUE_VERDICT
	HookConsumeSkb   = WaymarkHookHOOK_CONSUME_SKB
	HookKfreeSkbmem  = WaymarkHookHOOK_KFREE_SKBMEM
	HookSkbClone     = WaymarkHookHOOK_SKB_CLONE
	HookMax          = WaymarkHookHOOK_MAX
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

// Ext is the hook's own part of raw, which Decode took apart; it aliases raw.
func (r *Record) Ext(raw []byte) []byte { return raw[RecordSize : RecordSize+int(r.ExtLen)] }

// Encode returns r followed by ext and snapshot, as the kernel would have
// written it. It sets ExtLen and SnapLen.
func (r *Record) Encode(ext, snapshot []byte) []byte {
	r.ExtLen, r.SnapLen = uint16(len(ext)), uint16(len(snapshot))
	raw := make([]byte, 0, RecordSize+len(ext)+len(snapshot))
	raw = append(raw, unsafe.Slice((*byte)(unsafe.Pointer(r)), RecordSize)...)
	raw = append(raw, ext...)
	return append(raw, snapshot...)
}

// Decode fills q from a record's hook part. It fails if that is too short; a
// longer one is of a newer waymark, whose additions are left out.
func (q *QueueExt) Decode(ext []byte) error {
	if len(ext) < int(unsafe.Sizeof(*q)) {
		return fmt.Errorf("queue part of a record has %d bytes, not %d", len(ext), unsafe.Sizeof(*q))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(q)), unsafe.Sizeof(*q)), ext)
	return nil
}

// Encode returns q as the kernel writes it.
func (q *QueueExt) Encode() []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(q)), unsafe.Sizeof(*q))...)
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
