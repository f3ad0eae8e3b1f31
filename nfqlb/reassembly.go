// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "encoding/binary"

// When have all fragments of a packet been seen? RFC 815 keeps a list of the
// holes that are left; no bytes are put together here. Knowing it frees the
// packet's entry at once and not at its TTL.

// extent is what part of its packet a fragment carries, in bytes.
type extent struct {
	first, end int // end is the byte behind it
	final      bool
}

// extentOf reads it from a fragment's headers; the payload may be cut. It is
// not ok if l3 is no fragment, or one without payload.
func extentOf(l3 []byte) (x extent, ok bool) {
	length, ok := packetLength(l3)
	if !ok {
		return x, false
	}
	if l3[0]>>4 == 4 {
		frag := binary.BigEndian.Uint16(l3[6:])
		x.first = int(frag&0x1fff) * 8
		x.end = x.first + length - int(l3[0]&0xf)*4
		x.final = frag&0x2000 == 0
		return x, frag&0x3fff != 0 && x.end > x.first
	}
	proto, off := l3[6], ipv6HeaderLen
	for len(l3) >= off+ipv6ExtLen {
		switch proto {
		case extHopByHop, extRouting, extDstOpts:
			proto, off = l3[off], off+(int(l3[off+1])+1)*8
		case extFragment:
			frag := binary.BigEndian.Uint16(l3[off+2:])
			x.first = int(frag &^ 7)
			x.end = x.first + length - off - ipv6ExtLen
			x.final = frag&1 == 0
			return x, x.end > x.first
		default:
			return x, false
		}
	}
	return x, false
}

// maxHoles is enough for fragments of 1500 bytes of any packet in any order.
// A packet that has more is not followed any further.
const maxHoles = 24

// holes are the missing parts; end -1 is the unknown end of the packet.
type holes struct {
	n    int8 // -1: not followed any more
	list [maxHoles]struct{ first, end int32 }
}

func (h *holes) reset() {
	h.n = 1
	h.list[0].first, h.list[0].end = 0, openEnd
}

// openEnd is above every end: offsets have 16 bits, and so have lengths.
const openEnd = 1 << 20

// fill takes x out of the holes and says whether none is left.
func (h *holes) fill(x extent) bool {
	if h.n < 0 {
		return false
	}
	old := *h
	h.n = 0
	for _, hole := range old.list[:old.n] {
		if int32(x.end) <= hole.first && !x.final || int32(x.first) >= hole.end {
			h.add(hole.first, hole.end)
			continue
		}
		if hole.first < int32(x.first) {
			h.add(hole.first, int32(x.first))
		}
		if int32(x.end) < hole.end && !x.final {
			h.add(max(hole.first, int32(x.end)), hole.end)
		}
	}
	return h.n == 0
}

func (h *holes) add(first, end int32) {
	if h.n < 0 || int(h.n) == maxHoles {
		h.n = -1
		return
	}
	h.list[h.n].first, h.list[h.n].end = first, end
	h.n++
}

// holePool has memory for so many packets at a time; others live until their
// TTL.
type holePool struct {
	all  []holes
	free []int32
}

func newHolePool(n int) holePool {
	p := holePool{all: make([]holes, n), free: make([]int32, n)}
	for i := range p.free {
		p.free[i] = int32(i)
	}
	return p
}

func (p *holePool) take() int32 {
	n := len(p.free)
	if n == 0 {
		return none
	}
	i := p.free[n-1]
	p.free = p.free[:n-1]
	p.all[i].reset()
	return i
}

func (p *holePool) release(i int32) {
	if i != none {
		p.free = append(p.free, i)
	}
}

func (p *holePool) fill(i int32, x extent) bool { return p.all[i].fill(x) }
