// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "encoding/binary"

// fragStore keeps whole packets in memory taken once.
type fragStore struct {
	size  int // of the longest packet
	bytes []byte
	items []fragItem
	free  int32
}

type fragItem struct {
	next   int32 // in the entry's chain or the free list
	length int32
}

func newFragStore(n, size int) fragStore {
	s := fragStore{size: size, bytes: make([]byte, n*size), items: make([]fragItem, n), free: none}
	for i := n - 1; i >= 0; i-- {
		s.items[i].next = s.free
		s.free = int32(i)
	}
	return s
}

// put copies a packet. none: all places are taken, or the packet is longer
// than a place, or l3 is only its beginning.
func (s *fragStore) put(l3 []byte) int32 {
	length, ok := packetLength(l3)
	if !ok || length > len(l3) || length > s.size || s.free == none {
		return none
	}
	i := s.free
	s.free = s.items[i].next
	s.items[i] = fragItem{next: none, length: int32(length)}
	copy(s.packet(i), l3)
	return i
}

func (s *fragStore) packet(i int32) []byte {
	return s.bytes[int(i)*s.size:][:s.items[i].length]
}

// release frees a chain and says how long it was.
func (s *fragStore) release(chain int32) (n int) {
	for i := chain; i != none; n++ {
		next := s.items[i].next
		s.items[i].next = s.free
		s.free = i
		i = next
	}
	return n
}

// packetLength is the length that the IP header l3 gives its packet.
func packetLength(l3 []byte) (n int, ok bool) {
	if len(l3) < ipv4HeaderLen {
		return 0, false
	}
	switch l3[0] >> 4 {
	case 4:
		n = int(binary.BigEndian.Uint16(l3[2:]))
		return n, n >= ipv4HeaderLen
	case 6:
		if len(l3) < ipv6HeaderLen {
			return 0, false
		}
		// A jumbogram has 0 here. It cannot be a fragment (RFC 2675).
		n = int(binary.BigEndian.Uint16(l3[4:]))
		return n + ipv6HeaderLen, n > 0
	}
	return 0, false
}
