// SPDX-License-Identifier: Apache-2.0

// The packets that there are many of, written without a look at each length twice.

package pcapng

import "unsafe"

// usual writes p's block if p has no options at all, or what nearly all packets of a
// recording have: a number, one comment and one custom option, none too long, and
// perhaps flags. Else, or if the buffer has no room, it writes nothing and returns
// false: AppendPacket writes such a block, and says what is wrong with it.
//
// The block's length is worked out first, and so is that the buffer has as much: what
// is stored behind that needs no check of its own.
func (w *Writer) usual(p *Packet) bool {
	data := len(p.Data)
	if data > int(p.OrigLen) || data > MaxBlock/2 || p.HasQueue || p.DropCount != 0 || len(p.Verdicts) != 0 {
		return false
	}
	start, n := len(w.buf), packetHead+aligned(data)+4
	if len(p.Custom)+len(p.Comments) == 0 && !p.HasID && p.Flags == 0 {
		if n > cap(w.buf)-start {
			return false
		}
		w.buf = w.buf[:start+n]
		at := w.packetHead(start, n, p)
		put32(at, uint32(n))
		return true
	}
	if len(p.Custom) != 1 || len(p.Comments) != 1 || !p.HasID {
		return false
	}
	comment, custom := p.Comments[0], &p.Custom[0]
	if uint(len(comment)-1) >= 0xffff || len(custom.Data) > 0xffff-4 {
		return false
	}
	n += 12 + 4 + aligned(len(comment)) + 8 + aligned(len(custom.Data)) + 4
	if p.Flags != 0 {
		n += 8
	}
	if n > cap(w.buf)-start {
		return false
	}
	w.buf = w.buf[:start+n]
	at := w.packetHead(start, n, p)
	if p.Flags != 0 {
		put64(at, headOf(epbFlags, 4)|uint64(p.Flags)<<32)
		at = unsafe.Add(at, 8)
	}
	put32(at, uint32(headOf(epbPacketID, 8)))
	put64(unsafe.Add(at, 4), p.PacketID)
	put32(unsafe.Add(at, 12), uint32(headOf(optComment, len(comment))))
	at = putBytes(unsafe.Add(at, 16), comment)
	code := uint16(optCustom)
	if custom.Keep {
		code = optCustomKeep
	}
	put64(at, headOf(code, 4+len(custom.Data))|uint64(custom.PEN)<<32)
	at = putBytes(unsafe.Add(at, 8), custom.Data)
	put64(at, optEnd|uint64(n)<<32)
	return true
}

// packetHead writes the first part of a block of n bytes, the packet's bytes with
// it, and returns where that ends.
func (w *Writer) packetHead(start, n int, p *Packet) unsafe.Pointer {
	at := unsafe.Pointer(&w.buf[start])
	put64(at, uint64(BlockPacket)|uint64(n)<<32)
	put64(unsafe.Add(at, 8), uint64(uint32(p.Interface))|p.Time>>32<<32)
	put64(unsafe.Add(at, 16), p.Time&0xffffffff|uint64(len(p.Data))<<32)
	put32(unsafe.Add(at, 24), p.OrigLen)
	return putBytes(unsafe.Add(at, packetHead), p.Data)
}

// putBytes copies data to at, with zeros up to a multiple of four, and returns where they
// end.
func putBytes(at unsafe.Pointer, data []byte) unsafe.Pointer {
	end := unsafe.Add(at, aligned(len(data)))
	if len(data)&3 != 0 {
		put32(unsafe.Add(end, -4), 0)
	}
	copy(unsafe.Slice((*byte)(at), len(data)), data)
	return end
}

// The file is little endian, as every machine is that waymark is built for.
func put32(at unsafe.Pointer, v uint32) { *(*uint32)(at) = v }

func put64(at unsafe.Pointer, v uint64) { *(*uint64)(at) = v }
