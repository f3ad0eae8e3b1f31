// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"net/netip"
)

// IP protocol numbers (IANA) that the balancer looks into.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132
)

// Key is what the balancer knows a packet by, in the layout that nfqlb hashes
// (its struct ctKey): source and destination, 16 bytes each with IPv4 mapped
// to ::ffff:a.b.c.d, then 2 bytes id, 2 bytes protocol (little endian), 2 bytes
// source and 2 bytes destination port (network order). For a later fragment
// the last 8 bytes are the fragment's id instead.
type Key [40]byte

// MakeKey builds the key of an unfragmented packet. id is the ICMP id of an
// echo request, otherwise 0.
func MakeKey(src, dst netip.Addr, proto uint8, id, sport, dport uint16) Key {
	var k Key
	s, d := src.As16(), dst.As16()
	copy(k[0:], s[:])
	copy(k[16:], d[:])
	binary.BigEndian.PutUint16(k[32:], id)
	binary.LittleEndian.PutUint16(k[34:], uint16(proto))
	binary.BigEndian.PutUint16(k[36:], sport)
	binary.BigEndian.PutUint16(k[38:], dport)
	return k
}

// Src is the source address, IPv4 as IPv4.
func (k *Key) Src() netip.Addr { return netip.AddrFrom16([16]byte(k[0:16])).Unmap() }

// Dst is the destination address, IPv4 as IPv4.
func (k *Key) Dst() netip.Addr { return netip.AddrFrom16([16]byte(k[16:32])).Unmap() }

// Proto is the IP protocol number.
func (k *Key) Proto() uint16 { return binary.LittleEndian.Uint16(k[34:]) }

// SrcPort is the source port in host order, 0 if the protocol has none.
func (k *Key) SrcPort() uint16 { return binary.BigEndian.Uint16(k[36:]) }

// DstPort is the destination port in host order, 0 if the protocol has none.
func (k *Key) DstPort() uint16 { return binary.BigEndian.Uint16(k[38:]) }

func (k *Key) setProto(p uint8) { k[34], k[35] = p, 0 }

// The two below write whole words: the key is read as words soon after, and a
// processor makes a read wait that takes from several writes.

// setIPv4 is the addresses of an IPv4 packet, 4 bytes each; k is empty.
func (k *Key) setIPv4(src, dst []byte) {
	const mapped = 0xffff << 16 // bytes 10 and 11 of the address
	binary.LittleEndian.PutUint64(k[8:], mapped|uint64(binary.LittleEndian.Uint32(src))<<32)
	binary.LittleEndian.PutUint64(k[24:], mapped|uint64(binary.LittleEndian.Uint32(dst))<<32)
}

// setTail is what follows the addresses: no id, the protocol, and the ports as
// they are in the packet.
func (k *Key) setTail(proto uint8, ports uint32) {
	binary.LittleEndian.PutUint64(k[32:], uint64(proto)<<16|uint64(ports)<<32)
}
