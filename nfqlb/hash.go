// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "encoding/binary"

// HashMode selects what of a packet is hashed (nfqlb --hash_mode).
type HashMode int

const (
	// HashTuple hashes the whole key of every packet. Meridio uses it.
	HashTuple HashMode = 0
	// HashSCTPPorts hashes only the ports of SCTP, so that all paths of a
	// multihomed association reach the same target. nfqlb's default.
	HashSCTPPorts HashMode = 1
)

// Powers of 33 modulo 2³², to take several bytes in one step of the hash.
const (
	p1  = 33
	p2  = p1 * p1
	p4  = p2 * p2
	p8  = p4 * p4 & 0xffffffff
	p16 = p8 * p8 & 0xffffffff
	p24 = p16 * p8 & 0xffffffff
	p32 = p16 * p16 & 0xffffffff
	p40 = p32 * p8 & 0xffffffff
)

// Hash is djb2 (h·33 + byte from 5381, 32 bits) over the key. Byte by byte it
// is one chain of 40 dependent multiplications, and most of a decision's time;
// so the key's five words are hashed side by side and put together.
func (k *Key) Hash(mode HashMode) uint32 {
	if mode == HashSCTPPorts && k.Proto() == protoSCTP {
		return djb2(5381, k[36:40])
	}
	return 5381*p40&0xffffffff + k.word(0)*p32 + k.word(8)*p24 + k.word(16)*p16 + k.word(24)*p8 + k.word(32)
}

// HashAddresses is the hash of the addresses alone.
func (k *Key) HashAddresses() uint32 { return djb2(5381, k[:32]) }

func (k *Key) word(at int) uint32 { return djb2Word(binary.LittleEndian.Uint64(k[at:])) }

// djb2Word is the hash of eight bytes from 0: neighbours are joined to 16
// bits, these to 32, side by side in one word, none of which can overflow its
// place.
func djb2Word(v uint64) uint32 {
	const bytes, halves = 0x00ff00ff00ff00ff, 0x0000ffff0000ffff
	v = (v&bytes)*p1 + v>>8&bytes
	v = (v&halves)*p2 + v>>16&halves
	return uint32(v)*p4 + uint32(v>>32)
}

// djb2 continues h over b.
func djb2(h uint32, b []byte) uint32 {
	for ; len(b) >= 8; b = b[8:] {
		h = h*p8 + djb2Word(binary.LittleEndian.Uint64(b))
	}
	for _, c := range b {
		h = h*p1 + uint32(c)
	}
	return h
}
