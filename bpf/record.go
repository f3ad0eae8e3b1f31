// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
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

// IPVSExt is what records of the ipvs group carry besides (struct ipvs_ext).
type IPVSExt = WaymarkIpvsExt

// NetfilterExt is what records of the netfilter group carry besides (struct
// netfilter_ext).
type NetfilterExt = WaymarkNetfilterExt

// NATExt is what records of a change of addresses carry besides (struct nat_ext).
type NATExt = WaymarkNatExt

// ConntrackExt is what records of conntrack carry besides (struct conntrack_ext).
type ConntrackExt = WaymarkConntrackExt

// BridgeExt is what records of the bridge group carry besides (struct bridge_ext).
type BridgeExt = WaymarkBridgeExt

// SocketExt is what records of the socket group carry besides, but for
// HookSocketReject and HookSocketICMP (struct socket_ext).
type SocketExt = WaymarkSocketExt

// ICMPExt is what records of HookSocketICMP carry besides (struct icmp_ext).
type ICMPExt = WaymarkIcmpExt

// RecordSize is the size of the header in bytes.
const RecordSize = int(unsafe.Sizeof(Record{}))

// Hook says which hook wrote a record (enum hook).
type Hook = WaymarkHook

// The hooks. Their numbers are stored in recordings.
const (
	HookTCIngress     = WaymarkHookHOOK_TC_INGRESS
	HookTCEgress      = WaymarkHookHOOK_TC_EGRESS
	HookKfreeSkb      = WaymarkHookHOOK_KFREE_SKB
	HookQueueEnter    = WaymarkHookHOOK_QUEUE_ENTER
	HookQueueVerdict  = WaymarkHookHOOK_QUEUE_VERDICT
	HookConsumeSkb    = WaymarkHookHOOK_CONSUME_SKB
	HookKfreeSkbmem   = WaymarkHookHOOK_KFREE_SKBMEM
	HookSkbClone      = WaymarkHookHOOK_SKB_CLONE
	HookIPVSForward   = WaymarkHookHOOK_IPVS_FORWARD
	HookIPVSReply     = WaymarkHookHOOK_IPVS_REPLY
	HookSkbSegment    = WaymarkHookHOOK_SKB_SEGMENT
	HookNFTChain      = WaymarkHookHOOK_NFT_CHAIN
	HookIPTTable      = WaymarkHookHOOK_IPT_TABLE
	HookLocalOut      = WaymarkHookHOOK_LOCAL_OUT
	HookConnect       = WaymarkHookHOOK_CONNECT
	HookNAT           = WaymarkHookHOOK_NAT
	HookConntrack     = WaymarkHookHOOK_CONNTRACK
	HookBridgeForward = WaymarkHookHOOK_BRIDGE_FORWARD
	HookBridgeFlood   = WaymarkHookHOOK_BRIDGE_FLOOD
	HookSocketReceive = WaymarkHookHOOK_SOCKET_RECEIVE
	HookSocketReset   = WaymarkHookHOOK_SOCKET_RESET
	HookSocketReject  = WaymarkHookHOOK_SOCKET_REJECT
	HookSocketICMP    = WaymarkHookHOOK_SOCKET_ICMP
	HookMax           = WaymarkHookHOOK_MAX
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

// Stack is the kernel's stack of a drop, return addresses from the innermost on,
// from the hook's part of its record; none if it was not asked for.
func Stack(ext []byte) (addrs []uint64) {
	for len(ext) >= 8 {
		addr := binary.LittleEndian.Uint64(ext)
		if addr == 0 {
			break
		}
		addrs, ext = append(addrs, addr), ext[8:]
	}
	return addrs
}

// Ext is what records of some groups carry besides.
type Ext interface {
	QueueExt | IPVSExt | NetfilterExt | NATExt | ConntrackExt | BridgeExt | SocketExt | ICMPExt
}

// DecodeExt reads a record's hook part. It fails if that is too short; of a
// longer one, which a newer waymark wrote, it takes what it knows.
func DecodeExt[T Ext](ext []byte) (x T, err error) {
	size := int(unsafe.Sizeof(x))
	if len(ext) < size {
		return x, fmt.Errorf("the hook's part of a record has %d bytes, not %d", len(ext), size)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&x)), size), ext)
	return x, nil
}

// EncodeExt returns x as the kernel writes it.
func EncodeExt[T Ext](x T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&x)), unsafe.Sizeof(x))...)
}

// What is special about an IPVS connection (enum ipvs_flags).
const (
	IPVSNew  = uint8(WaymarkIpvsFlagsIPVS_NEW)
	IPVSDest = uint8(WaymarkIpvsFlagsIPVS_DEST)
)

// How a chain came to its verdict (enum netfilter_flags).
const NetfilterRule = uint8(WaymarkNetfilterFlagsNETFILTER_RULE)

// NATMasquerade: the connection's source is masqueraded (enum nat_flags).
const NATMasquerade = uint8(WaymarkNatFlagsNAT_MASQUERADE)

// ConntrackFound: the packet's connection has an entry (enum conntrack_flags).
const ConntrackFound = uint8(WaymarkConntrackFlagsCONNTRACK_FOUND)

// BridgeNetfilter: br_netfilter saw the frame (enum bridge_flags).
const BridgeNetfilter = uint8(WaymarkBridgeFlagsBRIDGE_NETFILTER)

// What is special about a socket (enum socket_flags).
const (
	SocketNone = uint8(WaymarkSocketFlagsSOCKET_NONE)
	SocketDead = uint8(WaymarkSocketFlagsSOCKET_DEAD)
)

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
